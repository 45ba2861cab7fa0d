"""The rows of the catalogues of all cubes of a target, one below the other, in one sky frame."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from astropy import units as u
from astropy.coordinates import SkyCoord
from astropy.table import Table
from numpy.typing import NDArray

from casa_deepfocus.core.cube import C_KMS
from casa_deepfocus.core.geometry import FWHM_PER_SIGMA
from casa_deepfocus.core.identity import Rows

COMMON_FRAME = "ICRS"
"""Of cubes in several frames, and of those that name none."""

SKY_FRAMES = {"ICRS": "icrs", "FK5": "fk5", "FK4": "fk4"}
"""RADESYS in headers, and astropy's names."""

FAINTEST = 3.0
"""SNR of a row that has none, for the error of its position."""

VALUES = (
    "ra", "ra_err", "dec", "dec_err", "chan", "chan_err", "freq", "freq_err", "fwhm_maj", "fwhm_maj_err", "fwhm_min",
    "fwhm_min_err", "pa", "pa_err", "line_fwhm", "line_fwhm_err", "peak", "peak_err", "line_flux", "line_flux_err",
    "line_flux_jyhz", "continuum", "continuum_err", "snr", "snr_line", "pb", "reliability",
)  # fmt: skip
"""Columns that are taken over as numbers."""


@dataclass(frozen=True)
class CubeCatalogue:
    """The catalogue of a cube, or of a continuum image.

    Attributes
    ----------
    label : str
        The window's name, unique within the target; without commas and colons.
    table : Table
        As made by `catalogue.build`.
    made_of : tuple of str
        Labels of the cubes whose data this image holds as well: of a continuum image, its windows.
    freq : float [Hz]
        Where its continua are given, if that is not the middle of the band; 0 if it is.
    """

    label: str
    table: Table
    made_of: tuple[str, ...] = ()
    freq: float = 0.0

    @property
    def beam(self) -> tuple[float, float, float]:
        """FWHM major, minor [arcsec] and position angle [deg]."""
        maj, minor, pa = (float(self.table.meta[f"beam_{name}"]) for name in ("maj", "min", "pa"))
        return maj, minor, pa

    @property
    def band(self) -> tuple[float, float]:
        """Lowest and highest frequency [Hz] of the channels' centres; NaN where not known."""
        first = float(self.table.meta["freq0"])
        last = first + float(self.table.meta["chan_width"]) * (int(self.table.meta["nchan"]) - 1)
        return min(first, last), max(first, last)

    @property
    def middle(self) -> float:
        """Where its continua are given [Hz]."""
        return self.freq or 0.5 * sum(self.band)

    @property
    def radesys(self) -> str:
        """Its sky frame."""
        return str(self.table.meta.get("radesys") or COMMON_FRAME).upper()


@dataclass(frozen=True)
class Stack:
    """All rows of a target.

    Attributes
    ----------
    cubes : tuple of CubeCatalogue
        The finest resolution first.
    radesys : str
        The frame of all positions.
    values : dict of (n,) float
        The columns `VALUES`, in the units of the catalogues; ra, dec and pa in the common frame.
    name : (n,) str
    number : (n,) int
        Row in the cube's own catalogue.
    box : (n, 2) int
        First and last channel of its box.
    flags : tuple of frozenset of str
    shape : (n, 3, 3) float [arcsec^2]
        Intrinsic FWHM, squared, in every direction; 0 where not known.
    rows : Rows
        What tells them apart.
    """

    cubes: tuple[CubeCatalogue, ...]
    radesys: str
    values: dict[str, NDArray[np.float64]]
    name: NDArray[np.str_]
    number: NDArray[np.int64]
    box: NDArray[np.int64]
    flags: tuple[frozenset[str], ...]
    shape: NDArray[np.float64]
    rows: Rows

    def __len__(self) -> int:
        return len(self.number)

    @property
    def cube(self) -> NDArray[np.int64]:
        """(n,) place of each row's cube in `cubes`."""
        return self.rows.cube

    def flagged(self, flag: str) -> NDArray[np.bool_]:
        """(n,) bool: rows with this flag."""
        return np.array([flag in flags for flags in self.flags], dtype=bool)

    @classmethod
    def of(cls, cubes: Sequence[CubeCatalogue]) -> Stack:
        """The rows of catalogues."""
        cubes = tuple(sorted(cubes, key=lambda cube: (cube.beam[0] * cube.beam[1], cube.label)))
        sizes = [len(cube.table) for cube in cubes]
        values = {name: _joined([_floats(cube.table, name) for cube in cubes]) for name in VALUES}
        rank = np.repeat(np.arange(len(cubes)), sizes)
        frames = sorted({cube.radesys for cube in cubes}) or [COMMON_FRAME]
        radesys = frames[0] if len(frames) == 1 else COMMON_FRAME
        if len(frames) > 1:
            for number, cube in enumerate(cubes):
                _turn(values, rank == number, cube.radesys)
        place, axes = _directions(values["ra"], values["dec"])
        maj, minor, pa = (np.nan_to_num(values[name]) for name in ("fwhm_maj", "fwhm_min", "pa"))
        shape = _shape(maj, minor, pa, axes)
        beams = np.array([cube.beam for cube in cubes], dtype=float).reshape(-1, 3)[rank]
        observed = shape + _shape(beams[:, 0], beams[:, 1], beams[:, 2], axes)
        width = np.array([abs(float(cube.table.meta["chan_width"])) for cube in cubes], dtype=float)[rank]
        half = 0.5 * np.fmax(values["line_fwhm"] / C_KMS * values["freq"], width)
        has_line = np.isfinite(values["chan"])
        low, high = (np.where(has_line, values["freq"] + side * half, np.nan) for side in (-1.0, 1.0))
        rows = Rows(
            rank, place, axes, _errors(values, axes, observed), observed, values["snr"], low, high,
            values["line_flux"] < 0, np.isfinite(values["continuum"]),
        )  # fmt: skip
        texts = [text for cube in cubes for text in _texts(cube.table, "flags")]
        return cls(
            cubes, radesys, values,
            np.array([text for cube in cubes for text in _texts(cube.table, "name")], dtype=str),
            _joined([np.arange(size) for size in sizes]).astype(np.int64),
            np.stack([_joined([_ints(c.table, name) for c in cubes]) for name in ("chan0", "chan1")], -1).astype(int),
            tuple(frozenset(filter(None, text.split(","))) for text in texts), shape, rows,
        )  # fmt: skip


def _floats(table: Table, name: str) -> NDArray[np.float64]:
    # Tables read from a file have masked columns.
    return np.ma.filled(np.ma.asarray(table[name], dtype=float), np.nan)


def _ints(table: Table, name: str) -> NDArray[np.int64]:
    return np.ma.filled(np.ma.asarray(table[name]), -1).astype(np.int64)


def _texts(table: Table, name: str) -> list[str]:
    return [str(text) for text in np.ma.filled(np.ma.asarray(table[name]).astype(str), "")]


def _joined(parts: list[NDArray]) -> NDArray:
    return np.concatenate([*parts, np.empty(0)])


def _directions(ra: NDArray, dec: NDArray) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """(n, 3) unit vectors of positions [deg], and (n, 2, 3) those to the east and the north there."""
    lon, lat = np.deg2rad(ra), np.deg2rad(dec)
    zero = np.zeros_like(lon)
    place = np.stack([np.cos(lat) * np.cos(lon), np.cos(lat) * np.sin(lon), np.sin(lat)], -1)
    east = np.stack([-np.sin(lon), np.cos(lon), zero], -1)
    north = np.stack([-np.sin(lat) * np.cos(lon), -np.sin(lat) * np.sin(lon), np.cos(lat)], -1)
    return place, np.stack([east, north], -2)


def _shape(maj: NDArray, minor: NDArray, pa: NDArray, axes: NDArray) -> NDArray[np.float64]:
    """(n, 3, 3) squares of FWHM in every direction, of ellipses in the planes of `axes`."""
    sin, cos = np.sin(np.deg2rad(pa)), np.cos(np.deg2rad(pa))
    along = sin[:, None] * axes[:, 0] + cos[:, None] * axes[:, 1]
    across = cos[:, None] * axes[:, 0] - sin[:, None] * axes[:, 1]
    return sum(
        (size[:, None, None] ** 2 * way[:, :, None] * way[:, None, :] for size, way in ((maj, along), (minor, across))),
        np.zeros((len(pa), 3, 3)),
    )


def _errors(values: dict[str, NDArray], axes: NDArray, observed: NDArray) -> NDArray[np.float64]:
    """(n, 3, 3) error matrices of places [arcsec^2]; where there are no errors, those of a Gaussian in noise."""
    errors = [values["ra_err"], values["dec_err"]]
    matrix = sum(
        (error[:, None, None] ** 2 * way[:, :, None] * way[:, None, :]
         for error, way in zip(errors, axes.transpose(1, 0, 2), strict=True)),
        np.zeros((len(axes), 3, 3)),
    )  # fmt: skip
    snr = np.where(values["snr"] > 0, values["snr"], FAINTEST)
    expected = observed / (FWHM_PER_SIGMA * snr[:, None, None]) ** 2
    known = (errors[0] > 0) & (errors[1] > 0)
    return np.where(known[:, None, None], matrix, expected)


def _turn(values: dict[str, NDArray], rows: NDArray[np.bool_], radesys: str) -> None:
    """Positions and position angles of some rows into the common frame, in place."""
    known = rows & np.isfinite(values["ra"]) & np.isfinite(values["dec"])
    if radesys == COMMON_FRAME or not known.any():
        return
    there = SkyCoord(values["ra"][known], values["dec"][known], unit="deg", frame=SKY_FRAMES.get(radesys, "icrs"))
    north = there.directional_offset_by(0.0 * u.deg, 1.0 * u.arcsec).icrs
    here = there.icrs
    values["ra"][known], values["dec"][known] = here.ra.deg, here.dec.deg
    values["pa"][known] = (values["pa"][known] + here.position_angle(north).deg) % 180.0
