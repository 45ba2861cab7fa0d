"""Training data made on the fly: a batch is a function of (network, seed, step, split), nothing is stored.

Blobs Finder and the ResNets see dirty maps of `sim.fast` on the working grid (5 pixels per beam) with
the PSFs of `sim.psflib`; Deep GRU sees spectra simulated in one dimension. Everything is torch, so it is
made on the device that trains. Inputs come from `casa_deepfocus.core.preprocessing` and nowhere else.
"""

from __future__ import annotations

from casa_deepfocus.errors import ParameterError
from training.draw import Batch
from training.maps import blobs_finder_batch
from training.networks import NETWORKS, RESNETS
from training.spectra import deep_gru_batch
from training.stamps import resnet_batch


def make_batch(name: str, seed: int, step: int, size: int, split: str = "train", device: str = "cpu") -> Batch:
    """The batch of one training step.

    Parameters
    ----------
    name : str, one of `networks.NETWORKS`
    seed, step : int
    size : int, examples in the batch
    split : str, 'train', 'val' or 'test': their PSFs and random numbers are disjoint
    device : str

    Returns
    -------
    Batch
    """
    if name == "blobs_finder":
        return blobs_finder_batch(seed, step, size, split, device)
    if name == "deep_gru":
        return deep_gru_batch(seed, step, size, split, device)
    if name in RESNETS:
        return resnet_batch(name, seed, step, size, split, device)
    raise ParameterError("name", name, "no such network", f"Choose one of {', '.join(NETWORKS)}")
