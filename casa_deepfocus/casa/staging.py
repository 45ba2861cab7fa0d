"""Where a run works, and how its products come into place: all of them, or none and the older ones again.

A run works in a hidden folder beside its products (same file system, so that moving is renaming), which it
holds locked: one run per outfile. The final move is written down before its first step. Whoever finds the
folder of a run that has died undoes a move that was not finished, so that the older products are whole
again, and removes the folder. The order of things:

1. `moving.json` names every product that goes and comes;
2. older products are renamed into `old/`, new ones from `products/` into place, one by one;
3. `moving.json` is renamed `done.json`: from here on the new products count;
4. the folder goes, and with it the older products.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import re
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from casa_deepfocus.casa import outfiles, signals
from casa_deepfocus.casa.locks import NAME, Lock, Owner
from casa_deepfocus.errors import ProductError

FOLDER = re.compile(r"\.sdeepfocus-\w+(\.new|\.gone)?")
"""Names of work folders: of an outfile, not yet one, and no longer one."""

MOVING, DONE, STAGED, OLD = "moving.json", "done.json", "products", "old"

PATIENCE = 3.0
"""How long a run waits for another's folder [s]: a killed process takes a moment to end, as does clearing up."""

SYNCED = 2**24
"""Products below this size [byte] are written through to the disk before they move. Larger ones would take seconds."""


class Workspace:
    """The work folder of a run.

    Attributes
    ----------
    path : Path
        For everything on the way.
    staged : Path
        Folder inside it for the products, <name of outfile><ending>.
    lock : Lock
    published : bool
        Whether the new products are in place.
    """

    def __init__(self, path: Path, lock: Lock, outfile: str) -> None:
        self.path, self.lock, self.outfile = path, lock, outfile
        self.staged = path / STAGED
        self.published = False

    def publish(self, endings: Sequence[str], *, overwrite: bool) -> dict[str, str]:
        """Move the staged products into place, in place of older ones; back again where anything fails.

        Parameters
        ----------
        endings : sequence of str
            Those that belong to this run: an older product without a new one is removed.
        overwrite : bool
            Whether older products of ours may be replaced; looked at once more, as a run takes long.

        Returns
        -------
        dict : ending without its dot -> path

        Raises
        ------
        ProductError
            Where a product cannot be moved, or somebody has put something in its place meanwhile; then
            everything is as it was before. So it is after a signal.
        """
        folder, base = os.path.split(os.path.abspath(self.outfile))
        outfiles.check_free(self.outfile, [self.outfile + ending for ending in endings], overwrite=overwrite)
        moves: list[tuple[str, bool, bool]] = []
        for ending in endings:
            name = base + ending
            moves.append((ending, os.path.lexists(os.path.join(folder, name)), os.path.lexists(self.staged / name)))
        _synchronize(self.staged)
        with signals.held() as pending:
            try:
                os.mkdir(self.path / OLD)
                _write_through(self.path / MOVING, {"base": base, "moves": moves})
                for ending, goes, comes in moves:
                    target = os.path.join(folder, base + ending)
                    if goes:
                        pending.check()
                        os.rename(target, self.path / OLD / (base + ending))
                    if comes:
                        pending.check()
                        if os.path.lexists(target):
                            raise ProductError(f"{target!r} was written by somebody else while this run moved")
                        os.rename(self.staged / (base + ending), target)
                _sync(folder)
                pending.check()
                os.rename(self.path / MOVING, self.path / DONE)
                self.published = True
                with contextlib.suppress(OSError):
                    _sync(self.path)
            except BaseException as exc:
                roll_back(self.path)
                if isinstance(exc, OSError) and not isinstance(exc, ProductError):
                    raise ProductError(
                        f"the products of outfile={self.outfile!r} cannot be put in place ({exc}); "
                        "everything is as it was before"
                    ) from exc
                raise
        return {ending.lstrip("."): os.path.join(folder, base + ending) for ending, _, comes in moves if comes}


@contextmanager
def workspace(outfile: str) -> Iterator[Workspace]:
    """A locked hidden folder beside the products; gone afterwards, whatever happens.

    Raises
    ------
    ProductError
        Where nothing can be written, or another run works on this outfile.
    """
    work: Workspace | None = None
    try:
        with signals.held():
            work = _acquire(outfile)
        yield work
    finally:
        if work is not None:
            _uninterrupted(lambda: _discard(work.path, work.lock))


def recover(folder: str) -> list[str]:
    """Clear up after runs that have died in a folder; returns what was done, for the log.

    A final move that was not finished is undone. Folders of living runs, and of others, are left alone.
    """
    notes: list[str] = []
    try:
        found = [
            Path(entry.path) for entry in os.scandir(folder)
            if FOLDER.fullmatch(entry.name) and entry.is_dir(follow_symlinks=False)
        ]  # fmt: skip
    except OSError:
        return notes
    for path in found:
        with contextlib.suppress(OSError):
            # Empty: its process was killed before it could mark it, or after it had cleared it.
            path.rmdir()
            continue
        lock = Lock.take(path)
        if lock is None:
            continue
        with signals.held():
            owner = Owner.read(path / NAME)
            name = owner.outfile if owner else path.name
            try:
                if roll_back(path):
                    notes.append(f"a run on outfile {name!r} died while its products moved: what it had moved is back")
            except ProductError as exc:
                notes.append(str(exc))
            _discard(path, lock)
            if not path.exists():
                notes.append(f"removed what a run on outfile {name!r} left behind when it died")
    return notes


def roll_back(work: Path) -> bool:
    """Undo a final move that was not finished; returns whether there was one. Does no harm when done twice.

    Raises
    ------
    ProductError
        Where something cannot be moved back; the work folder holds it still.
    """
    try:
        journal = json.loads((work / MOVING).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        # Without a journal that is whole nothing has moved.
        return False
    folder, base = work.parent, journal["base"]
    try:
        for ending, goes, comes in reversed(journal["moves"]):
            target, new, old = folder / (base + ending), work / STAGED / (base + ending), work / OLD / (base + ending)
            if comes and not os.path.lexists(new) and os.path.lexists(target):
                os.rename(target, new)
            if goes and os.path.lexists(old):
                if os.path.lexists(target):
                    raise FileExistsError(errno.EEXIST, "somebody else has written it meanwhile", str(target))
                os.rename(old, target)
        _sync(folder)
        (work / MOVING).unlink()
    except OSError as exc:
        raise ProductError(
            f"older products of {base!r} could not be put back ({exc}); they are in {str(work / OLD)!r}. "
            "The next run in this folder tries again"
        ) from exc
    return True


def _acquire(outfile: str) -> Workspace:
    folder, base = os.path.split(os.path.abspath(outfile))
    # A digest in place of the name, which may be as long as names can be.
    place = Path(folder) / f".sdeepfocus-{hashlib.sha256(os.fsencode(base)).hexdigest()[:16]}"
    deadline = time.monotonic() + PATIENCE
    while True:
        recover(folder)
        try:
            new = Path(tempfile.mkdtemp(prefix=".sdeepfocus-", suffix=".new", dir=folder))
            try:
                lock = Lock.make(new, base)
            except OSError:
                _remove(new)
                raise
            if lock is None:
                continue
            try:
                (new / STAGED).mkdir()
                os.rename(new, place)
                return Workspace(place, lock, outfile)
            except BaseException:
                _discard(new, lock)
                raise
        except OSError as exc:
            if exc.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise ProductError(
                    f"outfile={outfile!r}: nothing can be written in {folder!r} ({exc.strerror}); choose another folder"
                ) from exc
        if time.monotonic() > deadline:
            owner = Owner.read(place / NAME)
            raise ProductError(
                f"outfile={outfile!r}: another run is working on it, {owner or 'nobody knows which'}. Wait for it, or "
                f"choose another outfile; if no such process runs any more, remove the folder {str(place)!r}"
            )
        time.sleep(0.1)


def _discard(path: Path, lock: Lock) -> None:
    """Remove a work folder; leave it where it holds older products that could not be put back."""
    if not lock.holds(path):
        return
    if (path / MOVING).exists():
        lock.release()
        return
    # Out of the way first: nobody may find half a folder under the outfile's name.
    gone = path.with_name(f".sdeepfocus-{path.name.split('-')[1].split('.')[0]}_{os.getpid()}_{time.time_ns()}.gone")
    with contextlib.suppress(OSError):
        os.rename(path, gone)
        path = gone
    for entry in os.scandir(path) if path.is_dir() else ():
        if entry.name != NAME:
            _remove(Path(entry.path))
    # A network file system keeps an open file in its folder.
    lock.release()
    with contextlib.suppress(OSError):
        # What could not be removed stays marked, for the next run.
        if os.listdir(path) == [NAME]:
            (path / NAME).unlink()
            path.rmdir()


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with contextlib.suppress(OSError):
            path.unlink()


def _uninterrupted(action: Callable[[], None]) -> None:
    """Do something once, to its end; a signal that comes before it is held back is raised afterwards."""
    done = False
    try:
        with signals.held():
            action()
            done = True
    except (KeyboardInterrupt, signals.Terminated):
        if not done:
            with signals.held():
                action()
        raise


def _write_through(path: Path, record: object) -> None:
    """Write a JSON file that is there in full or not at all, also after a loss of power."""
    new = path.with_name(path.name + ".new")
    with open(new, "w", encoding="utf-8") as stream:
        json.dump(record, stream)
        stream.flush()
        os.fsync(stream.fileno())
    os.rename(new, path)
    _sync(path.parent)


def _synchronize(folder: Path) -> None:
    """Write what is not large through to the disk: what a full disk or a quota says only then is said in time."""
    for parent, _, names in os.walk(folder):
        for name in names:
            path = os.path.join(parent, name)
            if not os.path.islink(path) and os.path.getsize(path) < SYNCED:
                _sync(path)
        _sync(parent)


def _sync(path: str | Path) -> None:
    try:
        fd = os.open(path, os.O_RDONLY)
    except PermissionError:
        # A folder that may be written but not listed.
        return
    try:
        os.fsync(fd)
    except OSError as exc:
        # Folders of some file systems cannot be synchronized.
        if exc.errno not in (errno.EINVAL, errno.EBADF, errno.EROFS, errno.ENOTSUP):
            raise
    finally:
        os.close(fd)
