"""The catalogue as files, and as a table for people."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from astropy.io import fits
from astropy.io.votable import from_table
from astropy.io.votable.tree import CooSys
from astropy.table import Column, Table

from casa_deepfocus.products import velocity as velocities
from casa_deepfocus.products.fitsimages import plain as printable
from casa_deepfocus.products.marks import MAKER, SOFTWARE

SIZELESS = "point"
"""Size of what is unresolved."""

UCDS = {
    "id": "meta.record", "name": "meta.id;meta.main", "ra": "pos.eq.ra;meta.main", "ra_err": "stat.error;pos.eq.ra",
    "dec": "pos.eq.dec;meta.main", "dec_err": "stat.error;pos.eq.dec", "ra_max": "pos.eq.ra", "dec_max": "pos.eq.dec",
    "x": "pos.cartesian.x;instr.det", "x_err": "stat.error;pos.cartesian.x;instr.det",
    "y": "pos.cartesian.y;instr.det", "y_err": "stat.error;pos.cartesian.y;instr.det", "freq": "em.freq",
    "freq_err": "stat.error;em.freq", "velocity": "spect.dopplerVeloc", "velocity_err": "stat.error;spect.dopplerVeloc",
    "fwhm_maj": "phys.angSize", "fwhm_maj_err": "stat.error;phys.angSize", "fwhm_min": "phys.angSize",
    "fwhm_min_err": "stat.error;phys.angSize", "pa": "pos.posAng", "pa_err": "stat.error;pos.posAng",
    "line_fwhm": "spect.line.width", "line_fwhm_err": "stat.error;spect.line.width",
    "peak": "phot.flux.density;stat.max", "peak_err": "stat.error;phot.flux.density",
    "line_flux": "spect.line.intensity", "line_flux_err": "stat.error;spect.line.intensity",
    "line_flux_jyhz": "spect.line.intensity", "continuum": "phot.flux.density",
    "continuum_err": "stat.error;phot.flux.density", "snr": "stat.snr", "snr_line": "stat.snr",
    "snr_continuum": "stat.snr", "probability": "stat.probability", "reliability": "stat.probability",
    "group": "meta.id.assoc", "flags": "meta.code",
}  # fmt: skip
"""UCD1+ of the columns that have one."""

SYSTEMS = {"ICRS": ("ICRS", None), "FK5": ("eq_FK5", "J2000"), "FK4": ("eq_FK4", "B1950")}
"""VOTable's name and equinox of the sky's frames."""

FLAGS = {
    "absorption": "the line is seen in absorption against its continuum",
    "band_edge": "the line reaches beyond the band: its flux and width are lower limits",
    "complex": "several components make up this source; the component list and the model hold each",
    "edge": "at the edge of the field, or of what is blank: its fit sees a part of it",
    "gaussian_psf": "no PSF was given: sidelobes were not removed",
    "unresolved": "its size is not different from a point's",
}
"""What the flags mean, in words."""


def complete(table: Table, frame: str, restfreq: float, convention: str = velocities.RADIO) -> None:
    """Add to a catalogue, in place, what people look for: `id`, the row's number from 1, and the lines' velocities.

    Parameters
    ----------
    table : Table, of `core.catalogue`
    frame : str
        Spectral frame.
    restfreq : float [Hz]
        0 where it is not known: velocities are NaN then.
    convention : str
        'radio' or 'optical'.
    """
    if "id" in table.colnames:
        return
    about = f"{convention} velocity of the line's centre, {frame}".rstrip(", ")
    freq, error = (np.asarray(table[name], dtype=float) for name in ("freq", "freq_err"))
    table.add_column(Column(np.arange(1, len(table) + 1), "id", description="number in the report and regions"), 0)
    at = table.colnames.index("freq_err") + 1
    values = velocities.velocity(freq, restfreq, convention)
    errors = velocities.velocity_error(freq, error, restfreq, convention)
    table.add_column(Column(values, "velocity", unit="km/s", description=about), at)
    table.add_column(Column(errors, "velocity_err", unit="km/s", description="error of the velocity"), at + 1)
    table.meta["velocity"] = f"{convention}, rest frequency {restfreq / 1e9:.9g} GHz" if restfreq else "unknown"


def write_catalogue(prefix: Path, table: Table) -> None:
    """Write <prefix>.cat.ecsv, <prefix>.cat.vot and <prefix>.cat.fits."""
    table = table.copy()
    table.meta["software"] = SOFTWARE
    table.write(f"{prefix}.cat.ecsv", format="ascii.ecsv")
    plain = table.copy()
    # VOTable has no place for free metadata but its description.
    plain.meta = {}
    votable = from_table(plain)
    resource = votable.resources[0]
    written = resource.tables[0]
    written.description = "; ".join(f"{key} = {value}" for key, value in table.meta.items())
    system, equinox = SYSTEMS.get(str(table.meta.get("radesys", "ICRS")), SYSTEMS["ICRS"])
    resource.coordinate_systems.append(CooSys(ID="sky", equinox=equinox, system=system))
    for field in written.fields:
        # astropy drops the descriptions of columns of text.
        field.description = table[field.name].description or described(field.name)
        field.ucd = UCDS.get(field.name)
        if field.name in ("ra", "dec", "ra_max", "dec_max"):
            field.ref = "sky"
    votable.to_xml(f"{prefix}.cat.vot")
    _write_fits(Path(f"{prefix}.cat.fits"), table)


def _write_fits(path: Path, table: Table) -> None:
    """A binary table, with units, descriptions and UCDs of its columns; the metadata are comments."""
    plain = table.copy()
    plain.meta = {}
    for column in plain.itercols():
        if column.dtype.kind in "US":
            column[:] = [printable(str(value)) for value in column]
    written = fits.table_to_hdu(plain)
    written.name = "CATALOGUE"
    for number, name in enumerate(table.colnames, start=1):
        written.header[f"TUCD{number}"] = UCDS.get(name, "")
        written.header[f"TCOMM{number}"] = printable(table[name].description or described(name))[:MOST_COMMENT]
    for key, value in table.meta.items():
        written.header.add_comment(printable(f"{key} = {value}"))
    first = fits.PrimaryHDU()
    first.header["ORIGIN"], first.header["CREATOR"] = MAKER, SOFTWARE
    first.header["RADESYS"] = str(table.meta.get("radesys", "ICRS"))
    fits.HDUList([first, written]).writeto(path)


MOST_COMMENT = 68
"""Characters of a text in a FITS header."""


def described(name: str) -> str:
    """A description of a column that has none of its own: an error's."""
    return f"error of {name.removesuffix('_err')}" if name.endswith("_err") else DESCRIBED.get(name, name)


DESCRIBED = {
    "snr_line": "matched-filter signal to noise of the line",
    "snr_continuum": "matched-filter signal to noise of the continuum",
}


def has_line(row: Any) -> bool:
    """Whether a line was measured (a source without one has no channel)."""
    return bool(np.isfinite(row["chan"]))


@dataclass(frozen=True)
class Shown:
    """A column of the table for people.

    Attributes
    ----------
    head, unit : str
    value : callable of a row, giving text
    rank : int
        Those of the highest rank go first where the screen is narrow.
    """

    head: str
    unit: str
    value: Callable[[Any], str]
    rank: int = 0


def _measured(name: str, scale: float, digits: str) -> Callable[[Any], str]:
    """A value with its error, where both are known, to the error's second digit."""

    def text(row: Any) -> str:
        value, error = float(row[name]) * scale, float(row[f"{name}_err"]) * scale
        return with_error(value, error, digits)

    return text


def with_error(value: float, error: float, digits: str = ".4g") -> str:
    """'1.234+-0.056': as many decimals as two digits of the error need; the value alone without an error."""
    if not np.isfinite(value):
        return "-"
    if not (np.isfinite(error) and error > 0):
        return format(value, digits)
    decimals = max(0, 1 - int(np.floor(np.log10(error))))
    return f"{value:.{decimals}f}+-{error:.{decimals}f}"


def _size(row: Any) -> str:
    if "unresolved" in str(row["flags"]).split(",") or not np.isfinite(float(row["fwhm_maj"])):
        return SIZELESS if np.isfinite(float(row["fwhm_maj"])) else "-"
    return f"{with_error(float(row['fwhm_maj']), float(row['fwhm_maj_err']), '.3g')} x {float(row['fwhm_min']):.2g}"


def _place(row: Any) -> str:
    return " ".join(sexagesimal(float(row["ra"]), float(row["dec"])))


def _line_only(text: Callable[[Any], str]) -> Callable[[Any], str]:
    return lambda row: text(row) if has_line(row) else "-"


COLUMNS = (
    Shown("id", "", lambda row: str(row["id"])),
    Shown("name", "", lambda row: str(row["name"]), 6),
    Shown("RA Dec", "", _place),
    Shown("freq", "[GHz]", _line_only(_measured("freq", 1e-9, ".6f")), 4),
    Shown("velocity", "[km/s]", _line_only(_measured("velocity", 1.0, ".1f")), 1),
    Shown("width", "[km/s]", _line_only(_measured("line_fwhm", 1.0, ".4g")), 3),
    Shown("line flux", "[Jy km/s]", _line_only(_measured("line_flux", 1.0, ".4g"))),
    Shown("continuum", "[mJy]", _measured("continuum", 1e3, ".4g")),
    Shown("size", "[arcsec]", _size, 2),
    Shown("SNR", "", lambda row: _number(float(row["snr"]), ".1f")),
    Shown("flags", "", lambda row: str(row["flags"]), 5),
)
"""The columns of the table for people. Those without any value are left out."""


def summary(table: Table, limit: int = 50, width: int | None = None) -> list[str]:
    """The short table that ends a run: one line a source, with errors.

    Parameters
    ----------
    table : Table, completed by `complete`
    limit : int
        Most rows.
    width : int, optional
        Characters in a line; columns that have no room are left out.
    """
    columns = []
    for column in COLUMNS:
        cells = [column.value(row) for row in table[:limit]]
        if column.rank and cells and all(cell in ("-", "") for cell in cells):
            continue
        columns.append((column.rank, [column.head, column.unit, *cells]))
    while width and len(columns) > 1 and sum(_width(cells) + 2 for _, cells in columns) > width + 2:
        worst = max(columns, key=lambda item: item[0])
        if not worst[0]:
            break
        columns.remove(worst)
    lines = []
    for number in range(min(len(table), limit) + 2):
        cells = [
            cells[number].ljust(_width(cells)) if cells[0] in ("name", "flags") else cells[number].rjust(_width(cells))
            for _, cells in columns
        ]
        lines.append("  ".join(cells).rstrip())
    if len(table) > limit:
        lines.append(f"... and {len(table) - limit} more in the catalogue")
    return lines


def _width(cells: Sequence[str]) -> int:
    return max(map(len, cells))


def flag_words(table: Table) -> list[str]:
    """What the flags of a catalogue mean, one line each."""
    used = sorted({flag for row in table for flag in str(row["flags"]).split(",") if flag})
    return [f"{flag}: {FLAGS[flag]}" for flag in used if flag in FLAGS]


def sexagesimal(ra: float, dec: float) -> tuple[str, str]:
    """HH:MM:SS.sss and +DD:MM:SS.ss of a position [deg]."""
    millis = round((ra % 360.0) / 15.0 * 3600.0 * 1000.0) % 86400000
    h, rest = divmod(millis, 3600000)
    m, s = divmod(rest, 60000)
    hundredths = round(abs(dec) * 3600.0 * 100.0)
    d, rest = divmod(hundredths, 360000)
    dm, ds = divmod(rest, 6000)
    return f"{h:02d}:{m:02d}:{s / 1000:06.3f}", f"{'-' if dec < 0 else '+'}{d:02d}:{dm:02d}:{ds / 100:05.2f}"


def _number(value: float, spec: str) -> str:
    return format(value, spec) if np.isfinite(value) else "-"
