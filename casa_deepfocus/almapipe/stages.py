"""The stages as the pipeline has them: inputs, task, result. What they do is in `search` and `masks`."""

from __future__ import annotations

import os
import traceback
from collections.abc import Callable
from typing import Any

from casa_deepfocus.almapipe import MASKS, SEARCH, interfaces, masks, record, scores, search
from casa_deepfocus.errors import DeepFocusError

LOG = interfaces.logger(__name__)


def _default(name: str) -> Any:
    """The task's own default of a parameter."""
    from casa_deepfocus import params

    return params.sdeepfocus().defaults()[name]


class DeepFocusInputs(interfaces.StandardInputs):
    """Inputs of hifx_deepfocus."""

    processing_data_type = list(interfaces.CONTLINE)

    field = interfaces.Parameter(default="")
    spw = interfaces.Parameter(default="")
    minsnr = interfaces.Parameter(default=_default("minsnr"))
    falsealarms = interfaces.Parameter(default=_default("falsealarms"))
    completeness = interfaces.Parameter(default=_default("completeness"))
    contdat = interfaces.Parameter(default=True)

    def __init__(
        self, context: Any, output_dir: Any = None, vis: Any = None, field: Any = None, spw: Any = None,
        minsnr: Any = None, falsealarms: Any = None, contdat: Any = None, completeness: Any = None,
    ) -> None:  # fmt: skip
        """Initialize Inputs.

        Args:
            context: Pipeline context object containing state information.

            output_dir: Output directory.

            vis: The list of input MeasurementSets; all of the best calibrated type by default.

            field: Names of the targets to search, separated by commas; all science targets by default.

            spw: Virtual ids of the windows to search, separated by commas; all science windows by default.

            minsnr: Lowest SNR of a source.

            falsealarms: Expected number of false sources in a cube.

            contdat: Whether to write the ranges without lines into cont.dat.

            completeness: Number of artificial sources put into each cube to see how many are found.
        """
        super().__init__()
        self.context = context
        self.output_dir = output_dir
        self.vis = vis
        self.field = field
        self.spw = spw
        self.minsnr = minsnr
        self.falsealarms = falsealarms
        self.contdat = contdat
        self.completeness = completeness


class DeepFocusResult(interfaces.Results):
    """What the search has found; names and numbers only."""

    def __init__(self, found: record.Record | None = None, problem: str = "") -> None:
        super().__init__()
        self.found = dict(found or {})
        self.problem = problem

    def merge_with_context(self, context: Any) -> None:
        """Leave the record for the second stage, and the products for the archive."""
        if self.found:
            record.write(context, self.found)
            if self.found.get("archive"):
                interfaces.export(context, self.found["archive"])

    def __repr__(self) -> str:
        cubes = self.found.get("cubes", [])
        done = [cube for cube in cubes if cube["catalogue"]]
        return f"DeepFocusResult: {self.problem or f'{len(done)} of {len(cubes)} images searched'}"


@interfaces.task(SEARCH, "Sources and lines are searched for in dirty cubes of the science targets.")
class DeepFocus(interfaces.StandardTask):
    """Search the calibrated data of all science targets, and hand on ranges without lines."""

    Inputs = DeepFocusInputs
    is_multi_vis_task = True

    def prepare(self) -> DeepFocusResult:
        """Search; what goes wrong is in the result, and the pipeline goes on."""
        inputs = self.inputs
        context, folder = inputs.context, os.path.abspath(inputs.context.output_dir)

        def work() -> record.Record:
            given = [inputs.vis] if isinstance(inputs.vis, str) else list(inputs.vis or [])
            vis = [name for name in given if name]
            seen = search.observed(context, vis, str(inputs.field or ""), str(inputs.spw or ""))
            options = {"minsnr": float(inputs.minsnr), "falsealarms": float(inputs.falsealarms)}
            options["completeness"] = int(inputs.completeness)
            stage = interfaces.stage_number(context)
            found = search.run(seen, folder, stage, interfaces.imager(self._executor), options)
            search.compare(found, folder)
            if inputs.contdat:
                search.hand_over(found, folder)
            search.pack(found, folder)
            return found

        found, problem = attempted(work)
        return DeepFocusResult(found, problem)

    def analyse(self, result: DeepFocusResult) -> DeepFocusResult:
        """Nothing is left to do."""
        return result


class DeepFocusMasksInputs(interfaces.StandardInputs):
    """Inputs of hifx_deepfocus_masks."""

    processing_data_type = list(interfaces.CONTLINE)

    def __init__(self, context: Any, output_dir: Any = None, vis: Any = None) -> None:
        """Initialize Inputs.

        Args:
            context: Pipeline context object containing state information.

            output_dir: Output directory.

            vis: Not used: the targets that hif_makeimlist has left are masked.
        """
        super().__init__()
        self.context = context
        self.output_dir = output_dir
        self.vis = vis


class DeepFocusMasksResult(interfaces.Results):
    """Masks for the targets of hif_makeimages."""

    def __init__(self, made: list[dict[str, Any]] | None = None, problem: str = "", archive: str = "") -> None:
        super().__init__()
        self.made = list(made or [])
        self.problem = problem
        self.archive = archive

    def merge_with_context(self, context: Any) -> None:
        """Set the masks of the targets that are to be imaged."""
        masks.give(interfaces.pending(context), self.made)
        if self.archive:
            interfaces.export(context, self.archive)

    def __repr__(self) -> str:
        done = sum(bool(about["mask"]) for about in self.made)
        return f"DeepFocusMasksResult: {self.problem or f'{done} of {len(self.made)} targets have a mask'}"


@interfaces.task(MASKS, "Clean masks are drawn from the sources that hifx_deepfocus has found.")
class DeepFocusMasks(interfaces.StandardTask):
    """Draw the sources found on the grids of the images that are to be made."""

    Inputs = DeepFocusMasksInputs
    is_multi_vis_task = True

    def prepare(self) -> DeepFocusMasksResult:
        """Draw; what goes wrong is in the result, and the pipeline goes on."""
        context = self.inputs.context
        found, waiting = record.read(context), interfaces.pending(context)
        if not found:
            return DeepFocusMasksResult(problem=f"{SEARCH} has left no sources on this context")
        if not waiting:
            return DeepFocusMasksResult(
                problem="hif_makeimlist has left no targets: this stage stands between it and hif_makeimages"
            )
        folder = os.path.abspath(context.output_dir)

        def work() -> list[dict[str, Any]]:
            return masks.run(waiting, found, folder, interfaces.stage_number(context))

        made, problem = attempted(work)
        for about in made or []:
            if about["specmode"] == "cube" and "CONTLINE" in str(waiting[about["index"]].get("datatype") or ""):
                about["continua"] = continua(found, about)
        return DeepFocusMasksResult(made, problem, found.get("archive", ""))

    def analyse(self, result: DeepFocusMasksResult) -> DeepFocusMasksResult:
        """Nothing is left to do."""
        return result


def continua(found: record.Record, about: dict[str, Any]) -> int:
    """Sources with continuum in the window of a target."""
    return sum(
        cube["continua"] for cube in found["cubes"] if cube["spw"] == about["spw"] and about["field"] in cube["fields"]
    )


def attempted(work: Callable[[], Any]) -> tuple[Any, str]:
    """What a piece of work returns, or None and why not: this package never stops a pipeline."""
    try:
        return work(), ""
    except DeepFocusError as exc:
        problem = " ".join(str(exc).split())
        LOG.warning(problem)
        return None, problem
    except Exception as exc:
        LOG.error(traceback.format_exc())
        return None, f"{type(exc).__name__}: {exc}"


def scores_of_search(result: DeepFocusResult) -> list[Any]:
    """The pipeline's QA scores of the first stage."""
    return [_score(one) for one in scores.of_search(result.found, result.problem)]


def scores_of_masks(result: DeepFocusMasksResult) -> list[Any]:
    """The pipeline's QA scores of the second stage."""
    return [_score(one) for one in scores.of_masks(result.made, result.problem)]


def _score(one: scores.Score) -> Any:
    name, value, unit = one.metric
    metric = (name, scores.finite(value) if isinstance(value, float) else value, unit)
    return interfaces.score(one.value, one.long, one.short, metric, spw=one.spw, field=one.field)
