"""Every part of the fitted model as a table with the catalogue's columns, each named after its source."""

from __future__ import annotations

import numpy as np
from astropy.table import Table, vstack

from casa_deepfocus.core import catalogue as cat
from casa_deepfocus.core.cube import Cube
from casa_deepfocus.core.profiles import GAUSSIAN, PARTS
from casa_deepfocus.pipeline.state import Result

SIGNIFICANT = 3.0
"""SNR below which a continuum beside a line is not measured."""

SAME = 0.5
"""Distance [pixel] within which a part and a row that is no complex are the same."""


def parts_of(result: Result, cube: Cube) -> Table:
    """The Gaussians that the fitted model is a sum of, corrected for the primary beam.

    A complex has one row for each of its components, an exponential disc one for each of the concentric Gaussians that
    stand for it (`core.profiles`). A continuum whose SNR is below `SIGNIFICANT` is left out.

    Parameters
    ----------
    result : Result
        Where it has no components, its catalogue stands for them.
    cube : Cube

    Returns
    -------
    Table, with the columns of the catalogue; `name` is that of the source, or of the place where a component belongs to
    none in the catalogue
    """
    table = result.catalogue
    if result.components:
        parts = cat.build(result.components, np.ones(len(result.components)), cube)
        parts["name"][:] = [_owner(row, table) for row in parts]
    else:
        parts = table[[name for name, *_ in cat.COLUMNS]].copy()
    snr, error = (np.asarray(parts[name], dtype=float) for name in ("snr_continuum", "continuum_err"))
    with np.errstate(divide="ignore", invalid="ignore"):
        shown = np.where(np.isfinite(snr), snr, np.asarray(parts["continuum"], dtype=float) / error)
    parts["continuum"][shown < SIGNIFICANT] = np.nan
    rows = [_gaussians(parts[at : at + 1]) for at in range(len(parts))]
    return vstack(rows, metadata_conflicts="silent") if rows else parts


def _gaussians(part: Table) -> Table:
    """A row as the Gaussians of its profile."""
    profile = str(part["profile"][0])
    fluxes, variances = PARTS.get(profile, PARTS[GAUSSIAN])
    if len(fluxes) == 1:
        return part
    out = part[np.zeros(len(fluxes), dtype=int)]
    for name in ("line_flux", "line_flux_jyhz", "peak", "continuum", "continuum_slope"):
        out[name] *= fluxes
    for name in ("fwhm_maj", "fwhm_min"):
        out[name] *= np.sqrt(variances)
    return out


def _owner(part: object, table: Table) -> str:
    """The name of the row that a component belongs to; its own where there is none."""
    own = str(part["name"])  # type: ignore[index]
    if not len(table):
        return own
    x, y, chan = (float(part[name]) for name in ("x", "y", "chan"))  # type: ignore[index]
    distance = np.hypot(np.asarray(table["x"], float) - x, np.asarray(table["y"], float) - y)
    joined = np.asarray(table["profile"]).astype(str) == "complex"
    apart = np.abs(np.nan_to_num(np.asarray(table["chan"], float), nan=-1.0) - np.nan_to_num(chan, nan=-1.0))
    # Two lines of one source are at one place and in different channels.
    same = np.flatnonzero(~joined & (distance < SAME))
    if same.size:
        return str(table["name"][same[np.argmin(distance[same] + apart[same])]])
    inside = (
        joined & (x >= table["x0"] - SAME) & (x <= table["x1"] + SAME) & (y >= table["y0"] - SAME)
        & (y <= table["y1"] + SAME)
    )  # fmt: skip
    if not inside.any():
        return own
    return str(table["name"][np.flatnonzero(inside)[np.argmin(distance[inside])]])
