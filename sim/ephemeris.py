"""Moving targets: where they are, and the ephemeris that goes into the FIELD table.

Their sources keep their places about them. They are at rest in LSRK, so that a line has the same frequency there and
in the frame of the source (tclean's 'cubesource'), in every execution.
"""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from astropy import constants
from astropy import units as u
from astropy.coordinates import SkyCoord
from numpy.typing import NDArray

from sim.archivesky import Target, on_sky
from sim.arrays import C_MS
from sim.casa_backend import casa_tool
from sim.execution import Execution

ROWS = 19
STEP = 20.0 / 1440.0
"""Rows of an ephemeris, and days between them: as importasdm writes them, over some hours about the execution."""

DISTANCE = 9.5
"""Distance [AU]; nothing depends on it."""


def moved(target: Target, days: float) -> Target:
    """A target with its sources where they are some days after their truth's time; itself when it does not move."""
    if not any(target.rate):
        return target
    ra, dec = _place(target, days)

    def along(places: NDArray) -> NDArray[np.float64]:
        return on_sky(ra, dec, 3600.0 * _offsets(target, places))

    places = along(np.array([[source.ra, source.dec] for source in target.sources]))
    sources = tuple(
        replace(source, ra=float(place[0]), dec=float(place[1]))
        for source, place in zip(target.sources, places, strict=True)
    )
    return replace(target, ra=ra, dec=dec, pointings=along(target.pointings), sources=sources)


def _offsets(target: Target, places: NDArray) -> NDArray[np.float64]:
    """(n, 2) offsets [deg] of places (n, 2) to the east and north of a target."""
    middle = SkyCoord(target.ra * u.deg, target.dec * u.deg)
    east, north = middle.spherical_offsets_to(SkyCoord(places[:, 0] * u.deg, places[:, 1] * u.deg))
    return np.stack([east.deg, north.deg], axis=1)


def _place(target: Target, days: float) -> tuple[float, float]:
    dec = target.dec + target.rate[1] * days * 24.0 / 3600.0
    return float(target.ra + target.rate[0] * days * 24.0 / 3600.0 / np.cos(np.deg2rad(target.dec))), float(dec)


def first_time(vis: Path, execution: Execution, number: int) -> float:
    """Time of the first integration on a target (its index) as the measurement set has it [MJD]."""
    with casa_tool("msmetadata", vis) as meta:
        return float(np.min(meta.timesforfield(int(execution.first_field[number])))) / 86400.0


def attach(vis: Path, execution: Execution, number: int, target: Target, epoch: float) -> None:
    """Give the fields of a moving target its ephemeris.

    Parameters
    ----------
    vis : Path, with all its data
    execution : Execution
    number : int, index of the target in it
    target : Target, where it is at `epoch` [MJD]
    """
    path = vis.parent / f"EPHEM0_{target.name.replace(' ', '_')}_{execution.start:.4f}.tab"
    _write_table(path, vis, execution, target, epoch)
    first, last = execution.first_field[number : number + 2]
    with casa_tool("table", vis / "FIELD", nomodify=False) as table:
        offsets = np.deg2rad(_offsets(target, target.pointings))
        for field, offset in zip(range(first, last), offsets, strict=True):
            # Seen from the place of the ephemeris.
            for name in ("PHASE_DIR", "DELAY_DIR", "REFERENCE_DIR"):
                table.putcell(name, field, offset[:, None])
    with casa_tool("ms", vis, nomodify=False) as ms:
        for field in range(first, last):
            ms.addephemeris(0, str(path), target.name.replace(" ", "_"), field)
    shutil.rmtree(path)


def _write_table(path: Path, vis: Path, execution: Execution, target: Target, epoch: float) -> None:
    first = np.floor(execution.start / STEP) * STEP - STEP * (ROWS // 3)
    times = first + STEP * np.arange(ROWS)
    places = np.array([_place(target, time - epoch) for time in times])
    with casa_tool("msmetadata", vis) as meta, casa_tool("measures") as me:
        site = meta.observatoryposition(0)
        speeds = [_speed(me, site, time, place) for time, place in zip(times, places, strict=True)]
    columns = {
        "MJD": (times, "d"), "RA": (places[:, 0], "deg"), "DEC": (places[:, 1], "deg"),
        "Rho": (np.full(ROWS, DISTANCE), "AU"), "RadVel": (np.array(speeds), "AU/d"),
    }  # fmt: skip
    description = {
        name: {"valueType": "double", "dataManagerType": "StandardStMan", "comment": ""} for name in columns
    }
    with casa_tool("table") as table:
        table.create(str(path), description, nrow=ROWS)
        for name, (values, unit) in columns.items():
            table.putcol(name, values)
            table.putcolkeyword(name, "QuantumUnits", np.array([unit]))
        for name, value in _keywords(target, times, site).items():
            table.putkeyword(name, value)
        table.putinfo({"type": "IERS", "subType": "", "readme": "simulated by casa_deepfocus"})


def _speed(me: Any, site: dict[str, Any], time: float, place: NDArray) -> float:
    """Speed [AU/d] away from the observatory of what is at rest in LSRK."""
    me.doframe(site)
    me.doframe(me.epoch("UTC", f"{float(time)!r}d"))
    me.doframe(me.direction("ICRS", f"{float(place[0])!r}deg", f"{float(place[1])!r}deg"))
    ratio = me.measure(me.frequency("LSRK", "1e11Hz"), "TOPO")["m0"]["value"] / 1e11
    # The relativistic Doppler shift, as CASA has it for frames.
    beta = (1.0 - ratio**2) / (1.0 + ratio**2)
    return float((beta * C_MS * u.m / u.s).to_value(constants.au / u.day))


def _keywords(target: Target, times: NDArray, site: dict[str, Any]) -> dict[str, Any]:
    longitude, latitude = (np.rad2deg(site[key]["value"]) for key in ("m0", "m1"))
    ends = {"earliest": times[0], "latest": times[-1]}
    epochs = {
        name: {"m0": {"unit": "d", "value": float(time)}, "refer": "UTC", "type": "epoch"}
        for name, time in ends.items()
    }
    return {
        "NAME": target.name, "MJD0": float(times[0] - STEP), "dMJD": STEP, "obsloc": "ALMA", "posrefsys": "ICRS",
        "GeoLong": float(longitude), "GeoLat": float(latitude), "GeoDist": 5.0, "VS_CREATE": "2026/01/01/00:00",
        "VS_DATE": "2026/01/01/00:00", "VS_TYPE": "Table of comet/planetary positions", "VS_VERSION": "0003.0001",
        **epochs,
    }  # fmt: skip
