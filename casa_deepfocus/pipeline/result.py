"""The result: catalogue, mask, reliabilities, and the pictures' material."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial

import numpy as np
from astropy.table import Table
from numpy.typing import NDArray

from casa_deepfocus import __version__
from casa_deepfocus.core import catalogue as cat
from casa_deepfocus.core.complexes import chains, join
from casa_deepfocus.core.component import Component
from casa_deepfocus.core.cube import Cube
from casa_deepfocus.core.detection import DetectionMap
from casa_deepfocus.core.focusing import crop_origin, focus, refine_position
from casa_deepfocus.core.geometry import covariance_to_shape
from casa_deepfocus.core.model3d import observed_covariance, source_mask
from casa_deepfocus.core.rotation import is_one_source
from casa_deepfocus.pipeline.leftover import Leftover, look_at_residual
from casa_deepfocus.pipeline.state import Clock, Networks, Result, Search, SourceDetail


def report(search: Search, cube: Cube, sigma: NDArray, first: DetectionMap, clock: Clock) -> Result:
    """Everything found, as tables and images; `sigma` and `first` are the input's own noise and integrated map."""
    for component in search.components:
        flag(component, search.cube, search.beam)
    indices = chains(
        search.components, search.cube.beam_covariance(), one_source=partial(is_one_source, search.fit)
    )  # fmt: skip
    parts = [[search.components[index] for index in chain] for chain in indices]
    parts.sort(key=lambda members: -max(max(c.snr_line, c.snr_cont) for c in members))
    sources = [members[0] if len(members) == 1 else join(members, search.cube.nchan) for members in parts]
    left = look_at_residual(search)
    reliable = _reliabilities(search, sources, left)
    kept = np.flatnonzero(reliable >= search.options.reliability)
    search.count("unreliable", len(sources) - kept.size)
    sources, parts = [sources[index] for index in kept], [parts[index] for index in kept]
    number_groups(sources, search.beam)
    table = cat.build(sources, reliable[kept], cube)
    _undo_map(table, [search.noise_at(source.x, source.y) for source in sources])
    if search.cube.nchan != cube.nchan:
        table["chan0"][:], table["chan1"][:] = 0, cube.nchan - 1
    mask = np.zeros(cube.data.shape, dtype=bool)
    details = []
    for number, (source, members) in enumerate(zip(sources, parts, strict=True)):
        row = table[number]
        detail = _detail(search, source, members, cube, (int(row["chan0"]), int(row["chan1"])))
        detail.name = str(row["name"])
        details.append(detail)
        place = brightest_place(detail, source, cube)
        table["ra_max"][number], table["dec_max"][number] = cat.sky_position(cube, *place)
        for member in members:
            add_to_mask(mask, member, cube, search.options.minsnr)
    noise = search.sigma if search.cube is cube else sigma
    note_run(table, noise, search.networks)
    if left.remarks:
        table.meta["residual"] = left.summary
    search.counts["sources"] = len(table)
    search.counts["components"] = len(search.components)
    return Result(
        table, search.probability, mask, first.image, noise, details, dict(clock.seconds), dict(search.counts),
        None if search.noise_map is None else search.noise_map.image,
        [scaled(component, search.noise_at(component.x, component.y)) for component in search.components],
    )  # fmt: skip


def _undo_map(table: Table, noise: Sequence[float]) -> None:
    """Multiply the fluxes of each row with the noise at its place, in place: they were found divided by it."""
    for name, _, dimension, _ in cat.COLUMNS:
        if dimension.startswith("Jy"):
            table[name] *= np.asarray(noise)


def scaled(component: Component, factor: float) -> Component:
    """A component with its fluxes multiplied."""
    return replace(component, amp=component.amp * factor, cont=component.cont * factor, slope=component.slope * factor)


def in_units(result: Result, unit: float) -> None:
    """Multiply every flux of a result with the unit of the data that it was found in [Jy/beam], in place."""
    table = result.catalogue
    for name, _, dimension, _ in cat.COLUMNS:
        if dimension.startswith("Jy"):
            table[name] *= unit
    table.meta["noise"] *= unit
    result.noise = result.noise * unit
    result.components = [scaled(component, unit) for component in result.components]
    for detail in result.details:
        for image in (detail.focused, detail.spectrum, detail.model):
            image *= np.float32(unit)


def note_run(table: Table, noise: NDArray, networks: Networks) -> None:
    """What made a catalogue, into its meta; `noise` (nchan,) [Jy/beam]."""
    table.meta["noise"] = float(np.nanmedian(noise))
    table.meta["software"] = f"casa_deepfocus {__version__}"
    table.meta["models"] = " ".join(str(networks.info[key]) for key in ("preset", "commit") if key in networks.info)


def add_to_mask(mask: NDArray[np.bool_], component: Component, cube: Cube, minsnr: float) -> None:
    """Set the voxels of a component: its dilated 3D model, and the whole band where it has a continuum."""
    observed = observed_covariance(np.maximum(component.covariance, [0, 0, -np.inf]), cube.beam_covariance())
    spans = [(component.chan, component.fwhm)] if component.has_line else []
    if not component.has_line or (component.has_cont and component.snr_cont >= minsnr):
        spans.append((np.nan, np.nan))
    for chan, fwhm in spans:
        slices, part = source_mask(mask.shape, component.x, component.y, observed, chan, fwhm)
        mask[slices] |= part


def brightest_place(detail: SourceDetail, source: Component, cube: Cube) -> tuple[float, float]:
    """(x, y) of the brightest place of a focused image within half the observed size of a source."""
    observed = observed_covariance(np.maximum(source.covariance, [0, 0, -np.inf]), cube.beam_covariance())
    reach = 0.5 * float(covariance_to_shape(observed)[0])
    x, y = source.x - detail.focused_origin[0], source.y - detail.focused_origin[1]
    rows, columns = np.indices(detail.focused.shape)
    near = np.where(np.hypot(columns - x, rows - y) <= max(reach, 1.5), detail.focused, -np.inf)
    near[~np.isfinite(near)] = -np.inf
    if not np.isfinite(near.max()):
        return source.x, source.y
    row, column = (int(value) for value in np.unravel_index(int(near.argmax()), near.shape))
    fx, fy = refine_position(detail.focused, column, row)
    return fx + detail.focused_origin[0], fy + detail.focused_origin[1]


def number_groups(components: Sequence[Component], beam: float) -> None:
    """Blend groups: chains of sources within a beam of each other."""
    for number, component in enumerate(components):
        component.group = number
    for number, component in enumerate(components):
        for other in components[:number]:
            reach = max(
                beam,
                0.5 * float(covariance_to_shape(component.covariance)[0] + covariance_to_shape(other.covariance)[0]),
            )
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
    """Flags of a component: unresolved, at the edge of the field or of the band, absorption, no measured PSF."""
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
    if component.absorption:
        component.flags.add("absorption")
    if not cube.psf_is_measured:
        component.flags.add("gaussian_psf")


def _reliabilities(search: Search, components: Sequence[Component], left: Leftover) -> NDArray:
    """Reliability of each component: of its line or of its continuum, whichever is the surer."""
    if not components:
        return np.empty(0)
    peaks = search.noise_peaks("integrated")
    # The floor has the tail of what wrong gains leave in it already: the depth is in its units, as the SNR is.
    scale = peaks.tail_scale(left.deepest * left.rms / search.floor)
    best = peaks.fitted().reliability([c.snr_cont / search.floor for c in components], scale)
    if search.lines:
        peaks = search.noise_peaks("line")
        snr = [c.snr_line if c.has_line else 0.0 for c in components]
        best = np.maximum(best, peaks.fitted().reliability(snr, peaks.tail_scale(left.deepest_line)))
    return best


def _detail(
    search: Search, source: Component, members: Sequence[Component], cube: Cube, span: tuple[int, int]
) -> SourceDetail:
    size = max(32, int(2 * round(4 * search.beam)))
    chan0, chan1 = span if source.has_line and search.cube.nchan == cube.nchan else (0, search.cube.nchan - 1)
    image, _ = focus(search.fit.data, chan0, chan1, search.sigma, (source.x, source.y), size)
    noise = [search.noise_at(member.x, member.y) for member in members]
    spectrum = np.sum(
        [level * search.fit.source_spectrum(member) for level, member in zip(noise, members, strict=True)], axis=0
    )
    model = np.sum(
        [level * member.spectrum(search.cube.nchan) for level, member in zip(noise, members, strict=True)], axis=0
    )
    corner = crop_origin((source.x, source.y), size)
    if search.noise_map is not None:
        image = image * search.noise_map.on_crop(corner, size)
    clean = source.clean if source.clean is not None and source.clean.size == cube.nchan else np.zeros(cube.nchan)
    if spectrum.size != cube.nchan:
        spectrum, model = np.full(cube.nchan, spectrum[0]), np.full(cube.nchan, model[0])
    return SourceDetail(
        "", (image / np.float32(chan1 - chan0 + 1)).astype(np.float32), corner,
        spectrum.astype(np.float32), np.asarray(clean, dtype=np.float32), model.astype(np.float32), *span,
    )  # fmt: skip
