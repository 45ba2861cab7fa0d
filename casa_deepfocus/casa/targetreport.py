"""The pages of a run with several targets or windows: one of each target, and an overview.

They stand alone but for links to the products of each cube, which are made only where there is such a file.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import numpy as np
from astropy.coordinates import SkyCoord
from astropy.table import Row, Table
from matplotlib.colors import AsinhNorm
from matplotlib.figure import Figure
from numpy.typing import NDArray

from casa_deepfocus.casa.sketch import Measured, Spectrum, spectral_energy, spectrum_panel
from casa_deepfocus.core.crossmatch import Merged, natural
from casa_deepfocus.core.stack import SKY_FRAMES
from casa_deepfocus.products import tables
from casa_deepfocus.products.marks import SOFTWARE
from casa_deepfocus.products.report import CONTINUUM, LINE, OUTLINE, base64_text, number, png, template, with_error

if TYPE_CHECKING:
    from astropy.wcs import WCS

DONE, FAILED, LEFT_OUT = "done", "failed", "left out"
"""States of a cube."""

LINKS = (
    (".html", "report"), (".cat.ecsv", "catalogue"), (".cat.vot", "VOTable"), (".crtf", "regions"),
    (".cl", "components"), (".mask", "mask"), (".prob", "probability"), (".noise", "noise"),
)  # fmt: skip
"""Endings of a cube's products, and what a page calls them."""

TABLES = ("sources.ecsv", "sources.vot", "lines.ecsv", "lines.vot")
"""The tables of a target, beside its page."""

NUMBERED = 150
"""Sources that have their number in the picture of a target; more would cover it."""

SKETCHED = 50
"""Sources, the brightest first, whose spectra a page shows."""


@dataclass(frozen=True)
class CubeSummary:
    """What a page says of a cube, or of a continuum image.

    Attributes
    ----------
    label : str
    state : {'done', 'failed', 'left out'}
    reason : str
        Why it failed or was left out.
    stem : Path or None
        Path of its products without their endings.
    catalogue : Table or None
    noise : float [Jy/beam], the median over the channels
    beam : (3,) FWHM major, minor [arcsec], position angle [deg]
    band : (2,) [Hz], lowest and highest frequency
    nchan : int
    seconds : float
    notes : tuple of str
        Warnings of its run.
    effective_freq : float [Hz]
        That its continua are given at; 0 for the middle of the band.
    """

    label: str
    state: str = DONE
    reason: str = ""
    stem: Path | None = None
    catalogue: Table | None = None
    noise: float = float("nan")
    beam: tuple[float, float, float] = (float("nan"), float("nan"), float("nan"))
    band: tuple[float, float] = (float("nan"), float("nan"))
    nchan: int = 0
    seconds: float = float("nan")
    notes: tuple[str, ...] = ()
    effective_freq: float = 0.0

    @property
    def counts(self) -> tuple[int, int] | None:
        """Rows of its catalogue, and those with a line."""
        if self.catalogue is None:
            return None
        chan: NDArray[np.float64] = np.ma.filled(np.ma.asarray(self.catalogue["chan"], dtype=float), np.nan)
        return len(self.catalogue), int(np.isfinite(chan).sum())


@dataclass(frozen=True)
class Picture:
    """An image of a target.

    Attributes
    ----------
    image : (ny, nx) float [sigma]
    wcs : WCS or None
        Celestial, zero-based pixels; without it no source is marked.
    title : str
        What it is: the continuum image, or the integrated image of a window.
    radesys : str
        The frame of its coordinates.
    """

    image: NDArray[np.float32]
    wcs: WCS | None
    title: str
    radesys: str = "ICRS"


@dataclass(frozen=True)
class TargetPage:
    """A target.

    Attributes
    ----------
    name : str
    folder : Path
        Where its page and tables are.
    cubes : sequence of CubeSummary
    merged : Merged or None
        None where no cube was done.
    picture : Picture, Path or None
        An image, or a picture that is there already (PNG).
    spectra : mapping of (label, row) -> Spectrum
        Of rows of the cubes' own catalogues; those that are missing are not shown.
    notes : tuple of str
        What to know of the whole target.
    """

    name: str
    folder: Path
    cubes: Sequence[CubeSummary]
    merged: Merged | None = None
    picture: Picture | Path | None = None
    spectra: Mapping[tuple[str, int], Spectrum] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def write_target(page: TargetPage, path: Path | None = None) -> Path:
    """Write the page of a target.

    Parameters
    ----------
    page : TargetPage
    path : Path or None
        Where to; report.html in the target's folder.

    Returns
    -------
    Path
    """
    path = path or page.folder / "report.html"
    sources = page.merged.sources if page.merged else []
    names = [str(row["id"]) for row in sources]
    shown = set(names[:SKETCHED])
    done = sum(cube.state == DONE for cube in page.cubes)
    text = template("target.html").render(
        title=page.name, software=SOFTWARE, verdict=_verdict(page), notes=page.notes,
        problems=[cube for cube in page.cubes if cube.state != DONE],
        picture=_picture(page), cubes=[_cube_row(cube, path.parent) for cube in _sorted(page.cubes)],
        tables=_existing(path.parent, [(page.folder / name, name) for name in TABLES]),
        sources=[{"id": name, "shown": name in shown, "cells": _source_cells(row, done)}
                 for name, row in zip(names, sources, strict=True)],
        lines=[{"id": str(row["source"]), "cells": _line_cells(row)}
               for row in (page.merged.lines if page.merged else [])],
        sketches=[_sketch(page, row) for row in sources[:SKETCHED]] if page.merged else [],
        more=max(len(names) - SKETCHED, 0), facts=_facts(page),
    )  # fmt: skip
    path.write_text(text, encoding="utf-8")
    return path


def write_overview(
    title: str, targets: Sequence[TargetPage], path: Path, facts: Sequence[tuple[str, str]] = (),
) -> Path:  # fmt: skip
    """Write the overview of a run: targets by windows.

    Parameters
    ----------
    title : str
    targets : sequence of TargetPage
        Pictures and spectra are not needed.
    path : Path
    facts : sequence of (name, text)
        What was asked.
    """
    labels = sorted({cube.label for page in targets for cube in page.cubes}, key=natural)
    rows = []
    for page in targets:
        cubes = {cube.label: cube for cube in page.cubes}
        report = page.folder / "report.html"
        rows.append({
            "name": page.name, "href": _href(report, path.parent),
            "sources": str(len(page.merged.sources)) if page.merged else "-",
            "lines": str(len(page.merged.lines)) if page.merged else "-",
            "cells": [_overview_cell(cubes.get(label), path.parent) for label in labels],
        })  # fmt: skip
    problems = [
        {"target": page.name, "label": cube.label, "state": cube.state, "reason": cube.reason}
        for page in targets for cube in _sorted(page.cubes) if cube.state != DONE
    ]  # fmt: skip
    text = template("overview.html").render(
        title=title, software=SOFTWARE, verdict=_overview_verdict(targets), labels=labels, rows=rows,
        problems=problems, facts=facts,
    )  # fmt: skip
    path.write_text(text, encoding="utf-8")
    return path


def target_figure(picture: Picture, sources: Table | None, radesys: str = "ICRS") -> Figure:
    """The image of a target in sigma, with the sources by their numbers in the table."""
    image = np.asarray(picture.image, dtype=float)
    ny, nx = image.shape
    figure = Figure(figsize=(9.6, float(np.clip(0.8 * 9.6 * ny / nx + 0.9, 3.0, 16.0))), layout="constrained")
    axes: Any = figure.add_subplot(projection=picture.wcs) if picture.wcs is not None else figure.add_subplot()
    top = max(float(np.nan_to_num(image).max()), 10.0)
    shown = axes.imshow(
        image, origin="lower", cmap="Greys", norm=AsinhNorm(3.0, vmin=-5.0, vmax=top), interpolation="nearest"
    )
    bar = figure.colorbar(shown, ax=axes, shrink=0.8, pad=0.02, label="sigma")
    ticks = [tick for tick in (-5, 0, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000) if tick <= top]
    bar.set_ticks(ticks, labels=[str(tick) for tick in ticks])
    bar.ax.minorticks_off()
    if picture.wcs is not None:
        # Another name would be a header's own words, which matplotlib may take for mathematics.
        frame = picture.radesys if picture.radesys.upper() in SKY_FRAMES else ""
        axes.coords[0].set_axislabel(f"right ascension {frame}".strip())
        axes.coords[1].set_axislabel(f"declination {frame}".strip(), minpad=0.4)
        for coordinate in axes.coords:
            coordinate.set_ticklabel(size=8, exclude_overlapping=True)
        _mark(axes, picture, sources, radesys)
    axes.set(xlim=(-0.5, nx - 0.5), ylim=(-0.5, ny - 0.5))
    return figure


def _mark(axes: Any, picture: Picture, sources: Table | None, radesys: str) -> None:
    if sources is None or not len(sources):
        return
    ra, dec = np.asarray(sources["ra"], dtype=float), np.asarray(sources["dec"], dtype=float)
    if radesys != picture.radesys:
        frames = [SKY_FRAMES.get(name.upper(), "icrs") for name in (radesys, picture.radesys)]
        there = SkyCoord(ra, dec, unit="deg", frame=frames[0]).transform_to(frames[1])
        ra, dec = there.ra.deg, there.dec.deg
    x, y = np.transpose(picture.wcs.wcs_world2pix(np.stack([ra, dec], -1), 0))  # type: ignore[union-attr]
    ny, nx = picture.image.shape
    inside = (x > -0.5) & (x < nx - 0.5) & (y > -0.5) & (y < ny - 0.5)
    with_lines = np.asarray(sources["nlines"]) > 0
    for kind, colour, label in ((with_lines, LINE, "with a line"), (~with_lines, CONTINUUM, "continuum only")):
        at = inside & kind
        axes.plot(x[at], y[at], "o", markersize=11, markerfacecolor="none", color=colour, linewidth=0, label=label)
    for at in np.flatnonzero(inside[:NUMBERED]):
        axes.annotate(
            str(at + 1), (x[at], y[at]), xytext=(6, 6), textcoords="offset points", fontsize=8.5,
            color=LINE if with_lines[at] else CONTINUUM, path_effects=OUTLINE, annotation_clip=True,
        )  # fmt: skip
    axes.legend(loc="upper right", fontsize=8, framealpha=0.9)


def _picture(page: TargetPage) -> dict[str, str] | None:
    """The embedded picture of a target and what it shows."""
    if page.picture is None:
        return None
    if isinstance(page.picture, Path):
        # One that a resumed run left; it may have gone.
        if not page.picture.is_file():
            return None
        return {"data": base64_text(page.picture.read_bytes()), "title": f"the field of {page.picture.stem}"}
    sources = page.merged.sources if page.merged else None
    radesys = str(page.merged.sources.meta.get("radesys", "ICRS")) if page.merged else "ICRS"
    return {"data": base64_text(png(target_figure(page.picture, sources, radesys))), "title": page.picture.title}


def _sorted(cubes: Sequence[CubeSummary]) -> list[CubeSummary]:
    return sorted(cubes, key=lambda cube: natural(cube.label))


def _href(target: Path, folder: Path) -> str:
    """A link from a page in a folder, empty where there is nothing."""
    return quote(os.path.relpath(target, folder)) if os.path.lexists(target) else ""


def _existing(folder: Path, files: Sequence[tuple[Path, str]]) -> list[dict[str, str]]:
    links = [{"href": _href(path, folder), "text": text} for path, text in files]
    return [link for link in links if link["href"]]


def _cube_row(cube: CubeSummary, folder: Path) -> dict[str, Any]:
    stem = cube.stem
    counts = cube.counts if cube.state == DONE else None
    links = _existing(folder, [(Path(f"{stem}{ending}"), text) for ending, text in LINKS]) if stem else []
    return {
        "label": cube.label, "state": cube.state, "reason": cube.reason, "notes": cube.notes, "links": links,
        "cells": [
            _band(cube), str(cube.nchan or "-"), _beam(cube),
            number(cube.noise, 1e3), *(str(count) for count in counts or ("-", "-")), _seconds(cube.seconds),
        ],
    }  # fmt: skip


def _band(cube: CubeSummary) -> str:
    low, high = (number(freq, 1e-9, 5 if cube.nchan > 1 else 6) for freq in cube.band)
    return low if low == high else f"{low} to {high}"


def _beam(cube: CubeSummary) -> str:
    maj, minor = (number(size, 1.0) for size in cube.beam[:2])
    return maj if maj == "-" else f"{maj} x {minor}"


def _seconds(seconds: float) -> str:
    if not np.isfinite(seconds):
        return "-"
    whole = round(seconds)
    return f"{seconds:.1f} s" if seconds < 100 else f"{whole // 3600}:{whole // 60 % 60:02d}:{whole % 60:02d} h"


def _overview_cell(cube: CubeSummary | None, folder: Path) -> dict[str, Any]:
    if cube is None:
        return {"state": "none"}
    if cube.state != DONE:
        return {"state": cube.state, "reason": cube.reason}
    sources, lines = cube.counts or ("-", "-")
    return {
        "state": DONE, "sources": sources, "lines": lines, "noise": number(cube.noise, 1e3),
        "seconds": _seconds(cube.seconds), "href": _href(Path(f"{cube.stem}.html"), folder) if cube.stem else "",
        "notes": len(cube.notes),
    }  # fmt: skip


def _count(count: int, name: str) -> str:
    return f"{count} {name}{'' if count == 1 else 's'}"


def _states(cubes: Sequence[CubeSummary]) -> str:
    """How many cubes are done, failed, left out."""
    told = [(state, sum(cube.state == state for cube in cubes)) for state in (DONE, FAILED, LEFT_OUT)]
    return ", ".join(f"{count} {state}" for state, count in told if count) or "none"


def _verdict(page: TargetPage) -> str:
    if page.merged is None:
        return f"nothing was searched; cubes: {_states(page.cubes)}"
    found = "no source found"
    if len(page.merged.sources):
        found = f"{_count(len(page.merged.sources), 'source')}, {_count(len(page.merged.lines), 'line')}"
    return f"{found}; cubes: {_states(page.cubes)}"


def _overview_verdict(targets: Sequence[TargetPage]) -> str:
    merged = [page.merged for page in targets if page.merged]
    cubes = [cube for page in targets for cube in page.cubes]
    return (
        f"{_count(len(targets), 'target')}; cubes: {_states(cubes)}; "
        f"{_count(sum(len(m.sources) for m in merged), 'source')}, {_count(sum(len(m.lines) for m in merged), 'line')}"
    )


def _words(row: Row, name: str) -> dict[str, str]:
    """A cell of text, which may break at its commas."""
    return {"value": str(row[name]).replace(",", ", "), "kind": "text"}


def _source_cells(row: Row, cubes: int) -> list[dict[str, str]]:
    ra, dec = tables.sexagesimal(float(row["ra"]), float(row["dec"])) if np.isfinite(row["ra"]) else ("-", "-")
    size = f"{number(row['fwhm_maj'], 1.0)} x {number(row['fwhm_min'], 1.0)}"
    seen = len(str(row["windows"]).split(","))
    return [
        {"value": ra}, {"value": dec}, {"value": size}, with_error(row, "continuum", 1e3),
        {"value": _gigahertz(row["continuum_freq"])}, with_error(row, "spectral_index", 1.0),
        {"value": str(row["nlines"])}, {"value": number(row["snr"], 1.0)}, {"value": number(row["reliability"], 1.0)},
        {"value": f"{seen} of {cubes}", "title": str(row["windows"]).replace(",", ", ")}, _words(row, "flags"),
    ]  # fmt: skip


def _gigahertz(freq: float) -> str:
    return f"{freq / 1e9:.2f}" if np.isfinite(freq) else "-"


def _line_cells(row: Row) -> list[dict[str, str]]:
    velocity = number(row["velocity"], 1.0, 5) if np.isfinite(row["velocity"]) else "-"
    return [
        _words(row, "window"), _words(row, "name"), {"value": number(row["freq"], 1e-9, 6)},
        {"value": velocity.split(".")[0]}, with_error(row, "line_fwhm", 1.0), with_error(row, "line_flux", 1.0),
        with_error(row, "peak", 1e3), {"value": number(row["snr"], 1.0)},
        _words(row, "also_in"), _words(row, "flags"),
    ]  # fmt: skip


def _sketch(page: TargetPage, row: Row) -> dict[str, Any]:
    """What is drawn of a source: its continua over frequency, and its spectra."""
    cubes = {cube.label: cube for cube in page.cubes}
    measured, panels = [], []
    for text in filter(None, str(row["rows"]).split(",")):
        label, _, at = text.rpartition(":")
        cube, place = cubes.get(label), int(at)
        if cube is not None and cube.catalogue is not None and place < len(cube.catalogue):
            own = cube.catalogue[place]
            if np.isfinite(own["continuum"]):
                values = (float(own["continuum"]), float(own["continuum_err"]), 0.5 * sum(cube.band))
                measured.append(Measured(label, *values))
        if (label, place) in page.spectra:
            panels.append({"label": label, "svg": spectrum_panel(page.spectra[label, place])})
    law = float(row["continuum"]), float(row["continuum_freq"]), float(row["spectral_index"])
    return {"id": str(row["id"]), "energy": spectral_energy(measured, law), "panels": panels}


def _facts(page: TargetPage) -> list[tuple[str, str]]:
    if page.merged is None:
        return []
    meta = page.merged.sources.meta
    reference = float(meta.get("reference_frequency", 0.0))
    return [
        ("sky frame", str(meta.get("radesys", ""))), ("spectral frame", str(meta.get("frame", "")) or "-"),
        ("reference frequency", f"{reference / 1e9:.6f} GHz" if reference > 0 else "-"),
    ]  # fmt: skip
