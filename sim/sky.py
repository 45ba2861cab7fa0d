"""Sky models: Gaussian sources with a continuum and a Gaussian line."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike, NDArray

from casa_deepfocus.core.geometry import FWHM_PER_SIGMA, shape_to_covariance


@dataclass(frozen=True)
class Source:
    """One source, as the sky has it (intrinsic size, no primary beam).

    Attributes
    ----------
    x, y : float [pixel]
    fwhm_maj, fwhm_min : float [pixel]
    pa : float [deg], north through east
    continuum : float [Jy], flux density at the band centre
    alpha : float, spectral index: S ~ frequency^alpha
    line : float [Jy], flux density of the line at its centre, over the whole source
    chan : float, channel of the line's centre
    line_fwhm : float [chan]
    """

    x: float
    y: float
    fwhm_maj: float
    fwhm_min: float
    pa: float
    continuum: float = 0.0
    alpha: float = 0.0
    line: float = 0.0
    chan: float = 0.0
    line_fwhm: float = 1.0

    def scaled(self, factor: float) -> Source:
        """The same source with all its flux densities multiplied."""
        return replace(self, continuum=self.continuum * factor, line=self.line * factor)

    def covariance(self) -> NDArray[np.float64]:
        """(3,) sxx, syy, sxy [pixel^2]."""
        return shape_to_covariance(self.fwhm_maj, self.fwhm_min, self.pa)

    def continuum_spectrum(self, freq: ArrayLike) -> NDArray[np.float64]:
        """Continuum [Jy] at the band's channel frequencies `freq` (nchan,) [Hz]."""
        nu = np.asarray(freq, dtype=float)
        return self.continuum * (nu / (0.5 * (nu[0] + nu[-1]))) ** self.alpha

    def line_spectrum(self, nchan: int) -> NDArray[np.float64]:
        """(nchan,) line [Jy], sampled at the channel centres."""
        if self.line == 0.0:
            return np.zeros(nchan)
        return self.line * np.exp(-0.5 * ((np.arange(nchan) - self.chan) * FWHM_PER_SIGMA / self.line_fwhm) ** 2)

    def spectrum(self, freq: ArrayLike) -> NDArray[np.float64]:
        """(nchan,) total flux density [Jy]."""
        nu = np.asarray(freq, dtype=float)
        return self.continuum_spectrum(nu) + self.line_spectrum(len(nu))
