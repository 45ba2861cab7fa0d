"""Weights of visibilities, and the noise of an image counted in the cells of its uv plane."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray


def briggs(kx: NDArray[np.int64], ky: NDArray[np.int64], size: int, robust: float) -> NDArray[np.float64]:
    """Briggs weights of visibilities of weight 1, as tclean's cube mode with perchanweightdensity (Briggs 1995).

    The density W counts the visibilities and their conjugates in the nearest cells of the image's uv plane;
    w = 1 / (1 + W f^2), f^2 = (5 10^-robust)^2 sum(W) / sum(W^2).

    Parameters
    ----------
    kx, ky : (nvis,) int, nearest cells
    size : int, side of the image
    robust : float

    Returns
    -------
    (nvis,) float64
    """
    density = np.bincount((ky % size) * size + kx % size, minlength=size * size)
    density = density + np.bincount((-ky % size) * size + -kx % size, minlength=size * size)
    factor = (5.0 * 10.0**-robust) ** 2 * density.sum() / (density.astype(float) ** 2).sum()
    return 1.0 / (1.0 + factor * density[(ky % size) * size + kx % size])


def count_cells(
    kx: NDArray[np.int64], ky: NDArray[np.int64], values: NDArray[np.float64]
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]:
    """Sums over visibilities and conjugates in the cells of the half plane kx >= 0 that hold any.

    Returns
    -------
    kx, ky : (n,) int, signed cells
    total : (n,) float64
    """
    sign = np.where(kx < 0, -1, 1)
    kx, ky = sign * kx, sign * ky
    reach_x, reach_y = int(kx.max()) + 1, int(np.abs(ky).max())
    flat = (ky + reach_y) * reach_x + kx
    total = np.bincount(flat, weights=values, minlength=(2 * reach_y + 1) * reach_x).reshape(-1, reach_x)
    # The conjugates of the first column lie in it too.
    total[:, 0] += total[::-1, 0].copy()
    rows, columns = np.nonzero(total)
    return columns, rows - reach_y, total[rows, columns]


@dataclass(frozen=True, eq=False)
class UvNoise:
    """Amplitudes of the noise in the cells of the uv half plane; channel c has start[c]:start[c + 1].

    Attributes
    ----------
    size : int, side of the image whose transform (size, size // 2 + 1) the cells are of
    start : (nchan + 1,) int64
    cells : (ncell,) int64, flat indices
    amplitude : (ncell,) float32
        Standard deviation of the real and imaginary parts; irfft2 then makes noise of rms 1.
    """

    size: int
    start: NDArray[np.int64]
    cells: NDArray[np.int64]
    amplitude: NDArray[np.float32]

    def channel(self, chan: int) -> slice:
        """The cells of a channel."""
        return slice(int(self.start[chan]), int(self.start[chan + 1]))

    def power(self, chan: int) -> NDArray[np.float64]:
        """(size, size // 2 + 1) power of the noise of a channel, its mean over the whole plane 1."""
        half = self.size // 2 + 1
        plane = np.zeros(self.size * half)
        part = self.channel(chan)
        plane[self.cells[part]] = 2.0 * self.amplitude[part].astype(float) ** 2 / self.size**2
        plane = plane.reshape(self.size, half)
        plane[:, 0] *= 0.5
        return plane

    def deviates(self, chan: int, rng: np.random.Generator) -> NDArray[np.complex64]:
        """Noise of one channel in its cells, rms 1 in the image."""
        part = self.channel(chan)
        normal = rng.standard_normal((part.stop - part.start, 2), dtype=np.float32)
        return normal.view(np.complex64)[:, 0] * self.amplitude[part]


def uv_noise(size: int, planes: list[tuple[NDArray[Any], NDArray[Any], NDArray[Any]]]) -> UvNoise:
    """From the summed squared weights (`count_cells`) of every channel."""
    half = size // 2 + 1
    cells, amplitudes = [], []
    for kx, ky, power in planes:
        # An inverse real transform keeps the hermitian half of the first column's deviates.
        total = 2.0 * power.sum() - power[kx == 0].sum()
        scale = np.where(kx == 0, 2.0, 1.0) * 0.5 * size**4 / total
        cells.append((ky % size) * half + kx)
        amplitudes.append(np.sqrt(power * scale).astype(np.float32))
    start = np.concatenate([[0], np.cumsum([len(part) for part in cells])])
    return UvNoise(size, start, np.concatenate(cells), np.concatenate(amplitudes))
