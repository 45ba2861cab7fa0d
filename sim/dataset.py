"""Datasets: many fields of a preset as FITS, in one folder that a killed run leaves fit to go on.

Cube i depends on (preset, seed, i) alone, so any number of workers makes the same bytes. Every cube
is written into a hidden folder and renamed when it is complete and on the disk.
"""

from __future__ import annotations

import errno
import io
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from astropy.table import Table, vstack

from casa_deepfocus.cluster import DEATHS, Results, mapper
from casa_deepfocus.errors import DeepFocusError, ParameterError, ProductError
from sim import presets
from sim.coverage import Grid
from sim.fits import PRODUCTS, file_bytes
from sim.manifest import (
    MANIFEST,
    TRUTH,
    Identity,
    Manifest,
    folder_name,
    locked,
    open_folder,
    remove_parts,
    replace_text,
)
from sim.worker import BACKENDS, Job, Outcome, is_full, line, make_cube

SAVE_EVERY = 5.0
"""Seconds between two writings of the manifest."""

SAMPLE = 4
"""How many cubes an estimate of the disk space looks at."""

GEOMETRY = ("beam_maj", "beam_min", "beam_pa", "cell", "nchan", "nx", "ny", "chan_width_kms")
"""Meta of a field's truth table that become columns of the table of all fields."""


@dataclass(frozen=True)
class Report:
    """What a run did.

    Attributes
    ----------
    made, kept : int, cubes made, and cubes that stood already
    failed : dict of index to message
    sources : int, in all cubes of the folder
    """

    made: int
    kept: int
    failed: dict[int, str]
    sources: int


def generate(
    preset: str,
    n: int,
    seed: int,
    out: Path | str,
    *,
    backend: str = "fast",
    first: int = 0,
    workers: int = 1,
    cluster: str | None = None,
    overwrite: bool = False,
    device: str | None = None,
    products: Sequence[str] = PRODUCTS,
    memory_limit: str | None = None,
    progress: Callable[[int, int, str], None] = lambda done, total, error: None,
) -> Report:
    """Write cubes first .. first + n - 1 of a preset, as far as they do not stand already.

    Parameters
    ----------
    preset : str, name of a preset or path of a YAML file
    n, seed, first : int
    out : Path; ``<index>/{dirty,psf,pb}.fits`` and ``truth.ecsv``, ``truth.ecsv`` of all cubes, ``manifest.json``
    backend : 'fast' or 'casa'
    workers : int; with 1 and no cluster the cubes are made in this process
    cluster : str, a YAML file or the address of a scheduler (`casa_deepfocus.cluster`)
    overwrite : bool, whether to throw away what stands in `out` and start anew
    device : str, such as 'cuda'; fast backend only
    products : which of 'dirty', 'psf', 'pb' to write
    memory_limit : str, of one worker, such as '4GiB'
    progress : callable (done, total, error of the last cube or '')

    Returns
    -------
    Report; cubes that failed are listed in it and in the manifest

    Raises
    ------
    ParameterError, ProductError
        Before anything is written.
    ProductError
        When the disk is full; the same call goes on when there is room again.
    DeepFocusError
        When a worker lacks a package or the device.
    """
    products = _check(n, seed, first, workers, backend, device, products)
    name, recipe = _recipe(preset)
    # Noise drawn by torch is not numpy's.
    where = "numpy" if device is None else device.split(":")[0]
    identity = Identity(name, recipe, seed, backend, where, products)
    out = Path(out).resolve()
    indices = range(first, first + n)
    if Path(preset).is_file():
        preset = str(Path(preset).resolve())
    # A recipe that cannot be observed is refused before anything is written.
    _grid(preset, seed, first)
    failed: dict[int, str] = {}
    missing: list[int] = []
    try:
        out.mkdir(parents=True, exist_ok=True)
        with locked(out):
            manifest = open_folder(out, identity, indices, overwrite)
            missing = [index for index in indices if index not in manifest.cubes]
            if missing:
                _check_room(out, preset, seed, missing, products)
                job = Job(identity, preset, str(out), BACKENDS[backend](device))
                try:
                    with mapper(workers, cluster, memory_limit, ("sim", "casa_deepfocus")) as completed:
                        outcomes = completed(partial(make_cube, job), missing)
                        failed = _collect(outcomes, manifest, out, len(missing), progress)
                finally:
                    # A worker that was killed leaves its half-written cube behind.
                    remove_parts(out)
            sources = _write_truth(manifest, out)
    except DeepFocusError:
        raise
    except FileExistsError as error:
        raise ProductError(f"{out} is a file: choose another folder") from error
    except OSError as error:
        if is_full(error):
            left = [index for index in missing if not (out / folder_name(index)).is_dir()]
            raise _no_room(out, preset, seed, left or [first], products) from error
        raise ProductError(f"{out} cannot be written ({line(error)})") from error
    return Report(len(missing) - len(failed), n - len(missing), failed, sources)


def _check(
    n: int, seed: int, first: int, workers: int, backend: str, device: str | None, products: Sequence[str]
) -> list[str]:
    for name, value, least in (("n", n, 1), ("seed", seed, 0), ("first", first, 0), ("workers", workers, 1)):
        if value < least:
            raise ParameterError(name, value, "too small", f"give {least} or more")
    if backend not in BACKENDS:
        raise ParameterError("backend", backend, "no such backend", f"choose one of {', '.join(BACKENDS)}")
    if device is not None and backend != "fast":
        raise ParameterError("device", device, f"the {backend} backend runs on the CPU", "leave it out")
    unknown = [name for name in products if name not in PRODUCTS]
    if unknown or not products:
        raise ParameterError("products", ",".join(products), "not understood", f"choose from {','.join(PRODUCTS)}")
    return [name for name in PRODUCTS if name in products]


def _recipe(preset: str) -> tuple[str, dict[str, Any]]:
    """Name of a preset, and the preset as plain JSON."""
    return presets.label(preset), presets.recipe(preset)


def _grid(preset: str, seed: int, index: int) -> Grid:
    return presets.geometry(preset, seed, index)[1]


def _collect(
    outcomes: Results, manifest: Manifest, out: Path, total: int, progress: Callable[[int, int, str], None]
) -> dict[int, str]:
    """Note outcomes as they come; returns the messages of the failed ones."""
    failed: dict[int, str] = {}
    saved = time.monotonic()
    try:
        for done, (index, outcome) in enumerate(outcomes, 1):
            if isinstance(outcome, BaseException):
                text = f"its worker died {DEATHS + 1} times, as one does above its memory limit"
                text = text if type(outcome).__name__ == "KilledWorker" else line(outcome)
                outcome = Outcome(index, error=text, attempts=DEATHS + 1)
            if not outcome.error and not (out / folder_name(outcome.index)).is_dir():
                worker = outcome.run.get("worker", "")
                outcome = Outcome(outcome.index, error=f"{worker} wrote it where this machine cannot see it: "
                                  f"{out} must be on a file system that all workers share")  # fmt: skip
            _note(manifest, outcome)
            if outcome.full:
                raise OSError(errno.ENOSPC, outcome.error)
            if outcome.fatal:
                raise DeepFocusError(outcome.error)
            if outcome.error:
                failed[outcome.index] = outcome.error
            progress(done, total, outcome.error)
            if time.monotonic() - saved > SAVE_EVERY:
                manifest.write(out / MANIFEST)
                saved = time.monotonic()
    finally:
        outcomes.close()
        _save(manifest, out)
    return failed


def _note(manifest: Manifest, outcome: Outcome) -> None:
    manifest.runs[outcome.index] = outcome.run
    if outcome.error:
        manifest.failures[outcome.index] = {"error": outcome.error, "attempts": outcome.attempts}
    else:
        manifest.cubes[outcome.index] = outcome.cube
        manifest.failures.pop(outcome.index, None)


def _save(manifest: Manifest, out: Path) -> None:
    """Write the manifest; on a full disk the one of a moment ago stays, and the next run looks for itself."""
    try:
        manifest.write(out / MANIFEST)
    except OSError as error:
        if not is_full(error):
            raise


def cube_bytes(preset: str, seed: int, index: int, products: Sequence[str]) -> int:
    """About the size [byte] of one cube's folder."""
    grid = _grid(preset, seed, index)
    shapes = {name: (grid.nchan, grid.npix, grid.npix) for name in PRODUCTS}
    shapes["psf"] = (grid.nchan, 2 * grid.npix, 2 * grid.npix)
    return sum(file_bytes(shapes[name]) for name in products) + 2**15


def _bytes_of(preset: str, seed: int, indices: Sequence[int], products: Sequence[str]) -> int:
    """About the size [byte] of some cubes, judged by `SAMPLE` of them."""
    some = indices[:: max(1, -(-len(indices) // SAMPLE))]
    return int(np.mean([cube_bytes(preset, seed, index, products) for index in some]) * len(indices))


def _check_room(out: Path, preset: str, seed: int, missing: Sequence[int], products: Sequence[str]) -> None:
    needed, free = _bytes_of(preset, seed, missing, products), shutil.disk_usage(out).free
    if needed > free:
        raise ProductError(
            f"{out} has {free / 1e9:.3f} GB free, and {len(missing)} cubes need about {needed} bytes "
            f"({needed / 1e9:.3f} GB): make room, or ask for fewer cubes or products"
        )


def _no_room(out: Path, preset: str, seed: int, left: Sequence[int], products: Sequence[str]) -> ProductError:
    needed = _bytes_of(preset, seed, left, products)
    return ProductError(
        f"the disk of {out} is full: {len(left)} cubes are missing and need about {needed} bytes "
        f"({needed / 1e9:.3f} GB); make room and give the same command again, it goes on where it stopped"
    )


def _write_truth(manifest: Manifest, out: Path) -> int:
    """``truth.ecsv`` of all cubes, a column `field` telling them apart; returns the number of sources."""
    tables, empty = [], 0
    for index in sorted(manifest.cubes):
        table = Table.read(out / folder_name(index) / TRUTH, format="ascii.ecsv")
        if len(table) == 0:
            empty += 1
            continue
        table["field"] = np.full(len(table), index)
        # Geometry differs between the fields of a preset, so it goes into columns.
        for name in GEOMETRY:
            if name in table.meta:
                table[name] = np.full(len(table), table.meta[name])
        tables.append(table)
    table = vstack(tables, metadata_conflicts="silent") if tables else Table(names=["name", "field"], dtype=[str, int])
    identity = manifest.identity
    table.meta = {
        "preset": identity.preset, "seed": identity.seed, "backend": identity.backend,
        "fields": len(manifest.cubes), "empty_fields": empty,
    }  # fmt: skip
    text = io.StringIO()
    table.write(text, format="ascii.ecsv")
    replace_text(out / TRUTH, text.getvalue())
    return len(table)
