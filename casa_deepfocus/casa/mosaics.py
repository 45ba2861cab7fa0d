"""Imaging of a mosaic, and what tclean made of it: the pointings' weights, primary beams and PSFs.

The .psf of gridder 'mosaic' has the primary beams in it and is no PSF. That of a mosaic's visibilities is made by the
standard gridder, all pointings turned to one centre, and so are those of single pointings, whose sums of weights are
the weights in the image, flags and all. How far the model is from tclean's images: ``python -m benchmarks mosaic``.
"""

from __future__ import annotations

import math
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from astropy.coordinates import SkyCoord
from astropy.wcs.utils import skycoord_to_pixel
from numpy.typing import NDArray

from casa_deepfocus.casa import guarded
from casa_deepfocus.casa.grids import inspect, opened
from casa_deepfocus.casa.guarded import Imager, tclean
from casa_deepfocus.casa.images import Log
from casa_deepfocus.casa.inputs import Request
from casa_deepfocus.casa.measurementset import Survey, main_table, selected_rows
from casa_deepfocus.casa.selection import ONE_CENTRE, groups, pointings, primary_beam, tracked
from casa_deepfocus.core.airy import C_MS, DISHES, airy
from casa_deepfocus.core.mosaic import Mosaic
from casa_deepfocus.reading.grid import celestial_wcs, frequencies

ARCSEC = math.pi / 180.0 / 3600.0

MARGIN = 1.25
"""Side of a mosaic at natural weighting over that of the field: what leaves the grid on one side comes in on the other.
Twice the field would be better at the mosaic's edges, and takes three times as long."""

WIDER = 1.001
"""Width of the channel of a pointing's PSF over that of the image's: CASA refuses one below that of the data, which in
another frame is larger by 2e-4 at most."""

MOST_PSFS = 40
"""Terms that are imaged one by one; of more, those that were observed one after the other share a PSF."""

PER_VIS = ("field", "spw", "timerange", "uvrange", "antenna", "scan", "observation", "intent")
"""tclean's parameters that may be a list with an item for each measurement set."""

BEAM_END = 0.01
"""Response at which CASA's primary beams end."""

LEAST_RESPONSE = 1e-6
"""Of a beam [peak], where an image of it is 0 or below: its logarithm is needed."""

LARGEST_AIRY = 20.0
"""Diameter [m] of the largest dish whose beam is an Airy pattern in CASA; the VLA's of 25 m are polynomials."""

PAST_NULL = 1.4
"""Reach of a computed beam [wavelength / diameter]: past the first null, 1.22 for the effective 10.7 m of 12 m."""

RADII = 512
"""Radii of a beam. Half a per cent of the FWHM apart at most: linear between them, it is right to 2e-5."""

SMALLEST_STEP = 1e-4
"""Difference [peak] between the mean of the pointings' PSFs and the PSF of all that is left as it is: a fifth of what
`core.mosaic.LEFT_OUT` leaves between the pointings."""

NO_LIMIT = -1e-6
"""tclean's pblimit for nothing masked: it must not be 0, and its sign says so."""


@dataclass(frozen=True)
class Term:
    """Visibilities of one pointing and one pair of dish sizes.

    Attributes
    ----------
    centre : SkyCoord
    dishes : (float, float) [m]
    fields : dict of int -> tuple of int
        Of the measurement sets (by their number) that have it, the ids of its fields.
    antennas : dict of int -> str
        tclean's `antenna` for each of these; '' where all are of these sizes.
    """

    centre: SkyCoord
    dishes: tuple[float, float]
    fields: Mapping[int, tuple[int, ...]]
    antennas: Mapping[int, str]


def is_mosaic(request: Request) -> bool:
    """Whether the image of a request is a sum over pointings that are known."""
    gridder = str(request.tclean["gridder"])
    return gridder == "mosaic" and not tracked(request.tclean) and pointings(request.surveys) is not None


def margin(request: Request) -> float:
    """Side of the image to be made over that of the field.

    Weights other than natural ones depend on the size of the image, and the PSFs are made at twice the field.
    """
    return MARGIN if request.tclean["weighting"] == "natural" else 2.0


def terms(surveys: Sequence[Survey]) -> list[Term]:
    """The pointings of a selection, apart for each pair of dish sizes."""
    places = [(number, item) for number, seen in enumerate(surveys) for item in seen.fields if item.centre is not None]
    centres = pointings(surveys)
    if centres is None:
        return []
    same = groups(centres, ONE_CENTRE * primary_beam(surveys, max(seen.high for seen in surveys)))
    found = []
    for group in dict.fromkeys(same.tolist()):
        mine = [places[index] for index in np.flatnonzero(same == group)]
        fields: dict[int, tuple[int, ...]] = {}
        for number, item in mine:
            fields[number] = (*fields.get(number, ()), item.number)
        pairs: dict[tuple[float, float], dict[int, str]] = {}
        for number in fields:
            for pair, antennas in baselines(surveys[number]).items():
                pairs.setdefault(pair, {})[number] = antennas
        centre = centres[int(np.flatnonzero(same == group)[0])]
        for pair, chosen in sorted(pairs.items()):
            found.append(Term(centre, pair, {number: fields[number] for number in chosen}, chosen))
    return found


def baselines(seen: Survey) -> dict[tuple[float, float], str]:
    """Pairs of dish sizes in a measurement set, and what selects their baselines; '' where there is one pair only.

    Where antennas are selected already all baselines are taken for those of the most frequent size: two selections
    of baselines cannot be joined.
    """
    sizes = sorted(seen.dishes)
    if len(sizes) == 1 or "baseline" in seen.chosen:
        most = max(sizes, key=lambda size: len(seen.dishes[size])) if sizes else seen.diameter
        return {(most, most): ""}
    lists = {size: ",".join(map(str, seen.dishes[size])) for size in sizes}
    found = {}
    for index, one in enumerate(sizes):
        if len(seen.dishes[one]) > 1:
            found[one, one] = f"{lists[one]}&"
        for other in sizes[index + 1 :]:
            found[one, other] = f"{lists[one]}&{lists[other]}"
    return found


def describe(
    request: Request, image: str, psf: str, folder: str, passed: Mapping[str, Any], log: Log, imager: Imager = tclean
) -> Mosaic:  # fmt: skip
    """What the dirty image of a mosaic is a sum of; makes its PSF, `psf`.

    Parameters
    ----------
    request : Request
    image : str
        The dirty image, of the field.
    psf : str
        Name of the PSF image to be made, at twice the field.
    folder : str
        Where PSFs of single pointings are made and removed.
    passed : mapping
        The parameters given to tclean for a PSF: imsize is twice the field.
    log : Log
    imager : callable
        As for `imaging.make_images`.
    """
    template = inspect(image)
    freq = frequencies(template)[0]
    parts = terms(request.surveys)
    classes = _classes(parts, request.surveys)
    middle, chosen = _middle(image, freq), {}
    if len(freq) > 1:
        width = WIDER * float(freq[-1] - freq[0]) / (len(freq) - 1)
        chosen = {"start": f"{float(freq[middle])!r}Hz", "width": f"{width!r}Hz", "nchan": 1}
    log(f"mosaic: {len(parts)} terms (pointings and pairs of dish sizes), {len(classes)} PSFs of their own")
    planes: dict[int, NDArray[np.float32]] = {}
    sums, radial = np.zeros(len(classes)), {}
    for number, members in enumerate(classes):
        name = os.path.join(folder, f"part{number}")
        _make_psf(name, request, [parts[index] for index in members], {**passed, **chosen}, imager)
        sums[number] = _sum(f"{name}.sumwt")
        if sums[number] > 0:
            planes[number] = _plane(f"{name}.psf")
            if len(freq) == 1 and not os.path.isdir(psf):
                # Filled with the mean of all.
                shutil.copytree(f"{name}.psf", psf)
        dish = parts[members[0]].dishes
        if dish not in radial:
            radial[dish] = _beam_of(f"{name}.pb", dish, float(np.nan_to_num(freq[middle])), passed)
        remove(folder, f"part{number}")
    kept = list(planes)
    psfs = np.stack(list(planes.values()))
    mean = np.tensordot((sums[kept] / sums[kept].sum()).astype(np.float32), psfs, axes=1)
    if len(freq) == 1:
        guarded.call(put_plane, psf, mean, folder=folder)
    else:
        whole = os.path.join(folder, "whole")
        _run(whole, {**passed, "vis": list(request.vis)}, imager)
        os.rename(f"{whole}.psf", psf)
        # With densities of their own the pointings' mean is not the PSF of the joint density.
        step = mean - _plane(psf, middle)
        if np.abs(step).max() > SMALLEST_STEP:
            guarded.call(add_plane, psf, step, folder=folder)
        remove(folder, "whole")
    return _put_together(parts, classes, kept, sums, psfs, radial, request.surveys, template, float(freq[middle]))


def _put_together(
    parts: Sequence[Term],
    classes: Sequence[Sequence[int]],
    kept: Sequence[int],
    sums: NDArray,
    psfs: NDArray[np.float32],
    radial: Mapping[tuple[float, float], tuple[NDArray, NDArray]],
    surveys: Sequence[Survey],
    template: Any,
    freq: float,
) -> Mosaic:
    share = _shares(parts, surveys) if any(len(members) > 1 for members in classes) else np.ones(len(parts))
    rows: list[tuple[int, int, float]] = []
    for place, number in enumerate(kept):
        members = classes[number]
        whole = sum(share[index] for index in members) or 1.0
        rows += [(index, place, float(sums[number] * share[index] / whole)) for index in members]
    rows = [row for row in rows if row[2] > 0]
    x, y = skycoord_to_pixel(SkyCoord([parts[index].centre for index, _, _ in rows]), celestial_wcs(template))
    reach = min(float(radius[-1]) for radius, _ in radial.values())
    radius = np.linspace(0.0, reach, RADII)
    dishes = list(radial)
    return Mosaic(
        centres=np.stack([np.atleast_1d(x), np.atleast_1d(y)], axis=1),
        weights=np.array([weight for _, _, weight in rows]),
        radius=radius,
        responses=np.stack([np.interp(radius, *radial[dish]) for dish in dishes]),
        beam=np.array([dishes.index(parts[index].dishes) for index, _, _ in rows]),
        freq=freq,
        psfs=psfs,
        psf_class=np.array([place for _, place, _ in rows]),
    )


def _classes(parts: Sequence[Term], surveys: Sequence[Survey]) -> list[list[int]]:
    """Indices of the terms that share a PSF: each its own, or, of many, those that were observed one after another."""
    if len(parts) <= MOST_PSFS:
        return [[index] for index in range(len(parts))]
    times = _times(surveys)
    when = [np.mean([times[number][field] for number, ids in part.fields.items() for field in ids]) for part in parts]
    found: list[list[int]] = []
    dishes = sorted({part.dishes for part in parts})
    for dish in dishes:
        mine = sorted((index for index, part in enumerate(parts) if part.dishes == dish), key=lambda index: when[index])
        number = max(1, round(MOST_PSFS * len(mine) / len(parts)))
        found += [list(map(int, chunk)) for chunk in np.array_split(mine, number) if len(chunk)]
    return found


def _times(surveys: Sequence[Survey]) -> list[dict[int, float]]:
    """Mean time [s] of each field of each measurement set."""
    return [{field: float(np.mean(time)) for field, (time, _) in _by_field(seen).items()} for seen in surveys]


def _shares(parts: Sequence[Term], surveys: Sequence[Survey]) -> NDArray[np.float64]:
    """(n,) sums of the weights of rows that are not flagged as a whole, all dishes together."""
    sums = [{field: float(weight.sum()) for field, (_, weight) in _by_field(seen).items()} for seen in surveys]
    return np.array(
        [sum(sums[number].get(field, 0.0) for number, ids in part.fields.items() for field in ids) for part in parts]
    )


def _by_field(seen: Survey) -> dict[int, tuple[NDArray, NDArray]]:
    """Times [s] and weights of the rows of each field that are not flagged as a whole."""
    with main_table(seen.name, selected_rows(seen.name, seen.chosen)[0]) as tb:
        fields, time = np.asarray(tb.getcol("FIELD_ID")), np.asarray(tb.getcol("TIME"))
        weight = np.asarray(tb.getcol("WEIGHT")).mean(axis=0)
        good = ~np.asarray(tb.getcol("FLAG_ROW")).astype(bool)
    return {int(field): (time[fields == field], weight[good & (fields == field)]) for field in np.unique(fields)}


def _make_psf(
    name: str, request: Request, parts: Sequence[Term], passed: dict[str, Any], imager: Imager
) -> None:  # fmt: skip
    """The PSF of some terms with one pair of dish sizes."""
    numbers = sorted({number for part in parts for number in part.fields})
    values = dict(passed)
    for key in PER_VIS:
        if isinstance(values[key], (list, tuple)):
            items = list(values[key])
            values[key] = [items[number] if number < len(items) else items[0] for number in numbers] if items else ""
    fields = [
        ",".join(str(field) for part in parts for field in part.fields.get(number, ())) for number in numbers
    ]  # fmt: skip
    values |= {"selectdata": True, "field": fields, "vis": [request.vis[number] for number in numbers]}
    antennas = [next(part.antennas[number] for part in parts if number in part.antennas) for number in numbers]
    if any(antennas):
        values["antenna"] = antennas
    _run(name, values, imager)


def _run(name: str, values: Mapping[str, Any], imager: Imager) -> None:
    """tclean of a PSF alone."""
    own = {**values, "gridder": "standard", "pblimit": NO_LIMIT, "normtype": "flatnoise", "usepointing": False}
    imager(
        imagename=name, niter=0, deconvolver="hogbom", restoration=False, pbcor=False, calcpsf=True, calcres=False,
        interactive=False, savemodel="none", **own,
    )  # fmt: skip


def _middle(image: str, freq: NDArray) -> int:
    """The channel with data that is nearest to the middle of the band."""
    if len(freq) == 1:
        return 0
    with opened(image) as ia:
        shape = [int(n) for n in ia.shape()]
        row = np.asarray(ia.getchunk([shape[0] // 2, 0, 0, 0], [shape[0] // 2, shape[1] - 1, 0, shape[3] - 1]))
    good = np.flatnonzero(np.isfinite(row).all(axis=(0, 1, 2)) & (np.abs(row) > 0).any(axis=(0, 1, 2)))
    middle = 0.5 * (len(freq) - 1)
    return int(good[np.argmin(np.abs(good - middle))]) if len(good) else int(middle)


def _plane(name: str, chan: int = 0) -> NDArray[np.float32]:
    """(ny, nx) of the first polarisation of a channel."""
    with opened(name) as ia:
        shape = [int(n) for n in ia.shape()]
        plane = ia.getchunk([0, 0, 0, chan], [shape[0] - 1, shape[1] - 1, 0, chan])
    return np.nan_to_num(np.asarray(plane)[:, :, 0, 0].T).astype(np.float32)


def _sum(name: str) -> float:
    """The sum of the imaging weights of the first polarisation."""
    with opened(name) as ia:
        value = float(np.asarray(ia.getchunk()).ravel()[0])
    return value if math.isfinite(value) else 0.0


def put_plane(name: str, plane: NDArray[np.float32]) -> None:
    """Put a plane (ny, nx) into all channels and polarisations of an image."""
    with opened(name) as ia:
        shape = ia.shape()
        for stokes in range(int(shape[2])):
            for chan in range(int(shape[3])):
                ia.putchunk(plane.T[:, :, None, None].astype(float), blc=[0, 0, stokes, chan])


def add_plane(name: str, plane: NDArray[np.float32]) -> None:
    """Add a plane (ny, nx) to all channels and polarisations of an image that are not empty."""
    with opened(name) as ia:
        shape = [int(n) for n in ia.shape()]
        for stokes in range(shape[2]):
            for chan in range(shape[3]):
                own = np.asarray(ia.getchunk([0, 0, stokes, chan], [shape[0] - 1, shape[1] - 1, stokes, chan]))
                if np.any(own):
                    ia.putchunk(own + plane.T[:, :, None, None], blc=[0, 0, stokes, chan])


def _beam_of(
    name: str, dishes: tuple[float, float], freq: float, passed: Mapping[str, Any]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Radius [pixel] and power response of a pair of dishes, down to `BEAM_END`.

    CASA's Airy pattern of the dishes that we know; of others the .pb of the standard gridder, in the image's centre.
    """
    if all(round(size, 1) in DISHES for size in dishes) and min(dishes) < LARGEST_AIRY and freq > 0:
        cell = float(str(passed["cell"][0]).removesuffix("arcsec")) * ARCSEC
        radius = np.linspace(0.0, PAST_NULL * C_MS / freq / min(dishes), RADII)
        response = np.sqrt(airy(radius, freq, dishes[0]) * airy(radius, freq, dishes[1]))
        radius = radius / cell
    else:
        plane = _plane(name)
        response = plane[plane.shape[0] // 2, plane.shape[1] // 2 :].astype(float)
        radius = np.arange(len(response), dtype=float)
    low = np.flatnonzero(response < BEAM_END)
    end = max(int(low[0]) if low.size else len(response), 4)
    return radius[:end], np.maximum(response[:end], LEAST_RESPONSE)


def remove(folder: str, prefix: str) -> None:
    """Remove the images of a name's beginning."""
    for entry in os.listdir(folder):
        if entry.startswith(prefix):
            shutil.rmtree(os.path.join(folder, entry), ignore_errors=True)
