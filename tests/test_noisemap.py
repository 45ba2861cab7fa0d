"""Noise that varies over an image: the map of it, and searches that know it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from benchmarks import noisemap as benchmark
from benchmarks.toys import draw_noise
from casa_deepfocus.core.cube import Cube
from casa_deepfocus.core.geometry import gaussian_image, shape_to_covariance
from casa_deepfocus.core.noisemap import NoiseMap, fit_smooth, measure_noise_map
from casa_deepfocus.core.psf import Imager, gaussian_psf, gaussian_transform
from casa_deepfocus.pipeline import Options, _noise_may_vary, run
from casa_deepfocus.pipeline.intake import take_in
from casa_deepfocus.pipeline.state import silent
from tests.fake_networks import FilterNetworks

NPIX, BEAM = 128, 5.0
BEAMS = (BEAM, BEAM, 0.0)
COVARIANCE = shape_to_covariance(*BEAMS)
Y, X = np.indices((NPIX, NPIX))


def ramp(ratio: float = 3.0) -> np.ndarray:
    """Noise that is flat on the left and rises to the right."""
    out = ratio ** np.clip((X - 0.4 * NPIX) / (0.5 * NPIX), 0.0, 1.0)
    return out / np.median(out)


def make(noise: np.ndarray, nchan: int, seed: int, sources: tuple[tuple[float, float, float], ...] = ()) -> Cube:
    """A cube of noise of rms `noise` (ny, nx) with points (x, y, flux) of continuum in it, seen as they are."""
    rng = np.random.default_rng(seed)
    data = np.stack([noise * draw_noise("beam", (NPIX, NPIX), COVARIANCE, rng) for _ in range(nchan)])
    for x, y, flux in sources:
        data += flux * gaussian_image((NPIX, NPIX), x, y, COVARIANCE)
    beams = np.tile(BEAMS, (nchan, 1)).astype(float)
    return Cube(
        data=data.astype(np.float32), psf=gaussian_psf(beams, 1.0, (2 * NPIX, 2 * NPIX)),
        pb=np.ones((1, NPIX, NPIX), np.float32), freq=1.4e9 + 1e5 * np.arange(nchan), beams=beams, cell=1.0,
        spectral=nchan > 1,
    )  # fmt: skip


def measured(cube: Cube, **how) -> NoiseMap | None:
    return measure_noise_map(cube.data, cube.psf[0], BEAM, **how)


def away(noise_map: NoiseMap, true: np.ndarray) -> float:
    """Rms of ln(M / true), but for a constant."""
    return float(np.std(np.log(noise_map.image / true)))


@pytest.mark.parametrize(("nchan", "least"), [(24, 0.07), (1, 0.2)])
def test_the_map_of_noise_that_varies(nchan, least):
    true = ramp()
    assert np.std(np.log(true)) > 2.0 * least
    found = measured(make(true, nchan, 3), residual=True)
    assert found is not None and away(found, true) < least
    assert np.median(found.image) == pytest.approx(1.0, rel=1e-3)


@pytest.mark.parametrize("nchan", [1, 2, 3, 24])
def test_flat_noise_has_no_map(nchan):
    for seed in range(4):
        assert measured(make(np.ones((NPIX, NPIX)), nchan, seed)) is None


def test_an_image_of_few_beams_has_no_map():
    cube = make(ramp(30.0), 24, 3)
    assert measured(cube) is not None
    for side in (24, 60):
        assert measure_noise_map(cube.data[:, :24, :side], cube.psf[0], BEAM) is None


def test_bright_sources_and_emission_are_no_noise():
    """A cube's continuum cancels; an image's emission is positive."""
    bright = ((40.0, 64.0, 1000.0), (90.0, 30.0, 300.0))
    emission = 8.0 * gaussian_image((NPIX, NPIX), 64.0, 64.0, shape_to_covariance(45.0, 45.0, 0.0)).astype(np.float32)
    cube = make(np.ones((NPIX, NPIX)), 24, 5, bright)
    assert measured(cube.with_data(cube.data + emission)) is None
    image = make(np.ones((NPIX, NPIX)), 1, 5)
    image = image.with_data(image.data + emission)
    # Its rms in the middle is far above the noise's.
    assert np.sqrt(np.mean(image.data[0, 54:74, 54:74] ** 2)) > 5.0
    found = measured(image)
    assert found is None or found.image.max() < 1.5


def test_blank_pixels_and_flagged_channels():
    true, cube = ramp(), make(ramp(), 24, 3)
    data = cube.data.copy()
    data[:, np.hypot(X - 64, Y - 64) > 60] = np.nan
    data[[3, 4, 17]] = np.nan
    found = measured(cube.with_data(data))
    inside = np.hypot(X - 64, Y - 64) <= 60
    assert found is not None and np.isfinite(found.image).all()
    assert np.std(np.log(found.image / true)[inside]) < 0.08
    assert measured(cube.with_data(np.full_like(data, np.nan))) is None


def test_a_map_measured_on_data_that_were_divided_by_one():
    cube, old = make(ramp(), 24, 3), NoiseMap(ramp(2.0).astype(np.float32))
    straight = measured(cube)
    divided = cube.data / old.image
    again = measure_noise_map(divided, cube.psf[0], BEAM, times=old.image)
    assert straight is not None and again is not None
    np.testing.assert_allclose(again.image, straight.image, rtol=1e-4)


def test_a_smooth_function_goes_to_the_mean_where_nothing_is_known():
    places = np.stack(np.meshgrid(np.arange(8.0), np.arange(8.0)), axis=-1).reshape(-1, 2)
    rng = np.random.default_rng(1)
    true = np.where(places[:, 0] > 4, 0.5, 0.0)
    smooth = fit_smooth(places, true + 0.1 * rng.normal(size=64), np.full(64, 0.01))
    assert smooth is not None
    assert np.std(smooth(places) - true) < 0.1
    assert smooth(np.array([[1e4, 1e4]]))[0] == pytest.approx(smooth.mean)
    assert fit_smooth(places, 0.1 * rng.normal(size=64), np.full(64, 0.01)) is None


def test_sidelobes_in_an_image_divided_by_a_map():
    """The PSF of a source divided by M is what the modulation makes of it."""
    noise_map = NoiseMap(ramp().astype(np.float32))
    psf = gaussian_psf([(60.0, 60.0, 0.0)], 1.0, (2 * NPIX, 2 * NPIX))
    plain, modulated = (Imager(psf, (NPIX, NPIX), modulation=m) for m in (None, noise_map))
    place, flux = (60.0, 40.0), np.full((1, 1), -2.0)
    images = [np.zeros((1, NPIX, NPIX), np.float32) for _ in range(2)]
    transform = gaussian_transform(plain.grid, *place, np.zeros(3))[None]
    plain.subtract(images[0], transform, flux)
    modulated.subtract(images[1], transform, flux / noise_map.at(*place), [place])
    assert np.abs(images[0] - images[1]).max() > 0.3
    noise_map.flatten(images[0])
    np.testing.assert_allclose(images[0], images[1], atol=1e-5)
    columns, rows = np.arange(NPIX), np.arange(NPIX)
    assert noise_map.on(columns, rows, *place)[40, 60] == pytest.approx(1.0)
    assert noise_map.at(-5.0, 500.0) == noise_map.image[-1, 0]
    assert (replace(noise_map, divided=True).on(columns, rows, *place) == 1.0).all()


def test_intake_makes_noise_flat():
    true = ramp()
    taken = take_in(make(1e-3 * true, 24, 3), silent)
    assert taken.noise_map is not None and away(taken.noise_map, true) < 0.07
    sides = [np.std(taken.cube.data[:, :, part]) for part in (slice(0, 40), slice(90, 128))]
    assert sides[0] == pytest.approx(sides[1], rel=0.1)
    assert taken.unit * np.median(taken.sigma) == pytest.approx(1e-3, rel=0.1)
    off = take_in(make(1e-3 * true, 24, 3), silent, noise_map=False)
    assert off.noise_map is None and np.std(off.cube.data[:, :, 90:]) > 2.0 * np.std(off.cube.data[:, :, :40])


@pytest.mark.parametrize("nchan", [16, 1])
def test_sources_by_the_noise_at_their_place(nchan):
    """A faint source where the noise is low is found, what is as bright where it is high is noise; fluxes come back."""
    true, scale = ramp(), 1e-3
    level = scale / np.sqrt(nchan)
    # The quiet one has 3.5 of the loud end's sigma: no source there.
    planted = ((24.0, 40.0, 9.0 * level * true[40, 24]), (116.0, 90.0, 30.0 * level * true[90, 116]))
    assert planted[0][2] < 4.0 * level * true.max()
    cube = make(scale * true, nchan, 11, planted)
    result = run(cube, FilterNetworks(), Options(noise_map=True))
    table = result.catalogue
    assert len(table) == 2
    for x, y, flux in planted:
        row = table[np.argmin(np.hypot(table["x"] - x, table["y"] - y))]
        assert np.hypot(row["x"] - x, row["y"] - y) < 0.4 * BEAM
        assert abs(row["continuum"] - flux) < 3.0 * row["continuum_err"]
        local = level * true[round(y), round(x)]
        assert local < row["continuum_err"] < 1.8 * local  # The size is fitted as well.
        assert row["snr"] == pytest.approx(flux / local, rel=0.35)
    assert result.noise_map.shape == (NPIX, NPIX)
    sigma = np.median(result.noise) * result.noise_map
    assert np.median(sigma / (scale * true)) == pytest.approx(1.0, rel=0.1)
    # What is shown is in Jy as well.
    bright = next(detail for detail in result.details if detail.name == table["name"][int(np.argmax(table["snr"]))])
    assert bright.model.mean() == pytest.approx(planted[1][2], rel=0.15)
    assert bright.spectrum.mean() == pytest.approx(planted[1][2], rel=0.15)
    assert np.nanmax(bright.focused) == pytest.approx(planted[1][2], rel=0.2)


def test_flat_noise_is_searched_as_without_a_map():
    cube = make(np.full((NPIX, NPIX), 1e-3), 16, 7, ((40.0, 64.0, 4e-3), (90.0, 30.0, 0.3)))
    on, off = (run(cube, FilterNetworks(), Options(noise_map=wanted)) for wanted in (True, False))
    assert len(on.catalogue) == 2 and on.noise_map is None
    for name in ("x", "y", "continuum", "continuum_err", "snr", "reliability"):
        np.testing.assert_array_equal(on.catalogue[name], off.catalogue[name])
    np.testing.assert_array_equal(on.noise, off.noise)


def test_a_map_is_made_where_noise_can_be_told_from_what_is_seen():
    cube = make(1e-3 * ramp(), 16, 11)
    one = make(1e-3 * ramp(), 1, 11)
    assert _noise_may_vary(cube) and not _noise_may_vary(one)
    assert _noise_may_vary(replace(one, corrected=True)), "divided by a primary beam that is not known"


@pytest.mark.parametrize("shape", benchmark.SHAPES)
def test_the_benchmarks_noise_spans_its_range(shape):
    for seed in range(5):
        noise = benchmark.noise_shape(shape, np.random.default_rng(seed))
        assert np.median(noise) == pytest.approx(1.0)
        assert noise.max() / noise.min() == pytest.approx(1.0 if shape == "flat" else benchmark.RANGE)


def test_the_benchmark_counts():
    def one(index, planted, found, false):
        side = {"rows": sum(found) + false, "found": found, "false": false, "pulls": [1.0, -1.0], "seconds": 2.0}
        fields = {"job": ["cube", "edge", 1, index, planted], "snr": [4.5, 9.0][: len(found)], "same": False}
        return fields | {"on": side, "map_rms": 0.1}

    rows = benchmark.summary([one(0, False, [], 2), one(1, False, [], 0), one(0, True, [False, True], 1)])
    assert len(rows) == 1
    row = rows[0]
    assert (row["map"], row["empty"], row["planted"]) == ("on", 2, 1)
    assert (row["false_alarms"], row["fields_with"], row["false"], row["found"], row["sources"]) == (2, 1, 1, 1, 2)
    assert row["completeness"] == [0.0, None, None, None, 1.0, None] and row["pull"] == pytest.approx(1.0)
