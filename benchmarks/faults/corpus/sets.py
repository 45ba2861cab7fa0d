"""Measurement sets: what is selected, what is flagged, and parameters of the imaging that cannot be right."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.faults import sets
from benchmarks.faults.case import Case, Trial
from sim.casa_backend import casa_tool

REFUSED: tuple[tuple[dict[str, Any], tuple[tuple[str, ...], ...]], ...] = (
    ({"pblimit": 1.5}, (("pblimit",),)),
    ({"pblimit": -2.0}, (("pblimit",),)),
    ({"pblimit": 1.0}, (("pblimit",),)),
    ({"cell": "0.5arcsec"}, (("cell",), ("beam",))),
    ({"cell": "10arcsec"}, (("cell",), ("beam",))),
    ({"cell": "0arcsec"}, (("cell",),)),
    ({"cell": "-1arcsec", "imsize": 0}, (("imsize", "cell"),)),
    ({"cell": "nonsense"}, (("cell",),)),
    ({"cell": ["0.1arcsec", "0.2arcsec"]}, (("cell",), ("square",))),
    ({"imsize": 8}, (("imsize",),)),
    ({"imsize": 20}, (("imsize",),)),
    ({"imsize": 0}, (("imsize",),)),
    ({"imsize": -5}, (("imsize",),)),
    ({"imsize": [128, 128, 128]}, (("imsize",),)),
    ({"imsize": 200000}, (("imsize", "memory"), ("memory", "pixels"))),
    ({"antenna": "0&1"}, (("antenna",), ("baseline",))),
    ({"antenna": "nobody"}, (("antenna",),)),
    ({"uvrange": "0~0.001m"}, (("uvrange",),)),
    ({"uvrange": ">100km"}, (("uvrange",),)),
    ({"field": "nobody"}, (("field",),)),
    ({"field": "7"}, (("field",),)),
    ({"spw": "9"}, (("spw",),)),
    ({"spw": "0:90~95"}, (("spw",),)),
    ({"timerange": "1999/01/01"}, (("timerange",),)),
    ({"scan": "99"}, (("scan",),)),
    ({"intent": "NOTHING*"}, (("intent",),)),
    ({"observation": "5"}, (("observation",),)),
    ({"datacolumn": "corrected"}, (("datacolumn",), ("data",))),
    ({"datacolumn": "model"}, (("datacolumn",),)),
    ({"specmode": "mvc"}, (("specmode",),)),
    ({"gridder": "awproject"}, (("gridder",),)),
    ({"weighting": "heavy"}, (("weighting",),)),
    ({"weighting": "briggs", "robust": 5.0}, (("robust",),)),
    ({"nchan": 0}, (("nchan",),)),
    ({"start": "900GHz"}, (("start",),)),
    ({"width": "0MHz"}, (("width",),)),
    ({"psf": "x.psf.fits"}, (("psf",),)),
    ({"vis": "missing.ms"}, (("vis",), ("missing.ms",))),
    ({"vis": ["plain.ms", "missing.ms"]}, (("vis",), ("missing.ms",))),
    ({"vis": ["plain.ms", "plain.ms"]}, (("vis",), ("twice", "same", "duplicate", "once"))),
    ({"vis": "."}, (("vis",),)),
)  # fmt: skip
"""Parameters of plain.ms, and what an error must say."""

FINE: tuple[dict[str, Any], ...] = (
    {}, {"vis": Path("plain.ms")}, {"vis": ["plain.ms"]}, {"vis": "plain.ms/"}, {"imsize": 128, "cell": 0.1},
    {"restoringbeam": "1.3arcsec"}, {"restoringbeam": "common"}, {"weighting": "briggs", "robust": 0.5},
    {"specmode": "cubedata"}, {"pblimit": 0.1}, {"field": "0"}, {"outframe": "TOPO"},
)  # fmt: skip
"""Parameters of plain.ms that change nothing of what is found; restoringbeam may be no parameter any more."""


def cases() -> Iterator[Case]:
    """The cases of this kind."""
    for number, (values, words) in enumerate(REFUSED):
        yield Case(f"sets/{number} {_text(values)}", partial(_plain, values, words))
    for number, values in enumerate(FINE):
        yield Case(f"sets/fine {number} {_text(values)}", partial(_plain, values, None))
    for name, make in _OTHERS.items():
        yield Case(f"sets/{name}", make)


def _text(values: dict[str, Any]) -> str:
    return " ".join(f"{name}={value}" for name, value in values.items()).replace("/", "|") or "as it is"


def _plain(values: dict[str, Any], words: Any, folder: Path, shared: Path) -> Trial:
    # Nothing here writes into a measurement set that it images; one that did would be seen.
    shutil.copytree(shared / "plain.ms", folder / "plain.ms")
    parameters = {"vis": "plain.ms", **sets.IMAGE, **values}
    if words is not None:
        return Trial(parameters, words=words)
    may = "restoringbeam" in values
    frame_moves = "outframe" in values or values.get("specmode") == "cubedata"
    truth = sets.expected()
    if frame_moves:
        truth = tuple(_without_line(source) for source in truth)
    return Trial(parameters, truth, may_refuse=may, words=(("restoringbeam",),) if may else (), beam=sets.BEAM)


def _without_line(source: Any) -> Any:
    """Frequencies and widths are those of another frame; the place is what is left to compare."""
    from dataclasses import replace

    return replace(source, position_only=True)


def _data(folder: Path, shared: Path, *, change: Any, words: Any = None, may: bool = False, warns: Any = ()) -> Trial:
    name = sets.copy(shared, folder, change=change)
    parameters = {"vis": name, **sets.IMAGE}
    if words is not None and not may:
        return Trial(parameters, words=((name,), *words))
    return Trial(parameters, sets.expected(), may_refuse=may, words=words or (), beam=sets.BEAM, warns=warns)


def _empty(folder: Path, shared: Path) -> Trial:
    with casa_tool("table", shared / "plain.ms") as tb:
        tb.copy(str(folder / "plain.ms"), deep=True, norows=True).done()
    for path in (shared / "plain.ms").iterdir():
        if path.is_dir() and not (folder / "plain.ms" / path.name).is_dir():
            shutil.copytree(path, folder / "plain.ms" / path.name)
    return Trial({"vis": "plain.ms", **sets.IMAGE}, words=(("plain.ms",), ("visibilities", "rows")))


def _corrected(folder: Path, shared: Path) -> Trial:
    """A CORRECTED_DATA column of zeros, as simobserve leaves it, and the default datacolumn."""

    def change(tb: Any) -> None:
        description = tb.getcoldesc("DATA") | {"comment": "corrected"}
        tb.addcols({"CORRECTED_DATA": description})
        tb.putcol("CORRECTED_DATA", 0 * tb.getcol("DATA"))

    name = sets.copy(shared, folder, change=change)
    image = {key: value for key, value in sets.IMAGE.items() if key != "datacolumn"}
    return Trial({"vis": name, **image}, words=((name,), ("CORRECTED", "corrected"), ("zero", "0")))


def _both(folder: Path, shared: Path, *, field: str = "", gridder: str = "standard") -> Trial:
    name = sets.copy(shared, folder, "both")
    parameters = {"vis": name, **sets.IMAGE, "gridder": gridder} | ({"field": field} if field else {})
    if field:
        return Trial(parameters, sets.expected(), beam=sets.BEAM)
    return Trial(parameters, beam=sets.BEAM, targets=(sets.expected(), sets.expected(sets.OTHER)))


def _list_of_two(folder: Path, shared: Path) -> Trial:
    for name in ("plain", "other"):
        sets.copy(shared, folder, name)
    parameters = {"vis": ["plain.ms", "other.ms"], **sets.IMAGE}
    return Trial(parameters, beam=sets.BEAM, targets=(sets.expected(), sets.expected(sets.OTHER)))


def _one_channel(folder: Path, shared: Path) -> Trial:
    name = sets.copy(shared, folder, "one")
    return Trial({"vis": name, **sets.IMAGE}, sets.expected(sets.ONE), beam=sets.BEAM)


def _damaged(folder: Path, shared: Path, *, name: str) -> Trial:
    place = folder / name
    if name == "text.ms":
        place.write_text("no table")
    elif name == "image.ms":
        from casatools import image

        ia = image()
        ia.fromshape(str(place), [8, 8])
        ia.done()
    elif name == "empty.ms":
        place.mkdir()
    else:
        sets.copy(shared, folder)
        shutil.move(folder / "plain.ms", place)
        table = "table.dat" if name == "no-table.ms" else "FIELD"
        target = place / table
        target.unlink() if target.is_file() else shutil.rmtree(target)
    return Trial({"vis": name, **sets.IMAGE}, words=(("vis",), (name,)))


_FLAG = (("flag",),)
_OTHERS: dict[str, Callable[[Path, Path], Trial]] = {
    "all flagged": partial(_data, change=sets.flag(2.0), words=_FLAG),
    "half flagged": partial(_data, change=sets.flag(0.5)),
    "weights of zero": partial(_data, change=sets.constant("WEIGHT", 0.0), words=(("weight",),)),
    "weights of nan": partial(_data, change=sets.constant("WEIGHT", float("nan")), words=(("weight",),)),
    "data of zero": partial(_data, change=sets.constant("DATA", 0.0), words=(("zero", "0"),)),
    "data of nan": partial(_data, change=sets.constant("DATA", float("nan")), words=(("nan", "NaN"),)),
    "a tenth of the data nan": partial(_data, change=sets.some_nan(0.1), may=True, words=(("nan",),)),
    "no rows": _empty,
    "corrected column of zeros": _corrected,
    "two targets": _both,
    "two targets, wproject": partial(_both, gridder="wproject"),
    "one of two targets": partial(_both, field="0"),
    "two targets in two sets": _list_of_two,
    "one channel": _one_channel,
    **{
        f"damaged {name}": partial(_damaged, name=name)
        for name in ("text.ms", "image.ms", "empty.ms", "no-table.ms", "no-field.ms")
    },
}
