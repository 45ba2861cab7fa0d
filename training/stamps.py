"""Stamps around a source, and what the ResNets are asked to measure on them."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from casa_deepfocus.core.preprocessing import PIXELS_PER_BEAM, STAMP, resnet_input, stamp_peak
from sim import fast
from sim.psflib import GRID
from training.draw import Batch, Draw
from training.maps import covariance, draw_psfs, draw_shapes, noise_spectrum, sky_transform, unit_snr

SIDE = 2 * STAMP
"""Grid on which the sources of a stamp meet their PSF: it is right out to twice the stamp."""

PER_PSF = 8
"""Stamps that share a PSF and cut their noise from one map."""

NEIGHBOURS = 2


def _noise_stamps(draw: Draw, amplitude: Tensor) -> Tensor:
    """(b, STAMP, STAMP) noise of rms 1, `PER_PSF` stamps from disjoint places of each PSF's noise map."""
    maps = torch.fft.irfft2(noise_spectrum(draw, amplitude), s=(GRID, GRID))
    tiles = maps.unfold(1, STAMP, STAMP).unfold(2, STAMP, STAMP).flatten(1, 2)
    step = tiles.shape[1] // PER_PSF
    return tiles[:, ::step][:, :PER_PSF].flatten(0, 1)


def draw_stamps(draw: Draw, size: int, split: str) -> dict[str, Tensor]:
    """Stamps of one source near the centre, with its neighbours, noise and PSF.

    The source lies within 0.25 beam of the centre, matched SNR 5-200 (log-uniform); four in ten have one or
    two neighbours, 1.2-4 beams away and between 0.05 and 1.5 times as bright.

    Returns
    -------
    dict : stamp, psf (size, STAMP, STAMP) [sigma]; fwhm_maj, fwhm_min [beams], pa [rad], flux [sigma],
        snr, sigma (size,)
    """
    count = -(-size // PER_PSF)
    psfs = draw_psfs(draw, count, split)
    psf = fast.psf_images(psfs.weights)
    cut = slice(GRID // 2 - STAMP, GRID // 2 + STAMP)
    transfer = torch.fft.rfft2(torch.fft.ifftshift(psf[:, cut, cut], dim=(-2, -1)))
    transfer = transfer.real.repeat_interleave(PER_PSF, 0)
    beam = psfs.beam.repeat_interleave(PER_PSF, 0)
    b, n = len(beam), 1 + NEIGHBOURS
    major, minor, pa = draw_shapes(draw, (b, n))
    cov = covariance(major * PIXELS_PER_BEAM, minor * PIXELS_PER_BEAM, pa)
    unit = unit_snr(cov, beam[:, None])
    snr = draw.log_uniform(5.0, 200.0, (b, 1))
    flux = snr / unit[:, :1]
    used = draw.chance(0.4, (b, 1)) & (
        torch.arange(NEIGHBOURS, device=beam.device)[None] < 1 + draw.integers(2, (b, 1))
    )
    others = flux * draw.log_uniform(0.05, 1.5, (b, NEIGHBOURS)) * used
    distance = draw.uniform(1.2, 4.0, (b, NEIGHBOURS)) * PIXELS_PER_BEAM
    angle = draw.uniform(0.0, 2.0 * np.pi, (b, NEIGHBOURS))
    shift = draw.uniform(-0.25, 0.25, (b, 2)) * PIXELS_PER_BEAM
    x = STAMP // 2 + torch.cat([shift[:, :1], distance * torch.cos(angle)], 1)
    y = STAMP // 2 + torch.cat([shift[:, 1:], distance * torch.sin(angle)], 1)
    spectrum = transfer * sky_transform(x, y, torch.cat([flux, others], 1), cov, SIDE)
    clean = torch.fft.irfft2(spectrum, s=(SIDE, SIDE))[:, :STAMP, :STAMP]
    middle = slice(GRID // 2 - STAMP // 2, GRID // 2 + STAMP // 2)
    found = {
        "stamp": clean + _noise_stamps(draw, psfs.amplitude),
        "psf": psf[:, middle, middle].repeat_interleave(PER_PSF, 0),
        "fwhm_maj": major[:, 0],
        "fwhm_min": minor[:, 0],
        "pa": pa[:, 0],
        "flux": flux[:, 0],
        "snr": snr[:, 0],
        # The noise is known to a few per cent only.
        "sigma": draw.uniform(0.95, 1.05, (b,)),
    }
    return {name: value[:size] for name, value in found.items()}


def resnet_batch(name: str, seed: int, step: int, size: int = 64, split: str = "train", device: str = "cpu") -> Batch:
    """Stamps and what `name` is asked for (docs/architecture.md, "Networks").

    The position angle weighs as much as the source is longer than wide, beyond what the beam hides.

    Returns
    -------
    Batch : inputs (size, 3, STAMP, STAMP), target and weight (size, outputs). truth: `draw_stamps`
    """
    draw = Draw(device, seed, step, split, "stamps")
    stamps = draw_stamps(draw, size, split)
    inputs = resnet_input(stamps["stamp"], stamps["psf"], stamps["sigma"])
    return Batch(inputs, *resnet_target(name, stamps), stamps)


def resnet_target(name: str, stamps: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    """What a ResNet is asked of stamps, and its weight: (size, outputs) both; keys as in `draw_stamps`."""
    if name in ("fwhm_maj", "fwhm_min"):
        target = stamps[name][:, None]
        return target, torch.ones_like(target)
    if name == "pa":
        double = 2.0 * stamps["pa"]
        target = torch.stack([torch.sin(double), torch.cos(double)], dim=1)
        square, small = stamps["fwhm_maj"] ** 2, stamps["fwhm_min"] ** 2
        return target, ((square - small) / (square + small + 0.3**2))[:, None].expand_as(target)
    target = torch.log10(stamps["flux"] / stamp_peak(stamps["stamp"]))[:, None]
    return target, torch.ones_like(target)
