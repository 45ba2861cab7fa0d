"""Gaussian shapes: FWHM and position angle on one side, covariance matrices on the other.

Pixel axes: +x is west (right ascension falls with x), +y is north. A position angle PA, north
through east, therefore points along (-sin PA, cos PA). Shapes are stored as covariances
(sxx, syy, sxy) [pixel^2], because these stay smooth through the round and the unresolved case.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

FWHM_PER_SIGMA = float(2.0 * np.sqrt(2.0 * np.log(2.0)))
"""FWHM of a Gaussian of standard deviation 1 (2.3548)."""

GAUSSIAN_AREA = float(np.pi / (4.0 * np.log(2.0)))
"""Area of a 2D Gaussian of peak 1 and FWHM 1 x 1 (1.1331)."""

GAUSSIAN_LINE = float(np.sqrt(np.pi / (4.0 * np.log(2.0))))
"""Integral of a 1D Gaussian of peak 1 and FWHM 1 (1.0645)."""


def shape_to_covariance(fwhm_maj: ArrayLike, fwhm_min: ArrayLike, pa: ArrayLike) -> NDArray[np.float64]:
    """Covariance of a Gaussian from its FWHM and position angle.

    Parameters
    ----------
    fwhm_maj, fwhm_min : array_like, any shape [pixel]
    pa : array_like [deg], north through east

    Returns
    -------
    (..., 3) float64 : sxx, syy, sxy [pixel^2]
    """
    s1 = (np.asarray(fwhm_maj, dtype=float) / FWHM_PER_SIGMA) ** 2
    s2 = (np.asarray(fwhm_min, dtype=float) / FWHM_PER_SIGMA) ** 2
    angle = np.deg2rad(np.asarray(pa, dtype=float))
    sin, cos = np.sin(angle), np.cos(angle)
    return np.stack(
        np.broadcast_arrays(s1 * sin**2 + s2 * cos**2, s1 * cos**2 + s2 * sin**2, -(s1 - s2) * sin * cos), axis=-1
    )


def covariance_to_shape(covariance: ArrayLike) -> tuple[NDArray, NDArray, NDArray]:
    """FWHM (major, minor) and position angle of covariances; the inverse of `shape_to_covariance`.

    Parameters
    ----------
    covariance : (..., 3) array_like [pixel^2] : sxx, syy, sxy

    Returns
    -------
    fwhm_maj, fwhm_min : (...) float64 [pixel]; 0 along an axis whose variance is not positive
    pa : (...) float64 [deg], in [0, 180)
    """
    sxx, syy, sxy = np.moveaxis(np.asarray(covariance, dtype=float), -1, 0)
    mean, diff = 0.5 * (sxx + syy), 0.5 * (syy - sxx)
    root = np.hypot(diff, sxy)
    fwhm_maj = FWHM_PER_SIGMA * np.sqrt(np.maximum(mean + root, 0.0))
    fwhm_min = FWHM_PER_SIGMA * np.sqrt(np.maximum(mean - root, 0.0))
    pa = np.rad2deg(0.5 * np.arctan2(-sxy, diff)) % 180.0
    return fwhm_maj, fwhm_min, np.where(pa >= 180.0, 0.0, pa)


def gaussian_image(shape: tuple[int, int], x: float, y: float, covariance: ArrayLike) -> NDArray[np.float64]:
    """A 2D Gaussian of peak 1 on a pixel grid.

    Parameters
    ----------
    shape : (ny, nx)
    x, y : float [pixel], the centre
    covariance : (3,) [pixel^2] : sxx, syy, sxy; must be positive definite

    Returns
    -------
    (ny, nx) float64
    """
    sxx, syy, sxy = np.asarray(covariance, dtype=float)
    det = sxx * syy - sxy * sxy
    dy = (np.arange(shape[0]) - y)[:, None]
    dx = (np.arange(shape[1]) - x)[None, :]
    return np.exp(-0.5 * (syy * dx * dx + sxx * dy * dy - 2.0 * sxy * dx * dy) / det)


def peak_over_flux(covariance: ArrayLike, beam_covariance: ArrayLike) -> float:
    """Peak [Jy/beam] of a Gaussian source of flux 1 Jy seen by a Gaussian beam."""
    source, beam = np.asarray(covariance, dtype=float), np.asarray(beam_covariance, dtype=float)
    total = source + beam
    det = total[0] * total[1] - total[2] ** 2
    return float(np.sqrt(max(beam[0] * beam[1] - beam[2] ** 2, 0.0) / det)) if det > 0 else 1.0
