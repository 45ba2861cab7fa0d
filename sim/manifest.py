"""What a folder of simulated cubes holds: its recipe, the state of every cube, and the lock of the run that writes it.

``manifest.json`` keeps what must be equal between two runs (recipe, seed, files and their hashes) apart
from what never is (seconds, memory, workers; under ``runs``).
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import platform
import re
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

from astropy.table import Table

import casa_deepfocus
from casa_deepfocus.errors import ProductError

MANIFEST, TRUTH, LOCK = "manifest.json", "truth.ecsv", ".lock"
FORMAT = 1
NUMBERED = re.compile(r"\d{5,}")
PART = re.compile(r"\.\d{5,}\.part-\w+")
"""Hidden folders in which cubes are written before they get their name."""

PACKAGES = {
    "fast": ("numpy", "scipy", "astropy", "ducc0", "casadata"),
    "casa": ("numpy", "scipy", "astropy", "casatools", "casatasks", "casadata"),
}
"""Packages, by backend, on whose versions the pixels may depend."""


def folder_name(index: int) -> str:
    """Name of the folder of a cube."""
    return f"{index:05d}"


@dataclass(frozen=True)
class Identity:
    """What all cubes of a folder have in common.

    Attributes
    ----------
    preset : str, its name
    recipe : dict, the resolved preset
    seed : int
    backend : str
    device : str, what the fast backend computed with: numpy, or the kind of torch device; its noise depends on it
    products : list of str
    """

    preset: str
    recipe: dict[str, Any]
    seed: int
    backend: str
    device: str
    products: list[str]

    def files(self) -> list[str]:
        """Names of the files of a cube."""
        return sorted([f"{name}.fits" for name in self.products] + [TRUTH])

    def origin(self, index: int) -> dict[str, str | int]:
        """Where a cube comes from, for the meta of its truth table."""
        return {"preset": self.preset, "seed": self.seed, "index": index, "backend": self.backend}


@dataclass
class Manifest:
    """The state of a folder of cubes; see the module for what is in the file.

    Attributes
    ----------
    identity : Identity
    versions : list of dict of package to version; a second one where a later run had others
    cubes : dict of index to {"sources": int, "files": {name: {"bytes": int, "sha256": str}}}
    failures : dict of index to {"error": str, "attempts": int}
    runs : dict of index to {"seconds": float, "memory_bytes": int, "worker": str}
    """

    identity: Identity
    versions: list[dict[str, str]]
    cubes: dict[int, dict[str, Any]] = field(default_factory=dict)
    failures: dict[int, dict[str, Any]] = field(default_factory=dict)
    runs: dict[int, dict[str, Any]] = field(default_factory=dict)

    @classmethod
    def read(cls, path: Path) -> Manifest:
        """Read ``manifest.json``.

        Raises
        ------
        ProductError
            When it is damaged, or written by another version of this program.
        """
        try:
            content = json.loads(path.read_text())
            if content["format"] != FORMAT:
                raise ProductError(f"{path} has format {content['format']}, this program writes {FORMAT}: start anew")
            identity = Identity(**{name: content[name] for name in Identity.__dataclass_fields__})
            states = {name: {int(key): value for key, value in content[name].items()} for name in STATES}
            return cls(identity=identity, versions=content["versions"], **states)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ProductError(f"{path} is damaged ({error}); remove it, or start anew with --overwrite") from error

    def write(self, path: Path) -> None:
        """Write ``manifest.json`` in one step: a reader sees the old one or the new one."""
        states = {
            name: {folder_name(index): value for index, value in sorted(getattr(self, name).items())}
            for name in STATES
        }
        content = {"format": FORMAT, **asdict(self.identity), "versions": self.versions, **states}
        replace_text(path, json.dumps(content, indent=1) + "\n")

    def check(self, identity: Identity, out: Path) -> None:
        """See that a folder can take more cubes of this identity.

        Raises
        ------
        ProductError
            Naming what differs.
        """
        for name in Identity.__dataclass_fields__:
            mine, wanted = getattr(self.identity, name), getattr(identity, name)
            if mine != wanted:
                what = "another recipe of that preset" if name == "recipe" else f"{name} {_show(mine)}"
                wish = "" if name == "recipe" else f", not {_show(wanted)}"
                raise ProductError(f"{out} holds cubes of {what}{wish}: choose another folder, or --overwrite it")

    def look(self, out: Path) -> None:
        """Bring the list of cubes in line with the folder.

        Cubes whose folder is gone are to be made again; those that a killed run had no time to note are taken up.

        Raises
        ------
        ProductError
            When files of a cube were changed or taken away.
        """
        for index, cube in list(self.cubes.items()):
            folder = out / folder_name(index)
            if not folder.exists():
                del self.cubes[index]
                self.runs.pop(index, None)
                continue
            for name, state in cube["files"].items():
                if _size(folder / name) != state["bytes"]:
                    raise ProductError(f"{folder / name} is not as it was written: remove {folder} to make it anew")
        for folder in out.iterdir():
            if NUMBERED.fullmatch(folder.name) and int(folder.name) not in self.cubes and self._complete(folder):
                self.cubes[int(folder.name)] = describe(folder, self.identity.files())

    def _complete(self, folder: Path) -> bool:
        """Whether a folder is a cube of this dataset; folders get their name when they are complete."""
        if not all((folder / name).is_file() for name in self.identity.files()):
            return False
        origin = Table.read(folder / TRUTH, format="ascii.ecsv").meta
        return all(origin.get(key) == value for key, value in self.identity.origin(int(folder.name)).items())


STATES = ("cubes", "failures", "runs")


def describe(folder: Path, names: Sequence[str]) -> dict[str, Any]:
    """What the manifest says of a cube's folder: the number of sources, and size and hash of its files."""
    files = {}
    for path in (folder / name for name in names):
        with path.open("rb") as stream:
            digest = hashlib.file_digest(stream, "sha256") if hasattr(hashlib, "file_digest") else _digest(stream)
        files[path.name] = {"bytes": path.stat().st_size, "sha256": digest.hexdigest()}
    rows = [line for line in (folder / TRUTH).read_text().splitlines() if not line.startswith("#")]
    return {"sources": len(rows) - 1, "files": files}


def _digest(stream: Any) -> Any:
    digest = hashlib.sha256()
    while block := stream.read(2**20):
        digest.update(block)
    return digest


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return -1


def _show(value: Any) -> str:
    return ", ".join(value) if isinstance(value, list) else str(value)


def versions(backend: str) -> dict[str, str]:
    """Versions of this program and of what its pixels depend on."""
    found = {"python": platform.python_version(), "casa_deepfocus": casa_deepfocus.__version__}
    for package in PACKAGES[backend]:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


def replace_text(path: Path, text: str) -> None:
    """Write a file in one step, through a hidden one beside it."""
    hidden = path.with_name(f".{path.name}.part")
    with hidden.open("w") as stream:
        stream.write(text)
        stream.flush()
        os.fsync(stream.fileno())
    hidden.replace(path)


@contextmanager
def locked(out: Path) -> Iterator[None]:
    """Hold a folder for one run; the lock falls with the process, however that ends.

    Raises
    ------
    ProductError
        When another run writes there.
    """
    with (out / LOCK).open("w") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ProductError(f"another run is writing to {out}: wait for it, or choose another folder") from error
        yield


def remove_parts(out: Path) -> None:
    """Remove the half-written cubes of workers that were killed."""
    for hidden in out.iterdir():
        if PART.fullmatch(hidden.name):
            shutil.rmtree(hidden, ignore_errors=True)


def open_folder(out: Path, identity: Identity, indices: Sequence[int], overwrite: bool) -> Manifest:
    """The manifest of a folder, new or of an earlier run that goes on; call it with the lock held.

    Raises
    ------
    ProductError
        When the folder holds something else, and `overwrite` is False.
    """
    path = out / MANIFEST
    remove_parts(out)
    ours = [folder_name(index) for index in indices]
    now = versions(identity.backend)
    if path.exists() and not overwrite:
        manifest = Manifest.read(path)
        manifest.check(identity, out)
        manifest.look(out)
        if now not in manifest.versions:
            manifest.versions.append(now)
    else:
        if path.exists() and overwrite:
            ours += _cubes_of(path)
        standing = [name for name in dict.fromkeys((*ours, TRUTH, MANIFEST)) if (out / name).exists()]
        if standing and not overwrite:
            raise ProductError(
                f"{out} holds {standing[0]} and no {MANIFEST}: choose another folder, or --overwrite it"
            )
        for name in standing:
            _remove(out / name)
        manifest = Manifest(identity, [now])
    # What is in the way of a cube to be made, and is not one that can be kept.
    for index in indices:
        folder = out / folder_name(index)
        if index not in manifest.cubes and folder.exists():
            raise ProductError(f"{folder} is not complete, and not one that this program left: move it away")
    manifest.write(path)
    return manifest


def _cubes_of(path: Path) -> list[str]:
    """Folders that a manifest lists; none where it cannot be read."""
    try:
        return [folder_name(index) for index in Manifest.read(path).cubes]
    except ProductError:
        return []


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink()
