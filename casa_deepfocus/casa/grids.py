"""The grid of an image for CASA: CASA's own images, and what CASA needs to write on a grid.

FITS headers are read by `reading.headers` and `reading.spectral`; CASA is handed a header written anew from what they
found, so that products have coordinates in its own form. CASA images bring that form along. Either way the sky that the
core works with, an astropy WCS, is compared with CASA's, and an image on which they differ is refused.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
from astropy.io import fits
from astropy.wcs import WCS
from casatools import coordsys, image
from numpy.typing import NDArray

from casa_deepfocus.errors import DataError
from casa_deepfocus.reading import fitsfiles, headers
from casa_deepfocus.reading.fitsfiles import FitsImage
from casa_deepfocus.reading.grid import Grid, Reads, celestial_wcs, cell_size, described, or_problem
from casa_deepfocus.reading.spectral import FRAMES, Spectrum, check_regular

ARCSEC = float(np.degrees(1.0) * 3600.0)
"""Arcseconds in a radian."""

AGREEMENT = 0.01
"""Largest distance [pixel] between astropy's and CASA's place of a pixel on the sky; both are exact to 1e-6."""

OBSERVATION = ("TELESCOP", "OBSERVER", "DATE-OBS", "TIMESYS", "OBSGEO-X", "OBSGEO-Y", "OBSGEO-Z")
"""Keywords that CASA's coordinates carry along, and can do without."""


@dataclass(frozen=True)
class Template(Grid):
    """What is needed to read an image, and to write one on its grid.

    Attributes
    ----------
    csys : dict
        The coordinate system, as the coordsys tool records it.
    """

    csys: dict[str, Any] = field(default_factory=dict)

    @contextmanager
    def pixels(self) -> Iterator[tuple[Reads, Reads | None]]:
        """As `Grid.pixels`, of a CASA image too."""
        if self.fits is not None:
            with super().pixels() as both:
                yield both
        else:
            with opened(self.name) as ia:
                yield ia.getchunk, partial(ia.getchunk, getmask=True)

    def beams(self, log: Any) -> NDArray[np.float64] | None:
        """As `Grid.beams`, of a CASA image too."""
        return super().beams(log) if self.fits is not None else _record_beams(self.name, self.nchan)

    def stokes_names(self) -> list[str]:
        """As `Grid.stokes_names`, of a CASA image too."""
        if self.fits is not None or self.stokes is None:
            return super().stokes_names()
        return [str(name) for name in np.atleast_1d(coordinate(self.csys, "stokes")["stokes"])]

    def history(self) -> list[str]:
        """As `Grid.history`, of a CASA image too."""
        if self.fits is not None:
            return super().history()
        with opened(self.name) as ia:
            try:
                return [str(line) for line in ia.history(list=False)]
            except RuntimeError:
                return []

    def meta(self) -> dict[str, str]:
        """As `Grid.meta`, of a CASA image too."""
        record = self.csys
        system = str(coordinate(record, "direction")["system"])
        meta = {"image": self.name, "radesys": {"J2000": "FK5", "B1950": "FK4"}.get(system, system)}
        if system != "ICRS":
            meta["equinox"] = system[1:]
        for key in ("telescope", "observer"):
            if record.get(key):
                meta[key] = str(record[key])
        if "obsdate" in record:
            meta["obsdate_mjd"] = f"{record['obsdate']['m0']['value']:.6f}"
        return meta

    def set_beam(self) -> str:
        """As `Grid.set_beam`, of a CASA image too."""
        if self.fits is not None:
            return super().set_beam()
        return f"imhead({self.name!r}, mode='put', hdkey='beammajor', hdvalue='3arcsec'), and beamminor, beampa"

    def check_sky(self) -> None:
        """See that CASA and astropy put the image at the same place on the sky.

        Raises
        ------
        DataError
            Where they differ by more than `AGREEMENT`.
        """
        _check_agreement(self)


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
    found = fitsfiles.read(str(name))
    return _inspect_casa(str(name)) if found is None else _inspect_fits(found)


def coordinate(record: dict[str, Any], kind: str) -> dict[str, Any]:
    return record[f"{kind}{index_of(record, kind)}"]


def index_of(record: dict[str, Any], kind: str) -> int:
    for key in record:
        if key.startswith(kind) and key[len(kind) :].isdigit():
            return int(key[len(kind) :])
    raise DataError(f"the image has no {kind} axis")


def _inspect_fits(found: FitsImage) -> Template:
    fields = described(found)
    csys: dict[str, Any] = {}
    if fields["wcs"] is not None:
        problems = list(fields["problems"])
        axes = headers.axes_of(found)
        csys = or_problem(problems, lambda: _casa_record(found, axes, fields["wcs"], fields["spectrum"])) or {}
        fields["problems"] = tuple(problems)
    return Template(**fields, csys=csys)


def _casa_record(found: FitsImage, axes: headers.Axes, wcs: WCS, spectrum: Spectrum | None) -> dict[str, Any]:
    """CASA's record of a FITS image's coordinates, from a tiny file whose header it can read whatever the image's."""
    cards = headers.casa_cards(wcs, (axes.lng, axes.lat))
    tiny = [1] * len(found.shape)
    if axes.stokes is not None:
        codes = headers.stokes_codes(found, axes.stokes)
        tiny[axes.stokes - 1] = len(codes)
        step = codes[1] - codes[0] if len(codes) > 1 else 1.0
        cards |= {f"CTYPE{axes.stokes}": "STOKES", f"CRVAL{axes.stokes}": codes[0], f"CRPIX{axes.stokes}": 1.0,
                  f"CDELT{axes.stokes}": step}  # fmt: skip
    if axes.spectral is not None and spectrum is not None:
        first, step = spectrum.line
        cards |= {f"CTYPE{axes.spectral}": "FREQ", f"CUNIT{axes.spectral}": "Hz", f"CRVAL{axes.spectral}": first,
                  f"CRPIX{axes.spectral}": 1.0, f"CDELT{axes.spectral}": step}  # fmt: skip
        frame = next((name for name, casa in FRAMES.items() if casa == spectrum.frame), "")
        cards |= {"SPECSYS": frame} if frame else {}
        cards |= {"RESTFRQ": spectrum.restfreq} if spectrum.restfreq else {}
    for axis in range(1, len(found.shape) + 1):
        cards.setdefault(f"CTYPE{axis}", f"LINEAR{axis}")
    extras = {key: found.header[key] for key in OBSERVATION if key in found.header}
    try:
        return _record_of(tiny, cards | extras)
    except (RuntimeError, ValueError):
        pass
    try:
        return _record_of(tiny, cards)
    except (RuntimeError, ValueError) as error:
        raise DataError(f"CASA cannot describe the coordinates of {found.name!r} ({_first_line(error)})") from error


def _record_of(shape: list[int], cards: dict[str, Any]) -> dict[str, Any]:
    hdu = fits.PrimaryHDU(np.zeros(shape[::-1], dtype=np.float32))
    for key, value in cards.items():
        hdu.header[key] = value
    with tempfile.TemporaryDirectory(prefix="sdeepfocus-") as folder:
        path = os.path.join(folder, "header.fits")
        hdu.writeto(path)
        with opened(path) as ia:
            cs = ia.coordsys()
            try:
                return cs.torecord()
            finally:
                cs.done()


def _inspect_casa(name: str) -> Template:
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
        raise DataError(
            f"{name!r} has a further axis of {extra[0]} pixels; two sky axes, a spectral and a Stokes axis are read. "
            "If it was imported from a FITS file, give that file"
        )
    problems: list[DataError] = []
    wcs = or_problem(problems, lambda: _record_wcs(record, name))
    spectrum = None
    if spectral >= 0:
        spectrum = or_problem(problems, lambda: _record_spectrum(record, spectral, shape[spectral], name))
    return Template(
        csys=record,
        shape=shape,
        x=x,
        y=y,
        spectral=spectral if spectral >= 0 else None,
        stokes=stokes if stokes >= 0 else None,
        name=name,
        unit=unit,
        wcs=wcs,
        spectrum=spectrum,
        problems=tuple(problems),
    )


def _record_spectrum(record: dict[str, Any], axis: int, nchan: int, name: str) -> Spectrum:
    """The spectral axis of a CASA image."""
    spectral = coordinate(record, "spectral")
    frame = str(spectral["system"])
    cs = coordsys()
    try:
        cs.fromrecord(record)
        if frame in FRAMES.values():
            cs.setconversiontype(spectral=frame)
        reference = np.asarray(cs.referencepixel()["numeric"], dtype=float)
        world_axis = int(np.asarray(record[f"worldmap{index_of(record, 'spectral')}"])[0])
        pixels = np.repeat(reference[:, None], nchan, axis=1)
        pixels[axis] = np.arange(nchan)
        freq = np.asarray(cs.toworldmany(pixels)["numeric"], dtype=float)[world_axis]
        unit = str(np.atleast_1d(cs.units())[world_axis])
    finally:
        cs.done()
    if unit != "Hz":
        raise DataError(f"{name!r} has a spectral axis in {unit!r}; one in Hz is needed")
    check_regular(freq, name)
    notes: tuple[tuple[str, str], ...] = ()
    if frame not in FRAMES.values():
        frame, notes = "", ((f"{name} does not say which spectral frame it is in; frequencies stand as given", "WARN"),)
    return Spectrum(freq, frame, float(spectral.get("restfreq", 0.0)), notes)


def _record_wcs(record: dict[str, Any], name: str) -> WCS:
    """The sky axes of CASA's record as an astropy WCS."""
    direction = coordinate(record, "direction")
    system = str(direction["system"])
    if system not in ("ICRS", "J2000", "B1950"):
        raise DataError(
            f"{name!r} is in {system} coordinates; right ascension and declination are needed: make the image in ICRS "
            "or J2000"
        )
    to_deg = np.degrees(1.0) if str(direction["units"][0]) == "rad" else 1.0
    projection = str(direction["projection"])
    wcs = WCS(naxis=2)
    wcs.wcs.ctype = [f"RA---{projection}", f"DEC--{projection}"]
    wcs.wcs.cunit = ["deg", "deg"]
    wcs.wcs.crval = np.asarray(direction["crval"]) * to_deg
    wcs.wcs.cdelt = np.asarray(direction["cdelt"]) * to_deg
    wcs.wcs.crpix = np.asarray(direction["crpix"]) + 1.0
    # casatools hands matrices over with their axes exchanged.
    wcs.wcs.pc = np.asarray(direction["pc"]).T
    wcs.wcs.lonpole, wcs.wcs.latpole = float(direction["longpole"]), float(direction["latpole"])
    parameters = np.atleast_1d(direction.get("projection_parameters", []))
    if projection in ("SIN", "ZEA", "TAN") and np.any(parameters):
        wcs.wcs.set_pv([(2, i + 1, float(value)) for i, value in enumerate(parameters)])
    if system == "ICRS":
        wcs.wcs.radesys = "ICRS"
    else:
        wcs.wcs.radesys, wcs.wcs.equinox = ("FK4", 1950.0) if system == "B1950" else ("FK5", 2000.0)
    try:
        wcs.wcs.set()
    except Exception as error:  # wcslib's errors share no base but this
        raise DataError(f"the sky coordinates of {name!r} cannot be understood ({_last_line(error)})") from error
    return wcs


def _check_agreement(template: Template) -> None:
    """See that CASA and astropy put an image at the same place on the sky.

    Raises
    ------
    DataError
        Where they differ by more than `AGREEMENT`.
    """
    wcs, cell = celestial_wcs(template), cell_size(template)
    record = template.csys
    nx, ny = template.shape[template.x], template.shape[template.y]
    places = [(0.0, 0.0), (nx - 1.0, 0.0), (0.0, ny - 1.0), (nx - 1.0, ny - 1.0), (0.5 * (nx - 1), 0.5 * (ny - 1))]
    worlds = [int(axis) for axis in np.atleast_1d(record[f"worldmap{index_of(record, 'direction')}"])]
    cs = coordsys()
    try:
        cs.fromrecord(record)
        pixel = np.asarray(cs.referencepixel()["numeric"], dtype=float)
        for place in places:
            ours = wcs.wcs_pix2world([place], 0)[0]
            if not np.isfinite(ours).all():
                continue
            pixel[[template.x, template.y]] = place
            try:
                theirs = np.degrees(np.asarray(cs.toworld(list(pixel))["numeric"], dtype=float)[worlds])
            except RuntimeError:
                theirs = np.full(2, np.nan)
            east = ((theirs[0] - ours[0] + 180.0) % 360.0 - 180.0) * np.cos(np.deg2rad(ours[1]))
            if not np.hypot(east, theirs[1] - ours[1]) * 3600.0 < AGREEMENT * cell:
                raise DataError(
                    f"CASA and astropy read the sky coordinates of {template.name!r} differently (pixel {place}: "
                    f"{theirs[0] % 360.0:.7f}, {theirs[1]:.7f} and {ours[0] % 360.0:.7f}, {ours[1]:.7f} deg): "
                    "make the image in the projection SIN or TAN"
                )
    finally:
        cs.done()


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


def _last_line(exc: Exception) -> str:
    return str(exc).strip().splitlines()[-1] if str(exc).strip() else type(exc).__name__


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


def _beam_row(beam: dict[str, Any]) -> NDArray[np.float64]:
    to_arcsec = {"arcsec": 1.0, "arcmin": 60.0, "deg": 3600.0, "rad": ARCSEC, "mas": 1e-3}
    major, minor, pa = beam["major"], beam["minor"], beam["positionangle"]
    angle = float(pa["value"]) * (1.0 if pa["unit"] == "deg" else np.degrees(1.0))
    sizes = [float(axis["value"]) * to_arcsec[axis["unit"]] for axis in (major, minor)]
    return np.array([*sizes, angle % 180.0])
