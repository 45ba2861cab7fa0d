"""What goes wrong with real data, as options of both backends."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from casa_deepfocus.errors import ParameterError
from sim.sky import Source


@dataclass(frozen=True)
class Defects:
    """Defects of an observation; none by default.

    Attributes
    ----------
    flagged_channels : tuple of int
        Channels without data: NaN planes.
    flagged_antennas : tuple of int
        Antennas without data, numbered as in the array's configuration file from 0.
    nan_edge : int [pixel]
        Width of a blank border of the image.
    phase_rms : float [deg], amplitude_rms : float [fraction]
        Errors of the antennas' gains that calibration has left. The sky is seen with them; the PSF is the
        one that the imager computes, without them. The noise does not change.
    gain_interval : float [s]
        How long the gains stay the same; 0 means over the whole track.
    continuum_slope : float [fraction over the band]
    ripple_amplitude : float [fraction], ripple_period : float [chan]
        A bandpass that multiplies the sky's spectrum: 1 in the middle of the band, with a slope and a sine.
    outside : Source or None
        A bright source outside of the image, in the image's pixel coordinates, seen through the primary beam
        at its place.
    seed : int, of the gains and of the ripple's phase
    """

    flagged_channels: tuple[int, ...] = ()
    flagged_antennas: tuple[int, ...] = ()
    nan_edge: int = 0
    phase_rms: float = 0.0
    amplitude_rms: float = 0.0
    gain_interval: float = 0.0
    continuum_slope: float = 0.0
    ripple_amplitude: float = 0.0
    ripple_period: float = 0.0
    outside: Source | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("nan_edge", "phase_rms", "amplitude_rms", "gain_interval", "ripple_amplitude", "ripple_period"):
            if not getattr(self, name) >= 0:
                raise ParameterError(name, getattr(self, name), "must not be negative", "0 switches it off")
        if self.ripple_amplitude and not self.ripple_period:
            raise ParameterError("ripple_period", self.ripple_period, "a ripple needs a period", "give it in channels")
        for name in ("flagged_channels", "flagged_antennas"):
            if any(number < 0 for number in getattr(self, name)):
                raise ParameterError(name, getattr(self, name), "has negative numbers", "count from 0")

    @property
    def has_gains(self) -> bool:
        """Whether the gains are wrong."""
        return self.phase_rms > 0 or self.amplitude_rms > 0

    def gains(self, nant: int, times: ArrayLike) -> NDArray[np.complex128]:
        """Gains of the antennas; a visibility V_ij is seen as g_i conj(g_j) V_ij.

        Each interval has its own random numbers, so the gains do not depend on how often a track is sampled.

        Parameters
        ----------
        nant : int
        times : (ntime,) [s], from any origin

        Returns
        -------
        (ntime, nant) complex128
        """
        seconds = np.asarray(times, dtype=float)
        seconds = seconds - seconds.min()
        # Half a microsecond: a time at the edge of an interval belongs to the next one.
        number = np.floor((seconds + 5e-7) / self.gain_interval) if self.gain_interval else np.zeros(len(seconds))
        out = np.empty((len(seconds), nant), complex)
        for interval in np.unique(number.astype(int)):
            rng = np.random.Generator(np.random.Philox(np.random.SeedSequence([self.seed, int(interval)])))
            phase, amplitude = rng.standard_normal((2, nant))
            gain = (1.0 + self.amplitude_rms * amplitude) * np.exp(1j * np.deg2rad(self.phase_rms) * phase)
            out[number == interval] = gain
        return out

    def bandpass(self, nchan: int) -> NDArray[np.float64]:
        """(nchan,) factor on the sky's spectrum."""
        chan = np.arange(nchan) - 0.5 * (nchan - 1)
        slope = 1.0 + self.continuum_slope * chan / max(nchan - 1, 1)
        if not self.ripple_amplitude:
            return slope
        phase = np.random.Generator(np.random.Philox(np.random.SeedSequence(self.seed))).uniform(0.0, 2.0 * np.pi)
        return slope * (1.0 + self.ripple_amplitude * np.sin(2.0 * np.pi * chan / self.ripple_period + phase))

    def check(self, nchan: int, npix: int) -> None:
        """Whether the defects fit a cube.

        Raises
        ------
        ParameterError
            When a flagged channel does not exist, all are flagged, the border leaves no pixel, or `outside` is not.
        """
        if any(chan >= nchan for chan in self.flagged_channels):
            raise ParameterError("flagged_channels", self.flagged_channels, f"the cube has {nchan} channels")
        if len(set(self.flagged_channels)) == nchan:
            raise ParameterError("flagged_channels", self.flagged_channels, "no channel is left")
        if 2 * self.nan_edge >= npix:
            raise ParameterError("nan_edge", self.nan_edge, f"the image has {npix} pixels, none is left")
        if self.outside is not None and all(0 <= place <= npix - 1 for place in (self.outside.x, self.outside.y)):
            place = (self.outside.x, self.outside.y)
            raise ParameterError("outside", place, f"inside the {npix} pixel image", "make it one of the sources")
