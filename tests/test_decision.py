"""Proposals, what they must gain, and trials that leave no trace."""

from __future__ import annotations

import copy
import itertools

import numpy as np
import pytest

from casa_deepfocus.core.component import Component
from casa_deepfocus.core.geometry import shape_to_covariance
from casa_deepfocus.core.profiles import EXPONENTIAL, profile_transform
from casa_deepfocus.pipeline import blends, decision, joint
from casa_deepfocus.pipeline.decision import Proposal
from tests.test_blends import EQUAL, ONE, fitted

START = (47.0, 48.0, 24.0, 6.0)


@pytest.fixture(scope="module")
def pair_search():
    """A search whose one component is a pair."""
    return fitted(EQUAL, [(47.5, 47.7, 24.2, 5.0)])


def component(snr_line=0.0, snr_cont=0.0, profile="gaussian"):
    return Component(
        40.0, 40.0, shape_to_covariance(3.0, 3.0, 0.0), has_line=snr_line > 0, has_cont=snr_cont > 0,
        snr_line=snr_line, snr_cont=snr_cont, profile=profile,
    )  # fmt: skip


def state(search):
    return [dict(vars(one)) for one in search.components]


def test_ln_l_of_a_model_is_that_of_its_definition():
    search = fitted(ONE, [START])
    fit, (single,) = search.fit, search.components
    grid = search.imager.grid
    image = np.fft.irfft2(profile_transform(grid, single.x, single.y, single.covariance, single.profile), s=grid)
    ny, nx = search.cube.shape
    model = single.spectrum(search.cube.nchan)[:, None, None] * image[:ny, :nx]
    dirty = fit.data - fit.residual
    linear, quadratic = ((model * cube).sum(axis=(1, 2)) for cube in (fit.data, dirty))
    expected = float(fit.weights @ (linear - 0.5 * quadratic))
    # What lies beyond the stamp is a few thousandths of the wings of a band-limited image.
    assert fit.likelihood(search.components) == pytest.approx(expected, rel=2e-3)
    assert fit.likelihood([]) == 0.0


def test_ln_l_of_a_model_grows_by_what_a_replacement_gains(pair_search):
    search = copy.copy(pair_search)
    (single,) = search.components
    before = search.fit.likelihood([single])
    (two,) = blends.halves(search, single)[:1]
    gain = search.fit.in_place_of([single], two)
    search.fit.update_residual(two)
    assert search.fit.likelihood(two) - before == pytest.approx(gain, rel=0.02)
    search.fit.update_residual([single])


def test_a_trial_that_is_not_kept_leaves_no_trace(pair_search):
    search = pair_search
    search.refused = [component(5.0)]
    objects, values, refused = list(search.components), state(search), list(search.refused)
    residual, sigma, weights = search.fit.residual.copy(), search.sigma, search.fit.weights
    with decision.trial(search) as attempt:
        blends.split(search)
        # Those of the model before, which the split has put aside.
        objects[0].x += 3.0
        objects[0].flags = {"edge"}
        search.refused.append(search.components.pop())
        search.sigma = 2.0 * search.sigma
        search.fit.set_noise(search.sigma)
        search.floor = 7.0
        assert not attempt.pays()
    assert not attempt.kept
    assert search.components == objects and search.refused == refused, "the same objects"
    for before, after in zip(values, state(search), strict=True):
        assert all(np.array_equal(before[name], after[name]) for name in before)
    assert search.sigma is sigma and search.fit.weights is weights and search.floor == 1.0
    np.testing.assert_array_equal(search.fit.residual, residual)
    search.refused = []


def test_a_trial_that_breaks_is_undone(pair_search):
    objects = list(pair_search.components)
    with pytest.raises(KeyError), decision.trial(pair_search):
        pair_search.components = []
        raise KeyError
    assert pair_search.components == objects


def test_a_trial_that_is_kept_stays():
    search = fitted(EQUAL, [(47.5, 47.7, 24.2, 5.0)])
    with decision.trial(search) as attempt:
        assert blends.split(search) == 1
        assert attempt.pays()
        attempt.keep()
    assert len(search.components) == 2


def test_a_change_costs_one_way_what_it_gives_back_the_other(pair_search):
    one, two = (component(30.0, 9.0),), (component(20.0, 5.0), component(12.0))
    there = decision.required(pair_search, Proposal(one, two))
    assert there == -decision.required(pair_search, Proposal(two, one))
    left = decision.left_beside(pair_search, one[0], two[1])
    assert left == pytest.approx(decision.MISMATCH * (30.0**2 + 9.0**2 * 3.0 / 48)), "a line of 3 channels"
    assert there == pytest.approx(decision.price(pair_search, two[1], one)), "the fainter one is what is added"
    assert there == decision.required(pair_search, Proposal(one, two[::-1])), "in any order"
    alone = 0.5 * pair_search.limit("line") ** 2
    assert there == pytest.approx(decision.MARGIN**2 * alone + left)
    assert decision.price(pair_search, two[1], ()) == pytest.approx(alone)
    disc = (component(30.0, 9.0, EXPONENTIAL),)
    assert decision.required(pair_search, Proposal(one, disc)) == decision.PREFERRED
    assert decision.required(pair_search, Proposal(disc, one)) == -decision.PREFERRED


def test_beside_a_brighter_one_a_companion_must_gain_more(pair_search):
    faint, bright = (Proposal((component(snr),), (component(snr), component(8.0))) for snr in (9.0, 90.0))
    more = decision.required(pair_search, bright) - decision.required(pair_search, faint)
    assert more == pytest.approx(decision.MISMATCH * (90.0**2 - 9.0**2))


def test_the_best_proposal_is_the_best_in_any_order(pair_search):
    (single,) = pair_search.components
    (pair,) = (Proposal((single,), tuple(two)) for two in blends.halves(pair_search, single)[:1])
    nothing = Proposal((single,), (copy.copy(single),))
    for order in itertools.permutations((nothing, pair)):
        assert decision.best_of(pair_search, order) is pair
    assert decision.best_of(pair_search, []) is None


def test_what_a_model_is_worth_is_in_units_of_its_noise(pair_search):
    search = fitted(ONE, [START])
    worth = decision.Trial(search).worth()
    search.fit.data *= np.float32(1024)
    search.sigma = 1024.0 * search.sigma
    search.fit.set_noise(search.sigma)
    for one in search.components:
        one.amp, one.cont, one.slope = (1024.0 * value for value in (one.amp, one.cont, one.slope))
    search.fit.update_residual(search.components)
    assert decision.Trial(search).worth() == pytest.approx(worth, rel=1e-6)


def test_new_components_that_lead_astray_are_undone_and_refused(monkeypatch):
    search = fitted(ONE, [START])
    (single,) = search.components
    values = state(search)[0]
    original = joint.fit_all

    def astray(search):
        original(search)
        search.components[0].x += 4.0
        search.fit.update_residual(search.components)

    monkeypatch.setattr(joint, "fit_all", astray)
    monkeypatch.setattr(joint, "promising", lambda search, new: list(new))
    new = component(9.0)
    new.x, new.amp = 20.0, 0.002
    assert joint.refine(search, [new]) == 0
    assert search.components == [single] and new in search.refused
    assert all(np.array_equal(values[name], getattr(single, name)) for name in values)


def test_adding_a_companion_costs_what_leaving_it_out_gives_back():
    """Else a search would add and merge in turn until its rounds are over."""
    search = fitted(ONE, [START])
    (single,) = search.components
    companion = component(8.0)
    companion.x, companion.y, companion.chan = single.x + 2.0, single.y, single.chan
    with decision.trial(search) as attempt:
        alone = attempt.worth() - search.fit.likelihood([single])
        search.components.append(companion)
        both = attempt.worth() - search.fit.likelihood([single, companion])
    proposal = Proposal((single, companion), (single,))
    assert both - alone == pytest.approx(decision.required(search, proposal))
    companion.x += 5.0 * search.beam
    with decision.trial(search) as attempt:
        search.components.append(companion)
        apart = attempt.worth() - search.fit.likelihood([single, companion])
    assert alone - apart == pytest.approx(0.5 * search.limit("line") ** 2), "apart it costs what a source needs"
