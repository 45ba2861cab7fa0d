"""The six steps of the paper (its Fig. 9), in order, the networks injected as callables.

    i    detection maps -> Blobs Finder -> blobs            core.detection
    ii   spectra of the blobs -> Deep GRU -> lines          core.spectra
    iii  spectral focusing, the decision graph              core.focusing, core.deblending
    iv   focused images -> ResNets -> shapes                core.preprocessing
    v    3D model of every source, dilated                  core.model3d
    vi   line-emission image -> flux ResNet -> flux         core.flux

What the paper leaves at that, we take as the starting point of the joint likelihood fit
(core.fit), which subtracts the sources exactly, sidelobes and all; then we look again, until
nothing new is found.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import numpy as np
from astropy.table import Table
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from casa_deepfocus.core import catalogue as cat
from casa_deepfocus.core.boxes import Box
from casa_deepfocus.core.continuum import Continuum, fit_continuum, line_free_channels, subtract_continuum
from casa_deepfocus.core.cube import Cube
from casa_deepfocus.core.deblending import Candidate, GraphThresholds, decide
from casa_deepfocus.core.detection import (
    Blob,
    DetectionMap,
    LineSearch,
    find_blobs,
    integrated_map,
    line_maps,
    probability_map,
)
from casa_deepfocus.core.fit import Component, JointFit
from casa_deepfocus.core.flux import continuum_image, line_emission_image, line_flux, off_line_weights
from casa_deepfocus.core.focusing import focus
from casa_deepfocus.core.geometry import GAUSSIAN_LINE, covariance_to_shape, shape_to_covariance
from casa_deepfocus.core.model3d import observed_covariance, source_mask
from casa_deepfocus.core.noise import channel_noise, inverse_variance, robust_rms
from casa_deepfocus.core.preprocessing import PIXELS_PER_BEAM, STAMP, deep_gru_input, resnet_input, stamp_peak
from casa_deepfocus.core.psf import Imager
from casa_deepfocus.core.reliability import independent_trials, noise_level, reliability, tail_scale
from casa_deepfocus.core.spectra import (
    Peak,
    extract_spectrum,
    find_peaks,
    fit_continuum_under_line,
    relative_continuum,
    standardise_spectrum,
)
from casa_deepfocus.core.tiling import resample, resample_stamp
from casa_deepfocus.errors import DataError, ParameterError

MODES = ("line", "continuum", "both")
MIN_LINE_CHANNELS = 4
"""With fewer channels there is no spectrum to look for lines in."""


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
        cube has more of them, so its maps are searched above a higher level than minsnr
    probability : float or None, level of Blobs Finder's map that makes a blob; None: the network's own
    peak_height : float or None, level of Deep GRU's output that makes a peak; None: the network's own
    rounds : int, how often the residual is searched again at most
    sidelobe_margin : float, a blob must exceed what brighter blobs' sidelobes explain by this factor
    dynamic_range : float, next to a fitted source a new one needs this fraction of its peak
    known_line_snr : float [sigma], lowest SNR of a line whose source the continuum has shown
    same_position : float [beam], closer sources are one
    graph : GraphThresholds
    """

    mode: str = "both"
    minsnr: float = 5.0
    false_alarms: float = 0.02
    probability: float | None = None
    peak_height: float | None = None
    rounds: int = 8
    sidelobe_margin: float = 1.5
    dynamic_range: float = 0.1
    known_line_snr: float = 4.0
    same_position: float = 0.35
    graph: GraphThresholds = field(default_factory=GraphThresholds)

    def __post_init__(self) -> None:
        if self.mode not in MODES:
            raise ParameterError("mode", self.mode, "not a mode", f"Use one of {', '.join(MODES)}")
        if not self.minsnr > 0:
            raise ParameterError("minsnr", self.minsnr, "must be positive", "5 is the default")


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
    noise : (nchan,) float64 [Jy/beam]
    details : list of SourceDetail, in the catalogue's order
    timings : dict, seconds of each step
    counts : dict, blobs, peaks, candidates, rejected, sources, rounds
    """

    catalogue: Table
    probability: NDArray
    mask: NDArray
    integrated: NDArray
    noise: NDArray
    details: list[SourceDetail]
    timings: dict[str, float]
    counts: dict[str, int]


Log = Callable[[str], None]


def _silent(message: str) -> None:
    """Default log."""


class _Clock:
    """Seconds spent in each step, over all rounds."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - start


@dataclass
class _Search:
    """State of a run: the data that are fitted, and what has been found in them."""

    cube: Cube
    networks: Networks
    options: Options
    sigma: NDArray
    fit: JointFit
    imager: Imager
    probability: NDArray
    components: list[Component] = field(default_factory=list)
    refused: list[Component] = field(default_factory=list)
    counts: dict[str, int] = field(default_factory=dict)

    @property
    def lines(self) -> bool:
        return self.options.mode != "continuum" and self.cube.nchan >= MIN_LINE_CHANNELS

    @property
    def beam(self) -> float:
        return self.cube.beam_pixels()

    def level(self, kind: str) -> float:
        """SNR on a detection map above which noise is not expected: at least 0.85 minsnr."""
        usable = int(np.isfinite(self.cube.data).any(axis=0).sum())
        trials = independent_trials(usable, self.beam, self.cube.nchan if kind == "line" else 1)
        return max(0.85 * self.options.minsnr, noise_level(trials, self.options.false_alarms))

    def count(self, name: str, number: int) -> None:
        self.counts[name] = self.counts.get(name, 0) + number


@dataclass
class _Spectrum:
    """A blob with what Deep GRU says of its spectrum."""

    blob: Blob
    detection: DetectionMap
    clean: NDArray
    peaks: list[Peak]


@dataclass
class _Focus:
    """A candidate with its focused image on the networks' working pixels."""

    component: Component
    candidate: Candidate | None
    stamp: NDArray
    psf: NDArray
    sigma: float


def run(
    cube: Cube,
    networks: Networks,
    options: Options | None = None,
    *,
    log: Log = _silent,
    progress: Callable[[str, int], None] | None = None,
) -> Result:
    """Find and characterise the sources of a dirty cube.

    Parameters
    ----------
    cube : Cube, not corrected for the primary beam
    networks : Networks
    options : Options, optional
    log : callable on str, for one line a step
    progress : callable on (round's name, number of sources so far), optional

    Returns
    -------
    Result

    Raises
    ------
    DataError
        The cube holds no data, or mode 'line' is asked of an image without a spectrum.
    """
    options = options or Options()
    # Small matrices: threads of the linear algebra only wait for each other, and change the last bits.
    with threadpool_limits(limits=1, user_api="blas"):
        return _run(cube, networks, options, log, progress)


def _run(
    cube: Cube, networks: Networks, options: Options, log: Log, progress: Callable[[str, int], None] | None
) -> Result:
    clock = _Clock()
    if options.mode == "line" and cube.nchan < MIN_LINE_CHANNELS:
        raise DataError(f"mode='line' needs at least {MIN_LINE_CHANNELS} channels; the image has {cube.nchan}")
    with clock.step("noise"):
        sigma = channel_noise(cube.data)
        first = integrated_map(cube.data, sigma)
        search = _prepare(cube, networks, options, sigma)
    log(f"noise: {np.nanmedian(sigma):.4g} Jy/beam a channel (median of {np.isfinite(sigma).sum()} channels)")
    for number in range(1, options.rounds + 1):
        with clock.step("detection"):
            line, maps, blobs = detect(search)
        with clock.step("spectra"):
            spectra = denoise(search, line, maps, blobs)
        with clock.step("focusing"):
            candidates = focus_and_decide(search, line, spectra)
            found = [start_component(search, line, candidate) for candidate in candidates]
            found = distinct([item for item in found if is_new(search, item.component)], 0.5 * search.beam)
        with clock.step("morphology"):
            measure_shapes(search, found)
        with clock.step("flux"):
            measure_fluxes(search, line, found)
        if not found:
            break
        with clock.step("fit"):
            added = refine(search, [item.component for item in found])
            added += refine_lines(search, lines_of_known_sources(search))
        log(f"round {number}: {len(blobs)} blobs, {len(found)} candidates, {len(search.components)} sources so far")
        if progress is not None:
            progress(f"round {number}", len(search.components))
        if not added:
            break
        search.count("rounds", 1)
    with clock.step("catalogue"):
        result = _report(search, cube, sigma, first, clock)
    log(f"{len(result.catalogue)} sources")
    return result


def _prepare(cube: Cube, networks: Networks, options: Options, sigma: NDArray) -> _Search:
    """What is searched and fitted in each mode: the cube, its lines, or its continuum image."""
    data = np.nan_to_num(cube.data)
    blank = ~np.isfinite(cube.data)
    work = cube
    if options.mode == "continuum" and cube.nchan > 1:
        work = collapse(cube, sigma)
        data, blank, sigma = np.nan_to_num(work.data), ~np.isfinite(work.data), channel_noise(work.data)
    elif options.mode == "line":
        continuum = fit_continuum(data, sigma, line_free_channels(data, sigma))
        if continuum.significant:
            data = subtract_continuum(data, continuum)
            sigma = channel_noise(np.where(blank, np.nan, data))
    if blank.any():
        data[blank] = np.nan
    imager = Imager(work.psf, work.shape)
    fit = JointFit(data, sigma, imager, work.beam_covariance())
    return _Search(work, networks, options, sigma, fit, imager, np.zeros(cube.shape, dtype=np.float32))


def collapse(cube: Cube, sigma: NDArray) -> Cube:
    """The continuum image of a cube: line-free channels averaged by their weights, PSF and PB likewise.

    Parameters
    ----------
    cube : Cube
    sigma : (nchan,) [Jy/beam]

    Returns
    -------
    Cube of one channel
    """
    free = line_free_channels(cube.data, sigma)
    weights = np.where(free, inverse_variance(sigma), 0.0)
    weights = (weights / weights.sum()).astype(np.float32)
    blank = ~np.isfinite(cube.data).any(axis=0)
    data = np.tensordot(weights, np.nan_to_num(cube.data), axes=1)
    data[blank] = np.nan
    mean = {
        name: np.tensordot(weights, array, axes=1)[None] if array.shape[0] > 1 else array
        for name, array in (("psf", cube.psf), ("pb", cube.pb))
    }
    freq = np.array([float((weights * cube.freq).sum())])
    return replace(
        cube, data=data[None], psf=mean["psf"], pb=mean["pb"], freq=freq, beams=np.median(cube.beams, axis=0)[None]
    )


# Step i -----------------------------------------------------------------------------------------


def detect(search: _Search) -> tuple[NDArray, list[DetectionMap], list[Blob]]:
    """Detection maps of the residual, Blobs Finder, blobs; sidelobes of brighter blobs are put off.

    Returns
    -------
    line : (nchan, ny, nx) float32 [Jy/beam], the residual without its continuum
    maps : list of DetectionMap
    blobs : list of Blob, brightest first
    """
    residual, options = search.fit.residual, search.options
    maps: list[DetectionMap] = []
    line = residual
    levels = {kind: search.level(kind) for kind in ("integrated", "line")}
    if options.mode != "line":
        maps.append(integrated_map(residual, search.sigma))
    if search.lines:
        line, _ = line_cube(residual, search.sigma)
        lines = LineSearch(line, search.sigma)
        maps += line_maps(lines, threshold=levels["line"], beam_pixels=search.beam)
    threshold = options.probability or float(search.networks.info.get("thresholds", {}).get("blobs_finder", 0.3))
    model = _model_maps(search, maps)
    blobs: list[Blob] = []
    for index, detection in enumerate(maps):
        probability = probability_map(detection, search.networks.blobs_finder, search.beam)
        np.maximum(search.probability, _to_image(probability, search), out=search.probability)
        found = find_blobs(probability, detection, map_index=index, beam_pixels=search.beam, threshold=threshold)
        found = [b for b in found if b.snr >= levels[detection.kind]]
        found = without_sidelobes(found, detection, search.imager, search.beam, options.sidelobe_margin)
        if model is not None:
            found = [b for b in found if b.snr >= options.dynamic_range * _near(model[index], b, search.beam)]
        blobs += found
    search.count("blobs", len(blobs))
    return line, maps, merge_blobs(blobs, maps, 0.5 * search.beam)


def line_cube(residual: NDArray, sigma: NDArray) -> tuple[NDArray, Continuum]:
    """The residual minus its continuum, where it has any that is significant."""
    continuum = fit_continuum(residual, sigma, line_free_channels(residual, sigma))
    return (subtract_continuum(residual, continuum) if continuum.significant else residual), continuum


def _model_maps(search: _Search, maps: Sequence[DetectionMap]) -> list[NDArray] | None:
    """The dirty image of the sources found so far, in the sigma of each map."""
    if not search.components:
        return None
    weights = inverse_variance(search.sigma)
    out = []
    for detection in maps:
        part = slice(detection.chan0, detection.chan1 + 1)
        window = weights[part]
        model = np.nan_to_num(search.fit.data[part]) - np.nan_to_num(search.fit.residual[part])
        out.append(np.abs(np.tensordot(window / np.sqrt(window.sum()), model, axes=1)))
    return out


def _near(image: NDArray, blob: Blob, beam: float) -> float:
    reach = max(1, round(0.5 * beam))
    x, y = round(blob.x), round(blob.y)
    return float(image[max(0, y - reach) : y + reach + 1, max(0, x - reach) : x + reach + 1].max())


def _to_image(probability: NDArray, search: _Search) -> NDArray:
    """The probability map on the image's pixels."""
    ny, nx = search.cube.shape
    return np.clip(resample(probability, search.beam / PIXELS_PER_BEAM)[:ny, :nx], 0.0, 1.0)


def without_sidelobes(
    blobs: Sequence[Blob], detection: DetectionMap, imager: Imager, beam: float, margin: float
) -> list[Blob]:
    """Blobs that stand above the sidelobes of the brighter ones on the same map.

    What is dropped here and is real comes back when the brighter sources are subtracted.

    Parameters
    ----------
    blobs : sequence of Blob, brightest first
    detection : DetectionMap they were found on
    imager : Imager
    beam : float [pixel]
    margin : float, factor by which a blob must exceed the sidelobes
    """
    chan = (detection.chan0 + detection.chan1) // 2
    kept: list[Blob] = []
    for blob in blobs:
        explained = 0.0
        for other in kept:
            dx, dy = blob.x - other.x, blob.y - other.y
            if np.hypot(dx, dy) > beam:
                nearby = [imager.response(chan, dy + sy, dx + sx) for sy in (-1, 0, 1) for sx in (-1, 0, 1)]
                explained += other.snr * max(abs(value) for value in nearby)
        if blob.snr > margin * explained:
            kept.append(blob)
    return kept


def merge_blobs(blobs: Sequence[Blob], maps: Sequence[DetectionMap], distance: float) -> list[Blob]:
    """One blob where several line maps with overlapping channels show the same source; brightest first.

    The integrated image's blobs are merged only among themselves: their spectra may hold several lines.
    """
    kept: list[Blob] = []
    for blob in sorted(blobs, key=lambda item: -item.snr):
        mine = maps[blob.map_index]
        repeated = False
        for other in kept:
            theirs = maps[other.map_index]
            overlap = mine.chan0 <= theirs.chan1 and theirs.chan0 <= mine.chan1
            same = np.hypot(blob.x - other.x, blob.y - other.y) < distance
            repeated |= same and overlap and mine.kind == theirs.kind
        if not repeated:
            kept.append(blob)
    return kept


# Step ii ----------------------------------------------------------------------------------------


def denoise(search: _Search, line: NDArray, maps: Sequence[DetectionMap], blobs: Sequence[Blob]) -> list[_Spectrum]:
    """Spectra of the blobs, denoised by Deep GRU, and the lines in them."""
    nchan = search.cube.nchan
    if not search.lines or not blobs:
        return [_Spectrum(blob, maps[blob.map_index], np.zeros(nchan, np.float32), []) for blob in blobs]
    height = search.options.peak_height or float(search.networks.info.get("thresholds", {}).get("deep_gru", 0.1))
    raw = [standardise_spectrum(extract_spectrum(line, blob.box, blob.weights))[0] for blob in blobs]
    cleaned = search.networks.deep_gru(deep_gru_input(np.asarray(raw, dtype=np.float32)))
    out = []
    for blob, clean in zip(blobs, cleaned, strict=True):
        detection = maps[blob.map_index]
        peaks = find_peaks(clean, height)
        if detection.kind == "line":
            peaks = peaks_of_window(peaks, detection, nchan)
        out.append(_Spectrum(blob, detection, clean, peaks))
        search.count("peaks", len(peaks))
    return out


def peaks_of_window(peaks: Sequence[Peak], detection: DetectionMap, nchan: int) -> list[Peak]:
    """The one peak that a line map was made for: Deep GRU's where it sees it, else the window itself."""
    centre, width = 0.5 * (detection.chan0 + detection.chan1), detection.chan1 - detection.chan0 + 1
    inside = [p for p in peaks if abs(p.chan - centre) <= 0.5 * width + 0.5 and 0.33 * width <= p.fwhm <= 3.0 * width]
    if inside:
        return [max(inside, key=lambda p: p.height)]
    return [Peak.from_gaussian(centre, max(float(width), 1.0), 0.0, nchan)]


# Step iii ---------------------------------------------------------------------------------------


def focus_and_decide(
    search: _Search, line: NDArray, spectra: Sequence[_Spectrum]
) -> list[tuple[Candidate | None, _Spectrum]]:
    """The decision graph for every blob; blobs without a line remain as continuum candidates (None)."""
    out: list[tuple[Candidate | None, _Spectrum]] = []
    graph = replace(search.options.graph, same_position=search.options.same_position * search.beam)
    for index, item in enumerate(spectra):
        lines: list[Candidate] = []
        if item.peaks:
            pixel = (round(item.blob.x), round(item.blob.y))
            known = item.blob.snr if item.detection.kind == "integrated" else None
            lines, rejected = decide(
                line, search.sigma, item.blob.box, pixel, item.peaks, integrated_snr=known, group=index, thresholds=graph
            )
            search.count("rejected", len(rejected))
        if item.detection.kind == "line" and lines:
            # A line map is focused already: its blob is where Blobs Finder put it.
            lines = [replace(lines[0], x=item.blob.x, y=item.blob.y)]
        lines = [c for c in lines if c.pixel_snr >= 0.8 * search.options.minsnr]
        out += [(candidate, item) for candidate in lines]
        if item.detection.kind == "integrated":
            out.append((None, item))
    search.count("candidates", len(out))
    # Lines first, brightest first: they may carry the continuum of the same source with them.
    return sorted(out, key=lambda pair: (pair[0] is None, -(pair[0].pixel_snr if pair[0] else pair[1].blob.snr)))


def start_component(search: _Search, line: NDArray, pair: tuple[Candidate | None, _Spectrum]) -> _Focus:
    """A candidate as a component to be fitted, with its focused image and PSF on working pixels."""
    candidate, item = pair
    nchan, beam = search.cube.nchan, search.beam
    scale = PIXELS_PER_BEAM / beam
    continuum = search.options.mode != "line"
    if candidate is not None:
        chan0, chan1 = _core_channels(candidate, nchan)
        image, noise = focus(line, chan0, chan1, search.sigma)
        x, y, middle = candidate.x, candidate.y, int(np.clip(round(candidate.chan), 0, nchan - 1))
        image, noise = image / (chan1 - chan0 + 1), noise / (chan1 - chan0 + 1)
    else:
        image, noise = _mean_image(search)
        x, y, middle = item.blob.x, item.blob.y, nchan // 2
    component = Component(
        x, y, 0.25 * search.cube.beam_covariance(), has_line=candidate is not None, has_cont=continuum,
        has_slope=continuum and nchan >= 16, clean=item.clean, probability=item.blob.probability,
    )  # fmt: skip
    if candidate is not None:
        component.chan, component.fwhm = candidate.chan, max(candidate.fwhm, 1.0)
    stamp = resample_stamp(image, x, y, scale, STAMP)
    psf = search.imager.plane(middle)
    psf_stamp = resample_stamp(psf, psf.shape[1] // 2, psf.shape[0] // 2, scale, STAMP)
    return _Focus(component, candidate, stamp, psf_stamp, noise)


def _core_channels(candidate: Candidate, nchan: int) -> tuple[int, int]:
    """The channels within the line's FWHM: where its signal to noise is."""
    low = int(np.clip(np.ceil(candidate.chan - 0.5 * candidate.fwhm), 0, nchan - 1))
    return low, int(np.clip(np.floor(candidate.chan + 0.5 * candidate.fwhm), low, nchan - 1))


def _mean_image(search: _Search) -> tuple[NDArray, float]:
    """Noise-weighted mean of the residual over channels [Jy/beam], and its rms."""
    weights = inverse_variance(search.sigma)
    image = np.tensordot((weights / weights.sum()).astype(np.float32), np.nan_to_num(search.fit.residual), axes=1)
    return image, max(robust_rms(image), float(1.0 / np.sqrt(weights.sum())))


def is_new(search: _Search, component: Component) -> bool:
    """Whether a candidate has not been tried before and refused."""
    return not any(_same_source(component, other, 0.5 * search.beam) for other in search.refused)


def distinct(found: Sequence[_Focus], distance: float) -> list[_Focus]:
    """One candidate where several maps or spectra show the same line of the same source: the first."""
    kept: list[_Focus] = []
    for item in found:
        if not any(_same_source(item.component, other.component, distance) for other in kept):
            kept.append(item)
    return kept


def _same_source(one: Component, other: Component, distance: float) -> bool:
    if np.hypot(one.x - other.x, one.y - other.y) > distance or one.has_line != other.has_line:
        return False
    return not one.has_line or abs(one.chan - other.chan) < 0.75 * max(one.fwhm, other.fwhm)


def lines_of_known_sources(search: _Search) -> list[tuple[Component, Peak]]:
    """Lines in the spectra of fitted sources that have none: where to look is known, so fainter ones count.

    Deep GRU looks at the spectrum of the fitted shape, all other sources subtracted; a window sum
    of the same spectrum must agree that the line is above what noise does in one spectrum.
    """
    bare = [c for c in search.components if not c.has_line and c.snr_cont >= search.options.minsnr]
    if not bare or not search.lines:
        return []
    nchan = search.cube.nchan
    level = max(search.options.known_line_snr, noise_level(independent_trials(1, 1.0, nchan) / 6.0, search.options.false_alarms))
    height = search.options.peak_height or float(search.networks.info.get("thresholds", {}).get("deep_gru", 0.1))
    spectra = [search.fit.source_spectrum(c) - c.spectrum(nchan) for c in bare]
    standard = np.array([standardise_spectrum(spectrum)[0] for spectrum in spectra], dtype=np.float32)
    cleaned = search.networks.deep_gru(deep_gru_input(standard))
    found = []
    for component, spectrum, clean in zip(bare, standard, cleaned, strict=True):
        component.clean = clean
        sums = LineSearch(spectrum[:, None, None], np.where(np.isfinite(search.sigma), 1.0, np.nan))
        best, index, windows = sums.maximum()
        if best[0, 0] < level:
            continue
        chan0, chan1 = windows[index[0, 0]]
        centre, width = 0.5 * (chan0 + chan1), float(chan1 - chan0 + 1)
        seen = [p for p in find_peaks(clean, height) if abs(p.chan - centre) <= 0.5 * width + 1.0]
        found.append((component, max(seen, key=lambda p: p.height) if seen else Peak.from_gaussian(centre, width, 0.0, nchan)))
    return found


# Steps iv to vi ---------------------------------------------------------------------------------


def measure_shapes(search: _Search, found: Sequence[_Focus]) -> None:
    """FWHM and position angle of every candidate from the ResNets, into the components."""
    if not found:
        return
    inputs = _resnet_inputs([item.stamp for item in found], found)
    networks = search.networks
    major, minor = (np.maximum(net(inputs)[:, 0], 0.0) * search.beam for net in (networks.fwhm_maj, networks.fwhm_min))
    turned = networks.pa(inputs)
    angle = np.rad2deg(0.5 * np.arctan2(turned[:, 0], turned[:, 1]))
    for item, a, b, pa in zip(found, major, minor, angle, strict=True):
        covariance = shape_to_covariance(max(a, b), min(a, b), pa)
        item.component.covariance = covariance
        item.component.prior_covariance = covariance.copy()


def _resnet_inputs(stamps: Sequence[NDArray], found: Sequence[_Focus]) -> NDArray:
    sigma = np.array([item.sigma for item in found], dtype=np.float32)
    return resnet_input(np.stack(stamps), np.stack([item.psf for item in found]), sigma)


def measure_fluxes(search: _Search, line: NDArray, found: Sequence[_Focus]) -> None:
    """Flux of every candidate: 3D model, dilated mask, line-emission image (eq. 19), flux ResNet."""
    if not found:
        return
    scale = PIXELS_PER_BEAM / search.beam
    stamps = []
    for item in found:
        stamp = item.stamp
        if item.candidate is not None:
            image, x, y = _line_image(search, item.component)
            stamp = resample_stamp(image, x, y, scale, STAMP)
        stamps.append(stamp)
    # The mask cuts off what the flux network was not shown: outside it, the focused image stands.
    widths = np.array([item.component.fwhm if item.candidate is not None else 1.0 for item in found])
    filled = [
        np.where(stamp != 0, stamp / width, item.stamp)
        for stamp, item, width in zip(stamps, found, widths, strict=True)
    ]
    peaks = stamp_peak(np.stack(filled))
    fluxes = line_flux(search.networks.flux(_resnet_inputs(filled, found))[:, 0], peaks)
    for item, flux, peak in zip(found, fluxes, peaks, strict=True):
        flux = float(flux) if np.isfinite(flux) else float(peak)
        component = item.component
        if item.candidate is not None:
            component.amp = flux / GAUSSIAN_LINE
            component.cont = 0.0
        else:
            component.cont = flux


def _line_image(search: _Search, component: Component) -> tuple[NDArray, float, float]:
    """The line-emission image of eq. 19 on a crop around a source, and the source's place in it."""
    cube, residual = search.cube, search.fit.residual
    observed = observed_covariance(component.covariance, cube.beam_covariance())
    slices, mask = source_mask(
        residual.shape, component.x, component.y, observed, component.chan, component.fwhm
    )  # fmt: skip
    part = residual[:, slices[1], slices[2]]
    span = (slices[0].start, slices[0].stop - 1)
    whole = np.zeros(part.shape, dtype=bool)
    whole[slices[0]] = mask
    box = Box(0, 0, part.shape[2] - 1, part.shape[1] - 1)
    peak = Peak(component.chan, component.fwhm, 1.0, *span)
    model = fit_continuum_under_line(extract_spectrum(part, box), [peak])
    weights = off_line_weights(cube.nchan, [span], search.sigma)
    relative = relative_continuum(model, cube.nchan, weights)
    continuum = continuum_image(part, [span], search.sigma)
    image = line_emission_image(part, whole, np.nan_to_num(continuum), relative)
    return image, component.x - slices[2].start, component.y - slices[1].start


# The joint fit ----------------------------------------------------------------------------------


def refine(search: _Search, new: Sequence[Component]) -> int:
    """Fit the new components together with the old; drop what is not significant. Number of changes that stay."""
    before = {(id(c), c.has_line, c.has_cont) for c in search.components}
    for component in new:
        _add(search, component)
    for _ in range(5):
        search.fit.fit(search.components)
        renew_noise(search)
        if not (prune(search) | make_physical(search) | join_parts(search)):
            break
    return len({(id(c), c.has_line, c.has_cont) for c in search.components} - before)


def refine_lines(search: _Search, lines: Sequence[tuple[Component, Peak]]) -> int:
    """Give lines to fitted sources and fit again. Number that stay."""
    if not lines:
        return 0
    nchan = search.cube.nchan
    for component, peak in lines:
        spectrum = search.fit.source_spectrum(component) - component.spectrum(nchan)
        component.has_line, component.known = True, True
        component.chan, component.fwhm = peak.chan, max(peak.fwhm, 1.0)
        component.amp = float(np.max(spectrum[peak.chan0 : peak.chan1 + 1]))
    refine(search, [])
    return sum(component.has_line for component, _ in lines)


def _add(search: _Search, component: Component) -> None:
    """Add a component, or give its line to the continuum source that stands there already."""
    beam, options = search.beam, search.options
    for other in search.components:
        if np.hypot(component.x - other.x, component.y - other.y) > options.same_position * beam:
            continue
        if component.has_line and not other.has_line:
            other.has_line, other.amp, other.chan, other.fwhm = True, component.amp, component.chan, component.fwhm
            other.clean = component.clean
            return
        if not component.has_line:
            if not other.has_cont and options.mode != "line":
                other.has_cont, other.cont = True, component.cont
                other.has_slope = search.cube.nchan >= 16
                return
            if other.snr_cont <= 0 or other not in search.components:
                return
            component.flags.add("component")
            continue
        if _same_source(component, other, np.inf):
            component.flags.add("component")
        component.has_cont = component.has_slope = False
    search.components.append(component)


def renew_noise(search: _Search) -> None:
    """Measure the noise on the residual: bright sources' sidelobes no longer count as noise."""
    fresh = channel_noise(search.fit.residual)
    scale = np.nanmedian(fresh / search.sigma)
    if abs(scale - 1.0) > 0.01:
        search.sigma = fresh
        search.fit.set_noise(fresh)
        search.fit.measure(search.components)


def make_physical(search: _Search) -> bool:
    """Take back what only fits by being unphysical. True if anything was.

    A line wider than half the band is continuum; a significantly negative continuum under a line
    is a line too wide, or a neighbour's sidelobe.
    """
    changed = False
    for component in search.components:
        if component.has_line and component.has_cont and component.snr_cont < -2.5:
            component.has_cont = component.has_slope = False
            component.cont = component.slope = 0.0
            changed = True
        if component.has_line and component.has_cont and component.fwhm > 0.5 * search.cube.nchan:
            component.has_line, component.amp = False, 0.0
            changed = True
    return changed


def join_parts(search: _Search) -> bool:
    """Make one source of a line and a continuum that were found apart at one position. True if any was."""
    beam, limit = search.beam, search.options.same_position * search.beam
    changed = False
    for part in [c for c in search.components if not c.has_line]:
        for other in search.components:
            if not other.has_line:
                continue
            error = np.hypot(*(np.hypot(c.errors.get("x", 0.0), c.errors.get("y", 0.0)) for c in (part, other)))
            if np.hypot(part.x - other.x, part.y - other.y) > min(max(limit, 3.0 * error), 0.6 * beam):
                continue
            if not other.has_cont:
                other.has_cont, other.has_slope, other.cont = True, search.cube.nchan >= 16, 0.0
            other.cont += part.cont
            search.components.remove(part)
            changed = True
            break
    return changed


def prune(search: _Search) -> bool:
    """Drop lines and components below minsnr, and those that became copies of others. True if any was."""
    limit, beam = search.options.minsnr, search.beam
    changed = False
    kept: list[Component] = []
    for component in sorted(search.components, key=lambda c: -max(c.snr_line, c.snr_cont)):
        faintest = search.options.known_line_snr if component.known and component.snr_cont >= limit else limit
        if component.has_line and component.snr_line < faintest:
            changed = True
            if component.snr_cont < limit:
                search.refused.append(component)
                continue
            component.has_line, component.amp = False, 0.0
        if not component.has_line and component.snr_cont < limit:
            search.refused.append(component)
            changed = True
            continue
        if any(_same_source(component, other, 0.2 * beam) for other in kept):
            search.refused.append(component)
            changed = True
            continue
        kept.append(component)
    search.components = kept
    return changed


# The result -------------------------------------------------------------------------------------


def _report(search: _Search, cube: Cube, sigma: NDArray, first: DetectionMap, clock: _Clock) -> Result:
    components = sorted(search.components, key=lambda c: -max(c.snr_line, c.snr_cont))
    _number_groups(components, search.beam)
    for component in components:
        flag(component, search.cube, search.beam)
    table = cat.build(components, _reliabilities(search, components), cube)
    if search.cube is not cube:
        table["chan0"], table["chan1"] = 0, cube.nchan - 1
    mask = np.zeros(cube.data.shape, dtype=bool)
    details = []
    for component, row in zip(components, table, strict=True):
        details.append(_detail(search, component, cube, str(row["name"]), int(row["chan0"]), int(row["chan1"])))
        observed = observed_covariance(np.maximum(component.covariance, [0, 0, -np.inf]), cube.beam_covariance())
        slices, part = source_mask(
            mask.shape, component.x, component.y, observed,
            component.chan if component.has_line else np.nan, component.fwhm if component.has_line else np.nan,
        )  # fmt: skip
        mask[slices] |= part
        if component.has_line and component.has_cont and component.snr_cont >= search.options.minsnr:
            slices, part = source_mask(mask.shape, component.x, component.y, observed, np.nan, np.nan)
            mask[slices] |= part
    search.counts["sources"] = len(table)
    return Result(
        table, search.probability, mask, first.image, sigma, details, dict(clock.seconds), dict(search.counts)
    )


def _number_groups(components: Sequence[Component], beam: float) -> None:
    """Blend groups: chains of sources within a beam of each other."""
    for number, component in enumerate(components):
        component.group = number
    for number, component in enumerate(components):
        for other in components[:number]:
            reach = max(beam, 0.5 * float(covariance_to_shape(component.covariance)[0] + covariance_to_shape(other.covariance)[0]))
            if np.hypot(component.x - other.x, component.y - other.y) < reach and component.group != other.group:
                old, new = max(component.group, other.group), min(component.group, other.group)
                for member in components:
                    if member.group == old:
                        member.group = new
    for number, group in enumerate(sorted({c.group for c in components})):
        for component in components:
            if component.group == group:
                component.group = number


def flag(component: Component, cube: Cube, beam: float) -> None:
    """Flags of a component: unresolved, at the edge of the field or of the band, without a measured PSF."""
    ny, nx = cube.shape
    if component.fit_shape and component.matrix is not None:
        error = float(np.sqrt(max(component.matrix[2, 2] + component.matrix[3, 3], 0.0)))
        if float(component.covariance[0] + component.covariance[1]) < 2.0 * error:
            component.flags.add("unresolved")
    x, y = round(component.x), round(component.y)
    reach = round(beam)
    around = cube.data[:, max(0, y - reach) : y + reach + 1, max(0, x - reach) : x + reach + 1]
    inside = reach <= x < nx - reach and reach <= y < ny - reach
    if not inside or not np.isfinite(around).any(axis=0).all():
        component.flags.add("edge")
    if component.has_line and (
        component.chan - 0.5 * component.fwhm < 0 or component.chan + 0.5 * component.fwhm > cube.nchan - 1
    ):
        component.flags.add("band_edge")
    if not cube.psf_is_measured:
        component.flags.add("gaussian_psf")


def _reliabilities(search: _Search, components: Sequence[Component]) -> NDArray:
    """Reliability of each component: of its line or of its continuum, whichever is the surer."""
    if not components:
        return np.empty(0)
    residual = search.fit.residual
    usable = int(np.isfinite(residual).any(axis=0).sum())
    image_trials = independent_trials(usable, search.beam, 1)
    deepest = float(-np.nanmin(integrated_map(residual, search.sigma).image))
    best = reliability(np.array([c.snr_cont for c in components]), image_trials, tail_scale(deepest, image_trials))
    if search.lines:
        trials = independent_trials(usable, search.beam, search.cube.nchan)
        deepest = float(LineSearch(-line_cube(residual, search.sigma)[0], search.sigma).maximum()[0].max())
        snr = np.array([c.snr_line if c.has_line else 0.0 for c in components])
        best = np.maximum(best, reliability(snr, trials, tail_scale(deepest, trials)))
    return best


def _detail(search: _Search, component: Component, cube: Cube, name: str, chan0: int, chan1: int) -> SourceDetail:
    size = max(32, int(2 * round(4 * search.beam)))
    if component.has_line and search.cube is cube:
        image, _ = focus(search.fit.data, chan0, chan1, search.sigma, (component.x, component.y), size)
        image = image / np.float32(chan1 - chan0 + 1)
        spectrum = search.fit.source_spectrum(component)
        model = component.spectrum(cube.nchan)
    else:
        image, _ = focus(search.fit.data, 0, search.cube.nchan - 1, search.sigma, (component.x, component.y), size)
        image = image / np.float32(search.cube.nchan)
        spectrum, model = search.fit.source_spectrum(component), component.spectrum(search.cube.nchan)
    nchan = cube.nchan
    clean = component.clean if component.clean is not None and component.clean.size == nchan else np.zeros(nchan)
    if spectrum.size != nchan:
        spectrum, model = np.full(nchan, spectrum[0]), np.full(nchan, model[0])
    origin = (round(component.x) - size // 2, round(component.y) - size // 2)
    return SourceDetail(
        name, image.astype(np.float32), origin, spectrum.astype(np.float32), np.asarray(clean, dtype=np.float32),
        model.astype(np.float32), chan0, chan1,
    )  # fmt: skip
