"""One simulated field as files that other finders read."""

from __future__ import annotations

import pickle
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from astropy.io import fits
from numpy.typing import NDArray

from casa_deepfocus.core.cube import Cube
from casa_deepfocus.core.noise import channel_noise, robust_rms
from casa_deepfocus.pipeline.blobs import line_cube

WINDOW = 8
"""[chan] Width of the line images that finders of two dimensions get; they overlap by half."""


@dataclass(frozen=True)
class Plane:
    """An image for finders of two dimensions; chan0, chan1 inclusive, `rms` [Jy/beam]."""

    path: Path
    chan0: int
    chan1: int
    line: bool
    rms: float


@dataclass(frozen=True)
class Field:
    """A field and its files.

    Attributes
    ----------
    folder : Path
        dirty.fits (all there is), line.fits (continuum subtracted), psf.fits (of the field's size), cube.pkl
    cube : Cube
    line : (nchan, ny, nx) float32 [Jy/beam], continuum subtracted
    sigma : (nchan,) [Jy/beam]
    planes : tuple of Plane, the image of the whole band and the line images
    """

    folder: Path
    cube: Cube
    line: NDArray[np.float32]
    sigma: NDArray[np.float64]
    planes: tuple[Plane, ...]

    @property
    def beam(self) -> tuple[float, float, float]:
        """FWHM major, minor [arcsec], position angle [deg] at the middle of the band."""
        maj, minor, pa = self.cube.beams[self.cube.nchan // 2]
        return float(maj), float(minor), float(pa)

    def kms(self) -> float:
        """Width of the middle channel [km/s]."""
        return float(abs(self.cube.chan_width_kms(float(self.cube.freq[self.cube.nchan // 2]))))

    def pb_at(self, x: float, y: float, chan: float = np.nan) -> float:
        """Primary beam at a pixel, in the middle of the band when there is no channel."""
        channel = int(np.clip(np.rint(chan), 0, len(self.cube.pb) - 1)) if np.isfinite(chan) else len(self.cube.pb) // 2
        ny, nx = self.cube.pb.shape[1:]
        row, column = int(np.clip(np.rint(y), 0, ny - 1)), int(np.clip(np.rint(x), 0, nx - 1))
        return max(float(np.nan_to_num(self.cube.pb[channel, row, column])), 1e-3)


def write_fits(path: Path, data: NDArray, cube: Cube, chan0: int = 0, step: int = 1, unit: str = "Jy/beam") -> None:
    """Write planes (n, ny, nx), the first at channel `chan0`, as FITS with axes x, y, frequency, Stokes."""
    header = cube.wcs.to_header() if cube.wcs is not None else fits.Header()
    maj, minor, pa = cube.beams[cube.nchan // 2]
    cards: dict[str, Any] = {
        "WCSAXES": 4, "CTYPE3": "FREQ", "CUNIT3": "Hz", "CRPIX3": 1.0, "CRVAL3": float(cube.freq[chan0]),
        "CDELT3": float(cube.chan_width * step), "CTYPE4": "STOKES", "CRPIX4": 1.0, "CRVAL4": 1.0, "CDELT4": 1.0,
        "SPECSYS": cube.frame, "RESTFRQ": float(cube.restfreq), "BUNIT": unit,
        "BMAJ": float(maj) / 3600.0, "BMIN": float(minor) / 3600.0, "BPA": float(pa),
    }  # fmt: skip
    for name, value in cards.items():
        header[name] = value
    fits.writeto(path, np.asarray(data, dtype=np.float32)[None], header, overwrite=True)


def write_field(folder: Path, cube: Cube) -> Field:
    """Write a field's files.

    Parameters
    ----------
    folder : Path, made when it is not there
    cube : Cube
    """
    folder.mkdir(parents=True, exist_ok=True)
    sigma = channel_noise(cube.data)
    line, _ = line_cube(cube.data, sigma)
    write_fits(folder / "dirty.fits", cube.data, cube)
    write_fits(folder / "line.fits", line, cube)
    ny, nx = cube.shape
    py, px = (n // 2 - m // 2 for n, m in zip(cube.psf.shape[1:], (ny, nx), strict=True))
    write_fits(folder / "psf.fits", cube.psf[:, py : py + ny, px : px + nx], cube, unit="")
    with (folder / "cube.pkl").open("wb") as stream:
        pickle.dump(cube, stream)
    return Field(folder, cube, line, sigma, _planes(folder, cube, line))


def _planes(folder: Path, cube: Cube, line: NDArray[np.float32]) -> tuple[Plane, ...]:
    nchan = cube.nchan
    width = min(WINDOW, nchan)
    starts = sorted({*range(0, nchan - width, max(1, width // 2)), nchan - width})
    spans = [(0, nchan - 1, False), *((start, start + width - 1, True) for start in starts)]
    made = []
    for number, (chan0, chan1, is_line) in enumerate(spans):
        image = (line if is_line else cube.data)[chan0 : chan1 + 1].mean(axis=0)
        rms = robust_rms(image[np.isfinite(image)])
        path = folder / f"plane{number:03d}.fits"
        write_fits(path, image[None], cube, (chan0 + chan1) // 2, chan1 - chan0 + 1)
        # Two axes are what these programs are made for.
        with fits.open(path) as units:
            header, data = units[0].header, units[0].data[0, 0]
        for card in (
            "WCSAXES",
            *(f"{key}{axis}" for key in ("CTYPE", "CUNIT", "CRPIX", "CRVAL", "CDELT") for axis in (3, 4)),
        ):
            header.remove(card, ignore_missing=True)
        header["RESTFRQ"] = header["FREQ"] = float(cube.freq[(chan0 + chan1) // 2])
        fits.writeto(path, data, header, overwrite=True)
        made.append(Plane(path, chan0, chan1, is_line, float(rms)))
    return tuple(made)
