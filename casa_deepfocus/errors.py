"""The errors of casa_deepfocus.

Each one names what was given, what is allowed and the way out; each also inherits from the
built-in error a caller would expect, and survives pickling (workers send them home).
"""

from __future__ import annotations

import reprlib
from typing import Any

LONGEST_TEXT = 300
"""Characters of a string that a message shows [characters]: two lines of a wide terminal hold any usual path."""

LONGEST_LIST = 6
"""Elements of a list that a message shows: enough to recognise it."""


def shown(value: Any) -> str:
    """`repr(value)` on one line, for a message: long strings, lists and arrays are cut."""
    short = reprlib.Repr()
    short.maxstring = short.maxother = short.maxlong = LONGEST_TEXT
    short.maxlist = short.maxtuple = short.maxdict = short.maxset = LONGEST_LIST
    text = short.repr(value)
    return " ".join(text.split()) if "\n" in text else text


class DeepFocusError(Exception):
    """Base of every error that this package raises on purpose.

    IPython, and so the CASA prompt, shows its message alone; elsewhere it has its traceback as any error.
    """

    def _render_traceback_(self) -> list[str]:
        """The lines that IPython prints in place of a traceback."""
        return [f"{type(self).__name__}: {self}"]


class ParameterError(DeepFocusError, ValueError):
    """A parameter of the task, or of a public function, has a value that cannot be used.

    Parameters
    ----------
    parameter : str
        Name of the parameter, as the user types it.
    value : object
        The value that was given.
    problem : str
        What is wrong with it.
    remedy : str
        What to do instead.
    """

    def __init__(self, parameter: str, value: Any, problem: str, remedy: str = "") -> None:
        super().__init__(parameter, value, problem, remedy)
        self.parameter = parameter
        self.value = value
        self.problem = problem
        self.remedy = remedy

    def __str__(self) -> str:
        text = f"{self.parameter}={shown(self.value)}: {self.problem}"
        return f"{text}. {self.remedy}" if self.remedy else text


class CallError(DeepFocusError, TypeError):
    """The task was called with arguments that it does not have."""


class LibraryError(DeepFocusError, RuntimeError):
    """A library, or CASA, failed within a step of the task; its own error is the `__cause__`.

    Parameters
    ----------
    step : str
        What the task was doing.
    subjects : str
        The parameters and files that it was done with, as `name='value'`; may be empty.
    problem : str
        The library's error, on one line.
    remedy : str
        What to do about it.
    """

    def __init__(self, step: str, subjects: str, problem: str, remedy: str) -> None:
        super().__init__(step, subjects, problem, remedy)
        self.step = step
        self.subjects = subjects
        self.problem = problem
        self.remedy = remedy

    def __str__(self) -> str:
        where = f"step {self.step!r}" + (f" with {self.subjects}" if self.subjects else "")
        return f"{where} failed: {self.problem}. {self.remedy}"


class DataError(DeepFocusError, ValueError):
    """The data themselves (image, PSF, measurement set) cannot be used as asked."""


class ModelError(DeepFocusError, RuntimeError):
    """A network file or its manifest is missing, damaged, foreign, or does not fit."""


class ProductError(DeepFocusError, OSError):
    """A product cannot be written, or stands already and overwrite is False."""


class IncompleteError(DeepFocusError, RuntimeError):
    """Some of several images could not be made, the others are in place; a `casa -c` command ends with it."""


class MissingDependencyError(DeepFocusError, ImportError):
    """An optional package is needed for what was asked; the message says which and how to get it."""
