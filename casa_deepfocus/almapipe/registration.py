"""Making the stages known to the pipeline of this process."""

from __future__ import annotations

from typing import Any

from casa_deepfocus.almapipe import interfaces, renderer, stages

_done = False


@interfaces.cli_wrapper
def hifx_deepfocus(
    vis: Any = None, field: Any = None, spw: Any = None, minsnr: Any = None, falsealarms: Any = None,
    contdat: Any = None, completeness: Any = None,
) -> None:  # fmt: skip
    """Find sources and lines in dirty cubes of the science targets, and write line-free ranges into cont.dat.

    It stands before hif_findcont, which keeps the ranges that it finds in cont.dat.

    Returns:
        The results object for the pipeline task is returned.

    Examples:
        1. All science targets and windows:

        >>> hifx_deepfocus()

        2. One target, two windows by their virtual ids, cont.dat untouched:

        >>> hifx_deepfocus(field='NGC1', spw='25,27', contdat=False)

    """


@interfaces.cli_wrapper
def hifx_deepfocus_masks(vis: Any = None) -> None:
    """Draw clean masks of the sources that hifx_deepfocus has found for the images that hif_makeimages will make.

    It stands between hif_makeimlist and hif_makeimages.

    Returns:
        The results object for the pipeline task is returned.

    Examples:
        1. After hif_makeimlist(specmode='cube'):

        >>> hifx_deepfocus_masks()

    """


def register() -> None:
    """Register both stages, once in a process."""
    global _done
    if _done:
        return
    interfaces.register_templates(str(renderer.TEMPLATES))
    interfaces.register_stage(
        stages.DeepFocus, stages.DeepFocusResult, hifx_deepfocus, renderer.SearchRenderer(), stages.scores_of_search
    )
    interfaces.register_stage(
        stages.DeepFocusMasks, stages.DeepFocusMasksResult, hifx_deepfocus_masks, renderer.MasksRenderer(),
        stages.scores_of_masks,
    )  # fmt: skip
    _done = True
