"""Both score protocols, on plain arrays.

'physical': `core.matching.match_physical`, counted one to one.

'deepfocus' (paper section 5.1): 2D IoU >= 0.6, centres within 3 pixels and 1D IoU >= 0.6, with the
boxes of truth and catalogue drawn by one function, `matching.draw_boxes`; counted one to one and,
beside it, with the paper's lenient counting.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize

from casa_deepfocus.core.matching import (
    Matching,
    Sources,
    assign,
    box_iou,
    by_field,
    channel_ranges,
    draw_boxes,
    separations,
)

MIN_IOU = 0.6
"""The paper's threshold on 2D and on 1D intersection over union."""

MAX_CENTRE_DISTANCE = 3.0
"""The paper's largest distance between the centres of two boxes [pixel]."""

SNR_EDGES = (0.0, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0, 10.0, 15.0, 20.0, 30.0, 50.0, np.inf)
"""Bins of matched-filter SNR in which completeness is reported."""

BLEND_EDGES = (0.0, 0.25, 0.75, 1.0, 1.5, 2.0, 3.0)
"""Bins of the separation of two sources [beam FWHM] in which blends are reported."""

HALF_BEAM = (0.25, 0.75)
"""Separations of 'about half a beam' [beam FWHM]."""

MIN_SNR = 5.0
"""Sources that should be found: matched-filter SNR of this and more."""


@dataclass(frozen=True)
class Deepfocus:
    """Who passes the paper's criteria.

    Attributes
    ----------
    pairs : (m, 2) int64, one to one, indices into truth and catalogue
    iou : (m,) float64, 2D, of the pairs
    passed : (n_truth,) bool, any detection passes for this source
    fields : (k,) int64, all fields of truth and catalogue
    surplus : (k,) int64, max(0, detections - sources) of each field
    """

    pairs: NDArray[np.int64]
    iou: NDArray[np.float64]
    passed: NDArray[np.bool_]
    fields: NDArray[np.int64]
    surplus: NDArray[np.int64]


def match_deepfocus(truth: Sources, found: Sources, nchan: int) -> Deepfocus:
    """Match by the paper's criteria.

    Parameters
    ----------
    truth, found : Sources
    nchan : int, channels of the cubes
    """
    pairs, ious = [np.empty((0, 2), dtype=np.int64)], [np.empty(0)]
    passed = np.zeros(len(truth), dtype=bool)
    surplus = []
    for t_index, f_index in by_field(truth, found):
        here, there = truth.take(t_index), found.take(f_index)
        flat = box_iou(draw_boxes(here), draw_boxes(there))
        spectral = box_iou(channel_ranges(here, nchan), channel_ranges(there, nchan))
        distance = np.hypot(here.x[:, None] - there.x, here.y[:, None] - there.y)
        passes = (flat >= MIN_IOU) & (spectral >= MIN_IOU) & (distance <= MAX_CENTRE_DISTANCE)
        chosen = assign(np.where(passes, 1.0 - flat, np.inf))
        pairs.append(np.stack([t_index[chosen[:, 0]], f_index[chosen[:, 1]]], axis=1))
        ious.append(flat[chosen[:, 0], chosen[:, 1]])
        passed[t_index] = passes.any(axis=1)
        surplus.append(max(0, len(f_index) - len(t_index)))
    return Deepfocus(
        pairs=np.concatenate(pairs),
        iou=np.concatenate(ious),
        passed=passed,
        fields=np.union1d(truth.field, found.field),
        surplus=np.array(surplus, dtype=np.int64),
    )


def score_deepfocus(truth: Sources, found: Sources, match: Deepfocus) -> dict[str, float]:
    """The paper's score, one to one and with its lenient counting.

    Parameters
    ----------
    truth, found : Sources
    match : Deepfocus, of these two

    Returns
    -------
    dict : n_truth, n_found, true_positives, false_positives, recall, precision, mean_iou (2D, of the one
        to one pairs), and true_positives_lenient (sources that any detection passes),
        false_positives_lenient (per field max(0, n_found - n_truth)), recall_lenient, precision_lenient
    """
    hits, lenient, surplus = len(match.pairs), int(match.passed.sum()), int(match.surplus.sum())
    return {
        "n_truth": len(truth),
        "n_found": len(found),
        "true_positives": hits,
        "false_positives": len(found) - hits,
        "recall": ratio(hits, len(truth)),
        "precision": ratio(hits, len(found)),
        "mean_iou": float(match.iou.mean()) if hits else float("nan"),
        "true_positives_lenient": lenient,
        "false_positives_lenient": surplus,
        "recall_lenient": ratio(lenient, len(truth)),
        "precision_lenient": ratio(lenient, lenient + surplus),
    }


@dataclass(frozen=True)
class Outcome:
    """What became of each source under the physical protocol.

    Attributes
    ----------
    asked : (n_truth,) bool, the finder should find it
    hit : (n_truth,) bool, found
    seen : (n_truth,) bool, found, in its continuum alone at least
    bright : (n_truth,) bool, asked for, and of a matched-filter SNR of MIN_SNR or more
    bright_sky : (n_truth,) bool, the same with the SNR of line and continuum together
    """

    asked: NDArray[np.bool_]
    hit: NDArray[np.bool_]
    seen: NDArray[np.bool_]
    bright: NDArray[np.bool_]
    bright_sky: NDArray[np.bool_]


def outcome(truth: Sources, matching: Matching) -> Outcome:
    """What became of each source of a matching."""
    hit = np.zeros(len(truth), dtype=bool)
    hit[matching.pairs[:, 0]] = True
    asked = hit.copy()
    asked[matching.missed] = True
    seen = hit.copy()
    seen[matching.halves[:, 0]] = True
    total = np.where(np.isfinite(truth.snr_total), truth.snr_total, truth.snr)
    return Outcome(asked, hit, seen, asked & (truth.snr >= MIN_SNR), asked & (total >= MIN_SNR))


def score_physical(truth: Sources, found: Sources, matching: Matching) -> dict[str, Any]:
    """Completeness, purity and blends of a matching.

    Parameters
    ----------
    truth, found : Sources
    matching : Matching, of these two

    Returns
    -------
    dict : n_truth (asked for), n_found (without the tolerated), true_positives, false_positives, duplicates,
        misplaced, false_lines, lines_missed, absorption (lines in absorption: n, found), recall,
        recall_snr5 (matched-filter SNR >= 5), recall_sky and
        recall_sky_snr5 (found in line or continuum; SNR of both together), precision, snr50,
        snr50_line_only (sources without continuum), completeness (per SNR bin: low, high, n, found), blends
        (per separation bin: low, high, n pairs with both SNR >= 5, both found, one found; `_apart`: those
        whose lines are apart in frequency), blends_beam (pairs of 1 to 3 beams: n, both, recall) and
        blends_half (the same of pairs of half a beam that are apart in frequency)
    """
    o = outcome(truth, matching)
    n_found = len(found) - len(matching.tolerated)
    bins = []
    for low, high in pairwise(SNR_EDGES):
        inside = o.asked & (truth.snr >= low) & (truth.snr < high)
        bins.append({"low": low, "high": high, "n": int(inside.sum()), "found": int((inside & o.hit).sum())})
    with np.errstate(invalid="ignore"):
        absorbed = truth.has_line & (truth.line_flux < 0.0)
    pairs, only = close_pairs(truth, o.hit, o.bright), o.asked & line_only(truth)
    return {
        "n_truth": int(o.asked.sum()),
        "n_found": n_found,
        "true_positives": len(matching.pairs),
        "false_positives": len(matching.false_positives),
        "duplicates": len(matching.duplicates),
        "misplaced": len(matching.misplaced),
        "false_lines": int(matching.line_claimed.sum()),
        "lines_missed": len(matching.halves),
        "absorption": {"n": int((o.asked & absorbed).sum()), "found": int((o.hit & absorbed).sum())},
        "recall": ratio(int(o.hit.sum()), int(o.asked.sum())),
        "recall_snr5": ratio(int((o.hit & o.bright).sum()), int(o.bright.sum())),
        "recall_sky": ratio(int(o.seen.sum()), int(o.asked.sum())),
        "recall_sky_snr5": ratio(int((o.seen & o.bright_sky).sum()), int(o.bright_sky.sum())),
        "precision": ratio(len(matching.pairs), n_found),
        "snr50": snr_at_half(truth.snr[o.asked], o.hit[o.asked]),
        "snr50_line_only": snr_at_half(truth.snr[only], o.hit[only]),
        "completeness": bins,
        "blends": [pairs.count(low, high) for low, high in pairwise(BLEND_EDGES)],
        "blends_beam": _resolved(pairs, pairs.beam_apart()),
        "blends_half": _resolved(pairs, pairs.half_beam_apart()),
    }


def line_only(truth: Sources) -> NDArray[np.bool_]:
    """(n,) bool: a line and no continuum."""
    return truth.has_line & (truth.continuum == 0.0)


def ratio(part: int, whole: int) -> float:
    """Part over whole; NaN of nothing."""
    return part / whole if whole else float("nan")


@dataclass(frozen=True)
class ClosePairs:
    """Pairs of sources of one field.

    Attributes
    ----------
    field : (n,) int64
    separation : (n,) float64 [beam FWHM]
    found : (n,) int64, how many of the two are found
    apart : (n,) bool, the half-power ranges of their lines do not overlap
    """

    field: NDArray[np.int64]
    separation: NDArray[np.float64]
    found: NDArray[np.int64]
    apart: NDArray[np.bool_]

    def beam_apart(self) -> NDArray[np.bool_]:
        """(n,) bool: one beam or more, no more than the last of BLEND_EDGES."""
        return (self.separation >= 1.0) & (self.separation < BLEND_EDGES[-1])

    def half_beam_apart(self) -> NDArray[np.bool_]:
        """(n,) bool: about half a beam, and apart in frequency."""
        return (self.separation >= HALF_BEAM[0]) & (self.separation < HALF_BEAM[1]) & self.apart

    def count(self, low: float, high: float) -> dict[str, float]:
        """Pairs of a range of separations [beam FWHM]."""
        inside = (self.separation >= low) & (self.separation < high)
        row: dict[str, float] = {"low": low, "high": high}
        for suffix, chosen in (("", inside), ("_apart", inside & self.apart)):
            row[f"n{suffix}"] = int(chosen.sum())
            row[f"both{suffix}"] = int((self.found[chosen] == 2).sum())
            row[f"one{suffix}"] = int((self.found[chosen] == 1).sum())
        return row


def close_pairs(truth: Sources, hit: NDArray[np.bool_], bright: NDArray[np.bool_]) -> ClosePairs:
    """All pairs of the sources `bright` (n_truth,) of each field; `hit` (n_truth,) are those found."""
    parts: list[tuple[NDArray, ...]] = []
    for number in np.unique(truth.field[bright]):
        index = np.flatnonzero((truth.field == number) & bright)
        here = truth.take(index)
        first, second = np.triu_indices(len(index), 1)
        with np.errstate(invalid="ignore"):
            between = np.abs(here.chan[first] - here.chan[second])
            apart = between > 0.5 * (here.line_fwhm[first] + here.line_fwhm[second])
        count = hit[index][first].astype(np.int64) + hit[index][second]
        parts.append((np.full(first.size, number), separations(here, here)[first, second], count, apart))
    if not parts:
        return ClosePairs(np.empty(0, np.int64), np.empty(0), np.empty(0, np.int64), np.empty(0, bool))
    return ClosePairs(*(np.concatenate(column) for column in zip(*parts, strict=True)))


def _resolved(pairs: ClosePairs, chosen: NDArray[np.bool_]) -> dict[str, float]:
    both = int((pairs.found[chosen] == 2).sum())
    return {"n": int(chosen.sum()), "both": both, "recall": ratio(both, int(chosen.sum()))}


def snr_at_half(snr: NDArray[np.float64], hit: NDArray[np.bool_], weight: NDArray[np.float64] | None = None) -> float:
    """SNR at 50 % completeness: maximum-likelihood logistic curve in log SNR.

    Parameters
    ----------
    snr : (n,) float64
    hit : (n,) bool, the source was found
    weight : (n,) float64, how often each source counts; once unless given

    Returns
    -------
    float : NaN when all or none were found, or when the brighter ones were not found more often
    """
    good = np.isfinite(snr) & (snr > 0.0)
    w = np.ones(len(snr)) if weight is None else np.asarray(weight, dtype=float)
    good &= w > 0.0
    s, h, w = np.log(snr[good]), hit[good], w[good]
    if h.size == 0 or h.all() or not h.any():
        return float("nan")

    def loss(p: NDArray) -> float:
        # The slope is held below 30 by a weak prior: two separated groups would make it infinite.
        z = p[1] * (s - p[0])
        return float((w * np.logaddexp(0.0, np.where(h, -z, z))).sum() + 0.5 * (p[1] / 30.0) ** 2)

    middle = 0.5 * (np.median(s[h]) + np.median(s[~h]))
    best = minimize(loss, np.array([middle, 3.0]), method="Nelder-Mead", options={"maxiter": 2000})
    if best.x[1] <= 0.0 or not s.min() - 1.0 <= best.x[0] <= s.max() + 1.0:
        return float("nan")
    return float(np.exp(best.x[0]))
