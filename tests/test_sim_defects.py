"""Defects: what they say they do to the fast backend's data, and to nothing else."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

pytest.importorskip("casadata")

from casa_deepfocus.errors import ParameterError
from sim import arrays
from sim.beams import airy
from sim.coverage import ARCSEC, Coverage, Grid
from sim.cube import simulate_cube
from sim.defects import Defects
from sim.response import direct_image
from sim.sky import Rotation, Source, disc

COVERAGE = Coverage(duration=1200.0, integration=120.0)
GRID = Grid(npix=96, cell=0.16, nchan=6, freq0=230e9, chan_width=40e6)
SOURCE = Source(40.0, 56.0, 0.0, 0.0, 0.0, continuum=1.0, alpha=1.0)


def clean(coverage: Coverage = COVERAGE, grid: Grid = GRID, **changes: object):
    """A cube of the one source without noise."""
    return simulate_cube([SOURCE], coverage, grid, 0.0, None, defects=Defects(**changes))


@pytest.mark.parametrize("robust", [None, 0.0])
def test_wrong_gains_change_the_sky_but_not_the_psf(robust: float | None) -> None:
    coverage = replace(COVERAGE, robust=robust)
    defects = Defects(phase_rms=20.0, amplitude_rms=0.1, gain_interval=400.0, seed=5)
    wrong = simulate_cube([SOURCE], coverage, GRID, 0.0, None, defects=defects)
    right = simulate_cube([SOURCE], coverage, GRID, 0.0, None)
    np.testing.assert_array_equal(wrong.psf, right.psf)
    assert np.abs(wrong.data - right.data).max() > 0.03
    # By hand: every visibility of the point, times its gains.
    array = arrays.read_array(coverage.array)
    gains = defects.gains(array.nant, np.arange(10) * 120.0)
    tracks = coverage.tracks()
    freq = GRID.freq()[2]
    u, v = (tracks.uvw[:, :2] * freq / arrays.C_MS).T
    east, north = -(SOURCE.x - 48) * GRID.cell * ARCSEC, (SOURCE.y - 48) * GRID.cell * ARCSEC
    seen = gains[tracks.time, tracks.first] * gains[tracks.time, tracks.second].conj()
    seen = seen * np.exp(-2j * np.pi * (u * east + v * north))
    beam = airy(np.hypot(east, north), freq, 12.0)
    weights = 1.0 / len(u)
    if robust is not None:
        from sim.response import sampling

        weights = sampling(tracks.uvw, GRID, robust).weights(freq)
    expected = direct_image(u, v, 96, GRID.cell, weights * seen) * beam * SOURCE.spectrum(GRID.freq())[2]
    np.testing.assert_allclose(wrong.data[2], expected, atol=5e-6)


def test_noise_does_not_know_the_gains() -> None:
    defects = Defects(phase_rms=30.0, seed=5)
    cubes = [
        simulate_cube([], COVERAGE, GRID, 1e-3, np.random.default_rng(3), defects=each).data
        for each in (defects, Defects())
    ]
    np.testing.assert_allclose(cubes[0], cubes[1], atol=1e-8)


def test_gains_hang_on_the_interval_alone() -> None:
    defects = Defects(phase_rms=10.0, amplitude_rms=0.05, gain_interval=60.0, seed=3)
    often, seldom = defects.gains(43, np.arange(0.0, 600.0, 10.0)), defects.gains(43, np.arange(0.0, 600.0, 30.0))
    assert often.shape == (60, 43)
    np.testing.assert_array_equal(often[::3], seldom)
    assert len(np.unique(often[:, 0])) == 10
    assert len(np.unique(replace(defects, gain_interval=0.0).gains(43, np.arange(60.0))[:, 0])) == 1
    assert (replace(defects, seed=4).gains(43, [0.0]) != often[0]).all()
    # The origin of time does not matter.
    np.testing.assert_array_equal(defects.gains(43, 5e9 + np.arange(0.0, 600.0, 10.0)), often)
    many = replace(defects, gain_interval=1.0).gains(43, np.arange(500.0))
    assert np.rad2deg(np.angle(many)).std() == pytest.approx(10.0, rel=0.03)
    assert np.abs(many).std() == pytest.approx(0.05, rel=0.03)
    np.testing.assert_array_equal(Defects().gains(5, [0.0, 1.0]), np.ones((2, 5)))


def test_bandpass() -> None:
    np.testing.assert_array_equal(Defects().bandpass(7), np.ones(7))
    np.testing.assert_allclose(Defects(continuum_slope=0.2).bandpass(5), [0.9, 0.95, 1.0, 1.05, 1.1])
    ripple = Defects(ripple_amplitude=0.1, ripple_period=8.0, seed=2).bandpass(64)
    power = np.abs(np.fft.rfft(ripple - 1.0))
    assert power.argmax() == 8 and power[8] == pytest.approx(0.1 * 32)
    defects = {"continuum_slope": 0.2, "ripple_amplitude": 0.1, "ripple_period": 3.0}
    ratio = clean(**defects).data[:, 56, 40] / clean().data[:, 56, 40]
    np.testing.assert_allclose(ratio, Defects(**defects).bandpass(6), rtol=1e-5)


def test_blank_channels_and_edges() -> None:
    cube = clean(flagged_channels=(1, 4), nan_edge=7)
    assert np.isnan(cube.data[[1, 4]]).all()
    rest = np.delete(cube.data, [1, 4], axis=0)
    assert np.isfinite(rest[:, 7:-7, 7:-7]).all()
    for edge in (rest[:, :7], rest[:, -7:], rest[:, :, :7], rest[:, :, -7:]):
        assert np.isnan(edge).all()
    np.testing.assert_array_equal(rest[0, 7:-7, 7:-7], clean().data[0, 7:-7, 7:-7])


def test_flagged_antennas_change_psf_and_beam() -> None:
    cube = clean(flagged_antennas=tuple(range(0, 43, 3)))
    uvw = COVERAGE.without(tuple(range(0, 43, 3))).uvw() * GRID.freq()[0] / arrays.C_MS
    np.testing.assert_allclose(cube.psf[0], direct_image(uvw[:, 0], uvw[:, 1], 192, GRID.cell), atol=1e-6)
    assert np.abs(cube.psf - clean().psf).max() > 0.02
    assert cube.data[0, 56, 40] == pytest.approx(clean().data[0, 56, 40], rel=1e-3)


OUTSIDE = {
    "gaussian": Source(-21.3, 60.4, 4.0, 2.0, 50.0, continuum=5.0, line=3.0, chan=2.4, line_fwhm=2.0),
    "point": Source(110.3, -12.7, 0.0, 0.0, 0.0, continuum=5.0, alpha=-1.0),
    "disc": disc(-21.3, 60.4, 8.0, 20.0, Rotation(2.0, 1.0, 1.0, 45.0), line=6.0, chan=2.5),
}


@pytest.mark.parametrize("kind", OUTSIDE)
@pytest.mark.parametrize("robust", [None, 0.5])
def test_a_source_outside_sends_its_sidelobes_in(kind: str, robust: float | None) -> None:
    coverage, source = replace(COVERAGE, robust=robust), OUTSIDE[kind]
    defects = Defects(outside=source, continuum_slope=0.1, phase_rms=5.0, seed=1)
    cube = simulate_cube([], coverage, GRID, 0.0, None, defects=defects)
    assert np.abs(cube.data[2]).max() > 0.02
    # On a wider grid the same source is an ordinary one; with Briggs weighting wider grids weigh otherwise.
    wide = replace(GRID, npix=192)
    shifted = replace(source, x=source.x + 48, y=source.y + 48)
    inside = replace(defects, outside=None)
    whole = simulate_cube([shifted], coverage, wide, 0.0, None, defects=inside, pblimit=0.0)
    if robust is None:
        np.testing.assert_allclose(cube.data, whole.data[:, 48:144, 48:144], atol=1e-5 * whole.data.max())
    else:
        assert np.abs(cube.data).max() < 0.2 * whole.data.max()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"flagged_channels": (6,)}, "flagged_channels=.*6 channels"),
        ({"flagged_channels": tuple(range(6))}, "no channel is left"),
        ({"flagged_channels": (-1,)}, "negative numbers"),
        ({"flagged_antennas": (99,)}, "antennas 0 to 42"),
        ({"nan_edge": 48}, "nan_edge=48"),
        ({"phase_rms": -1.0}, "phase_rms=-1.0: must not be negative"),
        ({"ripple_amplitude": 0.1}, "ripple_period=0.0: a ripple needs a period"),
        ({"outside": SOURCE}, "outside=.*inside the 96 pixel image"),
    ],
)
def test_defects_that_cannot_be(change: dict, message: str) -> None:
    with pytest.raises(ParameterError, match=message):
        clean(**change)
