"""What the data cannot tell does not run away: components as large as the image, with fluxes that nothing measures."""

from __future__ import annotations

import numpy as np
import pytest

from casa_deepfocus.core import fit as fitting
from casa_deepfocus.core.component import Component
from casa_deepfocus.core.fit import JointFit
from casa_deepfocus.core.geometry import covariance_to_shape, shape_to_covariance
from casa_deepfocus.core.psf import Imager, gaussian_psf
from casa_deepfocus.pipeline import Options, joint
from casa_deepfocus.pipeline.state import Search
from sim.cube import simulate_cube
from sim.defects import Defects
from sim.response import Coverage, Grid
from sim.sky import Source
from tests.fake_networks import FilterNetworks

GRID = Grid(npix=56, nchan=8, cell=1.6, freq0=100e9)
NOISE = 8e-3
FLAGGED = (0, 3, 7)
"""Seven antennas are left: high sidelobes, and few short spacings."""


def observe(sources, outside: Source | None = None, **coverage):
    return simulate_cube(
        list(sources),
        Coverage(array="aca.cycle9", integration=60.0, **coverage),
        GRID,
        NOISE,
        np.random.default_rng(3),
        defects=Defects(outside=outside, flagged_antennas=FLAGGED),
    )


def fitted(cube, sources, share: float) -> list[Component]:
    """The sources fitted from points beside them with a share of their flux."""
    beam = cube.beam_covariance()
    fit = JointFit(np.nan_to_num(cube.data), np.full(GRID.nchan, NOISE), Imager(cube.psf, cube.shape), beam)
    point = 0.05 * beam
    found = [
        Component(
            s.x + 0.6,
            s.y - 0.5,
            point,
            has_line=False,
            has_cont=True,
            cont=share * s.continuum,
            prior_covariance=point,
        )
        for s in sources
    ]
    fit.fit(found)
    return found


def longest(components) -> float:
    return max(float(covariance_to_shape(c.covariance)[0]) for c in components)


@pytest.fixture(scope="module")
def beside():
    """Four points, and one ten times as bright just outside of a small image."""
    sources = [
        Source(x, y, 0, 0, 0, continuum=f) for x, y, f in ((18, 21, 0.4), (40, 34, 0.4), (34, 12, 0.3), (12, 40, 0.3))
    ]
    outside = Source(30.0, -9.0, 0, 0, 0, continuum=3.0)
    return observe(sources, outside, dec=-10.0, hour_angle=2.0, duration=600.0), sources


def test_no_component_is_wider_than_half_of_the_image(beside, monkeypatch):
    cube, sources = beside
    with monkeypatch.context() as patch:
        patch.setattr(fitting, "LARGEST_PART", 10.0)
        patch.setattr(fitting, "GROWN", 0.0)
        assert longest(fitted(cube, sources, 0.1)) > 0.8 * GRID.npix, "it must grow where nothing holds it"
    assert longest(fitted(cube, sources, 0.1)) <= 0.5 * GRID.npix + 1e-6


def test_stamps_are_bounded_and_say_the_same(beside):
    """Components all over the image, one as wide as allowed: the same likelihood as on stamps without bound."""
    cube, _ = beside
    known, beam = np.ones(cube.shape, bool), cube.beam_covariance()
    wide = Component(50.0, 6.0, shape_to_covariance(28.0, 9.0, 70.0), has_line=False, has_cont=True, cont=1.0)
    point = Component(9.0, 48.0, 0.1 * beam, has_line=False, has_cont=True, cont=0.5)
    imager, weights = Imager(cube.psf, cube.shape), np.full(GRID.nchan, NOISE**-2)

    def group(shape) -> fitting._Group:
        data = np.zeros((GRID.nchan, *shape), np.float32)
        data[:, : cube.shape[0], : cube.shape[1]] = np.nan_to_num(cube.data)
        seen = np.zeros(shape, bool)
        seen[: cube.shape[0], : cube.shape[1]] = known
        return fitting._Group([wide, point], data, seen, imager, weights, beam, 1e3)

    bounded, free = group(cube.shape), group((400, 400))
    assert free.stamp.size > 1.15 * bounded.stamp.size, "the bound must be felt"
    moved = [wide.vector() + 0.2, point.vector() + 0.2]
    assert bounded.gain(moved) == pytest.approx(free.gain(moved), rel=1e-4)
    matrices = [g.normal_equations(moved)[1] for g in (bounded, free)]
    scale = 1.0 / np.sqrt(np.diag(matrices[1]))
    scaled = [m * np.outer(scale, scale) for m in matrices]
    np.testing.assert_allclose(scaled[0], scaled[1], atol=1e-4)


def test_what_has_grown_for_others_starts_again(monkeypatch):
    """Five sources, the first of which is fitted while the other four are not subtracted yet."""
    points = ((21, 22, 0.3), (50, 37, 0.9), (46, 28, 1.2), (15, 42, 0.6))
    sources = [Source(x, y, 0, 0, 0, continuum=flux) for x, y, flux in points]
    sources.insert(2, Source(36, 6, 6, 4, 30, continuum=0.4))
    cube = observe(sources, dec=-60.0, hour_angle=4.0, duration=60.0)
    with monkeypatch.context() as patch:
        patch.setattr(fitting, "GROWN", 0.0)
        grown = fitted(cube, sources, 0.0)
    assert max(c.cont for c in grown) > 5.0, "without it they must run away"
    assert min(c.response for c in grown) < fitting.GROWN
    found = fitted(cube, sources, 0.0)
    assert max(c.cont for c in found) < 1.2 and longest(found) < 12.0
    assert all(c.fit_shape for c in found)


def gaussian_array(short: float = 0.0) -> tuple[Imager, np.ndarray]:
    """A PSF of FWHM 5 without sidelobes, less what spacings shorter than those of a Gaussian of width `short` see."""
    psf = gaussian_psf([[5.0, 5.0, 0.0]], 1.0, (256, 256))
    if short:
        beam2 = 25.0 / short**2
        psf = (psf - beam2 * gaussian_psf([[short, short, 0.0]], 1.0, (256, 256))) / (1.0 - beam2)
    return Imager(psf.astype(np.float32), (128, 128)), shape_to_covariance(5.0, 5.0, 0.0)


@pytest.mark.parametrize(("size", "expected"), [(0.0, 1.0), (5.0, 1 / 3), (10.0, 1 / 9), (20.0, 1 / 33)])
def test_response_is_what_the_baselines_see(size, expected):
    imager, beam = gaussian_array()
    fit = JointFit(np.zeros((1, 128, 128), np.float32), np.ones(1), imager, beam)
    component = Component(64.0, 64.0, shape_to_covariance(size, size, 0.0), has_line=False, has_cont=True, cont=1.0)
    fit.measure([component])
    assert component.response == pytest.approx(expected, rel=0.02)


@pytest.mark.parametrize(("short", "kept"), [(0.0, True), (25.0, False)])
def test_a_source_between_the_shortest_baselines_has_no_flux(short, kept):
    """With all spacings a source of five beams is one; without the shortest its flux would be made up."""
    imager, beam = gaussian_array(short)
    component = Component(64.0, 64.0, shape_to_covariance(25.0, 25.0, 0.0), has_line=False, has_cont=True, cont=50.0)
    cube = simulate_cube([], Coverage(), Grid(npix=128, nchan=4), NOISE, None)
    fit = JointFit(np.zeros((4, 128, 128), np.float32), np.full(4, 0.01), imager, beam)
    search = Search(
        cube, FilterNetworks(), Options(), np.full(4, 0.01), fit, imager, np.zeros((4, 128, 128), np.float32)
    )
    fit.measure([component])
    assert component.snr_cont > 50, "it must be significant"
    search.components = [component]
    assert joint.prune(search) is not kept
    assert (component in search.components) is kept and (component in search.refused) is not kept
