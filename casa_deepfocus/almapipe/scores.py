"""QA scores of both stages: what they say, and from where on. The pipeline colours scores itself: up to 0.33 red, to
0.66 yellow, to 0.9 blue, above green.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from casa_deepfocus.almapipe.contdat import KEPT, OLD, WRITTEN
from casa_deepfocus.almapipe.record import Record
from casa_deepfocus.casa.continuum import LEAST_FREE
from casa_deepfocus.casa.plan import CONTINUUM
from casa_deepfocus.casa.runfolder import DONE

GOOD = 1.0

LOOK = 0.85
"""Blue: nothing is wrong with the data or the pipeline, but a person who uses the result should know it."""

PARTLY = 0.6
"""Yellow: a part of the search, or of what is handed on, is missing. Later stages do their own work in its place."""

NOTHING = 0.3
"""Red: the stage has done nothing at all. Later stages run as they would without it."""

DEEP = 5.0
"""What "how deep" means: the peak of a point source at this SNR, the task's own limit."""

FLOOR = 1.1
"""Ratio of the residual's rms to the noise from which the dynamic range limits the search; the search itself raises
its limits there."""

NARROW = 0.25
"""Share of a window free of lines below which its continuum is uncertain. hif_findcont warns of narrow selections as
well; at a quarter the continuum's noise is twice that of the whole window."""

AGREE = 0.5
"""Share of the width of our lines that hif_findroi has too, below which the two disagree: half of a line is seen by any
method that sees it."""


@dataclass(frozen=True)
class Score:
    """A QA score.

    Attributes
    ----------
    value : float
        0 to 1.
    long, short : str
    metric : (name, value, unit)
    spw, field : str
        What it holds for.
    """

    value: float
    long: str
    short: str
    metric: tuple[str, Any, str]
    spw: str = ""
    field: str = ""


def of_search(record: Record, problem: str) -> list[Score]:
    """Scores of the first stage.

    Parameters
    ----------
    record : Record
        Empty where nothing was searched.
    problem : str
        Why nothing was.
    """
    if problem:
        return [Score(NOTHING, f"Nothing was searched: {problem}", "Nothing searched", ("deepfocus.cubes", 0, ""))]
    found = []
    if record.get("contdat"):
        words = f"No line-free ranges were handed on: {record['contdat']}"
        found.append(Score(PARTLY, words, "cont.dat untouched", ("deepfocus.handed", 0, "")))
    for text in record.get("left_out", []):
        found.append(Score(LOOK, f"Left out: {text}", "Left out", ("deepfocus.left_out", 1, "")))
    for cube in record["cubes"]:
        where = f"{cube['target']}, " + ("continuum" if cube["label"] == CONTINUUM else f"spw {cube['spw']}")
        if cube["state"] != DONE:
            found.append(
                _score(cube, PARTLY, f"{where}: not searched: {cube['reason']}", "Search failed", ("failed", 1))
            )
            continue
        found.append(_sources(cube, where))
        found += _cautions(cube, where)
        if cube["spw"] and not record.get("contdat"):
            found.append(_free(cube, where))
        if "findroi" in cube:
            found.append(_agreement(cube, where))
    return found


def _score(
    cube: Mapping[str, Any], value: float, long: str, short: str, metric: tuple[str, Any], unit: str = ""
) -> Score:
    return Score(value, long, short, (f"deepfocus.{metric[0]}", metric[1], unit), cube["spw"], cube["target"])


def _sources(cube: Mapping[str, Any], where: str) -> Score:
    depth = 1e3 * DEEP * cube["noise"]
    channels = f" in a channel of {cube['nchan']}" if cube["nchan"] > 1 else ""
    deep = f"complete to about {depth:.3g} mJy/beam{channels} ({DEEP:g} sigma)"
    if not cube["rows"]:
        return _score(cube, LOOK, f"{where}: nothing found, {deep}", "Nothing found", ("depth", depth), "mJy/beam")
    number = f"{cube['rows']} source{'s' * (cube['rows'] != 1)}, {cube['lines']} with a line"
    return _score(cube, GOOD, f"{where}: {number}; {deep}", "Sources found", ("sources", cube["rows"]))


def _cautions(cube: Mapping[str, Any], where: str) -> list[Score]:
    found = []
    if cube["floor"] > FLOOR:
        words = f"{where}: limited by dynamic range, the residual has {cube['floor']:.2f} times the noise"
        found.append(_score(cube, LOOK, words, "Dynamic range limited", ("residual", cube["floor"]), "sigma"))
    if cube["edge"]:
        words = f"{where}: {cube['edge']} of {cube['lines']} lines end outside of the band; their fluxes are too low"
        found.append(_score(cube, LOOK, words, "Lines at band edge", ("band_edge", cube["edge"])))
    return found


def _free(cube: Mapping[str, Any], where: str) -> Score:
    share, percent = cube["share"], 100.0 * cube["share"]
    metric = ("line_free", percent)
    if cube["handed"] == KEPT:
        words = (
            f"{where}: cont.dat had ranges already, they are kept (we find {percent:.0f} % of the band free of lines)"
        )
        return _score(cube, GOOD, words, "cont.dat kept", metric, "%")
    if OLD in cube["handed"]:
        words = f"{where}: cont.dat is of the old format without frames and is left as it is"
        return _score(cube, PARTLY, words, "cont.dat untouched", metric, "%")
    if WRITTEN not in cube["handed"]:
        why = f"less than {100 * LEAST_FREE:.0f} % of the band is free of lines" if share < LEAST_FREE else "no frame"
        words = f"{where}: no ranges for cont.dat, {why}; hif_findcont decides"
        return _score(cube, PARTLY, words, "No line-free ranges", metric, "%")
    words = f"{where}: {percent:.0f} % of the band is free of lines and stands in cont.dat, by hifx_deepfocus"
    if share < NARROW:
        return _score(cube, LOOK, f"{words}: little to know the continuum from", "Little line-free band", metric, "%")
    return _score(cube, GOOD, words, "Line-free ranges handed on", metric, "%")


def _agreement(cube: Mapping[str, Any], where: str) -> Score:
    share = cube["findroi"]
    words = f"{where}: hif_findroi has {100 * share:.0f} % of the width of our lines"
    value, short = (GOOD, "Agrees with findROI") if share >= AGREE else (LOOK, "Differs from findROI")
    return _score(cube, value, words, short, ("findroi", 100.0 * share), "%")


def of_continuum_left(made: Sequence[Mapping[str, Any]]) -> list[Score]:
    """Of cubes that hif_makeimages makes with their continuum in, although some was found."""
    return [
        Score(
            PARTLY, f"{about['field']}, spw {about['spw']}: {about['continua']} sources have continuum, and it is left "
            "in the data of this cube; hif_uvcontsub takes it out", "Continuum left in",
            ("deepfocus.continua", about["continua"], ""), about["spw"], about["field"],
        )
        for about in made if about.get("continua")
    ]  # fmt: skip


def of_masks(made: Sequence[Mapping[str, Any]], problem: str) -> list[Score]:
    """Scores of the second stage."""
    if problem:
        return [Score(NOTHING, f"No masks: {problem}", "No masks", ("deepfocus.masks", 0, ""))]
    found = []
    for about in made:
        where = f"{about['field']}, spw {about['spw']}, {about['specmode']}"
        if about["mask"]:
            words = f"{where}: mask of {about['pixels']} pixels ({100 * about['share']:.2g} %) from the sources found"
            value, short = GOOD, "Mask set"
        elif about["failed"]:
            words, value, short = f"{where}: no mask: {about['reason']}", PARTLY, "Mask not made"
        else:
            words, value, short = f"{where}: left to the pipeline's own mask: {about['reason']}", LOOK, "Own mask"
        metric = ("deepfocus.mask_pixels", about["pixels"], "")
        found.append(Score(value, words, short, metric, about["spw"].split(",")[0], about["field"]))
    return found + of_continuum_left(made)


def finite(value: float) -> float | str:
    """A metric as the AQUA report can have it."""
    return value if math.isfinite(value) else "N/A"
