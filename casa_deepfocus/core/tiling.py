"""Images of any size through a network that takes multiples of 16 pixels, tile by tile, same result."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage


def resample(image: NDArray, scale: float) -> NDArray[np.float32]:
    """Resample an image so that working pixel i lies at image pixel i / scale (cubic spline).

    A dirty image is band-limited by its uv coverage, so that a coarser grid loses nothing as long
    as it keeps a few pixels per beam. NaN become 0.

    Parameters
    ----------
    image : (ny, nx)
    scale : float, working pixels per image pixel

    Returns
    -------
    (ceil(ny scale), ceil(nx scale)) float32
    """
    filled = np.nan_to_num(np.asarray(image, dtype=np.float32))
    shape = tuple(max(1, int(np.ceil(n * scale))) for n in filled.shape)
    return ndimage.affine_transform(filled, np.eye(2) / scale, output_shape=shape, order=3, mode="constant")


def resample_stamp(image: NDArray, x: float, y: float, scale: float, size: int) -> NDArray[np.float32]:
    """Resampled stamp with (x, y) at pixel (size//2, size//2); 0 outside the image.

    Parameters
    ----------
    image : (ny, nx); NaN count as 0
    x, y : float [image pixel]
    scale : float, working pixels per image pixel
    size : int [working pixels]

    Returns
    -------
    (size, size) float32
    """
    half = size // 2
    reach = int(np.ceil(half / scale)) + 8
    left, low = int(np.floor(x)) - reach, int(np.floor(y)) - reach
    cut = np.zeros((2 * reach + 2, 2 * reach + 2), dtype=np.float32)
    rows = slice(max(low, 0), min(low + cut.shape[0], image.shape[0]))
    columns = slice(max(left, 0), min(left + cut.shape[1], image.shape[1]))
    if rows.stop > rows.start and columns.stop > columns.start:
        cut[rows.start - low : rows.stop - low, columns.start - left : columns.stop - left] = np.nan_to_num(
            image[rows, columns]
        )
    offset = (y - low - half / scale, x - left - half / scale)
    return ndimage.affine_transform(cut, np.eye(2) / scale, offset=offset, output_shape=(size, size), order=3)


def apply_tiled(
    network: Callable[[NDArray], NDArray], image: NDArray, *, tile: int = 512, halo: int = 144, multiple: int = 16
) -> NDArray[np.float32]:
    """Run a fully convolutional network over an image of any size.

    The image is padded with zeros to a multiple of `multiple`; larger than `tile`, it is cut into
    tiles whose `halo` (at least the network's receptive field, and a multiple of `multiple`) is
    thrown away, so that the tiled result is the whole one.

    Parameters
    ----------
    network : (1, n, H, W) float32 -> (1, 1, H, W)
    image : (n, H, W) float32, or (H, W) for n = 1

    Returns
    -------
    (H, W) float32
    """
    planes = image if image.ndim == 3 else image[None]
    height, width = image.shape[-2:]
    ny, nx = (-(-n // multiple) * multiple for n in (height, width))
    padded = np.zeros((len(planes), ny, nx), dtype=np.float32)
    padded[:, :height, :width] = planes
    if max(ny, nx) <= tile + 2 * halo:
        return network(padded[None])[0, 0, :height, :width]
    out = np.empty((ny, nx), dtype=np.float32)
    for top in range(0, ny, tile):
        for left in range(0, nx, tile):
            y0, x0 = max(top - halo, 0), max(left - halo, 0)
            y1, x1 = min(top + tile + halo, ny), min(left + tile + halo, nx)
            result = network(padded[None, :, y0:y1, x0:x1])[0, 0]
            bottom, right = min(top + tile, ny), min(left + tile, nx)
            out[top:bottom, left:right] = result[top - y0 : bottom - y0, left - x0 : right - x0]
    return out[:height, :width]
