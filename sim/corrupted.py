"""What wrong gains and a source outside of the image do to the fast backend's images; both exact."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy import fft

from sim.beams import airy
from sim.coverage import ARCSEC, Coverage, Grid
from sim.defects import Defects
from sim.response import Sampling, gaussian_transform, sampling
from sim.synthesis import Transfer


@lru_cache(maxsize=2)
def corrupted_transfer(coverage: Coverage, grid: Grid, defects: Defects) -> Transfer:
    """The complex transfer of a sky that is seen with wrong gains; remembered for the last two asked for."""
    seen, factor = _seen(coverage, grid, defects)
    freqs, matrix = seen.nodes(np.sqrt(2.0) * grid.npix * grid.cell * ARCSEC)
    planes = [fft.rfft2(fft.ifftshift(image)) for image in seen.images(freqs, 2 * grid.npix, factor)]
    interpolation = None if coverage.robust is not None else matrix
    return Transfer(np.stack(planes).astype(np.complex64), interpolation, seen.band())


def outside_cube(coverage: Coverage, grid: Grid, defects: Defects) -> NDArray[np.float32]:
    """Dirty images (nchan, npix, npix) [Jy/beam] of `Defects.outside`, through the primary beam at its place.

    The beam is the Airy pattern without end: CASA cuts its images of it where it falls below 0.01.
    """
    source = defects.outside
    if source is None:
        return np.zeros((grid.nchan, grid.npix, grid.npix), np.float32)
    seen, gains = _seen(coverage, grid, defects)
    offset = np.array([source.x, source.y]) - grid.npix // 2
    distance = float(np.hypot(*offset)) * grid.cell * ARCSEC
    freqs, matrix = seen.nodes(distance + np.sqrt(0.5) * grid.npix * grid.cell * ARCSEC)
    images = []
    for freq in freqs:
        u, v = seen.wavelengths(freq)
        kx, ky = -u * grid.cell * ARCSEC, v * grid.cell * ARCSEC
        fringe = np.exp(-2j * np.pi * (kx * offset[0] + ky * offset[1]))
        factor = gains * fringe * gaussian_transform(source.covariance(), kx, ky)
        images.append(next(seen.images([freq], grid.npix, factor)))
    nu = grid.freq()
    diameter = coverage.diameter()
    beam = np.array([airy(distance, freq, diameter) for freq in nu])
    spectrum = source.spectrum(nu) * beam * defects.bandpass(grid.nchan)
    mixing = (spectrum[:, None] * matrix).astype(np.float32)
    return np.tensordot(mixing, np.stack(images).astype(np.float32), axes=1)


def _seen(coverage: Coverage, grid: Grid, defects: Defects) -> tuple[Sampling, NDArray[np.complex128]]:
    """The visibilities in the image, and the factor (nvis,) that wrong gains put on them."""
    tracks = coverage.tracks()
    seen = sampling(tracks.uvw, grid, coverage.robust)
    times = np.arange(len(coverage.hour_angles())) * coverage.integration
    gains = defects.gains(coverage.nant(), times)
    factor = gains[tracks.time, tracks.first] * gains[tracks.time, tracks.second].conj()
    return seen, factor[seen.keep]
