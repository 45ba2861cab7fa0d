"""The command ``casa-deepfocus``: put the task into CASA's start-up file, take it out, say what is wrong."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from casa_deepfocus import check
from casa_deepfocus.errors import DeepFocusError, MissingDependencyError, ProductError

LINE = "from casa_deepfocus.casa_startup import *  # added by casa-deepfocus install"


def startup_file() -> Path:
    """The file that the CASA shell executes last when it starts, as CASA is configured.

    Raises
    ------
    MissingDependencyError
        Where CASA is not installed in this Python.
    """
    try:
        from casaconfig import config
    except ImportError as exc:
        raise MissingDependencyError(
            "the CASA shell is not installed in this Python: pip install 'casa-deepfocus[casa]'"
        ) from exc
    return Path(config.startupfile).expanduser()


def install(path: Path) -> bool:
    """Append the start-up line to `path` unless it is there; returns whether the file was changed."""
    text = path.read_text() if path.exists() else ""
    if LINE in text.splitlines():
        return False
    _write(path, text + ("" if not text or text.endswith("\n") else "\n") + LINE + "\n")
    return True


def uninstall(path: Path) -> bool:
    """Take the start-up line out of `path`; returns whether the file was changed."""
    lines = path.read_text().splitlines(keepends=True) if path.exists() else []
    kept = [line for line in lines if line.strip() != LINE]
    if len(kept) == len(lines):
        return False
    _write(path, "".join(kept))
    return True


def _write(path: Path, text: str) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    except OSError as exc:
        raise ProductError(f"startupfile={str(path)!r}: cannot be written ({exc.strerror})") from exc


def report() -> int:
    """Print what `check` finds, each when it is known; returns how much of it is wrong."""
    wrong = 0
    for finding in check.findings():
        print(finding, flush=True)
        wrong += bool(finding.remedy)
    print(f"{wrong} to mend" if wrong else "everything that the task needs is there and works")
    return wrong


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit status."""
    parser = argparse.ArgumentParser(prog="casa-deepfocus", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("install", help="load the task in every CASA shell (for pip install -e and --user)")
    commands.add_parser("uninstall", help="undo install")
    commands.add_parser("check", help="whether everything that the task needs is there, and the commands that mend it")
    command = parser.parse_args(arguments).command
    try:
        if command == "check":
            return int(report() > 0)
        path = startup_file()
        changed = install(path) if command == "install" else uninstall(path)
    except DeepFocusError as exc:
        print(f"casa-deepfocus: {exc}", file=sys.stderr)
        return 1
    print(f"{path}: {'changed' if changed else 'nothing to change'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
