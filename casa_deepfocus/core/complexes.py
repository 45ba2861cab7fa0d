"""One galaxy fitted with many Gaussians is one source: chains of overlapping components are joined.

A rotating disc is not a Gaussian times a line. The joint fit describes it by a chain of components
that overlap their neighbours on the sky and in frequency. Three such components are a blend, unless all
lie within half a beam of their centre (the two horns and the middle of one line), or in a row along which
the channel runs one way (the two sides and the middle of a resolved disc). A longer chain is one extended
object. Two are a blend, unless something that knows the data says that they are one, and the three are one unless it
says that they are not (core.rotation).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from casa_deepfocus.core.component import NAMES, Component
from casa_deepfocus.core.geometry import GAUSSIAN_LINE, covariance_to_shape

LEAST = 4
"""Components of a chain that make it one extended source."""

LEAST_ORDERED = 3
"""The same for a chain within half a beam of its centre, or ordered as a rotating disc is."""

STRAIGHT = 0.35
"""How far off the line through the outer two the middle of a rotating disc may lie [beam, FWHM]."""


def overlap(one: Component, other: Component, beam_covariance: NDArray) -> bool:
    """Whether two lines overlap: observed half-power circles touch on the sky, 1.5 times their widths in frequency.

    Emission and absorption never do.
    """
    if not (one.has_line and other.has_line) or one.absorption != other.absorption:
        return False
    sizes = [np.mean(covariance_to_shape(np.asarray(c.covariance) + beam_covariance)[:2]) for c in (one, other)]
    near = np.hypot(one.x - other.x, one.y - other.y) < 0.5 * sum(sizes)
    return bool(near and abs(one.chan - other.chan) < 0.75 * (_width(one) + _width(other)))


def _width(component: Component) -> float:
    """FWHM of a line [chan]; none is narrower than its channel."""
    return max(component.fwhm, 1.0)


def chains(
    components: Sequence[Component],
    beam_covariance: NDArray,
    least: int = LEAST,
    one_source: Callable[[Sequence[Component]], bool] | None = None,
) -> list[list[int]]:
    """Components of each source, as indices: long chains together, everything else by itself.

    Parameters
    ----------
    components : sequence of Component
    beam_covariance : (3,) [pixel^2]
    least : int, shorter chains are blends of separate sources
    one_source : callable on two overlapping components, or on three that are ordered as a rotating disc is, whether
        they are one; without it two never are, and three always
    """
    numbers = range(len(components))
    touching = [
        (one, other) for other in numbers for one in range(other)
        if overlap(components[one], components[other], beam_covariance)
    ]  # fmt: skip
    out: list[list[int]] = []
    for members in _connected(numbers, touching):
        mine = [components[member] for member in members]
        ordered = is_compact(mine, beam_covariance) or is_rotating(mine, beam_covariance)
        few = ordered and min(least, LEAST_ORDERED) <= len(members) < least
        if len(members) >= least or (few and (one_source is None or one_source(mine))):
            out.append(members)
        else:
            pairs = [
                (one, other) for one, other in touching
                if one in members and one_source is not None and one_source([components[one], components[other]])
            ]  # fmt: skip
            out += _connected(members, pairs)
    return out


def _connected(numbers: Iterable[int], pairs: Sequence[tuple[int, int]]) -> list[list[int]]:
    """Groups of numbers that pairs hold together, each in its order, by their first members."""
    label = {number: number for number in numbers}
    for one, other in pairs:
        old, new = max(label[one], label[other]), min(label[one], label[other])
        label = {number: new if at == old else at for number, at in label.items()}
    return [[number for number, at in label.items() if at == value] for value in sorted(set(label.values()))]


def is_compact(members: Sequence[Component], beam_covariance: NDArray) -> bool:
    """Whether all members lie within half a beam (FWHM, geometric mean) of their mean place."""
    x, y = (np.array([getattr(member, name) for member in members]) for name in ("x", "y"))
    return bool((np.hypot(x - x.mean(), y - y.mean()) <= 0.5 * _fwhm(beam_covariance)).all())


def is_rotating(members: Sequence[Component], beam_covariance: NDArray) -> bool:
    """Whether three or more members lie in a row, in the order of their channels."""
    if len(members) < LEAST_ORDERED:
        return False
    places = np.array([(c.x, c.y) for c in sorted(members, key=lambda c: c.chan)])
    row = places[-1] - places[0]
    length = float(np.hypot(*row))
    if length == 0.0:
        return False
    along, across = np.array([row, (-row[1], row[0])]) @ (places - places[0]).T / length
    return bool((np.diff(along) > 0).all() and (np.abs(across) <= STRAIGHT * _fwhm(beam_covariance)).all())


def _fwhm(beam_covariance: NDArray) -> float:
    """FWHM of the beam [pixel], geometric mean."""
    return float(np.sqrt(np.prod(covariance_to_shape(beam_covariance)[:2])))


def join(members: Sequence[Component], nchan: int) -> Component:
    """One component with the flux, the flux-weighted place and the second moments of several.

    The line's width is the one at half the peak of the summed spectrum (W50), and its amplitude
    such that amplitude times width keeps the summed flux.

    Parameters
    ----------
    members : sequence of Component, with lines, all in emission or all in absorption
    nchan : int
    """
    flux = np.array([c.line_flux()[0] for c in members])
    share = flux / flux.sum()
    x, y, chan = (float(share @ [getattr(c, name) for c in members]) for name in ("x", "y", "chan"))
    dx, dy = np.array([c.x - x for c in members]), np.array([c.y - y for c in members])
    moments = np.array([c.covariance for c in members]) + np.stack([dx * dx, dy * dy, dx * dy], axis=1)
    spectrum = np.abs(np.sum([c.line_spectrum(nchan) for c in members], axis=0))
    above = np.flatnonzero(spectrum >= 0.5 * spectrum.max())
    width = float(above[-1] - above[0] + 1)
    out = Component(
        x, y, share @ moments, amp=float(flux.sum()) / (GAUSSIAN_LINE * width), chan=chan, fwhm=width,
        cont=float(sum(c.cont for c in members)), slope=float(sum(c.slope for c in members)),
        has_cont=any(c.has_cont for c in members), has_slope=any(c.has_slope for c in members), fit_shape=False,
        absorption=all(c.absorption for c in members), profile="complex",
    )  # fmt: skip
    flux_error = np.array([c.line_flux()[1] for c in members])
    for name in ("x", "y", "chan"):
        out.errors[name] = float(np.sqrt(np.sum((share * [c.errors.get(name, 0.0) for c in members]) ** 2)))
    out.errors["amp"] = float(np.sqrt(np.sum(flux_error**2))) / (GAUSSIAN_LINE * width)
    out.errors["cont"] = float(np.sqrt(sum(c.errors.get("cont", 0.0) ** 2 for c in members)))
    out.matrix = np.zeros((len(NAMES), len(NAMES)))
    for name, error in out.errors.items():
        out.matrix[NAMES.index(name), NAMES.index(name)] = error**2
    out.snr_line = float(np.sqrt(sum(c.snr_line**2 for c in members)))
    out.snr_cont = out.cont / out.errors["cont"] if out.has_cont and out.errors["cont"] else 0.0
    out.probability = max(c.probability for c in members)
    out.clean = next((c.clean for c in members if c.clean is not None), None)
    out.group = min(c.group for c in members)
    inherited = {"edge", "band_edge", "absorption", "gaussian_psf"}
    out.flags = {"complex"} | {flag for c in members for flag in c.flags & inherited}
    return out
