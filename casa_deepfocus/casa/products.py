"""The products of a run but for the report: catalogue, regions, component list, mask, probability map.

They are written into a run's work folder; `staging` brings them into place.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from astropy import units as u
from astropy.coordinates import SkyCoord
from astropy.table import Table
from casatools import componentlist, measures
from numpy.typing import NDArray

from casa_deepfocus.casa import guarded, images, outfiles
from casa_deepfocus.casa.grids import Template
from casa_deepfocus.core.catalogue import pixel_shape
from casa_deepfocus.core.cube import C_KMS, Cube
from casa_deepfocus.core.geometry import GAUSSIAN_LINE, covariance_to_shape, shape_to_covariance
from casa_deepfocus.core.skyframe import transform

if TYPE_CHECKING:
    from casa_deepfocus.pipeline.state import Result

POINT = 1e-3
"""A component whose major axis is below this fraction of the beam is written as a point."""

STEEPEST = 10.0
"""A continuum with a spectral index beyond this is not measured but noise, and written as flat."""

TURNED = 0.5
"""Rotation of the image at a source [deg] above which regions are polygons. The tip of an ellipse of two beams is then
less than a fiftieth of a beam from its place."""

CORNERS = 36
"""Corners of a polygon in place of an ellipse, whose area is 0.5 % smaller."""


def write_all(
    folder: Path, base: str, result: Result, cube: Cube, template: Template, history: tuple[str, ...] = ()
) -> None:
    """Write every product but the report into a folder.

    Parameters
    ----------
    folder : Path
    base : str
        Name that the endings are added to.
    result : Result
    cube : Cube
    template : Template
        The grid of the input image, for the mask and the maps.
    history : tuple of str
        Lines for the history of the images.

    Raises
    ------
    ProductError
        Where the disk is full.
    """
    table = result.catalogue
    write_catalogue(folder / base, table)
    if len(table):
        (folder / f"{base}.crtf").write_text(crtf(table, cube), encoding="utf-8")
    guarded.call(
        _write_folders, str(folder / base), table, _header(cube), np.packbits(result.mask), result.mask.shape,
        result.probability, noise_image(result), template, history, folder=str(folder),
    )  # fmt: skip


def noise_image(result: Result) -> NDArray[np.float32]:
    """(ny, nx) noise over the image [Jy/beam], of the median channel, not corrected for the primary beam."""
    noise = np.float32(np.nanmedian(result.noise))
    if result.noise_map is None:
        return np.full(result.probability.shape, noise, dtype=np.float32)
    return (noise * result.noise_map).astype(np.float32)


def _write_folders(
    prefix: str,
    table: Table,
    cube: Cube,
    bits: NDArray[np.uint8],
    shape: tuple[int, int, int],
    probability: NDArray[np.float32],
    noise: NDArray[np.float32],
    template: Template,
    history: tuple[str, ...],
) -> None:
    """Write the products that are CASA's own; the mask comes as bits, an eighth of its size."""
    # A component needs a frequency, and an image without a spectral axis has none.
    if len(table) and np.isfinite(cube.freq).all():
        write_components(f"{prefix}.cl", table, cube)
    mask = np.unpackbits(bits, count=int(np.prod(shape))).reshape(shape)
    images.write_planes(f"{prefix}.mask", mask, template, history=history)
    images.write_sky(f"{prefix}.prob", probability, template, history=history)
    images.write_sky(f"{prefix}.noise", noise, template, unit="Jy/beam", history=history)


def _header(cube: Cube) -> Cube:
    """A cube without its pixels."""
    pixel = np.ones((1, 1, 1), np.float32)
    return replace(cube, data=np.ones((cube.nchan, 1, 1), np.float32), psf=pixel, pb=pixel)


def write_catalogue(prefix: Path, table: Table) -> None:
    """Write <prefix>.cat.ecsv and <prefix>.cat.vot."""
    table = table.copy()
    table.meta["software"] = outfiles.SOFTWARE
    table.write(f"{prefix}.cat.ecsv", format="ascii.ecsv")
    plain = table.copy()
    # VOTable has no place for free metadata but its description.
    plain.meta = {"description": "; ".join(f"{key} = {value}" for key, value in table.meta.items())}
    plain.write(f"{prefix}.cat.vot", format="votable")


def observed_shapes(table: Table, cube: Cube) -> tuple[NDArray, NDArray, NDArray]:
    """FWHM major, minor [arcsec] and position angle [deg] on the sky, as seen through the median beam."""
    seen = [transform(_observed(row, cube), cube.sky_frame(row["x"], row["y"])) for row in table]
    maj, minor, pa = covariance_to_shape(np.array(seen).reshape(-1, 3))
    return maj * cube.cell, minor * cube.cell, pa


def observed_pixel_shape(row: Any, cube: Cube) -> tuple[float, float, float]:
    """FWHM major, minor [pixel] and position angle [deg] in the pixel frame, as seen through the median beam."""
    maj, minor, pa = covariance_to_shape(_observed(row, cube))
    return float(maj), float(minor), float(pa)


def _observed(row: Any, cube: Cube) -> NDArray[np.float64]:
    """(3,) covariance [pixel^2] of a row's source through the median beam."""
    maj, minor, pa = np.nan_to_num(pixel_shape(row, cube))
    return shape_to_covariance(maj, minor, pa) + cube.beam_covariance()


def crtf(table: Table, cube: Cube) -> str:
    """The sources as CASA regions: ellipses that hold 94 % of a Gaussian source (semi-axes of one FWHM
    as seen through the beam) over the channels of the line, or over all for a continuum source.

    CASA takes an ellipse's angle from the pixel axes, other readers from north. Where these differ by more than
    `TURNED` the ellipse is written as a polygon, which means the same to all.
    """
    lines = ["#CRTFv0 CASA Region Text Format version 0", f"# made by {outfiles.SOFTWARE}"]
    frame = coordinate_name(cube)
    shapes = observed_shapes(table, cube)
    for row, maj, minor, pa in zip(table, *shapes, strict=True):
        if turned(cube.sky_frame(row["x"], row["y"])):
            corners = ellipse(float(row["ra"]), float(row["dec"]), maj, minor, pa)
            shape = "poly [" + ", ".join(f"[{ra:.9f}deg, {dec:.9f}deg]" for ra, dec in corners) + "]"
        else:
            place = f"[{row['ra']:.9f}deg, {row['dec']:.9f}deg]"
            shape = f"ellipse [{place}, [{maj:.6g}arcsec, {minor:.6g}arcsec], {pa:.4f}deg]"
        parts = [shape, f"coord={frame}"]
        if cube.spectral:
            first, last = channel_range(row, cube)
            low, high = sorted((cube.freq[first], cube.freq[last]))
            parts.append(f"range=[{low / 1e9:.12f}GHz, {high / 1e9:.12f}GHz]")
            parts += [f"frame={cube.frame}"] if cube.frame else []
            parts.append("veltype=RADIO")
            if cube.restfreq:
                parts.append(f"restfreq={cube.restfreq:.3f}Hz")
        lines.append(", ".join([*parts, f'label="{row["name"]}"']))
    return "\n".join(lines) + "\n"


def turned(matrix: NDArray[np.float64]) -> bool:
    """Whether north is not up, or east not left, where this is the sky's frame (`Cube.sky_frame`)."""
    return bool(np.abs(matrix - np.eye(2)).max() > np.sin(np.deg2rad(TURNED)))


def ellipse(ra: float, dec: float, maj: float, minor: float, pa: float) -> list[tuple[float, float]]:
    """Points (ra, dec) [deg] on an ellipse with these semi-axes [arcsec] and position angle [deg], on the sky."""
    angle = np.linspace(0.0, 2.0 * np.pi, CORNERS, endpoint=False)
    along, across = maj * np.cos(angle), minor * np.sin(angle)
    centre = SkyCoord(ra, dec, unit="deg")
    points = centre.directional_offset_by(
        (np.arctan2(across, along) + np.deg2rad(pa)) * u.rad, np.hypot(along, across) * u.arcsec
    )
    return list(zip(points.ra.deg.tolist(), points.dec.deg.tolist(), strict=True))


def channel_range(row: Any, cube: Cube) -> tuple[int, int]:
    """First and last channel of a source: its line's, or the whole band."""
    first, last = int(row["chan0"]), int(row["chan1"])
    if first < 0 or last < 0:
        return 0, cube.nchan - 1
    return min(first, cube.nchan - 1), min(last, cube.nchan - 1)


def has_line(row: Any) -> bool:
    """Whether a line was measured (a source without one has no channel)."""
    return bool(np.isfinite(row["chan"]))


def coordinate_name(cube: Cube) -> str:
    """CASA's name of the sky frame: ICRS, J2000 or B1950."""
    system = cube.meta.get("radesys", "ICRS")
    return {"FK5": "J2000", "FK4": "B1950"}.get(system, system)


def write_components(name: str, table: Table, cube: Cube) -> None:
    """Write a CASA component list: a tabular spectrum for each line, a spectral index for each continuum.

    The line is sampled at the cube's channels, and is zero at the band's edges and beyond, because
    `ft` extrapolates a table.
    """
    cl, me = componentlist(), measures()
    freq = np.sort(cube.freq)
    width = abs(cube.chan_width) or 1e-3 * float(freq[0])
    middle = float(np.median(freq))
    spectral_frame = cube.frame or "LSRK"
    beam = cube.beam_on_sky()[0]
    try:
        for row in table:
            place = {
                "dir": me.direction(coordinate_name(cube), f"{float(row['ra'])!r}deg", f"{float(row['dec'])!r}deg"),
                "label": str(row["name"]),
            } | _shape(row, beam)
            if has_line(row) and row["line_flux"] > 0:
                profile = line_profile(freq, row)
                ends = [freq[0] - width, *freq, freq[-1] + width]
                _add(cl, 1.0, f"{spectral_frame} {float(row['freq'])!r}Hz", place, spectrumtype="constant")
                cl.setspectrum(
                    cl.length() - 1, type="tabular", tabularfreqs=np.array(ends),
                    tabularflux=np.array([0.0, *profile, 0.0]), tabularframe=spectral_frame,
                )  # fmt: skip
            if row["continuum"] > 0:
                index = _spectral_index(row, middle)
                kind = {"spectrumtype": "spectral index", "index": index} if index else {"spectrumtype": "constant"}
                _add(cl, float(row["continuum"]), f"{spectral_frame} {middle!r}Hz", place, **kind)
        cl.rename(name)
    finally:
        cl.done()
        me.done()


def line_profile(freq: NDArray[np.float64], row: Any) -> NDArray[np.float64]:
    """(nfreq,) flux density [Jy] of a source's Gaussian line, corrected for the primary beam."""
    fwhm = float(row["line_fwhm"]) / C_KMS * float(row["freq"])
    peak = float(row["line_flux"]) / (GAUSSIAN_LINE * float(row["line_fwhm"]))
    return peak * np.exp(-4.0 * np.log(2.0) * ((freq - float(row["freq"])) / fwhm) ** 2)


def _add(cl: Any, flux: float, freq: str, place: dict[str, Any], **spectrum: Any) -> None:
    cl.addcomponent(flux=[flux, 0.0, 0.0, 0.0], fluxunit="Jy", polarization="Stokes", freq=freq, **place, **spectrum)


def _shape(row: Any, beam: float) -> dict[str, str]:
    maj, minor, pa = (float(np.nan_to_num(row[name])) for name in ("fwhm_maj", "fwhm_min", "pa"))
    if maj < POINT * beam or "unresolved" in str(row["flags"]).split(","):
        return {"shape": "point"}
    # CASA refuses an axis of zero length.
    minor = min(max(minor, POINT * beam), maj)
    return {"shape": "gaussian", "majoraxis": f"{maj!r}arcsec", "minoraxis": f"{minor!r}arcsec",
            "positionangle": f"{pa!r}deg"}  # fmt: skip


def _spectral_index(row: Any, freq: float) -> float:
    """Slope in flux per GHz as an index at `freq` [Hz]; 0 where there is none that means anything."""
    slope = float(np.nan_to_num(row["continuum_slope"]))
    index = slope * freq / 1e9 / float(row["continuum"])
    return index if abs(index) < STEEPEST else 0.0


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
