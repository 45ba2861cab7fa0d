"""The joint fit recovers planted sources with errors that mean something."""

from __future__ import annotations

import numpy as np
import pytest

from casa_deepfocus.core.component import NAMES, Component
from casa_deepfocus.core.fit import JointFit, groups_of
from casa_deepfocus.core.geometry import covariance_to_shape, shape_to_covariance
from casa_deepfocus.core.psf import Imager, gaussian_transform
from sim.psflib import load_library

NPIX, NCHAN = 128, 24


@pytest.fixture(scope="module")
def array():
    library = load_library("test")
    entry = int(np.flatnonzero(np.isnan(library.robust))[0])
    weights, noise = library.weights([entry])
    psf = np.fft.fftshift(np.fft.irfft2(weights[0], s=(256, 256))).astype(np.float32)[None]
    return Imager(psf, (NPIX, NPIX)), noise[0], shape_to_covariance(*library.beam[entry])


def noise_cube(amplitude, rng):
    white = rng.standard_normal((NCHAN, 256, 256))
    return np.fft.irfft2(amplitude * np.fft.rfft2(white), s=(256, 256))[:, :NPIX, :NPIX].astype(np.float32)


def observe(imager, sources, data):
    transforms = np.stack([gaussian_transform(imager.grid, s.x, s.y, s.covariance) for s in sources])
    imager.subtract(data, transforms, -np.array([s.spectrum(NCHAN) for s in sources]))
    return data


def source(x, y, **values):
    shape = shape_to_covariance(values.pop("maj", 3.0), values.pop("minor", 2.0), values.pop("pa", 40.0))
    return Component(x, y, shape, has_cont=True, has_slope=True, **values)


def test_noise_free_truth_is_recovered_exactly(array):
    imager, _, beam = array
    truth = [
        source(60.3, 50.7, amp=20.0, chan=8.2, fwhm=4.0, cont=3.0, slope=0.05),
        source(64.0, 52.0, amp=12.0, chan=15.0, fwhm=5.0, cont=1.0),
        source(20.0, 100.0, amp=9.0, chan=12.0, fwhm=3.0),
    ]
    data = observe(imager, truth, np.zeros((NCHAN, NPIX, NPIX), np.float32))
    assert data.max() > 10, "the truth must not be trivial"
    start = [
        Component(
            t.x + 0.6,
            t.y - 0.5,
            0.4 * beam,
            amp=0.7 * t.amp,
            chan=t.chan + 0.5,
            fwhm=1.4 * t.fwhm,
            has_cont=True,
            has_slope=True,
        )
        for t in truth
    ]
    fit = JointFit(data, np.ones(NCHAN), imager, beam)
    fit.fit(start, sweeps=12, iterations=20)
    assert np.abs(fit.residual).max() < 2e-2
    for found, true in zip(start, truth, strict=True):
        assert np.hypot(found.x - true.x, found.y - true.y) < 0.02
        assert found.amp == pytest.approx(true.amp, rel=0.01)
        assert found.fwhm == pytest.approx(true.fwhm, rel=0.01)
        np.testing.assert_allclose(
            covariance_to_shape(found.covariance)[:2], covariance_to_shape(true.covariance)[:2], rtol=0.05
        )


def test_errors_are_the_scatter_over_noise_draws(array):
    imager, amplitude, beam = array
    true = source(60.0, 64.0, amp=9.0, chan=11.6, fwhm=5.0, cont=2.0)
    clean = observe(imager, [true], np.zeros((NCHAN, NPIX, NPIX), np.float32))
    rng = np.random.default_rng(20261120)
    pulls = []
    for _ in range(60):
        start = Component(60.4, 63.7, 0.3 * beam, amp=7.0, chan=11.0, fwhm=6.0, has_cont=True, has_slope=True)
        JointFit(clean + noise_cube(amplitude, rng), np.ones(NCHAN), imager, beam).fit([start])
        assert start.snr_line > 8
        pulls.append([(a - b) / start.errors[n] for n, a, b in zip(NAMES, start.vector(), true.vector(), strict=True)])
    spread = 1.4826 * np.median(np.abs(pulls), axis=0)
    # 60 draws of a standard normal: the robust spread scatters by 0.15, the mean by 0.13.
    assert np.all((spread > 0.6) & (spread < 1.45)), dict(zip(NAMES, spread, strict=True))
    assert np.all(np.abs(np.mean(pulls, axis=0)) < 0.5)


def test_unresolved_source_comes_out_small(array):
    imager, _, beam = array
    true = Component(64.25, 61.5, np.zeros(3), amp=15.0, chan=10.0, fwhm=4.0)
    data = observe(imager, [true], np.zeros((NCHAN, NPIX, NPIX), np.float32))
    start = Component(64.0, 62.0, 0.3 * beam, amp=10.0, chan=10.0, fwhm=4.0)
    JointFit(data, np.ones(NCHAN), imager, beam).fit([start], sweeps=6, iterations=20)
    assert float(covariance_to_shape(start.covariance)[0]) < 0.2 * 5.0
    assert start.amp == pytest.approx(15.0, rel=0.01)


def test_blank_pixels_and_flagged_channels_do_not_enter(array):
    imager, _, beam = array
    true = source(60.0, 64.0, amp=15.0, chan=11.0, fwhm=5.0, cont=3.0)
    data = observe(imager, [true], np.zeros((NCHAN, NPIX, NPIX), np.float32))
    data[3] = 1e6
    sigma = np.ones(NCHAN)
    sigma[3] = np.nan
    data[:, :20] = np.nan
    start = source(60.5, 64.5, amp=10.0, chan=11.5, fwhm=5.0, cont=2.0)
    JointFit(data, sigma, imager, beam).fit([start], sweeps=6, iterations=20)
    assert start.amp == pytest.approx(15.0, rel=0.02)


def test_spectrum_of_a_source_ignores_its_neighbours(array):
    imager, _, beam = array
    truth = [source(60.0, 60.0, amp=20.0, chan=8.0, fwhm=4.0), source(70.0, 60.0, amp=30.0, chan=16.0, fwhm=4.0)]
    data = observe(imager, truth, np.zeros((NCHAN, NPIX, NPIX), np.float32))
    fit = JointFit(data, np.ones(NCHAN), imager, beam)
    fit.fit(truth, sweeps=1)
    np.testing.assert_allclose(fit.source_spectrum(truth[0]), truth[0].spectrum(NCHAN), atol=0.05)


def test_groups_are_chains_of_neighbours():
    components = [Component(x, 50.0, np.zeros(3)) for x in (10.0, 60.0, 16.0, 22.0)]
    assert sorted(sorted(group) for group in groups_of(components, 5.0)) == [[0, 2, 3], [1]]


def test_a_line_at_the_end_of_the_band_is_not_taken_for_a_slope(array):
    imager, amplitude, beam = array
    true = Component(60.0, 64.0, 0.2 * beam, amp=4.0, chan=2.0, fwhm=6.0, cont=3.0, has_cont=True)
    data = observe(imager, [true], noise_cube(amplitude, np.random.default_rng(8)))
    scale = 5.0 * 10e6 / 100e9
    bare = Component(60.2, 63.8, 0.2 * beam, cont=3.0, has_line=False, has_cont=True, has_slope=True, slope_scale=scale)
    fit = JointFit(data, np.ones(NCHAN), imager, beam)
    fit.fit([bare])
    assert abs(bare.slope) < 10 * scale * bare.cont
    left = fit.source_spectrum(bare) - bare.spectrum(NCHAN)
    assert left[:5].mean() > 1.5, "the line must be left in the residual"
    free = Component(60.2, 63.8, 0.2 * beam, cont=3.0, has_line=False, has_cont=True, has_slope=True)
    fit.fit([free])
    assert abs(free.slope) > 50 * scale * free.cont, "without the prior the slope takes the line"


def test_a_line_without_flux_has_no_place(array):
    imager, _, beam = array
    flat = Component(60.0, 64.0, 0.2 * beam, amp=0.0, chan=10.0, fwhm=4.0, cont=5.0, has_cont=True)
    fit = JointFit(observe(imager, [flat], np.zeros((NCHAN, NPIX, NPIX), np.float32)), np.ones(NCHAN), imager, beam)
    fit.update_residual([flat])
    fit.measure([flat])
    assert flat.snr_line == 0.0 and flat.snr_cont > 5
    assert np.isfinite(flat.errors["cont"]) and not flat.errors["chan"] < 1e3


def test_the_slope_is_shared_between_data_and_prior(array):
    """Where the prior is as tight as the data, the slope comes out half way to 0; the variances add as inverses."""
    imager, _, beam = array
    known = {"has_line": False, "has_cont": True, "has_slope": True, "fit_shape": False}
    true = Component(60.0, 64.0, 0.2 * beam, cont=3.0, slope=0.2, **known)
    fit = JointFit(observe(imager, [true], np.zeros((NCHAN, NPIX, NPIX), np.float32)), np.ones(NCHAN), imager, beam)
    found = Component(60.0, 64.0, 0.2 * beam, cont=3.0, slope=0.1, **known)
    fit.fit([found], sweeps=4)
    error = found.errors["slope"]
    assert found.slope == pytest.approx(0.2, rel=0.01) and error < 0.1
    found.slope_scale = error / found.cont
    fit.fit([found], sweeps=6)
    assert found.slope == pytest.approx(0.1, rel=0.05)
    spread = found.slope_scale * found.cont
    assert found.errors["slope"] == pytest.approx((error**-2 + spread**-2) ** -0.5, rel=0.01)


def test_edge_of_the_data_holds_up_no_component(array):
    imager, amplitude, beam = array
    data = noise_cube(amplitude, np.random.default_rng(5))
    # Most of it lies where there are no data, the end of it on them.
    data[:, :60] = np.nan
    start = Component(64.0, 58.0, shape_to_covariance(3.0, 14.0, 90.0), has_line=False, has_cont=True, cont=12.0)
    fit = JointFit(data, np.ones(NCHAN), imager, beam)
    fit.measure([start])
    assert start.snr_cont > 10, "what it starts from must look like a source"
    fit.fit([start])
    assert start.snr_cont < 4.0


def test_no_component_leaves_the_data(array):
    """The lobe of a source beyond the edge reaches onto the data: what is fitted to it must not run away."""
    imager, amplitude, beam = array
    outside = Component(64.0, 57.0, 0.3 * beam, has_line=False, has_cont=True, cont=60.0)
    data = observe(imager, [outside], noise_cube(amplitude, np.random.default_rng(5)))
    data[:, :60] = np.nan
    found = Component(64.0, 61.0, 0.3 * beam, has_line=False, has_cont=True, cont=10.0)
    fit = JointFit(data, np.ones(NCHAN), imager, beam)
    for _ in range(3):
        fit.fit([found])
    assert found.snr_cont > 5, "it must be seen"
    assert round(found.y) >= 60 and found.cont < 120.0


def test_fit_alone_is_the_fit_of_one(array):
    imager, amplitude, beam = array
    true = source(60.0, 64.0, amp=9.0, chan=11.6, fwhm=5.0, cont=2.0)
    data = observe(imager, [true], noise_cube(amplitude, np.random.default_rng(3)))
    alone, jointly = (
        Component(60.4, 63.7, 0.3 * beam, amp=7.0, chan=11.0, fwhm=6.0, has_cont=True, cont=1.0) for _ in range(2)
    )
    fit = JointFit(data, np.ones(NCHAN), imager, beam)
    fit.fit_alone(alone, iterations=20)
    np.testing.assert_array_equal(fit.residual, data)
    fit.fit([jointly], iterations=20)
    assert jointly.snr_line > 10
    assert alone.snr_line == pytest.approx(jointly.snr_line, rel=0.02)
    for name in ("x", "y", "amp", "cont", "chan"):
        assert abs(getattr(alone, name) - getattr(jointly, name)) < 0.1 * jointly.errors[name], name


class Falling:
    """An image divided by a noise that is twice as high on its right side as on its left."""

    def on(self, x, y, x0, y0):
        return np.tile((1.0 + x0 / NPIX) / (1.0 + x / NPIX), (len(y), 1)).astype(np.float32)


def test_a_fit_knows_the_modulation_of_sidelobes(array):
    imager, _, beam = array
    modulated = Imager(imager.psf, imager.shape, modulation=Falling())
    truth = [
        source(30.3, 50.7, amp=20.0, chan=8.2, fwhm=4.0, cont=3.0, slope=0.05),
        source(40.0, 52.0, amp=12.0, chan=15.0, fwhm=5.0, cont=1.0),
        source(100.0, 100.0, amp=9.0, chan=12.0, fwhm=3.0),
    ]
    data = np.zeros((NCHAN, NPIX, NPIX), np.float32)
    for one in truth:
        transform = gaussian_transform(imager.grid, one.x, one.y, one.covariance)[None]
        modulated.subtract(data, transform, -one.spectrum(NCHAN)[None], [(one.x, one.y)])
    left = {}
    for name, used in (("modulated", modulated), ("plain", imager)):
        fit = JointFit(data, np.ones(NCHAN), used, beam)
        found = [
            Component(t.x + 0.6, t.y - 0.5, 0.4 * beam, amp=0.7 * t.amp, chan=t.chan + 0.5, fwhm=1.4 * t.fwhm,
                      has_cont=True, has_slope=True)
            for t in truth
        ]  # fmt: skip
        fit.fit(found, sweeps=8)
        left[name] = float(np.abs(fit.residual).max())
        if name == "modulated":
            for one, other in zip(found, truth, strict=True):
                # Noise that rises by 7 % over a beam draws a source to the quieter side, a little.
                assert (one.x, one.y) == pytest.approx((other.x, other.y), abs=0.03)
                assert one.amp == pytest.approx(other.amp, rel=5e-3)
    assert left["modulated"] < 0.1 < 0.3 < left["plain"]
