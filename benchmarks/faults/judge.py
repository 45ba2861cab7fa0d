"""What became of a case: the catalogue beside the truth, the error beside what it has to say."""

from __future__ import annotations

import enum
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from astropy import units as u
from astropy.coordinates import SkyCoord
from astropy.table import Table
from scipy.optimize import linear_sum_assignment

from benchmarks.faults.case import Expected, Trial

SIGMAS = 5.0
"""Deviation in units of the catalogue's own error that is let pass."""

FLUX = 0.05
"""Relative deviation of a flux that is let pass, whatever its error: the built-in Gaussian stands in for a PSF."""

PLACE = 0.15
"""Deviation of a position that is let pass [beam]."""

ANGLE = 12.0
"""Deviation of a position angle that is let pass [deg]: of a source twice as long as wide at SNR 100."""

LONGEST = 600
"""Characters of an error's message beyond which it no longer is one message."""


HIDDEN = re.compile(r"/\.\w")
"""A path through a hidden folder, which no user has given."""


class Outcome(enum.Enum):
    """How a case can end, from good to bad."""

    RIGHT = "right"
    CLEAR = "clear error"
    MISLEADING = "misleading"
    RAW = "raw"
    WRONG = "silently wrong"
    LOST = "lost"
    CRASH = "crash"
    HANG = "hang"


BAD = (Outcome.RAW, Outcome.WRONG, Outcome.LOST, Outcome.CRASH, Outcome.HANG)


@dataclass(frozen=True)
class Verdict:
    """Outcome of a case, and why."""

    name: str
    kind: str
    outcome: Outcome
    why: str
    seconds: float = 0.0


def judge_error(trial: Trial, error: Exception, ours: bool) -> tuple[Outcome, str]:
    """Outcome of a call that raised; `ours` says whether the error is one of the package's own."""
    message = str(error)
    said = f"{type(error).__name__}: {message[:300]}"
    if not ours:
        return Outcome.RAW, said
    if trial.truth is not None and not trial.may_refuse:
        return Outcome.MISLEADING, f"refused what can be used: {said}"
    lacking = [group for group in trial.words if not any(word.lower() in message.lower() for word in group)]
    if lacking:
        return Outcome.MISLEADING, f"does not say {lacking}: {said}"
    if len(message) > LONGEST or "\n" in message.strip():
        return Outcome.MISLEADING, f"{len(message)} characters, {len(message.splitlines())} lines: {said}"
    if "Traceback" in message or HIDDEN.search(message):
        return Outcome.MISLEADING, f"names internals or hidden folders: {said}"
    return Outcome.CLEAR, said


def judge_result(trial: Trial, folder: Path, warnings: Sequence[str]) -> tuple[Outcome, str]:
    """Outcome of a call that ended well, by its products."""
    if trial.targets:
        problem = _judge_targets(trial, folder)
        return (Outcome.WRONG, problem) if problem else (Outcome.RIGHT, "")
    path = folder / f"{trial.outfile}.cat.ecsv"
    if not path.exists():
        return Outcome.WRONG, f"no catalogue {path.name}"
    table = Table.read(path)
    unsaid = [word for word in trial.warns if not any(word.lower() in line.lower() for line in warnings)]
    if trial.truth is None:
        told = bool(trial.warns) and not unsaid
        return (Outcome.RIGHT, "") if told else (Outcome.WRONG, f"was not refused; {len(table)} rows")
    if unsaid:
        return Outcome.WRONG, f"no warning says {unsaid}"
    problem = compare(table, trial.truth, trial.beam)
    if not problem:
        differing = [key for key, value in trial.meta.items() if not _equal(table.meta.get(key), value)]
        problem = ", ".join(f"{key} is {table.meta.get(key)}, not {trial.meta[key]}" for key in differing)
    if not problem and trial.after is not None:
        problem = trial.after(folder)
    return (Outcome.WRONG, problem) if problem else (Outcome.RIGHT, "")


def _judge_targets(trial: Trial, folder: Path) -> str:
    """What is wrong with the catalogues of several targets' cubes; each truth is that of one of them."""
    tables = [Table.read(path) for path in sorted(folder.glob(f"{trial.outfile}.targets/*/*.cat.ecsv"))]
    if len(tables) != len(trial.targets):
        return f"{len(tables)} catalogues for {len(trial.targets)} targets"
    for truth in trial.targets:
        problems = [compare(table, truth, trial.beam) for table in tables]
        if all(problems):
            return min(problems, key=len)
    return ""


def _equal(have: object, want: object) -> bool:
    if isinstance(want, float) and isinstance(have, (int, float)):
        return bool(np.isclose(have, want, rtol=0.02))
    return have == want


def sky(table: Table) -> SkyCoord:
    """The catalogue's positions in ICRS."""
    frame = str(table.meta.get("radesys", "ICRS")).lower()
    frame = frame if frame in ("icrs", "fk5", "fk4") else "icrs"
    more = {}
    if frame != "icrs" and table.meta.get("equinox"):
        equinox = str(table.meta["equinox"]).lstrip("JB")
        more["equinox"] = f"{'B' if frame == 'fk4' else 'J'}{float(equinox):g}"
    return SkyCoord(np.asarray(table["ra"]), np.asarray(table["dec"]), unit="deg", frame=frame, **more).icrs


def compare(table: Table, truth: Sequence[Expected], beam: float) -> str:
    """What is wrong with a catalogue; '' where nothing is."""
    if len(table) != len(truth):
        return f"{len(table)} rows for {len(truth)} sources"
    if not truth:
        return ""
    places = SkyCoord([s.ra for s in truth], [s.dec for s in truth], unit="deg")
    found = sky(table)
    apart = np.array([place.separation(found).to_value(u.arcsec) for place in places])
    ours, rows = linear_sum_assignment(np.nan_to_num(apart, nan=1e9))
    for index, row in zip(ours, rows, strict=True):
        problem = _differs(table[int(row)], truth[index], float(apart[index, row]), beam)
        if problem:
            return problem
    return ""


def _differs(row: Table.Row, source: Expected, distance: float, beam: float) -> str:
    if not distance < PLACE * beam + SIGMAS * float(np.hypot(row["ra_err"], row["dec_err"])):
        return f"{distance:.3f} arcsec off (beam {beam:.2f})"
    if source.position_only:
        return ""
    for name in ("continuum", "line_flux"):
        have, want, error = float(row[name]), getattr(source, name), float(np.nan_to_num(row[f"{name}_err"]))
        if want and not abs(have - want) < max(FLUX * abs(want), SIGMAS * error):
            return f"{name} {have:.4g} +- {error:.2g}, not {want:.4g}"
    if np.isfinite(source.freq):
        if not abs(float(row["freq"]) - source.freq) < SIGMAS * float(row["freq_err"]) + 1e-6 * source.freq:
            return f"freq {float(row['freq']):.8g}, not {source.freq:.8g}"
    elif np.isfinite(row["chan"]):
        return f"a line at channel {row['chan']:.1f} where there is none"
    if np.isfinite(source.pa):
        turn = abs((float(row["pa"]) - source.pa + 90.0) % 180.0 - 90.0)
        if not turn < ANGLE:
            return f"pa {float(row['pa']):.1f}, not {source.pa:.1f}"
    return ""
