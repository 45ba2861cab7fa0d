"""From fitted components to a table that an astronomer reads: sky coordinates, units, errors.

The fit's components are what the antennas see; here the primary beam is taken off them: off their
fluxes, and off places and sizes, which its slope changes (`core.primarybeam`). Sizes are posterior
means (`core.sizes`). Shapes and errors go from the pixel frame to the sky by the Jacobian at the source
(`core.skyframe`). NaN means not measured; in the integer columns -1.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timezone
from typing import Any

import numpy as np
from astropy import units as u
from astropy.coordinates import Angle
from astropy.table import Table
from numpy.typing import ArrayLike, NDArray

from casa_deepfocus.core.component import Component
from casa_deepfocus.core.cube import Cube
from casa_deepfocus.core.geometry import covariance_to_shape, shape_to_covariance
from casa_deepfocus.core.matching import Sources, channel_ranges, draw_boxes
from casa_deepfocus.core.primarybeam import OnSky, local_beam, on_sky
from casa_deepfocus.core.profiles import GAUSSIAN, PARTS, observed_peak
from casa_deepfocus.core.sizes import sizes
from casa_deepfocus.core.skyframe import operator, transform

COLUMNS: tuple[tuple[str, str, str, str], ...] = (
    ("name", "str", "", "JHHMMSS.ss+DDMMSS.s of the fitted position"),
    ("ra", "float", "deg", "right ascension"),
    ("ra_err", "float", "arcsec", "error of the right ascension, on the sky"),
    ("dec", "float", "deg", "declination"),
    ("dec_err", "float", "arcsec", "error of the declination"),
    ("ra_max", "float", "deg", "right ascension of the maximum of the focused dirty image"),
    ("dec_max", "float", "deg", "declination of the maximum of the focused dirty image"),
    ("x", "float", "pixel", "zero-based pixel, x axis"),
    ("x_err", "float", "pixel", ""),
    ("y", "float", "pixel", "zero-based pixel, y axis"),
    ("y_err", "float", "pixel", ""),
    ("chan", "float", "", "channel of the line's centre, zero-based"),
    ("chan_err", "float", "", ""),
    ("freq", "float", "Hz", "frequency of the line's centre, in the cube's frame"),
    ("freq_err", "float", "Hz", ""),
    ("fwhm_maj", "float", "arcsec", "major FWHM, deconvolved; not different from 0 where flagged unresolved"),
    ("fwhm_maj_err", "float", "arcsec", ""),
    ("fwhm_min", "float", "arcsec", "minor FWHM, deconvolved"),
    ("fwhm_min_err", "float", "arcsec", ""),
    ("pa", "float", "deg", "position angle of the major axis, north through east"),
    ("pa_err", "float", "deg", ""),
    ("profile", "str", "", "gaussian; exponential: a disc, its FWHM that of its second moments; complex: several"),
    ("line_fwhm", "float", "km/s", "FWHM of the line, radio convention"),
    ("line_fwhm_err", "float", "km/s", ""),
    ("peak", "float", "Jy/beam", "peak of the line, or of the continuum where there is no line"),
    ("peak_err", "float", "Jy/beam", ""),
    ("line_flux", "float", "Jy km/s", "integrated line flux"),
    ("line_flux_err", "float", "Jy km/s", ""),
    ("line_flux_jyhz", "float", "Jy Hz", "integrated line flux"),
    ("continuum", "float", "Jy", "continuum flux density at the middle of the band"),
    ("continuum_err", "float", "Jy", ""),
    ("continuum_slope", "float", "Jy/GHz", "slope of the continuum with frequency"),
    ("snr", "float", "", "matched-filter signal to noise, of the line where there is one, else of the continuum"),
    ("snr_line", "float", "", ""),
    ("snr_continuum", "float", "", ""),
    ("pb", "float", "", "primary beam averaged over the source, that peak and line flux were divided by"),
    ("probability", "float", "", "Blobs Finder's probability at the detection"),
    ("reliability", "float", "", "probability that this is not noise, from the negative peaks of the same cube"),
    ("group", "int", "", "blend group: sources fitted together share a number"),
    ("flags", "str", "", "comma separated"),
    ("x0", "int", "pixel", "box, inclusive"),
    ("y0", "int", "pixel", "box, inclusive"),
    ("x1", "int", "pixel", "box, inclusive"),
    ("y1", "int", "pixel", "box, inclusive"),
    ("chan0", "int", "", "first channel of the box"),
    ("chan1", "int", "", "last channel of the box"),
)
"""(name, kind, unit, description) of every column, in order."""

_DTYPES = {"str": "U64", "float": "f8", "int": "i8"}


def sky_name(ra: float, dec: float) -> str:
    """JHHMMSS.ss+DDMMSS.s of a position [deg]; empty when it is not known."""
    return sky_names(np.array([ra]), np.array([dec]))[0]


def sky_names(ra: NDArray[np.float64], dec: NDArray[np.float64]) -> list[str]:
    """`sky_name` of many positions (n,)."""
    known = np.isfinite(ra) & np.isfinite(dec)
    names = [""] * len(known)
    if known.any():
        hours = Angle(ra[known] % 360.0, u.deg).to_string(unit=u.hour, sep="", precision=2, pad=True)
        degrees = Angle(dec[known], u.deg).to_string(unit=u.deg, sep="", precision=1, pad=True, alwayssign=True)
        for at, hour, degree in zip(np.flatnonzero(known), hours, degrees, strict=True):
            names[at] = f"J{hour}{degree}"
    return names


def angle_error(covariance: NDArray, matrix: NDArray) -> float:
    """Error of the position angle [deg], at most 90, of a fitted covariance.

    Parameters
    ----------
    covariance : (3,) [pixel^2] : sxx, syy, sxy
    matrix : (3, 3) [pixel^4], its error covariance
    """
    _, _, pa = covariance_to_shape(covariance)
    sin, cos = np.sin(np.deg2rad(float(pa))), np.cos(np.deg2rad(float(pa)))
    # Difference of the variances along the axes, and the cross term that turns them, as linear forms.
    elongation = np.array([sin**2 - cos**2, cos**2 - sin**2, -4 * sin * cos])
    turn = np.array([sin * cos, -sin * cos, -(cos**2 - sin**2)])
    difference, turning = float(elongation @ covariance), float(np.sqrt(max(turn @ matrix @ turn, 0.0)))
    return min(float(np.rad2deg(turning / difference)), 90.0) if difference > 0 else 90.0


def component_row(component: Component, cube: Cube) -> dict[str, object]:
    """One row of the catalogue (without name, reliability and box) from a fitted component."""
    nchan = cube.nchan
    middle = 0.5 * (nchan - 1)
    chan = component.chan if component.has_line else middle
    source = component_on_sky(component, cube, chan)
    x, y = component.x + source.shift[0], component.y + source.shift[1]
    ra, dec = sky_position(cube, x, y)
    matrix = np.zeros((5, 5))
    if component.matrix is not None:
        matrix = source.jacobian @ component.matrix[:5, :5] @ source.jacobian.T
    # On the sky, in units of the pixel size: offsets by the Jacobian, covariances by its square.
    turn = cube.sky_frame(x, y)
    shape, spread = transform(source.covariance, turn), operator(turn) @ matrix[2:, 2:] @ operator(turn).T
    x_err = y_err = ra_err = dec_err = np.nan
    if {"x", "y"} <= component.errors.keys():
        x_err, y_err = np.sqrt(np.diag(matrix)[:2])
        ra_err, dec_err = np.sqrt(np.diag(turn @ matrix[:2, :2] @ turn.T))
    maj, minor, maj_err, min_err = sizes(shape, spread)
    pa = float(covariance_to_shape(shape)[2])
    pa_err = angle_error(shape, spread) if component.fit_shape else np.nan
    row: dict[str, object] = {
        "ra": ra, "ra_err": ra_err * cube.cell, "dec": dec, "dec_err": dec_err * cube.cell,
        "x": x, "y": y, "x_err": x_err, "y_err": y_err,
        "fwhm_maj": maj * cube.cell, "fwhm_min": minor * cube.cell, "pa": pa,
        "fwhm_maj_err": maj_err * cube.cell, "fwhm_min_err": min_err * cube.cell, "pa_err": pa_err,
        "pb": source.response, "probability": component.probability, "group": component.group,
        "snr_line": component.snr_line if component.has_line else np.nan,
        "snr_continuum": component.snr_cont if component.has_cont else np.nan,
        "snr": component.snr_line if component.has_line else component.snr_cont,
        "flags": ",".join(sorted(component.flags)), "profile": component.profile,
    }  # fmt: skip
    beam = cube.beam_covariances()[int(np.clip(round(chan), 0, nchan - 1))]
    profile = component.profile if component.profile in PARTS else GAUSSIAN
    per_flux = observed_peak(np.maximum(source.covariance, [0.0, 0.0, -np.inf]), beam, profile) / source.response
    if component.has_line:
        row |= _line_values(component, cube, source.response)
        row |= _peak(component.amp * per_flux, component.snr_line)
    else:
        row |= {"line_flux": 0.0, "line_flux_jyhz": 0.0} | _peak(component.cont * per_flux, component.snr_cont)
    if component.has_cont:
        row |= _continuum_values(component, cube)
    return row


def component_on_sky(component: Component, cube: Cube, chan: float) -> OnSky:
    """A component without the primary beam of a channel."""
    plane = cube.pb[int(np.clip(round(chan), 0, cube.nchan - 1)) if cube.pb.shape[0] > 1 else 0]
    window = shape_to_covariance(*covariance_to_shape(component.covariance)) + cube.beam_covariance()
    return on_sky(component.covariance, local_beam(plane, component.x, component.y, window))


def _line_values(component: Component, cube: Cube, response: float) -> dict[str, float]:
    """Columns of a component's line."""
    freq = cube.chan_to_freq(component.chan)
    kms, width = cube.chan_width_kms(freq), abs(cube.chan_width)
    flux, flux_err = component.line_flux()
    chan_err = component.errors.get("chan", np.nan)
    return {
        "chan": component.chan, "chan_err": chan_err, "freq": freq, "freq_err": chan_err * width,
        "line_fwhm": component.fwhm * kms,
        "line_fwhm_err": component.fwhm * kms * component.errors.get("lnw", np.nan),
        "line_flux": flux * kms / response, "line_flux_err": flux_err * kms / response,
        "line_flux_jyhz": flux * width / response,
    }  # fmt: skip


def _continuum_values(component: Component, cube: Cube) -> dict[str, float]:
    """Columns of a component's continuum; the primary beam's own slope with frequency is taken off its slope."""
    middle = 0.5 * (cube.nchan - 1)
    response = component_on_sky(component, cube, middle).response
    values = {
        "continuum": component.cont / response,
        "continuum_err": component.errors.get("cont", np.nan) / response,
    }
    if component.has_slope and cube.chan_width:
        low, high = (component_on_sky(component, cube, chan).response for chan in (0, cube.nchan - 1))
        own = np.log(high / low) / (cube.nchan - 1)
        slope = (component.slope - component.cont * own) / response
        values["continuum_slope"] = slope / (cube.chan_width / 1e9)
    return values


def _peak(peak: float, snr: float) -> dict[str, float]:
    return {"peak": peak, "peak_err": abs(peak / snr) if snr else float("nan")}


def sky_position(cube: Cube, x: float, y: float) -> tuple[float, float]:
    """(ra, dec) [deg] of a pixel; NaN when the cube has no celestial coordinates."""
    if cube.wcs is None:
        return float("nan"), float("nan")
    ra, dec = cube.wcs.wcs_pix2world([[x, y]], 0)[0]
    return float(ra) % 360.0, float(dec)


def build(components: Sequence[Component], reliabilities: ArrayLike, cube: Cube) -> Table:
    """The catalogue of a cube.

    Parameters
    ----------
    components : sequence of Component, fitted
    reliabilities : (n,) float in [0, 1]
    cube : Cube

    Returns
    -------
    astropy.table.Table with the columns of `COLUMNS`, one row a component, in the order given
    """
    rows = [component_row(component, cube) for component in components]
    table = Table(
        {name: np.full(len(rows), *_blank(kind)) for name, kind, _, _ in COLUMNS}, meta=_meta(cube),
    )  # fmt: skip
    for name, kind, unit, text in COLUMNS:
        for number, row in enumerate(rows):
            if name in row:
                table[name][number] = row[name]
        table[name].description = text or None
        if unit and kind == "float":
            table[name].unit = u.Unit(unit)
    # In place: a column that is replaced loses its description.
    table["reliability"][:] = np.asarray(reliabilities, dtype=float)
    if rows:
        names = [sky_name(float(row["ra"]), float(row["dec"])) for row in table]
        table["name"][:] = unique_names([name or f"source{number}" for number, name in enumerate(names)])
        _add_boxes(table, components, cube)
    return table


def pixel_shape(row: Any, cube: Cube) -> tuple[float, float, float]:
    """FWHM major, minor [pixel] and position angle [deg] in the pixel frame of a row of the catalogue."""
    on_sky = shape_to_covariance(row["fwhm_maj"] / cube.cell, row["fwhm_min"] / cube.cell, row["pa"])
    back = np.linalg.inv(cube.sky_frame(row["x"], row["y"]))
    shape = covariance_to_shape(transform(on_sky, back))
    return float(shape[0]), float(shape[1]), float(shape[2])


def _blank(kind: str) -> tuple[object, str]:
    return {"str": "", "float": np.nan, "int": -1}[kind], _DTYPES[kind]


def unique_names(names: list[str]) -> list[str]:
    """The same position twice (two lines of one source) becomes name, name_b, name_c."""
    seen: dict[str, int] = {}
    out = []
    for name in names:
        count = seen.get(name, 0)
        seen[name] = count + 1
        out.append(name if count == 0 else f"{name}_{chr(ord('a') + count)}")
    return out


def _add_boxes(table: Table, components: Sequence[Component], cube: Cube) -> None:
    maj, minor, pa = np.transpose([pixel_shape(row, cube) for row in table])
    sources = Sources.build(
        x=table["x"], y=table["y"], beam=cube.beam_pixels(), fwhm_maj=maj, fwhm_min=minor, pa=pa, chan=table["chan"],
        line_fwhm=[c.fwhm if c.has_line else np.nan for c in components],
    )  # fmt: skip
    boxes = draw_boxes(sources)
    ny, nx = cube.shape
    for place, (name, size) in enumerate((("x0", nx), ("y0", ny), ("x1", nx), ("y1", ny))):
        table[name][:] = np.clip(boxes[:, place], 0, size - 1)
    spans = channel_ranges(sources, cube.nchan)
    table["chan0"][:], table["chan1"][:] = spans[:, 0], spans[:, 1]


def _meta(cube: Cube) -> dict[str, object]:
    beam = cube.beam_on_sky()
    freq = cube.restfreq or float(np.median(cube.freq))
    known = {key: cube.meta[key] for key in ("object", "telescope", "radesys", "equinox") if key in cube.meta}
    return known | {
        "frame": cube.frame, "restfreq": float(cube.restfreq),
        "beam_maj": beam[0], "beam_min": beam[1], "beam_pa": beam[2], "cell": float(cube.cell),
        "nchan": cube.nchan, "nx": cube.shape[1], "ny": cube.shape[0],
        "freq0": float(cube.freq[0]), "chan_width": cube.chan_width,
        "chan_width_kms": cube.chan_width_kms(freq) if freq else 0.0,
        "psf": "measured" if cube.psf_is_measured else "gaussian beam of the header",
        "created": datetime.now(timezone.utc).isoformat(timespec="seconds"),
    }  # fmt: skip
