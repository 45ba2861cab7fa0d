"""Completeness by injection into one cube, beside that by simulation of many.

Small fields are simulated and searched. The artificial sources of ``completeness=N`` are put into each cube, and, the
second way, simulated with the field's own sources by the fast simulator, with fresh noise for every search. Printed
are the shares found by both ways, by SNR, and their difference over its binomial error.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

from casa_deepfocus import pipeline
from casa_deepfocus.core.cube import Cube
from casa_deepfocus.core.geometry import covariance_to_shape
from casa_deepfocus.models import runner
from casa_deepfocus.pipeline.completeness import Injected, _Work, measure
from sim.coverage import Coverage, Grid
from sim.cube import simulate_cube
from sim.sky import Source

EDGES = (2.0, 4.0, 6.0, 9.0, 20.0)
"""SNR between which shares are compared."""

NOISE = 1e-3


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of the command."""
    parser.add_argument("--fields", type=int, default=2)
    parser.add_argument("--number", type=int, default=40, help="artificial sources in each")
    parser.add_argument("--npix", type=int, default=128)
    parser.add_argument("--nchan", type=int, default=24)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", type=Path, help="a file for the numbers")


def sky(npix: int, nchan: int) -> list[Source]:
    """A field's own sources: one with line and continuum, one line."""
    return [
        Source(0.4 * npix, 0.55 * npix, 6.0, 4.0, 30.0, 5e-3, 0.0, 30e-3, 0.3 * nchan, 4.0),
        Source(0.7 * npix, 0.3 * npix, 4.0, 3.0, 80.0, 0.0, 0.0, 15e-3, 0.7 * nchan, 4.0),
    ]


def as_source(item: Injected, cube: Cube) -> Source:
    """An artificial source as the simulator's: its fluxes are those on the sky."""
    c = item.component
    planes = len(cube.pb)
    plane = cube.pb[round(c.chan) if planes > 1 and c.has_line else planes // 2]
    pb = float(plane[round(c.y), round(c.x)])
    maj, minor, pa = (float(value) for value in covariance_to_shape(c.covariance))
    return Source(c.x, c.y, maj, minor, pa, c.cont / pb, 0.0, c.amp / pb, c.chan, c.fwhm)


def field(seed: int, args: argparse.Namespace, networks: Any) -> tuple[list[Injected], list[Injected]]:
    """The artificial sources of one field, as found in both ways."""
    options, grid, own = pipeline.Options(), Grid(npix=args.npix, nchan=args.nchan), sky(args.npix, args.nchan)
    cube = simulate_cube(own, Coverage(), grid, NOISE, np.random.default_rng([seed, 0]))
    result = pipeline.run(cube, networks, options)
    measured = measure(cube, networks, options, result, args.number)
    if measured is None:
        return [], []
    work, simulated = _Work(cube, options, result), []
    for number, batch in enumerate(work.apart([work.draw(index) for index in range(args.number)])):
        more = [as_source(item, cube) for item in batch]
        fresh = simulate_cube([*own, *more], Coverage(), grid, NOISE, np.random.default_rng([seed, 1 + number]))
        simulated += work.judged(batch, pipeline.run(fresh, networks, options).catalogue)
    return list(measured.sources), simulated


def rows_of(injected: list[Injected], simulated: list[Injected]) -> list[dict[str, float]]:
    """Shares found between the `EDGES`, and the difference over its binomial error."""
    rows = []
    for low, high in [*zip(EDGES[:-1], EDGES[1:], strict=True), (EDGES[0], EDGES[-1])]:
        one, other = ([item.found for item in some if low <= item.snr <= high] for some in (injected, simulated))
        if not one:
            continue
        number, both = len(one), (sum(one) + sum(other)) / (len(one) + len(other))
        error = float(np.sqrt(2.0 * both * (1.0 - both) / number))
        difference = sum(one) / number - sum(other) / number
        rows.append({
            "low": low, "high": high, "number": number, "injected": sum(one) / number, "simulated": sum(other) / number,
            "pull": difference / error if error > 0 else 0.0,
        })  # fmt: skip
    return rows


def run(args: argparse.Namespace) -> int:
    """Simulate, inject, compare, print."""
    networks = runner.load_networks("", "cpu")
    injected: list[Injected] = []
    simulated: list[Injected] = []
    for seed in range(args.seed, args.seed + args.fields):
        one, other = field(seed, args, networks)
        injected, simulated = injected + one, simulated + other
    rows = rows_of(injected, simulated)
    for row in rows:
        sys.stdout.write(
            f"SNR {row['low']:g} to {row['high']:g}: {row['number']} sources, {row['injected']:.2f} by injection, "
            f"{row['simulated']:.2f} by simulation, difference {row['pull']:.1f} errors\n"
        )
    if args.json:
        args.json.write_text(json.dumps(rows, indent=1), encoding="utf-8")
    return 0
