"""Spectra and the line profiles asked of Deep GRU, in one dimension."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from casa_deepfocus.core.geometry import FWHM_PER_SIGMA, GAUSSIAN_LINE
from casa_deepfocus.core.preprocessing import deep_gru_input
from training.draw import Batch, Draw

MINIMUM_SNR = 3.5
"""Fainter lines are no targets."""

NARROWEST = 1.5
"""FWHM [channel] at which narrower lines are drawn in the target, so that none falls between two channels."""

MAXIMUM_LINES = 4
CHANNELS = (16, 512)


def _profile(offset: Tensor, fwhm: Tensor) -> Tensor:
    return torch.exp(-0.5 * (offset * FWHM_PER_SIGMA / fwhm) ** 2)


def channel_count(seed: int, step: int, split: str) -> int:
    """Channels of a batch: log-uniform in `CHANNELS`."""
    draw = Draw("cpu", seed, step, split, "channels")
    return int(round(float(draw.log_uniform(CHANNELS[0], CHANNELS[1] + 0.49, (1,)))))


def deep_gru_batch(
    seed: int, step: int, size: int = 64, split: str = "train", device: str = "cpu", *, nchan: int = 0
) -> Batch:
    """Spectra in units of their noise, and their lines at height 1.

    Three in ten have no line; the others one to four, FWHM 1 to 40 channels (at most 0.4 of the band),
    integrated matched SNR 3 to 100, one in seven with two horns. Half of the spectra have the Hanning
    window's correlation, a third a residual continuum, a fifth negative lines (sidelobes of neighbours).

    Returns
    -------
    Batch : inputs, target, weight (size, nchan). truth: centre, fwhm [channel], snr (size, lines), asked
        (size, lines) bool, spectrum (size, nchan) [sigma]
    """
    draw = Draw(device, seed, step, split, "deep_gru")
    nchan = nchan or channel_count(seed, step, split)
    b, n = size, MAXIMUM_LINES
    chan = torch.arange(nchan, device=draw.device, dtype=torch.float32)
    count = torch.ceil(n * draw.uniform(0.0, 1.0, (b, 1)) ** 2)
    used = (torch.arange(n, device=draw.device)[None] < count) & draw.chance(0.7, (b, 1))
    centre = draw.uniform(-1.0, float(nchan), (b, n))
    fwhm = draw.log_uniform(1.0, min(40.0, 0.4 * nchan), (b, n))
    snr = draw.log_uniform(3.0, 100.0, (b, n))
    offset = chan[None, None] - centre[..., None]
    # A channel averages the line over its width.
    seen = torch.sqrt(fwhm**2 + 0.69**2)[..., None]
    shape = _profile(offset, seen)
    horn = 0.32 * fwhm[..., None]
    balance = draw.uniform(0.3, 1.0, (b, n, 1))
    horned = _profile(offset - horn, 0.45 * seen) + balance * _profile(offset + horn, 0.45 * seen) + 0.35 * shape
    shape = torch.where((draw.chance(0.15, (b, n)) & (fwhm > 5.0))[..., None], horned, shape)
    power = torch.sqrt((shape**2).sum(-1))
    # The SNR belongs to the whole line: one cut by the band's edge keeps its height, not its SNR.
    whole = torch.sqrt(GAUSSIAN_LINE * seen[..., 0] / np.sqrt(2.0))
    height = snr / torch.maximum(power, whole)
    snr = height * power
    lines = height[..., None] * shape
    spectrum = (lines * used[..., None]).sum(1) + _noise(draw, b, nchan)
    spectrum = spectrum + _defects(draw, b, chan, nchan, lines[:, 0] * used[:, :1])
    inside = (centre > -0.5) & (centre < nchan - 0.5)
    asked = used & inside & (snr >= MINIMUM_SNR)
    drawn = _profile(offset, fwhm.clamp(min=NARROWEST)[..., None])
    target = (drawn * asked[..., None]).amax(1)
    unclear = (drawn * (used & ~asked)[..., None]).amax(1)
    weight = (1.0 + target) * ~((unclear > 0.1) & (unclear > target))
    # Zero mean and unit noise are estimates too.
    spectrum = (spectrum + 0.15 * draw.normal((b, 1))) * draw.uniform(0.88, 1.12, (b, 1))
    truth = {"centre": centre, "fwhm": fwhm, "snr": snr, "asked": asked, "used": used, "spectrum": spectrum}
    return Batch(deep_gru_input(spectrum), target, weight, truth)


def _noise(draw: Draw, b: int, nchan: int) -> Tensor:
    """(b, nchan) unit noise; half of the spectra smoothed by (1/4, 1/2, 1/4), as after Hanning smoothing."""
    white = draw.normal((b, nchan + 2))
    smooth = (0.25 * white[:, :-2] + 0.5 * white[:, 1:-1] + 0.25 * white[:, 2:]) / np.sqrt(0.375)
    return torch.where(draw.chance(0.5, (b, 1)), smooth, white[:, 1:-1])


def _defects(draw: Draw, b: int, chan: Tensor, nchan: int, line: Tensor) -> Tensor:
    """(b, nchan): a residual continuum (offset and slope) and negative lines, some of them copies of `line`."""
    ramp = (chan / max(nchan - 1, 1) - 0.5)[None]
    continuum = 0.4 * draw.normal((b, 1)) + 0.8 * draw.normal((b, 1)) * ramp
    continuum = continuum * draw.chance(0.33, (b, 1))
    fwhm = draw.log_uniform(1.0, min(40.0, 0.4 * nchan), (b, 1))
    alone = _profile(chan[None] - draw.uniform(0.0, float(nchan), (b, 1)), fwhm)
    alone = alone * draw.log_uniform(3.0, 30.0, (b, 1)) / torch.sqrt(fwhm)
    shift = torch.roll(line, nchan // 3, dims=1) * draw.uniform(0.05, 0.4, (b, 1))
    negative = torch.where(draw.chance(0.5, (b, 1)), alone, shift)
    return continuum - negative * draw.chance(0.2, (b, 1))
