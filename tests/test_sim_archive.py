"""Sets of measurement sets as the archive has them: what is in them, and what an image of them says."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("casatasks")
pytest.importorskip("casadata")

from astropy.coordinates import SkyCoord
from astropy.table import Row, Table
from casa_fixtures import ARCHIVE
from numpy.typing import NDArray

from casa_deepfocus.core.geometry import FWHM_PER_SIGMA
from casa_deepfocus.errors import DataError, ParameterError, ProductError
from sim.__main__ import main
from sim.archive import Recipe, folder_name, write_archive
from sim.archivesky import FAINTEST_BEAM, mosaic_offsets, science_windows
from sim.casa_backend import casa_tool

pytest_plugins = ("casa_fixtures",)

pytestmark = pytest.mark.casa

C_KMS = 299792.458
SMALL = Recipe(
    targets=2, mosaics=0, windows=2, channels=16, executions=1, sources=2, antennas=6, integrations=1, seed=9
)  # fmt: skip


def measurement_sets(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.ms"))


def truth(folder: Path, target: str) -> tuple[Table, Table]:
    sources, lines = (Table.read(folder / "truth" / target / f"{kind}.ecsv") for kind in ("sources", "lines"))
    return sources, lines


def rows_of(vis: Path, condition: str, *columns: str) -> list[NDArray]:
    with casa_tool("table", vis) as table:
        rows = table.query(condition)
        try:
            return [rows.getcol(name) for name in columns]
        finally:
            rows.close()


def test_tables_are_as_almas(archive: Path) -> None:
    paths = measurement_sets(archive)
    assert [path.name for path in paths] == ["uid___A002_X5_X1.ms", "uid___A002_X5_X2.ms"]
    tails = []
    for path in paths:
        with casa_tool("msmetadata", path) as meta:
            assert meta.observatorynames() == ["ALMA"]
            fields = meta.fieldsforintent("OBSERVE_TARGET#ON_SOURCE")
            assert list(meta.namesforfields(fields)) == ["Ridge_1", "Ridge_1", "Ridge_1", "HD 1002"]
            assert len({meta.sourceidforfield(int(field)) for field in fields}) == 2
            assert len(meta.scansforfield(2)) == 2 and list(meta.scansforfield(2)) == list(meta.scansforfield(4))
            for intent in ("CALIBRATE_PHASE#ON_SOURCE", "CALIBRATE_BANDPASS#ON_SOURCE"):
                (calibrator,) = meta.namesforfields(meta.fieldsforintent(intent))
                assert calibrator.startswith("J") and len(calibrator) == 10
            names = meta.namesforspws()
            tails.append([name.split("#", 1)[1] for name in names])
            assert all(name.startswith("X") and name.endswith("#FULL_RES") for name in names)
            assert [meta.baseband(spw) for spw in range(2)] == [1, 2]
            assert meta.phasecenter(2)["refer"] == "ICRS"
            assert meta.schedule(0)[1].startswith("ExecBlock uid://A002/")
            assert (np.diff(meta.chanfreqs(0)) > 0).all() and (np.diff(meta.chanfreqs(1)) < 0).all()
        with casa_tool("table", path) as table:
            assert "CORRECTED_DATA" not in table.colnames() and (np.diff(table.getcol("TIME")) >= 0).all()
    assert tails[0] == tails[1] == science_windows_of(archive)


def science_windows_of(folder: Path) -> list[str]:
    return truth(folder, "Ridge_1")[0].meta["windows"]


def test_executions_differ_in_hour_angle_and_in_frequency_as_observed(archive: Path) -> None:
    times, freqs, lsrk = [], [], []
    for path in measurement_sets(archive):
        with casa_tool("msmetadata", path) as meta, casa_tool("measures") as me:
            time = float(meta.timesforfield(5)[0])
            me.doframe(me.epoch("UTC", f"{time!r}s"))
            me.doframe(meta.observatoryposition(0))
            me.doframe(meta.phasecenter(5))
            times.append(me.measure(me.epoch("UTC", f"{time!r}s"), "LAST")["m0"]["value"] % 1.0 * 24.0)
            freqs.append(float(meta.chanfreqs(0)[0]))
            lsrk.append(me.measure(me.frequency("TOPO", f"{freqs[-1]!r}Hz"), "LSRK")["m0"]["value"])
    assert abs(times[1] - times[0]) == pytest.approx(3.0, abs=0.1)
    assert abs(freqs[1] - freqs[0]) > 1e6
    assert abs(lsrk[1] - lsrk[0]) < 1e5


def test_time_division_windows_have_flagged_edges(archive: Path) -> None:
    (flags,) = rows_of(measurement_sets(archive)[0], "DATA_DESC_ID==0 && !FLAG_ROW", "FLAG")
    assert flags[:, [0, -1]].all() and not flags[:, 1:-1].any()
    (flags,) = rows_of(measurement_sets(archive)[0], "DATA_DESC_ID==1 && !FLAG_ROW", "FLAG")
    assert flags.size and not flags.any()


def image(folder: Path, target: str, window: int, centre: tuple[float, float], gridder: str, out: Path) -> dict:
    """A dirty cube about a place on the sky: data, pb (nchan, ny, nx), freq (nchan,)."""
    from casatasks import tclean

    tclean(
        vis=[str(path) for path in measurement_sets(folder)], imagename=str(out), field=target, spw=str(window),
        datacolumn="data", specmode="cube", outframe="LSRK", interpolation="nearest", imsize=[128, 128],
        cell="0.4arcsec", phasecenter=f"ICRS {float(centre[0])!r}deg {float(centre[1])!r}deg", gridder=gridder,
        mosweight=False, weighting="natural", niter=0, calcpsf=True, calcres=True, restoration=False, pblimit=0.1,
    )  # fmt: skip
    found = {}
    for name in ("residual", "pb"):
        with casa_tool("image", Path(f"{out}.{name}")) as tool:
            found[name] = tool.getchunk().T[:, 0]
            csys = tool.coordsys()
            chans = range(len(found[name]))
            found["freq"] = np.array([csys.toworld([0, 0, 0, chan])["numeric"][3] for chan in chans])
            csys.done()
    return found


def line_amplitude(cube: dict, line: Row, others: Table) -> tuple[float, float]:
    """Height [Jy/beam] of a line in the middle of a cube, and its error.

    Sidelobes of the continua and of the other lines of the window have other spectra.
    """
    good = np.abs(cube["residual"]).sum(axis=(1, 2)) > 0
    freq = cube["freq"][good]
    speed = [(freq / each["freq"] - 1.0) * C_KMS / each["line_fwhm"] for each in (line, *others)]
    profiles = np.exp(-0.5 * (np.array(speed) * FWHM_PER_SIGMA) ** 2)
    basis = np.stack([*profiles, np.ones(len(freq)), (freq - freq.mean()) / np.ptp(freq)], axis=1)
    weights = np.linalg.pinv(basis)[0]
    middle = tuple(size // 2 for size in cube["pb"].shape[1:])
    plane = np.tensordot(weights, cube["residual"][good], 1)
    inner = cube["pb"][len(cube["freq"]) // 2] > 0.5
    noise = 1.4826 * np.median(np.abs(np.diff(cube["residual"][good], axis=0)[:, inner])) / np.sqrt(2.0)
    return float(plane[middle]), float(noise * np.linalg.norm(weights))


@pytest.mark.parametrize(("target", "gridder"), [("HD 1002", "standard"), ("Ridge_1", "mosaic")])
def test_an_image_has_the_planted_line(archive: Path, tmp_path: Path, target: str, gridder: str) -> None:
    sources, lines = truth(archive, folder_name(target))
    (line,) = lines[lines["source"] == "S01"]
    # A point: its peak in the dirty image is its flux.
    assert sources["fwhm_maj"][0] == 0.0 and line["snr"] > 24
    others = lines[(lines["spw"] == line["spw"]) & (lines["source"] != "S01")]
    cube = image(archive, target, int(line["spw"]), (line["ra"], line["dec"]), gridder, tmp_path / "cube")
    peak, error = line_amplitude(cube, line, others)
    pb = float(cube["pb"][len(cube["freq"]) // 2, 64, 64])
    assert 5 * error < peak
    assert peak / pb == pytest.approx(line["peak"], abs=3.0 * error / pb), (peak, error, pb)
    if gridder == "standard":
        assert pb == pytest.approx(sources["pb"][0], abs=0.02)
        # Natural weighting: the noise is what the weights say.
        weight = 0.0
        for path in measurement_sets(archive):
            flags, weights = rows_of(path, f"FIELD_ID==5 && DATA_DESC_ID=={line['spw']}", "FLAG", "WEIGHT")
            weight += (weights * ~flags[:, 12]).sum()
        free = cube["residual"][np.abs(cube["freq"] / line["freq"] - 1.0) * C_KMS > 1.5 * line["line_fwhm"]]
        free = free[np.abs(free).sum(axis=(1, 2)) > 0]
        assert np.diff(free, axis=0).std() / np.sqrt(2.0) == pytest.approx(weight**-0.5, rel=0.05)


def test_sources_are_planted_as_promised(archive: Path) -> None:
    sources, lines = truth(archive, "Ridge_1")
    continuum, lined = np.array(sources["continuum"]) > 0, np.array(sources["n_lines"])
    assert len(sources) == 4 and sorted(lined) == [0, 1, 1, 2]
    assert (continuum & (lined == 0)).any() and (~continuum & (lined > 0)).any() and (continuum & (lined > 0)).any()
    assert len(set(lines["spw"][lines["source"] == sources["name"][lined == 2][0]])) == 2
    assert sources["snr"].min() >= 24 and (sources["pb"] > FAINTEST_BEAM).all()
    parts = np.stack([sources["snr_continuum_1"], sources["snr_continuum_2"]])
    np.testing.assert_allclose(np.hypot(*parts), sources["snr_continuum"], rtol=1e-6)
    place = SkyCoord(sources["ra"], sources["dec"])
    apart = place[:, None].separation(place[None, :]).arcsec[np.triu_indices(4, 1)]
    assert apart.min() > 2.0 * sources.meta["beam"]
    for low, high, line in ((sources.meta["low"][r["spw"]], sources.meta["high"][r["spw"]], r["freq"]) for r in lines):
        assert low < line < high


def test_a_seed_gives_the_same_set_twice_and_another_another(tmp_path: Path) -> None:
    data = []
    for number, recipe in enumerate((SMALL, SMALL, replace(SMALL, seed=10))):
        tables = write_archive(tmp_path / f"set{number}", recipe)
        (path,) = measurement_sets(tmp_path / f"set{number}")
        data.append([*rows_of(path, "DATA_DESC_ID==0", "DATA", "UVW", "WEIGHT"), tables["HD 1002"][0]["continuum"]])
    for one, same, other in zip(*data, strict=True):
        np.testing.assert_array_equal(one, same)
        assert one.shape != other.shape or not np.array_equal(one, other)


def test_all_options_at_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "set"
    numbers = ["targets", "mosaics", "windows", "channels", "executions", "sources", "antennas", "integrations", "seed"]
    arguments = [word for name in numbers for word in (f"--{name}", str(getattr(SMALL, name)))]
    more = ["--single", "--averages", "--wvr", "--corrected", "--missing", "1:2", "--flagged", "2:1"]
    assert main(["archive", str(out), *arguments, *more]) == 0
    assert "HD 1002: 1 pointings, 3 sources" in capsys.readouterr().out
    (path,) = measurement_sets(out)
    with casa_tool("msmetadata", path) as meta:
        assert [name.split("#")[-1] for name in meta.namesforspws()] == [
            "NOMINAL", "FULL_RES", "CH_AVG", "FULL_RES", "CH_AVG", "FULL_RES",
        ]  # fmt: skip
        assert (list(meta.wvrspws()), list(meta.chanavgspws())) == ([0], [2, 4])
        assert list(meta.spwsforfield("Ridge_1")) == [0, 1, 2, 5]
        assert [len(meta.chanfreqs(spw)) for spw in range(6)] == [4, 16, 1, 16, 1, 1]
    first, second = rows_of(path, "DATA_DESC_ID==0", "ANTENNA1", "ANTENNA2")
    assert len(first) and (first == second).all()
    assert rows_of(path, "FIELD_ID==3 && DATA_DESC_ID==1", "FLAG")[0].all()
    assert not rows_of(path, "FIELD_ID==2 && DATA_DESC_ID==1", "FLAG_ROW")[0].any()
    # An average over the channels that are not flagged.
    whole, flags, weight = rows_of(path, "FIELD_ID==0 && DATA_DESC_ID==1", "CORRECTED_DATA", "FLAG", "WEIGHT")
    mean, mean_weight = rows_of(path, "FIELD_ID==0 && DATA_DESC_ID==2", "CORRECTED_DATA", "WEIGHT")
    np.testing.assert_allclose(mean[:, 0], whole[:, 1:-1].mean(axis=1), rtol=1e-5)
    assert flags[:, 0].all() and not flags[:, 1:-1].any()
    np.testing.assert_allclose(mean_weight, 14 * weight, rtol=1e-5)
    # The noise of both columns is what the weights and sigmas say.
    raw, good, weight, sigma = rows_of(
        path, "FIELD_ID==3 && DATA_DESC_ID==3", "DATA", "CORRECTED_DATA", "WEIGHT", "SIGMA"
    )
    for values in (raw / sigma[:, None], good * np.sqrt(weight)[:, None]):
        assert np.diff(values.real, axis=1).std() / np.sqrt(2.0) == pytest.approx(1.0, abs=0.05)
    assert np.abs(raw).mean() < 0.01 * np.abs(good).mean()
    # What a target has no data for is not planted either.
    assert "ALMA_RB_06#BB_2#SW-01#FULL_RES" not in set(truth(out, "Ridge_1")[1]["window"])
    assert (truth(out, "HD_1002")[0]["snr_continuum_1"] == 0).all()


def test_a_moving_target_stands_still_about_its_ephemeris(tmp_path: Path) -> None:
    from casatasks import tclean

    recipe = replace(SMALL, targets=1, executions=2, windows=1, channels=24, antennas=10, moving=True, snr=3.0)
    # One source, so that no sidelobe of another line is in its spectrum.
    write_archive(tmp_path / "set", replace(recipe, sources=1, faint=False))
    sources, lines = truth(tmp_path / "set", "Ridge_1")
    first, second = measurement_sets(tmp_path / "set")
    places = []
    for path in (first, second):
        with casa_tool("msmetadata", path) as meta:
            centre = meta.phasecenter(2)
            places.append(SkyCoord(centre["m0"]["value"], centre["m1"]["value"], unit="rad"))
        assert list((path / "FIELD").glob("EPHEM0_Ridge_1*.tab"))
    assert places[0].separation(places[1]).deg == pytest.approx(13.0 * 9.125 * 24.0 / 3600.0, rel=0.01)

    (line,) = lines[lines["source"] == "S01"]
    tclean(
        vis=[str(first), str(second)], imagename=str(tmp_path / "cube"), field="Ridge_1", datacolumn="data",
        specmode="cubesource", imsize=[128, 128], cell="0.4arcsec", phasecenter="TRACKFIELD", weighting="natural",
        niter=0, restoration=False,
    )  # fmt: skip
    with casa_tool("image", tmp_path / "cube.residual") as tool:
        data, csys = tool.getchunk().T[:, 0], tool.coordsys()
        try:
            assert csys.referencecode("spectral") == ["REST"]
            freq = np.array([csys.toworld([0, 0, 0, chan])["numeric"][3] for chan in range(len(data))])
            world = np.array([np.deg2rad(line["ra"]), np.deg2rad(line["dec"]), 1.0, freq[0]])
            x, y = csys.topixel({"numeric": world})["numeric"][:2]
        finally:
            csys.done()
    good = np.abs(data).sum(axis=(1, 2)) > 0
    speed = (freq / line["freq"] - 1.0) * C_KMS
    sigma = line["line_fwhm"] / FWHM_PER_SIGMA
    profile = np.exp(-0.5 * (speed / sigma) ** 2)
    # With its derivative, whose share is the shift.
    basis = np.stack([profile, profile * speed / sigma**2, np.ones(len(freq))], axis=1)[good]
    weights = np.linalg.pinv(basis)
    plane = np.tensordot(weights[0], data[good], 1)
    peak = np.unravel_index(plane.argmax(), plane.shape)
    # CASA's ephemeris is a minute off (TT), 0.2 arcsec at this speed.
    assert np.hypot(peak[1] - x, peak[0] - y) < 1.5
    assert plane.max() == pytest.approx(line["peak"] * sources["pb"][0], rel=0.1)
    shift = float(weights[1] @ data[(good, *peak)] / plane.max())
    # A channel has 22 km/s, and the line an SNR of 50.
    assert abs(shift) < 3.0


def test_errors_name_what_is_wrong(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ParameterError, match="channels"):
        Recipe(channels=4)
    with pytest.raises(ParameterError, match="windows"):
        Recipe(windows=17)
    with pytest.raises(ParameterError, match="mosaics"):
        Recipe(targets=1, mosaics=2)
    with pytest.raises(ParameterError, match="snr"):
        Recipe(snr=0.0)
    with pytest.raises(ParameterError, match="mosaic"):
        Recipe(targets=1, moving=True)
    with pytest.raises(ParameterError, match="4:1"):
        Recipe(missing=((4, 1),))
    with pytest.raises(DataError, match="do not fit"):
        write_archive(tmp_path / "full", replace(SMALL, sources=60))
    with pytest.raises(DataError, match="antennas=60"):
        write_archive(tmp_path / "many", replace(SMALL, antennas=60))
    assert not list(tmp_path.iterdir())
    (tmp_path / "there").mkdir()
    with pytest.raises(ProductError, match="exists"):
        write_archive(tmp_path / "there", Recipe(**ARCHIVE))
    with pytest.raises(SystemExit):
        main(["archive", str(tmp_path / "new"), "--missing", "one"])
    assert "TARGET:WINDOW" in capsys.readouterr().err


def test_windows_do_not_overlap_and_mosaics_are_hexagonal() -> None:
    windows = sorted(science_windows(16, single=True), key=lambda window: window.low)
    assert all(one.high < two.low for one, two in zip(windows[:-1], windows[1:], strict=True))
    assert len({window.name for window in windows}) == 17
    for number in (1, 2, 3, 7, 19):
        offsets = mosaic_offsets(number, 10.0)
        np.testing.assert_allclose(offsets.mean(axis=0), 0.0, atol=1e-9)
        apart = np.hypot(*(offsets[:, None] - offsets[None, :]).T)
        np.testing.assert_allclose((apart + 100.0 * np.eye(number)).min(axis=0), 10.0 if number > 1 else 100.0)
