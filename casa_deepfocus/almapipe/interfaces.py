"""All of the ALMA pipeline that this package uses: nothing else here imports `pipeline`.

Made for the pipelines of 2025.1 and 2026; run with the latter. Unit tests put a stand-in in the place of this
module.
"""

from __future__ import annotations

import collections.abc
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import pipeline.cli
import pipeline.h.cli.utils as cli_utils
import pipeline.infrastructure as infrastructure
import pipeline.infrastructure.basetask as basetask
import pipeline.infrastructure.pipelineqa as pipelineqa
import pipeline.infrastructure.renderer.basetemplates as basetemplates
import pipeline.infrastructure.renderer.qaadapter as qaadapter
import pipeline.infrastructure.renderer.weblog as weblog
import pipeline.infrastructure.vdp as vdp
from pipeline.domain import DataType
from pipeline.infrastructure import casa_tasks, contfilehandler, task_registry

StandardInputs = vdp.StandardInputs
Parameter = vdp.VisDependentProperty
StandardTask = basetask.StandardTaskTemplate
Results = basetask.Results
DetailsRenderer = basetemplates.T2_4MDetailsDefaultRenderer
ContFile = contfilehandler.ContFileHandler
cli_wrapper = cli_utils.cli_wrapper

CONTLINE = tuple(
    getattr(DataType, name)
    for name in ("SELFCAL_CONTLINE_SCIENCE", "REGCAL_CONTLINE_SCIENCE", "REGCAL_CONTLINE_ALL", "RAW")
)
"""Data that are searched, best first: those that hif_findcont takes. Line data have lost their continuum."""

_handlers: list[Any] = []


def logger(name: str) -> Any:
    """The pipeline's logger for a module."""
    return infrastructure.get_logger(name)


def task(name: str, comment: str) -> Callable[[type], type]:
    """Decorator that names a task class and says in casa_commands.log what it does."""

    def decorate(cls: type) -> type:
        named = task_registry.set_equivalent_casa_task(name)(cls)
        return task_registry.set_casa_commands_comment(comment)(named)

    return decorate


def imager(executor: Any) -> Callable[..., Any]:
    """CASA's tclean as the pipeline calls it: it stands in casa_commands.log."""

    def tclean(**parameters: Any) -> Any:
        return executor.execute(casa_tasks.tclean(**parameters))

    return tclean


def execute(context: Any, name: str, arguments: Mapping[str, Any] | None = None) -> Any:
    """Run a stage by its name: QA, context, weblog and all."""
    return cli_utils.execute_task(context, name, dict(arguments or {}))


def score(value: float, long: str, short: str, metric: tuple[str, Any, str], *, spw: str = "", field: str = "") -> Any:
    """A QA score; metric: name, value, unit."""
    applies = pipelineqa.TargetDataSelection(spw={int(spw)} if spw else None, field={field} if field else None)
    return pipelineqa.QAScore(
        value, longmsg=long, shortmsg=short, origin=pipelineqa.QAOrigin(*metric), applies_to=applies
    )


def register_stage(
    task_class: type, result_class: type, function: Callable[..., Any], renderer: Any, qa: Callable[[Any], list[Any]]
) -> None:
    """Make a stage known to QA, weblog, topic page and command line.

    Parameters
    ----------
    task_class, result_class : type
    function : callable
        Empty, of the stage's name and parameters, in `cli_wrapper`.
    renderer : DetailsRenderer
    qa : callable of a result
        Its scores.
    """
    _add_qa(result_class, qa)
    weblog.add_renderer(task_class, renderer, group_by=weblog.UNGROUPED)
    # The pipeline has a topic of line finding, whose page is switched off.
    qaadapter.registry.register_to_imaging_topic(result_class)
    setattr(pipeline.cli, function.__name__, function)


def register_templates(folder: str) -> None:
    """Where the weblog finds templates; their bare names must be unique."""
    weblog.register_mako_templates(folder)


def _add_qa(result_class: type, qa: Callable[[Any], list[Any]]) -> None:
    """Handlers of a result and of a list of them.

    The pipeline collects subclasses of QAPlugin itself, but once, at the first stage of a process; handlers whose
    class it cannot know are added whenever.
    """

    class Handler:
        generating_task = None
        child_cls: Any = None
        result_cls: Any = result_class
        is_handler_for = pipelineqa.QAPlugin.is_handler_for
        handle_with_exception_catch = pipelineqa.QAPlugin.handle_with_exception_catch

        def handle(self, context: Any, result: Any) -> None:
            result.qa.pool.extend(qa(result))

    class ListHandler(Handler):
        result_cls = collections.abc.Iterable
        child_cls = result_class

        def handle(self, context: Any, result: Any) -> None:
            result.qa.pool[:] = [item for one in result for item in one.qa.pool]

    for handler in (Handler(), ListHandler()):
        pipelineqa.qa_registry.add_handler(handler)
        _handlers.append(handler)


def sets(context: Any, vis: Sequence[str] = ()) -> tuple[dict[Any, str], str]:
    """Calibrated measurement sets that are registered, with their data columns, and the name of their data type.

    Parameters
    ----------
    vis : sequence of str
        Restricts them, by path or name.
    """
    found, kind = context.observing_run.get_measurement_sets_of_type(list(CONTLINE), msonly=False)
    names = {os.path.basename(name.rstrip("/")) for name in vis}
    chosen = {ms: column for ms, column in found.items() if not names or ms.basename in names}
    return chosen, kind.name if kind is not None else ""


def targets(ms: Any) -> list[tuple[int, str, str]]:
    """Fields of a measurement set that are observed as science targets: id, field name, source name."""
    return [(int(one.id), bare(one.name), bare(one.source.name)) for one in ms.get_fields(intent="TARGET")]


def windows(context: Any, ms: Any) -> list[tuple[int, str, str]]:
    """Science windows of a measurement set: id, virtual id, name."""
    found = []
    for window in ms.get_spectral_windows(science_windows_only=True):
        virtual = context.observing_run.real2virtual_spw_id(window.id, ms)
        if virtual is not None:
            found.append((int(window.id), str(virtual), str(window.name)))
    return found


def bare(name: str) -> str:
    """A name without the quotation marks that the pipeline puts around some."""
    return str(name).strip().strip('"')


def pending(context: Any) -> list[Any]:
    """Targets that hif_makeimlist has left for hif_makeimages."""
    return list(getattr(context, "clean_list_pending", None) or [])


def channel_range(target: Any) -> tuple[float, float, float]:
    """Lowest and highest frequency and channel width [Hz, LSRK] that hif_makeimages finds for a cube; (-1, -1, 0)."""
    low, high, width = target["heuristics"].freq_intersection(
        target["vis"], target["field"], target["intent"], target["spw"], "LSRK"
    )
    return float(low), float(high), float(width)


def moving(target: Any) -> bool:
    """Whether a target of hif_makeimages follows an ephemeris."""
    return bool(target["heuristics"].is_eph_obj(target["field"]))


def export(context: Any, name: str) -> None:
    """Have hifa_exportdata put a file into the auxiliary archive.

    Only self-calibration has a list of files for it, which is used here for what it is not made for. hif_selfcal
    replaces the list; a later stage of this package adds the file again.
    """
    listed = list(getattr(context, "selfcal_resources", None) or [])
    if name not in listed:
        context.selfcal_resources = [*listed, name]


def stage_number(context: Any) -> int:
    """Number of the stage that runs."""
    return int(context.task_counter)


def rows(results: Any) -> Iterator[Any]:
    """The results in a list of results, or a single one."""
    yield from results if isinstance(results, collections.abc.Iterable) else [results]
