"""Cubes as FITS: dirty, psf and pb of one field in a folder, and back into a `Cube`.

The headers are those that CASA's exportfits would write: frequency axis with its frame and rest
frequency, SIN projection, and one beam per channel in a table (CASAMBM). They carry no date of
writing, so the same cube makes the same bytes.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from astropy.io import fits

from casa_deepfocus.core.cube import Cube
from casa_deepfocus.errors import ProductError
from casa_deepfocus.products.fitsimages import beam_table, cube_header
from casa_deepfocus.reading import cube as reader
from casa_deepfocus.reading.grid import inspect

PRODUCTS = ("dirty", "psf", "pb")
"""The images of a field; each is a file of that name with the ending .fits."""


def write_cube(cube: Cube, folder: Path, products: Sequence[str] = PRODUCTS) -> None:
    """Write ``dirty.fits``, ``psf.fits`` and ``pb.fits`` of a cube.

    The dirty cube carries CASA's table of one beam per channel (CASAMBM). Blank pixels and flagged
    channels are NaN.

    Parameters
    ----------
    cube : Cube
    folder : Path, made here
    products : which of `PRODUCTS`

    Raises
    ------
    ProductError
        When the folder exists already.
    """
    try:
        folder.mkdir(parents=True)
    except FileExistsError as error:
        raise ProductError(f"{folder} exists; remove it or choose another folder") from error
    arrays = {"dirty": (cube.data, "Jy/beam"), "psf": (cube.psf, ""), "pb": (cube.pb, "")}
    for name in products:
        array, bunit = arrays[name]
        header = cube_header(cube, (array.shape[1], array.shape[2]), bunit)
        if name == "dirty":
            header["CASAMBM"] = True
        units = fits.HDUList([fits.PrimaryHDU(np.asarray(array, dtype=np.float32), header)])
        if name == "dirty":
            units.append(beam_table(cube))
        units.writeto(folder / f"{name}.fits")


def file_bytes(shape: tuple[int, int, int]) -> int:
    """About the size [byte] of a FITS image of float32 with header and beam table, from above."""
    nchan, ny, nx = shape
    return 4 * nchan * ny * nx + 20 * nchan + 6 * 2880


def read_cube(path: Path | str, *, psf: Path | str | None = None, pb: Path | str | None = None) -> Cube:
    """Read a dirty FITS image with its PSF and primary beam: `casa_deepfocus.reading.cube.read_cube`.

    Parameters
    ----------
    path : a folder that `write_cube` filled, or a FITS image as the task takes it
    psf, pb : FITS images that belong to it; where None, ``psf.fits`` and ``pb.fits`` beside ``dirty.fits``, else found
        by their names

    Returns
    -------
    Cube

    Raises
    ------
    DataError, ParameterError
        Where an image cannot be used, or they do not fit each other.
    """
    dirty = Path(path)
    dirty = dirty / "dirty.fits" if dirty.is_dir() else dirty
    own = {kind: dirty.with_name(f"{kind}.fits") for kind in ("psf", "pb")} if dirty.name == "dirty.fits" else {}
    given = {"psf": psf, "pb": pb}
    names = {
        kind: str(given[kind] if given[kind] is not None else own[kind] if kind in own and own[kind].is_file() else "")
        for kind in given
    }
    return reader.read_cube(str(dirty), names["psf"], names["pb"], inspect=inspect)[0]
