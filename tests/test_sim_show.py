"""The picture of a cube: every kind of field gives one, and what is drawn is the truth."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from matplotlib import image as pictures

pytest.importorskip("casadata")

from casa_deepfocus.errors import DataError
from sim import __main__ as command
from sim import panels
from sim.coverage import Coverage, Grid
from sim.cube import simulate_cube
from sim.discs import Rotation
from sim.fits import write_cube
from sim.response import response
from sim.show import draw, look, show
from sim.sky import Line, Source, disc
from sim.truth import truth_table, write_truth

COVERAGE = Coverage(duration=1200.0, integration=120.0)
GRID = Grid(npix=64, cell=0.16, nchan=24, freq0=230e9, chan_width=40e6)
NOISE = 1e-3
LINE = Source(20.3, 42.8, 5.0, 3.5, 40.0, continuum=0.01, line=0.06, chan=5.3, line_fwhm=4.0)
POINT = Source(45.0, 20.0, 0.0, 0.0, 0.0, continuum=0.03)
ABSORBED = Source(
    40.0, 48.0, 3.0, 3.0, 0.0, 0.04, line=-0.03, chan=15.0, line_fwhm=3.0, extra_lines=(Line(20, 2, -0.02),)
)
DISC = disc(32.0, 30.0, 12.0, 30.0, Rotation(5.0, 2.0, 2.5, 60.0), line=0.2, chan=12.0)


def field(sources: list[Source], grid: Grid = GRID, seed: int = 7):
    cube = simulate_cube(sources, COVERAGE, grid, NOISE, np.random.default_rng(seed))
    return cube, truth_table(sources, response(COVERAGE, grid), cube, NOISE)


@pytest.mark.parametrize(
    ("sources", "nchan", "titles"),
    [
        ([LINE, POINT, DISC], 24, {"moment 1 of S03 (disc), masked", "S01 (gaussian): line S/N"}),
        ([POINT], 24, {"around S01", "distribution of the pixels", "primary beam"}),
        ([ABSORBED], 24, {"moment 1 of S01 (gaussian), masked"}),
        ([], 24, {"the middle", "noise of every channel"}),
        ([POINT], 1, {"image", "true sources"}),
        ([], 1, {"image", "no sources"}),
        ([replace(LINE, chan=1.0)], 3, {"moment 0 of the lines, 3 channels"}),
    ],
)
def test_every_kind_of_field_gives_a_picture(
    sources: list[Source], nchan: int, titles: set[str], tmp_path: Path
) -> None:
    cube, truth = field(sources, replace(GRID, nchan=nchan))
    write_cube(cube, tmp_path / "00000")
    write_truth(truth, tmp_path / "00000" / "truth.ecsv")
    path = show(tmp_path / "00000")
    assert path == tmp_path / "00000" / "show.png"
    picture = pictures.imread(path)
    assert picture.shape[:2] == (860, 1600)
    assert 0.02 < (picture[..., :3].mean(axis=2) < 0.9).mean() < 0.8
    figure = draw(cube, truth, "made here")
    texts = [axes.get_title() for axes in figure.axes] + [t.get_text() for axes in figure.axes for t in axes.texts]
    for title in titles:
        assert any(text.startswith(title) for text in texts), (title, texts)
    assert "made here" in figure.get_suptitle()
    assert "no sources" in figure.get_suptitle() or "S/N" in figure.get_suptitle()


def test_the_spectrum_drawn_is_the_source() -> None:
    cube, truth = field([LINE])
    view = look(cube, truth)
    measured = panels.filtered(view, 0, cube.data) * panels.filter_gain(view, 0)
    true = LINE.spectrum(cube.freq)
    assert true.max() > 10 * NOISE
    expected = panels.filtered(view, 0, view.model) * panels.filter_gain(view, 0)
    np.testing.assert_allclose(expected, true, rtol=0.03)
    # The scatter about it is that of the matched filter.
    assert np.std(measured - expected) == pytest.approx(true.max() / (truth["snr_line"][0] / 2.0), rel=0.5)


def test_the_velocities_drawn_are_the_disc() -> None:
    cube, truth = field([DISC])
    figure = draw(cube, truth)
    axes = next(axes for axes in figure.axes if axes.get_title().startswith("moment 1"))
    moment = np.asarray(axes.images[0].get_array().filled(np.nan))
    y, x = np.indices(moment.shape)
    y, x = y - moment.shape[0] // 2, x - moment.shape[1] // 2
    along = -np.sin(np.deg2rad(30.0)) * x + np.cos(np.deg2rad(30.0)) * y
    good = np.isfinite(moment)
    assert good.sum() > 60
    # The end at the position angle approaches, as the frequency rises with the channel.
    assert np.corrcoef(moment[good], along[good])[0, 1] < -0.8


def test_blank_channels_and_edges_and_a_gaussian_beam(tmp_path: Path) -> None:
    cube, truth = field([LINE])
    cube.data[[0, 9, 23]] = np.nan
    cube.data[:, :5] = np.nan
    write_cube(cube, tmp_path / "cube", products=("dirty", "pb"))
    out = tmp_path / "pictures" / "x.png"
    # No truth and no PSF: the image is drawn with the header's beam.
    assert show(tmp_path / "cube", out) == out
    assert out.is_file()
    write_truth(truth, tmp_path / "cube" / "truth.ecsv")
    assert command.main(["show", str(tmp_path / "cube")]) == 0
    assert (tmp_path / "cube" / "show.png").is_file()


def test_a_folder_without_a_cube(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="dirty.fits"):
        show(tmp_path)
    assert command.main(["show", str(tmp_path)]) == 1
