"""Sources put into images that exist already: real data, their noise, sidelobes and artefacts, as the background.

    new_c = dirty_c + PSF_c (x) (PB_c sky_c)

with the image's own PSFs and primary beam, so the injected sources look as if the telescope had seen them.
This is exact where the PSF reaches twice the field. Where it ends earlier, a source's sidelobes end there
too; what is missing is estimated from the PSF's border, and refused when it would be seen above the noise.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from astropy.table import Table
from numpy.typing import NDArray
from scipy import fft
from scipy.ndimage import map_coordinates

from casa_deepfocus.core.cube import Cube
from casa_deepfocus.core.noise import channel_noise
from casa_deepfocus.core.psf import place_psf
from casa_deepfocus.errors import DataError, ParameterError, ProductError
from sim.coverage import Grid
from sim.fits import read_cube, write_cube
from sim.response import Response
from sim.sky import Source
from sim.skyfile import SkySource, read_sources
from sim.stamps import Stamps, source_stamps
from sim.synthesis import Transfer, synthesize
from sim.truth import truth_table, write_truth
from sim.weighting import UvNoise

BAND = 0.35
"""Spatial frequency [cycles per pixel] up to which an image's visibilities are expected to lie."""

CHANNELS = 16
"""Channels whose PSFs are transformed together."""

NODES = 9
"""Channels at which the PSF and the primary beam are taken for the bounds of the injected sources."""

NO_DISH = 1e-6
"""Diameter [m] of an antenna whose primary beam is 1 everywhere."""

BORDER = 0.1
"""Part of a PSF's half width whose sidelobes stand for those beyond it."""


def inject_cube(cube: Cube, sources: Sequence[Source]) -> Cube:
    """A cube with sources added.

    Parameters
    ----------
    cube : Cube, with a measured PSF; is not changed. Blank pixels stay blank
    sources : sequence of Source, on the cube's pixels and channels; fluxes are those on the sky, before the
        primary beam. Within a source the primary beam changes with place as in the middle of the band

    Returns
    -------
    Cube

    Raises
    ------
    ParameterError
        When a source lies outside the image.
    DataError
        When the cube's PSF is only a Gaussian, or so small that sidelobes above the noise would be missing.
    """
    if not cube.psf_is_measured:
        raise DataError("the PSF is only the Gaussian of the header's beam: give the image of the PSF too")
    ny, nx = cube.shape
    for source in sources:
        if not (0 <= source.x <= nx - 1 and 0 <= source.y <= ny - 1):
            raise ParameterError("sources", (source.x, source.y), f"outside the image of {nx} x {ny} pixels")
    error = injection_error(cube, sources)
    noise = float(np.nanmedian(channel_noise(cube.data))) if error > 0 else np.inf
    if error > noise:
        raise DataError(
            f"the PSF of {cube.psf.shape[1:]} pixels ends before the image does: sidelobes of up to {error:.2g} "
            f"Jy/beam would be missing, with noise of {noise:.2g}. Image the PSF at {2 * ny} x {2 * nx} pixels, or "
            "inject fainter sources nearer to the middle"
        )
    data = cube.data.copy()
    parts = [_through_beam(source, cube) for source in sources]
    size = _size(cube)
    for first in range(0, cube.nchan, CHANNELS):
        chunk = slice(first, first + CHANNELS)
        some = [replace(part, spectra=part.spectra[chunk]) for part in parts]
        if not any(part.spectra.any() for part in some):
            continue
        psf = cube.psf[chunk] if len(cube.psf) > 1 else np.repeat(cube.psf, len(data[chunk]), axis=0)
        planes = np.stack([fft.rfft2(place_psf(plane, (size, size))) for plane in psf])
        data[chunk] += synthesize(some, Transfer(planes.astype(np.complex64), None, BAND, size // 2))[:, :ny, :nx]
    return cube.with_data(data)


def injection_error(cube: Cube, sources: Sequence[Source]) -> float:
    """Largest sidelobe [Jy/beam] that the injection leaves out; 0 where the PSF covers the image from every source.

    The strongest sidelobe in the outer `BORDER` of the PSF times the brightest apparent flux of a source whose
    PSF ends inside the image.
    """
    ny, nx = cube.shape
    py, px = cube.psf.shape[1:]
    y, x = (np.abs(np.arange(side) - side // 2) for side in (py, px))
    border = (y[:, None] > (1.0 - BORDER) * (py // 2)) | (x[None, :] > (1.0 - BORDER) * (px // 2))
    level = float(np.nanmax(np.abs(cube.psf[:, border])))
    middle = np.nan_to_num(cube.pb[len(cube.pb) // 2])
    error = 0.0
    for source in sources:
        reach_x, reach_y = max(source.x, nx - 1 - source.x), max(source.y, ny - 1 - source.y)
        if reach_x > (px - 1) // 2 + 0.5 or reach_y > (py - 1) // 2 + 0.5:
            seen = float(np.abs(source.spectrum(cube.freq)).max()) * middle[round(source.y), round(source.x)]
            error = max(error, level * seen)
    return error


def _size(cube: Cube) -> int:
    """Side of a square plane that holds the image twice."""
    return 2 * fft.next_fast_len(max(cube.shape))


def _through_beam(source: Source, cube: Cube) -> Stamps:
    """A source seen through the cube's primary beam."""
    grid = Grid(max(cube.shape), cube.cell, cube.nchan, float(cube.freq[0]), cube.chan_width)
    part = source_stamps(source, grid, NO_DISH)
    beams = np.nan_to_num(cube.pb)
    middle = beams[len(beams) // 2]
    here = np.array([map_coordinates(plane, [[source.y], [source.x]], order=1, mode="nearest")[0] for plane in beams])
    if here[len(beams) // 2] <= 0:
        return replace(part, spectra=np.zeros_like(part.spectra))
    # The beam in the middle of the band, place by place; a narrow source's stamps are wider than itself.
    y, x = np.meshgrid(part.y, part.x, indexing="ij")
    shape = map_coordinates(middle, [y, x], order=1, mode="nearest")
    if part.widened:
        shape = np.full_like(shape, here[len(beams) // 2])
    change = here / here[len(beams) // 2] if len(here) > 1 else np.ones(cube.nchan)
    spectra = part.spectra * change[:, None].astype(np.float32)
    return replace(part, spectra=spectra, stamps=part.stamps * shape.astype(np.float32))


def cube_response(cube: Cube) -> Response:
    """What a cube's own PSF and primary beam do to the sky, for its sources' bounds: natural weighting, few nodes."""
    number = min(NODES, cube.nchan)
    nodes = np.unique(np.linspace(0, cube.nchan - 1, number).round().astype(int))
    matrix = np.stack(
        [np.interp(np.arange(cube.nchan), nodes, np.arange(len(nodes)) == place) for place in range(len(nodes))], axis=1
    )
    size, side = _size(cube), max(cube.shape)
    psf = np.stack([np.fft.fftshift(place_psf(_plane(cube.psf, chan), (size, size))) for chan in nodes])
    transfer = fft.rfft2(np.fft.ifftshift(psf, axes=(1, 2))).real.astype(np.float32)
    empty = [(0, side - have) for have in cube.shape]
    pb = np.stack([np.pad(np.nan_to_num(_plane(cube.pb, chan)), empty, mode="edge") for chan in nodes])
    beam = cube.beam_covariances()[nodes]
    noise = UvNoise(size, np.zeros(cube.nchan + 1, np.int64), np.zeros(0, np.int64), np.zeros(0, np.float32))
    return Response(psf, transfer, pb, beam, matrix, noise, transfer, matrix, BAND)


def _plane(array: NDArray, chan: int) -> NDArray:
    return array[chan if len(array) > 1 else 0]


def injected_truth(cube: Cube, sources: Sequence[Source]) -> Table:
    """The truth table of sources injected into a cube, with SNRs and bounds for the noise measured in it.

    Other sources in the image are not thought of: a bound is that of the injected sources alone. The noise
    is taken to have the power spectrum of natural weighting. The meta `injection_error` [Jy/beam] is that of
    `injection_error`.
    """
    table = truth_table(sources, cube_response(cube), cube, channel_noise(cube.data))
    table.meta["injection_error"] = injection_error(cube, sources)
    return table


def on_cube(cube: Cube, sources: Sequence[SkySource]) -> list[Source]:
    """Sources of the sky on a cube's pixels and channels."""
    if cube.wcs is None:
        raise DataError("the image has no sky coordinates: give the sources on its pixels")
    places = [cube.wcs.wcs_world2pix([[source.ra, source.dec]], 0)[0] for source in sources]
    return [
        source.on_pixels(float(x), float(y), cube.cell, cube.freq)
        for source, (x, y) in zip(sources, places, strict=True)
    ]


def inject_files(
    image: Path,
    sources: Sequence[SkySource] | Path | str,
    out: Path,
    *,
    psf: Path | None = None,
    pb: Path | None = None,
) -> Table:
    """Add sources to a dirty FITS image: ``dirty``, ``psf``, ``pb`` and the truth of what was added in a new folder.

    Parameters
    ----------
    image, psf, pb : see `sim.fits.read_cube`
    sources : sequence of SkySource, or the YAML file of them (`skyfile.read_sources`)
    out : Path, the folder, made here

    Returns
    -------
    astropy Table, the truth

    Raises
    ------
    ProductError
        When `out` exists.
    """
    out = Path(out)
    if out.exists():
        raise ProductError(f"{out} exists; remove it or choose another folder")
    given = read_sources(Path(sources)) if isinstance(sources, str | Path) else list(sources)
    cube = read_cube(image, psf=psf, pb=pb)
    on_pixels = on_cube(cube, given)
    new = inject_cube(cube, on_pixels)
    table = injected_truth(cube, on_pixels)
    out.parent.mkdir(parents=True, exist_ok=True)
    write_cube(new, out)
    write_truth(table, out / "truth.ecsv")
    return table
