"""The task as users have it: a measurement set through tclean, the shipped networks, the fit, to a catalogue."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from casa_fixtures import TRUTH

pytest.importorskip("casatools")
pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
pytestmark = pytest.mark.casa
pytest_plugins = ["casa_fixtures"]


def test_a_measurement_set_becomes_a_catalogue(tiny_ms: Path) -> None:
    from casa_deepfocus import sdeepfocus

    back = sdeepfocus(vis=tiny_ms, datacolumn="data", imsize=64, cell="0.5arcsec", outfile=Path("out"))
    assert all(Path(path).exists() for path in back["products"].values())
    found = np.array([(row["ra"], row["dec"]) for row in back["sources"]])
    for source in TRUTH:
        ra, dec = source.radec
        offsets = np.hypot((found[:, 0] - ra) * np.cos(np.radians(dec)), found[:, 1] - dec) * 3600.0
        nearest = back["sources"][int(offsets.argmin())]
        # A fifth of the beam of 1.5 arcsec or so.
        assert offsets.min() < 0.3
        assert (nearest["line_flux"] > 0.0) is (source.line > 0.0)
        if source.continuum:
            assert nearest["continuum"] == pytest.approx(source.continuum, rel=0.1)
    assert len(back["sources"]) == len(TRUTH)
