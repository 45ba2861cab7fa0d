"""Variants of networks, their data and their scores, for `training.ablate`.

None of them is shipped: what won became part of `training.networks`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from casa_deepfocus.core.preprocessing import BOX_LEVEL, blobs_finder_input, clean
from training import losses, maps, validate
from training.checkpoint import averaged_weights, load_network, read_checkpoint
from training.data import make_batch
from training.draw import Batch
from training.networks import OUTPUTS, RESNETS, CompactBlobsFinder, CompactResNet
from training.train import PREDECESSORS

PRECISION = 0.85
"""Variants of Blobs Finder are compared where they are this precise, as each has its own scale."""

LEVEL = "0.3"
"""Of Deep GRU's output."""

LOG_VARIANCE = (-10.0, 5.0)

TEACHER = "teacher"
"""What a trained network says of a batch, among its truth."""

Loss = Callable[[Tensor, Batch], Tensor]
Answer = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Variant:
    """One way to build and train a network.

    Attributes
    ----------
    name : str
    network : nn.Module, fresh or with weights to start from; its output before any sigmoid is `output(x)`
    planes : which planes of the batch's input it sees, in order
    loss : callable (output, batch) -> scalar; None: the network stays as it is
    answer : callable, output -> what is scored
    spread : callable, output -> standard error that the network states, where it does
    """

    name: str
    network: nn.Module
    planes: tuple[int, ...] | slice
    loss: Loss | None
    answer: Answer
    spread: Answer | None = None

    def output(self, network: nn.Module, inputs: Tensor) -> Tensor:
        """The raw output for the batch's input."""
        seen = inputs[:, self.planes]
        if seen.ndim == 4:
            seen = seen.contiguous(memory_format=torch.channels_last)
        return network.logits(seen) if hasattr(network, "logits") else network(seen)


@dataclass(frozen=True)
class Comparison:
    """Variants that see the same data.

    Attributes
    ----------
    variants : list of Variant
    make : callable (seed, step, split) -> Batch
    score : callable (variant, network, validation data) -> dict of numbers
    """

    variants: list[Variant]
    make: Callable[[int, int, str], Batch]
    score: Callable[[Variant, nn.Module, Sequence[Batch]], dict[str, Any]]


def likelihood(output: Tensor, batch: Batch) -> Tensor:
    """Negative log likelihood of a Gaussian whose mean and log variance the network gives, mean over the weights."""
    mean, log_variance = output.chunk(2, dim=1)
    s = log_variance.clamp(*LOG_VARIANCE)
    loss = 0.5 * ((mean - batch.target) ** 2 * torch.exp(-s) + s)
    return (loss * batch.weight).sum() / batch.weight.sum().clamp(min=1e-6)


def _smooth_l1(output: Tensor, batch: Batch) -> Tensor:
    return losses.weighted_smooth_l1(output, batch.target, batch.weight)


def _bce(output: Tensor, batch: Batch) -> Tensor:
    return losses.weighted_bce(output, batch.target, batch.weight)


def _whole(output: Tensor) -> Tensor:
    return output


def _mean(output: Tensor) -> Tensor:
    return output.chunk(2, dim=1)[0]


def _spread(output: Tensor) -> Tensor:
    return torch.exp(0.5 * output.chunk(2, dim=1)[1].clamp(*LOG_VARIANCE))


class MeanAndVariance(nn.Module):
    """A ResNet of twice the outputs: means, ending as the shipped ones do, and log variances."""

    def __init__(self, outputs: int, *, positive: bool) -> None:
        super().__init__()
        self.network = CompactResNet(2 * outputs)
        self.end: nn.Module = nn.Softplus(beta=4.0) if positive else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        mean, log_variance = self.network(x).chunk(2, dim=1)
        return torch.cat([self.end(mean), log_variance], dim=1)


def resnet_variants(name: str, seed: int) -> list[Variant]:
    """The shipped ResNet, then without its PSF, with its CLEAN beside it, and with a predicted error."""
    positive, outputs = name.startswith("fwhm"), OUTPUTS[name]

    def fresh(planes: int) -> nn.Module:
        torch.manual_seed(seed)
        network = CompactResNet(outputs, positive=positive)
        network.stem[0] = nn.Conv2d(planes, network.stem[0].out_channels, 3, padding=1, bias=False)
        return network

    torch.manual_seed(seed)
    stating = MeanAndVariance(outputs, positive=positive)
    return [
        Variant("stamp, PSF, sigma", fresh(3), (0, 1, 2), _smooth_l1, _whole),
        Variant("without the PSF", fresh(2), (0, 2), _smooth_l1, _whole),
        Variant("and CLEAN", fresh(4), (0, 1, 2, 3), _smooth_l1, _whole),
        Variant("Gaussian likelihood", stating, (0, 1, 2), likelihood, _mean, _spread),
    ]


def resnet_batch(name: str, size: int, seed: int, step: int, split: str) -> Batch:
    """Stamps with a further plane: their CLEAN, in sigma."""
    batch = make_batch(name, seed, step, size, split)
    t = batch.truth
    cleaned = blobs_finder_input(clean(t["stamp"] / t["sigma"][:, None, None], t["psf"]))
    return Batch(torch.cat([batch.inputs, cleaned[:, None]], 1), batch.target, batch.weight, t)


def centre_variants(seed: int, start: Path | None) -> list[Variant]:
    """Blobs Finder with the map of the sources, with that of their centres, and with both as two outputs."""
    weights = {} if start is None else averaged_weights(read_checkpoint(start / "blobs_finder"))

    def built(outputs: int) -> nn.Module:
        torch.manual_seed(seed)
        network = CompactBlobsFinder()
        if weights:
            network.load_state_dict(weights)
        if outputs == 1:
            return network
        # Further outputs start as copies of the first.
        first, smooth, fine = network.fine.in_channels, network.smooth[0], network.fine
        network.smooth[0] = nn.Conv2d(first, outputs, 1)
        network.fine = nn.ConvTranspose2d(first, outputs, 4, stride=2, padding=1)
        with torch.no_grad():
            network.smooth[0].weight.copy_(smooth.weight.expand(outputs, -1, -1, -1))
            network.smooth[0].bias.copy_(smooth.bias.expand(outputs))
            network.fine.weight.copy_(fine.weight.expand(-1, outputs, -1, -1))
            network.fine.bias.copy_(fine.bias.expand(outputs))
        return network

    def loss(output: Tensor, batch: Batch, chosen: Sequence[int]) -> Tensor:
        return losses.weighted_bce(output, batch.target[:, chosen], batch.weight[:, chosen])

    both = (0, 1)
    planes = slice(None)
    return [
        Variant("sources", built(1), planes, lambda o, b: loss(o, b, [0]), torch.sigmoid),
        Variant("centres", built(1), planes, lambda o, b: loss(o, b, [1]), torch.sigmoid),
        Variant("sources, centres as second output", built(2), planes, lambda o, b: loss(o, b, both),
                lambda o: torch.sigmoid(o[:, 1:])),
    ]  # fmt: skip


def centre_batch(size: int, seed: int, step: int, split: str) -> Batch:
    """Maps with two targets: the sources as shipped, and at each centre what a point source would be."""
    batch = make_batch("blobs_finder", seed, step, size, split)
    t = batch.truth
    points = maps.Sources(t["x"], t["y"], t["flux"], torch.zeros_like(t["cov"]), t["snr"], t["target"])
    seen = t["snr_map"] != 0
    drawn, ignored = maps.draw_targets(points, t["askable"], t["target"] & ~t["askable"])
    weight = (1.0 + 3.0 * drawn) * ~((ignored > BOX_LEVEL) & (ignored > drawn))
    target = torch.cat([batch.target, (drawn * seen)[:, None]], 1)
    return Batch(batch.inputs, target, torch.cat([batch.weight, weight[:, None]], 1), t)


def second_variants(name: str, start: Path) -> list[Variant]:
    """A network of a run as it is, and the same to be trained on."""
    loss = _smooth_l1 if name in RESNETS else _bce
    answer = _whole if name in RESNETS else torch.sigmoid
    return [
        Variant(title, load_network(start / name)[0], slice(None), trained, answer)
        for title, trained in (("first stage", None), ("second stage", loss))
    ]


def student_variants(name: str, seed: int, start: Path) -> list[Variant]:
    """A trained ResNet, and fresh ones that learn the truth, its answers (distillation), or both alike."""

    def fresh() -> nn.Module:
        torch.manual_seed(seed)
        return CompactResNet(OUTPUTS[name], positive=name.startswith("fwhm"))

    def answers(output: Tensor, batch: Batch) -> Tensor:
        return losses.weighted_smooth_l1(output, batch.truth[TEACHER], batch.weight)

    def both(output: Tensor, batch: Batch) -> Tensor:
        return 0.5 * (_smooth_l1(output, batch) + answers(output, batch))

    planes = slice(None)
    return [
        Variant("teacher", load_network(start / name)[0], planes, None, _whole),
        Variant("student of the truth", fresh(), planes, _smooth_l1, _whole),
        Variant("student of the teacher", fresh(), planes, answers, _whole),
        Variant("student of both", fresh(), planes, both, _whole),
    ]


def taught_batch(name: str, size: int, teacher: nn.Module, seed: int, step: int, split: str) -> Batch:
    """Stamps with what the teacher says of them in `truth`."""
    batch = make_batch(name, seed, step, size, split)
    with torch.no_grad():
        return Batch(batch.inputs, batch.target, batch.weight, batch.truth | {TEACHER: teacher(batch.inputs)})


def resnet_row(name: str, variant: Variant, network: nn.Module, data: Sequence[Batch]) -> dict[str, Any]:
    """Scores of one ResNet: `validate.resnet_scores`, the mean error, and what its stated errors are worth."""
    with torch.no_grad():
        outputs = [variant.output(network, batch.inputs) for batch in data]
    answers = iter([variant.answer(output).numpy() for output in outputs])
    scores = validate.resnet_scores(name, lambda _: next(answers), list(data))
    row: dict[str, Any] = {"std": {snr: s["std"] for snr, s in scores["by_snr"].items()}}
    row["scatter"] = {snr: s["scatter"] for snr, s in scores["by_snr"].items()}
    error = torch.cat([variant.answer(o) - b.target for o, b in zip(outputs, data, strict=True)])
    weight = torch.cat([batch.weight for batch in data])
    row["mean_absolute"] = round(float((error.abs() * weight).sum() / weight.sum()), 5)
    if variant.spread is not None:
        stated = torch.cat([variant.spread(output) for output in outputs])
        within = (error.abs() < stated).float()
        row["coverage68"] = round(float((within * weight).sum() / weight.sum()), 3)
        row["pull"] = round(float(1.4826 * (error / stated)[weight > 0].abs().median()), 3)
    return row


def centre_row(variant: Variant, network: nn.Module, data: Sequence[Batch]) -> dict[str, Any]:
    """Recall of one Blobs Finder where its precision is `PRECISION`, of all, lone and blended sources.

    Between the levels of `validate.LEVELS` it is interpolated, beyond them that of the last one.
    """

    def predict(inputs: np.ndarray) -> np.ndarray:
        with torch.no_grad():
            return variant.answer(variant.output(network, torch.from_numpy(inputs))).numpy()

    row: dict[str, Any] = {}
    quiet = [part for batch in data if len((part := validate.quiet_maps(batch)).inputs)]
    for kind, batches in (("all", list(data)), ("quiet", quiet)):
        levels = list(validate.blobs_finder_scores(predict, batches)["levels"].values())
        precision = np.maximum.accumulate([level["precision"] for level in levels])
        row[kind] = {
            key: round(float(np.interp(PRECISION, precision, [level[key] for level in levels])), 3)
            for key in ("precision", "recall", "recall_alone", "recall_blended")
        }
    return row


def second_row(name: str, variant: Variant, network: nn.Module, data: Sequence[Batch]) -> dict[str, Any]:
    """Scores on what the predecessors predict: of Deep GRU its recall and precision at `LEVEL`."""
    if name in RESNETS:
        return resnet_row(name, variant, network, data)

    def predict(inputs: np.ndarray) -> np.ndarray:
        with torch.no_grad():
            return variant.answer(variant.output(network, torch.from_numpy(inputs))).numpy()

    level = validate.deep_gru_scores(predict, list(data))["levels"][LEVEL]
    with torch.no_grad():
        loss = [float(_bce(variant.output(network, batch.inputs), batch)) for batch in data]
    return {**level, "loss": round(float(np.mean(loss)), 5)}


def resnet(name: str, size: int, seed: int) -> Comparison:
    """Of a ResNet's input and loss."""
    return Comparison(resnet_variants(name, seed), partial(resnet_batch, name, size), partial(resnet_row, name))


def centres(size: int, seed: int, start: Path | None) -> Comparison:
    """Of Blobs Finder's target."""
    return Comparison(centre_variants(seed, start), partial(centre_batch, size), centre_row)


def distil(name: str, size: int, seed: int, start: Path) -> Comparison:
    """Of what a fresh ResNet learns from."""
    variants = student_variants(name, seed, start)
    teacher = variants[0].network.eval()
    return Comparison(variants, partial(taught_batch, name, size, teacher), partial(resnet_row, name))


def second(name: str, size: int, start: Path) -> Comparison:
    """Of the two stages."""
    predecessors = {before: load_network(start / before)[0] for before in PREDECESSORS[name]}

    def make(seed: int, step: int, split: str) -> Batch:
        return make_batch(name, seed, step, size, split, predecessors=predecessors)

    return Comparison(second_variants(name, start), make, partial(second_row, name))
