"""The report: one self-contained HTML page with the field, the probability map and every source."""

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
from numpy.typing import ArrayLike

from casa_deepfocus.core.cube import C_KMS, Cube
from casa_deepfocus.core.geometry import covariance_to_shape
from casa_deepfocus.products import completeness, regions, tables, velocity
from casa_deepfocus.products.marks import SOFTWARE

if TYPE_CHECKING:
    from casa_deepfocus.pipeline.completeness import Completeness
    from casa_deepfocus.pipeline.state import Result, SourceDetail

LINE, CONTINUUM, MODEL = "#e4572e", "#2e86ab", "#1b1b1e"
"""Colours of sources with a line, of those without, and of the fitted model."""

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


def write(prefix: Path, result: Result, cube: Cube, run: Run) -> None:
    """Write <prefix>.html, and the picture of the field as <prefix>.png.

    Parameters
    ----------
    prefix : Path
    result : Result
    cube : Cube
    run : Run
        What was asked, and of whom.
    """
    field = png(field_figure(result, cube))
    Path(f"{prefix}.png").write_bytes(field)
    table = result.catalogue
    rows = []
    for at, (row, detail) in enumerate(zip(table, result.details, strict=True)):
        picture = png(source_figure(row, detail, cube)) if at < PICTURES else b""
        rows.append({
            "id": str(row["id"]), "name": str(row["name"]), "cells": _cells(row), "picture": base64_text(picture),
            "alt": _alt(row), "flags": [text for text in tables.flag_words(table[at : at + 1])],
        })  # fmt: skip
    page = template("report.html").render(
        title=prefix.name,
        software=SOFTWARE,
        verdict=_verdict(result),
        warnings=_warnings(result, cube, run),
        field=base64_text(field),
        probability=base64_text(png(probability_figure(result, cube))),
        heads=[
            ("id", ""), ("name", ""), ("RA", ""), ("Dec", ""), ("frequency", "GHz"), ("velocity", "km/s"),
            ("FWHM", "arcsec"), ("PA", "deg"), ("line FWHM", "km/s"), ("line flux", "Jy km/s"), ("continuum", "mJy"),
            ("SNR line", ""), ("SNR continuum", ""), ("reliability", ""), ("flags", ""),
        ],
        rows=rows,
        more=max(len(table) - PICTURES, 0),
        flags=tables.flag_words(table),
        depth=_depth(result, cube, run),
        completeness=completeness.sentence(run.completeness) if run.completeness else "",
        curves=base64_text(png(completeness.figure(run.completeness))) if run.completeness else "",
        products=_products(prefix, result, run),
        facts=_facts(result, cube, run),
    )  # fmt: skip
    Path(f"{prefix}.html").write_text(page, encoding="utf-8")


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
    """The integrated dirty image in sigma, with the sources' boxes and names, the primary beam and the beam."""
    figure = Figure(figsize=(9.6, _height(9.6, cube)), layout="constrained")
    axes = _sky_axes(figure, cube)
    image = result.integrated
    top = max(float(np.nan_to_num(image).max()), 10.0)
    shown = axes.imshow(
        image, origin="lower", cmap="Greys", norm=AsinhNorm(3.0, vmin=-5.0, vmax=top), interpolation="nearest"
    )
    bar = figure.colorbar(shown, ax=axes, shrink=0.8, pad=0.02, label="integrated dirty image [sigma]")
    ticks = [tick for tick in (-5, 0, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000) if tick <= top]
    bar.set_ticks(ticks, labels=[str(tick) for tick in ticks])
    bar.ax.minorticks_off()
    pb = np.nan_to_num(cube.pb).max(axis=0)
    levels = [level for level in (0.2, 0.5) if pb.min() < level < pb.max()]
    if levels:
        axes.contour(pb, levels=levels, colors="#777777", linewidths=0.8, linestyles="dashed")
    _draw_sources(axes, result.catalogue, cube.shape)
    _draw_beam(axes, cube)
    axes.set_title(_verdict(result), fontsize=11)
    figure.set_layout_engine("constrained", h_pad=0.12)
    return figure


def probability_figure(result: Result, cube: Cube) -> Figure:
    """Blobs Finder's probability map with the sources' positions."""
    figure = Figure(figsize=(7.0, _height(7.0, cube)), layout="constrained")
    axes = _sky_axes(figure, cube)
    shown = axes.imshow(result.probability, origin="lower", cmap="viridis", vmin=0.0, vmax=1.0, interpolation="nearest")
    figure.colorbar(shown, ax=axes, shrink=0.8, pad=0.02, label="probability of a source")
    if len(result.catalogue):
        axes.plot(result.catalogue["x"], result.catalogue["y"], "+", color="white", markersize=9, markeredgewidth=1.2)
    axes.set_xlim(-0.5, cube.shape[1] - 0.5)
    axes.set_ylim(-0.5, cube.shape[0] - 0.5)
    return figure


def source_figure(row: Row, detail: SourceDetail, cube: Cube) -> Figure:
    """The spectrally focused image of a source, and its spectrum with range, model and Deep GRU's output."""
    spectral = cube.nchan > 1
    figure = Figure(figsize=(11.0, 3.6) if spectral else (4.2, 3.6), layout="constrained")
    left, *right = figure.subplots(1, 2, width_ratios=[1.0, 2.1]) if spectral else [figure.subplots()]
    _draw_focused(left, figure, row, detail, cube)
    if right:
        _draw_spectrum(right[0], row, detail, cube)
    return figure


def _draw_focused(axes: Axes, figure: Figure, row: Row, detail: SourceDetail, cube: Cube) -> None:
    x, y = float(row["x"]), float(row["y"])
    ny, nx = detail.focused.shape
    left, bottom = detail.focused_origin
    # Offsets from the source [arcsec]: east is positive and to the left.
    extent = (
        -(left - 0.5 - x) * cube.cell,
        -(left + nx - 0.5 - x) * cube.cell,
        (bottom - 0.5 - y) * cube.cell,
        (bottom + ny - 0.5 - y) * cube.cell,
    )
    shown = axes.imshow(detail.focused * 1e3, origin="lower", extent=extent, cmap="Greys", interpolation="nearest")
    figure.colorbar(shown, ax=axes, shrink=0.9, label="mJy/beam")
    colour = LINE if tables.has_line(row) else CONTINUUM
    # The picture shows the pixels as they lie. With x drawn as offset to the east, north through east turns from +y
    # towards +x.
    maj, minor, pa = regions.observed_pixel_shape(row, cube)
    size = (minor * cube.cell, maj * cube.cell)
    axes.add_patch(Ellipse((0.0, 0.0), *size, angle=-pa, fill=False, color=colour, linewidth=1.6))
    turned = regions.turned(cube.sky_frame(x, y))
    across, along = ("along -x", "along y") if turned else ("east", "north")
    axes.set(xlabel=f"{across} [arcsec]", ylabel=f"{along} [arcsec]", title="focused image, FWHM as observed")
    axes.title.set_fontsize(10)


def _draw_spectrum(axes: Axes, row: Row, detail: SourceDetail, cube: Cube) -> None:
    known = bool(np.isfinite(cube.freq).all())
    freq = cube.freq / 1e9 if known else np.arange(cube.nchan, dtype=float)
    step = abs(freq[1] - freq[0])
    order = np.argsort(freq)
    if tables.has_line(row):
        first, last = (min(max(int(channel), 0), cube.nchan - 1) for channel in (detail.chan0, detail.chan1))
        low, high = sorted((freq[first], freq[last]))
        axes.axvspan(low - step / 2, high + step / 2, color=LINE, alpha=0.12, linewidth=0, label="line range")
    axes.axhline(0.0, color="#bbbbbb", linewidth=0.8)
    axes.step(freq[order], detail.spectrum[order] * 1e3, where="mid", color="#666666", linewidth=1.0, label="spectrum")
    axes.plot(freq[order], detail.model[order] * 1e3, color=MODEL, linewidth=1.6, label="fitted model")
    other = axes.twinx()
    other.plot(freq[order], detail.clean[order], color=CONTINUUM, linewidth=1.1, linestyle="dotted", label="Deep GRU")
    other.set(ylim=(-0.05, 1.3), yticks=[0.0, 0.5, 1.0])
    other.tick_params(labelcolor=CONTINUUM, labelsize=8)
    axes.set_xlim(freq.min() - step, freq.max() + step)
    axes.ticklabel_format(axis="x", useOffset=False)
    name = f"frequency [GHz], {cube.frame}".rstrip(", ") if known else "channel"
    axes.set(xlabel=name, ylabel="flux density [mJy], as observed")
    if known and cube.restfreq:
        _velocity_axis(axes, cube, str(row.table.meta.get("velocity", "")).startswith(velocity.OPTICAL))
    handles = [*axes.get_legend_handles_labels()[0], *other.get_legend_handles_labels()[0]]
    names = [*axes.get_legend_handles_labels()[1], *other.get_legend_handles_labels()[1]]
    axes.legend(handles, names, loc="upper right", fontsize=8, frameon=False, ncols=4)
    low, high = axes.get_ylim()
    axes.set_ylim(low, high + 0.18 * (high - low))


def _velocity_axis(axes: Axes, cube: Cube, optical: bool) -> None:
    """Velocities above the frequencies, in the convention of the catalogue."""
    rest = cube.restfreq / 1e9

    def there(freq: ArrayLike) -> ArrayLike:
        freq = np.asarray(freq, dtype=float)
        return C_KMS * ((rest - freq) / np.maximum(freq, 1e-9) if optical else 1.0 - freq / rest)

    def back(speed: ArrayLike) -> ArrayLike:
        speed = np.asarray(speed, dtype=float) / C_KMS
        return rest / np.maximum(1.0 + speed, 1e-9) if optical else rest * (1.0 - speed)

    above = axes.secondary_xaxis("top", functions=(there, back))
    above.set_xlabel(f"{'optical' if optical else 'radio'} velocity [km/s]", fontsize=8)
    above.tick_params(labelsize=8)


def _draw_sources(axes: Axes, table: Table, shape: tuple[int, int]) -> None:
    ny, nx = shape
    for number, row in enumerate(table, start=1):
        colour = LINE if tables.has_line(row) else CONTINUUM
        x0, y0, x1, y1 = (int(row[name]) for name in ("x0", "y0", "x1", "y1"))
        axes.add_patch(
            Rectangle((x0 - 0.5, y0 - 0.5), x1 - x0 + 1, y1 - y0 + 1, fill=False, color=colour, linewidth=1.3)
        )
        above = y1 < 0.93 * ny
        side = "left" if row["x"] < 0.15 * nx else "right" if row["x"] > 0.85 * nx else "center"
        axes.annotate(
            str(number),
            (float(row["x"]), y1 + 0.5 if above else y0 - 0.5), xytext=(0, 3 if above else -3),
            textcoords="offset points", ha=side, va="bottom" if above else "top", color=colour,
            fontsize=8.5, path_effects=OUTLINE,
        )  # fmt: skip
    axes.plot([], [], "s", markerfacecolor="none", color=LINE, label="with a line")
    axes.plot([], [], "s", markerfacecolor="none", color=CONTINUUM, label="continuum only")
    axes.legend(loc="upper right", fontsize=8, framealpha=0.9)


def _draw_beam(axes: Axes, cube: Cube) -> None:
    size, width, angle = (float(value) for value in covariance_to_shape(cube.beam_covariance()))
    place = (0.03 * cube.shape[1] + size / 2, 0.03 * cube.shape[0] + size / 2)
    # In the pixel frame x runs west, so north through east turns from +y towards -x: matplotlib's own sense.
    axes.add_patch(Ellipse(place, width, size, angle=angle, facecolor="#444444", edgecolor="white"))


def _height(width: float, cube: Cube) -> float:
    """Height of a figure [inch] that leaves little white around the field."""
    ny, nx = cube.shape
    return float(np.clip(0.8 * width * ny / nx + 0.9, 3.0, 2.0 * width))


def _sky_axes(figure: Figure, cube: Cube) -> Any:
    if cube.wcs is None:
        axes = figure.add_subplot()
        axes.set(xlabel="x [pixel]", ylabel="y [pixel]")
        return axes
    axes = figure.add_subplot(projection=cube.wcs)
    frame = cube.meta.get("radesys", "")
    axes.coords[0].set_axislabel(f"right ascension {frame}".strip())
    axes.coords[1].set_axislabel(f"declination {frame}".strip(), minpad=0.4)
    for coordinate in axes.coords:
        coordinate.set_ticklabel(size=8, exclude_overlapping=True)
    return axes


def png(figure: Figure) -> bytes:
    """A figure as a PNG file."""
    stream = io.BytesIO()
    FigureCanvasAgg(figure)
    figure.savefig(stream, format="png", dpi=110, metadata={"Software": SOFTWARE})
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


def _depth(result: Result, cube: Cube, run: Run) -> str:
    """How deep the search looked, in words."""
    noise = float(np.nanmedian(result.noise)) * 1e3
    text = f"Sources above {run.minsnr:g} sigma of the fitted line or continuum"
    if cube.nchan > 1:
        whole = noise / np.sqrt(max(int(np.isfinite(result.noise).sum()), 1))
        return f"{text}; the noise is {noise:.3g} mJy/beam in a channel, {whole:.3g} mJy/beam over the band."
    return f"{text}; the noise is {noise:.3g} mJy/beam."


def _products(prefix: Path, result: Result, run: Run) -> list[str]:
    """Names of the files beside the page that can be opened from it."""
    endings = [".cat.ecsv", ".cat.vot", ".json", *([".crtf", ".reg"] if len(result.catalogue) else [])]
    endings += [completeness.ENDING] if run.completeness else []
    return [prefix.name + ending for ending in endings]


def _alt(row: Row) -> str:
    """What the picture of a source shows, for those who do not see it."""
    kind = "line and continuum" if products_of(row) == 2 else "line" if tables.has_line(row) else "continuum"
    return (
        f"Source {row['id']}, {row['name']}: its focused image, with an ellipse of its size, and its spectrum with the "
        f"fitted model; {kind}, SNR {number(row['snr'], 1.0)}"
    )


def products_of(row: Row) -> int:
    """How many of line and continuum a source has."""
    return int(tables.has_line(row)) + int(bool(np.isfinite(row["continuum"])))


def _cells(row: Row) -> list[dict[str, str]]:
    ra, dec = tables.sexagesimal(float(row["ra"]), float(row["dec"]))
    line = tables.has_line(row)
    small = {"value": tables.SIZELESS} if "unresolved" in str(row["flags"]).split(",") else None
    size = {"value": f"{number(row['fwhm_maj'], 1.0)} x {number(row['fwhm_min'], 1.0)}"}
    return [
        {"value": ra}, {"value": dec},
        rounded(row, "freq", 1e-9, ".6f") if line else {"value": "-"},
        rounded(row, "velocity", 1.0, ".1f") if line else {"value": "-"},
        small or size, {"value": "-"} if small else rounded(row, "pa", 1.0, ".0f"),
        rounded(row, "line_fwhm", 1.0), rounded(row, "line_flux", 1.0) if line else {"value": "-"},
        rounded(row, "continuum", 1e3), {"value": number(row["snr_line"], 1.0)},
        {"value": number(row["snr_continuum"], 1.0)}, {"value": number(row["reliability"], 1.0)},
        {"value": ", ".join(filter(None, str(row["flags"]).split(",")))},
    ]  # fmt: skip


def rounded(row: Row, name: str, scale: float, digits: str = ".4g") -> dict[str, str]:
    """A cell with the very digits of the table that a run ends with."""
    value, _, error = tables.with_error(float(row[name]) * scale, float(row[f"{name}_err"]) * scale, digits).partition(
        "+-"
    )
    return {"value": value, "error": error}


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
