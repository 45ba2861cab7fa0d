"""The measurement sets of the corpus, made with CASA's simulator."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np

from benchmarks.faults.case import Expected
from casa_deepfocus.core.geometry import GAUSSIAN_LINE
from sim import casa_backend
from sim.casa_backend import Observation
from sim.sky import Source

PLAIN = Observation(array="alma.cycle9.3", npix=128, nchan=12, duration=600.0, integration=60.0, pwv=0.5)
OTHER = Observation(
    array="alma.cycle9.3", npix=128, nchan=12, duration=600.0, integration=60.0, pwv=0.5, ra=60.2, seed=2
)
ONE = Observation(
    array="alma.cycle9.3", npix=128, nchan=1, duration=600.0, integration=60.0, pwv=0.5, seed=3, chan_width=1e6
)
SOURCES = (
    Source(64.0, 64.0, 3.0, 2.0, 40.0, continuum=0.05, line=0.2, chan=5.0, line_fwhm=3.0),
    Source(40.0, 84.0, 2.5, 2.5, 0.0, continuum=0.04),
)
BEAM = 0.6
"""About the beam [arcsec]."""

IMAGE = {"imsize": 128, "cell": "0.1arcsec", "datacolumn": "data"}
"""Parameters by which the sets are imaged."""


def write_sets(folder: Path) -> None:
    """plain.ms and other.ms (the same sky at another place), one.ms (one channel) and both.ms (plain and other)."""
    from casatasks import concat

    for name, observation in (("plain", PLAIN), ("other", OTHER), ("one", ONE)):
        sources = SOURCES if observation.nchan > 1 else SOURCES[1:]
        casa_backend.observe(list(sources), observation, folder / f"{name}.ms")
    concat(vis=[str(folder / "plain.ms"), str(folder / "other.ms")], concatvis=str(folder / "both.ms"))


def expected(observation: Observation = PLAIN) -> tuple[Expected, ...]:
    """The truth of a set; the pixel n // 2 of the model is the phase centre."""
    from astropy.coordinates import SkyCoord

    from sim.cube import celestial_wcs
    from sim.response import Grid

    grid = Grid(observation.npix, observation.cell, observation.nchan, observation.freq0, observation.chan_width)
    wcs = celestial_wcs(grid, observation.ra, observation.dec, radesys="FK5")
    out = []
    for source in SOURCES if observation.nchan > 1 else SOURCES[1:]:
        ra, dec = wcs.wcs_pix2world([[source.x, source.y]], 0)[0]
        place = SkyCoord(ra, dec, unit="deg", frame="fk5").icrs
        freq = observation.freq0 + observation.chan_width * source.chan if source.line else float("nan")
        width = observation.chan_width / freq * 299792.458 if source.line else 0.0
        out.append(
            Expected(
                ra=place.ra.deg,
                dec=place.dec.deg,
                continuum=source.continuum,
                freq=freq,
                line_flux=source.line * source.line_fwhm * GAUSSIAN_LINE * width if source.line else 0.0,
            )
        )
    return tuple(out)


def copy(shared: Path, folder: Path, name: str = "plain", change: Callable[[object], None] | None = None) -> str:
    """A set of its own for a case, changed by a function of the open table tool."""
    target = folder / f"{name}.ms"
    shutil.copytree(shared / f"{name}.ms", target)
    if change is not None:
        edit(target, change)
    return target.name


def edit(path: Path, change: Callable[[object], None]) -> None:
    """Open a table for writing and hand it to `change`."""
    with casa_backend.casa_tool("table", path, nomodify=False) as tb:
        change(tb)


def flag(share: float, seed: int = 1) -> Callable[[object], None]:
    """Flags that share of the rows."""

    def change(tb: object) -> None:
        flags = tb.getcol("FLAG")
        flags[..., np.random.default_rng(seed).random(flags.shape[-1]) < share] = True
        tb.putcol("FLAG", flags)

    return change


def constant(column: str, value: float) -> Callable[[object], None]:
    """Sets a column to one value."""

    def change(tb: object) -> None:
        tb.putcol(column, np.full_like(tb.getcol(column), value))

    return change


def some_nan(share: float) -> Callable[[object], None]:
    """Makes that share of the visibilities NaN, without flags."""

    def change(tb: object) -> None:
        data = tb.getcol("DATA")
        data[..., np.random.default_rng(2).random(data.shape[-1]) < share] = np.nan
        tb.putcol("DATA", data)

    return change
