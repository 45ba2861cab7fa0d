"""A dirty image with its PSF and primary beam, from files to the core's `Cube`.

Axes (x, y, Stokes and frequency in any order) are turned into (chan, y, x) here, in `_planes`, and nowhere else. FITS
images are read without CASA; `casa_deepfocus.casa.images` hands in what opens CASA's own.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from casa_deepfocus.core.cube import Cube
from casa_deepfocus.core.geometry import GAUSSIAN_AREA, covariance_to_shape, shape_to_covariance
from casa_deepfocus.core.psf import fit_beam as psf_covariance
from casa_deepfocus.core.psf import gaussian_psf
from casa_deepfocus.core.skyframe import jacobian, transform
from casa_deepfocus.errors import DataError, ParameterError
from casa_deepfocus.reading import consistency, memory, responses
from casa_deepfocus.reading.companions import find_companion
from casa_deepfocus.reading.grid import (
    Grid,
    celestial_wcs,
    cell_size,
    check_usable,
    frequencies,
    stokes_plane,
    unit_scale,
)

SLAB = 2**24
"""Pixels that are read or written at a time (CASA's tool works in double precision)."""

Log = Callable[..., None]

G = TypeVar("G", bound=Grid)


def silent(message: str, priority: str = "INFO") -> None:
    """A log that drops its messages."""


def read_cube(
    imagename: str, psf: str = "", pb: str = "", log: Log = silent, *, inspect: Callable[[str], G]
) -> tuple[Cube, G]:
    """Read a dirty image with its PSF and primary beam.

    Parameters
    ----------
    imagename : str
        CASA or FITS image, 2 to 4 axes, in Jy/beam (or mJy, uJy), not corrected for the primary beam.
    psf, pb : str
        Images beside it; found by name where empty (`find_companion`). Without a PSF the Gaussian
        of the image's beam stands in for it; without a pb the response is taken as 1 everywhere.
    log : callable (message, priority)
    inspect : callable
        Gives the grid of an image: `grid.inspect` of FITS files, `casa.grids.inspect` of CASA images too.

    Returns
    -------
    Cube, Grid

    Raises
    ------
    DataError
        Where the images cannot be used or do not fit each other.
    """
    template, own, pb = inspect_inputs(imagename, psf, pb, inspect=inspect)
    for message, priority in template.notes:
        log(message, priority)
    if not template.unit.strip():
        log(f"{imagename} has no brightness unit; taken as Jy/beam", "WARN")
    scale = unit_scale(template)
    ny, nx = template.shape[template.y], template.shape[template.x]
    cell = cell_size(template)
    freq, frame, restfreq = frequencies(template)
    header = _beams(template, log)
    if header is not None:
        consistency.check_field((ny, nx), header, cell, imagename)
    pb_data = _read_pb(inspect(pb) if pb else None, template, log)
    data = _planes(template, mask=True)
    responses.blank_constant(data, imagename, log)
    if own is not None:
        psf_data = _read_psf(own, template, data, log)
        beams = _fitted_beams(psf_data, template, log) if header is None else header
        responses.check_psf_size(psf_data, beams, cell, (ny, nx), own.name, log)
    elif header is not None:
        log("no PSF found: the Gaussian beam of the header stands in for it, sidelobes are not removed", "WARN")
        psf_data, beams = gaussian_psf(header, cell, (2 * ny, 2 * nx)), header
    else:
        raise DataError(
            f"{imagename!r} has neither a restoring beam in its header nor a PSF beside it: "
            "give psf=, or set the beam: " + template.set_beam()
        )
    _without_pb_correction(data, pb_data, template, bool(pb), beams[:, 0] * beams[:, 1] / cell**2, log)
    if own is not None and header is not None:
        consistency.check_beam(beams, psf_data, template, own.name, data, log)
    if scale != 1.0:
        data *= np.float32(scale)
    cube = Cube(
        data=data,
        psf=psf_data,
        pb=pb_data,
        freq=freq,
        beams=beams,
        cell=cell,
        wcs=celestial_wcs(template),
        frame=frame,
        restfreq=restfreq,
        psf_is_measured=own is not None,
        spectral=template.nchan > 1,
        corrected=not pb and bool(consistency.looks_corrected(template)),
        meta=template.meta(),
    )
    return cube, template


def inspect_inputs(
    imagename: str, psf: str = "", pb: str = "", *, inspect: Callable[[str], G]
) -> tuple[G, G | None, str]:
    """The grids of an image and of its PSF, and the name of its primary beam, seen to be usable; no pixel is read.

    Parameters
    ----------
    imagename, psf, pb : str
    inspect : callable
        As for `read_cube`.

    Returns
    -------
    Grid, Grid or None, str
        The PSF and the primary beam are found by name where none is given; None, '' where there are none.

    Raises
    ------
    ParameterError, DataError
        Where the image cannot be used, two of the three are one file, or the search would not fit into memory.
    """
    template = inspect(imagename)
    check_usable(template)
    psf, pb = psf or find_companion(imagename, "psf"), pb or find_companion(imagename, "pb")
    consistency.check_names(imagename, psf, pb)
    own = inspect(psf) if psf else None
    ny, nx = template.shape[template.y], template.shape[template.x]
    psf_shape = (own.nchan, own.shape[own.y], own.shape[own.x]) if own else (1, 2 * ny, 2 * nx)
    memory.check_memory(template.nchan, ny, nx, psf_shape, imagename)
    return template, own, pb


def fit_beam(psf: NDArray[np.floating], cell: float) -> tuple[float, float, float]:
    """Gaussian beam of a PSF: FWHM major, minor [arcsec] and position angle [deg]; see `core.psf.fit_beam`.

    Parameters
    ----------
    psf : (py, px), peak 1 at (py//2, px//2)
    cell : float [arcsec]

    Raises
    ------
    DataError
        Where the PSF has no main lobe that is resolved by the pixels.
    """
    fwhm_maj, fwhm_min, pa = covariance_to_shape(psf_covariance(psf))
    return float(fwhm_maj) * cell, float(fwhm_min) * cell, float(pa)


def _planes(template: Grid, *, mask: bool) -> NDArray[np.float32]:
    """(nchan, ny, nx) float32 pixels of an image; NaN where masked or blank. Stokes I where there are several."""
    plane = stokes_plane(template)
    ny, nx, nchan = template.shape[template.y], template.shape[template.x], template.nchan
    out = np.empty((nchan, ny, nx), dtype=np.float32)
    blc, trc = [0] * len(template.shape), [n - 1 for n in template.shape]
    if template.stokes is not None:
        blc[template.stokes] = trc[template.stokes] = plane
    order = [axis for axis in (template.spectral, template.y, template.x) if axis is not None]
    rest = tuple(axis for axis in range(len(template.shape)) if axis not in order)
    step = max(1, SLAB // (ny * nx))
    with template.pixels() as (read, valid):
        for start in range(0, nchan, step):
            stop = min(start + step, nchan)
            if template.spectral is not None:
                blc[template.spectral], trc[template.spectral] = start, stop - 1
            slab = np.transpose(read(blc, trc), [*order, *rest]).reshape(stop - start, ny, nx)
            out[start:stop] = slab
            if mask and valid is not None:
                good = np.transpose(valid(blc, trc), [*order, *rest]).reshape(slab.shape)
                out[start:stop][~good] = np.nan
    out[~np.isfinite(out)] = np.nan
    return out


def _beams(template: Grid, log: Log) -> NDArray[np.float64] | None:
    """(nchan, 3) restoring beams [arcsec, arcsec, deg] in the pixel frame; channels without get their neighbour's."""
    beams = template.beams(log)
    if beams is None:
        return None
    good = np.flatnonzero((beams[:, 1] > 0) & np.isfinite(beams).all(axis=1))
    if len(good) == 0:
        return None
    return _in_pixel_frame(beams[responses.nearest(good, template.nchan)], template)


def _in_pixel_frame(beams: NDArray[np.float64], template: Grid) -> NDArray[np.float64]:
    """Beams (n, 3) on the sky, whose angles are defined at the reference pixel, as the pixels see them."""
    wcs, cell = celestial_wcs(template), cell_size(template)
    frame = jacobian(wcs, *(float(value) - 1.0 for value in wcs.wcs.crpix)) / cell
    on_sky = shape_to_covariance(beams[:, 0], beams[:, 1], beams[:, 2])
    return np.stack(covariance_to_shape(transform(on_sky, np.linalg.inv(frame))), axis=1)


def _fitted_beams(psf: NDArray[np.float32], template: Grid, log: Log) -> NDArray[np.float64]:
    """(nchan, 3) beams [arcsec, arcsec, deg] of an image whose header has none."""
    log("the image has no restoring beam; fitted to the PSF")
    cell, ny, nx = cell_size(template), template.shape[template.y], template.shape[template.x]
    beams = np.broadcast_to([fit_beam(plane, cell) for plane in psf], (template.nchan, 3)).copy()
    consistency.check_field((ny, nx), beams, cell, template.name)
    return beams


def _read_psf(template: Grid, image: Grid, data: NDArray, log: Log) -> NDArray[np.float32]:
    """(1 or nchan, py, px) float32: peak 1 at (py//2, px//2), 0 where masked, in the order of the image's channels."""
    consistency.check_pixel(template, image, "psf")
    chosen = consistency.matching_channels(template, image, "psf")
    planes = _planes(template, mask=False)
    first = next(chan for chan, plane in enumerate(data) if np.isfinite(plane).any())
    known = np.isfinite(data[first])
    if planes.shape == data.shape and np.array_equal(planes[first][known], data[first][known]):
        raise ParameterError("psf", template.name, "holds the image itself", "Give the .psf that was made with it")
    planes = _in_order(planes, chosen, template.name, log)
    reference = responses.reference_pixel(template, celestial_wcs(template).wcs.crpix)
    psf = responses.usable_psf(planes, reference, template.name, log)
    log(f"PSF: {template.name} ({psf.shape[2]} x {psf.shape[1]} pixels, {psf.shape[0]} planes)")
    return psf


def _without_pb_correction(
    data: NDArray[np.float32], pb: NDArray[np.float32], template: Grid, given: bool, widths: NDArray, log: Log
) -> None:
    """Undo, in place, what an image was divided by; give back what tclean masks of one that was not.

    Parameters
    ----------
    widths : (nchan,) product of the beams' axes [pixel^2]
    given : bool
        False where there is no primary beam, and `pb` is 1.
    """
    if given:
        if consistency.is_corrected(data, pb, template, GAUSSIAN_AREA * float(np.median(widths)), log):
            data *= np.where(pb > 0, pb, np.float32(np.nan))
            log(f"{template.name} is corrected for the primary beam: multiplied by it again, so that the noise is flat")
        else:
            _unmask_outside_pb(data, pb, template)
    elif consistency.looks_corrected(template):
        log(
            f"{template.name} is corrected for the primary beam, and there is no pb to undo it with: fluxes are those "
            "on the sky, and the noise grows outwards, which is measured as far as the image tells. Give pb=",
            "WARN",
        )
    else:
        log(
            "no primary beam found: taken as 1 everywhere. Fluxes are not corrected: at the half power of the "
            "antenna's beam they are half of what is right. Give pb=",
            "WARN",
        )


def _unmask_outside_pb(data: NDArray[np.float32], pb: NDArray[np.float32], template: Grid) -> None:
    """Give back, in place, the pixels that tclean masks only because the primary beam is low there.

    They are valid in a dirty image, and without them sources near the limit cannot be fitted.
    """
    outside = np.broadcast_to(np.isnan(pb), data.shape) & np.isnan(data)
    outside &= np.isfinite(data).any(axis=(1, 2), keepdims=True)
    if outside.any():
        data[outside] = _planes(template, mask=False)[outside]
        # The mosaic gridder writes zeros there.
        data[outside & (data == 0)] = np.nan


def _read_pb(own: Grid | None, template: Grid, log: Log) -> NDArray[np.float32]:
    """(1 or nchan, ny, nx) float32 response, in the order of the image's channels; NaN where masked."""
    shape = (template.shape[template.y], template.shape[template.x])
    if own is None:
        return np.ones((1, *shape), dtype=np.float32)
    name = own.name
    if (own.shape[own.y], own.shape[own.x]) != shape or 1 < own.nchan < template.nchan:
        raise ParameterError(
            "pb", name, f"has {own.nchan} x {own.shape[own.y]} x {own.shape[own.x]} pixels (chan, y, x), "
            f"the image {template.nchan} x {shape[0]} x {shape[1]}", "Give the pb that was made with the image",
        )  # fmt: skip
    consistency.check_place(own, template, "pb")
    chosen = consistency.matching_channels(own, template, "pb")
    log(f"primary beam: {name}")
    return responses.usable_pb(_in_order(_planes(own, mask=True), chosen, name, log), name)


def _in_order(planes: NDArray[np.float32], chosen: NDArray[np.intp], name: str, log: Log) -> NDArray[np.float32]:
    """The chosen planes of an image; themselves, not copied, where these are all of them in their order."""
    if len(chosen) == len(planes) and (np.diff(chosen) == 1).all():
        return planes
    log(f"the channels of {name} are brought into the image's order, by their frequencies")
    return planes[chosen]
