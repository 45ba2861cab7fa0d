"""A tiny ALMA measurement set with a planted truth, and image cubes made from it, shared by the CASA tests.

Tests both import from here and name this module in `pytest_plugins`: hence PYTEST_DONT_REWRITE.
"""

from __future__ import annotations

import shutil
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest

from casa_deepfocus.core.catalogue import COLUMNS
from casa_deepfocus.core.component import Component
from casa_deepfocus.core.cube import Cube
from casa_deepfocus.core.geometry import FWHM_PER_SIGMA
from casa_deepfocus.pipeline.state import Result, SourceDetail

C_KMS = 299792.458
RA, DEC = 150.0, -20.0
FREQ0, CHAN_WIDTH, NCHAN = 100e9, 4e6, 8
DISH = 12.0
"""Diameter of an antenna [m]."""

NOISE = 2e-3
"""Noise of one visibility [Jy]: about 0.15 mJy/beam in a channel of the tiny measurement set."""


@dataclass(frozen=True)
class Planted:
    """A point source of the tiny measurement set: offsets east and north [arcsec], fluxes [Jy], line channels."""

    east: float
    north: float
    continuum: float = 0.0
    line: float = 0.0
    chan: float = 0.0
    width: float = 2.0

    @property
    def radec(self) -> tuple[float, float]:
        """Right ascension and declination [deg]."""
        return RA + self.east / 3600.0 / np.cos(np.radians(DEC)), DEC + self.north / 3600.0

    def spectrum(self, nchan: int = NCHAN) -> np.ndarray:
        """(nchan,) flux [Jy] in the measurement set's channels."""
        offset = (np.arange(nchan) - self.chan) / self.width
        return self.continuum + self.line * np.exp(-4.0 * np.log(2.0) * offset**2)


TRUTH = (
    Planted(east=0.0, north=0.0, continuum=0.02, line=0.05, chan=3.0),
    Planted(east=-4.0, north=3.0, line=0.04, chan=4.0),
    Planted(east=5.0, north=-4.0, continuum=0.02),
)


@dataclass(frozen=True)
class Window:
    """A spectral window: frequency of its first channel and channel width [Hz], number of channels, frame."""

    freq0: float = FREQ0
    width: float = CHAN_WIDTH
    nchan: int = NCHAN
    frame: str = "LSRK"


@dataclass(frozen=True)
class Pointing:
    """A field: its offset from the centre [arcsec], its scan intent ('' where the set knows none)."""

    name: str = "tiny"
    east: float = 0.0
    north: float = 0.0
    intent: str = "OBSERVE_TARGET#ON_SOURCE"

    @property
    def radec(self) -> tuple[float, float]:
        """Right ascension and declination [deg]."""
        return Planted(self.east, self.north).radec


def write_ms(
    path: Path, sources: tuple[Planted, ...] = TRUTH, noise: float = NOISE, seed: int = 7,
    windows: tuple[Window, ...] = (Window(),), fields: tuple[Pointing, ...] = (Pointing(),),
) -> None:  # fmt: skip
    """Write a small ALMA measurement set: 12 antennas of configuration 9.2, 8 channels at 100 GHz, 5 minutes.

    The fields share the half hour. Of one field the data hold no primary beam; of several a Gaussian one.
    """
    import casadata
    from casatools import measures, simulator, table

    lines = (Path(casadata.datapath) / "alma" / "simmos" / "alma.cycle9.2.cfg").read_text().splitlines()
    pads = [line.split() for line in lines if line.strip() and not line.startswith("#")][:24:2]
    x, y, z, diameter = (np.array([float(pad[i]) for pad in pads]) for i in range(4))
    me, sm, tb = measures(), simulator(), table()
    try:
        sm.open(str(path))
        sm.setconfig(
            telescopename="ALMA", x=x, y=y, z=z, dishdiameter=diameter, mount=["alt-az"], coordsystem="local",
            antname=[pad[4] for pad in pads], padname=[pad[4] for pad in pads],
            referencelocation=me.observatory("ALMA"),
        )  # fmt: skip
        for number, window in enumerate(windows):
            sm.setspwindow(
                spwname=f"spw{number}", freq=f"{window.freq0}Hz", deltafreq=f"{window.width}Hz",
                freqresolution=f"{window.width}Hz", nchannels=window.nchan, stokes="XX YY", refcode=window.frame,
            )  # fmt: skip
        sm.setfeed("perfect X Y")
        for field in fields:
            ra, dec = field.radec
            sm.setfield(sourcename=field.name, sourcedirection=me.direction("J2000", f"{ra}deg", f"{dec}deg"))
        sm.setauto(0.0)
        sm.settimes(integrationtime="20s", usehourangle=True, referencetime=me.epoch("UTC", "58849.0d"))
        edges = np.linspace(-900.0, 900.0, len(fields) + 1)
        for field, start, stop in zip(fields, edges[:-1], edges[1:], strict=True):
            for number in range(len(windows)):
                sm.observe(field.name, f"spw{number}", starttime=f"{start}s", stoptime=f"{stop}s")
    finally:
        sm.close()
        sm.done()
        me.done()
    rng = np.random.default_rng(seed)
    try:
        for number, window in enumerate(windows):
            for index, field in enumerate(fields):
                tb.open(str(path), nomodify=False)
                rows = tb.query(f"DATA_DESC_ID=={number} && FIELD_ID=={index}")
                _fill(rows, window, field, sources, noise, rng, beam=len(fields) > 1)
                rows.close()
                tb.close()
        tb.open(str(path), nomodify=False)
        # The simulator adds calibration columns that hold nothing.
        tb.removecols([name for name in tb.colnames() if name in ("CORRECTED_DATA", "MODEL_DATA")])
        states = tb.getcol("FIELD_ID")
        tb.putcol("STATE_ID", states if any(field.intent for field in fields) else np.full_like(states, -1))
        tb.close()
        tb.open(str(path / "STATE"), nomodify=False)
        tb.addrows(max(0, len(fields) - tb.nrows()))
        for index, field in enumerate(fields):
            tb.putcell("OBS_MODE", index, field.intent)
    finally:
        tb.close()


def _fill(rows, window: Window, field: Pointing, sources, noise: float, rng, beam: bool) -> None:
    """Put the visibilities of the sources, and noise, into rows of one window and one field."""
    uvw = rows.getcol("UVW")
    freq = window.freq0 + window.width * np.arange(window.nchan)
    data = np.zeros((window.nchan, uvw.shape[1]), complex)
    for source in sources:
        offsets = np.array([source.east - field.east, source.north - field.north])
        east, north = np.sin(np.radians(offsets / 3600.0))
        path_length = east * uvw[0] + north * uvw[1] + (np.sqrt(1.0 - east**2 - north**2) - 1.0) * uvw[2]
        fwhm = 1.13 * C_KMS * 1e3 / window.freq0 / DISH * np.degrees(1.0) * 3600.0
        gain = np.exp(-4.0 * np.log(2.0) * (offsets**2).sum() / fwhm**2) if beam else 1.0
        waves = np.exp(2j * np.pi * freq[:, None] / (C_KMS * 1e3) * path_length)
        data += gain * source.spectrum(window.nchan)[:, None] * waves
    both = np.stack([data, data])
    both = both + noise * (rng.standard_normal(both.shape) + 1j * rng.standard_normal(both.shape))
    rows.putcol("DATA", both)
    rows.putcol("FLAG", np.zeros(both.shape, bool))
    rows.putcol("FLAG_ROW", np.zeros(both.shape[-1], bool))


@contextmanager
def changed(path: Path, subtable: str = ""):
    """The table tool on a measurement set's main table, or a subtable, for writing."""
    from casatools import table

    tb = table()
    try:
        tb.open(str(path / subtable), nomodify=False)
        yield tb
    finally:
        tb.close()


CALIBRATOR = Pointing("cal", 3600.0, 0.0, "CALIBRATE_PHASE#ON_SOURCE,CALIBRATE_WVR#ON_SOURCE")
MOSAIC = (Pointing("left"), Pointing("right", -36.0, 10.0))
"""Two pointings that overlap: the primary beam is 58 arcsec wide."""


@pytest.fixture(scope="session")
def calibrated_ms(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two pointings of a mosaic and a calibrator; a point source of 0.1 Jy in the middle of the right pointing."""
    path = tmp_path_factory.mktemp("calibrated") / "calibrated.ms"
    write_ms(path, fields=(*MOSAIC, CALIBRATOR), sources=(Planted(*right_of_mosaic(), continuum=0.1),))
    return path


ARCHIVE = {
    "targets": 2, "mosaic": 3, "windows": 2, "channels": 24, "sources": 3, "snr": 2.0, "faint": False, "antennas": 12,
    "integrations": 2, "seed": 5,
}  # fmt: skip
"""The `sim.archive.Recipe` of the fixture `archive`; the package's own tests run where no simulator can."""


def right_of_mosaic() -> tuple[float, float]:
    """Offsets east and north [arcsec] of the right pointing's centre."""
    return MOSAIC[1].east, MOSAIC[1].north


@pytest.fixture(scope="session")
def two_windows_ms(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two windows of 8 channels, 2 GHz apart."""
    path = tmp_path_factory.mktemp("windows") / "windows.ms"
    write_ms(path, windows=(Window(), Window(freq0=FREQ0 + 2e9)))
    return path


@pytest.fixture(scope="session")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as `python -m sim archive` writes it: two executions of a mosaic of 3 and of a single pointing.

    Two windows of 24 channels, sources of SNR 24 and more, the truth in ``truth/<target>``. Do not write to it.
    """
    from sim.archive import Recipe, write_archive

    out = tmp_path_factory.mktemp("archive") / "set"
    write_archive(out, Recipe(**ARCHIVE))
    return out


@pytest.fixture(scope="session")
def tiny_ms(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The measurement set of TRUTH; read it, do not write to it."""
    path = tmp_path_factory.mktemp("tiny") / "tiny.ms"
    write_ms(path)
    return path


@pytest.fixture(scope="session")
def tiny_images(tiny_ms: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Prefix of tclean's dirty images of the tiny measurement set: 64 x 48 x 8, cell 0.5 arcsec."""
    from casatasks import tclean

    prefix = tmp_path_factory.mktemp("images") / "tiny"
    tclean(
        vis=str(tiny_ms), imagename=str(prefix), datacolumn="data", specmode="cube", imsize=[64, 48], cell="0.5arcsec",
        outframe="LSRK", weighting="natural", niter=0, restoration=True, calcpsf=True, calcres=True, pblimit=0.1,
    )  # fmt: skip
    return prefix


@pytest.fixture
def tiny_copy(tiny_images: Path, tmp_path: Path) -> Path:
    """A copy of the tiny images that a test may change."""
    for suffix in ("image", "psf", "pb"):
        shutil.copytree(f"{tiny_images}.{suffix}", tmp_path / f"tiny.{suffix}")
    return tmp_path / "tiny"


def make_result(cube: Cube) -> Result:
    """A hand-made result on a cube: line and continuum, line only, continuum only; fluxes corrected for the pb."""
    from astropy.table import Table

    nchan = cube.nchan
    kms = cube.chan_width_kms(float(np.median(cube.freq)))
    rows = []
    for number, source in enumerate(TRUTH):
        ra, dec = source.radec
        x, y = (float(v) for v in cube.wcs.wcs_world2pix([[ra, dec]], 0)[0])
        row = {name: np.nan for name, kind, _, _ in COLUMNS if kind == "float"}
        row |= {
            "name": f"S{number + 1}", "ra": ra, "dec": dec, "x": x, "y": y, "fwhm_maj": [1.5, 0.3, 2.0][number],
            "fwhm_min": [1.0, 0.2, 0.0][number], "pa": [30.0, 0.0, 60.0][number], "pb": 0.9, "reliability": 0.99,
            "group": number, "flags": ["", "unresolved", ""][number], "profile": "gaussian",
            "snr": 100.0 / (number + 1), "line_flux": 0.0, "line_flux_jyhz": 0.0,
            "x0": round(x) - 3, "y0": round(y) - 3, "x1": round(x) + 3, "y1": round(y) + 3,
            "chan0": 0, "chan1": nchan - 1,
        }  # fmt: skip
        if source.line:
            width = source.width * kms
            row |= {
                "chan": source.chan, "freq": cube.chan_to_freq(source.chan), "line_fwhm": width, "line_fwhm_err": 1.0,
                "line_flux": source.line * width * 1.0645, "line_flux_err": 0.01, "peak": source.line,
                "line_flux_jyhz": source.line * source.width * abs(cube.chan_width) * 1.0645,
                "chan0": int(source.chan) - 2, "chan1": int(source.chan) + 2,
            }  # fmt: skip
        if source.continuum:
            row |= {"continuum": source.continuum, "continuum_err": 2e-4, "continuum_slope": 0.0}
        rows.append(row)
    table = Table(rows=rows, names=[name for name, *_ in COLUMNS])
    table.meta.update(frame=cube.frame, radesys="FK5", nchan=nchan, restfreq=cube.restfreq, noise=1.5e-4)
    mask = np.zeros(cube.data.shape, dtype=bool)
    details = []
    for row, source in zip(table, TRUTH, strict=True):
        mask[row["chan0"] : row["chan1"] + 1, row["y0"] : row["y1"] + 1, row["x0"] : row["x1"] + 1] = True
        x, y = round(row["x"]), round(row["y"])
        spectrum = source.spectrum(nchan).astype(np.float32)
        details.append(
            SourceDetail(
                name=str(row["name"]),
                focused=cube.data[3, y - 8 : y + 8, x - 8 : x + 8],
                focused_origin=(x - 8, y - 8),
                spectrum=spectrum + np.float32(1e-3) * np.cos(np.arange(nchan, dtype=np.float32)),
                model=spectrum,
                clean=(spectrum - source.continuum) / max(source.line, 1e-9),
                chan0=row["chan0"],
                chan1=row["chan1"],
            )  # fmt: skip
        )
    noise = np.full(nchan, 1.5e-4)
    return Result(
        catalogue=table,
        probability=mask.any(axis=0).astype(np.float32),
        mask=mask,
        integrated=(np.nansum(cube.data, axis=0) / (1.5e-4 * np.sqrt(nchan))).astype(np.float32),
        noise=noise,
        details=details,
        timings={"noise": 0.1},
        counts={"blobs": 4, "sources": len(table)},
    )


def with_lines(result: Result, cube: Cube) -> Result:
    """The same result with the fitted components of its lines, which their moments are made of."""
    parts = []
    for row, source in zip(result.catalogue, TRUTH, strict=True):
        if source.line:
            size = (row["fwhm_maj"] / cube.cell / FWHM_PER_SIGMA) ** 2
            covariance = np.array([size, size, 0.0])
            parts.append(
                Component(row["x"], row["y"], covariance, amp=source.line, chan=source.chan, fwhm=source.width)
            )
    return replace(result, components=parts)


def without_sources(result: Result) -> Result:
    """The same result with nothing found."""
    return replace(
        result, catalogue=result.catalogue[:0], components=[], mask=np.zeros_like(result.mask), details=[],
        counts={"sources": 0}, probability=np.zeros_like(result.probability),
    )  # fmt: skip
