"""The task as a whole: what it returns, leaves behind and logs; the search itself is stood in for."""

from __future__ import annotations

import inspect
import json
import pickle
import shutil
import signal
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from astropy.table import Table
from casa_fixtures import TRUTH, make_result, with_lines, without_sources

from casa_deepfocus.core.catalogue import COLUMNS
from casa_deepfocus.core.cube import C_KMS
from casa_deepfocus.errors import DataError, ModelError, ParameterError, ProductError

pytest.importorskip("casatools")
from casa_deepfocus import params, pipeline  # noqa: E402
from casa_deepfocus.casa import imaging, outfiles, products, task_sdeepfocus  # noqa: E402
from casa_deepfocus.models import runner  # noqa: E402
from casa_deepfocus.products import report  # noqa: E402

pytestmark = pytest.mark.casa
pytest_plugins = ["casa_fixtures"]


@pytest.fixture
def search(monkeypatch):
    """Stand-ins for the networks and the search; holds the cube and the options that the search was given."""
    seen = SimpleNamespace(result=lambda cube: with_lines(make_result(cube), cube), calls=0)

    def load(models, device):
        return SimpleNamespace(info={"preset": "none", "device": "cpu", "threads": 1})

    def run(cube, networks, options, *, log, progress):
        seen.calls += 1
        seen.cube, seen.options = cube, options
        log("searching")
        progress("round 1", 3)
        return seen.result(cube)

    monkeypatch.setattr(runner, "load_networks", load)
    monkeypatch.setattr(pipeline, "run", run)
    return seen


@pytest.fixture
def messages(monkeypatch):
    """(message, priority, origin) posted to the CASA log by the task."""
    posted: list[tuple[str, str, str]] = []
    real, origins = task_sdeepfocus.casalog, [""]

    def origin(name):
        origins.append(name)
        return real.origin(name)

    def post(message, priority="INFO", **rest):
        posted.append((message, priority, origins[-1]))
        return real.post(message, priority=priority, **rest)

    monkeypatch.setattr(task_sdeepfocus, "casalog", SimpleNamespace(post=post, origin=origin))
    return posted


def names() -> set[str]:
    return {p.name for p in Path().iterdir()}


ALL = {f"out{suffix}" for suffix in outfiles.SUFFIXES}


def test_an_image_becomes_products_and_a_dict(search, messages, tiny_images):
    back = task_sdeepfocus.sdeepfocus(imagename=f"{tiny_images}.image", outfile="out", minsnr=4.0, falsealarms=0.1)
    assert names() == ALL
    assert back["counts"]["sources"] == len(TRUTH) == len(back["sources"])
    assert {Path(path).name for path in back["products"].values()} == ALL
    assert all(Path(path).is_absolute() for path in back["products"].values())
    assert {"check", "load networks", "read", "find", "write", "total"} <= set(back["timings"])
    assert "image" not in back["timings"]
    assert back["sources"][0]["name"] == "S1" and isinstance(back["sources"][0]["ra"], float)
    assert (search.options.minsnr, search.options.false_alarms) == (4.0, 0.1) and search.options.mode == "both"
    assert search.cube.psf_is_measured
    text = [message for message, _, origin in messages if origin == "sdeepfocus"]
    assert any("S2" in line and "unresolved" in line for line in text)
    assert any("out.html" in line for line in text) and any("out.png" in line for line in text)
    assert "searching" in text and "step: looking through the input" in text
    assert {origin for _, _, origin in messages} == {"sdeepfocus"}, "also after tclean has named itself"
    assert_like_a_dict(back)


def assert_like_a_dict(back):
    """The result is a plain dictionary for JSON, copies and pickles, and shows the table of its sources."""
    assert isinstance(back, dict) and json.loads(json.dumps(back))["counts"] == back["counts"]
    again = pickle.loads(pickle.dumps(back))
    assert json.dumps(again) == json.dumps(back) and len(again.catalogue) == len(TRUTH) and repr(again) == repr(back)
    lines = repr(back).splitlines()
    assert lines[0].split()[:3] == ["id", "name", "RA"] and lines[2].split()[:2] == ["1", "S1"]
    assert lines[-1] == f"report: {back['products']['html']}" and len(lines) < 12
    assert "velocity" in lines[0] and "unresolved: its size is not different" in repr(back)
    page = back._repr_html_()
    assert page.count("<tr>") == 1 + len(TRUTH) and 'scope="col"' in page and "<caption>" in page
    spectrum = back.spectra["S1"]
    assert spectrum.freq.shape == spectrum.flux.shape == spectrum.velocity.shape
    assert set(back.maps) == {"integrated", "probability", "noise"}
    row = back.catalogue[0]
    assert row["velocity"] == pytest.approx(C_KMS * (1.0 - row["freq"] / back.catalogue.meta["restfreq"]), abs=1e-6)


def test_a_measurement_set_is_imaged_and_the_scratch_is_gone(search, tiny_ms):
    back = task_sdeepfocus.sdeepfocus(
        vis=str(tiny_ms), datacolumn="data", imsize=[48, 40], cell="0.5arcsec", outfile="out"
    )
    assert names() == ALL
    assert search.cube.data.shape == (8, 40, 48) and search.cube.psf.shape == (8, 80, 96)
    assert back["timings"]["image"] > 0


def test_cutouts_are_a_folder_and_go_with_the_run_that_has_none(search, tiny_images):
    made = {"imagename": f"{tiny_images}.image", "outfile": "out"}
    back = task_sdeepfocus.sdeepfocus(**made, cutouts=True)
    assert names() == ALL | {"out.cutouts"} and back["products"]["cutouts"].endswith("out.cutouts")
    files = {path.name for path in Path("out.cutouts").iterdir()}
    assert files == {"1_S1.fits", "2_S2.fits", "3_S3.fits", "sdeepfocus.json"}
    with pytest.raises(ProductError, match="overwrite=True"):
        task_sdeepfocus.sdeepfocus(**made)
    task_sdeepfocus.sdeepfocus(**made, overwrite=True)
    assert names() == ALL


def test_kept_images_find_each_other_again(search, tiny_ms):
    task_sdeepfocus.sdeepfocus(
        vis=str(tiny_ms), datacolumn="data", imsize=48, cell="0.5arcsec", outfile="out", keepimages=True
    )
    assert names() == ALL | {"out.image", "out.psf", "out.pb"}
    first = search.cube
    task_sdeepfocus.sdeepfocus(imagename="out.image", outfile="again")
    np.testing.assert_array_equal(search.cube.data, first.data)
    np.testing.assert_array_equal(search.cube.psf, first.psf)


def test_values_come_in_the_order_of_the_xml(search, tiny_images):
    assert params.sdeepfocus().names[:6] == ("vis", "imagename", "psf", "pb", "outfile", "overwrite")
    task_sdeepfocus.sdeepfocus("", f"{tiny_images}.image", "", "", "out")
    assert names() == ALL
    assert "values" in inspect.signature(task_sdeepfocus.sdeepfocus).parameters


def test_nothing_found_is_said_and_old_regions_go(search, messages, tiny_images):
    image = f"{tiny_images}.image"
    task_sdeepfocus.sdeepfocus(imagename=image, outfile="out")
    search.result = lambda cube: without_sources(make_result(cube))
    back = task_sdeepfocus.sdeepfocus(imagename=image, outfile="out", overwrite=True)
    assert back["counts"]["sources"] == 0 and back["sources"] == []
    assert names() == ALL - {"out.crtf", "out.cl", "out.reg", "out.mom0", "out.mom1", "out.mom2"}
    assert "crtf" not in back["products"] and len(Table.read("out.cat.ecsv")) == 0
    assert any("0 sources" in message for message, _, _ in messages)


def test_the_missing_psf_is_warned_of(search, messages, tiny_images):
    from casatasks import exportfits

    exportfits(f"{tiny_images}.image", "alone.fits")
    task_sdeepfocus.sdeepfocus(imagename="alone.fits", outfile="out")
    assert any(priority == "WARN" and "PSF" in message for message, priority, _ in messages)
    assert not search.cube.psf_is_measured
    assert "sidelobes were not removed" in Path("out.html").read_text()


@pytest.mark.parametrize("where", [(pipeline, "run"), (report, "write"), (products, "write_all")])
def test_a_failure_anywhere_leaves_old_products_alone(search, tiny_images, monkeypatch, where):
    image = f"{tiny_images}.image"
    task_sdeepfocus.sdeepfocus(imagename=image, outfile="out")
    before = {name: Path(name).stat().st_mtime_ns for name in names()}

    def fail(*args, **kwargs):
        raise DataError("it went wrong")

    monkeypatch.setattr(*where, fail)
    with pytest.raises(DataError, match="it went wrong"):
        task_sdeepfocus.sdeepfocus(imagename=image, outfile="out", overwrite=True)
    assert {name: Path(name).stat().st_mtime_ns for name in names()} == before


@pytest.mark.parametrize("where", [(pipeline, "run"), (report, "write"), (products, "write_all")])
def test_an_interruption_anywhere_is_told_in_one_line_and_publishes_nothing(
    search, messages, tiny_images, monkeypatch, where
):
    real = getattr(*where)

    def interrupted(*args, **kwargs):
        try:
            signal.raise_signal(signal.SIGINT)
        except KeyboardInterrupt:
            # As a library does that catches everything: the next step sees it.
            return real(*args, **kwargs)

    monkeypatch.setattr(*where, interrupted)
    with pytest.raises(KeyboardInterrupt):
        task_sdeepfocus.sdeepfocus(imagename=f"{tiny_images}.image", outfile="out")
    assert names() == set()
    told = [message for message, priority, _ in messages if "interrupted" in message and priority == "WARN"]
    assert told == ["interrupted (SIGINT): nothing was written or changed"]


def test_stale_images_go_with_the_catalogue_they_belong_to(search, tiny_ms, tiny_images):
    image = f"{tiny_images}.image"
    made = {"vis": str(tiny_ms), "datacolumn": "data", "imsize": 48, "cell": "0.5arcsec", "outfile": "out"}
    task_sdeepfocus.sdeepfocus(**made, keepimages=True)
    kept = ALL | {"out.image", "out.psf", "out.pb"}
    assert names() == kept
    task_sdeepfocus.sdeepfocus(imagename="out.image", outfile="out", overwrite=True)
    assert names() == kept, "the input stays, with its companions"
    task_sdeepfocus.sdeepfocus(imagename=image, outfile="out", overwrite=True)
    assert names() == ALL


def test_a_disk_without_room_is_refused_before_the_search(search, tiny_images, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=10**6))
    with pytest.raises(ProductError, match="the products need .* MB of disk.*has 1 MB free"):
        task_sdeepfocus.sdeepfocus(imagename=f"{tiny_images}.image", outfile="out")
    assert search.calls == 0 and names() == set()


def test_damaged_networks_stop_the_task_before_imaging(tiny_ms, monkeypatch):
    Path("models").mkdir()
    Path("models/manifest.json").write_text("{}")
    monkeypatch.setattr(imaging, "make_images", lambda *_: pytest.fail("imaged before the networks were checked"))
    with pytest.raises(ModelError, match="manifest"):
        task_sdeepfocus.sdeepfocus(vis=str(tiny_ms), datacolumn="data", models="models", outfile="out")
    assert names() == {"models"}


def test_bad_parameters_stop_the_task_before_the_networks(search, monkeypatch):
    monkeypatch.setattr(runner, "load_networks", lambda *_: pytest.fail("networks loaded before the parameters"))
    with pytest.raises(ParameterError, match="either"):
        task_sdeepfocus.sdeepfocus()


def test_an_image_of_one_channel_is_searched_in_continuum(search, tiny_ms):
    search.result = lambda cube: without_sources(_blank(cube))
    task_sdeepfocus.sdeepfocus(
        vis=str(tiny_ms), datacolumn="data", imsize=48, cell="0.5arcsec", specmode="mfs", outfile="out"
    )
    assert search.options.mode == "continuum" and search.cube.nchan == 1


def _blank(cube):
    return pipeline.Result(
        catalogue=Table(names=[column[0] for column in COLUMNS]), probability=np.zeros(cube.shape, np.float32),
        mask=np.zeros(cube.data.shape, bool), integrated=np.zeros(cube.shape, np.float32),
        noise=np.ones(cube.nchan), details=[], timings={}, counts={},
    )  # fmt: skip


def test_the_plain_task_reaches_it(search, tiny_images):
    from casa_deepfocus.casa.tasks import sdeepfocus

    back = sdeepfocus(imagename=f"{tiny_images}.image", outfile="out")
    assert back["counts"]["sources"] == len(TRUTH) and names() == ALL
