"""Exact fast synthesis of whole dirty cubes at any geometry.

dirty_c = PSF_c (x) (PB_c sky_c) + noise_c for every channel c, with natural weighting. A source is
convolved at a few nodes in frequency and interpolated onto the channels with the same weights as
the PSF that the cube carries, so the two agree.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import fft

from casa_deepfocus.core.cube import Cube
from casa_deepfocus.core.geometry import covariance_to_shape, gaussian_image
from casa_deepfocus.errors import ParameterError
from sim import arrays, presets
from sim.defects import Defects
from sim.response import ARCSEC, Coverage, Grid, Response, gaussian_transform, pb_at, response
from sim.sky import Source

if TYPE_CHECKING:
    from astropy.table import Table
    from astropy.wcs import WCS


def convolved_sources(resp: Response, sources: Sequence[Source]) -> NDArray[np.float32]:
    """PSF (x) (PB x unit source) at the nodes: (nsource, nnode, npix, npix) float32 [per beam]."""
    npix = resp.pb.shape[-1]
    size = 2 * npix
    out = np.empty((len(sources), len(resp.psf), npix, npix), np.float32)
    for index, source in enumerate(sources):
        plane = np.zeros((len(resp.psf), size, size), np.float32)
        if source.fwhm_min >= 2.0:
            shape = gaussian_image((npix, npix), source.x, source.y, source.covariance())
            sxx, syy, sxy = source.covariance()
            norm = 2.0 * np.pi * np.sqrt(sxx * syy - sxy * sxy)
            plane[:, :npix, :npix] = resp.pb * (shape / norm).astype(np.float32)
            spectrum = fft.rfft2(plane)
        else:
            # Too small to be sampled in the image: exact in the Fourier plane, PB of its centre.
            ky, kx = fft.fftfreq(size)[:, None], fft.rfftfreq(size)[None, :]
            spectrum = pb_at(resp.pb, source)[:, None, None] * gaussian_transform(source.covariance(), kx, ky)
            spectrum = spectrum * np.exp(-2j * np.pi * (kx * source.x + ky * source.y))
        out[index] = fft.irfft2(spectrum * resp.transfer, s=(size, size))[:, :npix, :npix]
    return out


def noise_cube(coverage: Coverage, grid: Grid, rng: np.random.Generator) -> NDArray[np.float32]:
    """Noise of rms 1 whose power spectrum is the PSF's, independent between channels.

    The amplitudes are square roots of the visibilities counted in the uv cells of twice the field, never
    negative; the noise's autocorrelation follows the PSF within 1e-3 over the main lobe, and within a
    few per cent of the peak at the far end of the field.

    Returns
    -------
    (nchan, npix, npix) float32
    """
    size, nchan, npix = 2 * grid.npix, grid.nchan, grid.npix
    uvw = coverage.uvw()
    step = grid.cell * ARCSEC * size / arrays.C_MS
    out = np.empty((nchan, npix, npix), np.float32)
    for chan in range(0, nchan, 2):
        scale = step * grid.freq()[chan]
        kx, ky = np.rint(-uvw[:, 0] * scale).astype(np.int64), np.rint(uvw[:, 1] * scale).astype(np.int64)
        counts = np.bincount((ky % size) * size + kx % size, minlength=size * size)
        counts = counts + np.bincount((-ky % size) * size + -kx % size, minlength=size * size)
        amplitude = np.sqrt(counts / counts.mean()).astype(np.float32).reshape(size, size)
        # Real and imaginary part are independent: two channels from one transform.
        white = rng.standard_normal((size, size, 2), dtype=np.float32).view(np.complex64)[..., 0]
        pair = fft.ifft2(amplitude * white, norm="ortho")[:npix, :npix]
        out[chan] = pair.real
        if chan + 1 < nchan:
            out[chan + 1] = pair.imag
    return out


def simulate_cube(
    sources: Sequence[Source],
    coverage: Coverage,
    grid: Grid,
    noise: ArrayLike,
    rng: np.random.Generator | None,
    *,
    white: float = 0.0,
    defects: Defects | None = None,
    ra: float = 59.99983333,
    pblimit: float = 0.2,
    device: str | None = None,
) -> Cube:
    """A dirty cube with its PSF at twice the field, its primary beam and its beams.

    Parameters
    ----------
    sources : sequence of Source, inside the image
    coverage : Coverage
    grid : Grid
    noise : float or (nchan,) [Jy/beam]
    rng : numpy Generator for the noise; None for no noise
    white : float [Jy/beam]
        Noise without correlation between pixels, added to the image (the paper's extra noise).
    defects : Defects or None
    ra : float [deg], of the phase centre; the declination is the coverage's
    pblimit : float, the image is NaN where the primary beam is lower

    Raises
    ------
    ParameterError
        When a source lies outside the image.
    """
    for source in sources:
        if not (0 <= source.x <= grid.npix - 1 and 0 <= source.y <= grid.npix - 1):
            raise ParameterError("sources", (source.x, source.y), f"outside the {grid.npix} pixel image", "move it in")
    resp = response(coverage, grid)
    freq = grid.freq()
    sigma = np.broadcast_to(np.asarray(noise, dtype=np.float32), (grid.nchan,))
    data = np.zeros((grid.nchan, grid.npix, grid.npix), np.float32)
    if rng is not None:
        data += sigma[:, None, None] * noise_cube(coverage, grid, rng)
    if sources:
        images = convolved_sources(resp, sources)
        spectra = np.stack([source.spectrum(freq) for source in sources], axis=1)
        mixing = spectra[:, :, None] * resp.interpolation[:, None, :]
        data += np.tensordot(mixing.reshape(grid.nchan, -1).astype(np.float32), images.reshape(-1, *data.shape[1:]), 1)
    pb = resp.channels(resp.pb)
    data[pb < pblimit] = np.nan
    maj, minor, pa = covariance_to_shape(resp.channels(resp.beam))
    return Cube(
        data=data,
        psf=resp.channels(resp.psf),
        pb=pb,
        freq=freq,
        beams=np.stack([maj * grid.cell, minor * grid.cell, pa], axis=1),
        cell=grid.cell,
        wcs=celestial_wcs(grid, ra, coverage.dec),
        frame="LSRK",
        restfreq=float(freq[len(freq) // 2]),
        meta={"telescope": coverage.array, "weighting": "natural", "radesys": "ICRS"},
    )


def celestial_wcs(grid: Grid, ra: float, dec: float, radesys: str = "ICRS") -> WCS:
    """The celestial WCS of a cube, SIN projection about the phase centre [deg]."""
    from astropy.wcs import WCS

    wcs = WCS(naxis=2)
    wcs.wcs.ctype = ["RA---SIN", "DEC--SIN"]
    wcs.wcs.cunit = ["deg", "deg"]
    wcs.wcs.crval = [ra, dec]
    wcs.wcs.crpix = [grid.npix // 2 + 1, grid.npix // 2 + 1]
    wcs.wcs.cdelt = [-grid.cell / 3600.0, grid.cell / 3600.0]
    wcs.wcs.radesys = radesys
    if radesys == "FK5":
        wcs.wcs.equinox = 2000.0
    wcs.wcs.set()
    return wcs


def simulate(preset: str, seed: int, index: int, empty: bool = False) -> tuple[Cube, Table]:
    """One field of a preset and its truth; it depends on (preset, seed, index) alone.

    Parameters
    ----------
    preset : str, a key of `presets.PRESETS`
    seed, index : int
    empty : bool
        Leave out the sources; the noise is the one that the field would have with them.

    Returns
    -------
    cube : Cube
    truth : astropy Table, see docs/architecture.md
    """
    from sim.truth import truth_table

    sky, noise = (
        np.random.Generator(np.random.Philox(child))
        for child in np.random.SeedSequence([zlib.crc32(preset.encode()), seed, index]).spawn(2)
    )
    field = presets.draw(preset, sky)
    sources = () if empty else field.sources
    cube = simulate_cube(sources, field.coverage, field.grid, field.noise, noise)
    return cube, truth_table(sources, response(field.coverage, field.grid), cube, field.noise)
