"""The paper's own flow: networks that answer rightly recover planted sources, and nothing else decides."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from casa_deepfocus.core.catalogue import COLUMNS
from casa_deepfocus.core.preprocessing import PAPER_PIXELS_PER_BEAM
from casa_deepfocus.errors import DataError, ParameterError
from casa_deepfocus.pipeline import Options, paper, run
from sim.cube import simulate_cube
from sim.response import Coverage, Grid
from sim.sky import Source
from tests.fake_paper_networks import PaperFilters

GRID = Grid(npix=160, nchan=48)
NOISE = 1e-3
SHAPE = {"major": 0.6, "minor": 0.45, "pa": 30.0}
"""Of all sources; sizes in beams of the array below."""


def sky(beam):
    a, b, pa = SHAPE["major"] * beam, SHAPE["minor"] * beam, SHAPE["pa"]
    return [
        Source(80, 78, a, b, pa, continuum=0.03, alpha=1, line=0.05, chan=16, line_fwhm=5),
        Source(50, 104, a, b, pa, continuum=0.012, line=0.03, chan=30, line_fwhm=6),
        Source(108, 112, a, b, pa, continuum=0.015, line=0.04, chan=38, line_fwhm=4),
    ]


def observe(sources, seed=1, grid=GRID):
    return simulate_cube(list(sources), Coverage(), grid, NOISE, np.random.default_rng(seed))


@pytest.fixture(scope="module")
def beam():
    return observe([], grid=replace(GRID, nchan=2)).beam_pixels()


@pytest.fixture(scope="module")
def cube(beam):
    return observe(sky(beam))


@pytest.fixture(scope="module")
def networks():
    return PaperFilters(**SHAPE)


@pytest.fixture(scope="module")
def result(cube, networks):
    return run(cube, networks)


def nearest(table, source):
    return table[int(np.argmin(np.hypot(table["x"] - source.x, table["y"] - source.y)))]


def test_every_source_and_nothing_else(cube, beam, result):
    assert len(result.catalogue) == 3
    for source in sky(beam):
        row = nearest(result.catalogue, source)
        assert np.hypot(row["x"] - source.x, row["y"] - source.y) < 0.2 * beam
        assert row["chan"] == pytest.approx(source.chan, abs=0.5)
        assert row["fwhm_maj"] == pytest.approx(source.fwhm_maj * cube.cell, rel=0.05)
        assert row["fwhm_min"] == pytest.approx(source.fwhm_min * cube.cell, rel=0.05)
        assert row["pa"] == pytest.approx(source.pa, abs=1.0)


def test_the_catalogue_is_the_others_without_errors(cube, result):
    table = result.catalogue
    assert table.colnames == [column[0] for column in COLUMNS]
    assert all(np.isnan(table[name]).all() for name in table.colnames if name.endswith("_err"))
    assert np.isnan(table["reliability"]).all() and np.isnan(table["continuum"]).all()
    assert (table["snr"] > 5).all() and (table["line_flux"] > 0).all() and (table["chan1"] > table["chan0"]).all()
    assert table.meta["models"] == "filters" and table.meta["noise"] == pytest.approx(NOISE, rel=0.25)
    assert result.probability.shape == cube.shape and 0 <= result.probability.min() <= result.probability.max() <= 1
    assert result.mask.shape == cube.data.shape and result.counts["sources"] == len(result.details) == 3
    for row, detail in zip(table, result.details, strict=True):
        assert detail.name == row["name"]
        assert detail.spectrum.shape == detail.clean.shape == detail.model.shape == (cube.nchan,)
        assert result.mask[round(row["chan"]), round(row["y"]), round(row["x"])]
        # The 3D model is the line's: no source has its whole band in the mask.
        assert not result.mask[:, round(row["y"]), round(row["x"])].all()


def test_each_network_has_been_asked_what_its_contract_says(networks, result):
    assert set(networks.shapes) == {"blobs_finder", "deep_gru", "fwhm_maj", "fwhm_min", "pa", "flux"}
    assert networks.shapes["deep_gru"] == [(3, 128)] and networks.shapes["flux"] == [(3, 1, 64, 64)]


def test_the_flux_network_decides_the_flux(cube, result):
    more = run(cube, PaperFilters(**SHAPE, flux=0.12 + np.log10(2.0))).catalogue
    np.testing.assert_allclose(more["line_flux"], 2.0 * result.catalogue["line_flux"], rtol=1e-5)


def test_what_blobs_finder_does_not_show_is_not_found(cube):
    blind = PaperFilters(**SHAPE)
    blind.blobs_finder = np.zeros_like
    found = run(cube, blind)
    assert len(found.catalogue) == 0 and not found.mask.any() and found.counts["blobs"] == 0
    deaf = PaperFilters(**SHAPE)
    deaf.deep_gru = np.zeros_like
    found = run(cube, deaf)
    assert found.counts["blobs"] == 3 and len(found.catalogue) == 0


def test_the_decision_graph_and_minsnr_reject(cube, result):
    high = float(np.sort(result.catalogue["snr"])[1]) + 0.1
    assert len(run(cube, PaperFilters(**SHAPE), Options(minsnr=high)).catalogue) == 1
    # A line where there is none: focused on it, the source is fainter than in the integrated image.
    border = PaperFilters(**SHAPE)
    border.deep_gru = lambda spectra: np.eye(1, 128, 41, dtype=np.float32).repeat(len(spectra), 0)
    found = run(cube, border, Options(minsnr=0.1, graph=replace(Options().graph, bright=1e6)))
    assert len(found.catalogue) == 0 and found.counts["rejected"] >= 3


def test_an_image_of_any_size_is_one_map():
    """Tiles are cut so that their middles cover the image, and share one scale."""
    seen = []

    class Echo:
        @staticmethod
        def blobs_finder(images):
            seen.append(images.copy())
            return images

    noise = np.random.default_rng(2).normal(size=(300, 700)).astype(np.float32)
    answer = paper.probability_map(noise, 1.0, Echo())
    np.testing.assert_allclose(answer, (noise - noise.min()) / np.ptp(noise), atol=1e-6)
    # As the paper: the middle of the image is a tile, whole.
    middle = answer[22:278, 222:478]
    assert any(np.array_equal(tile[0, 0], middle) for tile in seen)
    small = paper.probability_map(noise[:100, :90], 1.0, Echo())
    assert small.shape == (100, 90) and seen[-1].shape == (1, 1, 256, 256)
    assert paper.probability_map(noise[:100, :90], 2.0, Echo()).shape == (200, 180)


def test_a_pixel_is_taken_from_the_tile_in_whose_middle_it_lies():
    class Depth:
        """Answers with the distance from the tile's edge."""

        @staticmethod
        def blobs_finder(images):
            edge = np.minimum(np.arange(256), np.arange(256)[::-1])
            return np.minimum(edge[:, None], edge[None, :])[None, None].astype(np.float32)

    answer = paper.probability_map(np.zeros((512, 512), np.float32), 1.0, Depth())
    # Half of a tile is shared: no pixel is nearer than a quarter of a tile to an edge.
    assert answer[64:-64, 64:-64].min() >= 63 and answer.shape == (512, 512)


@pytest.mark.parametrize("nchan", [40, 128, 200, 500])
def test_spectra_of_any_length_keep_their_channels(nchan):
    """Pieces of 128 channels: a line is as wide in each as in the cube, and stands in the same channel."""
    chan = np.arange(nchan)
    spectra = np.stack([np.exp(-0.5 * ((chan - at) / 2.0) ** 2) for at in (5.0, nchan / 2, nchan - 6.0)]) + 7.0
    spectra[0, 30] = np.nan

    class Echo:
        @staticmethod
        def deep_gru(inputs):
            assert inputs.shape[1:] == (128,) and np.isfinite(inputs).all()
            np.testing.assert_allclose(inputs.mean(1), 0.0, atol=1e-3)
            return inputs

    answer = paper.denoised(spectra, Echo())
    assert answer.shape == (3, nchan)
    np.testing.assert_array_equal(answer.argmax(1), [5, nchan // 2, nchan - 6])
    for row, clean in zip(spectra, answer, strict=True):
        at = int(clean.argmax())
        # Half way down two channels away, as it was.
        before, after = (values[at - 2 : at + 1] - values[at - 4] for values in (row, clean))
        np.testing.assert_allclose(after / after[-1], before / before[-1], atol=0.05)
    assert paper.denoised(np.empty((0, nchan)), Echo()).shape == (0, nchan)


def test_another_pixel_size_is_resampled(beam):
    """Half as many pixels a beam: the networks see the beam that they know."""
    grid = replace(GRID, cell=2.0 * GRID.cell, npix=80)
    half = [replace(s, x=40 + (s.x - 80) / 2, y=40 + (s.y - 80) / 2, fwhm_maj=s.fwhm_maj / 2, fwhm_min=s.fwhm_min / 2)
            for s in sky(beam)]  # fmt: skip
    coarse = observe(half, grid=grid)
    assert coarse.beam_pixels() < 0.6 * beam and abs(PAPER_PIXELS_PER_BEAM / coarse.beam_pixels() - 1) > 0.1
    table = run(coarse, PaperFilters(**SHAPE)).catalogue
    assert len(table) == 3
    for source in half:
        row = nearest(table, source)
        assert np.hypot(row["x"] - source.x, row["y"] - source.y) < 0.2 * coarse.beam_pixels()


def test_blank_pixels_and_channels_do_no_harm(cube):
    data = cube.data.copy()
    data[20:22] = np.nan
    data[:, :12] = np.nan
    found = run(replace(cube, data=data), PaperFilters(**SHAPE))
    assert len(found.catalogue) == 3
    far = replace(cube, pb=np.where(np.arange(160) < 60, 0.2, 1.0)[None, None] * np.ones((1, 160, 1)))
    assert len(run(far, PaperFilters(**SHAPE)).catalogue) == 2, "beyond half of the primary beam nothing is looked for"


def test_what_the_flow_cannot_do_is_refused(cube, networks):
    with pytest.raises(ParameterError, match="mode='both'"):
        run(cube, networks, Options(mode="continuum"))
    with pytest.raises(DataError, match="at least 4 channels"):
        run(observe([], grid=replace(GRID, nchan=2)), networks)
    with pytest.raises(DataError, match="no data"):
        run(replace(cube, data=np.full_like(cube.data, np.nan)), networks)


def test_decoras_gives_places_and_boxes(cube, beam):
    result = run(cube, PaperFilters(flow="decoras"))
    table = result.catalogue
    assert table.colnames == [column[0] for column in COLUMNS]
    for source in sky(beam):
        row = nearest(table, source)
        assert np.hypot(row["x"] - source.x, row["y"] - source.y) < 0.3 * beam
        assert row["x0"] < source.x < row["x1"] and row["y0"] < source.y < row["y1"]
        assert (row["chan0"], row["chan1"]) == (0, cube.nchan - 1) and np.isnan(row["chan"])
    # The scorer draws boxes from sizes: they are those of eq. 21.
    sizes = table["fwhm_maj"] / cube.cell
    drawn = np.hypot(sizes, 0.5 * beam) * np.sqrt(-2.0 * np.log(0.15)) / 2.35482
    np.testing.assert_allclose(2.0 * drawn, table["x1"] - table["x0"], atol=2.5)


def test_the_kernels_of_blobs_are_as_wide_as_they():
    y, x = np.mgrid[:96, :96]
    image = sum(np.exp(-0.5 * ((x - a) ** 2 + (y - b) ** 2) / s**2) for a, b, s in ((30, 40, 3.0), (70, 60, 6.0)))
    found = paper.dog_blobs(image, 0.15)[::-1]
    found = found[np.argsort(found[:, 1])]
    assert [(round(column), round(row)) for row, column, _ in found] == [(30, 40), (70, 60)]
    # The kernels are a factor of 1.6 apart, which is how well a width is known.
    assert all(1 / 1.7 < sigma / s < 1.7 for sigma, s in zip(found[:, 2], (3, 6), strict=True))
    assert paper.dog_blobs(image, 1.1).shape == paper.dog_blobs(np.zeros((64, 64)), 0.1).shape == (0, 3)
