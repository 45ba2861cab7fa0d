"""Mosaics: the model of a source's dirty image beside tclean's, and mosaics searched beside single pointings.

Without arguments a point source is imaged by CASA in mosaics of seven pointings, and what the model leaves of it is
printed over its peak, down to a primary beam of 0.2 and of 0.1; `flux` is the model's best amplitude over the flux that
was put in, times the .pb. ``--fields N`` searches N simulated mosaics, and the same skies as single pointings of the
same depth. ``--vis`` searches a measurement set with nothing else said.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import shutil
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from astropy.table import Table
from scipy import fft, optimize

from casa_deepfocus.core.cube import Cube
from casa_deepfocus.core.geometry import GAUSSIAN_LINE
from casa_deepfocus.core.mosaic import Pointings
from casa_deepfocus.core.psf import Imager, gaussian_transform
from sim.mosaic import HEXAGON, MosaicField, draw_sources, simulate_mosaic
from sim.sky import Source

STEP = 13.0
"""Between pointings [arcsec]: half of the primary beam's FWHM at 230 GHz."""

PLACES = {"centre": (0.0, 0.0), "between": (STEP / 2, STEP / 2 / 3**0.5), "edge": (1.6 * STEP, 0.2 * STEP)}
CASES: dict[str, tuple[dict[str, Any], ...]] = {
    "equal": ({"array": "alma.cycle9.1", "cycles": 6, "gap": 300.0},),
    "unequal": ({"array": "alma.cycle9.1", "cycles": 2, "gap": 3000.0, "visits": (1, 3, 1, 2, 1, 1, 4)},),
    "12 m + 7 m": (
        {"array": "alma.cycle9.1", "cycles": 2, "gap": 3000.0, "visits": (1, 2)},
        {"array": "aca.cycle9", "cycles": 2, "gap": 3000.0, "visits": (30, 60)},
    ),
}
"""Measurement sets that are imaged together."""

WEIGHTS = {"natural": {"weighting": "natural"}, "briggs": {"weighting": "briggs", "robust": 0.5}}
NPIX, CELL = 240, 0.3
LIMITS = (0.2, 0.1)
DEEP = 7.0
"""SNR from which a source is counted as one to be found."""


def image(vis: str | list[str], folder: Path, **parameters: Any) -> Cube:
    """The cube that the task makes of a measurement set."""
    from casa_deepfocus.casa import images, imaging, inputs

    given = {"vis": vis, "datacolumn": "data", "outfile": str(folder / "out")} | parameters
    folder.mkdir()
    made = imaging.make_images(inputs.check(given), str(folder), lambda text, priority="INFO": None)
    return dataclasses.replace(images.read_cube(made.name)[0], mosaic=made.mosaic)


def residual(cube: Cube, x: float, y: float, flux: float) -> dict[str, float]:
    """What the model leaves of a point source at a place: rms and maximum over the peak, and the flux's ratio."""
    model = np.zeros(cube.data.shape, np.float32)
    imager = Imager(cube.psf, cube.shape, pointings=Pointings(cube.mosaic, cube.shape, psf=cube.psf[0], left=1e-5))
    plain = np.zeros(cube.data.shape, np.float32)
    transform = gaussian_transform(imager.grid, x, y, (0.0, 0.0, 0.0))[None]
    imager.subtract(model, transform, -np.ones((1, cube.nchan)), [(x, y)])
    Imager(cube.psf, cube.shape).subtract(plain, transform, -np.ones((1, cube.nchan)))
    row: dict[str, float] = {}
    pb = float(cube.pb[0, round(y), round(x)])
    for limit in LIMITS:
        seen = np.nan_to_num(cube.pb[0]) >= limit
        data, peak = cube.data[0][seen], float(np.nanmax(cube.data[0][seen]))
        for name, image_ in (("", model), ("one PSF ", plain)):
            part = image_[0][seen]
            amplitude = float((data * part).sum() / (part * part).sum())
            left = (data - amplitude * part) / peak
            row[f"{name}rms {limit}"] = float(np.sqrt((left**2).mean()))
            row[f"{name}max {limit}"] = float(np.abs(left).max())
            row[f"{name}flux {limit}"] = amplitude / pb / flux
    return row


def against_tclean(names: list[str]) -> Iterator[dict[str, Any]]:
    """A row for each coverage, weighting and place."""
    from sim.casa_backend import casa_folder
    from sim.casa_mosaic import MosaicPlan, observe_mosaic
    from sim.skyfile import SkySource

    with casa_folder() as scratch:
        for name in names:
            plans = [MosaicPlan(offsets=tuple(map(tuple, HEXAGON * STEP)), **case) for case in CASES[name]]
            for place, offset in PLACES.items():
                plan, sets = plans[0], []
                ra, dec = plan.place(*offset)
                for number, part in enumerate(plans):
                    sets.append(str(scratch / f"{names.index(name)}{place}{number}.ms"))
                    observe_mosaic(part, [SkySource(ra=ra, dec=dec, continuum=1.0)], Path(sets[-1]))
                for weighting, values in WEIGHTS.items():
                    cube = image(
                        sets, scratch / f"{names.index(name)}{place}{weighting}", specmode="mfs", mode="continuum",
                        imsize=NPIX, cell=f"{CELL}arcsec", pblimit=min(LIMITS), **values,
                        # In the frame of the plan: J2000 is 0.02 arcsec from it.
                        phasecenter=f"ICRS {plan.ra}deg {plan.dec}deg",
                    )  # fmt: skip
                    x, y = map(float, cube.wcs.wcs_world2pix([[ra, dec]], 0)[0])
                    yield {"coverage": name, "weighting": weighting, "place": place} | residual(cube, x, y, 1.0)


def search(cube: Cube) -> tuple[Any, float]:
    """Catalogue of a cube, and seconds."""
    from casa_deepfocus import pipeline
    from casa_deepfocus.models import runner

    start = time.perf_counter()
    result = pipeline.run(cube, runner.load_networks("", "cpu"))
    return result.catalogue, time.perf_counter() - start


def true_snr(source: Source, cube: Cube, noise: float) -> float:
    """Of the filter that knows a source's shape, at the image's noise."""
    side = cube.psf.shape[1]
    shape = np.abs(gaussian_transform((side, side), 0.0, 0.0, source.covariance())) ** 2
    shape[:, 1:-1] *= 2.0
    response = float((fft.rfft2(np.fft.ifftshift(cube.psf[0])).real * shape).sum()) / side**2
    return float(np.sqrt(response * (source.spectrum(cube.freq) ** 2).sum())) / noise


def judge(catalogue: Table, sources: Sequence[Source], cube: Cube, noise: float) -> dict[str, Any]:
    """Counts of sources above `DEEP` and of those found, of all and of those found, of rows that are none; the fluxes'
    ratios to the truth (of those above twice `DEEP`) and pulls."""
    snr = np.array([true_snr(source, cube, noise) for source in sources])
    counts: dict[str, Any] = {"deep": int((snr >= DEEP).sum()), "deep_found": 0, "all": len(sources), "found": 0}
    counts |= {"false": len(catalogue), "ratios": [], "pulls": []}
    if not len(catalogue):
        return counts
    apart = np.hypot(
        np.array([s.x for s in sources])[:, None] - np.asarray(catalogue["x"]),
        np.array([s.y for s in sources])[:, None] - np.asarray(catalogue["y"]),
    )
    rows, columns = optimize.linear_sum_assignment(np.minimum(apart, 100.0))
    near = apart[rows, columns] <= 0.5 * cube.beam_pixels()
    for number, place in zip(rows[near], columns[near], strict=True):
        source, row = sources[number], catalogue[int(place)]
        counts["found"] += 1
        counts["deep_found"] += int(snr[number] >= DEEP)
        counts["false"] -= 1
        name, truth = "continuum", source.continuum
        if source.line:
            name, truth = "line_flux_jyhz", source.line * source.line_fwhm * GAUSSIAN_LINE * abs(cube.chan_width)
        # As the image shows it: the primary beam is the same in the truth.
        value, error = float(row[name]) * float(row["pb"]), float(row["line_flux" if source.line else "continuum"])
        error = float(row[("line_flux" if source.line else "continuum") + "_err"]) / error
        counts["pulls"].append((value - truth) / (value * error))
        if snr[number] >= 2.0 * DEEP:
            counts["ratios"].append(value / truth)
    return counts


def fields(number: int, seed: int, store: Path | None) -> dict[str, dict[str, Any]]:
    """The counts of `number` mosaics and of the same skies as single pointings; what `store` has is not done again."""
    kinds: dict[str, list[dict[str, Any]]] = {"mosaic": [], "single": [], "mosaic, one PSF": []}
    done = json.loads(store.read_text()) if store is not None and store.exists() else {}
    noise = 1e-3
    for index in range(number):
        for kind in kinds:
            key = f"{seed} {index} {kind}"
            if key not in done:
                field = MosaicField(hour_angle=-2.0 + 0.15 * index, dec=-45.0 + index)
                sources = draw_sources(field, noise, np.random.default_rng([seed, index]))
                rng = np.random.default_rng([seed, index, int(kind == "single")])
                cube = simulate_mosaic(field, sources, noise, rng, single=kind == "single")
                if kind == "mosaic, one PSF":
                    cube = dataclasses.replace(cube, mosaic=None)
                catalogue, seconds = search(cube)
                done[key] = judge(catalogue, sources, cube, noise) | {"seconds": seconds}
                if store is not None:
                    store.write_text(json.dumps(done))
            kinds[kind].append(done[key])
    return {kind: joined(rows) for kind, rows in kinds.items()}


def joined(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Sums of counts, and the middle of the fluxes' ratios with its error, and the share of pulls below 2."""
    names = ("deep", "deep_found", "all", "found", "false")
    total: dict[str, Any] = {key: sum(row[key] for row in rows) for key in names}
    ratios, pulls = (np.concatenate([row[key] for row in rows]) for key in ("ratios", "pulls"))
    total["flux"] = float(np.median(ratios)) if len(ratios) else float("nan")
    total["flux_err"] = float(1.25 * np.std(ratios) / max(len(ratios), 1) ** 0.5)
    total["within_2"] = float((np.abs(pulls) < 2.0).mean()) if len(pulls) else float("nan")
    total["seconds"] = float(np.median([row["seconds"] for row in rows]))
    return total


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of the command line."""
    parser.add_argument("--coverage", nargs="*", choices=list(CASES), default=list(CASES), help="of the model's test")
    parser.add_argument("--fields", type=int, default=0, help="number of simulated mosaics to search instead")
    parser.add_argument("--seed", type=int, default=2026)
    parser.add_argument("--store", type=Path, help="JSON file of what is done of --fields: a killed run goes on")
    parser.add_argument("--vis", help="a measurement set to search instead, with nothing else said")
    parser.add_argument("--json", action="store_true")


def run(args: argparse.Namespace) -> int:
    """Measure and print."""
    write = sys.stdout.write
    if args.vis:
        return of_set(args.vis)
    if args.fields:
        totals = fields(args.fields, args.seed, args.store)
        if args.json:
            write(json.dumps(totals) + "\n")
            return 0
        for kind, row in totals.items():
            write(
                f"{kind:16s} SNR > {DEEP:g}: {row['deep_found']} of {row['deep']}; all: {row['found']} of "
                f"{row['all']}; false {row['false']}; flux {row['flux']:.3f} +- {row['flux_err']:.3f}; within 2 errors "
                f"{row['within_2']:.2f}; {row['seconds']:.1f} s a search\n"
            )
        return 0
    for row in against_tclean(args.coverage):
        if args.json:
            write(json.dumps(row) + "\n")
            sys.stdout.flush()
            continue
        write(f"{row['coverage']:11s} {row['weighting']:8s} {row['place']:8s}")
        for limit in LIMITS:
            values = [row[f"{name} {limit}"] for name in ("rms", "max", "flux", "one PSF rms", "one PSF max")]
            write("  pb > {:g}: rms {:.1e} max {:.1e} flux {:.3f} (one PSF {:.1e} {:.1e})".format(limit, *values))
        write("\n")
        sys.stdout.flush()
    return 0


def of_set(vis: str) -> int:
    """Search a measurement set with defaults, in a temporary folder; print the brightest sources and the seconds."""
    from sim.casa_backend import casa_folder

    where = Path(vis).resolve()
    with casa_folder() as scratch:
        copy = scratch / where.name
        shutil.copytree(where, copy)
        for path in (copy, *copy.rglob("*")):
            path.chmod(path.stat().st_mode | 0o200)
        start = time.perf_counter()
        cube = image(str(copy), scratch / "work", datacolumn="")
        imaged = time.perf_counter() - start
        catalogue, seconds = search(cube)
    y, x = np.unravel_index(int(np.nanargmax(cube.data.max(axis=0))), cube.shape)
    peak = float(np.nanmax(cube.data))
    sys.stdout.write(
        f"{cube.nchan} x {cube.shape[0]} x {cube.shape[1]}; peak {peak:.3f} Jy/beam at ({x}, {y}), pb "
        f"{cube.pb[0, y, x]:.3f}; imaged in {imaged:.0f} s, searched in {seconds:.0f} s, {len(catalogue)} sources\n"
    )
    for row in catalogue[:5]:
        sys.stdout.write(
            f"  x {row['x']:.1f} y {row['y']:.1f} pb {row['pb']:.3f} continuum {row['continuum']:.3f} +- "
            f"{row['continuum_err']:.3f} Jy, {row['fwhm_maj']:.2f} arcsec, SNR {row['snr']:.1f}\n"
        )
    return 0
