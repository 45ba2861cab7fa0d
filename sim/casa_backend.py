"""Measurement sets from a sky model with CASA's simobserve, and what every use of CASA here shares.

With `casa_cube` the only module of `sim` that imports casatools and casatasks, and only inside functions.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import casa_deepfocus
from casa_deepfocus.core.geometry import gaussian_image
from casa_deepfocus.errors import DataError, MissingDependencyError, ProductError
from sim.sky import Source


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
    try:
        import casatasks  # noqa: F401  (imported for its side effects: the configuration is read now)
    except ImportError as error:
        raise MissingDependencyError(
            f"the CASA backend needs casatools, casatasks and casadata ({error}); pip install casatasks casadata"
        ) from error


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
