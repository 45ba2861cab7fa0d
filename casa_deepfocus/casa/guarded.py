"""CASA's writing in a process of its own: casacore ends the process it runs in when the disk is full.

The child has its parent's configuration and log, takes no signals from the terminal, and ends with its
parent. A call that ends it becomes an error that says why. Under mpicasa calls run in the process itself:
tclean's servers belong to that one.
"""

from __future__ import annotations

import collections
import contextlib
import ctypes
import importlib
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from typing import Any

from casa_deepfocus.casa import signals, space
from casa_deepfocus.errors import DeepFocusError

START = (
    "import sys; from multiprocessing.connection import Connection; c = Connection(int(sys.argv.pop())); "
    "sys.path[:] = c.recv(); from casa_deepfocus.casa import guarded; guarded.serve(c)"
)
"""The child's program; it finds modules where its parent does."""

CONFIGURATION = ("datapath", "rundata", "measurespath", "log2term")
"""What the child takes over of CASA's configuration; its data stay as they are while it runs."""

ABORT = re.compile(r"\s*(terminate called|what\(\):|Aborted)")
"""Last words of C++."""

LAST_WORDS = 2.0
"""How long to wait for what a child that has ended said last [s]."""

PR_SET_PDEATHSIG = 1
"""Linux's prctl: the signal that a process gets when its parent ends."""


class Worker:
    """A process that calls functions for this one, one after the other.

    Parameters
    ----------
    modules : sequence of str
        What it imports at once, while its parent goes on.
    keep : sequence of int
        File descriptors that it holds open: a lock is free again when both processes have ended.
    """

    def __init__(self, modules: Sequence[str] = (), keep: Sequence[int] = ()) -> None:
        self.connection, theirs = Pipe()
        self.said: collections.deque[str] = collections.deque(maxlen=20)
        try:
            self.process = self.start(theirs, keep)
        finally:
            theirs.close()
        self.listener = threading.Thread(target=self._listen, daemon=True)
        self.listener.start()
        try:
            for message in (sys.path, (os.getpid(), configuration()), tuple(modules)):
                self.connection.send(message)
        except BaseException:
            self.close()
            raise

    def start(self, theirs: Connection, keep: Sequence[int]) -> Any:
        """Start the child at its end of the connection, in a session of its own: Ctrl-C is for its parent alone."""
        return subprocess.Popen(
            [sys.executable, "-c", START, str(theirs.fileno())], stdin=subprocess.DEVNULL, stderr=subprocess.PIPE,
            pass_fds=(theirs.fileno(), *keep), start_new_session=True, text=True, errors="replace",
        )  # fmt: skip

    def call(self, function: Callable[..., Any], *args: Any, folder: str, **kwargs: Any) -> Any:
        """What a function of a module returns or raises, called in the child.

        Parameters
        ----------
        folder : str
            Where it writes, for messages.

        Raises
        ------
        ProductError
            Where the disk is full.
        DeepFocusError
            Where the child has ended for another reason.
        """
        try:
            self.connection.send((function, args, kwargs))
            done, value = self.connection.recv()
        except (EOFError, OSError) as exc:
            raise self._death(function.__name__, folder) from exc
        if done:
            return value
        if not isinstance(value, DeepFocusError) and space.is_full(folder, str(value)):
            raise space.full(folder, str(value)) from value
        raise value

    def close(self) -> None:
        """End the child at once, whatever it does, and what it has started: it leads a session of its own."""
        if self.process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)
            self.process.kill()
        self.process.wait()
        self.connection.close()
        self.listener.join(LAST_WORDS)
        if not self.listener.is_alive():
            self.process.stderr.close()

    def _listen(self) -> None:
        for line in self.process.stderr:
            self.said.append(line.rstrip())
            if not ABORT.match(line):
                sys.stderr.write(line)

    def _death(self, name: str, folder: str) -> DeepFocusError:
        status = self.process.wait()
        self.listener.join(LAST_WORDS)
        words = " ".join(line.strip() for line in self.said if ABORT.match(line))
        if space.is_full(folder, words):
            return space.full(folder, words)
        how = f"signal {signal.Signals(-status).name}" if status < 0 else f"exit status {status}"
        hint = "; the system may have run out of memory" if status == -signal.SIGKILL else ""
        return DeepFocusError(f"CASA's process ended in {name} ({how}{hint}): {words or 'it said nothing'}")


_worker: ContextVar[Worker | None] = ContextVar("worker", default=None)
_kept: list[Worker] = []
"""The child of a process that works for another one; it ends with it."""


def keep_session(modules: Sequence[str] = ()) -> None:
    """One child for all calls of this process from now on."""
    if not alone() and not _kept:
        _kept.append(Worker(modules))


@contextmanager
def session(modules: Sequence[str] = (), keep: Sequence[int] = ()) -> Iterator[None]:
    """One child for all calls inside, which an outer session may have already; see `Worker`."""
    if alone() or _current() is not None:
        yield
        return
    worker: Worker | None = None
    try:
        with signals.held():
            worker = Worker(modules, keep)
        token = _worker.set(worker)
        try:
            yield
        finally:
            _worker.reset(token)
    finally:
        if worker is not None:
            with signals.held():
                worker.close()


def call(function: Callable[..., Any], *args: Any, folder: str, **kwargs: Any) -> Any:
    """What a function of a module returns or raises, called in the session's child, or in one of its own.

    Parameters
    ----------
    function : callable, picklable as its arguments are
    folder : str
        Where it writes, for messages.

    Raises
    ------
    ProductError
        Where the disk is full.
    DeepFocusError
        Where the child has ended for another reason.
    """
    if alone():
        return function(*args, **kwargs)
    worker = _current()
    if worker is not None:
        return worker.call(function, *args, folder=folder, **kwargs)
    with session():
        return call(function, *args, folder=folder, **kwargs)


def _current() -> Worker | None:
    """The child that is there, as long as it lives."""
    kept = [worker for worker in _kept if worker.process.poll() is None]
    _kept[:] = kept
    worker = _worker.get() or (kept[0] if kept else None)
    return worker if worker is None or worker.process.poll() is None else None


Imager = Callable[..., Any]
"""What is called as tclean: with its parameters, all by name."""


def tclean(*, imagename: str, **parameters: Any) -> Any:
    """CASA's tclean, guarded; `imagename` needs a folder."""
    return call(_tclean, imagename=imagename, folder=os.path.dirname(os.path.abspath(imagename)), **parameters)


def _tclean(**parameters: Any) -> Any:
    from casatasks import tclean as task

    return task(**parameters)


def serve(connection: Connection) -> None:
    """The child: call what the parent sends until it closes or ends."""
    parent, values = connection.recv()
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        return
    configure(values)
    for module in connection.recv():
        importlib.import_module(module)
    while True:
        try:
            function, args, kwargs = connection.recv()
        except EOFError:
            return
        try:
            answer = (True, function(*args, **kwargs))
        except Exception as exc:
            answer = (False, exc)
        try:
            connection.send(answer)
        except (TypeError, AttributeError, ValueError) as exc:
            connection.send((False, RuntimeError(f"{answer[1]!r} cannot be sent home: {exc}")))


def configuration() -> dict[str, Any]:
    """CASA's configuration of this process, as far as another one that works for it needs it."""
    try:
        from casaconfig import config
    except ImportError:
        return {}
    values = {name: getattr(config, name) for name in CONFIGURATION if hasattr(config, name)}
    values |= {"measures_auto_update": False, "data_auto_update": False, "nologger": True, "nogui": True}
    if "casatasks" in sys.modules:
        values["logfile"] = sys.modules["casatasks"].casalog.logfile()
    return values


def configure(values: Mapping[str, Any]) -> None:
    """Take over `configuration` of another process, before CASA is loaded; in the process itself nothing changes."""
    with contextlib.suppress(ImportError):
        from casaconfig import config

        for name, value in values.items():
            setattr(config, name, value)


def alone() -> bool:
    """Whether there can be no child: tclean's servers belong to this process."""
    mpi = sys.modules.get("casampi.MPIEnvironment")
    return not sys.executable or bool(mpi and mpi.MPIEnvironment.is_mpi_enabled)
