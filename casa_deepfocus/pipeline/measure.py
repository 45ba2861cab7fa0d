"""Steps iv to vi: shapes from the ResNets, 3D model, line-emission image, flux (steps 10-13)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from casa_deepfocus.core.boxes import Box
from casa_deepfocus.core.component import Component
from casa_deepfocus.core.cube import Cube
from casa_deepfocus.core.flux import continuum_image, line_emission_image, line_flux, off_line_weights
from casa_deepfocus.core.geometry import GAUSSIAN_LINE, shape_to_covariance
from casa_deepfocus.core.model3d import observed_covariance, source_mask
from casa_deepfocus.core.noise import inverse_variance
from casa_deepfocus.core.preprocessing import PIXELS_PER_BEAM, STAMP, resnet_input, stamp_peak
from casa_deepfocus.core.spectra import Peak, extract_spectrum, fit_continuum_under_line, relative_continuum
from casa_deepfocus.core.tiling import resample_stamp
from casa_deepfocus.pipeline.state import Focused, Search


def measure_shapes(search: Search, found: Sequence[Focused]) -> None:
    """FWHM and position angle of every candidate from the ResNets, into the components."""
    if not found:
        return
    inputs = _resnet_inputs([item.stamp for item in found], found, [item.sigma for item in found])
    networks = search.networks
    major, minor = (np.maximum(net(inputs)[:, 0], 0.0) * search.beam for net in (networks.fwhm_maj, networks.fwhm_min))
    turned = networks.pa(inputs)
    angle = np.rad2deg(0.5 * np.arctan2(turned[:, 0], turned[:, 1]))
    for item, a, b, pa in zip(found, major, minor, angle, strict=True):
        covariance = shape_to_covariance(max(a, b), min(a, b), pa)
        item.component.covariance = covariance
        item.component.prior_covariance = covariance.copy()


def _resnet_inputs(stamps: Sequence[NDArray], found: Sequence[Focused], noise: Sequence[float]) -> NDArray:
    """What a ResNet looks at; `noise` is that of each stamp, in its unit, as in training."""
    sigma = np.array(noise, dtype=np.float32)
    return resnet_input(np.stack(stamps), np.stack([item.psf for item in found]), sigma)


def measure_fluxes(search: Search, found: Sequence[Focused]) -> None:
    """Flux of every candidate: 3D model, dilated mask, line-emission image (eq. 19), flux ResNet."""
    if not found:
        return
    scale = PIXELS_PER_BEAM / search.beam
    stamps, noise = [], []
    for item in found:
        stamp, level = item.stamp, item.sigma
        if item.candidate is not None:
            image, x, y = line_image(search.fit.residual, search.sigma, search.cube, item.component)
            stamp = resample_stamp(image, x, y, scale, STAMP)
            level = line_image_noise(search.sigma, search.cube, item.component) / item.component.fwhm
        stamps.append(stamp)
        noise.append(level)
    # The mask cuts off what the flux network was not shown: outside it, the focused image stands.
    widths = np.array([item.component.fwhm if item.candidate is not None else 1.0 for item in found])
    filled = [
        np.where(stamp != 0, stamp / width, item.stamp)
        for stamp, item, width in zip(stamps, found, widths, strict=True)
    ]
    peaks = stamp_peak(np.stack(filled))
    fluxes = line_flux(search.networks.flux(_resnet_inputs(filled, found, noise))[:, 0], peaks)
    for item, flux, peak in zip(found, fluxes, peaks, strict=True):
        flux = float(flux) if np.isfinite(flux) else float(peak)
        component = item.component
        if item.candidate is not None:
            component.amp = flux / GAUSSIAN_LINE
            component.cont = 0.0
        else:
            component.cont = flux


def line_image(
    residual: NDArray, sigma: NDArray, cube: Cube, component: Component
) -> tuple[NDArray, float, float]:  # fmt: skip
    """The line-emission image of eq. 19 on a crop around a source, and the source's place (x, y) in it.

    Parameters
    ----------
    residual : (nchan, ny, nx) [Jy/beam], the dirty cube, or what others have left of it
    sigma : (nchan,) [Jy/beam]
    cube : Cube, for its beam
    component : Component, whose shape and line make the mask
    """
    observed = observed_covariance(component.covariance, cube.beam_covariance())
    slices, mask = source_mask(
        residual.shape, component.x, component.y, observed, component.chan, component.fwhm
    )  # fmt: skip
    part = residual[:, slices[1], slices[2]]
    span = (slices[0].start, slices[0].stop - 1)
    whole = np.zeros(part.shape, dtype=bool)
    whole[slices[0]] = mask
    box = Box(0, 0, part.shape[2] - 1, part.shape[1] - 1)
    peak = Peak(component.chan, component.fwhm, 1.0, *span)
    model = fit_continuum_under_line(extract_spectrum(part, box), [peak])
    weights = off_line_weights(cube.nchan, [span], sigma)
    relative = relative_continuum(model, cube.nchan, weights)
    continuum = continuum_image(part, [span], sigma)
    image = line_emission_image(part, whole, np.nan_to_num(continuum), relative)
    return image, component.x - slices[2].start, component.y - slices[1].start


def line_image_noise(sigma: NDArray, cube: Cube, component: Component) -> float:
    """Noise of `line_image` at the place of its source [Jy/beam chan].

    That of the channels that are summed there, and of the continuum that is taken off each of them.

    Parameters
    ----------
    sigma : (nchan,) [Jy/beam]; NaN for flagged channels
    cube : Cube, for its beam
    component : Component, whose shape and line make the mask
    """
    observed = observed_covariance(component.covariance, cube.beam_covariance())
    slices, _ = source_mask(
        (cube.nchan, *cube.shape), component.x, component.y, observed, component.chan, component.fwhm
    )  # fmt: skip
    summed = float(np.nansum(np.square(sigma[slices[0]])))
    span = (slices[0].start, slices[0].stop - 1)
    off = inverse_variance(sigma)[off_line_weights(cube.nchan, [span], sigma) > 0].sum()
    under = np.isfinite(sigma[slices[0]]).sum() ** 2 / off if off > 0 else 0.0
    return float(np.sqrt(summed + under))
