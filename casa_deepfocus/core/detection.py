"""Where in the sky: detection maps and the blobs that Blobs Finder draws on them (paper 4.4 i, steps 1-4)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from skimage.feature import peak_local_max
from skimage.measure import regionprops
from skimage.segmentation import watershed

from casa_deepfocus.core.boxes import Box
from casa_deepfocus.core.noise import any_known, blank_to_zero, inverse_variance, robust_rms, weighted_sum
from casa_deepfocus.core.preprocessing import (
    CLEAN_LEVEL,
    PIXELS_PER_BEAM,
    blobs_finder_input,
    blobs_finder_planes,
)
from casa_deepfocus.core.tiling import apply_tiled, resample


@dataclass(frozen=True)
class DetectionMap:
    """A dirty image in units of its noise.

    Attributes
    ----------
    image : (ny, nx) float32 [sigma]; NaN where masked
    chan0, chan1 : int, first and last channel that went into it
    kind : str, 'integrated' (everything) or 'line' (continuum subtracted, a window of channels)
    """

    image: NDArray[np.float32]
    chan0: int
    chan1: int
    kind: str


@dataclass(frozen=True)
class Blob:
    """A source candidate on the sky.

    Attributes
    ----------
    x, y : float [pixel], maximum of Blobs Finder's map (the barycentre of a box leans to its neighbours)
    box : Box [pixel], inclusive
    probability : float, highest value of Blobs Finder's map inside
    snr : float [sigma], highest value of the detection map inside
    map_index : int, which detection map it was found on
    weights : (ny of the box, nx of the box) float32, Blobs Finder's map inside the box (other blobs 0)
    """

    x: float
    y: float
    box: Box
    probability: float
    snr: float
    map_index: int
    weights: NDArray[np.float32]


def integrated_map(data: NDArray[np.float32], sigma: NDArray, channels: NDArray | None = None) -> DetectionMap:
    """The integrated dirty image (1): the noise-weighted mean over channels, in units of its noise.

    Parameters
    ----------
    data : (nchan, ny, nx) float32 [Jy/beam]
    sigma : (nchan,) [Jy/beam]; NaN for flagged channels
    channels : (nchan,) bool, those to use; default all

    Returns
    -------
    DetectionMap; where its rms is above what independent channels give, in units of that
    """
    weights = inverse_variance(sigma)
    if channels is not None and channels.any():
        weights = np.where(channels, weights, 0.0)
    image = weighted_mean(data, weights)
    rms = robust_rms(image)
    if rms > 1.0:
        image /= np.float32(rms)
    used = np.flatnonzero(weights)
    return DetectionMap(image, int(used[0]), int(used[-1]), "integrated")


def weighted_mean(data: NDArray[np.float32], weights: NDArray) -> NDArray[np.float32]:
    """The weighted mean over channels, in units of the error that independent channels give it.

    Parameters
    ----------
    data : (nchan, ny, nx) float32 [Jy/beam]
    weights : (nchan,) [(Jy/beam)^-2], 1 / sigma^2; 0 for channels that are left out

    Returns
    -------
    (ny, nx) float32 [sigma]; NaN where no channel holds data
    """
    image = weighted_sum(data, weights / np.sqrt(weights.sum()))
    image[~any_known(data)] = np.nan
    return image


def window_widths(nchan: int) -> list[int]:
    """Widths of the spectral windows [chan]: 1, 2, 3, 4, 6, 8, 12 ... up to half the band."""
    widths = [1]
    step = 2
    while step <= max(nchan // 2, 1):
        widths += [step] if step < 4 else [step, step + step // 2]
        step = step + 1 if step < 4 else 2 * step
    return [w for w in widths if w <= max(nchan // 2, 1)]


MEASURABLE = 8
"""Windows side by side from which the scatter of a spectrum at their width is measured."""

SAMPLE = 8192
"""About how many pixels the noise of a window of channels is measured on."""


class LineSearch:
    """Sums of a line cube over every window of channels, in units of their noise.

    Parameters
    ----------
    line : (nchan, ny, nx) float32 [Jy/beam], continuum subtracted
    sigma : (nchan,) [Jy/beam]; NaN for flagged channels
    turned : bool
        Whether it is turned over, so that the deepest holes are the highest peaks.
    fitted : bool
        Whether a continuum was fitted to each pixel and subtracted, which takes part of the noise of wide windows.
    """

    def __init__(
        self, line: NDArray[np.float32], sigma: NDArray, *, fitted: bool = False, turned: bool = False
    ) -> None:
        weights = inverse_variance(sigma)
        self._weights = np.concatenate([[0.0], np.cumsum(weights)])
        self._sums = np.zeros((line.shape[0] + 1, *line.shape[1:]), dtype=np.float32)
        reference = np.sqrt(weights.max())
        sign = -1.0 if turned else 1.0
        for chan in range(line.shape[0]):
            self._sums[chan + 1] = blank_to_zero(line[chan] * np.float32(sign * weights[chan] / reference))
            self._sums[chan + 1] += self._sums[chan]
        self._reference = reference
        self._fitted = fitted
        self.blank = ~any_known(line)
        self.nchan = line.shape[0]
        # The noise of each of many windows is measured on these: more of them than there are beams.
        known = np.flatnonzero(~self.blank)
        self._sample = known[:: (known.size // SAMPLE) | 1]

    def _raw(self, chan0: int, chan1: int) -> NDArray[np.float32]:
        total = self._weights[chan1 + 1] - self._weights[chan0]
        if total <= 0:
            return np.zeros(self._sums.shape[1:], dtype=np.float32)
        return (self._sums[chan1 + 1] - self._sums[chan0]) * np.float32(self._reference / np.sqrt(total))

    def window(self, chan0: int, chan1: int) -> NDArray[np.float32]:
        """(ny, nx) float32 [sigma] : the sum over channels chan0..chan1, in units of its noise.

        The noise is the larger of what independent channels give and what the sum itself shows:
        channels of real data are correlated, and so is what a fitted continuum leaves at the band's ends. It is
        smaller where a fitted continuum took its share of the window.
        """
        raw = self._raw(chan0, chan1)
        rms = robust_rms(raw.ravel()[self._sample])
        least = 1.0
        if self._fitted:
            # A linear fit takes no more than four times the window's share, at the ends of the band.
            share = (self._weights[chan1 + 1] - self._weights[chan0]) / self._weights[-1]
            least = np.sqrt(max(1.0 - 4.0 * share, 0.25))
        rms = max(rms, least) if np.isfinite(rms) else 1.0
        return raw / np.float32(rms) if rms != 1.0 else raw

    def windows(self) -> list[tuple[int, int]]:
        """All windows (chan0, chan1): each width, moved by a quarter of itself."""
        found = []
        for width in window_widths(self.nchan):
            found += [(start, start + width - 1) for start in _starts(self.nchan, width)]
        return found

    def maximum(self) -> tuple[NDArray[np.float32], NDArray[np.int32], list[tuple[int, int]]]:
        """Highest value over all windows of each pixel, the index of its window, and the windows."""
        windows = self.windows()
        best = np.full(self._sums.shape[1:], -np.inf, dtype=np.float32)
        index = np.zeros(best.shape, dtype=np.int32)
        for number, (chan0, chan1) in enumerate(windows):
            plane = self.window(chan0, chan1)
            better = plane > best
            np.copyto(best, plane, where=better)
            np.copyto(index, np.int32(number), where=better)
        return best, index, windows


def strongest_window(spectrum: NDArray, good: NDArray[np.bool_]) -> tuple[float, int, int]:
    """The window of channels in which one spectrum stands highest.

    Every width is measured against what the rest of the spectrum shows at that width: the ripples of an imperfect
    bandpass on a bright continuum are no lines, and a wide line does not count as ripples.

    Parameters
    ----------
    spectrum : (nchan,) in units of its noise, continuum subtracted
    good : (nchan,) bool, channels that hold data

    Returns
    -------
    snr : float [sigma], and chan0, chan1 : int, its channels, inclusive
    """
    nchan = len(spectrum)
    sums = np.concatenate([[0.0], np.cumsum(np.where(good, spectrum, 0.0))])
    counts = np.concatenate([[0], np.cumsum(good)])
    best, scale = (-np.inf, 0, 0), 1.0
    for width in window_widths(nchan):
        total = (sums[width:] - sums[:-width]) / np.sqrt(np.maximum(counts[width:] - counts[:-width], 1))
        starts = np.array(_starts(nchan, width))
        start = int(starts[total[starts].argmax()])
        # Half a window beside the strongest still holds the wings of its line.
        apart = np.abs(np.arange(len(total)) - start) >= 1.5 * width
        if apart.sum() >= MEASURABLE * width - 2 * width:
            scale = max(1.0, robust_rms(total[apart]))
        if total[start] / scale > best[0]:
            best = (float(total[start] / scale), start, start + width - 1)
    return best


def _starts(nchan: int, width: int) -> list[int]:
    """First channels of the windows of one width: each a quarter of it on."""
    last = nchan - width
    return [*range(0, last, max(1, width // 4)), last]


def line_maps(search: LineSearch, *, threshold: float, beam_pixels: float, most: int = 64) -> list[DetectionMap]:
    """Line maps worth looking at: the best window of every local maximum of the search.

    Parameters
    ----------
    search : LineSearch
    threshold : float [sigma], of a local maximum
    beam_pixels : float [pixel], beam FWHM
    most : int, the brightest maxima are looked at first, and no more than these

    Returns
    -------
    list of DetectionMap, brightest first, without repeats
    """
    best, index, windows = search.maximum()
    best[search.blank] = -np.inf
    peaks = peak_local_max(
        np.nan_to_num(best, neginf=0.0),
        min_distance=max(1, round(0.5 * beam_pixels)),
        threshold_abs=threshold,
        exclude_border=False,
    )
    chosen: list[tuple[int, int]] = []
    for row, column in peaks[:most]:
        window = windows[index[row, column]]
        if window not in chosen:
            chosen.append(window)
    maps = []
    for chan0, chan1 in chosen:
        image = search.window(chan0, chan1)
        image[search.blank] = np.nan
        maps.append(DetectionMap(image, chan0, chan1, "line"))
    return maps


def probability_map(
    detection: DetectionMap,
    network: Callable[[NDArray], NDArray],
    beam_pixels: float,
    halo: int = 144,
    *,
    planes: Sequence[str] = ("dirty",),
    psf: Callable[[DetectionMap, int], NDArray] | None = None,
) -> NDArray[np.float32]:
    """Blobs Finder's map (3) of one detection map, on the map's working pixels.

    Parameters
    ----------
    detection : DetectionMap, (ny, nx)
    network : (1, len(planes), H, W) -> (1, 1, H, W), Blobs Finder
    beam_pixels : float [pixel], beam FWHM
    halo : int [working pixel], what the network sees beside a pixel; a multiple of 16
    planes : what it sees, of `preprocessing.PLANES`
    psf : (detection, size) -> (size, size) its PSF on working pixels, peak at (size // 2, size // 2); called
        only where a plane needs it

    Returns
    -------
    (ceil(ny s), ceil(nx s)) float32 in [0, 1], s = PIXELS_PER_BEAM / beam_pixels
    """
    scale = PIXELS_PER_BEAM / beam_pixels
    image = resample(detection.image, scale)
    # On the resampled grid the data end where their nearest pixel is blank.
    rows, columns = (np.minimum(np.rint(np.arange(n) / scale).astype(int), m - 1)
                     for n, m in zip(image.shape, detection.image.shape, strict=True))  # fmt: skip
    seen = np.isfinite(detection.image)[np.ix_(rows, columns)]
    kernel = None
    if "clean" in planes:
        # Without a PSF nothing is known of sidelobes: that of a point has none.
        kernel = np.ones((1, 1, 1), np.float32)
        if psf is not None and image.max() > CLEAN_LEVEL:
            kernel = psf(detection, 2 * max(image.shape))[None]
    stack = blobs_finder_planes((image * seen)[None], planes, kernel, seen[None])[0]
    return apply_tiled(network, blobs_finder_input(stack), halo=halo)


def find_blobs(
    probability: NDArray[np.float32],
    detection: DetectionMap,
    *,
    map_index: int,
    beam_pixels: float,
    threshold: float,
    floor: float = 0.15,
) -> list[Blob]:
    """Blobs (4): islands of the probability map, split where they hold several maxima.

    Islands are bounded at `floor` (the paper's 0.15, for boxes and spectra) and kept when they rise
    to `threshold`; the watershed of the map splits merged ones at their local maxima.

    Parameters
    ----------
    probability : (H, W) float32, working pixels
    detection : DetectionMap, the image that it was made from
    map_index : int, stored in the blobs
    beam_pixels : float [pixel]
    threshold, floor : float in [0, 1]

    Returns
    -------
    list of Blob in image pixels, brightest first
    """
    scale = PIXELS_PER_BEAM / beam_pixels
    # Two working pixels (0.4 beam): nearer maxima are one flat top.
    peaks = peak_local_max(probability, min_distance=2, threshold_abs=threshold, exclude_border=False)
    if len(peaks) == 0:
        return []
    markers = np.zeros(probability.shape, dtype=np.int32)
    for number, (row, column) in enumerate(peaks, start=1):
        markers[row, column] = number
    islands = watershed(-probability, markers, mask=probability > min(floor, threshold))
    image = np.nan_to_num(detection.image)
    blobs = []
    for region in regionprops(islands, intensity_image=probability):
        row, column = peaks[region.label - 1]
        y, x = _vertex(probability, int(row), int(column))
        y, x = y / scale, x / scale
        top, left, bottom, right = region.bbox
        box = Box(
            max(0, int(np.floor((left - 0.5) / scale))),
            max(0, int(np.floor((top - 0.5) / scale))),
            min(image.shape[1] - 1, int(np.ceil((right - 0.5) / scale))),
            min(image.shape[0] - 1, int(np.ceil((bottom - 0.5) / scale))),
        )
        near_y, near_x = (int(np.clip(round(v), 0, n - 1)) for v, n in zip((y, x), image.shape, strict=True))
        reach = max(1, round(0.25 * beam_pixels))
        around = image[max(0, near_y - reach) : near_y + reach + 1, max(0, near_x - reach) : near_x + reach + 1]
        if not np.isfinite(detection.image[near_y, near_x]):
            continue
        weights = _box_weights(np.where(islands == region.label, probability, 0.0), box, scale)
        blobs.append(Blob(x, y, box, float(probability[row, column]), float(around.max()), map_index, weights))
    return sorted(blobs, key=lambda blob: -blob.snr)


def peak_blobs(
    detection: DetectionMap,
    probability: NDArray[np.float32],
    taken: Sequence[Blob],
    *,
    map_index: int,
    beam_pixels: float,
    level: float,
    hint: float,
) -> list[Blob]:
    """The classical finder beside the learned one: maxima of the map that Blobs Finder only hints at.

    Two independent methods together find more than either; where a map stands above anything noise
    does, a hint of the network is enough.

    Parameters
    ----------
    detection : DetectionMap
    probability : (H, W) float32, Blobs Finder's map of it, working pixels
    taken : sequence of Blob, maxima within half a beam of these are theirs
    map_index, beam_pixels : as in `find_blobs`
    level : float [sigma], of a maximum
    hint : float in [0, 1], lowest value of Blobs Finder's map within half a beam

    Returns
    -------
    list of Blob, brightest first; their boxes are one beam wide
    """
    image = np.nan_to_num(detection.image)
    scale = PIXELS_PER_BEAM / beam_pixels
    reach = max(1, round(0.5 * beam_pixels))
    near = ndimage.maximum_filter(probability, size=2 * round(0.5 * PIXELS_PER_BEAM) + 1)
    found = []
    for row, column in peak_local_max(image, min_distance=reach, threshold_abs=level, exclude_border=False):
        if any(np.hypot(column - blob.x, row - blob.y) < 0.5 * beam_pixels for blob in taken):
            continue
        work = tuple(min(round(v * scale), n - 1) for v, n in zip((row, column), near.shape, strict=True))
        if near[work] < hint or not np.isfinite(detection.image[row, column]):
            continue
        y, x = _vertex(image, int(row), int(column))
        box = Box(int(column) - reach, int(row) - reach, int(column) + reach, int(row) + reach).clip(image.shape)
        weights = np.clip(image[box.slices] / image[row, column], 0.0, 1.0).astype(np.float32)
        found.append(Blob(x, y, box, float(near[work]), float(image[row, column]), map_index, weights))
    return found


def _vertex(probability: NDArray[np.float32], row: int, column: int) -> tuple[float, float]:
    """Place (y, x) of a maximum to a fraction of a pixel: the vertices of the parabolas through it."""
    place = []
    for axis, index in enumerate((row, column)):
        line = probability[:, column] if axis == 0 else probability[row, :]
        step = 0.0
        if 0 < index < line.size - 1:
            low, middle, high = (float(value) for value in line[index - 1 : index + 2])
            bend = 2.0 * middle - low - high
            step = float(np.clip(0.5 * (high - low) / bend, -0.5, 0.5)) if bend > 0 else 0.0
        place.append(index + step)
    return place[0], place[1]


def _box_weights(probability: NDArray, box: Box, scale: float) -> NDArray[np.float32]:
    """The probability map resampled to the image pixels of a box."""
    ys = (np.arange(box.y0, box.y1 + 1) * scale)[:, None]
    xs = (np.arange(box.x0, box.x1 + 1) * scale)[None, :]
    grid = np.stack(np.broadcast_arrays(ys, xs))
    return ndimage.map_coordinates(probability.astype(np.float32), grid, order=1, mode="nearest")
