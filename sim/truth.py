"""The truth table: what a perfect catalogue of a simulated field would say (docs/architecture.md)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from astropy import units as u
from astropy.table import Table
from numpy.typing import ArrayLike, NDArray
from scipy.signal import fftconvolve

from casa_deepfocus.core.cube import Cube
from casa_deepfocus.core.geometry import GAUSSIAN_LINE, gaussian_image, peak_over_flux
from casa_deepfocus.core.matching import Sources, channel_ranges, draw_boxes
from casa_deepfocus.errors import ParameterError, ProductError
from sim.bounds import Bounds, cramer_rao
from sim.discs import Rotation
from sim.response import Response, pb_at
from sim.sky import Line, Source

MEASURED: tuple[tuple[str, str, str], ...] = (
    ("ra", "deg", "right ascension"),
    ("dec", "deg", "declination"),
    ("x", "pix", "zero-based pixel"),
    ("y", "pix", "zero-based pixel"),
    ("chan", "", "channel of the line's centre, zero-based; NaN without a line"),
    ("freq", "Hz", "frequency of the line's centre"),
    ("fwhm_maj", "arcsec", "intrinsic; of a disc: of the Gaussian with its second moments"),
    ("fwhm_min", "arcsec", "intrinsic; of a disc: of the Gaussian with its second moments"),
    ("pa", "deg", "north through east"),
    ("line_fwhm", "km/s", "radio convention; of a disc: the width at half maximum of its whole profile"),
    ("line_fwhm_chan", "", "in channels"),
    ("peak", "Jy/beam", "of the line, or of the continuum where there is no line; negative in absorption"),
    ("line_flux", "Jy km/s", "integrated, 0 without a line, negative in absorption"),
    ("continuum", "Jy", "at the middle of the band"),
    ("pb", "", "primary beam response at the source"),
    ("snr", "", "matched filter; of the line where there is one, else of the continuum"),
    ("snr_line", "", "matched filter"),
    ("snr_continuum", "", "matched filter"),
)
"""(name, unit, description) of the float columns that a catalogue has too, and the SNRs."""

FURTHER: tuple[tuple[str, str, str], ...] = (
    ("alpha", "", "spectral index of the continuum"),
    ("rotation_velocity", "km/s", "of a disc's flat part; positive where the end of the major axis at pa recedes"),
    ("rotation_turnover", "arcsec", "radius where a disc's rotation curve reaches half of it"),
    ("rotation_dispersion", "km/s", "FWHM of the line at one place of a disc"),
    ("rotation_inclination", "deg", "of a disc, 0 is face-on"),
    *(
        (f"line{number}_{name}", unit, f"as {like}, of the line number {number}")
        for number in (2, 3)
        for name, unit, like in (("chan", "", "chan"), ("fwhm", "km/s", "line_fwhm"), ("flux", "Jy km/s", "line_flux"))
    ),
)
"""Further float columns; NaN where they do not apply."""

MAX_LINES = 3

BOUNDED = (
    "x", "y", "chan", "fwhm_maj", "fwhm_min", "pa", "line_fwhm", "line_flux", "continuum",
    *(name for name, _, _ in FURTHER[1:]),
)  # fmt: skip
"""Columns that have a Cramer-Rao bound beside them, ``crlb_`` and the name."""

UNITS = {name: unit for name, unit, _ in (*MEASURED, *FURTHER)}

COLUMNS: tuple[tuple[str, str, str], ...] = (
    *MEASURED,
    *FURTHER,
    *((f"crlb_{name}", UNITS[name], f"Cramer-Rao bound of {name}, one standard deviation") for name in BOUNDED),
)
"""(name, unit, description) of all float columns; all fluxes are corrected for the primary beam."""

BOX = ("x0", "y0", "x1", "y1", "chan0", "chan1")


def truth_table(
    sources: Sequence[Source], resp: Response, cube: Cube, sigma: ArrayLike, *, white: float = 0.0
) -> Table:
    """The truth of one field.

    Parameters
    ----------
    sources : sequence of Source
    resp : Response, of the observation
    cube : Cube; blank channels say nothing about the sources, else its data are not read
    sigma : float or (nchan,) [Jy/beam], thermal noise of the image; NaN for flagged channels
    white : float [Jy/beam], further noise that is white over the image's pixels

    Returns
    -------
    astropy Table, one row a source

    Raises
    ------
    ParameterError
        When a source has more than `MAX_LINES` lines.
    """
    for source in sources:
        if len(source.lines) > MAX_LINES:
            raise ParameterError("extra_lines", len(source.lines), f"the table has room for {MAX_LINES} lines")
    # Every fourth pixel tells whether a channel is blank.
    blank = ~np.isfinite(cube.data[:, ::4, ::4]).any(axis=(1, 2))
    seen = np.where(blank, np.nan, np.broadcast_to(np.asarray(sigma, dtype=float), blank.shape))
    bounds = cramer_rao(sources, resp, cube.freq, seen, white=white)
    rows = [_row(source, bound, resp, cube) for source, bound in zip(sources, bounds, strict=True)]
    table = Table(meta=_meta(resp, cube))
    table["name"] = np.array([f"S{number + 1:02d}" for number in range(len(rows))], dtype="U16")
    table["kind"] = np.array([source.kind for source in sources], dtype="U16")
    table["kind"].description = "gaussian, point or disc (exponential, rotating)"
    for name, unit, text in COLUMNS:
        table[name] = np.array([row.get(name, np.nan) for row in rows], dtype=float)
        table[name].unit = u.Unit(unit) if unit else None
        table[name].description = text
    boxes = _boxes(table, cube)
    for number, name in enumerate(BOX):
        table[name] = boxes[:, number]
    return table


def _row(source: Source, bound: Bounds, resp: Response, cube: Cube) -> dict[str, float]:
    """The float columns of one source that apply to it."""
    ra, dec = cube.wcs.wcs_pix2world([[source.x, source.y]], 0)[0] if cube.wcs is not None else (np.nan, np.nan)
    main = source.lines[0] if source.lines else None
    chan = cube.nchan // 2 if main is None else int(np.clip(round(main.chan), 0, cube.nchan - 1))
    values = {
        "ra": float(ra), "dec": float(dec), "x": source.x, "y": source.y, "pa": source.pa,
        "fwhm_maj": source.fwhm_maj * cube.cell, "fwhm_min": source.fwhm_min * cube.cell,
        "peak": _peak(source, resp, cube), "line_flux": 0.0, "continuum": source.continuum,
        "pb": float(resp.channels(pb_at(resp.pb, source))[chan]),
        "snr": bound.snr_line if main is not None else bound.snr_continuum,
        "snr_line": bound.snr_line, "snr_continuum": bound.snr_continuum,
    }  # fmt: skip
    errors, scale = bound.errors, {"fwhm_maj": cube.cell, "fwhm_min": cube.cell}
    for name in ("x", "y", "fwhm_maj", "fwhm_min", "pa", "continuum"):
        values[f"crlb_{name}"] = errors.get(name, np.nan) * scale.get(name, 1.0)
    if source.continuum:
        values["alpha"] = source.alpha
    if main is not None:
        values["freq"], values["line_fwhm_chan"] = cube.chan_to_freq(main.chan), main.fwhm
    for number, line in enumerate(source.lines, start=1):
        values |= _line_values(line, number, errors, cube)
    if source.rotation is not None:
        values |= _rotation_values(source, errors, cube)
    return values


def _line_values(line: Line, number: int, errors: dict[str, float], cube: Cube) -> dict[str, float]:
    """Centre, width and flux of the first, second, ... line of a source, and their bounds."""
    kms = cube.chan_width_kms(cube.chan_to_freq(line.chan))
    key = "line" if number == 1 else f"line{number}"
    out = {}
    for name, value, scale in (("chan", line.chan, 1.0), ("fwhm", line.fwhm, kms), ("flux", line.flux, kms)):
        column = name if (number, name) == (1, "chan") else f"{key}_{name}"
        out[column] = value * scale
        out[f"crlb_{column}"] = errors.get(f"{key}_{name}", np.nan) * scale
    return out


def _rotation_values(source: Source, errors: dict[str, float], cube: Cube) -> dict[str, float]:
    """How a disc rotates, and the bounds of it; in the frame of its line, without one in that of the band."""
    kms = cube.chan_width_kms(cube.chan_to_freq(_centre(source.lines, cube)))
    # A higher frequency approaches.
    recedes = -kms if cube.chan_width > 0 else kms
    out = {}
    for name, scale in (("velocity", recedes), ("turnover", cube.cell), ("dispersion", kms), ("inclination", 1.0)):
        out[f"rotation_{name}"] = getattr(source.rotation, name) * scale
        out[f"crlb_rotation_{name}"] = errors.get(f"rotation_{name}", np.nan) * abs(scale)
    return out


def _centre(lines: Sequence[Line], cube: Cube) -> float:
    """Channel of the main line; the middle of the band without one."""
    return lines[0].chan if lines else 0.5 * (cube.nchan - 1)


def _peak(source: Source, resp: Response, cube: Cube) -> float:
    """Peak [Jy/beam] of the line, else of the continuum, as the restoring beam in the middle of the band sees it."""
    beam = resp.middle_beam()
    if source.rotation is None:
        flux = source.lines[0].peak if source.lines else source.continuum
        return flux * peak_over_flux(source.covariance(), beam)
    alone = replace(source, continuum=0.0, extra_lines=()) if source.lines else source
    peak = 0.0
    maps, spectra = [], []
    for component in alone.components(cube.freq):
        if component.stamp is not None:
            maps.append(_seen(component.stamp, component.pitch, beam))
            spectra.append(component.spectrum)
    if not maps:
        return peak
    images = np.stack(maps)
    for values in np.array(spectra).T:
        plane = np.tensordot(values, images, axes=1)
        strongest = float(plane.flat[np.abs(plane).argmax()])
        peak = strongest if abs(strongest) > abs(peak) else peak
    return peak


def _seen(stamp: NDArray, pitch: float, beam: NDArray) -> NDArray[np.float64]:
    """A stamp [Jy] convolved with a beam of peak 1 and covariance `beam` [pixel^2]: [Jy/beam]."""
    reach = int(np.ceil(3.0 * np.sqrt(max(beam[0], beam[1])) / pitch))
    kernel = gaussian_image((2 * reach + 1, 2 * reach + 1), reach, reach, beam / pitch**2)
    return fftconvolve(stamp, kernel, mode="same")


def _boxes(table: Table, cube: Cube) -> NDArray[np.int64]:
    """(n, 6) x0, y0, x1, y1, chan0, chan1, by the rule that the catalogue follows too."""
    drawn = Sources.build(
        x=np.array(table["x"]), y=np.array(table["y"]), beam=cube.beam_pixels(),
        chan=np.array(table["chan"]), line_fwhm=np.array(table["line_fwhm_chan"]),
        fwhm_maj=np.array(table["fwhm_maj"]) / cube.cell, fwhm_min=np.array(table["fwhm_min"]) / cube.cell,
        pa=np.array(table["pa"]),
    )  # fmt: skip
    return np.hstack([draw_boxes(drawn), channel_ranges(drawn, cube.nchan)])


def _meta(resp: Response, cube: Cube) -> dict[str, object]:
    middle = cube.nchan // 2
    maj, minor, pa = (float(value) for value in cube.beams[middle])
    return {
        "beam_maj": maj,
        "beam_min": minor,
        "beam_pa": pa,
        "cell": cube.cell,
        "nchan": cube.nchan,
        "nx": cube.shape[1],
        "ny": cube.shape[0],
        "chan_width_kms": float(cube.chan_width_kms(float(cube.freq[middle]))),
        "frame": cube.frame,
        "radesys": cube.meta.get("radesys", ""),
    }


def sources_of(table: Table, cube: Cube) -> list[Source]:
    """The sources of a truth table, on the pixels and channels of its cube.

    A cube of one channel has no velocities: its sources come without lines, and its discs without rotation.
    """
    return [_source_of({name: row[name] for name in table.colnames}, cube) for row in table]


def _source_of(row: dict[str, float], cube: Cube) -> Source:
    lines = []
    for number in range(1, MAX_LINES + 1):
        key = "line" if number == 1 else f"line{number}"
        chan = float(row["chan" if number == 1 else f"{key}_chan"])
        if np.isfinite(chan) and cube.nchan > 1:
            kms = cube.chan_width_kms(cube.chan_to_freq(chan))
            width = float(row[f"{key}_fwhm"]) / kms
            lines.append(Line(chan, width, float(row[f"{key}_flux"]) / kms / (width * GAUSSIAN_LINE)))
    continuum = float(row["continuum"])
    alpha = float(row["alpha"]) if continuum else 0.0
    place = float(row["x"]), float(row["y"])
    major, minor, pa = float(row["fwhm_maj"]) / cube.cell, float(row["fwhm_min"]) / cube.cell, float(row["pa"])
    rotation = None
    if np.isfinite(row["rotation_inclination"]):
        velocity, turnover, dispersion = 0.0, float(row["rotation_turnover"]) / cube.cell, 1.0
        if cube.nchan > 1:
            kms = cube.chan_width_kms(cube.chan_to_freq(_centre(lines, cube)))
            velocity = float(row["rotation_velocity"]) / (-kms if cube.chan_width > 0 else kms)
            dispersion = float(row["rotation_dispersion"]) / kms
        rotation = Rotation(velocity, turnover, dispersion, float(row["rotation_inclination"]))
        minor = major * rotation.axis_ratio()
        lines = [replace(line, fwhm=lines[0].fwhm, peak=line.flux / (lines[0].fwhm * GAUSSIAN_LINE)) for line in lines]
    first = {"line": lines[0].peak, "chan": lines[0].chan, "line_fwhm": lines[0].fwhm} if lines else {}
    return Source(*place, major, minor, pa, continuum, alpha, **first, extra_lines=tuple(lines[1:]), rotation=rotation)


def write_truth(table: Table, path: Path, *, overwrite: bool = False) -> None:
    """Write a truth table as ECSV.

    Raises
    ------
    ProductError
        When the file exists and `overwrite` is False.
    """
    if path.exists() and not overwrite:
        raise ProductError(f"{path} exists; remove it or choose another folder")
    table.write(path, format="ascii.ecsv", overwrite=overwrite)
