"""The paper's networks as ONNX files small enough to keep, with their scores, loss curves and model card.

33.8 million numbers of 4 bytes are too many for a repository: large matrices are kept in 8 bits with a scale per
row, the rest in 16 bits, and onnxruntime makes single precision of them when it loads. The scores are those of the
files.
"""

from __future__ import annotations

import hashlib
import json
import logging
import warnings
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from skimage.measure import label, regionprops
from torch import nn

from casa_deepfocus.core import preprocessing
from casa_deepfocus.errors import ModelError
from casa_deepfocus.models.manifest import FLOWS, FORMAT, VERSION, input_shape
from training import validate
from training.checkpoint import load_network
from training.curves import draw_curves
from training.data import make_batch
from training.losses import ssim
from training.networks import RESNETS, parameter_count

log = logging.getLogger("training")

OPSET = 17
IR_VERSION = 8

LEVELS = (0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.6)
"""Thresholds at which Blobs Finder and Deep GRU are scored."""

THRESHOLDS = {"probability": 0.15, "peak": 0.1}
"""The paper's. Each alone has its best F1 at 0.3, but what is false at these the decision graph rejects: of 115 sources
90 are found in the paper's protocol, and 85 with 0.3 and 0.3 (24 fields of seed 91)."""

SAME_PLACE = 3.0
"""[pixel] Distance within which a blob is a source's (section 5.1)."""

HALF = 2**10
"""Weights from this number of values on are kept in 16 bits."""

BYTE = 2**22
"""And from this number on in 8."""

PARITY = 1e-5
"""Largest difference of torch and onnxruntime before rounding."""

ROUNDING = 0.05
"""Largest difference that the rounding may make, on outputs of order 1; the scores say what it does."""

FACTS = (
    "steps", "batch", "minutes", "before", "seed", "stage", "quick", "local", "learning_rate", "commit",
    "validation_loss",
)  # fmt: skip


def export_paper(run: Path, out: Path, preset: str, *, batches: int = 20) -> dict[str, Any]:
    """Export the networks of preset 'paper' or 'decoras' and measure them.

    Parameters
    ----------
    run : Path, the folder that `training train` wrote
    out : Path, receives the .onnx files, manifest.json, MODEL_CARD.md and LOSS.png
    preset : str, also the flow
    batches : int, validation batches per network

    Returns
    -------
    dict, the manifest

    Raises
    ------
    ModelError
        torch and onnxruntime differ by more than `PARITY`, or the rounded weights by more than `ROUNDING`.
    """
    from training.export import session

    out.mkdir(parents=True, exist_ok=True)
    contract = FLOWS[preset]
    entries: dict[str, Any] = {}
    for name in contract.inputs:
        # What was learnt: full layers that do what two convolutions do would be 33 MB of zeros and repetitions.
        network, facts = load_network(run / name, widen=False)
        path = out / f"{name}.onnx"
        _to_onnx(name, network, path, preset)
        data = make_batch(name, validate.SEED, 0, 4, "val", preset=preset)
        with torch.no_grad():
            wanted = network(data.inputs).numpy()
        exact = float(np.abs(wanted - session(path)(data.inputs.numpy())).max())
        _compress(path)
        predict = session(path)
        rounding = float(np.abs(wanted - predict(data.inputs.numpy())).max())
        if exact > PARITY or rounding > ROUNDING:
            raise ModelError(
                f"{path}: torch and onnxruntime differ by {exact:.1e} (at most {PARITY} is allowed), the rounded "
                f"weights by {rounding:.1e} (at most {ROUNDING})"
            )
        entries[name] = {
            "file": path.name,
            "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
            "bytes": path.stat().st_size,
            "input": {"name": "input", "shape": list(input_shape(name, (), preset))},
            "output": {"name": "output", "shape": list(contract.outputs[name])},
            "preprocessing": contract.preprocessing[name],
            "parameters": parameter_count(network),
            "training": {k: facts[k] for k in FACTS if k in facts},
            "parity": exact,
            "rounding": rounding,
            "scores": scores(name, predict, preset, batches=batches),
        }
        log.info("%s: %d bytes, rounding %.1e, %s", name, entries[name]["bytes"], rounding,
                 json.dumps(entries[name]["scores"]))  # fmt: skip
    manifest = {
        "format": FORMAT,
        "version": VERSION,
        "preset": preset,
        "flow": preset,
        "licence": "BSD-3-Clause",
        "created": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "commit": entries["blobs_finder"]["training"].get("commit", ""),
        "opset": OPSET,
        "pixels_per_beam": contract.pixels_per_beam,
        "stamp": preprocessing.PAPER_STAMP,
        "thresholds": THRESHOLDS,
        "validation_seed": validate.SEED,
        "networks": entries,
    }
    draw_curves(run, tuple(contract.inputs), out / "LOSS.png")
    (out / "manifest.json").write_text(json.dumps(manifest, indent=1) + "\n", encoding="utf-8")
    (out / "MODEL_CARD.md").write_text(card(manifest), encoding="utf-8")
    return manifest


def _to_onnx(name: str, network: nn.Module, path: Path, flow: str) -> None:
    shape = [{"batch": 2}.get(n, n) if isinstance(n, str) else n for n in input_shape(name, (), flow)]
    with warnings.catch_warnings():
        # The tracing exporter keeps a GRU one node.
        warnings.simplefilter("ignore")
        torch.onnx.export(
            network.eval().to(memory_format=torch.contiguous_format), (torch.randn(shape),), path,
            input_names=["input"], output_names=["output"], opset_version=OPSET, dynamo=False,
            dynamic_axes={"input": {0: "batch"}, "output": {0: "batch"}},
        )  # fmt: skip
    graph = onnx.load(path)
    graph.ir_version = IR_VERSION
    graph.producer_name = "casa_deepfocus"
    function = FLOWS[flow].preprocessing[name]
    graph.doc_string = f"casa_deepfocus {flow} {name}; input: core.preprocessing.{function}; BSD-3-Clause"
    onnx.checker.check_model(graph)
    onnx.save(graph, path)


def _compress(path: Path) -> None:
    """Round the weights of a file: 8 bits for large matrices, 16 for the rest of any size."""
    model = onnx.load(path)
    kept, nodes = [], []
    for tensor in model.graph.initializer:
        values = numpy_helper.to_array(tensor)
        if values.dtype != np.float32 or values.size < HALF:
            kept.append(tensor)
        elif values.size >= BYTE and values.ndim == 2:
            scale = np.maximum(np.abs(values).max(axis=1), 1e-20).astype(np.float32) / 127.0
            stored = np.round(values / scale[:, None]).astype(np.int8)
            kept += [numpy_helper.from_array(part, f"{tensor.name}{end}") for part, end in (
                (stored, ".int8"), (scale, ".scale"), (np.zeros(len(scale), np.int8), ".zero")
            )]  # fmt: skip
            inputs = [f"{tensor.name}{end}" for end in (".int8", ".scale", ".zero")]
            nodes.append(helper.make_node("DequantizeLinear", inputs, [tensor.name], axis=0))
        else:
            kept.append(numpy_helper.from_array(values.astype(np.float16), f"{tensor.name}.half"))
            nodes.append(helper.make_node("Cast", [f"{tensor.name}.half"], [tensor.name], to=TensorProto.FLOAT))
    del model.graph.initializer[:]
    model.graph.initializer.extend(kept)
    rest = list(model.graph.node)
    del model.graph.node[:]
    model.graph.node.extend(nodes + rest)
    onnx.checker.check_model(model)
    onnx.save(model, path)


def scores(name: str, predict: validate.Predict, preset: str, *, batches: int) -> dict[str, Any]:
    """How a network does its own part on the validation split, as the paper counts it."""
    size = {"blobs_finder": 8, "deep_gru": 64}.get(name, 64)
    data = [make_batch(name, validate.SEED, step, size, "val", preset=preset) for step in range(batches)]
    if name in RESNETS:
        return validate.resnet_scores(name, predict, data)
    answers = [predict(batch.inputs.numpy()) for batch in data]
    if name == "deep_gru":
        return {"spectra": sum(map(len, answers)), "levels": _line_levels(answers, data)}
    truth = [torch.from_numpy(answer) for answer in answers]
    alike = np.mean([float(ssim(a, batch.target)) for a, batch in zip(truth, data, strict=True)])
    return {"maps": sum(map(len, answers)), "mssim": round(float(alike), 4), "levels": _blob_levels(answers, data)}


def _counted(found: int, false: int, asked: int) -> dict[str, float]:
    return {
        "recall": round(found / max(asked, 1), 4),
        "precision": round(found / max(found + false, 1), 4),
        "f1": round(2.0 * found / max(found + false + asked, 1), 4),
    }


def _blob_levels(answers: list[NDArray], data: list[Any]) -> dict[str, dict[str, float]]:
    """Boxes about connected pixels whose barycentre is within 3 pixels of a source, one to one."""
    out = {}
    for level in LEVELS:
        found = false = asked = 0
        for answer, batch in zip(answers, data, strict=True):
            used = batch.truth["used"].numpy()
            for i, image in enumerate(answer[:, 0]):
                regions = regionprops(label(image > level), intensity_image=image)
                place = np.array([r.centroid_weighted[::-1] for r in regions]).reshape(-1, 2)
                true = np.stack([batch.truth[axis][i].numpy()[used[i]] for axis in "xy"], axis=1)
                apart = np.hypot(*(true[:, None] - place[None]).transpose(2, 0, 1))
                pairs = len(validate.pair(apart, SAME_PLACE))
                found, false, asked = found + pairs, false + len(place) - pairs, asked + len(true)
        out[str(level)] = _counted(found, false, asked)
    return out


def _line_levels(answers: list[NDArray], data: list[Any]) -> dict[str, dict[str, float]]:
    """Peaks within half of the FWHM of the target's lines, one to one."""
    from casa_deepfocus.core.spectra import find_peaks

    out = {}
    for level in LEVELS:
        found = false = asked = 0
        for answer, batch in zip(answers, data, strict=True):
            for profile, target in zip(answer, batch.target.numpy(), strict=True):
                lines, peaks = find_peaks(target, 0.2), find_peaks(profile, level)
                apart = np.array([[abs(a.chan - b.chan) for b in peaks] for a in lines]).reshape(len(lines), len(peaks))
                limit = np.array([max(0.5 * a.fwhm, 1.0) for a in lines])[:, None]
                pairs = len(validate.pair(apart, limit))
                found, false, asked = found + pairs, false + len(peaks) - pairs, asked + len(lines)
        out[str(level)] = _counted(found, false, asked)
    return out


def card(manifest: dict[str, Any]) -> str:
    """Markdown text of MODEL_CARD.md."""
    networks = manifest["networks"]
    total = sum(entry["bytes"] for entry in networks.values()) / 1e6
    lines = [
        f"# Networks of arXiv:2211.11462, preset {manifest['preset']}",
        "",
        "Written by `python -m training export`; the numbers are those of manifest.json. Retrained here, to compare",
        "with: `sdeepfocus` uses the shipped networks and a likelihood fit unless it is given these by name.",
        f"{manifest['licence']}; {total:.1f} MB, ONNX opset {manifest['opset']}, made {manifest['created']}.",
        "Thresholds: the paper's, {probability} of the map and {peak} of a line.".format(**manifest["thresholds"]),
        "",
        "| network | parameters | steps | batch | minutes | validation loss | rounding |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, entry in networks.items():
        t = entry["training"]
        loss = "" if t.get("validation_loss") is None else f"{t['validation_loss']:.4f}"
        before = t.get("before", {"steps": 0, "minutes": 0})
        done = [f"{before[key]} + {t[key]}" if before[key] else f"{t[key]}" for key in ("steps", "minutes")]
        lines.append(
            f"| {name} | {entry['parameters']} | {done[0]} | {t['batch']} | {done[1]} | {loss} "
            f"| {entry['rounding']:.0e} |"
        )
    lines += [
        "",
        *_held(networks["blobs_finder"]),
        "Loss curves: LOSS.png.",
        "",
        "## Scores on validation data",
        "",
    ]
    for name, entry in networks.items():
        lines += _score_lines(name, entry["scores"])
    return "\n".join(lines) + "\n" + LIMITS


def _held(entry: dict[str, Any]) -> list[str]:
    """What was the bottleneck's part in the training of Blobs Finder."""
    training = entry["training"]
    if training.get("local"):
        return [
            "Blobs Finder's bottleneck was held local to the end (docs/training.md): in place of the two full layers",
            "of Table 3 (33756207 parameters in all) the file has the two convolutions that do the same.",
        ]
    if "before" in training:
        return ["Of the two numbers of Blobs Finder, the first is with its bottleneck held local (docs/training.md)."]
    return []


LIMITS = """\
## Limits

- Fields of preset `paper` of the simulator only: one array, one track, its primary beam, thermal and white noise,
  Tables 1 and 2. Blobs Finder was never shown a field without a source, or a PSF of another array.
- Weights are rounded to 8 bits (matrices of more than four million) and 16 bits.
- The paper trained Blobs Finder on up to 900 000 images; compare the steps above.
"""


def _score_lines(name: str, found: dict[str, Any]) -> list[str]:
    if name in RESNETS:
        head = [f"{name}: {found['stamps']} stamps, errors in {found['unit']}.", "", "| SNR | bias | scatter | std |"]
        rows = [f"| {snr} | {s['bias']} | {s['scatter']} | {s['std']} |" for snr, s in found["by_snr"].items()]
        return [*head, "|---|---|---|---|", *rows, ""]
    what = f"{found['maps']} maps, mSSIM {found['mssim']}" if "maps" in found else f"{found['spectra']} spectra"
    rows = [f"| {level} | {s['recall']} | {s['precision']} | {s['f1']} |" for level, s in found["levels"].items()]
    return [f"{name}: {what}.", "", "| threshold | recall | precision | F1 |", "|---|---|---|---|", *rows, ""]


