"""Channels without lines: what the continuum image of a target is made of."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
from astropy.table import Table

pytest.importorskip("casatools")

from casa_deepfocus.casa import continuum, shelltask  # noqa: E402
from casa_deepfocus.casa.measurementset import Survey, Window  # noqa: E402
from casa_deepfocus.errors import DataError, IncompleteError  # noqa: E402

MHZ = 1e6


def catalogue(*boxes: tuple[float, int, int], step: float = MHZ) -> Table:
    """Lines at (channel or NaN, first, last channel of the box); channels from 100 GHz."""
    chan, chan0, chan1 = zip(*boxes, strict=True) if boxes else ((), (), ())
    table = Table({"chan": np.array(chan, float), "chan0": np.array(chan0, int), "chan1": np.array(chan1, int)})
    table.meta.update(freq0=100e9, chan_width=step, frame="LSRK")
    return table


def test_lines_cover_the_channels_of_their_boxes():
    table = catalogue((12.0, 10, 14), (20.0, 18, 22), (np.nan, 0, 63), (15.0, 13, 17))
    found = [((low - 100e9) / MHZ, (high - 100e9) / MHZ) for low, high in continuum.line_ranges(table)]
    np.testing.assert_allclose(found, [(9.5, 22.5)], err_msg="they touch; a source without a line covers nothing")
    falling = continuum.line_ranges(catalogue((12.0, 10, 14), step=-MHZ))
    np.testing.assert_allclose((np.array(falling) - 100e9) / MHZ, [(-14.5, -9.5)])
    assert continuum.line_ranges(catalogue()) == []


@pytest.fixture
def sets(monkeypatch):
    """A measurement set of two windows in the frame of the cubes, and one of one window."""
    chan = np.arange(64)
    first = Window(5, chan, 100e9 + MHZ * chan, np.full(64, MHZ), 64, "", "LSRK")
    part = Window(7, chan[10:20], 110e9 + MHZ * chan[10:20], np.full(10, MHZ), 64, "", "LSRK")
    known = {"a.ms": (first, part), "b.ms": (first,)}

    def survey(name, chosen):
        return Survey(name, chosen, (), 1, (), known[name], {}, 12.0, 3, np.ones((1, 2)))

    monkeypatch.setattr(continuum, "survey", survey)
    return ["a.ms", "b.ms"], [{}, {}]


def test_the_selection_leaves_lines_out(sets):
    lines = {("a.ms", 5): ("LSRK", [(100e9 + 9.6 * MHZ, 100e9 + 12.4 * MHZ)])}
    spw, notes = continuum.line_free(*sets, lines)
    assert spw == ["5:0~9;13~63,7:10~19", "5"], "a channel is touched from half its width on"
    assert len(notes) == 1 and "61 of 64 channels" in notes[0]


def test_a_window_full_of_lines_does_not_count(sets):
    everywhere = ("LSRK", [(99e9, 101e9)])
    spw, notes = continuum.line_free(*sets, {("a.ms", 5): everywhere, ("b.ms", 5): everywhere})
    assert spw == ["7:10~19", ""] and sum("lines all over it" in note for note in notes) == 2
    parameters = {
        "vis": ["a.ms", "b.ms"], "spw": ["5,7", "5"], "field": ["0", "1"], "timerange": "", "uvrange": "",
        "antenna": "", "scan": "", "observation": "", "intent": ["*A*", ""],
    }  # fmt: skip
    left = continuum.with_windows(parameters, spw)
    assert (left["vis"], left["spw"], left["field"], left["intent"]) == (["a.ms"], "7:10~19", ["0"], ["*A*"])
    with pytest.raises(DataError, match="no window has channels without lines"):
        continuum.line_free(sets[0][1:], sets[1][1:], {("b.ms", 5): everywhere})


@pytest.mark.parametrize(("given", "raises"), [("sdeepfocus(vis='x')", True), ("script", False), (None, False)])
def test_a_command_ends_with_an_error_where_a_part_is_missing(monkeypatch, tmp_path, given, raises):
    script = tmp_path / "script.py"
    script.write_text("")
    execute = [] if given is None else [str(script) if given == "script" else given]
    monkeypatch.setitem(shelltask.sys.modules, "casashell", SimpleNamespace(flags=SimpleNamespace(execute=execute)))
    assert shelltask._is_command() is raises
    with pytest.raises(IncompleteError, match="1 images could not be made.*T/spw1: no data"):
        shelltask._check_complete({"failed": {"T/spw1": "no data"}})
    shelltask._check_complete({"failed": {}})
    shelltask._check_complete({"sources": []})
