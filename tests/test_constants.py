"""The page of numbers is that of the code, and every number has a reason."""

from __future__ import annotations

from benchmarks import constants


def test_every_number_has_a_reason():
    assert [f"{one.where}.{one.name}" for one in constants.numbers() if not one.reason] == []


def test_the_page_is_that_of_the_code():
    assert constants.PAGE.read_text() == constants.page(), "run: python -m benchmarks constants --write"


def test_what_is_read():
    found = {(one.where, one.name): one for one in constants.numbers()}
    assert found["Options", "minsnr"].value == "5.0" and found["Options", "minsnr"].unit == "sigma"
    margin = found["pipeline.decision", "MARGIN"]
    assert margin.value == "1.1" and margin.reason.startswith("Times the SNR")
    assert found["core.outside", "MINOR_CYCLES"].reason == found["core.outside", "LOOP_GAIN"].reason
