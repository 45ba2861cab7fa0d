"""Trained networks from their checkpoints."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from casa_deepfocus.errors import DataError
from training.networks import build

CHECKPOINT = "last.ckpt"


def read_checkpoint(folder: Path) -> dict[str, Any]:
    """The checkpoint of a network's training folder.

    Raises
    ------
    DataError
        There is none.
    """
    path = folder / CHECKPOINT
    if not path.exists():
        raise DataError(f"{path} does not exist; train first: python -m training train --out {folder.parent}")
    return torch.load(path, map_location="cpu", weights_only=True)


def averaged_weights(checkpoint: dict[str, Any]) -> dict[str, Tensor]:
    """The moving average of the weights, which is what is validated and exported."""
    prefix = "average.module."
    return {key[len(prefix) :]: value for key, value in checkpoint["state_dict"].items() if key.startswith(prefix)}


def load_network(folder: Path, device: str = "cpu", *, widen: bool = True) -> tuple[nn.Module, dict[str, Any]]:
    """The averaged network of a training folder, in evaluation mode, and what is known of its training.

    Parameters
    ----------
    folder : Path
    device : str
    widen : bool
        Whether a bottleneck that was held local becomes the two full layers that do the same.
    """
    checkpoint = read_checkpoint(folder)
    state = checkpoint["deepfocus"]
    local = bool(state["config"].get("local"))
    more = {"local": True} if local and not widen else {}
    network = build(state["config"]["network"], state["config"]["preset"], **more)
    weights = averaged_weights(checkpoint)
    network.load_state_dict(network.widened(weights) if local and widen else weights)
    facts = {**state["config"], "steps": checkpoint["global_step"], "minutes": round(state["elapsed"] / 60.0, 1)}
    # Runs of before the second stage know no `start`.
    start = Path(facts.get("start", "")) / facts["network"]
    if facts.get("start") and (start / CHECKPOINT).exists():
        # What went before, as this run alone did not make the network.
        first = read_checkpoint(start)
        facts["before"] = {"steps": first["global_step"], "minutes": round(first["deepfocus"]["elapsed"] / 60.0, 1)}
    facts["validation_loss"] = round(state["history"][-1], 6) if state["history"] else None
    return network.eval().to(device), facts
