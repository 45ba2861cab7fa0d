"""Injection into cubes: exact against the simulator, blanks, small PSFs, the truth, files, and real ALMA data."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from astropy.table import Table

pytest.importorskip("casadata")

from casa_deepfocus.core.cube import Cube
from casa_deepfocus.errors import DataError, ParameterError, ProductError
from sim.bounds import cramer_rao
from sim.coverage import Coverage, Grid
from sim.cube import simulate_cube
from sim.discs import Rotation
from sim.fits import read_cube, write_cube
from sim.inject import cube_response, inject_cube, inject_files, injected_truth, injection_error, on_cube
from sim.response import response
from sim.sky import Source, disc
from sim.skyfile import SkyLine, SkySource

COVERAGE = Coverage(duration=1200.0, integration=120.0)
GRID = Grid(npix=96, cell=0.16, nchan=18, freq0=230e9, chan_width=40e6)
NOISE = 1e-3
GAUSSIAN = Source(20.3, 75.8, 6.0, 3.5, 40.0, continuum=0.02, alpha=-1.0, line=0.1, chan=5.3, line_fwhm=4.0)
POINT = Source(70.6, 30.2, 0.0, 0.0, 0.0, line=-0.03, chan=9.0, line_fwhm=3.0)
DISC = disc(40.0, 42.0, 9.0, 30.0, Rotation(4.0, 2.0, 2.5, 60.0), line=0.1, chan=8.0)
ALL = [GAUSSIAN, POINT, DISC]


@pytest.fixture(scope="module")
def background() -> Cube:
    """Noise and one source, with a NaN edge and a blank channel."""
    known = replace(GAUSSIAN, x=50.0).scaled(0.1)
    cube = simulate_cube([known], COVERAGE, GRID, NOISE, np.random.default_rng(8))
    cube.data[11] = np.nan
    cube.data[:, :3] = np.nan
    return cube


def test_injected_is_simulated(background: Cube) -> None:
    expected = simulate_cube(ALL, COVERAGE, GRID, 0.0, None).data
    blank = np.isnan(background.data)
    assert blank[11].all() and blank[:, :3].all() and not blank.all()
    new = inject_cube(background, ALL)
    np.testing.assert_array_equal(np.isnan(new.data), blank)
    peak = np.nanmax(np.abs(expected))
    assert peak > 50 * NOISE
    difference = new.data - background.data - expected
    assert np.nanmax(np.abs(difference)) < 2e-4 * peak
    # The cube that was given has not changed.
    assert np.nanmax(np.abs(background.data)) < np.nanmax(np.abs(new.data))


def test_one_psf_for_all_channels_and_images_that_are_not_square(background: Cube) -> None:
    size = 96
    part = Cube(
        data=background.data[:, :, 10:81], psf=background.psf[9:10], pb=background.pb[9:10, :, 10:81],
        freq=background.freq, beams=background.beams, cell=background.cell,
    )  # fmt: skip
    there = replace(POINT, x=60.0, y=30.0)
    moved = inject_cube(part, [there]).data - part.data
    psf = part.psf[0, size - 30 : 2 * size - 30, size - 70 : 2 * size - 70][:, 10:81]
    flux = POINT.line * part.pb[0, 30, 60]
    np.testing.assert_allclose(moved[9, 3:], flux * psf[3:], atol=2e-4 * abs(flux))
    assert injected_truth(part, [there])["pb"][0] == pytest.approx(part.pb[0, 30, 60])


def test_truth_of_the_injected(background: Cube) -> None:
    table = injected_truth(background, ALL)
    assert len(table) == 3 and table.meta["injection_error"] == 0.0
    resp = response(COVERAGE, GRID)
    sigma = np.full(GRID.nchan, NOISE)
    sigma[11] = np.nan
    exact = cramer_rao(ALL, resp, GRID.freq(), sigma)
    for row, bounds in zip(table, exact, strict=True):
        # The noise is measured in a small image.
        assert row["snr_line"] == pytest.approx(bounds.snr_line, rel=0.1)
        assert row["crlb_x"] == pytest.approx(bounds.errors["x"], rel=0.1)
    assert table["pb"][0] == pytest.approx(background.pb[5, 76, 20], rel=0.01)
    response_of_cube = cube_response(background)
    np.testing.assert_allclose(response_of_cube.interpolation.sum(axis=1), 1.0)


def test_a_small_psf_is_refused_where_it_would_be_seen(background: Cube) -> None:
    small = replace(background, psf=np.ascontiguousarray(background.psf[:, 48:144, 48:144]))
    faint = GAUSSIAN.scaled(0.02)
    middle = replace(GAUSSIAN, x=47.5, y=47.5)
    assert injection_error(background, ALL) == 0.0
    assert injection_error(small, [middle]) == 0.0
    missing = injection_error(small, [faint])
    assert 0.0 < missing < NOISE
    whole, cut = (inject_cube(cube, [faint]).data for cube in (background, small))
    # What is missing is what was said, to a factor of a few, and lies far from the source.
    difference = np.abs(whole - cut)
    assert 0.1 * missing < np.nanmax(difference) < 3.0 * missing
    assert np.nanmax(difference[:, 60:90, :50]) < 1e-3 * np.nanmax(np.abs(whole - background.data))
    with pytest.raises(DataError, match="192 x 192"):
        inject_cube(small, [GAUSSIAN])


def test_refusals(background: Cube, tmp_path: Path) -> None:
    with pytest.raises(ParameterError, match="outside"):
        inject_cube(background, [replace(POINT, x=200.0)])
    with pytest.raises(DataError, match="Gaussian"):
        inject_cube(replace(background, psf_is_measured=False), [POINT])
    with pytest.raises(DataError, match="sky coordinates"):
        on_cube(replace(background, wcs=None), [SkySource(60.0, -35.0)])
    with pytest.raises(ProductError, match="exists"):
        inject_files(tmp_path / "nothing.fits", [SkySource(60.0, -35.0)], tmp_path)


def test_files(background: Cube, tmp_path: Path) -> None:
    write_cube(background, tmp_path / "old")
    ra, dec = background.wcs.wcs_pix2world([[60.0, 40.0]], 0)[0]
    line = SkyLine(float(GRID.freq()[7]), 150.0, 0.05)
    sky = SkySource(float(ra), float(dec), 0.8, 0.5, 30.0, continuum=0.01, lines=(line,))
    truth = inject_files(tmp_path / "old", [sky], tmp_path / "new")
    assert (truth["x"][0], truth["y"][0], truth["chan"][0]) == pytest.approx((60.0, 40.0, 7.0))
    assert truth["line_fwhm"][0] == pytest.approx(150.0)
    again = Table.read(tmp_path / "new" / "truth.ecsv")
    assert again["crlb_line_flux"].unit == "Jy km/s"
    new = read_cube(tmp_path / "new")
    added = new.data - background.data
    y, x = np.unravel_index(np.nanargmax(added[7]), new.shape)
    assert (y, x) == (40, 60)
    assert np.nanmax(added[7]) == pytest.approx((truth["peak"][0] + 0.01 * 0.8) * truth["pb"][0], rel=0.1)
    np.testing.assert_array_equal(np.isnan(new.data), np.isnan(background.data))


def test_real_alma_data(repository: Path, tmp_path: Path) -> None:
    default = repository.parent / "shared" / "realdata"
    folder = Path(os.environ.get("CASA_DEEPFOCUS_REALDATA", default)) / "pisco_alma"
    if not folder.is_dir():
        pytest.skip(f"{folder} is missing: set CASA_DEEPFOCUS_REALDATA to the folder that holds pisco_alma")
    cube = read_cube(folder / "Pisco.cii.455kms.dirty.fits")
    assert cube.psf_is_measured and cube.psf.shape[1:] == cube.shape
    source = Source(90.4, 160.7, 8.0, 5.0, 30.0, continuum=5e-4)
    new = inject_cube(cube, [source])
    truth = injected_truth(cube, [source])
    assert 3.0 < truth["snr"][0] < 30.0
    assert 0.0 < truth.meta["injection_error"] < 4e-5
    # The new image can be written and read again.
    write_cube(new, tmp_path / "new")
    np.testing.assert_array_equal(read_cube(tmp_path / "new").data, new.data)
    added = new.data[0] - cube.data[0]
    y, x = np.unravel_index(np.nanargmax(added), added.shape)
    assert np.hypot(x - 90.4, y - 160.7) < 1.0
    assert np.nanmax(added) == pytest.approx(truth["peak"][0] * truth["pb"][0], rel=0.15)
