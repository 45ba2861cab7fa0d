"""Skies: lines, points, blends, and discs that turn the way they say."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from casa_deepfocus.core.geometry import FWHM_PER_SIGMA, GAUSSIAN_LINE, covariance_to_shape
from casa_deepfocus.errors import ParameterError
from sim import discs
from sim.discs import LEFT_OUT, disc_line, disc_stamp
from sim.sky import Component, Line, Rotation, Source, blend, disc

FREQ = 230e9 + 10e6 * np.arange(64)
ROTATION = Rotation(velocity=10.0, turnover=1.5, dispersion=2.0, inclination=60.0)
DISC = disc(20.3, 31.6, 9.0, 30.0, ROTATION, continuum=0.4, alpha=1.0, line=1.0, chan=31.2)


def cube(parts: list[Component]) -> np.ndarray:
    """(nchan, height, width) of components on one stamp."""
    return np.einsum("kc,kyx->cyx", np.stack([p.spectrum for p in parts]), np.stack([p.stamp for p in parts]))


def test_lines_and_continuum() -> None:
    absorbed = Source(
        5.0, 6.0, 0.0, 0.0, 0.0, continuum=1.0, alpha=-2.0, line=-0.3, chan=20.0, line_fwhm=6.0,
        extra_lines=(Line(40.0, 4.0, 0.5),),
    )  # fmt: skip
    spectrum = absorbed.spectrum(FREQ)
    middle = 0.5 * (FREQ[0] + FREQ[-1])
    assert spectrum[20] == pytest.approx((FREQ[20] / middle) ** -2.0 - 0.3, abs=1e-6)
    assert spectrum[40] == pytest.approx((FREQ[40] / middle) ** -2.0 + 0.5, abs=1e-6)
    assert absorbed.line_spectrum(64)[23] == pytest.approx(-0.15, abs=1e-6)
    assert [line.peak for line in absorbed.lines] == [-0.3, 0.5]
    assert absorbed.lines[1].flux == pytest.approx(0.5 * 4.0 * GAUSSIAN_LINE)
    np.testing.assert_allclose(absorbed.scaled(3.0).spectrum(FREQ), 3.0 * spectrum)
    (part,) = absorbed.components(FREQ)
    np.testing.assert_allclose(part.spectrum, spectrum)
    assert (part.x, part.y, part.stamp) == (5.0, 6.0, None)
    assert (part.covariance == 0).all()
    assert Source(0.0, 0.0, 1.0, 1.0, 0.0).lines == ()


def test_kinds() -> None:
    assert Source(0.0, 0.0, 0.0, 0.0, 0.0).kind == "point"
    assert Source(0.0, 0.0, 2.0, 0.0, 0.0).kind == "gaussian"
    assert DISC.kind == "disc"


def test_a_disc_has_its_flux_and_its_second_moments() -> None:
    assert DISC.fwhm_min == pytest.approx(4.5)
    stamp = disc_stamp(9.0, 30.0, ROTATION)
    part = Component(np.ones(1), DISC.x, DISC.y, None, stamp.image(), stamp.pitch)
    x, y = part.stamp_axes()
    image = part.stamp
    assert image.sum() == pytest.approx(1.0)
    centre = (image.sum(0) @ x, image.sum(1) @ y)
    assert centre == pytest.approx((DISC.x, DISC.y), abs=1e-9)
    moments = np.array([image.sum(0) @ (x - DISC.x) ** 2, image.sum(1) @ (y - DISC.y) ** 2,
                        (y - DISC.y) @ image @ (x - DISC.x)])  # fmt: skip
    # Pixels of 0.75 add their own variance, and the disc ends at 12 scale lengths.
    moments[:2] -= stamp.pitch**2 / 12.0
    assert tuple(map(float, covariance_to_shape(moments))) == pytest.approx((9.0, 4.5, 30.0), rel=0.005)
    spectrum = DISC.line_spectrum(64)
    assert spectrum.sum() == pytest.approx(DISC.line * DISC.line_fwhm * GAUSSIAN_LINE, rel=1e-4)
    np.testing.assert_allclose(DISC.spectrum(FREQ) - spectrum, DISC.continuum_spectrum(FREQ), rtol=1e-12)


def test_separable_components_are_the_disc() -> None:
    spectra, stamps = disc_line(9.0, 30.0, ROTATION, 31.2, 64)
    made = np.einsum("kc,kyx->cyx", spectra, stamps)
    stamp = disc_stamp(9.0, 30.0, ROTATION)
    exact = np.zeros_like(made)
    for brightness, shift in zip(stamp.brightness, stamp.shift, strict=True):
        offset = (np.arange(64)[:, None, None] - 31.2 - shift) * FWHM_PER_SIGMA / 2.0
        exact += brightness * np.exp(-0.5 * offset**2) / (2.0 * GAUSSIAN_LINE)
    assert 5 < len(spectra) < 40
    assert np.abs(made - exact).max() < 2.0 * LEFT_OUT * exact.max()
    # One component alone would be far from it: the velocity gradient is no product.
    vectors, values, rest = np.linalg.svd(exact.reshape(64, -1), full_matrices=False)
    single = (vectors[:, :1] * values[0]) @ rest[:1]
    assert np.abs(single.reshape(exact.shape) - exact).max() > 0.1 * exact.max()


def test_a_disc_turns_about_its_minor_axis() -> None:
    parts = [part for part in DISC.components(FREQ) if not np.allclose(part.spectrum, DISC.continuum_spectrum(FREQ))]
    x, y = parts[0].stamp_axes()
    lines = cube(parts)
    high, low = lines[38], lines[24]
    offset = [
        (image.sum(0) @ x / image.sum() - DISC.x, image.sum(1) @ y / image.sum() - DISC.y) for image in (high, low)
    ]
    along = np.array([-np.sin(np.deg2rad(30.0)), np.cos(np.deg2rad(30.0))])
    assert offset[0] @ along > 2.0
    assert offset[1] @ along < -2.0
    across = np.array([along[1], -along[0]])
    assert abs(offset[0] @ across) < 0.1
    # A falling curve turns the other way.
    back = disc(20.3, 31.6, 9.0, 30.0, replace(ROTATION, velocity=-10.0), line=1.0, chan=31.2)
    other = cube(back.components(FREQ))[38]
    assert (other.sum(0) @ x / other.sum() - DISC.x, other.sum(1) @ y / other.sum() - DISC.y) @ along < -2.0


def test_inclined_discs_have_two_horns_and_round_ones_a_gaussian() -> None:
    seen = {angle: disc(0.0, 0.0, 9.0, 0.0, replace(ROTATION, inclination=angle, turnover=0.3), line=1.0, chan=31.0)
            for angle in (0.0, 70.0)}  # fmt: skip
    round_, inclined = (source.line_spectrum(64) for source in seen.values())
    assert seen[0.0].line_fwhm == pytest.approx(2.0, rel=1e-3)
    np.testing.assert_allclose(round_, seen[0.0].line * np.exp(-0.5 * ((np.arange(64) - 31) * 1.17741) ** 2), atol=5e-4)
    horns = np.sort(np.argsort(inclined)[-2:])
    assert horns[0] < 27 and horns[1] > 35
    assert inclined[31] < 0.7 * inclined.max()
    assert inclined[horns[0]] == pytest.approx(inclined[horns[1]], rel=1e-6)
    # Its width at half maximum, from the profile itself.
    place = np.interp(0.5 * inclined.max(), inclined[:horns[0] + 1], np.arange(horns[0] + 1))
    assert seen[70.0].line_fwhm == pytest.approx(2.0 * (31.0 - place), rel=0.03)
    assert seen[70.0].line_fwhm > 15.0


def test_further_lines_of_a_disc_have_its_profile() -> None:
    source = disc(0.0, 0.0, 9.0, 0.0, ROTATION, line=1.0, chan=20.0, extra_lines=((44.0, -0.5),))
    spectrum = source.line_spectrum(64)
    np.testing.assert_allclose(spectrum[36:52], -0.5 * spectrum[12:28], atol=0.01)
    assert spectrum[12:28].max() > 0.5
    assert source.extra_lines[0].fwhm == source.line_fwhm
    # Lines outside of the band leave nothing.
    away = disc(0.0, 0.0, 9.0, 0.0, ROTATION, line=1.0, chan=200.0)
    assert away.components(FREQ) == [] and (away.line_spectrum(64) == 0).all()


def test_blends() -> None:
    moved = [blend(DISC, 0.8, 5.0, np.random.default_rng(seed)) for seed in range(20)]
    distance = [np.hypot(source.x - DISC.x, source.y - DISC.y) for source in moved]
    np.testing.assert_allclose(distance, 4.0)
    assert np.ptp([source.x for source in moved]) > 4.0
    assert replace(moved[0], x=DISC.x, y=DISC.y) == DISC


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Rotation(5.0, 1.0, 2.0, 89.0), "inclination=89.0: not between 0 and 85"),
        (lambda: Rotation(5.0, 0.0, 2.0, 30.0), "turnover=0.0: not positive"),
        (lambda: Rotation(5.0, 1.0, -2.0, 30.0), "dispersion=-2.0: not positive"),
        (lambda: Source(0.0, 0.0, 2.0, 3.0, 0.0), "fwhm_min=3.0: not between 0 and fwhm_maj=2"),
        (lambda: Source(0.0, 0.0, 2.0, 1.0, 0.0, line_fwhm=0.0), "line_fwhm=0.0: not positive"),
        (lambda: Line(3.0, 0.0, 1.0), "fwhm=0.0: a line's width is not positive"),
        (lambda: Source(0.0, 0.0, 9.0, 8.0, 0.0, rotation=ROTATION), "fwhm_min=8.0: a disc .* sim.sky.disc"),
        (lambda: replace(DISC, extra_lines=(Line(3.0, 1.0, 1.0),)), "extra_lines=.*width line_fwhm"),
    ],
)
def test_skies_that_cannot_be(make, message: str) -> None:
    with pytest.raises(ParameterError, match=message):
        make()


def test_points_inside_a_pixel_are_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    # The steepest centre of the presets: the curve turns over within two pixels.
    def beam_wide_image(points: int) -> np.ndarray:
        monkeypatch.setattr(discs, "SUBPIXELS", points)
        for function in (discs.disc_stamp, discs.disc_line):
            function.cache_clear()
        spectra, stamps = disc_line(9.0, 30.0, ROTATION, 31.2, 64)
        smooth = gaussian_filter(np.einsum("kc,kyx->cyx", spectra, stamps), (0.0, 2.5, 2.5))
        for function in (discs.disc_stamp, discs.disc_line):
            function.cache_clear()
        return smooth

    used, fine, coarse = (beam_wide_image(points) for points in (discs.SUBPIXELS, 11, 2))
    assert np.abs(used - fine).max() < 1e-3 * fine.max()
    assert np.abs(coarse - fine).max() > 3.0 * np.abs(used - fine).max()
