"""What measurement sets are of: science targets, each with its pointings, and the windows that it was observed in.

A target is what carries one name and hangs together on the sky: pointings of a mosaic have the same name, or names
that differ by a number at their end, and steps of one primary beam join them. A window is what was observed at the
same frequencies in each execution: executions shift it a little, as the Earth moves, and give it other numbers.
Calibrators are told by their scans' intents, else by their names.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

from casa_deepfocus.casa.channelgrid import MIXED_WIDTHS, TOUCH, listed
from casa_deepfocus.casa.measurementset import Field, Survey, Window, selection, survey, told
from casa_deepfocus.casa.selection import TARGET, groups, pointings, primary_beam, targets_only
from casa_deepfocus.errors import DataError

CALIBRATOR = re.compile(r"\d{4}[+-]\d{3}.*|3C(48|138|147|286)")
"""Names of the VLA's list of calibrators, 1331+305, and of its flux density scale. Where a letter stands before such a
name, J1342+0928, it may be what was observed."""

NUMBERED = re.compile(r"[\s_.-]*\d+$")
"""What the names of a mosaic's pointings may differ by."""

NO_SCIENCE = re.compile(r"WVR|SQLD|CH_AVG", re.IGNORECASE)
"""In the names of windows that hold no spectrum of the sky: water vapour radiometers, total power detectors, and
averages over the channels of another window."""

SHARED_BAND = 0.5
"""Share of the narrower one's band that windows of two executions have in common when they are the same: Doppler
tracking moves them by up to 1e-4 of the frequency, 26 MHz at 230 GHz."""


@dataclass(frozen=True)
class Part:
    """A window of one measurement set.

    Attributes
    ----------
    index : int
        The measurement set's place in vis.
    window : Window
    executions : frozenset of int
        Ids of the observations that hold it.
    """

    index: int
    window: Window
    executions: frozenset[int]

    @property
    def low(self) -> float:
        """Lower edge of the band [Hz]."""
        return float((self.window.freq - 0.5 * self.window.width).min())

    @property
    def high(self) -> float:
        """Upper edge of the band [Hz]."""
        return float((self.window.freq + 0.5 * self.window.width).max())

    def shares_execution(self, other: Part) -> bool:
        """Both were observed at once."""
        return self.index == other.index and bool(self.executions & other.executions)


@dataclass(frozen=True)
class Band:
    """A spectral window of a target, in all executions; several where they are to be one cube.

    Attributes
    ----------
    label : str
        'spw25', by the number in the first measurement set.
    parts : tuple of Part
    """

    label: str
    parts: tuple[Part, ...]

    @property
    def low(self) -> float:
        """Lower edge [Hz]."""
        return min(part.low for part in self.parts)

    @property
    def high(self) -> float:
        """Upper edge [Hz]."""
        return max(part.high for part in self.parts)


@dataclass(frozen=True)
class Target:
    """A science target.

    Attributes
    ----------
    name : str
    fields : dict of int -> tuple of Field
        Its fields in each measurement set that has it, by the place in vis.
    bands : tuple of Band
    moving : bool
        It follows an ephemeris.
    """

    name: str
    fields: Mapping[int, tuple[Field, ...]]
    bands: tuple[Band, ...]
    moving: bool = False


@dataclass(frozen=True)
class Found:
    """The targets of a call, and what is left out.

    Attributes
    ----------
    targets : tuple of Target
    surveys : tuple of Survey
        What is selected of each measurement set, scans on calibrators left out.
    tclean : dict
        The parameters, with the intent that was chosen.
    left_out : tuple of str
        What is not imaged, and why.
    """

    targets: tuple[Target, ...]
    surveys: tuple[Survey, ...]
    tclean: Mapping[str, Any]
    left_out: tuple[str, ...] = ()


def find(vis: Sequence[str], tclean: Mapping[str, Any], combine: Sequence[str] = ()) -> Found:
    """The science targets and their windows.

    Parameters
    ----------
    vis : sequence of str
        Measurement sets that have passed `selection.check_sets`.
    tclean : mapping
        What the user selects restricts what is found.
    combine : sequence of str
        'field': all fields are one target. 'spw': windows that touch are one cube.

    Raises
    ------
    DataError
        Where no target is left.
    """
    surveys = tuple(survey(name, selection(tclean, index)) for index, name in enumerate(vis))
    surveys, tclean, left_out = targets_only(surveys, tclean)
    surveys, calibrators = _without_calibrators(surveys, tclean)
    left_out += calibrators
    found = []
    joined = "field" in combine or _is_mosaic(tclean)
    for name, fields in _groups(surveys, joined=joined, whole=joined and bool(tclean["imsize"])):
        bands, without = _bands(fields, surveys, tclean, joined="spw" in combine)
        left_out += tuple(f"{name}: {reason}" for reason in without)
        if bands:
            moving = any(item.centre is None for items in fields.values() for item in items)
            found.append(Target(name, fields, bands, moving))
        else:
            left_out += (f"{name}: no window holds data of it that are not flagged",)
    if not found:
        chosen = "; ".join(f"vis={seen.name!r}, {told(seen.chosen)}" for seen in surveys)
        raise DataError(f"{chosen}: there is nothing to image. {'; '.join(left_out) or 'listobs shows what there is'}")
    return Found(tuple(found), surveys, dict(tclean), left_out)


def _is_mosaic(tclean: Mapping[str, Any]) -> bool:
    """Whether the user asks for one image of many pointings."""
    return str(tclean["gridder"]).startswith(("mosaic", "awp"))


def _without_calibrators(
    surveys: tuple[Survey, ...], tclean: Mapping[str, Any]
) -> tuple[tuple[Survey, ...], tuple[str, ...]]:
    """Without intents and selection names must do: fields named as calibrators are, beside others that are not."""
    out, left = [], []
    for index, seen in enumerate(surveys):
        asked = {"field", "scanintent", "scan"} & set(selection(tclean, index)) or not tclean.get("selectdata", True)
        known = any(TARGET in mode for mode in seen.intents)
        named = [item for item in seen.fields if CALIBRATOR.fullmatch(item.name.replace(" ", "").upper())]
        if asked or known or not named or len(named) == len(seen.fields):
            out.append(seen)
            continue
        left.append(
            f"{seen.name}: {listed(item.name for item in named)}, named as calibrators are (the set has no intents; "
            "field chooses otherwise)"
        )
        numbers = {item.number for item in named}
        out.append(
            replace(
                seen, fields=tuple(item for item in seen.fields if item.number not in numbers),
                cells={key: rows for key, rows in seen.cells.items() if key[0] not in numbers},
            )  # fmt: skip
        )
    return tuple(out), tuple(left)


def _groups(
    surveys: Sequence[Survey], *, joined: bool, whole: bool
) -> list[tuple[str, dict[int, tuple[Field, ...]]]]:
    """Names and fields of what hangs together, in the order of the measurement sets.

    `joined` leaves names out of account, `whole` places as well.
    """
    items = [(index, item) for index, seen in enumerate(surveys) for item in seen.fields]
    fixed = [item for item in items if item[1].centre is not None]
    # Pointings of a mosaic are half a beam apart at the highest frequency.
    beam = primary_beam(surveys, max(seen.high for seen in surveys))
    kinds: dict[tuple[str, int], list[tuple[int, Field]]] = {}
    stems = sorted({"" if joined else NUMBERED.sub("", item.name) or item.name for _, item in fixed})
    for stem in stems:
        mine = [pair for pair in fixed if joined or (NUMBERED.sub("", pair[1].name) or pair[1].name) == stem]
        places = pointings([replace(surveys[0], fields=tuple(item for _, item in mine))])
        if places is None:
            continue
        numbers = np.zeros(len(mine), dtype=int) if whole else groups(places, beam)
        for number, pair in zip(numbers.tolist(), mine, strict=True):
            kinds.setdefault((stem, number), []).append(pair)
    for pair in items:
        if pair[1].centre is None:
            kinds.setdefault((pair[1].name, -1), []).append(pair)
    order = {id(item): place for place, (_, item) in enumerate(items)}
    members = sorted(kinds.values(), key=lambda pairs: min(order[id(item)] for _, item in pairs))
    names = _unique([_name_of([item.name for _, item in pairs]) for pairs in members])
    out = []
    for name, pairs in zip(names, members, strict=True):
        indices = sorted({index for index, _ in pairs})
        out.append((name, {place: tuple(item for index, item in pairs if index == place) for place in indices}))
    return out


def _name_of(names: Sequence[str]) -> str:
    """The name that fields have in common."""
    if len(set(names)) == 1:
        return names[0]
    stems = {NUMBERED.sub("", name) for name in names}
    return stems.pop() if len(stems) == 1 and all(stems) else names[0]


def _unique(names: Sequence[str]) -> list[str]:
    """Names, numbered where several targets have the same."""
    out: list[str] = []
    for name in names:
        number, new = 1, name
        while new in out or (number == 1 and names.count(name) > 1):
            new = f"{name}_{number}"
            number += 1
        out.append(new)
    return out


def _bands(
    fields: Mapping[int, tuple[Field, ...]], surveys: Sequence[Survey], tclean: Mapping[str, Any], *, joined: bool
) -> tuple[tuple[Band, ...], list[str]]:
    """The windows of a target, matched over executions, and what is left out of them."""
    parts, left = [], []
    for index, items in fields.items():
        numbers, seen = {item.number for item in items}, surveys[index]
        asked = "spw" in seen.chosen
        science = [w for w in seen.windows if asked or not NO_SCIENCE.search(w.name)]
        science = science or list(seen.windows)
        for window in seen.windows:
            executions = frozenset(key[2] for key in seen.cells if key[0] in numbers and key[1] == window.number)
            if window not in science:
                left.append(f"window {window.number} of {seen.name} ({window.name}): holds no spectrum of the sky")
            elif not executions:
                left.append(f"window {window.number} of {seen.name}: no data of this target that are not flagged")
            else:
                parts.append(Part(index, window, executions))
    matched = _match(parts)
    if joined:
        matched = _join(matched)
    labels = [_label(band) for band in matched]
    bands = [
        Band(label if labels.count(label) == 1 else f"{label}_{number}", tuple(band))
        for number, (label, band) in enumerate(zip(labels, matched, strict=True))
    ]
    return tuple(bands), left


def _label(band: Sequence[Part]) -> str:
    first = min(part.index for part in band)
    numbers = sorted({part.window.number for part in band if part.index == first})
    executions = [part for part in band if part.index == first]
    # Of one window in several executions of one set the first number does.
    same = all(not one.shares_execution(other) for one in executions for other in executions if one is not other)
    return "spw" + ("" if not numbers else str(numbers[0]) if same else "+".join(map(str, numbers)))


def _match(parts: Sequence[Part]) -> list[list[Part]]:
    """Windows of different executions that are the same; one to one, those with most in common first."""
    bands: list[list[Part]] = []
    rounds: dict[tuple[int, frozenset[int]], list[Part]] = {}
    for part in parts:
        rounds.setdefault((part.index, part.executions), []).append(part)
    for mine in rounds.values():
        shared = np.array([[_shared(part, band) for band in bands] for part in mine]).reshape(len(mine), len(bands))
        taken = set()
        for row, column in zip(*linear_sum_assignment(-shared), strict=True):
            if shared[row, column] > SHARED_BAND:
                bands[column].append(mine[row])
                taken.add(row)
        bands += [[part] for row, part in enumerate(mine) if row not in taken]
    return bands


def _shared(part: Part, band: Sequence[Part]) -> float:
    """Share of the narrower band that a window has in common with those of other executions; 0 if it is another."""
    if any(part.shares_execution(other) for other in band):
        return 0.0
    other = band[0]
    mine, theirs = (float(np.median(one.window.width)) for one in (part, other))
    if part.window.nchan != other.window.nchan or not 1 / MIXED_WIDTHS < mine / theirs < MIXED_WIDTHS:
        return 0.0
    common = min(part.high, other.high) - max(part.low, other.low)
    return max(common, 0.0) / min(part.high - part.low, other.high - other.low)


def _join(bands: Sequence[Sequence[Part]]) -> list[list[Part]]:
    """Windows that touch or overlap and have channels of one width, together."""
    out: list[list[Part]] = []
    for band in sorted(bands, key=lambda parts: min(part.low for part in parts)):
        if out:
            last = out[-1]
            width = float(np.median(band[0].window.width))
            alike = 1 / MIXED_WIDTHS < width / float(np.median(last[0].window.width)) < MIXED_WIDTHS
            if alike and min(part.low for part in band) <= max(part.high for part in last) + TOUCH * width:
                last += band
                continue
        out.append(list(band))
    return out


def channels_told(window: Window) -> str:
    """A window's selected channels as CASA's selection has them: '25', '25:3~60', '25:0~9;20~60'."""
    runs = _runs(window.channels)
    if len(window.channels) == window.nchan:
        return str(window.number)
    return f"{window.number}:" + ";".join(f"{low}~{high}" if high > low else str(low) for low, high in runs)


def _runs(channels: NDArray[np.int64]) -> list[tuple[int, int]]:
    """First and last of each run of consecutive channels."""
    breaks = np.flatnonzero(np.diff(channels) > 1)
    starts, ends = np.r_[0, breaks + 1], np.r_[breaks, len(channels) - 1]
    return [(int(channels[a]), int(channels[b])) for a, b in zip(starts, ends, strict=True)]
