"""What the first stage leaves on the pipeline's context for the second and for later ones.

Plain Python only: a context is pickled, and may be read where this package is not loaded.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

ATTRIBUTE = "deepfocus"
"""Attribute of the context."""

Record = dict[str, Any]
"""stage (int), datatype (str), folder, archive (paths relative to the context's output folder) and cubes: a list of
dicts with target, fields, sources (lists of str), spw (virtual id; '' of a continuum image), window (its name), label,
state ('done', 'failed'), reason, catalogue (path, '' where there is none), noise [Jy/beam], beam [arcsec, arcsec, deg],
nchan, freq [Hz, Hz], seconds, lines_free ([GHz, GHz] pairs handed over), handed (what became of them)."""


def read(context: Any) -> Record:
    """The record of a context; empty where nothing was searched."""
    return dict(getattr(context, ATTRIBUTE, None) or {})


def write(context: Any, record: Record) -> None:
    """Put a record on a context."""
    setattr(context, ATTRIBUTE, record)


def relative(path: str | Path, output_dir: str) -> str:
    """A path as seen from a context's output folder: a context may be moved."""
    return os.path.relpath(str(path), output_dir)
