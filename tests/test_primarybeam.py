"""Sources behind a primary beam get their true place, size and flux back."""

from __future__ import annotations

import numpy as np
import pytest

from casa_deepfocus.core import catalogue as cat
from casa_deepfocus.core.component import Component
from casa_deepfocus.core.fit import JointFit
from casa_deepfocus.core.geometry import FWHM_PER_SIGMA, covariance_to_shape, shape_to_covariance
from casa_deepfocus.core.primarybeam import local_beam, on_sky
from casa_deepfocus.core.psf import Imager
from sim.beams import primary_beam
from sim.cube import simulate_cube
from sim.response import Coverage, Grid
from sim.sky import Source

NPIX = 360
BEAM = shape_to_covariance(8.0, 7.0, 20.0)


@pytest.fixture(scope="module")
def airy():
    return primary_beam(NPIX, 0.1, 230e9, 12.0)


def gaussian(x, y, covariance):
    """A Gaussian of flux 1 on the beam's pixels."""
    sxx, syy, sxy = covariance
    det = sxx * syy - sxy**2
    dy, dx = np.indices((NPIX, NPIX)) - np.array([y, x])[:, None, None]
    return np.exp(-0.5 * (syy * dx**2 + sxx * dy**2 - 2 * sxy * dx * dy) / det) / (2 * np.pi * np.sqrt(det))


def moments(image):
    """Flux, centre and covariance of an image."""
    flux = image.sum()
    y, x = np.indices(image.shape)
    mx, my = (image * x).sum() / flux, (image * y).sum() / flux
    spread = [(image * (x - mx) ** 2).sum(), (image * (y - my) ** 2).sum(), (image * (x - mx) * (y - my)).sum()]
    return flux, mx, my, np.array(spread) / flux


@pytest.mark.parametrize(("x", "y"), [(180.4, 179.7), (250.3, 120.6), (95.2, 181.1), (300.5, 180.0)])
def test_a_gaussian_behind_an_airy_beam_is_recovered(airy, x, y):
    covariance = shape_to_covariance(18.0, 11.0, 65.0)
    flux, seen_x, seen_y, seen = moments(gaussian(x, y, covariance) * airy)
    there = airy[round(seen_y), round(seen_x)]
    if there < 0.9:
        assert np.hypot(seen_x - x, seen_y - y) > 0.2 and abs(flux / there - 1) > 2e-3, "the truth must not be trivial"
    found = on_sky(seen, local_beam(airy, seen_x, seen_y, seen + BEAM))
    assert (seen_x + found.shift[0], seen_y + found.shift[1]) == pytest.approx((x, y), abs=0.02)
    assert found.response == pytest.approx(flux, rel=1e-3)
    sizes, true = (np.array(covariance_to_shape(shape)) for shape in (found.covariance, covariance))
    np.testing.assert_allclose(sizes[:2], true[:2], atol=0.02)
    assert sizes[2] == pytest.approx(65.0, abs=0.2)


def test_a_point_keeps_its_place_and_is_divided_by_the_beam_there(airy):
    beam = local_beam(airy, 250.3, 120.6, BEAM)
    found = on_sky(np.zeros(3), beam)
    assert not found.shift.any() and not found.covariance.any()
    low, high = sorted((airy[120, 250], airy[121, 251]))
    assert 0.998 * low < found.response < 1.002 * high and found.response == beam.value
    # Noise may make a covariance negative: the way there is smooth.
    shrunk = on_sky(np.array([-0.3, 0.2, 0.1]), beam)
    assert np.abs(shrunk.shift).max() < 0.01 and shrunk.covariance == pytest.approx([-0.3, 0.2, 0.1], abs=1e-3)


def test_without_a_beam_nothing_changes():
    covariance = np.array([40.0, 20.0, 7.0])
    found = on_sky(covariance, local_beam(np.ones((64, 64), np.float32), 30.2, 31.9, covariance + BEAM))
    np.testing.assert_array_equal(found.shift, 0.0)
    np.testing.assert_allclose(found.covariance, covariance, rtol=1e-15)
    np.testing.assert_array_equal(found.jacobian, np.eye(5))
    assert found.response == 1.0


def test_an_unknown_beam_is_only_divided_by(airy):
    cut = np.where(airy > 0.5, airy, np.nan)
    row, column = 180, int(np.flatnonzero(np.isfinite(cut[180])).max())
    covariance = shape_to_covariance(15.0, 15.0, 0.0)
    assert np.hypot(*on_sky(covariance, local_beam(cut, column - 4.0, row, covariance)).shift) > 0.3
    corner = cut.copy()
    corner[:, column - 2 :] = corner[:row] = np.nan
    found = on_sky(covariance, local_beam(corner, column - 3.0, row, covariance))
    assert found.response == cut[row, column - 3] and not found.shift.any()
    np.testing.assert_array_equal(found.covariance, covariance)
    assert np.isnan(on_sky(covariance, local_beam(cut, column + 3.0, row, covariance)).response)


def test_a_source_as_wide_as_the_beam_is_left_alone(airy):
    wide = shape_to_covariance(260.0, 250.0, 0.0)
    found = on_sky(wide, local_beam(airy, 200.0, 180.0, wide))
    assert not found.shift.any() and found.response == airy[180, 200]
    np.testing.assert_array_equal(found.covariance, wide)


def test_jacobian_against_differences():
    y, x = np.indices((NPIX, NPIX)) - 180.0
    plane = np.exp(-0.5 * (x**2 / 110.0**2 + y**2 / 90.0**2))
    start = np.array([260.0, 210.0, *shape_to_covariance(30.0, 15.0, 40.0)])

    def recovered(values):
        found = on_sky(values[2:], local_beam(plane, *values[:2], start[2:]))
        return np.concatenate([values[:2] + found.shift, found.covariance])

    jacobian = on_sky(start[2:], local_beam(plane, *start[:2], start[2:])).jacobian
    assert np.abs(jacobian - np.eye(5)).max() > 0.02
    for place in range(5):
        step = np.zeros(5)
        step[place] = 1e-3
        change = (recovered(start + step) - recovered(start - step)) / 2e-3
        np.testing.assert_allclose(jacobian[:, place], change, atol=2e-5)


def test_fitted_source_in_the_catalogue():
    """A bright extended source halfway down the beam, simulated and fitted: the table holds the sky."""
    grid = Grid(npix=128, cell=0.32, nchan=8, freq0=230e9, chan_width=40e6)
    true = Source(94.3, 40.6, 9.0, 5.0, 30.0, continuum=0.1, line=0.3, chan=3.4, line_fwhm=2.5)
    cube = simulate_cube([true], Coverage(duration=1200.0, integration=120.0), grid, 0.0, None)
    assert 0.2 < cube.pb[3, 41, 94] < 0.6
    start = Component(
        94.0, 41.0, true.covariance(), amp=0.15, chan=3.4, fwhm=2.5, cont=0.05, has_cont=True, has_slope=True
    )
    fit = JointFit(cube.data, np.full(8, 1e-4), Imager(cube.psf, cube.shape), cube.beam_covariance())
    fit.fit([start], sweeps=6, iterations=20)
    assert np.hypot(start.x - true.x, start.y - true.y) > 0.12, "the beam must have moved it"
    row = cat.build([start], [1.0], cube)[0]
    assert (row["x"], row["y"]) == pytest.approx((true.x, true.y), abs=0.02)
    assert (row["fwhm_maj"], row["fwhm_min"]) == pytest.approx((9.0 * 0.32, 5.0 * 0.32), abs=0.01)
    kms = cube.chan_width_kms(row["freq"])
    assert row["line_flux"] == pytest.approx(true.lines[0].flux * kms, rel=2e-3)
    assert row["continuum"] == pytest.approx(0.1, rel=2e-3)
    # A flat spectrum, which the primary beam bends: its beam narrows by the frequency.
    bent = np.log(cube.pb[-1, 41, 94] / cube.pb[0, 41, 94]) / 7
    assert abs(bent * 0.1 / 0.04) > 5 * abs(row["continuum_slope"])
    assert row["pb"] == pytest.approx(float(cube.pb[3, 41, 94]), rel=0.02)
    assert start.covariance[0] * FWHM_PER_SIGMA**2 < true.covariance()[0] * FWHM_PER_SIGMA**2
