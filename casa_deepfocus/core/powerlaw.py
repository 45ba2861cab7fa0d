"""Continuum flux densities at several frequencies: a power law through them, and what does not follow one.

ln S against ln f, least squares weighted by S / error. The error of ln S depends on S itself, and a flux that noise
made too high would count for too much: so the weights are those of the power law, S is compared with it, not ln S,
and both are iterated (Gauss-Newton in ln S0 and the index). To first order that is the linear fit, without its bias.

An image made of the data of several windows tells nothing new of those that measured the source themselves. It is
split: with weights by inverse variance, its flux is (A S_a + B S_b) / (A + B), of which A and S_a, the sum of 1 /
error^2 and the mean of these windows, are known. What is left, S_b at its own mean frequency with 1 / error^2 = B, is
what the other windows tell, and is independent.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import chi2

TELLS_NOTHING = float(5.0 / np.sqrt(12.0))
"""Error of a spectral index above which it says nothing (1.44): the scatter of indices spread evenly from -1
(synchrotron emission) to 4 (dust), which is what is known without a measurement."""

STEEPEST = 4.0
"""Index up to which a difference of fluxes may be one of frequencies (dust, optically thin)."""

LEAST_REST = 0.25
"""Share of an image's information (1 / error^2) that windows without a measurement must have: with less, an error of
the flux scale of 3 % between image and windows becomes more than 9 % of what is left."""

SCALE = 0.05
"""Error of the flux scale from window to window, for the flag only (5 %, ALMA Technical Handbook, on flux
calibration)."""

BY_CHANCE = 1e-4
"""Probability below which measurements disagree."""

STEPS = 10
"""Steps of Gauss-Newton from a flat spectrum; for indices of -1 to 4 from 90 to 345 GHz that is within a thousandth of
the error of where they end (tested)."""


@dataclass(frozen=True)
class Continuum:
    """Continua of n sources.

    Attributes
    ----------
    flux, error : (n,) float [Jy]
        At `freq`; NaN where nothing was measured.
    freq : (n,) float [Hz]
        The reference frequency, where the measurements reach it and there is an index; else the end of their range
        next to it, or without an index their weighted mean frequency.
    index, index_error : (n,) float
        S ~ f^index; NaN where the measurements do not tell it.
    number : (n,) int
        Independent measurements.
    deviates : (n,) bool
        They follow no power law.
    """

    flux: NDArray[np.float64]
    error: NDArray[np.float64]
    freq: NDArray[np.float64]
    index: NDArray[np.float64]
    index_error: NDArray[np.float64]
    number: NDArray[np.int64]
    deviates: NDArray[np.bool_]


def split(
    flux: NDArray, error: NDArray, freq: NDArray, image: int, parts: NDArray[np.bool_]
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Fluxes, errors and frequencies with an image replaced by what it tells beyond its parts.

    Parameters
    ----------
    flux, error, freq : (n, m) float [Jy, Jy, Hz] of n sources in m cubes; NaN where not measured
    image : int
        The image's column.
    parts : (m,) bool
        The cubes whose data it is made of.

    Returns
    -------
    flux, error, freq : (n, m); the image is NaN where it tells nothing new
    """
    flux, error, freq = flux.copy(), error.copy(), freq.copy()
    measured = np.isfinite(flux[:, parts]) & np.isfinite(error[:, parts])
    weight = np.where(measured, 1.0 / np.where(measured, error[:, parts], 1.0) ** 2, 0.0)
    whole = 1.0 / error[:, image] ** 2
    rest = whole - weight.sum(axis=1)
    some = measured.any(axis=1)
    enough = rest >= LEAST_REST * whole
    with np.errstate(invalid="ignore", divide="ignore"):
        of_rest = [
            (values[:, image] * whole - (np.where(measured, values[:, parts], 0.0) * weight).sum(axis=1)) / rest
            for values in (flux, freq)
        ]
        rest_error = 1.0 / np.sqrt(rest)
    # What is left is of the parts that were not measured; the weights are not quite those of the image.
    others = ~measured & np.isfinite(freq[:, parts])
    enough &= others.any(axis=1)
    low = np.min(freq[:, parts], axis=1, where=others, initial=np.inf)
    high = np.max(freq[:, parts], axis=1, where=others, initial=-np.inf)
    of_rest[1] = np.clip(of_rest[1], low, high)
    for values, left in zip((flux, error, freq), (of_rest[0], rest_error, of_rest[1]), strict=True):
        values[some, image] = np.where(enough, left, np.nan)[some]
    return flux, error, freq


def fit(flux: NDArray, error: NDArray, freq: NDArray, reference: float) -> Continuum:
    """Power laws through independent measurements.

    Parameters
    ----------
    flux, error, freq : (n, m) float [Jy, Jy, Hz] of n sources in m cubes; NaN where not measured
    reference : float [Hz]

    Returns
    -------
    Continuum
    """
    used = np.isfinite(flux) & np.isfinite(error) & np.isfinite(freq) & (error > 0) & (freq > 0)
    number = used.sum(axis=1)
    s, e = np.where(used, flux, 0.0), np.where(used, error, 1.0)
    weight = np.where(used, 1.0 / e**2, 0.0)
    with np.errstate(invalid="ignore", divide="ignore"):
        total = weight.sum(axis=1)
        mean, mean_error = (weight * s).sum(axis=1) / total, 1.0 / np.sqrt(total)
        lnf = np.where(used, np.log(np.where(used, freq, 1.0)), 0.0)
        middle = (weight * lnf).sum(axis=1) / total
    x = np.where(used, lnf - np.nan_to_num(middle)[:, None], 0.0)
    positive = (number >= 2) & (np.nan_to_num(mean) > 0)
    index, index_error, lns, covariance = _power_law(s, e, x, used, positive)
    told = positive & (index_error <= TELLS_NOTHING)
    # No flux outside of the frequencies measured: an index is not to be trusted there.
    low = np.min(lnf, axis=1, where=used, initial=np.inf)
    high = np.max(lnf, axis=1, where=used, initial=-np.inf)
    at = np.clip(np.log(reference), low, high) if reference > 0 else middle
    with np.errstate(invalid="ignore", over="ignore"):
        shift = at - middle
        here = np.exp(lns + index * shift)
        spread = covariance[:, 0, 0] + 2 * shift * covariance[:, 0, 1] + shift**2 * covariance[:, 1, 1]
        out_flux = np.where(told, here, mean)
        out_error = np.where(told, here * np.sqrt(np.maximum(spread, 0.0)), mean_error)
        out_freq = np.exp(np.where(told, at, middle))
    out_freq[number == 0] = np.nan
    for values, blind in zip((out_flux, out_error), _without_frequency(flux, error), strict=True):
        values[number == 0] = blind[number == 0]
    return Continuum(
        out_flux, out_error, out_freq, np.where(told, index, np.nan), np.where(told, index_error, np.nan),
        number.astype(np.int64), _deviates(s, e, x, used, told, index, lns, mean),
    )  # fmt: skip


def _without_frequency(flux: NDArray, error: NDArray) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """(n,) weighted means of all fluxes, of images whose frequency is not known, and their errors."""
    known = np.isfinite(flux) & (error > 0)
    weight = np.where(known, 1.0 / np.where(known, error, 1.0) ** 2, 0.0)
    with np.errstate(invalid="ignore", divide="ignore"):
        total = weight.sum(axis=1)
        return (weight * np.where(known, flux, 0.0)).sum(axis=1) / total, np.where(total > 0, total**-0.5, np.nan)


def _power_law(
    s: NDArray, e: NDArray, x: NDArray, used: NDArray, positive: NDArray
) -> tuple[NDArray, NDArray, NDArray, NDArray]:
    """Index, its error, ln flux at x = 0, and their covariance (n, 2, 2) in the order ln flux, index."""
    n = len(s)
    nothing = np.full(n, np.nan), np.full(n, np.inf), np.full(n, np.nan), np.full((n, 2, 2), np.nan)
    if not positive.any():
        return nothing
    index, index_error, lns, covariance = nothing
    s, e, x, used = s[positive], e[positive], x[positive], used[positive]
    with np.errstate(invalid="ignore", divide="ignore"):
        first = (s / e**2).sum(axis=1, where=used) / (1 / e**2).sum(axis=1, where=used)
    a, b = np.log(first), np.zeros(len(s))
    matrix = np.zeros((len(s), 2, 2))
    for _ in range(STEPS):
        model = np.exp(a[:, None] + b[:, None] * x)
        w = np.where(used, (model / e) ** 2, 0.0)
        r = np.where(used, s / model - 1.0, 0.0)
        m0, m1, m2 = w.sum(axis=1), (w * x).sum(axis=1), (w * x * x).sum(axis=1)
        determinant = m0 * m2 - m1 * m1
        # Frequencies that are one: the flux alone.
        single = ~(determinant > 1e-12 * m0 * m0)
        safe = np.where(single, 1.0, determinant)
        matrix = np.stack([np.stack([m2, -m1], -1), np.stack([-m1, m0], -1)], -2) / safe[:, None, None]
        matrix[single] = np.stack([[1.0, 0.0], [0.0, 0.0]]) / m0[single, None, None]
        step = np.einsum("nij,nj->ni", matrix, np.stack([(w * r).sum(axis=1), (w * r * x).sum(axis=1)], -1))
        # A step beyond what a flux can change by is not linear any more.
        step = np.clip(step, [-2.0, -10.0], [2.0, 10.0])
        a, b = a + step[:, 0], np.clip(b + step[:, 1], -30.0, 30.0)
        matrix[single, 1, 1] = np.inf
    index[positive], lns[positive], covariance[positive] = b, a, matrix
    index_error[positive] = np.sqrt(matrix[:, 1, 1])
    return index, index_error, lns, covariance


def _deviates(
    s: NDArray, e: NDArray, x: NDArray, used: NDArray, told: NDArray, index: NDArray, lns: NDArray, mean: NDArray
) -> NDArray[np.bool_]:
    """(n,) bool: the measurements are on no power law, by their errors and that of the flux scale.

    Without an index any up to `STEEPEST` would do.
    """
    number = used.sum(axis=1)
    with np.errstate(invalid="ignore", over="ignore"):
        law = np.exp(lns[:, None] + np.where(told, index, 0.0)[:, None] * x)
        model = np.where(told[:, None], law, mean[:, None])
        variance = e**2 + (SCALE * model) ** 2 + np.where(told[:, None], 0.0, STEEPEST * x * model) ** 2
        misfit = np.where(used, (s - model) ** 2 / variance, 0.0).sum(axis=1)
    freedom = number - 1 - told
    return (freedom > 0) & (chi2.sf(misfit, np.maximum(freedom, 1)) < BY_CHANCE)
