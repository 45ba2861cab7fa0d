"""Every bad input is refused before any work, by name, with a way out."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from casa_deepfocus import params
from casa_deepfocus.errors import DataError, ParameterError, ProductError

pytest.importorskip("casatools")
from casa_deepfocus.casa import inputs  # noqa: E402

pytestmark = pytest.mark.casa
pytest_plugins = ["casa_fixtures"]


@pytest.fixture
def plane(tiny_images: Path, tmp_path: Path) -> str:
    """One channel of the tiny cube."""
    from casatasks import imsubimage

    name = str(tmp_path / "plane.image")
    imsubimage(imagename=f"{tiny_images}.image", outfile=name, chans="3", dropdeg=True)
    return name


def refused(error: type, *words: str, **parameters) -> None:
    before = sorted(Path().iterdir())
    with pytest.raises(error) as caught:
        inputs.check(parameters)
    for word in words:
        assert word in str(caught.value)
    assert sorted(Path().iterdir()) == before


def test_a_good_request_is_complete(tiny_ms, tiny_images):
    request = inputs.check({"vis": str(tiny_ms), "datacolumn": "data", "imsize": 64})
    assert (request.vis, request.outfile, request.mode, request.minsnr) == ((str(tiny_ms),), "tiny", "both", 5.0)
    assert request.tclean["datacolumn"] == "data" and request.tclean["imsize"] == 64
    assert "vis" not in request.tclean and "keepimages" not in request.tclean
    request = inputs.check({"imagename": f"{tiny_images}.image", "mode": "line", "minsnr": 4, "device": "cpu"})
    assert (request.vis, request.outfile, request.mode, request.minsnr) == ((), "tiny", "line", 4.0)


def test_the_default_outfile_is_the_inputs_name_in_the_current_folder():
    assert inputs.default_outfile("/data/a.contsub.ms") == "a.contsub"
    assert inputs.default_outfile("/data/b.image/") == "b"
    assert inputs.default_outfile("c.cii.dirty.fits") == "c.cii.dirty"
    assert inputs.default_outfile("d.image.fits") == "d"
    assert inputs.default_outfile("e.residual") == "e.residual"


def test_vis_and_imagename_both_or_neither(tiny_ms, tiny_images):
    refused(ParameterError, "vis", "either")
    refused(ParameterError, "vis", "either", vis=str(tiny_ms), imagename=f"{tiny_images}.image")
    refused(ParameterError, "vis", "either", vis=[], imagename="")


def test_paths_that_do_not_exist(tiny_images):
    image = f"{tiny_images}.image"
    refused(ParameterError, "vis=", "does not exist", vis="none.ms")
    refused(ParameterError, "imagename=", "does not exist", imagename="none.image")
    refused(ParameterError, "psf=", "does not exist", imagename=image, psf="none.psf")
    refused(ParameterError, "pb=", "does not exist", imagename=image, pb="none.pb")
    refused(ParameterError, "models=", "no such folder", imagename=image, models="nowhere")


def test_psf_belongs_to_imagename(tiny_ms, tiny_images):
    refused(ParameterError, "psf=", "imagename", vis=str(tiny_ms), psf=f"{tiny_images}.psf", datacolumn="data")


def test_paths_that_are_something_else(tiny_images, tmp_path):
    (tmp_path / "folder.ms").mkdir()
    refused(DataError, "folder.ms", "no measurement set", vis="folder.ms")
    refused(DataError, "no measurement set", vis=f"{tiny_images}.image")
    (tmp_path / "text.fits").write_text("text")
    refused(DataError, "text.fits", "cannot be read", imagename="text.fits")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("mode", "lines"),
        ("device", "tpu"),
        ("minsnr", 0),
        ("minsnr", -1.0),
        ("minsnr", float("nan")),
        ("minsnr", "5"),
        ("falsealarms", 0),
    ],
)
def test_values_that_are_not_allowed(tiny_images, name, value):
    refused(ParameterError, f"{name}=", imagename=f"{tiny_images}.image", **{name: value})


def test_a_parameter_that_does_not_exist(tiny_images):
    refused(ParameterError, "nosuch=", imagename=f"{tiny_images}.image", nosuch=1)


def test_no_corrected_data(tiny_ms):
    refused(ParameterError, "datacolumn=", "CORRECTED_DATA", "datacolumn='data'", vis=str(tiny_ms),
            datacolumn="corrected")  # fmt: skip
    request = inputs.check({"vis": str(tiny_ms)})
    assert request.tclean["datacolumn"] == "data"
    assert any("DATA" in note and "no CORRECTED_DATA" in note for note in request.notes)


@pytest.mark.parametrize(
    ("name", "value"),
    [("field", "NGC5921"), ("field", "7"), ("spw", "3"), ("scan", "99"), ("timerange", ">2031/01/01"),
     ("uvrange", ">90km"), ("antenna", "NONE"), ("intent", "*NOSUCH*"), ("observation", 5)],
)  # fmt: skip
def test_a_selection_that_leaves_nothing(tiny_ms, name, value):
    refused(ParameterError, f"{name}=", "selects nothing", vis=str(tiny_ms), datacolumn="data", **{name: value})


@pytest.mark.parametrize("value", ["0:90", "0:8~95", "0:20~30;1~3", "0:90~95^2", "*:12"])
def test_channels_that_no_window_has_are_not_taken_for_the_last(tiny_ms, value):
    refused(ParameterError, "spw=", "beyond the last channel", vis=str(tiny_ms), datacolumn="data", spw=value)
    inputs.check({"vis": str(tiny_ms), "datacolumn": "data", "spw": "0:5~7"})


@pytest.mark.parametrize("name", ["imagename", "psf", "pb"])
def test_a_folder_is_no_image(tiny_images, name):
    given = {"imagename": f"{tiny_images}.image"} | {name: "."}
    refused(ParameterError, f"{name}='.'", "folder", **given)


def test_what_is_no_measurement_set_is_said_before_the_outfile(tiny_ms):
    refused(DataError, "vis='.'", "measurement set", vis=".", datacolumn="data")


def test_a_selection_that_leaves_something(tiny_ms):
    chosen = {"field": "tiny", "spw": "0:1~6", "scan": "1", "uvrange": ">20m"}
    inputs.check({"vis": str(tiny_ms), "datacolumn": "data", **chosen})
    inputs.check({"vis": str(tiny_ms), "datacolumn": "data", "selectdata": False, "scan": "99"})


def test_several_measurement_sets_have_their_own_selection(tiny_ms):
    twice = [str(tiny_ms), str(tiny_ms)]
    assert inputs.check({"vis": twice, "datacolumn": "data", "spw": ["0:0~3", "0:4~7"]}).vis == tuple(twice)
    refused(ParameterError, "spw=", vis=twice, datacolumn="data", spw=["0", "5"])


def test_mode_line_needs_channels(tiny_ms, tiny_images, plane):
    refused(ParameterError, "mode=", "spectral axis", "continuum", imagename=plane, mode="line")
    for wrong in ({"specmode": "mfs"}, {"nchan": 1}):
        refused(ParameterError, "mode=", "spectral axis", vis=str(tiny_ms), datacolumn="data", mode="line", **wrong)
    request = inputs.check({"imagename": plane})
    assert request.mode == "continuum" and "one channel" in request.notes[0]
    assert inputs.check({"imagename": plane, "mode": "continuum"}).mode == "continuum"


def test_an_image_in_another_unit_or_frame_is_refused_before_any_work(tiny_images, tmp_path):
    from casatasks import imhead

    shutil.copytree(f"{tiny_images}.image", "kelvin.image")
    imhead("kelvin.image", mode="put", hdkey="bunit", hdvalue="K")
    refused(DataError, "Jy/beam", imagename="kelvin.image")


def test_folders_that_cannot_be_written(tiny_images):
    image = f"{tiny_images}.image"
    refused(ProductError, "nowhere", "does not exist", imagename=image, outfile="nowhere/x")
    refused(ParameterError, "outfile=", "prefix", imagename=image, outfile="here/")
    refused(ProductError, "/proc", "nothing can be written", imagename=image, outfile="/proc/x")


@pytest.mark.parametrize("parameter", [p for p in params.sdeepfocus().parameters if p.minimum or p.maximum])
def test_the_ranges_of_the_xml_are_those_of_the_checks(parameter):
    """What `inp` shows in red is what the task refuses, and the other way round."""
    for limit, beyond in ((parameter.minimum, -1.0), (parameter.maximum, 1.0)):
        if limit is None:
            continue
        assert inputs.read({"imagename": "x.fits", parameter.name: limit}).values[parameter.name] == limit
        with pytest.raises(ParameterError, match=parameter.name):
            inputs.read({"imagename": "x.fits", parameter.name: limit + beyond * 1e-6 * max(abs(limit), 1.0)})


@pytest.mark.parametrize("value", ["CO", "1.4 km/s", -1.0, ["nothing"]])
def test_a_rest_frequency_is_a_frequency(value):
    with pytest.raises(ParameterError, match="restfreq"):
        inputs.read({"imagename": "x.fits", "restfreq": value})
