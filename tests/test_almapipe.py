"""The ALMA pipeline's stages, with a stand-in for the pipeline; the real chain is `make test-pipeline`."""

from __future__ import annotations

import importlib
import json
import pickle
import sys
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from astropy.coordinates import SkyCoord
from astropy.table import Table
from fake_pipeline import FAKED, ROOM, Context, ContFile, make, measurement_set

from casa_deepfocus import almapipe
from casa_deepfocus.almapipe import contdat, scores
from casa_deepfocus.errors import DataError, ParameterError, ProductError

pytest_plugins = ["casa_fixtures"]

WINDOW = "X0#ALMA_RB_06#BB_1#SW-01#FULL_RES"

INPUTS = {"field": "", "spw": "", "minsnr": 5.0, "falsealarms": 1.0, "contdat": True, "completeness": 0}
"""Of the stage that searches."""


@pytest.fixture
def pipeline(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], Any]]:
    """Gives modules of the room by their names, loaded with the stand-in in the pipeline's place."""
    fake = make()
    for name in ROOM:
        monkeypatch.delitem(sys.modules, f"casa_deepfocus.almapipe.{name}", raising=False)
        monkeypatch.delattr(almapipe, name, raising=False)
    monkeypatch.setitem(sys.modules, FAKED, fake)
    monkeypatch.setattr(almapipe, "interfaces", fake, raising=False)
    yield lambda name: importlib.import_module(f"casa_deepfocus.almapipe.{name}")
    for name in ROOM:
        sys.modules.pop(f"casa_deepfocus.almapipe.{name}", None)
        if hasattr(almapipe, name):
            delattr(almapipe, name)


def entry(*ranges: tuple[float, float], frame: str = "LSRK") -> tuple[str, list[tuple[float, float]], str]:
    return WINDOW, list(ranges), frame


# ---- cont.dat ----


def test_free_ranges_are_the_band_without_its_lines():
    ranges, share = contdat.free_ranges((100.0, 110.0), [(104.0, 105.0), (104.5, 106.0)], 0.1)
    assert ranges == [(100.0, 104.0), (106.0, 110.0)] and share == pytest.approx(0.8)


@pytest.mark.parametrize("lines", [[(99.0, 101.0)], [(109.0, 120.0)], [(90.0, 95.0)]])
def test_lines_that_leave_the_band_are_cut(lines):
    ranges, share = contdat.free_ranges((110.0, 100.0), lines, 0.1)
    assert all(100.0 <= low < high <= 110.0 for low, high in ranges)
    assert share == pytest.approx(sum(high - low for low, high in ranges) / 10.0) and share >= 0.9


def test_what_is_left_between_lines_all_over_the_band_is_no_continuum():
    assert contdat.free_ranges((100.0, 110.0), [(100.0, 109.7)], 0.1)[0] == []


def test_ranges_by_hand_are_kept(tmp_path):
    path = str(tmp_path / "cont.dat")
    own = {"spwname": "w", "flags": [], "ranges": [{"range": (1.0, 2.0), "refer": "LSRK"}]}
    ContFile(path).write({"fields": {"A": {"25": own}}, "version": 3})
    became = contdat.add(path, {("A", "25"): entry((5.0, 6.0)), ("A", "27"): entry((7.0, 8.0))}, ContFile)
    assert became == {("A", "25"): contdat.KEPT, ("A", "27"): contdat.WRITTEN}
    found = ContFile(path).cont_ranges["fields"]["A"]
    assert found["25"] == own and found["27"]["ranges"] == [{"range": (7.0, 8.0), "refer": "LSRK"}]
    assert {one.name for one in tmp_path.iterdir()} == {"cont.dat"}


def test_a_file_of_the_old_format_is_left_alone(tmp_path):
    path = tmp_path / "cont.dat"
    path.write_text(json.dumps({"fields": {"A": {"25": {"ranges": []}}}, "version": 1}))
    before = path.read_bytes()
    assert contdat.add(str(path), {("A", "27"): entry((7.0, 8.0))}, ContFile) == {("A", "27"): contdat.OLD}
    assert path.read_bytes() == before


def test_a_file_that_would_lose_ranges_is_left_as_it_is(tmp_path):
    class Forgetful(ContFile):
        def write(self, content: Any) -> None:
            super().write({"fields": {}, "version": 3})

    path = tmp_path / "cont.dat"
    own = {"spwname": "w", "flags": [], "ranges": [{"range": (1.0, 2.0), "refer": "LSRK"}]}
    ContFile(str(path)).write({"fields": {"A": {"25": own}}, "version": 3})
    before = path.read_bytes()
    with pytest.raises(ProductError, match="would be lost"):
        contdat.add(str(path), {("B", "25"): entry((7.0, 8.0))}, Forgetful)
    assert path.read_bytes() == before and {one.name for one in tmp_path.iterdir()} == {"cont.dat"}


def test_a_moving_target_is_in_the_frame_of_its_source(tmp_path):
    path = str(tmp_path / "cont.dat")
    contdat.add(
        path, {("A", "25"): entry((7.0, 8.0), frame="REST"), ("B", "25"): entry((7.0, 8.0), frame="")}, ContFile
    )
    fields = ContFile(path).cont_ranges["fields"]
    assert fields["A"]["25"]["ranges"][0]["refer"] == "SOURCE" and "B" not in fields


# ---- masks ----


def target(**changes: Any) -> dict[str, Any]:
    """A pending target of hif_makeimages: 64 x 48 pixels of 0.5 arcsec, channels of 1 MHz from 100 to 100.04 GHz."""
    return {
        "field": '"A"', "intent": "TARGET", "spw": "25", "specmode": "cube", "imsize": [64, 48],
        "cell": ["0.5arcsec"], "phasecenter": "ICRS 10:00:00.0 -30.00.00.0", "stokes": "I", "start": "", "width": "",
        "nbin": -1, "nchan": -1, "mask": None, "datatype": "REGCAL_LINE_SCIENCE", "imagename": "s1.A.cube",
        "range": (100.0e9, 100.04e9, 1e6),
    } | changes  # fmt: skip


def catalogue(*rows: dict[str, float]) -> Table:
    one = {
        "ra": 150.0, "dec": -30.0, "fwhm_maj": 0.0, "fwhm_min": 0.0, "pa": 0.0, "chan": 10.0, "chan0": 9, "chan1": 11,
        "continuum": np.nan, "flags": "",
    }  # fmt: skip
    table = Table(rows=[one | row for row in rows])
    table.meta.update(
        beam_maj=3.1, beam_min=2.1, beam_pa=0.0, freq0=100.0e9, chan_width=1e6, radesys="ICRS", frame="LSRK", nchan=40
    )
    return table


def test_the_grid_is_the_one_of_the_image_to_be_made(pipeline):
    grid = pipeline("masks").grid_of(target())
    assert (grid.nx, grid.ny, grid.cell) == (64, 48, 0.5)
    assert grid.start == pytest.approx(100.0015e9) and grid.nchan == 38
    assert grid.start + grid.nchan * grid.width <= 100.04e9


def test_binned_channels(pipeline):
    grid = pipeline("masks").grid_of(target(nbin=2))
    assert grid.width == 2e6 and grid.nchan == 18 and grid.start == pytest.approx(100.0015e9)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"width": "2MHz"}, "width"), ({"phasecenter": "TRACKFIELD"}, "fixed direction"), ({"imsize": []}, "imsize"),
        ({"cell": ["0.5arcsec", "0.4arcsec"]}, "square"), ({"cell": []}, "cell"), ({"range": (-1, -1, 0)}, "in common"),
        ({"start": "10km/s"}, "no frequency"), ({"start": "101GHz"}, "no channel"),
    ],
)  # fmt: skip
def test_a_grid_that_does_not_fit_is_told(pipeline, changes, words):
    with pytest.raises(DataError, match=words):
        pipeline("masks").grid_of(target(**changes))


def test_a_source_is_drawn_as_its_ellipse_over_its_line(pipeline):
    masks = pipeline("masks")
    grid = masks.grid_of(target())
    mask = masks.draw(grid, catalogue({}), lines=True)
    planes = np.flatnonzero(mask.any(axis=(1, 2)))
    # Channels 9 to 11 of ours are 100.0085 to 100.0115 GHz; those of the grid have their middles at 100.0015 + n.
    assert planes.tolist() == [7, 8, 9, 10]
    y, x = np.nonzero(mask[8])
    assert (y.mean(), x.mean()) == pytest.approx((24.0, 32.0), abs=0.01)
    # The beam stands upright: semi-axes of 3.1 arcsec in y and 2.1 in x.
    assert np.ptp(y) == 12 and np.ptp(x) == 8
    assert mask[8].sum() == pytest.approx(np.pi * 6.2 * 4.2, rel=0.05)


def test_position_angles_turn_to_the_east(pipeline):
    masks = pipeline("masks")
    grid = masks.grid_of(target())
    mask = masks.draw(grid, catalogue({"fwhm_maj": 8.0, "pa": 45.0}), lines=True)[8]
    y, x = (values - values.mean() for values in np.nonzero(mask))
    # East is to the left: a major axis from north through east goes to the upper left.
    assert (x * y).mean() < -3.0


def test_places_are_those_of_the_sky(pipeline):
    masks = pipeline("masks")
    grid = masks.grid_of(target(specmode="mfs"))
    place = SkyCoord(150.0, -30.0, unit="deg").spherical_offsets_by(-5.0 / 3600 * 1 * _deg(), 2.5 / 3600 * _deg())
    mask = masks.draw(grid, catalogue({"ra": place.ra.deg, "dec": place.dec.deg}), lines=False)[0]
    y, x = np.nonzero(mask)
    assert (x.mean(), y.mean()) == pytest.approx((42.0, 29.0), abs=0.1)


def _deg() -> Any:
    from astropy import units as u

    return u.deg


def test_without_a_line_nothing_is_drawn_where_the_continuum_is_gone(pipeline):
    masks = pipeline("masks")
    grid, table = masks.grid_of(target()), catalogue({"chan": np.nan, "chan0": -1, "chan1": -1, "continuum": 1.0})
    assert not masks.draw(grid, table, lines=True).any()
    assert masks.draw(grid, table, lines=False).any(axis=(1, 2)).all()


def test_sources_outside_of_the_image_or_the_band_are_left_out(pipeline):
    masks = pipeline("masks")
    far, aside = {"ra": 151.0}, {"chan": 80.0, "chan0": 79, "chan1": 81}
    assert not masks.draw(masks.grid_of(target()), catalogue(far, aside), lines=True).any()


def record(path: str, **changes: Any) -> dict[str, Any]:
    cube = {
        "target": "A", "fields": ["A"], "sources": ["A"], "spw": "25", "label": "spw0", "state": "done", "reason": "",
        "catalogue": path, "continua": 1, "rows": 1, "lines": 1, "edge": 0, "floor": 1.0, "noise": 1e-3, "nchan": 40,
        "share": 0.9, "handed": contdat.WRITTEN, "free": [(100.0, 100.03)],
    } | changes  # fmt: skip
    return {"stage": 3, "archive": "", "cubes": [cube]}


@pytest.mark.casa
def test_masks_are_set_on_the_targets_that_have_sources(pipeline, tmp_path):
    from casatools import image

    masks = pipeline("masks")
    catalogue({}).write(tmp_path / "A.cat.ecsv")
    (tmp_path / "s5.deepfocus.A.spw25.cube.mask").mkdir()
    pending = [
        target(), target(spw="27"), target(field="B"), target(intent="CHECK"), target(mask="own.mask"),
        target(moving=True), target(width="2MHz"), target(stokes="IQUV"), target(range=(200e9, 200.04e9, 1e6)),
    ]  # fmt: skip
    made = masks.run(pending, record("A.cat.ecsv"), str(tmp_path), 5)
    assert [bool(about["mask"]) for about in made] == [True] + [False] * 8
    assert [about["failed"] for about in made] == [False] * 6 + [True, False, False]
    assert all(about["reason"] for about in made[1:])
    assert masks.give(pending, pickle.loads(pickle.dumps(made))) == 1
    name = "s5.deepfocus.A.spw25.cube.2.mask"
    assert pending[0]["mask"] == name and pending[0]["nchan"] == 38 and pending[0]["start"] == "100.0015000000GHz"
    assert pending[4]["mask"] == "own.mask" and pending[1]["mask"] is None
    ia = image()
    ia.open(str(tmp_path / name))
    try:
        assert list(ia.shape()) == [64, 48, 1, 38]
        found = np.asarray(ia.getchunk())
    finally:
        ia.done()
    assert found.sum() == made[0]["pixels"] and found[32, 24, 0, 8] == 1.0


def test_masks_of_a_list_that_has_changed_are_not_set(pipeline):
    made = [{"index": 0, "field": "A", "spw": "25", "mask": "a.mask", "start": "", "nchan": 0}]
    pending = [target(spw="27")]
    assert pipeline("masks").give(pending, made) == 0 and pending[0]["mask"] is None
    assert pipeline("masks").give([], made) == 0


# ---- QA ----


def said(given: dict[str, Any], problem: str = "") -> dict[str, float]:
    return {one.short: one.value for one in scores.of_search(given, problem)}


@pytest.mark.parametrize(
    ("changes", "words", "value"),
    [
        ({}, "Sources found", scores.GOOD), ({"rows": 0, "lines": 0}, "Nothing found", scores.LOOK),
        ({"state": "failed", "reason": "no data"}, "Search failed", scores.PARTLY),
        ({"floor": 1.5}, "Dynamic range limited", scores.LOOK), ({"edge": 1}, "Lines at band edge", scores.LOOK),
        ({"share": 0.1}, "Little line-free band", scores.LOOK), ({"share": 0.01, "handed": ""}, "No line-free ranges",
        scores.PARTLY), ({"handed": contdat.KEPT}, "cont.dat kept", scores.GOOD),
        ({"handed": contdat.OLD}, "cont.dat untouched", scores.PARTLY),
        ({"findroi": 0.2}, "Differs from findROI", scores.LOOK), ({"findroi": 0.9}, "Agrees with findROI", scores.GOOD),
    ],
)  # fmt: skip
def test_scores_say_what_is_to_be_known(changes, words, value):
    assert said(record("A", **changes))[words] == value


def test_a_search_that_could_not_be_is_red():
    assert said({}, "no science target") == {"Nothing searched": scores.NOTHING}
    assert scores.of_masks([], "no targets")[0].value == scores.NOTHING


def test_a_window_without_data_is_told():
    given = record("A") | {"left_out": ["A: window 3 of a.ms: no data of this target that are not flagged"]}
    assert said(given)["Left out"] == scores.LOOK


def test_continuum_that_is_left_in_a_cube_is_told():
    about = {"field": "A", "spw": "25", "specmode": "cube", "mask": "m", "pixels": 7, "share": 0.1, "continua": 2}
    assert [one.short for one in scores.of_masks([about], "")] == ["Mask set", "Continuum left in"]


def test_nothing_found_says_how_deep():
    score = scores.of_search(record("A", rows=0, lines=0), "")[0]
    assert "5 mJy/beam" in score.long and score.metric == ("deepfocus.depth", 5.0, "mJy/beam")


# ---- stages ----


def inputs(stages: Any, context: Context, **given: Any) -> Any:
    return stages.DeepFocusInputs(
        context, vis=[""], **(INPUTS | given)
    )


def test_no_science_target_is_told_and_nothing_stops(pipeline, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    stages = pipeline("stages")
    context = Context(str(tmp_path))
    result = stages.DeepFocus(inputs(stages, context)).prepare()
    assert "no calibrated measurement set" in result.problem
    context.sets = {measurement_set(tmp_path / "a.ms", [], [(0, "25", WINDOW)]): "DATA"}
    result = stages.DeepFocus(inputs(stages, context)).prepare()
    assert "no science target in a.ms" in result.problem
    result.merge_with_context(context)
    assert not hasattr(context, "deepfocus") and not context.exported
    assert stages.scores_of_search(result)[0].value == scores.NOTHING
    masked = stages.DeepFocusMasks(stages.DeepFocusMasksInputs(context)).prepare()
    assert "has left no sources" in masked.problem


def test_data_in_two_columns_are_told(pipeline, tmp_path):
    one, other = (measurement_set(tmp_path / name, [(0, "A", "A")], [(0, "25", WINDOW)]) for name in ("a.ms", "b.ms"))
    context = Context(str(tmp_path), {one: "DATA", other: "CORRECTED_DATA"})
    with pytest.raises(DataError, match="different columns"):
        pipeline("search").observed(context)
    assert pipeline("search").observed(context, [one.name]).column == "data"


def test_targets_and_windows_can_be_chosen(pipeline, tmp_path):
    ms = measurement_set(tmp_path / "a.ms", [(2, "A", "A"), (3, "B", "B")], [(1, "25", "w1"), (4, "27", "w2")])
    context = Context(str(tmp_path), {ms: "DATA"})
    seen = pipeline("search").observed(context, targets="B", spw="27")
    assert seen.fields == ("3",) and seen.windows == ("4",) and seen.virtual == {(ms.name, 4): ("27", "w2")}
    with pytest.raises(DataError, match="field='C'"):
        pipeline("search").observed(context, targets="C")


def test_an_unexpected_error_is_told_and_nothing_stops(pipeline, tmp_path, monkeypatch):
    stages = pipeline("stages")

    def broken(*_: Any) -> None:
        raise KeyError("whatever")

    monkeypatch.setattr(pipeline("search"), "observed", broken)
    assert "KeyError" in stages.DeepFocus(inputs(stages, Context(str(tmp_path)))).prepare().problem


@pytest.mark.casa
def test_both_stages_on_a_measurement_set(pipeline, tiny_ms, tmp_path, monkeypatch):
    """Search, record, cont.dat, archive, page; then masks with a context that went through a pickle."""
    monkeypatch.chdir(tmp_path)
    stages, searching = pipeline("stages"), pipeline("search")
    names = {0: "centre"}
    ms = measurement_set(tiny_ms, [(number, name, name) for number, name in names.items()], [(0, "25", WINDOW)])
    context = Context(str(tmp_path), {ms: "DATA"}, report_dir=str(tmp_path / "html"))
    result = stages.DeepFocus(inputs(stages, context)).prepare()
    assert not result.problem
    assert len(context.calls) == 1 and context.calls[0]["niter"] == 0 and context.calls[0]["datacolumn"] == "data"
    result.merge_with_context(context)
    cube = context.deepfocus["cubes"][0]
    assert cube["state"] == "done" and cube["spw"] == "25" and cube["sources"] == ["centre"] and cube["rows"] > 0
    entries = ContFile(str(tmp_path / "cont.dat")).cont_ranges["fields"].get("centre", {})
    assert bool(entries) == (cube["handed"] == contdat.WRITTEN)
    with tarfile.open(tmp_path / context.exported[0]) as tar:
        kept = {Path(name).suffix for name in tar.getnames()}
    assert {".ecsv", ".html", ".crtf"} <= kept and ".mask" not in kept
    page: dict[str, Any] = {}
    pipeline("renderer").SearchRenderer().update_mako_context(page, context, [result])
    shown = page["targets"][0]["cubes"][0]
    assert (tmp_path / "html" / shown["picture"]).exists() and len(shown["sources"]) == cube["rows"]
    assert searching.CONTDAT == "cont.dat"
    table = Table.read(tmp_path / cube["catalogue"])
    table_freq, width = float(table.meta["freq0"]), abs(float(table.meta["chan_width"]))
    centre = SkyCoord(float(table["ra"][0]), float(table["dec"][0]), unit="deg").to_string("hmsdms", sep=":")
    ra, dec = centre.split()
    context.deepfocus = pickle.loads(pickle.dumps(context.deepfocus))
    context.clean_list_pending = [
        target(
            field="centre", phasecenter=f"ICRS {ra} {dec.replace(':', '.')}", datatype="REGCAL_CONTLINE_SCIENCE",
            range=(table_freq - width, table_freq + 12 * width, width),
        ),
        target(field="elsewhere"),
    ]  # fmt: skip
    masked = stages.DeepFocusMasks(stages.DeepFocusMasksInputs(context)).prepare()
    masked.merge_with_context(context)
    assert [bool(one["mask"]) for one in context.clean_list_pending] == [True, False]
    assert {one.short for one in stages.scores_of_masks(masked)} >= {"Mask set", "Own mask"}


# ---- hook ----


def test_the_hook_runs_the_stage_that_is_due(pipeline, tmp_path, monkeypatch):
    monkeypatch.setattr(almapipe, "available", lambda: True)
    context = Context(str(tmp_path))
    almapipe.hook(context)
    context.deepfocus = {"cubes": []}
    almapipe.hook(context)
    context.clean_list_pending = [target()]
    almapipe.hook(context)
    almapipe.hook(context, "search")
    assert context.calls == [almapipe.SEARCH, almapipe.SEARCH, almapipe.MASKS, almapipe.SEARCH]
    given = pipeline("interfaces").registered
    assert [one[2].__name__ for one in given] == [almapipe.SEARCH, almapipe.MASKS]
    with pytest.raises(ParameterError, match="stage"):
        almapipe.hook(context, "whatever")


def test_without_the_pipeline_the_hook_says_so(monkeypatch):
    monkeypatch.setattr(almapipe, "available", lambda: False)
    with pytest.raises(DataError, match="not installed"):
        almapipe.hook(None)


def test_the_recipe_has_both_stages_in_their_places():
    import xml.etree.ElementTree as ElementTree

    names = [one.text for one in ElementTree.parse(almapipe.RECIPE).getroot().iter("Command")]
    assert names.index(almapipe.SEARCH) < names.index("hif_findcont")
    assert names.index("hif_makeimlist") < names.index(almapipe.MASKS) < names.index("hif_makeimages")


# ---- without the pipeline ----


@pytest.mark.casa
def test_calibrated_sets_of_a_finished_run(tiny_ms, tmp_path):
    from casa_deepfocus.almapipe import calibrated

    with pytest.raises(DataError, match="scriptForPI"):
        calibrated.find(str(tmp_path))
    place = tmp_path / "calibrated" / "working"
    place.mkdir(parents=True)
    for name in ("a_targets_line.ms", "a.ms.split.cal", "b.ms.split.cal"):
        (place / name).symlink_to(tiny_ms)
    (place / "c_targets.ms").mkdir()
    found = calibrated.find(str(tmp_path))
    assert [[Path(name).name for name in one.vis] for one in found] == [
        ["a.ms.split.cal", "b.ms.split.cal"], ["a_targets_line.ms"],
    ]  # fmt: skip
    assert [one.column for one in found] == ["data", "data"]
    assert "subtracted" in found[1].kind


def test_the_real_chain_is_skipped_with_its_reason(tmp_path, monkeypatch):
    import pipeline_chain

    monkeypatch.setattr("sys.version_info", (3, 12, 1))
    assert "PIPELINE=" in pipeline_chain.why_not("") and "no source folder" in pipeline_chain.why_not(str(tmp_path))
    (tmp_path / "pipeline" / "infrastructure").mkdir(parents=True)
    assert pipeline_chain.why_not(str(tmp_path)) == ""
    monkeypatch.setattr("sys.version_info", (3, 11, 1))
    assert "3.12" in pipeline_chain.why_not(str(tmp_path))
