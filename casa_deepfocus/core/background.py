"""A level that a whole image lies on: a constant and a gradient, as a single dish's baselines leave them.

The noise of an interferometer has no mean, and everything here takes it so (core.noise). A map with another background
would have its noise overestimated and its sources, seen through a beam that has all spacings, with a part of it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from casa_deepfocus.core.geometry import GAUSSIAN_AREA
from casa_deepfocus.core.noise import MAD_TO_SIGMA, SAMPLE

MATTERS = 0.5
"""Background [sigma] that is too large to leave: half a sigma, in the flux of every source."""

SURE = 14.0
"""Largest background over the error of a mean over all beams [sigma] that noise does not make: level and slopes have
2.6 together, noise that was smoothed with the beam sqrt(2) times that, and this is 4 of these."""

TILES = 3
"""Tiles along an axis that show a gradient."""

CLIP = 3.0
"""Distance [sigma] from the background beyond which a pixel is a source's."""

LOOK = 4096
"""About how many pixels of a plane are looked at to find out whether it may have any."""

LEAST_PIXELS = 16
"""Fewer pixels do not tell."""

STEPS = 12
"""Times that the background is fitted anew to what is not clipped."""


@dataclass(frozen=True)
class Background:
    """level + along_x x + along_y y, x and y from -1 to 1 across the image.

    Attributes
    ----------
    level, along_x, along_y : float [the unit of the image]
    sigma : float [the same], rms about it
    """

    level: float
    along_x: float
    along_y: float
    sigma: float

    @property
    def largest(self) -> float:
        """Its largest absolute value in the image, over sigma."""
        return (abs(self.level) + abs(self.along_x) + abs(self.along_y)) / self.sigma

    @property
    def least(self) -> float:
        """Its least absolute value in the image, over sigma; negative where it changes its sign."""
        return (abs(self.level) - abs(self.along_x) - abs(self.along_y)) / self.sigma

    def image(self, shape: tuple[int, ...]) -> NDArray[np.float32]:
        """(ny, nx) float32, the background."""
        y, x = (np.linspace(-1.0, 1.0, side) for side in shape)
        return (self.level + self.along_x * x[None, :] + self.along_y * y[:, None]).astype(np.float32)


def measure_background(plane: NDArray, beam: float) -> Background | None:
    """The background of a plane, where it is large enough to matter and sure.

    Parameters
    ----------
    plane : (ny, nx); NaN where blank
    beam : float [pixel], FWHM

    Returns
    -------
    Background or None
    """
    if not _may_have_one(plane[:: _step(plane, LOOK), :: _step(plane, LOOK)]):
        return None
    step = _step(plane, SAMPLE)
    return _fitted(plane[::step, ::step], beam / step)


def _step(plane: NDArray, number: int) -> int:
    """Distance of pixels along both axes, of which a plane has about `number`."""
    return max(1, int(np.sqrt(plane.size / number)))


def _may_have_one(part: NDArray) -> bool:
    """Whether half of the tiles have a median that may matter: one may be full of sources."""
    rows, columns = part.shape[0] // TILES, part.shape[1] // TILES
    if not rows or not columns:
        return False
    tiles = part[: rows * TILES, : columns * TILES].reshape(TILES, rows, TILES, columns)
    tiles = tiles.transpose(0, 2, 1, 3).reshape(TILES**2, -1)
    if not np.isfinite(tiles).all():
        tiles = tiles[np.isfinite(tiles).any(axis=1)]
        medians = np.nanmedian(tiles, axis=1)
        sigma = MAD_TO_SIGMA * np.nanmedian(np.abs(tiles - medians[:, None])) if len(tiles) else 0.0
    else:
        medians = np.median(tiles, axis=1)
        sigma = MAD_TO_SIGMA * np.median(np.abs(tiles - medians[:, None]))
    return bool(len(tiles) and np.median(np.abs(medians)) > 0.5 * MATTERS * sigma)


def _fitted(part: NDArray, beam: float) -> Background | None:
    """The plane through what is not a source's, with its error from the number of beams."""
    y, x = (grid.ravel() for grid in np.meshgrid(*(np.linspace(-1.0, 1.0, side) for side in part.shape), indexing="ij"))
    known = np.isfinite(part).ravel()
    values, terms = part.ravel()[known].astype(float), np.stack([np.ones(known.sum()), x[known], y[known]], axis=1)
    away = np.abs(values - np.median(values)) if values.size else values
    kept = away < CLIP * MAD_TO_SIGMA * np.median(away) if values.size else np.zeros(0, dtype=bool)
    if kept.sum() < LEAST_PIXELS:
        return None
    found, sigma = np.zeros(3), 0.0
    for _ in range(STEPS):
        found = np.linalg.lstsq(terms[kept], values[kept], rcond=None)[0]
        rest = values - terms @ found
        sigma = MAD_TO_SIGMA * float(np.median(np.abs(rest[kept])))
        before, kept = kept, np.abs(rest) < CLIP * sigma
        if sigma == 0.0 or kept.sum() < LEAST_PIXELS or (before == kept).all():
            break
    if sigma == 0.0:
        return None
    background = Background(float(found[0]), float(found[1]), float(found[2]), sigma)
    beams = max(kept.sum() / max(GAUSSIAN_AREA * beam**2, 1.0), 1.0)
    sure = background.largest > SURE / np.sqrt(beams)
    return background if sure and background.largest > MATTERS else None
