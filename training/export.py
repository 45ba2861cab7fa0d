"""Write trained networks as ONNX, with their manifest and model card: `python -m training export`."""

from __future__ import annotations

import argparse
import hashlib
import json
import logging
import warnings
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch
from numpy.typing import NDArray
from torch import nn

from casa_deepfocus.core import preprocessing
from casa_deepfocus.core.preprocessing import PLANES
from casa_deepfocus.errors import ModelError, ParameterError
from casa_deepfocus.models.manifest import FORMAT, OUTPUTS, PREPROCESSING, VERSION, input_shape
from training import validate
from training.card import model_card
from training.checkpoint import load_network, read_checkpoint
from training.data import make_batch
from training.networks import NETWORKS, CompactBlobsFinder, parameter_count
from training.paperexport import export_paper

log = logging.getLogger("training")

OPSET = 17
IR_VERSION = 8
"""Readable by every onnxruntime since 1.12."""

PARITY = 1e-5
"""Largest allowed difference of torch and onnxruntime, on outputs of order 1."""

FACTS = ("steps", "batch", "minutes", "before", "seed", "stage", "commit", "validation_loss")
"""What the manifest says of a network's training."""

PRECISION = 0.8
"""The thresholds are the lowest at which the network alone is this precise on validation data (Blobs Finder: on
quiet maps). What is false then, the pipeline's SNR, spectra and reliability have to reject."""


def to_onnx(name: str, network: nn.Module, path: Path) -> None:
    """Write one compact network with free batch and, where the contract has them, free lengths."""
    wanted = input_shape(name, PLANES)
    shape = [{"batch": 2, "height": 64, "width": 96, "nchan": 40}.get(n, n) for n in wanted]
    axes = {
        kind: {i: word for i, word in enumerate(words) if isinstance(word, str)}
        for kind, words in (("input", wanted), ("output", OUTPUTS[name]))
    }
    with warnings.catch_warnings():
        # The tracing exporter keeps the GRU one node with a free number of channels.
        warnings.simplefilter("ignore")
        torch.onnx.export(
            network.eval().to(memory_format=torch.contiguous_format), (torch.randn(shape),), path,
            input_names=["input"], output_names=["output"], dynamic_axes=axes, opset_version=OPSET, dynamo=False,
        )  # fmt: skip
    graph = onnx.load(path)
    graph.ir_version = IR_VERSION
    graph.producer_name = "casa_deepfocus"
    graph.doc_string = f"casa_deepfocus {name}; input: core.preprocessing.{PREPROCESSING[name]}; BSD-3-Clause"
    onnx.checker.check_model(graph)
    onnx.save(graph, path)


def session(path: Path) -> validate.Predict:
    """A file as a function of numpy arrays, on one CPU thread."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    found = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])

    def predict(inputs: NDArray[np.float32]) -> NDArray[np.float32]:
        return found.run(None, {"input": np.ascontiguousarray(inputs)})[0]

    return predict


def parity(name: str, network: nn.Module, predict: validate.Predict) -> float:
    """Largest difference of torch and onnxruntime, on random and on realistic inputs of several sizes."""
    generator = torch.Generator().manual_seed(5)
    inputs = [make_batch(name, validate.SEED, 0, 8, "val").inputs]
    for size in (1, 3):
        lengths = {"batch": size, "height": 32 * size, "width": 80, "nchan": 37 * size}
        shape = [lengths.get(n, n) for n in input_shape(name, PLANES)]
        inputs.append(torch.randn(shape, generator=generator))
    with torch.no_grad():
        return max(float(np.abs(network(x).numpy() - predict(x.numpy())).max()) for x in inputs)


def preset_of(run: Path) -> str:
    """The preset of all networks of a training run.

    Raises
    ------
    ParameterError
        They are of several presets.
    DataError
        One is missing.
    """
    first = read_checkpoint(run / "blobs_finder")["deepfocus"]["config"]["preset"]
    names = ("blobs_finder",) if first == "decoras" else NETWORKS
    presets = {read_checkpoint(run / name)["deepfocus"]["config"]["preset"] for name in names}
    if len(presets) > 1:
        problem = f"its networks are of presets {', '.join(sorted(presets))}"
        raise ParameterError("run", run, problem, "Train all networks of one preset into one folder")
    return first


def export(run: Path, out: Path, *, batches: int = 20) -> dict[str, Any]:
    """Export all networks of a training run and measure them; those of the paper by `export_paper`.

    Parameters
    ----------
    run : Path, the folder that `training train` wrote
    out : Path, receives the .onnx files, manifest.json and MODEL_CARD.md
    batches : int, validation batches per network

    Returns
    -------
    dict, the manifest

    Raises
    ------
    ModelError
        torch and onnxruntime differ by more than `PARITY`.
    """
    preset = preset_of(run)
    if preset != "compact":
        return export_paper(run, out, preset, batches=batches)
    out.mkdir(parents=True, exist_ok=True)
    loaded = {name: load_network(run / name) for name in NETWORKS}
    entries: dict[str, Any] = {}
    for name, (network, facts) in loaded.items():
        path = out / f"{name}.onnx"
        to_onnx(name, network, path)
        predict = session(path)
        difference = parity(name, network, predict)
        if difference > PARITY:
            raise ModelError(f"{path}: torch and onnxruntime differ by {difference:.1e}; at most {PARITY} is allowed")
        entries[name] = {
            "file": path.name,
            "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
            "bytes": path.stat().st_size,
            "input": {"name": "input", "shape": list(input_shape(name, PLANES))},
            "output": {"name": "output", "shape": list(OUTPUTS[name])},
            "preprocessing": PREPROCESSING[name],
            **({"planes": list(PLANES)} if name == "blobs_finder" else {}),
            "parameters": parameter_count(network),
            "training": {k: facts[k] for k in FACTS if k in facts},
            "parity": difference,
            "scores": validate.scores(name, predict, batches=batches),
        }
        log.info("%s: %d parameters, %d bytes, parity %.1e, %s", name, entries[name]["parameters"],
                 entries[name]["bytes"], difference, json.dumps(entries[name]["scores"]))  # fmt: skip
    chosen = {
        name: validate.choose_threshold(entries[name]["scores"][kind], PRECISION)
        for name, kind in (("blobs_finder", "quiet"), ("deep_gru", "levels"))
    }
    first = loaded["blobs_finder"][1]
    manifest = {
        "format": FORMAT,
        "version": VERSION,
        "preset": first["preset"],
        "licence": "BSD-3-Clause",
        "created": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "commit": first["commit"],
        "opset": OPSET,
        "pixels_per_beam": preprocessing.PIXELS_PER_BEAM,
        "halo": CompactBlobsFinder.HALO,
        "stamp": preprocessing.STAMP,
        "target_smoothing": preprocessing.TARGET_SMOOTHING,
        "thresholds": {"probability": chosen["blobs_finder"], "peak": chosen["deep_gru"]},
        "validation_seed": validate.SEED,
        "networks": entries,
    }
    (out / "manifest.json").write_text(json.dumps(manifest, indent=1) + "\n", encoding="utf-8")
    (out / "MODEL_CARD.md").write_text(model_card(manifest), encoding="utf-8")
    return manifest


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `python -m training export`."""
    parser.add_argument("--run", type=Path, default=Path("runs/compact"))
    parser.add_argument("--out", type=Path, default=Path("casa_deepfocus/models/compact"))
    parser.add_argument("--batches", type=int, default=20, help="validation batches per network")
    parser.add_argument("--threads", type=int, default=0, help="CPU threads of torch; 0: torch's choice")


def run(args: argparse.Namespace) -> int:
    """`python -m training export`."""
    if args.threads:
        torch.set_num_threads(args.threads)
    manifest = export(args.run, args.out, batches=args.batches)
    log.info("thresholds %s, %.2f MB", manifest["thresholds"],
             sum(entry["bytes"] for entry in manifest["networks"].values()) / 1e6)  # fmt: skip
    return 0
