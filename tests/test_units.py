"""Brightness units as programs spell them."""

from __future__ import annotations

import pytest

from casa_deepfocus.errors import DataError

pytest.importorskip("casatools")
from casa_deepfocus.reading.units import jy_per_beam  # noqa: E402

pytestmark = pytest.mark.casa


@pytest.mark.parametrize(
    ("unit", "factor"),
    [
        ("", 1.0), ("Jy/beam", 1.0), ("beam-1 Jy", 1.0), ("JY/BEAM", 1.0), ("Jy/bm", 1.0), ("Jy beam^-1", 1.0),
        ("Jy.beam-1", 1.0), ("Jy*beam**-1", 1.0), ("JYBEAM-1", 1.0), ("Jy / Beam ", 1.0), ("Jansky/beam", 1.0),
        ("mJy/beam", 1e-3), ("mjy/beam", 1e-3), ("mJY/BEAM", 1e-3), ("MJy/beam", 1e6), ("nJy/beam", 1e-9),
        ("NJY/BEAM", 1e-9), ("uJy/beam", 1e-6), ("UJY/BEAM", 1e-6), ("µJy/beam", 1e-6), ("kJy/beam", 1e3),
        ("10**-3 Jy/beam", 1e-3),
    ],
)  # fmt: skip
def test_the_factor_to_jy_per_beam(unit, factor):
    assert jy_per_beam(unit, "x") == pytest.approx(factor, rel=1e-12)


@pytest.mark.parametrize(
    ("unit", "remedy"),
    [
        ("MJY/BEAM", "milli or mega"), ("K", "immath"), ("mK", "immath"), ("Jy/pixel", "model"), ("JY/PIXEL", "model"),
        ("Jy/sr", "solid angle"), ("MJy/sr", "solid angle"), ("Jy/arcsec2", "solid angle"),
        ("Jy/beam.km/s", "moment"), ("JY/BEAM.KM/S", "moment"), ("counts", "set BUNIT"), ("Jy", "set BUNIT"),
        ("furlong/beam", "set BUNIT"), ("adu", "set BUNIT"),
    ],
)  # fmt: skip
def test_other_units_are_refused_with_what_mends_them(unit, remedy):
    with pytest.raises(DataError, match=remedy) as caught:
        jy_per_beam(unit, "x.fits")
    assert "x.fits" in str(caught.value) and unit in str(caught.value)
