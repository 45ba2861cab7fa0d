"""Runs cases, each in a process and a folder of its own."""

from __future__ import annotations

import hashlib
import multiprocessing
import os
import resource
import sys
import time
import traceback
import warnings
from collections.abc import Iterator, Sequence
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

from benchmarks.faults.case import Case, Trial
from benchmarks.faults.judge import Outcome, Verdict, judge_error, judge_result

SHARED = "shared"
"""Folder of what several cases copy or link."""

STAYS = ("casa.log", ".last", ".pre")
"""Files that CASA leaves in the folder where it runs."""

CACHE = ".cache"
"""What libraries keep in a home."""


def prepare(folder: Path) -> None:
    """Import CASA once, for the processes that are forked, and make what the cases share."""
    from benchmarks.faults import fields, sets
    from sim.casa_backend import prepare_casa

    os.environ.setdefault("MPLBACKEND", "agg")
    shared = folder / SHARED
    shared.mkdir(parents=True, exist_ok=True)
    home = Path.cwd()
    # CASA writes its log where it is imported, its simulator leaves files where it runs.
    os.chdir(shared)
    try:
        prepare_casa()
        import casa_deepfocus.casa.task_sdeepfocus  # noqa: F401

        # In a process of its own: the state of CASA's simulator is no case's.
        process = multiprocessing.get_context("fork").Process(target=sets.write_sets, args=(shared.resolve(),))
        process.start()
        process.join()
    finally:
        os.chdir(home)
    fields.images()
    if process.exitcode:
        raise RuntimeError("the measurement sets of the corpus could not be made")


def run_cases(cases: Sequence[Case], folder: Path, *, workers: int, limit: float) -> Iterator[Verdict]:
    """Verdicts, in the order in which the cases end."""
    context = multiprocessing.get_context("fork")
    waiting = list(reversed(cases))
    running: dict[Any, tuple[Case, Connection, float]] = {}
    try:
        while waiting or running:
            while waiting and len(running) < workers:
                case = waiting.pop()
                home, there = context.Pipe(duplex=False)
                process = context.Process(target=_child, args=(case, folder, there))
                with warnings.catch_warnings():
                    # Python 3.12 warns of forking beside threads; CASA's and numpy's are idle here.
                    warnings.simplefilter("ignore", DeprecationWarning)
                    process.start()
                there.close()
                running[process] = (case, home, time.monotonic())
            wait([process.sentinel for process in running], timeout=0.5)
            for process in [p for p in running if not p.is_alive() or time.monotonic() - running[p][2] > limit]:
                case, home, started = running.pop(process)
                seconds = time.monotonic() - started
                if process.is_alive():
                    process.kill()
                    process.join()
                    yield Verdict(case.name, case.kind, Outcome.HANG, f"more than {limit:.0f} s", seconds)
                    continue
                process.join()
                try:
                    outcome, why = home.recv()
                except EOFError:
                    outcome, why = Outcome.CRASH, f"exit status {process.exitcode}"
                yield Verdict(case.name, case.kind, outcome, why, seconds)
    finally:
        for process in running:
            process.kill()


def _child(case: Case, folder: Path, answer: Connection) -> None:
    folder = folder.resolve()
    place = folder / case.name.replace("/", "_").replace(" ", "-")
    place.mkdir()
    os.chdir(place)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    # What libraries write to the terminal, too.
    with open(f"{place}.txt", "w", encoding="utf-8") as output:
        os.dup2(output.fileno(), 1)
        os.dup2(output.fileno(), 2)
    from casatasks import casalog

    log = Path(f"{place}.log")
    casalog.setlogfile(str(log))
    try:
        trial = case.make(place, folder / SHARED)
    except Exception as error:
        traceback.print_exc()
        answer.send((Outcome.CRASH, f"the case itself could not be made: {error!r}"))
    else:
        answer.send(_outcome(trial, place, log))
    answer.close()
    sys.stdout.flush()
    sys.stderr.flush()
    # Without the handlers of the process that was forked.
    os._exit(0)


def _outcome(trial: Trial, place: Path, log: Path) -> tuple[Outcome, str]:
    from casa_deepfocus import sdeepfocus
    from casa_deepfocus.errors import DeepFocusError

    before = contents(place)
    try:
        sdeepfocus(**({"outfile": trial.outfile} | trial.parameters))
    except DeepFocusError as error:
        outcome, why = judge_error(trial, error, ours=True)
    except Exception as error:
        traceback.print_exc()
        outcome, why = judge_error(trial, error, ours=False)
    else:
        outcome, why = judge_result(trial, place, warnings_of(log))
    after = contents(place)
    changed = sorted(name for name, digest in before.items() if after.get(name) != digest)
    if changed and not _may_change(trial, changed):
        return Outcome.LOST, f"{', '.join(changed[:3])} changed"
    left = sorted(name for name in set(after) - set(before) if not _belongs(name, trial))
    ended_well = outcome is Outcome.RIGHT
    if left and (not ended_well or any(name.startswith(".") for name in left)):
        return Outcome.LOST, f"left behind: {', '.join(left[:3])} ({why})"
    new = sorted(name for name in set(after) - set(before) if name.startswith(trial.outfile))
    if new and outcome in (Outcome.CLEAR, Outcome.MISLEADING, Outcome.RAW):
        return Outcome.LOST, f"an error, and products: {', '.join(new[:3])} ({why})"
    return outcome, why


def _may_change(trial: Trial, changed: Sequence[str]) -> bool:
    """Products of an earlier run may be replaced where the user said so."""
    return bool(trial.parameters.get("overwrite")) and all(name.startswith(trial.outfile) for name in changed)


def _belongs(name: str, trial: Trial) -> bool:
    return name.startswith((os.path.basename(trial.outfile), CACHE)) or name.endswith(STAYS) or "casa-" in name


def contents(folder: Path) -> dict[str, str]:
    """Every file below a folder with the hash of what it holds; links with where they lead."""
    found = {}
    for root, folders, files in os.walk(folder):
        for name in [*files, *folders]:
            path = Path(root) / name
            key = str(path.relative_to(folder))
            if path.is_symlink():
                found[key] = f"link to {os.readlink(path)}"
            elif path.is_dir():
                found[key] = "folder"
            elif path.stat().st_size < 2**28 and name != "table.lock":
                found[key] = hashlib.sha256(path.read_bytes()).hexdigest()
    return found


def warnings_of(log: Path) -> list[str]:
    """The lines of a CASA log that warn."""
    text = log.read_text(encoding="utf-8", errors="replace") if log.exists() else ""
    return [line for line in text.splitlines() if "\tWARN\t" in line]
