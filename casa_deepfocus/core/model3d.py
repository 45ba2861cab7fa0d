"""Step (v) of the paper's section 4.4: the 3D model of a source and its dilated segmentation mask.

The model is the product of the observed 2D Gaussian (intrinsic shape convolved with the beam)
and of a 1D Gaussian in frequency, with peak 1. Its segmentation at a level is an ellipsoid. The
paper dilates the mask by a factor of 1.5 and leaves open how; here the ellipsoid's three axes are
multiplied by 1.5. A morphological dilation would add the same number of pixels to every source and
every axis, and mixes pixels with channels; the scaled ellipsoid means the same for each of them.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from casa_deepfocus.core.geometry import FWHM_PER_SIGMA
from casa_deepfocus.core.preprocessing import BOX_LEVEL
from casa_deepfocus.errors import ParameterError

DILATION = 1.5
"""Factor by which a source's ellipsoid is scaled (section 4.4 v)."""

Slices = tuple[slice, slice, slice]


def _extent(centre: float, half: float, number: int) -> slice:
    """The pixels of an axis within `half` of `centre`; empty when none lies on it."""
    if not np.isfinite(half):
        return slice(0, number)
    first = int(np.clip(np.ceil(centre - half), 0, number))
    return slice(first, int(np.clip(np.floor(centre + half) + 1, first, number)))


def observed_covariance(covariance: ArrayLike, beam_covariance: ArrayLike) -> NDArray[np.float64]:
    """Shape of a source in the image: its own covariance plus the beam's, (3,) [pixel^2]."""
    return np.asarray(covariance, dtype=float) + np.asarray(beam_covariance, dtype=float)


def gaussian_model(
    shape: tuple[int, int, int],
    x: float,
    y: float,
    covariance: ArrayLike,
    chan: float,
    fwhm_chan: float,
    level: float = 0.01,
) -> tuple[Slices, NDArray[np.float32]]:
    """A 3D Gaussian of peak 1, on the part of the cube where it exceeds a level.

    Parameters
    ----------
    shape : (nchan, ny, nx) of the cube
    x, y : float [pixel]
    covariance : (3,) [pixel^2] : sxx, syy, sxy of the observed shape; must be positive definite
    chan, fwhm_chan : float [channel]
        A source without a line (`chan` or `fwhm_chan` not finite) is constant over the band.
    level : float
        The sub-cube bounds the ellipsoid on which the model exceeds this.

    Returns
    -------
    slices : (chan, y, x) slices of the sub-cube, clipped to the cube; may be empty
    model : float32 array of that shape

    Raises
    ------
    ParameterError
        The covariance is not positive definite, the line width is not positive, or `level` is
        not between 0 and 1.
    """
    sxx, syy, sxy = (float(v) for v in np.asarray(covariance, dtype=float))
    det = sxx * syy - sxy**2
    if not (det > 0 and sxx > 0):
        raise ParameterError("covariance", (sxx, syy, sxy), "the shape is not positive definite", "Add the beam's")
    if not 0 < level < 1:
        raise ParameterError("level", level, "must lie between 0 and 1")
    line = np.isfinite(chan) and np.isfinite(fwhm_chan)
    if line and fwhm_chan <= 0:
        raise ParameterError("fwhm_chan", fwhm_chan, "a line needs a positive width", "Give NaN for no line")
    reach = np.sqrt(-2.0 * np.log(level))
    sigma_chan = fwhm_chan / FWHM_PER_SIGMA if line else np.inf
    slices = (
        _extent(chan, reach * sigma_chan, shape[0]),
        _extent(y, reach * np.sqrt(syy), shape[1]),
        _extent(x, reach * np.sqrt(sxx), shape[2]),
    )
    dz, dy, dx = (np.arange(part.start, part.stop) - at for part, at in zip(slices, (chan, y, x), strict=True))
    dx, dy = dx[None, :], dy[:, None]
    image = np.exp(-0.5 * (syy * dx**2 + sxx * dy**2 - 2.0 * sxy * dx * dy) / det)
    profile = np.exp(-0.5 * (dz / sigma_chan) ** 2) if line else np.ones(dz.size)
    return slices, (profile[:, None, None] * image).astype(np.float32)


def segmentation(model: NDArray, level: float = BOX_LEVEL) -> NDArray[np.bool_]:
    """The pixels that belong to a source: where its model (peak 1) reaches a level."""
    return np.asarray(model) >= level


def dilate(covariance: ArrayLike, fwhm_chan: float, factor: float = DILATION) -> tuple[NDArray[np.float64], float]:
    """The shape whose ellipsoid has `factor` times the axes: covariance times factor^2, line width times factor."""
    if not factor > 0:
        raise ParameterError("factor", factor, "must be positive")
    return np.asarray(covariance, dtype=float) * factor**2, fwhm_chan * factor


def source_mask(
    shape: tuple[int, int, int],
    x: float,
    y: float,
    covariance: ArrayLike,
    chan: float,
    fwhm_chan: float,
    *,
    level: float = BOX_LEVEL,
    factor: float = DILATION,
) -> tuple[Slices, NDArray[np.bool_]]:
    """The dilated 3D segmentation mask of a source (section 4.4 v).

    With the defaults its axes are 1.24 times the observed FWHM (2.9 standard deviations); it
    holds 96 % of a 3D Gaussian. The pixel nearest to the centre always belongs to it, when
    it lies in the cube.

    Parameters
    ----------
    shape : (nchan, ny, nx) of the cube
    x, y : float [pixel]
    covariance : (3,) [pixel^2], the observed shape (`observed_covariance`)
    chan, fwhm_chan : float [channel]; not finite for a source without a line, whose mask spans the band
    level, factor : float, the contour (peak 1) before the dilation, and the dilation

    Returns
    -------
    slices : (chan, y, x) slices of the cube; may be empty
    mask : bool array of that shape
    """
    wide, width = dilate(covariance, fwhm_chan, factor)
    slices, model = gaussian_model(shape, x, y, wide, chan, width, level)
    mask = segmentation(model, level)
    inside = []
    for part, at in zip(slices, (chan, y, x), strict=True):
        near = part.start if not np.isfinite(at) else round(at)
        inside.append(near - part.start if part.start <= near < part.stop else None)
    if np.isfinite(chan) and None not in inside:
        mask[tuple(inside)] = True
    return slices, mask
