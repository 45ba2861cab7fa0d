"""The noise of a dirty cube, channel by channel, measured on the cube itself."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from casa_deepfocus.errors import DataError

SAMPLE = 32768
"""About how many values of a larger array are looked at."""

MAD_TO_SIGMA = 1.4826022185056018
"""Standard deviation of a normal distribution over its median absolute deviation."""


NO_NOISE = 1e-5
"""Rms over the peak of a channel below which there is no noise: far above the rounding of float32, 1e-7, and below what
is left in all but the very best of calibrated images."""

SMOOTH_OVER = 9
"""Channels over whose median the noise is smooth in frequency: its error is then 0.4 of a channel's, and the wing of an
atmospheric line is followed."""

STANDS_OUT = 4.0
"""Errors of a channel's noise by which it must differ from that median to be taken for its own: of 4000 channels of
nothing but noise one in four cubes does."""

LEAST_NOISE = 1e-4
"""Noise over the peak that is assumed then: the fit leaves out 1e-4 of a source's peak."""

BLOCK = 2**22
"""Voxels that are copied at a time (16 MB)."""


def robust_rms(values: NDArray, *, clip: float = 4.0, iterations: int = 3) -> float:
    """Rms of noise that has zero mean, in the presence of sources and their sidelobes.

    The median absolute value gives a first estimate; values beyond `clip` times the estimate are
    left out and it is made again.

    Parameters
    ----------
    values : array of any shape [any unit]; NaN are skipped

    Returns
    -------
    float [the unit of values]; NaN where fewer than 16 values are finite or all are zero
    """
    # The pixels of a dirty image are correlated over a beam: every few of them say as much as all.
    flat = np.asarray(values).ravel()
    magnitude = np.abs(flat[:: (flat.size // SAMPLE) | 1])
    magnitude = magnitude[np.isfinite(magnitude)]
    if magnitude.size < 16:
        return float("nan")
    # Sorted once, the median of what is left after each clip is a look-up.
    magnitude.sort()
    rms = MAD_TO_SIGMA * _middle(magnitude)
    for _ in range(iterations):
        if rms <= 0:
            break
        kept = magnitude[: np.searchsorted(magnitude, magnitude.dtype.type(clip * rms))]
        fresh = MAD_TO_SIGMA * _middle(kept)
        if abs(fresh - rms) < 1e-3 * rms:
            break
        rms = fresh
    return rms if rms > 0 else float("nan")


def _middle(ordered: NDArray) -> float:
    """Median of sorted values."""
    return float(ordered[(ordered.size - 1) // 2 : ordered.size // 2 + 1].mean(dtype=float))


def blank_to_zero(data: NDArray) -> NDArray:
    """A copy of the data with 0 where they are blank (NaN)."""
    return np.where(np.isfinite(data), data, data.dtype.type(0))


def blocks(data: NDArray) -> Iterator[slice]:
    """Channels of a cube, as many at a time as `BLOCK` holds, for what needs a copy of them."""
    step = max(1, BLOCK // max(1, int(np.prod(data.shape[1:]))))
    for start in range(0, len(data), step):
        yield slice(start, min(start + step, len(data)))


def weighted_sum(data: NDArray[np.float32], weights: NDArray) -> NDArray[np.float32]:
    """The sum of a cube's channels, each times its weight; blank voxels are 0.

    Parameters
    ----------
    data : (nchan, ny, nx) float32
    weights : (nchan,)

    Returns
    -------
    (ny, nx) float32
    """
    own = np.asarray(weights, dtype=np.float32)
    total: NDArray | None = None
    for part in blocks(data):
        more = np.tensordot(own[part], blank_to_zero(data[part]), axes=1)
        total = more if total is None else total + more
    return np.zeros(data.shape[1:], np.float32) if total is None else total


def any_known(data: NDArray) -> NDArray[np.bool_]:
    """(ny, nx) where a cube holds data in any channel."""
    known = np.zeros(data.shape[1:], dtype=bool)
    for plane in data:
        known |= np.isfinite(plane)
    return known


def channel_noise(data: NDArray, peaks: NDArray | None = None) -> NDArray[np.float64]:
    """Noise of every channel.

    The noise of an interferometer is flat over the field before primary-beam correction and
    independent between channels, so one number a channel describes it;
    where it is not, `core.noisemap` makes it so first.

    Parameters
    ----------
    data : (nchan, ny, nx) float32 [Jy/beam], not corrected for the primary beam; NaN where masked
    peaks : (nchan,) [Jy/beam], `channel_peaks` of the data with their sources, optional
        A channel with less noise than `NO_NOISE` of its peak, as in a simulation without any, is taken to have
        `LEAST_NOISE` of the highest peak of such channels. Where most are such, so is what has less than `NO_NOISE` of
        that: the wings of a line.

    Returns
    -------
    (nchan,) float64 [Jy/beam]; NaN for a channel that is flagged (all NaN, or all zero)

    Raises
    ------
    DataError
        When no channel holds data.
    """
    sigma = np.array([robust_rms(plane) for plane in data])
    if peaks is not None:
        noise, held = np.nan_to_num(sigma), peaks > 0
        without = held & (noise < NO_NOISE * peaks)
        if without.any():
            highest = float(peaks[without].max())
            if without.sum() > 0.5 * held.sum():
                without |= held & (noise < NO_NOISE * highest)
            sigma[without] = LEAST_NOISE * highest
    if not np.isfinite(sigma).any():
        raise DataError("the image holds no data: every channel is blank or zero. Check the selection and flags.")
    return sigma


def smooth_noise(sigma: NDArray) -> NDArray[np.float64]:
    """The noise of channels as a smooth function of frequency, but for channels that stand out of it.

    Noise changes slowly with frequency, but in flagged channels and atmospheric lines: what a channel's own estimate
    has beyond the median of its neighbours is its error, unless it is more than all the others have. What stands out
    stays as it was measured, a channel whose sources leave something of themselves among it.

    Parameters
    ----------
    sigma : (nchan,) [Jy/beam], one estimate a channel; NaN for flagged channels

    Returns
    -------
    (nchan,) float64 [Jy/beam], NaN where sigma is; a copy of sigma for fewer than two windows of channels
    """
    out = np.array(sigma, dtype=float)
    good = np.flatnonzero(np.isfinite(out) & (out > 0))
    if good.size < 2 * SMOOTH_OVER:
        return out
    half = SMOOTH_OVER // 2
    values = np.log(out[good])
    windows = np.lib.stride_tricks.sliding_window_view(np.pad(values, half, mode="reflect"), SMOOTH_OVER)
    middle = np.median(windows, axis=1)
    away = values - middle
    error = MAD_TO_SIGMA * float(np.median(np.abs(away)))
    out[good] = np.exp(np.where(np.abs(away) > STANDS_OUT * error, values, middle))
    return out


def channel_peaks(data: NDArray) -> NDArray[np.float64]:
    """(nchan,) highest finite absolute value of each channel [unit of the data]; 0 where there is none."""
    return np.array([np.max(np.abs(plane), where=np.isfinite(plane), initial=0.0) for plane in data], dtype=float)


def assumed_noise(sigma: NDArray, peaks: NDArray) -> float:
    """What `channel_noise` assumed for most channels [unit of the data]; 0 where it did not have to."""
    assumed = np.isin(sigma, LEAST_NOISE * peaks[peaks > 0])
    return float(sigma[assumed][0]) if assumed.sum() > 0.5 * np.isfinite(sigma).sum() else 0.0


def inverse_variance(sigma: NDArray) -> NDArray[np.float64]:
    """Weights 1/sigma^2 [1/unit^2]; 0 for flagged channels (sigma NaN)."""
    sigma = np.asarray(sigma, dtype=float)
    return np.where(np.isfinite(sigma), 1.0 / np.where(np.isfinite(sigma), sigma, 1.0) ** 2, 0.0)
