"""What wrong gains and a source outside of the image do to the fast backend's images; both exact."""

from __future__ import annotations

from functools import lru_cache

import ducc0
import numpy as np
from numpy.typing import NDArray

from sim.coverage import ARCSEC, Coverage, Grid
from sim.defects import Defects
from sim.response import ACCURACY, Sampling, centred_transform, sampling
from sim.stamps import Stamps, source_stamps
from sim.synthesis import Transfer


@lru_cache(maxsize=1)
def corrupted_transfer(coverage: Coverage, grid: Grid, defects: Defects) -> Transfer:
    """The complex transfer of a sky that is seen with wrong gains; remembered for the last one asked for."""
    seen, factor = _seen(coverage, grid, defects)
    freqs, matrix = seen.nodes(np.sqrt(0.5) * grid.padded * grid.cell * ARCSEC)
    planes = np.empty((len(freqs), grid.padded, grid.padded // 2 + 1), np.complex64)
    for plane, freq in zip(planes, freqs, strict=True):
        plane[:] = centred_transform(seen.image(freq, grid.padded, seen.weights(freq) * factor))
    return Transfer(planes, None if coverage.robust is not None else matrix, seen.band(), grid.npix)


def outside_cube(coverage: Coverage, grid: Grid, defects: Defects) -> NDArray[np.float32]:
    """Dirty images (nchan, npix, npix) [Jy/beam] of `Defects.outside`, through the primary beam at its place.

    The beam is the Airy pattern without end: CASA cuts its images of it where it falls below 0.01.
    """
    source = defects.outside
    total = np.zeros((grid.nchan, grid.npix, grid.npix), np.float32)
    if source is None:
        return total
    seen, gains = _seen(coverage, grid, defects)
    part = source_stamps(source, grid, coverage.diameter())
    if not len(part.stamps):
        return total
    middle = grid.npix // 2
    distance = float(np.hypot(source.x - middle, source.y - middle)) * grid.cell * ARCSEC
    freqs, matrix = seen.nodes(distance + np.sqrt(0.5) * grid.npix * grid.cell * ARCSEC)
    spectra = part.spectra * defects.bandpass(grid.nchan)[:, None]
    for number, freq in enumerate(freqs):
        # A node without weight is no work: every channel is one with Briggs weights.
        here = np.flatnonzero(matrix[:, number])
        u, v = seen.wavelengths(freq)
        waves = visibilities(part, -u * grid.cell * ARCSEC, v * grid.cell * ARCSEC, middle)
        factor = seen.weights(freq) * gains
        for spectrum, wave in zip(spectra.T, waves, strict=True):
            image = seen.image(freq, grid.npix, factor * wave).astype(np.float32)
            total[here] += (matrix[here, number] * spectrum[here]).astype(np.float32)[:, None, None] * image
    return total


def visibilities(
    part: Stamps, kx: NDArray[np.float64], ky: NDArray[np.float64], middle: float
) -> NDArray[np.complex128]:
    """Visibilities (n, nvis) of stamps at spatial frequencies [cycles per pixel], the phase centre at `middle`."""
    pitch = part.x[1] - part.x[0]
    # The library counts pixels from the middle of the stamp.
    height, width = len(part.y), len(part.x)
    coord = 2.0 * np.pi * pitch * np.stack([ky, kx], axis=1)
    undo = np.exp(2.0 * np.pi**2 * part.widened * (kx**2 + ky**2)) / np.sinc(kx * part.boxed) / np.sinc(ky * part.boxed)
    centre_x, centre_y = part.x[width // 2] - middle, part.y[height // 2] - middle
    undo = undo * np.exp(-2j * np.pi * (kx * centre_x + ky * centre_y))
    out = np.empty((len(part.stamps), len(kx)), complex)
    for row, stamp in zip(out, part.stamps.astype(complex), strict=True):
        ducc0.nufft.u2nu(grid=stamp, coord=coord, forward=True, epsilon=ACCURACY, nthreads=1, out=row)
    return out * undo


def _seen(coverage: Coverage, grid: Grid, defects: Defects) -> tuple[Sampling, NDArray[np.complex128]]:
    """The visibilities in the image, and the factor (nvis,) that wrong gains put on them."""
    tracks = coverage.tracks()
    seen = sampling(tracks.uvw, grid, coverage.robust)
    times = np.arange(len(coverage.hour_angles())) * coverage.integration
    gains = defects.gains(coverage.nant(), times)
    factor = gains[tracks.time, tracks.first] * gains[tracks.time, tracks.second].conj()
    return seen, factor[seen.keep]
