"""Detection maps, blobs and tiles."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from casa_deepfocus.core.detection import (
    DetectionMap,
    LineSearch,
    find_blobs,
    integrated_map,
    line_maps,
    peak_blobs,
    window_widths,
)
from casa_deepfocus.core.geometry import gaussian_image
from casa_deepfocus.core.tiling import apply_tiled, resample, resample_stamp

BEAM = 5.0


def smooth_noise(rng, nchan, npix):
    data = ndimage.gaussian_filter(rng.standard_normal((nchan, npix, npix)), (0, 2, 2))
    return (data / data.std()).astype(np.float32)


def test_integrated_map_is_in_sigma_and_weighs_channels():
    rng = np.random.default_rng(1)
    data = smooth_noise(rng, 20, 200)
    data[0] *= 100.0
    sigma = np.ones(20)
    sigma[0] = 100.0
    found = integrated_map(data, sigma)
    assert found.image.std() == pytest.approx(1.0, abs=0.1)
    data[:, 30, 30] = np.nan
    assert np.isnan(integrated_map(data, sigma).image[30, 30])


def test_windows_cover_all_scales_and_channels():
    assert window_widths(128) == [1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64]
    assert window_widths(1) == [1]
    search = LineSearch(np.zeros((10, 4, 4), np.float32), np.ones(10))
    windows = search.windows()
    assert {chan for low, high in windows for chan in range(low, high + 1)} == set(range(10))


def test_line_search_finds_the_window_of_a_planted_line():
    rng = np.random.default_rng(2)
    data = smooth_noise(rng, 40, 64)
    data[18:24] += 3.5 * gaussian_image((64, 64), 40, 20, [4.5, 4.5, 0.0]).astype(np.float32)
    search = LineSearch(data, np.ones(40))
    assert search.window(18, 23)[20, 40] == pytest.approx(3.5 * np.sqrt(6), abs=3.0)
    best = line_maps(search, threshold=6.0, beam_pixels=BEAM)[0]
    assert best.kind == "line" and abs(0.5 * (best.chan0 + best.chan1) - 20.5) < 2
    assert np.unravel_index(np.nanargmax(best.image), best.image.shape) == pytest.approx((20, 40), abs=1)


def test_correlated_channels_do_not_inflate_the_search():
    rng = np.random.default_rng(3)
    data = ndimage.uniform_filter1d(smooth_noise(rng, 60, 64), 3, axis=0)
    data /= data.std()
    best, _, _ = LineSearch(data, np.ones(60)).maximum()
    assert best.max() < 6.0


def test_blobs_are_split_at_maxima_and_measured():
    shape = (80, 90)
    image = 20 * gaussian_image(shape, 30.3, 40.6, [6.0, 6.0, 0.0]) + 10 * gaussian_image(
        shape, 38.0, 40.0, [6.0, 6.0, 0.0]
    )
    probability = np.maximum(
        gaussian_image(shape, 30.3, 40.6, [2.0, 2.0, 0]), 0.8 * gaussian_image(shape, 38.0, 40.0, [2.0, 2.0, 0])
    )
    detection = DetectionMap(image.astype(np.float32), 0, 3, "integrated")
    blobs = find_blobs(probability.astype(np.float32), detection, map_index=7, beam_pixels=BEAM, threshold=0.5)
    assert [(b.x, b.y) for b in blobs] == [pytest.approx((30.3, 40.6), abs=0.15), pytest.approx((38.0, 40.0), abs=0.15)]
    assert blobs[0].map_index == 7 and blobs[0].snr == pytest.approx(20, rel=0.05)
    box = blobs[0].box
    assert box.x0 < 29 and box.x1 > 31 and box.x1 < 38
    assert blobs[0].weights.shape == (box.height, box.width)
    assert not find_blobs(np.zeros(shape, np.float32), detection, map_index=0, beam_pixels=BEAM, threshold=0.5)


def test_blobs_of_a_resampled_map_are_in_image_pixels():
    image = 20 * gaussian_image((120, 120), 71.0, 40.0, [18.0, 18.0, 0.0])
    detection = DetectionMap(image.astype(np.float32), 0, 0, "integrated")
    probability = np.clip(resample(image, 0.5) / 20, 0, 1)
    blob = find_blobs(probability, detection, map_index=0, beam_pixels=10.0, threshold=0.5)[0]
    assert (blob.x, blob.y) == pytest.approx((71.0, 40.0), abs=0.3)


def test_resampling_keeps_positions_and_values():
    image = gaussian_image((60, 70), 31.0, 22.0, [16.0, 9.0, 3.0])
    work = resample(image, 0.6)
    assert work.shape == (36, 42)
    np.testing.assert_allclose(
        work, gaussian_image((36, 42), 31 * 0.6, 22 * 0.6, np.array([16.0, 9.0, 3.0]) * 0.36), atol=5e-3
    )
    stamp = resample_stamp(image, 31.0, 22.0, 0.6, 32)
    assert np.unravel_index(stamp.argmax(), stamp.shape) == (16, 16)
    assert stamp[16, 16] == pytest.approx(1.0, abs=1e-3)
    edge = resample_stamp(image, -2.0, 59.0, 0.6, 32)
    assert edge.shape == (32, 32) and np.isfinite(edge).all()


@pytest.mark.parametrize("shape", [(100, 180), (333, 257)])
def test_tiled_equals_whole(shape):
    image = np.random.default_rng(5).standard_normal(shape).astype(np.float32)

    def network(batch):
        return ndimage.uniform_filter(batch, (1, 1, 31, 31), mode="constant")

    whole = apply_tiled(network, image, tile=4096)
    np.testing.assert_allclose(apply_tiled(network, image, tile=64, halo=16), whole, atol=1e-6)


def test_classical_peaks_need_a_hint_and_do_not_repeat_blobs():
    shape = (80, 90)
    wide = np.array([6.0, 6.0, 0.0])
    places = [(20.0, 20.0), (50.3, 30.0), (70.0, 60.0)]
    image = sum(20 * gaussian_image(shape, x, y, wide) for x, y in places)
    detection = DetectionMap(image.astype(np.float32), 0, 3, "line")
    probability = (gaussian_image(shape, *places[0], wide) + 0.1 * gaussian_image(shape, *places[1], wide)).astype(
        np.float32
    )
    options = {"map_index": 2, "beam_pixels": BEAM}
    blobs = find_blobs(probability, detection, threshold=0.5, **options)
    assert len(blobs) == 1
    (extra,) = peak_blobs(detection, probability, blobs, level=6.0, hint=0.05, **options)
    assert (extra.x, extra.y) == pytest.approx(places[1], abs=0.1)
    assert extra.snr == pytest.approx(20, rel=0.02) and extra.probability == pytest.approx(0.1, abs=0.01)
    assert extra.weights.shape == (extra.box.height, extra.box.width)
    assert not peak_blobs(detection, probability, blobs, level=25.0, hint=0.05, **options)


def test_a_fitted_continuum_takes_part_of_a_wide_windows_noise():
    rng = np.random.default_rng(4)
    noise = rng.standard_normal((64, 96, 96)).astype(np.float32)
    left = noise - noise.mean(axis=0)
    sigma = np.ones(64)
    wide, narrow = (24, 39), (30, 30)
    assert np.std(LineSearch(left, sigma).window(*wide)) == pytest.approx(np.sqrt(0.75), rel=0.02)
    fitted = LineSearch(left, sigma, fitted=True)
    assert np.std(fitted.window(*wide)) == pytest.approx(1.0, rel=0.02)
    assert np.std(fitted.window(*narrow)) == pytest.approx(1.0, rel=0.02)
