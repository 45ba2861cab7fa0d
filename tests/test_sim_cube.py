"""Whole cubes of the fast simulator: planted sources, fields, truth."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

pytest.importorskip("casadata")


from casa_deepfocus.core.geometry import GAUSSIAN_LINE
from casa_deepfocus.core.matching import Sources, channel_ranges, draw_boxes
from casa_deepfocus.errors import ParameterError
from sim import presets
from sim.cube import field_of, simulate, simulate_cube
from sim.response import Coverage, Grid, response
from sim.sky import Source
from sim.truth import truth_table

COVERAGE = Coverage(duration=1200.0, integration=120.0)
GRID = Grid(npix=96, cell=0.16, nchan=12, freq0=230e9, chan_width=40e6)
BRIGHT = Source(40.3, 55.8, 6.0, 3.5, 40.0, continuum=0.02, alpha=-1.0, line=0.1, chan=5.3, line_fwhm=4.0)
SMALL = Source(70.0, 30.0, 1.0, 0.5, 10.0, line=0.05, chan=8.0, line_fwhm=3.0)


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


def small_field(preset: str, rng: np.random.Generator) -> presets.Field:
    """A field of one bright source at a random place."""
    source = replace(BRIGHT, x=float(rng.uniform(20, 70)))
    return presets.Field(COVERAGE, replace(GRID, nchan=4), (source,), 1e-3, white=2e-3, ra=120.0)


def test_fields_depend_on_preset_seed_and_index_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(presets, "draw", small_field)
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
    # Thermal and white noise together, and the phase centre of the field.
    assert empty.data.std() == pytest.approx(np.hypot(1e-3, 2e-3), rel=0.03)
    assert first.wcs.wcs.crval[0] == 120.0
    field, seeds = field_of("small", 1, 7)
    assert field.sources[0].x == truth["x"][0]
    # A preset's file is known by its name, wherever it lies.
    assert field_of("/somewhere/small.yaml", 1, 7)[0] == field
    assert seeds.generate_state(2).tolist() == field_of("small", 1, 7)[1].generate_state(2).tolist()


def test_the_first_four_channels_do_not_depend_on_how_many_follow() -> None:
    noise = [
        simulate_cube([], COVERAGE, replace(GRID, nchan=nchan), 1e-3, np.random.default_rng(5), white=1e-3).data
        for nchan in (4, 11)
    ]
    np.testing.assert_allclose(noise[0], noise[1][:4], atol=1e-8)


def test_sources_at_the_edge_of_field_and_beam() -> None:
    # The primary beam is below 0.2 in the corners of this field; what stands there sends its sidelobes in.
    grid = replace(GRID, npix=192, nchan=2)
    corner = Source(4.0, 187.0, 0.0, 0.0, 0.0, continuum=10.0)
    cube = simulate_cube([corner], COVERAGE, grid, 0.0, None)
    pb = cube.pb[0, 187, 4]
    assert 0.0 < pb < 0.2 and np.isnan(cube.data[0, 187, 4])
    psf = cube.psf[0, 192 - 187 + 96, 192 - 4 + 96]
    assert abs(psf) > 1e-3
    assert cube.data[0, 96, 96] == pytest.approx(10.0 * pb * psf, rel=1e-3)
    # Half of a source outside of the image is seen too: the peak at the edge is that of the whole source.
    edge = Source(0.0, 96.0, 6.0, 6.0, 0.0, continuum=1.0)
    inside = replace(edge, x=20.0)
    seen = [simulate_cube([source], COVERAGE, grid, 0.0, None, pblimit=0.0) for source in (edge, inside)]
    peaks = [cube.data[0, 96, place] / cube.pb[0, 96, place] for cube, place in zip(seen, (0, 20), strict=True)]
    assert peaks[0] == pytest.approx(peaks[1], rel=0.02)


def test_refusals() -> None:
    with pytest.raises(ParameterError, match="Defects.outside"):
        simulate_cube([replace(BRIGHT, x=200.0)], COVERAGE, GRID, 0.0, None)
    with pytest.raises(ParameterError, match="never above 20 deg"):
        simulate_cube([BRIGHT], replace(COVERAGE, dec=70.0), GRID, 0.0, None)
