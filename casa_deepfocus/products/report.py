"""The report: one self-contained HTML page that says what was found, how deep it looked, and how well it fits."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jinja2
import numpy as np
from astropy.table import Row, Table
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import AsinhNorm
from matplotlib.figure import Figure
from matplotlib.patches import Ellipse, Rectangle
from matplotlib.patheffects import withStroke
from matplotlib.text import Text
from matplotlib.transforms import Bbox
from numpy.typing import NDArray

from casa_deepfocus.core.cube import Cube
from casa_deepfocus.core.geometry import GAUSSIAN_LINE, covariance_to_shape
from casa_deepfocus.core.reliability import NoisePeaks
from casa_deepfocus.products import completeness, sourcepictures, tables
from casa_deepfocus.products.marks import SOFTWARE
from casa_deepfocus.products.moments import Moments

if TYPE_CHECKING:
    from casa_deepfocus.pipeline.completeness import Completeness
    from casa_deepfocus.pipeline.state import Result

LINE, CONTINUUM = "#b3361a", "#1b6583"
"""Colours of sources with a line and of those without: of contrast to white, and drawn in different ways besides."""

WIDTH, SHARPNESS, FONT = 5.6, 160.0, 9.0
"""Width [inch], dots an inch and size of words [point] of the field's picture: to be read at 390 pixels as well."""

NUMBERED = 100
"""Sources that get a number on the map, where there is a place for it."""

OUTLINE = [withStroke(linewidth=2.5, foreground="white")]
"""Numbers stay readable on a dark source."""

PICTURES = 100
"""Sources that get their own picture; the catalogue holds them all."""

TEMPLATES = Path(__file__).parent / "templates"


@dataclass(frozen=True)
class Run:
    """What was asked for, as the report and the summary tell it.

    Attributes
    ----------
    inputs : tuple of str
        Measurement sets, or the image.
    mode : str
    minsnr, falsealarms : float
    call : str
        As one would type it again.
    psf, pb : str
        Files that were read beside the image.
    weighting : str
    networks : str
        The set of networks, and where it ran.
    warnings : tuple of str
        What the log warned of.
    completeness : Completeness or None
        What was found of artificial sources.
    """

    inputs: tuple[str, ...]
    mode: str = "both"
    minsnr: float = 5.0
    falsealarms: float = 0.00025
    call: str = ""
    psf: str = ""
    pb: str = ""
    weighting: str = ""
    networks: str = ""
    warnings: tuple[str, ...] = ()
    completeness: Completeness | None = None


def write(
    prefix: Path, result: Result, cube: Cube, run: Run, left: NDArray[np.float32], moments: Moments | None = None
) -> None:
    """Write <prefix>.html, and the picture of the field as <prefix>.png.

    Parameters
    ----------
    prefix : Path
    result : Result
    cube : Cube
    run : Run
        What was asked, and of whom.
    left : (nchan, ny, nx) float32 [Jy/beam]
        The image without what was found.
    moments : Moments, optional
        Of the lines.
    """
    field = png(field_figure(result, cube), SHARPNESS)
    Path(f"{prefix}.png").write_bytes(field)
    table = result.catalogue
    material = sourcepictures.Material(cube, result, left, moments)
    brightest = set(np.argsort(-np.nan_to_num(np.asarray(table["snr"], float)), kind="stable")[:PICTURES].tolist())
    rows = []
    for at, (row, detail) in enumerate(zip(table, result.details, strict=True)):
        rows.append({
            "id": str(row["id"]), "name": str(row["name"]), "cells": _cells(row),
            "pictures": sourcepictures.of_source(row, detail, material) if at in brightest else [],
            "flags": [text for text in tables.flag_words(table[at : at + 1])], "said": _said(row),
        })  # fmt: skip
    page = template("report.html").render(
        title=prefix.name,
        software=SOFTWARE,
        verdict=_verdict(result),
        warnings=_warnings(result, cube, run),
        field=base64_text(field),
        panels=sourcepictures.of_field(material),
        heads=HEADS,
        rows=rows,
        more=max(len(table) - PICTURES, 0),
        shown=min(len(table), PICTURES),
        numbered=NUMBERED,
        flags=tables.flag_words(table),
        depth=_depth(result, cube, run),
        completeness=completeness.sentence(run.completeness) if run.completeness else "",
        curves=base64_text(png(completeness.figure(run.completeness))) if run.completeness else "",
        quality=_quality(material),
        products=_products(prefix, result, run),
        facts=_facts(result, cube, run),
    )  # fmt: skip
    Path(f"{prefix}.html").write_text(page, encoding="utf-8")


HEADS = (
    ("id", ""), ("name", ""), ("RA", ""), ("Dec", ""), ("frequency", "GHz"), ("velocity", "km/s"),
    ("major FWHM", "arcsec"), ("minor FWHM", "arcsec"), ("PA", "deg"), ("line FWHM", "km/s"), ("line flux", "Jy km/s"),
    ("continuum", "mJy"), ("SNR line", ""), ("SNR continuum", ""), ("reliability", ""), ("flags", ""),
)  # fmt: skip
"""Columns of the table, with their units."""


def template(name: str) -> jinja2.Template:
    """A page of the folder templates; what cannot be printed in texts of headers is replaced."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES), autoescape=True, trim_blocks=True, lstrip_blocks=True,
        finalize=lambda value: printable(value) if type(value) is str else value,
    )  # fmt: skip
    return environment.get_template(name)


def printable(text: str) -> str:
    """A text without control characters and marks that turn its direction."""
    return "".join(c if c.isprintable() or c == "\n" else "\N{REPLACEMENT CHARACTER}" for c in text)


def field_figure(result: Result, cube: Cube) -> Figure:
    """The integrated dirty image in sigma, with the sources' boxes and numbers, the primary beam and the beam."""
    figure = Figure(figsize=(WIDTH, _height(WIDTH, cube)), layout="constrained")
    axes = _sky_axes(figure, cube)
    image = result.integrated
    top = max(float(np.nan_to_num(image).max()), 10.0)
    shown = axes.imshow(
        image, origin="lower", cmap="Greys", norm=AsinhNorm(3.0, vmin=-5.0, vmax=top), interpolation="nearest"
    )
    bar = figure.colorbar(shown, ax=axes, shrink=0.8, pad=0.02)
    bar.set_label("integrated dirty image [sigma]", size=FONT)
    ticks = [tick for tick in (-5, 0, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000) if tick <= top]
    bar.set_ticks(ticks, labels=[str(tick) for tick in ticks], fontsize=FONT)
    bar.ax.minorticks_off()
    pb = np.nan_to_num(cube.pb).max(axis=0)
    levels = [level for level in (0.2, 0.5) if pb.min() < level < pb.max()]
    if levels:
        axes.contour(pb, levels=levels, colors="#777777", linewidths=0.8, linestyles="dotted")
    _draw_boxes(axes, result.catalogue)
    _draw_beam(axes, cube)
    figure.set_layout_engine("constrained", h_pad=0.08)
    FigureCanvasAgg(figure).draw()
    # Once all is in its place: numbers find theirs among what is drawn.
    figure.set_layout_engine("none")
    _draw_numbers(figure, axes, result.catalogue)
    return figure


def _draw_boxes(axes: Axes, table: Table) -> None:
    for row in table:
        line = tables.has_line(row)
        x0, y0, x1, y1 = (int(row[name]) for name in ("x0", "y0", "x1", "y1"))
        axes.add_patch(
            Rectangle(
                (x0 - 0.5, y0 - 0.5), x1 - x0 + 1, y1 - y0 + 1, fill=False, linewidth=1.1,
                color=LINE if line else CONTINUUM, linestyle="solid" if line else (0, (3, 1.5)),
            )
        )  # fmt: skip
    if len(table):
        axes.plot([], [], color=LINE, label="with a line")
        axes.plot([], [], color=CONTINUUM, linestyle=(0, (3, 1.5)), label="continuum only")
        axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2, fontsize=FONT, frameon=False)


def _draw_numbers(figure: Figure, axes: Axes, table: Table) -> list[Text]:
    """The numbers of the sources, the first ones first, each where it covers no other; what finds no place has none."""
    renderer = FigureCanvasAgg(figure).get_renderer()
    inside = axes.get_window_extent(renderer)
    taken: list[Bbox] = []
    drawn: list[Text] = []
    for row in table[:NUMBERED]:
        x0, y0, x1, y1 = (int(row[name]) for name in ("x0", "y0", "x1", "y1"))
        text = axes.annotate(
            str(row["id"]) if "id" in table.colnames else str(row.index + 1), (float(row["x"]), y1 + 0.5),
            xytext=(0, 2), textcoords="offset points", ha="center", va="bottom", fontsize=FONT,
            color=LINE if tables.has_line(row) else CONTINUUM, path_effects=OUTLINE,
        )  # fmt: skip
        middle_x, middle_y = 0.5 * (x0 + x1), 0.5 * (y0 + y1)
        for place, side, level, shift in (
            ((middle_x, y1 + 0.5), "center", "bottom", (0, 2)), ((middle_x, y0 - 0.5), "center", "top", (0, -2)),
            ((x1 + 0.5, middle_y), "left", "center", (3, 0)), ((x0 - 0.5, middle_y), "right", "center", (-3, 0)),
            ((x1 + 0.5, y1 + 0.5), "left", "bottom", (1, 1)), ((x0 - 0.5, y1 + 0.5), "right", "bottom", (-1, 1)),
            ((x1 + 0.5, y0 - 0.5), "left", "top", (1, -1)), ((x0 - 0.5, y0 - 0.5), "right", "top", (-1, -1)),
        ):  # fmt: skip
            text.xy = place
            text.set(horizontalalignment=side, verticalalignment=level, position=shift)
            extent = text.get_window_extent(renderer)
            within = inside.x0 <= extent.x0 and extent.x1 <= inside.x1 and inside.y0 <= extent.y0
            if within and extent.y1 <= inside.y1 and not any(extent.overlaps(other) for other in taken):
                taken.append(extent)
                drawn.append(text)
                break
        else:
            text.remove()
    return drawn


def _draw_beam(axes: Axes, cube: Cube) -> None:
    size, width, angle = (float(value) for value in covariance_to_shape(cube.beam_covariance()))
    place = (0.03 * cube.shape[1] + size / 2, 0.03 * cube.shape[0] + size / 2)
    # In the pixel frame x runs west, so north through east turns from +y towards -x: matplotlib's own sense.
    axes.add_patch(Ellipse(place, width, size, angle=angle, facecolor="#444444", edgecolor="white"))


def _height(width: float, cube: Cube) -> float:
    """Height of a figure [inch] that leaves little white around the field."""
    ny, nx = cube.shape
    return float(np.clip(0.72 * width * ny / nx + 0.7, 2.0, 2.0 * width))


def _sky_axes(figure: Figure, cube: Cube) -> Any:
    if cube.wcs is None:
        axes = figure.add_subplot()
        axes.set(xlabel="x [pixel]", ylabel="y [pixel]")
        return axes
    axes = figure.add_subplot(projection=cube.wcs)
    frame = cube.meta.get("radesys", "")
    axes.coords[0].set_axislabel(f"right ascension {frame}".strip(), size=FONT)
    axes.coords[1].set_axislabel(f"declination {frame}".strip(), minpad=0.4, size=FONT)
    for coordinate in axes.coords:
        coordinate.set_ticks(number=4)
        coordinate.set_ticklabel(size=FONT, exclude_overlapping=True)
    return axes


def png(figure: Figure, dpi: float = 110.0) -> bytes:
    """A figure as a PNG file."""
    stream = io.BytesIO()
    FigureCanvasAgg(figure)
    figure.savefig(stream, format="png", dpi=dpi, metadata={"Software": SOFTWARE})
    return stream.getvalue()


def base64_text(picture: bytes) -> str:
    """A PNG file as the text that a page embeds."""
    return base64.b64encode(picture).decode("ascii")


def _verdict(result: Result) -> str:
    table = result.catalogue
    lines = sum(tables.has_line(row) for row in table)
    if not len(table):
        return "no source found"
    plural = "s" if len(table) > 1 else ""
    return f"{len(table)} source{plural}: {lines} with a line, {len(table) - lines} in the continuum only"


def _warnings(result: Result, cube: Cube, run: Run) -> list[str]:
    """What a reader must know before the numbers."""
    meta, found = result.catalogue.meta, []
    if not cube.psf_is_measured:
        found.append("No PSF was given: the header's Gaussian beam stood in for it, and sidelobes were not removed.")
    if "dynamic_range_floor" in meta:
        found.append(
            f"What is left has {float(meta['dynamic_range_floor']):.1f} times the noise, as wrong gains leave it of a "
            "bright source: only continua that stand out of that are listed."
        )
    if "residual" in meta:
        found.append(f"What is left without the sources is not noise: {meta['residual']}.")
    if meta.get("outside"):
        found.append(f"Sources outside of the image were subtracted: {meta['outside']}")
    said = set(found)
    return found + [text for text in dict.fromkeys(run.warnings) if text not in said]


def _depth(result: Result, cube: Cube, run: Run) -> list[str]:
    """How deep the search looked, in words."""
    noise = np.asarray(result.noise, dtype=float)
    channel = float(np.nanmedian(noise)) * 1e3
    number = max(int(np.isfinite(noise).sum()), 1)
    band = channel / np.sqrt(number) if len(noise) == cube.nchan else channel
    usable = int((np.isfinite(cube.data).any(axis=0) & (np.nan_to_num(cube.pb).max(axis=0) > 0)).sum())
    searches = int(run.mode != "line") + int(run.mode != "continuum" and cube.nchan > 1)
    allowed = run.falsealarms / max(searches, 1)
    said = []
    if run.mode != "line":
        peaks = NoisePeaks.of_image(usable, cube.beam_pixels()).fitted()
        limit = max(run.minsnr, peaks.level(allowed)) * float(result.catalogue.meta.get("dynamic_range_floor", 1.0))
        said.append(
            f"Continuum: noise {band:.3g} mJy/beam; a point source at the centre of the field is listed from "
            f"{limit:.1f} sigma, {limit * band:.3g} mJy."
        )
    if run.mode != "continuum" and cube.nchan > 1:
        peaks = NoisePeaks.of_cube(usable, cube.beam_pixels(), cube.nchan).fitted()
        limit = max(run.minsnr, peaks.level(allowed))
        widths = np.asarray(result.catalogue["line_fwhm"], dtype=float)
        freq = float(np.nanmedian(cube.freq))
        kms = cube.chan_width_kms(freq) if np.isfinite(freq) and freq > 0 else 0.0
        typical = float(np.nanmedian(widths)) if np.isfinite(widths).any() else TYPICAL_LINE * kms
        if kms > 0:
            # The matched filter of a Gaussian line sums its squared profile: 0.753 of its FWHM in channels.
            share = np.sqrt(max(np.sqrt(np.pi / (8.0 * np.log(2.0))) * typical / kms, 1.0))
            flux = limit * channel / share * GAUSSIAN_LINE * typical
            said.append(
                f"Lines: noise {channel:.3g} mJy/beam in a channel of {kms:.3g} km/s; a line of {typical:.3g} km/s is "
                f"listed from {limit:.1f} sigma, {flux * 1e-3:.3g} Jy km/s."
            )
        else:
            said.append(f"Lines: noise {channel:.3g} mJy/beam in a channel; listed from {limit:.1f} sigma.")
    if cube.pb.max() > cube.pb[np.isfinite(cube.pb)].min(initial=1.0):
        said.append("Limits rise outwards as the primary beam falls.")
    return said


TYPICAL_LINE = 5.0
"""FWHM [channel] of the line that the depth is told for where none was found."""


def _quality(material: sourcepictures.Material) -> str:
    """Whether what is left is noise, in words."""
    cube = material.cube
    inside = np.isfinite(material.residual) & (np.nan_to_num(cube.pb).max(axis=0) > 0)
    rms, largest = sourcepictures.judged(np.where(inside, material.residual, np.nan))
    usual = sourcepictures.expected_largest(int(inside.sum()), cube.beam_pixels())
    return (
        f"Without what was found the {'mean of the band' if cube.nchan > 1 else 'image'} has an rms of {rms:.2f} times "
        f"the noise; its largest value is {largest:+.1f} sigma, where noise alone would have about {usual:.1f}."
    )


def _said(row: Row) -> str:
    """The kind and the SNR of a source, in words."""
    parts = [
        f"{name} {number(row[f'snr_{name}'], 1.0)}" for name in ("line", "continuum") if np.isfinite(row[f"snr_{name}"])
    ]
    said = f"SNR {', '.join(parts) or number(row['snr'], 1.0)}"
    return f"{said}; reliability {number(row['reliability'], 1.0)}" if np.isfinite(row["reliability"]) else said


def _products(prefix: Path, result: Result, run: Run) -> list[str]:
    """Names of the files beside the page that can be opened from it."""
    endings = [".cat.ecsv", ".cat.vot", ".cat.fits", ".json", *([".crtf", ".reg"] if len(result.catalogue) else [])]
    endings += [completeness.ENDING] if run.completeness else []
    return [prefix.name + ending for ending in endings]


def _cells(row: Row) -> list[dict[str, Any]]:
    ra, dec = tables.sexagesimal(float(row["ra"]), float(row["dec"]))
    none: dict[str, Any] = {"value": "-"}
    line = tables.has_line(row)
    small = "unresolved" in str(row["flags"]).split(",")
    sizes = [
        {"value": tables.SIZELESS, "key": 0.0} if small else rounded(row, "fwhm_maj", 1.0, ".3g"),
        none if small else rounded(row, "fwhm_min", 1.0, ".3g"), none if small else rounded(row, "pa", 1.0, ".0f"),
    ]  # fmt: skip
    cells: list[dict[str, Any]] = [
        {"value": ra, "key": row["ra"]}, {"value": dec, "key": row["dec"]},
        rounded(row, "freq", 1e-9, ".6f") if line else none,
        rounded(row, "velocity", 1.0, ".1f") if line else none, *sizes,
        rounded(row, "line_fwhm", 1.0), rounded(row, "line_flux", 1.0) if line else none,
        rounded(row, "continuum", 1e3),
        *({"value": number(row[name], 1.0), "key": row[name]} for name in ("snr_line", "snr_continuum", "reliability")),
        {"value": ", ".join(filter(None, str(row["flags"]).split(",")))},
    ]  # fmt: skip
    return [cell | {"key": _key(cell.get("key", np.nan))} for cell in cells]


def _key(value: float) -> str:
    """What a cell is sorted by: the digits of a number, nothing where there is none."""
    return f"{float(value):.9g}" if np.isfinite(value) else ""


def rounded(row: Row, name: str, scale: float, digits: str = ".4g") -> dict[str, Any]:
    """A cell with the very digits of the table that a run ends with."""
    value, _, error = tables.with_error(float(row[name]) * scale, float(row[f"{name}_err"]) * scale, digits).partition(
        "+-"
    )
    return {"value": value, "error": error, "key": float(row[name])}


def with_error(row: Row, name: str, scale: float) -> dict[str, str]:
    """A cell of a table: a column of a row and its error, in another unit."""
    value, error = number(row[name], scale), number(row[f"{name}_err"], scale, 2)
    return {"value": value, "error": error if "-" not in (value, error) else ""}


def number(value: Any, scale: float, digits: int = 3) -> str:
    """Significant digits, or decimals where more than 4 are asked for; '-' where not measured."""
    scaled = float(value) * scale
    if not np.isfinite(scaled):
        return "-"
    return f"{scaled:.{digits}f}" if digits > 4 else f"{scaled:#.{digits}g}".rstrip(".")


def _facts(result: Result, cube: Cube, run: Run) -> list[tuple[str, str]]:
    beam = cube.beam_on_sky()
    seconds = ", ".join(f"{name} {value:.2f} s" for name, value in result.timings.items())
    facts = [
        ("call", run.call or "-"),
        ("input", ", ".join(run.inputs)),
        ("PSF, primary beam", ", ".join(filter(None, (run.psf, run.pb))) or "found by name, or made with the image"),
        ("networks", f"{run.networks} {result.catalogue.meta.get('models', '')}".strip() or "-"),
        ("weighting", run.weighting or "as the image was made"),
        ("made", f"{SOFTWARE}, {result.catalogue.meta.get('created', '')}".rstrip(", ")),
        ("velocities", str(result.catalogue.meta.get("velocity", "unknown"))),
        ("mode", f"{run.mode}, minsnr {run.minsnr:g}, falsealarms {run.falsealarms:g}"),
        ("cube", f"{cube.nchan} channels of {cube.shape[1]} x {cube.shape[0]} pixels of {cube.cell:.4g} arcsec"),
        ("beam", f"{beam[0]:.4g} x {beam[1]:.4g} arcsec, position angle {beam[2]:.1f} deg"),
        ("noise", f"{float(np.nanmedian(result.noise)) * 1e3:.4g} mJy/beam in a channel (median)"),
        ("PSF", "measured" if cube.psf_is_measured else "Gaussian of the header's beam"),
        ("counts", ", ".join(f"{name} {value}" for name, value in result.counts.items())),
        ("steps", seconds),
    ]
    if cube.nchan > 1:
        ends = sorted((cube.freq[0] / 1e9, cube.freq[-1] / 1e9))
        facts.insert(-5, ("frequencies", f"{ends[0]:.6f} to {ends[1]:.6f} GHz, {cube.frame}".rstrip(", ")))
    return facts + [(key, cube.meta[key]) for key in ("telescope", "observer", "radesys") if key in cube.meta]
