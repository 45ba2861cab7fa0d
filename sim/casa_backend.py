"""Measurement sets from a sky model with CASA's simobserve: the reference of the fast backend.

The only module of `sim` that imports casatools and casatasks, and only inside its functions.
"""

from __future__ import annotations

import os
import tempfile
from dataclasses import dataclass
from pathlib import Path

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


def write_model_image(path: Path, sources: list[Source], observation: Observation) -> None:
    """Write the sky model [Jy/pixel] as a CASA image with axes (ra, dec, stokes, frequency)."""
    from casatools import coordsys, image

    freq, npix = observation.freq(), observation.npix
    cube = np.zeros((len(freq), npix, npix))
    for source in sources:
        plane = gaussian_image((npix, npix), source.x, source.y, source.covariance())
        plane /= plane.sum()
        cube += source.spectrum(freq)[:, None, None] * plane
    tool, csys = image(), coordsys()
    try:
        csys = csys.newcoordsys(direction=True, spectral=True, stokes=["I"])
        step = np.deg2rad(observation.cell / 3600.0)
        csys.setunits(["rad", "rad", "", "Hz"])
        csys.setdirection(
            refcode="J2000",
            proj="SIN",
            refpix=[npix // 2, npix // 2],
            refval=[np.deg2rad(observation.ra), np.deg2rad(observation.dec)],
        )
        csys.setincrement([-step, step], "direction")
        csys.setreferencecode("LSRK", "spectral")
        csys.setrestfrequency(f"{freq[0]}Hz")
        csys.setreferencepixel(0.0, "spectral")
        csys.setreferencevalue(f"{freq[0]}Hz", "spectral")
        csys.setincrement(f"{observation.chan_width}Hz", "spectral")
        # The one axis reversal: CASA wants (x, y, stokes, chan).
        tool.fromarray(str(path), pixels=cube.transpose(2, 1, 0)[:, :, None, :], csys=csys.torecord(), overwrite=True)
        tool.setbrightnessunit("Jy/pixel")
    finally:
        tool.done()
        csys.done()


def observe(sources: list[Source], observation: Observation, vis: Path) -> NDArray[np.float64]:
    """Simulate a measurement set that holds one DATA column and the sky of `sources`.

    Parameters
    ----------
    sources : list of Source, on the pixels of the model image; FWHM of 2 pixels and more
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
    home, vis = Path.cwd(), vis.resolve()
    with tempfile.TemporaryDirectory(prefix="sim-", dir=vis.parent) as name:
        scratch = Path(name)
        # CASA writes its log where it is imported first.
        os.chdir(scratch)
        try:
            prepare_casa()
            import casatasks

            write_model_image(scratch / "sky.model", sources, observation)
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
        finally:
            os.chdir(home)
    return sigma


def visibility_noise(clean: Path, noisy: Path) -> NDArray[np.float64]:
    """(nchan,) rms [Jy] of the real and imaginary parts of the difference of two measurement sets."""
    from casatools import table

    tool = table()
    columns = []
    for path in (clean, noisy):
        try:
            tool.open(str(path))
            columns.append(tool.getcol("DATA"))
        finally:
            tool.close()
    difference = columns[1] - columns[0]
    return np.sqrt(np.mean(np.abs(difference) ** 2, axis=(0, 2)) / 2.0)


def read_uvw(vis: Path) -> NDArray[np.float64]:
    """(nvis, 3) uvw [m] of a measurement set, in the sense of `arrays.uvw_track`."""
    from casatools import table

    tool = table()
    try:
        tool.open(str(vis))
        # CASA's uvw point from the second antenna to the first, ours the other way.
        return -tool.getcol("UVW").T
    finally:
        tool.close()
