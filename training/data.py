"""Training data made on the fly: a batch is a function of (network, seed, step, split), nothing is stored.

Blobs Finder and the ResNets see dirty maps of `sim.fast` on the working grid (5 pixels per beam) with
the PSFs of `sim.psflib`; Deep GRU sees spectra simulated in one dimension. The paper's presets, and every
network in the second stage, see whole fields (`training.chain`). Everything is torch, so it is made on the
device that trains. Inputs come from `casa_deepfocus.core.preprocessing` and nowhere else.
"""

from __future__ import annotations

from functools import lru_cache

from casa_deepfocus.errors import ParameterError
from training.chain import SHAPES, Predecessors, chain_batch
from training.draw import Batch
from training.fields import recipe_of
from training.maps import blobs_finder_batch
from training.networks import NETWORKS
from training.spectra import deep_gru_batch
from training.stamps import resnet_batch, resnet_target

KEPT = 256
"""Batches that are kept at most: 16384 stamps of 64 x 64 pixels with what was true of them take 0.6 GB."""


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


def kept_batch(name: str, seed: int, step: int, size: int, device: str, preset: str) -> Batch:
    """A training batch that is made once: the ResNets of shape share theirs, as making one costs four times a step."""
    if name not in SHAPES or preset == "compact":
        return _kept(name, seed, step, size, device, preset)
    batch = _kept(SHAPES[0], seed, step, size, device, preset)
    return Batch(batch.inputs, *resnet_target(name, batch.truth), batch.truth)


@lru_cache(maxsize=KEPT)
def _kept(name: str, seed: int, step: int, size: int, device: str, preset: str) -> Batch:
    return make_batch(name, seed, step, size, "train", device, preset=preset)
