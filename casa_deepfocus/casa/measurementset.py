"""What a selection of a measurement set holds, read once: fields, windows, antennas, baselines, columns.

Nothing is judged here (`selection.py` does), and no visibility is read (`visibilities.py` does).
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from astropy import units as u
from astropy.coordinates import SkyCoord
from casatools import ms as mstool
from casatools import msmetadata, table
from numpy.typing import NDArray

from casa_deepfocus.errors import DataError, DeepFocusError, ParameterError
from casa_deepfocus.reading.grid import is_table

SELECTION = {
    "field": "field", "spw": "spw", "timerange": "time", "uvrange": "uvdist", "antenna": "baseline",
    "scan": "scan", "observation": "observation", "intent": "scanintent",
}  # fmt: skip
"""tclean's names of the selection parameters, and the ms tool's."""

FRAMES = {"J2000": "fk5", "ICRS": "icrs", "B1950": "fk4", "GALACTIC": "galactic"}
"""CASA's names of the direction frames in which a phase centre is fixed on the sky, and astropy's."""

FREQUENCY_FRAMES = {
    0: "REST", 1: "LSRK", 2: "LSRD", 3: "BARY", 4: "GEO", 5: "TOPO", 6: "GALACTO", 7: "LGROUP", 8: "CMB",
}  # fmt: skip
"""Numbers of casacore's spectral frames, as MEAS_FREQ_REF has them."""

LARGEST_SAMPLE = 200_000
"""Rows of which u and v are kept: percentiles of baselines are then known to 0.1 %."""


@dataclass(frozen=True)
class Field:
    """A field of the FIELD table.

    Attributes
    ----------
    number : int
        Its id.
    name : str
    centre : SkyCoord or None
        The phase centre; None where it has no fixed place on the sky (ephemeris, polynomial, AZEL).
    frame : str
        CASA's name of the frame of the phase centre.
    """

    number: int
    name: str
    centre: SkyCoord | None
    frame: str


@dataclass(frozen=True)
class Window:
    """The selected channels of a spectral window.

    Attributes
    ----------
    number : int
        Its id.
    channels : (n,) int
    freq, width : (n,) float [Hz]
        Centres of the channels in the data's frame, and their (positive) widths.
    nchan : int
        Channels of the whole window.
    name : str
    frame : str
        CASA's name of the frame of the frequencies.
    """

    number: int
    channels: NDArray[np.int64]
    freq: NDArray[np.float64]
    width: NDArray[np.float64]
    nchan: int
    name: str = ""
    frame: str = ""


@dataclass(frozen=True)
class Survey:
    """A selection of a measurement set.

    Attributes
    ----------
    name : str
    chosen : dict
        The selection, by the ms tool's keys.
    columns : tuple of str
        Columns of the main table.
    rows : int
        Selected rows, autocorrelations and flagged ones included.
    fields : tuple of Field
    windows : tuple of Window
    intents : dict of str -> int
        Scan intents (OBS_MODE) of the selected rows, and their rows; '' of rows without one.
    diameter : float [m]
        Of the smallest antenna.
    baselines : int
        Pairs of antennas with rows that are not flagged as a whole and have a length.
    uv : (n, 2) float [m]
        u and v of such rows, at most LARGEST_SAMPLE of them, evenly taken.
    cells : dict of (int, int, int) -> int
        Such rows of each field, window and observation (by their ids).
    dishes : dict of float -> tuple of int
        Antennas that such rows have, by their diameter [m].
    """

    name: str
    chosen: Mapping[str, str]
    columns: tuple[str, ...]
    rows: int
    fields: tuple[Field, ...]
    windows: tuple[Window, ...]
    intents: Mapping[str, int]
    diameter: float
    baselines: int
    uv: NDArray[np.float64]
    cells: Mapping[tuple[int, int, int], int] = field(default_factory=dict)
    dishes: Mapping[float, tuple[int, ...]] = field(default_factory=dict)

    @property
    def low(self) -> float:
        """Lowest frequency [Hz]."""
        return min(float(window.freq.min()) for window in self.windows)

    @property
    def high(self) -> float:
        """Highest frequency [Hz]."""
        return max(float(window.freq.max()) for window in self.windows)

    @property
    def uvdist(self) -> NDArray[np.float64]:
        """(n,) lengths of the sampled baselines, as seen from the source [m]."""
        return np.hypot(self.uv[:, 0], self.uv[:, 1])


def selection(tclean: Mapping[str, Any], index: int) -> dict[str, str]:
    """The ms tool's selection for the measurement set number `index`."""
    chosen: dict[str, str] = {}
    if not tclean.get("selectdata", True):
        return chosen
    for name, key in SELECTION.items():
        value = tclean.get(name, "")
        if isinstance(value, (list, tuple)):
            value = value[index] if index < len(value) else (value[0] if value else "")
        if str(value) != "":
            chosen[key] = str(value)
    return chosen


def told(chosen: Mapping[str, str]) -> str:
    """A selection in words, by tclean's names: "field='0', spw='1'"."""
    back = {key: parameter for parameter, key in SELECTION.items()}
    return ", ".join(f"{back[key]}={value!r}" for key, value in chosen.items()) or "all data"


def columns(name: str) -> tuple[str, ...]:
    """Columns of the main table.

    Raises
    ------
    ParameterError, DataError
        Where `name` is no measurement set; the message says what it is and what to do.
    """
    if not os.path.exists(name):
        remedy = "Check the path"
        if any(sign in name for sign in "*?["):
            remedy = f"Patterns are not expanded; vis=sorted(glob.glob({name!r})) gives the list"
        raise ParameterError("vis", name, "does not exist", remedy)
    if os.path.isfile(name):
        raise DataError(
            f"vis={name!r} is a file, no measurement set: importuvfits makes one of UVFITS; give an image as imagename"
        )
    if not is_table(name):
        way = "importasdm makes one of an ASDM" if os.path.exists(os.path.join(name, "ASDM.xml")) else "check the path"
        raise DataError(f"vis={name!r} is a folder, no measurement set: {way}")
    tb = table()
    try:
        tb.open(name)
        found = tuple(tb.colnames())
    except RuntimeError as exc:
        raise DataError(f"vis={name!r} is no measurement set, or a damaged one") from exc
    finally:
        tb.close()
    if "map" in found:
        raise DataError(f"vis={name!r} is a CASA image, no measurement set: give it as imagename")
    if "UVW" not in found or not {"DATA", "FLOAT_DATA", "CORRECTED_DATA"} & set(found):
        raise DataError(f"vis={name!r} is no measurement set with visibilities")
    return found


def check_selection(name: str, chosen: Mapping[str, str]) -> None:
    """See that a selection leaves visibilities of a measurement set.

    Raises
    ------
    ParameterError
        Naming the part of the selection that leaves nothing.
    """
    back = {key: parameter for parameter, key in SELECTION.items()}
    tool = mstool()
    try:
        tool.open(name)
        if tool.nrow() == 0:
            raise DataError(f"vis={name!r} holds no visibilities")
        for key, expression in chosen.items():
            problem = ""
            try:
                if not tool.msselect({key: expression}) or tool.nrow(selected=True) == 0:
                    problem = f"selects nothing of {name!r}"
            except RuntimeError as exc:
                problem = f"selects nothing of {name!r} ({_first_line(exc)})"
            if problem:
                raise ParameterError(back[key], expression, problem, "listobs shows what there is")
    except DeepFocusError:
        raise
    except RuntimeError as exc:
        raise DataError(f"vis={name!r} is no measurement set, or a damaged one") from exc
    finally:
        tool.done()


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def selected_rows(name: str, chosen: Mapping[str, str]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Row numbers of a selection, rising, and its channels: (n, 4) of window, first, last, step; (0, 4) for all."""
    tool = mstool()
    try:
        tool.open(name)
        if chosen:
            tool.msselect(dict(chosen))
        rows = np.sort(np.asarray(tool.range(["rows"])["rows"], dtype=np.int64))
        channels = np.atleast_2d(np.asarray(tool.msselectedindices().get("channel", []), dtype=np.int64))
    finally:
        tool.done()
    return rows, channels if channels.size and channels.shape[1] == 4 else np.empty((0, 4), dtype=np.int64)


@contextmanager
def main_table(name: str, rows: NDArray[np.int64]) -> Iterator[Any]:
    """The table tool on rows of the main table."""
    tb = table()
    part = None
    try:
        tb.open(name)
        part = tb if len(rows) == tb.nrows() else tb.selectrows(rows)
        yield part
    finally:
        if part is not None and part is not tb:
            part.close()
        tb.close()


def survey(name: str, chosen: Mapping[str, str]) -> Survey:
    """Read what a selection of a measurement set holds.

    Parameters
    ----------
    name : str
    chosen : mapping
        A selection that leaves something (`check_selection`).

    Raises
    ------
    DataError
        Where a part of the measurement set is missing or damaged.
    """
    try:
        return _survey(name, chosen)
    except RuntimeError as exc:
        raise DataError(f"vis={name!r} is no measurement set, or a damaged one ({_first_line(exc)})") from exc


def _survey(name: str, chosen: Mapping[str, str]) -> Survey:
    found = columns(name)
    rows, channels = selected_rows(name, chosen)
    keys = ("DATA_DESC_ID", "FIELD_ID", "STATE_ID", "ANTENNA1", "ANTENNA2", "FLAG_ROW", "OBSERVATION_ID")
    with main_table(name, rows) as tb:
        main = {key: np.asarray(tb.getcol(key)) for key in keys}
        uvw = np.asarray(tb.getcol("UVW"))
    good = ~main["FLAG_ROW"].astype(bool) & (main["ANTENNA1"] != main["ANTENNA2"]) & (np.hypot(uvw[0], uvw[1]) > 0)
    pairs = np.unique(np.stack([main["ANTENNA1"], main["ANTENNA2"]])[:, good], axis=1)
    number = np.asarray(subtable_column(name, "DATA_DESCRIPTION", "SPECTRAL_WINDOW_ID"))[main["DATA_DESC_ID"]]
    cells = np.stack([main["FIELD_ID"], number, main["OBSERVATION_ID"]])[:, good]
    kinds, counts = np.unique(cells, axis=1, return_counts=True)
    step = max(1, int(np.ceil(good.sum() / LARGEST_SAMPLE)))
    return Survey(
        name=name,
        chosen=dict(chosen),
        columns=found,
        rows=len(rows),
        fields=_fields(name, np.unique(main["FIELD_ID"])),
        windows=_windows(name, np.unique(main["DATA_DESC_ID"]), channels),
        intents=_intents(name, main["STATE_ID"]),
        diameter=_diameter(name),
        dishes=_dishes(name, np.unique(pairs)),
        baselines=pairs.shape[1],
        uv=uvw[:2, good][:, ::step].T,
        cells=dict(zip(map(tuple, kinds.T.tolist()), counts.tolist(), strict=True)),
    )


def subtable_column(name: str, subtable: str, column: str) -> NDArray[Any]:
    """A column of a subtable."""
    tb = table()
    try:
        tb.open(os.path.join(name, subtable))
        return np.asarray(tb.getcol(column))
    finally:
        tb.close()


def _diameter(name: str) -> float:
    """Of the smallest antenna [m]."""
    diameters = np.asarray(subtable_column(name, "ANTENNA", "DISH_DIAMETER"))
    if not (diameters > 0).any():
        raise DataError(
            f"vis={name!r}: the ANTENNA table has no DISH_DIAMETER above 0, and the primary beam is not known without; "
            "put it there with the table tool"
        )
    return float(diameters[diameters > 0].min())


def _dishes(name: str, antennas: NDArray[np.int64]) -> dict[float, tuple[int, ...]]:
    """Antennas by their diameter [m]."""
    diameters = np.round(np.asarray(subtable_column(name, "ANTENNA", "DISH_DIAMETER"), dtype=float), 1)
    sizes = np.unique(diameters[antennas])
    return {float(size): tuple(int(n) for n in antennas if diameters[n] == size) for size in sizes if size > 0}


def _intents(name: str, states: NDArray[np.int64]) -> dict[str, int]:
    modes = subtable_column(name, "STATE", "OBS_MODE")
    found: dict[str, int] = {}
    for state, count in zip(*np.unique(states, return_counts=True), strict=True):
        mode = str(modes[state]) if 0 <= state < len(modes) else ""
        found[mode] = found.get(mode, 0) + int(count)
    return found


def _fields(name: str, numbers: NDArray[np.int64]) -> tuple[Field, ...]:
    tb, msmd = table(), msmetadata()
    found = []
    try:
        tb.open(os.path.join(name, "FIELD"))
        names, polynomials = tb.getcol("NAME"), tb.getcol("NUM_POLY")
        ephemerides = tb.getcol("EPHEMERIS_ID") if "EPHEMERIS_ID" in tb.colnames() else np.full(len(names), -1)
        msmd.open(name)
        for number in map(int, numbers):
            place = msmd.phasecenter(number)
            frame, centre = str(place["refer"]), None
            if frame in FRAMES and ephemerides[number] < 0 and polynomials[number] == 0:
                angles = place["m0"]["value"] * u.rad, place["m1"]["value"] * u.rad
                centre = SkyCoord(*angles, frame=FRAMES[frame]).icrs
            found.append(Field(number, str(names[number]), centre, frame))
    finally:
        msmd.done()
        tb.close()
    return tuple(found)


def _windows(name: str, descriptions: NDArray[np.int64], chosen: NDArray[np.int64]) -> tuple[Window, ...]:
    used = np.unique(subtable_column(name, "DATA_DESCRIPTION", "SPECTRAL_WINDOW_ID")[descriptions])
    tb, found = table(), []
    try:
        tb.open(os.path.join(name, "SPECTRAL_WINDOW"))
        # Channels are selected of some windows, all of none: windows that the selection does not name are left out.
        for number in map(int, used):
            freq = np.asarray(tb.getcell("CHAN_FREQ", number), dtype=float)
            width = np.abs(np.asarray(tb.getcell("CHAN_WIDTH", number), dtype=float))
            mine = chosen[chosen[:, 0] == number]
            parts = [np.arange(first, last + 1, max(step, 1)) for _, first, last, step in mine]
            channels = np.unique(np.concatenate(parts)) if parts else np.arange(len(freq))
            frame = FREQUENCY_FRAMES.get(int(tb.getcell("MEAS_FREQ_REF", number)), "")
            name_of = str(tb.getcell("NAME", number))
            found.append(Window(number, channels, freq[channels], width[channels], len(freq), name_of, frame))
    finally:
        tb.close()
    return tuple(found)
