"""The observation of a random field: array, track, weighting, pixels, channels and thermal noise."""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from casa_deepfocus.core.cube import C_KMS
from casa_deepfocus.errors import DataError, ParameterError
from sim import arrays
from sim.beams import airy
from sim.coverage import ARCSEC, Coverage, Grid
from sim.presets.draws import Draws
from sim.presets.schema import Preset
from sim.psflib import MIN_ELEVATION


@lru_cache(maxsize=16)
def check_geometry(preset: Preset) -> None:
    """Whether the arrays of a preset exist and see all of its declinations.

    Raises
    ------
    ParameterError
        When they do not, or a position lies outside the image or the band.
    """
    name = preset.name
    declinations = [float(str(end)) for end in preset["observation.declination"].ends()]
    for word in preset["observation.array"].ends():
        array = arrays.read_array(str(word))
        for dec in declinations:
            highest = 90.0 - abs(dec - array.latitude)
            if highest < MIN_ELEVATION:
                low, high = (array.latitude + side * (90.0 - MIN_ELEVATION) for side in (-1, 1))
                raise ParameterError(
                    f"{name}: observation.declination", dec,
                    f"never rises above {MIN_ELEVATION:g} deg at {array.name} (highest {highest:.1f} deg)",
                    f"choose {max(low, -90.0):.0f} to {min(high, 90.0):.0f} deg",
                )  # fmt: skip
    limits = (("sources", "image.npix", "pixel", "image"), ("lines", "image.channels", "chan", "band"))
    for group, size, unit, relative in limits:
        key = f"{group}.position"
        units = set(preset[f"{group}.position_unit"].ends())
        if unit in units and not preset.given(size):
            raise ParameterError(f"{name}: {key}_unit", unit, f"{size} is not given", f"use {key}_unit: {relative}")
        smallest = min(float(str(number)) for number in preset[size].ends()) if preset.given(size) else np.inf
        highest = 1.0 if relative in units else smallest - 1.0
        for end in preset[key].ends():
            if float(str(end)) > highest:
                raise ParameterError(f"{name}: {key}", end, f"beyond {highest:g}, the last", f"see {key}_unit")


def draw_observation(draws: Draws) -> tuple[Coverage, Grid]:
    """Array, track, weighting, pixels and channels: cheap, as no PSF is made on the image's grid."""
    name = draws.word("observation.array")
    array = arrays.read_array(name)
    dec = draws.number("observation.declination")

    def is_up(hour_angle: float, minutes: float) -> bool:
        ends = hour_angle + np.array([-0.5, 0.0, 0.5]) * minutes / 60.0
        return bool(arrays.elevation(array.latitude, dec, ends).min() >= MIN_ELEVATION)

    hour_angle, minutes = draws.until(
        ("observation.hour_angle", "observation.duration"), is_up,
        f"no track stands above {MIN_ELEVATION:g} deg at declination {dec:.1f} and {name}",
    )  # fmt: skip
    duration = 60.0 * minutes
    integration = max(
        min(draws.number("observation.integration"), duration), duration / draws.number("observation.max_integrations")
    )
    robust = draws.scalar("image.robust")
    flagged = _flagged_antennas(draws, array.nant)
    coverage = Coverage(
        name, dec, hour_angle, duration, integration, None if robust == "natural" else float(str(robust)), flagged
    )
    grid = _draw_grid(draws, coverage)
    coverage.check(grid)
    return coverage, grid


def _draw_grid(draws: Draws, coverage: Coverage) -> Grid:
    preset = draws.preset
    freq = 1e9 * draws.number("image.frequency")
    nchan = int(draws.number("image.channels"))
    widest = 1e9 * draws.number("image.max_bandwidth") / nchan
    key, unit = "image.channel_width", 1e6
    if not preset.given(key):
        key, unit = "image.channel_velocity", freq / C_KMS
    (width,) = draws.until((key,), lambda value: value * unit <= widest, f"{nchan} channels exceed image.max_bandwidth")
    if preset.given("image.cell"):
        cell = draws.number("image.cell")
    else:
        cell = beam_arcsec(coverage, freq) / draws.number("image.pixels_per_beam")
    if preset.given("image.npix"):
        npix = int(draws.number("image.npix"))
    else:
        npix = round(draws.number("image.field") * primary_beam_arcsec(coverage, freq) / cell)
        npix = max(npix, int(draws.number("image.min_npix")))
    npix += npix % 2
    npix, nchan = cut(npix, nchan, int(draws.number("image.max_voxels")), int(draws.number("image.min_npix")))
    # The frequency is that of channel nchan // 2, the middle of an observer's band.
    return Grid(npix, cell, nchan, freq - unit * width * (nchan // 2), unit * width)


def cut(npix: int, nchan: int, max_voxels: int, min_npix: int) -> tuple[int, int]:
    """The image's side (even) and the channels that a cap on the voxels leaves; see `image.max_voxels`."""
    if npix**2 * nchan > max_voxels:
        npix = min(npix, max(min_npix, int(np.sqrt(max_voxels / nchan))))
        npix -= npix % 2
        nchan = min(nchan, max(1, max_voxels // npix**2))
    return npix, nchan


def beam_arcsec(coverage: Coverage, freq: float) -> float:
    """Geometric-mean FWHM [arcsec] of the beam at a frequency [Hz].

    Raises
    ------
    ParameterError
        When the array has hardly a beam there.
    """
    try:
        return coverage.beam_arcsec(freq)
    except DataError as error:
        raise ParameterError(
            "array", coverage.array, f"hardly a beam at declination {coverage.dec:.1f} ({error})", "choose another"
        ) from error


def primary_beam_arcsec(coverage: Coverage, freq: float) -> float:
    """Half-power width [arcsec] of the primary beam at a frequency [Hz]."""
    return 2.0 * pb_radius(0.5, freq, coverage.diameter()) / ARCSEC


def pb_radius(level: float, freq: float, diameter: float) -> float:
    """Radius [rad] where the primary beam falls to a level."""
    radius = np.linspace(0.0, 1.2 * arrays.C_MS / freq / diameter, 2000)
    pattern = np.minimum.accumulate(airy(radius, freq, diameter))
    return float(np.interp(-level, -pattern, radius))


def thermal_noise(sefd: float, coverage: Coverage, grid: Grid) -> float:
    """Thermal noise [Jy/beam] of a channel of the image; see `observation.sefd` of the schema."""
    visibility = sefd / np.sqrt(2.0 * abs(grid.chan_width) * coverage.integration)
    return float(visibility / np.sqrt(2.0 * len(coverage.uvw())))


def white_noise(peak: float, snr: float, thermal: float, nchan: int) -> float:
    """White noise per channel that, with the thermal noise, gives a peak of the band's mean its SNR (section 3)."""
    return float(np.sqrt(max(0.0, nchan * (peak / snr) ** 2 - thermal**2)))


def _flagged_antennas(draws: Draws, nant: int) -> tuple[int, ...]:
    if not draws.chance("defects.share"):
        return ()
    number = min(int(draws.number("defects.flagged_antennas")), nant - 3)
    chosen = draws.stream("defects.which_antennas").permutation(nant)[: max(number, 0)]
    return tuple(sorted(int(antenna) for antenna in chosen))
