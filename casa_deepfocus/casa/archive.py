"""Several targets and windows in one call: every cube by itself, then what they say together of each target.

Cubes are tasks: they are made one after the other in this process, or in worker processes, in any order, and one that
fails stops no other. When all cubes of a target are done its continuum image is made of the channels without lines,
and searched; then the sources are matched, and the target's folder appears, whole.
"""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from astropy.table import Table

from casa_deepfocus import cluster
from casa_deepfocus.casa import continuum, failures, guarded, inputs, targetfolder
from casa_deepfocus.casa.measurementset import selection
from casa_deepfocus.casa.plan import CubePlan, Programme
from casa_deepfocus.casa.runfolder import DONE, FAILED, RunFolder
from casa_deepfocus.errors import DeepFocusError, ParameterError
from casa_deepfocus.reading import memory

LogTo = Callable[..., None]

WRITES = ("casatasks", "casa_deepfocus.casa.imaging", "casa_deepfocus.casa.products")
"""What the process that writes CASA's images needs; one serves all cubes of a process."""


@dataclass(frozen=True)
class Job:
    """A cube on its way to whoever makes it.

    Attributes
    ----------
    title : str
        What the log calls it.
    parameters : dict
        Of the task.
    configuration : dict
        CASA's, of the process that the user called.
    pid : int
        That process.
    """

    title: str
    parameters: Mapping[str, Any]
    configuration: Mapping[str, Any]
    pid: int = field(default_factory=os.getpid)


@dataclass(frozen=True)
class Outcome:
    """What became of a cube.

    Attributes
    ----------
    reason : str
        Why it failed; '' where it is done.
    seconds : float
    sources : int
    facts : dict
        What the pages of the target say of it.
    """

    reason: str = ""
    seconds: float = 0.0
    sources: int = 0
    facts: Mapping[str, Any] = field(default_factory=dict)


@dataclass
class Run:
    """A run on its way.

    Attributes
    ----------
    programme : Programme
    folder : RunFolder
    log : callable of a message and a priority
    """

    programme: Programme
    folder: RunFolder
    log: LogTo
    todo: deque[int] = field(default_factory=deque)
    jobs: dict[int, Job] = field(default_factory=dict)
    open: set[int] = field(default_factory=set)

    def start(self) -> None:
        """Line up what is not done yet."""
        for index, cube in enumerate(self.programme.cubes):
            if cube.error is not None:
                self.folder.record(cube.key, FAILED, reason=cube.problem, seconds=0.0)
            elif not self.folder.is_done(cube.folder, cube.label):
                self.folder.reopen(cube.folder)
                if not cube.line_free:
                    self._line_up(index, cube.parameters)
                else:
                    self.open.add(index)
        for folder in self.programme.folders:
            self.advance(folder)

    def _line_up(self, index: int, parameters: Mapping[str, Any]) -> None:
        cube = self.programme.cubes[index]
        given = dict(parameters) | {"outfile": self.folder.stem(cube.folder, cube.label), "overwrite": True}
        self.jobs[index] = Job(f"{cube.target}, {cube.label}", given, guarded.configuration())
        self.open.add(index)
        self.todo.append(index)

    def take(self, index: int, outcome: Outcome | BaseException) -> None:
        """Write down what became of a cube, and do what had to wait for it."""
        cube = self.programme.cubes[index]
        if isinstance(outcome, BaseException):
            outcome = Outcome(f"its worker died or could not do it ({type(outcome).__name__}: {outcome})")
        self.open.discard(index)
        if outcome.reason:
            self.folder.record(cube.key, FAILED, reason=outcome.reason, seconds=outcome.seconds)
            self.log(f"{cube.target}, {cube.label}: failed: {outcome.reason}", "WARN")
        else:
            self.folder.record(cube.key, DONE, seconds=outcome.seconds, sources=outcome.sources, **outcome.facts)
            expected = f", {cube.seconds:.0f} s expected" if cube.seconds else ""
            self.log(f"{cube.target}, {cube.label}: {outcome.sources} sources, {outcome.seconds:.1f} s{expected}")
        self.advance(cube.folder)

    def advance(self, folder: str) -> None:
        """Make what a target still lacks, where what it needs is there: its continuum image, its tables and pages."""
        mine = [index for index, cube in enumerate(self.programme.cubes) if cube.folder == folder]
        waiting = [index for index in mine if index in self.open]
        if any(index in self.jobs for index in waiting):
            return
        for index in waiting:
            try:
                with failures.step("continuum", target=folder):
                    parameters = self._line_free(self.programme.cubes[index])
                self._line_up(index, parameters)
            except DeepFocusError as exc:
                self.take(index, Outcome(" ".join(str(exc).split())))
            return
        if (self.folder.work / folder).exists():
            try:
                with failures.step("tables", target=folder):
                    self._complete(folder)
            except DeepFocusError as exc:
                # Its cubes stay where they are, and the same call tries again.
                self.log(f"{self.programme.of(folder)[0].target}: no tables and pages of it: {exc}", "WARN")

    def _line_free(self, plan: CubePlan) -> Mapping[str, Any]:
        """The parameters of a target's continuum image, when its cubes are done."""
        lines: dict[tuple[str, int], tuple[str, list[tuple[float, float]]]] = {}
        done = [
            cube for cube in self.programme.of(plan.folder)
            if not cube.line_free and self.folder.is_done(cube.folder, cube.label)
        ]  # fmt: skip
        if not done:
            raise DeepFocusError("none of the target's cubes could be made")
        for cube in done:
            table = Table.read(f"{self.folder.place(cube.folder) / cube.label}.cat.ecsv")
            for name, number in cube.windows:
                frame, ranges = lines.setdefault((name, number), (str(table.meta["frame"]), []))
                ranges += continuum.line_ranges(table)
        parameters = dict(plan.parameters)
        chosen = [selection(parameters, index) for index in range(len(parameters["vis"]))]
        spw, notes = continuum.line_free(parameters["vis"], chosen, lines)
        for note in notes:
            self.log(f"{plan.target}: {note}")
        return continuum.with_windows(parameters, spw)

    def _complete(self, folder: str) -> None:
        cubes = self.programme.of(folder)
        if not any(self.folder.is_done(cube.folder, cube.label) for cube in cubes):
            self.log(f"{cubes[0].target}: nothing could be made of it", "WARN")
            return
        targetfolder.write(self.folder, cubes)
        place = self.folder.publish(folder)
        self.log(f"{cubes[0].target}: done, {place}")


def run(
    programme: Programme,
    asked: inputs.Asked,
    folder: RunFolder,
    log: LogTo,
    made: Callable[[int, int, float], None] = lambda done, number, share: None,
    imager: guarded.Imager | None = None,
) -> dict[str, dict[str, Any]]:
    """Make and search all cubes of a programme, and put the targets' folders in place.

    Parameters
    ----------
    programme : Programme
    asked : Asked
        `cluster` says who makes them.
    folder : RunFolder
    log : callable of a message and a priority
    made : callable of the cubes that are done, their number, and the share of the expected time that they took
    imager : callable, optional
        As for `imaging.make_images`. It belongs to this process: all cubes are made here then.

    Returns
    -------
    dict : key of a cube -> what became of it, as `RunFolder.state`
    """
    going = Run(programme, folder, log)
    going.start()
    if going.todo:
        mapper = makers(asked, programme) if imager is None else cluster.mapper(1, None)
        with guarded.session(WRITES, [folder.lock.fd]), mapper as mapped:
            _tell(going, made)
            for index, outcome in mapped(partial(make, going.jobs, imager=imager), going.todo):
                going.take(index, outcome)
                _tell(going, made)
    return folder.state


def _tell(going: Run, made: Callable[[int, int, float], None]) -> None:
    """Say how far a run is."""
    cubes = going.programme.cubes
    weights = [max(cube.seconds, 1.0) for cube in cubes]
    left = sum(weights[index] for index in going.open)
    made(len(cubes) - len(going.open), len(cubes), 1.0 - left / sum(weights))


def makers(asked: inputs.Asked, programme: Programme) -> Any:
    """Who makes the cubes: a `cluster.mapper`."""
    number, where = workers(asked, programme)
    return cluster.mapper(number, where)


def workers(asked: inputs.Asked, programme: Programme) -> tuple[int, str | None]:
    """Processes of this machine, or a cluster, as `cluster.mapper` takes them.

    Raises
    ------
    ParameterError
        Where `cluster` is neither a number nor a cluster.
    """
    value = asked.values["cluster"]
    text = str(value if value is not None else "").strip()
    if guarded.alone():
        return 1, None
    if text.lstrip("+-").isdigit():
        if int(text) < 1:
            raise ParameterError("cluster", value, "must be at least 1", "1 makes all cubes in this process")
        return int(text), None
    if text:
        cluster.read_cluster(text)
        return 1, text
    made = [cube for cube in programme.cubes if cube.error is None and not cube.line_free]
    largest = max((cube.memory for cube in programme.cubes), default=0.0)
    room = int(memory.available_memory() // largest) if largest else 1
    return max(1, min(len(os.sched_getaffinity(0)), len(made), room)), None


def make(jobs: Mapping[int, Job], index: int, imager: guarded.Imager | None = None) -> Outcome:
    """Make a cube and search it, in whatever process this is."""
    job = jobs[index]
    start = time.perf_counter()
    if job.pid != os.getpid():
        guarded.configure(job.configuration)
        guarded.keep_session(WRITES)
    from casa_deepfocus.casa import task_sdeepfocus

    try:
        with task_sdeepfocus.titled(job.title), failures.step("make", image=job.title):
            back = task_sdeepfocus.search(dict(job.parameters), imager=imager)
    except DeepFocusError as exc:
        return Outcome(" ".join(str(exc).split()), time.perf_counter() - start)
    return Outcome("", time.perf_counter() - start, len(back["sources"]), back["facts"])
