"""Cubes an hour at the paper's size: CASA and the fast simulator, side by side in one run."""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import resource
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from casa_deepfocus.errors import MissingDependencyError, ParameterError

PRESET = "paper"
THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


def fast_cubes(seed: int, first: int, number: int, device: str | None) -> dict[str, Any]:
    """Fields of the preset with all channels and noise, written to nothing; the first one's geometry apart.

    Returns
    -------
    dict : number; seconds, of all cubes; geometry [s], what the very first cube takes longer; memory [GiB]
    """
    from sim.cube import field_of, nominal_transfer
    from sim.response import response
    from sim.stamps import source_stamps
    from sim.synthesis import synthesize

    def one(index: int) -> None:
        field, noise = field_of(PRESET, seed, index)
        resp = response(field.coverage, field.grid)
        parts = [source_stamps(source, field.grid, field.coverage.diameter()) for source in field.sources]
        image = synthesize(
            parts, nominal_transfer(resp), noise=resp.noise, sigma=field.noise, white=field.white,
            rng=np.random.Generator(np.random.SFC64(noise)), device=device,
        )  # fmt: skip
        # Where a device computes, it stays there; reading one pixel waits for it.
        float(image[-1, -1, -1])

    start = time.perf_counter()
    one(first)
    middle = time.perf_counter()
    for index in range(first, first + number):
        one(index)
    seconds = time.perf_counter() - middle
    return {
        "number": number, "seconds": seconds, "geometry": middle - start - seconds / number, "memory": _memory(),
    }  # fmt: skip


def casa_cubes(seed: int, first: int, number: int) -> dict[str, Any]:
    """The same fields by CASA."""
    from sim.casa_cube import simulate_casa

    start = time.perf_counter()
    for index in range(first, first + number):
        simulate_casa(PRESET, seed, index)
    return {"number": number, "seconds": time.perf_counter() - start, "memory": _memory()}


def _memory() -> float:
    """Peak memory of this process [GiB]."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def side_by_side(work: Callable[..., dict[str, Any]], workers: int, *arguments: Any) -> dict[str, Any]:
    """The same work in processes at once, one thread each.

    Returns
    -------
    dict : cubes_per_hour, of all workers together; seconds_per_cube, of one; memory [GiB], of the largest; geometry [s]
    """
    seed, number, *rest = arguments
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=context) as pool:
        jobs = [pool.submit(work, seed, worker * number, number, *rest) for worker in range(workers)]
        results = [job.result() for job in jobs]
    return {
        "workers": workers, "cubes": workers * number,
        "cubes_per_hour": 3600.0 * sum(result["number"] / result["seconds"] for result in results),
        "seconds_per_cube": float(np.mean([result["seconds"] / result["number"] for result in results])),
        "geometry": max(result.get("geometry", 0.0) for result in results),
        "memory": max(result["memory"] for result in results),
    }  # fmt: skip


def measure(
    number: int, casa: int, workers: int, device: str | None, seed: int, log: Callable[[str], None]
) -> list[dict[str, Any]]:
    """Every backend in turn; `casa` cubes a worker for CASA (0 leaves it out), `number` for the others."""
    for name in THREADS:
        os.environ[name] = "1"
    rows: list[dict[str, Any]] = []

    def add(name: str, row: dict[str, Any]) -> None:
        rows.append({"backend": name, "load": os.getloadavg()[0]} | row)
        log(line(rows[-1]))

    add(f"fast, numpy, {workers} processes", side_by_side(fast_cubes, workers, seed, number, None))
    if device is not None:
        try:
            add(f"fast, torch on {device}", side_by_side(fast_cubes, 1, seed, number, device))
        except (ParameterError, MissingDependencyError) as error:
            log("no GPU" if device.startswith("cuda") else str(error))
    if casa:
        home = os.getcwd()
        with tempfile.TemporaryDirectory() as folder:
            # Programs that CASA starts in the workers leave their logs here.
            os.environ.setdefault("PYTHONPATH", str(Path(__file__).resolve().parents[1]))
            os.chdir(folder)
            try:
                add(f"casa, {workers} processes", side_by_side(casa_cubes, workers, seed, casa))
            finally:
                os.chdir(home)
        rows[-1]["fast_over_casa"] = rows[0]["cubes_per_hour"] / rows[-1]["cubes_per_hour"]
    return rows


def line(row: dict[str, Any]) -> str:
    """One row of the table."""
    text = (
        f"  {row['backend']:24s} {row['cubes_per_hour']:9.0f} cubes/h ({row['seconds_per_cube']:.3f} s a cube each, "
        f"{row['cubes']} cubes), {row['memory']:.1f} GiB a worker, load average {row['load']:.1f}"
    )
    return text + (f"; first cube's geometry {row['geometry']:.1f} s apart" if row["geometry"] > 0 else "")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of the command line."""
    parser.add_argument("--n", type=int, default=10, help="cubes a worker, fast")
    parser.add_argument("--casa", type=int, default=1, help="cubes a worker, CASA (a minute and more each); 0 for none")
    parser.add_argument("--workers", type=int, default=2, help="processes side by side")
    parser.add_argument("--device", help="torch device to measure too: cpu or cuda")
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def run(args: argparse.Namespace) -> int:
    """Measure and print."""
    for name in ("n", "workers"):
        if getattr(args, name) < 1:
            raise ParameterError(f"--{name}", getattr(args, name), "less than 1", "measure at least one")
    if not args.json:
        sys.stdout.write(
            f"cubes of the preset {PRESET}, 360 x 360 x 128 with noise, written to nothing; "
            f"{os.cpu_count()} processors, load average before {os.getloadavg()[0]:.1f}\n"
        )

    def log(text: str) -> None:
        (sys.stderr if args.json else sys.stdout).write(text + "\n")
        sys.stdout.flush()

    rows = measure(args.n, args.casa, args.workers, args.device, args.seed, log)
    if args.json:
        sys.stdout.write(json.dumps(rows) + "\n")
    elif "fast_over_casa" in rows[-1]:
        sys.stdout.write(f"  fast over casa, same processes: {rows[-1]['fast_over_casa']:.0f}\n")
    return 0
