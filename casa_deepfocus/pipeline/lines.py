"""Steps ii and iii: spectra, Deep GRU, lines; spectral focusing and the decision graph (steps 5-9)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from casa_deepfocus.core.component import Component
from casa_deepfocus.core.deblending import Candidate, decide, merge_candidates
from casa_deepfocus.core.detection import Blob, DetectionMap, strongest_window
from casa_deepfocus.core.focusing import focus
from casa_deepfocus.core.noise import inverse_variance, robust_rms, weighted_sum
from casa_deepfocus.core.preprocessing import PIXELS_PER_BEAM, STAMP, deep_gru_input
from casa_deepfocus.core.reliability import NoisePeaks
from casa_deepfocus.core.spectra import Peak, extract_spectrum, find_peaks, standardise_spectrum
from casa_deepfocus.core.tiling import resample_stamp
from casa_deepfocus.pipeline.state import BlobSpectrum, Focused, Search

DOUBTFUL = 0.1
"""Fraction of the SNR of its continuum, below which a line is compared with what else its spectrum shows."""

BRIGHTER = 1.2
"""Times the SNR of such a line that another must have to take its place."""


def denoise(search: Search, line: NDArray, maps: Sequence[DetectionMap], blobs: Sequence[Blob]) -> list[BlobSpectrum]:
    """Spectra of the blobs, denoised by Deep GRU, and the lines in them."""
    nchan = search.cube.nchan
    if not search.lines or not blobs:
        return [BlobSpectrum(blob, maps[blob.map_index], np.zeros(nchan, np.float32), []) for blob in blobs]
    height = search.threshold("peak")
    raw = [standardise_spectrum(extract_spectrum(line, blob.box, blob.weights))[0] for blob in blobs]
    cleaned = search.networks.deep_gru(deep_gru_input(np.asarray(raw, dtype=np.float32)))
    out = []
    for blob, clean in zip(blobs, cleaned, strict=True):
        detection = maps[blob.map_index]
        peaks = find_peaks(clean, height)
        if detection.kind == "line":
            peaks = peaks_of_window(peaks, detection, nchan)
        out.append(BlobSpectrum(blob, detection, clean, peaks))
        search.count("peaks", len(peaks))
    return out


def peaks_of_window(peaks: Sequence[Peak], detection: DetectionMap, nchan: int) -> list[Peak]:
    """The one peak that a line map was made for: Deep GRU's where it sees it, else the window itself."""
    centre, width = 0.5 * (detection.chan0 + detection.chan1), detection.chan1 - detection.chan0 + 1
    inside = [p for p in peaks if abs(p.chan - centre) <= 0.5 * width + 0.5 and 0.33 * width <= p.fwhm <= 3.0 * width]
    if inside:
        return [max(inside, key=lambda p: p.height)]
    return [Peak.from_gaussian(centre, max(float(width), 1.0), 0.0, nchan)]


def focus_and_decide(
    search: Search, line: NDArray, spectra: Sequence[BlobSpectrum]
) -> list[tuple[Candidate | None, BlobSpectrum]]:
    """The decision graph for every blob; blobs of the integrated image also stay as continuum candidates (None).

    Lines come first, brightest first: they may carry the continuum of the same source with them.
    """
    graph = search.graph()
    lines: list[Candidate] = []
    for index, item in enumerate(spectra):
        if not item.peaks:
            continue
        pixel = (round(item.blob.x), round(item.blob.y))
        found, rejected = decide(line, search.sigma, item.blob.box, pixel, item.peaks, group=index, thresholds=graph)
        search.count("rejected", len(rejected))
        if item.detection.kind == "line" and found:
            # A line map is focused already: its blob is where Blobs Finder put it.
            found = [replace(found[0], x=item.blob.x, y=item.blob.y)]
        lines += [c for c in found if c.pixel_snr >= 0.8 * search.options.minsnr]
    lines, repeated = merge_candidates(lines, replace(graph, same_position=0.5 * search.beam))
    search.count("rejected", len(repeated))
    out: list[tuple[Candidate | None, BlobSpectrum]] = [(candidate, spectra[candidate.group]) for candidate in lines]
    out += [(None, item) for item in spectra if item.detection.kind == "integrated"]
    search.count("candidates", len(out))
    return out


def start_component(search: Search, line: NDArray, pair: tuple[Candidate | None, BlobSpectrum]) -> Focused:
    """A candidate as a component to be fitted, with its focused image and PSF on working pixels."""
    candidate, item = pair
    nchan, beam = search.cube.nchan, search.beam
    scale = PIXELS_PER_BEAM / beam
    continuum = search.options.mode != "line"
    if candidate is not None:
        chan0, chan1 = _core_channels(candidate, nchan)
        total, noise = focus(line, chan0, chan1, search.sigma)
        image, noise = total / np.float32(chan1 - chan0 + 1), noise / (chan1 - chan0 + 1)
        x, y, middle = candidate.x, candidate.y, int(np.clip(round(candidate.chan), 0, nchan - 1))
    else:
        image, noise = _mean_image(search)
        x, y, middle = item.blob.x, item.blob.y, nchan // 2
    component = Component(
        x, y, 0.25 * search.cube.beam_covariance(), has_line=candidate is not None, has_cont=continuum,
        has_slope=continuum and nchan >= 16, slope_scale=search.slope_scale(),
        clean=item.clean, probability=item.blob.probability,
    )  # fmt: skip
    if candidate is not None:
        component.chan, component.fwhm = candidate.chan, max(candidate.fwhm, 1.0)
    stamp = resample_stamp(image, x, y, scale, STAMP)
    psf = search.imager.plane(middle)
    psf_stamp = resample_stamp(psf, psf.shape[1] // 2, psf.shape[0] // 2, scale, STAMP)
    return Focused(component, candidate, stamp, psf_stamp, noise)


def _core_channels(candidate: Candidate, nchan: int) -> tuple[int, int]:
    """The channels within the line's FWHM: where its signal to noise is."""
    low = int(np.clip(np.ceil(candidate.chan - 0.5 * candidate.fwhm), 0, nchan - 1))
    return low, int(np.clip(np.floor(candidate.chan + 0.5 * candidate.fwhm), low, nchan - 1))


def _mean_image(search: Search) -> tuple[NDArray, float]:
    """Noise-weighted mean of the residual over channels [Jy/beam], and its rms."""
    weights = inverse_variance(search.sigma)
    image = weighted_sum(search.fit.residual, weights / weights.sum())
    rms = robust_rms(image[search.inside])
    least = float(1.0 / np.sqrt(weights.sum()))
    return image, max(rms, least) if np.isfinite(rms) else least


def is_new(search: Search, component: Component) -> bool:
    """Whether a candidate has not been tried before and refused."""
    return not any(same_source(component, other, 0.5 * search.beam) for other in search.refused)


def same_source(one: Component, other: Component, distance: float) -> bool:
    if np.hypot(one.x - other.x, one.y - other.y) > distance or one.has_line != other.has_line:
        return False
    return not one.has_line or abs(one.chan - other.chan) < 0.75 * max(one.fwhm, other.fwhm)


class KnownLine(NamedTuple):
    """A line in the spectrum of a source that its continuum has shown."""

    component: Component
    peak: Peak
    absorption: bool


def lines_of_known_sources(search: Search) -> list[KnownLine]:
    """Lines in the spectra of fitted sources that have none: where to look is known, so fainter ones count.

    Deep GRU looks at the spectrum of the fitted shape, all other sources subtracted, and at the same spectrum
    turned over, for absorption; a window sum must agree that the line is above what noise, and the ripples of
    an imperfect bandpass, do in one spectrum. On a continuum that is much brighter than its line the line may be what
    a deep absorption left when it drew the continuum down: there another line is looked for that is brighter.
    """
    nchan = search.cube.nchan
    bright = [c for c in search.components if c.has_cont and c.snr_cont >= search.options.minsnr]
    asked = [c for c in bright if not c.has_line or c.snr_line < DOUBTFUL * c.snr_cont]
    if not asked or not search.lines:
        return []
    noise = NoisePeaks.of_spectrum(nchan).level(search.options.false_alarms)
    level = max(search.options.known_line_snr, noise)
    spectra = [search.fit.source_spectrum(c) - c.continuum_spectrum(nchan) for c in asked]
    standard = np.array([standardise_spectrum(spectrum)[0] for spectrum in spectra], dtype=np.float32)
    good = np.isfinite(search.sigma)
    cleaned = [search.networks.deep_gru(deep_gru_input(sign * standard)) for sign in (1, -1)]
    found = []
    for index, component in enumerate(asked):
        emission, absorption = (strongest_window(sign * standard[index], good) for sign in (1, -1))
        best = max(emission, absorption)
        centre, width = 0.5 * (best[1] + best[2]), float(best[2] - best[1] + 1)
        if component.has_line:
            same = abs(centre - component.chan) < 0.75 * (width + component.fwhm)
            if same or best[0] < BRIGHTER * component.snr_line:
                continue
        else:
            component.clean = cleaned[0][index]
        if best[0] < level:
            continue
        negative = best is absorption
        clean = cleaned[int(negative)][index]
        seen = [p for p in find_peaks(clean, search.threshold("peak")) if abs(p.chan - centre) <= 0.5 * width + 1.0]
        window = Peak.from_gaussian(centre, width, 0.0, nchan)
        found.append(KnownLine(component, max(seen, key=lambda p: p.height) if seen else window, negative))
    return found
