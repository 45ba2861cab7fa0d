"""Loss curves of a training run: `python -m training curves`."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from casa_deepfocus.errors import DataError
from training.networks import NETWORKS


def read_history(run: Path, name: str) -> list[dict[str, Any]]:
    """Rows of a network's history.jsonl, those of the run that it started from before its own."""
    folder = run / name
    rows: list[dict[str, Any]] = []
    config = folder / "config.json"
    start = json.loads(config.read_text("utf-8")).get("start", "") if config.exists() else ""
    if start:
        rows = read_history(Path(start), name)
    done = {key: rows[-1][key] if rows else 0 for key in ("step", "minutes")}
    path = folder / "history.jsonl"
    own = [json.loads(line) for line in path.read_text("utf-8").splitlines()] if path.exists() else []
    return rows + [{**row, **{key: row[key] + done[key] for key in done}} for row in own]


def draw_curves(run: Path, names: tuple[str, ...], path: Path) -> None:
    """Training and validation loss of each network against its steps, with the hours they took, as a picture.

    Raises
    ------
    DataError
        None of the networks has a history.
    """
    from matplotlib.figure import Figure

    histories = {name: rows for name in names if (rows := read_history(run, name))}
    if not histories:
        raise DataError(f"{run} holds no history of a training; train first: python -m training train --out {run}")
    columns = min(len(histories), 3)
    lines = -(-len(histories) // columns)
    figure = Figure(figsize=(4.2 * columns, 3.2 * lines), layout="constrained")
    for axes, (name, rows) in zip(figure.subplots(lines, columns, squeeze=False).flat, histories.items(), strict=False):
        steps = [row["step"] for row in rows]
        axes.plot(steps, [row["train"] for row in rows], label="training", color="0.6")
        axes.plot(steps, [row["validation"] for row in rows], label="validation", color="C0")
        axes.set(title=f"{name}, {rows[-1]['minutes'] / 60:.2f} h", xlabel="step", yscale="log")
        axes.legend(frameon=False)
    figure.savefig(path, dpi=100)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `python -m training curves`."""
    parser.add_argument("--run", type=Path, required=True, help="folder that `train` wrote")
    parser.add_argument("--out", type=Path, default=Path("loss.png"), help="picture")


def run(args: argparse.Namespace) -> int:
    """`python -m training curves`."""
    draw_curves(args.run, NETWORKS, args.out)
    return 0
