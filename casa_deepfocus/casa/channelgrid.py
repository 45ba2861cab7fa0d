"""The channels that a cube would have, against those that hold data.

tclean takes a grid of channels without data in silence, and of a single channel under specmode='cube' it
loses up to 60 % of the weight: the data's own channel and the image's do not coincide but for one moment.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from astropy import units as u
from numpy.typing import NDArray

from casa_deepfocus.casa.measurementset import Survey, Window
from casa_deepfocus.errors import ParameterError

C = 299792458.0
MOST_BLANK = 0.5
"""A cube with a larger share of channels without data is a mistake."""

FRAME_SHIFT = 1.8e-4
"""Largest shift of frequency between TOPO and LSRK, relative: 30 km/s of orbit and rotation, 20 of the Sun's own."""

MIXED_WIDTHS = 1.1
"""Channels of windows that differ by a larger factor have noise of their own."""

TOUCH = 1e-3
"""Channels closer than this share of their width touch: frequencies are rounded."""

NAMES_TOLD = 6
"""Fields or windows that a message names."""


@dataclass(frozen=True)
class Selected:
    """A selection that can be imaged.

    Attributes
    ----------
    tclean : dict
        tclean's parameters, with the choices made here.
    surveys : tuple of Survey
    nchan : int
        Channels that the image will have; -1 where only tclean knows.
    notes, warnings : tuple of str
        What the log should say.
    """

    tclean: dict[str, Any]
    surveys: tuple[Survey, ...]
    nchan: int = -1
    notes: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()


def is_index(value: Any) -> bool:
    """A number of channels, as an int or in a string, without a unit."""
    return isinstance(value, (int, np.integer)) or (isinstance(value, str) and value.strip().lstrip("+-").isdigit())


def given(value: Any) -> bool:
    """Not one of tclean's ways to leave a parameter out."""
    return value is not None and value not in ("", [])


def listed(names: Iterable[Any]) -> str:
    """Names with commas between, at most NAMES_TOLD of them."""
    items = [str(name) for name in names]
    more = len(items) - NAMES_TOLD
    return ", ".join(items[:NAMES_TOLD]) + (f" and {more} more" if more > 0 else "")


def check(chosen: Selected) -> Selected:
    """See that most channels of the cube hold data; image a single channel as mfs.

    Raises
    ------
    ParameterError
        With the channels and the windows.
    """
    tclean, surveys = chosen.tclean, chosen.surveys
    if tclean["specmode"] == "mfs":
        return replace(chosen, nchan=1)
    windows = [window for seen in surveys for window in seen.windows]
    asked = int(tclean["nchan"]) != -1 or given(tclean["start"]) or given(tclean["width"])
    if all(len(window.channels) == 1 for window in windows) and _overlap(windows):
        if tclean["specmode"] == "cube" and not asked:
            note = "one channel is selected: imaged with specmode='mfs', which keeps all of its weight"
            return replace(chosen, tclean=tclean | {"specmode": "mfs"}, nchan=1, notes=(*chosen.notes, note))
        if tclean["specmode"] != "cubedata":
            warning = (
                f"one channel is selected: specmode={tclean['specmode']!r} loses weight where the frame moves it out "
                "of the image's channel; specmode='mfs' keeps all"
            )
            chosen = replace(chosen, warnings=(*chosen.warnings, warning))
        return replace(chosen, nchan=1 if int(tclean["nchan"]) == -1 else int(tclean["nchan"]))
    return _check_grid(chosen, windows)


def _overlap(windows: Sequence[Window]) -> bool:
    """All windows of one channel see the same frequencies, but for the shift between executions."""
    freq = np.array([window.freq[0] for window in windows])
    width = max(float(window.width[0]) for window in windows)
    return bool(np.ptp(freq) <= width + 2.0 * FRAME_SHIFT * freq.max())


def _check_grid(chosen: Selected, windows: Sequence[Window]) -> Selected:
    """Compare the channels that the cube would have with those that hold data."""
    tclean, warnings = chosen.tclean, list(chosen.warnings)
    names = listed(dict.fromkeys(
        f"{w.number} ({w.freq.min() / 1e9:.5g} to {w.freq.max() / 1e9:.5g} GHz, {len(w.channels)} channels)"
        for w in windows
    ))  # fmt: skip
    freq, exact = grid(tclean, windows)
    if freq is None:
        return replace(chosen, nchan=int(tclean["nchan"]))
    margin = 0.0 if exact else FRAME_SHIFT * float(freq.max())
    covered = np.zeros(len(freq), dtype=bool)
    stretches = _intervals(windows, margin)
    for low, high in stretches:
        covered |= (freq >= low) & (freq <= high)
    blank = int((~covered).sum())
    several = len(stretches) > 1
    if blank > MOST_BLANK * len(freq):
        remedy = f"spw='{windows[0].number}' images one window" if several else "Leave out start, width and nchan"
        name = "specmode" if several else "start"
        raise ParameterError(
            name, tclean[name],
            f"makes a cube of {len(freq)} channels, {blank} of them without data "
            f"({freq.min() / 1e9:.6g} to {freq.max() / 1e9:.6g} GHz); selected are the windows {names}",
            remedy + (", specmode='mfs' the continuum of all" if several else ""),
        )  # fmt: skip
    if blank and several:
        warnings.append(
            f"one cube of {len(freq)} channels, {blank} of them without data, of the windows {names}; "
            f"spw='{windows[0].number}' images one window"
        )
    widths = [float(np.median(w.width)) for w in windows]
    if max(widths) > MIXED_WIDTHS * min(widths):
        warnings.append(
            f"the windows' channels are {min(widths) / 1e3:.4g} to {max(widths) / 1e3:.4g} kHz wide and become "
            f"one cube, its noise is not that of either; spw='{windows[0].number}' images one window. Windows: {names}"
        )
    return replace(chosen, nchan=len(freq), warnings=tuple(warnings))


def _intervals(windows: Sequence[Window], margin: float) -> list[tuple[float, float]]:
    """Stretches of frequency [Hz] with data, widened by `margin` at both ends, merged where they touch."""
    edges = sorted(
        (float(f - w / 2), float(f + w / 2))
        for window in windows
        for f, w in zip(window.freq, window.width, strict=True)
    )
    merged: list[tuple[float, float]] = []
    for low, high in edges:
        if merged and low - margin <= merged[-1][1] + margin + TOUCH * (high - low):
            merged[-1] = (merged[-1][0], max(high, merged[-1][1]))
        else:
            merged.append((low, high))
    return [(low - margin, high + margin) for low, high in merged]


def grid(tclean: Mapping[str, Any], windows: Sequence[Window]) -> tuple[NDArray[np.float64] | None, bool]:
    """Frequencies [Hz] of the cube's channels as tclean lays them, and whether they share the data's frame.

    None where only tclean can say (velocities without a rest frequency, records).

    Raises
    ------
    ParameterError
        Where width is 0, or start names a channel that the window does not have: tclean would take another in silence.
    """
    first = windows[0]
    native = float(np.median(first.width))
    bottom = min(float(w.freq.min()) for w in windows) - 0.5 * native
    top = max(float(w.freq.max()) for w in windows) + 0.5 * native
    start, width = tclean["start"], native
    if given(tclean["width"]):
        size = _frequency(tclean["width"], tclean, bottom, difference=True)
        if is_index(tclean["width"]):
            size = int(tclean["width"]) * native
        if size is None:
            return None, False
        if size == 0.0:
            raise ParameterError(
                "width", tclean["width"], "must not be 0", "Leave it empty for the data's own channels"
            )
        width = size
    elif given(start) and not is_index(start) and "m/s" in str(start):
        # A cube that starts at a velocity rises in velocity.
        width = -native
    exact = not given(start) or is_index(start)
    begin: float | None = (bottom if width > 0 else top) + 0.5 * width
    if is_index(start):
        if not 0 <= int(start) < first.nchan:
            raise ParameterError(
                "start", start, f"window {first.number} of the measurement set has the channels 0 to {first.nchan - 1}",
                "Give one of them, a frequency or a velocity",
            )  # fmt: skip
        near = int(np.argmin(np.abs(first.channels - int(start))))
        step = _step(first)
        if step < 0 and (not given(tclean["width"]) or is_index(tclean["width"])):
            width = -width
        begin = float(first.freq[near] + (int(start) - first.channels[near]) * step)
        begin += 0.5 * (width - math.copysign(native, width))
    elif given(start):
        begin = _frequency(start, tclean, bottom, difference=False)
    if begin is None:
        return None, False
    nchan = int(tclean["nchan"])
    if nchan == -1:
        # From the first channel's edge to the band's.
        end = top if width > 0 else bottom
        nchan = max(1, math.floor((end - begin) / width + 0.5 + TOUCH))
    return begin + width * np.arange(nchan, dtype=np.float64), exact


def _step(window: Window) -> float:
    """From one channel to the next [Hz], negative where the frequency falls."""
    if len(window.freq) < 2:
        return float(window.width[0])
    return float((window.freq[-1] - window.freq[0]) / (window.channels[-1] - window.channels[0]))


def _frequency(value: Any, tclean: Mapping[str, Any], freq: float, difference: bool) -> float | None:
    """A frequency or velocity as tclean takes it, or a width of one, in Hz; None where it cannot be known here."""
    try:
        quantity = u.Quantity(str(value))
    except (TypeError, ValueError):
        return None
    if quantity.unit.is_equivalent(u.Hz):
        return float(quantity.to_value(u.Hz))
    if not quantity.unit.is_equivalent(u.m / u.s):
        return None
    beta = float(quantity.to_value(u.m / u.s)) / C
    if difference:
        return -beta * freq
    rests = tclean["restfreq"] if isinstance(tclean["restfreq"], (list, tuple)) else [tclean["restfreq"]]
    try:
        rest = float(u.Quantity(str(rests[0])).to_value(u.Hz)) if rests and rests[0] else None
    except (TypeError, ValueError):
        return None
    if rest is None or str(tclean["veltype"]).lower() not in ("radio", "optical"):
        return None
    return rest * (1.0 - beta) if str(tclean["veltype"]).lower() == "radio" else rest / (1.0 + beta)
