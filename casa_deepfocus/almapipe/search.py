"""The first stage's work: what the context has to search, the search, and what is handed on."""

from __future__ import annotations

import json
import os
import tarfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from astropy.table import Table

from casa_deepfocus.almapipe import contdat, interfaces
from casa_deepfocus.almapipe.record import Record, relative
from casa_deepfocus.casa import continuum, inputs, plan, runfolder, targetfolder, task_sdeepfocus
from casa_deepfocus.casa.plan import CONTINUUM, CubePlan
from casa_deepfocus.errors import DataError, DeepFocusError

COLUMNS = {"CORRECTED_DATA": "corrected", "DATA": "data"}
"""Columns of measurement sets, and the task's names of them."""

CONTDAT, ROIDAT = "cont.dat", "ROI.dat"

FINDROI = ("findroi_workdir/findroi_products", ".")
"""Where hif_findroi leaves its ranges, below the context's output folder."""

KEPT_OUT = (".mask", ".prob", ".noise")
"""Products that do not go to the archive: images as large as the cubes, which the report shows."""


@dataclass(frozen=True)
class Observed:
    """What a context has to search.

    Attributes
    ----------
    vis : tuple of str
    fields, windows : tuple of str
        Ids of the fields and windows to search, of each measurement set, as CASA's selection has them.
    column : str
        'corrected' or 'data'.
    datatype : str
    names : dict of (path, field id) -> (field name, source name)
    virtual : dict of (path, window id) -> (virtual id, window name)
    """

    vis: tuple[str, ...]
    fields: tuple[str, ...]
    windows: tuple[str, ...]
    column: str
    datatype: str
    names: Mapping[tuple[str, int], tuple[str, str]] = field(default_factory=dict)
    virtual: Mapping[tuple[str, int], tuple[str, str]] = field(default_factory=dict)


def observed(context: Any, vis: Sequence[str] = (), targets: str = "", spw: str = "") -> Observed:
    """The science targets, windows and data of a context.

    Parameters
    ----------
    context : the pipeline's Context
    vis : sequence of str
        Restricts the measurement sets.
    targets : str
        Names of fields, separated by commas; all science targets where empty.
    spw : str
        Virtual ids of windows, separated by commas; all science windows where empty.

    Raises
    ------
    DataError
        Where there is nothing to search.
    """
    found, kind = interfaces.sets(context, vis)
    if not found:
        raise DataError("no calibrated measurement set is registered" + (f" of {', '.join(vis)}" if vis else ""))
    asked, ids = _listed(targets), _listed(spw)
    names: dict[tuple[str, int], tuple[str, str]] = {}
    virtual: dict[tuple[str, int], tuple[str, str]] = {}
    chosen = []
    for ms, column in found.items():
        fields = [item for item in interfaces.targets(ms) if not asked or item[1] in asked or item[2] in asked]
        windows = [item for item in interfaces.windows(context, ms) if not ids or item[1] in ids]
        if not fields or not windows:
            continue
        path = os.path.abspath(ms.name)
        names |= {(path, number): (name, source) for number, name, source in fields}
        virtual |= {(path, number): (own, name) for number, own, name in windows}
        chosen.append((path, fields, windows, column))
    if not chosen:
        what = f"field={targets!r}, spw={spw!r}: " if asked or ids else ""
        raise DataError(f"{what}no science target in {', '.join(ms.basename for ms in found)}")
    columns = {COLUMNS.get(column, column) for *_, column in chosen}
    if len(columns) > 1:
        raise DataError(
            f"the measurement sets of type {kind} have their data in different columns ({', '.join(sorted(columns))}); "
            "give vis to search those of one column"
        )
    return Observed(
        vis=tuple(path for path, *_ in chosen),
        fields=tuple(",".join(str(one[0]) for one in fields) for _, fields, _, _ in chosen),
        windows=tuple(",".join(str(one[0]) for one in windows) for _, _, windows, _ in chosen),
        column=columns.pop(), datatype=kind, names=names, virtual=virtual,
    )  # fmt: skip


def _listed(text: str) -> list[str]:
    return [interfaces.bare(word) for word in str(text or "").split(",") if word.strip()]


def run(seen: Observed, output_dir: str, stage: int, imager: Callable[..., Any], options: Mapping[str, Any]) -> Record:
    """Search everything that is observed, and describe it.

    Parameters
    ----------
    seen : Observed
    output_dir : str
        The context's; products go to s<stage>.deepfocus.targets in it.
    stage : int
    imager : callable
        As for `casa.imaging.make_images`.
    options : mapping
        minsnr, falsealarms, completeness.

    Returns
    -------
    Record
        What failed is in it.

    Raises
    ------
    DeepFocusError
        Where nothing at all can be planned or made.
    """
    given = {
        "vis": list(seen.vis), "field": list(seen.fields), "spw": list(seen.windows), "datacolumn": seen.column,
        "outfile": os.path.join(output_dir, f"s{stage}.deepfocus"), "overwrite": True, **options,
    }  # fmt: skip
    asked = inputs.read(given)
    programme = plan.of_sets(asked)
    back = task_sdeepfocus.search_all(asked, programme, imager=imager)
    folder = Path(back["outfile"])
    state = json.loads((folder / runfolder.RECORD).read_text(encoding="utf-8"))["cubes"]
    cubes = [_described(seen, cube, state.get(cube.key, {}), folder, output_dir) for cube in programme.cubes]
    return {
        "stage": stage, "datatype": seen.datatype, "folder": relative(folder, output_dir), "archive": "",
        "left_out": list(programme.left_out), "cubes": cubes,
    }  # fmt: skip


def _described(
    seen: Observed, cube: CubePlan, state: Mapping[str, Any], folder: Path, output_dir: str
) -> dict[str, Any]:
    """A cube of the record."""
    fields, sources = _names(seen, cube)
    one = cube.windows[0] if cube.windows and cube.label != CONTINUUM else None
    spw, window = seen.virtual.get(one, ("", "")) if one else ("", "")
    done = state.get("state") == runfolder.DONE
    stem = folder / cube.folder / cube.label
    about: dict[str, Any] = {
        "target": cube.target, "fields": fields, "sources": sources, "spw": spw, "window": window, "label": cube.label,
        "state": runfolder.DONE if done else runfolder.FAILED,
        "reason": "" if done else str(state.get("reason", cube.problem or "not made")),
        "stem": relative(stem, output_dir), "catalogue": "", "seconds": float(state.get("seconds", 0.0)),
        "free": [], "share": float("nan"), "frame": "", "handed": "", "rows": 0, "lines": 0, "edge": 0, "floor": 1.0,
        "noise": float("nan"), "beam": [], "nchan": 0, "freq": [], "continua": 0, "line_ranges": [], "warnings": [],
    }  # fmt: skip
    if not done:
        return about
    table = Table.read(f"{stem}.cat.ecsv")
    has_line = np.isfinite(np.asarray(table["chan"], dtype=float))
    about |= {
        "catalogue": relative(f"{stem}.cat.ecsv", output_dir), "frame": str(table.meta.get("frame", "")),
        "noise": float(state["noise"]), "beam": [float(v) for v in state["beam"]], "nchan": int(state["nchan"]),
        "freq": sorted(float(v) for v in state["freq"]), "warnings": [str(text) for text in state["warnings"]],
        "rows": len(table), "lines": int(has_line.sum()), "edge": _flagged(table, "band_edge"),
        "floor": float(table.meta.get("dynamic_range_floor", 1.0)),
        "continua": int(np.isfinite(np.asarray(table["continuum"], dtype=float)).sum()),
    }  # fmt: skip
    if about["nchan"] > 1:
        first, step = float(table.meta["freq0"]) / 1e9, float(table.meta["chan_width"]) / 1e9
        ends = first - 0.5 * step, first + (about["nchan"] - 0.5) * step
        lines = [(low / 1e9, high / 1e9) for low, high in continuum.line_ranges(table)]
        free, share = contdat.free_ranges((min(ends), max(ends)), lines, abs(step))
        about |= {"free": free, "share": share, "line_ranges": lines, "band": sorted(ends)}
    return about


def _names(seen: Observed, cube: CubePlan) -> tuple[list[str], list[str]]:
    """Names of the fields and of the sources that a cube is of."""
    vis, values = cube.parameters["vis"], cube.parameters["field"]
    listed = list(values) if isinstance(values, (list, tuple)) else [values] * len(vis)
    pairs = [
        seen.names[os.path.abspath(name), int(number)]
        for name, text in zip(vis, listed, strict=True) for number in str(text).split(",")
        if (os.path.abspath(name), int(number)) in seen.names
    ]  # fmt: skip
    return list(dict.fromkeys(pair[0] for pair in pairs)), list(dict.fromkeys(pair[1] for pair in pairs))


def _flagged(table: Table, flag: str) -> int:
    return sum(flag in str(flags).split(",") for flags in table["flags"])


def hand_over(record: Record, output_dir: str) -> None:
    """Write line-free ranges of windows into cont.dat; what became of each is noted in the record."""
    entries = {
        (source, cube["spw"]): (cube["window"], cube["free"], cube["frame"])
        for cube in record["cubes"] if cube["spw"] and cube["state"] == runfolder.DONE for source in cube["sources"]
    }  # fmt: skip
    try:
        became = contdat.add(os.path.join(output_dir, CONTDAT), entries, interfaces.ContFile)
    except DeepFocusError as exc:
        record["contdat"] = " ".join(str(exc).split())
        return
    for cube in record["cubes"]:
        words = sorted({became.get((source, cube["spw"]), "") for source in cube["sources"]})
        cube["handed"] = "; ".join(word for word in words if word)


def compare(record: Record, output_dir: str) -> None:
    """Note in the record how much of the lines found hif_findroi has too, where it has run."""
    paths = [os.path.join(output_dir, folder, ROIDAT) for folder in FINDROI]
    path = next((one for one in paths if os.path.exists(one)), "")
    if not path:
        return
    theirs = interfaces.ContFile(path).cont_ranges["fields"]
    for cube in record["cubes"]:
        items = [theirs.get(source, {}).get(cube["spw"], {}) for source in cube["sources"]]
        ranges = [one["range"] for item in items if item for one in item["ranges"] if isinstance(one, dict)]
        ours = cube["line_ranges"]
        total = sum(high - low for low, high in ours)
        if any(items) and total > 0:
            cube["findroi"] = contdat.overlap(ours, ranges) / total


def pack(record: Record, output_dir: str) -> None:
    """Put catalogues, regions, component lists and reports into one file for the auxiliary archive."""
    folder = Path(output_dir) / record["folder"]
    name = f"s{record['stage']}.deepfocus_products.tar"

    def wanted(info: tarfile.TarInfo) -> tarfile.TarInfo | None:
        inside = Path(info.name).parts[1:]
        hidden = any(part.startswith(".") or part == targetfolder.PAGES for part in inside)
        return None if hidden or any(part.endswith(KEPT_OUT) for part in inside) else info

    new = Path(output_dir) / f".{name}.new"
    with tarfile.open(new, "w") as tar:
        tar.add(folder, arcname=folder.name, filter=wanted)
    os.replace(new, Path(output_dir) / name)
    record["archive"] = name
