"""White noise over the pixels is seen, measured, and made an interferometer's again."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

pytest.importorskip("casadata")
from casa_deepfocus.core.noise import channel_noise  # noqa: E402
from casa_deepfocus.core.psf import fit_beam, gaussian_psf  # noqa: E402
from casa_deepfocus.core.whitening import (  # noqa: E402
    MOST_DENSITY,
    NoiseModel,
    as_natural,
    restore_natural,
    undo_weights,
    weight_density,
    white_share,
)
from sim.cube import simulate_cube  # noqa: E402
from sim.response import Coverage, Grid, sampling  # noqa: E402
from sim.sky import Source  # noqa: E402

GRID = Grid(npix=128, cell=0.15, nchan=24)
COVERAGE = Coverage(integration=60.0)
BRIGHT = Source(61.3, 66.8, 5.0, 3.0, 30.0, continuum=0.05, line=0.3, chan=12.0, line_fwhm=5.0)


def cube_with(white: float, thermal: float, sources=(), seed=3):
    """A dirty cube with both kinds of noise; pblimit 0, so that every pixel holds data."""
    cube = simulate_cube(sources, COVERAGE, GRID, thermal, np.random.default_rng(seed), pblimit=0.0)
    added = white * np.random.default_rng(seed + 1).standard_normal(cube.data.shape)
    return cube.with_data(cube.data + added.astype(np.float32))


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.95])
def test_the_share_of_white_noise_is_measured(share):
    cube = cube_with(np.sqrt(share), np.sqrt(1.0 - share))
    assert white_share(cube, channel_noise(cube.data)) == pytest.approx(share, abs=0.02)


def test_sources_and_blanks_are_not_white_noise():
    cube = cube_with(0.0, 1e-3, [BRIGHT])
    assert cube.data.max() > 100 * 1e-3, "the source is bright enough to leak"
    data = cube.data.copy()
    data[:, :, 100:] = np.nan
    data[3] = np.nan
    assert white_share(cube.with_data(data), channel_noise(data)) < 1e-3


def test_coarse_pixels_do_not_tell():
    psf = np.zeros((1, 32, 32), np.float32)
    psf[0, 16, 16] = 1.0
    cube = cube_with(0.0, 1.0)
    cube = replace(
        cube, data=cube.data[:, :16, :16], pb=cube.pb[:, :16, :16], psf=psf,
    )  # fmt: skip
    assert white_share(cube, channel_noise(cube.data)) == 0.0


def spectrum_ratio(cube, sigma):
    """Power of the noise over sigma^2 times the PSF's transform, in rings of the well measured uv plane."""
    size = cube.psf.shape[1]
    middle = cube.psf[cube.nchan // 2]
    transfer = np.fft.rfft2(np.fft.ifftshift(middle)).real
    ny, nx = cube.shape
    known = np.isfinite(cube.data).all(axis=0)
    planes = np.nan_to_num(cube.data)
    power = np.mean([np.abs(np.fft.rfft2(plane, s=(size, size))) ** 2 for plane in planes], axis=0) / known.sum()
    # The cut-out field sees the spectrum through its own window.
    window = np.zeros((size, size))
    window[:ny, :nx] = known
    seen = np.fft.rfft2(middle_correlation(middle, window)).real
    radius = np.hypot(np.fft.fftfreq(size)[:, None], np.fft.rfftfreq(size)[None, :])
    edges = np.linspace(0.02, 0.9 * radius[transfer > 0.05 * transfer.max()].max(), 7)
    rings = [(radius >= low) & (radius < high) for low, high in zip(edges, edges[1:], strict=False)]
    return np.array([power[ring].sum() / (sigma**2 * seen[ring].sum()) for ring in rings])


def middle_correlation(psf, window):
    """The noise's autocorrelation as a finite field shows it: the PSF times the window's own."""
    overlap = np.fft.irfft2(np.abs(np.fft.rfft2(window)) ** 2, s=window.shape)
    return np.fft.ifftshift(psf) * overlap / overlap[0, 0]


def test_the_noise_becomes_the_transform_of_the_new_psf():
    cube = cube_with(np.sqrt(0.8), np.sqrt(0.2))
    before = spectrum_ratio(cube, float(np.median(channel_noise(cube.data))))
    assert np.abs(before - 1.0).max() > 0.3, "the input is not natural weighting's noise"
    natural = restore_natural(cube, 0.8)
    after = spectrum_ratio(natural, float(np.median(channel_noise(natural.data))))
    np.testing.assert_allclose(after, 1.0, atol=0.1)


def test_fluxes_stay_and_the_image_is_still_psf_times_sky():
    cube = cube_with(0.0, 0.0, [BRIGHT])
    natural = restore_natural(cube, 0.5)
    np.testing.assert_allclose(natural.psf.max(axis=(1, 2)), 1.0, rtol=1e-5)
    size = natural.psf.shape[1]
    chan = 12
    ky, kx = np.fft.fftfreq(size)[:, None], np.fft.rfftfreq(size)[None, :]
    sxx, syy, sxy = BRIGHT.covariance()
    sky = np.exp(-2 * np.pi**2 * (sxx * kx**2 + syy * ky**2 + 2 * sxy * kx * ky))
    sky = sky * np.exp(-2j * np.pi * (kx * BRIGHT.x + ky * BRIGHT.y)) * BRIGHT.spectrum(cube.freq)[chan]
    dirty = np.fft.irfft2(sky * np.fft.rfft2(np.fft.ifftshift(natural.psf[chan])), s=(size, size))[:128, :128]
    pb = cube.pb[chan, 67, 61]
    inner = (slice(40, 90), slice(40, 90))
    error = natural.data[chan][inner] - pb * dirty[inner]
    assert np.abs(error).max() < 1e-3 * np.abs(dirty).max()


def test_blank_pixels_and_beams():
    cube = cube_with(1.0, 0.1)
    data = cube.data.copy()
    data[:, :5] = np.nan
    natural = restore_natural(cube.with_data(data), 0.99)
    kept = np.isfinite(natural.data)
    assert not kept[:, :10].any() and not kept[:, :, :5].any() and not kept[:, -5:].any()
    assert kept[:, 15:-15, 15:-15].all()
    assert natural.beam_pixels() > 1.05 * cube.beam_pixels()
    middle = fit_beam(natural.psf[12])
    np.testing.assert_allclose(natural.beam_covariances()[12], middle, rtol=0.02)


def test_a_cube_without_white_noise_is_left_alone():
    cube = cube_with(0.0, 1.0)
    assert as_natural(cube, channel_noise(cube.data))[0] is cube
    cube = cube_with(1.0, 1.0)
    natural, was = as_natural(cube, channel_noise(cube.data))
    assert was.white == pytest.approx(0.5, abs=0.03) and was.density == 0.0 and natural is not cube
    assert str(was).startswith(f"{100 * was.white:.1f} per cent")


@pytest.mark.parametrize("share", [0.003, 0.02])
def test_a_little_white_noise_is_filtered_too(share):
    cube = cube_with(np.sqrt(share), np.sqrt(1.0 - share), [BRIGHT])
    sigma = channel_noise(cube.data)
    natural, was = as_natural(cube, sigma)
    assert was.white == pytest.approx(share, rel=0.25) and natural is not cube
    # Nothing else changes: the beam is the same, and nearly all of the noise.
    np.testing.assert_allclose(natural.beams[:, 0], cube.beams[:, 0], rtol=0.05)
    np.testing.assert_allclose(channel_noise(natural.data), sigma, rtol=0.05)


def test_a_gaussian_in_place_of_the_psf_lets_white_noise_be_filtered_too():
    cube = cube_with(1.0, 0.1)
    sigma = channel_noise(cube.data)
    assert white_share(cube, sigma) > 0.9
    size = cube.psf.shape[1:]
    assumed = replace(cube, psf=gaussian_psf(cube.beams, cube.cell, size), psf_is_measured=False)
    natural, was = as_natural(assumed, sigma)
    assert natural is not assumed and was.white > 0.9 and "white over the pixels" in str(was)
    given, also = as_natural(replace(assumed, psf_is_measured=True), sigma)
    np.testing.assert_array_equal(given.data, natural.data)
    assert also == was


@pytest.mark.parametrize("flagged", [[0, 1], [12], [23]])
def test_flagged_channels_without_a_psf(flagged):
    cube = cube_with(1.0, 0.5)
    data, psf = cube.data.copy(), cube.psf.copy()
    data[flagged], psf[flagged] = np.nan, 0.0
    holed = replace(cube, data=data, psf=psf)
    natural, was = as_natural(holed, channel_noise(data))
    share = was.white
    assert share == pytest.approx(0.8, abs=0.03)
    assert np.isnan(natural.data[flagged]).all() and np.abs(natural.psf[flagged]).max() < 1e-3
    whole = restore_natural(cube, share)
    kept = np.delete(np.arange(cube.nchan), flagged)
    np.testing.assert_allclose(natural.psf[kept].max(axis=(1, 2)), 1.0, rtol=1e-5)
    np.testing.assert_allclose(natural.beams[kept], whole.beams[kept], rtol=0.02)


def briggs_cube(robust, sources=(), thermal=1.0, seed=3):
    """A dirty cube with Briggs weights, and the `weight_density` that they have."""
    coverage = Coverage(integration=60.0, robust=robust)
    cube = simulate_cube(sources, coverage, GRID, thermal, np.random.default_rng(seed), pblimit=0.0)
    weights = sampling(coverage.uvw(), GRID, robust).weights(float(cube.freq[GRID.nchan // 2]))
    return cube, 1.0 - weights.min() / weights.max()


@pytest.mark.parametrize("robust", [2.0, 1.0, 0.5])
def test_the_psf_and_the_noise_tell_the_weights(robust):
    cube, planted = briggs_cube(robust)
    assert weight_density(cube, channel_noise(cube.data)) == pytest.approx(planted, abs=0.12)


def test_nearly_uniform_weights_are_capped():
    cube, planted = briggs_cube(-1.0)
    assert planted > 0.99
    assert 0.8 < weight_density(cube, channel_noise(cube.data)) <= MOST_DENSITY


def test_sources_do_not_hide_the_weights():
    cube, planted = briggs_cube(0.5, [BRIGHT], thermal=2e-3)
    sigma = channel_noise(cube.data)
    assert np.nanmax(cube.data / sigma[:, None, None]) > 50
    assert weight_density(cube, sigma) == pytest.approx(planted, abs=0.2)
    assert as_natural(cube, sigma)[1].density > 0.6


def test_with_the_weights_undone_the_noise_is_the_transform_of_the_new_psf():
    cube, planted = briggs_cube(0.5)
    before = spectrum_ratio(cube, float(np.median(channel_noise(cube.data))))
    assert np.abs(before - 1.0).max() > 0.4, "Briggs weights' noise is not natural weighting's"
    natural = undo_weights(cube, planted)
    after = spectrum_ratio(natural, float(np.median(channel_noise(natural.data))))
    assert np.abs(after - 1.0).max() < 0.35 * np.abs(before - 1.0).max()
    assert natural.beam_pixels() > 1.02 * cube.beam_pixels()
    np.testing.assert_allclose(natural.psf.max(axis=(1, 2)), 1.0, rtol=1e-5)
    assert np.isfinite(natural.data).all()


def test_natural_weights_are_left_alone():
    cube = cube_with(0.0, 1.0)
    sigma = channel_noise(cube.data)
    assert weight_density(cube, sigma) < 0.2
    assert as_natural(cube, sigma) == (cube, NoiseModel())
    assert str(NoiseModel()) == "natural weighting's noise"


def test_a_psf_of_the_images_own_size_tells_too_and_a_smaller_one_does_not():
    middle = slice(64, 192)
    natural, (cube, planted) = cube_with(0.0, 1.0), briggs_cube(0.5)
    found = [
        weight_density(replace(one, psf=one.psf[:, middle, middle]), channel_noise(one.data)) for one in (natural, cube)
    ]
    # Cells of twice the field, in which the weights were made, are smoothed by the cut: the density looks smaller.
    assert found[0] < 0.2 and 0.5 < found[1] < planted
    small = replace(cube, psf=cube.psf[:, 96:160, 96:160])
    assert weight_density(small, channel_noise(small.data)) == 0.0
    assert weight_density(replace(cube, psf=0.0 * cube.psf), channel_noise(cube.data)) == 0.0


def test_one_image_tells_the_weights_too():
    cube, planted = briggs_cube(0.5)
    one = replace(
        cube, data=cube.data[:1], psf=cube.psf[:1], freq=cube.freq[:1], beams=cube.beams[:1], pb=cube.pb[:1]
    )  # fmt: skip
    assert weight_density(one, channel_noise(one.data)) == pytest.approx(planted, abs=0.25)
