"""What tclean would image wrongly, or in silence not as meant, of a selection of measurement sets.

Each check is a function of the surveys; `check` puts them in order. All of them come before any imaging.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import combinations
from typing import Any

import numpy as np
from astropy.coordinates import SkyCoord
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from scipy.spatial import cKDTree

from casa_deepfocus.casa import channelgrid, visibilities
from casa_deepfocus.casa.channelgrid import C, Selected, listed
from casa_deepfocus.casa.measurementset import (
    Field,
    Survey,
    check_selection,
    columns,
    selected_rows,
    selection,
    survey,
    told,
)
from casa_deepfocus.errors import DataError, ParameterError

PRIMARY_BEAM = 1.13
"""FWHM of the primary beam, in wavelength / dish diameter (ALMA Technical Handbook, chapter 3)."""

ONE_CENTRE = 0.01
"""Phase centres closer than this share of the primary beam's FWHM are one: tclean turns the phases to one centre
itself, and the gain at half power is wrong by 1.4 % at most."""

CHANNELS = re.compile(r"(\d+)(?:~\d+)?(?:\^\d+)?")
"""Channels by number in a selection of windows: first, last and step."""

TARGET = "OBSERVE_TARGET"
FEWEST = 3
"""Baselines, and distinct uv cells, that an image of two dimensions needs: those of three antennas."""


def data_column(vis: Sequence[str], datacolumn: str) -> tuple[str, tuple[str, ...]]:
    """The data column to image, 'corrected' or 'data', and what the log should say where it was not given.

    Raises
    ------
    ParameterError
        Where some measurement sets are calibrated in place and others are not: no one column holds what is meant.
    """
    if datacolumn:
        return datacolumn, ()
    with_it = [name for name in vis if "CORRECTED_DATA" in columns(name)]
    if with_it and len(with_it) < len(vis):
        others = [name for name in vis if name not in with_it]
        raise ParameterError(
            "datacolumn", datacolumn, f"is not clear: {listed(with_it)} have CORRECTED_DATA, {listed(others)} have not",
            "Give datacolumn='data' if DATA is calibrated in all, or split the calibrated data off first",
        )  # fmt: skip
    if with_it:
        return "corrected", ()
    return "data", (f"datacolumn: DATA, as {listed(vis)} has no CORRECTED_DATA",)


def check(vis: Sequence[str], tclean: Mapping[str, Any], *, visibilities: bool = True) -> Selected:
    """Check what is selected of measurement sets that `check_sets` has passed: grids, phase centres, visibilities.

    Parameters
    ----------
    vis : sequence of str
    tclean : mapping
    visibilities : bool
        Whether to read a sample of them.

    Raises
    ------
    ParameterError, DataError
    """
    surveys = tuple(survey(name, selection(tclean, index)) for index, name in enumerate(vis))
    for seen in surveys:
        _check_channels(seen)
    _check_twice(surveys)
    chosen = _targets_only(Selected(dict(tclean), surveys))
    chosen = _check_phase_centres(chosen)
    if visibilities:
        chosen = _check_visibilities(chosen)
    _check_baselines(chosen.surveys)
    return channelgrid.check(chosen)


def check_sets(vis: Sequence[str], tclean: Mapping[str, Any]) -> None:
    """See that there are measurement sets, with the column and the rows that are asked for; no visibility is read.

    Raises
    ------
    ParameterError, DataError
    """
    for index, name in enumerate(vis):
        found = columns(name)
        wanted = str(tclean["datacolumn"]).lower()
        if wanted == "corrected" and "CORRECTED_DATA" not in found:
            raise ParameterError(
                "datacolumn", "corrected", f"{name!r} has no CORRECTED_DATA column", "Use datacolumn='data'"
            )
        if wanted == "data" and not {"DATA", "FLOAT_DATA"} & set(found):
            raise ParameterError("datacolumn", "data", f"{name!r} has no DATA column", "Use datacolumn='corrected'")
        check_selection(name, selection(tclean, index))
    _check_numbers(tclean)


def _check_numbers(tclean: Mapping[str, Any]) -> None:
    """Numbers that tclean takes in silence, or stops at in its own words after some work."""
    pblimit = tclean["pblimit"]
    if not 0.0 < float(pblimit) < 1.0:
        raise ParameterError(
            "pblimit", pblimit, "must lie between 0 and 1: fluxes are given where the primary beam is above it",
            "0.2 is the default. A negative one, in tclean an image without mask, is not needed: "
            "pixels below the limit are used all the same",
        )  # fmt: skip
    if int(tclean["nchan"]) < 1 and int(tclean["nchan"]) != -1:
        raise ParameterError("nchan", tclean["nchan"], "must be at least 1", "-1 takes all channels selected")
    if int(tclean["npixels"]) < 0:
        raise ParameterError("npixels", tclean["npixels"], "must not be negative", "0 is the default")
    if channelgrid.is_index(tclean["width"]) and int(tclean["width"]) < 0 and not channelgrid.given(tclean["start"]):
        raise ParameterError(
            "width", tclean["width"], "counts down from start, and there is none: tclean would make one channel",
            "Give the highest channel as start, or a positive width",
        )  # fmt: skip


def _check_channels(seen: Survey) -> None:
    """Channels that no selected window has: CASA takes the last one in their place."""
    expression = seen.chosen.get("spw", "")
    most = max(window.nchan for window in seen.windows)
    for part in expression.split(","):
        for channels in part.partition(":")[2].split(";"):
            first = CHANNELS.fullmatch(channels.strip())
            if first and int(first[1]) >= most:
                raise ParameterError(
                    "spw", expression, f"{channels.strip()!r} begins beyond the last channel: the windows selected of "
                    f"{seen.name!r} have {most} at most, counted from 0", "listobs shows what there is",
                )  # fmt: skip


def _check_twice(surveys: Sequence[Survey]) -> None:
    """The same visibilities in two entries of vis would count twice: the noise would seem lower than it is."""
    for one, other in combinations(surveys, 2):
        if os.path.realpath(one.name) != os.path.realpath(other.name):
            continue
        channels = {(w.number, chan) for w in one.windows for chan in w.channels.tolist()}
        shared = channels & {(w.number, chan) for w in other.windows for chan in w.channels.tolist()}
        rows = np.intersect1d(selected_rows(one.name, one.chosen)[0], selected_rows(other.name, other.chosen)[0])
        if shared and len(rows):
            raise ParameterError(
                "vis", [one.name, other.name], f"are one measurement set, and {len(rows)} rows of it would count twice",
                "Leave one out, or select other data of each (field, spw, scan ... as lists)",
            )  # fmt: skip


def targets_only(
    surveys: Sequence[Survey], tclean: Mapping[str, Any]
) -> tuple[tuple[Survey, ...], dict[str, Any], tuple[str, ...]]:
    """Without field, intent and scan: only the scans on targets, where the measurement set says which they are.

    Returns
    -------
    surveys, tclean
        With the intents chosen.
    left_out : tuple of str
        What is not imaged, and why.
    """
    kept, left_out, intents = [], [], []
    for index, seen in enumerate(surveys):
        own = selection(tclean, index)
        targets = sum(count for mode, count in seen.intents.items() if TARGET in mode)
        others = sorted({mode.split("#")[0] for mode in seen.intents if mode and TARGET not in mode})
        asked = {"field", "scanintent", "scan"} & set(own) or not tclean.get("selectdata", True)
        intents.append(own.get("scanintent", ""))
        if not asked and 0 < targets < seen.rows:
            intents[-1] = f"*{TARGET}*"
            what = ", ".join(others) or "rows without an intent"
            left_out.append(f"{seen.name}: {what} (field, intent or scan choose otherwise)")
            seen = survey(seen.name, own | {"scanintent": intents[-1]})
        kept.append(seen)
    chosen = dict(tclean)
    if any(intents):
        chosen["intent"] = intents[0] if len(set(intents)) == 1 else intents
    return tuple(kept), chosen, tuple(left_out)


def _targets_only(chosen: Selected) -> Selected:
    """`targets_only`, with what the log should say."""
    surveys, tclean, left_out = targets_only(chosen.surveys, chosen.tclean)
    notes, warnings = list(chosen.notes), list(chosen.warnings)
    for index, (before, seen) in enumerate(zip(chosen.surveys, surveys, strict=True)):
        if before is not seen:
            names = sorted({item.name for item in seen.fields})
            notes.append(
                f"{seen.name}: imaging the scans of intent {TARGET} only ({listed(names)}); "
                f"left out: {next(text for text in left_out if text.startswith(seen.name)).partition(': ')[2]}"
            )
        others = sorted({mode.split("#")[0] for mode in seen.intents if mode and TARGET not in mode})
        asked = {"field", "scanintent", "scan"} & set(selection(chosen.tclean, index))
        if not asked and others and not any(TARGET in mode for mode in seen.intents):
            warnings.append(f"{seen.name} has no scans of intent {TARGET}: imaging {', '.join(others)}")
    return replace(chosen, tclean=tclean, surveys=surveys, notes=tuple(notes), warnings=tuple(warnings))


def primary_beam(surveys: Sequence[Survey], freq: float) -> float:
    """FWHM of the primary beam of the smallest antenna [arcsec] at a frequency [Hz]."""
    diameter = min(seen.diameter for seen in surveys)
    return math.degrees(PRIMARY_BEAM * C / freq / diameter) * 3600.0


def tracked(tclean: Mapping[str, Any]) -> bool:
    """tclean follows a moving target: its phase centres are one by definition."""
    centre = str(tclean["phasecenter"]).strip().upper()
    return tclean["specmode"] == "cubesource" or centre == "TRACKFIELD"


def pointings(surveys: Sequence[Survey]) -> SkyCoord | None:
    """(n,) the phase centres that are fixed on the sky, each field of each set once; None without any."""
    centres = [item.centre for seen in surveys for item in seen.fields if item.centre is not None]
    if not centres:
        return None
    return SkyCoord([c.ra.deg for c in centres], [c.dec.deg for c in centres], unit="deg", frame="icrs")


def groups(centres: SkyCoord, distance: float) -> NDArray[np.int64]:
    """(n,) group of each centre: those are in one that a chain of steps up to `distance` [arcsec] joins."""
    places = centres.cartesian.xyz.value.T
    chord = 2.0 * math.sin(0.5 * math.radians(distance / 3600.0))
    pairs = cKDTree(places).query_pairs(chord, output_type="ndarray")
    joined = coo_array((np.ones(len(pairs)), (pairs[:, 0], pairs[:, 1])), shape=(len(places), len(places)))
    return np.asarray(connected_components(joined, directed=False)[1])


def _check_phase_centres(chosen: Selected) -> Selected:
    tclean, surveys = chosen.tclean, chosen.surveys
    fields = [item for seen in surveys for item in seen.fields]
    moving = sorted({item.name for item in fields if item.centre is None})
    if tracked(tclean):
        return replace(chosen, tclean=tclean | {"gridder": tclean["gridder"] or "standard"})
    warnings = list(chosen.warnings)
    if moving:
        warnings.append(
            f"{listed(moving)}: no fixed phase centre; phasecenter='TRACKFIELD' follows a moving target, "
            "otherwise it is smeared"
        )
    centres = pointings(surveys)
    beam = primary_beam(surveys, max(seen.high for seen in surveys))
    fixed = [item for item in fields if item.centre is not None]
    same = np.zeros(0, dtype=int) if centres is None else groups(centres, ONE_CENTRE * beam)
    number = len(set(same.tolist())) + len(moving)
    together = not moving and centres is not None and groups(centres, beam).max() == 0
    notes = list(chosen.notes)
    if not tclean["gridder"]:
        tclean, note = _with_gridder(tclean, surveys, number if together else 1)
        notes += note
    mosaic = str(tclean["gridder"]).startswith(("mosaic", "awp"))
    if number > 1 and not mosaic:
        first = [fixed[int(np.flatnonzero(same == group)[0])] for group in np.unique(same)]
        first += [next(item for item in fields if item.name == name and item.centre is None) for name in moving]
        remedy = f"To image one of them give field={_field_key(first[0], fields)!r}"
        if together:
            remedy += ", to image them together gridder='mosaic'"
        elif not moving:
            remedy += f"; for a mosaic they are too far apart (primary beam {beam:.3g} arcsec)"
        raise ParameterError(
            "gridder", tclean["gridder"],
            f"makes one image of one phase centre, and the selection has {number}: {listed(map(_field_told, first))}",
            remedy,
        )  # fmt: skip
    if number > 1 and not together and not tclean["imsize"]:
        parts = groups(centres, beam) if centres is not None else same
        first = [fixed[int(np.flatnonzero(parts == group)[0])] for group in np.unique(parts)]
        raise ParameterError(
            "gridder", tclean["gridder"],
            f"the pointings are no one mosaic: no steps of one primary beam ({beam:.3g} arcsec) join "
            f"{listed([*map(_field_told, first), *moving])}",
            "Select those of one mosaic with field, or give imsize and phasecenter",
        )  # fmt: skip
    return replace(chosen, tclean=tclean, notes=tuple(notes), warnings=tuple(warnings))


def _with_gridder(
    tclean: dict[str, Any], surveys: Sequence[Survey], number: int
) -> tuple[dict[str, Any], tuple[str, ...]]:
    """The gridder where none is given: 'mosaic' for several pointings that are one, and for dishes of several sizes."""
    sizes = sorted({size for seen in surveys for size in seen.dishes})
    why = f"{number} pointings" if number > 1 else f"dishes of {' and '.join(f'{size:g}' for size in sizes)} m"
    if number <= 1 and len(sizes) <= 1:
        return tclean | {"gridder": "standard"}, ()
    return tclean | {"gridder": "mosaic"}, (f"gridder: 'mosaic', for {why} in one image",)


def _field_told(item: Field) -> str:
    return f"{item.name!r} (id {item.number})"


def _field_key(item: Field, fields: Sequence[Field]) -> str:
    """What selects this field alone: its name, or its id where the name is not its own or has signs of the syntax."""
    alone = sum(other.name == item.name for other in fields) == 1
    plain = item.name and not item.name[0].isdigit() and not set(item.name) & set(" ,;~*?<>&'\"[]{}")
    return item.name if alone and plain else str(item.number)


def _check_visibilities(chosen: Selected) -> Selected:
    tclean, warnings = chosen.tclean, list(chosen.warnings)
    for seen in chosen.surveys:
        column = visibilities.column_name(str(tclean["datacolumn"]), seen.columns)
        counts = visibilities.tally(seen, column, str(tclean["stokes"]))
        where = f"vis={seen.name!r}, {told(seen.chosen)}, datacolumn={tclean['datacolumn']!r}"
        if not counts.seen:
            raise DataError(f"{where}: only autocorrelations are selected; an image needs baselines between antennas")
        if not counts.usable:
            raise DataError(
                f"{where}: none of the {counts.seen} visibilities can be used: {counts.shares}. "
                + _way_out(seen, column, counts)
            )
        bad = sum(len(channels) for channels in counts.invalid_channels.values())
        total = sum(len(window.channels) for window in seen.windows)
        if bad and (tclean["specmode"] == "mfs" or bad == total):
            raise DataError(
                f"{where}: unflagged NaN or infinite values in {bad} of {total} channels ({counts.shares} of those "
                f"read); tclean would blank {'the whole image' if tclean['specmode'] == 'mfs' else 'all of them'}. "
                + CLIP.format(seen.name, str(tclean["datacolumn"]))
            )
        if bad:
            warnings.append(
                f"{where}: unflagged NaN or infinite values in {bad} of {total} channels; tclean leaves these blank. "
                + CLIP.format(seen.name, str(tclean["datacolumn"]))
            )
        if counts.usable < 0.5 * counts.seen:
            warnings.append(f"{where}: only {100.0 * counts.usable / counts.seen:.3g} % can be used; {counts.shares}")
    return replace(chosen, warnings=tuple(warnings))


CLIP = "flagdata(vis={0!r}, mode='clip', datacolumn={1!r}) flags them"


def _way_out(seen: Survey, column: str, counts: visibilities.Tally) -> str:
    if counts.zero > 0.5 * counts.seen:
        others = [name for name in ("DATA", "CORRECTED_DATA") if name in seen.columns and name != column]
        if others:
            other = "data" if others[0] == "DATA" else "corrected"
            return f"The column {column} holds nothing; try datacolumn={other!r}"
        return f"The column {column} holds nothing"
    if counts.invalid > 0.5 * counts.seen:
        return "Calibrate again: NaN comes from failed solutions"
    if counts.weightless > 0.5 * counts.seen:
        return f"initweights(vis={seen.name!r}, wtmode='nyq') sets weights from channel width and integration time"
    return f"flagdata(vis={seen.name!r}, mode='summary') shows the flags; select other data"


def _check_baselines(surveys: Sequence[Survey]) -> None:
    """An image needs baselines of more than one direction and length."""
    baselines = max(seen.baselines for seen in surveys)
    diameter = min(seen.diameter for seen in surveys)
    uv = np.concatenate([seen.uv for seen in surveys])
    # A cell of one dish is the finest that the field of one primary beam tells apart. (u, v) and (-u, -v) are one.
    cells = np.round(uv / diameter).astype(np.int64)
    turned = (cells[:, 0] < 0) | ((cells[:, 0] == 0) & (cells[:, 1] < 0))
    cells[turned] *= -1
    distinct = len(np.unique(cells, axis=0))
    if baselines < FEWEST or distinct < FEWEST:
        chosen = "; ".join(f"{seen.name}: {told(seen.chosen)}" for seen in surveys)
        raise DataError(
            f"the selection leaves {baselines} baselines between antennas and {distinct} distinct uv cells of "
            f"{diameter:g} m ({chosen}); an image needs at least {FEWEST} of both. "
            "Widen uvrange, antenna or the selection of time"
        )
