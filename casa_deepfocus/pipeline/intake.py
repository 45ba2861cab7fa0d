"""What is done to a cube before anything is looked for in it: its scale, bad voxels, a background, and its noise.

Where the noise varies over the image all that follows is given an image that was divided by the map of it: its noise is
flat, so that levels, signal to noise, weights and reliabilities are local without knowing of it (`core.noisemap`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from casa_deepfocus.core.background import Background, measure_background
from casa_deepfocus.core.cube import Cube
from casa_deepfocus.core.noise import LEAST_NOISE, NO_NOISE, SAMPLE, assumed_noise, channel_noise, channel_peaks
from casa_deepfocus.core.noisemap import NoiseMap, measure_noise_map
from casa_deepfocus.core.psf import has_sidelobes
from casa_deepfocus.core.spikes import Spikes, mend_spikes
from casa_deepfocus.errors import DataError
from casa_deepfocus.pipeline.state import Log

SHOWN = 5
"""Places that the log names."""

LOOKS = 3
"""How often bad voxels are looked for: what is a billion times the noise hides what is a thousand times it."""

LARGEST_RANGE = 40
"""Powers of two that the brightest thousandth of the pixels may have over their median in the scaled data: without
noise the median is far down in the tails of the beam."""


@dataclass(frozen=True)
class Intake:
    """A cube made ready to be searched.

    Attributes
    ----------
    cube : Cube, its data in units of `unit`, divided by the map of the noise where there is one
    sigma : (nchan,) float64 [unit]; NaN for flagged channels
    unit : float [Jy/beam], a power of two: what is multiplied with it has the digits that it had
    peaks : (nchan,) [unit], of the data; `core.noise.channel_noise` takes them
    assumed : float [unit], the noise that was assumed, there being none; 0 where there is some
    noise_map : NoiseMap or None, what the data were divided by
    """

    cube: Cube
    sigma: NDArray[np.float64]
    unit: float
    peaks: NDArray[np.float64]
    assumed: float
    noise_map: NoiseMap | None = None


def take_in(cube: Cube, log: Log, *, noise_map: bool = True) -> Intake:
    """Scale a cube by its noise, mend its bad voxels, take a background off it, measure its noise, and make that flat.

    Squares of scaled data and inverse variances are far from the limits of float32, whatever the unit was.

    Parameters
    ----------
    cube : Cube, left as it is
    log : Log
    noise_map : bool, whether the noise may vary over the image

    Returns
    -------
    Intake

    Raises
    ------
    DataError
        When no channel holds data.
    """
    exponent = _exponent(cube.data)
    with np.errstate(over="ignore"):
        # What is infinite then is a voxel to be mended.
        data = np.ldexp(cube.data, -exponent)
    unit = float(np.ldexp(1.0, exponent))
    peaks = channel_peaks(data)
    sigma = channel_noise(data, peaks)
    cube = cube.with_data(data)
    flat = None
    if noise_map and not assumed_noise(sigma, peaks):
        # What is far above the noise elsewhere is not far above that at its place.
        flat = _flatten(cube)
        if flat is not None:
            sigma = channel_noise(data, peaks)
    for _ in range(LOOKS):
        spikes = mend_spikes(data, sigma, cube.beam_covariance())
        _tell_spikes(spikes, log)
        if not spikes.voxels:
            break
        peaks = channel_peaks(data)
        sigma = channel_noise(data, peaks)
    if flat is not None:
        # A background is not divided by the noise, and bad voxels or a background may have been part of that.
        data *= flat.image
    if _level(cube, unit, log):
        peaks = channel_peaks(data)
        sigma = channel_noise(data, peaks)
    assumed = assumed_noise(sigma, peaks)
    if assumed:
        tell_assumed(assumed * unit, log)
    if flat is not None:
        flat = None if assumed else _flatten(cube)
        peaks = channel_peaks(data)
        sigma = channel_noise(data, peaks)
    return Intake(cube, sigma, unit, peaks, assumed, flat)


def _flatten(cube: Cube) -> NoiseMap | None:
    """Divide the data by the map of their noise, in place; None where there is none."""
    known = np.flatnonzero(cube.psf[:, cube.psf.shape[1] // 2, cube.psf.shape[2] // 2] > 0.5)
    if known.size == 0:
        return None
    psf = cube.psf[known[known.size // 2]]
    noise_map = measure_noise_map(cube.data, psf, cube.beam_pixels(), divided=cube.corrected)
    if noise_map is not None:
        noise_map.flatten(cube.data)
    return noise_map


def tell_assumed(noise: float, log: Log) -> None:
    """Say that the noise [Jy/beam] was assumed."""
    log(
        f"the image has no noise, or less than {NO_NOISE:g} of its peak: {LEAST_NOISE:g} of the peak, {noise:.3g} "
        "Jy/beam, is taken for it. Errors are those of such noise; what is fainter is lost",
        "WARN",
    )


def _exponent(data: NDArray) -> int:
    """Power of two near the median of a part of the data that are not 0."""
    flat = data.ravel()
    size = np.abs(flat[:: (flat.size // SAMPLE) | 1])
    size = size[np.isfinite(size) & (size > 0)]
    if size.size == 0:
        size = np.abs(flat[np.isfinite(flat) & (flat != 0)])
    if size.size == 0:
        raise DataError("the image holds no data: every channel is blank or zero. Check the selection and flags.")
    middle, high = np.frexp(np.quantile(size.astype(float), [0.5, 0.999]))[1]
    return int(max(middle, high - LARGEST_RANGE))


def _tell_spikes(spikes: Spikes, log: Log) -> None:
    if spikes.voxels:
        log(
            f"{len(spikes.voxels)} voxels are what no beam can make, at (channel, x, y) {_shown(spikes.voxels)}: "
            "bad data, replaced by what the pixels around them say",
            "WARN",
        )
    if spikes.narrow:
        log(
            f"{len(spikes.narrow)} places are narrower than the beam, at (channel, x, y) {_shown(spikes.narrow)}: "
            "check the beam of the image against its PSF",
            "WARN",
        )


def _shown(places: Sequence[tuple[int, int, int]]) -> str:
    more = f" and {len(places) - SHOWN} more" if len(places) > SHOWN else ""
    return ", ".join(str(place) for place in places[:SHOWN]) + more


def _level(cube: Cube, unit: float, log: Log) -> bool:
    """Take the background of each plane off a cube whose PSF has all spacings, in place; else only tell of it. True if
    anything was taken off."""
    sidelobes = has_sidelobes(cube)
    found: dict[int, Background] = {}
    for chan, plane in enumerate(cube.data):
        background = measure_background(plane, cube.beam_pixels())
        # Sidelobes of a bright source are as wide, but of both signs.
        if background is not None and (background.least > 1.0 or not sidelobes):
            found[chan] = background
    if not found:
        return False
    worst = max(found.values(), key=lambda one: one.largest)
    text = f"{len(found)} of {cube.nchan} channels have a background, of up to {worst.largest:.1f} sigma"
    if sidelobes:
        log(f"{text}: an interferometer sees none. It counts as noise, so that errors are too large", "WARN")
        return False
    for chan, background in found.items():
        cube.data[chan] -= background.image(cube.shape)
    level = f"{worst.level * unit:.3g} Jy/beam in the middle of the image"
    log(f"{text} ({level}): a level and a gradient are taken off", "WARN")
    return True
