"""Train the networks: `python -m training train`. Running it again continues where it stopped.

A budget (minutes or steps per network) sets the schedule, so that two CPU cores and a GPU run the same command.
Preset `compact`: AdamW, warm-up, then a cosine to `final_lr`. Presets `paper` and `decoras`: Adam, a warm-up over
ten iterations to a constant rate, eq. 20 over the budget; `--quick`: a schedule that learns on two cores in hours
(docs/training.md). What is exported is the moving average of the weights.

`--stage 2 --from RUN` trains each network but the first on what its predecessors of RUN predict (section 4.5).
"""

from __future__ import annotations

import argparse
import json
import logging
import math
import os
import shutil
import subprocess
import time
import warnings
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import lightning
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel
from torch.utils.data import DataLoader, IterableDataset

from casa_deepfocus.errors import ParameterError
from training import losses
from training.checkpoint import CHECKPOINT, averaged_weights, load_network, read_checkpoint
from training.data import KEPT, kept_batch, make_batch
from training.networks import NETWORKS, PRESETS, RESNETS, build

log = logging.getLogger("training")

BATCH = {"blobs_finder": 16, "deep_gru": 64, "fwhm_maj": 128, "fwhm_min": 128, "pa": 128, "flux": 128}
PAPER_BATCH = {"blobs_finder": 8, "deep_gru": 64, "fwhm_maj": 64, "fwhm_min": 64, "pa": 64, "flux": 64}
LEARNING_RATE = {
    "blobs_finder": 3e-3, "deep_gru": 4e-3, "fwhm_maj": 3e-3, "fwhm_min": 3e-3, "pa": 3e-3, "flux": 3e-3
}  # fmt: skip
PAPER_LEARNING_RATE = 1e-4
QUICK_EXAMPLES = 6400
"""Stamps of the quick schedule's ResNets: the paper has 13512 sources to train on."""

QUICK_LEARNING_RATE = {"blobs_finder": 3e-3, "deep_gru": 1e-3, **{name: 2e-3 for name in RESNETS}}
PAPER_WARMUP = 10
QUICK_ENTROPY = {"blobs_finder": 1.0, "deep_gru": 0.5}
"""Part of the budget over which the quick schedule hands over from the cross entropy to the paper's loss."""

STAGE2_LEARNING_RATE = 0.2
"""The compact preset's second stage continues at this part of the first one's rate."""

PREDECESSORS = {
    "deep_gru": ("blobs_finder",),
    **{name: ("blobs_finder", "deep_gru") for name in ("fwhm_maj", "fwhm_min", "pa")},
    "flux": ("blobs_finder", "deep_gru", "fwhm_maj", "fwhm_min", "pa"),
}
"""Whose predictions a network's data are made of in the second stage."""

STAGES = (1, 2)


@dataclass(frozen=True)
class Config:
    """Everything that one network's training depends on; written beside its weights.

    `minutes` and `steps` are budgets over all runs together (0: no limit; one of them must be given). `start` is
    the run whose weights training starts from, and whose predictions the second stage sees. `batch` is that of one
    device; `devices` and `strategy` are Lightning's. `quick`: the schedule of `compact` for the paper's networks;
    `examples`: so many that come again and again, all of them kept (0: none comes twice);
    `local`: the bottleneck of an autoencoder is held local.
    """

    network: str
    preset: str = "compact"
    seed: int = 1
    minutes: float = 0.0
    steps: int = 0
    batch: int = 16
    learning_rate: float = 2e-3
    final_lr: float = 0.02
    warmup: int = 100
    weight_decay: float = 1e-4
    average: float = 0.995
    validate_every: int = 200
    validation_batches: int = 6
    patience: int = 10
    device: str = "auto"
    devices: int = 1
    strategy: str = "auto"
    stage: int = 1
    quick: bool = False
    examples: int = 0
    local: bool = False
    start: str = ""
    commit: str = ""


class Steps(IterableDataset):
    """Counts; the batches themselves are made on the device that trains."""

    def __init__(self, stop: int | None = None) -> None:
        self.stop = stop

    def __iter__(self) -> Iterator[int]:
        step = 0
        while self.stop is None or step < self.stop:
            yield step
            step += 1


class Training(lightning.LightningModule):
    """One network, its moving average, its schedule and its stopping rule.

    Parameters
    ----------
    config : Config
    folder : Path, of the network
    stop_at : float [minute, all runs together], pause there; 0: at the end of the budget
    """

    def __init__(self, config: Config, folder: Path, *, stop_at: float = 0.0) -> None:
        super().__init__()
        self.config = config
        self.folder = folder
        torch.manual_seed(config.seed)
        self.network = build(config.network, config.preset, local=config.local).to(memory_format=torch.channels_last)
        self.average = AveragedModel(self.network, avg_fn=self._follow, use_buffers=True).requires_grad_(False)
        self.elapsed = 0.0
        self.history: list[float] = []
        self.bad_checks = 0
        self.paper = config.preset != "compact"
        # Not a module of ours: their weights are neither trained nor saved.
        self._predecessors: dict[str, nn.Module] | None = None
        self._stop_at = stop_at
        self._clock = 0.0
        self._losses: list[float] = []
        self._validation: list[float] = []

    def start_from(self, folder: Path) -> None:
        """Take over the averaged weights of another run."""
        weights = averaged_weights(read_checkpoint(folder))
        if self.paper and self.config.network == "blobs_finder" and not self.config.local:
            weights = self.network.widened(weights)
        self.network.load_state_dict(weights)
        self.average.module.load_state_dict(weights)

    def _follow(self, averaged: Tensor, current: Tensor, count: Tensor | int) -> Tensor:
        # A moving average that forgets the first steps quickly.
        decay = min(self.config.average, (1.0 + int(count)) / (10.0 + int(count)))
        return averaged * decay + current * (1.0 - decay)

    def predecessors(self) -> dict[str, nn.Module] | None:
        """The networks before this one, in the second stage: its own run's where there are some, else the first's."""
        c = self.config
        if c.stage == 1:
            return None
        if self._predecessors is None:
            self._predecessors = {}
            for name in PREDECESSORS[c.network]:
                own = self.folder.parent / name
                folder = own if (own / CHECKPOINT).exists() else Path(c.start) / name
                self._predecessors[name] = load_network(folder, str(self.device))[0]
        return self._predecessors

    def loss(self, network: nn.Module, step: int, split: str) -> Tensor:
        """Loss of one batch."""
        c = self.config
        if c.examples and split == "train":
            step %= max(c.examples // c.batch, 1)
            batch = kept_batch(c.network, c.seed, step, c.batch, str(self.device), c.preset)
        else:
            batch = make_batch(
                c.network, c.seed, step, c.batch, split, str(self.device), preset=c.preset,
                predecessors=self.predecessors(),
            )  # fmt: skip
        inputs = batch.inputs
        if inputs.ndim == 4:
            inputs = inputs.contiguous(memory_format=torch.channels_last)
        if self.paper and c.network in RESNETS:
            return losses.weighted_l1(network(inputs), batch.target, batch.weight)
        if self.paper:
            return self._paper_loss(network.logits(inputs), batch.target)
        if c.network in RESNETS:
            return losses.weighted_smooth_l1(network(inputs), batch.target, batch.weight)
        return losses.weighted_bce(network.logits(inputs), batch.target, batch.weight)

    def _paper_loss(self, logits: Tensor, target: Tensor) -> Tensor:
        """The paper's losses of probabilities; the quick schedule starts each with the cross entropy."""
        c, found = self.config, torch.sigmoid(logits)
        if c.preset == "decoras":
            final = losses.msle(found, target)
        elif c.network == "deep_gru":
            final = losses.l1(found, target)
        elif not c.quick:
            return losses.paper_blobs_finder(found, target, self.progress)
        else:
            final = losses.dssim(found, target)
        if not c.quick:
            return final
        return losses.from_entropy(logits, target, final, self.progress / QUICK_ENTROPY[c.network])

    @property
    def progress(self) -> float:
        """Part of the budget that is spent, 0 to 1."""
        c = self.config
        spent = [self.elapsed / (60.0 * c.minutes)] if c.minutes > 0 else []
        spent += [self.global_step / c.steps] if c.steps > 0 else []
        return min(max(spent), 1.0)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        c = self.config
        if self.paper:
            decay = 1e-5 if c.network == "deep_gru" else 0.0
            # Fused: a step of 34 million parameters is a pass over the memory, not ten.
            return torch.optim.Adam(self.network.parameters(), lr=c.learning_rate, weight_decay=decay, fused=True)
        return torch.optim.AdamW(self.network.parameters(), lr=c.learning_rate, weight_decay=c.weight_decay)

    def on_train_start(self) -> None:
        self._clock = time.monotonic()

    def on_train_batch_start(self, batch: Tensor, batch_idx: int) -> int | None:
        if self.progress >= 1.0 or 0.0 < 60.0 * self._stop_at <= self.elapsed:
            self.trainer.should_stop = True
            return -1
        c = self.config
        rate = c.learning_rate * min(1.0, (self.global_step + 1) / c.warmup)
        if not self.paper or c.quick:
            rate *= c.final_lr + (1.0 - c.final_lr) * 0.5 * (1.0 + math.cos(math.pi * self.progress))
        for group in self.optimizers().param_groups:
            group["lr"] = rate
        return None

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        # Every process makes examples of its own.
        step = self.global_step * self.trainer.world_size + self.trainer.global_rank
        loss = self.loss(self.network, step, "train")
        self._losses.append(float(loss.detach()))
        return loss

    def on_train_batch_end(self, outputs: object, batch: Tensor, batch_idx: int) -> None:
        self.average.update_parameters(self.network)
        now = time.monotonic()
        # The clock decides when to stop, so all processes read the first one's.
        self.elapsed = self._shared(self.elapsed + now - self._clock)
        self._clock = now

    def _shared(self, value: float) -> float:
        """The value of the first process."""
        return value if self.trainer.world_size == 1 else float(self.trainer.strategy.broadcast(value))

    def validation_step(self, batch: Tensor, batch_idx: int) -> None:
        # Only what the exported network would do counts, so the average is validated.
        self._validation.append(float(self.loss(self.average.module, batch_idx, "val")))

    def on_validation_epoch_end(self) -> None:
        if self.trainer.sanity_checking or not self._validation:
            return
        value = self._shared(sum(self._validation) / len(self._validation))
        recent = self.history[-10:]
        # The paper's rule (section 4.5); under the cosine it waits for the schedule's second half.
        worse = bool(recent) and value >= sum(recent) / len(recent)
        constant = self.paper and not self.config.quick
        self.bad_checks = self.bad_checks + 1 if worse and (constant or self.progress > 0.5) else 0
        self.history.append(value)
        train = sum(self._losses) / max(len(self._losses), 1)
        row = {
            "step": self.global_step, "minutes": round(self.elapsed / 60.0, 3), "train": train, "validation": value,
            "learning_rate": self.optimizers().param_groups[0]["lr"],
        }  # fmt: skip
        if self.trainer.is_global_zero:
            with (self.folder / "history.jsonl").open("a") as file:
                file.write(json.dumps(row) + "\n")
            log.info("%s %s", self.config.network, row)
        if self.logger is not None:
            self.logger.log_metrics({"train": train, "validation": value}, step=self.global_step)
        self._losses.clear()
        self._validation.clear()
        if self.bad_checks >= self.config.patience:
            self.trainer.should_stop = True
        self.save()

    def save(self) -> None:
        """Write the checkpoint whole or not at all."""
        part = self.folder / (CHECKPOINT + ".part")
        self.trainer.save_checkpoint(part)
        if self.trainer.is_global_zero:
            os.replace(part, self.folder / CHECKPOINT)

    def on_save_checkpoint(self, checkpoint: dict) -> None:
        checkpoint["deepfocus"] = {
            "elapsed": self.elapsed, "history": self.history, "bad_checks": self.bad_checks,
            "config": asdict(self.config),
        }  # fmt: skip

    def on_load_checkpoint(self, checkpoint: dict) -> None:
        state = checkpoint["deepfocus"]
        self.elapsed, self.history = state["elapsed"], list(state["history"])
        self.bad_checks = 0


def git_commit() -> str:
    """The commit of the working tree, or '' outside of a repository."""
    try:
        done = subprocess.run(
            ["git", "rev-parse", "HEAD"], cwd=Path(__file__).parent, capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return ""
    return done.stdout.strip()


def choose_device(device: str) -> str:
    """'cpu' or 'cuda'; 'auto' takes the GPU where there is one."""
    if device not in ("auto", "cpu", "cuda"):
        raise ParameterError("device", device, "no such device", "Choose auto, cpu or cuda")
    if device == "cuda" and not torch.cuda.is_available():
        raise ParameterError("device", device, "torch finds no CUDA device here", "Use device='cpu'")
    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    return device


def configure(
    network: str, preset: str = "compact", *, stage: int = 1, quick: bool = False, **options: Any
) -> Config:
    """A network's settings under a preset; `options` are other fields of `Config`.

    Batch and learning rate 0 are the preset's own.
    """
    compact = preset == "compact"
    rate = LEARNING_RATE[network] if compact else QUICK_LEARNING_RATE[network] if quick else PAPER_LEARNING_RATE
    if stage == 2 and (compact or quick):
        rate *= STAGE2_LEARNING_RATE
    rate = options.pop("learning_rate", 0.0) or rate
    batch = options.pop("batch", 0) or (BATCH if compact else PAPER_BATCH)[network]
    defaults: dict[str, Any] = {} if compact or quick else {"warmup": PAPER_WARMUP}
    if quick and stage == 1 and network in RESNETS:
        defaults["examples"] = min(QUICK_EXAMPLES, KEPT * batch)
    return Config(
        network=network, preset=preset, stage=stage, batch=batch, learning_rate=rate, commit=git_commit(), quick=quick,
        **{**defaults, **options},
    )  # fmt: skip


def check(config: Config) -> None:
    """Refuse what cannot be trained.

    Raises
    ------
    ParameterError
    """
    c = config
    if c.preset not in PRESETS:
        raise ParameterError("preset", c.preset, "no such preset", f"Choose one of {', '.join(PRESETS)}")
    if c.stage not in STAGES:
        raise ParameterError("stage", c.stage, "no such stage", "Choose 1 (true sources) or 2 (predictions)")
    if c.stage == 2 and not c.start:
        raise ParameterError("from", c.start, "the second stage starts from the first", "Give its folder: --from RUN")
    if c.stage == 2 and c.network not in PREDECESSORS:
        raise ParameterError("networks", c.network, "it is the first of the pipeline and has no second stage")
    if not (c.minutes > 0 or c.steps > 0):
        raise ParameterError("minutes", c.minutes, "a budget is needed", "Give --minutes or --steps above 0")
    if c.local and (c.preset == "compact" or c.network != "blobs_finder"):
        raise ParameterError("local", c.local, "only the autoencoders of 'paper' and 'decoras' have a bottleneck")
    if c.examples and (c.stage == 2 or c.examples > KEPT * c.batch):
        raise ParameterError("examples", c.examples, f"at most {KEPT} batches are kept, and none of the second stage")
    if c.devices < 1:
        raise ParameterError("devices", c.devices, "must be at least 1")


def train(config: Config, out: Path, *, tensorboard: bool = False, stop_at: float = 0.0) -> Path:
    """Train one network, or continue it.

    Parameters
    ----------
    config : Config
    out : Path
        The checkpoint, history.jsonl and config.json go to `out/<network>/`.
    tensorboard : bool
        Also write TensorBoard's event files there.
    stop_at : float [minute, all runs together]
        Pause there, in the middle of the schedule; the next run continues it. 0: when the budget is spent.

    Returns
    -------
    Path of the checkpoint
    """
    check(config)
    folder = out / config.network
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(asdict(config), indent=1) + "\n")
    device = choose_device(config.device)
    torch.set_flush_denormal(True)
    module = Training(config, folder, stop_at=stop_at)
    logger = False
    if tensorboard:
        from lightning.pytorch.loggers import TensorBoardLogger

        logger = TensorBoardLogger(folder, name="tensorboard")
    last = folder / CHECKPOINT
    if config.start and not last.exists():
        module.start_from(Path(config.start) / config.network)
    with warnings.catch_warnings():
        # Counting needs no workers, and the count is the trainer's own, so nothing is lost on resuming.
        for message in (".*does not have many workers.*", ".*not resumable.*", ".*`srun` command.*"):
            warnings.filterwarnings("ignore", message=message)
        trainer = lightning.Trainer(
            accelerator="gpu" if device == "cuda" else "cpu", devices=config.devices, strategy=config.strategy,
            max_epochs=-1, logger=logger, enable_checkpointing=False, enable_progress_bar=False,
            enable_model_summary=False, val_check_interval=config.validate_every, check_val_every_n_epoch=None,
            num_sanity_val_steps=0, gradient_clip_val=1.0, sync_batchnorm=config.devices > 1 and device == "cuda",
            use_distributed_sampler=False,
        )  # fmt: skip
        trainer.fit(
            module,
            DataLoader(Steps(), batch_size=None),
            DataLoader(Steps(config.validation_batches), batch_size=None),
            ckpt_path=last if last.exists() else None,
        )
    if module.global_step:
        module.save()
    return last


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `python -m training train`."""
    parser.add_argument("--preset", default="compact", help=", ".join(PRESETS))
    parser.add_argument("--networks", default="all", help="'all', or names separated by commas")
    parser.add_argument("--stage", type=int, default=1, help="1: on true sources; 2: on the predecessors' predictions")
    parser.add_argument("--from", dest="start", default="", help="run to start from; of the first stage for stage 2")
    parser.add_argument("--minutes", type=float, default=0.0, help="budget of each network, earlier runs included")
    parser.add_argument("--steps", type=int, default=0, help="the same in steps")
    parser.add_argument("--stop-at", type=float, default=0.0, help="pause when so many minutes are spent on a network")
    parser.add_argument("--out", type=Path, default=Path("runs/compact"))
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--batch", type=int, default=0, help="examples per step and device; 0: the network's own")
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda")
    parser.add_argument("--devices", type=int, default=1, help="how many of them, each on a batch of its own")
    parser.add_argument("--strategy", default="auto", help="Lightning's, e.g. ddp")
    parser.add_argument("--threads", type=int, default=0, help="CPU threads; 0: torch's choice")
    parser.add_argument("--quick", action="store_true", help="paper, decoras: few steps, a high rate that falls")
    parser.add_argument("--local", action="store_true", help="paper, decoras: Blobs Finder's bottleneck held local")
    parser.add_argument("--examples", type=int, default=-1, help="that come again; 0: none, -1: the schedule's own")
    parser.add_argument("--learning-rate", type=float, default=0.0, help="highest; 0: the preset's own")
    parser.add_argument("--tensorboard", action="store_true")


def names_of(text: str, preset: str, stage: int) -> list[str]:
    """Networks that the command line names; 'all' are those that the preset has and the stage trains."""
    if text == "all":
        names = ["blobs_finder"] if preset == "decoras" else list(NETWORKS)
        return [name for name in names if stage == 1 or name in PREDECESSORS]
    for name in text.split(","):
        if name not in NETWORKS:
            raise ParameterError("networks", name, "no such network", f"Choose from {', '.join(NETWORKS)}")
    return text.split(",")


def run(args: argparse.Namespace) -> int:
    """`python -m training train`."""
    if args.threads:
        torch.set_num_threads(args.threads)
    for name in names_of(args.networks, args.preset, args.stage):
        config = configure(
            name, args.preset, stage=args.stage, start=args.start, seed=args.seed, minutes=args.minutes,
            steps=args.steps, batch=args.batch, device=args.device, devices=args.devices, strategy=args.strategy,
            quick=args.quick, local=args.local, learning_rate=args.learning_rate,
            **({} if args.examples < 0 else {"examples": args.examples}),
        )  # fmt: skip
        train(config, args.out, tensorboard=args.tensorboard, stop_at=args.stop_at)
    if args.stage == 2:
        keep_first(Path(args.start), args.out)
    return 0


def keep_first(start: Path, out: Path) -> None:
    """Blobs Finder has no second stage: copy its first one, so that a run holds all six networks."""
    source, target = start / "blobs_finder", out / "blobs_finder"
    if not (target / CHECKPOINT).exists():
        shutil.copytree(source, target, dirs_exist_ok=True)
