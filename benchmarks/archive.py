"""A data set as the archive gives it, from vis alone to the judged tables, four times over.

The set is simulated with CASA (`python -m sim archive`). The task runs on it

- through CASA's shell, `casa -c "sdeepfocus(vis=[...])"`, and its tables are judged;
- in two worker processes;
- in two worker processes, one of which gets SIGKILL in the middle of its work;
- in one process that gets SIGKILL half way, and once more.

All four must have the same tables.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import psutil
from astropy.table import Table

from training.archive import judge_folders, report

ROOT = Path(__file__).resolve().parents[1]

WORKER = "dask spec"
"""What the command line of a worker's process has in it."""

ROUNDING = 1e-9
"""Relative difference of numbers that are the same: last bits of a fit differ from run to run at times, by 1e-16."""

POLL = 0.2
"""Seconds between two looks at a run."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of the command."""
    parser.add_argument("--seed", type=int, default=11, help="of the simulated set (default 11)")
    parser.add_argument("--store", help="folder to keep set and products in; what is there already is not made again")
    parser.add_argument("--small", action="store_true", help="two targets and two windows instead of three and four")
    parser.add_argument("--runs", default="shell,workers,killed-worker,killed-run", help="which of the four, by name")


def run(args: argparse.Namespace) -> int:
    """Print the judgement, and whether all tables are the same; 0 where they are and the judgement is passed."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(args.store or scratch).resolve()
        folder.mkdir(parents=True, exist_ok=True)
        sets = _make(folder / "set", args)
        passed, tables = True, {}
        for name in args.runs.split(","):
            where = folder / name
            where.mkdir(exist_ok=True)
            start = time.perf_counter()
            _RUNS[name](where, sets)
            products = where / "set.targets"
            state = json.loads((products / "run.json").read_text())["cubes"]
            failed = [key for key, record in state.items() if record["state"] != "done"]
            _say(f"{name}: {len(state)} images, {len(failed)} failed, {time.perf_counter() - start:.0f} s")
            tables[name] = {str(p.relative_to(products)): Table.read(p) for p in sorted(products.glob("*/*s.ecsv"))}
            passed &= not failed
        first = next(iter(tables))
        judgements = judge_folders(folder / "set" / "truth", folder / first / "set.targets")
        _say("\n".join(report(judgements)))
        passed &= all(verdict.passed for verdict in judgements.values())
        for name in list(tables)[1:]:
            same = _same(tables[first], tables[name])
            _say(f"tables of {first} and {name}: {'the same' if same else 'different'}")
            passed &= same
    return 0 if passed else 1


def _say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def _make(folder: Path, args: argparse.Namespace) -> list[str]:
    """The measurement sets, simulated where they are not there yet."""
    if not (folder / "truth").exists():
        small = ["--targets", "2", "--windows", "2", "--mosaic", "3"] if args.small else []
        command = [sys.executable, "-m", "sim", "archive", str(folder), "--seed", str(args.seed), *small]
        subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return sorted(str(path) for path in folder.glob("*.ms"))


def _environment() -> dict[str, str]:
    own = {"PYTHONPATH": str(ROOT), "MPLBACKEND": "agg"}
    site = Path("/opt/casa/casasiteconfig.py"), Path("/home/casa/casasiteconfig.py")
    if not any(path.exists() for path in site):
        own["CASASITECONFIG"] = str(ROOT / "casa_deepfocus" / "casasiteconfig.py")
    return os.environ | own


def _start(where: Path, call: str, *, shell: bool = False) -> subprocess.Popen[bytes]:
    """A process that makes a call of the task."""
    if shell:
        command = [sys.executable, "-m", "casashell", "--nologger", "--nogui", "-c", call]
    else:
        command = [sys.executable, "-c", f"from casa_deepfocus import sdeepfocus; {call}"]
    with open(where / "out.log", "ab") as stream:
        return subprocess.Popen(
            command, cwd=where, env=_environment(), stdout=stream, stderr=stream, start_new_session=True
        )


def _finish(process: subprocess.Popen[bytes], where: Path) -> None:
    if process.wait() != 0:
        raise SystemExit(f"the task ended with status {process.returncode}; see {where / 'out.log'}")


def _call(sets: Sequence[str], **more: object) -> str:
    given = "".join(f", {name}={value!r}" for name, value in more.items())
    return f"sdeepfocus(vis={list(sets)!r}, outfile='set'{given})"


def _done(where: Path) -> int:
    """Images that a run on its way has made."""
    try:
        state = json.loads((where / "set.targets" / "run.json").read_text())["cubes"]
    except (OSError, ValueError):
        return 0
    return sum(record["state"] == "done" for record in state.values())


def _shell(where: Path, sets: Sequence[str]) -> None:
    if not (where / "set.targets" / "index.html").exists():
        _finish(_start(where, _call(sets), shell=True), where)


def _workers(where: Path, sets: Sequence[str]) -> None:
    if not (where / "set.targets" / "index.html").exists():
        _finish(_start(where, _call(sets, cluster=2)), where)


def _killed_worker(where: Path, sets: Sequence[str]) -> None:
    if (where / "set.targets" / "index.html").exists():
        return
    process = _start(where, _call(sets, cluster=2))
    while _done(where) < 2 and process.poll() is None:
        time.sleep(POLL)
    children = psutil.Process(process.pid).children(recursive=True) if process.poll() is None else []
    # The process that works is the one below each worker's supervisor.
    busy = [child for child in children if child.parent() and WORKER in " ".join(child.parent().cmdline())]
    busy = [child for child in busy if "spawn_main" in " ".join(child.cmdline())]
    if busy:
        busy[0].send_signal(signal.SIGKILL)
    _say(f"killed-worker: {len(busy)} workers, one of them killed after {_done(where)} images")
    _finish(process, where)


def _killed_run(where: Path, sets: Sequence[str]) -> None:
    if (where / "set.targets" / "index.html").exists():
        return
    process = _start(where, _call(sets, cluster=1))
    while _done(where) < 3 and process.poll() is None:
        time.sleep(POLL)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    done = _done(where)
    _finish(_start(where, _call(sets, cluster=1)), where)
    _say(f"killed-run: killed after {done} images, the same call went on from there")


_RUNS = {"shell": _shell, "workers": _workers, "killed-worker": _killed_worker, "killed-run": _killed_run}


def _same(one: dict[str, Table], other: dict[str, Table]) -> bool:
    """Whether two runs have the same tables, numbers to `ROUNDING`."""
    if one.keys() != other.keys():
        return False
    for name, table in one.items():
        if table.colnames != other[name].colnames or len(table) != len(other[name]):
            return False
        for column in table.colnames:
            mine, theirs = np.asarray(table[column]), np.asarray(other[name][column])
            if mine.dtype.kind == "f":
                alike = np.allclose(mine, theirs, ROUNDING, 0.0, equal_nan=True)
            else:
                alike = np.array_equal(mine, theirs)
            if not alike:
                return False
    return True
