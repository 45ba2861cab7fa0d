"""What an observation does to the sky: uv coverage, exact PSF and primary beam at nodes in frequency.

The PSF and the primary beam change smoothly over a band, so they are computed at a few Chebyshev
nodes and interpolated over frequency. The PSF is a direct sum over the visibilities, natural
weighting (Kaiser-Bessel gridding at twofold oversampling, good to 1e-6), known to twice the field.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import fft
from scipy.special import i0, j1

from casa_deepfocus.core.geometry import FWHM_PER_SIGMA
from casa_deepfocus.core.preprocessing import PIXELS_PER_BEAM
from casa_deepfocus.errors import ParameterError
from sim import arrays
from sim.psflib import GRID, MIN_ELEVATION, fit_beam, fit_scale
from sim.sky import Source

ARCSEC = np.pi / 180.0 / 3600.0
KERNEL_WIDTH = 8
KERNEL_BETA = 2.30 * KERNEL_WIDTH
DISHES = {12.0: (10.7, 0.75), 7.0: (6.25, 0.75), 25.0: (24.5, 2.0)}
"""Effective diameter and blockage [m] of CASA's Airy primary beams, by the antennas' diameter."""


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
            When an antenna does not exist or fewer than two are left, the source never rises above
            `MIN_ELEVATION` or sets during the track, or a pixel is larger than half the beam.
        """
        array = arrays.read_array(self.array)
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
        """Geometric-mean FWHM [arcsec] of the natural beam at a frequency [Hz]."""
        return PIXELS_PER_BEAM * fit_scale(self.uvw()[:, :2]).scale * arrays.C_MS / freq / GRID / ARCSEC

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

    def freq(self) -> NDArray[np.float64]:
        """(nchan,) channel centres [Hz]."""
        return self.freq0 + self.chan_width * np.arange(self.nchan)


@dataclass(frozen=True)
class Response:
    """What an observation does to the sky, at the nodes in frequency.

    Attributes
    ----------
    psf : (nnode, 2 npix, 2 npix) float32, peak 1 at (npix, npix)
    transfer : (nnode, 2 npix, npix + 1) float32, transform of the PSF about its peak, real
    pb : (nnode, npix, npix) float32
    beam : (nnode, 3) float64, covariances [pixel^2] of the fitted beams
    interpolation : (nchan, nnode) float64, of the nodes onto the channels
    """

    psf: NDArray[np.float32]
    transfer: NDArray[np.float32]
    pb: NDArray[np.float32]
    beam: NDArray[np.float64]
    interpolation: NDArray[np.float64]

    def middle_beam(self) -> NDArray[np.float64]:
        """(3,) covariance [pixel^2] of the beam in the middle of the band."""
        return self.interpolation[len(self.interpolation) // 2] @ self.beam

    def overlap(self, source: Source, *, squared: bool = True) -> NDArray[np.float64]:
        """(nnode,) G . (PSF (x) G) of a source's unit-flux Gaussian G; the peak of PSF (x) G when not `squared`."""
        size = self.transfer.shape[1]
        ky, kx = fft.fftfreq(size)[:, None], fft.rfftfreq(size)[None, :]
        shape = gaussian_transform(source.covariance(), kx, ky) ** (2 if squared else 1)
        shape[:, 1:-1] *= 2.0
        return np.einsum("nyx,yx->n", self.transfer, shape, optimize=True) / (size * size)

    def channels(self, nodes: NDArray) -> NDArray:
        """Values at the nodes (nnode, ...) interpolated onto the channels (nchan, ...)."""
        return np.tensordot(self.interpolation.astype(nodes.dtype), nodes, axes=1)


def direct_image(u: ArrayLike, v: ArrayLike, npix: int, cell: float) -> NDArray[np.float64]:
    """Mean over the visibilities of cos 2 pi (u l + v m): the PSF of natural weighting.

    Parameters
    ----------
    u, v : (nvis,) [wavelengths], u towards east
    npix : int, even
    cell : float [arcsec]

    Returns
    -------
    (npix, npix) float64, peak 1 at (npix // 2, npix // 2); x runs west
    """
    size = fft.next_fast_len(2 * npix, real=True)
    step = cell * ARCSEC * size
    kx, ky = -np.asarray(u, dtype=float) * step, np.asarray(v, dtype=float) * step
    if max(np.abs(kx).max(), np.abs(ky).max()) > size // 2 - KERNEL_WIDTH:
        raise ParameterError("cell", cell, "too coarse for the longest baseline", "use a smaller cell")
    grid = np.zeros(size * size)
    base_x, base_y = np.floor(kx).astype(np.int64), np.floor(ky).astype(np.int64)
    for shift_y in range(1 - KERNEL_WIDTH // 2, KERNEL_WIDTH // 2 + 1):
        value_y = _kernel(base_y + shift_y - ky)
        row = ((base_y + shift_y) % size) * size
        for shift_x in range(1 - KERNEL_WIDTH // 2, KERNEL_WIDTH // 2 + 1):
            value = value_y * _kernel(base_x + shift_x - kx)
            grid += np.bincount(row + (base_x + shift_x) % size, weights=value, minlength=grid.size)
    # The real part of the transform is that of the even part of the grid.
    image = fft.fft2(grid.reshape(size, size)).real
    keep = np.arange(-(npix // 2), npix - npix // 2)
    taper = _kernel_transform(keep / size)
    image = image[np.ix_(keep % size, keep % size)] / (taper[:, None] * taper[None, :])
    return image / image[npix // 2, npix // 2]


def _kernel(distance: NDArray) -> NDArray:
    """Kaiser-Bessel gridding kernel at a distance in cells."""
    inside = np.clip(1.0 - (2.0 * distance / KERNEL_WIDTH) ** 2, 0.0, None)
    return i0(KERNEL_BETA * np.sqrt(inside))


def _kernel_transform(position: NDArray) -> NDArray:
    """Transform of `_kernel` at a position in units of the grid's image size."""
    argument = np.sqrt(KERNEL_BETA**2 - (np.pi * KERNEL_WIDTH * position) ** 2)
    return np.sinh(argument) / argument


def primary_beam(
    npix: int, cell: float, freq: float, diameter: float, *, centre: float | None = None
) -> NDArray[np.float64]:
    """Airy pattern of a blocked aperture, as CASA's: 10.7 m with 0.75 m blocked for a 12 m dish.

    Parameters
    ----------
    npix, cell : int, float [arcsec]
    freq : float [Hz]
    diameter : float [m], of the dish; `DISHES` gives the effective one
    centre : float [pixel]; npix // 2 by default

    Returns
    -------
    (npix, npix) float64, 1 in the middle
    """
    axis = (np.arange(npix) - (npix // 2 if centre is None else centre)) * cell * ARCSEC
    return airy(np.hypot(axis[:, None], axis[None, :]), freq, diameter)


def airy(radius: ArrayLike, freq: float, diameter: float) -> NDArray[np.float64]:
    """Power pattern at a radius [rad], see `primary_beam`."""
    effective, blockage = DISHES.get(round(diameter, 1), (diameter, 0.0625 * diameter))
    argument = np.maximum(np.pi * effective * freq / arrays.C_MS * np.asarray(radius, dtype=float), 1e-9)
    # As CASA computes it, with the blockage's pattern at D/b instead of b/D times the argument. That lifts
    # the beam by 1 % off its centre; simobserve and tclean share it, so a truth must have it too.
    ratio = effective / blockage
    wide = argument * ratio
    voltage = (ratio**2 * 2.0 * j1(argument) / argument - 2.0 * j1(wide) / wide) / (ratio**2 - 1.0)
    return voltage**2


def _nodes(uvw: NDArray, grid: Grid) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Chebyshev nodes in frequency (nnode,) [Hz] and the interpolation matrix (nchan, nnode)."""
    freq = grid.freq()
    middle, half = 0.5 * (freq[0] + freq[-1]), 0.5 * abs(freq[-1] - freq[0])
    if half == 0:
        return freq[:1], np.ones((len(freq), 1))
    # Largest change of a fringe's phase over half the band, at the corner of the PSF.
    reach = np.sqrt(2.0) * grid.npix * grid.cell * ARCSEC
    phase = 2.0 * np.pi * np.hypot(uvw[:, 0], uvw[:, 1]).max() * half / arrays.C_MS * reach
    number = int(np.ceil(phase)) + 5
    points = np.cos(np.pi * (np.arange(number) + 0.5) / number)
    position = (freq - middle) / half
    matrix = np.ones((len(freq), number))
    for i in range(number):
        for j in range(number):
            if i != j:
                matrix[:, i] *= (position - points[j]) / (points[i] - points[j])
    return middle + half * points, matrix


def compute_response(uvw: NDArray, diameter: float, grid: Grid) -> Response:
    """PSFs, primary beams and beams of any visibilities.

    Parameters
    ----------
    uvw : (nvis, 3) [m]
    diameter : float [m], of the antennas
    grid : Grid
    """
    freqs, matrix = _nodes(uvw, grid)
    size = 2 * grid.npix
    psf = np.empty((len(freqs), size, size), np.float32)
    pb = np.empty((len(freqs), grid.npix, grid.npix), np.float32)
    beam = np.empty((len(freqs), 3))
    for index, freq in enumerate(freqs):
        scale = freq / arrays.C_MS
        psf[index] = direct_image(uvw[:, 0] * scale, uvw[:, 1] * scale, size, grid.cell)
        pb[index] = primary_beam(grid.npix, grid.cell, freq, diameter)
        beam[index] = fit_beam(psf[index])
    transfer = fft.rfft2(fft.ifftshift(psf, axes=(1, 2))).real
    return Response(psf, transfer.astype(np.float32), pb, beam, matrix)


@lru_cache(maxsize=2)
def response(coverage: Coverage, grid: Grid) -> Response:
    """`compute_response` of a coverage, remembered for the last two asked for."""
    return compute_response(coverage.uvw(), coverage.diameter(), grid)


def gaussian_transform(covariance: ArrayLike, kx: NDArray, ky: NDArray) -> NDArray[np.float64]:
    """Transform of a Gaussian of unit flux at spatial frequencies kx, ky [1/pixel]."""
    sxx, syy, sxy = np.asarray(covariance, dtype=float)
    return np.exp(-2.0 * np.pi**2 * (sxx * kx * kx + syy * ky * ky + 2.0 * sxy * kx * ky))


def pb_at(pb: NDArray, source: Source) -> NDArray[np.float64]:
    """(n,) response of primary beams (n, npix, npix) at a source, bilinear."""
    npix = pb.shape[-1]
    x0, y0 = int(np.clip(source.x, 0, npix - 2)), int(np.clip(source.y, 0, npix - 2))
    fx, fy = np.clip(source.x - x0, 0, 1), np.clip(source.y - y0, 0, 1)
    low = pb[:, y0, x0] * (1 - fx) + pb[:, y0, x0 + 1] * fx
    high = pb[:, y0 + 1, x0] * (1 - fx) + pb[:, y0 + 1, x0 + 1] * fx
    return (low * (1 - fy) + high * fy).astype(float)


def matched_filter_snr(
    source: Source, resp: Response, freq: ArrayLike, sigma: ArrayLike
) -> tuple[float, float]:
    """SNR of line and continuum for the ideal linear filter that knows the shape.

    snr^2 = sum_c (PB_c s_c)^2 / sigma_c^2  G . (PSF_c (x) G), with G the Gaussian of unit flux: exact for
    noise whose power spectrum is the PSF's and a primary beam that is constant over the source.

    Parameters
    ----------
    source : Source
    resp : Response
    freq : (nchan,) [Hz]
    sigma : float or (nchan,) [Jy/beam]

    Returns
    -------
    snr_line, snr_continuum : float
    """
    nu = np.asarray(freq, dtype=float)
    gain = resp.channels(pb_at(resp.pb, source)) ** 2 * resp.channels(resp.overlap(source)) / np.square(sigma)
    line, continuum = source.line_spectrum(len(nu)), source.continuum_spectrum(nu)
    return float(np.sqrt((gain * line**2).sum())), float(np.sqrt((gain * continuum**2).sum()))
