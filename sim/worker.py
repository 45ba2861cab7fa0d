"""One cube of a dataset: simulated, written whole and on the disk, or not at all.

A worker needs only a `Job` and an index. The cube is written into a hidden folder and renamed when
it is complete and on the disk; what goes wrong is told in the `Outcome`.
"""

from __future__ import annotations

import errno
import os
import resource
import shutil
import socket
import sys
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from astropy.table import Table
from threadpoolctl import threadpool_limits

from casa_deepfocus.core.cube import Cube
from casa_deepfocus.errors import DeepFocusError, MissingDependencyError, ProductError
from sim import presets
from sim.fits import write_cube
from sim.manifest import TRUTH, Identity, describe, folder_name

Simulate = Callable[[str, int, int, Path], tuple[Cube, Table]]
"""(preset, seed, index, scratch folder) -> cube and truth."""

ATTEMPTS = 3
"""How often a cube is tried when something fails that is not known to fail again."""

FULL = (errno.ENOSPC, errno.EDQUOT)
PROBE = 2**20
"""Bytes that a disk with room can take."""


def _fast(preset: str, seed: int, index: int, scratch: Path, *, device: str | None) -> tuple[Cube, Table]:
    from sim.cube import simulate

    return simulate(preset, seed, index, device=device)


def _casa(preset: str, seed: int, index: int, scratch: Path) -> tuple[Cube, Table]:
    from sim.casa_cube import simulate_casa

    return simulate_casa(preset, seed, index, scratch=scratch)


BACKENDS: dict[str, Callable[[str | None], Simulate]] = {
    "fast": lambda device: partial(_fast, device=device),
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
    fatal : bool, whether all other cubes would fail likewise
    """

    index: int
    cube: dict[str, Any] = field(default_factory=dict)
    run: dict[str, Any] = field(default_factory=dict)
    error: str = ""
    attempts: int = 1
    full: bool = False
    fatal: bool = False


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
            return Outcome(index, {}, _usage(start), line(failure), attempt, fatal=_is_everyones(failure))
        except OSError as failure:
            error = line(failure)
            if is_full(failure):
                return Outcome(index, {}, _usage(start), error, attempt, full=True)
        except (Exception, SystemExit) as failure:  # A cube that fails must not take the others along.
            error = f"{type(failure).__name__}: {line(failure)}"
    return Outcome(index, {}, _usage(start), error, attempt)


def _write(job: Job, index: int) -> dict[str, Any]:
    if presets.recipe(job.preset) != job.identity.recipe:
        raise ProductError(f"preset {job.preset} is not the one that the run was started with: was it changed?")
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
        state = describe(made, job.identity.files())
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


def _is_everyones(error: DeepFocusError) -> bool:
    """Whether a package or a device is missing, which no other cube can do without."""
    return isinstance(error, MissingDependencyError) or getattr(error, "parameter", "") == "device"


def is_full(error: BaseException | None) -> bool:
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


def line(error: BaseException) -> str:
    """An error's message on one line."""
    return " ".join(str(error).split()) or type(error).__name__
