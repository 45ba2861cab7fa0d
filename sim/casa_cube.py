"""Whole cubes with CASA: the reference of the fast simulator, on the same field with the same truth.

The sm tool makes the measurement set with the field's own uvw, predicts the sky through CASA's primary
beam and adds the noise; tclean images it at twice the field, without cleaning. The w coordinate is left
out, as it is where simobserve predicts from an image and tclean grids without w projection.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from casa_deepfocus.core.cube import Cube
from casa_deepfocus.core.geometry import FWHM_PER_SIGMA, GAUSSIAN_LINE, gaussian_image, shape_to_covariance
from casa_deepfocus.errors import DataError
from sim import arrays
from sim.casa_backend import array_config, casa_folder, casa_tool, write_model_image
from sim.coverage import Coverage, Grid
from sim.cube import celestial_wcs, field_of
from sim.defects import Defects
from sim.discs import SUBPIXELS, disc_stamp
from sim.response import response, sampling
from sim.sky import Source

if TYPE_CHECKING:
    from astropy.table import Table

    from sim.presets import Field

EPOCH = "58849.0d"
"""Day of the observation [MJD]; nothing depends on it, as the uvw are the field's."""

SAMPLED = 3.0
"""Gaussians whose minor FWHM [pixel] is this or more share one image; its pixels alias less than 1e-6 of them."""

REACH = 4.5
"""Standard deviations at which a Gaussian's pixels end; 4e-5 of its flux lies beyond."""

ROWS = 2**24
"""Complex numbers of a measurement set that are held at a time."""


def simulate_casa(preset: str, seed: int, index: int, *, scratch: Path | None = None) -> tuple[Cube, Table]:
    """One field of a preset, observed and imaged by CASA: the field of `cube.simulate`, the noise apart.

    Parameters
    ----------
    preset : str, name or file of a preset
    seed, index : int
    scratch : Path
        An existing folder for the measurement set and the images, which are removed whatever happens; the
        system's temporary folder by default. The paper's field needs 4 GB there.

    Returns
    -------
    cube : Cube
    truth : astropy Table
    """
    from sim.truth import truth_table

    field, noise = field_of(preset, seed, index)
    white = np.random.Generator(np.random.SFC64(noise.spawn(1)[0]))
    cube = observe_field(field, noise_seed(preset, seed, index), white, scratch=scratch)
    resp = response(field.coverage.without(field.defects.flagged_antennas), field.grid)
    return cube, truth_table(field.sources, resp, cube, field.noise, white=field.white)


def noise_seed(preset: str, seed: int, index: int) -> int:
    """CASA's seed of a field's noise: no two fields of one preset and seed share it."""
    state = np.random.SeedSequence([zlib.crc32(Path(preset).stem.encode()), seed]).generate_state(1)
    return int((int(state[0]) + index) % (2**31 - 1)) + 1


def observe_field(
    field: Field,
    seed: int | None,
    rng: np.random.Generator | None,
    *,
    scratch: Path | None = None,
    pblimit: float = 0.2,
) -> Cube:
    """Observe a field and image it.

    Parameters
    ----------
    field : Field
    seed : int, of CASA's thermal noise; None for none
    rng : numpy Generator, of the white noise; None for none
    scratch : Path, see `simulate_casa`
    pblimit : float, the image is NaN where the primary beam is lower

    Raises
    ------
    ParameterError
        When the coverage or the defects do not fit the grid.
    """
    grid, defects = field.grid, field.defects
    defects.check(grid.nchan, grid.npix)
    coverage = field.coverage.without(defects.flagged_antennas)
    coverage.check(grid)
    with casa_folder(scratch) as folder:
        vis = folder / "field.ms"
        make_vis(vis, coverage, grid, field.ra)
        outside = () if defects.outside is None else (defects.outside,)
        predict(vis, (*field.sources, *outside), coverage, grid, field.ra)
        spoil(vis, coverage, defects)
        if seed is not None and field.noise > 0:
            add_noise(vis, field.noise * noise_ratio(coverage, grid), seed)
        planes = image_vis(vis, coverage, grid)
    if rng is not None and field.white:
        planes["residual"] += np.float32(field.white) * rng.standard_normal(planes["residual"].shape, dtype=np.float32)
    return _cube(planes, field, pblimit)


def make_vis(vis: Path, coverage: Coverage, grid: Grid, ra: float) -> None:
    """A measurement set of a coverage, its data zero; shadowed and flagged baselines are flagged.

    Raises
    ------
    DataError
        When the sm tool made other rows than the coverage has.
    """
    config = array_config(coverage.array)
    feeds = "R L" if config["telescopename"] in ("VLA", "EVLA") else "X Y"
    seconds = 3600.0 * coverage.hour_angles()
    with casa_tool("simulator") as sm, casa_tool("measures") as me:
        sm.open(str(vis))
        sm.setconfig(**config)
        sm.setspwindow(
            spwname="spw0", freq=f"{grid.freq0!r}Hz", deltafreq=f"{grid.chan_width!r}Hz",
            freqresolution=f"{abs(grid.chan_width)!r}Hz", nchannels=grid.nchan, refcode="LSRK",
            stokes="RR LL" if feeds == "R L" else "XX YY",
        )  # fmt: skip
        sm.setfeed(f"perfect {feeds}")
        sm.setfield(sourcename="field", sourcedirection=me.direction("ICRS", f"{ra!r}deg", f"{coverage.dec!r}deg"))
        sm.setauto(0.0)
        sm.setlimits(shadowlimit=1e-6, elevationlimit="-90deg")
        sm.settimes(
            integrationtime=f"{coverage.integration!r}s", usehourangle=True, referencetime=me.epoch("UTC", EPOCH)
        )
        half = 0.5 * coverage.integration
        sm.observe(
            "field", "spw0", starttime=f"{float(seconds[0]) - half!r}s", stoptime=f"{float(seconds[-1]) + half!r}s"
        )
    _set_uvw(vis, coverage)


def _set_uvw(vis: Path, coverage: Coverage) -> None:
    array = arrays.read_array(coverage.array)
    uvw = arrays.uvw_track(array, coverage.dec, coverage.hour_angles(), shadowing=False)
    first, second = _antennas(array.nant, len(coverage.hour_angles()))
    with casa_tool("table", vis, nomodify=False) as table:
        made = (table.getcol("ANTENNA1"), table.getcol("ANTENNA2"))
        if not (np.array_equal(made[0], first) and np.array_equal(made[1], second)):
            raise DataError(f"CASA's sm tool made {len(made[0])} visibilities, the coverage has {len(first)}")
        # CASA's uvw point from the second antenna to the first.
        table.putcol("UVW", -(uvw * [1.0, 1.0, 0.0]).T)
        table.putcol("FLAG_ROW", _left_out(coverage, array.nant))


def _antennas(nant: int, ntime: int) -> list[NDArray[np.int64]]:
    """First and second antenna of the rows: (nvis,) each."""
    return [np.tile(number, ntime) for number in np.triu_indices(nant, k=1)]


def _left_out(coverage: Coverage, nant: int) -> NDArray[np.bool_]:
    """(nvis,) rows that the coverage has no visibility for."""
    tracks = coverage.tracks()
    first, second = _antennas(nant, len(coverage.hour_angles()))
    time = np.arange(len(first)) // (nant * (nant - 1) // 2)
    kept = (tracks.time * nant + tracks.first) * nant + tracks.second
    return ~np.isin((time * nant + first) * nant + second, kept)


def predict(vis: Path, sources: Sequence[Source], coverage: Coverage, grid: Grid, ra: float) -> None:
    """Write the visibilities of a sky, seen through CASA's primary beam, into DATA.

    Well-sampled Gaussians inside the image share one model image; every other source has an image of its own,
    centred on it, with pixels that are small enough for it.
    """
    freq = grid.freq()
    shared = [source for source in sources if _is_sampled(source, grid)]
    names = []
    if shared:
        names.append("sky.model")
        middle = grid.npix // 2
        write_model_image(
            vis.parent / names[-1], _shared_planes(shared, grid), (grid.npix, grid.npix), freq=freq, cell=grid.cell,
            centre=(ra, coverage.dec), reference=(middle, middle), frame="ICRS",
        )  # fmt: skip
    wcs = celestial_wcs(grid, ra, coverage.dec)
    for source in sources:
        if _is_sampled(source, grid):
            continue
        names.append(f"source{len(names)}.model")
        planes, pitch = source_pixels(source, freq)
        place = wcs.wcs_pix2world([[source.x, source.y]], 0)[0]
        height, width = planes.shape[1:]
        write_model_image(
            vis.parent / names[-1], planes, (height, width), freq=freq, cell=grid.cell * pitch,
            centre=(float(place[0]), float(place[1])), reference=(width // 2, height // 2), frame="ICRS",
        )  # fmt: skip
    if not names:
        return
    with casa_tool("simulator") as sm:
        sm.openfromms(str(vis))
        sm.setdata(fieldid=[0])
        sm.setvp(dovp=True, usedefaultvp=True)
        # CASA's spheroidal function is least exact at the edge of what it grids: keep the sky away from there.
        sm.setoptions(ftmachine="ft", padding=2.0)
        sm.predict(imagename=[str(vis.parent / name) for name in names])


def _is_sampled(source: Source, grid: Grid) -> bool:
    """Whether the image's own pixels can hold a source: a Gaussian, not small, and inside."""
    reach = REACH * source.fwhm_maj / FWHM_PER_SIGMA
    inside = all(reach <= place <= grid.npix - 1 - reach for place in (source.x, source.y))
    return source.kind == "gaussian" and source.fwhm_min >= SAMPLED and inside


def _shared_planes(sources: Sequence[Source], grid: Grid) -> Any:
    shapes = np.zeros((len(sources), grid.npix, grid.npix), np.float32)
    for plane, source in zip(shapes, sources, strict=True):
        plane += gaussian_image(plane.shape, source.x, source.y, source.covariance())
        plane /= plane.sum(dtype=float)
    spectra = np.array([source.spectrum(grid.freq()) for source in sources])
    return (np.tensordot(spectra[:, chan], shapes, 1) for chan in range(grid.nchan))


def source_pixels(source: Source, freq: NDArray) -> tuple[NDArray[np.float64], float]:
    """A source on pixels of its own, with an empty border as wide as itself.

    Returns
    -------
    planes : (nchan, height, width) float64 [Jy/pixel], even sides; the source's centre is pixel (side // 2)
    pitch : float [image pixel]
    """
    if source.kind == "disc":
        core, pitch = _disc_pixels(source, freq)
    else:
        pitch = min(1.0, max(source.fwhm_min / SAMPLED, source.fwhm_maj / 100.0)) or 1.0
        half = int(np.ceil(REACH * source.fwhm_maj / FWHM_PER_SIGMA / pitch))
        side = 2 * half + 1
        shape = np.ones((1, 1))
        if half:
            # An axis that is much too thin for the pixels is as thin as they allow.
            sizes = np.maximum([source.fwhm_maj, source.fwhm_min], SAMPLED * pitch) / pitch
            shape = gaussian_image((side, side), half, half, shape_to_covariance(sizes[0], sizes[1], source.pa))
        core = source.spectrum(freq)[:, None, None] * (shape / shape.sum())
    height, width = (max(2 * side + side % 2, 16) for side in core.shape[1:])
    height, width = height + height % 2, width + width % 2
    planes = np.zeros((len(freq), height, width))
    y, x = height // 2 - core.shape[1] // 2, width // 2 - core.shape[2] // 2
    planes[:, y : y + core.shape[1], x : x + core.shape[2]] = core
    return planes, float(pitch)


def _disc_pixels(source: Source, freq: NDArray) -> tuple[NDArray[np.float64], float]:
    """A disc on the points over which its stamp is integrated: planes (nchan, height, width) and their pitch."""
    stamp = disc_stamp(source.fwhm_maj, source.pa, source.rotation)
    chan = np.arange(len(freq))[:, None, None, None]
    spectra = np.broadcast_to(source.continuum_spectrum(freq)[:, None, None, None], (len(freq), *stamp.shift.shape))
    for line in source.lines:
        offset = (chan - line.chan - stamp.shift) * FWHM_PER_SIGMA / source.rotation.dispersion
        spectra = spectra + line.flux / (GAUSSIAN_LINE * source.rotation.dispersion) * np.exp(-0.5 * offset**2)
    points = (spectra * stamp.brightness).reshape(len(freq), SUBPIXELS, SUBPIXELS, *stamp.shift.shape[1:])
    height, width = (SUBPIXELS * side for side in stamp.shift.shape[1:])
    return points.transpose(0, 3, 1, 4, 2).reshape(len(freq), height, width), stamp.pitch / SUBPIXELS


def spoil(vis: Path, coverage: Coverage, defects: Defects) -> None:
    """Wrong gains and bandpass into DATA; flagged channels and rows into FLAG."""
    nant = arrays.read_array(coverage.array).nant
    angles = coverage.hour_angles()
    first, second = _antennas(nant, len(angles))
    time = np.arange(len(first)) // (nant * (nant - 1) // 2)
    left_out = _left_out(coverage, nant)
    gains = defects.gains(nant, 3600.0 * angles)
    with casa_tool("table", vis, nomodify=False) as table:
        ncorr, nchan = table.getcell("DATA", 0).shape
        bandpass = defects.bandpass(nchan)[:, None]
        step = max(1, ROWS // (ncorr * nchan))
        for start in range(0, len(first), step):
            rows = slice(start, start + step)
            number = len(first[rows])
            flags = np.zeros((ncorr, nchan, number), bool)
            flags[:, list(defects.flagged_channels)] = True
            flags |= left_out[rows]
            table.putcol("FLAG", flags, start, number)
            if defects.has_gains or np.ptp(bandpass) > 0:
                gain = gains[time[rows], first[rows]] * np.conj(gains[time[rows], second[rows]])
                data = table.getcol("DATA", start, number)
                table.putcol("DATA", data * (gain * bandpass).astype(np.complex64), start, number)


def add_noise(vis: Path, sigma: float, seed: int) -> None:
    """Add Gaussian noise of rms `sigma` [Jy] to the real and to the imaginary part of every number of DATA."""
    with casa_tool("simulator") as sm:
        sm.openfromms(str(vis))
        sm.setdata(fieldid=[0])
        sm.setseed(seed)
        sm.setnoise(mode="simplenoise", simplenoise=f"{float(sigma)!r}Jy")
        sm.corrupt()


def noise_ratio(coverage: Coverage, grid: Grid) -> float:
    """Noise of one correlation of one visibility over that of the image, in the mean of the band.

    The image is Stokes I of two correlations. With Briggs weighting the ratio changes over the paper's band, by
    5e-4 with robust 0.5 and by 0.015 with -0.5.
    """
    seen = sampling(coverage.uvw(), grid, coverage.robust)
    freq = grid.freq()
    power = [(seen.weights(freq[chan]) ** 2).sum() for chan in (0, grid.nchan // 2, grid.nchan - 1)]
    return float(np.sqrt(2.0 / np.mean(power)))


def image_vis(vis: Path, coverage: Coverage, grid: Grid, *, channels: slice = slice(None)) -> dict[str, NDArray]:
    """tclean without cleaning, at twice the field.

    Parameters
    ----------
    vis : Path; the images are made beside it and stay there
    coverage : Coverage, gives the weighting
    grid : Grid
    channels : slice, the channels to image

    Returns
    -------
    dict : residual, pb (nchan, npix, npix), psf (nchan, 2 npix, 2 npix) float32, and beam (nchan, 3) float64 [arcsec,
        arcsec, deg], NaN where a channel has no data
    """
    from casatasks import tclean

    freq = grid.freq()[channels]
    weighting: dict[str, Any] = {"weighting": "natural"}
    if coverage.robust is not None:
        weighting = {"weighting": "briggs", "robust": coverage.robust, "perchanweightdensity": True}
    name = str(vis.parent / "image")
    tclean(
        vis=str(vis), imagename=name, datacolumn="data", specmode="cube", outframe="LSRK", nchan=len(freq),
        start=f"{float(freq[0])!r}Hz", width=f"{grid.chan_width!r}Hz", interpolation="nearest",
        imsize=2 * grid.npix, cell=f"{grid.cell!r}arcsec", niter=0, calcpsf=True, calcres=True, restoration=False,
        # Negative: nothing is masked.
        pblimit=-0.01, pbcor=False, **weighting,
    )  # fmt: skip
    low = grid.npix // 2
    middle = {"residual": low, "pb": low, "psf": 0}
    planes: dict[str, NDArray] = {kind: _read(f"{name}.{kind}", margin) for kind, margin in middle.items()}
    with casa_tool("image", Path(f"{name}.psf")) as tool:
        planes["beam"] = _beams(tool.restoringbeam(), len(freq))
    return planes


def _read(path: str, margin: int) -> NDArray[np.float32]:
    """(nchan, ny, nx) of a CASA image without its margin [pixel]."""
    with casa_tool("image", Path(path)) as tool:
        size, _, _, nchan = tool.shape()
        side = size - 2 * margin
        out = np.empty((nchan, side, side), np.float32)
        for chan in range(nchan):
            blc, trc = [margin, margin, 0, chan], [margin + side - 1, margin + side - 1, 0, chan]
            out[chan] = tool.getchunk(blc, trc)[:, :, 0, 0].T
    return out


def _beams(record: dict[str, Any], nchan: int) -> NDArray[np.float64]:
    """Beams of a CASA image: (nchan, 3)."""
    if "beams" not in record:
        one = [record[key]["value"] for key in ("major", "minor", "positionangle")]
        return np.tile(one, (nchan, 1))
    rows = [record["beams"][f"*{chan}"]["*0"] for chan in range(nchan)]
    beams = np.array([[row[key]["value"] for key in ("major", "minor", "positionangle")] for row in rows])
    beams[:, 2] %= 180.0
    beams[beams[:, 1] <= 0] = np.nan
    return beams


def _cube(planes: dict[str, NDArray], field: Field, pblimit: float) -> Cube:
    grid, defects, freq = field.grid, field.defects, field.grid.freq()
    data, pb = planes["residual"], planes["pb"]
    data[pb < pblimit] = np.nan
    data[list(defects.flagged_channels)] = np.nan
    edge = np.ones(data.shape[1:], bool)
    edge[defects.nan_edge : grid.npix - defects.nan_edge, defects.nan_edge : grid.npix - defects.nan_edge] = False
    data[:, edge] = np.nan
    robust = field.coverage.robust
    return Cube(
        data=data,
        psf=planes["psf"],
        pb=pb,
        freq=freq,
        beams=planes["beam"],
        cell=grid.cell,
        wcs=celestial_wcs(grid, field.ra, field.coverage.dec),
        frame="LSRK",
        restfreq=float(freq[len(freq) // 2]),
        meta={
            "telescope": field.coverage.array,
            "weighting": "natural" if robust is None else f"briggs {robust:g}",
            "radesys": "ICRS",
        },
    )
