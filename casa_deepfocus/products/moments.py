"""Moments of the lines that were found: of the image without the continua, in the lines' own voxels."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from casa_deepfocus.core.cube import Cube
from casa_deepfocus.core.model3d import observed_covariance, source_mask
from casa_deepfocus.pipeline.residual import residual
from casa_deepfocus.pipeline.state import Result
from casa_deepfocus.products import velocity

LEAST = 5.0
"""Moment 0 over its error from which moments 1 and 2 mean anything."""


@dataclass(frozen=True)
class Moments:
    """Moments of all lines.

    Attributes
    ----------
    total : (ny, nx) float32 [Jy/beam km/s], moment 0: the flux, not corrected for the primary beam; NaN without a line
    centre, width : (ny, nx) float32 [km/s], moments 1 and 2: mean and standard deviation of the velocity, where moment
        0 is `LEAST` times its error
    unit : str
        That of velocities: km/s, or Hz where the rest frequency is not known.
    without_continuum : (nchan, ny, nx) float32 [Jy/beam]
        The image that they are of; NaN in channels that are far from every line.
    """

    total: NDArray[np.float32]
    centre: NDArray[np.float32]
    width: NDArray[np.float32]
    unit: str
    without_continuum: NDArray[np.float32]

    @property
    def images(self) -> tuple[tuple[str, NDArray[np.float32], str], ...]:
        """Endings, maps, and units as FITS has them."""
        unit = "km s-1" if self.unit == "km/s" else self.unit
        return (
            ("mom0", self.total, f"Jy beam-1 {unit}"), ("mom1", self.centre, unit), ("mom2", self.width, unit)
        )  # fmt: skip


def moments(cube: Cube, result: Result, convention: str = velocity.RADIO) -> Moments | None:
    """The moments of a result; None where it has no line.

    Parameters
    ----------
    cube : Cube
    result : Result
    convention : str
        Of velocities: 'radio' or 'optical'.
    """
    mask = line_mask(cube, result)
    if mask is None:
        return None
    line = _without_continuum(cube, result, mask)
    known = cube.restfreq > 0
    speed = velocity.velocity(cube.freq, cube.restfreq, convention) if known else np.asarray(cube.freq, float)
    step = np.abs(np.gradient(speed))
    mask &= np.isfinite(line)
    noise = np.nan_to_num(np.asarray(result.noise, float))
    if noise.shape != (cube.nchan,):
        noise = np.full(cube.nchan, float(np.nanmedian(result.noise)))
    total, first, second, error = (np.zeros(cube.shape) for _ in range(4))
    # About the middle, for the differences of squares to keep their digits.
    middle = float(np.median(speed))
    low, high = np.full(cube.shape, np.inf), np.full(cube.shape, -np.inf)
    for chan in np.flatnonzero(mask.any(axis=(1, 2))):
        here, values = mask[chan], np.where(mask[chan], line[chan], 0.0) * step[chan]
        offset = speed[chan] - middle
        total += values
        first += offset * values
        second += offset**2 * values
        error += here * (noise[chan] * step[chan]) ** 2
        low[here], high[here] = np.minimum(low[here], offset), np.maximum(high[here], offset)
    error = np.sqrt(error) * (1.0 if result.noise_map is None else result.noise_map)
    with np.errstate(divide="ignore", invalid="ignore"):
        centre = first / total
        spread = second / total - centre**2
        good = (np.abs(total) > LEAST * error) & (centre >= low) & (centre <= high)
        centre = np.where(good, centre + middle, np.nan)
        width = np.where(good & (spread > 0), np.sqrt(np.maximum(spread, 0.0)), np.nan)
    seen = np.where(mask.any(axis=0), total, np.nan)
    return Moments(
        seen.astype(np.float32), centre.astype(np.float32), width.astype(np.float32), "km/s" if known else "Hz", line
    )


def _without_continuum(cube: Cube, result: Result, mask: NDArray[np.bool_]) -> NDArray[np.float32]:
    """The image without the fitted continua, in the channels of the lines and as many again beside them."""
    with_continuum = [part for part in result.components if part.has_cont]
    if not with_continuum:
        return cube.data
    seen = np.flatnonzero(mask.any(axis=(1, 2)))
    more = BESIDE + len(seen) // 2
    first, stop = max(0, int(seen[0]) - more), min(cube.nchan, int(seen[-1]) + more + 1)
    here = slice(first, stop)
    psf, pb = (planes[here] if len(planes) > 1 else planes for planes in (cube.psf, cube.pb))
    part_of = replace(cube, data=cube.data[here], freq=cube.freq[here], beams=cube.beams[here], psf=psf, pb=pb)
    # Continua are told at the middle of the band, which is another here.
    shift = 0.5 * (first + stop - 1) - 0.5 * (cube.nchan - 1)
    parts = []
    for part in with_continuum:
        alone = replace(part, cont=part.cont + part.slope * shift)
        alone.drop_line()
        parts.append(alone)
    noise = np.asarray(result.noise)
    noise = noise[here] if len(noise) == cube.nchan else noise
    line = np.full_like(cube.data, np.nan)
    line[here] = residual(part_of, replace(result, components=parts, noise=noise))
    return line


BESIDE = 3
"""Channels beside the lines at least, for a cut to show where they end."""


def line_mask(cube: Cube, result: Result) -> NDArray[np.bool_] | None:
    """(nchan, ny, nx) the dilated models of all lines, without the bands of continua; None where there is none."""
    lines = [part for part in result.components if part.has_line]
    if not lines or not np.isfinite(cube.freq).all() or cube.nchan < 2:
        return None
    shape = (cube.nchan, *cube.shape)
    mask = np.zeros(shape, dtype=bool)
    for part in lines:
        observed = observed_covariance(np.maximum(part.covariance, [0.0, 0.0, -np.inf]), cube.beam_covariance())
        slices, inside = source_mask(shape, part.x, part.y, observed, part.chan, part.fwhm)
        mask[slices] |= inside
    return mask if mask.any() else None
