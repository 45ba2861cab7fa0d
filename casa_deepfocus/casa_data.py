"""Where CASA finds its data (ephemerides, Earth orientation) when nobody has installed any.

CASA does not start without its data, and would fetch about 1 GB into ~/.casa/data once that
folder exists. The wheel ``casadata`` holds what is needed. It is used only where there is
nothing else: data that a user or a site has installed, and how they are kept up to date, are
left alone.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

NEEDED = Path("geodetic") / "IERSeop2000"


def wheel_folder() -> Path | None:
    """The data of the installed wheel ``casadata``; None where it is not installed."""
    spec = importlib.util.find_spec("casadata")
    if spec is None or spec.origin is None:
        return None
    folder = Path(spec.origin).parent / "__data__"
    return folder if (folder / NEEDED).exists() else None


def settings(measurespath: str | None, datapath: Sequence[str | None]) -> dict[str, Any]:
    """CASA's configuration values that put the wheel's data to use.

    Parameters
    ----------
    measurespath, datapath : str, list of str
        The values that hold so far.

    Returns
    -------
    dict
        Empty where `measurespath` exists (even if it is empty: then CASA has been told to fill
        it), where `datapath` has the data, or where the wheel is not installed.
    """
    if measurespath and Path(measurespath).expanduser().exists():
        return {}
    if any(path and (Path(path).expanduser() / NEEDED).exists() for path in datapath):
        return {}
    folder = wheel_folder()
    if folder is None:
        return {}
    return {
        "measurespath": str(folder),
        "rundata": str(folder),
        "datapath": [str(folder), *(path for path in datapath if path)],
        "measures_auto_update": False,
        "data_auto_update": False,
    }


def provide() -> bool:
    """Put the wheel's data to use in this process if there are no others and CASA has not started yet.

    Returns
    -------
    bool
        Whether CASA's configuration was changed.
    """
    if "casatools" in sys.modules:
        return False
    try:
        from casaconfig import config
    except ImportError:
        return False
    values = settings(config.measurespath, config.datapath)
    for name, value in values.items():
        setattr(config, name, value)
    return bool(values)
