"""The one schema of the presets, and presets read and checked against it."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import yaml

from casa_deepfocus.errors import DataError, ParameterError
from sim.presets.values import Constant, Scalar, Value, parse

FOLDER = Path(__file__).resolve().parent
SCHEMA = FOLDER / "schema.yaml"
PRESETS: dict[str, Path] = {name: FOLDER / f"{name}.yaml" for name in ("paper", "paper-code", "alma", "vla")}
"""The presets that come with the simulator, and their files."""

TYPES = ("number", "integer", "text", "angle", "flag")
TOP = ("description", "base")
REQUIRED = object()


@dataclass(frozen=True)
class Parameter:
    """One parameter of the schema.

    Attributes
    ----------
    key : str, "group.name"
    help, unit, paper : str
    type : str, one of `TYPES`
    low, high : float, the range of numbers; None where there is no limit
    words : tuple of str, the words that are allowed; empty for any text
    default : YAML node, or `REQUIRED`
    instead_of : str, key of the parameter that this one replaces; empty for none
    """

    key: str
    help: str
    type: str
    unit: str = ""
    low: float | None = None
    high: float | None = None
    words: tuple[str, ...] = ()
    default: Any = REQUIRED
    paper: str = ""
    instead_of: str = ""

    def allowed(self) -> str:
        """What may be given, for people."""
        parts = [", ".join(self.words)] if self.words else []
        if self.low is not None:
            parts.append(f"{self.low:g} to {self.high:g}")
        if self.type == "flag":
            parts.append("true or false")
        return " or ".join(parts) or self.type

    def convert(self, node: Any, where: str) -> Scalar:
        """A YAML scalar in this parameter's type, checked.

        Raises
        ------
        ParameterError
            When type or range are wrong.
        """
        if node is None and self.default is None:
            return None
        if self.type == "flag":
            if not isinstance(node, bool):
                raise ParameterError(where, node, "not true or false", "write true or false")
            return node
        if isinstance(node, str) and (self.type == "text" or node in self.words):
            if self.words and node not in self.words:
                raise ParameterError(where, node, "no such choice", f"choose one of {', '.join(self.words)}")
            return node
        number = _number(node, self.type == "angle")
        if number is None or self.type == "text":
            what = {"text": "a word", "angle": "an angle such as -34d59m59.50s, or degrees"}.get(self.type, "a number")
            raise ParameterError(where, node, f"not {what}", f"allowed: {self.allowed()} {self.unit}".rstrip())
        if self.low is not None and self.high is not None and not self.low <= number <= self.high:
            raise ParameterError(where, node, "out of range", f"allowed: {self.allowed()} {self.unit}".rstrip())
        return number


ANGLE = re.compile(r"([+-]?)(\d+)([hd])(\d+)m([\d.]+)s")


def _number(node: Any, angle: bool) -> float | None:
    """A number from YAML; 1e9, which YAML 1.1 takes for text, too. None when it is none."""
    if isinstance(node, bool) or not isinstance(node, int | float | str):
        return None
    match = ANGLE.fullmatch(node.strip()) if angle and isinstance(node, str) else None
    try:
        if match:
            sign, whole, unit, minutes, seconds = match.groups()
            size = int(whole) + int(minutes) / 60.0 + float(seconds) / 3600.0
            return (-1.0 if sign == "-" else 1.0) * (15.0 if unit == "h" else 1.0) * size
        number = float(node)
    except ValueError:
        return None
    return number if abs(number) < float("inf") else None


class _Loader(yaml.SafeLoader):
    """SafeLoader that refuses a key given twice, where YAML would keep the last."""


def _mapping(loader: _Loader, node: yaml.MappingNode) -> dict[Any, Any]:
    keys = [loader.construct_object(key) for key, _ in node.value]
    twice = [key for key in keys if keys.count(key) > 1]
    if twice:
        raise yaml.constructor.ConstructorError(None, None, f"the key {twice[0]!r} is given twice", node.start_mark)
    return {key: loader.construct_object(value, deep=True) for key, (_, value) in zip(keys, node.value, strict=True)}


_Loader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _mapping)


def read_yaml(path: Path) -> dict[str, Any]:
    """The mapping in a YAML file.

    Raises
    ------
    DataError
        When the file cannot be read, is no YAML or no mapping.
    """
    try:
        content = yaml.load(path.read_text(encoding="utf-8"), Loader=_Loader)  # noqa: S506 (derived from SafeLoader)
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise DataError(f"{path} cannot be read as YAML: {error}") from error
    if not isinstance(content, dict):
        raise DataError(f"{path} holds no parameters; see docs/presets.md for the form of a preset")
    return content


@lru_cache(maxsize=1)
def schema() -> Mapping[str, Parameter]:
    """All parameters by key ("group.name"), in the order of the file."""
    found = {}
    for group, entries in read_yaml(SCHEMA).items():
        for name, entry in entries.items():
            entry = dict(entry)
            low, high = entry.pop("range", (None, None))
            words = tuple(entry.pop("words", ()))
            rival = entry.pop("instead_of", "")
            key = f"{group}.{name}"
            if entry["type"] not in TYPES:
                raise DataError(f"{SCHEMA.name}: {key} has the unknown type {entry['type']!r}")
            found[key] = Parameter(
                key, low=low, high=high, words=words, instead_of=f"{group}.{rival}" if rival else "", **entry
            )
    return found


@dataclass(frozen=True, eq=False)
class Preset:
    """A recipe of fields, complete and checked.

    Attributes
    ----------
    name : str, of the file, without .yaml
    description : str
    nodes : mapping from every key of the schema to its YAML node
    values : mapping from every key of the schema to its value
    """

    name: str
    description: str
    nodes: Mapping[str, Any]
    values: Mapping[str, Value]

    def __getitem__(self, key: str) -> Value:
        return self.values[key]

    def given(self, key: str) -> bool:
        """Whether a parameter has a value (not null)."""
        return self.values[key] != Constant(None)


def find_preset(preset: str | Path) -> Path:
    """The file of a preset: the name of one that comes with the simulator, or a path.

    Raises
    ------
    ParameterError
        When there is neither.
    """
    if str(preset) in PRESETS:
        return PRESETS[str(preset)]
    path = Path(preset)
    if path.is_file():
        return path.resolve()
    near = difflib.get_close_matches(str(preset), PRESETS, n=1)
    hint = f"did you mean {near[0]}? " if near else ""
    raise ParameterError(
        "preset", str(preset), "no such preset", f"{hint}choose one of {', '.join(PRESETS)}, or the path of a YAML file"
    )


def load_preset(preset: str | Path | Preset) -> Preset:
    """A preset, read and checked.

    Parameters
    ----------
    preset : str or Path
        A key of `PRESETS`, or a YAML file; a `Preset` is returned as it is.

    Raises
    ------
    ParameterError
        When there is no such preset, or a key or value of it cannot be used (file, key and way out are named).
    DataError
        When the file is no YAML.
    """
    if isinstance(preset, Preset):
        return preset
    chain = _chain(find_preset(preset))
    return _load(tuple((path, path.stat().st_mtime_ns) for path in chain))


def _chain(path: Path) -> list[Path]:
    """A file and its bases, the file first."""
    chain = [path]
    while True:
        base = read_base(chain[-1], chain[-1].stat().st_mtime_ns)
        if base is None:
            return chain
        where = f"{chain[-1].name}: base"
        if not isinstance(base, str):
            raise ParameterError(where, base, "not the name of a preset", f"choose one of {', '.join(PRESETS)}")
        beside = chain[-1].parent / base
        found = beside.resolve() if base not in PRESETS and beside.is_file() else find_preset(base)
        if found in chain:
            raise ParameterError(where, base, "the preset is its own base", "break the circle")
        chain.append(found)


@lru_cache(maxsize=64)
def read_base(path: Path, changed: int) -> Any:
    """The `base` of a preset's file (None without), remembered until the file changes."""
    return read_yaml(path).get("base")


@lru_cache(maxsize=16)
def _load(chain: tuple[tuple[Path, int], ...]) -> Preset:
    nodes = {key: parameter.default for key, parameter in schema().items()}
    rivals = {p.key: p.instead_of for p in schema().values() if p.instead_of}
    pairs = rivals | {other: key for key, other in rivals.items()}
    origin = dict.fromkeys(nodes, chain[0][0].name)
    description = ""
    for path, _ in reversed(chain):
        content = read_yaml(path)
        description = str(content.get("description", description)).strip()
        given = _flat(content, path.name)
        for key in given:
            other = pairs.get(key)
            # Giving one of a pair drops the base's other one.
            if other and given[key] is not None and given.get(other) is None:
                nodes[other] = None
        nodes |= given
        origin |= dict.fromkeys(given, path.name)
    name = chain[0][0].name
    missing = [key for key, node in nodes.items() if node is REQUIRED]
    if missing:
        raise ParameterError(f"{name}: {missing[0]}", None, "missing", "give it, or start the file with base: paper")
    values = {}
    for key, parameter in schema().items():
        where = f"{origin[key]}: {key}"
        values[key] = parse(nodes[key], where, partial(parameter.convert, where=where))
    for key, other in rivals.items():
        if (nodes[key] is None) == (nodes[other] is None):
            how = "one of them is needed" if nodes[key] is None else "only one of them can hold"
            raise ParameterError(f"{origin[key]}: {key}, {other}", (nodes[key], nodes[other]), how, "give exactly one")
    return Preset(chain[0][0].stem, description, nodes, values)


def _flat(content: dict[str, Any], name: str) -> dict[str, Any]:
    """{"group.name": node} of a file's mapping; unknown groups and keys are refused."""
    groups: dict[str, list[str]] = {}
    for key in schema():
        group, parameter = key.split(".")
        groups.setdefault(group, []).append(parameter)
    flat = {}
    for group, entries in content.items():
        if group in TOP:
            continue
        if group not in groups:
            raise ParameterError(f"{name}: {group}", entries, "no such group", _nearest(group, [*groups, *TOP]))
        if not isinstance(entries, dict):
            raise ParameterError(f"{name}: {group}", entries, "not a group of parameters", "write name: value below it")
        for key, node in entries.items():
            if key not in groups[group]:
                raise ParameterError(f"{name}: {group}.{key}", node, "no such parameter", _nearest(key, groups[group]))
            flat[f"{group}.{key}"] = node
    return flat


def _nearest(key: Any, keys: list[str]) -> str:
    near = difflib.get_close_matches(str(key), keys, n=1, cutoff=0.4)
    return f"did you mean {near[0]}?" if near else f"known: {', '.join(keys)}"
