"""One-to-one matching of a catalogue with the truth, on plain arrays; boxes and their overlap.

A detection is right when it lies within half a beam (FWHM) of a source and within half its line's
FWHM (at least one channel); one detection for one source (Hungarian assignment). `core.scores` counts.

Which lines go with which:

========  ===================  ==========================================================
truth     detection            match
========  ===================  ==========================================================
line      line                 on position and channel
line      none                 no; where the source has continuum as well, the detection is not false
                               either: it counts in `lines_missed` (mode 'continuum': on position)
none      none                 on position
none      line                 on position, after the detections without a line; flagged
========  ===================  ==========================================================

A source of several lines is matched at any of them, once; detections of its other lines are real and
count neither as found nor as false.

In mode 'line' sources without a line are no part of the truth: a line claimed there is false. In mode
'continuum' channels are ignored; sources without continuum are not asked for, but their line does
show in the mean image, so a detection on them counts neither as found nor as false.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, fields, replace
from dataclasses import field as dataclass_field
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import linear_sum_assignment

from casa_deepfocus.core.geometry import FWHM_PER_SIGMA, shape_to_covariance
from casa_deepfocus.core.preprocessing import BOX_LEVEL, TARGET_SMOOTHING
from casa_deepfocus.errors import ParameterError

MATCH_RADIUS = 0.5
"""Largest separation of a match [beam FWHM]."""

MATCH_LINE = 0.5
"""Largest spectral separation of a match [FWHM of the true line], never below one channel."""

MODES = ("line", "continuum", "both")

_SPECIAL = ("errors", "bounds", "further")


@dataclass(frozen=True)
class Sources:
    """Sources of one or many fields; NaN where a value is not known. Make them with `Sources.build`.

    Attributes
    ----------
    x, y : (n,) float64 [pixel]
    beam : (n,) float64 [pixel], geometric-mean FWHM of the beam of the source's field
    field : (n,) int64, which cube the source belongs to
    chan : (n,) float64 [channel], NaN for a source without a line
    line_fwhm : (n,) float64 [channel]
    fwhm_maj, fwhm_min : (n,) float64 [pixel], deconvolved
    pa : (n,) float64 [deg]
    line_flux, continuum : (n,) float64, any unit as long as truth and catalogue share it
    peak : (n,) float64 [Jy/beam], of the line, else of the continuum
    snr : (n,) float64, matched filter; of the line where there is one
    snr_total : (n,) float64, matched filter, line and continuum together
    errors : dict of (n,) float64, 68 % errors by the names above
    bounds : dict of (n,) float64, Cramer-Rao bounds by the names above, in the same units
    further : (n, k, 2) float64 [channel], centre and FWHM of further lines; NaN where there are fewer
    """

    x: NDArray[np.float64]
    y: NDArray[np.float64]
    beam: NDArray[np.float64]
    field: NDArray[np.int64]
    chan: NDArray[np.float64]
    line_fwhm: NDArray[np.float64]
    fwhm_maj: NDArray[np.float64]
    fwhm_min: NDArray[np.float64]
    pa: NDArray[np.float64]
    line_flux: NDArray[np.float64]
    continuum: NDArray[np.float64]
    peak: NDArray[np.float64]
    snr: NDArray[np.float64]
    snr_total: NDArray[np.float64]
    errors: dict[str, NDArray[np.float64]] = dataclass_field(default_factory=dict)
    bounds: dict[str, NDArray[np.float64]] = dataclass_field(default_factory=dict)
    further: NDArray[np.float64] = dataclass_field(default_factory=lambda: np.empty((0, 0, 2)))

    def __post_init__(self) -> None:
        if len(self.further) != len(self.x):
            object.__setattr__(self, "further", np.full((len(self.x), 0, 2), np.nan))

    @classmethod
    def build(
        cls,
        *,
        x: ArrayLike,
        y: ArrayLike,
        beam: ArrayLike,
        errors: dict[str, ArrayLike] | None = None,
        bounds: dict[str, ArrayLike] | None = None,
        further: ArrayLike | None = None,
        **columns: ArrayLike,
    ) -> Sources:
        """Sources from columns; scalars are repeated, columns that are not given are NaN (`field`: 0)."""
        x = np.atleast_1d(np.asarray(x, dtype=float))
        values: dict[str, Any] = {"x": x, "y": y, "beam": beam, "field": 0, **columns}
        full = {}
        for item in fields(cls):
            if item.name not in _SPECIAL:
                kind = np.int64 if item.name == "field" else float
                full[item.name] = np.broadcast_to(np.asarray(values.pop(item.name, np.nan), dtype=kind), x.shape).copy()
        if values:
            raise ParameterError("columns", sorted(values), "not columns of Sources", f"Use {sorted(full)}")
        sigma, limits = (
            {k: np.broadcast_to(np.asarray(v, dtype=float), x.shape).copy() for k, v in (given or {}).items()}
            for given in (errors, bounds)
        )
        more = np.full((x.size, 0, 2), np.nan) if further is None else np.asarray(further, dtype=float)
        return cls(**full, errors=sigma, bounds=limits, further=more)

    def __len__(self) -> int:
        return self.x.size

    @property
    def has_line(self) -> NDArray[np.bool_]:
        """(n,) bool: the source has a line."""
        return np.isfinite(self.chan)

    def take(self, index: NDArray) -> Sources:
        """The sources of an index or mask."""
        columns = {f.name: getattr(self, f.name)[index] for f in fields(self) if f.name not in _SPECIAL}
        errors, bounds = ({k: v[index] for k, v in table.items()} for table in (self.errors, self.bounds))
        return replace(self, **columns, errors=errors, bounds=bounds, further=self.further[index])


@dataclass(frozen=True)
class Matching:
    """Who is whom.

    Attributes
    ----------
    pairs : (m, 2) int64, indices into truth and catalogue
    missed : (k,) int64, indices into the truth
    false_positives : (f,) int64, indices into the catalogue; holds the duplicates and the misplaced
    duplicates : (d,) int64, false positives that would match a source that another detection has, or show
        its continuum once more
    misplaced : (p,) int64, false positives within the radius of a source that nobody found
    halves : (h, 2) int64, missed sources with a line and detections of their continuum alone (mode 'both')
    tolerated : (t,) int64, detections neither right nor wrong: those of `halves`, of further lines of a source
        that is found, or of sources that were not asked for (mode 'continuum')
    line_claimed : (m,) bool, pairs in which the detection has a line and the source has none
    at_further : (m,) bool, pairs in which the detection is at a further line of the source
    """

    pairs: NDArray[np.int64]
    missed: NDArray[np.int64]
    false_positives: NDArray[np.int64]
    duplicates: NDArray[np.int64]
    misplaced: NDArray[np.int64]
    halves: NDArray[np.int64]
    tolerated: NDArray[np.int64]
    line_claimed: NDArray[np.bool_]
    at_further: NDArray[np.bool_]

    @property
    def main_pairs(self) -> NDArray[np.int64]:
        """(k, 2) int64, pairs whose lines, if any, are the same."""
        return self.pairs[~self.at_further]


def assign(cost: NDArray[np.float64]) -> NDArray[np.int64]:
    """(m, 2) pairs of a cost matrix: as many allowed (finite) ones as possible, among those the cheapest."""
    allowed = np.isfinite(cost)
    if not allowed.any():
        return np.empty((0, 2), dtype=np.int64)
    forbidden = (cost[allowed].max() + 1.0) * (min(cost.shape) + 1)
    rows, cols = linear_sum_assignment(np.where(allowed, cost, forbidden))
    keep = allowed[rows, cols]
    return np.stack([rows[keep], cols[keep]], axis=1).astype(np.int64)


def by_field(truth: Sources, found: Sources) -> Iterable[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Indices into the truth and into the catalogue, field by field."""
    for number in np.union1d(truth.field, found.field):
        yield np.flatnonzero(truth.field == number), np.flatnonzero(found.field == number)


def separations(truth: Sources, found: Sources) -> NDArray[np.float64]:
    """(n_truth, n_found) distances on the sky [beam FWHM of the truth], fields ignored."""
    distance = np.hypot(truth.x[:, None] - found.x[None, :], truth.y[:, None] - found.y[None, :])
    return distance / truth.beam[:, None]


def _nearest_line(truth: Sources, found: Sources) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    # (n_truth, n_found): distance to the nearest line of the source [largest of a match], and which, 0 the main one.
    main = np.stack([truth.chan, truth.line_fwhm], axis=-1)[:, None]
    lines = np.concatenate([main, truth.further], axis=1)
    tolerance = np.fmax(MATCH_LINE * lines[..., 1], 1.0)[:, None]
    distance = np.abs(lines[:, None, :, 0] - found.chan[None, :, None]) / tolerance
    which = np.argmin(np.where(np.isfinite(distance), distance, np.inf), axis=-1)
    return np.take_along_axis(distance, which[..., None], axis=-1)[..., 0], which


def _further_lines(
    truth: Sources, found: Sources, cost: NDArray, matched: NDArray, alone: NDArray
) -> NDArray[np.int64]:
    # Detections, not matched, of those lines of found sources that no other detection stands for.
    which = _nearest_line(truth, found)[1]
    taken = {(int(t), int(which[t, f])) for t, f in matched}
    out = []
    for t, f in np.argwhere(np.isfinite(cost) & alone[None, :] & found.has_line[None, :]):
        line = (int(t), int(which[t, f]))
        if t in matched[:, 0] and truth.has_line[t] and line not in taken:
            taken.add(line)
            out.append(int(f))
    return np.unique(np.array(out, dtype=np.int64))


def _physical_cost(truth: Sources, found: Sources, mode: str) -> tuple[NDArray, NDArray]:
    # (n_truth, n_found): normalised squared distance, inf where no match is allowed; and near on the sky.
    apart = separations(truth, found) / MATCH_RADIUS
    near = apart <= 1.0
    cost = np.where(near, apart**2, np.inf)
    if mode == "continuum":
        return cost, near
    dchan, which = _nearest_line(truth, found)
    # At equal distance the main line is the one that is meant.
    dchan = np.where(which > 0, np.hypot(dchan, 1.0), dchan) if truth.further.size else dchan
    line, claimed = truth.has_line[:, None], found.has_line[None, :]
    reach = np.where(which > 0, np.sqrt(2.0), 1.0)
    cost = np.where(line & claimed, cost + np.where(dchan <= reach, dchan**2, np.inf), cost)
    cost = np.where(line & ~claimed, np.inf, cost)
    # A line that is not there costs more than any distance, yet less than a missed source.
    return np.where(~line & claimed, cost + 4.0, cost), near


def match_physical(truth: Sources, found: Sources, mode: str = "both") -> Matching:
    """Match a catalogue with the truth by position and channel (module docstring).

    Parameters
    ----------
    truth, found : Sources
    mode : {'line', 'continuum', 'both'}, what the finder was asked for

    Raises
    ------
    ParameterError
        When `mode` is none of these.
    """
    if mode not in MODES:
        raise ParameterError("mode", mode, "unknown", f"Use one of {MODES}")
    none = np.empty((0, 2), dtype=np.int64)
    further = [np.empty(0, dtype=bool)]
    pairs, half_pairs, missed, tolerated, duplicates, misplaced = [none], [none], [], [], [], []
    for t_all, f_index in by_field(truth, found):
        t_index = t_all[truth.has_line[t_all]] if mode == "line" else t_all
        here, there = truth.take(t_index), found.take(f_index)
        cost, near = _physical_cost(here, there, mode)
        matched = assign(cost)
        alone = np.ones(len(f_index), dtype=bool)
        alone[matched[:, 1]] = False
        unfound = np.ones(len(t_index), dtype=bool)
        unfound[matched[:, 0]] = False
        further.append(_nearest_line(here, there)[1][matched[:, 0], matched[:, 1]] > 0)
        if here.further.size and mode != "continuum":
            others = _further_lines(here, there, cost, matched, alone)
            tolerated.append(f_index[others])
            alone[others] = False
        # Detections of no line on the sky position of a source with one.
        lineless = near & here.has_line[:, None] & ~there.has_line & (mode == "both")
        possible = lineless & unfound[:, None] & alone & (here.continuum > 0.0)[:, None]
        half = assign(np.where(possible, separations(here, there), np.inf))
        half_pairs.append(np.stack([t_index[half[:, 0]], f_index[half[:, 1]]], axis=1))
        tolerated.append(f_index[half[:, 1]])
        alone[half[:, 1]] = False
        double = alone & (np.isfinite(cost) | lineless)[~unfound].any(axis=0)
        duplicates.append(f_index[double])
        misplaced.append(f_index[alone & ~double & near[unfound].any(axis=0)])
        asked = np.ones(len(t_index), dtype=bool)
        if mode == "continuum":
            asked = ~(truth.continuum[t_index] == 0.0)
        wanted = asked[matched[:, 0]]
        further[-1] = further[-1][wanted]
        tolerated.append(f_index[matched[~wanted, 1]])
        missed.append(t_index[unfound & asked])
        pairs.append(np.stack([t_index[matched[wanted, 0]], f_index[matched[wanted, 1]]], axis=1))
    pair = np.concatenate(pairs)
    free = _joined(tolerated)
    used = np.concatenate([pair[:, 1], free])
    claimed = found.has_line[pair[:, 1]] & ~truth.has_line[pair[:, 0]] & (mode == "both")
    return Matching(
        pairs=pair,
        missed=_joined(missed),
        false_positives=np.setdiff1d(np.arange(len(found)), used),
        duplicates=_joined(duplicates),
        misplaced=_joined(misplaced),
        halves=np.concatenate(half_pairs),
        tolerated=free,
        line_claimed=claimed,
        at_further=np.concatenate(further) & found.has_line[pair[:, 1]] & (mode != "continuum"),
    )


def _joined(parts: list[NDArray[np.int64]]) -> NDArray[np.int64]:
    return np.sort(np.concatenate([*parts, np.empty(0, dtype=np.int64)]))


def draw_boxes(sources: Sources) -> NDArray[np.int64]:
    """Boxes around the sources' drawn Gaussians: the same rule for truth and catalogue.

    The Gaussian has peak 1 and FWHM^2 = intrinsic FWHM^2 + (TARGET_SMOOTHING beam)^2; the box bounds the
    pixels where it exceeds BOX_LEVEL. A size that is not known is taken as unresolved.

    Parameters
    ----------
    sources : Sources

    Returns
    -------
    (n, 4) int64 [pixel] : x0, y0, x1, y1, inclusive; not cut at the image's edge
    """
    smooth = (TARGET_SMOOTHING * sources.beam / FWHM_PER_SIGMA) ** 2
    major, minor = np.nan_to_num(sources.fwhm_maj), np.nan_to_num(sources.fwhm_min)
    covariance = shape_to_covariance(major, minor, np.nan_to_num(sources.pa))
    boxes = np.empty((len(sources), 4), dtype=np.int64)
    for index, (x, y, extra) in enumerate(zip(sources.x, sources.y, smooth, strict=True)):
        sxx, syy, sxy = covariance[index] + (extra, extra, 0.0)
        boxes[index, 0], boxes[index, 2] = _extent(x, y, sxx, syy, sxy)
        boxes[index, 1], boxes[index, 3] = _extent(y, x, syy, sxx, sxy)
    return boxes


def _extent(u: float, v: float, suu: float, svv: float, suv: float) -> tuple[int, int]:
    # First and last integer u with a pixel (u, v) inside the contour; at least the nearest pixel.
    limit = -2.0 * np.log(BOX_LEVEL)
    half = np.sqrt(limit * suu)
    grid = np.arange(np.floor(u - half), np.ceil(u + half) + 1.0)
    ridge = v + suv / suu * (grid - u)
    chi2 = (grid - u) ** 2 / suu + (np.rint(ridge) - ridge) ** 2 / (svv - suv**2 / suu)
    inside = grid[chi2 < limit]
    return (int(inside[0]), int(inside[-1])) if inside.size else (int(np.rint(u)), int(np.rint(u)))


def channel_ranges(sources: Sources, nchan: int) -> NDArray[np.int64]:
    """(n, 2) first and last channel, inclusive: chan +- line FWHM, the whole band for no line."""
    width = np.nan_to_num(sources.line_fwhm)
    centre = np.nan_to_num(sources.chan)
    spans = np.rint(np.stack([centre - width, centre + width], axis=1)).astype(np.int64)
    spans[~sources.has_line] = (0, nchan - 1)
    return np.clip(spans, 0, nchan - 1)


def box_iou(first: NDArray[np.int64], second: NDArray[np.int64]) -> NDArray[np.float64]:
    """Intersection over union of inclusive boxes.

    Parameters
    ----------
    first, second : (n, 2 d) and (m, 2 d) int, the d lower edges, then the d upper edges

    Returns
    -------
    (n, m) float64 in [0, 1]
    """
    dim = first.shape[1] // 2
    low = np.maximum(first[:, None, :dim], second[None, :, :dim])
    high = np.minimum(first[:, None, dim:], second[None, :, dim:])
    both = np.prod(np.maximum(high - low + 1, 0), axis=-1).astype(float)
    size1 = np.prod(first[:, dim:] - first[:, :dim] + 1, axis=-1)
    size2 = np.prod(second[:, dim:] - second[:, :dim] + 1, axis=-1)
    return both / (size1[:, None] + size2[None, :] - both)
