"""Load the networks and run them: the only module that imports onnxruntime.

A folder of networks holds manifest.json and one .onnx file per network. The manifest is the contract:
hashes, shapes, the preprocessing that the networks were trained with, thresholds and measured scores.
"""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from casa_deepfocus.core import preprocessing
from casa_deepfocus.errors import MissingDependencyError, ModelError, ParameterError

FORMAT = "casa_deepfocus networks"
VERSION = 1
SHIPPED = "compact"
DEVICES = ("auto", "cpu", "cuda")
OPSETS = range(17, 22)
MAXIMUM_THREADS = 16

INPUTS: dict[str, tuple[int | str, ...]] = {
    "blobs_finder": ("batch", "planes", "height", "width"),
    "deep_gru": ("batch", "nchan"),
    **{name: ("batch", 3, preprocessing.STAMP, preprocessing.STAMP) for name in ("fwhm_maj", "fwhm_min", "pa", "flux")},
}
"""Shapes of the networks' inputs (docs/architecture.md); a word is a free length, `planes` the manifest's number."""

OUTPUTS: dict[str, tuple[int | str, ...]] = {
    "blobs_finder": ("batch", 1, "height", "width"),
    "deep_gru": ("batch", "nchan"),
    "fwhm_maj": ("batch", 1),
    "fwhm_min": ("batch", 1),
    "pa": ("batch", 2),
    "flux": ("batch", 1),
}

PREPROCESSING = {
    name: {"blobs_finder": "blobs_finder_input", "deep_gru": "deep_gru_input"}.get(name, "resnet_input")
    for name in INPUTS
}
"""The function of core.preprocessing that makes each network's input."""

BATCH_VALUES = {"blobs_finder": 2**19, "deep_gru": 2**17}
"""Input values in one call of onnxruntime, which bounds the memory (about 0.1 GB); the ResNets: 2**20."""


class OnnxNetwork:
    """One network: a callable on float32 arrays, batch first.

    Parameters
    ----------
    name : str
    session : onnxruntime.InferenceSession
    planes : tuple of str, what Blobs Finder sees, of `preprocessing.PLANES`
    """

    def __init__(self, name: str, session: Any, planes: tuple[str, ...] = ()) -> None:
        self.name = name
        self.shape = input_shape(name, planes)
        self._session = session
        self._input = session.get_inputs()[0].name
        self._output = session.get_outputs()[0].name

    def __call__(self, inputs: NDArray[np.float32]) -> NDArray[np.float32]:
        """Run the network; large batches are split, so memory does not grow with them.

        Parameters
        ----------
        inputs : float32, of `shape`, made by `PREPROCESSING[name]`

        Returns
        -------
        float32, shape `OUTPUTS[name]`
        """
        inputs = np.ascontiguousarray(inputs, dtype=np.float32)
        self._check(inputs.shape)
        values = int(np.prod(inputs.shape[1:]))
        size = max(BATCH_VALUES.get(self.name, 2**20) // max(values, 1), 1)
        parts = [
            self._session.run([self._output], {self._input: inputs[start : start + size]})[0]
            for start in range(0, len(inputs), size)
        ]
        if parts:
            return parts[0] if len(parts) == 1 else np.concatenate(parts)
        lengths = dict(zip(self.shape, inputs.shape, strict=True))
        return np.empty([lengths[n] if isinstance(n, str) else n for n in OUTPUTS[self.name]], np.float32)

    def _check(self, shape: tuple[int, ...]) -> None:
        wanted = self.shape
        fits = len(shape) == len(wanted) and all(
            isinstance(want, str) or have == want for have, want in zip(shape, wanted, strict=True)
        )
        text = "(" + ", ".join(str(want) for want in wanted) + ")"
        if not fits:
            raise ParameterError("inputs", shape, f"network {self.name} takes arrays of shape {text}")
        if self.name == "blobs_finder" and (shape[2] % 16 or shape[3] % 16):
            raise ParameterError(
                "inputs", shape, "the height and width of a Blobs Finder map must be multiples of 16", "Pad the map"
            )


def input_shape(name: str, planes: tuple[str, ...]) -> tuple[int | str, ...]:
    """`INPUTS` with the number of planes filled in."""
    return tuple(len(planes) if length == "planes" else length for length in INPUTS[name])


@dataclass(frozen=True)
class OnnxNetworks:
    """The six networks of docs/architecture.md ("Networks") and what is known about them.

    `info` holds preset, folder, device, threads, thresholds, pixels_per_beam, halo, planes, commit and version.
    `halo` [working pixels]: how far Blobs Finder looks, rounded up to a multiple of 16; tiles must overlap by it.
    `planes`: what it sees, of `preprocessing.PLANES`.
    """

    blobs_finder: OnnxNetwork
    deep_gru: OnnxNetwork
    fwhm_maj: OnnxNetwork
    fwhm_min: OnnxNetwork
    pa: OnnxNetwork
    flux: OnnxNetwork
    info: dict[str, Any]


def load_networks(models: str = "", device: str = "auto") -> OnnxNetworks:
    """Load a folder of networks, after checking it against its manifest.

    Parameters
    ----------
    models : str
        '' or 'compact' for the shipped set, else a folder with a manifest.json.
    device : str
        'cpu', 'cuda', or 'auto': the GPU where onnxruntime has one, else the CPU.

    Raises
    ------
    ParameterError
        Unknown device or folder; 'cuda' without a CUDA provider.
    ModelError
        A file is missing, damaged, foreign or does not fit the contract.
    MissingDependencyError
        onnxruntime is not installed.
    """
    if device not in DEVICES:
        raise ParameterError("device", device, "no such device", f"Choose one of {', '.join(DEVICES)}")
    folder = find_folder(models)
    manifest = read_manifest(folder)
    files = {name: _checked_file(folder, name, manifest["networks"][name]) for name in INPUTS}
    onnxruntime = _onnxruntime()
    providers = choose_providers(device, onnxruntime.get_available_providers())
    threads = min(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
                  MAXIMUM_THREADS)  # fmt: skip
    planes = tuple(manifest["networks"]["blobs_finder"].get("planes", ("dirty",)))
    networks = {}
    used = set()
    for name, data in files.items():
        path = folder / manifest["networks"][name]["file"]
        session = _session(onnxruntime, path, data, providers, threads)
        used.add(session.get_providers()[0])
        _check_shapes(path, name, session, planes)
        networks[name] = OnnxNetwork(name, session, planes)
    on_gpu = used == {"CUDAExecutionProvider"}
    if device == "cuda" and not on_gpu:
        raise ParameterError(
            "device", device, "onnxruntime could not start CUDA on this machine",
            "Check the driver and the CUDA and cuDNN libraries, or use device='cpu'",
        )  # fmt: skip
    info = {
        "preset": manifest["preset"],
        "folder": str(folder),
        "device": "cuda" if on_gpu else "cpu",
        "threads": threads,
        "thresholds": dict(manifest["thresholds"]),
        "pixels_per_beam": manifest["pixels_per_beam"],
        "halo": manifest.get("halo", 144),
        "planes": planes,
        "commit": manifest.get("commit", ""),
        "version": manifest["version"],
        "onnxruntime": onnxruntime.__version__,
    }
    return OnnxNetworks(**networks, info=info)


def find_folder(models: str = "") -> Path:
    """The folder that `models` names; the shipped one for '' and 'compact'."""
    if models in ("", SHIPPED):
        return Path(__file__).parent / SHIPPED
    folder = Path(models).expanduser()
    if not folder.is_dir():
        raise ParameterError(
            "models", models, "there is no such folder", "Leave it empty for the networks that come with the package"
        )
    return folder


def read_manifest(folder: Path) -> dict[str, Any]:
    """Read and check manifest.json.

    Raises
    ------
    ModelError
        It is missing, not JSON, of another version, incomplete, or its networks were trained with
        another preprocessing than this package has.
    """
    path = folder / "manifest.json"
    remedy = "Reinstall the package, or give a folder written by: python -m training export"
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ModelError(f"{path} cannot be read ({error.strerror}). {remedy}") from error
    except ValueError as error:
        raise ModelError(f"{path} is damaged: it is not JSON ({error}). {remedy}") from error
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        raise ModelError(f"{path} is not a manifest of casa_deepfocus networks. {remedy}")
    if manifest.get("version") != VERSION:
        raise ModelError(
            f"{path} has version {manifest.get('version')!r}, this package reads version {VERSION}. {remedy}"
        )
    missing = [key for key in ("preset", "thresholds", "pixels_per_beam", "opset", "networks") if key not in manifest]
    missing += [name for name in INPUTS if name not in manifest.get("networks", {})]
    if missing:
        raise ModelError(f"{path} lacks {', '.join(missing)}. {remedy}")
    if manifest["opset"] not in OPSETS:
        raise ModelError(f"{path} asks for ONNX opset {manifest['opset']}, allowed are 17 to 21. {remedy}")
    absent = [key for key in ("probability", "peak") if key not in manifest["thresholds"]]
    if absent:
        raise ModelError(f"{path} lacks the thresholds {', '.join(absent)}. {remedy}")
    if manifest["pixels_per_beam"] != preprocessing.PIXELS_PER_BEAM:
        raise ModelError(
            f"{path}: these networks expect {manifest['pixels_per_beam']} pixels per beam, the package prepares "
            f"{preprocessing.PIXELS_PER_BEAM}. {remedy}"
        )
    for name, function in PREPROCESSING.items():
        entry = manifest["networks"][name]
        lacking = [key for key in ("file", "sha256", "preprocessing") if key not in entry]
        if lacking:
            raise ModelError(f"{path} lacks {', '.join(lacking)} of network {name}. {remedy}")
        if entry["preprocessing"] != function:
            raise ModelError(
                f"{path}: network {name} wants the preprocessing {entry['preprocessing']!r}, the package "
                f"has {function!r}. {remedy}"
            )
    planes = manifest["networks"]["blobs_finder"].get("planes", ["dirty"])
    if not isinstance(planes, list) or not planes or any(name not in preprocessing.PLANES for name in planes):
        raise ModelError(
            f"{path}: Blobs Finder wants the planes {planes!r}, the package makes "
            f"{', '.join(preprocessing.PLANES)}. {remedy}"
        )
    return manifest


def choose_providers(device: str, available: list[str]) -> list[str]:
    """Execution providers of onnxruntime for a device, of those that it offers."""
    cuda = "CUDAExecutionProvider" in available
    if device == "cuda" and not cuda:
        raise ParameterError(
            "device", device, f"this onnxruntime has no CUDA provider, only {', '.join(available)}",
            "Install onnxruntime-gpu in place of onnxruntime, or use device='cpu'",
        )  # fmt: skip
    return ["CUDAExecutionProvider", "CPUExecutionProvider"] if cuda and device != "cpu" else ["CPUExecutionProvider"]


def _checked_file(folder: Path, name: str, entry: dict[str, Any]) -> bytes:
    """The bytes of a network's file, once they have the manifest's hash."""
    path = folder / str(entry["file"])
    if path.parent != folder:
        raise ModelError(f"the manifest of {folder} places network {name} outside of it: {entry['file']!r}")
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ModelError(
            f"network {name}: {path} cannot be read ({error.strerror}). Reinstall the package, or export again"
        ) from error
    found = hashlib.sha256(data).hexdigest()
    if found != entry["sha256"]:
        raise ModelError(
            f"network {name}: {path} is damaged or foreign: its sha256 is {found[:12]}..., the manifest says "
            f"{str(entry['sha256'])[:12]}.... Reinstall the package, or export again"
        )
    return data


def _onnxruntime() -> ModuleType:
    try:
        import onnxruntime
    except ImportError as error:
        raise MissingDependencyError(
            "onnxruntime is needed to run the networks; install it with: pip install onnxruntime"
        ) from error
    return onnxruntime


def _session(onnxruntime: ModuleType, path: Path, data: bytes, providers: list[str], threads: int) -> Any:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    try:
        return onnxruntime.InferenceSession(data, sess_options=options, providers=providers)
    except Exception as error:  # onnxruntime raises classes of its own for each kind of damage
        raise ModelError(f"{path} is no network that onnxruntime can load: {error}") from error


def _check_shapes(path: Path, name: str, session: Any, planes: tuple[str, ...]) -> None:
    """Compare the graph's shapes with the contract; free lengths may have any name."""
    contract = (
        ("input", session.get_inputs(), input_shape(name, planes)),
        ("output", session.get_outputs(), OUTPUTS[name]),
    )
    for kind, nodes, want in contract:
        shapes = [list(node.shape) for node in nodes]
        fits = len(shapes) == 1 and len(shapes[0]) == len(want) and all(
            isinstance(have, int) == isinstance(length, int) and (isinstance(length, str) or have == length)
            for have, length in zip(shapes[0], want, strict=True)
        )  # fmt: skip
        if not fits:
            raise ModelError(f"{path}: the {kind} of network {name} has shape {shapes}, the package needs {want}")
