"""Cramer-Rao bounds beside the scatter of a brute-force fit over many draws of the noise.

One source in a small field of the simulator, drawn again and again. The fit shares nothing with `sim.bounds`: it
works on the pixels around the source, whitened with the dense covariance matrix of their noise, has
FWHM and position angle for parameters, and takes its derivatives by finite differences (scipy).
"""

from __future__ import annotations

import argparse
import sys

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import least_squares

from casa_deepfocus.core.geometry import GAUSSIAN_LINE, gaussian_image
from sim.bounds import INDEX_SPREAD, Bounds, cramer_rao
from sim.cube import simulate_cube
from sim.response import Coverage, Grid, response
from sim.sky import Source

COVERAGE = Coverage(duration=1200.0, integration=120.0)
GRID = Grid(npix=64, cell=0.16, nchan=12, freq0=230e9, chan_width=25e6)
SOURCE = Source(30.3, 33.8, 6.5, 3.5, 40.0, continuum=0.02, alpha=1.0, line=0.06, chan=5.3, line_fwhm=4.0)
NOISE = 1.2e-3
STAMP = 32
"""Side of the fitted patch [pixel]."""

KEPT = 1e-3
"""Eigenvectors of the PSF below this fraction of the largest eigenvalue are left out of the fit."""

AIM = 0.1
"""How far from 1 the ratio of scatter and bound may be."""

NAMES = ("x", "y", "fwhm_maj", "fwhm_min", "pa", "continuum", "alpha", "line_chan", "line_fwhm", "line_flux")


class Fitter:
    """A least-squares fit of one source on the pixels around it.

    Parameters
    ----------
    psf : (2 npix, 2 npix) float, peak 1 at (npix, npix)
    pb : float, primary beam at the source
    source : Source, the truth, where the fits start
    sigma, white : float [Jy/beam], of the noise
    noise : like `psf`, autocorrelation of the thermal noise; the PSF itself (natural weighting) by default
    """

    def __init__(
        self, psf: NDArray, pb: float, source: Source, sigma: float, white: float, noise: NDArray | None = None
    ) -> None:
        self.pb, self.source = pb, source
        self.corner = round(source.x) - STAMP // 2, round(source.y) - STAMP // 2
        y, x = (axis.ravel() for axis in np.indices((STAMP, STAMP)))
        middle = psf.shape[0] // 2
        image, correlation = (
            array[middle + y[:, None] - y[None, :], middle + x[:, None] - x[None, :]].astype(float)
            for array in (psf, psf if noise is None else noise)
        )
        values, vectors = np.linalg.eigh(correlation)
        kept = values > KEPT * values.max()
        self.whiten = (vectors[:, kept] / np.sqrt(sigma**2 * values[kept] + white**2)).T
        # The dirty image of a sky [Jy/pixel], whitened.
        self.image = self.whiten @ image

    def model(self, vector: NDArray) -> NDArray[np.float64]:
        """(rank, nchan) whitened dirty image of a source with the parameters `NAMES`."""
        x, y, major, minor, pa, continuum, alpha, chan, width, flux = vector
        guess = Source(x, y, major, minor, pa)
        covariance = guess.covariance()
        plane = gaussian_image((STAMP, STAMP), x - self.corner[0], y - self.corner[1], covariance)
        plane /= 2.0 * np.pi * np.sqrt(covariance[0] * covariance[1] - covariance[2] ** 2)
        freq = GRID.freq()
        height = flux / (width * GAUSSIAN_LINE)
        line = height * np.exp(-4.0 * np.log(2.0) * ((np.arange(GRID.nchan) - chan) / width) ** 2)
        spectrum = continuum * (freq / (0.5 * (freq[0] + freq[-1]))) ** alpha + line
        return np.outer(self.image @ plane.ravel(), self.pb * spectrum)

    def start(self) -> NDArray[np.float64]:
        """The true parameters, in the order of `NAMES`."""
        s = self.source
        flux = s.line * s.line_fwhm * GAUSSIAN_LINE
        return np.array([s.x, s.y, s.fwhm_maj, s.fwhm_min, s.pa, s.continuum, s.alpha, s.chan, s.line_fwhm, flux])

    def fit(self, data: NDArray, index: float) -> NDArray[np.float64]:
        """Parameters that fit a dirty cube (nchan, npix, npix) and a spectral index known beforehand to be `index`."""
        x, y = self.corner
        patch = data[:, y : y + STAMP, x : x + STAMP].reshape(len(data), -1).astype(float)
        seen = self.whiten @ patch.T

        def residuals(vector: NDArray) -> NDArray[np.float64]:
            return np.append((self.model(vector) - seen).ravel(), (vector[6] - index) / INDEX_SPREAD)

        start = self.start()
        return least_squares(residuals, start, x_scale=np.abs(start) * 0.1, method="trf").x


def measure(draws: int, seed: int, *, white: float = 0.0) -> dict[str, tuple[float, float, float]]:
    """Scatter of the fits over the bound.

    Parameters
    ----------
    draws : int, of the noise
    seed : int
    white : float, noise that is white over the pixels, in units of the thermal noise

    Returns
    -------
    dict : parameter -> bound, scatter over bound, mean offset over its standard error
    """
    resp = response(COVERAGE, GRID)
    clean = simulate_cube([SOURCE], COVERAGE, GRID, 0.0, None)
    column, row = round(SOURCE.x), round(SOURCE.y)
    fitter = Fitter(
        clean.psf[GRID.nchan // 2], float(clean.pb[GRID.nchan // 2, row, column]), SOURCE, NOISE, white * NOISE
    )
    rng = np.random.default_rng(seed)
    found = []
    for _ in range(draws):
        noise = simulate_cube([], COVERAGE, GRID, NOISE, rng, white=white * NOISE).data
        index = SOURCE.alpha + INDEX_SPREAD * rng.standard_normal()
        found.append(fitter.fit(clean.data + noise, index))
    (bounds,) = cramer_rao([SOURCE], resp, GRID.freq(), NOISE, white=white * NOISE)
    return compare(np.array(found), fitter.start(), bounds)


def compare(found: NDArray, truth: NDArray, bounds: Bounds) -> dict[str, tuple[float, float, float]]:
    """Bound, scatter over bound and offset in standard errors of every parameter that has a bound."""
    out = {}
    for name, values, true in zip(NAMES, found.T, truth, strict=True):
        if name in bounds.errors:
            bound, scatter = bounds.errors[name], float(values.std(ddof=1))
            out[name] = (bound, scatter / bound, float((values.mean() - true) / (scatter / np.sqrt(len(values)))))
    return out


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of the command line."""
    parser.add_argument("--draws", type=int, default=200, help="draws of the noise")
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--white", type=float, default=0.0, help="pixel-white noise in units of the thermal noise")


def run(args: argparse.Namespace) -> int:
    """Measure and print; 1 when a ratio is certainly further from 1 than `AIM`."""
    result = measure(args.draws, args.seed, white=args.white)
    error = 1.0 / np.sqrt(2.0 * (args.draws - 1))
    sys.stdout.write(f"{args.draws} draws: scatter / bound, standard error {error:.3f}\n")
    sys.stdout.write("  parameter    bound      ratio   offset / its error\n")
    for name, (bound, ratio, offset) in result.items():
        sys.stdout.write(f"  {name:10s} {bound:9.3g} {ratio:9.3f} {offset:9.2f}\n")
    worst = max(abs(ratio - 1.0) for _, ratio, _ in result.values())
    verdict = "within" if worst < AIM else "beyond"
    if abs(worst - AIM) < 2.0 * error:
        verdict += ", but more draws are needed to tell"
    sys.stdout.write(
        f"  furthest from 1: {worst:.3f} ({worst / error:.1f} standard errors); {AIM} aimed at: {verdict}\n"
    )
    return int(worst > AIM + 2.0 * error)
