"""Examples that hypothesis draws, as a list."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis.strategies import SearchStrategy

T = TypeVar("T")


def examples(strategy: SearchStrategy[T], number: int, at: int) -> list[T]:
    """`number` different examples of a strategy, the same for the same seed `at`."""
    found: dict[str, T] = {}

    @seed(at)
    @settings(
        max_examples=20 * number, database=None, phases=[Phase.generate], deadline=None,
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    @given(strategy)
    def collect(example: T) -> None:
        if len(found) < number:
            found.setdefault(repr(example), example)

    run: Callable[[], None] = collect
    run()
    return list(found.values())
