"""The grid of an image: its axes, units and coordinates, without its pixels.

CASA's image tool opens CASA and FITS images alike, so everything here holds for both.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
from astropy.wcs import WCS
from casatools import coordsys, image
from numpy.typing import NDArray

from casa_deepfocus.errors import DataError

ARCSEC = float(np.degrees(1.0) * 3600.0)
"""Arcseconds in a radian."""

UNITS = {"": 1.0, "jy/beam": 1.0, "jybeam-1": 1.0, "mjy/beam": 1e-3, "mjybeam-1": 1e-3, "ujy/beam": 1e-6}
"""Brightness units that are read, in Jy/beam."""


@dataclass(frozen=True)
class Template:
    """What is needed to write an image on the grid of one that was read.

    Attributes
    ----------
    csys : dict
        The coordinate system, as the coordsys tool records it.
    shape : tuple of int
        Pixels along CASA's axes, in CASA's order.
    x, y : int
        Which of these are right ascension and declination.
    spectral, stokes : int or None
        Which are frequency and Stokes; None where the image has no such axis.
    name : str
        The image it was read from.
    unit : str
        Its brightness unit.
    """

    csys: dict[str, Any]
    shape: tuple[int, ...]
    x: int
    y: int
    spectral: int | None
    stokes: int | None
    name: str
    unit: str

    @property
    def nchan(self) -> int:
        """Number of channels; 1 without a spectral axis."""
        return 1 if self.spectral is None else self.shape[self.spectral]


@contextmanager
def opened(name: str) -> Iterator[Any]:
    """An image tool attached to a CASA or FITS image, closed afterwards.

    Raises
    ------
    DataError
        Where CASA cannot read it.
    """
    ia = image()
    try:
        try:
            ok = ia.open(str(name))
        except RuntimeError as exc:
            raise DataError(f"{name!r} cannot be read as a CASA or FITS image ({_first_line(exc)})") from exc
        if not ok:
            raise DataError(f"{name!r} cannot be read as a CASA or FITS image")
        yield ia
    finally:
        ia.done()


def inspect(name: str) -> Template:
    """The grid of an image, without its pixels.

    Raises
    ------
    DataError
        Where the axes are not those of a dirty image: see `docs/products.md`.
    """
    with opened(name) as ia:
        cs = ia.coordsys()
        try:
            record = cs.torecord()
        finally:
            cs.done()
        shape = tuple(int(n) for n in ia.shape())
        unit = str(ia.brightnessunit())
    axes = _axes(record)
    if "direction" not in axes:
        raise DataError(f"{name!r} has no sky axes (right ascension and declination)")
    x, y = axes["direction"]
    if x < 0 or y < 0:
        raise DataError(f"{name!r} has only one sky axis: give an image, not a position-velocity slice")
    spectral, stokes = (axes.get(kind, [-1])[0] for kind in ("spectral", "stokes"))
    known = {x, y, spectral, stokes}
    extra = [n for axis, n in enumerate(shape) if axis not in known and n > 1]
    if extra:
        raise DataError(f"{name!r} has a further axis of {extra[0]} pixels; extract one plane with imsubimage")
    return Template(
        csys=record,
        shape=shape,
        x=x,
        y=y,
        spectral=spectral if spectral >= 0 else None,
        stokes=stokes if stokes >= 0 else None,
        name=str(name),
        unit=unit,
    )


def check_usable(template: Template) -> None:
    """See that an image has a unit, sky axes, pixels and a Stokes plane that the core can work with.

    Raises
    ------
    DataError
        Saying what stands in the way and which CASA task removes it.
    """
    unit_scale(template)
    stokes_plane(template)
    direction = coordinate(template.csys, "direction")
    name = template.name
    if str(direction["system"]) not in ("ICRS", "J2000", "B1950"):
        raise DataError(f"{name!r} is in {direction['system']} coordinates: regrid it to ICRS with imregrid")
    dx, dy = (float(value) for value in np.asarray(direction["cdelt"]))
    if abs(abs(dx) - abs(dy)) > 1e-3 * abs(dy):
        raise DataError(
            f"{name!r} has pixels of {abs(dx) * ARCSEC:.4g} x {abs(dy) * ARCSEC:.4g} arcsec; "
            "they must be square: regrid it with imregrid"
        )
    pc = np.asarray(direction["pc"], dtype=float)
    if dx * pc[0, 0] > 0 or dy * pc[1, 1] < 0 or abs(pc[0, 1]) > 0.01 or abs(pc[1, 0]) > 0.01:
        raise DataError(f"{name!r} is rotated or mirrored on the sky; bring north up, east left with imregrid")


def unit_scale(template: Template) -> float:
    key = template.unit.strip().lower().replace(" ", "").replace(".", "")
    if key not in UNITS:
        raise DataError(
            f"{template.name!r} is in {template.unit!r}; an image in Jy/beam is needed (see imhead, immath)"
        )
    return UNITS[key]


def stokes_plane(template: Template) -> int:
    if template.stokes is None or template.shape[template.stokes] == 1:
        return 0
    names = [str(name) for name in np.atleast_1d(coordinate(template.csys, "stokes")["stokes"])]
    if "I" not in names:
        raise DataError(f"{template.name!r} holds Stokes {names} and no I: extract one plane with imsubimage(stokes=)")
    return names.index("I")


def cell_size(template: Template) -> float:
    """Pixel size [arcsec]."""
    direction = coordinate(template.csys, "direction")
    unit = ARCSEC if str(direction["units"][0]) == "rad" else 3600.0
    return abs(float(np.asarray(direction["cdelt"])[1])) * unit


def frequencies(template: Template) -> tuple[NDArray[np.float64], str, float]:
    """Channel centres [Hz] in the image's native frame, that frame, and the rest frequency [Hz]."""
    if template.spectral is None:
        return np.full(1, np.nan), "", 0.0
    spectral = coordinate(template.csys, "spectral")
    frame = str(spectral["system"])
    cs = coordsys()
    try:
        cs.fromrecord(template.csys)
        cs.setconversiontype(spectral=frame)
        reference = np.asarray(cs.referencepixel()["numeric"], dtype=float)
        world_axis = int(np.asarray(template.csys[f"worldmap{index_of(template.csys, 'spectral')}"])[0])
        pixels = np.repeat(reference[:, None], template.nchan, axis=1)
        pixels[template.spectral] = np.arange(template.nchan)
        freq = np.asarray(cs.toworldmany(pixels)["numeric"], dtype=float)[world_axis]
        unit = str(np.atleast_1d(cs.units())[world_axis])
    finally:
        cs.done()
    if unit != "Hz":
        raise DataError(f"{template.name!r} has a spectral axis in {unit!r}; one in Hz is needed")
    step = np.diff(freq)
    if len(step) > 1 and not np.allclose(step, step.mean(), rtol=1e-3):
        raise DataError(f"{template.name!r} has irregular channels: regrid it with imregrid")
    return freq, frame, float(spectral.get("restfreq", 0.0))


def celestial_wcs(template: Template) -> WCS:
    """The sky coordinates of an image as a two-axis astropy WCS, for zero-based (x, y) pixels."""
    direction = coordinate(template.csys, "direction")
    system = str(direction["system"])
    to_deg = np.degrees(1.0) if str(direction["units"][0]) == "rad" else 1.0
    projection = str(direction["projection"])
    wcs = WCS(naxis=2)
    wcs.wcs.ctype = [f"RA---{projection}", f"DEC--{projection}"]
    wcs.wcs.cunit = ["deg", "deg"]
    wcs.wcs.crval = np.asarray(direction["crval"]) * to_deg
    wcs.wcs.cdelt = np.asarray(direction["cdelt"]) * to_deg
    wcs.wcs.crpix = np.asarray(direction["crpix"]) + 1.0
    wcs.wcs.pc = np.asarray(direction["pc"])
    wcs.wcs.lonpole, wcs.wcs.latpole = float(direction["longpole"]), float(direction["latpole"])
    parameters = np.atleast_1d(direction.get("projection_parameters", []))
    if projection in ("SIN", "ZEA", "TAN") and np.any(parameters):
        wcs.wcs.set_pv([(2, i + 1, float(value)) for i, value in enumerate(parameters)])
    if system == "ICRS":
        wcs.wcs.radesys = "ICRS"
    else:
        wcs.wcs.radesys, wcs.wcs.equinox = ("FK4", 1950.0) if system.startswith("B1950") else ("FK5", 2000.0)
    wcs.wcs.set()
    return wcs


def coordinate(record: dict[str, Any], kind: str) -> dict[str, Any]:
    return record[f"{kind}{index_of(record, kind)}"]


def index_of(record: dict[str, Any], kind: str) -> int:
    for key in record:
        if key.startswith(kind) and key[len(kind) :].isdigit():
            return int(key[len(kind) :])
    raise DataError(f"the image has no {kind} axis")


def _axes(record: dict[str, Any]) -> dict[str, list[int]]:
    """Pixel axes of each kind of coordinate; -1 where an axis was removed."""
    axes: dict[str, list[int]] = {}
    for key in record:
        kind = key.rstrip("0123456789")
        if kind in ("direction", "spectral", "stokes") and kind != key:
            axes[kind] = [int(axis) for axis in np.atleast_1d(record[f"pixelmap{key[len(kind) :]}"])]
    return axes


def _first_line(exc: Exception) -> str:
    return str(exc).strip().splitlines()[0] if str(exc).strip() else type(exc).__name__
