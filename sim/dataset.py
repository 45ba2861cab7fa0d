"""Datasets: many fields of a preset as FITS, in one folder that a killed run leaves fit to go on.

Cube i depends on (preset, seed, i) alone, so any number of workers makes the same bytes. Every cube
is written into a hidden folder and renamed when it is complete and on the disk.
"""

from __future__ import annotations

import errno
import io
import os
import resource
import shutil
import socket
import sys
import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from astropy.table import Table, vstack
from threadpoolctl import threadpool_limits

from casa_deepfocus.core.cube import Cube
from casa_deepfocus.errors import DeepFocusError, ParameterError, ProductError
from sim import presets
from sim.cluster import DEATHS, Results, mapper
from sim.coverage import Grid
from sim.fits import PRODUCTS, file_bytes, write_cube
from sim.manifest import MANIFEST, TRUTH, Identity, Manifest, describe, folder_name, locked, open_folder, replace_text

Simulate = Callable[[str, int, int, Path], tuple[Cube, Table]]
"""(preset, seed, index, scratch folder) -> cube and truth."""

ATTEMPTS = 3
"""How often a cube is tried when something fails that is not known to fail again."""

SAVE_EVERY = 5.0
"""Seconds between two writings of the manifest."""

FULL = (errno.ENOSPC, errno.EDQUOT)
PROBE = 2**20
"""Bytes that a disk with room can take."""

SAMPLE = 4
"""How many cubes an estimate of the disk space looks at."""

GEOMETRY = ("beam_maj", "beam_min", "beam_pa", "cell", "nchan", "nx", "ny", "chan_width_kms")
"""Meta of a field's truth table that become columns of the table of all fields."""


def _fast(preset: str, seed: int, index: int, scratch: Path, **where: str) -> tuple[Cube, Table]:
    from sim.cube import simulate

    return simulate(preset, seed, index, **where)


def _casa(preset: str, seed: int, index: int, scratch: Path) -> tuple[Cube, Table]:
    from sim.casa_cube import simulate_casa

    return simulate_casa(preset, seed, index, scratch=scratch)


BACKENDS: dict[str, Callable[[str | None], Simulate]] = {
    "fast": lambda device: partial(_fast, **({} if device is None else {"device": device})),
    "casa": lambda device: _casa,
}
"""What makes the cubes, from the device asked for."""


@dataclass(frozen=True)
class Job:
    """What a worker must know to make any cube of a dataset.

    Attributes
    ----------
    identity : Identity
    preset : str, name or path of the preset
    out : str, absolute path of the dataset
    simulate : Simulate
    """

    identity: Identity
    preset: str
    out: str
    simulate: Simulate


@dataclass(frozen=True)
class Outcome:
    """What became of one cube.

    Attributes
    ----------
    index : int
    cube : dict, for the manifest; empty when it failed
    run : dict, seconds, peak memory [byte] and name of the worker
    error : str, '' when it went well
    attempts : int
    full : bool, whether the disk is full
    """

    index: int
    cube: dict[str, Any] = field(default_factory=dict)
    run: dict[str, Any] = field(default_factory=dict)
    error: str = ""
    attempts: int = 1
    full: bool = False


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


def make_cube(job: Job, index: int) -> Outcome:
    """Simulate and write one cube; what goes wrong is told in the outcome.

    A `DeepFocusError` would come again and ends it, a full disk too; anything else is tried again.
    """
    start = time.perf_counter()
    error, attempt = "", 0
    while attempt < ATTEMPTS:
        attempt += 1
        try:
            with threadpool_limits(limits=1):
                _one_torch_thread()
                cube = _write(job, index)
            return Outcome(index, cube, _usage(start), attempts=attempt)
        except DeepFocusError as failure:
            return Outcome(index, {}, _usage(start), _line(failure), attempt)
        except OSError as failure:
            error = _line(failure)
            if _is_full(failure):
                return Outcome(index, {}, _usage(start), error, attempt, full=True)
        except Exception as failure:  # A cube that fails must not take the others along.
            error = f"{type(failure).__name__}: {_line(failure)}"
    return Outcome(index, {}, _usage(start), error, attempt)


def _write(job: Job, index: int) -> dict[str, Any]:
    out, name = Path(job.out), folder_name(index)
    part = out / f".{name}.part-{uuid.uuid4().hex}"
    try:
        part.mkdir()
        scratch = part / "scratch"
        scratch.mkdir()
        cube, truth = job.simulate(job.preset, job.identity.seed, index, scratch)
        truth.meta |= job.identity.origin(index)
        made = part / "cube"
        write_cube(cube, made, job.identity.products)
        truth.write(made / TRUTH, format="ascii.ecsv")
        for path in [*made.iterdir(), made]:
            _sync(path)
        state = describe(made)
        try:
            made.rename(out / name)
        except OSError as error:
            # A worker that was taken for dead has finished it meanwhile; the bytes are the same.
            if error.errno not in (errno.EEXIST, errno.ENOTEMPTY):
                raise
        _sync(out)
        return state
    except OSError as error:
        if error.errno is None:
            # A write that ended early, which numpy reports without saying why: a full disk says so here.
            with (part / "probe").open("wb") as stream:
                os.posix_fallocate(stream.fileno(), 0, PROBE)
        raise
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _is_full(error: BaseException | None) -> bool:
    """Whether a full disk or quota is behind an error; astropy wraps it in one of its own."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in FULL:
            return True
        error = error.__cause__ or error.__context__
    return False


def _sync(path: Path) -> None:
    """Wait until a file or a folder is on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _one_torch_thread() -> None:
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(1)


def _usage(start: float) -> dict[str, Any]:
    # Linux counts in kB.
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    seconds = round(time.perf_counter() - start, 3)
    return {"seconds": seconds, "memory_bytes": memory, "worker": f"{socket.gethostname()}:{os.getpid()}"}


def _line(error: BaseException) -> str:
    """An error's message on one line."""
    return " ".join(str(error).split()) or type(error).__name__


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
    cluster : str, a YAML file or the address of a scheduler (`sim.cluster`)
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
    """
    products = _check(n, seed, first, workers, backend, device, products)
    name, recipe = _recipe(preset)
    identity = Identity(name, recipe, seed, backend, device or "cpu", products)
    out = Path(out).resolve()
    indices = range(first, first + n)
    if Path(preset).is_file():
        preset = str(Path(preset).resolve())
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
                with mapper(workers, cluster, memory_limit) as completed:
                    outcomes = completed(partial(make_cube, job), missing)
                    failed = _collect(outcomes, manifest, out, len(missing), progress)
            sources = _write_truth(manifest, out)
    except DeepFocusError:
        raise
    except FileExistsError as error:
        raise ProductError(f"{out} is a file: choose another folder") from error
    except OSError as error:
        if _is_full(error):
            left = [index for index in missing if not (out / folder_name(index)).is_dir()]
            raise _no_room(out, preset, seed, left or [first], products) from error
        raise ProductError(f"{out} cannot be written ({_line(error)})") from error
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
                text = f"its worker died {DEATHS + 1} times, as one does above its memory limit ({_line(outcome)})"
                outcome = Outcome(index, error=text, attempts=DEATHS + 1)
            if not outcome.error and not (out / folder_name(outcome.index)).is_dir():
                worker = outcome.run.get("worker", "")
                outcome = Outcome(outcome.index, error=f"{worker} wrote it where this machine cannot see it: "
                                  f"{out} must be on a file system that all workers share")  # fmt: skip
            _note(manifest, outcome)
            if outcome.full:
                raise OSError(errno.ENOSPC, outcome.error)
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
        if not _is_full(error):
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
