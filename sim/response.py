"""What an observation does to the sky: exact PSF and primary beam at nodes in frequency, noise in the uv plane.

At natural weighting the PSF changes smoothly over a band: it is computed at a few Chebyshev nodes and
interpolated over frequency. Briggs weights jump from channel to channel, as visibilities move into
other cells of the uv plane: then every channel is a node. The PSF is the sum over the visibilities
(a non-uniform FFT, 1e-8), known to twice the field.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import ducc0
import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import fft

from casa_deepfocus.core.psf import fit_beam
from casa_deepfocus.errors import ParameterError
from sim import arrays
from sim.beams import primary_beam
from sim.coverage import ARCSEC, Coverage, Grid
from sim.sky import Source
from sim.weighting import Cells, UvNoise, briggs, find_cells, uv_noise

ACCURACY = 1e-8
"""Of the non-uniform FFT."""

BEAM_BOX = 128
"""Half the side [pixel] of the part of the PSF in which its main lobe is fitted."""

LOST = 0.05
"""Share of the visibilities that may lie outside of the image's uv plane; an imager drops them."""


@dataclass(frozen=True, eq=False)
class Response:
    """What an observation does to the sky, at the nodes in frequency.

    Attributes
    ----------
    psf : (nnode, 2 npix, 2 npix) float32, peak 1 at (npix, npix)
    transfer : (nnode, size, size // 2 + 1) float32, transform about its peak of the PSF out to `Grid.padded`, real
    pb : (nnode, npix, npix) float32
    beam : (nnode, 3) float64, covariances [pixel^2] of the fitted beams
    interpolation : (nchan, nnode) float64, of the nodes onto the channels
    noise : UvNoise, of every channel
    information : (nplane, size, size // 2 + 1) float32, transfer squared over the noise's power, for noise of rms 1
        in the image. Weights can be undone, so it is the transfer at natural weighting, times the square of
        the noise over that at natural weighting.
    information_mix : (nchan, nplane) float64, its interpolation onto the channels
    band : float [cycles per pixel], highest spatial frequency along x or y of a visibility
    """

    psf: NDArray[np.float32]
    transfer: NDArray[np.float32]
    pb: NDArray[np.float32]
    beam: NDArray[np.float64]
    interpolation: NDArray[np.float64]
    noise: UvNoise
    information: NDArray[np.float32]
    information_mix: NDArray[np.float64]
    band: float

    @property
    def per_channel(self) -> bool:
        """Whether every channel is a node."""
        return self.information is not self.transfer

    def middle_beam(self) -> NDArray[np.float64]:
        """(3,) covariance [pixel^2] of the beam in the middle of the band."""
        return self.interpolation[len(self.interpolation) // 2] @ self.beam

    def overlap(self, source: Source, *, squared: bool = True) -> NDArray[np.float64]:
        """(nnode,) G . (PSF (x) G) of a source's unit-flux Gaussian G, for natural weighting.

        With other weights the same of the PSF that the ideal linear filter makes, in units of the image's noise.
        When not `squared`: the peak of PSF (x) G.
        """
        size = self.transfer.shape[1]
        ky, kx = fft.fftfreq(size)[:, None], fft.rfftfreq(size)[None, :]
        shape = gaussian_transform(source.covariance(), kx, ky) ** (2 if squared else 1)
        shape[:, 1:-1] *= 2.0
        planes = self.information if squared else self.transfer
        values = np.einsum("nyx,yx->n", planes, shape, optimize=True) / (size * size)
        return self.information_mix @ values if squared and self.per_channel else values

    def channels(self, nodes: NDArray) -> NDArray:
        """Values at the nodes (nnode, ...) interpolated onto the channels (nchan, ...).

        The same array when every channel is a node: not to be written into.
        """
        if self.per_channel:
            return nodes
        return np.tensordot(self.interpolation.astype(nodes.dtype), nodes, axes=1)


def direct_image(
    u: ArrayLike, v: ArrayLike, npix: int, cell: float, weights: ArrayLike | None = None
) -> NDArray[np.float64]:
    """Real part of the sum over the visibilities of w exp 2 pi i (u l + v m): the PSF when all w are real.

    Parameters
    ----------
    u, v : (nvis,) [wavelengths], u towards east
    npix : int, even
    cell : float [arcsec]
    weights : (nvis,) real or complex; 1 / nvis by default

    Returns
    -------
    (npix, npix) float64, the phase centre at (npix // 2, npix // 2); x runs west
    """
    u, v = np.asarray(u, dtype=float), np.asarray(v, dtype=float)
    value = np.full(len(u), 1.0 / len(u)) if weights is None else np.asarray(weights)
    phase = 2.0 * np.pi * cell * ARCSEC * np.stack([v, -u], axis=1)
    image = np.empty((npix, npix), complex)
    ducc0.nufft.nu2u(
        points=value.astype(complex), coord=phase, forward=False, epsilon=ACCURACY, nthreads=1, out=image
    )
    return image.real


@dataclass(frozen=True, eq=False)
class Sampling:
    """The visibilities that an image holds, and their weights.

    Attributes
    ----------
    uv : (nvis, 2) [m]
    keep : (n,) bool, which of the visibilities given these are
    grid : Grid
    robust : float or None
    """

    uv: NDArray[np.float64]
    keep: NDArray[np.bool_]
    grid: Grid
    robust: float | None

    def cells(self, freq: float, size: int) -> Cells:
        """The cells of the uv plane of an image of `size` pixels."""
        step = size * self.grid.cell * ARCSEC * freq / arrays.C_MS
        return find_cells(-self.uv[:, 0] * step, self.uv[:, 1] * step)

    def weights(self, freq: float) -> NDArray[np.float64]:
        """(nvis,) of sum 1. The density is counted in the cells of twice the field, which is what tclean images."""
        if self.robust is None:
            return np.full(len(self.uv), 1.0 / len(self.uv))
        weight = briggs(self.cells(freq, 2 * self.grid.npix), self.robust)
        return weight / weight.sum()

    def band(self) -> float:
        """Highest spatial frequency [cycles per pixel] along x or y."""
        return float(np.abs(self.uv).max() * self.grid.freq().max() / arrays.C_MS * self.grid.cell * ARCSEC)

    def wavelengths(self, freq: float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """(nvis,) u, v at a frequency [Hz]."""
        return self.uv[:, 0] * freq / arrays.C_MS, self.uv[:, 1] * freq / arrays.C_MS

    def image(self, freq: float, npix: int, weights: NDArray) -> NDArray[np.float64]:
        """The image (npix, npix) at a frequency [Hz] of visibilities times `weights` (nvis,)."""
        return direct_image(*self.wavelengths(freq), npix, self.grid.cell, weights)

    def nodes(self, reach: float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Frequencies of the nodes and their interpolation (nchan, nnode), for offsets up to `reach` [rad]."""
        freq = self.grid.freq()
        if self.robust is not None:
            return freq, np.eye(len(freq))
        # Largest change of a fringe's phase over half the band.
        half = 0.5 * abs(freq[-1] - freq[0])
        phase = 2.0 * np.pi * np.hypot(self.uv[:, 0], self.uv[:, 1]).max() * half / arrays.C_MS * reach
        return chebyshev(freq, int(np.ceil(phase)) + 5)


def sampling(uvw: NDArray, grid: Grid, robust: float | None = None) -> Sampling:
    """The visibilities (nvis, 3) [m] that fall onto the uv plane of twice the field, in all channels.

    Raises
    ------
    ParameterError
        When more than `LOST` of them do not: the pixels are too large.
    """
    longest = arrays.C_MS / grid.freq().max() / (2.0 * grid.cell * ARCSEC) * (1.0 - 1.0 / grid.npix)
    keep = np.abs(uvw[:, :2]).max(axis=1) < longest
    if keep.mean() < 1.0 - LOST:
        problem = f"too coarse: {1 - keep.mean():.0%} of the visibilities do not fit into the image's uv plane"
        raise ParameterError("cell", grid.cell, problem, "use a smaller cell")
    return Sampling(np.ascontiguousarray(uvw[keep, :2]), keep, grid, robust)


def chebyshev(freq: NDArray[np.float64], number: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Chebyshev nodes (number,) over a band and the interpolation (nchan, number) of values there onto it."""
    middle, half = 0.5 * (freq[0] + freq[-1]), 0.5 * abs(freq[-1] - freq[0])
    if half == 0:
        return freq[:1], np.ones((len(freq), 1))
    points = np.cos(np.pi * (np.arange(number) + 0.5) / number)
    position = (freq - middle) / half
    matrix = np.ones((len(freq), number))
    for i in range(number):
        for j in range(number):
            if i != j:
                matrix[:, i] *= (position - points[j]) / (points[i] - points[j])
    return middle + half * points, matrix


def beam_nodes(grid: Grid, diameter: float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Nodes in frequency [Hz] that carry the primary beam to 1e-5, and their interpolation (nchan, nnode)."""
    freq = grid.freq()
    corner = np.sqrt(0.5) * grid.npix * grid.cell * ARCSEC
    change = np.pi * diameter * 0.5 * abs(freq[-1] - freq[0]) / arrays.C_MS * corner
    # The term of the blockage, small but quick, has some ten times the argument.
    return chebyshev(freq, int(np.ceil(10.0 * change)) + 3)


def compute_response(uvw: NDArray, diameter: float, grid: Grid, robust: float | None = None) -> Response:
    """PSFs, primary beams, beams and noise of any visibilities.

    Parameters
    ----------
    uvw : (nvis, 3) [m]
    diameter : float [m], of the antennas
    grid : Grid
    robust : float or None, Briggs' parameter; None is natural weighting
    """
    seen = sampling(uvw, grid, robust)
    size = grid.padded
    reach = np.sqrt(0.5) * size * grid.cell * ARCSEC
    freqs, matrix = seen.nodes(reach)
    psf = np.empty((len(freqs), 2 * grid.npix, 2 * grid.npix), np.float32)
    transfer = np.empty((len(freqs), size, size // 2 + 1), np.float32)
    beam = np.empty((len(freqs), 3))
    box = slice(max(0, grid.npix - BEAM_BOX), grid.npix + BEAM_BOX)
    middle = slice(size // 2 - grid.npix, size // 2 + grid.npix)
    weights, noise, ratio = _noise(seen)
    for index, freq in enumerate(freqs):
        image = seen.image(freq, size, weights[index] if robust is not None else seen.weights(freq)).astype(np.float32)
        transfer[index] = centred_transform(image).real
        psf[index] = image[middle, middle]
        beam[index] = fit_beam(psf[index, box, box])
    information, mix = transfer, matrix
    if robust is not None:
        natural = sampling(uvw, grid)
        nodes, mix = natural.nodes(reach)
        planes = (centred_transform(natural.image(freq, size, natural.weights(freq))).real for freq in nodes)
        information, mix = np.stack([plane.astype(np.float32) for plane in planes]), ratio[:, None] * mix
    places, onto = (freqs, None) if robust is None else beam_nodes(grid, diameter)
    pb = np.stack([primary_beam(grid.npix, grid.cell, freq, diameter) for freq in places]).astype(np.float32)
    if onto is not None:
        pb = np.tensordot(onto.astype(np.float32), pb, axes=1)
    return Response(psf, transfer, pb, beam, matrix, noise, information, mix, seen.band())


def centred_transform(image: NDArray) -> NDArray:
    """Transform (size, size // 2 + 1) of an image about its middle pixel."""
    return ducc0.fft.r2c(fft.ifftshift(image), axes=(0, 1), nthreads=1)


def _noise(seen: Sampling) -> tuple[list[NDArray[np.float64]], UvNoise, NDArray[np.float64]]:
    """Weights of every channel, its noise, and the noise's variance (nchan,) over that at natural weighting.

    The weights are kept where they are not all the same.
    """
    kept, planes, ratio = [], [], []
    for freq in seen.grid.freq():
        weights = seen.weights(freq) * len(seen.uv)
        ratio.append((weights**2).mean())
        planes.append(seen.cells(freq, seen.grid.padded).filled(weights**2))
        if seen.robust is not None:
            kept.append(weights / len(seen.uv))
    return kept, uv_noise(seen.grid.padded, planes), np.array(ratio)


@lru_cache(maxsize=1)
def response(coverage: Coverage, grid: Grid) -> Response:
    """`compute_response` of a coverage, remembered for the last one asked for."""
    coverage.check(grid)
    return compute_response(coverage.uvw(), coverage.diameter(), grid, coverage.robust)


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
