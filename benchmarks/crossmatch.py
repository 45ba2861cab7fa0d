"""One catalogue of many cubes: CPU seconds, sources that come out twice or mixed, pulls of what is averaged.

Sources at random places are measured in each cube with the errors of Gaussians in noise and, as real ones do, with an
error that no catalogue tells of (`OFFSET`).
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from typing import Any

import numpy as np
from astropy.table import Table
from numpy.typing import NDArray

from casa_deepfocus.core.catalogue import COLUMNS
from casa_deepfocus.core.crossmatch import CubeCatalogue, merge
from casa_deepfocus.core.geometry import FWHM_PER_SIGMA

OFFSET = 0.03
"""Scatter of positions from cube to cube beside that of noise [beam]."""

ROOM = 6.0
"""Area for each source [square of the least separation, or of a beam]."""

INDEX = 2.0
"""Spectral index of all sources."""

CENTRE = (150.0, -30.0)
"""Right ascension and declination of the field [deg]."""


def catalogue(
    places: NDArray[np.float64], label: str, beam: float, freq: float, snr: float, rng: np.random.Generator
) -> CubeCatalogue:
    """Sources at places (n, 2) [arcsec] as a cube with a beam [arcsec] at a frequency [Hz] measures them."""
    blank: dict[str, tuple[Any, str]] = {"str": ("", "U64"), "float": (np.nan, "f8"), "int": (-1, "i8")}
    table = Table({name: np.full(len(places), *blank[kind]) for name, kind, _, _ in COLUMNS})
    error = beam / FWHM_PER_SIGMA / snr
    seen = places + rng.normal(0.0, 1.0, places.shape) * np.hypot(error, OFFSET * beam)
    table["ra"] = CENTRE[0] + seen[:, 0] / 3600.0 / np.cos(np.deg2rad(CENTRE[1]))
    table["dec"] = CENTRE[1] + seen[:, 1] / 3600.0
    flux = 1e-3 * (freq / 1e11) ** INDEX
    table["ra_err"] = table["dec_err"] = error
    table["snr"], table["reliability"], table["fwhm_maj"], table["fwhm_min"], table["pa"] = snr, 1.0, 0.0, 0.0, 0.0
    table["continuum_err"] = flux / snr
    table["continuum"] = flux * (1.0 + rng.normal(0.0, 1.0, len(places)) / snr)
    table.meta = {"beam_maj": beam, "beam_min": beam, "beam_pa": 0.0, "freq0": freq, "chan_width": 0.0, "nchan": 1}
    return CubeCatalogue(label, table)


def spread(number: int, least: float, rng: np.random.Generator) -> NDArray[np.float64]:
    """(number, 2) places [arcsec], none closer to another than `least`."""
    side = np.sqrt(ROOM * max(least, 1.0) ** 2 * number)
    out: list[NDArray[np.float64]] = []
    while len(out) < number:
        place = rng.uniform(-side / 2, side / 2, 2)
        if not out or np.hypot(*(np.array(out) - place).T).min() > least:
            out.append(place)
    return np.array(out)


def measure(number: int, cubes: int, snr: float, least: float, seed: int) -> dict[str, Any]:
    """One field: rows of the merged table beside the true number, and the pulls of index and flux."""
    rng = np.random.default_rng(seed)
    places = spread(number, least, rng)
    made = [
        catalogue(places, f"spw{at}", rng.uniform(0.7, 1.3), f, snr, rng)
        for at, f in enumerate(np.linspace(90e9, 110e9, cubes))
    ]
    started = time.process_time()
    sources = merge(made).sources
    seconds = time.process_time() - started
    told = np.isfinite(sources["spectral_index"])
    pull = (sources["spectral_index"][told] - INDEX) / sources["spectral_index_err"][told]
    # The number of a row is that of the true source.
    true = [{text.rpartition(":")[2] for text in rows.split(",")} for rows in sources["rows"]]
    flux = 1e-3 * (sources["continuum_freq"] / 1e11) ** INDEX
    return {
        "snr": snr, "least separation [beam]": least, "sources": number, "rows": len(sources),
        "not in all cubes [%]": 100.0 * float(np.mean([len(text.split(",")) < cubes for text in sources["windows"]])),
        "of several [%]": 100.0 * float(np.mean([len(numbers) > 1 for numbers in true])),
        "flagged [%]": 100.0 * float(np.mean(sources["flags"] != "")),
        "index pull": round(float(np.std(pull)), 3) if pull.size else None,
        "index bias": round(float(np.mean(pull)), 3) if pull.size else None,
        "flux pull": round(float(np.std((sources["continuum"] - flux) / sources["continuum_err"])), 3),
        "CPU seconds": round(seconds, 3),
    }  # fmt: skip


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the benchmark."""
    parser.add_argument("--sources", type=int, default=500)
    parser.add_argument("--cubes", type=int, default=20)
    parser.add_argument("--seed", type=int, default=1)


def run(args: argparse.Namespace) -> int:
    """Print a line of JSON for each signal to noise and least separation."""
    for snr in (5.0, 7.0, 20.0, 200.0):
        for least in (2.0, 0.5):
            sys.stdout.write(json.dumps(measure(args.sources, args.cubes, snr, least, args.seed)) + "\n")
    return 0
