"""Which rows of the catalogues of several cubes are one source.

Cubes are taken in the order of their resolution, the finest first, so that what it resolves stays apart. The rows of
each are assigned one to one to the sources so far (Hungarian, within each cluster of candidates); those left over are
further lines of a source that this cube has already, or new sources. A match lies within `WITHIN` standard deviations
of both positions, with `FLOOR` of both observed sizes added to each in quadrature, and within `REACH` of the larger
observed size, from the source's mean as from its first row: chains of rows do not wander.

Positions are unit vectors and errors are matrices in three dimensions, so that neither right ascension 0 nor the pole
is special.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components
from scipy.spatial import cKDTree

ARCSEC = float(np.rad2deg(1.0) * 3600.0)
"""Arcseconds in a radian."""

FLOOR = 0.05
"""Error of a position that noise does not explain [observed FWHM]: what is left of the phases after calibration (a
twentieth of the beam, ALMA Technical Handbook, on astrometry), and centres of lines that are not those of dust."""

WITHIN = 5.0
"""Standard deviations of a match: with normal errors 4 of a million pairs are farther apart, and a few per cent of the
errors of faint sources are not normal. It is the assignment that keeps neighbours apart."""

REACH = 0.5
"""Largest separation of a match [FWHM of the larger one as observed], as in the scores (`matching.MATCH_RADIUS`). Two
positions at an SNR of 7 have an error of 0.11 beams with the floor: 3 pairs of 100 000 are farther apart."""

SAME_PLACE = 3.7
"""Standard deviations within which two rows of one cube are at one place: 1 pair of 1000 is farther apart. Half a beam
is as much at an SNR of 5 or 6; the finder splits nothing fainter."""


@dataclass(frozen=True)
class Rows:
    """Rows of all catalogues of a target.

    Attributes
    ----------
    cube : (n,) int
        Rank of the row's cube, from 0, the finest resolution first.
    place : (n, 3) float
        Unit vectors; NaN where there is no position.
    axes : (n, 2, 3) float
        Unit vectors to the east and to the north at that place.
    error : (n, 3, 3) float [arcsec^2]
        Error matrix of the place, without a floor.
    observed : (n, 3, 3) float [arcsec^2]
        Square of the observed FWHM in every direction: of the source through its cube's beam.
    snr : (n,) float
    low, high : (n,) float [Hz]
        Where the line has half its height; NaN of a row without a line.
    negative : (n,) bool
        The line is in absorption.
    continuum : (n,) bool
        The row has a continuum.
    """

    cube: NDArray[np.int64]
    place: NDArray[np.float64]
    axes: NDArray[np.float64]
    error: NDArray[np.float64]
    observed: NDArray[np.float64]
    snr: NDArray[np.float64]
    low: NDArray[np.float64]
    high: NDArray[np.float64]
    negative: NDArray[np.bool_]
    continuum: NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.cube)

    @property
    def extent(self) -> NDArray[np.float64]:
        """(n,) observed FWHM along the longest axis [arcsec]."""
        plane = in_plane(self.observed, self.axes)
        mean, half = 0.5 * (plane[:, 0, 0] + plane[:, 1, 1]), 0.5 * (plane[:, 0, 0] - plane[:, 1, 1])
        return np.sqrt(mean + np.hypot(half, plane[:, 0, 1]))

    @property
    def order(self) -> NDArray[np.int64]:
        """(n,) rows by cube, brightness and place: the same whatever order they came in."""
        keys = (*np.nan_to_num([self.low, *self.place.T]), -np.nan_to_num(self.snr), self.cube)
        return np.lexsort(keys)


def in_plane(matrix: NDArray, axes: NDArray) -> NDArray[np.float64]:
    """(n, 2, 2) matrices (east, north) in the planes of `axes` of matrices (n, 3, 3)."""
    return axes @ matrix @ axes.transpose(0, 2, 1)


def offsets(axes: NDArray, place: NDArray, other: NDArray) -> NDArray[np.float64]:
    """(n, 2) offsets (east, north) [arcsec] of other places from places, in the planes of their axes."""
    return np.einsum("nij,nj->ni", axes, other - place) * ARCSEC


def distance2(offset: NDArray, matrix: NDArray) -> NDArray[np.float64]:
    """(n,) squared offsets (n, 2) in units of their error matrices (n, 2, 2)."""
    a, b, c = matrix[:, 0, 0], matrix[:, 1, 1], matrix[:, 0, 1]
    x, y = offset.T
    return (b * x * x + a * y * y - 2.0 * c * x * y) / (a * b - c * c)


def identify(rows: Rows) -> NDArray[np.int64]:
    """The source of each row.

    Parameters
    ----------
    rows : Rows

    Returns
    -------
    (n,) int64 : numbers of sources from 0, in the order in which they first appear in `Rows.order`
    """
    source = np.full(len(rows), -1, dtype=np.int64)
    sources = _Sources(rows)
    order = rows.order
    together = _same_place(rows)
    for cube in np.unique(rows.cube):
        members = order[rows.cube[order] == cube]
        number, cost = sources.assign(members)
        number = _with_their_other_lines(members, number, cost, together, sources)
        for at in np.flatnonzero(number < 0):
            # A further line of a source that this cube has, or a new source.
            number[at] = _joins(members, number, int(at), together, rows)
            if number[at] < 0:
                number[at] = sources.add(int(members[at]))
        source[members] = number
        sources.take(members, number)
    return source


class _Sources:
    """Mean places of the sources so far, in the plane of the first row of each."""

    def __init__(self, rows: Rows) -> None:
        size = len(rows)
        self.rows, self.size = rows, 0
        self.extent = rows.extent
        self.seed = np.zeros(size, dtype=np.int64)
        self.information, self.weighted = np.zeros((size, 2, 2)), np.zeros((size, 2))
        self.error = rows.error + FLOOR**2 * rows.observed
        self.mean, self.mean_error = np.full((0, 3), np.nan), np.full((0, 3, 3), np.nan)

    def add(self, row: int) -> int:
        """A new source, with this as its first row."""
        self.seed[self.size] = row
        self.size += 1
        return self.size - 1

    def take(self, members: NDArray, number: NDArray) -> None:
        """Rows become part of the means of their sources."""
        known = np.isfinite(self.rows.place[members, 0])
        members, number = members[known], number[known]
        seed = self.seed[number]
        weight = np.linalg.inv(in_plane(self.error[members], self.rows.axes[seed]))
        offset = offsets(self.rows.axes[seed], self.rows.place[seed], self.rows.place[members])
        np.add.at(self.information, number, weight)
        np.add.at(self.weighted, number, np.einsum("nij,nj->ni", weight, offset))
        self.mean, self.mean_error = self._means()

    def _means(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """(m, 3) unit vectors of the means, NaN without a place, and (m, 3, 3) their error matrices."""
        seed = self.seed[: self.size]
        place, axes = self.rows.place[seed], self.rows.axes[seed]
        information = self.information[: self.size]
        known = information[:, 0, 0] > 0
        covariance = np.full_like(information, np.nan)
        covariance[known] = np.linalg.inv(information[known])
        shift = np.einsum("nij,nj->ni", covariance, self.weighted[: self.size])
        mean = place + np.einsum("nji,nj->ni", axes, shift) / ARCSEC
        return mean / np.linalg.norm(mean, axis=1, keepdims=True), axes.transpose(0, 2, 1) @ covariance @ axes

    def cost(self, members: NDArray, number: NDArray) -> NDArray[np.float64]:
        """(k,) squared distances of rows from sources, in standard deviations; infinite beyond `REACH`."""
        axes, place = self.rows.axes[members], self.rows.place[members]
        seed = self.seed[number]
        reach = REACH * np.maximum(self.extent[members], self.extent[seed])
        apart = offsets(axes, place, self.mean[number])
        near = np.hypot(*apart.T) <= reach
        near &= np.hypot(*offsets(axes, place, self.rows.place[seed]).T) <= reach
        return np.where(near, distance2(apart, in_plane(self.error[members] + self.mean_error[number], axes)), np.inf)

    def assign(self, members: NDArray) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """The source of each row of a cube, -1 where there is none, and its cost; at most one row a source."""
        number, cost = np.full(len(members), -1, dtype=np.int64), np.full(len(members), np.inf)
        here, there = (np.flatnonzero(np.isfinite(p[:, 0])) for p in (self.rows.place[members], self.mean))
        if not (here.size and there.size):
            return number, cost
        farthest = REACH * max(self.extent[members[here]].max(), self.extent[self.seed[there]].max()) / ARCSEC
        trees = cKDTree(self.rows.place[members[here]]), cKDTree(self.mean[there])
        pairs = trees[0].sparse_distance_matrix(trees[1], farthest, output_type="ndarray")
        row, column = here[pairs["i"]], there[pairs["j"]]
        price = self.cost(members[row], column)
        near = price <= WITHIN**2
        row, column, price = one_to_one(row[near], column[near], price[near], WITHIN**2)
        number[row], cost[row] = column, price
        return number, cost


def one_to_one(
    row: NDArray, column: NDArray, cost: NDArray, forgone: float
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]:
    """The pairs, no row and no column twice, of the least total cost, where each pair done without costs `forgone`.

    Parameters
    ----------
    row, column : (k,) int
    cost : (k,) float, at most `forgone`
    forgone : float

    Returns
    -------
    row, column, cost : of the pairs that stay
    """
    if not row.size:
        return row, column, cost
    alone = (np.bincount(row)[row] == 1) & (np.bincount(column)[column] == 1)
    keep = [np.flatnonzero(alone)]
    rest = np.flatnonzero(~alone)
    rows, at = np.unique(row[rest], return_inverse=True)
    columns, to = np.unique(column[rest], return_inverse=True)
    size = rows.size + columns.size
    cluster = connected_components(coo_matrix((np.ones(rest.size), (at, to + rows.size)), (size, size)))[1][at]
    by_cluster = np.argsort(cluster, kind="stable")
    for pairs in np.split(by_cluster, np.flatnonzero(np.diff(cluster[by_cluster])) + 1) if rest.size else []:
        (ids, i), (jds, j) = (np.unique(index[pairs], return_inverse=True) for index in (at, to))
        table, which = np.full((ids.size, jds.size), forgone), np.full((ids.size, jds.size), -1)
        table[i, j], which[i, j] = cost[rest[pairs]], rest[pairs]
        chosen = which[linear_sum_assignment(table)]
        keep.append(chosen[chosen >= 0])
    kept = np.sort(np.concatenate(keep))
    return row[kept], column[kept], cost[kept]


def _same_place(rows: Rows) -> dict[int, list[int]]:
    """Rows of the same cube that may be further lines of the same source, for each row that has some.

    They are at one place within their errors. Two that both have a continuum, or none a line, or whose lines of one
    sign overlap, are two because the finder took them for two.
    """
    known = np.flatnonzero(np.isfinite(rows.place[:, 0]))
    extent = rows.extent
    out: dict[int, list[int]] = {}
    for cube in np.unique(rows.cube[known]):
        members = known[rows.cube[known] == cube]
        reach = REACH * float(extent[members].max()) / ARCSEC
        first, second = members[cKDTree(rows.place[members]).query_pairs(reach, output_type="ndarray")].T
        axes = rows.axes[first]
        apart = offsets(axes, rows.place[first], rows.place[second])
        error = rows.error[first] + rows.error[second]
        error = error + FLOOR**2 * (rows.observed[first] + rows.observed[second])
        near = np.hypot(*apart.T) <= REACH * np.maximum(extent[first], extent[second])
        near &= distance2(apart, in_plane(error, axes)) <= SAME_PLACE**2
        lines = np.isfinite(rows.low)
        # NaN compares as false: a row without a line overlaps with nothing.
        overlap = (rows.low[first] < rows.high[second]) & (rows.low[second] < rows.high[first])
        overlap &= rows.negative[first] == rows.negative[second]
        near &= (lines[first] | lines[second]) & ~overlap & ~(rows.continuum[first] & rows.continuum[second])
        for a, b in zip(first[near].tolist(), second[near].tolist(), strict=True):
            out.setdefault(a, []).append(b)
            out.setdefault(b, []).append(a)
    return out


def _with_their_other_lines(
    members: NDArray, number: NDArray, cost: NDArray, together: dict[int, list[int]], sources: _Sources
) -> NDArray[np.int64]:
    """Rows that the assignment gave to a neighbour because another line of this cube had their own source."""
    number = number.copy()
    at_of = {int(row): at for at, row in enumerate(members)}
    for at in np.flatnonzero(number >= 0):
        for other in together.get(int(members[at]), []):
            its = number[at_of[other]]
            if its < 0 or its == number[at]:
                continue
            price = sources.cost(members[[at]], np.array([its]))[0]
            if price < cost[at] and _fits(members, number, int(at), int(its), together):
                number[at], cost[at] = its, price
    return number


def _joins(members: NDArray, number: NDArray, at: int, together: dict[int, list[int]], rows: Rows) -> int:
    """The source of this cube that a row is a further line of; -1 where there is none."""
    mine = int(members[at])
    candidates = set(together.get(mine, []))
    best, least = -1, np.inf
    for index in np.flatnonzero(np.isin(members, list(candidates)) & (number >= 0)) if candidates else []:
        other = int(members[index])
        error = rows.error[[mine]] + rows.error[[other]] + FLOOR**2 * (rows.observed[[mine]] + rows.observed[[other]])
        axes = rows.axes[[mine]]
        price = distance2(offsets(axes, rows.place[[mine]], rows.place[[other]]), in_plane(error, axes))[0]
        if price < least and _fits(members, number, at, int(number[index]), together):
            best, least = int(number[index]), price
    return best


def _fits(members: NDArray, number: NDArray, at: int, source: int, together: dict[int, list[int]]) -> bool:
    """Whether all rows of this cube that a source has may be lines of the same source as this one."""
    mine = together.get(int(members[at]), [])
    return all(int(row) in mine for row in members[number == source])
