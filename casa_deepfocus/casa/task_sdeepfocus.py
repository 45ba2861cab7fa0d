"""The task: where CASA, the networks and the core meet. Check, image, read, find, write, tell."""

from __future__ import annotations

import dataclasses
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import numpy as np
from casatasks import casalog

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
from casa_deepfocus.pipeline import completeness
from casa_deepfocus.products import completeness as told_completeness
from casa_deepfocus.products import fitsimages, progress, report, tables, velocity, writing
from casa_deepfocus.products.found import Found, Spectrum

ORIGIN = "sdeepfocus"

WRITER = "casa_deepfocus.casa.products"
MODULES = {False: [WRITER], True: ["casatasks", "casa_deepfocus.casa.imaging", WRITER]}
"""What the process that writes CASA's images needs, by whether measurement sets are imaged."""


STEPS = {
    "check": "looking through the input",
    "load networks": "loading the networks",
    "image": "imaging (tclean)",
    "read": "reading the images",
    "find": "searching",
    "completeness": "searching for artificial sources",
    "write": "writing the products",
}
"""The steps of the task in words, by the names that its timings have."""

_title: ContextVar[str] = ContextVar("title", default="")
_works: ContextVar[staging.Workspace | None] = ContextVar("works", default=None)


def sdeepfocus(*values: Any, **named: Any) -> Found:
    """Find and measure the sources of a dirty cube.

    Parameters
    ----------
    *values, **named
        The parameters of `xml/sdeepfocus.xml`, in its order or by name.

    Returns
    -------
    Found
        A dictionary that prints as the table of sources. Of one image: outfile (str), counts (dict), products
        (ending -> path), timings (step -> seconds) and sources (a list of dicts, one row of the catalogue each). Of
        several: outfile, counts, products (target -> its folder), timings (cube -> seconds), targets (target -> its
        sources and lines, lists of dicts) and failed (cube -> why).

    Raises
    ------
    DeepFocusError
        Where the input cannot be used; nothing is written then.
    """
    parameters = dict(zip(params.sdeepfocus().names, values, strict=False)) | named
    with signals.orderly(), progress.line() as line:
        line.step(STEPS["check"])
        asked = inputs.read(parameters)
        programme = _programme(asked)
        if len(programme.cubes) > 1:
            found = search_all(asked, programme)
        else:
            if programme.cubes:
                line.expect(programme.cubes[0].seconds)
            with _interruptible():
                back = search(_of_one(asked, programme), inputs_given=parameters)
            back.pop("facts")
            found = back.pop("found")
            found.update(back)
    return found


def search(
    parameters: Mapping[str, Any], *, inputs_given: Mapping[str, Any] | None = None,
    imager: guarded.Imager | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Image one target and window, or read one image, search it, and write its products.

    Parameters
    ----------
    parameters : mapping
        Of the task.
    inputs_given : mapping, optional
        What the user gave, for the history of the products; the parameters by default.
    imager : callable, optional
        As for `imaging.make_images`.

    Returns
    -------
    dict
        What the task returns of one image, and `found` (Found, its tables and arrays, for the process that asked) and
        `facts` (dict, what a page of several images says of this one).

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
                made = imaging.make_images(request, str(work.path), log, imager or guarded.tclean)
        imagename = made.name
        with _timed(timings, "read", vis=request.vis, imagename=request.imagename, psf=request.psf, pb=request.pb):
            cube, template = images.read_cube(imagename, request.psf, request.pb, log)
            restfreq = velocity.rest_frequency(request.tclean["restfreq"]) or cube.restfreq
            cube = dataclasses.replace(cube, mosaic=made.mosaic, restfreq=restfreq)
        ny, nx = cube.shape
        if not request.vis and not _title.get():
            progress.current.get().expect(plan.expected_seconds(cube.data.size, ()))
        log(f"{cube.nchan} channels of {nx} x {ny} pixels, beam {cube.beam_pixels():.1f} pixels")
        space.require(str(work.path), space.products(template.shape, cube.shape), "the products")
        # What tclean makes of visibilities has flat noise; what somebody else has made may have any.
        options = pipeline.Options(
            mode=request.mode, minsnr=request.minsnr, false_alarms=request.falsealarms,
            noise_map=False if request.vis else None,
        )  # fmt: skip
        with _timed(timings, "find", vis=request.vis, imagename=request.imagename):
            result = pipeline.run(cube, networks, options, log=log, progress=_searching)
        share = None
        if request.completeness:
            with _timed(timings, "completeness", vis=request.vis, imagename=request.imagename):
                share = completeness.measure(
                    cube, networks, options, result, request.completeness, log=log, progress=_searching
                )
        convention = velocity.convention_of(request.tclean["veltype"])
        tables.complete(result.catalogue, cube.frame, cube.restfreq, convention)
        with _timed(timings, "write", outfile=request.outfile):
            run = _told(request, networks, parameters if inputs_given is None else inputs_given)
            run = dataclasses.replace(run, completeness=share)
            written = _write(work, request, result, cube, template, imagename, run)
            if _title.get():
                targetfolder.keep_for_page(request.outfile, result, cube)
    timings |= {f"find: {name}": seconds for name, seconds in result.timings.items()}
    timings["total"] = time.perf_counter() - started
    for text in tables.summary(result.catalogue):
        log(text)
    if share is not None:
        log(told_completeness.sentence(share))
    if not _title.get():
        log(f"{len(result.catalogue)} sources in {timings['total']:.1f} s; picture: {written['png']}")
        log(f"report: {written['html']}")
    asked = {} if share is None else {"completeness": writing.rows_of(told_completeness.table(share))}
    return asked | {
        "outfile": request.outfile,
        "counts": dict(result.counts) | {"sources": len(result.catalogue)},
        "products": written,
        "timings": timings,
        "sources": writing.rows_of(result.catalogue),
        "found": _found(result, cube, convention),
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


def search_all(
    asked: inputs.Asked, programme: plan.Programme, *, imager: guarded.Imager | None = None
) -> Found:  # fmt: skip
    """All cubes of several targets and windows, into a folder of their own.

    Parameters
    ----------
    asked : Asked
    programme : Programme
    imager : callable, optional
        As for `archive.run`.

    Returns
    -------
    Found
        What the task returns of several targets.

    Raises
    ------
    DeepFocusError
        Where nothing can be made.
    """
    started = time.perf_counter()
    sources = (*asked.vis, *asked.images)
    outfile = outfiles.expanded(str(asked.values["outfile"] or "") or inputs.default_outfile(sources[0]))
    outfiles.check_name(outfile)
    number, where = archive.workers(asked, programme) if imager is None else (1, None)
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
            archive.run(programme, asked, folder, log, _made, imager)
            back = targetfolder.close(folder, programme, time.perf_counter() - started)
    lines = back.pop("lines")
    for line in lines:
        log(line)
    if not back["targets"]:
        reasons = list(dict.fromkeys(back["failed"].values()))
        raise DataError(f"none of {len(programme.cubes)} images could be made: {'; '.join(reasons[:3])}")
    return Found(back, catalogue=back.pop("catalogue"), lines=back.pop("linetable"), text=lines)


@contextmanager
def _interruptible(left: Callable[[], str] | None = None) -> Iterator[None]:
    """Say what an interruption has left."""
    _works.set(None)

    def unchanged() -> str:
        work = _works.get()
        return "all products are in place" if work and work.published else signals.UNCHANGED

    with signals.told(warn, left or unchanged):
        yield


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
    # The log says first whose task it is: that of the last task that was called, unless it is told.
    casalog.origin(ORIGIN)
    casalog.post(message, priority=priority)
    signals.check()


def warn(message: str) -> None:
    """Post a warning to the CASA log."""
    casalog.origin(ORIGIN)
    casalog.post(message, priority="WARN")


def _write(
    work: staging.Workspace,
    request: inputs.Request,
    result: Any,
    cube: Any,
    template: Template,
    imagename: str,
    run: report.Run,
) -> dict[str, str]:
    """Write all products into the work folder, then move them into place together."""
    base = os.path.basename(request.outfile)
    keeps_images = bool(request.vis) and request.keepimages
    try:
        products.write_all(work.staged, base, result, cube, template, run, cutouts=request.cutouts)
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
    more = outfiles.COMPLETENESS if request.completeness else ()
    endings = outfiles.endings(
        request.outfile, sources, keeps_images=keeps_images, cutouts=request.cutouts, more=more
    )  # fmt: skip
    return work.publish(endings, overwrite=request.overwrite)


def _told(request: inputs.Request, networks: Any, parameters: Mapping[str, Any]) -> report.Run:
    """What the products say of how they were made."""
    defaults = params.sdeepfocus().defaults()
    given = ", ".join(
        f"{name}={value!r}"
        for name, value in parameters.items()
        if value not in ("", [], None) and value != defaults.get(name)
    )
    weighting = str(request.tclean["weighting"]) if request.vis else ""
    if weighting.startswith("briggs"):
        weighting += f", robust {request.tclean['robust']:g}"
    return report.Run(
        inputs=request.vis or (request.imagename,), mode=request.mode, minsnr=request.minsnr,
        falsealarms=request.falsealarms, call=f"sdeepfocus({given})", psf=request.psf, pb=request.pb,
        weighting=weighting, networks="{preset} on {device}".format(**networks.info), warnings=request.warnings,
    )  # fmt: skip


@contextmanager
def _timed(timings: dict[str, float], name: str, **subjects: Any) -> Iterator[None]:
    """A step of the task: its time, and its name and subjects in the errors of libraries."""
    start = time.perf_counter()
    progress.current.get().step(STEPS[name])
    log(f"step: {STEPS[name]}")
    try:
        with failures.step(name, **subjects):
            yield
    finally:
        timings[name] = time.perf_counter() - start


def _searching(step: str, sources: int) -> None:
    """What the search does now, for the line on the terminal."""
    so_far = f", {sources} sources so far" if sources else ""
    progress.current.get().step(f"{STEPS['find']}: {step}{so_far}")


def _made(done: int, number: int, share: float) -> None:
    """How many of several cubes are made, for the line on the terminal."""
    progress.current.get().step(f"cube {min(done + 1, number)} of {number}" if done < number else "tables and pages")
    progress.current.get().share(share)


def _found(result: Any, cube: Any, convention: str) -> Found:
    """The tables and arrays of a result."""
    speeds = velocity.velocity(cube.freq, cube.restfreq, convention)
    return Found(
        {}, catalogue=result.catalogue,
        spectra={item.name: Spectrum(cube.freq, speeds, item.spectrum, item.model) for item in result.details},
        maps={
            "integrated": result.integrated, "probability": result.probability,
            "noise": fitsimages.noise_image(result),
        },
    )  # fmt: skip
