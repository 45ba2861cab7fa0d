"""The paper's shapes, the compact contract, and the losses."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch", reason="the training extra is not installed")

from casa_deepfocus.core.preprocessing import PLANES  # noqa: E402
from casa_deepfocus.errors import ParameterError  # noqa: E402
from training import losses, networks  # noqa: E402


def shapes(module, modules, inputs):
    """Output shapes of some of a network's parts during one forward pass."""
    seen = []
    handles = [part.register_forward_hook(lambda _m, _i, out: seen.append(tuple(out.shape))) for part in modules]
    with torch.no_grad():
        output = module.eval()(inputs)
    for handle in handles:
        handle.remove()
    return output, seen


def test_paper_blobs_finder_has_the_shapes_of_table_3():
    network = networks.build("blobs_finder", "paper")
    parts = [*network.encoder, network.fc1, network.fc2, *network.decoder, network.final]
    output, seen = shapes(network, parts, torch.randn(2, 1, 256, 256))
    assert seen == [
        (2, 8, 128, 128), (2, 16, 64, 64), (2, 32, 32, 32), (2, 64, 16, 16), (2, 1024), (2, 64 * 16 * 16),
        (2, 32, 32, 32), (2, 16, 64, 64), (2, 8, 128, 128), (2, 1, 256, 256), (2, 1, 256, 256),
    ]  # fmt: skip
    assert output.shape == (2, 1, 256, 256)
    assert 0 <= output.min() and output.max() <= 1


def test_paper_deep_gru_concatenates_two_opposite_layers_of_32():
    network = networks.build("deep_gru", "paper", nchan=128).eval()
    spectrum = torch.randn(3, 128)
    with torch.no_grad():
        latent = network.features(spectrum).reshape(3, 128, 64)
        changed = spectrum.clone()
        changed[:, 64] += 5.0
        moved = (network.features(changed).reshape(3, 128, 64) - latent).abs() > 0
    assert network(spectrum).shape == (3, 128)
    assert network.fc.in_features == 64 * 128 and network.fc.out_features == 128
    # The first layer runs from low to high channels, the second back over the first.
    assert not moved[:, :64, :32].any() and moved[:, 64:, :32].any(dim=-1).float().mean() > 0.5
    assert moved[:, :64, 32:].any()


def test_paper_resnet_has_512_features_of_4_by_4_and_concatenating_skips():
    network = networks.build("fwhm_maj", "paper")
    output, seen = shapes(network, network.blocks, torch.randn(2, 1, 64, 64))
    assert [shape[2] for shape in seen] == [32, 16, 8, 4] and seen[-1] == (2, 512, 4, 4)
    assert output.shape == (2, 1)
    assert all(len(block) == 2 for block in network.blocks) and len(network.blocks) == 4
    block = networks.PaperResidual(6, down=False).eval()
    x = torch.rand(1, 6, 8, 8)
    with torch.no_grad():
        assert torch.equal(block(x)[:, 6:], x)


@pytest.mark.parametrize("shape", [(1, 1, 32, 48), (2, 1, 128, 128), (1, 1, 256, 240)])
def test_compact_blobs_finder_takes_any_multiple_of_16(shape):
    output = networks.build("blobs_finder").eval()(torch.randn(shape[0], len(PLANES), *shape[2:]))
    assert output.shape == shape
    assert 0 <= output.min() and output.max() <= 1


def test_compact_blobs_finder_sees_sidelobes_far_away_and_no_farther_than_its_halo():
    network = networks.build("blobs_finder").double().eval()
    for part in network.modules():
        # Positive weights and no kinks: whatever can reach the output does.
        if isinstance(part, torch.nn.Conv2d | torch.nn.ConvTranspose2d):
            torch.nn.init.constant_(part.weight, 0.01)
        if isinstance(part, torch.nn.LeakyReLU):
            part.negative_slope = 1.0
    x = torch.randn(1, len(PLANES), 512, 512, requires_grad=True, dtype=torch.double)
    reach = 0
    for centre in (256, 263, 271):
        x.grad = None
        network.logits(x)[0, 0, centre, centre].backward()
        reach = max(reach, int(x.grad[0].abs().amax(0).nonzero().sub(centre).abs().amax()))
    assert 60 <= reach <= network.HALO


@pytest.mark.parametrize("nchan", [1, 16, 101])
def test_compact_deep_gru_takes_any_number_of_channels(nchan):
    assert networks.build("deep_gru").eval()(torch.randn(2, nchan)).shape == (2, nchan)


@pytest.mark.parametrize("name", networks.RESNETS)
def test_compact_resnets_are_small_and_give_what_the_contract_says(name):
    network = networks.build(name).eval()
    output = network(torch.randn(3, 3, 32, 32))
    assert output.shape == (3, networks.OUTPUTS[name])
    assert networks.parameter_count(network) < 300_000
    if name.startswith("fwhm"):
        assert (output >= 0).all()


def test_unknown_names_are_refused():
    with pytest.raises(ParameterError, match="compact"):
        networks.build("pa", "huge")
    with pytest.raises(ParameterError, match="deep_gru"):
        networks.build("pb")
    with pytest.raises(ParameterError, match="256"):
        networks.build("blobs_finder", "paper")(torch.zeros(1, 1, 128, 128))
    with pytest.raises(ParameterError, match="128"):
        networks.build("deep_gru", "paper")(torch.zeros(1, 64))


def test_ssim_is_one_for_equal_images_and_has_a_gradient_only_with_the_right_range():
    torch.manual_seed(1)
    image, other = torch.rand(1, 1, 32, 32), torch.rand(1, 1, 32, 32)
    assert float(losses.ssim(image, image)) == pytest.approx(1.0, abs=1e-5)
    assert float(losses.dssim(image, other)) > 0.3
    # The paper's L = 2^32 - 1 makes any two images alike.
    assert float(losses.ssim(image, other, dynamic_range=2.0**32 - 1)) == pytest.approx(1.0, abs=1e-6)


def test_the_paper_loss_hands_over_from_l1_to_dssim():
    torch.manual_seed(2)
    a, b = torch.rand(1, 1, 32, 32), torch.rand(1, 1, 32, 32)
    l1, dssim = (a - b).abs().mean(), losses.dssim(a, b)
    assert losses.paper_blobs_finder(a, b, 0.0) == pytest.approx(float(l1))
    assert losses.paper_blobs_finder(a, b, 1.0) == pytest.approx(float(dssim))
    assert losses.paper_blobs_finder(a, b, 0.25) == pytest.approx(float(0.75 * l1 + 0.25 * dssim))


def test_weights_of_zero_ask_nothing():
    logits, target, weight = torch.randn(2, 8), torch.rand(2, 8), torch.ones(2, 8)
    weight[:, 3:] = 0
    for loss in (losses.weighted_bce, losses.weighted_smooth_l1):
        changed = logits.clone()
        changed[:, 3:] += 5.0
        assert torch.equal(loss(logits, target, weight), loss(changed, target, weight))
        changed[:, 0] += 5.0
        assert not torch.equal(loss(logits, target, weight), loss(changed, target, weight))
