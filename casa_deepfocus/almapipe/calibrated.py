"""The calibrated measurement sets that a pipeline run has left, for sdeepfocus by itself; needs no pipeline.

``best = calibrated.find("calibrated/working")[0]``, then
``sdeepfocus(vis=best.vis, datacolumn=best.column, outfile="field")``.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from casa_deepfocus.casa import selection
from casa_deepfocus.casa.measurementset import columns
from casa_deepfocus.errors import DataError
from casa_deepfocus.reading.grid import is_table

KINDS = (
    ("*_targets.ms", "science targets with their continuum (hif_mstransform)"),
    ("*.ms.split.cal", "calibrated data of one execution (scriptForPI.py)"),
    ("*_line.ms", "continuum subtracted (hif_uvcontsub)"),
)
"""Patterns of names, best first, and what such measurement sets hold. The line sets come last: their continuum is gone.
All hold the same observation: those of one kind are searched, never of two."""

FOLDERS = (".", "calibrated", "calibrated/working", "working")
"""Where they are below a delivery's member folder, or a pipeline's working folder."""


@dataclass(frozen=True)
class Calibrated:
    """Measurement sets of one kind.

    Attributes
    ----------
    kind : str
        In words.
    vis : list of str
    column : {'corrected', 'data'}
        What to image: CORRECTED_DATA where it exists, which a self-calibration has made; else DATA, which is
        calibrated in all of these.
    """

    kind: str
    vis: list[str]
    column: str


def find(folder: str = ".") -> list[Calibrated]:
    """The calibrated measurement sets of a folder, by kind, best first.

    Sets of one kind of which some were self-calibrated, and others not, are apart.

    Raises
    ------
    DataError
        Where there are none.
    """
    found: list[Calibrated] = []
    root = Path(folder).expanduser()
    for pattern, kind in KINDS:
        paths = next((hits for place in FOLDERS if (hits := _sets(root / place, pattern))), [])
        by_column: dict[str, list[str]] = {}
        for path in paths:
            columns(path)
            by_column.setdefault(selection.data_column([path], "")[0], []).append(path)
        found += [Calibrated(kind, vis, column) for column, vis in sorted(by_column.items())]
    if not found:
        patterns = ", ".join(pattern for pattern, _ in KINDS)
        raise DataError(
            f"{str(root)!r} holds no calibrated measurement sets ({patterns}), nor do {', '.join(FOLDERS[1:])} in it; "
            "of a delivery without them scriptForPI.py, or hifa_restoredata, makes them"
        )
    return found


def _sets(folder: Path, pattern: str) -> list[str]:
    return [str(path) for path in sorted(folder.glob(pattern)) if is_table(str(path))]
