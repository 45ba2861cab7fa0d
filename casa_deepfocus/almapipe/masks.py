"""The second stage's work: the sources found, drawn on the grid of each image that hif_makeimages is to make.

Nothing is imaged for it: the grid follows from the pending target and from the channels that the pipeline will find.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from astropy import units as u
from astropy.coordinates import SkyCoord
from astropy.table import Table
from astropy.wcs import WCS
from casatools import coordsys, image
from numpy.typing import NDArray

from casa_deepfocus.almapipe import interfaces
from casa_deepfocus.almapipe.record import Record
from casa_deepfocus.casa import imaging
from casa_deepfocus.casa.plan import CONTINUUM
from casa_deepfocus.core.geometry import covariance_to_shape, shape_to_covariance
from casa_deepfocus.errors import DataError, DeepFocusError

REACH = 1.0
"""Semi-axes of a source's ellipse in FWHMs as seen through the beam: 94 % of a Gaussian's flux, as in the regions."""

SKIPPED = 1.5
"""Channels between the lower edge of the common band and the middle of the first one imaged: hif_makeimages leaves
one out at each end, and a frequency is that of a channel's middle."""

ENDS = 2
"""Channels that it leaves out in all."""

FREQUENCY = re.compile(r"\s*([0-9.eE+-]+)\s*(GHz|MHz|kHz|Hz)\s*")
TO_HZ = {"GHz": 1e9, "MHz": 1e6, "kHz": 1e3, "Hz": 1.0}
TO_ARCSEC = imaging.TO_ARCSEC


@dataclass(frozen=True)
class Grid:
    """The grid of an image to be made.

    Attributes
    ----------
    nx, ny : int
    cell : float [arcsec]
    centre : SkyCoord
        Of pixel (nx // 2, ny // 2).
    frame : str
        CASA's name of its directions: ICRS, J2000.
    start, width : float [Hz]
        Middle of the first channel, and channel width, LSRK; 0 of an image of all frequencies.
    nchan : int
    """

    nx: int
    ny: int
    cell: float
    centre: SkyCoord
    frame: str = "ICRS"
    start: float = 0.0
    width: float = 0.0
    nchan: int = 1

    def wcs(self) -> WCS:
        """SIN projection, as tclean makes it, zero-based."""
        wcs = WCS(naxis=2)
        wcs.wcs.ctype = ["RA---SIN", "DEC--SIN"]
        wcs.wcs.crval = [self.centre.ra.deg, self.centre.dec.deg]
        wcs.wcs.crpix = [self.nx // 2 + 1, self.ny // 2 + 1]
        wcs.wcs.cdelt = [-self.cell / 3600.0, self.cell / 3600.0]
        wcs.wcs.cunit = ["deg", "deg"]
        return wcs

    def channels(self, low: float, high: float) -> slice:
        """Channels that a range of frequency [Hz] touches; empty outside."""
        ends = sorted((value - self.start) / self.width for value in (low, high))
        first, last = math.ceil(ends[0] - 0.5 + 1e-6), math.floor(ends[1] + 0.5 - 1e-6)
        return slice(min(max(first, 0), self.nchan), max(min(last + 1, self.nchan), 0))


def grid_of(target: Mapping[str, Any]) -> Grid:
    """The grid of a pending target of hif_makeimages.

    Raises
    ------
    DataError
        Where it is not known before the image is made; the message says why.
    """
    nx, ny = _sizes(target.get("imsize"))
    cell = _cell(target.get("cell"))
    text = str(target.get("phasecenter") or "")
    centre = imaging.direction(text)
    if centre is None:
        raise DataError(f"its centre, {text!r}, is no fixed direction")
    frame = text.split()[0].upper()
    if target["specmode"] != "cube":
        return Grid(nx, ny, cell, centre, frame)
    if target.get("width") not in (None, ""):
        raise DataError(f"the width of its channels is given ({target['width']}): hif_makeimages may change it")
    low, high, width = interfaces.channel_range(target)
    if width <= 0:
        raise DataError("the measurement sets have no channels in common")
    nbin = int(target.get("nbin") or -1)
    width *= nbin if nbin > 0 else 1
    bins = nbin if nbin > 0 else 1
    start = low + SKIPPED * width / bins
    if target.get("start") not in (None, ""):
        start = _frequency(target["start"])
    most = int((high - start) / width + 1e-6)
    nchan = int(target.get("nchan") or -1)
    nchan = min(nchan, most) if nchan > 0 else min(math.floor((high - low) / width - ENDS + 0.5), most)
    if nchan < 1:
        raise DataError("no channel is left of it")
    return Grid(nx, ny, cell, centre, frame, start, width, nchan)


def _sizes(value: Any) -> tuple[int, int]:
    items = [int(v) for v in (value if isinstance(value, (list, tuple)) else [value]) if v]
    if not items or min(items) < 1:
        raise DataError(f"its imsize, {value!r}, is not set")
    return items[0], items[-1]


def _cell(value: Any) -> float:
    items = value if isinstance(value, (list, tuple)) else [value]
    sizes = []
    for item in items:
        match = imaging.CELL.fullmatch(str(item or ""))
        if not match:
            raise DataError(f"its cell, {value!r}, is not set")
        sizes.append(float(match[1]) * TO_ARCSEC[match[2]])
    if not sizes:
        raise DataError(f"its cell, {value!r}, is not set")
    if max(sizes) - min(sizes) > 1e-6 * sizes[0]:
        raise DataError(f"its pixels, {value!r}, are not square")
    return sizes[0]


def _frequency(text: Any) -> float:
    match = FREQUENCY.fullmatch(str(text))
    if not match:
        raise DataError(f"its first channel, {text!r}, is no frequency")
    return float(match[1]) * TO_HZ[match[2]]


def draw(grid: Grid, table: Table, *, lines: bool) -> NDArray[np.bool_]:
    """Where the sources of a catalogue are on a grid.

    Parameters
    ----------
    grid : Grid
    table : Table
        As `core.catalogue.build` makes it.
    lines : bool
        Whether the data have their continuum subtracted: sources are drawn over the channels of their lines only,
        those without a line are not.

    Returns
    -------
    (nchan, ny, nx) bool
    """
    out = np.zeros((grid.nchan, grid.ny, grid.nx), dtype=bool)
    wcs = grid.wcs()
    beam = shape_to_covariance(
        float(table.meta["beam_maj"]), float(table.meta["beam_min"]), float(table.meta["beam_pa"])
    )
    frame = {"FK5": "fk5", "FK4": "fk4"}.get(str(table.meta.get("radesys", "ICRS")).upper(), "icrs")
    own = "fk5" if grid.frame == "J2000" else "fk4" if grid.frame == "B1950" else "icrs"
    centre = grid.centre.transform_to(own)
    wcs.wcs.crval = [centre.ra.deg, centre.dec.deg]
    for row in table:
        has_line = bool(np.isfinite(row["chan"]))
        if lines and not has_line:
            continue
        place = SkyCoord(float(row["ra"]), float(row["dec"]), unit="deg", frame=frame).transform_to(own)
        where = _ellipse(grid, wcs, place, _observed(row, beam))
        if where is None:
            continue
        (ys, xs), shape = where
        channels = slice(0, grid.nchan)
        if grid.width and lines:
            first, step = float(table.meta["freq0"]), float(table.meta["chan_width"])
            channels = grid.channels(
                first + step * (float(row["chan0"]) - 0.5), first + step * (float(row["chan1"]) + 0.5)
            )
        out[channels, ys, xs] |= shape
    return out


def _observed(row: Any, beam: NDArray[np.float64]) -> tuple[float, float, float]:
    """FWHM major, minor [arcsec] and position angle [deg] on the sky, through the beam."""
    maj, minor, pa = (float(np.nan_to_num(row[name])) for name in ("fwhm_maj", "fwhm_min", "pa"))
    a, b, angle = covariance_to_shape(shape_to_covariance(maj, minor, pa) + beam)
    return float(a), float(b), float(angle)


def _ellipse(
    grid: Grid, wcs: WCS, place: SkyCoord, shape: tuple[float, float, float]
) -> tuple[tuple[slice, slice], NDArray[np.bool_]] | None:
    """A box of pixels, and which of them lie in a source's ellipse; None outside of the image."""
    major, minor, pa = (value * factor for value, factor in zip(shape, (REACH, REACH, 1.0), strict=True))
    x, y = (float(v) for v in wcs.wcs_world2pix([[place.ra.deg, place.dec.deg]], 0)[0])
    if not (math.isfinite(x) and math.isfinite(y)):
        return None
    reach = major / grid.cell + 1.0
    x0, x1 = max(0, math.floor(x - reach)), min(grid.nx, math.ceil(x + reach) + 1)
    y0, y1 = max(0, math.floor(y - reach)), min(grid.ny, math.ceil(y + reach) + 1)
    if x0 >= x1 or y0 >= y1:
        return None
    ys, xs = np.mgrid[y0:y1, x0:x1]
    ra, dec = wcs.wcs_pix2world(xs, ys, 0)
    sky = SkyCoord(ra, dec, unit="deg", frame=place.frame.name).transform_to(place.skyoffset_frame())
    east, north = sky.lon.wrap_at(180 * u.deg).to_value(u.arcsec), sky.lat.to_value(u.arcsec)
    sine, cosine = math.sin(math.radians(pa)), math.cos(math.radians(pa))
    along, across = east * sine + north * cosine, east * cosine - north * sine
    return (slice(y0, y1), slice(x0, x1)), (along / major) ** 2 + (across / minor) ** 2 <= 1.0


def write(path: str, mask: NDArray[np.bool_], grid: Grid) -> None:
    """Write a mask as a CASA image of one polarisation. hif_makeimages gives it the coordinates of its own image."""
    cs, ia = coordsys(), image()
    try:
        own = cs.newcoordsys(direction=True, spectral=True, stokes="I")
        own.setreferencecode({"J2000": "J2000", "B1950": "B1950"}.get(grid.frame, "ICRS"), type="direction")
        place = grid.centre.transform_to({"J2000": "fk5", "B1950": "fk4"}.get(grid.frame, "icrs"))
        step = math.radians(grid.cell / 3600.0)
        own.setunits(["rad", "rad"], type="direction")
        own.setreferencevalue([place.ra.rad, place.dec.rad], type="direction")
        own.setreferencepixel([grid.nx // 2, grid.ny // 2], type="direction")
        own.setincrement([-step, step], type="direction")
        own.setreferencecode("LSRK", type="spectral")
        if grid.width:
            own.setreferencevalue(grid.start, type="spectral")
            own.setincrement(grid.width, type="spectral")
            own.setreferencepixel(0.0, type="spectral")
        ia.fromshape(path, [grid.nx, grid.ny, 1, grid.nchan], csys=own.torecord(), overwrite=False, log=False)
        ia.putchunk(np.ascontiguousarray(mask.transpose(2, 1, 0)[:, :, None, :]).astype(float))
        own.done()
    except RuntimeError as exc:
        raise DataError(f"{path} cannot be written ({exc})") from exc
    finally:
        ia.done()
        cs.done()


def run(pending: Sequence[Any], record: Record, output_dir: str, stage: int) -> list[dict[str, Any]]:
    """A mask for each target of hif_makeimages in which sources were found.

    Parameters
    ----------
    pending : sequence of the pipeline's CleanTarget
    record : Record
        Of the first stage.
    output_dir : str
        Where masks are written: hif_makeimages looks for their bare names there.
    stage : int

    Returns
    -------
    list of dict
        For each target: index, field, spw, specmode, mask (name; '' where it is left to the pipeline), start ('' but
        of cubes), nchan, pixels, reason.
    """
    return [_one(index, target, record, output_dir, stage) for index, target in enumerate(pending)]


def _one(index: int, target: Any, record: Record, output_dir: str, stage: int) -> dict[str, Any]:
    about: dict[str, Any] = {
        "index": index, "field": interfaces.bare(target["field"]), "spw": str(target["spw"]),
        "specmode": str(target["specmode"]), "imagename": str(target.get("imagename") or ""),
        "mask": "", "start": "", "nchan": 0, "pixels": 0, "share": 0.0, "reason": "", "failed": False,
    }  # fmt: skip
    try:
        if target["intent"] != "TARGET" or str(target.get("stokes") or "I") != "I":
            return about | {"reason": "no science target in Stokes I"}
        if target.get("mask") not in (None, ""):
            return about | {"reason": f"has a mask already, {target['mask']}"}
        if interfaces.moving(target):
            return about | {"reason": "follows an ephemeris: the catalogue holds for one time only"}
        paths = _catalogues(about, record)
        if not paths:
            return about | {"reason": "was not searched"}
        grid = grid_of(target)
        lines = about["specmode"] == "cube" and "_CONTLINE_" not in f"_{target.get('datatype') or ''}_"
        mask = np.zeros((grid.nchan, grid.ny, grid.nx), dtype=bool)
        for path in paths:
            table = Table.read(os.path.join(output_dir, path))
            if about["specmode"] != "cube":
                table = table[np.isfinite(np.asarray(table["continuum"], dtype=float))]
            mask |= draw(grid, table, lines=lines)
        if not mask.any():
            return about | {"reason": "no source in it"}
        name = _free_name(output_dir, f"s{stage}.deepfocus.{_plain(about)}")
        write(os.path.join(output_dir, name), mask, grid)
    except (DeepFocusError, OSError, KeyError) as exc:
        return about | {"reason": " ".join(str(exc).split()), "failed": True}
    about |= {"mask": name, "pixels": int(mask.sum()), "share": float(mask.mean())}
    return about | ({"start": f"{grid.start / 1e9:.10f}GHz", "nchan": grid.nchan} if grid.width else {})


def _catalogues(about: Mapping[str, Any], record: Record) -> list[str]:
    """Catalogues of what an image will show: its window's; of an image of all frequencies that of the continuum."""
    mine = [
        cube for cube in record["cubes"]
        if cube["catalogue"] and about["field"] in (*cube["fields"], *cube["sources"])
    ]  # fmt: skip
    spws = about["spw"].split(",")
    own = [cube["catalogue"] for cube in mine if cube["spw"] in spws]
    continua = [cube["catalogue"] for cube in mine if cube["label"] == CONTINUUM]
    if about["specmode"] == "cube":
        return own
    return continua or own


def _plain(about: Mapping[str, Any]) -> str:
    text = f"{about['field']}.spw{about['spw'].replace(',', '_')}.{about['specmode']}"
    return re.sub(r"[^A-Za-z0-9._+-]", "_", text)


def _free_name(folder: str, stem: str) -> str:
    """A name under which nothing stands."""
    number, name = 1, f"{stem}.mask"
    while os.path.lexists(os.path.join(folder, name)):
        number, name = number + 1, f"{stem}.{number + 1}.mask"
    return name


def give(pending: Sequence[Any], made: Sequence[Mapping[str, Any]]) -> int:
    """Set the masks of pending targets, and the channels that they hold for; returns how many were set."""
    count = 0
    for about in made:
        if not about["mask"] or about["index"] >= len(pending):
            continue
        target = pending[about["index"]]
        if interfaces.bare(target["field"]) != about["field"] or str(target["spw"]) != about["spw"]:
            continue
        target["mask"] = about["mask"]
        if about["start"]:
            target["start"], target["nchan"] = about["start"], about["nchan"]
        count += 1
    return count
