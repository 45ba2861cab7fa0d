"""How the noise varies over an image: sigma(chan, y, x) = sigma(chan) M(y, x), M smooth and of median 1.

M is measured in windows of a few beams. Each has a robust rms of d / sigma over the pixels and planes in it, made of a
histogram, so that planes may be added one after the other, or in blocks, in any order. In a cube the planes are second
differences of channels, which hold neither continuum sources nor their sidelobes, and of lines the edges; in an image
without channels they are its negative pixels, as the emission that fills a window is positive. What is left without the
sources counts on both sides.

The logarithms of the windows' noise, y_i with the errors that their numbers of beams give them, v_i, are taken for

    y = m + f + e ,   cov(e) = s diag(v) ,   cov(f) = s r k(|x_i - x_j| / l) ,

f a smooth random field (Matern, 3/2: Rasmussen & Williams 2006, Gaussian Processes for Machine Learning, eq. 4.17), m
and s free, r and l those that make the y likeliest (with m integrated out: their section 2.7). The map is the mean of f
given y: where a window says little it takes from its neighbours, and where these say little it goes to the mean. It is
there only where the likelihood is higher than without f by `CONCLUSIVE`: flat noise has no map.

The image divided by M has flat noise. A source at x0 of flux S is one of S / M(x0) there, and its sidelobes are those
of the PSF times M(x0) / M(x) (`core.modulation`).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import interpolate, linalg

from casa_deepfocus.core.noise import MAD_TO_SIGMA, any_known, robust_rms

WINDOW = 4.0
"""Least side of a window [beam]: its noise is known to a sixth in one plane, and a source leaves most of it free."""

MOST_WINDOWS = 20
"""Windows along an axis: more would tell nothing more of what is smooth, and the work goes as their sixth power."""

LEAST_WINDOWS = 9
"""With fewer windows there is no map."""

LEAST_BEAMS = 4.0
"""Independent values in a window below which it is left out."""

LEAST_SHARE = 0.25
"""Share of a window's pixels that are negative, in an image, below which it is taken to be filled with emission."""

PLANES = 64
"""At most so many planes are looked at: the error of a window then is 4 per cent, and neighbours make it smaller."""

SPACING = 3.0
"""Pixels of a beam, along an axis, that are looked at: more say nothing more."""

CONCLUSIVE = 8.0
"""Gain in ln L from which noise is taken to vary: 4 sigma."""

LEAST_VARIATION = 0.03
"""Rms of ln M below which there is no map: a fit's errors are not known any better."""

LENGTHS = 6
"""Correlation lengths that are tried, between `SHORTEST` windows and the diagonal of the image."""

SHORTEST = 1.5
"""Shortest correlation length [window]: of what varies faster a window shows nothing, and one window is a source."""

STRENGTHS = np.geomspace(1e-3, 1e4, 36)
"""Variance of f over the typical error of a window that are tried."""

LEAST_SCALE = 0.25
"""Smallest s: windows agree no better than that, or the sky is not noise."""

BOUND = 1.5
"""Values count as no more than `BOUND` times the noise (Huber 1964, Ann. Math. Stat. 35, 73, proposal 2): five per cent
of bright pixels raise it by 8 per cent, which is hardly more than what they do to the median."""

BOUNDED = 0.7785
"""Mean of min(z^2, BOUND^2) for normal deviates z."""

LOSS = 1.38
"""Variance of the noise estimated so, over that of the best estimate; that of the median absolute value is 2.72."""

ITERATIONS = 12
"""Each brings the estimate nearer by a factor of 2.6."""

EDGES = np.concatenate([[0.0], np.geomspace(0.01, 100.0, 161)])
"""Bins of |d| / sigma: a step of 6 per cent, in which values are taken to be spread evenly."""


@dataclass(frozen=True, eq=False)
class NoiseMap:
    """The noise over an image relative to its median; a `core.modulation.Modulation`.

    Attributes
    ----------
    image : (ny, nx) float32, M; positive everywhere
    divided : bool
        Whether the image itself was divided by M, sidelobes and all, as one is that was corrected for the primary beam:
        then what the image becomes divided by M has the PSF's own sidelobes.
    """

    image: NDArray[np.float32]
    divided: bool = False

    def at(self, x: float, y: float) -> float:
        """M at a place [pixel], between pixels by interpolation; outside of the image that of its nearest pixel."""
        ny, nx = self.image.shape
        x, y = float(np.clip(x, 0, nx - 1)), float(np.clip(y, 0, ny - 1))
        x0, y0 = min(int(x), max(nx - 2, 0)), min(int(y), max(ny - 2, 0))
        part = self.image[y0 : y0 + 2, x0 : x0 + 2].astype(float)
        along_y = np.array([1.0 - (y - y0), y - y0])[: part.shape[0]]
        along_x = np.array([1.0 - (x - x0), x - x0])[: part.shape[1]]
        return float(along_y @ part @ along_x)

    def on(self, x: NDArray, y: NDArray, x0: float, y0: float) -> NDArray[np.float32]:
        """M(x0) / M(x): what the sidelobes of a source at (x0, y0) are multiplied by in the image divided by M.

        Parameters
        ----------
        x, y : (n,), (m,) [pixel] columns and rows
        x0, y0 : float [pixel]

        Returns
        -------
        (m, n) float32
        """
        if self.divided:
            return np.ones((len(y), len(x)), np.float32)
        ny, nx = self.image.shape
        rows = np.clip(np.rint(y).astype(int), 0, ny - 1)
        columns = np.clip(np.rint(x).astype(int), 0, nx - 1)
        return np.float32(self.at(x0, y0)) / self.image[rows[:, None], columns[None, :]]

    def on_crop(self, corner: tuple[int, int], size: int) -> NDArray[np.float32]:
        """(size, size) M on a crop whose pixel (0, 0) is at `corner` (x, y); outside that of the nearest pixel."""
        ny, nx = self.image.shape
        rows = np.clip(corner[1] + np.arange(size), 0, ny - 1)
        columns = np.clip(corner[0] + np.arange(size), 0, nx - 1)
        return self.image[rows[:, None], columns[None, :]]

    def flatten(self, data: NDArray[np.float32]) -> None:
        """Divide (nchan, ny, nx) data by M, in place."""
        for plane in data:
            plane /= self.image


class WindowCounts:
    """Histograms of |d| / sigma in windows over an image, to which planes are added.

    Parameters
    ----------
    shape : (ny, nx) of the image
    beam : float [pixel], FWHM

    Attributes
    ----------
    counts : (windows, bins) float64, windows row by row
    known, looked_at : (windows,) int64, pixels with data, of all planes, and those of them that count
    """

    def __init__(self, shape: tuple[int, int], beam: float) -> None:
        self.step = max(1, round(beam / SPACING))
        self.number = tuple(int(np.clip(side / (WINDOW * beam), 1, MOST_WINDOWS)) for side in shape)
        self.side = (shape[0] / self.number[0], shape[1] / self.number[1])
        along = [
            np.minimum(np.arange(0, side, self.step) * number // side, number - 1)
            for side, number in zip(shape, self.number, strict=True)
        ]
        self._window = along[0][:, None] * self.number[1] + along[1][None, :]
        self.shape = shape
        windows = self.number[0] * self.number[1]
        self.counts = np.zeros((windows, len(EDGES) - 1))
        self.known = np.zeros(windows, np.int64)
        self.looked_at = np.zeros(windows, np.int64)

    def places(self) -> NDArray[np.float64]:
        """(windows, 2) centres (y, x) [window]."""
        rows, columns = np.indices(self.number)
        return np.stack([rows.ravel() + 0.5, columns.ravel() + 0.5], axis=1)

    def add(self, plane: NDArray, *, negative: bool = False) -> None:
        """Add a plane.

        Parameters
        ----------
        plane : (rows, columns) [any unit], every `step`-th pixel of the image along both axes; NaN where blank
        negative : bool, whether only pixels below 0 count
        """
        scale = robust_rms(plane)
        if not np.isfinite(scale):
            return
        good = np.isfinite(plane)
        windows = len(self.known)
        self.known += np.bincount(self._window[good], minlength=windows)
        if negative:
            good &= plane < 0
        window = self._window[good]
        self.looked_at += np.bincount(window, minlength=windows)
        bins = np.searchsorted(EDGES, np.abs(plane[good]) / scale, side="right") - 1
        nbins = len(EDGES) - 1
        flat = window * nbins + np.minimum(bins, nbins - 1)
        self.counts += np.bincount(flat, minlength=windows * nbins).reshape(windows, nbins)

    def noise(self) -> NDArray[np.float64]:
        """(windows,) robust rms [rms of the planes]; NaN where nothing is known."""
        total = np.cumsum(self.counts, axis=1)
        squares = np.cumsum(self.counts * (EDGES[1:] ** 3 - EDGES[:-1] ** 3) / (3.0 * np.diff(EDGES)), axis=1)
        rms = MAD_TO_SIGMA * _crossing(total, 0.5 * total[:, -1])
        for _ in range(ITERATIONS):
            bound = BOUND * np.nan_to_num(rms)
            beyond = total[:, -1] - _up_to(total, bound)
            with np.errstate(invalid="ignore", divide="ignore"):
                rms = np.sqrt((_up_to(squares, bound) + bound**2 * beyond) / (BOUNDED * total[:, -1]))
        return rms


def _up_to(cumulative: NDArray, value: NDArray) -> NDArray[np.float64]:
    """Cumulative sums (n, bins) over `EDGES` at values (n,), interpolated."""
    value = np.minimum(value, EDGES[-1])
    bins = np.clip(np.searchsorted(EDGES, value, side="right") - 1, 0, cumulative.shape[1] - 1)
    rows = np.arange(len(cumulative))
    below = np.where(bins > 0, cumulative[rows, bins - 1], 0.0)
    share = (value - EDGES[bins]) / (EDGES[bins + 1] - EDGES[bins])
    return np.asarray(below + share * (cumulative[rows, bins] - below))


def _crossing(total: NDArray, level: NDArray) -> NDArray[np.float64]:
    """Where cumulative counts (n, bins) over `EDGES` reach a level (n,), interpolated; NaN where there are none."""
    bins = np.minimum((total < level[:, None]).sum(axis=1), total.shape[1] - 1)
    rows = np.arange(len(total))
    below = np.where(bins > 0, total[rows, bins - 1], 0.0)
    inside = total[rows, bins] - below
    share = np.where(inside > 0, (level - below) / np.maximum(inside, 1.0), np.nan)
    return np.where(level > 0, EDGES[bins] + share * (EDGES[bins + 1] - EDGES[bins]), np.nan)


def measure_noise_map(
    data: NDArray[np.float32],
    psf: NDArray,
    beam: float,
    *,
    times: NDArray[np.float32] | None = None,
    residual: bool = False,
    divided: bool = False,
) -> NoiseMap | None:
    """The map of the noise of a cube or an image.

    Parameters
    ----------
    data : (nchan, ny, nx) [any unit], not corrected for the primary beam; NaN where blank
    psf : (py, px), peak 1 at (py // 2, px // 2), of a channel
    beam : float [pixel], FWHM
    times : (ny, nx), optional
        What the data are multiplied by to be those that the map is asked of.
    residual : bool, whether sources were subtracted
    divided : bool, see `NoiseMap`

    Returns
    -------
    NoiseMap; None where the noise is flat as far as can be told, or the image holds too few beams to tell
    """
    shape = (data.shape[1], data.shape[2])
    negative = len(data) < 3 and not residual
    counts = WindowCounts(shape, beam)
    if counts.known.size < LEAST_WINDOWS:
        return None
    for plane in _planes(data, counts.step):
        counts.add(plane if times is None else plane * times[:: counts.step, :: counts.step], negative=negative)
    independent = counts.looked_at * counts.step**2 / _correlated(psf, counts.side)
    filled = counts.looked_at < LEAST_SHARE * counts.known
    good = (independent >= LEAST_BEAMS) & ~filled
    good[good] = np.nan_to_num(counts.noise()[good]) > 0
    if good.sum() < LEAST_WINDOWS:
        return None
    log_noise = np.log(counts.noise()[good])
    smooth = fit_smooth(counts.places()[good], log_noise, 0.5 * LOSS / independent[good])
    if smooth is None:
        return None
    image = _on_pixels(smooth, counts)
    known = any_known(data)
    image -= np.median(image[known])
    if float(np.std(image[known])) < LEAST_VARIATION:
        return None
    return NoiseMap(np.exp(image).astype(np.float32), divided)


def _planes(data: NDArray, step: int) -> Iterator[NDArray]:
    """At most `PLANES` planes of noise, every `step`-th pixel: second differences of channels, where there are any."""
    good = [chan for chan in range(len(data)) if np.isfinite(data[chan, ::step, ::step]).any()]
    if len(data) < 3:
        yield from (data[chan, ::step, ::step] for chan in good)
        return
    # Each shares its outer channels with its neighbours, which are correlated by a sixth.
    triples = list(zip(good[:-2:2], good[1:-1:2], good[2::2], strict=False))
    for index in np.unique(np.linspace(0, len(triples) - 1, min(PLANES, len(triples))).astype(int)) if triples else ():
        below, middle, above = (data[chan, ::step, ::step] for chan in triples[index])
        yield middle - np.float32(0.5) * (below + above)


def _correlated(psf: NDArray, window: tuple[float, float]) -> float:
    """Pixels that one independent value of the noise's variance covers in a window of some sides (y, x) [pixel].

    The sum of the noise's autocorrelation squared, each lag by the share of the window that has it; at natural
    weighting the autocorrelation is the PSF. At least one pixel.
    """
    shares = [
        np.clip(1.0 - np.abs(np.arange(side) - side // 2) / reach, 0.0, None)
        for side, reach in zip(psf.shape, window, strict=True)
    ]
    squares = np.nan_to_num(psf).astype(float) ** 2
    return max(float(shares[0] @ squares @ shares[1]), 1.0)


@dataclass(frozen=True, eq=False)
class Smooth:
    """A smooth function of place, known in windows; call it with places (n, 2) [window] for its values (n,)."""

    places: NDArray[np.float64]
    weights: NDArray[np.float64]
    length: float
    mean: float
    gain: float

    def __call__(self, places: NDArray) -> NDArray[np.float64]:
        return self.mean + _correlation(places, self.places, self.length) @ self.weights


def _correlation(places: NDArray, others: NDArray, length: float) -> NDArray[np.float64]:
    distance = np.hypot(*(places[:, None, axis] - others[None, :, axis] for axis in (0, 1))) * (np.sqrt(3.0) / length)
    return (1.0 + distance) * np.exp(-distance)


def fit_smooth(places: NDArray, values: NDArray, variances: NDArray) -> Smooth | None:
    """The smooth function that values in windows are likeliest of; None where a constant is as good.

    Parameters
    ----------
    places : (n, 2) [window]
    values : (n,)
    variances : (n,), of their errors, right but for a factor

    Returns
    -------
    Smooth or None
    """
    ones = 1.0 / np.sqrt(variances)
    flat = _Likelihood(np.zeros(len(values)), values * ones, ones)
    least, _, _ = flat.at(0.0)
    longest = max(float(np.hypot(*np.ptp(places, axis=0))), 2.0 * SHORTEST)
    best: tuple[float, float, float, float] = (-np.inf, 0.0, 0.0, 0.0)
    for length in np.geomspace(SHORTEST, longest, LENGTHS):
        covariance = _correlation(places, places, length) * np.outer(ones, ones) * float(np.median(variances))
        eigenvalues, vectors = linalg.eigh(covariance)
        likelihood = _Likelihood(np.maximum(eigenvalues, 0.0), vectors.T @ (values * ones), vectors.T @ ones)
        for strength in STRENGTHS:
            value, mean, _ = likelihood.at(strength)
            if value > best[0]:
                best = value, float(length), float(strength), mean
    if best[0] - least < CONCLUSIVE:
        return None
    _, length, strength, mean = best
    field = strength * float(np.median(variances))
    covariance = field * _correlation(places, places, length) + np.diag(variances)
    weights = field * linalg.solve(covariance, values - mean, assume_a="pos")
    return Smooth(places, weights, length, mean, best[0] - least)


class _Likelihood:
    """Restricted ln L of whitened values, in the basis where their covariance is diagonal.

    Parameters
    ----------
    eigenvalues : (n,), of the smooth part's covariance for a strength of 1
    values, ones : (n,), the values and a constant of 1, whitened
    """

    def __init__(self, eigenvalues: NDArray, values: NDArray, ones: NDArray) -> None:
        self.eigenvalues, self.values, self.ones = eigenvalues, values, ones

    def at(self, strength: float) -> tuple[float, float, float]:
        """ln L, the mean, and s for a strength."""
        variance = 1.0 + strength * self.eigenvalues
        weight = float((self.ones**2 / variance).sum())
        mean = float((self.ones * self.values / variance).sum()) / weight
        squares = float(((self.values - mean * self.ones) ** 2 / variance).sum())
        freedom = len(self.values) - 1
        scale = max(squares / freedom, LEAST_SCALE)
        value = freedom * np.log(scale) + squares / scale + float(np.log(variance).sum()) + np.log(weight)
        return -0.5 * float(value), mean, scale


def _on_pixels(smooth: Smooth, counts: WindowCounts) -> NDArray[np.float64]:
    """(ny, nx) a function of windows on the pixels, by a spline through two places a window."""
    axes = []
    for side, number in zip(counts.shape, counts.number, strict=True):
        # From edge to edge, in windows; at least what a cubic spline needs.
        nodes = np.linspace(0.0, number, max(2 * number + 1, 5))
        axes.append((nodes, (np.arange(side) + 0.5) * number / side))
    (rows, y), (columns, x) = axes
    grid = np.stack(np.meshgrid(rows, columns, indexing="ij"), axis=-1).reshape(-1, 2)
    values = smooth(grid).reshape(len(rows), len(columns))
    return np.asarray(interpolate.RectBivariateSpline(rows, columns, values)(y, x), dtype=np.float64)
