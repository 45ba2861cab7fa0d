"""Between the pixel frame and the sky: at any rotation, of either parity, on the sphere."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from astropy import units as u
from astropy.coordinates import SkyCoord
from astropy.wcs import WCS
from hypothesis import given
from hypothesis import strategies as st

from casa_deepfocus.core import catalogue, geometry, skyframe
from casa_deepfocus.core.component import Component
from casa_deepfocus.core.cube import Cube
from casa_deepfocus.pipeline import collapse

angles = st.floats(0.0, 360.0)
parities = st.sampled_from([-1.0, 1.0])
declinations = st.floats(-89.0, 89.0)
projections = st.sampled_from(["SIN", "TAN", "ZEA", "ARC", "STG"])
shapes = st.tuples(st.floats(4.0, 20.0), st.floats(0.2, 0.95), st.floats(0.0, 180.0))

CELL = 0.5


def turned_wcs(rotation: float, parity: float = -1.0, dec: float = -30.0, projection: str = "SIN", n: int = 65) -> WCS:
    """`parity` -1 has east to the left before the rotation, as usual."""
    wcs = WCS(naxis=2)
    wcs.wcs.ctype = [f"RA---{projection}", f"DEC--{projection}"]
    wcs.wcs.cunit = ["deg", "deg"]
    wcs.wcs.crval = [150.0, dec]
    wcs.wcs.crpix = [n // 2 + 1, n // 2 + 1]
    wcs.wcs.cdelt = [parity * CELL / 3600.0, CELL / 3600.0]
    cos, sin = np.cos(np.deg2rad(rotation)), np.sin(np.deg2rad(rotation))
    wcs.wcs.pc = [[cos, -sin], [sin, cos]]
    return wcs


def turned_cube(wcs: WCS, nchan: int = 1) -> Cube:
    plane = np.ones((1, 65, 65), np.float32)
    return Cube(
        np.zeros((nchan, 65, 65), np.float32), plane, plane, 100e9 + 1e6 * np.arange(nchan),
        np.tile([2.5, 2.0, 30.0], (nchan, 1)), CELL, wcs=wcs,
    )  # fmt: skip


@given(angles, parities, declinations, projections, st.floats(0.0, 64.0), st.floats(0.0, 64.0), angles)
def test_the_jacobian_gives_what_astropy_finds_on_the_sphere(rotation, parity, dec, projection, x, y, towards):
    wcs = turned_wcs(rotation, parity, dec, projection)
    # Two pixels off: the place's own curvature is below 1e-4 of a pixel.
    step = 2.0 * np.array([np.cos(np.deg2rad(towards)), np.sin(np.deg2rad(towards))])
    west, north = skyframe.jacobian(wcs, x, y) @ step
    here, there = SkyCoord(wcs.wcs_pix2world([[x, y], [x + step[0], y + step[1]]], 0), unit="deg")
    assert np.hypot(west, north) == pytest.approx(here.separation(there).arcsec, rel=1e-3)
    difference = np.rad2deg(np.arctan2(-west, north)) - here.position_angle(there).deg
    assert abs((difference + 180.0) % 360.0 - 180.0) < 0.1


@given(st.tuples(angles, parities, st.floats(0.5, 2.0)), shapes)
def test_shapes_go_there_and_back(turn, shape):
    rotation, parity, scale = turn
    cos, sin = scale * np.cos(np.deg2rad(rotation)), scale * np.sin(np.deg2rad(rotation))
    matrix = np.array([[cos, -sin], [sin, cos]]) @ np.diag([-parity, 1.0])
    covariance = geometry.shape_to_covariance(shape[0], shape[0] * shape[1], shape[2])
    there = skyframe.transform(covariance, matrix)
    full = np.array([[covariance[0], covariance[2]], [covariance[2], covariance[1]]])
    np.testing.assert_allclose(there[[0, 2, 2, 1]].reshape(2, 2), matrix @ full @ matrix.T, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(skyframe.transform(there, np.linalg.inv(matrix)), covariance, rtol=1e-9, atol=1e-9)
    sizes = geometry.covariance_to_shape(there)[:2]
    np.testing.assert_allclose(sizes, scale * np.array([shape[0], shape[0] * shape[1]]), rtol=1e-6)


@given(angles, parities, st.floats(-80.0, 80.0), shapes)
def test_a_source_has_its_position_angle_on_the_sky(rotation, parity, dec, shape):
    """The catalogue's shape, from pixels that were drawn along the source's axis on the sphere."""
    wcs = turned_wcs(rotation, parity, dec)
    maj, ratio, pa = shape[0], min(shape[1], 0.8), shape[2]
    x, y = 40.0, 28.0
    centre = SkyCoord(*wcs.wcs_pix2world([[x, y]], 0)[0], unit="deg")
    tips = []
    for angle, length in ((pa, maj), (pa + 90.0, ratio * maj)):
        away = centre.directional_offset_by(angle * u.deg, length * CELL * u.arcsec)
        tips.append(np.array(wcs.wcs_world2pix([[away.ra.deg, away.dec.deg]], 0)[0]) - [x, y])
    spread = sum(np.outer(tip, tip) for tip in tips) / geometry.FWHM_PER_SIGMA**2
    covariance = np.array([spread[0, 0], spread[1, 1], spread[0, 1]])
    errors = np.diag([0.01, 0.04, 1e-4, 1e-4, 1e-4])
    component = Component(
        x, y, covariance, has_line=False, has_cont=True, cont=1.0, snr_cont=50.0, fit_shape=True, matrix=errors,
        errors={"x": 0.1, "y": 0.2, "cont": 0.02},
    )  # fmt: skip
    row = catalogue.component_row(component, turned_cube(wcs))
    assert row["fwhm_maj"] == pytest.approx(maj * CELL, rel=1e-2)
    assert row["fwhm_min"] == pytest.approx(ratio * maj * CELL, rel=1e-2)
    assert abs((row["pa"] - pa + 90.0) % 180.0 - 90.0) < 0.2
    # Errors turn with the image: their sum of squares stays.
    assert np.hypot(row["ra_err"], row["dec_err"]) == pytest.approx(CELL * np.hypot(0.1, 0.2), rel=1e-3)
    back = catalogue.pixel_shape({**row, "x": x, "y": y}, turned_cube(wcs))
    np.testing.assert_allclose(
        geometry.shape_to_covariance(*back) / maj**2, geometry.shape_to_covariance(
            row["fwhm_maj"] / CELL, row["fwhm_min"] / CELL, geometry.covariance_to_shape(covariance)[2]) / maj**2,
        atol=2e-3,
    )  # fmt: skip


@pytest.mark.parametrize(("rotation", "parity"), [(90.0, -1.0), (270.0, 1.0)])
def test_errors_of_right_ascension_are_along_the_sky_not_along_x(rotation, parity):
    component = Component(
        32.0, 32.0, np.array([9.0, 4.0, 0.0]), has_line=False, has_cont=True, cont=1.0, snr_cont=50.0, fit_shape=True,
        matrix=np.diag([0.01, 0.04, 1e-4, 1e-4, 1e-4]), errors={"x": 0.1, "y": 0.2},
    )  # fmt: skip
    row = catalogue.component_row(component, turned_cube(turned_wcs(rotation, parity)))
    assert (row["x_err"], row["y_err"]) == (pytest.approx(0.1, rel=1e-6), pytest.approx(0.2, rel=1e-6))
    assert (row["ra_err"], row["dec_err"]) == (pytest.approx(0.2 * CELL, rel=1e-4), pytest.approx(0.1 * CELL, rel=1e-4))


def test_an_ordinary_image_has_the_identity_nearly():
    cube = turned_cube(turned_wcs(0.0))
    np.testing.assert_allclose(cube.sky_frame(50.0, 10.0), np.eye(2), atol=1e-4)
    np.testing.assert_allclose(cube.beam_on_sky(), [2.5, 2.0, 30.0], rtol=1e-6)
    assert (turned_cube(None).sky_frame(1.0, 2.0) == np.eye(2)).all()


def test_a_beam_keeps_its_place_in_the_pixels_and_turns_on_the_sky():
    cube = turned_cube(turned_wcs(40.0))
    # With this matrix +y points 40 degrees east of north.
    assert cube.beam_on_sky()[2] == pytest.approx(70.0, abs=1e-3)
    assert turned_cube(turned_wcs(0.0, parity=1.0)).beam_on_sky()[2] == pytest.approx(150.0, abs=1e-3)


@pytest.mark.parametrize("pole", [90.0, -90.0])
def test_the_pole_has_a_north_too(pole):
    wcs = turned_wcs(0.0, dec=pole)
    covariance = np.array([9.0, 4.0, 1.0])
    matrix = skyframe.jacobian(wcs, 32.0, 32.0) / CELL
    np.testing.assert_allclose(skyframe.transform(covariance, matrix), covariance, atol=1e-6)
    assert np.isfinite(skyframe.jacobian(wcs, 10.0, 50.0)).all()


def test_meridians_converge_near_the_pole():
    """20 arcsec from the pole north is another direction at every pixel."""
    wcs = turned_wcs(0.0, dec=90.0 - 20.0 / 3600.0)
    here = skyframe.jacobian(wcs, 32.0 + 40.0, 32.0)
    # The pole is 40 pixels above the reference pixel: from 40 pixels to its right it is up and to the left.
    assert np.rad2deg(np.arctan2(here[1, 0], here[1, 1])) == pytest.approx(-45.0, abs=0.1)


def test_frequencies_between_channels_follow_the_axis():
    cube = turned_cube(turned_wcs(0.0), nchan=5)
    freq = 100e9 + 1e6 * np.array([0.0, 1.0, 2.05, 3.0, 4.0])
    bent = Cube(cube.data, cube.psf, cube.pb, freq, cube.beams, CELL)
    assert bent.chan_to_freq(2.0) == freq[2]
    assert bent.chan_to_freq(1.5) == pytest.approx(0.5 * (freq[1] + freq[2]))
    assert bent.chan_to_freq(-1.0) == pytest.approx(100e9 - 1e6)


def test_the_mean_channel_has_the_median_of_shapes_not_of_angles():
    """Beams at 5 and at 175 degrees lie on both sides of north."""
    cube = turned_cube(None, nchan=2)
    beams = np.array([[3.0, 2.0, 5.0], [3.0, 2.0, 175.0]])
    mean = collapse(replace(cube, data=cube.data + 1.0, beams=beams), np.ones(2))
    assert abs((mean.beams[0, 2] + 90.0) % 180.0 - 90.0) < 1e-6
    assert mean.beams[0, 0] == pytest.approx(3.0, rel=0.02)
