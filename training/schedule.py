"""The whole schedule of section 4.5 under one budget: `python -m training schedule`.

First stage: all six networks on true sources; second stage: each but the first on what its predecessors predict.
On a GPU the networks of a step train side by side, as processes that share it (they are small); on a CPU one after
the other. The schedule comes in three parts that can be run one by one, and a part that was cut short again.
"""

from __future__ import annotations

import argparse
import logging
import os
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path

from casa_deepfocus.errors import ParameterError, ProductError
from training.checkpoint import CHECKPOINT
from training.networks import NETWORKS
from training.train import choose_device, keep_first

log = logging.getLogger("training")

PARTS = 3
MORPHOLOGY = ("fwhm_maj", "fwhm_min", "pa")
ALONE = {
    1: {"blobs_finder": 0.46, "deep_gru": 0.14, "fwhm_maj": 0.065, "fwhm_min": 0.065, "pa": 0.065, "flux": 0.065},
    2: {"deep_gru": 0.05, "fwhm_maj": 0.025, "fwhm_min": 0.025, "pa": 0.025, "flux": 0.015},
}
"""Part of the whole budget that each network has on a CPU, by stage."""

HELD = 0.8
"""Part of Blobs Finder's budget in which the quick schedule of preset 'paper' holds its bottleneck local."""

FREE_LEARNING_RATE = 1e-4
"""Of the rest, in which its 33.6 million weights learn freely: the paper's working rate."""

TOGETHER = {1: 0.66, 2: {"deep_gru": 0.12, "fwhm_maj": 0.12, "flux": 0.08}}
"""The same on a GPU, where a step's networks run side by side; 2 % are left for starting them."""


@dataclass(frozen=True)
class Step:
    """Networks that train at the same time, each with its budget [minute] of the stage.

    Stage 0 is the first one of a Blobs Finder whose bottleneck is held local. `until` is the part of this budget that
    is spent when the step ends.
    """

    part: int
    stage: int
    networks: tuple[str, ...]
    minutes: float
    until: float = 1.0


def plan(minutes: float, *, together: bool, held: bool = False) -> list[Step]:
    """The steps of a budget, in order.

    Parameters
    ----------
    minutes : float, of the whole schedule
    together : bool, a step's networks side by side (GPU), else one after the other
    held : bool, Blobs Finder's bottleneck is held local at first
    """
    if held:
        steps = plan(minutes, together=together)
        first = next(step for step in steps if "blobs_finder" in step.networks)
        whole = first.minutes
        steps = [replace(step, minutes=(1.0 - HELD) * whole) if step.networks == ("blobs_finder",) else step
                 for step in steps]  # fmt: skip
        return [Step(1, 0, ("blobs_finder",), HELD * whole), *steps]
    if together:
        first, second = TOGETHER[1] * minutes, TOGETHER[2]
        return [
            Step(1, 1, NETWORKS, first, 0.5),
            Step(2, 1, NETWORKS, first),
            Step(3, 2, ("deep_gru",), second["deep_gru"] * minutes),
            Step(3, 2, MORPHOLOGY, second["fwhm_maj"] * minutes),
            Step(3, 2, ("flux",), second["flux"] * minutes),
        ]
    steps = [Step(1 if name == "blobs_finder" else 2, 1, (name,), ALONE[1][name] * minutes) for name in NETWORKS]
    return steps + [Step(3, 2, (name,), ALONE[2][name] * minutes) for name in NETWORKS[1:]]


def command(step: Step, name: str, args: argparse.Namespace, device: str) -> list[str]:
    """The training command of one network of a step."""
    words = [
        sys.executable, "-m", "training", "train", "--preset", args.preset, "--networks", name,
        "--stage", str(max(step.stage, 1)), "--minutes", f"{step.minutes:.3f}", "--seed", str(args.seed),
        "--out", str(args.out / f"stage{step.stage}"), "--device", device,
    ]  # fmt: skip
    if args.quick:
        words.append("--quick")
    if step.stage == 0:
        words.append("--local")
    elif args.quick and name == "blobs_finder":
        words += ["--from", str(args.out / "stage0"), "--learning-rate", str(FREE_LEARNING_RATE)]
    if step.stage == 2:
        words += ["--from", str(args.out / "stage1")]
    if step.until < 1.0:
        words += ["--stop-at", f"{step.minutes * step.until:.3f}"]
    if args.threads:
        words += ["--threads", str(args.threads)]
    return words


def run_step(step: Step, args: argparse.Namespace, device: str) -> None:
    """Train the networks of a step side by side.

    Raises
    ------
    ProductError
        One of them failed; its log is named.
    """
    folder = args.out / f"stage{step.stage}"
    folder.mkdir(parents=True, exist_ok=True)
    log.info("part %d, stage %d: %s, %.1f minutes", step.part, step.stage, ", ".join(step.networks),
             step.minutes * step.until)  # fmt: skip
    running = []
    for name in step.networks:
        path = folder / f"{name}.log"
        with path.open("a") as file:
            process = subprocess.Popen(
                command(step, name, args, device), stdout=file, stderr=subprocess.STDOUT,
                cwd=Path(__file__).resolve().parents[1],
                # Processes side by side must not fight for the cores.
                env={**os.environ, "OMP_NUM_THREADS": str(args.threads or max(1, _cores() // len(step.networks)))},
            )  # fmt: skip
        running.append((path, process))
    failed = [path for path, process in running if process.wait() != 0]
    if failed:
        raise ProductError(f"training failed; see {', '.join(str(path) for path in failed)}, then run the part again")


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `python -m training schedule`."""
    parser.add_argument("--preset", default="compact", help="compact or paper")
    parser.add_argument("--quick", action="store_true", help="paper: few steps, a high rate that falls")
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda")
    parser.add_argument("--minutes", type=float, default=0.0, help="budget of the whole schedule")
    parser.add_argument("--hours", type=float, default=0.0, help="the same in hours")
    parser.add_argument("--part", type=int, default=0, help=f"1 to {PARTS}; 0: all of them")
    parser.add_argument("--out", type=Path, default=Path("runs/schedule"))
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--threads", type=int, default=0, help="CPU threads of each process; 0: the cores, shared")


def run(args: argparse.Namespace) -> int:
    """`python -m training schedule`."""
    minutes = args.minutes + 60.0 * args.hours
    if not minutes > 0:
        raise ParameterError("minutes", args.minutes, "a budget is needed", "Give --minutes or --hours above 0")
    if args.part not in range(PARTS + 1):
        raise ParameterError("part", args.part, "no such part", f"Choose 1 to {PARTS}, or 0 for all")
    if args.preset not in ("compact", "paper"):
        raise ParameterError("preset", args.preset, "it has no schedule", "Choose compact or paper")
    if args.quick and args.preset != "paper":
        raise ParameterError("quick", args.quick, "only preset 'paper' has a quick schedule", "Leave it out")
    args.out = args.out.resolve()
    device = choose_device(args.device)
    # One after the other also on a GPU: the free Blobs Finder starts from the one that was held.
    for step in plan(minutes, together=device == "cuda" and not args.quick, held=args.quick):
        if args.part in (0, step.part):
            run_step(step, args, device)
    if args.part in (0, PARTS) and (args.out / "stage1" / "blobs_finder" / CHECKPOINT).exists():
        keep_first(args.out / "stage1", args.out / "stage2")
        log.info("done; next: python -m training export --run %s", args.out / "stage2")
    return 0
