"""Whether the visibilities of a selection can be used: flags, weights, NaN, and columns that hold nothing.

A sample is read; only where nothing in it can be used is the rest read, until something can. So a set
is refused only if all of it is unusable, and the cost for a good one is that of the sample.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from casatools import table
from numpy.typing import NDArray

from casa_deepfocus.casa.measurementset import Survey, Window, main_table, selected_rows, subtable_column

SAMPLE = 2**22
"""Visibilities that are read of a window at first, and at a time after (64 MB of complex numbers)."""

BLOCKS = 32
"""Runs of consecutive rows that a sample is made of: tiles of the table hold many rows."""

PARALLEL_HANDS = (1, 5, 8, 9, 12)
"""casacore's numbers of I, RR, LL, XX and YY: what Stokes I is made of."""


@dataclass(frozen=True)
class _Kind:
    """What rows of one data description have in common."""

    window: Window
    hands: NDArray[np.bool_]
    all_needed: bool


@dataclass
class Tally:
    """Counts of visibilities (one channel of one row; all parallel hands are needed where Stokes I is imaged).

    Attributes
    ----------
    seen, usable : int
    flagged, weightless, invalid, zero : int
        Flagged; else with a weight that is not positive; else NaN or infinite; else exactly zero.
    invalid_channels : dict of int -> set of int
        By window, channels in which a visibility with flag and weight to be used is NaN or infinite.
    complete : bool
        All selected visibilities were read.
    """

    seen: int = 0
    usable: int = 0
    flagged: int = 0
    weightless: int = 0
    invalid: int = 0
    zero: int = 0
    invalid_channels: dict[int, set[int]] = field(default_factory=dict)
    complete: bool = True

    @property
    def shares(self) -> str:
        """The counts in words."""
        parts = {"flagged": self.flagged, "of zero weight": self.weightless, "NaN or infinite": self.invalid,
                 "exactly zero": self.zero}  # fmt: skip
        return ", ".join(f"{100.0 * count / max(self.seen, 1):.3g} % {name}" for name, count in parts.items())


def column_name(datacolumn: str, columns: tuple[str, ...]) -> str:
    """The column of the main table that tclean's datacolumn stands for."""
    if datacolumn.lower() == "corrected":
        return "CORRECTED_DATA"
    return "DATA" if "DATA" in columns else "FLOAT_DATA"


def tally(survey: Survey, column: str, stokes: str, sample: int = SAMPLE) -> Tally:
    """Count what can be used of a selection.

    Parameters
    ----------
    survey : Survey
    column : str
        Column of the main table that holds the visibilities.
    stokes : str
        What is to be imaged.
    sample : int
        Visibilities to read of each window before anything usable was seen.
    """
    counts = Tally()
    later: list[tuple[_Kind, NDArray[np.int64]]] = []
    for kind, mine in _kinds(survey, stokes):
        per_read = max(1, sample // (kind.window.nchan * len(kind.hands)))
        first = np.unique(np.concatenate(list(_runs(len(mine), per_read))))
        _count(survey, column, mine[first], kind, counts)
        rest = np.delete(mine, first)
        later += [(kind, rest[i : i + per_read]) for i in range(0, len(rest), per_read)]
    counts.complete = not later
    if not counts.usable:
        for kind, part in later:
            _count(survey, column, part, kind, counts)
            if counts.usable:
                return counts
        counts.complete = True
    return counts


def effective_frequency(surveys: Sequence[Survey], stokes: str, sample: int = SAMPLE) -> float:
    """The mean frequency [Hz] of what is not flagged, by its weights: where a sum over all channels measures a flux.

    In the data's frame, of a sample of each window's visibilities; 0 where nothing has weight. Imaging weights
    other than natural ones move it by what they change between windows.
    """
    total, moment = 0.0, 0.0
    for seen in surveys:
        for kind, rows in _kinds(seen, stokes):
            per_read = max(1, sample // (kind.window.nchan * len(kind.hands)))
            some = rows[np.unique(np.concatenate(list(_runs(len(rows), per_read))))]
            used = _used(seen, some, kind)[0]
            # (nchan,): the sum over correlations and rows, of all rows.
            weight = used.sum(axis=(0, 2)) * (len(rows) / len(some))
            total += float(weight.sum())
            moment += float(weight @ kind.window.freq)
    return moment / total if total > 0 else 0.0


def _kinds(survey: Survey, stokes: str) -> Iterator[tuple[_Kind, NDArray[np.int64]]]:
    """The data descriptions of a selection, and the rows of each, without autocorrelations."""
    rows, _ = selected_rows(survey.name, survey.chosen)
    with main_table(survey.name, rows) as tb:
        descriptions = np.asarray(tb.getcol("DATA_DESC_ID"))
        cross = np.asarray(tb.getcol("ANTENNA1")) != np.asarray(tb.getcol("ANTENNA2"))
    windows_of = subtable_column(survey.name, "DATA_DESCRIPTION", "SPECTRAL_WINDOW_ID")
    hands_of = subtable_column(survey.name, "DATA_DESCRIPTION", "POLARIZATION_ID")
    for number in np.unique(descriptions[cross]):
        window = next(w for w in survey.windows if w.number == windows_of[number])
        kind = _Kind(window, *_hands(survey.name, int(hands_of[number]), stokes))
        yield kind, rows[cross & (descriptions == number)]


def _runs(nrows: int, wanted: int) -> Iterator[NDArray[np.int64]]:
    """Indices of about `wanted` of `nrows` rows, in at most BLOCKS runs spread evenly."""
    if nrows <= wanted:
        yield np.arange(nrows)
        return
    blocks = min(BLOCKS, wanted)
    length = wanted // blocks
    for start in np.linspace(0, nrows - length, blocks).astype(int):
        yield np.arange(start, start + length)


def _hands(name: str, polarization: int, stokes: str) -> tuple[NDArray[np.bool_], bool]:
    """(ncorr,) which correlations an image is made of, and whether tclean needs all of them (for Stokes I)."""
    tb = table()
    try:
        tb.open(f"{name}/POLARIZATION")
        kinds = np.asarray(tb.getcell("CORR_TYPE", polarization))
    finally:
        tb.close()
    parallel = np.isin(kinds, PARALLEL_HANDS)
    if stokes == "I" and parallel.any():
        return parallel, True
    return np.ones(len(kinds), dtype=bool), False


def _count(survey: Survey, column: str, rows: NDArray[np.int64], kind: _Kind, counts: Tally) -> None:
    """Add the visibilities of some rows of one window to the counts."""
    window = kind.window
    with main_table(survey.name, rows) as tb:
        data = np.asarray(tb.getcol(column))[kind.hands][:, window.channels]
    weight, flag = _used(survey, rows, kind)
    used = weight > 0
    joined = np.all if kind.all_needed else np.any
    present, weighted = joined(~flag, axis=0), joined(used, axis=0)
    invalid = weighted & (used & ~np.isfinite(data)).any(axis=0)
    zero = weighted & ~invalid & (~used | (data == 0)).all(axis=0)
    counts.seen += present.size
    counts.flagged += int((~present).sum())
    counts.weightless += int((present & ~weighted).sum())
    counts.invalid += int(invalid.sum())
    counts.zero += int(zero.sum())
    counts.usable += int((weighted & ~invalid & ~zero).sum())
    if invalid.any():
        known = counts.invalid_channels.setdefault(window.number, set())
        known.update(window.channels[invalid.any(axis=1)].tolist())


def _used(survey: Survey, rows: NDArray[np.int64], kind: _Kind) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """(ncorr, nchan, nrow) weights, 0 where flagged, and the flags."""
    hands, window = kind.hands, kind.window
    with main_table(survey.name, rows) as tb:
        flag = np.asarray(tb.getcol("FLAG"))[hands][:, window.channels] | np.asarray(tb.getcol("FLAG_ROW"), dtype=bool)
        weight = _weights(tb, survey.columns, hands, window)
    return np.where(flag, 0.0, weight), flag


def _weights(tb: Any, columns: tuple[str, ...], hands: NDArray[np.bool_], window: Window) -> NDArray[np.float64]:
    """(ncorr, nchan or 1, nrow) weights that tclean uses: WEIGHT_SPECTRUM where it is filled, else WEIGHT."""
    if "WEIGHT_SPECTRUM" in columns and tb.iscelldefined("WEIGHT_SPECTRUM", 0):
        spectrum = np.asarray(tb.getcol("WEIGHT_SPECTRUM"))
        if spectrum.shape[1] == window.nchan:
            return spectrum[hands][:, window.channels]
    return np.asarray(tb.getcol("WEIGHT"))[hands][:, None, :]
