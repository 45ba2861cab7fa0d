"""The library of PSFs and the exact fast maps."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from casa_deepfocus.core.geometry import covariance_to_shape, gaussian_image, shape_to_covariance
from casa_deepfocus.core.preprocessing import PIXELS_PER_BEAM
from casa_deepfocus.core.psf import fit_beam
from casa_deepfocus.errors import DataError, ParameterError, ProductError
from sim import __main__ as command
from sim import fast, psfbuild
from sim.psflib import GRID, LIBRARY, SPLITS, PsfLibrary, load_library


@pytest.fixture(scope="module")
def library() -> PsfLibrary:
    return load_library("val")


@pytest.mark.parametrize("split", SPLITS)
def test_entries(split: str) -> None:
    library = load_library(split)
    assert len(library) >= 30
    assert len(set(library.array)) >= 20
    weights, noise = library.weights(np.arange(len(library)))
    assert weights.min() >= 0.0
    psf = fast.psf_images(weights)
    flat = psf.reshape(len(psf), -1)
    assert (flat.argmax(axis=1) == (GRID // 2) * GRID + GRID // 2).all()
    np.testing.assert_allclose(flat.max(axis=1), 1.0, rtol=1e-5)
    np.testing.assert_allclose(np.sqrt(library.beam[:, 0] * library.beam[:, 1]), PIXELS_PER_BEAM, rtol=0.03)
    natural = np.isnan(library.robust)
    assert 0.5 < natural.mean() < 1.0
    np.testing.assert_allclose(noise[natural] ** 2, weights[natural], atol=1e-3, rtol=1e-3)
    assert np.abs(noise[~natural] ** 2 - weights[~natural]).max() > 0.1


def test_splits_are_apart_and_hold_the_paper() -> None:
    tracks = [set(zip(lib.array, lib.dec, lib.hour_angle, strict=True)) for lib in map(load_library, SPLITS)]
    assert not (tracks[0] & tracks[1] or tracks[0] & tracks[2] or tracks[1] & tracks[2])
    for library in map(load_library, SPLITS):
        assert library.array[0] == "alma.cycle9.3"
        assert library.dec[0] == -35.0
        assert library.duration[0] == 2400.0


def test_beam_is_the_fitted_one(library: PsfLibrary) -> None:
    # float16 values move the fit by less than a thousandth.
    entries = np.array([0, 5, 11])
    flip, transpose = np.array([True, False, True]), np.array([False, True, True])
    turned, _ = library.weights(entries, flip=flip, transpose=transpose)
    fitted = np.array([fit_beam(psf) for psf in fast.psf_images(turned)])
    np.testing.assert_allclose(fitted, library.beams(entries, flip=flip, transpose=transpose), atol=0.02)


def test_flip_and_transpose_turn_the_psf(library: PsfLibrary) -> None:
    plain, _ = library.weights([3])
    flipped, _ = library.weights([3], flip=[True])
    swapped, _ = library.weights([3], transpose=[True])
    psf = fast.psf_images(plain)[0]
    np.testing.assert_allclose(fast.psf_images(flipped)[0][1:, 1:], psf[1:, :0:-1], atol=1e-5)
    np.testing.assert_allclose(fast.psf_images(swapped)[0], psf.T, atol=1e-5)
    assert np.abs(psf - psf.T).max() > 0.01


def test_dirty_map_is_the_convolution(library: PsfLibrary) -> None:
    weights, _ = library.weights([1, 2])
    x, y = np.array([[100.3, 150.0], [90.0, 120.6]], "f4"), np.array([[99.0, 140.2], [130.0, 80.0]], "f4")
    flux = np.array([[3.0, 2.0], [1.0, 0.0]], "f4")
    covariance = shape_to_covariance([[6, 4], [5, 3]], [[3, 3], [4, 3]], [[20, 0], [130, 0]]).astype("f4")
    dirty = fast.dirty_maps(weights, x, y, flux, covariance)
    for b in range(2):
        sky = np.zeros((GRID, GRID))
        for i in range(2):
            shape = gaussian_image((GRID, GRID), x[b, i], y[b, i], covariance[b, i])
            sky += flux[b, i] * shape / shape.sum()
        expected = np.fft.irfft2(weights[b] * np.fft.rfft2(sky))
        assert expected.max() > 0.3
        np.testing.assert_allclose(dirty[b], expected, atol=2e-4)


def test_point_source_is_the_psf(library: PsfLibrary) -> None:
    weights, _ = library.weights([4])
    one, zero = np.ones((1, 1), "f4"), np.zeros((1, 1, 3), "f4")
    dirty = fast.dirty_maps(weights, 128 * one, 128 * one, 7 * one, zero)
    np.testing.assert_allclose(dirty, 7 * fast.psf_images(weights), atol=1e-4)


def test_torch_agrees(library: PsfLibrary) -> None:
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(3)
    weights, noise = library.weights([0, 7, 9])
    position, flux = rng.uniform(60, 190, (2, 3, 4)).astype("f4"), rng.uniform(1, 9, (3, 4)).astype("f4")
    covariance = shape_to_covariance(*rng.uniform(2, 5, (2, 3, 4)), rng.uniform(0, 180, (3, 4))).astype("f4")
    white = rng.standard_normal((3, GRID, GRID), dtype=np.float32)
    arguments = (weights, *position, flux, covariance)
    tensors = [torch.from_numpy(a) for a in (*arguments, noise, white)]
    np.testing.assert_allclose(fast.dirty_maps(*tensors[:5]).numpy(), fast.dirty_maps(*arguments), atol=1e-4)
    np.testing.assert_allclose(fast.noise_maps(*tensors[5:]).numpy(), fast.noise_maps(noise, white), atol=1e-4)
    np.testing.assert_allclose(fast.psf_images(tensors[0]).numpy(), fast.psf_images(weights), atol=1e-5)
    snr = fast.matched_snr(tensors[0], tensors[5], tensors[3], tensors[4]).numpy()
    np.testing.assert_allclose(snr, fast.matched_snr(weights, noise, flux, covariance), rtol=1e-4)


def test_noise_rms_and_power(library: PsfLibrary) -> None:
    number = 60
    entries = np.repeat([0, int(np.flatnonzero(~np.isnan(library.robust))[0])], number)
    _, amplitude = library.weights(entries)
    white = np.random.default_rng(5).standard_normal((2 * number, GRID, GRID), dtype=np.float32)
    noise = fast.noise_maps(amplitude, white)
    for part in (noise[:number], noise[number:]):
        assert part.std() == pytest.approx(1.0, abs=0.02)
    power = (np.abs(np.fft.rfft2(noise[:number])) ** 2).mean(axis=0) / GRID**2
    strong = amplitude[0] > 1.0
    ratio = power[strong] / amplitude[0][strong] ** 2
    assert ratio.mean() == pytest.approx(1.0, abs=0.02)
    assert power[amplitude[0] == 0].max() < 1e-6


@pytest.mark.parametrize("natural", [True, False])
def test_matched_snr_against_noise_draws(library: PsfLibrary, natural: bool) -> None:
    entry = int(np.flatnonzero(np.isnan(library.robust) == natural)[2])
    weights, amplitude = library.weights([entry])
    centre, flux = np.full((1, 1), 128.0, "f4"), np.full((1, 1), 8.0, "f4")
    covariance = shape_to_covariance([[5.0]], [[3.0]], [[30.0]]).astype("f4")
    signal = fast.dirty_maps(weights, centre, centre, flux, covariance)[0]
    # The ideal filter: the signal over the noise's power, where there is any.
    power = amplitude[0] ** 2
    whitened = np.where(power > 0, 1.0 / np.where(power > 0, power, 1.0), 0.0)
    template = np.fft.irfft2(np.fft.rfft2(signal) * whitened, s=(GRID, GRID))
    white = np.random.default_rng(8).standard_normal((250, GRID, GRID), dtype=np.float32)
    scatter = np.tensordot(fast.noise_maps(amplitude, white), template, axes=2).std()
    expected = float(fast.matched_snr(weights, amplitude, flux, covariance)[0, 0])
    assert 3.0 < expected < 8.0
    assert (signal * template).sum() / scatter == pytest.approx(expected, rel=0.12)


def test_unknown_split_and_missing_file(tmp_path) -> None:
    with pytest.raises(ParameterError, match="train, val, test"):
        load_library("all")
    with pytest.raises(DataError, match="python -m sim psfs"):
        load_library("train", tmp_path / "none.npz")


def test_a_rebuilt_library_is_the_one_that_is_shipped(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("casadata")
    path = tmp_path / "psfs.npz"
    assert command.main(["psfs", "--n", "6", "--out", str(path)]) == 0
    assert [file.name for file in tmp_path.iterdir()] == ["psfs.npz"]
    with np.load(path) as new, np.load(LIBRARY) as shipped:
        assert int(new["length"].sum()) == len(new["value"]) > 1000
        for name in ("array", "dec", "hour_angle", "duration", "robust", "split", "length"):
            np.testing.assert_array_equal(new[name], shipped[name][:6])
        # A least-squares fit: another linear algebra library rounds differently.
        np.testing.assert_allclose(new["beam"], shipped["beam"][:6], rtol=1e-12)
        np.testing.assert_array_equal(new["value"], shipped["value"][: len(new["value"])])
    told = capsys.readouterr().out
    assert "alma.cycle9.3 (3)" in told and "256 x 256" in told
    held = psfbuild.describe_library()
    assert all(f"{split}: {len(load_library(split))} PSFs" in held for split in SPLITS)
    assert LIBRARY.stat().st_size < psfbuild.MAX_BYTES


def test_a_library_too_large_is_not_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("casadata")
    monkeypatch.setattr(psfbuild, "MAX_BYTES", 1000)
    with pytest.raises(ProductError, match="ask for fewer"):
        psfbuild.build_library(3, 1, tmp_path / "psfs.npz")
    monkeypatch.setattr(psfbuild, "MAX_BYTES", 10**6)
    with pytest.raises(ProductError, match="cannot be written"):
        psfbuild.build_library(3, 1, tmp_path / "nowhere" / "psfs.npz")
    assert not list(tmp_path.iterdir())


def test_a_field_wider_than_the_library() -> None:
    assert fast.field(GRID // 2) == fast.FIELD == slice(64, 192)
    assert fast.field(20) == slice(118, 138)
    with pytest.raises(ParameterError, match=r"field=200.*128 working pixels \(25.6 beams\)"):
        fast.field(200)


def test_reading_needs_numpy_only() -> None:
    code = (
        "import sys\n"
        "for name in ('astropy', 'scipy', 'torch', 'casatools', 'casatasks', 'casadata'): sys.modules[name] = None\n"
        "from sim import fast, psflib\n"
        "library = psflib.load_library('train')\n"
        "assert abs(fast.psf_images(library.weights([0])[0])[0, 128, 128] - 1) < 1e-5\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_fit_beam_recovers_a_gaussian() -> None:
    covariance = shape_to_covariance(7.0, 4.0, 35.0)
    maj, minor, pa = covariance_to_shape(fit_beam(gaussian_image((64, 64), 32.0, 32.0, covariance)))
    assert (float(maj), float(minor), float(pa)) == pytest.approx((7.0, 4.0, 35.0), rel=1e-6)
    with pytest.raises(DataError, match="main lobe"):
        fit_beam(gaussian_image((64, 64), 32.0, 32.0, shape_to_covariance(1.0, 1.0, 0.0)))
