"""The fast simulator against CASA: the same field on both sides, its images, its noise and its defects."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("casatasks")
pytest.importorskip("casadata")

from numpy.typing import NDArray

from benchmarks.fidelity import ring_power
from casa_deepfocus.core.cube import Cube
from casa_deepfocus.errors import ParameterError
from sim import casa_cube
from sim.coverage import Coverage, Grid
from sim.cube import dirty_images, simulate, simulate_cube
from sim.defects import Defects
from sim.discs import Rotation
from sim.presets import Field
from sim.response import gaussian_transform
from sim.sky import Source, disc

pytestmark = pytest.mark.casa

COVERAGE = Coverage(duration=600.0, integration=30.0)
"""Enough visibilities for CASA: its gridding rounds them to a hundredth of a cell, an error that averages out."""

GRID = Grid(npix=120, cell=0.2, nchan=3, chan_width=60e6)
LINE = {"line": 0.4, "chan": 1.0, "line_fwhm": 1.5}
SKY = (
    Source(60.3, 59.8, 6.0, 4.0, 30.0, continuum=0.6, alpha=-1.0, **LINE),
    Source(9.4, 8.1, 0.0, 0.0, 0.0, continuum=0.9, alpha=2.0),
    Source(107.6, 101.2, 5.0, 3.5, 110.0, continuum=1.5),
    Source(106.7, 14.3, 2.0, 1.0, 70.0, continuum=0.7, **LINE),
    Source(17.2, 102.9, 3.2, 3.0, 20.0, continuum=0.8, line=-0.3, chan=0.4, line_fwhm=1.0),
    disc(42.0, 75.0, 9.0, 140.0, Rotation(0.8, 2.0, 0.7, 50.0), continuum=0.3, line=0.4, chan=1.2),
)
"""Over the whole field, to where the primary beam is a third."""


def residual(casa: Cube, fast: Cube) -> tuple[NDArray, NDArray]:
    """Rms and maximum (nchan,) of the difference over each channel's peak; both blank in the same places."""
    np.testing.assert_array_equal(np.isnan(casa.data), np.isnan(fast.data))
    keep = np.isfinite(fast.data).any(axis=(1, 2))
    casa_data, fast_data = casa.data[keep], fast.data[keep]
    peak = np.nanmax(np.abs(fast_data), axis=(1, 2))
    difference = casa_data - fast_data
    return np.nanstd(difference, axis=(1, 2)) / peak, np.nanmax(np.abs(difference), axis=(1, 2)) / peak


def both(field: Field) -> tuple[Cube, Cube]:
    """A field without noise, by CASA and by the fast simulator."""
    fast = simulate_cube(field.sources, field.coverage, field.grid, 0.0, None, defects=field.defects, ra=field.ra)
    return casa_cube.observe_field(field, None, None), fast


@pytest.mark.parametrize("robust", [None, 0.5])
def test_images_are_the_same(robust: float | None) -> None:
    casa, fast = both(Field(replace(COVERAGE, robust=robust), GRID, SKY, 0.0))
    assert np.nanmax(fast.data) > 0.4
    assert np.isfinite(fast.data).all()
    assert np.isfinite(casa.data).all()
    assert casa.pb.min() < 0.35
    rms, maximum = residual(casa, fast)
    assert (rms < 1e-4).all(), rms
    assert (maximum < 1e-3).all(), maximum
    # tclean's gridding aliases towards the edge of its own image, which is twice the field.
    middle = slice(GRID.npix // 2, -GRID.npix // 2)
    assert np.abs(casa.psf - fast.psf)[:, middle, middle].max() < 5e-4
    np.testing.assert_allclose(casa.pb, fast.pb, atol=5e-4)
    np.testing.assert_allclose(casa.beams[:, :2], fast.beams[:, :2], rtol=0.01)
    np.testing.assert_allclose(casa.beams[:, 2], fast.beams[:, 2], atol=2.0)
    assert casa.meta == fast.meta
    np.testing.assert_array_equal(casa.freq, fast.freq)
    # A hundredth of a pixel would be seen.
    moved = [replace(source, x=source.x + 0.01) for source in SKY]
    shifted = simulate_cube(moved, replace(COVERAGE, robust=robust), GRID, 0.0, None)
    assert (residual(casa, shifted)[1] > 1e-3).all()


def test_defects_are_the_same() -> None:
    defects = Defects(
        flagged_channels=(1,), flagged_antennas=(3, 17), nan_edge=5, phase_rms=20.0, amplitude_rms=0.1,
        gain_interval=120.0, continuum_slope=0.3, ripple_amplitude=0.05, ripple_period=2.5,
        outside=Source(150.0, 50.0, 0.0, 0.0, 0.0, continuum=3.0), seed=5,
    )  # fmt: skip
    field = Field(COVERAGE, GRID, SKY[:4], 0.0, defects=defects)
    casa, fast = both(field)
    assert np.isnan(casa.data[1]).all()
    assert np.isnan(casa.data[0, :5]).all()
    rms, maximum = residual(casa, fast)
    assert (rms < 3e-4).all(), rms
    assert (maximum < 2e-3).all(), maximum
    # Each of the defects changes the image by far more than that.
    for name, none in (("phase_rms", 0.0), ("continuum_slope", 0.0), ("outside", None), ("flagged_antennas", ())):
        without = simulate_cube(SKY[:4], COVERAGE, GRID, 0.0, None, defects=replace(defects, **{name: none}))
        assert residual(casa, without)[1].max() > 1e-2, name


@pytest.mark.parametrize("robust", [None, 0.5])
def test_noise_is_the_same(robust: float | None) -> None:
    coverage = replace(COVERAGE, robust=robust, integration=100.0)
    grid = Grid(npix=64, cell=0.2, nchan=96, chan_width=2e6)
    casa = casa_cube.observe_field(Field(coverage, grid, (), 1e-3), 77, None, pblimit=-1.0).data
    rms = casa.std(axis=(1, 2), dtype=float)
    # 64 pixels hold some 200 beams: 5 % in a channel, 0.5 % in all of them.
    assert np.sqrt(np.mean(rms**2)) == pytest.approx(1e-3, rel=0.02)
    assert rms.std() < 0.08e-3
    neighbours = np.array([np.mean(one * two) for one, two in zip(casa[:-1], casa[1:], strict=True)]) / 1e-6
    assert abs(neighbours.mean()) < 3.5 * neighbours.std() / np.sqrt(len(neighbours))
    power, error = ring_power(casa, coverage, grid, 3)
    fast = np.concatenate([dirty_images((), coverage, grid, 1e-3, np.random.default_rng(seed)) for seed in (7, 8, 31)])
    assert error.max() < 0.03
    np.testing.assert_allclose(power / ring_power(fast, coverage, grid, 3)[0], 1.0, atol=0.05)
    assert power.max() > 3.0 * power.min()


def transform(planes: NDArray, pitch: float, kx: Sequence[float], ky: Sequence[float]) -> NDArray[np.complex128]:
    """Transform of an image about its middle pixel, at frequencies per image pixel."""
    height, width = planes.shape
    y, x = (pitch * (np.arange(side) - side // 2) for side in (height, width))
    return np.array(
        [np.exp(-2j * np.pi * v * y) @ planes @ np.exp(-2j * np.pi * u * x) for u, v in zip(kx, ky, strict=True)]
    )


@pytest.mark.parametrize("sizes", [(0.0, 0.0, 0.0), (2.0, 1.0, 70.0), (6.0, 0.3, 20.0), (1.0, 0.0, 130.0)])
def test_small_sources_are_sampled_well(sizes: tuple[float, float, float]) -> None:
    source = Source(10.0, 10.0, *sizes, continuum=2.0)
    planes, pitch = casa_cube.source_pixels(source, np.array([1e11]))
    kx, ky = [0.0, 0.1, 0.3, -0.2], [0.0, 0.25, -0.1, 0.3]
    expected = 2.0 * gaussian_transform(source.covariance(), np.array(kx), np.array(ky))
    np.testing.assert_allclose(transform(planes[0], pitch, kx, ky), expected, atol=1e-3)




TINY = Grid(npix=64, cell=0.2, nchan=2)
SMALL = Source(31.0, 33.0, 5.0, 4.0, 30.0, continuum=0.1)


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> Field:
    """What `field_of` gives: a small field with noise of both kinds."""
    field = Field(COVERAGE, TINY, (SMALL,), 1e-3, 5e-4)
    monkeypatch.setattr(casa_cube, "field_of", lambda *key: (field, np.random.SeedSequence([key[1], key[2]])))
    return field


def test_a_cube_and_its_truth(tiny: Field, tmp_path: Path) -> None:
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    cube, truth = casa_cube.simulate_casa("paper", 7, 0, scratch=scratch)
    assert list(scratch.iterdir()) == []
    assert sorted(path.name for path in tmp_path.iterdir()) == ["scratch"]
    assert Path.cwd() == tmp_path
    assert truth["x"][0] == SMALL.x
    fast = simulate_cube([SMALL], COVERAGE, TINY, 0.0, None)
    noise = cube.data - fast.data
    assert noise.std() == pytest.approx(np.hypot(1e-3, 5e-4), rel=0.15)
    again, _ = casa_cube.simulate_casa("paper", 7, 0, scratch=scratch)
    other, _ = casa_cube.simulate_casa("paper", 7, 1, scratch=scratch)
    np.testing.assert_array_equal(again.data, cube.data)
    correlation = np.mean(noise * (other.data - fast.data)) / noise.var()
    assert abs(correlation) < 0.2


def test_nothing_is_left_after_an_error(tiny: Field, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        assert list(tmp_path.glob("*/field.ms"))
        raise OSError("disk full")

    monkeypatch.setattr(casa_cube, "image_vis", fail)
    with pytest.raises(OSError, match="disk full"):
        casa_cube.simulate_casa("paper", 7, 0, scratch=tmp_path)
    assert list(tmp_path.iterdir()) == []
    assert Path.cwd() == tmp_path


def test_noise_seeds_are_unique() -> None:
    seeds = {casa_cube.noise_seed("paper", 7, index) for index in range(5000)}
    assert len(seeds) == 5000
    assert min(seeds) > 0
    assert max(seeds) < 2**31
    assert casa_cube.noise_seed("paper", 7, 0) not in {
        casa_cube.noise_seed("paper", 8, 0), casa_cube.noise_seed("alma", 7, 0)
    }  # fmt: skip


def test_what_cannot_be_observed_is_refused_first(tmp_path: Path) -> None:
    field = Field(replace(COVERAGE, dec=75.0), GRID, (), 0.0)
    with pytest.raises(ParameterError, match="dec"):
        casa_cube.observe_field(field, None, None, scratch=tmp_path)
    with pytest.raises(ParameterError, match="flagged_channels"):
        casa_cube.observe_field(Field(COVERAGE, GRID, (), 0.0, defects=Defects(flagged_channels=(3,))), None, None)
    assert os.listdir(tmp_path) == []


PRESET = """
base: alma
observation: {array: alma.cycle9.2, declination: -30, hour_angle: 0, duration: 20, integration: 60}
image: {frequency: 230, channels: 24, channel_velocity: 10, pixels_per_beam: 5, npix: 64, robust: natural}
lines: {fwhm: {uniform: [2, 5]}}
"""


@pytest.mark.slow
def test_a_preset_is_the_same_field(tmp_path: Path) -> None:
    path = tmp_path / "small.yaml"
    path.write_text(PRESET, encoding="utf-8")
    cube, truth = casa_cube.simulate_casa(str(path), 31, 3)
    fast, expected = simulate(str(path), 31, 3)
    assert len(truth) > 0
    np.testing.assert_array_equal(np.asarray(truth["x"]), np.asarray(expected["x"]))
    np.testing.assert_array_equal(np.isnan(cube.data), np.isnan(fast.data))
    # Their noise is independent, their sky the same.
    field, _ = casa_cube.field_of(str(path), 31, 3)
    noise = np.hypot(field.noise, field.white) * np.sqrt(2.0)
    ratio = np.nanstd(cube.data - fast.data, axis=(1, 2)) / noise
    assert np.sqrt(np.mean(ratio**2)) == pytest.approx(1.0, rel=0.1)
