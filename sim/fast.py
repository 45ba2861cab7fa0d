"""Exact fast synthesis of dirty maps on the working grid, in numpy or torch.

A dirty map is ``irfft2(W * sum_i flux_i FT(Gaussian_i)) + irfft2(A * rfft2(white))`` with the
gridded weights W (PSF of peak 1 at pixel (0, 0)) and the noise amplitude A (rms 1), both from
`sim.psflib`. With fluxes in units of sigma the map is in sigma. The same functions take numpy
arrays or torch tensors (on any device); only numpy is imported here.

The usable field is the central half of the grid (`FIELD`), so that the PSF is known to twice the
field; sources may stand outside it, and then leave only their sidelobes.
"""

from __future__ import annotations

from types import ModuleType
from typing import Any

import numpy as np

from casa_deepfocus.core.preprocessing import PIXELS_PER_BEAM
from casa_deepfocus.errors import ParameterError
from sim.psflib import GRID


def field(width: int) -> slice:
    """The middle `width` working pixels of the grid, along an axis.

    Raises
    ------
    ParameterError
        When the library's PSFs do not reach over twice that field.
    """
    widest = GRID // 2
    if not 0 < width <= widest:
        raise ParameterError(
            "field", width, f"the PSF library carries fields of up to {widest} working pixels "
            f"({widest / PIXELS_PER_BEAM:g} beams)", "use a narrower one, or sim.cube, which knows no limit",
        )  # fmt: skip
    first = GRID // 2 - width // 2
    return slice(first, first + width)


FIELD = field(GRID // 2)
"""The widest field: pixel 64 of the grid is pixel 0 of the field."""


def _library(array: Any) -> ModuleType:
    """The module an array belongs to: torch for tensors, else numpy."""
    if isinstance(array, np.ndarray):
        return np
    import torch

    return torch


def _wave_numbers(xp: ModuleType, like: Any, side: int, band: int) -> tuple[Any, Any]:
    """Integers along y (both signs, in the order of a transform) and x up to `band`, in the array's type."""
    rows = [*range(min(band + 1, side - side // 2)), *range(-min(band, side // 2), 0)]
    columns = list(range(min(band, side // 2) + 1))
    if xp is np:
        return np.array(rows, dtype=like.dtype), np.array(columns, dtype=like.dtype)
    return tuple(xp.tensor(part, dtype=like.dtype, device=like.device) for part in (rows, columns))


def psf_images(weights: Any) -> Any:
    """PSFs of peak 1 at the centre pixel (GRID // 2, GRID // 2).

    Parameters
    ----------
    weights : (b, GRID, GRID // 2 + 1) float32

    Returns
    -------
    (b, GRID, GRID) float32
    """
    xp = _library(weights)
    psf = _inverse(xp, weights)
    return xp.roll(psf, (GRID // 2, GRID // 2), (-2, -1))


def _inverse(xp: ModuleType, spectrum: Any) -> Any:
    """Real images of half-plane spectra, in single precision."""
    if xp is np:
        return np.fft.irfft2(spectrum, s=(GRID, GRID)).astype(np.float32)
    return xp.fft.irfft2(spectrum, s=(GRID, GRID))


def sky_spectrum(x: Any, y: Any, flux: Any, covariance: Any, side: int = GRID, *, band: int | None = None) -> Any:
    """Transform of a sum of Gaussian sources on a periodic grid.

    Parameters
    ----------
    x, y : (b, n) float32 [grid pixel], centres; pixel (0, 0) is the first
    flux : (b, n) float32, integrated; 0 for the empty places of a padded batch
    covariance : (b, n, 3) float32 [pixel^2] : sxx, syy, sxy
    side : int, the grid is (side, side)
    band : int or None
        Highest spatial frequency to fill, e.g. `PsfLibrary.band`; the rest stays 0. All by default.

    Returns
    -------
    (b, side, side // 2 + 1) complex64
    """
    xp = _library(x)
    band = side if band is None else band
    rows, columns = _wave_numbers(xp, x, side, band)
    scale = 2.0 * np.pi / side
    # The three terms of the Gaussian stay in one exponent: apart, those of a large tilted source overflow.
    quad = (-0.5 * scale * scale) * covariance
    squares = xp.stack([columns[None, :] ** 2 + 0 * rows[:, None], rows[:, None] ** 2 + 0 * columns[None, :],
                        2.0 * rows[:, None] * columns[None, :]])  # fmt: skip
    # The phases along y and x separate; the Gaussian does not when it is tilted.
    wave_y = xp.exp((-1j * scale) * (rows * y[..., None])) * flux[..., None]
    wave_x = xp.exp((-1j * scale) * (columns * x[..., None]))
    total = wave_y[:, :0].sum(1)[:, :, None] * wave_x[:, :0].sum(1)[:, None, :]
    for index in range(x.shape[-1]):
        size = xp.exp(xp.einsum("bq,qyx->byx", quad[:, index], squares))
        total += size * wave_y[:, index, :, None] * wave_x[:, index, None, :]
    if len(rows) == side:
        return total
    shape = (x.shape[0], side, side // 2 + 1)
    out = np.zeros(shape, total.dtype) if xp is np else xp.zeros(shape, dtype=total.dtype, device=x.device)
    out[:, : band + 1, : band + 1] = total[:, : band + 1]
    out[:, -band:, : band + 1] = total[:, band + 1 :]
    return out


def dirty_maps(weights: Any, x: Any, y: Any, flux: Any, covariance: Any, *, band: int | None = None) -> Any:
    """Noise-free dirty maps.

    Parameters
    ----------
    weights : (b, GRID, GRID // 2 + 1) float32
        Transform of the PSFs (`PsfLibrary.weights`).
    x, y, flux, covariance, band : see `sky_spectrum`

    Returns
    -------
    (b, GRID, GRID) float32 [the flux's unit per beam]
    """
    xp = _library(weights)
    spectrum = weights * sky_spectrum(x, y, flux, covariance, band=band)
    return _inverse(xp, spectrum)


def noise_maps(amplitude: Any, white: Any) -> Any:
    """Noise of rms 1 with the statistics of a dirty map.

    Parameters
    ----------
    amplitude : (b, GRID, GRID // 2 + 1) float32
        Second result of `PsfLibrary.weights`; sqrt(weights) at natural weighting.
    white : (b, GRID, GRID) float32, independent normal deviates

    Returns
    -------
    (b, GRID, GRID) float32 [sigma]
    """
    xp = _library(white)
    return _inverse(xp, amplitude * xp.fft.rfft2(white))


def matched_snr(weights: Any, amplitude: Any, flux: Any, covariance: Any) -> Any:
    """SNR of each source for the ideal linear filter that knows its shape and the noise (rms 1).

    The sum over the cells of |W FT(source)|^2 / A^2; at natural weighting this is
    flux sqrt(G . (PSF (x) G)).

    Parameters
    ----------
    weights, amplitude : (b, GRID, GRID // 2 + 1), `PsfLibrary.weights`
    flux : (b, n) [sigma]
    covariance : (b, n, 3) [pixel^2]

    Returns
    -------
    (b, n)
    """
    xp = _library(weights)
    rows, columns = _wave_numbers(xp, flux, GRID, GRID)
    fy, fx = rows[:, None], columns[None, :]
    scale = (2.0 * np.pi / GRID) ** 2
    twice = xp.where((fx > 0) & (fx < GRID // 2), 2.0 + 0 * fx, 1.0 + 0 * fx)
    safe = xp.where(amplitude > 0, amplitude, amplitude * 0 + 1)
    power = xp.where(amplitude > 0, weights / safe, weights * 0) ** 2 * twice
    out = 0 * flux
    for index in range(flux.shape[-1]):
        sxx, syy, sxy = (covariance[:, index, part, None, None] for part in range(3))
        shape = xp.exp(-scale * (sxx * fx * fx + syy * fy * fy + 2.0 * sxy * fx * fy))
        total = (power * shape).sum(-1).sum(-1) / (GRID * GRID)
        out[:, index] = abs(flux[:, index]) * xp.sqrt(total)
    return out
