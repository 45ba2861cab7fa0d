"""Errors of scores by bootstrap over fields: fields are drawn anew with replacement, sources within them stay.

Sources of one field share its noise and its blends, so fields, not sources, are the independent unit
(Efron & Tibshirani 1993, An Introduction to the Bootstrap, chapter 8).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from casa_deepfocus.core.residuals import PARAMETERS, judged, residuals
from casa_deepfocus.core.scores import close_pairs, line_only, outcome, snr_at_half
from training.score import Score

DRAWS = 1000
FIT_DRAWS = 100
"""Draws for what needs a fit each."""

SEED = 19790101


class Bootstrap:
    """Drawn sets of fields.

    Parameters
    ----------
    fields : (k,) int, numbers of all fields, also those without sources
    draws : int
    seed : int
    """

    def __init__(self, fields: ArrayLike, draws: int = DRAWS, seed: int = SEED) -> None:
        self.fields = np.unique(np.asarray(fields, dtype=np.int64))
        size = self.fields.size
        rng = np.random.default_rng(seed)
        # (draws, k): how often each field is in each draw.
        self.counts = rng.multinomial(size, np.full(size, 1.0 / size), draws).astype(float)

    def sums(self, values: ArrayLike, field: NDArray[np.int64]) -> NDArray[np.float64]:
        """(draws,) sums of values (n,) that belong to the fields `field` (n,)."""
        place = np.searchsorted(self.fields, field)
        return self.counts @ np.bincount(place, np.asarray(values, dtype=float), self.fields.size)

    def total(self, values: ArrayLike, field: NDArray[np.int64]) -> float:
        """Error of a sum."""
        return _spread(self.sums(values, field))

    def ratio(self, part: ArrayLike, whole: ArrayLike, field: NDArray, of: NDArray | None = None) -> float:
        """Error of sum(part) / sum(whole); `field` those of part, `of` those of whole where they differ."""
        return _spread(_divide(self.sums(part, field), self.sums(whole, field if of is None else of)))

    def mean(self, values: NDArray, field: NDArray) -> float:
        """Error of a mean."""
        return self.ratio(values, np.ones(len(values)), field)

    def std(self, values: NDArray, field: NDArray) -> float:
        """Error of a standard deviation."""
        number = self.sums(np.ones(len(values)), field)
        mean, square = (_divide(self.sums(v, field), number) for v in (values, values**2))
        return _spread(np.sqrt(np.maximum(square - mean**2, 0.0)))

    def weights(self, draw: int, field: NDArray) -> NDArray[np.float64]:
        """(n,) how often each item of the fields `field` is in one draw."""
        return self.counts[draw, np.searchsorted(self.fields, field)]


def _divide(part: NDArray, whole: NDArray) -> NDArray:
    return np.divide(part, whole, out=np.full(part.shape, np.nan), where=whole > 0.0)


def _spread(values: NDArray) -> float:
    good = values[np.isfinite(values)]
    return float(good.std()) if good.size > 1 else float("nan")


def score_errors(score: Score, fields: ArrayLike) -> dict[str, Any]:
    """Standard errors of a score, under the names that they have there.

    Parameters
    ----------
    score : Score
    fields : (k,) int, all fields that were searched and are meant to hold sources

    Returns
    -------
    dict : physical, deepfocus, residuals, residuals_all; NaN where there is nothing to count
    """
    sample = Bootstrap(np.union1d(np.asarray(fields, dtype=np.int64), score.truth.field))
    return {
        "physical": _physical(score, sample),
        "deepfocus": _deepfocus(score, sample),
        "residuals": _residuals(score, sample, score.residuals, None),
        "residuals_all": _residuals(score, sample, score.residuals_all, 0.0),
    }


def _physical(score: Score, sample: Bootstrap) -> dict[str, Any]:
    truth, found, matching = score.truth, score.found, score.matching
    o, t, f = outcome(truth, matching), truth.field, found.field
    false = np.zeros(len(found))
    false[matching.false_positives] = 1.0
    double = np.zeros(len(found))
    double[matching.duplicates] = 1.0
    wanted = np.ones(len(found))
    wanted[matching.tolerated] = 0.0
    right = np.zeros(len(found))
    right[matching.pairs[:, 1]] = 1.0
    pairs = close_pairs(truth, o.hit, o.bright)
    out: dict[str, Any] = {
        "recall": sample.ratio(o.hit, o.asked, t),
        "recall_snr5": sample.ratio(o.hit & o.bright, o.bright, t),
        "recall_sky": sample.ratio(o.seen, o.asked, t),
        "recall_sky_snr5": sample.ratio(o.seen & o.bright_sky, o.bright_sky, t),
        "precision": sample.ratio(right, wanted, f),
        "false_positives": sample.total(false, f),
        "duplicates": sample.total(double, f),
        "snr50": _snr50(score, sample, o.asked, o.hit),
        "snr50_line_only": _snr50(score, sample, o.asked & line_only(truth), o.hit),
        "completeness": [],
    }
    for row in score.physical["completeness"]:
        inside = o.asked & (truth.snr >= row["low"]) & (truth.snr < row["high"])
        out["completeness"].append(sample.ratio(inside & o.hit, inside, t))
    for name, chosen in (("blends_beam", pairs.beam_apart()), ("blends_half", pairs.half_beam_apart())):
        out[name] = sample.ratio(chosen & (pairs.found == 2), chosen, pairs.field)
    return out


def _snr50(score: Score, sample: Bootstrap, chosen: NDArray[np.bool_], hit: NDArray[np.bool_]) -> float:
    snr, field = score.truth.snr[chosen], score.truth.field[chosen]
    if not chosen.any():
        return float("nan")
    fits = [snr_at_half(snr, hit[chosen], sample.weights(draw, field)) for draw in range(FIT_DRAWS)]
    return _spread(np.array(fits))


def _deepfocus(score: Score, sample: Bootstrap) -> dict[str, float]:
    truth, found, boxes = score.truth, score.found, score.boxes
    t, f = truth.field, found.field
    hit, right = np.zeros(len(truth)), np.zeros(len(found))
    hit[boxes.pairs[:, 0]] = 1.0
    right[boxes.pairs[:, 1]] = 1.0
    lenient = sample.sums(boxes.passed, t)
    return {
        "recall": sample.ratio(hit, np.ones(len(truth)), t),
        "precision": sample.ratio(right, np.ones(len(found)), f),
        "mean_iou": sample.mean(boxes.iou, t[boxes.pairs[:, 0]]),
        "false_positives": sample.total(1.0 - right, f),
        "recall_lenient": sample.ratio(boxes.passed, np.ones(len(truth)), t),
        "precision_lenient": _spread(_divide(lenient, lenient + sample.sums(boxes.surplus, boxes.fields))),
        "false_positives_lenient": sample.total(boxes.surplus, boxes.fields),
    }


def _residuals(score: Score, sample: Bootstrap, table: dict[str, Any], min_snr: float | None) -> dict[str, Any]:
    truth, found = score.truth, score.found
    pairs = judged(truth, score.matching.main_pairs, *(() if min_snr is None else (min_snr,)))
    out = {}
    for name in PARAMETERS:
        rest = residuals(truth, found, pairs, name)
        field = truth.field[rest.pairs[:, 0]]
        over, rated = np.isfinite(rest.over_bound), np.isfinite(rest.pull)
        out[name] = {
            "bias": sample.mean(rest.value, field),
            "std": sample.std(rest.value, field),
            "over_crlb": sample.std(rest.over_bound[over], field[over]),
            "coverage68": sample.mean((np.abs(rest.pull[rated]) <= 1.0).astype(float), field[rated]),
        }
    return {name: out[name] for name in table}


def poisson_upper(count: int, level: float = 0.95) -> float:
    """Upper limit of a Poisson mean, one-sided, of which `count` events were seen (Gehrels 1986)."""
    return float(stats.chi2.ppf(level, 2 * (count + 1)) / 2.0)
