"""The continuum image, eq. 19, and the flux."""

import numpy as np
import pytest

from casa_deepfocus.core.boxes import Box
from casa_deepfocus.core.flux import (
    continuum_image,
    line_emission_cube,
    line_emission_image,
    line_flux,
    off_line_weights,
)
from casa_deepfocus.core.geometry import GAUSSIAN_LINE, gaussian_image, shape_to_covariance
from casa_deepfocus.core.model3d import source_mask
from casa_deepfocus.core.preprocessing import stamp_peak
from casa_deepfocus.core.spectra import Peak, extract_spectrum, fit_continuum_under_line, relative_continuum
from casa_deepfocus.errors import DataError

NCHAN, SIDE = 96, 41
CHAN, WIDTH, LINE, CONTINUUM, SLOPE = 74.0, 10.0, 8.0, 30.0, 0.15
COVARIANCE = shape_to_covariance(7.0, 6.0, 20.0)
MAP = gaussian_image((SIDE, SIDE), 20.0, 20.0, COVARIANCE)
PEAK = Peak.from_gaussian(CHAN, WIDTH, 1.0, NCHAN)


def planted(noise=0.0, seed=0):
    """A source with a steep continuum and a line at one end of the band."""
    chan = np.arange(NCHAN)
    line = LINE * np.exp(-4 * np.log(2) * ((chan - CHAN) / WIDTH) ** 2)
    level = CONTINUUM + SLOPE * (chan - 0.5 * (NCHAN - 1))
    cube = (line + level)[:, None, None] * MAP
    return (cube + noise * np.random.default_rng(seed).normal(size=cube.shape)).astype(np.float32)


def relative(cube, weights):
    model = fit_continuum_under_line(extract_spectrum(cube, Box(17, 17, 23, 23)), [PEAK])
    return relative_continuum(model, NCHAN, weights)


def line_image(cube, sigma=None):
    ranges = [(PEAK.chan0, PEAK.chan1)]
    weights = off_line_weights(NCHAN, ranges, sigma)
    mask = np.zeros(cube.shape, dtype=bool)
    slices, part = source_mask(cube.shape, 20.0, 20.0, COVARIANCE, CHAN, WIDTH)
    mask[slices] = part
    return line_emission_image(cube, mask, continuum_image(cube, ranges, sigma), relative(cube, weights), 2.0)


def test_line_emission_at_the_end_of_a_sloped_band():
    """Peak of the line image = line integral; with f = 1 the slope would bias it by 16 %."""
    truth = LINE * WIDTH * GAUSSIAN_LINE * 2.0
    cube = planted()
    image = line_image(cube)
    assert image[20, 20] == pytest.approx(truth, rel=0.02)
    mask = np.zeros(cube.shape, dtype=bool)
    mask[PEAK.chan0 : PEAK.chan1 + 1] = True
    flat = line_emission_image(cube, mask, continuum_image(cube, [(PEAK.chan0, PEAK.chan1)]), np.ones(NCHAN), 2.0)
    assert abs(flat[20, 20] / truth - 1) > 0.5
    assert image[0, 0] == 0.0


def test_noise_leaves_no_bias():
    truth = LINE * WIDTH * GAUSSIAN_LINE * 2.0
    measured = [line_image(planted(1.0, seed), np.ones(NCHAN))[20, 20] for seed in range(20)]
    assert np.std(measured) > 1.0
    assert abs(np.mean(measured) - truth) < 4 * np.std(measured) / np.sqrt(20) + 0.02 * truth


def test_continuum_image_is_weighted_and_without_the_line():
    cube = planted()
    ranges = [(PEAK.chan0, PEAK.chan1)]
    off = np.r_[0 : PEAK.chan0, PEAK.chan1 + 1 : NCHAN]
    np.testing.assert_allclose(continuum_image(cube, ranges), cube[off].mean(axis=0), rtol=1e-5)
    sigma = np.ones(NCHAN)
    sigma[:10], sigma[10] = 1e6, np.nan
    cube[:11] = 1e3
    expected = cube[[c for c in off if c > 10]].mean(axis=0)
    np.testing.assert_allclose(continuum_image(cube, ranges, sigma), expected, rtol=1e-4, atol=1e-6)
    assert off_line_weights(NCHAN, ranges, sigma).sum() == pytest.approx(1.0)


def test_nan_pixels():
    cube = planted()
    cube[3, 20, 20] = np.nan
    cube[:, 0, 0] = np.nan
    cube[70:75, 21, 21] = np.nan
    continuum = continuum_image(cube, [(PEAK.chan0, PEAK.chan1)])
    assert np.isfinite(continuum[20, 20]) and np.isnan(continuum[0, 0])
    mask = np.ones(cube.shape, dtype=bool)
    image = line_emission_image(cube, mask, continuum, np.ones(NCHAN))
    assert np.isnan(image[0, 0]) and np.isfinite(image[20, 20]) and np.isfinite(image[21, 21])


def test_one_channel_and_no_channel():
    cube = np.full((1, 3, 3), 5.0, dtype=np.float32)
    np.testing.assert_array_equal(continuum_image(cube, []), 5.0)
    assert np.isnan(continuum_image(cube, [(0, 0)])).all()
    assert off_line_weights(1, [(0, 0)]).sum() == 0.0


def test_outside_the_mask_is_zero():
    cube = planted()
    mask = np.zeros(cube.shape, dtype=bool)
    mask[70:80, 18:23, 18:23] = True
    line = line_emission_cube(cube, mask, np.zeros((SIDE, SIDE)), np.ones(NCHAN))
    np.testing.assert_array_equal(line[mask], cube[mask])
    assert not line[~mask].any() and line.dtype == np.float32


def test_shapes_must_agree():
    cube = planted()
    with pytest.raises(DataError, match="same channels"):
        line_emission_cube(cube, np.ones(cube.shape, bool), np.zeros((3, 3)), np.ones(NCHAN))
    with pytest.raises(DataError, match="sigma"):
        off_line_weights(NCHAN, [], np.ones(3))


def test_flux_from_the_network():
    """The flux network's truth for a source of known flux gives the flux back."""
    beam = shape_to_covariance(5.0, 5.0, 0.0)
    total = beam + shape_to_covariance(4.0, 3.0, 10.0)
    ratio = np.sqrt((beam[0] * beam[1]) / (total[0] * total[1] - total[2] ** 2))
    flux = 3.0
    stamp = flux * ratio * gaussian_image((32, 32), 16.0, 16.0, total)
    peak = stamp_peak(stamp)
    assert peak < 0.9 * flux
    assert line_flux(np.log10(flux / peak), peak) == pytest.approx(flux)
    out = line_flux(np.array([0.0, 1.0, 1e4, np.nan]), np.array([2.0, -1.0, 1.0, 1.0]))
    np.testing.assert_array_equal(out, [2.0, np.nan, np.nan, np.nan])
