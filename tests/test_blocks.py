"""A cube in blocks of channels gives what the whole gives, and nothing that was given is changed."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks import speed
from casa_deepfocus import pipeline
from casa_deepfocus.core import noise
from casa_deepfocus.core.continuum import fit_continuum, line_free_channels
from casa_deepfocus.core.detection import LineSearch, weighted_mean
from casa_deepfocus.core.scales import CoarseCube


@pytest.fixture
def cube() -> np.ndarray:
    data = np.random.default_rng(2).normal(size=(23, 40, 36)).astype(np.float32)
    data += np.linspace(0.5, 1.0, 23, dtype=np.float32)[:, None, None] * (np.indices((40, 36))[0] == 20)
    data[4], data[:, :3], data[7, 10, 10] = np.nan, np.nan, np.nan
    return data


@pytest.mark.parametrize("block", [1, 40 * 36 * 5, 2**22])
def test_blocks_give_what_the_whole_gives(cube, monkeypatch, block):
    monkeypatch.setattr(noise, "BLOCK", block)
    weights = np.random.default_rng(3).random(23)
    filled = np.nan_to_num(cube).astype(float)
    np.testing.assert_allclose(noise.weighted_sum(cube, weights), np.tensordot(weights, filled, axes=1), atol=2e-5)
    known = np.isfinite(cube).any(axis=0)
    np.testing.assert_array_equal(noise.any_known(cube), known)
    mean = np.tensordot(weights, filled, axes=1) / np.sqrt(weights.sum())
    np.testing.assert_allclose(weighted_mean(cube, weights), np.where(known, mean, np.nan), atol=2e-5)
    sigma = np.where(np.arange(23) == 4, np.nan, 1.0)
    before = cube.copy()
    fitted = fit_continuum(cube, sigma, line_free_channels(cube, sigma))
    monkeypatch.setattr(noise, "BLOCK", 2**30)
    whole = fit_continuum(cube, sigma, line_free_channels(cube, sigma))
    np.testing.assert_allclose(fitted.level, whole.level, atol=2e-5)
    np.testing.assert_allclose(fitted.slope, whole.slope, atol=2e-6)
    np.testing.assert_array_equal(cube, before)


def test_the_parts_of_blocks_are_all_channels_once(cube, monkeypatch):
    monkeypatch.setattr(noise, "BLOCK", 40 * 36 * 5)
    parts = list(noise.blocks(cube))
    assert [part.stop - part.start for part in parts] == [5, 5, 5, 5, 3]
    assert np.concatenate([np.arange(23)[part] for part in parts]).tolist() == list(range(23))


def test_a_cube_turned_over_has_its_holes_as_peaks(cube):
    sigma = np.ones(23)
    turned = LineSearch(cube, sigma, turned=True).maximum()
    other = LineSearch(-cube, sigma).maximum()
    np.testing.assert_array_equal(turned[0], other[0])
    np.testing.assert_array_equal(turned[1], other[1])


def test_channels_are_smoothed_one_by_one_as_together(cube):
    whole = CoarseCube(cube, 5.0, 8.0)
    single = np.concatenate([whole.smoothed(cube[chan : chan + 1]) for chan in range(len(cube))])
    np.testing.assert_array_equal(whole.data, single)


def test_a_search_leaves_the_cube_as_it_was():
    from fake_networks import FilterNetworks

    given = speed.simulate(64, 8, seed=3)
    before = given.data.copy()
    pipeline.run(given, FilterNetworks())
    np.testing.assert_array_equal(given.data, before)


def test_a_size_is_measured_in_a_process_of_its_own(monkeypatch):
    from benchmarks import size
    from casa_deepfocus.errors import ParameterError

    row = {
        "npix": 64, "nchan": 8, "voxels": 32768, "seconds": 1.0, "sources": 2, "input": 24.0, "memory": 30.0,
        "peak": 2**30,
    }  # fmt: skip
    assert "64 x 64 x 8" in size.line(row) and "1.00 GiB" in size.line(row)
    assert size.parse("256x128") == (256, 128)
    for bad in ("256", "axb", "0x3"):
        with pytest.raises(ParameterError, match="shapes"):
            size.parse(bad)
