"""The one door between CASA or FITS images and the core's `Cube`.

Their axes (x, y, Stokes and frequency in any order) are turned into (chan, y, x) here, in `_planes`, and back in
`write_planes`, and nowhere else.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np
from casatools import image
from numpy.typing import NDArray

from casa_deepfocus.casa.companions import find_companion
from casa_deepfocus.casa.grids import (
    ARCSEC,
    Template,
    celestial_wcs,
    cell_size,
    check_usable,
    coordinate,
    frequencies,
    index_of,
    inspect,
    opened,
    stokes_plane,
    unit_scale,
)
from casa_deepfocus.casa.headers import header_beam, table_beams
from casa_deepfocus.core.cube import Cube
from casa_deepfocus.core.geometry import covariance_to_shape, shape_to_covariance
from casa_deepfocus.core.psf import fit_beam as psf_covariance
from casa_deepfocus.core.psf import gaussian_psf
from casa_deepfocus.core.skyframe import jacobian, transform
from casa_deepfocus.errors import DataError, ParameterError

SLAB = 2**24
"""Pixels that are read or written at a time (the tool works in double precision)."""

Log = Callable[..., None]


def _silent(message: str, priority: str = "INFO") -> None:
    """A log that drops its messages."""


def read_cube(imagename: str, psf: str = "", pb: str = "", log: Log = _silent) -> tuple[Cube, Template]:
    """Read a dirty image with its PSF and primary beam.

    Parameters
    ----------
    imagename : str
        CASA or FITS image, 2 to 4 axes, in Jy/beam (or mJy, uJy), not corrected for the primary beam.
    psf, pb : str
        Images beside it; found by name where empty (`find_companion`). Without a PSF the Gaussian
        of the image's beam stands in for it; without a pb the response is taken as 1 everywhere.
    log : callable (message, priority)

    Returns
    -------
    Cube, Template

    Raises
    ------
    DataError
        Where the images cannot be used or do not fit each other.
    """
    template = inspect(imagename)
    check_usable(template)
    for message, priority in template.notes:
        log(message, priority)
    if "pbcor" in os.path.basename(imagename.rstrip("/")):
        log(f"{imagename} looks corrected for the primary beam; its noise is not flat and detections suffer", "WARN")
    if not template.unit.strip():
        log(f"{imagename} has no brightness unit; taken as Jy/beam", "WARN")
    scale = unit_scale(template)
    pb = pb or find_companion(imagename, "pb")
    pb_data = _read_pb(pb, template, log)
    data = _planes(template, mask=True)
    _unmask_outside_pb(data, pb_data, template)
    if scale != 1.0:
        data *= np.float32(scale)
    for plane in data:
        # tclean leaves channels without data at exactly zero.
        if not np.nan_to_num(plane).any():
            plane[:] = np.nan
    nchan, ny, nx = data.shape
    if not np.isfinite(data).any():
        raise DataError(f"{imagename!r} holds no valid pixel: all are masked, blank or zero")
    cell = cell_size(template)
    freq, frame, restfreq = frequencies(template)

    psf = psf or find_companion(imagename, "psf")
    beams = _beams(template, log)
    psf_data = None
    if psf:
        psf_data = _read_psf(psf, nchan, cell)
        log(f"PSF: {psf} ({psf_data.shape[2]} x {psf_data.shape[1]} pixels, {psf_data.shape[0]} planes)")
        if beams is None:
            log("the image has no restoring beam; fitted to the PSF")
            beams = np.broadcast_to([fit_beam(plane, cell) for plane in psf_data], (nchan, 3)).copy()
    elif beams is None:
        raise DataError(
            f"{imagename!r} has neither a restoring beam in its header nor a PSF beside it: "
            "give psf=, or set the beam: " + _set_beam(template)
        )
    if psf_data is None:
        log("no PSF found: the Gaussian beam of the header stands in for it, sidelobes are not removed", "WARN")
        psf_data = gaussian_psf(beams, cell, (2 * ny, 2 * nx))
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
        psf_is_measured=bool(psf),
        spectral=template.nchan > 1,
        meta=_meta(template),
    )
    return cube, template


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


def write_planes(
    name: str, planes: NDArray, template: Template, *, unit: str = "", history: tuple[str, ...] = ()
) -> None:
    """Write (nchan, ny, nx) values as a CASA image on the template's grid; every Stokes plane gets the same."""
    ia = image()
    try:
        ia.fromshape(name, list(template.shape), csys=template.csys, overwrite=True, log=False)
        ia.setbrightnessunit(unit)
        ndim, nchan = len(template.shape), template.nchan
        ny, nx = planes.shape[1:]
        step = max(1, SLAB // (ny * nx))
        for start in range(0, nchan, step):
            slab = np.asarray(planes[start : start + step], dtype=np.float32)
            roles = {template.x: 2, template.y: 1}
            casa = slab
            if template.spectral is not None:
                roles[template.spectral] = 0
            else:
                casa = slab[0]
                roles = {template.x: 1, template.y: 0}
            order = sorted(roles)
            casa = casa.transpose([roles[axis] for axis in order])
            for axis in range(ndim):
                if axis not in roles:
                    casa = np.repeat(np.expand_dims(casa, axis), template.shape[axis], axis=axis)
            blc = [0] * ndim
            if template.spectral is not None:
                blc[template.spectral] = start
            ia.putchunk(np.asarray(casa, dtype=float), blc=blc)
        if history:
            ia.sethistory(origin="sdeepfocus", history=list(history))
    finally:
        ia.done()


def write_sky(name: str, plane: NDArray, template: Template, *, unit: str = "", history: tuple[str, ...] = ()) -> None:
    """Write an (ny, nx) map as a CASA image that keeps only the sky axes of the template."""
    record = dict(template.csys)
    index = index_of(record, "direction")
    keep = {
        key.rstrip("0123456789") + "0": value
        for key, value in record.items()
        if key in {f"{kind}{index}" for kind in ("direction", "pixelreplace", "worldreplace")}
    }
    others = {key: record[key] for key in ("obsdate", "observer", "telescope", "telescopeposition", "pointingcenter")
              if key in record}  # fmt: skip
    keep |= others | {"pixelmap0": np.array([0, 1]), "worldmap0": np.array([0, 1])}
    flat = Template(
        csys=keep, shape=(plane.shape[1], plane.shape[0]), x=0, y=1, spectral=None, stokes=None, name="", unit=unit
    )
    write_planes(name, plane[None], flat, unit=unit, history=history)


def _planes(template: Template, *, mask: bool) -> NDArray[np.float32]:
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
    with _pixels(template) as (read, valid):
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


@contextmanager
def _pixels(template: Template) -> Iterator[tuple[Callable[..., NDArray], Callable[..., NDArray] | None]]:
    """Functions of two corners, inclusive, in CASA's order: the pixels, and which are valid (None: all but NaN)."""
    if template.fits is not None:
        with template.fits.pixels() as read:
            yield read, None
    else:
        with opened(template.name) as ia:
            yield ia.getchunk, partial(ia.getchunk, getmask=True)


def _beams(template: Template, log: Log) -> NDArray[np.float64] | None:
    """(nchan, 3) restoring beams [arcsec, arcsec, deg] in the pixel frame; channels without get their neighbour's."""
    found, nchan = template.fits, template.nchan
    beams: NDArray[np.float64] | None = None
    if found is None:
        beams = _record_beams(template.name, nchan)
    elif found.beams is not None:
        beams = table_beams(found.beams, nchan)
    if beams is None and found is not None:
        beam = header_beam(found)
        if beam is not None:
            log("beam {:.4g} x {:.4g} arcsec, {:.4g} deg: ".format(*beam.values) + beam.source)
            beams = np.tile(beam.values, (nchan, 1))
    if beams is None:
        return None
    good = np.flatnonzero((beams[:, 1] > 0) & np.isfinite(beams).all(axis=1))
    if len(good) == 0:
        return None
    return _in_pixel_frame(beams[nearest(good, nchan)], template)


def _record_beams(name: str, nchan: int) -> NDArray[np.float64] | None:
    """(nchan, 3) beams of a CASA image as they stand, on the sky."""
    with opened(name) as ia:
        record = ia.restoringbeam()
    if not record:
        return None
    if "beams" not in record:
        return np.tile(_beam_row(record), (nchan, 1))
    beams = np.array([_beam_row(record["beams"][f"*{chan}"]["*0"]) for chan in range(int(record["nChannels"]))])
    return beams if len(beams) == nchan else np.tile(beams[0], (nchan, 1))


def _in_pixel_frame(beams: NDArray[np.float64], template: Template) -> NDArray[np.float64]:
    """Beams (n, 3) on the sky, whose angles are defined at the reference pixel, as the pixels see them."""
    wcs, cell = celestial_wcs(template), cell_size(template)
    frame = jacobian(wcs, *(float(value) - 1.0 for value in wcs.wcs.crpix)) / cell
    on_sky = shape_to_covariance(beams[:, 0], beams[:, 1], beams[:, 2])
    return np.stack(covariance_to_shape(transform(on_sky, np.linalg.inv(frame))), axis=1)


def _set_beam(template: Template) -> str:
    """How a beam is written into an image's header."""
    if template.fits is None:
        return f"imhead({template.name!r}, mode='put', hdkey='beammajor', hdvalue='3arcsec'), and beamminor, beampa"
    return f"astropy.io.fits.setval({template.name!r}, 'BMAJ', value=3 / 3600) [deg], and BMIN, BPA"


def nearest(good: NDArray[np.intp], nchan: int) -> NDArray[np.intp]:
    """For each of `nchan` channels, the nearest of the `good` ones."""
    return good[np.abs(np.arange(nchan)[:, None] - good[None, :]).argmin(axis=1)]


def _beam_row(beam: dict[str, Any]) -> NDArray[np.float64]:
    to_arcsec = {"arcsec": 1.0, "arcmin": 60.0, "deg": 3600.0, "rad": ARCSEC, "mas": 1e-3}
    major, minor, pa = beam["major"], beam["minor"], beam["positionangle"]
    angle = float(pa["value"]) * (1.0 if pa["unit"] == "deg" else np.degrees(1.0))
    sizes = [float(axis["value"]) * to_arcsec[axis["unit"]] for axis in (major, minor)]
    return np.array([*sizes, angle % 180.0])


def _read_psf(name: str, nchan: int, cell: float) -> NDArray[np.float32]:
    """(1 or nchan, py, px) float32: peak 1 at (py//2, px//2), 0 where masked."""
    template = inspect(name)
    if abs(cell_size(template) - cell) > 1e-3 * cell:
        raise DataError(f"the psf {name!r} has pixels of {cell_size(template):.4g} arcsec, the image {cell:.4g} arcsec")
    if template.nchan not in (1, nchan):
        raise DataError(f"the psf {name!r} has {template.nchan} channels, the image {nchan}")
    planes = np.nan_to_num(_planes(template, mask=False), copy=False)
    py, px = planes.shape[1:]
    peaks = planes.max(axis=(1, 2))
    good = np.flatnonzero(peaks > 0)
    if len(good) == 0:
        raise DataError(f"the psf {name!r} is empty")
    if len(good) < len(planes):
        planes = planes[nearest(good, len(planes))]
        peaks = planes.max(axis=(1, 2))
    y, x = np.unravel_index(int(planes[0].argmax()), (py, px))
    if (y, x) != (py // 2, px // 2):
        planes = _recentre(planes, int(y), int(x))
    planes /= peaks[:, None, None]
    return planes


def _unmask_outside_pb(data: NDArray[np.float32], pb: NDArray[np.float32], template: Template) -> None:
    """Give back, in place, the pixels that tclean masks only because the primary beam is low there.

    They are valid in a dirty image, and without them sources near the limit cannot be fitted.
    """
    outside = np.broadcast_to(np.isnan(pb), data.shape) & np.isnan(data)
    if outside.any():
        data[outside] = _planes(template, mask=False)[outside]
        # The mosaic gridder writes zeros there.
        data[outside & (data == 0)] = np.nan


def _recentre(planes: NDArray[np.float32], y: int, x: int) -> NDArray[np.float32]:
    """Move pixel (y, x) to the middle; what enters at the edges is 0."""
    py, px = planes.shape[1:]
    out = np.zeros_like(planes)
    sy, sx = py // 2 - y, px // 2 - x
    out[:, max(sy, 0) : py + min(sy, 0), max(sx, 0) : px + min(sx, 0)] = planes[
        :, max(-sy, 0) : py + min(-sy, 0), max(-sx, 0) : px + min(-sx, 0)
    ]
    return out


def _read_pb(name: str, template: Template, log: Log) -> NDArray[np.float32]:
    """(1 or nchan, ny, nx) float32 response; NaN where masked."""
    shape = (template.shape[template.y], template.shape[template.x])
    if not name:
        log("no primary beam found: taken as 1 everywhere, fluxes are not corrected")
        return np.ones((1, *shape), dtype=np.float32)
    own = inspect(name)
    if (own.shape[own.y], own.shape[own.x]) != shape or own.nchan not in (1, template.nchan):
        raise ParameterError(
            "pb", name, f"has {own.nchan} x {own.shape[own.y]} x {own.shape[own.x]} pixels (chan, y, x), "
            f"the image {template.nchan} x {shape[0]} x {shape[1]}", "Give the pb that was made with the image",
        )  # fmt: skip
    log(f"primary beam: {name}")
    return _planes(own, mask=True)


def _meta(template: Template) -> dict[str, str]:
    record = template.csys
    system = str(coordinate(record, "direction")["system"])
    meta = {"image": template.name, "radesys": {"J2000": "FK5", "B1950": "FK4"}.get(system, system)}
    if system != "ICRS":
        meta["equinox"] = system[1:]
    for key in ("telescope", "observer"):
        if record.get(key):
            meta[key] = str(record[key])
    if "obsdate" in record:
        meta["obsdate_mjd"] = f"{record['obsdate']['m0']['value']:.6f}"
    return meta
