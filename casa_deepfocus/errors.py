"""The errors of casa_deepfocus.

Each one names what was given, what is allowed and the way out; each also inherits from the
built-in error a caller would expect, and survives pickling (workers send them home).
"""

from __future__ import annotations

from typing import Any


class DeepFocusError(Exception):
    """Base of every error that this package raises on purpose."""


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
        text = f"{self.parameter}={self.value!r}: {self.problem}"
        return f"{text}. {self.remedy}" if self.remedy else text


class DataError(DeepFocusError, ValueError):
    """The data themselves (image, PSF, measurement set) cannot be used as asked."""


class ModelError(DeepFocusError, RuntimeError):
    """A network file or its manifest is missing, damaged, foreign, or does not fit."""


class ProductError(DeepFocusError, OSError):
    """A product cannot be written, or stands already and overwrite is False."""


class MissingDependencyError(DeepFocusError, ImportError):
    """An optional package is needed for what was asked; the message says which and how to get it."""
