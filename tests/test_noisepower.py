"""Noise that a Gaussian PSF does not tell: it is measured, and the search is the same with and without a PSF."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from benchmarks.toys import BEAMS, NOISES, Score, add_score, draw_noise, make_field
from casa_deepfocus.core.geometry import covariance_to_shape, shape_to_covariance
from casa_deepfocus.core.noise import channel_noise
from casa_deepfocus.core.noisepower import measure_power
from casa_deepfocus.core.psf import has_sidelobes
from casa_deepfocus.core.whitening import LEAST_BEAM, NoiseModel, as_natural
from casa_deepfocus.pipeline import run
from tests.fake_networks import FilterNetworks


@pytest.mark.parametrize("beam", BEAMS)
@pytest.mark.parametrize("noise", NOISES)
def test_the_spectrum_is_that_of_the_noise(noise, beam, npix=160):
    """Beside sources of 100 times the noise; the correlation is compared where it is more than its own error."""
    cube, _ = make_field(noise, 100.0, beam, 3)
    assert cube.data.max() > 50 * channel_noise(cube.data)[0]
    found = measure_power(cube, cube.psf[0], channel_noise(cube.data))
    assert found is not None and found.shares.sum() == pytest.approx(1.0)
    rng = np.random.default_rng(1)
    covariance = shape_to_covariance(*beam)
    many = [draw_noise(noise, (npix, npix), covariance, rng) for _ in range(8)]
    true = np.mean([np.abs(np.fft.rfft2(plane)) ** 2 for plane in many], axis=0) / npix**2
    true, measured = (np.fft.irfft2(power, s=(npix, npix)) for power in (true, found.power((npix, npix))))
    reach = round(np.sqrt(beam[0] * beam[1]))
    corner = (slice(0, reach), slice(0, reach))
    np.testing.assert_allclose(measured[corner], true[corner], atol=0.08)
    white = {"white": 1.0, "mixture": 0.5}.get(noise, 0.0)
    # In small beams a kernel of less than a pixel is nearly as white.
    assert found.white == pytest.approx(white, abs=0.12)


@pytest.mark.parametrize("noise", NOISES)
def test_the_filtered_noise_is_natural_weightings(noise):
    cube, _ = make_field(noise, 30.0, (6.0, 6.0, 0.0), 4, npix=192, sources=0)
    natural, model = as_natural(cube, channel_noise(cube.data))
    if noise == "beam":
        assert natural is cube and model == NoiseModel()
        return
    assert natural is not cube
    again = measure_power(natural, natural.psf[0], channel_noise(natural.data))
    transfer = np.fft.rfft2(np.fft.ifftshift(natural.psf[0])).real
    power = again.power(natural.psf.shape[1:])
    weighted = [(image * np.clip(transfer, 0, None)).sum() / image.sum() for image in (power, transfer)]
    # Noise smoother than the beam is left a little so: undone entirely, the beam would be a pixel.
    assert weighted[0] == pytest.approx(weighted[1], rel=0.25 if noise == "smoothed" else 0.2)


def test_a_beam_is_not_made_narrower_than_the_pixels_allow():
    for beam in ((4.0, 3.2, 30.0), (2.5, 2.5, 0.0)):
        cube, _ = make_field("smoothed", 30.0, beam, 4, npix=128, sources=0)
        natural, _ = as_natural(cube, channel_noise(cube.data))
        minor = covariance_to_shape(natural.beam_covariance())[1]
        assert minor >= min(LEAST_BEAM, 0.95 * beam[1])


def test_too_little_between_the_sources_is_left_alone():
    cube, _ = make_field("white", 1000.0, (12.0, 12.0, 0.0), 1, npix=96, sources=1)
    crowded = replace(cube, data=cube.data[:, 20:64, 20:64], pb=cube.pb[:, 20:64, 20:64])
    assert measure_power(crowded, crowded.psf[0], channel_noise(crowded.data)) is None


def test_what_has_sidelobes():
    cube, _ = make_field("white", 30.0, (6.0, 4.0, 20.0), 1, npix=64, sources=0)
    assert not has_sidelobes(cube) and not has_sidelobes(replace(cube, psf_is_measured=True))
    psf = cube.psf.copy()
    psf[0, 64, 90] = -0.05
    assert has_sidelobes(replace(cube, psf=psf))
    assert not has_sidelobes(replace(cube, psf=0.0 * psf))


@pytest.mark.parametrize("noise", ["white", "half", "mixture"])
def test_every_source_once_and_the_same_without_a_psf(noise):
    score = Score(noise, False, 1)
    for ratio, beam in ((100.0, BEAMS[0]), (30.0, BEAMS[1])):
        cube, planted = make_field(noise, ratio, beam, 0, npix=128)
        without, given = (run(one, FilterNetworks()).catalogue for one in (cube, replace(cube, psf_is_measured=True)))
        for name in ("x", "y", "continuum", "continuum_err", "fwhm_maj", "snr"):
            np.testing.assert_array_equal(without[name], given[name])
        add_score(score, without, planted, cube.beam_pixels())
    assert score.sources > 7 and score.missed == 0 and score.extra == 0
    assert 0.5 < score.row()["flux"] < 1.6 and 0.5 < score.row()["place"] < 1.6


def test_lines_in_white_noise_without_a_psf():
    score = Score("white", False, 16)
    cube, planted = make_field("white", 50.0, (5.0, 4.0, 60.0), 2, npix=96, nchan=16, sources=3)
    add_score(score, run(cube, FilterNetworks()).catalogue, planted, cube.beam_pixels())
    assert score.sources == 3 and score.missed == 0 and score.extra == 0
    assert score.row()["flux"] < 2.0
