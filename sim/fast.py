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


def _frequencies(xp: ModuleType, like: Any, first: int, stop: int) -> Any:
    """Integers first..stop - 1 in the array's type, on its device."""
    if xp is np:
        return np.arange(first, stop, dtype=like.dtype)
    return xp.arange(first, stop, dtype=like.dtype, device=like.device)


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


def sky_spectrum(x: Any, y: Any, flux: Any, covariance: Any, *, band: int = GRID // 2 - 1) -> Any:
    """Transform of a sum of Gaussian sources.

    Parameters
    ----------
    x, y : (b, n) float32 [grid pixel], centres; pixel (0, 0) is the first
    flux : (b, n) float32, integrated; 0 for the empty places of a padded batch
    covariance : (b, n, 3) float32 [pixel^2] : sxx, syy, sxy
    band : int
        Highest spatial frequency to fill, e.g. `PsfLibrary.band`; the rest stays 0.

    Returns
    -------
    (b, GRID, GRID // 2 + 1) complex64
    """
    xp = _library(x)
    band = min(band, GRID // 2 - 1)
    fx, fy = _frequencies(xp, x, 0, band + 1), _frequencies(xp, x, -band, band + 1)
    scale = 2.0 * np.pi / GRID
    # The phases (b, n, ky) and (b, n, kx) separate; the Gaussian does not when it is tilted.
    row = xp.exp((-1j * scale) * (fy * y[..., None])) * flux[..., None]
    column = xp.exp((-1j * scale) * (fx * x[..., None]))
    # The three terms of the Gaussian stay in one exponent: apart, those of a large tilted source overflow.
    quad = -0.5 * scale * scale * covariance
    squares = (fx[None, :] ** 2, fy[:, None] ** 2, 2.0 * fy[:, None] * fx[None, :])
    total = 0
    for index in range(x.shape[-1]):
        exponent = sum(quad[:, index, term, None, None] * squares[term] for term in range(3))
        total = total + row[:, index, :, None] * column[:, index, None, :] * xp.exp(exponent)
    shape = (x.shape[0], GRID, GRID // 2 + 1)
    if xp is np:
        out = np.zeros(shape, np.complex64)
    else:
        out = xp.zeros(shape, dtype=total.dtype, device=x.device)
    out[:, : band + 1, : band + 1] = total[:, band:]
    out[:, -band:, : band + 1] = total[:, :band]
    return out


def dirty_maps(weights: Any, x: Any, y: Any, flux: Any, covariance: Any, *, band: int = GRID // 2 - 1) -> Any:
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
    k = _frequencies(xp, flux, 0, GRID)
    fy = xp.where(k < GRID // 2, k, k - GRID)[:, None]
    fx = k[None, : GRID // 2 + 1]
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
