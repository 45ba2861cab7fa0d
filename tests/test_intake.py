"""What is done before the search: bad voxels, backgrounds, any unit, no noise. The sources stay what they are."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from benchmarks.toys import draw_noise, make_field
from casa_deepfocus.core.background import measure_background
from casa_deepfocus.core.geometry import gaussian_image, shape_to_covariance
from casa_deepfocus.core.noise import LEAST_NOISE, assumed_noise, channel_noise, channel_peaks
from casa_deepfocus.core.spikes import mend_spikes
from casa_deepfocus.errors import DataError
from casa_deepfocus.pipeline import run
from casa_deepfocus.pipeline.intake import take_in
from casa_deepfocus.pipeline.state import silent
from tests.fake_networks import FilterNetworks

BEAM = (5.0, 4.0, 30.0)
FLUXES = ("continuum", "continuum_err", "peak", "peak_err", "line_flux", "line_flux_err", "line_flux_jyhz")


class Told:
    """A log that keeps what it is told."""

    def __init__(self):
        self.warnings: list[str] = []

    def __call__(self, message, priority="INFO"):
        if priority == "WARN":
            self.warnings.append(message)


@pytest.fixture(scope="module")
def image():
    return make_field("white", 60.0, BEAM, 3, npix=96, sources=3)[0]


@pytest.fixture(scope="module")
def lines():
    return make_field("beam", 60.0, BEAM, 3, npix=96, nchan=12, sources=3)[0]


@pytest.fixture(scope="module")
def found(image, lines):
    """Catalogues of both."""
    return {1: run(image, FilterNetworks()).catalogue, 12: run(lines, FilterNetworks()).catalogue}


def assert_same(table, other, tolerance):
    """The same sources, within `tolerance` of their errors."""
    assert len(table) == len(other) > 0
    for name in ("x", "y", "continuum" if table.meta["nchan"] == 1 else "line_flux"):
        assert np.all(np.abs(table[name] - other[name]) <= tolerance * other[f"{name}_err"]), name


@pytest.mark.parametrize("beam", [(2, 2, 0), (2.5, 2, 40), (3, 3, 0), (6, 6, 0), (12, 8, 120)])
@pytest.mark.parametrize("noise", ["white", "beam", "half"])
def test_sources_are_no_spikes_and_spikes_are(noise, beam, npix=160):
    """Sources of either sign, of SNR 10 to 100 000, and pixels of 1000 to ten million times the noise among them."""
    rng = np.random.default_rng(5)
    covariance = shape_to_covariance(*beam)
    data = draw_noise(noise, (npix, npix), covariance, rng)
    for _ in range(40):
        height = 10.0 ** rng.uniform(1.0, 5.0) * rng.choice([1.0, 1.0, 1.0, -1.0])
        data += height * gaussian_image((npix, npix), *rng.uniform(0, npix, 2), covariance)
    clean = data.astype(np.float32)[None]
    copy = clean.copy()
    untouched = mend_spikes(copy, np.ones(1), covariance)
    assert not untouched.voxels and not untouched.narrow
    np.testing.assert_array_equal(copy, clean)
    places = {(0, int(x), int(y)) for x, y in rng.integers(0, npix, (10, 2))}
    for _, x, y in places:
        copy[0, y, x] = 10.0 ** rng.uniform(6.0, 7.0) * rng.choice([1.0, -1.0])
    copy[0, 5, 7] = np.inf
    mended = mend_spikes(copy, np.ones(1), covariance)
    assert set(mended.voxels) == places | {(0, 7, 5)}
    where = tuple(np.array([(0, y, x) for _, x, y in mended.voxels]).T)
    if min(beam[:2]) > 5.0:
        around = ndimage.maximum_filter(np.abs(clean[0]), 5)[None]
        assert np.all(np.abs(copy - clean)[where] < 5.0 + 0.2 * around[where])


def test_what_is_narrower_than_the_beam_stays_and_is_told():
    """A wrong beam must not cost the sources: more bad pixels side by side are none."""
    sharp, wrong = shape_to_covariance(3.0, 3.0, 0.0), shape_to_covariance(12.0, 12.0, 0.0)
    data = np.random.default_rng(2).normal(size=(1, 64, 64)).astype(np.float32)
    data[0] += 500.0 * gaussian_image((64, 64), 30.3, 31.2, sharp).astype(np.float32)
    copy = data.copy()
    spikes = mend_spikes(copy, np.ones(1), wrong)
    assert spikes.narrow and not spikes.voxels
    np.testing.assert_array_equal(copy, data)


def test_pixels_without_neighbours_are_not_judged():
    data = np.full((1, 16, 16), np.nan, np.float32)
    data[0, 8, 8], data[0, 3, 3] = 1e6, np.inf
    spikes = mend_spikes(data, np.ones(1), shape_to_covariance(4.0, 4.0, 0.0))
    assert data[0, 8, 8] == 1e6 and np.isnan(data[0, 3, 3]) and spikes.voxels == [(0, 3, 3)]


@pytest.mark.parametrize("bad", ["one", "on a source", "hot", "infinite", "noisy channel"])
@pytest.mark.parametrize("nchan", [1, 12])
def test_bad_voxels_do_not_lose_the_others(image, lines, found, bad, nchan):
    cube, table, told = image if nchan == 1 else lines, found[nchan], Told()
    data = cube.data.copy()
    row = table[0]
    x, y, chan = round(row["x"]), round(row["y"]), 0 if nchan == 1 else round(row["chan"])
    if bad == "one":
        data[chan, 20, 30] = 1e6
    elif bad == "on a source":
        data[chan, y, x] = 1e6
    elif bad == "hot":
        data[:, 20, 30] = 1e6
    elif bad == "infinite":
        data[chan, 20, 30], data[chan, 50, 40] = np.inf, -np.inf
    elif nchan == 1:
        pytest.skip("an image has one channel")
    else:
        data[round(row["chan"])] *= 1e6
    spoiled = data.copy()
    again = run(cube.with_data(data), FilterNetworks(), log=told).catalogue
    # Of a dozen channels one of the line's own is gone.
    assert_same(again, table, 1.5 if bad == "noisy channel" else 1.0)
    np.testing.assert_array_equal(data, spoiled)
    if bad == "noisy channel":
        assert not told.warnings
    else:
        number = {"hot": nchan, "infinite": 2}.get(bad, 1)
        assert len(told.warnings) == 1 and told.warnings[0].startswith(f"{number} voxels")
        assert f"({chan if bad != 'hot' else 0}, " in told.warnings[0]


@pytest.mark.parametrize("factor", [1e-36, 1e-30, 1e-10, 1e10, 1e30])
@pytest.mark.parametrize("nchan", [1, 12])
def test_any_unit_gives_the_same_catalogue(image, lines, found, factor, nchan):
    cube, table = image if nchan == 1 else lines, found[nchan]
    scaled = cube.with_data((cube.data.astype(float) * factor).astype(np.float32))
    result = run(scaled, FilterNetworks())
    again = result.catalogue
    assert len(again) == len(table)
    for name in FLUXES:
        column = f"{name}_err" if f"{name}_err" in table.colnames else name
        error = float(np.nan_to_num(np.abs(table[column])).max())
        np.testing.assert_allclose(again[name] / factor, table[name], rtol=1e-4, atol=1e-3 * error)
    for name in ("x", "y", "snr", "fwhm_maj", "reliability"):
        np.testing.assert_allclose(again[name], table[name], rtol=1e-3, atol=1e-3)
    assert again.meta["noise"] / factor == pytest.approx(table.meta["noise"], rel=1e-5)
    np.testing.assert_allclose(result.noise / factor, table.meta["noise"], rtol=0.2)


@settings(max_examples=40, deadline=None)
@given(exponent=st.integers(-90, 110))
def test_powers_of_two_change_no_digit(exponent):
    cube, _ = make_field("white", 30.0, BEAM, 1, npix=48, sources=1)
    one = take_in(cube, silent)
    other = take_in(cube.with_data(np.ldexp(cube.data, exponent)), silent)
    np.testing.assert_array_equal(other.cube.data, one.cube.data)
    np.testing.assert_array_equal(other.sigma, one.sigma)
    assert other.unit == np.ldexp(one.unit, exponent)


@settings(max_examples=40, deadline=None)
@given(exponent=st.floats(-38.0, 36.0))
def test_the_noise_has_the_unit_of_the_data(exponent):
    cube, _ = make_field("white", 30.0, BEAM, 1, npix=48, sources=1)
    factor = 10.0**exponent
    taken = take_in(cube.with_data((cube.data.astype(float) * factor).astype(np.float32)), silent)
    assert 0.05 < taken.sigma[0] < 20.0
    assert taken.sigma[0] * taken.unit == pytest.approx(channel_noise(cube.data)[0] * factor, rel=1e-3)


@pytest.mark.parametrize("rounding", [0.0, 1e-7])
def test_without_noise_every_source_once_and_a_warning(rounding):
    cube, planted = make_field("beam", 1e30, (6.0, 5.0, 20.0), 5, npix=128, sources=4)
    noise = rounding * np.random.default_rng(1).normal(size=cube.data.shape)
    told = Told()
    table = run(cube.with_data((cube.data + noise).astype(np.float32)), FilterNetworks(), log=told).catalogue
    assert len(table) == len(planted)
    for source in planted:
        row = table[int(np.argmin(np.hypot(table["x"] - source.x, table["y"] - source.y)))]
        assert np.hypot(row["x"] - source.x, row["y"] - source.y) < 0.01
        assert row["continuum"] == pytest.approx(source.flux, rel=2e-3)
    assert len(told.warnings) == 1 and "no noise" in told.warnings[0]


def test_noise_that_there_is_is_not_assumed():
    data = np.random.default_rng(1).normal(size=(3, 32, 32)).astype(np.float32)

    def noise(of, **peaks):
        given = channel_peaks(of)
        for chan, peak in peaks.items():
            given[int(chan[1:])] = peak
        sigma = channel_noise(of, given)
        return sigma, assumed_noise(sigma, given)

    np.testing.assert_array_equal(noise(data)[0], channel_noise(data))
    assert noise(data)[1] == 0.0 and noise(data, c0=9e4)[1] == 0.0
    # A channel of another scale, sources and all, says nothing of the others.
    loud = data.copy()
    loud[1, 5, 5] = 100.0
    loud[1] *= 1e6
    np.testing.assert_array_equal(noise(loud)[0], channel_noise(loud))
    # Nor does one without noise.
    one = data.copy()
    one[1] = 0.0
    one[1, 5, 5] = 9e4
    sigma, assumed = noise(one)
    assert sigma[1] == LEAST_NOISE * np.float32(9e4) and sigma[0] == pytest.approx(1.0, abs=0.1) and assumed == 0.0
    assert np.isnan(noise(0.0 * data + np.float32([0, 1, 1])[:, None, None] * data)[0][0])
    # Where most are without, the wings of a line are too.
    sigma, assumed = noise(1e-7 * data, c0=1.0, c1=0.5, c2=1e-4)
    np.testing.assert_array_equal(sigma, LEAST_NOISE)
    assert assumed == LEAST_NOISE


@pytest.mark.parametrize("blank", [0.0, np.nan])
def test_nothing_at_all_is_an_error(image, blank):
    with pytest.raises(DataError, match="no data"):
        run(image.with_data(np.full_like(image.data, blank)), FilterNetworks())


@pytest.mark.parametrize("nchan", [1, 12])
@pytest.mark.parametrize("offset", [1.0, 3.0, 10.0, "gradient"])
def test_backgrounds_are_taken_off_and_told(image, lines, found, offset, nchan):
    cube, told = image if nchan == 1 else lines, Told()
    sigma = found[nchan].meta["noise"]
    level = 3.0 * np.linspace(-1.0, 1.0, cube.shape[1]) if offset == "gradient" else offset
    again = run(cube.with_data((cube.data + sigma * level).astype(np.float32)), FilterNetworks(), log=told).catalogue
    assert_same(again, found[nchan], 1.0)
    assert len(told.warnings) == 1 and "a level and a gradient are taken off" in told.warnings[0]


@pytest.mark.parametrize("noise", ["white", "beam", "smoothed"])
def test_noise_and_sources_are_no_background(noise):
    for seed in range(10):
        cube, _ = make_field(noise, 100.0, (6.0, 6.0, 0.0), seed, npix=96)
        assert measure_background(cube.data[0], cube.beam_pixels()) is None
