"""Mosaics by the formula itself: every pointing with snapshots, a PSF and noise of its own, summed at flat noise.

d(x) = sum_p W_p(x) [ sum_s S_s W_p(x_s) (PSF_p (x) G_s)(x) + noise_p(x) ] (`core.mosaic`); nothing of
what the search uses to take the sum apart is used to make it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy import fft

from casa_deepfocus.core.airy import airy
from casa_deepfocus.core.cube import Cube
from casa_deepfocus.core.geometry import covariance_to_shape
from casa_deepfocus.core.mosaic import Mosaic
from casa_deepfocus.core.psf import fit_beam, gaussian_transform, place_psf
from sim import arrays
from sim.coverage import ARCSEC
from sim.response import direct_image
from sim.sky import Source

HEXAGON = np.array([[0.0, 0.0]] + [[np.cos(a), np.sin(a)] for a in np.arange(6) * np.pi / 3.0])
"""A pointing and the six around it, one step apart: (7, 2), east and north."""


@dataclass(frozen=True)
class MosaicField:
    """A mosaic of seven pointings.

    Attributes
    ----------
    array : str, a configuration of casadata
    dec : float [deg]
    npix, nchan : int
    cell : float [arcsec]
    freq0, chan_width : float [Hz]
    step : float [arcsec], between pointings
    visits : tuple of int, integrations of each pointing in a cycle
    cycles : int
    gap : float [s], from one integration to the next
    hour_angle : float [hours], of the start
    """

    array: str = "alma.cycle9.1"
    dec: float = -35.0
    npix: int = 160
    nchan: int = 16
    cell: float = 0.3
    freq0: float = 230e9
    chan_width: float = 10e6
    step: float = 12.0
    visits: tuple[int, ...] = (1, 2, 1, 1, 3, 1, 2)
    cycles: int = 2
    gap: float = 120.0
    hour_angle: float = -1.0

    def freq(self) -> NDArray[np.float64]:
        """(nchan,) [Hz]."""
        return self.freq0 + self.chan_width * np.arange(self.nchan)


def make_mosaic(field: MosaicField) -> Mosaic:
    """The terms of a field, with the PSFs of its snapshots in the middle of the band."""
    array = arrays.read_array(field.array)
    middle = float(np.mean(field.freq()))
    side, psfs, weights = 2 * field.npix, [], []
    for pointing, number in enumerate(field.visits):
        starts = pointing + len(field.visits) * np.arange(field.cycles)
        slots = (starts[:, None] + 0.1 * np.arange(number)).ravel()
        angles = field.hour_angle + field.gap / 3600.0 * slots
        uv = arrays.uvw_track(array, field.dec, angles)[:, :2] * middle / arrays.C_MS
        image = direct_image(uv[:, 0], uv[:, 1], side, field.cell)
        psfs.append((image / image[field.npix, field.npix]).astype(np.float32))
        weights.append(float(len(uv)))
    radius = np.linspace(0.0, 1.1 * arrays.C_MS / middle / 10.7 / ARCSEC, 400)
    response = airy(radius * ARCSEC, middle, array.diameter)
    kept = response > 0.01
    offsets = HEXAGON * field.step / field.cell
    return Mosaic(
        centres=field.npix // 2 + np.stack([-offsets[:, 0], offsets[:, 1]], axis=1), weights=np.array(weights),
        radius=radius[kept] / field.cell, responses=response[kept][None], beam=np.zeros(len(weights), int), freq=middle,
        psfs=np.stack(psfs), psf_class=np.arange(len(weights)),
    )  # fmt: skip


def simulate_mosaic(
    field: MosaicField,
    sources: Sequence[Source],
    noise: float,
    rng: np.random.Generator,
    *,
    single: bool = False,
    pblimit: float = 0.2,
) -> Cube:
    """A dirty cube of a mosaic.

    Parameters
    ----------
    field : MosaicField
    sources : sequence of Source; fluxes as the image shows them, times its primary beam at their places
    noise : float [Jy/beam], rms in a channel, flat
    rng : numpy Generator
    single : bool
        The same sky, depth and coverage as if it were one pointing: one PSF, the mean, all over the image.
    pblimit : float, NaN below
    """
    mosaic = make_mosaic(field)
    row, column = np.indices((field.npix, field.npix))
    freq, middle = field.freq(), mosaic.freq
    mean = np.average(mosaic.psfs, axis=0, weights=mosaic.weights).astype(np.float32)
    shares = mosaic.shares(column, row, middle)
    psfs = mosaic.psfs
    if single:
        shares, psfs = np.ones((1, field.npix, field.npix)), mean[None]
    grid, part = (2 * field.npix, 2 * field.npix), slice(0, field.npix)
    data = np.zeros((field.nchan, field.npix, field.npix))
    for share, psf in zip(shares, psfs, strict=True):
        kernel = fft.rfft2(place_psf(psf, grid))
        for source in sources:
            here = share[round(source.y), round(source.x)]
            image = fft.irfft2(kernel * gaussian_transform(grid, source.x, source.y, source.covariance()), s=grid)
            data += source.spectrum(freq)[:, None, None] * (here * share * image[part, part])
        amplitude = np.sqrt(np.maximum(kernel.real, 0.0))
        for plane in data:
            white = rng.standard_normal(grid)
            plane += noise * share * fft.irfft2(fft.rfft2(white) * amplitude, s=grid)[part, part]
    pb = mosaic.primary_beam(column, row, middle)
    pb /= pb.max()
    data[:, pb < pblimit / 2] = np.nan
    beam = covariance_to_shape(fit_beam(mean))
    return Cube(
        data=data.astype(np.float32), psf=mean[None], pb=np.where(pb >= pblimit, pb, np.nan)[None].astype(np.float32),
        freq=freq, beams=np.tile([beam[0] * field.cell, beam[1] * field.cell, beam[2]], (field.nchan, 1)),
        cell=field.cell, restfreq=middle, mosaic=None if single else mosaic,
    )  # fmt: skip


def draw_sources(
    field: MosaicField, noise: float, rng: np.random.Generator, number: int = 8, pblimit: float = 0.25
) -> list[Source]:
    """Sources of apparent SNR 4 to 60, half of them with a line alone, apart by two beams and more."""
    mosaic = make_mosaic(field)
    row, column = np.indices((field.npix, field.npix))
    pb = mosaic.primary_beam(column, row, mosaic.freq)
    usable = np.flatnonzero(pb.ravel() > pblimit * pb.max())
    found: list[Source] = []
    while len(found) < number:
        place = int(rng.choice(usable))
        x, y = place % field.npix + rng.uniform(-0.5, 0.5), place // field.npix + rng.uniform(-0.5, 0.5)
        if any(np.hypot(x - other.x, y - other.y) < 14.0 for other in found):
            continue
        snr, size = float(np.exp(rng.uniform(*np.log([4.0, 60.0])))), float(rng.uniform(0.0, 5.0))
        source = Source(x, y, size, size, 0.0)
        if len(found) % 2:
            width = float(rng.uniform(2.0, 5.0))
            # The matched filter of a Gaussian line of FWHM w channels has sqrt(0.753 w) of the peak's SNR.
            height, chan = snr * noise / np.sqrt(0.753 * width), float(rng.uniform(3, field.nchan - 4))
            source = replace(source, line=height, chan=chan, line_fwhm=width)
        else:
            source = replace(source, continuum=snr * noise / np.sqrt(field.nchan))
        found.append(source)
    return found
