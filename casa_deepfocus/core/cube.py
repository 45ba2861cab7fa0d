"""The dirty cube and what is known about it: PSF, primary beam, frequencies, beams, sky coordinates."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from casa_deepfocus.core.geometry import covariance_to_shape, shape_to_covariance
from casa_deepfocus.core.skyframe import jacobian, transform
from casa_deepfocus.errors import DataError

if TYPE_CHECKING:
    from astropy.wcs import WCS

    from casa_deepfocus.core.mosaic import Mosaic

C_KMS = 299792.458
"""Speed of light [km/s]."""


@dataclass(frozen=True)
class Cube:
    """A dirty cube with its PSF and primary beam.

    Attributes
    ----------
    data : (nchan, ny, nx) float32 [Jy/beam]
        Dirty image, not corrected for the primary beam; NaN where masked or flagged.
    psf : (nchan or 1, py, px) float32
        Peak 1 at pixel (py//2, px//2); ideally py = 2 ny, px = 2 nx.
    pb : (nchan or 1, ny, nx) float32
        Primary beam response, 1 at its centre; NaN or 0 outside.
    freq : (nchan,) float64 [Hz]
        Channel centres in the cube's own frame; rising or falling, regular.
    beams : (nchan, 3) float64 [arcsec, arcsec, deg]
        Restoring beam of each channel: FWHM major, minor, position angle in the pixel frame (`core.geometry`).
    cell : float [arcsec]
        Pixel size; pixels are square, but may be turned or mirrored on the sky (`sky_frame`).
    wcs : astropy.wcs.WCS or None
        Celestial, two axes (x, y), zero-based pixels.
    frame : str
        Spectral frame (LSRK, BARY, TOPO, ...).
    restfreq : float [Hz], 0 when unknown
    psf_is_measured : bool
        False when the PSF is only the Gaussian of the header's beam.
    spectral : bool
        False when the input has no spectral axis of its own (a continuum image).
    corrected : bool
        True when the data were divided by a primary beam that is not known, so that `pb` is 1: fluxes are those on the
        sky, and noise and sidelobes alike grow outwards.
    meta : dict
        Object, telescope, observer, date, radesys, weighting ... as text.
    mosaic : Mosaic or None
        The pointings that the image is a sum of; None for one pointing, and where they are not known.
    """

    data: NDArray[np.float32]
    psf: NDArray[np.float32]
    pb: NDArray[np.float32]
    freq: NDArray[np.float64]
    beams: NDArray[np.float64]
    cell: float
    wcs: WCS | None = None
    frame: str = "LSRK"
    restfreq: float = 0.0
    psf_is_measured: bool = True
    spectral: bool = True
    corrected: bool = False
    meta: dict[str, str] = field(default_factory=dict)
    mosaic: Mosaic | None = None

    def __post_init__(self) -> None:
        if self.data.ndim != 3:
            raise DataError(f"a cube has three axes (chan, y, x); this one has shape {self.data.shape}")
        nchan, ny, nx = self.data.shape
        if self.freq.shape != (nchan,) or self.beams.shape != (nchan, 3):
            raise DataError(
                f"a cube of {nchan} channels needs {nchan} frequencies and beams; "
                f"got {self.freq.shape} and {self.beams.shape}"
            )
        for name, array in (("psf", self.psf), ("pb", self.pb)):
            if array.ndim != 3 or array.shape[0] not in (1, nchan):
                raise DataError(f"the {name} must have shape (1 or {nchan}, y, x); it has {array.shape}")
        if self.pb.shape[1:] != (ny, nx):
            raise DataError(f"the pb covers {self.pb.shape[1:]} pixels, the image {(ny, nx)}")
        if not self.cell > 0:
            raise DataError(f"the pixel size must be positive; it is {self.cell} arcsec")

    @property
    def nchan(self) -> int:
        """Number of channels."""
        return self.data.shape[0]

    @property
    def shape(self) -> tuple[int, int]:
        """(ny, nx) of a channel."""
        return self.data.shape[1], self.data.shape[2]

    @property
    def chan_width(self) -> float:
        """Width of a channel [Hz], signed: negative when the frequency falls with the channel."""
        return float((self.freq[-1] - self.freq[0]) / (self.nchan - 1)) if self.nchan > 1 else 0.0

    def chan_width_kms(self, freq: float) -> float:
        """Width of a channel [km/s], positive, radio convention, at a rest frequency `freq` [Hz]."""
        return abs(self.chan_width) / freq * C_KMS

    def chan_to_freq(self, chan: float) -> float:
        """Frequency [Hz] at a (fractional) channel."""
        if self.nchan == 1:
            return float(self.freq[0])
        low = int(np.clip(np.floor(chan), 0, self.nchan - 2))
        return float(self.freq[low] + (self.freq[low + 1] - self.freq[low]) * (chan - low))

    def beam_covariance(self) -> NDArray[np.float64]:
        """Covariance (sxx, syy, sxy) [pixel^2] of the median beam."""
        return np.median(self.beam_covariances(), axis=0)

    def beam_covariances(self) -> NDArray[np.float64]:
        """(nchan, 3) covariances [pixel^2] of the channels' beams."""
        return shape_to_covariance(self.beams[:, 0] / self.cell, self.beams[:, 1] / self.cell, self.beams[:, 2])

    def beam_pixels(self) -> float:
        """Geometric mean FWHM of the median beam [pixel]."""
        return float(np.median(np.sqrt(self.beams[:, 0] * self.beams[:, 1])) / self.cell)

    def sky_frame(self, x: float, y: float) -> NDArray[np.float64]:
        """(2, 2) matrix from pixel offsets to offsets (west, north) on the sky, in units of `cell`, about a pixel.

        The identity, nearly, where north is up and east left; without sky coordinates exactly that.
        """
        if self.wcs is None:
            return np.eye(2)
        matrix = jacobian(self.wcs, x, y) / self.cell
        return matrix if np.isfinite(matrix).all() else np.eye(2)

    def reference_frame(self) -> NDArray[np.float64]:
        """`sky_frame` at the reference pixel, where the position angles of beams are defined."""
        if self.wcs is None:
            return np.eye(2)
        return self.sky_frame(*(float(value) - 1.0 for value in self.wcs.wcs.crpix))

    def beam_on_sky(self) -> tuple[float, float, float]:
        """FWHM major, minor [arcsec] and position angle [deg] on the sky of the median beam, at the reference pixel."""
        shape = covariance_to_shape(transform(self.beam_covariance(), self.reference_frame()))
        return float(shape[0]) * self.cell, float(shape[1]) * self.cell, float(shape[2])

    def with_data(self, data: NDArray[np.float32]) -> Cube:
        """The same cube with other pixel values."""
        return replace(self, data=data)
