"""Sources as the antennas see them: stamps of sky times primary beam, and their spectra.

Every shape becomes a few stamps whose transform is that of the true brightness wherever a PSF has
weight: narrow Gaussians and points are widened until their pixels sample them, and `widened` says what to
undo in the uv plane, exactly; a disc's stamps hold integrals over their pixels, and `boxed` undoes these.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from casa_deepfocus.core.geometry import FWHM_PER_SIGMA, shape_to_covariance
from sim.beams import airy
from sim.coverage import ARCSEC, Grid
from sim.response import beam_nodes
from sim.sky import Component, Source

NARROWEST = 0.8
"""FWHM [pixel] to which narrower Gaussians are widened."""

PIXELS_PER_FWHM = 2.5
"""A Gaussian sampled so has aliases of 1e-7."""

REACH = 2.45
"""Half the side of a Gaussian's stamp in FWHM: 6e-8 of its peak."""

LEFT_OUT = 1e-6
"""Stamps that stay below this share of the brightest pixel, summed over their spectrum, are merged away."""


@dataclass(frozen=True, eq=False)
class Stamps:
    """The stamps of one source: its cube is the sum over them of spectrum times stamp.

    Attributes
    ----------
    spectra : (nchan, n) float32
    stamps : (n, height, width) float32 [Jy per pixel of the stamp]
    x : (width,), y : (height,) float64 [image pixel], centres of the stamp's pixels
    widened : float [pixel^2], variance that was added along both axes
    boxed : float [pixel], side of the pixels that the stamps are integrated over; 0 when they are samples
    """

    spectra: NDArray[np.float32]
    stamps: NDArray[np.float32]
    x: NDArray[np.float64]
    y: NDArray[np.float64]
    widened: float = 0.0
    boxed: float = 0.0


def source_stamps(source: Source, grid: Grid, diameter: float) -> Stamps:
    """A source seen through the primary beam.

    Parameters
    ----------
    source : Source
    grid : Grid
    diameter : float [m], of the antennas
    """
    parts = source.components(grid.freq())
    if not parts:
        return Stamps(np.zeros((grid.nchan, 0), np.float32), np.zeros((0, 0, 0), np.float32), np.zeros(0), np.zeros(0))
    if source.rotation is None:
        return _gaussian(parts[0], grid, diameter)
    x, y = parts[0].stamp_axes()
    shapes = np.stack([part.stamp for part in parts if part.stamp is not None])
    spectra, stamps = _through_beam(parts, shapes, x[None, :], y[:, None], grid, diameter)
    return Stamps(spectra, stamps, x, y, boxed=parts[0].pitch)


def _gaussian(part: Component, grid: Grid, diameter: float) -> Stamps:
    """A Gaussian or a point, widened where its pixels would not sample it."""
    sxx, syy, sxy = np.zeros(3) if part.covariance is None else part.covariance
    narrow = 0.5 * (sxx + syy) - np.hypot(0.5 * (sxx - syy), sxy)
    floor = float(shape_to_covariance(NARROWEST, NARROWEST, 0.0)[0])
    widened = max(0.0, floor - narrow)
    intrinsic = np.array([[sxx, sxy], [sxy, syy]])
    sampled = intrinsic + widened * np.eye(2)
    pitch = min(1.0, FWHM_PER_SIGMA * np.sqrt(narrow + widened) / PIXELS_PER_FWHM)
    half_x, half_y = (int(np.ceil(REACH * FWHM_PER_SIGMA * np.sqrt(s) / pitch)) for s in np.diag(sampled))
    dx, dy = pitch * np.arange(-half_x, half_x + 1), pitch * np.arange(-half_y, half_y + 1)
    offset = np.stack(np.broadcast_arrays(dx[None, :], dy[:, None]))
    form = np.einsum("iyx,ij,jyx->yx", offset, np.linalg.inv(sampled), offset)
    shape = np.exp(-0.5 * form) * (pitch * pitch / (2.0 * np.pi * np.sqrt(np.linalg.det(sampled))))
    # What a widened source shows at an offset comes from a smaller one on the average: the beam is the one there.
    place = np.tensordot(intrinsic @ np.linalg.inv(sampled), offset, axes=1)
    spectra, stamps = _through_beam([part], shape[None], part.x + place[0], part.y + place[1], grid, diameter)
    return Stamps(spectra, stamps, part.x + dx, part.y + dy, widened=widened)


def _through_beam(
    parts: Sequence[Component],
    shapes: NDArray[np.float64],
    x: NDArray[np.float64],
    y: NDArray[np.float64],
    grid: Grid,
    diameter: float,
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Spectra (nchan, n) and stamps (n, height, width) of shapes times the primary beam at x, y [pixel]."""
    freqs, matrix = beam_nodes(grid, diameter)
    middle = grid.npix // 2
    radius = np.hypot(x - middle, y - middle) * grid.cell * ARCSEC
    beams = np.stack([airy(radius, freq, diameter) for freq in freqs])
    spectra = np.stack([part.spectrum for part in parts], axis=1)
    products = (shapes[:, None] * beams[None]).reshape(len(shapes) * len(beams), -1)
    mixing = (spectra[:, :, None] * matrix[:, None, :]).reshape(len(spectra), -1)
    fewest, stamps = _fewest(mixing, products)
    return fewest, stamps.reshape(-1, *radius.shape)


def _fewest(mixing: NDArray, images: NDArray) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """The principal parts of mixing (nchan, n) @ images (n, npixel), as two factors of the same kind."""
    basis, triangle = np.linalg.qr(mixing)
    small = triangle @ images
    power, vectors = np.linalg.eigh(small @ small.T)
    # No pixel of what is left out exceeds its largest singular value.
    keep = np.sqrt(np.maximum(power, 0.0)) > LEFT_OUT * max(np.abs(small).max(), 1e-300)
    stamps = vectors[:, keep].T @ small
    return (basis @ vectors[:, keep]).astype(np.float32), stamps.astype(np.float32)
