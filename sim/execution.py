"""One execution of a scheduling block as a measurement set: what the ALMA archive delivers after calibration.

The sm tool makes rows and coordinates here; `almatables` fills in what ALMA's own software does, `archivevis` the data.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from casa_deepfocus.errors import DataError
from sim.archivesky import Target, Window
from sim.casa_backend import array_config, casa_tool

FIRST_DAY = 58900
"""Day of the first execution [MJD], a night at which the targets culminate at midnight."""

DAYS_BETWEEN = 9
"""Days from one execution to the next: TOPO changes against LSRK by 4 km/s."""

SIDEREAL = 1.00273790935
"""Sidereal time that passes in a unit of solar time."""

SLEW = 15.0
"""Time between two scans [s]."""

ELEVATION = 15.0
"""Data below this elevation are flagged [deg]."""

SEFD = 3500.0
"""System equivalent flux density of an antenna [Jy]: 2 k Tsys / (efficiency area) of 100 K, 0.7 and 113 m^2."""

SEFD_SCATTER = 0.15
"""Scatter of its logarithm from antenna to antenna and window to window."""

WVR_FREQ = (184.19e9, 185.25e9, 186.485e9, 188.51e9)
WVR_WIDTH = (0.16e9, 0.75e9, 1.25e9, 2.5e9)
"""Channels of ALMA's water-vapour radiometers [Hz]."""

@dataclass(frozen=True)
class Scan:
    """A scan: its target (an index), and the integrations of each of its pointings."""

    target: int
    integrations: int


@dataclass(frozen=True, eq=False)
class Execution:
    """An execution block.

    Attributes
    ----------
    number : int, from 0
    seed : int
    targets : tuple of Target, calibrators too
    windows : tuple of Window, by spectral window id; `wvr` adds one before them
    scans : tuple of Scan, in order
    array : str, configuration of casadata without ``.cfg``; antennas : int, how many of its antennas
    integration : float [s]
    hour_angle : float [hours], of the first science target in the middle
    missing : frozenset of (target, window) without rows
    flagged : frozenset of (target, window) whose rows are all flagged
    corrected : bool, whether there is a CORRECTED_DATA beside a DATA that is not calibrated
    wvr : bool, whether the rows of the water-vapour radiometers are there
    start : float [MJD, UTC]; NaN until `scheduled`
    """

    number: int
    seed: int
    targets: tuple[Target, ...]
    windows: tuple[Window, ...]
    scans: tuple[Scan, ...]
    array: str
    antennas: int
    integration: float
    hour_angle: float
    missing: frozenset[tuple[int, int]] = frozenset()
    flagged: frozenset[tuple[int, int]] = frozenset()
    corrected: bool = False
    wvr: bool = False
    start: float = np.nan

    @property
    def first_field(self) -> NDArray[np.int64]:
        """(ntarget + 1,) the number of each target's first field, and of all fields."""
        return np.cumsum([0, *(len(target.pointings) for target in self.targets)])

    @property
    def science(self) -> int:
        """Index of the first science target."""
        return next(n for n, target in enumerate(self.targets) if target.intent.startswith("OBSERVE"))

    def rng(self, *purpose: int) -> np.random.Generator:
        """Random numbers of a purpose; nothing that is left out changes those of the rest."""
        return np.random.default_rng([self.seed, self.number, *purpose])


def antenna_table(execution: Execution) -> dict[str, Any]:
    """Antennas, evenly taken from the configuration, as `simulator.setconfig` wants them.

    Raises
    ------
    DataError
        When the configuration has fewer.
    """
    config = array_config(execution.array)
    number = len(config["x"])
    if not 2 <= execution.antennas <= number:
        raise DataError(f"antennas={execution.antennas}: {execution.array} has {number}; choose 2 to {number}")
    chosen = np.linspace(0, number - 1, execution.antennas).round().astype(int)
    for name in ("x", "y", "z"):
        config[name] = config[name][chosen]
    for name in ("dishdiameter", "padname"):
        config[name] = [config[name][k] for k in chosen]
    return config | {"antname": [f"DA{count + 41}" for count in range(execution.antennas)]}


def make_rows(vis: Path, execution: Execution) -> list[tuple[int, int]]:
    """A measurement set with the rows of an execution as sm makes them; `almatables.fill` makes it ALMA's.

    Returns
    -------
    list of (scan, target) of every call of sm.observe, by which it numbers scans of its own
    """
    config = antenna_table(execution)
    with casa_tool("simulator") as sm, casa_tool("measures") as me:
        ratio = _doppler(execution, me, config["referencelocation"])
        sm.open(str(vis))
        sm.setconfig(**config)
        if execution.wvr:
            # The radiometers' channels are uneven: their frequencies come later.
            _set_window(sm, "wvr", WVR_FREQ[0], 1e9, 4, "XX")
        for number, window in enumerate(execution.windows):
            first = round(ratio * (window.freq - 0.5 * (window.nchan - 1) * window.width), -3)
            _set_window(sm, f"w{number}", first, window.width, window.nchan, "XX YY")
        sm.setfeed("perfect X Y")
        field = 0
        for target in execution.targets:
            for ra, dec in target.pointings:
                place = me.direction("ICRS", f"{float(ra)!r}deg", f"{float(dec)!r}deg")
                sm.setfield(sourcename=f"f{field}", sourcedirection=place)
                field += 1
        sm.setlimits(shadowlimit=1e-6, elevationlimit=f"{ELEVATION}deg")
        sm.settimes(
            integrationtime=f"{execution.integration!r}s", usehourangle=False,
            referencetime=me.epoch("UTC", f"{execution.start!r}d"),
        )  # fmt: skip
        return _observe(sm, execution)


def _set_window(sm: Any, name: str, freq: float, width: float, nchan: int, stokes: str) -> None:
    sm.setspwindow(
        spwname=name, freq=f"{freq!r}Hz", deltafreq=f"{width!r}Hz", freqresolution=f"{abs(width)!r}Hz",
        nchannels=nchan, refcode="TOPO", stokes=stokes,
    )  # fmt: skip


def scheduled(execution: Execution) -> Execution:
    """The same execution with its start, such that its middle is at its hour angle."""
    day = float(FIRST_DAY + DAYS_BETWEEN * execution.number)
    with casa_tool("measures") as me:
        me.doframe(antenna_table(execution)["referencelocation"])
        sidereal = me.measure(me.epoch("UTC", f"{day!r}d"), "LAST")["m0"]["value"] % 1.0 * 24.0
    wanted = execution.targets[execution.science].ra / 15.0 + execution.hour_angle
    hours = (wanted - sidereal) % 24.0 / SIDEREAL
    return replace(execution, start=day + hours / 24.0 - 0.5 * sum(_lengths(execution)) / 86400.0)


def first_seen(execution: Execution, target: int) -> float:
    """When the first scan of a target (its index) starts [MJD, UTC]."""
    before = next(number for number, scan in enumerate(execution.scans) if scan.target == target)
    return execution.start + sum(_lengths(execution)[:before]) / 86400.0


def _lengths(execution: Execution) -> list[float]:
    """Duration of every scan [s], with the slew after it."""
    return [
        scan.integrations * execution.integration * len(execution.targets[scan.target].pointings) + SLEW
        for scan in execution.scans
    ]


def _doppler(execution: Execution, me: Any, site: dict[str, Any]) -> float:
    """Observed frequency over that in LSRK, when and where the execution starts: set once, as ALMA does."""
    target = execution.targets[execution.science]
    me.doframe(me.epoch("UTC", f"{execution.start!r}d"))
    me.doframe(site)
    me.doframe(me.direction("ICRS", f"{target.ra!r}deg", f"{target.dec!r}deg"))
    return float(me.measure(me.frequency("LSRK", "1e11Hz"), "TOPO")["m0"]["value"] / 1e11)


def _observe(sm: Any, execution: Execution) -> list[tuple[int, int]]:
    """Make the rows; the (scan, target) of every call."""
    calls = []
    begin = 0.0
    for number, (scan, length) in enumerate(zip(execution.scans, _lengths(execution), strict=True)):
        first = execution.first_field[scan.target]
        stay = scan.integrations * execution.integration
        for pointing in range(len(execution.targets[scan.target].pointings)):
            times = {
                "starttime": f"{begin + stay * pointing!r}s", "stoptime": f"{begin + stay * (pointing + 1)!r}s",
            }  # fmt: skip
            if execution.wvr:
                sm.setauto(1.0)
                sm.observe(f"f{first + pointing}", "wvr", **times)
                calls.append((number, scan.target))
            sm.setauto(0.0)
            for window, made in enumerate(execution.windows):
                gone = {window, made.source} & {w for t, w in execution.missing if t == scan.target}
                if not gone:
                    sm.observe(f"f{first + pointing}", f"w{window}", **times)
                    calls.append((number, scan.target))
        begin += length
    return calls


def antenna_sefd(execution: Execution, window: int) -> NDArray[np.float64]:
    """(nant,) system equivalent flux densities [Jy]; a channel average has those of its window."""
    source = execution.windows[window].source
    number = window if source is None else source
    return SEFD * np.exp(SEFD_SCATTER * execution.rng(2, number).standard_normal(execution.antennas))


def looks(vis: Path, execution: Execution, nomodify: bool = True) -> Iterator[tuple[int, int, Any]]:
    """Target, window and rows (a table) of every pointing of every target in every window that has some."""
    with casa_tool("table", vis, nomodify=nomodify) as table:
        for target, first in enumerate(execution.first_field[:-1]):
            for window in range(len(execution.windows)):
                for pointing in range(len(execution.targets[target].pointings)):
                    with rows_of(table, first + pointing, window + execution.wvr) as rows:
                        if rows.nrows():
                            yield target, window, rows


@contextmanager
def rows_of(table: Any, field: int, description: int) -> Iterator[Any]:
    rows = table.query(f"FIELD_ID=={field} && DATA_DESC_ID=={description}")
    try:
        yield rows
    finally:
        rows.close()
