"""Train the networks: `python -m training train`. Running it again continues where it stopped.

A budget (minutes or steps per network) sets the schedule: warm-up, then a cosine to `final_lr`, so that
two CPU cores and a GPU run the same command. What is exported is the moving average of the weights.
"""

from __future__ import annotations

import argparse
import json
import logging
import math
import os
import subprocess
import time
import warnings
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import lightning
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel
from torch.utils.data import DataLoader, IterableDataset

from casa_deepfocus.errors import DataError, ParameterError
from training import losses
from training.data import make_batch
from training.networks import NETWORKS, RESNETS, build

log = logging.getLogger("training")

BATCH = {"blobs_finder": 16, "deep_gru": 64, "fwhm_maj": 128, "fwhm_min": 128, "pa": 128, "flux": 128}
LEARNING_RATE = {
    "blobs_finder": 3e-3, "deep_gru": 4e-3, "fwhm_maj": 3e-3, "fwhm_min": 3e-3, "pa": 3e-3, "flux": 3e-3
}  # fmt: skip
CHECKPOINT = "last.ckpt"


@dataclass(frozen=True)
class Config:
    """Everything that one network's training depends on; written beside its weights.

    `minutes` and `steps` are budgets over all runs together (0: no limit; one of them must be given). `start` is
    the run whose weights training starts from.
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
    """One network, its moving average, its schedule and its stopping rule."""

    def __init__(self, config: Config, folder: Path) -> None:
        super().__init__()
        self.config = config
        self.folder = folder
        torch.manual_seed(config.seed)
        self.network = build(config.network, config.preset).to(memory_format=torch.channels_last)
        self.average = AveragedModel(self.network, avg_fn=self._follow, use_buffers=True)
        self.elapsed = 0.0
        self.history: list[float] = []
        self.bad_checks = 0
        self._clock = 0.0
        self._losses: list[float] = []
        self._validation: list[float] = []

    def start_from(self, folder: Path) -> None:
        """Take over the averaged weights of another run."""
        path = folder / CHECKPOINT
        if not path.exists():
            raise DataError(f"{path} does not exist; train first: python -m training train --out {folder.parent}")
        state = torch.load(path, map_location="cpu", weights_only=True)["state_dict"]
        prefix = "average.module."
        weights = {key[len(prefix) :]: value for key, value in state.items() if key.startswith(prefix)}
        self.network.load_state_dict(weights)
        self.average.module.load_state_dict(weights)

    def _follow(self, averaged: Tensor, current: Tensor, count: Tensor | int) -> Tensor:
        # A moving average that forgets the first steps quickly.
        decay = min(self.config.average, (1.0 + int(count)) / (10.0 + int(count)))
        return averaged * decay + current * (1.0 - decay)

    def loss(self, network: nn.Module, step: int, split: str) -> Tensor:
        """Loss of one batch."""
        c = self.config
        batch = make_batch(c.network, c.seed, step, c.batch, split, str(self.device))
        inputs = batch.inputs
        if inputs.ndim == 4:
            inputs = inputs.contiguous(memory_format=torch.channels_last)
        if c.network in RESNETS:
            return losses.weighted_smooth_l1(network(inputs), batch.target, batch.weight)
        return losses.weighted_bce(network.logits(inputs), batch.target, batch.weight)

    @property
    def progress(self) -> float:
        """Part of the budget that is spent, 0 to 1."""
        c = self.config
        spent = [self.elapsed / (60.0 * c.minutes)] if c.minutes > 0 else []
        spent += [self.global_step / c.steps] if c.steps > 0 else []
        return min(max(spent), 1.0)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        c = self.config
        return torch.optim.AdamW(self.network.parameters(), lr=c.learning_rate, weight_decay=c.weight_decay)

    def on_train_start(self) -> None:
        self._clock = time.monotonic()

    def on_train_batch_start(self, batch: Tensor, batch_idx: int) -> int | None:
        if self.progress >= 1.0:
            self.trainer.should_stop = True
            return -1
        c = self.config
        cosine = c.final_lr + (1.0 - c.final_lr) * 0.5 * (1.0 + math.cos(math.pi * self.progress))
        for group in self.optimizers().param_groups:
            group["lr"] = c.learning_rate * cosine * min(1.0, (self.global_step + 1) / c.warmup)
        return None

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        loss = self.loss(self.network, self.global_step, "train")
        self._losses.append(float(loss.detach()))
        return loss

    def on_train_batch_end(self, outputs: object, batch: Tensor, batch_idx: int) -> None:
        self.average.update_parameters(self.network)
        now = time.monotonic()
        self.elapsed += now - self._clock
        self._clock = now

    def validation_step(self, batch: Tensor, batch_idx: int) -> None:
        # Only what the exported network would do counts, so the average is validated.
        self._validation.append(float(self.loss(self.average.module, batch_idx, "val")))

    def on_validation_epoch_end(self) -> None:
        if self.trainer.sanity_checking or not self._validation:
            return
        value = sum(self._validation) / len(self._validation)
        recent = self.history[-10:]
        # The paper's rule (section 4.5), which waits for the schedule's second half.
        worse = bool(recent) and value >= sum(recent) / len(recent)
        self.bad_checks = self.bad_checks + 1 if worse and self.progress > 0.5 else 0
        self.history.append(value)
        train = sum(self._losses) / max(len(self._losses), 1)
        row = {
            "step": self.global_step, "minutes": round(self.elapsed / 60.0, 3), "train": train, "validation": value,
            "learning_rate": self.optimizers().param_groups[0]["lr"],
        }  # fmt: skip
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


def train(config: Config, out: Path, *, tensorboard: bool = False) -> Path:
    """Train one network, or continue it.

    Parameters
    ----------
    config : Config
    out : Path
        The checkpoint, history.jsonl and config.json go to `out/<network>/`.
    tensorboard : bool
        Also write TensorBoard's event files there.

    Returns
    -------
    Path of the checkpoint
    """
    if config.preset != "compact":
        raise ParameterError(
            "preset", config.preset, "only preset 'compact' can be trained so far", "Use preset 'compact'"
        )
    if not (config.minutes > 0 or config.steps > 0):
        raise ParameterError("minutes", config.minutes, "a budget is needed", "Give --minutes or --steps above 0")
    folder = out / config.network
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(asdict(config), indent=1) + "\n")
    device = choose_device(config.device)
    torch.set_flush_denormal(True)
    module = Training(config, folder)
    logger = False
    if tensorboard:
        from lightning.pytorch.loggers import TensorBoardLogger

        logger = TensorBoardLogger(folder, name="tensorboard")
    last = folder / CHECKPOINT
    if config.start and not last.exists():
        module.start_from(Path(config.start) / config.network)
    with warnings.catch_warnings():
        # Counting needs no workers, and the count is the trainer's own, so nothing is lost on resuming.
        warnings.filterwarnings("ignore", message=".*does not have many workers.*")
        warnings.filterwarnings("ignore", message=".*not resumable.*")
        warnings.filterwarnings("ignore", message=".*`srun` command.*")
        trainer = lightning.Trainer(
            accelerator="gpu" if device == "cuda" else "cpu", devices=1, max_epochs=-1, logger=logger,
            enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
            val_check_interval=config.validate_every, check_val_every_n_epoch=None, num_sanity_val_steps=0,
            gradient_clip_val=1.0,
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
    parser.add_argument("--preset", default="compact")
    parser.add_argument("--networks", default="all", help="'all', or names separated by commas")
    parser.add_argument("--minutes", type=float, default=0.0, help="budget of each network, earlier runs included")
    parser.add_argument("--steps", type=int, default=0, help="the same in steps")
    parser.add_argument("--out", type=Path, default=Path("runs/compact"))
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--batch", type=int, default=0, help="examples per step; 0: the network's own")
    parser.add_argument("--from", dest="start", default="", help="run whose weights training starts from")
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda")
    parser.add_argument("--threads", type=int, default=0, help="CPU threads; 0: torch's choice")
    parser.add_argument("--tensorboard", action="store_true")


def run(args: argparse.Namespace) -> int:
    """`python -m training train`."""
    names = list(NETWORKS) if args.networks == "all" else args.networks.split(",")
    for name in names:
        if name not in NETWORKS:
            raise ParameterError("networks", name, "no such network", f"Choose from {', '.join(NETWORKS)}")
    if args.threads:
        torch.set_num_threads(args.threads)
    for name in names:
        config = Config(
            network=name, preset=args.preset, seed=args.seed, minutes=args.minutes, steps=args.steps,
            batch=args.batch or BATCH[name], learning_rate=LEARNING_RATE[name], device=args.device,
            start=args.start, commit=git_commit(),
        )  # fmt: skip
        train(config, args.out, tensorboard=args.tensorboard)
    return 0
