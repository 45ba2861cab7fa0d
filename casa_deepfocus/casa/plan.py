"""What a call of the task is going to make: one cube of each target and window, with its size, time and place."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from astropy.coordinates import SkyCoord

from casa_deepfocus import params
from casa_deepfocus.casa import images, imaging, inputs, selection, space, targets
from casa_deepfocus.casa.measurementset import SELECTION, Survey
from casa_deepfocus.casa.targets import Band, Target
from casa_deepfocus.core import fields
from casa_deepfocus.errors import DataError, DeepFocusError
from casa_deepfocus.pipeline.state import MIN_LINE_CHANNELS
from casa_deepfocus.reading import grid, memory

CONTINUUM = "continuum"
"""Label of the image of all windows of a target."""

SECONDS_EACH = 6.0
"""Of a cube, whatever its size: CASA's start, tables, networks, report [s]."""

SECONDS_PER_VOXEL = 4e-6
"""Of imaging and of the search, per voxel of the field [s]: right within a factor of two or three,
as the time of a search goes with its sources. The log has both when a cube is done."""

SECONDS_PER_VISIBILITY = 4e-7
"""Of gridding, per visibility (a channel of a row, both polarizations) [s]."""


@dataclass(frozen=True)
class CubePlan:
    """A cube to be made and searched, or an image to be searched.

    Attributes
    ----------
    target : str
        Name of the target as the data have it.
    folder : str
        The target's folder among the products.
    label : str
        Name of the cube's products: 'spw25', 'continuum', or that of an image.
    parameters : dict
        All parameters of the task for this cube, without outfile.
    shape : (nchan, ny, nx); 0 where not known
    cell : float [arcsec]
    band : (low, high) [Hz]
    seconds : float, expected
    disk : float [byte], while it is made
    memory : float [byte], at its peak
    error : DeepFocusError or None
        Why it cannot be made.
    line_free : bool
        Its channels are to be chosen when the other cubes of the target are done.
    windows : tuple of (str, int)
        Measurement sets and the ids of the windows in them.
    """

    target: str
    folder: str
    label: str
    parameters: Mapping[str, Any]
    shape: tuple[int, int, int] = (0, 0, 0)
    cell: float = 0.0
    band: tuple[float, float] = (0.0, 0.0)
    seconds: float = 0.0
    disk: float = 0.0
    memory: float = 0.0
    error: DeepFocusError | None = None
    line_free: bool = False
    windows: tuple[tuple[str, int], ...] = ()

    @property
    def problem(self) -> str:
        """Why it cannot be made; '' where it can."""
        return "" if self.error is None else " ".join(str(self.error).split())

    @property
    def key(self) -> str:
        """<folder>/<label>"""
        return f"{self.folder}/{self.label}"

    def told(self) -> str:
        """One line of the list of what is to be made."""
        if self.problem:
            return f"{self.target}, {self.label}: left out: {self.problem}"
        nchan, ny, nx = self.shape
        size = f"{nchan} channels of {nx} x {ny} pixels of {self.cell:.3g} arcsec" if nchan else "an image"
        low, high = self.band
        where = f", {low / 1e9:.6g} to {high / 1e9:.6g} GHz" if high else ""
        return (
            f"{self.target}, {self.label}: {size}{where}; about {self.seconds:.0f} s, {self.disk / 1e6:.0f} MB of disk"
        )


@dataclass(frozen=True)
class Programme:
    """All cubes of a call.

    Attributes
    ----------
    cubes : tuple of CubePlan
        Those of a target one after the other, its continuum image last.
    left_out : tuple of str
        What is not imaged, and why.
    """

    cubes: tuple[CubePlan, ...]
    left_out: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def folders(self) -> tuple[str, ...]:
        """The targets' folders, in order."""
        return tuple(dict.fromkeys(cube.folder for cube in self.cubes))

    def of(self, folder: str) -> tuple[CubePlan, ...]:
        """The cubes of a target."""
        return tuple(cube for cube in self.cubes if cube.folder == folder)


def of_sets(asked: inputs.Asked) -> Programme:
    """One cube of each target and window of measurement sets, and one continuum image of each target.

    Raises
    ------
    ParameterError, DataError
        Where a parameter cannot be used, or nothing can be made.
    """
    tclean = asked.tclean
    tclean["datacolumn"], notes = selection.data_column(asked.vis, str(tclean["datacolumn"]))
    selection.check_sets(asked.vis, tclean)
    found = targets.find(asked.vis, tclean, asked.combine)
    folders = _folders([target.name for target in found.targets])
    cubes: list[CubePlan] = []
    for target, folder in zip(found.targets, folders, strict=True):
        mine = [_cube(asked, found, target, folder, (band,), band.label) for band in _bands(target, tclean)]
        if len(mine) > 1 and asked.values["mode"] != "line" and tclean["specmode"] != "mfs":
            mine.append(_cube(asked, found, target, folder, target.bands, CONTINUUM, continuum=True))
        cubes += mine
    if all(cube.error for cube in cubes):
        if len({cube.problem for cube in cubes}) == 1 and cubes[0].error is not None:
            raise cubes[0].error
        raise DataError("; ".join(f"{cube.target}, {cube.label}: {cube.problem}" for cube in cubes))
    return Programme(tuple(cubes), found.left_out, notes)


def _bands(target: Target, tclean: Mapping[str, Any]) -> Sequence[Band]:
    """The windows that become a cube each; all together where one image of all frequencies is asked for."""
    if tclean["specmode"] != "mfs":
        return target.bands
    return [Band(CONTINUUM, tuple(part for band in target.bands for part in band.parts))]


def _cube(
    asked: inputs.Asked, found: targets.Found, target: Target, folder: str, bands: Sequence[Band], label: str,
    *, continuum: bool = False,
) -> CubePlan:  # fmt: skip
    """The plan of one cube; what stands against it is in it."""
    parameters = _parameters(asked, found, target, bands, continuum=continuum)
    band = min(one.low for one in bands), max(one.high for one in bands)
    windows = tuple((os.path.abspath(asked.vis[p.index]), p.window.number) for one in bands for p in one.parts)
    plan = CubePlan(target.name, folder, label, parameters, band=band, line_free=continuum, windows=windows)
    try:
        selected = selection.check(parameters["vis"], _tclean(parameters), visibilities=False)
        request = inputs.Request(
            vis=tuple(parameters["vis"]), imagename="", psf="", pb="", outfile=label, overwrite=False, mode="both",
            minsnr=5.0, falsealarms=1.0, device="auto", models="", cutouts=False, keepimages=False,
            tclean=selected.tclean, nchan=selected.nchan, surveys=selected.surveys,
        )  # fmt: skip
        grid = imaging.plan(request, _silent)
        nchan = max(selected.nchan, 1)
        if parameters["mode"] == "line" and nchan < MIN_LINE_CHANNELS:
            raise DataError(f"mode='line' needs at least {MIN_LINE_CHANNELS} channels; this window has {nchan}")
    except DeepFocusError as exc:
        return replace(plan, error=exc)
    return replace(
        plan,
        shape=(nchan, grid.ny, grid.nx),
        cell=grid.cell,
        seconds=expected_seconds(nchan * grid.nx * grid.ny, selected.surveys),
        disk=space.imaging(grid.nx, grid.ny, nchan),
        memory=memory.needed_memory(nchan, grid.ny, grid.nx, (nchan, 2 * grid.ny, 2 * grid.nx)),
    )


def _silent(message: str, priority: str = "INFO") -> None:
    """What imaging says of a cube is said when it is made."""


def _tclean(parameters: Mapping[str, Any]) -> dict[str, Any]:
    return {name: parameters[name] for name in params.tclean_names()}


def _parameters(
    asked: inputs.Asked, found: targets.Found, target: Target, bands: Sequence[Band], *, continuum: bool
) -> dict[str, Any]:
    """The task's parameters for one cube: the measurement sets that have it, and their fields and windows."""
    windows: dict[int, list[str]] = {}
    for band in bands:
        for part in band.parts:
            windows.setdefault(part.index, []).append(targets.channels_told(part.window))
    indices = sorted(windows)
    values = dict(asked.values) | dict(found.tclean) | {"combine": "", "cluster": ""}
    for name in SELECTION:
        value = values[name]
        if isinstance(value, (list, tuple)) and len(value) == len(asked.vis) and len(value) > 1:
            values[name] = _one_if_alike([value[index] for index in indices])
    values["selectdata"] = True
    # CASA opens them wherever the cube is made.
    values["vis"] = [os.path.abspath(asked.vis[index]) for index in indices]
    values["field"] = _one_if_alike([",".join(str(item.number) for item in target.fields[index]) for index in indices])
    values["spw"] = _one_if_alike([",".join(windows[index]) for index in indices])
    if continuum:
        values |= {"specmode": "mfs", "mode": "continuum", "nchan": -1, "start": "", "width": ""}
    if target.moving and not str(values["phasecenter"]):
        values["phasecenter"] = "TRACKFIELD"
        if values["specmode"] == "cube":
            spec = params.sdeepfocus()
            values["specmode"] = "cubesource"
            if values["outframe"] == spec.conditional_default("outframe", {"vis": "x", "specmode": "cube"})[1]:
                values["outframe"] = spec.conditional_default("outframe", {"vis": "x", "specmode": "cubesource"})[1]
    values.pop("outfile")
    return values


def _one_if_alike(values: list[Any]) -> Any:
    return values[0] if len({str(value) for value in values}) == 1 else values


def expected_seconds(voxels: int, surveys: Sequence[Survey]) -> float:
    """Expected time of a cube on this machine."""
    visibilities = sum(
        rows * sum(len(w.channels) for w in seen.windows if w.number == key[1])
        for seen in surveys
        for key, rows in seen.cells.items()
    )
    return SECONDS_EACH + SECONDS_PER_VOXEL * voxels + SECONDS_PER_VISIBILITY * visibilities


def _folders(names: Sequence[str]) -> list[str]:
    """Names of folders, from names that may hold anything; no two alike, also where case does not count."""
    out: list[str] = []
    for name in names:
        out.append(fields.unique(fields.safe_name(name), [*fields.RESERVED, *out]))
    return out


def of_images(asked: inputs.Asked) -> Programme:
    """One search of each image of a list, those of one target together.

    Raises
    ------
    DataError
        Where none of them can be searched.
    """
    seen, errors = [], {}
    for name in asked.images:
        try:
            template = images.inspect_inputs(name)[0]
            seen.append(_image_field(name, template))
        except DeepFocusError as exc:
            errors[name] = exc
            seen.append(fields.ImageField(name, "", None, 0.0, math.nan, math.nan, 0))
    cubes = []
    for target in fields.targets(seen):
        for index, label in zip(target.members, target.labels, strict=True):
            item = seen[index]
            parameters = dict(asked.values) | {"imagename": os.path.abspath(item.name), "combine": "", "cluster": ""}
            parameters.pop("outfile")
            if item.nchan < MIN_LINE_CHANNELS and parameters["mode"] == "both":
                parameters["mode"] = "continuum"
            band = (item.low, item.high) if math.isfinite(item.low) else (0.0, 0.0)
            cubes.append(
                CubePlan(target.name, target.folder, label, parameters, band=band, error=errors.get(item.name))
            )
    if errors and len(errors) == len(asked.images):
        raise next(iter(errors.values()))
    return Programme(tuple(cubes))


def _image_field(name: str, template: grid.Grid) -> fields.ImageField:
    """What an image's header says of its field."""
    ny, nx = template.shape[template.y], template.shape[template.x]
    freq = grid.frequencies(template)[0]
    wcs = grid.celestial_wcs(template)
    ra, dec = wcs.wcs_pix2world([[0.5 * (nx - 1), 0.5 * (ny - 1)]], 0)[0]
    meta = template.meta()
    frame = {"FK4": "fk4", "FK5": "fk5"}.get(str(meta.get("radesys", "")).upper(), "icrs")
    radius = 0.5 * min(ny, nx) * grid.cell_size(template) / 3600.0
    return fields.ImageField(
        name, str(meta.get("object", "")).strip(), SkyCoord(ra, dec, unit="deg", frame=frame).icrs, radius,
        float(freq.min()), float(freq.max()), template.nchan,
    )  # fmt: skip


def lines(programme: Programme, workers: int) -> list[str]:
    """What the log says before anything is made; `workers` is 0 where a cluster makes it."""
    made = [cube for cube in programme.cubes if not cube.problem]
    number = len(programme.folders)
    total = sum(cube.seconds for cube in made) / max(1, workers)
    disk = sum(sorted((cube.disk for cube in made), reverse=True)[: max(1, workers)])
    who = _counted(workers, "process") if workers else "a cluster"
    head = (
        f"{_counted(number, 'target')}, {_counted(len(made), 'image')} to make in {who}: "
        f"about {_duration(total)}, {disk / 1e6:.0f} MB of disk at a time"
    )
    return [head, *(cube.told() for cube in programme.cubes), *(f"left out: {text}" for text in programme.left_out)]


def _counted(number: int, what: str) -> str:
    ending = "" if number == 1 else "es" if what.endswith("s") else "s"
    return f"{number} {what}{ending}"


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    minutes = math.ceil(seconds / 60.0)
    return f"{minutes} min" if minutes < 120 else f"{minutes / 60:.1f} h"
