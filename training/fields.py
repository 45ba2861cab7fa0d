"""Fields of several sources with continuum and lines, as the whole pipeline meets them, without making a cube.

Imaging is linear: a field is a few dirty images (one a source), each with a spectrum. Whatever the pipeline
makes of its cube (integrated image, line map, the spectrum of a box, focused image) is a weighted sum of them
plus noise of a known spectrum, and is made directly.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from casa_deepfocus.core.geometry import FWHM_PER_SIGMA
from casa_deepfocus.core.preprocessing import (
    PAPER_CHANNELS,
    PAPER_FIELD,
    PAPER_PIXELS_PER_BEAM,
    PAPER_STAMP,
    PIXELS_PER_BEAM,
    STAMP,
)
from casa_deepfocus.errors import ParameterError
from sim.psflib import GRID, load_library
from training.draw import Draw
from training.maps import FIELD, covariance, draw_shapes, sky_transform, unit_snr
from training.observed import box_noise, box_sums, draw_sky, line_profile, observe
from training.spectra import channel_count


@dataclass(frozen=True)
class Recipe:
    """Pixels, sizes and kind of the fields of a preset.

    Attributes
    ----------
    side : int, periodic grid [pixel]; field : int, its central part that is looked at
    near : int, periodic grid [pixel] of stamps: what is farther away than it holds is left out of them
    stamp : int [pixel], side of the ResNets' input
    nchan : int, 0 for another number in each batch
    sources : int, at most in a field
    pixels_per_beam : float, geometric mean of the beam's FWHM
    """

    name: str
    side: int
    field: int
    near: int
    stamp: int
    nchan: int
    sources: int
    pixels_per_beam: float


RECIPES = {
    "compact": Recipe("compact", GRID, FIELD, GRID, STAMP, 0, 7, PIXELS_PER_BEAM),
    # A grid of twice the field: no two pixels of the field see each other around its edge.
    "paper": Recipe("paper", 512, PAPER_FIELD, 256, PAPER_STAMP, PAPER_CHANNELS, 6, PAPER_PIXELS_PER_BEAM),
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
    gain : (b, n), primary beam: `line` and `continuum` are apparent
    white : (b,), share of the noise's rms that is independent from pixel to pixel; not in `amplitude`
    band : int, highest frequency [1 / side] of the PSF along an axis
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
    gain: Tensor
    white: Tensor
    band: int

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
        sky = sky_transform(x, y, flux, self.cov[rows], side, band=self.band)
        return torch.fft.irfft2(self.weights[rows] * sky, s=(side, side))

    def noise(self, draw: Draw, rows: Tensor) -> Tensor:
        """(k, side, side) independent noise of rms 1 of fields `rows`."""
        side = self.recipe.side
        spectrum = torch.fft.rfft2(draw.normal((len(rows), side, side)))
        noise = torch.fft.irfft2(self.amplitude[rows] * spectrum, s=(side, side))
        if not self.white.any():
            return noise
        white = self.white[rows, None, None]
        return torch.sqrt(1.0 - white**2) * noise + white * draw.normal((len(rows), side, side))

    def close(self, rows: Tensor, x: Tensor, y: Tensor) -> tuple[Fields, Tensor]:
        """The fields on the grid `recipe.near`, and which sources are in reach of places (k,) there, (k, n) bool.

        A stamp about a place sees a source's sidelobes from the right side as long as they are in reach.
        """
        side = self.recipe.near
        if side == self.recipe.side:
            return self, torch.ones_like(self.x[rows], dtype=torch.bool)
        observed = observe(side)
        b = len(self.x)
        weights, amplitude = (
            torch.from_numpy(part).to(self.x.device).expand(b, -1, -1)
            for part in (observed.weights, observed.amplitude)
        )
        reach = (side - self.recipe.stamp) / 2
        inside = ((self.x[rows] - x[:, None]).abs() < reach) & ((self.y[rows] - y[:, None]).abs() < reach)
        recipe = replace(self.recipe, side=side)
        return replace(self, recipe=recipe, weights=weights, amplitude=amplitude, band=observed.band), inside

    def box_response(self, rows: Tensor, boxes: Tensor) -> tuple[Tensor, Tensor]:
        """Sums over boxes (k, field, field) of the dirty images of unit-flux sources (k, n), and the noise's (k,)."""
        side, corner = self.recipe.side, self.corner
        b, n = self.x.shape
        place = [(v + corner).reshape(b * n, 1) for v in (self.x, self.y)]
        one = torch.ones_like(place[0])
        sky = sky_transform(*place, one, self.cov.reshape(b * n, 1, 3), side, band=self.band)
        sky = sky.reshape(b, n, *sky.shape[1:])
        sums = box_sums(boxes, corner, side, self.weights[0], sky, rows, self.band)
        return sums, box_noise(boxes, corner, side, self.amplitude[0], self.white[rows], self.band)


def draw_fields(draw: Draw, recipe: Recipe, b: int, split: str, *, nchan: int, augment: bool) -> Fields:
    """Fields of a recipe.

    `compact`: any array of the library, one to seven sources of line SNR 4-80, half of them with continuum, a third
    0.4-1.5 beams from another. `paper`: the simulator's preset (`training.observed`).

    Parameters
    ----------
    augment : bool, mirror and transpose the PSFs (compact), turn and mirror the skies (paper)
    """
    if recipe.name == "paper":
        return _paper_fields(draw, recipe, b, nchan, augment=augment)
    library = load_library(split)
    entries = draw.integers(len(library), (b,)).cpu().numpy()
    turn = {key: draw.chance(0.5, (b,)).cpu().numpy() for key in ("flip", "transpose")} if augment else {}
    weights, amplitude = (draw.tensor(part) for part in library.weights(entries, **turn))
    beam = draw.tensor(library.beams(entries, **turn).astype(np.float32))
    x, y, major, minor, pa, used, level, balance = _compact_sources(draw, recipe, b)
    n = x.shape[1]
    cov = covariance(major * recipe.pixels_per_beam, minor * recipe.pixels_per_beam, pa)
    chan = draw.uniform(0.03 * nchan, 0.97 * nchan, (b, n))
    fwhm = draw.log_uniform(1.5, max(0.25 * nchan, 2.0), (b, n))
    offset = torch.arange(nchan, device=x.device) - chan[..., None]
    profile = torch.exp(-0.5 * (offset * FWHM_PER_SIGMA / torch.sqrt(fwhm**2 + 0.69**2)[..., None]) ** 2)
    unit = unit_snr(cov, beam[:, None])
    height = level / (unit * torch.sqrt((profile**2).sum(-1)).clamp(min=0.5))
    continuum = balance / (np.sqrt(nchan) * unit)
    line, continuum = profile * (height * used)[..., None], continuum * used
    return Fields(
        recipe, weights, amplitude, beam, x, y, cov, major, minor, pa, line, continuum, chan, fwhm, used,
        torch.ones_like(x), torch.zeros_like(x[:, 0]), recipe.side,
    )  # fmt: skip


def _paper_fields(draw: Draw, recipe: Recipe, b: int, nchan: int, *, augment: bool) -> Fields:
    observed = observe(recipe.side)
    sky = draw_sky(draw, observed, b, recipe.sources, recipe.field, nchan, augment=augment)
    weights, amplitude, beam = (
        draw.tensor(part.astype(np.float32)).expand(b, *part.shape)
        for part in (observed.weights, observed.amplitude, observed.beam)
    )
    line = line_profile(sky.chan, sky.fwhm, nchan) * sky.line[..., None]
    scale = recipe.pixels_per_beam
    return Fields(
        recipe, weights, amplitude, beam, sky.x, sky.y, covariance(sky.major, sky.minor, sky.pa), sky.major / scale,
        sky.minor / scale, sky.pa, line, sky.continuum, sky.chan, sky.fwhm, sky.used, sky.gain, sky.white,
        observed.band,
    )  # fmt: skip


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


def channels_of(recipe: Recipe, seed: int, step: int, split: str) -> int:
    """Channels of a batch: the recipe's, else a number of the step's own, at least 24."""
    return recipe.nchan or max(24, channel_count(seed, step, split))
