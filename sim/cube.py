"""Whole dirty cubes of the fast backend, at any geometry.

dirty_c = PSF_c (x) (PB_c sky_c) + noise_c for every channel c: what `sim.synthesis` computes, with the
PSF, the primary beam, the beams and the coordinates around it.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike, NDArray

from casa_deepfocus.core.cube import Cube
from casa_deepfocus.core.geometry import covariance_to_shape
from casa_deepfocus.errors import ParameterError
from sim import presets
from sim.corrupted import corrupted_transfer, outside_cube
from sim.coverage import Coverage, Grid
from sim.defects import Defects
from sim.response import Response, response
from sim.sky import Source
from sim.stamps import Stamps, source_stamps
from sim.synthesis import Transfer, synthesize

if TYPE_CHECKING:
    from astropy.table import Table
    from astropy.wcs import WCS


@lru_cache(maxsize=1)
def nominal_transfer(resp: Response) -> Transfer:
    """The transfer of a sky that is seen with the right gains; the last one is remembered, with what holds it."""
    interpolation = None if resp.per_channel else resp.interpolation
    return Transfer(resp.transfer, interpolation, resp.band, resp.pb.shape[-1])


def dirty_images(
    sources: Sequence[Source],
    coverage: Coverage,
    grid: Grid,
    noise: ArrayLike,
    rng: np.random.Generator | None,
    *,
    white: float = 0.0,
    defects: Defects | None = None,
    device: str | None = None,
) -> NDArray[np.float32]:
    """The pixels of `simulate_cube`, without any blank: (nchan, npix, npix) float32 [Jy/beam]."""
    defects = defects or Defects()
    defects.check(grid.nchan, grid.npix)
    coverage = coverage.without(defects.flagged_antennas)
    for source in sources:
        if not (0 <= source.x <= grid.npix - 1 and 0 <= source.y <= grid.npix - 1):
            remedy = "move it in, or give it as Defects.outside"
            raise ParameterError("sources", (source.x, source.y), f"outside the {grid.npix} pixel image", remedy)
    resp = response(coverage, grid)
    transfer = corrupted_transfer(coverage, grid, defects) if defects.has_gains else nominal_transfer(resp)
    bandpass = defects.bandpass(grid.nchan).astype(np.float32)
    parts = [_times(source_stamps(source, grid, coverage.diameter()), bandpass) for source in sources]
    data = synthesize(parts, transfer, noise=resp.noise, sigma=noise, white=white, rng=rng, device=device)
    if device is not None:
        data = data.cpu().numpy()
    if defects.outside is not None:
        data += outside_cube(coverage, grid, defects)
    return data


def _times(part: Stamps, bandpass: NDArray[np.float32]) -> Stamps:
    """A source whose spectrum is multiplied by a bandpass (nchan,)."""
    return Stamps(part.spectra * bandpass[:, None], part.stamps, part.x, part.y, part.widened, part.boxed)


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
    sources : sequence of Source, inside the image; the part of a source that reaches out of it is seen too
    coverage : Coverage
    grid : Grid
    noise : float or (nchan,) [Jy/beam], thermal rms in the image
    rng : numpy Generator for the noise; None for no noise
    white : float [Jy/beam]
        Rms of further noise without correlation between pixels (the paper's extra noise).
    defects : Defects or None
    ra : float [deg], of the phase centre; the declination is the coverage's
    pblimit : float, the image is NaN where the primary beam is lower
    device : str or None, see `synthesis.synthesize`

    Raises
    ------
    ParameterError
        When a source lies outside the image, or the coverage or the defects do not fit the grid.
    """
    defects = defects or Defects()
    data = dirty_images(sources, coverage, grid, noise, rng, white=white, defects=defects, device=device)
    coverage = coverage.without(defects.flagged_antennas)
    resp = response(coverage, grid)
    freq = grid.freq()
    pb = resp.channels(resp.pb)
    data[pb < pblimit] = np.nan
    data[list(defects.flagged_channels)] = np.nan
    if defects.nan_edge:
        inside = np.zeros(data.shape[1:], bool)
        inside[defects.nan_edge : -defects.nan_edge, defects.nan_edge : -defects.nan_edge] = True
        data[:, ~inside] = np.nan
    maj, minor, pa = covariance_to_shape(resp.channels(resp.beam))
    weighting = "natural" if coverage.robust is None else f"briggs {coverage.robust:g}"
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
        meta={"telescope": coverage.array, "weighting": weighting, "radesys": "ICRS"},
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


def field_of(preset: str, seed: int, index: int) -> tuple[presets.Field, np.random.SeedSequence]:
    """One field of a preset, and the seeds of its noise; they depend on (preset, seed, index) alone.

    Parameters
    ----------
    preset : str, a name of `presets.PRESETS` or the path of a preset's file, whose stem then is the name
    seed, index : int
    """
    sky, noise = np.random.SeedSequence([zlib.crc32(Path(preset).stem.encode()), seed, index]).spawn(2)
    return presets.draw(preset, np.random.Generator(np.random.Philox(sky))), noise


def simulate(
    preset: str, seed: int, index: int, empty: bool = False, *, device: str | None = None
) -> tuple[Cube, Table]:
    """One field of a preset and its truth; it depends on (preset, seed, index) alone.

    Parameters
    ----------
    preset, seed, index : see `field_of`
    empty : bool
        Leave out the sources; the noise and the defects are those that the field would have with them.
    device : str or None, see `synthesis.synthesize`

    Returns
    -------
    cube : Cube
    truth : astropy Table, see docs/architecture.md
    """
    from sim.truth import truth_table

    field, noise = field_of(preset, seed, index)
    sources = () if empty else field.sources
    rng = np.random.Generator(np.random.SFC64(noise))
    cube = simulate_cube(
        sources, field.coverage, field.grid, field.noise, rng,
        white=field.white, defects=field.defects, ra=field.ra, device=device,
    )  # fmt: skip
    resp = response(field.coverage.without(field.defects.flagged_antennas), field.grid)
    return cube, truth_table(sources, resp, cube, field.noise, white=field.white)
