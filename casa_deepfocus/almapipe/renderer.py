"""The weblog's pages of both stages."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from casa_deepfocus.almapipe import MASKS, SEARCH, interfaces
from casa_deepfocus.casa.plan import CONTINUUM
from casa_deepfocus.products.report import printable

TEMPLATES = Path(__file__).parent / "templates"

LINKS = (
    (".html", "report"), (".cat.ecsv", "catalogue (ECSV)"), (".cat.vot", "catalogue (VOTable)"), (".crtf", "regions"),
)  # fmt: skip
"""Products that are files, and what the page calls them."""

PICTURE = ".png"


class SearchRenderer(interfaces.DetailsRenderer):
    """The page of hifx_deepfocus."""

    def __init__(self) -> None:
        super().__init__(uri=f"{SEARCH}.mako", description="Sources and lines of dirty cubes", always_rerender=False)

    def update_mako_context(self, mako_context: dict[str, Any], pipeline_context: Any, results: Any) -> None:
        """Copy pictures and products beside the page, and describe them."""
        result = next(interfaces.rows(results))
        place = Path(pipeline_context.report_dir) / f"stage{result.stage_number}"
        found = result.found
        targets: dict[str, list[dict[str, Any]]] = {}
        for cube in found.get("cubes", []):
            targets.setdefault(cube["target"], []).append(
                described(cube, pipeline_context.output_dir, place, pipeline_context.report_dir)
            )
        mako_context.update(
            {
                "problem": printable(result.problem),
                "left_out": [printable(text) for text in found.get("left_out", [])],
                "datatype": found.get("datatype", ""),
                "archive": found.get("archive", ""),
                "targets": [{"name": printable(name), "cubes": cubes} for name, cubes in targets.items()],
            }
        )


class MasksRenderer(interfaces.DetailsRenderer):
    """The page of hifx_deepfocus_masks."""

    def __init__(self) -> None:
        super().__init__(uri=f"{MASKS}.mako", description="Clean masks of the sources found", always_rerender=False)

    def update_mako_context(self, mako_context: dict[str, Any], pipeline_context: Any, results: Any) -> None:
        """The table of targets and masks."""
        result = next(interfaces.rows(results))
        mako_context.update({"problem": printable(result.problem), "made": result.made})


def described(cube: Mapping[str, Any], output_dir: str, place: Path, report_dir: str) -> dict[str, Any]:
    """What the page says of a cube; its files are copied to `place`, links are relative to the report's folder."""
    stem = Path(output_dir) / cube["stem"]
    folder = place / stem.parent.name
    links, picture = [], ""
    if cube["catalogue"]:
        folder.mkdir(parents=True, exist_ok=True)
        for ending, name in (*LINKS, (PICTURE, "")):
            source = Path(f"{stem}{ending}")
            if not source.exists():
                continue
            shutil.copyfile(source, folder / source.name)
            href = os.path.relpath(folder / source.name, report_dir)
            if ending == PICTURE:
                picture = href
            else:
                links.append({"name": name, "href": href})
    band = [value / 1e9 for value in cube["freq"]]
    return {
        "label": "continuum" if cube["label"] == CONTINUUM else f"spw {cube['spw']}",
        "window": printable(cube["window"]), "reason": printable(cube["reason"]), "done": bool(cube["catalogue"]),
        "rows": cube["rows"], "lines": cube["lines"], "noise": f"{1e3 * cube['noise']:.3g}",
        "beam": " x ".join(f"{value:.3g}" for value in cube["beam"][:2]),
        "nchan": cube["nchan"], "band": " to ".join(f"{value:.4f}" for value in dict.fromkeys(band)),
        "share": f"{100 * cube['share']:.0f} %" if cube["spw"] and cube["catalogue"] else "",
        "handed": cube["handed"], "free": [f"{low:.5f} to {high:.5f}" for low, high in cube["free"]],
        "seconds": f"{cube['seconds']:.1f}", "links": links, "picture": picture, "warnings": cube["warnings"],
        "sources": sources_of(cube, output_dir),
    }  # fmt: skip


def sources_of(cube: Mapping[str, Any], output_dir: str) -> list[list[str]]:
    """The table of a cube's sources, texts of its cells."""
    if not cube["catalogue"]:
        return []
    import numpy as np
    from astropy.table import Table

    from casa_deepfocus.products.tables import sexagesimal

    table = Table.read(os.path.join(output_dir, cube["catalogue"]))

    def text(value: float, spec: str) -> str:
        return format(value, spec) if np.isfinite(value) else "-"

    found = []
    for row in table:
        ra, dec = sexagesimal(float(row["ra"]), float(row["dec"]))
        line = bool(np.isfinite(row["chan"]))
        found.append([
            str(row["name"]), ra, dec, text(float(row["freq"]) / 1e9, ".5f") if line else "-",
            text(float(row["line_fwhm"]), ".1f") if line else "-",
            text(float(row["line_flux"]), ".4g") if line else "-",
            text(1e3 * float(row["continuum"]), ".4g"),
            text(float(row["snr"]), ".1f"), str(row["flags"]).strip("-") or "-",
        ])  # fmt: skip
    return found
