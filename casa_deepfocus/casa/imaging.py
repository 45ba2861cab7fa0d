"""The dirty cube of a measurement set: tclean without a single CLEAN iteration.

The PSF has to be known out to twice the field. Robust and uniform weights depend on the size of
the image (a PSF imaged at twice the size differs by 4 % of its peak at robust 0.5, and by 6e-4
at natural weighting because of the gridding), so the PSF of one image size does not belong to the
dirty image of another. Everything is therefore imaged once at twice the field; the dirty image and
the primary beam are cut to the field that was asked for, the PSF is kept whole.
"""

from __future__ import annotations

import math
import os
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from casatasks import tclean
from casatools import ms as mstool
from casatools import regionmanager, table

from casa_deepfocus.casa.grids import opened
from casa_deepfocus.casa.images import Log
from casa_deepfocus.casa.inputs import Request, selection
from casa_deepfocus.casa.memory import check_memory
from casa_deepfocus.errors import DataError, ParameterError

C = 299792458.0
BEAM_FACTOR = 0.574
"""Beam over wavelength / 80th percentile of the baselines (ALMA Technical Handbook, chapter 7)."""

PIXELS_PER_BEAM = 5.0
LARGEST = 4096
"""Largest field that is chosen without being asked for [pixel]."""

CELL = re.compile(r"\s*([0-9.eE+-]+)\s*(mas|arcsec|arcmin|deg|rad|)\s*")
TO_ARCSEC = {"": 1.0, "mas": 1e-3, "arcsec": 1.0, "arcmin": 60.0, "deg": 3600.0, "rad": math.degrees(1.0) * 3600.0}


@dataclass(frozen=True)
class Plan:
    """The grid of the dirty image: the field asked for, and the pixel.

    Attributes
    ----------
    nx, ny : int
        Pixels of the field.
    cell : float [arcsec]
    """

    nx: int
    ny: int
    cell: float


def make_images(request: Request, folder: str, log: Log) -> str:
    """Image the measurement sets of a request.

    Parameters
    ----------
    request : Request
    folder : str
        Where the images go; exists already.
    log : callable (message, priority)

    Returns
    -------
    str
        Name of the dirty image, <folder>/dirty.image, with dirty.pb and dirty.psf beside it; the
        PSF covers twice the field.

    Raises
    ------
    ParameterError, DataError
    """
    grid = plan(request, log)
    nchan = 1 if request.tclean["specmode"] == "mfs" else int(request.tclean["nchan"])
    check_memory(nchan, grid.ny, grid.nx, (nchan, 2 * grid.ny, 2 * grid.nx), ", ".join(request.vis))
    wide, name = os.path.join(folder, "wide"), os.path.join(folder, "dirty")
    if str(request.tclean["gridder"]).startswith(("mosaic", "awp")):
        log(f"gridder={request.tclean['gridder']!r}: the PSF of the image's centre is used for the whole field", "WARN")
    passed = dict(request.tclean)
    if not str(passed["gridder"]).startswith(("mosaic", "awp")):
        # A negative limit leaves the dirty image unmasked where the primary beam is low: its pixels are
        # valid there, and sidelobes and sources at the limit cannot be fitted without them.
        passed["pblimit"] = -abs(float(passed["pblimit"]))
    passed.update(imsize=[2 * grid.nx, 2 * grid.ny], cell=[f"{grid.cell!r}arcsec"])
    log(f"tclean: {grid.nx} x {grid.ny} pixels of {grid.cell:.4g} arcsec, imaged at twice the field for the PSF")
    try:
        tclean(
            vis=list(request.vis), imagename=wide, niter=0, deconvolver="hogbom", restoration=True, pbcor=False,
            calcpsf=True, calcres=True, interactive=False, savemodel="none", **passed,
        )  # fmt: skip
    except Exception as exc:
        raise DataError(f"tclean could not image {', '.join(request.vis)}: {exc}") from exc
    for kind in ("image", "psf", "pb"):
        if not os.path.isdir(f"{wide}.{kind}"):
            raise DataError(f"tclean made no .{kind} of {', '.join(request.vis)}; the CASA log says why")
    for kind in ("image", "pb"):
        cut(f"{wide}.{kind}", f"{name}.{kind}", grid.nx, grid.ny)
    os.rename(f"{wide}.psf", f"{name}.psf")
    for entry in os.listdir(folder):
        if entry.startswith("wide."):
            shutil.rmtree(os.path.join(folder, entry), ignore_errors=True)
    return f"{name}.image"


def cut(source: str, target: str, nx: int, ny: int) -> None:
    """Copy the inner nx x ny pixels of an image; the centre of the field stays at (nx//2, ny//2)."""
    rg = regionmanager()
    try:
        with opened(source) as ia:
            shape = [int(n) for n in ia.shape()]
            x0, y0 = shape[0] // 2 - nx // 2, shape[1] // 2 - ny // 2
            blc = [x0, y0, *([0] * (len(shape) - 2))]
            trc = [x0 + nx - 1, y0 + ny - 1, *(n - 1 for n in shape[2:])]
            inner = ia.subimage(outfile=target, region=rg.box(blc, trc), dropdeg=False, overwrite=True)
            inner.done()
    finally:
        rg.done()


def plan(request: Request, log: Log) -> Plan:
    """Pixel and field of the dirty image: as given, else from the measurement sets.

    The pixel is a fifth of the beam, 0.574 wavelength / L80, L80 the 80th percentile of the
    selected baselines at the highest frequency. The field reaches to where the primary beam falls
    to pblimit (at most to 0.1) at the lowest frequency.
    """
    tclean_values = request.tclean
    imsize, cell = _imsize(tclean_values["imsize"]), _cell(tclean_values["cell"])
    if imsize and cell:
        return Plan(*imsize, cell)
    survey = [_survey(name, selection(tclean_values, i)) for i, name in enumerate(request.vis)]
    low, high = min(s["low"] for s in survey), max(s["high"] for s in survey)
    if not cell:
        baseline = float(np.percentile(np.concatenate([s["uvdist"] for s in survey]), 80))
        cell = _two_digits(BEAM_FACTOR * C / high / baseline * TO_ARCSEC["rad"] / PIXELS_PER_BEAM)
        log(f"cell: {cell:g} arcsec, a fifth of the beam of baselines of {baseline:.0f} m at {high / 1e9:.4g} GHz")
    if not imsize:
        diameter = min(s["diameter"] for s in survey)
        level = min(max(abs(float(tclean_values["pblimit"])), 0.1), 0.9)
        fwhm = 1.13 * C / low / diameter * TO_ARCSEC["rad"]
        wanted = fwhm * math.sqrt(math.log2(1.0 / level)) / cell
        side = _good_size(min(wanted, LARGEST))
        if wanted > LARGEST:
            log(f"imsize: {side} pixels; the primary beam would need {wanted:.0f}. Give imsize for more", "WARN")
        else:
            log(f"imsize: {side} pixels, the primary beam of {diameter:g} m antennas out to {level:g}")
        imsize = (side, side)
    return Plan(*imsize, cell)


def _imsize(value: Any) -> tuple[int, int] | None:
    items = [value] if isinstance(value, (int, np.integer)) else [int(v) for v in value or []]
    if not items or items == [-1]:
        return None
    if len(items) > 2 or min(items) < 16:
        raise ParameterError("imsize", value, "must be one or two numbers of at least 16", "For example imsize=360")
    return int(items[0]), int(items[-1])


def _cell(value: Any) -> float | None:
    """Pixel size [arcsec] from tclean's ways to write it."""
    items = value if isinstance(value, (list, tuple)) else [value]
    sizes: list[float] = []
    for item in items:
        if item in ("", None):
            continue
        match = CELL.fullmatch(str(item))
        if not match:
            raise ParameterError("cell", value, "is no angle", "For example cell='0.1arcsec'")
        sizes.append(abs(float(match[1])) * TO_ARCSEC[match[2]])
    if not sizes or sizes[0] == 0:
        return None
    if max(sizes) - min(sizes) > 1e-6 * sizes[0]:
        raise ParameterError("cell", value, "pixels must be square", "Give one number")
    return sizes[0]


def _two_digits(value: float) -> float:
    """Rounded down to two significant digits."""
    scale = 10.0 ** (math.floor(math.log10(value)) - 1)
    return float(f"{math.floor(value / scale) * scale:.2g}")


def _good_size(pixels: float) -> int:
    """The next even size with the prime factors 2, 3 and 5, at least 64."""
    size = max(64, math.ceil(pixels))
    size += size % 2
    while not _smooth(size):
        size += 2
    return size


def _smooth(size: int) -> bool:
    for factor in (2, 3, 5):
        while size % factor == 0:
            size //= factor
    return size == 1


def _survey(name: str, chosen: Mapping[str, str]) -> dict[str, Any]:
    """Frequencies [Hz], dish diameter [m] and baselines [m] of a selection of a measurement set."""
    tool, tb = mstool(), table()
    try:
        tool.open(name)
        if chosen:
            tool.msselect(dict(chosen))
        picked = tool.msselectedindices()
        columns = tool.getdata(["uvdist", "flag_row", "data_desc_id"])
        uvdist = np.asarray(columns["uvdist"])
        good = ~np.asarray(columns["flag_row"], dtype=bool) & (uvdist > 0)
        used = np.unique(columns["data_desc_id"])
        tool.close()
        if not good.any():
            raise DataError(f"vis={name!r}: every selected visibility is flagged or an autocorrelation")
        tb.open(os.path.join(name, "DATA_DESCRIPTION"))
        windows = np.unique(tb.getcol("SPECTRAL_WINDOW_ID")[used])
        tb.close()
        channels = np.atleast_2d(picked.get("channel", []))
        freqs: list[float] = []
        tb.open(os.path.join(name, "SPECTRAL_WINDOW"))
        for window in windows:
            freq = np.asarray(tb.getcell("CHAN_FREQ", int(window)))
            rows = [row for row in channels if len(row) == 4 and row[0] == window]
            for row in rows or [[window, 0, len(freq) - 1, 1]]:
                freqs += [float(freq[int(row[1])]), float(freq[int(row[2])])]
        tb.close()
        tb.open(os.path.join(name, "ANTENNA"))
        diameter = float(np.min(tb.getcol("DISH_DIAMETER")))
    finally:
        tool.done()
        tb.close()
    return {"low": min(freqs), "high": max(freqs), "diameter": diameter, "uvdist": uvdist[good]}
