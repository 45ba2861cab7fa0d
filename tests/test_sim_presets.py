"""Presets: the schema, what is refused, and that fields are drawn as their YAML says."""

from __future__ import annotations

import os
import runpy
from pathlib import Path

import numpy as np
import pytest
import yaml

pytest.importorskip("casadata")

from casa_deepfocus.core.geometry import FWHM_PER_SIGMA, GAUSSIAN_AREA
from casa_deepfocus.errors import DataError, ParameterError
from sim import arrays, presets
from sim.presets.draws import Draws
from sim.presets.observation import cut, draw_observation, pb_radius, primary_beam_arcsec, thermal_noise, white_noise
from sim.presets.schema import SCHEMA, Parameter
from sim.presets.values import parse
from sim.psflib import MIN_ELEVATION
from sim.response import Coverage, Grid, matched_filter_snr, response

SMALL = """
base: alma
observation: {array: alma.cycle9.2, declination: -30, hour_angle: 0, duration: 20, integration: 300}
image: {frequency: 230, channels: 24, channel_velocity: 10, pixels_per_beam: 5, npix: 64, robust: natural}
lines: {fwhm: {uniform: [2, 5]}}
"""
"""A preset whose fields are cheap."""


def write(folder: Path, text: str, name: str = "mine.yaml") -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def test_every_parameter_is_documented() -> None:
    assert len(presets.schema()) > 50
    for key, parameter in presets.schema().items():
        assert parameter.help, key
        assert not parameter.help.endswith("."), key
        assert parameter.type in ("number", "integer", "text", "angle", "flag"), key
        if parameter.type in ("number", "integer", "angle"):
            assert parameter.low is not None and parameter.high is not None, key
        if parameter.instead_of:
            assert presets.schema()[parameter.instead_of].default is None
            assert parameter.default is None
    papers = {key for key, parameter in presets.schema().items() if parameter.paper}
    # All of Tables 1 and 2.
    assert {"sources.number", "brightness.amplitude", "sources.size", "sources.alpha", "sources.position"} <= papers
    assert {"sources.pa", "brightness.line_amplitude", "lines.position", "lines.fwhm", "brightness.peak"} <= papers
    assert {"observation.ra", "image.cell", "image.frequency", "image.channel_width", "observation.sefd"} <= papers


@pytest.mark.parametrize("name", presets.PRESETS)
def test_presets_load(name: str) -> None:
    preset = presets.load_preset(name)
    assert preset.name == name == presets.label(name)
    assert preset.description
    assert set(preset.values) == set(presets.schema())
    assert presets.load_preset(name) is preset
    assert preset.description in presets.list_presets().replace("\n    ", " ")
    shown = presets.show_preset(name)
    assert all(parameter.unit in shown for parameter in presets.schema().values())
    assert yaml.safe_load(yaml.safe_dump(presets.recipe(name)))["image"]["max_voxels"] == pytest.approx(1.7e7)


def test_the_paper_is_tables_1_and_2() -> None:
    recipe = presets.recipe("paper")
    preset = presets.load_preset("paper")
    # 03h59m59.96s -34d59m59.50s
    assert next(preset["observation.ra"].ends()) == pytest.approx(59.9998333, abs=1e-6)
    assert next(preset["observation.declination"].ends()) == pytest.approx(-34.9998611, abs=1e-6)
    coverage, grid = draw_observation(Draws(preset, np.random.default_rng(7)))
    assert (coverage.array, coverage.duration, coverage.integration) == ("alma.cycle9.3", 2400.0, 10.0)
    assert (grid.npix, grid.nchan, grid.cell, grid.chan_width) == (360, 128, 0.1, 1e7)
    assert grid.freq()[64] == pytest.approx(230e9)
    assert recipe["sources"]["number"] == {"integer": [2, 5]}
    assert recipe["sources"]["pa"] == {"uniform": [0, 90]}
    assert recipe["brightness"]["peak"] == 0.001
    # The code differs in nothing but the meaning of the sizes.
    code = presets.recipe("paper-code")
    assert code["sources"].pop("size_unit") == "sigma"
    assert recipe["sources"].pop("size_unit") == "fwhm"
    assert code == recipe


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("base: paper\nsources: {sise: 3}", r"mine.yaml: sources.sise=3: no such parameter. did you mean size\?"),
        ("base: paper\nsorces: {size: 3}", r"mine.yaml: sorces=.*did you mean sources\?"),
        ("base: paper\nsources: 3", "not a group"),
        ("base: paper\nsources: {size: big}", "mine.yaml: sources.size='big': not a number. allowed: 0 to 1000"),
        ("base: paper\nsources: {size: {uniform: [2, 8000]}}", "sources.size=8000: out of range. allowed: 0 to 1000"),
        ("base: paper\nsources: {size: {uniform: [8, 2]}}", "lower end is above"),
        ("base: paper\nsources: {size: {uniform: [8]}}", "a lower and an upper end"),
        ("base: paper\nsources: {size: {uniform: 8}}", "needs a list"),
        ("base: paper\nsources: {size: {log_uniform: [0, 8]}}", "ends above 0"),
        ("base: paper\nsources: {size: {integer: [0.5, 8]}}", "whole numbers"),
        ("base: paper\nsources: {size: {normal: [2, 8]}}", "'normal' is no distribution"),
        ("base: paper\nsources: {size: {uniform: [2, 8], choice: [1]}}", "one word"),
        ("base: paper\nsources: {size: {weighted: [[0.5, 2], [0.4, 8]]}}", "add up to 0.9"),
        ("base: paper\nsources: {size: {weighted: [2, 8]}}", "pairs"),
        ("base: paper\nsources: {kind: {choice: [line, lime]}}", "kind='lime': no such choice. choose one of line"),
        ("base: paper\nsources: {kind: {uniform: [1, 2]}}", "not a word"),
        ("base: paper\nsources: {central: 1}", "true or false"),
        ("base: paper\nobservation: {declination: 35deg}", "not an angle"),
        ("base: paper\nobservation: {duration: true}", "not a number"),
        ("base: paper\nobservation: {duration: .inf}", "not a number"),
        ("base: paper\nimage: {cell: 0.1, pixels_per_beam: 5}", "only one of them"),
        ("base: paper\nimage: {cell: null}", "one of them is needed"),
        ("base: papre", r"did you mean paper\?"),
        ("base: [paper]", "not the name of a preset"),
        ("base: mine.yaml", "its own base"),
        ("observation: {array: alma.cycle9.3}", "mine.yaml: observation.declination=None: missing"),
    ],
)
def test_refusals_name_file_key_and_way_out(tmp_path: Path, text: str, problem: str) -> None:
    with pytest.raises(ParameterError, match=problem):
        presets.load_preset(write(tmp_path, text))


@pytest.mark.parametrize(("text", "problem"), [("a: [", "YAML"), ("- 3", "no parameters"), ("a: 1\na: 2", "twice")])
def test_files_that_are_no_presets(tmp_path: Path, text: str, problem: str) -> None:
    with pytest.raises(DataError, match=problem):
        presets.load_preset(write(tmp_path, text))


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("base: paper\nobservation: {declination: 50}", "never rises above 20 deg.*choose -90 to 47 deg"),
        ("base: alma\nobservation: {declination: {uniform: [-30, 60]}}", "=60.0: never rises"),
        ("base: paper\nobservation: {array: alma.cycle9.33}", "no such configuration"),
        ("base: paper\nobservation: {hour_angle: 6}", "no track stands above 20 deg"),
        ("base: paper\nimage: {cell: 1}", "larger than half the beam"),
        ("base: paper\nsources: {position: 400}", "beyond 359"),
        ("base: paper\nlines: {position: 128}", "beyond 127"),
        ("base: paper\nimage: {field: 1}", "image.npix is not given"),
        ("base: paper\nimage: {max_bandwidth: 1}", "exceed image.max_bandwidth"),
        ("base: paper\nlines: {max_fwhm: 0.01}", "no line fits"),
        ("base: paper\nsources: {min_pb: 0.99, position: 100}", "no place"),
    ],
)
def test_impossible_geometry(tmp_path: Path, text: str, problem: str) -> None:
    with pytest.raises(ParameterError, match=problem):
        presets.draw(write(tmp_path, text), np.random.default_rng(7))


def test_unknown_preset() -> None:
    with pytest.raises(ParameterError, match=r"did you mean alma\? choose one of paper, paper-code, alma, vla"):
        presets.load_preset("alna")


def test_a_file_on_a_base(tmp_path: Path) -> None:
    middle = write(tmp_path, "base: paper\nimage: {channels: 64, pixels_per_beam: 5}\nlines: {position: 20}", "m.yaml")
    preset = presets.load_preset(write(tmp_path, "base: m.yaml\ndescription: Mine\nimage: {max_voxels: 1e7}"))
    assert (preset.name, preset.description) == ("mine", "Mine")
    assert preset.nodes["image.channels"] == 64
    # The other one of a pair drops out.
    assert not preset.given("image.cell")
    assert list(preset["image.max_voxels"].ends()) == [1e7]
    # A changed file is read again.
    middle.write_text("base: paper\nimage: {channels: 100}")
    os.utime(middle, ns=(1, 1))
    assert presets.load_preset(tmp_path / "mine.yaml").nodes["image.channels"] == 100


def number(node: object, count: int = 4000) -> np.ndarray:
    parameter = Parameter("a.b", "help", "number", low=-1e9, high=1e9)
    value = parse(node, "a.b", lambda item: parameter.convert(item, "a.b"))
    rng = np.random.default_rng(7)
    return np.array([value.draw(rng) for _ in range(count)])


def test_distributions() -> None:
    assert set(number(3)) == {3.0}
    uniform = number({"uniform": [2, 8]})
    assert 2 <= uniform.min() < 2.05 and 7.95 < uniform.max() <= 8
    assert uniform.mean() == pytest.approx(5.0, abs=0.1)
    factors = np.log10(number({"log_uniform": [1, 100]}))
    assert factors.mean() == pytest.approx(1.0, abs=0.03)
    assert np.bincount(number({"integer": [2, 5]}).astype(int))[2:] == pytest.approx(1000, abs=110)
    mixed = number({"weighted": [[0.8, 0], [0.2, {"choice": [1, {"uniform": [5, 6]}]}]]})
    assert (mixed == 0).mean() == pytest.approx(0.8, abs=0.025)
    assert (mixed == 1).mean() == pytest.approx(0.1, abs=0.02)
    assert ((mixed >= 5) & (mixed <= 6)).mean() == pytest.approx(0.1, abs=0.02)


def test_streams_have_names() -> None:
    preset = presets.load_preset("alma")
    first, second = (Draws(preset, np.random.default_rng(8)) for _ in range(2))
    a = [first.number("sources.size", 3), first.number("sources.pa", 3)]
    # Order and company change nothing.
    b = [second.number("sources.pa", 3), second.number("sources.pa", 2), second.number("sources.size", 3)]
    assert a == [b[2], b[0]]
    assert b[0] != b[1]
    assert first.number("sources.size", 3) != a[0]
    assert first.chance("blends.share", 1) == first.chance("blends.share", 1)
    assert Draws(preset, np.random.default_rng(9)).number("sources.size", 3) != a[0]


def test_alma_observations() -> None:
    preset = presets.load_preset("alma")
    declinations, pixels, robusts, bands, arrays_seen = [], [], [], [], set()
    for seed in range(60):
        coverage, grid = draw_observation(Draws(preset, np.random.default_rng([8, seed])))
        latitude = arrays.read_array(coverage.array).latitude
        ends = coverage.hour_angle + np.array([-0.5, 0.5]) * coverage.duration / 3600.0
        assert arrays.elevation(latitude, coverage.dec, ends).min() > MIN_ELEVATION
        assert 300 <= coverage.duration <= 18000
        assert coverage.duration / coverage.integration < 120.5
        assert grid.npix % 2 == 0 and grid.npix >= 48
        assert grid.npix**2 * grid.nchan <= 1.7e7
        middle = grid.freq()[grid.nchan // 2]
        assert abs(grid.chan_width) * grid.nchan <= 1.875e9
        field = grid.npix * grid.cell / primary_beam_arcsec(coverage, middle)
        assert field < 1.52 or grid.npix == 48
        declinations.append(coverage.dec)
        pixels.append(coverage.beam_arcsec(middle) / grid.cell)
        robusts.append(coverage.robust)
        bands.append(middle / 1e9)
        arrays_seen.add(coverage.array.split(".")[0])
    assert 3.95 < min(pixels) and max(pixels) < 8.05
    assert min(declinations) < -50 and max(declinations) > 20
    assert {None, 0.5, 2.0} == set(robusts)
    assert min(bands) < 116 and max(bands) > 787
    assert arrays_seen == {"alma", "aca"}


def test_cut() -> None:
    assert cut(360, 128, 17_000_000, 96) == (360, 128)
    # The field first, then channels.
    assert cut(5000, 128, 17_000_000, 96) == (364, 128)
    npix, nchan = cut(5000, 4096, 17_000_000, 96)
    assert (npix, nchan) == (96, 1844)


def test_primary_beam_width() -> None:
    # 10.7 m: 1.13 wavelengths over the diameter is the ALMA Technical Handbook's rule for 12 m.
    coverage = Coverage()
    assert primary_beam_arcsec(coverage, 230e9) == pytest.approx(1.13 * 0.0013034 / 12.0 * 206265, rel=0.04)
    assert pb_radius(0.05, 230e9, 12.0) > pb_radius(0.5, 230e9, 12.0)


def test_noise_of_the_paper() -> None:
    # Measured with simobserve: 0.375 mJy/beam, from 216720 visibilities of 0.2471 Jy.
    coverage, grid = draw_observation(Draws(presets.load_preset("paper"), np.random.default_rng(7)))
    assert thermal_noise(3495.0, coverage, grid) == pytest.approx(0.2471 / np.sqrt(2 * 216720), rel=1e-3)
    thermal = 3e-4
    white = white_noise(0.01, 20.0, thermal, 128)
    assert white > thermal
    assert 0.01 / (np.hypot(white, thermal) / np.sqrt(128)) == pytest.approx(20.0)
    assert white_noise(1e-6, 20.0, thermal, 128) == 0.0


@pytest.mark.parametrize("name", ["paper", "paper-code"])
def test_paper_fields(name: str) -> None:
    unit = FWHM_PER_SIGMA if name == "paper-code" else 1.0
    snrs, turned, faintest = [], [], []
    for index in range(25):
        field = presets.draw_field(name, 7, index)
        centre = field.sources[0]
        assert 3 <= len(field.sources) <= 6
        assert max(abs(centre.x - 180), abs(centre.y - 180)) <= 0.5
        peaks = []
        for source in field.sources:
            area = GAUSSIAN_AREA * source.fwhm_maj * source.fwhm_min
            peaks.append((source.continuum + source.line) / area)
            assert 2 * unit <= source.fwhm_min <= source.fwhm_maj <= 8 * unit
            assert 1 <= source.line / source.continuum <= 5
            assert 10 <= source.chan <= 110 and 3 <= source.line_fwhm <= 10 and abs(source.alpha) <= 2
            turned.append(source.pa)
        assert all(100 <= value <= 250 for s in field.sources[1:] for value in (s.x, s.y))
        # Table 2, inbright; "lower or equal to that of the central source".
        assert peaks[0] == pytest.approx(1e-3, rel=1e-6)
        assert max(peaks) <= 1.000001e-3
        faintest.append(min(peaks))
        assert field.noise == pytest.approx(3.75e-4, rel=0.01)
        resp = response(field.coverage, field.grid)
        gain = resp.channels(resp.overlap(centre, squared=False))
        peak = (gain * centre.spectrum(field.grid.freq())).mean()
        snrs.append(peak / np.hypot(field.noise, field.white) * np.sqrt(field.grid.nchan))
    assert 9.9 < min(snrs) < 25 and 40 < max(snrs) < 101
    assert min(faintest) < 0.3e-3
    # Both axes are drawn, so that 0 to 90 degrees of the first turn the major axis all around.
    assert min(turned) < 20 and max(turned) > 160


def test_alma_like_fields(tmp_path: Path) -> None:
    path = write(tmp_path, SMALL)
    kinds, shapes, snrs, defects, extra = [], [], [], 0, 0
    empty = 0
    for index in range(60):
        field = presets.draw_field(path, 8, index)
        resp, freq = response(field.coverage, field.grid), field.grid.freq()
        empty += not field.sources
        defects += field.defects != type(field.defects)()
        field.defects.check(field.grid.nchan, field.grid.npix)
        assert field.defects.flagged_antennas == field.coverage.flagged_antennas
        assert field.white == 0
        for source in field.sources:
            kinds.append((source.line > 0, source.line < 0, source.continuum > 0))
            shapes.append(source.kind)
            extra += bool(source.extra_lines)
            assert source.line_fwhm <= 0.25 * 24 + 1e-9
            assert 0 <= source.x <= 63 and 0 <= source.y <= 63
            if source.line < 0:
                assert 0.2 <= -source.line / source.continuum <= 0.9
            elif not source.extra_lines:
                snrs += [v for v in matched_filter_snr(source, resp, freq, field.noise) if v]
    count = len(kinds)
    assert count > 150
    for kind, share in (((True, False, False), 0.38), ((False, False, True), 0.2), ((False, True, True), 0.04)):
        assert kinds.count(kind) / count == pytest.approx(share, abs=3 * np.sqrt(share / count))
    for shape, share in (("gaussian", 0.5), ("point", 0.25), ("disc", 0.25)):
        assert shapes.count(shape) / count == pytest.approx(share, abs=3 * np.sqrt(share / count))
    assert 2.9 < min(snrs) < 4 and 80 < max(snrs) < 101
    assert 5 <= defects <= 26
    assert 1 <= empty <= 14
    assert extra


def test_blends_edges_and_discs(tmp_path: Path) -> None:
    recipe = yaml.safe_load(SMALL)
    recipe["image"] = {key: value for key, value in recipe["image"].items() if key != "npix"} | {"field": 1.6}
    recipe["sources"] = {"number": 3, "shape": "disc", "kind": "line", "edge_share": 0.5, "edge_pb": 0.3}
    recipe["blends"] = {"share": 1, "separation": 0.8, "offset": 1}
    path = write(tmp_path, yaml.safe_dump(recipe))
    edge = 0
    for index in range(4):
        field = presets.draw_field(path, 8, index)
        grid, resp = field.grid, response(field.coverage, field.grid)
        beam = np.linalg.det([resp.middle_beam()[[0, 2]], resp.middle_beam()[[2, 1]]]) ** 0.25 * FWHM_PER_SIGMA
        assert 3 < len(field.sources) <= 6
        for source in field.sources[:3]:
            radius = np.hypot(source.x - grid.npix // 2, source.y - grid.npix // 2) * grid.cell / 206264.806
            edge += radius == pytest.approx(pb_radius(0.3, grid.freq().mean(), 12.0), rel=1e-6)
        for companion in field.sources[3:]:
            away = [np.hypot(s.x - companion.x, s.y - companion.y) / beam for s in field.sources[:3]]
            near = [s for s, distance in zip(field.sources[:3], away, strict=True) if np.isclose(distance, 0.8)]
            offsets = [abs(s.chan - companion.chan) / s.line_fwhm for s in near]
            assert np.isclose(offsets, 1.0).any() or companion.chan in (0, 23)
        for source in field.sources:
            # The width asked for is that of the whole disc's profile.
            assert 2 <= source.line_fwhm <= 5
            assert source.rotation is not None
            assert source.fwhm_min / source.fwhm_maj == pytest.approx(source.rotation.axis_ratio())
    assert 2 <= edge <= 10


def test_field_depends_on_preset_seed_and_index(tmp_path: Path) -> None:
    path = write(tmp_path, SMALL)
    first, again = (presets.draw_field(path, 7, 3) for _ in range(2))
    assert first == again
    assert presets.draw_field(path, 7, 4) != first
    assert presets.draw_field(path, 8, 3) != first
    # The folder does not matter, the name does.
    (tmp_path / "other").mkdir()
    assert presets.draw_field(write(tmp_path / "other", SMALL), 7, 3) == first
    assert presets.draw_field(write(tmp_path, SMALL, "yours.yaml"), 7, 3) != first
    # A parameter more leaves the rest as it was.
    more = presets.draw_field(write(tmp_path / "other", SMALL + "sources: {pa: 10}\n"), 7, 3)
    assert len(more.sources) == len(first.sources) > 0
    assert [s.x for s in more.sources] == [s.x for s in first.sources]


def test_defaults_fit_the_schema() -> None:
    content = yaml.safe_load(SCHEMA.read_text())
    assert {key for group in content.values() for entry in group.values() for key in entry} <= {
        "help", "type", "unit", "range", "words", "default", "paper", "instead_of",
    }  # fmt: skip


def test_the_page_is_made_from_the_schema() -> None:
    page = Path(__file__).resolve().parents[1] / "docs" / "presets.md"
    assert runpy.run_path(str(page.with_name("make_presets.py")))["make"]() == page.read_text(encoding="utf-8")


def test_the_example_of_the_page_works(tmp_path: Path) -> None:
    page = (Path(__file__).resolve().parents[1] / "docs" / "presets.md").read_text(encoding="utf-8")
    example = page.split("```yaml\n")[1].split("```")[0]
    coverage, grid = presets.geometry(write(tmp_path, example), 7, 0)
    assert coverage.array == "alma.cycle9.4"
    assert coverage.beam_arcsec(230e9) / grid.cell == pytest.approx(6.0)


def test_small_grid_is_what_the_text_says(tmp_path: Path) -> None:
    grid = presets.draw_field(write(tmp_path, SMALL), 7, 0).grid
    assert isinstance(grid, Grid)
    assert (grid.npix, grid.nchan) == (64, 24)
