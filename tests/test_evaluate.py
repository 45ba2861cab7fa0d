"""``python -m training evaluate`` with a planted simulator and a planted finder."""

from __future__ import annotations

import argparse
import json
from types import SimpleNamespace

import numpy as np
import pytest
from astropy.table import Table

from casa_deepfocus.core.cube import Cube
from casa_deepfocus.errors import ParameterError, ProductError
from training import evaluate, score
from training.tables import read_table

BEAMS = (0.4, 0.8)


def fake_simulate(preset: str, seed: int, index: int, empty: bool) -> tuple[Cube, Table]:
    """Three sources a field (none when empty), and a cube that carries their table to the finder."""
    n = 0 if empty else 3
    rng = np.random.default_rng((seed, index))
    beam = BEAMS[index % 2]
    table = Table(
        {
            "name": [f"S{index}-{i}" for i in range(n)] if n else np.empty(0, dtype="U8"),
            "x": 40.0 + 60.0 * np.arange(n) + rng.random(n),
            "y": 50.0 + rng.random(n),
            "chan": 30.0 + 20.0 * np.arange(n),
            "fwhm_maj": np.full(n, 0.5),
            "fwhm_min": np.full(n, 0.3),
            "pa": np.full(n, 40.0),
            "line_fwhm": np.full(n, 90.0),
            "line_fwhm_chan": np.full(n, 9.0),
            "line_flux": np.full(n, 3.0),
            "continuum": np.full(n, 0.0),
            "snr": 4.0 + 5.0 * np.arange(n),
        },
        meta={"beam_maj": beam, "beam_min": beam, "cell": 0.1, "nchan": 128, "chan_width_kms": 10.0},
    )
    return SimpleNamespace(table=table, index=index), table


def fake_search(cube: SimpleNamespace) -> Table:
    """Everything but the faintest source, displaced by 0.1 pixel; one false alarm in every field."""
    found = cube.table.copy()
    found = found[found["snr"] > 5.0]
    found.remove_columns(["snr", "line_fwhm_chan"])
    found["x"] += 0.1
    found["x_err"] = 0.2
    alarm = {name: 1.0 for name in found.colnames} | {"name": "alarm", "x": 300.0}
    rows = [dict(zip(found.colnames, row, strict=True)) for row in found] + [alarm]
    return Table({name: [row[name] for row in rows] for name in found.colnames}, meta=found.meta)


def run(n: int = 4, empty: int = 2, workers: int = 1) -> evaluate.Evaluation:
    return evaluate.evaluate("paper", n, 5, empty=empty, workers=workers, simulate=fake_simulate, search=fake_search)


def test_the_scores_of_a_planted_finder():
    result = run().as_dict()
    assert (result["n_fields"], result["n_sources"]) == (4, 12)
    assert result["physical"]["recall"] == pytest.approx(8 / 12)
    assert result["physical"]["recall_snr5"] == 1.0
    assert result["physical"]["precision"] == pytest.approx(8 / 12)
    assert (result["physical"]["false_positives"], result["physical"]["duplicates"]) == (4, 0)
    assert 4.0 < result["physical"]["snr50"] < 9.0
    assert result["deepfocus"]["recall"] == pytest.approx(8 / 12)
    assert result["deepfocus"]["recall_lenient"] == pytest.approx(8 / 12)
    assert result["deepfocus"]["false_positives_lenient"] == 0
    assert result["empty"] == {"n_fields": 2, "false_alarms": 2}
    assert result["residuals"]["x"]["bias"] == pytest.approx(0.1)
    assert result["residuals"]["x"]["coverage68"] == 1.0
    assert set(result["residuals"]) == {
        "x", "y", "fwhm_maj", "fwhm_min", "pa", "chan", "line_fwhm", "line_flux", "continuum",
    }  # fmt: skip
    assert result["seconds_per_field"] >= 0.0


def test_the_simulators_own_truth_scores_one_as_a_catalogue():
    fields = [evaluate.simulate_field("alma", 3, index, False) for index in range(3)]
    truths = {index: truth for index, (_, truth) in enumerate(fields)}
    assert sum(len(truth) for truth in truths.values()) >= 4

    def simulate(preset: str, seed: int, index: int, empty: bool) -> tuple[Cube, Table]:
        return fields[index][0], truths[index]

    def search(cube: Cube) -> Table:
        found = next(truth for known, truth in fields if known is cube).copy()
        found.remove_columns(["line_fwhm_chan", "snr", "snr_line", "snr_continuum"])
        return found

    result = evaluate.evaluate("alma", 3, 3, simulate=simulate, search=search).as_dict()
    assert result["physical"]["recall"] == result["physical"]["precision"] == 1.0
    assert result["deepfocus"]["recall"] == result["deepfocus"]["mean_iou"] == 1.0
    # Without the channels' width in Hz, km/s become channels by the width at the middle of the band.
    tolerance = {"x": 1e-3, "chan": 1e-9, "line_fwhm": 0.05, "fwhm_maj": 1e-9, "line_flux": 1e-9}
    for name, limit in tolerance.items():
        assert result["residuals"][name]["n"] >= 3
        assert abs(result["residuals"][name]["bias"]) < limit


def test_any_number_of_workers_gives_the_same_scores():
    one, two = run(workers=1).as_dict(), run(workers=2).as_dict()
    one.pop("seconds_per_field")
    two.pop("seconds_per_field")
    assert one == two


def test_the_tables_can_be_scored_again(tmp_path):
    result = run()
    evaluate.write_tables(result, str(tmp_path / "out"))
    truth, found = (read_table(str(tmp_path / "out" / f"{n}.ecsv"), n) for n in ("truth", "catalogue"))
    assert sorted(set(truth["beam_maj"])) == list(BEAMS)
    again = score.score_tables(truth, found).as_dict()
    assert again == result.score.as_dict() | {"n_fields": again["n_fields"]}
    assert json.loads((tmp_path / "out" / "scores.json").read_text())["n_fields"] == 4
    (tmp_path / "file").write_text("")
    with pytest.raises(ProductError, match="--out"):
        evaluate.write_tables(result, str(tmp_path / "file"))


def test_the_scoreboard_stands_beside_the_paper(monkeypatch, capsys):
    monkeypatch.setattr(evaluate, "simulate_field", fake_simulate)
    monkeypatch.setattr(evaluate, "PipelineSearch", lambda *_: fake_search)
    parser = argparse.ArgumentParser()
    evaluate.add_arguments(parser)
    words = ["--n", "2", "--empty", "1", "--workers", "1"]
    assert evaluate.run(parser.parse_args(words)) == 0
    captured = capsys.readouterr()
    assert "0.667       0.667       0.923" in captured.out
    assert captured.err == "3 of 3 fields\n"
    assert evaluate.run(parser.parse_args([*words, "--json"])) == 0
    assert json.loads(capsys.readouterr().out)["physical"]["true_positives"] == 4
    assert evaluate.run(parser.parse_args(["--n", "0"])) == 1
    assert "--n=0" in capsys.readouterr().err


def test_impossible_requests_are_refused():
    for wrong in ({"n": 0}, {"empty": -1}, {"workers": 0}):
        with pytest.raises(ParameterError, match=f"--{next(iter(wrong))}"):
            run(**wrong)
