"""Seconds of each step and peak memory of one search, in a warm process, on one simulated cube with its PSF.

The cube is simulated in a process of its own, so that the memory is that of the search: the cube, its PSF, the
networks and what they need. The search runs twice; the second run is timed. As a scale that travels between
machines stands beside it one pass of FFTs over the same cube (forward and back, padded to twice the field).
"""

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
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from scipy import fft

from casa_deepfocus.core.cube import Cube
from casa_deepfocus.errors import ParameterError

ARRAYS = ("data", "psf", "pb", "freq", "beams")


@dataclass(frozen=True)
class Measurement:
    """What one search takes.

    Attributes
    ----------
    shape : (nchan, ny, nx)
    sources : int, found
    seconds : float, of the second run
    first_seconds : float, of the first run, with the networks' own warming up
    steps : dict, seconds of each step of the second run
    fft_seconds : float, one pass of FFTs over the cube, best of three
    over_fft : float, seconds / fft_seconds
    peak_memory : float [MiB], of the process
    input_memory : float [MiB], of the cube, its PSF and primary beam
    cpus : int, that the process may use
    """

    shape: tuple[int, int, int]
    sources: int
    seconds: float
    first_seconds: float
    steps: dict[str, float]
    fft_seconds: float
    over_fft: float
    peak_memory: float
    input_memory: float
    cpus: int


def simulate(npix: int, nchan: int, seed: int) -> Cube:
    """A cube with six sources at several SNRs, two of them blended, by the exact fast simulator."""
    from sim.cube import Coverage, Grid, simulate_cube
    from sim.sky import Source

    rng = np.random.default_rng(seed)
    scale = npix / 360.0
    grid = Grid(npix=npix, nchan=nchan)
    places = [(180, 180), (250, 200), (120, 140), (150, 250), (240, 120), (246, 124)]
    strengths = (40.0, 25.0, 12.0, 10.0, 15.0, 12.0)
    sigma = 1e-3
    sources = [
        Source(
            x=x * scale, y=y * scale, fwhm_maj=6.0, fwhm_min=4.0, pa=30.0 * index, line=strength * sigma,
            chan=nchan * (0.2 + 0.12 * index), line_fwhm=max(3.0, nchan / 16.0),
            continuum=0.2 * strength * sigma * (index % 2 == 0),
        )
        for index, ((x, y), strength) in enumerate(zip(places, strengths, strict=True))
    ]  # fmt: skip
    return simulate_cube(sources, Coverage(), grid, sigma, rng)


def fft_pass(data: np.ndarray) -> float:
    """Seconds of one rfft2 and irfft2 of every channel, padded to twice the field; best of three."""
    grid = tuple(fft.next_fast_len(2 * n, real=True) for n in data.shape[1:])
    best = np.inf
    for _ in range(3):
        start = time.perf_counter()
        for plane in data:
            fft.irfft2(fft.rfft2(np.nan_to_num(plane), s=grid, workers=-1), s=grid, workers=-1)
        best = min(best, time.perf_counter() - start)
    return float(best)


def measure(cube: Cube, search: Callable[[Cube], Any]) -> Measurement:
    """Search a cube twice and measure the second time.

    Parameters
    ----------
    cube : Cube
    search : callable, Cube -> result with `catalogue` and `timings` (`pipeline.Result`)
    """
    times = []
    for _ in range(2):
        start = time.perf_counter()
        result = search(cube)
        times.append(time.perf_counter() - start)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1024.0 if sys.platform != "darwin" else 1024.0**2)
    reference = fft_pass(cube.data)
    return Measurement(
        shape=cube.data.shape,
        sources=len(result.catalogue),
        seconds=times[1],
        first_seconds=times[0],
        steps={name: float(value) for name, value in result.timings.items()},
        fft_seconds=reference,
        over_fft=times[1] / reference,
        peak_memory=peak,
        input_memory=sum(getattr(cube, name).nbytes for name in ("data", "psf", "pb")) / 1024.0**2,
        cpus=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
    )


def _save(folder: str, npix: int, nchan: int, seed: int) -> None:
    cube = simulate(npix, nchan, seed)
    for name in ARRAYS:
        np.save(Path(folder) / f"{name}.npy", getattr(cube, name))
    rest = {f.name: getattr(cube, f.name) for f in fields(cube) if f.name not in (*ARRAYS, "wcs")}
    (Path(folder) / "cube.json").write_text(json.dumps(rest), encoding="utf-8")


def _load(folder: str) -> Cube:
    arrays = {name: np.load(Path(folder) / f"{name}.npy") for name in ARRAYS}
    return Cube(**arrays, **json.loads((Path(folder) / "cube.json").read_text("utf-8")))


def _measure(folder: str, models: str, device: str) -> Measurement:
    from casa_deepfocus.models.runner import load_networks

    networks = load_networks(models, device)
    return measure(_load(folder), lambda cube: _run(cube, networks))


def _run(cube: Cube, networks: Any) -> Any:
    from casa_deepfocus import pipeline

    return pipeline.run(cube, networks, pipeline.Options())


def lines(result: Measurement) -> list[str]:
    """The measurement for people."""
    nchan, ny, nx = result.shape
    rows = [f"cube {nx} x {ny} x {nchan}, {result.cpus} cores, {result.sources} sources found"]
    rows += [f"  {name:<28s}{seconds:9.3f} s" for name, seconds in result.steps.items()]
    rows += [
        f"  {'all but reading':<28s}{result.seconds:9.3f} s  (first run {result.first_seconds:.3f} s)",
        f"  {'one FFT pass over the cube':<28s}{result.fft_seconds:9.3f} s  (ratio {result.over_fft:.1f})",
        f"  {'peak memory':<28s}{result.peak_memory:9.0f} MiB  (cube, PSF and PB {result.input_memory:.0f} MiB)",
    ]
    return rows


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of ``python -m benchmarks speed``."""
    parser.add_argument("--npix", type=int, default=360, help="side of the image")
    parser.add_argument("--nchan", type=int, default=128)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--models", default="", help="folder of networks; the shipped set when empty")
    parser.add_argument("--device", default="cpu", choices=("auto", "cpu", "cuda"))
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def run(args: argparse.Namespace) -> int:
    """Measure in child processes and print."""
    for name, smallest in (("npix", 64), ("nchan", 8)):
        if getattr(args, name) < smallest:
            raise ParameterError(f"--{name}", getattr(args, name), "too small to search", f"Use {smallest} or more")
    context = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as folder:
        with ProcessPoolExecutor(1, mp_context=context) as pool:
            pool.submit(_save, folder, args.npix, args.nchan, args.seed).result()
        with ProcessPoolExecutor(1, mp_context=context) as pool:
            result = pool.submit(_measure, folder, args.models, args.device).result()
    text = json.dumps(asdict(result)) if args.json else "\n".join(lines(result))
    sys.stdout.write(text + "\n")
    return 0
