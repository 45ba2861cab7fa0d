"""The speed benchmark, with a finder that only takes time."""

from __future__ import annotations

import time
from types import SimpleNamespace

import numpy as np
import pytest

from benchmarks import __main__ as main
from benchmarks import noise, psf, speed


@pytest.fixture(scope="module")
def cube():
    return speed.simulate(64, 8, seed=3)


def test_the_second_run_is_timed(cube):
    waits = [0.2, 0.05]

    def search(given):
        assert given is cube
        wait = waits.pop(0)
        time.sleep(wait)
        return SimpleNamespace(catalogue=[1, 2], timings={"detection": wait})

    result = speed.measure(cube, search)
    assert result.first_seconds >= 0.2 > result.seconds >= 0.05
    assert result.steps == {"detection": 0.05}
    assert (result.sources, result.shape) == (2, (8, 64, 64))
    assert result.over_fft == pytest.approx(result.seconds / result.fft_seconds)
    assert result.peak_memory > result.input_memory > 0.0
    text = "\n".join(speed.lines(result))
    assert "detection" in text
    assert "peak memory" in text


def test_the_cube_travels_between_processes(cube, tmp_path):
    speed._save(str(tmp_path), 64, 8, 3)
    again = speed._load(str(tmp_path))
    np.testing.assert_array_equal(again.data, cube.data)
    assert (again.cell, again.restfreq, again.meta) == (cube.cell, cube.restfreq, cube.meta)
    assert np.nanmax(cube.data) > 5e-3


def test_a_cube_too_small_to_search_is_refused(capsys):
    assert main.main(["speed", "--npix", "8"]) == 1
    assert "--npix=8" in capsys.readouterr().err


def test_principal_psfs_are_exact():
    result = psf.measure(64, 16)
    assert 1 <= result["principal_images"] <= 5
    assert result["error"] < 1e-4


def test_peaks_of_noise_are_counted_beside_their_law():
    result = noise.measure("alma", 2, seed=5, workers=1)
    assert set(result) == {"line", "integrated"}
    first = result["line"][0]
    assert first["level"] == 4.0
    assert first["found"] == pytest.approx(first["expected"], rel=0.6)
    assert [row["found"] for row in result["line"]] == sorted((row["found"] for row in result["line"]), reverse=True)
