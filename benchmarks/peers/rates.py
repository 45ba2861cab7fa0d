"""Finders, and the ideal filter, at one rate of false alarms.

Each finder's catalogue, before its own cut, is cut at the SNR, as that finder gives it, that leaves no more
than `rate` false alarms a field. They are counted in fields without sources where there are some, else in the
fields with sources, as the false positives that lie off every source (no duplicates, none misplaced).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from astropy.table import Table
from numpy.typing import NDArray

from casa_deepfocus.core.scores import MIN_SNR, line_only
from training.bootstrap import score_errors
from training.ideal import Ideal, ideal_filter
from training.score import Score, score_tables
from training.store import Collected


@dataclass(frozen=True)
class AtRate:
    """What is left of a catalogue at a rate of false alarms; NaN where nothing can be said.

    Attributes
    ----------
    level : float, SNR of the finder above which its detections are kept; -inf when none had to go
    alarms : float, false alarms left in the fields that they were counted in
    false_positives : float, left in the fields with sources
    recall_snr5 : float, of the sources with a matched-filter SNR of 5 or more
    snr50, snr50_line_only : float, matched-filter SNR at half completeness: all sources, those without continuum
    snr50_err, snr50_line_only_err : float, by bootstrap over fields
    """

    level: float = math.nan
    alarms: float = math.nan
    false_positives: float = math.nan
    recall_snr5: float = math.nan
    snr50: float = math.nan
    snr50_err: float = math.nan
    snr50_line_only: float = math.nan
    snr50_line_only_err: float = math.nan


def cut_at_rate(got: Collected, rate: float) -> AtRate:
    """Scores of the detections above the lowest SNR that leaves `rate` false alarms a field.

    Parameters
    ----------
    got : Collected
    rate : float, false alarms a field

    Returns
    -------
    AtRate : all NaN when something has to go and the catalogue has no SNR
    """
    score = score_tables(got.truth, got.catalogue, empty_fields=got.n_empty)
    field, snr = np.asarray(got.catalogue["field"]), np.asarray(got.catalogue["snr"], dtype=float)
    barren = ~np.isin(field, score.truth.field)
    alarm, number = (barren, got.n_empty) if got.n_empty else (_off_sources(score, barren), len(got.fields))
    level = cut_level(snr[alarm], math.floor(rate * number + 1e-9))
    if np.isnan(level):
        return AtRate()
    kept = np.ones(snr.size, dtype=bool) if level == -np.inf else snr > level
    left = score_tables(got.truth, got.catalogue[kept], empty_fields=got.n_empty)
    p, e = left.physical, score_errors(left, got.fields)["physical"]
    return AtRate(
        level, int((alarm & kept).sum()), len(left.matching.false_positives), p["recall_snr5"],
        p["snr50"], e["snr50"], p["snr50_line_only"], e["snr50_line_only"],
    )  # fmt: skip


def cut_level(snr: NDArray, most: int) -> float:
    """Lowest level with no more than `most` of the values (n,) above; NaN when those without SNR decide."""
    if snr.size <= most:
        return -math.inf
    ordered = np.sort(np.nan_to_num(snr, nan=-np.inf, posinf=np.inf))[::-1]
    return float(ordered[most]) if np.isfinite(ordered[most]) else math.nan


def _off_sources(score: Score, barren: NDArray[np.bool_]) -> NDArray[np.bool_]:
    matching = score.matching
    off = np.setdiff1d(matching.false_positives, np.concatenate([matching.duplicates, matching.misplaced]))
    out = np.zeros(barren.size, dtype=bool)
    out[np.flatnonzero(~barren)[off]] = True
    return out


def ideal_at_rate(truth: Table, score: Score, rate: float) -> AtRate:
    """The ideal filter on the same sources.

    Parameters
    ----------
    truth : astropy Table, with the geometry of each source's field (nx, ny, nchan)
    score : Score, of that truth
    rate : float, false alarms a field
    """
    if not {"nx", "ny", "nchan"} <= set(truth.colnames) or not len(score.truth):
        return AtRate()
    nx, ny, nchan = (np.asarray(truth[name], dtype=float) for name in ("nx", "ny", "nchan"))
    ideal = ideal_filter(score.truth, nx * ny, nchan, rate)
    bright = score.truth.snr >= MIN_SNR
    return AtRate(
        level=float(np.nanmedian(ideal.blind)),
        recall_snr5=_recall(ideal, score.truth.snr, bright),
        snr50=ideal.snr50,
        snr50_line_only=ideal.take(line_only(score.truth)).snr50,
    )


def _recall(ideal: Ideal, snr: NDArray, chosen: NDArray[np.bool_]) -> float:
    return float(np.nanmean(ideal.take(chosen).probability(snr[chosen]))) if chosen.any() else math.nan
