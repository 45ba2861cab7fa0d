"""The fast simulator against CASA: simobserve and tclean on one side, the same sky on the other."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("casatasks")
pytest.importorskip("casadata")

from numpy.typing import NDArray

from casa_deepfocus.core.geometry import GAUSSIAN_LINE
from casa_deepfocus.errors import ProductError
from sim import casa_backend, demo
from sim.casa_backend import Observation
from sim.cube import nominal_transfer
from sim.response import Coverage, Grid, Response, compute_response, response
from sim.sky import Source
from sim.stamps import source_stamps
from sim.synthesis import synthesize

pytestmark = pytest.mark.casa

NPIX, CELL = 160, 0.15
PADDED = 2 * NPIX
"""Pixels of tclean's image: twice the field, so that its PSF is known for all of it."""


def image_planes(path: str) -> NDArray[np.float64]:
    """(nchan, ny, nx) of a CASA image."""
    from casatools import image

    tool = image()
    try:
        tool.open(path)
        return tool.getchunk()[:, :, 0, :].T.astype(float)
    finally:
        tool.done()


def clean_images(vis: Path) -> dict[str, NDArray[np.float64]]:
    """tclean's dirty image, psf and pb, as sdeepfocus makes them."""
    from casatasks import tclean

    tclean(
        vis=str(vis), imagename="image", datacolumn="data", specmode="cube", outframe="LSRK", imsize=PADDED,
        cell=f"{CELL}arcsec", weighting="natural", niter=0, calcpsf=True, calcres=True, restoration=False,
        pblimit=-0.01,
    )  # fmt: skip
    return {name: image_planes(f"image.{name}") for name in ("residual", "psf", "pb")}


@pytest.fixture(scope="module")
def observation() -> Observation:
    return Observation(npix=NPIX, cell=CELL, nchan=6, chan_width=60e6, duration=600.0, pwv=0.0)


@pytest.fixture(scope="module")
def sources() -> list[Source]:
    return [
        Source(80.0, 80.0, 3.0, 2.4, 30.0, continuum=0.3, alpha=-1.0, line=1.0, chan=2.2, line_fwhm=2.5),
        Source(117.4, 70.2, 4.0, 2.5, 120.0, line=0.9, chan=3.7, line_fwhm=3.0),
        Source(40.7, 130.1, 2.5, 2.5, 0.0, continuum=0.8, alpha=2.0),
    ]


@pytest.fixture(scope="module")
def observed(
    observation: Observation, sources: list[Source], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, Response]:
    vis = tmp_path_factory.mktemp("observed") / "sky.ms"
    sigma = casa_backend.observe(sources, observation, vis)
    assert (sigma == 0.0).all()
    grid = Grid(NPIX, CELL, observation.nchan, observation.freq0, observation.chan_width)
    return vis, compute_response(casa_backend.read_uvw(vis), 12.0, grid)


def test_fast_equals_casa(
    observed: tuple[Path, Response], observation: Observation, sources: list[Source]
) -> None:
    vis, resp = observed
    images = clean_images(vis)
    middle = slice(NPIX // 2, 3 * NPIX // 2)
    # tclean's own gridding aliases at the very edge of its image; ours is the exact sum.
    difference = np.abs(resp.channels(resp.psf) - images["psf"])
    assert difference.max() < 3e-3
    assert difference[:, 32:-32, 32:-32].max() < 5e-4
    np.testing.assert_allclose(resp.channels(resp.pb), images["pb"][:, middle, middle], atol=1e-3)
    grid = Grid(NPIX, CELL, observation.nchan, observation.freq0, observation.chan_width)

    def seen(sky: list[Source]) -> NDArray[np.float32]:
        return synthesize([source_stamps(source, grid, 12.0) for source in sky], nominal_transfer(resp))

    fast = seen(sources)
    dirty = images["residual"][:, middle, middle]
    assert dirty.max() > 0.8
    # Position, flux, channel, primary beam, frame: all of it within 1e-3 of the peak, in every channel.
    np.testing.assert_allclose(dirty, fast, atol=1e-3 * dirty.max())
    assert (dirty - fast).std() < 1e-4 * dirty.max()
    # The comparison bites: a fifth of a channel or a third of a pixel would be seen.
    moved = [replace(source, chan=source.chan + 0.2) for source in sources]
    assert np.abs(dirty - seen(moved)).max() > 0.02 * dirty.max()


def test_only_data_is_left(observed: tuple[Path, Response]) -> None:
    from casatools import table

    tool = table()
    try:
        tool.open(str(observed[0]))
        columns = tool.colnames()
    finally:
        tool.close()
    assert "DATA" in columns
    assert not {"CORRECTED_DATA", "MODEL_DATA"} & set(columns)


def test_own_uvw_agree_with_casa(observed: tuple[Path, Response], observation: Observation) -> None:
    # CASA precesses and aberrates J2000 to the day; a fringe rotator's hour angle does not care.
    coverage = Coverage(observation.array, observation.dec, 0.0, observation.duration, observation.integration)
    grid = Grid(NPIX, CELL, observation.nchan, observation.freq0, observation.chan_width)
    own = response(coverage, grid)
    assert len(coverage.uvw()) == len(casa_backend.read_uvw(observed[0]))
    difference = np.abs(own.psf[0] - observed[1].psf[0])
    assert difference[NPIX - 20 : NPIX + 20, NPIX - 20 : NPIX + 20].max() < 0.01
    np.testing.assert_allclose(own.beam, observed[1].beam, rtol=0.02, atol=0.05)


def test_refuses_to_overwrite(tmp_path: Path, observation: Observation, sources: list[Source]) -> None:
    (tmp_path / "old.ms").mkdir()
    with pytest.raises(ProductError, match="old.ms"):
        casa_backend.observe(sources, observation, tmp_path / "old.ms")
    (tmp_path / "truth.ecsv").touch()
    with pytest.raises(ProductError, match="truth.ecsv"):
        demo.write_demo(tmp_path)


def test_demo_sky() -> None:
    observation = Observation(seed=3)
    sources = demo.demo_sources(observation)
    assert sources == demo.demo_sources(observation)
    assert sources != demo.demo_sources(Observation(seed=4))
    kinds = {(source.line > 0, source.continuum > 0) for source in sources.values()}
    assert kinds == {(True, True), (True, False), (False, True)}
    first, second = sources["pair_a"], sources["pair_b"]
    beam = 0.82 / observation.cell
    assert 0.7 * beam < np.hypot(first.x - second.x, first.y - second.y) < beam
    assert abs(first.chan - second.chan) > first.line_fwhm + second.line_fwhm
    assert all(source.fwhm_min >= 2.0 for source in sources.values())


@pytest.mark.slow
def test_demo(tmp_path: Path) -> None:
    table = demo.write_demo(tmp_path / "demo", seed=2)
    assert sorted(path.name for path in (tmp_path / "demo").iterdir()) == ["demo.ms", "truth.ecsv"]
    snr = dict(zip(table["name"], table["snr"], strict=True))
    assert snr["bright"] > 90
    assert all(15 < snr[name] < 45 for name in snr if name != "bright")
    bright = table[0]
    assert bright["line_flux"] == pytest.approx(26e-3 * 7.0 * GAUSSIAN_LINE * 16e6 / bright["freq"] * 299792.458)
    images = clean_images(tmp_path / "demo" / "demo.ms")
    noise = images["residual"][:4, :, :NPIX // 3].std()
    assert noise == pytest.approx(table.meta["noise"], rel=0.1)
    assert images["residual"].shape[0] == table.meta["nchan"]
    for row in table:
        chan = round(row["chan"]) if np.isfinite(row["chan"]) else 0
        line = np.isfinite(row["chan"])
        plane = images["residual"][chan] if line else images["residual"].mean(axis=0)
        # The truth's pixels are those of the model, 256 x 256 at 0.1 arcsec.
        x, y = (NPIX + (row[name] - 128.0) * 0.1 / CELL for name in ("x", "y"))
        stamp = plane[round(y) - 2 : round(y) + 3, round(x) - 2 : round(x) + 3]
        expected = row["peak"] * row["pb"] + (row["continuum"] * row["pb"] if line and row["continuum"] else 0.0)
        assert stamp.max() == pytest.approx(expected, abs=max(5 * noise, 0.1 * expected))
