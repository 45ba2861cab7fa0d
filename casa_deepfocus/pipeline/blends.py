"""Sources so close together that the residual does not tell: is one Gaussian two, are two only one?

A pair of equal sources a beam apart is nearly a Gaussian, and a Gaussian fitted to it leaves next to nothing where the
search would see it; a companion within a beam may live on flux that its neighbour would have as well. The likelihood
of the one against that of the two tells both.
"""

from __future__ import annotations

import copy

import numpy as np
from numpy.typing import NDArray

from casa_deepfocus.core.component import Component
from casa_deepfocus.core.geometry import FWHM_PER_SIGMA
from casa_deepfocus.core.profiles import EXPONENTIAL, GAUSSIAN
from casa_deepfocus.pipeline.decision import Proposal, best_of, surplus, total_snr, trial
from casa_deepfocus.pipeline.joint import fit_all
from casa_deepfocus.pipeline.state import Search

BRIGHT = 2.0
"""Times the SNR that a source needs, from which a component may be two."""

LONG = 0.3
"""Least major axis [beam] of a component that may be two in the same channels."""

MOVING = 4.0
"""ln L that a motion with the channel must gain for a component to be tried as two in different channels."""


def settle(search: Search) -> int:
    """Split what is two, join what is one. Number of changes."""
    changes = split(search) + share(search) + merge(search)
    search.count("blends", changes)
    return changes


def split(search: Search) -> int:
    """Make two of each component that two describe better. Number of components that became two.

    What was tried once is left alone.
    """
    changes = 0
    for component in sorted(search.components, key=lambda c: -total_snr(c)):
        if component in search.whole or component.absorption or not component.fit_shape:
            continue
        if component not in search.components:
            # A fit of everything that another change brought has dropped it.
            continue
        search.whole.append(component)
        proposals = [Proposal((component,), tuple(two)) for two in halves(search, component)]
        changes += adopt(search, best_of(search, proposals))
    return changes


def halves(search: Search, component: Component) -> list[list[Component]]:
    """Pairs of components to start with in the place of one: along its major axis, and along its motion."""
    if total_snr(component) < BRIGHT * min(search.limit("line"), search.limit("integrated")):
        return []
    out = []
    sxx, syy, sxy = component.covariance
    values, axes = np.linalg.eigh(np.array([[sxx, sxy], [sxy, syy]]))
    if FWHM_PER_SIGMA * np.sqrt(max(values[1], 0.0)) >= LONG * search.beam:
        across = max(values[0], 0.0)
        out.append(_pair(component, 0.8 * np.sqrt(values[1]) * axes[:, 1], np.array([across, across, 0.0]), 0.0))
    if component.has_line:
        gain, motion = search.fit.drift(component)
        if gain >= MOVING:
            apart = component.fwhm / FWHM_PER_SIGMA
            away = motion * apart
            away *= min(1.0, 0.5 * search.beam / max(float(np.hypot(*away)), 1e-9))
            out.append(_pair(component, away, component.covariance, apart))
    return out


def _pair(component: Component, away: NDArray, covariance: NDArray, channels: float) -> list[Component]:
    """Two components at -away and +away (2,) [pixel] and at -channels and +channels [chan] of one."""
    two = []
    for side in (-1.0, 1.0):
        half = copy.copy(component)
        half.x, half.y = component.x + side * float(away[0]), component.y + side * float(away[1])
        half.covariance, half.prior_covariance = np.array(covariance, dtype=float), None
        half.amp, half.cont, half.slope = 0.5 * component.amp, 0.5 * component.cont, 0.5 * component.slope
        half.errors, half.flags, half.matrix = {}, set(), None
        half.profile, half.profiled_at = GAUSSIAN, 0.0
        if channels:
            half.chan, half.fwhm = component.chan + side * channels, max(0.6 * component.fwhm, 1.0)
            half.amp = component.amp
        two.append(half)
    return two


def share(search: Search) -> int:
    """Give a continuum to the lines beside it, where they do without what has it. Number of components that went.

    The continua of two sources half a beam apart come out as one source between them, which leaves two lines without
    any, and takes a share of both.
    """
    changes = 0
    for component in sorted((c for c in search.components if c.has_cont), key=lambda c: -c.snr_cont):
        beside = [
            other for other in search.components
            if other is not component and other.has_line and not other.has_cont and not other.absorption
            and np.hypot(component.x - other.x, component.y - other.y) <= search.beam
        ]  # fmt: skip
        if len(beside) < 2 or component.absorption or component not in search.components:
            continue
        heirs = []
        for other in beside:
            heir = copy.copy(other)
            heir.has_cont, heir.cont, heir.slope = True, component.cont / len(beside), component.slope / len(beside)
            heir.has_slope, heir.slope_scale, heir.errors = component.has_slope, component.slope_scale, {}
            heirs.append(heir)
        proposal = Proposal((component, *beside), tuple(heirs))
        changes += surplus(search, proposal) > 0.0 and adopt(search, proposal)
    return changes


def merge(search: Search) -> int:
    """Drop each companion within a beam that a refit of its neighbour does without. Number of those dropped.

    What was tried once is left alone.
    """
    changes = 0
    for component in sorted(search.components, key=total_snr):
        near = [
            other for other in search.components
            if other is not component and total_snr(other) >= total_snr(component)
            and np.hypot(component.x - other.x, component.y - other.y) <= search.beam
        ]  # fmt: skip
        if not near or component in search.needed or total_snr(component) > BRIGHT * search.limit("line"):
            continue
        if component not in search.components:
            continue
        search.needed.append(component)
        neighbour = min(near, key=lambda other: np.hypot(component.x - other.x, component.y - other.y))
        one = copy.copy(neighbour)
        one.cont += component.cont if one.has_cont else 0.0
        one.errors = {}
        # A companion of a Gaussian may be what it takes to make an exponential of it.
        for profile in dict.fromkeys((one.profile, EXPONENTIAL)):
            alone = copy.copy(one)
            alone.profile = profile
            proposal = Proposal((neighbour, component), (alone,))
            if surplus(search, proposal) > 0.0 and adopt(search, proposal):
                search.refused.append(component)
                changes += 1
                break
    return changes


def adopt(search: Search, proposal: Proposal | None) -> bool:
    """Put components in the place of others and fit all. False, and all is as before, where that does not pay."""
    if proposal is None:
        return False
    with trial(search) as attempt:
        search.components = [c for c in search.components if c not in proposal.old] + list(proposal.new)
        fit_all(search)
        if all(component in search.components for component in proposal.new) and attempt.pays():
            attempt.keep()
    return attempt.kept
