"""Noise that is not natural weighting's, and the convolution that makes it so.

At natural weighting the noise of a dirty image has the power spectrum of its PSF, T, and the likelihood of the
visibilities is that of the image (core.fit). Two things in common use break this:

- white noise added over the pixels, as the paper's simulations do (its section 3): power a T + b;
- Briggs weights w = 1 / (1 + f^2 N), N the density of the visibilities (Briggs 1995). The PSF's transform is T = w N,
  the noise's power w^2 N = T (1 - f^2 T), for w = 1 - f^2 T: the PSF itself tells the weights, but for one number.

Convolving image and PSF with H = T / power restores both: the noise then has the power H^2 power = H T, which is the
transform of the new PSF. Sources keep their flux, and where there is nothing to restore nothing changes.

Where the PSF is a Gaussian it tells nothing of the noise (a single dish's, a smoothed image's, that of an image without
its PSF); there the power is measured on the image itself (core.noisepower).

The convolution must reach over a few beams only: beyond the field the dirty image is not known, and a wider one would
lose what it takes from there. For white noise T is smoothed over the uv plane before; Briggs weights follow the
density from cell to cell, and there it is H that is smoothed.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy import fft, ndimage

from casa_deepfocus.core.cube import Cube
from casa_deepfocus.core.geometry import FWHM_PER_SIGMA, covariance_to_shape
from casa_deepfocus.core.noise import blank_to_zero
from casa_deepfocus.core.noisepower import NoisePower, measure_power
from casa_deepfocus.core.psf import fit_beam, has_sidelobes, place_psf, psf_basis

LEAST_SHARE = 0.001
"""With less of its variance white over the pixels, the noise is taken for the interferometer's own. Where no baseline
measures, a model costs nothing: 1 % of white noise there is enough for two sources to look better than one."""

LEAST_DENSITY = 0.3
"""With a smaller `weight_density` the weights are taken for natural ones: it is 0.01 at a robust parameter of 2, 0.9 at
0.5, and a few hundredths, seldom 0.2, where it was measured on natural weighting's noise."""

MOST_DENSITY = 0.95
"""A larger one is taken for this: that of uniform weights no longer tells one density from another."""

MEASURED = 0.02
"""Where the PSF's transform is below this fraction of its largest value, no baseline measures."""

CHANNELS = 16
"""About how many channels are looked at to find out."""

REACH = 2.0
"""Standard deviation of the taper on the PSF that the filter of white noise is made from, in beams (FWHM)."""

BRIGGS_REACH = 3.0
"""The same of the taper on the filter of Briggs weights."""

ALIKE = 0.15
"""Rms difference of the noise's power from the PSF's transform, over where that is, below which they are the same:
about the error of a measurement on some hundred beams."""

MOST_GAIN = 3.0
"""The filter for a measured noise may raise no spatial frequency by more than this over the lowest: noise smoother than
the beam's asks for a narrower beam, down to nothing where it was smoothed with the beam itself. This leaves 0.6."""

LEAST_BEAM = 3.0
"""Minor FWHM [pixel] that a beam is not made narrower than."""

NODES = 9
"""Channels whose beams are fitted."""

LEAST_CELLS = 256
"""Fewer cells do not tell."""

MOST_CELLS = 200_000
"""About how many cells of a larger uv plane are looked at."""


@dataclass(frozen=True)
class NoiseModel:
    """What the noise of a dirty image is, beside natural weighting's.

    Attributes
    ----------
    white : float in [0, 1], `white_share`; 0 where less than `LEAST_SHARE`
    density : float in [0, 1), `weight_density`; 0 where less than `LEAST_DENSITY`
    length : float [beam], FWHM of the noise's correlation, by area; 0 where it is that of the PSF, or of weights
        that the PSF tells
    """

    white: float = 0.0
    density: float = 0.0
    length: float = 0.0

    def __str__(self) -> str:
        if self.length:
            share = f", {100 * self.white:.1f} per cent of its variance are white over the pixels" if self.white else ""
            return f"the noise correlates over {self.length:.2f} beams{share}"
        if self.white:
            return f"{100 * self.white:.1f} per cent of the noise's variance is white over the pixels"
        if self.density:
            return f"Briggs weights, {1.0 - self.density:.2f} of the natural ones where most visibilities are"
        return "natural weighting's noise"


def as_natural(cube: Cube, sigma: NDArray) -> tuple[Cube, NoiseModel]:
    """The cube to search: as it is, or with natural weighting's noise in the place of white noise or Briggs weights'.

    Parameters
    ----------
    cube : Cube
    sigma : (nchan,) [Jy/beam], `core.noise.channel_noise`

    Returns
    -------
    cube : Cube, the same object where its noise is natural weighting's
    model : NoiseModel, what it was
    """
    if not has_sidelobes(cube):
        return _with_measured_power(cube, sigma)
    share = white_share(cube, sigma)
    if share >= LEAST_SHARE:
        return restore_natural(cube, share), NoiseModel(white=share)
    density = weight_density(cube, sigma)
    if density >= LEAST_DENSITY:
        return undo_weights(cube, density), NoiseModel(density=density)
    return cube, NoiseModel()


def _with_measured_power(cube: Cube, sigma: NDArray) -> tuple[Cube, NoiseModel]:
    """`as_natural` for a PSF that does not tell the noise."""
    noise = measure_power(cube, _middle_psf(cube), sigma)
    if noise is None or _is_transfer(noise, cube):
        return cube, NoiseModel()
    length = noise.length() / (FWHM_PER_SIGMA * float(np.linalg.det(_matrix(cube.beam_covariance()))) ** 0.25)
    white = noise.white if noise.white >= LEAST_SHARE else 0.0
    return undo_power(cube, noise), NoiseModel(white=white, length=length)


def _matrix(covariance: NDArray) -> NDArray[np.float64]:
    sxx, syy, sxy = covariance
    return np.array([[sxx, sxy], [sxy, syy]])


def _is_transfer(noise: NoisePower, cube: Cube) -> bool:
    """Whether a noise is natural weighting's, as far as can be measured."""
    grid = _grid(cube)
    transfer, power = _unit_transfer(cube, grid), noise.power(grid)
    ratio = power / np.where(transfer > MEASURED * transfer.max(), transfer, np.inf)
    # Cells count by what they weigh in a fit.
    spread = float(np.sqrt((transfer * (ratio - 1.0) ** 2 * (ratio > 0)).sum() / transfer[ratio > 0].sum()))
    return noise.white < LEAST_SHARE and spread < ALIKE


def _unit_transfer(cube: Cube, grid: tuple[int, int]) -> NDArray[np.float64]:
    """Power of natural weighting's noise, of variance 1: the transform of the PSF, nowhere negative."""
    return np.clip(fft.rfft2(place_psf(_middle_psf(cube), grid)).real, 0.0, None)


def undo_power(cube: Cube, noise: NoisePower) -> Cube:
    """The cube with natural weighting's noise in the place of another: image and PSF convolved with T / power.

    Parameters
    ----------
    cube : Cube
    noise : NoisePower

    Returns
    -------
    Cube, PSF of peak 1, fluxes unchanged; its beams are wider where the noise was narrower than the beam, and a little
    narrower where it was smoother. A beam along the edges of the data is blank: the convolution takes there from what
    is not known.
    """
    grid = _grid(cube)
    transfer, power = _unit_transfer(cube, grid), noise.power(grid)
    taper = _gaussian_taper(grid, BRIGGS_REACH * cube.beam_pixels())
    minor = float(np.median(cube.beams[:, 1])) / cube.cell
    least = min(LEAST_BEAM, 0.99 * minor)
    most = MOST_GAIN
    while True:
        response = transfer / np.maximum(power, 1e-6 * transfer.max())
        # The smaller of the two, without an edge.
        response = response * (1.0 + (response / (most * response[0, 0])) ** 4) ** -0.25
        response = fft.rfft2(fft.irfft2(response, s=grid) * taper).real
        psf = fft.irfft2(response * transfer, s=grid)
        kept = covariance_to_shape(fit_beam(np.fft.fftshift(psf / psf[0, 0])))[1]
        if kept >= least or most < 1.01:
            return _convolved(cube, response, cube.beam_pixels())
        most = np.sqrt(most)


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
    float in [0, 1]; 0 when the pixels are too coarse to tell
    """
    ny, nx = cube.shape
    chosen = [chan for chan in range(0, cube.nchan, max(1, cube.nchan // CHANNELS)) if np.isfinite(sigma[chan])]
    taper = _field_taper(cube.shape)
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


def weight_density(cube: Cube, sigma: NDArray) -> float:
    """How strongly the weights depend on the density of the visibilities: f^2 max(T) of w = 1 - f^2 T.

    It is chosen so that T (1 - f^2 T), seen through the window of the field, is the likeliest power spectrum of the
    noise. What is left of sources where this is measured (`_noise_power`) has the power T^2 and makes it smaller.

    Parameters
    ----------
    cube : Cube, not corrected for the primary beam, without white noise
    sigma : (nchan,) [Jy/beam], `core.noise.channel_noise`

    Returns
    -------
    float from 0, natural weights, to `MOST_DENSITY`; 0 when the PSF is smaller than the image, or not known
    """
    smaller = any(psf < side for psf, side in zip(cube.psf.shape[1:], cube.shape, strict=True))
    if smaller or not len(_known_psfs(cube.psf)):
        return 0.0
    size = cube.psf.shape[1:]
    window = fft.rfft2(_field_taper(cube.shape) * np.isfinite(cube.data).any(axis=0), s=size)
    seen = fft.irfft2(np.abs(window) ** 2, s=size)
    if cube.mosaic is not None:
        # The covariance of its noise is the PSF's times the modulation, which blurs the power spectrum.
        seen = seen * np.fft.ifftshift(cube.mosaic.typical((size[0], size[1]), float(np.mean(cube.freq))))
    psf = np.fft.ifftshift(np.nan_to_num(_middle_psf(cube)))
    transfer = _transfer(psf)
    first, second = (fft.rfft2(fft.irfft2(power, s=size) * seen).real for power in (transfer, transfer**2))
    measured = np.flatnonzero(first > MEASURED * first.max())
    if measured.size < LEAST_CELLS:
        return 0.0
    cells = measured[:: (measured.size // MOST_CELLS) | 1]
    power = _noise_power(cube, sigma, size, cells)
    first, second = first.ravel()[cells], second.ravel()[cells]
    trials = np.arange(0.0, MOST_DENSITY + 0.005, 0.01)
    likelihoods = []
    for trial in trials:
        model = np.maximum(first - trial * second, 1e-6 * first.max())
        # The power of a cell is exponentially distributed; the model's scale is its most likely one.
        likelihoods.append(-(np.log(model) + np.log((power / model).mean())).mean())
    return min(float(trials[int(np.argmax(likelihoods))]), MOST_DENSITY)


def _noise_power(cube: Cube, sigma: NDArray, size: tuple[int, ...], cells: NDArray[np.int64]) -> NDArray[np.float64]:
    """(len(cells),) power of the tapered noise in cells of its transform, in any unit, with little of sources.

    The second difference of three channels has no continuum, nor has it the change of its sidelobes with frequency,
    and the median over a few of these passes by lines.
    """
    taper = _field_taper(cube.shape)
    good = np.flatnonzero(np.isfinite(sigma))
    middles = [chan for chan in good[1:-1] if chan - 1 in good and chan + 1 in good]
    planes = (
        cube.data[chan] - 0.5 * (cube.data[chan - 1] + cube.data[chan + 1])
        for chan in middles[:: max(1, len(middles) // CHANNELS)]
    )
    if not middles:
        planes = (cube.data[chan] for chan in good)
    return np.median([np.abs(fft.rfft2(blank_to_zero(p) * taper, s=size).ravel()[cells]) ** 2 for p in planes], axis=0)


def _field_taper(shape: tuple[int, int]) -> NDArray[np.float64]:
    """(ny, nx) 1 in the middle of the field, falling to 0 at its edges."""
    return np.hanning(shape[0] + 2)[1:-1, None] * np.hanning(shape[1] + 2)[None, 1:-1]


def _psf_taper(shape: tuple[int, ...]) -> NDArray[np.float64]:
    """(py, px) the same for a PSF, 1 at its peak: it keeps the cut PSF's power where it belongs."""
    return np.hanning(shape[0] + 1)[:-1, None] * np.hanning(shape[1] + 1)[None, :-1]


def _transfer(psf: NDArray) -> NDArray[np.float64]:
    """(py, px // 2 + 1) transform of a PSF whose peak is at (0, 0), tapered; largest value 1, nowhere negative."""
    transfer = fft.rfft2(psf * np.fft.ifftshift(_psf_taper(psf.shape))).real
    return np.clip(transfer / transfer.max(), 0.0, None)


def _unmeasured(psf: NDArray, shape: tuple[int, int]) -> NDArray[np.bool_]:
    """Cells of rfft2's half plane outside the ring that holds all of the PSF's power."""
    transfer = np.abs(fft.rfft2(place_psf(psf * _psf_taper(psf.shape), shape)))
    fy, fx = fft.fftfreq(shape[0])[:, None], fft.rfftfreq(shape[1])[None, :]
    radius = np.hypot(fy, fx)
    reach = radius[transfer > MEASURED * transfer.max()].max()
    return radius > min(1.1 * reach + 2.0 / min(shape), 0.7)


def restore_natural(cube: Cube, share: float) -> Cube:
    """The cube without white noise's part in its weights: image and PSF convolved with T / (a T + b).

    Parameters
    ----------
    cube : Cube
    share : float, `white_share`

    Returns
    -------
    Cube, PSF of peak 1, fluxes unchanged; its beams are wider where the white noise dominates. A beam along
    the edges of the data is blank: the convolution takes there from what is not known.
    """
    grid, middle = _grid(cube), _middle_psf(cube)
    # A Gaussian's transform is positive, so that the smoothed one is too, but for the cut of the PSF.
    tapered = place_psf(middle, grid) * _gaussian_taper(grid, REACH * cube.beam_pixels())
    smooth = np.clip(fft.rfft2(tapered).real, 0.0, None)
    return _convolved(cube, smooth / ((1.0 - share) * smooth + share), cube.beam_pixels())


def undo_weights(cube: Cube, density: float) -> Cube:
    """The cube at natural weighting: image and PSF convolved with 1 / (1 - f^2 T), the inverse of the weights.

    Parameters
    ----------
    cube : Cube
    density : float, `weight_density`

    Returns
    -------
    Cube, PSF of peak 1, fluxes unchanged; its beams are wider
    """
    grid, psf = _grid(cube), np.fft.ifftshift(np.nan_to_num(_middle_psf(cube)))
    inverse = np.fft.fftshift(fft.irfft2(1.0 / (1.0 - density * _transfer(psf)), s=psf.shape))
    kernel = place_psf(inverse, grid) * _gaussian_taper(grid, BRIGGS_REACH * cube.beam_pixels())
    return _convolved(cube, fft.rfft2(kernel).real, 0.0)


def _grid(cube: Cube) -> tuple[int, int]:
    """Sides of a periodic grid on which the image is convolved without wrapping around."""
    ny, nx = (fft.next_fast_len(2 * side, real=True) for side in cube.shape)
    return ny, nx


def _middle_psf(cube: Cube) -> NDArray[np.float32]:
    known = _known_psfs(cube.psf)
    return cube.psf[known[len(known) // 2]]


def _gaussian_taper(grid: tuple[int, int], width: float) -> NDArray[np.float64]:
    """(gy, gx) a Gaussian of standard deviation `width` [pixel] about pixel (0, 0) of a periodic grid."""
    along_y, along_x = (np.exp(-0.5 * (fft.fftfreq(size, 1.0 / size) / width) ** 2) for size in grid)
    return along_y[:, None] * along_x[None, :]


def _convolved(cube: Cube, response: NDArray, border: float) -> Cube:
    """The cube with image and PSF convolved, PSF of peak 1.

    Parameters
    ----------
    cube : Cube
    response : (gy, gx // 2 + 1) transform of the kernel on `_grid`, real
    border : float [pixel], along the edges of the data what is nearer to them is blank
    """
    ny, nx = cube.shape
    grid, known = _grid(cube), _known_psfs(cube.psf)
    scale = 1.0 / fft.irfft2(response * fft.rfft2(place_psf(_middle_psf(cube), grid)), s=grid)[0, 0]
    response = (response * scale).astype(np.float32)
    data = np.empty_like(cube.data)
    for chan, plane in enumerate(cube.data):
        spectrum = fft.rfft2(blank_to_zero(plane), s=grid, workers=-1)
        data[chan] = fft.irfft2(spectrum * response, s=grid, workers=-1)[:ny, :nx]
    blank = ~np.isfinite(cube.data)
    if border > 0:
        blank |= _border(np.asarray(~blank.all(axis=0)), border)
    np.copyto(data, np.float32(np.nan), where=blank)
    psf = _filtered_psfs(cube.psf, response, grid)
    psf[known] /= psf[known, psf.shape[1] // 2, psf.shape[2] // 2][:, None, None]
    mosaic = cube.mosaic
    if mosaic is not None and mosaic.psfs is not None:
        # The pointings' primary beams change little over the kernel.
        mosaic = mosaic.with_psfs(_filtered_psfs(mosaic.psfs, response, grid))
    return replace(cube, data=data, psf=psf, beams=_beams(psf, cube), mosaic=mosaic)


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
