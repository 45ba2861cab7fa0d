"""The numbers that a search depends on, on one page: read from the code of core/ and pipeline/, with their reasons.

A number is a constant of a module, or a default of `Options` and `GraphThresholds`. ``--write`` renews docs/numbers.md,
which a test holds against the code.
"""

from __future__ import annotations

import argparse
import ast
import itertools
import json
import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from casa_deepfocus.core.deblending import GraphThresholds
from casa_deepfocus.pipeline.state import Options

PACKAGE = Path(__file__).parents[1] / "casa_deepfocus"
PAGE = Path(__file__).parents[1] / "docs" / "numbers.md"
ROOMS = ("core", "pipeline")
HEAD = """# The numbers of the search

Every number of `casa_deepfocus/core` and `casa_deepfocus/pipeline` that has a name, with its unit and its reason, as they
stand in the code (`python -m benchmarks constants --write` makes this page, and a test holds it against the code). First
those of `Options` and `GraphThresholds`, which a caller may set; the others are constants of their modules.
"""


@dataclass(frozen=True)
class Number:
    """A number with a name.

    Attributes
    ----------
    where, name, value, unit, reason : str
    """

    where: str
    name: str
    value: str
    unit: str
    reason: str


def _holds_number(node: ast.expr) -> bool:
    return any(
        isinstance(part, ast.Constant) and isinstance(part.value, int | float) and not isinstance(part.value, bool)
        for part in ast.walk(node)
    )


def _unit(reason: str) -> str:
    found = re.search(r"\[([^\]]+)\]", reason)
    return found.group(1) if found else ""


def _reason(statements: Sequence[ast.stmt]) -> str:
    """The text after a constant, or after one that stands directly below it."""
    for one, after in itertools.pairwise(statements):
        if isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant):
            return " ".join(str(after.value.value).split())
        if not isinstance(after, ast.Assign) or after.lineno != (one.end_lineno or 0) + 1:
            return ""
    return ""


def constants() -> Iterator[Number]:
    """Constants of modules; the reason is the text that follows, which two in a row may share."""
    for room in ROOMS:
        for path in sorted((PACKAGE / room).glob("*.py")):
            body = ast.parse(path.read_text(encoding="utf-8")).body
            for place, statement in enumerate(body):
                target = statement.targets[0] if isinstance(statement, ast.Assign) else None
                if not isinstance(statement, ast.Assign) or not isinstance(target, ast.Name):
                    continue
                if target.id.isupper() and _holds_number(statement.value):
                    reason = _reason(body[place : place + 3])
                    where = f"{room}.{path.stem}".removesuffix(".__init__")
                    yield Number(where, target.id, ast.unparse(statement.value), _unit(reason), reason)


def options() -> Iterator[Number]:
    """Defaults of what a caller may set; the reasons are those of the docstrings."""
    for kind in (Options, GraphThresholds):
        paragraphs = re.split(r"\n    (?=\w[\w, ]* : )", kind.__doc__ or "")
        told = {name.strip(): text for text in paragraphs for name in text.split(" : ")[0].split(",")}
        for field in fields(kind):
            if isinstance(field.default, bool) or not isinstance(field.default, int | float):
                continue
            reason = " ".join(told[field.name].split(" : ", 1)[1].split())
            unit = _unit(reason.split(",")[0])
            reason = re.sub(r"^(float|int)( \[[^\]]+\])?,? ?", "", reason)
            yield Number(kind.__name__, field.name, str(field.default), unit, reason)


def numbers() -> list[Number]:
    """All of them."""
    return [*options(), *constants()]


def page() -> str:
    """docs/numbers.md."""
    lines = [HEAD]
    rooms: dict[str, list[Number]] = {}
    for number in numbers():
        rooms.setdefault(number.where, []).append(number)
    for where, those in rooms.items():
        lines += [f"## `{where}`", "| name | value | unit | what it is, and why |", "|---|---|---|---|"]
        for one in those:
            value, reason = (text.replace("|", "\\|") for text in (one.value, one.reason))
            lines.append(f"| `{one.name}` | `{value}` | {one.unit} | {reason} |")
        lines.append("")
    return "\n".join(lines)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of the command line."""
    parser.add_argument("--write", action="store_true", help="renew docs/numbers.md")
    parser.add_argument("--json", action="store_true", help="print one JSON object a number")


def run(args: argparse.Namespace) -> int:
    """Write the page, or print how many numbers there are and which have no reason."""
    found = numbers()
    if args.json:
        sys.stdout.write("".join(json.dumps(asdict(one)) + "\n" for one in found))
        return 0
    if args.write:
        PAGE.write_text(page(), encoding="utf-8")
    counts: dict[str, Any] = {"options": sum(one.where in ("Options", "GraphThresholds") for one in found)}
    counts["constants"] = len(found) - counts["options"]
    without = [f"{one.where}.{one.name}" for one in found if not one.reason]
    sys.stdout.write(
        f"{counts['constants']} constants of {' and '.join(ROOMS)}, {counts['options']} options; "
        f"without a reason: {', '.join(without) or 'none'}\n"
    )
    return 0
