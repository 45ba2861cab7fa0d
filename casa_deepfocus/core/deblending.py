"""Step (iii) of the paper's section 4.4, second half: the decision graph of its Fig. 14.

Each blob comes with the peaks of its spectrum. The graph focuses on every peak, drops false
detections, tells one source from several, and returns candidates. Every condition is a function.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from casa_deepfocus.core.boxes import Box, box_of
from casa_deepfocus.core.focusing import (
    FOCUS_HALF_WIDTH,
    aperture,
    brightest_pixel,
    crop_origin,
    focus,
    focus_range,
    global_snr,
    grow_friends,
    refine_position,
    snr_increases,
    subtract_source,
)
from casa_deepfocus.core.spectra import Peak

NO_PEAK = "no peak"
CONDITION_1 = "condition 1"
CONDITION_2 = "condition 2"
NOT_SIGNIFICANT = "not significant"
FINAL_CUT = "final cut"
DUPLICATE = "duplicate"

BRIGHT = "bright"
SNR_INCREASE = "snr increase"
SHOULDER = "shoulder"
SECOND_LINE = "second line"
NEW_SOURCE = "new source"


@dataclass(frozen=True)
class GraphThresholds:
    """The numbers of the decision graph. SNRs are in units of sigma, never of the variance.

    Attributes
    ----------
    bright : float [sigma]
        Global SNR in the integrated image above which a blob needs no SNR increase (paper: 6 per variance).
    final : float [sigma]
        Lowest global SNR in the focused image that is kept (paper: 1 per variance).
    secondary : float [sigma]
        Lowest pixel SNR in the focused image for a secondary peak to be a source or a line of its own.
    same_position : float [pixel]
        Brightest pixels at most this far apart are one position (paper: 3 pixels of a 8.5 pixel beam).
    superposed : float
        Two lines closer than this times the mean of their FWHM are superposed in frequency.
    increase : float
        Factor by which an SNR has to grow to count as an increase.
    half_width : float [FWHM of the line]
        Half-width of the range that is integrated.
    radius : float [pixel]
        Largest radius of the circle in which the global SNR is measured: half a beam.
    margin : int [pixel]
        How far outside a blob's box its brightest pixel may lie.
    crop : int [pixel]
        Smallest side of the focused image that is looked at (paper: 64).
    linking : int [pixel]
        Linking length of the friends-of-friends growth, along x and y.
    """

    bright: float = 5.0
    final: float = 2.5
    secondary: float = 4.5
    same_position: float = 3.0
    superposed: float = 1.5
    increase: float = 1.0
    half_width: float = FOCUS_HALF_WIDTH
    radius: float = 3.0
    margin: int = 2
    crop: int = 64
    linking: int = 1


DEFAULT_THRESHOLDS = GraphThresholds()


@dataclass(frozen=True)
class Candidate:
    """A source, or a line of one, that passed the decision graph.

    Attributes
    ----------
    x, y : float [pixel], the (sub-pixel) maximum of the focused image
    box : Box [pixel]
    chan, fwhm : float [channel]
    chan0, chan1 : int [channel], inclusive, the centre -+ FWHM (longer when split peaks were joined)
    snr : float [sigma], global SNR in the focused image
    pixel_snr : float [sigma], of the brightest pixel of the focused image
    primary : bool, the most significant line of its blob
    group : int, index of the blob
    reason : str
        Why it was kept: 'bright', 'snr increase', 'shoulder' (primary, but not a local maximum of
        the focused image: a blend, or a neighbour's wing), 'second line' (same position as another
        candidate of the group, other frequency), 'new source' (other position in the same blob).
    """

    x: float
    y: float
    box: Box
    chan: float
    fwhm: float
    chan0: int
    chan1: int
    snr: float
    pixel_snr: float
    primary: bool
    group: int
    reason: str


@dataclass(frozen=True)
class Rejected:
    """A blob (peak is None) or a peak that the graph turned down.

    Attributes
    ----------
    group : int, index of the blob
    peak : Peak or None
    reason : str, 'no peak', 'condition 1', 'condition 2', 'not significant', 'final cut' or 'duplicate'
    snr : float [sigma], the SNR that decided; NaN when none was measured
    """

    group: int
    peak: Peak | None
    reason: str
    snr: float = float("nan")


@dataclass(frozen=True)
class _Focused:
    """A peak with its focused image: pixels are those of the crop."""

    peak: Peak
    channels: tuple[int, int]
    image: NDArray
    noise: float
    pixel: tuple[int, int] | None
    pixel_snr: float


def passes_condition_1(
    integrated_snr: float, focused_snr: float, thresholds: GraphThresholds = DEFAULT_THRESHOLDS
) -> bool:
    """Condition 1 of Fig. 14: a blob is bright in the integrated image, or its SNR grows when it is focused.

    Parameters
    ----------
    integrated_snr, focused_snr : float [sigma], global SNRs; NaN when they cannot be measured
    """
    return integrated_snr > thresholds.bright or snr_increases(integrated_snr, focused_snr, thresholds.increase)


def are_superposed(one: Peak, other: Peak, factor: float = DEFAULT_THRESHOLDS.superposed) -> bool:
    """Whether two lines overlap in frequency: closer than `factor` times the mean of their FWHM."""
    return abs(one.chan - other.chan) < factor * 0.5 * (one.fwhm + other.fwhm)


def at_same_position(one: tuple[float, float], other: tuple[float, float], distance: float) -> bool:
    """Whether two (x, y) positions are at most `distance` pixels apart."""
    return bool(np.hypot(one[0] - other[0], one[1] - other[1]) <= distance)


def passes_condition_2(superposed: bool, same_position: bool) -> bool:
    """Condition 2 of Fig. 14: a secondary peak is independent unless it has the primary's frequency and pixel."""
    return not (superposed and same_position)


def passes_final_cut(snr: float, thresholds: GraphThresholds = DEFAULT_THRESHOLDS) -> bool:
    """The last cut of Fig. 14: the global SNR of the focused source is high enough."""
    return bool(snr >= thresholds.final)


def join_peaks(one: Peak, other: Peak) -> Peak:
    """One peak from two that split a line: its half-height interval spans both, and so does its range."""
    low = min(one.chan - 0.5 * one.fwhm, other.chan - 0.5 * other.fwhm)
    high = max(one.chan + 0.5 * one.fwhm, other.chan + 0.5 * other.fwhm)
    return Peak(
        0.5 * (low + high),
        high - low,
        max(one.height, other.height),
        min(one.chan0, other.chan0),
        max(one.chan1, other.chan1),
    )


class _Blob:
    """The crop of the line cube around a blob, and how to focus it."""

    def __init__(self, cube: NDArray, sigma: NDArray, box: Box, thresholds: GraphThresholds) -> None:
        inside = box.clip(cube.shape[1:])
        self.cube = cube
        self.sigma = np.asarray(sigma, dtype=float)
        self.thresholds = thresholds
        self.centre = inside.centre
        self.size = max(thresholds.crop, 2 * max(inside.width, inside.height))
        self.origin = crop_origin(self.centre, self.size)
        self.box = inside.shift(-self.origin[0], -self.origin[1])
        self.region = self.box.grow(thresholds.margin)

    def image(self, chan0: int, chan1: int) -> tuple[NDArray, float]:
        """The crop integrated over inclusive channels, and its rms."""
        return focus(self.cube, chan0, chan1, self.sigma, self.centre, self.size)

    def focus(self, peak: Peak) -> _Focused:
        """The crop focused on a peak, with its brightest pixel."""
        channels = focus_range(peak, self.cube.shape[0], self.thresholds.half_width)
        image, noise = self.image(*channels)
        return self.measure(peak, channels, image, noise)

    def measure(self, peak: Peak, channels: tuple[int, int], image: NDArray, noise: float) -> _Focused:
        """The brightest pixel of an image inside the blob, and its SNR."""
        pixel = brightest_pixel(image, self.region) if noise > 0 else None
        snr = float(image[pixel[1], pixel[0]] / noise) if pixel else float("nan")
        return _Focused(peak, channels, image, noise, pixel, snr)

    def without(self, focused: _Focused, others: Iterable[_Focused]) -> _Focused:
        """A focused peak after the sources superposed in frequency are subtracted from it."""
        image, noise = focused.image, focused.noise
        for other in others:
            if other.pixel is None:
                continue
            low, high = max(focused.channels[0], other.channels[0]), min(focused.channels[1], other.channels[1])
            shared = float(np.nansum(self.sigma[low : high + 1] ** 2)) if low <= high else 0.0
            image, noise = subtract_source(image, noise, other.image, other.noise, other.pixel, shared)
        return self.measure(focused.peak, focused.channels, image, noise)

    def snr(self, focused: _Focused, box: Box) -> float:
        """Global SNR of a focused source."""
        return global_snr(focused.image, aperture(box, focused.pixel, self.thresholds.radius), focused.noise)

    def grown_box(self, focused: _Focused) -> Box:
        """The box of the friends of a focused image's brightest pixel, in the crop."""
        if focused.pixel is None or not focused.pixel_snr > 0:
            return self.box
        return box_of(grow_friends(focused.image, focused.pixel, focused.noise, self.thresholds.linking)[0])

    def candidate(self, focused: _Focused, box: Box, *, primary: bool, group: int, reason: str) -> Candidate:
        """A focused peak as a candidate, in the cube's pixels."""
        x, y = focused.pixel if focused.pixel is not None else self.box.centre
        if focused.pixel is not None and reason != SHOULDER:
            x, y = refine_position(focused.image, *focused.pixel)
        peak = focused.peak
        snr = self.snr(focused, box)
        dx, dy = self.origin
        return Candidate(
            x + dx, y + dy, box.shift(dx, dy), peak.chan, peak.fwhm, peak.chan0, peak.chan1, snr, focused.pixel_snr,
            primary, group, reason,
        )  # fmt: skip


def _primary(
    blob: _Blob, ranked: Sequence[_Focused], peak_pixel: tuple[int, int], integrated_snr: float | None
) -> tuple[_Focused, Box, str, float]:
    """The primary line: its focused image, its box, the reason to keep it ('' when condition 1 fails), its SNR."""
    focused, thresholds = ranked[0], blob.thresholds
    shoulder = focused.pixel is None
    if shoulder:
        x, y = peak_pixel[0] - blob.origin[0], peak_pixel[1] - blob.origin[1]
        inside = 0 <= x < blob.size and 0 <= y < blob.size and focused.noise > 0
        snr = float(focused.image[y, x] / focused.noise) if inside else float("nan")
        focused = replace(focused, pixel=(x, y) if np.isfinite(snr) else None, pixel_snr=snr)
    box = blob.box
    central = focused.pixel is not None and at_same_position(box.centre, focused.pixel, thresholds.same_position)
    if not shoulder and (len(ranked) > 1 or not central):
        box = blob.grown_box(focused)
    snr = blob.snr(focused, box)
    if integrated_snr is None:
        image, noise = blob.image(0, blob.cube.shape[0] - 1)
        integrated_snr = blob.snr(replace(focused, image=image, noise=noise), box)
    if not passes_condition_1(integrated_snr, snr, thresholds):
        return focused, box, "", snr
    if shoulder:
        return focused, box, SHOULDER, snr
    return focused, box, BRIGHT if integrated_snr > thresholds.bright else SNR_INCREASE, snr


def decide(
    cube: NDArray,
    sigma: NDArray,
    box: Box,
    peak_pixel: tuple[int, int],
    peaks: Sequence[Peak],
    *,
    integrated_snr: float | None = None,
    group: int = 0,
    thresholds: GraphThresholds = DEFAULT_THRESHOLDS,
) -> tuple[list[Candidate], list[Rejected]]:
    """The decision graph of Fig. 14 for one blob.

    Parameters
    ----------
    cube : (nchan, ny, nx) float [Jy/beam], the line cube (continuum subtracted), NaN where masked
    sigma : (nchan,) float [Jy/beam], noise of each channel
    box : Box [pixel], the blob's
    peak_pixel : (x, y) int [pixel], the blob's maximum in the probability map
    peaks : the lines of the blob's spectrum (`spectra.find_peaks`)
    integrated_snr : float [sigma], optional
        Global SNR of the blob in the integrated dirty cube; measured on `cube` when not given.
    group : int, index of the blob
    thresholds : GraphThresholds

    Returns
    -------
    candidates : list of Candidate, the primary first; empty for a false detection
    rejected : list of Rejected
    """
    if not peaks:
        return [], [Rejected(group, None, NO_PEAK)]
    blob = _Blob(cube, sigma, box, thresholds)
    ranked = sorted((blob.focus(peak) for peak in peaks), key=_significance, reverse=True)
    primary, primary_box, reason, snr = _primary(blob, ranked, peak_pixel, integrated_snr)
    if not reason:
        rejected = [Rejected(group, primary.peak, CONDITION_1, snr)]
        return [], rejected + [Rejected(group, item.peak, CONDITION_1, item.pixel_snr) for item in ranked[1:]]
    kept = [(primary, primary_box, reason)]
    turned_down: list[Rejected] = []
    for item in ranked[1:]:
        verdict = _secondary(blob, item, kept)
        if verdict is not None:
            turned_down.append(Rejected(group, item.peak, *verdict))
    candidates = []
    for number, (item, item_box, why) in enumerate(kept):
        candidate = blob.candidate(item, item_box, primary=number == 0, group=group, reason=why)
        if passes_final_cut(candidate.snr, thresholds):
            candidates.append(candidate)
        else:
            turned_down.append(Rejected(group, item.peak, FINAL_CUT, candidate.snr))
    return candidates, turned_down


def _significance(focused: _Focused) -> float:
    """Order of the peaks of a blob: the pixel SNR; peaks without a maximum in the blob come last."""
    return focused.pixel_snr if np.isfinite(focused.pixel_snr) else -np.inf


def _near(one: tuple[int, int] | None, other: tuple[int, int] | None, distance: float, *, unknown: bool) -> bool:
    """`at_same_position`, or `unknown` when one of the two has no maximum in the blob."""
    return unknown if one is None or other is None else at_same_position(one, other, distance)


def _secondary(blob: _Blob, item: _Focused, kept: list[tuple[_Focused, Box, str]]) -> tuple[str, float] | None:
    """Judge a secondary peak against what was kept: add it to `kept`, or extend one of them, or say why not."""
    thresholds = blob.thresholds
    behind = [n for n, (other, _, _) in enumerate(kept) if are_superposed(item.peak, other.peak, thresholds.superposed)]
    alone = blob.without(item, [kept[n][0] for n in behind]) if behind else item
    significant = alone.pixel is not None and alone.pixel_snr >= thresholds.secondary
    reach = thresholds.same_position
    here = [n for n, (other, _, _) in enumerate(kept) if _near(alone.pixel, other.pixel, reach, unknown=False)]
    if significant and not here:
        kept.append((alone, blob.grown_box(alone), NEW_SOURCE))
        return None
    if significant and not set(here) & set(behind):
        kept.append((item, kept[here[0]][1], SECOND_LINE))
        return None
    for n in behind:
        other, box, why = kept[n]
        if passes_condition_2(True, _near(item.pixel, other.pixel, reach, unknown=True)):
            continue
        before = blob.snr(other, box)
        low, high = min(item.channels[0], other.channels[0]), max(item.channels[1], other.channels[1])
        image, noise = blob.image(low, high)
        after = blob.snr(replace(other, image=image, noise=noise), box)
        if not snr_increases(before, after, thresholds.increase):
            return CONDITION_2, item.pixel_snr
        joined = blob.measure(join_peaks(other.peak, item.peak), (low, high), image, noise)
        kept[n] = (joined if joined.pixel is not None else replace(joined, pixel=other.pixel), box, why)
        return None
    return NOT_SIGNIFICANT, alone.pixel_snr


def merge_candidates(
    candidates: Iterable[Candidate], thresholds: GraphThresholds = DEFAULT_THRESHOLDS
) -> tuple[list[Candidate], list[Rejected]]:
    """One candidate where several blobs gave the same line of the same source.

    Parameters
    ----------
    candidates : of all blobs
    thresholds : `same_position` and `superposed` say what is the same

    Returns
    -------
    kept : list of Candidate, by falling SNR; of each set of equals the one with the highest SNR
    rejected : list of Rejected, with the reason 'duplicate'
    """
    kept: list[Candidate] = []
    duplicates: list[Rejected] = []
    for candidate in sorted(candidates, key=lambda item: item.pixel_snr, reverse=True):
        peak = Peak(candidate.chan, candidate.fwhm, 1.0, candidate.chan0, candidate.chan1)
        if any(_is_same(candidate, peak, other, thresholds) for other in kept):
            duplicates.append(Rejected(candidate.group, peak, DUPLICATE, candidate.snr))
        else:
            kept.append(candidate)
    return kept, duplicates


def _is_same(candidate: Candidate, peak: Peak, other: Candidate, thresholds: GraphThresholds) -> bool:
    """Whether a candidate is another one again."""
    twin = Peak(other.chan, other.fwhm, 1.0, other.chan0, other.chan1)
    near = at_same_position((candidate.x, candidate.y), (other.x, other.y), thresholds.same_position)
    return near and are_superposed(peak, twin, thresholds.superposed)
