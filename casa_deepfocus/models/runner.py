"""Load the networks and run them: the only module that imports onnxruntime.

A folder of networks holds manifest.json (see `manifest`) and one .onnx file per network.
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from casa_deepfocus.core import preprocessing
from casa_deepfocus.errors import MissingDependencyError, ModelError, ParameterError
from casa_deepfocus.models.manifest import FLOWS, INPUTS, input_shape, read_manifest
from casa_deepfocus.models.onnxfile import has_external_data

SHIPPED = "compact"
REBUILT = ("paper", "decoras")
"""Sets of networks that are made from the paper's, not shipped with the wheel."""

HALO = 144
"""[working pixels] `halo` of a manifest that does not say: that of the compact Blobs Finder."""

RANGES = {
    "blobs_finder": (0.0, 1.0),
    "deep_gru": (0.0, 1.0),
    "fwhm_maj": (0.0, preprocessing.STAMP / preprocessing.PIXELS_PER_BEAM),
    "fwhm_min": (0.0, preprocessing.STAMP / preprocessing.PIXELS_PER_BEAM),
    "pa": (-2.0, 2.0),
    "flux": (-np.log10(preprocessing.STAMP**2), np.log10(preprocessing.STAMP**2)),
}
"""What each network may answer about one clear source: probabilities; [beam] no larger than the stamp; sine and cosine,
which are learned and so may exceed 1; log10 of flux over peak, at most that of an evenly bright stamp."""

TRIAL_SNR = 20.0
"""[sigma] Peak of the source that every network is tried on: clear, and in the middle of what they were trained on."""

DEVICES = ("auto", "cpu", "cuda")
MAXIMUM_THREADS = 16

BATCH_VALUES = {"blobs_finder": 2**19, "deep_gru": 2**17}
"""Input values in one call of onnxruntime, which bounds the memory (about 0.1 GB); the ResNets: 2**20."""


class OnnxNetwork:
    """One network: a callable on float32 arrays, batch first.

    Parameters
    ----------
    name : str
    session : onnxruntime.InferenceSession
    planes : tuple of str, what Blobs Finder sees, of `preprocessing.PLANES`
    flow : str, of `FLOWS`
    """

    def __init__(self, name: str, session: Any, planes: tuple[str, ...] = (), flow: str = "default") -> None:
        self.name = name
        self.flow = flow
        self.shape = input_shape(name, planes, flow)
        self._output_shape = FLOWS[flow].outputs[name]
        self._session = session
        self._input = session.get_inputs()[0].name
        self._output = session.get_outputs()[0].name

    def __call__(self, inputs: NDArray[np.float32]) -> NDArray[np.float32]:
        """Run the network; large batches are split, so memory does not grow with them.

        Parameters
        ----------
        inputs : float32, of `shape`, made by the contract's function

        Returns
        -------
        float32, of the contract's shape
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
        return np.empty([lengths[n] if isinstance(n, str) else n for n in self._output_shape], np.float32)

    def _check(self, shape: tuple[int, ...]) -> None:
        wanted = self.shape
        fits = len(shape) == len(wanted) and all(
            isinstance(want, str) or have == want for have, want in zip(shape, wanted, strict=True)
        )
        text = "(" + ", ".join(str(want) for want in wanted) + ")"
        if not fits:
            raise ParameterError("inputs", shape, f"network {self.name} takes arrays of shape {text}")
        if "height" in wanted and (shape[2] % 16 or shape[3] % 16):
            raise ParameterError(
                "inputs", shape, "the height and width of a Blobs Finder map must be multiples of 16", "Pad the map"
            )


class NoNetwork:
    """In place of a network that a flow has not."""

    def __init__(self, name: str, flow: str) -> None:
        self.name, self.flow = name, flow

    def __call__(self, inputs: NDArray[np.float32]) -> NDArray[np.float32]:
        raise ModelError(f"the networks of flow {self.flow!r} have no {self.name}")


@dataclass(frozen=True)
class OnnxNetworks:
    """The six networks of docs/architecture.md ("Networks") and what is known about them.

    `info` holds preset, flow, folder, device, threads, thresholds, pixels_per_beam, halo, planes, commit and version.
    `halo` [working pixels]: how far Blobs Finder looks, rounded up to a multiple of 16; tiles must overlap by it.
    `planes`: what it sees, of `preprocessing.PLANES`.
    """

    blobs_finder: OnnxNetwork
    deep_gru: OnnxNetwork | NoNetwork
    fwhm_maj: OnnxNetwork | NoNetwork
    fwhm_min: OnnxNetwork | NoNetwork
    pa: OnnxNetwork | NoNetwork
    flux: OnnxNetwork | NoNetwork
    info: dict[str, Any]


def load_networks(models: str = "", device: str = "auto") -> OnnxNetworks:
    """Load a folder of networks, after checking it against its manifest.

    Parameters
    ----------
    models : str
        '' or 'compact' for the shipped set, 'paper' or 'decoras' for the paper's, else a folder with a manifest.json.
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
    flow = manifest.get("flow", "default")
    files = {name: _checked_file(folder, name, manifest["networks"][name]) for name in FLOWS[flow].inputs}
    onnxruntime = _onnxruntime()
    providers = choose_providers(device, onnxruntime.get_available_providers())
    threads = min(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
                  MAXIMUM_THREADS)  # fmt: skip
    planes = tuple(manifest["networks"]["blobs_finder"].get("planes", ("dirty",)))
    networks: dict[str, Any] = {name: NoNetwork(name, flow) for name in INPUTS}
    used = set()
    for name, data in files.items():
        path = folder / manifest["networks"][name]["file"]
        session = _session(onnxruntime, path, data, providers, threads)
        used.add(session.get_providers()[0])
        _check_shapes(path, name, session, planes, flow)
        networks[name] = OnnxNetwork(name, session, planes, flow)
        _try_out(path, networks[name])
    on_gpu = used == {"CUDAExecutionProvider"}
    if device == "cuda" and not on_gpu:
        raise ParameterError(
            "device", device, "onnxruntime could not start CUDA on this machine",
            "Check the driver and the CUDA and cuDNN libraries, or use device='cpu'",
        )  # fmt: skip
    info = {
        "preset": manifest["preset"],
        "flow": flow,
        "folder": str(folder),
        "device": "cuda" if on_gpu else "cpu",
        "threads": threads,
        "thresholds": dict(manifest["thresholds"]),
        "pixels_per_beam": manifest["pixels_per_beam"],
        "halo": manifest.get("halo", HALO),
        "planes": planes,
        "commit": manifest.get("commit", ""),
        "version": manifest["version"],
        "onnxruntime": onnxruntime.__version__,
    }
    return OnnxNetworks(**networks, info=info)


def find_folder(models: str = "") -> Path:
    """The folder that `models` names; the shipped one for '' and 'compact', a checkout's for 'paper' and 'decoras'."""
    if models in ("", SHIPPED):
        return Path(__file__).parent / SHIPPED
    here = Path(__file__).parent / models
    if models in REBUILT and not (Path(models) / "manifest.json").is_file():
        if here.is_dir():
            return here
        raise ParameterError(
            "models", models, "these networks are not in this installation",
            f"Train them in a checkout (docs/training.md, 'The paper's networks'), and give the folder that "
            f"`python -m training export --out` wrote, or let it be {here}",
        )  # fmt: skip
    folder = Path(models).expanduser()
    if not folder.is_dir():
        raise ParameterError(
            "models", models, "there is no such folder", "Leave it empty for the networks that come with the package"
        )
    return folder


def available_providers() -> list[str]:
    """What onnxruntime can run networks on here.

    Raises
    ------
    MissingDependencyError
        onnxruntime is not installed.
    """
    return list(_onnxruntime().get_available_providers())


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
    path = folder / entry["file"]
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
            f"{entry['sha256'][:12]}.... Reinstall the package, or export again"
        )
    try:
        elsewhere = has_external_data(data)
    except ModelError as error:
        raise ModelError(f"network {name}: {path} is no network: {error}. Export it again") from error
    if elsewhere:
        raise ModelError(
            f"network {name}: {path} keeps its weights in another file (ONNX external data), which no hash covers. "
            "Export it with all weights inside: onnx.save_model(onnx.load(path), path, save_as_external_data=False)"
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


def _check_shapes(path: Path, name: str, session: Any, planes: tuple[str, ...], flow: str) -> None:
    """Compare the graph's shapes with the contract; free lengths may have any name."""
    contract = (
        ("input", session.get_inputs(), input_shape(name, planes, flow)),
        ("output", session.get_outputs(), FLOWS[flow].outputs[name]),
    )
    for kind, nodes, want in contract:
        shapes = [list(node.shape) for node in nodes]
        fits = len(shapes) == 1 and len(shapes[0]) == len(want) and all(
            isinstance(have, int) == isinstance(length, int) and (isinstance(length, str) or have == length)
            for have, length in zip(shapes[0], want, strict=True)
        )  # fmt: skip
        if not fits:
            raise ModelError(f"{path}: the {kind} of network {name} has shape {shapes}, the package needs {want}")


def _try_out(path: Path, network: OnnxNetwork) -> None:
    """Run a network once on a source of the beam's shape: weights may be NaN, or those of something else.

    Raises
    ------
    ModelError
        Its answer is not finite, or nothing that the network can mean.
    """
    inputs = _trial_input(network)
    try:
        answer = network(inputs)
    except Exception as error:  # onnxruntime raises classes of its own
        raise ModelError(f"{path}: network {network.name} cannot be run: {error}. Export it again") from error
    low, high = RANGES[network.name]
    if not np.isfinite(answer).all() or answer.min() < low or answer.max() > high:
        raise ModelError(
            f"{path}: network {network.name} answers {answer.min():.3g} to {answer.max():.3g} about a source of "
            f"{TRIAL_SNR:g} sigma; its answers lie from {low:.3g} to {high:.3g}. Train and export it again"
        )


def _trial_input(network: OnnxNetwork) -> NDArray[np.float32]:
    """What a network sees of a source of the beam's shape and `TRIAL_SNR`, in the middle of a clean image."""
    contract = FLOWS[network.flow]
    side = next((n for n in network.shape[2:] if isinstance(n, int)), preprocessing.STAMP)
    y, x = np.mgrid[:side, :side] - side // 2
    beam = np.exp(-4.0 * np.log(2.0) * (x**2 + y**2) / contract.pixels_per_beam**2).astype(np.float32)[None]
    snr = np.float32(TRIAL_SNR) * beam
    made = contract.preprocessing[network.name]
    if made == "blobs_finder_input":
        return preprocessing.blobs_finder_input(np.repeat(snr[:, None], int(network.shape[1]), axis=1))
    if made == "unit_range":
        return preprocessing.unit_range(snr)
    if made == "deep_gru_input":
        return preprocessing.deep_gru_input(snr[:, side // 2])
    if made == "standard_spectrum":
        line = np.exp(-4.0 * np.log(2.0) * (np.arange(network.shape[1]) - int(network.shape[1]) // 2) ** 2 / 25.0)
        return preprocessing.standard_spectrum(line[None].astype(np.float32))
    return preprocessing.resnet_input(snr, beam, np.ones(1, np.float32))
