"""Images of a result: the noise, what was found and what is left, as FITS files on the input's grid."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from casa_deepfocus.pipeline.state import Result


def noise_image(result: Result) -> NDArray[np.float32]:
    """(ny, nx) noise over the image [Jy/beam], of the median channel, not corrected for the primary beam."""
    noise = np.float32(np.nanmedian(result.noise))
    if result.noise_map is None:
        return np.full(result.probability.shape, noise, dtype=np.float32)
    return (noise * result.noise_map).astype(np.float32)
