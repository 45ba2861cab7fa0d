"""The folder of a run with several targets: what is done in it stays done, also when the run is killed.

<outfile>.targets holds a folder of each target, which appears when all of the target's cubes are done, whole.
run.json says what was asked and what became of each cube; cubes of targets on the way lie in a hidden
folder. The same call goes on where the last one ended: cubes that are done are not made again, those that
failed are tried again.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from casa_deepfocus import __version__
from casa_deepfocus.casa import outfiles, signals
from casa_deepfocus.casa.locks import NAME, Lock, Owner
from casa_deepfocus.errors import ProductError
from casa_deepfocus.products.marks import MAKER

RECORD, WORK, OLD = "run.json", ".work", ".old"
DONE, FAILED = "done", "failed"

PATIENCE = 3.0
"""How long a run waits for another's folder [s]: a killed process takes a moment to end."""

IDENTITY = ("table.dat", "table.f*")
"""Files of a table whose sizes and times tell whether it is still the same."""

NOT_ASKED = ("outfile", "overwrite", "cluster", "device")
"""Parameters that change nothing in the catalogues."""


class RunFolder:
    """The folder of a run, locked.

    Attributes
    ----------
    path : Path
    state : dict
        What became of each cube, by its key: {'state': 'done' or 'failed', 'reason', 'seconds', ...}.
    notes : list of str
        What the log should say of what was found.
    """

    def __init__(self, path: Path, lock: Lock, signature: str, asked: Mapping[str, Any]) -> None:
        self.path, self.lock, self.signature = path, lock, signature
        self.asked = dict(asked)
        self.state: dict[str, dict[str, Any]] = {}
        self.notes: list[str] = []

    @property
    def work(self) -> Path:
        """Where cubes of targets on the way are."""
        return self.path / WORK

    def stem(self, folder: str, label: str) -> str:
        """Prefix of a cube's products while its target is on the way."""
        (self.work / folder).mkdir(parents=True, exist_ok=True)
        return str(self.work / folder / label)

    def place(self, folder: str) -> Path:
        """Where the products of a target are now: in place, or on the way."""
        return self.work / folder if (self.work / folder).exists() else self.path / folder

    def is_done(self, folder: str, label: str) -> bool:
        """Whether a cube's products are there."""
        record = self.state.get(f"{folder}/{label}", {})
        return record.get("state") == DONE and (self.place(folder) / f"{label}.cat.ecsv").exists()

    def record(self, key: str, state: str, **facts: Any) -> None:
        """Write down what became of a cube."""
        self.state[key] = {"state": state, **facts}
        self.save()

    def save(self) -> None:
        """Write run.json, in full or not at all."""
        content = {
            "made_by": MAKER, "version": __version__, "signature": self.signature, "asked": self.asked,
            "cubes": self.state,
        }  # fmt: skip
        new = self.path / (RECORD + ".new")
        new.write_text(json.dumps(content, indent=1, default=str), encoding="utf-8")
        os.replace(new, self.path / RECORD)

    def reopen(self, folder: str) -> None:
        """Take a target that is in place back to work: one of its cubes is to be made after all."""
        if (self.path / folder).exists() and not (self.work / folder).exists():
            self.work.mkdir(exist_ok=True)
            os.rename(self.path / folder, self.work / folder)

    def publish(self, folder: str) -> Path:
        """Put a target in place, whole; an older one of this name goes afterwards."""
        target = self.path / folder
        outfiles.mark(self.work)
        with signals.held():
            old = self.path / OLD / folder
            if target.exists():
                old.parent.mkdir(exist_ok=True)
                shutil.rmtree(old, ignore_errors=True)
                os.rename(target, old)
            os.rename(self.work / folder, target)
        shutil.rmtree(self.path / OLD, ignore_errors=True)
        return target

    def finish(self, folders: Sequence[str], *, keep_work: bool = False) -> None:
        """Remove what no longer belongs to the run: an older one's targets, and the work folder unless it is needed."""
        if not keep_work:
            shutil.rmtree(self.work, ignore_errors=True)
        for path in self.path.iterdir():
            if path.is_dir() and path.name not in folders and outfiles.ours(str(path)):
                shutil.rmtree(path, ignore_errors=True)


def signature(values: Mapping[str, Any], inputs: Sequence[str]) -> str:
    """What tells one call from another: the parameters, the inputs as they are, this version."""
    kept = {name: value for name, value in values.items() if name not in NOT_ASKED}
    content = {"version": __version__, "parameters": kept, "inputs": [_identity(name) for name in inputs]}
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()


def _identity(name: str) -> list[Any]:
    """Real path, size and latest change of an input's data."""
    path = Path(os.path.realpath(name))
    files = [file for pattern in IDENTITY for file in path.glob(pattern)] if path.is_dir() else [path]
    seen = [file.stat() for file in files if file.exists()]
    return [str(path), sum(one.st_size for one in seen), max((one.st_mtime_ns for one in seen), default=0)]


@contextmanager
def run_folder(
    outfile: str, values: Mapping[str, Any], inputs: Sequence[str], *, overwrite: bool
) -> Iterator[RunFolder]:
    """The folder of a run, new or to be gone on with; it goes if nothing was done in it.

    Raises
    ------
    ProductError
        Where it holds another run's products, or nothing can be written, or another run works in it.
    """
    path = Path(os.path.abspath(outfile + outfiles.TARGETS))
    mine = signature(values, inputs)
    new = not path.exists()
    before = None if new else check(outfile, mine, overwrite=overwrite)
    asked = {name: value for name, value in values.items() if name not in NOT_ASKED and value not in ("", [])}
    with contextlib.ExitStack() as stack:
        with signals.held():
            try:
                path.mkdir(exist_ok=True)
            except OSError as exc:
                raise ProductError(f"outfile={outfile!r}: {str(path)!r} cannot be made ({exc.strerror})") from exc
            outfiles.mark_folder(path)
            run = RunFolder(path, _lock(path, outfile), mine, asked)
            stack.callback(_close, run, remove=new)
        if before is not None:
            run.state = before["cubes"]
            done = sum(record["state"] == DONE for record in run.state.values())
            run.notes.append(f"going on with the run in {str(path)!r}: {done} cubes are done")
        elif not new:
            # What another call left on the way; its targets stay until there are new ones.
            shutil.rmtree(run.work, ignore_errors=True)
        run.save()
        yield run


def check(outfile: str, mine: str, *, overwrite: bool) -> dict[str, Any] | None:
    """The record of a run of the same call that is to be gone on with; None where a new one may begin.

    Raises
    ------
    ProductError
        Where something stands in the way.
    """
    path = Path(os.path.abspath(outfile + outfiles.TARGETS))
    if not os.path.lexists(path):
        return None
    if not outfiles.ours(str(path)):
        raise ProductError(
            f"outfile={outfile!r}: {str(path)!r} exists already and was not made by sdeepfocus; even overwrite=True "
            "does not replace it. Choose another outfile, or move it away"
        )
    try:
        before = json.loads((path / RECORD).read_text(encoding="utf-8"))
        same = before["signature"] == mine
        unfinished = (path / WORK).exists() or any(one["state"] != DONE for one in before["cubes"].values())
    except (OSError, ValueError, KeyError, TypeError):
        before, same, unfinished = None, False, False
    if same and unfinished:
        return dict(before)
    if not overwrite:
        what = "is complete" if same else "holds the products of another call"
        raise ProductError(f"outfile={outfile!r}: {str(path)!r} {what}; set overwrite=True or another outfile")
    return None


def _lock(path: Path, outfile: str) -> Lock:
    deadline = time.monotonic() + PATIENCE
    while True:
        lock = Lock.take(path) if (path / NAME).exists() else Lock.make(path, os.path.basename(outfile))
        if lock is not None:
            return lock
        if time.monotonic() > deadline:
            owner = Owner.read(path / NAME)
            raise ProductError(
                f"outfile={outfile!r}: another run is working on it, {owner or 'nobody knows which'}. Wait for it, or "
                f"choose another outfile; if no such process runs any more, remove {str(path / NAME)!r}"
            )
        time.sleep(0.1)


def _close(run: RunFolder, *, remove: bool) -> None:
    """Unlock; a new folder in which no cube was done goes."""
    nothing = remove and not any(record["state"] == DONE for record in run.state.values())
    with signals.held():
        with contextlib.suppress(OSError):
            (run.path / NAME).unlink()
        run.lock.release()
        if nothing:
            shutil.rmtree(run.path, ignore_errors=True)
