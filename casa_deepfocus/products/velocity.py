"""Velocities of lines: the rest frequency, the convention, and the columns that they make."""

from __future__ import annotations

from typing import Any

import numpy as np
from astropy import units as u
from numpy.typing import ArrayLike, NDArray

from casa_deepfocus.errors import ParameterError

RADIO, OPTICAL = "radio", "optical"
CONVENTIONS = (RADIO, OPTICAL)

CASA_NAMES = {"radio": RADIO, "optical": OPTICAL, "z": OPTICAL}
"""What tclean's veltype means here; its 'ratio', 'beta' and 'gamma' are no velocities that observers quote, and radio
ones are given then."""

EQUIVALENCES = {RADIO: u.doppler_radio, OPTICAL: u.doppler_optical}


def rest_frequency(value: Any) -> float:
    """A rest frequency [Hz] from what a user gives: '1.42GHz', a number in Hz, or the first of a list; 0 for none.

    Raises
    ------
    ParameterError
        Where it is no frequency.
    """
    items = list(value) if isinstance(value, (list, tuple)) else [value]
    first = items[0] if items else ""
    if first in ("", None):
        return 0.0
    try:
        quantity = u.Quantity(first)
        hertz = float(quantity.value if quantity.unit == u.dimensionless_unscaled else quantity.to_value(u.Hz))
    except (TypeError, ValueError, u.UnitConversionError):
        hertz = np.nan
    if not 0.0 < hertz < np.inf:
        raise ParameterError("restfreq", value, "is no frequency", "For example '1.420405752GHz', or a number in Hz")
    return hertz


def convention_of(veltype: Any) -> str:
    """'radio' or 'optical', of tclean's veltype."""
    return CASA_NAMES.get(str(veltype).strip().lower(), RADIO)


def convention_told(said: Any) -> str:
    """'radio' or 'optical', of what the metadata of a catalogue say of its velocities."""
    return OPTICAL if str(said or "").startswith(OPTICAL) else RADIO


def velocity(freq: ArrayLike, restfreq: float, convention: str = RADIO) -> NDArray[np.float64]:
    """Velocities [km/s] of frequencies [Hz]; NaN where the rest frequency is not known."""
    freq = np.asarray(freq, dtype=float)
    if not restfreq > 0:
        return np.full(freq.shape, np.nan)
    with np.errstate(divide="ignore", invalid="ignore"):
        return (freq * u.Hz).to_value(u.km / u.s, EQUIVALENCES[convention](restfreq * u.Hz))


def velocity_error(freq: ArrayLike, error: ArrayLike, restfreq: float, convention: str = RADIO) -> NDArray[np.float64]:
    """Errors [km/s] of velocities from those of frequencies [Hz], to first order."""
    freq, error = np.asarray(freq, dtype=float), np.asarray(error, dtype=float)
    steps = velocity(freq + 0.5 * error, restfreq, convention) - velocity(freq - 0.5 * error, restfreq, convention)
    return np.abs(steps)
