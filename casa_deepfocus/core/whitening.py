"""Noise that did not come through the interferometer: pixel-white noise added to a dirty image.

The noise of a dirty image has the power spectrum of its PSF (natural weighting), and none at the
spatial frequencies that no baseline measures. Simulations that add white noise to the image, as the
paper's do (its section 3), have some there: with power a T + b, T the transform of the PSF, neither
the noise per beam nor the likelihood is that of the interferometer. Convolving image and PSF with
H = T / (a T + b) makes both so again: the noise then has the power H^2 (a T + b) = H T, which is the
transform of the new PSF. Sources keep their flux, and where b is 0 nothing changes.

T is smoothed over the uv plane, so that the convolution reaches over a few beams only: beyond the
field the dirty image is not known, and a wider one would lose what it takes from there.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from scipy import fft, ndimage

from casa_deepfocus.core.cube import Cube
from casa_deepfocus.core.geometry import covariance_to_shape
from casa_deepfocus.core.noise import blank_to_zero
from casa_deepfocus.core.psf import fit_beam, place_psf, psf_basis

LEAST_SHARE = 0.05
"""With less of its variance white over the pixels, the noise is taken for the interferometer's own."""

MEASURED = 0.02
"""Where the PSF's transform is below this fraction of its largest value, no baseline measures."""

CHANNELS = 16
"""About how many channels are looked at to find out."""

REACH = 2.0
"""Standard deviation of the taper on the PSF that the filter is made from, in beams (FWHM)."""

NODES = 9
"""Channels whose beams are fitted."""

LEAST_CELLS = 256
"""Fewer unmeasured cells do not tell."""


def as_natural(cube: Cube, sigma: NDArray) -> tuple[Cube, float]:
    """The cube to search: as it is, or with natural weighting's noise in the place of white noise.

    Parameters
    ----------
    cube : Cube
    sigma : (nchan,) [Jy/beam], `core.noise.channel_noise`

    Returns
    -------
    cube : Cube, the same object where less than `LEAST_SHARE` of the noise is white
    share : float, `white_share`
    """
    share = white_share(cube, sigma)
    return (restore_natural(cube, share) if share >= LEAST_SHARE else cube), share


def white_share(cube: Cube, sigma: NDArray) -> float:
    """Fraction of the noise's variance that is white over the pixels.

    The power at the spatial frequencies that no baseline measures, over those of the whole plane. The
    field is tapered first, so that bright sources do not leak there.

    Parameters
    ----------
    cube : Cube, not corrected for the primary beam
    sigma : (nchan,) [Jy/beam], `core.noise.channel_noise`

    Returns
    -------
    float in [0, 1]; 0 when the pixels are too coarse to tell, or the PSF was not measured
    """
    if not cube.psf_is_measured:
        # The Gaussian of the header's beam does not say where baselines measure, and is not what made the image.
        return 0.0
    ny, nx = cube.shape
    chosen = [chan for chan in range(0, cube.nchan, max(1, cube.nchan // CHANNELS)) if np.isfinite(sigma[chan])]
    taper = np.hanning(ny + 2)[1:-1, None] * np.hanning(nx + 2)[None, 1:-1]
    shares = []
    for chan in chosen:
        plane = blank_to_zero(cube.data[chan]) * taper
        known = (taper**2 * np.isfinite(cube.data[chan])).sum()
        empty = _unmeasured(cube.psf[chan if len(cube.psf) > 1 else 0], (ny, nx))
        if empty.sum() < LEAST_CELLS or known == 0:
            return 0.0
        power = np.abs(fft.rfft2(plane)[empty]) ** 2 / known
        # The median of an exponential distribution is ln 2 of its mean.
        shares.append(float(np.median(power)) / np.log(2.0) / sigma[chan] ** 2)
    return float(np.clip(np.median(shares), 0.0, 1.0)) if shares else 0.0


def _unmeasured(psf: NDArray, shape: tuple[int, int]) -> NDArray[np.bool_]:
    """Cells of rfft2's half plane outside the ring that holds all of the PSF's power."""
    # A taper keeps the cut PSF's power where it belongs.
    window = np.hanning(psf.shape[0] + 1)[:-1, None] * np.hanning(psf.shape[1] + 1)[None, :-1]
    transfer = np.abs(fft.rfft2(place_psf(psf * window, shape)))
    fy, fx = fft.fftfreq(shape[0])[:, None], fft.rfftfreq(shape[1])[None, :]
    radius = np.hypot(fy, fx)
    reach = radius[transfer > MEASURED * transfer.max()].max()
    return radius > min(1.1 * reach + 2.0 / min(shape), 0.7)


def restore_natural(cube: Cube, share: float) -> Cube:
    """The cube as natural weighting would have it: image and PSF convolved with T / (a T + b).

    Parameters
    ----------
    cube : Cube
    share : float, `white_share`

    Returns
    -------
    Cube, PSF of peak 1, fluxes unchanged; its beams are wider where the white noise dominates. A beam along
    the edges of the data is blank: the convolution takes there from what is not known.
    """
    ny, nx = cube.shape
    grid = (fft.next_fast_len(2 * ny, real=True), fft.next_fast_len(2 * nx, real=True))
    known = _known_psfs(cube.psf)
    middle = place_psf(cube.psf[known[len(known) // 2]], grid)
    # A Gaussian's transform is positive, so that the smoothed one is too, but for the cut of the PSF.
    width = REACH * cube.beam_pixels()
    taper_y, taper_x = (np.exp(-0.5 * (fft.fftfreq(size, 1.0 / size) / width) ** 2) for size in grid)
    smooth = np.clip(fft.rfft2(middle * taper_y[:, None] * taper_x[None, :]).real, 0.0, None)
    response = smooth / ((1.0 - share) * smooth + share)
    scale = 1.0 / fft.irfft2(response * fft.rfft2(middle), s=grid)[0, 0]
    response = (response * scale).astype(np.float32)
    data = np.empty_like(cube.data)
    for chan, plane in enumerate(cube.data):
        spectrum = fft.rfft2(blank_to_zero(plane), s=grid, workers=-1)
        data[chan] = fft.irfft2(spectrum * response, s=grid, workers=-1)[:ny, :nx]
    blank = ~np.isfinite(cube.data)
    blank |= _border(np.asarray(~blank.all(axis=0)), cube.beam_pixels())
    np.copyto(data, np.float32(np.nan), where=blank)
    psf = _filtered_psfs(cube.psf, response, grid)
    psf[known] /= psf[known, psf.shape[1] // 2, psf.shape[2] // 2][:, None, None]
    return replace(cube, data=data, psf=psf, beams=_beams(psf, cube))


def _known_psfs(psf: NDArray) -> NDArray[np.int64]:
    """(n,) planes that hold a PSF; CASA's are zero for a flagged channel."""
    return np.flatnonzero(psf[:, psf.shape[1] // 2, psf.shape[2] // 2] > 0.5)


def _border(known: NDArray[np.bool_], width: float) -> NDArray[np.bool_]:
    """(ny, nx) pixels closer than `width` [pixel] to where nothing is known; outside of the image nothing is."""
    return ndimage.distance_transform_edt(np.pad(known, 1))[1:-1, 1:-1] <= width


def _filtered_psfs(psf: NDArray, response: NDArray, grid: tuple[int, int]) -> NDArray[np.float32]:
    """PSFs convolved with a filter, by way of their principal images where a few of these carry all."""
    basis = psf_basis(psf, 1e-5, most=16) if len(psf) > 16 else None
    images = psf if basis is None else basis[0]
    out = np.empty((len(images), *grid), np.float32)
    for index, image in enumerate(images):
        spectrum = fft.rfft2(place_psf(image, grid), workers=-1)
        out[index] = np.fft.fftshift(fft.irfft2(spectrum * response, s=grid, workers=-1))
    return out if basis is None else np.tensordot(basis[1], out, axes=1)


def _beams(psf: NDArray, cube: Cube) -> NDArray[np.float64]:
    """(nchan, 3) beams [arcsec, arcsec, deg] fitted to a few of the PSFs, which change smoothly."""
    known = _known_psfs(psf)
    nodes = known[np.unique(np.linspace(0, len(known) - 1, NODES).round().astype(int))]
    fitted = np.stack([fit_beam(psf[node]) for node in nodes])
    channels = np.arange(len(psf))
    covariances = np.stack([np.interp(channels, nodes, column) for column in fitted.T], axis=1)
    maj, minor, pa = covariance_to_shape(covariances)
    return np.broadcast_to(np.stack([maj * cube.cell, minor * cube.cell, pa], axis=1), (cube.nchan, 3)).copy()
