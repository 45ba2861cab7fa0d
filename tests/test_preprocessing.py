"""The networks' inputs: the same numbers from numpy and from torch, and the scale kept."""

from __future__ import annotations

import numpy as np
import pytest

from casa_deepfocus.core import preprocessing
from casa_deepfocus.errors import ParameterError


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


def psf_with_sidelobes(size: int) -> np.ndarray:
    """A beam of 5 pixels with rings of 25 % around it, peak 1 at (size // 2, size // 2)."""
    offset = np.arange(size) - size // 2
    radius = np.hypot(offset[:, None], offset[None, :])
    ring = 0.25 * np.cos(2 * np.pi * radius / 11.0) * np.exp(-(((radius - 22.0) / 9.0) ** 2))
    return (np.exp(-4 * np.log(2) * radius**2 / 25.0) + ring).astype(np.float32)


def dirty_map(side: int, psf: np.ndarray, sources: list[tuple[int, int, float]]) -> np.ndarray:
    out = np.zeros((side, side), np.float32)
    centre = psf.shape[0] // 2
    for x, y, flux in sources:
        out += flux * psf[centre - y : centre - y + side, centre - x : centre - x + side]
    return out


def test_clean_takes_sidelobes_away_and_leaves_sources(rng):
    side, sources = 96, [(30, 40, 200.0), (70, 60, 12.0), (30, 62, 15.0)]
    psf = psf_with_sidelobes(2 * side)
    noise = rng.normal(size=(side, side)).astype(np.float32) * 0.5
    dirty = dirty_map(side, psf, sources) + noise
    radius = np.min([np.hypot(*np.ogrid[-y : side - y, -x : side - x]) for x, y, _ in sources], axis=0)
    # The truth is not trivial: away from the sources the sidelobes are brighter than two of them.
    assert dirty[radius > 10].max() > 25.0
    cleaned = preprocessing.clean(dirty[None], psf[None])[0]
    # What is left of every source is below the level, its sidelobes a quarter of that.
    left = 0.25 * preprocessing.CLEAN_LEVEL * len(sources)
    assert left < 4.0 and np.abs(cleaned - noise)[radius > 10].max() < left
    for x, y, flux in sources:
        assert cleaned[y, x] == pytest.approx(flux, abs=2.5)


def test_clean_leaves_what_is_faint_and_what_is_blank(rng):
    psf = psf_with_sidelobes(128)
    faint = np.clip(rng.normal(size=(2, 64, 64)), -4.9, 4.9).astype(np.float32)
    np.testing.assert_array_equal(preprocessing.clean(faint, psf[None]), faint)
    seen = np.ones((2, 64, 64), bool)
    seen[:, :, 40:] = False
    bright = (faint + dirty_map(64, psf, [(20, 30, 100.0)])) * seen
    cleaned = preprocessing.clean(bright, psf[None], seen)
    assert (cleaned[~seen] == 0).all() and np.abs(cleaned[seen]).max() > 90
    # A PSF without sidelobes accounts for nothing but the sources themselves.
    point = np.ones((1, 1, 1), np.float32)
    np.testing.assert_array_equal(preprocessing.clean(bright, point, seen), bright)


@pytest.mark.parametrize("shared", [True, False])
def test_planes_agree_between_numpy_and_torch_and_do_not_depend_on_the_batch(rng, shared):
    torch = pytest.importorskip("torch")
    psf = psf_with_sidelobes(96)
    psfs = np.stack([psf] if shared else [psf, psf.T * np.float32(1.0), psf[:, ::-1] + np.float32(0.0)])
    if not shared:
        psfs[2] = np.roll(psfs[2], 1, axis=1)
    skies = [[(20, 20, 300.0)], [(8, 30, 60.0), (30, 8, 40.0)], []]
    data = np.stack([dirty_map(48, psf, sky) for sky in skies]) + rng.normal(size=(3, 48, 48)).astype(np.float32)
    data = data.astype(np.float32)
    seen = rng.random((3, 48, 48)) > 0.02
    ours = preprocessing.blobs_finder_planes(data, preprocessing.PLANES, psfs, seen)
    theirs = preprocessing.blobs_finder_planes(
        *(torch.from_numpy(data), preprocessing.PLANES, torch.from_numpy(psfs), torch.from_numpy(seen))
    )
    assert ours.shape == (3, 2, 48, 48) and ours.dtype == np.float32
    np.testing.assert_allclose(ours, theirs.numpy(), atol=2e-3)
    for i in range(3):
        one = psfs if shared else psfs[i : i + 1]
        alone = preprocessing.blobs_finder_planes(data[i : i + 1], preprocessing.PLANES, one, seen[i : i + 1])
        np.testing.assert_array_equal(alone[0], ours[i])
    np.testing.assert_array_equal(preprocessing.blobs_finder_planes(data, ("dirty",))[:, 0], data)


def test_planes_that_cannot_be_made_are_refused():
    image = np.zeros((1, 16, 16), np.float32)
    with pytest.raises(ParameterError, match="wavelet.*dirty, clean"):
        preprocessing.blobs_finder_planes(image, ("wavelet",))
    with pytest.raises(ParameterError, match="PSF"):
        preprocessing.blobs_finder_planes(image, ("dirty", "clean"))


@pytest.mark.parametrize(("have", "want"), [((9, 8), (8, 8)), ((40, 41), (8, 9))])
def test_a_psf_is_cut_or_padded_about_its_peak(have, want):
    psf = np.zeros((1, *have), np.float32)
    psf[0, have[0] // 2, have[1] // 2] = 1.0
    psf[0, have[0] // 2 + 1, have[1] // 2 + 2] = 0.5
    out = preprocessing.centred(psf, *want)
    assert out.shape == (1, 2 * want[0], 2 * want[1])
    assert out[0, want[0], want[1]] == 1.0 and out[0, want[0] + 1, want[1] + 2] == 0.5 and out.sum() == 1.5
    without = preprocessing.centred(psf, *want, lobe=False)
    assert without[0, want[0], want[1]] == 0.0


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
