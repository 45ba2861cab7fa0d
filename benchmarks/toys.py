"""Toy images, Gaussian sources in Gaussian noise, without a PSF and with that Gaussian given as the PSF.

The noise is white over the pixels, the beam's (natural weighting's), smoothed with the beam, with half of it, with a
round kernel of half its minor axis, or half white and half the beam's. Asked are every source once, no other row, and
fluxes and places within their errors: pulls, found minus true over the error, of rms 1.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from astropy.table import Table
from numpy.random import Generator
from numpy.typing import NDArray

from casa_deepfocus import pipeline
from casa_deepfocus.core.cube import Cube
from casa_deepfocus.core.geometry import GAUSSIAN_LINE, gaussian_image, peak_over_flux, shape_to_covariance
from casa_deepfocus.core.psf import gaussian_psf

NOISES = ("white", "beam", "smoothed", "half", "round", "mixture")
BEAMS = ((6.0, 6.0, 0.0), (4.0, 3.0, 30.0), (12.0, 8.0, 120.0))
"""FWHM major, minor [pixel], position angle [deg]."""

RATIOS = (30.0, 100.0, 300.0)
"""Flux density of a point over the rms of the noise."""

CELL = 0.5
"""Size of a pixel [arcsec]."""

APART = 4.0
"""Least distance of two sources [beam]."""

EDGE = 3.0
"""Least distance of a source from the edges [beam]."""

NEAR = 0.5
"""Largest distance of a row from its source [beam]."""


@dataclass(frozen=True)
class Planted:
    """A source: x, y [pixel], covariance (3,) [pixel^2], flux density [Jy], chan and line_fwhm [chan] in a cube."""

    x: float
    y: float
    covariance: NDArray[np.float64]
    flux: float
    chan: float
    line_fwhm: float


@dataclass
class Score:
    """Counts over fields, and pulls of all sources that were found."""

    noise: str
    given: bool
    channels: int
    fields: int = 0
    sources: int = 0
    missed: int = 0
    extra: int = 0
    flux: list[float] = field(default_factory=list)
    place: list[float] = field(default_factory=list)

    def row(self) -> dict[str, Any]:
        """The score with rms in the place of the pulls."""
        rms = {name: float(np.sqrt(np.mean(np.square(pulls or [np.nan])))) for name, pulls in self._pulls().items()}
        return asdict(self) | rms

    def _pulls(self) -> dict[str, list[float]]:
        return {"flux": self.flux, "place": self.place}


def draw_noise(kind: str, shape: tuple[int, int], beam: NDArray, rng: Generator) -> NDArray[np.float64]:
    """(ny, nx) noise of variance 1, of one of `NOISES`; `beam` is the covariance (3,) of the PSF [pixel^2]."""
    if kind == "mixture":
        return np.sqrt(0.5) * (rng.normal(size=shape) + draw_noise("beam", shape, beam, rng))
    if kind == "white":
        return rng.normal(size=shape)
    least = float(np.linalg.eigvalsh([[beam[0], beam[2]], [beam[2], beam[1]]])[0])
    # Of the power; a kernel of half the beam has a quarter of its variance, and its square counts.
    sxx, syy, sxy = {
        "beam": 1.0 * beam, "smoothed": 2.0 * beam, "half": 0.5 * beam,
        "round": 0.5 * least * np.array([1.0, 1.0, 0.0]),
    }[kind]  # fmt: skip
    # Twice as large, so that no edge knows of the other.
    ny, nx = (2 * side for side in shape)
    fy, fx = np.fft.fftfreq(ny)[:, None], np.fft.rfftfreq(nx)[None, :]
    amplitude = np.exp(-(np.pi**2) * (sxx * fx**2 + syy * fy**2 + 2.0 * sxy * fx * fy))
    noise = np.fft.irfft2(np.fft.rfft2(rng.normal(size=(ny, nx))) * amplitude, s=(ny, nx))
    variance = np.fft.irfft2(amplitude**2, s=(ny, nx))[0, 0]
    return noise[: shape[0], : shape[1]] / np.sqrt(variance)


def make_field(
    noise: str, ratio: float, beam: tuple[float, float, float], seed: int, *,
    given: bool = False, npix: int = 160, nchan: int = 1, sources: int = 5,
) -> tuple[Cube, list[Planted]]:  # fmt: skip
    """A toy image or cube of lines; the flux densities are 1 Jy and less.

    Parameters
    ----------
    noise : str, one of `NOISES`
    ratio : float, 1 Jy/beam over the rms
    beam : FWHM major, minor [pixel], position angle [deg]
    seed : int
    given : bool, whether the PSF counts as measured
    """
    rng = np.random.default_rng([seed, round(10 * ratio), NOISES.index(noise), round(100 * beam[0])])
    covariance, mean = shape_to_covariance(*beam), float(np.sqrt(beam[0] * beam[1]))
    planted: list[Planted] = []
    for _ in range(1000):
        x, y = rng.uniform(EDGE * mean, npix - EDGE * mean, 2)
        if len(planted) == sources or any(np.hypot(x - s.x, y - s.y) < APART * mean for s in planted):
            continue
        size = np.zeros(3)
        if len(planted) % 2:
            minor, major = np.sort(rng.uniform(0.3, 1.5, 2) * mean)
            size = shape_to_covariance(major, minor, rng.uniform(0.0, 180.0))
        flux = 1.0 if len(planted) < 2 else rng.uniform(0.3, 1.0)
        planted.append(Planted(x, y, size, flux, rng.uniform(0.25, 0.75) * nchan, rng.uniform(3.0, 6.0)))
    data = np.stack([draw_noise(noise, (npix, npix), covariance, rng) for _ in range(nchan)]) / ratio
    for source in planted:
        peak = source.flux * peak_over_flux(source.covariance, covariance)
        image = peak * gaussian_image((npix, npix), source.x, source.y, source.covariance + covariance)
        line = np.exp(-4.0 * np.log(2.0) * ((np.arange(nchan) - source.chan) / source.line_fwhm) ** 2)
        data += (line if nchan > 1 else np.ones(1))[:, None, None] * image
    beams = np.tile([beam[0] * CELL, beam[1] * CELL, beam[2]], (nchan, 1))
    cube = Cube(
        data=data.astype(np.float32), psf=gaussian_psf(beams, CELL, (2 * npix, 2 * npix)),
        pb=np.ones((1, npix, npix), np.float32), freq=1.4e9 + 1e5 * np.arange(nchan), beams=beams, cell=CELL,
        psf_is_measured=given, spectral=nchan > 1,
    )  # fmt: skip
    return cube, planted


def add_score(score: Score, table: Table, planted: list[Planted], beam: float) -> None:
    """Count the rows of a catalogue against what was planted; `beam` is its mean FWHM [pixel]."""
    rows = list(table)
    score.fields += 1
    score.sources += len(planted)
    for source in planted:
        near = [row for row in rows if np.hypot(row["x"] - source.x, row["y"] - source.y) < NEAR * beam]
        if not near:
            score.missed += 1
            continue
        row = max(near, key=lambda one: one["snr"])
        rows.remove(row)
        true, name = source.flux, "continuum"
        if score.channels > 1:
            true, name = source.flux * source.line_fwhm * GAUSSIAN_LINE * table.meta["chan_width_kms"], "line_flux"
        score.flux.append(float((row[name] - true) / row[f"{name}_err"]))
        score.place += [float((row[axis] - getattr(source, axis)) / row[f"{axis}_err"]) for axis in ("x", "y")]
    score.extra += len(rows)


def measure(noises: tuple[str, ...], n: int, channels: int, networks: pipeline.Networks) -> Iterator[Score]:
    """A score for each kind of noise, without a PSF and with it, over all `BEAMS` and `RATIOS`, `n` fields of each."""
    for noise in noises:
        for given in (False, True):
            score = Score(noise, given, channels)
            for ratio in RATIOS:
                for beam in BEAMS:
                    for seed in range(n):
                        cube, planted = make_field(noise, ratio, beam, seed, given=given, nchan=channels)
                        add_score(score, pipeline.run(cube, networks).catalogue, planted, cube.beam_pixels())
            yield score


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of the command line."""
    parser.add_argument("--noise", nargs="+", choices=NOISES, default=NOISES)
    parser.add_argument("--n", type=int, default=1, help="fields of each beam and each peak over rms")
    parser.add_argument("--channels", type=int, default=1, help="1: images; more: cubes of lines")
    parser.add_argument("--json", action="store_true")


def run(args: argparse.Namespace) -> int:
    """Measure and print."""
    from casa_deepfocus.models.runner import load_networks

    scores = (score.row() for score in measure(tuple(args.noise), args.n, args.channels, load_networks("", "cpu")))
    if args.json:
        sys.stdout.write(json.dumps(list(scores)) + "\n")
        return 0
    sys.stdout.write("noise      PSF    fields  sources  missed  extra rows   rms pull: flux  place\n")
    for row in scores:
        sys.stdout.write(
            f"{row['noise']:<10s} {'given' if row['given'] else 'none':<5s} {row['fields']:7d} {row['sources']:8d} "
            f"{row['missed']:7d} {row['extra']:11d}   {row['flux']:14.2f} {row['place']:6.2f}\n"
        )
        sys.stdout.flush()
    return 0
