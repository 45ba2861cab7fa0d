"""Fields become targets, windows of several executions become one: by names, places, intents and frequencies."""

from __future__ import annotations

import numpy as np
import pytest
from astropy.coordinates import SkyCoord

pytest.importorskip("casatools")

from casa_deepfocus.casa import plan, targets  # noqa: E402
from casa_deepfocus.casa.measurementset import Field, Survey, Window  # noqa: E402
from casa_deepfocus.errors import DataError  # noqa: E402

BEAM = 26.6
"""Primary beam of 12 m at 230 GHz [arcsec], about."""


def field(number: int, name: str, east: float = 0.0, north: float = 0.0, moving: bool = False) -> Field:
    """A field at an offset [arcsec] from 10h, -20d."""
    place = SkyCoord(150.0 + east / 3600.0 / np.cos(np.radians(20.0)), -20.0 + north / 3600.0, unit="deg")
    return Field(number, name, None if moving else place, "ICRS")


def window(number: int, freq: float = 230.0, nchan: int = 128, width: float = 15.625e6, name: str = "X") -> Window:
    """A window that begins at a frequency [GHz]."""
    chan = np.arange(nchan)
    return Window(number, chan, freq * 1e9 + width * (chan + 0.5), np.full(nchan, width), nchan, name)


def seen(name="a.ms", fields=(), windows=(), cells=None, intents=None, chosen=None, observation=0) -> Survey:
    """A survey in which every field has data in every window, in one execution."""
    every = {(f.number, w.number, observation): 100 for f in fields for w in windows}
    return Survey(
        name, chosen or {}, ("DATA", "UVW"), 100, tuple(fields), tuple(windows), intents or {"": 100}, 12.0, 45,
        np.ones((10, 2)), every if cells is None else cells,
    )  # fmt: skip


@pytest.fixture
def find(monkeypatch):
    """`targets.find` on surveys that are made by hand."""

    def call(*surveys: Survey, combine=(), **tclean):
        known = {survey.name: survey for survey in surveys}
        monkeypatch.setattr(targets, "survey", lambda name, chosen: known[name])
        values = {"gridder": "standard", "imsize": [], "selectdata": True} | tclean
        return targets.find([survey.name for survey in surveys], values, combine)

    return call


def names(found) -> list[tuple[str, list[str]]]:
    return [(target.name, [band.label for band in target.bands]) for target in found.targets]


def test_every_name_is_a_target_with_every_window(find):
    fields = [field(0, "NGC 253"), field(1, "NGC 4945", east=4000.0)]
    found = find(seen(fields=fields, windows=[window(25), window(27, 244.0)]))
    assert names(found) == [("NGC 253", ["spw25", "spw27"]), ("NGC 4945", ["spw25", "spw27"])]


def test_pointings_of_a_mosaic_are_one_target_by_name_or_number(find):
    alike = [field(n, "M83", east=0.5 * BEAM * n) for n in range(3)]
    numbered = [field(10 + n, f"Antennae_{n}", east=4000.0 + 0.5 * BEAM * n) for n in range(3)]
    apart = [field(20, "SPT0345", east=9000.0), field(21, "SPT0346", east=9900.0)]
    found = find(seen(fields=[*alike, *numbered, *apart], windows=[window(0)]))
    assert [target.name for target in found.targets] == ["M83", "Antennae", "SPT0345", "SPT0346"]
    assert [len(target.fields[0]) for target in found.targets] == [3, 3, 1, 1]


def test_one_name_at_two_places_is_two_targets(find):
    found = find(seen(fields=[field(0, "survey"), field(1, "survey", east=900.0)], windows=[window(0)]))
    assert [target.name for target in found.targets] == ["survey_1", "survey_2"]


def test_fields_of_other_names_are_joined_where_asked(find):
    near = seen(fields=[field(0, "centre"), field(1, "arm", east=0.5 * BEAM)], windows=[window(0)])
    assert len(find(near).targets) == 2
    assert len(find(near, combine=("field",)).targets) == 1
    assert len(find(near, gridder="mosaic").targets) == 1


def test_executions_are_joined_by_frequency_and_not_by_number(find):
    first = seen("a.ms", [field(0, "T")], [window(25), window(27, 244.0)])
    second = seen("b.ms", [field(3, "T", east=0.01)], [window(19, 244.01), window(17, 230.01)])
    found = find(first, second)
    assert names(found) == [("T", ["spw25", "spw27"])]
    parts = [[(part.index, part.window.number) for part in band.parts] for band in found.targets[0].bands]
    assert parts == [[(0, 25), (1, 17)], [(0, 27), (1, 19)]]


def test_executions_in_one_set_are_joined_too(find):
    cells = {(0, 0, 0): 9, (0, 1, 0): 9, (0, 2, 1): 9, (0, 3, 1): 9}
    windows = [window(0), window(1, 244.0), window(2, 230.02), window(3, 244.02)]
    found = find(seen(fields=[field(0, "T")], windows=windows, cells=cells))
    assert [[part.window.number for part in band.parts] for band in found.targets[0].bands] == [[0, 2], [1, 3]]
    assert names(found) == [("T", ["spw0", "spw1"])]


def test_windows_of_one_execution_are_never_one(find):
    both = [window(0), window(1)]
    found = find(seen(fields=[field(0, "T")], windows=both))
    assert len(found.targets[0].bands) == 2, "the same band twice, in two basebands"


def test_other_channels_are_another_window(find):
    first, second = seen("a.ms", [field(0, "T")], [window(0)]), seen("b.ms", [field(0, "T")], [window(0, nchan=256)])
    assert len(find(first, second).targets[0].bands) == 2


def test_windows_that_touch_are_one_cube_where_asked(find):
    windows = [window(0), window(1, 232.0), window(2, 240.0), window(3, 233.9, nchan=3840, width=488e3)]
    one = seen(fields=[field(0, "T")], windows=windows)
    assert [band.label for band in find(one).targets[0].bands] == ["spw0", "spw1", "spw2", "spw3"]
    joined = find(one, combine=("spw",)).targets[0].bands
    assert [band.label for band in joined] == ["spw0+1", "spw3", "spw2"]


def test_windows_without_a_spectrum_of_the_sky_are_left_out(find):
    windows = [window(0, 184.0, 4, 1.5e9, "WVR#NOMINAL"), window(25), window(26, nchan=1, width=2e9, name="X#CH_AVG")]
    found = find(seen(fields=[field(0, "T")], windows=windows))
    assert names(found) == [("T", ["spw25"])]
    assert sum("no spectrum of the sky" in text for text in found.left_out) == 2
    asked = find(seen(fields=[field(0, "T")], windows=windows[2:], chosen={"spw": "26"}))
    assert names(asked) == [("T", ["spw26"])]


def test_a_target_without_data_in_a_window(find):
    fields, windows = [field(0, "A"), field(1, "B", east=900.0)], [window(0), window(1, 244.0)]
    found = find(seen(fields=fields, windows=windows, cells={(0, 0, 0): 9, (0, 1, 0): 9, (1, 1, 0): 9}))
    assert names(found) == [("A", ["spw0", "spw1"]), ("B", ["spw1"])]
    assert any(text.startswith("B: window 0") for text in found.left_out)


def test_nothing_is_left(find):
    with pytest.raises(DataError, match="nothing to image"):
        find(seen(fields=[field(0, "A")], windows=[window(0)], cells={}))


def test_calibrators_are_told_by_their_names_without_intents(find):
    fields = [field(0, "1331+30500002_0"), field(1, "1445+09900002_0", 900.0), field(2, "N5921_2", 2000.0)]
    found = find(seen(fields=fields, windows=[window(0)]))
    assert [target.name for target in found.targets] == ["N5921_2"]
    assert any("1331+305" in text and "1445+099" in text for text in found.left_out)
    only = find(seen(fields=fields[:2], windows=[window(0)]))
    assert len(only.targets) == 2, "nothing but such names: they are what was observed"
    asked = find(seen(fields=fields[:1], windows=[window(0)], chosen={"field": "0"}), field="0")
    assert [target.name for target in asked.targets] == ["1331+30500002_0"]


def test_a_moving_target_is_one(find):
    found = find(seen(fields=[field(0, "Ceres", moving=True), field(1, "T")], windows=[window(0)]))
    assert [(target.name, target.moving) for target in found.targets] == [("Ceres", True), ("T", False)]


@pytest.mark.parametrize(
    ("channels", "told"), [(range(8), "5"), (range(2, 6), "5:2~5"), ([0, 1, 4, 6, 7], "5:0~1;4;6~7")]
)
def test_channels_in_the_words_of_a_selection(channels, told):
    chosen = np.array(list(channels))
    assert targets.channels_told(Window(5, chosen, chosen * 1.0, np.ones(len(chosen)), 8)) == told


def test_folders_are_names_of_files_and_all_different():
    made = plan._folders(["NGC 253", "ngc_253", "../../etc", "", "sources", "Ünter <b>"])
    assert len({name.lower() for name in made}) == 6
    assert all(name and not set(name) & set("/ <>.") or name for name in made)
    assert not any("/" in name or name.startswith(".") for name in made)
    assert "sources" not in made
