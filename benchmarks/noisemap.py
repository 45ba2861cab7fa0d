"""Fields whose noise varies over the image by a factor of three: false alarms and completeness with a map and without.

The noise is the simulator's, of natural weighting, times a map: `edge` rises at one side, as at a mosaic's edge, `pb`
is one over a primary beam, `hump` is higher about a place, `flat` is flat. The sources are points, seen through the PSF
as it is, of an SNR by the noise at their place. Each map is searched in cubes of 32 channels and in images of one.

Empty fields give false alarms; others completeness by SNR, false rows, and the rms of (flux - true) / error. `same`
counts the fields whose catalogues with a map and without are equal to the last bit.

With `--gains` it is the errors of calibration that are looked at instead: a source of 3 Jy seen with wrong gains, its
dirty image at the best flux subtracted; rms of what is left, integrated, by the distance from the source.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from astropy.table import Table
from numpy.random import Generator
from numpy.typing import NDArray

from casa_deepfocus import pipeline
from casa_deepfocus.core.cube import Cube
from casa_deepfocus.core.noise import robust_rms
from casa_deepfocus.core.noisemap import measure_noise_map
from sim.cube import field_of, simulate_cube
from sim.defects import Defects
from sim.sky import Source

SHAPES = ("edge", "pb", "hump", "flat")
KINDS = {"cube": 32, "image": 1}
"""Channels."""

NPIX = 160
CELL = 0.16
"""Size of a pixel [arcsec]: the beam has about 5."""

NOISE = 1e-3
"""Rms in a channel [Jy/beam] at the median of the map."""

RANGE = 3.0
"""Largest over smallest noise."""

SOURCES = 6
APART, EDGE, NEAR = 4.0, 1.5, 0.5
"""Least distance of two sources, of a source from the edges, largest of a row from its source [beam]."""

BINS = (4.0, 5.0, 6.0, 7.0, 8.0, 10.0, 12.0)
"""Edges of the bins of SNR."""

LINE = 4.0
"""FWHM of a line [chan]."""


def noise_shape(name: str, rng: Generator) -> NDArray[np.float64]:
    """(NPIX, NPIX) a map of median 1 whose values span `RANGE`."""
    y, x = np.indices((NPIX, NPIX)) / (NPIX - 1.0) - 0.5
    angle = rng.uniform(0.0, 2.0 * np.pi)
    if name == "flat":
        return np.ones((NPIX, NPIX))
    if name == "edge":
        along = x * np.cos(angle) + y * np.sin(angle)
        form = np.clip((along - rng.uniform(-0.1, 0.2)) / 0.35, 0.0, 1.0) ** 2
    elif name == "pb":
        form = np.exp(2.0 * (x**2 + y**2))
    else:
        cx, cy = rng.uniform(-0.3, 0.3, 2)
        form = np.exp(-0.5 * ((x - cx) ** 2 + (y - cy) ** 2) / rng.uniform(0.1, 0.16) ** 2)
    form = (form - form.min()) / np.ptp(form)
    out = RANGE**form
    return out / np.median(out)


@lru_cache(maxsize=1)
def _array(kind: str) -> tuple[Any, Any]:
    field, _ = field_of("paper", 0, 0)
    return field.coverage, replace(field.grid, npix=NPIX, cell=CELL, nchan=KINDS[kind])


def _rng(job: tuple[str, str, int, int, bool]) -> Generator:
    kind, shape, seed, index, planted = job
    return np.random.default_rng([seed, index, SHAPES.index(shape), list(KINDS).index(kind), int(planted)])


def make_field(kind: str, shape: str, seed: int, index: int, *, planted: bool) -> tuple[Cube, list[dict[str, float]]]:
    """A field and its sources: x, y [pixel], snr, flux [Jy, apparent] of the continuum or of the line at its height."""
    rng = _rng((kind, shape, seed, index, planted))
    coverage, grid = _array(kind)
    noise = noise_shape(shape, rng)
    empty = simulate_cube((), coverage, grid, NOISE, rng, pblimit=0.0)
    beam, pb = empty.beam_pixels(), empty.pb[len(empty.pb) // 2]
    sources, truth = [], []
    for _ in range(1000 if planted else 0):
        x, y = rng.uniform(EDGE * beam, NPIX - 1 - EDGE * beam, 2)
        if len(truth) == SOURCES or any(np.hypot(x - s["x"], y - s["y"]) < APART * beam for s in truth):
            continue
        snr, line = rng.uniform(BINS[0], BINS[-1]), kind == "cube" and len(truth) % 2 == 0
        chan = rng.uniform(0.2, 0.8) * grid.nchan
        profile = np.exp(-4.0 * np.log(2.0) * ((np.arange(grid.nchan) - chan) / LINE) ** 2)
        effective = float((profile**2).sum()) if line else float(grid.nchan)
        local = NOISE * float(noise[round(y), round(x)])
        flux = snr * local / np.sqrt(effective)
        sky = flux / float(pb[round(y), round(x)])
        truth.append({"x": x, "y": y, "snr": snr, "flux": flux, "line": float(line)})
        sources.append(
            Source(x, y, 0.0, 0.0, 0.0, line=sky, chan=chan, line_fwhm=LINE) if line
            else Source(x, y, 0.0, 0.0, 0.0, continuum=sky)
        )  # fmt: skip
    data = empty.data * noise.astype(np.float32)
    if sources:
        data += simulate_cube(sources, coverage, grid, 0.0, None, pblimit=0.0).data
    return empty.with_data(data), truth


def search(job: tuple[str, str, int, int, bool], *, without: bool) -> dict[str, Any]:
    """Rows and sources found in one field (kind, shape, seed, index, planted), with a map and, if asked, without."""
    from casa_deepfocus.models.runner import load_networks

    kind, shape, seed, index, planted = job
    cube, truth = make_field(kind, shape, seed, index, planted=planted)
    out: dict[str, Any] = {"job": list(job), "snr": [source["snr"] for source in truth]}
    tables = []
    for name, wanted in (("off", False), ("on", True)) if without else (("on", True),):
        # Where noise varies, each of the false sources of a search without a map is fitted for minutes: one round is
        # enough to count them.
        rounds = pipeline.Options.rounds if wanted or shape == "flat" else 1
        result = pipeline.run(cube, load_networks("", "cpu"), pipeline.Options(noise_map=wanted, rounds=rounds))
        table = result.catalogue
        tables.append(table)
        near, found = _matches(table, truth, cube.beam_pixels())
        matched = {row for row, is_found in zip(near, found, strict=True) if is_found}
        pulls = []
        for row, s, is_found in zip(near, truth, found, strict=True):
            if is_found:
                value, error = (float(table[name][row]) for name in ("peak", "peak_err"))
                pulls.append((value * float(table["pb"][row]) - s["flux"]) / (error * float(table["pb"][row])))
        out[name] = {
            "rows": len(table), "found": found, "false": len(table) - len(matched),
            "pulls": pulls, "seconds": sum(result.timings.values()), "noise_seconds": result.timings["noise"],
        }  # fmt: skip
    numbers = [name for name in tables[0].colnames if tables[0][name].dtype.kind in "fi"]
    out["same"] = (
        without
        and len(tables[0]) == len(tables[1])
        and all(np.array_equal(tables[0][name], tables[1][name], equal_nan=True) for name in numbers)
    )
    measured = measure_noise_map(cube.data, cube.psf[len(cube.psf) // 2], cube.beam_pixels())
    true = noise_shape(shape, _rng(job))
    ratio = np.log((1.0 if measured is None else measured.image) / true)
    out["map_rms"] = float(np.std(ratio))
    return out


def _matches(table: Table, truth: list[dict[str, float]], beam: float) -> tuple[list[int], list[bool]]:
    """The row nearest to each source, and whether it is within `NEAR` beams."""
    near, found = [], []
    for source in truth:
        distance = np.hypot(table["x"] - source["x"], table["y"] - source["y"])
        near.append(int(np.argmin(distance)) if len(table) else -1)
        found.append(bool(len(table) and distance.min() < NEAR * beam))
    return near, found


def summary(fields: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """One row for each kind, shape, and off or on."""
    rows = []
    for kind in KINDS:
        for shape in SHAPES:
            ours = [f for f in fields if f["job"][0] == kind and f["job"][1] == shape]
            for name in ("off", "on"):
                mine = [f for f in ours if name in f]
                if not mine:
                    continue
                empty, planted = ([f for f in mine if f["job"][4] is wanted] for wanted in (False, True))
                snr = np.array([value for f in planted for value in f["snr"]])
                found = np.array([one for f in planted for one in f[name]["found"]], dtype=bool)
                pulls = [pull for f in planted for pull in f[name]["pulls"]]
                inside = [(snr >= low) & (snr < high) for low, high in zip(BINS, BINS[1:], strict=False)]
                rows.append({
                    "kind": kind, "shape": shape, "map": name, "empty": len(empty), "planted": len(planted),
                    "false_alarms": sum(f[name]["rows"] for f in empty),
                    "fields_with": sum(f[name]["rows"] > 0 for f in empty),
                    "false": sum(f[name]["false"] for f in planted), "sources": int(snr.size),
                    "completeness": [float(found[part].mean()) if part.any() else None for part in inside],
                    "found": int(found.sum()), "pull": float(np.sqrt(np.mean(np.square(pulls)))) if pulls else None,
                    "seconds": float(np.mean([f[name]["seconds"] for f in mine])),
                    "same": sum(f["same"] for f in mine), "map_rms": float(np.median([f["map_rms"] for f in mine])),
                })  # fmt: skip
    return rows


RADII = (1.0, 3.0, 5.0, 8.0, 12.0, 18.0)
"""Rings about a source [beam]."""


def gain_errors(seed: int) -> dict[str, Any]:
    """Rms of an integrated residual [sigma] in rings about a source with wrong gains, and whether it has a map."""
    rng = np.random.default_rng(seed)
    coverage, grid = _array("cube")
    x, y = rng.uniform(0.25, 0.75, 2) * NPIX
    source = Source(x, y, 0.0, 0.0, 0.0, continuum=3.0)
    defects = Defects(
        phase_rms=rng.uniform(2.0, 10.0), amplitude_rms=rng.uniform(0.0, 0.1), seed=seed,
        gain_interval=float(rng.choice([0, 600])),
    )  # fmt: skip
    seen = simulate_cube([source], coverage, grid, NOISE, rng, pblimit=0.0, defects=defects)
    right = simulate_cube([source], coverage, grid, 0.0, None, pblimit=0.0).data
    left = seen.data - float((seen.data * right).sum() / (right**2).sum()) * right
    image = left.mean(axis=0) / (NOISE / np.sqrt(grid.nchan))
    rows, columns = np.indices(image.shape)
    radius = np.hypot(columns - x, rows - y) / seen.beam_pixels()
    rings = [
        robust_rms(image[(radius >= low) & (radius < high)])
        for low, high in zip(RADII, (*RADII[1:], np.inf), strict=True)
    ]
    found = measure_noise_map(image[None], seen.psf[0], seen.beam_pixels(), residual=True)
    return {"seed": seed, "all": robust_rms(image), "rings": rings, "map": found is not None}


def run_gains(args: argparse.Namespace) -> int:
    """Measure and print what wrong gains leave."""
    rows = [gain_errors(args.seed + number) for number in range(args.gains)]
    if args.json:
        sys.stdout.write("".join(json.dumps(row) + "\n" for row in rows))
        return 0
    heads = " ".join(f"{radius:>6g}-" for radius in RADII)
    sys.stdout.write(f"rms of the integrated residual [sigma]: all, and from radius [beam] {heads}  map\n")
    for row in rows:
        rings = " ".join(f"{value:7.1f}" for value in row["rings"])
        sys.stdout.write(f"{row['all']:38.1f}                         {rings}   {row['map']}\n")
    ratios = np.array([np.array(row["rings"]) / row["all"] for row in rows])
    sys.stdout.write("mean over all's" + " " * 48 + " ".join(f"{value:7.2f}" for value in ratios.mean(axis=0)) + "\n")
    return 0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of the command line."""
    parser.add_argument("--n", type=int, default=50, help="empty fields of each kind, over the shapes in turn")
    parser.add_argument("--planted", type=int, default=24, help="fields with sources of each kind, as well")
    parser.add_argument(
        "--without", type=int, default=4,
        help="fields of each of these that are searched without a map as well, one round; all flat ones are",
    )  # fmt: skip
    parser.add_argument("--shapes", nargs="+", default=list(SHAPES), choices=SHAPES)
    parser.add_argument("--kinds", nargs="+", default=list(KINDS), choices=list(KINDS))
    parser.add_argument("--seed", type=int, default=12345)
    parser.add_argument("--gains", type=int, default=0, metavar="N", help="N sources seen with wrong gains, instead")
    parser.add_argument("--fields", default="", metavar="FILE", help="where the result of each field goes, a line each")
    parser.add_argument("--resume", action="store_true", help="go on with what --fields holds")
    parser.add_argument("--json", action="store_true", help="print one JSON object a row")


def run(args: argparse.Namespace) -> int:
    """Measure and print."""
    if args.gains:
        return run_gains(args)
    jobs = [
        (kind, args.shapes[index % len(args.shapes)], args.seed, index, planted)
        for planted, number in ((False, args.n), (True, args.planted))
        for index in range(number)
        for kind in args.kinds
    ]
    jobs.sort(key=lambda job: args.kinds.index(job[0]))
    path = Path(args.fields) if args.fields else None
    done: dict[str, dict[str, Any]] = {}
    if path is not None and args.resume and path.exists():
        done = {json.dumps(one["job"]): one for one in map(json.loads, path.read_text().splitlines())}
    fields = []
    for job in jobs:
        key = json.dumps(list(job))
        if key not in done:
            done[key] = search(job, without=job[1] == "flat" or job[3] < args.without)
            if path is not None:
                with path.open("a") as file:
                    file.write(json.dumps(done[key]) + "\n")
        fields.append(done[key])
    rows = summary(fields)
    if args.json:
        sys.stdout.write("".join(json.dumps(row) + "\n" for row in rows))
        return 0
    bins = " ".join(f"{low:g}-{high:g}".rjust(5) for low, high in zip(BINS, BINS[1:], strict=False))
    sys.stdout.write(
        f"{'kind':5} {'noise':5} map  false alarms   fields   false of planted   completeness at SNR {bins}   "
        "pull  same  s/field  map off by\n"
    )
    for row in rows:
        shares = " ".join("  -  " if value is None else f"{100 * value:4.0f}%" for value in row["completeness"])
        pull = "-" if row["pull"] is None else f"{row['pull']:.2f}"
        sys.stdout.write(
            f"{row['kind']:5} {row['shape']:5} {row['map']:3}  {row['false_alarms']:6d} in {row['empty']:3d}   "
            f"{row['fields_with']:6d}   {row['false']:7d} in {row['planted']:3d}     {row['found']:5d} of "
            f"{row['sources']:4d}      {shares}   {pull:>4}  {row['same']:4d}  {row['seconds']:8.2f}  "
            f"{row['map_rms']:10.3f}\n"
        )
    return 0
