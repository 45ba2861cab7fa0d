"""Residuals of matched sources: bias, scatter, coverage of the errors, scatter over the Cramer-Rao bound."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from casa_deepfocus.core.geometry import FWHM_PER_SIGMA
from casa_deepfocus.core.matching import Sources, separations

PARAMETERS = ("x", "y", "fwhm_maj", "fwhm_min", "pa", "chan", "line_fwhm", "line_flux", "continuum")
"""What is compared; x, y, fwhm_* [pixel], pa [deg], chan, line_fwhm [channel], fluxes relative to the truth."""

MIN_AXIS_RATIO = 1.2
"""Position angles are compared for rounder sources no more."""

ISOLATION = 2.0
"""A source is isolated when no other of its field is nearer [beam FWHM]."""


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
    elif name in ("line_flux", "continuum"):
        scale = np.where(true > 0.0, true, np.nan)
        residual, error = residual / scale, error / scale
    return residual, error


def position_bound(truth: Sources) -> NDArray[np.float64]:
    """Cramer-Rao bound of x and of y [pixel], natural weighting, Gaussian source and beam.

    With noise whose power spectrum is the transform of the PSF, the Fisher information of a shift is
    SNR^2 <k^2>, and <k^2> = 1/(beam sigma^2 + 2 source sigma^2).

    Parameters
    ----------
    truth : Sources; `snr_total` is used where it is known, else `snr`

    Returns
    -------
    (n,) float64 [pixel]; the source taken as round
    """
    source2 = np.nan_to_num(truth.fwhm_maj * truth.fwhm_min) / FWHM_PER_SIGMA**2
    snr = np.where(np.isfinite(truth.snr_total), truth.snr_total, truth.snr)
    return np.sqrt((truth.beam / FWHM_PER_SIGMA) ** 2 + 2.0 * source2) / snr


def channel_bound(truth: Sources) -> NDArray[np.float64]:
    """Cramer-Rao bound of the line's centre [channel]: sqrt(2) sigma / SNR for white noise."""
    return np.sqrt(2.0) * truth.line_fwhm / FWHM_PER_SIGMA / truth.snr


def robust_std(values: NDArray[np.float64]) -> float:
    """Standard deviation from the median absolute deviation; NaN for no values."""
    return float(1.4826 * np.median(np.abs(values - np.median(values)))) if values.size else float("nan")


def summarise(truth: Sources, found: Sources, pairs: NDArray[np.int64]) -> dict[str, dict[str, float]]:
    """Statistics of the residuals of the isolated ones among matched sources.

    Parameters
    ----------
    truth, found : Sources
    pairs : (m, 2) int, e.g. `Matching.pairs`

    Returns
    -------
    dict of dict : for each of `PARAMETERS` n, bias (mean), std, robust_std, coverage68 (fraction of residuals
        within the catalogue's error), pull_std (robust, of residual / error); for x, y and chan also over_bound
        (robust std of residual / Cramer-Rao bound). NaN where there is nothing to count.
    """
    chosen = pairs[isolated(truth)[pairs[:, 0]]] if len(pairs) else pairs
    bounds = {"x": position_bound(truth), "y": position_bound(truth), "chan": channel_bound(truth)}
    table = {}
    for name in PARAMETERS:
        residual, error = difference(truth, found, chosen, name)
        good = np.isfinite(residual)
        rated = good & (error > 0.0)
        values, pulls = residual[good], residual[rated] / error[rated]
        row = {
            "n": int(good.sum()),
            "bias": float(values.mean()) if values.size else float("nan"),
            "std": float(values.std()) if values.size else float("nan"),
            "robust_std": robust_std(values),
            "coverage68": float((np.abs(pulls) <= 1.0).mean()) if pulls.size else float("nan"),
            "pull_std": robust_std(pulls),
        }
        if name in bounds:
            ratio = residual[good] / bounds[name][chosen[good, 0]]
            row["over_bound"] = robust_std(ratio[np.isfinite(ratio)])
        table[name] = row
    return table
