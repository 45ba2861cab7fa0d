"""What goes into a run, what comes out, and what is carried from step to step."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Protocol

import numpy as np
from astropy.table import Table
from numpy.typing import NDArray
from scipy import ndimage, stats

from casa_deepfocus.core.component import Component
from casa_deepfocus.core.cube import Cube
from casa_deepfocus.core.deblending import Candidate, GraphThresholds
from casa_deepfocus.core.detection import Blob, DetectionMap, weighted_mean
from casa_deepfocus.core.fit import JointFit
from casa_deepfocus.core.modulation import Modulation
from casa_deepfocus.core.noise import inverse_variance, robust_rms
from casa_deepfocus.core.noisemap import NoiseMap
from casa_deepfocus.core.psf import Imager
from casa_deepfocus.core.reliability import NoisePeaks
from casa_deepfocus.core.spectra import Peak
from casa_deepfocus.errors import ParameterError

MODES = ("line", "continuum", "both")
MIN_LINE_CHANNELS = 4
"""With fewer channels there is no spectrum to look for lines in."""

MAX_INDEX = 5.0
"""Spectral index that a continuum is expected to stay below; the primary beam's own slope is in it."""

RAISED = 1.1
"""Floor of the dynamic range above which it is more than chance: its tail is looked at, and the caller is told."""

TAIL_APART = 2.0
"""Distance from sources [beam] at which negative peaks count as those of the floor."""

LEAST_PART = 3.0
"""SNR from which a line, or a continuum, says anything about the other."""


class Log(Protocol):
    """Where lines for people go: CASA's log, or any callable of a message and a priority ('INFO' or 'WARN')."""

    def __call__(self, message: str, priority: str = ..., /) -> None: ...


class Networks(Protocol):
    """The six networks as callables on float32 arrays (docs/architecture.md), and what is known of them."""

    blobs_finder: Callable[[NDArray], NDArray]
    deep_gru: Callable[[NDArray], NDArray]
    fwhm_maj: Callable[[NDArray], NDArray]
    fwhm_min: Callable[[NDArray], NDArray]
    pa: Callable[[NDArray], NDArray]
    flux: Callable[[NDArray], NDArray]
    info: dict[str, Any]


@dataclass(frozen=True)
class Options:
    """Numbers of the search.

    Attributes
    ----------
    mode : str, 'line' (lines only), 'continuum' (the collapsed cube) or 'both'
    minsnr : float [sigma], matched-filter SNR below which nothing is reported
    false_alarms : float, noise peaks that may be taken for sources in a cube, on average: a large
        cube has more of them, so that sources must exceed a higher SNR there than minsnr
    candidates : float, noise peaks that a search may hand to the fit, on average: the fitted SNR knows the
        shape of a source, the maximum of a map does not, so maps are searched below what is reported
    thresholds : dict, `probability` (level of Blobs Finder's map that makes a blob) and `peak` (of Deep
        GRU's output that makes a line), instead of those measured when the networks were trained
    hint : float, level of Blobs Finder's map that is enough where the map itself is above all noise
    rounds : int, how often the residual is searched again at most
    sidelobe_margin : float, a blob must exceed what brighter blobs' sidelobes explain by this factor
    dynamic_range : float, next to a fitted source a new one needs this fraction of its peak
    known_line_snr : float [sigma], lowest SNR of a line whose source the continuum has shown
    reliability : float, sources less likely to be real are left out
    same_position : float [beam], closer sources are one
    graph : GraphThresholds
    noise_map : bool or None, whether the noise may vary over the image (core.noisemap); if not, one number a channel
        is it; None: where it can be told from what the image shows
    """

    mode: str = "both"
    minsnr: float = 5.0
    false_alarms: float = 0.00025
    candidates: float = 1.0
    thresholds: dict[str, float] = field(default_factory=dict)
    hint: float = 0.05
    rounds: int = 8
    sidelobe_margin: float = 1.5
    dynamic_range: float = 0.1
    known_line_snr: float = 4.5
    reliability: float = 0.5
    same_position: float = 0.35
    graph: GraphThresholds = field(default_factory=GraphThresholds)
    noise_map: bool | None = None

    def __post_init__(self) -> None:
        if self.mode not in MODES:
            raise ParameterError("mode", self.mode, "not a mode", f"Use one of {', '.join(MODES)}")
        for name in ("minsnr", "false_alarms", "candidates"):
            if not getattr(self, name) > 0:
                default = getattr(type(self), name)
                raise ParameterError(name, getattr(self, name), "must be positive", f"{default:g} is the default")


@dataclass
class SourceDetail:
    """What the report shows of a source.

    Attributes
    ----------
    name : str
    focused : (S, S) float32 [Jy/beam], the channels of the source averaged
    focused_origin : (x, y) pixel of focused[0, 0]
    spectrum : (nchan,) float32 [Jy], with the fitted shape, other sources subtracted, not PB-corrected
    clean : (nchan,) float32 [0, 1], Deep GRU's output
    model : (nchan,) float32 [Jy], fitted
    chan0, chan1 : int, inclusive
    """

    name: str
    focused: NDArray
    focused_origin: tuple[int, int]
    spectrum: NDArray
    clean: NDArray
    model: NDArray
    chan0: int
    chan1: int


@dataclass
class Result:
    """Everything that a run found.

    Attributes
    ----------
    catalogue : Table, one row a source (core.catalogue)
    probability : (ny, nx) float32, Blobs Finder's map, maximum over the maps searched
    mask : (nchan, ny, nx) bool, the dilated 3D models of all sources
    integrated : (ny, nx) float32 [sigma], the integrated dirty image
    noise : (nchan,) float64 [Jy/beam]; the median over the image where the noise varies over it
    details : list of SourceDetail, in the catalogue's order
    timings : dict, seconds of each step
    counts : dict, blobs, peaks, candidates, rejected, extended, blends, sources, rounds
    noise_map : (ny, nx) float32 or None
        The noise over the image relative to its median: that of a voxel is noise[chan] * noise_map[y, x]. None where
        it is flat.
    components : list of Component
        All that was fitted, also what is a part of one source in the catalogue, or too unlikely for it; fluxes [Jy] as
        observed.
    """

    catalogue: Table
    probability: NDArray
    mask: NDArray
    integrated: NDArray
    noise: NDArray
    details: list[SourceDetail]
    timings: dict[str, float]
    counts: dict[str, int]
    noise_map: NDArray | None = None
    components: list[Component] = field(default_factory=list)


def silent(message: str, priority: str = "INFO") -> None:
    """Default log."""


class Clock:
    """Seconds spent in each step, over all rounds; `told` hears of each step when it begins."""

    def __init__(self, told: Callable[[str], None] = lambda name: None) -> None:
        self.seconds: dict[str, float] = {}
        self._told = told

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        start = time.perf_counter()
        self._told(name)
        try:
            yield
        finally:
            self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - start


@dataclass
class Search:
    """State of a run: the data that are fitted, and what has been found in them.

    `floor` is what the integrated residual has over what the channels' noise gives, at least 1, by its rms and its
    negative peaks: errors of the calibration leave more of a bright continuum all over the image, and continua are to
    stand out of that.
    `unit` is that of the data [Jy/beam], `peaks` (nchan,) [unit] of the data with its sources, for
    `core.noise.channel_noise`, and `assumed` [unit] the noise that was assumed for want of any, 0 where there is some.
    `noise_map` is what the data, fluxes and noise are divided by (`pipeline.flatness`), None where the noise is flat.
    `refused` are candidates that did not stand beside the model as it is: they are not tried again until it changes.
    `whole` are components that were tried as two, `needed` those that were tried without: neither is tried again.
    """

    cube: Cube
    networks: Networks
    options: Options
    sigma: NDArray
    fit: JointFit
    imager: Imager
    probability: NDArray
    unit: float = 1.0
    peaks: NDArray | None = None
    assumed: float = 0.0
    noise_map: NoiseMap | None = None
    components: list[Component] = field(default_factory=list)
    refused: list[Component] = field(default_factory=list)
    floor: float = 1.0
    whole: list[Component] = field(default_factory=list)
    needed: list[Component] = field(default_factory=list)
    counts: dict[str, int] = field(default_factory=dict)

    @property
    def modulation(self) -> Modulation | None:
        """What a source's dirty image in the data is, besides the PSF's."""
        return self.noise_map

    @property
    def sidelobes(self) -> NDArray[np.float32] | None:
        """(ny, nx) what the data are to be multiplied by for sidelobes to be the PSF's own; None where they are."""
        return None if self.noise_map is None or self.noise_map.divided else self.noise_map.image

    def noise_at(self, x: float, y: float) -> float:
        """What fluxes at a place [pixel] are divided by, in the data and in components."""
        return 1.0 if self.noise_map is None else self.noise_map.at(x, y)

    @property
    def lines(self) -> bool:
        return self.options.mode != "continuum" and self.cube.nchan >= MIN_LINE_CHANNELS

    @property
    def beam(self) -> float:
        return self.cube.beam_pixels()

    def threshold(self, name: str) -> float:
        """A level of the networks' outputs: the caller's, else the one measured when they were trained."""
        return float({**self.networks.info["thresholds"], **self.options.thresholds}[name])

    def graph(self) -> GraphThresholds:
        """The decision graph's numbers, in pixels of this image."""
        return replace(
            self.options.graph,
            same_position=self.options.same_position * self.beam,
            radius=0.5 * self.beam,
            margin=max(1, round(self.beam / 3)),
        )

    @cached_property
    def inside(self) -> NDArray[np.bool_]:
        """(ny, nx) where sources are looked for: there are data, and the primary beam is known."""
        return np.isfinite(self.cube.data).any(axis=0) & (np.nan_to_num(self.cube.pb).max(axis=0) > 0)

    @cached_property
    def well_inside(self) -> NDArray[np.bool_]:
        """(ny, nx) where a source may be: a quarter of a beam from where there are no data, or farther.

        On the edge itself a fit sees half of a source, or of a peak of the noise, and makes of it what it likes.
        """
        return ndimage.distance_transform_edt(np.pad(self.inside, 1))[1:-1, 1:-1] > 0.25 * self.beam

    def slope_scale(self) -> float:
        """Slope over continuum [per channel] of a spectral index of MAX_INDEX."""
        freq = float(np.median(self.cube.freq))
        return MAX_INDEX * abs(self.cube.chan_width) / freq if freq > 0 and self.cube.chan_width else np.inf

    def level(self, kind: str) -> float:
        """SNR on a detection map above which candidates are looked at: at least 0.85 minsnr."""
        number = max(self.options.candidates, self.options.false_alarms)
        return max(0.85 * self.options.minsnr, self.noise_peaks(kind).level(number))

    def limit(self, kind: str) -> float:
        """Fitted SNR that a source must have, found in the integrated image or in the search for lines ('line')."""
        least = max(self.options.minsnr, self.noise_peaks(kind).fitted().level(self.allowed))
        return least * self.floor if kind == "integrated" else least

    @property
    def allowed(self) -> float:
        """False alarms that each of the two searches, for lines and in the integrated image, may make."""
        searches = int(self.options.mode != "line") + int(self.lines)
        return self.options.false_alarms / max(searches, 1)

    def stands(self, component: Component, times: float = 1.0) -> bool:
        """Whether the line or the continuum of a component has `times` the SNR that a source needs by itself."""
        line = component.has_line and component.snr_line >= times * self.limit("line")
        continuum = component.has_cont and component.snr_cont >= times * self.limit("integrated")
        return bool(line or continuum)

    def is_sure_of_both(self, component: Component) -> bool:
        """Whether a line and a continuum that are too faint each are too much for noise at one place."""
        line, continuum = component.snr_line, component.snr_cont / self.floor
        if min(line, continuum) < LEAST_PART or max(line, continuum) < self.options.minsnr:
            return False
        # One of the two was looked for everywhere, the other at its place only.
        by_line = self.noise_peaks("line").fitted().expected(line) * stats.norm.sf(continuum)
        spectrum = NoisePeaks.of_spectrum(self.cube.nchan).fitted().expected(line)
        by_continuum = self.noise_peaks("integrated").fitted().expected(continuum) * spectrum
        return bool(by_line + by_continuum <= self.allowed)

    def measure_floor(self) -> None:
        """Set `floor`: the rms of the integrated residual, less twice the error that the number of its beams leaves.

        What wrong gains leave has a longer tail than noise, on both sides: its negative peaks tell how long.
        """
        self.floor = 1.0
        if self.options.mode == "line":
            return
        peaks = self.noise_peaks("integrated")
        image = weighted_mean(self.fit.residual, inverse_variance(self.sigma))
        image[~self.inside] = np.nan
        rms = float(np.nan_to_num(robust_rms(image)))
        self.floor = max(1.0, rms * (1.0 - float(np.sqrt(2.0 / peaks.number))))
        if self.floor > RAISED:
            # A source that is not quite a Gaussian leaves negative peaks as well, beside itself.
            deepest = -float(np.nanmin(image, initial=0.0, where=self.apart(TAIL_APART)))
            self.floor = max(self.floor, deepest / peaks.level(0.5))

    def apart(self, beams: float) -> NDArray[np.bool_]:
        """(ny, nx) where no component is nearer than this [beam]."""
        row, column = np.indices(self.cube.shape)
        out = np.ones(self.cube.shape, dtype=bool)
        for component in self.components:
            out &= np.hypot(column - component.x, row - component.y) >= beams * self.beam
        return out

    def noise_peaks(self, kind: str) -> NoisePeaks:
        """Peaks that noise makes on the integrated image, or in the search for lines ('line')."""
        usable = int(self.inside.sum())
        if kind == "line":
            return NoisePeaks.of_cube(usable, self.beam, self.cube.nchan)
        return NoisePeaks.of_image(usable, self.beam)

    def count(self, name: str, number: int) -> None:
        self.counts[name] = self.counts.get(name, 0) + number


@dataclass
class BlobSpectrum:
    """A blob with what Deep GRU says of its spectrum."""

    blob: Blob
    detection: DetectionMap
    clean: NDArray
    peaks: list[Peak]


@dataclass
class Focused:
    """A candidate with its focused image on the networks' working pixels."""

    component: Component
    candidate: Candidate | None
    stamp: NDArray
    psf: NDArray
    sigma: float
