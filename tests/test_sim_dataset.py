"""Datasets: the same bytes however they are made, runs that stop and go on, and what must not be lost."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from collections import namedtuple
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("casadata")

from astropy.io import fits
from astropy.table import Table
from astropy.wcs import WCS

from casa_deepfocus.core.cube import Cube
from casa_deepfocus.errors import DataError, DeepFocusError, ParameterError, ProductError
from sim import dataset, worker
from sim.coverage import Grid
from sim.dataset import generate
from sim.manifest import Manifest, folder_name

NPIX, NCHAN = 16, 3
Usage = namedtuple("Usage", "total used free")


def tiny(preset: str, seed: int, index: int) -> tuple[Cube, Table]:
    """A small cube of noise and a truth table of `index` % 3 sources."""
    rng = np.random.default_rng([seed, index])
    wcs = WCS(naxis=2)
    wcs.wcs.ctype, wcs.wcs.crval, wcs.wcs.crpix = ["RA---SIN", "DEC--SIN"], [60.0, -35.0], [9.0, 9.0]
    wcs.wcs.cdelt, wcs.wcs.cunit = [-1e-4, 1e-4], ["deg", "deg"]
    wcs.wcs.set()
    cube = Cube(
        data=rng.standard_normal((NCHAN, NPIX, NPIX)).astype(np.float32),
        psf=np.ones((NCHAN, 2 * NPIX, 2 * NPIX), np.float32),
        pb=np.ones((NCHAN, NPIX, NPIX), np.float32),
        freq=230e9 + 1e7 * np.arange(NCHAN),
        beams=np.tile([1.0, 0.8, 30.0], (NCHAN, 1)),
        cell=0.36,
        wcs=wcs,
        restfreq=230e9,
        meta={"telescope": "alma.cycle9.3"},
    )
    number = index % 3
    table = Table({"name": [f"S{i}" for i in range(number)], "x": rng.uniform(size=number)}, dtype=["U4", float])
    table.meta = {"cell": 0.36, "nchan": NCHAN, "frame": "LSRK"}
    return cube, table


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[int], None]], None]:
    """Let `tiny` stand in for both backends, after a function of the index that may fail or wait."""
    monkeypatch.setattr(dataset, "_grid", lambda *_: Grid(NPIX, 0.36, NCHAN))

    def use(before: Callable[[int], None] = lambda index: None) -> None:
        make = tiny

        # A function inside a function travels to the workers by value.
        def simulate(preset: str, seed: int, index: int, scratch: Path) -> tuple[Cube, Table]:
            before(index)
            return make(preset, seed, index)

        monkeypatch.setattr(dataset, "BACKENDS", {"fast": lambda device: simulate, "casa": lambda device: simulate})

    use()
    return use


def content(out: Path) -> dict[str, bytes]:
    """Everything in a dataset but what may differ between runs."""
    files = {str(path.relative_to(out)): path.read_bytes() for path in sorted(out.rglob("*")) if path.is_file()}
    manifest = json.loads(files.pop("manifest.json"))
    assert manifest.pop("runs")
    files["manifest"] = json.dumps(manifest).encode()
    files.pop(".lock")
    return files


def parts(out: Path) -> list[Path]:
    return [path for path in out.iterdir() if ".part-" in path.name]


def test_what_is_written(stand_in, tmp_path: Path) -> None:
    out = tmp_path / "set"
    report = generate("paper", 4, 7, out, first=2)
    assert (report.made, report.kept, report.failed, report.sources) == (4, 0, {}, 2 + 0 + 1 + 2)
    assert sorted(path.name for path in out.iterdir()) == [
        ".lock", "00002", "00003", "00004", "00005", "manifest.json", "truth.ecsv",
    ]  # fmt: skip
    files = sorted(path.name for path in (out / "00004").iterdir())
    assert files == ["dirty.fits", "pb.fits", "psf.fits", "truth.ecsv"]
    np.testing.assert_array_equal(fits.getdata(out / "00004" / "dirty.fits"), tiny("paper", 7, 4)[0].data)
    own = Table.read(out / "00005" / "truth.ecsv")
    assert {key: own.meta[key] for key in ("preset", "seed", "index", "backend")} == {
        "preset": "paper", "seed": 7, "index": 5, "backend": "fast",
    }  # fmt: skip
    table = Table.read(out / "truth.ecsv")
    assert list(table["field"]) == [2, 2, 4, 5, 5]
    assert set(table["nchan"]) == {NCHAN}
    assert table["x"][4] == own["x"][1]
    assert table.meta["empty_fields"] == 1 and table.meta["fields"] == 4


def test_the_manifest(stand_in, tmp_path: Path) -> None:
    generate("paper", 2, 7, tmp_path / "set", products=["pb", "dirty"])
    manifest = json.loads((tmp_path / "set" / "manifest.json").read_text())
    assert manifest["preset"] == "paper" and manifest["seed"] == 7 and manifest["backend"] == "fast"
    assert manifest["products"] == ["dirty", "pb"]
    assert {"python", "casa_deepfocus", "numpy"} <= set(manifest["versions"][0])
    assert list(manifest["cubes"]) == ["00000", "00001"] and manifest["failures"] == {}
    files = manifest["cubes"]["00001"]["files"]
    assert set(files) == {"dirty.fits", "pb.fits", "truth.ecsv"}
    assert files["dirty.fits"]["bytes"] == (tmp_path / "set" / "00001" / "dirty.fits").stat().st_size
    assert len(files["dirty.fits"]["sha256"]) == 64
    assert manifest["cubes"]["00001"]["sources"] == 1
    run = manifest["runs"]["00001"]
    assert run["seconds"] > 0 and run["memory_bytes"] > 1e7 and str(os.getpid()) in run["worker"]


def test_any_number_of_workers_makes_the_same_bytes(stand_in, tmp_path: Path) -> None:
    generate("paper", 5, 7, tmp_path / "one")
    generate("paper", 5, 7, tmp_path / "two", workers=2)
    generate("paper", 2, 7, tmp_path / "bits", first=3)
    generate("paper", 5, 7, tmp_path / "bits")
    one = content(tmp_path / "one")
    assert len(one) == 5 * 4 + 2
    assert content(tmp_path / "two") == one
    assert content(tmp_path / "bits") == one
    assert not parts(tmp_path / "two")
    generate("paper", 5, 8, tmp_path / "other")
    assert content(tmp_path / "other")["00000/dirty.fits"] != one["00000/dirty.fits"]


KILLED = """
    import sys, time
    from pathlib import Path
    sys.path.insert(0, {tests!r})
    import test_sim_dataset as test
    from sim import dataset, worker

    def simulate(preset, seed, index, scratch):
        (scratch / "half").write_bytes(b"half a cube")
        if index == 3:
            time.sleep(60.0)
        return test.tiny(preset, seed, index)

    dataset.BACKENDS = {{"fast": lambda device: simulate}}
    dataset._grid = lambda *_: test.Grid(test.NPIX, 0.36, test.NCHAN)
    dataset.generate("paper", 6, 7, Path("set"))
"""


def test_a_killed_run_goes_on(stand_in, tmp_path: Path) -> None:
    code = textwrap.dedent(KILLED).format(tests=str(Path(__file__).parent))
    run = subprocess.Popen([sys.executable, "-c", code], cwd=tmp_path)
    out = tmp_path / "set"
    try:
        limit = time.monotonic() + 60.0
        while not list(out.glob(".00003.part-*/scratch/half")):
            assert run.poll() is None and time.monotonic() < limit, "the run never came to cube 3"
            time.sleep(0.02)
        with pytest.raises(ProductError, match="another run is writing"):
            generate("paper", 6, 7, out)
        run.send_signal(signal.SIGKILL)
        assert run.wait(10) == -signal.SIGKILL
    finally:
        run.kill()
        run.wait()
    assert len(parts(out)) == 1 and not (out / "00003").exists() and not (out / "truth.ecsv").exists()
    # The manifest was not written again within those few moments: the cubes speak for themselves.
    assert not Manifest.read(out / "manifest.json").cubes
    before = {path: path.stat().st_mtime_ns for path in out.glob("0000[0-2]/*")}
    assert len(before) == 12
    # A picture that somebody drew meanwhile.
    (out / "00001" / "show.png").write_bytes(b"picture")
    report = generate("paper", 6, 7, out)
    assert (report.made, report.kept) == (3, 3)
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert not parts(out)
    (out / "00001" / "show.png").unlink()
    generate("paper", 6, 7, tmp_path / "whole")
    assert content(out) == content(tmp_path / "whole")
    again = generate("paper", 6, 7, out)
    assert (again.made, again.kept, again.sources) == (0, 6, report.sources)


def test_a_half_written_cube_never_counts(stand_in, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write = worker.write_cube

    def half(cube, folder, products):
        write(cube, folder, ["dirty"])
        raise DataError("the writer stops in the middle")

    monkeypatch.setattr(worker, "write_cube", half)
    report = generate("paper", 1, 7, tmp_path / "set")
    assert "in the middle" in report.failed[0]
    assert not (tmp_path / "set" / "00000").exists() and not parts(tmp_path / "set")
    monkeypatch.setattr(worker, "write_cube", write)
    assert generate("paper", 1, 7, tmp_path / "set").made == 1
    assert json.loads((tmp_path / "set" / "manifest.json").read_text())["failures"] == {}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"preset": "alma"}, "preset paper, not alma"),
        ({"seed": 8}, "seed 7, not 8"),
        ({"backend": "casa"}, "backend fast, not casa"),
        ({"device": "cuda"}, "device numpy, not cuda"),
        ({"products": ["dirty"]}, "products dirty, psf, pb, not dirty"),
    ],
)
def test_a_folder_keeps_to_its_recipe(stand_in, tmp_path: Path, change: dict, message: str) -> None:
    asked = {"preset": "paper", "n": 1, "seed": 7, "out": tmp_path / "set"}
    generate(**asked)
    before = content(tmp_path / "set")
    with pytest.raises(ProductError, match=message):
        generate(**(asked | change))
    assert content(tmp_path / "set") == before
    generate(**(asked | change), overwrite=True)
    assert content(tmp_path / "set") != before


def test_an_edited_preset_is_another_one(stand_in, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    generate("paper", 1, 7, tmp_path / "set")
    monkeypatch.setattr(dataset, "_recipe", lambda preset: (preset, {"image": {"channels": 4}}))
    with pytest.raises(ProductError, match="another recipe of that preset"):
        generate("paper", 2, 7, tmp_path / "set")


def test_nothing_of_the_users_is_overwritten(stand_in, tmp_path: Path) -> None:
    out = tmp_path / "set"
    for name in ("truth.ecsv", "00001/notes.txt"):
        (out / name).parent.mkdir(parents=True)
        (out / name).write_text("mine")
        with pytest.raises(ProductError, match=r"holds .* and no manifest.json"):
            generate("paper", 2, 7, out)
        assert (out / name).read_text() == "mine"
        shutil.rmtree(out)
    out.mkdir()
    (out / "notes.txt").write_text("mine")
    generate("paper", 2, 7, out)
    generate("paper", 1, 8, out, overwrite=True)
    assert (out / "notes.txt").read_text() == "mine"
    assert not (out / "00001").exists() and (out / "00000").exists()
    (out / "00001").mkdir()
    with pytest.raises(ProductError, match="not complete"):
        generate("paper", 2, 8, out)
    (tmp_path / "file").write_text("mine")
    with pytest.raises(ProductError, match="is a file"):
        generate("paper", 2, 8, tmp_path / "file")


def test_a_cube_that_was_changed_is_not_taken(stand_in, tmp_path: Path) -> None:
    out = tmp_path / "set"
    generate("paper", 2, 7, out)
    with (out / "00001" / "dirty.fits").open("r+b") as stream:
        stream.truncate(1000)
    with pytest.raises(ProductError, match=r"00001/dirty.fits is not as it was written"):
        generate("paper", 2, 7, out)
    shutil.rmtree(out / "00001")
    report = generate("paper", 2, 7, out)
    assert (report.made, report.kept) == (1, 1)


def test_a_cube_of_another_dataset_is_not_taken(stand_in, tmp_path: Path) -> None:
    generate("paper", 2, 8, tmp_path / "other")
    generate("paper", 1, 7, tmp_path / "set")
    shutil.copytree(tmp_path / "other" / "00001", tmp_path / "set" / "00001")
    with pytest.raises(ProductError, match="not complete, and not one"):
        generate("paper", 2, 7, tmp_path / "set")


def test_a_damaged_manifest(stand_in, tmp_path: Path) -> None:
    generate("paper", 1, 7, tmp_path / "set")
    path = tmp_path / "set" / "manifest.json"
    whole = path.read_text()
    for text in (whole[: len(whole) // 2], "[]", whole.replace('"format": 1', '"format": 99')):
        path.write_text(text)
        with pytest.raises(ProductError, match="manifest.json"):
            generate("paper", 1, 7, tmp_path / "set")
    assert generate("paper", 1, 7, tmp_path / "set", overwrite=True).made == 1


def test_a_preset_that_changes_while_it_is_used(stand_in, tmp_path: Path) -> None:
    path = tmp_path / "own.yaml"
    path.write_text("description: mine\nbase: paper\nimage: {channels: 4}\n")
    stand_in(lambda index: path.write_text(path.read_text().replace("channels: 4", "channels: 5")))
    report = generate(str(path), 3, 7, tmp_path / "set")
    assert report.made == 1 and set(report.failed) == {1, 2} and "was it changed" in report.failed[1]
    with pytest.raises(ProductError, match="another recipe"):
        generate(str(path), 3, 7, tmp_path / "set")


def test_a_cube_that_fails_is_told_and_not_fatal(stand_in, tmp_path: Path) -> None:
    tried: list[int] = []

    def fails(index: int) -> None:
        tried.append(index)
        if index == 1:
            raise DataError("no such array")
        if index == 2:
            raise RuntimeError("several\nlines")
        if index == 3 and tried.count(3) == 1:
            raise RuntimeError("a passing trouble")

    stand_in(fails)
    seen: list[tuple[int, int, str]] = []
    report = generate("paper", 5, 7, tmp_path / "set", progress=lambda *state: seen.append(state))
    assert report.failed == {1: "no such array", 2: "RuntimeError: several lines"}
    assert (report.made, report.kept) == (3, 0)
    # What a DeepFocusError says will not change; anything else may.
    assert [tried.count(index) for index in range(5)] == [1, 1, worker.ATTEMPTS, 2, 1]
    assert seen[1] == (2, 5, "no such array") and seen[-1] == (5, 5, "")
    manifest = Manifest.read(tmp_path / "set" / "manifest.json")
    assert manifest.failures[2] == {"error": "RuntimeError: several lines", "attempts": 3}
    assert set(manifest.cubes) == {0, 3, 4}
    assert set(Table.read(tmp_path / "set" / "truth.ecsv")["field"]) == {4}
    stand_in()
    assert generate("paper", 5, 7, tmp_path / "set").made == 2
    assert not Manifest.read(tmp_path / "set" / "manifest.json").failures


def test_what_every_cube_would_fail_for_stops_the_run(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    recipe = tmp_path / "small.yaml"
    recipe.write_text("description: small\nbase: paper\nimage: {npix: 64}\nsources: {position: 30}\n")
    with pytest.raises(DeepFocusError, match="device='nowhere'"):
        generate(str(recipe), 50, 7, tmp_path / "set", device="nowhere")
    assert list(Manifest.read(tmp_path / "set" / "manifest.json").failures) == [0]


def test_too_small_a_disk_is_told_before_anything_is_written(stand_in, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(10**9, 0, 100_000))
    with pytest.raises(ProductError, match=r"set has 0.000 GB free, and 40 cubes need about \d+ bytes"):
        generate("paper", 40, 7, tmp_path / "set")
    assert not list((tmp_path / "set").glob("0*"))


def test_the_estimate_of_the_disk_space(stand_in, tmp_path: Path) -> None:
    generate("paper", 1, 7, tmp_path / "set")
    size = sum(path.stat().st_size for path in (tmp_path / "set" / "00000").iterdir())
    estimate = dataset.cube_bytes("paper", 7, 0, dataset.PRODUCTS)
    assert size <= estimate < size + 2**17


def test_a_full_disk_stops_the_run_and_it_goes_on(stand_in, tmp_path, monkeypatch) -> None:
    write = worker.write_cube

    def full(cube, folder, products):
        write(cube, folder, products)
        if cube.data[0, 0, 0] == tiny("paper", 7, 2)[0].data[0, 0, 0]:
            try:
                raise OSError(errno.ENOSPC, "No space left on device")
            except OSError:
                # As astropy does it.
                raise OSError("no number, some words") from None

    monkeypatch.setattr(worker, "write_cube", full)
    with pytest.raises(ProductError, match=r"the disk of .*set is full: 4 cubes are missing and need about \d+ bytes"):
        generate("paper", 6, 7, tmp_path / "set")
    assert not parts(tmp_path / "set") and not (tmp_path / "set" / "00003").exists()
    monkeypatch.setattr(worker, "write_cube", write)
    report = generate("paper", 6, 7, tmp_path / "set")
    assert (report.made, report.kept) == (4, 2)


def test_a_disk_that_is_really_full(stand_in, tmp_path, monkeypatch) -> None:
    small = tmp_path / "small"
    small.mkdir()
    mount = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(small)], capture_output=True, text=True
    )
    if mount.returncode != 0:
        pytest.skip(f"a small file system cannot be mounted here: {mount.stderr.strip()}")
    try:
        with pytest.raises(ProductError, match="GB free, and 20 cubes need"):
            generate("paper", 20, 7, small / "set")
        monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(10**9, 0, 10**9))
        with pytest.raises(ProductError, match=r"the disk of .*small/set is full"):
            generate("paper", 20, 7, small / "set")
        made = sorted(path.name for path in (small / "set").glob("0*"))
        assert 0 < len(made) < 20 and made == [folder_name(index) for index in range(len(made))]
        assert not parts(small / "set")
        subprocess.run(["mount", "-o", "remount,size=4m", str(small)], check=True)
        report = generate("paper", 20, 7, small / "set")
        assert (report.made, report.kept) == (20 - len(made), len(made))
        generate("paper", 20, 7, tmp_path / "roomy")
        assert content(small / "set") == content(tmp_path / "roomy")
    finally:
        subprocess.run(["umount", str(small)], check=True)


@pytest.mark.parametrize("name", ["n", "seed", "first", "workers"])
def test_numbers_that_are_too_small(name: str, tmp_path: Path) -> None:
    asked = {"preset": "paper", "n": 1, "seed": 7, "out": tmp_path / "set"}
    with pytest.raises(ParameterError, match=f"{name}=-1"):
        generate(**(asked | {name: -1}))
    assert not (tmp_path / "set").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"backend": "slow"}, "choose one of fast, casa"),
        ({"backend": "casa", "device": "cuda"}, "runs on the CPU"),
        ({"products": ["dirty", "model"]}, "choose from dirty,psf,pb"),
        ({"products": []}, "choose from dirty,psf,pb"),
        ({"preset": "nothing"}, "nothing"),
    ],
)
def test_refusals(options: dict, message: str, tmp_path: Path) -> None:
    with pytest.raises(ParameterError, match=message):
        generate(**({"preset": "paper", "n": 1, "seed": 7, "out": tmp_path / "set"} | options))
    assert not (tmp_path / "set").exists()


def test_a_recipe_that_cannot_be_observed_leaves_nothing(tmp_path: Path) -> None:
    path = tmp_path / "never.yaml"
    path.write_text("base: paper\nobservation:\n  declination: 80\n")
    with pytest.raises(ParameterError, match="never rises above 20 deg"):
        generate(str(path), 1, 7, tmp_path / "set")
    assert [file.name for file in tmp_path.iterdir()] == ["never.yaml"]
