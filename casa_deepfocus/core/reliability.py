"""How many peaks noise makes, and so how likely a detection is not noise.

The number of peaks of a smooth random field above a high level u is that of independent values
times a power of u (Adler 1981, The Geometry of Random Fields): the square for an image or for a
spectrum searched at all widths, the cube for a cube searched at all widths. The factors were
measured on empty simulated fields (docs/decisions.md). Where the noise of a cube is not normal,
its negative peaks say so: noise and sidelobe residuals are as often negative as positive,
sources are not.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import optimize, stats

STRETCH = 1.06
"""SNR of a fitted source over that of its maximum on the detection map, for peaks of noise: the fit may choose
place, shape and width. For sources it is about 1.1 (a window of channels is no line, a beam no source)."""


@dataclass(frozen=True)
class NoisePeaks:
    """Peaks of noise above a level: number * u^power * Q(u), u = level / stretch, Q the normal distribution's tail.

    Attributes
    ----------
    number : float
    power : int
    stretch : float, 1 on a detection map
    """

    number: float
    power: int
    stretch: float = 1.0

    @classmethod
    def of_image(cls, npixel: int, beam_pixels: float) -> NoisePeaks:
        """Peaks of an image of `npixel` pixels, beam FWHM `beam_pixels` [pixel]."""
        return cls(max(npixel / (1.1331 * beam_pixels**2), 1.0), 2)

    @classmethod
    def of_spectrum(cls, nchan: int) -> NoisePeaks:
        """Peaks of one spectrum of `nchan` channels, over all windows."""
        return cls(0.6 * nchan, 2)

    @classmethod
    def of_cube(cls, npixel: int, beam_pixels: float, nchan: int) -> NoisePeaks:
        """Peaks of a cube of `nchan` channels, over all windows."""
        return cls(0.7 * cls.of_image(npixel, beam_pixels).number * nchan, 3)

    def fitted(self) -> NoisePeaks:
        """The same peaks by the SNR that the fit gives them."""
        return replace(self, stretch=STRETCH)

    def expected(self, level: ArrayLike) -> NDArray[np.float64]:
        """Number of peaks above a level [sigma]; above 2 sigma it is meant to be right."""
        high = np.maximum(np.asarray(level, dtype=float) / self.stretch, 2.0)
        return self.number * high**self.power * stats.norm.sf(high)

    def level(self, number: float) -> float:
        """Level [sigma] above which `number` peaks are expected; between 2 and 30."""
        if self.expected(2.0) <= number:
            return 2.0
        return float(optimize.brentq(lambda u: np.log(self.expected(u) / number), 2.0, 30.0))

    def tail_scale(self, negative_peak: float) -> float:
        """How much wider than a normal distribution the noise's tail is: depth of the deepest negative peak
        [sigma, positive] over the depth that is expected; at least 1."""
        return max(1.0, negative_peak / self.level(0.5)) if np.isfinite(negative_peak) else 1.0

    def reliability(self, snr: ArrayLike, scale: float = 1.0) -> NDArray[np.float64]:
        """Share of real sources among the detections at least as bright as each one.

        Parameters
        ----------
        snr : (n,) [sigma], of all detections
        scale : float, `tail_scale`

        Returns
        -------
        (n,) float64 in [0, 1] : n_found / (n_found + n_false), both counted at or above the snr
        """
        snr = np.asarray(snr, dtype=float)
        if snr.size == 0:
            return np.empty(0)
        found = (snr[None, :] >= snr[:, None]).sum(axis=1)
        return found / (found + self.expected(snr / scale))
