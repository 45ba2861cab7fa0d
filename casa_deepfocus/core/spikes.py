"""Voxels that no beam can make: bad data of one pixel, told by what their neighbours allow.

A dirty image is a sky seen through its PSF, with noise: from pixel to pixel it cannot change by more than the beam
lets it. The best guess of a pixel from the 24 around it, for sources seen through this beam, errs by a known part of
the brightest of them, and by its noise. What is farther off than both was not seen by the telescope.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage, stats

from casa_deepfocus.core.geometry import covariance_to_shape

HALF = 2
"""Neighbours of a pixel are those within this [pixel] along both axes."""

NUGGET = 0.01
"""Variance of noise over that of sources that the guess expects: with less, it would trust in small differences."""

MARGIN = 3.0
"""Times the largest error of the guess for one source, that several, of both signs, and a main lobe that is not quite a
Gaussian, may make. With 2 one pixel of 9000 sources of SNR 10 to 100 000 was taken for a bad one, with this none."""

FALSE_ALARMS = 1e-3
"""Voxels of normal noise in a cube that may be taken for bad ones, on average."""

LEAST_NEIGHBOURS = 5
"""With fewer of the 24 known a pixel is not judged: those of the corner of an image are 8."""

LARGEST = 2
"""More bad pixels side by side are none: something there is narrower than the beam is said to be."""

LOBE = 1.5
"""How far [FWHM of the beam] a source may be from a pixel: a Gaussian main lobe has fallen to 0.002 there."""

SEEN = 1e-3
"""Where the brightest neighbour sees less than this of a source, the source is another pixel's."""

OFFSETS = 8
"""Places in a pixel, along an axis, that a source is tried at at most."""

PLACES = 64
"""About how many places along an axis, over the reach of a main lobe, a source is tried at."""

MOST_PASSES = 20
"""How often a plane is looked at again, with what was bad before mended."""


@dataclass
class Spikes:
    """What was found.

    Attributes
    ----------
    voxels : list of (chan, x, y), mended
    narrow : list of (chan, x, y), one of each place that is narrower than the beam and was left as it is
    """

    voxels: list[tuple[int, int, int]] = field(default_factory=list)
    narrow: list[tuple[int, int, int]] = field(default_factory=list)


class Guess:
    """The value of a pixel from those around it that are known, for sources seen through a Gaussian beam.

    Parameters
    ----------
    beam : (3,) covariance [pixel^2] : sxx, syy, sxy
    """

    def __init__(self, beam: NDArray) -> None:
        sxx, syy, sxy = beam
        self._form = np.array([[syy, -sxy], [-sxy, sxx]]) / (sxx * syy - sxy**2)
        dy, dx = np.mgrid[-HALF : HALF + 1, -HALF : HALF + 1].reshape(2, -1)
        around = (dy != 0) | (dx != 0)
        self.places = np.stack([dx[around], dy[around]], axis=1)
        reach = int(np.ceil(LOBE * float(covariance_to_shape(beam)[0]))) + HALF
        steps = np.arange(-reach * OFFSETS, reach * OFFSETS + 1) / OFFSETS
        steps = steps[:: max(1, len(steps) // PLACES)]
        self._sources = np.stack(np.meshgrid(steps, steps), axis=-1).reshape(-1, 2)
        self._made: dict[bytes, tuple[NDArray[np.float64], float]] = {}

    def _beam(self, offsets: NDArray) -> NDArray[np.float64]:
        return np.exp(-0.5 * np.einsum("...i,ij,...j->...", offsets, self._form, offsets))

    def __call__(self, known: NDArray[np.bool_]) -> tuple[NDArray[np.float64], float]:
        """Weights (24,) of the neighbours, of which those that are not `known` (24,) have none, and the largest error
        of the guess for one source, over the brightest neighbour."""
        key = known.tobytes()
        if key not in self._made:
            places = self.places[known]
            covariance = self._beam(places[:, None] - places[None]) + NUGGET * np.eye(len(places))
            some = np.linalg.solve(covariance, self._beam(places))
            seen = self._beam(places[None] - self._sources[:, None])
            error = np.abs(self._beam(self._sources) - seen @ some) / np.maximum(seen.max(axis=1), 1e-12)
            counted = seen.max(axis=1) > SEEN
            weights = np.zeros(len(known))
            weights[known] = some
            self._made[key] = weights, float(error[counted].max())
        return self._made[key]


def mend_spikes(data: NDArray[np.float32], sigma: NDArray, beam: NDArray) -> Spikes:
    """Put the guess from the neighbours in the place of voxels that no beam can make, and of infinite ones.

    Parameters
    ----------
    data : (nchan, ny, nx) float32, changed in place
    sigma : (nchan,) in the unit of the data; NaN for flagged channels
    beam : (3,) covariance [pixel^2]

    Returns
    -------
    Spikes
    """
    found, guess = Spikes(), Guess(beam)
    level = float(stats.norm.isf(FALSE_ALARMS / data.size))
    for chan in np.flatnonzero(np.isfinite(sigma)):
        plane = data[chan]
        # With NaN the comparison is false, infinite values stand out of any noise.
        rows, columns = np.nonzero(np.abs(plane) > level * sigma[chan])
        if rows.size == 0:
            continue
        mended = _mended(plane, rows, columns, level * float(sigma[chan]), guess)
        bad = np.zeros(plane.shape, dtype=bool)
        for y, x in mended:
            bad[y, x] = True
        labels, number = ndimage.label(bad, structure=np.ones((3, 3)))
        sizes = np.bincount(labels.ravel(), minlength=number + 1)
        narrow = set()
        for (y, x), value in mended.items():
            if sizes[labels[y, x]] <= LARGEST or not np.isfinite(plane[y, x]):
                plane[y, x] = value
                found.voxels.append((int(chan), x, y))
            elif labels[y, x] not in narrow:
                narrow.add(labels[y, x])
                found.narrow.append((int(chan), x, y))
    return found


def _mended(
    plane: NDArray, rows: NDArray, columns: NDArray, noise: float, guess: Guess
) -> dict[tuple[int, int], float]:
    """(y, x) -> what it should be, of the bad pixels among those given.

    The worst of a neighbourhood comes first; the others are judged without it.
    """
    out: dict[tuple[int, int], float] = {}
    usable = np.pad(np.isfinite(plane), HALF)
    padded = np.pad(np.where(np.isfinite(plane), plane, 0.0).astype(np.float64), HALF)
    bits = 2 ** np.arange(len(guess.places))
    image = np.zeros(plane.shape)
    left = np.arange(len(rows))
    for _ in range(MOST_PASSES):
        y = rows[left, None] + HALF + guess.places[:, 1]
        x = columns[left, None] + HALF + guess.places[:, 0]
        known, own = usable[y, x], plane[rows[left], columns[left]].astype(float)
        values = np.where(known, padded[y, x], 0.0)
        guesses, excess = np.full(len(left), np.nan), np.zeros(len(left))
        _, first, which = np.unique(known @ bits, return_index=True, return_inverse=True)
        for index, pattern in enumerate(known[first]):
            mine = which == index
            if pattern.sum() < LEAST_NEIGHBOURS:
                # Nothing to go by: an infinite value is blank.
                excess[mine] = np.where(np.isfinite(own[mine]), 0.0, np.inf)
                continue
            weights, error = guess(pattern)
            guesses[mine] = values[mine] @ weights
            allowed = noise * np.sqrt(1.0 + (weights**2).sum()) + MARGIN * error * np.abs(values[mine]).max(axis=1)
            away = np.abs(own[mine] - guesses[mine])
            excess[mine] = np.where(away > allowed, away, 0.0)
        if not excess.any():
            break
        image[:] = 0.0
        image[rows[left], columns[left]] = excess
        highest = ndimage.maximum_filter(image, 2 * HALF + 1)[rows[left], columns[left]]
        worst = (excess > 0) & (excess >= highest)
        for number in np.flatnonzero(worst):
            row, column = int(rows[left[number]]), int(columns[left[number]])
            out[row, column] = float(guesses[number])
            usable[row + HALF, column + HALF] = False
        # Only what has one of them beside it is judged anew.
        beside = highest > 0
        left = left[beside & ~worst]
        if left.size == 0:
            break
    return out
