"""The truth of an archive's targets: tables of the planted sources and of their lines."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from astropy import units as u
from astropy.table import Table
from numpy.typing import NDArray

from casa_deepfocus.core.cube import C_KMS
from sim.archivesky import DISH, Target, Window, line_flux, reference_frequency
from sim.beams import airy
from sim.skyfile import SkySource

SOURCE_COLUMNS: tuple[tuple[str, str, str], ...] = (
    ("ra", "deg", "right ascension, ICRS"),
    ("dec", "deg", "declination, ICRS"),
    ("fwhm_maj", "arcsec", "intrinsic; 0 of a point"),
    ("fwhm_min", "arcsec", "intrinsic; 0 of a point"),
    ("pa", "deg", "north through east"),
    ("continuum", "Jy", "at the reference frequency (meta: freq0)"),
    ("alpha", "", "spectral index of the continuum"),
    ("pb", "", "primary beam of the nearest pointing at the reference frequency"),
    ("snr", "", "the best of snr_line and snr_continuum"),
    ("snr_line", "", "matched filter, of the best line"),
    ("snr_continuum", "", "matched filter, of all windows together"),
)

LINE_COLUMNS: tuple[tuple[str, str, str], ...] = (
    ("ra", "deg", "of the source"),
    ("dec", "deg", "of the source"),
    ("freq", "Hz", "centre, LSRK"),
    ("line_fwhm", "km/s", "radio convention"),
    ("chan_width", "km/s", "of its window"),
    ("line_flux", "Jy km/s", "integrated"),
    ("peak", "Jy", "height, of the whole source"),
    ("snr", "", "matched filter, in its window"),
)


def window_of(freq: float, windows: Sequence[Window]) -> int:
    """Index of the window that holds a frequency [Hz, LSRK]."""
    return next(n for n, window in enumerate(windows) if window.nchan > 1 and window.low <= freq <= window.high)


def truth_tables(
    target: Target, windows: Sequence[Window], snrs: Sequence[NDArray], beam: float
) -> tuple[Table, Table]:
    """The tables of a target's sources and lines.

    Parameters
    ----------
    target : Target
    windows : sequence of Window
    snrs : sequence of (1 + nline, nwindow), of every source: continuum, then lines
    beam : float [arcsec]

    Returns
    -------
    sources : Table, one row a source; ``snr_continuum_1`` and so on are its continuum's SNR in each window
    lines : Table, one row a line; `source` is the name of its source, `window` that of its window, `spw` its number
    """
    freq = reference_frequency(windows)
    rows, lines = [], []
    for number, (source, snr) in enumerate(zip(target.sources, snrs, strict=True), start=1):
        name = f"S{number:02d}"
        strongest = 0.0
        for line, own in zip(source.lines, snr[1:], strict=True):
            at = window_of(line.freq, windows)
            if line.peak:
                strongest = max(strongest, float(own[at]))
                lines.append(
                    {
                        "source": name, "window": windows[at].name, "spw": at, "ra": source.ra, "dec": source.dec,
                        "freq": line.freq, "line_fwhm": line.fwhm, "line_flux": line_flux(line), "peak": line.peak,
                        "chan_width": abs(windows[at].width) / line.freq * C_KMS, "snr": float(own[at]),
                    }  # fmt: skip
                )
        whole = float(np.hypot.reduce(snr[0]))
        rows.append(
            {
                "name": name, "kind": "gaussian" if source.fwhm_maj else "point", "ra": source.ra, "dec": source.dec,
                "fwhm_maj": source.fwhm_maj, "fwhm_min": source.fwhm_min, "pa": source.pa,
                "continuum": source.continuum, "alpha": source.alpha if source.continuum else np.nan,
                "n_lines": sum(line["source"] == name for line in lines), "pb": _nearest(target, source, freq),
                "snr": max(whole, strongest), "snr_line": strongest, "snr_continuum": whole,
            }  # fmt: skip
            | {f"snr_continuum_{n}": float(value) for n, value in enumerate(snr[0], start=1)}
        )
    edges = {"low": [float(window.low) for window in windows], "high": [float(window.high) for window in windows]}
    meta = {
        "target": target.name, "ra": target.ra, "dec": target.dec, "pointings": len(target.pointings),
        "rate": list(target.rate), "freq0": freq, "beam": beam, "frame": "LSRK", "radesys": "ICRS",
        "windows": [window.name for window in windows], **edges,
    }  # fmt: skip
    each = tuple(
        (f"snr_continuum_{n}", "", f"matched filter, in {window.name}") for n, window in enumerate(windows, start=1)
    )
    return (
        _table(rows, ("name", "kind", "n_lines"), (*SOURCE_COLUMNS, *each), meta),
        _table(lines, ("source", "window", "spw"), LINE_COLUMNS, meta),
    )


def _table(rows: Sequence[dict], keys: Sequence[str], columns: Sequence[tuple[str, str, str]], meta: dict) -> Table:
    table = Table(meta=dict(meta))
    for key in keys:
        kind = np.int64 if key in ("n_lines", "spw") else "U64"
        table[key] = np.array([row[key] for row in rows], dtype=kind)
    for name, unit, text in columns:
        table[name] = np.array([row[name] for row in rows], dtype=float)
        table[name].unit = u.Unit(unit) if unit else None
        table[name].description = text
    return table


def _nearest(target: Target, source: SkySource, freq: float) -> float:
    """Primary beam of the nearest pointing at a source."""
    east = (source.ra - target.pointings[:, 0]) * np.cos(np.deg2rad(source.dec))
    return float(airy(np.deg2rad(np.hypot(east, source.dec - target.pointings[:, 1]).min()), freq, DISH))
