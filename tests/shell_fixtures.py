"""Real CASA shells for the tests, each with a HOME of its own.

Tests both import from here and name this module in `pytest_plugins`: hence PYTEST_DONT_REWRITE.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest


def casa(
    home: Path, *statements: str, config: bool = False, typed: str | None = None
) -> subprocess.CompletedProcess[str]:
    """Run statements with ``casa -c``, or type lines at the prompt, in a real CASA shell with the HOME given."""
    environment = {**os.environ, "HOME": str(home)}
    if not config:
        environment.pop("CASASITECONFIG", None)
    command = [sys.executable, "-m", "casashell", "--nologger", "--nogui", "--colors", "NoColor"]
    command += [] if typed is not None else ["-c", *statements]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, input=typed)


@pytest.fixture
def fresh_home(tmp_path: Path, repository: Path) -> Path:
    """A new HOME; the start-up file stands where IPython also finds that of an installed package."""
    home = tmp_path / "home"
    startup = home / ".casa" / "ipython" / "profile_default" / "startup"
    startup.mkdir(parents=True)
    name = "50-casa-deepfocus.py"
    if not (Path(sys.prefix) / "etc" / "ipython" / "startup" / name).exists():
        shutil.copy(repository / "casa_deepfocus" / name, startup)
    return home
