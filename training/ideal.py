"""What the ideal linear filter would find at a finder's own rate of false alarms.

The matched filter of a source whose shape and noise are known gives, at the source, a normal variable
of mean SNR and standard deviation 1; elsewhere a smooth Gaussian random field of rms 1. The expected
number of noise peaks of such a field above a level u is, for high u (Adler 1981, The Geometry of
Random Fields; Bardeen et al. 1986, doi:10.1086/164143; Rice 1944 in one dimension),

    spectrum:  N(u) = L (2 pi)^-1    / lz                exp(-u^2 / 2)
    image:     N(u) = A (2 pi)^(-3/2) / (lx ly)    u     exp(-u^2 / 2)
    cube:      N(u) = V (2 pi)^-2    / (lx ly lz) (u^2-1) exp(-u^2 / 2)

with 1/l^2 the mean square slope of the field along each axis. These scales l are SNR times the
Cramer-Rao bounds of x, y and channel, as both are the curvature of the same filter's output:
l^2 = beam sigma^2 + 2 source sigma^2 on the sky (natural weighting), 2 sigma^2 along the spectrum.
Inverting N(u) = false alarms per cube gives the level u, and the normal distribution's Q(u - SNR) the
completeness.

A line may be looked for blindly in the whole cube, or, where the continuum of its source is found in
the image of the whole band, in the spectra of such places alone, at a lower level. The ideal filter
does both, each at the whole rate of false alarms. A finder that must look for many shapes has more
chances to be fooled and needs higher levels, so no finder can do better than this curve.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import optimize, stats

from casa_deepfocus.core.matching import Sources
from casa_deepfocus.core.residuals import channel_scale, filter_scale

LOWEST, HIGHEST = 1.5, 30.0


@dataclass(frozen=True)
class Ideal:
    """The ideal filter at one rate of false alarms.

    Attributes
    ----------
    rate : float, false alarms per cube
    blind : (n,) float64 [sigma], level for each source's own shape in the whole cube (image without a line)
    guided : (n,) float64 [sigma], level at the place of a source whose continuum is found
    chance : (n,) float64, probability that the continuum is found
    """

    rate: float
    blind: NDArray[np.float64]
    guided: NDArray[np.float64]
    chance: NDArray[np.float64]

    def take(self, index: NDArray) -> Ideal:
        """The sources of an index or mask."""
        return Ideal(self.rate, self.blind[index], self.guided[index], self.chance[index])

    def probability(self, snr: ArrayLike) -> NDArray[np.float64]:
        """(n,) chance to find each source at its matched-filter SNR `snr` (n,) or scalar."""
        value = np.asarray(snr, dtype=float)
        by_itself, by_continuum = stats.norm.cdf(value - self.blind), stats.norm.cdf(value - self.guided)
        return np.where(self.chance > 0.0, self.chance * by_continuum + (1.0 - self.chance) * by_itself, by_itself)

    def completeness(self, snr: ArrayLike) -> NDArray[np.float64]:
        """(m,) share of sources like these that would be found if all had the SNR `snr` (m,)."""
        return np.array([_mean(self.probability(value)) for value in np.atleast_1d(np.asarray(snr, dtype=float))])

    @property
    def snr50(self) -> float:
        """SNR at which half of the sources are found; NaN without sources."""
        if not np.isfinite(self.blind).any():
            return float("nan")
        return float(optimize.brentq(lambda s: self.completeness(s)[0] - 0.5, -HIGHEST, 2.0 * HIGHEST))


def _mean(values: NDArray) -> float:
    good = values[np.isfinite(values)]
    return float(good.mean()) if good.size else float("nan")


def false_alarms_per_cube(false_alarms: int, n_fields: int) -> float:
    """Rate from a count: (k + 1/2) / n, the median of what the count allows, so that 0 is not taken for never."""
    return (false_alarms + 0.5) / n_fields if n_fields else float("nan")


def noise_peaks(level: float, number: float, dimensions: int) -> float:
    """Expected peaks above a level [sigma] of a field that holds `number` resolution elements V / (lx ly lz)."""
    height = {1: 1.0, 2: level, 3: level**2 - 1.0}[dimensions]
    return float(number * (2.0 * np.pi) ** (-0.5 * (dimensions + 1)) * height * np.exp(-0.5 * level**2))


def threshold(rate: float, number: float, dimensions: int) -> float:
    """Level [sigma] above which `rate` peaks are expected; between LOWEST and HIGHEST, NaN for no number."""
    if not np.isfinite(number) or not np.isfinite(rate):
        return float("nan")
    if noise_peaks(LOWEST, number, dimensions) <= rate:
        return LOWEST
    return float(
        optimize.brentq(lambda u: np.log(noise_peaks(u, number, dimensions) / rate), LOWEST, HIGHEST, xtol=1e-6)
    )


def ideal_filter(truth: Sources, npixel: ArrayLike, nchan: ArrayLike, rate: float) -> Ideal:
    """The ideal filter for the shapes of a truth.

    Parameters
    ----------
    truth : Sources; those without a line are looked for in the image of the whole band
    npixel : int or (n,) [pixel], of each source's image
    nchan : int or (n,), of its cube
    rate : float, false alarms per cube
    """
    area, depth = (np.broadcast_to(np.asarray(v, dtype=float), truth.x.shape) for v in (npixel, nchan))
    across, along, line = area / filter_scale(truth) ** 2, depth / channel_scale(truth), truth.has_line
    image = np.array([threshold(rate, number, 2) for number in across])
    cube = np.array([threshold(rate, number, 3) for number in np.where(line, across * along, np.nan)])
    # The spectra of all sources with continuum share the cube's false alarms.
    continuum = np.sqrt(np.maximum(np.nan_to_num(truth.snr_total**2 - truth.snr**2), 0.0))
    both = line & (continuum > 0.0)
    known = dict(zip(*np.unique(truth.field[both], return_counts=True), strict=True))
    guided = np.full(len(truth), np.nan)
    for index in np.flatnonzero(both):
        guided[index] = threshold(rate, along[index] * known[truth.field[index]], 1)
    return Ideal(
        rate=rate,
        blind=np.where(line, cube, image),
        guided=np.fmin(guided, cube),
        chance=np.where(both, stats.norm.cdf(continuum - image), 0.0),
    )
