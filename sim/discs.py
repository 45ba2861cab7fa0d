"""Thin exponential discs that rotate: their stamps, and the separable components of their lines.

The surface brightness is exp(-R / h) out to 12 h, the rotation curve v(R) = velocity 2 / pi atan(R / turnover)
in the plane of the disc; seen at an inclination, v sin i cos(azimuth) moves the line (e.g. van der
Kruit & Freeman 2011, 10.1146/annurev-astro-083109-153241).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from casa_deepfocus.core.geometry import FWHM_PER_SIGMA, GAUSSIAN_LINE
from casa_deepfocus.errors import ParameterError

FWHM_PER_SCALE = float(FWHM_PER_SIGMA * np.sqrt(3.0))
"""FWHM of the Gaussian with an exponential disc's second moments, over the disc's scale length (4.0786)."""

MAX_INCLINATION = 85.0
RADIUS = 12.0
"""Scale lengths at which a disc ends; 8e-5 of its flux lies beyond."""

LEFT_OUT = 1e-5
"""The separable components of a disc's line leave out no more than this share of its peak."""

SUBPIXELS = 5
"""Points along a stamp's pixel over which it is integrated.

Where the curve turns over within two pixels, 5 make an image that is right to 3e-4 of its peak, 3 to 1.3e-3.
"""


@dataclass(frozen=True)
class Rotation:
    """How a thin disc rotates, and how it is seen.

    Attributes
    ----------
    velocity : float [chan], of the flat part in the disc's plane; positive where the end of the major axis at
        the position angle moves to higher channels
    turnover : float [pixel], where the curve reaches half of it
    dispersion : float [chan], FWHM of the line at one place of the disc
    inclination : float [deg], 0 (face-on) to 85
    """

    velocity: float
    turnover: float
    dispersion: float
    inclination: float

    def __post_init__(self) -> None:
        if not 0.0 <= self.inclination <= MAX_INCLINATION:
            raise ParameterError(
                "inclination", self.inclination, f"not between 0 and {MAX_INCLINATION:g} deg", "a disc has no thickness"
            )
        for name in ("turnover", "dispersion"):
            if not getattr(self, name) > 0.0:
                raise ParameterError(name, getattr(self, name), "not positive", "give it in pixels and channels")

    def axis_ratio(self) -> float:
        """Minor over major axis of the disc on the sky."""
        return float(np.cos(np.deg2rad(self.inclination)))


@dataclass(frozen=True, eq=False)
class DiscStamp:
    """A disc on pixels of `pitch` image pixels; the middle pixel is its centre.

    Attributes
    ----------
    brightness : (points, height, width), sum 1; `points` positions inside each pixel
    shift : (points, height, width) [chan], of the line there
    pitch : float [pixel]
    """

    brightness: NDArray[np.float64]
    shift: NDArray[np.float64]
    pitch: float

    def image(self) -> NDArray[np.float64]:
        """(height, width) share of the flux in each pixel."""
        return self.brightness.sum(axis=0)


def disc_fields(
    dx: NDArray, dy: NDArray, fwhm_maj: float, pa: float, rotation: Rotation
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Brightness (1 in the centre) and shift of the line [chan] at offsets (dx, dy) [pixel] from a disc's centre."""
    ratio, scale = rotation.axis_ratio(), fwhm_maj / FWHM_PER_SCALE
    sin, cos = np.sin(np.deg2rad(pa)), np.cos(np.deg2rad(pa))
    major, minor = -sin * dx + cos * dy, (cos * dx + sin * dy) / ratio
    radius = np.hypot(major, minor)
    brightness = np.where(radius < RADIUS * scale, np.exp(-radius / scale), 0.0)
    speed = rotation.velocity * (2.0 / np.pi) * np.arctan(radius / rotation.turnover)
    azimuth = major / np.maximum(radius, 1e-12)
    return brightness, speed * np.sin(np.deg2rad(rotation.inclination)) * azimuth


@lru_cache(maxsize=16)
def disc_stamp(fwhm_maj: float, pa: float, rotation: Rotation) -> DiscStamp:
    """Brightness and velocity of a disc; sizes as in `sky.Source`."""
    ratio, scale = rotation.axis_ratio(), fwhm_maj / FWHM_PER_SCALE
    # Six pixels over the minor FWHM: what aliases is below 1e-4 of the flux.
    pitch = float(np.clip(fwhm_maj * ratio / 6.0, 0.2, 1.0))
    sin, cos = np.sin(np.deg2rad(pa)), np.cos(np.deg2rad(pa))
    half_x, half_y = (
        int(np.ceil(RADIUS * scale * np.hypot(along, across * ratio) / pitch))
        for along, across in ((sin, cos), (cos, sin))
    )
    inner = (np.arange(SUBPIXELS) - 0.5 * (SUBPIXELS - 1)) / SUBPIXELS
    shift_y, shift_x = (part.reshape(-1, 1, 1) for part in np.meshgrid(inner, inner, indexing="ij"))
    dy = (np.arange(-half_y, half_y + 1)[None, :, None] + shift_y) * pitch
    dx = (np.arange(-half_x, half_x + 1)[None, None, :] + shift_x) * pitch
    brightness, shift = disc_fields(dx, dy, fwhm_maj, pa, rotation)
    return DiscStamp(brightness / brightness.sum(), shift, pitch)


def profile_width(fwhm_maj: float, pa: float, rotation: Rotation) -> float:
    """Width at half maximum [chan] of the line of the whole disc (between the outermost crossings)."""
    stamp = disc_stamp(fwhm_maj, pa, rotation)
    sigma = rotation.dispersion / FWHM_PER_SIGMA
    step = sigma / 10.0
    reach = np.abs(stamp.shift).max() + 5.0 * sigma
    number = 2 * int(np.ceil(reach / step)) + 1
    axis = (np.arange(number) - number // 2) * step
    place = np.rint(stamp.shift / step).astype(int) + number // 2
    moved = np.bincount(place.ravel(), weights=stamp.brightness.ravel(), minlength=number)
    profile = np.convolve(moved, np.exp(-0.5 * (np.arange(-50, 51) / 10.0) ** 2), mode="same")
    above = np.flatnonzero(profile >= 0.5 * profile.max())
    edges = []
    for inside, outside in ((above[0], above[0] - 1), (above[-1], above[-1] + 1)):
        share = (profile[inside] - 0.5 * profile.max()) / (profile[inside] - profile[outside])
        edges.append(axis[inside] + share * (axis[outside] - axis[inside]))
    return float(edges[1] - edges[0])


@lru_cache(maxsize=16)
def disc_line(
    fwhm_maj: float, pa: float, rotation: Rotation, chan: float, nchan: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Separable components of a disc's line of integral 1 [Jy chan], from the SVD of its stamps.

    Returns
    -------
    spectra : (rank, nchan) float64
    stamps : (rank, height, width) float64; sum over the rank of spectrum times stamp is the cube
    """
    stamp = disc_stamp(fwhm_maj, pa, rotation)
    shape = stamp.brightness.shape[1:]
    first, cube, inside = _line_cube(stamp, chan, rotation.dispersion)
    band = slice(max(first, 0), min(first + len(cube), nchan))
    matrix = cube[band.start - first : max(band.stop - first, 0)]
    if not matrix.any():
        return np.zeros((0, nchan)), np.zeros((0, *shape))
    power, vectors = np.linalg.eigh(matrix @ matrix.T)
    # No pixel of what is left out exceeds its largest singular value.
    keep = np.sqrt(np.maximum(power, 0.0)) > LEFT_OUT * matrix.max()
    spectra, stamps = np.zeros((int(keep.sum()), nchan)), np.zeros((int(keep.sum()), *shape))
    spectra[:, band] = vectors[:, keep].T
    stamps[:, inside] = vectors[:, keep].T @ matrix
    return spectra, stamps


def _line_cube(
    stamp: DiscStamp, chan: float, dispersion: float
) -> tuple[int, NDArray[np.float64], NDArray[np.bool_]]:
    """First channel, cube (nchan, npixel) of a line of integral 1, and the pixels (height, width) that it is of."""
    sigma = dispersion / FWHM_PER_SIGMA
    inside = stamp.image() > 0.0
    brightness = stamp.brightness[:, inside] / (GAUSSIAN_LINE * dispersion)
    centre = chan + stamp.shift[:, inside]
    # Only the channels near the line of each point.
    start, number = np.ceil(centre - 5.0 * sigma).astype(int), int(10.0 * sigma) + 1
    first = int(start.min())
    cube = np.zeros((int(start.max()) + number - first, int(inside.sum())))
    columns = np.arange(cube.shape[1])
    for point, light in enumerate(brightness):
        for step in range(number):
            offset = (start[point] + step - centre[point]) / sigma
            cube[start[point] + step - first, columns] += light * np.exp(-0.5 * offset * offset)
    return first, cube, inside
