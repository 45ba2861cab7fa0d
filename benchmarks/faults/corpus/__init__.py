"""All cases of the corpus, the same for the same seed."""

from __future__ import annotations

from benchmarks.faults.case import Case
from benchmarks.faults.corpus import (
    companions,
    contradictions,
    files,
    headers,
    networks,
    noise,
    parameters,
    sets,
    turned,
)


def all_cases(seed: int = 1) -> list[Case]:
    """The corpus; `seed` is that of the cases that hypothesis draws.

    Raises
    ------
    ValueError
        When two cases have the same name.
    """
    cases = [
        *headers.cases(), *turned.cases(seed), *contradictions.cases(), *companions.cases(), *files.cases(),
        *parameters.cases(), *networks.cases(), *noise.cases(seed), *sets.cases(),
    ]  # fmt: skip
    names = [case.name for case in cases]
    if len(set(names)) < len(names):
        raise ValueError(f"cases of one name: {sorted({name for name in names if names.count(name) > 1})}")
    return cases
