"""The tables of a simulated execution as ALMA's software leaves them: names, intents, sources, weights, flags."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sim.casa_backend import casa_tool
from sim.execution import WVR_FREQ, WVR_WIDTH, Execution, antenna_sefd, looks

WVR_NAME = "WVR#NOMINAL"


def fill(vis: Path, execution: Execution, calls: Sequence[tuple[int, int]]) -> None:
    """Make ALMA's tables of those that `execution.make_rows` left; the data are zero.

    Parameters
    ----------
    vis : Path
    execution : Execution
    calls : sequence of (scan, target), as `execution.make_rows` returns them
    """
    _fill_subtables(vis, execution)
    _fill_main(vis, execution, calls)


def _fill_subtables(vis: Path, execution: Execution) -> None:
    """Names, intents, sources and schedule, as ALMA's importasdm writes them."""
    names, fields = _spw_names(execution), execution.first_field
    with casa_tool("table", vis) as table:
        times = table.getcol("TIME")
    with casa_tool("table", vis / "FIELD", nomodify=False) as table:
        kinds = np.repeat(np.arange(len(execution.targets)), np.diff(fields))
        table.putcol("NAME", np.array([execution.targets[kind].name for kind in kinds]))
        table.putcol("SOURCE_ID", kinds.astype(np.int32))
        table.putcol("TIME", np.full(len(kinds), times.min()))
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
        half = 0.5 * execution.integration
        table.putcell("TIME_RANGE", 0, np.array([times.min() - half, times.max() + half]))
        table.putcell("OBSERVER", 0, "simulated")
        table.putcell("PROJECT", 0, "uid://A001/X1/X1")
        table.putcell("SCHEDULE_TYPE", 0, "ALMA")
        block = f"ExecBlock uid://A002/X{execution.seed:x}/X{execution.number + 1:x}"
        table.putcell("SCHEDULE", 0, np.array(["SchedulingBlock uid://A001/X1/X2", block]))
    _fill_sources(vis, execution, middles, times)


def _fill_sources(vis: Path, execution: Execution, middles: Sequence[float], times: NDArray[np.float64]) -> None:
    """A row of SOURCE for every target and window; sm's are one a field, in no window."""
    with casa_tool("table", vis / "SOURCE", nomodify=False) as table:
        pairs = [(s, w) for s in range(len(execution.targets)) for w in range(len(middles))]
        table.addrows(max(0, len(pairs) - table.nrows()))
        table.removerows(np.arange(len(pairs), table.nrows()))
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
