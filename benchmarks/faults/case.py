"""A case of the corpus: how its inputs are made, and what is right."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Expected:
    """A source as the sky has it.

    Attributes
    ----------
    ra, dec : float [deg, ICRS]
    continuum : float [Jy], 0 without
    freq : float [Hz], of the line's centre; NaN without a line
    line_flux : float [Jy km/s], 0 without a line
    pa : float [deg], north through east; NaN where it is not asked for
    position_only : bool, fluxes are not compared
    """

    ra: float
    dec: float
    continuum: float = 0.0
    freq: float = float("nan")
    line_flux: float = 0.0
    pa: float = float("nan")
    position_only: bool = False


@dataclass(frozen=True)
class Trial:
    """A call of the task, ready to be made, and what is right.

    Attributes
    ----------
    parameters : dict, of sdeepfocus
    truth : tuple of Expected, what the catalogue must hold; None where the input must be refused
    may_refuse : bool, a clear error is as good as the truth
    words : tuple of tuple of str
        Of each group one word must stand in an error's message: the parameter or file that is to blame, and
        what is wrong with it.
    warns : tuple of str, each must stand in a warning of the log where the task ends well; without a truth, what is
        told so counts as right: no header says it, and it may be meant
    beam : float [arcsec], for the tolerance of positions
    meta : dict, values that the catalogue's meta must have
    outfile : str, prefix of the products
    targets : tuple of tuple of Expected
        Truth of each target, where the call makes a folder of several: each has one cube.
    after : callable on the folder, returns what is wrong with what is left there, '' if nothing
    """

    parameters: dict[str, Any]
    truth: tuple[Expected, ...] | None = None
    may_refuse: bool = False
    words: tuple[tuple[str, ...], ...] = ()
    warns: tuple[str, ...] = ()
    beam: float = 1.0
    meta: dict[str, Any] = field(default_factory=dict)
    targets: tuple[tuple[Expected, ...], ...] = ()
    outfile: str = "out"
    after: Callable[[Path], str] | None = None


@dataclass(frozen=True)
class Case:
    """One odd input.

    Attributes
    ----------
    name : str, kind and what is odd, with a slash between
    make : callable on (an empty folder, the folder of what cases share) that makes the inputs; the folder is
        the working directory
    """

    name: str
    make: Callable[[Path, Path], Trial]

    @property
    def kind(self) -> str:
        """The part of the name before the slash."""
        return self.name.split("/")[0]
