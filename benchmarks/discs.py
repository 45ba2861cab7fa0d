"""Exponential discs: how many are one row, in fields with one disc each or among the fields of an evaluation."""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from astropy.table import Table
from numpy.typing import NDArray

from casa_deepfocus.errors import ParameterError
from casa_deepfocus.models.runner import load_networks
from casa_deepfocus.pipeline import run as search
from sim.cube import simulate_cube
from sim.discs import Rotation
from sim.response import Coverage, Grid, response
from sim.sky import disc
from sim.truth import truth_table
from training.score import score_tables

GRID, NOISE = Grid(npix=96, nchan=32), 1e-3
"""Field of a planted disc, and the noise of its channels [Jy/beam]."""

KINDS = ("continuum", "still", "rotating")
"""Planted discs: of continuum alone; with a line besides that is the same all over it; with one that rotates."""

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
    for index in bright:
        extra = int((pieces & (owner == index)).sum())
        one += int(index in found and extra == 0)
        none += int(index not in found)
    sure = _of(truth, "snr") >= 5.0
    return {
        "discs": int(bright.size), "one_row": one, "none": none, "several": int(bright.size) - one - none,
        "false": int(false.sum()), "pieces": int(pieces.sum()), "sources": int(sure.sum()),
        "found": int(sum(int(number) in found for number in np.flatnonzero(sure))), "rows": len(catalogue),
    }  # fmt: skip


def plant(number: int, seed: int, networks: Any) -> dict[str, Any]:
    """Search a field with one disc of the kind number % 3, 0.6 to 4 beams wide, of SNR 15 to 400.

    Returns
    -------
    dict : kind, size [beam], snr, rows, seconds (of processor time); profile, of the brightest row
    """
    rng = np.random.default_rng([seed, number])
    kind = KINDS[number % len(KINDS)]
    beam = float(response(Coverage(), GRID).middle_beam()[:2].mean() ** 0.5 * 2.3548)
    size, wanted = (float(np.exp(rng.uniform(*np.log(ends)))) for ends in ((0.6, 4.0), (15.0, 400.0)))
    speed = {"continuum": 0.01, "still": 0.01, "rotating": float(rng.uniform(1.0, 5.0))}[kind]
    rotation = Rotation(speed, 0.1 * size * beam, 3.0, float(rng.uniform(20.0, 75.0)))
    x, y = rng.uniform(0.4, 0.6, 2) * GRID.npix
    pa, share = float(rng.uniform(0.0, 180.0)), 0.0 if kind == "continuum" else 3.0

    def source(flux: float) -> Any:
        return disc(
            float(x), float(y), size * beam, pa, rotation, continuum=flux, line=share * flux, chan=0.5 * GRID.nchan
        )  # fmt: skip

    noiseless = simulate_cube([source(1.0)], Coverage(), GRID, NOISE, np.random.default_rng(0))
    row = truth_table([source(1.0)], response(Coverage(), GRID), noiseless, NOISE)[0]
    unit = np.hypot(np.nan_to_num(row["snr_line"]), np.nan_to_num(row["snr_continuum"]))
    cube = simulate_cube([source(wanted / float(unit))], Coverage(), GRID, NOISE, rng)
    start = time.process_time()
    table = search(cube, networks).catalogue
    seconds = time.process_time() - start
    profile = str(table["profile"][0]) if len(table) and "profile" in table.colnames else ""
    return {"kind": kind, "size": size, "snr": wanted, "rows": len(table), "profile": profile, "seconds": seconds}


def planted(n: int, seed: int) -> dict[str, Any]:
    """`plant` of n fields, counted by kind."""
    networks = load_networks("", "cpu")
    fields = [plant(number, seed, networks) for number in range(n)]
    out: dict[str, Any] = {}
    for kind in KINDS:
        mine = [field for field in fields if field["kind"] == kind]
        rows = np.array([field["rows"] for field in mine])
        out[kind] = {
            "discs": len(mine), "one_row": int((rows == 1).sum()), "none": int((rows == 0).sum()),
            "rows": int(rows.sum()), "exponential": sum(field["profile"] == "exponential" for field in mine),
            "seconds": float(np.mean([field["seconds"] for field in mine])) if mine else 0.0,
        }  # fmt: skip
    return out


def _of(table: Table, name: str) -> NDArray[np.float64]:
    return np.asarray(table[name], dtype=float)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of the command line."""
    parser.add_argument("--planted", type=int, default=0, metavar="N", help="search N fields with one disc each")
    parser.add_argument("--seed", type=int, default=77)
    parser.add_argument("folders", nargs="*", type=Path, help="what `training evaluate --out` has written")
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def run(args: argparse.Namespace) -> int:
    """Count and print, a line a folder."""
    if not (args.folders or args.planted > 0):
        raise ParameterError("folders", "", "nothing is asked for", "name folders, or --planted N")
    results = planted(args.planted, args.seed) if args.planted else {}
    for folder in args.folders:
        if not (folder / "truth.ecsv").exists():
            raise ParameterError("folders", str(folder), "holds no truth.ecsv", "training evaluate --out writes it")
        results[str(folder)] = measure(Table.read(folder / "truth.ecsv"), Table.read(folder / "catalogue.ecsv"))
    if args.json:
        sys.stdout.write(json.dumps(results) + "\n")
        return 0
    for name, counts in results.items():
        sys.stdout.write(f"{name}: " + ", ".join(f"{key} {value:.4g}" for key, value in counts.items()) + "\n")
    return 0
