"""Golden test: CASA's own XML through our task builder agrees with CASA's own generated code."""

from __future__ import annotations

import ast
import contextlib
import importlib
import io
from pathlib import Path
from typing import Any

import pytest

from casa_deepfocus import params
from casa_deepfocus.casa import shelltask, taskbuilder
from casa_deepfocus.errors import ParameterError

casatasks = pytest.importorskip("casatasks")
pytestmark = pytest.mark.casa

TASKS = Path(casatasks.__file__).parent
# Of CASA 6.7.5 on. Our XML has a default for every parameter.
OBLIGATORY = {"msuvbinflag": "has a parameter without a default, which xml-casa makes an obligatory argument"}
XML = sorted(
    path
    for path in (TASKS / "__xml__").glob("*.xml")
    if (TASKS / f"{path.stem}.py").exists() and path.stem not in OBLIGATORY
)

# Where xml-casa does something that our XML never asks for. Everything else must agree.
OTHER_NAMES = {
    "imval": "declares its outputs inside <input>",
    "sdcal": "doubles a parameter through <kwarg>",
}
UNTYPED = "an untyped default of a variant: xml-casa drops it, here it is read as written"
UNITS = "units= makes a quantity of the default; the type is to be avoided"
OTHER_DEFAULTS = {
    ("conjugatevis", "spwlist"): UNTYPED,
    ("fixplanets", "field"): UNTYPED,
    ("fixvis", "field"): UNTYPED,
    ("fixvis", "distances"): UNTYPED,
    ("imcollapse", "axes"): UNTYPED,
    ("imfit", "rms"): UNTYPED,
    ("impbcor", "pbimage"): UNTYPED,
    ("imstat", "axes"): UNTYPED,
    ("spxfit", "div"): UNTYPED,
    ("importatca", "lowfreq"): UNITS,
    ("importatca", "highfreq"): UNITS,
}
OTHER_SCHEMAS = {("importatca", "lowfreq"): UNITS, ("importatca", "highfreq"): UNITS}
ARRAYS = {"specfit": "intArray, doubleArray: types that the facts of CASA say to avoid"}


class Coercions:
    """Stands for CASA's coercion functions: every one is its own name."""

    def __getattr__(self, name: str) -> str:
        return f"coerce {name}"


def literal(node: ast.expr) -> Any:
    """A default or a schema in generated code, as a value."""
    if isinstance(node, ast.Dict):
        return {literal(k): literal(v) for k, v in zip(node.keys, node.values, strict=True) if k is not None}
    if isinstance(node, ast.List):
        return [literal(item) for item in node.elts]
    if isinstance(node, ast.Attribute):
        return f"coerce {node.attr}"
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
        return {"int": int, "float": float, "bool": bool}[node.func.id](*map(literal, node.args))
    return ast.literal_eval(node)


def generated(task: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Defaults and schema of one of CASA's generated wrappers."""
    tree = ast.parse((TASKS / f"{task}.py").read_text())
    call = next(n for n in ast.walk(tree) if isinstance(n, ast.FunctionDef) and n.name == "__call__")
    names = [a.arg for a in call.args.args[1:]]
    defaults = dict(zip(names, map(literal, call.args.defaults), strict=True))
    schema = next(
        n.value for n in call.body if isinstance(n, ast.Assign) and getattr(n.targets[0], "id", "") == "schema"
    )
    return defaults, literal(schema)


def unordered(rules: Any) -> Any:
    """A schema without the order of alternatives and of allowed values, which means nothing."""
    if isinstance(rules, dict):
        return {
            k: sorted(map(repr, v)) if k == "allowed" else sorted((unordered(x) for x in v), key=repr)
            if k == "anyof" else v for k, v in rules.items()
        }  # fmt: skip
    return rules


@pytest.mark.parametrize("task", [task for task in OBLIGATORY if (TASKS / f"{task}.py").exists()])
def test_what_is_left_out_is_left_out_for_its_reason(task: str) -> None:
    with pytest.raises(ValueError, match="shorter"):
        generated(task)
    assert all(parameter.default is not None for parameter in params.sdeepfocus().parameters)


def test_there_is_something_to_compare() -> None:
    assert len(XML) > 100
    assert sum(len(params.read_task(path).names) for path in XML) > 1500


@pytest.mark.parametrize("path", XML, ids=lambda path: path.stem)
def test_defaults_and_schema_agree_with_casatasks(path: Path) -> None:
    spec = params.read_task(path)
    defaults, schema = generated(path.stem)
    if path.stem in OTHER_NAMES:
        assert spec.names != tuple(defaults)
    else:
        assert spec.names == tuple(defaults)
    if path.stem in ARRAYS:
        with pytest.raises(ParameterError, match="Array"):
            taskbuilder.schema(spec, Coercions())
        return
    ours = taskbuilder.schema(spec, Coercions())
    for name in set(defaults) & set(spec.names):
        if (path.stem, name) in OTHER_DEFAULTS:
            assert repr(spec[name].default) != repr(defaults[name])
        else:
            assert repr(spec[name].default) == repr(defaults[name]), name
        if (path.stem, name) in OTHER_SCHEMAS:
            assert unordered(ours[name]) != unordered(schema[name])
        else:
            assert unordered(ours[name]) == unordered(schema[name]), name


@pytest.fixture
def shell_names(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Stands for the variables of the CASA shell."""
    from casashell.private import stack_manip

    names: dict[str, Any] = {}
    monkeypatch.setattr(stack_manip, "find_frame", lambda: names)
    return names


def screen_of(task: Any) -> str:
    with contextlib.redirect_stdout(io.StringIO()) as screen:
        task.inp()
    return screen.getvalue()


def other_values(spec: params.TaskSpec) -> list[dict[str, Any]]:
    """The defaults, and every value of every controller, and a value that has the wrong type."""
    cases: list[dict[str, Any]] = [{}]
    for rule in spec.rules:
        cases.append({rule.controller: rule.value if rule.equal else "something"})
    cases += [{p.name: object} for p in spec.parameters[:2]]
    return cases


# inp() prints defaults, so the tasks above whose defaults differ are left out.
INP = [path for path in XML if path.stem not in {*OTHER_NAMES, *ARRAYS, *(task for task, _ in OTHER_DEFAULTS)}]
QUOTES = "'' in a description: xml-casa writes it unescaped into a string, where it vanishes"
OTHER_INP = {
    **dict.fromkeys(
        ["fluxscale", "fringefit", "listpartition", "mstransform", "partition", "plotbandpass", "tsdimaging"], QUOTES
    ),
    "predictcomp": "subparam='True' is taken half for a sub-parameter and half for an ordinary one",
}


@pytest.mark.parametrize("path", INP, ids=lambda path: path.stem)
def test_inp_agrees_with_casashell(path: Path, shell_names: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("casashell")
    module = importlib.import_module(f"casashell.private.{path.stem}")
    monkeypatch.setattr(module, "_find_frame", lambda: shell_names)
    theirs = getattr(module, f"_{path.stem}")()
    spec = params.read_task(path)
    ours = shelltask.shell_task(spec, lambda *args: None)
    agree = []
    for case in other_values(spec):
        shell_names.clear()
        shell_names.update(case)
        (our_title, *our_lines), (their_title, *their_lines) = (
            screen_of(ours).split("\n"),
            screen_of(theirs).split("\n"),
        )
        assert our_title.split() == their_title.replace("'", "\\'" if "\\'" in our_title else "'").split()
        agree.append(our_lines == their_lines)
    assert all(agree) is (path.stem not in OTHER_INP)


def test_enough_tasks_agree() -> None:
    assert len({path.stem for path in INP} - set(OTHER_INP)) >= 90
