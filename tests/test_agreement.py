"""What the noise of an image tells about its primary beam."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import fft, ndimage

from casa_deepfocus.core import agreement
from casa_deepfocus.core.agreement import Verdict
from casa_deepfocus.core.psf import fit_beam, gaussian_psf, place_psf

SIDE = 192
BEAM = (6.0, 5.0, 30.0)
BEAM_AREA = 1.133 * 6.0 * 5.0


def primary_beam(side: int = SIDE, fwhm: float = 0.6) -> np.ndarray:
    return gaussian_psf([[fwhm * side, fwhm * side, 0.0]], 1.0, (side, side))


def noise(nchan: int, psf: np.ndarray, seed: int, side: int = SIDE) -> np.ndarray:
    """(nchan, side, side) of unit rms, with the power of a PSF's transform."""
    grid = (2 * side, 2 * side)
    transfer = np.clip(fft.rfft2(place_psf(psf, grid)).real, 0.0, None)
    root = np.sqrt(transfer)
    white = np.random.default_rng(seed).standard_normal((nchan, *grid))
    out = fft.irfft2(root * fft.rfft2(white), s=grid)[:, :side, :side]
    return out / out.std()


@pytest.fixture(scope="module")
def psf() -> np.ndarray:
    """The PSF of 16 antennas that follow a source for four hours; its main lobe has about 8 pixels."""
    rng = np.random.default_rng(4)
    east, north = rng.standard_normal((2, 16))
    first, second = np.triu_indices(16, 1)
    u, v = east[first] - east[second], north[first] - north[second]
    hours = np.radians(15.0) * np.linspace(-2.0, 2.0, 120)[:, None]
    tracks = np.stack([u * np.cos(hours) - v * np.sin(hours), 0.8 * (u * np.sin(hours) + v * np.cos(hours))])
    cells = np.round(tracks.reshape(2, -1) * 0.11 / np.abs(tracks).max() * 2 * SIDE).astype(int)
    density = np.zeros((2 * SIDE, 2 * SIDE))
    for sign in (1, -1):
        np.add.at(density, (sign * cells[1], sign * cells[0]), 1.0)
    plane = np.fft.fftshift(fft.ifft2(density).real)
    return (plane / plane.max()).astype(np.float32)


@pytest.mark.parametrize("kernel", [0.0, 0.3, 0.5])
def test_noise_is_correlated_as_the_psf_says_and_over_more_where_it_was_smoothed(psf, kernel):
    lobe = fit_beam(psf)
    width = kernel * float(lobe[0] * lobe[1] - lobe[2] ** 2) ** 0.25
    image = ndimage.gaussian_filter(noise(1, psf, seed=3)[0], width, mode="constant") if width else noise(1, psf, 3)[0]
    image[:20] = np.nan
    assert agreement.correlation_ratio(image, psf) == pytest.approx(1.0 + 2.0 * kernel**2, rel=0.2)


def test_nothing_is_not_correlated(psf):
    assert np.isnan(agreement.correlation_ratio(np.zeros((64, 64)), psf))
    assert np.isnan(agreement.correlation_ratio(np.full((64, 64), np.nan), psf))


@pytest.mark.parametrize("nchan", [1, 2, 12])
@pytest.mark.parametrize("corrected", [False, True])
def test_noise_tells_whether_an_image_is_corrected(psf, nchan, corrected):
    pb = primary_beam()
    data = noise(nchan, psf, seed=nchan)
    data[:, 90:100, 60:70] += 40.0
    shown = np.where(pb > 0.2, data / pb if corrected else data, np.nan)
    slope = agreement.noise_slope(shown, pb, BEAM_AREA)
    assert slope.value == pytest.approx(-1.0 if corrected else 0.0, abs=4.0 * slope.error)
    assert slope.error < 0.25
    assert slope.verdict is (Verdict.CORRECTED if corrected else Verdict.FLAT)


def test_a_flat_response_or_few_beams_do_not_tell(psf):
    data = noise(1, psf, seed=3)
    assert agreement.noise_slope(data, np.ones_like(data), BEAM_AREA).verdict is Verdict.UNSURE
    small = slice(80, 110)
    slope = agreement.noise_slope(data[:, small, small], primary_beam()[:, small, small], BEAM_AREA)
    assert slope.verdict is Verdict.UNSURE
    assert agreement.noise_slope(np.full_like(data, np.nan), primary_beam(), BEAM_AREA).verdict is Verdict.UNSURE


@settings(max_examples=40, deadline=None)
@given(
    value=st.floats(-3.0, 2.0), error=st.floats(0.02, 2.0),
)  # fmt: skip
def test_a_verdict_on_the_slope_is_the_nearer_hypothesis_and_never_a_guess(value, error):
    verdict = agreement.Slope(value, error).verdict
    if verdict is Verdict.FLAT:
        assert abs(value) < abs(value + 1.0) and abs(value + 1.0) / error > 5.0
    if verdict is Verdict.CORRECTED:
        assert abs(value + 1.0) < abs(value) and abs(value) / error > 5.0
    if abs(value) > 0.36 and abs(value + 1.0) > 0.36 and -1.0 < value < 0.0:
        assert verdict is Verdict.UNSURE


@settings(max_examples=60, deadline=None)
@given(
    major=st.floats(1.0, 20.0), axis=st.floats(0.2, 1.0), pa=st.floats(0.0, 180.0), scale=st.floats(0.3, 3.0),
)  # fmt: skip
def test_width_ratios_are_those_of_the_widths(major, axis, pa, scale):
    beam = np.array([major, axis * major, pa])
    low, high = agreement.width_ratios(beam * [scale, scale, 1.0], beam)
    assert low == pytest.approx(scale, rel=1e-5) and high == pytest.approx(scale, rel=1e-5)
    turned = agreement.width_ratios(beam + [0.0, 0.0, 90.0], beam)
    assert turned == pytest.approx((axis, 1.0 / axis), rel=1e-5)
