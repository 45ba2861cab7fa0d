"""Sizes from a fitted covariance: the posterior mean of the FWHM along both axes.

The fit measures the covariance without bias, but its eigenvalues are biased: noise drives them
apart, as it makes a polarisation from none (Wardle & Kronberg 1974, 10.1086/153240); those of a
source that is not resolved are negative half of the time; and a square root has a mean of its
own. Taking roots of the positive eigenvalues leaves the minor axis too small on the average, with
many at 0.

Instead, sizes are averaged over all positive definite covariances, with the weight of the fit's
normal errors and a prior density p(major, minor, angle) ~ major^0.5 minor^2.5. Of sources whose axes
differ by more than their errors the mean would be unbiased to first order in the noise with major^2
minor^2 (an asymptotically unbiased prior, Hartigan 1965, 10.1214/aoms/1177699988: the root's bias is
-1/8, the posterior's skewness -3/8 and the prior's +2/4 of variance / size^3, and a density that is
flat in the difference of the axes undoes their repulsion). A size is never 0; that of a source that
is not resolved is as large as its error allows.

What stays is the order of the axes. Of two that are equal within their errors the longer one found is the major
one, so that near a round source the major axis is too long on the average and the minor one too short, by less
than their errors. No estimate that keeps the order is free of it. The density taken, which expects rounder and
smaller sources than the unbiased one, sets it off on the average over the sources of the paper's cubes, as the fit
finds them; what is left of other populations is printed by ``python -m benchmarks sizes``.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from casa_deepfocus.core.geometry import FWHM_PER_SIGMA, covariance_to_shape

DENSITY = (0.5, 2.5)
"""Powers of the major and of the minor axis in the prior density of a covariance's axes."""

REACH = 5.0
"""Standard deviations over which the posterior is summed."""

STEPS = 24
"""Steps of the sum in the mean of the variances along the axes, and in half of their difference."""

ANGLES = 32
"""Steps in the position angle."""


def sizes(
    covariance: NDArray, matrix: NDArray, density: tuple[float, float] = DENSITY
) -> tuple[float, float, float, float]:
    """FWHM of a fitted Gaussian, and their errors.

    Parameters
    ----------
    covariance : (3,) [pixel^2] : sxx, syy, sxy, as fitted: may be negative along an axis
    matrix : (3, 3) [pixel^4], its error covariance
    density : (2,) powers of the major and the minor axis in the prior density

    Returns
    -------
    major, minor, and the error of each : float [pixel], mean and standard deviation of the posterior; where the
        matrix is none, of a shape that was not fitted, the roots of the eigenvalues and NaN
    """
    # Mean variance along the axes, and the two components of half of their difference.
    turned = np.array([[0.5, 0.5, 0.0], [-0.5, 0.5, 0.0], [0.0, 0.0, -1.0]])
    centre, spread = turned @ covariance, turned @ matrix @ turned.T
    if not np.isfinite(spread).all() or np.linalg.eigvalsh(spread)[0] <= 0:
        roots = covariance_to_shape(covariance)
        return float(roots[0]), float(roots[1]), np.nan, np.nan
    error = REACH * np.sqrt(np.diag(spread))
    width = REACH * np.sqrt(np.linalg.eigvalsh(spread[1:, 1:])[1])
    split, towards = float(np.hypot(*centre[1:])), float(np.arctan2(centre[2], centre[1]))
    least = max(split - width, 0.0)
    mean = _steps(max(centre[0] - error[0], least), max(centre[0], least) + error[0], STEPS)
    # Far from a round source only angles nearby agree with the fit.
    turn = np.pi if split < 1.2 * width else 1.2 * float(np.arcsin(width / split))
    m, part, phi = np.meshgrid(mean, _steps(0.0, 1.0, STEPS), towards + _steps(-turn, turn, ANGLES), indexing="ij")
    # Of each mean, the differences that leave the minor axis positive.
    span = np.minimum(split + width, m) - least
    d = least + part * span
    offsets = np.stack([m - centre[0], d * np.cos(phi) - centre[1], d * np.sin(phi) - centre[2]])
    pulls = np.linalg.inv(np.linalg.cholesky(spread)) @ offsets.reshape(3, -1)
    chi2 = np.square(pulls).sum(axis=0).reshape(m.shape)
    low, high = m - d, m + d
    # The prior in these coordinates: size^n d(size) is half of size^(n - 1) d(variance).
    prior = high ** (0.5 * (density[0] - 1.0)) * low ** (0.5 * (density[1] - 1.0))
    weight = np.exp(-0.5 * (chi2 - chi2.min())) * prior * span
    weight /= weight.sum()
    moments = []
    for variance in (high, low):
        size = FWHM_PER_SIGMA * np.sqrt(variance)
        value = float((weight * size).sum())
        moments.append((value, float(np.sqrt((weight * (size - value) ** 2).sum()))))
    return moments[0][0], moments[1][0], moments[0][1], moments[1][1]


def _steps(start: float, stop: float, number: int) -> NDArray[np.float64]:
    """Middles of `number` equal steps."""
    return start + (stop - start) * (np.arange(number) + 0.5) / number
