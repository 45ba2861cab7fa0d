"""Whole cubes of the fast simulator: exact responses, planted sources, noise, truth, files."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("casadata")

from astropy.io import fits
from astropy.table import Table
from astropy.wcs import WCS

from casa_deepfocus.core.geometry import GAUSSIAN_LINE
from casa_deepfocus.core.matching import Sources, channel_ranges, draw_boxes
from casa_deepfocus.errors import ParameterError, ProductError
from sim import __main__ as command
from sim import arrays, presets
from sim.cube import convolved_sources, noise_cube, simulate, simulate_cube
from sim.dataset import generate
from sim.fits import write_cube
from sim.response import ARCSEC, Coverage, Grid, airy, direct_image, matched_filter_snr, response
from sim.sky import Source
from sim.truth import truth_table

COVERAGE = Coverage(duration=1200.0, integration=120.0)
GRID = Grid(npix=96, cell=0.16, nchan=12, freq0=230e9, chan_width=40e6)
BRIGHT = Source(40.3, 55.8, 6.0, 3.5, 40.0, continuum=0.02, alpha=-1.0, line=0.1, chan=5.3, line_fwhm=4.0)
SMALL = Source(70.0, 30.0, 1.0, 0.5, 10.0, line=0.05, chan=8.0, line_fwhm=3.0)


def test_direct_image_is_the_sum_over_visibilities() -> None:
    uvw = COVERAGE.uvw() * (230e9 / arrays.C_MS)
    image = direct_image(uvw[:, 0], uvw[:, 1], 128, 0.16)
    assert image[64, 64] == 1.0
    for y, x in ((64, 70), (10, 100), (0, 0), (127, 3)):
        east, north = -(x - 64) * 0.16 * ARCSEC, (y - 64) * 0.16 * ARCSEC
        expected = np.cos(2 * np.pi * (uvw[:, 0] * east + uvw[:, 1] * north)).mean()
        assert image[y, x] == pytest.approx(expected, abs=1e-6)
    with pytest.raises(ParameterError, match="cell"):
        direct_image(uvw[:, 0], uvw[:, 1], 64, 1.0)


def test_interpolated_psf_is_the_channels_own() -> None:
    uvw = COVERAGE.uvw()
    psf = response(COVERAGE, GRID).channels(response(COVERAGE, GRID).psf)
    assert np.abs(psf[0] - psf[-1]).max() > 1e-3
    for chan in (0, 5, 11):
        scale = GRID.freq()[chan] / arrays.C_MS
        exact = direct_image(uvw[:, 0] * scale, uvw[:, 1] * scale, 192, GRID.cell)
        np.testing.assert_allclose(psf[chan], exact, atol=2e-6)


def test_primary_beam_half_power() -> None:
    radius = np.linspace(0.0, 20.0, 2001) * ARCSEC
    pb = airy(radius, 230e9, 12.0)
    assert pb[0] == pytest.approx(1.0)
    # 1.13 lambda / D, and the value of tclean's own .pb at 13.4 arcsec.
    assert 2 * np.interp(-0.5, -pb, radius) == pytest.approx(1.13 * arrays.C_MS / 230e9 / 12.0, rel=0.03)
    assert pb[1340] == pytest.approx(0.4781, abs=5e-4)


def test_cube_is_psf_times_sky() -> None:
    cube = simulate_cube([BRIGHT, SMALL], COVERAGE, GRID, 0.0, None)
    assert cube.psf.shape == (12, 192, 192)
    y, x = np.indices(cube.shape)
    for chan in (0, 5, 9):
        # Each pixel of the true sky is a point that carries its own copy of the PSF.
        sxx, syy, sxy = BRIGHT.covariance()
        form = (syy * (x - BRIGHT.x) ** 2 + sxx * (y - BRIGHT.y) ** 2 - 2 * sxy * (x - BRIGHT.x) * (y - BRIGHT.y)) / (
            sxx * syy - sxy**2
        )
        plane = np.exp(-0.5 * form) / (2 * np.pi * np.sqrt(sxx * syy - sxy**2)) * BRIGHT.spectrum(GRID.freq())[chan]
        plane *= cube.pb[chan]
        expected = np.zeros(cube.shape)
        for row, column in zip(*np.nonzero(plane > 1e-9 * plane.max()), strict=True):
            window = cube.psf[chan, 96 - row : 192 - row, 96 - column : 192 - column]
            expected += plane[row, column] * window
        alone = simulate_cube([BRIGHT], COVERAGE, GRID, 0.0, None).data[chan]
        np.testing.assert_allclose(alone, expected, atol=2e-6 * expected.max(), rtol=1e-4)
    both = cube.data - simulate_cube([BRIGHT], COVERAGE, GRID, 0.0, None).data
    assert np.unravel_index(np.abs(both[8]).argmax(), cube.shape) == (30, 70)
    assert both[8].max() == pytest.approx(0.05 * cube.pb[8, 30, 70], rel=0.03)


def test_point_in_the_fourier_plane_equals_point_in_the_image() -> None:
    resp = response(COVERAGE, GRID)
    point = replace(SMALL, fwhm_maj=0.0, fwhm_min=0.0)
    image = convolved_sources(resp, [point])[0]
    psf = resp.psf[:, 96 - 30 : 192 - 30, 96 - 70 : 192 - 70]
    np.testing.assert_allclose(image, psf * resp.pb[:, 30, 70][:, None, None], atol=2e-6)


def test_noise() -> None:
    rng = np.random.default_rng(4)
    grid = replace(GRID, nchan=61)
    noise = noise_cube(COVERAGE, grid, rng)
    assert noise.std() == pytest.approx(1.0, abs=0.02)
    flat = noise.reshape(61, -1)
    neighbours = [np.corrcoef(flat[i], flat[i + 1])[0, 1] for i in range(60)]
    assert abs(np.mean(neighbours)) < 0.01
    # The autocorrelation is the PSF.
    psf = response(COVERAGE, GRID).psf[0]
    for dy, dx in ((0, 2), (3, 0), (2, -3), (0, 8)):
        a = noise[:, max(0, dy) :, max(0, dx) : 96 + min(0, dx)]
        b = noise[:, : 96 - dy, max(0, -dx) : 96 - max(0, dx)]
        assert (a * b).mean() == pytest.approx(psf[96 + dy, 96 + dx], abs=0.02)


def test_snr_formula_against_an_empirical_matched_filter() -> None:
    resp = response(COVERAGE, GRID)
    template = convolved_sources(resp, [BRIGHT])[0][0] / resp.pb[0, 56, 40]
    y, x = np.indices((96, 96))
    sxx, syy, sxy = BRIGHT.covariance()
    det = sxx * syy - sxy**2
    form = (syy * (x - BRIGHT.x) ** 2 + sxx * (y - BRIGHT.y) ** 2 - 2 * sxy * (x - BRIGHT.x) * (y - BRIGHT.y)) / det
    shape = np.exp(-0.5 * form) / (2 * np.pi * np.sqrt(det))
    # With noise of the PSF's spectrum the ideal filter of a dirty map is the source's own shape.
    noise = noise_cube(COVERAGE, replace(GRID, nchan=240, chan_width=0.0), np.random.default_rng(6))
    scatter = np.tensordot(noise, shape, axes=2).std()
    per_channel = (template * shape).sum() / scatter
    sigma = 0.01
    spectrum = BRIGHT.line_spectrum(GRID.nchan) * resp.channels(resp.pb[:, 56, 40])
    expected = per_channel * np.sqrt((spectrum**2).sum()) / sigma
    snr_line, snr_continuum = matched_filter_snr(BRIGHT, resp, GRID.freq(), sigma)
    assert snr_line == pytest.approx(expected, rel=0.1)
    ratio = np.sqrt(12) * BRIGHT.continuum / np.sqrt((BRIGHT.line_spectrum(12) ** 2).sum())
    assert snr_continuum == pytest.approx(snr_line * ratio, rel=0.05)


def test_truth_table() -> None:
    cube = simulate_cube([BRIGHT, replace(SMALL, line=0.0, continuum=0.01)], COVERAGE, GRID, 1e-3, None)
    table = truth_table([BRIGHT, replace(SMALL, line=0.0, continuum=0.01)], response(COVERAGE, GRID), cube, 1e-3)
    assert list(table["name"]) == ["S01", "S02"]
    assert table["freq"][0] == pytest.approx(230e9 + 5.3 * 40e6)
    kms = 40e6 / table["freq"][0] * 299792.458
    assert table["line_flux"][0] == pytest.approx(0.1 * 4.0 * GAUSSIAN_LINE * kms)
    assert table["line_fwhm"][0] == pytest.approx(4.0 * kms)
    assert table["fwhm_maj"][0] == pytest.approx(6.0 * 0.16)
    assert table["pb"][0] == pytest.approx(cube.pb[5, 56, 40], abs=0.01)
    x, y = cube.wcs.wcs_world2pix(table["ra"], table["dec"], 0)
    np.testing.assert_allclose(x, table["x"], atol=1e-6)
    np.testing.assert_allclose(y, table["y"], atol=1e-6)
    assert np.isnan(table["chan"][1])
    assert table["line_flux"][1] == 0.0
    assert table["snr"][0] == table["snr_line"][0]
    assert table["snr"][1] == table["snr_continuum"][1] > 0
    drawn = Sources.build(
        x=[40.3], y=[55.8], beam=cube.beam_pixels(), chan=[5.3], line_fwhm=[4.0],
        fwhm_maj=[6.0], fwhm_min=[3.5], pa=[40.0],
    )  # fmt: skip
    assert [table[n][0] for n in ("x0", "y0", "x1", "y1")] == draw_boxes(drawn)[0].tolist()
    assert [table[n][0] for n in ("chan0", "chan1")] == channel_ranges(drawn, 12)[0].tolist() == [1, 9]
    assert (table["chan0"][1], table["chan1"][1]) == (0, 11)
    # The peak is what the beam sees.
    dirty = cube.data[5] - simulate_cube([replace(BRIGHT, line=0.0)], COVERAGE, GRID, 0.0, None).data[5]
    assert np.nanmax(dirty) / table["pb"][0] == pytest.approx(table["peak"][0], rel=0.08)


def test_fields_depend_on_preset_seed_and_index_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    def small(rng: np.random.Generator) -> presets.Field:
        source = replace(BRIGHT, x=float(rng.uniform(20, 70)))
        return presets.Field(COVERAGE, replace(GRID, nchan=4), (source,), 1e-3)

    monkeypatch.setattr(presets, "draw", lambda preset, rng: small(rng))
    first, truth = simulate("small", 1, 7)
    simulate("small", 1, 8)
    again, same = simulate("small", 1, 7)
    np.testing.assert_array_equal(first.data, again.data)
    assert truth["x"][0] == same["x"][0]
    other, moved = simulate("small", 2, 7)
    assert moved["x"][0] != truth["x"][0]
    assert np.abs(other.data - first.data).max() > 1e-3
    empty, none = simulate("small", 1, 7, empty=True)
    assert len(none) == 0
    planted = first.data - empty.data
    assert np.unravel_index(planted[3].argmax(), (96, 96)) == (56, round(truth["x"][0]))


def test_refusals(tmp_path: Path) -> None:
    with pytest.raises(ParameterError, match="outside"):
        simulate_cube([replace(BRIGHT, x=200.0)], COVERAGE, GRID, 0.0, None)
    (tmp_path / "truth.ecsv").touch()
    with pytest.raises(ProductError, match="truth.ecsv"):
        generate("paper", 1, 1, tmp_path)
    assert command.main(["generate", "--preset", "nothing", "--out", str(tmp_path / "new")]) == 1


def test_generated_files(tmp_path: Path) -> None:
    cube = simulate_cube([BRIGHT], COVERAGE, GRID, 1e-3, np.random.default_rng(1))
    write_cube(cube, tmp_path / "field")
    with fits.open(tmp_path / "field" / "dirty.fits") as units:
        np.testing.assert_array_equal(units[0].data, cube.data)
        header, beams = units[0].header, units["BEAMS"].data
    assert header["BUNIT"] == "Jy/beam"
    assert header["SPECSYS"] == "LSRK"
    assert header["CRVAL3"] + 5 * header["CDELT3"] == pytest.approx(cube.freq[5])
    np.testing.assert_allclose(beams["BMAJ"], cube.beams[:, 0], rtol=1e-6)
    psf = fits.getheader(tmp_path / "field" / "psf.fits")
    # The PSF's centre is the phase centre, like the cube's.
    ra, dec = WCS(psf).celestial.wcs_pix2world([[96, 96]], 0)[0]
    assert (ra, dec) == pytest.approx(tuple(cube.wcs.wcs.crval))
    with pytest.raises(ProductError, match="exists"):
        write_cube(cube, tmp_path / "field")


def test_generate_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe = tmp_path / "small.yaml"
    recipe.write_text("base: alma\nimage: {npix: 64, channels: 16}\nobservation: {duration: 10, hour_angle: 0}\n")
    arguments = ["generate", "--preset", str(recipe), "--n", "2", "--seed", "3", "--out", str(tmp_path / "set")]
    assert command.main(arguments) == 0
    assert "2 cubes made" in capsys.readouterr().out
    table = Table.read(tmp_path / "set" / "truth.ecsv")
    assert set(table["field"]) <= {0, 1}
    assert {"snr", "beam_maj", "chan1"} <= set(table.colnames)
    assert (tmp_path / "set" / "00001" / "psf.fits").is_file()
