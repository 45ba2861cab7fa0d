"""Small drawings of spectra as SVG: a page holds hundreds, in less time than a few figures of matplotlib take."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

WIDTH, HEIGHT = 226, 110
"""Size of a drawing [CSS pixel]."""

LEFT, RIGHT, TOP, BOTTOM = 42, 6, 8, 18
"""Margins, for the numbers [CSS pixel]."""

COLUMNS = 120
"""Columns of a spectrum: more channels are drawn as their range in each, which keeps narrow lines."""

GREY, INK, LIGHT = "#8a8a8a", "#1b1b1e", "#cccccc"
"""Colours of a spectrum, of a model, and of the zero level."""

STEPS = 24
"""Points of a power law's curve."""


@dataclass(frozen=True)
class Spectrum:
    """A source's spectrum in a cube, as observed.

    Attributes
    ----------
    freq : (nchan,) float [Hz]
    flux, model : (nchan,) float [Jy]
    """

    freq: NDArray[np.float64]
    flux: NDArray[np.float32]
    model: NDArray[np.float32]


@dataclass(frozen=True)
class Measured:
    """A continuum in a cube: flux and error [Jy], frequency [Hz]."""

    label: str
    flux: float
    error: float
    freq: float


def spectrum_panel(spectrum: Spectrum) -> Markup:
    """A spectrum with its model; empty where there is nothing to draw."""
    freq, flux, model = (np.asarray(v, dtype=float) for v in (spectrum.freq, spectrum.flux, spectrum.model))
    if not np.isfinite(freq).all():
        freq = np.arange(freq.size, dtype=float)
    known = np.isfinite(flux) & np.isfinite(model)
    if known.sum() < 2 or np.ptp(freq[known]) == 0.0:
        return Markup("")
    order = np.argsort(freq[known])
    freq, flux, model = (v[known][order] for v in (freq, flux, model))
    frame = _Frame(freq[0], freq[-1], *_range(np.concatenate([flux, model, [0.0]])))
    zero = f'<path d="{frame.path(freq[[0, -1]], np.zeros(2))}" stroke="{LIGHT}" fill="none"/>'
    lines = [(_thinned(freq, flux), GREY, 1.0), (_thinned(freq, model), INK, 1.4)]
    drawn = [
        f'<path d="{frame.path(x, y)}" stroke="{colour}" stroke-width="{width}" fill="none"/>'
        for (x, y), colour, width in lines
    ]
    return frame.svg([zero, *drawn], "mJy", 1e3, "GHz" if np.isfinite(spectrum.freq).all() else "")


def spectral_energy(measured: Sequence[Measured], law: tuple[float, float, float]) -> Markup:
    """Continua over frequency, and the power law (flux [Jy], frequency [Hz], index) through them; logarithmic axes.

    Empty with fewer than two measurements above zero.
    """
    points = [m for m in measured if m.flux > 0 and np.isfinite(m.freq) and m.freq > 0]
    if len(points) < 2:
        return Markup("")
    freq, flux, error = np.array([(m.freq, m.flux, np.nan_to_num(m.error)) for m in points]).T
    low, high = np.log(freq.min()), np.log(freq.max())
    room = max(0.08 * (high - low), 0.002)
    x = np.linspace(low - room, high + room, STEPS)
    curve = np.log(law[0]) + law[2] * (x - np.log(law[1])) if law[0] > 0 and law[1] > 0 else np.full(STEPS, np.nan)
    ends = np.log(np.maximum([flux - error, flux + error], 0.2 * flux))
    shown = np.concatenate([ends.ravel(), curve[np.isfinite(curve)]])
    frame = _Frame(x[0], x[-1], *_range(shown, 0.1))
    parts = []
    if np.isfinite(curve).all():
        parts.append(f'<path d="{frame.path(x, curve)}" stroke="{INK}" fill="none"/>')
    for f, s, (bottom, top) in zip(np.log(freq), np.log(flux), ends.T, strict=True):
        bar = frame.path(np.array([f, f]), np.array([bottom, top]))
        (cx,), (cy,) = frame.x(np.array([f])), frame.y(np.array([s]))
        parts.append(f'<path d="{bar}" stroke="{GREY}"/><circle cx="{cx:.1f}" cy="{cy:.1f}" r="2.6" fill="{GREY}"/>')
    return frame.svg(parts, "mJy", 1e3, "GHz", logarithmic=True)


def _thinned(freq: NDArray, values: NDArray) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """A spectrum with at most two values, the lowest and the highest, in each of `COLUMNS`."""
    if freq.size <= 2 * COLUMNS:
        return freq, values
    edges = np.linspace(0, freq.size, COLUMNS + 1).astype(int)
    low, high = (reduce.reduceat(values, edges[:-1]) for reduce in (np.minimum, np.maximum))
    middle = freq[(edges[:-1] + edges[1:]) // 2]
    return np.repeat(middle, 2), np.stack([low, high], -1).ravel()


def _range(values: NDArray, room: float = 0.05) -> tuple[float, float]:
    low, high = float(values.min()), float(values.max())
    more = room * (high - low) or 1e-30
    return low - more, high + more


class _Frame:
    """The axes of a drawing."""

    def __init__(self, left: float, right: float, bottom: float, top: float) -> None:
        self.left, self.right, self.bottom, self.top = left, right, bottom, top

    def x(self, values: NDArray) -> NDArray[np.float64]:
        return LEFT + (values - self.left) / (self.right - self.left) * (WIDTH - LEFT - RIGHT)

    def y(self, values: NDArray) -> NDArray[np.float64]:
        return HEIGHT - BOTTOM - (values - self.bottom) / (self.top - self.bottom) * (HEIGHT - TOP - BOTTOM)

    def path(self, x: NDArray, y: NDArray) -> str:
        pairs = [f"{a:.1f},{b:.1f}" for a, b in zip(self.x(x), self.y(y), strict=True)]
        return "M" + "L".join(pairs)

    def svg(self, parts: list[str], unit: str, scale: float, freq: str, logarithmic: bool = False) -> Markup:
        """The whole drawing, with the ends of its axes as numbers."""
        ends = [self.left, self.right, self.bottom, self.top]
        left, right, bottom, top = np.exp(ends) if logarithmic else ends
        if freq:
            left, right = left / 1e9, right / 1e9
        digits = int(np.clip(2 - np.floor(np.log10(abs(right - left) or 1.0)), 0, 6)) if freq else 0
        texts = [
            (LEFT, HEIGHT - 4, "start", f"{left:.{digits}f}"),
            (WIDTH - RIGHT, HEIGHT - 4, "end", f"{right:.{digits}f} {freq}".strip()),
            (LEFT - 4, HEIGHT - BOTTOM, "end", f"{bottom * scale:.2g}"),
            (LEFT - 4, TOP + 8, "end", f"{top * scale:.2g}"),
            (LEFT - 4, (TOP + HEIGHT - BOTTOM) / 2 + 4, "end", unit),
        ]
        words = [f'<text x="{x:.0f}" y="{y:.0f}" text-anchor="{side}">{text}</text>' for x, y, side, text in texts]
        box = f'<rect x="{LEFT}" y="{TOP}" width="{WIDTH - LEFT - RIGHT}" height="{HEIGHT - TOP - BOTTOM}" '
        box += f'stroke="{LIGHT}" fill="none"/>'
        # Numbers and our own words only: nothing of a header is in it.
        head = f'<svg width="{WIDTH}" height="{HEIGHT}" viewBox="0 0 {WIDTH} {HEIGHT}">'
        return Markup(head + box + "".join(parts) + "".join(words) + "</svg>")
