"""Variants of networks: what they see, what they are asked, and that each is trained and scored on the same data."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the training extra is not installed")
pytest.importorskip("lightning", reason="the training extra is not installed")

from casa_deepfocus.errors import ParameterError  # noqa: E402
from training import __main__ as main  # noqa: E402
from training import ablate, train, variants  # noqa: E402
from training.draw import Batch  # noqa: E402

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*LeafSpec.*"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning:lightning"),
    pytest.mark.filterwarnings("ignore::FutureWarning:lightning"),
]


@pytest.fixture(scope="module")
def first(tmp_path_factory):
    """Blobs Finder, Deep GRU and a ResNet after one step."""
    out = tmp_path_factory.mktemp("stage1")
    for name in ("blobs_finder", "deep_gru", "flux"):
        train.train(train.configure(name, steps=1, batch=2, validation_batches=1, device="cpu"), out)
    return out


def test_the_likelihood_is_best_at_the_true_mean_and_variance():
    generator = torch.Generator().manual_seed(2)
    target = 0.3 + 0.2 * torch.randn((4000, 1), generator=generator)
    batch = Batch(target, target, torch.ones_like(target))

    def loss(mean, sigma):
        stated = torch.tensor([mean, 2 * math.log(sigma)]).expand(4000, 2)
        return float(variants.likelihood(stated, batch))

    best = loss(0.3, 0.2)
    assert best < 0.0
    for mean, sigma in ((0.2, 0.2), (0.4, 0.2), (0.3, 0.15), (0.3, 0.27)):
        assert loss(mean, sigma) > best + 0.02


def test_stamps_carry_their_clean():
    batch = variants.resnet_batch("flux", 16, 3, 0, "train")
    plain = train.make_batch("flux", 3, 0, 16)
    assert batch.inputs.shape == (16, 4, 32, 32) and torch.isfinite(batch.inputs).all()
    assert torch.equal(batch.inputs[:, :3], plain.inputs) and torch.equal(batch.target, plain.target)
    # Where something is bright, CLEAN changes the map; the faint stay as they are.
    changed = (batch.inputs[:, 3] - batch.inputs[:, 2]).abs().amax((1, 2))
    assert changed[batch.truth["snr"] > 20].min() > 0.01


def test_the_map_of_centres_is_no_wider_than_that_of_the_sources():
    batch = variants.centre_batch(8, 5, 0, "train")
    sources, centres = batch.target.unbind(1)
    assert (centres <= sources + 1e-4).all() and 0.1 < float(centres.sum() / sources.sum()) < 0.9


def test_further_outputs_start_as_copies_of_the_first():
    one, other, two = variants.centre_variants(4, None)
    x = torch.randn(1, 2, 64, 64)
    with torch.no_grad():
        outputs = [v.output(v.network.eval(), x) for v in (one, other, two)]
    assert outputs[2].shape == (1, 2, 64, 64) and torch.equal(outputs[0], outputs[1])
    for place in range(2):
        torch.testing.assert_close(outputs[2][:, place], outputs[0][:, 0])


def test_every_resnet_is_trained_and_scored(monkeypatch, capsys):
    monkeypatch.setitem(ablate.BATCH, "fwhm_min", 16)
    monkeypatch.setitem(ablate.LEARNING_RATE, "fwhm_min", 0.3)
    words = ["ablate", "--network", "fwhm_min", "--steps", "2", "--batches", "4", "--seed", "3"]
    assert main.main([*words, "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert len(rows) == 4 and len({row["mean_absolute"] for row in rows.values()}) == 4
    assert [name for name, row in rows.items() if "coverage68" in row] == ["Gaussian likelihood"]
    text = ablate.lines(rows)
    assert len(text) == 6 and text[0].count("|") == text[1].count("|") == text[-1].count("|")


def test_blobs_finder_starts_from_a_run(monkeypatch, first):
    monkeypatch.setitem(ablate.BATCH, "blobs_finder", 4)
    rows = ablate.ablate("centres", steps=1, batches=2, start=first)
    assert len(rows) == 3
    for row in rows.values():
        assert 0.0 <= row["all"]["recall_blended"] <= 1.0 and np.isfinite(row["quiet"]["recall"])


def test_the_first_stage_is_compared_as_it_is(monkeypatch, first):
    monkeypatch.setitem(ablate.BATCH, "deep_gru", 16)
    comparison, rate = ablate.compare("second", "deep_gru", 1, first)
    before = [{k: v.clone() for k, v in variant.network.state_dict().items()} for variant in comparison.variants]
    trained = ablate.train_variants(comparison, 1, 2, rate, lambda text: None)
    moved = [
        any(not torch.equal(value, network.state_dict()[key]) for key, value in old.items())
        for old, network in zip(before, trained, strict=True)
    ]
    assert moved == [False, True] and rate == pytest.approx(8e-4)
    data = [comparison.make(7, step, "val") for step in range(2)]
    row = comparison.score(comparison.variants[1], trained[1], data)
    assert {"recall", "precision", "loss"} <= set(row) and row["loss"] > 0.0


def test_students_start_alike_and_differ_in_what_they_learn_from(monkeypatch, first):
    monkeypatch.setitem(ablate.BATCH, "flux", 16)
    comparison, rate = ablate.compare("distil", "flux", 1, first)
    teacher, *students = comparison.variants
    batch = comparison.make(1, 0, "train")
    with torch.no_grad():
        said = teacher.output(teacher.network, batch.inputs)
        outputs = [v.output(v.network.eval(), batch.inputs) for v in students]
    torch.testing.assert_close(batch.truth[variants.TEACHER], said)
    assert torch.equal(batch.inputs, train.make_batch("flux", 1, 0, 16).inputs)
    assert all(torch.equal(outputs[0], output) for output in outputs)
    true, taught, both = (float(v.loss(outputs[0], batch)) for v in students)
    assert true != taught and both == pytest.approx(0.5 * (true + taught))
    # Who says what the teacher says has nothing left to learn from it.
    assert float(students[1].loss(said, batch)) < 1e-9 < taught
    trained = ablate.train_variants(comparison, 1, 2, rate, lambda text: None)
    data = [comparison.make(7, step, "val") for step in range(4)]
    rows = [comparison.score(v, network, data) for v, network in zip(comparison.variants, trained, strict=True)]
    assert len({row["mean_absolute"] for row in rows}) == 4


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"what": "colour"}, "what='colour'"),
        ({"what": "resnet", "network": "deep_gru"}, "network='deep_gru'"),
        ({"what": "second", "network": "blobs_finder"}, "network='blobs_finder'"),
        ({"what": "second", "network": "flux"}, "--from RUN"),
        ({"what": "distil", "network": "flux"}, "--from RUN"),
        ({"what": "distil", "network": "deep_gru"}, "network='deep_gru'"),
        ({"what": "resnet", "steps": 0}, "steps=0"),
    ],
)
def test_what_cannot_be_compared_is_refused(arguments, text):
    with pytest.raises(ParameterError, match=text):
        ablate.ablate(**{"steps": 1, **arguments})
