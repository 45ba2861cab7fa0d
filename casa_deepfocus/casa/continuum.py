"""The channels of a target's windows in which no line was found: what its continuum image is made of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from astropy.table import Table
from casatools import synthesisutils
from numpy.typing import NDArray

from casa_deepfocus.casa.measurementset import SELECTION, Survey, Window, survey
from casa_deepfocus.casa.targets import channels_told
from casa_deepfocus.errors import DataError

Lines = Mapping[tuple[str, int], tuple[str, Sequence[tuple[float, float]]]]
"""What was found in a window of a measurement set: CASA's name of the frame, and ranges of frequency [Hz]."""

LEAST_FREE = 0.05
"""Share of a window's channels that must be free of lines for it to count: in fewer, what is taken for free is the
wings of the lines."""


def line_ranges(table: Table) -> list[tuple[float, float]]:
    """Frequencies [Hz] that the lines of a cube's catalogue cover, in the cube's frame; merged, rising.

    Parameters
    ----------
    table : Table
        As `core.catalogue.build` makes it: a line covers the channels of its box, its centre and one FWHM to each side.
    """
    first, step = float(table.meta["freq0"]), float(table.meta["chan_width"])
    ranges = []
    for row in table[np.isfinite(np.asarray(table["chan"], dtype=float))]:
        ends = first + step * (float(row["chan0"]) - 0.5), first + step * (float(row["chan1"]) + 0.5)
        ranges.append((min(ends), max(ends)))
    merged: list[tuple[float, float]] = []
    for low, high in sorted(ranges):
        if merged and low <= merged[-1][1]:
            merged[-1] = merged[-1][0], max(high, merged[-1][1])
        else:
            merged.append((low, high))
    return merged


def line_free(
    vis: Sequence[str], chosen: Sequence[Mapping[str, str]], lines: Lines
) -> tuple[list[str], list[str]]:
    """The selection of channels without lines, of each measurement set.

    Parameters
    ----------
    vis : sequence of str
    chosen : sequence of dict
        Their selections, by the ms tool's keys: those of one target.
    lines : Lines
        A window that is not there has none.

    Returns
    -------
    spw : list of str
        As tclean takes it; '' of a set in which nothing is left.
    notes : list of str
        What is left out, in words.

    Raises
    ------
    DataError
        Where nothing is left at all.
    """
    selections, notes = [], []
    for name, own in zip(vis, chosen, strict=True):
        seen, parts = survey(name, own), []
        for window in seen.windows:
            frame, ranges = lines.get((name, window.number), ("", ()))
            free = _free(seen, window, frame, ranges)
            if free.size < max(1.0, LEAST_FREE * len(window.channels)):
                notes.append(f"window {window.number} of {name}: lines all over it, no continuum from it")
                continue
            if free.size < len(window.channels):
                share = f"{free.size} of {len(window.channels)} channels"
                notes.append(f"window {window.number} of {name}: {share} are free of lines")
            parts.append(channels_told(_part(window, free)))
        selections.append(",".join(parts))
    if not any(selections):
        raise DataError("no window has channels without lines")
    return selections, notes


def with_windows(parameters: Mapping[str, Any], spw: Sequence[str]) -> dict[str, Any]:
    """The task's parameters with these windows; measurement sets without any are left out.

    Parameters
    ----------
    parameters : mapping
        `vis` is a list.
    spw : sequence of str
        Of each measurement set; '' for none.
    """
    kept = [index for index, value in enumerate(spw) if value]
    out, number = dict(parameters), len(spw)
    for name in SELECTION:
        value = out[name]
        if isinstance(value, (list, tuple)) and len(value) == number and number > 1:
            out[name] = [value[index] for index in kept]
    out["vis"] = [parameters["vis"][index] for index in kept]
    out["spw"] = [spw[index] for index in kept] if len(kept) > 1 else spw[kept[0]]
    return out


def _part(window: Window, channels: NDArray[np.int64]) -> Window:
    index = np.searchsorted(window.channels, channels)
    return Window(
        window.number, channels, window.freq[index], window.width[index], window.nchan, window.name, window.frame
    )


def _free(
    seen: Survey, window: Window, frame: str, ranges: Sequence[tuple[float, float]]
) -> NDArray[np.int64]:
    """Channels of a window that no range touches at any time of the observation."""
    covered = np.zeros(len(window.channels), dtype=bool)
    for low, high in ranges:
        if frame == window.frame or len(window.channels) == 1:
            covered |= (window.freq + 0.5 * window.width > low) & (window.freq - 0.5 * window.width < high)
        else:
            covered |= np.isin(window.channels, _channels(seen, window, frame, low, high))
    return window.channels[~covered]


def _channels(seen: Survey, window: Window, frame: str, low: float, high: float) -> NDArray[np.int64]:
    """Channels of a window that hold a range of another frame at some time of the observation."""
    tool = synthesisutils()
    found = []
    try:
        for item in seen.fields[:1]:
            answer = tool.advisechansel(
                freqstart=f"{low!r}Hz", freqend=f"{high!r}Hz", freqstep=f"{float(np.median(window.width))!r}Hz",
                freqframe=frame, msname=seen.name, fieldid=item.number, getfreqrange=False,
                spwselection=str(window.number),
            )  # fmt: skip
            for number, start, count in zip(
                *(np.atleast_1d(answer.get(key, [])) for key in ("spw", "start", "nchan")), strict=True
            ):
                if int(number) == window.number:
                    found.append(np.arange(int(start), int(start) + int(count)))
    except RuntimeError as exc:
        where = f"{seen.name!r}, window {window.number}"
        raise DataError(f"{where}: its frequencies cannot be had in {frame} ({exc})") from exc
    finally:
        tool.done()
    return np.concatenate(found) if found else np.zeros(0, dtype=np.int64)
