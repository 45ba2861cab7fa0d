"""The fast simulator beside CASA: the same sky and array without noise, and the noise alone."""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sim import casa_cube
from sim.arrays import C_MS
from sim.casa_backend import casa_folder
from sim.coverage import ARCSEC, Coverage, Grid
from sim.cube import dirty_images, simulate_cube
from sim.defects import Defects
from sim.presets import Field
from sim.sky import Source

SIZES = {
    "small": (Coverage(duration=600.0, integration=60.0), Grid(npix=120, cell=0.2, nchan=8)),
    "paper": (Coverage(dec=-34.99986111, integration=10.0), Grid()),
}
"""The paper's: 43 antennas of alma.cycle9.3, 2400 s of 10 s, 360 x 360 pixels of 0.1 arcsec, 128 channels of 10 MHz."""

WEIGHTINGS: tuple[float | None, ...] = (None, 0.5, 2.0)

PLACES = (
    (0.50, 0.50), (0.06, 0.07), (0.94, 0.08), (0.07, 0.93), (0.93, 0.95), (0.50, 0.06), (0.95, 0.52),
    (0.30, 0.70), (0.62, 0.22), (0.20, 0.40), (0.72, 0.81),
)  # fmt: skip
"""Sources, as fractions of the field: its middle, its corners and edges (PB of 0.3 and less), and between."""

SIZES_PIXEL = ((6.0, 4.0), (0.0, 0.0), (3.0, 2.0), (8.0, 5.0), (5.0, 5.0), (2.0, 1.0))

RINGS = 6
"""Rings of the uv plane, out to the longest baseline, in which the noise's power is compared."""

DRAWS = 4
"""Noise cubes of the fast simulator whose power is averaged; CASA makes one."""


@dataclass(frozen=True)
class Difference:
    """Fast minus CASA in one channel, over the channel's peak."""

    robust: float | None
    chan: int
    rms: float
    maximum: float
    psf_rms: float
    psf_maximum: float


def sky(grid: Grid) -> tuple[Source, ...]:
    """Sources over the whole field: points and Gaussians, continua, lines, absorption; apparent peaks alike."""
    sources = []
    for number, (x, y) in enumerate(PLACES):
        major, minor = SIZES_PIXEL[number % len(SIZES_PIXEL)]
        sources.append(
            Source(
                x * grid.npix + 0.3, y * grid.npix - 0.2, major, minor, 25.0 * number,
                continuum=0.2 + 0.05 * number, alpha=number % 5 - 2.0, line=-0.1 if number == 8 else 0.3,
                chan=grid.nchan * number / (len(PLACES) - 1.0), line_fwhm=0.05 * grid.nchan,
            )
        )  # fmt: skip
    return tuple(sources)


def compare(field: Field, planes: dict[str, NDArray]) -> list[Difference]:
    """First, middle and last channel of CASA's noise-free images and of the fast simulator's."""
    fast = simulate_cube(field.sources, field.coverage, field.grid, 0.0, None, pblimit=-1.0, ra=field.ra)
    rows = []
    for chan in (0, field.grid.nchan // 2, field.grid.nchan - 1):
        peak = float(np.abs(fast.data[chan]).max())
        residual = (planes["residual"][chan] - fast.data[chan]) / peak
        psf = planes["psf"][chan] - fast.psf[chan]
        rows.append(
            Difference(
                field.coverage.robust, chan, float(residual.std()), float(np.abs(residual).max()),
                float(psf.std()), float(np.abs(psf).max()),
            )
        )  # fmt: skip
    return rows


def noise_statistics(casa: NDArray, seed: int, sigma: float, coverage: Coverage, grid: Grid) -> dict[str, Any]:
    """Noise of both: rms of the channels over `sigma`, power in rings of the uv plane, correlation of channels."""
    power, error = ring_power(casa, coverage, grid)
    powers = []
    for draw in range(DRAWS):
        fast = dirty_images((), coverage, grid, sigma, np.random.default_rng([seed, draw]))
        powers.append(ring_power(fast, coverage, grid)[0])
    out: dict[str, Any] = {
        "power_ratio": (power / np.mean(powers, axis=0)).tolist(),
        "power_error": (np.sqrt(1.0 + 1.0 / DRAWS) * error).tolist(),
    }
    for name, data in (("casa", casa), ("fast", fast)):
        rms = data.std(axis=(1, 2), dtype=float) / sigma
        pairs = zip(data[:-1], data[1:], strict=True)
        neighbours = np.array([np.mean(one * other, dtype=float) for one, other in pairs]) / sigma**2
        error = neighbours.std() / np.sqrt(len(neighbours))
        out[name] = {
            "rms": float(np.sqrt(np.mean(rms**2))), "rms_scatter": float(rms.std()),
            "correlation": float(neighbours.mean()), "correlation_error": float(error),
        }  # fmt: skip
    return out


def ring_power(
    data: NDArray, coverage: Coverage, grid: Grid, rings: int = RINGS
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Mean power of channels in rings of the sampled uv plane: (rings,), and its relative error from their scatter."""
    taper = np.hanning(grid.npix + 1)[:-1]
    radius = np.hypot(np.fft.fftfreq(grid.npix)[:, None], np.fft.rfftfreq(grid.npix)[None, :])
    uvw = coverage.uvw()
    longest = np.hypot(uvw[:, 0], uvw[:, 1]).max() * grid.freq().mean() / C_MS * grid.cell * ARCSEC
    ring = np.minimum((radius / longest * rings).astype(int), rings).ravel()
    number = np.bincount(ring)
    powers = []
    for plane in data:
        power = np.abs(np.fft.rfft2(plane * taper[:, None] * taper)) ** 2
        powers.append((np.bincount(ring, weights=power.ravel()) / number)[:rings])
    mean = np.mean(powers, axis=0)
    return mean, np.std(powers, axis=0) / np.sqrt(len(powers)) / mean


def measure(size: str, seed: int = 1, log: Any = lambda text: None) -> dict[str, Any]:
    """Both backends at one of `SIZES`.

    Returns
    -------
    dict : geometry, rows (list of `Difference` as dicts), noise (of natural and robust 0.5), seconds
    """
    base, grid = SIZES[size]
    result: dict[str, Any] = {"size": size, "shape": [grid.nchan, grid.npix, grid.npix], "rows": [], "noise": {}}
    start = time.perf_counter()
    with casa_folder() as folder:
        vis = folder / "sky.ms"
        ra = Field(base, grid, (), 0.0).ra
        casa_cube.make_vis(vis, base, grid, ra)
        casa_cube.spoil(vis, base, Defects())
        casa_cube.predict(vis, sky(grid), base, grid, ra)
        log(f"CASA predicted the sky after {time.perf_counter() - start:.0f} s")
        for robust in WEIGHTINGS:
            coverage = replace(base, robust=robust)
            planes = casa_cube.image_vis(vis, coverage, grid)
            _remove(folder, "image.")
            rows = compare(Field(coverage, grid, sky(grid), 0.0), planes)
            result["rows"] += [vars(row) for row in rows]
            log(f"{weighting(robust)}: after {time.perf_counter() - start:.0f} s")
        del planes
    for robust in WEIGHTINGS[:2]:
        coverage = replace(base, robust=robust)
        casa = casa_cube.observe_field(Field(coverage, grid, (), 1e-3), seed, None, pblimit=-1.0).data
        result["noise"][weighting(robust)] = noise_statistics(casa, seed, 1e-3, coverage, grid)
        log(f"noise, {weighting(robust)}: after {time.perf_counter() - start:.0f} s")
    result["seconds"] = time.perf_counter() - start
    return result


def _remove(folder: Path, prefix: str) -> None:
    for path in folder.glob(f"{prefix}*"):
        shutil.rmtree(path)


def weighting(robust: float | None) -> str:
    """Name of a weighting."""
    return "natural" if robust is None else f"briggs {robust:g}"


def lines(result: dict[str, Any]) -> list[str]:
    """The tables as text."""
    shape = " x ".join(str(side) for side in result["shape"])
    out = [
        f"fast against CASA, {result['size']} ({shape} channels and pixels), without noise: residual over the peak",
        f"  {'weighting':12s} {'channel':>8s} {'rms':>9s} {'maximum':>9s}   {'PSF rms':>9s} {'maximum':>9s} (2 npix)",
    ]
    for row in result["rows"]:
        out.append(
            f"  {weighting(row['robust']):12s} {row['chan']:8d} {row['rms']:9.1e} {row['maximum']:9.1e}   "
            f"{row['psf_rms']:9.1e} {row['psf_maximum']:9.1e}"
        )
    for name, noise in result["noise"].items():
        ratio = np.array(noise["power_ratio"])
        out.append(f"noise, {name}")
        for backend in ("casa", "fast"):
            row = noise[backend]
            out.append(
                f"  {backend}: rms over the one asked for {row['rms']:.4f} (channels: +- {row['rms_scatter']:.4f}), "
                f"correlation of neighbouring channels {row['correlation']:+.5f} +- {row['correlation_error']:.5f}"
            )
        error = max(noise["power_error"])
        out.append(
            f"  power, casa over fast, in {len(ratio)} rings of the uv plane: {ratio.min():.3f} to {ratio.max():.3f} "
            f"(expected scatter up to {error:.3f})"
        )
    out.append(f"{result['seconds']:.0f} s, load average {os.getloadavg()[0]:.1f}")
    return out


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of the command line."""
    parser.add_argument("--size", choices=sorted(SIZES), default="small", help="paper: 360 x 360 x 128; some 8 minutes")
    parser.add_argument("--seed", type=int, default=1, help="of the noise")
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def run(args: argparse.Namespace) -> int:
    """Measure and print."""
    result = measure(args.size, args.seed, log=lambda text: sys.stderr.write(text + "\n"))
    sys.stdout.write(json.dumps(result) + "\n" if args.json else "\n".join(lines(result)) + "\n")
    return 0
