"""Fields of several sources with continuum and lines, as the whole pipeline meets them, without making a cube.

Imaging is linear: a field is a few dirty images (one a source), each with a spectrum. Whatever the pipeline
makes of its cube (integrated image, line map, the spectrum of a box, focused image) is a weighted sum of them
plus noise of a known spectrum, and is made directly.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from casa_deepfocus.core.geometry import FWHM_PER_SIGMA
from casa_deepfocus.core.preprocessing import PIXELS_PER_BEAM, STAMP
from casa_deepfocus.errors import ParameterError
from sim.psflib import GRID, load_library
from training.draw import Draw
from training.maps import FIELD, covariance, determinant, draw_shapes, sky_transform, unit_snr
from training.spectra import channel_count


@dataclass(frozen=True)
class Recipe:
    """Pixels, sizes and kind of the fields of a preset.

    Attributes
    ----------
    side : int, periodic grid [pixel], 51.2 beams wide; field : int, its central part that is looked at
    stamp : int [pixel], side of the ResNets' input
    nchan : int, 0 for another number in each batch
    sources : int, at most in a field
    """

    name: str
    side: int
    field: int
    stamp: int
    nchan: int
    sources: int

    @property
    def pixels_per_beam(self) -> float:
        """The library's cells are those of `GRID` pixels of `PIXELS_PER_BEAM` to the beam."""
        return PIXELS_PER_BEAM * self.side / GRID


RECIPES = {
    "compact": Recipe("compact", GRID, FIELD, STAMP, 0, 7),
    # 432 pixels make 8.44 of them a beam: the paper's 0.1 arcsec under its beam of 0.85.
    "paper": Recipe("paper", 432, 256, 64, 128, 6),
}


def recipe_of(preset: str) -> Recipe:
    """The recipe of a preset; `decoras` trains on the paper's data."""
    if preset not in (*RECIPES, "decoras"):
        raise ParameterError("preset", preset, "no such preset", f"Choose one of {', '.join(RECIPES)}, decoras")
    return RECIPES["paper" if preset == "decoras" else preset]


@dataclass
class Fields:
    """A batch of fields: `b` of them with `n` places for sources, flux in sigma of one channel.

    Attributes
    ----------
    recipe : Recipe
    weights, amplitude : (b, side, side // 2 + 1), transform of the PSF (peak 1) and of noise of rms 1
    beam : (b, 3) [pixel^2]
    x, y : (b, n) [pixel of the field]; cov : (b, n, 3) [pixel^2]; fwhm_maj, fwhm_min : (b, n) [beam]; pa [rad]
    line : (b, n, nchan), continuum : (b, n), flux per channel; used : (b, n) bool
    chan, fwhm : (b, n) [channel] of the lines
    """

    recipe: Recipe
    weights: Tensor
    amplitude: Tensor
    beam: Tensor
    x: Tensor
    y: Tensor
    cov: Tensor
    fwhm_maj: Tensor
    fwhm_min: Tensor
    pa: Tensor
    line: Tensor
    continuum: Tensor
    chan: Tensor
    fwhm: Tensor
    used: Tensor

    @property
    def nchan(self) -> int:
        return self.line.shape[-1]

    @property
    def corner(self) -> int:
        """Pixel of the grid that is pixel 0 of the field."""
        return (self.recipe.side - self.recipe.field) // 2

    def psf(self) -> Tensor:
        """(b, side, side), peak 1 at (side // 2, side // 2)."""
        side = self.recipe.side
        return torch.fft.irfft2(self.weights, s=(side, side)).roll((side // 2, side // 2), (-2, -1))

    def dirty(self, rows: Tensor, x: Tensor, y: Tensor, flux: Tensor) -> Tensor:
        """Noise-free dirty maps of fields `rows`: (k, side, side) of fluxes (k, n) at grid pixels x, y (k, n)."""
        side = self.recipe.side
        sky = sky_transform(x, y, flux, self.cov[rows], side)
        return torch.fft.irfft2(self.weights[rows] * sky, s=(side, side))

    def noise(self, draw: Draw, rows: Tensor) -> Tensor:
        """(k, side, side) independent noise of rms 1 of fields `rows`."""
        side = self.recipe.side
        white = torch.fft.rfft2(draw.normal((len(rows), side, side)))
        return torch.fft.irfft2(self.amplitude[rows] * white, s=(side, side))


def draw_fields(draw: Draw, recipe: Recipe, b: int, split: str, *, nchan: int, augment: bool) -> Fields:
    """Fields of a recipe.

    `compact`: any array of the library, one to seven sources of line SNR 4-80, half of them with continuum, a third
    0.4-1.5 beams from another. `paper`: its array and Tables 1 and 2, integrated SNR of the central source 10-100,
    and pixel-white noise of half of the rms in half of the fields.

    Parameters
    ----------
    augment : bool, mirror and transpose the PSFs (compact)
    """
    paper = recipe.name == "paper"
    library = load_library(split if not paper else "train")
    entries = np.zeros(b, int) if paper else draw.integers(len(library), (b,)).cpu().numpy()
    turn = {}
    if augment and not paper:
        turn = {key: draw.chance(0.5, (b,)).cpu().numpy() for key in ("flip", "transpose")}
    weights, amplitude = (draw.tensor(_resized(part, recipe.side)) for part in library.weights(entries, **turn))
    weights = weights * (recipe.side / GRID)
    scale = recipe.pixels_per_beam / PIXELS_PER_BEAM
    beam = draw.tensor(library.beams(entries, **turn).astype(np.float32)) * scale**2
    if paper:
        white = 0.5 * draw.chance(0.5, (b, 1, 1))
        amplitude = torch.sqrt((1.0 - white**2) * amplitude**2 + white**2)
    sky = _paper_sources(draw, recipe, b) if paper else _compact_sources(draw, recipe, b)
    x, y, major, minor, pa, used, level, balance = sky
    n = x.shape[1]
    cov = covariance(major * recipe.pixels_per_beam, minor * recipe.pixels_per_beam, pa)
    chan = draw.uniform(10.0, 110.0, (b, n)) if paper else draw.uniform(0.03 * nchan, 0.97 * nchan, (b, n))
    fwhm = draw.uniform(3.0, 10.0, (b, n)) if paper else draw.log_uniform(1.5, max(0.25 * nchan, 2.0), (b, n))
    offset = torch.arange(nchan, device=x.device) - chan[..., None]
    profile = torch.exp(-0.5 * (offset * FWHM_PER_SIGMA / torch.sqrt(fwhm**2 + 0.69**2)[..., None]) ** 2)
    if paper:
        # Brightness at the source's own peak in the integrated image, before the beam: Table 1's ratios.
        line = level * balance
        mean = level + line * profile.mean(-1)
        seen = torch.sqrt(determinant(beam)[:, None] / determinant(cov + beam[:, None]))
        snr = draw.log_uniform(10.0, 100.0, (b, 1))
        factor = snr / (np.sqrt(nchan) * (mean * seen)[:, :1])
        continuum, height = level * factor, line * factor
    else:
        unit = unit_snr(cov, beam[:, None])
        height = level / (unit * torch.sqrt((profile**2).sum(-1)).clamp(min=0.5))
        continuum = balance / (np.sqrt(nchan) * unit)
    line, continuum = profile * (height * used)[..., None], continuum * used
    return Fields(recipe, weights, amplitude, beam, x, y, cov, major, minor, pa, line, continuum, chan, fwhm, used)


def _resized(half_plane: np.ndarray, side: int) -> np.ndarray:
    """Half-planes (b, GRID, GRID // 2 + 1) on a finer grid of the same field, the rms of their image kept."""
    if side == GRID:
        return half_plane
    out = np.zeros((len(half_plane), side, side // 2 + 1), np.float32)
    middle = GRID // 2
    out[:, :middle, :middle] = half_plane[:, :middle, :middle]
    out[:, -middle + 1 :, :middle] = half_plane[:, middle + 1 :, :middle]
    return out * np.float32(side / GRID)


def _compact_sources(draw: Draw, recipe: Recipe, b: int) -> tuple[Tensor, ...]:
    n, field = recipe.sources, recipe.field
    used = torch.arange(n, device=draw.device)[None] <= draw.integers(n, (b, 1))
    x, y = (draw.uniform(0.0, field - 1.0, (b, n)) for _ in range(2))
    blend = draw.chance(0.33, (b, n))
    distance = draw.uniform(0.4, 1.5, (b, n)) * recipe.pixels_per_beam
    angle = draw.uniform(0.0, 2.0 * np.pi, (b, n))
    for i in range(1, n):
        x[:, i] = torch.where(blend[:, i], x[:, i - 1] + distance[:, i] * torch.cos(angle[:, i]), x[:, i])
        y[:, i] = torch.where(blend[:, i], y[:, i - 1] + distance[:, i] * torch.sin(angle[:, i]), y[:, i])
    major, minor, pa = draw_shapes(draw, (b, n))
    snr = draw.log_uniform(4.0, 80.0, (b, n))
    continuum = draw.log_uniform(3.0, 80.0, (b, n)) * draw.chance(0.5, (b, n))
    return x, y, major, minor, pa, used, snr, continuum


def _paper_sources(draw: Draw, recipe: Recipe, b: int) -> tuple[Tensor, ...]:
    n, field = recipe.sources, recipe.field
    used = torch.arange(n, device=draw.device)[None] < 3 + draw.integers(4, (b, 1))
    # Pixels 100 to 250 of 360 in the central 256.
    x, y = (draw.uniform(100.0, 250.0, (b, n)) - 0.5 * (360 - field) for _ in range(2))
    x[:, 0], y[:, 0] = (field / 2 + draw.uniform(-0.5, 0.5, (b,)) for _ in range(2))
    size = torch.stack([draw.uniform(2.0, 8.0, (b, n)) for _ in range(2)]).sort(0).values / recipe.pixels_per_beam
    amplitude = draw.uniform(1.0, 5.0, (b, n))
    ratio = draw.uniform(1.0, 5.0, (b, n))
    peak = (amplitude * (1.0 + ratio))[:, :1]
    amplitude = amplitude * (peak / (amplitude * (1.0 + ratio))).clamp(max=1.0)
    flux = amplitude * (size[0] * size[1])
    return x, y, size[1], size[0], draw.uniform(0.0, np.pi, (b, n)), used, flux, ratio


def channels_of(recipe: Recipe, seed: int, step: int, split: str) -> int:
    """Channels of a batch: the recipe's, else a number of the step's own, at least 24."""
    return recipe.nchan or max(24, channel_count(seed, step, split))
