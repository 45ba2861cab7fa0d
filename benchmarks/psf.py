"""A cube's PSFs as a few principal images: how many, how exact, and how much faster sources are subtracted."""

from __future__ import annotations

import argparse
import json
import sys
import time
from typing import Any

import numpy as np

from benchmarks.speed import simulate
from casa_deepfocus.core.psf import Imager, gaussian_transform

PLACES = ((0.06, 0.06), (0.83, 0.94), (0.5, 0.5))
"""Sources, as fractions of the field: two far corners and the middle."""


def measure(npix: int, nchan: int, seed: int = 1) -> dict[str, Any]:
    """Subtract three sources with the principal PSFs and with every channel's own.

    Returns
    -------
    dict : images, error (largest difference over the peak), seconds, seconds_exact, ratio
    """
    cube = simulate(npix, nchan, seed)
    start = time.perf_counter()
    fast = Imager(cube.psf, cube.shape)
    build = time.perf_counter() - start
    exact = Imager(cube.psf, cube.shape, tolerance=0.0)
    transforms = np.stack([gaussian_transform(fast.grid, fx * npix, fy * npix, [3.0, 2.0, 0.5]) for fx, fy in PLACES])
    spectra = np.ones((len(PLACES), nchan))
    images, seconds = [], []
    for imager in (fast, exact):
        data = np.zeros(cube.data.shape, np.float32)
        start = time.perf_counter()
        imager.subtract(data, transforms, spectra)
        seconds.append(time.perf_counter() - start)
        images.append(data)
    error = float(np.abs(images[0] - images[1]).max() / np.abs(images[1]).max())
    return {
        "shape": list(cube.data.shape), "principal_images": fast.rank, "error": error, "build_seconds": build,
        "seconds": seconds[0], "seconds_exact": seconds[1], "ratio": seconds[1] / seconds[0],
    }  # fmt: skip


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of the command line."""
    parser.add_argument("--npix", type=int, default=360, help="side of the image [pixel]")
    parser.add_argument("--nchan", type=int, default=128)
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def run(args: argparse.Namespace) -> int:
    """Measure and print."""
    result = measure(args.npix, args.nchan)
    if args.json:
        sys.stdout.write(json.dumps(result) + "\n")
        return 0
    for name, value in result.items():
        sys.stdout.write(f"  {name:18s} {value if not isinstance(value, float) else format(value, '.3g')}\n")
    return 0
