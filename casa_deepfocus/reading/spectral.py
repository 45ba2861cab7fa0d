"""Spectral axes of FITS headers, of every kind that radio astronomy writes, as frequencies."""

from __future__ import annotations

import re
import warnings
from dataclasses import dataclass

import numpy as np
from astropy import units as u
from astropy.io import fits
from astropy.wcs import WCS
from numpy.typing import NDArray

from casa_deepfocus.errors import DataError
from casa_deepfocus.reading.fitsfiles import FitsImage
from casa_deepfocus.reading.headers import ctype, number, set_keyword

FRAMES = {
    "LSRK": "LSRK", "LSRD": "LSRD", "BARYCENT": "BARY", "TOPOCENT": "TOPO", "GEOCENTR": "GEO", "GALACTOC": "GALACTO",
    "LOCALGRP": "LGROUP", "CMBDIPOL": "CMB", "SOURCE": "REST",
}  # fmt: skip
"""Spectral frames, FITS's name and CASA's."""

ALIASES = {
    "LSR": "LSRK", "LSK": "LSRK", "LSD": "LSRD", "HELIOCEN": "BARYCENT", "HELIO": "BARYCENT", "HEL": "BARYCENT",
    "BARY": "BARYCENT", "BAR": "BARYCENT", "OBS": "TOPOCENT", "TOPO": "TOPOCENT", "TOP": "TOPOCENT", "GEO": "GEOCENTR",
    "GAL": "GALACTOC", "GALACTO": "GALACTOC", "LGR": "LOCALGRP", "LGROUP": "LOCALGRP", "CMB": "CMBDIPOL",
    "REST": "SOURCE",
}  # fmt: skip
"""Other names of frames, in SPECSYS and at the end of AIPS's CTYPE. HELIOCEN and BARYCENT differ by 13 m/s at most."""

VELREF_FRAMES = {1: "LSRK", 2: "BARYCENT", 3: "TOPOCENT", 4: "LSRD", 5: "GEOCENTR", 6: "SOURCE", 7: "GALACTOC"}
"""AIPS's VELREF, less 256 where velocities are radio."""

RADIO = 256
"""VELREF is above this for radio velocities, below for optical ones."""

UNITS = {
    "HZ": "Hz", "KHZ": "kHz", "MHZ": "MHz", "GHZ": "GHz", "THZ": "THz",
    "M/S": "m/s", "M S-1": "m/s", "M.S-1": "m/s", "M*S-1": "m/s", "M S^-1": "m/s", "M/SEC": "m/s", "MS-1": "m/s",
    "KM/S": "km/s", "KM S-1": "km/s", "KM.S-1": "km/s", "KM*S-1": "km/s", "KM S^-1": "km/s", "KM/SEC": "km/s",
    "CM/S": "cm/s", "M": "m", "CM": "cm", "MM": "mm", "UM": "um", "MICRON": "um", "NM": "nm", "ANGSTROM": "Angstrom",
    "M-1": "m-1", "CM-1": "cm-1", "1/M": "m-1", "1/CM": "cm-1", "J": "J", "EV": "eV",
}  # fmt: skip
"""Units of spectral axes, in capitals, and what they are; MHZ is mega, nobody observes at millihertz."""

DEFAULT_UNIT = {"FREQ": "Hz", "WAVE": "m", "WAVN": "m-1", "ENER": "J", "ZOPT": "", "BETA": ""}
"""Unit of an axis without CUNIT (FITS standard); m/s of all others."""

VELOCITIES = ("VRAD", "VOPT", "VELO", "ZOPT", "BETA")
"""Axes that need a rest frequency."""

LOWEST = 1e6
"""No radio telescope observes below this frequency [Hz]; a lower number is in another unit."""

REGULAR = 0.1
"""Largest distance of a channel's centre from a straight line through all [channel]. Frequencies in the catalogue are
those of the axis itself at any rate; what a straight line has to describe is the product's grid."""


@dataclass(frozen=True)
class Spectrum:
    """A spectral axis.

    Attributes
    ----------
    freq : (nchan,) float64 [Hz]
    frame : str
        CASA's name; '' where the header does not say.
    restfreq : float [Hz], 0 when unknown
    notes : tuple of (message, priority) for the log
    """

    freq: NDArray[np.float64]
    frame: str
    restfreq: float
    notes: tuple[tuple[str, str], ...] = ()

    @property
    def line(self) -> tuple[float, float]:
        """Frequency of channel 0 and step [Hz] of the straight line through all channels."""
        if len(self.freq) == 1:
            # A header with a step of zero cannot be read.
            return float(self.freq[0]), 1e-3 * float(self.freq[0])
        step, first = np.polyfit(np.arange(len(self.freq)), self.freq - self.freq[0], 1)
        return float(self.freq[0] + first), float(step)


def spectrum_of(image: FitsImage, axis: int) -> Spectrum:
    """Frequencies of a FITS image's spectral axis.

    Raises
    ------
    DataError
        Where it is a velocity without a rest frequency, tabular, irregular by more than `REGULAR`, or means nothing.
    """
    header, name, nchan = image.header, image.name, image.shape[axis - 1]
    notes: list[tuple[str, str]] = []
    text = ctype(header, axis)
    restfreq = _restfreq(header, name, notes)
    kinds, frame = _kinds(header, name, axis, text, notes)
    first = kinds[0][:4]
    if first in VELOCITIES and not restfreq:
        raise DataError(
            f"{name!r} has a velocity axis (CTYPE{axis} = {text!r}) and no rest frequency, without which its "
            f"frequencies are unknown: {set_keyword(name, 'RESTFRQ', '1.420405752e9')} [Hz]"
        )
    unit = _unit(header, name, axis, first, notes)
    freqs = [_frequencies(header, name, axis, kind, unit, restfreq, nchan) for kind in kinds]
    freq = freqs[0]
    if nchan > 1 and len(freqs) > 1:
        worst = max(float(np.abs(other - freq).max() / np.abs(np.diff(freq)).min()) for other in freqs[1:])
        if worst > REGULAR:
            raise DataError(
                f"{name!r} does not say whether its velocities (CTYPE{axis} = {text!r}) are radio or optical, which "
                f"moves its channels by up to {worst:.1f}: set VELREF to 257 (radio) or 1 (optical), for example with "
                f"astropy.io.fits.setval({name!r}, 'VELREF', value=257)"
            )
        text = f"CTYPE{axis} = {text!r}: taken as radio velocities (optical ones differ by {worst:.2g} channels)"
        notes.append((text, "INFO"))
    check_regular(freq, name)
    if not frame:
        notes.append((f"{name} has no spectral frame in its header (SPECSYS); frequencies stand as given", "WARN"))
    return Spectrum(freq, FRAMES.get(frame, frame), restfreq, tuple(notes))


def check_regular(freq: NDArray[np.float64], name: str) -> None:
    """See that frequencies are those of a radio telescope, and regular.

    Raises
    ------
    DataError
    """
    if not np.isfinite(freq).all() or freq.min() < LOWEST:
        raise DataError(
            f"{name!r} has channels at {freq[0]:.6g} to {freq[-1]:.6g} Hz, which is no radio frequency: see CTYPE, "
            "CRVAL, CDELT and CUNIT of its spectral axis"
        )
    if len(freq) == 1:
        return
    step = (freq[-1] - freq[0]) / (len(freq) - 1)
    if step == 0.0:
        raise DataError(f"{name!r} has channels without a width: see CDELT of its spectral axis")
    line = np.polyval(np.polyfit(np.arange(len(freq)), freq - freq[0], 1), np.arange(len(freq)))
    worst = float(np.abs(freq - freq[0] - line).max() / abs(step))
    if worst > REGULAR or (np.diff(freq) * step <= 0).any():
        raise DataError(
            f"{name!r} has irregular channels: up to {worst:.2g} of a channel from a regular axis in frequency. "
            "Make the cube with channels of one width in frequency (tclean with start and width in Hz)"
        )


def _restfreq(header: fits.Header, name: str, notes: list[tuple[str, str]]) -> float:
    for key in ("RESTFRQ", "RESTFREQ"):
        value = number(header, key, name, 0.0)
        if value >= LOWEST:
            return value
        if value:
            notes.append((f"{name} has {key} = {value:g} Hz, which is no rest frequency; it is not used", "WARN"))
    wave = number(header, "RESTWAV", name, 0.0)
    return float((wave * u.m).to_value(u.Hz, u.spectral())) if wave > 0 else 0.0


def _kinds(header: fits.Header, name: str, axis: int, text: str, notes: list[tuple[str, str]]) -> tuple[list[str], str]:
    """CTYPE as the FITS standard has it, the likely one first where the header leaves it open; and the frame."""
    first, _, rest = text.partition("-")
    rest = rest.strip("-")
    velref = round(number(header, "VELREF", name, 0.0))
    keys = ["SPECSYS", f"SPECSYS{axis}", *(key for key in header if re.fullmatch(r"SPECSYS\d", key))]
    frame = next(filter(None, (str(header.get(key, "")).strip().upper() for key in keys)), "")
    aips = rest in ALIASES or rest in FRAMES
    frame = frame or (rest if aips else "") or VELREF_FRAMES.get(velref % RADIO, "")
    frame = ALIASES.get(frame, frame)
    if frame and frame not in FRAMES:
        notes.append((f"{name} has the unknown spectral frame {frame!r}; frequencies stand as given", "WARN"))
        frame = ""
    code = f"-{rest}" if rest and not aips else ""
    if code == "-TAB":
        raise DataError(
            f"{name!r} has a tabular spectral axis (CTYPE{axis} = {text!r}), which is not read: "
            "make the cube with channels of one width in frequency"
        )
    if first.startswith("FREQ"):
        return ["FREQ" + code], frame
    if first.startswith("LAMBDA") or first.startswith("WAVE"):
        return ["WAVE" + code], frame
    if first.startswith("AWAV"):
        raise DataError(f"{name!r} has wavelengths in air (CTYPE{axis} = {text!r}): no radio cube is made like that")
    if first.startswith("FELO"):
        # AIPS: regular in frequency, labelled with optical velocities.
        return ["VOPT-F2W"], frame
    if first.startswith("VELO"):
        if velref:
            return ["VRAD" if velref > RADIO else "VOPT"], frame
        if first == "VELO" and not aips:
            notes.append((f"CTYPE{axis} = 'VELO': relativistic velocities, as the FITS standard has it", "INFO"))
            return ["VELO" + code], frame
        return ["VRAD", "VOPT"], frame
    return [first[:4] + code], frame


def _unit(header: fits.Header, name: str, axis: int, first: str, notes: list[tuple[str, str]]) -> str:
    given = str(header.get(f"CUNIT{axis}", "")).strip()
    default = DEFAULT_UNIT.get(first, "m/s")
    if not given:
        if default:
            notes.append((f"{name} has no CUNIT{axis}; its spectral axis is taken in {default}", "INFO"))
        return default
    unit = UNITS.get(given.upper().replace("  ", " "))
    if unit is None or (default and not u.Unit(unit).is_equivalent(u.Unit(default))):
        key = f"CUNIT{axis}"
        remedy = set_keyword(name, key, repr(default))
        raise DataError(f"{name!r} has {key} = {given!r}, which is no unit of {first}: {remedy}")
    return unit


def _frequencies(
    header: fits.Header, name: str, axis: int, kind: str, unit: str, restfreq: float, nchan: int
) -> NDArray[np.float64]:
    """(nchan,) frequencies [Hz] of an axis of a kind that the FITS standard knows."""
    step = number(header, f"CDELT{axis}", name, 0.0)
    for key in (f"CD{axis}_{axis}", f"CD{axis:03d}{axis:03d}"):
        step = number(header, key, name, step)
    for key in (f"PC{axis}_{axis}", f"PC{axis:03d}{axis:03d}"):
        step *= number(header, key, name, 1.0)
    if step == 0.0 and nchan > 1:
        raise DataError(f"{name!r} has channels of no width (CDELT{axis} is 0): {set_keyword(name, f'CDELT{axis}')}")
    cards = {
        "CTYPE1": kind, "CUNIT1": unit, "CDELT1": step or 1.0,
        "CRVAL1": number(header, f"CRVAL{axis}", name), "CRPIX1": number(header, f"CRPIX{axis}", name, 1.0),
    }  # fmt: skip
    if restfreq:
        cards["RESTFRQ"] = restfreq
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            wcs = WCS(fits.Header(list(cards.items())), naxis=1)
            world = u.Quantity(wcs.wcs_pix2world(np.arange(nchan, dtype=float), 0)[0], str(wcs.wcs.cunit[0]) or "")
    except Exception as error:  # wcslib's errors share no base but this
        raise DataError(
            f"the spectral axis of {name!r} (CTYPE{axis} = {ctype(header, axis)!r}) cannot be understood "
            f"({str(error).strip().splitlines()[-1] if str(error).strip() else type(error).__name__})"
        ) from error
    first = kind[:4]
    rest = restfreq * u.Hz
    light = 299792458.0 * u.m / u.s
    with np.errstate(divide="ignore", invalid="ignore"):
        if first == "VRAD":
            return world.to_value(u.Hz, u.doppler_radio(rest))
        if first in ("VOPT", "ZOPT"):
            velocity = world if first == "VOPT" else world.value * light
            return velocity.to_value(u.Hz, u.doppler_optical(rest))
        if first in ("VELO", "BETA"):
            velocity = world if first == "VELO" else world.value * light
            return velocity.to_value(u.Hz, u.doppler_relativistic(rest))
        return world.to_value(u.Hz, u.spectral())
