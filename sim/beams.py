"""Primary beams, as CASA computes them."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from casa_deepfocus.core.airy import airy
from sim.coverage import ARCSEC

__all__ = ["airy", "primary_beam"]

def primary_beam(
    npix: int, cell: float, freq: float, diameter: float, *, centre: float | None = None
) -> NDArray[np.float64]:
    """Airy pattern of a blocked aperture, as CASA's: 10.7 m with 0.75 m blocked for a 12 m dish.

    Parameters
    ----------
    npix, cell : int, float [arcsec]
    freq : float [Hz]
    diameter : float [m], of the dish; `DISHES` gives the effective one
    centre : float [pixel]; npix // 2 by default

    Returns
    -------
    (npix, npix) float64, 1 in the middle
    """
    axis = (np.arange(npix) - (npix // 2 if centre is None else centre)) * cell * ARCSEC
    return airy(np.hypot(axis[:, None], axis[None, :]), freq, diameter)
