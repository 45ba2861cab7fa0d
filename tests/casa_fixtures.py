"""A tiny ALMA measurement set with a planted truth, and image cubes made from it, shared by the CASA tests."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

C_KMS = 299792.458
RA, DEC = 150.0, -20.0
FREQ0, CHAN_WIDTH, NCHAN = 100e9, 4e6, 8
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


def write_ms(path: Path, sources: tuple[Planted, ...] = TRUTH, noise: float = NOISE, seed: int = 7) -> None:
    """Write a small ALMA measurement set: 12 antennas of configuration 9.2, 8 channels at 100 GHz, 5 minutes."""
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
        sm.setspwindow(
            spwname="spw0", freq=f"{FREQ0}Hz", deltafreq=f"{CHAN_WIDTH}Hz", freqresolution=f"{CHAN_WIDTH}Hz",
            nchannels=NCHAN, stokes="XX YY", refcode="LSRK",
        )  # fmt: skip
        sm.setfeed("perfect X Y")
        sm.setfield(sourcename="tiny", sourcedirection=me.direction("J2000", f"{RA}deg", f"{DEC}deg"))
        sm.setauto(0.0)
        sm.settimes(integrationtime="20s", usehourangle=True, referencetime=me.epoch("UTC", "58849.0d"))
        sm.observe("tiny", "spw0", starttime="-900s", stoptime="900s")
    finally:
        sm.close()
        sm.done()
        me.done()
    try:
        tb.open(str(path), nomodify=False)
        uvw = tb.getcol("UVW")
        freq = FREQ0 + CHAN_WIDTH * np.arange(NCHAN)
        data = np.zeros((NCHAN, uvw.shape[1]), complex)
        for source in sources:
            l, m = np.sin(np.radians([source.east / 3600.0, source.north / 3600.0]))
            path_length = l * uvw[0] + m * uvw[1] + (np.sqrt(1.0 - l * l - m * m) - 1.0) * uvw[2]
            data += source.spectrum()[:, None] * np.exp(2j * np.pi * freq[:, None] / (C_KMS * 1e3) * path_length)
        rng = np.random.default_rng(seed)
        both = np.stack([data, data])
        both = both + noise * (rng.standard_normal(both.shape) + 1j * rng.standard_normal(both.shape))
        tb.putcol("DATA", both)
        tb.putcol("FLAG", np.zeros(both.shape, bool))
        tb.putcol("FLAG_ROW", np.zeros(both.shape[-1], bool))
    finally:
        tb.close()


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
