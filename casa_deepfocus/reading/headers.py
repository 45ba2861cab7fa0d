"""FITS headers as the field writes them, made plain: axes, sky, beam. One place for every dialect.

A header is read by its meaning and nothing of it is handed on as it stands: the sky becomes a two-axis WCS, the
spectral axis frequencies (`reading.spectral`), and CASA gets a header written anew (`casa_cards`), so that what it
cannot read (GLS, NCP, beams of zero, CTYPE 'freq') does not reach it.
"""

from __future__ import annotations

import re
import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
from astropy.io import fits
from astropy.wcs import WCS
from numpy.typing import NDArray

from casa_deepfocus.errors import DataError
from casa_deepfocus.reading.fitsfiles import FitsImage

SKY = {"RA": "lng", "DEC": "lat", "GLON": "lng", "GLAT": "lat", "ELON": "lng", "ELAT": "lat", "SLON": "lng",
       "SLAT": "lat", "HLON": "lng", "HLAT": "lat"}  # fmt: skip
"""Sky axes by the first part of CTYPE."""

SYSTEMS = {"GLON": "galactic", "ELON": "ecliptic", "SLON": "supergalactic", "HLON": "helioecliptic"}

SPECTRAL = ("FREQ", "VRAD", "VOPT", "VELO", "FELO", "ZOPT", "BETA", "WAVE", "AWAV", "WAVN", "ENER", "LAMBDA")
"""First part of CTYPE of spectral axes."""

STOKES = {
    1: "I", 2: "Q", 3: "U", 4: "V", -1: "RR", -2: "LL", -3: "RL", -4: "LR", -5: "XX", -6: "YY", -7: "XY", -8: "YX"
}  # fmt: skip
"""FITS numbers of the polarisations that CASA knows as well."""

ANGLES = {"": "deg", "DEG": "deg", "DEGREE": "deg", "DEGREES": "deg", "RAD": "rad", "RADIAN": "rad",
          "RADIANS": "rad", "ARCMIN": "arcmin", "ARCSEC": "arcsec", "MAS": "mas"}  # fmt: skip
"""Units of sky axes, in capitals, and the FITS standard's spelling."""

EQUINOXES = {"FK5": 2000.0, "FK4": 1950.0}
"""The equinox of each frame that CASA's J2000 and B1950 are."""

FK4_BEFORE = 1984.0
"""Without a named frame an older equinox means FK4 (FITS standard, section 8.3)."""

AIPS_BEAM = re.compile(r"BMAJ\s*=\s*(?P<maj>\S+)\s+BMIN\s*=\s*(?P<min>\S+)\s+BPA\s*=\s*(?P<pa>\S+)", re.IGNORECASE)
"""Beam [deg] that AIPS, and programs after it, write into HISTORY."""

LINEAR_OFFSET = 1e-9
"""A coefficient that mixes sky and other axes, relative to a pixel's size, above which it is one."""


@dataclass(frozen=True)
class Axes:
    """Which axes of a FITS image are what; numbers as in NAXISn, None where there is no such axis."""

    lng: int
    lat: int
    spectral: int | None
    stokes: int | None


@dataclass(frozen=True)
class Beam:
    """(major, minor) [arcsec] and position angle [deg] on the sky, and where they were read."""

    values: tuple[float, float, float]
    source: str


def axes_of(image: FitsImage) -> Axes:
    """The kinds of an image's axes.

    Raises
    ------
    DataError
        Where sky axes are missing, or a further axis has more than one pixel.
    """
    found: dict[str, int] = {}
    unknown = []
    for axis, size in enumerate(image.shape, start=1):
        kind = _kind(ctype(image.header, axis))
        if kind and kind not in found:
            found[kind] = axis
        elif size > 1:
            unknown.append(axis)
    if "lng" not in found and "lat" not in found:
        raise DataError(f"{image.name!r} has no sky axes (right ascension and declination with a projection)")
    if "lng" not in found or "lat" not in found:
        raise DataError(f"{image.name!r} has only one sky axis: give an image, not a position-velocity slice")
    for axis in unknown:
        key = f"CTYPE{axis}"
        raise DataError(
            f"{image.name!r} has a further axis of {image.shape[axis - 1]} pixels ({key} = "
            f"{str(image.header.get(key, '')).strip()!r}); two sky axes, a spectral and a Stokes axis are read. If it "
            f"is the spectral axis, {set_keyword(image.name, key, repr('FREQ'))}"
        )
    return Axes(found["lng"], found["lat"], found.get("spectral"), found.get("stokes"))


def ctype(header: fits.Header, axis: int) -> str:
    """CTYPE of an axis, in capitals."""
    return str(header.get(f"CTYPE{axis}", "")).strip().upper()


def _kind(text: str) -> str:
    first = text.split("-")[0]
    # Without a projection 'RA' is a linear axis, of which nobody knows where it leads.
    if first in SKY and "-" in text:
        return SKY[first]
    if first.startswith(SPECTRAL):
        return "spectral"
    return "stokes" if text == "STOKES" else ""


def number(header: fits.Header, key: str, name: str, default: float | None = None) -> float:
    """A keyword's number.

    Raises
    ------
    DataError
        Where it is missing and there is no default, or is no finite number.
    """
    value = header.get(key)
    if value is None or isinstance(value, fits.card.Undefined) or (isinstance(value, str) and not value.strip()):
        if default is None:
            raise DataError(f"{name!r} has no {key} in its header: {set_keyword(name, key)}")
        return default
    try:
        result = float(str(value).replace("D", "E").replace("d", "e")) if isinstance(value, str) else float(value)
    except (TypeError, ValueError):
        result = np.nan
    if not np.isfinite(result):
        raise DataError(f"{name!r} has {key} = {value!r}, which is no number: {set_keyword(name, key)}")
    return result


def set_keyword(name: str, key: str, value: str = "...") -> str:
    """How a keyword is set, as one would type it."""
    return f"set it, for example with astropy.io.fits.setval({name!r}, {key!r}, value={value})"


def celestial(image: FitsImage, axes: Axes) -> WCS:
    """The sky coordinates as a WCS of two axes (x, y), with its frame (`wcs.wcs.radesys`, `equinox`) filled in.

    Raises
    ------
    DataError
        Where the header's sky axes mean nothing, depend on other axes, or are in a frame that CASA cannot name.
    """
    header, name = image.header, image.name
    pair = (axes.lng, axes.lat)
    cards = _sky_cards(header, name, pair, len(image.shape))
    system, equinox = _frame(header, name, ctype(header, axes.lng).split("-")[0])
    cards["RADESYS"] = system
    if equinox:
        cards["EQUINOX"] = equinox
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            wcs = WCS(fits.Header(list(cards.items())), naxis=2)
            wcs.wcs.set()
            place = wcs.wcs_pix2world([wcs.wcs.crpix - 1.0], 0)
    except Exception as error:  # wcslib's errors share no base but this
        text = str(error).strip().splitlines()[-1] if str(error).strip() else type(error).__name__
        raise DataError(f"the sky coordinates of {name!r} cannot be understood ({text}); correct its header") from error
    if wcs.wcs.lng != 0 or wcs.wcs.lat != 1 or wcs.sip is not None or not np.isfinite(place).all():
        raise DataError(f"the sky coordinates of {name!r} ({cards['CTYPE1']}, {cards['CTYPE2']}) cannot be used")
    return wcs


def _sky_cards(header: fits.Header, name: str, pair: tuple[int, int], ndim: int) -> dict[str, Any]:
    """The keywords of the two sky axes, numbered 1 and 2."""
    cards: dict[str, Any] = {}
    for new, old in enumerate(pair, start=1):
        given = str(header.get(f"CUNIT{old}", "")).strip()
        if given.upper() not in ANGLES:
            key = f"CUNIT{old}"
            raise DataError(f"{name!r} has {key} = {given!r}, which is no angle: {set_keyword(name, key, repr('deg'))}")
        cards[f"CTYPE{new}"] = ctype(header, old)
        cards[f"CUNIT{new}"] = ANGLES[given.upper()]
        cards[f"CRVAL{new}"] = number(header, f"CRVAL{old}", name)
        cards[f"CRPIX{new}"] = number(header, f"CRPIX{old}", name)
        for key in header:
            match = re.fullmatch(rf"PV{old}_(\d+)", key)
            if match:
                cards[f"PV{new}_{match[1]}"] = number(header, key, name)
    matrices = {key for key in header if re.fullmatch(r"(PC|CD)(\d+_\d+|00\d00\d)", key)}
    prefix = "CD" if any(key.startswith("CD") for key in matrices) else "PC"
    for new, old in enumerate(pair, start=1):
        if prefix == "PC":
            cards[f"CDELT{new}"] = number(header, f"CDELT{old}", name)
        for axis in range(1, ndim + 1):
            for key in (f"{prefix}{old}_{axis}", f"{prefix}{old:03d}{axis:03d}"):
                if key not in header:
                    continue
                value = number(header, key, name)
                if axis in pair:
                    cards[f"{prefix}{new}_{pair.index(axis) + 1}"] = value
                elif abs(value) > LINEAR_OFFSET:
                    raise DataError(
                        f"the sky coordinates of {name!r} depend on axis {axis} ({key} = {value:g}); "
                        "an image whose channels lie on each other is needed"
                    )
    if not matrices:
        # AIPS gives the rotation with the second sky axis, some programs with the first.
        angles = [number(header, f"CROTA{old}", name, 0.0) for old in pair]
        cards["CROTA2"] = angles[1] or angles[0]
    for key in ("LONPOLE", "LATPOLE"):
        if key in header:
            cards[key] = number(header, key, name)
    return cards


def _frame(header: fits.Header, name: str, first: str) -> tuple[str, float]:
    """The sky's frame and its equinox; 0 for ICRS."""
    remedy = "make the image in ICRS or J2000"
    if first in SYSTEMS:
        raise DataError(
            f"{name!r} is in {SYSTEMS[first]} coordinates; right ascension and declination are needed: {remedy}"
        )
    system = str(header.get("RADESYS", header.get("RADECSYS", ""))).strip().upper()
    system = {"J2000": "FK5", "B1950": "FK4"}.get(system, system)
    key = "EQUINOX" if "EQUINOX" in header else "EPOCH"
    text = str(header.get(key, "")).strip().upper()
    if text[:1] in ("J", "B"):
        equinox = number(fits.Header([(key, text[1:])]), key, name)
    else:
        equinox = number(header, key, name, 0.0)
    if not system:
        system = "ICRS" if not equinox else "FK4" if equinox < FK4_BEFORE else "FK5"
    if system == "ICRS":
        return system, 0.0
    if system not in EQUINOXES:
        raise DataError(f"{name!r} is in the frame RADESYS = {system!r}; ICRS, FK5 or FK4 is needed: {remedy}")
    if equinox and abs(equinox - EQUINOXES[system]) > 1e-3:
        raise DataError(
            f"{name!r} is in {system} of equinox {equinox:g}, CASA knows {EQUINOXES[system]:g} only: {remedy}"
        )
    return system, EQUINOXES[system]


def stokes_codes(image: FitsImage, axis: int) -> list[float]:
    """FITS numbers of the planes of a Stokes axis; 1 (I) for a single plane with a number that means nothing."""
    size = image.shape[axis - 1]
    header, name = image.header, image.name
    first, step, pixel = (number(header, f"{key}{axis}", name, 1.0) for key in ("CRVAL", "CDELT", "CRPIX"))
    codes = [first + step * (index + 1.0 - pixel) for index in range(size)]
    if size == 1 and round(codes[0]) not in STOKES:
        return [1.0]
    bad = [code for code in codes if round(code) not in STOKES]
    if bad:
        raise DataError(f"{name!r} has a Stokes axis with the number {bad[0]:g}, which is no polarisation")
    return codes


def header_beam(image: FitsImage) -> Beam | None:
    """The restoring beam of the header's keywords, else of the last AIPS beam in its HISTORY.

    Raises
    ------
    DataError
        Where a beam is given that is no number.
    """
    header, name = image.header, image.name
    major = number(header, "BMAJ", name, 0.0)
    if major > 0:
        minor, angle = number(header, "BMIN", name, major), number(header, "BPA", name, 0.0)
        if minor > 0:
            return Beam((3600.0 * major, 3600.0 * minor, angle % 180.0), "BMAJ, BMIN and BPA of the header")
    lines = [str(line) for line in header.get("HISTORY", [])]
    for line in reversed(lines):
        found = AIPS_BEAM.search(line)
        if not found:
            continue
        cards = fits.Header([(key, found[part]) for key, part in (("BMAJ", "maj"), ("BMIN", "min"), ("BPA", "pa"))])
        major, minor, angle = (number(cards, key, f"HISTORY of {name}") for key in ("BMAJ", "BMIN", "BPA"))
        if major > 0 and minor > 0:
            several = sum(bool(AIPS_BEAM.search(other)) for other in lines)
            source = "HISTORY" + (f", the last of {several} beams there" if several > 1 else "")
            return Beam((3600.0 * major, 3600.0 * minor, angle % 180.0), source)
    return None


def casa_cards(wcs: WCS, pair: tuple[int, int]) -> dict[str, Any]:
    """Keywords that describe a sky WCS in the plainest way, for CASA.

    Parameters
    ----------
    wcs : WCS of two axes
    pair : (int, int)
        Numbers of the axes to write.
    """
    matrix = wcs.pixel_scale_matrix
    cell = float(np.sqrt(abs(np.linalg.det(matrix))))
    # East is left where the determinant is negative; a mirrored image has the sign in its increment.
    steps = np.array([np.sign(np.linalg.det(matrix)) * cell, cell])
    crval, crpix = np.array(wcs.wcs.crval, dtype=float), np.array(wcs.wcs.crpix, dtype=float)
    projection = str(wcs.wcs.ctype[0])[-3:]
    terms = {(int(axis), int(index)): float(value) for axis, index, value in wcs.wcs.get_pv()}
    first = str(wcs.wcs.ctype[0]).split("-")[0], str(wcs.wcs.ctype[1]).split("-")[0]
    cards: dict[str, Any] = {}
    if projection == "GLS" or (projection == "SFL" and terms.get((1, 0), 0.0) and terms.get((1, 2)) == crval[1]):
        # CASA knows the sinusoidal projection about the equator only; AIPS's is the same one moved along the meridian.
        crpix += np.linalg.solve(matrix, [0.0, -crval[1]])
        crval[1], projection, terms = 0.0, "SFL", {}
    else:
        cards |= {"LONPOLE": float(wcs.wcs.lonpole), "LATPOLE": float(wcs.wcs.latpole)}
    turned = matrix / steps[:, None]
    for place, axis in enumerate(pair):
        cards |= {
            f"CTYPE{axis}": f"{first[place]:-<5}{projection:->3}", f"CUNIT{axis}": "deg",
            f"CRVAL{axis}": float(crval[place]), f"CRPIX{axis}": float(crpix[place]),
            f"CDELT{axis}": float(steps[place]),
        }  # fmt: skip
        for other, column in zip(pair, range(2), strict=True):
            cards[f"PC{axis}_{other}"] = float(turned[place, column])
    for (axis, index), value in terms.items():
        cards[f"PV{pair[axis - 1]}_{index}"] = value
    cards["RADESYS"] = str(wcs.wcs.radesys)
    if np.isfinite(wcs.wcs.equinox):
        cards["EQUINOX"] = float(wcs.wcs.equinox)
    return cards


def table_beams(rows: NDArray[np.float64], nchan: int) -> NDArray[np.float64] | None:
    """(nchan, 3) beams [arcsec, arcsec, deg] of a table's rows, NaN in channels without one; None without any.

    Parameters
    ----------
    rows : (n, 4) : channel, major, minor, position angle
    """
    out = np.full((nchan, 3), np.nan)
    good = np.isfinite(rows).all(axis=1) & (rows[:, 2] > 0) & (rows[:, 1] > 0)
    chan = np.nan_to_num(rows[:, 0], nan=-1.0).round().astype(int)
    good &= (chan >= 0) & (chan < nchan)
    if not good.any():
        return None
    out[chan[good]] = rows[good, 1:]
    out[:, 2] %= 180.0
    return out
