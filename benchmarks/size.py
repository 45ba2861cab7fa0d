"""Seconds and peak memory of a search against the size of the cube, each size in a process of its own, in one run.

Memory is the peak of the process less what it held before the search: networks, libraries, and the input (cube, PSF
and primary beam), which is told apart. Small cubes are dominated by what a search needs whatever the size.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import resource
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import psutil

from benchmarks import speed
from casa_deepfocus.errors import ParameterError

SHAPES = ("128x64", "256x64", "256x128", "360x128")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of the command."""
    parser.add_argument("shapes", nargs="*", default=list(SHAPES), metavar="NPIXxNCHAN")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", type=Path, help="a file for the numbers")


def parse(text: str) -> tuple[int, int]:
    """(npix, nchan) of a word like 256x128.

    Raises
    ------
    ParameterError
    """
    try:
        npix, nchan = (int(part) for part in text.split("x"))
    except ValueError:
        npix = nchan = 0
    if npix < 1 or nchan < 1:
        raise ParameterError("shapes", text, "is no size", "For example 256x128: pixels of a side, channels")
    return npix, nchan


def search(folder: str, npix: int, nchan: int) -> dict[str, Any]:
    """Search a saved cube in this process, and measure."""
    from casa_deepfocus import pipeline
    from casa_deepfocus.models import runner

    cube = speed._load(folder)
    networks = runner.load_networks("", "cpu")
    before, start = psutil.Process().memory_info().rss, time.perf_counter()
    result = pipeline.run(cube, networks)
    seconds = time.perf_counter() - start
    # Linux counts in kibibytes.
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    voxels = cube.data.size
    return {
        "npix": npix, "nchan": nchan, "voxels": voxels, "seconds": seconds, "sources": len(result.catalogue),
        "input": (cube.data.nbytes + cube.psf.nbytes + cube.pb.nbytes) / voxels,
        "memory": max(0, peak - before) / voxels, "peak": peak,
    }  # fmt: skip


def measure(npix: int, nchan: int, seed: int) -> dict[str, Any]:
    """One size: simulated in one process, searched in another."""
    context = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory(prefix="size-") as folder:
        with ProcessPoolExecutor(1, mp_context=context) as pool:
            pool.submit(speed._save, folder, npix, nchan, seed).result()
        with ProcessPoolExecutor(1, mp_context=context) as pool:
            return pool.submit(search, folder, npix, nchan).result()


def line(row: dict[str, Any]) -> str:
    """The numbers of a size in words."""
    return (
        f"{row['npix']} x {row['npix']} x {row['nchan']}: {row['voxels'] / 1e6:.1f} M voxels, {row['seconds']:.1f} s "
        f"({1e6 * row['seconds'] / row['voxels']:.2f} us a voxel), {row['sources']} sources; input {row['input']:.0f} "
        f"bytes a voxel, the search {row['memory']:.1f} more, {row['peak'] / 2**30:.2f} GiB in all"
    )


def run(args: argparse.Namespace) -> int:
    """Measure all sizes, print."""
    rows = []
    for npix, nchan in [parse(text) for text in args.shapes]:
        rows.append(measure(npix, nchan, args.seed))
        sys.stdout.write(line(rows[-1]) + "\n")
        sys.stdout.flush()
    if args.json:
        args.json.write_text(json.dumps(rows, indent=1), encoding="utf-8")
    return 0
