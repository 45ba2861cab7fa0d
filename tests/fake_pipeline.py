"""A stand-in for `casa_deepfocus.almapipe.interfaces`: the ALMA pipeline as far as the stages know it."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

FAKED = "casa_deepfocus.almapipe.interfaces"
ROOM = ("search", "masks", "stages", "renderer", "registration")
"""Modules that hold the stand-in once they are loaded."""


class ContFile:
    """cont.dat as JSON, with the handler's two members."""

    def __init__(self, path: str) -> None:
        self.path = path
        empty = {"fields": {}, "version": 3}
        self.cont_ranges = json.loads(Path(path).read_text()) if os.path.exists(path) else empty
        for windows in self.cont_ranges["fields"].values():
            for item in windows.values():
                for one in item["ranges"]:
                    if isinstance(one, dict):
                        one["range"] = tuple(one["range"])

    def write(self, content: Any) -> None:
        Path(self.path).write_text(json.dumps(content))


class Inputs:
    """What the pipeline's inputs are to a task: attributes."""


class Task:
    def __init__(self, inputs: Any) -> None:
        self.inputs, self._executor = inputs, inputs.context.executor


class Results:
    stage_number = 1

    def __init__(self) -> None:
        self.qa = SimpleNamespace(pool=[])


class Renderer:
    def __init__(self, uri: str, description: str, always_rerender: bool) -> None:
        self.uri = uri


@dataclass
class Context:
    """A pipeline's context: one data type, measurement sets with fields and windows."""

    output_dir: str
    sets: dict[Any, str] = field(default_factory=dict)
    task_counter: int = 3
    clean_list_pending: list[Any] = field(default_factory=list)
    calls: list[Any] = field(default_factory=list)
    report_dir: str = ""
    exported: list[str] = field(default_factory=list)

    def executor(self, parameters: dict[str, Any]) -> Any:
        from casatasks import tclean

        self.calls.append(parameters)
        return tclean(**parameters)


def measurement_set(path: Path, targets: list[tuple[int, str, str]], windows: list[tuple[int, str, str]]) -> Any:
    """A measurement set of a context: fields (id, name, source), windows (id, virtual id, name)."""
    return Set(str(path), tuple(targets), tuple(windows))


@dataclass(frozen=True)
class Set:
    name: str
    targets: tuple[tuple[int, str, str], ...]
    windows: tuple[tuple[int, str, str], ...]

    @property
    def basename(self) -> str:
        return os.path.basename(self.name)


def make() -> ModuleType:
    """The stand-in."""
    fake = ModuleType(FAKED)
    members: dict[str, Any] = {
        "StandardInputs": Inputs, "StandardTask": Task, "Results": Results, "DetailsRenderer": Renderer,
        "ContFile": ContFile, "CONTLINE": ("REGCAL_CONTLINE_SCIENCE",), "Parameter": lambda default: default,
        "cli_wrapper": lambda function: function, "logger": logging.getLogger,
        "task": lambda name, comment: lambda cls: cls,
        "imager": lambda executor: lambda **parameters: executor(parameters),
        "sets": lambda context, vis=(): (
            {ms: column for ms, column in context.sets.items() if not vis or ms.name in vis}, "REGCAL_CONTLINE_SCIENCE",
        ),
        "targets": lambda ms: list(ms.targets), "windows": lambda context, ms: list(ms.windows),
        "bare": lambda name: str(name).strip('"'), "pending": lambda context: context.clean_list_pending,
        "channel_range": lambda target: target["range"], "moving": lambda target: target.get("moving", False),
        "export": lambda context, name: context.exported.append(name),
        "stage_number": lambda context: context.task_counter, "rows": _rows, "score": _score,
        "execute": lambda context, name, arguments=None: context.calls.append(name),
        "registered": [],
    }  # fmt: skip
    for name, value in members.items():
        setattr(fake, name, value)
    fake.register_stage = lambda *given: fake.registered.append(given)  # type: ignore[attr-defined]
    fake.register_templates = lambda folder: None  # type: ignore[attr-defined]
    return fake


def _rows(results: Any) -> Iterator[Any]:
    yield from results


def _score(value: float, long: str, short: str, metric: Any, *, spw: str = "", field: str = "") -> Any:
    return SimpleNamespace(value=value, long=long, short=short, metric=metric, spw=spw, field=field)
