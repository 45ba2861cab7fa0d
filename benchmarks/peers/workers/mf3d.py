"""MF3D on a cube (Pavesi et al. 2018, arXiv:1808.04372), a local copy: job {program (folder), cube, settings, out}."""

from __future__ import annotations

import json
import os
import sys

import numpy as np
from astropy.io import fits

if __name__ == "__main__":
    with open(sys.argv[1], encoding="utf-8") as stream:
        job = json.load(stream)
    sys.path.insert(0, job["program"])
    from MF3D_class import MF3D

    data = fits.getdata(job["cube"])[0].astype(float)
    # Its README: divide every channel by its standard deviation.
    snr = data / np.nanstd(data, axis=(1, 2), keepdims=True)
    os.makedirs("working", exist_ok=True)
    search = MF3D(snr, job["settings"]["spatial"], job["settings"]["spectral"])
    search.run()
    found = {
        name: [
            {"snr": float(item[0]), "x": float(item[1][0]), "y": float(item[1][1]), "chan": float(item[1][2]),
             "width": float(item[3][1])}
            for item in features
        ]
        for name, features in (("positive", search.reduint_pos), ("negative", search.reduint_neg))
    }  # fmt: skip
    with open(job["out"], "w", encoding="utf-8") as stream:
        json.dump(found, stream)
