"""One execution of a scheduling block as a measurement set: what the ALMA archive delivers after calibration.

The sm tool makes rows and coordinates; intents, names, sources and schedule are filled in as ALMA's own software
does; visibilities are analytic (`casa_backend.add_model`), the noise follows the radiometer equation.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from casa_deepfocus.errors import DataError
from sim.archivesky import Target, Window
from sim.casa_backend import (
    Look,
    add_model,
    array_config,
    baseline_beam,
    casa_tool,
    component_visibilities,
    look_at,
)
from sim.skyfile import SkySource

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

WVR_SKY = (230.0, 160.0, 90.0, 60.0)
"""What they see on a dry night [K]."""

WVR_NAME = "WVR#NOMINAL"


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


def write_rows(vis: Path, execution: Execution) -> None:
    """The measurement set with all its tables, weights and flags; the data are zero."""
    config = antenna_table(execution)
    with casa_tool("simulator") as sm, casa_tool("measures") as me:
        start = _start(execution, me, config["referencelocation"])
        ratio = _doppler(execution, me, config["referencelocation"], start)
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
            referencetime=me.epoch("UTC", f"{start!r}d"),
        )  # fmt: skip
        calls = _observe(sm, execution)
    _fill_subtables(vis, execution, calls)
    _fill_main(vis, execution, calls)


def _set_window(sm: Any, name: str, freq: float, width: float, nchan: int, stokes: str) -> None:
    sm.setspwindow(
        spwname=name, freq=f"{freq!r}Hz", deltafreq=f"{width!r}Hz", freqresolution=f"{abs(width)!r}Hz",
        nchannels=nchan, refcode="TOPO", stokes=stokes,
    )  # fmt: skip


def _start(execution: Execution, me: Any, site: dict[str, Any]) -> float:
    """When the execution starts [MJD, UTC]."""
    day = float(FIRST_DAY + DAYS_BETWEEN * execution.number)
    me.doframe(site)
    sidereal = me.measure(me.epoch("UTC", f"{day!r}d"), "LAST")["m0"]["value"] % 1.0 * 24.0
    wanted = execution.targets[execution.science].ra / 15.0 + execution.hour_angle
    hours = (wanted - sidereal) % 24.0 / SIDEREAL
    return day + hours / 24.0 - 0.5 * sum(_lengths(execution)) / 86400.0


def _lengths(execution: Execution) -> list[float]:
    """Duration of every scan [s], with the slew after it."""
    return [
        scan.integrations * execution.integration * len(execution.targets[scan.target].pointings) + SLEW
        for scan in execution.scans
    ]


def _doppler(execution: Execution, me: Any, site: dict[str, Any], start: float) -> float:
    """Observed frequency over that in LSRK, when and where the execution starts: set once, as ALMA does."""
    target = execution.targets[execution.science]
    me.doframe(me.epoch("UTC", f"{start!r}d"))
    me.doframe(site)
    me.doframe(me.direction("ICRS", f"{target.ra!r}deg", f"{target.dec!r}deg"))
    return float(me.measure(me.frequency("LSRK", "1e11Hz"), "TOPO")["m0"]["value"] / 1e11)


def _observe(sm: Any, execution: Execution) -> list[tuple[int, int]]:
    """Make the rows; the (scan, target) of every call, by which sm numbers its own scans."""
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


def _fill_subtables(vis: Path, execution: Execution, calls: Sequence[tuple[int, int]]) -> None:
    """Names, intents, sources and schedule, as ALMA's importasdm writes them."""
    names, fields = _spw_names(execution), execution.first_field
    with casa_tool("table", vis / "FIELD", nomodify=False) as table:
        kinds = np.repeat(np.arange(len(execution.targets)), np.diff(fields))
        table.putcol("NAME", np.array([execution.targets[kind].name for kind in kinds]))
        table.putcol("SOURCE_ID", kinds.astype(np.int32))
        # sm writes J2000, ALMA's software ICRS.
        centres = np.deg2rad(np.concatenate([target.pointings for target in execution.targets]))
        for name in ("PHASE_DIR", "DELAY_DIR", "REFERENCE_DIR"):
            table.putcolkeyword(name, "MEASINFO", {"type": "direction", "Ref": "ICRS"})
            table.putcol(name, centres.T[:, None, :])
    with casa_tool("table", vis / "SPECTRAL_WINDOW", nomodify=False) as table:
        table.putcol("NAME", np.array(names))
        table.addcols({"BBC_NO": {"valueType": "int", "dataManagerType": "StandardStMan", "comment": "baseband"}})
        basebands = [int(name.split("BB_")[1][0]) if "BB_" in name else 0 for name in names]
        table.putcol("BBC_NO", np.array(basebands, dtype=np.int32))
        if execution.wvr:
            table.putcell("CHAN_FREQ", 0, np.array(WVR_FREQ))
            for name in ("CHAN_WIDTH", "EFFECTIVE_BW", "RESOLUTION"):
                table.putcell(name, 0, np.array(WVR_WIDTH))
            table.putcell("TOTAL_BANDWIDTH", 0, sum(WVR_WIDTH))
        table.putcol("TOTAL_BANDWIDTH", np.abs(table.getcol("TOTAL_BANDWIDTH")))
        middles = [float(table.getcell("CHAN_FREQ", row).mean()) for row in range(len(names))]
    with casa_tool("table", vis / "STATE", nomodify=False) as table:
        intents = _intents(execution)
        table.addrows(len(intents) - table.nrows())
        table.putcol("OBS_MODE", np.array(intents))
        for name, value in (("SIG", True), ("REF", False), ("FLAG_ROW", False)):
            table.putcol(name, np.full(len(intents), value))
        table.putcol("SUB_SCAN", np.ones(len(intents), np.int32))
    with casa_tool("table", vis / "OBSERVATION", nomodify=False) as table:
        table.putcell("OBSERVER", 0, "simulated")
        table.putcell("PROJECT", 0, "uid://A001/X1/X1")
        table.putcell("SCHEDULE_TYPE", 0, "ALMA")
        block = f"ExecBlock uid://A002/X{execution.seed:x}/X{execution.number + 1:x}"
        table.putcell("SCHEDULE", 0, np.array(["SchedulingBlock uid://A001/X1/X2", block]))
    _fill_sources(vis, execution, middles)


def _fill_sources(vis: Path, execution: Execution, middles: Sequence[float]) -> None:
    """A row of SOURCE for every target and window; sm's are one a field, in no window."""
    with casa_tool("table", vis / "SOURCE", nomodify=False) as table:
        pairs = [(s, w) for s in range(len(execution.targets)) for w in range(len(middles))]
        table.addrows(max(0, len(pairs) - table.nrows()))
        table.removerows(np.arange(len(pairs), table.nrows()))
        with casa_tool("table", vis) as main:
            times = main.getcol("TIME")
        for row, (source, window) in enumerate(pairs):
            target = execution.targets[source]
            table.putcell("DIRECTION", row, np.deg2rad([target.ra, target.dec]))
            table.putcell("PROPER_MOTION", row, np.zeros(2))
            table.putcell("REST_FREQUENCY", row, np.array([middles[window]]))
            table.putcell("SYSVEL", row, np.zeros(1))
            table.putcell("TRANSITION", row, np.array(["none"]))
            for name, value in (("NAME", target.name), ("CODE", "none"), ("SOURCE_ID", source)):
                table.putcell(name, row, value)
            for name, value in (("SPECTRAL_WINDOW_ID", window), ("NUM_LINES", 1), ("CALIBRATION_GROUP", 0)):
                table.putcell(name, row, value)
            table.putcell("TIME", row, float(times.mean()))
            table.putcell("INTERVAL", row, float(np.ptp(times)) + execution.integration)


def _spw_names(execution: Execution) -> list[str]:
    number = int(execution.rng(1).integers(1e9, 2e9))
    wvr = [WVR_NAME] if execution.wvr else []
    return [*wvr, *(f"X{number}#{window.name}" for window in execution.windows)]


def _intents(execution: Execution) -> list[str]:
    """The distinct intents, in order: the rows of STATE."""
    return list(dict.fromkeys(target.intent for target in execution.targets))


def _fill_main(vis: Path, execution: Execution, calls: Sequence[tuple[int, int]]) -> None:
    """Scans, states, weights and flags; of the radiometers the autocorrelations, else the baselines."""
    intents = _intents(execution)
    with casa_tool("table", vis, nomodify=False) as table:
        unused = ["MODEL_DATA"] if execution.corrected else ["MODEL_DATA", "CORRECTED_DATA"]
        table.removecols([name for name in unused if name in table.colnames()])
        own = table.getcol("SCAN_NUMBER") - 1
        scans, targets = np.array(calls).T
        states = np.array([intents.index(target.intent) for target in execution.targets])
        table.putcol("SCAN_NUMBER", (scans[own] + 1).astype(np.int32))
        table.putcol("STATE_ID", states[targets[own]].astype(np.int32))
    _sort(vis, execution)
    for target, window, rows in looks(vis, execution, nomodify=False):
        spectral = execution.windows[window]
        sefd = antenna_sefd(execution, window)
        first, second = rows.getcol("ANTENNA1"), rows.getcol("ANTENNA2")
        radiometer = 2.0 * abs(spectral.width) * execution.integration
        weight = np.broadcast_to(radiometer / (sefd[first] * sefd[second]), (2, len(first)))
        rows.putcol("WEIGHT", weight.astype(np.float32))
        # SIGMA is DATA's: of correlation coefficients where these are not calibrated.
        sigma = np.full_like(weight, radiometer**-0.5) if execution.corrected else weight**-0.5
        rows.putcol("SIGMA", sigma.astype(np.float32))
        flags = rows.getcol("FLAG")
        flags |= rows.getcol("FLAG_ROW")
        flags[:, : spectral.edge] = True
        flags[:, spectral.nchan - spectral.edge :] = True
        if {(target, window), (target, spectral.source)} & execution.flagged:
            flags[:] = True
        rows.putcol("FLAG", flags)
        rows.putcol("FLAG_ROW", flags.all(axis=(0, 1)))


def _sort(vis: Path, execution: Execution) -> None:
    """Rows in the order in which they were taken; sm leaves them window by window."""
    copy = vis.with_suffix(".sorted")
    # Rows cannot be taken out of a measurement set, but left out of a copy.
    chosen = "DATA_DESC_ID != 0 || ANTENNA1 == ANTENNA2" if execution.wvr else ""
    with casa_tool("table", vis) as table:
        rows = table.query(chosen, sortlist="TIME, DATA_DESC_ID, ANTENNA1, ANTENNA2")
        rows.copy(str(copy), deep=True, valuecopy=True).close()
        rows.close()
    shutil.rmtree(vis)
    copy.rename(vis)


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
                    with _query(table, first + pointing, window + execution.wvr) as rows:
                        if rows.nrows():
                            yield target, window, rows


@contextmanager
def _query(table: Any, field: int, description: int) -> Iterator[Any]:
    rows = table.query(f"FIELD_ID=={field} && DATA_DESC_ID=={description}")
    try:
        yield rows
    finally:
        rows.close()


def _numbers(rows: Any) -> tuple[int, int]:
    """Field and data description of rows that share them."""
    return int(rows.getcell("FIELD_ID", 0)), int(rows.getcell("DATA_DESC_ID", 0))


def channel_energy(rows: Any, look: Look) -> list[NDArray[np.float64]]:
    """Squared SNR that each source of a look would have in each channel: (nchan,) a source.

    The SNR is that of a filter that knows place and shape: the weighted sum of the squared visibilities.
    """
    uvw = rows.getcol("UVW")
    antennas = [rows.getcol(name) for name in ("ANTENNA1", "ANTENNA2")]
    # (nchan, nrow) sum of the weights of both hands
    weight = (rows.getcol("WEIGHT")[:, None, :] * ~rows.getcol("FLAG")).sum(axis=0)
    found = []
    for cosines, components in look.parts:
        model = baseline_beam(look, float(np.hypot(*cosines[:2])), antennas)
        model = model * np.abs(component_visibilities(components, uvw, look.freq))
        found.append((weight * model**2).sum(axis=1))
    return found


def energies(
    vis: Path, execution: Execution, variants: Sequence[Sequence[SkySource]]
) -> dict[tuple[int, int], NDArray[np.float64]]:
    """Squared SNRs (nsource,) of the `variants` (by target) of every target and window."""
    total: dict[tuple[int, int], NDArray[np.float64]] = {}
    with casa_tool("msmetadata", vis) as meta, casa_tool("measures") as me:
        for target, window, rows in looks(vis, execution):
            if execution.windows[window].source is not None or not variants[target]:
                continue
            look = look_at(meta, me, variants[target], *_numbers(rows))
            seen = np.array([energy.sum() for energy in channel_energy(rows, look)])
            total[target, window] = total.get((target, window), np.zeros(len(seen))) + seen
    return total


def write_data(vis: Path, execution: Execution) -> None:
    """The visibilities of the targets' sources, and noise that the weights describe."""
    column = "CORRECTED_DATA" if execution.corrected else "DATA"
    with casa_tool("msmetadata", vis) as meta, casa_tool("measures") as me:
        for target, window, rows in looks(vis, execution, nomodify=False):
            field, description = _numbers(rows)
            spectral = execution.windows[window]
            if spectral.source is not None:
                continue
            data = rows.getcol("DATA")
            rng = execution.rng(3, field, window)
            sigma = rows.getcol("WEIGHT") ** -0.5
            noise = rng.standard_normal((2, *data.shape), dtype=np.float32)
            data[:] = sigma[:, None, :] * (noise[0] + 1j * noise[1])
            rows.putcol(column, data)
            add_model(rows, [column], look_at(meta, me, execution.targets[target].sources, field, description))
    _average(vis, execution, column)
    if execution.wvr:
        with casa_tool("table", vis, nomodify=False) as table, closing(table.query("DATA_DESC_ID==0")) as rows:
            sky = np.full((1, len(WVR_SKY), rows.nrows()), 0.0, complex) + np.array(WVR_SKY)[:, None]
            for name in {"DATA", column}:
                rows.putcol(name, sky)
    if execution.corrected:
        _uncalibrate(vis, execution)


def _average(vis: Path, execution: Execution, column: str) -> None:
    """Fill the channel averages of windows."""
    with casa_tool("table", vis, nomodify=False) as table:
        for window, spectral in enumerate(execution.windows):
            if spectral.source is None:
                continue
            for field in range(execution.first_field[-1]):
                with (
                    _query(table, field, spectral.source + execution.wvr) as whole,
                    _query(table, field, window + execution.wvr) as mean,
                ):
                    if not whole.nrows():
                        continue
                    good = ~whole.getcol("FLAG")
                    number = np.maximum(good.sum(axis=1, keepdims=True), 1)
                    mean.putcol(column, (whole.getcol(column) * good).sum(axis=1, keepdims=True) / number)


def _uncalibrate(vis: Path, execution: Execution) -> None:
    """DATA as the correlator gives them: coefficients, turned by every antenna's phase."""
    for _, window, rows in looks(vis, execution, nomodify=False):
        phases = execution.rng(4).uniform(-np.pi, np.pi, execution.antennas)
        gain = np.exp(1j * phases) / np.sqrt(antenna_sefd(execution, window))
        first, second = rows.getcol("ANTENNA1"), rows.getcol("ANTENNA2")
        rows.putcol("DATA", rows.getcol("CORRECTED_DATA") * (gain[first] * np.conj(gain[second])))
