"""Measurement sets as the archive gives them, with nothing said but vis: interrupted and gone on with, or by Dask's
workers, the tables are the same, with every planted source once."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from astropy.table import Table

pytest.importorskip("casatools")
pytest_plugins = ["casa_fixtures"]

from casa_deepfocus.casa import archive as several  # noqa: E402
from casa_deepfocus.casa import task_sdeepfocus  # noqa: E402
from casa_deepfocus.casa.task_sdeepfocus import sdeepfocus  # noqa: E402
from casa_deepfocus.errors import DataError, ParameterError, ProductError  # noqa: E402
from training.archive import judge_folders  # noqa: E402


def sets(folder: Path) -> list[str]:
    return sorted(str(path) for path in folder.glob("*.ms"))


def tables(products: Path) -> dict[str, Table]:
    return {str(path.relative_to(products)): Table.read(path) for path in sorted(products.glob("*/*s.ecsv"))}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("run")


@pytest.fixture(scope="module")
def interrupted(archive, folder):
    """The run, stopped by Ctrl-C in its fourth cube, and what it had made by then."""
    made: list[str] = []
    search = task_sdeepfocus.search

    def stopping(parameters, **more):
        if len(made) == 3:
            raise KeyboardInterrupt
        back = search(parameters, **more)
        made.append(parameters["outfile"])
        return back

    patch = pytest.MonkeyPatch()
    with patch.context() as context:
        context.chdir(folder)
        context.setattr(task_sdeepfocus, "search", stopping)
        with pytest.raises(KeyboardInterrupt):
            sdeepfocus(vis=sets(archive), outfile="arc", cluster=1)
    state = json.loads((folder / "arc.targets" / "run.json").read_text())["cubes"]
    return made, state, {path.name for path in (folder / "arc.targets").iterdir()}


@pytest.fixture(scope="module")
def finished(archive, folder, interrupted):
    """The same call again, to its end."""
    made: list[str] = []
    search = task_sdeepfocus.search

    def counting(parameters, **more):
        made.append(parameters["outfile"])
        return search(parameters, **more)

    patch = pytest.MonkeyPatch()
    with patch.context() as context:
        context.chdir(folder)
        context.setattr(task_sdeepfocus, "search", counting)
        back = sdeepfocus(vis=sets(archive), outfile="arc", cluster=1)
    return made, back


def test_an_interrupted_run_keeps_what_is_done(interrupted):
    made, state, there = interrupted
    assert len(made) == 3 and [record["state"] for record in state.values()] == ["done"] * 3
    assert "index.html" not in there and "owner.json" not in there


def test_it_goes_on_where_it_ended(interrupted, finished):
    made, back = finished
    assert len(made) == 3, "two targets of two windows and a continuum each, three of which were done"
    assert set(made).isdisjoint(interrupted[0])
    assert back["counts"]["cubes"] == 6 and back["failed"] == {}


def test_every_planted_source_is_there_once(archive, folder, finished):
    verdicts = judge_folders(archive / "truth", folder / "arc.targets")
    assert len(verdicts) == 2
    for name, verdict in verdicts.items():
        for kind in (verdict.sources, verdict.lines):
            assert kind.asked >= 2, "the truth must not be trivial"
            assert (kind.found, kind.doubled, kind.false) == (kind.asked, [], []), name


def test_what_is_returned_is_what_is_written(folder, finished):
    back = finished[1]
    assert back["outfile"] == str(folder / "arc.targets")
    for name, table in tables(folder / "arc.targets").items():
        target, kind = Path(name).parts[0], Path(name).stem
        rows = back["targets"][target][kind]
        assert len(rows) == len(table)
        if kind == "sources":
            np.testing.assert_allclose([row["continuum"] for row in rows], table["continuum"], rtol=1e-6)
    assert (folder / "arc.targets" / "index.html").exists()
    for target in back["targets"]:
        there = {path.name for path in Path(back["products"][target]).iterdir()}
        assert {"report.html", "sources.ecsv", "sources.vot", "lines.ecsv", "lines.vot", "continuum.cat.ecsv"} <= there
        assert sum(name.endswith(".mask") for name in there) == 3


def test_a_complete_run_is_not_done_again_unasked(archive, folder, finished, monkeypatch):
    monkeypatch.chdir(folder)
    with pytest.raises(ProductError, match="is complete"):
        sdeepfocus(vis=sets(archive), outfile="arc", cluster=1)


def test_workers_make_the_same_tables(archive, folder, finished, tmp_path, monkeypatch):
    pytest.importorskip("distributed")
    monkeypatch.chdir(tmp_path)
    # The mosaic takes longer, and workers make it in no other way (`python -m benchmarks archive`).
    single = next(name for name in finished[1]["targets"] if not name.startswith("Ridge"))
    back = sdeepfocus(vis=sets(archive), outfile="two", cluster=2, field=single.replace("_", " "))
    assert back["failed"] == {} and list(back["targets"]) == [single]
    here, there = tables(folder / "arc.targets"), tables(tmp_path / "two.targets")
    assert len(there) == 2
    for name in there:
        assert len(here[name]) == len(there[name])
        for column in here[name].colnames:
            if here[name][column].dtype.kind == "f":
                # The last bits of a fit were seen to differ from run to run.
                np.testing.assert_allclose(here[name][column], there[name][column], rtol=1e-9, err_msg=column)


def test_one_cube_that_fails_stops_no_other(archive, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def failing(parameters, **more):
        raise DataError("the sky is falling")

    made = []
    search = task_sdeepfocus.search

    def mostly(parameters, **more):
        if parameters["outfile"].endswith("spw1") or len(made) > 1:
            raise DataError("the sky is falling")
        made.append(parameters["outfile"])
        return search(parameters, **more)

    single = sorted(path.name for path in (archive / "truth").iterdir())[0]
    monkeypatch.setattr(task_sdeepfocus, "search", mostly)
    back = sdeepfocus(vis=sets(archive)[:1], outfile="some", cluster=1, imsize=64)
    assert made and back["failed"] and all("the sky is falling" in reason for reason in back["failed"].values())
    assert back["counts"]["failed"] == len(back["failed"]) and single
    state = json.loads((tmp_path / "some.targets" / "run.json").read_text())["cubes"]
    assert {record["state"] for record in state.values()} == {"done", "failed"}
    monkeypatch.setattr(task_sdeepfocus, "search", failing)
    with pytest.raises(DataError, match="none of .* could be made: the sky is falling"):
        sdeepfocus(vis=sets(archive)[:1], outfile="none", cluster=1, imsize=64)
    assert not (tmp_path / "none.targets").exists()


@pytest.mark.parametrize(("value", "match"), [(0, "at least 1"), ("nowhere.yml", "no such file")])
def test_a_cluster_that_cannot_be(archive, tmp_path, monkeypatch, value, match):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ParameterError, match=match):
        sdeepfocus(vis=sets(archive), outfile="x", cluster=value)
    assert not list(tmp_path.glob("x.targets"))


def test_what_the_user_selects_restricts_what_is_found(archive, tmp_path, monkeypatch):
    from casa_deepfocus.casa import inputs, plan

    monkeypatch.chdir(tmp_path)
    everything = plan.of_sets(inputs.read({"vis": sets(archive)}))
    assert len(everything.folders) == 2 and len(everything.cubes) == 6
    assert {cube.shape[0] for cube in everything.cubes if cube.line_free} == {1}
    assert all(len(cube.parameters["vis"]) == 2 for cube in everything.cubes)
    single = next(cube for cube in everything.cubes if "," not in str(cube.parameters["field"]))
    one = plan.of_sets(inputs.read({"vis": sets(archive), "field": single.target, "spw": single.label[3:]}))
    assert [(cube.target, cube.label) for cube in one.cubes] == [(single.target, single.label)]
    lines = plan.of_sets(inputs.read({"vis": sets(archive), "mode": "line"}))
    assert len(lines.cubes) == 4, "no continuum image where lines are asked for"
    assert several.workers(inputs.read({"vis": sets(archive), "cluster": 3}), everything) == (3, None)


def test_a_list_of_images_of_one_target(tiny_images, tmp_path, monkeypatch):
    """Two copies of one cube: every source once, seen in both, and each line once."""
    monkeypatch.chdir(tmp_path)
    for window in ("spw1", "spw2"):
        for kind in ("image", "psf", "pb"):
            shutil.copytree(f"{tiny_images}.{kind}", f"tiny.{window}.{kind}")
    alone = sdeepfocus(imagename="tiny.spw1.image", outfile="alone")
    assert len(alone["sources"]) == 3, "the truth must not be trivial"
    back = sdeepfocus(imagename=["tiny.spw1.image", "tiny.spw2.image"], outfile="both", cluster=1)
    assert back["failed"] == {} and len(back["targets"]) == 1
    target = next(iter(back["targets"].values()))
    assert [row["windows"] for row in target["sources"]] == ["spw1,spw2"] * 3
    assert len(target["lines"]) == sum(row["line_flux"] > 0 for row in alone["sources"])
    with pytest.raises(ParameterError, match="psf=.*imagename names 2"):
        sdeepfocus(imagename=["tiny.spw1.image", "tiny.spw2.image"], psf="tiny.spw1.psf")
    broken = sdeepfocus(imagename=["tiny.spw1.image", "nowhere.image"], outfile="broken", cluster=1)
    assert len(broken["failed"]) == 1 and "does not exist" in next(iter(broken["failed"].values()))


def test_tables_that_cannot_be_made_stop_no_other_target(archive, tmp_path, monkeypatch):
    """The cubes stay where they are, and the same call makes the tables."""
    from casa_deepfocus.casa import targetfolder

    monkeypatch.chdir(tmp_path)
    call = {"vis": sets(archive)[:1], "spw": "0,1", "mode": "line", "imsize": 64, "outfile": "x", "cluster": 1}
    write = targetfolder.write

    def mostly(run, cubes):
        if cubes[0].folder.startswith("Ridge"):
            raise KeyError("planted")
        return write(run, cubes)

    monkeypatch.setattr(targetfolder, "write", mostly)
    back = sdeepfocus(**call)
    assert len(back["targets"]) == 1 and len(back["failed"]) == 1
    assert "tables and pages" in next(iter(back["failed"].values()))
    monkeypatch.setattr(targetfolder, "write", write)
    again = sdeepfocus(**call)
    assert len(again["targets"]) == 2 and again["failed"] == {}
