"""The PSF operator against analytic truths."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import fft

from casa_deepfocus.core.geometry import gaussian_image, shape_to_covariance
from casa_deepfocus.core.psf import Imager, gaussian_psf, gaussian_transform, place_psf


def test_gaussian_transform_is_the_gaussian():
    covariance = shape_to_covariance(7.0, 4.0, 30.0)
    image = fft.irfft2(gaussian_transform((64, 80), 33.25, 20.5, covariance), s=(64, 80))
    expected = gaussian_image((64, 80), 33.25, 20.5, covariance)
    assert image.sum() == pytest.approx(1.0, abs=1e-5)
    np.testing.assert_allclose(image, expected / expected.sum(), atol=1e-6)


def test_point_through_gaussian_psf_is_the_beam():
    psf = gaussian_psf([[0.8, 0.5, 60.0]], 0.1, (96, 96))
    imager = Imager(psf, (48, 48))
    data = np.zeros((2, 48, 48), np.float32)
    transform = gaussian_transform(imager.grid, 30.0, 12.0, np.zeros(3))[None]
    imager.subtract(data, transform, np.array([[-2.0, 0.0]]))
    np.testing.assert_allclose(
        data[0], 2.0 * gaussian_image((48, 48), 30.0, 12.0, shape_to_covariance(8, 5, 60)), atol=2e-4
    )
    assert not data[1].any()


def test_far_side_of_the_field_is_linear_not_circular():
    rng = np.random.default_rng(5)
    psf = rng.standard_normal((64, 64)).astype(np.float32)
    psf = fft.irfft2(
        fft.rfft2(psf) * np.exp(-8 * np.hypot(*np.meshgrid(fft.rfftfreq(64), fft.fftfreq(64))) ** 2), s=(64, 64)
    )
    psf = (psf / psf[32, 32]).astype(np.float32)[None]
    imager = Imager(psf, (32, 32))
    data = np.zeros((1, 32, 32), np.float32)
    imager.subtract(data, gaussian_transform(imager.grid, 1.0, 2.0, np.zeros(3))[None], np.array([[-1.0]]))
    smooth = fft.irfft2(
        fft.rfft2(place_psf(psf[0], imager.grid)) * gaussian_transform(imager.grid, 0.0, 0.0, np.zeros(3)),
        s=imager.grid,
    )
    expected = np.roll(np.roll(smooth, 2, axis=0), 1, axis=1)[:32, :32]
    np.testing.assert_allclose(data[0], expected, atol=1e-4)


@pytest.mark.parametrize("shape", [(9, 9), (10, 12), (31, 40)])
def test_place_psf_keeps_the_centre(shape):
    psf = np.zeros(shape, np.float32)
    psf[shape[0] // 2, shape[1] // 2] = 1.0
    assert place_psf(psf, (20, 24))[0, 0] == 1.0


def test_response_and_stamp_agree():
    psf = gaussian_psf([[0.8, 0.5, 60.0]], 0.1, (96, 96))
    imager = Imager(psf, (48, 48))
    assert imager.response(0, (30.0, 33.0), (32.0, 30.0)) == pytest.approx(float(imager.stamp(0, 20)[23, 18]))
    assert imager.response(0, (0.0, 1000.0), (0.0, 0.0)) == 0.0


class Tilted:
    """K(x, x0) = (1 + x / 40) / (1 + x0 / 40): an image that was divided by a tilted noise."""

    def on(self, x, y, x0, y0):
        return np.tile((1.0 + x / 40.0) / (1.0 + x0 / 40.0), (len(y), 1)).astype(np.float32)


@pytest.mark.parametrize("tolerance", [1e-4, 0.0])
def test_a_modulation_changes_what_is_far_from_a_source(tolerance):
    cube = np.repeat(gaussian_psf([[2.8, 2.5, 60.0]], 0.1, (96, 96)), 3, axis=0)
    imager = Imager(cube, (48, 48), tolerance=tolerance, modulation=Tilted())
    plain, modulated = np.zeros((2, 3, 48, 48), np.float32)
    transform = gaussian_transform(imager.grid, 30.0, 12.0, np.zeros(3))[None]
    spectrum = np.array([[-2.0, 0.0, -1.0]])
    Imager(cube, (48, 48), tolerance=tolerance).subtract(plain, transform, spectrum)
    imager.subtract(modulated, transform, spectrum, [(30.0, 12.0)])
    assert plain[0, 12, 30] > 1.0
    factor = (1.0 + np.arange(48) / 40.0) / (1.0 + 30.0 / 40.0)
    np.testing.assert_allclose(modulated, plain * factor, atol=1e-5)
    expected = float(cube[0][48, 48 - 20]) * factor[10]
    assert imager.response(0, (10.0, 12.0), (30.0, 12.0)) == pytest.approx(expected, rel=1e-5)
