"""The truth table: columns and units, bounds, discs, further lines, absorption, empty fields, and its readers."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from astropy import units as u
from astropy.table import Table, vstack

pytest.importorskip("casadata")

from casa_deepfocus.core.cube import Cube
from casa_deepfocus.core.geometry import GAUSSIAN_LINE
from casa_deepfocus.errors import ParameterError, ProductError
from sim.bounds import cramer_rao
from sim.coverage import Coverage, Grid
from sim.cube import simulate_cube
from sim.discs import Rotation
from sim.response import Response, response
from sim.sky import Line, Source, disc
from sim.truth import BOUNDED, COLUMNS, sources_of, truth_table, write_truth
from training.score import score_tables
from training.tables import to_sources

COVERAGE = Coverage(duration=1200.0, integration=120.0)
GRID = Grid(npix=96, cell=0.16, nchan=24, freq0=230e9, chan_width=40e6)
NOISE = 1e-3
KMS = 40e6 / (230e9 + 5.3 * 40e6) * 299792.458
LINE = Source(40.3, 55.8, 6.0, 3.5, 40.0, continuum=0.02, alpha=-1.0, line=0.1, chan=5.3, line_fwhm=4.0)
CONTINUUM = Source(70.0, 30.0, 0.0, 0.0, 0.0, continuum=0.03)
DISC = disc(60.0, 62.0, 12.0, 30.0, Rotation(5.0, 2.0, 2.5, 60.0), line=0.1, chan=12.0)


@pytest.fixture(scope="module")
def resp() -> Response:
    return response(COVERAGE, GRID)


@pytest.fixture(scope="module")
def cube() -> Cube:
    return simulate_cube([LINE, CONTINUUM, DISC], COVERAGE, GRID, NOISE, np.random.default_rng(7))


@pytest.fixture(scope="module")
def table(resp: Response, cube: Cube) -> Table:
    return truth_table([LINE, CONTINUUM, DISC], resp, cube, NOISE)


def test_every_column_has_its_unit_and_is_documented(table: Table) -> None:
    assert [name for name, _, _ in COLUMNS if name not in table.colnames] == []
    for name, unit, text in COLUMNS:
        assert (table[name].unit or u.dimensionless_unscaled) == u.Unit(unit), name
        assert table[name].description == text
    for name in BOUNDED:
        assert table[f"crlb_{name}"].unit == table[name].unit
    assert list(table["kind"]) == ["gaussian", "point", "disc"]


def test_bounds_are_in_the_units_of_the_catalogue(table: Table, resp: Response, cube: Cube) -> None:
    errors = cramer_rao([LINE, CONTINUUM, DISC], resp, cube.freq, NOISE)[0].errors
    assert table["snr_line"][0] > 30
    scale = {"fwhm_maj": 0.16, "fwhm_min": 0.16, "line_fwhm": KMS, "line_flux": KMS}
    for name in ("x", "y", "fwhm_maj", "fwhm_min", "pa", "line_fwhm", "line_flux", "continuum"):
        assert table[f"crlb_{name}"][0] == pytest.approx(errors[name] * scale.get(name, 1.0)), name
    assert table["crlb_chan"][0] == pytest.approx(errors["line_chan"])
    # A flux's relative bound is not better than the matched filter's, which knows all else.
    assert table["crlb_line_flux"][0] / table["line_flux"][0] >= 1.0 / table["snr_line"][0]
    assert table["crlb_continuum"][1] / table["continuum"][1] >= 1.0 / table["snr_continuum"][1]


def test_what_does_not_apply_is_nan(table: Table) -> None:
    for name in ("chan", "line_fwhm", "crlb_chan", "crlb_line_flux", "rotation_velocity", "line2_flux"):
        assert np.isnan(table[name][1]), name
    assert table["line_flux"][1] == 0.0
    assert np.isinf(table["crlb_pa"][1])
    assert np.isnan(table["alpha"][2]) and table["alpha"][0] == -1.0
    assert np.isnan(table["crlb_continuum"][2])
    assert np.isnan(table["rotation_velocity"][0])


def test_a_disc(table: Table, cube: Cube, resp: Response) -> None:
    row = table[2]
    kms = cube.chan_width_kms(cube.chan_to_freq(12.0))
    assert row["line_fwhm"] == pytest.approx(DISC.line_fwhm * kms)
    assert row["line_flux"] == pytest.approx(0.1 * DISC.line_fwhm * GAUSSIAN_LINE * kms)
    # The frequency rises with the channel, so what moves to higher channels approaches.
    assert row["rotation_velocity"] == pytest.approx(-5.0 * kms)
    assert row["rotation_turnover"] == pytest.approx(2.0 * 0.16)
    assert (row["rotation_dispersion"], row["rotation_inclination"]) == pytest.approx((2.5 * kms, 60.0))
    for name in ("velocity", "turnover", "dispersion", "inclination"):
        assert 0 < row[f"crlb_rotation_{name}"] < 2.0 * abs(row[f"rotation_{name}"])
    # Its line's flux is what the cube holds, and the peak what the beam sees.
    clean = simulate_cube([DISC], COVERAGE, GRID, 0.0, None)
    assert np.nanmax(clean.data) / row["pb"] == pytest.approx(row["peak"], rel=0.08)
    spectrum = DISC.line_spectrum(GRID.nchan)
    assert spectrum.sum() * kms == pytest.approx(row["line_flux"], rel=2e-3)
    # Double-horned: the profile is wider than a Gaussian of its peak and flux.
    above = np.flatnonzero(spectrum > 0.5 * spectrum.max())
    assert abs(above[-1] - above[0] + 1 - DISC.line_fwhm) < 1.5
    assert row["snr_line"] == pytest.approx(cramer_rao([DISC], resp, cube.freq, NOISE)[0].snr_line, rel=1e-6)


def test_further_lines_and_absorption(resp: Response, cube: Cube) -> None:
    source = replace(LINE, line=-0.015, extra_lines=(Line(15.0, 3.0, 0.05), Line(20.0, 2.0, 0.03)))
    (row,) = truth_table([source], resp, cube, NOISE)
    assert row["peak"] < 0 and row["line_flux"] < 0 and row["snr_line"] > 0
    assert row["chan"] == 5.3
    assert (row["line2_chan"], row["line3_chan"]) == (15.0, 20.0)
    kms = cube.chan_width_kms(cube.chan_to_freq(15.0))
    assert row["line2_fwhm"] == pytest.approx(3.0 * kms)
    assert row["line2_flux"] == pytest.approx(0.05 * 3.0 * GAUSSIAN_LINE * kms)
    assert 0 < row["crlb_line2_flux"] < 0.2 * row["line2_flux"]
    many = replace(source, extra_lines=(Line(15.0, 3.0, 0.05),) * 3)
    with pytest.raises(ParameterError, match="extra_lines.*3 lines"):
        truth_table([many], resp, cube, NOISE)


def test_blank_channels_and_white_noise(resp: Response, cube: Cube) -> None:
    (whole,) = truth_table([LINE], resp, cube, NOISE)
    data = cube.data.copy()
    data[4:7] = np.nan
    (flagged,) = truth_table([LINE], resp, cube.with_data(data), NOISE)
    assert flagged["snr_line"] < 0.7 * whole["snr_line"]
    (white,) = truth_table([LINE], resp, cube, NOISE, white=NOISE)
    assert 0.5 * whole["snr_line"] < white["snr_line"] < 0.99 * whole["snr_line"]


def test_an_empty_field_has_all_columns(resp: Response, cube: Cube, table: Table, tmp_path: Path) -> None:
    empty = truth_table([], resp, cube, NOISE)
    assert len(empty) == 0
    assert empty.colnames == table.colnames
    assert [empty[name].dtype for name in empty.colnames] == [table[name].dtype for name in table.colnames]
    assert len(vstack([empty, table])) == 3
    write_truth(empty, tmp_path / "truth.ecsv")
    again = Table.read(tmp_path / "truth.ecsv")
    assert again.colnames == table.colnames and again.meta["beam_maj"] == table.meta["beam_maj"]
    with pytest.raises(ProductError, match="exists"):
        write_truth(empty, tmp_path / "truth.ecsv")


def test_written_and_scored(table: Table, tmp_path: Path) -> None:
    write_truth(table, tmp_path / "truth.ecsv")
    again = Table.read(tmp_path / "truth.ecsv")
    np.testing.assert_array_equal(again["crlb_x"], table["crlb_x"])
    assert np.isinf(again["crlb_pa"][1]) and again["crlb_fwhm_maj"].unit == "arcsec"
    true, found = to_sources(again, again)
    np.testing.assert_allclose(true.line_fwhm[[0, 2]], [4.0, DISC.line_fwhm])
    score = score_tables(again, again)
    assert score.physical["true_positives"] == 3
    assert score.physical["false_positives"] == 0


def test_sources_back_from_the_table(table: Table, cube: Cube, resp: Response, tmp_path: Path) -> None:
    write_truth(table, tmp_path / "truth.ecsv")
    back = sources_of(Table.read(tmp_path / "truth.ecsv"), cube)
    for source, again in zip([LINE, CONTINUUM, DISC], back, strict=True):
        assert again.kind == source.kind
        np.testing.assert_allclose(again.spectrum(cube.freq), source.spectrum(cube.freq), rtol=1e-6, atol=1e-9)
        np.testing.assert_allclose(again.covariance(), source.covariance(), rtol=1e-9)
    still = replace(DISC, line=0.0, continuum=0.02)
    row = truth_table([still], resp, cube, NOISE)[0]
    assert np.isnan(row["crlb_rotation_velocity"]) and 0 < row["crlb_rotation_inclination"] < 30
    (again,) = sources_of(truth_table([still], resp, cube, NOISE), cube)
    assert again.kind == "disc" and again.rotation.velocity == pytest.approx(DISC.rotation.velocity)
    two = replace(DISC, extra_lines=(Line(18.0, DISC.line_fwhm, 0.02),))
    (again,) = sources_of(truth_table([two], resp, cube, NOISE), cube)
    np.testing.assert_allclose(again.spectrum(cube.freq), two.spectrum(cube.freq), rtol=1e-6, atol=1e-9)


def test_one_channel(resp: Response) -> None:
    grid = replace(GRID, nchan=1)
    sources = [
        replace(LINE, line=0.0),
        replace(DISC, line=0.0, continuum=0.02),
        replace(LINE, x=75.0, y=25.0, chan=0.0),
    ]
    image = simulate_cube(sources, COVERAGE, grid, NOISE, np.random.default_rng(7))
    table = truth_table(sources, response(COVERAGE, grid), image, NOISE)
    assert (table["snr"] > 8).all()
    assert np.isfinite(table["crlb_continuum"][:2]).all()
    # One channel does not tell a line from the continuum.
    assert np.isinf(table["crlb_chan"][2])
    back = sources_of(table, image)
    assert [source.kind for source in back] == ["gaussian", "disc", "gaussian"]
    assert not any(source.lines for source in back)
