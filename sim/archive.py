"""Sets of measurement sets as the ALMA archive delivers them: targets, windows, mosaics, executions, planted truth.

Every target has its truth in ``truth/<target>``: ``sources.ecsv`` and ``lines.ecsv``, columns as in
docs/architecture.md where they fit.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from astropy.table import Table
from numpy.typing import NDArray

from casa_deepfocus.core.geometry import FWHM_PER_SIGMA
from casa_deepfocus.errors import ParameterError, ProductError
from sim import almatables
from sim.archivesky import (
    MOST_WINDOWS,
    Target,
    Window,
    calibrators,
    draw_target,
    reference_frequency,
    science_windows,
    with_fluxes,
)
from sim.archivetruth import truth_tables, window_of
from sim.archivevis import energies, write_data
from sim.arrays import C_MS
from sim.casa_backend import casa_folder, read_uvw
from sim.coverage import ARCSEC
from sim.ephemeris import attach, first_time, moved
from sim.execution import Execution, Scan, first_seen, make_rows, scheduled
from sim.skyfile import SkySource

BEAM_OVER_LONGEST = 1.0
"""Beam that sources are placed with [wavelength / longest baseline]; what it is follows from the observation."""

HOUR_ANGLES = 1.5
"""Executions are spread evenly between minus and plus this hour angle."""

CALIBRATORS = 2
"""Targets of an execution before the science targets."""

Energies = dict[tuple[int, int], NDArray[np.float64]]
"""Squared SNRs of the variants of a target's sources, by target and window."""

RATE = (12.0, -5.0)
"""How fast a moving target moves to the east and north [arcsec/h]: about a beam in an execution."""

VISITS = 2
"""Times that an execution looks at each target."""


@dataclass(frozen=True)
class Recipe:
    """What an archive's data set holds.

    Attributes
    ----------
    targets : int; mosaics : int, how many of them, the first ones, have `mosaic` pointings
    windows : int, spectral windows; channels : int, the most that one may have
    executions : int, one measurement set each
    sources : int, of a target; a mosaic has a third of its pointings more
    snr : float, by which their SNRs are multiplied; faint : bool, one more source, too faint to be asked for
    antennas : int, of configuration `array`
    integrations : int, of a pointing at each of two visits, half as many in a mosaic; integration : float [s]
    seed : int
    corrected : bool, CORRECTED_DATA is the calibrated column, DATA the raw one; else DATA is the calibrated one
    single : bool, a window of a single channel too
    averages : bool, a channel-averaged copy of every window; wvr : bool, a water-vapour radiometer window
    moving : bool, the last target moves, a single pointing with an ephemeris
    missing, flagged : sequence of (target, window), from 1: without data; all flagged. Target 0 stands for all
    """

    targets: int = 3
    mosaics: int = 1
    mosaic: int = 7
    windows: int = 4
    channels: int = 128
    executions: int = 2
    sources: int = 4
    snr: float = 1.0
    faint: bool = True
    antennas: int = 16
    array: str = "alma.cycle9.1"
    integrations: int = 4
    integration: float = 30.0
    seed: int = 1
    corrected: bool = False
    single: bool = False
    averages: bool = False
    wvr: bool = False
    moving: bool = False
    missing: Sequence[tuple[int, int]] = ()
    flagged: Sequence[tuple[int, int]] = ()

    def __post_init__(self) -> None:
        least = {
            "targets": 1, "mosaics": 0, "mosaic": 1, "windows": 1, "channels": 16, "executions": 1, "sources": 1,
            "integrations": 1, "integration": 1, "seed": 0,
        }  # fmt: skip
        for name, value in least.items():
            if getattr(self, name) < value:
                raise ParameterError(name, getattr(self, name), "too small", f"give {value} or more")
        if self.windows > MOST_WINDOWS:
            raise ParameterError("windows", self.windows, "too many", f"give {MOST_WINDOWS} or fewer")
        if not self.snr > 0:
            raise ParameterError("snr", self.snr, "not positive")
        if self.mosaics > self.targets:
            raise ParameterError("mosaics", self.mosaics, f"more than the {self.targets} targets")
        if self.moving and self.mosaics == self.targets:
            raise ParameterError("moving", self.moving, "the last target is a mosaic", "give fewer mosaics")
        for name in ("missing", "flagged"):
            for target, window in getattr(self, name):
                if not (0 <= target <= self.targets and 1 <= window <= self.windows + self.single):
                    raise ParameterError(
                        name, f"{target}:{window}", "no target and window of this set",
                        f"targets are 1 to {self.targets} (0 for all), windows 1 to {self.windows + self.single}",
                    )  # fmt: skip


def write_archive(out: Path, recipe: Recipe) -> dict[str, tuple[Table, Table]]:
    """Write one measurement set for every execution, and the truth of every target.

    Parameters
    ----------
    out : Path, a new folder
    recipe : Recipe

    Returns
    -------
    dict of a target's name to its tables of sources and of lines

    Raises
    ------
    ProductError
        When `out` exists.
    DataError
        When the sources do not fit into a target, or the array has fewer antennas.
    """
    out = Path(out).resolve()
    if out.exists():
        raise ProductError(f"{out} exists; remove it or choose another folder")
    out.parent.mkdir(parents=True, exist_ok=True)
    # Beside the product, so that it appears whole or not at all.
    with casa_folder(out.parent) as scratch:
        folder = scratch / out.name
        folder.mkdir()
        windows = science_windows(recipe.windows, recipe.channels, recipe.single)
        targets = _draw(recipe, windows)
        executions = [scheduled(block) for block in _executions(recipe, targets, windows)]
        blocks = [_placed(block, executions[0], targets) for block in executions]
        paths = [folder / f"uid___A002_X{recipe.seed:x}_X{block.number + 1:x}.ms" for block in executions]
        for path, block in zip(paths, blocks, strict=True):
            almatables.fill(path, block, make_rows(path, block))
        seen = [energies(path, block, _variants(block)) for path, block in zip(paths, blocks, strict=True)]
        windowed = {where: number for number, where in enumerate(_layout(windows, recipe.averages)[1])}
        total: Energies = {}
        for (target, window), energy in (item for part in seen for item in part.items()):
            key = (target - CALIBRATORS, windowed[window])
            total[key] = total.get(key, 0.0) + energy
        targets = [_scaled(number, target, windows, total) for number, target in enumerate(targets)]
        for path, block in zip(paths, executions, strict=True):
            write_data(path, _placed(block, executions[0], targets))
            for number, target in enumerate(targets, start=CALIBRATORS):
                if any(target.rate):
                    attach(path, block, number, target, first_time(paths[0], executions[0], number))
        beam = _beam(paths, reference_frequency(windows))
        tables = {}
        for number, target in enumerate(targets):
            place = folder / "truth" / folder_name(target.name)
            place.mkdir(parents=True)
            tables[target.name] = truth_tables(target, windows, _snrs(number, target, windows, total), beam)
            for kind, table in zip(("sources", "lines"), tables[target.name], strict=True):
                table.write(place / f"{kind}.ecsv", format="ascii.ecsv")
        folder.rename(out)
    return tables


def folder_name(target: str) -> str:
    """A target's name as that of a folder: letters, digits and ``._+-`` stay, all else becomes ``_``."""
    return re.sub(r"[^A-Za-z0-9._+-]", "_", target)


def _draw(recipe: Recipe, windows: Sequence[Window]) -> list[Target]:
    """The science targets; their sources have 1 Jy."""
    from sim.arrays import baselines, read_array

    array = read_array(recipe.array)
    longest = np.hypot(*baselines(array)[:, :2].T).max()
    beam = BEAM_OVER_LONGEST * C_MS / reference_frequency(windows) / longest / ARCSEC
    found = []
    for number in range(recipe.targets):
        pointings = recipe.mosaic if number < recipe.mosaics else 1
        more = pointings // 3
        rng = np.random.default_rng([recipe.seed, 1, number])
        target = draw_target(
            number, pointings, recipe.sources + more, windows, beam, rng, snr=recipe.snr, faint=recipe.faint
        )
        moves = recipe.moving and number == recipe.targets - 1
        found.append(replace(target, rate=RATE) if moves else target)
    return found


def _executions(recipe: Recipe, targets: Sequence[Target], windows: Sequence[Window]) -> list[Execution]:
    """The executions: bandpass calibrator, then the targets between visits of the phase calibrator."""
    calibrating = calibrators(targets, np.random.default_rng([recipe.seed, 2]))
    every = (*calibrating, *targets)
    scans = [Scan(0, 2)]
    for _ in range(VISITS):
        scans.append(Scan(1, 1))
        for number, target in enumerate(targets, start=len(calibrating)):
            alone = len(target.pointings) == 1
            scans.append(Scan(number, recipe.integrations if alone else max(1, recipe.integrations // 2)))
    scans.append(Scan(1, 1))
    spread = np.linspace(-HOUR_ANGLES, HOUR_ANGLES, recipe.executions) if recipe.executions > 1 else np.zeros(1)
    layout, place = _layout(windows, recipe.averages)
    faults = [
        frozenset(
            (number, place[window - 1])
            for target, window in pairs
            for number in ([target + len(calibrating) - 1] if target else range(len(every)))
        )
        for pairs in (recipe.missing, recipe.flagged)
    ]
    return [
        Execution(
            number, recipe.seed, every, tuple(layout), tuple(scans), recipe.array, recipe.antennas,
            recipe.integration, float(angle), *faults, corrected=recipe.corrected, wvr=recipe.wvr,
        )  # fmt: skip
        for number, angle in enumerate(spread)
    ]


def _placed(block: Execution, first: Execution, targets: Sequence[Target]) -> Execution:
    """An execution with the science targets where they are when it first sees them; in `first` they do not move."""
    there = [
        moved(target, first_seen(block, number) - first_seen(first, number))
        for number, target in enumerate(targets, start=CALIBRATORS)
    ]
    return replace(block, targets=(*block.targets[:CALIBRATORS], *there))


def _layout(windows: Sequence[Window], averages: bool) -> tuple[list[Window], list[int]]:
    """All windows, each with its channel average behind it when asked; and where the given ones are."""
    layout: list[Window] = []
    place = []
    for window in windows:
        place.append(len(layout))
        layout.append(window)
        if averages and window.nchan > 1:
            good = window.nchan - 2 * window.edge
            name = window.name.replace("FULL_RES", "CH_AVG")
            layout.append(Window(name, window.freq, good * window.width, 1, source=place[-1]))
    return layout, place


def _variants(block: Execution) -> list[list[SkySource]]:
    """By target, of every source: its continuum alone, then each of its lines alone, of 1 Jy; of calibrators none."""
    found: list[list[SkySource]] = [[] for _ in block.targets[: block.science]]
    for target in block.targets[block.science :]:
        parts = []
        for source in target.sources:
            parts.append(replace(source, continuum=1.0, lines=()))
            parts += [replace(source, continuum=0.0, lines=(line,)) for line in source.lines]
        found.append(parts)
    return found


def _energy(number: int, target: Target, windows: Sequence[Window], total: Energies) -> NDArray[np.float64]:
    """(nvariant, nwindow) squared SNR of the variants of a target's sources for 1 Jy."""
    count = sum(1 + len(source.lines) for source in target.sources)
    return np.stack([total.get((number, window), np.zeros(count)) for window in range(len(windows))], axis=1)


def _scaled(number: int, target: Target, windows: Sequence[Window], total: Energies) -> Target:
    """A target whose sources have the SNRs that they shall have."""
    energy = _energy(number, target, windows, total)
    continuum, lines, row = [], [], 0
    for source, (wanted, wanted_line) in zip(target.sources, target.snrs, strict=True):
        whole = np.sqrt(energy[row].sum())
        continuum.append(wanted / whole if source.continuum and whole > 0 else 0.0)
        row += 1
        heights = []
        for line in source.lines:
            own = np.sqrt(energy[row, window_of(line.freq, windows)])
            # A line in a window without data is not there.
            heights.append(wanted_line / own if own > 0 else 0.0)
            row += 1
        lines.append(heights)
    return with_fluxes(target, continuum, lines)


def _snrs(
    number: int, target: Target, windows: Sequence[Window], total: Energies
) -> list[NDArray[np.float64]]:
    """Matched-filter SNRs of every source, once it is scaled: (1 + nline, nwindow), the continuum first."""
    energy = _energy(number, target, windows, total)
    found, row = [], 0
    for source in target.sources:
        fluxes = np.array([source.continuum, *(line.peak for line in source.lines)])
        found.append(fluxes[:, None] * np.sqrt(energy[row : row + len(fluxes)]))
        row += len(fluxes)
    return found


def _beam(paths: Sequence[Path], freq: float) -> float:
    """FWHM [arcsec] of the beam, from the curvature of the PSF: the mean square of u and v."""
    uvw = np.concatenate([read_uvw(path) for path in paths])
    uvw = uvw[np.hypot(uvw[:, 0], uvw[:, 1]) > 0]
    moments = np.linalg.eigvalsh(np.cov(uvw[:, :2].T, bias=True)) * (freq / C_MS) ** 2
    sigma = np.prod(moments) ** -0.25 / (2.0 * np.pi)
    return float(FWHM_PER_SIGMA * sigma / ARCSEC)
