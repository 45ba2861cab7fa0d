"""Seconds of the six networks in one search, each by itself and all together, beside the whole search.

The networks run where they run in practice: inside the pipeline, on simulated fields, wrapped with clocks. Their
sessions are loaded before and every field is searched once to warm up; what stands in the table is the median over the
repeats, summed over the networks' calls of one search, and the mean over the fields. CPU seconds, those of all threads,
count the work also where other processes share the cores; on a GPU only wall seconds tell anything.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from casa_deepfocus import pipeline
from casa_deepfocus.core.cube import Cube
from casa_deepfocus.errors import ParameterError

NAMES = ("blobs_finder", "deep_gru", "fwhm_maj", "fwhm_min", "pa", "flux")


@dataclass(frozen=True)
class Use:
    """What was asked of something that takes time, and what it took.

    Attributes
    ----------
    calls : float
    examples : float, maps, spectra or stamps of all calls together
    seconds : float, wall
    cpu_seconds : float, of all threads of the process
    """

    calls: float = 0.0
    examples: float = 0.0
    seconds: float = 0.0
    cpu_seconds: float = 0.0

    def __add__(self, other: Use) -> Use:
        return Use(*(a + b for a, b in zip(self.values(), other.values(), strict=True)))

    def values(self) -> tuple[float, float, float, float]:
        """The four numbers in order."""
        return self.calls, self.examples, self.seconds, self.cpu_seconds


@dataclass
class Timed:
    """A network that remembers what it was used for."""

    network: Callable[[NDArray], NDArray]
    use: Use = field(default_factory=Use)

    def __call__(self, inputs: NDArray) -> NDArray:
        wall, cpu = time.perf_counter(), time.process_time()
        output = self.network(inputs)
        self.use += Use(1, len(inputs), time.perf_counter() - wall, time.process_time() - cpu)
        return output


class TimedNetworks:
    """The six networks of `networks`, each `Timed`."""

    def __init__(self, networks: pipeline.Networks) -> None:
        self.info: dict[str, Any] = networks.info
        self.blobs_finder, self.deep_gru, self.fwhm_maj, self.fwhm_min, self.pa, self.flux = (
            Timed(getattr(networks, name)) for name in NAMES
        )

    def uses(self) -> dict[str, Use]:
        """What each network was used for so far."""
        return {name: getattr(self, name).use for name in NAMES}


@dataclass(frozen=True)
class Measurement:
    """The mean over the fields.

    Attributes
    ----------
    shape : (nchan, ny, nx)
    beam : float [pixel], FWHM
    fields, repeats : int
    sources : float, found in a field
    rounds : float, searches of the residual of a field
    networks : dict, name -> Use
    together : Use, of all networks
    search : Use, of the whole search
    device, threads, onnxruntime : where the networks ran
    """

    shape: tuple[int, ...]
    beam: float
    fields: int
    repeats: int
    sources: float
    rounds: float
    networks: dict[str, Use]
    together: Use
    search: Use
    device: str
    threads: int
    onnxruntime: str


def _median(uses: Sequence[Use]) -> Use:
    return Use(*np.median([use.values() for use in uses], axis=0).tolist())


def _mean(uses: Sequence[Use]) -> Use:
    return Use(*np.mean([use.values() for use in uses], axis=0).tolist())


def measure(
    cubes: Sequence[Cube], networks: pipeline.Networks, *, repeats: int = 3, options: pipeline.Options | None = None
) -> Measurement:
    """Search every cube 1 + `repeats` times and time the repeats.

    Parameters
    ----------
    cubes : sequence of Cube, of one shape
    networks : Networks, loaded
    repeats : int
    options : Options, of the search
    """
    rows: dict[str, list[Use]] = {name: [] for name in (*NAMES, "together", "search")}
    sources, rounds = [], []
    for cube in cubes:
        runs: dict[str, list[Use]] = {name: [] for name in rows}
        for repeat in range(1 + repeats):
            timed = TimedNetworks(networks)
            wall, cpu = time.perf_counter(), time.process_time()
            result = pipeline.run(cube, timed, options)
            whole = Use(1, 1, time.perf_counter() - wall, time.process_time() - cpu)
            if not repeat:
                continue
            uses = timed.uses()
            for name, use in {**uses, "together": sum(uses.values(), Use()), "search": whole}.items():
                runs[name].append(use)
        for name in rows:
            rows[name].append(_median(runs[name]))
        sources.append(len(result.catalogue))
        rounds.append(result.counts.get("rounds", 0))
    means = {name: _mean(uses) for name, uses in rows.items()}
    together, search = means.pop("together"), means.pop("search")
    info = networks.info
    return Measurement(
        shape=cubes[0].data.shape, beam=float(cubes[0].beam_pixels()), fields=len(cubes), repeats=repeats,
        sources=float(np.mean(sources)), rounds=float(np.mean(rounds)), networks=means, together=together,
        search=search, device=str(info.get("device", "cpu")), threads=int(info.get("threads", 1)),
        onnxruntime=str(info.get("onnxruntime", "")),
    )  # fmt: skip


def lines(result: Measurement) -> list[str]:
    """The measurement for people."""
    nchan, ny, nx = result.shape
    rows = [
        f"cube {nx} x {ny} x {nchan}, beam {result.beam:.1f} pixels, {result.fields} fields, {result.sources:.1f} "
        f"sources found and {result.rounds:.1f} rounds in each; {result.device}, {result.threads} threads, "
        f"onnxruntime {result.onnxruntime}; median of {result.repeats}",
        f"  {'':<18s}{'calls':>7s}{'examples':>10s}{'seconds':>10s}{'CPU s':>10s}{'share':>8s}",
    ]
    named = [*result.networks.items(), ("together", result.together), ("whole search", result.search)]
    for name, use in named:
        share = use.seconds / max(result.together.seconds, 1e-12)
        text = f"{share:8.1%}" if name in NAMES else ""
        rows.append(
            f"  {name:<18s}{use.calls:7.1f}{use.examples:10.1f}{use.seconds:10.4f}{use.cpu_seconds:10.4f}{text}"
        )
    return rows


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of ``python -m benchmarks networks``."""
    parser.add_argument("--preset", default="paper", help="preset of the simulator, or its file")
    parser.add_argument("--n", type=int, default=3, help="fields")
    parser.add_argument("--seed", type=int, default=31)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=0, help="how often the residual is searched at most; 0: default")
    parser.add_argument("--models", default="", help="folder of networks; the shipped set when empty")
    parser.add_argument("--device", default="cpu", choices=("auto", "cpu", "cuda"))
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def run(args: argparse.Namespace) -> int:
    """Measure and print."""
    from casa_deepfocus.models.runner import load_networks
    from sim.cube import simulate

    for name in ("n", "repeats"):
        if getattr(args, name) < 1:
            raise ParameterError(f"--{name}", getattr(args, name), "must be at least 1")
    networks = load_networks(args.models, args.device)
    cubes = [simulate(args.preset, args.seed, index)[0] for index in range(args.n)]
    options = pipeline.Options()
    if args.rounds:
        options = replace(options, rounds=args.rounds)
    result = measure(cubes, networks, repeats=args.repeats, options=options)
    sys.stdout.write((json.dumps(asdict(result)) if args.json else "\n".join(lines(result))) + "\n")
    return 0
