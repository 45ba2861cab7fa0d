"""What a search finds of artificial sources put into the user's own cube.

A few sources at a time are added through the cube's PSF, primary beam and pointings to the data as they are, with their
noise, artefacts and the sources that were found, and the same search is run again. In the residual the found sources'
neighbourhoods, and what is lost in them, would be missing.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import fft, optimize, stats

from casa_deepfocus import pipeline
from casa_deepfocus.core.component import Component
from casa_deepfocus.core.cube import Cube
from casa_deepfocus.core.geometry import FWHM_PER_SIGMA, GAUSSIAN_LINE
from casa_deepfocus.core.matching import assign
from casa_deepfocus.core.psf import Imager, gaussian_transform, place_psf
from casa_deepfocus.errors import ParameterError
from casa_deepfocus.pipeline.state import MIN_LINE_CHANNELS, Log, Networks, Options, Result, silent

SEED = 22111
"""Of the artificial sources: the same cube always gets the same ones."""

FAINTEST, BRIGHTEST = 2.0, 20.0
"""SNR of the matched filter between which they are drawn, evenly in its logarithm."""

MOST_AT_ONCE = 10
BEAMS_EACH = 60.0
"""Sources that are put in at once, and beams of the field for each: they are not to be each other's blends."""

APART = 3.0
"""Distance between two of one run [beam]."""

LEAST_RESPONSE = 0.2
"""Primary beam below which none is put: few telescopes' images are searched there on purpose."""

NARROWEST, WIDEST = 2.5, 0.1
"""FWHM of lines [channel; share of the band] where none was found, evenly in the logarithm."""

LARGEST = 3.0
"""FWHM of an artificial source at most [beam]: of found ones that are larger, as complexes are, none is made."""

NEAR = 0.5
"""A match is within this share of the beam's FWHM, and of the line's or one channel: the rule of our scores."""

BINS = 8
"""Of a curve, with equal numbers of sources at most."""

CONFIDENCE = 0.68
"""Of the binomial intervals: one standard error of a normal distribution."""


@dataclass(frozen=True)
class Injected:
    """An artificial source.

    Attributes
    ----------
    component : Component
        Apparent fluxes [Jy], as it was put in.
    kind : str, 'line' or 'continuum'
    snr : float, of the matched filter that knows its shape, in the noise of its place
    flux : float
        On the sky: Jy km/s of a line (Jy channels without frequencies), Jy of a continuum.
    found : bool
    """

    component: Component
    kind: str
    snr: float
    flux: float
    found: bool = False


@dataclass(frozen=True)
class Half:
    """Where a curve passes one half, by a logistic curve in the logarithm.

    Attributes
    ----------
    snr, flux : float
        NaN where all, or none, are found.
    """

    snr: float
    flux: float


@dataclass(frozen=True)
class Completeness:
    """What was put in and what was found of it."""

    sources: tuple[Injected, ...]
    unit: str

    def of(self, kind: str) -> list[Injected]:
        """Those of one kind."""
        return [item for item in self.sources if item.kind == kind]

    @property
    def kinds(self) -> list[str]:
        """The kinds that were put in."""
        return [kind for kind in ("line", "continuum") if self.of(kind)]

    def half(self, kind: str) -> Half:
        """SNR and flux at which half of the sources of a kind are found."""
        some = self.of(kind)
        found = np.array([item.found for item in some])
        return Half(
            half_point(np.array([item.snr for item in some]), found),
            half_point(np.array([item.flux for item in some]), found),
        )

    def curve(self, kind: str, against: str) -> list[dict[str, float]]:
        """Shares found in bins of 'snr' or 'flux', with the binomial 68 % interval (Wilson's)."""
        some = sorted(self.of(kind), key=lambda item: getattr(item, against))
        rows = []
        for part in np.array_split(np.arange(len(some)), min(BINS, max(1, len(some) // 5))):
            values = [getattr(some[index], against) for index in part]
            number, found = len(part), sum(some[index].found for index in part)
            if number:
                share = stats.binomtest(found, number).proportion_ci(CONFIDENCE, method="wilson")
                rows.append({
                    "low": values[0], "high": values[-1], "centre": float(np.exp(np.mean(np.log(values)))),
                    "injected": number, "found": found, "completeness": found / number,
                    "lower": float(share.low), "upper": float(share.high),
                })  # fmt: skip
        return rows


def half_point(values: NDArray[np.float64], found: NDArray[np.bool_]) -> float:
    """Value at which a logistic curve in its logarithm, of greatest likelihood, passes one half; NaN without one."""
    if len(values) == 0 or found.all() or not found.any():
        return float("nan")
    x = np.log(values)

    def cost(p: NDArray) -> float:
        z = (x - p[0]) * np.exp(p[1])
        # No sharper than a tenth of the range: a curve without an overlap has no width of its own.
        return float(np.logaddexp(0.0, np.where(found, -z, z)).sum()) + 0.5 * max(0.0, p[1] - 3.0) ** 2

    start = [0.5 * (float(x[found].mean()) + float(x[~found].mean())), 1.5]
    middle = float(optimize.minimize(cost, start, method="Nelder-Mead").x[0])
    return float(np.exp(middle)) if x.min() <= middle <= x.max() else float("nan")


def check_number(number: int) -> int:
    """The number of artificial sources, if it is one.

    Raises
    ------
    ParameterError
    """
    if not isinstance(number, (int, np.integer)) or isinstance(number, bool) or number < 0:
        raise ParameterError("completeness", number, "must be a whole number, at least 0", "0 leaves it out")
    return int(number)


def measure(
    cube: Cube, networks: Networks, options: Options, result: Result, number: int, *, log: Log = silent,
    progress: Callable[[str, int], None] | None = None,
) -> Completeness | None:  # fmt: skip
    """Put artificial sources into a cube, and search it again.

    Parameters
    ----------
    cube, networks, options
        As `pipeline.run` was given them.
    result : Result
        What that found.
    number : int
        Sources to put in.
    log : Log
    progress : callable, optional, as that of `pipeline.run`

    Returns
    -------
    Completeness, or None where there is no place for a source
    """
    work = _Work(cube, options, result)
    if not work.places.size:
        log("completeness: no place in the image where the primary beam is above a fifth", "WARN")
        return None
    sources = [work.draw(index) for index in range(number)]
    batches = work.apart(sources)
    done: list[Injected] = []
    for turn, batch in enumerate(batches):
        if progress is not None:
            progress(f"completeness {turn + 1} of {len(batches)}", len(result.catalogue))
        again = pipeline.run(work.with_sources(batch), networks, options)
        done += work.judged(batch, again.catalogue)
        share = f"{sum(item.found for item in done)} of {len(done)} found"
        log(f"completeness: search {turn + 1} of {len(batches)}, {share}")
    spectral = bool(np.isfinite(cube.freq).all()) and cube.nchan > 1
    return Completeness(tuple(done), "Jy km/s" if spectral else "Jy channel")


class _Work:
    """What all runs need of a cube."""

    def __init__(self, cube: Cube, options: Options, result: Result) -> None:
        self.cube, self.result = cube, result
        noise = np.asarray(result.noise, dtype=float)
        collapsed = len(noise) != cube.nchan
        # Of a continuum search the noise is that of the mean of the channels.
        self.noise = np.full(cube.nchan, float(noise[0]) * np.sqrt(cube.nchan)) if collapsed else noise
        self.imager = Imager(cube.psf, cube.shape, pointings=pipeline._pointings(cube, self.noise))
        self.beam = cube.beam_pixels()
        pb = np.nan_to_num(cube.pb[len(cube.pb) // 2])
        edge = int(np.ceil(self.beam))
        inside = np.isfinite(cube.data).any(axis=0) & (pb >= LEAST_RESPONSE)
        inside[:edge], inside[-edge:], inside[:, :edge], inside[:, -edge:] = False, False, False, False
        self.places = np.argwhere(inside)
        self.kinds = _kinds(options.mode, cube.nchan)
        table = result.catalogue
        widths, sizes = np.array([]), np.array([])
        if len(table):
            kms = np.array([cube.chan_width_kms(freq) if freq > 0 else np.nan for freq in table["freq"]])
            widths = np.asarray(table["line_fwhm"], float) / kms
            sizes = np.asarray(table["fwhm_maj"], float) / cube.cell
        self.widths, self.sizes = widths[np.isfinite(widths) & (widths > 0)], sizes[np.isfinite(sizes)]
        self.kernels: dict[int, NDArray[np.complex64]] = {}

    def draw(self, index: int) -> Injected:
        """Source number `index`: by its number, so that the same ones come first whatever their number."""
        rng = np.random.default_rng([SEED, index])
        y, x = self.places[rng.integers(len(self.places))] + rng.uniform(-0.5, 0.5, 2)
        kind, nchan = self.kinds[index % len(self.kinds)], self.cube.nchan
        size = float(rng.choice(self.sizes)) if self.sizes.size else float(rng.uniform(0.0, self.beam))
        variance = (min(size, LARGEST * self.beam) / FWHM_PER_SIGMA) ** 2
        low, high = NARROWEST, max(NARROWEST, WIDEST * nchan)
        width = float(np.exp(rng.uniform(np.log(low), np.log(high))))
        if self.widths.size:
            width = float(np.clip(rng.choice(self.widths), 1.0, 0.5 * nchan))
        component = Component(float(x), float(y), np.array([variance, variance, 0.0]), fwhm=width)
        good = np.flatnonzero(np.isfinite(self.noise) & (self.noise > 0))
        component.chan = float(rng.choice(good))
        if kind == "line":
            component.amp = 1.0
        else:
            component.drop_line()
            component.has_cont, component.cont = True, 1.0
        snr = float(np.exp(rng.uniform(np.log(FAINTEST), np.log(BRIGHTEST))))
        flux = snr / self.snr(component)
        component.amp, component.cont = component.amp * flux, component.cont * flux
        row, column = round(float(y)), round(float(x))
        plane = self.cube.pb[
            round(component.chan) if len(self.cube.pb) > 1 and kind == "line" else len(self.cube.pb) // 2
        ]
        true = flux / float(plane[row, column])
        if kind == "line":
            freq = self.cube.freq[round(component.chan)]
            kms = self.cube.chan_width_kms(float(freq)) if np.isfinite(freq) and freq > 0 else 1.0
            true *= GAUSSIAN_LINE * component.fwhm * kms
        return Injected(component, kind, snr, true)

    def snr(self, component: Component) -> float:
        """Of the filter that knows a component, in the noise at its place."""
        chan = round(component.chan) if component.has_line else self.cube.nchan // 2
        plane = chan if len(self.cube.psf) > 1 else 0
        if plane not in self.kernels:
            self.kernels[plane] = fft.rfft2(place_psf(self.imager.plane(plane), self.imager.grid)).real
        shape = np.abs(gaussian_transform(self.imager.grid, 0.0, 0.0, component.covariance)) ** 2
        # The half plane holds all but its first, and of an even axis its last, column once.
        shape[:, 1 : (self.imager.grid[1] + 1) // 2] *= 2.0
        response = float((shape * self.kernels[plane]).sum()) / np.prod(self.imager.grid)
        sigma = self.noise
        if self.result.noise_map is not None:
            sigma = sigma * float(self.result.noise_map[round(component.y), round(component.x)])
        good = np.isfinite(sigma) & (sigma > 0)
        spectrum = component.spectrum(self.cube.nchan)[good]
        return float(np.sqrt(max(response, 1e-12) * (spectrum**2 / sigma[good] ** 2).sum()))

    def apart(self, sources: list[Injected]) -> list[list[Injected]]:
        """The sources in runs of few, none of a run near another."""
        room = len(self.places) / (BEAMS_EACH * self.beam**2)
        most = int(np.clip(room, 1, MOST_AT_ONCE))
        runs: list[list[Injected]] = []
        for item in sources:
            at = item.component
            for run in runs:
                near = (np.hypot(at.x - other.component.x, at.y - other.component.y) for other in run)
                if len(run) < most and min(near) > APART * self.beam:
                    run.append(item)
                    break
            else:
                runs.append([item])
        return runs

    def with_sources(self, batch: list[Injected]) -> Cube:
        """The cube with some sources more."""
        data = self.cube.data.copy()
        parts = [item.component for item in batch]
        transforms = np.stack([gaussian_transform(self.imager.grid, c.x, c.y, c.covariance) for c in parts])
        spectra = np.stack([-c.spectrum(self.cube.nchan) for c in parts])
        self.imager.subtract(data, transforms, spectra, [(c.x, c.y) for c in parts])
        return replace(self.cube, data=data)

    def judged(self, batch: list[Injected], table: Any) -> list[Injected]:
        """Which of some sources a catalogue has, one row for each; rows that were there before stand for their own."""
        old = self.result.catalogue
        x = np.array([item.component.x for item in batch] + list(old["x"]), dtype=float)
        y = np.array([item.component.y for item in batch] + list(old["y"]), dtype=float)
        apart = np.hypot(x[:, None] - np.asarray(table["x"], float), y[:, None] - np.asarray(table["y"], float))
        cost = np.where(apart <= NEAR * self.beam, (apart / (NEAR * self.beam)) ** 2, np.inf)
        chan = np.asarray(table["chan"], float)
        for index, item in enumerate(batch):
            if item.kind == "line":
                off = np.abs(chan - item.component.chan) / max(NEAR * item.component.fwhm, 1.0)
                cost[index] = np.where(off <= 1.0, cost[index] + off**2, np.inf)
        matched = {int(pair[0]) for pair in assign(cost)} if cost.size else set()
        return [replace(item, found=index in matched) for index, item in enumerate(batch)]


def _kinds(mode: str, nchan: int) -> tuple[str, ...]:
    if mode == "continuum" or nchan < MIN_LINE_CHANNELS:
        return ("continuum",)
    return ("line",) if mode == "line" else ("line", "continuum")
