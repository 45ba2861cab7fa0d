"""The command line of the simulations: what it prints, what it returns, and that every error is one line."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("casadata")

from astropy.table import Table
from test_sim_dataset import content, stand_in  # noqa: F401  (a fixture)

from casa_deepfocus.cluster import read_cluster
from casa_deepfocus.errors import DataError
from sim.__main__ import _parser, main
from sim.fits import read_cube
from sim.skyfile import read_sources

Run = Callable[..., tuple[int, str, str]]

SMALL = """\
description: Small and quick.
base: paper
image: {channels: 6, npix: 64}
sources: {position: {uniform: [10, 50]}}
lines: {position: {uniform: [1, 4]}}
"""

SOURCES = """\
- {ra: 59.99983333, dec: -34.99986111, continuum: 0.5}
- {ra: 59.99983333, dec: -34.9995, lines: [{freq: 230.02e9, fwhm: 20, peak: 1.0}]}
"""


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    """Run a command: its exit status, what it printed and what it complained of."""

    def call(*arguments: str) -> tuple[int, str, str]:
        status = main([str(argument) for argument in arguments])
        printed = capsys.readouterr()
        return status, printed.out, printed.err

    return call


@pytest.fixture
def small(tmp_path: Path) -> Path:
    path = tmp_path / "small.yaml"
    path.write_text(SMALL)
    return path


def test_generate(run: Run, small: Path, tmp_path: Path) -> None:
    command = ("generate", "--preset", small, "--n", "3", "--seed", "7", "--out", "set")
    status, out, err = run(*command)
    table = Table.read("set/truth.ecsv")
    assert (status, err) == (0, "")
    assert out == f"set: 3 cubes made; {len(table)} sources in truth.ecsv\n"
    assert set(table["field"]) == {0, 1, 2} and len(table) >= 9
    cube = read_cube(Path("set/00001"))
    assert cube.data.shape == (6, 64, 64) and cube.psf.shape == (6, 128, 128)
    # The sources are where the truth says: the brightest is above its surroundings.
    own = Table.read("set/00001/truth.ecsv")
    best = own[int(np.argmax(own["snr_continuum"]))]
    mean = np.nanmean(cube.data, axis=0)
    assert mean[round(best["y"]), round(best["x"])] > 5 * np.median(np.abs(mean))
    assert run(*command)[1] == f"set: 0 cubes made, 3 stood already; {len(table)} sources in truth.ecsv\n"


def test_real_cubes_do_not_depend_on_the_workers(run: Run, small: Path, tmp_path: Path) -> None:
    pytest.importorskip("distributed")
    for name, more in (("one", ()), ("two", ("--workers", "2", "--memory-limit", "2GiB"))):
        assert run("generate", "--preset", small, "--n", "3", "--seed", "7", "--out", name, *more)[0] == 0
    assert content(tmp_path / "one") == content(tmp_path / "two")


def test_failed_cubes_are_listed(run: Run, stand_in, tmp_path: Path) -> None:  # noqa: F811
    def fails(index: int) -> None:
        if index == 1:
            raise DataError("no such\narray")

    stand_in(fails)
    status, out, err = run("generate", "--n", "3", "--out", "set")
    assert status == 1
    assert out.startswith("set: 2 cubes made;")
    assert err.splitlines() == [
        "cube 1 failed: no such array", "1 cubes failed; the same command tries them again",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("generate", "--preset", "papr", "--out", "set"), "papr"),
        (("generate", "--preset", "bad.yaml", "--out", "set"), "chanels"),
        (("generate", "--n", "0", "--out", "set"), "n=0"),
        (("generate", "--backend", "slow", "--out", "set"), "fast, casa"),
        (("generate", "--products", "dirty,model", "--out", "set"), "dirty,psf,pb"),
        (("generate", "--cluster", "none.yaml", "--out", "set"), "no such file"),
        (("generate", "--workers", "2", "--memory-limit", "much", "--out", "set"), "4GiB"),
        (("generate", "--out", "bad.yaml"), "is a file"),
        (("presets", "papr"), "papr"),
        (("inject", "--sources", "s.yaml", "--out", "new"), "either IMAGE or --vis"),
        (("inject", "x.fits", "--vis", "x.ms", "--sources", "s.yaml", "--out", "new"), "either IMAGE or --vis"),
        (("inject", "--vis", "x.ms", "--psf", "p.fits", "--sources", "s.yaml", "--out", "new"), "of no use"),
        (("inject", "x.fits", "--sources", "none.yaml", "--out", "new"), "none.yaml"),
        (("inject", "x.fits", "--sources", "s.yaml", "--out", "new"), "x.fits"),
        (("inject", "--vis", "x.ms", "--sources", "s.yaml", "--out", "new.ms"), "no measurement set"),
        (("show", "nowhere"), "nowhere"),
    ],
)
def test_errors_are_one_line(run: Run, arguments: tuple[str, ...], message: str) -> None:
    Path("bad.yaml").write_text("description: bad\nbase: paper\nimage: {chanels: 4}\n")
    Path("s.yaml").write_text(SOURCES)
    status, out, err = run(*arguments)
    assert (status, out) == (1, "")
    assert message in err and err.count("\n") == 1
    assert not Path("new").exists()


def test_inject(run: Run, small: Path) -> None:
    run("generate", "--preset", small, "--seed", "7", "--out", "set")
    Path("s.yaml").write_text(SOURCES)
    status, out, err = run("inject", "set/00000", "--sources", "s.yaml", "--out", "new")
    assert (status, err) == (0, "")
    assert out == "new/dirty.fits and new/truth.ecsv: 2 sources were added\n"
    before, after = read_cube(Path("set/00000")), read_cube(Path("new"))
    added = after.data - before.data
    assert added[0, 32, 32] == pytest.approx(0.5, rel=0.05)
    assert np.unravel_index(np.nanargmax(added[5] - added[0]), added[5].shape) == (45, 32)
    np.testing.assert_array_equal(before.psf, after.psf)
    assert len(Table.read("new/truth.ecsv")) == 2
    assert run("inject", "set/00000", "--sources", "s.yaml", "--out", "new")[0] == 1


def test_show(run: Run, small: Path) -> None:
    run("generate", "--preset", small, "--seed", "7", "--out", "set")
    status, out, err = run("show", "set/00000", "--out", "cube.png")
    assert (status, out, err) == (0, "cube.png\n", "")
    assert Path("cube.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.casa
@pytest.mark.slow
def test_casa_makes_the_same_bytes_in_any_number_of_workers(tmp_path: Path) -> None:
    """In a process of its own: CASA reads the command line of the program that it is started in."""
    pytest.importorskip("casatasks")
    pytest.importorskip("distributed")
    (tmp_path / "casa.yaml").write_text(SMALL + "observation: {duration: 3, integration: 60}\n")
    common = [sys.executable, "-m", "sim", "generate", "--preset", "casa.yaml", "--seed", "7", "--backend", "casa"]
    for name, more in (("one", []), ("two", ["--workers", "2"])):
        done = subprocess.run([*common, "--n", "2", "--out", name, *more], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        assert done.stdout.startswith(f"{name}: 2 cubes made;")
    assert content(tmp_path / "one") == content(tmp_path / "two")
    # Neither scratch nor logs are left anywhere.
    assert {path.name for path in tmp_path.iterdir()} == {"casa.yaml", "one", "two"}
    assert np.isfinite(read_cube(tmp_path / "one" / "00000").data).any()


def test_presets(run: Run, small: Path) -> None:
    out = run("presets")[1]
    assert all(f"{name}\n" in out for name in ("paper", "paper-code", "alma", "vla"))
    assert "duration: 40 [min]" in run("presets", "paper")[1]
    assert "Small and quick." in run("presets", small)[1]


@pytest.mark.parametrize("command", ["generate", "show", "inject", "presets", "demo", "psfs"])
def test_help(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main([command, "--help"])
    assert stop.value.code == 0
    lines = capsys.readouterr().out.splitlines()
    # A sentence about the command, and one for every option.
    assert lines[0].startswith(f"usage: python -m sim {command}")
    assert not [line for line in lines if line.strip().startswith("--") and line.strip() == line.strip().split()[0]]


def test_help_names_all_commands() -> None:
    done = subprocess.run([sys.executable, "-m", "sim", "--help"], capture_output=True, text=True, check=True)
    for command in ("generate", "show", "inject", "presets", "demo", "psfs"):
        assert f"\n    {command} " in done.stdout


def test_the_page_on_simulations_is_right(repository: Path) -> None:
    """Its YAML is understood, its pictures are there, and its commands have the options that it gives."""
    page = (repository / "docs" / "simulation.md").read_text()
    cluster, sources = re.findall(r"```yaml\n(.*?)```", page, re.DOTALL)
    Path("cluster.yaml").write_text(cluster)
    Path("sources.yaml").write_text(sources)
    assert read_cluster("cluster.yaml").jobs == 100
    assert [source.rotation is None for source in read_sources(Path("sources.yaml"))] == [True, False]
    for picture in re.findall(r"\]\((img/.*?)\)", page):
        assert (repository / "docs" / picture).is_file()
    commands = re.findall(r"^    python -m sim ([^\n#]*)", page, re.MULTILINE)
    assert len(commands) >= 8
    for command in commands:
        _parser().parse_args(command.split())


def test_an_interrupted_run_says_how_to_go_on(run: Run, stand_in) -> None:  # noqa: F811
    def interrupt(index: int) -> None:
        if index == 2:
            raise KeyboardInterrupt

    stand_in(interrupt)
    status, _, err = run("generate", "--n", "4", "--out", "set")
    assert status == 130 and "goes on where it stopped" in err and err.count("\n") == 1
    stand_in()
    assert "2 cubes made, 2 stood already" in run("generate", "--n", "4", "--out", "set")[1]
