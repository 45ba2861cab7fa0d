"""Which visibilities an observation has, and the pixels and channels that it is imaged on."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.fft import next_fast_len

from casa_deepfocus.core.geometry import FWHM_PER_SIGMA
from casa_deepfocus.core.preprocessing import PIXELS_PER_BEAM
from casa_deepfocus.errors import ParameterError
from sim import arrays
from sim.psflib import GRID, MIN_ELEVATION, fit_scale

ARCSEC = np.pi / 180.0 / 3600.0

BORDER = 16
"""How far [pixel] a source may reach out of the image and still be seen exactly everywhere."""


@dataclass(frozen=True, eq=False)
class Tracks:
    """Visibilities of a track: uvw (nvis, 3) [m]; time (index of the integration), first and second antenna (nvis,)."""

    uvw: NDArray[np.float64]
    time: NDArray[np.int64]
    first: NDArray[np.int64]
    second: NDArray[np.int64]


@dataclass(frozen=True)
class Coverage:
    """A uv coverage; frozen, so that its PSFs can be remembered.

    Attributes
    ----------
    array : str, a configuration of casadata
    dec : float [deg]
    hour_angle : float [hours], of the middle of the track
    duration, integration : float [s]
    robust : float or None
        Briggs' parameter, as tclean's cube mode with perchanweightdensity; None means natural weighting.
    flagged_antennas : tuple of int, as in `Defects`
    """

    array: str = "alma.cycle9.3"
    dec: float = -35.0
    hour_angle: float = 0.0
    duration: float = 2400.0
    integration: float = 30.0
    robust: float | None = None
    flagged_antennas: tuple[int, ...] = ()

    def without(self, antennas: tuple[int, ...]) -> Coverage:
        """The same with further antennas flagged."""
        return replace(self, flagged_antennas=tuple(sorted({*self.flagged_antennas, *antennas})))

    def hour_angles(self) -> NDArray[np.float64]:
        """(ntime,) [hours], the middle of every integration."""
        return arrays.hour_angles(self.hour_angle, self.duration, self.integration)

    def tracks(self) -> Tracks:
        """The visibilities and who made them; without flagged antennas and shadowed baselines."""
        array = arrays.read_array(self.array)
        angles = self.hour_angles()
        uvw = arrays.uvw_track(array, self.dec, angles, shadowing=False)
        first, second = (np.tile(number, len(angles)) for number in np.triu_indices(array.nant, k=1))
        time = np.repeat(np.arange(len(angles)), array.nant * (array.nant - 1) // 2)
        keep = np.hypot(uvw[:, 0], uvw[:, 1]) > array.diameter
        keep &= ~(np.isin(first, self.flagged_antennas) | np.isin(second, self.flagged_antennas))
        return Tracks(uvw[keep], time[keep], first[keep], second[keep])

    def uvw(self) -> NDArray[np.float64]:
        """(nvis, 3) [m]."""
        return self.tracks().uvw

    def check(self, grid: Grid) -> None:
        """Whether this can be observed and imaged; cheap.

        Raises
        ------
        ParameterError
            When the grid has no pixels, an antenna does not exist or fewer than two are left, the source never
            rises above `MIN_ELEVATION` or sets during the track, or a pixel is larger than half the beam.
        """
        array = arrays.read_array(self.array)
        if grid.npix < 2 or grid.npix % 2:
            raise ParameterError("npix", grid.npix, "not an even number of pixels", "the PSF's centre is a pixel")
        for name in ("cell", "nchan", "freq0"):
            if not getattr(grid, name) > 0:
                raise ParameterError(name, getattr(grid, name), "not positive")
        for name in ("duration", "integration"):
            if not getattr(self, name) > 0.0:
                raise ParameterError(name, getattr(self, name), "not positive", "give it in seconds")
        if self.robust is not None and not -2.0 <= self.robust <= 2.0:
            raise ParameterError("robust", self.robust, "not between -2 and 2", "None is natural weighting")
        if any(not 0 <= number < array.nant for number in self.flagged_antennas):
            raise ParameterError(
                "flagged_antennas", self.flagged_antennas, f"{self.array} has the antennas 0 to {array.nant - 1}"
            )
        if array.nant - len(set(self.flagged_antennas)) < 2:
            raise ParameterError("flagged_antennas", self.flagged_antennas, "fewer than two antennas are left")
        height = arrays.elevation(array.latitude, self.dec, self.hour_angles())
        if height.max() < MIN_ELEVATION:
            raise ParameterError(
                "dec", self.dec, f"never above {MIN_ELEVATION:g} deg of elevation during the track "
                f"(latitude {array.latitude:.1f}, highest {height.max():.1f} deg)",
                "change dec, hour_angle or the array",
            )  # fmt: skip
        if height.min() < 0.0:
            raise ParameterError("duration", self.duration, "the source sets during the track", "make it shorter")
        uvw = self.uvw()
        if not len(uvw):
            raise ParameterError("array", self.array, "all baselines are shadowed", "choose a higher declination")
        # The curvature of the main lobe; within some 20 % of a fit.
        rms = np.sqrt(np.linalg.det(uvw[:, :2].T @ uvw[:, :2] / len(uvw))) ** 0.5
        beam = FWHM_PER_SIGMA / (2.0 * np.pi * rms) * arrays.C_MS / grid.freq().max() / ARCSEC
        if grid.cell > 0.5 * beam:
            problem = f"larger than half the beam (about {beam:.3g} arcsec)"
            raise ParameterError("cell", grid.cell, problem, "use a smaller cell")

    def beam_arcsec(self, freq: float) -> float:
        """Geometric-mean FWHM [arcsec] of the beam at a frequency [Hz]."""
        robust = float("nan") if self.robust is None else self.robust
        return PIXELS_PER_BEAM * fit_scale(self.uvw()[:, :2], robust).scale * arrays.C_MS / freq / GRID / ARCSEC

    def nant(self) -> int:
        """Number of antennas of the array, flagged ones too."""
        return arrays.read_array(self.array).nant

    def diameter(self) -> float:
        """Diameter of the antennas [m]."""
        return arrays.read_array(self.array).diameter


@dataclass(frozen=True)
class Grid:
    """Pixels and channels of a cube.

    Attributes
    ----------
    npix : int, side of the square image, even
    cell : float [arcsec]
    nchan : int
    freq0, chan_width : float [Hz], first channel and signed width
    """

    npix: int = 360
    cell: float = 0.1
    nchan: int = 128
    freq0: float = 230.0e9
    chan_width: float = 10.0e6

    @property
    def padded(self) -> int:
        """Side [pixel] of the periodic image in which PSFs are applied.

        Twice the field, a border for what reaches out of it, and a length that is transformed fast.
        """
        return 2 * next_fast_len(self.npix + BORDER)

    def freq(self) -> NDArray[np.float64]:
        """(nchan,) channel centres [Hz]."""
        return self.freq0 + self.chan_width * np.arange(self.nchan)
