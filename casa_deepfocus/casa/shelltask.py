"""The task inside the CASA shell: ``inp``, ``go``, ``default``, ``tget``, ``tput`` and ``.last`` files."""

from __future__ import annotations

import contextlib
import math
import shutil
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from runpy import run_path
from typing import Any, ClassVar

from casa_deepfocus.casa import failures
from casa_deepfocus.casa.taskbuilder import Task, build_class, execute, named, plain, validate
from casa_deepfocus.errors import DeepFocusError, IncompleteError, ParameterError, ProductError
from casa_deepfocus.params import Parameter, TaskSpec

BLUE, RED, GREEN, BOLD_GREY, RESET = "\x1b[34m", "\x1b[91m", "\x1b[92m", "\x1b[1m\x1b[47m", "\x1b[0m"
INDENT = 3
VALUE_WIDTH = 23
MOST_REASONS = 3
"""Images that could not be made whose reasons an error tells; all are in the log."""


class ShellTask(Task):
    """A task that takes what it is not given from the shell's variables, as ``inp`` and ``go`` need."""

    state: ClassVar[dict[str, Any]] = {}
    _frame: dict[str, Any] | None = None

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run the task; with no argument at all, with the shell's variables (``go``)."""
        try:
            with failures.logged(self.spec.name):
                back = self._run(args, kwargs)
                if _is_command():
                    _check_complete(back)
                return back
        except DeepFocusError as exc:
            if _is_one_off():
                # CASA prints all frames and all causes on the way, of which the user knows their own alone.
                raise exc.with_traceback(None) from None
            raise

    def _run(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        spec = self.spec
        given = {name: value for name, value in named(spec, args, kwargs).items() if value is not None}
        values = self._values(given if given else self._globals())
        _write_inputs(spec, values, Path(f"{spec.name}.pre"))
        try:
            return execute(spec, type(self).implementation, values)
        finally:
            with contextlib.suppress(OSError):
                Path(f"{spec.name}.pre").replace(f"{spec.name}.last")

    def inp(self) -> None:
        """Print the parameters in force with their values and meanings."""
        names = self._globals()
        screen = shutil.get_terminal_size(fallback=(80, 24)).columns
        sys.stdout.write(f"# {self.spec.name} -- {self._info_desc_}\n" + "".join(self._inp_lines(names, screen)))

    def set_global_defaults(self) -> None:
        """Forget the shell's variables of this task (``default``)."""
        self.state["last"] = self
        names = self._globals()
        for name in self.spec.names:
            names.pop(name, None)

    def tget(self, savefile: str | None = None) -> None:
        """Set the shell's variables from a saved file, by default that of the last run."""
        name = self.spec.name
        last = Path(f"{name}.last")
        path = Path(savefile) if savefile else last if last.is_file() else Path(f"{name}.saved")
        if not path.is_file():
            sys.stdout.write(f"could not find last file: {path}\nsetting defaults instead...\n")
            self.set_global_defaults()
            return
        loaded = run_path(str(path), init_globals={})
        self._globals().update({n: v for n, v in loaded.items() if n in self.spec.names})
        self.state["last"] = self

    def tput(self, outfile: str | None = None) -> bool:
        """Save the parameters in force to a file that ``tget`` reads."""
        path = Path(outfile or f"{self.spec.name}.last")
        if not _write_inputs(self.spec, self._values(self._globals()), path):
            raise ProductError(f"outfile={str(path)!r}: cannot be written. Give a name in a folder you may write to")
        return True

    def _globals(self) -> dict[str, Any]:
        from casashell.private.stack_manip import find_frame

        # The stack is cut inside some callbacks, so the frame once found is kept.
        frame = find_frame()
        frame = self._frame if frame is None else frame
        if frame is None:
            raise DeepFocusError(f"{self.spec.name}: inp and go work in the CASA shell only; call it with arguments")
        self._frame = frame
        return frame

    def _values(self, given: Mapping[str, Any]) -> dict[str, Any]:
        return {name: self.spec.value(name, given) for name in self.spec.names}

    def _inp_lines(self, names: Mapping[str, Any], screen: int) -> list[str]:
        spec = self.spec
        depths = {p.name: _depth(spec, p) for p in spec.parameters}
        column = max((len(n) + INDENT * d for n, d in depths.items()), default=0)
        lines = []
        for parameter in spec.parameters:
            name, default = parameter.name, parameter.default
            if parameter.subparam:
                active, default = spec.conditional_default(name, names)
                if not active:
                    continue
            value = spec.value(name, names)
            width = column - INDENT * depths[name]
            label = f"{name:<{width}.{width}} ="
            on = BOLD_GREY if name in spec.controllers else GREEN if parameter.subparam else ""
            label = " " * (INDENT * depths[name]) + (f"{on}{label}{RESET}" if on else label)
            colour = RED if not _valid(spec, name, value) else "" if _same(value, default) else BLUE
            shown = f"'{value}'" if isinstance(value, str) else str(value)
            text = f"{label} {colour}{shown:<{VALUE_WIDTH}}{RESET if colour else ''}"
            hidden = (len(on) + len(RESET) if on else 0) + (len(colour) + len(RESET) if colour else 0)
            lines.append(_with_description(text, parameter.short, hidden, column + VALUE_WIDTH + 4, screen))
        return lines


def shell_task(spec: TaskSpec, implementation: Callable[..., Any]) -> ShellTask:
    """The task as the CASA shell knows it. Import it inside the shell, so that ``inp`` remembers it."""
    cls = build_class(spec, implementation, ShellTask, dict.fromkeys(spec.names))
    cls.state = _shell_state()  # type: ignore[attr-defined]
    return cls()  # type: ignore[return-value]


def _shell_state() -> dict[str, Any]:
    try:
        from casashell.private.stack_manip import find_local
    except ModuleNotFoundError:
        return {}
    return find_local("casa_inp_go_state") or {}


def _is_one_off() -> bool:
    """Whether the shell was started with ``casa -c``: it prints whole tracebacks and ends."""
    shell = sys.modules.get("casashell")
    return bool(getattr(getattr(shell, "flags", None), "execute", None))


def _is_command() -> bool:
    """Whether the task is all that ``casa -c`` was given: nobody looks at what it returns, only at the exit status."""
    given = getattr(getattr(sys.modules.get("casashell"), "flags", None), "execute", None) or []
    return bool(given) and not Path(str(given[0])).is_file()


def _check_complete(back: Any) -> None:
    """Raise where a part of what was asked for could not be made."""
    failed = back.get("failed") if isinstance(back, Mapping) else None
    if failed:
        reasons = "; ".join(f"{key}: {reason}" for key, reason in list(failed.items())[:MOST_REASONS])
        raise IncompleteError(f"{len(failed)} images could not be made, the others are in place: {reasons}")


def _depth(spec: TaskSpec, parameter: Parameter) -> int:
    if not parameter.subparam:
        return 0
    owners = [spec[r.controller] for r in spec.rules if parameter.name in r.defaults]
    return 1 + max((_depth(spec, owner) for owner in owners), default=0)


def _same(value: Any, default: Any) -> bool:
    try:
        return bool(value == default)
    except ValueError:
        return False


def _valid(spec: TaskSpec, name: str, value: Any) -> bool:
    try:
        validate(spec, {name: value})
    except ParameterError:
        return False
    return True


def _with_description(text: str, description: str, hidden: int, column: int, screen: int) -> str:
    """One parameter's line, its description wrapped to the screen from `column` on.

    `hidden` counts the characters of `text` that are colour codes and take no place.
    """
    words = description.split()
    if not words:
        return f"{text} #\n"
    lines: list[str] = []
    if len(text) - hidden > column - 1:
        lines.append(text)
    while words:
        first = not lines
        line = f"{text} #" if first else " " * column + "#"
        offset = hidden if first else 0
        if len(line + words[0]) - offset + 1 > screen:
            # Not even one word fits: a narrow screen shows the parameter alone.
            if first:
                lines.append(line)
            break
        while words and len(line + words[0]) - offset + 1 <= screen:
            line = f"{line} {words.pop(0)}"
        lines.append(line)
    return "\n".join(lines) + "\n"


def _literal(value: Any) -> str:
    """The value as Python that needs no import; 'None' where there is none."""
    value = plain(value)
    if hasattr(value, "tolist"):
        # numpy's own repr names numpy, which a saved file does not import.
        value = value.tolist()
    text = f"float({str(value)!r})" if isinstance(value, float) and not math.isfinite(value) else repr(value)
    return "None" if text.startswith("<") else text


def _write_inputs(spec: TaskSpec, values: Mapping[str, Any], path: Path) -> bool:
    """Write the values as Python that ``tget`` can run; False where the folder cannot be written."""
    shown = {n: _literal(v) for n, v in values.items()}
    width = max(map(len, shown), default=0)
    lines = [f"{n:<{width}} = {v}\n" for n, v in shown.items()]
    call = ",".join(f"{n}={v}" for n, v in shown.items())
    try:
        path.write_text("".join(lines) + f"#{spec.name}( {call} )\n")
    except OSError:
        return False
    return True
