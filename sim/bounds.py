"""Cramer-Rao bounds of the parameters of simulated sources: the scatter that no unbiased measurement undercuts.

The dirty image of channel c is, in the uv plane, D = T m + n, with the transfer T (transform of the PSF),
the model m = PB s_c G and independent noise of power N = sigma_c^2 A^2 + white^2 (A is the noise's amplitude,
with the mean of A^2 equal to 1). The Fisher matrix of the parameters a and b is (Kay 1993, section 3.9)

    F_ab = sum_c Re sum_k conj(d_a m) d_b m  T^2 / N ,

which is m_a . (PSF (x) m_b) / sigma_c^2 at natural weighting, where A^2 = T. Other weights can be undone, so the
bound is that of the visibilities; in an image of finite size a little is lost (bounds are 3 to 4 % higher at a
robust parameter of 0.5 in a field of 64 pixels), and white noise added to it counts more. Every source is a sum of
separable parts, shape x spectrum, and so are its derivatives: the shapes are multiplied with each other
once at every node in frequency, and all sources are treated jointly, so that blends have their true bounds.

What is taken as unknown: position, shape (the covariance: also that of a point), the continuum with its
spectral index, and each line's centre, width and flux. A source is measured with the parts that it has:
without a line there is no bound of a line, without a continuum none of a continuum. The spectral index is a
nuisance parameter that is known beforehand to +- `INDEX_SPREAD`: no real continuum is steeper, and a search
(`pipeline.state.MAX_INDEX`) holds it so. The primary beam is taken as constant over a source.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import fft
from threadpoolctl import threadpool_limits

from casa_deepfocus.core.geometry import FWHM_PER_SIGMA
from sim.derivatives import Derivatives, Shapes, derivatives
from sim.response import Response, pb_at
from sim.sky import Source

INDEX_SPREAD = 5.0
"""Standard deviation to which a spectral index is known before the measurement."""

SAMPLED = 1e-2
"""Cells of the uv plane that carry less than this fraction of the largest information are left out."""

TAPER = 0.4
"""Standard deviation, in fields, of the Gaussian taper under which powers of the uv plane are divided."""

DEGENERATE = 1e-11
"""Eigenvalues of the Fisher matrix (of unit diagonal) below this are directions that the data do not see."""


@dataclass
class Bounds:
    """What the data can say about one source at best.

    Attributes
    ----------
    snr_line, snr_continuum : float
        Of the matched filter, which knows the shape; 0 without the part.
    errors : dict
        Standard deviations, fluxes as on the sky: x, y, fwhm_maj, fwhm_min [pixel], pa [deg], continuum [Jy];
        line_chan, line_fwhm [chan], line_flux [Jy chan], and line2_chan, ... of further lines.
        Infinite where the data say nothing (position angle of a round source), missing where
        the source has no such part. For a source smaller than half the size that the data can tell from a
        point, `fwhm_maj` and `fwhm_min` are that size (the FWHM of one standard error of the variance).
    """

    snr_line: float = 0.0
    snr_continuum: float = 0.0
    errors: dict[str, float] = field(default_factory=dict)


class Information:
    """The weights T^2 / N of the uv plane, for all channels.

    Parameters
    ----------
    resp : Response
    sigma : float or (nchan,) [Jy/beam], thermal noise of the image; NaN or infinite for flagged channels
    white : float [Jy/beam], further noise that is white over the image's pixels
    """

    def __init__(self, resp: Response, sigma: ArrayLike, white: float = 0.0) -> None:
        nchan = len(resp.interpolation)
        self.resp = resp
        sigma = np.broadcast_to(np.asarray(sigma, dtype=float), (nchan,))
        good = np.isfinite(sigma) & (sigma > 0)
        self.inverse_variance = np.where(good, 1.0 / np.where(good, sigma, 1.0) ** 2, 0.0)
        ratio = np.where(good, white**2 * self.inverse_variance, white**2 * self.inverse_variance.max(initial=0.0))
        planes, self.mixing = self._planes(ratio)
        size = resp.transfer.shape[1]
        strongest = np.abs(planes).max(axis=0)
        rows, columns = np.nonzero(strongest > SAMPLED * strongest.max())
        # The half plane counts twice, but for its first and last column.
        twice = np.where((columns > 0) & (columns < size // 2), 2.0, 1.0)
        self.weights = planes[:, rows, columns] * twice / (size * size)
        self.kx, self.ky = fft.rfftfreq(size)[columns], fft.fftfreq(size)[rows]

    def _planes(self, ratio: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """(nplane, ny, nx) information for unit sigma, and (nchan, nplane) its interpolation onto the channels.

        `ratio` (nchan,) is white^2 / sigma^2; where it changes with the channel it has nodes as well.
        """
        mixing = self.resp.information_mix
        if not ratio.any():
            return self.resp.information.astype(float), mixing
        # Without white noise the information is I = T^2 / A^2: with it, T^2 / (T^2 / I + ratio).
        nearest = np.abs(mixing).argmax(axis=0)
        information, transfer = _smooth(self.resp)
        information_there = mixing.sum(axis=1)[nearest][:, None, None] * information
        nodes, matrix = _chebyshev(np.log(ratio))
        planes = []
        for node in nodes:
            whole = transfer**2 + np.exp(node) * information_there
            planes.append(information * transfer**2 / np.maximum(whole, 1e-30))
        both = mixing[:, None, :] * matrix[:, :, None]
        return np.concatenate(planes), both.reshape(len(ratio), -1)

    def overlaps(self, shapes: Sequence[Shapes]) -> NDArray[np.float64]:
        """(nplane, nshape, nshape) Re sum_k conj(a) b T^2 / N of all pairs of shapes, for unit sigma."""
        total: NDArray[np.float64] | float = 0.0
        for part in np.array_split(np.arange(len(self.kx)), 1 + len(self.kx) // 8192):
            values = np.concatenate([shape(self.kx[part], self.ky[part]) for shape in shapes])
            # A complex number is two real ones to the real part of a product.
            flat = np.ascontiguousarray(values).view(np.float64)
            weights = np.repeat(self.weights[:, part], 2, axis=1)
            total = total + np.stack([(flat * weight) @ flat.T for weight in weights])
        return np.asarray(total)

    def beams(self, source: Source) -> NDArray[np.float64]:
        """(nchan,) primary beam at a source."""
        return np.asarray(self.resp.channels(pb_at(self.resp.pb, source)))


@lru_cache(maxsize=2)
def _smooth(resp: Response) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """`Response.information`, and the transfer in the same places, averaged over neighbouring cells."""
    npix = resp.pb.shape[-1]
    information = np.maximum(_tapered(resp.information.astype(float), npix), 0.0)
    if not resp.per_channel:
        return information, information
    nearest = np.abs(resp.information_mix).argmax(axis=0)
    return information, np.maximum(_tapered(resp.transfer[nearest].astype(float), npix), 0.0)


def _tapered(power: NDArray[np.float64], npix: int) -> NDArray[np.float64]:
    """Powers (n, size, size // 2 + 1) of the uv plane, averaged with positive weights over the cells that a field has.

    Visibilities fall between the cells, and the transform of a PSF that ends somewhere rings about them:
    before powers are divided by one another, they are averaged over a cell.
    """
    size = power.shape[1]
    offset = fft.fftfreq(size) * size / npix
    window = np.exp(-0.5 * (offset / TAPER) ** 2)
    return fft.rfft2(fft.irfft2(power, s=(size, size)) * (window[:, None] * window[None, :])).real


def _chebyshev(values: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Nodes (nnode,) that span the values (n,), and the matrix (n, nnode) of the interpolation between them."""
    middle, half = 0.5 * (values.max() + values.min()), 0.5 * np.ptp(values)
    if half < 1e-9:
        return np.array([middle]), np.ones((len(values), 1))
    number = 5 + int(np.ceil(2.0 * half))
    nodes = middle + half * np.cos(np.pi * (np.arange(number) + 0.5) / number)
    matrix = np.ones((len(values), number))
    for i in range(number):
        for j in range(number):
            if i != j:
                matrix[:, i] *= (values - nodes[j]) / (nodes[i] - nodes[j])
    return nodes, matrix


def cramer_rao(
    sources: Sequence[Source], resp: Response, freq: ArrayLike, sigma: ArrayLike, *, white: float = 0.0
) -> list[Bounds]:
    """The bounds of all sources of a field, jointly.

    Parameters
    ----------
    sources : sequence of Source
    resp : Response, of the observation
    freq : (nchan,) [Hz]
    sigma : float or (nchan,) [Jy/beam], thermal noise of the image; NaN or infinite for flagged channels
    white : float [Jy/beam], rms of further noise that is white over the image's pixels

    Returns
    -------
    list of Bounds
    """
    if not sources:
        return []
    # The matrices are small: on a busy machine threads that wait for each other take ten times as long.
    with threadpool_limits(limits=1, user_api="blas"):
        return _cramer_rao(sources, Information(resp, sigma, white), np.asarray(freq, dtype=float))


def _cramer_rao(sources: Sequence[Source], information: Information, nu: NDArray[np.float64]) -> list[Bounds]:
    """`cramer_rao` with the weights of the uv plane."""
    models = [derivatives(source, nu) for source in sources]
    overlaps = information.overlaps([model.shapes for model in models])
    places = np.cumsum([0, *(model.spectra.shape[1] for model in models)])
    weights = [np.sqrt(information.inverse_variance) * information.beams(model.source) for model in models]

    def product(i: int, j: int, a: NDArray, b: NDArray) -> NDArray[np.float64]:
        # Spectra a (p, nshape, nchan) of source i times b (q, nshape, nchan) of source j, over shapes and channels.
        a, b = a * weights[i], b * weights[j]
        both = a.any(axis=(0, 1)) & b.any(axis=(0, 1))
        a, b = np.moveaxis(a[..., both], 2, 0), np.moveaxis(b[..., both], 2, 0)
        block = overlaps[:, places[i] : places[i + 1], places[j] : places[j + 1]]
        left = a @ np.tensordot(information.mixing[both], block, axes=1)
        return np.tensordot(left, b, axes=([0, 2], [0, 2]))

    ends = np.cumsum([0, *(len(model.names) for model in models)])
    fisher = np.zeros((ends[-1], ends[-1]))
    for i, first in enumerate(models):
        for j, second in enumerate(models[i:], start=i):
            block = product(i, j, first.spectra, second.spectra)
            fisher[ends[i] : ends[i + 1], ends[j] : ends[j + 1]] = block
            fisher[ends[j] : ends[j + 1], ends[i] : ends[i + 1]] = block.T
        for number, name in enumerate(first.names):
            if name == "alpha":
                fisher[ends[i] + number, ends[i] + number] += INDEX_SPREAD**-2
    covariance, unseen = _inverse(fisher)
    out = []
    for i, model in enumerate(models):
        part = slice(ends[i], ends[i + 1])
        snr_line, snr_continuum = (
            float(np.sqrt(max(product(i, i, own[None], own[None])[0, 0], 0.0))) for own in (model.line, model.continuum)
        )
        out.append(Bounds(snr_line, snr_continuum, _errors(model, covariance[part, part], unseen[part])))
    return out


def _inverse(fisher: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """The inverse of a Fisher matrix over the directions that the data see, and which parameters they do not."""
    diagonal = np.diag(fisher)
    scale = np.where(diagonal > 0, 1.0 / np.sqrt(np.where(diagonal > 0, diagonal, 1.0)), 0.0)
    values, vectors = np.linalg.eigh(fisher * np.outer(scale, scale))
    seen = values > DEGENERATE
    inverse = (vectors[:, seen] / values[seen]) @ vectors[:, seen].T * np.outer(scale, scale)
    unseen = (np.abs(vectors[:, ~seen]) > 1e-3).any(axis=1) | (diagonal <= 0)
    return inverse, unseen


def _errors(model: Derivatives, covariance: NDArray[np.float64], unseen: NDArray[np.bool_]) -> dict[str, float]:
    """Bounds of what a catalogue reports, from the covariance of the source's own parameters."""
    place = {name: number for number, name in enumerate(model.names)}
    errors = {}
    for name, weights in model.reported.items():
        form = np.array(list(weights.values()))
        rows = [place[parameter] for parameter in weights]
        variance = float(form @ covariance[np.ix_(rows, rows)] @ form)
        errors[name] = np.inf if unseen[rows][form != 0].any() else float(np.sqrt(max(variance, 0.0)))
    source = model.source
    if source.rotation is None:
        for name, size, axis in (("fwhm_maj", source.fwhm_maj, "along"), ("fwhm_min", source.fwhm_min, "across")):
            variance = FWHM_PER_SIGMA**2 * errors.pop(axis)
            limit = np.sqrt(variance)
            errors[name] = float(variance / (2.0 * size)) if 2.0 * size > limit else float(limit)
        flattening, turn = (source.fwhm_maj**2 - source.fwhm_min**2) / FWHM_PER_SIGMA**2, errors.pop("turn")
        errors["pa"] = float(np.rad2deg(turn / flattening)) if flattening > 0 else np.inf
    return errors
