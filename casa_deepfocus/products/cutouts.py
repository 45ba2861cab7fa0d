"""Each source by itself as a FITS file: its pieces of the data, the model and the residual, and its spectrum."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from astropy.io import fits
from astropy.table import Row
from numpy.typing import NDArray

from casa_deepfocus.core.cube import Cube
from casa_deepfocus.pipeline.state import Result, SourceDetail
from casa_deepfocus.products import fitsimages, regions, velocity
from casa_deepfocus.products.marks import MAKER, SOFTWARE

ENDING = ".cutouts"
"""Of the folder."""

REACH, LEAST_REACH = 2.0, 3.0
"""Half width of a piece: in observed major FWHM, and at least in beams."""

IMAGES = 3
"""Cubes in a file."""

PIXEL, HEADERS = 4, 6 * 2880 + 40 * 80
"""Size of a pixel, and about that of a file's headers and rounding [byte]."""


def windows(result: Result, cube: Cube) -> list[tuple[slice, slice]]:
    """(y, x) slices of each source's piece."""
    out = []
    ny, nx = cube.shape
    for row in result.catalogue:
        maj, _, _ = regions.observed_pixel_shape(row, cube)
        half = int(np.ceil(max(REACH * maj, LEAST_REACH * cube.beam_pixels())))
        x, y = round(float(row["x"])), round(float(row["y"]))
        out.append((slice(max(0, y - half), min(ny, y + half + 1)), slice(max(0, x - half), min(nx, x + half + 1))))
    return out


def size(result: Result, cube: Cube) -> float:
    """What the files of all sources will have [byte]."""
    pixels = sum((y.stop - y.start) * (x.stop - x.start) for y, x in windows(result, cube))
    number = len(result.catalogue)
    return PIXEL * IMAGES * pixels * cube.nchan + number * (HEADERS + 2880 + 32 * cube.nchan)


def write(folder: Path, result: Result, cube: Cube, left: NDArray[np.float32], call: str = "") -> None:
    """Write a file <id>_<name>.fits for each source into a folder, which is made.

    Its extensions are DATA, MODEL and RESIDUAL, cubes [Jy/beam] as observed, and SPECTRUM, a table of the frequencies
    [Hz], velocities [km/s], fluxes and model [Jy] of the source with its fitted shape.

    Parameters
    ----------
    folder : Path
    result : Result, its catalogue completed
    cube : Cube
    left : (nchan, ny, nx) float32 [Jy/beam]
        The image without what was found.
    call : str
        For the history.
    """
    folder.mkdir()
    for row, detail, (rows, columns) in zip(result.catalogue, result.details, windows(result, cube), strict=True):
        first = fits.PrimaryHDU()
        first.header["ORIGIN"], first.header["CREATOR"] = MAKER, SOFTWARE
        first.header["OBJECT"] = fitsimages.plain(str(row["name"]))
        first.header["SOURCEID"] = (int(row["id"]), "id in the catalogue, the report and the regions")
        for key, name in (("SRC_RA", "ra"), ("SRC_DEC", "dec")):
            if np.isfinite(row[name]):
                first.header[key] = (float(row[name]), "[deg] as fitted")
        first.header["CHAN0"], first.header["CHAN1"] = int(row["chan0"]), int(row["chan1"])
        if call:
            first.header.add_history(fitsimages.plain(call))
        hdus: list[fits.PrimaryHDU | fits.ImageHDU | fits.BinTableHDU] = [first]
        data, rest = cube.data[:, rows, columns], left[:, rows, columns]
        header = fitsimages.header_of(cube, "Jy/beam")
        header["CRPIX1"] -= columns.start
        header["CRPIX2"] -= rows.start
        for name, pixels in (("DATA", data), ("MODEL", data - rest), ("RESIDUAL", rest)):
            shown = pixels if header["WCSAXES"] == 3 else pixels[0]
            hdus.append(fits.ImageHDU(np.asarray(shown, dtype=np.float32), header, name=name))
        hdus.append(_spectrum(detail, cube, str(row.table.meta.get("velocity", ""))))
        fits.HDUList(hdus).writeto(folder / file_name(row))


def file_name(row: Row) -> str:
    """The file of a source: its number, and of its name what every file system takes."""
    name = "".join(c if c.isascii() and (c.isalnum() or c in "+-_.") else "_" for c in str(row["name"]))
    return f"{int(row['id'])}_{name}.fits"


def _spectrum(detail: SourceDetail, cube: Cube, said: str) -> fits.BinTableHDU:
    convention = velocity.convention_told(said)
    columns = [
        fits.Column("freq", "1D", "Hz", array=cube.freq),
        fits.Column("velocity", "1D", "km/s", array=velocity.velocity(cube.freq, cube.restfreq, convention)),
        fits.Column("flux", "1E", "Jy", array=detail.spectrum),
        fits.Column("model", "1E", "Jy", array=detail.model),
    ]
    table = fits.BinTableHDU.from_columns(columns, name="SPECTRUM")
    table.header["SPECSYS"] = fitsimages.CASA_FRAMES.get(cube.frame, cube.frame)
    table.header["RESTFRQ"] = float(cube.restfreq)
    table.header["VELTYPE"] = fitsimages.plain(said) or "unknown"
    return table
