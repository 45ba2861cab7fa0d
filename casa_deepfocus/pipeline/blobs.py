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
from casa_deepfocus.core.noise import inverse_variance, weighted_sum
from casa_deepfocus.core.preprocessing import PIXELS_PER_BEAM
from casa_deepfocus.core.psf import Imager
from casa_deepfocus.core.tiling import resample, resample_stamp
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
        lines = LineSearch(line, search.sigma, fitted=line is not residual)
        maps += line_maps(lines, threshold=levels["line"], beam_pixels=search.beam)
        # As large as the cube.
        del lines
    for detection in maps:
        detection.image[~search.inside] = np.nan
    threshold = search.threshold("probability")
    info = search.networks.info
    halo, planes = int(info.get("halo", 144)), info.get("planes", ("dirty",))
    psf = WorkingPsf(search.imager, search.beam)
    model = _model_maps(search, maps)
    blobs: list[Blob] = []
    for index, detection in enumerate(maps):
        probability = probability_map(
            detection, search.networks.blobs_finder, search.beam, halo, planes=planes, psf=psf
        )  # fmt: skip
        np.maximum(search.probability, _to_image(probability, search), out=search.probability)
        found = find_blobs(probability, detection, map_index=index, beam_pixels=search.beam, threshold=threshold)
        found = [b for b in found if b.snr >= levels[detection.kind]]
        found += peak_blobs(
            detection, probability, found, map_index=index, beam_pixels=search.beam,
            level=levels[detection.kind], hint=options.hint,
        )  # fmt: skip
        if model is not None:
            found = [b for b in found if b.snr >= options.dynamic_range * _near(model[index], b, search.beam)]
        blobs += found
    search.count("blobs", len(blobs))
    blobs = merge_blobs(blobs, maps, 0.5 * search.beam)
    blobs = without_sidelobes(blobs, maps, search.imager, search.beam, options.sidelobe_margin)
    return line, maps, without_crowding(blobs, maps, 1.5 * search.beam)


class WorkingPsf:
    """The PSF of a detection map on the networks' working pixels.

    It is that of a channel near the map's middle, one of `NODES` over the band, as resampling costs more than the
    PSF changes from node to node (8e-4 of the peak over 20 channels); an image of the whole band has the mean of them.

    Parameters
    ----------
    imager : Imager
    beam : float [pixel]
    """

    NODES = 9

    def __init__(self, imager: Imager, beam: float) -> None:
        self.imager = imager
        self.beam = beam
        self._made: dict[tuple[int, int], NDArray[np.float32]] = {}

    def __call__(self, detection: DetectionMap, size: int) -> NDArray[np.float32]:
        """(size, size) float32, peak at (size // 2, size // 2)."""
        nchan = self.imager.psf.shape[0]
        nodes = np.unique(np.linspace(0, nchan - 1, self.NODES).round().astype(int))
        if detection.kind == "line":
            nodes = nodes[[np.abs(nodes - 0.5 * (detection.chan0 + detection.chan1)).argmin()]]
        return np.mean([self._node(int(node), size) for node in nodes], axis=0)

    def _node(self, chan: int, size: int) -> NDArray[np.float32]:
        if (chan, size) not in self._made:
            plane = self.imager.typical_plane(chan)
            scale = PIXELS_PER_BEAM / self.beam
            self._made[chan, size] = resample_stamp(plane, plane.shape[1] // 2, plane.shape[0] // 2, scale, size)
        return self._made[chan, size]


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
        window = window / np.sqrt(window.sum())
        model = weighted_sum(search.fit.data[part], window) - weighted_sum(search.fit.residual[part], window)
        out.append(np.abs(model))
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
    blobs: Sequence[Blob], maps: Sequence[DetectionMap], imager: Imager, beam: float, margin: float
) -> list[Blob]:
    """Blobs that stand above the sidelobes of the brighter ones.

    What is dropped here and is real comes back when the brighter sources are subtracted.

    Parameters
    ----------
    blobs : sequence of Blob, brightest first
    maps : sequence of DetectionMap they were found on
    imager : Imager
    beam : float [pixel]
    margin : float, factor by which a blob must exceed the sidelobes
    """
    kept: list[Blob] = []
    for blob in blobs:
        mine = maps[blob.map_index]
        chan = (mine.chan0 + mine.chan1) // 2
        explained = 0.0
        for other in kept:
            share = shared_channels(mine, maps[other.map_index])
            if share > 0 and np.hypot(blob.x - other.x, blob.y - other.y) > beam:
                around = [(blob.x + sx, blob.y + sy) for sy in (-1, 0, 1) for sx in (-1, 0, 1)]
                nearby = [imager.response(chan, place, (other.x, other.y)) for place in around]
                explained += share * other.snr * max(abs(value) for value in nearby)
        if blob.snr > margin * explained:
            kept.append(blob)
    return kept


def without_crowding(blobs: Sequence[Blob], maps: Sequence[DetectionMap], distance: float) -> list[Blob]:
    """Of neighbours that different maps show in overlapping channels, the brightest; the others wait.

    Where one map shows several maxima they are a blend, to be fitted together. Maxima of different
    maps next to each other are more often one source that moves with the channels: what the
    brightest does not account for is left in the residual.

    Parameters
    ----------
    blobs : sequence of Blob, brightest first
    maps : sequence of DetectionMap
    distance : float [pixel]
    """
    kept: list[Blob] = []
    for blob in blobs:
        mine = maps[blob.map_index]
        waits = any(
            other.map_index != blob.map_index
            and shared_channels(mine, maps[other.map_index]) > 0
            and np.hypot(blob.x - other.x, blob.y - other.y) < distance
            for other in kept
        )
        if not waits:
            kept.append(blob)
    return kept


def shared_channels(one: DetectionMap, other: DetectionMap) -> float:
    """How much of a signal in one window of channels shows in another: 1 for the same, 0 for none.

    The integrated image is compared with itself only: its blobs may be anything.
    """
    if one.kind != other.kind:
        return 0.0
    common = min(one.chan1, other.chan1) - max(one.chan0, other.chan0) + 1
    widths = (one.chan1 - one.chan0 + 1) * (other.chan1 - other.chan0 + 1)
    return max(common, 0) / float(np.sqrt(widths))


def merge_blobs(blobs: Sequence[Blob], maps: Sequence[DetectionMap], distance: float) -> list[Blob]:
    """One blob where several line maps with overlapping channels show the same source; brightest first.

    The integrated image's blobs are merged only among themselves: their spectra may hold several lines.
    """
    kept: list[Blob] = []
    for blob in sorted(blobs, key=lambda item: -item.snr):
        repeated = any(
            np.hypot(blob.x - other.x, blob.y - other.y) < distance
            and shared_channels(maps[blob.map_index], maps[other.map_index]) > 0
            for other in kept
        )
        if not repeated:
            kept.append(blob)
    return kept
