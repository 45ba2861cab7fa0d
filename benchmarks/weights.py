"""Matched-filter SNR in a Briggs weighted image, as it is and with the weights undone, over that of the visibilities.

For a source of each size: what the filter that the likelihood implies has (`true`, from the scatter of its output on
noise), and what the likelihood says that it has (`said`); both are 1 at natural weighting.
"""

from __future__ import annotations

import argparse
import json
import sys
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import fft

from casa_deepfocus.core.cube import Cube
from casa_deepfocus.core.geometry import shape_to_covariance
from casa_deepfocus.core.noise import channel_noise
from casa_deepfocus.core.psf import gaussian_transform
from casa_deepfocus.core.whitening import undo_weights, weight_density

ROBUST = (2.0, 1.0, 0.5, 0.0, -0.5)
SIZES = (0.0, 0.7, 1.5)
"""FWHM of the sources [beam of the image]."""


def filtered(cube: Cube, fwhm: float) -> tuple[float, float, float]:
    """Of a round Gaussian of `fwhm` pixels: the filter's output for 1 Jy, its rms on noise, and the rms expected."""
    size = cube.psf.shape[1:]
    transform = gaussian_transform(size, 0.0, 0.0, shape_to_covariance(fwhm, fwhm, 0.0))
    twice = np.full(transform.shape[1], 2.0)
    twice[0] = twice[-1] = 1.0
    response, rms = [], []
    edge = int(np.ceil(cube.beam_pixels() + 1.5 * fwhm))
    inner = (slice(edge, cube.shape[0] - edge), slice(edge, cube.shape[1] - edge))
    for plane, psf in zip(cube.data, cube.psf, strict=True):
        transfer = fft.rfft2(np.fft.ifftshift(psf)).real
        response.append(float((np.abs(transform) ** 2 * transfer * twice).sum()) / (size[0] * size[1]))
        output = fft.irfft2(fft.rfft2(plane, s=size) * transform.conj(), s=size)[: cube.shape[0], : cube.shape[1]]
        rms.append(float(np.std(output[inner])))
    mean = float(np.mean(response))
    return mean, float(np.sqrt(np.mean(np.square(rms)))), float(np.median(channel_noise(cube.data))) * np.sqrt(mean)


def measure(npix: int, nchan: int, seed: int) -> list[dict[str, Any]]:
    """A row for each robust parameter and size."""
    from sim.cube import simulate_cube
    from sim.response import Coverage, Grid, sampling

    grid = Grid(npix=npix, cell=0.15, nchan=nchan)

    def observe(robust: float | None) -> tuple[Cube, NDArray]:
        coverage = Coverage(integration=60.0, robust=robust)
        weights = sampling(coverage.uvw(), grid, robust).weights(float(grid.freq()[nchan // 2]))
        # The same visibilities, whatever their weights: noise 1 at natural weighting.
        noise = float(np.sqrt(len(weights) * (weights**2).sum()))
        return simulate_cube([], coverage, grid, noise, np.random.default_rng(seed), pblimit=0.0), weights

    natural, _ = observe(None)
    rows = []
    for robust in ROBUST:
        cube, weights = observe(robust)
        density = weight_density(cube, channel_noise(cube.data))
        undone = undo_weights(cube, density)
        for size in SIZES:
            fwhm = size * cube.beam_pixels()
            signal, _, error = filtered(natural, fwhm)
            row = {"robust": robust, "density": 1.0 - float(weights.min() / weights.max()), "measured": density}
            row |= {"size": size}
            for name, one in (("image", cube), ("undone", undone)):
                height, rms, expected = filtered(one, fwhm)
                ideal = signal / error
                row |= {f"{name}_true": height / rms / ideal, f"{name}_said": height / expected / ideal}
            rows.append(row)
    return rows


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of the command line."""
    parser.add_argument("--npix", type=int, default=128)
    parser.add_argument("--nchan", type=int, default=32)
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--json", action="store_true")


def run(args: argparse.Namespace) -> int:
    """Measure and print."""
    rows = measure(args.npix, args.nchan, args.seed)
    if args.json:
        sys.stdout.write(json.dumps(rows) + "\n")
        return 0
    sys.stdout.write("SNR over that of the visibilities   in the image      weights undone\n")
    sys.stdout.write("robust  f2 T (measured)  size      true   said       true   said\n")
    for row in rows:
        values = "   ".join(
            f"{row[f'{name}_true']:6.2f} {row[f'{name}_said']:6.2f}  " for name in ("image", "undone")
        )  # fmt: skip
        what = f"{row['robust']:6.1f}  {row['density']:.3f} ({row['measured']:.2f})     {row['size']:4.1f}"
        sys.stdout.write(f"{what}    {values.rstrip()}\n")
    return 0
