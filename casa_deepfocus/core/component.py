"""One source of the model: a Gaussian or an exponential disc on the sky, a Gaussian line and a linear continuum."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from casa_deepfocus.core.geometry import FWHM_PER_SIGMA, GAUSSIAN_LINE

NAMES = ("x", "y", "sxx", "syy", "sxy", "chan", "lnw", "amp", "cont", "slope")
"""Parameters of a component, in the order of its vectors."""


@dataclass(eq=False)
class Component:
    """One source of the model. Fluxes are apparent: not corrected for the primary beam.

    Attributes
    ----------
    x, y : float [pixel]
    covariance : (3,) float64 [pixel^2] : sxx, syy, sxy, intrinsic (deconvolved), of the second moments; that of a
        Gaussian is not forced positive
    profile : str, of its brightness on the sky: one of `core.profiles.PARTS`, or 'complex' for several joined
    profiled_at : float, SNR at which it was last tried with another profile; 0 before
    amp : float [Jy], line flux density at the line's peak, integrated over the sky
    chan : float [chan], line centre
    fwhm : float [chan], line FWHM
    cont : float [Jy], continuum at the middle of the band
    slope : float [Jy per channel]
    has_line, has_cont, has_slope : bool, what is fitted
    absorption : bool, the line is a negative one, against its own continuum
    fit_shape : bool, whether the covariance is fitted or held
    prior_covariance : (3,) [pixel^2], where a shape that the data do not constrain is held to a beam variance
    slope_scale : float [per channel], standard deviation of slope / continuum that is expected: a continuum
        has a spectral index of a few at most, and a steeper one would be a line at the end of the band
    errors : dict, standard error of each fitted parameter (names of NAMES)
    matrix : (10, 10) float64, error covariance of all parameters; 0 for what is held
    snr_line, snr_cont : float, matched-filter signal to noise of the two parts: flux over its error, all shapes
        held and all fluxes of the group free, so that two parts that only cancel each other have none
    clean : (nchan,) float32, Deep GRU's output for its spectrum
    probability : float, Blobs Finder's
    known : bool, the line was looked for at the place of a continuum source
    shown : float, snr_cont of that source, before it had the line
    group : int, blend group
    flags : set of str
    response : float, height of the matched filter's output over the flux, of its shape: 1 for a point, and less the
        more of the source lies at spacings shorter than the shortest baseline, or where there are no data
    """

    x: float
    y: float
    covariance: NDArray[np.float64]
    amp: float = 0.0
    chan: float = 0.0
    fwhm: float = 3.0
    cont: float = 0.0
    slope: float = 0.0
    has_line: bool = True
    has_cont: bool = False
    has_slope: bool = False
    absorption: bool = False
    fit_shape: bool = True
    prior_covariance: NDArray[np.float64] | None = None
    slope_scale: float = np.inf
    errors: dict[str, float] = field(default_factory=dict)
    matrix: NDArray[np.float64] | None = None
    snr_line: float = 0.0
    snr_cont: float = 0.0
    clean: NDArray | None = None
    probability: float = 0.0
    known: bool = False
    shown: float = 0.0
    group: int = -1
    flags: set[str] = field(default_factory=set)
    response: float = 1.0
    profile: str = "gaussian"
    profiled_at: float = 0.0

    def drop_line(self) -> None:
        """Be a source of continuum alone."""
        self.has_line, self.absorption, self.amp = False, False, 0.0

    def drop_continuum(self) -> None:
        """Be a source of a line alone."""
        self.has_cont, self.has_slope, self.cont, self.slope = False, False, 0.0, 0.0

    def free(self) -> list[str]:
        """Names of the parameters that are fitted."""
        names = ["x", "y"] + (["sxx", "syy", "sxy"] if self.fit_shape else [])
        names += ["chan", "lnw", "amp"] if self.has_line else []
        names += ["cont"] if self.has_cont else []
        return names + (["slope"] if self.has_slope else [])

    def vector(self) -> NDArray[np.float64]:
        """All parameters, in the order of NAMES."""
        return np.array(
            [self.x, self.y, *self.covariance, self.chan, np.log(self.fwhm), self.amp, self.cont, self.slope]
        )

    def set_vector(self, vector: NDArray) -> None:
        """Take all parameters from a vector in the order of NAMES."""
        self.x, self.y = float(vector[0]), float(vector[1])
        self.covariance = np.array(vector[2:5], dtype=float)
        self.chan, self.fwhm = float(vector[5]), float(np.exp(vector[6]))
        self.amp, self.cont, self.slope = (float(value) for value in vector[7:10])

    def spectrum(self, nchan: int) -> NDArray[np.float64]:
        """(nchan,) [Jy] : apparent flux density of each channel."""
        return spectral_factors(self.vector(), nchan, self.has_line)["total"]

    def continuum_spectrum(self, nchan: int) -> NDArray[np.float64]:
        """(nchan,) [Jy] : apparent flux density of the continuum alone."""
        return self.spectrum(nchan) - self.line_spectrum(nchan)

    def line_flux(self) -> tuple[float, float]:
        """Flux of the line and its error [Jy chan]; amplitude and width are correlated."""
        flux = self.amp * self.fwhm * GAUSSIAN_LINE
        if self.matrix is None or not self.amp:
            return flux, float("nan")
        amp, lnw = NAMES.index("amp"), NAMES.index("lnw")
        relative = self.matrix[amp, amp] / self.amp**2 + self.matrix[lnw, lnw] + 2.0 * self.matrix[amp, lnw] / self.amp
        return flux, abs(flux) * float(np.sqrt(max(relative, 0.0)))

    def line_spectrum(self, nchan: int) -> NDArray[np.float64]:
        """(nchan,) [Jy] : the line alone, 0 without one."""
        if not self.has_line:
            return np.zeros(nchan)
        return self.amp * spectral_factors(self.vector(), nchan, self.has_line)["amp"]


def spectral_factors(vector: NDArray, nchan: int, has_line: bool) -> dict[str, NDArray[np.float64]]:
    """Spectra of a component: `total`, and the derivative of the total by each spectral parameter.

    Parameters
    ----------
    vector : (10,) in the order of NAMES
    nchan : int
    has_line : bool

    Returns
    -------
    dict of (nchan,) float64
    """
    chan, lnw, amp, cont, slope = vector[5:10]
    t = np.arange(nchan) - 0.5 * (nchan - 1)
    out = {"cont": np.ones(nchan), "slope": t}
    total = cont + slope * t
    if has_line:
        width = np.exp(lnw) / FWHM_PER_SIGMA
        z = (np.arange(nchan) - chan) / width
        line = np.exp(-0.5 * z * z)
        out |= {"amp": line, "chan": amp * line * z / width, "lnw": amp * line * z * z}
        total = total + amp * line
    return out | {"total": total}
