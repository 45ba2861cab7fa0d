"""Tables and figures of an evaluation, made of a planted finder."""

from __future__ import annotations

import numpy as np
import pytest
from astropy.table import Table
from matplotlib import image

from tests.test_evaluate import run
from training import figures, paper, report


@pytest.fixture(scope="module")
def result():
    return run(n=6, empty=2)


@pytest.fixture(scope="module")
def folder(result, tmp_path_factory):
    folder = tmp_path_factory.mktemp("out")
    report.write(result, folder)
    return folder


def test_every_table_and_figure_is_written(folder):
    for name in report.TABLES:
        assert len(Table.read(folder / f"{name}.ecsv")) >= 1
    for name in figures.FIGURES:
        assert len(Table.read(folder / f"{name}.ecsv")) >= 1
        picture = image.imread(folder / f"{name}.png")
        assert picture.shape[0] > 200
        assert np.ptp(picture[..., :3]) > 0.5


def test_table4_is_the_papers_and_ours(result):
    table = report.table4(result)
    assert list(table["algorithm"][:5]) == [f"paper: {row[0]}" for row in paper.TABLE4]
    for row in paper.TABLE4:
        assert row[1] + row[3] == paper.N_SOURCES
    ours = {row["algorithm"]: row for row in table}
    lenient, strict = ours["ours, the paper's counting"], ours["ours, one to one"]
    # 3 sources a field, 2 of them found, and one false alarm that the paper's counting hides.
    assert (strict["TP"], strict["FP"], strict["FN"]) == (12, 6, 6)
    assert (lenient["TP"], lenient["FP"], lenient["FN"]) == (12, 0, 6)
    assert ours["ours, physical, SNR >= 5"]["recall"] == 1.0


def test_table5_is_found_minus_true_and_the_papers_sign_is_turned(result):
    table = report.table5(result)
    row = {row["parameter"]: row for row in table}
    assert row["x"]["mean_all"] == pytest.approx(0.1)
    assert (row["x"]["n_all"], row["x"]["n"]) == (12, 6)
    assert (row["x"]["paper_mean"], row["x"]["paper_std"]) == (0.004, 0.73)
    assert row["peak"]["mean_all"] == pytest.approx(0.0, abs=1e-9)


def test_the_ideal_completeness_stands_in_the_same_bins(result):
    table = report.completeness(result)
    faint = table[table["snr_low"] == 4.0][0]
    bright = table[table["snr_low"] == 8.0][0]
    assert (faint["n"], faint["found"], bright["found"]) == (6, 0, 6)
    assert 0.0 < faint["ideal"] < bright["ideal"]


def test_figure16_counts_all_and_found(result):
    _, table = figures.figure16(result)
    assert (table["n_all"].sum(), table["n_found"].sum()) == (18, 12)
    assert table.meta["max_blendness_all"] == 0.0


def test_blendness_is_the_overlap_of_true_boxes(result):
    truth = result.score.truth
    pair = truth.take(np.array([0, 0, 1]))
    np.testing.assert_array_equal(figures.blendness(pair), [1.0, 1.0, 0.0])


def test_figures_of_nothing_found(result):
    from tests.test_evaluate import fake_simulate
    from training import evaluate

    none = evaluate.evaluate("paper", 2, 5, simulate=fake_simulate, search=lambda cube: cube.table[:0])
    assert none.as_dict()["physical"]["recall"] == 0.0
    for make in figures.FIGURES.values():
        make(none)
    assert len(report.scoreboard(none)) > 40
