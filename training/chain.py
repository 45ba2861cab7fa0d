"""Training data as the pipeline makes it: each network sees what its predecessors leave (section 4.5).

With `networks` None, what the true sources give (first stage of preset `paper`); with trained networks, what
these predict (second stage of every preset): blobs of Blobs Finder, lines of Deep GRU, shapes of the ResNets.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import signal
from scipy.optimize import linear_sum_assignment
from torch import Tensor, nn

from casa_deepfocus.core.geometry import FWHM_PER_SIGMA
from casa_deepfocus.core.preprocessing import (
    BOX_LEVEL,
    PLANES,
    TARGET_SMOOTHING,
    blobs_finder_input,
    blobs_finder_planes,
    deep_gru_input,
    resnet_input,
    stamp_peak,
    standard_spectrum,
    unit_range,
)
from training.draw import Batch, Draw
from training.fields import Fields, Recipe, channels_of, draw_fields
from training.maps import covariance, gaussian, unit_snr
from training.observed import box_of
from training.spectra import MINIMUM_SNR, NARROWEST
from training.stamps import resnet_target

Predecessors = Mapping[str, nn.Module]

SHAPES = ("fwhm_maj", "fwhm_min", "pa")
"""The ResNets that measure a shape on the focused image."""

BLOBS = {"compact": 2.5, "paper": 4.0}
"""Blobs of a field, about: the number of fields in a batch follows."""

LINE_HEIGHT = 0.3
"""Deep GRU's output that makes a line, and Blobs Finder's that makes a blob (the paper's are 0.1 and 0.15)."""

DILATION = 1.5
"""Of the 3D model's mask (paper section 4.4 v)."""

MASK_REACH = DILATION * float(np.sqrt(-2.0 * np.log(BOX_LEVEL))) / FWHM_PER_SIGMA
"""[FWHM] Half of the dilated mask's extent along an axis through its centre."""


def chain_batch(
    name: str, recipe: Recipe, networks: Predecessors | None, seed: int, step: int, size: int, split: str, device: str
) -> Batch:
    """The batch of one step; second-stage data are not augmented, nor is the paper's validation.

    Returns
    -------
    Batch : as `training.data.make_batch`; between 1 and `size` examples
    """
    # The paper's ResNets of shape see the same stamps.
    purpose = "shape" if recipe.name == "paper" and name in SHAPES else name
    draw = Draw(device, seed, step, split, f"chain/{recipe.name}/{purpose}")
    count = size if name == "blobs_finder" else max(1, round(size / BLOBS[recipe.name]))
    augment = networks is None and (recipe.name == "compact" or split == "train")
    fields = draw_fields(draw, recipe, count, split, nchan=channels_of(recipe, seed, step, split), augment=augment)
    window = _windows(draw, fields)
    maps, amplitude = _detection_maps(draw, fields, window)
    if name == "blobs_finder":
        return _blobs_finder_batch(fields, maps, amplitude)
    blobs = _blobs(fields, maps, amplitude, networks)
    blobs = blobs.take(torch.arange(min(size, len(blobs.row)), device=maps.device))
    spectra = _spectra(draw, fields, blobs)
    if name == "deep_gru":
        return _deep_gru_batch(draw, fields, blobs, spectra)
    return _resnet_batch(name, draw, fields, _with_lines(fields, blobs, spectra, networks), networks)


@dataclass
class Blobs:
    """`k` blobs: their fields and sources (k,), places (k,) [pixel of the field], extraction weights (k, field, field).

    chan, fwhm : (k,) [channel] of the line found, once it has been
    """

    row: Tensor
    source: Tensor
    x: Tensor
    y: Tensor
    weights: Tensor
    chan: Tensor | None = None
    fwhm: Tensor | None = None

    def take(self, keep: Tensor) -> Blobs:
        return Blobs(*(getattr(self, name)[keep] for name in ("row", "source", "x", "y", "weights")))


def _windows(draw: Draw, fields: Fields) -> Tensor:
    """(b, nchan) channels of each field's map: all, or (half of the compact ones) those of its first source's line."""
    chan = torch.arange(fields.nchan, device=draw.device)
    inside = (chan[None] - fields.chan[:, :1]).abs() <= (0.6 * fields.fwhm[:, :1]).clamp(min=0.6)
    whole = draw.chance(0.5 if fields.recipe.name == "compact" else 1.0, (len(fields.x), 1))
    return (inside | whole | ~inside.any(dim=1, keepdim=True)).float()


def _detection_maps(draw: Draw, fields: Fields, window: Tensor) -> tuple[Tensor, Tensor]:
    """Maps (b, field, field) [sigma] and the sources' fluxes in them (b, n); a line map has no continuum."""
    whole = window.mean(dim=1, keepdim=True) == 1.0
    width = window.sum(dim=1, keepdim=True)
    amplitude = (fields.line * window[:, None]).sum(-1) / torch.sqrt(width)
    amplitude = amplitude + fields.continuum * torch.sqrt(width) * whole
    rows = torch.arange(len(fields.x), device=draw.device)
    corner, part = fields.corner, slice(fields.corner, fields.corner + fields.recipe.field)
    maps = fields.dirty(rows, fields.x + corner, fields.y + corner, amplitude) + fields.noise(draw, rows)
    return maps[:, part, part].contiguous(), amplitude


def _drawn(fields: Fields, rows: Tensor, columns: Tensor) -> Tensor:
    """(k, field, field) sources (rows, columns) as Blobs Finder's target draws them."""
    pixel = torch.arange(fields.recipe.field, device=rows.device, dtype=torch.float32)
    extra = (TARGET_SMOOTHING * fields.recipe.pixels_per_beam / FWHM_PER_SIGMA) ** 2
    cov = fields.cov[rows, columns] + extra * torch.tensor([1.0, 1.0, 0.0], device=rows.device)
    dx = pixel[None, None, :] - fields.x[rows, columns][:, None, None]
    dy = pixel[None, :, None] - fields.y[rows, columns][:, None, None]
    return gaussian(dx, dy, cov[:, None, None])


def _blobs_finder_batch(fields: Fields, maps: Tensor, amplitude: Tensor) -> Batch:
    """The paper's pairs: integrated image and sky model, both in [0, 1]."""
    b, n = amplitude.shape
    rows = torch.arange(b, device=maps.device)
    target = torch.zeros_like(maps)
    for i in range(n):
        # The sky's brightness: flux over area, without the primary beam.
        area = (fields.fwhm_maj[:, i] * fields.fwhm_min[:, i]).clamp(min=0.01) * fields.gain[:, i]
        drawn = _drawn(fields, rows, torch.full_like(rows, i)) * (amplitude[:, i] / area)[:, None, None]
        target = torch.maximum(target, drawn)
    inputs, target = unit_range(maps), unit_range(target)
    truth = {name: getattr(fields, name) for name in ("x", "y", "cov", "used")} | {"flux": amplitude}
    return Batch(inputs, target, torch.ones_like(target), truth)


def _blobs(fields: Fields, maps: Tensor, amplitude: Tensor, networks: Predecessors | None) -> Blobs:
    """Blobs of the sources that a map shows: where they are, or where Blobs Finder puts them."""
    bright = amplitude * unit_snr(fields.cov, fields.beam[:, None]) >= MINIMUM_SNR
    asked = fields.used & bright
    # A batch is never empty.
    asked[0, 0] = True
    row, source = torch.nonzero(asked, as_tuple=True)
    drawn = _drawn(fields, row, source)
    x, y = fields.x[row, source], fields.y[row, source]
    true = Blobs(row, source, x, y, _never_empty(torch.where(drawn > BOX_LEVEL, drawn, 0.0 * drawn), x, y))
    if networks is None:
        return true
    with torch.no_grad():
        probability = networks["blobs_finder"](blobs_finder_planes_of(fields, maps))[:, 0]
    found = _matched(probability.cpu().numpy(), true, 0.5 * fields.recipe.pixels_per_beam)
    if not len(found[0]):
        return true
    keep = torch.as_tensor(found[0], device=maps.device)
    x, y = (torch.as_tensor(found[i], dtype=torch.float32, device=maps.device) for i in (1, 2))
    seen = probability[row[keep]]
    near = _distance(x, y, fields.recipe.field) < 1.2 * fields.recipe.pixels_per_beam
    return Blobs(row[keep], source[keep], x, y, _never_empty(seen * (seen > BOX_LEVEL) * near, x, y))


def _distance(x: Tensor, y: Tensor, field: int) -> Tensor:
    """(k, field, field) distance of every pixel from k places."""
    pixel = torch.arange(field, device=x.device, dtype=torch.float32)
    return torch.hypot(pixel[None, None, :] - x[:, None, None], pixel[None, :, None] - y[:, None, None])


def _never_empty(weights: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """Blobs' pixels; those at the blob's place, in the field, where none is above the contour.

    So it is with a maximum that hardly passes, and with a source just outside of the field.
    """
    field = weights.shape[-1]
    near = _distance(x.clamp(0, field - 1), y.clamp(0, field - 1), field) < 1.5
    return torch.where((weights.sum((1, 2)) > 0)[:, None, None], weights, near.float())


def blobs_finder_planes_of(fields: Fields, maps: Tensor) -> Tensor:
    """Blobs Finder's input for maps of `fields`, as its preset has it."""
    if fields.recipe.name == "paper":
        return unit_range(maps)
    return blobs_finder_input(blobs_finder_planes(maps, PLANES, fields.psf()))


def _matched(probability: NDArray[np.float32], true: Blobs, limit: float) -> tuple[NDArray, NDArray, NDArray]:
    """Blobs that a maximum of the map stands for, one to one: their indices, and the maxima's places."""
    rows = true.row.cpu().numpy()
    places = np.stack([true.x.cpu().numpy(), true.y.cpu().numpy()], axis=1)
    found: list[tuple[int, float, float]] = []
    for row in np.unique(rows):
        image = probability[row]
        padded = torch.nn.functional.max_pool2d(torch.from_numpy(image)[None, None], 3, 1, 1)[0, 0].numpy()
        peaks = np.argwhere((image >= padded) & (image > LINE_HEIGHT))
        mine = np.flatnonzero(rows == row)
        if not len(peaks):
            continue
        vertex = np.array([_vertex(image, y, x) for y, x in peaks])
        apart = np.hypot(places[mine, None, 0] - vertex[None, :, 0], places[mine, None, 1] - vertex[None, :, 1])
        for i, j in zip(*linear_sum_assignment(np.where(apart <= limit, apart, 1e6)), strict=True):
            if apart[i, j] <= limit:
                found.append((mine[i], vertex[j, 0], vertex[j, 1]))
    index, x, y = np.array(found, dtype=float).reshape(-1, 3).T
    return index.astype(np.int64), x, y


def _vertex(image: NDArray, row: int, column: int) -> tuple[float, float]:
    """Place (x, y) of a maximum to a fraction of a pixel."""
    place = []
    for line, index in ((image[row, :], column), (image[:, column], row)):
        step = 0.0
        if 0 < index < len(line) - 1:
            bend = 2.0 * line[index] - line[index - 1] - line[index + 1]
            step = float(np.clip(0.5 * (line[index + 1] - line[index - 1]) / bend, -0.5, 0.5)) if bend > 0 else 0.0
        place.append(index + step)
    return place[0], place[1]


@dataclass
class Spectra:
    """Spectra of blobs (k, nchan) [sigma], the lines' heights in them (k, n) and the networks' input."""

    spectrum: Tensor
    response: Tensor
    inputs: Tensor


def _spectra(draw: Draw, fields: Fields, blobs: Blobs) -> Spectra:
    """Weighted sums of the blobs' pixels in every channel, in units of their noise."""
    if fields.recipe.name == "paper":
        return _paper_spectra(draw, fields, blobs)
    b, n = fields.x.shape
    side, corner, field = fields.recipe.side, fields.corner, fields.recipe.field
    part = slice(corner, corner + field)
    rows = torch.arange(b, device=draw.device)
    response = torch.zeros((len(blobs.row), n), device=draw.device)
    for i in range(n):
        alone = torch.zeros((b, n), device=draw.device)
        alone[:, i] = 1.0
        image = fields.dirty(rows, fields.x + corner, fields.y + corner, alone)[:, part, part]
        response[:, i] = (blobs.weights * image[blobs.row]).sum((1, 2))
    transform = torch.fft.rfft2(blobs.weights, s=(side, side))
    power = transform.abs() ** 2 * fields.amplitude[blobs.row] ** 2
    noise = torch.sqrt((2.0 * power.sum((1, 2)) - power[..., 0].sum(1) - power[..., -1].sum(1)) / side**2)
    response = response / noise[:, None]
    kept = 0.05 * draw.normal((len(response), n))
    level = (response * fields.continuum[blobs.row] * kept).sum(1, keepdim=True)
    clean = torch.einsum("kn,knc->kc", response, fields.line[blobs.row])
    k = len(clean)
    spectrum = clean + level + draw.normal(tuple(clean.shape))
    spectrum = (spectrum + 0.15 * draw.normal((k, 1))) * draw.uniform(0.88, 1.12, (k, 1))
    return Spectra(spectrum, response, deep_gru_input(spectrum))


def _paper_spectra(draw: Draw, fields: Fields, blobs: Blobs) -> Spectra:
    """The paper's: the sum of the pixels of the blob's box, continuum and all, standardised."""
    response, noise = fields.box_response(blobs.row, box_of(blobs.weights))
    response = response / noise[:, None]
    clean = torch.einsum("kn,knc->kc", response, fields.line[blobs.row])
    level = (response * fields.continuum[blobs.row]).sum(1, keepdim=True)
    spectrum = clean + level + draw.normal(tuple(clean.shape))
    return Spectra(spectrum, response, standard_spectrum(spectrum))


def _deep_gru_batch(draw: Draw, fields: Fields, blobs: Blobs, spectra: Spectra) -> Batch:
    """What Deep GRU is asked: the lines of the sources within a beam of the blob; others are sidelobes."""
    row = blobs.row
    lines = spectra.response[..., None] * fields.line[row]
    apart = torch.hypot(fields.x[row] - blobs.x[:, None], fields.y[row] - blobs.y[:, None])
    near = fields.used[row] & (apart < fields.recipe.pixels_per_beam)
    if fields.recipe.name == "paper":
        drawn = (lines * near[..., None]).sum(1)
        target = (drawn / drawn.amax(1, keepdim=True).clamp(min=1e-6)).clamp(min=0.0)
        return Batch(spectra.inputs, target, torch.ones_like(target), {"spectrum": spectra.spectrum})
    snr = torch.sqrt((lines**2).sum(-1))
    asked = near & (snr >= MINIMUM_SNR)
    offset = torch.arange(fields.nchan, device=row.device) - fields.chan[row][..., None]
    profile = torch.exp(-0.5 * (offset * FWHM_PER_SIGMA / fields.fwhm[row].clamp(min=NARROWEST)[..., None]) ** 2)
    target = (profile * asked[..., None]).amax(1)
    unclear = (profile * (near & ~asked & (snr > 1.5))[..., None]).amax(1)
    weight = (1.0 + target) * ~((unclear > 0.1) & (unclear > target))
    truth = {"centre": fields.chan[row], "fwhm": fields.fwhm[row], "snr": snr, "asked": asked, "used": near,
             "spectrum": spectra.spectrum}  # fmt: skip
    return Batch(spectra.inputs, target, weight, truth)


def _with_lines(fields: Fields, blobs: Blobs, spectra: Spectra, networks: Predecessors | None) -> Blobs:
    """The blobs whose line is found, with its centre and width: the true ones, or those that Deep GRU gives."""
    chan, fwhm = fields.chan[blobs.row, blobs.source], fields.fwhm[blobs.row, blobs.source]
    if networks is None:
        blobs.chan, blobs.fwhm = chan, fwhm
        return blobs
    with torch.no_grad():
        profiles = networks["deep_gru"](spectra.inputs).cpu().numpy()
    found = []
    for index, (profile, centre, width) in enumerate(zip(profiles, chan.tolist(), fwhm.tolist(), strict=True)):
        padded = np.pad(profile, 1)
        peaks = signal.find_peaks(padded, height=LINE_HEIGHT)[0]
        if len(peaks):
            best = int(np.abs(peaks - 1 - centre).argmin())
            if abs(peaks[best] - 1 - centre) <= max(0.5 * width, 1.0):
                size, _, left, right = signal.peak_widths(padded, peaks[best : best + 1], rel_height=0.5)
                found.append((index, 0.5 * (left[0] + right[0]) - 1.0, max(size[0], 1.0)))
    if not found:
        blobs.chan, blobs.fwhm = chan, fwhm
        return blobs
    index, centre, width = np.array(found).T
    out = blobs.take(torch.as_tensor(index.astype(np.int64), device=chan.device))
    out.chan, out.fwhm = (torch.as_tensor(v, dtype=torch.float32, device=chan.device) for v in (centre, width))
    return out


def _resnet_batch(
    name: str, draw: Draw, fields: Fields, blobs: Blobs, networks: Predecessors | None
) -> Batch:  # fmt: skip
    """Focused images around the blobs, over the channels of their lines; for the flux, line-emission images."""
    recipe, row = fields.recipe, blobs.row
    paper = recipe.name == "paper"
    k, half = len(row), recipe.stamp // 2
    chan = torch.arange(fields.nchan, device=row.device)
    apart = (chan[None] - blobs.chan[:, None]).abs()
    # The compact pipeline focuses on the line's FWHM, the paper on twice that.
    core = apart <= blobs.fwhm[:, None] * (1.0 if paper else 0.5)
    core |= apart == apart.amin(1, keepdim=True)
    width = core.sum(1)
    kept = 1.0 if paper else 0.05 * draw.normal((k, fields.x.shape[1]))
    line = fields.line[row]
    near, reached = fields.close(row, blobs.x, blobs.y)
    middle = near.recipe.side // 2
    # The paper's stamps are cut on the image's own pixels.
    at = {axis: getattr(blobs, axis).round() if paper else getattr(blobs, axis) for axis in "xy"}
    x, y = (middle + getattr(fields, axis)[row] - at[axis][:, None] for axis in "xy")
    cut = slice(middle - half, middle + half)

    def image(channels: Tensor, noise: Tensor, part: Tensor | float) -> Tensor:
        """Mean over channels, with `part` of the continuum: (k, stamp, stamp)."""
        number = channels.sum(1, keepdim=True).clamp(min=1)
        flux = (line * channels[:, None]).sum(-1) / number + part * fields.continuum[row]
        return (near.dirty(row, x, y, flux * reached) + noise / torch.sqrt(number)[..., None])[:, cut, cut]

    noise = near.noise(draw, row)
    focused = image(core, noise, kept)
    sigma = 1.0 / torch.sqrt(width.float())
    psf = None if paper else near.psf()[row][:, cut, cut]

    def inputs(stamp: Tensor) -> Tensor:
        return unit_range(stamp) if paper else resnet_input(stamp, psf, sigma * draw.uniform(0.95, 1.05, (k,)))

    stamps = {
        "stamp": focused,
        "snr": stamp_peak(focused) / sigma,
        **{key: getattr(fields, key)[row, blobs.source] for key in ("fwhm_maj", "fwhm_min", "pa")},
    }
    if name == "flux":
        wide = (apart <= MASK_REACH * blobs.fwhm[:, None]) | core
        rest = wide & ~core
        # Line image over the width: the core's channels and the wings, whose noise is another.
        number = blobs.fwhm[:, None, None]
        wings = image(rest, near.noise(draw, row), 0.05 * draw.normal((k, fields.x.shape[1])))
        bare = focused if not paper else image(core, noise, 0.0)
        total = (bare * width[:, None, None] + wings * rest.sum(1)[:, None, None]) / number
        cov = _shapes(fields, blobs, inputs(focused), networks) + fields.beam[row]
        pixel = torch.arange(recipe.stamp, device=row.device, dtype=torch.float32) - half
        mask = gaussian(pixel[None, None, :], pixel[None, :, None], DILATION**2 * cov[:, None, None]) > BOX_LEVEL
        stamps["stamp"] = torch.where(mask, total, 0.0 * total if paper else focused)
        stamps["flux"] = line[torch.arange(k, device=row.device), blobs.source].sum(-1) / blobs.fwhm
        stamps["flux"] = stamps["flux"].clamp(min=1e-6)
    return Batch(inputs(stamps["stamp"]), *resnet_target(name, stamps), stamps)


def _shapes(fields: Fields, blobs: Blobs, inputs: Tensor, networks: Predecessors | None) -> Tensor:
    """(k, 3) covariances [pixel^2]: the true ones, or those of the ResNets."""
    row, source, scale = blobs.row, blobs.source, fields.recipe.pixels_per_beam
    if networks is None:
        return fields.cov[row, source]
    with torch.no_grad():
        sizes = [networks[name](inputs)[:, 0].clamp(0.0, 4.0) * scale for name in ("fwhm_maj", "fwhm_min")]
        turned = networks["pa"](inputs)
    return covariance(
        torch.maximum(*sizes), torch.minimum(*sizes), 0.5 * torch.atan2(turned[:, 0], turned[:, 1])
    )  # fmt: skip
