"""What the dirty image of a source is besides its PSF: a smooth function of place.

Where an image is a sum over pointings, or was divided by a map of its noise, a source at x0 with flux S (as the image
shows it at x0) appears as

    d(x) = S sum_t out_t(x) in_t(x0) PSF(x - x0) ,     sum_t out_t(x0) in_t(x0) = 1 :

the sidelobes of a source are those of the PSF times K(x, x0) = sum_t out_t(x) in_t(x0), which is 1 at the source
itself. The terms are smooth over many beams, so that for a source of any size K at its centre stands for all of it.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import NDArray


class Modulation(Protocol):
    """K(x, x0) over an image."""

    def on(self, x: NDArray, y: NDArray, x0: float, y0: float) -> NDArray[np.float32]:
        """K at columns x (n,) and rows y (m,) [pixel] of the image, for a source at (x0, y0) [pixel].

        Places outside of the image count as its nearest pixel.

        Returns
        -------
        (m, n) float32
        """
        ...
