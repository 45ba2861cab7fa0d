"""Antennas, uvw and elevations."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("casadata")

from casa_deepfocus.errors import ParameterError
from sim import arrays


def test_paper_array() -> None:
    array = arrays.read_array("alma.cycle9.3")
    assert array.nant == 43
    assert array.diameter == 12.0
    lengths = np.linalg.norm(arrays.baselines(array), axis=1)
    assert len(lengths) == 43 * 42 // 2
    assert 480.0 < lengths.max() < 520.0


def test_enu_and_itrf_agree() -> None:
    # The VLA's file gives ITRF; the pads lie in the local horizontal plane within tens of metres.
    array = arrays.read_array("vla.c")
    latitude = np.deg2rad(array.latitude)
    up = np.array([np.cos(latitude), 0.0, np.sin(latitude)])
    heights = (array.positions - array.positions.mean(axis=0)) @ up
    lengths = np.linalg.norm(arrays.baselines(array), axis=1)
    assert np.abs(heights).max() < 0.02 * lengths.max()


def test_uvw_of_known_baselines() -> None:
    east = arrays.enu_to_equatorial([[0.0, 0.0, 0.0], [100.0, 0.0, 0.0]], -23.0)
    array = arrays.Array("pair", east, 12.0, -23.0)
    # On the meridian an east-west baseline is all u.
    np.testing.assert_allclose(arrays.uvw_track(array, -40.0, 0.0), [[100.0, 0.0, 0.0]], atol=1e-9)
    north = arrays.enu_to_equatorial([[0.0, 0.0, 0.0], [0.0, 100.0, 0.0]], -23.0)
    array = arrays.Array("pair", north, 12.0, -23.0)
    # Towards the zenith a northern baseline is all v; 60 degrees away it is shortened to a half.
    np.testing.assert_allclose(arrays.uvw_track(array, -23.0, 0.0), [[0.0, 100.0, 0.0]], atol=1e-9)
    u, v, w = arrays.uvw_track(array, -23.0 - 60.0, 0.0)[0]
    assert u == pytest.approx(0.0, abs=1e-9)
    assert v == pytest.approx(50.0)
    assert abs(w) == pytest.approx(100.0 * np.sin(np.deg2rad(60.0)))


def test_uvw_keeps_lengths_and_flags_shadows() -> None:
    array = arrays.read_array("aca.cycle9")
    angles = arrays.hour_angles(1.0, 3600.0, 600.0)
    assert len(angles) == 6
    assert angles.mean() == pytest.approx(1.0)
    everything = arrays.uvw_track(array, 35.0, angles, shadowing=False)
    lengths = np.linalg.norm(arrays.baselines(array), axis=1)
    np.testing.assert_allclose(np.linalg.norm(everything, axis=1), np.tile(lengths, 6))
    kept = arrays.uvw_track(array, 35.0, angles)
    assert np.hypot(kept[:, 0], kept[:, 1]).min() > array.diameter
    assert len(kept) < len(everything)


def test_elevation() -> None:
    assert arrays.elevation(-23.0, -23.0, 0.0) == pytest.approx(90.0)
    assert arrays.elevation(-23.0, 37.0, 0.0) == pytest.approx(30.0)
    assert arrays.elevation(0.0, 0.0, 6.0) == pytest.approx(0.0, abs=1e-9)


def test_unknown_array() -> None:
    with pytest.raises(ParameterError, match="alma.cycle99.1"):
        arrays.read_array("alma.cycle99.1")
