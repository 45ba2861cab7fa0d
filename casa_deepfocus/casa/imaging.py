"""The dirty cube of a measurement set: tclean without a single CLEAN iteration.

The PSF has to be known out to twice the field. A cube is imaged as it was asked for, by tclean as anybody would call
it, and the PSFs are widened (`widepsf.py`). A few channels, and what other gridders make, are imaged at twice the field
at once, which costs less than more calls; the dirty image and the primary beam are cut to the field, the PSF is kept
whole. Mosaics: `mosaics.py`.
"""

from __future__ import annotations

import math
import os
import re
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from astropy import units as u
from astropy.coordinates import SkyCoord
from casatools import measures, regionmanager
from numpy.typing import NDArray

from casa_deepfocus.casa import guarded, mosaics, space, widepsf
from casa_deepfocus.casa.channelgrid import MOST_BLANK, C, listed
from casa_deepfocus.casa.grids import opened
from casa_deepfocus.casa.guarded import Imager, tclean
from casa_deepfocus.casa.images import Log
from casa_deepfocus.casa.inputs import Request
from casa_deepfocus.casa.measurementset import FRAMES, told
from casa_deepfocus.casa.selection import ONE_CENTRE, groups, pointings, primary_beam, tracked
from casa_deepfocus.core.mosaic import Mosaic
from casa_deepfocus.errors import DataError, DeepFocusError, ParameterError
from casa_deepfocus.reading.memory import check_memory

BEAM_FACTOR = 0.574
"""Beam over wavelength / 80th percentile of the baselines (ALMA Technical Handbook, chapter 7)."""

PIXELS_PER_BEAM = 5.0
COARSEST = 2.0
"""Fewest pixels in a beam: with fewer the image does not hold what the visibilities know."""

LARGEST = 4096
"""Largest field that is chosen without being asked for [pixel]."""

SMALLEST = 28
"""Fewest pixels across a field: five to six beams at a fifth of the beam a pixel. In less there is no place
between sources and their sidelobes to know the noise from."""

FEWEST = 12
"""Channels from which on the field is imaged alone: of fewer, calls for single PSFs cost more than a larger image."""

BELOW = 0.5
"""A mosaic is made down to this share of pblimit: sources at the limit cannot be fitted without what is beyond."""

CELL = re.compile(r"\s*([0-9.eE+-]+)\s*(mas|arcsec|arcmin|deg|rad|)\s*")
TO_ARCSEC = {"": 1.0, "mas": 1e-3, "arcsec": 1.0, "arcmin": 60.0, "deg": 3600.0, "rad": math.degrees(1.0) * 3600.0}


UVTAPER = re.compile(r"([0-9.eE+-]+)\s*(mas|arcsec|arcmin|deg|rad|lambda|klambda|Mlambda)")
WAVES = {"lambda": 1.0, "klambda": 1e3, "Mlambda": 1e6}


@dataclass(frozen=True)
class Plan:
    """The grid of the dirty image: the field asked for, and the pixel.

    Attributes
    ----------
    nx, ny : int
        Pixels of the field.
    cell : float [arcsec]
    centre : str
        The image's centre as tclean's phasecenter; '' where the one asked for holds.
    """

    nx: int
    ny: int
    cell: float
    centre: str = ""


@dataclass(frozen=True)
class Images:
    """What was imaged.

    Attributes
    ----------
    name : str
        The dirty image; .pb and .psf stand beside it.
    mosaic : Mosaic or None
        The pointings that it is a sum of.
    """

    name: str
    mosaic: Mosaic | None = None


def make_images(request: Request, folder: str, log: Log, imager: Imager = tclean) -> Images:
    """Image the measurement sets of a request.

    Parameters
    ----------
    request : Request
    folder : str
        Where the images go; exists already.
    log : callable (message, priority)
    imager : callable
        Called as tclean, by whoever keeps account of CASA's tasks; guarded by default.

    Returns
    -------
    Images
        The dirty image is <folder>/dirty.image, with dirty.pb and dirty.psf beside it; the
        PSF covers twice the field.

    Raises
    ------
    ParameterError, DataError
    """
    grid = plan(request, log)
    psf_shape = (request.nchan, 2 * grid.ny, 2 * grid.nx)
    check_memory(request.nchan, grid.ny, grid.nx, psf_shape, ", ".join(request.vis))
    wide, name = os.path.join(folder, "wide"), os.path.join(folder, "dirty")
    passed, limit = dict(request.tclean), float(request.tclean["pblimit"])
    mosaic, several = mosaics.is_mosaic(request), str(passed["gridder"]).startswith(("mosaic", "awp"))
    if several and not mosaic:
        log(f"gridder={request.tclean['gridder']!r}: the PSF of the image's centre is used for the whole field", "WARN")
    # A negative limit leaves the dirty image unmasked where the primary beam is low: its pixels are
    # valid there, and sidelobes and sources at the limit cannot be fitted without them. The mosaic gridder
    # divides by the primary beam, and makes zeros of what is below.
    passed["pblimit"] = BELOW * limit if several else -abs(limit)
    passed.update(imsize=[2 * grid.nx, 2 * grid.ny], cell=[f"{grid.cell!r}arcsec"])
    if grid.centre:
        passed["phasecenter"] = grid.centre
    space.require(folder, space.imaging(grid.nx, grid.ny, _channels(request)), "the images")
    alone = _field_alone(request) and widepsf.can_be_asked(folder, passed)
    wide = name if alone else wide
    if alone:
        passed["imsize"] = [grid.nx, grid.ny]
    size = [_good_size(mosaics.margin(request) * side) for side in (grid.nx, grid.ny)] if mosaic else passed["imsize"]
    made_at = "" if alone else f", imaged at {size[0]} x {size[1]} pixels"
    log(f"tclean: {grid.nx} x {grid.ny} pixels of {grid.cell:.4g} arcsec{made_at}, the PSF at twice the field")
    said = ", ".join(request.vis)
    try:
        imager(
            vis=list(request.vis), imagename=wide, niter=0, deconvolver="hogbom", restoration=True, pbcor=False,
            calcpsf=True, calcres=True, interactive=False, savemodel="none", **{**passed, "imsize": size},
        )  # fmt: skip
        for kind in ("image", "psf", "pb"):
            if not os.path.isdir(f"{wide}.{kind}"):
                raise DataError(f"tclean made no .{kind} of {said}; the CASA log says why")
        _check_channels(f"{wide}.image", f"{wide}.sumwt", request, log)
        if alone:
            widepsf.make(name, request.vis, passed, log, imager)
            _keep(folder, ("image", "pb", "psf"))
            return Images(f"{name}.image")
        for kind in ("image", "pb"):
            guarded.call(cut, f"{wide}.{kind}", f"{name}.{kind}", grid.nx, grid.ny, folder=folder)
        if not mosaic:
            os.rename(f"{wide}.psf", f"{name}.psf")
        mosaics.remove(folder, "wide.")
        if several:
            guarded.call(mask_below, f"{name}.pb", limit, folder=folder)
        terms = None
        if mosaic:
            terms = mosaics.describe(request, f"{name}.image", f"{name}.psf", folder, passed, log, imager)
    except DeepFocusError:
        raise
    except Exception as exc:
        raise DataError(f"tclean could not image {said}: {str(exc).replace(folder + os.sep, '')}") from exc
    return Images(f"{name}.image", terms)


def _field_alone(request: Request) -> bool:
    """Whether the field is imaged alone, and the PSFs widened: cubes of enough channels, by the standard gridder."""
    values = request.tclean
    return (
        values["specmode"] == "cube"
        and str(values["gridder"]) in ("standard", "gridft", "ft")
        and len(str(values["stokes"])) == 1
        and _channels(request) >= FEWEST
    )


def _keep(folder: str, kinds: Sequence[str]) -> None:
    """Remove what tclean has made besides the dirty images of these kinds."""
    for entry in os.listdir(folder):
        if entry.startswith("dirty.") and entry.removeprefix("dirty.") not in kinds:
            shutil.rmtree(os.path.join(folder, entry), ignore_errors=True)


def mask_below(name: str, limit: float) -> None:
    """Mask an image where it is below a limit."""
    with opened(name) as ia:
        ia.calcmask(f"'{name}' > {limit!r}", name="limit")


def _channels(request: Request) -> int:
    """Channels of the image: as given, else all that are selected of the measurement set that has the most."""
    if request.tclean["specmode"] == "mfs":
        return 1
    if int(request.tclean["nchan"]) > 0:
        return int(request.tclean["nchan"])
    return max(sum(len(window.channels) for window in seen.windows) for seen in request.surveys)


def cut(source: str, target: str, nx: int, ny: int) -> None:
    """Copy the inner nx x ny pixels of an image; the centre of the field stays at (nx//2, ny//2)."""
    rg = regionmanager()
    try:
        with opened(source) as ia:
            shape = [int(n) for n in ia.shape()]
            x0, y0 = shape[0] // 2 - nx // 2, shape[1] // 2 - ny // 2
            blc = [x0, y0, *([0] * (len(shape) - 2))]
            trc = [x0 + nx - 1, y0 + ny - 1, *(n - 1 for n in shape[2:])]
            inner = ia.subimage(outfile=target, region=rg.box(blc, trc), dropdeg=False, overwrite=True)
            inner.done()
    finally:
        rg.done()


def _check_channels(image: str, sumwt: str, request: Request, log: Log) -> None:
    """What only imaging tells: channels that a NaN made blank, and channels without data.

    A NaN is spread over the whole plane by the transform, so one row of pixels shows it.

    Raises
    ------
    DataError
        Where every channel is lost, or more than MOST_BLANK of them hold no data.
    """
    with opened(image) as ia:
        shape = [int(n) for n in ia.shape()]
        row = np.asarray(ia.getchunk([0, shape[1] // 2, 0, 0], [shape[0] - 1, shape[1] // 2, 0, shape[3] - 1]))
    with opened(sumwt) as ia:
        weights = np.asarray(ia.getchunk())
    weights = weights.reshape(-1, weights.shape[-1])
    spoilt = ~np.isfinite(row).any(axis=(0, 1, 2))
    empty = ~(weights > 0).any(axis=0) & ~spoilt
    nchan = len(spoilt)
    chosen = "; ".join(f"vis={seen.name!r}, {told(seen.chosen)}" for seen in request.surveys)
    column = request.tclean["datacolumn"]
    remedy = f"flagdata(vis=..., mode='clip', datacolumn={column!r}) flags them"
    if (spoilt | empty).all():
        why = (
            f"{int(spoilt.sum())} by unflagged NaN or infinite visibilities ({remedy}), {int(empty.sum())} without data"
        )
        raise DataError(f"{chosen}: all {nchan} channels of the image are lost, {why}")
    if empty.sum() > MOST_BLANK * nchan:
        raise DataError(
            f"{chosen}: {int(empty.sum())} of the {nchan} channels of the cube hold no data, "
            "they are flagged or outside of the band; select a window (spw), or give start, nchan and width within it"
        )
    if spoilt.any():
        where = listed(np.flatnonzero(spoilt).tolist())
        log(
            f"{int(spoilt.sum())} of {nchan} channels are blank because of unflagged NaN or infinite visibilities "
            f"(channels {where}); {remedy}", "WARN",
        )  # fmt: skip
    if empty.any():
        log(f"{int(empty.sum())} of {nchan} channels hold no data")


def plan(request: Request, log: Log) -> Plan:
    """Pixel, field and centre of the dirty image: as given, else from the measurement sets.

    The pixel is a fifth of the beam, 0.574 wavelength / L80, L80 the 80th percentile of the
    selected baselines at the highest frequency. The field holds all pointings and reaches to where the
    primary beam falls to pblimit (at most to 0.1) at the lowest frequency; a mosaic's is centred on the middle
    of its pointings.

    Raises
    ------
    ParameterError
        Where a given cell or imsize cannot be used.
    """
    tclean_values, surveys = request.tclean, request.surveys
    imsize, cell = _imsize(tclean_values["imsize"]), _cell(tclean_values["cell"])
    low, high = min(seen.low for seen in surveys), max(seen.high for seen in surveys)
    baselines = np.concatenate([seen.uvdist for seen in surveys])
    baseline = float(np.percentile(baselines, 80))
    beam = BEAM_FACTOR * C / high / baseline * TO_ARCSEC["rad"]
    if not cell:
        cell = _two_digits(beam / PIXELS_PER_BEAM)
        log(f"cell: {cell:g} arcsec, a fifth of the beam of baselines of {baseline:.0f} m at {high / 1e9:.4g} GHz")
    _check_cell(cell, beam, baselines * high / C, request, log)
    extent, centre = _mosaic(request)
    if not imsize:
        level = min(max(float(tclean_values["pblimit"]), 0.1), 0.9)
        reach = primary_beam(surveys, low) * math.sqrt(math.log2(1.0 / level))
        wanted = [(side + reach) / cell for side in extent]
        imsize = _good_size(min(wanted[0], LARGEST)), _good_size(min(wanted[1], LARGEST))
        words = f"{imsize[0]} x {imsize[1]} pixels" if imsize[0] != imsize[1] else f"{imsize[0]} pixels"
        diameter = min(seen.diameter for seen in surveys)
        if max(wanted) > LARGEST:
            log(
                f"imsize: {words}; the primary beam and the pointings would need {wanted[0]:.0f} x {wanted[1]:.0f}. "
                "Give imsize for more", "WARN",
            )  # fmt: skip
        else:
            log(f"imsize: {words}, the primary beam of {diameter:g} m antennas out to {level:g}")
    if centre:
        log(f"phasecenter: {centre}, the middle of the pointings")
    return Plan(*imsize, cell, centre)


def _mosaic(request: Request) -> tuple[tuple[float, float], str]:
    """Extent of the pointings west-east and north-south [arcsec], and the image's centre for tclean.

    The extent is that of a box around the centre that holds all pointings; (0, 0) for one pointing. The
    centre is '' where it is given, or where there is one pointing only.
    """
    values, surveys = request.tclean, request.surveys
    centres = pointings(surveys)
    if centres is None or tracked(values) or not str(values["gridder"]).startswith(("mosaic", "awp")):
        return (0.0, 0.0), ""
    if groups(centres, ONE_CENTRE * primary_beam(surveys, max(seen.high for seen in surveys))).max() == 0:
        return (0.0, 0.0), ""
    given = _direction(values["phasecenter"], request)
    middle = given or centres[0]
    east, north = _offsets(centres, middle)
    if given is None and values["phasecenter"] == "":
        shift = 0.5 * (east.max() + east.min()), 0.5 * (north.max() + north.min())
        middle = SkyCoord(*shift, unit="arcsec", frame=middle.skyoffset_frame()).icrs
        east, north = _offsets(centres, middle)
        frame = next(item.frame for seen in surveys for item in seen.fields if item.centre is not None)
        frame = frame if frame in ("J2000", "ICRS") else "ICRS"
        own = middle.transform_to(FRAMES[frame])
        return _box(east, north), f"{frame} {own.ra.deg:.7f}deg {own.dec.deg:.7f}deg"
    return _box(east, north), ""


def _offsets(places: SkyCoord, centre: SkyCoord) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """(n,), (n,) offsets east and north [arcsec]."""
    seen = places.transform_to(centre.skyoffset_frame())
    return seen.lon.wrap_at(180 * u.deg).to_value(u.arcsec), seen.lat.to_value(u.arcsec)


def _box(east: NDArray[np.float64], north: NDArray[np.float64]) -> tuple[float, float]:
    return 2.0 * float(np.abs(east).max()), 2.0 * float(np.abs(north).max())


def _direction(phasecenter: Any, request: Request) -> SkyCoord | None:
    """The place that tclean's phasecenter names; None where it names none or none that is fixed on the sky."""
    text = str(phasecenter).strip()
    if text.isdigit():
        return next((f.centre for seen in request.surveys[:1] for f in seen.fields if f.number == int(text)), None)
    return direction(text)


def direction(phasecenter: str) -> SkyCoord | None:
    """The place that a text like 'J2000 15h21m57 +05d04m00' names; None where it has not this form.

    Raises
    ------
    ParameterError
        Where it has, and is no direction.
    """
    words = phasecenter.split()
    if len(words) != 3 or words[0].upper() not in FRAMES:
        return None
    me = measures()
    try:
        place = me.direction(words[0].upper(), words[1], words[2])
        angles = place["m0"]["value"] * u.rad, place["m1"]["value"] * u.rad
    except (RuntimeError, KeyError, TypeError) as exc:
        raise ParameterError(
            "phasecenter", phasecenter, "is no direction", "For example 'J2000 15h21m57 +05d04m00'"
        ) from exc
    finally:
        me.done()
    return SkyCoord(*angles, frame=FRAMES[words[0].upper()]).icrs


def _check_cell(cell: float, beam: float, waves: NDArray[np.float64], request: Request, log: Log) -> None:
    """Refuse pixels that the beam does not fit; say what baselines the grid leaves out.

    Parameters
    ----------
    cell, beam : float [arcsec]
    waves : (n,) float
        Lengths of the selected baselines [wavelengths].
    """
    broad = math.hypot(beam, _taper(request.tclean["uvtaper"]))
    if cell > broad / COARSEST:
        raise ParameterError(
            "cell", request.tclean["cell"],
            f"{cell:.4g} arcsec is more than half of the beam, {broad:.3g} arcsec for these baselines",
            f"Leave cell empty, or give at most {_two_digits(broad / COARSEST):g} arcsec "
            f"({_two_digits(broad / PIXELS_PER_BEAM):g} arcsec is a fifth of the beam)",
        )  # fmt: skip
    outside = float((waves > 0.5 * TO_ARCSEC["rad"] / cell).mean())
    if outside > 0:
        log(f"cell: {100.0 * outside:.2g} % of the visibilities are on baselines too long for {cell:g} arcsec: "
            "tclean leaves them out", "WARN")  # fmt: skip


def _taper(uvtaper: Any) -> float:
    """FWHM [arcsec] that a taper gives a point; of a taper that cannot be read, infinite: nothing is refused by it."""
    items = [str(item).strip() for item in (uvtaper if isinstance(uvtaper, (list, tuple)) else [uvtaper]) if item]
    if not items:
        return 0.0
    match = UVTAPER.fullmatch(items[0])
    if not match:
        return math.inf
    size, unit = float(match[1]), match[2]
    if unit in TO_ARCSEC:
        return size * TO_ARCSEC[unit]
    # The transform of a Gaussian of FWHM w wavelengths has the FWHM 4 ln 2 / pi / w.
    return 4.0 * math.log(2.0) / math.pi / (size * WAVES[unit]) * TO_ARCSEC["rad"] if size else 0.0


def _imsize(value: Any) -> tuple[int, int] | None:
    items = [value] if isinstance(value, (int, np.integer)) else [int(v) for v in value or []]
    if not items or items == [-1]:
        return None
    if len(items) > 2 or min(items) < SMALLEST:
        raise ParameterError(
            "imsize", value, f"must be one or two numbers of pixels, at least {SMALLEST}", "For example imsize=360"
        )
    return int(items[0]), int(items[-1])


def _cell(value: Any) -> float | None:
    """Pixel size [arcsec] from tclean's ways to write it."""
    items = value if isinstance(value, (list, tuple)) else [value]
    sizes: list[float] = []
    for item in items:
        if item in ("", None):
            continue
        match = CELL.fullmatch(str(item))
        if not match:
            raise ParameterError("cell", value, "is no angle", "For example cell='0.1arcsec'")
        sizes.append(abs(float(match[1])) * TO_ARCSEC[match[2]])
    if not sizes:
        return None
    if not all(0.0 < size < math.inf for size in sizes):
        raise ParameterError("cell", value, "must be larger than 0", "Leave it empty to have it chosen")
    if max(sizes) - min(sizes) > 1e-6 * sizes[0]:
        raise ParameterError("cell", value, "pixels must be square", "Give one number")
    return sizes[0]


def _two_digits(value: float) -> float:
    """Rounded down to two significant digits."""
    scale = 10.0 ** (math.floor(math.log10(value)) - 1)
    return float(f"{math.floor(value / scale) * scale:.2g}")


def _good_size(pixels: float) -> int:
    """The next even size with the prime factors 2, 3 and 5, at least 64."""
    size = max(64, math.ceil(pixels))
    size += size % 2
    while not _smooth(size):
        size += 2
    return size


def _smooth(size: int) -> bool:
    for factor in (2, 3, 5):
        while size % factor == 0:
            size //= factor
    return size == 1
