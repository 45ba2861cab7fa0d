"""Measurement sets: simulated with CASA's simobserve, or real ones with sources put in.

Also what every use of CASA here shares. With `casa_cube` the only module of `sim` that imports casatools
and casatasks, and only inside functions.
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import casa_deepfocus
from casa_deepfocus.core.geometry import gaussian_image
from casa_deepfocus.errors import DataError, MissingDependencyError, ProductError
from sim.arrays import C_MS, simmos_folder
from sim.beams import airy
from sim.coverage import ARCSEC
from sim.response import gaussian_transform
from sim.sky import Component, Source
from sim.skyfile import SkySource, read_sources

PARALLEL_HANDS = (1, 5, 8, 9, 12)
"""CASA's numbers of the correlations that see an unpolarised sky: I, RR, LL, XX, YY."""

ROWS = 2**22
"""Complex numbers of a measurement set that are held at a time."""


@dataclass(frozen=True)
class Observation:
    """How a sky is observed.

    Attributes
    ----------
    array : str, configuration of casadata without ``.cfg``
    ra, dec : float [deg], phase centre, J2000
    cell : float [arcsec]; npix : int, the square model image
    freq0, chan_width : float [Hz], first channel and signed width, LSRK; nchan : int
    duration, integration : float [s], of the track, centred on `hour_angle` [hours]
    pwv : float [mm], water vapour of the thermal noise; 0 for no noise
    seed : int, of the noise
    """

    array: str = "alma.cycle9.3"
    ra: float = 59.99983333
    dec: float = -34.99986111
    cell: float = 0.1
    npix: int = 256
    freq0: float = 230.0e9
    chan_width: float = 16.0e6
    nchan: int = 64
    duration: float = 1200.0
    integration: float = 60.0
    hour_angle: float = 0.0
    pwv: float = 1.0
    seed: int = 1

    def freq(self) -> NDArray[np.float64]:
        """(nchan,) channel centres [Hz, LSRK]."""
        return self.freq0 + self.chan_width * np.arange(self.nchan)


def prepare_casa() -> None:
    """Let CASA start without network: casadata's own data, where the user has none.

    Call it before casatools is imported for the first time. A configuration of the user
    (CASASITECONFIG, ~/.casa/data) is left alone.

    Raises
    ------
    MissingDependencyError
        When casatools or casatasks is not installed.
    """
    if "CASASITECONFIG" not in os.environ and not (Path.home() / ".casa" / "data" / "geodetic").is_dir():
        os.environ["CASASITECONFIG"] = str(Path(casa_deepfocus.__file__).with_name("casasiteconfig.py"))
    # CASA's configuration reads the command line of whatever program imports it first, and stops at foreign options.
    arguments, sys.argv = sys.argv, sys.argv[:1]
    try:
        import casatasks  # noqa: F401  (imported for its side effects: the configuration is read now)
    except ImportError as error:
        raise MissingDependencyError(
            f"the CASA backend needs casatools, casatasks and casadata ({error}); pip install casatasks casadata"
        ) from error
    finally:
        sys.argv = arguments


@contextmanager
def casa_folder(parent: Path | None = None) -> Iterator[Path]:
    """CASA, ready, inside a temporary folder that is the working directory until it is removed.

    CASA writes its log where it is imported first, and some of its tools leave files where they run.

    Parameters
    ----------
    parent : Path, an existing folder; the system's temporary one by default
    """
    home = Path.cwd()
    with tempfile.TemporaryDirectory(prefix="sim-", dir=parent) as name:
        scratch = Path(name).resolve()
        os.chdir(scratch)
        try:
            prepare_casa()
            yield scratch
        finally:
            os.chdir(home)


@contextmanager
def casa_tool(kind: str, path: Path | None = None, **options: Any) -> Iterator[Any]:
    """A tool of casatools, opened on `path` where one is given, and closed whatever happens."""
    import casatools

    tool = getattr(casatools, kind)()
    try:
        if path is not None:
            tool.open(str(path), **options)
        yield tool
    finally:
        tool.done()


def array_config(array: str) -> dict[str, Any]:
    """The antennas of a configuration of casadata (without ``.cfg``), as ``simulator.setconfig`` wants them."""
    from casatasks.private.simutil import simutil

    file = simmos_folder() / f"{array}.cfg"
    x, y, z, diameters, pads, names, telescope, site = simutil().readantenna(str(file))
    return {
        "telescopename": telescope, "x": np.array(x), "y": np.array(y), "z": np.array(z),
        "dishdiameter": [float(diameter) for diameter in diameters], "mount": ["alt-az"], "antname": list(names),
        "padname": list(pads), "coordsystem": "global", "referencelocation": site,
    }  # fmt: skip


def write_model_image(
    path: Path,
    planes: Iterable[NDArray],
    shape: tuple[int, int],
    *,
    freq: NDArray,
    cell: float,
    centre: tuple[float, float],
    reference: tuple[float, float],
    frame: str,
) -> None:
    """Write a sky model as a CASA image with axes (ra, dec, stokes, frequency).

    Parameters
    ----------
    path : Path
    planes : iterable of nchan arrays (ny, nx) [Jy/pixel]
    shape : (ny, nx)
    freq : (nchan,) [Hz, LSRK], evenly spaced
    cell : float [arcsec]
    centre : right ascension and declination [deg] of the tangent point
    reference : x and y [pixel] of the tangent point
    frame : str, ``J2000`` or ``ICRS``
    """
    with casa_tool("image") as tool, casa_tool("coordsys") as blank:
        csys = blank.newcoordsys(direction=True, spectral=True, stokes=["I"])
        try:
            step = np.deg2rad(cell / 3600.0)
            csys.setunits(["rad", "rad", "", "Hz"])
            csys.setdirection(refcode=frame, proj="SIN", refpix=list(reference), refval=list(np.deg2rad(centre)))
            csys.setincrement([-step, step], "direction")
            csys.setreferencecode("LSRK", "spectral")
            csys.setrestfrequency(f"{float(freq[0])!r}Hz")
            csys.setreferencepixel(0.0, "spectral")
            csys.setreferencevalue(f"{float(freq[0])!r}Hz", "spectral")
            width = float(freq[-1] - freq[0]) / (len(freq) - 1) if len(freq) > 1 else 1e6
            csys.setincrement(f"{width!r}Hz", "spectral")
            # The one axis reversal: CASA wants (x, y, stokes, chan).
            tool.fromshape(str(path), [shape[1], shape[0], 1, len(freq)], csys=csys.torecord(), overwrite=True)
        finally:
            csys.done()
        tool.setbrightnessunit("Jy/pixel")
        for chan, plane in enumerate(planes):
            tool.putchunk(np.asarray(plane, dtype=float).T[:, :, None, None], blc=[0, 0, 0, chan])


def model_planes(sources: list[Source], observation: Observation) -> Iterator[NDArray[np.float64]]:
    """The sky [Jy/pixel] of an observation, channel by channel: (npix, npix) each."""
    shapes = []
    for source in sources:
        plane = gaussian_image((observation.npix, observation.npix), source.x, source.y, source.covariance())
        shapes.append(plane / plane.sum())
    spectra = np.array([source.spectrum(observation.freq()) for source in sources])
    for chan in range(observation.nchan):
        yield np.tensordot(spectra[:, chan], np.array(shapes), 1)


def observe(sources: list[Source], observation: Observation, vis: Path) -> NDArray[np.float64]:
    """Simulate a measurement set that holds one DATA column and the sky of `sources`.

    Parameters
    ----------
    sources : list of Gaussian Source, on the pixels of the model image; FWHM of 2 pixels and more
    observation : Observation
    vis : Path, of the new measurement set

    Returns
    -------
    (nchan,) float64 [Jy] : rms of the real (or imaginary) part of one correlation of one visibility; 0 without noise

    Raises
    ------
    ProductError
        When `vis` exists.
    DataError
        When simobserve wrote nothing.
    """
    if vis.exists():
        raise ProductError(f"{vis} exists; remove it or choose another folder")
    vis.parent.mkdir(parents=True, exist_ok=True)
    vis = vis.resolve()
    with casa_folder(vis.parent) as scratch:
        import casatasks

        middle = observation.npix // 2
        write_model_image(
            scratch / "sky.model", model_planes(sources, observation), (observation.npix, observation.npix),
            freq=observation.freq(), cell=observation.cell, centre=(observation.ra, observation.dec),
            reference=(middle, middle), frame="J2000",
        )  # fmt: skip
        casatasks.simobserve(
            project="sim",
            skymodel="sky.model",
            antennalist=f"{observation.array}.cfg",
            obsmode="int",
            setpointings=True,
            # One pointing: the map is smaller than the beam.
            mapsize=["1arcsec", "1arcsec"],
            maptype="square",
            integration=f"{observation.integration}s",
            totaltime=f"{observation.duration}s",
            hourangle=f"{observation.hour_angle}h",
            outframe="LSRK",
            thermalnoise="tsys-atm" if observation.pwv else "",
            user_pwv=observation.pwv,
            seed=observation.seed,
            graphics="none",
            overwrite=True,
        )
        clean = scratch / "sim" / f"sim.{observation.array}.ms"
        noisy = scratch / "sim" / f"sim.{observation.array}.noisy.ms"
        made = noisy if observation.pwv else clean
        if not made.is_dir():
            raise DataError(f"simobserve left no {made.name}; its messages are in CASA's log")
        sigma = visibility_noise(clean, noisy) if observation.pwv else np.zeros(observation.nchan)
        # simobserve leaves a stale CORRECTED_DATA behind: keep DATA alone.
        casatasks.split(vis=str(made), outputvis=str(vis), datacolumn="data")
    return sigma


def visibility_noise(clean: Path, noisy: Path) -> NDArray[np.float64]:
    """(nchan,) rms [Jy] of the real and imaginary parts of the difference of two measurement sets."""
    columns = []
    for path in (clean, noisy):
        with casa_tool("table", path) as table:
            columns.append(table.getcol("DATA"))
    difference = columns[1] - columns[0]
    return np.sqrt(np.mean(np.abs(difference) ** 2, axis=(0, 2)) / 2.0)


def read_uvw(vis: Path) -> NDArray[np.float64]:
    """(nvis, 3) uvw [m] of a measurement set, in the sense of `arrays.uvw_track`."""
    with casa_tool("table", vis) as table:
        # CASA's uvw point from the second antenna to the first, ours the other way.
        return -table.getcol("UVW").T


def inject_ms(vis: Path, sources: Sequence[SkySource] | Path | str, out: Path) -> None:
    """Copy a measurement set and add sources to its data, as its antennas would have seen them.

    The visibilities are analytic, with the w term, in every parallel hand of DATA and, where there is one,
    CORRECTED_DATA. The primary beam is CASA's Airy pattern about the phase centre of each field, at the place
    of the source (within 3e-4 of tclean's; for the VLA between 2 and 4 GHz CASA has another, 0.017 off).

    Parameters
    ----------
    vis : Path, is not changed
    sources : sequence of SkySource, or the YAML file of them (`skyfile.read_sources`); frequencies are LSRK
    out : Path, the new measurement set

    Raises
    ------
    DataError
        When `vis` is no measurement set, or holds no DATA.
    ProductError
        When `out` exists.
    """
    vis, out = Path(vis).resolve(), Path(out).resolve()
    if not (vis / "table.dat").is_file():
        raise DataError(f"{vis} is no measurement set")
    if out.exists():
        raise ProductError(f"{out} exists; remove it or choose another name")
    given = read_sources(Path(sources)) if isinstance(sources, str | Path) else list(sources)
    out.parent.mkdir(parents=True, exist_ok=True)
    # Beside the product, so that it appears whole or not at all.
    with casa_folder(out.parent) as scratch:
        copy = scratch / out.name
        shutil.copytree(vis, copy)
        with casa_tool("table", copy, nomodify=False) as table:
            columns = [name for name in ("DATA", "CORRECTED_DATA") if name in table.colnames()]
            if not columns:
                raise DataError(f"{vis} has neither DATA nor CORRECTED_DATA")
            with casa_tool("msmetadata", copy) as meta, casa_tool("measures") as me:
                for field in range(meta.nfields()):
                    for description in meta.datadescids():
                        rows = table.query(f"FIELD_ID=={field} && DATA_DESC_ID=={description}")
                        try:
                            if rows.nrows():
                                add_model(rows, columns, look_at(meta, me, given, field, description))
                        finally:
                            rows.close()
        copy.rename(out)


@dataclass(frozen=True, eq=False)
class Look:
    """One field in one spectral window.

    Attributes
    ----------
    freq : (nchan,) [Hz], as the data have them
    hands : (nhand,) int, indices of the parallel hands
    diameters : (nant,) [m]
    parts : list of direction cosines (l, m, n - 1) and components of every source, on pixels of 1 arcsec
    """

    freq: NDArray[np.float64]
    hands: NDArray[np.int64]
    diameters: NDArray[np.float64]
    parts: list[tuple[NDArray[np.float64], list[Component]]]


def look_at(meta: Any, me: Any, sources: Sequence[SkySource], field: int, description: int) -> Look:
    """What a field and a data description of a measurement set see of sources.

    Parameters
    ----------
    meta, me : msmetadata tool, open on the measurement set, and measures tool
    sources : sequence of SkySource
    field, description : int, numbers of the field and of the data description
    """
    spw, polarization = meta.spwfordatadesc(description), meta.polidfordatadesc(description)
    centre, freq = meta.phasecenter(field), np.asarray(meta.chanfreqs(spw), dtype=float)
    time = float(np.mean(meta.timesforfield(field)))
    me.doframe(me.epoch("UTC", f"{time!r}s"))
    me.doframe(meta.observatoryposition(0))
    me.doframe(centre)
    own = meta.reffreq(spw)["refer"]
    scale = 1.0
    if own not in ("LSRK", "REST", "Undefined"):
        scale = me.measure(me.frequency(own, f"{float(freq[0])!r}Hz"), "LSRK")["m0"]["value"] / freq[0]
    parts = []
    for source in sources:
        place = me.measure(me.direction("ICRS", f"{source.ra!r}deg", f"{source.dec!r}deg"), centre["refer"])
        cosines = _direction_cosines(place, centre)
        if cosines is not None:
            parts.append((cosines, source.on_pixels(0.0, 0.0, 1.0, scale * freq).components(scale * freq)))
    diameters = meta.antennadiameter()
    return Look(
        freq,
        np.flatnonzero(np.isin(meta.corrtypesforpol(polarization), PARALLEL_HANDS)),
        np.array([diameters[str(number)]["value"] for number in range(len(diameters))]),
        parts,
    )


def _direction_cosines(place: dict[str, Any], centre: dict[str, Any]) -> NDArray[np.float64] | None:
    """l to the east, m to the north and n - 1 of a place about a phase centre; None on the other half of the sky."""
    (ra, dec), (ra0, dec0) = ([measure[key]["value"] for key in ("m0", "m1")] for measure in (place, centre))
    east = np.cos(dec) * np.sin(ra - ra0)
    north = np.sin(dec) * np.cos(dec0) - np.cos(dec) * np.sin(dec0) * np.cos(ra - ra0)
    if np.sin(dec) * np.sin(dec0) + np.cos(dec) * np.cos(dec0) * np.cos(ra - ra0) <= 0:
        return None
    square = east**2 + north**2
    return np.array([east, north, -square / (1.0 + np.sqrt(1.0 - square))])


def add_model(rows: Any, columns: Sequence[str], look: Look) -> None:
    """Add the visibilities of a look's sources to columns of its rows (a table)."""
    step = max(1, ROWS // len(look.freq))
    for start in range(0, rows.nrows(), step):
        number = min(step, rows.nrows() - start)
        uvw = rows.getcol("UVW", start, number)
        antennas = [rows.getcol(name, start, number) for name in ("ANTENNA1", "ANTENNA2")]
        model = np.zeros((len(look.freq), number), complex)
        for cosines, components in look.parts:
            beam = baseline_beam(look, float(np.hypot(*cosines[:2])), antennas)
            turns = look.freq[:, None] / C_MS * (cosines @ uvw)
            model += beam * np.exp(2j * np.pi * turns) * component_visibilities(components, uvw, look.freq)
        for column in columns:
            data = rows.getcol(column, start, number)
            data[look.hands] += model
            rows.putcol(column, data, start, number)


def baseline_beam(look: Look, radius: float, antennas: Sequence[NDArray]) -> NDArray[np.float64]:
    """Primary beam (nchan, nrow) of the baselines at a radius [rad]."""
    sizes, kind = np.unique(look.diameters, return_inverse=True)
    power = np.array([airy(radius, look.freq, size) for size in sizes])
    return np.sqrt(power[kind[antennas[0]]] * power[kind[antennas[1]]]).T


def component_visibilities(components: Sequence[Component], uvw: NDArray, freq: NDArray) -> NDArray[np.complex128]:
    """Visibilities of a source about its own place.

    Parameters
    ----------
    components : sequence of Component, all of one source, on pixels of 1 arcsec, x to the west
    uvw : (3, nrow) [m], in CASA's sense: V = sum I exp(2 pi i (u l + v m))
    freq : (nchan,) [Hz]

    Returns
    -------
    (nchan, nrow) complex128 [Jy]
    """
    import ducc0

    out = np.zeros((len(freq), uvw.shape[1]), complex)
    # Cycles per pixel; x falls where l rises.
    scale = freq[:, None] / C_MS * ARCSEC
    kx, ky = -uvw[0] * scale, uvw[1] * scale
    for component in components:
        if component.covariance is not None:
            out += component.spectrum[:, None] * gaussian_transform(component.covariance, kx, ky)
    stamps = [component for component in components if component.stamp is not None]
    if not stamps:
        return out
    pitch = stamps[0].pitch
    shapes = np.array([component.stamp for component in stamps], dtype=complex)
    spectra = np.array([component.spectrum for component in stamps])
    for chan in range(len(freq)):
        plane = np.tensordot(spectra[:, chan], shapes, 1)
        turns = np.stack([ky[chan], kx[chan]], axis=1) * pitch
        seen = ducc0.nufft.u2nu(grid=plane, coord=turns, forward=False, epsilon=1e-6, periodicity=1.0, nthreads=1)
        # A pixel holds what falls into it.
        out[chan] += seen / (np.sinc(turns[:, 0]) * np.sinc(turns[:, 1]))
    return out
