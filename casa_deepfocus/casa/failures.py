"""What becomes of a run that fails: a library's error gets its context, and the log has every error once."""

from __future__ import annotations

import contextlib
import errno
import os
import sys
import traceback
from collections.abc import Iterator
from typing import Any

from casa_deepfocus.errors import DeepFocusError, LibraryError, shown

LONGEST_PROBLEM = 500
"""Characters of a library's message that are kept [characters]: C++ errors come with pages of context."""

REMEDIES = {
    errno.ENOSPC: "Free space on the disk that it writes to, or give an outfile on another one",
    errno.EDQUOT: "Your quota is used up: free space, or give an outfile on another disk",
    errno.EACCES: "Give files that you may read, and an outfile in a folder that you may write to",
    errno.EPERM: "Give files that you may read, and an outfile in a folder that you may write to",
    errno.EROFS: "Give an outfile on a disk that is not read-only",
    errno.EMFILE: "Too many files are open: close some, or start CASA after `ulimit -n 4096`",
    errno.EIO: "The disk reports a fault: copy the data to another one",
}
"""The way out, by the number of the operating system's error."""


@contextlib.contextmanager
def step(name: str, **subjects: Any) -> Iterator[None]:
    """Give an error of a library that escapes from a step of the task its context and a way out.

    Errors of this package pass as they are, and so do Ctrl-C and `sys.exit`.

    Parameters
    ----------
    name : str
        What is being done, as the timings call it.
    **subjects : str, sequence of str or None
        The parameters that it is done with, by their names; empty ones are left out.

    Raises
    ------
    LibraryError
        In place of the library's error, which is its `__cause__`; the traceback goes to the log at DEBUG.
    """
    try:
        yield
    except DeepFocusError:
        raise
    except Exception as exc:
        _post("".join(traceback.format_exception(exc)), "DEBUG")
        given = ", ".join(f"{key}={shown(value)}" for key, value in subjects.items() if value)
        raise LibraryError(name, given, _one_line(exc), _remedy(exc)) from exc


@contextlib.contextmanager
def logged(task: str) -> Iterator[None]:
    """Post an error that leaves the task to the log as SEVERE, once however many tasks it passes.

    CASA prints what is SEVERE on the terminal too, where Python or IPython will show the error:
    that second copy is kept off.
    """
    try:
        yield
    except DeepFocusError as exc:
        if not getattr(exc, "logged", False):
            exc.logged = True  # type: ignore[attr-defined]
            with _without_stderr():
                _post(f"{type(exc).__name__}: {exc}", "SEVERE", task)
        raise


def _post(message: str, priority: str, task: str | None = None) -> None:
    """Post to CASA's log where CASA can be loaded: the failure may be that it cannot."""
    with contextlib.suppress(Exception):
        from casatasks import casalog

        if task:
            casalog.origin(task)
        casalog.post(message, priority)


@contextlib.contextmanager
def _without_stderr() -> Iterator[None]:
    """Send the process's standard error, C++'s included, to nowhere for a moment."""
    sys.stderr.flush()
    try:
        kept = os.dup(2)
    except OSError:
        # There is no standard error: nothing to keep off.
        yield
        return
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(nowhere)
        os.close(kept)


def _one_line(exc: Exception) -> str:
    text = " ".join(str(exc).split()).rstrip(".")
    if len(text) > LONGEST_PROBLEM:
        text = text[:LONGEST_PROBLEM] + "..."
    return f"{type(exc).__name__}: {text}" if text else type(exc).__name__


def _remedy(exc: Exception) -> str:
    if isinstance(exc, MemoryError):
        return "Close other programs, or give a smaller image or fewer channels (imsubimage cuts one, imsize with vis)"
    if isinstance(exc, ImportError):
        return "Run `casa-deepfocus check`: it says what is missing and how to get it"
    if isinstance(exc, OSError) and exc.errno in REMEDIES:
        return REMEDIES[exc.errno]
    return (
        "See whether CASA itself can read the input (imhead, listobs). If it can, this is a fault of casa_deepfocus: "
        "please report it with the traceback, which is in the log after casalog.filter('DEBUG') and a new run"
    )
