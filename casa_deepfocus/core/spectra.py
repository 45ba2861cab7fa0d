"""Step (ii) of the paper's section 4.4: spectra of the blobs, their peaks, the continuum under a line.

All functions take and return plain arrays. A channel is an index from 0; a range of channels
(chan0, chan1) is inclusive.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from astropy.modeling.fitting import LinearLSQFitter, TRFLSQFitter
from astropy.modeling.models import Gaussian1D, Linear1D
from numpy.typing import ArrayLike, NDArray
from scipy.ndimage import binary_dilation, uniform_filter1d
from scipy.signal import find_peaks as local_maxima

from casa_deepfocus.core.boxes import Box
from casa_deepfocus.core.geometry import FWHM_PER_SIGMA
from casa_deepfocus.errors import DataError

MAD_TO_SIGMA = 1.482602218505602
"""Standard deviation of Gaussian noise over its median absolute deviation."""

LINE_CLIP = 3.0
"""Channels (or running means) this many sigma above the off-line level belong to a line."""

DEEP_CLIP = 4.5
"""The same below the level; wider, since emission lines are what is expected."""

FEW_CHANNELS = 6.0
"""The clips are wider by 1 + this over the number of channels."""

MIN_OFF_LINE = 3
"""Fewest channels from which a noise or a straight line is measured."""

SAME_PLATEAU = 0.8
"""Two maxima whose valley is higher than this fraction of the lower one are one peak."""

MIN_FWHM = 0.5
"""Narrowest line that is believed [channel]."""


@dataclass(frozen=True)
class Peak:
    """One line in a spectrum.

    Attributes
    ----------
    chan : float [channel], centre of the fitted Gaussian, inside the band
    fwhm : float [channel]
    height : float, the largest value of Deep GRU's output in the peak, [0, 1]
    chan0, chan1 : int [channel], centre -+ FWHM, so Delta z = 2 FWHM; inclusive, inside the band
    """

    chan: float
    fwhm: float
    height: float
    chan0: int
    chan1: int

    @classmethod
    def from_gaussian(cls, chan: float, fwhm: float, height: float, nchan: int) -> Peak:
        """A peak whose range is its centre -+ its FWHM, clipped to a band of `nchan` channels."""
        chan0, chan1 = channel_range(chan, fwhm, nchan)
        return cls(chan, fwhm, height, chan0, chan1)

    def overlaps(self, other: Peak) -> bool:
        """Whether the two ranges share a channel."""
        return self.chan0 <= other.chan1 and other.chan0 <= self.chan1


@dataclass(frozen=True)
class Linear:
    """A straight line in frequency.

    Attributes
    ----------
    intercept : float [unit of the spectrum], the value at the band's centre
    slope : float [unit of the spectrum per channel]
    centre : float [channel], the band's centre, (nchan - 1) / 2
    intercept_err, slope_err : float, standard errors; NaN when they cannot be measured
    order : int, 1: both fitted; 0: a constant; -1: no channel was left, everything is 0
    """

    intercept: float
    slope: float
    centre: float
    intercept_err: float = float("nan")
    slope_err: float = float("nan")
    order: int = 1

    def __call__(self, chan: ArrayLike) -> NDArray[np.float64]:
        """The line's value at channels."""
        return self.intercept + self.slope * (np.asarray(chan, dtype=float) - self.centre)


def channel_range(chan: float, half_width: float, nchan: int) -> tuple[int, int]:
    """The inclusive channels whose centres lie within `half_width` of `chan`; at least one, inside the band."""
    nearest = int(np.clip(round(chan), 0, nchan - 1))
    chan0 = min(int(np.clip(np.ceil(chan - half_width), 0, nchan - 1)), nearest)
    chan1 = max(int(np.clip(np.floor(chan + half_width), 0, nchan - 1)), nearest)
    return chan0, chan1


def box_weights(weights: NDArray, box: Box, shape: tuple[int, int]) -> NDArray[np.float64]:
    """The weights of a box's pixels, from a map of the whole image or of the box alone.

    Parameters
    ----------
    weights : (ny, nx) or (box.height, box.width); NaN counts as 0
    box : Box, may stick out of the image
    shape : (ny, nx) of the image

    Returns
    -------
    (h, w) float64 : the weights on the part of the box that lies on the image

    Raises
    ------
    DataError
        The map has neither shape.
    """
    inside = box.clip(shape)
    if weights.shape == tuple(shape):
        cut = weights[inside.slices]
    elif weights.shape == (box.height, box.width):
        cut = weights[inside.shift(-box.x0, -box.y0).slices]
    else:
        raise DataError(
            f"weights must cover the image {tuple(shape)} or the box {(box.height, box.width)}; "
            f"they have shape {weights.shape}"
        )
    return np.nan_to_num(np.asarray(cut, dtype=float), nan=0.0)


def extract_spectrum(cube: NDArray, box: Box, weights: NDArray | None = None) -> NDArray[np.float64]:
    """The dirty spectrum of a blob: the sum of its box's pixels, channel by channel (section 4.4 ii).

    Parameters
    ----------
    cube : (nchan, ny, nx) float [Jy/beam], NaN where masked
    box : Box
    weights : (ny, nx) or (box.height, box.width), optional
        The blob's probability map; the pixels are multiplied by it before they are added.

    Returns
    -------
    (nchan,) float64 [cube's unit times pixel]
        NaN pixels are skipped; NaN where a channel has no finite pixel in the box.
    """
    rows, columns = box.clip(cube.shape[1:]).slices
    stack = cube[:, rows, columns].astype(float)
    finite = np.isfinite(stack)
    stack[~finite] = 0.0
    if weights is None:
        spectrum = stack.sum(axis=(1, 2))
    else:
        spectrum = np.einsum("cyx,yx->c", stack, box_weights(weights, box, cube.shape[1:]))
    spectrum[~finite.any(axis=(1, 2))] = np.nan
    return spectrum


def _densest_half(values: NDArray[np.float64]) -> tuple[float, float]:
    """Centre and sigma from the shortest interval that holds half the values (the shorth).

    Unlike the median it stays on the noise when lines lift up to half of the channels.
    """
    ordered = np.sort(values)
    half = ordered.size // 2 + 1
    widths = ordered[half - 1 :] - ordered[: ordered.size - half + 1]
    start = int(np.argmin(widths))
    centre = float(np.median(ordered[start : start + half]))
    below = centre - ordered[ordered <= centre]
    return centre, float(MAD_TO_SIGMA * np.median(below))


def off_line_channels(spectrum: NDArray) -> NDArray[np.bool_]:
    """The channels without a line.

    Starts from the densest half of the values, then masks, until nothing changes, what stands
    out in the spectrum or in its running means of 3, 7, 15 ... channels. Each running mean is
    compared with its own off-line scatter, so correlated channels (Hanning smoothing, a velocity
    frame that regridded the data) do not make noise look like lines.

    Parameters
    ----------
    spectrum : (nchan,) float, NaN where masked

    Returns
    -------
    (nchan,) bool : finite and off every line
    """
    finite = np.isfinite(spectrum)
    values = np.asarray(spectrum, dtype=float)[finite]
    if values.size <= MIN_OFF_LINE:
        return finite
    centre, sigma = _densest_half(values)
    if sigma <= 0.0:
        return finite
    # A noise from few channels often comes out too low: the clips widen as Student's distribution does.
    few = 1.0 + FEW_CHANNELS / values.size
    off = (values < centre + few * LINE_CLIP * sigma) & (values > centre - few * DEEP_CLIP * sigma)
    least = max(MIN_OFF_LINE, values.size // 5)
    widths = [width for width in (3, 7, 15, 31) if 4 * width <= values.size]
    for _ in range(10):
        quiet = values[off]
        level = float(np.median(quiet))
        scatter = MAD_TO_SIGMA * float(np.median(np.abs(quiet - level)))
        line = (values > level + few * LINE_CLIP * scatter) | (values < level - few * DEEP_CLIP * scatter)
        # What stands out already must not spill over its neighbours in the running means.
        flattened = np.where(line, level, values)
        for width in widths:
            smooth = uniform_filter1d(flattened, width, mode="nearest")
            # A wide, faint line is most of what is left: only the densest half is safe. There are few
            # independent running means, so their scatter is floored at that of white noise.
            mean, spread = _densest_half(smooth[off])
            line |= smooth > mean + few * (LINE_CLIP + 0.5) * max(spread, sigma / np.sqrt(width))
        if values.size >= 16:
            line = binary_dilation(line)
        if values.size - line.sum() < least:
            break
        changed = bool(np.any(line == off))
        off = ~line
        quiet = values[off]
        sigma = MAD_TO_SIGMA * float(np.median(np.abs(quiet - np.median(quiet))))
        if not changed or sigma <= 0.0:
            break
    mask = np.zeros(finite.size, dtype=bool)
    mask[np.flatnonzero(finite)[off]] = True
    return mask


def standardise_spectrum(spectrum: NDArray) -> tuple[NDArray[np.float64], float]:
    """A spectrum of mean 0 and noise 1 off its lines, as Deep GRU wants it (section 4.4 ii).

    The paper subtracts the mean and divides by the standard deviation of all channels, which
    makes the noise of a spectrum depend on its line; here both come from `off_line_channels`.

    Parameters
    ----------
    spectrum : (nchan,) float [any unit], NaN where masked

    Returns
    -------
    standardised : (nchan,) float64 [sigma]; 0 where the spectrum is NaN
    sigma : float [unit of the spectrum], rms of the off-line channels; 0 when it cannot be
        measured (fewer than 3 finite channels, or all equal), and then `standardised` is all 0
    """
    off = off_line_channels(spectrum)
    quiet = np.asarray(spectrum, dtype=float)[off]
    if quiet.size < MIN_OFF_LINE:
        return np.zeros(len(spectrum)), 0.0
    sigma = float(np.std(quiet, ddof=1))
    level = float(np.mean(quiet))
    if sigma <= 1e-12 * abs(level):
        return np.zeros(len(spectrum)), 0.0
    return np.nan_to_num((np.asarray(spectrum, dtype=float) - level) / sigma, nan=0.0, posinf=0.0, neginf=0.0), sigma


def _half_height(clean: NDArray[np.float64], index: int) -> tuple[float, float]:
    """Centre and full width at half height around a maximum, the crossings interpolated [channel]."""
    padded = np.concatenate([[0.0], clean, [0.0]])
    half = 0.5 * clean[index]
    left = index + 1
    while padded[left] > half:
        left -= 1
    right = index + 1
    while padded[right] > half:
        right += 1
    low = left + (half - padded[left]) / (padded[left + 1] - padded[left])
    high = right - (half - padded[right]) / (padded[right - 1] - padded[right])
    return 0.5 * (low + high) - 1.0, high - low


def _fit_gaussian(clean: NDArray[np.float64], index: int, low: int, high: int) -> tuple[float, float]:
    """Centre and FWHM of a Gaussian fitted to channels low..high; half-height values when the fit runs away."""
    centre, width = _half_height(clean, index)
    centre, width = float(np.clip(centre, 0, clean.size - 1)), max(width, MIN_FWHM)
    if high - low + 1 < 4:
        return centre, width
    chan = np.arange(low, high + 1, dtype=float)
    model = Gaussian1D(
        amplitude=clean[index],
        mean=float(index),
        stddev=width / FWHM_PER_SIGMA,
        bounds={"amplitude": (0.0, 2.0), "mean": (low - 1.0, high + 1.0), "stddev": (0.1, float(clean.size))},
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a fit that does not converge is judged below
        fitted = TRFLSQFitter()(model, chan, clean[low : high + 1])
    mean, fwhm = float(fitted.mean.value), float(abs(fitted.stddev.value) * FWHM_PER_SIGMA)
    sane = np.isfinite(mean) and np.isfinite(fwhm) and 0 <= mean <= clean.size - 1
    if sane and abs(mean - centre) <= width and 0.4 * width <= fwhm <= 2.5 * width:
        return mean, max(fwhm, MIN_FWHM)
    return centre, width


def find_peaks(clean: NDArray, threshold: float = 0.1) -> list[Peak]:
    """The lines in Deep GRU's output, each fitted by a 1D Gaussian (section 4.4 ii).

    Parameters
    ----------
    clean : (nchan,) float, [0, 1]; NaN counts as 0
    threshold : float
        Lowest maximum that counts (the paper's 0.1).

    Returns
    -------
    list of Peak, by channel. Maxima without a real valley between them are one peak; a maximum
    in the first or last channel is seen.
    """
    values = np.nan_to_num(np.asarray(clean, dtype=float), nan=0.0)
    padded = np.concatenate([[-1.0], values, [-1.0]])
    found = local_maxima(padded, height=threshold)[0] - 1
    kept: list[int] = []
    valleys: list[int] = []
    for index in found.tolist():
        if kept:
            valley = kept[-1] + int(np.argmin(values[kept[-1] : index + 1]))
            if values[valley] > SAME_PLATEAU * min(values[kept[-1]], values[index]):
                kept[-1] = max(kept[-1], index, key=lambda i: values[i])
                continue
            valleys.append(valley)
        kept.append(index)
    edges = [0, *valleys, values.size - 1]
    peaks = []
    for number, index in enumerate(kept):
        centre, width = _half_height(values, index)
        low = max(edges[number], int(np.floor(centre - 2.0 * width)))
        high = min(edges[number + 1], int(np.ceil(centre + 2.0 * width)))
        chan, fwhm = _fit_gaussian(values, index, low, high)
        peaks.append(Peak.from_gaussian(chan, fwhm, float(values[index]), values.size))
    return peaks


def fit_continuum_under_line(spectrum: NDArray, peaks: Iterable[Peak], sigma: NDArray | float | None = None) -> Linear:
    """The straight continuum of a spectrum, from the channels outside the lines (section 4.4 ii).

    Parameters
    ----------
    spectrum : (nchan,) float [any unit], NaN where masked
    peaks : the lines whose ranges are left out
    sigma : (nchan,) or float [unit of the spectrum], optional
        Noise; weights the fit and gives its errors. Without it the scatter does.

    Returns
    -------
    Linear
        Of order 0 when fewer than 4 channels are left, or when they span less than a quarter of
        the band, where a slope would be extrapolated noise; of order -1 when none is left.
    """
    values = np.asarray(spectrum, dtype=float)
    centre = 0.5 * (values.size - 1)
    use = np.isfinite(values)
    for peak in peaks:
        use[peak.chan0 : peak.chan1 + 1] = False
    noise = None if sigma is None else np.broadcast_to(np.asarray(sigma, dtype=float), values.shape)
    if noise is not None:
        use &= np.isfinite(noise) & (noise > 0)
    number = int(use.sum())
    if number == 0:
        return Linear(0.0, 0.0, centre, order=-1)
    offset = np.arange(values.size, dtype=float)[use] - centre
    weights = np.ones(number) if noise is None else 1.0 / noise[use]
    data = values[use]
    square = weights**2
    if number <= MIN_OFF_LINE or np.ptp(offset) < 0.25 * values.size:
        mean = float(np.sum(square * data) / np.sum(square))
        scale = 1.0
        if noise is None:
            scale = float(np.std(data, ddof=1)) if number > 1 else float("nan")
        return Linear(mean, 0.0, centre, scale / float(np.sqrt(square.sum())), order=0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # astropy warns of a poor condition; the errors below say it
        line = LinearLSQFitter()(Linear1D(slope=0.0, intercept=float(np.mean(data))), offset, data, weights=weights)
    slope, intercept = float(line.slope.value), float(line.intercept.value)
    normal = np.array([[square.sum(), (square * offset).sum()], [(square * offset).sum(), (square * offset**2).sum()]])
    errors = np.sqrt(np.diag(np.linalg.inv(normal)))
    if noise is None:
        errors = errors * np.sqrt(np.sum((data - intercept - slope * offset) ** 2) / (number - 2))
    return Linear(intercept, slope, centre, float(errors[0]), float(errors[1]), order=1)


def relative_continuum(
    model: Linear, nchan: int, weights: NDArray | None = None, min_snr: float = 3.0
) -> NDArray[np.float64]:
    """f(z) of eq. 19: the continuum's 1D model divided by its mean.

    The mean is taken with the weights that made the continuum image (`flux.off_line_weights`),
    so that f(z) C is the continuum also when the line sits at one end of the band.

    Parameters
    ----------
    model : Linear
    nchan : int
    weights : (nchan,), optional
        Weights of the channels in the continuum image; equal over the band when not given.
    min_snr : float
        A continuum less significant than this, or one that changes sign within the band, has no
        usable shape: f = 1.

    Returns
    -------
    (nchan,) float64, of (weighted) mean 1
    """
    flat = np.ones(nchan)
    values = model(np.arange(nchan))
    mean = float(np.average(values, weights=weights)) if weights is None or np.sum(weights) > 0 else 0.0
    if mean == 0.0 or model.order < 1 or not abs(model.intercept) >= min_snr * model.intercept_err:
        return flat
    relative = values / mean
    return relative if np.all(relative > 0) else flat
