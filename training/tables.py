"""Tables of sources from any finder -> `core.matching.Sources`: names, units, sky to pixel, frequency to channel."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from astropy import units as u
from astropy.coordinates import Angle
from astropy.table import Column, MaskedColumn, Table
from numpy.typing import NDArray

from casa_deepfocus.core.cube import C_KMS
from casa_deepfocus.core.matching import Sources
from casa_deepfocus.core.residuals import PARAMETERS
from casa_deepfocus.errors import ParameterError

ALIASES: dict[str, tuple[str, ...]] = {
    "name": ("name", "id", "source_id", "island_name", "source"),
    "field": ("field", "field_id", "cube"),
    "ra": ("ra", "ra_deg", "raj2000", "_raj2000", "ra_j2000", "right_ascension", "alpha_j2000"),
    "dec": ("dec", "dec_deg", "decl", "dej2000", "decj2000", "_dej2000", "dec_j2000", "declination", "delta_j2000"),
    "x": ("x", "xpix", "x_pix", "x_image", "xcentroid", "x_centroid", "xposn"),
    "y": ("y", "ypix", "y_pix", "y_image", "ycentroid", "y_centroid", "yposn"),
    "chan": ("chan", "channel", "z", "zpix", "chan_peak", "z_centroid"),
    "freq": ("freq", "frequency", "freq_hz", "obsfreq"),
    "fwhm_maj": ("fwhm_maj", "maj", "major", "fwhm_major", "dc_maj", "deconv_maj"),
    "fwhm_min": ("fwhm_min", "min", "minor", "fwhm_minor", "dc_min", "deconv_min"),
    "pa": ("pa", "position_angle", "posang", "dc_pa", "deconv_pa"),
    "line_fwhm": ("line_fwhm", "w50", "linewidth", "line_width"),
    "line_fwhm_chan": ("line_fwhm_chan", "w50_chan"),
    "line_flux": ("line_flux", "line_flux_jykms", "integrated_flux", "flux_int", "f_sum"),
    "continuum": ("continuum", "total_flux", "int_flux", "flux_continuum"),
    "peak": ("peak", "peak_flux"),
    "snr": ("snr", "s_n", "sn", "peak_snr"),
    "snr_line": ("snr_line",),
    "snr_continuum": ("snr_continuum",),
}
"""Column names understood, in order of preference; case does not matter."""

UNITS = {
    "ra": u.deg, "dec": u.deg, "x": u.pix, "y": u.pix, "chan": u.pix, "freq": u.Hz, "fwhm_maj": u.arcsec,
    "fwhm_min": u.arcsec, "pa": u.deg, "line_fwhm": u.km / u.s, "line_fwhm_chan": u.pix,
    "line_flux": u.Jy * u.km / u.s, "continuum": u.Jy, "peak": u.Jy / u.beam, "snr": u.dimensionless_unscaled,
    "snr_line": u.dimensionless_unscaled, "snr_continuum": u.dimensionless_unscaled,
}  # fmt: skip
"""Units after reading; a column without a unit is taken to be in these (docs/architecture.md)."""


def read_table(path: str, parameter: str) -> Table:
    """Read a table in any format that astropy knows (ECSV, VOTable, FITS, CSV ...).

    Raises
    ------
    ParameterError
        When the file is not there or is no table.
    """
    if not Path(path).is_file():
        raise ParameterError(parameter, path, "there is no such file", "Give an ECSV, VOTable, FITS or CSV table")
    try:
        if path.lower().endswith((".csv", ".txt", ".dat")):
            # Before the readers that guess: a plain CSV needs no header of its own kind.
            return Table.read(path, format="ascii")
        if path.lower().endswith((".vot", ".xml", ".votable")):
            return Table.read(path, format="votable")
        return Table.read(path)
    except Exception as error:
        problem = f"not a readable table ({error})"
        raise ParameterError(parameter, path, problem, "Give ECSV, VOTable, FITS or CSV") from error


def _find(table: Table, name: str) -> str | None:
    lower = {column.lower(): column for column in reversed(table.colnames)}
    return next((lower[alias] for alias in ALIASES[name] if alias in lower), None)


def _find_error(table: Table, name: str) -> str | None:
    lower = {column.lower(): column for column in table.colnames}
    stems = (name, *ALIASES[name])
    options = [pattern.format(stem) for stem in stems for pattern in ("{}_err", "e_{}", "err_{}", "{}_error")]
    return next((lower[option] for option in options if option in lower), None)


class Columns:
    """The columns of one table under our names and units, masked values NaN.

    Parameters
    ----------
    table : astropy Table
    label : str, what the user calls it; for messages
    cell : float or (n,) float64 [arcsec], turns sizes in pixels into arcsec; NaN when not known
    """

    def __init__(self, table: Table, label: str, cell: float | NDArray[np.float64] = np.nan) -> None:
        self.table, self.label, self.cell = table, label, cell
        self.meta = {str(key).lower(): value for key, value in table.meta.items()}

    def __len__(self) -> int:
        return len(self.table)

    def has(self, name: str) -> bool:
        """The table has this column, under any of its names."""
        return _find(self.table, name) is not None

    def get(self, name: str) -> NDArray[np.float64]:
        """(n,) float64 in the unit of `UNITS`; NaN when the column is missing."""
        return self._values(_find(self.table, name), name)

    def error(self, name: str) -> NDArray[np.float64]:
        """(n,) float64, the error of a column in the same unit; NaN when missing."""
        return self._values(_find_error(self.table, name), name)

    def bound(self, name: str) -> NDArray[np.float64]:
        """(n,) float64, the Cramer-Rao bound of a column (`crlb_<name>`) in the same unit; NaN when missing."""
        lower = {column.lower(): column for column in self.table.colnames}
        return self._values(lower.get(f"crlb_{name}"), name)

    def number(self, name: str) -> float | NDArray[np.float64]:
        """A number of the whole table from a column of this very name, else from the meta, else NaN."""
        if name in self.table.colnames:
            return np.asarray(self.table[name], dtype=float)
        value = self.meta.get(name, np.nan)
        return float(getattr(value, "value", value))

    def plain(self, column: str) -> NDArray[np.float64]:
        """(n,) float64 of a column of this very name in its own unit, masked values NaN; NaN when it is missing."""
        if column not in self.table.colnames:
            return np.full(len(self.table), np.nan)
        return np.ma.filled(np.ma.asarray(self.table[column], dtype=float), np.nan)

    def names(self) -> list[str]:
        """The sources' names, or their row numbers."""
        column = _find(self.table, "name")
        return [str(v) for v in self.table[column]] if column else [str(i) for i in range(len(self.table))]

    def _values(self, column: str | None, name: str) -> NDArray[np.float64]:
        if column is None:
            return np.full(len(self.table), np.nan)
        data = self.table[column]
        if data.dtype.kind in "OSU":
            return self._angles(data, name, column)
        values = data.filled(np.nan) if isinstance(data, MaskedColumn) and data.dtype.kind == "f" else data
        plain = np.array(getattr(values, "value", values), dtype=float)
        if isinstance(data, MaskedColumn):
            plain[np.asarray(data.mask)] = np.nan
        if data.unit is None or str(data.unit) == "":
            return plain
        return self._convert(plain * u.Unit(data.unit, parse_strict="silent"), name, column)

    def _angles(self, data: Column, name: str, column: str) -> NDArray[np.float64]:
        if name not in ("ra", "dec"):
            raise ParameterError(self.label, column, "holds text, not numbers")
        try:
            return Angle([str(v) for v in data], unit=u.hourangle if name == "ra" else u.deg).to_value(u.deg)
        except (ValueError, u.UnitsError) as error:
            raise ParameterError(self.label, column, f"not an angle ({error})") from error

    def _convert(self, values: u.Quantity, name: str, column: str) -> NDArray[np.float64]:
        target = UNITS[name]
        if name == "line_fwhm" and values.unit.is_equivalent(u.Hz):
            return (values.to_value(u.Hz) / self.get("freq")) * C_KMS
        if values.unit == u.pix and target == u.arcsec:
            return values.value * self.cell
        if target == u.pix and not values.unit.is_equivalent(u.deg):
            return values.value
        if name == "line_flux" and values.unit.is_equivalent(u.Jy * u.Hz):
            return values.to_value(u.Jy * u.Hz) / self.get("freq") * C_KMS
        if name == "peak" and values.unit.is_equivalent(u.Jy):
            return values.to_value(u.Jy)
        try:
            return values.to_value(target)
        except u.UnitConversionError as error:
            raise ParameterError(
                self.label, column, f"has the unit {values.unit}", f"It must be convertible to {target}"
            ) from error


def _project(ra: NDArray, dec: NDArray, ra0: float, dec0: float) -> tuple[NDArray, NDArray]:
    # Gnomonic offsets [arcsec]: x to the west, y to the north.
    a, d, d0 = np.deg2rad(ra - ra0), np.deg2rad(dec), np.deg2rad(dec0)
    scale = np.rad2deg(1.0) * 3600.0 / (np.sin(d0) * np.sin(d) + np.cos(d0) * np.cos(d) * np.cos(a))
    west = -np.cos(d) * np.sin(a) * scale
    return west, (np.cos(d0) * np.sin(d) - np.sin(d0) * np.cos(d) * np.cos(a)) * scale


def _fields(columns: Columns) -> NDArray[np.int64]:
    return columns.get("field").astype(np.int64) if columns.has("field") else np.zeros(len(columns), dtype=np.int64)


def _positions(truth: Columns, found: Columns, fields: list[NDArray]) -> list[tuple[NDArray, NDArray]]:
    # Sky coordinates where both tables have them (a finder's pixels may start anywhere), else pixels.
    pair = (truth, found)
    sky = [(c.get("ra"), c.get("dec")) for c in pair]
    if all(c.has("ra") and c.has("dec") for c in pair) and all(np.isfinite(v).all() for s in sky for v in s):
        out = [(np.empty(len(c)), np.empty(len(c))) for c in pair]
        for number in np.union1d(*fields):
            rows = [f == number for f in fields]
            ra0, dec0 = next((s[0][r][0], s[1][r][0]) for s, r in zip(sky, rows, strict=True) if r.any())
            for (x, y), s, r in zip(out, sky, rows, strict=True):
                x[r], y[r] = _project(s[0][r], s[1][r], ra0, dec0)
        return [(x / c.cell, y / c.cell) for (x, y), c in zip(out, pair, strict=True)]
    for columns in pair:
        if len(columns) and not (columns.has("x") and columns.has("y")):
            raise ParameterError(
                columns.label,
                columns.table.colnames,
                "the two tables share neither ra, dec [deg] nor x, y [pixel]",
                "Rename the columns that hold the positions",
            )
        bad = np.flatnonzero(~(np.isfinite(columns.get("x")) & np.isfinite(columns.get("y"))))
        if bad.size:
            problem = f"{bad.size} rows have no position, the first is row {bad[0]}"
            raise ParameterError(columns.label, columns.names()[bad[0]], problem, "Remove them")
    return [(c.get("x"), c.get("y")) for c in pair]


def _channels(truth: Columns, found: Columns) -> list[NDArray]:
    # The catalogue's own channels; from its frequencies where it has none.
    true, value = truth.get("chan"), found.get("chan")
    freq = truth.get("freq")
    if found.has("chan") or not found.has("freq") or not np.isfinite(freq).any():
        return [true, value]
    both = np.isfinite(true) & np.isfinite(freq)
    middle, width = float(np.nanmean(freq)), float(np.atleast_1d(truth.number("chan_width_kms"))[0])
    if not both.any():
        step = width / C_KMS * middle
        return [(freq - middle) / step, (found.get("freq") - middle) / step]
    if np.ptp(true[both]) > 0.0:
        slope, offset = np.polyfit(freq[both] - middle, true[both], 1)
    else:
        slope, offset = C_KMS / (width * middle), true[both][0]
    return [true, offset + slope * (found.get("freq") - middle)]


def _sources(c: Columns, x: NDArray, y: NDArray, chan: NDArray, scale: dict[str, Any], field: NDArray) -> Sources:
    # The width of a channel [km/s] at the line itself where the table tells it, else that of the whole band.
    step = np.abs(c.number("chan_width")) / c.get("freq") * C_KMS
    step = np.where(np.isfinite(step), step, scale["chan_width"])
    width = c.get("line_fwhm") / step
    own = c.get("line_fwhm_chan")
    own_unit = {"fwhm_maj": scale["cell"], "fwhm_min": scale["cell"], "line_fwhm": step}
    errors, bounds = (
        {name: read(name) / own_unit.get(name, 1.0) for name in PARAMETERS} for read in (c.error, c.bound)
    )
    further = [
        np.stack([c.plain(f"line{number}_chan"), c.plain(f"line{number}_fwhm") / step], axis=-1)
        for number in (2, 3, 4)
        if f"line{number}_chan" in c.table.colnames
    ]
    return Sources.build(
        further=np.stack(further, axis=1) if further else None,
        x=x, y=y, beam=scale["beam"] / scale["cell"], field=field, chan=chan,
        line_fwhm=np.where(np.isfinite(own), own, width), fwhm_maj=c.get("fwhm_maj") / scale["cell"],
        fwhm_min=c.get("fwhm_min") / scale["cell"], pa=c.get("pa"), line_flux=c.get("line_flux"),
        continuum=c.get("continuum"), peak=c.get("peak"), snr=c.get("snr"), errors=errors, bounds=bounds,
        snr_total=np.hypot(c.get("snr_line"), c.get("snr_continuum")),
    )  # fmt: skip


def to_sources(
    truth: Table, found: Table, beam: float | None = None, cell: float | None = None
) -> tuple[Sources, Sources]:
    """Truth and catalogue on one pixel and channel grid.

    Parameters
    ----------
    truth, found : astropy Table
    beam : float [arcsec], geometric-mean FWHM; from the tables when None
    cell : float [arcsec]; from the tables when None, else a fifth of the beam

    Returns
    -------
    truth, found : Sources
        In pixels and channels; relative to a field's first source when positions come from the sky.

    Raises
    ------
    ParameterError
        When positions or the beam are missing, or a unit is wrong.
    """
    plain = [Columns(truth, "TRUTH"), Columns(found, "CATALOGUE")]

    def lookup(name: str) -> NDArray[np.float64]:
        # One value per truth row, or one for all; the first table that knows it.
        for columns in plain:
            value = np.atleast_1d(columns.number(name))
            if value.size and np.isfinite(value).all() and (columns is plain[0] or np.ptp(value) == 0.0):
                return value if columns is plain[0] else value[:1]
        return np.array([np.nan])

    beams = np.array([beam]) if beam else np.sqrt(lookup("beam_maj") * lookup("beam_min"))
    if not np.isfinite(beams).all():
        problem = "neither table says beam_maj and beam_min"
        raise ParameterError("--beam", beam, problem, "Give the beam's FWHM in arcsec")
    cells = np.array([cell]) if cell else lookup("cell")
    cells = np.where(np.isfinite(cells), cells, np.median(beams) / 5.0)
    widths = lookup("chan_width_kms")
    fields = [_fields(c) for c in plain]
    scales = [_scale(fields[0], f, beams, cells, widths) for f in fields]
    columns = [Columns(c.table, c.label, s["cell"]) for c, s in zip(plain, scales, strict=True)]
    positions = _positions(columns[0], columns[1], fields)
    channels = _channels(columns[0], columns[1])
    made = [
        _sources(c, x, y, chan, scale, f)
        for c, (x, y), chan, scale, f in zip(columns, positions, channels, scales, fields, strict=True)
    ]
    return made[0], made[1]


def _scale(true_field: NDArray, field: NDArray, *numbers: NDArray) -> dict[str, NDArray]:
    # beam, cell, channel width of each row: those of the truth's rows of the same field.
    out = {}
    for name, values in zip(("beam", "cell", "chan_width"), numbers, strict=True):
        per_row = np.broadcast_to(values, true_field.shape) if values.size > 1 else None
        if per_row is None:
            out[name] = np.full(field.shape, values[0])
            continue
        of_field = {int(f): v for f, v in zip(true_field, per_row, strict=True)}
        out[name] = np.array([of_field.get(int(f), float(np.median(per_row))) for f in field])
    return out
