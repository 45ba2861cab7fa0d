"""Networks with some of them blinded."""

from __future__ import annotations

import argparse

import numpy as np
import pytest

from casa_deepfocus.errors import ParameterError
from tests.fake_networks import FilterNetworks
from training import evaluate
from training.blinded import KNOWS_NOTHING, Blinded

BATCHES = {"blobs_finder": (2, 2, 32, 48), "deep_gru": (3, 64)} | dict.fromkeys(
    ("fwhm_maj", "fwhm_min", "pa", "flux"), (4, 3, 32, 32)
)


@pytest.mark.parametrize("name", list(KNOWS_NOTHING))
def test_a_blind_network_says_the_same_of_everything(name):
    networks = Blinded(FilterNetworks(), [name])
    rng = np.random.default_rng(0)
    batch = rng.standard_normal(BATCHES[name]).astype(np.float32)
    one, other = (getattr(networks, name)(data) for data in (batch, -batch))
    np.testing.assert_array_equal(one, other)
    seen = getattr(FilterNetworks(), name)(batch[:, :1] if name == "blobs_finder" else batch)
    assert one.shape == seen.shape and one.dtype == np.float32
    assert networks.info == FilterNetworks.info


def test_the_others_see():
    networks = Blinded(FilterNetworks(), ["flux", "pa"])
    spectra = np.random.default_rng(1).standard_normal((2, 64)).astype(np.float32)
    np.testing.assert_array_equal(networks.deep_gru(spectra), FilterNetworks().deep_gru(spectra))


def test_a_name_that_is_no_network():
    with pytest.raises(ParameterError, match="no such network"):
        Blinded(FilterNetworks(), ["sizes"])


def test_the_command_keeps_the_two_apart(capsys):
    parser = argparse.ArgumentParser()
    evaluate.add_arguments(parser)
    seeing, blind = parser.parse_args([]), parser.parse_args(["--without", "pa", "deep_gru"])
    assert "without" not in evaluate.recipe_of(seeing)
    assert evaluate.recipe_of(blind)["without"] == ["deep_gru", "pa"]
    with pytest.raises(SystemExit):
        parser.parse_args(["--without", "sizes"])
    assert "invalid choice" in capsys.readouterr().err
