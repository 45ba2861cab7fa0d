"""Two components side by side in frequency: two sources, or the two sides of one that rotates?

A source that rotates moves on the sky with the channel, over each of the two lines as from one to the other; two
sources stand still, each in its line. So the likelihood can tell: that of the two components, against that of one
Gaussian that moves at a constant rate over the channels, with the spectrum of both.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import fft, optimize

from casa_deepfocus.core.component import Component
from casa_deepfocus.core.fit import JointFit
from casa_deepfocus.core.psf import gaussian_transform

LEAST_PART = 0.02
"""Channels with less of the line's peak are left out."""

ALLOWANCE = 3.0
"""Advantage in ln L that two components may have and still be one source: they have three more parameters, ..."""

MISMATCH = 0.004
"""... and a disc is no moving Gaussian: the allowance grows by this times the square of the fainter one's SNR."""


def is_one_source(fit: JointFit, one: Component, other: Component) -> bool:
    """Whether two components with lines are better described as one source that rotates.

    Parameters
    ----------
    fit : JointFit, whose residual is up to date
    one, other : Component, fitted
    """
    faint = min(one.snr_line, other.snr_line)
    return advantage_of_two(fit, [one, other]) <= ALLOWANCE + MISMATCH * faint**2


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
    stamp, data, psf = fit.lines_on_stamp(members)
    nchan = len(data)
    spectra = np.array([member.line_spectrum(nchan) for member in members])
    total = spectra.sum(axis=0)
    used = np.flatnonzero((np.abs(total) > LEAST_PART * np.abs(total).max()) & (fit.weights > 0))
    weights, total, spectra = fit.weights[used], total[used], spectra[:, used]
    size = stamp.size
    seen = fft.rfft2(data[used])
    # Each cell of the half plane stands for its conjugate too.
    twice = np.full(size // 2 + 1, 2.0)
    twice[0] = twice[-1] = 1.0
    seen = seen * (twice / size**2)
    images = [
        gaussian_transform((size, size), m.x - stamp.x0, m.y - stamp.y0, m.covariance) for m in members
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
        x, y, sxx, syy, sxy, rate_x, rate_y = parameters
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
    """Place, covariance and rate of the Gaussian that has the members' moments."""
    flux = spectra.sum(axis=1) / spectra.sum()
    places = np.array([(member.x, member.y) for member in members])
    channels = spectra @ used / spectra.sum(axis=1)
    centre, middle = flux @ places, float(flux @ channels)
    spread = float((spectra.sum(axis=0) / spectra.sum()) @ (used - middle) ** 2)
    rate = (flux * (channels - middle)) @ (places - centre) / max(spread, 1e-6)
    covariance = flux @ np.array([member.covariance for member in members])
    return np.concatenate([centre, covariance, rate])
