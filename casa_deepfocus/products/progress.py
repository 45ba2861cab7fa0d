"""One line on the terminal that moves: what is done now, for how long, and how long it may still take.

CASA's tasks keep Python from running while they work, so that the line is painted by a small process of its own.
"""

from __future__ import annotations

import contextlib
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path

PAINTER = Path(__file__).with_name("painter.py")
"""Run as a file: importing the package would take a second in which nothing is seen."""

LEAST_SHARE = 0.02
"""Share of the work from which on the time that it has taken tells how long the rest will take."""


class Line:
    """The line on the terminal.

    Parameters
    ----------
    painter : subprocess.Popen or None
        None where there is no terminal: nothing is shown then.
    """

    def __init__(self, painter: subprocess.Popen[bytes] | None = None) -> None:
        self._painter = painter
        self._start = time.monotonic()
        self._expected = 0.0
        self.text = ""

    @property
    def shows(self) -> bool:
        """Whether anybody sees it."""
        return self._painter is not None

    def step(self, text: str) -> None:
        """Say what is done now."""
        self.text = " ".join(text.split())
        self._send()

    def expect(self, seconds: float) -> None:
        """Say how long all of it may take [s], from the start; 0 where nobody knows."""
        self._expected = seconds
        self._send()

    def share(self, done: float) -> None:
        """Say what share of the work is done: the rest will take as long in proportion."""
        if LEAST_SHARE <= done <= 1.0:
            self.expect((time.monotonic() - self._start) / done)

    def _send(self) -> None:
        if self._painter is None or self._painter.stdin is None:
            return
        with contextlib.suppress(OSError, ValueError):
            self._painter.stdin.write(f"{self._expected:.1f} {self.text}\n".encode())
            self._painter.stdin.flush()

    def close(self) -> None:
        """Take the line away."""
        if self._painter is None:
            return
        with contextlib.suppress(OSError, ValueError):
            if self._painter.stdin is not None:
                self._painter.stdin.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._painter.wait(timeout=2.0)
        if self._painter.poll() is None:
            self._painter.kill()
            self._painter.wait()
        self._painter = None


current: ContextVar[Line] = ContextVar("current", default=Line())  # noqa: B039
"""The line that is shown now; one that shows nothing where there is none."""


@contextmanager
def line() -> Iterator[Line]:
    """The line, gone at the end; nothing where standard error is no terminal. Inside another it is that one."""
    if current.get().shows:
        yield current.get()
        return
    shown = Line(_painter() if sys.stderr is not None and sys.stderr.isatty() else None)
    token = current.set(shown)
    try:
        yield shown
    finally:
        current.reset(token)
        shown.close()


def _painter() -> subprocess.Popen[bytes] | None:
    try:
        return subprocess.Popen([sys.executable, "-I", "-S", str(PAINTER)], stdin=subprocess.PIPE)
    except OSError:
        return None
