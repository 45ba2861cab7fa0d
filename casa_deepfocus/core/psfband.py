"""The PSFs of a band from those of a few of its channels.

Where two channels have the same visibilities in metres, flags and weights alike, the PSF of one is that of the other
with its coordinates scaled by the ratio of their frequencies: p_c(x) = p_n(x f_c / f_n). What is left changes slowly
with frequency and is interpolated between two channels. Whether it holds is seen on a part of every channel's own PSF.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import interpolate, ndimage, sparse

ORDER = 5
"""Of the splines that a PSF is scaled with."""

SAMPLES = 64
"""Rows, and columns, of the known part of a PSF on which it is held against the band's."""

NEAREST = 4
"""Known channels next in frequency that a channel's PSF may be taken from."""


OUTER = 8
"""Share of a field, on each side, that is left out: where gridding in images of two sizes differs most."""

REST = 1e-6
"""Share of a PSF that stands only where the other one is not known."""

SINGLE = 1.3
"""By how much less one PSF must leave than two of which it is one, to be taken alone."""


@dataclass(frozen=True)
class Choice:
    """What a channel's PSF is made of.

    Attributes
    ----------
    nodes : tuple of int
        One or more channels whose PSF is known.
    shares : tuple of float
        Of each; their sum is 1.
    rms, worst : float
        What it leaves of the channel's own PSF where that is known [peak].
    """

    nodes: tuple[int, ...]
    shares: tuple[float, ...]
    rms: float
    worst: float


def spline(psf: NDArray[np.floating]) -> NDArray[np.float32]:
    """(py, px) float32 coefficients of a PSF for `scaled`."""
    return ndimage.spline_filter(psf, order=ORDER, output=np.float64, mode="mirror").astype(np.float32)


_SPLINE = interpolate.BSpline.basis_element(np.arange(ORDER + 2) - 0.5 * (ORDER + 1), extrapolate=False)
"""The B-spline of this order about 0; NaN where it has ended."""


def _matrix(size: int, at: NDArray[np.float64]) -> sparse.csr_matrix:
    """(len(at), size) values of splines [at pixels `at`] from their coefficients."""
    first = np.floor(at).astype(int) - ORDER // 2
    taps = first[:, None] + np.arange(ORDER + 1)
    value = np.nan_to_num(_SPLINE(at[:, None] - taps))
    # Mirrored about the outermost pixels, as `ndimage.spline_filter` takes the coefficients to be.
    period = 2 * (size - 1)
    column = np.abs((taps + size - 1) % period - (size - 1))
    row = np.repeat(np.arange(len(at)), ORDER + 1)
    return sparse.csr_matrix((value.ravel().astype(np.float32), (row, column.ravel())), shape=(len(at), size))


def scaled(
    coefficients: NDArray[np.float32], ratio: float, rows: NDArray | None = None, columns: NDArray | None = None
) -> tuple[NDArray[np.float32], NDArray[np.bool_], NDArray[np.bool_]]:
    """A PSF with its coordinates multiplied by a ratio, about its centre (py // 2, px // 2).

    Parameters
    ----------
    coefficients : (py, px) float32, of `spline`
    ratio : float, of the frequencies: the channel's over that of the PSF
    rows, columns : (n,), (m,) int, optional
        Pixels of the result; all by default.

    Returns
    -------
    (n, m) float32, and (n,), (m,) bool, the rows and columns inside of the PSF that is known
    """
    axes, inside = [], []
    for size, chosen in zip(coefficients.shape, (rows, columns), strict=True):
        at = size // 2 + ((np.arange(size) if chosen is None else chosen) - size // 2) * ratio
        axes.append(_matrix(size, at))
        inside.append((at >= 0) & (at <= size - 1))
    # Rows first: of a few of them the second product is small.
    return (axes[1] @ (axes[0] @ coefficients).T).T, inside[0], inside[1]


def blended(
    nodes: Mapping[int, NDArray[np.float32]], freq: NDArray[np.float64], chan: int, choice: Choice
) -> NDArray[np.float32]:
    """A channel's PSF from the coefficients (`spline`) of known ones.

    A PSF is the same on both sides of its centre: one half is computed.

    Returns
    -------
    (py, px) float32
    """
    py, px = nodes[choice.nodes[0]].shape
    middle_y, middle_x = py // 2, px // 2
    out = np.empty((py, px), np.float32)
    out[: middle_y + 1] = _blend(nodes, freq, chan, choice, np.arange(middle_y + 1), np.arange(px))
    rows, columns = np.arange(middle_y + 1, py), np.arange(px)
    # An even axis begins with a pixel that has no other side.
    there = (columns > 0) | (px % 2 == 1)
    out[middle_y + 1 :, there] = out[np.ix_(2 * middle_y - rows, 2 * middle_x - columns[there])]
    if not there.all():
        out[middle_y + 1 :, :1] = _blend(nodes, freq, chan, choice, rows, columns[:1])
    return out


def _blend(
    nodes: Mapping[int, NDArray[np.float32]], freq: NDArray[np.float64], chan: int, choice: Choice,
    rows: NDArray, columns: NDArray,
) -> NDArray[np.float32]:  # fmt: skip
    total = np.zeros((len(rows), len(columns)), np.float32)
    weight, whole = np.zeros_like(total), True
    for node, share in zip(choice.nodes, choice.shares, strict=True):
        part, known_y, known_x = scaled(nodes[node], freq[chan] / freq[node], rows, columns)
        # Of a PSF at a lower frequency the outermost pixels are not known: the others stand alone there.
        part[~known_y], part[:, ~known_x] = 0.0, 0.0
        whole = whole and bool(known_y.all() and known_x.all())
        total += np.float32(share) * part
        weight += np.float32(share) * (known_y[:, None] & known_x[None, :])
    if not whole:
        total /= np.where(weight > 0, weight, np.float32(1.0))
    return total


def with_own(psf: NDArray[np.float32], own: NDArray[np.floating]) -> None:
    """Put a channel's own PSF, known on a smaller field, into one that was made of others', in place.

    Parameters
    ----------
    psf : (py, px) float32
    own : (ny, nx), its centre at (ny // 2, nx // 2)
    """
    tapers, place = [], []
    for large, small in zip(psf.shape, own.shape, strict=True):
        edge = small // OUTER
        distance = np.minimum(np.arange(small), np.arange(small)[::-1])
        tapers.append(np.clip((distance - edge) / max(edge, 1), 0.0, 1.0).astype(np.float32))
        place.append(slice(large // 2 - small // 2, large // 2 - small // 2 + small))
    inner = psf[place[0], place[1]]
    inner += (own.astype(np.float32) - inner) * tapers[0][:, None] * tapers[1][None, :]


def sampled(shape: tuple[int, int], inner: tuple[int, int]) -> tuple[NDArray, NDArray, NDArray, NDArray]:
    """Rows and columns of a PSF of `shape` that one of `inner` pixels holds as well, and their numbers in that one.

    The outermost pixels (`OUTER`) are left out.
    """
    out = []
    for large, small in zip(shape, inner, strict=True):
        edge = small // OUTER
        own = np.unique(np.linspace(edge, small - 1 - edge, min(SAMPLES, small - 2 * edge)).astype(int))
        out.append((own + large // 2 - small // 2, own))
    (rows, own_rows), (columns, own_columns) = out
    return rows, columns, own_rows, own_columns


def choose(
    nodes: Mapping[int, NDArray[np.float32]], freq: NDArray[np.float64], known: Mapping[int, NDArray[np.floating]],
    inner: tuple[int, int], enough: float = 0.0,
) -> dict[int, Choice]:  # fmt: skip
    """What the PSF of every channel is made of: the nearest known ones, or two of them, that leave least.

    Parameters
    ----------
    nodes : mapping of int -> (py, px) float32
        Coefficients (`spline`) of the channels whose PSF is known.
    freq : (nchan,) [Hz]
    known : mapping of int -> (rows, columns)
        By channel, its own PSF at the pixels of `sampled`.
    inner : (ny, nx)
        Shape of the PSFs that these are of.
    enough : float
        Rms [peak] of a pair with which no single one is tried.

    Returns
    -------
    dict of int -> Choice, for the channels of `known`
    """
    rows, columns, _, _ = sampled(next(iter(nodes.values())).shape, inner)
    highest, found = max(nodes, key=lambda node: freq[node]), {}
    for chan, own in known.items():
        near = sorted(nodes, key=lambda node: abs(freq[node] - freq[chan]))[:NEAREST]
        left: dict[int, NDArray] = {}
        best: Choice | None = None
        for names, shares in _ways(near, highest, freq, chan):
            alone = min(shares) <= REST or len(names) == 1
            if best is not None and best.rms < enough and alone:
                continue
            error = np.zeros_like(own)
            for node, share in zip(names, shares, strict=True):
                if share > REST:
                    if node not in left:
                        left[node] = scaled(nodes[node], freq[chan] / freq[node], rows, columns)[0] - own
                    error += np.float32(share) * left[node]
            rms = float(np.sqrt(np.mean(np.square(error))))
            if best is None or rms * (SINGLE if alone and len(best.nodes) > 1 else 1.0) < best.rms:
                best = Choice(names, shares, rms, float(np.abs(error).max()))
        if best is not None:
            found[chan] = best
    return found


def _ways(
    near: Sequence[int], highest: int, freq: NDArray[np.float64], chan: int
) -> list[tuple[tuple[int, ...], tuple[float, ...]]]:
    """Known channels, and their shares, to make a channel of: pairs on both sides of it, then single ones."""
    found: list[tuple[tuple[int, ...], tuple[float, ...]]] = []
    for one in near:
        for other in near:
            if freq[one] < freq[chan] < freq[other]:
                share = float((freq[chan] - freq[one]) / (freq[other] - freq[one]))
                found.append(((one, other), (1.0 - share, share)))
    for node in near:
        # Where it ends another one goes on.
        above = next((other for other in near if freq[other] >= freq[chan]), highest)
        if freq[node] >= freq[chan] or above == node:
            found.append(((node,), (1.0,)))
        else:
            found.append(((node, above), (1.0 - REST, REST)))
    return found


def spread(channels: Sequence[int], number: int) -> list[int]:
    """At most `number` of some channels, the first and the last among them, at equal distances."""
    places = np.unique(np.linspace(0, len(channels) - 1, min(number, len(channels))).round().astype(int))
    return [int(channels[place]) for place in places]
