"""What the networks see. Training and inference both call these functions, and no other.

Each works on numpy arrays and on torch tensors alike (the array's own library is used), so the
training data can be prepared on the device that trains.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from types import ModuleType
from typing import Any

import numpy as np

from casa_deepfocus.errors import ParameterError

PIXELS_PER_BEAM = 5.0
"""Working resolution: geometric-mean beam FWHM in pixels, for Blobs Finder and the ResNets."""

STAMP = 32
"""Side of a ResNet's input [working pixels]."""

PAPER_PIXELS_PER_BEAM = 8.24
"""The same for the paper's networks: its beam of 0.76 by 0.89 arcsec on its pixels of 0.1 arcsec."""

PAPER_FIELD = 256
PAPER_STAMP = 64
"""Sides of the paper's Blobs Finder's and ResNets' inputs [its working pixels] (section 4.4)."""

PAPER_CHANNELS = 128
"""Length of the paper's Deep GRU's input."""

TARGET_SMOOTHING = 0.5
"""Sources are drawn in Blobs Finder's target at FWHM^2 = true^2 + (TARGET_SMOOTHING beam)^2."""

BOX_LEVEL = 0.15
"""Contour of the drawn source (peak 1) that bounds its box (paper section 4.4 i)."""


PLANES = ("dirty", "clean")
"""Planes that Blobs Finder may see: the dirty map, and the map without sidelobes (`clean`)."""

CLEAN_LEVEL = 5.0
"""[sigma] Nothing fainter is a component of `clean`."""

CLEAN_GAIN = 0.5
CLEAN_STEPS = (100, 1000)
"""Minor cycles of `clean` for every 128 x 128 pixels, and at most."""

LOBE = (0.8, 1.6)
"""[beam] Radii between which the PSF's main lobe goes over into its sidelobes."""


def _library(array: Any) -> ModuleType:
    """The module of an array; torch is imported by whoever made a tensor."""
    return np if isinstance(array, np.ndarray) else sys.modules["torch"]


def _asinh(array: Any) -> Any:
    # torch tensors have the method, numpy arrays the function.
    return array.arcsinh() if hasattr(array, "arcsinh") else np.arcsinh(array)


def blobs_finder_input(snr_map: Any) -> Any:
    """Compress a map so that 1 and 1000 sigma both fit; the scale is kept, never min-max.

    Parameters
    ----------
    snr_map : (..., H, W) float32 [sigma], a plane of `blobs_finder_planes` or all of them

    Returns
    -------
    same shape : arcsinh(map) / 3
    """
    return _asinh(snr_map) / 3.0


def blobs_finder_planes(snr_map: Any, planes: Sequence[str], psf: Any = None, seen: Any = None) -> Any:
    """What Blobs Finder sees, before `blobs_finder_input`.

    Parameters
    ----------
    snr_map : (b, H, W) float32 [sigma], 0 where there are no data
    planes : of `PLANES`
    psf : (b or 1, py, px) float32 on the same pixels, peak 1 at (py // 2, px // 2); needed by 'clean'
    seen : (b, H, W) bool, where there are data; default everywhere

    Returns
    -------
    (b, len(planes), H, W) float32 [sigma]

    Raises
    ------
    ParameterError
        An unknown plane; 'clean' without a PSF.
    """
    unknown = [name for name in planes if name not in PLANES]
    if unknown:
        raise ParameterError("planes", unknown[0], "no such plane", f"Choose from {', '.join(PLANES)}")
    if "clean" in planes and psf is None:
        raise ParameterError("psf", None, "plane 'clean' is made with the PSF", "Give the PSF on the map's pixels")
    made = [clean(snr_map, psf, seen) if name == "clean" else snr_map for name in planes]
    return _library(snr_map).stack(made, 1)


def clean(snr_map: Any, psf: Any, seen: Any = None) -> Any:
    """Maps without the sidelobes of what stands above `CLEAN_LEVEL`: CLEAN with the PSF's main lobe as its beam.

    Minor cycles of Hogbom (1974, A&AS 15, 417) on whole maps, all maps at once; components are positive.
    A network that sees this beside the dirty map sees which of its maxima the PSF accounts for.

    Parameters
    ----------
    snr_map, psf, seen : see `blobs_finder_planes`

    Returns
    -------
    (b, H, W) float32 [sigma], 0 where there are no data
    """
    xp = _library(snr_map)
    count, height, width = snr_map.shape
    place = {} if xp is np else {"device": snr_map.device}
    kernel = _windows(centred(psf, height, width), height, width)
    sidelobes = _windows(centred(psf, height, width, lobe=False), height, width)
    residual = 1.0 * snr_map if seen is None else xp.where(seen, snr_map, -np.inf)
    restored = 1.0 * snr_map
    rows = xp.arange(count, **place)
    for _ in range(min(CLEAN_STEPS[0] * -(-height * width // 128**2), CLEAN_STEPS[1])):
        flat = residual.reshape(len(rows), -1)
        pixel = flat.argmax(-1)
        peak = flat[xp.arange(len(rows), **place), pixel]
        going = peak > CLEAN_LEVEL
        if not going.any():
            break
        if not going.all():
            rows, residual, pixel, peak = rows[going], residual[going], pixel[going], peak[going]
        plane = rows if len(psf) > 1 else 0 * rows
        dy, dx = height - pixel // width, width - pixel % width
        amount = (CLEAN_GAIN * peak)[:, None, None]
        residual -= amount * kernel[plane, dy, dx]
        restored[rows] -= amount * sidelobes[plane, dy, dx]
    return restored if seen is None else xp.where(seen, restored, xp.zeros_like(restored))


def centred(psf: Any, height: int, width: int, *, lobe: bool = True) -> Any:
    """PSFs cut or zero-padded to (2 height, 2 width), peak at (height, width); with or without the main lobe.

    Parameters
    ----------
    psf : (b, py, px)

    Returns
    -------
    (b, 2 height, 2 width)
    """
    py, px = psf.shape[1:]
    shape = (len(psf), 2 * height, 2 * width)
    out = np.zeros(shape, np.float32) if isinstance(psf, np.ndarray) else psf.new_zeros(shape)
    y, x = min(py // 2, height), min(px // 2, width)
    top, right = min(py - py // 2, height), min(px - px // 2, width)
    out[:, height - y : height + top, width - x : width + right] = psf[
        :, py // 2 - y : py // 2 + top, px // 2 - x : px // 2 + right
    ]
    if not lobe:
        reach = min(int(np.ceil(LOBE[1] * PIXELS_PER_BEAM)), height, width)
        offset = np.arange(-reach, reach) / PIXELS_PER_BEAM
        radius = np.hypot(offset[:, None], offset[None, :])
        taper = 0.5 - 0.5 * np.cos(np.pi * np.clip((radius - LOBE[0]) / (LOBE[1] - LOBE[0]), 0.0, 1.0))
        taper = taper.astype(np.float32)
        if hasattr(psf, "new_tensor"):
            taper = psf.new_tensor(taper)
        out[:, height - reach : height + reach, width - reach : width + reach] *= taper
    return out


def _windows(image: Any, height: int, width: int) -> Any:
    """(b, H + 1, W + 1, H, W) view of (b, 2 H, 2 W) images: every window of the map's size."""
    if hasattr(image, "unfold"):
        return image.unfold(1, height, 1).unfold(2, width, 1)
    return np.lib.stride_tricks.sliding_window_view(image, (height, width), axis=(1, 2))


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


def unit_range(images: Any) -> Any:
    """Images scaled to [0, 1], each by its own extremes: what the paper's Blobs Finder and ResNets see.

    Parameters
    ----------
    images : (b, H, W) float32 [any unit], finite

    Returns
    -------
    (b, 1, H, W) float32; zeros for an image of one value
    """
    flat = images.reshape(len(images), -1)
    low, high = (getattr(flat, name)(1) for name in ("amin", "amax")) if hasattr(flat, "amax") else (
        flat.min(1), flat.max(1)
    )  # fmt: skip
    span = high - low
    # Where there is no span there is nothing to scale either.
    span = span + (span == 0)
    return ((images - low[:, None, None]) / span[:, None, None])[:, None]


def standard_spectrum(spectra: Any) -> Any:
    """Spectra of mean 0 and standard deviation 1: what the paper's Deep GRU sees (section 4.4 ii).

    Parameters
    ----------
    spectra : (b, nchan) float32 [any unit], finite

    Returns
    -------
    same shape; zeros for a spectrum of one value
    """
    centred = spectra - spectra.mean(1)[:, None]
    spread = ((centred**2).mean(1) ** 0.5)[:, None]
    return centred / (spread + (spread == 0))


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
