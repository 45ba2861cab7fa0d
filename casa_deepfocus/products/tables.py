"""The catalogue as files, and as a table for people."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from astropy.table import Table

from casa_deepfocus.products.marks import SOFTWARE


def write_catalogue(prefix: Path, table: Table) -> None:
    """Write <prefix>.cat.ecsv and <prefix>.cat.vot."""
    table = table.copy()
    table.meta["software"] = SOFTWARE
    table.write(f"{prefix}.cat.ecsv", format="ascii.ecsv")
    plain = table.copy()
    # VOTable has no place for free metadata but its description.
    plain.meta = {"description": "; ".join(f"{key} = {value}" for key, value in table.meta.items())}
    plain.write(f"{prefix}.cat.vot", format="votable")


def has_line(row: Any) -> bool:
    """Whether a line was measured (a source without one has no channel)."""
    return bool(np.isfinite(row["chan"]))


def summary(table: Table, limit: int = 50) -> list[str]:
    """The short table that ends the log: one line a source."""
    head = f"{'name':<24} {'RA':>13} {'Dec':>13} {'freq':>12} {'line flux':>11} {'continuum':>10} {'SNR':>7}  flags"
    units = f"{'':<24} {'':>13} {'':>13} {'[GHz]':>12} {'[Jy km/s]':>11} {'[mJy]':>10} {'':>7}"
    lines = [head, units]
    for row in table[:limit]:
        ra, dec = sexagesimal(float(row["ra"]), float(row["dec"]))
        continuum = float(row["continuum"]) * 1e3
        line_flux = float(row["line_flux"]) if has_line(row) else float("nan")
        lines.append(
            f"{row['name']!s:<24} {ra:>13} {dec:>13} {_number(float(row['freq']) / 1e9, '.6f'):>12} "
            f"{_number(line_flux, '.4g'):>11} {_number(continuum, '.4g'):>10} "
            f"{_number(float(row['snr']), '.1f'):>7}  {row['flags']}"
        )
    if len(table) > limit:
        lines.append(f"... and {len(table) - limit} more in the catalogue")
    return lines


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
