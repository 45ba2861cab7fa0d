"""One catalogue a target: the catalogues of its cubes become a table of sources and a table of lines.

`core.identity` says which rows are one source, `core.powerlaw` what their continua say together, `core.combine` how
places and sizes are averaged; here are the columns. A source that a cube does not have is not absent there: it may lie
below the limit, and nothing is concluded from it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np
from astropy import units as u
from astropy.io.votable import from_table
from astropy.io.votable.tree import CooSys, VOTableFile
from astropy.table import Column, Table
from numpy.typing import NDArray

from casa_deepfocus import __version__
from casa_deepfocus.core import combine, identity, powerlaw
from casa_deepfocus.core.catalogue import sky_names, unique_names
from casa_deepfocus.core.cube import C_KMS
from casa_deepfocus.core.stack import CubeCatalogue, Stack
from casa_deepfocus.errors import ParameterError

SOURCE_COLUMNS: tuple[tuple[str, str, str, str, str], ...] = (
    ("id", "str", "", "meta.id;meta.main", "JHHMMSS.ss+DDMMSS.s of the position, unique within the target"),
    ("ra", "float", "deg", "pos.eq.ra;meta.main", "right ascension, weighted mean over the cubes"),
    ("ra_err", "float", "arcsec", "stat.error;pos.eq.ra", "error of the right ascension, on the sky"),
    ("dec", "float", "deg", "pos.eq.dec;meta.main", "declination, weighted mean over the cubes"),
    ("dec_err", "float", "arcsec", "stat.error;pos.eq.dec", "error of the declination"),
    ("fwhm_maj", "float", "arcsec", "phys.angSize", "major FWHM, deconvolved, of the mean intrinsic covariance"),
    ("fwhm_maj_err", "float", "arcsec", "stat.error;phys.angSize", "error of the major FWHM"),
    ("fwhm_min", "float", "arcsec", "phys.angSize", "minor FWHM, deconvolved"),
    ("fwhm_min_err", "float", "arcsec", "stat.error;phys.angSize", "error of the minor FWHM"),
    ("pa", "float", "deg", "pos.posAng", "position angle of the major axis, north through east"),
    ("pa_err", "float", "deg", "stat.error;pos.posAng", "error of the position angle"),
    ("continuum", "float", "Jy", "phot.flux.density", "continuum flux density at continuum_freq"),
    ("continuum_err", "float", "Jy", "stat.error;phot.flux.density", "error of the continuum"),
    ("continuum_freq", "float", "Hz", "em.freq", "frequency that the continuum is given at: the target's reference "
     "frequency, or the nearest one that was measured"),
    ("spectral_index", "float", "", "spect.index", "index a of the continuum, S ~ f^a"),
    ("spectral_index_err", "float", "", "stat.error;spect.index", "error of the spectral index"),
    ("ncontinuum", "int", "", "meta.number", "independent measurements of the continuum"),
    ("nlines", "int", "", "meta.number", "number of lines"),
    ("windows", "str", "", "", "labels of the cubes in which it was found, comma separated"),
    ("snr", "float", "", "stat.snr", "signal to noise, the best of all cubes"),
    ("reliability", "float", "", "stat.probability", "probability that this is not noise, the best of all cubes"),
    ("flags", "str", "", "meta.code", "comma separated; those of all its rows, and where cubes disagree"),
    ("rows", "str", "", "", "label:row of each row of the cubes' own catalogues, rows from 0, comma separated"),
)  # fmt: skip
"""(name, kind, unit, UCD, description) of the columns of sources, in order."""

LINE_COLUMNS: tuple[tuple[str, str, str, str, str], ...] = (
    ("source", "str", "", "meta.id.parent", "id of the source"),
    ("window", "str", "", "meta.id", "label of the cube"),
    ("row", "int", "", "meta.record", "row of the cube's own catalogue, from 0"),
    ("name", "str", "", "meta.id.part", "name in the cube's own catalogue, regions and component list"),
    ("freq", "float", "Hz", "em.freq", "frequency of the line's centre, in the cube's frame"),
    ("freq_err", "float", "Hz", "stat.error;em.freq", "error of the frequency"),
    ("velocity", "float", "km/s", "spect.dopplerVeloc.radio", "radio velocity, where the cube has a rest frequency"),
    ("velocity_err", "float", "km/s", "stat.error;spect.dopplerVeloc.radio", "error of the velocity"),
    ("restfreq", "float", "Hz", "em.freq", "the cube's rest frequency; it need not be that of this line"),
    ("chan", "float", "", "", "channel of the line's centre in its cube, zero-based"),
    ("chan_err", "float", "", "", "error of the channel"),
    ("chan0", "int", "", "", "first channel of the box"),
    ("chan1", "int", "", "", "last channel of the box"),
    ("line_fwhm", "float", "km/s", "spect.line.width", "FWHM of the line, radio convention"),
    ("line_fwhm_err", "float", "km/s", "stat.error;spect.line.width", "error of the FWHM"),
    ("peak", "float", "Jy/beam", "phot.flux.density;stat.max", "peak of the line"),
    ("peak_err", "float", "Jy/beam", "stat.error;phot.flux.density", "error of the peak"),
    ("line_flux", "float", "Jy km/s", "spect.line.intensity", "integrated line flux"),
    ("line_flux_err", "float", "Jy km/s", "stat.error;spect.line.intensity", "error of the line flux"),
    ("line_flux_jyhz", "float", "Jy Hz", "spect.line.intensity", "integrated line flux"),
    ("ra", "float", "deg", "pos.eq.ra", "right ascension as measured in this cube"),
    ("dec", "float", "deg", "pos.eq.dec", "declination as measured in this cube"),
    ("snr", "float", "", "stat.snr", "matched-filter signal to noise of the line"),
    ("pb", "float", "", "", "primary beam that peak and line flux were divided by"),
    ("reliability", "float", "", "stat.probability", "probability that this is not noise"),
    ("flags", "str", "", "meta.code", "comma separated"),
    ("also_in", "str", "", "", "label:row of the same line in overlapping windows, where it is measured worse"),
)  # fmt: skip
"""(name, kind, unit, UCD, description) of the columns of lines, in order."""

SAME_LINE = 0.5
"""Largest distance of the centres of one line in two windows [FWHM], never below one channel, as in the scores
(`matching.MATCH_LINE`)."""

SURE = 3.0
"""Standard deviations that the centre of a line at the edge of a band may be off, up to its FWHM."""

POSITION, SIZE, CONTINUUM, BLENDED = "position_differs", "size_differs", "no_power_law", "blended"
"""Flags: the cubes' positions, sizes, continua disagree beyond their errors; a row of a coarser cube holds another
source as well."""

SYSTEMS = {"FK5": ("eq_FK5", "J2000"), "FK4": ("eq_FK4", "B1950")}
"""RADESYS, and VOTable's names of system and equinox; ICRS where it is none of these."""

MAKER = "casa_deepfocus"


@dataclass(frozen=True)
class Merged:
    """The tables of a target, with the columns of `SOURCE_COLUMNS` and `LINE_COLUMNS`."""

    sources: Table
    lines: Table


def merge(cubes: Sequence[CubeCatalogue]) -> Merged:
    """The sources and lines of a target.

    The order of the cubes, and of the rows in them, changes nothing. Sources are sorted by their SNR, lines by source
    and frequency. Positions are in the cubes' own frame, and in ICRS where they have several.

    Parameters
    ----------
    cubes : sequence of CubeCatalogue

    Returns
    -------
    Merged

    Raises
    ------
    ParameterError
        Where labels cannot be told apart or used.
    """
    _check_labels([cube.label for cube in cubes])
    stack = Stack.of(cubes)
    source = identity.identify(stack.rows)
    size = int(source.max(initial=-1)) + 1
    columns, source, blended = _sources(stack, source, size)
    lines = _lines(stack, source, columns["id"], blended)
    columns["nlines"] = np.bincount(lines.pop("number"), minlength=size)
    meta = _meta(stack)
    return Merged(_table(SOURCE_COLUMNS, columns, meta), _table(LINE_COLUMNS, lines, meta))


def natural(label: str) -> tuple[list[tuple[int, str]], str]:
    """Key that sorts spw3 before spw25."""
    parts = re.findall(r"[0-9]+|[^0-9]+", label)
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in parts], label


def _check_labels(labels: Sequence[str]) -> None:
    for number, label in enumerate(labels):
        if label in labels[:number]:
            raise ParameterError("cubes", label, "two cubes have this label", "Give each its own")
        if not label or set(label) & {",", ":"}:
            raise ParameterError("cubes", label, "is no label", "Give one without commas and colons")


def _sources(
    stack: Stack, source: NDArray, size: int
) -> tuple[dict[str, Any], NDArray[np.int64], NDArray[np.bool_]]:
    """Columns of the sources, brightest first; the source of each row in that order; rows that hold others too."""
    cubes = len(stack.cubes)
    snr = _highest(stack.values["snr"], source, size)
    everything = np.ones(len(stack), dtype=bool)
    flux, error = _continua(stack, source, size, everything)
    blended = combine.blended(stack, source, combine.places(stack, source, size, everything), flux, error)
    clean = ~blended | (combine.total((~blended).astype(float), source, size) == 0)[source]
    where = combine.places(stack, source, size, clean)
    order = np.lexsort((where.dec, where.ra, -np.nan_to_num(snr)))
    rank = np.empty(size, dtype=np.int64)
    rank[order] = np.arange(size)
    source, snr = rank[source], snr[order]
    where = combine.places(stack, source, size, clean)
    shape = combine.sizes(stack, source, size, clean, where.axes)
    flux, error = _continua(stack, source, size, clean)
    freq = np.array([cube.middle for cube in stack.cubes], dtype=float)
    spectrum = np.broadcast_to(freq, (size, cubes))
    for image, cube in enumerate(stack.cubes):
        parts = np.array([other.label in cube.made_of for other in stack.cubes])
        flux, error, spectrum = powerlaw.split(flux, error, spectrum, image, parts)
    law = powerlaw.fit(flux, error, spectrum, reference(stack.cubes))
    names = unique_names([name or f"source{number}" for number, name in enumerate(sky_names(where.ra, where.dec))])
    columns = {
        "id": np.array(names, dtype=str),
        "ra": where.ra, "ra_err": where.ra_err, "dec": where.dec, "dec_err": where.dec_err,
        "fwhm_maj": shape.maj, "fwhm_maj_err": shape.maj_err, "fwhm_min": shape.min, "fwhm_min_err": shape.min_err,
        "pa": shape.pa, "pa_err": shape.pa_err,
        "continuum": law.flux, "continuum_err": law.error, "continuum_freq": law.freq,
        "spectral_index": law.index, "spectral_index_err": law.index_error, "ncontinuum": law.number,
        "snr": snr, "reliability": _highest(stack.values["reliability"], source, size),
    }  # fmt: skip
    judged = {"unresolved": shape.unresolved, POSITION: where.deviates, SIZE: shape.deviates, CONTINUUM: law.deviates}
    return columns | _texts(stack, source, size, blended, judged), source, blended


def _highest(values: NDArray, source: NDArray, size: int) -> NDArray[np.float64]:
    """(size,) highest known value of each source's rows."""
    out = np.full(size, -np.inf)
    np.maximum.at(out, source, np.where(np.isfinite(values), values, -np.inf))
    return np.where(np.isfinite(out), out, np.nan)


def _continua(
    stack: Stack, source: NDArray, size: int, used: NDArray
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """(size, ncube) continua [Jy] of the sources in the cubes, and their errors; NaN where not measured.

    Several rows of one cube that are one source hold shares of its continuum.
    """
    value, error = stack.values["continuum"], stack.values["continuum_err"]
    measured = used & np.isfinite(value)
    # A source whose continua are all blended has no other.
    none = combine.total(measured.astype(float), source, size) == 0
    measured |= none[source] & np.isfinite(value)
    sums = [np.zeros((size, len(stack.cubes))) for _ in range(3)]
    for out, values in zip(sums, (measured, value, error**2), strict=True):
        np.add.at(out, (source[measured], stack.cube[measured]), np.asarray(values, dtype=float)[measured])
    some = sums[0] > 0
    return np.where(some, sums[1], np.nan), np.where(some, np.sqrt(sums[2]), np.nan)


def reference(cubes: Sequence[CubeCatalogue]) -> float:
    """The target's reference frequency [Hz]: that of the image made of most cubes, else the mean of all; 0: unknown."""
    images = [cube for cube in cubes if cube.made_of and np.isfinite(cube.middle)]
    if images:
        return max(images, key=lambda cube: (len(cube.made_of), cube.label)).middle
    known = [cube.middle for cube in cubes if np.isfinite(cube.middle)]
    return float(np.mean(np.sort(known))) if known else 0.0


def _texts(
    stack: Stack, source: NDArray, size: int, blended: NDArray, judged: dict[str, NDArray]
) -> dict[str, NDArray[np.str_]]:
    """Columns windows, rows and flags of the sources."""
    labels = [cube.label for cube in stack.cubes]
    by_name = sorted(range(len(labels)), key=lambda at: natural(labels[at]))
    place = np.empty(len(labels), dtype=np.int64)
    place[by_name] = np.arange(len(labels))
    windows: list[list[str]] = [[] for _ in range(size)]
    rows: list[list[str]] = [[] for _ in range(size)]
    flags: list[set[str]] = [set() for _ in range(size)]
    for at in np.lexsort((stack.number, place[stack.cube], source)):
        number, label = source[at], labels[stack.cube[at]]
        if label not in windows[number][-1:]:
            windows[number].append(label)
        rows[number].append(f"{label}:{stack.number[at]}")
        flags[number] |= stack.flags[at] | ({BLENDED} if blended[at] else set())
    for flag, told in judged.items():
        for number in range(size):
            (flags[number].add if told[number] else flags[number].discard)(flag)
    joined = {"windows": windows, "rows": rows, "flags": [sorted(some) for some in flags]}
    return {name: np.array([",".join(texts) for texts in column], dtype=str) for name, column in joined.items()}


def _lines(stack: Stack, source: NDArray, ids: NDArray, blended: NDArray) -> dict[str, Any]:
    """Columns of the lines, with their sources' numbers; each line once."""
    labels = np.array([cube.label for cube in stack.cubes], dtype=str)
    frames = np.array([str(cube.table.meta.get("frame", "")) for cube in stack.cubes], dtype=str)
    lines = np.flatnonzero(np.isfinite(stack.values["chan"]))
    freq = stack.values["freq"][lines]
    lines = lines[np.lexsort((stack.number[lines], labels[stack.cube[lines]], freq, source[lines]))]
    of = _same_lines(stack, source, lines, frames)
    also: dict[int, list[str]] = {}
    for line in lines[of != lines]:
        also.setdefault(int(of[lines == line][0]), []).append(f"{labels[stack.cube[line]]}:{stack.number[line]}")
    lines = lines[of == lines]
    cube = stack.cube[lines]
    restfreq = np.array([float(c.table.meta.get("restfreq") or np.nan) for c in stack.cubes], dtype=float)[cube]
    values = {name: stack.values[name][lines] for name in stack.values}
    flags = [",".join(sorted(stack.flags[at] | ({BLENDED} if blended[at] else set()))) for at in lines]
    same = ("freq", "freq_err", "chan", "chan_err", "line_fwhm", "line_fwhm_err", "peak", "peak_err", "line_flux",
            "line_flux_err", "line_flux_jyhz", "ra", "dec", "pb", "reliability")  # fmt: skip
    return {name: values[name] for name in same} | {
        "number": source[lines], "source": ids[source[lines]], "window": labels[cube], "row": stack.number[lines],
        "name": stack.name[lines], "restfreq": restfreq, "velocity": C_KMS * (1.0 - values["freq"] / restfreq),
        "velocity_err": C_KMS * values["freq_err"] / restfreq, "snr": values["snr_line"],
        "chan0": stack.box[lines, 0], "chan1": stack.box[lines, 1], "flags": np.array(flags, dtype=str),
        "also_in": np.array([",".join(sorted(also.get(int(at), []), key=natural)) for at in lines], dtype=str),
    }  # fmt: skip


def _same_lines(stack: Stack, source: NDArray, lines: NDArray, frames: NDArray) -> NDArray[np.int64]:
    """For each of the lines, sorted by source and frequency, the row that stands for it: the better one in overlaps.

    Better is one that is not cut by the edge of its band, then the one of higher SNR.
    """
    if lines.size < 2:
        return lines.copy()
    values = stack.values
    freq = values["freq"]
    width = np.abs(np.array([float(cube.table.meta["chan_width"]) for cube in stack.cubes], dtype=float))[stack.cube]
    fwhm = np.fmax(values["line_fwhm"] / C_KMS * freq, width)
    error = np.minimum(SURE * np.nan_to_num(values["freq_err"]), fwhm)
    reach = np.maximum(np.maximum(SAME_LINE * fwhm, width), error)

    def same(a: NDArray, b: NDArray) -> NDArray[np.bool_]:
        near = np.abs(freq[a] - freq[b]) <= np.maximum(reach[a], reach[b])
        return near & (source[a] == source[b]) & (stack.rows.negative[a] == stack.rows.negative[b])

    out = {int(line): int(line) for line in lines}
    starts = np.flatnonzero(~same(lines[:-1], lines[1:])) + 1
    for cluster in np.split(lines, starts):
        edge = [("band_edge" in stack.flags[at], -values["snr_line"][at], stack.cubes[stack.cube[at]].label)
                for at in cluster]  # fmt: skip
        left = [int(cluster[at]) for at in sorted(range(len(cluster)), key=edge.__getitem__)]
        while len(left) > 1:
            best = left.pop(0)
            taken = {int(stack.cube[best])}
            nearest = sorted(left, key=lambda at, best=best: abs(freq[at] - freq[best]))  # type: ignore[misc]
            for other in nearest:
                cube = int(stack.cube[other])
                alike = frames[cube] == frames[stack.cube[best]]
                if cube not in taken and alike and same(np.array([best]), np.array([other]))[0]:
                    out[other] = best
                    taken.add(cube)
                    left.remove(other)
    return np.array([out[int(line)] for line in lines], dtype=np.int64)


def _meta(stack: Stack) -> dict[str, object]:
    """What the tables are of; the same for the same cubes, but for the time."""
    cubes = sorted(stack.cubes, key=lambda cube: natural(cube.label))
    frames = sorted({str(cube.table.meta.get("frame", "")) for cube in cubes} - {""})
    return {
        "radesys": stack.radesys, "frame": ", ".join(frames), "reference_frequency": reference(stack.cubes),
        "windows": "; ".join(_window(cube) for cube in cubes), "software": f"{MAKER} {__version__}",
        "created": datetime.now(timezone.utc).isoformat(timespec="seconds"),
    }  # fmt: skip


def _window(cube: CubeCatalogue) -> str:
    low, high = (f"{freq / 1e9:.6f}" for freq in cube.band)
    made = f" made of {' '.join(cube.made_of)}" if cube.made_of else ""
    noise = float(cube.table.meta.get("noise", np.nan))
    beam = "{:.4g} x {:.4g} arcsec, {:.1f} deg".format(*cube.beam)
    return f"{cube.label}: {low} to {high} GHz, beam {beam}, noise {noise:.4g} Jy/beam{made}"


def _table(kinds: Sequence[tuple[str, str, str, str, str]], columns: dict[str, Any], meta: dict[str, object]) -> Table:
    table = Table(meta=dict(meta))
    types = {"str": str, "float": float, "int": np.int64}
    for name, kind, unit, ucd, text in kinds:
        values = np.asarray(columns[name])
        column = Column(values.astype(types[kind]) if kind != "str" or not values.size else values, name=name)
        column.unit, column.description = (u.Unit(unit) if unit else None), text
        column.meta["ucd"] = ucd
        table[name] = column
    return table


def write_tables(merged: Merged, folder: Path) -> dict[str, Path]:
    """Write sources.ecsv, sources.vot, lines.ecsv and lines.vot; the VOTables with UCDs and the sky frame.

    Parameters
    ----------
    merged : Merged
    folder : Path

    Returns
    -------
    dict
        File name -> path.
    """
    written = {}
    for name, table in (("sources", merged.sources), ("lines", merged.lines)):
        path = folder / f"{name}.ecsv"
        table.write(path, format="ascii.ecsv", overwrite=True)
        written[path.name] = path
        path = folder / f"{name}.vot"
        _votable(table).to_xml(str(path))
        written[path.name] = path
    return written


def _votable(table: Table) -> VOTableFile:
    plain = table.copy()
    # VOTable has no place for free metadata but its description.
    plain.meta = {"description": "; ".join(f"{key} = {value}" for key, value in table.meta.items())}
    votable = from_table(plain)
    system, equinox = SYSTEMS.get(str(table.meta["radesys"]), ("ICRS", None))
    votable.resources[0].coordinate_systems.append(CooSys(ID="sky", equinox=equinox, system=system))
    for field in votable.get_first_table().fields:
        if field.name in ("ra", "dec"):
            field.ref = "sky"
    return votable
