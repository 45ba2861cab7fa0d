"""The values of a preset: constants and distributions, as they are written in YAML.

- `8`: always 8
- `{uniform: [2, 8]}`: between 2 and 8, every value as likely
- `{log_uniform: [10, 100]}`: every factor as likely
- `{integer: [2, 5]}`: 2, 3, 4 or 5
- `{choice: [a, b, {uniform: [1, 2]}]}`: one of them, each as likely
- `{weighted: [[0.9, a], [0.1, b]]}`: one of them, by its share
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from casa_deepfocus.errors import ParameterError

Scalar = float | int | str | bool | None
Leaf = Callable[[Any], Scalar]
"""Turns one YAML scalar into the parameter's type and range, or raises ParameterError."""


class Value(Protocol):
    """What a parameter may be."""

    def draw(self, rng: np.random.Generator) -> Scalar:
        """One value."""

    def ends(self) -> Iterator[Scalar]:
        """All that can be drawn, ranges by their two ends."""

    def __str__(self) -> str:
        """As people read it."""


@dataclass(frozen=True)
class Constant:
    """The same value always."""

    value: Scalar

    def draw(self, rng: np.random.Generator) -> Scalar:
        """The value."""
        return self.value

    def ends(self) -> Iterator[Scalar]:
        """The value."""
        yield self.value

    def __str__(self) -> str:
        return _text(self.value)


@dataclass(frozen=True)
class Range:
    """A number between two ends: `kind` is 'uniform', 'log_uniform' or 'integer' (both ends included)."""

    kind: str
    low: float
    high: float

    def draw(self, rng: np.random.Generator) -> Scalar:
        """A number of the range."""
        if self.kind == "integer":
            return int(rng.integers(int(self.low), int(self.high), endpoint=True))
        if self.kind == "log_uniform":
            return float(np.exp(rng.uniform(np.log(self.low), np.log(self.high))))
        return float(rng.uniform(self.low, self.high))

    def ends(self) -> Iterator[Scalar]:
        """Both ends."""
        yield self.low
        yield self.high

    def __str__(self) -> str:
        words = {"uniform": "", "log_uniform": ", by factors", "integer": ", integers"}
        return f"{_text(self.low)} to {_text(self.high)}{words[self.kind]}"


@dataclass(frozen=True)
class Mixture:
    """One of several values, by their shares (which add up to 1)."""

    shares: tuple[float, ...]
    values: tuple[Value, ...]

    def draw(self, rng: np.random.Generator) -> Scalar:
        """A value of the one that is chosen."""
        chosen = int(np.searchsorted(np.cumsum(self.shares), rng.random(), side="right"))
        return self.values[min(chosen, len(self.values) - 1)].draw(rng)

    def ends(self) -> Iterator[Scalar]:
        """Those of all the values."""
        for value in self.values:
            yield from value.ends()

    def __str__(self) -> str:
        if len(set(self.shares)) == 1:
            return "one of " + "; ".join(str(value) for value in self.values)
        return "; ".join(f"{share:.0%}: {value}" for share, value in zip(self.shares, self.values, strict=True))


RANGES = ("uniform", "log_uniform", "integer")
MIXTURES = ("choice", "weighted")


def parse(node: Any, where: str, leaf: Leaf) -> Value:
    """A value from its YAML node.

    Parameters
    ----------
    node : what YAML gave
    where : str, file and key, for the messages
    leaf : converts and checks every scalar

    Raises
    ------
    ParameterError
        When the node follows none of the forms.
    """
    if not isinstance(node, dict):
        return Constant(leaf(node))
    forms = ", ".join((*RANGES, *MIXTURES))
    if len(node) != 1:
        raise ParameterError(where, node, "a distribution has one word", f"write {{word: [...]}} with one of {forms}")
    ((kind, body),) = node.items()
    if kind not in (*RANGES, *MIXTURES):
        raise ParameterError(where, node, f"{kind!r} is no distribution", f"choose one of {forms}")
    if not isinstance(body, list) or not body:
        raise ParameterError(where, node, f"{kind} needs a list", f"write {{{kind}: [...]}}")
    if kind in RANGES:
        return _range(kind, body, where, node, leaf)
    if kind == "choice":
        return Mixture((1.0 / len(body),) * len(body), tuple(parse(item, where, leaf) for item in body))
    return _weighted(body, where, node, leaf)


def _range(kind: str, body: list[Any], where: str, node: Any, leaf: Leaf) -> Range:
    if len(body) != 2:
        raise ParameterError(where, node, f"{kind} has a lower and an upper end", f"write {{{kind}: [low, high]}}")
    low, high = (leaf(end) for end in body)
    if isinstance(low, str | bool) or isinstance(high, str | bool) or low is None or high is None:
        raise ParameterError(where, node, "the ends of a range are numbers", "use choice for words")
    if low > high:
        raise ParameterError(where, node, "the lower end is above the upper one", f"write [{body[1]}, {body[0]}]")
    if kind == "log_uniform" and low <= 0:
        raise ParameterError(where, node, "log_uniform needs ends above 0", "use uniform, or a positive lower end")
    if kind == "integer" and (low != int(low) or high != int(high)):
        raise ParameterError(where, node, "the ends of integer are whole numbers", "round them, or use uniform")
    return Range(kind, float(low), float(high))


def _weighted(body: list[Any], where: str, node: Any, leaf: Leaf) -> Mixture:
    for item in body:
        fine = isinstance(item, list) and len(item) == 2
        if not fine or isinstance(item[0], bool) or not isinstance(item[0], int | float) or item[0] < 0:
            raise ParameterError(where, item, "weighted takes pairs of a share and a value", "write [0.9, value]")
    total = float(sum(item[0] for item in body))
    if abs(total - 1.0) > 1e-6:
        raise ParameterError(where, node, f"the shares add up to {total:g}", "make them add up to 1")
    return Mixture(tuple(item[0] / total for item in body), tuple(parse(item[1], where, leaf) for item in body))


def _text(value: Scalar) -> str:
    if value is None:
        return "-"
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:.10g}" if isinstance(value, float | int) else value
