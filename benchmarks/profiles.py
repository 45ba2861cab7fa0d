"""An exponential disc as concentric Gaussians: the fit that `core.profiles` holds, and what each profile leaves."""

from __future__ import annotations

import argparse
import json
import sys
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import optimize, special

from casa_deepfocus.core.profiles import EXPONENTIAL, PARTS

SIZES = (0.3, 0.6, 1.0, 2.0, 4.0)
"""Discs that are told of [beam, FWHM of the second moments]."""

FITTED = np.geomspace(0.3, 6.0, 14)
"""Discs that the Gaussians are fitted to [beam]: from what is hardly resolved to the largest that is fitted."""

WAVES = np.linspace(0.0, 8.0, 2001)
"""Spatial frequency [rad per standard deviation of the beam]: beyond them a Gaussian beam has measured nothing."""


def disc(size: float) -> NDArray[np.float64]:
    """Transform on `WAVES` of an exponential disc whose second moments are those of a beam, `size` times as large."""
    return (1.0 + (size * WAVES) ** 2 / 3.0) ** -1.5


def mixture(fluxes: NDArray, variances: NDArray, size: float) -> NDArray[np.float64]:
    """Transform on `WAVES` of concentric Gaussians."""
    return fluxes @ np.exp(-0.5 * np.outer(variances, (size * WAVES) ** 2))


def fit(number: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Fluxes (sum 1) and variances (flux-weighted mean 1) of the Gaussians nearest to a disc seen through a beam.

    Least squares of what is left over what there is, summed over `FITTED`; the start is the Gauss-Laguerre rule, which
    has the first moments right: a disc's transform is an integral of Gaussians over the Gamma distribution of 3/2.
    """
    weight = WAVES * np.exp(-0.5 * WAVES**2)

    def unpack(values: NDArray) -> tuple[NDArray, NDArray]:
        fluxes = np.exp(np.concatenate([[0.0], values[: number - 1]]))
        fluxes, variances = fluxes / fluxes.sum(), np.exp(values[number - 1 :])
        return fluxes, variances / (fluxes @ variances)

    def left(values: NDArray) -> NDArray:
        parts = unpack(values)
        rows = [np.sqrt(weight / (weight @ disc(size) ** 2)) * (mixture(*parts, size) - disc(size)) for size in FITTED]
        return np.concatenate(rows)

    nodes, shares = special.roots_genlaguerre(number, 0.5)
    start = np.concatenate([np.log(shares[1:] / shares[0]), np.log(nodes)])
    fluxes, variances = unpack(optimize.least_squares(left, start, xtol=1e-12, ftol=1e-12).x)
    order = np.argsort(variances)
    return fluxes[order], variances[order]


def mismatch(fluxes: NDArray, variances: NDArray, size: float) -> float:
    """1 - rho^2 of a disc and concentric Gaussians of the best size, through the beam."""
    weight, truth = WAVES * np.exp(-0.5 * WAVES**2), disc(size)

    def left(scale: float) -> float:
        model = mixture(fluxes, variances, size * float(np.exp(scale)))
        return float(1.0 - (weight @ (truth * model)) ** 2 / ((weight @ truth**2) * (weight @ model**2)))

    return float(optimize.minimize_scalar(left, bounds=(-1.0, 1.0), method="bounded").fun)


def measure(most: int) -> list[dict[str, Any]]:
    """Fits of 1 to `most` Gaussians, and of what the code holds (`gaussians` 0)."""
    rows = []
    for number in (*range(1, most + 1), 0):
        fluxes, variances = fit(number) if number else PARTS[EXPONENTIAL]
        left = [mismatch(fluxes, variances, size) for size in SIZES]
        rows.append({"gaussians": number, "fluxes": list(fluxes), "variances": list(variances), "mismatch": left})
    return rows


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of the command line."""
    parser.add_argument("--most", type=int, default=4, help="Gaussians, at most")
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def run(args: argparse.Namespace) -> int:
    """Fit and print."""
    rows = measure(args.most)
    if args.json:
        sys.stdout.write(json.dumps(rows) + "\n")
        return 0
    sys.stdout.write(f"1 - rho^2 at {', '.join(f'{size:g}' for size in SIZES)} beams; fluxes; variances\n")
    for row in rows:
        name = f"{row['gaussians']} Gaussians" if row["gaussians"] else "in the code"
        values = ["  ".join(f"{value:.{digits}}" for value in row[key])
                  for key, digits in (("mismatch", "1e"), ("fluxes", "8f"), ("variances", "8f"))]  # fmt: skip
        sys.stdout.write(f"{name:12s} {'; '.join(values)}\n")
    return 0
