"""The noise of every channel, and what is said where a search ends without noise left."""

from __future__ import annotations

import numpy as np
import pytest

from casa_deepfocus.core.component import Component
from casa_deepfocus.core.noise import SMOOTH_OVER, channel_noise, smooth_noise
from casa_deepfocus.pipeline import joint, run
from casa_deepfocus.pipeline.leftover import look_at_residual
from sim.cube import simulate_cube
from sim.response import Coverage, Grid
from sim.sky import Source
from tests.fake_networks import FilterNetworks
from tests.test_pipeline_steps import NCHAN, NPIX, make_search


def estimates(nchan: int = 200, error: float = 0.05, seed: int = 0) -> np.ndarray:
    return np.exp(error * np.random.default_rng(seed).standard_normal(nchan))


def test_noise_is_smooth_in_frequency():
    slope = np.linspace(1.0, 1.6, 200)
    smooth = smooth_noise(slope * estimates())
    assert np.std(np.log(smooth / slope)) < 0.6 * 0.05
    assert np.mean(np.log(smooth / slope)) == pytest.approx(0.0, abs=0.01)


def test_flags_and_atmospheric_lines_stay():
    sigma = estimates()
    sigma[50] = np.nan
    sigma[120:123] = (1.8, 2.5, 1.7)
    smooth = smooth_noise(sigma)
    assert np.isnan(smooth[50]) and np.isfinite(np.delete(smooth, 50)).all()
    np.testing.assert_array_equal(smooth[120:123], sigma[120:123])
    np.testing.assert_array_equal(smooth_noise(sigma[::-1])[::-1], smooth)


def test_few_channels_stay_as_they_are():
    sigma = estimates(2 * SMOOTH_OVER - 1)
    np.testing.assert_array_equal(smooth_noise(sigma), sigma)
    assert smooth_noise(sigma) is not sigma


def test_the_channels_of_a_bright_line_get_their_own_noise_back():
    """Its sidelobes are subtracted with it: the median over all channels does not tell."""
    line = Source(40, 44, 3, 2, 30, line=0.5, chan=20, line_fwhm=3)
    cube = simulate_cube([line], Coverage(), Grid(npix=80, nchan=48), 1e-3, np.random.default_rng(4))
    assert channel_noise(cube.data)[20] > 1.5e-3
    result = run(cube, FilterNetworks())
    assert len(result.catalogue) == 1
    np.testing.assert_allclose(result.noise, 1e-3, rtol=0.15)
    assert "residual" not in result.catalogue.meta


def test_any_channel_renews_the_noise():
    search = make_search()
    search.sigma[7] = 1.8
    search.fit.set_noise(search.sigma)
    assert joint.renew_noise(search), "one channel of many is enough"
    assert search.sigma[7] == pytest.approx(1.0, abs=0.1) and search.fit.weights[7] == search.sigma[7] ** -2
    before = search.sigma.copy()
    assert not joint.renew_noise(search)
    np.testing.assert_array_equal(search.sigma, before)


def test_noise_is_noise():
    assert look_at_residual(make_search()).summary == ""


@pytest.mark.parametrize(("sign", "word"), [(1.0, "a peak"), (-1.0, "a hole")])
def test_a_peak_in_the_residual_is_told(sign, word):
    search = make_search()
    search.fit.residual[:, 30, 41] += sign * 12.0 / np.sqrt(NCHAN)
    left = look_at_residual(search)
    assert word in left.summary and "(41, 30)" in left.summary
    assert (left.deepest > 9.0) == (sign < 0), "a peak says nothing of the noise"


def test_a_hole_in_front_of_a_source_is_told_but_is_no_noise():
    search = make_search()
    search.fit.residual[:, 30, 41] -= 12.0 / np.sqrt(NCHAN)
    hole = look_at_residual(search).deepest
    search.components = [Component(41.0, 30.0, np.zeros(3), has_line=False, has_cont=True)]
    left = look_at_residual(search)
    assert "a hole" in left.summary and left.deepest < 0.6 * hole


def test_a_hole_in_a_line_is_told():
    search = make_search()
    search.fit.residual[10:14, 30, 41] -= 7.0
    assert "in channels" in look_at_residual(search).summary


def test_a_pattern_all_over_is_told():
    search = make_search()
    pattern = np.random.default_rng(2).standard_normal((NPIX, NPIX)).astype(np.float32)
    search.fit.residual += 0.4 * pattern
    left = look_at_residual(search)
    assert left.rms > 1.5 and "times the noise" in left.remarks[0]
