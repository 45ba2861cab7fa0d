"""Which channels are free of lines, and the continuum under the lines, pixel by pixel.

Imaging is linear, so subtracting a continuum that is linear in frequency from each pixel of the
dirty cube is the same as subtracting it from the visibilities, but for the PSF's own change with
frequency.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from casa_deepfocus.core.noise import any_known, blank_to_zero, inverse_variance, robust_rms, weighted_sum


@dataclass(frozen=True)
class Continuum:
    """A continuum image with a slope.

    Attributes
    ----------
    level : (ny, nx) float32 [Jy/beam], at the middle of the band
    slope : (ny, nx) float32 [Jy/beam per channel]
    channels : (nchan,) bool, the line-free channels it was fitted on
    sigma : float [Jy/beam], rms of `level`
    significant : bool, whether anything in `level` stands above the noise
    """

    level: NDArray[np.float32]
    slope: NDArray[np.float32]
    channels: NDArray[np.bool_]
    sigma: float
    significant: bool


def _design(nchan: int) -> NDArray[np.float64]:
    return np.arange(nchan, dtype=float) - 0.5 * (nchan - 1)


def _linear_fit(data: NDArray, weights: NDArray, order: int) -> tuple[NDArray, NDArray]:
    """Weighted fit along the channels; level and slope images. NaN count as zero data, zero weight."""
    t = _design(data.shape[0])
    total = weights.sum()
    mean_t = (weights * t).sum() / total
    mean = weighted_sum(data, weights / total)
    slope = np.zeros_like(mean)
    if order > 0:
        centred = weights * (t - mean_t)
        slope = weighted_sum(data, centred / (centred * (t - mean_t)).sum())
    return mean - slope * np.float32(mean_t), slope


def fit_order(channels: NDArray[np.bool_]) -> int:
    """1 when the line-free channels span the band well enough for a slope, else 0."""
    free = np.flatnonzero(channels)
    return int(free.size >= 8 and np.ptp(free) >= 0.6 * (channels.size - 1))


def line_free_channels(
    data: NDArray[np.float32], sigma: NDArray, *, threshold: float = 5.0, minimum: float = 0.1, smooth: int = 3
) -> NDArray[np.bool_]:
    """Channels without line emission anywhere in the field, as in ALMA's findContinuum, on the image.

    Channels in which some pixel stands `threshold` sigma above the continuum of the remaining
    channels are taken out, and the continuum is made again, until none stands out. Only what is
    above the continuum counts: a line that fills most of the band first looks like its continuum,
    and is peeled off from its crest downwards.

    Parameters
    ----------
    data : (nchan, ny, nx) float32 [Jy/beam]
    sigma : (nchan,) [Jy/beam]; NaN for flagged channels
    threshold : float [sigma]
    minimum : float, fraction of the channels that is never taken out
    smooth : int [chan], a second pass looks at this running mean

    Returns
    -------
    (nchan,) bool
    """
    weights = inverse_variance(sigma)
    good = weights > 0
    free = good.copy()
    least = max(3, int(np.ceil(minimum * good.sum())))
    if good.sum() <= least:
        return free
    kernel = np.ones(smooth) / smooth
    for _ in range(20):
        level, slope = _linear_fit(data, np.where(free, weights, 0.0), fit_order(free))
        t = _design(data.shape[0]).astype(np.float32)
        peaks = np.full(data.shape[0], -np.inf)
        previous = None
        for chan in np.flatnonzero(good):
            deviation = (blank_to_zero(data[chan]) - level - slope * t[chan]) / np.float32(sigma[chan])
            peaks[chan] = deviation.max()
            if smooth > 1 and previous is not None:
                pair = (deviation + previous).max() * np.sqrt(0.5)
                peaks[chan] = max(peaks[chan], pair)
                peaks[chan - 1] = max(peaks[chan - 1], pair)
            previous = deviation if chan + 1 < data.shape[0] and good[chan + 1] else None
        bad = free & (np.convolve(peaks > threshold, kernel, mode="same") > 0)
        if not bad.any():
            break
        order = np.argsort(np.where(bad, peaks, -np.inf))[::-1][: int(bad.sum())]
        # Half of the offenders at a time, the worst first: the others may only mirror a biased continuum.
        drop = order[: max(1, order.size // 2)]
        if free.sum() - drop.size < least:
            free[drop[: max(0, int(free.sum()) - least)]] = False
            break
        free[drop] = False
    return free


def fit_continuum(
    data: NDArray[np.float32], sigma: NDArray, channels: NDArray[np.bool_], *, threshold: float = 4.0
) -> Continuum:
    """Continuum of every pixel from the line-free channels (linear, or constant when they are few).

    Parameters
    ----------
    data : (nchan, ny, nx) float32 [Jy/beam]
    sigma : (nchan,) [Jy/beam]
    channels : (nchan,) bool
    threshold : float [sigma], above which the continuum image is called significant

    Returns
    -------
    Continuum
    """
    weights = np.where(channels, inverse_variance(sigma), 0.0)
    if not weights.any():
        zero = np.zeros(data.shape[1:], dtype=np.float32)
        return Continuum(zero, zero, channels, float("nan"), False)
    level, slope = _linear_fit(data, weights, fit_order(channels))
    mean, _ = _linear_fit(data, weights, 0)
    noise = float(np.fmax(robust_rms(mean[any_known(data)]), 1.0 / np.sqrt(weights.sum())))
    # The threshold belongs to a map of some thousand beams: 4 sigma is the highest noise peak expected.
    return Continuum(level, slope, channels, noise, bool(np.nanmax(np.abs(mean)) > (threshold + 0.5) * noise))


def subtract_continuum(data: NDArray[np.float32], continuum: Continuum) -> NDArray[np.float32]:
    """The line cube: data minus the continuum; a copy. (nchan, ny, nx) float32 [Jy/beam]."""
    t = _design(data.shape[0]).astype(np.float32)[:, None, None]
    out = data - continuum.level
    out -= t * continuum.slope
    return out
