"""The synthesis in the uv plane: noise with the right statistics, discs, chunks, and the same with torch."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

pytest.importorskip("casadata")

from casa_deepfocus.errors import ParameterError
from sim import synthesis
from sim.arrays import C_MS
from sim.beams import airy
from sim.coverage import ARCSEC, Coverage, Grid
from sim.cube import nominal_transfer
from sim.response import direct_image, response
from sim.sky import Line, Rotation, Source, disc
from sim.stamps import source_stamps
from sim.synthesis import synthesize

COVERAGE = Coverage(duration=1200.0, integration=60.0)
GRID = Grid(npix=96, cell=0.16, nchan=64, freq0=230e9, chan_width=10e6)
SOURCES = (
    Source(40.3, 55.8, 6.0, 3.5, 40.0, continuum=0.02, alpha=-1.0, line=0.1, chan=5.3, line_fwhm=4.0),
    Source(70.0, 30.0, 0.0, 0.0, 0.0, line=0.05, chan=8.0, line_fwhm=3.0, extra_lines=(Line(30.0, 5.0, -0.02),)),
    disc(50.2, 40.1, 9.0, 30.0, Rotation(8.0, 1.5, 2.0, 60.0), continuum=0.05, line=0.05, chan=33.0),
)


def noise(robust: float | None, *, seed: int = 4, **options: object) -> np.ndarray:
    """(nchan, npix, npix) of pure noise."""
    resp = response(replace(COVERAGE, robust=robust), GRID)
    rng = np.random.Generator(np.random.SFC64(seed))
    return synthesize((), nominal_transfer(resp), noise=resp.noise, sigma=1.0, rng=rng, **options)


@pytest.mark.parametrize("robust", [None, 0.5])
def test_noise_has_its_rms_its_spectrum_and_no_memory(robust: float | None) -> None:
    data = np.concatenate([noise(robust, seed=seed) for seed in (4, 5, 6, 7)])
    assert data.std() == pytest.approx(1.0, abs=0.01)
    # An image has some 100 beams: 64 rms of channels scatter by a few per cent about 1.
    assert np.abs(data.reshape(4, 64, 96, 96).std(axis=(0, 2, 3)) - 1.0).mean() < 0.02 + 0.03
    flat = data.reshape(len(data), -1)
    neighbours = np.array([np.corrcoef(flat[i], flat[i + 1])[0, 1] for i in range(len(flat) - 1)])
    assert abs(neighbours.mean()) < 4.0 * neighbours.std() / np.sqrt(len(neighbours))
    assert neighbours.std() < 0.1
    # The expected periodogram of the field: the transform of the noise's autocorrelation times the overlap.
    resp = response(replace(COVERAGE, robust=robust), GRID)
    power = np.mean([resp.noise.power(chan) for chan in range(64)], axis=0)
    middle = slice(GRID.padded // 2 - 96, GRID.padded // 2 + 96)
    autocorrelation = np.fft.fftshift(np.fft.irfft2(power, s=(GRID.padded, GRID.padded)))[middle, middle]
    if robust is None:
        autocorrelation = np.tensordot(resp.interpolation.mean(axis=0), resp.psf, axes=1)
    overlap = np.clip(96 - np.abs(np.arange(192) - 96), 0, None)
    expected = np.fft.rfft2(np.fft.ifftshift(autocorrelation * overlap[:, None] * overlap)).real[::2, ::2]
    seen = (np.abs(np.fft.rfft2(data)) ** 2).mean(axis=0)
    ky, kx = np.fft.fftfreq(96)[:, None], np.fft.rfftfreq(96)[None, :]
    ring = np.rint(np.hypot(kx, ky) * 96 / 3).astype(int)
    sampled = [index for index in range(1, ring.max()) if expected[ring == index].mean() > 0.05 * expected.max()]
    assert len(sampled) >= 4
    ratio = np.array([seen[ring == index].sum() / expected[ring == index].sum() for index in sampled])
    np.testing.assert_allclose(ratio, 1.0, atol=0.05)


def test_white_noise_is_white() -> None:
    data = noise(None, white=3.0)
    assert data.std() == pytest.approx(np.sqrt(10.0), rel=0.01)
    # Beyond the visibilities there is nothing else.
    beyond = np.abs(np.fft.rfft2(data - noise(None) * 0.0))[:, 46:50, 46:49]
    assert (beyond**2).mean() == pytest.approx(9.0 * 96 * 96, rel=0.1)


def test_noise_follows_its_sigma() -> None:
    resp = response(COVERAGE, GRID)
    sigma = np.linspace(1.0, 3.0, 64)
    rng = np.random.Generator(np.random.SFC64(4))
    data = synthesize((), nominal_transfer(resp), noise=resp.noise, sigma=sigma, rng=rng)
    np.testing.assert_allclose(data, noise(None) * sigma[:, None, None].astype(np.float32), atol=1e-5)


def test_discs_are_the_sum_of_their_pixels() -> None:
    resp = response(COVERAGE, GRID)
    source = SOURCES[2]
    image = synthesize([source_stamps(source, GRID, 12.0)], nominal_transfer(resp))
    parts = source.components(GRID.freq())
    x, y = parts[0].stamp_axes()
    radius = np.hypot(x[None, :] - 48, y[:, None] - 48) * GRID.cell * ARCSEC
    peaks = []
    for chan in (27, 33, 39):
        freq = GRID.freq()[chan]
        brightness = sum(part.spectrum[chan] * part.stamp for part in parts) * airy(radius, freq, 12.0)
        # Every pixel of the stamp is a small square, seen by every visibility.
        uv = COVERAGE.uvw()[:, :2] * freq / C_MS
        kx, ky = -uv[:, 0] * GRID.cell * ARCSEC, uv[:, 1] * GRID.cell * ARCSEC
        waves_y, waves_x = (np.exp(-2j * np.pi * np.outer(k, place - 48)) for k, place in ((ky, y), (kx, x)))
        seen = ((waves_y @ brightness) * waves_x).sum(axis=1)
        seen = seen / (np.sinc(kx * parts[0].pitch) * np.sinc(ky * parts[0].pitch))
        expected = direct_image(uv[:, 0], uv[:, 1], 96, GRID.cell, seen / len(seen))
        peaks.append(np.unravel_index(expected.argmax(), expected.shape))
        np.testing.assert_allclose(image[chan], expected, atol=5e-5 * expected.max())
    # The truth is no trivial one: the disc turns.
    assert len(set(peaks)) > 1


def test_chunks_do_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    resp = response(COVERAGE, GRID)
    parts = [source_stamps(source, GRID, 12.0) for source in SOURCES]
    images = []
    for chunk in (8, 5, 64):
        monkeypatch.setattr(synthesis, "CHUNK", chunk)
        rng = np.random.Generator(np.random.SFC64(4))
        images.append(
            synthesize(parts, nominal_transfer(resp), noise=resp.noise, sigma=1e-3, white=1e-3, rng=rng)
        )
    for image in images[1:]:
        np.testing.assert_allclose(image, images[0], atol=2e-7)


@pytest.mark.parametrize("robust", [None, 0.5])
def test_torch_makes_the_same_sky_and_noise_of_the_same_kind(robust: float | None) -> None:
    torch = pytest.importorskip("torch", reason="the training extra is not installed")
    resp = response(replace(COVERAGE, robust=robust), GRID)
    parts = [source_stamps(source, GRID, 12.0) for source in SOURCES]
    transfer = nominal_transfer(resp)
    sky = synthesize(parts, transfer)
    assert np.abs(sky).max() > 0.05
    other = synthesize(parts, transfer, device="cpu")
    assert isinstance(other, torch.Tensor)
    np.testing.assert_allclose(other.numpy(), sky, atol=1e-6 * np.abs(sky).max())
    draws = [
        synthesize((), transfer, noise=resp.noise, sigma=2.0, white=white, rng=np.random.default_rng(3), device="cpu")
        for white in (0.0, 0.0, 1.0)
    ]
    np.testing.assert_array_equal(draws[0].numpy(), draws[1].numpy())
    assert float(draws[0].std()) == pytest.approx(2.0, rel=0.02)
    assert float(draws[2].std()) == pytest.approx(np.sqrt(5.0), rel=0.02)
    power = [(np.abs(np.fft.rfft2(image)) ** 2).mean(axis=0) for image in (draws[0].numpy(), 2.0 * noise(robust))]
    assert power[0][:8, :8].sum() == pytest.approx(power[1][:8, :8].sum(), rel=0.05)


def test_complex_transfers_with_torch() -> None:
    pytest.importorskip("torch", reason="the training extra is not installed")
    resp = response(COVERAGE, GRID)
    parts = [source_stamps(source, GRID, 12.0) for source in SOURCES]
    turned = replace(nominal_transfer(resp), planes=resp.transfer * np.complex64(np.exp(0.3j)))
    sky = synthesize(parts, turned)
    np.testing.assert_allclose(synthesize(parts, turned, device="cpu").numpy(), sky, atol=1e-6 * np.abs(sky).max())
    assert np.abs(sky - synthesize(parts, nominal_transfer(resp))).max() > 0.01 * np.abs(sky).max()


def test_a_device_that_is_not_there() -> None:
    torch = pytest.importorskip("torch", reason="the training extra is not installed")
    resp = response(COVERAGE, GRID)
    missing = "nonsense" if torch.cuda.is_available() else "cuda"
    with pytest.raises(ParameterError, match=f"device='{missing}'.*leave it out for numpy"):
        synthesize((), nominal_transfer(resp), device=missing)
