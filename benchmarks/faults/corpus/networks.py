"""Folders of networks that are damaged, foreign, incomplete, or reach outside of themselves."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.faults import fields
from benchmarks.faults.case import Case, Trial
from casa_deepfocus.models import runner

Change = Callable[[dict[str, Any]], Any]


def cases() -> Iterator[Case]:
    """The cases of this kind."""
    for name, change in MANIFESTS.items():
        yield Case(f"networks/{name}", partial(_manifest, change))
    for name, make in FOLDERS.items():
        yield Case(f"networks/{name}", make)


def _copy(folder: Path) -> Path:
    return Path(shutil.copytree(runner.find_folder(""), folder / "nets"))


def _trial(folder: Path) -> Trial:
    fields.write_field(folder, fields.image())
    return Trial({"imagename": "x.fits", "models": "nets"}, words=(("nets",),))


def _manifest(change: Change, folder: Path, shared: Path) -> Trial:
    nets = _copy(folder)
    manifest = json.loads((nets / "manifest.json").read_text())
    change(manifest)
    (nets / "manifest.json").write_text(json.dumps(manifest))
    return _trial(folder)


def _set(*path: str, value: Any) -> Change:
    def change(manifest: dict[str, Any]) -> None:
        for key in path[:-1]:
            manifest = manifest[key]
        manifest[path[-1]] = value

    return change


def _network(key: str, value: Any) -> Change:
    return _set("networks", "flux", key, value=value)


MANIFESTS: dict[str, Change] = {
    "another format": _set("format", value="other"),
    "version 99": _set("version", value=99),
    "version as text": _set("version", value="1"),
    "no thresholds": lambda manifest: manifest.pop("thresholds"),
    "threshold as text": _set("thresholds", "probability", value="high"),
    "threshold of 7": _set("thresholds", "probability", value=7.0),
    "threshold of null": _set("thresholds", "peak", value=None),
    "thresholds as a list": _set("thresholds", value=[0.5, 0.5]),
    "opset 9": _set("opset", value=9),
    "opset as text": _set("opset", value="18"),
    "pixels per beam 3": _set("pixels_per_beam", value=3),
    "halo as text": _set("halo", value="wide"),
    "halo negative": _set("halo", value=-16),
    "networks as a list": _set("networks", value=[]),
    "network as text": _set("networks", "flux", value="flux.onnx"),
    "no flux network": lambda manifest: manifest["networks"].pop("flux"),
    "hash of another": _network("sha256", "0" * 64),
    "hash as a number": _network("sha256", 5),
    "file outside": _network("file", "../x.fits"),
    "file absolute": _network("file", "/etc/passwd"),
    "file as a number": _network("file", 3),
    "another preprocessing": _network("preprocessing", "other"),
    "planes of unknown names": _set("networks", "blobs_finder", "planes", value=["dirty", "moon"]),
    "planes as text": _set("networks", "blobs_finder", "planes", value="dirty"),
    "one plane": _set("networks", "blobs_finder", "planes", value=["dirty"]),
}
"""What is odd, and the function that changes a manifest so."""


def _no_json(folder: Path, shared: Path) -> Trial:
    (_copy(folder) / "manifest.json").write_text("{")
    return _trial(folder)


def _a_list(folder: Path, shared: Path) -> Trial:
    (_copy(folder) / "manifest.json").write_text("[]")
    return _trial(folder)


def _no_manifest(folder: Path, shared: Path) -> Trial:
    (_copy(folder) / "manifest.json").unlink()
    return _trial(folder)


def _cut(folder: Path, shared: Path) -> Trial:
    path = _copy(folder) / "flux.onnx"
    path.write_bytes(path.read_bytes()[:1000])
    return _trial(folder)


def _missing(folder: Path, shared: Path) -> Trial:
    (_copy(folder) / "flux.onnx").unlink()
    return _trial(folder)


def _swapped(folder: Path, shared: Path) -> Trial:
    """Another network's file, and its hash in the manifest: only its shapes tell."""
    nets = _copy(folder)
    manifest = json.loads((nets / "manifest.json").read_text())
    manifest["networks"]["flux"] |= {key: manifest["networks"]["pa"][key] for key in ("file", "sha256")}
    (nets / "manifest.json").write_text(json.dumps(manifest))
    return _trial(folder)


def _rewritten(folder: Path, change: Callable[[Any], None], **options: Any) -> Trial:
    """A network that was changed and hashed again."""
    import hashlib

    import onnx

    nets = _copy(folder)
    path = nets / "flux.onnx"
    model = onnx.load(str(path))
    change(model)
    path.unlink()
    onnx.save_model(model, str(path), **options)
    manifest = json.loads((nets / "manifest.json").read_text())
    manifest["networks"]["flux"]["sha256"] = hashlib.sha256(path.read_bytes()).hexdigest()
    (nets / "manifest.json").write_text(json.dumps(manifest))
    return _trial(folder)


def _external(folder: Path, shared: Path) -> Trial:
    return _rewritten(folder, lambda model: None, save_as_external_data=True, location="weights.bin", size_threshold=0)


def _nan_weights(folder: Path, shared: Path) -> Trial:
    import numpy as np
    import onnx

    def change(model: Any) -> None:
        for tensor in model.graph.initializer:
            array = onnx.numpy_helper.to_array(tensor)
            if array.dtype == np.float32 and array.ndim > 1:
                tensor.CopyFrom(onnx.numpy_helper.from_array(array * np.float32(np.nan), tensor.name))

    return _rewritten(folder, change)


FOLDERS: dict[str, Callable[[Path, Path], Trial]] = {
    "manifest no json": _no_json,
    "manifest a list": _a_list,
    "manifest missing": _no_manifest,
    "network cut": _cut,
    "network missing": _missing,
    "network of another task": _swapped,
    "external data": _external,
    "weights of nan": _nan_weights,
}
