"""Losses. The shipped networks use the weighted ones; the paper's are here for its preset."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

SMOOTH = 0.1
"""Where the smooth l1 loss turns from quadratic to linear, in the target's unit."""


def weighted_bce(logits: Tensor, target: Tensor, weight: Tensor) -> Tensor:
    """Binary cross entropy of logits with a target in [0, 1], mean over the weights."""
    loss = functional.binary_cross_entropy_with_logits(logits, target, reduction="none")
    return (loss * weight).sum() / weight.sum().clamp(min=1.0)


def weighted_smooth_l1(prediction: Tensor, target: Tensor, weight: Tensor) -> Tensor:
    """Smooth l1 loss, mean over the weights."""
    loss = functional.smooth_l1_loss(prediction, target, beta=SMOOTH, reduction="none")
    return (loss * weight).sum() / weight.sum().clamp(min=1e-6)


def l1(prediction: Tensor, target: Tensor) -> Tensor:
    """The paper's l1 loss (eq. 6)."""
    return functional.l1_loss(prediction, target)


def weighted_l1(prediction: Tensor, target: Tensor, weight: Tensor) -> Tensor:
    """The paper's l1 loss (eq. 6), mean over the weights."""
    return ((prediction - target).abs() * weight).sum() / weight.sum().clamp(min=1e-6)


def ssim(x: Tensor, y: Tensor, *, window: int = 11, sigma: float = 1.5, dynamic_range: float = 1.0) -> Tensor:
    """Mean structural similarity (paper eq. 8 to 10) under a Gaussian window.

    Parameters
    ----------
    x, y : (b, 1, H, W), in [0, dynamic_range]
    dynamic_range : float
        L of eq. 9. The paper writes 2^32 - 1 for it, which makes the similarity 1 everywhere and its
        gradient 0; images in [0, 1] have L = 1.

    Returns
    -------
    scalar
    """
    offset = torch.arange(window, device=x.device, dtype=x.dtype) - window // 2
    line = torch.exp(-0.5 * (offset / sigma) ** 2)
    line = line / line.sum()

    def band(side: int) -> Tensor:
        # The window at each place of an axis, a row each: two products of matrices cost a tenth of a convolution.
        start = torch.arange(side - window + 1, device=x.device)
        rows = torch.zeros((len(start), side), device=x.device, dtype=x.dtype)
        return rows.scatter_(1, start[:, None] + torch.arange(window, device=x.device), line.expand(len(start), -1))

    down, across = band(x.shape[-2]), band(x.shape[-1]).T

    def mean(image: Tensor) -> Tensor:
        return down @ image @ across

    mx, my = mean(x), mean(y)
    vx, vy, cov = mean(x * x) - mx * mx, mean(y * y) - my * my, mean(x * y) - mx * my
    c1, c2 = (0.01 * dynamic_range) ** 2, (0.03 * dynamic_range) ** 2
    return (((2 * mx * my + c1) * (2 * cov + c2)) / ((mx * mx + my * my + c1) * (vx + vy + c2))).mean()


def dssim(x: Tensor, y: Tensor) -> Tensor:
    """Structural dissimilarity (paper eq. 7) of images in [0, 1]."""
    return 0.5 * (1.0 - ssim(x, y))


def paper_blobs_finder(prediction: Tensor, target: Tensor, progress: float) -> Tensor:
    """The paper's eq. 20: l1 hands over to DSSIM linearly while `progress` goes from 0 to 1."""
    b = min(max(progress, 0.0), 1.0)
    return (1.0 - b) * functional.l1_loss(prediction, target) + b * dssim(prediction, target)


def from_entropy(logits: Tensor, target: Tensor, final: Tensor, progress: float) -> Tensor:
    """Cross entropy that hands over to another loss while `progress` goes from 0 to 1: how the quick schedule starts.

    Targets are 0 nearly everywhere, so that l1 has "nothing anywhere" for a dead end, where the sigmoid has no
    gradient; a high rate reaches it, or a map of zeros and ones, within 200 steps and does not leave it (Deep
    GRU: validation loss 0.0550 from step 200 to 600). The cross entropy's gradient does not vanish.
    """
    b = min(max(progress, 0.0), 1.0)
    return (1.0 - b) * functional.binary_cross_entropy_with_logits(logits, target) + b * final


def msle(prediction: Tensor, target: Tensor) -> Tensor:
    """Mean squared logarithmic error of images in [0, 1], the loss of DECORAS (Rezaei et al. 2022, MNRAS 510, 5891)."""
    return functional.mse_loss(torch.log1p(prediction), torch.log1p(target))
