"""The shipped networks load, do their part, and say clearly what is wrong with a folder that they cannot use."""

from __future__ import annotations

import hashlib
import json
import shutil
import sys
from pathlib import Path

import jsonschema
import numpy as np
import pytest

pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")

from casa_deepfocus.core.preprocessing import (  # noqa: E402
    blobs_finder_input,
    blobs_finder_planes,
    deep_gru_input,
    resnet_input,
)
from casa_deepfocus.errors import MissingDependencyError, ModelError, ParameterError  # noqa: E402
from casa_deepfocus.models import manifest, onnxfile, runner  # noqa: E402


@pytest.fixture(scope="module")
def networks():
    return runner.load_networks("", "cpu")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A copy of the shipped folder, to be damaged."""
    return Path(shutil.copytree(runner.find_folder(), tmp_path / "models"))


def edit(folder: Path, change) -> None:
    path = folder / "manifest.json"
    manifest = json.loads(path.read_text())
    change(manifest)
    path.write_text(json.dumps(manifest))


def beam_image(side: int, x: float, y: float, fwhm: float = 5.0) -> np.ndarray:
    yy, xx = np.mgrid[:side, :side]
    return np.exp(-4 * np.log(2) * ((xx - x) ** 2 + (yy - y) ** 2) / fwhm**2).astype(np.float32)


def beam_noise(side: int, seed: int, fwhm: float = 5.0) -> np.ndarray:
    """Noise of rms 1 whose power spectrum is the beam's transform."""
    beam = np.fft.rfft2(np.fft.ifftshift(beam_image(side, side // 2, side // 2, fwhm)))
    white = np.fft.rfft2(np.random.default_rng(seed).normal(size=(side, side)))
    noise = np.fft.irfft2(np.sqrt(np.maximum(beam.real, 0)) * white, s=(side, side))
    return (noise / noise.std()).astype(np.float32)


def test_info_says_what_was_loaded(networks):
    assert networks.info["preset"] == "compact" and networks.info["device"] == "cpu"
    assert 0 < networks.info["thresholds"]["probability"] < 1 and 0 < networks.info["thresholds"]["peak"] < 1
    assert Path(networks.info["folder"]).is_dir() and networks.info["pixels_per_beam"] == 5.0


def test_the_shipped_networks_are_small_and_hold_their_scores():
    folder = runner.find_folder()
    manifest = runner.read_manifest(folder)
    assert sum(path.stat().st_size for path in folder.glob("*.onnx")) < 40e6
    assert manifest["licence"] == "BSD-3-Clause" and len(manifest["commit"]) == 40
    for name in runner.INPUTS:
        entry = manifest["networks"][name]
        assert entry["parity"] <= 1e-5 and entry["scores"] and entry["training"]["steps"] > 0
    assert (folder / "MODEL_CARD.md").is_file()


def test_blobs_finder_finds_planted_sources_and_little_else(networks):
    places = [(40, 30), (90, 44), (64, 100)]
    snr_map = beam_noise(128, 3)
    assert snr_map.max() < 6
    for x, y in places:
        snr_map = snr_map + 20 * beam_image(128, x, y)
    psf = beam_image(256, 128, 128)[None]
    planes = blobs_finder_planes(snr_map[None], networks.info["planes"], psf)
    probability = networks.blobs_finder(blobs_finder_input(planes))[0, 0]
    assert probability.shape == (128, 128) and probability.min() >= 0 and probability.max() <= 1
    for x, y in places:
        assert probability[y - 1 : y + 2, x - 1 : x + 2].max() > networks.info["thresholds"]["probability"]
    near = np.max([beam_image(128, x, y, 12.0) for x, y in places], axis=0) > 0.3
    assert (probability[~near] > 0.5).sum() < 20


def test_deep_gru_finds_a_planted_line(networks):
    spectrum = np.random.default_rng(4).normal(size=200).astype(np.float32)
    spectrum += 4 * np.exp(-4 * np.log(2) * (np.arange(200) - 120) ** 2 / 10**2).astype(np.float32)
    clean = networks.deep_gru(deep_gru_input(spectrum)[None])[0]
    assert clean.shape == (200,) and abs(int(clean.argmax()) - 120) <= 3
    assert clean.max() > networks.info["thresholds"]["peak"]
    assert clean[:90].max() < clean.max()


def test_resnets_measure_a_planted_source(networks):
    beam = beam_image(32, 16, 16)
    source = 50 * beam_image(32, 16, 16, np.hypot(5.0, 5.0)) + beam_noise(32, 5)
    inputs = resnet_input(source[None], beam[None], np.ones(1, np.float32))
    assert networks.fwhm_maj(inputs).shape == (1, 1) and networks.pa(inputs).shape == (1, 2)
    # FWHM of one beam, and twice the area of the beam.
    assert 0.5 < networks.fwhm_maj(inputs)[0, 0] < 1.6
    assert 0.4 < networks.fwhm_min(inputs)[0, 0] < 1.5
    assert 10 ** networks.flux(inputs)[0, 0] == pytest.approx(2.0, rel=0.35)


@pytest.mark.parametrize(
    ("name", "shape"), [("deep_gru", (70, 128)), ("pa", (9, 3, 32, 32)), ("blobs_finder", (5, 0, 32, 48))]
)
def test_split_batches_equal_whole_ones(networks, monkeypatch, name, shape):
    shape = tuple(n or len(networks.info["planes"]) for n in shape)
    inputs = np.random.default_rng(1).normal(size=shape).astype(np.float32)
    whole = getattr(networks, name)(inputs)
    monkeypatch.setitem(runner.BATCH_VALUES, name, 2 * int(np.prod(shape[1:])))
    split = getattr(networks, name)(inputs)
    assert whole.shape[0] == shape[0]
    np.testing.assert_allclose(split, whole, atol=1e-6)
    np.testing.assert_array_equal(split, getattr(networks, name)(inputs))


def test_an_empty_batch_gives_an_empty_answer(networks):
    assert networks.deep_gru(np.empty((0, 50), np.float32)).shape == (0, 50)
    assert networks.pa(np.empty((0, 3, 32, 32), np.float32)).shape == (0, 2)


def test_inputs_of_other_shapes_are_refused(networks):
    with pytest.raises(ParameterError, match="multiples of 16"):
        networks.blobs_finder(np.zeros((1, len(networks.info["planes"]), 30, 32), np.float32))
    with pytest.raises(ParameterError, match="batch, [12], height"):
        networks.blobs_finder(np.zeros((1, 5, 32, 32), np.float32))
    with pytest.raises(ParameterError, match="batch, nchan"):
        networks.deep_gru(np.zeros(128, np.float32))
    with pytest.raises(ParameterError, match="32, 32"):
        networks.flux(np.zeros((1, 1, 64, 64), np.float32))


def test_devices():
    with pytest.raises(ParameterError, match="auto, cpu, cuda"):
        runner.load_networks("", "gpu")
    with pytest.raises(ParameterError, match="onnxruntime-gpu"):
        runner.choose_providers("cuda", ["CPUExecutionProvider"])
    both = ["CUDAExecutionProvider", "CPUExecutionProvider"]
    assert runner.choose_providers("auto", both) == both == runner.choose_providers("cuda", both)
    assert runner.choose_providers("cpu", both) == ["CPUExecutionProvider"]
    assert runner.choose_providers("auto", ["CPUExecutionProvider"]) == ["CPUExecutionProvider"]


def test_a_folder_may_be_named(folder):
    assert runner.load_networks(str(folder), "cpu").info["folder"] == str(folder)
    with pytest.raises(ParameterError, match="no such folder"):
        runner.load_networks(str(folder / "elsewhere"))


def test_a_damaged_file_is_named(folder):
    path = folder / "deep_gru.onnx"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(bytes(data))
    with pytest.raises(ModelError, match=r"deep_gru\.onnx is damaged or foreign.*Reinstall"):
        runner.load_networks(str(folder))


def test_a_missing_file_is_named(folder):
    (folder / "pa.onnx").unlink()
    with pytest.raises(ModelError, match=r"pa\.onnx cannot be read"):
        runner.load_networks(str(folder))


def test_a_file_that_is_no_network(folder):
    path = folder / "flux.onnx"
    path.write_bytes(b"not a network")
    edit(folder, lambda m: m["networks"]["flux"].update(sha256=hashlib.sha256(b"not a network").hexdigest()))
    with pytest.raises(ModelError, match=r"flux\.onnx is no network"):
        runner.load_networks(str(folder))


def test_a_network_of_another_shape(folder):
    edit(folder, lambda m: m["networks"].update(flux=m["networks"]["pa"]))
    with pytest.raises(ModelError, match="flux has shape"):
        runner.load_networks(str(folder))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda m: m.update(format="something else"), "not a manifest"),
        (lambda m: m.update(version=99), "version 99"),
        (lambda m: m.update(opset=11), "opset 11"),
        (lambda m: m.pop("thresholds"), "lacks thresholds"),
        (lambda m: m.update(thresholds={"peak": 0.1}), "lacks probability of thresholds"),
        (lambda m: m["networks"].pop("pa"), "lacks pa"),
        (lambda m: m["networks"]["pa"].pop("sha256"), "lacks sha256 of network pa"),
        (lambda m: m.update(pixels_per_beam=8.0), "8.0 pixels per beam"),
        (lambda m: m["networks"]["flux"].update(preprocessing="min_max"), "min_max"),
        (lambda m: m["networks"]["blobs_finder"].update(planes=["dirty", "wavelet"]), "wavelet"),
        (lambda m: m["networks"]["blobs_finder"].update(planes=[]), "planes"),
        (lambda m: m["networks"]["blobs_finder"].update(planes=["dirty", "clean", "dirty"]), "blobs_finder has shape"),
        (lambda m: m["networks"]["flux"].update(file="../flux.onnx"), "outside"),
        (lambda m: m["networks"]["flux"].update(file="/etc/flux.onnx"), "outside"),
        (lambda m: m["networks"]["flux"].update(file=7), "networks.flux.file 7"),
        (lambda m: m["networks"]["flux"].update(sha256="abc"), "64 hexadecimal digits"),
        (lambda m: m["networks"].update(flux="flux.onnx"), "networks.flux 'flux.onnx'"),
        (lambda m: m["networks"]["blobs_finder"].update(planes="dirty"), "planes 'dirty'.* list of names"),
        (lambda m: m["networks"]["blobs_finder"].update(planes=[["dirty"]]), "the name of a plane"),
        (lambda m: m["thresholds"].update(probability="0.2"), "thresholds.probability '0.2'.* between 0 and 1"),
        (lambda m: m["thresholds"].update(peak=1.5), "thresholds.peak 1.5"),
        (lambda m: m["thresholds"].update(peak=True), "thresholds.peak True"),
        (lambda m: m["thresholds"].update(peak=-0.1), "thresholds.peak -0.1"),
        (lambda m: m["thresholds"].update(peak=float("nan")), "NaN is no JSON number"),
        (lambda m: m.update(halo=10**9), "halo 1000000000"),
        (lambda m: m.update(halo=100), "multiple of 16"),
        (lambda m: m.update(halo="144"), "halo '144'"),
        (lambda m: m.update(opset="17"), "opset '17'"),
        (lambda m: m.update(pixels_per_beam=None), "pixels_per_beam None"),
        (lambda m: m.update(preset=["compact"]), "preset"),
        (lambda m: m.update(commit=7), "commit 7"),
    ],
)
def test_foreign_manifests(folder, change, message):
    edit(folder, change)
    with pytest.raises(ModelError, match=message):
        runner.load_networks(str(folder))


@pytest.mark.parametrize("text", ["{", "[]"])
def test_damaged_manifests(folder, text):
    (folder / "manifest.json").write_text(text)
    with pytest.raises(ModelError, match="manifest"):
        runner.load_networks(str(folder))


def test_the_schema_is_one_and_names_the_networks():
    schema = json.loads(manifest.SCHEMA.read_text())
    jsonschema.Draft202012Validator.check_schema(schema)
    assert schema["else"]["properties"]["networks"]["required"] == list(manifest.INPUTS)
    assert schema["properties"]["flow"]["enum"] == list(manifest.FLOWS)
    for flow, contract in manifest.FLOWS.items():
        lacking = {"flow": flow, "preset": "x", "opset": 17, "pixels_per_beam": 5.0, "networks": {}}
        lacking["thresholds"] = {"probability": 0.1, "peak": 0.1}
        problem = manifest._against_schema(lacking)
        assert all(name in problem for name in contract.inputs), (flow, problem)


def replace_network(folder: Path, name: str, change, **options) -> None:
    """Change a network's graph by `change`, and the manifest's hash with it."""
    onnx = pytest.importorskip("onnx", reason="onnx is not installed")
    path = folder / f"{name}.onnx"
    model = onnx.load(path)
    change(onnx, model)
    onnx.save_model(model, path, **options)
    edit(folder, lambda m: m["networks"][name].update(sha256=hashlib.sha256(path.read_bytes()).hexdigest()))


def scale_weights(factor: float):
    def change(onnx, model) -> None:
        for tensor in model.graph.initializer:
            values = onnx.numpy_helper.to_array(tensor)
            if values.dtype == np.float32:
                tensor.CopyFrom(onnx.numpy_helper.from_array(values * np.float32(factor), tensor.name))

    return change


@pytest.mark.parametrize("name", ["blobs_finder", "deep_gru", "flux"])
def test_weights_that_are_not_finite(folder, name):
    replace_network(folder, name, scale_weights(np.nan))
    with pytest.raises(ModelError, match=rf"network {name} answers nan to nan"):
        runner.load_networks(str(folder), "cpu")


def test_answers_that_nothing_can_mean(folder):
    replace_network(folder, "flux", scale_weights(30.0))
    with pytest.raises(ModelError, match=r"network flux answers .* its answers lie from -3.01 to 3.01"):
        runner.load_networks(str(folder), "cpu")


def test_weights_in_another_file_are_refused(folder, monkeypatch):
    """No hash covers them, and onnxruntime takes them from the working directory."""
    external = {"save_as_external_data": True, "location": "flux.weights", "size_threshold": 0}
    replace_network(folder, "flux", lambda onnx, model: None, **external)
    monkeypatch.chdir(folder)
    with pytest.raises(ModelError, match=r"flux\.onnx keeps its weights in another file.*save_as_external_data=False"):
        runner.load_networks(str(folder), "cpu")
    # What the message recommends mends it.
    replace_network(folder, "flux", lambda onnx, model: None, save_as_external_data=False)
    assert runner.load_networks(str(folder), "cpu").info["preset"] == "compact"


def message(*fields: tuple[int, bytes | int]) -> bytes:
    """A Protocol Buffers message of bytes and small integers."""
    out = bytearray()
    for number, value in fields:
        wire = 0 if isinstance(value, int) else 2
        key = number << 3 | wire
        out += bytes([key]) if key < 128 else bytes([key & 127 | 128, key >> 7])
        out += bytes([value]) if isinstance(value, int) else bytes([len(value)]) + value
    return bytes(out)


TENSOR = message((1, 4), (9, b"weights"))
ELSEWHERE = message((1, 4), (14, 1))


@pytest.mark.parametrize(
    "place",
    [
        lambda tensor: (7, message((5, tensor))),  # initializer
        lambda tensor: (7, message((15, message((1, tensor))))),  # sparse initializer
        lambda tensor: (7, message((1, message((5, message((5, tensor))))))),  # a constant node's attribute
        lambda tensor: (7, message((1, message((5, message((6, message((5, tensor))))))))),  # the body of a loop
        lambda tensor: (25, message((7, message((5, message((10, tensor))))))),  # a function's node
        lambda tensor: (20, message((2, message((5, tensor))))),  # training
    ],
)
def test_external_data_are_seen_wherever_a_tensor_may_be(place):
    assert not onnxfile.has_external_data(message((1, 8), place(TENSOR)))
    assert onnxfile.has_external_data(message((1, 8), place(TENSOR), place(ELSEWHERE)))
    assert onnxfile.has_external_data(message((1, 8), place(message((13, b"where")))))


@pytest.mark.parametrize("data", [message((7, message((5, TENSOR))))[:-3], b"\xff" * 20, b"\x3b", b"\x38"])
def test_damaged_protocol_buffers(data):
    with pytest.raises(ModelError, match="cut short|does not have"):
        onnxfile.has_external_data(data)


def test_a_folder_without_manifest(tmp_path):
    with pytest.raises(ModelError, match=r"manifest\.json cannot be read"):
        runner.load_networks(str(tmp_path))


def test_without_onnxruntime(monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(MissingDependencyError, match="pip install onnxruntime"):
        runner.load_networks()
