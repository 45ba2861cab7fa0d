"""From a source as the antennas see it, sky times primary beam, back to the source on the sky.

Near a source ln PB is a quadratic form of the offset d from the apparent centre,

    ln PB(d) = ln p + g.d + d.H.d / 2 ,

so that a Gaussian on the sky is a Gaussian behind the beam: the beam's slope g moves its centre
(towards the pointing centre) and the curvature H changes its size. With S' the apparent, S the
true covariance, dividing the apparent Gaussian by PB gives, completing the square,

    S = (1 + S' H)^-1 S' ,   mu = mu' - S g ,
    F = F' / p * det(1 + S' H)^(-1/2) * exp(g.S.g / 2) .

No covariance is inverted: these hold for a point (S' = 0: nothing but F = F' / p) and for a
covariance that noise has made slightly negative. A source of FWHM 15 pixels halfway down a beam of
FWHM 270 pixels is seen 0.42 pixel from its place; its flux divided by PB at the apparent centre is
0.5 % low.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

REACH = 2.0
"""Standard deviations of the window within which ln PB is fitted."""

SAMPLES = 24
"""Pixels across the window that are looked at, about; the primary beam is smooth."""

LEAST_KNOWN = 0.5
"""Share of the window in which the primary beam must be known."""

LARGEST_CHANGE = 2.0
"""Ratio of true and apparent variances beyond which a quadratic form does not describe the beam over the source."""


@dataclass(frozen=True, eq=False)
class LocalBeam:
    """The primary beam about a place: ln PB = ln value + gradient.d + d.hessian.d / 2, d [pixel] in (x, y).

    Attributes
    ----------
    value : float, of the fit; NaN where the beam is not known
    pixel : float, (0, 1], of the nearest pixel
    gradient : (2,) float64 [1/pixel]
    hessian : (2, 2) float64 [1/pixel^2]
    """

    value: float
    pixel: float
    gradient: NDArray[np.float64]
    hessian: NDArray[np.float64]

    @classmethod
    def flat(cls, value: float) -> LocalBeam:
        """A beam without slope."""
        return cls(value, value, np.zeros(2), np.zeros((2, 2)))


@dataclass(frozen=True, eq=False)
class OnSky:
    """An apparent Gaussian without the primary beam.

    Attributes
    ----------
    shift : (2,) float64 [pixel], true minus apparent centre (x, y)
    covariance : (3,) float64 [pixel^2] : sxx, syy, sxy
    response : float, apparent over true flux
    jacobian : (5, 5) float64, of the true x, y, sxx, syy, sxy by the apparent ones
    """

    shift: NDArray[np.float64]
    covariance: NDArray[np.float64]
    response: float
    jacobian: NDArray[np.float64]


def local_beam(plane: NDArray, x: float, y: float, window: NDArray) -> LocalBeam:
    """Fit ln PB about a place, with the weights of a Gaussian window.

    Parameters
    ----------
    plane : (ny, nx), primary beam; NaN or 0 where it is not known
    x, y : float [pixel]
    window : (3,) [pixel^2] : sxx, syy, sxy, positive definite: where the source is seen, source plus beam

    Returns
    -------
    LocalBeam, flat where less than `LEAST_KNOWN` of the window is known; value NaN where the nearest pixel is not
    """
    ny, nx = plane.shape
    row, column = int(np.clip(round(y), 0, ny - 1)), int(np.clip(round(x), 0, nx - 1))
    here = float(plane[row, column])
    if not (np.isfinite(here) and here > 0):
        return LocalBeam.flat(float("nan"))
    axes = []
    for centre, variance in ((column, window[0]), (row, window[1])):
        reach = max(2, int(np.ceil(REACH * np.sqrt(variance))))
        axes.append(centre + np.arange(-reach, reach + 1, max(1, 2 * reach // SAMPLES)))
    columns, rows = (part.ravel() for part in np.meshgrid(*axes))
    dx, dy = columns - x, rows - y
    det = window[0] * window[1] - window[2] ** 2
    weight = np.exp(-0.5 * (window[1] * dx**2 + window[0] * dy**2 - 2.0 * window[2] * dx * dy) / det)
    inside = (columns >= 0) & (columns < nx) & (rows >= 0) & (rows < ny)
    values = np.full(len(columns), np.nan)
    values[inside] = plane[rows[inside], columns[inside]]
    known = np.nan_to_num(values) > 0
    if weight[known].sum() < LEAST_KNOWN * weight.sum():
        return LocalBeam.flat(here)
    dx, dy, root = dx[known], dy[known], np.sqrt(weight[known])
    scale = np.sqrt(max(window[0], window[1]))
    u, v = dx / scale, dy / scale
    design = np.stack([np.ones_like(u), u, v, 0.5 * u * u, 0.5 * v * v, u * v], axis=1)
    # Relative to the nearest pixel, so that a beam that is 1 everywhere stays exactly that.
    level, gx, gy, hxx, hyy, hxy = np.linalg.lstsq(
        design * root[:, None], np.log(values[known] / here) * root, rcond=None
    )[0]
    hessian = np.array([[hxx, hxy], [hxy, hyy]]) / scale**2
    return LocalBeam(here * float(np.exp(level)), here, np.array([gx, gy]) / scale, hessian)


def on_sky(covariance: NDArray, beam: LocalBeam) -> OnSky:
    """Take the primary beam off an apparent Gaussian.

    Parameters
    ----------
    covariance : (3,) [pixel^2] : sxx, syy, sxy, deconvolved from the synthesised beam; may be 0 or negative
    beam : LocalBeam, about the Gaussian's centre

    Returns
    -------
    OnSky; only the beam at the nearest pixel is taken off where the beam changes too much over the source
    """
    apparent = _matrix(covariance)
    change = np.eye(2) + apparent @ beam.hessian
    factors = np.linalg.eigvals(change)
    # The product of two symmetric matrices has complex eigenvalues where neither is definite.
    fits = bool(np.all((factors.real > 1.0 / LARGEST_CHANGE) & (factors.real < LARGEST_CHANGE)))
    inverse = np.linalg.inv(change) if fits else np.eye(2)
    true = inverse @ apparent
    true = 0.5 * (true + true.T)
    moved = true @ beam.gradient
    stretch = float(beam.gradient @ moved)
    if not fits or abs(stretch) > 1.0:
        return OnSky(np.zeros(2), np.array(covariance, dtype=float), beam.pixel, np.eye(5))
    response = beam.value * float(np.sqrt(np.linalg.det(change)) * np.exp(-0.5 * stretch))
    jacobian = np.zeros((5, 5))
    jacobian[:2, :2] = inverse
    for place, unit in enumerate(np.eye(3)):
        turned = inverse @ _matrix(unit) @ inverse.T
        jacobian[2:, 2 + place] = turned[0, 0], turned[1, 1], turned[0, 1]
        jacobian[:2, 2 + place] = -turned @ beam.gradient
    return OnSky(-moved, np.array([true[0, 0], true[1, 1], true[0, 1]]), response, jacobian)


def _matrix(covariance: NDArray) -> NDArray[np.float64]:
    sxx, syy, sxy = covariance
    return np.array([[sxx, sxy], [sxy, syy]], dtype=float)
