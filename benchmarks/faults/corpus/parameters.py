"""Parameters of a wrong type, out of their range, unknown, or at odds with each other; paths in every shape."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.faults import fields
from benchmarks.faults.case import Case, Trial

REFUSED: tuple[tuple[dict[str, Any], tuple[str, ...]], ...] = (
    ({"mode": "lines"}, ("mode", "'line'")),
    ({"mode": ""}, ("mode",)),
    ({"mode": 3}, ("mode",)),
    ({"mode": None}, ("mode",)),
    ({"mode": "line"}, ("mode", "channels")),
    ({"minsnr": 0.0}, ("minsnr", "positive")),
    ({"minsnr": -1.0}, ("minsnr",)),
    ({"minsnr": float("nan")}, ("minsnr",)),
    ({"minsnr": float("inf")}, ("minsnr",)),
    ({"minsnr": "five"}, ("minsnr",)),
    ({"minsnr": [5.0]}, ("minsnr",)),
    ({"minsnr": True}, ("minsnr",)),
    ({"falsealarms": 0.0}, ("falsealarms",)),
    ({"falsealarms": float("nan")}, ("falsealarms",)),
    ({"falsealarms": float("inf")}, ("falsealarms",)),
    ({"device": "gpu"}, ("device", "cuda")),
    ({"device": "cuda"}, ("device",)),
    ({"device": 0}, ("device",)),
    ({"models": "nowhere"}, ("models",)),
    ({"models": "."}, ("manifest",)),
    ({"overwrite": "yes"}, ("overwrite",)),
    ({"overwrite": 2}, ("overwrite",)),
    ({"keepimages": "no"}, ("keepimages",)),
    ({"outfile": 7}, ("outfile",)),
    ({"outfile": ["out"]}, ("outfile",)),
    ({"imagename": ""}, ("vis", "imagename")),
    ({"imagename": "missing.fits"}, ("imagename", "missing.fits")),
    ({"imagename": "."}, ("imagename",)),
    ({"imagename": "x.psf.fits", "psf": "x.psf.fits"}, ("psf",)),
    ({"imagename": 5}, ("imagename",)),
    ({"imagename": ["x.fits", "x.fits"]}, ("imagename",)),
    ({"vis": "x.fits"}, ("vis", "imagename")),
    ({"psf": "missing.fits"}, ("psf", "missing.fits")),
    ({"pb": "missing.fits"}, ("pb", "missing.fits")),
    ({"psf": "."}, ("psf",)),
    ({"pb": 3.0}, ("pb",)),
    ({"imagname": "x.fits"}, ("imagname",)),
    ({"threshold": "5mJy"}, ("threshold",)),
)  # fmt: skip
"""Parameters beside imagename='x.fits', and words that the error must have, all of them."""

HARMLESS: tuple[dict[str, Any], ...] = (
    {"minsnr": 5}, {"minsnr": 30.0}, {"falsealarms": 1e-9}, {"falsealarms": 0.1}, {"mode": "continuum"},
    {"models": "compact"}, {"device": "cpu"}, {"imagename": Path("x.fits")},
    {"imagename": Path("x.fits"), "psf": Path("x.psf.fits")},
    {"outfile": Path("out")}, {"imagename": "./x.fits"}, {"imagename": "x.fits/"}, {"keepimages": True},
    {"pblimit": 0.3}, {"cell": "0.1parsec"},
)  # fmt: skip
"""Parameters beside imagename='x.fits' that change nothing of what is found."""


def cases() -> Iterator[Case]:
    """The cases of this kind."""
    for number, (values, words) in enumerate(REFUSED):
        yield Case(f"parameters/{number} {_text(values)}", partial(_refused, values, words))
    for number, values in enumerate(HARMLESS):
        yield Case(f"parameters/fine {number} {_text(values)}", partial(_harmless, values))
    for name, make in _OTHERS.items():
        yield Case(f"parameters/{name}", make)


def _text(values: dict[str, Any]) -> str:
    return " ".join(f"{name}={value}" for name, value in values.items()).replace("/", "|")


def _refused(values: dict[str, Any], words: tuple[str, ...], folder: Path, shared: Path) -> Trial:
    fields.write_field(folder, fields.image())
    return Trial({"imagename": "x.fits"} | values, words=tuple((word,) for word in words))


def _harmless(values: dict[str, Any], folder: Path, shared: Path) -> Trial:
    field = fields.image()
    header = fields.write_field(folder, field)
    return Trial({"imagename": "x.fits"} | values, fields.truth(field, header), beam=field.beam)


def _absolute(folder: Path, shared: Path) -> Trial:
    trial = _harmless({}, folder, shared)
    return Trial({"imagename": str(folder / "x.fits")}, trial.truth, beam=trial.beam)


def _in_home(folder: Path, shared: Path) -> Trial:
    import os

    os.environ["HOME"] = str(folder)
    trial = _harmless({}, folder, shared)
    return Trial({"imagename": "~/x.fits"}, trial.truth, beam=trial.beam)


_OTHERS: dict[str, Callable[[Path, Path], Trial]] = {"absolute path": _absolute, "path in the home": _in_home}
