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
from astropy.wcs import WCS

from casa_deepfocus.core.cube import Cube
from casa_deepfocus.errors import ProductError
from casa_deepfocus.reading import cube as reader
from casa_deepfocus.reading.grid import inspect

PRODUCTS = ("dirty", "psf", "pb")
"""The images of a field; each is a file of that name with the ending .fits."""

RADIO_VELOCITY = 256
"""VELREF's flag for radio velocities; the frame's code is added to it (AIPS, as CASA writes it)."""

FRAME_CODES = {"LSRK": 1, "BARY": 2, "TOPO": 3}
CASA_FRAMES = {"LSRK": "LSRK", "BARY": "BARYCENT", "TOPO": "TOPOCENT", "GEO": "GEOCENTR", "LSRD": "LSRD"}
"""SPECSYS of a frame as CASA names it."""


def cube_header(cube: Cube, shape: tuple[int, int], bunit: str) -> fits.Header:
    """FITS header of a cube with axes (frequency, y, x), its image centred on the cube's.

    Parameters
    ----------
    cube : Cube
    shape : (ny, nx), the cube's or the PSF's
    bunit : str
    """
    celestial = cube.wcs if cube.wcs is not None else WCS(naxis=2)
    header = celestial.to_header()
    header["WCSAXES"] = 3
    for axis, mine, ours in ((1, shape[1], cube.shape[1]), (2, shape[0], cube.shape[0])):
        header[f"CRPIX{axis}"] += mine // 2 - ours // 2
    # One channel has no width that a cube knows, but a header with a step of zero cannot be read.
    step = cube.chan_width or float(cube.freq[0])
    cards = {
        "CTYPE3": "FREQ", "CUNIT3": "Hz", "CRPIX3": 1.0, "CRVAL3": float(cube.freq[0]),
        "CDELT3": step, "SPECSYS": CASA_FRAMES.get(cube.frame, cube.frame), "RESTFRQ": float(cube.restfreq),
        "BUNIT": bunit,
    }  # fmt: skip
    if cube.frame in FRAME_CODES:
        cards["VELREF"] = RADIO_VELOCITY + FRAME_CODES[cube.frame]
    beam = cube.beams[cube.nchan // 2]
    if np.isfinite(beam).all():
        cards |= {"BMAJ": float(beam[0]) / 3600.0, "BMIN": float(beam[1]) / 3600.0, "BPA": float(beam[2])}
    # A configuration such as alma.cycle9.3 belongs to an observatory that CASA knows by its first part.
    telescope = cube.meta.get("telescope", "")
    cards |= {"TELESCOP": telescope.split(".")[0].upper(), "INSTRUME": telescope} if telescope else {}
    for keyword, key in (("OBJECT", "object"), ("OBSERVER", "observer"), ("DATE-OBS", "date")):
        if cube.meta.get(key):
            cards[keyword] = cube.meta[key]
    for name, value in cards.items():
        header[name] = value
    return header


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
            units.append(_beam_table(cube))
        units.writeto(folder / f"{name}.fits")


def _beam_table(cube: Cube) -> fits.BinTableHDU:
    number = np.arange(cube.nchan, dtype=np.int32)
    # As tclean does it: a channel without data has a beam of size zero.
    beams = np.where(np.isfinite(cube.beams).all(axis=1, keepdims=True), cube.beams, 0.0)
    columns = [
        fits.Column("BMAJ", "1E", "arcsec", array=beams[:, 0]),
        fits.Column("BMIN", "1E", "arcsec", array=beams[:, 1]),
        fits.Column("BPA", "1E", "deg", array=beams[:, 2]),
        fits.Column("CHAN", "1J", array=number),
        fits.Column("POL", "1J", array=np.zeros_like(number)),
    ]
    table = fits.BinTableHDU.from_columns(columns, name="BEAMS")
    table.header["NCHAN"], table.header["NPOL"] = cube.nchan, 1
    return table


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
