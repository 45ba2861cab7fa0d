"""Mosaics: what the dirty image of a source is where an image is a sum over pointings.

With flat noise (Cornwell 1988, A&A 202, 316; CASA's `normtype='flatnoise'`) pointing p of weight w_p and primary beam
PB_p gives PB_p(x) PSF_p(x - x0) PB_p(x0) w_p over the common normalisation. With

    W_p(x) = sqrt(w_p) PB_p(x) / sqrt(sum_q w_q PB_q(x)^2) ,      sum_p W_p(x)^2 = 1 ,

a source of apparent flux S at x0 (the sky's times the image's primary beam there) appears as

    d(x) = S sum_p W_p(x) W_p(x0) PSF_p(x - x0)
         = S [ K(x, x0) PSF(x - x0) + sum_b K_b(x, x0) D_b(x - x0) ] ,

K = sum_p W_p(x) W_p(x0) and, where the pointings' PSFs differ, D_b a few principal images of their differences from the
common PSF, PSF_p = PSF + sum_b c_pb D_b, with K_b = sum_p c_pb W_p(x) W_p(x0). The covariance of the noise is sigma^2
times the same operator, so that the likelihood of core/fit.py stays what it is. Antennas of several sizes make terms of
their own: the primary beam of a pair is the product of the two voltage patterns.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.interpolate import CubicSpline

from casa_deepfocus.errors import DataError

NODES_PER_BEAM = 16.0
"""Nodes per FWHM of the narrowest primary beam at which the terms are held; a cubic spline between them gives K to
3e-4 (tests/test_mosaic.py)."""

NEGLIGIBLE = 1e-4
"""W_p(x0) below which a term does not count for a source at x0."""

LEFT_OUT = 5e-4
"""Rms over the whole PSF [peak] that the principal images of the differences between PSFs may leave: as much as the
approximations of an imager's primary beams leave."""

MOST_IMAGES = 24
MOST_BYTES = 400_000_000
"""Principal images that are held at most, by their number and by their transforms: 6 for an image of 2000 pixels."""

LEAST_WEIGHT = 1e-3
"""Weight of a class of PSFs, over the largest, that it counts with at least for which images are kept."""

TINY = 1e-150
"""Sum of responses below which no pointing sees a place, twelve beams away from all: its square is a float still."""

TYPICAL = 8
"""Pointings of which the typical modulation is the mean, at most."""


@dataclass(frozen=True, eq=False)
class Mosaic:
    """The terms of a mosaic.

    A term is a pointing, or, with antennas of several sizes, a pointing and a pair of sizes.

    Attributes
    ----------
    centres : (n, 2) float64 [pixel]
        x and y of the terms' pointings on the image; they may lie outside of it.
    weights : (n,) float64
        Sums of the imaging weights, in any unit.
    radius : (k,) float64 [pixel]
        Rising from 0, at which the primary beams are given.
    responses : (nbeam, k) float64
        Power responses, 1 at radius 0, above 0.
    beam : (n,) int
        Which of the responses a term has.
    freq : float [Hz]
        That the responses, and `psfs`, belong to.
    psfs : (nclass, py, px) float32 or None
        PSFs of single terms, or of classes of them, as the cube's PSFs are given; None where the cube's do for all.
    psf_class : (n,) int or None
        Which of `psfs` a term has.
    """

    centres: NDArray[np.float64]
    weights: NDArray[np.float64]
    radius: NDArray[np.float64]
    responses: NDArray[np.float64]
    beam: NDArray[np.int64]
    freq: float
    psfs: NDArray[np.float32] | None = None
    psf_class: NDArray[np.int64] | None = None

    def __post_init__(self) -> None:
        count = len(self.weights)
        if count == 0 or self.centres.shape != (count, 2) or self.beam.shape != (count,):
            raise DataError(
                f"a mosaic of {count} terms needs a centre, a weight and a beam for each; "
                f"got {self.centres.shape} centres and {self.beam.shape} beams"
            )
        if not (np.isfinite(self.weights).all() and (self.weights >= 0).all() and self.weights.sum() > 0):
            raise DataError("the weights of a mosaic's terms must be finite, none negative and one above 0")
        if self.responses.ndim != 2 or self.responses.shape[1:] != self.radius.shape or len(self.radius) < 4:
            raise DataError(
                f"the primary beams must be given at each of 4 or more radii; they have the shape "
                f"{self.responses.shape}, the radii {self.radius.shape}"
            )
        if not (self.responses > 0).all():
            raise DataError("the primary beams of a mosaic must be above 0 where they are given")
        if (self.psfs is None) != (self.psf_class is None):
            raise DataError("PSFs of a mosaic's terms need `psf_class`, and the other way round")

    def responses_at(self, x: ArrayLike, y: ArrayLike, freq: float) -> NDArray[np.float64]:
        """(n, ...) power response of each term at places (...) [pixel] and a frequency [Hz].

        Beyond the last radius it goes on as the Gaussian through the last point: never 0, so that far outside of the
        mosaic the nearest pointing has all the weight.
        """
        x, y = np.broadcast_arrays(np.asarray(x, dtype=float), np.asarray(y, dtype=float))
        # The beam is as much narrower as the frequency is higher.
        scale = freq / self.freq if freq > 0 and self.freq > 0 else 1.0
        square_last = float(self.radius[-1]) ** 2
        out = np.empty((len(self.weights), *x.shape))
        for number, (centre, beam) in enumerate(zip(self.centres, self.beam, strict=True)):
            square = ((x - centre[0]) ** 2 + (y - centre[1]) ** 2) * scale**2
            profile = self.responses[beam]
            inside = np.interp(np.sqrt(square), self.radius, profile)
            tail = float(profile[-1]) ** np.maximum(square / square_last, 1.0)
            out[number] = np.where(square > square_last, tail, inside)
        return out

    def shares(self, x: ArrayLike, y: ArrayLike, freq: float) -> NDArray[np.float64]:
        """(n, ...) W_p at places (...) [pixel]; the sum of their squares over the terms is 1."""
        weights = np.sqrt(self.weights / self.weights.sum())
        parts = self.responses_at(x, y, freq) * weights.reshape(-1, *(1,) * np.ndim(x))
        return parts / np.maximum(np.sqrt((parts**2).sum(axis=0)), TINY)

    def primary_beam(self, x: ArrayLike, y: ArrayLike, freq: float) -> NDArray[np.float64]:
        """sqrt(sum_p w_p PB_p^2) at places (...) [pixel], for sum_p w_p = 1; an imager's has its maximum at 1."""
        weights = (self.weights / self.weights.sum()).reshape(-1, *(1,) * np.ndim(x))
        return np.sqrt((weights * self.responses_at(x, y, freq) ** 2).sum(axis=0))

    def fwhm(self) -> float:
        """FWHM [pixel] of the narrowest primary beam, at `freq`."""
        halves = [float(np.interp(-0.5, -profile, self.radius)) for profile in self.responses]
        return 2.0 * min(halves)

    def with_psfs(self, psfs: NDArray[np.float32]) -> Mosaic:
        """The same mosaic with other PSFs of its classes, as when the image was filtered."""
        return replace(self, psfs=psfs)

    def typical(self, shape: tuple[int, int], freq: float) -> NDArray[np.float32]:
        """K as if it were a function of x - x0 alone: its mean over sources at the pointings' centres.

        Parameters
        ----------
        shape : (py, px) of a PSF, offset 0 at (py // 2, px // 2)
        freq : float [Hz]

        Returns
        -------
        (py, px) float32, 1 at offset 0
        """
        step = max(self.fwhm() / NODES_PER_BEAM, 1.0)
        axes = [_nodes(-(side // 2), side - side // 2 - 1, step) for side in shape]
        chosen = np.unique(np.linspace(0, len(self.centres) - 1, TYPICAL).round().astype(int))
        mean = np.zeros((len(axes[0]), len(axes[1])))
        for x0, y0 in self.centres[chosen]:
            here = self.shares(np.array([x0]), np.array([y0]), freq)[:, 0]
            near = np.flatnonzero(here > NEGLIGIBLE)
            there = self.shares(x0 + axes[1][None, :], y0 + axes[0][:, None], freq)
            mean += np.tensordot(here[near], there[near], axes=1) / len(chosen)
        along = [_spline(nodes, np.arange(side) - side // 2) for nodes, side in zip(axes, shape, strict=True)]
        return (along[0] @ mean @ along[1].T).astype(np.float32)


class Pointings:
    """A mosaic on the pixels of an image, at one frequency: K and the differences between the terms' PSFs.

    Memory: 4 bytes for each term and node (150 pointings, 2000 pixels, beams of 80 pixels: 90 MB), and the principal
    images, `MOST_BYTES` at most.

    Parameters
    ----------
    mosaic : Mosaic
    shape : (ny, nx) of the image
    freq : float [Hz], 0 for that of the mosaic
    psf : (py, px) float32, the cube's PSF at the frequency of the mosaic's; needed where the mosaic has any
    grid : (gy, gx) on which the images are transformed, for their memory; of twice the image by default
    left : float [peak], rms that the principal images may leave

    Attributes
    ----------
    images : (b, py, px) float32, principal images of the differences; b = 0 where the PSFs do not differ
    """

    def __init__(
        self,
        mosaic: Mosaic,
        shape: tuple[int, int],
        freq: float = 0.0,
        psf: NDArray[np.float32] | None = None,
        grid: tuple[int, int] | None = None,
        left: float = LEFT_OUT,
    ) -> None:
        self.mosaic = mosaic
        self.shape = shape
        self.freq = freq or mosaic.freq
        self._typical: NDArray[np.float32] | None = None
        step = max(mosaic.fwhm() / NODES_PER_BEAM, 1.0)
        self._axes = [_nodes(0, side - 1, step) for side in shape]
        self._shares = np.empty((len(mosaic.weights), len(self._axes[0]), len(self._axes[1])), np.float32)
        # Row by row: all terms' responses in double precision would be large.
        for row, y in enumerate(self._axes[0]):
            self._shares[:, row] = mosaic.shares(self._axes[1], y, self.freq)
        self.images: NDArray[np.float32] = np.empty((0, 1, 1), np.float32)
        self._mixing = np.empty((len(mosaic.weights), 0), np.float32)
        if mosaic.psfs is not None and mosaic.psf_class is not None and psf is not None:
            if mosaic.psfs.shape[1:] != psf.shape:
                raise DataError(f"the mosaic's PSFs have {mosaic.psfs.shape[1:]} pixels, the cube's {psf.shape}")
            height, width = grid or (2 * shape[0], 2 * shape[1])
            most = int(max(1, min(MOST_IMAGES, MOST_BYTES // (8 * height * (width // 2 + 1)))))
            weights = np.bincount(mosaic.psf_class, mosaic.weights, len(mosaic.psfs))
            self.images, mixing = principal_differences(mosaic.psfs, psf, weights, most, left)
            self._mixing = mixing[mosaic.psf_class]

    def on(self, x: NDArray, y: NDArray, x0: float, y0: float) -> NDArray[np.float32]:
        """K at columns x (n,) and rows y (m,) [pixel] for a source at (x0, y0): (m, n) float32; see `Modulation`."""
        return self._at(x, y, x0, y0, np.ones((len(self.mosaic.weights), 1), np.float32))[0]

    def of_images(self, x: NDArray, y: NDArray, x0: float, y0: float) -> NDArray[np.float32]:
        """K_b, what each of `images` is multiplied by: (b, m, n) float32."""
        return self._at(x, y, x0, y0, self._mixing)

    def at_source(self, x0: float, y0: float) -> NDArray[np.float32]:
        """(b,) K_b(x0, x0): the PSF of a source as its surroundings see it is PSF + sum_b of this times `images`."""
        square = self._here(x0, y0) ** 2
        return (square @ self._mixing).astype(np.float32)

    def typical(self, shape: tuple[int, int]) -> NDArray[np.float32]:
        """(py, px) K as if it were a function of x - x0 alone, see `Mosaic.typical`; the last one is remembered."""
        if self._typical is None or self._typical.shape != shape:
            self._typical = self.mosaic.typical(shape, self.freq)
        return self._typical

    def _here(self, x0: float, y0: float) -> NDArray[np.float64]:
        x0, y0 = float(np.clip(x0, 0, self.shape[1] - 1)), float(np.clip(y0, 0, self.shape[0] - 1))
        return self.mosaic.shares(np.array([x0]), np.array([y0]), self.freq)[:, 0]

    def _at(self, x: NDArray, y: NDArray, x0: float, y0: float, mixing: NDArray) -> NDArray[np.float32]:
        here = self._here(x0, y0)
        near = np.flatnonzero(here > NEGLIGIBLE)
        places = [
            np.clip(np.append(along, middle), 0, side - 1)
            for along, middle, side in ((y, y0, self.shape[0]), (x, x0, self.shape[1]))
        ]
        matrices = [_spline(nodes, place).astype(np.float32) for nodes, place in zip(self._axes, places, strict=True)]
        whole = here[near].astype(np.float32)
        shares = self._shares[near]
        # What the spline makes of the 1 at the source.
        own = matrices[0][-1] @ np.tensordot(whole, shares, axes=1) @ matrices[1][-1]
        coarse = np.tensordot((mixing[near] * (whole / own)[:, None]).T, shares, axes=1)
        return matrices[0][:-1] @ coarse @ matrices[1][:-1].T


def principal_differences(
    psfs: NDArray[np.float32], psf: NDArray[np.float32], weights: NDArray, most: int, left: float = LEFT_OUT
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """A few images of which the differences of PSFs from a common one are linear combinations.

    Parameters
    ----------
    psfs : (nclass, py, px) float32
    psf : (py, px) float32, the common one
    weights : (nclass,), how much each counts for which images are kept; none is left out for it
    most : int, largest number of images
    left : float, rms over the PSF that they may leave

    Returns
    -------
    images : (b, py, px) float32, as few as leave no more, and mixing : (nclass, b) float32
    """
    flat = (psfs - psf).reshape(len(psfs), -1)
    root = np.sqrt(np.maximum(weights / weights.max(), LEAST_WEIGHT))
    gram = (flat @ flat.T).astype(np.float64)
    values, vectors = np.linalg.eigh(gram * root[:, None] * root[None, :])
    order = np.argsort(values)[::-1]
    vectors = vectors[:, order]
    number, kept = 0, vectors[:, :0]
    for number in range(min(most, len(psfs)) + 1):
        kept = vectors[:, :number]
        # Images = kept' root D; back by kept / root.
        back = (kept / root[:, None]) @ (kept * root[:, None]).T
        rest = np.eye(len(psfs)) - back
        rms = np.sqrt(np.maximum(np.einsum("ij,jk,ik->i", rest, gram, rest), 0.0).max() / flat.shape[1])
        if rms <= left:
            break
    images = np.tensordot((kept * root[:, None]).T.astype(np.float32), flat, axes=1)
    return images.reshape(number, *psf.shape), (kept / root[:, None]).astype(np.float32)


def _nodes(low: float, high: float, step: float) -> NDArray[np.float64]:
    """Evenly spaced from low to high, both included, no wider than step; 4 at least, for a cubic spline."""
    return np.linspace(low, high, max(4, int(np.ceil((high - low) / step)) + 1))


def _spline(nodes: NDArray, places: NDArray) -> NDArray[np.float64]:
    """(places, nodes) matrix of the cubic spline through values at the nodes."""
    return np.asarray(CubicSpline(nodes, np.eye(len(nodes)))(places))
