"""Boxes on the pixel grid: inclusive corners, clipped, shifted, grown and compared."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from casa_deepfocus.errors import ParameterError


class Box(NamedTuple):
    """A rectangle of whole pixels; both corners belong to it.

    Attributes
    ----------
    x0, y0, x1, y1 : int [pixel], zero-based, x0 <= x1 and y0 <= y1
    """

    x0: int
    y0: int
    x1: int
    y1: int

    @property
    def width(self) -> int:
        """Number of pixels along x."""
        return self.x1 - self.x0 + 1

    @property
    def height(self) -> int:
        """Number of pixels along y."""
        return self.y1 - self.y0 + 1

    @property
    def area(self) -> int:
        """Number of pixels."""
        return self.width * self.height

    @property
    def centre(self) -> tuple[float, float]:
        """(x, y) of the middle [pixel]."""
        return 0.5 * (self.x0 + self.x1), 0.5 * (self.y0 + self.y1)

    @property
    def slices(self) -> tuple[slice, slice]:
        """(y, x) slices of an image; the box must lie inside the image (`clip`)."""
        return slice(self.y0, self.y1 + 1), slice(self.x0, self.x1 + 1)

    def grow(self, margin: int) -> Box:
        """The box with `margin` more pixels on every side."""
        return Box(self.x0 - margin, self.y0 - margin, self.x1 + margin, self.y1 + margin)

    def shift(self, dx: int, dy: int) -> Box:
        """The box moved by (dx, dy) pixels."""
        return Box(self.x0 + dx, self.y0 + dy, self.x1 + dx, self.y1 + dy)

    def contains(self, x: float, y: float) -> bool:
        """Whether the position lies on one of the box's pixels."""
        return self.x0 - 0.5 <= x <= self.x1 + 0.5 and self.y0 - 0.5 <= y <= self.y1 + 0.5

    def intersects(self, other: Box) -> bool:
        """Whether the two boxes share a pixel."""
        return self.x0 <= other.x1 and other.x0 <= self.x1 and self.y0 <= other.y1 and other.y0 <= self.y1

    def union(self, other: Box) -> Box:
        """The smallest box that holds both."""
        return Box(min(self.x0, other.x0), min(self.y0, other.y0), max(self.x1, other.x1), max(self.y1, other.y1))

    def iou(self, other: Box) -> float:
        """Shared pixels over the pixels of either: 1 for equal boxes, 0 for separate ones."""
        width = min(self.x1, other.x1) - max(self.x0, other.x0) + 1
        height = min(self.y1, other.y1) - max(self.y0, other.y0) + 1
        shared = max(width, 0) * max(height, 0)
        return shared / (self.area + other.area - shared)

    def clip(self, shape: tuple[int, int]) -> Box:
        """The part of the box that lies on an image.

        Parameters
        ----------
        shape : (ny, nx)

        Raises
        ------
        ParameterError
            No pixel of the box lies on the image.
        """
        ny, nx = shape
        clipped = Box(max(self.x0, 0), max(self.y0, 0), min(self.x1, nx - 1), min(self.y1, ny - 1))
        if clipped.x0 > clipped.x1 or clipped.y0 > clipped.y1:
            raise ParameterError(
                "box", tuple(self), f"no pixel of it lies on the image of {nx} x {ny} pixels", "Give a box on the image"
            )
        return clipped


def box_of(mask: NDArray[np.bool_]) -> Box:
    """The smallest box that holds every True pixel.

    Parameters
    ----------
    mask : (ny, nx) bool

    Raises
    ------
    ParameterError
        No pixel is True.
    """
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if rows.size == 0:
        raise ParameterError("mask", "all False", "an empty mask has no box", "Give a mask with a True pixel")
    return Box(int(columns[0]), int(rows[0]), int(columns[-1]), int(rows[-1]))
