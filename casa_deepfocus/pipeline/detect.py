"""Step i: detection maps of the residual, Blobs Finder, blobs (paper 4.4 i, steps 1-4)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from casa_deepfocus.core.continuum import Continuum, fit_continuum, line_free_channels, subtract_continuum
from casa_deepfocus.core.detection import (
    Blob,
    DetectionMap,
    LineSearch,
    find_blobs,
    integrated_map,
    line_maps,
    peak_blobs,
    probability_map,
)
from casa_deepfocus.core.noise import inverse_variance
from casa_deepfocus.core.preprocessing import PIXELS_PER_BEAM
from casa_deepfocus.core.psf import Imager
from casa_deepfocus.core.tiling import resample
from casa_deepfocus.pipeline.state import Search


def detect(search: Search) -> tuple[NDArray, list[DetectionMap], list[Blob]]:
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
    threshold = search.threshold("probability")
    model = _model_maps(search, maps)
    blobs: list[Blob] = []
    for index, detection in enumerate(maps):
        probability = probability_map(detection, search.networks.blobs_finder, search.beam)
        np.maximum(search.probability, _to_image(probability, search), out=search.probability)
        found = find_blobs(probability, detection, map_index=index, beam_pixels=search.beam, threshold=threshold)
        found = [b for b in found if b.snr >= levels[detection.kind]]
        found += peak_blobs(
            detection, probability, found, map_index=index, beam_pixels=search.beam,
            level=levels[detection.kind], hint=options.hint,
        )  # fmt: skip
        found.sort(key=lambda blob: -blob.snr)
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


def _model_maps(search: Search, maps: Sequence[DetectionMap]) -> list[NDArray] | None:
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


def _to_image(probability: NDArray, search: Search) -> NDArray:
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
