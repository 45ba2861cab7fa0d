"""Discs among the fields of an evaluation: how many are one row, and which false rows are pieces of them."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
from astropy.table import Table
from numpy.typing import NDArray

from casa_deepfocus.errors import ParameterError
from training.score import score_tables

LEAST_SNR = 10.0
"""Matched-filter SNR of the discs that are to be one row."""

NEAR = 0.5
"""Distance [half the sum of the disc's observed major axis and the beam] within which a row is on a disc."""


def measure(truth: Table, catalogue: Table) -> dict[str, Any]:
    """Count.

    Parameters
    ----------
    truth, catalogue : Table, as `training evaluate` writes them: of many fields, in the column `field`

    Returns
    -------
    dict : discs (of SNR `LEAST_SNR` and more), one_row, none, several; false (rows, of all fields), pieces (those on a
        disc), sources, found (of SNR 5 and more), rows
    """
    matching = score_tables(truth, catalogue).matching
    false = np.zeros(len(catalogue), dtype=bool)
    false[matching.false_positives] = True
    beam = np.sqrt(np.asarray(truth["beam_maj"], float) * truth["beam_min"])
    # A row on several discs belongs to the nearest.
    owner = np.full(len(catalogue), -1)
    for number, row in enumerate(catalogue):
        same = np.flatnonzero((np.asarray(truth["field"]) == row["field"]) & (np.asarray(truth["kind"]) == "disc"))
        reach = NEAR * (np.hypot(_of(truth, "fwhm_maj")[same], beam[same]) + beam[same]) / _of(truth, "cell")[same]
        distance = np.hypot(_of(truth, "x")[same] - row["x"], _of(truth, "y")[same] - row["y"])
        near = np.flatnonzero(distance < reach)
        if near.size:
            owner[number] = same[near[np.argmin(distance[near])]]
    bright = np.flatnonzero((np.asarray(truth["kind"]) == "disc") & (_of(truth, "snr") >= LEAST_SNR))
    pieces = false & (owner >= 0)
    one = none = 0
    found = {int(index) for index in matching.pairs[:, 0]}
    for disc in bright:
        extra = int((pieces & (owner == disc)).sum())
        one += int(disc in found and extra == 0)
        none += int(disc not in found)
    sure = _of(truth, "snr") >= 5.0
    return {
        "discs": int(bright.size), "one_row": one, "none": none, "several": int(bright.size) - one - none,
        "false": int(false.sum()), "pieces": int(pieces.sum()), "sources": int(sure.sum()),
        "found": int(sum(int(index) in found for index in np.flatnonzero(sure))), "rows": len(catalogue),
    }  # fmt: skip


def _of(table: Table, name: str) -> NDArray[np.float64]:
    return np.asarray(table[name], dtype=float)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of the command line."""
    parser.add_argument("folders", nargs="+", type=Path, help="what `training evaluate --out` has written")
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def run(args: argparse.Namespace) -> int:
    """Count and print, a line a folder."""
    results = {}
    for folder in args.folders:
        if not (folder / "truth.ecsv").exists():
            raise ParameterError("folders", str(folder), "holds no truth.ecsv", "training evaluate --out writes it")
        results[str(folder)] = measure(Table.read(folder / "truth.ecsv"), Table.read(folder / "catalogue.ecsv"))
    if args.json:
        sys.stdout.write(json.dumps(results) + "\n")
        return 0
    for name, counts in results.items():
        sys.stdout.write(f"{name}: " + ", ".join(f"{key} {value}" for key, value in counts.items()) + "\n")
    return 0
