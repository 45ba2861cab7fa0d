"""Random numbers that depend on nothing but what they are for, and the batch made of them."""

from __future__ import annotations

import zlib
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


class Draw:
    """Random tensors on a device, seeded by (seed, step, split, purpose).

    Parameters
    ----------
    device : str or torch.device
    seed, step : int
    split : str, 'train', 'val' or 'test': the same step of another split is another batch
    purpose : str, so that two networks do not share their noise
    """

    def __init__(self, device: str | torch.device, seed: int, step: int, split: str, purpose: str) -> None:
        self.device = torch.device(device)
        entropy = [seed, step, zlib.crc32(f"{split}/{purpose}".encode())]
        self._generator = torch.Generator(self.device)
        self._generator.manual_seed(int(np.random.SeedSequence(entropy).generate_state(1, np.uint64)[0] >> 1))

    def uniform(self, low: float, high: float, shape: tuple[int, ...]) -> Tensor:
        """Uniform in [low, high)."""
        return low + (high - low) * torch.rand(shape, generator=self._generator, device=self.device)

    def log_uniform(self, low: float, high: float, shape: tuple[int, ...]) -> Tensor:
        """Uniform in the logarithm, in [low, high)."""
        return torch.exp(self.uniform(float(np.log(low)), float(np.log(high)), shape))

    def normal(self, shape: tuple[int, ...]) -> Tensor:
        """Normal deviates of mean 0 and variance 1."""
        return torch.randn(shape, generator=self._generator, device=self.device)

    def chance(self, probability: float, shape: tuple[int, ...]) -> Tensor:
        """True with the given probability."""
        return torch.rand(shape, generator=self._generator, device=self.device) < probability

    def integers(self, stop: int, shape: tuple[int, ...]) -> Tensor:
        """Integers in [0, stop)."""
        return torch.randint(stop, shape, generator=self._generator, device=self.device)

    def tensor(self, array: NDArray) -> Tensor:
        """A numpy array on this device."""
        return torch.from_numpy(np.ascontiguousarray(array)).to(self.device)


@dataclass(frozen=True)
class Batch:
    """What a training step needs; `truth` holds what the scores need beside it.

    Attributes
    ----------
    inputs, target : float32, as the network's contract says
    weight : float32, broadcasts against `target`; 0 where nothing is asked
    truth : dict of tensors
    """

    inputs: Tensor
    target: Tensor
    weight: Tensor
    truth: dict[str, Tensor] = field(default_factory=dict)
