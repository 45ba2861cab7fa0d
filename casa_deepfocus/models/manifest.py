"""The manifest of a folder of networks: the contract between who trained them and who runs them.

It names the files with their hashes, the preprocessing that the networks were trained with, thresholds and
measured scores. What is used of it is described by `manifest.schema.json`.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from casa_deepfocus.core import preprocessing
from casa_deepfocus.errors import ModelError, shown

FORMAT = "casa_deepfocus networks"
VERSION = 1
SCHEMA = Path(__file__).with_name("manifest.schema.json")
REMEDY = "Reinstall the package, or give a folder written by: python -m training export"

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


@dataclass(frozen=True)
class Contract:
    """What the networks of a flow take and give.

    Attributes
    ----------
    inputs, outputs : dict, shapes by network, as `INPUTS` and `OUTPUTS`
    preprocessing : dict, function of core.preprocessing by network
    pixels_per_beam : float, of the working pixels
    """

    inputs: dict[str, tuple[int | str, ...]]
    outputs: dict[str, tuple[int | str, ...]]
    preprocessing: dict[str, str]
    pixels_per_beam: float


_SIDE, _STAMP, _LENGTH = preprocessing.PAPER_FIELD, preprocessing.PAPER_STAMP, preprocessing.PAPER_CHANNELS
_MAP: dict[str, tuple[int | str, ...]] = {"blobs_finder": ("batch", 1, _SIDE, _SIDE)}

FLOWS = {
    "default": Contract(INPUTS, OUTPUTS, PREPROCESSING, preprocessing.PIXELS_PER_BEAM),
    "paper": Contract(
        {**{name: ("batch", 1, _STAMP, _STAMP) for name in INPUTS}, **_MAP, "deep_gru": ("batch", _LENGTH)},
        {**OUTPUTS, **_MAP, "deep_gru": ("batch", _LENGTH)},
        {name: "standard_spectrum" if name == "deep_gru" else "unit_range" for name in INPUTS},
        preprocessing.PAPER_PIXELS_PER_BEAM,
    ),
    "decoras": Contract(_MAP, _MAP, {"blobs_finder": "unit_range"}, preprocessing.PAPER_PIXELS_PER_BEAM),
}
"""What a set of networks is for, as its manifest's `flow` says (absent: default); see `pipeline.FLOWS`."""


def input_shape(name: str, planes: tuple[str, ...], flow: str = "default") -> tuple[int | str, ...]:
    """The input's shape of the flow's contract with the number of planes filled in."""
    return tuple(len(planes) if length == "planes" else length for length in FLOWS[flow].inputs[name])


def read_manifest(folder: Path) -> dict[str, Any]:
    """Read and check manifest.json.

    Raises
    ------
    ModelError
        It is missing, not JSON, of another version, against the schema, or its networks were trained with
        another preprocessing than this package has.
    """
    path = folder / "manifest.json"
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"), parse_constant=_no_constant)
    except OSError as error:
        raise ModelError(f"{path} cannot be read ({error.strerror}). {REMEDY}") from error
    except (ValueError, RecursionError) as error:
        raise ModelError(f"{path} is damaged: it is not JSON ({error}). {REMEDY}") from error
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        raise ModelError(f"{path} is not a manifest of casa_deepfocus networks. {REMEDY}")
    if manifest.get("version") != VERSION:
        raise ModelError(
            f"{path} has version {manifest.get('version')!r}, this package reads version {VERSION}. {REMEDY}"
        )
    problem = _against_schema(manifest)
    if problem:
        raise ModelError(f"{path} {problem}. {REMEDY}")
    contract = FLOWS[manifest.get("flow", "default")]
    if manifest["pixels_per_beam"] != contract.pixels_per_beam:
        raise ModelError(
            f"{path}: these networks expect {manifest['pixels_per_beam']} pixels per beam, the package prepares "
            f"{contract.pixels_per_beam}. {REMEDY}"
        )
    for name, function in contract.preprocessing.items():
        wanted = manifest["networks"][name]["preprocessing"]
        if wanted != function:
            raise ModelError(
                f"{path}: network {name} wants the preprocessing {wanted!r}, the package has {function!r}. {REMEDY}"
            )
    planes = manifest["networks"]["blobs_finder"].get("planes", ["dirty"])
    if any(name not in preprocessing.PLANES for name in planes):
        raise ModelError(
            f"{path}: Blobs Finder wants the planes {shown(planes)}, the package makes "
            f"{', '.join(preprocessing.PLANES)}. {REMEDY}"
        )
    return manifest


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is no JSON number")


def _against_schema(manifest: dict[str, Any]) -> str:
    """The first thing in which a manifest departs from the schema, in words; '' where there is none."""
    # Only the task that loads networks pays for this import.
    import jsonschema

    validator = jsonschema.Draft202012Validator(json.loads(SCHEMA.read_text(encoding="utf-8")))
    error = jsonschema.exceptions.best_match(validator.iter_errors(manifest))
    if error is None:
        return ""
    place = [str(part) for part in error.absolute_path]
    if error.validator == "required":
        missing = ", ".join(key for key in error.validator_value if key not in error.instance)
        of = f" of network {place[1]}" if len(place) > 1 else f" of {place[0]}" if place else ""
        return f"lacks {missing}{of}"
    return f"has {'.'.join(place)} {shown(error.instance)}, where it must be {error.schema['description']}"
