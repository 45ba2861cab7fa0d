"""The XML of the task: what it declares, and that everything made from it agrees."""

from __future__ import annotations

import inspect
from pathlib import Path

import pytest

from casa_deepfocus import params
from casa_deepfocus.errors import ParameterError
from casa_deepfocus.pipeline import Options

OWN = (
    "vis imagename psf pb outfile overwrite mode minsnr falsealarms device models combine cluster completeness "
    "cutouts keepimages"
)
TCLEAN = (
    "selectdata field spw timerange uvrange antenna scan observation intent datacolumn imsize cell phasecenter "
    "stokes projection specmode reffreq nchan start width outframe veltype restfreq interpolation "
    "perchanweightdensity gridder wprojplanes mosweight usepointing pblimit normtype weighting robust npixels "
    "uvtaper parallel"
)
# Where our defaults are meant to be other than tclean's.
OTHER_DEFAULTS = {
    "specmode": "cube", "imsize": [], "uvtaper": [], "datacolumn": "", "interpolation": "nearest", "gridder": "",
}  # fmt: skip
OWN_CHOICE = {"gridder": {""}, "datacolumn": {""}}
"""Values that tclean does not have: we choose then."""


@pytest.fixture
def spec() -> params.TaskSpec:
    return params.sdeepfocus()


def test_names_in_positional_order(spec: params.TaskSpec) -> None:
    assert spec.names == (*OWN.split(), *TCLEAN.split())
    assert params.tclean_names() == tuple(TCLEAN.split())


def test_defaults(spec: params.TaskSpec) -> None:
    defaults = spec.defaults()
    assert [defaults[name] for name in OWN.split()] == [
        "",
        "",
        "",
        "",
        "",
        False,
        "both",
        5.0,
        0.00025,
        "auto",
        "",
        "",
        "",
        0,
        False,
        False,
    ]
    assert (Options.minsnr, Options.false_alarms) == (defaults["minsnr"], defaults["falsealarms"])
    defaults["imsize"].append(100)
    assert spec.defaults()["imsize"] == []


def test_every_parameter_is_explained_and_accepts_its_default(spec: params.TaskSpec) -> None:
    for parameter in spec.parameters:
        assert parameter.short and "default:" in parameter.description, parameter.name
        assert not parameter.allowed or parameter.default in parameter.allowed, parameter.name


def test_rules_name_parameters_that_exist(spec: params.TaskSpec) -> None:
    named = {name for rule in spec.rules for name in rule.defaults}
    assert named | spec.controllers <= set(spec.names)
    assert named == {p.name for p in spec.parameters if p.subparam}


def test_every_rule_value_is_allowed(spec: params.TaskSpec) -> None:
    for rule in spec.rules:
        allowed = spec[rule.controller].allowed
        assert not allowed or rule.value in allowed


@pytest.mark.parametrize(
    ("name", "given", "active"),
    [
        ("psf", {}, False),
        ("psf", {"imagename": "x.image"}, True),
        ("specmode", {"imagename": "x.image"}, False),
        ("specmode", {"vis": "x.ms"}, True),
        ("specmode", {"vis": ["x.ms", "y.ms"]}, True),
        ("nchan", {"vis": "x.ms"}, True),
        ("nchan", {}, False),
        ("nchan", {"specmode": "cube"}, False),
        ("nchan", {"vis": "x.ms", "specmode": "mfs"}, False),
        ("reffreq", {"vis": "x.ms", "specmode": "mfs"}, True),
        ("field", {"vis": "x.ms", "selectdata": False}, False),
        ("robust", {"vis": "x.ms"}, False),
        ("robust", {"vis": "x.ms", "weighting": "briggs"}, True),
    ],
)
def test_subparameters_follow_their_controllers(
    spec: params.TaskSpec, name: str, given: dict[str, object], active: bool
) -> None:
    assert spec.conditional_default(name, given)[0] is active


def test_a_subparameter_takes_the_default_of_its_rule(spec: params.TaskSpec) -> None:
    assert spec.value("outframe", {"vis": "x.ms"}) == "LSRK"
    assert spec.value("outframe", {"vis": "x.ms", "specmode": "cubesource"}) == "REST"
    assert spec.value("perchanweightdensity", {"vis": "x.ms", "specmode": "cubedata"}) is False


@pytest.mark.casa
def test_passed_on_parameters_are_tcleans(spec: params.TaskSpec) -> None:
    casatasks = pytest.importorskip("casatasks")
    tclean = params.read_task(Path(casatasks.__file__).parent / "__xml__" / "tclean.xml")
    for name in params.tclean_names():
        ours, theirs = spec[name], tclean[name]
        assert set(ours.types) == set(theirs.types), name
        assert set(ours.allowed) - OWN_CHOICE.get(name, set()) <= set(theirs.allowed) or not theirs.allowed, name
        assert ours.default == OTHER_DEFAULTS.get(name, theirs.default), name
        assert (ours.minimum, ours.maximum) == (theirs.minimum, theirs.maximum), name


@pytest.mark.casa
def test_signature_of_the_task(spec: params.TaskSpec) -> None:
    pytest.importorskip("casatools")
    from casa_deepfocus import sdeepfocus

    signature = inspect.signature(sdeepfocus)
    assert {n: p.default for n, p in signature.parameters.items()} == spec.defaults()


@pytest.mark.parametrize("text", [None, "<casaxml", "<casaxml/>"])
def test_what_is_not_a_task(tmp_path: Path, text: str | None) -> None:
    path = tmp_path / "x.xml"
    if text is not None:
        path.write_text(text)
    with pytest.raises(ParameterError, match="x.xml"):
        params.read_task(path)
