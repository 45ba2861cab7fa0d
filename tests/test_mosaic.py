"""Mosaics: the modulation of sidelobes, the sum over pointings, sources found and measured on one."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import fft

from casa_deepfocus.core.component import Component
from casa_deepfocus.core.fit import JointFit
from casa_deepfocus.core.mosaic import Mosaic, Pointings, principal_differences
from casa_deepfocus.core.psf import Imager, fit_beam, gaussian_transform, place_psf
from casa_deepfocus.errors import DataError

NPIX, FREQ = 96, 100e9
RADIUS = np.arange(0.0, 40.0)
WIDE, NARROW = (np.exp(-4.0 * np.log(2.0) * (RADIUS / fwhm) ** 2) for fwhm in (44.0, 30.0))
CENTRES = np.array([[30.0, 40.0], [60.0, 40.0], [45.0, 64.0], [45.0, 64.0]])


def random_psfs(number: int, seed: int = 3, spread: float = 0.5) -> np.ndarray:
    """(number, 2 NPIX, 2 NPIX) PSFs of snapshots: gridded visibilities, most of them common to all."""
    rng = np.random.default_rng(seed)
    side = 2 * NPIX
    common = rng.normal(scale=10.0, size=(60, 2))
    psfs = np.empty((number, side, side), np.float32)
    for plane in psfs:
        own = rng.normal(scale=10.0, size=(int(60 * spread), 2))
        cells = np.rint(np.concatenate([common, own])).astype(int)
        grid = np.zeros((side, side))
        for sign in (1, -1):
            np.add.at(grid, (sign * cells[:, 1] % side, sign * cells[:, 0] % side), 1.0)
        plane[:] = np.fft.fftshift(fft.ifft2(grid).real)
        plane /= plane[NPIX, NPIX]
    return psfs


def a_mosaic(*, psfs: bool = False) -> Mosaic:
    """Three pointings, the last of which has two sizes of dishes, with weights of their own."""
    return Mosaic(
        centres=CENTRES, weights=np.array([1.0, 2.0, 0.7, 0.5]), radius=RADIUS, responses=np.stack([NARROW, WIDE]),
        beam=np.array([0, 0, 0, 1]), freq=FREQ, psfs=random_psfs(4) if psfs else None,
        psf_class=np.arange(4) if psfs else None,
    )  # fmt: skip


def by_pointings(mosaic: Mosaic, x0: float, y0: float, covariance=(0.0, 0.0, 0.0), psf=None) -> np.ndarray:
    """The dirty image of a source of unit apparent flux, pointing by pointing, without anything from `Pointings`."""
    row, column = np.indices((NPIX, NPIX))
    transform = gaussian_transform((2 * NPIX, 2 * NPIX), x0, y0, covariance)
    here, there = mosaic.shares(np.array([x0]), np.array([y0]), FREQ)[:, 0], mosaic.shares(column, row, FREQ)
    total = np.zeros((NPIX, NPIX))
    for number in range(len(here)):
        plane = psf if mosaic.psfs is None else mosaic.psfs[mosaic.psf_class[number]]
        image = fft.irfft2(transform * fft.rfft2(place_psf(plane, (2 * NPIX, 2 * NPIX))))[:NPIX, :NPIX]
        total += here[number] * there[number] * image
    return total


def test_the_modulation_is_one_at_the_source_symmetric_and_falls():
    pointings = Pointings(a_mosaic(), (NPIX, NPIX))
    places = [(30.0, 40.0), (51.3, 47.7), (80.0, 12.0), (5.0, 90.0)]
    matrix = np.array([[pointings.on(np.array([x]), np.array([y]), *place)[0, 0] for x, y in places]
                       for place in places])  # fmt: skip
    np.testing.assert_allclose(np.diag(matrix), 1.0, atol=1e-6)
    np.testing.assert_allclose(matrix, matrix.T, atol=3e-4)
    assert matrix.min() < 0.5 and matrix.max() < 1.0 + 1e-5
    np.testing.assert_array_equal(
        pointings.on(np.array([-5.0, 200.0]), np.array([40.0]), 30.0, 40.0),
        pointings.on(np.array([0.0, NPIX - 1.0]), np.array([40.0]), 30.0, 40.0),
    )


def test_the_shares_of_the_pointings_add_up_everywhere():
    mosaic = a_mosaic()
    x = np.linspace(-200.0, 300.0, 41)
    shares = mosaic.shares(x[None, :], x[:, None], FREQ)
    np.testing.assert_allclose((shares**2).sum(axis=0), 1.0, rtol=1e-12)
    assert shares.max() > 0.99 and shares.min() < 1e-6
    # In a narrower beam, at twice the frequency, the nearest pointing has more of the whole.
    at = (np.array([32.0]), np.array([42.0]))
    assert mosaic.shares(*at, 2.0 * FREQ)[0, 0] > mosaic.shares(*at, FREQ)[0, 0] + 0.05


def test_the_imager_makes_the_sum_over_pointings_with_psfs_of_their_own():
    mosaic = a_mosaic(psfs=True)
    common = np.average(mosaic.psfs, axis=0, weights=mosaic.weights).astype(np.float32)[None]
    pointings = Pointings(mosaic, (NPIX, NPIX), psf=common[0])
    covariance = (4.0, 3.0, 0.5)
    for tolerance in (1e-4, 0.0):
        imager = Imager(np.repeat(common, 3, axis=0), (NPIX, NPIX), tolerance, pointings=pointings)
        for place in ((30.0, 40.0), (46.4, 50.2), (70.0, 75.0)):
            data = np.zeros((3, NPIX, NPIX), np.float32)
            transform = gaussian_transform(imager.grid, *place, covariance)[None]
            imager.subtract(data, transform, np.array([[1.0, 0.0, 2.0]]), [place])
            truth = by_pointings(mosaic, *place, covariance)
            plain = fft.irfft2(transform[0] * fft.rfft2(place_psf(common[0], imager.grid)))[:NPIX, :NPIX]
            assert np.abs(plain - truth).max() > 0.05 * truth.max()
            assert not data[1].any()
            np.testing.assert_allclose(-data[0], truth, atol=2e-3 * truth.max())
            np.testing.assert_allclose(data[2], 2.0 * data[0], atol=1e-6)
        # Around the source the stamp has its own pointings' PSF.
        stamp = imager.stamp(0, 8, (30.0, 40.0))
        truth = by_pointings(mosaic, 30.0, 40.0)[32:48, 22:38]
        assert np.abs(imager.stamp(0, 8) - truth).max() > 2.0 * np.abs(stamp - truth).max()


def test_few_images_carry_the_differences_of_many_psfs():
    psfs = random_psfs(5)
    mixed = np.tensordot(np.random.default_rng(1).dirichlet(np.ones(5), 12).astype(np.float32), psfs, axes=1)
    images, mixing = principal_differences(mixed, mixed.mean(axis=0), np.ones(12), most=12)
    assert len(images) <= 4
    left = mixed - mixed.mean(axis=0) - np.tensordot(mixing, images, axes=1)
    assert np.sqrt((left**2).mean(axis=(1, 2))).max() < 5e-4 < np.std(mixed - mixed.mean(axis=0))
    assert len(principal_differences(mixed, mixed.mean(axis=0), np.ones(12), most=2)[0]) == 2
    assert len(principal_differences(psfs[:1], psfs[0], np.ones(1), most=2)[0]) == 0


def test_the_noise_of_a_mosaic_is_flat_and_has_the_modulation_for_its_covariance():
    """Noise of every pointing by itself, with its own PSF's power, summed as the mosaic is."""
    mosaic = a_mosaic(psfs=True)
    rng = np.random.default_rng(5)
    row, column = np.indices((NPIX, NPIX))
    shares = mosaic.shares(column, row, FREQ)
    power = [np.sqrt(np.maximum(fft.rfft2(np.fft.ifftshift(p)).real, 0.0)) for p in mosaic.psfs]
    draws = np.zeros((400, NPIX, NPIX), np.float32)
    for image in draws:
        for share, amplitude in zip(shares, power, strict=True):
            noise = fft.irfft2(fft.rfft2(rng.standard_normal((2 * NPIX, 2 * NPIX))) * amplitude)[:NPIX, :NPIX]
            image += share * noise
    rms = draws.std(axis=0)
    assert rms.std() / rms.mean() < 1.5 / np.sqrt(2 * len(draws))
    scale = float((draws**2).mean())
    measured = np.tensordot(draws[:, 40, 30], draws, axes=1) / len(draws) / scale
    np.testing.assert_allclose(measured, by_pointings(mosaic, 30.0, 40.0), atol=5.0 / np.sqrt(len(draws)))


def test_a_fit_recovers_sources_of_a_mosaic_exactly():
    mosaic = a_mosaic(psfs=True)
    common = np.average(mosaic.psfs, axis=0, weights=mosaic.weights).astype(np.float32)[None]
    truth = [(30.4, 41.2, 1.0, 2.0), (62.0, 38.0, 0.3, 0.0), (47.0, 70.5, 0.5, 4.0)]
    data = np.zeros((1, NPIX, NPIX), np.float32)
    for x, y, flux, size in truth:
        data[0] += flux * by_pointings(mosaic, x, y, (size, size, 0.0))
    beam = fit_beam(common[0])
    errors = {}
    for name, pointings in (("mosaic", Pointings(mosaic, (NPIX, NPIX), psf=common[0])), ("one psf", None)):
        fit = JointFit(data, np.array([1e-4]), Imager(common, (NPIX, NPIX), pointings=pointings), beam)
        components = [
            Component(round(x), round(y), np.zeros(3), has_line=False, has_cont=True, cont=0.9 * flux)
            for x, y, flux, _ in truth
        ]
        fit.fit(components, sweeps=8, iterations=20)
        errors[name] = np.abs([[c.x - x, c.y - y, c.cont / flux - 1.0]
                               for c, (x, y, flux, _) in zip(components, truth, strict=True)])  # fmt: skip
    assert errors["mosaic"].max() < 0.01
    assert errors["one psf"].max() > 0.03


@pytest.mark.parametrize("change", [
    {"weights": np.array([1.0, -1.0, 1.0, 1.0])}, {"weights": np.zeros(4)}, {"beam": np.zeros(3, int)},
    {"responses": np.zeros((2, len(RADIUS)))}, {"radius": RADIUS[:3]}, {"psfs": None},
])  # fmt: skip
def test_a_mosaic_that_makes_no_sense_is_refused(change):
    mosaic = a_mosaic(psfs=True)
    fields = {name: getattr(mosaic, name) for name in mosaic.__dataclass_fields__}
    with pytest.raises(DataError):
        Mosaic(**fields | change)
    with pytest.raises(DataError, match="pixels"):
        Pointings(mosaic, (NPIX, NPIX), psf=np.zeros((8, 8), np.float32))
