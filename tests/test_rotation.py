"""Two sides of one disc are one source, two galaxies are two, whatever their lines look like."""

from __future__ import annotations

import numpy as np
import pytest

from casa_deepfocus.core import rotation
from casa_deepfocus.core.complexes import chains
from casa_deepfocus.core.component import Component
from casa_deepfocus.core.fit import JointFit
from casa_deepfocus.core.geometry import shape_to_covariance
from casa_deepfocus.core.noise import channel_noise
from casa_deepfocus.core.psf import Imager
from casa_deepfocus.pipeline import run
from sim.cube import simulate_cube
from sim.discs import Rotation
from sim.response import Coverage, Grid
from sim.sky import Source, disc
from tests.fake_networks import FilterNetworks

GRID = Grid(npix=96, nchan=48)
DISC = disc(48.0, 47.0, 8.0, 60.0, Rotation(6.0, 1.2, 2.0, 50.0), line=0.06, chan=24.0)
PAIR = [
    Source(46.0, 47.0, 4.0, 3.0, 20.0, line=0.04, chan=21.0, line_fwhm=5.0),
    Source(50.0, 48.0, 5.0, 3.0, 70.0, line=0.04, chan=27.0, line_fwhm=5.0),
]


def observed(sources, seed=1):
    return simulate_cube(sources, Coverage(), GRID, 1e-3, np.random.default_rng(seed))


def fitted(cube, places, continuum=0.0):
    """The cube's joint fit with components that start at places (x, y, channel) with a continuum [Jy], or without."""
    fit = JointFit(cube.data, channel_noise(cube.data), Imager(cube.psf, cube.shape), cube.beam_covariance())
    parts = [
        Component(
            x, y, shape_to_covariance(4.0, 4.0, 0.0), amp=0.02, chan=chan, fwhm=4.0, cont=continuum,
            has_cont=continuum > 0.0,
        )
        for x, y, chan in places
    ]  # fmt: skip
    fit.fit(parts)
    return fit, parts


def test_a_disc_in_two_parts_is_one_source():
    half = 2.0 * np.array([-np.sin(np.pi / 3), np.cos(np.pi / 3)])
    places = [(48.0 - half[0], 47.0 - half[1], 21.0), (48.0 + half[0], 47.0 + half[1], 27.0)]
    fit, parts = fitted(observed([DISC]), places)
    assert min(part.snr_line for part in parts) > 15
    assert np.hypot(parts[0].x - parts[1].x, parts[0].y - parts[1].y) > 1.5, "the parts are apart"
    assert rotation.is_one_source(fit, parts)


def test_two_galaxies_with_the_same_lines_are_two():
    fit, parts = fitted(observed(PAIR), [(46.0, 47.0, 21.0), (50.0, 48.0, 27.0)])
    assert rotation.advantage_of_two(fit, parts) > 20.0
    assert not rotation.is_one_source(fit, parts)


ROW = [(40.0, 47.0, 20.0), (48.0, 48.0, 24.0), (56.0, 49.0, 28.0)]


def test_three_continua_in_a_row_are_three_sources():
    sources = [
        Source(x, y, 4.0, 3.0, 30.0, line=0.03, chan=chan, line_fwhm=5.0, continuum=0.004) for x, y, chan in ROW
    ]  # fmt: skip
    fit, parts = fitted(observed(sources), ROW, continuum=0.004)
    assert chains(parts, fit.beam) == [[0, 1, 2]], "what their places and channels alone say"
    assert rotation.advantage_of_continua(fit, parts) > 20.0
    assert not rotation.is_one_source(fit, parts)
    dark, parts = fitted(observed(sources), ROW)
    assert rotation.is_one_source(dark, parts), "without continua the order of the channels decides"


def test_flagged_channels_are_no_part_of_the_continuum():
    sources = [Source(x, y, 4.0, 3.0, 30.0, line=0.03, chan=chan, line_fwhm=5.0, continuum=0.02) for x, y, chan in ROW]
    cube = observed(sources)
    fit, parts = fitted(cube, ROW, continuum=0.02)
    whole = rotation.advantage_of_continua(fit, parts)
    data = cube.data.copy()
    data[32:] = np.nan
    fit, parts = fitted(cube.with_data(data), ROW, continuum=0.02)
    assert rotation.advantage_of_continua(fit, parts) == pytest.approx(2.0 / 3.0 * whole, rel=0.15)


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_the_continuum_of_a_disc_is_one(seed):
    turning = disc(48.0, 47.0, 12.0, 60.0, Rotation(6.0, 1.2, 2.0, 50.0), line=0.06, chan=24.0, continuum=0.02)
    half = 3.0 * np.array([-np.sin(np.pi / 3), np.cos(np.pi / 3)])
    places = [(48.0 - half[0], 47.0 - half[1], 21.0), (48.0 + half[0], 47.0 + half[1], 27.0)]
    fit, parts = fitted(observed([turning], seed), places, continuum=0.01)
    assert min(part.snr_line for part in parts) > 10 and max(part.snr_cont for part in parts) > 20
    assert rotation.is_one_source(fit, parts)


def test_absorption_is_told_apart_as_emission_is():
    places = [(46.0, 47.0, 21.0), (50.0, 48.0, 27.0)]
    fit, parts = fitted(observed(PAIR), places)
    emission = rotation.advantage_of_two(fit, parts)
    dark = JointFit(-fit.data, channel_noise(fit.data), fit.imager, fit.beam)
    for part in parts:
        part.amp, part.absorption = -part.amp, True
    dark.update_residual(parts)
    assert rotation.advantage_of_two(dark, parts) == pytest.approx(emission, abs=0.5)


def test_the_order_does_not_matter():
    fit, parts = fitted(observed(PAIR), [(46.0, 47.0, 21.0), (50.0, 48.0, 27.0)])
    one, other = rotation.advantage_of_two(fit, parts), rotation.advantage_of_two(fit, parts[::-1])
    assert one == pytest.approx(other, abs=1.0)


@pytest.mark.parametrize(("sources", "number"), [([DISC], 1), (PAIR, 2)])
def test_the_catalogue_counts_galaxies(sources, number):
    result = run(observed(sources), FilterNetworks())
    assert len(result.catalogue) == number
    assert result.counts["components"] >= 2
