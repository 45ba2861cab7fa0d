"""Which images of a list are of one target, and what to call them.

Images that name the same object and show the same sky are of one target, whatever they are files of; an image without
a name is of the target whose sky it shows. Objects of two names are two targets even where their fields overlap: who
named them knew better.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from astropy import units as u
from astropy.coordinates import SkyCoord
from numpy.typing import NDArray
from scipy.sparse.csgraph import connected_components

from casa_deepfocus.core.catalogue import sky_name
from casa_deepfocus.core.cube import Cube

NAMELESS = {"", "unknown", "none", "undefined", "na", "multi", "multiple", "field", "target"}
"""Names of objects that say nothing, in lower case and without punctuation."""

ENDINGS = (
    ".gz", ".fz", ".fits", ".fit", ".fts", ".image", ".residual", ".dirty", ".pbcor", ".subim", ".tt0", ".cube",
    "-dirty", "-image", "-residual",
)  # fmt: skip
"""Endings of files that say nothing of what is in them."""

WINDOW = re.compile(r"(?:^|[^a-z])spw_?([0-9]+(?:_[0-9]+)*)", re.IGNORECASE)
"""The window in the names of imaging pipelines: spw25, spw_25, spw25_27."""

LONGEST = 40
"""Characters of a label or of a folder's name."""

RESERVED = ("report", "sources", "lines", "index.html", "run.json")
"""Names that files in the folders of a run have already."""

CONTINUUM = "continuum"
"""Label of the only image of one channel."""


@dataclass(frozen=True)
class ImageField:
    """What an image says of itself.

    Attributes
    ----------
    name : str
        Its path.
    target : str
        The object it names; may be empty.
    centre : SkyCoord or None
        None where it has no sky coordinates: such an image is a target of its own.
    radius : float [deg]
        Half of its shorter side: a circle that lies in the image.
    low, high : float [Hz]
        Ends of its band; NaN where not known.
    nchan : int
    """

    name: str
    target: str
    centre: SkyCoord | None
    radius: float
    low: float
    high: float
    nchan: int


@dataclass(frozen=True)
class Target:
    """Images of one target.

    Attributes
    ----------
    name : str
        That of the object, or that of its place.
    folder : str
        The name as that of a folder, unique in the list.
    members : tuple of int
        Places of its images in the list, in its order.
    labels : tuple of str
        One for each, unique within the target.
    """

    name: str
    folder: str
    members: tuple[int, ...]
    labels: tuple[str, ...]


def image_field(name: str, cube: Cube) -> ImageField:
    """What the header of a cube says.

    Parameters
    ----------
    name : str
        Path of the image.
    cube : Cube
    """
    ny, nx = cube.shape
    centre = None
    if cube.wcs is not None:
        ra, dec = cube.wcs.wcs_pix2world([[0.5 * (nx - 1), 0.5 * (ny - 1)]], 0)[0]
        if np.isfinite([ra, dec]).all():
            frame = {"FK4": "fk4", "FK5": "fk5"}.get(str(cube.meta.get("radesys", "")).upper(), "icrs")
            centre = SkyCoord(ra, dec, unit="deg", frame=frame).icrs
    low, high = float(np.min(cube.freq)), float(np.max(cube.freq))
    radius = 0.5 * min(ny, nx) * cube.cell / 3600.0
    return ImageField(name, str(cube.meta.get("object", "")).strip(), centre, radius, low, high, cube.nchan)


def targets(images: Sequence[ImageField]) -> list[Target]:
    """The targets of a list of images, in the order of their first images.

    Parameters
    ----------
    images : sequence of ImageField

    Returns
    -------
    list of Target
        Every image is in one; which ones are together does not depend on the order of the list.
    """
    group = _groups(images)
    out: list[Target] = []
    for number in dict.fromkeys(group.tolist()):
        members = tuple(np.flatnonzero(group == number).tolist())
        mine = [images[at] for at in members]
        name = _target_name(mine)
        folder = unique(safe_name(name), [*RESERVED, *(target.folder for target in out)])
        out.append(Target(name, folder, members, tuple(labels(mine))))
    return out


def _groups(images: Sequence[ImageField]) -> NDArray[np.int64]:
    """(n,) number of the target of each image."""
    apart, reach = _separations(images)
    shared = apart < reach
    keys = [_key(image.target) for image in images]
    named = np.array([bool(key) for key in keys], dtype=bool)
    alike = np.array([[a == b for b in keys] for a in keys], dtype=bool).reshape(len(images), len(images))
    group = np.full(len(images), -1, dtype=np.int64)
    if named.any():
        group[named] = connected_components((shared & alike)[np.ix_(named, named)])[1]
    # Nameless images join the nearest target whose sky they show, in turn those whose sky these show.
    while True:
        joined = {}
        for at in np.flatnonzero(group < 0):
            near = np.flatnonzero(shared[at] & (group >= 0))
            if near.size:
                joined[at] = group[near[np.lexsort((group[near], apart[at, near]))[0]]]
        if not joined:
            break
        for at, number in joined.items():
            group[at] = number
    rest = group < 0
    if rest.any():
        group[rest] = connected_components(shared[np.ix_(rest, rest)])[1] + group.max() + 1
    return group


def _separations(images: Sequence[ImageField]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """(n, n) distances of the centres, infinite without, and sums of the radii [deg]."""
    known = [at for at, image in enumerate(images) if image.centre is not None]
    apart = np.full((len(images), len(images)), np.inf)
    if known:
        places = [image.centre.icrs for image in images if image.centre is not None]
        centres = SkyCoord([p.ra.deg for p in places], [p.dec.deg for p in places], unit="deg")
        apart[np.ix_(known, known)] = centres[:, None].separation(centres[None, :]).to_value(u.deg)
    radius = np.array([image.radius for image in images], dtype=float)
    return apart, radius[:, None] + radius[None, :]


def _key(name: str) -> str:
    """A name without case, spaces and punctuation; + and - stay, as they tell declinations."""
    key = re.sub(r"[^\w+-]|_", "", name.lower())
    return "" if key in NAMELESS else key


def _target_name(images: Sequence[ImageField]) -> str:
    names = sorted({image.target for image in images if _key(image.target)})
    if names:
        return names[0]
    centres = [image.centre for image in images if image.centre is not None]
    if centres:
        return sky_name(float(centres[0].ra.deg), float(centres[0].dec.deg))
    return stem(images[0].name) or "image"


def labels(images: Sequence[ImageField]) -> list[str]:
    """Labels of the images of one target: unique, and names of files.

    The only image of one channel beside cubes is 'continuum'. Others are named by the window in their files' names,
    by what differs in these, or by their frequencies; by the first that tells them all apart.

    Parameters
    ----------
    images : sequence of ImageField
    """
    single = [at for at, image in enumerate(images) if image.nchan == 1]
    out = [""] * len(images)
    if len(single) == 1 and len(images) > 1:
        out[single[0]] = CONTINUUM
    rest = [at for at, label in enumerate(out) if not label]
    mine = [images[at] for at in rest]
    for at, label in zip(rest, _first_unique(mine), strict=True):
        out[at] = unique(label, [*RESERVED, *filter(None, out)])
    return out


def _first_unique(images: Sequence[ImageField]) -> list[str]:
    stems = [stem(image.name) for image in images]
    windows = [match.group(1) if (match := WINDOW.search(text)) else "" for text in stems]
    middles = [0.5 * (image.low + image.high) / 1e9 for image in images]
    candidates = [
        [f"spw{number}" if number else "" for number in windows],
        _differences(stems),
        [f"{freq:.3f}GHz" if np.isfinite(freq) else "" for freq in middles],
    ]
    for names in candidates:
        safe = [safe_name(name) if name else "" for name in names]
        short = all(0 < len(name) <= LONGEST for name in names)
        if short and len({name.lower() for name in safe}) == len(safe):
            return safe
    return [safe_name(text) for text in stems]


def _differences(stems: Sequence[str]) -> list[str]:
    """What is left of each name without the words that all of them begin and end with; a single name as it is."""
    words = [re.split(r"[._\s]+", text) for text in stems]
    if len(words) == 1:
        return list(stems)
    while all(len(w) > 0 for w in words) and len({w[0] for w in words}) == 1:
        words = [w[1:] for w in words]
    while all(len(w) > 0 for w in words) and len({w[-1] for w in words}) == 1:
        words = [w[:-1] for w in words]
    return ["_".join(w) for w in words]


def stem(path: str) -> str:
    """The name of a file without its folder and the endings that say nothing."""
    name = os.path.basename(path.rstrip("/"))
    while True:
        ending = next((e for e in ENDINGS if name.lower().endswith(e) and len(name) > len(e)), "")
        if not ending:
            return name
        name = name[: -len(ending)]


def safe_name(text: str) -> str:
    """A text as the name of a file or folder: letters, digits, and + - _ . within it; never empty."""
    plain = re.sub(r"[^A-Za-z0-9+._-]+", "_", text).strip("._-")[:LONGEST].rstrip("._-")
    return plain or "unnamed"


def unique(name: str, taken: Sequence[str]) -> str:
    """A name that is not among those taken, upper and lower case alike: name, name_2, name_3."""
    used = {other.lower() for other in taken}
    number, out = 1, name
    while out.lower() in used:
        number += 1
        out = f"{name}_{number}"
    return out
