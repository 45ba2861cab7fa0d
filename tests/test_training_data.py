"""The data on the fly: reproducible, and the truth they carry is the truth of the arrays."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the training extra is not installed")

from casa_deepfocus.core import geometry, preprocessing  # noqa: E402
from casa_deepfocus.errors import ParameterError  # noqa: E402
from sim import fast  # noqa: E402
from sim.psflib import GRID, load_library  # noqa: E402
from training import chain, maps, spectra, stamps  # noqa: E402
from training.data import make_batch  # noqa: E402
from training.draw import Draw  # noqa: E402
from training.networks import NETWORKS  # noqa: E402


@pytest.mark.parametrize("name", NETWORKS)
def test_a_batch_depends_on_seed_step_and_split_alone(name):
    batch = make_batch(name, 3, 7, 8)
    again, other_step = make_batch(name, 3, 7, 8), make_batch(name, 3, 8, 8)
    other_split = make_batch(name, 3, 7, 8, "val")
    assert torch.equal(batch.inputs, again.inputs) and torch.equal(batch.target, again.target)
    assert torch.isfinite(batch.inputs).all() and torch.isfinite(batch.target).all() and (batch.weight >= 0).all()
    for other in (other_step, other_split):
        assert other.inputs.shape != batch.inputs.shape or not torch.equal(other.inputs, batch.inputs)


def test_unknown_networks_are_refused():
    with pytest.raises(ParameterError, match="blobs_finder"):
        make_batch("unet", 1, 0, 4)


def test_covariance_is_that_of_the_package():
    major, minor, pa = [torch.tensor(v) for v in ([6.0, 3.0, 0.0], [2.0, 3.0, 0.0], [0.4, 1.0, 2.0])]
    mine = maps.covariance(major, minor, pa).numpy()
    np.testing.assert_allclose(
        mine, geometry.shape_to_covariance(major.numpy(), minor.numpy(), np.degrees(pa.numpy())), atol=1e-5
    )


def test_the_sky_transform_is_the_simulators():
    generator = torch.Generator().manual_seed(1)
    x, y, flux = (torch.rand((2, 3), generator=generator) * scale for scale in (256.0, 256.0, 1.0))
    cov = maps.covariance(1.0 + 3.0 * flux, 1.0 + flux, 3.0 * flux)
    mine = maps.sky_transform(x, y, flux, cov, GRID).numpy()
    theirs = fast.sky_spectrum(x.double().numpy(), y.double().numpy(), flux.double().numpy(), cov.double().numpy())
    assert np.abs(theirs).max() > 1.0
    inside = np.abs(theirs) > 0
    np.testing.assert_allclose(mine[inside], theirs[inside], atol=3e-4)


def test_a_tilted_large_source_does_not_overflow():
    cov = maps.covariance(torch.tensor([[15.0]]), torch.tensor([[4.5]]), torch.tensor([[0.8]]))
    one = torch.ones(1, 1)
    assert torch.isfinite(torch.view_as_real(maps.sky_transform(one, one, one, cov, GRID))).all()


def test_noise_has_rms_one():
    draw = Draw("cpu", 1, 0, "train", "test")
    psfs = maps.draw_psfs(draw, 8, "train")
    noise = torch.fft.irfft2(maps.noise_spectrum(draw, psfs.amplitude), s=(GRID, GRID))
    assert float(noise.std()) == pytest.approx(1.0, rel=0.03)


def test_the_assumed_snr_is_close_to_the_exact_one():
    draw = Draw("cpu", 1, 0, "train", "test")
    library = load_library("train")
    entries = np.flatnonzero(np.isnan(library.robust))[:8]
    weights, amplitude = library.weights(entries)
    beam = torch.from_numpy(library.beams(entries)).float()
    major, minor, pa = maps.draw_shapes(draw, (8, 6))
    cov = maps.covariance(5 * major.clamp(max=1.5), 5 * minor.clamp(max=1.5), pa)
    flux = 10.0 / maps.unit_snr(cov, beam[:, None])
    exact = fast.matched_snr(weights, amplitude, flux.numpy(), cov.numpy())
    assert np.median(exact) == pytest.approx(10.0, rel=0.1)
    assert np.abs(exact / 10.0 - 1.0).max() < 0.5


def test_targets_of_maps_stand_at_the_sources_with_height_one():
    batch = maps.blobs_finder_batch(5, 0, 16)
    truth, drawn = batch.truth, 0
    assert (truth["flux"] != 0).any(dim=1).float().mean() > 0.7
    for i in range(16):
        for x, y in zip(truth["x"][i][truth["askable"][i]], truth["y"][i][truth["askable"][i]], strict=True):
            if 0 <= x <= 127 and 0 <= y <= 127:
                assert batch.target[i, 0, round(float(y)), round(float(x))] > 0.8
                drawn += 1
    assert drawn > 20
    # Beyond the field of view there is nothing to see and nothing asked.
    dark = truth["snr_map"] == 0
    assert dark.flatten(1).any(dim=1).float().mean() < 0.7 and (batch.target[:, 0][dark] == 0).all()
    faint = truth["target"] & (truth["snr"] < maps.MINIMUM_SNR)
    assert not (faint & truth["askable"]).any()


def test_target_width_follows_the_rule_of_the_contract():
    cov = maps.covariance(torch.tensor([[5.0]]), torch.tensor([[5.0]]), torch.tensor([[0.0]]))
    centre, yes, no = torch.full((1, 1), 64.0), torch.ones(1, 1, dtype=torch.bool), torch.zeros(1, 1, dtype=torch.bool)
    source = maps.Sources(centre, centre, centre, cov, centre, yes)
    drawn, ignored = maps.draw_targets(source, yes, no)
    half = 0.5 * np.hypot(5.0, preprocessing.TARGET_SMOOTHING * preprocessing.PIXELS_PER_BEAM)
    profile = drawn[0, 64].numpy()
    assert np.interp(64 + half, np.arange(128), profile) == pytest.approx(0.5, abs=0.02)
    assert not ignored.any()


def test_spectra_hold_lines_of_the_snr_they_claim():
    batch = spectra.deep_gru_batch(2, 0, 400, nchan=128)
    truth = batch.truth
    assert 0.2 < float((~truth["used"].any(1)).float().mean()) < 0.45
    strong = truth["asked"] & (truth["snr"] > 30) & (truth["centre"] > 5) & (truth["centre"] < 122)
    assert strong.sum() > 50
    rows, columns = strong.nonzero(as_tuple=True)
    at = truth["centre"][rows, columns].round().long()
    assert (batch.target[rows, at] > 0.7).all()
    empty = truth["spectrum"][~truth["used"].any(1)]
    assert 0.8 < float(empty.std()) < 1.6


@pytest.mark.parametrize("nchan", [16, 512])
def test_spectra_of_the_extreme_lengths(nchan):
    batch = spectra.deep_gru_batch(2, 0, 8, nchan=nchan)
    assert batch.inputs.shape == (8, nchan) and torch.isfinite(batch.inputs).all()


def test_stamps_obey_the_convolution_and_the_flux_is_the_sum_of_the_source():
    stamp = stamps.draw_stamps(Draw("cpu", 4, 0, "train", "stamps"), 256, "train")
    point = (stamp["fwhm_maj"] == 0) & (stamp["snr"] > 80)
    assert point.sum() > 5
    peak = preprocessing.stamp_peak(stamp["stamp"][point])
    # A point source's peak is its flux, but for noise, the neighbours and the pixel grid.
    assert float(torch.median(peak / stamp["flux"][point])) == pytest.approx(1.0, abs=0.08)
    assert torch.allclose(stamp["psf"][:, 16, 16], torch.ones(256), atol=1e-4)


def test_resnet_targets_are_those_of_the_contract():
    batch = {name: stamps.resnet_batch(name, 4, 0, 64) for name in ("fwhm_maj", "pa", "flux")}
    truth = batch["pa"].truth
    assert torch.equal(batch["fwhm_maj"].target[:, 0], truth["fwhm_maj"])
    np.testing.assert_allclose(batch["pa"].target[:, 0], np.sin(2 * truth["pa"].numpy()), atol=1e-6)
    assert (batch["pa"].weight[truth["fwhm_maj"] == 0] == 0).all()
    flux = 10 ** batch["flux"].target[:, 0] * preprocessing.stamp_peak(truth["stamp"])
    np.testing.assert_allclose(flux, truth["flux"], rtol=1e-4)


@pytest.mark.gpu
@pytest.mark.parametrize("name", NETWORKS)
def test_batches_are_made_on_the_gpu(name):
    if not torch.cuda.is_available():
        pytest.skip("torch finds no CUDA device")
    batch = make_batch(name, 3, 7, 8, "train", "cuda")
    assert batch.inputs.device.type == batch.target.device.type == "cuda"
    assert torch.isfinite(batch.inputs).all() and torch.isfinite(batch.target).all()


def test_sidelobe_levels_are_those_of_the_psfs():
    psfs = maps.draw_psfs(Draw("cpu", 2, 0, "val", "test"), 6, "val")
    images = fast.psf_images(psfs.weights).numpy()
    offset = np.arange(GRID) - GRID // 2
    radius = np.hypot(offset[:, None], offset[None, :])
    ring = (radius >= 10) & (radius <= 64)
    np.testing.assert_allclose(psfs.sidelobe, [np.abs(image[ring]).max() for image in images], rtol=1e-3)
    assert 0.01 < float(psfs.sidelobe.min()) and float(psfs.sidelobe.max()) < 1.0


def test_a_source_just_outside_of_the_field_still_has_a_spectrum(monkeypatch):
    """Where Blobs Finder finds nothing the true sources are the blobs; some have no pixel above the contour."""
    outside = []
    blobs = chain._blobs

    def watched(fields, *others):
        found = blobs(fields, *others)
        side = fields.recipe.field - 1
        outside.extend(((found.x < 0) | (found.x > side) | (found.y < 0) | (found.y > side)).tolist())
        assert (found.weights.sum((1, 2)) > 0).all()
        return found

    monkeypatch.setattr(chain, "_blobs", watched)
    blind = {"blobs_finder": lambda planes: 0.0 * planes[:, :1]}
    for step in (0, 10):
        assert torch.isfinite(make_batch("deep_gru", 1, step, 16, predecessors=blind).inputs).all()
    assert any(outside)
