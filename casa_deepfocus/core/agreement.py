"""Whether an image agrees with what is said about it: its beam with the PSF's, its noise with the primary beam.

The noise of an interferometer tells what was done to an image after it was made: over the field it is flat before the
correction for the primary beam, and goes as 1 / PB after it; from pixel to pixel it is correlated as the PSF says, and
over more where the image was smoothed.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import fft

from casa_deepfocus.core.geometry import shape_to_covariance
from casa_deepfocus.core.noise import robust_rms
from casa_deepfocus.core.psf import fit_beam
from casa_deepfocus.errors import DataError

CHANNELS = 16
"""At most so many channels are looked at: what the noise of one of them does not tell, that of 16 does."""

BINS = 8
"""Parts of equal numbers of pixels into which a field is cut by its primary beam."""

LEAST_RESPONSE = 0.05
"""Below this response the primary beam is little known, and images are blank."""

MEDIAN_LOSS = 2.72
"""Variance of a standard deviation estimated from the median absolute value, over that of the best estimate."""

BRANCH = 0.35
"""Largest distance of the slope of the noise from that of a hypothesis (0, -1), beyond which it is neither's."""

LEAST_OVERLAP = 0.1
"""Share of the field that two places a lag apart must have in common for their correlation to be counted."""

CONCLUSIVE = 12.5
"""Difference in ln L from which one of two hypotheses is taken: 5 sigma."""


class Verdict(Enum):
    """What the noise says of an image and its primary beam."""

    FLAT = "flat"
    CORRECTED = "corrected"
    UNSURE = "unsure"


@dataclass(frozen=True)
class Slope:
    """Noise over the field: d ln(rms) / d ln(PB).

    Attributes
    ----------
    value : float, 0 where the noise is flat, -1 where it was divided by the primary beam; NaN where nothing tells
    error : float, 68 %, enlarged where the noise follows no power of the primary beam
    """

    value: float
    error: float

    @property
    def verdict(self) -> Verdict:
        """The hypothesis that is surer than the other by `CONCLUSIVE`, and within `BRANCH` of the slope."""
        if not np.isfinite(self.value):
            return Verdict.UNSURE
        flat, corrected = self.value, self.value + 1.0
        gain = 0.5 * (corrected**2 - flat**2) / self.error**2
        if gain > CONCLUSIVE and flat > -BRANCH:
            return Verdict.FLAT
        if gain < -CONCLUSIVE and corrected < BRANCH:
            return Verdict.CORRECTED
        return Verdict.UNSURE


def noise_slope(data: NDArray, pb: NDArray, beam_area: float) -> Slope:
    """How the noise changes with the primary beam over the field.

    In a cube the second difference of channels is looked at, which holds little of continuum sources.

    Parameters
    ----------
    data : (nchan, ny, nx) [any unit]; NaN where blank
    pb : (nchan or 1, ny, nx), response; NaN or 0 outside
    beam_area : float [pixel], what one independent value of the noise covers

    Returns
    -------
    Slope, NaN where fewer than 3 parts of the field hold data, or their responses are alike
    """
    rows, weights, responses = [], [], []
    for chan, plane in _differences(data):
        response = pb[chan if len(pb) > 1 else 0]
        inside = np.isfinite(plane) & (np.nan_to_num(response) > LEAST_RESPONSE)
        if inside.sum() < 16 * BINS:
            continue
        values, levels = plane[inside], response[inside]
        edges = np.quantile(levels, np.linspace(0.0, 1.0, BINS + 1))
        part = np.clip(np.searchsorted(edges, levels, side="right") - 1, 0, BINS - 1)
        rms = np.array([robust_rms(values[part == number]) for number in range(BINS)])
        count = np.bincount(part, minlength=BINS) / beam_area
        good = np.isfinite(rms)
        if good.sum() < 3:
            continue
        log_rms = np.where(good, np.log(np.where(good, rms, 1.0)), 0.0)
        weight = np.where(good, 2.0 * count / MEDIAN_LOSS, 0.0)
        mean = np.bincount(part, np.log(levels), minlength=BINS) / np.maximum(np.bincount(part, minlength=BINS), 1)
        rows.append(log_rms - np.average(log_rms, weights=weight))
        responses.append(mean - np.average(mean, weights=weight))
        weights.append(weight)
    if not rows:
        return Slope(float("nan"), float("inf"))
    x, y, w = np.concatenate(responses), np.concatenate(rows), np.concatenate(weights)
    information = float((w * x * x).sum())
    if not information > 0:
        return Slope(float("nan"), float("inf"))
    value = float((w * x * y).sum()) / information
    # The parts of one channel share their mean.
    freedom = max((w > 0).sum() - len(rows) - 1, 1)
    excess = float((w * (y - value * x) ** 2).sum()) / freedom
    return Slope(value, float(np.sqrt(max(excess, 1.0) / information)))


def correlation_ratio(image: NDArray, psf: NDArray) -> float:
    """Area over which the noise of an image is correlated, over that of its PSF's main lobe.

    With natural weights the noise's autocorrelation is the PSF, and the ratio is 1; Briggs weights and white noise make
    it smaller. An image convolved with a Gaussian of a FWHM of k beams has 1 + 2 k^2, k below 1.

    Parameters
    ----------
    image : (ny, nx) [any unit], without its sources; NaN where blank
    psf : (py, px), peak 1 at (py//2, px//2)

    Returns
    -------
    float; NaN where an autocorrelation or a PSF has no main lobe that can be fitted
    """
    known = np.isfinite(image)
    taper = np.hanning(image.shape[0] + 2)[1:-1, None] * np.hanning(image.shape[1] + 2)[None, 1:-1] * known
    grid = [fft.next_fast_len(2 * side, real=True) for side in image.shape]
    power, window = (
        fft.irfft2(np.abs(fft.rfft2(plane, s=grid)) ** 2, s=grid)
        for plane in (np.where(known, image, 0.0) * taper, taper)
    )
    if not (power[0, 0] > 0 and window[0, 0] > 0):
        return float("nan")
    lag = np.fft.fftshift(np.where(window > LEAST_OVERLAP * window[0, 0], power / np.maximum(window, 1e-12), 0.0))
    # The area of a Gaussian lobe goes as the root of the determinant of its covariance.
    lobes = []
    for lobe in (lag * (window[0, 0] / power[0, 0]), psf):
        try:
            sxx, syy, sxy = fit_beam(lobe)
        except DataError:
            return float("nan")
        lobes.append(float(np.sqrt(sxx * syy - sxy**2)))
    return lobes[0] / lobes[1]


def width_ratios(beam: ArrayLike, other: ArrayLike) -> tuple[float, float]:
    """Smallest and largest ratio of the widths of two Gaussians over all directions.

    Parameters
    ----------
    beam, other : (3,) : FWHM major, minor [the same unit], position angle [deg]

    Returns
    -------
    float, float : of the first over the second
    """
    first, second = (_matrix(shape_to_covariance(*np.asarray(shape, dtype=float))) for shape in (beam, other))
    ratios = np.sqrt(np.linalg.eigvals(np.linalg.solve(second, first)).real)
    return float(ratios.min()), float(ratios.max())


def _differences(data: NDArray) -> list[tuple[int, NDArray]]:
    """(channel, plane) of at most `CHANNELS` of them, less the mean of their neighbours where these are known.

    The second difference has no continuum, nor has it the change of its sidelobes with frequency.
    """
    good = [chan for chan, plane in enumerate(data) if np.isfinite(plane).any()]
    if len(good) < 3:
        return [(chan, data[chan]) for chan in good]
    triples = list(zip(good[:-2:3], good[1::3], good[2::3], strict=False))
    chosen = triples[:: -(-len(triples) // CHANNELS)]
    return [(chan, data[chan] - 0.5 * (data[below] + data[above])) for below, chan, above in chosen]


def _matrix(covariance: NDArray) -> NDArray[np.float64]:
    sxx, syy, sxy = covariance
    return np.array([[sxx, sxy], [sxy, syy]])
