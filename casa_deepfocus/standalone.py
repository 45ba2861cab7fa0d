"""The search without CASA: on arrays, spectral-cube's objects and FITS files.

import casa_deepfocus
found = casa_deepfocus.find(data, wcs, psf=psf, pb=pb, beam=(1.2, 0.9, 30.0))
found.catalogue
"""

from __future__ import annotations

import dataclasses
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from astropy import units as u
from astropy.io import fits
from astropy.wcs import WCS
from numpy.typing import ArrayLike, NDArray

from casa_deepfocus import pipeline
from casa_deepfocus.core.cube import Cube
from casa_deepfocus.errors import DeepFocusError, ParameterError, ProductError
from casa_deepfocus.models import runner
from casa_deepfocus.pipeline import completeness as artificial
from casa_deepfocus.pipeline.residual import residual
from casa_deepfocus.products import completeness as curves
from casa_deepfocus.products import cutouts as cutout_files
from casa_deepfocus.products import fitsimages, progress, report, tables, velocity, writing
from casa_deepfocus.products.found import Found, Spectrum
from casa_deepfocus.products.moments import moments
from casa_deepfocus.reading import cube as reading
from casa_deepfocus.reading import grid as grids
from casa_deepfocus.reading import headers
from casa_deepfocus.reading.fitsfiles import FitsImage
from casa_deepfocus.reading.grid import Grid, Reads
from casa_deepfocus.reading.spectral import Spectrum as Axis
from casa_deepfocus.reading.spectral import check_regular

Log = Callable[..., None]

DATA, PSF, PB = "data (array)", "psf (array)", "pb (array)"
"""What messages call images that have no file."""


@dataclass(frozen=True)
class ArrayGrid(Grid):
    """An image that is an array.

    Attributes
    ----------
    array : (nchan, ny, nx) or (ny, nx)
    given : (nchan, 3) float64 or None
        Beams [arcsec, arcsec, deg] on the sky.
    header : astropy.io.fits.Header
    """

    array: NDArray = field(default_factory=lambda: np.zeros((1, 1)))
    given: NDArray[np.float64] | None = None
    header: fits.Header = field(default_factory=fits.Header)

    @contextmanager
    def pixels(self) -> Iterator[tuple[Reads, Reads | None]]:
        """As `Grid.pixels`."""
        turned = self.array.T

        def read(corner: Sequence[int], far: Sequence[int]) -> NDArray:
            return turned[tuple(slice(first, last + 1) for first, last in zip(corner, far, strict=True))]

        yield read, None

    def beams(self, log: Log) -> NDArray[np.float64] | None:
        """As `Grid.beams`."""
        return self.given

    def stokes_names(self) -> list[str]:
        """As `Grid.stokes_names`."""
        return []

    def history(self) -> list[str]:
        """As `Grid.history`."""
        return [str(line) for line in self.header.get("HISTORY", [])]

    def meta(self) -> dict[str, str]:
        """As `Grid.meta`."""
        system = str(grids.celestial_wcs(self).wcs.radesys)
        equinox = {} if system == "ICRS" else {"equinox": f"{float(grids.celestial_wcs(self).wcs.equinox):.1f}"}
        known = {key: str(self.header[word]) for word, key in grids.OBSERVED.items() if self.header.get(word)}
        return {"image": self.name, "radesys": system} | equinox | known

    def set_beam(self) -> str:
        """As `Grid.set_beam`."""
        return "beam=(major arcsec, minor arcsec, position angle deg)"


def find(
    data: Any,
    wcs: WCS | fits.Header | None = None,
    psf: Any = None,
    pb: Any = None,
    beam: Any = None,
    *,
    freq: ArrayLike | None = None,
    frame: str = "",
    restfreq: Any = "",
    veltype: str = velocity.RADIO,
    mode: str = "both",
    minsnr: float = 5.0,
    falsealarms: float = 0.00025,
    completeness: int = 0,
    models: str = "",
    device: str = "auto",
    log: Log = reading.silent,
) -> Found:
    """Find and measure the sources of a dirty cube that is in memory. Needs no CASA and writes nothing.

    Parameters
    ----------
    data : (nchan, ny, nx) or (ny, nx) array [Jy/beam], Quantity, or a cube of spectral-cube
        Dirty image, not corrected for the primary beam; NaN where blank.
    wcs : astropy.wcs.WCS or FITS header, optional
        Of the data, with its sky axes first and the spectral one third; a cube of spectral-cube brings its own.
    psf : array or cube, optional
        (1 or nchan, py, px), ideally of twice the data's size, its peak, 1, in the middle pixel. Without it the
        Gaussian beam stands in for it, and sidelobes are not removed.
    pb : array or cube, optional
        (1 or nchan, ny, nx) primary beam; 1 where it is not given.
    beam : (major, minor, position angle) [arcsec, arcsec, deg], a beam of radio-beam, or one for each channel; optional
        Restoring beam; fitted to the PSF where neither it nor the header tells.
    freq : (nchan,) [Hz] or Quantity, optional
        Channel centres, where `wcs` has sky axes alone; `frame` is their spectral frame (LSRK, BARY ...).
    restfreq : str, float [Hz] or Quantity, optional
        For velocities; the header's where it is not given. `veltype` is 'radio' or 'optical'.
    mode, minsnr, falsealarms, completeness, models, device
        As the parameters of the task.
    log : callable (message, priority), optional

    Returns
    -------
    Found
        As the task returns it, without products; `maps` holds mask, model and residual too.

    Raises
    ------
    ParameterError, DataError, ModelError
        Where something cannot be used, or contradicts the rest.
    """
    started = time.perf_counter()
    options = pipeline.Options(mode=mode, minsnr=minsnr, false_alarms=falsealarms)
    number = artificial.check_number(completeness)
    rest = velocity.rest_frequency(restfreq)
    image = _image(data, wcs, beam, freq, frame)
    known = {DATA: image}
    for name, given in ((PSF, psf), (PB, pb)):
        if given is not None:
            known[name] = _beside(name, given, image)
    names = [name if name in known else "" for name in (PSF, PB)]
    cube, _ = reading.read_cube(DATA, names[0], names[1], log, inspect=known.__getitem__)
    networks: Any = runner.load_networks(models, device)
    found, result = _search(cube, networks, options, rest, veltype, log, started)
    if number:
        share = artificial.measure(cube, networks, options, result, number, log=log)
        found["completeness"] = [] if share is None else writing.rows_of(curves.table(share))
        found["timings"]["total"] = time.perf_counter() - started
    return found


def run_fits(
    imagename: str,
    psf: str = "",
    pb: str = "",
    outfile: str = "",
    *,
    overwrite: bool = False,
    mode: str = "both",
    minsnr: float = 5.0,
    falsealarms: float = 0.00025,
    completeness: int = 0,
    restfreq: Any = "",
    veltype: str = velocity.RADIO,
    models: str = "",
    device: str = "auto",
    cutouts: bool = False,
    log: Log = reading.silent,
) -> Found:
    """Search a FITS image, and write the products, images as FITS. Needs no CASA.

    Parameters
    ----------
    imagename, psf, pb, outfile, overwrite, mode, minsnr, falsealarms, completeness, restfreq, veltype, models, device,
    cutouts
        As the parameters of the task; `imagename` is one FITS file.
    log : callable (message, priority), optional

    Returns
    -------
    Found

    Raises
    ------
    DeepFocusError
        Where the input cannot be used; nothing is written then.
    """
    # Nothing of these asks for CASA, but importing them looks for its data.
    from casa_deepfocus.casa import outfiles, signals, space, staging

    started = time.perf_counter()
    options = pipeline.Options(mode=mode, minsnr=minsnr, false_alarms=falsealarms)
    number = artificial.check_number(completeness)
    rest = velocity.rest_frequency(restfreq)
    runner.find_folder(models)
    for name, given in (("imagename", imagename), ("psf", psf), ("pb", pb)):
        if given and not os.path.exists(given):
            raise ParameterError(name, given, "does not exist", "Check the path")
    with signals.orderly(), progress.line() as line:
        line.step("looking through the input")
        grid, _, _ = reading.inspect_inputs(imagename, psf, pb, inspect=grids.inspect)
        sources = outfiles.sources((), imagename, psf, pb)
        prefix = outfiles.expanded(outfile or default_outfile(imagename))
        folder = outfiles.check_name(prefix)
        outfiles.check_sources(prefix, sources, keeps_images=False, fits=True)
        for note in staging.recover(folder):
            log(note)
        more = outfiles.COMPLETENESS if number else ()
        endings = outfiles.endings(prefix, sources, keeps_images=False, fits=True, cutouts=cutouts, more=more)
        outfiles.check_free(prefix, [prefix + ending for ending in endings], overwrite=overwrite)
        if grid.nchan == 1 and mode == "both":
            options = dataclasses.replace(options, mode="continuum")
        with staging.workspace(prefix) as work:
            line.step("loading the networks")
            networks: Any = runner.load_networks(models, device)
            log("networks: {preset} on {device}, {threads} threads".format(**networks.info))
            line.step("reading the images")
            warnings: list[str] = []
            cube, _ = reading.read_cube(imagename, psf, pb, _kept(log, warnings), inspect=grids.inspect)
            space.require(str(work.path), space.products(cube.data.shape, cube.shape), "the products")

            def searching(step: str, number: int) -> None:
                line.step(f"searching: {step}" + (f", {number} sources so far" if number else ""))

            found, result = _search(cube, networks, options, rest, veltype, log, started, searching)
            cube = dataclasses.replace(cube, restfreq=rest or cube.restfreq)
            share = None
            if number:
                share = artificial.measure(cube, networks, options, result, number, log=log, progress=searching)
            line.step("writing the products")
            call = _call(imagename=imagename, psf=psf, pb=pb, outfile=outfile, mode=mode, restfreq=restfreq)
            run = report.Run(
                inputs=(imagename,), mode=options.mode, minsnr=minsnr, falsealarms=falsealarms, call=call, psf=psf,
                pb=pb, networks="{preset} on {device}".format(**networks.info), warnings=tuple(warnings),
                completeness=share,
            )  # fmt: skip
            base = os.path.basename(prefix)
            try:
                left = found.maps["residual"]
                lines = moments(cube, result, velocity.convention_of(veltype))
                writing.write_texts(work.staged, base, result, cube, run, left, lines)
                writing.write_fits(work.staged, base, result, cube, run, left, lines)
                if cutouts:
                    space.require(str(work.path), cutout_files.size(result, cube), "the cutouts")
                    writing.write_cutouts(work.staged, base, result, cube, run, left)
                    outfiles.mark(work.staged)
            except DeepFocusError:
                raise
            except OSError as exc:
                if exc.errno in space.FULL:
                    raise space.full(str(work.path), str(exc)) from exc
                raise ProductError(f"the products of outfile={prefix!r} cannot be written: {exc}") from exc
            written = work.publish(endings, overwrite=overwrite)
    found["outfile"], found["products"] = prefix, written
    if share is not None:
        found["completeness"] = writing.rows_of(curves.table(share))
    found["timings"]["total"] = time.perf_counter() - started
    return found


def default_outfile(name: str) -> str:
    """Prefix of the products when none is given: the input's name without its ending, in the current folder."""
    from casa_deepfocus.reading.companions import stem_of

    return os.path.basename(stem_of(name))


def _kept(log: Log, warnings: list[str]) -> Log:
    """A log that keeps its warnings."""

    def post(message: str, priority: str = "INFO") -> None:
        if priority == "WARN":
            warnings.append(message)
        log(message, priority)

    return post


def _call(**given: Any) -> str:
    said = ", ".join(f"{name}={value!r}" for name, value in given.items() if value not in ("", None, "both"))
    return f"sdeepfocus({said})"


def _search(
    cube: Cube, networks: Any, options: pipeline.Options, restfreq: float, veltype: str, log: Log, started: float,
    told: Callable[[str, int], None] | None = None,
) -> tuple[Found, pipeline.Result]:  # fmt: skip
    cube = dataclasses.replace(cube, restfreq=restfreq or cube.restfreq)
    result = pipeline.run(cube, networks, options, log=log, progress=told)
    convention = velocity.convention_of(veltype)
    tables.complete(result.catalogue, cube.frame, cube.restfreq, convention)
    left = residual(cube, result)
    speeds = velocity.velocity(cube.freq, cube.restfreq, convention)
    found = Found(
        {
            "outfile": "",
            "counts": dict(result.counts) | {"sources": len(result.catalogue)},
            "products": {},
            "timings": {f"find: {name}": value for name, value in result.timings.items()}
            | {"total": time.perf_counter() - started},
            "sources": writing.rows_of(result.catalogue),
        },
        catalogue=result.catalogue,
        spectra={item.name: Spectrum(cube.freq, speeds, item.spectrum, item.model) for item in result.details},
        maps={
            "integrated": result.integrated,
            "probability": result.probability,
            "noise": fitsimages.noise_image(result),
            "mask": result.mask,
            "model": cube.data - left,
            "residual": left,
        },
    )
    return found, result


def _image(data: Any, wcs: Any, beam: Any, freq: Any, frame: str) -> ArrayGrid:
    """The grid of the data."""
    array, header, unit, own = _taken(DATA, data)
    if isinstance(wcs, fits.Header):
        header = wcs
    elif wcs is not None:
        header = _header(wcs, array.ndim)
    if header is None:
        raise ParameterError("wcs", wcs, "is missing", "Give the data's astropy.wcs.WCS, or the FITS header")
    beams = _beams(beam if beam is not None else own, len(array) if array.ndim == 3 else 1)
    stored = FitsImage(DATA, 0, header, array.shape[::-1])
    if beams is None:
        told = headers.header_beam(stored)
        beams = None if told is None else np.tile(told.values, (len(array) if array.ndim == 3 else 1, 1))
    described = {} if freq is not None else grids.described(stored)
    if freq is not None:
        hertz = np.atleast_1d(u.Quantity(freq, u.Hz if not hasattr(freq, "unit") else None).to_value(u.Hz))
        if array.ndim != 3 or hertz.shape != (len(array),):
            raise ParameterError("freq", f"array of shape {hertz.shape}", f"does not fit data of shape {array.shape}",
                                 "Give one frequency for each channel")  # fmt: skip
        check_regular(hertz, DATA)
        sky = grids.described(FitsImage(DATA, 0, _sky(header), array.shape[:0:-1]))
        described = sky | {"shape": array.shape[::-1], "spectral": 2, "spectrum": Axis(hertz, frame, 0.0)}
    described |= {"fits": None, "unit": unit or str(header.get("BUNIT", "Jy/beam") or "Jy/beam")}
    return ArrayGrid(**described, array=array, given=beams, header=header)


def _beside(name: str, given: Any, image: ArrayGrid) -> ArrayGrid:
    """The grid of a PSF or primary beam, of which the data's header holds."""
    array, _, _, _ = _taken(name, given)
    ny, nx = array.shape[-2:]
    sky = grids.celestial_wcs(image).deepcopy()
    if name == PSF:
        sky.wcs.crpix = [nx // 2 + 1.0, ny // 2 + 1.0]
    if array.ndim == 3 and len(array) == 1:
        array = array[0]
    if array.ndim == 3 and len(array) != image.nchan:
        raise ParameterError(
            name.split()[0], f"array of shape {array.shape}", f"has {len(array)} channels, the data {image.nchan}",
            "Give one plane, or one for each channel",
        )  # fmt: skip
    spectral = 2 if array.ndim == 3 else None
    return ArrayGrid(
        shape=array.shape[::-1], x=0, y=1, spectral=spectral, stokes=None, name=name, unit="", wcs=sky,
        spectrum=image.spectrum if spectral is not None else None, array=array,
    )  # fmt: skip


def _taken(name: str, given: Any) -> tuple[NDArray, fits.Header | None, str, Any]:
    """Pixels, header, unit and beam of an array, a quantity, or an object of spectral-cube."""
    header, unit, beam = None, "", None
    if hasattr(given, "filled_data") or hasattr(given, "unmasked_data"):
        header, unit = given.header, str(given.header.get("BUNIT", "") or "")
        beam = getattr(given, "beams", None)
        beam = getattr(given, "beam", None) if beam is None else beam
        given = given.filled_data[:]
    elif hasattr(given, "header") and hasattr(given, "value"):
        # A projection of spectral-cube.
        header, unit, beam = given.header, str(given.unit), getattr(given, "beam", None)
    if isinstance(given, u.Quantity):
        unit = unit or given.unit.to_string("fits")
        given = given.value
    try:
        array = np.asarray(given, dtype=np.float32)
    except (TypeError, ValueError) as exc:
        raise ParameterError(name.split()[0], type(given).__name__, "is no array of numbers", "Give pixels") from exc
    if array.ndim not in (2, 3) or 0 in array.shape:
        raise ParameterError(
            name.split()[0], f"array of shape {array.shape}", "has not two or three axes",
            "Give (ny, nx), or (nchan, ny, nx)",
        )  # fmt: skip
    return array, header, unit, beam


def _header(wcs: WCS, ndim: int) -> fits.Header:
    """The header of a WCS, sky axes first and then the spectral one."""
    if wcs.pixel_n_dim > ndim:
        wcs = wcs.sub(["longitude", "latitude", "spectral"][:ndim])
    header = wcs.to_header(relax=True)
    if wcs.wcs.restfrq:
        header["RESTFRQ"] = float(wcs.wcs.restfrq)
    return header


def _sky(header: fits.Header) -> fits.Header:
    """The header without axes beyond the sky's."""
    return WCS(header).celestial.to_header(relax=True)


def _beams(given: Any, nchan: int) -> NDArray[np.float64] | None:
    """(nchan, 3) [arcsec, arcsec, deg]."""
    if given is None:
        return None
    if hasattr(given, "major"):
        columns = [u.Quantity(given.major, u.arcsec), u.Quantity(given.minor, u.arcsec), u.Quantity(given.pa, u.deg)]
        rows = np.stack([np.atleast_1d(column.value) for column in columns], axis=-1)
    else:
        try:
            rows = np.atleast_2d(np.asarray(given, dtype=float))
        except (TypeError, ValueError) as exc:
            raise ParameterError("beam", given, "is no beam", "Give (major arcsec, minor arcsec, angle deg)") from exc
    if rows.ndim != 2 or rows.shape[1] != 3 or len(rows) not in (1, nchan):
        raise ParameterError(
            "beam", given, f"is neither one beam nor one for each of {nchan} channels",
            "Give (major arcsec, minor arcsec, position angle deg)",
        )  # fmt: skip
    return np.array(np.broadcast_to(rows, (nchan, 3)), dtype=float)
