"""Random fields of a preset: what `observation` and `sources` draw, put together, and the defects."""

from __future__ import annotations

import zlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from sim.beams import airy
from sim.coverage import ARCSEC, Coverage, Grid
from sim.defects import Defects
from sim.presets.draws import Draws
from sim.presets.observation import check_geometry, draw_observation, thermal_noise, white_noise
from sim.presets.schema import Preset, load_preset
from sim.presets.sources import Sky, draw_sources
from sim.response import response
from sim.sky import Source


@dataclass(frozen=True)
class Field:
    """One field to simulate.

    Attributes
    ----------
    coverage : Coverage
    grid : Grid
    sources : tuple of Source
    noise : float [Jy/beam], thermal noise of every channel of the image
    white : float [Jy/beam], noise without correlation between pixels that is added to the image
    defects : Defects
    ra : float [deg], of the phase centre; the declination is the coverage's
    """

    coverage: Coverage
    grid: Grid
    sources: tuple[Source, ...]
    noise: float
    white: float = 0.0
    defects: Defects = field(default_factory=Defects)
    ra: float = 59.99983333


def label(preset: str | Path) -> str:
    """The name of a preset, or of a preset's file (without .yaml): what its random numbers are seeded by."""
    return load_preset(preset).name


def recipe(preset: str | Path) -> dict[str, dict[str, Any]]:
    """All parameters of a preset, its bases and the schema's defaults resolved, as plain {group: {name: node}}."""
    groups: dict[str, dict[str, Any]] = {}
    for key, node in load_preset(preset).nodes.items():
        group, name = key.split(".")
        groups.setdefault(group, {})[name] = node
    return groups


def generators(preset: str | Path, seed: int, index: int) -> tuple[np.random.Generator, np.random.Generator]:
    """Random numbers of a field's sky and of its noise; they depend on the preset's name, seed and index alone."""
    sky, noise = np.random.SeedSequence([zlib.crc32(label(preset).encode()), seed, index]).spawn(2)
    return np.random.Generator(np.random.Philox(sky)), np.random.Generator(np.random.Philox(noise))


def draw_field(preset: str | Path, seed: int, index: int) -> Field:
    """Field `index` of a preset; it depends on (preset, seed, index) alone."""
    return draw(preset, generators(preset, seed, index)[0])


def geometry(preset: str | Path, seed: int, index: int) -> tuple[Coverage, Grid]:
    """Coverage and grid of field `index` of a preset, without its PSF and sky: cheap."""
    loaded = load_preset(preset)
    check_geometry(loaded)
    return draw_observation(Draws(loaded, generators(preset, seed, index)[0]))


def draw(preset: str | Path | Preset, rng: np.random.Generator) -> Field:
    """One random field.

    Parameters
    ----------
    preset : str or Path
        The name of a preset, or the path of a YAML file.
    rng : numpy Generator
        Four integers are taken from it; see `draws.Draws` for what follows from them.

    Raises
    ------
    ParameterError
        When there is no such preset, a value cannot be used, or the geometry is impossible.
    """
    preset = load_preset(preset)
    check_geometry(preset)
    draws = Draws(preset, rng)
    coverage, grid = draw_observation(draws)
    resp = response(coverage, grid)
    # Briggs weighting has noise above that of natural weighting; by how much is in the sum over the planes.
    ratio = resp.information_mix.sum(axis=1).mean()
    noise = thermal_noise(draws.number("observation.sefd"), coverage, grid) * float(np.sqrt(ratio))
    sky = Sky(resp, coverage, grid, noise)
    sources = draw_sources(draws, sky)
    white = 0.0
    if sources and preset.given("brightness.central_snr"):
        white = white_noise(sky.band_peak(sources[0]), draws.number("brightness.central_snr"), noise, grid.nchan)
    defects = draw_defects(draws, coverage, grid, float(np.hypot(noise, white)))
    return Field(coverage, grid, sources, noise, white, defects, draws.number("observation.ra"))


def draw_defects(draws: Draws, coverage: Coverage, grid: Grid, noise: float) -> Defects:
    """The defects of a field; `noise` [Jy/beam] is that of a channel."""
    if not draws.chance("defects.share"):
        return Defects()
    names = ("nan_edge", "phase_rms", "amplitude_rms", "gain_interval", "continuum_slope", "ripple_amplitude")
    values: dict[str, Any] = {name: draws.scalar(f"defects.{name}") for name in names}
    values["nan_edge"] = min(int(values["nan_edge"]), grid.npix // 8)
    if values["ripple_amplitude"]:
        values["ripple_period"] = draws.number("defects.ripple_period")
    return Defects(
        flagged_channels=_flagged_channels(draws, grid.nchan),
        flagged_antennas=coverage.flagged_antennas,
        outside=_outside(draws, coverage, grid, noise / np.sqrt(grid.nchan)),
        seed=int(draws.stream("defects.seed").integers(0, 2**31)),
        **values,
    )


def _flagged_channels(draws: Draws, nchan: int) -> tuple[int, ...]:
    share = draws.number("defects.flagged_channels")
    if not share:
        return ()
    rng = draws.stream("defects.which_channels")
    runs = int(rng.integers(1, 4))
    length = max(1, round(share * nchan / runs))
    starts = rng.integers(0, nchan - length + 1, runs)
    return tuple(sorted({int(start) + step for start in starts for step in range(length)}))


def _outside(draws: Draws, coverage: Coverage, grid: Grid, noise: float) -> Source | None:
    """A bright point outside the image; `noise` [Jy/beam] is that of the band's mean."""
    snr = draws.number("defects.outside_snr")
    if not snr:
        return None
    rng, middle = draws.stream("defects.outside_place"), grid.npix // 2
    far = draws.number("defects.outside_distance") * grid.npix * (1 if rng.random() < 0.5 else -1)
    along = rng.uniform(-0.5, 0.5) * grid.npix
    dx, dy = (far, along) if rng.random() < 0.5 else (along, far)
    radius = np.hypot(dx, dy) * grid.cell * ARCSEC
    # Beyond the first null the beam says little; the floor keeps the sky finite there.
    pb = max(float(airy(radius, float(np.mean(grid.freq())), coverage.diameter())), 1e-3)
    return Source(float(middle + dx), float(middle + dy), 0.0, 0.0, 0.0, continuum=snr * noise / pb)
