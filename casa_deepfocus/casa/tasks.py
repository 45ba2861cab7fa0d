"""The tasks as Python objects: ``from casa_deepfocus.casa.tasks import sdeepfocus``."""

from __future__ import annotations

from typing import Any

from casa_deepfocus import params
from casa_deepfocus.casa import signals
from casa_deepfocus.casa.taskbuilder import plain_task
from casa_deepfocus.products import progress

__all__ = ["run_sdeepfocus", "sdeepfocus"]


def run_sdeepfocus(*args: Any) -> dict[str, Any]:
    """The implementation of the task, imported when it is first called to keep the shell's start fast."""
    # Libraries swallow exceptions while they are imported.
    with progress.line() as line:
        line.step("starting")
        with signals.held():
            from casa_deepfocus.casa.task_sdeepfocus import sdeepfocus as implementation

        back = implementation(*args)
    if hasattr(back, "show"):
        back.show()
    return back


sdeepfocus = plain_task(params.sdeepfocus(), run_sdeepfocus)
