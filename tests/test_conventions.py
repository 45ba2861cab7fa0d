"""docs/conventions.md, line by line: against astropy, numerical integrals and CASA's own tools."""

from __future__ import annotations

import numpy as np
import pytest
from astropy import units as u
from astropy.coordinates import SkyCoord
from astropy.wcs import WCS

from casa_deepfocus.core import geometry
from casa_deepfocus.core.cube import C_KMS, Cube
from casa_deepfocus.core.psf import gaussian_psf, gaussian_transform, place_psf

CELL = 0.1
ANGLES = (0.0, 10.0, 45.0, 90.0, 120.0, 179.0)


def sky_wcs(n: int = 65) -> WCS:
    wcs = WCS(naxis=2)
    wcs.wcs.ctype = ["RA---SIN", "DEC--SIN"]
    wcs.wcs.crval = [150.0, -30.0]
    wcs.wcs.crpix = [n // 2 + 1, n // 2 + 1]
    wcs.wcs.cdelt = [-CELL / 3600.0, CELL / 3600.0]
    wcs.wcs.cunit = ["deg", "deg"]
    return wcs


def moments(image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Centre (x, y) and covariance (sxx, syy, sxy) of an image (y, x)."""
    row, column = np.mgrid[: image.shape[0], : image.shape[1]]
    total = image.sum()
    x, y = (image * column).sum() / total, (image * row).sum() / total
    dx, dy = column - x, row - y
    spread = [(image * a * b).sum() / total for a, b in ((dx, dx), (dy, dy), (dx, dy))]
    return np.array([x, y]), np.array(spread)


def cube(nchan: int = 11, step: float = -1.0e6, psf: np.ndarray | None = None) -> Cube:
    beams = np.tile([0.6, 0.4, 30.0], (nchan, 1))
    plane = np.ones((1, 8, 8), dtype=np.float32)
    freq = 230.0e9 + step * np.arange(nchan)
    return Cube(np.zeros((nchan, 8, 8), np.float32), plane if psf is None else psf, plane, freq, beams, CELL)


@pytest.mark.parametrize("pa", ANGLES)
@pytest.mark.parametrize("sizes", [(9.0, 3.0), (5.0, 4.9), (4.0, 0.0)])
def test_shapes_and_covariances_are_inverse(pa, sizes):
    major, minor, angle = geometry.covariance_to_shape(geometry.shape_to_covariance(*sizes, pa))
    np.testing.assert_allclose([major, minor], sizes, atol=1e-6)
    assert 0.0 <= angle < 180.0
    assert abs((angle - pa + 90.0) % 180.0 - 90.0) < 1e-6


def test_position_angles_stay_below_180():
    angles = np.array([180.0, -1e-15, 360.0, 200.0])
    pa = geometry.covariance_to_shape(geometry.shape_to_covariance(9.0, 3.0, angles))[2]
    assert ((pa >= 0.0) & (pa < 180.0)).all()
    assert geometry.covariance_to_shape(geometry.shape_to_covariance(9.0, 3.0, 200.0))[2] == pytest.approx(20.0)


def test_arrays_of_shapes_keep_their_shape():
    covariance = geometry.shape_to_covariance(np.full((4, 1), 6.0), 3.0, np.arange(5.0))
    assert covariance.shape == (4, 5, 3)
    assert geometry.covariance_to_shape(covariance)[0].shape == (4, 5)


@pytest.mark.parametrize("pa", ANGLES)
def test_position_angle_runs_from_north_through_east_as_on_the_sky(pa):
    wcs = sky_wcs()
    centre = SkyCoord(150.0 * u.deg, -30.0 * u.deg)
    away = centre.directional_offset_by(pa * u.deg, 10 * CELL * u.arcsec)
    dx, dy = np.array(wcs.wcs_world2pix([[away.ra.deg, away.dec.deg]], 0)[0]) - 32.0
    np.testing.assert_allclose([dx, dy], [-10 * np.sin(np.deg2rad(pa)), 10 * np.cos(np.deg2rad(pa))], atol=1e-4)
    image = geometry.gaussian_image((65, 65), 32.0, 32.0, geometry.shape_to_covariance(12.0, 4.0, pa))
    _, spread = moments(image)
    # The long axis of the drawn source points the same way, and so away from its perpendicular.
    quadratic = spread[0] * dx * dx + spread[1] * dy * dy + 2.0 * spread[2] * dx * dy
    across = spread[0] * dy * dy + spread[1] * dx * dx - 2.0 * spread[2] * dx * dy
    assert quadratic / across == pytest.approx(9.0, rel=0.01)


def test_pixels_count_from_zero():
    image = geometry.gaussian_image((41, 65), 40.25, 12.5, geometry.shape_to_covariance(6.0, 4.0, 20.0))
    centre, _ = moments(image)
    np.testing.assert_allclose(centre, [40.25, 12.5], atol=1e-3)
    ra, dec = sky_wcs().wcs_pix2world([[32.0, 32.0]], 0)[0]
    assert (ra, dec) == (pytest.approx(150.0), pytest.approx(-30.0))


def test_a_size_is_a_full_width_at_half_maximum():
    covariance = geometry.shape_to_covariance(8.0, 8.0, 0.0)
    image = geometry.gaussian_image((65, 65), 32.0, 32.0, covariance)
    assert image[32, 32] == 1.0
    assert image[32, 36] == image[28, 32] == pytest.approx(0.5)
    assert np.sqrt(covariance[0]) * 2.0 * np.sqrt(2.0 * np.log(2.0)) == pytest.approx(8.0)
    assert geometry.FWHM_PER_SIGMA == pytest.approx(2.35482, abs=1e-5)


def test_area_and_line_constants_are_the_integrals():
    image = geometry.gaussian_image((129, 129), 64.2, 63.7, geometry.shape_to_covariance(9.0, 5.0, 30.0))
    assert image.sum() == pytest.approx(geometry.GAUSSIAN_AREA * 9.0 * 5.0, rel=1e-9)
    channels = np.arange(-60.0, 60.0)
    line = np.exp(-0.5 * (channels * geometry.FWHM_PER_SIGMA / 7.0) ** 2)
    assert line.sum() == pytest.approx(geometry.GAUSSIAN_LINE * 7.0, rel=1e-9)


def test_transform_of_a_gaussian():
    covariance = geometry.shape_to_covariance(8.0, 5.0, 40.0)
    image = geometry.gaussian_image((64, 80), 37.3, 30.6, covariance)
    area = 2.0 * np.pi * np.sqrt(covariance[0] * covariance[1] - covariance[2] ** 2)
    numeric = np.fft.rfft2(image / area)
    np.testing.assert_allclose(gaussian_transform((64, 80), 37.3, 30.6, covariance), numeric, atol=1e-4)
    assert numeric[0, 0] == pytest.approx(1.0, rel=1e-4)


def test_convolution_adds_covariances_and_sets_the_peak():
    source = geometry.shape_to_covariance(7.0, 4.0, 20.0)
    beam = geometry.shape_to_covariance(6.0, 5.0, 100.0)
    transform = gaussian_transform((96, 96), 48.0, 48.0, source) * gaussian_transform((96, 96), 0.0, 0.0, beam)
    beam_area = geometry.GAUSSIAN_AREA * 6.0 * 5.0
    seen = np.fft.irfft2(transform, s=(96, 96)) * beam_area
    assert seen.max() == pytest.approx(geometry.peak_over_flux(source, beam), rel=1e-3)
    np.testing.assert_allclose(moments(seen)[1], source + beam, atol=0.02)
    assert geometry.peak_over_flux(np.zeros(3), beam) == pytest.approx(1.0)


@pytest.mark.parametrize("shape", [(16, 16), (17, 21)])
def test_a_psf_has_its_peak_at_the_middle_pixel(shape):
    psf = gaussian_psf([0.6, 0.4, 30.0], CELL, shape)[0]
    assert np.unravel_index(psf.argmax(), shape) == (shape[0] // 2, shape[1] // 2)
    assert psf.max() == 1.0
    assert place_psf(psf, (32, 32))[0, 0] == 1.0


@pytest.mark.parametrize("step", [-1.0e6, 1.0e6])
def test_frequencies_may_rise_or_fall(step):
    one = cube(step=step)
    assert one.chan_width == pytest.approx(step)
    assert one.chan_to_freq(2.5) == pytest.approx(230.0e9 + 2.5 * step)
    # Radio velocity: dv = c dnu / restfreq, positive as a width.
    assert one.chan_width_kms(115.0e9) == pytest.approx(C_KMS * 1.0e6 / 115.0e9)


def test_beams_are_major_minor_angle_in_arcsec():
    one = cube()
    np.testing.assert_allclose(one.beam_covariance(), geometry.shape_to_covariance(6.0, 4.0, 30.0))
    assert one.beam_pixels() == pytest.approx(np.sqrt(24.0))


@pytest.mark.casa
class TestAgainstCasa:
    """CASA's images, components and regions use the same pixels and the same angles."""

    SHAPE = (81, 65)  # x, y
    PA = 30.0

    @pytest.fixture
    def image(self):
        tools = pytest.importorskip("casatools")
        ia = tools.image()
        csys = tools.coordsys()
        try:
            coordinates = csys.newcoordsys(direction=True)
            coordinates.setunits(["arcsec", "arcsec"])
            coordinates.setincrement([-CELL, CELL])
            coordinates.setreferencepixel([40.0, 32.0])
            coordinates.setunits(["deg", "deg"])
            coordinates.setreferencevalue([150.0, -30.0])
            assert ia.fromshape("", list(self.SHAPE), csys=coordinates.torecord())
            ia.setbrightnessunit("Jy/pixel")
            coordinates.done()
            yield ia
        finally:
            ia.done()
            csys.done()

    @staticmethod
    def shape_of(pixels: np.ndarray) -> tuple[np.ndarray, float, float, float]:
        """Centre, sizes and angle of CASA's (x, y) pixels by our conventions."""
        centre, spread = moments(np.asarray(pixels, dtype=float).T)
        major, minor, pa = geometry.covariance_to_shape(spread)
        return centre, float(major), float(minor), float(pa)

    def test_component_lists(self, image):
        tools = pytest.importorskip("casatools")
        cl = tools.componentlist()
        try:
            cl.addcomponent(
                dir="J2000 150.0deg -30.0deg", flux=2.0, fluxunit="Jy", freq="230GHz", shape="Gaussian",
                majoraxis="1.2arcsec", minoraxis="0.5arcsec", positionangle=f"{self.PA}deg",
            )  # fmt: skip
            image.modify(cl.torecord(), subtract=False)
        finally:
            cl.done()
        pixels = image.getchunk()
        centre, major, minor, pa = self.shape_of(pixels)
        np.testing.assert_allclose(centre, [40.0, 32.0], atol=0.01)
        assert pixels.sum() == pytest.approx(2.0, rel=1e-3)
        assert (major, minor) == (pytest.approx(12.0, rel=0.01), pytest.approx(5.0, rel=0.01))
        assert pa == pytest.approx(self.PA, abs=0.2)

    def test_regions(self, image):
        tools = pytest.importorskip("casatools")
        rg = tools.regionmanager()
        image.set(1.0)
        csys = image.coordsys()
        try:
            text = f"ellipse [[150.0deg, -30.0deg], [1.6arcsec, 0.7arcsec], {self.PA}deg], coord=J2000"
            region = rg.fromtext(text, list(self.SHAPE), csys.torecord())
            mask = image.getchunk() * 0.0
            part = image.subimage("", region=region)
            try:
                inside = part.getchunk(getmask=True)
            finally:
                part.done()
        finally:
            csys.done()
            rg.done()
        assert 0.3 * np.pi * 16.0 * 7.0 < inside.sum() < mask.size
        _, major, minor, pa = self.shape_of(inside)
        assert major / minor == pytest.approx(16.0 / 7.0, rel=0.05)
        assert pa == pytest.approx(self.PA, abs=2.0)
