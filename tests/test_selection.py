"""Measurement sets that tclean would image wrongly, or other than meant, in silence: refused, or put right and told."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from casa_fixtures import CHAN_WIDTH, FREQ0, NCHAN, Pointing, Window, changed, write_ms

from casa_deepfocus.errors import DataError, ParameterError

pytest.importorskip("casatools")
from casa_deepfocus.casa import channelgrid, images, inputs, measurementset, visibilities  # noqa: E402

pytestmark = pytest.mark.casa
pytest_plugins = ["casa_fixtures"]


def check(vis, **parameters):
    vis = [str(name) for name in vis] if isinstance(vis, list) else str(vis)
    return inputs.check({"vis": vis, "datacolumn": "data", "outfile": "out"} | parameters)


def refused(error: type, vis, *words: str, **parameters) -> str:
    with pytest.raises(error) as caught:
        check(vis, **parameters)
    for word in words:
        assert word in str(caught.value), str(caught.value)
    return str(caught.value)


def copy(path: Path) -> Path:
    shutil.copytree(path, "copy.ms")
    return Path("copy.ms").absolute()


# Fields and intents.


def test_several_phase_centres_are_refused_by_name_and_the_advice_is_true(calibrated_ms):
    for gridder in ("standard", "wproject"):
        text = refused(
            ParameterError, calibrated_ms, "2: 'left' (id 0), 'right' (id 1)", "field='left'", "gridder='mosaic'",
            gridder=gridder,
        )  # fmt: skip
        assert "cal" not in text
    assert [f.name for f in check(calibrated_ms, field="left").surveys[0].fields] == ["left"]
    assert len(check(calibrated_ms, gridder="mosaic").surveys[0].fields) == 2


def test_pointings_that_do_not_overlap_are_no_mosaic(calibrated_ms):
    text = refused(ParameterError, calibrated_ms, "'left'", "'cal' (id 2)", "too far apart", field="0,2")
    assert "gridder='mosaic'" not in text
    refused(ParameterError, calibrated_ms, "no one mosaic", "'left'", "'cal'", field="0,2", gridder="mosaic")
    check(calibrated_ms, field="0,2", gridder="mosaic", imsize=64)


def test_the_gridder_is_chosen_by_the_pointings(calibrated_ms, tiny_ms):
    """Several that hang together are a mosaic; one is not, nor are several in one direction."""
    request = check(calibrated_ms)
    assert request.tclean["gridder"] == "mosaic" and any("2 pointings" in note for note in request.notes)
    for one in (check(calibrated_ms, field="left"), check(tiny_ms), check(calibrated_ms, phasecenter="TRACKFIELD")):
        assert one.tclean["gridder"] == "standard" and not any("gridder" in note for note in one.notes)
    path = copy(tiny_ms)
    with changed(path, "ANTENNA") as tb:
        tb.putcol("DISH_DIAMETER", np.array([7.0] * 5 + [12.0] * 7))
    request = check(path)
    assert request.tclean["gridder"] == "mosaic" and any("dishes of 7 and 12 m" in note for note in request.notes)
    assert request.surveys[0].dishes == {7.0: (0, 1, 2, 3, 4), 12.0: (5, 6, 7, 8, 9, 10, 11)}


def test_fields_in_one_direction_are_one():
    write_ms(Path("twice.ms"), fields=(Pointing("a"), Pointing("b", 0.3)))
    assert len(check("twice.ms").surveys[0].fields) == 2
    write_ms(Path("apart.ms"), fields=(Pointing("a"), Pointing("b", 1.5)))
    refused(ParameterError, "apart.ms", "'b'", gridder="standard")
    # The same name twice: only the id tells them apart.
    write_ms(Path("namesakes.ms"), fields=(Pointing("a"), Pointing("b", 20.0)))
    with changed(Path("namesakes.ms"), "FIELD") as tb:
        tb.putcol("NAME", np.array(["a", "a"]))
    refused(ParameterError, "namesakes.ms", "field='0'", gridder="standard")


def test_several_sets_of_different_targets_are_refused(calibrated_ms, tiny_ms):
    refused(ParameterError, [calibrated_ms, tiny_ms], "'right'", field=["right", ""], gridder="standard")
    assert len(check([calibrated_ms, tiny_ms], field=["left", ""]).surveys) == 2


def test_a_moving_target_has_one_centre(calibrated_ms):
    path = copy(calibrated_ms)
    with changed(path, "FIELD") as tb:
        tb.putcolkeyword("PHASE_DIR", "MEASINFO", {"type": "direction", "Ref": "MARS"})
        tb.putcol("NAME", np.array(["Mars", "Mars", "cal"]))
    # Two ids of one moving target are one; without tracking it is smeared, and the log says so.
    request = check(path)
    assert any("TRACKFIELD" in warning for warning in request.warnings)
    for tracking in ({"specmode": "cubesource"}, {"phasecenter": "TRACKFIELD"}):
        assert not check(path, **tracking).warnings
        assert not check(calibrated_ms, **tracking).warnings


def test_only_the_targets_are_imaged_where_nothing_else_is_asked(calibrated_ms):
    request = check(calibrated_ms, gridder="mosaic")
    assert request.tclean["intent"] == "*OBSERVE_TARGET*"
    assert [f.name for f in request.surveys[0].fields] == ["left", "right"]
    assert any("OBSERVE_TARGET" in note and "CALIBRATE_PHASE" in note for note in request.notes)
    for asked in ({"field": "cal"}, {"intent": "CALIBRATE_PHASE*"}, {"scan": "3"}):
        request = check(calibrated_ms, **asked)
        assert [f.name for f in request.surveys[0].fields] == ["cal"] and not request.notes
        assert request.tclean["intent"] == asked.get("intent", "")


def test_a_set_of_calibrators_only_is_imaged_and_told(calibrated_ms):
    path = copy(calibrated_ms)
    with changed(path, "STATE") as tb:
        tb.putcol("OBS_MODE", np.array(["CALIBRATE_FLUX#ON_SOURCE"] * 3))
    request = check(path, gridder="mosaic", imsize=64)
    assert len(request.surveys[0].fields) == 3 and request.tclean["intent"] == ""
    assert any("no scans of intent" in warning for warning in request.warnings)


def test_a_set_without_intents_is_taken_whole():
    write_ms(Path("plain.ms"), fields=(Pointing("a", intent=""), Pointing("b", 20.0, intent="")))
    request = check("plain.ms", gridder="mosaic")
    assert len(request.surveys[0].fields) == 2 and request.tclean["intent"] == "" and not request.notes


def test_each_of_several_sets_has_its_own_intent(calibrated_ms, tiny_ms):
    request = check([calibrated_ms, tiny_ms], gridder="mosaic")
    assert request.tclean["intent"] == ["*OBSERVE_TARGET*", ""]


# Flags, weights, NaN.


def spoil(path: Path, **columns) -> None:
    """Put one value into all of a column."""
    with changed(path) as tb:
        for name, value in columns.items():
            tb.putcol(name, np.full_like(tb.getcol(name), value))


@pytest.mark.parametrize(
    ("columns", "share", "remedy"),
    [
        ({"FLAG": True}, "100 % flagged", "flagdata"),
        ({"FLAG_ROW": True}, "100 % flagged", "flagdata"),
        ({"WEIGHT": 0.0}, "100 % of zero weight", "initweights"),
        ({"WEIGHT": np.nan}, "100 % of zero weight", "initweights"),
        ({"DATA": np.nan}, "100 % NaN or infinite", "Calibrate again"),
        ({"DATA": 0.0}, "100 % exactly zero", "DATA holds nothing"),
    ],
)
def test_data_of_which_nothing_can_be_used_are_refused(tiny_ms, columns, share, remedy):
    path = copy(tiny_ms)
    spoil(path, **columns)
    refused(DataError, path, str(path), "field='tiny'", "datacolumn='data'", share, remedy, field="tiny")


def test_one_hand_that_is_flagged_leaves_no_stokes_i(tiny_ms):
    path = copy(tiny_ms)
    with changed(path) as tb:
        flag = tb.getcol("FLAG")
        flag[0] = True
        tb.putcol("FLAG", flag)
    refused(DataError, path, "100 % flagged")
    check(path, stokes="YY")


def test_an_empty_column_names_the_one_that_is_not(tiny_ms):
    path = copy(tiny_ms)
    from casatasks import clearcal

    clearcal(vis=str(path), addmodel=False)
    spoil(path, CORRECTED_DATA=0.0)
    refused(DataError, path, "CORRECTED_DATA holds nothing", "datacolumn='data'", datacolumn="corrected")
    check(path)


def test_a_small_share_that_can_be_used_is_enough_wherever_it_is(tiny_ms, monkeypatch):
    """The sample misses it: all is read before a set is refused."""
    path = copy(tiny_ms)
    with changed(path) as tb:
        flag = np.ones_like(tb.getcol("FLAG"))
        flag[..., 3333:3340] = False
        tb.putcol("FLAG", flag)
    request = check(path)
    assert any("0.118 %" in warning and "flagged" in warning for warning in request.warnings)
    (survey,) = request.surveys
    counts = visibilities.tally(survey, "DATA", "I", sample=64)
    assert counts.usable and not counts.complete
    with changed(path) as tb:
        tb.putcol("FLAG", np.ones_like(flag))
    counts = visibilities.tally(survey, "DATA", "I", sample=640)
    assert (counts.usable, counts.seen, counts.flagged) == (0, survey.rows * NCHAN, survey.rows * NCHAN)
    assert counts.complete


def test_weights_by_channel_count_where_there_are_any(tiny_ms):
    from casatasks import initweights

    path = copy(tiny_ms)
    initweights(vis=str(path), wtmode="weight", dowtsp=True)
    check(path)
    spoil(path, WEIGHT_SPECTRUM=0.0)
    refused(DataError, path, "100 % of zero weight")


def test_nan_in_part_of_the_data(tiny_ms):
    from casatasks import flagdata

    path = copy(tiny_ms)
    with changed(path) as tb:
        data = tb.getcell("DATA", 100)
        data[0, 3] = np.inf
        tb.putcell("DATA", 100, data)
    assert any("1 of 8 channels" in warning and "flagdata" in warning for warning in check(path).warnings)
    refused(DataError, path, "1 of 8 channels", "whole image", "flagdata", specmode="mfs")
    assert not check(path, spw="0:4~7").warnings
    flagdata(vis=str(path), mode="clip", datacolumn="data")
    assert not check(path, specmode="mfs").warnings


def test_autocorrelations_and_single_baselines_are_no_image(tiny_ms):
    refused(DataError, tiny_ms, "1 baselines", "uv cells", "antenna='0&1'", antenna="0&1")
    path = copy(tiny_ms)
    with changed(path) as tb:
        tb.putcol("UVW", np.zeros_like(tb.getcol("UVW")))
    refused(DataError, path, "0 baselines", "0 distinct")
    with changed(path) as tb:
        tb.putcol("ANTENNA2", tb.getcol("ANTENNA1"))
    refused(DataError, path, "autocorrelations")
    check(tiny_ms, antenna="0&1;1&2;0&2")


def test_dishes_without_a_size_are_told(tiny_ms):
    path = copy(tiny_ms)
    with changed(path, "ANTENNA") as tb:
        tb.putcol("DISH_DIAMETER", np.r_[0.0, np.full(11, 7.0)])
    assert check(path).surveys[0].diameter == 7.0
    with changed(path, "ANTENNA") as tb:
        tb.putcol("DISH_DIAMETER", np.zeros(12))
    refused(DataError, path, str(path), "DISH_DIAMETER")


# Numbers.


@pytest.mark.parametrize(
    ("parameters", "words"),
    [
        ({"pblimit": 0.0}, ("pblimit=", "between 0 and 1")),
        ({"pblimit": 1.0}, ("pblimit=", "between 0 and 1")),
        ({"pblimit": -0.2}, ("pblimit=", "not needed")),
        ({"pblimit": float("nan")}, ("pblimit=",)),
        ({"nchan": 0}, ("nchan=", "-1")),
        ({"nchan": -2}, ("nchan=",)),
        ({"npixels": -1}, ("npixels=",)),
        ({"width": -1}, ("width=", "start")),
        ({"width": 0}, ("width=",)),
        ({"width": "0MHz"}, ("width=",)),
        ({"start": 100, "nchan": 4}, ("start=100", "0 to 7")),
        ({"start": "6", "nchan": 6}, ("start=", "6 channels, 4 of them without data")),
        ({"start": "200GHz", "nchan": 4}, ("start=", "4 of them without data")),
        ({"start": "99.9GHz", "nchan": 4, "width": "1MHz"}, ("start=", "4 of them without data")),
        ({"start": "5000km/s", "restfreq": "100GHz", "nchan": 4}, ("start=", "4 of them without data")),
    ],
)
def test_numbers_that_tclean_would_take_in_silence(tiny_ms, parameters, words):
    refused(ParameterError, tiny_ms, *words, **parameters)


@pytest.mark.parametrize(
    ("parameters", "nchan"),
    [
        ({}, 8),
        ({"spw": "0:2~5"}, 4),
        ({"start": 2, "nchan": 4}, 4),
        ({"width": 2}, 4),
        ({"start": 7, "width": -1, "nchan": 4}, 4),
        ({"start": "100.008GHz", "nchan": 3}, 3),
        ({"start": "-20km/s", "restfreq": "100.02GHz", "width": "10km/s", "nchan": 5}, 5),
        ({"start": "20km/s", "nchan": 5}, 5),
        ({"start": "0km/s", "restfreq": "100.02GHz"}, 6),
        ({"width": "30km/s", "restfreq": "100.02GHz"}, 3),
        ({"width": "20MHz"}, 1),
    ],
)
def test_channel_grids_within_the_band(tiny_ms, parameters, nchan):
    from casa_deepfocus.casa import selection

    tclean = inputs.check({"vis": str(tiny_ms), "datacolumn": "data"}).tclean | parameters
    assert selection.check([str(tiny_ms)], tclean).nchan == nchan


@pytest.mark.parametrize(
    "parameters",
    [
        {"width": 2},
        {"start": 6, "width": -2, "nchan": 2},
        {"start": "0km/s", "restfreq": "100.02GHz"},
        {"start": "100.004GHz", "width": "8MHz"},
    ],
)
def test_the_grid_is_tcleans(tiny_ms, parameters):
    from casatasks import tclean

    tclean(
        vis=str(tiny_ms), imagename="own", datacolumn="data", specmode="cube", imsize=32, cell="1arcsec", niter=0,
        calcpsf=True, calcres=False, restoration=False, **parameters,
    )  # fmt: skip
    with images.opened("own.psf") as ia:
        nchan = ia.shape()[3]
        theirs = [ia.toworld([0, 0, 0, chan])["numeric"][3] for chan in range(nchan)]
    request = check(tiny_ms)
    ours, _ = channelgrid.grid(request.tclean | parameters, request.surveys[0].windows)
    np.testing.assert_allclose(ours, theirs, atol=0.1 * CHAN_WIDTH)


# Windows.


def test_windows_far_apart_are_no_cube(two_windows_ms):
    text = refused(
        ParameterError, two_windows_ms, "508 channels, 492 of them without data", "spw='0'", "windows 0 (100"
    )
    assert "specmode='mfs'" in text
    assert check(two_windows_ms, spw="0").surveys[0].windows[0].nchan == NCHAN
    check(two_windows_ms, specmode="mfs")


def test_windows_that_touch_are_a_cube():
    write_ms(Path("near.ms"), windows=(Window(), Window(freq0=FREQ0 + NCHAN * CHAN_WIDTH)))
    assert not check("near.ms").warnings
    write_ms(Path("gap.ms"), windows=(Window(), Window(freq0=FREQ0 + 12 * CHAN_WIDTH)))
    assert any("20 channels, 4 of them" in warning and "spw='0'" in warning for warning in check("gap.ms").warnings)
    write_ms(Path("mixed.ms"), windows=(Window(), Window(width=CHAN_WIDTH / 4, nchan=4 * NCHAN)))
    assert any("1000 to 4000 kHz" in warning for warning in check("mixed.ms").warnings)


def test_one_channel_is_imaged_as_mfs(tiny_ms, two_windows_ms):
    request = check(tiny_ms, spw="0:3")
    assert (request.tclean["specmode"], request.mode) == ("mfs", "continuum")
    assert any("mfs" in note for note in request.notes)
    refused(ParameterError, tiny_ms, "mode=", "spectral axis", spw="0:3", mode="line")
    for asked in ({"nchan": 1}, {"start": 3}, {"width": 1}):
        request = check(tiny_ms, spw="0:3", **asked)
        assert request.tclean["specmode"] == "cube" and any("loses weight" in w for w in request.warnings)
    assert check(tiny_ms, spw="0:3", specmode="cubedata").tclean["specmode"] == "cubedata"
    refused(ParameterError, two_windows_ms, "specmode=", "specmode='mfs'", spw="0:3,1:3")


# Names.


def test_names_of_measurement_sets(tiny_ms, tiny_images, monkeypatch):
    monkeypatch.setenv("HOME", str(tiny_ms.parent))
    shutil.copytree(tiny_ms, "a b.ms")
    for vis in (f"{tiny_ms}/", "~/tiny.ms", "a b.ms", tiny_ms, (str(tiny_ms),), [tiny_ms]):
        assert inputs.check({"vis": vis, "datacolumn": "data"}).surveys[0].rows == 5940
    Path("link.ms").symlink_to(tiny_ms)
    check("link.ms")
    refused(ParameterError, [tiny_ms, "link.ms"], "5940 rows", "twice")
    check([tiny_ms, "link.ms"], spw=["0:0~3", "0:4~7"])
    refused(ParameterError, [tiny_ms, "none.ms"], "'none.ms'", "does not exist")
    refused(ParameterError, "*.ms", "glob.glob")
    Path("x.fits").write_text("SIMPLE")
    refused(DataError, "x.fits", "importuvfits")
    Path("asdm").mkdir()
    refused(DataError, "asdm", "a folder", "check the path")
    Path("asdm/ASDM.xml").write_text("")
    refused(DataError, "asdm", "importasdm")
    refused(DataError, f"{tiny_images}.image", "CASA image", "imagename")
    refused(DataError, f"{tiny_ms}/FIELD", "no measurement set")
    shutil.rmtree("a b.ms/FIELD")
    refused(DataError, "a b.ms", "'a b.ms'", "damaged")


def test_a_survey_tells_what_was_selected(calibrated_ms):
    seen = measurementset.survey(str(calibrated_ms), {"field": "1", "spw": "0:2~4"})
    assert [(f.number, f.name, f.frame) for f in seen.fields] == [(1, "right", "J2000")]
    assert seen.fields[0].centre.fk5.dec.deg == pytest.approx(-20.0 + 10.0 / 3600.0)
    (window,) = seen.windows
    assert window.channels.tolist() == [2, 3, 4] and window.nchan == NCHAN
    np.testing.assert_allclose(window.freq, FREQ0 + CHAN_WIDTH * np.arange(2, 5))
    assert (seen.rows, seen.baselines, seen.diameter) == (1980, 66, 12.0)
    assert seen.intents == {"OBSERVE_TARGET#ON_SOURCE": 1980}
    assert (seen.low, seen.high) == (window.freq[0], window.freq[-1])


def test_a_flux_of_all_channels_belongs_to_their_weighted_mean_frequency(tiny_ms):
    path = copy(tiny_ms)
    (survey,) = check(path).surveys
    freq = survey.windows[0].freq
    assert visibilities.effective_frequency([survey], "I") == pytest.approx(freq.mean(), abs=1.0)
    assert visibilities.effective_frequency([survey], "I", sample=64) == pytest.approx(freq.mean(), abs=1.0)
    with changed(path) as tb:
        flag = tb.getcol("FLAG")
        flag[:, : NCHAN // 2] = True
        tb.putcol("FLAG", flag)
    assert visibilities.effective_frequency([survey], "I") == pytest.approx(freq[NCHAN // 2 :].mean(), abs=1.0)
    with changed(path) as tb:
        tb.putcol("FLAG", np.ones_like(flag))
    assert visibilities.effective_frequency([survey], "I") == 0.0
