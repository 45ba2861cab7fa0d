"""Errors as the user sees them: one message, once, at the prompt, in go, with casa -c, and in the log."""

from __future__ import annotations

import errno
import os
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from shell_fixtures import casa

from casa_deepfocus import casa_data, params
from casa_deepfocus.errors import (
    CallError,
    DataError,
    DeepFocusError,
    LibraryError,
    MissingDependencyError,
    ParameterError,
    shown,
)

pytest.importorskip("casatools")
pytest.importorskip("casashell")
from casa_deepfocus.casa import failures, taskbuilder  # noqa: E402

pytestmark = pytest.mark.casa
pytest_plugins = ["shell_fixtures"]
needs_data = pytest.mark.skipif(casa_data.wheel_folder() is None, reason="the wheel casadata is not installed")

SPEC = params.sdeepfocus()

# A stand-in for the task's implementation, in the shells below, that fails as libraries do.
BROKEN = """
import sys, types
module = types.ModuleType("casa_deepfocus.casa.task_sdeepfocus")
def fails(*values):
    raise RuntimeError("Exception: planted by a library\\n at line 1 of its C++")
module.sdeepfocus = fails
sys.modules[module.__name__] = module
"""

TYPED = {
    "sdeepfocus(mode='nonsense')": "mode='nonsense': is not allowed",
    "sdeepfocus(viz='x.ms')": "unexpected keyword argument 'viz'. Do you mean vis?",
    "sdeepfocus(*range(99))": f"takes {len(params.sdeepfocus().names)} arguments but 99 were given",
    "sdeepfocus(minsnr='five')": "minsnr='five': has the wrong type. Give a number",
    "sdeepfocus(vis=list(range(100000)))": "vis=[0, 1, 2, 3, 4, 5, ...]: has the wrong type",
    "sdeepfocus(imagename='nowhere.image')": "imagename='nowhere.image': does not exist",
}


def severe(folder: Path) -> list[str]:
    """The log's SEVERE lines of the only shell that ran in a folder."""
    (log,) = folder.glob("casa-*.log")
    return [line for line in log.read_text().splitlines() if "\tSEVERE\t" in line]


@needs_data
def test_mistakes_at_the_prompt(fresh_home: Path) -> None:
    """Each is one line on the terminal and one SEVERE in the log; so is what `go` finds, and a library's error."""
    go = ["inp sdeepfocus", "go"]
    lines = [*TYPED, "vis = 'nowhere.ms'", *go, "exec(BROKEN)", "sdeepfocus(vis='x.ms')", "print('ALIVE')", "exit"]
    run = casa(fresh_home, typed=f"BROKEN = {BROKEN!r}\n" + "\n".join(lines) + "\n")
    assert run.returncode == 0, run.stdout + run.stderr
    messages = [*TYPED.values(), "vis='nowhere.ms': does not exist", "planted by a library"]
    everything = run.stdout + run.stderr
    for message in messages:
        assert everything.count(message) == 1, everything
        (line,) = [line for line in everything.splitlines() if message in line]
        assert len(line) < 600
    assert "Traceback" not in everything and "SEVERE" not in run.stderr
    assert "ALIVE" in run.stdout
    logged = severe(Path())
    assert len(logged) == len(messages)
    for message, line in zip(messages, logged, strict=True):
        assert message in line


@needs_data
@pytest.mark.parametrize("call", ["sdeepfocus(mode='nonsense')", "sdeepfocus(vis='nowhere.ms')", "script.py", "cause"])
def test_mistakes_of_casa_c(fresh_home: Path, call: str) -> None:
    """The exit status is 1, the frames are the user's own and CASA's, the message stands once."""
    Path("script.py").write_text("def search():\n    sdeepfocus(imagename='nowhere.image')\n\n\nsearch()\n")
    steps = [BROKEN, "sdeepfocus(vis='x.ms')"] if call == "cause" else [call]
    quiet = casa(fresh_home, "pass")
    for log in Path().glob("casa-*.log"):
        log.unlink()
    run = casa(fresh_home, *steps)
    assert (quiet.returncode, run.returncode) == (0, 1)
    everything = run.stdout + run.stderr
    (line,) = severe(Path())
    message = line.split("\t")[-1].split(": ", 1)[1]
    assert everything.count(message) == 1, everything
    more = len(everything.splitlines()) - len((quiet.stdout + quiet.stderr).splitlines())
    # Before Python 3.11 the frames of runpy, by which CASA runs a script, have lines of source.
    assert more <= (20 if call == "script.py" else 12), everything
    assert sum("/casa_deepfocus/" in line for line in run.stderr.splitlines()) == 2
    if call == "script.py":
        assert "line 2, in search" in run.stderr


def test_a_script_keeps_its_traceback() -> None:
    code = "from casa_deepfocus import sdeepfocus\nsdeepfocus(mode='nonsense')"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)
    assert run.returncode == 1
    assert "Traceback (most recent call last)" in run.stderr and "taskbuilder.py" in run.stderr
    assert run.stderr.count("mode='nonsense': is not allowed") == 1


@pytest.fixture
def posted(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    """(message, priority) that the failures posted to the log."""
    seen: list[tuple[str, str]] = []
    monkeypatch.setattr(failures, "_post", lambda message, priority, task=None: seen.append((message, priority)))
    return seen


@pytest.mark.parametrize(
    ("error", "remedy"),
    [
        (RuntimeError("Table x.ms does not exist\n  thrown at line 3"), "casalog.filter"),
        (KeyError("BMAJ"), "casalog.filter"),
        (MemoryError(), "a smaller image or fewer channels"),
        (ImportError("no jinja2"), "casa-deepfocus check"),
        (OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), "Free space"),
        (PermissionError(errno.EACCES, "Permission denied"), "that you may read"),
    ],
)
def test_a_librarys_error_gets_its_context(posted: list[tuple[str, str]], error: Exception, remedy: str) -> None:
    with pytest.raises(LibraryError) as caught, failures.step("read", vis=(), imagename="x.image", psf=""):
        raise error
    text = str(caught.value)
    assert text.startswith(f"step 'read' with imagename='x.image' failed: {type(error).__name__}")
    assert remedy in text and "\n" not in text and "psf=" not in text and "vis=" not in text
    assert caught.value.__cause__ is error
    ((message, priority),) = posted
    assert priority == "DEBUG" and message.startswith("Traceback") and "raise error" in message


def test_own_errors_and_interrupts_pass(posted: list[tuple[str, str]]) -> None:
    for error in (DataError("ours"), KeyboardInterrupt(), SystemExit(2)):
        with pytest.raises(type(error)) as caught, failures.step("read"):
            raise error
        assert caught.value is error
    assert posted == []


def test_every_step_of_the_task_names_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    """A library's error within the real task: nothing in between turns it into something else."""
    from casa_deepfocus.casa import inputs, task_sdeepfocus

    def fail(*_: Any) -> None:
        raise ZeroDivisionError("planted")

    monkeypatch.setattr(inputs, "check", fail)
    with pytest.raises(LibraryError, match=r"step 'check' with imagename='x.fits' failed: ZeroDivisionError: planted"):
        task_sdeepfocus.sdeepfocus(imagename="x.fits")


def test_the_log_has_an_error_once_however_many_tasks_it_passes(posted: list[tuple[str, str]]) -> None:
    def fail(*values: Any) -> None:
        raise DataError("planted")

    inner = taskbuilder.plain_task(SPEC, fail)
    outer = taskbuilder.plain_task(SPEC, lambda *values: inner(vis="x.ms"))
    with pytest.raises(DataError, match="planted"):
        outer(vis="y.ms")
    assert posted == [("DataError: planted", "SEVERE")]


def test_errors_survive_pickling() -> None:
    error = LibraryError("find", "vis='x.ms'", "KeyError: 1", "Try again")
    again = pickle.loads(pickle.dumps(error))
    assert str(again) == str(error) and (again.step, again.remedy) == ("find", "Try again")
    assert issubclass(CallError, TypeError)


def test_errors_show_themselves_on_a_line_in_ipython() -> None:
    for error in (ParameterError("vis", 3, "is wrong"), DataError("no data"), MissingDependencyError("no CASA")):
        assert isinstance(error, DeepFocusError)
        assert error._render_traceback_() == [f"{type(error).__name__}: {error}"]


@pytest.mark.parametrize("value", [["x" * 50] * 10**4, "y" * 10**5, np.zeros((300, 300)), dict.fromkeys(range(10**4))])
def test_messages_list_nothing_endless(value: Any) -> None:
    text = str(ParameterError("vis", value, "is wrong"))
    assert len(text) < 500 and "\n" not in text


def test_short_values_are_shown_whole() -> None:
    assert [shown(v) for v in ("a  b\n", 3.5, [1, "x"], None)] == ["'a  b\\n'", "3.5", "[1, 'x']", "None"]
