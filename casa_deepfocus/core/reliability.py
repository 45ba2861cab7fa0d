"""How likely a detection is not noise, from the negative peaks of the same cube.

Noise and sidelobe residuals are as often negative as positive, sources are not. The negative
peaks of the residual therefore say how many false positive peaks to expect above any level.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import stats


def independent_trials(npixel: int, beam_pixels: float, nchan: int) -> float:
    """Number of independent values that the search looks at: beams in the field times channels.

    Parameters
    ----------
    npixel : int, unmasked pixels of a channel
    beam_pixels : float [pixel], beam FWHM
    nchan : int
    """
    return max(npixel / (1.1331 * beam_pixels**2) * nchan, 1.0)


def tail_scale(negative_peak: float, trials: float) -> float:
    """How much wider than a normal distribution the noise's tail is, from the deepest negative peak.

    Parameters
    ----------
    negative_peak : float [sigma], depth of the deepest negative peak, positive
    trials : float, independent values

    Returns
    -------
    float, at least 1: depth over the depth expected of normal noise
    """
    # The search picks the best of its windows, which doubles the number of values looked at.
    expected = float(stats.norm.isf(0.5 / max(2.0 * trials, 2.0)))
    return max(1.0, negative_peak / expected) if np.isfinite(negative_peak) else 1.0


def reliability(snr: NDArray, trials: float, scale: float) -> NDArray[np.float64]:
    """Share of real sources among the detections at least as bright as each one.

    Parameters
    ----------
    snr : (n,) [sigma], of all detections
    trials : float, independent values searched
    scale : float, `tail_scale`

    Returns
    -------
    (n,) float64 in [0, 1] : n_found / (n_found + n_false), both counted at or above the snr
    """
    snr = np.asarray(snr, dtype=float)
    found = np.array([(snr >= value).sum() for value in snr], dtype=float)
    false = 2.0 * trials * stats.norm.sf(snr / scale)
    return found / (found + false) if snr.size else np.empty(0)
