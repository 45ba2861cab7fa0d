"""Who works in a folder: a file that the working process holds locked, and that says who it is.

The lock is the kernel's (flock), so that it ends with the process, however that ends. Where a file
system has no such locks, host, process and its start tell whether the owner still lives.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import getpass
import json
import os
import socket
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import psutil

NAME = "owner.json"
"""The locked file; it also marks the folder as ours."""

NO_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, errno.EINVAL)
"""What flock says on a file system that has no locks."""

SAME_START = 2.0
"""Two starts of a process this close are one [s]: clocks are read in ticks and may be adjusted."""

UNWRITTEN = 60.0
"""An owner's record that cannot be read is taken as not yet written for this long [s]."""


@dataclass(frozen=True)
class Owner:
    """The process that works in a folder.

    Attributes
    ----------
    outfile : str, name of its products, without the folder
    host, user : str
    pid : int
    started : float [s since 1970], when the process started
    made_by : str
    """

    outfile: str
    host: str
    user: str
    pid: int
    started: float
    made_by: str = "casa_deepfocus"

    @classmethod
    def this(cls, outfile: str) -> Owner:
        """The running process."""
        try:
            user = getpass.getuser()
        except (KeyError, OSError, ImportError):
            user = str(os.getuid())
        return cls(outfile, socket.gethostname(), user, os.getpid(), psutil.Process().create_time())

    @classmethod
    def read(cls, path: Path) -> Owner | None:
        """The owner that a file names; None where it is not one of ours, or not written in full."""
        try:
            record = json.loads(path.read_text(encoding="utf-8"))
            owner = cls(**record)
        except (OSError, ValueError, TypeError):
            return None
        return owner if owner.made_by == cls.made_by else None

    def alive(self) -> bool:
        """Whether the process still runs; of another host it cannot be known, and True is safe."""
        if self.host != socket.gethostname():
            return True
        try:
            return abs(psutil.Process(self.pid).create_time() - self.started) < SAME_START
        except psutil.NoSuchProcess:
            return False
        except psutil.Error:
            return True

    def __str__(self) -> str:
        return f"process {self.pid} of {self.user} on {self.host}"


class Lock:
    """An open and locked owner's file.

    Attributes
    ----------
    fd : int
        A child that inherits it shares the lock: it is held until both have ended.
    """

    def __init__(self, fd: int) -> None:
        self.fd = fd

    @classmethod
    def make(cls, folder: Path, outfile: str) -> Lock | None:
        """Mark a folder as this process's own; None where another has taken it away meanwhile."""
        path = folder / NAME
        try:
            fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
        except (FileNotFoundError, FileExistsError):
            return None
        try:
            if _locked(fd) is False or not _same(fd, path):
                os.close(fd)
                return None
            os.write(fd, json.dumps(asdict(Owner.this(outfile))).encode())
        except BaseException:
            os.close(fd)
            raise
        return cls(fd)

    @classmethod
    def take(cls, folder: Path) -> Lock | None:
        """Lock a folder whose owner has ended; None where it lives, or where the folder is not ours to touch."""
        path = folder / NAME
        try:
            fd = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
        except OSError:
            return None
        locked = _locked(fd)
        if locked is None:
            locked = _abandoned(path)
        # A process may be killed before it has written its name.
        ours = os.fstat(fd).st_size == 0 or Owner.read(path) is not None
        if locked and ours and _same(fd, path):
            return cls(fd)
        os.close(fd)
        return None

    def holds(self, folder: Path) -> bool:
        """Whether this is the lock of a folder, and not released yet."""
        return self.fd >= 0 and _same(self.fd, folder / NAME)

    def release(self) -> None:
        """Let go; for good, also where a child has inherited the file."""
        with contextlib.suppress(OSError):
            fcntl.flock(self.fd, fcntl.LOCK_UN)
        os.close(self.fd)
        self.fd = -1


def _locked(fd: int) -> bool | None:
    """Whether the lock was free, and is ours now; None on a file system without locks."""
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as exc:
        if exc.errno in NO_LOCKS:
            return None
        raise
    return True


def _abandoned(path: Path) -> bool:
    owner = Owner.read(path)
    if owner is not None:
        return not owner.alive()
    try:
        return time.time() - path.stat().st_mtime > UNWRITTEN
    except OSError:
        return False


def _same(fd: int, path: Path) -> bool:
    """Whether a path still leads to the open file."""
    try:
        return os.path.samestat(os.fstat(fd), os.stat(path))
    except OSError:
        return False
