"""The outfile: whose files stand there, which names can be used, and that inputs and what users own is never lost."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from casa_fixtures import make_result, with_lines

from casa_deepfocus.errors import ParameterError, ProductError

pytest.importorskip("casatools")
from outfile_fixtures import make_product  # noqa: E402

from casa_deepfocus.casa import images, inputs, outfiles, products  # noqa: E402

pytestmark = pytest.mark.casa
pytest_plugins = ["casa_fixtures"]


def check(image: str, outfile: str, **parameters) -> inputs.Request:
    return inputs.check({"imagename": image, "outfile": outfile, **parameters})


def tree(folder: Path = Path()) -> list[str]:
    return sorted(str(path) for path in folder.rglob("*"))


def refused(error: type, image: str, outfile: str, *words: str, **parameters) -> None:
    before = tree()
    with pytest.raises(error) as caught:
        check(image, outfile, **parameters)
    for word in words:
        assert word in str(caught.value)
    assert tree() == before


@pytest.fixture
def image(tiny_copy: Path) -> str:
    return f"{tiny_copy}.image"


def test_every_product_says_whose_it_is(image, tmp_path):
    cube, template = images.read_cube(image)
    result = with_lines(make_result(cube), cube)
    products.write_all(tmp_path, "out", result, cube, template)
    outfiles.mark(tmp_path)
    assert all(outfiles.ours(f"out{ending}") for ending in outfiles.SUFFIXES)
    assert inputs.check({"imagename": image, "outfile": "out", "overwrite": True}).overwrite
    shutil.copytree("out.mask", "copy.mask")
    assert not outfiles.ours("copy.mask"), "a copy under another name is the user's"
    from casatasks import imsubimage, rmtables

    imsubimage("out.mask", outfile="made.mask")
    assert not outfiles.ours("made.mask"), "what another task has made of a product is the user's"
    rmtables(["out.mask", "out.cl"])
    assert not Path("out.mask").exists() and not Path("out.cl").exists()


@pytest.mark.parametrize("ending", outfiles.SUFFIXES)
def test_older_products_need_overwrite(image, ending):
    make_product(Path(f"old{ending}"))
    refused(ProductError, image, "old", f"old{ending}", "overwrite=True")
    assert check(image, "old", overwrite=True).overwrite


@pytest.mark.parametrize("ending", outfiles.SUFFIXES)
@pytest.mark.parametrize("kind", ["file", "folder", "link", "empty"])
def test_what_a_user_owns_is_never_in_the_way_of_overwrite(image, ending, kind):
    path = Path(f"mine{ending}")
    if kind == "file":
        path.write_text("mine")
    elif kind == "link":
        path.symlink_to("nowhere")
    else:
        path.mkdir()
        if kind == "folder":
            (path / "data").write_text("mine")
    refused(ProductError, image, "mine", f"mine{ending}", "not made by sdeepfocus", overwrite=True)
    refused(ProductError, image, "mine", f"mine{ending}")


def test_images_of_an_earlier_run_go_unless_they_are_read(image, tiny_ms):
    vis = {"vis": str(tiny_ms), "datacolumn": "data", "outfile": "old"}
    Path("old.image").mkdir()
    inputs.check(vis)
    assert outfiles.endings("old", [image], keeps_images=False) == outfiles.SUFFIXES, "the user's own stay"
    with pytest.raises(ProductError, match="not made by sdeepfocus"):
        inputs.check({**vis, "keepimages": True, "overwrite": True})
    Path("old.image").rmdir()
    make_product(Path("old.image"))
    make_product(Path("old.psf"))
    with pytest.raises(ProductError, match="old.image.*overwrite=True"):
        inputs.check(vis)
    assert outfiles.endings("old", [image], keeps_images=False) == (*outfiles.SUFFIXES, ".image", ".psf")
    for read in ("old.image", "./old.psf", os.path.abspath("old.image")):
        assert outfiles.endings("old", [read], keeps_images=False) == outfiles.SUFFIXES
    os.symlink("old.psf", "link")
    assert outfiles.endings("old", ["link"], keeps_images=False) == outfiles.SUFFIXES


@pytest.mark.parametrize("ending", [".mask", ".prob", ".cl"])
def test_no_product_takes_an_input(image, ending):
    """Its own name, by links to it and from it, in linked folders; also where it is a product of ours."""
    name = f"x{ending}"
    shutil.copytree(image, name)
    outfiles.mark(Path())
    refused(ParameterError, name, "x", "overwrite the input", overwrite=True)
    os.symlink(name, "elsewhere")
    refused(ParameterError, "elsewhere", "x", "overwrite the input", overwrite=True)
    os.symlink(".", "folder")
    refused(ParameterError, name, "folder/x", "overwrite the input", overwrite=True)
    refused(ParameterError, f"folder/{name}", "x", "overwrite the input", overwrite=True)
    os.symlink(name, f"y{ending}")
    refused(ParameterError, f"y{ending}", "y", "overwrite the input", overwrite=True)
    refused(ParameterError, name, "y", "overwrite the input", overwrite=True)
    assert check(name, "other").outfile == "other"


@pytest.mark.parametrize("parameter", ["psf", "pb"])
def test_companions_are_inputs_too(image, parameter):
    shutil.copytree(image.replace(".image", f".{parameter}"), "x.prob")
    outfiles.mark(Path())
    refused(ParameterError, image, "x", "overwrite the input", overwrite=True, **{parameter: "x.prob"})


def test_hard_links_are_one_file(image):
    from casatasks import exportfits

    exportfits(image, "in.fits")
    os.link("in.fits", "x.png")
    refused(ParameterError, "in.fits", "x", "overwrite the input", overwrite=True)


def test_nothing_is_written_into_an_input_nor_an_input_removed_with_a_product(image):
    refused(ParameterError, image, f"{image}/x", "lies inside")
    Path(image, "notes").mkdir()
    refused(ParameterError, image, f"{image}/notes/x", "lies inside the input")
    os.symlink(f"{image}/notes", "linked")
    refused(ParameterError, image, "linked/x", "lies inside the input")
    shutil.copytree(image, "table.image")
    refused(ParameterError, image, "table.image/x", "a table of CASA's")
    make_product(Path("y.mask"))
    shutil.move(image, "y.mask/in.image")
    refused(ParameterError, "y.mask/in.image", "y", "overwrite the input", overwrite=True)
    make_product(Path("z.pb"))
    os.rename("y.mask/in.image", "z.pb/in.image")
    assert ".pb" not in outfiles.endings("z", ["z.pb/in.image"], keeps_images=False)


@pytest.mark.parametrize("outfile", [".", "..", "here/", "here/.", "here/..", "/"])
def test_folders_are_no_prefix(image, outfile):
    Path("here").mkdir()
    refused(ParameterError, image, outfile, "outfile=", "prefix")


@pytest.mark.parametrize("outfile", ["a\nb", "a\tb", "a\x00b", "a::b", "\udcff"])
def test_names_that_casa_cannot_write(image, outfile):
    refused(ParameterError, image, outfile, "outfile=", "Choose another")


@pytest.mark.parametrize(
    "outfile", ["a b", "q'x", '"q', "b\\x", "*[x]?", "(a,b)", "été", "a;b|c", ".x", "x.", "-x", "%s{x}"]
)
def test_other_names_are_written_and_read(image, outfile, tmp_path):
    assert check(image, outfile).outfile == outfile
    cube, template = images.read_cube(image)
    images.write_sky(str(tmp_path / f"{outfile}.prob"), np.ones(cube.shape, np.float32), template)
    with images.opened(f"{outfile}.prob") as ia:
        assert ia.shape()[0] == cube.shape[1]


def test_home_and_variables(image, tmp_path, monkeypatch):
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("PLACE", str(home))
    assert check(image, "~/x").outfile == check(image, "$PLACE/x").outfile == f"{home}/x"
    refused(ParameterError, image, "~nobody_of_this_name/x", "./~nobody_of_this_name/x")
    Path("~").mkdir()
    assert check(image, "./~x").outfile == "./~x" and check(image, "./~/x").outfile == "./~/x"
    Path("$PLACE").mkdir()
    monkeypatch.chdir("$PLACE")
    refused(ParameterError, image, "x", "$", "variable")


def test_names_as_long_as_the_folder_takes(image):
    longest = 255 - max(map(len, outfiles.SUFFIXES + outfiles.FITS))
    assert check(image, "x" * longest).outfile
    refused(ParameterError, image, "x" * (longest + 1), "too long", str(longest))
    refused(ParameterError, image, "é" * (longest // 2 + 1), "too long")
    deep = Path("/".join(["d" * 200] * 20))
    fd = os.open(".", os.O_RDONLY)
    try:
        for part in deep.parts[:19]:
            os.mkdir(part, dir_fd=fd)
            inner = os.open(part, os.O_RDONLY, dir_fd=fd)
            os.close(fd)
            fd = inner
    finally:
        os.close(fd)
    refused(ParameterError, image, str(Path(*deep.parts[:19]) / ("x" * 190)), "too long a path")
