"""Spectral axes of every kind become frequencies, or are refused."""

from __future__ import annotations

import numpy as np
import pytest
from astropy import units as u
from astropy.io import fits
from hypothesis import given
from hypothesis import strategies as st

from casa_deepfocus.errors import DataError

pytest.importorskip("casatools")
from casa_deepfocus.reading.fitsfiles import FitsImage  # noqa: E402
from casa_deepfocus.reading.spectral import REGULAR, Spectrum, check_regular, spectrum_of  # noqa: E402

pytestmark = pytest.mark.casa

REST = 1.42040575e9
C = 299792458.0


def spectrum(nchan: int = 16, **cards: object) -> Spectrum:
    """The third axis of a header with these keywords; None leaves one out."""
    given = {"CRPIX3": 4.0, "RESTFRQ": REST, "SPECSYS": "LSRK"} | cards
    header = fits.Header([(key, value) for key, value in given.items() if value is not None])
    return spectrum_of(FitsImage("x.fits", 0, header, (8, 8, nchan)), 3)


def expected(values, kind: str) -> np.ndarray:
    """Frequencies of velocities [m/s] by the textbook's formulae."""
    beta = np.asarray(values) / C
    return {
        "radio": lambda: REST * (1.0 - beta), "optical": lambda: REST / (1.0 + beta),
        "relativistic": lambda: REST * np.sqrt((1.0 - beta) / (1.0 + beta)),
    }[kind]()  # fmt: skip


VELOCITIES = 1.2e6 + 5e4 * (np.arange(16) - 3.0)
AXIS = {"CRVAL3": 1.2e6, "CDELT3": 5e4, "CUNIT3": "m/s"}


@pytest.mark.parametrize(
    ("cards", "kind", "frame"),
    [
        ({"CTYPE3": "VRAD"}, "radio", "LSRK"),
        ({"CTYPE3": "vrad"}, "radio", "LSRK"),
        ({"CTYPE3": "VOPT"}, "optical", "LSRK"),
        ({"CTYPE3": "VELO"}, "relativistic", "LSRK"),
        ({"CTYPE3": "VELO", "VELREF": 257}, "radio", "LSRK"),
        ({"CTYPE3": "VELO-LSR", "VELREF": 257, "SPECSYS": None}, "radio", "LSRK"),
        ({"CTYPE3": "VELO-HEL", "VELREF": 2, "SPECSYS": None}, "optical", "BARY"),
        ({"CTYPE3": "VELO-OBS", "VELREF": 259, "SPECSYS": None}, "radio", "TOPO"),
        ({"CTYPE3": "VELOCITY", "VELREF": 257}, "radio", "LSRK"),
        ({"CTYPE3": "VRAD", "SPECSYS": None, "SPECSYS3": "BARYCENT"}, "radio", "BARY"),
        ({"CTYPE3": "VRAD", "SPECSYS": None, "VELREF": 258}, "radio", "BARY"),
        ({"CTYPE3": "VRAD", "RESTFRQ": None, "RESTFREQ": REST}, "radio", "LSRK"),
        ({"CTYPE3": "VRAD", "RESTFRQ": None, "RESTWAV": C / REST}, "radio", "LSRK"),
    ],
)  # fmt: skip
def test_velocities_become_frequencies(cards, kind, frame):
    found = spectrum(**(AXIS | cards))
    np.testing.assert_allclose(found.freq, expected(VELOCITIES, kind), rtol=1e-12)
    assert found.frame == frame and found.restfreq == pytest.approx(REST)


def test_the_definitions_are_told_apart_by_this_truth():
    step = np.abs(np.diff(expected(VELOCITIES, "radio"))).min()
    for one, two in (("radio", "optical"), ("radio", "relativistic"), ("optical", "relativistic")):
        assert np.abs(expected(VELOCITIES, one) - expected(VELOCITIES, two)).min() > 0.03 * step


def test_aips_felo_is_regular_in_frequency():
    """Its labels are optical velocities: exact at the reference pixel, where its step is given too."""
    for ctype, frame in (("FELO-HEL", "BARY"), ("FELO-LSR", "LSRK"), ("VOPT-F2W", "")):
        found = spectrum(**(AXIS | {"CTYPE3": ctype, "SPECSYS": None}))
        freq0 = float(expected(1.2e6, "optical"))
        step = -(freq0**2) / REST / C * 5e4
        np.testing.assert_allclose(found.freq, freq0 + step * (np.arange(16) - 3.0), rtol=1e-12)
        assert found.frame == frame


@pytest.mark.parametrize("ctype", ["FREQ", "freq", "FREQ-LSR", "FREQUENCY", "Freq"])
@pytest.mark.parametrize(
    ("unit", "factor"), [("Hz", 1.0), ("HZ", 1.0), ("kHz", 1e3), ("MHZ", 1e6), ("GHz", 1e9), (None, 1.0)]
)
def test_frequencies_in_every_unit(ctype, unit, factor):
    found = spectrum(CTYPE3=ctype, CUNIT3=unit, CRVAL3=1.41e9 / factor, CDELT3=-1e5 / factor)
    np.testing.assert_allclose(found.freq, 1.41e9 - 1e5 * (np.arange(16) - 3.0), rtol=1e-12)
    assert found.frame == "LSRK"


def test_wavelengths_and_logarithmic_axes():
    wave = spectrum(CTYPE3="WAVE", CUNIT3="mm", CRVAL3=210.0, CDELT3=1e-3)
    np.testing.assert_allclose(wave.freq, C / (0.21 + 1e-6 * (np.arange(16) - 3.0)), rtol=1e-12)
    log = spectrum(CTYPE3="FREQ-LOG", CRVAL3=1.41e9, CDELT3=1e5)
    np.testing.assert_allclose(log.freq, 1.41e9 * np.exp(1e5 / 1.41e9 * (np.arange(16) - 3.0)), rtol=1e-12)


@given(
    st.sampled_from(["FREQ", "VRAD", "VOPT", "VELO", "FELO-HEL", "WAVE"]), st.floats(-1e6, 1e7), st.floats(1e3, 2e4),
    st.sampled_from([-1.0, 1.0]), st.integers(1, 8), st.sampled_from(["m/s", "km/s", "KM/S"]),
)  # fmt: skip
def test_an_axis_agrees_with_astropys_quantities(kind, value, step, sign, pixel, unit):
    """The frequency of the reference pixel, and the width of its neighbours, by astropy's own equivalencies."""
    rest = REST * u.Hz
    scale = u.Unit(unit.lower()).to(u.m / u.s)
    rule = {"VRAD": u.doppler_radio, "VOPT": u.doppler_optical, "VELO": u.doppler_relativistic,
            "FELO": u.doppler_optical}.get(kind[:4])  # fmt: skip
    if rule is not None:
        there = (value * u.m / u.s).to(u.Hz, rule(rest))
        cards = {"CRVAL3": value / scale, "CDELT3": sign * step / scale, "CUNIT3": unit}
    else:
        there = REST * (1.0 - value / C) * u.Hz
        native, width = there.value, -sign * step / C * REST
        if kind == "WAVE":
            native, width = C / native, sign * step / C * C / native
        cards = {"CRVAL3": native, "CDELT3": width, "CUNIT3": "m" if kind == "WAVE" else "Hz"}
    found = spectrum(nchan=8, CTYPE3=kind, CRPIX3=float(pixel), **cards)
    assert found.freq[pixel - 1] == pytest.approx(there.to_value(u.Hz), rel=1e-12)
    # dnu = -rest dv / c, less (1 + v / c)^-2 of optical velocities.
    np.testing.assert_allclose(np.diff(found.freq), -sign * step / C * REST, rtol=0.08)


@given(st.floats(1e8, 1e12), st.floats(1e-7, 1e-4), st.sampled_from([-1.0, 1.0]), st.integers(1, 64))
def test_the_line_through_the_channels(freq, step, sign, nchan):
    found = spectrum(nchan=nchan, CTYPE3="FREQ", CRVAL3=freq, CDELT3=sign * freq * step, CRPIX3=1.0)
    first, width = found.line
    assert first == pytest.approx(freq, rel=1e-12)
    if nchan > 1:
        assert width == pytest.approx(sign * freq * step, rel=1e-6)


@pytest.mark.parametrize("ctype", ["VRAD", "VOPT", "VELO-LSR", "FELO-HEL", "VELOCITY", "ZOPT"])
def test_velocities_without_a_rest_frequency_are_refused(ctype):
    with pytest.raises(DataError, match="rest frequency") as caught:
        spectrum(**({"CRVAL3": 0.003, "CDELT3": 1e-5} if ctype == "ZOPT" else AXIS), CTYPE3=ctype, RESTFRQ=None)
    assert "setval('x.fits', 'RESTFRQ'" in str(caught.value)


@pytest.mark.parametrize("ctype", ["VELO-LSR", "VELOCITY"])
def test_velocities_that_may_be_radio_or_optical(ctype):
    """Refused where it matters, radio where it does not."""
    with pytest.raises(DataError, match="VELREF"):
        spectrum(**AXIS, CTYPE3=ctype)
    near = spectrum(CTYPE3=ctype, CRVAL3=1e5, CDELT3=5e3, CUNIT3="m/s")
    np.testing.assert_allclose(near.freq, expected(1e5 + 5e3 * (np.arange(16) - 3.0), "radio"), rtol=1e-12)
    assert any("radio" in message for message, _ in near.notes)


@pytest.mark.parametrize(
    ("cards", "message"),
    [
        ({"CTYPE3": "FREQ-TAB", "CRVAL3": 1.4e9, "CDELT3": 1e5}, "tabular"),
        ({"CTYPE3": "AWAV", "CRVAL3": 0.21, "CDELT3": 1e-5}, "air"),
        ({"CTYPE3": "FREQ", "CRVAL3": 1.41, "CDELT3": 1e-4}, "no radio frequency"),
        ({"CTYPE3": "FREQ", "CRVAL3": 1.4e9, "CDELT3": 0.0}, "CDELT3"),
        ({"CTYPE3": "FREQ", "CRVAL3": 1.4e9, "CDELT3": "nan"}, "CDELT3 = 'nan'"),
        ({"CTYPE3": "FREQ", "CRVAL3": "", "CDELT3": 1e5}, "no CRVAL3"),
        ({"CTYPE3": "FREQ", "CRVAL3": 1.4e9, "CDELT3": 1e5, "CUNIT3": "parsec"}, "CUNIT3"),
        ({"CTYPE3": "FREQ", "CRVAL3": 1.4e9, "CDELT3": 1e5, "CUNIT3": "km/s"}, "CUNIT3"),
        ({"CTYPE3": "FREQ-XYZ", "CRVAL3": 1.4e9, "CDELT3": 1e5}, "cannot be understood"),
        ({"CTYPE3": "VOPT", "CRVAL3": 1e6, "CDELT3": 3e6}, "irregular"),
        ({"CTYPE3": "VRAD", "CRVAL3": 3.1e8, "CDELT3": 1e5}, "no radio frequency"),
    ],
)  # fmt: skip
def test_axes_that_mean_nothing_are_refused(cards, message):
    with pytest.raises(DataError, match=message) as caught:
        spectrum(**cards)
    assert "x.fits" in str(caught.value)


def test_one_channel_needs_no_width():
    found = spectrum(nchan=1, CTYPE3="FREQ", CRVAL3=1.4e9, CDELT3=0.0, CRPIX3=1.0)
    assert found.freq.tolist() == [1.4e9] and found.line[1] > 0


def test_an_unknown_frame_is_said():
    for specsys in (None, "MARS"):
        found = spectrum(CTYPE3="FREQ", CRVAL3=1.4e9, CDELT3=1e5, SPECSYS=specsys)
        assert found.frame == "" and any(priority == "WARN" for _, priority in found.notes)


def test_the_tolerance_of_irregular_channels():
    regular = 1.4e9 + 1e5 * np.arange(16.0)
    for shift, passes in ((0.5 * REGULAR, True), (2.0 * REGULAR, False)):
        bent = regular.copy()
        bent[7] += shift * 1e5
        if passes:
            check_regular(bent, "x")
        else:
            with pytest.raises(DataError, match="irregular"):
                check_regular(bent, "x")
    with pytest.raises(DataError, match="irregular"):
        check_regular(np.delete(regular, 8), "x")
