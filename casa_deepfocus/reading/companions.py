"""Names of the PSF and the primary beam that imaging programs put beside a dirty image."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass

FITS_ENDINGS = tuple(fits + packed for packed in (".gz", ".fz", "") for fits in (".fits", ".fit", ".FITS", ".fts"))
"""Endings of FITS files; a longer one comes before the one that it contains."""


@dataclass(frozen=True)
class Scheme:
    """How one program names its images.

    Attributes
    ----------
    program : str
    image : str
        Regular expression of a dirty image's whole path, without a FITS ending.
    companions : mapping of 'psf' and 'pb' to a tuple of str
        Templates of the companion's name, also without, in the order in which they are tried. The groups of
        `image` may be used.
    """

    program: str
    image: str
    companions: dict[str, tuple[str, ...]]


def _beside(*templates: str) -> dict[str, tuple[str, ...]]:
    """Templates in which {kind} is the companion's kind."""
    return {kind: tuple(text.replace("{kind}", kind) for text in templates) for kind in ("psf", "pb")}


SCHEMES: tuple[Scheme, ...] = (
    # tclean, exportfits of its images, and their cut-outs in the VLASS archive.
    Scheme(
        "tclean",
        r"(?P<base>.+)\.(?:image|residual|dirty)(?:\.pbcor)?(?P<term>(?:\.tt0)?)(?:\.pbcor)?(?P<cut>(?:\.subim)?)",
        _beside("{base}.{kind}{term}{cut}", "{base}.{kind}{term}", "{base}.{kind}"),
    ),
    # The ALMA archive: <target>.<type>.I.pbcor.fits has <target>.<type>.I.pb.fits.gz beside it.
    Scheme(
        "ALMA archive",
        r"(?P<base>.+?)(?P<term>(?:\.tt0)?)\.pbcor(?P<after>(?:\.tt0)?)",
        _beside("{base}{term}.{kind}{after}", "{base}.{kind}{term}{after}", "{base}.{kind}"),
    ),
    # WSClean; polarisations share one PSF. Its <name>-beam-I is the response, <name>-beam-0 and so on are elements of
    # Mueller matrices.
    Scheme(
        "WSClean",
        r"(?P<base>.+?)(?P<pol>(?:-(?:[IQUV]|XX|YY|RR|LL))?)-(?:dirty|image|residual)(?:-pb)?",
        {"psf": ("{base}{pol}-psf", "{base}-psf"), "pb": ("{base}-beam-I",)},
    ),
    # Any other name.
    Scheme("other", r"(?P<base>.+)", _beside("{base}.{kind}")),
)
"""In the order in which they are tried; docs/products.md has the same as a table."""


def stem_of(name: str) -> str:
    """A name without its FITS ending and without a slash at the end."""
    name = name.rstrip("/")
    for ending in FITS_ENDINGS:
        if name.endswith(ending) and len(name) > len(ending):
            return name[: -len(ending)]
    return name


def find_companion(imagename: str, kind: str) -> str:
    """Name of the psf or pb beside an image, '' where there is none.

    A CASA image may have a FITS companion, and the other way round.

    Parameters
    ----------
    imagename : str
    kind : str
        'psf' or 'pb'.
    """
    stem = stem_of(imagename)
    own = os.path.realpath(imagename)
    for scheme in SCHEMES:
        found = re.fullmatch(scheme.image, stem)
        if not found:
            continue
        for template in scheme.companions[kind]:
            base = template.format(**found.groupdict())
            for ending in ("", *sorted(FITS_ENDINGS, key=len)):
                candidate = base + ending
                if os.path.exists(candidate) and os.path.realpath(candidate) != own:
                    return candidate
    return ""
