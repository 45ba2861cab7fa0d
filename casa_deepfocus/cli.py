"""The command ``casa-deepfocus``: search an image or measurement sets, say what is installed and what is wrong.

Exit status: 0 where all is done, 1 where the input cannot be used or something failed, 2 for a wrong command line,
3 where some of several images could not be made, 130 after Ctrl-C.
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import io
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from casa_deepfocus import __version__, check, params
from casa_deepfocus.errors import DeepFocusError, MissingDependencyError, ParameterError
from casa_deepfocus.startup_file import install, uninstall

DONE, FAILED, INCOMPLETE, INTERRUPTED = 0, 1, 3, 130
"""Exit status; argparse itself ends with 2."""

OPTIONS = ("psf", "pb", "mode", "minsnr", "falsealarms", "completeness", "restfreq", "veltype", "models", "device")
"""Parameters of the task that are options of `run`; all others are given as ``--set NAME=VALUE``."""


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


def models() -> list[str]:
    """The sets of networks that are here, a line each."""
    from casa_deepfocus.models import runner

    lines = []
    for name in (runner.SHIPPED, *runner.REBUILT):
        try:
            folder = runner.find_folder(name)
            manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
        except (DeepFocusError, OSError, ValueError) as exc:
            lines.append(f"{name:<10} not here: {exc}")
            continue
        size = sum(path.stat().st_size for path in folder.glob("*.onnx")) / 1e6
        lines.append(f"{name:<10} {size:6.1f} MB  flow {manifest.get('flow', 'default')}, {folder}")
    return lines


def run(arguments: argparse.Namespace) -> int:
    """Search what was given; returns the exit status."""
    given = {name: getattr(arguments, name) for name in OPTIONS if getattr(arguments, name) is not None}
    given |= {"outfile": arguments.out or "", "overwrite": arguments.overwrite}
    more = dict(_setting(text) for text in arguments.set)
    names = [os.path.expanduser(name) for name in arguments.input]
    for name in names:
        if not os.path.exists(name):
            raise ParameterError("input", name, "does not exist", "Check the path")
    # The progress goes to standard error and so does the log: standard output has the table, or JSON, and nothing else.
    with contextlib.redirect_stdout(io.StringIO()):
        if len(names) == 1 and os.path.isfile(names[0]):
            found = _run_fits(names[0], given, more, arguments.quiet)
        else:
            found = _run_task(names, given | more)
    if arguments.json:
        path = found.get("products", {}).get("json")
        print(Path(path).read_text(encoding="utf-8") if path else json.dumps(found, indent=1, default=str), end="")
    else:
        print(repr(found))
    return INCOMPLETE if found.get("failed") else DONE


def _run_fits(name: str, given: dict[str, Any], more: dict[str, Any], quiet: bool) -> Any:
    from casa_deepfocus.standalone import run_fits

    cutouts = bool(more.pop("cutouts", False))
    if more:
        first = next(iter(more))
        raise ParameterError(
            first, more[first], "is for measurement sets; a FITS image is made already", "Leave it out"
        )

    def log(message: str, priority: str = "INFO") -> None:
        if priority == "WARN" or not quiet:
            # The line that moves stands on the terminal.
            clear = "\r\x1b[K" if sys.stderr.isatty() else ""
            print(f"{clear}{'WARNING: ' if priority == 'WARN' else ''}{message}", file=sys.stderr, flush=True)

    return run_fits(name, log=log, cutouts=cutouts, **given)


def _run_task(names: list[str], given: dict[str, Any]) -> Any:
    """The task itself, for measurement sets, CASA's images and several images."""
    from casa_deepfocus import casa_data
    from casa_deepfocus.reading.grid import is_table

    casa_data.provide()
    try:
        import casatasks  # noqa: F401
    except ImportError as exc:
        raise MissingDependencyError(
            f"{', '.join(names)}: only a single FITS image is searched without CASA: pip install 'casa-deepfocus[casa]'"
        ) from exc
    from casa_deepfocus.casa.tasks import sdeepfocus

    sets = [name for name in names if is_table(name) and os.path.isdir(os.path.join(name, "ANTENNA"))]
    if sets and len(sets) < len(names):
        raise ParameterError("input", names, "are measurement sets and images", "Give the one or the other")
    one = names[0] if len(names) == 1 else names
    return sdeepfocus(**{"vis" if sets else "imagename": one}, **given)


def _setting(text: str) -> tuple[str, Any]:
    """NAME=VALUE: a value that Python can read is what it reads, any other the text."""
    name, separator, value = text.partition("=")
    if not separator or name not in params.sdeepfocus().names:
        raise ParameterError(
            "set", text, "is no parameter of the task with a value", "For example --set cell=0.1arcsec"
        )
    try:
        return name, ast.literal_eval(value)
    except (ValueError, SyntaxError):
        return name, value


def parser() -> argparse.ArgumentParser:
    """The command line."""
    spec = params.sdeepfocus()
    top = argparse.ArgumentParser(
        prog="casa-deepfocus", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    top.add_argument("--version", action="version", version=f"casa-deepfocus {__version__}")
    commands = top.add_subparsers(dest="command", required=True)
    search = commands.add_parser("run", help="find the sources of a dirty image, or of measurement sets")
    search.add_argument("input", nargs="+", help="a FITS image (needs no CASA), CASA images, or measurement sets")
    search.add_argument("--out", metavar="PREFIX", help=spec["outfile"].short)
    search.add_argument("--overwrite", action="store_true", help="replace products that exist already")
    search.add_argument("--json", action="store_true", help="print the summary as JSON in place of the table")
    search.add_argument("--quiet", action="store_true", help="print warnings only, beside the table")
    for name in OPTIONS:
        parameter = spec[name]
        kind = {"double": float, "int": int}.get(parameter.types[0].name, str)
        choices = list(parameter.allowed) or None
        search.add_argument(f"--{name}", type=kind, choices=choices, help=parameter.short.replace("%", "%%"))
    search.add_argument(
        "--set", metavar="NAME=VALUE", action="append", default=[], help="any other parameter of the task"
    )
    commands.add_parser("models", help="the sets of networks that are here")
    commands.add_parser("check", help="whether everything that the task needs is there, and the commands that mend it")
    commands.add_parser("install", help="load the task in every CASA shell (for pip install -e and --user)")
    commands.add_parser("uninstall", help="undo install")
    return top


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit status."""
    given = parser().parse_args(arguments)
    try:
        if given.command == "run":
            return run(given)
        if given.command == "models":
            print("\n".join(models()))
            return DONE
        if given.command == "check":
            return FAILED if report() else DONE
        path = startup_file()
        changed = install(path) if given.command == "install" else uninstall(path)
    except DeepFocusError as exc:
        print(f"casa-deepfocus: {exc}", file=sys.stderr)
        return FAILED
    except KeyboardInterrupt:
        print("casa-deepfocus: interrupted; nothing was written or changed", file=sys.stderr)
        return INTERRUPTED
    print(f"{path}: {'changed' if changed else 'nothing to change'}")
    return DONE


if __name__ == "__main__":
    sys.exit(main())
