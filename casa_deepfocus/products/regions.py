"""Sources as regions: shapes as seen through the beam, for CASA, CARTA and DS9."""

from __future__ import annotations

from typing import Any

import numpy as np
from astropy import units as u
from astropy.coordinates import SkyCoord
from astropy.table import Table
from numpy.typing import NDArray
from regions import EllipseSkyRegion, RegionMeta, Regions

from casa_deepfocus.core.catalogue import pixel_shape
from casa_deepfocus.core.cube import Cube
from casa_deepfocus.core.geometry import covariance_to_shape, shape_to_covariance
from casa_deepfocus.core.skyframe import transform
from casa_deepfocus.products.marks import SOFTWARE

TURNED = 0.5
"""Rotation of the image at a source [deg] above which regions are polygons. The tip of an ellipse of two beams is then
less than a fiftieth of a beam from its place."""

CORNERS = 36
"""Corners of a polygon in place of an ellipse, whose area is 0.5 % smaller."""


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
    lines = ["#CRTFv0 CASA Region Text Format version 0", f"# made by {SOFTWARE}"]
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
        lines.append(", ".join([*parts, f'label="{label(row)}"']))
    return "\n".join(lines) + "\n"


def ds9(table: Table, cube: Cube) -> str:
    """The ellipses of `crtf` as a region file of DS9, with the sources' labels; without the channels."""
    system = {"FK5": "fk5", "FK4": "fk4"}.get(cube.meta.get("radesys", "ICRS"), "icrs")
    found = []
    for row, maj, minor, pa in zip(table, *observed_shapes(table, cube), strict=True):
        # The width of `regions` runs along the angle, which counts from the axis of longitude.
        shape = EllipseSkyRegion(
            SkyCoord(float(row["ra"]), float(row["dec"]), unit="deg", frame=system),
            width=2.0 * maj * u.arcsec, height=2.0 * minor * u.arcsec, angle=(pa + 90.0) * u.deg,
            meta=RegionMeta({"text": label(row)}),
        )  # fmt: skip
        found.append(shape)
    text = Regions(found).serialize(format="ds9", precision=8)
    return f"{text.splitlines()[0]}\n# made by {SOFTWARE}\n" + "\n".join(text.splitlines()[1:]) + "\n"


def label(row: Any) -> str:
    """What a region says of its source: number, name, and the velocity where it is known."""
    number = f"{row['id']} " if "id" in row.colnames else ""
    known = "velocity" in row.colnames and np.isfinite(row["velocity"])
    speed = f" {row['velocity']:.1f} km/s" if known else ""
    return f"{number}{row['name']}{speed}"


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


def coordinate_name(cube: Cube) -> str:
    """CASA's name of the sky frame: ICRS, J2000 or B1950."""
    system = cube.meta.get("radesys", "ICRS")
    return {"FK5": "J2000", "FK4": "B1950"}.get(system, system)
