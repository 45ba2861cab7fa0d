"""Exact imaging without deconvolution: dirty_c = PSF_c (x) model_c, for sparse sets of Gaussian sources.

Models live in the Fourier domain, where a Gaussian of any size (a point included) is an analytic
function; the PSF, known out to twice the field, turns the circular convolution into the linear one.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import fft, ndimage

from casa_deepfocus.core.cube import Cube
from casa_deepfocus.core.geometry import gaussian_image, shape_to_covariance
from casa_deepfocus.core.modulation import Modulation
from casa_deepfocus.core.mosaic import Pointings
from casa_deepfocus.errors import DataError


def gaussian_transform(shape: tuple[int, int], x: float, y: float, covariance: ArrayLike) -> NDArray[np.complex64]:
    """Fourier transform of a Gaussian of unit flux on the half plane of `scipy.fft.rfft2`.

    It is band-limited: a soft edge below Nyquist, where no baseline of a properly sampled image
    lies, keeps the image of a point compact and changes no product with the data.

    Parameters
    ----------
    shape : (ny, nx) of the periodic grid
    x, y : float [pixel], centre
    covariance : (3,) [pixel^2] : sxx, syy, sxy; zero for a point source

    Returns
    -------
    (ny, nx//2 + 1) complex64
    """
    sxx, syy, sxy = np.asarray(covariance, dtype=float)
    fy = fft.fftfreq(shape[0])[:, None]
    fx = fft.rfftfreq(shape[1])[None, :]
    edge_y, edge_x = (0.5 + 0.5 * np.cos(np.pi * np.clip((np.abs(f) - 0.3) / 0.2, 0.0, 1.0)) for f in (fy, fx))
    along_y, along_x = edge_y * np.exp(-2j * np.pi * fy * y), edge_x * np.exp(-2j * np.pi * fx * x)
    phase = along_y.astype(np.complex64) * along_x.astype(np.complex64)
    if not np.any((sxx, syy, sxy)):
        return phase
    fx, fy = fx.astype(np.float32), fy.astype(np.float32)
    exponent = np.float32(syy) * fy * fy + np.float32(sxx) * fx * fx + np.float32(2.0 * sxy) * fx * fy
    exponent *= np.float32(-2.0 * np.pi**2)
    # A fitted covariance may be slightly negative; far out, where no baseline measures, it must not grow.
    phase *= np.exp(np.clip(exponent, -80.0, 2.0))
    return phase


def place_psf(psf: NDArray, shape: tuple[int, int]) -> NDArray[np.float32]:
    """Put the PSF's centre (py//2, px//2) at pixel (0, 0) of a periodic grid, cut or zero-padded.

    Parameters
    ----------
    psf : (py, px), peak 1
    shape : (ny, nx) of the grid

    Returns
    -------
    (ny, nx) float32
    """
    out = np.zeros(shape, dtype=np.float32)
    slices_in, slices_out = [], []
    for have, want in zip(psf.shape, shape, strict=True):
        low, high = min(have // 2, want // 2), min(have - have // 2, want - want // 2)
        slices_in.append(slice(have // 2 - low, have // 2 + high))
        slices_out.append(slice(want // 2 - low, want // 2 + high))
    out[tuple(slices_out)] = np.nan_to_num(psf[tuple(slices_in)])
    return np.fft.ifftshift(out)


def gaussian_psf(beams: ArrayLike, cell: float, shape: tuple[int, int]) -> NDArray[np.float32]:
    """The fall-back PSF: the Gaussian of the restoring beam, without sidelobes.

    Parameters
    ----------
    beams : (nchan, 3) [arcsec, arcsec, deg] : FWHM major, minor, position angle
    cell : float [arcsec]
    shape : (py, px)

    Returns
    -------
    (nchan, py, px) float32, peak 1 at (py//2, px//2); one plane when all beams agree
    """
    beams = np.atleast_2d(np.asarray(beams, dtype=float))
    if np.allclose(beams, beams[0], rtol=1e-6):
        beams = beams[:1]
    covariances = shape_to_covariance(beams[:, 0] / cell, beams[:, 1] / cell, beams[:, 2])
    return np.stack([gaussian_image(shape, shape[1] // 2, shape[0] // 2, cov) for cov in covariances]).astype(
        np.float32
    )


SIDELOBES = 0.02
"""What a PSF may differ by from the Gaussian of its beam [peak] and have no sidelobes: chosen between the rounding of a
header's beam and an interferometer's lowest sidelobes, neither of which comes near to it."""


def has_sidelobes(cube: Cube) -> bool:
    """Whether a cube's PSF is more than the Gaussian of its beam: an interferometer's own.

    A Gaussian tells where sources are and not what the noise is, whether it stands in for a PSF or was given as one.
    """
    known = np.flatnonzero(cube.psf[:, cube.psf.shape[1] // 2, cube.psf.shape[2] // 2] > 0.5)
    if known.size == 0:
        return False
    plane = int(known[known.size // 2])
    psf, beam = cube.psf[plane], cube.beam_covariances()[plane] if len(cube.psf) > 1 else cube.beam_covariance()
    gaussian = gaussian_image(psf.shape, psf.shape[1] // 2, psf.shape[0] // 2, beam)
    return bool(np.nanmax(np.abs(psf - gaussian)) > SIDELOBES)


def fit_beam(psf: NDArray, level: float = 0.35) -> NDArray[np.float64]:
    """Covariance of the Gaussian of height 1 that fits a PSF's main lobe.

    Least squares over the pixels above `level` that hang together with the peak.

    Parameters
    ----------
    psf : (py, px), peak 1 at pixel (py // 2, px // 2)

    Returns
    -------
    (3,) float64 : sxx, syy, sxy [pixel^2]

    Raises
    ------
    DataError
        When the main lobe covers fewer than 5 pixels, or is no Gaussian.
    """
    middle = (psf.shape[0] // 2, psf.shape[1] // 2)
    labels, _ = ndimage.label(psf > level)
    y, x = np.nonzero(labels == labels[middle]) if labels[middle] else (np.empty(0, int), np.empty(0, int))
    if len(x) < 5:
        raise DataError(
            f"the main lobe of the PSF covers {len(x)} pixels above {level}, and 5 are needed: "
            "image again with a smaller cell"
        )
    dx, dy = x - float(middle[1]), y - float(middle[0])
    value = psf[y, x].astype(np.float64)
    # ln p = -(a dx^2 + b dy^2 + 2 c dx dy) / 2 is linear in the inverse covariance: a start for the fit.
    powers = -0.5 * np.stack([dx * dx, dy * dy, 2.0 * dx * dy], axis=1)
    form = np.linalg.lstsq(powers * value[:, None], np.log(value) * value, rcond=None)[0]
    for _ in range(20):
        model = np.exp(np.minimum(powers @ form, 5.0))
        step = np.linalg.lstsq(powers * model[:, None], value - model, rcond=None)[0]
        form = form + step
        if np.abs(step).max() < 1e-10 * np.abs(form).max():
            break
    det = form[0] * form[1] - form[2] ** 2
    if not (det > 0 and form[0] > 0):
        raise DataError("the main lobe of the PSF is no Gaussian: give images with a restoring beam")
    return np.array([form[1], form[0], -form[2]]) / det


def psf_basis(psf: NDArray[np.float32], tolerance: float, most: int) -> tuple[NDArray, NDArray] | None:
    """A few PSFs of which every channel's PSF is a linear combination.

    A PSF changes smoothly with frequency, so that over a band a handful of principal images
    carry all of it; channels flagged differently need more, or cannot be had this way.

    Parameters
    ----------
    psf : (nchan, py, px) float32, peak 1
    tolerance : float, largest rms error of a channel over the rms of its PSF
    most : int, largest number of images

    Returns
    -------
    images : (n, py, px) float32, and mixing : (nchan, n) float32; None when `most` images do not do
    """
    nchan = psf.shape[0]
    flat = psf.reshape(nchan, -1)
    # Enough pixels to see every way in which the channels differ; an odd stride runs over all columns.
    part = flat[:, :: (flat.shape[1] // 40000) | 1].astype(np.float64)
    gram = part @ part.T
    values, vectors = np.linalg.eigh(gram)
    values, vectors = values[::-1], vectors[:, ::-1]
    power = np.diag(gram).copy()
    power[power <= 0] = 1.0
    for number in range(1, min(most, nchan) + 1):
        kept = vectors[:, :number]
        lost = np.maximum(np.diag(gram) - (kept**2 * values[:number]).sum(axis=1), 0.0)
        if np.sqrt((lost / power).max()) < tolerance:
            images = np.tensordot(kept.T.astype(np.float32), psf, axes=1)
            return images, kept.astype(np.float32)
    return None


class Imager:
    """The PSFs of a cube, as an operator.

    Parameters
    ----------
    psf : (nchan or 1, py, px) float32, peak 1 at (py//2, px//2)
    shape : (ny, nx) of the image
    tolerance : float, relative rms to which the PSFs may be represented by a few principal ones;
        0 makes every channel's convolution by itself
    modulation : Modulation, optional
        What a source's dirty image is multiplied by, over the image
    pointings : Pointings, optional
        Those of a mosaic, whose modulation multiplies with the other; where their PSFs differ, what a source has
        besides the common PSF
    """

    def __init__(
        self,
        psf: NDArray[np.float32],
        shape: tuple[int, int],
        tolerance: float = 1e-4,
        modulation: Modulation | None = None,
        pointings: Pointings | None = None,
    ) -> None:
        self.psf = psf
        self.shape = shape
        self.modulation = modulation
        self.pointings = pointings
        self.grid = (fft.next_fast_len(2 * shape[0], real=True), fft.next_fast_len(2 * shape[1], real=True))
        basis: tuple[NDArray, NDArray | None] | None = None
        if psf.shape[0] == 1:
            basis = (psf, None)
        elif tolerance > 0:
            basis = psf_basis(psf, tolerance, most=min(16, max(1, psf.shape[0] // 3)))
        self._kernels: NDArray | None = None
        self._mixing: NDArray | None = None
        if basis is not None:
            placed = np.stack([place_psf(image, self.grid) for image in basis[0]])
            self._kernels, self._mixing = fft.rfft2(placed, workers=-1), basis[1]
        self._differences: NDArray | None = None
        if pointings is not None and len(pointings.images):
            self._differences = np.stack(
                [fft.rfft2(place_psf(image, self.grid), workers=-1) for image in pointings.images]
            )

    @property
    def rank(self) -> int:
        """Number of principal PSFs; 0 where every channel is convolved with its own."""
        return 0 if self._kernels is None else len(self._kernels)

    def plane(self, chan: int) -> NDArray[np.float32]:
        """(py, px) PSF of a channel."""
        return self.psf[chan if self.psf.shape[0] > 1 else 0]

    def typical_plane(self, chan: int) -> NDArray[np.float32]:
        """(py, px) PSF of a channel; of a mosaic times the typical modulation: the dirty image of a source anywhere."""
        plane = self.plane(chan)
        if self.pointings is None:
            return plane
        return plane * self.pointings.typical((plane.shape[0], plane.shape[1]))

    def stamp(self, chan: int, half: int, place: tuple[float, float] | None = None) -> NDArray[np.float32]:
        """(2 half, 2 half) PSF of a channel around its centre, which comes to pixel (half, half).

        Of a mosaic whose pointings have PSFs of their own it is that of a source at `place` (x, y) [pixel].
        """
        size = (2 * half, 2 * half)
        placed = place_psf(self.plane(chan), size)
        if place is not None and self.pointings is not None:
            for share, image in zip(self.pointings.at_source(*place), self.pointings.images, strict=True):
                placed += share * place_psf(image, size)
        return np.fft.fftshift(placed)

    def response(self, chan: int, place: tuple[float, float], source: tuple[float, float]) -> float:
        """Dirty image, at a place (x, y) [pixel], of a point of unit flux at another; 0 where the PSF is not known."""
        plane = self.plane(chan)
        row = round(plane.shape[0] // 2 + place[1] - source[1])
        column = round(plane.shape[1] // 2 + place[0] - source[0])
        if not (0 <= row < plane.shape[0] and 0 <= column < plane.shape[1]):
            return 0.0
        modulated = self.modulated(*source, np.array([place[0]]), np.array([place[1]]))
        return float(plane[row, column]) * (1.0 if modulated is None else float(modulated[0, 0]))

    def modulated(
        self, x0: float, y0: float, x: NDArray | None = None, y: NDArray | None = None
    ) -> NDArray[np.float32] | None:
        """What the dirty image of a source at (x0, y0) [pixel] is multiplied by, at columns x and rows y.

        Returns
        -------
        (rows, columns) float32, of the whole image by default; None where it is 1 everywhere
        """
        columns = np.arange(self.shape[1]) if x is None else x
        rows = np.arange(self.shape[0]) if y is None else y
        factor = None if self.pointings is None else self.pointings.on(columns, rows, x0, y0)
        return self._times_modulation(factor, columns, rows, x0, y0)

    def _times_modulation(
        self, factor: NDArray | None, x: NDArray, y: NDArray, x0: float, y0: float
    ) -> NDArray[np.float32] | None:
        if self.modulation is None:
            return factor
        other = self.modulation.on(x, y, x0, y0)
        return other if factor is None else factor * other

    def _own_psfs(self, transform: NDArray, x0: float, y0: float) -> NDArray[np.float32] | None:
        """(ny, nx) what a source of unit flux at (x0, y0) [pixel] has besides the common PSF; None where nothing."""
        if self._differences is None or self.pointings is None:
            return None
        ny, nx = self.shape
        columns, rows = np.arange(nx), np.arange(ny)
        factors = self.pointings.of_images(columns, rows, x0, y0)
        total = np.zeros(self.shape, np.float32)
        for kernel, factor in zip(self._differences, factors, strict=True):
            total += fft.irfft2(transform * kernel, s=self.grid, workers=-1)[:ny, :nx] * factor
        return self._times_modulation(total, columns, rows, x0, y0)

    def subtract(
        self,
        data: NDArray[np.float32],
        transforms: NDArray[np.complex64],
        spectra: NDArray,
        places: Sequence[tuple[float, float]] = (),
    ) -> None:
        """Subtract the dirty images of separable sources from a cube, in place.

        Parameters
        ----------
        data : (nchan, ny, nx) float32 [Jy/beam]
        transforms : (nsource, gy, gx//2 + 1) complex64, `gaussian_transform` on `grid`
        spectra : (nsource, nchan) [Jy, apparent]
        places : nsource of (x, y) [pixel], their centres; needed where there is a modulation
        """
        plain = self.modulation is None and self.pointings is None
        if self._kernels is None:
            self._subtract_channels(data, transforms, spectra, () if plain else places)
            return
        ny, nx = self.shape
        # Source by source: the factors of many on a large image would fill the memory.
        for number, (transform, spectrum) in enumerate(zip(transforms, np.asarray(spectra, np.float32), strict=True)):
            used = np.flatnonzero(spectrum)
            if used.size == 0:
                continue
            dirty = fft.irfft2(transform * self._kernels, s=self.grid, workers=-1)[:, :ny, :nx]
            mixing = spectrum[:, None] if self._mixing is None else spectrum[:, None] * self._mixing
            if not plain:
                dirty *= self.modulated(*places[number])
                own = self._own_psfs(transform, *places[number])
                if own is not None:
                    dirty, mixing = np.concatenate([dirty, own[None]]), np.column_stack([mixing, spectrum])
            for start in range(0, used.size, 16):
                part = used[start : start + 16]
                data[part] -= np.tensordot(mixing[part], dirty, axes=1)

    def _subtract_channels(
        self, data: NDArray, transforms: NDArray, spectra: NDArray, places: Sequence[tuple[float, float]]
    ) -> None:
        ny, nx = self.shape
        factors = [self.modulated(*place) for place in places]
        own = [self._own_psfs(transform, *place) for transform, place in zip(transforms, places, strict=False)]
        for chan in range(data.shape[0]):
            fluxes = np.asarray(spectra[:, chan], dtype=np.float32)
            if not np.any(fluxes):
                continue
            kernel = fft.rfft2(place_psf(self.plane(chan), self.grid), workers=-1)
            if not places:
                model = np.tensordot(fluxes, transforms, axes=1)
                data[chan] -= fft.irfft2(model * kernel, s=self.grid, workers=-1)[:ny, :nx]
                continue
            for flux, transform, factor, more in zip(fluxes, transforms, factors, own, strict=True):
                if flux:
                    dirty = fft.irfft2(flux * transform * kernel, s=self.grid, workers=-1)[:ny, :nx] * factor
                    data[chan] -= dirty if more is None else dirty + flux * more
