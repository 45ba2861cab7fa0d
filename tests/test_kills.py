"""The benchmark of kills: it sees what is lost, and a few trials of it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from astropy.table import Table

pytest.importorskip("casatools")
from outfile_fixtures import make_product  # noqa: E402

from benchmarks import kills  # noqa: E402
from casa_deepfocus.casa import outfiles  # noqa: E402
from casa_deepfocus.products import marks  # noqa: E402

pytestmark = pytest.mark.casa


def products(folder: Path, text: str) -> None:
    for ending in outfiles.SUFFIXES:
        make_product(folder / f"out{ending}", text)
    (folder / "out.mask" / "table.f0_TSM0").write_bytes(np.zeros(10**5, np.uint8).tobytes())
    Table({"x": [1.0]}, meta={"software": marks.SOFTWARE}).write(folder / "out.cat.ecsv", overwrite=True)


def test_old_new_and_every_mixture_is_told(tmp_path):
    products(tmp_path, "old")
    before = kills.standing(tmp_path)
    assert kills._outcome(before, tmp_path, killed=False) == "old"
    (tmp_path / ".sdeepfocus-0").mkdir()
    assert kills._outcome(before, tmp_path, killed=False).startswith("left behind")
    assert kills._outcome(before, tmp_path, killed=True) == "old", "cleared up as the next run does"
    (tmp_path / "new").mkdir()
    products(tmp_path / "new", "new")
    for name in before:
        os.rename(tmp_path / name, tmp_path / f"away-{name}")
        assert kills._outcome(before, tmp_path, killed=False).startswith("lost")
        os.rename(tmp_path / "new" / name, tmp_path / name)
        if name != list(before)[-1]:
            assert kills._outcome(before, tmp_path, killed=False).startswith("lost")
    assert kills._outcome(before, tmp_path, killed=False) == "new"
    (tmp_path / "out.png").write_bytes(b"cut off")
    assert kills._outcome(before, tmp_path, killed=False).startswith("lost")


def test_the_trials_are_drawn_as_asked():
    seconds = {False: 1.0, True: 2.0}
    trials = kills.draw(200, 60, 20, seconds, seed=3)
    moves = [trial for trial in trials if trial.step >= 0]
    assert len(moves) == 60 and sum(trial.disk > 0 for trial in trials) == 20 and len(trials) == 220
    assert {trial.signum for trial in moves} == set(kills.SIGNALS)
    assert len({trial.step for trial in moves}) > 20 and any(trial.twice for trial in moves)
    assert kills.draw(200, 60, 20, seconds, seed=3) == trials != kills.draw(200, 60, 20, seconds, seed=4)


@pytest.mark.slow
def test_a_few_kills():
    command = [sys.executable, "-m", "benchmarks", "kills", "--n", "6", "--move", "4", "--disks", "0", "--workers", "1"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "6 trials: 0 lost, 0 left behind, 0 rerun failed, 0 odd" in done.stdout
