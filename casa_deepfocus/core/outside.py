"""Sources outside of the image, found by the sidelobes that they leave inside it.

The dirty image of a point at r is PSF(x - r), and the PSF reaches beyond the image: a source outside has
a pattern inside that is known wherever |x - r| is within the PSF. With d the image, 0 where it is blank,

    c(r) = sum_x PSF(x - r) d(x),   n(r) = sum_x PSF(x - r)^2,   x over the known pixels,

c / n is the amplitude of a point at r that leaves the smallest sum of squares, and c^2 / n is by how much
that sum falls. Noise has the power spectrum T of the PSF (natural weighting), so that the variance of c is
about n sum T^3 / sum T^2. Two Fourier transforms give c for all places at once.
Sources inside have sidelobes too. Whatever explains most goes first: points inside are cleaned away
(Hogbom 1974, A&AS 15, 417) until a place outside explains more than any inside, or nothing is left.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from scipy import fft, ndimage

from casa_deepfocus.core.noise import robust_rms
from casa_deepfocus.core.psf import gaussian_transform, place_psf

SIGNIFICANCE = 6.0
"""Lowest significance of a source outside: noise reaches 3.6, fields without one 4.8 (docs/decisions.md)."""

LEAST_SIDELOBE = 1.0
"""Sidelobes that stay below this [sigma] inside the image do no harm."""

LEAST_SHARE = 0.2
"""Least share of the image's pixels on which a source's sidelobes must be known."""

MARGIN = 4
"""Pixels along the PSF's end that are left out: it is sharp, and shifts by a fraction of a pixel are band-limited."""

MAJOR_CYCLES = 60
"""How many times at most a source inside is cleaned."""

MINOR_CYCLES = 60
LOOP_GAIN = 0.3
"""Components of each cleaning, and the share of a peak that each takes."""


@dataclass(eq=False)
class OutsideSource:
    """A point outside of the image. Fluxes are apparent: not corrected for the primary beam.

    Attributes
    ----------
    x, y : float [pixel of the image]
    level : float [Jy], at the middle of the band
    slope : float [Jy per channel]
    significance : float [sigma], of its pattern inside the image
    highest : float, highest absolute value of that pattern for a level of 1
    known : (ny, nx) bool, pixels on which the pattern is known
    """

    x: float
    y: float
    level: float = 0.0
    slope: float = 0.0
    significance: float = 0.0
    highest: float = 0.0
    known: NDArray[np.bool_] = field(default_factory=lambda: np.ones((1, 1), bool))

    def spectrum(self, nchan: int) -> NDArray[np.float64]:
        """(nchan,) [Jy]."""
        return np.asarray(self.level + self.slope * (np.arange(nchan) - 0.5 * (nchan - 1)), dtype=np.float64)


class Patterns:
    """Patterns that points leave on an image's known pixels.

    Parameters
    ----------
    psf : (py, px), peak 1 at (py // 2, px // 2)
    known : (ny, nx) bool
    beam : float [pixel], FWHM; a source half a beam from the known pixels shows itself there
    """

    def __init__(self, psf: NDArray, known: NDArray[np.bool_], beam: float) -> None:
        self.beam = beam
        self.psf = np.nan_to_num(psf).astype(np.float32)
        self.known = known
        (ny, nx), (py, px) = known.shape, psf.shape
        self.start = (-(ny // 2), -(nx // 2))
        self.places = (2 * ny, 2 * nx)
        # The farthest places beside the farthest part of the PSF: no pattern comes around the periodic grid.
        self.grid = tuple(
            fft.next_fast_len(3 * n // 2 + max(p, n) // 2 + 2, real=True) for n, p in ((ny, py), (nx, px))
        )
        self._kernel: NDArray = fft.rfft2(place_psf(self.psf, self.grid), workers=-1)
        squares = fft.rfft2(place_psf(self.psf**2, self.grid), workers=-1)
        self.power = np.maximum(self._correlate(known.astype(np.float32), squares), 0.0)
        transfer = np.maximum(self._kernel.real, 0.0).astype(float)
        self.variance = float((transfer**3).sum() / (transfer**2).sum())
        share = np.maximum(self._correlate(known.astype(np.float32), self._support()), 0.0) / max(known.sum(), 1)
        self.inside = np.zeros(self.places, bool)
        self.inside[-self.start[0] : ny - self.start[0], -self.start[1] : nx - self.start[1]] = known
        self.outside = (share > LEAST_SHARE) & (ndimage.distance_transform_edt(~self.inside) > max(0.5 * beam, 1.0))

    def _support(self) -> NDArray:
        return fft.rfft2(place_psf(np.ones_like(self.psf), self.grid), workers=-1)

    def _correlate(self, image: NDArray[np.float32], kernel: NDArray) -> NDArray[np.float32]:
        """sum_x kernel(x - r) image(x) for all places r."""
        spectrum = fft.rfft2(image, s=self.grid, workers=-1)
        out = fft.irfft2(spectrum * np.conj(kernel), s=self.grid, workers=-1)
        rows = np.arange(self.start[0], self.start[0] + self.places[0]) % self.grid[0]
        columns = np.arange(self.start[1], self.start[1] + self.places[1]) % self.grid[1]
        return out[rows[:, None], columns[None, :]]

    def correlation(self, image: NDArray[np.float32]) -> NDArray[np.float32]:
        """c(r) of an image (ny, nx), 0 where it is blank, at all places (2 ny, 2 nx)."""
        return self._correlate(image, self._kernel)

    def score(self, image: NDArray[np.float32]) -> NDArray[np.float32]:
        """c(r) of an image [sigma] over its standard deviation in noise, (2 ny, 2 nx).

        Where a pattern lacks the PSF's main lobe that is an upper limit: 0.3 to 1.1 times it was measured.
        """
        least = 1e-6 * float(self.power.max())
        deviation: NDArray = np.sqrt(self.variance * np.maximum(self.power, least))
        return (self.correlation(image) / deviation).astype(np.float32)

    def at(self, x: float, y: float) -> NDArray[np.float32]:
        """(ny, nx) pattern of a point at a whole pixel; 0 where nothing is known."""
        ny, nx = self.known.shape
        (py, px), out = self.psf.shape, np.zeros((ny, nx), np.float32)
        top, left = py // 2 - round(y), px // 2 - round(x)
        rows = slice(max(0, -top), min(ny, py - top))
        columns = slice(max(0, -left), min(nx, px - left))
        if rows.start < rows.stop and columns.start < columns.stop:
            out[rows, columns] = self.psf[
                rows.start + top : rows.stop + top, columns.start + left : columns.stop + left
            ]
        return np.where(self.known, out, np.float32(0))

    def near(self, x: float, y: float) -> NDArray[np.float32]:
        """(3, ny, nx) : the pattern of a point at a fraction of a pixel, and its derivatives by x and y."""
        ny, nx = self.known.shape
        shift = gaussian_transform(self.grid, x, y, (0.0, 0.0, 0.0)) * self._kernel
        fy, fx = fft.fftfreq(self.grid[0])[:, None], fft.rfftfreq(self.grid[1])[None, :]
        factors = (1.0, -2j * np.pi * fx, -2j * np.pi * fy)
        planes = [fft.irfft2(shift * factor, s=self.grid, workers=-1)[:ny, :nx] for factor in factors]
        return np.where(self.reach(x, y) & self.known, np.stack(planes), 0.0).astype(np.float32)

    def reach(self, x: float, y: float) -> NDArray[np.bool_]:
        """(ny, nx) pixels on which the pattern of a point at (x, y) is known."""
        return within(self.psf.shape, self.known.shape, x, y)


def within(psf: tuple[int, int], shape: tuple[int, int], x: float, y: float) -> NDArray[np.bool_]:
    """(ny, nx) pixels of an image that a PSF of the shape (py, px) reaches from (x, y), but for `MARGIN`."""
    ends = []
    for place, size, length in ((y, psf[0], shape[0]), (x, psf[1], shape[1])):
        offset = np.arange(length) - place
        ends.append((offset >= MARGIN - size // 2) & (offset <= size - size // 2 - 1 - MARGIN))
    return ends[0][:, None] & ends[1][None, :]


def find_outside(image: NDArray[np.float32], patterns: Patterns, *, most: int = 3) -> list[OutsideSource]:
    """Sources outside of an image, from the image alone.

    Parameters
    ----------
    image : (ny, nx) float32 [sigma], the continuum; 0 where blank
    patterns : Patterns, of the image's PSF and known pixels
    most : int, largest number of sources

    Returns
    -------
    list of OutsideSource, brightest first; `level` is in sigma
    """
    rest = np.where(patterns.known, image, np.float32(0))
    found: list[OutsideSource] = []
    if not patterns.outside.any():
        return found
    for _ in range(MAJOR_CYCLES):
        score = patterns.score(rest)
        best = float(score[patterns.outside].max())
        if best < SIGNIFICANCE:
            break
        inner = np.where(patterns.inside, np.abs(score), -np.inf)
        if best <= inner.max():
            row, column = _highest(inner)
            _clean(rest, patterns, column + patterns.start[1], row + patterns.start[0])
            continue
        row, column = _highest(np.where(patterns.outside, score, -np.inf))
        source = _located(patterns, rest, column + patterns.start[1], row + patterns.start[0])
        if source is None or len(found) == most:
            break
        less = rest - np.float32(source.level) * patterns.near(source.x, source.y)[0]
        # What is left of sources inside, by wrong gains say, looks like more noise.
        source.significance = best / max(1.0, robust_rms(patterns.score(less)[patterns.outside]))
        if source.significance < SIGNIFICANCE or source.level * source.highest < LEAST_SIDELOBE:
            break
        found.append(source)
        rest = less
    return sorted(found, key=lambda source: -source.significance)


def _highest(image: NDArray) -> tuple[int, int]:
    row, column = np.unravel_index(int(np.argmax(image)), image.shape)
    return int(row), int(column)


def _clean(rest: NDArray[np.float32], patterns: Patterns, x: int, y: int) -> None:
    """Take the source at a place inside off the image, in place, down to a fraction of its height."""
    reach = int(np.ceil(1.5 * patterns.beam))
    rows, columns = (slice(max(0, place - reach), place + reach + 1) for place in (y, x))
    last = 0.3 * float(np.abs(rest[rows, columns]).max())
    for _ in range(MINOR_CYCLES):
        row, column = _highest(np.abs(rest[rows, columns]))
        value = rest[rows, columns][row, column]
        if abs(value) <= last:
            break
        rest -= np.float32(LOOP_GAIN) * value * patterns.at(columns.start + column, rows.start + row)


def _located(patterns: Patterns, rest: NDArray[np.float32], x: float, y: float) -> OutsideSource | None:
    """A source fitted to an image from a first place; None when the fit does not hold it there."""
    source = OutsideSource(x, y)
    refine_outside(source, rest, patterns)
    row, column = (round(p) - s for p, s in zip((source.y, source.x), patterns.start, strict=True))
    inside_grid = 0 <= row < patterns.places[0] and 0 <= column < patterns.places[1]
    if not (inside_grid and patterns.outside[row, column] and source.level > 0):
        return None
    source.known = patterns.reach(source.x, source.y)
    source.highest = float(np.abs(patterns.at(source.x, source.y)).max())
    return source


def refine_outside(
    source: OutsideSource, image: NDArray[np.float32], patterns: Patterns, *, iterations: int = 8
) -> None:
    """Fit place and level of a source to an image that holds nothing else; in place.

    Gauss-Newton on the sum of squares over the known pixels. A place further than 2 beams off is not taken.

    Parameters
    ----------
    source : OutsideSource
    image : (ny, nx) float32 [any unit, that of `level`]
    patterns : Patterns
    iterations : int
    """
    start, beam, seen = (source.x, source.y), patterns.beam, image.ravel()
    for _ in range(iterations):
        planes = patterns.near(source.x, source.y).reshape(3, -1)
        solution = np.linalg.lstsq((planes @ planes.T).astype(float), (planes @ seen).astype(float), rcond=1e-8)[0]
        if solution[0] <= 0:
            break
        # The derivatives' factors are level times displacement.
        step = np.clip(solution[1:] / solution[0], -0.3 * beam, 0.3 * beam)
        source.x, source.y = source.x + float(step[0]), source.y + float(step[1])
        if np.hypot(source.x - start[0], source.y - start[1]) > 2.0 * beam:
            source.x, source.y = start
            break
        if np.abs(step).max() < 1e-3 * beam:
            break
    pattern = patterns.near(source.x, source.y)[0].ravel()
    power = float(pattern @ pattern)
    source.level = float(pattern @ seen) / power if power > 0 else 0.0
