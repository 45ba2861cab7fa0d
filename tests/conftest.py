"""Every test runs in a folder of its own and with a HOME of its own: nobody's ~/.casa is touched."""

from __future__ import annotations

import atexit
import importlib
import importlib.util
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

# The same examples in every run, and no clock: a busy machine is no failure.
settings.register_profile("tests", deadline=None, derandomize=True, database=None)
settings.load_profile("tests")

REPOSITORY = Path(__file__).resolve().parents[1]

SITE_CONFIG = """\
measurespath = {data!r}
rundata = {data!r}
datapath = [{data!r}]
measures_auto_update = False
data_auto_update = False
logfile = {log!r}
nologger = True
nogui = True
"""


def _casa_environment() -> Path:
    """Point HOME and CASA's configuration at a temporary folder, before anything imports CASA.

    Processes that tests start inherit it, and find `sim` and `training` of this checkout.
    """
    home = Path(tempfile.mkdtemp(prefix="casa-deepfocus-tests-"))
    atexit.register(shutil.rmtree, home, ignore_errors=True)
    os.environ["HOME"] = str(home)
    os.environ["MPLBACKEND"] = "agg"
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(REPOSITORY), os.environ.get("PYTHONPATH")]))
    wheel = importlib.util.find_spec("casadata")
    if wheel is not None and wheel.origin is not None:
        site = home / "casasiteconfig.py"
        data = str(Path(wheel.origin).parent / "__data__")
        site.write_text(SITE_CONFIG.format(data=data, log=str(home / "casa.log")))
        os.environ["CASASITECONFIG"] = str(site)
        _load_casa_configuration()
    return home


def _load_casa_configuration() -> None:
    # It reads the command line of whatever program imports it first, and stops at `pytest --co`.
    arguments, sys.argv = sys.argv, sys.argv[:1]
    try:
        importlib.import_module("casaconfig.config")
    except ModuleNotFoundError:
        return
    finally:
        sys.argv = arguments


CASA_HOME = _casa_environment()


@pytest.fixture(autouse=True)
def own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory of a test is its own `tmp_path`."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(autouse=True)
def fresh_process() -> Iterator[None]:
    """What other tests, and the shell, may have left: libraries' handlers of Ctrl-C, or none in a background job;
    training lets the processor take subnormal numbers for zero, and hypothesis needs them.
    """
    signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    torch = sys.modules.get("torch")
    if torch is not None:
        torch.set_flush_denormal(False)


@pytest.fixture(scope="session")
def casa_home() -> Path:
    """The HOME that this run of the tests uses; holds casasiteconfig.py and casa.log."""
    return CASA_HOME


@pytest.fixture(scope="session")
def repository() -> Path:
    """The root of the checkout."""
    return REPOSITORY
