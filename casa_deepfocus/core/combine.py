"""Places and sizes of sources from several cubes that share some of their data.

A continuum image is made of the data of its windows. Its row, or those of the windows, are taken, whichever know more
(the sum of 1 / variance), never both; rows with lines know more than the image where the continuum is faint. Errors
are those of noise alone, as in the cubes' own catalogues.

Sizes are averaged as covariances, not as FWHM: a fit measures the intrinsic covariance without bias and with an error
that does not depend on the size, while the error of a FWHM does (it is larger for the smaller one of two), so that a
weighted mean of FWHM is too large. One weight a row keeps a mean of ellipses an ellipse. Where a row among several
does not resolve the source its size is a limit, which does not average: the measurement with the smallest error in
covariance is taken, chosen by its error and not by its value.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree
from scipy.stats import chi2

from casa_deepfocus.core.geometry import covariance_to_shape
from casa_deepfocus.core.identity import ARCSEC, FLOOR, REACH, in_plane, offsets
from casa_deepfocus.core.powerlaw import BY_CHANCE
from casa_deepfocus.core.stack import Stack

SIZE_FLOOR = 0.05
"""Error of an intrinsic covariance that noise does not explain [observed covariance], for the flag only: beams of
header and data differ by up to 2.5 % before anything is said (`reading.consistency`)."""


@dataclass(frozen=True)
class Places:
    """Places of m sources.

    Attributes
    ----------
    ra, dec : (m,) float [deg]
    ra_err, dec_err : (m,) float [arcsec]
    vector : (m, 3) float, unit vectors
    axes : (m, 2, 3) float, unit vectors to the east and the north
    deviates : (m,) bool, where cubes disagree
    """

    ra: NDArray[np.float64]
    dec: NDArray[np.float64]
    ra_err: NDArray[np.float64]
    dec_err: NDArray[np.float64]
    vector: NDArray[np.float64]
    axes: NDArray[np.float64]
    deviates: NDArray[np.bool_]


@dataclass(frozen=True)
class Sizes:
    """Sizes of m sources [arcsec, deg], and whether they are limits or contradict each other."""

    maj: NDArray[np.float64]
    maj_err: NDArray[np.float64]
    min: NDArray[np.float64]
    min_err: NDArray[np.float64]
    pa: NDArray[np.float64]
    pa_err: NDArray[np.float64]
    unresolved: NDArray[np.bool_]
    deviates: NDArray[np.bool_]


def total(values: NDArray, source: NDArray, size: int) -> NDArray[np.float64]:
    """(size, ...) sums of values (n, ...) over the rows of each source."""
    out = np.zeros((size, *values.shape[1:]))
    np.add.at(out, source, values)
    return out


def independent(stack: Stack, source: NDArray, size: int, information: NDArray, used: NDArray) -> NDArray[np.bool_]:
    """(n,) bool: of the rows used, those that share no data, the more informed side of each image.

    Parameters
    ----------
    stack : Stack
    source : (n,) int
    size : int
        Number of sources.
    information : (n,) float
        1 / variance of what is measured.
    used : (n,) bool
    """
    told = np.zeros((size, len(stack.cubes)))
    np.add.at(told, (source, stack.cube), np.where(used, np.nan_to_num(information), 0.0))
    keep = used.copy()
    for image, cube in enumerate(stack.cubes):
        parts = np.array([other.label in cube.made_of for other in stack.cubes])
        if parts.any():
            better = (told[:, image] >= told[:, parts].sum(axis=1)) & (told[:, image] > 0)
            keep &= ~np.where(better[source], parts[stack.cube], stack.cube == image)
            told[np.ix_(better, parts)] = 0.0
            told[~better, image] = 0.0
    # Rows that know nothing are better than none.
    none = total(keep.astype(float), source, size) == 0
    return keep | (used & none[source])


def places(stack: Stack, source: NDArray, size: int, used: NDArray) -> Places:
    """Weighted means of places."""
    rows = stack.rows
    plane = in_plane(rows.error, rows.axes)
    keep = independent(stack, source, size, 1.0 / np.trace(plane, axis1=1, axis2=2), used)
    first = _best(keep, -plane[:, 0, 0] - plane[:, 1, 1], source, size)
    axes = rows.axes[first][source]
    offset = np.where(keep[:, None], offsets(axes, rows.place[first][source], rows.place), 0.0)
    shift, covariance, _ = _mean(offset, in_plane(rows.error, axes), keep, source, size)
    floored = in_plane(rows.error + FLOOR**2 * rows.observed, axes)
    misfit = _mean(offset, floored, keep, source, size)[2]
    vector = rows.place[first] + np.einsum("nji,nj->ni", rows.axes[first], shift) / ARCSEC
    vector /= np.linalg.norm(vector, axis=1, keepdims=True)
    ra, dec = np.rad2deg(np.arctan2(vector[:, 1], vector[:, 0])) % 360.0, np.rad2deg(np.arcsin(vector[:, 2]))
    errors = [np.sqrt(covariance[:, at, at]) for at in (0, 1)]
    number = total(keep.astype(float), source, size)
    alone = number == 1
    ra[alone], dec[alone] = (stack.values[name][first][alone] for name in ("ra", "dec"))
    axes_there = np.stack(_axes(ra, dec), -2)
    unknown = ~((stack.values["ra_err"] > 0) & (stack.values["dec_err"] > 0))
    guessed = total((keep & unknown).astype(float), source, size) > 0
    for error in errors:
        error[guessed] = np.nan
    freedom = 2 * (number - 1)
    deviates = (freedom > 0) & (chi2.sf(misfit, np.maximum(freedom, 1)) < BY_CHANCE)
    return Places(ra, dec, errors[0], errors[1], vector, axes_there, deviates)


def _axes(ra: NDArray, dec: NDArray) -> tuple[NDArray, NDArray]:
    lon, lat = np.deg2rad(ra), np.deg2rad(dec)
    east = np.stack([-np.sin(lon), np.cos(lon), np.zeros_like(lon)], -1)
    north = np.stack([-np.sin(lat) * np.cos(lon), -np.sin(lat) * np.sin(lon), np.cos(lat)], -1)
    return east, north


def _best(allowed: NDArray, merit: NDArray, source: NDArray, size: int) -> NDArray[np.int64]:
    """(size,) the allowed row of most merit of each source."""
    order = np.lexsort((np.where(allowed, np.nan_to_num(merit, nan=-np.inf), -np.inf), allowed, source))
    last = np.searchsorted(source[order], np.arange(size), side="right") - 1
    return order[last]


def _mean(
    offset: NDArray, error: NDArray, keep: NDArray, source: NDArray, size: int
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Weighted mean (size, 2) of offsets, its error matrix, and chi squared about it."""
    known = keep & np.isfinite(offset).all(axis=1) & np.isfinite(error).all(axis=(1, 2))
    weight = np.zeros_like(error)
    weight[known] = np.linalg.inv(error[known])
    information = total(weight, source, size)
    pull = np.einsum("nij,nj->ni", weight, np.nan_to_num(offset))
    weighted = total(pull, source, size)
    covariance = np.full_like(information, np.nan)
    some = information[:, 0, 0] > 0
    covariance[some] = np.linalg.inv(information[some])
    shift = np.einsum("nij,nj->ni", covariance, weighted)
    misfit = total((np.nan_to_num(offset) * pull).sum(axis=1), source, size) - (shift * weighted).sum(axis=1)
    return shift, covariance, misfit


def sizes(stack: Stack, source: NDArray, size: int, used: NDArray, axes: NDArray) -> Sizes:
    """Mean intrinsic covariances, or the best measurement.

    Parameters
    ----------
    stack : Stack
    source : (n,) int
    size : int
        Number of sources.
    used : (n,) bool
    axes : (size, 2, 3) float
        Of the sources' places.
    """
    values = stack.values
    maj, minor = values["fwhm_maj"] ** 2, values["fwhm_min"] ** 2
    spread = [2.0 * values[name] * values[f"{name}_err"] for name in ("fwhm_maj", "fwhm_min")]
    turn = (maj - minor) * np.deg2rad(values["pa_err"])
    variance = spread[0] ** 2 + spread[1] ** 2 + 2.0 * turn**2
    measured = used & np.isfinite(variance) & (variance > 0)
    some = total(measured.astype(float), source, size) > 0
    allowed = np.where(some[source], measured, used)
    information = np.where(measured, 1.0 / np.where(measured, variance, 1.0), 0.0)
    keep = independent(stack, source, size, information, allowed)
    merit = np.where(some[source], information, np.nan_to_num(values["snr"]))
    best = _best(keep, merit, source, size)
    limit = stack.flagged("unresolved")
    mixed = total((keep & limit).astype(float), source, size) > 0
    averaged = keep & measured & ~mixed[source]
    many = total(averaged.astype(float), source, size) > 1
    out = {name: values[name][best].copy() for name in ("fwhm_maj", "fwhm_min", "pa")}
    errors = {name: values[f"{name}_err"][best].copy() for name in out}
    if many.any():
        weight = np.where(averaged, information, 0.0)
        mean = in_plane(total(weight[:, None, None] * stack.shape, source, size), axes)
        mean /= np.where(many, total(weight, source, size), 1.0)[:, None, None]
        matrix = total(weight[:, None, None] ** 2 * _size_errors(spread, turn, values["pa"], weight > 0), source, size)
        matrix /= np.where(many, total(weight, source, size), 1.0)[:, None, None] ** 2
        for name, (value, error) in _as_fwhm(mean, matrix).items():
            out[name][many], errors[name][many] = value[many], error[many]
    return Sizes(
        out["fwhm_maj"], errors["fwhm_maj"], out["fwhm_min"], errors["fwhm_min"], out["pa"], errors["pa"],
        limit[best], _sizes_differ(stack, source, size, keep & measured, maj + minor, spread),
    )  # fmt: skip


def _size_errors(spread: list[NDArray], turn: NDArray, pa: NDArray, known: NDArray) -> NDArray[np.float64]:
    """(n, 3, 3) error matrices of the covariances' elements (east east, north north, east north)."""
    s, c = np.sin(np.deg2rad(pa)), np.cos(np.deg2rad(pa))
    ways = np.stack([
        np.stack([s * s, c * c, s * c], -1) * spread[0][:, None],
        np.stack([c * c, s * s, -s * c], -1) * spread[1][:, None],
        np.stack([2 * s * c, -2 * s * c, c * c - s * s], -1) * turn[:, None],
    ])  # fmt: skip
    return np.where(known[:, None, None], np.einsum("kni,knj->nij", ways, ways), 0.0)


def _as_fwhm(mean: NDArray, matrix: NDArray) -> dict[str, tuple[NDArray, NDArray]]:
    """FWHM and position angle, and their errors, of squares of FWHM (n, 2, 2) with error matrices (n, 3, 3)."""
    elements = np.stack([mean[:, 0, 0], mean[:, 1, 1], -mean[:, 0, 1]], -1)
    # The axes of a matrix do not depend on what it is the square of.
    pa = covariance_to_shape(elements)[2]
    s, c = np.sin(np.deg2rad(pa)), np.cos(np.deg2rad(pa))
    forms = {
        "fwhm_maj": np.stack([s * s, c * c, 2 * s * c], -1),
        "fwhm_min": np.stack([c * c, s * s, -2 * s * c], -1),
        "pa": np.stack([s * c, -s * c, c * c - s * s], -1),
    }
    plain = np.stack([mean[:, 0, 0], mean[:, 1, 1], mean[:, 0, 1]], -1)
    squares = {name: np.maximum((form * plain).sum(axis=1), 0.0) for name, form in forms.items()}
    variances = {name: np.einsum("ni,nij,nj->n", form, matrix, form) for name, form in forms.items()}
    errors = {name: np.sqrt(np.maximum(variance, 0.0)) for name, variance in variances.items()}
    out = {}
    with np.errstate(divide="ignore", invalid="ignore"):
        for name in ("fwhm_maj", "fwhm_min"):
            root = np.sqrt(squares[name])
            out[name] = root, errors[name] / (2.0 * root)
        apart = squares["fwhm_maj"] - squares["fwhm_min"]
        out["pa"] = pa, np.where(apart > 0, np.minimum(np.rad2deg(errors["pa"] / apart), 90.0), 90.0)
    return out


def _sizes_differ(
    stack: Stack, source: NDArray, size: int, keep: NDArray, square: NDArray, spread: list[NDArray]
) -> NDArray[np.bool_]:
    """(size,) bool: the sums of the squared axes disagree."""
    observed = np.trace(in_plane(stack.rows.observed, stack.rows.axes), axis1=1, axis2=2)
    variance = spread[0] ** 2 + spread[1] ** 2 + (SIZE_FLOOR * observed) ** 2
    weight = np.where(keep, 1.0 / np.where(keep, variance, 1.0), 0.0)
    value = np.where(keep, square, 0.0)
    number, weights, first = (total(v, source, size) for v in (keep.astype(float), weight, weight * value))
    misfit = total(weight * value**2, source, size) - first**2 / np.where(weights > 0, weights, 1.0)
    return (number > 1) & (chi2.sf(misfit, np.maximum(number - 1, 1)) < BY_CHANCE)


def blended(stack: Stack, source: NDArray, where: Places, flux: NDArray, error: NDArray) -> NDArray[np.bool_]:
    """(n,) bool: rows that hold the continuum of a second source of the target too.

    That source is within the row's beam, has no row of its own in this cube, and in another cube a continuum that is
    above the error of this row's.

    Parameters
    ----------
    stack : Stack
    source : (n,) int
    where : Places
    flux, error : (m, k) float [Jy]
        Continua of m sources in k cubes and their errors, NaN where not measured.
    """
    out = np.zeros(len(stack), dtype=bool)
    known = np.flatnonzero(np.isfinite(where.vector[:, 0]) & np.isfinite(flux).any(axis=1))
    # Flux densities of the sources at their best, and who has a row where.
    best = np.nanmax(np.where(np.isfinite(flux), np.abs(flux), 0.0), axis=1, initial=0.0)
    present = np.zeros(flux.shape, dtype=bool)
    present[source, stack.cube] = True
    rows = np.flatnonzero(np.isfinite(stack.values["continuum"]) & np.isfinite(stack.rows.place[:, 0]))
    if not (known.size and rows.size):
        return out
    extent = stack.rows.extent
    farthest = REACH * float(extent[rows].max()) / ARCSEC
    pairs = cKDTree(stack.rows.place[rows]).sparse_distance_matrix(
        cKDTree(where.vector[known]), farthest, output_type="ndarray"
    )
    row, other, apart = rows[pairs["i"]], known[pairs["j"]], pairs["v"] * ARCSEC
    hit = (apart <= REACH * extent[row]) & (other != source[row]) & ~present[other, stack.cube[row]]
    hit &= best[other] > np.nan_to_num(stack.values["continuum_err"][row])
    out[row[hit]] = True
    return out
