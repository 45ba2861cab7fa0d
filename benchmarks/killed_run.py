"""One run of the task in a process that was forked with CASA loaded, and that is stopped from within or without."""

from __future__ import annotations

import os
import shutil
import signal
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from casa_deepfocus.errors import DeepFocusError

PIXELS, CHANNELS, CELL = 48, 6, 0.1
"""The image: pixels of a side, channels, arcsec of a pixel."""

HANG = 300.0
"""A run that takes longer hangs [s]."""

DONE, REFUSED, INTERRUPTED, RAW = 0, 3, 4, 5
"""Exit statuses of a run."""


@dataclass
class Trial:
    """One run that is to be stopped.

    Attributes
    ----------
    number : int
    vis : bool
        Whether it images a measurement set.
    older : bool
        Whether older products stand there, which it replaces.
    signum : int, 0 for none
    after : float [s], moment of the signal; NaN where a step decides
    step : int
        Of the final move, two to a rename; -1 where a moment decides.
    twice : int
        Steps after the signal at which SIGKILL follows; 0 for never.
    disk : int [byte], size of its own small disk; 0 for none
    room : int [byte], what is left on the disk when the run writes; -1 where it does not fill
    """

    number: int
    vis: bool
    older: bool
    signum: int = 0
    after: float = float("nan")
    step: int = -1
    twice: int = 0
    disk: int = 0
    room: int = -1


def prepare(shared: Path) -> dict[bool, float]:
    """Load CASA, write the inputs and older products for all trials; returns a run's time [s], by vis."""
    from sim import casa_backend
    from sim.coverage import Coverage, Grid
    from sim.cube import simulate_cube
    from sim.fits import write_cube
    from sim.sky import Source

    os.environ.setdefault("MPLBACKEND", "agg")
    # A pool of OpenMP's threads does not survive a fork: a run reads its measurement set, then forks its writer.
    os.environ["OMP_NUM_THREADS"] = "1"
    casa_backend.prepare_casa()
    from casa_deepfocus.casa import task_sdeepfocus

    assert task_sdeepfocus  # noqa: S101  (loaded before the forks)
    grid = Grid(npix=PIXELS, cell=CELL, nchan=CHANNELS)
    source = Source(24.0, 24.0, 3.0, 2.0, 40.0, continuum=0.05, line=0.1, chan=3.0, line_fwhm=2.0)
    coverage = Coverage(duration=600.0, integration=120.0)
    write_cube(simulate_cube([source], coverage, grid, 1e-3, np.random.default_rng(1)), shared / "inputs")
    observation = casa_backend.Observation(npix=64, nchan=CHANNELS, duration=300.0, pwv=0.0)
    pid = os.fork()
    if not pid:
        # In a process of its own: CASA's threads do not survive a fork.
        os.chdir(shared)
        casa_backend.observe([source], observation, shared / "inputs" / "in.ms")
        os._exit(0)
    os.waitpid(pid, 0)
    seconds = {}
    for vis in (True, False):
        folder = shared / "reference"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        for overwrite in (False, True):
            start = time.monotonic()
            how = wait(fork_run(Trial(0, vis, False), folder, shared / "inputs", overwrite=overwrite))
            seconds[vis] = time.monotonic() - start
            if how != "done":
                raise DeepFocusError(f"a run that nobody stops ends so: {how}")
    return seconds


def fork_run(trial: Trial, folder: Path, inputs: Path, *, overwrite: bool) -> int:
    """Start a run with products <folder>/out...; returns its process."""
    pid = os.fork()
    if pid:
        return pid
    status = RAW
    try:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        os.setsid()
        log = os.open(_log(os.getpid()), os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
        for stream in (1, 2):
            os.dup2(log, stream)
        sys.stdout, sys.stderr = (open(stream, "w", buffering=1, closefd=False) for stream in (1, 2))
        status = _run(trial, folder, inputs, overwrite=overwrite)
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(status)


def wait(pid: int) -> str:
    """Wait for a run: done, refused with why, interrupted, the signal that ended it, raw with why, or hang."""
    deadline = time.monotonic() + HANG
    ended = status = 0
    while not ended:
        ended, status = os.waitpid(pid, os.WNOHANG)
        if time.monotonic() > deadline:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            return "hang"
        time.sleep(0.002)
    text = _log(pid).read_text(errors="replace") if _log(pid).exists() else ""
    _log(pid).unlink(missing_ok=True)
    code = os.waitstatus_to_exitcode(status)
    if code < 0:
        return signal.Signals(-code).name
    if code == RAW:
        return f"raw: {' '.join(text.split())[-800:]}"
    if code == REFUSED:
        return "refused, too small" if " need " in text else f"refused, {'full' if 'is full' in text else text}"
    return {DONE: "done", INTERRUPTED: "SIGINT"}[code]


def _log(pid: int) -> Path:
    import tempfile

    return Path(tempfile.gettempdir()) / f"kills-run-{pid}.txt"


def _run(trial: Trial, folder: Path, inputs: Path, *, overwrite: bool) -> int:
    from casa_deepfocus import pipeline
    from casa_deepfocus.casa import guarded, space, staging, task_sdeepfocus
    from casa_deepfocus.models import runner

    os.chdir(folder.parent)
    runner.load_networks = lambda *_: SimpleNamespace(info={"preset": "none", "device": "cpu", "threads": 1})
    pipeline.run = _search
    guarded.Worker = _forked_worker()
    if trial.step >= 0:
        staging.Workspace.publish = _stopped(staging.Workspace.publish, trial)  # type: ignore[method-assign]
    if trial.room >= 0:
        space.require = _filled(space.require, folder / "filler", trial.room)
    given: dict[str, Any] = {"imagename": str(inputs / "dirty.fits")}
    if trial.vis:
        given = {"vis": str(inputs / "in.ms"), "datacolumn": "data", "imsize": PIXELS, "cell": f"{CELL}arcsec"}
    try:
        task_sdeepfocus.sdeepfocus(**given, outfile=str(folder / "out"), overwrite=overwrite)
    except DeepFocusError as exc:
        print(exc)
        return REFUSED
    except KeyboardInterrupt:
        return INTERRUPTED
    return DONE


def _stopped(publish: Callable[..., Any], trial: Trial) -> Callable[..., Any]:
    """The final move, in which renames count the steps up to the signal."""
    real, calls = os.rename, 0

    def rename(source: Any, target: Any) -> None:
        nonlocal calls
        for moment in range(2):
            if moment:
                real(source, target)
            if calls == trial.step:
                os.kill(os.getpid(), trial.signum)
            if trial.twice and calls == trial.step + trial.twice:
                os.kill(os.getpid(), signal.SIGKILL)
            calls += 1

    def stopped(*args: Any, **kwargs: Any) -> Any:
        os.rename = rename  # type: ignore[assignment]
        try:
            return publish(*args, **kwargs)
        finally:
            os.rename = real

    return stopped


def _filled(require: Callable[..., None], filler: Path, room: int) -> Callable[..., None]:
    """The reckoning of the room that is there, after which somebody else takes most of it."""

    def filled(folder: str, needed: float, what: str) -> None:
        require(folder, needed, what)
        if not filler.exists():
            rest = shutil.disk_usage(folder).free - room
            filler.write_bytes(bytes(max(rest, 0)))

    return filled


def _search(cube: Any, networks: Any, options: Any, *, log: Any, progress: Any) -> Any:
    """A result with one source, at once."""
    from astropy.table import Table

    from casa_deepfocus.core.catalogue import COLUMNS
    from casa_deepfocus.pipeline.state import Result, SourceDetail

    nchan, (ny, nx) = cube.nchan, cube.shape
    empty: dict[str, Any] = {"str": "", "int": 0, "float": float("nan")}
    ra, dec = (float(value) for value in cube.wcs.wcs_pix2world([[nx // 2, ny // 2]], 0)[0])
    row = {name: empty[kind] for name, kind, *_ in COLUMNS} | {
        "name": "S1", "ra": ra, "dec": dec, "x": nx / 2, "y": ny / 2, "fwhm_maj": 0.3, "fwhm_min": 0.2, "pa": 40.0,
        "continuum": 0.05, "line_flux": 0.0, "snr": 50.0, "reliability": 1.0, "chan0": -1, "chan1": -1,
    }  # fmt: skip
    mask = np.zeros(cube.data.shape, bool)
    mask[:, ny // 2, nx // 2] = True
    spectrum = np.ones(nchan, np.float32)
    detail = SourceDetail(
        name="S1", focused=cube.data[0, :16, :16], focused_origin=(0, 0), spectrum=spectrum, clean=spectrum,
        model=spectrum, chan0=0, chan1=nchan - 1,
    )  # fmt: skip
    return Result(
        catalogue=Table(rows=[row], names=[name for name, *_ in COLUMNS], meta={"radesys": "ICRS", "frame": "LSRK"}),
        probability=np.zeros((ny, nx), np.float32), mask=mask, integrated=np.nan_to_num(cube.data[0]),
        noise=np.ones(nchan), details=[detail], timings={}, counts={"sources": 1},
    )  # fmt: skip


class _Forked:
    """A forked process with what `guarded.Worker` needs of a subprocess.Popen."""

    def __init__(self, theirs: Connection, ours: Connection) -> None:
        from casa_deepfocus.casa import guarded

        read, write = os.pipe()
        self.pid = os.fork()
        if not self.pid:
            try:
                for signum in SIGNALS_OF_A_RUN:
                    signal.signal(signum, signal.SIG_DFL)
                os.setsid()
                os.dup2(write, 2)
                os.close(read)
                os.close(write)
                ours.close()
                theirs.recv()
                guarded.serve(theirs)
            finally:
                os._exit(0)
        os.close(write)
        self.stderr = open(read, errors="replace")
        self.returncode: int | None = None

    def poll(self) -> int | None:
        """As Popen.poll."""
        if self.returncode is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self.returncode = os.waitstatus_to_exitcode(status)
        return self.returncode

    def kill(self) -> None:
        """As Popen.kill."""
        if self.returncode is None:
            os.kill(self.pid, signal.SIGKILL)

    def wait(self) -> int:
        """As Popen.wait."""
        if self.returncode is None:
            self.returncode = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        return self.returncode


SIGNALS_OF_A_RUN = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def _forked_worker() -> Any:
    from casa_deepfocus.casa import guarded

    class ForkedWorker(guarded.Worker):
        """CASA's writer as a fork of the run: it has loaded CASA already."""

        def start(self, theirs: Connection, keep: Sequence[int]) -> Any:
            return _Forked(theirs, self.connection)

    return ForkedWorker
