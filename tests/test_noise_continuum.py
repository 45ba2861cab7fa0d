"""Noise, line-free channels and the continuum, with planted truths."""

from __future__ import annotations

import numpy as np
import pytest

from casa_deepfocus.core.continuum import fit_continuum, fit_order, line_free_channels, subtract_continuum
from casa_deepfocus.core.detection import LineSearch, integrated_map
from casa_deepfocus.core.geometry import gaussian_image
from casa_deepfocus.core.noise import channel_noise, inverse_variance, robust_rms
from casa_deepfocus.errors import DataError

NCHAN, NPIX = 40, 64


@pytest.fixture
def rng():
    return np.random.default_rng(7)


def field(rng, *, cont=0.0, slope=0.0, line=0.0, chans=(10, 16)):
    data = rng.standard_normal((NCHAN, NPIX, NPIX)).astype(np.float32)
    blob = gaussian_image((NPIX, NPIX), 30, 34, [4.0, 4.0, 0.0]).astype(np.float32)
    t = np.arange(NCHAN) - 0.5 * (NCHAN - 1)
    spectrum = cont + slope * t
    spectrum[chans[0] : chans[1]] += line
    return data + spectrum[:, None, None].astype(np.float32) * blob, blob


def test_noise_survives_sources_and_flagged_channels(rng):
    data, _ = field(rng, cont=200.0)
    data[5] = np.nan
    data[6] = 0.0
    sigma = channel_noise(data)
    assert np.isnan(sigma[[5, 6]]).all()
    np.testing.assert_allclose(np.delete(sigma, [5, 6]), 1.0, atol=0.06)
    assert np.all(inverse_variance(sigma)[[5, 6]] == 0)


def test_noise_of_nothing_is_an_error():
    with pytest.raises(DataError, match="no data"):
        channel_noise(np.zeros((3, 8, 8)))
    assert np.isnan(robust_rms(np.arange(3.0)))


def test_line_channels_are_found_and_continuum_measured_beside_them(rng):
    data, blob = field(rng, cont=30.0, slope=0.4, line=20.0)
    free = line_free_channels(data, np.ones(NCHAN))
    assert not free[10:16].any() and free.sum() > 25
    continuum = fit_continuum(data, np.ones(NCHAN), free)
    assert continuum.significant
    assert continuum.level[34, 30] == pytest.approx(30.0, abs=1.0)
    assert continuum.slope[34, 30] == pytest.approx(0.4, abs=0.08)
    line = subtract_continuum(data, continuum)
    assert line[10:16, 34, 30].mean() == pytest.approx(20.0, abs=1.5)
    assert abs(line[free, 34, 30].mean()) < 0.5


def test_a_line_that_fills_most_of_the_band_is_not_taken_for_continuum(rng):
    data, _ = field(rng, line=25.0, chans=(4, 36))
    free = line_free_channels(data, np.ones(NCHAN))
    assert free.any() and not free[6:34].any()
    assert not fit_continuum(data, np.ones(NCHAN), free).significant


def test_pure_noise_keeps_its_channels_and_has_no_continuum(rng):
    data, _ = field(rng)
    free = line_free_channels(data, np.ones(NCHAN))
    assert free.sum() >= NCHAN - 2
    assert not fit_continuum(data, np.ones(NCHAN), free).significant


def test_order_needs_channels_on_both_sides():
    assert fit_order(np.ones(40, bool)) == 1
    assert fit_order(np.arange(40) < 20) == 0
    assert fit_order(np.arange(6) < 6) == 0


def test_a_mostly_blank_field_is_no_different(rng):
    data, _ = field(rng, cont=30.0)
    data[:, :18] = data[:, 48:] = np.nan
    data[:, :, :14] = data[:, :, 50:] = np.nan
    sigma = channel_noise(data)
    np.testing.assert_allclose(sigma, 1.0, atol=0.15)
    assert fit_continuum(data, sigma, line_free_channels(data, sigma)).significant
    empty, _ = field(rng)
    empty[np.isnan(data)] = np.nan
    assert not fit_continuum(empty, sigma, line_free_channels(empty, sigma)).significant
    search = LineSearch(empty, sigma)
    assert search.window(3, 9)[~search.blank].std() == pytest.approx(1.0, abs=0.1)
    assert np.nanstd(integrated_map(empty, sigma).image) == pytest.approx(1.0, abs=0.1)
