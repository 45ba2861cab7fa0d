"""Recipes for random fields: the paper's Table 1, and a first ALMA-like variety."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from casa_deepfocus.core.cube import C_KMS
from casa_deepfocus.core.geometry import FWHM_PER_SIGMA, GAUSSIAN_AREA
from casa_deepfocus.errors import DataError, ParameterError
from sim import arrays
from sim.psflib import MIN_ELEVATION
from sim.response import Coverage, Grid, Response, matched_filter_snr, pb_at, response
from sim.sky import Source


@dataclass(frozen=True)
class Field:
    """One field to simulate; `noise` [Jy/beam] is the rms of every channel."""

    coverage: Coverage
    grid: Grid
    sources: tuple[Source, ...]
    noise: float


SURFACE_UNIT = 1e-4
"""Jy/pixel of one unit of the paper's amplitudes; the noise follows, so its size does not matter."""


def _paper_source(rng: np.random.Generator, x: float, y: float, peak: float = np.inf) -> Source:
    """A source of the paper's Table 1, its emission's peak (continuum and line) no higher than `peak`."""
    amplitude, line = rng.uniform(1.0, 5.0, 2)
    # "lower or equal to that of the central source" (section 3): scale the others down.
    amplitude *= min(1.0, peak / (amplitude * (1.0 + line)))
    minor, major = np.sort(rng.uniform(2.0, 8.0, 2))
    continuum = float(amplitude * SURFACE_UNIT * GAUSSIAN_AREA * major * minor)
    return Source(
        x, y, float(major), float(minor), float(rng.uniform(0.0, 180.0)),
        continuum=continuum, alpha=float(rng.uniform(-2.0, 2.0)), line=float(line * continuum),
        chan=float(rng.uniform(10.0, 110.0)), line_fwhm=float(rng.uniform(3.0, 10.0)),
    )  # fmt: skip


def paper(rng: np.random.Generator) -> Field:
    """The paper's fields (Tables 1 and 2): a central source and 2 to 5 fainter ones, true FWHM 2 to 8 pixels."""
    coverage, grid = Coverage(), Grid()
    middle = grid.npix // 2
    centre = _paper_source(rng, *(middle + rng.uniform(-0.5, 0.5, 2)))
    peak = (centre.continuum + centre.line) / (SURFACE_UNIT * GAUSSIAN_AREA * centre.fwhm_maj * centre.fwhm_min)
    others = [_paper_source(rng, *rng.uniform(100.0, 250.0, 2), peak) for _ in range(rng.integers(2, 6))]
    snr = float(np.exp(rng.uniform(np.log(10.0), np.log(100.0))))
    return Field(coverage, grid, (centre, *others), noise_for(centre, response(coverage, grid), grid, snr))


def noise_for(source: Source, resp: Response, grid: Grid, snr: float) -> float:
    """Noise per channel [Jy/beam] at which a source peaks at `snr` in the image averaged over the band."""
    gain = resp.channels(pb_at(resp.pb, source)) * resp.channels(resp.overlap(source, squared=False))
    return float((gain * source.spectrum(grid.freq())).mean() * np.sqrt(grid.nchan) / snr)


ALMA_ARRAYS = (
    *(f"alma.cycle{cycle}.{config}" for cycle in (7, 8, 9, 10, 11, 12) for config in range(1, 8)),
    *(f"aca.cycle{cycle}" for cycle in (8, 9, 11, 12)),
)
EMPTY_SHARE = 0.1
KINDS = {"both": 0.4, "line": 0.4, "continuum": 0.2}
ALMA_NOISE = 1e-3


def alma(rng: np.random.Generator) -> Field:
    """Varied ALMA fields: arrays, declinations, frequencies; lines and continua alone and together; some empty."""
    coverage, grid = _alma_observation(rng)
    resp = response(coverage, grid)
    sxx, syy, sxy = resp.middle_beam()
    beam = float(FWHM_PER_SIGMA * (sxx * syy - sxy**2) ** 0.25)
    sources = []
    if rng.random() >= EMPTY_SHARE:
        sources = [_alma_source(rng, resp, grid, beam) for _ in range(1 + rng.poisson(2.5))]
    return Field(coverage, grid, tuple(sources), ALMA_NOISE)


def _alma_observation(rng: np.random.Generator) -> tuple[Coverage, Grid]:
    while True:
        name = ALMA_ARRAYS[rng.integers(len(ALMA_ARRAYS))]
        latitude = arrays.read_array(name).latitude
        dec, middle = float(rng.uniform(-70.0, 25.0)), float(rng.uniform(-3.0, 3.0))
        duration = float(np.exp(rng.uniform(np.log(600.0), np.log(7200.0))))
        ends = middle + np.array([-0.5, 0.5]) * duration / 3600.0
        if arrays.elevation(latitude, dec, ends).min() < MIN_ELEVATION:
            continue
        coverage = Coverage(name, dec, middle, duration, duration / 20.0)
        freq0 = float(rng.uniform(90e9, 360e9))
        try:
            cell = coverage.beam_arcsec(freq0) / rng.uniform(4.0, 7.0)
        except DataError:
            continue
        width = freq0 * float(np.exp(rng.uniform(np.log(5.0), np.log(40.0)))) / C_KMS
        return coverage, Grid(2 * int(rng.integers(64, 97)), float(cell), int(rng.integers(48, 129)), freq0, width)


def _alma_source(rng: np.random.Generator, resp: Response, grid: Grid, beam: float) -> Source:
    while True:
        x, y = rng.uniform(0.05 * grid.npix, 0.95 * grid.npix, 2)
        if pb_at(resp.pb, Source(x, y, 0, 0, 0)).min() > 0.25:
            break
    size = rng.uniform(0.0, 1.5) * beam
    kind = list(KINDS)[rng.choice(len(KINDS), p=list(KINDS.values()))]
    width = float(np.exp(rng.uniform(np.log(2.5), np.log(0.25 * grid.nchan))))
    unit = Source(
        float(x), float(y), size, size * rng.uniform(0.4, 1.0), float(rng.uniform(0.0, 180.0)),
        continuum=1.0, alpha=float(rng.uniform(-1.0, 4.0)), line=1.0,
        chan=float(rng.uniform(0.06, 0.94) * grid.nchan), line_fwhm=width,
    )  # fmt: skip
    line, continuum = matched_filter_snr(unit, resp, grid.freq(), ALMA_NOISE)
    targets = np.exp(rng.uniform(np.log(4.0), np.log(100.0), 2))
    return Source(
        unit.x, unit.y, unit.fwhm_maj, unit.fwhm_min, unit.pa,
        continuum=0.0 if kind == "line" else float(targets[1] / continuum), alpha=unit.alpha,
        line=0.0 if kind == "continuum" else float(targets[0] / line), chan=unit.chan, line_fwhm=width,
    )  # fmt: skip


PRESETS: dict[str, Callable[[np.random.Generator], Field]] = {"paper": paper, "alma": alma}


def draw(preset: str, rng: np.random.Generator) -> Field:
    """One random field.

    Raises
    ------
    ParameterError
        When there is no such preset.
    """
    if preset not in PRESETS:
        raise ParameterError("preset", preset, "no such preset", f"choose one of {', '.join(PRESETS)}")
    return PRESETS[preset](rng)
