"""Sources put into a copy of a measurement set: the visibilities, and what an image of them says."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("casatasks")
pytest.importorskip("casadata")

from numpy.typing import NDArray
from scipy.optimize import least_squares

from casa_deepfocus.errors import DataError, ProductError
from sim import casa_cube
from sim.beams import airy
from sim.casa_backend import casa_tool, component_visibilities, inject_ms, prepare_casa
from sim.coverage import ARCSEC, Coverage, Grid
from sim.cube import celestial_wcs
from sim.skyfile import SkyLine, SkyRotation, SkySource

pytestmark = pytest.mark.casa

C_MS = 299792458.0
COVERAGE = Coverage(duration=600.0, integration=60.0)
GRID = Grid(npix=120, cell=0.2, nchan=4, chan_width=20e6)
RA = 60.0
PLACES = ((60.0, 60.0), (95.0, 31.0))
"""Pixels of the two sources."""


def place(x: float, y: float) -> tuple[float, float]:
    ra, dec = celestial_wcs(GRID, RA, COVERAGE.dec).wcs_pix2world([[x, y]], 0)[0]
    return float(ra), float(dec)


SKY = [
    SkySource(*place(*PLACES[0]), 0.8, 0.5, 30.0, continuum=0.2, lines=(SkyLine(230.02e9, 30.0, 0.5),)),
    SkySource(*place(*PLACES[1]), continuum=0.4, alpha=-1.0, freq0=230e9),
]


@pytest.fixture(scope="module")
def vis(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An observation of nothing, with true w; DATA holds -1 and the channels' numbers."""
    prepare_casa()
    path = tmp_path_factory.mktemp("observed") / "blank.ms"
    casa_cube.make_vis(path, COVERAGE, GRID, RA)
    with casa_tool("table", path, nomodify=False) as table:
        table.removecols(["MODEL_DATA"])
        for name in ("DATA", "CORRECTED_DATA"):
            data = table.getcol(name)
            data[:] = -1.0 + np.arange(GRID.nchan)[:, None]
            table.putcol(name, data)
        rows = table.nrows()
        assert rows == 9030
        uvw = table.getcol("UVW")
        uvw[2] = np.linspace(-300.0, 300.0, rows)
        table.putcol("UVW", uvw)
    return path


def column(path: Path, name: str) -> NDArray:
    with casa_tool("table", path) as table:
        return table.getcol(name)


def test_visibilities_are_those_of_the_definition(vis: Path, tmp_path: Path) -> None:
    before = column(vis, "DATA")
    inject_ms(vis, SKY[1:], tmp_path / "with.ms")
    np.testing.assert_array_equal(column(vis, "DATA"), before)
    added = column(tmp_path / "with.ms", "DATA") - before
    np.testing.assert_allclose(column(tmp_path / "with.ms", "CORRECTED_DATA") - before, added, atol=1e-6)
    # A point: S PB exp(2 pi i (u l + v m + w (n - 1)) / wavelength), CASA's uvw; the same in both hands.
    x, y = ((value - 60.0) * GRID.cell * ARCSEC for value in PLACES[1])
    uvw, freq = column(vis, "UVW"), GRID.freq()[:, None]
    path = -x * uvw[0] + y * uvw[1] + (np.sqrt(1.0 - x * x - y * y) - 1.0) * uvw[2]
    flux = 0.4 * (freq / 230e9) ** -1.0 * airy(np.hypot(x, y), freq, 12.0)
    expected = flux * np.exp(2j * np.pi * freq / C_MS * path)
    assert np.abs(expected.imag).max() > 0.2
    for hand in added:
        np.testing.assert_allclose(hand, expected, atol=2e-5)
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["with.ms"]


def test_a_disc_is_the_sum_of_its_pixels() -> None:
    freq = GRID.freq()
    rotation = SkyRotation(40.0, 0.2, 30.0, 50.0)
    sky = SkySource(60.0, -35.0, 1.0, pa=35.0, continuum=0.1, lines=(SkyLine(230.03e9, 0.0, 0.3),), rotation=rotation)
    components = sky.on_pixels(0.0, 0.0, 1.0, freq).components(freq)
    assert len(components) > 2
    uvw = np.random.default_rng(7).uniform(-300.0, 300.0, (3, 40))
    seen = component_visibilities(components, uvw, freq)
    for chan, nu in enumerate(freq):
        kx, ky = -uvw[0] * nu / C_MS * ARCSEC, uvw[1] * nu / C_MS * ARCSEC
        total = np.zeros(40, complex)
        for part in components:
            x, y = part.stamp_axes()
            wave = np.exp(2j * np.pi * np.outer(ky, y)), np.exp(2j * np.pi * np.outer(kx, x))
            total += part.spectrum[chan] * np.einsum("yx,ry,rx->r", part.stamp, *wave)
        pixel = np.sinc(kx * components[0].pitch) * np.sinc(ky * components[0].pitch)
        np.testing.assert_allclose(seen[chan], total / pixel, atol=1e-6)
    assert seen[:, 0].std() > 0.001


def test_what_cannot_be_done_is_said(vis: Path, tmp_path: Path) -> None:
    (tmp_path / "old.ms").mkdir()
    with pytest.raises(ProductError, match="old.ms exists"):
        inject_ms(vis, SKY, tmp_path / "old.ms")
    with pytest.raises(DataError, match="no measurement set"):
        inject_ms(tmp_path / "old.ms", SKY, tmp_path / "new.ms")
    with pytest.raises(DataError, match="cannot be read"):
        inject_ms(vis, tmp_path / "nowhere.yaml", tmp_path / "new.ms")
    bare = tmp_path / "bare.ms"
    shutil.copytree(vis, bare)
    with casa_tool("table", bare, nomodify=False) as table:
        table.removecols(["DATA", "CORRECTED_DATA"])
    with pytest.raises(DataError, match="neither DATA"):
        inject_ms(bare, SKY, tmp_path / "new.ms")
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["bare.ms", "old.ms"]


@pytest.mark.slow
def test_flux_and_place_come_back_from_an_image(tmp_path: Path) -> None:
    # tclean's 2D image knows no w, so the measurement set has none; with it the second source is seen 5e-3 pixel off.
    prepare_casa()
    casa_cube.make_vis(tmp_path / "blank.ms", COVERAGE, GRID, RA)
    text = "\n".join(f"- {{ra: {sky.ra!r}, dec: {sky.dec!r}, continuum: 0.4, alpha: -1}}" for sky in SKY)
    (tmp_path / "two.yaml").write_text(text, encoding="utf-8")
    inject_ms(tmp_path / "blank.ms", tmp_path / "two.yaml", tmp_path / "with.ms")
    planes = casa_cube.image_vis(tmp_path / "with.ms", COVERAGE, GRID)
    chan = 2
    transfer = np.fft.rfft2(np.fft.ifftshift(planes["psf"][chan].astype(float)))
    ky, kx = np.fft.fftfreq(2 * GRID.npix)[:, None], np.fft.rfftfreq(2 * GRID.npix)[None, :]

    def model(values: NDArray) -> NDArray:
        waves = (flux * np.exp(-2j * np.pi * (kx * x + ky * y)) for flux, x, y in values.reshape(2, 3))
        image = np.fft.irfft2(transfer * sum(waves), s=(2 * GRID.npix, 2 * GRID.npix))
        return image[: GRID.npix, : GRID.npix]

    start = np.array([[0.3, x + 0.2, y - 0.3] for x, y in PLACES]).ravel()
    fit = least_squares(lambda values: (model(values) - planes["residual"][chan]).ravel(), start)
    middle = 0.5 * (GRID.freq()[0] + GRID.freq()[-1])
    for (flux, x, y), expected in zip(fit.x.reshape(2, 3), PLACES, strict=True):
        assert (x, y) == pytest.approx(expected, abs=1e-3)
        beam = planes["pb"][chan, round(y), round(x)]
        assert flux / beam == pytest.approx(0.4 * middle / GRID.freq()[chan], rel=1e-3)
