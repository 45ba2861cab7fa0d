"""Fields of the fast simulator as FITS files: dirty, psf and pb beside a truth table."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from astropy.io import fits
from astropy.table import Table, vstack
from astropy.wcs import WCS
from numpy.typing import NDArray

from casa_deepfocus.core.cube import Cube
from casa_deepfocus.errors import ProductError
from sim.cube import simulate
from sim.truth import write_truth


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
    beam = cube.beams[cube.nchan // 2]
    cards = {
        "CTYPE3": "FREQ", "CUNIT3": "Hz", "CRPIX3": 1.0, "CRVAL3": cube.freq[0], "CDELT3": cube.chan_width,
        "SPECSYS": cube.frame, "RESTFRQ": cube.restfreq, "BUNIT": bunit,
        "BMAJ": beam[0] / 3600.0, "BMIN": beam[1] / 3600.0, "BPA": beam[2],
    }  # fmt: skip
    for name, value in cards.items():
        header[name] = float(value) if not isinstance(value, str) else value
    return header


def write_cube(cube: Cube, folder: Path) -> None:
    """Write ``dirty.fits``, ``psf.fits`` and ``pb.fits`` of a cube.

    The dirty cube carries CASA's table of one beam per channel (CASAMBM).

    Raises
    ------
    ProductError
        When the folder exists already.
    """
    try:
        folder.mkdir(parents=True)
    except FileExistsError as error:
        raise ProductError(f"{folder} exists; remove it or choose another folder") from error
    parts: tuple[tuple[str, NDArray, str], ...] = (
        ("dirty", cube.data, "Jy/beam"),
        ("psf", cube.psf, ""),
        ("pb", cube.pb, ""),
    )
    for name, array, bunit in parts:
        header = cube_header(cube, array.shape[1:], bunit)
        units = fits.HDUList([fits.PrimaryHDU(array.astype(np.float32), header)])
        if name == "dirty":
            units[0].header["CASAMBM"] = True
            units.append(_beam_table(cube))
        units.writeto(folder / f"{name}.fits")


def _beam_table(cube: Cube) -> fits.BinTableHDU:
    number = np.arange(cube.nchan, dtype=np.int32)
    columns = [
        fits.Column("BMAJ", "1E", "arcsec", array=cube.beams[:, 0]),
        fits.Column("BMIN", "1E", "arcsec", array=cube.beams[:, 1]),
        fits.Column("BPA", "1E", "deg", array=cube.beams[:, 2]),
        fits.Column("CHAN", "1J", array=number),
        fits.Column("POL", "1J", array=np.zeros_like(number)),
    ]
    table = fits.BinTableHDU.from_columns(columns, name="BEAMS")
    table.header["NCHAN"], table.header["NPOL"] = cube.nchan, 1
    return table


def generate(preset: str, number: int, seed: int, out: Path, *, first: int = 0) -> int:
    """Write fields first .. first + number - 1 of a preset, and their truth in one table.

    Returns
    -------
    int : sources written

    Raises
    ------
    ProductError
        When one of the products exists already.
    """
    path = out / "truth.ecsv"
    if path.exists():
        raise ProductError(f"{path} exists; remove it or choose another folder")
    tables: list[Table] = []
    for index in range(first, first + number):
        cube, truth = simulate(preset, seed, index)
        write_cube(cube, out / f"{index:05d}")
        truth["field"] = np.full(len(truth), index)
        # Geometry differs between the fields of a preset, so it goes into columns.
        for name in ("beam_maj", "beam_min", "beam_pa", "cell", "nchan", "chan_width_kms"):
            truth[name] = np.full(len(truth), truth.meta.pop(name))
        tables.append(truth)
    table = vstack(tables, metadata_conflicts="silent")
    table.meta |= {"preset": preset, "seed": seed, "first": first, "empty_fields": sum(len(t) == 0 for t in tables)}
    write_truth(table, path)
    return len(table)
