"""The pixel frame and the sky frame: one matrix per place turns shapes and errors from one into the other.

The core fits in pixels, with +x for west and +y for north. On the sky an image may be rotated or mirrored, meridians
converge, projections stretch. All of that is in the Jacobian

    J = d(west, north) / d(x, y)   [arcsec / pixel]

at a place; an offset d becomes J d, a covariance C becomes J C J^T. Without sky coordinates J is the pixel size.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike, NDArray

if TYPE_CHECKING:
    from astropy.wcs import WCS

STEP = 0.5
"""Pixels on either side of a place between which the derivative is taken. Its error, of the third order, is below
1e-9 for pixels of an arcminute; rounding of positions, 1e-13 deg, is 1e-5 of a pixel of 0.1 mas."""

POLE = 1e-10
"""Cosine of the declination below which a place is the pole. North is along the meridian of the reference point there,
one way or the other, which is the axis y of an image that is drawn about the pole."""


def jacobian(wcs: WCS, x: float, y: float) -> NDArray[np.float64]:
    """d(west, north) / d(x, y) [arcsec/pixel] at a pixel, on the sphere.

    Parameters
    ----------
    wcs : astropy.wcs.WCS, two axes (longitude, latitude)
    x, y : float, zero-based pixel

    Returns
    -------
    (2, 2) float64; NaN where the pixel is not on the sky
    """
    pixels = np.array([[x, y], [x + STEP, y], [x - STEP, y], [x, y + STEP], [x, y - STEP]])
    lon, lat = np.deg2rad(np.asarray(wcs.wcs_pix2world(pixels, 0), dtype=float)).T
    points = np.stack([np.cos(lat) * np.cos(lon), np.cos(lat) * np.sin(lon), np.sin(lat)], axis=1)
    ra, dec = float(lon[0]), float(lat[0])
    if abs(np.cos(dec)) < POLE:
        ra = float(np.deg2rad(wcs.wcs.crval[0]))
    west = np.array([np.sin(ra), -np.cos(ra), 0.0])
    north = np.array([-np.sin(dec) * np.cos(ra), -np.sin(dec) * np.sin(ra), np.cos(dec)])
    slopes = np.stack([points[1] - points[2], points[3] - points[4]], axis=1) / (2.0 * STEP)
    return np.rad2deg(np.stack([west, north]) @ slopes) * 3600.0


def operator(matrix: ArrayLike) -> NDArray[np.float64]:
    """(3, 3) matrix that takes (sxx, syy, sxy) of C to that of J C J^T.

    Parameters
    ----------
    matrix : (2, 2), J
    """
    (a, b), (c, d) = np.asarray(matrix, dtype=float)
    return np.array([[a * a, b * b, 2.0 * a * b], [c * c, d * d, 2.0 * c * d], [a * c, b * d, a * d + b * c]])


def transform(covariance: ArrayLike, matrix: ArrayLike) -> NDArray[np.float64]:
    """J C J^T.

    Parameters
    ----------
    covariance : (..., 3) : sxx, syy, sxy
    matrix : (2, 2), J

    Returns
    -------
    (..., 3) float64
    """
    return np.asarray(covariance, dtype=float) @ operator(matrix).T
