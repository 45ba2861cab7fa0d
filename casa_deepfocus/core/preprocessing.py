"""What the networks see. Training and inference both call these functions, and no other.

Each works on numpy arrays and on torch tensors alike (the array's own library is used), so the
training data can be prepared on the device that trains.
"""

from __future__ import annotations

from typing import Any

import numpy as np

PIXELS_PER_BEAM = 5.0
"""Working resolution: geometric-mean beam FWHM in pixels, for Blobs Finder and the ResNets."""

STAMP = 32
"""Side of a ResNet's input [working pixels]."""

TARGET_SMOOTHING = 0.5
"""Sources are drawn in Blobs Finder's target at FWHM^2 = true^2 + (TARGET_SMOOTHING beam)^2."""

BOX_LEVEL = 0.15
"""Contour of the drawn source (peak 1) that bounds its box (paper section 4.4 i)."""


def _asinh(array: Any) -> Any:
    # torch tensors have the method, numpy arrays the function.
    return array.arcsinh() if hasattr(array, "arcsinh") else np.arcsinh(array)


def blobs_finder_input(snr_map: Any) -> Any:
    """Compress a dirty map so that 1 and 1000 sigma both fit; the scale is kept, never min-max.

    Parameters
    ----------
    snr_map : (..., H, W) float32 [sigma]

    Returns
    -------
    same shape : arcsinh(map) / 3
    """
    return _asinh(snr_map) / 3.0


def deep_gru_input(spectrum: Any) -> Any:
    """Compress a spectrum that has zero mean off the lines and unit noise.

    Parameters
    ----------
    spectrum : (..., nchan) float32 [sigma of the off-line channels]

    Returns
    -------
    same shape : arcsinh(spectrum) / 2
    """
    return _asinh(spectrum) / 2.0


def resnet_input(stamp: Any, psf: Any, sigma: Any) -> Any:
    """Three planes of a ResNet's input: the stamp at peak 1, its PSF, and the stamp in sigma.

    Parameters
    ----------
    stamp : (..., S, S) float32 [any unit], the source near the centre
    psf : (..., S, S) float32, the PSF of the same pixels, peak 1 at pixel (S//2, S//2)
    sigma : (...) float32 [the stamp's unit], rms of the noise in the stamp

    Returns
    -------
    (..., 3, S, S) : stamp / peak, psf, arcsinh(stamp / sigma) / 3. Peak: `stamp_peak`.
    """
    peak = stamp_peak(stamp)[..., None, None]
    planes = [stamp / peak, psf, _asinh(stamp / sigma[..., None, None]) / 3.0]
    if hasattr(stamp, "arcsinh"):
        out = stamp.new_empty((*stamp.shape[:-2], len(planes), *stamp.shape[-2:]))
        for index, plane in enumerate(planes):
            out[..., index, :, :] = plane
        return out
    return np.stack(planes, axis=-3).astype(np.float32)


def stamp_peak(stamp: Any) -> Any:
    """Largest value within 4 pixels of the centre of a stamp: the scale that `resnet_input` divides by.

    Parameters
    ----------
    stamp : (..., S, S)

    Returns
    -------
    (...) in the stamp's unit, never below a tiny positive number
    """
    middle = stamp.shape[-1] // 2
    core = stamp[..., middle - 4 : middle + 5, middle - 4 : middle + 5]
    if hasattr(stamp, "arcsinh"):
        return core.amax(dim=(-2, -1)).clamp(min=1e-20)
    return np.maximum(core.max(axis=(-2, -1)), 1e-20)
