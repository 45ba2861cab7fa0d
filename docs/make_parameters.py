"""Write docs/parameters.md from the task's XML: ``python docs/make_parameters.py``, from the repository root."""

from __future__ import annotations

import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

from casa_deepfocus.params import Parameter, Rule, sdeepfocus  # noqa: E402

HEAD = """# Parameters of sdeepfocus

Made from `casa_deepfocus/xml/sdeepfocus.xml` by `python docs/make_parameters.py`; do not edit.
A sub-parameter is shown by `inp`, and used, under the condition given; parameters named as in tclean mean
what they mean there.

| parameter | default | values | used when | meaning |
|---|---|---|---|---|
"""


def _values(parameter: Parameter) -> str:
    if parameter.allowed:
        return ", ".join(f"`{value!r}`" for value in parameter.allowed)
    limits = [
        f"{sign} {limit:g}"
        for sign, limit in ((">=", parameter.minimum), ("<=", parameter.maximum))
        if limit is not None
    ]
    kinds = " or ".join(dict.fromkeys(kind.name for kind in parameter.types))
    return ", ".join([kinds, *limits])


def _condition(rule: Rule) -> str:
    return f"`{rule.controller} {'=' if rule.equal else '!='} {rule.value!r}`"


def make() -> str:
    """Text of docs/parameters.md."""
    task = sdeepfocus()
    rows = []
    for parameter in task.parameters:
        rules = [_condition(rule) for rule in task.rules if parameter.name in rule.defaults]
        cells = [
            f"`{parameter.name}`",
            f"`{parameter.default!r}`",
            _values(parameter),
            " or ".join(rules) or "always",
            parameter.short,
        ]
        rows.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return HEAD + "\n".join(rows) + "\n"


if __name__ == "__main__":
    (HERE / "parameters.md").write_text(make(), encoding="utf-8")
