"""The catalogue: sky, units, errors; complexes; reliability."""

from __future__ import annotations

import numpy as np
import pytest
from astropy.wcs import WCS
from scipy import ndimage
from skimage.feature import peak_local_max

from casa_deepfocus.core import catalogue as cat
from casa_deepfocus.core.complexes import chains, join
from casa_deepfocus.core.component import NAMES, Component
from casa_deepfocus.core.cube import C_KMS, Cube
from casa_deepfocus.core.geometry import FWHM_PER_SIGMA, GAUSSIAN_LINE, covariance_to_shape, shape_to_covariance
from casa_deepfocus.core.reliability import NoisePeaks

NCHAN = 30


def make_cube(chan_width=10e6):
    wcs = WCS(naxis=2)
    wcs.wcs.ctype = ["RA---SIN", "DEC--SIN"]
    wcs.wcs.crval = [150.0, -30.0]
    wcs.wcs.crpix = [33.0, 33.0]
    wcs.wcs.cdelt = [-0.1 / 3600, 0.1 / 3600]
    freq = 230e9 + chan_width * np.arange(NCHAN)
    pb = np.full((1, 64, 64), 0.5, np.float32)
    data = np.zeros((NCHAN, 64, 64), np.float32)
    beams = np.tile([0.5, 0.4, 20.0], (NCHAN, 1))
    return Cube(data, np.ones((1, 9, 9), np.float32), pb, freq, beams, 0.1, wcs=wcs)


def component(**values):
    out = Component(
        32.0, 32.0, shape_to_covariance(6.0, 4.0, 50.0), amp=0.01, chan=12.0, fwhm=5.0, cont=0.002, has_cont=True
    )
    for name, value in values.items():
        setattr(out, name, value)
    out.matrix = np.diag([0.04, 0.09, 1e-6, 1e-6, 1e-6, 0.01, 0.01, 1e-6, 1e-8, 1e-10])
    out.errors = {name: float(np.sqrt(out.matrix[i, i])) for i, name in enumerate(NAMES)}
    out.snr_line, out.snr_cont = 10.0, 20.0
    return out


def test_row_has_the_right_units_and_is_corrected_for_the_primary_beam():
    cube = make_cube()
    row = cat.build([component()], [0.99], cube)[0]
    assert (row["ra"], row["dec"]) == pytest.approx((150.0, -30.0))
    assert row["name"] == "J100000.00-300000.0"
    assert row["freq"] == pytest.approx(230.12e9)
    kms = 10e6 / 230.12e9 * C_KMS
    assert row["line_fwhm"] == pytest.approx(5 * kms)
    assert row["line_flux"] == pytest.approx(0.01 * 5 * GAUSSIAN_LINE * kms / 0.5)
    assert row["line_flux_jyhz"] == pytest.approx(0.01 * 5 * GAUSSIAN_LINE * 10e6 / 0.5)
    # amplitude 10 % and width 10 %, not correlated here
    assert row["line_flux_err"] == pytest.approx(row["line_flux"] * np.sqrt(0.02))
    assert row["continuum"] == pytest.approx(0.004) and row["continuum_err"] == pytest.approx(2e-4)
    assert row["ra_err"] == pytest.approx(0.02) and row["dec_err"] == pytest.approx(0.03)
    assert (row["fwhm_maj"], row["fwhm_min"], row["pa"]) == pytest.approx((0.6, 0.4, 50.0))
    assert row["peak"] < 0.01 / 0.5
    assert row["chan0"] == 7 and row["chan1"] == 17 and row["x0"] < 32 < row["x1"]


def test_falling_frequencies_keep_widths_and_fluxes_positive():
    rising, falling = (cat.build([component()], [1.0], make_cube(width))[0] for width in (10e6, -10e6))
    assert falling["freq"] == pytest.approx(229.88e9)
    for name in ("line_fwhm", "line_flux", "line_flux_jyhz", "line_fwhm_err", "freq_err"):
        assert falling[name] == pytest.approx(rising[name], rel=2e-3), name


def test_what_is_not_measured_is_nan_and_names_are_unique():
    bare = component(has_line=False)
    table = cat.build([bare, component()], [1.0, 1.0], make_cube())
    assert np.isnan(table["freq"][0]) and np.isnan(table["line_fwhm"][0]) and table["line_flux"][0] == 0
    assert (table["chan0"][0], table["chan1"][0]) == (0, NCHAN - 1)
    assert len(set(table["name"])) == 2
    assert len(cat.build([], [], make_cube())) == 0
    for name, _, _, text in cat.COLUMNS:
        assert table[name].description == (text or None), name


def test_angle_error_against_brute_force():
    rng = np.random.default_rng(3)
    covariance = shape_to_covariance(6.0, 3.0, 35.0)
    matrix = np.array([[0.02, 0.005, -0.002], [0.005, 0.03, 0.004], [-0.002, 0.004, 0.01]])
    draws = covariance + rng.multivariate_normal(np.zeros(3), matrix, size=20000)
    spread = (((covariance_to_shape(draws)[2] - 35 + 90) % 180) - 90).std()
    assert cat.angle_error(covariance, matrix) == pytest.approx(spread, rel=0.06)
    assert cat.angle_error(np.array([1.0, 1.0, 0.0]), np.eye(3)) == 90.0


def test_unresolved_source_has_a_size_within_its_error():
    fitted = component(covariance=np.array([-0.3, 0.2, 0.1]))
    fitted.matrix[2:5, 2:5] = np.diag([1.0, 1.0, 0.5])
    row = cat.build([fitted], [1.0], make_cube())[0]
    assert 0 < row["fwhm_min"] < row["fwhm_maj"] < 0.1 * 2 * FWHM_PER_SIGMA
    assert 0.05 < row["fwhm_min_err"] < row["fwhm_min"] and row["pa_err"] > 60.0
    held = component(fit_shape=False)
    held.matrix[2:5, 2:5] = 0.0
    row = cat.build([held], [1.0], make_cube())[0]
    assert (row["fwhm_maj"], row["fwhm_min"]) == pytest.approx((0.6, 0.4)) and np.isnan(row["fwhm_maj_err"])


def galaxy(steps=6):
    return [component(x=20.0 + 3 * i, y=30.0, chan=8.0 + 3 * i, fwhm=4.0, group=i) for i in range(steps)]


def test_a_chain_is_one_source_a_pair_is_two():
    beam = shape_to_covariance(5.0, 4.0, 20.0)
    assert chains(galaxy(6), beam) == [[0, 1, 2, 3, 4, 5]]
    first, second = galaxy(2)
    second.x += 1.0
    assert chains([first, second], beam) == [[0], [1]], "nine tenths of a beam apart"
    assert chains(galaxy(3), beam) == [[0, 1, 2]], "a disc: its channels run along it"
    assert chains(galaxy(3), beam, one_source=lambda members: len(members) == 3) == [[0, 1, 2]]
    assert chains(galaxy(3), beam, one_source=lambda members: False) == [[0], [1], [2]], "three continua"
    assert chains(galaxy(4), beam, one_source=lambda members: False) == [[0, 1, 2, 3]], "what is extended"
    first, middle, last = galaxy(3)
    first.chan, middle.chan, last.chan = 8.0, 14.0, 11.0
    assert chains([first, middle, last], beam) == [[0], [1], [2]], "three sources in a row"
    first, middle, last = galaxy(3)
    middle.y += 2.0
    assert chains([first, middle, last], beam) == [[0], [1], [2]], "three that stand in no row"
    horns = [component(x=30.0 + 0.8 * i, y=30.0, chan=8.0 + 3 * i, fwhm=4.0) for i in (-1, 0, 1)]
    assert chains(horns, beam) == [[0, 1, 2]], "one disc, its horns within a beam"
    horns = [component(x=30.0 + i, y=30.0, chan=20.0 + 5 * i, fwhm=4.0) for i in (-0.5, 0.5)]
    assert chains(horns, beam) == [[0], [1]], "nothing says that they are one"
    asked = []
    assert chains(horns, beam, one_source=lambda members: not asked.append(members)) == [[0, 1]]
    assert asked == [horns]
    third = component(x=33.4, y=31.0, chan=22.0, fwhm=4.0)
    one = chains([*horns, third], beam, one_source=lambda members: third not in members)
    assert one == [[0, 1], [2]], "a disc and its neighbour"
    apart = [*galaxy(4), component(x=60.0, y=60.0), component(x=29.0, y=30.0, chan=28.0)]
    assert sorted(chains(apart, beam), key=len) == [[4], [5], [0, 1, 2, 3]]
    assert chains([component(has_line=False) for _ in range(5)], beam) == [[0], [1], [2], [3], [4]]


def test_joined_source_keeps_the_flux_and_the_middle():
    members = galaxy(6)
    whole = join(members, NCHAN)
    assert whole.line_flux()[0] == pytest.approx(sum(m.line_flux()[0] for m in members))
    assert whole.line_flux()[1] == pytest.approx(np.sqrt(sum(m.line_flux()[1] ** 2 for m in members)))
    assert (whole.x, whole.y, whole.chan) == pytest.approx((27.5, 30.0, 15.5))
    assert whole.covariance[0] > 25 and "complex" in whole.flags
    assert whole.fwhm == pytest.approx(19, abs=2)


def test_absorption_is_joined_like_emission_and_never_with_it():
    bright, dark = galaxy(6), galaxy(6)
    for member in dark:
        member.amp, member.absorption = -member.amp, True
        member.flags.add("absorption")
    beam = shape_to_covariance(5.0, 4.0, 20.0)
    assert chains(dark, beam) == [[0, 1, 2, 3, 4, 5]]
    assert chains([bright[0], dark[1]], beam, one_source=lambda members: True) == [[0], [1]]
    emission, absorption = join(bright, NCHAN), join(dark, NCHAN)
    assert absorption.absorption and "absorption" in absorption.flags and not emission.absorption
    assert absorption.line_flux()[0] == pytest.approx(-emission.line_flux()[0])
    assert (absorption.x, absorption.chan, absorption.fwhm) == (emission.x, emission.chan, emission.fwhm)


def test_law_of_the_noise_peaks():
    """Peaks of smooth images above 3 sigma, counted."""
    rng = np.random.default_rng(11)
    count = 0
    for _ in range(30):
        image = ndimage.gaussian_filter(rng.standard_normal((200, 200)), 5.0 / FWHM_PER_SIGMA / np.sqrt(2), mode="wrap")
        image /= image.std()
        count += len(peak_local_max(image, min_distance=2, threshold_abs=3.0, exclude_border=False))
    # White noise smoothed by a beam of FWHM 5/sqrt(2) is correlated like a dirty image of FWHM 5.
    assert count == pytest.approx(30 * float(NoisePeaks.of_image(200 * 200, 5.0).expected(3.0)), rel=0.15)


def test_peaks_of_noise_and_reliability():
    cube, image = NoisePeaks.of_cube(100000, 8.0, 128), NoisePeaks.of_image(100000, 8.0)
    for peaks in (cube, image, NoisePeaks.of_spectrum(128)):
        assert peaks.expected(peaks.level(0.02)) == pytest.approx(0.02)
    assert 5.8 < cube.level(0.02) < 6.4 and 4.7 < image.level(0.02) < 5.3
    assert cube.tail_scale(3.0) == 1.0 and cube.tail_scale(12.0) > 2
    assert NoisePeaks(1e-9, 2).level(1.0) == 2.0
    good = cube.reliability([20.0, 4.0])
    assert good[0] > 0.999 and good[1] < 0.5
    assert cube.reliability([]).size == 0
