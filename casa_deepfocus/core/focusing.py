"""Step (iii) of the paper's section 4.4, first half: spectral focusing, the two SNRs, and what grows from them.

The paper divides by the variance (eq. 17 and 18); that ratio changes with the unit of the data.
Here the noise is always the standard deviation, so every SNR is in units of sigma.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import maximum_filter

from casa_deepfocus.core.boxes import Box
from casa_deepfocus.core.spectra import MAD_TO_SIGMA, Peak, channel_range
from casa_deepfocus.errors import DataError, ParameterError

FOCUS_HALF_WIDTH = 0.6
"""Focusing integrates the line's centre -+ this many FWHM: the width that maximises the SNR of a Gaussian line."""


def crop_origin(centre: tuple[float, float], size: int) -> tuple[int, int]:
    """(x, y) of the first pixel of a crop of `size` pixels around `centre`; may lie outside the image."""
    return round(centre[0]) - size // 2, round(centre[1]) - size // 2


def focus_range(peak: Peak, nchan: int, half_width: float = FOCUS_HALF_WIDTH) -> tuple[int, int]:
    """The inclusive channels over which a line is integrated: its centre -+ `half_width` FWHM."""
    return channel_range(peak.chan, half_width * peak.fwhm, nchan)


def focus(
    cube: NDArray,
    chan0: int,
    chan1: int,
    sigma: NDArray,
    centre: tuple[float, float] | None = None,
    size: int | None = None,
) -> tuple[NDArray[np.float32], float]:
    """The spectrally focused image: the sum of a range of channels (section 4.4 iii).

    Parameters
    ----------
    cube : (nchan, ny, nx) float [Jy/beam], NaN where masked
    chan0, chan1 : int [channel], inclusive
    sigma : (nchan,) float [Jy/beam], noise of each channel
        A channel whose noise is not a positive number is left out.
    centre : (x, y) [pixel], optional
    size : int [pixel], optional
        Side of a square crop around `centre`, which falls on pixel (size//2, size//2);
        NaN beyond the image. Both or neither of `centre` and `size`.

    Returns
    -------
    image : (ny, nx) or (size, size) float32 [Jy/beam times channel]
        NaN channels of a pixel are skipped; NaN where a pixel has none.
    noise : float [Jy/beam times channel]
        Rms of the sum when the channels are independent; NaN when no channel can be used.

    Raises
    ------
    DataError
        `sigma` does not have one value a channel.
    ParameterError
        The range is not inside the band, or only one of `centre` and `size` is given.
    """
    nchan, ny, nx = cube.shape
    noise = np.asarray(sigma, dtype=float)
    if noise.shape != (nchan,):
        raise DataError(f"sigma must have one value for each of the {nchan} channels; it has shape {noise.shape}")
    if not 0 <= chan0 <= chan1 < nchan:
        raise ParameterError("chan0, chan1", (chan0, chan1), f"the band has channels 0 to {nchan - 1}")
    if (centre is None) != (size is None):
        raise ParameterError("centre, size", (centre, size), "a crop needs both", "Give both, or neither")
    if centre is None or size is None:
        image, rows, columns = np.full((ny, nx), np.nan, np.float32), slice(0, ny), slice(0, nx)
        inside = (rows, columns)
    else:
        left, bottom = crop_origin(centre, size)
        image = np.full((size, size), np.nan, np.float32)
        rows, columns = slice(max(bottom, 0), min(bottom + size, ny)), slice(max(left, 0), min(left + size, nx))
        if rows.start >= rows.stop or columns.start >= columns.stop:
            return image, float("nan")
        inside = (
            slice(rows.start - bottom, rows.stop - bottom),
            slice(columns.start - left, columns.stop - left),
        )
    used = chan0 + np.flatnonzero(np.isfinite(noise[chan0 : chan1 + 1]) & (noise[chan0 : chan1 + 1] > 0))
    whole = used.size == chan1 - chan0 + 1
    stack = cube[chan0 : chan1 + 1, rows, columns] if whole else cube[used, rows, columns]
    finite = np.isfinite(stack)
    total = np.sum(stack, axis=0, dtype=np.float64, where=finite)
    present = finite.any(axis=(1, 2))
    if not present.any():
        return image, float("nan")
    image[inside] = np.where(finite.any(axis=0), total, np.nan)
    return image, float(np.sqrt(np.sum(noise[used[present]] ** 2)))


def _distance_squared(shape: tuple[int, int], centre: tuple[float, float]) -> NDArray[np.float64]:
    """Squared distance of every pixel from (x, y) [pixel^2]."""
    return (np.arange(shape[0])[:, None] - centre[1]) ** 2 + (np.arange(shape[1])[None, :] - centre[0]) ** 2


def global_snr(image: NDArray, box: Box, sigma: float | None = None) -> float:
    """Global SNR of a source (eq. 17, with the standard deviation).

    The median of the pixels in the circle inscribed in the box, over the noise. Without `sigma`
    the noise is the robust scatter in the annulus of the same area around that circle, as in the
    paper; that annulus holds less than a beam of a compact source, so give `sigma` where it is
    known.

    Parameters
    ----------
    image : (ny, nx) float [any unit], a focused image
    box : Box [pixel of this image], may stick out of it
    sigma : float [unit of the image], optional

    Returns
    -------
    float [sigma] : NaN when the circle has no finite pixel, or the noise is not positive
    """
    radius = max(0.5 * min(box.width, box.height), 1.0)
    square = _distance_squared(image.shape, box.centre)
    source = image[square <= radius**2]
    source = source[np.isfinite(source)]
    if source.size == 0:
        return float("nan")
    if sigma is None:
        ring = image[(square > radius**2) & (square <= 2.0 * radius**2)]
        ring = ring[np.isfinite(ring)]
        noise = MAD_TO_SIGMA * float(np.median(np.abs(ring - np.median(ring)))) if ring.size else 0.0
    else:
        noise = float(sigma)
    return float(np.median(source)) / noise if np.isfinite(noise) and noise > 0 else float("nan")


def aperture(box: Box, pixel: tuple[int, int] | None, radius: float) -> Box:
    """The square in whose inscribed circle a source's global SNR is measured.

    Eq. 17 takes the circle of the source's box. A box grown on noisy pixels is too large or off
    centre, and the median over it says little; so the circle is put on the brightest pixel, and it
    is not larger than the box's own nor than `radius`.

    Parameters
    ----------
    box : Box
    pixel : (x, y) int [pixel]; the box's centre when None
    radius : float [pixel]
    """
    half = int(max(min(0.5 * min(box.width, box.height), radius), 1.0))
    x, y = pixel if pixel is not None else (round(box.centre[0]), round(box.centre[1]))
    return Box(x - half, y - half, x + half, y + half)


def pixel_snr(image: NDArray, sigma: float) -> NDArray[np.float64]:
    """Pixel SNR (eq. 18, with the standard deviation).

    Parameters
    ----------
    image : (ny, nx) float [any unit]
    sigma : float [unit of the image]

    Returns
    -------
    (ny, nx) float64 [sigma] : NaN where the image is, or everywhere when the noise is not positive
    """
    noise = sigma if np.isfinite(sigma) and sigma > 0 else np.nan
    return np.asarray(image, dtype=float) / noise


def snr_increases(before: float, after: float, factor: float = 1.0) -> bool:
    """Whether an SNR grew by more than `factor`; False when `after` is NaN, True when only `before` is."""
    if np.isnan(after):
        return False
    return bool(np.isnan(before) or after > factor * before)


def brightest_pixel(image: NDArray, region: Box) -> tuple[int, int] | None:
    """The brightest local maximum of an image inside a region.

    A pixel on the slope of something brighter outside the region does not count, so a
    neighbour's wing is not taken for a source.

    Parameters
    ----------
    image : (ny, nx) float, NaN where masked
    region : Box [pixel of this image], may stick out of it

    Returns
    -------
    (x, y) [pixel], or None when the region holds no local maximum
    """
    values = np.where(np.isfinite(image), image, -np.inf)
    inside = region.clip(image.shape)
    around = inside.grow(1).clip(image.shape)
    cut = values[around.slices]
    summit = (cut == maximum_filter(cut, size=3, mode="constant", cval=-np.inf)) & np.isfinite(cut)
    allowed = np.zeros(cut.shape, dtype=bool)
    allowed[inside.shift(-around.x0, -around.y0).slices] = True
    summit &= allowed
    if not summit.any():
        return None
    y, x = np.unravel_index(np.argmax(np.where(summit, cut, -np.inf)), cut.shape)
    return int(x) + around.x0, int(y) + around.y0


def refine_position(image: NDArray, x: int, y: int) -> tuple[float, float]:
    """Sub-pixel position of a maximum: the vertices of the parabolas through it and its neighbours.

    Parameters
    ----------
    image : (ny, nx) float
    x, y : int [pixel], a local maximum

    Returns
    -------
    (x, y) float [pixel], at most half a pixel away; unmoved along an axis with a missing neighbour
    """
    refined = []
    for axis, position in ((1, x), (0, y)):
        shift = 0.0
        if 0 < position < image.shape[axis] - 1:
            low, mid, high = (float(v) for v in (image[y, x - 1 : x + 2] if axis == 1 else image[y - 1 : y + 2, x]))
            curvature = low - 2.0 * mid + high
            if np.isfinite(curvature) and curvature < 0:
                shift = float(np.clip(0.5 * (low - high) / curvature, -0.5, 0.5))
        refined.append(position + shift)
    return refined[0], refined[1]


def grow_friends(
    image: NDArray, seed: tuple[int, int], sigma: float, linking: int = 1, step: float = 0.05
) -> tuple[NDArray[np.bool_], float]:
    """Friends-of-friends growth of a source around its brightest pixel, to the plateau of the SNR.

    Each iteration lowers the level by `step` of the seed's value and links the pixels above it that
    lie within the linking length of a member and are not brighter than the members around them (a
    pixel that rises again belongs to a neighbour). After each iteration the SNR of the members'
    sum is measured; the growth stops at its maximum. The SNR of the sum (sum / (sigma sqrt N)) takes
    the place of eq. 17's, whose median over a known sigma falls from the first pixel on. For a
    Gaussian the plateau is the contour at 28 % of the peak.

    Parameters
    ----------
    image : (ny, nx) float [any unit], NaN where masked
    seed : (x, y) int [pixel], a finite, positive pixel
    sigma : float [unit of the image]
    linking : int [pixel], linking length along x and y; 1 links the eight neighbours
    step : float, fraction of the seed's value

    Returns
    -------
    members : (ny, nx) bool
    snr : float [sigma, if the pixels were independent], of the members' sum

    Raises
    ------
    ParameterError
        The seed is not a positive pixel of the image, or `sigma` is not positive.
    """
    x, y = seed
    ny, nx = image.shape
    if not (0 <= x < nx and 0 <= y < ny and np.isfinite(image[y, x]) and image[y, x] > 0):
        raise ParameterError("seed", seed, "must be a positive pixel of the image")
    if not sigma > 0:
        raise ParameterError("sigma", sigma, "the noise must be positive")
    values = np.where(np.isfinite(image), image, -np.inf).astype(float)
    members = np.zeros(image.shape, dtype=bool)
    members[y, x] = True
    best, best_snr = members.copy(), float(values[y, x] / sigma)
    for level in values[y, x] * np.arange(1.0 - step, 0.0, -step):
        above = values >= level
        while True:
            around = maximum_filter(np.where(members, values, -np.inf), size=2 * linking + 1)
            friends = above & ~members & (values <= around)
            if not friends.any():
                break
            members |= friends
        if members.sum() == best.sum():
            continue
        snr = float(values[members].sum() / (sigma * np.sqrt(members.sum())))
        if snr < best_snr:
            break
        best, best_snr = members.copy(), snr
    return best, best_snr


def subtract_source(
    image: NDArray, noise: float, source: NDArray, source_noise: float, pixel: tuple[int, int], shared: float = 0.0
) -> tuple[NDArray, float]:
    """An image without a source that is known from another range of channels.

    The source's own focused image, sidelobes included, is scaled to vanish at its brightest pixel;
    imaging is linear, so what is left belongs to others.

    Parameters
    ----------
    image : (ny, nx) [any unit], with rms `noise`
    source : (ny, nx) [same unit], the image focused on the source, with rms `source_noise`
    pixel : (x, y) [pixel], the source's brightest pixel
    shared : float [unit^2], variance of the channels that both images integrate

    Returns
    -------
    residual : (ny, nx)
    noise : float, its rms
    """
    x, y = pixel
    scale = float(image[y, x] / source[y, x]) if source[y, x] > 0 and np.isfinite(image[y, x]) else 0.0
    scale = max(scale, 0.0)
    variance = noise**2 + (scale * source_noise) ** 2 - 2.0 * scale * shared
    return image - scale * source, float(np.sqrt(max(variance, 0.0)))
