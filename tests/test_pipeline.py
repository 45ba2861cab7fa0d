"""The pipeline on small simulated cubes: planted sources come back, and only they."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy import ndimage

from casa_deepfocus.core.catalogue import COLUMNS
from casa_deepfocus.core.cube import Cube
from casa_deepfocus.errors import DataError, ParameterError
from casa_deepfocus.pipeline import Options, collapse, run
from casa_deepfocus.pipeline.state import Search
from sim.cube import simulate_cube
from sim.defects import Defects
from sim.response import Coverage, Grid
from sim.sky import Source
from tests.fake_networks import FilterNetworks

GRID = Grid(npix=160, nchan=48)
NOISE = 1e-3
SKY = {
    "bright": Source(80, 78, 4, 3, 30, continuum=0.04, alpha=1, line=0.05, chan=16, line_fwhm=5),
    "line only": Source(52, 104, 6, 4, 100, line=0.016, chan=30, line_fwhm=6),
    "continuum only": Source(110, 58, 5, 3, 60, continuum=0.004),
    "pair, near": Source(98, 112, 4, 4, 0, line=0.022, chan=11, line_fwhm=4),
    "pair, far": Source(104, 112, 4, 3, 90, line=0.022, chan=35, line_fwhm=5),
}


def observe(sources, seed=1, grid=GRID):
    return simulate_cube(list(sources), Coverage(), grid, NOISE, np.random.default_rng(seed))


@pytest.fixture(scope="module")
def cube() -> Cube:
    return observe(SKY.values())


@pytest.fixture(scope="module")
def result(cube):
    return run(cube, FilterNetworks())


def nearest(table, source):
    return table[int(np.argmin(np.hypot(table["x"] - source.x, table["y"] - source.y)))]


def test_every_source_and_nothing_else(cube, result):
    assert len(result.catalogue) == len(SKY)
    for name, source in SKY.items():
        row = nearest(result.catalogue, source)
        assert np.hypot(row["x"] - source.x, row["y"] - source.y) < 0.1 * cube.beam_pixels(), name
        assert np.isfinite(row["chan"]) == (source.line > 0), name
        if source.line:
            assert row["chan"] == pytest.approx(source.chan, abs=0.5), name


def test_an_image_that_was_smoothed_is_told(cube):
    told = []
    few = replace(cube, data=cube.data[:4], psf=cube.psf[:4], pb=cube.pb[:4], freq=cube.freq[:4], beams=cube.beams[:4])
    for sigma in (0.0, 0.35 * cube.beam_pixels()):
        blank = np.isnan(few.data)
        smooth = ndimage.gaussian_filter(np.nan_to_num(few.data), (0, sigma, sigma)) if sigma else few.data
        data = np.where(blank, np.nan, smooth).astype(np.float32)
        lines = []
        run(few.with_data(data), FilterNetworks(), log=lambda text, priority="INFO", kept=lines: kept.append(text))
        told.append(any("smoothed" in text for text in lines))
    assert told == [False, True]


def test_values_agree_with_the_truth_within_their_errors(cube, result):
    for name in ("bright", "line only", "continuum only"):
        source, row = SKY[name], nearest(result.catalogue, SKY[name])
        pb = cube.pb[GRID.nchan // 2, round(source.y), round(source.x)]
        assert row["pb"] == pytest.approx(pb, rel=0.01)
        kms = cube.chan_width_kms(cube.chan_to_freq(source.chan))
        pairs = [("continuum", source.continuum), ("line_flux", source.line * source.line_fwhm * 1.0645 * kms)]
        pairs += [("fwhm_maj", source.fwhm_maj * cube.cell), ("fwhm_min", source.fwhm_min * cube.cell)]
        for column, value in pairs:
            if value == 0.0 and not np.isfinite(row[f"{column}_err"]):
                # What is not there is not measured, or as nothing within its error: the noise decides.
                continue
            assert abs(row[column] - value) < 4.0 * row[f"{column}_err"], (name, column, row[column], value)


def test_blended_pair_shares_a_group_and_isolated_sources_do_not(result):
    group = {name: nearest(result.catalogue, source)["group"] for name, source in SKY.items()}
    assert group["pair, near"] == group["pair, far"]
    assert len({group[name] for name in ("bright", "line only", "continuum only", "pair, near")}) == 4


def test_contract_of_the_result(cube, result):
    assert result.catalogue.colnames == [column[0] for column in COLUMNS]
    assert result.probability.shape == cube.shape and 0 <= result.probability.min() <= result.probability.max() <= 1
    assert result.mask.shape == cube.data.shape
    assert result.noise.shape == (cube.nchan,)
    assert np.median(result.noise) == pytest.approx(NOISE, rel=0.05)
    assert len(result.details) == len(result.catalogue) == result.counts["sources"]
    assert result.catalogue["reliability"].min() > 0.9
    meta = result.catalogue.meta
    assert meta["noise"] == pytest.approx(NOISE, rel=0.05) and meta["models"] == "filters"
    assert meta["psf"] == "measured" and meta["software"].startswith("casa_deepfocus")
    for row, detail in zip(result.catalogue, result.details, strict=True):
        assert detail.name == row["name"]
        assert detail.spectrum.shape == detail.clean.shape == detail.model.shape == (cube.nchan,)
        assert result.mask[:, round(row["y"]), round(row["x"])].any()


def test_same_input_same_output(cube, result):
    again = run(cube, FilterNetworks())
    for name in ("x", "y", "line_flux", "continuum", "snr"):
        np.testing.assert_array_equal(again.catalogue[name], result.catalogue[name])


def test_empty_field_is_empty():
    found = run(observe([], seed=4), FilterNetworks())
    assert len(found.catalogue) == 0 and not found.mask.any() and found.counts["sources"] == 0
    assert "dynamic_range_floor" not in found.catalogue.meta


def test_wrong_gains_make_no_sources(monkeypatch):
    sky = [Source(70, 60, 3, 2, 20, continuum=0.06), Source(40, 45, 3, 2, 20, line=0.02, chan=12, line_fwhm=4)]
    gains = Defects(phase_rms=12.0, seed=2)
    wrong = simulate_cube(
        sky, Coverage(), Grid(npix=128, nchan=24), NOISE, np.random.default_rng(2), defects=gains
    )  # fmt: skip
    told: list[str] = []
    table = run(wrong, FilterNetworks(), log=lambda text, priority="INFO": told.append(text)).catalogue
    assert [round(value) for value in sorted(table["x"])] == [40, 70]
    assert type(table.meta["dynamic_range_floor"]) is float, "plain, as files of meta need it"
    assert table.meta["dynamic_range_floor"] > 1.3 and any(text.startswith("dynamic range") for text in told)
    assert "times the noise" in table.meta["residual"] and any("is not noise" in text for text in told)
    monkeypatch.setattr(Search, "measure_floor", lambda self: None)
    assert len(run(wrong, FilterNetworks()).catalogue) > 2, "the gains' errors are there to be seen"


def test_mode_line_reports_no_continuum(cube):
    table = run(cube, FilterNetworks(), Options(mode="line")).catalogue
    lines = [source for source in SKY.values() if source.line]
    assert len(table) == len(lines)
    assert np.isnan(table["continuum"]).all()
    for source in lines:
        assert nearest(table, source)["chan"] == pytest.approx(source.chan, abs=0.5)


def test_mode_continuum_reports_no_lines(cube):
    result = run(cube, FilterNetworks(), Options(mode="continuum"))
    table = result.catalogue
    assert np.isnan(table["chan"]).all() and (table["line_flux"] == 0).all()
    for name in ("bright", "continuum only"):
        row, truth = nearest(table, SKY[name]), SKY[name].continuum
        assert row["continuum_err"] < 0.1 * truth
        assert abs(row["continuum"] - truth) < 4.0 * row["continuum_err"]
    assert (table["chan1"] == cube.nchan - 1).all() and result.mask.shape == cube.data.shape


def test_descending_frequencies_and_flagged_channels(cube):
    data = cube.data[::-1].copy()
    data[3] = np.nan
    turned = replace(
        cube, data=data, psf=cube.psf[::-1], pb=cube.pb[::-1], freq=cube.freq[::-1].copy(), beams=cube.beams[::-1]
    )
    table = run(turned, FilterNetworks()).catalogue
    assert len(table) == len(SKY)
    row = nearest(table, SKY["line only"])
    assert row["freq"] == pytest.approx(cube.chan_to_freq(SKY["line only"].chan), abs=0.5 * cube.chan_width)
    assert row["line_flux"] > 0 and row["line_fwhm"] > 0


def test_collapse_keeps_flux_and_psf(cube):
    image = collapse(cube, np.full(cube.nchan, NOISE))
    assert image.nchan == 1 and image.psf.shape[0] == 1
    assert image.psf.max() == pytest.approx(1.0, abs=1e-3)
    y, x = round(SKY["bright"].y), round(SKY["bright"].x)
    assert image.data[0, y, x] < np.nanmax(cube.data[:, y, x]), "the line's channels must not be in the continuum"


@pytest.mark.parametrize(("values", "name"), [({"mode": "lines"}, "mode"), ({"minsnr": 0}, "minsnr")])
def test_bad_options(values, name):
    with pytest.raises(ParameterError, match=name):
        Options(**values)


def test_mode_line_needs_channels(cube):
    with pytest.raises(DataError, match="channels"):
        run(collapse(cube, np.full(cube.nchan, NOISE)), FilterNetworks(), Options(mode="line"))
