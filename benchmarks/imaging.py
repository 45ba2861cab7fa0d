"""Imaging beside tclean alone: seconds, and how exact the PSFs of twice the field are, in one run.

A measurement set is simulated by CASA with thermal noise. The field is imaged by ``tclean(niter=0)`` alone, with an
outlier image of twice the size whose PSFs are the truth (their seconds apart), and by the task's imaging; ``--task``
runs the whole task as well. Seconds are those of processes that have loaded CASA; what is printed last is the ratio of
the imaging to tclean alone.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sim.sky import Source

WEIGHTS: dict[str, dict[str, Any]] = {
    "natural": {"weighting": "natural"},
    "briggs": {"weighting": "briggs", "robust": 0.5},
}

EDGE = 2
"""Outermost pixels of the PSFs that are told apart: splines know less there."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of the command."""
    parser.add_argument("--npix", type=int, default=360)
    parser.add_argument("--nchan", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=1200.0, help="of the simulated track, 20 s an integration")
    parser.add_argument("--weighting", choices=[*WEIGHTS, "both"], default="natural")
    parser.add_argument("--task", action="store_true", help="run the whole task too")
    parser.add_argument(
        "--no-truth", action="store_true", help="leave out the PSFs that tclean makes at twice the field"
    )
    parser.add_argument("--json", type=Path, help="a file for the numbers")


def run(args: argparse.Namespace) -> int:
    """Simulate, image in all ways, print."""
    from sim.casa_backend import Observation, casa_folder, observe

    rows = []
    target = args.json.resolve() if args.json else None
    with casa_folder() as scratch:
        observation = Observation(npix=args.npix, nchan=args.nchan, duration=args.seconds, integration=20.0)
        middle = 0.5 * args.npix
        sky = [Source(middle, middle - 8.0, 4.0, 3.0, 20.0, 0.05, 0.0, 0.1, 0.5 * args.nchan, 6.0)]
        observe(sky, observation, scratch / "field.ms")
        for name in WEIGHTS if args.weighting == "both" else [args.weighting]:
            rows.append({"weighting": name, **measure(scratch, args, WEIGHTS[name])})
            sys.stdout.write("\n".join(lines(rows[-1])) + "\n")
    if target:
        target.write_text(json.dumps(rows, indent=1), encoding="utf-8")
    return 0


def measure(scratch: Path, args: argparse.Namespace, weighting: dict[str, Any]) -> dict[str, float]:
    """Seconds of each way, and what the PSFs differ by."""
    from casa_deepfocus.casa import guarded, imaging, inputs, widepsf

    vis, cell = str(scratch / "field.ms"), "0.1arcsec"
    given = {
        "vis": vis, "datacolumn": "data", "imsize": args.npix, "cell": cell, "pblimit": 0.1, "outfile": "found",
        "overwrite": True, **weighting,
    }  # fmt: skip
    plain = {
        "vis": vis, "datacolumn": "data", "specmode": "cube", "outframe": "LSRK", "niter": 0, "cell": cell,
        "pblimit": 0.1, "imsize": args.npix, **weighting,
    }  # fmt: skip
    request = inputs.check(given)
    row: dict[str, float] = {}
    with guarded.session(["casatasks", "casa_deepfocus.casa.imaging"]):
        # The first call loads what the others find loaded.
        guarded.tclean(imagename=str(scratch / "warm"), nchan=1, **plain)
        row["tclean"] = timed(lambda: guarded.tclean(imagename=str(scratch / "plain"), **plain))
        folder = scratch / "ours"
        folder.mkdir()
        row["imaging"] = timed(lambda: imaging.make_images(request, str(folder), _told))
        row["ratio"] = row["imaging"] / row["tclean"]
        if not args.no_truth:
            outlier = scratch / "outlier.txt"
            outlier.write_text(
                f"imagename={scratch / 'wide'}\nimsize=[{2 * args.npix},{2 * args.npix}]\ncell=[{cell}]\n"
                f"phasecenter={widepsf.centre_of(str(scratch / 'plain.image'))}\n", encoding="utf-8",
            )  # fmt: skip
            rest = {"restoration": False, "calcres": False, "outlierfile": str(outlier)}
            row["truth"] = timed(lambda: guarded.tclean(imagename=str(scratch / "truth"), **(plain | rest)))
            row |= differences(str(folder / "dirty.psf"), str(scratch / "wide.psf"))
    if args.task:
        from casa_deepfocus.casa.task_sdeepfocus import search

        row["task"] = timed(lambda: search(inputs.read(given).values))
    for entry in scratch.iterdir():
        if entry.is_dir() and entry.name != "field.ms":
            shutil.rmtree(entry)
    return row


def timed(work: Callable[[], Any]) -> float:
    """Seconds of some work."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def differences(ours: str, truth: str) -> dict[str, float]:
    """Rms of the channels and largest differences of two PSF images [peak], without the outermost pixels and with."""
    from casa_deepfocus.casa.grids import opened

    with opened(ours) as one, opened(truth) as other:
        rms, worst, edge = [], [], []
        for chan in range(int(one.shape()[3])):
            left = _plane(one, chan) - _plane(other, chan)
            inner = left[EDGE:-EDGE, EDGE:-EDGE]
            rms.append(float(np.sqrt(np.mean(inner**2))))
            worst.append(float(np.abs(inner).max()))
            edge.append(float(np.abs(left).max()))
    return {"psf_rms": max(rms), "psf_mean_rms": float(np.mean(rms)), "psf_max": max(worst), "psf_edge": max(edge)}


def _plane(ia: Any, chan: int) -> NDArray[np.float64]:
    shape = [int(n) for n in ia.shape()]
    return np.asarray(ia.getchunk([0, 0, 0, chan], [shape[0] - 1, shape[1] - 1, 0, chan]))[:, :, 0, 0]


def lines(row: dict[str, Any]) -> list[str]:
    """The numbers in words."""
    out = [
        f"{row['weighting']}: tclean niter=0 {row['tclean']:.1f} s, imaging {row['imaging']:.1f} s, "
        f"ratio {row['ratio']:.2f}" + (f", whole task {row['task']:.1f} s" if "task" in row else "")
    ]
    if "psf_rms" in row:
        out.append(
            f"  PSFs of twice the field: rms {row['psf_mean_rms']:.1e}, of the worst channel {row['psf_rms']:.1e}, max "
            f"{row['psf_max']:.1e} of the peak ({row['psf_edge']:.1e} in the outermost {EDGE} pixels); tclean took "
            f"{row['truth']:.1f} s for them"
        )
    return out


def _told(text: str, priority: str = "INFO") -> None:
    sys.stdout.write(f"  {text}\n")
