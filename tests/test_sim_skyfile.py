"""Sources in sky coordinates: onto pixels and channels, and out of YAML files."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from casa_deepfocus.errors import DataError, ParameterError
from sim import skyfile
from sim.skyfile import SkyLine, SkyRotation, SkySource, read_sources

C_KMS = 299792.458
FREQ = 230e9 + 10e6 * np.arange(64)


@pytest.mark.parametrize("freq", [FREQ, FREQ[::-1]])
def test_lines_lie_where_their_frequencies_are(freq: np.ndarray) -> None:
    sky = SkySource(60.0, -35.0, 0.6, 0.4, 30.0, lines=(SkyLine(230.2e9, 80.0, 0.5), SkyLine(230.5e9, 40.0, -0.1)))
    source = sky.on_pixels(10.0, 12.0, 0.1, freq)
    assert (source.fwhm_maj, source.fwhm_min) == pytest.approx((6.0, 4.0))
    spectrum = source.spectrum(freq)
    assert freq[spectrum.argmax()] == 230.2e9
    assert freq[spectrum.argmin()] == 230.5e9
    for line in sky.lines:
        half = line.freq * (1.0 - 0.5 * line.fwhm / C_KMS)
        place = (half - freq[0]) / (freq[1] - freq[0])
        part = next(one for one in source.lines if one.peak == line.peak)
        value = part.peak * np.exp(-4.0 * np.log(2.0) * ((place - part.chan) / part.fwhm) ** 2)
        assert value == pytest.approx(line.peak / 2.0)


def test_the_continuum_has_its_flux_at_its_frequency() -> None:
    sky = SkySource(60.0, -35.0, continuum=0.1, alpha=-2.0, freq0=100e9)
    assert sky.on_pixels(0.0, 0.0, 1.0, FREQ).spectrum(FREQ) == pytest.approx(0.1 * (FREQ / 100e9) ** -2.0)
    middle = SkySource(60.0, -35.0, continuum=0.1, alpha=-2.0).on_pixels(0.0, 0.0, 1.0, FREQ).spectrum(FREQ)
    assert middle[[31, 32]].mean() == pytest.approx(0.1, rel=1e-6)


@pytest.mark.parametrize("freq", [FREQ, FREQ[::-1]])
def test_the_receding_side_of_a_disc_is_red(freq: np.ndarray) -> None:
    # The major axis points north; positive velocities recede there.
    rotation = SkyRotation(100.0, 0.3, 20.0, 60.0)
    sky = SkySource(60.0, -35.0, 2.0, pa=0.0, lines=(SkyLine(230.3e9, 0.0, 1.0),), rotation=rotation)
    source = sky.on_pixels(0.0, 0.0, 0.1, freq)
    assert source.kind == "disc"
    north = []
    for component in source.components(freq):
        _, y = component.stamp_axes()
        north.append(component.spectrum * (component.stamp * y[:, None]).sum())
    moment = np.sum(north, axis=0)
    assert (moment * freq).sum() / np.abs(moment * freq).sum() < -1e-5
    assert freq[moment.argmax()] < 230.3e9 < freq[moment.argmin()]


def example() -> str:
    """The file in the module's documentation."""
    text = skyfile.__doc__ or ""
    return "\n".join(line[4:] for line in text.splitlines() if re.match(r"^ {4}", line))


def test_the_example_is_read(tmp_path: Path) -> None:
    path = tmp_path / "sources.yaml"
    path.write_text(example(), encoding="utf-8")
    (source,) = read_sources(path)
    assert source.ra == pytest.approx(230.4875)
    assert source.lines == (SkyLine(1.4135e9, 60.0, 0.02),)
    assert source.rotation is not None and source.rotation.velocity == 120.0
    assert source.freq0 == 1.413e9


@pytest.mark.parametrize(
    ("text", "error", "words"),
    [
        ("- {ra: 1, dec: 2, fhwm_maj: 3}", ParameterError, "did you mean fwhm_maj"),
        ("- {ra: 1}", ParameterError, "dec=None: missing"),
        ("- {ra: 1, dec: far}", ParameterError, "dec='far': not a number"),
        ("- {ra: 1, dec: 2, lines: [{freq: 1e9, fwhm: 3}]}", ParameterError, "peak=None"),
        ("- {ra: 1, dec: 2, lines: 5}", ParameterError, "no list"),
        ("- 5", ParameterError, "not a group"),
        ("ra: 1", DataError, "no list of sources"),
        ("- {ra: [", DataError, "cannot be read"),
    ],
)
def test_bad_files_are_refused(tmp_path: Path, text: str, error: type[Exception], words: str) -> None:
    path = tmp_path / "sources.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(error, match=re.escape(words)) as caught:
        read_sources(path)
    assert "sources.yaml" in str(caught.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="nowhere.yaml"):
        read_sources(tmp_path / "nowhere.yaml")
