"""Files and folders in the way of the products, and inputs that a product would replace."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.faults import fields
from benchmarks.faults.case import Case, Trial

NOTE = "my own notes"
PRODUCTS = (".cat.ecsv", ".cat.vot", ".crtf", ".cl", ".mask", ".prob", ".html", ".png")


def cases() -> Iterator[Case]:
    """The cases of this kind."""
    for ending in PRODUCTS:
        for kind in ("folder", "file"):
            yield Case(f"files/own {kind} in place of {ending}", partial(_in_the_way, ending, kind))
        yield Case(f"files/older {ending} without overwrite", partial(_older, ending))
    for name, make in _CASES.items():
        yield Case(f"files/{name}", make)


def _input(folder: Path, name: str = "x") -> Trial:
    field = fields.image()
    header = fields.write_field(folder, field, name)
    return Trial({"imagename": f"{name}.fits"}, fields.truth(field, header), beam=field.beam)


def _with(trial: Trial, *, outfile: str = "out", **more: Any) -> Trial:
    from dataclasses import replace

    parameters = trial.parameters | {"outfile": outfile} | more
    return replace(trial, parameters=parameters, outfile=os.path.normpath(os.path.expanduser(outfile)))


def _refused(trial: Trial, *words: tuple[str, ...]) -> Trial:
    from dataclasses import replace

    return replace(trial, truth=None, words=(("outfile", "imagename", "psf", "pb"), *words))


def _in_the_way(ending: str, kind: str, folder: Path, shared: Path) -> Trial:
    """A folder or file of the user's under the name of a product: overwrite is for what the task has made."""
    trial = _with(_input(folder), overwrite=True)
    place = folder / f"out{ending}"
    if kind == "folder":
        place.mkdir()
        (place / "notes.txt").write_text(NOTE)
    else:
        place.write_text(NOTE)
    return _refused(trial, (f"out{ending}",))


def _older(ending: str, folder: Path, shared: Path) -> Trial:
    (folder / f"out{ending}").write_text("older")
    return _refused(_with(_input(folder)), (f"out{ending}",), ("overwrite",))


def _link_in(folder: Path, shared: Path) -> Trial:
    """The catalogue's name is a link to the input."""
    trial = _input(folder)
    (folder / "out.mask").symlink_to("x.fits")
    return _refused(_with(trial, overwrite=True), ("out.mask",))


def _linked_folder(folder: Path, shared: Path) -> Trial:
    """The input is a CASA image called as a product, seen through a linked folder."""
    from casatasks import importfits

    _input(folder)
    (folder / "real").mkdir()
    importfits(str(folder / "x.fits"), str(folder / "real" / "out.mask"))
    (folder / "linked").symlink_to("real")
    trial = Trial({"imagename": "real/out.mask", "psf": "x.psf.fits", "pb": "x.pb.fits"})
    return _refused(_with(trial, outfile="linked/out", overwrite=True), ("out.mask", "input"))


def _input_as_product(folder: Path, shared: Path, *, kind: str) -> Trial:
    """psf or pb lies under the name of a product."""
    _input(folder)
    name = "out.prob"
    from casatasks import importfits

    importfits(str(folder / f"x.{kind}.fits"), str(folder / name))
    other = "pb" if kind == "psf" else "psf"
    trial = Trial({"imagename": "x.fits", kind: name, other: f"x.{other}.fits"})
    return _refused(_with(trial, overwrite=True), (name,))


def _input_inside(folder: Path, shared: Path) -> Trial:
    """The image lies in a folder that is called as a product."""
    (folder / "out.mask").mkdir()
    fields.write_field(folder / "out.mask", fields.image())
    trial = Trial({"imagename": "out.mask/x.fits"})
    return _refused(_with(trial, overwrite=True), ("out.mask",))


def _named(outfile: str, folder: Path, shared: Path, *, may: bool = False) -> Trial:
    from dataclasses import replace

    trial = _with(_input(folder), outfile=outfile)
    if not may:
        return _refused(trial)
    return replace(trial, may_refuse=True, words=(("outfile",),))


def _kept_images(folder: Path, shared: Path) -> Trial:
    """A user's own image beside new products."""
    trial = _input(folder)
    (folder / "out.image").mkdir()
    (folder / "out.image" / "table.dat").write_text(NOTE)
    return _with(trial, overwrite=True)


def _overwrite(folder: Path, shared: Path) -> Trial:
    """Older products of ours are replaced."""
    from casa_deepfocus import sdeepfocus

    trial = _with(_input(folder), overwrite=True)
    sdeepfocus(imagename="x.fits", outfile="out")
    return trial


def _again(folder: Path, shared: Path) -> Trial:
    """Older products of ours are not."""
    from casa_deepfocus import sdeepfocus

    trial = _with(_input(folder))
    sdeepfocus(imagename="x.fits", outfile="out")
    return _refused(trial, ("overwrite",))


def _subfolder(folder: Path, shared: Path) -> Trial:
    (folder / "results").mkdir()
    return _with(_input(folder), outfile="results/out")


def _through_link(folder: Path, shared: Path) -> Trial:
    trial = _input(folder)
    (folder / "there").mkdir()
    shutil.move(folder / "x.fits", folder / "there" / "y.fits")
    (folder / "x.fits").symlink_to("there/y.fits")
    return _with(trial)


_CASES: dict[str, Callable[[Path, Path], Trial]] = {
    "product is a link to the input": _link_in,
    "input under a product's name through a link": _linked_folder,
    "psf under a product's name": partial(_input_as_product, kind="psf"),
    "pb under a product's name": partial(_input_as_product, kind="pb"),
    "input inside a product's folder": _input_inside,
    "own image beside the products": _kept_images,
    "older products with overwrite": _overwrite,
    "older products without overwrite": _again,
    "a folder that exists": _subfolder,
    "an input that is a link": _through_link,
    "outfile .": partial(_named, "."),
    "outfile ..": partial(_named, ".."),
    "outfile ./": partial(_named, "./"),
    "outfile sub dot": partial(_named, "./."),
    "outfile of a missing folder": partial(_named, "nowhere/out"),
    "outfile with a slash": partial(_named, "out/"),
    "outfile of a missing home": partial(_named, "~nobody-here/out"),
    "outfile of 300 characters": partial(_named, "o" * 300),
    "outfile of 250 characters": partial(_named, "o" * 250, may=True),
    "outfile with a space": partial(_named, "a b", may=True),
    "outfile with a quote": partial(_named, "it's", may=True),
    "outfile with a newline": partial(_named, "a\nb", may=True),
    "outfile with a star": partial(_named, "a*", may=True),
    "outfile with umlauts": partial(_named, "größe", may=True),
    "outfile ~ in the middle": partial(_named, "a~b", may=True),
    "outfile with a minus": partial(_named, "-out", may=True),
    "outfile as the image": partial(_named, "x", may=True),
}  # fmt: skip
