"""A dataset on a real Slurm: run where sim/slurm/local_slurm.sh, or a site's own, has started one.

    sim/slurm/local_slurm.sh install && sim/slurm/local_slurm.sh start
    eval "$(sim/slurm/local_slurm.sh env)"; python -m pytest tests/test_sim_slurm.py
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytest.importorskip("casadata")
pytest.importorskip("dask_jobqueue")

from test_sim_dataset import content

pytestmark = pytest.mark.slow

PRESET = """\
description: Small and quick.
base: paper
image: {channels: 6, npix: 64}
sources: {position: {uniform: [10, 50]}}
lines: {position: {uniform: [1, 4]}}
"""

CLUSTER = """\
class: SLURMCluster
jobs: 2
start_timeout: 300
options:
  cores: 1
  memory: 1500MiB
  walltime: "00:20:00"
  log_directory: logs
"""


def jobs() -> list[str]:
    done = subprocess.run(["squeue", "-h", "-o", "%i", "-t", "R"], capture_output=True, text=True, check=True)
    return done.stdout.split()


@pytest.fixture(autouse=True)
def slurm(tmp_path: Path) -> None:
    if shutil.which("sinfo") is None:
        pytest.skip("no Slurm on this machine")
    answer = subprocess.run(["sinfo", "-h", "-o", "%T"], capture_output=True, text=True)
    if answer.returncode != 0 or not {"idle", "mixed", "allocated"} & set(answer.stdout.split()):
        pytest.skip(f"Slurm does not answer: {answer.stdout} {answer.stderr}")
    (tmp_path / "small.yaml").write_text(PRESET)
    (tmp_path / "cluster.yaml").write_text(CLUSTER)


def generate(*more: str) -> subprocess.Popen:
    command = [sys.executable, "-m", "sim", "generate", "--preset", "small.yaml", "--seed", "7", *more]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def wait_for(number: int, run: subprocess.Popen) -> None:
    limit = time.monotonic() + 300.0
    while len(list(Path("set").glob("0*"))) < number:
        assert run.poll() is None and time.monotonic() < limit
        time.sleep(0.05)


def test_a_job_is_cancelled_and_a_run_is_killed(tmp_path: Path) -> None:
    run = generate("--n", "60", "--out", "set", "--cluster", "cluster.yaml")
    wait_for(2, run)
    running = jobs()
    assert running
    subprocess.run(["scancel", running[0]], check=True)
    wait_for(6, run)
    run.kill()
    run.communicate()
    made = len(list(Path("set").glob("0*")))
    assert 6 <= made < 60, "nothing was left to do after the kill"
    # Its jobs, which have lost their scheduler.
    subprocess.run(["scancel", *jobs()], check=True)
    again = generate("--n", "60", "--out", "set", "--cluster", "cluster.yaml")
    out, err = again.communicate()
    assert again.returncode == 0, err
    assert f"{60 - made} cubes made, {made} stood already" in out
    here = generate("--n", "60", "--out", "here")
    assert here.communicate()[1] == ""
    assert content(tmp_path / "set") == content(tmp_path / "here")
    time.sleep(5.0)
    assert not jobs() and os.listdir("logs")
