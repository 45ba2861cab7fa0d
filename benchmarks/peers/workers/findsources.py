"""CASA's image.findsources on images: job {images, per_image, settings, out}."""

from __future__ import annotations

import json
import math
import sys

import numpy as np
from casatools import image


def rows(path: str, rms: float, settings: dict) -> list[dict]:
    """Point sources of one image; positions [pixel], peaks [Jy/beam]; its sizes are rough guesses and left out."""
    tool = image()
    tool.open(path)
    try:
        top = float(np.nanmax(tool.getchunk(dropdeg=True)))
        if not top > settings["sigma"] * rms:
            return []
        record = tool.findsources(nmax=settings["nmax"], cutoff=settings["sigma"] * rms / top, point=True)
        csys = tool.coordsys()
        out = []
        for key, part in record.items():
            if not key.startswith("component"):
                continue
            direction = part["shape"]["direction"]
            pixel = csys.topixel([direction["m0"]["value"], direction["m1"]["value"]])["numeric"]
            peak = float(np.atleast_1d(part["flux"]["value"])[0])
            out.append(
                {
                    "x": float(pixel[0]), "y": float(pixel[1]), "peak": peak, "flux": math.nan, "maj": math.nan,
                    "min": math.nan, "pa": math.nan, "deconvolved": True, "rms": rms,
                }
            )  # fmt: skip
        csys.done()
        return out
    finally:
        tool.done()


if __name__ == "__main__":
    with open(sys.argv[1], encoding="utf-8") as stream:
        job = json.load(stream)
    result = [
        rows(path, own["rms"], job["settings"]) for path, own in zip(job["images"], job["per_image"], strict=True)
    ]
    with open(job["out"], "w", encoding="utf-8") as stream:
        json.dump(result, stream)
