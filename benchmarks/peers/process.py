"""Run a program and measure it: wall time and peak memory."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from casa_deepfocus.errors import DeepFocusError

MEASURE = Path(__file__).parent / "workers" / "measure.py"


class PeerError(DeepFocusError, RuntimeError):
    """Another finder failed; the message holds the end of what it said."""


@dataclass(frozen=True)
class Cost:
    """What a run took.

    Attributes
    ----------
    seconds : float, wall time
    memory : float [MiB], peak resident memory of the largest process
    """

    seconds: float = 0.0
    memory: float = 0.0

    def __add__(self, other: Cost) -> Cost:
        return Cost(self.seconds + other.seconds, max(self.memory, other.memory))


def run_measured(command: Sequence[str], folder: Path, *, timeout: float = 3600.0, env: dict | None = None) -> Cost:
    """Run a program in a folder.

    Parameters
    ----------
    command : sequence of str
    folder : Path, its working directory
    timeout : float [s]
    env : dict, added to the environment

    Raises
    ------
    PeerError
        When it cannot be started, fails, or takes too long.
    """
    report = folder / "cost.json"
    with tempfile.TemporaryFile() as said:
        child = subprocess.Popen(
            [sys.executable, "-S", str(MEASURE), str(report), *command],
            cwd=folder,
            stdout=said,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            env={**os.environ, **(env or {})},
            start_new_session=True,
        )
        try:
            status = child.wait(timeout)
        except subprocess.TimeoutExpired:
            os.killpg(child.pid, signal.SIGKILL)
            child.wait()
            raise PeerError(f"{Path(command[0]).name} took more than {timeout:.0f} s") from None
        except BaseException:
            os.killpg(child.pid, signal.SIGKILL)
            child.wait()
            raise
        if status != 0:
            said.seek(0)
            tail = said.read().decode(errors="replace").strip()[-600:]
            raise PeerError(f"{Path(command[0]).name} ended with status {status}: {tail}")
    return Cost(**json.loads(report.read_text("utf-8")))
