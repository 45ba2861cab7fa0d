"""What the antennas of an archive's data set look at: spectral windows, targets with their pointings, sources.

Everything is drawn from a seed; fluxes follow later, once the observation tells what is bright
(`archive.write_archive`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from astropy import units as u
from astropy.coordinates import SkyCoord
from numpy.typing import NDArray

from casa_deepfocus.core.cube import C_KMS
from casa_deepfocus.core.geometry import GAUSSIAN_LINE
from casa_deepfocus.errors import DataError
from sim.arrays import C_MS
from sim.beams import airy
from sim.coverage import ARCSEC
from sim.skyfile import SkyLine, SkySource

DISH = 12.0
"""Diameter of the antennas [m]."""

BEAM_WIDTH = 1.13
"""FWHM of the primary beam of a 12 m antenna [wavelength / diameter] (ALMA Technical Handbook, section 3.2)."""

SPACING = 0.5
"""Distance of a mosaic's pointings [FWHM of the primary beam], about Nyquist's."""

FAINTEST_BEAM = 0.4
"""Response of the nearest pointing, in every window, at any source; tclean's images end at 0.2."""

APART = 3.0
"""Least distance of two sources [beams]: blends are no matter of archives."""

CONTINUUM_SNR, LINE_SNR, FAINT_SNR = (20.0, 60.0), (12.0, 40.0), (4.0, 5.5)
"""Ranges of matched-filter SNRs, log-uniform: continuum of all windows, line, sources too faint to be asked for."""

LINE_CHANNELS = (4.0, 7.0)
"""Range of a line's FWHM [channels of its window]: resolved, as CASA samples it at the channels' centres."""

NAMES = ("Ridge_1", "HD 1002", "Cloud-3B+7")
"""Names of the first targets, with the characters that archives have in them."""


@dataclass(frozen=True)
class Window:
    """A spectral window.

    Attributes
    ----------
    name : str, as ALMA's without the leading number of the execution
    freq : float [Hz, LSRK], of its middle
    width : float [Hz], of a channel; negative where frequencies fall
    nchan : int
    edge : int, channels that are flagged at each end
    source : int or None, index of the window of which this one is the channel average
    """

    name: str
    freq: float
    width: float
    nchan: int
    edge: int = 0
    source: int | None = None

    @property
    def low(self) -> float:
        """Lower edge of the channels that are not flagged [Hz, LSRK]."""
        return self.freq - abs(self.width) * (0.5 * self.nchan - self.edge)

    @property
    def high(self) -> float:
        """Upper edge of the channels that are not flagged [Hz, LSRK]."""
        return 2.0 * self.freq - self.low


@dataclass(frozen=True)
class Target:
    """Something the telescope looks at.

    Attributes
    ----------
    name : str
    ra, dec : float [deg, ICRS], of its middle
    pointings : (n, 2) float [deg, ICRS], phase centres
    sources : tuple of SkySource
    snrs : tuple of (continuum, line) matched-filter SNRs that the sources shall have; NaN for what they lack
    intent : str, of its scans
    rate : (east, north) [arcsec/h] at which it moves, its sources with it
    """

    name: str
    ra: float
    dec: float
    pointings: NDArray[np.float64]
    sources: tuple[SkySource, ...]
    snrs: tuple[tuple[float, float], ...] = ()
    intent: str = "OBSERVE_TARGET#ON_SOURCE"
    rate: tuple[float, float] = (0.0, 0.0)


BASEBANDS = (
    (217.0e9, 15.625e6, 128, True),
    (219.4e9, -3.90625e6, 96, False),
    (230.5e9, 1.953125e6, 64, False),
    (232.9e9, 7.8125e6, 64, False),
)
"""Middle [Hz], channel width [Hz], channels, and whether the correlator works in time division (flagged edges)."""

FURTHER = ((218.1e9, 0.3e9), (219.4e9, 0.45e9), (230.5e9, 0.3e9), (232.9e9, 0.55e9))
"""Middle [Hz] of the further windows of a baseband: so much, and so much more for each of them; none overlap."""

MOST_WINDOWS = 16

SINGLE = (236.5e9, 1.875e9)
"""Middle and width [Hz] of a window of a single channel."""


def science_windows(number: int, channels: int = 128, single: bool = False) -> list[Window]:
    """The first `number` windows: one a baseband in turn, of different widths; frequencies fall in the second.

    Parameters
    ----------
    number : int
    channels : int, the most that a window may have
    single : bool, whether one of a single channel, 1.875 GHz wide, is added
    """
    found = []
    for index in range(number):
        baseband, turn = index % len(BASEBANDS), index // len(BASEBANDS)
        freq, width, nchan, division = BASEBANDS[baseband]
        nchan = min(nchan, channels)
        # A pipeline flags a 32nd of a time-division window at each end.
        edge = max(1, nchan // 32) if division and not turn else 0
        if turn:
            start, step = FURTHER[baseband]
            freq, width = start + step * turn, width / 16.0 if division else width
        found.append(Window(_spw_name(baseband, turn), freq, width, nchan, edge))
    if single:
        found.append(Window(_spw_name(3, MOST_WINDOWS // len(BASEBANDS)), *SINGLE, 1))
    return found


def _spw_name(baseband: int, turn: int) -> str:
    return f"ALMA_RB_06#BB_{baseband + 1}#SW-{turn + 1:02d}#FULL_RES"


def mosaic_offsets(number: int, spacing: float) -> NDArray[np.float64]:
    """(number, 2) offsets of pointings on a hexagonal grid about their middle, in the unit of `spacing`."""
    rings = np.arange(-number, number + 1)
    i, j = (axis.ravel() for axis in np.meshgrid(rings, rings))
    grid = np.stack([i + 0.5 * j, np.sqrt(0.75) * j], axis=1)
    angle = np.round(np.arctan2(grid[:, 1], grid[:, 0]) % (2.0 * np.pi), 6)
    order = np.lexsort([angle, np.round(np.hypot(*grid.T), 6)])
    chosen = grid[order[:number]]
    return spacing * (chosen - chosen.mean(axis=0))


def on_sky(ra: float, dec: float, offsets: NDArray) -> NDArray[np.float64]:
    """(n, 2) places [deg, ICRS] at offsets (n, 2) east and north [arcsec]."""
    there = SkyCoord(ra * u.deg, dec * u.deg).spherical_offsets_by(offsets[:, 0] * u.arcsec, offsets[:, 1] * u.arcsec)
    return np.stack([there.ra.deg, there.dec.deg], axis=1)


def draw_target(
    index: int, pointings: int, sources: int, windows: Sequence[Window], beam: float, rng: np.random.Generator,
    *, snr: float = 1.0, faint: bool = True,
) -> Target:  # fmt: skip
    """Draw a target and its sources, all of them 1 Jy.

    Parameters
    ----------
    index : int, of the target
    pointings : int
    sources : int
    windows : sequence of Window; lines are in those of several channels, in turn
    beam : float [arcsec]
    rng : numpy Generator
    snr : float, by which the SNRs of all but the faint one are multiplied
    faint : bool, whether there is one more source, too faint to be asked for

    Raises
    ------
    DataError
        When so many sources do not fit.
    """
    ra, dec = 150.0 + 0.6 * index + rng.uniform(-0.1, 0.1), -28.0 + rng.uniform(-2.0, 2.0)
    spacing = SPACING * BEAM_WIDTH * C_MS / max(window.freq for window in windows) / DISH / ARCSEC
    centres = mosaic_offsets(pointings, spacing)
    places = _places(centres, sources + faint, windows, beam, rng)
    lined = [number for number, window in enumerate(windows) if window.nchan > 1]
    reference = reference_frequency(windows)
    drawn, snrs = [], []
    turn = index
    for number, (source_ra, source_dec) in enumerate(on_sky(ra, dec, places)):
        weak = number == sources
        # In turn: continuum and line, line only, continuum only, two lines in two windows.
        kind = 1 + index % 2 if weak else number % 4
        count = min((1, 1, 0, 2)[kind], len(lined))
        lines = tuple(_line(windows[lined[(turn + step) % len(lined)]], rng) for step in range(count))
        turn += count
        size = beam * rng.uniform(0.3, 0.9) if number % 2 else 0.0
        drawn.append(
            SkySource(
                float(source_ra), float(source_dec), size, size * rng.uniform(0.5, 1.0), rng.uniform(0.0, 180.0),
                continuum=float(kind in (0, 2)), alpha=rng.uniform(0.0, 3.5),
                freq0=reference, lines=lines,
            )  # fmt: skip
        )
        ranges = (FAINT_SNR, FAINT_SNR) if weak else (CONTINUUM_SNR, LINE_SNR)
        wanted = [float(np.exp(rng.uniform(*np.log(limits)))) * (1.0 if weak else snr) for limits in ranges]
        snrs.append((wanted[0] if drawn[-1].continuum else np.nan, wanted[1] if lines else np.nan))
    name = NAMES[index] if index < len(NAMES) else f"Target_{index + 1}"
    return Target(name, ra, dec, on_sky(ra, dec, centres), tuple(drawn), tuple(snrs))


def reference_frequency(windows: Sequence[Window]) -> float:
    """The frequency [Hz, LSRK] at which continua are given: the middle of all windows."""
    return 0.5 * (min(window.low for window in windows) + max(window.high for window in windows))


def line_flux(line: SkyLine) -> float:
    """Integral [Jy km/s] of a line."""
    return line.peak * line.fwhm * GAUSSIAN_LINE


def _line(window: Window, rng: np.random.Generator) -> SkyLine:
    band = window.high - window.low
    freq = window.low + band * rng.uniform(0.25, 0.75)
    width = min(abs(window.width) * rng.uniform(*LINE_CHANNELS), 0.2 * band)
    return SkyLine(float(freq), float(width / freq * C_KMS), 1.0)


def _places(
    centres: NDArray, number: int, windows: Sequence[Window], beam: float, rng: np.random.Generator
) -> NDArray[np.float64]:
    """(number, 2) offsets [arcsec] of sources inside the primary beams of `centres`, apart from each other."""
    freq = max(window.freq for window in windows)
    reach = BEAM_WIDTH * C_MS / freq / DISH / ARCSEC
    found: list[NDArray] = []
    for _ in range(10000):
        trial = rng.uniform(centres.min(axis=0) - reach, centres.max(axis=0) + reach)
        nearest = np.hypot(*(trial - centres).T).min() * ARCSEC
        if airy(nearest, freq, DISH) < FAINTEST_BEAM:
            continue
        if all(np.hypot(*(trial - other)) > APART * beam for other in found):
            found.append(trial)
        if len(found) == number:
            return np.array(found)
    raise DataError(f"{number} sources {APART:g} beams apart do not fit into a target; ask for fewer")


def calibrators(targets: Sequence[Target], rng: np.random.Generator) -> list[Target]:
    """A bandpass and a phase calibrator, points at the phase centre, near the targets."""
    ra, dec = targets[0].ra, targets[0].dec
    found = []
    for intents, away, flux in (
        ("CALIBRATE_BANDPASS#ON_SOURCE,CALIBRATE_FLUX#ON_SOURCE,CALIBRATE_WVR#ON_SOURCE", 9.0, 2.0),
        ("CALIBRATE_PHASE#ON_SOURCE,CALIBRATE_WVR#ON_SOURCE", 2.0, 0.5),
    ):
        place = SkyCoord((ra - away + rng.uniform(-0.5, 0.5)) * u.deg, (dec + rng.uniform(-1.0, 1.0)) * u.deg)
        name = "J{}{}".format(*place.to_string("hmsdms", sep="", precision=0).replace(" ", "|").split("|"))
        name = f"J{name[1:5]}{name[7:12]}"
        source = SkySource(float(place.ra.deg), float(place.dec.deg), continuum=flux, alpha=-0.7, freq0=225e9)
        centre = np.array([[source.ra, source.dec]])
        found.append(Target(name, source.ra, source.dec, centre, (source,), intent=intents))
    return found


def with_fluxes(target: Target, continuum: Sequence[float], lines: Sequence[Sequence[float]]) -> Target:
    """The same target whose sources have these continua [Jy] and heights of lines [Jy]."""
    sources = tuple(
        replace(
            source,
            continuum=source.continuum * value,
            lines=tuple(replace(line, peak=height) for line, height in zip(source.lines, heights, strict=True)),
        )
        for source, value, heights in zip(target.sources, continuum, lines, strict=True)
    )
    return replace(target, sources=sources)
