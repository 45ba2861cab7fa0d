"""Training for a few steps, resuming, exporting; parity of torch and onnxruntime."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the training extra is not installed")
pytest.importorskip("onnx", reason="the training extra is not installed")
pytest.importorskip("lightning", reason="the training extra is not installed")

from casa_deepfocus.errors import DataError, ParameterError  # noqa: E402
from casa_deepfocus.models.runner import load_networks  # noqa: E402
from training import export, train, validate  # noqa: E402
from training.__main__ import main  # noqa: E402
from training.checkpoint import load_network  # noqa: E402
from training.networks import NETWORKS, build  # noqa: E402

pytestmark = [
    # lightning's own, about torch's tree functions and its logging service
    pytest.mark.filterwarnings("ignore:.*LeafSpec.*"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning:lightning"),
    pytest.mark.filterwarnings("ignore::FutureWarning:lightning"),
]


def config(name: str, steps: int, **more) -> train.Config:
    defaults = {"batch": 4, "validate_every": 2, "validation_batches": 1, "warmup": 1, "device": "cpu"}
    return train.Config(network=name, steps=steps, **{**defaults, **more})


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """All six networks after two steps."""
    out = tmp_path_factory.mktemp("run")
    for name in NETWORKS:
        train.train(config(name, 2), out)
    return out


@pytest.mark.parametrize("name", ["blobs_finder", "deep_gru", "pa"])
def test_networks_of_the_compact_preset_agree_with_onnxruntime(tmp_path, name):
    torch.manual_seed(3)
    network = build(name)
    # Statistics of the normalisation that are not 0 and 1, as after training.
    for module in network.modules():
        if isinstance(module, torch.nn.modules.batchnorm._BatchNorm):
            module.running_mean.normal_(std=0.2)
            module.running_var.uniform_(0.5, 2.0)
    export.to_onnx(name, network, tmp_path / "n.onnx")
    predict = export.session(tmp_path / "n.onnx")
    assert export.parity(name, network.eval(), predict) <= export.PARITY


def test_training_lowers_the_loss(tmp_path):
    module = train.Training(config("fwhm_maj", 60, batch=32, warmup=5), tmp_path)
    with torch.no_grad():
        before = float(module.loss(module.network, 0, "val"))
    train.train(config("fwhm_maj", 60, batch=32, warmup=5, average=0.8), tmp_path)
    rows = [json.loads(line) for line in (tmp_path / "fwhm_maj" / "history.jsonl").read_text().splitlines()]
    assert rows[-1]["step"] == 60 and rows[-1]["validation"] < 0.9 * before


def test_training_resumes_where_it_stopped(tmp_path):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    same = {"learning_rate": 1e-3, "final_lr": 1.0}
    train.train(config("deep_gru", 6, **same), whole)
    train.train(config("deep_gru", 2, **same), parts)
    train.train(config("deep_gru", 6, **same), parts)
    first, second = (torch.load(p / "deep_gru" / train.CHECKPOINT, weights_only=True) for p in (whole, parts))
    assert first["global_step"] == second["global_step"] == 6
    for key, value in first["state_dict"].items():
        torch.testing.assert_close(second["state_dict"][key], value, rtol=1e-5, atol=1e-6)
    # A spent budget trains no further.
    train.train(config("deep_gru", 6, **same), parts)
    assert torch.load(parts / "deep_gru" / train.CHECKPOINT, weights_only=True)["global_step"] == 6


def test_what_training_cannot_do_is_refused(tmp_path):
    with pytest.raises(ParameterError, match="budget"):
        train.train(train.Config(network="pa"), tmp_path)
    with pytest.raises(ParameterError, match="paper, compact, decoras"):
        train.train(config("pa", 1, preset="huge"), tmp_path)
    with pytest.raises(ParameterError, match="has none"):
        train.train(config("pa", 1, preset="decoras"), tmp_path)
    with pytest.raises(ParameterError, match="--from RUN"):
        train.train(config("pa", 1, stage=2), tmp_path)
    with pytest.raises(ParameterError, match="no second stage"):
        train.train(config("blobs_finder", 1, stage=2, start=str(tmp_path)), tmp_path)
    with pytest.raises(ParameterError, match="stage"):
        train.train(config("pa", 1, stage=3), tmp_path)
    with pytest.raises(ParameterError, match="devices"):
        train.train(config("pa", 1, devices=0), tmp_path)
    with pytest.raises(DataError, match="python -m training train"):
        train.train(config("pa", 1, start=str(tmp_path / "nothing")), tmp_path / "other")
    with pytest.raises(ParameterError, match="auto, cpu or cuda"):
        train.choose_device("tpu")
    if not torch.cuda.is_available():
        assert train.choose_device("auto") == "cpu"
        with pytest.raises(ParameterError, match="no CUDA"):
            train.choose_device("cuda")


def test_an_export_is_loaded_by_the_runner(run, tmp_path):
    manifest = export.export(run, tmp_path / "out", batches=1)
    networks = load_networks(str(tmp_path / "out"), "cpu")
    assert networks.info["thresholds"] == manifest["thresholds"]
    assert all(entry["parity"] <= export.PARITY for entry in manifest["networks"].values())
    network, facts = load_network(run / "pa")
    assert facts["steps"] == 2 and facts["network"] == "pa"
    stamps = np.random.default_rng(1).normal(size=(4, 3, 32, 32)).astype(np.float32)
    with torch.no_grad():
        np.testing.assert_allclose(networks.pa(stamps), network(torch.from_numpy(stamps)).numpy(), atol=1e-5)
    card = (tmp_path / "out" / "MODEL_CARD.md").read_text()
    assert "blobs_finder" in card and "Limits" in card and "BSD-3-Clause" in card


def test_networks_of_several_presets_are_not_exported(run, tmp_path):
    mixed = tmp_path / "mixed"
    shutil.copytree(run, mixed)
    shutil.rmtree(mixed / "pa")
    train.train(train.configure("pa", "paper", steps=1, batch=4, device="cpu"), mixed)
    with pytest.raises(ParameterError, match="presets compact, paper"):
        export.export(mixed, tmp_path / "out")


def test_an_export_without_training_says_so(tmp_path):
    with pytest.raises(DataError, match="python -m training train"):
        export.export(tmp_path / "nothing", tmp_path / "out")


def test_the_command_line_refuses_unknown_networks(tmp_path, capsys):
    assert main(["train", "--networks", "unet", "--steps", "1", "--out", str(tmp_path)]) == 2
    assert "blobs_finder" in capsys.readouterr().err


def test_a_perfect_map_scores_perfectly():
    scores = validate.blobs_finder_scores(*perfect("blobs_finder"))
    level = scores["levels"]["0.5"]
    assert scores["sources"] > 30
    assert level["recall_alone"] > 0.97 and level["precision"] > 0.97 and level["false_per_empty_map"] == 0


def test_perfect_spectra_and_stamps_score_perfectly():
    level = validate.deep_gru_scores(*perfect("deep_gru"))["levels"]["0.5"]
    assert level["recall"] > 0.85 and level["false_per_line_free_spectrum"] == 0
    for name in ("fwhm_maj", "pa"):
        scores = validate.resnet_scores(name, *perfect(name, size=200))
        assert scores["by_snr"] and all(abs(s["scatter"]) < 1e-3 for s in scores["by_snr"].values())


def perfect(name: str, size: int = 16, count: int = 3):
    """A 'network' that answers with the target, and its data."""
    data = [validate.make_batch(name, 9, step, size, "val") for step in range(count)]
    answers = iter([batch.target.numpy() for batch in data])
    return (lambda _: next(answers)), data


def test_no_answer_scores_nothing():
    _, data = perfect("blobs_finder", 8, 1)
    scores = validate.blobs_finder_scores(np.zeros_like, data)
    assert scores["levels"]["0.1"]["recall"] == 0 and scores["levels"]["0.1"]["false_per_map"] == 0


def test_the_threshold_is_the_lowest_that_is_precise_enough():
    levels = {"0.1": {"precision": 0.5}, "0.3": {"precision": 0.92}, "0.5": {"precision": 0.99}}
    assert validate.choose_threshold(levels, 0.9) == 0.3
    assert validate.choose_threshold(levels, 0.999) == 0.5
