"""Spectral focusing and the two SNRs, in sigma."""

import numpy as np
import pytest

from casa_deepfocus.core.boxes import Box
from casa_deepfocus.core.focusing import (
    FOCUS_HALF_WIDTH,
    aperture,
    brightest_pixel,
    focus,
    focus_range,
    global_snr,
    pixel_snr,
    refine_position,
    snr_increases,
)
from casa_deepfocus.core.geometry import gaussian_image, shape_to_covariance
from casa_deepfocus.core.spectra import Peak
from casa_deepfocus.errors import DataError, ParameterError


def source(shape=(40, 50), x=22.3, y=17.6, fwhm=(7.0, 6.0, 30.0)):
    return gaussian_image(shape, x, y, shape_to_covariance(*fwhm))


class TestFocus:
    def test_sum_and_noise(self):
        rng = np.random.default_rng(0)
        cube = rng.normal(size=(20, 12, 14)).astype(np.float32)
        sigma = rng.uniform(0.5, 2.0, 20)
        image, noise = focus(cube, 3, 7, sigma)
        np.testing.assert_allclose(image, cube[3:8].sum(axis=0), rtol=1e-5, atol=1e-6)
        assert image.dtype == np.float32
        assert noise == pytest.approx(np.sqrt((sigma[3:8] ** 2).sum()))

    def test_the_noise_is_the_rms_of_the_sum(self):
        sigma = np.linspace(0.5, 2.0, 16)
        cube = np.random.default_rng(1).normal(size=(16, 100, 100)) * sigma[:, None, None]
        image, noise = focus(cube.astype(np.float32), 2, 11, sigma)
        assert np.std(image) == pytest.approx(noise, rel=0.03)

    @pytest.mark.parametrize("centre", [(7.2, 5.9), (0, 0), (13, 11), (6, -2)])
    def test_crop_is_the_padded_image(self, centre):
        cube = np.random.default_rng(2).normal(size=(4, 12, 14)).astype(np.float32)
        whole, _ = focus(cube, 0, 3, np.ones(4))
        crop, _ = focus(cube, 0, 3, np.ones(4), centre, 8)
        padded = np.pad(whole, 20, constant_values=np.nan)
        x, y = round(centre[0]) + 20, round(centre[1]) + 20
        np.testing.assert_array_equal(crop, padded[y - 4 : y + 4, x - 4 : x + 4])

    def test_crop_beyond_the_image_is_nan(self):
        image, noise = focus(np.ones((2, 5, 5)), 0, 1, np.ones(2), (100, 100), 8)
        assert np.isnan(image).all() and image.shape == (8, 8) and np.isnan(noise)

    def test_masked_pixels_and_channels(self):
        cube = np.ones((5, 6, 6), dtype=np.float32)
        cube[1, 2, 2] = np.nan
        cube[:, 4, 4] = np.nan
        cube[3] = np.nan
        cube[4] = 1e9
        image, noise = focus(cube, 0, 4, np.array([1.0, 1.0, 1.0, 1.0, np.nan]))
        assert image[0, 0] == 3.0 and image[2, 2] == 2.0 and np.isnan(image[4, 4])
        assert noise == pytest.approx(np.sqrt(3.0))
        image, noise = focus(cube, 3, 3, np.ones(5))
        assert np.isnan(image).all() and np.isnan(noise)

    def test_one_channel_cube(self):
        image, noise = focus(np.full((1, 3, 3), 2.0), 0, 0, np.array([0.5]))
        assert np.all(image == 2.0) and noise == 0.5

    def test_refusals(self):
        cube = np.ones((4, 3, 3))
        with pytest.raises(ParameterError, match="0 to 3"):
            focus(cube, 2, 4, np.ones(4))
        with pytest.raises(ParameterError, match="both"):
            focus(cube, 0, 1, np.ones(4), size=3)
        with pytest.raises(DataError, match="sigma"):
            focus(cube, 0, 1, np.ones(3))

    def test_the_range_is_the_best_for_a_gaussian_line(self):
        """Of all half-widths the default gives the highest SNR; integrating 2 FWHM loses 10 %."""
        line = np.exp(-4 * np.log(2) * ((np.arange(400) - 200) / 40.0) ** 2)

        def snr(half_width):
            low, high = focus_range(Peak.from_gaussian(200.0, 40.0, 1.0, 400), 400, half_width)
            return line[low : high + 1].sum() / np.sqrt(high - low + 1)

        tried = np.arange(0.3, 1.5, 0.1)
        assert tried[np.argmax([snr(w) for w in tried])] == pytest.approx(FOCUS_HALF_WIDTH)
        assert snr(1.0) / snr(FOCUS_HALF_WIDTH) == pytest.approx(0.9, abs=0.02)


class TestSnr:
    def test_does_not_change_with_the_unit(self):
        """The paper's ratio to the variance does; sigma does not."""
        image = 20.0 * source() + np.random.default_rng(3).normal(size=(40, 50))
        box = Box(19, 15, 26, 21)
        for sigma, scaled in ((1.0, 1e-3), (None, None)):
            assert global_snr(1e-3 * image, box, scaled) == pytest.approx(global_snr(image, box, sigma))
        np.testing.assert_allclose(pixel_snr(1e-3 * image, 1e-3), image)

    def test_global_snr_is_the_median_of_the_inscribed_circle(self):
        box = Box(19, 15, 26, 21)
        y, x = np.mgrid[:40, :50]
        inside = (x - 22.5) ** 2 + (y - 18.0) ** 2 <= 3.5**2
        image = 12.0 * source()
        assert inside.sum() > 30
        assert global_snr(image, box, 2.0) == pytest.approx(np.median(image[inside]) / 2.0)

    def test_annulus_measures_the_noise(self):
        image = np.random.default_rng(4).normal(0.0, 3.0, size=(200, 200))
        box = Box(80, 80, 119, 119)
        y, x = np.mgrid[:200, :200]
        image[(x - 99.5) ** 2 + (y - 99.5) ** 2 <= 20.0**2] += 30.0
        image[100, 121] = 1e6
        assert global_snr(image, box) == pytest.approx(10.0, rel=0.1)
        assert global_snr(image, box, 3.0) == pytest.approx(10.0, rel=0.05)

    def test_edges_and_nan(self):
        image = 10.0 * source(x=0.0, y=0.0)
        image[0, 0] = np.nan
        assert global_snr(image, Box(-3, -3, 3, 3), 1.0) > 5
        assert np.isnan(global_snr(np.full((5, 5), np.nan), Box(1, 1, 3, 3), 1.0))
        assert np.isnan(global_snr(image, Box(100, 100, 104, 104), 1.0))
        for bad in (0.0, np.nan, -1.0):
            assert np.isnan(global_snr(image, Box(1, 1, 3, 3), bad))
            assert np.isnan(pixel_snr(image, bad)).all()
        assert np.isnan(global_snr(np.ones((9, 9)), Box(3, 3, 5, 5)))

    def test_one_pixel_box(self):
        assert global_snr(source(x=20, y=20), Box(20, 20, 20, 20), 0.1) > 8

    def test_aperture(self):
        """On the source, inside the box's own circle, and never larger than asked."""
        assert aperture(Box(10, 10, 20, 20), (12, 13), 3.0) == Box(9, 10, 15, 16)
        assert aperture(Box(10, 10, 13, 20), (12, 13), 9.0) == Box(10, 11, 14, 15)
        assert aperture(Box(10, 10, 10, 10), None, 3.0) == Box(9, 9, 11, 11)

    def test_increase(self):
        assert snr_increases(3.0, 3.1) and not snr_increases(3.0, 3.0)
        assert not snr_increases(3.0, 3.1, 1.1)
        assert snr_increases(np.nan, 1.0) and not snr_increases(1.0, np.nan)


class TestPosition:
    def test_brightest_pixel_and_its_refinement(self):
        image = source()
        assert brightest_pixel(image, Box(15, 10, 30, 25)) == (22, 18)
        x, y = refine_position(image, 22, 18)
        assert (x, y) == pytest.approx((22.3, 17.6), abs=0.06)

    def test_a_slope_is_no_source(self):
        image = source()
        region = Box(26, 10, 33, 25)
        assert image[region.slices].max() > 0.3
        assert brightest_pixel(image, region) is None
        faint = image + 0.5 * source(x=31.0, y=17.0, fwhm=(4, 4, 0))
        assert brightest_pixel(faint, region) == (31, 17)

    def test_edges_and_nan(self):
        image = source(x=0.0, y=0.0)
        assert brightest_pixel(image, Box(-2, -2, 4, 4)) == (0, 0)
        assert refine_position(image, 0, 0) == (0.0, 0.0)
        image[1, 0] = np.nan
        assert brightest_pixel(image, Box(0, 0, 4, 4)) == (0, 0)
        assert brightest_pixel(np.full((5, 5), np.nan), Box(0, 0, 4, 4)) is None
