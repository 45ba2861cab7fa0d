"""Weights of visibilities, and the noise of an image counted in the cells of its uv plane."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, eq=False)
class Cells:
    """The cells of an image's uv plane that visibilities and their conjugates fall into.

    Attributes
    ----------
    flat : (nvis,) int, each visibility's place in `shape`, it or its conjugate having kx >= 0
    shape : (rows, columns) of the half plane that holds them; ky = row - rows // 2, kx = column
    """

    flat: NDArray[np.int64]
    shape: tuple[int, int]

    def total(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """(rows, columns) sums of values (nvis,) over visibilities and conjugates."""
        total = np.bincount(self.flat, weights=values, minlength=self.shape[0] * self.shape[1]).reshape(self.shape)
        # The conjugates of the first column lie in it too.
        total[:, 0] += total[::-1, 0].copy()
        return total

    def filled(self, values: NDArray[np.float64]) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]:
        """kx, ky and the sums of values, of the cells that hold any: (n,) each."""
        total = self.total(values)
        rows, columns = np.nonzero(total)
        return columns, rows - self.shape[0] // 2, total[rows, columns]


def find_cells(kx: NDArray[np.float64], ky: NDArray[np.float64]) -> Cells:
    """The nearest cells of spatial frequencies kx, ky (nvis,), in units of the cells' side."""
    x, y = np.rint(kx).astype(np.int64), np.rint(ky).astype(np.int64)
    sign = np.where(x < 0, -1, 1)
    x, y = sign * x, sign * y
    columns, reach = int(x.max()) + 1, int(np.abs(y).max())
    return Cells((y + reach) * columns + x, (2 * reach + 1, columns))


def briggs(cells: Cells, robust: float) -> NDArray[np.float64]:
    """Briggs weights of visibilities of weight 1, as tclean's cube mode with perchanweightdensity (Briggs 1995).

    The density W counts the visibilities and their conjugates in the nearest cells of the image's uv plane;
    w = 1 / (1 + W f^2), f^2 = (5 10^-robust)^2 sum(W) / sum(W^2).

    Parameters
    ----------
    cells : Cells, of the image
    robust : float

    Returns
    -------
    (nvis,) float64
    """
    density = cells.total(np.ones(len(cells.flat)))
    # The other half of the plane counts too.
    once, square = (2.0 * part.sum() - part[:, 0].sum() for part in (density, density**2))
    factor = (5.0 * 10.0**-robust) ** 2 * once / square
    return 1.0 / (1.0 + factor * density.ravel()[cells.flat])


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
        plane = np.zeros((self.size, half))
        part = self.channel(chan)
        plane.reshape(-1)[self.cells[part]] = 2.0 * self.amplitude[part].astype(float) ** 2 / self.size**2
        plane[:, 0] *= 0.5
        return plane

    def deviates(self, chan: int, rng: np.random.Generator) -> NDArray[np.complex64]:
        """Noise of one channel in its cells, rms 1 in the image."""
        part = self.channel(chan)
        normal = rng.standard_normal((part.stop - part.start, 2), dtype=np.float32)
        return normal.view(np.complex64)[:, 0] * self.amplitude[part]


def uv_noise(size: int, planes: list[tuple[NDArray[Any], NDArray[Any], NDArray[Any]]]) -> UvNoise:
    """From the summed squared weights (`Cells.filled`) of every channel."""
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
