"""Training data made on the fly: a batch is a function of (network, seed, step, split), nothing is stored.

Blobs Finder and the ResNets see dirty maps of `sim.fast` on the working grid (5 pixels per beam) with
the PSFs of `sim.psflib`; Deep GRU sees spectra simulated in one dimension. The paper's presets, and every
network in the second stage, see whole fields (`training.chain`). Everything is torch, so it is made on the
device that trains. Inputs come from `casa_deepfocus.core.preprocessing` and nowhere else.
"""

from __future__ import annotations

from casa_deepfocus.errors import ParameterError
from training.chain import Predecessors, chain_batch
from training.draw import Batch
from training.fields import recipe_of
from training.maps import blobs_finder_batch
from training.networks import NETWORKS
from training.spectra import deep_gru_batch
from training.stamps import resnet_batch


def make_batch(
    name: str,
    seed: int,
    step: int,
    size: int,
    split: str = "train",
    device: str = "cpu",
    *,
    preset: str = "compact",
    predecessors: Predecessors | None = None,
) -> Batch:
    """The batch of one training step.

    Parameters
    ----------
    name : str, one of `networks.NETWORKS`
    seed, step : int
    size : int, examples in the batch
    split : str, 'train', 'val' or 'test': their PSFs and random numbers are disjoint
    device : str
    preset : str, one of `networks.PRESETS`
    predecessors : dict of networks, for data made of their predictions (second stage)

    Returns
    -------
    Batch
    """
    if name not in NETWORKS:
        raise ParameterError("name", name, "no such network", f"Choose one of {', '.join(NETWORKS)}")
    if predecessors is not None or preset != "compact":
        return chain_batch(name, recipe_of(preset), predecessors, seed, step, size, split, device)
    if name == "blobs_finder":
        return blobs_finder_batch(seed, step, size, split, device)
    if name == "deep_gru":
        return deep_gru_batch(seed, step, size, split, device)
    return resnet_batch(name, seed, step, size, split, device)
