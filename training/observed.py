"""The paper's fields as the simulator's preset `paper` observes them: its PSF, primary beam, noise and Tables 1 and 2.

All fields of that preset share one array, track and grid, so PSF and primary beam are computed once, exactly, and
taken in the middle of the band: over its 0.6 % they change by less than the noise shows. The spectral index, 1 %
over the band at most, is left out.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from casa_deepfocus.core.geometry import GAUSSIAN_AREA
from sim.beams import primary_beam
from training.draw import Draw
from training.maps import covariance, determinant

PRESET = "paper"
CENTRAL_PEAK = 0.001
"""[Jy/pixel] Continuum and line of the central source at its line's peak (Table 2, `inbright`)."""

STORED = Path(__file__).with_name("paper_psf.npz")
"""Written by `python -m training.observed`; a test compares it with the simulator."""

SIDES = (512, 256)
"""Grids [pixel] that are kept: of fields and of stamps."""

IMAGE = 360
"""Side of the paper's images [pixel], whose central part is looked at."""


@dataclass(frozen=True)
class Observed:
    """What the observation does to the sky, on a periodic grid of `side` pixels.

    Attributes
    ----------
    weights, amplitude : (side, side // 2 + 1) float32, transform of the PSF (peak 1) and of thermal noise of rms 1
    beam : (3,) float64 [pixel^2]
    pb : (IMAGE, IMAGE) float32
    noise : float [Jy/beam], thermal, of a channel
    band : int, highest frequency [1 / side] along an axis that is not 0
    """

    weights: NDArray[np.float32]
    amplitude: NDArray[np.float32]
    beam: NDArray[np.float64]
    pb: NDArray[np.float32]
    noise: float
    band: int


@lru_cache(maxsize=3)
def observe(side: int) -> Observed:
    """The paper's observation on a grid of `SIDES`, from `STORED`: neither CASA nor its data are needed."""
    with np.load(STORED) as file:
        block, beam, noise = file[f"weights{side}"], file["beam"], float(file["noise"])
        freq, cell, diameter = (float(file[name]) for name in ("freq", "cell", "diameter"))
    band = block.shape[1] - 1
    weights = np.zeros((side, side // 2 + 1), dtype=np.float32)
    weights[: band + 1, : band + 1], weights[-band:, : band + 1] = block[: band + 1], block[band + 1 :]
    power = np.maximum(weights, 0.0).astype(float)
    twice = np.where((np.arange(side // 2 + 1) > 0) & (np.arange(side // 2 + 1) < side // 2), 2.0, 1.0)
    amplitude = np.sqrt(power / ((power * twice).sum() / side**2)).astype(np.float32)
    pb = primary_beam(IMAGE, cell, freq, diameter).astype(np.float32)
    return Observed(weights, amplitude, beam, pb, noise, band)


def compute() -> dict[str, NDArray]:
    """What `STORED` holds, from the simulator's preset (needs the casadata package).

    Returns
    -------
    dict : weights512, weights256 (2 band + 1, band + 1), transform of the PSF cut at half of so many pixels from its
        centre, rows 0 to band and -band to -1; beam (3,) [pixel^2]; noise [Jy/beam]; freq [Hz], cell [arcsec],
        diameter [m]
    """
    from sim.presets.fields import draw_field
    from sim.response import response

    field = draw_field(PRESET, 0, 0)
    found = response(field.coverage, field.grid)
    middle = found.interpolation[field.grid.nchan // 2].astype(np.float32)
    whole = np.tensordot(middle, found.psf, axes=1)
    out = {
        "beam": found.middle_beam(), "noise": np.array(field.noise), "cell": np.array(field.grid.cell),
        "freq": np.array(field.grid.freq()[field.grid.nchan // 2]), "diameter": np.array(field.coverage.diameter()),
    }  # fmt: skip
    for side in SIDES:
        part = slice(len(whole) // 2 - side // 2, len(whole) // 2 + side // 2)
        psf = np.array(whole[part, part])
        # The first row and column have no counterpart on the other side: without them the transform is real.
        psf[0] = psf[:, 0] = 0.0
        weights = np.fft.rfft2(np.fft.ifftshift(psf)).real
        # The cut leaks a little beyond the longest baseline.
        band = int(np.ceil(found.band * side)) + 2
        weights[band + 1 : -band] = weights[:, band + 1 :] = 0.0
        weights /= np.fft.irfft2(weights, s=(side, side))[0, 0]
        block = np.concatenate([weights[: band + 1, : band + 1], weights[-band:, : band + 1]])
        out[f"weights{side}"] = block.astype(np.float32)
    return out


@dataclass(frozen=True)
class Sky:
    """Sources of `b` fields, at most `n` each.

    Attributes
    ----------
    x, y : (b, n) [pixel of the field]; major, minor : (b, n) FWHM [pixel]; pa : (b, n) [rad]; used : (b, n) bool
    continuum, line : (b, n) [sigma], apparent flux density and height of the line, of one channel
    gain : (b, n), primary beam
    chan, fwhm : (b, n) [channel]
    white : (b,), share of the noise's rms that is independent from pixel to pixel
    """

    x: Tensor
    y: Tensor
    major: Tensor
    minor: Tensor
    pa: Tensor
    used: Tensor
    continuum: Tensor
    line: Tensor
    gain: Tensor
    chan: Tensor
    fwhm: Tensor
    white: Tensor


def draw_sky(draw: Draw, observed: Observed, b: int, n: int, field: int, nchan: int, *, augment: bool) -> Sky:
    """Skies of Tables 1 and 2: a central source, and two to five others no brighter.

    The noise gives the central source an SNR of 10 to 100 in the integrated image, as the preset draws it: thermal
    noise that is always the same, and white noise for the rest, whose share of the variance has a median of 0.95.

    Parameters
    ----------
    field : int [pixel], side of the central part of the image
    augment : bool
        Turn every sky by an angle of its own and mirror it. The paper turns the images; turned with the pixels,
        white noise would lose half of its variance between them, and the PSF would not be the array's.
    """
    used = torch.arange(n, device=draw.device)[None] < 3 + draw.integers(4, (b, 1))
    middle = IMAGE / 2
    x, y = (draw.uniform(100.0, 250.0, (b, n)) - middle for _ in range(2))
    x[:, 0], y[:, 0] = (draw.uniform(-0.5, 0.5, (b,)) for _ in range(2))
    size = torch.stack([draw.uniform(2.0, 8.0, (b, n)) for _ in range(2)]).sort(0).values
    # The angle is the first axis's, which may be the minor one: all orientations.
    pa = draw.uniform(0.0, np.pi, (b, n))
    if augment:
        angle = draw.uniform(0.0, 2.0 * np.pi, (b, 1))
        mirror = 1.0 - 2.0 * draw.chance(0.5, (b, 1)).float()
        x, y = mirror * (x * torch.cos(angle) - y * torch.sin(angle)), x * torch.sin(angle) + y * torch.cos(angle)
    amplitude, ratio = draw.uniform(1.0, 5.0, (b, n)), draw.uniform(1.0, 5.0, (b, n))
    peak = amplitude * (1.0 + ratio)
    amplitude = amplitude * (peak[:, :1] / peak).clamp(max=1.0)
    continuum = amplitude * (CENTRAL_PEAK / peak[:, :1]) * (GAUSSIAN_AREA * size[0] * size[1])
    pb = draw.tensor(observed.pb)
    column, row = ((v + middle).round().long().clamp(0, IMAGE - 1) for v in (x, y))
    gain = pb[row, column]
    chan, fwhm = draw.uniform(10.0, 110.0, (b, n)), draw.uniform(3.0, 10.0, (b, n))
    # Peak of the central source in the integrated image.
    beam = draw.tensor(observed.beam.astype(np.float32))
    cov = covariance(size[1], size[0], pa)[:, 0]
    seen = torch.sqrt(determinant(beam) / determinant(cov + beam)) * gain[:, 0]
    profile = line_profile(chan[:, :1], fwhm[:, :1], nchan)[:, 0]
    bright = continuum[:, 0] * (1.0 + ratio[:, 0] * profile.mean(-1)) * seen
    sigma = np.sqrt(nchan) * bright / draw.log_uniform(10.0, 100.0, (b,))
    sigma = sigma.clamp(min=observed.noise)
    white = torch.sqrt((1.0 - (observed.noise / sigma) ** 2).clamp(min=0.0))
    apparent = continuum * gain * used / sigma[:, None]
    half = field / 2
    return Sky(x + half, y + half, size[1], size[0], pa, used, apparent, ratio * apparent, gain, chan, fwhm, white)


def line_profile(chan: Tensor, fwhm: Tensor, nchan: int) -> Tensor:
    """(..., nchan) Gaussian lines of height 1, sampled at the middle of the channels as the simulator does."""
    offset = torch.arange(nchan, device=chan.device) - chan[..., None]
    return torch.exp(-4.0 * np.log(2.0) * (offset / fwhm[..., None]) ** 2)


def box_of(weights: Tensor) -> Tensor:
    """(k, H, W) float: 1 in the bounding box of what is not 0 in each map."""
    out = []
    for axis in (2, 1):
        some = (weights > 0).any(axis).float()
        out.append(some.cummax(1).values * some.flip(1).cummax(1).values.flip(1))
    return out[0][:, :, None] * out[1][:, None, :]


def box_sums(
    boxes: Tensor, corner: int, side: int, weights: Tensor, sky: Tensor, fields: Tensor, band: int
) -> Tensor:
    """Sums over boxes of dirty images, without making the images (Parseval).

    Parameters
    ----------
    boxes : (k, H, W), 1 inside of a box, else 0; pixel (0, 0) is (corner, corner) of the periodic grid
    weights : (side, side // 2 + 1), transform of the PSF
    sky : (b, n, side, side // 2 + 1) complex, transforms of the sources of fields; zero above `band`
    fields : (k,) int, whose each box is
    band : int

    Returns
    -------
    (k, n)
    """
    spectrum = _box_transform(boxes, corner, side, band)
    rows = _band_rows(side, band, boxes.device)
    twice = torch.full((band + 1,), 2.0, device=boxes.device)
    twice[0] = 1.0
    kernel = weights[rows, : band + 1] * spectrum.conj() * twice
    return torch.einsum("kyx,knyx->kn", kernel, sky[:, :, rows, : band + 1][fields]).real / side**2


def box_noise(boxes: Tensor, corner: int, side: int, amplitude: Tensor, white: Tensor, band: int) -> Tensor:
    """(k,) rms of sums over boxes of noise of rms 1, of which `white` (k,) is independent from pixel to pixel."""
    spectrum = _box_transform(boxes, corner, side, band)
    rows = _band_rows(side, band, boxes.device)
    twice = torch.full((band + 1,), 2.0, device=boxes.device)
    twice[0] = 1.0
    thermal = (spectrum.abs() ** 2 * amplitude[rows, : band + 1] ** 2 * twice).sum((1, 2)) / side**2
    return torch.sqrt((1.0 - white**2) * thermal + white**2 * boxes.sum((1, 2)))


def _band_rows(side: int, band: int, device: torch.device) -> Tensor:
    return torch.tensor([*range(band + 1), *range(side - band, side)], device=device)


def _box_transform(boxes: Tensor, corner: int, side: int, band: int) -> Tensor:
    """(k, 2 band + 1, band + 1) transform of boxes: it separates into one along y and one along x."""
    pixel = torch.arange(boxes.shape[-1], device=boxes.device, dtype=torch.float32) + corner
    signed = torch.tensor([*range(band + 1), *range(-band, 0)], device=boxes.device, dtype=torch.float32)
    wave = torch.exp(-2j * np.pi / side * (signed[:, None] * pixel[None, :]))
    along_y, along_x = boxes.amax(2).to(wave.dtype) @ wave.T, boxes.amax(1).to(wave.dtype) @ wave[: band + 1].T
    return along_y[:, :, None] * along_x[:, None, :]


if __name__ == "__main__":
    np.savez_compressed(STORED, **compute())  # type: ignore[arg-type]
