"""Line emission that is wider than the beam: the line cube at coarser resolutions.

With a Gaussian beam of FWHM b a map shows a source of FWHM s at b sqrt(b^2 + 2 s^2) / (b^2 + s^2) of its signal to
noise: 0.87 at the beam's own size, 0.6 at twice that, 0.34 at four times. What is too faint there stands out in the
cube convolved with a Gaussian as wide as the source.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from skimage.feature import peak_local_max

from casa_deepfocus.core.detection import LineSearch
from casa_deepfocus.core.geometry import FWHM_PER_SIGMA
from casa_deepfocus.core.noise import blank_to_zero, channel_noise

PIXELS = 4.0
"""Pixels that the resolution (FWHM) is sampled with, at least."""

LEAST_PIXELS = 64
"""On fewer pixels with data the noise is not measured, and nothing is looked for."""

MOSTLY = 0.5
"""Share of its pixels from which a coarse pixel is blank: most of it is then known, or not."""

MOST = 16
"""The brightest maxima are looked at, and no more than these."""


@dataclass(frozen=True)
class WidePeak:
    """A maximum of the line cube at a coarser resolution.

    Attributes
    ----------
    x, y : float [pixel] of the cube
    chan0, chan1 : int, the window of channels in which it is brightest, inclusive
    snr : float [sigma]
    kernel : float [pixel], FWHM of the Gaussian that the cube was convolved with
    """

    x: float
    y: float
    chan0: int
    chan1: int
    snr: float
    kernel: float

    @property
    def chan(self) -> float:
        """Middle of the window [chan]."""
        return 0.5 * (self.chan0 + self.chan1)

    @property
    def width(self) -> int:
        """Channels of the window."""
        return self.chan1 - self.chan0 + 1


class CoarseCube:
    """A line cube convolved with a Gaussian, on pixels no smaller than its resolution needs.

    Parameters
    ----------
    line : (nchan, ny, nx) float32 [Jy/beam], continuum subtracted; NaN where blank
    beam : float [pixel], FWHM
    kernel : float [pixel], FWHM of the Gaussian

    Attributes
    ----------
    data : (nchan, my, mx) float32, NaN where most of a pixel is blank
    step : int [pixel of `line`], side of a pixel
    resolution : float [pixel of `line`], FWHM
    """

    def __init__(self, line: NDArray[np.float32], beam: float, kernel: float) -> None:
        self.kernel = kernel
        self.resolution = float(np.hypot(beam, kernel))
        self.step = max(1, int(self.resolution / PIXELS))
        self.data = self.smoothed(line)

    def smoothed(self, line: NDArray[np.float32]) -> NDArray[np.float32]:
        """(nchan, my, mx) a cube of the same pixels as `line`, or planes of it, treated alike."""
        # The mean over a pixel has smoothed already: its variance is that of a square.
        variance = (self.kernel / FWHM_PER_SIGMA) ** 2 - (self.step**2 - 1) / 12.0
        sigma = np.sqrt(max(variance, 0.0)) / self.step
        shape = tuple(side // self.step for side in line.shape[1:])
        out = np.empty((len(line), *shape), np.float32)
        for chan in range(len(line)):
            plane = line[chan : chan + 1]
            blank = _means(np.isnan(plane).astype(np.float32), self.step)[0] > MOSTLY
            out[chan] = ndimage.gaussian_filter(
                _means(blank_to_zero(plane), self.step)[0], (sigma, sigma), mode="constant"
            )
            out[chan][blank] = np.nan
        return out

    def place(self, index: float) -> float:
        """Pixel of `line` at a (fractional) pixel of `data`."""
        return index * self.step + 0.5 * (self.step - 1)

    def peaks(self, threshold: float, inside: NDArray[np.bool_]) -> list[WidePeak]:
        """Local maxima over the sky and all windows of channels, brightest first.

        Parameters
        ----------
        threshold : float [sigma]
        inside : (ny, nx) bool, where they may lie
        """
        if np.isfinite(self.data).any(axis=0).sum() < LEAST_PIXELS:
            return []
        search = LineSearch(self.data, channel_noise(self.data))
        best, index, windows = search.maximum()
        best[search.blank] = -np.inf
        apart = max(1, round(0.5 * self.resolution / self.step))
        found = []
        for row, column in peak_local_max(
            np.nan_to_num(best, neginf=0.0), min_distance=apart, threshold_abs=threshold, exclude_border=False
        ):
            y, x = self.place(float(row)), self.place(float(column))
            if inside[round(y), round(x)]:
                chan0, chan1 = windows[index[row, column]]
                found.append(WidePeak(x, y, chan0, chan1, float(best[row, column]), self.kernel))
        return found[:MOST]


def _means(cube: NDArray[np.float32], step: int) -> NDArray[np.float32]:
    """Means over squares of step x step pixels; what is left over at the far edges is dropped."""
    if step == 1:
        return cube
    nchan, ny, nx = cube.shape
    rows, columns = ny // step, nx // step
    cut = cube[:, : rows * step, : columns * step].reshape(nchan, rows, step, columns, step)
    return cut.mean(axis=(2, 4), dtype=np.float32)
