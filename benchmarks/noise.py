"""Peaks of noise on empty simulated fields, beside the law that the search's level and the reliability rest on.

With `--fitted` the whole pipeline searches the fields, and its false alarms stand beside those that were asked for.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import sys
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from typing import Any

import numpy as np
from skimage.feature import peak_local_max

from casa_deepfocus import pipeline
from casa_deepfocus.core.detection import LineSearch, integrated_map
from casa_deepfocus.core.noise import channel_noise
from casa_deepfocus.core.reliability import NoisePeaks
from casa_deepfocus.core.whitening import as_natural
from casa_deepfocus.pipeline.blobs import line_cube

RATES = (1.0, 0.3, 0.1, 0.03)
"""False alarms a search that are asked for."""

LEVELS = {"line": (4.0, 4.5, 5.0, 5.5, 6.0), "integrated": (3.0, 3.5, 4.0, 4.5, 5.0)}


def count(job: tuple[str, int, int]) -> dict[str, tuple[list[int], list[float]]]:
    """Peaks found and peaks expected above LEVELS in the search of one empty field (preset, seed, index)."""
    from sim.cube import simulate

    preset, seed, index = job
    cube, _ = simulate(preset, seed, index, empty=True)
    # As the pipeline does.
    cube, _ = as_natural(cube, channel_noise(cube.data))
    sigma = channel_noise(cube.data)
    line, _ = line_cube(cube.data, sigma)
    inside = np.isfinite(cube.data).any(axis=0) & (np.nan_to_num(cube.pb).max(axis=0) > 0)
    maps = {"line": LineSearch(line, sigma).maximum()[0], "integrated": integrated_map(cube.data, sigma).image}
    usable, beam = int(inside.sum()), cube.beam_pixels()
    laws = {"line": NoisePeaks.of_cube(usable, beam, cube.nchan), "integrated": NoisePeaks.of_image(usable, beam)}
    out = {}
    for kind, image in maps.items():
        image = np.where(inside, np.nan_to_num(image), 0.0)
        levels = LEVELS[kind]
        places = peak_local_max(
            image, min_distance=max(1, round(0.5 * beam)), threshold_abs=levels[0], exclude_border=False
        )
        values = image[tuple(places.T)]
        out[kind] = [int((values > level).sum()) for level in levels], [float(laws[kind].expected(u)) for u in levels]
    return out


def alarms(job: tuple[str, int, int]) -> dict[str, list[int]]:
    """False alarms of the pipeline in one empty field (preset, seed, index), for each of RATES asked of a search."""
    from casa_deepfocus.models.runner import load_networks
    from sim.cube import simulate

    preset, seed, index = job
    cube, _ = simulate(preset, seed, index, empty=True)
    # Half of what is allowed in a cube is for either search; nothing else may hold a candidate back.
    options = pipeline.Options(minsnr=3.0, false_alarms=2.0 * RATES[0], candidates=10.0 * RATES[0], reliability=0.0)
    table = pipeline.run(cube, load_networks("", "cpu"), options).catalogue
    natural, _ = as_natural(cube, channel_noise(cube.data))
    usable = int((np.isfinite(natural.data).any(axis=0) & (np.nan_to_num(cube.pb).max(axis=0) > 0)).sum())
    line = np.isfinite(np.asarray(table["chan"], dtype=float))
    out = {}
    for kind, snr, law in (
        ("line", table["snr_line"][line], NoisePeaks.of_cube(usable, natural.beam_pixels(), cube.nchan)),
        ("integrated", table["snr_continuum"][~line], NoisePeaks.of_image(usable, natural.beam_pixels())),
    ):
        out[kind] = [int((np.asarray(snr) >= law.fitted().level(rate)).sum()) for rate in RATES]
    return out


def measure_alarms(preset: str, n: int, seed: int, workers: int) -> dict[str, list[dict[str, Any]]]:
    """Sums over `n` empty fields: for each search a list of {rate, found, expected}."""
    fields = _map(alarms, [(preset, seed, index) for index in range(n)], workers)
    return {
        kind: [
            {"rate": rate, "found": sum(field[kind][place] for field in fields), "expected": rate * n}
            for place, rate in enumerate(RATES)
        ]
        for kind in ("line", "integrated")
    }


def _map(function: Callable[[Any], Any], jobs: list[Any], workers: int) -> list[Any]:
    if workers <= 1:
        return [function(job) for job in jobs]
    # Forked workers would share the threads' locks of the networks' runtime.
    with ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn")) as pool:
        return list(pool.map(function, jobs))


def measure(preset: str, n: int, seed: int, workers: int) -> dict[str, list[dict[str, Any]]]:
    """Sums over `n` empty fields: for each kind of map a list of {level, found, expected}."""
    fields = _map(count, [(preset, seed, index) for index in range(n)], workers)
    return {
        kind: [
            {
                "level": level,
                "found": sum(field[kind][0][place] for field in fields),
                "expected": sum(field[kind][1][place] for field in fields),
            }
            for place, level in enumerate(levels)
        ]
        for kind, levels in LEVELS.items()
    }


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of the command line."""
    parser.add_argument("--preset", default="alma", help="preset of the simulator")
    parser.add_argument("--n", type=int, default=20, help="empty fields")
    parser.add_argument("--seed", type=int, default=1234)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--fitted", action="store_true", help="false alarms of the whole pipeline, by fitted SNR")
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def run(args: argparse.Namespace) -> int:
    """Measure and print."""
    result = (measure_alarms if args.fitted else measure)(args.preset, args.n, args.seed, args.workers)
    if args.json:
        sys.stdout.write(json.dumps(result) + "\n")
        return 0
    for kind, rows in result.items():
        sys.stdout.write(f"{kind}: peaks of {args.n} empty fields\n")
        for row in rows:
            asked = f"{row['rate']:4.2f} a search" if args.fitted else f"above {row['level']:.1f} sigma"
            sys.stdout.write(f"  {asked}   found {row['found']:6d}   expected {row['expected']:9.2f}\n")
    return 0
