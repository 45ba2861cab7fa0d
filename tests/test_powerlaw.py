"""Power laws through continua, and images split into what their parts tell and the rest."""

from __future__ import annotations

import numpy as np
import pytest

from casa_deepfocus.core import powerlaw

FREQ = np.array([90e9, 100e9, 110e9, 150e9])


def measured(index, snr, n=400, seed=1, freq=FREQ):
    """Fluxes of n sources of 1 mJy at 112.5 GHz with errors of 1/snr mJy."""
    true = 1e-3 * (freq / 112.5e9) ** index
    error = np.full((n, freq.size), 1e-3 / snr)
    return true + np.random.default_rng(seed).normal(0.0, 1.0, error.shape) * error, error, np.tile(freq, (n, 1))


@pytest.mark.parametrize("index", [-0.7, 0.0, 3.5])
@pytest.mark.parametrize("snr", [7.0, 50.0])
def test_index_and_flux_have_no_bias_and_honest_errors(index, snr):
    law = powerlaw.fit(*measured(index, snr), 112.5e9)
    told = np.isfinite(law.index)
    assert told.mean() > 0.95
    for pull in ((law.index - index) / law.index_error, (law.flux - 1e-3) / law.error):
        assert abs(np.mean(pull[told])) < 0.15 and np.std(pull[told]) == pytest.approx(1.0, abs=0.12)
    assert law.deviates.mean() < 0.01 and (law.number == 4).all()


@pytest.mark.parametrize("index", [-1.0, 4.0])
@pytest.mark.parametrize("snr", [7.0, 50.0])
def test_the_fit_has_converged(index, snr, monkeypatch):
    data = measured(index, snr, freq=np.array([90e9, 150e9, 230e9, 345e9]))
    first = powerlaw.fit(*data, 112e9)
    monkeypatch.setattr(powerlaw, "STEPS", 50)
    last = powerlaw.fit(*data, 112e9)
    assert np.isfinite(first.index).all()
    assert np.abs((first.index - last.index) / last.index_error).max() < 1e-3


def test_what_follows_no_power_law_is_said():
    flux, error, freq = measured(2.0, 50.0)
    flux[:, 1] *= 2.0
    assert powerlaw.fit(flux, error, freq, 112.5e9).deviates.all()


def test_one_frequency_tells_no_index():
    flux, error, freq = measured(1.0, 10.0, freq=np.array([100e9, 100e9]))
    law = powerlaw.fit(flux, error, freq, 100e9)
    assert np.isnan(law.index).all() and np.isfinite(law.flux).all()
    np.testing.assert_allclose(law.error, 1e-4 / np.sqrt(2))
    # Nor do two that are nearly one.
    law = powerlaw.fit(*measured(1.0, 10.0, freq=np.array([100e9, 101e9])), 100e9)
    assert np.isnan(law.index).all() and not law.deviates.any()


def test_two_measurements_near_each_other_that_no_index_explains_are_said():
    flux, error = np.array([[1e-3, 2e-3]]), np.array([[5e-5, 5e-5]])
    assert powerlaw.fit(flux, error, np.array([[100e9, 100.5e9]]), 100e9).deviates[0]


def test_a_steep_source_is_no_contradiction_where_the_index_is_not_known():
    law = powerlaw.fit(*measured(4.0, 5.0, n=2000, freq=np.array([100e9, 121e9])), 110e9)
    unknown = np.isnan(law.index)
    assert unknown.sum() > 500 and law.deviates[unknown].mean() < 0.002


def test_nothing_is_extrapolated():
    law = powerlaw.fit(*measured(2.0, 50.0), 300e9)
    np.testing.assert_allclose(law.freq, 150e9)
    law = powerlaw.fit(np.array([[1e-3, np.nan]]), np.array([[1e-5, np.nan]]), np.array([[90e9, 150e9]]), 112e9)
    assert (law.flux[0], law.freq[0]) == pytest.approx((1e-3, 90e9))


def test_negative_and_missing_fluxes_do_no_harm():
    nan = np.nan
    flux = np.array([[-1e-3, -1e-3, -2e-3], [1e-3, -1e-4, 1e-3], [nan, nan, nan]])
    law = powerlaw.fit(flux, np.where(np.isnan(flux), nan, 1e-4), np.tile(FREQ[:3], (3, 1)), 100e9)
    assert np.isnan(law.index[0]) and law.flux[0] < 0 and law.number.tolist() == [3, 3, 0]
    assert np.isnan([law.flux[2], law.error[2], law.freq[2], law.index[2]]).all()
    assert powerlaw.fit(np.empty((0, 3)), np.empty((0, 3)), np.empty((0, 3)), 1e11).flux.shape == (0,)


def image_of(parts, errors):
    weight = errors**-2.0
    return (parts * weight).sum(axis=1) / weight.sum(axis=1), weight.sum(axis=1) ** -0.5


def test_an_image_is_split_into_its_parts_and_the_rest():
    flux, error, freq = measured(2.0, 20.0)
    image, image_error = image_of(flux, error)
    columns = [np.column_stack(pair) for pair in ((flux, image), (error, image_error))]
    columns.append(np.column_stack([freq, np.full(len(flux), FREQ.mean())]))
    parts = np.array([True, True, True, True, False])
    whole, _, _ = powerlaw.split(*columns, 4, parts)
    assert np.isnan(whole[:, 4]).all(), "all parts were measured"
    # Two of four were not: what is left is their mean.
    missing = [c.copy() for c in columns]
    missing[0][:, 2:4] = missing[1][:, 2:4] = np.nan
    rest, rest_error, rest_freq = powerlaw.split(*missing, 4, parts)
    np.testing.assert_allclose(rest[:, 4], flux[:, 2:].mean(axis=1))
    np.testing.assert_allclose(rest_error[:, 4], error[0, 0] / np.sqrt(2))
    np.testing.assert_allclose(rest_freq[:, 4], FREQ[2:].mean())
    # None was: the image is a measurement like others.
    alone = [c.copy() for c in columns]
    alone[0][:, :4] = alone[1][:, :4] = np.nan
    np.testing.assert_array_equal(powerlaw.split(*alone, 4, parts)[0][:, 4], image)


def test_a_rest_of_little_weight_tells_nothing():
    """Three of four parts with most of the weight: errors of the flux scale would be all that is left."""
    flux, error, freq = measured(2.0, 20.0)
    error[:, 3] *= 3.0
    image, image_error = image_of(flux, error)
    flux[:, 3] = error[:, 3] = np.nan
    columns = [np.column_stack(pair) for pair in ((flux, image), (error, image_error), (freq, np.full(400, 112.5e9)))]
    assert np.isnan(powerlaw.split(*columns, 4, np.array([True] * 4 + [False]))[0][:, 4]).all()
