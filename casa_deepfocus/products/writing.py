"""The products that need no CASA, written into a run's work folder; `casa.staging` brings them into place."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
from astropy.table import Table
from numpy.typing import NDArray

from casa_deepfocus.core.cube import Cube
from casa_deepfocus.pipeline.state import Result
from casa_deepfocus.products import completeness, cutouts, fitsimages, regions, report, tables
from casa_deepfocus.products.marks import SOFTWARE
from casa_deepfocus.products.moments import Moments


def write_texts(
    folder: Path,
    base: str,
    result: Result,
    cube: Cube,
    run: report.Run,
    left: NDArray[np.float32],
    lines: Moments | None = None,
) -> None:
    """Write catalogue, regions, summary and report.

    Parameters
    ----------
    folder : Path
    base : str
        Name that the endings are added to.
    result : Result
        Its catalogue is completed (`tables.complete`) where nobody has done so, with radio velocities.
    cube : Cube
    run : report.Run
    left : (nchan, ny, nx) [Jy/beam]
        What is left without the sources.
    lines : Moments, optional
        Of the lines, for the report.
    """
    table = result.catalogue
    tables.complete(table, cube.frame, cube.restfreq)
    tables.write_catalogue(folder / base, table)
    if len(table):
        (folder / f"{base}.crtf").write_text(regions.crtf(table, cube), encoding="utf-8")
        (folder / f"{base}.reg").write_text(regions.ds9(table, cube), encoding="utf-8")
    (folder / f"{base}.json").write_text(json.dumps(summary(result, cube, run), indent=1) + "\n", encoding="utf-8")
    report.write(folder / base, result, cube, run, left, lines)
    if run.completeness:
        completeness.write(folder / base, run.completeness)


def write_fits(
    folder: Path,
    base: str,
    result: Result,
    cube: Cube,
    run: report.Run,
    left: NDArray[np.float32],
    lines: Moments | None = None,
) -> None:
    """Write mask, probability map, noise, fitted model, residual and moments as FITS images.

    Parameters
    ----------
    folder, base, result, cube, run, left, lines
        As for `write_texts`.
    """
    images: list[tuple[str, NDArray, str]] = [
        ("mask", result.mask, ""), ("prob", result.probability, ""),
        ("noise", fitsimages.noise_image(result), "Jy/beam"), ("model", cube.data - left, "Jy/beam"),
        ("residual", left, "Jy/beam"), *(() if lines is None else lines.images),
    ]  # fmt: skip
    for ending, pixels, unit in images:
        fitsimages.write(folder / f"{base}.{ending}.fits", pixels, cube, unit, (run.call,))


def write_cutouts(
    folder: Path, base: str, result: Result, cube: Cube, run: report.Run, left: NDArray[np.float32]
) -> None:
    """Write a file for each source into the folder <base>.cutouts; nothing where there is none.

    Parameters
    ----------
    folder, base, result, cube, run, left
        As for `write_texts`.
    """
    if len(result.catalogue):
        cutouts.write(folder / f"{base}{cutouts.ENDING}", result, cube, left, run.call)


def summary(result: Result, cube: Cube, run: report.Run) -> dict[str, Any]:
    """What was run and what was found, as JSON has it: NaN are null."""
    beam = cube.beam_on_sky()
    return {
        "software": SOFTWARE,
        "call": run.call,
        "inputs": list(run.inputs),
        "networks": run.networks,
        "mode": run.mode,
        "minsnr": run.minsnr,
        "falsealarms": run.falsealarms,
        "beam": {"major_arcsec": beam[0], "minor_arcsec": beam[1], "pa_deg": beam[2]},
        "noise_jy_beam": number(np.nanmedian(result.noise)),
        **({"completeness": completeness.sentence(run.completeness)} if run.completeness else {}),
        "counts": {name: int(value) for name, value in result.counts.items()},
        "meta": {name: plain(value) for name, value in result.catalogue.meta.items()},
        "columns": {
            name: {
                "unit": str(result.catalogue[name].unit or ""),
                "description": result.catalogue[name].description or tables.described(name),
            }
            for name in result.catalogue.colnames
        },
        "sources": [{name: plain(value) for name, value in row.items()} for row in rows_of(result.catalogue)],
    }


def rows_of(table: Table) -> list[dict[str, Any]]:
    """A table as plain Python, a dict a row."""
    return [
        {name: row[name].item() if hasattr(row[name], "item") else row[name] for name in row.colnames} for row in table
    ]


def number(value: Any) -> float | None:
    """A number as JSON has it."""
    return float(value) if math.isfinite(value) else None


def plain(value: Any) -> Any:
    """A value of a table or its meta as JSON has it."""
    if isinstance(value, (bool, int, str)) or value is None:
        return value
    if isinstance(value, (float, np.floating)):
        return number(value)
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, np.ndarray)):
        return [plain(item) for item in value]
    return value.item() if isinstance(value, np.generic) else str(value)
