"""The paper's schedule: presets, the second stage, parts, several processes."""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the training extra is not installed")
pytest.importorskip("lightning", reason="the training extra is not installed")

from casa_deepfocus.errors import ParameterError, ProductError  # noqa: E402
from training import chain, fields, losses, schedule, train  # noqa: E402
from training.__main__ import main  # noqa: E402
from training.checkpoint import load_network, read_checkpoint  # noqa: E402
from training.data import make_batch  # noqa: E402
from training.draw import Draw  # noqa: E402
from training.networks import NETWORKS, RESNETS, build  # noqa: E402

ROOT = Path(__file__).resolve().parents[1]

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*LeafSpec.*"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning:lightning"),
    pytest.mark.filterwarnings("ignore::FutureWarning:lightning"),
]


def options(**more):
    return {"steps": 1, "batch": 6, "validate_every": 1, "validation_batches": 1, "device": "cpu", **more}


@pytest.fixture(scope="module")
def first(tmp_path_factory):
    """All six compact networks after one step."""
    out = tmp_path_factory.mktemp("stage1")
    for name in NETWORKS:
        train.train(train.configure(name, **options()), out)
    return out


@pytest.mark.parametrize("name", NETWORKS)
def test_the_papers_data_have_the_papers_shapes(name):
    batch, again, other = (make_batch(name, 2, step, 4, preset="paper") for step in (3, 3, 4))
    shape = {"blobs_finder": (1, 256, 256), "deep_gru": (128,)}.get(name, (1, 64, 64))
    assert batch.inputs.shape[1:] == shape and 1 <= len(batch.inputs) <= 4
    assert torch.equal(batch.inputs, again.inputs) and not torch.equal(batch.inputs[0], other.inputs[0])
    assert torch.isfinite(batch.inputs).all() and torch.isfinite(batch.target).all()
    output = build(name, "paper").eval()(batch.inputs)
    assert output.shape == batch.target.shape
    if name == "deep_gru":
        assert batch.inputs.mean(1).abs().max() < 1e-4 and (batch.inputs.std(1, correction=0) - 1).abs().max() < 1e-3
    else:
        assert batch.inputs.amin() == 0 and batch.inputs.amax() == 1


def test_the_fields_are_the_simulators():
    """A point source's dirty map is the PSF, the noise has rms 1, on the library's grid and on the paper's."""
    for name, recipe in fields.RECIPES.items():
        draw = Draw("cpu", 1, 0, "train", "test")
        some = fields.draw_fields(draw, recipe, 3, "train", nchan=128, augment=False)
        some.cov[:] = 0
        rows, n = torch.arange(3), some.x.shape[1]
        x = torch.full((3, n), recipe.side / 2)
        flux = torch.zeros(3, n)
        flux[:, 0] = 2.0
        psf = some.psf()
        np.testing.assert_allclose(psf.amax((1, 2)), 1.0, atol=1e-4)
        np.testing.assert_allclose(some.dirty(rows, x, x, flux), 2 * psf, atol=1e-4)
        assert float(some.noise(draw, rows).std()) == pytest.approx(1.0, rel=0.05), name
        half = recipe.side // 2
        # Beam areas agree with the pixels to the beam: the area above half of a Gaussian's peak.
        lobe = psf[:, half - 12 : half + 13, half - 12 : half + 13]
        area = (lobe > 0.5).sum((1, 2)).float() / (np.pi / 4)
        assert (area.sqrt() / recipe.pixels_per_beam - 1).abs().max() < 0.12, name


def test_a_spectrum_is_the_sum_that_its_cube_would_give():
    recipe = fields.RECIPES["compact"]
    draw = Draw("cpu", 4, 0, "train", "test")
    some = fields.draw_fields(draw, recipe, 4, "train", nchan=40, augment=False)
    maps, amplitude = chain._detection_maps(draw, some, torch.ones(4, 40))
    blobs = chain._blobs(some, maps, amplitude, None)
    spectra = chain._spectra(draw, some, blobs)
    row, corner = int(blobs.row[0]), some.corner
    part = slice(corner, corner + recipe.field)
    chan = int(some.line[row].sum(0).argmax())
    plane = some.dirty(torch.tensor([row]), *(v[row : row + 1] + corner for v in (some.x, some.y)),
                       some.line[row : row + 1, :, chan])[0, part, part]  # fmt: skip
    noise = torch.stack([
        (some.noise(draw, torch.full((16,), row))[:, part, part] * blobs.weights[0]).sum((1, 2)) for _ in range(12)
    ]).std()  # fmt: skip
    expected = float((plane * blobs.weights[0]).sum())
    assert expected > 0
    got = float((spectra.response[0] * some.line[row, :, chan]).sum())
    assert got == pytest.approx(expected / float(noise), rel=0.15)


class Perfect(torch.nn.Module):
    """A network that answers as it is told."""

    def __init__(self, answer):
        super().__init__()
        self.answer = answer

    def forward(self, x):
        return self.answer(x)


def test_predictions_decide_what_the_second_stage_sees():
    recipe = fields.RECIPES["compact"]
    draw = Draw("cpu", 5, 0, "train", "test")
    some = fields.draw_fields(draw, recipe, 6, "train", nchan=64, augment=False)
    maps, amplitude = chain._detection_maps(draw, some, torch.ones(6, 64))
    true = chain._blobs(some, maps, amplitude, None)
    alone = [k for k in range(len(true.row)) if int((true.row == true.row[k]).sum()) == 1]
    assert len(true.row) > 5

    def moved(_):
        out = torch.zeros(6, 1, recipe.field, recipe.field)
        for row, source in zip(true.row, true.source, strict=True):
            drawn = chain._drawn(some, row[None], source[None])[0]
            out[row, 0] = torch.maximum(out[row, 0], drawn.roll(1, 1))
        return out

    found = chain._blobs(some, maps, amplitude, {"blobs_finder": Perfect(moved)})
    assert len(found.row) > 0.6 * len(true.row)
    shift = found.x - some.x[found.row, found.source]
    assert float(shift.median()) == pytest.approx(1.0, abs=0.15) or alone
    empty = chain._blobs(some, maps, amplitude, {"blobs_finder": Perfect(lambda x: 0 * x[:, :1])})
    assert torch.equal(empty.x, true.x)
    spectra = chain._spectra(draw, some, true)
    nothing = chain._with_lines(some, true, spectra, {"deep_gru": Perfect(torch.zeros_like)})
    assert torch.equal(nothing.chan, some.chan[true.row, true.source])


def test_the_second_stage_starts_from_the_first_and_sees_its_predictions(first, tmp_path):
    start = {"stage": 2, "start": str(first)}
    for name in ("deep_gru", "pa", "flux"):
        train.train(train.configure(name, **options(**start)), tmp_path)
        network, facts = load_network(tmp_path / name)
        before, _ = load_network(first / name)
        assert facts["stage"] == 2 and facts["steps"] == 1
        assert facts["learning_rate"] == pytest.approx(0.2 * train.LEARNING_RATE[name])
        pairs = zip(network.parameters(), before.parameters(), strict=True)
        change = max(float((a - b).detach().abs().max()) for a, b in pairs)
        assert 0 < change < 0.01, "one small step away from the first stage"
    module = train.Training(train.configure("flux", **options(**start)), tmp_path / "flux")
    assert set(module.predecessors()) == {"blobs_finder", "deep_gru", "fwhm_maj", "fwhm_min", "pa"}
    train.keep_first(first, tmp_path)
    assert load_network(tmp_path / "blobs_finder")[1]["stage"] == 1


@pytest.mark.parametrize(("preset", "name"), [("paper", "pa"), ("paper", "deep_gru"), ("decoras", "blobs_finder")])
def test_the_paper_presets_train_with_adam_after_a_warm_up(tmp_path, preset, name):
    config = train.configure(name, preset, steps=3, batch=2, validate_every=3, validation_batches=1, device="cpu")
    assert config.learning_rate == 1e-4 and config.warmup == 10
    train.train(config, tmp_path)
    row = json.loads((tmp_path / name / "history.jsonl").read_text().splitlines()[-1])
    assert row["learning_rate"] == pytest.approx(3e-5) and np.isfinite(row["validation"])
    assert len(json.loads((tmp_path / name / "config.json").read_text())["commit"]) in (0, 40)
    optimiser = train.Training(config, tmp_path).configure_optimizers()
    assert type(optimiser) is torch.optim.Adam
    assert optimiser.param_groups[0]["weight_decay"] == (1e-5 if name == "deep_gru" else 0.0)


def test_the_papers_blobs_finder_hands_over_from_l1_to_dssim(tmp_path):
    config = train.configure("blobs_finder", "paper", steps=4, batch=2, device="cpu")
    module = train.Training(config, tmp_path)
    batch = make_batch("blobs_finder", config.seed, 0, 2, "val", preset="paper")
    with torch.no_grad():
        module.network.eval()
        output = module.network(batch.inputs)
        assert float(module.loss(module.network, 0, "val")) == pytest.approx(
            float((output - batch.target).abs().mean()), rel=1e-4
        )
        module.elapsed, module.config = 60.0, replace(config, steps=0, minutes=2.0)
        half = float(losses.paper_blobs_finder(output, batch.target, 0.5))
        assert float(module.loss(module.network, 0, "val")) == pytest.approx(half, rel=1e-4)


def test_training_stops_when_the_validation_loss_no_longer_falls(tmp_path, monkeypatch):
    config = train.configure(
        "deep_gru", "paper", steps=99, batch=2, validate_every=1, validation_batches=1, device="cpu", patience=3
    )
    monkeypatch.setattr(train.Training, "validation_step", lambda self, batch, index: self._validation.append(1.0))
    monkeypatch.setattr(train.Training, "training_step", lambda self, *_: 0 * next(self.network.parameters()).sum())
    train.train(config, tmp_path)
    rows = (tmp_path / "deep_gru" / "history.jsonl").read_text().splitlines()
    # The first value has nothing to be worse than.
    assert len(rows) == 4


def test_decoras_loss_is_zero_for_equal_images_only():
    torch.manual_seed(1)
    a, b = torch.rand(1, 1, 8, 8), torch.rand(1, 1, 8, 8)
    assert float(losses.msle(a, a)) == 0
    assert float(losses.msle(a, b)) == pytest.approx(float(((1 + a).log() - (1 + b).log()).pow(2).mean()))


def test_a_pause_in_the_schedule_continues_it(tmp_path):
    config = train.configure("deep_gru", minutes=100.0, batch=4, device="cpu", validate_every=1000)
    train.train(config, tmp_path, stop_at=0.01)
    pausing = load_network(tmp_path / "deep_gru")[1]["steps"]
    train.train(config, tmp_path, stop_at=0.01)
    assert pausing > 0 and load_network(tmp_path / "deep_gru")[1]["steps"] == pausing
    # However long the first steps took on a busy machine: a moment more than that.
    spent = read_checkpoint(tmp_path / "deep_gru")["deepfocus"]["elapsed"] / 60.0
    train.train(config, tmp_path, stop_at=spent + 0.005)
    assert load_network(tmp_path / "deep_gru")[1]["steps"] > pausing


@pytest.mark.parametrize("together", [True, False])
def test_a_plan_spends_the_budget_and_trains_everything_in_order(together):
    steps = schedule.plan(100.0, together=together)
    assert [step.part for step in steps] == sorted(step.part for step in steps) and {s.part for s in steps} == {1, 2, 3}
    for stage, names in ((1, NETWORKS), (2, NETWORKS[1:])):
        assert {name for step in steps if step.stage == stage for name in step.networks} == set(names)
    order = [name for step in steps if step.stage == 2 for name in step.networks]
    assert order[0] == "deep_gru" and order[-1] == "flux"
    spent = 0.0
    for step in steps:
        half = together and step.stage == 1
        spent += step.minutes * (0.5 if half else 1.0)
        if together:
            # 25 minutes in parts of at most 10.
            assert sum(s.minutes * (0.5 if s.stage == 1 else 1) for s in steps if s.part == step.part) <= 40.0
    assert 90.0 <= spent <= 100.0


def test_the_quick_plan_holds_the_bottleneck_first(tmp_path):
    plain, held = (schedule.plan(100.0, together=False, held=flag) for flag in (False, True))
    assert sum(step.minutes for step in held) == pytest.approx(sum(step.minutes for step in plain))
    assert [(step.stage, step.networks) for step in held[:2]] == [(0, ("blobs_finder",)), (1, ("blobs_finder",))]
    assert held[2:] == plain[1:]
    args = type("args", (), {"preset": "paper", "seed": 1, "out": tmp_path, "threads": 0, "quick": True})
    first, second, third = (schedule.command(step, step.networks[0], args, "cpu") for step in held[:3])
    assert "--local" in first and str(tmp_path / "stage0") in first and "--from" not in first
    assert "--local" not in second and second[second.index("--from") + 1] == str(tmp_path / "stage0")
    assert "--quick" in third and "--from" not in third and "--learning-rate" not in third


def test_the_schedule_runs_its_processes_and_says_which_failed(tmp_path, monkeypatch):
    seen = []

    def popen(words, **_):
        seen.append(words)
        return subprocess.Popen([sys.executable, "-c", f"raise SystemExit({int('pa' in words)})"])

    fake = type("fake", (), {"Popen": staticmethod(popen), "STDOUT": subprocess.STDOUT})
    monkeypatch.setattr(schedule, "subprocess", fake)
    base = ["schedule", "--device", "cpu", "--out", str(tmp_path), "--seed", "3"]
    assert main([*base, "--hours", "5", "--part", "1"]) == 0
    assert "blobs_finder" in seen[0] and len(seen) == 1
    assert main([*base, "--minutes", "25", "--part", "3"]) == 2
    assert ["--from", str(tmp_path / "stage1")] == seen[-1][-2:]
    for wrong in (
        ["--minutes", "0"], ["--minutes", "1", "--quick"], ["--minutes", "1", "--part", "4"],
        ["--minutes", "1", "--preset", "decoras"]):
        assert main([*base, *wrong]) == 2
    with pytest.raises(ProductError, match=r"pa\.log"):
        schedule.run_step(schedule.Step(3, 2, ("pa",), 1.0), schedule_arguments(tmp_path), "cpu")


def schedule_arguments(out):
    import argparse

    parser = argparse.ArgumentParser()
    schedule.add_arguments(parser)
    return parser.parse_args(["--out", str(out)])


@pytest.mark.slow
def test_two_processes_train_one_network(tmp_path):
    """torchrun's way, with gloo: both make examples of their own and end with the same weights."""
    command = [
        sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2",
        "-m", "training", "train", "--networks", "deep_gru", "--steps", "2", "--batch", "2", "--device", "cpu",
        "--devices", "2", "--strategy", "ddp", "--threads", "1", "--out", str(tmp_path),
    ]  # fmt: skip
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert run.returncode == 0, run.stderr[-2000:]
    facts = load_network(tmp_path / "deep_gru")[1]
    assert facts["steps"] == 2 and facts["devices"] == 2


def test_refusals():
    with pytest.raises(ParameterError, match="huge"):
        fields.recipe_of("huge")
    assert fields.recipe_of("decoras") is fields.recipe_of("paper")
    assert train.names_of("all", "decoras", 1) == ["blobs_finder"]
    assert train.names_of("all", "compact", 2) == list(NETWORKS[1:])
    assert set(RESNETS) < set(NETWORKS)


@pytest.mark.slow
def test_training_needs_neither_casa_nor_astropy():
    code = """
        import sys
        class Blocked:
            def find_spec(self, name, path=None, target=None):
                if name.split(".")[0] in ("astropy", "casatools", "casatasks", "casadata", "casaconfig"):
                    raise ModuleNotFoundError(f"{name} is blocked", name=name)
        sys.meta_path.insert(0, Blocked())
        import training.train, training.schedule, training.curves
        from training.data import make_batch
        make_batch("deep_gru", 1, 0, 4, preset="paper")
        make_batch("blobs_finder", 1, 0, 2)
    """
    run = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], cwd=ROOT, capture_output=True, text=True, timeout=300
    )
    assert run.returncode == 0, run.stderr[-2000:]
