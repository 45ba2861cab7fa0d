"""The truth table: what a perfect catalogue of a simulated field would say (docs/architecture.md)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from astropy import units as u
from astropy.table import Table
from numpy.typing import ArrayLike, NDArray

from casa_deepfocus.core.cube import Cube
from casa_deepfocus.core.geometry import GAUSSIAN_LINE, peak_over_flux
from casa_deepfocus.core.matching import Sources, channel_ranges, draw_boxes
from casa_deepfocus.errors import ProductError
from sim.response import Response, matched_filter_snr, pb_at
from sim.sky import Source

COLUMNS: tuple[tuple[str, str, str], ...] = (
    ("ra", "deg", "right ascension"),
    ("dec", "deg", "declination"),
    ("x", "pix", "zero-based pixel"),
    ("y", "pix", "zero-based pixel"),
    ("chan", "", "channel of the line's centre, zero-based; NaN without a line"),
    ("freq", "Hz", "frequency of the line's centre"),
    ("fwhm_maj", "arcsec", "intrinsic"),
    ("fwhm_min", "arcsec", "intrinsic"),
    ("pa", "deg", "north through east"),
    ("line_fwhm", "km/s", "radio convention"),
    ("line_fwhm_chan", "", "in channels"),
    ("peak", "Jy/beam", "of the line, or of the continuum where there is no line"),
    ("line_flux", "Jy km/s", "integrated, 0 without a line"),
    ("continuum", "Jy", "at the middle of the band"),
    ("pb", "", "primary beam response at the source"),
    ("snr", "", "matched filter; of the line where there is one, else of the continuum"),
    ("snr_line", "", "matched filter"),
    ("snr_continuum", "", "matched filter"),
)
"""(name, unit, description) of the float columns; all fluxes are corrected for the primary beam."""

BOX = ("x0", "y0", "x1", "y1", "chan0", "chan1")


def truth_table(sources: Sequence[Source], resp: Response, cube: Cube, sigma: ArrayLike) -> Table:
    """The truth of one field.

    Parameters
    ----------
    sources : sequence of Source
    resp : Response, of the observation
    cube : Cube; its data are not read
    sigma : float or (nchan,) [Jy/beam], noise of the image

    Returns
    -------
    astropy Table, one row a source
    """
    rows = [_row(source, resp, cube, sigma) for source in sources]
    table = Table(meta=_meta(resp, cube))
    table["name"] = np.array([f"S{number + 1:02d}" for number in range(len(rows))], dtype="U16")
    for name, unit, text in COLUMNS:
        table[name] = np.array([row[name] for row in rows], dtype=float)
        table[name].unit = u.Unit(unit) if unit else None
        table[name].description = text
    boxes = _boxes(table, cube)
    for number, name in enumerate(BOX):
        table[name] = boxes[:, number]
    return table


def _row(source: Source, resp: Response, cube: Cube, sigma: ArrayLike) -> dict[str, float]:
    snr_line, snr_continuum = matched_filter_snr(source, resp, cube.freq, sigma)
    has_line = source.line > 0
    freq = cube.chan_to_freq(source.chan) if has_line else np.nan
    kms = cube.chan_width_kms(freq) if has_line else np.nan
    ra, dec = cube.wcs.wcs_pix2world([[source.x, source.y]], 0)[0] if cube.wcs is not None else (np.nan, np.nan)
    per_flux = peak_over_flux(source.covariance(), resp.middle_beam())
    chan = int(np.clip(round(source.chan), 0, cube.nchan - 1)) if has_line else cube.nchan // 2
    return {
        "ra": float(ra), "dec": float(dec), "x": source.x, "y": source.y,
        "chan": source.chan if has_line else np.nan, "freq": freq,
        "fwhm_maj": source.fwhm_maj * cube.cell, "fwhm_min": source.fwhm_min * cube.cell, "pa": source.pa,
        "line_fwhm": source.line_fwhm * kms, "line_fwhm_chan": source.line_fwhm if has_line else np.nan,
        "peak": (source.line if has_line else source.continuum) * per_flux,
        "line_flux": source.line * source.line_fwhm * GAUSSIAN_LINE * kms if has_line else 0.0,
        "continuum": source.continuum, "pb": float(resp.channels(pb_at(resp.pb, source))[chan]),
        "snr": snr_line if has_line else snr_continuum,
        "snr_line": snr_line, "snr_continuum": snr_continuum,
    }  # fmt: skip


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
