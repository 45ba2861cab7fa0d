"""casa_deepfocus: find and characterise sources in dirty interferometric cubes, without CLEAN.

``from casa_deepfocus import sdeepfocus`` gives the CASA task, ``casa_deepfocus.find`` the search of arrays
without CASA. Importing the package itself
loads neither CASA nor onnxruntime nor astropy.
"""

from __future__ import annotations

from typing import Any

__version__ = "0.1.0"
__all__ = ["__version__", "find", "sdeepfocus"]


def __getattr__(name: str) -> Any:
    # Lazy, so that core, sim and training can be used where casatools is not installed.
    if name == "sdeepfocus":
        from casa_deepfocus.casa.tasks import sdeepfocus

        return sdeepfocus
    if name == "find":
        from casa_deepfocus.standalone import find

        return find
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
