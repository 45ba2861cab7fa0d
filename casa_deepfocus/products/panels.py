"""Pictures of a page as SVG: a page holds hundreds, in less time and room than a few figures of matplotlib take.

Images are embedded pixel by pixel, with outlines, scales and words above them that stay sharp at every width and on
paper. Nothing is told by colour alone.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape

import numpy as np
from markupsafe import Markup
from matplotlib import colormaps
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray
from PIL import Image

SIDE = 190
"""Longer side of an image in a panel [user unit]."""

LEFT, RIGHT, TOP, BOTTOM = 48, 14, 6, 34
"""Margins of a panel, for the scales [user unit]."""

WIDE, HIGH = 520, 216
"""Size of a spectrum's panel [user unit]."""

COLUMNS = 480
"""Columns of a spectrum: of more channels each column is the mean of several."""

MOST = 640
"""Longer side of an image in pixels: of larger ones each pixel shows the value of several that is largest in size."""

DARKEST = 24
"""Grey of the brightest pixels: outlines in black stay visible on them."""

INK, SOFT, FAINT, LINE, CONTINUUM = "#1b1b1e", "#595959", "#c8c8c8", "#b3361a", "#1b6583"
"""Colours of words and models, of scales and spectra, of grids, and of what has a line and what has none; all but the
third have a contrast of more than 4.5 to white."""


@dataclass(frozen=True)
class Outline:
    """An ellipse in a panel: centre and FWHM [pixel of the image], angle of the major axis [deg] from +y to -x."""

    x: float
    y: float
    maj: float
    minor: float
    angle: float
    filled: bool = False


def grey(image: NDArray, low: float, high: float) -> NDArray[np.uint8]:
    """(ny, nx) grey levels of an image: white at `low` and below, dark at `high`; linear about zero and slower above.

    The stretch is an inverse hyperbolic sine that is linear below a tenth of `high`, or below 3 where that is more.
    """
    knee = max(0.1 * high, 3.0)
    scaled = np.arcsinh(np.clip(np.nan_to_num(image, nan=low), low, high) / knee)
    bottom, top = np.arcsinh(low / knee), np.arcsinh(high / knee)
    levels = 255.0 - (255.0 - DARKEST) * (scaled - bottom) / max(top - bottom, 1e-30)
    return np.round(levels).astype(np.uint8)


def coloured(image: NDArray, low: float, high: float, name: str = "cividis") -> NDArray[np.uint8]:
    """(ny, nx, 4) colours of an image, transparent where it is NaN; the map's lightness rises all the way."""
    share = (np.nan_to_num(image, nan=low) - low) / max(high - low, 1e-30)
    colours = colormaps[name](np.clip(share, 0.0, 1.0), bytes=True)
    colours[..., 3] = np.where(np.isfinite(image), 255, 0)
    return np.asarray(colours, dtype=np.uint8)


def picture(pixels: NDArray[np.uint8]) -> str:
    """An image, its first row below, as the address of a PNG that a page embeds."""
    stream = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels[::-1])).save(stream, format="PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(stream.getvalue()).decode("ascii")


def thinned(image: NDArray) -> NDArray:
    """An image of at most `MOST` pixels along its longer side; peaks and holes stay."""
    step = -(-max(image.shape) // MOST)
    if step == 1:
        return image
    ny, nx = (-(-size // step) * step for size in image.shape)
    padded = np.pad(image, ((0, ny - image.shape[0]), (0, nx - image.shape[1])), constant_values=np.nan)
    blocks = padded.reshape(ny // step, step, nx // step, step).swapaxes(1, 2).reshape(ny // step, nx // step, -1)
    place = np.argmax(np.nan_to_num(np.abs(blocks), nan=-1.0), axis=-1)
    return np.take_along_axis(blocks, place[..., None], -1)[..., 0]


def image_panel(
    pixels: NDArray[np.uint8],
    shape: tuple[int, int],
    ends: tuple[float, float, float, float],
    words: str,
    axes: tuple[str, str] = ("", ""),
    outlines: Sequence[Outline] = (),
    marks: Sequence[tuple[float, float]] = (),
    square: bool = True,
) -> Markup:
    """An image with scales.

    Parameters
    ----------
    pixels : (ny, nx) or (ny, nx, 4) uint8
        What is drawn; may have fewer pixels than the image.
    shape : (ny, nx)
        Of the image that outlines and marks count pixels of.
    ends : left, right, bottom, top
        What the scales say at the outer edges; no numbers where left and right are the same.
    words : str
        What is seen, for those who do not see it.
    axes : two of str
        Names of the scales.
    outlines : sequence of Outline
    marks : sequence of (x, y) [pixel]
        Drawn as crosses.
    square : bool
        Whether the image's pixels are square; else it fills a square.
    """
    ny, nx = shape
    unit = SIDE / max(ny, nx)
    width, height = (nx * unit, ny * unit) if square else (SIDE, SIDE)
    sx, sy = width / nx, height / ny
    parts = [
        f'<image x="{LEFT}" y="{TOP}" width="{width:.1f}" height="{height:.1f}" preserveAspectRatio="none" '
        f'style="image-rendering:pixelated" href="{picture(pixels)}"/>',
        f'<rect x="{LEFT}" y="{TOP}" width="{width:.1f}" height="{height:.1f}" fill="none" stroke="{SOFT}"/>',
    ]
    for item in outlines:
        x, y = LEFT + (item.x + 0.5) * sx, TOP + height - (item.y + 0.5) * sy
        # An angle from +y to -x turns to the left where y points up; SVG's own turns to the right.
        place = (
            f'rx="{0.5 * item.minor * sx:.2f}" ry="{0.5 * item.maj * sy:.2f}" '
            f'transform="translate({x:.2f} {y:.2f}) rotate({-item.angle:.1f})"'
        )
        if item.filled:
            parts.append(f'<ellipse {place} fill="{SOFT}" stroke="white"/>')
        else:
            # White beside it, for it to be seen on a dark source.
            parts.append(f'<ellipse {place} fill="none" stroke="white" stroke-width="3.5"/>')
            parts.append(f'<ellipse {place} fill="none" stroke="{LINE}" stroke-width="1.5"/>')
    for mx, my in marks:
        x, y = LEFT + (mx + 0.5) * sx, TOP + height - (my + 0.5) * sy
        parts.append(f'<path d="M{x - 4:.1f},{y:.1f}h8M{x:.1f},{y - 4:.1f}v8" stroke="{LINE}" stroke-width="1.5"/>')
    left, right, bottom, top = ends
    if left != right:
        for at, text in _ticks(left, right, 3):
            x = LEFT + at * width
            parts.append(f'<path d="M{x:.1f},{TOP + height:.1f}v4" stroke="{SOFT}"/>')
            parts.append(_text(x, TOP + height + 15, text, "middle"))
        for at, text in _ticks(bottom, top, 3):
            y = TOP + height - at * height
            parts.append(f'<path d="M{LEFT},{y:.1f}h-4" stroke="{SOFT}"/>')
            parts.append(_text(LEFT - 6, y + 4, text, "end"))
        parts.append(_text(LEFT + 0.5 * width, TOP + height + 29, axes[0], "middle"))
        parts.append(
            f'<text transform="translate(10 {TOP + 0.5 * height:.0f}) rotate(-90)" '
            f'text-anchor="middle">{escape(axes[1])}</text>'
        )
    return _drawing(LEFT + width + RIGHT, TOP + height + BOTTOM, parts, words)


@dataclass(frozen=True)
class Curve:
    """What a spectrum's panel shows.

    Attributes
    ----------
    x : (n,) [GHz], or channels
    flux, model : (n,) [mJy]
    error : (n,) [mJy], of the model; 0 where it has none
    clean : (n,) Deep GRU's output, 0 to 1
    noise : float [mJy], scatter of a channel about the model
    span : (low, high) of the line in x, or None
    name : str, of x
    above : callable from x to what the upper scale counts, or None
    above_name : str
    """

    x: NDArray[np.float64]
    flux: NDArray[np.float64]
    model: NDArray[np.float64]
    error: NDArray[np.float64]
    clean: NDArray[np.float64]
    noise: float
    span: tuple[float, float] | None
    name: str
    above: Callable[[NDArray], NDArray] | None = None
    above_name: str = ""


def spectrum_panel(curve: Curve, words: str) -> Markup:
    """A spectrum with its noise, the fitted model with its error, the line's range, and Deep GRU's output."""
    order = np.argsort(curve.x)
    x, flux, model, error, clean = (
        _binned(np.asarray(v, float)[order]) for v in (curve.x, curve.flux, curve.model, curve.error, curve.clean)
    )
    step = float(np.median(np.diff(x))) if x.size > 1 else 1.0
    left, right = x[0] - 0.5 * step, x[-1] + 0.5 * step
    shown = np.concatenate([flux[np.isfinite(flux)], model, [0.0]])
    low, high = float(shown.min()), float(shown.max())
    room = 0.08 * (high - low) or 1e-12
    low, high = low - room, high + 2.0 * room
    x0, x1, y0, y1 = 58.0, WIDE - 30.0, 36.0 if curve.above else 10.0, HIGH - 38.0

    def across(v: NDArray) -> NDArray:
        return x0 + (np.asarray(v) - left) / (right - left) * (x1 - x0)

    def up(v: NDArray) -> NDArray:
        return y1 - (np.asarray(v) - low) / (high - low) * (y1 - y0)

    parts = []
    if curve.span is not None:
        a, b = (float(np.clip(across(np.array(v)), x0, x1)) for v in sorted(curve.span))
        parts.append(f'<rect x="{a:.1f}" y="{y0}" width="{b - a:.1f}" height="{y1 - y0:.1f}" fill="#f3e6e1"/>')
        parts.append(f'<path d="M{a:.1f},{y0}V{y1}M{b:.1f},{y0}V{y1}" stroke="{LINE}" stroke-dasharray="3 3"/>')
    zero = float(up(np.array(0.0)))
    parts.append(f'<path d="M{x0},{zero:.1f}H{x1}" stroke="{FAINT}"/>')
    if (error > 0).any():
        both = np.concatenate([model + error, (model - error)[::-1]])
        outline = _path(across(np.concatenate([x, x[::-1]])), np.clip(up(both), y0, y1))
        parts.append(f'<path d="{outline}Z" fill="#bdbdc4" stroke="none"/>')
    parts.append(_steps(across(x - 0.5 * step), up(flux), float(across(np.array(right)))))
    parts.append(f'<path d="{_path(across(x), up(model))}" fill="none" stroke="{INK}" stroke-width="1.8"/>')
    if clean.any():
        place = y1 - np.clip(clean, 0.0, 1.0) * 0.9 * (y1 - y0)
        parts.append(f'<path d="{_path(across(x), place)}" fill="none" stroke="{CONTINUUM}" stroke-dasharray="1.5 3"/>')
        parts.append(_text(x1 + 4, y1 - 0.9 * (y1 - y0) + 4, "1") + _text(x1 + 4, y1 + 4, "0"))
    bar = 0.5 * (y1 - y0) * curve.noise / (0.5 * (high - low))
    if np.isfinite(bar) and bar > 0:
        parts.append(
            f'<path d="M{x1 - 12},{y0 + 12}v{2 * bar:.1f}m-3,0h6M{x1 - 15},{y0 + 12}h6" stroke="{INK}" fill="none"/>'
        )
    parts.append(f'<rect x="{x0}" y="{y0}" width="{x1 - x0}" height="{y1 - y0}" fill="none" stroke="{SOFT}"/>')
    for at, text in _ticks(left, right, 5):
        parts.append(f'<path d="M{x0 + at * (x1 - x0):.1f},{y1}v4" stroke="{SOFT}"/>')
        parts.append(_text(x0 + at * (x1 - x0), y1 + 16, text, "middle"))
    for at, text in _ticks(low, high, 4):
        parts.append(f'<path d="M{x0},{y1 - at * (y1 - y0):.1f}h-4" stroke="{SOFT}"/>')
        parts.append(_text(x0 - 6, y1 - at * (y1 - y0) + 4, text, "end"))
    if curve.above is not None:
        ends = curve.above(np.array([left, right]))
        for at, text in _ticks(float(ends[0]), float(ends[1]), 5):
            parts.append(f'<path d="M{x0 + at * (x1 - x0):.1f},{y0}v-4" stroke="{SOFT}"/>')
            parts.append(_text(x0 + at * (x1 - x0), y0 - 7, text, "middle"))
        parts.append(_text(0.5 * (x0 + x1), 11, curve.above_name, "middle"))
    parts.append(_text(0.5 * (x0 + x1), y1 + 32, curve.name, "middle"))
    parts.append(f'<text transform="translate(11 {0.5 * (y0 + y1):.0f}) rotate(-90)" text-anchor="middle">mJy</text>')
    return _drawing(WIDE, HIGH, parts, words)


def _binned(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """At most `COLUMNS` values: each the mean of neighbours where there are more."""
    step = -(-values.size // COLUMNS)
    whole = values.size // step * step
    return values[:whole].reshape(-1, step).mean(axis=1) if step > 1 else values


def _steps(x: NDArray, y: NDArray, end: float) -> str:
    """The path of a stepped curve; holes where it is not finite."""
    text, drawn = "", False
    for at, value in enumerate(y):
        if not np.isfinite(value):
            drawn = False
            continue
        to = x[at + 1] if at + 1 < x.size else end
        text += f"{'L' if drawn else 'M'}{x[at]:.1f},{value:.1f}H{to:.1f}"
        drawn = True
    return f'<path d="{text}" fill="none" stroke="{SOFT}"/>'


def _path(x: NDArray, y: NDArray) -> str:
    return "M" + "L".join(f"{a:.1f},{b:.1f}" for a, b in zip(x, y, strict=True) if np.isfinite(b))


def _ticks(first: float, last: float, number: int) -> list[tuple[float, str]]:
    """Places (share of the way from first to last) and texts of the numbers of a scale."""
    low, high = sorted((first, last))
    if not high > low:
        return []
    values = np.asarray(MaxNLocator(number, min_n_ticks=2, steps=[1, 2, 2.5, 5, 10]).tick_values(low, high))
    values = values[(values >= low) & (values <= high)]
    digits = int(np.clip(1 - np.floor(np.log10(np.ptp(values) or 1.0)), 0, 8)) if values.size > 1 else 2
    texts = [f"{value + 0.0:.{digits}f}" for value in values]
    while digits and all(text.endswith("0") for text in texts):
        digits -= 1
        texts = [f"{value + 0.0:.{digits}f}" for value in values]
    return [
        ((value - first) / (last - first), text.replace("-", "\N{MINUS SIGN}"))
        for value, text in zip(values, texts, strict=True)
    ]


def _text(x: float, y: float, text: str, anchor: str = "start") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'


def _drawing(width: float, height: float, parts: Sequence[str], words: str) -> Markup:
    head = f'<svg role="img" aria-label="{escape(words)}" viewBox="0 0 {width:.0f} {height:.0f}">'
    return Markup(head + "".join(parts) + "</svg>")
