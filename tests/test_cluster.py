"""Workers: this process, processes of this machine, schedulers, and files that describe a cluster."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

pytest.importorskip("casadata")
distributed = pytest.importorskip("distributed")
pytest.importorskip("dask_jobqueue")

from test_sim_dataset import content, stand_in  # noqa: E402, F401  (a fixture)

from casa_deepfocus import cluster  # noqa: E402
from casa_deepfocus.cluster import mapper, read_cluster  # noqa: E402
from casa_deepfocus.errors import DataError, MissingDependencyError, ParameterError  # noqa: E402
from sim.dataset import generate  # noqa: E402

SLURM = """
    class: SLURMCluster
    jobs: 3
    options:
      queue: compute
      cores: 1
      memory: 4GiB
      walltime: "02:00:00"
"""


def write(text: str) -> str:
    Path("cluster.yaml").write_text(textwrap.dedent(text))
    return "cluster.yaml"


def test_one_worker_is_this_process() -> None:
    with mapper(1) as completed:
        assert list(completed(lambda index: (index, os.getpid()), [2, 3])) == [
            (2, (2, os.getpid())), (3, (3, os.getpid())),
        ]  # fmt: skip


def test_one_worker_needs_no_dask(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("dask", "distributed"):
        monkeypatch.setitem(sys.modules, name, None)
    with mapper(1) as completed:
        assert list(completed(abs, [-1])) == [(-1, 1)]
    with pytest.raises(MissingDependencyError, match=r"casa-deepfocus\[cluster\]"), mapper(2):
        pass


def test_workers_are_processes_of_one_thread() -> None:
    def about(index: int) -> tuple[int, str, int]:
        import threading

        from distributed import get_worker

        return os.getpid(), os.environ["OMP_NUM_THREADS"], get_worker().state.nthreads + 0 * threading.active_count()

    with mapper(2, memory_limit="2GiB") as completed:
        found = dict(completed(about, range(6)))
    assert set(found) == set(range(6))
    assert os.getpid() not in {pid for pid, _, _ in found.values()}
    assert {(threads, count) for _, threads, count in found.values()} == {("1", 1)}


def test_a_killed_worker_is_replaced_and_its_cube_tried_again(stand_in, tmp_path: Path) -> None:  # noqa: F811
    mark = str(tmp_path / "died")

    def dies_once(index: int) -> None:
        if index == 1 and not os.path.exists(mark):
            open(mark, "w").close()
            os.kill(os.getpid(), signal.SIGKILL)

    generate("paper", 4, 7, tmp_path / "quiet")
    stand_in(dies_once)
    report = generate("paper", 4, 7, tmp_path / "set", workers=2)
    assert os.path.exists(mark)
    assert not list((tmp_path / "set").glob(".*.part-*"))
    assert (report.made, report.failed) == (4, {})
    assert content(tmp_path / "set") == content(tmp_path / "quiet")


def test_a_cube_that_kills_every_worker_is_given_up(stand_in, tmp_path: Path) -> None:  # noqa: F811
    def dies(index: int) -> None:
        if index == 1:
            os.kill(os.getpid(), signal.SIGKILL)

    stand_in(dies)
    report = generate("paper", 4, 7, tmp_path / "set", workers=2)
    assert report.made == 3 and set(report.failed) == {1}
    assert "its worker died" in report.failed[1]


@pytest.mark.slow
def test_a_worker_above_its_memory_limit_fails_alone(stand_in, tmp_path: Path) -> None:  # noqa: F811
    def hungry(index: int) -> None:
        if index == 1:
            import time

            import numpy as np

            eaten = np.ones(200_000_000)
            time.sleep(5.0)
            eaten.sum()

    stand_in(hungry)
    report = generate("paper", 3, 7, tmp_path / "set", workers=1, memory_limit="500MiB")
    assert report.made == 2 and "memory limit" in report.failed[1]


def test_a_running_scheduler(stand_in, tmp_path: Path) -> None:  # noqa: F811
    generate("paper", 3, 7, tmp_path / "here")
    with distributed.LocalCluster(
        n_workers=1, threads_per_worker=1, dashboard_address=":0", silence_logs="CRITICAL"
    ) as scheduler:
        generate("paper", 3, 7, tmp_path / "there", cluster=scheduler.scheduler_address)
        path = write(f"address: {scheduler.scheduler_address}")
        assert generate("paper", 4, 7, tmp_path / "there", cluster=path).made == 1
        # It is somebody's: it stays.
        assert scheduler.scheduler.status is distributed.core.Status.running
    generate("paper", 4, 7, tmp_path / "here")
    assert content(tmp_path / "here") == content(tmp_path / "there")


def test_nobody_answers(tmp_path: Path) -> None:
    import dask

    with dask.config.set({"distributed.comm.timeouts.connect": "1s"}):
        with pytest.raises(DataError, match="no scheduler answers at tcp://127.0.0.1:9"):
            generate("paper", 1, 7, tmp_path / "set", cluster="tcp://127.0.0.1:9")


def test_no_worker_comes() -> None:
    with distributed.LocalCluster(n_workers=0, dashboard_address=":0", silence_logs="CRITICAL") as scheduler:
        path = write(f"address: {scheduler.scheduler_address}\nstart_timeout: 0.5")
        with pytest.raises(DataError, match="no worker came within"), mapper(1, path) as completed:
            list(completed(abs, [1]))


def test_workers_that_do_not_know_us() -> None:
    """A worker started elsewhere, without this checkout on its path."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    with distributed.LocalCluster(n_workers=0, dashboard_address=":0", silence_logs="CRITICAL") as scheduler:
        worker = subprocess.Popen(
            [sys.executable, "-P", "-m", "distributed.cli.dask_worker", scheduler.scheduler_address, "--no-nanny",
             "--no-dashboard"] if sys.version_info >= (3, 11) else
            [sys.executable, "-m", "distributed.cli.dask_worker", scheduler.scheduler_address, "--no-nanny",
             "--no-dashboard"],
            env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        try:
            with pytest.raises(DataError, match="cannot import sim: start workers with PYTHONPATH="):
                with mapper(1, scheduler.scheduler_address, packages=("sim",)) as completed:
                    list(completed(abs, [1]))
        finally:
            worker.terminate()
            worker.wait()


def test_a_cluster_file() -> None:
    read = read_cluster(write(SLURM))
    assert (read.kind, read.jobs, read.address, read.start_timeout) == ("SLURMCluster", 3, "", cluster.START_TIMEOUT)
    assert read.options == {"queue": "compute", "cores": 1, "memory": "4GiB", "walltime": "02:00:00"}
    assert read_cluster("tcp://somewhere:8786").address == "tcp://somewhere:8786"
    assert {"SLURMCluster", "PBSCluster", "SGECluster", "LSFCluster", "HTCondorCluster", "OARCluster"} <= set(
        cluster.cluster_classes()
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("queue:", "quue:"), r"unknown key `options.quue`; did you mean `queue`\?"),
        (("jobs:", "job:"), r"unknown key `job`; did you mean `jobs`\?"),
        (("SLURMCluster", "SlurmCluster"), r"no class 'SlurmCluster' .*SLURMCluster"),
        (("memory: 4GiB", "walltime: '1'"), r"options.memory is missing"),
        (("jobs: 3", "jobs: many"), r"jobs is 'many'"),
        (("jobs: 3", "jobs: 0"), r"at least 1"),
        (("jobs: 3", "adapt: {maximum_job: 3}"), r"unknown key `adapt.maximum_job`; did you mean `maximum_jobs`"),
        (("jobs: 3", "address: tcp://here:1"), r"either `address` or `class`"),
        (("class: SLURMCluster", ""), r"either `address` or `class`"),
        (("class:", "class: ["), r"is no YAML"),
    ],
)
def test_a_wrong_cluster_file(change: tuple[str, str], message: str) -> None:
    assert change[0] in SLURM
    with pytest.raises(DataError, match=message):
        read_cluster(write(SLURM.replace(*change)))


def test_other_wrong_clusters() -> None:
    with pytest.raises(ParameterError, match="no such file"):
        read_cluster("nowhere.yaml")
    with pytest.raises(DataError, match="keys and values"):
        read_cluster(write("- tcp://here:1"))
    with pytest.raises(DataError, match="must look like tcp"):
        read_cluster(write("address: somewhere"))
    with pytest.raises(ParameterError, match="memory_limit"), mapper(1, "tcp://here:1", "4GiB"):
        pass
    with pytest.raises(ParameterError, match="give `jobs`"), mapper(2, "tcp://here:1"):
        pass
    with pytest.raises(ParameterError, match="such as 4GiB"), mapper(1, None, "plenty"):
        pass


@pytest.mark.parametrize("change", [("", ""), ("jobs: 3", "adapt: {minimum_jobs: 1, maximum_jobs: 2}")])
def test_a_queue_that_takes_no_jobs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, change: tuple[str, str]) -> None:
    refusing = tmp_path / "bin" / "sbatch"
    refusing.parent.mkdir()
    refusing.write_text("#!/bin/sh\necho 'sbatch: error: invalid partition specified: compute' >&2\nexit 1\n")
    refusing.chmod(0o755)
    monkeypatch.setenv("PATH", f"{refusing.parent}:{os.environ['PATH']}")
    with pytest.raises(DataError, match="SLURMCluster cannot submit jobs: .*invalid partition"):
        with mapper(1, write(SLURM.replace(*change))):
            pass


def test_a_machine_without_slurm(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(Path(sys.executable).parent))
    with pytest.raises(DataError, match="SLURMCluster cannot submit jobs: .*sbatch"), mapper(1, write(SLURM)):
        pass


def test_what_a_job_is_told() -> None:
    """The job script of a cluster: threads, memory settings and the way to this checkout."""
    options = cluster.job_options(read_cluster(write(SLURM)).options | {"job_script_prologue": ["module load casa"]})
    from dask_jobqueue import SLURMCluster

    with SLURMCluster(**options) as jobs:
        script = jobs.job_script()
    for line in (
        "#SBATCH -p compute", "#SBATCH -t 02:00:00", "module load casa", "export OMP_NUM_THREADS=1",
        "export DASK_DISTRIBUTED__WORKER__MEMORY__PAUSE=False", f'export PYTHONPATH="{cluster.ROOT}',
    ):  # fmt: skip
        assert line in script
    assert script.index("module load") < script.index("export OMP")
