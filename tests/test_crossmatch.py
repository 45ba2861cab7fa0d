"""One catalogue a target: who is whom, means and errors, power laws, lines once, tables that others read."""

from __future__ import annotations

import re
import time
from pathlib import Path

import numpy as np
import pytest
from astropy import units as u
from astropy.coordinates import SkyCoord
from astropy.io.votable import parse
from astropy.io.votable.ucd import parse_ucd
from astropy.table import Table
from hypothesis import given, settings
from hypothesis import strategies as st
from target_fixtures import cube, row, sized

from casa_deepfocus.core import crossmatch
from casa_deepfocus.core.crossmatch import LINE_COLUMNS, SOURCE_COLUMNS, merge
from casa_deepfocus.core.geometry import covariance_to_shape, shape_to_covariance
from casa_deepfocus.errors import ParameterError


def same(first: Table, second: Table) -> None:
    """Equal, but for when they were made."""
    assert first.colnames == second.colnames and len(first) == len(second)
    for name in first.colnames:
        if first[name].dtype.kind in "fi":
            np.testing.assert_array_equal(first[name], second[name], err_msg=name)
        else:
            assert list(first[name]) == list(second[name]), name
    assert {**first.meta, "created": ""} == {**second.meta, "created": ""}


def field(seed, sources=12, cubes=5, centre=(150.0, -30.0)):
    """Catalogues of sources with continua and lines, each seen in some of the cubes; the number of those seen."""
    rng = np.random.default_rng(seed)
    places = rng.uniform(-30.0, 30.0, (sources, 2))
    # Truth that is told apart: no two closer than 2 beams.
    for _ in range(50):
        apart = np.hypot(*(places[:, None] - places[None]).transpose(2, 0, 1)) + 99.0 * np.eye(sources)
        places[apart.min(axis=1) < 3.0] += rng.uniform(-9.0, 9.0, (int((apart.min(axis=1) < 3.0).sum()), 2))
    seen = rng.random((sources, cubes)) < 0.7
    out = []
    for number in range(cubes):
        rows = []
        for source in np.flatnonzero(seen[:, number]):
            east, north = places[source] + rng.normal(0.0, 0.05, 2)
            line = {"line": (230e9 + 5e9 * number + 1e8, 200.0)} if rng.random() < 0.5 else {}
            flux = 1e-2 * rng.normal(1.0, 0.1)
            rows.append(row(east, north, 0.05, centre, rng.uniform(5, 30), continuum=flux, **line))
        out.append(cube(f"spw{number}", rows, beam=rng.uniform(0.8, 1.5), freq0=230e9 + 5e9 * number))
    return out, int(seen.any(axis=1).sum())


@pytest.mark.parametrize("seed", range(8))
def test_every_source_is_there_once(seed):
    cubes, seen = field(seed)
    assert 8 < seen < sum(len(c.table) for c in cubes) / 2
    merged = merge(cubes)
    assert len(merged.sources) == seen
    assert len(set(merged.sources["id"])) == seen
    assert len(merged.lines) == sum(int(np.isfinite(c.table["chan"]).sum()) for c in cubes)
    rows = [text for cell in merged.sources["rows"] for text in cell.split(",")]
    assert sorted(rows) == sorted(f"{c.label}:{at}" for c in cubes for at in range(len(c.table)))


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 999), st.permutations(range(5)))
def test_the_order_of_the_cubes_changes_nothing(seed, order):
    cubes, _ = field(seed)
    first, second = merge(cubes), merge([cubes[at] for at in order])
    same(first.sources, second.sources)
    same(first.lines, second.lines)


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 999), st.floats(0.0, 359.999), st.sampled_from([0.0, 45.0, -89.0, 89.99, 89.9999, -89.999]))
def test_right_ascension_0_and_the_poles_are_places_like_others(seed, ra, dec):
    plain, there = (merge(field(seed, centre=centre)[0]) for centre in ((150.0, 0.0), (ra, dec)))
    assert len(plain.sources) == len(there.sources)
    assert sorted(plain.sources["rows"]) == sorted(there.sources["rows"])
    at = {text: number for number, text in enumerate(there.sources["rows"])}
    match = [at[text] for text in plain.sources["rows"]]
    # The errors are the same in all directions, so that they do not turn with north.
    for name in ("ra_err", "dec_err", "continuum", "spectral_index"):
        np.testing.assert_allclose(there.sources[name][match], plain.sources[name], rtol=1e-4)
    here, moved = (SkyCoord(m.sources["ra"], m.sources["dec"], unit="deg") for m in (plain, there))
    moved = moved[match]
    np.testing.assert_allclose(
        moved[0].separation(moved).arcsec, here[0].separation(here).arcsec, atol=1e-4
    )  # fmt: skip


def test_ra_0_across():
    merged = merge([cube("a", [row(0.02, centre=(0.0, 10.0))]), cube("b", [row(-0.02, centre=(0.0, 10.0))])])
    assert len(merged.sources) == 1
    assert min(merged.sources["ra"][0], 360.0 - merged.sources["ra"][0]) < 1e-9


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 999), st.integers(0, 5))
def test_an_empty_cube_changes_nothing_but_the_list_of_windows(seed, at):
    cubes, _ = field(seed)
    with_empty = merge([*cubes[:at], cube("empty"), *cubes[at:]])
    without = merge(cubes)
    assert "empty: " in with_empty.sources.meta["windows"]
    for table, other in ((with_empty.sources, without.sources), (with_empty.lines, without.lines)):
        # The reference frequency is the mean of all cubes'.
        for name in set(table.colnames) - {"continuum", "continuum_err", "continuum_freq"}:
            if table[name].dtype.kind == "f":
                np.testing.assert_allclose(table[name], other[name], rtol=1e-9, err_msg=name)
            else:
                assert list(table[name]) == list(other[name]), name


@pytest.mark.parametrize("cubes", [[], [cube("a")], [cube("a"), cube("b"), cube("continuum", made_of=("a", "b"))]])
def test_nothing_gives_empty_tables_of_the_same_columns(cubes, tmp_path):
    merged = merge(cubes)
    assert len(merged.sources) == len(merged.lines) == 0
    crossmatch.write_tables(merged, tmp_path)
    for table, kinds, name in (
        (merged.sources, SOURCE_COLUMNS, "sources"), (merged.lines, LINE_COLUMNS, "lines"),
    ):  # fmt: skip
        assert table.colnames == [kind[0] for kind in kinds]
        assert Table.read(tmp_path / f"{name}.ecsv").colnames == table.colnames
        assert Table.read(tmp_path / f"{name}.vot").colnames == table.colnames


def grid(number):
    """Offsets [arcsec] of sources far apart, in the order of their declinations."""
    return [(10.0 * (at % 5), 10.0 * at) for at in range(number)]


def by_place(merged):
    """The sources in the order of `grid`."""
    return merged.sources[np.argsort(merged.sources["dec"])]


def test_places_are_weighted_means_with_honest_errors():
    rng = np.random.default_rng(5)
    number, errors = 300, rng.uniform(0.01, 0.1, 4)
    cubes = [
        cube(f"spw{n}", [row(*(place + rng.normal(0.0, e, 2)), error=e) for place in grid(number)], beam=1.0 + 0.1 * n)
        for n, e in enumerate(errors)
    ]
    sources = by_place(merge(cubes))
    assert len(sources) == number
    np.testing.assert_allclose(sources["ra_err"], np.sum(errors**-2.0) ** -0.5, rtol=1e-6)
    truth = merge([cube("truth", [row(*place) for place in grid(number)])])
    pulls = (sources["dec"] - by_place(truth)["dec"]) * 3600.0 / sources["dec_err"]
    assert np.std(pulls) == pytest.approx(1.0, abs=0.13) and abs(np.mean(pulls)) < 0.2


def test_the_finer_cube_keeps_two_apart_and_the_coarse_row_is_said_to_hold_both():
    fine = cube("fine", [row(-0.5, continuum=2e-3), row(0.5, continuum=1e-3)], beam=0.4)
    coarse = cube("coarse", [row(-0.17, error=0.05, continuum=3e-3)], beam=2.0, freq0=100e9)
    merged = merge([coarse, fine])
    assert len(merged.sources) == 2
    first, second = merged.sources[np.argsort(-merged.sources["continuum"])]
    assert first["windows"] == "coarse,fine" and second["windows"] == "fine"
    assert "blended" in first["flags"] and "blended" not in second["flags"]
    # The flux of both is not taken for that of one.
    assert first["continuum"] == pytest.approx(2e-3) and np.isnan(first["spectral_index"])


def test_blends_half_a_beam_apart_stay_two_in_all_cubes():
    lines = (230.1e9, 100.0), (230.5e9, 100.0)
    cubes = [
        cube(f"spw{n}", [row(x + shift, error=0.03, continuum=1e-3 * (1 + n), line=line)
                         for x, line in zip((-0.25, 0.25), lines, strict=True)])
        for n, shift in enumerate((-0.05, 0.03, 0.04))
    ]  # fmt: skip
    merged = merge(cubes)
    assert len(merged.sources) == 2
    assert sorted(merged.sources["rows"]) == ["spw0:0,spw1:0,spw2:0", "spw0:1,spw1:1,spw2:1"]


def test_two_lines_of_one_source_in_one_cube_are_one_source():
    two = [row(0.0, continuum=1e-3, line=(230.1e9, 100.0)), row(0.05, line=(230.5e9, 100.0))]
    other = [row(0.02, line=(240.1e9, 100.0))]
    merged = merge([cube("spw0", two), cube("spw1", other, freq0=240e9, beam=1.1)])
    assert len(merged.sources) == 1 and merged.sources["nlines"][0] == 3
    assert merged.sources["rows"][0] == "spw0:0,spw0:1,spw1:0"
    # Also where the cube with one line is the finer one.
    assert len(merge([cube("spw0", two), cube("spw1", other, freq0=240e9, beam=0.9)]).sources) == 1
    # Lines at one frequency are two because the finder took them for two, two continua as well.
    for second in ({"line": (230.1e9, 100.0)}, {"continuum": 1e-3}):
        apart = [two[0], row(0.05, **second)]
        assert len(merge([cube("spw0", apart)]).sources) == 2


def test_a_second_line_goes_to_its_source_and_not_to_a_neighbour():
    """The neighbour is seen in the fine cube alone; one to one, the second line would be given to it."""
    fine = cube("fine", [row(0.0, 0.0, 0.01, continuum=1e-3), row(0.35, 0.0, 0.01, continuum=1e-4)], beam=0.3)
    two = [row(0.0, 0.0, 0.04, line=(100.1e9, 100.0)), row(0.03, 0.0, 0.05, line=(100.5e9, 100.0))]
    merged = merge([fine, cube("coarse", two, beam=1.0, freq0=100e9)])
    assert sorted(merged.sources["rows"]) == ["coarse:0,coarse:1,fine:0", "fine:1"]


@pytest.mark.parametrize("step", [0.3, 0.1])
@pytest.mark.parametrize("error", [0.001, 0.05, 0.2])
def test_chains_do_not_join_what_is_far_apart(error, step):
    """Each cube sees its source a little beside that of the cube before."""
    cubes = [cube(f"spw{n:02d}", [row(step * n, error=error)], beam=1.0) for n in range(12)]
    places = [merge(cubes).sources, merge(cubes[::-1]).sources]
    same(*places)
    for cell in places[0]["rows"]:
        members = [int(re.findall(r"spw(\d+)", text)[0]) for text in cell.split(",")]
        assert step * (max(members) - min(members)) <= 0.5 + 1e-6


def test_a_resolved_source_is_found_by_its_size():
    disc = sized(4.0, 3.0, 30.0)
    near = [cube("a", [row(0.0, error=0.25, **disc)]), cube("b", [row(0.9, error=0.25, **disc)], beam=1.2)]
    assert len(merge(near).sources) == 1
    points = [cube("a", [row(0.0, error=0.25)]), cube("b", [row(0.9, error=0.25)], beam=1.2)]
    assert len(merge(points).sources) == 2


def test_sizes_are_averaged_as_covariances():
    rng = np.random.default_rng(3)
    truth, spread = shape_to_covariance(2.0, 1.0, 40.0), 0.03
    cubes = []
    for number in range(4):
        rows = []
        for place in grid(200):
            # The same in all directions, so that the errors along the axes are independent.
            noise = rng.normal(0.0, spread, 3) * [1.0, 1.0, np.sqrt(0.5)]
            maj, minor, pa = (float(v) for v in covariance_to_shape(truth + noise))
            # An error of the covariance, which is none of the FWHM: the smaller one has the larger.
            errors = {"fwhm_maj_err": 5.545 * spread / (2 * maj), "fwhm_min_err": 5.545 * spread / (2 * minor),
                      "pa_err": np.rad2deg(5.545 * np.sqrt(0.5) * spread / (maj**2 - minor**2))}  # fmt: skip
            rows.append(row(*place, fwhm_maj=maj, fwhm_min=minor, pa=pa, **errors))
        cubes.append(cube(f"spw{number}", rows, beam=1.0 + 0.1 * number))
    sources = merge(cubes).sources
    assert len(sources) == 200
    for name, value, within in (("fwhm_maj", 2.0, 0.01), ("fwhm_min", 1.0, 0.02), ("pa", 40.0, 0.5)):
        pull = (sources[name] - value) / sources[f"{name}_err"]
        assert np.mean(sources[name]) == pytest.approx(value, abs=within), name
        assert np.std(pull) == pytest.approx(1.0, abs=0.15), name
    # A weighted mean of the FWHM themselves is too large.
    minor, error = (np.array([c.table[name] for c in cubes]) for name in ("fwhm_min", "fwhm_min_err"))
    plain = (minor / error**2).sum(axis=0) / (error**-2.0).sum(axis=0)
    assert np.mean(plain) - 1.0 > 2 * abs(np.mean(sources["fwhm_min"]) - 1.0)


def test_of_sizes_that_are_limits_the_one_with_the_smallest_error_counts():
    fine = row(flags="unresolved", **sized(0.1, 0.05, 10.0, error=0.05))
    coarse = row(flags="unresolved", **sized(0.8, 0.4, 70.0, error=0.4))
    source = merge([cube("fine", [fine], beam=0.3), cube("coarse", [coarse], beam=2.0)]).sources[0]
    assert source["fwhm_maj"] == 0.1 and source["flags"] == "unresolved"
    resolved = row(**sized(0.5, 0.4, 20.0, error=0.03))
    source = merge([cube("fine", [resolved], beam=0.3), cube("coarse", [coarse], beam=2.0)]).sources[0]
    assert (source["fwhm_maj"], source["flags"]) == (0.5, "")


def test_disagreement_beyond_errors_is_flagged():
    agree = [cube(f"spw{n}", [row(0.02 * n, continuum=1e-3, **sized(1.0, 0.8, 30.0))]) for n in range(3)]
    assert merge(agree).sources["flags"][0] == ""
    moved = [*agree[:2], cube("spw2", [row(0.45, error=0.03, continuum=1e-3, **sized(1.0, 0.8, 30.0))])]
    assert merge(moved).sources["flags"][0] == "position_differs"
    larger = [*agree[:2], cube("spw2", [row(continuum=1e-3, **sized(3.0, 2.0, 30.0))])]
    assert merge(larger).sources["flags"][0] == "size_differs"
    brighter = [*agree[:2], cube("spw2", [row(continuum=3e-3, snr=60.0, **sized(1.0, 0.8, 30.0))])]
    assert merge(brighter).sources["flags"][0] == "no_power_law"


def test_an_upper_limit_is_no_measurement():
    """A source below the limit of two of three windows has the flux of the third."""
    cubes = [cube("spw0", [row(continuum=1e-3)]), cube("spw1", freq0=240e9), cube("spw2", freq0=250e9)]
    source = merge(cubes).sources[0]
    assert source["continuum"] == pytest.approx(1e-3) and source["continuum_err"] == pytest.approx(1e-4)
    assert source["ncontinuum"] == 1 and np.isnan(source["spectral_index"]) and source["flags"] == ""


def test_the_image_of_all_windows_is_not_counted_twice():
    rng = np.random.default_rng(11)
    freq, number = np.array([90e9, 100e9, 110e9, 150e9]), 200
    true = 2e-3 * (freq / 112.5e9) ** 1.5
    seen = true + rng.normal(0.0, 1e-4, (number, 4))
    parts = [
        cube(f"spw{n}", [row(*place, continuum=flux, continuum_err=1e-4)
                         for place, flux in zip(grid(number), seen[:, n], strict=True)],
             freq0=f, nchan=1, width=0.0)
        for n, f in enumerate(freq)
    ]  # fmt: skip
    rows = [row(*place, continuum=flux, continuum_err=5e-5)
            for place, flux in zip(grid(number), seen.mean(axis=1), strict=True)]  # fmt: skip
    image = cube("continuum", rows, 0.9, 112.5e9, 0.0, 1, tuple(c.label for c in parts))
    both, alone = by_place(merge([*parts, image])), by_place(merge(parts))
    # The image's place and those of its windows are one measurement, too.
    for name in ("spectral_index", "spectral_index_err", "ra_err", "fwhm_maj"):
        np.testing.assert_allclose(both[name], alone[name], rtol=1e-12, err_msg=name)
    np.testing.assert_allclose(both["continuum_freq"], 112.5e9)
    for pull in (
        (both["spectral_index"] - 1.5) / both["spectral_index_err"],
        (both["continuum"] - 2e-3) / both["continuum_err"],
    ):
        assert abs(np.mean(pull)) < 0.25 and np.std(pull) == pytest.approx(1.0, abs=0.15)


def test_what_an_image_tells_of_windows_without_a_measurement_counts():
    """A faint source is found in one window by its noise; the image knows the other one, too, and takes that back."""
    image = [row(continuum=1.0e-3, continuum_err=1e-4 / np.sqrt(2))]
    cubes = [cube("spw0", [row(continuum=1.3e-3, continuum_err=1e-4)], freq0=90e9, nchan=1, width=0.0),
             cube("spw1", freq0=110e9, nchan=1, width=0.0),
             cube("continuum", image, freq0=100e9, nchan=1, width=0.0, made_of=("spw0", "spw1"))]  # fmt: skip
    source = merge(cubes).sources[0]
    assert source["ncontinuum"] == 2
    at_110 = source["continuum"] * (110 / 100) ** source["spectral_index"]
    assert at_110 == pytest.approx(0.7e-3, rel=0.01)


def test_a_line_in_two_overlapping_windows_is_one_line():
    better = row(line=(231.0e9, 100.0), snr=20.0)
    worse = row(0.02, line=(231.005e9, 90.0), snr=10.0, flags="edge")
    cubes = [cube("spw0", [better]), cube("spw1", [worse], freq0=230.9e9)]
    lines = merge(cubes).lines
    assert len(lines) == 1 and (lines["window"][0], lines["also_in"][0]) == ("spw0", "spw1:0")
    cut = cube("spw0", [better | {"flags": "band_edge"}])
    lines = merge([cut, cubes[1]]).lines
    assert (len(lines), lines["window"][0], lines["also_in"][0]) == (1, "spw1", "spw0:0"), "whole beats bright"
    other = cube("spw1", [row(0.02, line=(231.2e9, 90.0), snr=10.0)], freq0=230.9e9)
    assert len(merge([cubes[0], other]).lines) == 2
    absorption = cube("spw1", [worse | {"line_flux": -1.0}], freq0=230.9e9)
    assert len(merge([cubes[0], absorption]).lines) == 2
    two = cube("spw0", [better, row(line=(231.08e9, 100.0))])
    lines = merge([two, cubes[1]]).lines
    assert list(lines["also_in"]) == ["spw1:0", ""]
    assert merge([two, cubes[1]]).sources["nlines"][0] == 2
    # Two lines of one window are never one line of another.
    narrow = [row(line=(231.0e9 + side * 2e7, 20.0), snr=9.0) for side in (-1.0, 1.0)]
    lines = merge([cubes[0], cube("spw1", narrow, freq0=230.9e9)]).lines
    assert len(lines) == 2 and sorted(map(bool, lines["also_in"])) == [False, True]


def test_lines_lead_back_to_their_cubes():
    plain = cube("spw0", [row(line=(230.1e9, 100.0), name="J1"), row(9.0, continuum=1e-3, name="J2")])
    rest = cube("spw1", [row(line=(239.0e9, 100.0), name="J3")], freq0=238e9, restfreq=240e9)
    lines = merge([plain, rest]).lines
    assert [(r["window"], r["row"], r["name"]) for r in lines] == [("spw0", 0, "J1"), ("spw1", 0, "J3")]
    assert np.isnan(lines["velocity"][0]) and np.isnan(lines["restfreq"][0])
    assert lines["velocity"][1] == pytest.approx(299792.458 / 240) and lines["velocity_err"][1] > 0
    assert set(lines["source"]) <= set(merge([plain, rest]).sources["id"])


def test_windows_are_listed_as_people_count():
    merged = merge([cube(label, [row()]) for label in ("spw25", "spw3", "continuum")])
    assert merged.sources["windows"][0] == "continuum,spw3,spw25"


def test_cubes_of_several_frames_meet_in_icrs():
    here = SkyCoord(150.0, -30.0, unit="deg")
    there = here.transform_to("fk4")
    old = row(**sized(2.0, 1.0, 0.0)) | {"ra": there.ra.deg, "dec": there.dec.deg}
    assert here.separation(SkyCoord(there.ra.deg, there.dec.deg, unit="deg")).deg > 0.1
    merged = merge([cube("new", [row(**sized(2.0, 1.0, 0.0))]), cube("old", [old], radesys="FK4", beam=1.1)])
    assert len(merged.sources) == 1 and merged.sources.meta["radesys"] == "ICRS"
    assert merged.sources["dec"][0] == pytest.approx(-30.0, abs=1e-8)
    # North is not where it was: the angle of the same direction on the sky.
    turned = merge([cube("new"), cube("old", [old], radesys="FK4")]).sources["pa"][0]
    north = there.directional_offset_by(0 * u.deg, 1 * u.arcsec).icrs
    assert turned == pytest.approx(here.position_angle(north).deg % 180.0, abs=1e-3) and 0.1 < turned < 179.9
    alone = merge([cube("old", [old], radesys="FK4")]).sources
    assert alone["ra"][0] == there.ra.deg and alone.meta["radesys"] == "FK4"


def test_rows_without_errors_or_place_are_taken_as_they_are():
    for bare in ({"ra_err": np.nan, "dec_err": np.nan}, {"ra_err": 0.0, "dec_err": 0.0}):
        merged = merge([cube("a", [row(**bare)]), cube("b", [row(0.05, **bare)])])
        assert len(merged.sources) == 1 and np.isnan(merged.sources["ra_err"][0])
    nowhere = {"ra": np.nan, "dec": np.nan}
    merged = merge([cube("a", [row(line=(230.1e9, 99.0)) | nowhere]), cube("b", [row(continuum=1e-3) | nowhere])])
    assert len(merged.sources) == 2 and all(str(name).startswith("source") for name in merged.sources["id"])


@pytest.mark.parametrize("form", ["ascii.ecsv", "votable"])
def test_catalogues_read_from_files_are_those_that_were_written(form, tmp_path):
    cubes, _ = field(2)
    again = []
    for one in cubes:
        one.table.write(tmp_path / one.label, format=form)
        table = Table.read(tmp_path / one.label, format=form)
        table.meta = one.table.meta
        again.append(crossmatch.CubeCatalogue(one.label, table))
    same(merge(again).sources, merge(cubes).sources)
    same(merge(again).lines, merge(cubes).lines)


def test_an_image_without_a_frequency_keeps_its_flux():
    source = merge([cube("image", [row(continuum=1e-3)], freq0=np.nan, nchan=1, width=0.0)]).sources[0]
    assert source["continuum"] == pytest.approx(1e-3) and np.isnan(source["continuum_freq"])


@pytest.mark.parametrize("labels", [("a", "a"), ("a,b", "c"), ("a:b", "c"), ("", "a")])
def test_labels_that_cannot_be_told_apart_are_refused(labels):
    with pytest.raises(ParameterError, match="label"):
        merge([cube(label) for label in labels])


def test_the_tables_are_read_by_others_with_units_ucds_and_the_frame(tmp_path):
    merged = merge([*field(3)[0], cube("rest", [row(line=(239.0e9, 100.0))], freq0=238e9, restfreq=240e9)])
    written = crossmatch.write_tables(merged, tmp_path)
    assert sorted(written) == ["lines.ecsv", "lines.vot", "sources.ecsv", "sources.vot"]
    for name, table, kinds in (
        ("sources", merged.sources, SOURCE_COLUMNS), ("lines", merged.lines, LINE_COLUMNS),
    ):  # fmt: skip
        ecsv, vot = Table.read(written[f"{name}.ecsv"]), Table.read(written[f"{name}.vot"])
        fields = {f.name: f for f in parse(written[f"{name}.vot"]).get_first_table().fields}
        for column, kind, unit, ucd, text in kinds:
            assert text, f"{column} has a description"
            assert ecsv[column].description == " ".join(vot[column].description.split()) == text
            assert (str(vot[column].unit or "") == "") == (unit == "") and ecsv[column].unit == table[column].unit
            assert (fields[column].ucd or "") == ucd and ecsv[column].meta.get("ucd", "") == ucd
            if ucd:
                parse_ucd(ucd, check_controlled_vocabulary=True, has_colon=False)
            if kind == "float":
                values = np.ma.filled(np.ma.asarray(vot[column]), np.nan)
                np.testing.assert_allclose(values, table[column], rtol=1e-12)
            else:
                values = np.ma.filled(np.ma.asarray(vot[column]), "" if kind == "str" else -1)
                assert list(map(str, values)) == list(map(str, table[column]))
        votable = parse(written[f"{name}.vot"])
        assert votable.resources[0].coordinate_systems[0].system == "ICRS" and fields["ra"].ref == "sky"
        assert ecsv.meta["software"].startswith("casa_deepfocus") and "radesys = ICRS" in str(vot.meta)


def test_500_sources_in_20_cubes_take_no_longer_than_a_second():
    rng = np.random.default_rng(1)
    places = rng.uniform(-100.0, 100.0, (500, 2))
    cubes = []
    for number in range(20):
        base = cube(f"spw{number}", [row(continuum=1e-3, line=(90.1e9 + 3e9 * number, 50.0))] * 500,
                    beam=rng.uniform(0.5, 1.0), freq0=90e9 + 3e9 * number)  # fmt: skip
        east, north = (places + rng.normal(0.0, 0.04, places.shape)).T
        base.table["ra"], base.table["dec"] = 150.0 + east / 3600.0 / np.cos(np.pi / 6), -30.0 + north / 3600.0
        cubes.append(base)
    started = time.process_time()
    merged = merge(cubes)
    assert time.process_time() - started < 2.0, "0.5 s on the machine this was written on"
    assert len(merged.sources) == pytest.approx(500, abs=5) and len(merged.lines) == 10000


@pytest.mark.parametrize(("kinds", "heading"), [(SOURCE_COLUMNS, "sources"), (LINE_COLUMNS, "lines")])
def test_the_document_has_the_columns(kinds, heading, repository: Path):
    page = (repository / "docs" / "products.md").read_text()
    part = re.split(r"\n#+ ", page[page.index(f"### Columns of `{heading}") :])[0]
    for name, _, unit, _, _ in kinds:
        assert re.search(rf"`{name}`", part), name
        assert not unit or f"[{unit}]" in part
