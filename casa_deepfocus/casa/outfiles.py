"""The prefix of the products: which names can be used, what stands there already, and whose it is.

Only what this task has made is ever replaced or removed. Its products carry a mark: files in their text,
CASA's folders as a small file inside, which names the folder, so that what a user has copied, or made from
a product with another task, counts as the user's own.
"""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path

from casa_deepfocus.errors import ParameterError, ProductError
from casa_deepfocus.products.marks import MAKER
from casa_deepfocus.reading.companions import find_companion
from casa_deepfocus.reading.grid import is_table

TEXTS = (".cat.ecsv", ".cat.vot", ".cat.fits", ".crtf", ".reg", ".json", ".html", ".png")
"""Endings of the products that every run has; the last two are the report and its picture of the field."""

CUTOUTS = ".cutouts"
"""Ending of the folder that has a file for each source, where that is asked for."""

SUFFIXES: tuple[str, ...] = (
    *TEXTS, ".cl", ".mask", ".prob", ".noise", ".model", ".residual", ".mom0", ".mom1", ".mom2",
)  # fmt: skip
"""Endings of the products of a run with CASA."""

COMPLETENESS = (".complete.ecsv",)
"""Ending of the product of a run that was asked for its completeness."""

FITS = (
    ".mask.fits", ".prob.fits", ".noise.fits", ".model.fits", ".residual.fits", ".mom0.fits", ".mom1.fits",
    ".mom2.fits",
)  # fmt: skip
"""Endings of the images of a run on FITS files without CASA, beside `TEXTS`."""

TARGETS = ".targets"
"""Ending of the folder of a run with several targets or windows."""

IMAGES: tuple[str, ...] = (".image", ".psf", ".pb")
"""Endings of the images that keepimages keeps."""

MARKS: dict[str, bytes] = {
    ".cat.ecsv": f"software: {MAKER}".encode(),
    ".complete.ecsv": f"software: {MAKER}".encode(),
    ".cat.vot": f"software = {MAKER}".encode(),
    ".crtf": f"# made by {MAKER}".encode(),
    ".html": f'<meta name="generator" content="{MAKER}'.encode(),
    ".reg": f"# made by {MAKER}".encode(),
    ".json": f'"software": "{MAKER}'.encode(),
    ".fits": f"ORIGIN  = '{MAKER}".encode(),
    ".png": f"Software\0{MAKER}".encode(),
}
"""How the products that are files say so."""

MARK_WITHIN = 2**16
"""The mark of a file stands among its first bytes, this many."""

FOLDER_MARK = "sdeepfocus.json"
"""The file inside those that are folders."""

DEEPEST = "logtable/table.dat_tmp"
"""The longest path that CASA writes inside an image."""


def expanded(outfile: str) -> str:
    """A prefix with a leading ~ and $NAME written out, as CASA does with the names of its inputs.

    Raises
    ------
    ParameterError
        Where it begins with ~ and there is no such home.
    """
    prefix = os.path.expandvars(os.path.expanduser(outfile))
    if prefix.startswith("~"):
        raise ParameterError(
            "outfile", outfile, "there is no such home folder", f"For a name that begins with ~ write {'./' + prefix!r}"
        )
    return prefix


def check_name(prefix: str) -> str:
    """The folder of a prefix whose products CASA can write.

    Raises
    ------
    ParameterError, ProductError
        Where the name cannot be used, the folder is not there, or nothing can be written in it.
    """
    base = os.path.basename(prefix)
    if base in ("", ".", ".."):
        raise ParameterError(
            "outfile", prefix, "is a folder; outfile is a prefix, which the endings of the products are added to",
            f"For example {os.path.normpath(os.path.join(prefix, 'field1'))!r}",
        )  # fmt: skip
    path = os.path.abspath(prefix)
    try:
        path.encode()
    except UnicodeEncodeError as exc:
        raise ParameterError("outfile", prefix, "is no Unicode text, as CASA needs", "Choose another name") from exc
    if not base.isprintable():
        raise ParameterError("outfile", prefix, "has characters that cannot be printed", "Choose another name")
    if "::" in path:
        # casacore takes it for a subtable of a table.
        raise ParameterError("outfile", prefix, f"CASA opens no image with '::' in its path {path!r}", "Choose another")
    if os.path.expandvars(path) != path:
        raise ParameterError(
            "outfile", prefix, f"CASA takes the $ in {path!r} for that of a variable", "Choose another folder"
        )
    folder = os.path.dirname(path)
    if not os.path.isdir(folder):
        raise ProductError(f"outfile={prefix!r}: the folder {folder!r} does not exist; make it first")
    if is_table(folder):
        raise ParameterError("outfile", prefix, f"lies inside {folder!r}, a table of CASA's", "Choose another folder")
    _check_length(prefix, folder)
    try:
        # Only writing tells: permission bits say nothing about mounts, quotas and root.
        probe = tempfile.mkdtemp(prefix=".sdeepfocus-", dir=folder)
    except OSError as exc:
        raise ProductError(
            f"outfile={prefix!r}: nothing can be written in {folder!r} ({exc.strerror}); choose another folder"
        ) from exc
    with contextlib.suppress(FileNotFoundError):
        os.rmdir(probe)
    return folder


def check_sources(prefix: str, sources: Sequence[str], *, keeps_images: bool, fits: bool = False) -> None:
    """See that no product would be an input, lie inside one, or hold one.

    Raises
    ------
    ParameterError
    """
    folder = os.path.realpath(os.path.dirname(os.path.abspath(prefix)))
    for name in sources:
        if _inside(folder, os.path.realpath(name)):
            raise ParameterError("outfile", prefix, f"lies inside the input {name!r}", "Choose another folder")
        own = (TEXTS + FITS) if fits else SUFFIXES + (IMAGES if keeps_images else ())
        for ending in (CUTOUTS, *own, *COMPLETENESS):
            if _takes(prefix + ending, name):
                raise ParameterError(
                    "outfile", prefix, f"the product {prefix + ending!r} would overwrite the input {name!r}",
                    "Choose another outfile",
                )  # fmt: skip


def endings(
    prefix: str, sources: Sequence[str], *, keeps_images: bool, fits: bool = False, cutouts: bool = False,
    more: Sequence[str] = (),
) -> tuple[str, ...]:  # fmt: skip
    """Endings that belong to a run: what older products have and the run has no content for is removed.

    Images of an earlier keepimages, cutouts of an earlier run, and images of the other kind (CASA's, FITS), are among
    them, unless this run reads one of them. `more` are products that this run has besides.
    """
    own = (TEXTS + FITS if fits else SUFFIXES + (IMAGES if keeps_images else ())) + tuple(more)
    own += (CUTOUTS,) if cutouts else ()
    groups = (SUFFIXES, FITS, IMAGES, COMPLETENESS, (CUTOUTS,))
    rest = [ending for group in groups for ending in group if ending not in own]
    if any(_takes(prefix + ending, name) for ending in rest for name in sources):
        return own
    return own + tuple(ending for ending in rest if ours(prefix + ending))


def check_free(prefix: str, names: Sequence[str], *, overwrite: bool) -> None:
    """See that nothing stands at these names that may not be replaced.

    Raises
    ------
    ProductError
        Naming the first that does.
    """
    for name in names:
        if not os.path.lexists(name):
            continue
        if not ours(name):
            raise ProductError(
                f"outfile={prefix!r}: {name!r} exists already and was not made by sdeepfocus under this name; even "
                "overwrite=True does not replace it. Choose another outfile, or move it away"
            )
        if not overwrite:
            raise ProductError(f"outfile={prefix!r}: {name!r} exists already; set overwrite=True or another outfile")


def ours(name: str) -> bool:
    """Whether a product of this task stands at a name that one of its products has."""
    path = Path(name)
    try:
        if path.is_dir():
            record = json.loads((path / FOLDER_MARK).read_text(encoding="utf-8"))
            return bool(record["made_by"] == MAKER and record["name"] == path.name)
        mark = next(mark for ending, mark in MARKS.items() if name.endswith(ending))
        with open(path, "rb") as stream:
            return mark in stream.read(MARK_WITHIN)
    except (OSError, ValueError, KeyError, TypeError, StopIteration):
        return False


def mark(folder: Path) -> None:
    """Mark every product in a folder that is a folder itself as ours, under its name."""
    for path in folder.iterdir():
        if path.is_dir():
            mark_folder(path)


def mark_folder(path: Path) -> None:
    """Mark a folder as ours, under its name."""
    (path / FOLDER_MARK).write_text(json.dumps({"made_by": MAKER, "name": path.name}), encoding="utf-8")


def sources(vis: Sequence[str], imagename: str, psf: str, pb: str) -> list[str]:
    """Everything that a run reads, with the companions that are found by name."""
    if not imagename:
        return list(vis)
    beside = (psf or find_companion(imagename, "psf"), pb or find_companion(imagename, "pb"))
    return [imagename, *(name for name in beside if name)]


def _check_length(prefix: str, folder: str) -> None:
    longest = max(SUFFIXES + FITS, key=len)
    room = os.pathconf(folder, "PC_NAME_MAX") - len(longest)
    size = len(os.fsencode(os.path.basename(prefix)))
    if size > room:
        raise ParameterError(
            "outfile", prefix, f"is too long: its name has {size} bytes, {room} can be with {longest!r} added",
            f"Choose a name of at most {room} bytes",
        )  # fmt: skip
    # .sdeepfocus-<16 digits>/products/<base>.image/<deepest>
    deepest = len(os.fsencode(folder)) + size + len(f"/.sdeepfocus-{'0' * 16}/products/.image/{DEEPEST}")
    most = os.pathconf(folder, "PC_PATH_MAX")
    if deepest >= most:
        raise ParameterError(
            "outfile", prefix, f"is too long a path: CASA's files in it have {deepest} bytes, {most} are too many",
            "Choose another folder",
        )  # fmt: skip


def _takes(target: str, name: str) -> bool:
    """Whether moving `target` away would take the input `name` with it: by real paths, links and hard links too."""
    if os.path.exists(target) and os.path.exists(name) and os.path.samefile(target, name):
        return True
    # What a link leads to, and the link itself: neither may go.
    places = (os.path.realpath(target), _entry(target))
    return any(_inside(source, place) for source in (os.path.realpath(name), _entry(name)) for place in places)


def _entry(name: str) -> str:
    """The place that a name has in its real folder, without following the name itself."""
    folder, base = os.path.split(os.path.abspath(name))
    return os.path.join(os.path.realpath(folder), base)


def _inside(path: str, folder: str) -> bool:
    return path == folder or path.startswith(folder.rstrip(os.sep) + os.sep)
