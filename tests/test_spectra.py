"""Spectra, peaks and the continuum under a line: planted truths are recovered."""

import numpy as np
import pytest

from casa_deepfocus.core.boxes import Box, box_of
from casa_deepfocus.core.spectra import (
    Linear,
    Peak,
    channel_range,
    extract_spectrum,
    find_peaks,
    fit_continuum_under_line,
    off_line_channels,
    relative_continuum,
    standardise_spectrum,
)
from casa_deepfocus.errors import DataError, DeepFocusError, ParameterError


def line(nchan, chan, fwhm):
    """Deep GRU's ideal answer: a Gaussian of height 1."""
    return np.exp(-4.0 * np.log(2.0) * ((np.arange(nchan) - chan) / fwhm) ** 2)


class TestBox:
    def test_inclusive(self):
        box = Box(2, 3, 5, 3)
        assert (box.width, box.height, box.area, box.centre) == (4, 1, 4, (3.5, 3.0))
        assert np.zeros((9, 9))[box.slices].shape == (1, 4)
        assert box.contains(5.4, 3.4) and not box.contains(5.6, 3.0)

    def test_iou(self):
        assert Box(0, 0, 3, 3).iou(Box(0, 0, 3, 3)) == 1.0
        assert Box(0, 0, 3, 3).iou(Box(2, 0, 5, 3)) == pytest.approx(8 / 24)
        assert Box(0, 0, 3, 3).iou(Box(4, 0, 5, 3)) == 0.0
        assert Box(0, 0, 3, 3).intersects(Box(3, 3, 4, 4)) and not Box(0, 0, 3, 3).intersects(Box(4, 0, 5, 3))

    def test_move(self):
        assert Box(0, 0, 1, 1).grow(1).shift(1, 2) == Box(0, 1, 3, 4)
        assert Box(0, 0, 1, 1).union(Box(3, -1, 4, 0)) == Box(0, -1, 4, 1)
        assert Box(-3, 2, 40, 4).clip((10, 20)) == Box(0, 2, 19, 4)

    def test_outside_is_refused(self):
        with pytest.raises(ParameterError, match="20 x 10"):
            Box(20, 0, 25, 5).clip((10, 20))

    def test_box_of(self):
        mask = np.zeros((8, 9), dtype=bool)
        mask[2, 3] = mask[5, 7] = True
        assert box_of(mask) == Box(3, 2, 7, 5)
        with pytest.raises(ParameterError):
            box_of(mask & False)


class TestExtractSpectrum:
    def test_sum_of_the_box(self):
        cube = np.arange(3 * 6 * 7, dtype=np.float32).reshape(3, 6, 7)
        spectrum = extract_spectrum(cube, Box(1, 2, 3, 4))
        assert spectrum.dtype == np.float64
        np.testing.assert_allclose(spectrum, cube[:, 2:5, 1:4].sum(axis=(1, 2)))

    @pytest.mark.parametrize("whole", [True, False])
    def test_weights_of_the_image_or_of_the_box(self, whole):
        rng = np.random.default_rng(1)
        cube = rng.normal(size=(4, 6, 7)).astype(np.float32)
        weights = rng.random((6, 7))
        box = Box(-1, 2, 3, 4)
        given = weights if whole else np.pad(weights, ((0, 0), (1, 0)))[2:5, 0:5]
        expected = (cube[:, 2:5, 0:4] * weights[2:5, 0:4]).sum(axis=(1, 2))
        np.testing.assert_allclose(extract_spectrum(cube, box, given), expected, rtol=1e-6)

    def test_wrong_weights(self):
        with pytest.raises(DataError, match="weights"):
            extract_spectrum(np.zeros((2, 5, 5)), Box(0, 0, 1, 1), np.zeros((3, 3)))

    def test_nan_pixels_are_skipped_and_nan_channels_stay(self):
        cube = np.ones((3, 4, 4), dtype=np.float32)
        cube[0, 1, 1] = np.nan
        cube[2] = np.nan
        np.testing.assert_array_equal(extract_spectrum(cube, Box(0, 0, 3, 3)), [15.0, 16.0, np.nan])
        assert np.isnan(cube[0, 1, 1])

    def test_big_endian_equals_little(self):
        cube = np.random.default_rng(2).normal(size=(3, 4, 4)).astype(np.float32)
        np.testing.assert_array_equal(
            extract_spectrum(cube.astype(">f4"), Box(0, 0, 2, 2)), extract_spectrum(cube, Box(0, 0, 2, 2))
        )


class TestStandardise:
    @pytest.mark.parametrize(("width", "height"), [(0, 0.0), (5, 20.0), (51, 3.0), (51, 8.0), (51, 300.0)])
    def test_a_line_does_not_bias_level_or_noise(self, width, height):
        """A line over up to 40 % of the band, faint or bright, on an offset."""
        levels, noises = [], []
        for seed in range(30):
            spectrum = 7.0 + 2.0 * np.random.default_rng(seed).normal(size=128)
            truth = np.zeros(128, dtype=bool)
            truth[40 : 40 + width] = True
            spectrum[truth] += 2.0 * height
            standardised, sigma = standardise_spectrum(spectrum)
            noises.append(sigma)
            levels.append(np.mean(standardised[~truth]))
        assert np.mean(noises) == pytest.approx(2.0, rel=0.05)
        assert np.std(noises) < 0.4
        assert abs(np.mean(levels)) < 0.05
        assert np.max(np.abs(levels)) < 0.6

    def test_the_naive_way_is_biased(self):
        """The truth above is not trivial: mean and standard deviation of all channels fail."""
        spectrum = np.random.default_rng(0).normal(size=128)
        spectrum[40:91] += 8.0
        assert np.std(spectrum) > 3.0 and np.mean(spectrum) > 2.5

    def test_gaussian_line_with_wings(self):
        rng = np.random.default_rng(3)
        spectrum = rng.normal(size=200) + 30.0 * line(200, 90, 50)
        standardised, sigma = standardise_spectrum(spectrum)
        assert sigma == pytest.approx(1.0, abs=0.25)
        assert standardised[90] == pytest.approx(30.0, rel=0.3)

    def test_correlated_channels(self):
        """Hanning smoothing lowers the channel-to-channel differences, not what is measured here."""
        rng = np.random.default_rng(4)
        noise = np.convolve(rng.normal(size=514), [0.25, 0.5, 0.25], mode="valid")
        truth = np.sqrt(0.375)
        assert np.std(np.diff(noise)) / np.sqrt(2) < 0.75 * truth
        _, sigma = standardise_spectrum(noise + 10 * line(512, 100, 20))
        assert sigma == pytest.approx(truth, rel=0.12)

    def test_nan_channels_become_zero(self):
        spectrum = np.random.default_rng(5).normal(size=64)
        spectrum[[0, 10, 63]] = np.nan
        standardised, sigma = standardise_spectrum(spectrum)
        assert np.all(standardised[[0, 10, 63]] == 0) and np.isfinite(standardised).all()
        assert sigma == pytest.approx(1.0, abs=0.3)
        assert not off_line_channels(spectrum)[10]

    @pytest.mark.parametrize("nchan", [4, 6, 8, 12])
    def test_a_handful_of_channels(self, nchan):
        heights = []
        for seed in range(40):
            spectrum = np.random.default_rng(seed).normal(size=nchan)
            spectrum[1 : 1 + max(1, (2 * nchan) // 5)] += 30.0
            standardised, sigma = standardise_spectrum(spectrum)
            assert sigma < 12.0
            heights.append(standardised[1])
        assert np.median(heights) > 10.0

    @pytest.mark.parametrize("width", [0, 5])
    def test_few_channels_are_not_clipped_away(self, width):
        """From 16 channels the noise is rarely underestimated by a factor of two."""
        noises = []
        for seed in range(200):
            spectrum = np.random.default_rng(seed).normal(size=16)
            spectrum[5 : 5 + width] += 8.0
            noises.append(standardise_spectrum(spectrum)[1])
        assert np.mean(noises) == pytest.approx(1.0, abs=0.12)
        assert np.mean(np.array(noises) < 0.5) < 0.1

    @pytest.mark.parametrize("spectrum", [[1.0], [np.nan], [np.nan] * 5, [2.0] * 20, [1.0, 5.0], [1.0, np.nan, 2.0]])
    def test_nothing_to_measure(self, spectrum):
        standardised, sigma = standardise_spectrum(np.array(spectrum))
        assert sigma == 0.0 and np.all(standardised == 0.0) and standardised.shape == (len(spectrum),)


class TestFindPeaks:
    def test_two_lines(self):
        first, second = find_peaks(np.maximum(line(128, 40.3, 9.0), 0.6 * line(128, 71.0, 14.0)))
        assert first.chan == pytest.approx(40.3, abs=0.05) and first.fwhm == pytest.approx(9.0, rel=0.03)
        assert second.chan == pytest.approx(71.0, abs=0.1) and second.fwhm == pytest.approx(14.0, rel=0.03)
        assert second.height == pytest.approx(0.6)
        assert (first.chan0, first.chan1) == (32, 49)

    @pytest.mark.parametrize("chan", [0.0, 63.0, 0.4, -2.0])
    def test_border(self, chan):
        (peak,) = find_peaks(line(64, chan, 8.0))
        assert 0 <= peak.chan <= 63 and peak.chan == pytest.approx(np.clip(chan, 0, 63), abs=2.0)
        assert 0 <= peak.chan0 <= peak.chan1 <= 63

    def test_one_plateau_is_one_peak(self):
        profile = np.zeros(60)
        profile[20:40] = 1.0
        profile[[24, 30, 36]] = [0.97, 0.9, 0.99]
        (peak,) = find_peaks(profile)
        assert peak.chan == pytest.approx(29.5, abs=1.0) and peak.fwhm == pytest.approx(20.0, rel=0.2)

    def test_a_real_valley_separates(self):
        assert len(find_peaks(line(128, 50, 10) + line(128, 65, 10))) == 2
        assert len(find_peaks(line(128, 50, 10) + line(128, 57, 10))) == 1

    def test_threshold(self):
        assert find_peaks(0.09 * line(64, 30, 6)) == []
        assert len(find_peaks(0.11 * line(64, 30, 6))) == 1
        assert len(find_peaks(0.09 * line(64, 30, 6), threshold=0.05)) == 1

    def test_a_fit_that_runs_away_falls_back(self):
        """A spike on a broad foot: no Gaussian, so the half-height width counts."""
        profile = np.full(64, 0.45)
        profile[30:33] = [0.6, 1.0, 0.6]
        (peak,) = find_peaks(profile)
        assert peak.chan == pytest.approx(31.0, abs=0.5) and peak.fwhm < 6.0

    def test_narrow_and_degenerate(self):
        (peak,) = find_peaks(np.eye(1, 32, 7)[0])
        assert peak.chan == pytest.approx(7.0, abs=0.1) and 0.5 <= peak.fwhm <= 1.5
        assert find_peaks(np.zeros(16)) == [] and find_peaks(np.full(16, np.nan)) == []
        (peak,) = find_peaks(np.array([0.8]))
        assert (peak.chan, peak.chan0, peak.chan1) == (0.0, 0, 0)
        (peak,) = find_peaks(np.ones(16))
        assert (peak.chan0, peak.chan1) == (0, 15)

    def test_range(self):
        assert channel_range(10.2, 3.0, 64) == (8, 13)
        assert channel_range(10.4, 0.1, 64) == (10, 10)
        assert channel_range(1.0, 5.0, 64) == (0, 6)
        assert channel_range(70.0, 2.0, 64) == (63, 63)


class TestContinuum:
    def spectrum(self, nchan=128, seed=0):
        chan = np.arange(nchan)
        noise = np.random.default_rng(seed).normal(size=nchan)
        return 20.0 + 0.05 * (chan - 0.5 * (nchan - 1)) + noise + 50.0 * line(nchan, 100, 10)

    def test_line_does_not_enter(self):
        peak = Peak.from_gaussian(100.0, 10.0, 1.0, 128)
        fit = fit_continuum_under_line(self.spectrum(), [peak], 1.0)
        assert abs(fit.intercept - 20.0) < 4 * fit.intercept_err and fit.intercept_err < 0.12
        assert abs(fit.slope - 0.05) < 4 * fit.slope_err and 0 < fit.slope_err < 0.005
        assert fit.order == 1 and fit.centre == 63.5
        without = fit_continuum_under_line(self.spectrum(), [], 1.0)
        assert abs(without.intercept - 20.0) > 10 * without.intercept_err

    def test_errors_from_the_scatter_agree_with_errors_from_sigma(self):
        peak = Peak.from_gaussian(100.0, 10.0, 1.0, 128)
        given = fit_continuum_under_line(self.spectrum(), [peak], np.full(128, 1.0))
        own = fit_continuum_under_line(self.spectrum(), [peak])
        assert own.slope_err == pytest.approx(given.slope_err, rel=0.3)
        assert own.intercept == pytest.approx(given.intercept)

    def test_noisy_and_dead_channels(self):
        spectrum = self.spectrum()
        spectrum[5], spectrum[9] = np.nan, 1e6
        sigma = np.ones(128)
        sigma[9], sigma[11] = 1e7, np.nan
        fit = fit_continuum_under_line(spectrum, [Peak.from_gaussian(100.0, 10.0, 1.0, 128)], sigma)
        assert fit.intercept == pytest.approx(20.0, abs=0.5)

    def test_few_channels(self):
        spectrum = np.full(16, 4.0)
        whole = Peak(8.0, 5.0, 1.0, 0, 13)
        fit = fit_continuum_under_line(spectrum, [whole], 1.0)
        assert (fit.order, fit.intercept, fit.slope) == (0, 4.0, 0.0)
        assert fit.intercept_err == pytest.approx(1 / np.sqrt(2))
        none = fit_continuum_under_line(spectrum, [Peak(8.0, 5.0, 1.0, 0, 15)], 1.0)
        assert none.order == -1 and none.intercept == 0.0
        single = fit_continuum_under_line(np.array([4.0]), [])
        assert single.order == 0 and single.intercept == 4.0 and np.isnan(single.intercept_err)

    def test_no_slope_from_one_end_of_the_band(self):
        fit = fit_continuum_under_line(self.spectrum(), [Peak(60.0, 30.0, 1.0, 8, 127)], 1.0)
        assert fit.order == 0 and fit.slope == 0.0

    def test_relative_has_mean_one(self):
        model = Linear(20.0, 0.05, 63.5, 0.1, 0.003)
        relative = relative_continuum(model, 128)
        assert relative.mean() == pytest.approx(1.0) and relative[0] < 0.9
        weights = np.zeros(128)
        weights[:40] = 1.0
        low = relative_continuum(model, 128, weights)
        assert np.average(low, weights=weights) == pytest.approx(1.0)
        assert low[100] == pytest.approx(model(100) / model(np.arange(40)).mean())

    @pytest.mark.parametrize(
        "model",
        [
            Linear(0.1, 0.05, 63.5, 0.1, 0.003),
            Linear(0.0, 0.0, 63.5, order=-1),
            Linear(5.0, 0.0, 63.5, 0.1, order=0),
            Linear(1.0, 0.5, 63.5, 0.1, 0.1),
            Linear(5.0, 0.1, 63.5),
        ],
    )
    def test_relative_is_flat_where_it_cannot_be_known(self, model):
        np.testing.assert_array_equal(relative_continuum(model, 128), 1.0)


def test_errors_are_ours():
    assert issubclass(ParameterError, DeepFocusError) and issubclass(DataError, DeepFocusError)
