"""What becomes of a target when its cubes are done: the tables of its sources and lines, its page, the overview."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from astropy.io import fits
from astropy.table import Column, Table, vstack
from astropy.wcs import WCS

from casa_deepfocus.casa.plan import CONTINUUM, CubePlan, Programme
from casa_deepfocus.casa.runfolder import DONE, RunFolder
from casa_deepfocus.casa.sketch import Spectrum
from casa_deepfocus.casa.targetreport import (
    FAILED,
    LEFT_OUT,
    CubeSummary,
    Picture,
    TargetPage,
    write_overview,
    write_target,
)
from casa_deepfocus.core.crossmatch import Merged, merge, write_tables
from casa_deepfocus.core.cube import Cube
from casa_deepfocus.core.stack import CubeCatalogue
from casa_deepfocus.pipeline.state import Result
from casa_deepfocus.products.writing import rows_of

PAGES = ".pages"
"""Folder inside a target's, for what its page is made of."""

INDEX = "index.html"

MOST_SHOWN = 10
"""Sources of a target in the table that a run ends with; all are in its tables."""


def keep_for_page(outfile: str, result: Result, cube: Cube) -> None:
    """Keep the integrated image and the spectra of a cube for the page of its target.

    Parameters
    ----------
    outfile : str
        Prefix of the cube's products.
    """
    path = Path(outfile)
    folder = path.parent / PAGES
    folder.mkdir(exist_ok=True)
    header = "" if cube.wcs is None else cube.wcs.to_header(relax=True).tostring()
    spectra = np.array([detail.spectrum for detail in result.details], dtype=np.float32).reshape(-1, cube.nchan)
    models = np.array([detail.model for detail in result.details], dtype=np.float32).reshape(-1, cube.nchan)
    np.savez_compressed(
        folder / f"{path.name}.npz", integrated=result.integrated.astype(np.float32), header=np.array(header),
        radesys=np.array(cube.meta.get("radesys", "ICRS")), freq=cube.freq, spectra=spectra, models=models,
    )  # fmt: skip


def write(run: RunFolder, cubes: Sequence[CubePlan]) -> Merged:
    """The tables and the page of a target, into its folder on the way.

    Parameters
    ----------
    run : RunFolder
    cubes : sequence of CubePlan
        All cubes of the target; those that failed are named on the page.
    """
    folder = run.place(cubes[0].folder)
    page = _page(run, cubes, folder)
    if page.merged is None:
        raise ValueError(f"{folder}: no cube is done")
    write_tables(page.merged, folder)
    write_target(page)
    return page.merged


def close(run: RunFolder, programme: Programme, seconds: float) -> dict[str, Any]:
    """The overview of a run, and what the task returns of it.

    Returns
    -------
    dict
        outfile, counts, products, timings, targets, failed, `lines` (what a person reads), and the tables of all
        targets together, `catalogue` and `linetable`.
    """
    pages = []
    for folder in programme.folders:
        pages.append(_page(run, programme.of(folder), run.place(folder)))
    done = [page for page in pages if page.merged is not None and page.folder.parent == run.path]
    failed = {
        cube.key: str(run.state.get(cube.key, {}).get("reason", "not made"))
        for cube in programme.cubes if not run.is_done(cube.folder, cube.label)
    }  # fmt: skip
    untold = [page for page in pages if page.merged is not None and page.folder.parent != run.path]
    failed |= {page.folder.name: "its tables and pages could not be made; the log says why" for page in untold}
    lines: list[str] = []
    if done:
        facts = [(name, str(value)) for name, value in run.asked.items()]
        facts += [("left out", text) for text in programme.left_out]
        write_overview(os.path.basename(run.path), pages, run.path / INDEX, facts)
        run.finish([page.folder.name for page in pages], keep_work=bool(untold))
        lines = _table(done)
        lines += [f"{key}: failed: {reason}" for key, reason in failed.items()]
        lines.append(f"{sum(len(page.merged.sources) for page in done if page.merged)} sources in {seconds:.1f} s")
        lines.append(f"overview: {run.path / INDEX}")
    return {
        "outfile": str(run.path),
        "counts": {
            "targets": len(done), "cubes": len(programme.cubes) - len(failed), "failed": len(failed),
            "sources": sum(len(page.merged.sources) for page in done if page.merged),
            "lines": sum(len(page.merged.lines) for page in done if page.merged),
        },
        "products": {page.folder.name: str(page.folder) for page in done} | {"html": str(run.path / INDEX)},
        "timings": {key: float(record.get("seconds", 0.0)) for key, record in run.state.items()} | {"total": seconds},
        "targets": {
            page.folder.name: {"sources": rows_of(page.merged.sources), "lines": rows_of(page.merged.lines)}
            for page in done if page.merged
        },
        "failed": failed,
        "lines": lines,
        "catalogue": _stacked({page.folder.name: page.merged.sources for page in done if page.merged}),
        "linetable": _stacked({page.folder.name: page.merged.lines for page in done if page.merged}),
    }  # fmt: skip


def _stacked(found: Mapping[str, Table]) -> Table:
    """The tables of several targets as one, with the target's name first."""
    parts = []
    for name, table in found.items():
        part = table.copy()
        part.meta = {}
        part.add_column(Column(np.full(len(part), name, dtype=object).astype(str), "target"), 0)
        parts.append(part)
    return vstack(parts) if parts else Table()


def _table(pages: Sequence[TargetPage]) -> list[str]:
    """The brightest sources of each target, for a person."""
    lines = [f"{'target':<20}{'source':<24}{'snr':>7} {'continuum':>14} {'index':>7} {'lines':>6}  windows"]
    for page in pages:
        if page.merged is None:
            continue
        for row in page.merged.sources[:MOST_SHOWN]:
            flux = f"{1e3 * row['continuum']:.4g} mJy" if np.isfinite(row["continuum"]) else "-"
            index = f"{row['spectral_index']:.2f}" if np.isfinite(row["spectral_index"]) else "-"
            lines.append(
                f"{page.name[:19]:<20}{row['id']:<24}{row['snr']:>7.1f} {flux:>14} {index:>7} {row['nlines']:>6}  "
                f"{row['windows']}"
            )
        if len(page.merged.sources) > MOST_SHOWN:
            lines.append(f"{page.name[:19]:<20}and {len(page.merged.sources) - MOST_SHOWN} more")
    return lines


def _page(run: RunFolder, cubes: Sequence[CubePlan], folder: Path) -> TargetPage:
    summaries = [_summary(run, cube, folder) for cube in cubes]
    done = [one for one in summaries if one.catalogue is not None]
    merged = None
    if done:
        windows = tuple(one.label for one in done if one.label != CONTINUUM)
        merged = merge([
            CubeCatalogue(one.label, one.catalogue, windows if one.label == CONTINUUM else (), one.effective_freq)
            for one in done if one.catalogue is not None
        ])  # fmt: skip
    return TargetPage(
        cubes[0].target, folder, summaries, merged, picture=_picture(done, folder), spectra=_spectra(done, folder)
    )


def _summary(run: RunFolder, cube: CubePlan, folder: Path) -> CubeSummary:
    record: Mapping[str, Any] = run.state.get(cube.key, {})
    if record.get("state") != DONE:
        state = LEFT_OUT if cube.error is not None else FAILED
        return CubeSummary(cube.label, state, str(record.get("reason", cube.problem or "not made")), band=cube.band)
    table = Table.read(folder / f"{cube.label}.cat.ecsv")
    low, high = sorted(record["freq"])
    return CubeSummary(
        cube.label, stem=folder / cube.label, catalogue=table, noise=float(record["noise"]),
        beam=tuple(record["beam"]), band=(low, high), nchan=int(record["nchan"]), seconds=float(record["seconds"]),
        notes=tuple(record["warnings"]), effective_freq=float(record["effective_freq"]),
    )  # fmt: skip


def _kept(cube: CubeSummary, folder: Path) -> Mapping[str, Any] | None:
    path = folder / PAGES / f"{cube.label}.npz"
    return np.load(path) if path.exists() else None


def _picture(done: Sequence[CubeSummary], folder: Path) -> Picture | None:
    """The continuum image, else the integrated image of the window with the least noise over all of it."""
    best = sorted(done, key=lambda one: (one.label != CONTINUUM, one.noise / max(one.nchan, 1) ** 0.5))
    for one in best:
        kept = _kept(one, folder)
        if kept is None:
            continue
        header = str(kept["header"])
        wcs = WCS(fits.Header.fromstring(header)) if header else None
        title = "continuum" if one.label == CONTINUUM else f"{one.label}, integrated"
        return Picture(kept["integrated"], wcs, title, str(kept["radesys"]))
    return None


def _spectra(done: Sequence[CubeSummary], folder: Path) -> dict[tuple[str, int], Spectrum]:
    out = {}
    for one in done:
        kept = _kept(one, folder)
        if kept is None or one.nchan < 2:
            continue
        spectra, models, freq = kept["spectra"], kept["models"], kept["freq"]
        for row in range(len(spectra)):
            out[one.label, row] = Spectrum(freq, spectra[row], models[row])
    return out
