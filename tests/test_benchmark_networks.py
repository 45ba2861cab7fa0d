"""The clocks around the networks, on networks that take a known time."""

from __future__ import annotations

import json
import time
from dataclasses import asdict

import numpy as np
import pytest
from fake_networks import FilterNetworks

from benchmarks import __main__ as main
from benchmarks import networks, speed


class SlowNetworks(FilterNetworks):
    """Deep GRU sleeps, which takes wall time and no CPU time; the angle works."""

    nap = 0.02

    def deep_gru(self, spectra):
        time.sleep(self.nap)
        return super().deep_gru(spectra)

    def pa(self, stamps):
        until = time.process_time() + self.nap
        while time.process_time() < until:
            pass
        return super().pa(stamps)


@pytest.fixture(scope="module")
def result():
    cube = speed.simulate(96, 16, seed=3)
    return networks.measure([cube], SlowNetworks(), repeats=2)


def test_each_network_has_its_own_time(result):
    gru, angle = result.networks["deep_gru"], result.networks["pa"]
    assert gru.calls >= 1 and angle.calls >= 1
    assert gru.seconds >= gru.calls * SlowNetworks.nap > gru.cpu_seconds
    assert angle.cpu_seconds >= angle.calls * SlowNetworks.nap > result.networks["fwhm_maj"].cpu_seconds
    assert result.networks["flux"].examples >= result.sources > 0
    assert result.networks["blobs_finder"].examples >= 2.0


def test_the_parts_make_the_whole(result):
    parts = result.networks.values()
    assert result.together.calls == sum(part.calls for part in parts)
    # Medians of two repeats are their means, so they add up.
    assert result.together.seconds == pytest.approx(sum(part.seconds for part in parts))
    assert result.together.seconds < result.search.seconds
    assert (result.shape, result.fields, result.search.calls) == ((16, 96, 96), 1, 1.0)
    text = "\n".join(networks.lines(result))
    assert "whole search" in text and f"{result.networks['deep_gru'].seconds:.4f}" in text
    assert json.loads(json.dumps(asdict(result)))["together"]["calls"] == result.together.calls


def test_a_network_answers_through_its_clock():
    timed = networks.TimedNetworks(FilterNetworks())
    np.testing.assert_array_equal(timed.pa(np.zeros((3, 3, 32, 32), np.float32)), [[0.0, 1.0]] * 3)
    assert timed.uses()["pa"].examples == 3 and timed.uses()["flux"].calls == 0
    assert timed.info is FilterNetworks.info


def test_no_fields_are_refused(capsys):
    assert main.main(["networks", "--n", "0"]) == 1
    assert "--n=0" in capsys.readouterr().err
