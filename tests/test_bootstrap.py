"""Bootstrap errors against the scatter of independent experiments; the ideal filter against noise."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage, stats
from skimage.feature import peak_local_max

from casa_deepfocus.core.matching import Sources, match_physical
from casa_deepfocus.core.residuals import line_flux_accuracy, summarise
from casa_deepfocus.core.scores import match_deepfocus, score_deepfocus, score_physical
from training.bootstrap import Bootstrap, poisson_upper, score_errors
from training.ideal import false_alarms_per_cube, ideal_filter, noise_peaks, threshold
from training.score import Score


def test_the_error_of_a_ratio_is_the_scatter_of_repeated_experiments():
    rng = np.random.default_rng(2)
    n_fields, trials = 60, 300
    # Sources of one field share their luck, so counting sources alone would make the error too small.
    field = np.repeat(np.arange(n_fields), 5)
    shares, errors = [], []
    for _ in range(trials):
        hit = rng.random(field.size) < rng.uniform(0.2, 1.0, n_fields)[field]
        shares.append(hit.mean())
        errors.append(Bootstrap(np.arange(n_fields), 200).ratio(hit, np.ones(field.size), field))
    naive = np.sqrt(0.6 * 0.4 / field.size)
    assert np.std(shares) > 1.2 * naive
    assert np.mean(errors) == pytest.approx(np.std(shares), rel=0.1)


def test_errors_of_mean_and_scatter():
    rng = np.random.default_rng(3)
    field, values = np.arange(400), rng.normal(3.0, 2.0, 400)
    sample = Bootstrap(field)
    assert sample.mean(values, field) == pytest.approx(2.0 / np.sqrt(400), rel=0.1)
    assert sample.std(values, field) == pytest.approx(2.0 / np.sqrt(800), rel=0.15)
    assert sample.total(np.ones(400), field) == pytest.approx(0.0, abs=1e-9)
    assert np.isnan(sample.mean(values[:0], field[:0]))
    assert sample.weights(0, field).sum() == 400


def planted(n_fields: int = 40) -> Score:
    rng = np.random.default_rng(4)
    field = np.repeat(np.arange(n_fields), 2)
    truth = Sources.build(
        x=np.tile([50.0, 90.0], n_fields), y=50.0, beam=6.0, field=field, chan=64.0, line_fwhm=8.0, fwhm_maj=5.0,
        fwhm_min=3.0, pa=30.0, line_flux=2.0, continuum=0.0, snr=rng.uniform(3.0, 30.0, field.size),
    )  # fmt: skip
    found = truth.take(np.flatnonzero(rng.random(field.size) < truth.snr / 15.0))
    matching, boxes = match_physical(truth, found), match_deepfocus(truth, found, 128)
    return Score(
        truth=truth,
        found=found,
        matching=matching,
        boxes=boxes,
        physical=score_physical(truth, found, matching),
        deepfocus=score_deepfocus(truth, found, boxes),
        residuals=summarise(truth, found, matching.pairs),
        residuals_all=summarise(truth, found, matching.pairs, 0.0),
        line_flux=line_flux_accuracy(truth, found, matching.pairs),
        empty={"n_fields": 0, "false_alarms": 0},
    )


def test_errors_stand_under_the_names_of_the_scores():
    score = planted()
    errors = score_errors(score, np.arange(50))
    p = score.physical
    assert 0.3 < p["recall"] < 0.95
    assert errors["physical"]["recall"] == pytest.approx(np.sqrt(p["recall"] * (1 - p["recall"]) / 80), rel=0.3)
    assert errors["physical"]["precision"] == 0.0
    assert 0.1 < errors["physical"]["snr50"] < 3.0
    assert len(errors["physical"]["completeness"]) == len(p["completeness"])
    assert errors["deepfocus"]["recall"] == pytest.approx(errors["physical"]["recall"])
    assert set(errors["residuals"]) == set(score.residuals)
    assert errors["residuals"]["x"]["bias"] == 0.0
    assert np.isnan(errors["residuals"]["continuum"]["bias"])


def test_the_upper_limit_of_no_events_is_three():
    assert poisson_upper(0) == pytest.approx(-np.log(0.05))
    assert stats.poisson.cdf(4, poisson_upper(4)) == pytest.approx(0.05)


@pytest.mark.parametrize(
    ("dimensions", "size", "level", "sigma"),
    [(1, (400_000,), 3.0, 2.5), (2, (900, 900), 3.0, 2.5), (3, (160, 160, 160), 3.5, 2.0)],
)
def test_peaks_of_smooth_noise_follow_the_law(dimensions, size, level, sigma):
    rng = np.random.default_rng(5)
    field = ndimage.gaussian_filter(rng.standard_normal(size), sigma, mode="wrap")
    field /= field.std()
    peaks = peak_local_max(field, min_distance=1, threshold_abs=level, exclude_border=False)
    # White noise smoothed with sigma has the mean square slope 1 / (2 sigma^2).
    expected = noise_peaks(level, np.prod(size) / (np.sqrt(2.0) * sigma) ** dimensions, dimensions)
    assert expected > 100
    assert len(peaks) == pytest.approx(expected, rel=4.0 / np.sqrt(expected) + 0.05)


def sources(**more) -> Sources:
    columns = {
        "y": 50.0, "beam": 8.0, "fwhm_maj": 5.0, "fwhm_min": 5.0, "chan": 64.0, "line_fwhm": 8.0, "continuum": 0.0,
        "snr": 10.0, "snr_total": 10.0, **more,
    }  # fmt: skip
    return Sources.build(x=np.full(np.size(more.get("field", 0)), 50.0), **columns)


def test_the_ideal_filter_finds_half_at_its_threshold():
    ideal = ideal_filter(sources(), 360 * 360, 128, 0.05)
    assert noise_peaks(ideal.blind[0], 360**2 / 4.53**2 * 128 / 4.80, 3) == pytest.approx(0.05, rel=0.02)
    assert 4.5 < ideal.snr50 < 6.0
    assert ideal.snr50 == pytest.approx(ideal.blind[0], abs=1e-3)
    curve = ideal.completeness([ideal.snr50 - 2.0, ideal.snr50, ideal.snr50 + 2.0])
    np.testing.assert_allclose(curve, stats.norm.cdf([-2.0, 0.0, 2.0]), atol=1e-3)
    assert ideal_filter(sources(), 360 * 360, 128, 0.005).snr50 > ideal.snr50 + 0.3


def test_a_continuum_leads_the_ideal_filter_to_the_line():
    pair = sources(field=[1, 2], snr_total=[10.0, np.hypot(10.0, 40.0)], continuum=[0.0, 1.0])
    ideal = ideal_filter(pair, 360 * 360, 128, 0.05)
    assert ideal.guided[1] < ideal.blind[1] - 1.0
    assert ideal.probability(4.0)[1] > 0.5 > ideal.probability(4.0)[0]
    alone = ideal_filter(sources(chan=np.nan), 360 * 360, 128, 0.05)
    assert alone.blind[0] < ideal.blind[0]


def test_rates_and_their_limits():
    assert false_alarms_per_cube(0, 200) == pytest.approx(0.0025)
    assert np.isnan(false_alarms_per_cube(0, 0))
    assert threshold(1e9, 10.0, 2) == 1.5
    assert np.isnan(threshold(np.nan, 10.0, 2))
    assert np.isnan(ideal_filter(sources(), np.nan, 128, 0.1).snr50)
