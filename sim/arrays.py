"""Antenna positions, baselines and uvw coordinates of a track.

The positions come from the configuration files of CASA's data (``alma/simmos/*.cfg`` in the
casadata wheel); the mathematics need numpy only (Thompson, Moran & Swenson 2017, section 4.1).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray

from casa_deepfocus.errors import DataError, MissingDependencyError, ParameterError

C_MS = 299792458.0

SITES = {
    "ALMA": (-23.029211, -67.754743),
    "ACA": (-23.029211, -67.754743),
    "VLA": (34.078749, -107.617728),
    "EVLA": (34.078749, -107.617728),
    "SMA": (19.824205, -155.477554),
    "IRAM_PDB": (44.633690, 5.907917),
    "ATCA": (-30.312906, 149.550138),
}
"""Geodetic latitude and longitude of the observatories [deg]."""


@dataclass(frozen=True)
class Array:
    """An interferometer.

    Attributes
    ----------
    name : str
    positions : (nant, 3) float64 [m]
        Equatorial frame of the site: X towards hour angle 0 and declination 0, Y east, Z north pole.
    diameter : float [m], of the antennas (their median)
    latitude : float [deg]
    """

    name: str
    positions: NDArray[np.float64]
    diameter: float
    latitude: float

    @property
    def nant(self) -> int:
        """Number of antennas."""
        return self.positions.shape[0]


def simmos_folder() -> Path:
    """Folder of the antenna configuration files inside the casadata wheel.

    Raises
    ------
    MissingDependencyError
        When casadata is not installed.
    """
    try:
        from casadata import datapath
    except ImportError as error:
        raise MissingDependencyError(
            "antenna configurations come from the casadata package; install it with: pip install casadata"
        ) from error
    return Path(datapath) / "alma" / "simmos"


def read_array(name: str) -> Array:
    """An array from one of CASA's configuration files.

    Parameters
    ----------
    name : str
        File name without ``.cfg``, as simobserve's `antennalist`: ``alma.cycle9.3``, ``aca.cycle9``, ``vla.c``.

    Raises
    ------
    ParameterError
        When there is no such file.
    DataError
        When its coordinate system or observatory is not known here.
    """
    path = simmos_folder() / f"{name}.cfg"
    if not path.is_file():
        raise ParameterError("array", name, "no such configuration", f"choose a file of {path.parent}, without .cfg")
    header: dict[str, str] = {}
    rows: list[list[float]] = []
    for line in path.read_text().splitlines():
        if line.startswith("#"):
            key, _, value = line.lstrip("# ").partition("=")
            header[key.strip().lower()] = value.split("(")[0].strip().upper()
        elif line.strip():
            rows.append([float(word) for word in line.split()[:4]])
    site, frame = header.get("observatory", ""), header.get("coordsys", "")
    if site not in SITES:
        raise DataError(f"{path.name}: the site of observatory {site!r} is not known; known: {', '.join(SITES)}")
    latitude, longitude = SITES[site]
    table = np.array(rows)
    if frame == "LOC":
        positions = enu_to_equatorial(table[:, :3], latitude)
    elif frame == "XYZ":
        positions = itrf_to_equatorial(table[:, :3], longitude)
    else:
        raise DataError(f"{path.name}: coordinate system {frame!r} is not supported; LOC and XYZ are")
    return Array(name, positions, float(np.median(table[:, 3])), latitude)


def enu_to_equatorial(enu: ArrayLike, latitude: float) -> NDArray[np.float64]:
    """Local east, north, up [m] to the equatorial frame of the site [m]; (..., 3) both."""
    east, north, up = np.moveaxis(np.asarray(enu, dtype=float), -1, 0)
    sin, cos = np.sin(np.deg2rad(latitude)), np.cos(np.deg2rad(latitude))
    return np.stack([cos * up - sin * north, east, sin * up + cos * north], axis=-1)


def itrf_to_equatorial(xyz: ArrayLike, longitude: float) -> NDArray[np.float64]:
    """Geocentric ITRF [m] to the equatorial frame of the site [m]; (..., 3) both."""
    x, y, z = np.moveaxis(np.asarray(xyz, dtype=float), -1, 0)
    sin, cos = np.sin(np.deg2rad(longitude)), np.cos(np.deg2rad(longitude))
    return np.stack([cos * x + sin * y, cos * y - sin * x, z], axis=-1)


def elevation(latitude: float, dec: float, hour_angle: ArrayLike) -> NDArray[np.float64]:
    """Elevation [deg] of a declination [deg] at hour angles [hours]."""
    lat, delta = np.deg2rad(latitude), np.deg2rad(dec)
    angle = np.asarray(hour_angle, dtype=float) * np.pi / 12.0
    return np.rad2deg(np.arcsin(np.sin(lat) * np.sin(delta) + np.cos(lat) * np.cos(delta) * np.cos(angle)))


def baselines(array: Array) -> NDArray[np.float64]:
    """(nant (nant - 1) / 2, 3) baselines [m], second antenna minus first, in the equatorial frame."""
    first, second = np.triu_indices(array.nant, k=1)
    return array.positions[second] - array.positions[first]


def uvw_track(array: Array, dec: float, hour_angles: ArrayLike, *, shadowing: bool = True) -> NDArray[np.float64]:
    """The uvw coordinates of all baselines over a track.

    Parameters
    ----------
    array : Array
    dec : float [deg]
    hour_angles : (ntime,) [hours], the middle of every integration
    shadowing : bool
        Leave out baselines that look shorter than an antenna's diameter.

    Returns
    -------
    (nvis, 3) float64 [m] : u towards east, v towards north, w towards the source; integration by integration
    """
    x, y, z = baselines(array).T[:, None, :]
    angle = (np.atleast_1d(np.asarray(hour_angles, dtype=float)) * np.pi / 12.0)[:, None]
    sin_h, cos_h = np.sin(angle), np.cos(angle)
    sin_d, cos_d = np.sin(np.deg2rad(dec)), np.cos(np.deg2rad(dec))
    u = sin_h * x + cos_h * y
    v = sin_d * (sin_h * y - cos_h * x) + cos_d * z
    w = cos_d * (cos_h * x - sin_h * y) + sin_d * z
    uvw = np.stack([u, v, w], axis=-1).reshape(-1, 3)
    if shadowing:
        uvw = uvw[np.hypot(uvw[:, 0], uvw[:, 1]) > array.diameter]
    return uvw


def hour_angles(centre: float, duration: float, integration: float) -> NDArray[np.float64]:
    """Hour angles [hours] of the integrations of a track.

    Parameters
    ----------
    centre : float [hours], the middle of the track
    duration, integration : float [s]
    """
    number = max(1, round(duration / integration))
    return centre + (np.arange(number) - 0.5 * (number - 1)) * integration / 3600.0
