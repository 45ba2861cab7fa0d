"""The result: catalogue, mask, reliabilities, and the pictures' material."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from casa_deepfocus.core import catalogue as cat
from casa_deepfocus.core.cube import Cube
from casa_deepfocus.core.detection import DetectionMap, LineSearch, integrated_map
from casa_deepfocus.core.fit import Component
from casa_deepfocus.core.focusing import focus
from casa_deepfocus.core.geometry import covariance_to_shape
from casa_deepfocus.core.model3d import observed_covariance, source_mask
from casa_deepfocus.core.reliability import independent_trials, reliability, tail_scale
from casa_deepfocus.pipeline.detect import line_cube
from casa_deepfocus.pipeline.state import Clock, Result, Search, SourceDetail


def report(search: Search, cube: Cube, sigma: NDArray, first: DetectionMap, clock: Clock) -> Result:
    """Everything found, as tables and images; `sigma` and `first` are the input's own noise and integrated map."""
    noise = search.sigma if search.cube is cube else sigma
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
        table, search.probability, mask, first.image, noise, details, dict(clock.seconds), dict(search.counts)
    )


def _number_groups(components: Sequence[Component], beam: float) -> None:
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


def _reliabilities(search: Search, components: Sequence[Component]) -> NDArray:
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


def _detail(search: Search, component: Component, cube: Cube, name: str, chan0: int, chan1: int) -> SourceDetail:
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
