"""Step (vi) of the paper's section 4.4: the continuum image, the line emission of eq. 19, and the flux.

Every function works on a crop around a source as well as on a whole cube.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import ArrayLike, NDArray

from casa_deepfocus.errors import DataError


def off_line_weights(
    nchan: int, ranges: Iterable[tuple[int, int]], sigma: NDArray | None = None
) -> NDArray[np.float64]:
    """Weights of the channels in a continuum image: 0 on the lines, the inverse variance elsewhere.

    Parameters
    ----------
    nchan : int
    ranges : (chan0, chan1) pairs, inclusive, that hold lines
    sigma : (nchan,) float, optional
        Noise of each channel; a channel whose noise is not a positive number gets 0.

    Returns
    -------
    (nchan,) float64, of sum 1; all 0 when no channel is left
    """
    weights = np.ones(nchan)
    if sigma is not None:
        noise = np.asarray(sigma, dtype=float)
        if noise.shape != (nchan,):
            raise DataError(f"sigma must have one value for each of the {nchan} channels; it has shape {noise.shape}")
        good = np.isfinite(noise) & (noise > 0)
        weights = np.where(good, 1.0 / np.where(good, noise, 1.0) ** 2, 0.0)
    for chan0, chan1 in ranges:
        weights[max(chan0, 0) : chan1 + 1] = 0.0
    total = weights.sum()
    return weights / total if total > 0 else weights


def continuum_image(
    cube: NDArray, ranges: Iterable[tuple[int, int]], sigma: NDArray | None = None
) -> NDArray[np.float32]:
    """The continuum image C of eq. 19: the mean of the channels off the lines.

    Parameters
    ----------
    cube : (nchan, ny, nx) float [Jy/beam], NaN where masked
    ranges : (chan0, chan1) pairs, inclusive, that hold lines
    sigma : (nchan,) float [Jy/beam], optional
        Makes it the inverse-variance weighted mean.

    Returns
    -------
    (ny, nx) float32 [Jy/beam] : NaN channels of a pixel are skipped; NaN where a pixel has none
    """
    weights = off_line_weights(cube.shape[0], ranges, sigma)
    total, weight = np.zeros(cube.shape[1:]), np.zeros(cube.shape[1:])
    for chan in np.flatnonzero(weights):  # a plane at a time: no copy of the cube
        finite = np.isfinite(cube[chan])
        np.add(total, weights[chan] * cube[chan], out=total, where=finite)
        np.add(weight, weights[chan], out=weight, where=finite)
    return np.divide(total, weight, out=np.full(weight.shape, np.nan), where=weight > 0).astype(np.float32)


def line_emission_cube(
    cube: NDArray, mask: NDArray[np.bool_], continuum: NDArray, relative: NDArray
) -> NDArray[np.float32]:
    """The line emission L_z = M_z - f(z) C inside a source's mask (eq. 19).

    Parameters
    ----------
    cube : (nchan, ny, nx) float [Jy/beam], a dirty cube that still holds its continuum, or a crop of it
    mask : (nchan, ny, nx) bool, the dilated model; 0 outside it
    continuum : (ny, nx) float [Jy/beam], C
    relative : (nchan,) float, f(z) of mean 1 (`spectra.relative_continuum`), cut to the same channels

    Returns
    -------
    (nchan, ny, nx) float32 [Jy/beam] : NaN where the cube or the continuum is, inside the mask

    Raises
    ------
    DataError
        The shapes do not belong together.
    """
    if mask.shape != cube.shape or continuum.shape != cube.shape[1:] or np.shape(relative) != cube.shape[:1]:
        raise DataError(
            f"cube {cube.shape}, mask {mask.shape}, continuum {continuum.shape} and f(z) {np.shape(relative)} "
            "must cover the same channels and pixels"
        )
    under = np.asarray(relative, dtype=np.float32)[:, None, None] * continuum
    return np.where(mask, cube - under, 0.0).astype(np.float32)


def line_emission_image(
    cube: NDArray, mask: NDArray[np.bool_], continuum: NDArray, relative: NDArray, chan_width: float = 1.0
) -> NDArray[np.float32]:
    """The line emission of eq. 19 integrated over frequency: what the flux network looks at.

    Parameters
    ----------
    cube, mask, continuum, relative : as in `line_emission_cube`
    chan_width : float [km/s, Hz, or 1 for channels], positive

    Returns
    -------
    (ny, nx) float32 [Jy/beam times the unit of `chan_width`]
        NaN channels of a pixel are skipped; 0 outside the mask; NaN where a pixel of the mask has
        no finite channel.
    """
    line = line_emission_cube(cube, mask, continuum, relative)
    finite = np.isfinite(line)
    image = np.sum(line, axis=0, dtype=np.float64, where=finite) * abs(chan_width)
    lost = mask.any(axis=0) & ~(finite & mask).any(axis=0)
    return np.where(lost, np.nan, image).astype(np.float32)


def line_flux(output: ArrayLike, peak: ArrayLike) -> NDArray[np.float64]:
    """The integrated flux from the flux network's output: peak * 10**output.

    Parameters
    ----------
    output : (...) float, log10(integrated flux / peak of the stamp)
    peak : (...) float [stamp's unit], what `preprocessing.stamp_peak` says of the line-emission image

    Returns
    -------
    (...) float64 : for a stamp in Jy/beam km/s and a PSF of peak 1, the line flux in Jy km/s (in
        Jy Hz for Jy/beam Hz); not corrected for the primary beam. NaN where the peak is not
        positive, or the result is not finite.
    """
    scale = np.asarray(peak, dtype=float)
    with np.errstate(over="ignore", invalid="ignore"):
        flux = np.where(scale > 0, scale, np.nan) * 10.0 ** np.asarray(output, dtype=float)
    return np.where(np.isfinite(flux), flux, np.nan)
