"""The fields that the corpus' images are made of: exact dirty images with a known truth, and FITS headers for them."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from astropy.coordinates import SkyCoord
from astropy.io import fits
from astropy.wcs import WCS, FITSFixedWarning
from astropy.wcs.utils import pixel_to_skycoord

from benchmarks.faults.case import Expected
from casa_deepfocus.core.cube import C_KMS, Cube
from casa_deepfocus.core.geometry import GAUSSIAN_LINE
from sim.coverage import Coverage, Grid
from sim.cube import simulate_cube
from sim.sky import Source

COVERAGE = Coverage(duration=1200.0, integration=120.0)
NPIX, CELL, FREQ, WIDTH, NCHAN = 96, 0.16, 230e9, 40e6, 24
NOISE = 2e-4
"""Noise of the continuum image [Jy/beam]; a channel of the cube has four times as much."""

SOURCES = (
    Source(30.0, 60.0, 9.0, 4.0, 30.0, continuum=0.04),
    Source(66.0, 30.0, 0.0, 0.0, 0.0, continuum=0.02),
    Source(68.0, 70.0, 3.0, 2.0, 100.0, continuum=0.012),
)
LINES = (
    replace(SOURCES[0], line=0.06, chan=9.0, line_fwhm=4.0),
    replace(SOURCES[1], continuum=0.0, line=0.05, chan=15.0, line_fwhm=3.0),
    SOURCES[2],
)
RA, DEC = 150.0, COVERAGE.dec


@dataclass(frozen=True)
class Field:
    """A simulated image or cube and the sources in it."""

    cube: Cube
    sources: tuple[Source, ...]

    @property
    def beam(self) -> float:
        """Beam [arcsec]."""
        return self.cube.beam_pixels() * self.cube.cell


@lru_cache(maxsize=1)
def images() -> tuple[Field, Field]:
    """The continuum image and the cube of the corpus."""
    out = []
    for sources, nchan, noise in ((SOURCES, 1, NOISE), (LINES, NCHAN, 4 * NOISE)):
        grid = Grid(npix=NPIX, cell=CELL, nchan=nchan, freq0=FREQ, chan_width=WIDTH)
        cube = simulate_cube(sources, COVERAGE, grid, noise, np.random.default_rng(5), ra=RA, pblimit=0.0)
        out.append(Field(cube, sources))
    return out[0], out[1]


def image() -> Field:
    """The continuum image: 96 x 96 pixels, three sources of SNR 60 to 200."""
    return images()[0]


def cube() -> Field:
    """The cube: 24 channels; a source of line and continuum, one of a line, one of continuum."""
    return images()[1]


def header(field: Field, **cards: Any) -> fits.Header:
    """A plain header of a field: SIN, ICRS, one beam, FREQ; `cards` replace its own, None takes one out."""
    cube = field.cube
    ny, nx = cube.shape
    beam = np.median(cube.beams, axis=0)
    own: dict[str, Any] = {
        "CTYPE1": "RA---SIN", "CTYPE2": "DEC--SIN", "CUNIT1": "deg", "CUNIT2": "deg", "CRVAL1": RA, "CRVAL2": DEC,
        "CRPIX1": nx // 2 + 1.0, "CRPIX2": ny // 2 + 1.0, "CDELT1": -cube.cell / 3600, "CDELT2": cube.cell / 3600,
        "RADESYS": "ICRS", "BUNIT": "Jy/beam",
        "BMAJ": beam[0] / 3600, "BMIN": beam[1] / 3600, "BPA": beam[2],
    }  # fmt: skip
    if cube.nchan > 1:
        own |= spectral(field)
    out = fits.Header()
    for key, value in (own | cards).items():
        if value is not None:
            out[key] = value
    return out


def spectral(field: Field) -> dict[str, Any]:
    """The cards of a plain frequency axis."""
    return {"CTYPE3": "FREQ", "CUNIT3": "Hz", "CRPIX3": 1.0, "CRVAL3": float(field.cube.freq[0]),
            "CDELT3": float(field.cube.chan_width), "SPECSYS": "LSRK", "RESTFRQ": FREQ}  # fmt: skip


def pixels(field: Field, kind: str = "data") -> np.ndarray:
    """Pixels of a field's image, psf or pb as a FITS file has them: two axes for an image, three for a cube."""
    array = np.asarray(getattr(field.cube, kind), dtype=np.float32)
    return array[0] if field.cube.nchan == 1 else array


def write(path: Path | str, data: np.ndarray, cards: fits.Header, **options: Any) -> Path:
    """Write a FITS image; odd headers are written as they are."""
    hdu = fits.PrimaryHDU(np.asarray(data))
    for card in cards.cards:
        hdu.header.append(card)
    hdu.writeto(path, output_verify="ignore", **options)
    return Path(path)


def write_field(
    folder: Path,
    field: Field,
    name: str = "x",
    *,
    cards: Mapping[str, Any] | None = None,
    kinds: Sequence[str] = ("data", "psf", "pb"),
    change: Callable[[np.ndarray], np.ndarray] | None = None,
) -> fits.Header:
    """Write name.fits, name.psf.fits and name.pb.fits; returns the image's header.

    `cards` (of the sky and the spectral axis) go into all of them, as one imager would do it.
    """
    main = header(field, **(cards or {}))
    for kind in kinds:
        data, own = pixels(field, kind), main.copy()
        if kind != "data":
            own["BUNIT"] = ""
            for axis in (1, 2):
                own[f"CRPIX{axis}"] += data.shape[-axis] // 2 - field.cube.shape[2 - axis] // 2
        elif change is not None:
            data = change(data.copy())
        write(folder / (f"{name}.fits" if kind == "data" else f"{name}.{kind}.fits"), data, own)
    return main


def truth(field: Field, cards: fits.Header, *, pb: bool = True) -> tuple[Expected, ...]:
    """The sources on the sky, by astropy's reading of a header; apparent fluxes where the beam is not corrected for."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FITSFixedWarning)
        wcs = WCS(cards).celestial
    out = []
    for source in field.sources:
        place, angle = on_sky(wcs, source)
        response = 1.0 if pb else float(field.cube.pb[0, round(source.y), round(source.x)])
        has_line = source.line != 0
        freq = field.cube.chan_to_freq(source.chan) if has_line else float("nan")
        width = abs(field.cube.chan_width) / freq * C_KMS if has_line else 0.0
        out.append(
            Expected(
                ra=place.ra.deg,
                dec=place.dec.deg,
                continuum=source.continuum * response,
                freq=freq,
                line_flux=source.line * source.line_fwhm * GAUSSIAN_LINE * width * response if has_line else 0.0,
                pa=angle if source.fwhm_maj > 2 * source.fwhm_min else float("nan"),
            )
        )
    return tuple(out)


def on_sky(wcs: WCS, source: Source) -> tuple[SkyCoord, float]:
    """Place (ICRS) and position angle [deg] of a source whose own angle is that of the pixels.

    The angle is that of a short step along the major axis, in the frame of the header.
    """
    place = pixel_to_skycoord(source.x, source.y, wcs)
    angle, step = np.radians(source.pa), 0.5
    end = pixel_to_skycoord(source.x - step * np.sin(angle), source.y + step * np.cos(angle), wcs)
    return place.icrs, float(place.position_angle(end).deg % 180.0)
