"""The networks' inputs: the same numbers from numpy and from torch, and the scale kept."""

from __future__ import annotations

import numpy as np
import pytest

from casa_deepfocus.core import preprocessing


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(11)


def maps(rng: np.random.Generator, *shape: int) -> np.ndarray:
    """Noise with a few values of very different size."""
    out = rng.normal(0.0, 1.0, shape).astype(np.float32)
    out.flat[:: out.size // 5] *= np.float32(1000.0)
    return out


@pytest.mark.parametrize("function", [preprocessing.blobs_finder_input, preprocessing.deep_gru_input])
def test_compression_agrees_between_numpy_and_torch(function, rng):
    torch = pytest.importorskip("torch")
    data = maps(rng, 2, 24, 32)
    ours, theirs = function(data), function(torch.from_numpy(data))
    assert ours.dtype == np.float32
    assert theirs.dtype == torch.float32
    np.testing.assert_allclose(ours, theirs.numpy(), rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("batch", [(), (3,), (2, 3)])
def test_stamps_agree_between_numpy_and_torch(batch, rng):
    torch = pytest.importorskip("torch")
    size = preprocessing.STAMP
    stamp, psf = maps(rng, *batch, size, size), maps(rng, *batch, size, size)
    sigma = rng.uniform(0.5, 2.0, batch).astype(np.float32)
    ours = preprocessing.resnet_input(stamp, psf, np.asarray(sigma))
    theirs = preprocessing.resnet_input(torch.from_numpy(stamp), torch.from_numpy(psf), torch.as_tensor(sigma))
    assert ours.shape == tuple(theirs.shape) == (*batch, 3, size, size)
    assert ours.dtype == np.float32
    np.testing.assert_allclose(ours, theirs.numpy(), rtol=1e-5, atol=1e-6)
    peaks = preprocessing.stamp_peak(stamp)
    np.testing.assert_array_equal(peaks, preprocessing.stamp_peak(torch.from_numpy(stamp)).numpy())


def test_planes_of_a_stamp(rng):
    size = preprocessing.STAMP
    stamp = np.zeros((size, size), np.float32)
    stamp[size // 2 + 1, size // 2] = 4.0
    stamp[0, 0] = 100.0
    psf = rng.random((size, size)).astype(np.float32)
    planes = preprocessing.resnet_input(stamp, psf, np.float32(0.5))
    assert preprocessing.stamp_peak(stamp) == 4.0
    assert planes[0].max() == 25.0
    assert planes[0, size // 2 + 1, size // 2] == 1.0
    np.testing.assert_array_equal(planes[1], psf)
    assert planes[2, size // 2 + 1, size // 2] == pytest.approx(np.arcsinh(8.0) / 3.0)


def test_the_peak_is_never_zero_or_negative():
    torch = pytest.importorskip("torch")
    blank = -np.ones((2, 32, 32), np.float32)
    for peak in (preprocessing.stamp_peak(blank), preprocessing.stamp_peak(torch.from_numpy(blank)).numpy()):
        assert (peak > 0.0).all()


def test_the_scale_is_kept(rng):
    data = maps(rng, 16, 16)
    for function, divisor in ((preprocessing.blobs_finder_input, 3.0), (preprocessing.deep_gru_input, 2.0)):
        assert not np.allclose(function(data), function(2.0 * data))
        np.testing.assert_allclose(np.sinh(divisor * function(data)), data, rtol=1e-4, atol=1e-5)
        assert function(np.zeros(3, np.float32)).tolist() == [0.0] * 3
        assert function(np.float32(1000.0)) < 4.0
