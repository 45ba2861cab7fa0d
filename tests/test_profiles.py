"""Exponential discs as sums of Gaussians: how exact, their gradients, and the choice between the two."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import fft

from casa_deepfocus.core.component import Component
from casa_deepfocus.core.cube import Cube
from casa_deepfocus.core.fit import JointFit
from casa_deepfocus.core.geometry import FWHM_PER_SIGMA, shape_to_covariance
from casa_deepfocus.core.profiles import (
    EXPONENTIAL,
    GAUSSIAN,
    PARTS,
    mismatch,
    observed_peak,
    profile_transform,
    profile_transforms,
)
from casa_deepfocus.core.psf import Imager, gaussian_psf
from casa_deepfocus.pipeline import Options, joint
from casa_deepfocus.pipeline.state import Search
from sim.discs import Rotation, disc_stamp
from tests.fake_networks import FilterNetworks

NPIX, NCHAN, BEAM = 64, 24, 6.0
PLACE = (31.3, 32.6)


def disc_transform(grid: tuple[int, int], fwhm: float, inclination: float, pa: float) -> np.ndarray:
    """The simulator's disc, from its own pixels, about `PLACE`."""
    stamp = disc_stamp(fwhm, pa, Rotation(0.0, 1.0, 1.0, inclination))
    image = stamp.image()
    rows, columns = ((np.arange(size) - size // 2) * stamp.pitch for size in image.shape)
    fy, fx = fft.fftfreq(grid[0]), fft.rfftfreq(grid[1])
    along_y = np.exp(-2j * np.pi * np.outer(fy, rows + PLACE[1]))
    along_x = np.exp(-2j * np.pi * np.outer(columns + PLACE[0], fx))
    return along_y @ image @ along_x


def make_search(snr_per_channel: float, profile: str, fwhm: float = 9.0, seed: int = 0) -> tuple[Search, Component]:
    """A source of continuum alone with noise of its PSF, and a component that starts near it."""
    beams = np.tile([0.6, 0.6, 0.0], (NCHAN, 1))
    psf = gaussian_psf(beams, 0.1, (2 * NPIX, 2 * NPIX))
    imager = Imager(psf, (NPIX, NPIX))
    kernel = np.abs(fft.rfft2(fft.ifftshift(psf[0])))
    white = fft.rfft2(np.random.default_rng(seed).standard_normal((NCHAN, 2 * NPIX, 2 * NPIX)))
    noise = fft.irfft2(np.sqrt(kernel) * white)
    data = (noise / noise.std()).astype(np.float32)[:, :NPIX, :NPIX]
    if profile == EXPONENTIAL:
        transform = disc_transform(imager.grid, fwhm, 40.0, 30.0)
    else:
        transform = profile_transform(imager.grid, *PLACE, shape_to_covariance(fwhm, 0.766 * fwhm, 30.0), GAUSSIAN)
    unit = np.zeros((1, NPIX, NPIX), np.float32)
    Imager(psf[:1], (NPIX, NPIX)).subtract(unit, transform[None].astype(np.complex64), -np.ones((1, 1)))
    data += (snr_per_channel / unit.max()) * unit
    pb = np.ones((1, NPIX, NPIX), np.float32)
    cube = Cube(data, psf, pb, 1e11 + 1e7 * np.arange(NCHAN), beams, 0.1)
    sigma = np.ones(NCHAN)
    fit = JointFit(data, sigma, imager, cube.beam_covariance())
    search = Search(cube, FilterNetworks(), Options(), sigma, fit, imager, np.zeros(cube.shape, np.float32))
    start = Component(
        31.0, 33.0, shape_to_covariance(6.0, 6.0, 0.0), cont=snr_per_channel / unit.max(), has_line=False, has_cont=True
    )
    return search, start


def test_parts_have_the_flux_and_second_moment_of_one():
    for fluxes, variances in PARTS.values():
        assert fluxes.sum() == pytest.approx(1.0, abs=1e-6) and fluxes @ variances == pytest.approx(1.0, abs=1e-6)


@pytest.mark.parametrize(("fwhm", "gaussian"), [(0.6, 3.8e-4), (1.0, 2.4e-3), (2.0, 1.2e-2), (4.0, 2.5e-2)])
def test_an_exponential_is_nearly_exact_through_the_beam(fwhm, gaussian):
    wave = np.linspace(0.0, 8.0, 2001)  # of one standard deviation of the beam
    weight = wave * np.exp(-(wave**2) / 2)
    truth = (1.0 + (fwhm * wave) ** 2 / 3.0) ** -1.5

    def left(model):
        return 1.0 - (weight @ (truth * model)) ** 2 / ((weight @ truth**2) * (weight @ model**2))

    fluxes, variances = PARTS[EXPONENTIAL]
    assert left(fluxes @ np.exp(-0.5 * np.outer(variances, (fwhm * wave) ** 2))) < 1e-5
    best = min(left(np.exp(-0.5 * scale * (fwhm * wave) ** 2)) for scale in np.geomspace(0.3, 1.2, 400))
    assert best == pytest.approx(gaussian, rel=0.1)
    assert mismatch([fwhm**2 / FWHM_PER_SIGMA**2] * 2 + [0.0], 1.0) == pytest.approx(gaussian, rel=0.05)


def test_derivatives_by_the_covariance():
    covariance, step = np.array([9.0, 6.0, 2.0]), 0.01
    fy, fx = fft.fftfreq(48)[:, None], fft.rfftfreq(48)[None, :]
    factors = (-2 * np.pi**2 * fx**2, -2 * np.pi**2 * fy**2, -4 * np.pi**2 * fx * fy)
    _, slope = profile_transforms((48, 48), 20.2, 22.7, covariance, EXPONENTIAL)
    for number, factor in enumerate(factors):
        moved = step * np.eye(3)[number]
        two = [profile_transform((48, 48), 20.2, 22.7, covariance + sign * moved, EXPONENTIAL) for sign in (1, -1)]
        np.testing.assert_allclose((two[0] - two[1]) / (2 * step), factor * slope, atol=2e-4)


def test_a_peak_is_that_of_the_parts():
    beam = [4.0, 4.0, 0.0]
    assert observed_peak(np.zeros(3), beam, EXPONENTIAL) == pytest.approx(1.0, abs=1e-6)
    assert observed_peak([4.0, 4.0, 0.0], beam, GAUSSIAN) == pytest.approx(0.5)
    assert observed_peak([4.0, 4.0, 0.0], beam, EXPONENTIAL) > 0.5


@pytest.mark.parametrize("profile", [EXPONENTIAL, GAUSSIAN])
def test_the_likelihood_chooses_the_profile(profile):
    search, start = make_search(40.0, profile)
    assert joint.refine(search, [start]) == 1
    (found,) = search.components
    assert found.profile == profile
    size = FWHM_PER_SIGMA * np.sqrt(found.covariance[:2].sum() / 2)
    assert size == pytest.approx(9.0 * np.sqrt((1 + 0.766**2) / 2), rel=0.05)
    # Once chosen it stays, and nothing is left that would pass for another source.
    found.profiled_at = 0.0
    assert not joint.choose_profiles(search)
    mean = search.fit.residual.mean(axis=0) * np.sqrt(NCHAN)
    assert np.abs(mean).max() < 5.0


def test_a_faint_source_is_not_asked():
    search, start = make_search(1.0, EXPONENTIAL, fwhm=4.0)
    joint.refine(search, [start])
    assert all(component.profiled_at == 0.0 for component in [*search.components, *search.refused, start])
