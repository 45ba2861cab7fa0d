"""Runs that are killed, and disks that fill: is anything lost, does the next run work, is anything left behind?

One process imports CASA and forks the runs, so that each takes about a second; the search is stood in for. A run
reads a FITS image (one in twenty images a measurement set), mostly with older products in place. It gets SIGINT,
SIGTERM or SIGKILL

- at a random moment of a run's time, as it was measured, or
- before or after a random rename of the final move; some of those that undo the move are killed while they do,

or works on a small disk that is too small from the start, or fills while it works (needs the right to mount).
Then the older products must all be there whole, or the new ones; after SIGKILL once what it left has been
cleared up, as the next run does. That run must work, the inputs be the same, and no hidden folder remain.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.killed_run import CHANNELS, PIXELS, Trial, fork_run, prepare, wait
from casa_deepfocus.errors import ParameterError

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGKILL)

DISK = 2**24
"""Size of a small disk [byte]: reckoned beforehand, the products need 9 MB."""

TINY = 2**22
"""Size of a disk that is too small from the start [byte]."""

OFTEN_VIS = 20
"""One run in so many images a measurement set."""

FRESH = 0.2
"""Share of the runs without older products."""

TWICE = 0.3
"""Share of the moves stopped by SIGINT or SIGTERM that get SIGKILL while they are undone."""

STEPS = 40
"""Two to each rename of the final move where 9 older products go and 9 come: the journal, 18 moves, the journal."""

ROOM = {False: 600_000, True: 4_000_000}
"""What a run writes [byte], without and with a measurement set: a disk that fills has less left than this."""

PATIENCE = 5.0
"""A run must end this soon after SIGINT or SIGTERM [s of a machine that is not busy]; printed, not judged."""

FAULTS = ("lost", "left behind", "rerun failed", "odd")
"""Products or inputs lost or mixed; hidden folders after the rerun; a rerun that does not work; anything else."""


def draw(n: int, move: int, disks: int, seconds: dict[bool, float], seed: int) -> list[Trial]:
    """The trials: n kills, `move` of them within the final move, and disks."""
    trials = []
    for number in range(n + disks):
        # By number, so that fewer trials are the first of more.
        rng = random.Random(f"{seed} {number}")
        vis, older = rng.random() < 1 / OFTEN_VIS, rng.random() >= FRESH
        trial = Trial(number, vis, older)
        if number >= n:
            trial.disk, trial.room = DISK, rng.randrange(ROOM[vis])
            if rng.random() < 0.25:
                trial.disk, trial.room = TINY, -1
        else:
            trial.signum = rng.choice(SIGNALS)
            if number < move:
                trial.step = rng.randrange(STEPS if older else STEPS - 16)
                if trial.signum != signal.SIGKILL and rng.random() < TWICE:
                    trial.twice = rng.randint(1, 8)
            else:
                trial.after = rng.uniform(0.0, 1.05) * seconds[vis]
        trials.append(trial)
    return trials


def judge(trial: Trial, shared: Path) -> tuple[str, str, float]:
    """Run, stop and rerun one trial.

    Returns
    -------
    outcome : str, what was there afterwards, or one of FAULTS with details
    how : str, how the run ended
    seconds : float, from the signal to the end; NaN without one
    """
    with tempfile.TemporaryDirectory(dir=shared, prefix=f"trial-{trial.number}-") as name, _disk(name, trial) as folder:
        inputs = {path.name: fingerprint(path) for path in (shared / "inputs").iterdir()}
        if trial.older:
            for path in (shared / "reference").iterdir():
                (shutil.copytree if path.is_dir() else shutil.copy2)(path, folder / path.name)
        before = standing(folder)
        pid = fork_run(trial, folder, shared / "inputs", overwrite=trial.older)
        seconds = float("nan")
        if trial.after == trial.after:
            time.sleep(trial.after)
            sent = time.monotonic()
            os.kill(pid, trial.signum)
            how = wait(pid)
            seconds = time.monotonic() - sent
        else:
            how = wait(pid)
        if how.startswith(("hang", "raw")):
            return f"odd: {how}", how, seconds
        outcome = _outcome(before, folder, killed=how == "SIGKILL")
        filler = folder / "filler"
        filler.unlink(missing_ok=True)
        if trial.disk == TINY and os.path.ismount(folder):
            _mount("mount", "-o", f"remount,size={DISK}", str(folder))
        if outcome.startswith(FAULTS):
            return outcome, how, seconds
        now = standing(folder)
        again = wait(fork_run(Trial(trial.number, trial.vis, True), folder, shared / "inputs", overwrite=bool(now)))
        if again != "done":
            return f"rerun failed: {again}", how, seconds
        if _outcome(now, folder, killed=False) != "new":
            return f"lost: the rerun's products are {sorted(standing(folder))}", how, seconds
        if hidden(folder):
            return f"left behind: {hidden(folder)}", how, seconds
        if inputs != {path.name: fingerprint(path) for path in (shared / "inputs").iterdir()}:
            return "lost: inputs have changed", how, seconds
        return outcome, how, seconds


def _outcome(before: dict[str, tuple[int, str]], folder: Path, *, killed: bool) -> str:
    """'old', 'new' or a fault."""
    from casa_deepfocus.casa import outfiles, staging

    if killed:
        deadline = time.monotonic() + 10.0
        while hidden(folder) and time.monotonic() < deadline:
            # The process that writes for a killed run ends a moment later.
            staging.recover(str(folder))
            time.sleep(0.02)
    if hidden(folder):
        return f"left behind: {hidden(folder)}"
    now = standing(folder)
    if now == before:
        return "old"
    moved = not {inode for inode, _ in before.values()} & {inode for inode, _ in now.values()}
    # Moments are of lines, and not every run finds one.
    moments = {f"out.mom{order}" for order in range(3)}
    complete = set(now) | moments == {f"out{ending}" for ending in outfiles.SUFFIXES} | moments
    if moved and complete and all(outfiles.ours(str(folder / name)) for name in now) and _readable(folder):
        return "new"
    return f"lost: {len(before)} older products, now {sorted(now)}"


def _readable(folder: Path) -> bool:
    from astropy.table import Table

    size = sum(path.stat().st_size for path in (folder / "out.mask").rglob("*_TSM0"))
    return len(Table.read(folder / "out.cat.ecsv")) == 1 and size >= 4 * PIXELS * PIXELS * CHANNELS


def standing(folder: Path) -> dict[str, tuple[int, str]]:
    """Every product by name: its inode, which a move keeps, and its content."""
    return {path.name: (path.lstat().st_ino, fingerprint(path)) for path in folder.glob("out.*")}


def hidden(folder: Path) -> list[str]:
    """Hidden entries of a folder."""
    return sorted(path.name for path in folder.iterdir() if path.name.startswith("."))


def fingerprint(path: Path) -> str:
    """Digest of a file, or of all files in a folder; CASA's lock files change when tables are read."""
    import hashlib

    digest = hashlib.sha256()
    for item in sorted(path.rglob("*")) if path.is_dir() else [path]:
        digest.update(str(item.relative_to(path)).encode())
        if item.is_file() and item.name != "table.lock":
            digest.update(item.read_bytes())
    return digest.hexdigest()


@contextmanager
def _disk(name: str, trial: Trial) -> Iterator[Path]:
    """The folder of a trial: a small disk where it wants one."""
    folder = Path(name)
    if not trial.disk:
        yield folder
        return
    if not _mount("mount", "-t", "tmpfs", "-o", f"size={trial.disk}", "tmpfs", name):
        raise ParameterError("--disks", trial.number, "there is no right to mount a small disk", "Use --disks 0")
    try:
        yield folder
    finally:
        _mount("umount", "-l", name)


def _mount(*command: str) -> bool:
    return subprocess.run(command, capture_output=True).returncode == 0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of ``python -m benchmarks kills``."""
    parser.add_argument("--n", type=int, default=200, help="kills")
    parser.add_argument("--move", type=int, default=60, help="of these within the final move")
    parser.add_argument("--disks", type=int, default=20, help="full disks")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--workers", type=int, default=2, help="trials at a time")


def run(args: argparse.Namespace) -> int:
    """Run all trials and print the counts; 1 where there was a fault."""
    with tempfile.TemporaryDirectory(prefix="kills-") as name:
        shared = Path(name)
        seconds = prepare(shared)
        print(f"a run takes {seconds[False]:.2f} s, with a measurement set {seconds[True]:.2f} s", flush=True)
        trials = draw(args.n, args.move, args.disks, seconds, args.seed)
        counts: Counter[tuple[str, str, str]] = Counter()
        slowest, faults = 0.0, []
        with multiprocessing.get_context("fork").Pool(args.workers) as pool:
            for trial, (outcome, how, late) in pool.imap_unordered(_one, [(trial, shared) for trial in trials]):
                kind = "full disk" if trial.disk else "final move" if trial.step >= 0 else "any moment"
                fault = outcome if outcome.startswith(FAULTS) else ""
                counts[kind, how, outcome.split(":")[0]] += 1
                if fault:
                    faults.append(f"{trial}: {fault} ({how})")
                elif trial.signum != signal.SIGKILL:
                    slowest = max(slowest, 0.0 if late != late else late)
                if not sum(counts.values()) % 20:
                    print(f"{sum(counts.values())} of {len(trials)}", file=sys.stderr, flush=True)
    print(f"{'stopped in':<14}{'ended by':<28}{'products after it':<20}{'trials':>7}")
    for (kind, how, outcome), number in sorted(counts.items()):
        print(f"{kind:<14}{how:<28}{outcome:<20}{number:>7}")
    totals = Counter(fault.split(": ", 1)[1].split(":")[0] for fault in faults)
    print(f"{len(trials)} trials: " + ", ".join(f"{totals[fault]} {fault}" for fault in FAULTS))
    print(f"slowest end after SIGINT or SIGTERM: {slowest:.2f} s")
    for fault in faults:
        print(fault)
    return 1 if faults else 0


def _one(job: tuple[Trial, Path]) -> tuple[Trial, tuple[str, str, float]]:
    trial, shared = job
    return trial, judge(trial, shared)
