"""The command ``casa-deepfocus``: put the task into CASA's start-up file, take it out, say what is there."""

from __future__ import annotations

import argparse
import importlib.metadata
import sys
from collections.abc import Sequence
from pathlib import Path

from casa_deepfocus import __version__, casa_data
from casa_deepfocus.errors import DeepFocusError, MissingDependencyError
from casa_deepfocus.startup_file import install, uninstall

PACKAGES = ("casatools", "casatasks", "casashell", "casadata", "onnxruntime", "astropy", "scipy", "numpy")


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


def information() -> str:
    """Versions, where CASA's data are, the networks that are shipped, and where they can run."""
    lines = [f"casa_deepfocus {__version__} in {Path(__file__).parent}", f"python {sys.version.split()[0]}"]
    for package in PACKAGES:
        try:
            lines.append(f"{package} {importlib.metadata.version(package)}")
        except importlib.metadata.PackageNotFoundError:
            lines.append(f"{package} is not installed")
    lines.append(f"data wheel: {casa_data.wheel_folder() or 'none'}")
    lines.append(f"site configuration for scripts: {Path(casa_data.__file__).with_name('casasiteconfig.py')}")
    lines.append(f"networks: {_networks()}")
    return "\n".join(lines)


def _networks() -> str:
    from casa_deepfocus.models import runner

    try:
        info = runner.load_networks("", "auto").info
    except DeepFocusError as exc:
        return f"none can be used ({exc})"
    return f"{info['preset']} in {info['folder']}, run on {info['device']} with device='auto'"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit status."""
    parser = argparse.ArgumentParser(prog="casa-deepfocus", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("install", help="load the task in every CASA shell (for pip install -e and --user)")
    commands.add_parser("uninstall", help="undo install")
    commands.add_parser("info", help="versions, models and devices")
    command = parser.parse_args(arguments).command
    try:
        if command == "info":
            print(information())
            return 0
        path = startup_file()
        changed = install(path) if command == "install" else uninstall(path)
    except DeepFocusError as exc:
        print(f"casa-deepfocus: {exc}", file=sys.stderr)
        return 1
    print(f"{path}: {'changed' if changed else 'nothing to change'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
