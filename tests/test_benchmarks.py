"""The speed benchmark, with a finder that only takes time."""

from __future__ import annotations

import json
import time
from types import SimpleNamespace

import numpy as np
import pytest

from benchmarks import __main__ as main
from benchmarks import crossmatch, fidelity, noise, psf, sizes, speed, throughput, weights
from casa_deepfocus.errors import ParameterError
from sim.coverage import Coverage, Grid


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


def test_false_alarms_are_counted_beside_those_asked_for():
    result = noise.measure_alarms("alma", 2, seed=5, workers=1)
    for rows in result.values():
        assert [row["rate"] for row in rows] == list(noise.RATES)
        found = [row["found"] for row in rows]
        assert found == sorted(found, reverse=True) and found[0] < 10
        assert rows[0]["expected"] == 2.0


SMALL_PRESET = """
base: alma
observation: {array: alma.cycle9.2, declination: -30, hour_angle: 0, duration: 20, integration: 300}
image: {frequency: 230, channels: 24, channel_velocity: 10, pixels_per_beam: 5, npix: 64, robust: natural}
lines: {fwhm: {uniform: [2, 5]}}
"""


def _cubes(seed, first, number):
    return {"number": number, "seconds": 0.5, "memory": float(first), "geometry": 0.25}


def test_throughput_counts_the_cubes_of_all_workers(tmp_path, monkeypatch):
    pytest.importorskip("casadata")
    result = throughput.side_by_side(_cubes, 2, 7, 3)
    assert (result["workers"], result["cubes"]) == (2, 6)
    assert result["cubes_per_hour"] == pytest.approx(2 * 3 / 0.5 * 3600)
    # The second worker begins with cube 3.
    assert (result["memory"], result["geometry"]) == (3.0, 0.25)
    path = tmp_path / "small.yaml"
    path.write_text(SMALL_PRESET, encoding="utf-8")
    monkeypatch.setattr(throughput, "PRESET", str(path))
    row = throughput.fast_cubes(7, 0, 2, None)
    assert row["number"] == 2
    assert 0.0 < row["seconds"] < 30.0
    assert row["memory"] > 0.01


def test_without_a_gpu_throughput_says_so(monkeypatch):
    def measured(work, workers, seed, number, device=None):
        if device is not None:
            raise ParameterError("device", device, "not here")
        return {"workers": workers, "cubes": 1, "cubes_per_hour": 1.0, "seconds_per_cube": 1.0,
                "geometry": 0.0, "memory": 1.0}  # fmt: skip

    monkeypatch.setattr(throughput, "side_by_side", measured)
    for name in throughput.THREADS:
        monkeypatch.setenv(name, "1")
    said = []
    rows = throughput.measure(1, 0, 2, "cuda", 7, said.append)
    assert len(rows) == 1
    assert "no GPU" in said
    assert main.main(["throughput", "--n", "0"]) == 1


@pytest.mark.casa
def test_fidelity_of_a_small_field(monkeypatch):
    pytest.importorskip("casatasks")
    size = (Coverage(duration=600.0, integration=60.0), Grid(npix=64, cell=0.2, nchan=4))
    monkeypatch.setitem(fidelity.SIZES, "small", size)
    monkeypatch.setattr(fidelity, "WEIGHTINGS", (None,))
    result = fidelity.measure("small", seed=7)
    assert [row["chan"] for row in result["rows"]] == [0, 2, 3]
    assert all(0.0 < row["rms"] < 2e-4 and row["maximum"] < 1e-3 for row in result["rows"])
    assert result["noise"]["natural"]["casa"]["rms"] == pytest.approx(1.0, abs=0.1)
    assert len(result["noise"]["natural"]["power_ratio"]) == fidelity.RINGS
    assert any("natural" in text for text in fidelity.lines(result))


def test_sizes_tells_the_bias_of_each_density(capsys):
    rows = sizes.measure(n=60, seed=3)
    assert len(rows) == len(sizes.POPULATIONS) * len(sizes.DENSITIES)
    by = {(row["population"], tuple(row["density"])): row for row in rows}
    flat, ours = (by["round", density] for density in sizes.DENSITIES)
    assert 0 < ours["major_bias"] < flat["major_bias"] and flat["minor_bias"] < ours["minor_bias"] < 0
    assert main.main(["sizes", "--n", "3", "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)) == len(rows)
    assert main.main(["sizes", "--n", "3"]) == 0
    assert "axis ratio 0.3 to 1" in capsys.readouterr().out


def test_weights_tells_what_is_said_of_an_extended_source(capsys):
    rows = weights.measure(npix=96, nchan=12, seed=7)
    assert len(rows) == len(weights.ROBUST) * len(weights.SIZES)
    briggs = next(row for row in rows if row["robust"] == 0.5 and row["size"] == 1.5)
    assert briggs["image_said"] < 0.9 * briggs["image_true"], "the likelihood is wrong about the image"
    assert briggs["undone_said"] == pytest.approx(briggs["undone_true"], rel=0.12)
    assert briggs["undone_true"] > 0.98 * briggs["image_true"]
    assert main.main(["weights", "--npix", "64", "--nchan", "6", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)[0]["robust"] == 2.0


def test_crossmatch_counts_sources_that_are_mixed(capsys):
    row = crossmatch.measure(60, 4, 10.0, 1.0, 1)
    assert row["sources"] == row["rows"] == 60 and row["of several [%]"] == row["not in all cubes [%]"] == 0.0
    assert row["flux pull"] == pytest.approx(1.0, abs=0.3) and row["index pull"] == pytest.approx(1.0, abs=0.3)
    # Errors of half a beam mix neighbours: the benchmark would tell.
    row = crossmatch.measure(60, 4, 1.0, 0.5, 1)
    assert row["rows"] != 60 or row["of several [%]"] > 0
    assert main.main(["crossmatch", "--sources", "20", "--cubes", "2"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 8
