"""The products of a run with CASA: those of `products.writing`, component list, and images on CASA's grids.

They are written into a run's work folder; `staging` brings them into place.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from astropy.table import Table
from casatools import componentlist, measures
from numpy.typing import NDArray

from casa_deepfocus.casa import guarded, images, space
from casa_deepfocus.casa.grids import Template
from casa_deepfocus.core.cube import C_KMS, Cube
from casa_deepfocus.core.geometry import GAUSSIAN_LINE
from casa_deepfocus.pipeline.residual import residual
from casa_deepfocus.products import cutouts as cutout_files
from casa_deepfocus.products import fitsimages, regions, report, tables, velocity, writing
from casa_deepfocus.products.modelparts import parts_of
from casa_deepfocus.products.moments import moments

if TYPE_CHECKING:
    from casa_deepfocus.pipeline.state import Result

NOBODY = report.Run(())
"""What is said of how products were made where nobody has told."""

POINT = 1e-3
"""A component whose major axis is below this fraction of the beam is written as a point."""

STEEPEST = 10.0
"""A continuum with a spectral index beyond this is not measured but noise, and written as flat."""


def write_all(
    folder: Path,
    base: str,
    result: Result,
    cube: Cube,
    template: Template,
    run: report.Run = NOBODY,
    *,
    cutouts: bool = False,
) -> None:
    """Write every product into a folder.

    Parameters
    ----------
    folder : Path
    base : str
        Name that the endings are added to.
    result : Result
    cube : Cube
    template : Template
        The grid of the input image, for the images.
    run : report.Run
        What was asked; its call is a line of the images' history.
    cutouts : bool
        Whether each source gets a file of its own.

    Raises
    ------
    ProductError
        Where the disk is full.
    """
    tables.complete(result.catalogue, cube.frame, cube.restfreq)
    convention = velocity.convention_told(result.catalogue.meta["velocity"])
    left, lines = residual(cube, result), moments(cube, result, convention)
    writing.write_texts(folder, base, result, cube, run, left, lines)
    if cutouts:
        space.require(str(folder), cutout_files.size(result, cube), "the cutouts")
        writing.write_cutouts(folder, base, result, cube, run, left)
    maps = [] if lines is None else [(f"{base}.{ending}", image) for ending, image, _ in lines.images]
    guarded.call(
        _write_folders, str(folder / base), parts_of(result, cube), _header(cube), np.packbits(result.mask),
        result.mask.shape, result.probability, fitsimages.noise_image(result), cube.data, left, template,
        maps, "" if lines is None else lines.unit, (run.call,) if run.call else (), folder=str(folder),
    )  # fmt: skip


def _write_folders(
    prefix: str,
    table: Table,
    cube: Cube,
    bits: NDArray[np.uint8],
    shape: tuple[int, int, int],
    probability: NDArray[np.float32],
    noise: NDArray[np.float32],
    data: NDArray[np.float32],
    left: NDArray[np.float32],
    template: Template,
    maps: list[tuple[str, NDArray[np.float32]]],
    unit: str,
    history: tuple[str, ...],
) -> None:
    """Write the products that are CASA's own; the mask comes as bits, an eighth of its size."""
    folder = Path(prefix).parent
    for name, image in maps:
        dimension = f"Jy/beam.{unit}" if name.endswith(".mom0") else unit
        images.write_sky(str(folder / name), image, template, unit=dimension, history=history)
    # A component needs a frequency, and an image without a spectral axis has none.
    if len(table) and np.isfinite(cube.freq).all():
        write_components(f"{prefix}.cl", table, cube)
    mask = np.unpackbits(bits, count=int(np.prod(shape))).reshape(shape)
    images.write_planes(f"{prefix}.mask", mask, template, history=history)
    images.write_sky(f"{prefix}.prob", probability, template, history=history)
    images.write_sky(f"{prefix}.noise", noise, template, unit="Jy/beam", history=history)
    images.write_planes(f"{prefix}.residual", left, template, unit="Jy/beam", history=history)
    images.write_planes(f"{prefix}.model", data - left, template, unit="Jy/beam", history=history)


def _header(cube: Cube) -> Cube:
    """A cube without its pixels."""
    pixel = np.ones((1, 1, 1), np.float32)
    return replace(cube, data=np.ones((cube.nchan, 1, 1), np.float32), psf=pixel, pb=pixel)


def write_components(name: str, table: Table, cube: Cube) -> None:
    """Write a CASA component list: a tabular spectrum for each line, a spectral index for each continuum.

    The line is sampled at the cube's channels, and is zero at the band's edges and beyond, because
    `ft` extrapolates a table; its flux is that of its brightest channel, at that channel's frequency.

    Parameters
    ----------
    name : str
    table : Table
        Gaussians with the catalogue's columns (`products.modelparts`).
    cube : Cube
        Its pixels are not looked at.
    """
    cl, me = componentlist(), measures()
    freq = np.sort(cube.freq)
    width = abs(cube.chan_width) or 1e-3 * float(freq[0])
    middle = float(np.median(freq))
    spectral_frame = cube.frame or "LSRK"
    beam = cube.beam_on_sky()[0]
    try:
        for row in table:
            place = {
                "dir": me.direction(
                    regions.coordinate_name(cube), f"{float(row['ra'])!r}deg", f"{float(row['dec'])!r}deg"
                ),
                "label": str(row["name"]),
            } | _shape(row, beam)
            if tables.has_line(row) and np.isfinite(row["line_flux"]) and row["line_flux"] != 0:
                profile = line_profile(freq, row)
                brightest = int(np.argmax(np.abs(profile)))
                peak, at = float(profile[brightest]), float(freq[brightest])
                ends = [freq[0] - width, *freq, freq[-1] + width]
                _add(cl, peak, f"{spectral_frame} {at!r}Hz", place, spectrumtype="constant")
                cl.setspectrum(
                    cl.length() - 1, type="tabular", tabularfreqs=np.array(ends),
                    tabularflux=np.array([0.0, *profile, 0.0]), tabularframe=spectral_frame,
                )  # fmt: skip
            if row["continuum"] > 0:
                index = _spectral_index(row, middle)
                kind = {"spectrumtype": "spectral index", "index": index} if index else {"spectrumtype": "constant"}
                _add(cl, float(row["continuum"]), f"{spectral_frame} {middle!r}Hz", place, **kind)
        cl.rename(name)
    finally:
        cl.done()
        me.done()


def line_profile(freq: NDArray[np.float64], row: Any) -> NDArray[np.float64]:
    """(nfreq,) flux density [Jy] of a source's Gaussian line, corrected for the primary beam."""
    fwhm = float(row["line_fwhm"]) / C_KMS * float(row["freq"])
    peak = float(row["line_flux"]) / (GAUSSIAN_LINE * float(row["line_fwhm"]))
    return peak * np.exp(-4.0 * np.log(2.0) * ((freq - float(row["freq"])) / fwhm) ** 2)


def _add(cl: Any, flux: float, freq: str, place: dict[str, Any], **spectrum: Any) -> None:
    cl.addcomponent(flux=[flux, 0.0, 0.0, 0.0], fluxunit="Jy", polarization="Stokes", freq=freq, **place, **spectrum)


def _shape(row: Any, beam: float) -> dict[str, str]:
    maj, minor, pa = (float(np.nan_to_num(row[name])) for name in ("fwhm_maj", "fwhm_min", "pa"))
    if maj < POINT * beam or "unresolved" in str(row["flags"]).split(","):
        return {"shape": "point"}
    # CASA refuses an axis of zero length.
    minor = min(max(minor, POINT * beam), maj)
    return {"shape": "gaussian", "majoraxis": f"{maj!r}arcsec", "minoraxis": f"{minor!r}arcsec",
            "positionangle": f"{pa!r}deg"}  # fmt: skip


def _spectral_index(row: Any, freq: float) -> float:
    """Slope in flux per GHz as an index at `freq` [Hz]; 0 where there is none that means anything."""
    slope = float(np.nan_to_num(row["continuum_slope"]))
    index = slope * freq / 1e9 / float(row["continuum"])
    return index if abs(index) < STEEPEST else 0.0
