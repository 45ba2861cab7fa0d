"""Lines of sources wider than the beam, looked for at coarser resolutions when the beam's own shows no more."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from casa_deepfocus.core.component import Component
from casa_deepfocus.core.geometry import FWHM_PER_SIGMA
from casa_deepfocus.core.noise import blank_to_zero, inverse_variance
from casa_deepfocus.core.scales import CoarseCube, WidePeak
from casa_deepfocus.pipeline.joint import is_promising
from casa_deepfocus.pipeline.lines import same_source
from casa_deepfocus.pipeline.state import Search

KERNELS = (1.0, 2.0)
"""FWHM of the Gaussians that the line cube is convolved with [beam]."""

SHOWN = 0.8
"""Fraction of the SNR that a line needs, that it shows at the resolution nearest to its own."""

ITERATIONS = 5
"""Steps of the fit that tells whether a candidate is worth the joint one."""


def extended_lines(search: Search, line: NDArray[np.float32]) -> list[Component]:
    """Candidates of the line cube at coarser resolutions, as components to be fitted.

    The fit decides; a candidate must show most of the SNR that it needs at one of the resolutions. Neither Blobs
    Finder nor the residual networks are asked: they know sources at the beam's resolution.

    Parameters
    ----------
    search : Search
    line : (nchan, ny, nx) float32 [Jy/beam], its residual without the continuum

    Returns
    -------
    list of Component, fitted alone, brightest first, none of them refused before
    """
    if not search.lines:
        return []
    level = SHOWN * search.limit("line")
    peaks: list[tuple[WidePeak, CoarseCube]] = []
    for kernel in KERNELS:
        coarse = CoarseCube(line, search.beam, kernel * search.beam)
        peaks += [(peak, coarse) for peak in coarse.peaks(level, search.well_inside)]
    kept: list[Component] = []
    for peak, coarse in sorted(peaks, key=lambda item: -item[0].snr):
        component = start(search, peak)
        if not _is_new(search, component) or _is_left_over(search, peak, coarse):
            continue
        search.fit.fit_alone(component, iterations=ITERATIONS)
        # The same source shows at both resolutions, and two on one would share its flux.
        repeated = any(same_source(component, other, 2.0 * search.beam) for other in kept)
        if is_promising(search, component) and not repeated:
            kept.append(component)
    search.count("extended", len(kept))
    return kept


def start(search: Search, peak: WidePeak) -> Component:
    """A line as wide on the sky as the kernel that shows the peak best, with the flux that it has there.

    It has no continuum of its own: a continuum as faint would only take from the line.
    """
    variance = (peak.kernel / FWHM_PER_SIGMA) ** 2
    component = Component(
        peak.x, peak.y, np.array([variance, variance, 0.0]), chan=peak.chan, fwhm=float(peak.width)
    )  # fmt: skip
    inside = search.fit.source_spectrum(component)[peak.chan0 : peak.chan1 + 1]
    component.amp = max(float(inside.mean()), 0.0)
    return component


def _is_new(search: Search, component: Component) -> bool:
    """Whether no candidate as wide was refused there; one of the beam's size that was says nothing."""
    least = 0.5 * float(component.covariance[0] + component.covariance[1])
    wide = [other for other in search.refused if float(other.covariance[0] + other.covariance[1]) >= least]
    return not any(same_source(component, other, 0.5 * search.beam) for other in wide)


def _is_left_over(search: Search, peak: WidePeak, coarse: CoarseCube) -> bool:
    """Whether a peak is no more than what fitted sources leave in the same channels.

    No source is a Gaussian: what is left beside it is as wide as itself, and has sidelobes all over the image.
    """
    if not search.components:
        return False
    part = slice(peak.chan0, peak.chan1 + 1)
    weights = inverse_variance(search.sigma)[part].astype(np.float32)
    data, residual = search.fit.data[part], search.fit.residual[part]
    model, left = (
        blank_to_zero(coarse.smoothed(np.tensordot(weights, blank_to_zero(cube), axes=1)[None])[0])
        for cube in (data - residual, residual)
    )
    row, column = (round((at - 0.5 * (coarse.step - 1)) / coarse.step) for at in (peak.y, peak.x))
    return float(left[row, column]) < search.options.dynamic_range * float(np.abs(model).max())
