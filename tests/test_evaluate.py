"""``python -m training evaluate`` with a planted simulator and a planted finder."""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from astropy.table import Table

from casa_deepfocus.core.cube import Cube
from casa_deepfocus.errors import DataError, ParameterError, ProductError
from casa_deepfocus.pipeline import Options
from training import evaluate, report, score
from training.store import FieldResult, Joiner, Store, encode
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
            "peak": np.full(n, 0.01),
            "snr": 4.0 + 5.0 * np.arange(n),
            "crlb_x": np.full(n, 0.05),
        },
        meta={
            "beam_maj": beam, "beam_min": beam, "cell": 0.1, "nchan": 128, "chan_width_kms": 10.0, "nx": 360, "ny": 360,
        },
    )  # fmt: skip
    return SimpleNamespace(table=table, index=index), table


def fake_search(cube: SimpleNamespace) -> Table:
    """Everything but the faintest source, displaced by 0.1 pixel; one false alarm in every field."""
    found = cube.table.copy()
    found = found[found["snr"] > 5.0]
    found.remove_columns(["snr", "line_fwhm_chan", "crlb_x"])
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
    assert (result["empty"]["n_fields"], result["empty"]["false_alarms"], result["empty"]["rate"]) == (2, 2, 1.0)
    assert result["empty"]["rate_upper95"] == pytest.approx(3.148, abs=0.01)
    assert result["residuals"]["x"]["bias"] == pytest.approx(0.1)
    assert result["errors"]["physical"]["false_positives"] == pytest.approx(0.0, abs=1e-9)
    assert result["ideal"]["rate"] == pytest.approx(1.25)
    assert 3.5 < result["ideal"]["snr50"] < 6.0
    asked = result["ideal_asked"]
    assert asked["rate"] == Options.false_alarms
    assert asked["threshold"] > result["ideal"]["threshold"] and asked["snr50"] > result["ideal"]["snr50"] + 0.5
    # One of the two that are found has an SNR above 10.
    assert (result["residuals"]["x"]["n"], result["residuals_all"]["x"]["n"]) == (4, 8)
    assert {"bias", "std", "over_crlb", "coverage68"} <= set(result["residuals"]["x"])
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
        keep = ("name", "ra", "dec", "x", "y", "chan", "freq", "fwhm_maj", "fwhm_min", "pa", "line_fwhm", "line_flux")
        return found[[*keep, "continuum", "peak"]]

    result = evaluate.evaluate("alma", 3, 3, simulate=simulate, search=search).as_dict()
    assert result["physical"]["recall"] == result["physical"]["precision"] == 1.0
    assert result["deepfocus"]["recall"] == result["deepfocus"]["mean_iou"] == 1.0
    # Without the channels' width in Hz, km/s become channels by the width at the middle of the band.
    tolerance = {"x": 1e-3, "chan": 1e-9, "line_fwhm": 0.05, "fwhm_maj": 1e-9, "line_flux": 1e-9}
    for name, limit in tolerance.items():
        assert result["residuals_all"][name]["n"] >= 3
        assert abs(result["residuals_all"][name]["bias"]) < limit


def test_any_number_of_workers_gives_the_same_scores():
    one, two = run(workers=1).as_dict(), run(workers=2).as_dict()
    one.pop("seconds_per_field")
    two.pop("seconds_per_field")
    assert one == two


def test_the_tables_can_be_scored_again(tmp_path):
    result = run()
    report.write(result, tmp_path / "out")
    truth, found = (read_table(str(tmp_path / "out" / f"{n}.ecsv"), n) for n in ("truth", "catalogue"))
    assert sorted(set(truth["beam_maj"])) == list(BEAMS)
    again = score.score_tables(truth, found).as_dict()
    assert again == result.score.as_dict() | {"n_fields": again["n_fields"]}
    assert json.loads((tmp_path / "out" / "scores.json").read_text())["n_fields"] == 4
    (tmp_path / "file").write_text("")
    with pytest.raises(ProductError, match="--out"):
        report.write(result, tmp_path / "file")


def without_times(result: evaluate.Evaluation) -> dict:
    return {key: value for key, value in result.as_dict().items() if key != "seconds_per_field"}


def test_a_killed_run_goes_on_to_the_same_scores(tmp_path):
    whole, searched = run(n=5), []

    def search(cube):
        searched.append(cube.index)
        return fake_search(cube)

    def go(folder, recipe=None, **more):
        store = Store(folder, recipe or {"seed": 5}, **more)
        return evaluate.evaluate("paper", 5, 5, empty=2, simulate=fake_simulate, search=search, store=store)

    assert without_times(go(tmp_path / "a")) == without_times(whole)
    lines = (tmp_path / "a" / "fields.jsonl").read_text().splitlines(keepends=True)
    assert len(lines) == 7
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    # Killed while the fourth line was written.
    (tmp_path / "b" / "fields.jsonl").write_text("".join(lines[:3]) + lines[3][:40])
    searched.clear()
    assert without_times(go(tmp_path / "b", resume=True)) == without_times(whole)
    assert searched == [3, 4, evaluate.FIRST_EMPTY, evaluate.FIRST_EMPTY + 1]
    with pytest.raises(ProductError, match="--resume"):
        go(tmp_path / "b")
    with pytest.raises(ParameterError, match="other seed"):
        go(tmp_path / "b", {"seed": 6}, resume=True)
    with pytest.raises(ParameterError, match="--out"):
        go(None, resume=True)
    (tmp_path / "file").write_text("")
    with pytest.raises(ProductError, match="--out"):
        Store(tmp_path / "file", {})


def test_a_field_that_fails_is_reported_and_tried_again(tmp_path):
    broken = {1}

    def search(cube):
        if cube.index in broken:
            raise ValueError("no beam")
        return fake_search(cube)

    def go(**more):
        store = Store(tmp_path / "out", {}, **more)
        return evaluate.evaluate("paper", 3, 5, simulate=fake_simulate, search=search, store=store)

    result = go()
    assert result.failed == {1: "ValueError: no beam"}
    assert result.as_dict()["n_failed"] == 1
    assert set(result.truth["field"]) == {0, 2}
    broken.clear()
    assert go(resume=True).failed == {}
    broken.update(range(3))
    with pytest.raises(DataError, match="no beam"):
        evaluate.evaluate("paper", 3, 5, simulate=fake_simulate, search=search)


def test_lines_of_the_store_keep_every_digit():
    truth = fake_simulate("paper", 5, 0, False)[1]
    truth["x"][0], truth["y"][0] = 0.1 + 0.2, np.nan
    truth["x"].unit = "pix"
    record = json.loads(encode(FieldResult(7, False, truth, truth[:0], 1.5)))
    assert (record["field"], record["seconds"], "error" in record) == (7, 1.5, False)
    whole, none = Joiner(), Joiner()
    assert (whole.add(record["truth"]), none.add(record["catalogue"])) == (3, 0)
    again, empty = whole.table(), none.table()
    for name in truth.colnames:
        np.testing.assert_array_equal(again[name], truth[name])
        assert again[name].dtype == truth[name].dtype == empty[name].dtype
    assert str(again["x"].unit) == "pix"
    assert again.meta == truth.meta
    other = Table({"x": [1.0], "name": ["a long name indeed"], "n": [3]}, meta={"cell": 0.1, "nx": 1})
    whole.add(json.loads(encode(FieldResult(8, False, other, other, 1.0)))["truth"])
    both = whole.table()
    assert both["n"].tolist() == [-1, -1, -1, 3]
    assert (both["name"][-1], both.meta) == ("a long name indeed", {"cell": 0.1})
    assert np.isnan(both["y"][-1])


def test_the_scoreboard_stands_beside_the_paper(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(evaluate, "simulate_field", fake_simulate)
    monkeypatch.setattr(evaluate, "PipelineSearch", lambda *_: fake_search)
    parser = argparse.ArgumentParser()
    evaluate.add_arguments(parser)
    words = ["--n", "2", "--empty", "1", "--workers", "1"]
    assert evaluate.run(parser.parse_args(words)) == 0
    captured = capsys.readouterr()
    pipeline = next(line.split() for line in captured.out.splitlines() if "paper: Pipeline" in line)
    assert pipeline[2:7] == ["4202", "0", "354", "1.000", "nan"]
    ours = next(line.split() for line in captured.out.splitlines() if "ours, one to one" in line)
    assert ours[-10:-3] == ["one", "4", "2", "2", "0.667", "0.000", "0.667"]
    # Progress is for terminals.
    assert captured.err == ""
    out = ["--out", str(tmp_path / "out")]
    assert evaluate.run(parser.parse_args([*words, "--json", *out])) == 0
    assert json.loads(capsys.readouterr().out)["physical"]["true_positives"] == 4
    assert evaluate.run(parser.parse_args([*words, *out])) == 1
    assert "--resume" in capsys.readouterr().err
    assert evaluate.run(parser.parse_args([*words, "--resume", *out])) == 0
    capsys.readouterr()
    assert evaluate.run(parser.parse_args([*words, "--resume", "--seed", "3", *out])) == 1
    assert "other seed" in capsys.readouterr().err
    assert evaluate.run(parser.parse_args(["--n", "0"])) == 1
    assert "--n=0" in capsys.readouterr().err


def test_impossible_requests_are_refused():
    for wrong in ({"n": 0}, {"empty": -1}, {"workers": 0}):
        with pytest.raises(ParameterError, match=f"--{next(iter(wrong))}"):
            run(**wrong)


def slow_simulate(preset: str, seed: int, index: int, empty: bool) -> tuple[Cube, Table]:
    """Leaves the number of its process in the folder `preset`, and does not end."""
    (Path(preset) / str(os.getpid())).touch()
    time.sleep(600.0)
    raise AssertionError("nobody waits that long")


def test_workers_end_with_a_parent_that_is_killed(tmp_path, repository):
    jobs = [(str(tmp_path), 1, index, False) for index in range(2)]
    run = f"list(evaluate._results({jobs!r}, test_evaluate.slow_simulate, None, 2))"
    code = f"from tests import test_evaluate\nfrom training import evaluate\nif __name__ == '__main__': {run}"
    parent = subprocess.Popen([sys.executable, "-c", code], cwd=repository)
    workers = _until(lambda: [int(path.name) for path in tmp_path.iterdir()], lambda found: len(found) == 2)
    assert all(_is_alive(worker) for worker in workers)
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    assert not _until(lambda: [w for w in workers if _is_alive(w)], lambda left: not left)


def _until(look, is_enough, seconds=60.0):
    """What `look` returns once that is enough, or at the end of the time."""
    end = time.monotonic() + seconds
    while not is_enough(seen := look()) and time.monotonic() < end:
        time.sleep(0.1)
    return seen


def _is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    # One that has ended and that nobody has asked about is still listed.
    return "Z" not in Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()[0]
