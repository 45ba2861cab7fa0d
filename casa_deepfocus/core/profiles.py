"""Brightness profiles of sources: a Gaussian, or an exponential disc as concentric Gaussians of fixed ratios.

Seen at an inclination, an exponential disc of scale length h has the transform (1 + q^2)^(-3/2) along each of its axes,
with q = 2 pi h f; a sum of a_k exp(-r_k (3 h^2) (2 pi f)^2 / 2) describes it to a few parts in 1e6, with no further
parameter (the way of Hogg & Lang 2013, PASP 125, 719, for what interferometers see of it). So images, transforms and
gradients stay those of Gaussians. The covariance of a source is always that of its second moments.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from casa_deepfocus.core.geometry import covariance_to_shape, peak_over_flux
from casa_deepfocus.core.psf import gaussian_transform

GAUSSIAN, EXPONENTIAL = "gaussian", "exponential"

PARTS: dict[str, tuple[NDArray[np.float64], NDArray[np.float64]]] = {
    GAUSSIAN: (np.ones(1), np.ones(1)),
    EXPONENTIAL: (
        np.array([0.03576700, 0.23011498, 0.51375390, 0.22036412]),
        np.array([0.04015561, 0.23011416, 0.81401070, 2.39335631]),
    ),
}
"""Fluxes (n,) and variances (n,) of the Gaussians of a source of flux 1 and of variance 1 along each axis, of each
profile. Those of the exponential are what `python -m benchmarks profiles` fits to its transform, for discs of 0.3 to 6
beams seen through a Gaussian beam, all of them weighing the same."""

_SIZES = np.array([0.0, 0.3, 0.6, 1.0, 2.0, 4.0])
_MISMATCH = np.array([0.0, 9.5e-6, 3.8e-4, 2.4e-3, 1.2e-2, 2.5e-2])
"""1 - rho^2 of the best Gaussian and an exponential disc, both through the beam, by the disc's size [beam, FWHM of its
second moments], from the same command."""


def mismatch(covariance: ArrayLike, beam_fwhm: float) -> float:
    """Share of a disc's SNR^2 that the best Gaussian in its place leaves.

    Parameters
    ----------
    covariance : (3,) [pixel^2], intrinsic
    beam_fwhm : float [pixel]
    """
    major, minor, _ = covariance_to_shape(np.asarray(covariance, dtype=float))
    return float(np.interp(np.sqrt(max(major * minor, 0.0)) / beam_fwhm, _SIZES, _MISMATCH))


def profile_transform(
    shape: tuple[int, int], x: float, y: float, covariance: ArrayLike, profile: str
) -> NDArray[np.complex64]:
    """Transform of a source of unit flux; as `core.psf.gaussian_transform`, of any profile of `PARTS`."""
    return profile_transforms(shape, x, y, covariance, profile)[0]


def profile_transforms(
    shape: tuple[int, int], x: float, y: float, covariance: ArrayLike, profile: str
) -> tuple[NDArray[np.complex64], NDArray[np.complex64]]:
    """Transform T of a source of unit flux, and D, which its derivatives by the covariance are made of.

    dT / d sxx = -2 pi^2 fx^2 D, likewise syy, and -4 pi^2 fx fy D for sxy; of a Gaussian D is T.

    Parameters
    ----------
    shape : (ny, nx) of the periodic grid
    x, y : float [pixel], centre
    covariance : (3,) [pixel^2] : sxx, syy, sxy of the second moments
    profile : str, one of `PARTS`

    Returns
    -------
    two of (ny, nx//2 + 1) complex64
    """
    covariance = np.asarray(covariance, dtype=float)
    if profile == GAUSSIAN:
        whole = gaussian_transform(shape, x, y, covariance)
        return whole, whole
    fluxes, variances = PARTS[profile]
    whole = np.zeros((shape[0], shape[1] // 2 + 1), np.complex64)
    slope = np.zeros_like(whole)
    for flux, variance in zip(fluxes, variances, strict=True):
        part = np.float32(flux) * gaussian_transform(shape, x, y, variance * covariance)
        whole += part
        slope += np.float32(variance) * part
    return whole, slope


def observed_peak(covariance: ArrayLike, beam_covariance: ArrayLike, profile: str) -> float:
    """Peak [Jy/beam] of a source of flux 1 Jy seen by a Gaussian beam; covariances (3,) [pixel^2]."""
    fluxes, variances = PARTS[profile]
    covariance = np.asarray(covariance, dtype=float)
    return float(
        sum(a * peak_over_flux(r * covariance, beam_covariance) for a, r in zip(fluxes, variances, strict=True))
    )
