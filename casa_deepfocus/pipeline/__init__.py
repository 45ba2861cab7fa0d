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

from collections.abc import Callable
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from casa_deepfocus.core.agreement import correlation_ratio
from casa_deepfocus.core.continuum import fit_continuum, line_free_channels, subtract_continuum
from casa_deepfocus.core.cube import Cube
from casa_deepfocus.core.detection import integrated_map, weighted_mean
from casa_deepfocus.core.fit import JointFit
from casa_deepfocus.core.geometry import covariance_to_shape
from casa_deepfocus.core.mosaic import LEFT_OUT, Pointings
from casa_deepfocus.core.noise import blank_to_zero, channel_noise, channel_peaks, inverse_variance
from casa_deepfocus.core.psf import Imager, has_sidelobes
from casa_deepfocus.core.whitening import NoiseModel, as_natural
from casa_deepfocus.errors import DataError
from casa_deepfocus.pipeline.blends import settle
from casa_deepfocus.pipeline.blobs import detect
from casa_deepfocus.pipeline.extended import extended_lines
from casa_deepfocus.pipeline.flatness import Flatness, tell_map
from casa_deepfocus.pipeline.intake import Intake, take_in, tell_assumed
from casa_deepfocus.pipeline.joint import refine, refine_lines
from casa_deepfocus.pipeline.lines import (
    denoise,
    focus_and_decide,
    is_new,
    lines_of_known_sources,
    start_component,
)
from casa_deepfocus.pipeline.measure import measure_fluxes, measure_shapes
from casa_deepfocus.pipeline.outside import Outside
from casa_deepfocus.pipeline.paper import run_decoras, run_paper
from casa_deepfocus.pipeline.result import in_units, report
from casa_deepfocus.pipeline.state import (
    MIN_LINE_CHANNELS,
    MODES,
    RAISED,
    Clock,
    Log,
    Networks,
    Options,
    Result,
    Search,
    SourceDetail,
    silent,
)

SMOOTHED = 1.5
"""Area over which noise is correlated, in main lobes of the PSF, from which an image was smoothed: by a Gaussian of
half a beam, which makes fluxes a quarter too high. It was 0.76 to 1.06 in the mean of 15 of 16 fields of `alma`, seed
77; wrong gains made 2.6 in one, but 0.94 in its channel."""

FEWEST_PLANES = 3
"""Channels whose second differences show the noise alone (`core.noisemap`)."""

CHANCE = 10.0
"""Five times the scatter of that area, on one beam; it goes as the root of the number of beams. A channel of 71 beams
had 1.37."""

__all__ = ["MIN_LINE_CHANNELS", "MODES", "Networks", "Options", "Result", "SourceDetail", "collapse", "run"]


FLOWS = {"paper": run_paper, "decoras": run_decoras}
"""The flows of other sets of networks, by what their manifest says; `run` itself is 'default'."""


def run(
    cube: Cube,
    networks: Networks,
    options: Options | None = None,
    *,
    log: Log = silent,
    progress: Callable[[str, int], None] | None = None,
) -> Result:
    """Find and characterise the sources of a dirty cube.

    Parameters
    ----------
    cube : Cube, not corrected for the primary beam
    networks : Networks; `info["flow"]` says what they are for: ours (the default) or one of `FLOWS`
    options : Options, optional
    log : Log, for one line a step, and warnings
    progress : callable on (round and step, number of sources so far), at each step, optional

    Returns
    -------
    Result

    Raises
    ------
    DataError
        The cube holds no data, or mode 'line' is asked of an image without a spectrum.
    """
    options = options or Options()
    flow = networks.info.get("flow", "default")
    if flow != "default":
        return FLOWS[flow](cube, networks, options, log=log)
    # Small matrices: threads of the linear algebra only wait for each other, and change the last bits.
    with threadpool_limits(limits=1, user_api="blas"):
        return _run(cube, networks, options, log, progress)


def _run(
    cube: Cube, networks: Networks, options: Options, log: Log, progress: Callable[[str, int], None] | None
) -> Result:
    here = ("", 0)

    def told(name: str) -> None:
        if progress is not None:
            progress(here[0] + name, here[1])

    clock = Clock(told)
    if options.mode == "line" and cube.nchan < MIN_LINE_CHANNELS:
        raise DataError(f"mode='line' needs at least {MIN_LINE_CHANNELS} channels; the image has {cube.nchan}")
    if options.noise_map is None:
        options = replace(options, noise_map=_noise_may_vary(cube))
    with clock.step("noise"):
        taken = take_in(cube, log, noise_map=bool(options.noise_map))
        cube, sigma, unit = taken.cube, taken.sigma, taken.unit
        first = integrated_map(cube.data, sigma)
        natural, was = (cube, NoiseModel()) if taken.assumed else as_natural(cube, sigma)
        noise = sigma if natural is cube else channel_noise(natural.data, taken.peaks)
        search = _prepare(natural, networks, options, noise, taken)
    log(f"noise: {np.nanmedian(sigma) * unit:.4g} Jy/beam a channel (median of {np.isfinite(sigma).sum()} channels)")
    if taken.noise_map is not None:
        tell_map(taken.noise_map, log)
    if natural is not cube:
        beam = f"beam {search.beam * cube.cell:.3g} arcsec"
        log(f"{was}: image and PSF are convolved to natural weighting's noise ({beam})")
    sidelobes = cube.psf_is_measured and has_sidelobes(cube)
    # The few pointings at the edge that see a source outside of a mosaic see it at a tenth of its flux or less, and its
    # sidelobes end with theirs: patterns over the whole image do not fit.
    outside = Outside(search, log, sidelobes=sidelobes and cube.mosaic is None)
    flatness = Flatness(search, outside, log)
    with clock.step("outside"):
        outside.look()
    for number in range(1, options.rounds + 1):
        here = (f"round {number}, ", len(search.components))
        with clock.step("detection"):
            line, maps, blobs = detect(search)
            blobs = outside.above_unknown(blobs, maps)
        with clock.step("spectra"):
            spectra = denoise(search, line, maps, blobs)
        with clock.step("focusing"):
            candidates = focus_and_decide(search, line, spectra)
            found = [start_component(search, line, candidate) for candidate in candidates]
            found = [item for item in found if is_new(search, item.component)]
        with clock.step("morphology"):
            measure_shapes(search, found)
        with clock.step("flux"):
            measure_fluxes(search, found)
        added = 0
        if found:
            with clock.step("fit"):
                added = refine(search, [item.component for item in found])
                added += refine_lines(search, lines_of_known_sources(search))
            if added:
                # What was refused beside the model as it was may be what is missing in it now.
                search.refused.clear()
        if not added:
            with clock.step("extended"):
                wide = extended_lines(search, line)
                added = refine(search, wide) if wide else 0
        if not added:
            with clock.step("blends"):
                added = settle(search)
        with clock.step("outside"):
            added += outside.renew() if found or added else 0
        renewed = False
        if not added or search.noise_map is not None:
            with clock.step("noise"):
                renewed = flatness.renew()
        if not found and not added and not renewed:
            break
        log(f"round {number}: {len(blobs)} blobs, {len(found)} candidates, {len(search.components)} sources so far")
        if not added and not renewed:
            break
        search.count("rounds", 1)
    with clock.step("catalogue"):
        result = report(search, cube, sigma, first, clock)
    if search.floor > RAISED:
        log(
            f"dynamic range: the residual image has {search.floor:.1f} times the noise, as errors of the gains or "
            f"sources that are no Gaussians leave it; a continuum must exceed {search.limit('integrated'):.1f} sigma"
        )
        result.catalogue.meta["dynamic_range_floor"] = search.floor
    if "residual" in result.catalogue.meta:
        log(
            f"what is left without the sources is not noise: {result.catalogue.meta['residual']}. Sources near there "
            "may be missing, or be pieces of others: look at the residual image",
            "WARN",
        )
    if outside.sources:
        result.catalogue.meta["outside"] = outside.summary()
    if sidelobes:
        _tell_smoothed(search, log)
    if search.assumed and not taken.assumed:
        tell_assumed(search.assumed * unit, log)
    in_units(result, unit)
    result.timings = dict(clock.seconds)
    log(f"{len(result.catalogue)} sources")
    return result


def _noise_may_vary(cube: Cube) -> bool:
    """Whether what varies over an image can be told to be its noise.

    Channels tell it from all that stays the same in them. In a single image emission with structure passes for noise,
    by what its fit leaves of it: of a real disc most sources were lost. Noise there is flat unless the image was
    divided by something, and so it is in a mosaic of our own making.
    """
    return cube.mosaic is None and (cube.nchan >= FEWEST_PLANES or cube.corrected)


def _tell_smoothed(search: Search, log: Log) -> None:
    """Warn where what is left is correlated over more than the PSF: in a channel and in the mean of all of them."""
    weights = inverse_variance(search.sigma)
    best = int(np.argmax(weights))
    images = (weighted_mean(search.fit.residual, weights), search.fit.residual[best])
    ratios = [correlation_ratio(np.where(search.inside, image, np.nan), search.imager.plane(best)) for image in images]
    beams = float(search.inside.sum()) / search.beam**2
    if min(ratios) > max(SMOOTHED, 1.0 + CHANCE / float(np.sqrt(beams))):
        log(
            f"what is left without the sources is correlated over {min(ratios):.1f} times the area of the PSF's main "
            "lobe: the image was smoothed after it was made, or the PSF is another image's; its fluxes are wrong then",
            "WARN",
        )


def _prepare(cube: Cube, networks: Networks, options: Options, sigma: NDArray, taken: Intake) -> Search:
    """What is searched and fitted in each mode: the cube, its lines, or its continuum image."""
    data = blank_to_zero(cube.data)
    blank = ~np.isfinite(cube.data)
    work, peaks = cube, taken.peaks
    if options.mode == "continuum" and cube.nchan > 1:
        work = collapse(cube, sigma)
        data, blank, peaks = blank_to_zero(work.data), ~np.isfinite(work.data), channel_peaks(work.data)
        sigma = channel_noise(work.data, peaks)
    elif options.mode == "line":
        continuum = fit_continuum(data, sigma, line_free_channels(data, sigma))
        if continuum.significant:
            data = subtract_continuum(data, continuum)
            sigma = channel_noise(np.where(blank, np.nan, data), peaks)
    if blank.any():
        data[blank] = np.nan
    imager = Imager(work.psf, work.shape, modulation=taken.noise_map, pointings=_pointings(work, sigma))
    fit = JointFit(data, sigma, imager, work.beam_covariance())
    probability = np.zeros(cube.shape, dtype=np.float32)
    return Search(
        work, networks, options, sigma, fit, imager, probability, taken.unit, peaks, taken.assumed, taken.noise_map
    )


LEFT = 0.1
"""What the PSFs of a mosaic's pointings may leave of the brightest pixel [sigma of its channel], in rms over the image:
the SNR of what is left is a tenth of what noise has."""


def _pointings(cube: Cube, sigma: NDArray) -> Pointings | None:
    """Those of a mosaic, at the middle of the band: over a band of 2 per cent K changes by less than 2 per cent."""
    if cube.mosaic is None:
        return None
    nearest = int(np.argmin(np.abs(cube.freq - cube.mosaic.freq))) if len(cube.psf) > 1 else 0
    brightest = float(np.nanmax(channel_peaks(cube.data) / sigma, initial=1.0))
    return Pointings(
        cube.mosaic, cube.shape, float(np.mean(cube.freq)), cube.psf[nearest], left=max(LEFT_OUT, LEFT / brightest)
    )


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
    data = np.tensordot(weights, blank_to_zero(cube.data), axes=1)
    data[blank] = np.nan
    mean = {
        name: np.tensordot(weights, array, axes=1)[None] if array.shape[0] > 1 else array
        for name, array in (("psf", cube.psf), ("pb", cube.pb))
    }
    freq = np.array([float((weights * cube.freq).sum())])
    # The median of the shapes: angles on both sides of north have none.
    maj, minor, pa = covariance_to_shape(cube.beam_covariance())
    beam = np.array([[maj * cube.cell, minor * cube.cell, pa]])
    return replace(cube, data=data[None], psf=mean["psf"], pb=mean["pb"], freq=freq, beams=beam)
