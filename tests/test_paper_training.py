"""The paper's data, its networks' bottleneck held local, and their export."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the training extra is not installed")
pytest.importorskip("onnx", reason="the training extra is not installed")
pytest.importorskip("lightning", reason="the training extra is not installed")

from casa_deepfocus.errors import DataError, ModelError, ParameterError  # noqa: E402
from casa_deepfocus.models import manifest as manifest_file  # noqa: E402
from casa_deepfocus.models import runner  # noqa: E402
from casa_deepfocus.pipeline import run  # noqa: E402
from sim.cube import simulate_cube  # noqa: E402
from sim.presets.fields import draw_field  # noqa: E402
from sim.response import Coverage, Grid  # noqa: E402
from sim.sky import Source  # noqa: E402
from training import chain, curves, data, export, fields, observed, paperexport, train  # noqa: E402
from training.checkpoint import load_network  # noqa: E402
from training.data import make_batch  # noqa: E402
from training.draw import Draw  # noqa: E402
from training.evaluate import _check_method  # noqa: E402
from training.losses import ssim  # noqa: E402
from training.networks import NETWORKS, build, parameter_count  # noqa: E402

pytestmark = [
    # lightning's own, about torch's tree functions and its logging service
    pytest.mark.filterwarnings("ignore:.*LeafSpec.*"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning:lightning"),
    pytest.mark.filterwarnings("ignore::FutureWarning:lightning"),
]

PAPER = fields.RECIPES["paper"]


def some_fields(b=4, seed=1, *, augment=False):
    draw = Draw("cpu", seed, 0, "train", "test")
    return draw, fields.draw_fields(draw, PAPER, b, "train", nchan=128, augment=augment)


def test_the_dirty_images_are_the_simulators():
    """One source of the preset: its dirty image is the one that the exact simulator makes, primary beam and all."""
    field = draw_field("paper", 5, 3)
    source = replace(field.sources[1], alpha=0.0)
    cube = simulate_cube([source], field.coverage, replace(field.grid, nchan=1,
                         freq0=float(field.grid.freq()[64])), 0.0, None, pblimit=0.0)  # fmt: skip
    _, some = some_fields(1)
    cut = (360 - PAPER.field) // 2
    place = [torch.full((1, 6), v - cut + some.corner) for v in (source.x, source.y)]
    some.cov[:] = torch.from_numpy(source.covariance()).float()
    pb = cube.pb[0, round(source.y), round(source.x)]
    flux = torch.zeros(1, 6)
    flux[0, 0] = float(source.spectrum(cube.freq)[0] * pb) if source.line == 0 else float(source.continuum * pb)
    mine = some.dirty(torch.tensor([0]), *place, flux)[0]
    mine = mine[some.corner : some.corner + 256, some.corner : some.corner + 256].numpy()
    line = source.continuum_spectrum(cube.freq)[0] + source.line_spectrum(1)[0]
    theirs = cube.data[0, cut : cut + 256, cut : cut + 256] * source.continuum / line
    # The primary beam changes a little over the source.
    np.testing.assert_allclose(mine, theirs, atol=0.01 * theirs.max())


def test_what_is_kept_of_the_observation_is_the_simulators():
    with np.load(observed.STORED) as file:
        kept = dict(file)
    made = observed.compute()
    assert kept.keys() == made.keys()
    for name, value in made.items():
        np.testing.assert_allclose(kept[name], value, rtol=1e-5, atol=1e-5 * np.abs(value).max(), err_msg=name)


def test_the_noise_is_that_of_the_preset():
    """Thermal noise that is always the same, and white noise whose share of the variance has a median of 0.95."""
    _, many = some_fields(400)
    mine = np.sort((many.white**2).numpy())
    drawn = [draw_field("paper", 5, index) for index in range(60)]
    theirs = np.array([f.white**2 / (f.white**2 + f.noise**2) for f in drawn])
    assert 0.93 < np.median(mine) < 0.98 and abs(np.median(mine) - np.median(theirs)) < 0.03
    assert observed.observe(512).noise == pytest.approx(drawn[0].noise, rel=1e-6)
    draw, few = some_fields(2)
    few.white[:] = torch.tensor([0.0, 1.0])
    noise = few.noise(draw, torch.tensor([0, 1]))
    for image, neighbours in zip(noise, (0.9, 0.0), strict=True):
        assert float(image.std()) == pytest.approx(1.0, rel=0.1)
        assert float((image[1:] * image[:-1]).mean() / image.var()) == pytest.approx(neighbours, abs=0.06)


def test_the_primary_beam_dims_what_is_seen_and_not_what_is_asked():
    _, some = some_fields(50)
    centre = some.gain[:, 0]
    assert centre.min() > 0.99 and some.gain.min() < 0.8
    _, amplitude = chain._detection_maps(Draw("cpu", 1, 0, "train", "x"), some, torch.ones(50, 128))
    batch = chain._blobs_finder_batch(some, torch.rand(50, 256, 256), amplitude)
    sky = (amplitude / some.gain) / (some.fwhm_maj * some.fwhm_min)
    # Brightest pixel of the sky: the source of the highest brightness without the primary beam.
    right = 0
    for i, image in enumerate(batch.target[:, 0]):
        best = int(torch.where(some.used[i], sky[i], 0.0 * sky[i]).argmax())
        y, x = np.unravel_index(int(image.argmax()), image.shape)
        right += np.hypot(x - float(some.x[i, best]), y - float(some.y[i, best])) < 1.5
    assert right >= 48


def test_skies_are_turned_in_training_alone():
    """Unturned, sources stand in pixels 100 to 250 of 360; turned, in a circle about the middle."""
    for augment, inside in ((False, True), (True, False)):
        _, some = some_fields(200, augment=augment)
        x, y = some.x[some.used] + 52, some.y[some.used] + 52
        boxed = ((x >= 100) & (x <= 250) & (y >= 100) & (y <= 250)).float().mean()
        assert (boxed == 1) == inside
        assert float(torch.hypot(x - 180, y - 180).max()) < 114


def test_box_sums_are_sums_of_boxes():
    draw, some = some_fields(3)
    maps, amplitude = chain._detection_maps(draw, some, torch.ones(3, 128))
    blobs = chain._blobs(some, maps, amplitude, None)
    boxes = observed.box_of(blobs.weights)
    for box, weights in zip(boxes[:5], blobs.weights, strict=False):
        rows, columns = torch.nonzero(weights, as_tuple=True)
        assert box.sum() == (rows.max() - rows.min() + 1) * (columns.max() - columns.min() + 1)
    sums, rms = some.box_response(blobs.row, boxes)
    part = slice(some.corner, some.corner + 256)
    rows = torch.arange(3)
    for source in range(3):
        one = torch.zeros(3, 6)
        one[:, source] = 1.0
        image = some.dirty(rows, some.x + some.corner, some.y + some.corner, one)[:, part, part]
        np.testing.assert_allclose(
            sums[:, source], (boxes * image[blobs.row]).sum((1, 2)), atol=2e-3 * float(sums.abs().max())
        )
    first = blobs.row[:1].repeat(80)
    noise = (some.noise(draw, first)[:, part, part] * boxes[0]).sum((1, 2))
    assert float(noise.std()) == pytest.approx(float(rms[0]), rel=0.25)


def test_a_stamp_is_cut_from_the_image():
    """Made on a grid of its own, it is what the whole field shows about the blob, but for what is far away."""
    draw, some = some_fields(2)
    row = torch.tensor([0, 1])
    near, reached = some.close(row, some.x[:, 0], some.y[:, 0])
    middle, half = near.recipe.side // 2, 32
    flux = some.continuum
    at = some.x[:, 0].round(), some.y[:, 0].round()
    stamp = near.dirty(row, middle + some.x - at[0][:, None], middle + some.y - at[1][:, None], flux * reached)
    stamp = stamp[:, middle - half : middle + half, middle - half : middle + half]
    whole = some.dirty(row, some.x + some.corner, some.y + some.corner, flux)
    for i in row.tolist():
        x, y = (int(v[i]) + some.corner for v in at)
        cut = whole[i, y - half : y + half, x - half : x + half]
        assert float((stamp[i] - cut).abs().max()) < 0.03 * float(cut.max())


def test_dssim_by_matrices_is_that_of_a_window():
    torch.manual_seed(2)
    a, b = torch.rand(2, 1, 30, 41), torch.rand(2, 1, 30, 41)
    offset = torch.arange(11.0) - 5
    line = torch.exp(-0.5 * (offset / 1.5) ** 2)
    kernel = (line[:, None] * line[None] / line.sum() ** 2)[None, None]

    def mean(image):
        return torch.nn.functional.conv2d(image, kernel)

    ma, mb = mean(a), mean(b)
    va, vb, ab = mean(a * a) - ma**2, mean(b * b) - mb**2, mean(a * b) - ma * mb
    wanted = (2 * ma * mb + 1e-4) * (2 * ab + 9e-4) / ((ma**2 + mb**2 + 1e-4) * (va + vb + 9e-4))
    assert float(ssim(a, b)) == pytest.approx(float(wanted.mean()), abs=1e-5)


@pytest.mark.parametrize(("preset", "held", "free"), [("paper", 189043, 33756207), ("decoras", 50810, 8454841)])
def test_a_local_bottleneck_is_a_dense_one(preset, held, free):
    torch.manual_seed(4)
    local, dense = (build("blobs_finder", preset, local=flag).eval() for flag in (True, False))
    assert (parameter_count(local), parameter_count(dense)) == (held, free)
    dense.load_state_dict(dense.widened(local.state_dict()))
    x = torch.rand(2, 1, 256, 256)
    with torch.no_grad():
        a, b = local._squeeze(torch.rand(2, 64, 16, 16).mul_(9)), local(x)
        torch.manual_seed(5)
        y = torch.randn(2, 64, 16, 16)
        torch.testing.assert_close(dense._squeeze(y), local._squeeze(y), rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(dense(x), b, rtol=1e-4, atol=1e-5)
    assert a.std() > 0.05
    assert dense.widened(dense.state_dict()).keys() == dense.state_dict().keys()


def test_the_quick_schedule_rises_and_falls(tmp_path):
    config = train.configure(
        "pa", "paper", quick=True, steps=40, batch=2, validate_every=20, validation_batches=1, device="cpu", warmup=4
    )
    assert config.learning_rate == train.QUICK_LEARNING_RATE["pa"]
    train.train(config, tmp_path)
    rates = [json.loads(line)["learning_rate"] for line in (tmp_path / "pa" / "history.jsonl").read_text().splitlines()]
    assert rates[-1] < 0.1 * config.learning_rate < rates[0]
    slow = train.configure("pa", "paper", steps=40)
    assert (slow.learning_rate, slow.warmup, slow.quick) == (1e-4, 10, False)
    assert train.configure("pa", "paper", quick=True, learning_rate=5e-4, steps=1).learning_rate == 5e-4
    with pytest.raises(ParameterError, match="bottleneck"):
        train.train(train.configure("pa", "paper", local=True, steps=1), tmp_path)


def test_stamps_are_made_once_and_shared_by_the_networks_of_shape(tmp_path, monkeypatch):
    data._kept.cache_clear()
    made = []
    real = data.make_batch
    monkeypatch.setattr(data, "make_batch", lambda *args, **more: made.append(args) or real(*args, **more))
    for name in ("fwhm_maj", "pa", "pa"):
        batch, own = data.kept_batch(name, 3, 1, 4, "cpu", "paper"), real(name, 3, 1, 4, preset="paper")
        assert torch.equal(batch.inputs, own.inputs)
        assert torch.equal(batch.target, own.target) and torch.equal(batch.weight, own.weight)
    assert len(made) == 1
    config = train.configure("pa", "paper", quick=True, steps=9, batch=4, examples=8, device="cpu")
    module = train.Training(config, tmp_path)
    with torch.no_grad():
        first, second, third = (float(module.loss(module.network.eval(), step, "train")) for step in (0, 1, 2))
    assert first == third != second
    assert train.configure("pa", "paper", quick=True, steps=1, batch=64).examples == train.QUICK_EXAMPLES
    assert train.configure("pa", "paper", steps=1).examples == 0
    with pytest.raises(ParameterError, match="batches are kept"):
        train.train(replace(config, examples=10**6), tmp_path)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The paper's networks after two steps, Blobs Finder's bottleneck held local."""
    out = tmp_path_factory.mktemp("paper")
    for name in NETWORKS:
        options = {"steps": 2, "batch": 2, "validate_every": 1, "validation_batches": 1, "device": "cpu"}
        train.train(train.configure(name, "paper", quick=True, local=name == "blobs_finder", **options), out)
    return out


@pytest.fixture(scope="module")
def exported(trained, tmp_path_factory):
    out = tmp_path_factory.mktemp("networks") / "paper"
    return out, export.export(trained, out, batches=1)


def test_the_papers_networks_go_through_export_and_runner(trained, exported):
    out, manifest = exported
    networks = runner.load_networks(str(out), "cpu")
    assert networks.info["flow"] == networks.info["preset"] == manifest["flow"] == "paper"
    assert manifest["networks"]["blobs_finder"]["parameters"] == 189043
    total = sum(path.stat().st_size for path in out.iterdir())
    assert total < 60e6 and (out / "LOSS.png").stat().st_size > 1000
    batch = make_batch("pa", 3, 0, 4, "val", preset="paper")
    with torch.no_grad():
        wanted = load_network(trained / "pa")[0](batch.inputs).numpy()
    np.testing.assert_allclose(networks.pa(batch.inputs.numpy()), wanted, atol=paperexport.ROUNDING)
    images = np.random.default_rng(1).random((3, 1, 256, 256)).astype(np.float32)
    with torch.no_grad():
        wanted = load_network(trained / "blobs_finder")[0](torch.from_numpy(images)).numpy()
    np.testing.assert_allclose(networks.blobs_finder(images), wanted, atol=paperexport.ROUNDING)
    card = (out / "MODEL_CARD.md").read_text()
    assert "33756207" in card and "| deep_gru | 1058400 | 2 |" in card and "Limits" in card
    with pytest.raises(ParameterError, match="256"):
        networks.blobs_finder(images[:, :, :128])


def test_networks_of_random_weights_run_on_a_cube(exported):
    source = Source(60, 60, 5, 4, 30, continuum=0.03, line=0.05, chan=16, line_fwhm=5)
    cube = simulate_cube([source], Coverage(), Grid(npix=120, nchan=40), 1e-3, np.random.default_rng(1))
    result = run(cube, runner.load_networks(str(exported[0]), "cpu"))
    assert result.probability.shape == cube.shape and result.catalogue.meta["models"].startswith("paper")


def test_another_flows_contract_is_refused(exported, tmp_path):
    out, manifest = exported
    for change, message in (
        ({"flow": "other"}, "default, paper or decoras"),
        ({"flow": "default"}, "pixels per beam"),
        ({"pixels_per_beam": 5.0}, "8.24"),
    ):
        (tmp_path / "manifest.json").write_text(json.dumps({**manifest, **change}))
        with pytest.raises(ModelError, match=message):
            manifest_file.read_manifest(tmp_path)
    _check_method("paper", str(out))
    with pytest.raises(ParameterError, match="--method paper"):
        _check_method("default", str(out))


def test_networks_that_are_not_installed_are_asked_for(monkeypatch, tmp_path):
    monkeypatch.setattr(runner, "__file__", str(tmp_path / "runner.py"))
    with pytest.raises(ParameterError, match="docs/training.md"):
        runner.find_folder("paper")
    (tmp_path / "decoras").mkdir()
    assert runner.find_folder("decoras") == tmp_path / "decoras"


def test_decoras_is_exported_with_one_network(tmp_path):
    options = {"steps": 1, "batch": 2, "validate_every": 1, "validation_batches": 1, "device": "cpu"}
    train.train(train.configure("blobs_finder", "decoras", quick=True, local=True, **options), tmp_path / "run")
    manifest = export.export(tmp_path / "run", tmp_path / "out", batches=1)
    networks = runner.load_networks(str(tmp_path / "out"), "cpu")
    assert list(manifest["networks"]) == ["blobs_finder"] and networks.info["flow"] == "decoras"
    with pytest.raises(ModelError, match="no deep_gru"):
        networks.deep_gru(np.zeros((1, 128), np.float32))


def test_curves_go_on_from_the_run_before(trained, tmp_path):
    options = {"steps": 2, "batch": 2, "validate_every": 1, "validation_batches": 1, "device": "cpu"}
    train.train(train.configure("pa", "paper", quick=True, start=str(trained), **options), tmp_path)
    rows = curves.read_history(tmp_path, "pa")
    assert [row["step"] for row in rows] == [1, 2, 3, 4]
    assert rows[-1]["minutes"] > rows[1]["minutes"]
    with pytest.raises(DataError, match="no history"):
        curves.draw_curves(tmp_path / "nothing", NETWORKS, tmp_path / "x.png")


def test_counts_become_scores():
    assert paperexport._counted(8, 2, 10) == {"recall": 0.8, "precision": 0.8, "f1": 0.8}
