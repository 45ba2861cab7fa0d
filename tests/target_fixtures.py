"""Hand-made catalogues of a target's cubes, with a planted truth."""

from __future__ import annotations

import numpy as np
from astropy.table import Table

from casa_deepfocus.core.catalogue import COLUMNS
from casa_deepfocus.core.crossmatch import CubeCatalogue

C_KMS = 299792.458
CENTRE = (150.0, -30.0)
DTYPES = {"str": ("", "U64"), "float": (np.nan, "f8"), "int": (-1, "i8")}


def cube(label="spw0", rows=(), beam=1.0, freq0=230e9, width=1e6, nchan=1000, made_of=(), freq=0.0, **meta):
    """A cube's catalogue: `rows` are dicts of columns, as `row` makes them."""
    table = Table({name: np.full(len(rows), *DTYPES[kind]) for name, kind, _, _ in COLUMNS})
    for number, values in enumerate(rows):
        for name, value in values.items():
            table[name][number] = value
        table["name"][number] = table["name"][number] or f"{label}_{number}"
    maj, minor, pa = beam if np.ndim(beam) else (beam, beam, 0.0)
    table.meta = {
        "radesys": "ICRS", "frame": "LSRK", "restfreq": 0.0, "beam_maj": maj, "beam_min": minor, "beam_pa": pa,
        "freq0": freq0, "chan_width": width, "nchan": nchan, "noise": 1e-3,
    } | meta  # fmt: skip
    return CubeCatalogue(label, table, made_of, freq)


def row(east=0.0, north=0.0, error=0.03, centre=CENTRE, snr=10.0, **values):
    """A row at an offset [arcsec] from a centre; `line=(freq, kms)` gives it a line, `continuum` one of S/N `snr`."""
    ra, dec = at_offset(east, north, centre)
    out = {"ra": ra, "dec": dec, "ra_err": error, "dec_err": error, "snr": snr, "reliability": 0.9}
    if "line" in values:
        freq, kms = values.pop("line")
        out |= {"freq": freq, "line_fwhm": kms, "chan": 1.0, "freq_err": kms / C_KMS * freq / snr, "snr_line": snr,
                "line_flux": 1.0, "line_flux_err": 0.1, "peak": 0.01, "peak_err": 0.001}  # fmt: skip
    if "continuum" in values:
        out |= {"continuum_err": values["continuum"] / snr, "snr_continuum": snr}
    return out | {"line_flux": out.get("line_flux", 0.0)} | values


def at_offset(east, north, centre=CENTRE):
    """(ra, dec) [deg] at offsets [arcsec] in the plane that touches the sky at a centre."""
    ra, dec = np.deg2rad(centre)
    x, y = np.deg2rad(east / 3600.0), np.deg2rad(north / 3600.0)
    place = np.array([np.cos(dec) - y * np.sin(dec), x, np.sin(dec) + y * np.cos(dec)])
    place /= np.linalg.norm(place)
    return np.rad2deg(np.arctan2(place[1], place[0]) + ra) % 360.0, np.rad2deg(np.arcsin(place[2]))


def sized(maj, minor, pa, error=0.1):
    """Columns of an intrinsic size [arcsec, deg] with an error along both axes."""
    angle = np.rad2deg(error * maj / (maj**2 - minor**2)) if maj > minor else 90.0
    return {"fwhm_maj": maj, "fwhm_min": minor, "pa": pa, "fwhm_maj_err": error, "fwhm_min_err": error,
            "pa_err": min(angle, 90.0)}  # fmt: skip
