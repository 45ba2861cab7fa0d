"""The ALMA pipeline's stages `hifx_deepfocus` and `hifx_deepfocus_masks`, and a hook for scripts that drive it.

The pipeline is a package of its own, never part of this one: it is imported when a stage is asked for. Nothing
else of casa_deepfocus imports this room. `interfaces` has all of the pipeline that is used.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

from casa_deepfocus.errors import DataError, ParameterError

SEARCH, MASKS = "hifx_deepfocus", "hifx_deepfocus_masks"
"""Names of the stages."""

STAGES = {"search": SEARCH, "masks": MASKS}

RECIPE = Path(__file__).parent / "recipes" / "procedure_hifa_deepfocus.xml"
"""An XML procedure with both stages in their places."""


def available() -> bool:
    """Whether the pipeline is there."""
    return importlib.util.find_spec("pipeline") is not None


def register() -> None:
    """Make both stages known to the pipeline of this process: to scripts, XML procedures, QA and the weblog.

    Raises
    ------
    DataError
        Where there is no pipeline.
    """
    if not available():
        raise DataError(
            "the ALMA pipeline (module pipeline) is not installed beside casa_deepfocus; start the CASA that has it, "
            "or use sdeepfocus on the calibrated measurement sets"
        )
    from casa_deepfocus.almapipe import registration

    registration.register()


def hook(context: Any, stage: str = "") -> Any:
    """Run the stage that is due in a pipeline script.

    Parameters
    ----------
    context : the pipeline's Context, as h_init returns it
    stage : {'', 'search', 'masks'}
        '': 'masks' where hif_makeimlist has left targets to be imaged and a search is done, else 'search'.

    Returns
    -------
    The pipeline's results of the stage.

    Raises
    ------
    ParameterError
        Where `stage` is none of these.
    DataError
        Where there is no pipeline.
    """
    if stage and stage not in STAGES:
        raise ParameterError("stage", stage, "is unknown", f"Use one of {', '.join(map(repr, STAGES))}, or ''")
    register()
    from casa_deepfocus.almapipe import interfaces, record

    due = stage or ("masks" if record.read(context) and interfaces.pending(context) else "search")
    return interfaces.execute(context, STAGES[due])
