"""How likely a detection is not noise, from the negative peaks of the same cube.

Noise and sidelobe residuals are as often negative as positive, sources are not. The negative
peaks of the residual therefore say how many false positive peaks to expect above any level.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import stats


def independent_trials(npixel: int, beam_pixels: float, nchan: int) -> float:
    """Number of normal values with as many peaks above a high level as the search of a cube.

    Parameters
    ----------
    npixel : int, unmasked pixels of a channel
    beam_pixels : float [pixel], beam FWHM
    nchan : int, channels searched for lines; 1 for an image
    """
    beams = npixel / (1.1331 * beam_pixels**2)
    return max(beams * (nchan * PEAKS_OF_SEARCH if nchan > 1 else PEAKS_OF_IMAGE), 1.0)


PEAKS_OF_IMAGE = 8.0
PEAKS_OF_SEARCH = 60.0
"""Peaks above a level in pure noise, over the normal tail times the number of beams (and channels).

A smooth random field has more peaks above a high level than independent values would; the line
search also takes the best of many windows. Measured on empty fields (docs/decisions.md)."""


def noise_level(trials: float, false_alarms: float) -> float:
    """Level [sigma] above which `false_alarms` peaks are expected in `trials` normal values."""
    return float(stats.norm.isf(min(0.5, false_alarms / max(trials, 1.0))))


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
    expected = noise_level(trials, 0.5)
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
    false = trials * stats.norm.sf(snr / scale)
    return found / (found + false) if snr.size else np.empty(0)
