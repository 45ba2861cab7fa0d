"""The DECORAS baseline as the paper scores it: blob_dog on its autoencoder's map (section 5.1, eq. 21).

The network is `networks.DecorasBlobsFinder`, trained by `python -m training train --preset decoras`.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from skimage.feature import blob_dog

from casa_deepfocus.core.boxes import Box

SCALES = (2.0, 12.0)
"""[pixel] Smallest and largest standard deviation of the kernels: sources of 2 to 8 pixels under their beam."""


def find(image: NDArray, threshold: float = 0.1) -> list[tuple[float, float, Box]]:
    """Sources on a reconstructed image.

    Parameters
    ----------
    image : (ny, nx) in [0, 1], the autoencoder's output
    threshold : float, of the difference of Gaussians

    Returns
    -------
    list of (x, y, box) [pixel] : the box is a square of half side r = 3 sigma (eq. 21) about the blob's centre
    """
    found = blob_dog(np.asarray(image, dtype=float), min_sigma=SCALES[0], max_sigma=SCALES[1], threshold=threshold)
    out = []
    for y, x, sigma in found:
        r = 3.0 * sigma
        box = Box(int(np.floor(x - r)), int(np.floor(y - r)), int(np.ceil(x + r)), int(np.ceil(y + r)))
        out.append((float(x), float(y), box.clip(image.shape)))
    return out
