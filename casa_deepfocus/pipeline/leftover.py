"""Whether what is left at the end of a search is noise, and what to say where it is not.

A search stops when it finds nothing that it can fit. What is left is noise then, or it is something that no component
describes: structure that is no Gaussian and no disc, wrong gains, sources that hold each other up. The catalogue does
not show which; the residual does.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from casa_deepfocus.core.detection import LineSearch, weighted_mean
from casa_deepfocus.core.noise import inverse_variance, robust_rms
from casa_deepfocus.pipeline.blobs import line_cube
from casa_deepfocus.pipeline.state import RAISED, TAIL_APART, Search

CHANCE = 0.001
"""Peaks beyond the level that are asked for that noise makes in each of the searches, on average: one empty field in
three hundred is said to hold something, by its three searches."""


@dataclass(frozen=True)
class Leftover:
    """What a residual shows.

    Attributes
    ----------
    rms : float, of the mean over channels, over what independent channels of their noise have; at least 1
    deepest : float [sigma], depth of that mean's deepest hole apart from sources
    deepest_line : float [sigma], that of the deepest hole of the search for lines, apart from sources; 0 without one
    remarks : tuple of str, what is not as noise has it; empty where all is
    """

    rms: float
    deepest: float
    deepest_line: float
    remarks: tuple[str, ...]

    @property
    def summary(self) -> str:
        """One line for people; '' where the residual is noise."""
        return "; ".join(self.remarks)


def look_at_residual(search: Search) -> Leftover:
    """Hold the residual of a search against noise: its rms, and its peaks of both signs.

    Parameters
    ----------
    search : Search, whose residual is up to date

    Returns
    -------
    Leftover
    """
    residual = np.where(search.inside, search.fit.residual, np.float32(np.nan))
    image = weighted_mean(residual, inverse_variance(search.sigma))
    rms = max(1.0, float(np.nan_to_num(robust_rms(image))))
    image /= np.float32(rms)
    remarks = []
    one = search.noise_peaks("integrated")
    # An image of few beams tells its rms to no better than this.
    if rms > max(RAISED, 1.0 + 2.0 / float(np.sqrt(2.0 * one.number))):
        remarks.append(f"the mean over channels has {rms:.2f} times the noise")
    level = one.level(CHANCE)
    # A hole in front of a source is an absorption that was not fitted, and says nothing of the noise.
    apart = search.apart(TAIL_APART)
    deepest, highest = -float(np.nanmin(image, initial=0.0)), float(np.nanmax(image, initial=0.0))
    deepest_apart = -float(np.nanmin(image, initial=0.0, where=apart))
    for depth, what, place in ((highest, "a peak", np.nan_to_num(image)), (deepest, "a hole", -np.nan_to_num(image))):
        if depth > level:
            remarks.append(f"{what} of {depth:.1f} sigma in the mean over channels at pixel {_where(place)}")
    deepest_line = 0.0
    if search.lines:
        found, index, windows = LineSearch(-line_cube(residual, search.sigma)[0], search.sigma).maximum()
        deepest_line = float(found.max(initial=0.0, where=apart))
        if found.max() > search.noise_peaks("line").level(CHANCE):
            row, column = np.unravel_index(int(found.argmax()), found.shape)
            chan0, chan1 = windows[int(index[row, column])]
            remarks.append(
                f"a hole of {found.max():.1f} sigma in channels {chan0} to {chan1} at pixel ({column}, {row})"
            )
    return Leftover(rms, deepest_apart, deepest_line, tuple(remarks))


def _where(image: NDArray) -> str:
    row, column = np.unravel_index(int(image.argmax()), image.shape)
    return f"({column}, {row})"
