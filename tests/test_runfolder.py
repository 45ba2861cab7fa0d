"""The folder of a run: what is done stays, what another call left is not touched, one run at a time."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

pytest.importorskip("casatools")

from casa_deepfocus.casa import outfiles  # noqa: E402
from casa_deepfocus.casa.runfolder import DONE, FAILED, run_folder  # noqa: E402
from casa_deepfocus.errors import ProductError  # noqa: E402

VALUES = {"vis": ["a.ms"], "minsnr": 5.0, "outfile": "x", "overwrite": False, "cluster": 2}


@pytest.fixture(autouse=True)
def inputs() -> None:
    Path("a.ms").mkdir()
    Path("a.ms/table.dat").write_text("one")


def folder(overwrite: bool = False, **changed):
    return run_folder("x", VALUES | changed, ["a.ms"], overwrite=overwrite)


def make(run, target: str, label: str) -> None:
    Path(run.stem(target, label) + ".cat.ecsv").write_text("rows")
    run.record(f"{target}/{label}", DONE)


def interrupted() -> None:
    """A run that did one cube of two."""
    with pytest.raises(KeyboardInterrupt), folder() as run:
        make(run, "T", "spw0")
        raise KeyboardInterrupt


def test_a_target_appears_when_it_is_published_and_whole():
    with folder() as run:
        make(run, "T", "spw0")
        assert not (run.path / "T").exists() and run.is_done("T", "spw0")
        run.publish("T")
        assert (run.path / "T" / "spw0.cat.ecsv").exists() and run.is_done("T", "spw0")
        run.finish(["T"])
    assert sorted(path.name for path in Path("x.targets").iterdir()) == ["T", "run.json", outfiles.FOLDER_MARK]
    assert json.loads(Path("x.targets/run.json").read_text())["cubes"] == {"T/spw0": {"state": DONE}}


def test_the_same_call_goes_on_where_it_was_interrupted():
    interrupted()
    with folder(overwrite=False, cluster="") as run:
        assert run.is_done("T", "spw0") and not run.is_done("T", "spw1")
        assert any("1 cubes are done" in note for note in run.notes)


def test_a_killed_run_leaves_no_lock(monkeypatch):
    with folder() as run:
        make(run, "T", "spw0")
        # What a killed process leaves: its file, and nobody who holds it.
        run.lock.release()
        monkeypatch.setattr(run.lock, "release", lambda: None)
        (run.path / "kept").write_text((run.path / "owner.json").read_text())
    (Path("x.targets") / "kept").rename("x.targets/owner.json")
    with folder() as run:
        assert run.is_done("T", "spw0")


def test_two_runs_do_not_share_a_folder(monkeypatch):
    from casa_deepfocus.casa import runfolder

    monkeypatch.setattr(runfolder, "PATIENCE", 0.2)
    with folder() as run:
        make(run, "T", "spw0")
        with pytest.raises(ProductError, match="another run is working on it"), folder():
            pass


def test_failed_cubes_are_tried_again_and_done_ones_are_not():
    with folder() as run:
        make(run, "T", "spw0")
        run.record("T/spw1", FAILED, reason="no")
        run.publish("T")
        run.finish(["T"])
    with folder() as run:
        assert run.is_done("T", "spw0") and not run.is_done("T", "spw1")
        run.reopen("T")
        assert not (run.path / "T").exists() and run.is_done("T", "spw0")


@pytest.mark.parametrize("change", [{"minsnr": 6.0}, {"vis": ["b.ms"]}, "data"])
def test_another_call_does_not_touch_what_is_there(change):
    interrupted()
    if change == "data":
        Path("a.ms/table.dat").write_text("other data")
        change = {}
    before = Path("x.targets/run.json").read_text()
    with pytest.raises(ProductError, match="of another call.*overwrite=True"), folder(**change):
        pass
    assert Path("x.targets/run.json").read_text() == before


def test_a_complete_run_is_replaced_with_overwrite_only():
    with folder() as run:
        make(run, "T", "spw0")
        make(run, "Gone", "spw0")
        run.publish("T")
        run.publish("Gone")
        run.finish(["T", "Gone"])
    with pytest.raises(ProductError, match="is complete; set overwrite=True"), folder():
        pass
    with folder(overwrite=True) as run:
        assert not run.state and (run.path / "T").exists(), "older products stay until there are new ones"
        assert not run.is_done("T", "spw0")
        make(run, "T", "spw1")
        run.publish("T")
        run.finish(["T"])
    assert {path.name for path in Path("x.targets/T").iterdir()} == {"spw1.cat.ecsv", outfiles.FOLDER_MARK}
    assert not Path("x.targets/Gone").exists()


def test_what_is_not_ours_is_never_replaced():
    Path("x.targets").mkdir()
    Path("x.targets/mine").write_text("precious")
    with pytest.raises(ProductError, match="not made by sdeepfocus"), folder(overwrite=True):
        pass
    assert Path("x.targets/mine").read_text() == "precious"


def test_what_a_user_put_beside_the_targets_stays():
    with folder() as run:
        make(run, "T", "spw0")
        run.publish("T")
        (run.path / "notes").mkdir()
        run.finish(["T"])
    assert Path("x.targets/notes").is_dir()


def test_a_run_in_which_nothing_was_done_leaves_nothing():
    with pytest.raises(ValueError), folder() as run:
        run.record("T/spw0", FAILED, reason="no")
        raise ValueError
    assert not Path("x.targets").exists()
