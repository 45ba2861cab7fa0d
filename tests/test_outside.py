"""Sources outside of the image: their sidelobes are found, subtracted, and never taken for sources."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from casa_deepfocus.core.component import Component
from casa_deepfocus.core.detection import integrated_map
from casa_deepfocus.core.fit import JointFit
from casa_deepfocus.core.noise import channel_noise, inverse_variance
from casa_deepfocus.core.outside import OutsideSource, Patterns, find_outside, refine_outside, within
from casa_deepfocus.core.psf import Imager
from casa_deepfocus.pipeline import Options, run
from casa_deepfocus.pipeline.outside import Outside
from casa_deepfocus.pipeline.state import Search, silent
from sim.cube import simulate_cube
from sim.defects import Defects
from sim.response import Coverage, Grid
from sim.sky import Source
from tests.fake_networks import FilterNetworks

GRID = Grid(npix=144, nchan=24)
NOISE = 1e-3
INSIDE = Source(60, 90, 4, 3, 30, continuum=0.02, line=0.03, chan=12, line_fwhm=5)
BRIGHT = Source(100, 50, 9, 6, 70, continuum=0.5)
PLACE = (171.3, 40.6)
FLUX = 0.3
"""Apparent [Jy]: 1500 sigma of the integrated image."""


def observe(sources, outside: Source | None = None, seed: int = 3, **defects):
    return simulate_cube(
        list(sources), Coverage(), GRID, NOISE, np.random.default_rng(seed), defects=Defects(outside=outside, **defects)
    )


def outside_source(flux: float = FLUX, place: tuple[float, float] = PLACE) -> Source:
    """A point whose flux density through the primary beam is `flux`: the beam at its place is measured, not assumed."""
    dark = simulate_cube([], Coverage(), GRID, NOISE, None, defects=Defects(outside=Source(*place, 0, 0, 0, 1.0)))
    chan = GRID.nchan // 2
    pattern = Patterns(dark.psf[chan], np.ones(dark.shape, bool), dark.beam_pixels()).near(*place)[0]
    seen = dark.data[chan].ravel()
    beam = float(pattern.ravel() @ np.nan_to_num(seen)) / float(pattern.ravel() @ pattern.ravel())
    return Source(*place, 0.0, 0.0, 0.0, continuum=flux / beam)


def image_and_patterns(cube) -> tuple[np.ndarray, Patterns]:
    """The integrated image [sigma] with the patterns of its PSF."""
    weights = inverse_variance(channel_noise(cube.data))
    image = np.tensordot(weights / np.sqrt(weights.sum()), np.nan_to_num(cube.data), axes=1).astype(np.float32)
    known = np.isfinite(cube.data).any(axis=0)
    return image, Patterns(np.tensordot(weights / weights.sum(), cube.psf, axes=1), known, cube.beam_pixels())


@pytest.fixture(scope="module")
def spoiled():
    return observe([INSIDE], outside_source())


def test_the_sidelobes_would_be_taken_for_sources():
    """The truth is not trivial: a sky without any source inside has many maxima."""
    high = [
        int((image_and_patterns(observe([], outside))[0] > 6.0).sum()) for outside in (None, outside_source())
    ]  # fmt: skip
    assert high[0] == 0 and high[1] > 20


def test_place_and_flux_come_back(spoiled):
    image, patterns = image_and_patterns(spoiled)
    (found,) = find_outside(image, patterns)
    assert (found.x, found.y) == pytest.approx(PLACE, abs=0.2)
    level = found.level / np.sqrt(inverse_variance(channel_noise(spoiled.data)).sum())
    assert level == pytest.approx(FLUX, rel=0.05)
    assert found.significance > 20 and found.level * found.highest > 6
    left = image - np.float32(found.level) * patterns.near(found.x, found.y)[0]
    away = found.known & (np.hypot(*(np.indices(image.shape) - np.array([INSIDE.y, INSIDE.x])[:, None, None])) > 25)
    assert np.abs(left[away]).max() < 0.3 * np.abs(image[away]).max()


@pytest.mark.parametrize("seed", range(12))
def test_noise_is_no_source_outside(seed):
    image, patterns = image_and_patterns(observe([], seed=seed))
    score = patterns.score(image)[patterns.outside]
    # Its standard deviation is the one that is claimed, or a little less where few pixels are known.
    assert 0.4 < score.std() < 1.25
    assert find_outside(image, patterns) == []


@pytest.mark.parametrize("extra", [{}, {"phase_rms": 10.0, "amplitude_rms": 0.03}])
def test_a_source_inside_is_no_source_outside(extra):
    """Its sidelobes alone would do, seen with right gains or wrong ones."""
    image, patterns = image_and_patterns(observe([INSIDE, BRIGHT], **extra))
    assert patterns.score(image)[patterns.outside].max() > 20
    assert find_outside(image, patterns) == []


def test_nothing_is_said_of_places_that_the_psf_does_not_reach(spoiled):
    image, patterns = image_and_patterns(spoiled)
    ny, nx = image.shape
    short = spoiled.psf[:1, ny // 2 : -ny // 2, nx // 2 : -nx // 2]
    patterns = Patterns(short[0], patterns.known, spoiled.beam_pixels())
    assert short.shape[1:] == image.shape
    assert not patterns.outside[0].any() and not patterns.near(-ny, -nx)[0].any()
    known = within(short.shape[1:], image.shape, 200.0, 70.0)
    assert known[70, -1] and not known[70, 100]


def test_pattern_between_pixels_is_the_shifted_psf(spoiled):
    _, patterns = image_and_patterns(spoiled)
    whole = np.where(within(patterns.psf.shape, patterns.known.shape, 180, -20), patterns.at(180, -20), 0)
    smooth, along_x, along_y = patterns.near(180, -20)
    assert np.abs(whole).max() > 0.02
    np.testing.assert_allclose(smooth, whole, atol=1e-3)
    step = patterns.near(180.25, -20.25)[0]
    both = patterns.reach(180, -20) & patterns.reach(180.25, -20.25)
    np.testing.assert_allclose(step[both], (smooth + 0.25 * along_x - 0.25 * along_y)[both], atol=2e-3)


def test_refined_from_a_beam_away(spoiled):
    image, patterns = image_and_patterns(spoiled)
    source = OutsideSource(PLACE[0] + 2.0, PLACE[1] - 2.0)
    refine_outside(source, image, patterns)
    assert (source.x, source.y) == pytest.approx(PLACE, abs=0.2)


@pytest.fixture(scope="module")
def searched(spoiled):
    said: list[str] = []
    return run(spoiled, FilterNetworks(), log=lambda text, priority="INFO": said.append(text)), said


def test_the_search_sees_the_source_inside_only(searched):
    result, said = searched
    assert len(result.catalogue) == 1
    row = result.catalogue[0]
    assert (row["x"], row["y"]) == pytest.approx((INSIDE.x, INSIDE.y), abs=0.5)
    (line,) = [text for text in said if "outside the image" in text]
    assert "Jy apparent" in line and "it was subtracted" in line
    assert result.catalogue.meta["outside"].endswith(" Jy")


def test_without_it_the_sidelobes_raise_the_floor_or_are_found(spoiled, monkeypatch):
    monkeypatch.setattr("casa_deepfocus.pipeline.outside.find_outside", lambda *args, **kwargs: [])
    result = run(spoiled, FilterNetworks())
    assert "outside" not in result.catalogue.meta and result.catalogue.meta["dynamic_range_floor"] > 1.5
    assert len(result.catalogue) == 1
    monkeypatch.setattr(Search, "measure_floor", lambda self: None)
    assert len(run(spoiled, FilterNetworks()).catalogue) > 1


def search_of(cube) -> Search:
    sigma, imager = channel_noise(cube.data), Imager(cube.psf, cube.shape)
    fit = JointFit(np.nan_to_num(cube.data), sigma, imager, cube.beam_covariance())
    return Search(cube, FilterNetworks(), Options(), sigma, fit, imager, np.zeros(cube.shape, np.float32))


def test_its_slope_is_subtracted_too():
    """A continuum that falls to 0.6 over the band: what is left is noise in the first and the last channel as well."""
    steep = replace(outside_source(), alpha=-500.0)
    outside = Outside(search_of(observe([], steep)), silent, sidelobes=True)
    assert outside.look() and outside.sources[0].slope == 0.0
    known, residual = outside.sources[0].known, outside.search.fit.residual
    flat = residual[:, known].std(axis=1)
    assert min(flat[0], flat[-1]) > 1.2 * NOISE
    outside.renew()
    (source,) = outside.sources
    assert source.slope < 0 and source.slope * (GRID.nchan - 1) / source.level == pytest.approx(-0.5, abs=0.2)
    left = residual[:, known].std(axis=1)
    assert left[[0, -1]] == pytest.approx(NOISE, rel=0.15)


def test_a_continuum_must_exceed_sidelobes_that_are_not_known(spoiled):
    outside = Outside(search_of(spoiled), silent, sidelobes=True)
    assert outside.look()
    (source,) = outside.sources
    assert not source.known[70, 10] and source.known[70, 130]
    search = outside.search
    highest = source.level * source.highest / outside._scale
    low, high, far, line = (
        Component(x, 70.0, np.zeros(3), has_cont=True, has_line=has_line, snr_cont=snr)
        for x, snr, has_line in ((10, 1.2 * highest, False), (10, 2 * highest, False), (130, 9, False), (10, 9, True))
    )
    search.components = [low, high, far, line]
    outside._drop_unknown()
    assert search.components == [high, far, line] and search.refused == [low]


def test_a_clean_cube_says_nothing_of_it():
    said: list[str] = []
    result = run(observe([INSIDE]), FilterNetworks(), log=lambda text, priority="INFO": said.append(text))
    assert "outside" not in result.catalogue.meta and not any("outside" in text for text in said)


def test_what_is_left_is_noise(searched, spoiled):
    """With the same sky but no source outside the continuum of the source inside is the same within its error."""
    row = searched[0].catalogue[0]
    other = run(observe([INSIDE]), FilterNetworks()).catalogue[0]
    for name in ("continuum", "line_flux"):
        assert abs(row[name] - other[name]) < 3.0 * other[f"{name}_err"], name


def test_an_assumed_psf_says_nothing_of_sidelobes(spoiled):
    result = run(replace(spoiled, psf_is_measured=False), FilterNetworks())
    assert "outside" not in result.catalogue.meta
    assert integrated_map(spoiled.data, channel_noise(spoiled.data)).image.shape == spoiled.shape
