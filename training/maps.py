"""Dirty maps and the probability maps asked of Blobs Finder."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from casa_deepfocus.core.geometry import FWHM_PER_SIGMA
from casa_deepfocus.core.preprocessing import (
    BOX_LEVEL,
    PIXELS_PER_BEAM,
    PLANES,
    TARGET_SMOOTHING,
    blobs_finder_input,
    blobs_finder_planes,
)
from sim import fast
from sim.fast import sky_spectrum as sky_transform
from sim.psflib import GRID, load_library
from training.draw import Batch, Draw

FIELD = GRID // 2
"""Side of a Blobs Finder training map [working pixels]."""

MINIMUM_SNR = 3.5
"""Fainter sources and lines are no targets: nobody could find them."""

MAXIMUM_SOURCES = 12
BURIED = 8.0
"""A source under a neighbour this many times brighter at its place counts neither way."""


def covariance(fwhm_maj: Tensor, fwhm_min: Tensor, pa: Tensor) -> Tensor:
    """`core.geometry.shape_to_covariance` on tensors, the position angle in radians: (...) -> (..., 3)."""
    s1, s2 = (fwhm_maj / FWHM_PER_SIGMA) ** 2, (fwhm_min / FWHM_PER_SIGMA) ** 2
    sin, cos = torch.sin(pa), torch.cos(pa)
    return torch.stack([s1 * sin**2 + s2 * cos**2, s1 * cos**2 + s2 * sin**2, -(s1 - s2) * sin * cos], dim=-1)


def determinant(cov: Tensor) -> Tensor:
    """Determinant of (..., 3) covariances."""
    return cov[..., 0] * cov[..., 1] - cov[..., 2] ** 2


def gaussian(dx: Tensor, dy: Tensor, cov: Tensor) -> Tensor:
    """Gaussian of peak 1 and covariance `cov` (..., 3) at offsets dx, dy, which broadcast against cov[..., 0]."""
    sxx, syy, sxy = cov.unbind(-1)
    det = determinant(cov)
    return torch.exp(-0.5 * (syy * dx * dx + sxx * dy * dy - 2.0 * sxy * dx * dy) / det)


def unit_snr(cov: Tensor, beam: Tensor, white: Tensor | float = 0.0) -> Tensor:
    """Matched-filter SNR of a source of flux 1 sigma for a Gaussian beam at natural weighting.

    `white` is the part of the noise's rms that is independent from pixel to pixel. The filter is then that of
    natural weighting or the beam-shaped one, whose errors are added: a lower bound that is exact at 0 and 1.
    """
    natural = (determinant(beam) / determinant(beam + 2.0 * cov)) ** 0.25
    seen = determinant(beam + cov)
    pixels = torch.sqrt(determinant(beam) / seen) * np.sqrt(np.pi) * seen**0.25
    return 1.0 / torch.sqrt((1.0 - white**2) / natural**2 + white**2 / pixels**2)


def draw_white(draw: Draw, b: int) -> Tensor:
    """(b, 1) part of the noise's rms that is independent from pixel to pixel, as the paper adds it: in a quarter."""
    return draw.uniform(0.2, 1.0, (b, 1)) * draw.chance(0.25, (b, 1))


def with_gain_errors(draw: Draw, weights: Tensor) -> Tensor:
    """The transforms that the sky goes through: in a fifth of the maps other than that of the PSF.

    Every uv cell has a complex error of 3 to 60 % (log-uniform), as antennas leave that are calibrated to a few
    per cent: their errors are shared by many cells, which makes more of them than independent ones.
    """
    b = len(weights)
    error = torch.view_as_complex(draw.normal((*weights.shape, 2)))
    size = draw.log_uniform(0.03, 0.6, (b, 1, 1)) / np.sqrt(2.0) * draw.chance(0.2, (b, 1, 1))
    return weights * (1.0 + size * error)


def draw_shapes(draw: Draw, shape: tuple[int, ...]) -> tuple[Tensor, Tensor, Tensor]:
    """Intrinsic FWHM major, minor [beams] and position angle [rad]: a quarter are points, a tail reaches 3 beams."""
    u = draw.uniform(0.0, 1.0, shape)
    major = torch.where(u < 0.85, draw.log_uniform(0.2, 1.3, shape), draw.log_uniform(1.3, 3.0, shape))
    major = torch.where(u < 0.25, torch.zeros_like(major), major)
    return major, major * draw.uniform(0.3, 1.0, shape), draw.uniform(0.0, np.pi, shape)


@lru_cache(maxsize=4)
def sidelobe_levels(split: str) -> NDArray[np.float32]:
    """(n,) largest |PSF| between 2 and 12.8 beams from its centre, of each PSF of the library."""
    library = load_library(split)
    offset = np.arange(GRID) - GRID // 2
    radius = np.hypot(offset[:, None], offset[None, :])
    ring = (radius >= 2 * PIXELS_PER_BEAM) & (radius <= FIELD // 2)
    return np.array(
        [np.abs(fast.psf_images(library.weights([i])[0])[0][ring]).max() for i in range(len(library))], np.float32
    )


@dataclass(frozen=True)
class Psfs:
    """Random PSFs: weights, noise amplitude (b, GRID, GRID // 2 + 1), beam covariance (b, 3), sidelobe (b,)."""

    weights: Tensor
    amplitude: Tensor
    beam: Tensor
    sidelobe: Tensor


def draw_psfs(draw: Draw, count: int, split: str) -> Psfs:
    """PSFs of the library, mirrored and transposed at random."""
    library = load_library(split)
    entries = draw.integers(len(library), (count,)).cpu().numpy()
    turn = {key: draw.chance(0.5, (count,)).cpu().numpy() for key in ("flip", "transpose")}
    weights, amplitude = library.weights(entries, **turn)
    beam = library.beams(entries, **turn).astype(np.float32)
    return Psfs(*(draw.tensor(part) for part in (weights, amplitude, beam, sidelobe_levels(split)[entries])))


def noise_spectrum(draw: Draw, amplitude: Tensor) -> Tensor:
    """Transform of noise of rms 1: white complex deviates drawn in the uv plane, times the amplitude."""
    white = torch.view_as_complex(draw.normal((*amplitude.shape, 2))) * (GRID / np.sqrt(2.0))
    # irfft2 keeps the hermitian half of the first and last column only.
    white[..., 0] *= np.sqrt(2.0)
    white[..., -1] *= np.sqrt(2.0)
    return amplitude * white


@dataclass
class Sources:
    """Padded sources of a batch of maps: (b, n) each, `cov` (b, n, 3); flux 0 in empty places.

    Positions in field pixels, flux in sigma; `target` says which count as sources.
    """

    x: Tensor
    y: Tensor
    flux: Tensor
    cov: Tensor
    snr: Tensor
    target: Tensor

    def take(self, rows: Tensor | slice) -> Sources:
        """Some of the maps."""
        return Sources(*(getattr(self, name)[rows] for name in self.__dataclass_fields__))

    def packed(self) -> Sources:
        """Empty places last, and no more of them than the fullest map needs."""
        used = self.flux != 0
        order = used.to(torch.uint8).argsort(dim=1, descending=True, stable=True)
        order = order[:, : max(int(used.sum(1).max()), 1)]
        wide = order[..., None].expand(*order.shape, 3)
        return Sources(
            *(
                torch.gather(value, 1, wide if name == "cov" else order)
                for name, value in ((name, getattr(self, name)) for name in self.__dataclass_fields__)
            )
        )


def draw_sources(draw: Draw, beam: Tensor, white: Tensor | float = 0.0) -> Sources:
    """Sources of each map, and things that are none: negative sources and dipoles of imperfect subtraction.

    A tenth of the maps is empty; 7 % have one source of 300-2000 sigma, 12 % one outside of the field. A
    quarter of the sources stands 0.3-1.5 beams from another. `white` (b, 1): see `draw_white`.
    """
    b, n = len(beam), MAXIMUM_SOURCES
    kind = draw.uniform(0.0, 1.0, (b, 1))
    count = torch.ceil(n * draw.uniform(0.0, 1.0, (b, 1)) ** 1.3)
    used = (torch.arange(n, device=beam.device)[None] < count) & (kind >= 0.1)
    snr = torch.where(
        draw.chance(0.8, (b, n)), draw.log_uniform(3.0, 60.0, (b, n)), draw.log_uniform(3.0, 200.0, (b, n))
    )
    snr[:, :1] = torch.where(kind > 0.93, draw.log_uniform(300.0, 2000.0, (b, 1)), snr[:, :1])
    x, y = draw.uniform(-2.0, FIELD + 1.0, (b, n)), draw.uniform(-2.0, FIELD + 1.0, (b, n))
    blend = draw.chance(0.25, (b, n))
    distance = draw.uniform(0.3, 1.5, (b, n)) * PIXELS_PER_BEAM
    angle = draw.uniform(0.0, 2.0 * np.pi, (b, n))
    for i in range(1, n):
        x[:, i] = torch.where(blend[:, i], x[:, i - 1] + distance[:, i] * torch.cos(angle[:, i]), x[:, i])
        y[:, i] = torch.where(blend[:, i], y[:, i - 1] + distance[:, i] * torch.sin(angle[:, i]), y[:, i])
    # One more place: a source outside of the field, which sends its sidelobes in.
    outside = draw.uniform(2.0, 40.0, (b, 1))
    edge = torch.where(draw.chance(0.5, (b, 1)), -outside, FIELD + outside)
    along, swap = draw.uniform(0.0, FIELD, (b, 1)), draw.chance(0.5, (b, 1))
    x = torch.cat([x, torch.where(swap, edge, along)], 1)
    y = torch.cat([y, torch.where(swap, along, edge)], 1)
    snr = torch.cat([snr, draw.log_uniform(20.0, 600.0, (b, 1))], 1)
    used = torch.cat([used, draw.chance(0.12, (b, 1))], 1)
    major, minor, pa = draw_shapes(draw, tuple(x.shape))
    cov = covariance(major * PIXELS_PER_BEAM, minor * PIXELS_PER_BEAM, pa)
    flux = torch.where(used, snr / unit_snr(cov, beam[:, None], white), torch.zeros_like(snr))
    return _with_defects(draw, Sources(x, y, flux, cov, snr, used))


def _with_defects(draw: Draw, sources: Sources) -> Sources:
    """Add up to two negative sources, or the +- pair that a subtraction at a wrong place leaves."""
    b = len(sources.x)
    kind = draw.uniform(0.0, 1.0, (b, 1))
    place = [draw.uniform(0.0, FIELD, (b, 2)) for _ in range(2)]
    negative = -draw.log_uniform(4.0, 60.0, (b, 2)) * draw.chance(0.7, (b, 2))
    strength = draw.log_uniform(20.0, 300.0, (b, 1))
    pair = torch.cat([strength, -strength * draw.uniform(0.96, 1.04, (b, 1))], 1)
    shift = draw.uniform(-0.12, 0.12, (b, 2)) * PIXELS_PER_BEAM
    is_pair = kind > 0.9
    flux = torch.where(is_pair, pair, torch.where(kind < 0.15, negative, torch.zeros_like(negative)))
    for axis in range(2):
        place[axis][:, 1:] = torch.where(is_pair, place[axis][:, :1] + shift[:, axis, None], place[axis][:, 1:])
    cov = torch.zeros((b, 2, 3), device=flux.device)
    no = torch.zeros((b, 2), dtype=torch.bool, device=flux.device)
    extra = Sources(place[0], place[1], flux, cov, flux.abs(), no)
    return Sources(
        *(torch.cat([getattr(sources, name), getattr(extra, name)], 1) for name in sources.__dataclass_fields__)
    )


def askable(sources: Sources, beam: Tensor) -> Tensor:
    """(b, n) bool: sources bright enough to be found, and not buried under a much brighter neighbour."""
    seen = sources.cov + beam[:, None]
    peak = sources.flux * torch.sqrt(determinant(beam)[:, None] / determinant(seen))
    dx = sources.x[:, :, None] - sources.x[:, None, :]
    dy = sources.y[:, :, None] - sources.y[:, None, :]
    other = peak[:, None, :].clamp(min=0.0) * gaussian(dx, dy, seen[:, None])
    other = other - torch.diag_embed(torch.diagonal(other, dim1=1, dim2=2))
    return sources.target & (sources.snr >= MINIMUM_SNR) & (other.sum(-1) < BURIED * peak)


def draw_targets(sources: Sources, chosen: Tensor, ignored: Tensor) -> tuple[Tensor, Tensor]:
    """Two maps (b, FIELD, FIELD), of the chosen and of the ignored sources.

    Each is the maximum over its sources of a Gaussian of peak 1, FWHM^2 = true^2 + (TARGET_SMOOTHING beam)^2.
    """
    pixel = torch.arange(FIELD, device=sources.x.device, dtype=torch.float32)
    extra = (TARGET_SMOOTHING * PIXELS_PER_BEAM / FWHM_PER_SIGMA) ** 2
    cov = sources.cov + extra * torch.tensor([1.0, 1.0, 0.0], device=pixel.device)
    drawn = torch.zeros((len(sources.x), FIELD, FIELD), device=pixel.device)
    left_out = torch.zeros_like(drawn)
    for i in range(sources.x.shape[1]):
        dx = pixel[None, None, :] - sources.x[:, i, None, None]
        dy = pixel[None, :, None] - sources.y[:, i, None, None]
        shape = gaussian(dx, dy, cov[:, i, None, None])
        drawn = torch.maximum(drawn, shape * chosen[:, i, None, None])
        left_out = torch.maximum(left_out, shape * ignored[:, i, None, None])
    return drawn, left_out


def blobs_finder_batch(
    seed: int, step: int, size: int = 32, split: str = "train", device: str = "cpu", *, planes: Sequence[str] = PLANES
) -> Batch:
    """Dirty maps and the probability maps asked of Blobs Finder.

    Returns
    -------
    Batch : inputs (size, len(planes), FIELD, FIELD); target, weight (size, 1, FIELD, FIELD).
        truth: snr_map (size, FIELD, FIELD) [sigma]; x, y, flux, snr, target (size, n), cov (size, n, 3),
        askable (size, n); sidelobe (size,)
    """
    draw, defects = (Draw(device, seed, step, split, purpose) for purpose in ("blobs_finder", "defects"))
    psfs = draw_psfs(draw, size, split)
    white = draw_white(defects, size)
    sources = draw_sources(draw, psfs.beam, white)
    power = (1.0 - white[..., None] ** 2) * psfs.amplitude**2 + white[..., None] ** 2
    spectrum = noise_spectrum(draw, torch.sqrt(power))
    transfer = with_gain_errors(defects, psfs.weights)
    # Maps with many sources cost more: handle maps of like number together.
    order = (sources.flux != 0).sum(1).argsort()
    target = torch.empty((size, FIELD, FIELD), device=spectrum.device)
    weight = torch.empty_like(target)
    for rows in order.split(8):
        part = sources.take(rows).packed()
        sky = sky_transform(part.x + FIELD // 2, part.y + FIELD // 2, part.flux, part.cov, GRID)
        spectrum[rows] += transfer[rows] * sky
        ask = askable(part, psfs.beam[rows])
        drawn, ignored = draw_targets(part, ask, part.target & ~ask)
        target[rows] = drawn
        weight[rows] = (1.0 + 3.0 * drawn) * ~((ignored > BOX_LEVEL) & (ignored > drawn))
    maps = torch.fft.irfft2(spectrum, s=(GRID, GRID))[:, fast.FIELD, fast.FIELD].contiguous()
    maps = _with_background(draw, maps)
    seen = _field_of_view(draw, size)
    maps, target = maps * seen, target * seen
    column, row = (getattr(sources, axis).round().long().clamp(0, FIELD - 1) for axis in "xy")
    inside = torch.gather(seen.flatten(1), 1, row * FIELD + column)
    truth = {name: getattr(sources, name) for name in ("x", "y", "flux", "cov", "snr", "target")}
    truth |= {"askable": askable(sources, psfs.beam) & inside, "snr_map": maps, "sidelobe": psfs.sidelobe}
    inputs = blobs_finder_input(blobs_finder_planes(maps, planes, fast.psf_images(psfs.weights), seen))
    return Batch(inputs, target[:, None], weight[:, None], truth)


def _field_of_view(draw: Draw, b: int) -> Tensor:
    """(b, FIELD, FIELD) bool: in a third of the maps the data end at a circle (the primary beam's limit).

    The pipeline puts zeros outside of it, and outside of the image.
    """
    pixel = torch.arange(FIELD, device=draw.device, dtype=torch.float32)
    x0, y0 = (draw.uniform(0.2 * FIELD, 0.8 * FIELD, (b, 1, 1)) for _ in range(2))
    radius = draw.uniform(0.3 * FIELD, 0.9 * FIELD, (b, 1, 1))
    inside = (pixel[None, None, :] - x0) ** 2 + (pixel[None, :, None] - y0) ** 2 < radius**2
    return inside | ~draw.chance(0.33, (b, 1, 1))


def _with_background(draw: Draw, maps: Tensor) -> Tensor:
    """A residual offset and gradient in a third of the maps, and the errors of an estimated sigma."""
    b = len(maps)
    ramp = torch.linspace(-1.0, 1.0, FIELD, device=maps.device)
    plane = draw.normal((b, 3, 1, 1)) * 0.3 * draw.chance(0.33, (b, 1, 1, 1))
    maps = maps + plane[:, 0] + plane[:, 1] * ramp[None, :, None] + plane[:, 2] * ramp[None, None, :]
    # Sidelobes of a bright source enter the robust sigma that the pipeline measures.
    robust = 1.4826 * maps.flatten(1).abs().median(dim=1).values[:, None, None]
    sigma = torch.where(draw.chance(0.5, (b, 1, 1)), robust.clamp(min=1.0), torch.ones_like(robust))
    return maps / (sigma * draw.uniform(0.93, 1.07, (b, 1, 1)))
