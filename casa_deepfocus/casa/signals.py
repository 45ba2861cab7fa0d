"""Signals that end a run: they arrive as one exception, and wait where an interruption would lose something.

A run is interrupted by Ctrl-C (SIGINT), `kill` (SIGTERM) or a closed terminal (SIGHUP). Python turns only
the first into an exception; the others end the process without cleaning up. Within `orderly` all three
unwind the run. Within `held` they wait: the final move asks for them between its steps and is undone.
A library may swallow the exception (a bare `except` while it is imported); `check`, called between the steps
of a run, raises it again. Python delivers signals to the main thread only; elsewhere all this does nothing.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

ENDING = (signal.SIGTERM, signal.SIGHUP)
"""Signals that end a process unless it asks for them."""


UNCHANGED = "nothing was written or changed"


class Terminated(BaseException):
    """The process was told to end; like KeyboardInterrupt, no `except Exception` sees it."""

    def __init__(self, signum: int) -> None:
        super().__init__(signum)
        self.signum = signum


class Pending:
    """Signals that wait. One for the process, as its main thread is one."""

    def __init__(self) -> None:
        self.depth = 0
        self.arrived: list[int] = []
        self.raised: list[int] = []
        self.interrupt: Callable[[int, FrameType | None], object] = signal.default_int_handler

    def handle(self, signum: int, frame: FrameType | None) -> None:
        """The handler of the run's signals: note the signal where it has to wait, else deliver it."""
        if self.depth:
            self.arrived.append(signum)
        else:
            self.deliver(signum, frame)

    def deliver(self, signum: int, frame: FrameType | None = None) -> None:
        """Raise what a signal stands for."""
        self.raised = [signum]
        if signum in ENDING:
            raise Terminated(signum)
        self.interrupt(signum, frame)

    def check(self) -> None:
        """Raise what the first of the waiting signals stands for, or one that somebody has swallowed."""
        if (self.arrived or self.raised) and threading.current_thread() is threading.main_thread():
            first, self.arrived = (self.arrived or self.raised)[0], []
            self.deliver(first)


_pending = Pending()


@contextmanager
def orderly() -> Iterator[None]:
    """Let SIGTERM and SIGHUP unwind what is inside, as Ctrl-C does.

    Afterwards the process ends by the signal, as it would have at once. Handlers that others have
    set for these two are left alone.
    """
    if threading.current_thread() is not threading.main_thread() or signal.getsignal(signal.SIGINT) == _pending.handle:
        yield
        return
    previous: dict[signal.Signals, object] = {}
    _pending.raised = []
    try:
        interrupt = signal.getsignal(signal.SIGINT)
        if callable(interrupt):
            _pending.interrupt = interrupt
            previous[signal.SIGINT] = signal.signal(signal.SIGINT, _pending.handle)
        for signum in ENDING:
            if signal.getsignal(signum) is signal.SIG_DFL:
                previous[signum] = signal.SIG_DFL
                signal.signal(signum, _pending.handle)
        yield
    except Terminated as exc:
        _restore(previous)
        signal.raise_signal(exc.signum)
        raise
    finally:
        _pending.raised = []
        _restore(previous)


def check() -> None:
    """Raise what a signal of `orderly` stands for that has come and was swallowed."""
    if not _pending.depth:
        _pending.check()


@contextmanager
def told(post: Callable[[str], object], left: Callable[[], str] = lambda: UNCHANGED) -> Iterator[None]:
    """Say in one line that what is inside was interrupted, and what it has left; the innermost says it."""
    try:
        yield
    except (KeyboardInterrupt, Terminated) as exc:
        _pending.raised = []
        if not getattr(exc, "told", False):
            exc.told = True  # type: ignore[union-attr]
            how = signal.Signals(exc.signum).name if isinstance(exc, Terminated) else "SIGINT"
            post(f"interrupted ({how}): {left()}")
        raise


def _restore(previous: dict[signal.Signals, object]) -> None:
    for signum, handler in previous.items():
        signal.signal(signum, handler)  # type: ignore[arg-type]


@contextmanager
def held() -> Iterator[Pending]:
    """Keep the signals of `orderly` waiting; the first that came is delivered at the end.

    Yields
    ------
    Pending
        Its `check` delivers at once what has come so far.
    """
    if threading.current_thread() is not threading.main_thread():
        yield Pending()
        return
    _pending.depth += 1
    try:
        yield _pending
    finally:
        _pending.depth -= 1
        if not _pending.depth and _pending.arrived:
            _pending.check()
