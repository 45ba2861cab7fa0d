"""Whether an image agrees with what is said about it: its beam with the PSF, its noise with PSF and primary beam.

The noise of an interferometer tells what was done to an image after it was made. Over the field it is flat before the
correction for the primary beam and goes as 1 / PB after it. In the uv plane its power is that of the PSF's transform T,
changed by the weights to T (1 - f T) (core.whitening); an image smoothed with a kernel K has |K|^2 of it, one whose
header alone was changed has not.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import fft

from casa_deepfocus.core.geometry import shape_to_covariance
from casa_deepfocus.core.noise import blank_to_zero, robust_rms
from casa_deepfocus.core.psf import place_psf

CHANNELS = 16
"""At most so many channels are looked at: noise that one of them does not tell, 16 do."""

BINS = 8
"""Parts of equal numbers of pixels into which a field is cut by its primary beam."""

LEAST_RESPONSE = 0.05
"""Below this response the primary beam is little known, and images are blank."""

MEDIAN_LOSS = 2.72
"""Variance of a standard deviation estimated from the median absolute value, over that of the best estimate."""

BRANCH = 0.35
"""Largest distance of the slope of the noise from that of a hypothesis (0, -1), beyond which it is neither's."""

CONCLUSIVE = 12.5
"""Difference in ln L from which one of two hypotheses is taken: 5 sigma."""

WINDOW_CORRELATION = 3.8
"""Cells of the transform of a field tapered with a Hann window that together tell as much as one alone: the sum of the
squared correlations of its neighbours, 1.94 along each axis."""

MEASURED = 0.02
"""Where the PSF's transform is below this fraction of its largest value, no baseline measures."""

LARGEST_WINDOW = 512
"""Side [pixel] of the middle of the field in which the noise's power is looked at."""

LEAST_CELLS = 64
"""Fewer cells of the transform do not tell."""

WEIGHTS = (-100.0, -30.0, -10.0, -3.0, -1.0, -0.3, 0.0, 0.2, 0.4, 0.6, 0.8, 0.9, 0.95)
"""Trials of f in T (1 - f T): positive for Briggs weights; negative, what unresolved sources add to the noise."""


class Verdict(Enum):
    """What the noise says of two hypotheses."""

    FIRST = "first"
    SECOND = "second"
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
        """FIRST: flat; SECOND: corrected for the primary beam."""
        if not np.isfinite(self.value):
            return Verdict.UNSURE
        flat, corrected = self.value, self.value + 1.0
        gain = 0.5 * (corrected**2 - flat**2) / self.error**2
        if gain > CONCLUSIVE and flat > -BRANCH:
            return Verdict.FIRST
        if gain < -CONCLUSIVE and corrected < BRANCH:
            return Verdict.SECOND
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


def kernel_verdict(data: NDArray, psf: NDArray, kernels: NDArray) -> Verdict:
    """Whether an image is what its PSF says, or was convolved with a Gaussian afterwards.

    The likelihood of the power of the noise in the uv plane, for no kernel, half of it and all of it, each with the
    likeliest weights; see `WEIGHTS`.

    Parameters
    ----------
    data : (n, ny, nx) [any unit]; NaN where blank
    psf : (n or 1, py, px), peak 1 at (py//2, px//2)
    kernels : (n, 3) [pixel^2] : covariance sxx, syy, sxy of the kernel, header's beam less PSF's; may be negative

    Returns
    -------
    Verdict
        FIRST: the noise has the PSF's shape; SECOND: it is the kernel's too; UNSURE where it does not tell.
    """
    planes = _differences(data)
    if not planes:
        return Verdict.UNSURE
    totals = np.zeros((3, len(WEIGHTS)))
    for chan, plane in planes:
        y, x = _most_measured(plane)
        cut = plane[y, x]
        transform = psf[chan if len(psf) > 1 else 0]
        totals += _likelihoods(cut, transform, kernels[chan])
    none, half, whole = (totals / WINDOW_CORRELATION).max(axis=1)
    if none - max(half, whole) > CONCLUSIVE:
        return Verdict.FIRST
    if max(half, whole) - none > CONCLUSIVE:
        return Verdict.SECOND
    return Verdict.UNSURE


def _likelihoods(plane: NDArray, psf: NDArray, kernel: NDArray) -> NDArray[np.float64]:
    """(3, len(WEIGHTS)) ln L of the power of a plane: kernel times 0, 1/2, 1; weights. 0 where nothing tells."""
    ny, nx = plane.shape
    grid = (2 * ny, 2 * nx)
    taper = np.hanning(ny + 2)[1:-1, None] * np.hanning(nx + 2)[None, 1:-1] * np.isfinite(plane)
    power = np.abs(fft.rfft2(blank_to_zero(plane) * taper, s=grid)[::2, ::2]) ** 2
    # What the window makes of a power spectrum: its own correlation times that of the noise.
    seen = fft.irfft2(np.abs(fft.rfft2(taper, s=grid)) ** 2, s=grid)
    edge = np.hanning(psf.shape[0] + 1)[:-1, None] * np.hanning(psf.shape[1] + 1)[None, :-1]
    transfer = np.clip(fft.rfft2(place_psf(psf * edge, grid)).real, 0.0, None)
    if not transfer.max() > 0:
        return np.zeros((3, len(WEIGHTS)))
    transfer /= transfer.max()
    fy, fx = fft.fftfreq(grid[0])[:, None], fft.rfftfreq(grid[1])[None, :]
    form = kernel[0] * fx**2 + kernel[1] * fy**2 + 2.0 * kernel[2] * fx * fy
    cells = None
    out = np.zeros((3, len(WEIGHTS)))
    for row, part in enumerate((0.0, 0.5, 1.0)):
        # A "kernel" that sharpens grows without bound where no baseline measures.
        smooth = np.exp(np.clip(-4.0 * np.pi**2 * part * form, -60.0, 6.0)) * (transfer > 1e-4)
        first, second = (fft.rfft2(fft.irfft2(transfer**n * smooth, s=grid) * seen).real[::2, ::2] for n in (1, 2))
        if cells is None:
            cells = first > MEASURED * first.max()
            if cells.sum() < LEAST_CELLS:
                return out
        for column, weight in enumerate(WEIGHTS):
            model = np.maximum(first[cells] - weight * second[cells], 1e-6 * first.max())
            # The power of a cell is exponentially distributed; the model's scale is its most likely one.
            out[row, column] = -(np.log(model) + np.log((power[cells] / model).mean())).sum()
    return out


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


def _most_measured(plane: NDArray) -> tuple[slice, slice]:
    """The middle of the field, at most `LARGEST_WINDOW` pixels a side."""
    sides = []
    for size in plane.shape:
        want = min(size, LARGEST_WINDOW)
        want -= want % 2
        sides.append(slice(size // 2 - want // 2, size // 2 + want // 2))
    return sides[0], sides[1]


def _matrix(covariance: NDArray) -> NDArray[np.float64]:
    sxx, syy, sxy = covariance
    return np.array([[sxx, sxy], [sxy, syy]])
