"""The line on the terminal that moves."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest

from casa_deepfocus.products import painter, progress


@pytest.mark.parametrize(
    ("passed", "total", "width", "line"),
    [
        (65.0, 0.0, 80, "sdeepfocus: imaging  [1:05]"),
        (65.0, 200.0, 80, "sdeepfocus: imaging  [1:05, about 2:15 left]"),
        (65.0, 60.0, 80, "sdeepfocus: imaging  [1:05]"),
        (65.0, 0.0, 12, "sdeepfocus:"),
        (0.0, 0.0, 0, "s"),
    ],
)
def test_the_line_fits_the_terminal(passed: float, total: float, width: int, line: str) -> None:
    assert painter.painted("imaging", passed, total, width) == line


def test_nothing_is_shown_where_there_is_no_terminal(capfd: pytest.CaptureFixture[str]) -> None:
    with progress.line() as line:
        line.step("imaging")
        assert not line.shows and line.text == "imaging"
    assert capfd.readouterr().err == ""


def test_a_terminal_sees_what_is_done_and_nothing_is_left_behind(repository: Path) -> None:
    code = (
        "from casa_deepfocus.products import progress\n"
        "with progress.line() as line:\n"
        "    line.step('imaging'); line.share(0.5)\n"
        "    with progress.line() as inner:\n"
        "        inner.step('search'); assert inner is line\n"
    )
    ours, theirs = pty.openpty()
    subprocess.run([sys.executable, "-c", code], cwd=repository, stdin=subprocess.DEVNULL, stderr=theirs, check=True)
    os.close(theirs)
    shown = b""
    while True:
        try:
            part = os.read(ours, 4096)
        except OSError:
            break
        if not part:
            break
        shown += part
    os.close(ours)
    assert b"sdeepfocus: search  [0:00" in shown and shown.endswith(b"\r\x1b[K")
