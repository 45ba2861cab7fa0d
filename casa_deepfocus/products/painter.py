"""The line on the terminal, painted every second by a program of its own (`progress`); needs nothing but Python.

Lines of "<expected seconds in all> <what is done now>" come in by standard input, and the program ends with it.
"""

import os
import select
import signal
import sys
import time

REPAINT = 1.0
"""Seconds between two paintings."""

WIDTH = 80
"""Columns of a terminal that does not tell."""

ERROR = 2
"""File descriptor of standard error: where the line is."""


def clock(seconds: float) -> str:
    """Seconds as minutes and seconds."""
    minutes, rest = divmod(int(seconds), 60)
    return f"{minutes}:{rest:02d}"


def painted(text: str, passed: float, total: float, width: int) -> str:
    """The line; `total` [s] is what all may take, 0 where nobody knows."""
    left = f", about {clock(total - passed)} left" if total > passed else ""
    return f"sdeepfocus: {text}  [{clock(passed)}{left}]"[: max(width - 1, 1)]


def columns() -> int:
    """Columns of the terminal."""
    try:
        return os.get_terminal_size(ERROR).columns or WIDTH
    except OSError:
        return WIDTH


def main() -> None:
    """Paint until standard input ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    source, start, total, text, data = sys.stdin.fileno(), time.monotonic(), 0.0, "", b""
    while True:
        if select.select([source], [], [], REPAINT)[0]:
            read = os.read(source, 4096)
            if not read:
                break
            *lines, data = (data + read).split(b"\n")
            for line in lines:
                seconds, _, text = line.decode(errors="replace").partition(" ")
                total = float(seconds)
        shown = painted(text, time.monotonic() - start, total, columns())
        os.write(ERROR, f"\r{shown}\x1b[K".encode())
    os.write(ERROR, b"\r\x1b[K")


if __name__ == "__main__":
    main()
