"""One question, asked of every change of the model: is ln L of the new enough above that of the old?

A change is a `Proposal`: some components in the place of others. What it must gain in ln L follows from what it adds
or takes away, by one price list: a component costs what noise gains by the best of all places, channels and widths
that it could have had, and what a source leaves of itself is not worth one. So two are one where the one loses less
than the second costs, and one is two where they gain more.

What a proposal gains by itself is found on the stamp around it. Whether the whole model is better with it is asked
after a fit of everything, in a `trial`: unless it is kept, all is as it was, the same objects with the same values.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np

from casa_deepfocus.core.component import Component
from casa_deepfocus.core.profiles import GAUSSIAN
from casa_deepfocus.pipeline.state import Search

MARGIN = 1.1
"""Times the SNR that a source needs, that one within another's beam must add: their errors are larger by that than the
bounds that an SNR is counted in."""

SHARE = 0.08
"""SNR of what a source leaves of itself, over its own: no source is what a component describes. Within a beam of it a
fainter one must have more: false sources of simulated fields had 0.07 at most, true ones 0.09 and more
(docs/decisions.md)."""

MISMATCH = 0.5 * SHARE**2
"""The same in ln L, over the square of a source's SNR."""

PREFERRED = 3.0
"""ln L that an exponential must gain over a Gaussian. A source that is a Gaussian is taken for an exponential by chance
in less than 1 of 100 cases then, whatever its SNR: the gain has a mean of -D and a variance of 2 D."""

SLACK = 1.0
"""ln L that a model may lose by a fit of everything that has found nothing: its steps end at a hundredth of a beam, and
other weights move the maximum."""


@dataclass(frozen=True)
class Proposal:
    """Components that may take the place of others.

    Attributes
    ----------
    old : tuple of Component, of the model
    new : tuple of Component, starting values, then fitted, with errors and SNR
    """

    old: tuple[Component, ...]
    new: tuple[Component, ...]


def total_snr(component: Component) -> float:
    """SNR of line and continuum together."""
    return float(np.hypot(component.snr_line * component.has_line, component.snr_cont * component.has_cont))


def overlaps(one: Component, other: Component) -> bool:
    """Whether two lines overlap in frequency."""
    near = abs(one.chan - other.chan) < 0.75 * (one.fwhm + other.fwhm)
    return one.has_line and other.has_line and near


def under_line(search: Search, component: Component, other: Component) -> float:
    """SNR that a component has in the channels of another's line."""
    part = min(max(other.fwhm, 1.0) / search.cube.nchan, 1.0)
    line = component.snr_line if overlaps(component, other) else 0.0
    return float(np.hypot(line, component.has_cont * component.snr_cont * np.sqrt(part)))


def left_beside(search: Search, component: Component, other: Component) -> float:
    """ln L of what a component leaves of itself where another has its line and its continuum."""
    line = other.has_line * under_line(search, component, other)
    continuum = other.has_cont * component.has_cont * component.snr_cont
    return MISMATCH * float(line**2 + continuum**2)


Limits = tuple[float, float]
"""SNR that a source needs, with a line and without one."""


def price(search: Search, component: Component, beside: Sequence[Component], limits: Limits | None = None) -> float:
    """ln L that a component must gain, beside those within a beam of it that are brighter.

    What noise gains by the best of all places, channels and widths; beside others a little more, and what they leave
    of themselves.

    Parameters
    ----------
    search : Search
    component : Component
    beside : sequence of Component
    limits : (float, float) [sigma], optional
        Those of another moment than now.
    """
    limit = (limits or limits_of(search))[not component.has_line]
    alone = 0.5 * limit**2
    if not beside:
        return alone
    return MARGIN**2 * alone + sum(left_beside(search, one, component) for one in beside)


def limits_of(search: Search) -> Limits:
    """Those of a search as it stands."""
    return search.limit("line"), search.limit("integrated")


def required(search: Search, proposal: Proposal) -> float:
    """ln L that a proposal must gain: what it adds costs, what it does without is given back, by the faintest.

    Of the two models the one with fewer components has what its own leave of themselves for nothing.
    """
    old, new = (sorted(part, key=total_snr) for part in (proposal.old, proposal.new))
    more = len(new) - len(old)
    if more:
        fewer, many = (old, new) if more > 0 else (new, old)
        return float(np.sign(more)) * sum(price(search, one, fewer) for one in many[: abs(more)])
    profiles = [sum(one.profile != GAUSSIAN for one in part) for part in (old, new)]
    return PREFERRED * (profiles[1] - profiles[0])


def surplus(search: Search, proposal: Proposal) -> float:
    """ln L that a proposal gains by a fit on its stamp, over what it must; its new components are fitted then."""
    gain = search.fit.in_place_of(proposal.old, proposal.new)
    return gain - required(search, proposal)


class Trial:
    """A change of the model that is undone at the end of its `with` block unless it is kept.

    Attributes
    ----------
    kept : bool
    """

    def __init__(self, search: Search, new: Sequence[Component] = ()) -> None:
        self.search = search
        self.kept = False
        self._components, self._refused = list(search.components), list(search.refused)
        self._values = [(component, dict(vars(component))) for component in (*search.components, *new)]
        self._sigma, self._weights = search.sigma, search.fit.weights
        self._floor, self._assumed = search.floor, search.assumed
        self._limits = limits_of(search)
        self._worth = self.worth()

    def worth(self) -> float:
        """ln L of the model as it stands, less what its components cost, all by the noise at the start of the trial."""
        components = self.search.components
        costs = sum(self._cost(component, components) for component in components)
        return self.search.fit.likelihood(components, self._weights) - costs

    def _cost(self, component: Component, components: Sequence[Component]) -> float:
        """The price of a component; one that other evidence took, too faint to stand alone, costs what it has."""
        snr, reach = total_snr(component), self.search.beam
        beside = [
            other for other in components
            if total_snr(other) > snr and np.hypot(component.x - other.x, component.y - other.y) <= reach
        ]  # fmt: skip
        full = price(self.search, component, beside, self._limits)
        return full if beside and not component.known else min(full, 0.5 * snr**2)

    def pays(self) -> bool:
        """Whether the model is worth more than before, or as much."""
        return self.worth() >= self._worth - SLACK

    def keep(self) -> None:
        """Do not undo it."""
        self.kept = True

    def undo(self) -> None:
        """Put everything back."""
        search = self.search
        search.components, search.refused = list(self._components), list(self._refused)
        for component, values in self._values:
            vars(component).update(values)
        search.sigma, search.floor, search.assumed = self._sigma, self._floor, self._assumed
        search.fit.weights = self._weights
        search.fit.update_residual(search.components)


@contextmanager
def trial(search: Search, new: Sequence[Component] = ()) -> Iterator[Trial]:
    """Try a change of the model: ``with trial(search) as attempt: ...; if attempt.pays(): attempt.keep()``.

    Parameters
    ----------
    search : Search, whose residual is up to date; its data stay the same within
    new : sequence of Component, not of the model, that are to have their values back as well
    """
    attempt = Trial(search, new)
    try:
        yield attempt
    finally:
        if not attempt.kept:
            attempt.undo()


def best_of(search: Search, proposals: Sequence[Proposal]) -> Proposal | None:
    """The proposal with the largest surplus whose new components all stand by themselves; None where none has any."""
    best, chosen = 0.0, None
    for proposal in proposals:
        more = surplus(search, proposal)
        if more > best and (len(proposal.new) < len(proposal.old) or all(map(search.stands, proposal.new))):
            best, chosen = more, proposal
    return chosen
