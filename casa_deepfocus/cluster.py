"""Where tasks are done: in this process, in worker processes of this machine, or on a cluster, by Dask.

A cluster is the address of a running scheduler or a YAML file, which has either ``address`` or the
name of a class of dask-jobqueue with its keyword arguments (docs/simulation.md).
"""

from __future__ import annotations

import asyncio
import inspect
import json
import logging
import os
import re
import sys
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from difflib import get_close_matches
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from casa_deepfocus.errors import DataError, MissingDependencyError, ParameterError

if TYPE_CHECKING:
    from distributed import Client

Result = TypeVar("Result")
Results = Iterator[tuple[int, Any]]
Mapper = Callable[[Callable[[int], Any], Iterable[int]], Results]

ROOT = Path(__file__).resolve().parents[1]
"""The folder of this package: workers of a cluster import it, and what lies beside it, from there."""

DEATHS = 2
"""How many workers may die over one task before it is given up."""

START_TIMEOUT = 3600.0
"""Seconds without a single worker after which a run stops."""

POLL = 0.02
LOOK_EVERY = 1.0
"""Seconds between two looks for results, and for workers."""

SETTINGS = {
    "distributed.scheduler.allowed-failures": DEATHS,
    # Cubes are written by their workers: nothing can be spilled, and a worker that waits for its memory to fall
    # would wait for ever. Above its limit it is restarted, and the cube is tried again.
    "distributed.worker.memory.target": False,
    "distributed.worker.memory.spill": False,
    "distributed.worker.memory.pause": False,
    "distributed.worker.memory.terminate": 0.95,
    # A cube keeps its thread busy for minutes.
    "distributed.admin.tick.limit": "1h",
}
THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
SCHEMES = re.compile(r"(tcp|tls|ucx|ws|wss|inproc)://")
KEYS = ("class", "options", "jobs", "adapt", "address", "start_timeout")
EXTRA = 'pip install "casa-deepfocus[cluster]"'


@dataclass(frozen=True)
class ClusterFile:
    """What a cluster file says.

    Attributes
    ----------
    address : str, of a running scheduler; '' where jobs are to be submitted
    kind : str, a class of dask-jobqueue
    options : dict, its keyword arguments
    jobs : int, to submit at first
    adapt : dict, bounds (minimum_jobs, maximum_jobs, ...) between which the number of jobs then follows the work
    start_timeout : float [s], to wait for the first worker
    """

    address: str = ""
    kind: str = ""
    options: dict[str, Any] = field(default_factory=dict)
    jobs: int = 1
    adapt: dict[str, Any] = field(default_factory=dict)
    start_timeout: float = START_TIMEOUT


@contextmanager
def mapper(
    workers: int,
    cluster: str | None = None,
    memory_limit: str | None = None,
    packages: Sequence[str] = ("casa_deepfocus",),
) -> Iterator[Mapper]:
    """How to do many tasks: a function of (task, indices) that yields (index, result) as they come.

    The result of a task whose workers died is the exception. Indices in a deque are taken off its left, so that
    more can be added while results come.

    Parameters
    ----------
    workers : int, processes of this machine; one without a memory limit is this process itself
    cluster : str, address of a scheduler or path of a YAML file
    memory_limit : str, of one worker process, such as '4GiB'
    packages : sequence of str
        What the workers must be able to import.

    Raises
    ------
    ParameterError, DataError
        When the cluster file or the limit is wrong, or no worker can be had.
    MissingDependencyError
        When Dask is needed and not installed.
    """
    if cluster is None and workers == 1 and memory_limit is None:
        yield _one_by_one
        return
    described = read_cluster(cluster) if cluster is not None else None
    if described is not None and workers != 1:
        raise ParameterError("workers", workers, "are this machine's, not a cluster's", "give `jobs` in its file")
    if described is not None and memory_limit is not None:
        raise ParameterError(
            "memory_limit", memory_limit, "does not reach the workers of a cluster", "give `memory` in its file"
        )
    try:
        import dask
        import distributed
    except ImportError as error:
        raise MissingDependencyError(f"more than one worker needs Dask ({error}): {EXTRA}") from error
    with dask.config.set(SETTINGS):
        timeout = described.start_timeout if described is not None else START_TIMEOUT
        scheduler = _local(workers, memory_limit) if described is None else _remote(described)
        try:
            try:
                client = distributed.Client(scheduler, set_as_default=False)
            except (OSError, TimeoutError) as error:
                raise DataError(f"no scheduler answers at {scheduler} ({_line(error)})") from error
            with client:
                yield partial(_completed, client, timeout, packages)
        finally:
            if not isinstance(scheduler, str):
                scheduler.close()


def _queue(indices: Iterable[int]) -> deque[int]:
    return indices if isinstance(indices, deque) else deque(indices)


def _one_by_one(task: Callable[[int], Result], indices: Iterable[int]) -> Iterator[tuple[int, Result]]:
    todo = _queue(indices)
    while todo:
        index = todo.popleft()
        yield index, task(index)


def _local(workers: int, memory_limit: str | None) -> Any:
    """A scheduler in this process, and worker processes that are started as programs of their own.

    Those of multiprocessing would run the user's script once more.
    """
    from dask.utils import parse_bytes
    from distributed import Scheduler, SpecCluster
    from distributed.deploy.subprocess import SubprocessWorker
    from distributed.system import MEMORY_LIMIT

    class Program(SubprocessWorker):
        """A worker that finds modules where this process does."""

        async def _start(self) -> None:
            spec = json.dumps({"cls": self.worker_class, "opts": self.worker_kwargs})
            paths = os.pathsep.join(os.path.abspath(path) for path in sys.path)
            self.process = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "dask", "spec", self.scheduler, "--spec", spec,
                env=os.environ | {"PYTHONPATH": paths}, start_new_session=True,
            )  # fmt: skip

    try:
        limit = parse_bytes(memory_limit) if memory_limit is not None else MEMORY_LIMIT // workers
    except ValueError as error:
        raise ParameterError("memory_limit", memory_limit, "not a size", "give one such as 4GiB") from error
    kwargs = {"host": "127.0.0.1", "nthreads": 1, "memory_limit": limit, "silence_logs": logging.CRITICAL,
              "env": dict.fromkeys(THREADS, "1")}  # fmt: skip
    worker = {"cls": Program, "options": {"worker_kwargs": kwargs}}
    page = {"host": "127.0.0.1", "dashboard": False, "dashboard_address": ":0"}
    return SpecCluster(
        workers=dict.fromkeys(range(workers), worker), worker=worker, name="local",
        scheduler={"cls": Scheduler, "options": page}, silence_logs=logging.CRITICAL,
    )  # fmt: skip


def read_cluster(text: str) -> ClusterFile:
    """Read a cluster file, or take the address of a scheduler for what it is.

    Raises
    ------
    DataError
        When there is no such file, or something in it is not understood: it names the file, the key and the
        nearest valid one.
    MissingDependencyError
        When it needs a package that is not installed.
    """
    if SCHEMES.match(text):
        return ClusterFile(address=text)
    path = Path(text)
    if not path.is_file():
        raise ParameterError("cluster", text, "no such file", "give a YAML file or an address such as tcp://host:8786")
    try:
        import yaml
    except ImportError as error:
        raise MissingDependencyError(f"a cluster file needs PyYAML ({error}): {EXTRA}") from error
    try:
        content = yaml.safe_load(path.read_text())
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise DataError(f"{path} is no YAML ({_line(error)})") from error
    if not isinstance(content, dict):
        raise DataError(f"{path} must hold keys and values: class and options, or address")
    _known(path, "", content, KEYS)
    if ("address" in content) == ("class" in content):
        raise DataError(f"{path} must have either `address` or `class`")
    for key, kind in (("options", dict), ("adapt", dict), ("jobs", int), ("start_timeout", (int, float)),
                      ("address", str), ("class", str)):  # fmt: skip
        if key in content and not isinstance(content[key], kind):
            raise DataError(f"{path}: {key} is {content[key]!r}, which is of the wrong kind")
    described = ClusterFile(
        address=content.get("address", ""), kind=content.get("class", ""), options=content.get("options", {}),
        jobs=content.get("jobs", 1), adapt=content.get("adapt", {}),
        start_timeout=float(content.get("start_timeout", START_TIMEOUT)),
    )  # fmt: skip
    if described.address and not SCHEMES.match(described.address):
        raise DataError(f"{path}: address {described.address!r} must look like tcp://host:8786")
    if described.jobs < 1:
        raise DataError(f"{path}: jobs is {described.jobs}; at least 1 is needed")
    if described.kind:
        _check_class(path, described)
    return described


def _known(path: Path, where: str, content: dict[str, Any], valid: Sequence[str]) -> None:
    for key in content:
        if key not in valid:
            near = get_close_matches(str(key), valid, 1, 0.5)
            hint = f"did you mean `{near[0]}`?" if near else f"it may have {', '.join(sorted(valid))}"
            raise DataError(f"{path}: unknown key `{where}{key}`; {hint}")


def cluster_classes() -> dict[str, Any]:
    """The classes of dask-jobqueue, by name.

    Raises
    ------
    MissingDependencyError
        When it is not installed.
    """
    try:
        import dask_jobqueue
    except ImportError as error:
        raise MissingDependencyError(f"a cluster of jobs needs dask-jobqueue ({error}): {EXTRA}") from error
    base = dask_jobqueue.JobQueueCluster
    found = {name: getattr(dask_jobqueue, name) for name in dir(dask_jobqueue)}
    return {
        name: kind
        for name, kind in found.items()
        if inspect.isclass(kind) and issubclass(kind, base) and kind is not base
    }


def _check_class(path: Path, described: ClusterFile) -> None:
    classes = cluster_classes()
    if described.kind not in classes:
        raise DataError(f"{path}: no class {described.kind!r} in dask-jobqueue; it has {', '.join(sorted(classes))}")
    kind = classes[described.kind]
    valid: set[str] = set()
    for parent in (*kind.__mro__, *kind.job_cls.__mro__):
        if "__init__" in vars(parent):
            parameters = inspect.signature(vars(parent)["__init__"]).parameters.values()
            valid |= {p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)}
    _known(path, "options.", described.options, sorted(valid - NOT_OPTIONS))
    bounds = inspect.signature(kind.adapt).parameters
    _known(path, "adapt.", described.adapt, sorted({*bounds, "minimum", "maximum"} - {"self", "args", "kwargs"}))
    for key in ("cores", "memory"):
        if key not in described.options:
            raise DataError(f"{path}: options.{key} is missing: what one job asks for")


NOT_OPTIONS = {"self", "job_cls", "loop", "asynchronous", "scheduler", "n_workers", "args", "kwargs", "job_kwargs"}
"""Arguments of the classes that no file can give."""


def job_options(options: dict[str, Any]) -> dict[str, Any]:
    """Options of a dask-jobqueue class, with what every job of ours must be told."""
    exports = [f"export {name}=1" for name in THREADS]
    # Jobs inherit no dask configuration, and start in no particular folder.
    exports += [
        f"export DASK_{key.upper().replace('.', '__').replace('-', '_')}={value}"
        for key, value in SETTINGS.items()
        if ".worker." in key
    ]
    exports.append(f'export PYTHONPATH="{ROOT}${{PYTHONPATH:+:$PYTHONPATH}}"')
    # One thread a worker: CASA and the Fourier transforms want a process of their own.
    own = {"job_script_prologue": [*options.get("job_script_prologue", []), *exports]}
    # Two runs on one machine would quarrel about the port of Dask's page.
    page = {"scheduler_options": {"dashboard_address": ":0"} | options.get("scheduler_options", {})}
    return {"processes": options["cores"]} | options | own | page


def _remote(described: ClusterFile) -> Any:
    """The scheduler's address, or a new cluster of jobs."""
    if described.address:
        return described.address
    from distributed import Status

    try:
        cluster = cluster_classes()[described.kind](**job_options(described.options))
    except Exception as error:  # Whatever a scheduler's class makes of its options is the user's to mend.
        raise DataError(f"{described.kind} cannot be set up: {_line(error)}") from error
    # Tornado writes a traceback of its own about what is told below.
    log = logging.getLogger("tornado.application")
    level = log.level
    log.setLevel(logging.CRITICAL)
    try:
        cluster.sync(_submit, cluster, described.jobs)
        if described.adapt:
            cluster.adapt(**described.adapt)
    except Exception as error:
        # Jobs that no queue took cannot be closed: without the mark the cluster would stay half open.
        for job in cluster.workers.values():
            if getattr(job, "job_id", None) is None:
                job.status = Status.failed
        cluster.close()
        raise DataError(f"{described.kind} cannot submit jobs: {_line(error)}") from error
    finally:
        log.setLevel(level)
    return cluster


async def _submit(cluster: Any, jobs: int) -> None:
    """Ask for jobs, and wait until the queue has taken them: else nobody hears why it did not."""
    cluster.scale(jobs=jobs)
    await cluster


def _completed(
    client: Client,
    timeout: float,
    packages: Sequence[str],
    task: Callable[[int], Result],
    indices: Iterable[int],
) -> Iterator[tuple[int, Result | BaseException]]:
    """Index and result of every task as they come, or the error of a task whose workers died."""
    from distributed import as_completed

    _wait(client, timeout, packages)
    todo = _queue(indices)
    running: dict[Any, int] = {}
    finished = as_completed(loop=client.loop)
    threads, looked, last_seen = 0, 0.0, time.monotonic()
    try:
        while todo or running:
            now = time.monotonic()
            if now - looked > LOOK_EVERY:
                threads, looked = sum(client.nthreads().values()), now
                last_seen = now if threads else last_seen
            if now - last_seen > timeout:
                raise DataError(f"no worker for {timeout:.0f} s; give the same command again to go on")
            # No more than the workers can do at once: a worker's death counts against all that wait in it.
            while todo and len(running) < threads:
                future = client.submit(task, todo[0], key=f"task-{todo[0]}-{os.getpid()}", pure=False)
                running[future] = todo.popleft()
                finished.add(future)
            batch = finished.next_batch(block=False)
            for future in batch:
                error = future.exception()
                yield running.pop(future), error if error is not None else future.result()
                future.release()
            if not batch:
                time.sleep(POLL)
    finally:
        client.cancel(list(running))


def _wait(client: Client, timeout: float, packages: Sequence[str]) -> None:
    """Wait for the first worker, and see that it can import what it needs."""
    try:
        client.wait_for_workers(1, timeout=timeout)
    except TimeoutError as error:
        raise DataError(
            f"no worker came within {timeout:.0f} s: look at the queue and at the jobs' own logs"
        ) from error

    needed = tuple(packages)

    def missing() -> list[str]:
        from importlib.util import find_spec

        return [name for name in needed if find_spec(name) is None]

    # A function inside a function travels by value: workers need nothing of ours to run it.
    for worker, names in client.run(missing).items():
        if names:
            raise DataError(
                f"the worker at {worker} cannot import {', '.join(names)}: start workers with PYTHONPATH={ROOT}"
            )


def _line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__
