"""Two components side by side in frequency: two sources, or the two sides of one that rotates?

A source that rotates moves on the sky with the channel, over each of the two lines as from one to the other; two
sources stand still, each in its line. So the likelihood can tell: that of the two components, against that of one
Gaussian that moves at a constant rate over the channels, with the spectrum of both. Its continuum stands still: that
of the components is held against one Gaussian as well.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from scipy import fft, optimize

from casa_deepfocus.core.component import Component
from casa_deepfocus.core.fit import JointFit
from casa_deepfocus.core.profiles import profile_transform
from casa_deepfocus.core.psf import gaussian_transform

if TYPE_CHECKING:
    from casa_deepfocus.core.fit import _Stamp

LEAST_PART = 0.02
"""Channels with less of the line's peak are left out."""

ALLOWANCE = 3.0
"""Advantage in ln L that two components may have and still be one source: they have three more parameters; for each
further component as much again, ..."""

MISMATCH = 0.004
"""... and a disc is no moving Gaussian: the allowance grows by this times the square of the fainter one's SNR."""


def is_one_source(fit: JointFit, members: Sequence[Component]) -> bool:
    """Whether components with lines, neighbours in frequency, are better described as one source that rotates.

    Of two the lines decide; three or more are taken for one that have their places in the order of their channels
    (core.complexes). A galaxy that rotates has one continuum, which stands still: where those of the components are
    better described apart than by one Gaussian, they are several sources.

    Parameters
    ----------
    fit : JointFit, whose residual is up to date
    members : sequence of Component, fitted; two, or three that are in order

    Returns
    -------
    bool
    """
    if len(members) == 2 and advantage_of_two(fit, members) > _allowed(min(m.snr_line for m in members), 2):
        return False
    shining = [member for member in members if member.has_cont and member.cont > 0.0]
    if len(shining) < 2:
        return True
    return advantage_of_continua(fit, shining) <= _allowed(min(m.snr_cont for m in shining), len(shining))


def _allowed(faint: float, number: int) -> float:
    """Advantage in ln L that components may have and still be one source."""
    return ALLOWANCE * (number - 1) + MISMATCH * faint**2


def advantage_of_two(fit: JointFit, members: Sequence[Component]) -> float:
    """ln L of the lines of components as fitted, minus that of the best single Gaussian that moves with the channel.

    Parameters
    ----------
    fit : JointFit, whose residual is up to date
    members : sequence of Component, with lines, all in emission or all in absorption

    Returns
    -------
    float, negative where the moving Gaussian describes the data better
    """
    spectra = np.array([member.line_spectrum(len(fit.weights)) for member in members])
    stamp, data, psf = fit.parts_on_stamp(members, spectra)
    total = spectra.sum(axis=0)
    used = np.flatnonzero((np.abs(total) > LEAST_PART * np.abs(total).max()) & (fit.weights > 0))
    return _advantage(members, stamp, data[used], psf, fit.weights[used], spectra[:, used], used)


def advantage_of_continua(fit: JointFit, members: Sequence[Component]) -> float:
    """ln L of the continua of components as fitted, minus that of the best single Gaussian, in the mean of the band.

    Parameters
    ----------
    fit : JointFit, whose residual is up to date
    members : sequence of Component, with continua

    Returns
    -------
    float, negative where the Gaussian describes the data better
    """
    spectra = np.array([member.continuum_spectrum(len(fit.weights)) for member in members])
    stamp, data, psf = fit.parts_on_stamp(members, spectra)
    weight = fit.weights.sum()
    data = np.tensordot(fit.weights, data, axes=1)[None] / weight
    mean = (spectra @ fit.weights / weight)[:, None]
    return _advantage(members, stamp, data, psf, np.array([weight]), mean, np.zeros(1, dtype=np.int64))


def _advantage(
    members: Sequence[Component],
    stamp: _Stamp,
    data: NDArray,
    psf: NDArray,
    weights: NDArray,
    spectra: NDArray,
    used: NDArray[np.int64],
) -> float:
    """ln L of components minus that of one Gaussian of their summed spectrum, which moves where channels are many.

    Parameters
    ----------
    stamp, psf : as of `JointFit.parts_on_stamp`
    data : (n, size, size) [Jy/beam]
    weights : (n,) 1 / sigma^2
    spectra : (nmembers, n) [Jy]
    used : (n,) the channels
    """
    total = spectra.sum(axis=0)
    size = stamp.size
    seen = fft.rfft2(data)
    # Each cell of the half plane stands for its conjugate too.
    twice = np.full(size // 2 + 1, 2.0)
    twice[0] = twice[-1] = 1.0
    seen = seen * (twice / size**2)
    images = [
        profile_transform((size, size), m.x - stamp.x0, m.y - stamp.y0, m.covariance, m.profile) for m in members
    ]  # fmt: skip
    power = psf * twice / size**2
    linear = sum(
        float(weights * spectrum @ np.real((seen * image.conj()).sum(axis=(1, 2))))
        for spectrum, image in zip(spectra, images, strict=True)
    )
    products = np.array([[float((power * np.real(a * b.conj())).sum()) for a in images] for b in images])
    two = linear - 0.5 * float(np.einsum("ic,ij,jc->", spectra * weights, products, spectra))
    middle = float((weights * total**2 * used).sum() / (weights * total**2).sum())

    def moving(parameters: NDArray) -> float:
        x, y, sxx, syy, sxy = parameters[:5]
        rate_x, rate_y = parameters[5:] if len(used) > 1 else (0.0, 0.0)
        image = gaussian_transform((size, size), x - stamp.x0, y - stamp.y0, (sxx, syy, sxy))
        away = used - middle
        fy, fx = fft.fftfreq(size), fft.rfftfreq(size)
        along_y = np.exp(2j * np.pi * np.outer(away * rate_y, fy))
        along_x = np.exp(2j * np.pi * np.outer(away * rate_x, fx))
        filtered = np.einsum("ckl,ck,cl->c", seen * image.conj(), along_y, along_x, optimize=True).real
        quadratic = float((weights * total**2).sum() * (power * np.abs(image) ** 2).sum())
        return -(max(float((weights * total) @ filtered), 0.0) ** 2) / (2.0 * quadratic)

    best = optimize.minimize(moving, _start(members, spectra, used), method="Nelder-Mead",
                             options={"maxiter": 400, "fatol": 0.05, "xatol": 1e-3, "adaptive": True})  # fmt: skip
    return two + float(best.fun)


def _start(members: Sequence[Component], spectra: NDArray, used: NDArray[np.int64]) -> NDArray[np.float64]:
    """Place, covariance and, of several channels, rate of the Gaussian that has the members' moments."""
    flux = spectra.sum(axis=1) / spectra.sum()
    places = np.array([(member.x, member.y) for member in members])
    channels = spectra @ used / spectra.sum(axis=1)
    centre, middle = flux @ places, float(flux @ channels)
    covariance = flux @ np.array([member.covariance for member in members])
    if len(used) == 1:
        dx, dy = (places - centre).T
        return np.concatenate([centre, covariance + flux @ np.stack([dx * dx, dy * dy, dx * dy], axis=1)])
    spread = float((spectra.sum(axis=0) / spectra.sum()) @ (used - middle) ** 2)
    rate = (flux * (channels - middle)) @ (places - centre) / max(spread, 1e-6)
    return np.concatenate([centre, covariance, rate])
