"""Responses: exact PSFs, Briggs weights, noise counted in the uv plane, primary beams, and what cannot be observed."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

pytest.importorskip("casadata")

from casa_deepfocus.core.geometry import covariance_to_shape
from casa_deepfocus.errors import ParameterError
from sim import arrays
from sim.beams import airy
from sim.coverage import ARCSEC, Coverage, Grid
from sim.cube import nominal_transfer
from sim.response import beam_nodes, compute_response, direct_image, matched_filter_snr, response, sampling
from sim.sky import Source
from sim.stamps import source_stamps
from sim.synthesis import synthesize
from sim.weighting import briggs, find_cells

COVERAGE = Coverage(duration=1200.0, integration=120.0)
GRID = Grid(npix=96, cell=0.16, nchan=12, freq0=230e9, chan_width=40e6)


def test_direct_image_is_the_sum_over_visibilities() -> None:
    uvw = COVERAGE.uvw() * (230e9 / arrays.C_MS)
    image = direct_image(uvw[:, 0], uvw[:, 1], 128, 0.16)
    assert image[64, 64] == pytest.approx(1.0, abs=1e-8)
    weights = np.exp(2j * np.arange(len(uvw)))
    seen = direct_image(uvw[:, 0], uvw[:, 1], 128, 0.16, weights)
    for y, x in ((64, 70), (10, 100), (0, 0), (127, 3)):
        east, north = -(x - 64) * 0.16 * ARCSEC, (y - 64) * 0.16 * ARCSEC
        fringe = np.exp(2j * np.pi * (uvw[:, 0] * east + uvw[:, 1] * north))
        assert image[y, x] == pytest.approx(fringe.real.mean(), abs=1e-8)
        assert seen[y, x] == pytest.approx((weights * fringe).real.sum(), abs=1e-8 * len(uvw))


def test_interpolated_psf_is_the_channels_own() -> None:
    uvw = COVERAGE.uvw()
    resp = response(COVERAGE, GRID)
    assert len(resp.psf) < GRID.nchan
    psf = resp.channels(resp.psf)
    assert np.abs(psf[0] - psf[-1]).max() > 1e-3
    for chan in (0, 5, 11):
        scale = GRID.freq()[chan] / arrays.C_MS
        exact = direct_image(uvw[:, 0] * scale, uvw[:, 1] * scale, 192, GRID.cell)
        np.testing.assert_allclose(psf[chan], exact, atol=1e-6)


def test_briggs_weights_by_hand() -> None:
    # Two visibilities share a cell, a third lies in the conjugate of another one's: density 2, 2, 1, 1 and mirrored.
    kx, ky = np.array([3, 3, 5, -7]), np.array([1, 1, 0, 2])
    density = np.array([2.0, 2.0, 1.0, 1.0])
    factor = (5.0 * 10.0**-0.5) ** 2 * 8.0 / (2 * (4.0 + 1.0 + 1.0))
    np.testing.assert_allclose(briggs(find_cells(kx + 0.3, ky - 0.4), 0.5), 1.0 / (1.0 + density * factor))
    conjugate = briggs(find_cells(np.array([3, -3]), np.array([1, -1])), 0.5)
    np.testing.assert_allclose(conjugate, 1.0 / (1.0 + 2.0 * 2.5 * 4.0 / 8.0))
    # On the axis kx = 0 a visibility and its conjugate have the same kx.
    axis = briggs(find_cells(np.array([0, 0, 0]), np.array([4, -4, 7])), 0.5)
    factor = 2.5 * (2 * 2.0 + 2 * 1.0) / (2 * 4.0 + 2 * 1.0)
    np.testing.assert_allclose(axis, 1.0 / (1.0 + np.array([2.0, 2.0, 1.0]) * factor))


def test_briggs_psfs() -> None:
    natural = response(COVERAGE, GRID)
    areas = []
    for robust in (2.0, 0.5, -2.0):
        coverage = replace(COVERAGE, robust=robust)
        resp = response(coverage, GRID)
        assert resp.per_channel and len(resp.psf) == GRID.nchan
        np.testing.assert_allclose(resp.psf[:, 96, 96], 1.0, atol=1e-6)
        scale = GRID.freq()[3] / arrays.C_MS
        seen = sampling(coverage.uvw(), GRID, robust)
        weights = briggs(seen.cells(GRID.freq()[3], 192), robust)
        own = direct_image(seen.uv[:, 0] * scale, seen.uv[:, 1] * scale, 192, GRID.cell, weights / weights.sum())
        np.testing.assert_allclose(resp.channels(resp.psf)[3], own, atol=1e-6)
        maj, minor, _ = covariance_to_shape(resp.middle_beam())
        areas.append(maj * minor)
    maj, minor, _ = covariance_to_shape(natural.middle_beam())
    assert maj * minor >= areas[0] * 0.999 > areas[1] > areas[2]
    np.testing.assert_allclose(response(replace(COVERAGE, robust=2.0), GRID).psf[0], natural.channels(natural.psf)[0],
                               atol=5e-3)  # fmt: skip


@pytest.mark.parametrize("robust", [None, 0.5, -1.0])
def test_matched_filter_snr_is_that_of_the_visibilities(robust: float | None) -> None:
    # The image's noise sets that of a visibility: no weighting can see more than all visibilities together.
    coverage, grid, sigma = replace(COVERAGE, robust=robust), replace(GRID, nchan=4), 0.01
    resp = response(coverage, grid)
    source = Source(47.6, 48.3, 5.0, 3.0, 30.0, continuum=0.02, line=0.1, chan=1.7, line_fwhm=2.0)
    seen = sampling(coverage.uvw(), grid, robust)
    sxx, syy, sxy = source.covariance()
    expected, spectrum, beams = 0.0, source.line_spectrum(4), resp.channels(resp.pb)
    for chan, freq in enumerate(grid.freq()):
        kx, ky = (seen.uv * [-1.0, 1.0] * freq / arrays.C_MS * grid.cell * ARCSEC).T
        shape = np.exp(-2.0 * np.pi**2 * (sxx * kx * kx + syy * ky * ky + 2.0 * sxy * kx * ky))
        variance = sigma**2 / (seen.weights(freq) ** 2).sum()
        expected += ((shape * spectrum[chan] * beams[chan, 48, 48]) ** 2).sum() / variance
    snr_line, snr_continuum = matched_filter_snr(source, resp, grid.freq(), sigma)
    assert snr_line == pytest.approx(np.sqrt(expected), rel=2e-3)
    assert 0 < snr_continuum < snr_line
    if robust is not None:
        assert resp.information_mix.sum(axis=1).min() > 1.05


def test_noise_power_is_the_transfer_at_natural_weighting() -> None:
    resp, size = response(COVERAGE, GRID), GRID.padded
    power = resp.noise.power(0)
    assert power.shape == resp.transfer[0].shape == (size, size // 2 + 1)
    full = 2.0 * power.sum() - power[:, 0].sum() - power[:, -1].sum()
    assert full / size**2 == pytest.approx(1.0, rel=1e-5)
    # Its transform is the PSF, but for the width of the cells.
    middle = slice(size // 2 - 96, size // 2 + 96)
    image = np.fft.fftshift(np.fft.irfft2(power, s=(size, size)))[middle, middle]
    psf = resp.channels(resp.psf)[0]
    assert np.abs(image - psf)[91:102, 91:102].max() < 1.5e-3
    assert np.abs(image - psf)[48:145, 48:145].max() < 0.04
    assert psf[96, 91:102].min() < 0.5


def test_primary_beam_half_power() -> None:
    radius = np.linspace(0.0, 20.0, 2001) * ARCSEC
    pb = airy(radius, 230e9, 12.0)
    assert pb[0] == pytest.approx(1.0)
    # 1.13 lambda / D, and the value of tclean's own .pb at 13.4 arcsec.
    assert 2 * np.interp(-0.5, -pb, radius) == pytest.approx(1.13 * arrays.C_MS / 230e9 / 12.0, rel=0.03)
    assert pb[1340] == pytest.approx(0.4781, abs=5e-4)
    # Half power of tclean's .pb of the VLA: 42.953 arcmin at 1 GHz; of the ACA: 172.952.
    for diameter, width in ((25.0, 42.953), (7.0, 172.952)):
        half = airy(np.array([0.5 * width * 60.0 * ARCSEC]), 1e9, diameter)[0]
        assert half == pytest.approx(0.5, abs=5e-4)


def test_nodes_carry_the_primary_beam_over_any_band() -> None:
    alma, vla = Grid(256, 0.4, 256, 84e9, 32e6), Grid(256, 8.0, 64, 1e9, 16e6)
    for grid, diameter in ((Grid(), 12.0), (alma, 12.0), (vla, 25.0)):
        freqs, matrix = beam_nodes(grid, diameter)
        radius = np.linspace(0.0, 0.7 * grid.npix * grid.cell * ARCSEC, 200)
        exact = np.stack([airy(radius, freq, diameter) for freq in grid.freq()])
        assert np.ptp(exact, axis=0).max() > 2e-3 and len(freqs) < 20
        nodes = np.stack([airy(radius, freq, diameter) for freq in freqs])
        np.testing.assert_allclose(matrix @ nodes, exact, atol=1e-5)


def test_flagged_antennas_have_no_baselines() -> None:
    tracks = COVERAGE.tracks()
    assert {4, 17} <= set(tracks.first) | set(tracks.second)
    fewer = COVERAGE.without((4,)).without((17, 4))
    assert fewer.flagged_antennas == (4, 17)
    keep = ~(np.isin(tracks.first, (4, 17)) | np.isin(tracks.second, (4, 17)))
    np.testing.assert_array_equal(fewer.uvw(), tracks.uvw[keep])
    assert 0 < keep.sum() < len(keep)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"dec": 60.0}, "dec=60.0: never above 20 deg"),
        ({"hour_angle": 9.0}, "dec=-35.0: never above 20 deg"),
        ({"dec": 10.0, "duration": 43200.0, "integration": 600.0}, "duration=43200.0: the source sets"),
        ({"robust": 3.0}, "robust=3.0: not between -2 and 2"),
        ({"duration": 0.0}, "duration=0.0: not positive"),
        ({"flagged_antennas": (43,)}, "alma.cycle9.3 has the antennas 0 to 42"),
        ({"flagged_antennas": tuple(range(42))}, "fewer than two antennas"),
    ],
)
def test_what_cannot_be_observed(change: dict, message: str) -> None:
    COVERAGE.check(GRID)
    with pytest.raises(ParameterError, match=message):
        replace(COVERAGE, **change).check(GRID)
    with pytest.raises(ParameterError, match=message):
        response(replace(COVERAGE, **change), GRID)


@pytest.mark.parametrize("change", [{"npix": 97}, {"npix": 0}, {"cell": 0.0}, {"nchan": 0}, {"freq0": -1.0}])
def test_grids_that_cannot_be(change: dict) -> None:
    (name, value), *_ = change.items()
    with pytest.raises(ParameterError, match=f"{name}={value}: not"):
        COVERAGE.check(replace(GRID, **change))


def test_pixels_too_large() -> None:
    beam = COVERAGE.beam_arcsec(230e9)
    COVERAGE.check(replace(GRID, cell=0.4 * beam))
    with pytest.raises(ParameterError, match="cell.*larger than half the beam"):
        COVERAGE.check(replace(GRID, cell=0.65 * beam))
    with pytest.raises(ParameterError, match="cell.*too coarse"):
        compute_response(COVERAGE.uvw(), 12.0, replace(GRID, cell=1.0))


def test_points_and_narrow_sources_are_exact_at_any_place() -> None:
    resp = response(COVERAGE, GRID)
    for fwhm in (0.0, 0.3, 1.0, 2.2):
        source = Source(48.37, 47.81, fwhm, fwhm, 0.0, continuum=1.0)
        image = synthesize([source_stamps(source, GRID, 1e-3)], nominal_transfer(resp))[0]
        # The exact image: the sum over the visibilities.
        scale = GRID.freq()[0] / arrays.C_MS
        uvw = COVERAGE.uvw() * scale
        u, v = uvw[:, 0] * GRID.cell * ARCSEC, uvw[:, 1] * GRID.cell * ARCSEC
        factor = np.exp(-2.0 * np.pi**2 * source.covariance()[0] * (u**2 + v**2))
        factor = factor * np.exp(-2j * np.pi * (-u * (source.x - 48) + v * (source.y - 48))) / len(u)
        exact = direct_image(uvw[:, 0], uvw[:, 1], 96, GRID.cell, factor)
        assert exact.max() > 0.8
        np.testing.assert_allclose(image, exact, atol=2e-6)
