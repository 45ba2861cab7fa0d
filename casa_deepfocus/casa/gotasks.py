"""The tasks as the CASA shell's objects, with ``inp`` and ``go``. Import it inside the shell."""

from __future__ import annotations

from casa_deepfocus import params
from casa_deepfocus.casa.shelltask import shell_task
from casa_deepfocus.casa.tasks import run_sdeepfocus

__all__ = ["sdeepfocus"]

sdeepfocus = shell_task(params.sdeepfocus(), run_sdeepfocus)
