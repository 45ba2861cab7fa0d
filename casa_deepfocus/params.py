"""The parameters of a task, read from its CASA XML (the one source of names, types and defaults).

Standard library only: the documentation, the command line and the tests read the parameters of
``sdeepfocus`` from here on machines that have no CASA.
"""

from __future__ import annotations

import ast
import functools
import textwrap
import xml.etree.ElementTree as ElementTree
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from casa_deepfocus.errors import ParameterError

XML_FILE = Path(__file__).parent / "xml" / "sdeepfocus.xml"
NAMESPACE = "{http://casa.nrao.edu/schema/psetTypes.html}"

SCALARS: dict[str, type] = {"bool": bool, "int": int, "double": float, "float": float, "string": str}
VECTORS = {"boolVec": "bool", "intVec": "int", "doubleVec": "double", "stringVec": "string", "pathVec": "string"}
KINDS = {*SCALARS, *VECTORS, "any", "variant", "record", "path"}


@dataclass(frozen=True)
class ParameterType:
    """One type that a parameter accepts: CASA's name of it, and whether a path must exist."""

    name: str
    must_exist: bool = False


@dataclass(frozen=True)
class Parameter:
    """One parameter of a task.

    Attributes
    ----------
    name : str
    types : tuple of ParameterType
        Any one of them is accepted.
    default : object
        The value where the user gives none.
    allowed : tuple
        The values accepted, in the XML's order; empty where any value is.
    minimum, maximum : float or None
        Limits, inclusive.
    short, description : str
        The line that ``inp`` shows, and the text of the help.
    subparam : bool
        Whether the parameter is shown only where a rule of its controller says so.
    """

    name: str
    types: tuple[ParameterType, ...]
    default: Any
    allowed: tuple[Any, ...]
    minimum: float | None
    maximum: float | None
    short: str
    description: str
    subparam: bool


@dataclass(frozen=True)
class Rule:
    """Sub-parameters, with their defaults, that appear when a controller has (not) a value."""

    controller: str
    value: Any
    equal: bool
    defaults: Mapping[str, Any]

    def holds(self, value: Any) -> bool:
        """Whether the rule applies when its controller has this value."""
        same = bool(type(value) is type(self.value) and value == self.value)
        if isinstance(self.value, bool) != isinstance(value, bool):
            same = False
        elif isinstance(self.value, (int, float)) and isinstance(value, (int, float)):
            same = value == self.value
        return same is self.equal


@dataclass(frozen=True)
class TaskSpec:
    """A task as its XML declares it; `parameters` stand in positional order."""

    name: str
    category: str
    short: str
    description: str
    example: str
    returns: str
    parameters: tuple[Parameter, ...]
    rules: tuple[Rule, ...]

    @property
    def names(self) -> tuple[str, ...]:
        """Names of all parameters, in positional order."""
        return tuple(p.name for p in self.parameters)

    @property
    def controllers(self) -> frozenset[str]:
        """Names of the parameters that govern sub-parameters."""
        return frozenset(rule.controller for rule in self.rules)

    def __getitem__(self, name: str) -> Parameter:
        for parameter in self.parameters:
            if parameter.name == name:
                return parameter
        raise KeyError(name)

    def defaults(self) -> dict[str, Any]:
        """Fresh copies of all defaults, in positional order."""
        return {p.name: _copy(p.default) for p in self.parameters}

    def conditional_default(self, name: str, given: Mapping[str, Any]) -> tuple[bool, Any]:
        """Whether a sub-parameter is in force under the values given, and its default there.

        A controller that is itself a sub-parameter must be in force too; a sub-parameter that no
        rule names is always in force.
        """
        rules = [rule for rule in self.rules if name in rule.defaults]
        if not rules:
            return True, _copy(self[name].default)
        for rule in rules:
            controller = self[rule.controller]
            if controller.subparam and not self.conditional_default(controller.name, given)[0]:
                continue
            if rule.holds(self.value(controller.name, given)):
                return True, _copy(rule.defaults[name])
        return False, None

    def value(self, name: str, given: Mapping[str, Any]) -> Any:
        """The value of a parameter: as given, else its default under the controllers given."""
        if name in given:
            return given[name]
        parameter = self[name]
        if parameter.subparam:
            active, default = self.conditional_default(name, given)
            if active:
                return default
        return _copy(parameter.default)


def read_task(path: str | Path) -> TaskSpec:
    """Read a task's declaration from a CASA XML file.

    Raises
    ------
    ParameterError
        Where the file is not the XML of a task.
    """
    try:
        root = ElementTree.parse(path).getroot()
    except (OSError, ElementTree.ParseError) as exc:
        raise ParameterError("path", str(path), f"cannot be read as XML ({exc})") from exc
    task = root.find(f"{NAMESPACE}task")
    if task is None:
        raise ParameterError("path", str(path), "holds no <task> element of CASA's schema")
    parameters = tuple(_parameter(element) for element in task.iter(f"{NAMESPACE}param"))
    by_name = {p.name: p for p in parameters}
    rules = tuple(
        _rule(when.get("param", ""), condition, by_name)
        for when in task.iter(f"{NAMESPACE}when")
        if when.get("param") in by_name
        for condition in when
        if condition.tag in (f"{NAMESPACE}equals", f"{NAMESPACE}notequals")
    )
    returns = task.find(f"{NAMESPACE}returns")
    return TaskSpec(
        name=task.get("name", ""),
        category=task.get("category", ""),
        short=_text(task, "shortdescription"),
        description=_text(task, "description"),
        example=_text(task, "example"),
        returns="void" if returns is None else returns.get("type", "void"),
        parameters=parameters,
        rules=rules,
    )


@functools.cache
def sdeepfocus() -> TaskSpec:
    """The task ``sdeepfocus``, from the XML that the package ships."""
    return read_task(XML_FILE)


def tclean_names() -> tuple[str, ...]:
    """The parameters that are handed to tclean as they are: all that follow ``keepimages``."""
    names = sdeepfocus().names
    return names[names.index("keepimages") + 1 :]


def _copy(value: Any) -> Any:
    return value.copy() if isinstance(value, (list, dict)) else value


def _text(element: ElementTree.Element, tag: str) -> str:
    text = element.findtext(f"{NAMESPACE}{tag}") or ""
    return textwrap.dedent(text).strip("\n").rstrip()


def _parameter(element: ElementTree.Element) -> Parameter:
    types = _types(element)
    value = element.find(f"{NAMESPACE}value")
    main = element.get("type", "")
    allowed: list[Any] = []
    limits: dict[str, float] = {}
    for group in element.findall(f"{NAMESPACE}allowed"):
        for item in group.findall(f"{NAMESPACE}value"):
            if group.get("kind") == "range":
                limits[item.get("range", "")] = float(item.text or "nan")
            elif group.get("kind") == "enum":
                allowed.append(_scalar(item.text or "", item.get("type") or main))
        if _flag(group, "ignorecase"):
            allowed += [item.upper() for item in allowed]
    return Parameter(
        name=element.get("name", ""),
        types=types,
        default=_default(value, main),
        allowed=tuple(dict.fromkeys(allowed)),
        minimum=limits.get("min"),
        maximum=limits.get("max"),
        short=" ".join(_text(element, "shortdescription").split()).replace("\\'", "'"),
        description=_text(element, "description"),
        subparam=element.get("subparam") == "true",
    )


def _types(element: ElementTree.Element) -> tuple[ParameterType, ...]:
    declared = element.get("type", "")
    children = element.findall(f"{NAMESPACE}type")
    if children or declared in ("any", "variant"):
        types = tuple(ParameterType((child.text or "").strip(), _flag(child, "mustexist")) for child in children)
        return types or (ParameterType("variant"),)
    return (ParameterType(declared, _flag(element, "mustexist")),)


def _flag(element: ElementTree.Element, attribute: str) -> bool:
    return element.get(attribute, "").lower() in ("true", "yes")


def _default(value: ElementTree.Element | None, declared: str) -> Any:
    """A <value> as Python. Only where the parameter takes any type does the value's own type count."""
    kind = declared
    if declared in ("any", "variant") and value is not None and value.get("type") in KINDS:
        kind = value.get("type", declared)
    items = [] if value is None else value.findall(f"{NAMESPACE}value")
    if kind in VECTORS or items:
        element = VECTORS.get(kind, "string")
        return [_scalar(item.text or "", element) for item in items]
    if kind == "record":
        return {}
    return _scalar("" if value is None else value.text or "", kind)


def _scalar(text: str, kind: str) -> Any:
    text = text.strip()
    if kind == "bool":
        return text.lower() == "true"
    if kind in ("int", "double", "float"):
        return SCALARS[kind](float(text or "0"))
    if kind in ("any", "variant") and text:
        # An untyped value is meant as Python writes it: "", [], {}, -1.
        try:
            return ast.literal_eval(text)
        except (ValueError, SyntaxError):
            return text
    return text


def _rule(controller: str, condition: ElementTree.Element, parameters: Mapping[str, Parameter]) -> Rule:
    owner = parameters.get(controller)
    kind = condition.get("type") or (owner.types[0].name if owner and len(owner.types) == 1 else "string")
    defaults: dict[str, Any] = {}
    for element in condition.findall(f"{NAMESPACE}default"):
        name = element.get("param", "")
        target = parameters.get(name)
        main = target.types[0].name if target and len(target.types) == 1 else "any"
        value = _default(element.find(f"{NAMESPACE}value"), main)
        if isinstance(value, str) and len(value) > 1 and value[0] == value[-1] == '"':
            value = value[1:-1]
        defaults.setdefault(name, value)
    return Rule(controller, _scalar(condition.get("value", ""), kind), condition.tag == f"{NAMESPACE}equals", defaults)
