"""The 3D model and its dilated mask."""

import numpy as np
import pytest

from casa_deepfocus.core.geometry import gaussian_image, shape_to_covariance
from casa_deepfocus.core.model3d import (
    dilate,
    gaussian_model,
    observed_covariance,
    segmentation,
    source_mask,
)
from casa_deepfocus.errors import ParameterError

SHAPE = (64, 80, 90)
COVARIANCE = shape_to_covariance(12.0, 6.0, 30.0)


def whole(slices, part, dtype=float):
    """A sub-cube in its place."""
    cube = np.zeros(SHAPE, dtype=dtype)
    cube[slices] = part
    return cube


def test_model_is_the_product_of_image_and_line():
    slices, model = gaussian_model(SHAPE, 40.3, 35.6, COVARIANCE, 30.2, 8.0, level=1e-3)
    assert model.dtype == np.float32 and model.shape == tuple(s.stop - s.start for s in slices)
    line = np.exp(-4 * np.log(2) * ((np.arange(64) - 30.2) / 8.0) ** 2)
    truth = line[:, None, None] * gaussian_image(SHAPE[1:], 40.3, 35.6, COVARIANCE)
    outside = truth.copy()
    outside[slices] = 0.0
    assert truth.max() > 0.98 and outside.max() < 1e-3
    np.testing.assert_allclose(model, truth[slices], atol=1e-6)
    assert model.size < 0.5 * truth.size


@pytest.mark.parametrize(("x", "y", "chan"), [(0.0, 0.0, 0.0), (89.0, 79.0, 63.0), (-3.0, 40.0, 30.0)])
def test_model_is_clipped_to_the_cube(x, y, chan):
    slices, model = gaussian_model(SHAPE, x, y, COVARIANCE, chan, 8.0)
    assert whole(slices, model).sum() > 0
    assert all(0 <= s.start <= s.stop <= n for s, n in zip(slices, SHAPE, strict=True))


def test_outside_the_cube_is_empty():
    slices, mask = source_mask(SHAPE, -100.0, 40.0, COVARIANCE, 30.0, 8.0)
    assert mask.size == 0 and not whole(slices, mask, bool).any()


def test_source_without_a_line_spans_the_band():
    slices, model = gaussian_model(SHAPE, 40.0, 35.0, COVARIANCE, np.nan, np.nan)
    assert slices[0] == slice(0, 64)
    np.testing.assert_array_equal(model, model[:1].repeat(64, axis=0))
    _, mask = source_mask(SHAPE, 40.0, 35.0, COVARIANCE, np.nan, np.nan)
    assert mask.any(axis=(1, 2)).all()


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_dilation_multiplies_the_extent_of_every_axis(axis):
    round_shape = shape_to_covariance(10.0, 10.0, 0.0)
    level = 0.15
    small = source_mask(SHAPE, 44.0, 39.0, round_shape, 31.0, 14.0, level=level, factor=1.0)
    large = source_mask(SHAPE, 44.0, 39.0, round_shape, 31.0, 14.0, level=level, factor=1.5)
    others = tuple(i for i in range(3) if i != axis)
    extents = [np.ptp(np.flatnonzero(whole(*m, bool).any(axis=others))) for m in (small, large)]
    assert extents[0] > 10
    assert extents[1] / extents[0] == pytest.approx(1.5, abs=0.15)
    assert whole(*large, bool).sum() / whole(*small, bool).sum() == pytest.approx(1.5**3, rel=0.1)


def test_the_mask_holds_what_it_says():
    slices, mask = source_mask(SHAPE, 44.2, 39.4, COVARIANCE, 31.3, 9.0)
    full = whole(*gaussian_model(SHAPE, 44.2, 39.4, COVARIANCE, 31.3, 9.0, level=1e-9))
    held = full[slices][mask].sum() / full.sum()
    assert held == pytest.approx(0.96, abs=0.01)
    undilated = segmentation(full)
    assert undilated.sum() < 0.5 * mask.sum() and full[undilated].sum() / full.sum() < 0.75


@pytest.mark.parametrize(("x", "chan"), [(40.5, 30.5), (40.49, 30.0)])
def test_a_tiny_source_still_has_a_pixel(x, chan):
    _, mask = source_mask(SHAPE, x, 35.5, shape_to_covariance(0.8, 0.8, 0.0), chan, 0.7, factor=1.0)
    assert mask.any()


def test_shapes_add():
    np.testing.assert_allclose(observed_covariance([1, 2, 0.5], [3, 3, 0]), [4, 5, 0.5])
    covariance, width = dilate([1.0, 2.0, 0.5], 4.0, 2.0)
    np.testing.assert_allclose(covariance, [4, 8, 2])
    assert width == 8.0


def test_refusals():
    with pytest.raises(ParameterError, match="positive definite"):
        gaussian_model(SHAPE, 1, 1, (1.0, 1.0, 2.0), 3, 3)
    with pytest.raises(ParameterError, match="level"):
        gaussian_model(SHAPE, 1, 1, COVARIANCE, 3, 3, level=1.0)
    with pytest.raises(ParameterError, match="fwhm_chan"):
        gaussian_model(SHAPE, 1, 1, COVARIANCE, 3, 0.0)
    with pytest.raises(ParameterError, match="factor"):
        dilate(COVARIANCE, 3.0, 0.0)
