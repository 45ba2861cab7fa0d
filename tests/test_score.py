"""``python -m training score``: any finder's table beside the truth."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys

import numpy as np
import pytest
from astropy import units as u
from astropy.table import MaskedColumn, Table

from casa_deepfocus.core.cube import C_KMS
from casa_deepfocus.errors import ParameterError
from training import score, tables

BEAM, CELL, NCHAN, DV, FREQ = 0.5, 0.1, 128, 10.0, 230.0e9


def truth_table(n: int = 6, fields: int = 1) -> Table:
    """A truth with a line everywhere but in its last row; the first is bright."""
    rng = np.random.default_rng(5)
    table = Table(meta={"beam_maj": BEAM, "beam_min": BEAM, "cell": CELL, "nchan": NCHAN, "chan_width_kms": DV})
    table["name"] = [f"S{i}" for i in range(n)]
    table["field"] = np.arange(n) % fields
    table["x"], table["y"] = 40.0 + 50.0 * np.arange(n), 60.0 + 10.0 * rng.random(n)
    table["ra"], table["dec"] = sky(table["x"], table["y"])
    table["chan"] = np.linspace(20.0, 100.0, n)
    table["freq"] = FREQ * (1.0 - (table["chan"] - 64.0) * DV / C_KMS)
    table["fwhm_maj"], table["fwhm_min"], table["pa"] = 0.6, 0.3, 30.0
    table["line_fwhm"] = 80.0
    table["line_fwhm_chan"] = 8.0
    table["line_flux"], table["continuum"] = 2.0, 0.01
    table["snr"] = np.linspace(30.0, 6.0, n)
    for name in ("chan", "freq", "line_fwhm", "line_fwhm_chan"):
        table[name][-1] = np.nan
    return table


def sky(x, y, ra0: float = 150.0, dec0: float = 60.0):
    """Sky of pixels around (200, 60) near declination 60, in the small-angle limit."""
    dec = dec0 + (np.asarray(y) - 60.0) * CELL / 3600.0
    return ra0 - (np.asarray(x) - 200.0) * CELL / 3600.0 / np.cos(np.deg2rad(dec0)), dec


def catalogue_table(truth: Table) -> Table:
    found = truth.copy()
    found.remove_columns(["line_fwhm_chan", "snr"])
    found["line_flux"] *= 1.1
    found["line_flux_err"] = 0.1
    return found


def test_a_perfect_catalogue_scores_one():
    truth = truth_table(fields=2)
    result = score.score_tables(truth, catalogue_table(truth)).as_dict()
    assert result["n_sources"] == 6
    assert result["physical"]["recall"] == result["physical"]["precision"] == 1.0
    assert result["deepfocus"]["recall"] == result["deepfocus"]["mean_iou"] == 1.0
    assert result["residuals"]["line_flux"]["bias"] == pytest.approx(0.1)
    assert result["residuals"]["x"]["std"] < 1e-9


@pytest.mark.parametrize("ending", ["ecsv", "vot", "fits", "csv"])
def test_formats_agree(tmp_path, ending):
    truth = truth_table()
    found = catalogue_table(truth)
    found.remove_row(1)
    meta = dict(truth.meta)
    for table, name in ((truth, "truth"), (found, "found")):
        if ending == "fits":
            table.meta.clear()
        path = tmp_path / f"{name}.{ending}"
        table.write(path, **({"format": "votable"} if ending == "vot" else {}))
    pair = [tables.read_table(str(tmp_path / f"{n}.{ending}"), n) for n in ("truth", "found")]
    if ending != "ecsv":
        pair[0].meta.update(meta)
    result = score.score_tables(*pair)
    assert result.matching.missed.tolist() == [1]
    assert result.physical["false_positives"] == 0
    assert result.physical["recall"] == pytest.approx(5 / 6)


def test_usual_names_and_other_units():
    truth = truth_table()
    found = Table()
    found["RAJ2000"] = (np.asarray(truth["ra"]) * u.deg).to(u.rad)
    found["DEJ2000"] = np.asarray(truth["dec"]) * u.deg
    found["frequency"] = (np.asarray(truth["freq"]) * u.Hz).to(u.GHz)
    found["Maj"] = (np.asarray(truth["fwhm_maj"]) * u.arcsec).to(u.deg)
    found["Min"] = np.asarray(truth["fwhm_min"]) / CELL * u.pix
    found["w50"] = np.asarray(truth["line_fwhm"]) / C_KMS * np.asarray(truth["freq"]) * u.Hz
    found["line_flux"] = np.asarray(truth["line_flux"]) * 1000.0 * u.mJy * u.km / u.s
    result = score.score_tables(truth, found)
    assert result.physical["recall"] == 1.0
    assert result.physical["false_positives"] == 0
    # A projection on the tangent plane beside small-angle pixels: a hundredth of a pixel.
    assert abs(result.residuals["x"]["bias"]) < 0.01
    for name in ("chan", "line_fwhm", "line_flux", "fwhm_maj", "fwhm_min"):
        assert result.residuals[name]["n"] >= 5
        assert abs(result.residuals[name]["bias"]) < 1e-3
        assert result.residuals[name]["std"] < 1e-3


def test_sexagesimal_positions_and_masked_values():
    truth = truth_table()
    found = catalogue_table(truth)
    found["ra"] = [f"{int(v / 15)}h{(v / 15 % 1) * 60:.8f}m" for v in truth["ra"]]
    found["chan"] = MaskedColumn(np.nan_to_num(truth["chan"]), mask=np.isnan(truth["chan"]))
    assert score.score_tables(truth, found).physical["recall"] == 1.0


def test_pixels_when_there_is_no_sky():
    truth, found = truth_table(), catalogue_table(truth_table())
    found["x"] += 3.0
    found.remove_columns(["ra", "dec"])
    assert score.score_tables(truth, found).physical["recall"] == 0.0
    found["x"] -= 2.0
    result = score.score_tables(truth, found)
    assert result.physical["recall"] == 1.0
    assert result.residuals["x"]["bias"] == pytest.approx(1.0)


def test_beams_of_each_field():
    truth = truth_table(fields=2)
    truth["beam_maj"] = truth["beam_min"] = np.where(truth["field"] == 1, 2.0, 0.5)
    found = catalogue_table(truth_table(fields=2))
    found["x"] += 4.0
    found.remove_columns(["ra", "dec"])
    result = score.score_tables(truth, found)
    assert sorted(truth["field"][result.matching.pairs[:, 0]]) == [1, 1, 1]


def test_detections_in_fields_without_sources_are_false_alarms_counted_apart():
    truth = truth_table()
    found = catalogue_table(truth)
    found["field"][0] = 7
    result = score.score_tables(truth, found, empty_fields=5)
    assert result.empty == {"n_fields": 5, "false_alarms": 1}
    assert result.physical["false_positives"] == 0
    assert result.physical["recall"] == pytest.approx(5 / 6)
    nothing = score.score_tables(truth[:0], catalogue_table(truth))
    assert nothing.empty == {"n_fields": 1, "false_alarms": 6}


def _args(*words: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    score.add_arguments(parser)
    return parser.parse_args(list(words))


@pytest.fixture
def paths(tmp_path):
    truth = truth_table()
    found = catalogue_table(truth)
    found.remove_row(2)
    extra = found[:2].copy()
    extra["name"] = ["D0", "F1"]
    extra["x"][1] += 20.0
    extra["ra"], extra["dec"] = sky(extra["x"], extra["y"])
    found = Table(np.concatenate([found.as_array(), extra.as_array()]), meta=truth.meta)
    truth.write(tmp_path / "truth.ecsv")
    found.write(tmp_path / "found.ecsv")
    return str(tmp_path / "truth.ecsv"), str(tmp_path / "found.ecsv")


def test_the_listing_shows_truth_and_catalogue(paths, capsys):
    assert score.run(_args(*paths)) == 0
    out = capsys.readouterr().out.splitlines()
    assert len([line for line in out if line.endswith(("S0", "S1", "S3", "S4", "S5"))]) == 5
    assert sum("not found" in line for line in out) == 1
    duplicate = next(line for line in out if "duplicate " in line)
    assert duplicate.endswith(("D0", "S0"))
    false = next(line for line in out if "unmatched: false" in line)
    assert false.endswith("F1")
    assert "x 110.0" in false
    assert any("1.100" in line and " 2.0" in line for line in out)


def test_the_listing_shows_a_missed_line(tmp_path, capsys):
    truth = truth_table()
    found = catalogue_table(truth)
    found["chan"][0] = np.nan
    truth.write(tmp_path / "truth.ecsv")
    found.write(tmp_path / "found.ecsv")
    assert score.run(_args(str(tmp_path / "truth.ecsv"), str(tmp_path / "found.ecsv"))) == 0
    assert "not found, only the continuum of S0" in capsys.readouterr().out


def test_json_is_one_object_of_plain_numbers(paths, capsys):
    assert score.run(_args(*paths, "--json")) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["physical"]["duplicates"] == 1
    assert result["physical"]["false_positives"] == 2
    assert set(result) >= {"n_fields", "n_sources", "physical", "deepfocus", "residuals", "empty"}


def test_missing_files_and_columns_are_named(paths, tmp_path, capsys):
    assert score.run(_args(paths[0], str(tmp_path / "none.ecsv"))) == 1
    assert "CATALOGUE='" in capsys.readouterr().err
    assert score.run(_args(*paths, "--beam", "-1")) == 1
    assert "--beam" in capsys.readouterr().err
    (tmp_path / "bad.fits").write_bytes(b"no table")
    with pytest.raises(ParameterError, match="not a readable table"):
        tables.read_table(str(tmp_path / "bad.fits"), "TRUTH")
    truth = truth_table()
    lonely = Table({"flux": [1.0]})
    with pytest.raises(ParameterError, match="share neither"):
        score.score_tables(truth, lonely)
    wrong = catalogue_table(truth)
    wrong["line_flux"].unit = u.m
    with pytest.raises(ParameterError, match="line_flux"):
        score.score_tables(truth, wrong)
    truth.meta.clear()
    with pytest.raises(ParameterError, match="--beam"):
        score.score_tables(truth, catalogue_table(truth))
    assert score.score_tables(truth, catalogue_table(truth), beam=BEAM, cell=CELL).physical["recall"] == 1.0
    lost = catalogue_table(truth)
    lost["x"][2] = lost["ra"][2] = np.nan
    with pytest.raises(ParameterError, match="CATALOGUE='S2': 1 rows have no position"):
        score.score_tables(truth, lost, beam=BEAM, cell=CELL)
    text = catalogue_table(truth)
    text["chan"] = ["a"] * len(text)
    with pytest.raises(ParameterError, match="holds text"):
        score.score_tables(truth, text, beam=BEAM)


def test_scoring_needs_neither_torch_nor_casa(paths):
    block = "import sys\nfor n in ('torch','casatools','onnxruntime','lightning'): sys.modules[n] = None\n"
    block += "from training.__main__ import main\nsys.exit(main(sys.argv[1:]))"
    run = [sys.executable, "-c", block, "score", *paths, "--json"]
    done = subprocess.run(run, check=True, timeout=120, capture_output=True, text=True)
    assert json.loads(done.stdout)["physical"]["true_positives"] == 5
    missing = subprocess.run(
        [*run[:4], paths[0], "none.ecsv"], check=False, timeout=120, capture_output=True, text=True
    )
    assert (missing.returncode, missing.stdout) == (1, "")
    assert "none.ecsv" in missing.stderr
    usage = subprocess.run(run[:5], check=False, timeout=120, capture_output=True, text=True)
    assert usage.returncode == 2
