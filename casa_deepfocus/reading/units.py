"""Brightness units, as headers spell them, in Jy/beam."""

from __future__ import annotations

import re
import warnings

from astropy import units as u

from casa_deepfocus.errors import DataError

JY_PER_BEAM = u.Jy / u.beam

BEAM = re.compile(r"(?<![a-z])(beams?|bm)(?![a-z])", re.IGNORECASE)
"""A beam, as AIPS, GILDAS, Miriad and others write it."""

PIXEL = re.compile(r"(?<![a-z])(pixels?|pix)(?![a-z])", re.IGNORECASE)

JANSKY = re.compile(r"(?<![a-z])([a-zµμ]?)(jy|janskys?)(?=beam|[^a-z]|$)", re.IGNORECASE)
"""A Jansky with at most one letter of a prefix before it."""

PREFIXES = {"U": "u", "µ": "u", "μ": "u", "N": "n", "K": "k", "g": "G"}
"""Prefixes that a program in capitals writes otherwise than the SI, where only one is meant."""

WAYS_OUT = (
    (u.K, "make the image in Jy/beam, or multiply it by the flux density [Jy/beam] of 1 K in its beam: "
     "immath(imagename=..., expr='IM0*F', outfile=...), then imhead(imagename=outfile, mode='put', hdkey='bunit', "
     "hdvalue='Jy/beam')"),
    (u.Jy / u.pix, "this is a model of the sky, not a dirty image: give tclean's .image or .residual"),
    (u.Jy / u.sr, "multiply it by the beam's solid angle [sr]: immath(imagename=..., expr='IM0*F', "
     "outfile=...), then imhead(imagename=outfile, mode='put', hdkey='bunit', hdvalue='Jy/beam')"),
)  # fmt: skip
"""Kinds of units that images have but cannot be searched in, and what to do about each."""

VELOCITY = re.compile(r"km\s*([/.]?\s*s|$)", re.IGNORECASE)
"""Part of the unit of a moment."""


def jy_per_beam(unit: str, name: str) -> float:
    """Factor from a brightness unit to Jy/beam; 1 for an image without a unit.

    Parameters
    ----------
    unit : str
        As in the header: ``Jy/beam``, ``beam-1 Jy``, ``JY/BEAM``, ``mJy beam^-1``, ``uJy/bm`` ...; ``m`` is milli,
        ``M`` mega.
    name : str
        The image, for the message.

    Raises
    ------
    DataError
        Where it is no flux density per beam, or cannot be told from another.
    """
    text = unit.strip()
    if not text:
        return 1.0
    found = JANSKY.search(text)
    if found and found[1] == "M" and found[2].isupper():
        raise DataError(f"{name!r} is in {unit!r}, which may mean milli or mega: set BUNIT to 'mJy/beam' or 'MJy/beam'")
    parsed = _parse(text)
    if parsed is not None and parsed.is_equivalent(JY_PER_BEAM):
        return float(parsed.to(JY_PER_BEAM))
    remedy = "set BUNIT to what it is, or make the image in Jy/beam"
    if VELOCITY.search(text):
        remedy = "this looks like a moment of a cube: give the cube that it was made from"
    if parsed is not None:
        for kind, way in WAYS_OUT:
            if parsed.is_equivalent(kind):
                remedy = way
    raise DataError(f"{name!r} is in {unit!r}; an image in Jy/beam is needed: {remedy}")


def _parse(text: str) -> u.UnitBase | None:
    """The unit, or None where it means nothing."""
    plain = PIXEL.sub("pixel", BEAM.sub("beam", JANSKY.sub(_jansky, text)))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", u.UnitsWarning)
            return u.Unit(plain)
    except (ValueError, TypeError):
        return None


def _jansky(match: re.Match[str]) -> str:
    # The space separates 'JYBEAM-1'.
    return PREFIXES.get(match[1], match[1]) + "Jy "
