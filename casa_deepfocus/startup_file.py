"""The line that brings the task into CASA's shell, in the user's start-up file, and out of it again.

The file is the user's: whatever bytes it holds stay as they are, and it is replaced in one step by a
new one that has been written in full, so that nothing can shorten it.
"""

from __future__ import annotations

import contextlib
import os
import stat
import tempfile
from pathlib import Path

from casa_deepfocus.errors import ProductError

LINE = "from casa_deepfocus.casa_startup import *  # added by casa-deepfocus install"


def is_installed(path: Path) -> bool:
    """Whether the start-up line stands in `path`."""
    return any(_is_ours(line) for line in _read(path).splitlines())


def install(path: Path) -> bool:
    """Append the start-up line to `path` unless it is there; returns whether the file was changed.

    Raises
    ------
    ProductError
        Where the file cannot be read or written; it is as it was then.
    """
    if is_installed(path):
        return False
    old = _read(path)
    _write(path, old + (b"" if not old or old.endswith(b"\n") else b"\n") + LINE.encode() + b"\n")
    return True


def uninstall(path: Path) -> bool:
    """Take the start-up line out of `path`; returns whether the file was changed.

    Raises
    ------
    ProductError
        As `install` does.
    """
    lines = _read(path).splitlines(keepends=True)
    kept = [line for line in lines if not _is_ours(line)]
    if len(kept) == len(lines):
        return False
    _write(path, b"".join(kept))
    return True


def _is_ours(line: bytes) -> bool:
    return line.strip() == LINE.encode()


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return b""
    except OSError as exc:
        raise ProductError(f"startupfile={str(path)!r}: cannot be read ({exc.strerror})") from exc


def _write(path: Path, content: bytes) -> None:
    """Put `content` in place of a file in one step; a link stays, and what it leads to is replaced."""
    real = Path(os.path.realpath(path))
    new = ""
    try:
        real.parent.mkdir(parents=True, exist_ok=True)
        handle, new = tempfile.mkstemp(prefix=f".{real.name[:100]}.", dir=real.parent)
        with open(handle, "wb") as stream:
            stream.write(content)
            stream.flush()
            _like(stream.fileno(), real)
            os.fsync(stream.fileno())
        os.replace(new, real)
    except BaseException as exc:
        with contextlib.suppress(OSError):
            os.unlink(new)
        if isinstance(exc, OSError):
            raise ProductError(
                f"startupfile={str(path)!r}: cannot be written ({exc.strerror}); it is as it was before"
            ) from exc
        raise


def _like(handle: int, path: Path) -> None:
    """Give an open file the mode, and where that is possible the owner, of the one it replaces."""
    try:
        old = path.stat()
    except FileNotFoundError:
        mask = os.umask(0)
        os.umask(mask)
        os.fchmod(handle, 0o666 & ~mask)
        return
    with contextlib.suppress(PermissionError):
        os.fchown(handle, old.st_uid, old.st_gid)
    os.fchmod(handle, stat.S_IMODE(old.st_mode))
