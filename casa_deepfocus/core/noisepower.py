"""The power spectrum of an image's noise, measured between the sources.

A PSF with sidelobes is an interferometer's, and tells its noise but for two numbers (core.whitening). A Gaussian tells
nothing of it: single-dish maps, images smoothed afterwards, toy images and images that came without their PSF have
noise of another correlation than the beam's. Here it is measured: the power of the image outside of its sources is a
sum of a few spectra, of the beam's and of narrower kernels and of white noise, and how much of each there is comes
from the likelihood of the power (Whittle 1953), each spectrum seen through the window that the sources leave.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import fft, ndimage

from casa_deepfocus.core.cube import Cube
from casa_deepfocus.core.geometry import FWHM_PER_SIGMA, GAUSSIAN_AREA
from casa_deepfocus.core.noise import blank_to_zero, robust_rms
from casa_deepfocus.core.psf import place_psf

POWERS = (2.0, 1.4, 1.0, 0.7, 0.5, 0.35, 0.25, 0.12)
"""Noise made by white noise and a kernel of the beam's shape and sqrt(p / 2) of its size has the beam's transform to
the power p: 2 for noise smoothed with the beam, 1 for natural weighting's, 1/2 for a kernel of half the beam."""

ROUND_POWERS = (1.0, 0.5, 0.25, 0.12)
"""The same for round kernels, in the variance of the beam's minor axis: a dish's kernel does not follow the beam."""

ROUND = 1.1
"""Axis ratio of a beam up to which kernels of its shape are round enough."""

LEAST_VARIANCE = 0.2
"""Variance [pixel^2] of a correlation below which the noise is white: pixels side by side have 8 per cent of it."""

SOURCE_LEVEL = 4.5
"""What exceeds this [sigma], in the image or in the image smoothed with the beam, is a source's: noise of 1000 beams
reaches 3.9."""

CLEAR = 1.0
"""Distance [beam] from such pixels below which there is nothing but their source; it falls by 16 in that."""

RAMP = 1.0
"""Width [beam] of the edges of the window: sharp ones would hide faint spectra below leaked ones."""

LEAST_AREA = 20.0
"""With fewer beams [beam area] between the sources, the noise cannot be told from them."""

CHANNELS = 16
"""About how many channels are looked at."""

MOST_CELLS = 40_000
"""About how many cells of a larger uv plane are looked at."""

STEPS = 200
"""Steps towards the likeliest shares; most are there after 50."""

SETTLED = 1e-5
"""Change of a share in one step at which they are."""


@dataclass(frozen=True)
class NoisePower:
    """Noise as a sum of independent parts.

    Attributes
    ----------
    covariances : (n, 3) float64 [pixel^2], sxx, syy, sxy : each part has the power exp(-2 pi^2 k.C.k), 0 is white noise
    shares : (n,) float64, of the variance; together 1
    """

    covariances: NDArray[np.float64]
    shares: NDArray[np.float64]

    @property
    def white(self) -> float:
        """Fraction of the variance that is white over the pixels."""
        return float(self.shares[~self.covariances.any(axis=1)].sum())

    def power(self, grid: tuple[int, int]) -> NDArray[np.float64]:
        """(gy, gx // 2 + 1) power of the noise on a periodic grid, of mean 1."""
        return fft.rfft2(np.tensordot(self.shares, _correlations(self.covariances, grid), axes=1)).real

    def length(self) -> float:
        """FWHM [pixel] of a Gaussian of the area of the noise's correlation."""
        areas = 2.0 * np.pi * np.sqrt(np.maximum(_determinants(self.covariances), 1.0 / (2.0 * np.pi) ** 2))
        return float(FWHM_PER_SIGMA * np.sqrt((self.shares * areas).sum() / (2.0 * np.pi)))


def measure_power(cube: Cube, psf: NDArray, sigma: NDArray) -> NoisePower | None:
    """The noise of a cube whose beams are Gaussians.

    Parameters
    ----------
    cube : Cube
    psf : (py, px), of a channel in the middle
    sigma : (nchan,) [Jy/beam], `core.noise.channel_noise`

    Returns
    -------
    NoisePower; None where too little of the image is free of sources
    """
    beam = cube.beam_pixels()
    grid = tuple(fft.next_fast_len(side + int(4 * beam), real=True) for side in cube.shape)
    kernel = fft.rfft2(place_psf(psf, (grid[0], grid[1]))).real
    power = np.zeros((grid[0], grid[1] // 2 + 1))
    windows = np.zeros_like(power)
    area = 0.0
    for plane in _planes_without_continuum(cube, sigma):
        window = _between_sources(plane, kernel, grid, beam)
        total = float((window**2).sum())
        area = max(area, total)
        if total == 0.0:
            continue
        inside = blank_to_zero(plane)
        inside = (inside - (inside * window).sum() / window.sum()) * window
        # Every plane counts by its area, whatever its noise is.
        power += np.abs(fft.rfft2(inside, s=grid)) ** 2 * (total / float((inside**2).sum()))
        windows += np.abs(fft.rfft2(window, s=grid)) ** 2
    if area < LEAST_AREA * GAUSSIAN_AREA * beam**2:
        return None
    covariances = _candidates(cube.beam_covariance())
    seen = fft.irfft2(windows, s=grid)
    cells = _cells(grid)
    models = np.stack([fft.rfft2(part * seen).real.ravel()[cells] for part in _correlations(covariances, grid)])
    shares = _likeliest_shares(power.ravel()[cells], models)
    kept = shares > SETTLED
    return NoisePower(covariances[kept], shares[kept] / shares[kept].sum())


def _planes_without_continuum(cube: Cube, sigma: NDArray) -> Iterator[NDArray[np.float32]]:
    """Planes of noise with little of sources: second differences of three channels, or channels where none are."""
    good = np.flatnonzero(np.isfinite(sigma))
    middles = [chan for chan in good[1:-1] if chan - 1 in good and chan + 1 in good]
    for chan in middles[:: max(1, len(middles) // CHANNELS)]:
        yield cube.data[chan] - 0.5 * (cube.data[chan - 1] + cube.data[chan + 1])
    if not middles:
        yield from (cube.data[chan] for chan in good)


def _between_sources(plane: NDArray, kernel: NDArray, grid: tuple[int, ...], beam: float) -> NDArray[np.float64]:
    """(ny, nx) window: 1 between the sources, falling to 0 towards them and the edges of the data."""
    known = np.isfinite(plane)
    smooth = fft.irfft2(fft.rfft2(blank_to_zero(plane), s=grid) * kernel, s=grid)[: plane.shape[0], : plane.shape[1]]
    clear = np.ones(plane.shape, dtype=bool)
    for image in (blank_to_zero(plane), smooth):
        rms = robust_rms(np.where(known, image, np.nan))
        if np.isfinite(rms):
            clear &= np.abs(image) < SOURCE_LEVEL * rms
    away = ndimage.distance_transform_edt(clear) if not clear.all() else np.full(plane.shape, np.inf)
    from_edge = ndimage.distance_transform_edt(np.pad(known, 1))[1:-1, 1:-1]
    distance = np.minimum(from_edge / beam, away / beam - CLEAR)
    return 0.5 - 0.5 * np.cos(np.pi * np.clip(distance / RAMP, 0.0, 1.0))


def _candidates(beam: NDArray) -> NDArray[np.float64]:
    """(n, 3) covariances [pixel^2] of the parts that noise may have; the last is white noise's."""
    parts = [power * beam for power in POWERS]
    least, most = np.linalg.eigvalsh(np.array([[beam[0], beam[2]], [beam[2], beam[1]]]))
    if most > ROUND**2 * least:
        parts += [power * least * np.array([1.0, 1.0, 0.0]) for power in ROUND_POWERS]
    return np.stack([part for part in parts if min(part[:2]) > LEAST_VARIANCE] + [np.zeros(3)])


def _determinants(covariances: NDArray) -> NDArray[np.float64]:
    return covariances[:, 0] * covariances[:, 1] - covariances[:, 2] ** 2


def _correlations(covariances: NDArray, grid: tuple[int, ...]) -> NDArray[np.float64]:
    """(n, gy, gx) correlation of each part, 1 at pixel (0, 0) of a periodic grid."""
    dy, dx = (fft.fftfreq(side, 1.0 / side) for side in grid)
    out = np.zeros((len(covariances), *grid))
    out[:, 0, 0] = 1.0
    for image, (sxx, syy, sxy), det in zip(out, covariances, _determinants(covariances), strict=True):
        if det > 0:
            form = syy * dx[None, :] ** 2 + sxx * dy[:, None] ** 2 - 2.0 * sxy * dy[:, None] * dx[None, :]
            image[:] = np.exp(-0.5 * form / det)
    return out


def _cells(grid: tuple[int, ...]) -> NDArray[np.int64]:
    """Cells of rfft2's half plane that are looked at; not the lowest, where what is left of a background is."""
    fy, fx = fft.fftfreq(grid[0], 1.0 / grid[0]), fft.rfftfreq(grid[1], 1.0 / grid[1])
    cells = np.flatnonzero(np.hypot(fy[:, None], fx[None, :]).ravel() > 2.0)
    return cells[:: (cells.size // MOST_CELLS) | 1]


def _likeliest_shares(power: NDArray, models: NDArray) -> NDArray[np.float64]:
    """(n,) amounts of the models (n, ncell) whose sum is the likeliest scale of exponentially distributed powers."""
    shares = np.full(len(models), power.mean() / models.mean(axis=1).sum())
    # What float32 leaves of a model beyond its support is no more than rounding.
    models = np.maximum(models, 1e-10 * models.max(axis=1, keepdims=True))
    for _ in range(STEPS):
        total = shares @ models
        better = shares * np.sqrt((models @ (power / total**2)) / (models @ (1.0 / total)))
        moved = np.abs(better - shares).max() > SETTLED * shares.sum()
        shares = better
        if not moved:
            break
    return shares
