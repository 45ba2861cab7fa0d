"""BLOBCAT on images (Hales et al. 2012, doi:10.1111/j.1365-2966.2012.21373.x), a local copy: job with `program`."""

from __future__ import annotations

import contextlib
import json
import math
import os
import runpy
import sys
from pathlib import Path

# Its columns, from 0: weighted centroid, rms, peak and integrated flux after its corrections.
X, Y, RMS, PEAK, FLUX = 13, 14, 22, 31, 37


def rows(program: str, path: str, rms: float, settings: dict) -> list[dict]:
    """Blobs of one image; positions [pixel], fluxes [Jy/beam], [Jy]; it measures no shapes."""
    options = [f"--{name}={value}" for name, value in settings.items()]
    # In this process: starting Python for every image would take most of the time.
    sys.argv = [program, path, f"--rmsval={rms}", *options]
    with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):
        try:
            runpy.run_path(program, run_name="__main__")
        except SystemExit as end:
            if end.code:
                raise
    out = []
    for line in Path(path.removesuffix(".fits") + "_blobs.txt").read_text().splitlines():
        if line.strip() and not line.startswith("#"):
            c = [float(word) for word in line.split()]
            out.append(
                {
                    "x": c[X], "y": c[Y], "peak": c[PEAK], "flux": c[FLUX], "maj": math.nan, "min": math.nan,
                    "pa": math.nan, "deconvolved": True, "rms": c[RMS],
                }
            )  # fmt: skip
    return out


if __name__ == "__main__":
    with open(sys.argv[1], encoding="utf-8") as stream:
        job = json.load(stream)
    result = [
        rows(job["program"], path, own["rms"], job["settings"])
        for path, own in zip(job["images"], job["per_image"], strict=True)
    ]
    with open(job["out"], "w", encoding="utf-8") as stream:
        json.dump(result, stream)
