"""The corpus of odd inputs: its judge sees every kind of failure, and a tenth of it is run."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from astropy.table import Table

from benchmarks import faults
from benchmarks.faults import judge
from benchmarks.faults.case import Case, Expected, Trial
from benchmarks.faults.judge import Outcome, Verdict
from casa_deepfocus.core.catalogue import COLUMNS
from casa_deepfocus.errors import DataError, ParameterError

pytest.importorskip("hypothesis")
REPOSITORY = Path(__file__).resolve().parents[1]
PLACE = Expected(150.0, -35.0, continuum=0.02, pa=30.0)
PART = 10
"""Every such case of the corpus is run here; all of them by ``python -m benchmarks faults``."""


def row(**changes) -> Table:
    """A catalogue of one row that agrees with PLACE."""
    values = {name: float("nan") for name, kind, *_ in COLUMNS if kind == "float"}
    values |= {"ra": 150.0, "dec": -35.0, "ra_err": 0.01, "dec_err": 0.01, "continuum": 0.0201, "continuum_err": 1e-4}
    values |= {"pa": 31.0} | changes
    table = Table([values])
    table.meta["radesys"] = "ICRS"
    return table


def test_a_catalogue_that_agrees_is_right():
    assert judge.compare(row(), [PLACE], 1.0) == ""


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"dec": -35.0001}, "off"),
        ({"continuum": 0.023}, "continuum"),
        ({"continuum": float("nan")}, "continuum"),
        ({"ra": float("nan")}, "off"),
        ({"pa": 120.0}, "pa"),
        ({"chan": 3.0}, "line"),
    ],
)
def test_a_catalogue_that_differs_is_wrong(changes, said):
    assert said in judge.compare(row(**changes), [PLACE], 1.0)


def test_positions_are_compared_on_one_sky():
    from astropy.coordinates import SkyCoord

    fk4 = SkyCoord(150.0, -35.0, unit="deg").fk4
    table = row(ra=fk4.ra.deg, dec=fk4.dec.deg)
    table.meta |= {"radesys": "FK4", "equinox": "1950"}
    assert judge.compare(table, [PLACE], 1.0) == ""


def test_rows_too_many_and_too_few_are_wrong():
    assert "0 rows" in judge.compare(row()[:0], [PLACE], 1.0)
    assert "1 rows" in judge.compare(row(), [], 1.0)


@pytest.mark.parametrize(
    ("error", "ours", "outcome"),
    [
        (ParameterError("psf", "x.psf", "is empty", "Give another"), True, Outcome.CLEAR),
        (DataError("the psf 'x.psf' is no good"), True, Outcome.MISLEADING),
        (DataError("the psf 'x.psf' is empty\nand more"), True, Outcome.MISLEADING),
        (DataError("the psf 'x.psf' is empty: /there/.hidden/x.psf"), True, Outcome.MISLEADING),
        (DataError("the psf 'x.psf' is empty " + 600 * "x"), True, Outcome.MISLEADING),
        (RuntimeError("psf x.psf empty"), False, Outcome.RAW),
    ],
)
def test_errors_are_told_apart(error, ours, outcome):
    assert judge.judge_error(Trial({}, words=(("x.psf",), ("empty",))), error, ours)[0] is outcome


def test_what_can_be_used_must_not_be_refused():
    error = DataError("x is empty")
    assert judge.judge_error(Trial({}, truth=()), error, True)[0] is Outcome.MISLEADING
    assert judge.judge_error(Trial({}, truth=(), may_refuse=True), error, True)[0] is Outcome.CLEAR


def test_the_table_counts_and_decides():
    good = [Verdict("a/1", "a", Outcome.RIGHT, ""), Verdict("b/1", "b", Outcome.CLEAR, "")]
    misleading = [Verdict(f"b/{n}", "b", Outcome.MISLEADING, "") for n in range(3)]
    assert faults.passed(good) and faults.passed(good + misleading[:2]) and not faults.passed(good + misleading)
    for outcome in judge.BAD:
        assert not faults.passed([*good, Verdict("c/1", "c", outcome, "")])
    last = faults.table(good + misleading).splitlines()[-1].split()
    assert last == ["all", "5", "1", "1", "3", "0", "0", "0", "0", "0"]


def test_the_corpus_is_large_and_the_same_each_time():
    from benchmarks.faults.corpus import all_cases

    names = [case.name for case in all_cases(3)]
    assert len(names) >= 300 and len({case.kind for case in all_cases(3)}) >= 8
    assert names == [case.name for case in all_cases(3)]
    assert names != [case.name for case in all_cases(4)]


def _killed(folder: Path, shared: Path) -> Trial:
    os.kill(os.getpid(), signal.SIGKILL)
    return Trial({})


def _sleeps(folder: Path, shared: Path) -> Trial:
    time.sleep(60)
    return Trial({})


def _fails(folder: Path, shared: Path) -> Trial:
    raise ValueError("no such thing")


def what_cases_do(folder: Path) -> dict[str, str]:
    """Outcomes of three cases that end badly; to be run in a process without threads, as the runner forks."""
    from benchmarks.faults.runner import run_cases

    made = {"kill": _killed, "sleep": _sleeps, "fail": _fails}
    cases = [Case(f"x/{name}", make) for name, make in made.items()]
    verdicts = run_cases(cases, folder, workers=3, limit=10.0)
    return dict(sorted((verdict.name, verdict.outcome.name) for verdict in verdicts))


def fresh(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Another Python, which has loaded nothing yet, in the repository."""
    places = os.pathsep.join([os.environ.get("PYTHONPATH", ""), str(Path(__file__).parent)])
    return subprocess.run(
        [sys.executable, *arguments], capture_output=True, text=True, cwd=REPOSITORY, timeout=900,
        env=os.environ | {"PYTHONPATH": places},
    )  # fmt: skip


@pytest.mark.casa
def test_the_runner_survives_what_a_case_does(tmp_path):
    pytest.importorskip("casatasks")
    code = "import sys, pathlib, test_faults; print(test_faults.what_cases_do(pathlib.Path(sys.argv[1])))"
    done = fresh("-c", code, str(tmp_path))
    assert done.stdout.splitlines()[-1:] == ["{'x/fail': 'CRASH', 'x/kill': 'CRASH', 'x/sleep': 'HANG'}"], done.stderr


def test_what_is_lost_is_seen(tmp_path):
    from benchmarks.faults.runner import contents

    (tmp_path / "a").write_text("1")
    (tmp_path / "link").symlink_to("a")
    before = contents(tmp_path)
    (tmp_path / "a").write_text("2")
    assert contents(tmp_path)["a"] != before["a"] and contents(tmp_path)["link"] == before["link"] == "link to a"


@pytest.mark.casa
@pytest.mark.slow
def test_a_tenth_of_the_corpus_ends_as_it_should(tmp_path):
    pytest.importorskip("casatasks")
    done = fresh("-m", "benchmarks", "faults", "--part", str(PART), "--limit", "300", "--keep", str(tmp_path))
    lines = done.stdout.splitlines()
    assert done.returncode == 0 and lines[-1].split()[0] == "all" and int(lines[-1].split()[1]) > 40, done.stdout
    assert not [line for line in lines if line.startswith(Outcome.MISLEADING.value)]
