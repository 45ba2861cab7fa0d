"""What variants of a network are worth: `python -m training ablate --what resnet --network fwhm_maj --steps 600`.

All variants see the same batches, made once a step, and are scored on the same validation data.

- `resnet`: from fresh weights; other planes of the input (no PSF; CLEAN as one more), and a network that says how
  wrong it is (mean and log variance, Gaussian likelihood). The first variant is the shipped one.
- `centres`: Blobs Finder with a map of the centres in place of, or beside, the map of the sources; from the weights
  of `--from`, where it is given. The first variant is the shipped one.
- `distil`: a ResNet of the run `--from`, and fresh ones that learn the truth, its answers, or both.
- `second`: a network of the run `--from` as it is, and trained on what its predecessors predict (second stage).
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from casa_deepfocus.errors import ParameterError
from training import validate
from training.networks import RESNETS
from training.train import BATCH, LEARNING_RATE, PREDECESSORS, STAGE2_LEARNING_RATE
from training.variants import Comparison, centres, distil, resnet, second

WARMUP = 30
AVERAGE = 0.99
FINAL_RATE = 0.02
REPORT = 50
ADAPT = 0.3
"""Part of the rate for networks that start from trained weights."""

WHAT = ("resnet", "centres", "distil", "second")


def train_variants(
    comparison: Comparison, seed: int, steps: int, rate: float, progress: Callable[[str], object]
) -> list[nn.Module]:
    """Train all variants on the same batches; AdamW, warm-up, cosine, a moving average as in `training.train`.

    Parameters
    ----------
    comparison : Comparison
    seed, steps : int
    rate : float, highest learning rate
    progress : callable on a line of text

    Returns
    -------
    list of nn.Module, the averaged networks in evaluation mode
    """
    found = [v.network.eval() for v in comparison.variants]
    learning = []
    for place, variant in enumerate(comparison.variants):
        if variant.loss is not None:
            variant.network.train()
            average = AveragedModel(variant.network, avg_fn=_follow, use_buffers=True).requires_grad_(False)
            optimizer = torch.optim.AdamW(variant.network.parameters(), lr=rate, weight_decay=1e-4)
            learning.append((variant, variant.loss, average, optimizer))
            found[place] = average.module
    start = time.monotonic()
    for step in range(steps):
        batch = comparison.make(seed, step, "train")
        cosine = FINAL_RATE + (1.0 - FINAL_RATE) * 0.5 * (1.0 + math.cos(math.pi * step / steps))
        for variant, loss, average, optimizer in learning:
            optimizer.param_groups[0]["lr"] = rate * cosine * min(1.0, (step + 1) / WARMUP)
            optimizer.zero_grad()
            loss(variant.output(variant.network, batch.inputs), batch).backward()
            nn.utils.clip_grad_norm_(variant.network.parameters(), 1.0)
            optimizer.step()
            average.update_parameters(variant.network)
        if (step + 1) % REPORT == 0:
            progress(f"step {step + 1} of {steps}, {time.monotonic() - start:.0f} s")
    return [network.eval() for network in found]


def _follow(averaged: Tensor, current: Tensor, count: Tensor | int) -> Tensor:
    decay = min(AVERAGE, (1.0 + int(count)) / (10.0 + int(count)))
    return averaged * decay + current * (1.0 - decay)


def compare(what: str, network: str, seed: int, start: Path | None) -> tuple[Comparison, float]:
    """The comparison of that name, and its learning rate.

    Raises
    ------
    ParameterError
        No such comparison, or not of this network.
    """
    if what not in WHAT:
        raise ParameterError("what", what, "no such comparison", f"Choose from {', '.join(WHAT)}")
    if what == "centres":
        # Trained networks only adapt to what is new.
        return centres(BATCH["blobs_finder"], seed, start), LEARNING_RATE["blobs_finder"] * (ADAPT if start else 1.0)
    names = RESNETS if what in ("resnet", "distil") else tuple(PREDECESSORS)
    if network not in names:
        raise ParameterError("network", network, f"not one of '{what}'", f"Choose from {', '.join(names)}")
    if what == "resnet":
        return resnet(network, BATCH[network], seed), LEARNING_RATE[network]
    if start is None:
        raise ParameterError("from", "", f"'{what}' starts from trained networks", "Give their folder: --from RUN")
    if what == "distil":
        return distil(network, BATCH[network], seed, start), LEARNING_RATE[network]
    return second(network, BATCH[network], start), LEARNING_RATE[network] * STAGE2_LEARNING_RATE


def ablate(
    what: str,
    *,
    network: str = "fwhm_maj",
    steps: int,
    seed: int = 1,
    batches: int = 20,
    start: Path | None = None,
    progress: Callable[[str], object] = lambda text: None,
) -> dict[str, dict[str, Any]]:
    """Train the variants and score them.

    Parameters
    ----------
    what : str, of `WHAT`
    network : str, of 'resnet' and 'second'
    steps, seed : int
    batches : int, of validation data, seed `validate.SEED`
    start : Path, run that 'centres', 'distil' and 'second' start from
    progress : callable on a line of text

    Returns
    -------
    dict, name of the variant -> its scores

    Raises
    ------
    ParameterError
    """
    for name, value in (("steps", steps), ("batches", batches)):
        if value < 1:
            raise ParameterError(name, value, "must be at least 1")
    comparison, rate = compare(what, network, seed, start)
    trained = train_variants(comparison, seed, steps, rate, progress)
    data = [comparison.make(validate.SEED, step, "val") for step in range(batches)]
    return {v.name: comparison.score(v, n, data) for v, n in zip(comparison.variants, trained, strict=True)}


def lines(rows: dict[str, dict[str, Any]]) -> list[str]:
    """A table in Markdown, one row a variant."""
    flat = {
        name: {
            f"{key} {part}" if isinstance(value, dict) else key: number
            for key, value in row.items()
            for part, number in (value.items() if isinstance(value, dict) else (("", value),))
        }
        for name, row in rows.items()
    }
    columns = list(dict.fromkeys(key for row in flat.values() for key in row))
    head = ["| variant | " + " | ".join(columns) + " |", "|---" * (len(columns) + 1) + "|"]
    body = [[name, *(str(row.get(key, "")) for key in columns)] for name, row in flat.items()]
    return head + ["| " + " | ".join(cells) + " |" for cells in body]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `python -m training ablate`."""
    parser.add_argument("--what", default="resnet", help=", ".join(WHAT))
    parser.add_argument("--network", default="fwhm_maj", help="which one, of resnet, distil and second")
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--batches", type=int, default=20, help="validation batches")
    parser.add_argument("--from", dest="start", type=Path, help="run of trained weights, for all but resnet")
    parser.add_argument("--threads", type=int, default=0, help="CPU threads; 0: torch's choice")
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def run(args: argparse.Namespace) -> int:
    """`python -m training ablate`."""
    if args.threads:
        torch.set_num_threads(args.threads)
    torch.set_flush_denormal(True)
    rows = ablate(
        args.what, network=args.network, steps=args.steps, seed=args.seed, batches=args.batches, start=args.start,
        progress=lambda text: sys.stderr.write(text + "\n"),
    )  # fmt: skip
    sys.stdout.write((json.dumps(rows) if args.json else "\n".join(lines(rows))) + "\n")
    return 0
