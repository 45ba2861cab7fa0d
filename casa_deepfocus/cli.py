"""The command ``casa-deepfocus``: put the task into CASA's start-up file, take it out, say what is wrong."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from casa_deepfocus import check
from casa_deepfocus.errors import DeepFocusError, MissingDependencyError
from casa_deepfocus.startup_file import install, uninstall


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
