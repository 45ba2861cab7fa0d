"""casa_deepfocus itself, in a process of its own, as the others: job {cube, settings, out}."""

from __future__ import annotations

import json
import pickle
import sys

from casa_deepfocus import pipeline
from casa_deepfocus.models.runner import load_networks

if __name__ == "__main__":
    with open(sys.argv[1], encoding="utf-8") as stream:
        job = json.load(stream)
    with open(job["cube"], "rb") as stream:
        cube = pickle.load(stream)
    options = pipeline.Options(false_alarms=job["settings"]["false_alarms"])
    found = pipeline.run(cube, load_networks(job["settings"]["models"], "cpu"), options).catalogue
    found.write(job["out"], overwrite=True)
