"""What was found as an image, and what is left without it, on the grid of the input."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from casa_deepfocus.core.cube import Cube
from casa_deepfocus.core.fit import JointFit
from casa_deepfocus.core.psf import Imager
from casa_deepfocus.pipeline import _pointings
from casa_deepfocus.pipeline.state import Result


def residual(cube: Cube, result: Result) -> NDArray[np.float32]:
    """(nchan, ny, nx) [Jy/beam] : the dirty image without the dirty images of all that was fitted; NaN where blank.

    The PSF is the input's own, not that of the filtered image in which Briggs weights or white noise are undone. The
    difference to the input is the fitted model as the telescope sees it.
    """
    blank = ~np.isfinite(cube.data)
    noise = np.asarray(result.noise, dtype=float)
    if len(noise) != cube.nchan:
        noise = np.full(cube.nchan, float(np.nanmedian(noise)))
    imager = Imager(cube.psf, cube.shape, pointings=_pointings(cube, noise))
    data = np.where(blank, np.float32(0.0), cube.data)
    left = JointFit(data, noise, imager, cube.beam_covariance()).update_residual(result.components)
    left[blank] = np.nan
    return left
