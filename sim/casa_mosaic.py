"""Mosaics: measurement sets of several pointings by CASA.

Every pointing has snapshots of its own, so that their uv coverages differ as those of real mosaics do.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sim import arrays
from sim.casa_backend import casa_tool, inject_ms
from sim.casa_cube import EPOCH
from sim.skyfile import SkySource


@dataclass(frozen=True)
class MosaicPlan:
    """An observation of a mosaic.

    Attributes
    ----------
    offsets : tuple of (east, north) [arcsec], of the pointings from the centre
    array : str, a configuration of casadata, or several joined by ``+``, observed as one array
    ra, dec : float [deg], ICRS, of the centre
    freq0, chan_width : float [Hz], first channel and width
    nchan : int
    cycles : int, how often all pointings are visited in turn
    visits : tuple of int, integrations of each pointing in a visit; a single one counts for all
    integration : float [s]
    hour_angle : float [hours], of the middle
    gap : float [s], between two cycles
    """

    offsets: tuple[tuple[float, float], ...]
    array: str = "alma.cycle9.3"
    ra: float = 60.0
    dec: float = -35.0
    freq0: float = 230.0e9
    chan_width: float = 10.0e6
    nchan: int = 1
    cycles: int = 1
    visits: tuple[int, ...] = (1,)
    integration: float = 10.0
    hour_angle: float = 0.0
    gap: float = 0.0

    def freq(self) -> NDArray[np.float64]:
        """(nchan,) channel centres [Hz]."""
        return self.freq0 + self.chan_width * np.arange(self.nchan)

    def place(self, east: float, north: float) -> tuple[float, float]:
        """Right ascension and declination [deg] of an offset [arcsec] from the centre, SIN projection."""
        x, y = np.deg2rad(np.array([east, north]) / 3600.0)
        z, dec0 = np.sqrt(1.0 - x * x - y * y), np.deg2rad(self.dec)
        dec = np.arcsin(y * np.cos(dec0) + z * np.sin(dec0))
        ra = np.deg2rad(self.ra) + np.arctan2(x, z * np.cos(dec0) - y * np.sin(dec0))
        return float(np.rad2deg(ra)), float(np.rad2deg(dec))

    def number(self, pointing: int) -> int:
        """Integrations of a pointing in a visit."""
        return self.visits[pointing % len(self.visits)]


def observe_mosaic(
    plan: MosaicPlan, sources: Sequence[SkySource], vis: Path, *, noise: float = 0.0, seed: int = 1
) -> None:
    """Simulate a measurement set of a mosaic, inside `casa_backend.casa_folder`.

    Parameters
    ----------
    plan : MosaicPlan
    sources : sequence of SkySource
    vis : Path, of the new measurement set; its folder exists
    noise : float [Jy], of the real and imaginary part of one correlation of one visibility of two 12 m dishes; those of
        smaller ones have more, as their areas have less
    seed : int, of the noise
    """
    empty = vis.with_name(vis.name + ".empty")
    _make(plan, empty)
    inject_ms(empty, sources, vis)
    _weigh(vis, noise, np.random.default_rng(seed))


def _make(plan: MosaicPlan, vis: Path) -> None:
    """A measurement set without a sky."""
    from casatasks.private.simutil import simutil

    columns: list[list[Any]] = [[] for _ in range(6)]
    telescope, site = "", None
    for name in plan.array.split("+"):
        *parts, telescope, site = simutil().readantenna(str(arrays.simmos_folder() / f"{name}.cfg"))
        for column, part in zip(columns, parts, strict=True):
            column += list(part)
    x, y, z, diameters, pads, names = columns
    with casa_tool("simulator") as sm, casa_tool("measures") as me:
        sm.open(str(vis))
        sm.setconfig(
            telescopename="ALMA" if telescope == "ACA" else telescope, x=x, y=y, z=z, dishdiameter=diameters,
            mount=["alt-az"], antname=names, padname=pads, coordsystem="global", referencelocation=site,
        )  # fmt: skip
        sm.setspwindow(
            spwname="spw0", freq=f"{plan.freq0!r}Hz", deltafreq=f"{plan.chan_width!r}Hz",
            freqresolution=f"{abs(plan.chan_width)!r}Hz", nchannels=plan.nchan, refcode="LSRK", stokes="XX YY",
        )  # fmt: skip
        sm.setfeed("perfect X Y")
        for number, offset in enumerate(plan.offsets):
            ra, dec = plan.place(*offset)
            sm.setfield(sourcename=f"p{number}", sourcedirection=me.direction("ICRS", f"{ra!r}deg", f"{dec!r}deg"))
        sm.setauto(0.0)
        sm.setlimits(shadowlimit=0.001, elevationlimit="8deg")
        sm.settimes(
            integrationtime=f"{plan.integration!r}s", usehourangle=True, referencetime=me.epoch("UTC", EPOCH)
        )
        lengths = [plan.integration * plan.number(number) for number in range(len(plan.offsets))]
        whole = plan.cycles * sum(lengths) + (plan.cycles - 1) * plan.gap
        start = 3600.0 * plan.hour_angle - 0.5 * whole
        for _ in range(plan.cycles):
            for number, length in enumerate(lengths):
                sm.observe(f"p{number}", "spw0", starttime=f"{start!r}s", stoptime=f"{start + length!r}s")
                start += length
            start += plan.gap


def _weigh(vis: Path, noise: float, rng: np.random.Generator) -> None:
    """Weights by the areas of the dishes, and noise that agrees with them."""
    with casa_tool("table", vis / "ANTENNA") as table:
        diameters = np.asarray(table.getcol("DISH_DIAMETER"))
    with casa_tool("table", vis, nomodify=False) as table:
        table.removecols([name for name in table.colnames() if name in ("CORRECTED_DATA", "MODEL_DATA")])
        area = (diameters[table.getcol("ANTENNA1")] * diameters[table.getcol("ANTENNA2")]) / 144.0
        weight = np.tile(area**2, (2, 1))
        table.putcol("WEIGHT", weight)
        table.putcol("SIGMA", 1.0 / np.sqrt(weight))
        if noise:
            data = table.getcol("DATA")
            white = rng.standard_normal((2, *data.shape)) * noise / area
            table.putcol("DATA", data + white[0] + 1j * white[1])
