"""A level that a whole image lies on: a constant and a gradient, as a single dish's baselines leave them.

The noise of an interferometer has no mean, and everything here takes it so (core.noise). A map with another background
would have its noise overestimated and its sources, seen through a beam that has all spacings, with a part of it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from casa_deepfocus.core.noise import MAD_TO_SIGMA, SAMPLE

MATTERS = 0.5
"""Background [sigma] that is too large to leave: half a sigma, in the flux of every source."""

SURE = 14.0
"""Largest background over the error of a mean over all beams [sigma] that noise does not make: level and two slopes have
2.6 together, noise that was smoothed with the beam sqrt(2) times that, and this is 4 of these."""

TILES = 3
"""Tiles along an axis that show a gradient."""

CLIP = 3.0
"""Distance [sigma] from the background beyond which a pixel is a source's."""

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
    step = max(1, int(np.sqrt(plane.size / SAMPLE)))
    part = plane[::step, ::step]
    medians, sigmas = [], []
    for rows in np.array_split(np.arange(part.shape[0]), TILES):
        for columns in np.array_split(np.arange(part.shape[1]), TILES):
            tile = part[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1] if rows.size and columns.size else part
            tile = tile[np.isfinite(tile)]
            if tile.size >= 16:
                medians.append(float(np.median(tile)))
                sigmas.append(MAD_TO_SIGMA * float(np.median(np.abs(tile - np.float32(medians[-1])))))
    if not medians or not np.median(sigmas) > 0:
        return None
    sigma = float(np.median(sigmas))
    # Half of the tiles are to show it: a tile may be full of sources.
    if np.median(np.abs(medians)) < MATTERS * sigma * 0.5:
        return None
    return _fitted(part, sigma, beam / step)


def _fitted(part: NDArray, sigma: float, beam: float) -> Background | None:
    """The plane through what is not a source's, with its error from the number of beams."""
    y, x = (grid.ravel() for grid in np.meshgrid(*(np.linspace(-1.0, 1.0, side) for side in part.shape), indexing="ij"))
    known = np.isfinite(part).ravel()
    values, terms = part.ravel()[known].astype(float), np.stack([np.ones(known.sum()), x[known], y[known]], axis=1)
    kept = np.ones(len(values), dtype=bool)
    kept[:] = np.abs(values - np.median(values)) < CLIP * MAD_TO_SIGMA * np.median(np.abs(values - np.median(values)))
    found = np.zeros(3)
    for _ in range(STEPS):
        found = np.linalg.lstsq(terms[kept], values[kept], rcond=None)[0]
        rest = values - terms @ found
        sigma = MAD_TO_SIGMA * float(np.median(np.abs(rest[kept])))
        before, kept = kept, np.abs(rest) < CLIP * sigma
        if sigma == 0.0 or kept.sum() < 16 or (before == kept).all():
            break
    if sigma == 0.0:
        return None
    background = Background(float(found[0]), float(found[1]), float(found[2]), sigma)
    beams = max(kept.sum() / max(1.1331 * beam**2, 1.0), 1.0)
    sure = background.largest > SURE / np.sqrt(beams)
    return background if sure and background.largest > MATTERS else None
