"""The paper's own flow (its Fig. 9), and the rival that it compares with: what its networks find, alone.

    integrated image -> Blobs Finder -> boxes -> spectra -> Deep GRU -> lines -> focusing, decision graph (Fig. 14)
    -> ResNets -> 3D model -> eq. 19 -> flux network

No line maps, no classical maxima, no likelihood fit and no second look: so errors and reliabilities are NaN, as the
paper gives none. What it leaves open is decided here, and listed in docs/method.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from astropy.table import Table
from numpy.typing import NDArray
from skimage.feature import blob_dog
from skimage.measure import label, regionprops
from threadpoolctl import threadpool_limits

from casa_deepfocus.core import catalogue as cat
from casa_deepfocus.core.boxes import Box
from casa_deepfocus.core.component import Component
from casa_deepfocus.core.cube import Cube
from casa_deepfocus.core.deblending import NEW_SOURCE, Candidate, GraphThresholds, decide, merge_candidates
from casa_deepfocus.core.detection import Blob, integrated_map
from casa_deepfocus.core.flux import line_flux
from casa_deepfocus.core.focusing import crop_origin, focus
from casa_deepfocus.core.geometry import FWHM_PER_SIGMA, GAUSSIAN_LINE, shape_to_covariance
from casa_deepfocus.core.noise import blank_to_zero
from casa_deepfocus.core.preprocessing import (
    BOX_LEVEL,
    PAPER_CHANNELS,
    PAPER_FIELD,
    PAPER_PIXELS_PER_BEAM,
    PAPER_STAMP,
    TARGET_SMOOTHING,
    stamp_peak,
    standard_spectrum,
    unit_range,
)
from casa_deepfocus.core.spectra import Peak, extract_spectrum, find_peaks
from casa_deepfocus.core.tiling import resample, resample_stamp
from casa_deepfocus.errors import DataError, ParameterError
from casa_deepfocus.pipeline.intake import take_in
from casa_deepfocus.pipeline.measure import line_image
from casa_deepfocus.pipeline.result import add_to_mask, brightest_place, flag, in_units, note_run, number_groups
from casa_deepfocus.pipeline.state import MIN_LINE_CHANNELS, Clock, Log, Networks, Options, Result, SourceDetail, silent

SAME_SCALE = 0.02
"""A beam this close to the networks' own is not resampled: the paper's cubes are seen pixel by pixel."""

OVERLAP = PAPER_FIELD // 2
"""[working pixel] Neighbouring tiles of a larger image share half of their width."""

LOWEST_PB = 0.5
"""Primary beam below which nothing is looked for: the paper cuts its images at 128 pixels from the centre, where it
is 0.51, because of what lies beyond."""

KERNELS = (2.0, 12.0)
"""[working pixel] Standard deviations of blob_dog's kernels: sources of 2 to 8 pixels under their beam."""

DOG_LEVEL = 0.1
"""blob_dog's threshold (DECORAS), of the difference of Gaussians."""


@dataclass(frozen=True, eq=False)
class _Image:
    """A cube, and how the networks see it.

    Attributes
    ----------
    cube : Cube, its data in units of `unit`; sigma : (nchan,) [unit]
    unit : float [Jy/beam]
    scale : float, working pixels per image pixel
    integrated : (ny, nx) float32 [unit], the mean over the channels, blank pixels at its median
    inside : (ny, nx) bool, where sources are looked for
    """

    cube: Cube
    sigma: NDArray
    unit: float
    scale: float
    integrated: NDArray[np.float32]
    inside: NDArray[np.bool_]


def run_paper(cube: Cube, networks: Networks, options: Options, *, log: Log = silent) -> Result:
    """Find and characterise the sources of a dirty cube as the paper does.

    Parameters
    ----------
    cube : Cube, not corrected for the primary beam, its continuum in it
    networks : Networks of flow 'paper'
    options : Options
        `thresholds`, `minsnr` (of the brightest pixel of a focused image) and `graph`; what belongs to the
        likelihood fit is not used.
    log : callable on str

    Returns
    -------
    Result : errors, reliabilities and continua NaN

    Raises
    ------
    ParameterError
        Mode 'continuum': every source of the paper has a line.
    DataError
        The cube holds no data, or too few channels.
    """
    with threadpool_limits(limits=1, user_api="blas"):
        return _run_paper(cube, networks, options, log)


def _run_paper(cube: Cube, networks: Networks, options: Options, log: Log) -> Result:
    clock = Clock()
    if options.mode == "continuum":
        raise ParameterError("mode", options.mode, "the paper's networks look for lines", "Use mode='both' or 'line'")
    if cube.nchan < MIN_LINE_CHANNELS:
        raise DataError(
            f"the paper's networks need at least {MIN_LINE_CHANNELS} channels; the image has {cube.nchan}"
        )  # fmt: skip
    levels = {**networks.info["thresholds"], **options.thresholds}
    with clock.step("noise"):
        image = _prepare(cube, log)
    cube = image.cube
    noise = float(np.nanmedian(image.sigma)) * image.unit
    log(f"noise: {noise:.4g} Jy/beam a channel; {image.scale:.3g} working pixels a pixel")
    with clock.step("detection"):
        probability = probability_map(image.integrated, image.scale, networks)
        blobs = label_blobs(probability, levels["probability"], image)
    with clock.step("spectra"):
        spectra = [extract_spectrum(cube.data, blob.box) for blob in blobs]
        cleaned = denoised(np.array(spectra, dtype=float).reshape(len(blobs), cube.nchan), networks)
        peaks = [find_peaks(clean, levels["peak"]) for clean in cleaned]
    with clock.step("focusing"):
        candidates, rejected = _decide(image, blobs, peaks, options)
    with clock.step("morphology"):
        found = [_component(candidate, cleaned[candidate.group], blobs) for candidate in candidates]
        _measure_shapes(image, candidates, found, networks)
    with clock.step("flux"):
        _measure_fluxes(image, found, networks)
    with clock.step("catalogue"):
        details = [_detail(image, source, blobs[c.group].box) for source, c in zip(found, candidates, strict=True)]
        result = _report(image, found, details, probability, networks)
    result.counts.update(
        blobs=len(blobs), peaks=sum(map(len, peaks)), candidates=len(candidates), rejected=rejected, rounds=1,
        sources=len(found),
    )  # fmt: skip
    result.timings = dict(clock.seconds)
    log(f"{len(blobs)} blobs, {result.counts['peaks']} lines, {rejected} rejected: {len(found)} sources")
    return result


def _prepare(cube: Cube, log: Log) -> _Image:
    taken = take_in(cube, log, noise_map=False)
    cube, sigma = taken.cube, taken.sigma
    used = np.isfinite(sigma)
    seen = np.isfinite(cube.data).any(axis=0)
    mean = np.nanmean(np.where(seen, cube.data[used], 0.0), axis=0).astype(np.float32)
    # A constant at the edge must not set the scale of the image.
    mean[~seen] = np.median(mean[seen])
    pb = np.nan_to_num(cube.pb).max(axis=0)
    scale = PAPER_PIXELS_PER_BEAM / cube.beam_pixels()
    scale = 1.0 if abs(scale - 1.0) <= SAME_SCALE else scale
    return _Image(cube, sigma, taken.unit, scale, mean, seen & (pb >= LOWEST_PB * pb.max()))


def probability_map(integrated: NDArray, scale: float, networks: Networks) -> NDArray[np.float32]:
    """Blobs Finder's map of an image of any size.

    The network takes 256 x 256 pixels. The image is resampled so that its beam has the width that the network knows,
    and scaled to [0, 1] as a whole. A smaller one is filled up with its median; a larger one is cut into tiles, one of
    them in the middle, as the paper cuts its own, that share half of their width with each neighbour: a pixel
    is taken from the tile in whose middle it lies most.

    Parameters
    ----------
    integrated : (ny, nx) float32, finite
    scale : float, working pixels per image pixel
    networks : Networks of flow 'paper' or 'decoras'

    Returns
    -------
    (ny scale, nx scale) float32 in [0, 1], working pixels
    """
    work = integrated if scale == 1.0 else resample(integrated, scale)
    work = unit_range(work[None].astype(np.float32))[0, 0]
    size, middle = PAPER_FIELD, float(np.median(work))
    starts = [_starts(length) for length in work.shape]
    out = np.zeros(work.shape, dtype=np.float32)
    depth = np.full(work.shape, -1)
    edge = np.minimum(np.arange(size), np.arange(size)[::-1])
    inner = np.minimum(edge[:, None], edge[None, :])
    for y0 in starts[0]:
        for x0 in starts[1]:
            tile = np.full((size, size), middle, dtype=np.float32)
            rows, columns = (slice(max(s, 0), min(s + size, n)) for s, n in zip((y0, x0), work.shape, strict=True))
            own = slice(rows.start - y0, rows.stop - y0), slice(columns.start - x0, columns.stop - x0)
            tile[own] = work[rows, columns]
            answer = networks.blobs_finder(tile[None, None])[0, 0]
            better = inner[own] > depth[rows, columns]
            out[rows, columns][better] = answer[own][better]
            depth[rows, columns][better] = inner[own][better]
    return out


def _starts(length: int) -> list[int]:
    """First pixels of the tiles along an axis: one in the middle, and as many beside it as reach the ends."""
    middle = length // 2 - PAPER_FIELD // 2
    beside = int(np.ceil(max(middle, 0) / OVERLAP))
    return [middle + step * OVERLAP for step in range(-beside, beside + 1)]


def label_blobs(probability: NDArray[np.float32], level: float, image: _Image) -> list[Blob]:
    """Boxes about the connected pixels of Blobs Finder's map above a level, and the barycentres of what is in them.

    Returns
    -------
    list of Blob in image pixels, brightest first
    """
    out = []
    for region in regionprops(label(probability > level), intensity_image=probability):
        y, x = (value / image.scale for value in region.centroid_weighted)
        top, left, bottom, right = region.bbox
        edges = [left / image.scale, top / image.scale, (right - 1) / image.scale, (bottom - 1) / image.scale]
        blob = _blob(x, y, edges, float(region.intensity_max), image)
        if blob is not None:
            out.append(blob)
    return sorted(out, key=lambda blob: -blob.snr)


def _blob(x: float, y: float, edges: Sequence[float], height: float, image: _Image) -> Blob | None:
    """A blob with its box `edges` (x0, y0, x1, y1) [pixel]; None where nothing is looked for."""
    ny, nx = image.integrated.shape
    if not (-0.5 <= x < nx - 0.5 and -0.5 <= y < ny - 0.5 and image.inside[round(y), round(x)]):
        return None
    box = Box(*(int(np.floor(v)) for v in edges[:2]), *(int(np.ceil(v)) for v in edges[2:])).clip((ny, nx))
    seen = image.integrated[box.slices]
    return Blob(x, y, box, height, float(seen.max()), 0, np.ones(seen.shape, dtype=np.float32))


def denoised(spectra: NDArray, networks: Networks) -> NDArray[np.float32]:
    """Deep GRU's answer to spectra of any number of channels.

    The network takes 128 channels, and knows lines of 3 to 10 of them: so channels are neither stretched nor merged. A
    shorter spectrum is filled up with its median; a longer one is cut into pieces that overlap by half, each
    standardised by itself, and a channel is taken from the piece in whose middle it lies most.

    Parameters
    ----------
    spectra : (b, nchan) [any unit]; NaN count as the spectrum's median

    Returns
    -------
    (b, nchan) float32 in [0, 1]
    """
    number, nchan = spectra.shape
    out = np.zeros((number, nchan), dtype=np.float32)
    if not number:
        return out
    known = np.isfinite(spectra)
    median = np.array([np.median(row[ok]) if ok.any() else 0.0 for row, ok in zip(spectra, known, strict=True)])
    filled = np.where(known, spectra, median[:, None])
    length, half = PAPER_CHANNELS, PAPER_CHANNELS // 2
    if nchan < length:
        before = (length - nchan) // 2
        whole = np.repeat(median[:, None], length, axis=1)
        whole[:, before : before + nchan] = filled
        return networks.deep_gru(standard_spectrum(whole.astype(np.float32)))[:, before : before + nchan]
    depth = np.full(nchan, -1)
    inner = np.minimum(np.arange(length), np.arange(length)[::-1])
    for start in sorted({*range(0, nchan - length + 1, half), nchan - length}):
        answer = networks.deep_gru(standard_spectrum(filled[:, start : start + length].astype(np.float32)))
        better = np.flatnonzero(inner > depth[start : start + length])
        out[:, start + better] = answer[:, better]
        depth[start + better] = inner[better]
    return out


def _decide(
    image: _Image, blobs: Sequence[Blob], peaks: Sequence[Sequence[Peak]], options: Options
) -> tuple[list[Candidate], int]:
    """Fig. 14 for every blob, on the dirty cube with its continuum: the candidates, and how many were rejected."""
    beam = image.cube.beam_pixels()
    graph: GraphThresholds = replace(
        options.graph, same_position=options.same_position * beam, radius=0.5 * beam, margin=max(1, round(beam / 3)),
        # The paper integrates the line's extent, twice its FWHM.
        half_width=1.0,
    )  # fmt: skip
    found: list[Candidate] = []
    rejected = 0
    for group, (blob, lines) in enumerate(zip(blobs, peaks, strict=True)):
        place = (round(blob.x), round(blob.y))
        kept, refused = decide(image.cube.data, image.sigma, blob.box, place, lines, group=group, thresholds=graph)
        rejected += len(refused)
        for candidate in kept:
            if not candidate.pixel_snr >= options.minsnr:
                rejected += 1
            elif len(kept) == 1 and candidate.reason != NEW_SOURCE:
                # A source has the barycentre of its box; of a blend each has its own maximum.
                found.append(replace(candidate, x=blob.x, y=blob.y))
            else:
                found.append(candidate)
    kept, repeated = merge_candidates(found, graph)
    return kept, rejected + len(repeated)


def _component(candidate: Candidate, clean: NDArray, blobs: Sequence[Blob]) -> Component:
    return Component(
        candidate.x, candidate.y, np.zeros(3), chan=candidate.chan, fwhm=max(candidate.fwhm, 1.0), fit_shape=False,
        snr_line=candidate.pixel_snr, clean=clean, probability=blobs[candidate.group].probability,
        group=candidate.group,
    )  # fmt: skip


def _stamp(image: NDArray, x: float, y: float, scale: float) -> NDArray[np.float32]:
    """64 x 64 working pixels about the pixel at (x, y); the image's own where they are working pixels already."""
    filled = np.where(np.isfinite(image), image, np.nanmedian(image)) if np.isfinite(image).any() else 0.0 * image
    return resample_stamp(np.nan_to_num(filled), round(x), round(y), scale, PAPER_STAMP)


def _measure_shapes(
    image: _Image, candidates: Sequence[Candidate], found: Sequence[Component], networks: Networks
) -> None:  # fmt: skip
    """FWHM and position angle from the focused images, into the components."""
    if not found:
        return
    stamps = []
    for candidate, source in zip(candidates, found, strict=True):
        focused, _ = focus(image.cube.data, candidate.chan0, candidate.chan1, image.sigma)
        stamps.append(_stamp(focused, source.x, source.y, image.scale))
    inputs = unit_range(np.stack(stamps))
    beam = image.cube.beam_pixels()
    sizes = [np.maximum(net(inputs)[:, 0], 0.0) * beam for net in (networks.fwhm_maj, networks.fwhm_min)]
    turned = networks.pa(inputs)
    angles = np.rad2deg(0.5 * np.arctan2(turned[:, 0], turned[:, 1]))
    for source, a, b, pa in zip(found, *sizes, angles, strict=True):
        source.covariance = shape_to_covariance(max(a, b), min(a, b), pa)


def _measure_fluxes(image: _Image, found: Sequence[Component], networks: Networks) -> None:
    """Flux from the line-emission images of eq. 19, into the components."""
    if not found:
        return
    data = blank_to_zero(image.cube.data)
    stamps = []
    for source in found:
        emission, x, y = line_image(data, image.sigma, image.cube, source)
        # Shifted as little as a focused image is: to whole pixels of the cube.
        x, y = x + round(source.x) - source.x, y + round(source.y) - source.y
        stamps.append(resample_stamp(np.nan_to_num(emission), x, y, image.scale, PAPER_STAMP) / source.fwhm)
    whole = np.stack(stamps).astype(np.float32)
    fluxes = line_flux(networks.flux(unit_range(whole))[:, 0], stamp_peak(whole))
    for source, flux in zip(found, fluxes, strict=True):
        source.amp = float(flux) / GAUSSIAN_LINE


def _detail(image: _Image, source: Component, box: Box) -> SourceDetail:
    """What the report shows; the spectrum is that of the blob's box, in Jy by the area of the beam."""
    cube = image.cube
    size = max(32, int(2 * round(4 * cube.beam_pixels())))
    low, high = (int(np.clip(round(source.chan + side * source.fwhm), 0, cube.nchan - 1)) for side in (-1, 1))
    focused, _ = focus(cube.data, low, high, image.sigma, (source.x, source.y), size)
    sxx, syy, sxy = cube.beam_covariance()
    area = 2.0 * np.pi * np.sqrt(sxx * syy - sxy**2)
    clean = source.clean if source.clean is not None else np.zeros(cube.nchan)
    return SourceDetail(
        "", (focused / np.float32(high - low + 1)).astype(np.float32), crop_origin((source.x, source.y), size),
        (extract_spectrum(cube.data, box) / area).astype(np.float32), np.asarray(clean, dtype=np.float32),
        source.spectrum(cube.nchan).astype(np.float32), low, high,
    )  # fmt: skip


def _report(
    image: _Image, found: Sequence[Component], details: Sequence[SourceDetail], probability: NDArray, networks: Networks
) -> Result:  # fmt: skip
    """Catalogue, mask and images of what was found, in the order given."""
    cube = image.cube
    for source in found:
        flag(source, cube, cube.beam_pixels())
    number_groups(found, cube.beam_pixels())
    table = cat.build(found, np.full(len(found), np.nan), cube)
    _without_errors(table)
    note_run(table, image.sigma, networks)
    mask = np.zeros(cube.data.shape, dtype=bool)
    for number, (source, detail) in enumerate(zip(found, details, strict=True)):
        detail.name = str(table["name"][number])
        x, y = brightest_place(detail, source, cube)
        table["ra_max"][number], table["dec_max"][number] = cat.sky_position(cube, x, y)
        add_to_mask(mask, source, cube, np.inf)
    ny, nx = cube.shape
    seen = probability if image.scale == 1.0 else resample(probability, 1.0 / image.scale)[:ny, :nx]
    counts = dict.fromkeys(("blobs", "peaks", "candidates", "rejected", "extended", "blends", "sources", "rounds"), 0)
    result = Result(
        table, np.clip(seen, 0.0, 1.0), mask, integrated_map(cube.data, image.sigma).image, image.sigma,
        list(details), {}, counts,
    )  # fmt: skip
    in_units(result, image.unit)
    return result


def _without_errors(table: Table) -> None:
    for name in table.colnames:
        if name.endswith("_err"):
            table[name] = np.nan


def run_decoras(cube: Cube, networks: Networks, options: Options, *, log: Log = silent) -> Result:
    """The detection part of DECORAS as the paper rebuilt it (section 5.1): places and boxes, nothing else.

    Its autoencoder's map, `blob_dog` on it, and about each blob a square of half side r = 3 sigma (eq. 21). It knows no
    channels, so every source spans the band; and no sizes: those given are of a source whose box is that square.

    Parameters, Returns and Raises: as `run_paper`, of whose `options` only `thresholds` counts ('probability', the
    lowest value of the map at a blob).
    """
    clock = Clock()
    levels = {**networks.info["thresholds"], **options.thresholds}
    with clock.step("noise"):
        image = _prepare(cube, log)
    cube = image.cube
    with clock.step("detection"), threadpool_limits(limits=1, user_api="blas"):
        probability = probability_map(image.integrated, image.scale, networks)
        found, boxes = [], []
        for row, column, sigma in dog_blobs(probability, levels["probability"]):
            x, y, r = (v / image.scale for v in (column, row, 3.0 * sigma))
            blob = _blob(x, y, (x - r, y - r, x + r, y + r), float(probability[round(row), round(column)]), image)
            if blob is not None:
                found.append(_bare(blob, _size_of_box(r, cube.beam_pixels())))
                boxes.append(blob.box)
    with clock.step("catalogue"):
        details = [_detail(image, source, box) for source, box in zip(found, boxes, strict=True)]
        result = _report(image, found, details, probability, networks)
        for name, place in zip(("x0", "y0", "x1", "y1"), range(4), strict=True):
            result.catalogue[name] = np.array([box[place] for box in boxes], dtype=np.int64)
        result.catalogue["chan0"], result.catalogue["chan1"] = 0, cube.nchan - 1
    result.counts.update(blobs=len(found), candidates=len(found), sources=len(found), rounds=1)
    result.timings = dict(clock.seconds)
    log(f"{len(found)} sources")
    return result


def dog_blobs(probability: NDArray, level: float) -> NDArray[np.float64]:
    """(n, 3) row, column, standard deviation [working pixel] of the blobs of a map, those below a level left out."""
    blobs = blob_dog(
        np.asarray(probability, dtype=float), min_sigma=KERNELS[0], max_sigma=KERNELS[1], threshold=DOG_LEVEL
    )  # fmt: skip
    return np.array([b for b in blobs if probability[int(b[0]), int(b[1])] >= level], dtype=float).reshape(-1, 3)


def _size_of_box(half: float, beam: float) -> float:
    """FWHM [pixel] of the round source whose box (the rule of truth and catalogue) has a half side [pixel]."""
    drawn = FWHM_PER_SIGMA * half / float(np.sqrt(-2.0 * np.log(BOX_LEVEL)))
    return float(np.sqrt(max(drawn**2 - (TARGET_SMOOTHING * beam) ** 2, 0.0)))


def _bare(blob: Blob, fwhm: float) -> Component:
    """A source of which only the place and the box are known."""
    return Component(
        blob.x, blob.y, shape_to_covariance(fwhm, fwhm, 0.0), has_line=False, has_cont=True, cont=float("nan"),
        fit_shape=False, snr_cont=float("nan"), probability=blob.probability,
    )  # fmt: skip
