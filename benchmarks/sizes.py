"""Bias of the sizes that `core.sizes` gives, over populations of sources and prior densities.

A fitted covariance is drawn about the true one with the errors of a Gaussian source in a Gaussian beam at natural
weighting, bounded below as the fit does it, and turned into sizes by the mean over each density.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from casa_deepfocus.core.fit import UNRESOLVED, bounded_covariance
from casa_deepfocus.core.geometry import covariance_to_shape, shape_to_covariance
from casa_deepfocus.core.sizes import DENSITY, sizes

BEAM = shape_to_covariance(8.9, 7.6, 85.0)
"""That of the paper's cubes [pixel^2]."""

BEAM_FWHM = float(np.sqrt(np.prod(covariance_to_shape(BEAM)[:2])))
"""Its geometric mean [pixel]."""

BEAM_VARIANCE = 0.5 * float(BEAM[0] + BEAM[1])
"""That along an axis, on the average [pixel^2]."""

DENSITIES = ((2.0, 2.0), DENSITY)

Draw = Callable[[Generator], tuple[float, float]]


def _paper(rng: Generator) -> tuple[float, float]:
    minor, major = np.sort(rng.uniform(2.0, 8.0, 2))
    return float(major), float(minor)


def _by_ratio(thinnest: float) -> Draw:
    def draw(rng: Generator) -> tuple[float, float]:
        major = BEAM_FWHM * rng.uniform(0.25, 2.0)
        return major, major * rng.uniform(thinnest, 1.0)

    return draw


POPULATIONS: dict[str, Draw] = {
    "paper: both axes 2 to 8 pixels": _paper,
    "axis ratio 0.5 to 1": _by_ratio(0.5),
    "axis ratio 0.3 to 1": _by_ratio(0.3),
    "axis ratio 0.2 to 1": _by_ratio(0.2),
    "axis ratio 0.1 to 1": _by_ratio(0.1),
    "round": _by_ratio(1.0),
}
"""Name -> (major, minor) [pixel] of a source; where only a ratio is named, of 0.25 to 2 beams."""


def error_matrix(covariance: NDArray, snr: float) -> NDArray[np.float64]:
    """(3, 3) [pixel^4] error of a Gaussian's covariance (3,) [pixel^2] that beam and natural weighting allow."""
    sxx, syy, sxy = BEAM + 2.0 * np.asarray(covariance)
    xx, xy, yy = np.linalg.inv(4.0 * np.pi**2 * np.array([[sxx, sxy], [sxy, syy]]))[[0, 0, 1], [0, 1, 1]]
    # Fourth moments of the wavenumbers that the source is seen at; the flux is not known either.
    slopes = -2.0 * np.pi**2 * np.array([xx, yy, 2.0 * xy])
    fourth = np.array(
        [
            [3 * xx * xx, xx * yy + 2 * xy * xy, 6 * xx * xy],
            [xx * yy + 2 * xy * xy, 3 * yy * yy, 6 * yy * xy],
            [6 * xx * xy, 6 * yy * xy, 4 * (xx * yy + 2 * xy * xy)],
        ]
    )
    return np.linalg.inv(4.0 * np.pi**4 * fourth - np.outer(slopes, slopes)) / snr**2


def measure(n: int, seed: int) -> list[dict[str, Any]]:
    """A row for each population and density: bias, its standard error, scatter, and share within the error."""
    rows = []
    for name, draw in POPULATIONS.items():
        rng = np.random.default_rng(seed)
        true, found = np.empty((n, 2)), np.empty((len(DENSITIES), n, 4))
        for index in range(n):
            true[index] = draw(rng)
            exact = shape_to_covariance(*true[index], rng.uniform(0.0, 180.0))
            snr = float(np.exp(rng.uniform(np.log(10.0), np.log(120.0))))
            fitted = rng.multivariate_normal(exact, error_matrix(exact, snr))
            fitted = bounded_covariance(fitted, UNRESOLVED * BEAM_VARIANCE, np.inf)
            matrix = error_matrix(fitted, snr)
            for number, density in enumerate(DENSITIES):
                found[number, index] = sizes(fitted, matrix, density)
        for density, values in zip(DENSITIES, found, strict=True):
            residual, error = values[:, :2] - true, values[:, 2:]
            row: dict[str, Any] = {"population": name, "density": list(density)}
            for axis, column in (("major", 0), ("minor", 1)):
                scatter = float(residual[:, column].std())
                row |= {
                    f"{axis}_bias": float(residual[:, column].mean()),
                    f"{axis}_bias_err": scatter / np.sqrt(n),
                    f"{axis}_std": scatter,
                    f"{axis}_coverage68": float((np.abs(residual[:, column]) < error[:, column]).mean()),
                }
            rows.append(row)
    return rows


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of the command line."""
    parser.add_argument("--n", type=int, default=2000, help="sources of each population")
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--json", action="store_true")


def run(args: argparse.Namespace) -> int:
    """Measure and print."""
    rows = measure(args.n, args.seed)
    if args.json:
        sys.stdout.write(json.dumps(rows) + "\n")
        return 0
    sys.stdout.write(f"found minus true [pixel], SNR 10 to 120, beam {BEAM_FWHM:.2f} pixels; density major^a minor^b\n")
    sys.stdout.write("population                        a, b      major: bias          std    in error   minor\n")
    for row in rows:
        values = "   ".join(
            f"{row[f'{axis}_bias']:+.3f} +- {row[f'{axis}_bias_err']:.3f}  {row[f'{axis}_std']:6.3f}  "
            f"{row[f'{axis}_coverage68']:5.2f}"
            for axis in ("major", "minor")
        )
        a, b = row["density"]
        sys.stdout.write(f"{row['population']:<32s}  {a:.1f}, {b:.1f}   {values}\n")
    return 0
