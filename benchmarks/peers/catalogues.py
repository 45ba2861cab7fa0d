"""Detections of other finders -> tables with our columns (docs/architecture.md)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from astropy.table import Table
from numpy.typing import NDArray
from scipy.optimize import OptimizeWarning, curve_fit

from benchmarks.peers.field import Field
from casa_deepfocus.core.geometry import FWHM_PER_SIGMA, GAUSSIAN_LINE, covariance_to_shape, shape_to_covariance

COLUMNS = (
    "x", "y", "chan", "fwhm_maj", "fwhm_min", "pa", "line_fwhm", "line_flux", "continuum", "peak", "snr",
    "reliability",
)  # fmt: skip


def table(rows: Sequence[dict[str, float]], field: Field) -> Table:
    """A catalogue of rows with any of COLUMNS; what is missing is NaN (continuum 0)."""
    out = Table(meta={"beam_maj": field.beam[0], "beam_min": field.beam[1], "cell": field.cube.cell})
    out["name"] = np.array([f"P{number:04d}" for number in range(len(rows))], dtype="U8")
    for name in COLUMNS:
        missing = 0.0 if name in ("continuum", "line_flux") else np.nan
        out[name] = np.array([row.get(name, missing) for row in rows], dtype=float)
    return out


def intrinsic(row: dict[str, Any], field: Field) -> dict[str, float]:
    """fwhm_maj, fwhm_min [arcsec] and pa [deg] without the beam; 0 where smaller than the beam."""
    maj, minor, pa = (float(row[key]) for key in ("maj", "min", "pa"))
    if not row["deconvolved"] and np.isfinite([maj, minor, pa]).all():
        covariance = shape_to_covariance(maj, minor, pa) - shape_to_covariance(*field.beam)
        sizes = covariance_to_shape(covariance) if _positive(covariance) else (0.0, 0.0, pa)
        maj, minor, pa = (float(value) for value in sizes)
    return {"fwhm_maj": maj, "fwhm_min": minor, "pa": pa % 180.0}


def _positive(covariance: NDArray) -> bool:
    sxx, syy, sxy = covariance
    return bool(sxx > 0.0 and syy > 0.0 and sxx * syy > sxy**2)


def fit_line(spectrum: NDArray, chan: float, width: float) -> tuple[float, float, float]:
    """Gaussian through a spectrum around a channel.

    Parameters
    ----------
    spectrum : (nchan,) [Jy/beam]; NaN is left out
    chan, width : float [chan], where to begin

    Returns
    -------
    chan, fwhm [chan], height : the beginning and the mean when the fit fails
    """
    near = np.arange(max(0, int(chan - 2 * width)), min(len(spectrum), int(chan + 2 * width) + 1))
    near = near[np.isfinite(spectrum[near])]
    first = (float(spectrum[near].max()) if near.size else 0.0, chan, width)

    def gaussian(place: NDArray, height: float, centre: float, fwhm: float) -> NDArray:
        return height * np.exp(-0.5 * ((place - centre) * FWHM_PER_SIGMA / fwhm) ** 2)

    limits = ([0.0, chan - width, 0.5], [np.inf, chan + width, 4.0 * width])
    try:
        height, centre, fwhm = curve_fit(gaussian, near, spectrum[near], p0=first, bounds=limits)[0]
    except (RuntimeError, ValueError, TypeError, OptimizeWarning):
        return chan, width, float(np.nanmean(spectrum[near])) if near.size else 0.0
    return float(centre), float(fwhm), float(height)


def merge_planes(found: Sequence[Sequence[dict[str, Any]]], field: Field) -> Table:
    """One catalogue from the sources that a finder of two dimensions saw on each of a field's planes.

    The brightest comes first; what lies within half a beam and a window of it is the same source. Its line is
    fitted in the spectrum of the peak; its continuum is the nearest source of the band's image within half a beam.

    Parameters
    ----------
    found : a list of rows (x, y, peak, flux, maj, min, pa, deconvolved, rms) for each of `field.planes`
    field : Field
    """
    reach = 0.5 * np.sqrt(field.beam[0] * field.beam[1]) / field.cube.cell
    continua, lines = [], []
    for plane, rows in zip(field.planes, found, strict=True):
        for row in rows:
            if row["rms"] > 0.0 and np.isfinite([row["x"], row["y"]]).all():
                middle, width = 0.5 * (plane.chan0 + plane.chan1), plane.chan1 - plane.chan0 + 1
                kept = {**row, "middle": middle, "width": width, "snr": row["peak"] / row["rms"]}
                (lines if plane.line else continua).append(kept)
    rows = []
    for row in sorted(lines, key=lambda item: -item["snr"]):
        measured = line_row(row, field)
        if not any(
            _near(measured, other, reach) and abs(measured["chan"] - other["chan"]) <= row["width"] for other in rows
        ):
            rows.append(measured)
    taken: set[int] = set()
    for row in rows:
        apart = [np.hypot(row["x"] - c["x"], row["y"] - c["y"]) for c in continua]
        if apart and min(apart) <= reach:
            best = int(np.argmin(apart))
            taken.add(best)
            row["continuum"] = _flux(continua[best]) / field.pb_at(row["x"], row["y"])
    for number, row in enumerate(continua):
        if number not in taken:
            pb = field.pb_at(row["x"], row["y"])
            own = {"x": row["x"], "y": row["y"], "snr": row["snr"], **intrinsic(row, field)}
            rows.append({**own, "continuum": _flux(row) / pb, "peak": row["peak"] / pb})
    return table(rows, field)


def _flux(row: dict[str, Any]) -> float:
    return row["flux"] if np.isfinite(row["flux"]) else row["peak"]


def _near(row: dict[str, float], other: dict[str, float], reach: float) -> bool:
    return bool(np.hypot(row["x"] - other["x"], row["y"] - other["y"]) <= reach)


def line_row(row: dict[str, Any], field: Field) -> dict[str, float]:
    """A row of COLUMNS from a place (x, y, peak, flux, maj, min, pa, deconvolved, snr, middle, width [chan])."""
    ny, nx = field.line.shape[1:]
    y, x = int(np.clip(np.rint(row["y"]), 0, ny - 1)), int(np.clip(np.rint(row["x"]), 0, nx - 1))
    chan, fwhm, height = fit_line(field.line[:, y, x], row["middle"], row["width"])
    pb, kms = field.pb_at(row["x"], row["y"], chan), field.kms()
    # The finder's own ratio of total to peak holds for the line too.
    total = height * _flux(row) / row["peak"] if row["peak"] > 0.0 else height
    return {
        "x": row["x"], "y": row["y"], "chan": chan, "line_fwhm": fwhm * kms, "peak": height / pb,
        "line_flux": total * GAUSSIAN_LINE * fwhm * kms / pb, "snr": row["snr"], **intrinsic(row, field),
    }  # fmt: skip
