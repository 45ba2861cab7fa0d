"""The adapters to other source finders, with planted finders; the real ones run in ``python -m benchmarks peers``."""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits
from astropy.table import Table, vstack
from astropy.wcs import WCS

from benchmarks import __main__ as main
from benchmarks import peers
from benchmarks.peers import catalogues, compare, finders, process, rates
from benchmarks.peers.field import WINDOW, write_field
from benchmarks.peers.finders import Finder, Places
from casa_deepfocus.core.cube import Cube
from casa_deepfocus.core.geometry import GAUSSIAN_LINE, shape_to_covariance
from casa_deepfocus.errors import ParameterError, ProductError
from training.ideal import ideal_filter

NPIX, NCHAN, CELL, BEAM = 64, 48, 0.1, 0.6
LINE = {"x": 40.0, "y": 25.0, "chan": 20.0, "width": 6.0, "peak": 0.02}


def cube(seed: int = 1) -> Cube:
    """Noise of 1 mJy, a continuum source of 5 mJy with a line of 20 mJy, of the beam's shape."""
    rng = np.random.default_rng(seed)
    grid_y, grid_x = np.mgrid[:NPIX, :NPIX]
    radius2 = (grid_x - LINE["x"]) ** 2 + (grid_y - LINE["y"]) ** 2
    spatial = np.exp(-4.0 * np.log(2.0) * radius2 * (CELL / BEAM) ** 2)
    chan = np.arange(NCHAN)
    spectrum = 0.005 + LINE["peak"] * np.exp(-4.0 * np.log(2.0) * ((chan - LINE["chan"]) / LINE["width"]) ** 2)
    data = rng.normal(0.0, 1e-3, (NCHAN, NPIX, NPIX)) + spectrum[:, None, None] * spatial
    psf = np.exp(-4.0 * np.log(2.0) * ((np.mgrid[-NPIX:NPIX, -NPIX:NPIX] * CELL / BEAM) ** 2).sum(axis=0))
    wcs = WCS(naxis=2)
    wcs.wcs.ctype, wcs.wcs.cunit = ["RA---SIN", "DEC--SIN"], ["deg", "deg"]
    wcs.wcs.crval, wcs.wcs.crpix = [60.0, -35.0], [NPIX // 2 + 1, NPIX // 2 + 1]
    wcs.wcs.cdelt = [-CELL / 3600.0, CELL / 3600.0]
    return Cube(
        data=data.astype(np.float32), psf=psf[None].astype(np.float32), pb=np.full((1, NPIX, NPIX), 0.5, np.float32),
        freq=230e9 + 10e6 * chan, beams=np.tile([BEAM, BEAM, 0.0], (NCHAN, 1)), cell=CELL, wcs=wcs, restfreq=230e9,
    )  # fmt: skip


@pytest.fixture(scope="module")
def field(tmp_path_factory):
    return write_field(tmp_path_factory.mktemp("field"), cube())


def test_finders_get_the_band_and_overlapping_line_images(field):
    band, *lines = field.planes
    assert (band.chan0, band.chan1, band.line) == (0, NCHAN - 1, False)
    assert lines[0].chan0 == 0
    assert lines[-1].chan1 == NCHAN - 1
    assert all(b.chan0 - a.chan0 <= WINDOW // 2 for a, b in zip(lines, lines[1:], strict=False))
    header = fits.getheader(lines[3].path)
    assert (header["NAXIS"], header["NAXIS1"]) == (2, NPIX)
    assert header["BMAJ"] == pytest.approx(BEAM / 3600.0)
    assert fits.getdata(field.folder / "dirty.fits").shape == (1, NCHAN, NPIX, NPIX)
    assert fits.getdata(field.folder / "psf.fits").shape == (1, 1, NPIX, NPIX)
    # The psf keeps its peak in the middle, the line cube no continuum at the source.
    assert np.unravel_index(fits.getdata(field.folder / "psf.fits").argmax(), (NPIX, NPIX)) == (NPIX // 2, NPIX // 2)
    spectrum = field.line[:, 25, 40]
    assert abs(np.median(spectrum)) < 1.5e-3 < 4e-3 < np.median(cube().data[:, 25, 40])


def detections(field, *, scale: float = 1.0) -> list[list[dict]]:
    """What a perfect finder of two dimensions sees: a peak on every plane where it is above 5 sigma."""
    found = []
    for plane in field.planes:
        value = float(fits.getdata(plane.path)[25, 40])
        row = {"x": 40.1, "y": 25.0, "peak": value, "flux": scale * value, "maj": 0.7, "min": 0.65, "pa": 20.0}
        row |= {"deconvolved": False, "rms": plane.rms}
        found.append([row] if value > 5.0 * plane.rms else [])
    return found


def test_planes_merge_into_one_source_with_line_and_continuum(field):
    found = detections(field)
    assert sum(len(rows) for rows in found) >= 3
    merged = catalogues.merge_planes(found, field)
    assert len(merged) == 1
    row = merged[0]
    assert row["chan"] == pytest.approx(LINE["chan"], abs=0.3)
    assert row["line_fwhm"] == pytest.approx(LINE["width"] * field.kms(), rel=0.15)
    # Both corrected for the primary beam of 0.5.
    assert row["line_flux"] == pytest.approx(0.04 * GAUSSIAN_LINE * LINE["width"] * field.kms(), rel=0.15)
    assert row["continuum"] == pytest.approx(2.0 * (0.005 + 0.02 * GAUSSIAN_LINE * LINE["width"] / NCHAN), rel=0.1)
    assert np.prod([row["fwhm_maj"], row["fwhm_min"]]) == pytest.approx(np.sqrt(0.13 * 0.0625), rel=1e-6)


def test_what_only_the_band_shows_has_no_line(field):
    found = [detections(field)[0], *([] for _ in field.planes[1:])]
    merged = catalogues.merge_planes(found, field)
    assert len(merged) == 1
    assert np.isnan(merged["chan"][0])
    assert merged["continuum"][0] > 0.0
    assert len(catalogues.merge_planes([[] for _ in field.planes], field)) == 0


def test_sizes_lose_the_beam(field):
    inner, whole = shape_to_covariance(0.5, 0.2, 30.0), np.zeros(3)
    whole = inner + shape_to_covariance(BEAM, BEAM, 0.0)
    from casa_deepfocus.core.geometry import covariance_to_shape

    maj, minor, pa = (float(v) for v in covariance_to_shape(whole))
    shape = catalogues.intrinsic({"maj": maj, "min": minor, "pa": pa, "deconvolved": False}, field)
    assert (shape["fwhm_maj"], shape["fwhm_min"], shape["pa"]) == pytest.approx((0.5, 0.2, 30.0))
    small = catalogues.intrinsic({"maj": 0.5, "min": 0.5, "pa": 0.0, "deconvolved": False}, field)
    assert (small["fwhm_maj"], small["fwhm_min"]) == (0.0, 0.0)


def test_time_and_memory_are_those_of_the_program(tmp_path):
    code = "import time; block = bytearray(150 * 2**20); time.sleep(0.2)"
    cost = process.run_measured([sys.executable, "-c", code], tmp_path)
    assert cost.seconds > 0.2
    assert 150.0 < cost.memory < 250.0
    # Whoever asks may be large: that is not counted.
    block = np.ones(60_000_000)
    assert process.run_measured([sys.executable, "-c", "pass"], tmp_path).memory < 100.0 < block.nbytes / 2**20
    total = process.Cost(1.0, 5.0) + process.Cost(2.0, 3.0)
    assert (total.seconds, total.memory) == (3.0, 5.0)


def test_a_program_that_fails_says_why(tmp_path):
    with pytest.raises(process.PeerError, match="status 3.*no beam"):
        process.run_measured([sys.executable, "-c", "print('no beam'); raise SystemExit(3)"], tmp_path)
    with pytest.raises(process.PeerError, match="more than"):
        process.run_measured([sys.executable, "-c", "import time; time.sleep(60)"], tmp_path, timeout=0.5)
    with pytest.raises(process.PeerError, match="No such file"):
        process.run_measured([str(tmp_path / "nothing")], tmp_path)


def simulate(preset: str, seed: int, index: int, empty: bool):
    made = cube(seed + index)
    kms = float(abs(made.chan_width_kms(230.2e9)))
    truth = Table(
        {
            "name": ["S1"], "x": [LINE["x"]], "y": [LINE["y"]], "chan": [LINE["chan"]], "fwhm_maj": [0.0],
            "fwhm_min": [0.0], "pa": [0.0], "line_fwhm": [LINE["width"] * kms], "line_fwhm_chan": [LINE["width"]],
            "line_flux": [0.27 * kms], "continuum": [0.01], "snr": [40.0],
        },
        meta={"beam_maj": BEAM, "beam_min": BEAM, "cell": CELL, "nchan": NCHAN, "chan_width_kms": kms},
    )  # fmt: skip
    return made, truth[:0] if empty else truth


def planted(name: str = "planted", false: int = 2) -> Finder:
    """Finds the source at SNR 30, and `false` others at lower SNR; fails on field 1 when it is told to."""

    def search(field, settings, places, scratch):
        if settings.get("fails") and field.cube.data[0, 0, 0] == cube(8).data[0, 0, 0]:
            raise process.PeerError("no beam")
        rows = [{"x": 40.0, "y": 25.0, "chan": 20.0, "line_fwhm": 80.0, "snr": 30.0}]
        wrong = range(settings.get("false", false))
        rows += [{"x": 5.0, "y": 5.0 + 9.0 * k, "chan": 40.0, "snr": 6.0 + k} for k in wrong]
        return catalogues.table(rows, field), process.Cost(2.0, 100.0)

    return Finder(name, lambda places: "", search, {}, ({"false": 1}, {"false": 0}))


def test_finders_are_scored_on_the_same_fields():
    peer = compare.compare("paper", 2, 7, [planted()], Places(), empty=1, rate=0.5, simulate=simulate)[0][0]
    result = peer.as_dict()
    assert (result["physical"]["recall"], result["physical"]["false_positives"]) == (1.0, 4)
    assert result["empty"] == {"n_fields": 1, "false_alarms": 3}
    assert (result["seconds_per_field"], result["memory_mib"]) == (2.0, 100.0)
    row = compare.scoreboard([peer])[0]
    assert (row["finder"], row["FP"], row["alarms"]) == ("planted", 4, 3)


@pytest.mark.parametrize(
    ("empty", "rate", "level", "alarms", "left", "recall"),
    [
        # One alarm is allowed in the empty field: those at SNR 6 and 7 go, the one at SNR 30 stays, as the sources.
        (1, 1.0, 7.0, 1, 0, 1.0),
        # None is allowed: the sources go with it.
        (1, 0.5, 30.0, 0, 0, 0.0),
        # No empty field: one of the four false positives is allowed, but two have the same SNR.
        (0, 0.5, 7.0, 0, 0, 1.0),
        (0, 1.0, 6.0, 2, 2, 1.0),
        (0, 2.0, -np.inf, 4, 4, 1.0),
    ],
)
def test_catalogues_are_cut_at_a_rate_of_false_alarms(empty, rate, level, alarms, left, recall):
    peer = compare.compare("paper", 2, 7, [planted()], Places(), empty=empty, rate=rate, simulate=simulate)[0][0]
    assert (peer.score.physical["recall"], peer.score.physical["false_positives"]) == (1.0, 4)
    got = peer.at_rate
    assert (got.level, got.alarms, got.false_positives, got.recall_snr5) == (level, alarms, left, recall)


def test_false_positives_at_a_source_are_no_false_alarms():
    doubled = planted(false=0)

    def search(field, settings, places, scratch):
        row = {"x": 40.0, "y": 25.0, "chan": 20.0, "line_fwhm": 80.0, "snr": 30.0}
        return catalogues.table([row, {**row, "x": 40.5, "snr": 20.0}], field), process.Cost()

    doubled = replace(doubled, search=search)
    peer = compare.compare("paper", 2, 7, [doubled], Places(), rate=0.0, simulate=simulate)[0][0]
    assert peer.score.physical["duplicates"] == 2
    assert (peer.at_rate.level, peer.at_rate.alarms, peer.at_rate.false_positives) == (-np.inf, 0, 2)


def test_a_catalogue_without_snr_cannot_be_cut():
    assert rates.cut_level(np.array([np.nan, 7.0, 6.0]), 1) == 6.0
    assert np.isnan(rates.cut_level(np.array([np.nan, np.nan]), 1))
    assert rates.cut_level(np.array([np.nan, np.nan]), 2) == -np.inf
    assert rates.cut_level(np.array([]), 0) == -np.inf


def geometry(preset: str, seed: int, index: int, empty: bool):
    """Sources of SNR 3, 4, ... 8, half of them without continuum, in a cube of a known size."""
    made, truth = simulate(preset, seed, index, False)
    truth = vstack([truth] * 6)
    truth["snr"] = truth["snr_total"] = np.arange(3.0, 9.0)
    truth["continuum"][::2] = 0.0
    truth["x"] += 4.0 * np.arange(6)
    for name, value in (("nx", NPIX), ("ny", NPIX), ("nchan", NCHAN)):
        truth[name] = np.full(6, value)
    return made, truth[:0] if empty else truth


def test_the_ideal_filter_stands_in_the_table_at_the_same_rate():
    levels = []
    for rate in (0.01, 1.0):
        peer = compare.compare("paper", 2, 7, [planted()], Places(), empty=1, rate=rate, simulate=geometry)[0][0]
        score, ideal = peer.score, peer.ideal
        volume = np.full(12, NPIX**2), np.full(12, NCHAN)
        assert ideal.level == pytest.approx(np.median(ideal_filter(score.truth, *volume, rate).blind))
        # Half of the sources of a shape are found at the level for it.
        assert ideal.snr50_line_only == pytest.approx(ideal.level, abs=0.1)
        assert 0.0 < ideal.recall_snr5 < 1.0
        row = compare.scoreboard([peer])[-1]
        assert row["finder"] == "(ideal filter)"
        assert row["line50_at_rate"] == pytest.approx(ideal.snr50_line_only)
        levels.append(ideal.level)
    assert levels[0] > levels[1] + 0.5
    assert peer.as_dict()["ideal"]["level"] == levels[1]
    # A truth that does not say how large its cube is.
    bare = compare.compare("paper", 1, 7, [planted()], Places(), simulate=simulate)[0][0]
    assert np.isnan(bare.ideal.snr50)


def test_finders_in_folders_of_their_own_find_the_field(monkeypatch, tmp_path):
    seen = []

    def search(field, settings, places, scratch):
        seen.extend([field.folder, scratch, *(plane.path for plane in field.planes)])
        return catalogues.table([], field), process.Cost()

    monkeypatch.chdir(tmp_path)
    (tmp_path / "below").mkdir()
    finder = Finder("planted", lambda places: "", search)
    compare.compare("paper", 1, 7, [finder], Places(), simulate=simulate, scratch=Path("below"))
    assert len(seen) > 3
    assert all(path.is_absolute() and tmp_path / "below" in path.parents for path in seen)


def test_ours_gets_the_rate_asked_for(monkeypatch, capsys, tmp_path):
    seen = []

    def search(field, settings, places, scratch):
        seen.append(settings)
        return catalogues.table([], field), process.Cost()

    ours = Finder("deepfocus", lambda places: "", search, finders.FINDERS["deepfocus"].settings)
    assert "false_alarms" in ours.settings
    monkeypatch.setattr(compare, "finder_named", lambda name: ours)
    monkeypatch.setitem(compare.compare.__kwdefaults__, "simulate", simulate)
    parser = argparse.ArgumentParser()
    peers.add_arguments(parser)
    assert peers.run(parser.parse_args(["--n", "1", "--finders", "deepfocus", "--rate", "0.3"])) == 0
    assert [settings["false_alarms"] for settings in seen] == [0.3]


def test_candidates_that_only_cut_share_a_search():
    calls = []

    def search(field, settings, places, scratch):
        calls.append(settings)
        return planted().search(field, {}, places, scratch)

    grid = ({"snr": 5.0}, {"snr": 6.5}, {"snr": 8.0})
    finder = Finder("planted", lambda places: "", search, {"snr": 5.0}, grid, cut="snr")
    lines = compare.tune("paper", 1, 7, [finder], Places(), simulate=simulate)
    # The search does not see it.
    assert calls == [{}]
    assert [line.split("false positives")[1].split()[0] for line in lines] == ["2", "1", "0"]
    assert [line.endswith("<- best") for line in lines] == [False, False, True]
    # Its own cut is for its own scores; a rate of false alarms has another.
    own = replace(finder, settings={"snr": 8.0})
    peer = compare.compare("paper", 1, 7, [own], Places(), rate=1.0, simulate=simulate)[0][0]
    assert (len(peer.catalogue), peer.at_rate.level, peer.at_rate.false_positives) == (1, 6.0, 1)


def test_a_field_on_which_a_finder_fails_is_in_none_of_its_scores():
    failing = planted()
    failing.settings["fails"] = True
    peer = compare.compare("paper", 2, 7, [failing], Places(), simulate=simulate)[0][0]
    assert peer.failed == {1: "no beam"}
    assert peer.as_dict()["n_sources"] == 1
    peers_, lost = compare.compare("paper", 1, 8, [failing, planted("other")], Places(), simulate=simulate)
    assert [p.name for p in peers_] == ["other"]
    assert "no beam" in lost["planted"]


def test_tuning_marks_the_best_candidate():
    lines = compare.tune("paper", 1, 7, [planted()], Places(), simulate=simulate)
    assert len(lines) == 2
    assert [line.endswith("<- best") for line in lines] == [False, True]
    assert "F1 0.667" in lines[0]
    assert "F1 1.000" in lines[1]


def test_what_is_not_there_is_said(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(compare, "simulate_field", simulate)
    absent = Finder("absent", lambda places: "build it", planted().search)
    monkeypatch.setattr(compare, "finder_named", lambda name: {"planted": planted(), "absent": absent}[name])
    monkeypatch.setitem(compare.compare.__kwdefaults__, "simulate", simulate)
    parser = argparse.ArgumentParser()
    peers.add_arguments(parser)
    words = ["--n", "1", "--seed", "7", "--finders", "planted", "absent", "--out", str(tmp_path / "out")]
    assert peers.run(parser.parse_args(words)) == 0
    out = capsys.readouterr().out
    assert "not run: absent: build it" in out
    assert "planted" in out
    assert len(Table.read(tmp_path / "out" / "planted" / "catalogue.ecsv")) == 3
    with pytest.raises(ProductError, match="--resume"):
        peers.run(parser.parse_args(words))
    monkeypatch.setattr(compare, "write_field", lambda *_: pytest.fail("the field is there"))
    assert peers.run(parser.parse_args([*words, "--resume", "--json"])) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["missing"] == {"absent": "build it"}
    assert printed["planted"]["physical"]["recall"] == 1.0
    with pytest.raises(ParameterError, match="--finders='nobody'"):
        peers.run(parser.parse_args(["--finders", "nobody"]))
    with pytest.raises(ParameterError, match="--out"):
        peers.run(parser.parse_args(["--resume"]))
    with pytest.raises(ParameterError, match="--n=0"):
        peers.run(parser.parse_args(["--n", "0"]))


SOFIA = """#!{python}
import sys
from pathlib import Path
from astropy.table import Table
lines = dict(line.split(" = ") for line in Path(sys.argv[1]).read_text().splitlines())
{failure}
row = dict(x=40.0, y=25.0, z=20.0, f_sum=2.0, f_max=0.02, w50=6.0, rms=1e-3, n_pix=300.0, ell_maj=7.0, ell_min=6.5,
           ell_pa=10.0)
Table([row]).write(Path(lines["output.directory"]) / "found_cat.xml", format="votable")
"""


@pytest.mark.parametrize(
    ("failure", "found", "runs"),
    [
        ("", 1, 1),
        # Nothing to judge reliability by: once more without.
        ("if lines['reliability.enable'] == 'true': sys.exit('ERROR: Covariance matrix is not invertible')", 1, 2),
        ("sys.exit('ERROR: No reliable sources found. Terminating pipeline.')", 0, 1),
        ("sys.exit('ERROR: no memory')", None, 1),
    ],
)
def test_sofia_that_finds_nothing_is_no_failure(field, tmp_path, failure, found, runs):
    program = tmp_path / "sofia"
    program.write_text(SOFIA.format(python=sys.executable, failure=failure))
    program.chmod(0o755)
    sofia = finders.FINDERS["sofia2"]
    if found is None:
        with pytest.raises(process.PeerError, match="no memory"):
            sofia.search(field, sofia.settings, Places(sofia2=str(program)), tmp_path)
        return
    rows, cost = sofia.search(field, sofia.settings, Places(sofia2=str(program)), tmp_path)
    assert len(rows) == found
    assert cost.seconds > 0.0
    assert len(list(tmp_path.rglob("found.par"))) == runs
    if found:
        assert (rows["x"][0], rows["chan"][0]) == (40.0, 20.0)
        assert rows["line_fwhm"][0] == pytest.approx(6.0 * field.kms())


def test_places_come_from_the_environment(monkeypatch, tmp_path):
    monkeypatch.setenv("PEERS_MF3D", str(tmp_path))
    monkeypatch.delenv("PEERS_LINESEEKER", raising=False)
    places = Places.from_environment()
    assert places.mf3d == str(tmp_path)
    assert "holds no MF3D_class.py" in finders.FINDERS["mf3d"].missing(places)
    (tmp_path / "MF3D_class.py").write_text("")
    assert finders.FINDERS["mf3d"].missing(places) == ""
    assert "PEERS_LINESEEKER" in finders.FINDERS["lineseeker"].missing(places)
    assert "cannot be started" in finders.FINDERS["pybdsf"].missing(Places(python=str(tmp_path / "python")))
    assert "pip install bdsf" in finders.FINDERS["pybdsf"].missing(Places()) or not finders.FINDERS["pybdsf"].missing(
        Places()
    )
    assert finders.finder_named("clean+sofia2").settings == finders.FINDERS["sofia2"].settings


def test_the_command_is_known():
    args = main.make_parser().parse_args(["peers", "--n", "3", "--finders", "sofia2"])
    assert (args.n, args.finders) == (3, ["sofia2"])
