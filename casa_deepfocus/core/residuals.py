"""Residuals of matched sources: bias, scatter, coverage of the errors, scatter over the Cramer-Rao bound."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray
from scipy.special import erf

from casa_deepfocus.core.geometry import FWHM_PER_SIGMA
from casa_deepfocus.core.matching import Sources, separations

PARAMETERS = ("x", "y", "fwhm_maj", "fwhm_min", "pa", "chan", "line_fwhm", "line_flux", "continuum")
"""What is compared; x, y, fwhm_* [pixel], pa [deg], chan, line_fwhm [channel], fluxes relative to the truth."""

RELATIVE = ("line_flux", "continuum")
"""Parameters whose residuals are relative to the truth."""

MIN_AXIS_RATIO = 1.2
"""Position angles are compared for rounder sources no more."""

ISOLATION = 2.0
"""A source is isolated when no other of its field is nearer [beam FWHM]."""

CLEAR_SNR = 10.0
"""Parameters are judged for isolated sources above this matched-filter SNR."""

FLUX_EDGES = (5.0, 7.0, 10.0, 15.0, 20.0, 30.0, 50.0, 100.0, np.inf)
"""Bins of matched-filter SNR in which the line's flux is judged."""

FLUX_TOLERANCE = 0.1
"""The relative error of the line's flux that counts as right."""


def isolated(truth: Sources) -> NDArray[np.bool_]:
    """(n,) bool: sources with no neighbour within ISOLATION beams on the sky."""
    alone = np.ones(len(truth), dtype=bool)
    for number in np.unique(truth.field):
        index = np.flatnonzero(truth.field == number)
        here = truth.take(index)
        apart = separations(here, here)
        np.fill_diagonal(apart, np.inf)
        alone[index] = (apart > ISOLATION).all(axis=1)
    return alone


def judged(truth: Sources, pairs: NDArray[np.int64], min_snr: float = CLEAR_SNR) -> NDArray[np.int64]:
    """(m, 2) those of `pairs` whose source is isolated and above an SNR."""
    keep = isolated(truth) & ~(truth.snr <= min_snr)
    return pairs[keep[pairs[:, 0]]] if len(pairs) else pairs


@dataclass(frozen=True)
class Residuals:
    """Found minus true of one parameter, for the pairs in which both sides have a value.

    Attributes
    ----------
    pairs : (m, 2) int64, indices into truth and catalogue
    value : (m,) float64
    error : (m,) float64, the catalogue's 68 % error; NaN where it has none
    bound : (m,) float64, Cramer-Rao bound; NaN where it is not known
    """

    pairs: NDArray[np.int64]
    value: NDArray[np.float64]
    error: NDArray[np.float64]
    bound: NDArray[np.float64]

    @property
    def over_bound(self) -> NDArray[np.float64]:
        """(m,) value / bound; NaN where the bound is not known, 0, or infinite: a ratio of 0 would be no scatter."""
        return _ratio(self.value, np.where(np.isfinite(self.bound), self.bound, np.nan))

    @property
    def pull(self) -> NDArray[np.float64]:
        """(m,) value / error; NaN where there is no error."""
        return _ratio(self.value, self.error)


def residuals(truth: Sources, found: Sources, pairs: NDArray[np.int64], name: str) -> Residuals:
    """Residuals of one parameter, in the units of `PARAMETERS`.

    Left out: pairs in which one side has no value, fluxes whose truth is 0, position angles of round sources.

    Parameters
    ----------
    truth, found : Sources
    pairs : (m, 2) int
    name : str, one of `PARAMETERS`
    """
    value, error = difference(truth, found, pairs, name)
    bound = cramer_rao(truth, name)[pairs[:, 0]]
    if name in RELATIVE:
        true = np.abs(getattr(truth, name)[pairs[:, 0]])
        bound = _ratio(bound, true)
    good = np.isfinite(value)
    return Residuals(pairs[good], value[good], error[good], bound[good])


def difference(truth: Sources, found: Sources, pairs: NDArray[np.int64], name: str) -> tuple[NDArray, NDArray]:
    """Found minus true for one parameter, and the catalogue's error.

    Parameters
    ----------
    truth, found : Sources
    pairs : (m, 2) int
    name : str, one of `PARAMETERS`

    Returns
    -------
    residual, error : (m,) float64
        Units of `PARAMETERS`; NaN where either side has no value, the truth is 0 (fluxes), or the source
        is too round (pa). Position angles differ by [-90, 90).
    """
    t, f = pairs[:, 0], pairs[:, 1]
    true, value = getattr(truth, name)[t], getattr(found, name)[f]
    error = found.errors.get(name, np.full(len(found), np.nan))[f]
    residual = value - true
    if name == "pa":
        elongated = truth.fwhm_maj[t] > MIN_AXIS_RATIO * truth.fwhm_min[t]
        residual = np.where(elongated, (residual + 90.0) % 180.0 - 90.0, np.nan)
    elif name in RELATIVE:
        scale = np.where(true != 0.0, np.abs(true), np.nan)
        residual, error = residual / scale, error / scale
    return residual, error


def cramer_rao(truth: Sources, name: str) -> NDArray[np.float64]:
    """(n,) Cramer-Rao bound of a parameter of `PARAMETERS`, in its unit (fluxes in the truth's unit).

    The truth's own where it has one, else the analytic bound of a position or a line's centre; NaN for others.
    """
    analytic = {"x": position_bound, "y": position_bound, "chan": channel_bound}
    known = truth.bounds.get(name, np.full(len(truth), np.nan))
    return np.where(np.isfinite(known), known, analytic[name](truth)) if name in analytic else known


def position_bound(truth: Sources) -> NDArray[np.float64]:
    """Cramer-Rao bound of x and of y [pixel], natural weighting, Gaussian source and beam.

    With noise whose power spectrum is the transform of the PSF, the Fisher information of a shift is
    SNR^2 <k^2>, and <k^2> = 1/(beam sigma^2 + 2 source sigma^2).

    Parameters
    ----------
    truth : Sources; `snr_total` is used where it is known, else `snr`

    Returns
    -------
    (n,) float64 [pixel]; the source taken as round. NaN without signal, as where the SNR is not known
    """
    snr = np.where(np.isfinite(truth.snr_total), truth.snr_total, truth.snr)
    return _ratio(filter_scale(truth), snr)


def filter_scale(truth: Sources) -> NDArray[np.float64]:
    """(n,) [pixel] inverse rms wavenumber of the matched filter's output on the sky, of a round Gaussian."""
    source2 = np.nan_to_num(truth.fwhm_maj * truth.fwhm_min) / FWHM_PER_SIGMA**2
    return np.sqrt((truth.beam / FWHM_PER_SIGMA) ** 2 + 2.0 * source2)


def channel_bound(truth: Sources) -> NDArray[np.float64]:
    """Cramer-Rao bound of the line's centre [channel]: sqrt(2) sigma / SNR for white noise; NaN without signal."""
    return _ratio(channel_scale(truth), truth.snr)


def channel_scale(truth: Sources) -> NDArray[np.float64]:
    """(n,) [channel] inverse rms wavenumber of the matched filter's output along the spectrum."""
    return np.sqrt(2.0) * truth.line_fwhm / FWHM_PER_SIGMA


def _ratio(value: NDArray[np.float64], scale: NDArray[np.float64]) -> NDArray[np.float64]:
    """value / scale; NaN where the scale is not positive."""
    return np.divide(value, scale, out=np.full(value.shape, np.nan), where=scale > 0.0)


def robust_std(values: NDArray[np.float64]) -> float:
    """Standard deviation from the median absolute deviation; NaN for no values."""
    return float(1.4826 * np.median(np.abs(values - np.median(values)))) if values.size else float("nan")


def _mean(values: NDArray) -> float:
    return float(values.mean()) if values.size else float("nan")


def _std(values: NDArray) -> float:
    return float(values.std()) if values.size else float("nan")


def summarise(
    truth: Sources, found: Sources, pairs: NDArray[np.int64], min_snr: float = CLEAR_SNR
) -> dict[str, dict[str, float]]:
    """Statistics of the residuals of isolated sources above an SNR.

    Parameters
    ----------
    truth, found : Sources
    pairs : (m, 2) int, e.g. `Matching.pairs`
    min_snr : float, matched filter

    Returns
    -------
    dict of dict : for each of `PARAMETERS` n, bias (mean), std, robust_std, coverage68 (fraction of residuals
        within the catalogue's error), pull_std (robust, of residual / error), over_crlb (std of residual over
        Cramer-Rao bound) and over_crlb_robust. NaN where there is nothing to count.
    """
    chosen = judged(truth, pairs, min_snr)
    table = {}
    for name in PARAMETERS:
        rest = residuals(truth, found, chosen, name)
        pulls = rest.pull[np.isfinite(rest.pull)]
        over = rest.over_bound[np.isfinite(rest.over_bound)]
        table[name] = {
            "n": int(rest.value.size),
            "bias": _mean(rest.value),
            "std": _std(rest.value),
            "robust_std": robust_std(rest.value),
            "coverage68": _mean(np.abs(pulls) <= 1.0),
            "pull_std": robust_std(pulls),
            "over_crlb": _std(over),
            "over_crlb_robust": robust_std(over),
        }
    return table


def allowed_fraction(bound: NDArray[np.float64], tolerance: float = FLUX_TOLERANCE) -> NDArray[np.float64]:
    """Chance that an unbiased estimate whose relative error is the bound is right within the tolerance."""
    with np.errstate(divide="ignore"):
        return erf(tolerance / (np.sqrt(2.0) * bound))


def line_flux_accuracy(truth: Sources, found: Sources, pairs: NDArray[np.int64]) -> list[dict[str, float]]:
    """How right the line fluxes of isolated sources are, in bins of matched-filter SNR.

    Parameters
    ----------
    truth, found : Sources
    pairs : (m, 2) int

    Returns
    -------
    list of dict : low, high, n, within (fraction within FLUX_TOLERANCE of the truth), within_bound (the
        fraction that the Cramer-Rao bound allows), bias, bias_err (std / sqrt n), std, std_bound (rms bound)
    """
    rest = residuals(truth, found, judged(truth, pairs, 0.0), "line_flux")
    snr = truth.snr[rest.pairs[:, 0]]
    rows = []
    for low, high in pairwise(FLUX_EDGES):
        inside = (snr >= low) & (snr < high)
        value, bound = rest.value[inside], rest.bound[inside]
        bound = bound[np.isfinite(bound)]
        rows.append(
            {
                "low": low,
                "high": high,
                "n": int(inside.sum()),
                "within": _mean(np.abs(value) <= FLUX_TOLERANCE),
                "within_bound": _mean(allowed_fraction(bound)),
                "bias": _mean(value),
                "bias_err": _std(value) / np.sqrt(value.size) if value.size else float("nan"),
                "std": _std(value),
                "std_bound": float(np.sqrt(_mean(bound**2))),
            }
        )
    return rows
