"""Sources wider than the beam stand out at coarser resolutions, where they are."""

from __future__ import annotations

import numpy as np
import pytest

from casa_deepfocus.core.detection import LineSearch
from casa_deepfocus.core.geometry import gaussian_image, shape_to_covariance
from casa_deepfocus.core.noise import channel_noise
from casa_deepfocus.core.scales import CoarseCube
from casa_deepfocus.pipeline import extended, run
from casa_deepfocus.pipeline.joint import refine
from sim.cube import simulate_cube
from sim.response import Coverage, Grid
from sim.sky import Source
from tests.fake_networks import FilterNetworks
from tests.test_pipeline_steps import line_at, make_search

NCHAN, BEAM = 24, 6.0
GRID = Grid(npix=160, nchan=48)
FAINT = Source(75.0, 80.0, 34.0, 32.0, 40.0, line=0.02, chan=20.0, line_fwhm=6.0)


def noisy(shape, seed=0):
    """White noise of rms 1 through the beam, and a wide Gaussian of 4 sigma a pixel over 6 channels."""
    rng = np.random.default_rng(seed)
    kernel = np.fft.rfft2(np.fft.ifftshift(gaussian_image(shape, shape[1] // 2, shape[0] // 2, beam())))
    noise = np.fft.irfft2(kernel * np.fft.rfft2(rng.standard_normal((NCHAN, *shape))), s=shape)
    return (noise / noise.std()).astype(np.float32)


def beam():
    return shape_to_covariance(BEAM, BEAM, 0.0)


def test_a_wide_source_stands_higher_where_it_is():
    line = noisy((96, 90))
    line[8:14] += 2.2 * gaussian_image((96, 90), 33.3, 61.7, shape_to_covariance(15.0, 15.0, 0.0)).astype(np.float32)
    native = LineSearch(line, channel_noise(line)).window(8, 13)[58:66, 30:38].max()
    coarse = CoarseCube(line, BEAM, 2.0 * BEAM)
    assert coarse.step == 3 and coarse.data.shape == (NCHAN, 32, 30)
    best = coarse.peaks(5.0, np.ones((96, 90), bool))[0]
    assert native < 7.5 and best.snr > 1.2 * native
    assert np.hypot(best.x - 33.3, best.y - 61.7) < 3.0
    assert best.chan == pytest.approx(10.5, abs=1.0) and 4 <= best.width <= 8


def test_places_and_variance_do_not_depend_on_the_pixels():
    point = np.zeros((1, 90, 90), np.float32)
    point[0, 45, 44] = 1.0
    for kernel in (8.0, 14.0):
        coarse = CoarseCube(point, 8.0, kernel)
        plane = coarse.data[0] / coarse.data.sum()
        at = np.array([coarse.place(float(index)) for index in range(len(plane))])
        x, y = plane.sum(axis=0) @ at, plane.sum(axis=1) @ at
        assert (x, y) == pytest.approx((44.0, 45.0), abs=0.05 if coarse.step == 1 else 0.51 * coarse.step)
        spread = plane.sum(axis=0) @ (at - x) ** 2
        # A point lies anywhere in its pixel.
        assert spread == pytest.approx((kernel / 2.3548) ** 2 - (coarse.step**2 - 1) / 12.0, rel=0.03)


def test_what_is_blank_stays_blank():
    line = noisy((64, 64))
    line[:, :, :20] = np.nan
    coarse = CoarseCube(line, BEAM, BEAM)
    assert np.isnan(coarse.data[:, :, : 20 // coarse.step]).all()
    assert np.isfinite(coarse.data[:, :, 20 // coarse.step + 1 :]).all()
    everything = coarse.peaks(2.0, np.ones((64, 64), bool))
    assert everything and min(peak.x for peak in everything) >= 18
    assert coarse.peaks(2.0, np.zeros((64, 64), bool)) == []


def test_too_small_an_image_is_left_alone():
    line = noisy((18, 18))
    assert CoarseCube(line, BEAM, 2.0 * BEAM).peaks(0.0, np.ones((18, 18), bool)) == []
    blank = np.full((NCHAN, 64, 64), np.nan, np.float32)
    assert CoarseCube(blank, BEAM, BEAM).peaks(0.0, np.ones((64, 64), bool)) == []


def test_a_faint_wide_line_is_found_only_so(monkeypatch):
    cube = simulate_cube([FAINT], Coverage(), GRID, 1e-3, np.random.default_rng(6))
    found = run(cube, FilterNetworks()).catalogue
    assert len(found) == 1 and np.hypot(found["x"][0] - FAINT.x, found["y"][0] - FAINT.y) < 6.0
    assert found["chan"][0] == pytest.approx(FAINT.chan, abs=2.0) and found["snr"][0] > 6.5
    monkeypatch.setattr(extended, "KERNELS", ())
    assert len(run(cube, FilterNetworks()).catalogue) == 0, "it would have been found without"


def test_what_fitted_sources_leave_is_no_candidate():
    search = make_search()
    bright = line_at(32.0, 40.0, chan=15.0, fwhm=5.0, amp=400.0)
    shape = (search.fit.data.shape[1:], bright.x, bright.y)
    wide = gaussian_image(*shape, shape_to_covariance(20.0, 20.0, 0.0)).astype(np.float32)
    search.fit.data[12:19] += 2.0 * wide
    search.fit.update_residual([])
    assert len(extended.extended_lines(search, search.fit.residual)) > 0
    search.components = [bright]
    search.fit.imager.subtract(
        search.fit.data, _transform(search, bright), -bright.spectrum(len(search.fit.data))[None]
    )  # fmt: skip
    search.fit.update_residual(search.components)
    assert extended.extended_lines(search, search.fit.residual) == []


def _transform(search, component):
    from casa_deepfocus.core.psf import gaussian_transform

    return gaussian_transform(search.imager.grid, component.x, component.y, component.covariance)[None]


def test_nothing_is_looked_for_without_lines():
    search = make_search(mode="continuum")
    assert extended.extended_lines(search, search.fit.residual) == []
    assert refine(search, []) == 0
