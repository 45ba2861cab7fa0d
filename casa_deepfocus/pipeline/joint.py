"""Beyond the paper: all sources fitted jointly, and what the fit says about which of them are real."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from casa_deepfocus.core.component import Component
from casa_deepfocus.core.noise import assumed_noise, channel_noise, smooth_noise
from casa_deepfocus.core.profiles import EXPONENTIAL, GAUSSIAN, mismatch
from casa_deepfocus.pipeline.decision import PREFERRED, SHARE, Proposal, overlaps, surplus, total_snr, trial, under_line
from casa_deepfocus.pipeline.lines import KnownLine, same_source
from casa_deepfocus.pipeline.state import LEAST_PART, Search

JOIN_DISTANCE = 0.6
"""Largest distance [beam] of a line and a continuum that are one source: of two that are as faint as
anything that is found, the positions differ by no more."""

ALONE = 3.0
"""A candidate with no other this near [beam] stands alone."""

NEARLY = 0.9
"""Fraction of the SNR that a source needs, below which a candidate fitted alone is not looked at further."""

ONE_PLACE = 0.2
"""Distance [beam] below which two components are at one place."""

SAME_NOISE = 0.01
"""Change of ln sigma of every channel below which the noise stays as it is: a per cent of an SNR."""

OTHER_WEIGHTS = 0.1
"""Change of ln sigma of a channel from which its sources are fitted again: with weights that are wrong by less, errors
grow by less than a hundredth."""

LIKE_BEFORE = 0.2
"""Change of ln SNR below which a component's profile is not looked at again."""

LEAST_RESPONSE = 0.01
"""Response (core.fit) below which a component has no flux to tell: nearly all of it would be at spacings shorter than
the shortest baseline. Where all spacings are, a source of 7 beams has it, and none is fitted that large."""


def refine(search: Search, new: Sequence[Component]) -> int:
    """Fit the new components together with the old; drop what is not significant. Number of changes that stay.

    Where the model is worth less with what stays of them, some have led the fit astray: all is as before then, and they
    are tried one after the other, the brightest first. What does not pay by itself either is refused.
    """
    before = _parts(search)
    tried = sorted(promising(search, new), key=total_snr, reverse=True)
    if tried and not _try_together(search, tried):
        for component in tried:
            if len(tried) == 1 or not _try_together(search, [component]):
                search.refused.append(component)
    return len(_parts(search) - before)


def _try_together(search: Search, new: Sequence[Component]) -> bool:
    """Add components and fit everything; False, and all is as before, where that does not pay."""
    with trial(search, new) as attempt:
        for component in new:
            add(search, component)
        fit_all(search)
        if attempt.pays():
            attempt.keep()
    return attempt.kept


def _parts(search: Search) -> set[tuple[int, bool, bool]]:
    """Each component and what it has."""
    return {(id(c), c.has_line, c.has_cont) for c in search.components}


def fit_all(search: Search) -> None:
    """Fit everything until no component is dropped, joined, or changes what it is."""
    for _ in range(5):
        search.fit.fit(search.components)
        other = renew_noise(search) | choose_profiles(search)
        if not (prune(search) | make_physical(search) | join_parts(search) | other):
            break
    else:
        # The last change must reach the values and the residual as well.
        search.fit.fit(search.components)


def promising(search: Search, new: Sequence[Component]) -> list[Component]:
    """Candidates worth a joint fit: those that stand alone are fitted alone first, which costs little.

    Most are peaks of noise. Not refused, they are looked at again when brighter sources are subtracted.
    """
    apart = ALONE * search.beam
    kept = []
    for component in new:
        others = [c for c in (*search.components, *new) if c is not component]
        if all(np.hypot(component.x - c.x, component.y - c.y) > apart for c in others):
            search.fit.fit_alone(component)
            if not is_promising(search, component):
                if not gains_without(search, component) or not leave_continuum(component):
                    continue
                search.fit.fit_alone(component)
                if not is_promising(search, component):
                    continue
        kept.append(component)
    return kept


def is_promising(search: Search, component: Component) -> bool:
    """Whether a candidate fitted alone has nearly the SNR that it needs."""
    return search.stands(component, NEARLY) or search.is_sure_of_both(component)


def gains_without(search: Search, component: Component) -> bool:
    """Whether a line may reach the SNR that it needs if the channels under it are not shared with a continuum."""
    share = min(2.0 * component.fwhm / search.cube.nchan, 0.75)
    return component.snr_line >= NEARLY * search.limit("line") * float(np.sqrt(1.0 - share))


def leave_continuum(component: Component) -> bool:
    """Do without a continuum that is not there: with it a wide line has less of its SNR. False if it must stay.

    The two share the channels of the line, and what a continuum of nothing takes is noise; it comes back when the
    residual shows one.
    """
    if not (component.has_line and component.has_cont) or component.known or component.snr_cont >= LEAST_PART:
        return False
    component.drop_continuum()
    return True


def measured_noise(search: Search) -> NDArray[np.float64]:
    """(nchan,) the noise of the residual, smooth in frequency where there is any to measure; sets `search.assumed`."""
    fresh = channel_noise(search.fit.residual, search.peaks)
    if search.peaks is not None:
        search.assumed = assumed_noise(fresh, search.peaks)
    return fresh if search.assumed else smooth_noise(fresh)


def renew_noise(search: Search) -> bool:
    """Measure the noise on the residual, where bright sources' sidelobes no longer count as noise, and its floor.

    Every channel counts: a bright narrow line fills a few of them with its sidelobes, and the median over all of them
    does not move. True where so much has changed that a fit has other weights.
    """
    fresh = measured_noise(search)
    change = float(np.nanmax(np.abs(np.log(fresh / search.sigma)), initial=0.0))
    if change > SAME_NOISE:
        search.sigma = fresh
        search.fit.set_noise(fresh)
        search.fit.measure(search.components)
    search.measure_floor()
    return change > OTHER_WEIGHTS


def choose_profiles(search: Search) -> bool:
    """Take for each bright resolved component the profile that the data prefer. True if any has changed.

    An exponential disc is no Gaussian: what the best Gaussian leaves of a bright one would pass for further sources.
    The two have as many parameters, so the likelihood alone decides; a component is looked at where it can tell.
    """
    changed = False
    for component in search.components:
        if component.absorption or not component.fit_shape:
            continue
        snr = float(np.hypot(component.snr_line * component.has_line, component.snr_cont * component.has_cont))
        if component.profile == GAUSSIAN and (
            0.5 * snr**2 * mismatch(component.covariance, search.beam) < PREFERRED
        ):  # fmt: skip
            continue
        if component.profiled_at and abs(np.log(max(snr, 1e-9) / component.profiled_at)) < LIKE_BEFORE:
            continue
        component.profiled_at = max(snr, 1e-9)
        other = copy.copy(component)
        other.profile = EXPONENTIAL if component.profile == GAUSSIAN else GAUSSIAN
        if surplus(search, Proposal((component,), (other,))) > 0.0:
            component.__dict__.update(other.__dict__)
            changed = True
    if changed:
        search.fit.update_residual(search.components)
    return changed


def make_physical(search: Search) -> bool:
    """Take back what only fits by being unphysical. True if anything was.

    A line wider than half the band is continuum; a significantly negative continuum under a line
    is a line too wide, or a neighbour's sidelobe; two continua at one place are one.
    """
    changed = False
    with_both = sorted((c for c in search.components if c.has_line and c.has_cont), key=lambda c: -c.snr_cont)
    for number, component in enumerate(with_both):
        for other in with_both[:number]:
            if other.has_cont and np.hypot(component.x - other.x, component.y - other.y) < ONE_PLACE * search.beam:
                other.cont, other.slope = other.cont + component.cont, other.slope + component.slope
                component.drop_continuum()
                changed = True
                break
    for component in search.components:
        if component.has_line and component.has_cont and component.snr_cont < -2.5:
            component.drop_continuum()
            changed = True
        if component.has_line and component.has_cont and component.fwhm > 0.5 * search.cube.nchan:
            component.drop_line()
            changed = True
    return changed


def join_parts(search: Search) -> bool:
    """Make one source of a line and a continuum that were found apart at one position. True if any was."""
    beam, limit = search.beam, search.options.same_position * search.beam
    changed = False
    # One continuum a position: who has one already takes the part.
    lines = sorted((c for c in search.components if c.has_line), key=lambda c: not c.has_cont)
    for part in [c for c in search.components if not c.has_line]:
        for other in lines:
            error = np.hypot(*(np.hypot(c.errors.get("x", 0.0), c.errors.get("y", 0.0)) for c in (part, other)))
            if np.hypot(part.x - other.x, part.y - other.y) > min(max(limit, 3.0 * error), JOIN_DISTANCE * beam):
                continue
            if not other.has_cont:
                other.has_cont, other.has_slope, other.cont = True, search.cube.nchan >= 16, 0.0
            other.cont += part.cont
            search.components.remove(part)
            changed = True
            break
    return changed


def refine_lines(search: Search, lines: Sequence[KnownLine]) -> int:
    """Give lines to fitted sources and fit again. Number that stay."""
    nchan = search.cube.nchan
    if not lines:
        return 0
    with trial(search) as attempt:
        for component, peak, absorption in lines:
            spectrum = search.fit.source_spectrum(component) - component.continuum_spectrum(nchan)
            inside = spectrum[peak.chan0 : peak.chan1 + 1]
            component.has_line, component.known, component.absorption = True, True, absorption
            component.shown = component.snr_cont
            component.chan, component.fwhm = peak.chan, max(peak.fwhm, 1.0)
            component.amp = float(inside.min() if absorption else inside.max())
        fit_all(search)
        if attempt.pays():
            attempt.keep()
    return sum(line.component.has_line for line in lines) if attempt.kept else 0


def add(search: Search, component: Component) -> None:
    """Add a component, or let a source that stands there already have its line or its continuum."""
    options = search.options
    for other in search.components:
        distance = np.hypot(component.x - other.x, component.y - other.y) / search.beam
        if not component.has_line and other.has_cont and not other.errors and distance <= JOIN_DISTANCE:
            # A line that came in this round brings a continuum of its own: the residual will tell if it does not do.
            return
        if distance > options.same_position:
            continue
        if component.has_line and not other.has_line:
            other.has_line, other.amp, other.chan, other.fwhm = True, component.amp, component.chan, component.fwhm
            other.clean = component.clean
            return
        if not component.has_line and not other.has_cont and options.mode != "line":
            other.has_cont, other.cont = True, component.cont
            other.has_slope, other.slope_scale = component.has_slope, component.slope_scale
            return
        if component.has_line:
            # One continuum a position: the other has it.
            component.drop_continuum()
    search.components.append(component)


def on_data(component: Component, inside: NDArray[np.bool_]) -> bool:
    """Whether a component lies on one of the pixels given."""
    x, y = round(component.x), round(component.y)
    return 0 <= y < inside.shape[0] and 0 <= x < inside.shape[1] and bool(inside[y, x])


def is_left_beside(search: Search, component: Component, brighter: Component) -> bool:
    """Whether a component may be no more than what a brighter one within a beam leaves, not being a Gaussian itself.

    Its continuum counts where it has SHARE of the other's, its line where it has as much of what the other has
    in the channels of the line; beside an absorption it must be the brighter one. What counts must be enough by itself.
    """
    if np.hypot(component.x - brighter.x, component.y - brighter.y) > search.beam:
        return False
    if brighter.absorption and not component.absorption and overlaps(component, brighter):
        least = brighter.snr_line
    else:
        least = SHARE * under_line(search, brighter, component)
    line = component.has_line and component.snr_line >= least
    continuum = component.has_cont and component.snr_cont >= SHARE * brighter.snr_cont
    if line and continuum:
        return False
    by_line = line and component.snr_line >= search.limit("line")
    return not by_line and not (continuum and component.snr_cont >= search.limit("integrated"))


def prune(search: Search) -> bool:
    """Drop what is no brighter than noise, off the data, too wide to be measured, or a copy of another. True if any."""
    beam, nchan = search.beam, search.cube.nchan
    limit, unknown = search.limit("integrated"), search.limit("line")
    changed = False
    kept: list[Component] = []
    for component in sorted(search.components, key=lambda c: -max(c.snr_line, c.snr_cont)):
        # A wide line takes over much of the continuum that has shown the source.
        known = component.known and max(component.snr_cont, component.shown) >= limit
        faintest = search.options.known_line_snr if known else unknown
        if component.has_line and component.has_cont and search.is_sure_of_both(component):
            # Where the continuum is enough by itself it is the source that is sure, not yet its line.
            faintest = min(faintest, search.options.known_line_snr) if component.snr_cont >= limit else 0.0
        outside = not on_data(component, search.well_inside)
        too_wide = component.has_line and not component.has_cont and component.fwhm > nchan
        if outside or too_wide or component.response < LEAST_RESPONSE:
            search.refused.append(component)
            changed = True
            continue
        if component.has_line and component.snr_line < faintest:
            changed = True
            if gains_without(search, component) and leave_continuum(component):
                kept.append(component)
                continue
            if component.snr_cont < limit and not known:
                search.refused.append(component)
                continue
            component.drop_line()
            if known:
                # Its continuum is fitted again, without the line.
                component.snr_cont = component.shown
        if not component.has_line and component.snr_cont < limit:
            # Below the floor alone, it is looked at again when what raises the floor is subtracted.
            if component.snr_cont < limit / search.floor:
                search.refused.append(component)
            changed = True
            continue
        copied = (same_source(component, other, ONE_PLACE * beam) for other in kept)
        if any(copied) or any(is_left_beside(search, component, other) for other in kept):
            search.refused.append(component)
            changed = True
            continue
        kept.append(component)
    search.components = kept
    return changed
