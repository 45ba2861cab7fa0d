"""One Gaussian that is two sources, two that are one: what the likelihood says where the residual is silent."""

from __future__ import annotations

import numpy as np
import pytest

from casa_deepfocus.core.complexes import chains
from casa_deepfocus.core.component import Component
from casa_deepfocus.core.fit import JointFit
from casa_deepfocus.core.geometry import shape_to_covariance
from casa_deepfocus.core.noise import channel_noise
from casa_deepfocus.core.psf import Imager
from casa_deepfocus.core.rotation import is_one_source
from casa_deepfocus.core.whitening import as_natural
from casa_deepfocus.pipeline import Options, blends, joint
from casa_deepfocus.pipeline.state import Search
from sim.cube import simulate_cube
from sim.discs import Rotation
from sim.response import Coverage, Grid
from sim.sky import Source, disc
from tests.fake_networks import FilterNetworks

GRID = Grid(npix=96, nchan=48)
EQUAL = [
    Source(44.0, 47.0, 3.0, 3.0, 20.0, line=0.03, chan=24.0, line_fwhm=5.0, continuum=0.004),
    Source(51.0, 48.5, 4.0, 3.0, 70.0, line=0.03, chan=24.5, line_fwhm=5.0, continuum=0.004),
]
APART = [
    Source(46.0, 47.0, 3.0, 3.0, 20.0, line=0.02, chan=20.0, line_fwhm=6.0, continuum=0.002),
    Source(49.0, 48.0, 3.0, 3.0, 70.0, line=0.02, chan=28.0, line_fwhm=6.0, continuum=0.002),
]
ONE = [Source(47.0, 48.0, 5.0, 3.0, 20.0, line=0.04, chan=24.0, line_fwhm=6.0, continuum=0.006)]


def fitted(sources, starts, seed=1, white=0.0, natural=True):
    """A search whose components start at (x, y, channel, line width) and are fitted; `white` [Jy/beam] over pixels."""
    rng = np.random.default_rng(seed)
    cube = simulate_cube(sources, Coverage(), GRID, 1e-3, rng)
    cube = cube.with_data(cube.data + np.float32(white) * rng.standard_normal(cube.data.shape, np.float32))
    sigma = channel_noise(cube.data)
    if natural:
        cube, _ = as_natural(cube, sigma)
        sigma = channel_noise(cube.data)
    imager = Imager(cube.psf, cube.shape)
    fit = JointFit(cube.data, sigma, imager, cube.beam_covariance())
    search = Search(cube, FilterNetworks(), Options(), sigma, fit, imager, np.zeros(cube.shape, np.float32))
    search.components = [
        Component(x, y, shape_to_covariance(4.0, 4.0, 0.0), amp=0.02, chan=chan, fwhm=width, cont=0.003, has_cont=True)
        for x, y, chan, width in starts
    ]
    joint.fit_all(search)
    return search


def places(search):
    return sorted((round(c.x, 1), round(c.y, 1)) for c in search.components)


@pytest.mark.parametrize(("sources", "start"), [(EQUAL, (47.5, 47.7, 24.2, 5.0)), (APART, (47.5, 47.5, 24.0, 12.0))])
def test_a_pair_that_one_gaussian_was_fitted_to_comes_apart(sources, start):
    search = fitted(sources, [start])
    (single,) = search.components
    assert single.snr_line > 20
    assert blends.split(search) == 1
    for source, (x, y) in zip(sources, places(search), strict=True):
        assert (x, y) == pytest.approx((source.x, source.y), abs=0.7)
    assert blends.settle(search) == 0, "what was looked at is left alone, and both are needed"


def test_a_little_white_noise_makes_no_pair_of_one_source():
    def gain(natural):
        search = fitted(ONE, [(47.0, 48.0, 24.0, 6.0)], white=2e-4, natural=natural)
        (single,) = search.components
        return max(search.fit.in_place_of([single], two) for two in blends.halves(search, single))

    # 4 % of the variance is white. Where no baseline measures, two small components cost nothing and fit the noise.
    assert gain(natural=False) > 2.0 * gain(natural=True)
    assert gain(natural=True) < 10.0


def test_the_motion_with_the_channel_goes_from_one_source_to_the_other():
    search = fitted(APART, [(47.5, 47.5, 24.0, 12.0)])
    (single,) = search.components
    gain, motion = search.fit.drift(single)
    assert gain > blends.MOVING and motion[0] > 0.0, "the source at higher x has the higher channel"
    low, high = blends.halves(search, single)[-1]
    assert low.chan < single.chan < high.chan and low.x < single.x < high.x
    still = fitted(ONE, [(47.0, 48.0, 24.0, 6.0)])
    assert still.fit.drift(still.components[0])[0] < blends.MOVING


def test_one_source_stays_one():
    search = fitted(ONE, [(47.0, 48.0, 24.0, 6.0)])
    before = [component.vector() for component in search.components]
    assert blends.settle(search) == 0
    assert len(search.components) == 1
    assert np.array_equal(search.components[0].vector(), before[0]), "a trial leaves no trace"


def test_a_disc_is_not_cut_in_two():
    source = disc(48.0, 47.0, 12.0, 60.0, Rotation(6.0, 1.2, 2.0, 50.0), line=0.1, chan=24.0)
    search = fitted([source], [(48.0, 47.0, 24.0, 10.0)])
    (single,) = search.components
    assert single.snr_line > 30
    blends.split(search)
    chained = chains(search.components, search.cube.beam_covariance(),
                     one_source=lambda members: is_one_source(search.fit, members))  # fmt: skip
    assert len(chained) == 1


def continuum_between_lines(search, place, lines):
    """Fit a continuum without a line at (x, y) and lines without continuum at (x, y, channel); the continuum."""
    shape = shape_to_covariance(4.0, 4.0, 0.0)
    middle = Component(*place, shape, cont=0.01, has_cont=True, has_line=False)
    search.components = [middle] + [
        Component(x, y, shape, amp=0.02, chan=chan, fwhm=5.0, has_cont=False) for x, y, chan in lines
    ]
    search.fit.fit(search.components)
    return middle


def test_two_lines_take_the_continuum_between_them():
    pair = [
        Source(45.3, 49.4, 4.6, 3.7, 20.0, line=0.02, chan=29.0, line_fwhm=5.0, continuum=0.006),
        Source(48.4, 47.1, 5.0, 4.2, 70.0, line=0.02, chan=19.0, line_fwhm=5.0, continuum=0.006),
    ]
    search = fitted(pair, [])
    between = continuum_between_lines(search, (46.8, 48.2), [(45.3, 49.4, 29.0), (48.4, 47.1, 19.0)])
    assert between.snr_cont > 30
    assert blends.share(search) == 1
    assert between not in search.components and len(search.components) == 2
    assert all(c.has_line and c.has_cont and c.snr_cont > 10 for c in search.components)
    for source, (x, y) in zip(pair, places(search), strict=True):
        assert (x, y) == pytest.approx((source.x, source.y), abs=0.7)
    assert blends.share(search) == 0


def test_a_third_source_between_two_keeps_its_continuum():
    row = [
        Source(40.0, 48.0, 3.0, 3.0, 20.0, line=0.02, chan=29.0, line_fwhm=5.0),
        Source(47.0, 48.0, 3.0, 3.0, 20.0, continuum=0.006),
        Source(54.0, 48.0, 3.0, 3.0, 20.0, line=0.02, chan=19.0, line_fwhm=5.0),
    ]
    search = fitted(row, [])
    middle = continuum_between_lines(search, (47.0, 48.0), [(40.0, 48.0, 29.0), (54.0, 48.0, 19.0)])
    assert blends.share(search) == 0
    assert middle in search.components and len(search.components) == 3


def test_a_companion_that_its_neighbour_does_without_goes():
    search = fitted(ONE, [(47.0, 48.0, 24.0, 6.0)])
    (single,) = search.components
    left = Component(50.0, 50.0, shape_to_covariance(3.0, 3.0, 0.0), cont=0.0006, has_line=False, has_cont=True)
    single.cont -= 0.0006
    search.components.append(left)
    search.fit.fit(search.components)
    left.snr_cont = 7.0
    assert blends.merge(search) == 1
    assert len(search.components) == 1 and left in search.refused
    assert search.components[0].cont == pytest.approx(0.006, abs=4 * search.components[0].errors["cont"])


def test_what_gets_lost_puts_all_back(monkeypatch):
    search = fitted(EQUAL, [(47.5, 47.7, 24.2, 5.0)])
    (single,) = search.components
    before = single.vector()

    def lose(search):
        search.refused += search.components
        search.components = []

    monkeypatch.setattr(blends, "fit_all", lose)
    assert blends.split(search) == 0 and not search.refused
    assert search.components == [single] and np.array_equal(single.vector(), before)


def test_what_a_replacement_gains_is_what_going_back_loses():
    search = fitted(EQUAL, [(47.5, 47.7, 24.2, 5.0)])
    (single,) = search.components
    chi2 = np.square(search.fit.residual).sum()
    pair = [
        Component(s.x, s.y, shape_to_covariance(3.0, 3.0, 0.0), 0.03, 24.0, 5.0, cont=0.004, has_cont=True)
        for s in EQUAL
    ]  # fmt: skip
    start = single.vector()
    gain = search.fit.in_place_of([single], pair)
    assert np.array_equal(single.vector(), start) and np.square(search.fit.residual).sum() == chi2
    assert gain > 40 and min(half.snr_line for half in pair) > 10
    search.components = pair
    search.fit.fit(search.components)
    back = search.fit.in_place_of(pair, [single])
    assert back == pytest.approx(-gain, abs=2.0)
