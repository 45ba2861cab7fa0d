"""The point-spread function and the primary beam of an image, from pixels to what the core takes, or refused.

Their headers are held against the image's in `reading.consistency`; here it is their values that must be possible.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from casa_deepfocus.errors import DataError
from casa_deepfocus.reading.grid import Grid

PEAK_TOLERANCE = 0.01
"""Largest difference of a PSF's peak from 1. tclean's are 1 to single precision (27 sets of images, all weightings and
gridders 'standard' and 'mosaic'); a PSF that was regridded, rebinned or averaged has lost more."""

SIDELOBE_TOLERANCE = 1e-3
"""How much a sidelobe may exceed the peak: for rounding only, as weights that are not negative cannot do it."""

CENTRE_TOLERANCE = 1
"""Largest distance [pixel] along an axis of a PSF's peak from pixel n // 2, where CASA, AIPS and WSClean put it: others
count from 1, or put it at (n - 1) // 2."""

LEAST_LOBES = 3.0
"""Smallest side of a PSF [beams]: a Gaussian main lobe has fallen to 0.002 of its peak at 1.5."""

PB_PEAK = 1.05
"""Largest response of a primary beam; a mosaic's, joined from several, may exceed 1 slightly."""

PB_LEAST = -0.02
"""Smallest response: fitted polynomials fall below 0 far out. A beam in dB is negative nearly everywhere."""

PB_LEAST_PEAK = 0.95
"""Smallest highest response of a primary beam whose highest response is not at the edge of the image, which may be a
part of a field."""

Log = Callable[..., None]


def usable_psf(
    planes: NDArray[np.float32], reference: tuple[float, float] | None, name: str, log: Log
) -> NDArray[np.float32]:
    """The PSFs with their peak, 1, in the middle pixel.

    Parameters
    ----------
    planes : (n, py, px) float32, changed in place; NaN or 0 where there is none
    reference : (y, x) [pixel] or None : the reference pixel of the header, where a cut PSF has its peak
    name : str
    log : callable (message, priority)

    Returns
    -------
    (n, py, px) float32 : peak 1 at (py//2, px//2), 0 where masked; empty planes are their neighbours'

    Raises
    ------
    DataError
    """
    # Plane by plane: PSFs are the largest of all arrays, and a copy of all of them would be another one.
    for plane in planes:
        np.nan_to_num(plane, copy=False)
    good = np.flatnonzero([plane.any() for plane in planes])
    if len(good) == 0:
        raise DataError(f"the psf {name!r} is empty: all of its pixels are zero or blank")
    y, x = _centre(planes, reference)
    peaks = planes[good, y, x]
    highest = np.array([max(planes[chan].max(), -planes[chan].min()) for chan in good])
    worst = int(np.argmax(highest / np.where(peaks > 0, peaks, np.inf)))
    if not (peaks > 0).all() or (highest > peaks * (1.0 + SIDELOBE_TOLERANCE)).any():
        worst = int(np.argmin(peaks)) if not (peaks > 0).all() else worst
        at = np.unravel_index(int(np.abs(planes[good[worst]]).argmax()), planes.shape[1:])
        raise DataError(
            f"the psf {name!r} has no peak at its centre, or a negative one: it is {peaks[worst]:.4g} there ({x}, {y}) "
            f"and {planes[good[worst]][at]:.4g} at ({at[1]}, {at[0]}), channel {good[worst]}. Give the .psf made "
            "with the image"
        )
    off = float(np.abs(peaks - 1.0).max())
    if off > PEAK_TOLERANCE:
        raise DataError(
            f"the psf {name!r} has a peak of {peaks[np.abs(peaks - 1.0).argmax()]:.4g}, and 1 is right: it was scaled "
            "or resampled. Give the .psf that was made with the image, or divide image and PSF by the same number if "
            "both were scaled alike"
        )
    for chan, peak in zip(good, peaks, strict=True):
        planes[chan] /= peak
    if len(good) < len(planes):
        planes = planes[nearest(good, len(planes))]
    if (y, x) != (planes.shape[1] // 2, planes.shape[2] // 2):
        log(f"the peak of the PSF {name} is at pixel ({x}, {y}); brought to the middle")
        planes = _recentre(planes, y, x)
    return planes


def check_psf_size(psf: NDArray, beams: NDArray, cell: float, shape: tuple[int, int], name: str, log: Log) -> None:
    """See that a PSF holds its main lobe, and warn where it is smaller than the field.

    Parameters
    ----------
    psf : (n, py, px)
    beams : (nchan, 3) [arcsec, arcsec, deg]
    cell : float [arcsec]
    shape : (ny, nx) of the image

    Raises
    ------
    DataError
    """
    py, px = psf.shape[1:]
    beam = float(np.sqrt(beams[:, 0] * beams[:, 1]).max()) / cell
    if min(py, px) < LEAST_LOBES * beam:
        raise DataError(
            f"the psf {name!r} has {px} x {py} pixels, {min(py, px) / beam:.1f} beams, and its main lobe alone needs "
            f"{LEAST_LOBES:g} ({int(np.ceil(LEAST_LOBES * beam))} pixels): give the whole PSF"
        )
    if py < shape[0] or px < shape[1]:
        log(
            f"the PSF {name} has {px} x {py} pixels, the image {shape[1]} x {shape[0]}: sidelobes further out are not "
            "removed",
            "WARN",
        )


def usable_pb(planes: NDArray[np.float32], name: str) -> NDArray[np.float32]:
    """The primary beam, seen to be one.

    Parameters
    ----------
    planes : (n, ny, nx) float32; NaN where masked
    name : str

    Raises
    ------
    DataError
        Where it is blank, zero, in percent or decibel, or not normalised.
    """
    remedy = "Give the .pb that tclean made with the image, 1 at its centre"
    known = np.isfinite(planes)
    if not known.any() or not planes[known].any():
        raise DataError(f"the pb {name!r} is empty: all of its pixels are zero or blank. {remedy}")
    low, high = float(planes[known].min()), float(planes[known].max())
    if low < PB_LEAST or high > PB_PEAK:
        unit = "in decibel" if low < PB_LEAST and high <= 0.1 else "in per cent" if 90 < high <= 105 else "no response"
        raise DataError(f"the pb {name!r} runs from {low:.4g} to {high:.4g}, that is {unit}. {remedy}")
    for chan, plane in enumerate(planes):
        if not np.isfinite(plane).any():
            continue
        peak = float(np.nanmax(plane))
        inner = float(np.nanmax(np.where(_rim(plane), -np.inf, np.nan_to_num(plane, nan=-np.inf))))
        if peak < PB_LEAST_PEAK and inner >= peak and peak > 0:
            raise DataError(
                f"the pb {name!r} has a highest response of {peak:.4g} within the field (channel {chan}), and 1 is "
                f"right. {remedy}"
            )
    return planes


def blank_constant(data: NDArray[np.float32], name: str, log: Log) -> None:
    """Make planes blank, in place, that hold one value only: tclean leaves channels without data at zero.

    Parameters
    ----------
    data : (nchan, ny, nx); NaN where blank

    Raises
    ------
    DataError
        Where nothing is left.
    """
    constant = []
    for chan, plane in enumerate(data):
        known = plane[np.isfinite(plane)]
        if known.size and (known == known[0]).all():
            if known[0] != 0:
                constant.append(chan)
            plane[:] = np.nan
    if not np.isfinite(data).any():
        if constant:
            raise DataError(f"{name!r} holds one value everywhere in each channel, and no noise: give the dirty image")
        raise DataError(f"{name!r} holds no valid pixel: all are masked, blank or zero")
    if constant:
        first = f"the first is channel {constant[0]}"
        log(f"{len(constant)} channels of {name} hold one value everywhere, {first}: left out", "WARN")


def _rim(plane: NDArray) -> NDArray[np.bool_]:
    """(ny, nx) the known pixels that border on what is not known, or on the edge of the image."""
    known = np.isfinite(plane)
    return known & ~ndimage.binary_erosion(known, np.ones((3, 3), dtype=bool))


def nearest(good: NDArray[np.intp], nchan: int) -> NDArray[np.intp]:
    """For each of `nchan` channels, the nearest of the `good` ones."""
    return good[np.abs(np.arange(nchan)[:, None] - good[None, :]).argmin(axis=1)]


def reference_pixel(template: Grid, wcs_pixel: NDArray) -> tuple[float, float] | None:
    """(y, x) of a header's reference pixel [zero-based] where it is within the image; None elsewhere."""
    x, y = (float(value) - 1.0 for value in wcs_pixel)
    inside = 0 <= x < template.shape[template.x] and 0 <= y < template.shape[template.y]
    return (y, x) if inside else None


def _centre(planes: NDArray, reference: tuple[float, float] | None) -> tuple[int, int]:
    """(y, x) of the largest absolute value within `CENTRE_TOLERANCE` of the middle or the header's reference pixel."""
    py, px = planes.shape[1:]
    candidates = [(py // 2, px // 2)]
    if reference is not None:
        candidates.append((round(reference[0]), round(reference[1])))
    best, value = candidates[0], -1.0
    for row, column in candidates:
        for y in range(max(row - CENTRE_TOLERANCE, 0), min(row + CENTRE_TOLERANCE + 1, py)):
            for x in range(max(column - CENTRE_TOLERANCE, 0), min(column + CENTRE_TOLERANCE + 1, px)):
                total = abs(float(planes[:, y, x].sum()))
                if total > value:
                    best, value = (y, x), total
    return best


def _recentre(planes: NDArray[np.float32], y: int, x: int) -> NDArray[np.float32]:
    """Move pixel (y, x) to the middle; what enters at the edges is 0."""
    py, px = planes.shape[1:]
    out = np.zeros_like(planes)
    sy, sx = py // 2 - y, px // 2 - x
    out[:, max(sy, 0) : py + min(sy, 0), max(sx, 0) : px + min(sx, 0)] = planes[
        :, max(-sy, 0) : py + min(-sy, 0), max(-sx, 0) : px + min(-sx, 0)
    ]
    return out
