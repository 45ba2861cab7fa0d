"""The one door between CASA or FITS images and the core's `Cube`.

CASA's image tool opens both kinds; its axes (x, y, Stokes and frequency in any order) are turned
into (chan, y, x) here, in `_planes`, and back in `write_planes`, and nowhere else.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
from astropy.wcs import WCS
from casatools import coordsys, image
from numpy.typing import NDArray

from casa_deepfocus.core.cube import Cube
from casa_deepfocus.core.geometry import covariance_to_shape, gaussian_image, shape_to_covariance
from casa_deepfocus.errors import DataError, ParameterError

ARCSEC = float(np.degrees(1.0) * 3600.0)
"""Arcseconds in a radian."""

DIRTY_ENDINGS = (".image", ".residual", ".dirty")
FITS_ENDINGS = (".fits", ".fit", ".fits.gz", ".fits.fz")
UNITS = {"": 1.0, "jy/beam": 1.0, "jybeam-1": 1.0, "mjy/beam": 1e-3, "mjybeam-1": 1e-3, "ujy/beam": 1e-6}
SLAB = 2**24
"""Pixels that are read or written at a time (the tool works in double precision)."""

Log = Callable[..., None]


def _silent(message: str, priority: str = "INFO") -> None:
    """A log that drops its messages."""


@dataclass(frozen=True)
class Template:
    """What is needed to write an image on the grid of one that was read.

    Attributes
    ----------
    csys : dict
        The coordinate system, as the coordsys tool records it.
    shape : tuple of int
        Pixels along CASA's axes, in CASA's order.
    x, y : int
        Which of these are right ascension and declination.
    spectral, stokes : int or None
        Which are frequency and Stokes; None where the image has no such axis.
    name : str
        The image it was read from.
    unit : str
        Its brightness unit.
    """

    csys: dict[str, Any]
    shape: tuple[int, ...]
    x: int
    y: int
    spectral: int | None
    stokes: int | None
    name: str
    unit: str

    @property
    def nchan(self) -> int:
        """Number of channels; 1 without a spectral axis."""
        return 1 if self.spectral is None else self.shape[self.spectral]


@contextmanager
def opened(name: str) -> Iterator[Any]:
    """An image tool attached to a CASA or FITS image, closed afterwards.

    Raises
    ------
    DataError
        Where CASA cannot read it.
    """
    ia = image()
    try:
        try:
            ok = ia.open(str(name))
        except RuntimeError as exc:
            raise DataError(f"{name!r} cannot be read as a CASA or FITS image ({_first_line(exc)})") from exc
        if not ok:
            raise DataError(f"{name!r} cannot be read as a CASA or FITS image")
        yield ia
    finally:
        ia.done()


def inspect(name: str) -> Template:
    """The grid of an image, without its pixels.

    Raises
    ------
    DataError
        Where the axes are not those of a dirty image: see `docs/products.md`.
    """
    with opened(name) as ia:
        cs = ia.coordsys()
        try:
            record = cs.torecord()
        finally:
            cs.done()
        shape = tuple(int(n) for n in ia.shape())
        unit = str(ia.brightnessunit())
    axes = _axes(record)
    if "direction" not in axes:
        raise DataError(f"{name!r} has no sky axes (right ascension and declination)")
    x, y = axes["direction"]
    if x < 0 or y < 0:
        raise DataError(f"{name!r} has only one sky axis: give an image, not a position-velocity slice")
    spectral, stokes = (axes.get(kind, [-1])[0] for kind in ("spectral", "stokes"))
    known = {x, y, spectral, stokes}
    extra = [n for axis, n in enumerate(shape) if axis not in known and n > 1]
    if extra:
        raise DataError(f"{name!r} has a further axis of {extra[0]} pixels; extract one plane with imsubimage")
    return Template(
        csys=record,
        shape=shape,
        x=x,
        y=y,
        spectral=spectral if spectral >= 0 else None,
        stokes=stokes if stokes >= 0 else None,
        name=str(name),
        unit=unit,
    )


def find_companion(imagename: str, kind: str) -> str:
    """Name of the psf or pb that tclean's naming puts beside an image; '' where there is none.

    ``x.image``, ``x.residual`` and ``x.dirty`` lead to ``x.psf``; ``x.dirty.fits`` to ``x.psf.fits``;
    any other ``x`` to ``x.psf``. A CASA image may have a FITS companion and the other way round.
    """
    stem = imagename.rstrip("/")
    for ending in FITS_ENDINGS:
        if stem.endswith(ending):
            stem = stem[: -len(ending)]
            break
    stems = [stem]
    for ending in DIRTY_ENDINGS:
        if stem.endswith(ending):
            stems.insert(0, stem[: -len(ending)])
    for base in stems:
        for ending in ("", *FITS_ENDINGS):
            candidate = f"{base}.{kind}{ending}"
            if os.path.exists(candidate):
                return candidate
    return ""


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
    if "pbcor" in os.path.basename(imagename.rstrip("/")):
        log(f"{imagename} looks corrected for the primary beam; its noise is not flat and detections suffer", "WARN")
    if not template.unit.strip():
        log(f"{imagename} has no brightness unit; taken as Jy/beam", "WARN")
    scale = _unit_scale(template)
    data = _planes(template, mask=True)
    if scale != 1.0:
        data *= np.float32(scale)
    # tclean leaves channels without data at exactly zero.
    data[~np.any(np.nan_to_num(data), axis=(1, 2))] = np.nan
    nchan, ny, nx = data.shape
    if not np.isfinite(data).any():
        raise DataError(f"{imagename!r} holds no valid pixel: all are masked, blank or zero")
    cell = _cell(template)
    freq, frame, restfreq = _frequencies(template)

    psf = psf or find_companion(imagename, "psf")
    pb = pb or find_companion(imagename, "pb")
    beams = _beams(imagename, nchan)
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
            "give psf=, or set the beam with imhead(mode='put', hdkey='bmaj', ...)"
        )
    if psf_data is None:
        log("no PSF found: the Gaussian beam of the header stands in for it, sidelobes are not removed", "WARN")
        psf_data = gaussian_psf((ny, nx), beams, cell)
    cube = Cube(
        data=data,
        psf=psf_data,
        pb=_read_pb(pb, template, log),
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


def celestial_wcs(template: Template) -> WCS:
    """The sky coordinates of an image as a two-axis astropy WCS, for zero-based (x, y) pixels."""
    direction = _coordinate(template.csys, "direction")
    system = str(direction["system"])
    to_deg = np.degrees(1.0) if str(direction["units"][0]) == "rad" else 1.0
    projection = str(direction["projection"])
    wcs = WCS(naxis=2)
    wcs.wcs.ctype = [f"RA---{projection}", f"DEC--{projection}"]
    wcs.wcs.cunit = ["deg", "deg"]
    wcs.wcs.crval = np.asarray(direction["crval"]) * to_deg
    wcs.wcs.cdelt = np.asarray(direction["cdelt"]) * to_deg
    wcs.wcs.crpix = np.asarray(direction["crpix"]) + 1.0
    wcs.wcs.pc = np.asarray(direction["pc"])
    wcs.wcs.lonpole, wcs.wcs.latpole = float(direction["longpole"]), float(direction["latpole"])
    parameters = np.atleast_1d(direction.get("projection_parameters", []))
    if projection in ("SIN", "ZEA", "TAN") and np.any(parameters):
        wcs.wcs.set_pv([(2, i + 1, float(value)) for i, value in enumerate(parameters)])
    if system == "ICRS":
        wcs.wcs.radesys = "ICRS"
    else:
        wcs.wcs.radesys, wcs.wcs.equinox = ("FK4", 1950.0) if system.startswith("B1950") else ("FK5", 2000.0)
    wcs.wcs.set()
    return wcs


def gaussian_psf(shape: tuple[int, int], beams: NDArray[np.float64], cell: float) -> NDArray[np.float32]:
    """Gaussian PSFs of the given beams, over twice the field.

    Parameters
    ----------
    shape : (ny, nx) of the image
    beams : (nchan, 3) float64 [arcsec, arcsec, deg]
    cell : float [arcsec]

    Returns
    -------
    (1 or nchan, 2 ny, 2 nx) float32, peak 1 at (ny, nx); one plane where all beams are the same
    """
    ny, nx = shape
    distinct = beams[:1] if np.allclose(beams, beams[0], rtol=1e-6) else beams
    covariances = shape_to_covariance(distinct[:, 0] / cell, distinct[:, 1] / cell, distinct[:, 2])
    return np.stack([gaussian_image((2 * ny, 2 * nx), nx, ny, c).astype(np.float32) for c in covariances])


def fit_beam(psf: NDArray[np.floating], cell: float, level: float = 0.4) -> tuple[float, float, float]:
    """Gaussian beam of a PSF: a fit to the part of its main lobe above `level`.

    Parameters
    ----------
    psf : (py, px), peak 1 at (py//2, px//2)
    cell : float [arcsec]

    Returns
    -------
    fwhm_maj, fwhm_min [arcsec], pa [deg]

    Raises
    ------
    DataError
        Where the PSF has no main lobe that is resolved by the pixels.
    """
    py, px = psf.shape
    rows = np.arange(py)[:, None] - py // 2
    cols = np.arange(px)[None, :] - px // 2
    # The main lobe is searched within the smallest circle that the PSF leaves below the level.
    radius = np.hypot(rows, cols)
    below = radius[psf < level]
    near = radius <= (1.6 * below.min() if below.size else np.inf)
    lobe = near & (psf >= level) & (radius > 0)
    y, x = np.nonzero(lobe)
    if len(x) < 4:
        raise DataError("the main lobe of the PSF covers fewer than 5 pixels: image again with a smaller cell")
    dy, dx = y - py // 2, x - px // 2
    values = psf[y, x].astype(float)
    # ln p = -(a dx^2 + b dy^2 + 2 c dx dy) / 2 is linear in the inverse covariance.
    design = -0.5 * np.stack([dx * dx, dy * dy, 2 * dx * dy], axis=1) * values[:, None]
    (a, b, c), *_ = np.linalg.lstsq(design, np.log(values) * values, rcond=None)
    det = a * b - c * c
    if not (det > 0 and a > 0):
        raise DataError("the main lobe of the PSF is no Gaussian: give images with a restoring beam")
    fwhm_maj, fwhm_min, pa = covariance_to_shape([b / det, a / det, -c / det])
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
    index = _index(record, "direction")
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
    """(nchan, ny, nx) float32 pixels of an image; NaN where masked. Stokes I where there are several."""
    plane = _stokes_plane(template)
    ny, nx, nchan = template.shape[template.y], template.shape[template.x], template.nchan
    out = np.empty((nchan, ny, nx), dtype=np.float32)
    blc, trc = [0] * len(template.shape), [n - 1 for n in template.shape]
    if template.stokes is not None:
        blc[template.stokes] = trc[template.stokes] = plane
    order = [axis for axis in (template.spectral, template.y, template.x) if axis is not None]
    rest = tuple(axis for axis in range(len(template.shape)) if axis not in order)
    step = max(1, SLAB // (ny * nx))
    with opened(template.name) as ia:
        for start in range(0, nchan, step):
            stop = min(start + step, nchan)
            if template.spectral is not None:
                blc[template.spectral], trc[template.spectral] = start, stop - 1
            slab = np.transpose(ia.getchunk(blc, trc), [*order, *rest]).reshape(stop - start, ny, nx)
            out[start:stop] = slab
            if mask:
                good = np.transpose(ia.getchunk(blc, trc, getmask=True), [*order, *rest]).reshape(slab.shape)
                out[start:stop][~good] = np.nan
    out[~np.isfinite(out)] = np.nan
    return out


def _stokes_plane(template: Template) -> int:
    if template.stokes is None or template.shape[template.stokes] == 1:
        return 0
    names = [str(name) for name in np.atleast_1d(_coordinate(template.csys, "stokes")["stokes"])]
    if "I" not in names:
        raise DataError(f"{template.name!r} holds Stokes {names} and no I: extract one plane with imsubimage(stokes=)")
    return names.index("I")


def check_usable(template: Template) -> None:
    """See that an image has a unit, sky axes, pixels and a Stokes plane that the core can work with.

    Raises
    ------
    DataError
        Saying what stands in the way and which CASA task removes it.
    """
    _unit_scale(template)
    _stokes_plane(template)
    direction = _coordinate(template.csys, "direction")
    name = template.name
    if str(direction["system"]) not in ("ICRS", "J2000", "B1950"):
        raise DataError(f"{name!r} is in {direction['system']} coordinates: regrid it to ICRS with imregrid")
    dx, dy = (float(value) for value in np.asarray(direction["cdelt"]))
    if abs(abs(dx) - abs(dy)) > 1e-3 * abs(dy):
        raise DataError(
            f"{name!r} has pixels of {abs(dx) * ARCSEC:.4g} x {abs(dy) * ARCSEC:.4g} arcsec; "
            "they must be square: regrid it with imregrid"
        )
    pc = np.asarray(direction["pc"], dtype=float)
    if dx * pc[0, 0] > 0 or dy * pc[1, 1] < 0 or abs(pc[0, 1]) > 0.01 or abs(pc[1, 0]) > 0.01:
        raise DataError(f"{name!r} is rotated or mirrored on the sky; bring north up, east left with imregrid")


def _cell(template: Template) -> float:
    """Pixel size [arcsec]."""
    direction = _coordinate(template.csys, "direction")
    unit = ARCSEC if str(direction["units"][0]) == "rad" else 3600.0
    return abs(float(np.asarray(direction["cdelt"])[1])) * unit


def _unit_scale(template: Template) -> float:
    key = template.unit.strip().lower().replace(" ", "").replace(".", "")
    if key not in UNITS:
        raise DataError(
            f"{template.name!r} is in {template.unit!r}; an image in Jy/beam is needed (see imhead, immath)"
        )
    return UNITS[key]


def _frequencies(template: Template) -> tuple[NDArray[np.float64], str, float]:
    """Channel centres [Hz] in the image's native frame, that frame, and the rest frequency [Hz]."""
    if template.spectral is None:
        return np.full(1, np.nan), "", 0.0
    spectral = _coordinate(template.csys, "spectral")
    frame = str(spectral["system"])
    cs = coordsys()
    try:
        cs.fromrecord(template.csys)
        cs.setconversiontype(spectral=frame)
        reference = np.asarray(cs.referencepixel()["numeric"], dtype=float)
        world_axis = int(np.asarray(template.csys[f"worldmap{_index(template.csys, 'spectral')}"])[0])
        pixels = np.repeat(reference[:, None], template.nchan, axis=1)
        pixels[template.spectral] = np.arange(template.nchan)
        freq = np.asarray(cs.toworldmany(pixels)["numeric"], dtype=float)[world_axis]
        unit = str(np.atleast_1d(cs.units())[world_axis])
    finally:
        cs.done()
    if unit != "Hz":
        raise DataError(f"{template.name!r} has a spectral axis in {unit!r}; one in Hz is needed")
    step = np.diff(freq)
    if len(step) > 1 and not np.allclose(step, step.mean(), rtol=1e-3):
        raise DataError(f"{template.name!r} has irregular channels: regrid it with imregrid")
    return freq, frame, float(spectral.get("restfreq", 0.0))


def _beams(name: str, nchan: int) -> NDArray[np.float64] | None:
    """(nchan, 3) restoring beams [arcsec, arcsec, deg]; channels without one get their neighbour's."""
    with opened(name) as ia:
        record = ia.restoringbeam()
    if not record:
        return None
    if "beams" not in record:
        beam = _beam_row(record)
        return np.tile(beam, (nchan, 1)) if beam[1] > 0 else None
    beams = np.array([_beam_row(record["beams"][f"*{chan}"]["*0"]) for chan in range(int(record["nChannels"]))])
    if len(beams) != nchan:
        beams = np.tile(beams[0], (nchan, 1))
    good = np.flatnonzero((beams[:, 1] > 0) & np.isfinite(beams).all(axis=1))
    if len(good) == 0:
        return None
    return beams[nearest(good, nchan)]


def nearest(good: NDArray[np.intp], nchan: int) -> NDArray[np.intp]:
    """For each of `nchan` channels, the nearest of the `good` ones."""
    return good[np.abs(np.arange(nchan)[:, None] - good[None, :]).argmin(axis=1)]


def _beam_row(beam: dict[str, Any]) -> NDArray[np.float64]:
    to_arcsec = {"arcsec": 1.0, "arcmin": 60.0, "deg": 3600.0, "rad": ARCSEC, "mas": 1e-3}
    major, minor, pa = beam["major"], beam["minor"], beam.get("positionangle", beam.get("pa"))
    angle = float(pa["value"]) * (1.0 if pa["unit"] == "deg" else np.degrees(1.0))
    sizes = [float(axis["value"]) * to_arcsec[axis["unit"]] for axis in (major, minor)]
    return np.array([*sizes, angle % 180.0])


def _read_psf(name: str, nchan: int, cell: float) -> NDArray[np.float32]:
    """(1 or nchan, py, px) float32: peak 1 at (py//2, px//2), 0 where masked."""
    template = inspect(name)
    if abs(_cell(template) - cell) > 1e-3 * cell:
        raise DataError(f"the psf {name!r} has pixels of {_cell(template):.4g} arcsec, the image {cell:.4g} arcsec")
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
    system = str(_coordinate(record, "direction")["system"])
    meta = {"image": template.name, "radesys": {"J2000": "FK5", "B1950": "FK4"}.get(system, system)}
    if system != "ICRS":
        meta["equinox"] = system[1:]
    for key in ("telescope", "observer"):
        if record.get(key):
            meta[key] = str(record[key])
    if "obsdate" in record:
        meta["obsdate_mjd"] = f"{record['obsdate']['m0']['value']:.6f}"
    return meta


def _index(record: dict[str, Any], kind: str) -> int:
    for key in record:
        if key.startswith(kind) and key[len(kind) :].isdigit():
            return int(key[len(kind) :])
    raise DataError(f"the image has no {kind} axis")


def _coordinate(record: dict[str, Any], kind: str) -> dict[str, Any]:
    return record[f"{kind}{_index(record, kind)}"]


def _axes(record: dict[str, Any]) -> dict[str, list[int]]:
    """Pixel axes of each kind of coordinate; -1 where an axis was removed."""
    axes: dict[str, list[int]] = {}
    for key in record:
        kind = key.rstrip("0123456789")
        if kind in ("direction", "spectral", "stokes") and kind != key:
            axes[kind] = [int(axis) for axis in np.atleast_1d(record[f"pixelmap{key[len(kind) :]}"])]
    return axes


def _first_line(exc: Exception) -> str:
    return str(exc).strip().splitlines()[0] if str(exc).strip() else type(exc).__name__
