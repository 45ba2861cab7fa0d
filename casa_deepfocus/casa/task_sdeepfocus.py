"""The task: where CASA, the networks and the core meet. Check, image, read, find, write, tell."""

from __future__ import annotations

import dataclasses
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import numpy as np
from casatasks import casalog
from tqdm import tqdm

from casa_deepfocus import params, pipeline
from casa_deepfocus.casa import (
    archive,
    failures,
    guarded,
    images,
    imaging,
    inputs,
    outfiles,
    plan,
    products,
    report,
    runfolder,
    signals,
    space,
    staging,
    targetfolder,
    visibilities,
)
from casa_deepfocus.casa.grids import Template
from casa_deepfocus.errors import DataError, DeepFocusError, ProductError
from casa_deepfocus.models import runner

ORIGIN = "sdeepfocus"

WRITER = "casa_deepfocus.casa.products"
MODULES = {False: [WRITER], True: ["casatasks", "casa_deepfocus.casa.imaging", WRITER]}
"""What the process that writes CASA's images needs, by whether measurement sets are imaged."""


_title: ContextVar[str] = ContextVar("title", default="")
_works: ContextVar[staging.Workspace | None] = ContextVar("works", default=None)


def sdeepfocus(*values: Any, **named: Any) -> dict[str, Any]:
    """Find and measure the sources of a dirty cube.

    Parameters
    ----------
    *values, **named
        The parameters of `xml/sdeepfocus.xml`, in its order or by name.

    Returns
    -------
    dict
        Of one image: outfile (str), counts (dict), products (ending -> path), timings (step -> seconds) and
        sources (a list of dicts, one row of the catalogue each). Of several: outfile, counts, products (target ->
        its folder), timings (cube -> seconds), targets (target -> its sources and lines, lists of dicts) and failed
        (cube -> why).

    Raises
    ------
    DeepFocusError
        Where the input cannot be used; nothing is written then.
    """
    parameters = dict(zip(params.sdeepfocus().names, values, strict=False)) | named
    with signals.orderly():
        asked = inputs.read(parameters)
        programme = _programme(asked)
        if len(programme.cubes) > 1:
            return _search_all(asked, programme)
        with _interruptible():
            back = search(_of_one(asked, programme), inputs_given=parameters)
    _show(back.pop("lines"))
    back.pop("facts")
    return back


def search(parameters: Mapping[str, Any], *, inputs_given: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Image one target and window, or read one image, search it, and write its products.

    Parameters
    ----------
    parameters : mapping
        Of the task.
    inputs_given : mapping, optional
        What the user gave, for the history of the products; the parameters by default.

    Returns
    -------
    dict
        What the task returns of one image, and `lines` (list of str, the table of the sources) and `facts` (dict, what
        a page of several images says of this one).

    Raises
    ------
    DeepFocusError
        Where the input cannot be used; nothing is written then.
    """
    started = time.perf_counter()
    timings: dict[str, float] = {}
    with _timed(timings, "check", vis=parameters.get("vis"), imagename=parameters.get("imagename")):
        request = inputs.check(parameters)
    for note in request.notes:
        log(note)
    for warning in request.warnings:
        log(warning, "WARN")
    with staging.workspace(request.outfile) as work, guarded.session(MODULES[bool(request.vis)], [work.lock.fd]):
        _works.set(work)
        with _timed(timings, "load networks", models=request.models, device=request.device):
            networks: Any = runner.load_networks(request.models, request.device)
        log("networks: {preset} on {device}, {threads} threads".format(**networks.info))
        made = imaging.Images(request.imagename)
        if request.vis:
            with _timed(timings, "image", vis=request.vis):
                made = imaging.make_images(request, str(work.path), log)
        imagename = made.name
        with _timed(timings, "read", vis=request.vis, imagename=request.imagename, psf=request.psf, pb=request.pb):
            cube, template = images.read_cube(imagename, request.psf, request.pb, log)
            cube = dataclasses.replace(cube, mosaic=made.mosaic)
        ny, nx = cube.shape
        log(f"{cube.nchan} channels of {nx} x {ny} pixels, beam {cube.beam_pixels():.1f} pixels")
        space.require(str(work.path), space.products(template.shape, cube.shape), "the products")
        # What tclean makes of visibilities has flat noise; what somebody else has made may have any.
        options = pipeline.Options(
            mode=request.mode, minsnr=request.minsnr, false_alarms=request.falsealarms,
            noise_map=False if request.vis else None,
        )  # fmt: skip
        with _progress() as progress, _timed(timings, "find", vis=request.vis, imagename=request.imagename):
            result = pipeline.run(cube, networks, options, log=log, progress=progress)
        with _timed(timings, "write", outfile=request.outfile):
            history = _history(parameters if inputs_given is None else inputs_given)
            written = _write(work, request, result, cube, template, imagename, history)
            if _title.get():
                targetfolder.keep_for_page(request.outfile, result, cube)
    timings |= {f"find: {name}": seconds for name, seconds in result.timings.items()}
    timings["total"] = time.perf_counter() - started
    lines = products.summary(result.catalogue)
    if not _title.get():
        lines.append(f"{len(result.catalogue)} sources in {timings['total']:.1f} s; picture: {written['png']}")
        lines.append(f"report: {written['html']}")
    for line in lines:
        log(line)
    return {
        "outfile": request.outfile,
        "counts": dict(result.counts) | {"sources": len(result.catalogue)},
        "products": written,
        "timings": timings,
        "sources": targetfolder.rows_of(result.catalogue),
        "lines": lines,
        "facts": {
            "noise": float(np.nanmedian(result.noise)), "beam": cube.beam_on_sky(), "nchan": cube.nchan,
            "shape": cube.shape, "cell": cube.cell, "freq": (float(cube.freq[0]), float(cube.freq[-1])),
            "frame": cube.frame, "warnings": list(request.warnings),
            "effective_freq": visibilities.effective_frequency(request.surveys, request.tclean["stokes"])
            if request.vis and cube.nchan == 1 else 0.0,
        },
    }  # fmt: skip


def _programme(asked: inputs.Asked) -> plan.Programme:
    """What there is to make of what is asked for.

    What stands against a single image is told better by its own checks.
    """
    with failures.step("check", vis=asked.vis, imagename=asked.images):
        if len(asked.images) > 1:
            return plan.of_images(asked)
        if asked.images:
            return plan.Programme(())
        try:
            return plan.of_sets(asked)
        except DataError:
            inputs.check(asked.values)
            raise


def _of_one(asked: inputs.Asked, programme: plan.Programme) -> dict[str, Any]:
    """The parameters of the only image: what was found of it takes the place of what was left open."""
    if not programme.cubes:
        return dict(asked.values)
    for text in programme.left_out:
        log(f"left out: {text}")
    cube = programme.cubes[0]
    if cube.error is not None:
        raise cube.error
    found = dict(asked.values)
    if programme.left_out or len(cube.parameters["vis"]) < len(asked.vis):
        found |= {name: cube.parameters[name] for name in ("vis", "field", "spw", "intent")}
    return found | {name: cube.parameters[name] for name in ("specmode", "outframe", "phasecenter")}


def _search_all(asked: inputs.Asked, programme: plan.Programme) -> dict[str, Any]:
    """All cubes of several targets and windows, into a folder of their own."""
    started = time.perf_counter()
    sources = (*asked.vis, *asked.images)
    outfile = outfiles.expanded(str(asked.values["outfile"] or "") or inputs.default_outfile(sources[0]))
    outfiles.check_name(outfile)
    number, where = archive.workers(asked, programme)
    for note in programme.notes:
        log(note)
    for line in plan.lines(programme, number if where is None else 0):
        log(line)
    # PSF and primary beam beside an image belong to it.
    read = [*asked.vis, *(name for image in asked.images for name in outfiles.sources((), image, "", ""))]
    with runfolder.run_folder(outfile, asked.values, read, overwrite=bool(asked.values["overwrite"])) as folder:
        for note in folder.notes:
            log(note)
        with _interruptible(lambda: f"what is done stays in {str(folder.path)!r}; the same call goes on from there"):
            archive.run(programme, asked, folder, log)
            back = targetfolder.close(folder, programme, time.perf_counter() - started)
    for line in back["lines"]:
        log(line)
    _show(back.pop("lines"))
    if not back["targets"]:
        reasons = list(dict.fromkeys(back["failed"].values()))
        raise DataError(f"none of {len(programme.cubes)} images could be made: {'; '.join(reasons[:3])}")
    return back


@contextmanager
def _interruptible(left: Callable[[], str] | None = None) -> Iterator[None]:
    """Say what an interruption has left."""
    _works.set(None)

    def unchanged() -> str:
        work = _works.get()
        return "all products are in place" if work and work.published else signals.UNCHANGED

    with signals.told(warn, left or unchanged):
        yield


def _show(lines: Sequence[str]) -> None:
    """Print what the log says last: without CASA's logger window nobody would see it."""
    if sys.stdout.isatty():
        sys.stdout.write("\n".join(lines) + "\n")


@contextmanager
def titled(title: str) -> Iterator[None]:
    """Put a title before all that is logged inside."""
    token = _title.set(title)
    try:
        yield
    finally:
        _title.reset(token)


def log(message: str, priority: str = "INFO") -> None:
    """Post a message to the CASA log."""
    message = f"{_title.get()}: {message}" if _title.get() else message
    casalog.post(message, priority=priority, origin=ORIGIN)
    signals.check()


def warn(message: str) -> None:
    """Post a warning to the CASA log."""
    casalog.post(message, priority="WARN", origin=ORIGIN)


def _write(
    work: staging.Workspace,
    request: inputs.Request,
    result: Any,
    cube: Any,
    template: Template,
    imagename: str,
    history: tuple[str, ...],
) -> dict[str, str]:
    """Write all products into the work folder, then move them into place together."""
    base = os.path.basename(request.outfile)
    keeps_images = bool(request.vis) and request.keepimages
    try:
        products.write_all(work.staged, base, result, cube, template, history)
        report.write(work.staged / base, result, cube, request)
        if keeps_images:
            stem = imagename.removesuffix(".image")
            for ending in outfiles.IMAGES:
                os.rename(stem + ending, work.staged / (base + ending))
        outfiles.mark(work.staged)
    except DeepFocusError:
        raise
    except OSError as exc:
        if exc.errno in space.FULL:
            raise space.full(str(work.path), str(exc)) from exc
        raise ProductError(f"the products of outfile={request.outfile!r} cannot be written: {exc}") from exc
    sources = outfiles.sources(request.vis, request.imagename, request.psf, request.pb)
    endings = outfiles.endings(request.outfile, sources, keeps_images=keeps_images)
    return work.publish(endings, overwrite=request.overwrite)


def _history(parameters: Mapping[str, Any]) -> tuple[str, ...]:
    given = ", ".join(f"{name}={value!r}" for name, value in parameters.items() if value not in ("", [], None))
    return (f"sdeepfocus({given})",)


@contextmanager
def _timed(timings: dict[str, float], name: str, **subjects: Any) -> Iterator[None]:
    """A step of the task: its time, and its name and subjects in the errors of libraries."""
    start = time.perf_counter()
    try:
        with failures.step(name, **subjects):
            yield
    finally:
        timings[name] = time.perf_counter() - start


@contextmanager
def _progress() -> Iterator[Callable[[str, int], None]]:
    """A counter on a terminal, silent elsewhere: call it with the round's name and the sources so far."""
    with tqdm(desc="sdeepfocus", unit=" sources", disable=not sys.stderr.isatty(), leave=False) as bar:

        def show(step: str, sources: int) -> None:
            bar.set_description(f"sdeepfocus, {step}")
            bar.update(sources - bar.n)

        yield show
