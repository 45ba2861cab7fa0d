"""The task: where CASA, the networks and the core meet. Check, image, read, find, write, tell."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from casatasks import casalog
from tqdm import tqdm

from casa_deepfocus import params, pipeline
from casa_deepfocus.casa import (
    failures,
    guarded,
    images,
    imaging,
    inputs,
    outfiles,
    products,
    report,
    signals,
    space,
    staging,
)
from casa_deepfocus.casa.grids import Template
from casa_deepfocus.errors import DeepFocusError, ProductError
from casa_deepfocus.models import runner

ORIGIN = "sdeepfocus"

WRITER = "casa_deepfocus.casa.products"
MODULES = {False: [WRITER], True: ["casatasks", "casa_deepfocus.casa.imaging", WRITER]}
"""What the process that writes CASA's images needs, by whether measurement sets are imaged."""


def sdeepfocus(*values: Any, **named: Any) -> dict[str, Any]:
    """Find and measure the sources of a dirty cube.

    Parameters
    ----------
    *values, **named
        The parameters of `xml/sdeepfocus.xml`, in its order or by name.

    Returns
    -------
    dict
        outfile (str), counts (dict), products (ending -> path), timings (step -> seconds) and
        sources (a list of dicts, one row of the catalogue each).

    Raises
    ------
    DeepFocusError
        Where the input cannot be used; nothing is written then.
    """
    parameters = dict(zip(params.sdeepfocus().names, values, strict=False)) | named
    started = time.perf_counter()
    timings: dict[str, float] = {}
    work: staging.Workspace | None = None

    def left() -> str:
        return "all products are in place" if work and work.published else signals.UNCHANGED

    with signals.orderly(), signals.told(warn, left):
        with _timed(timings, "check", vis=parameters.get("vis"), imagename=parameters.get("imagename")):
            request = inputs.check(parameters)
        for note in request.notes:
            log(note)
        for warning in request.warnings:
            log(warning, "WARN")
        with staging.workspace(request.outfile) as work, guarded.session(MODULES[bool(request.vis)], [work.lock.fd]):
            with _timed(timings, "load networks", models=request.models, device=request.device):
                networks: Any = runner.load_networks(request.models, request.device)
            log("networks: {preset} on {device}, {threads} threads".format(**networks.info))
            imagename = request.imagename
            if request.vis:
                with _timed(timings, "image", vis=request.vis):
                    imagename = imaging.make_images(request, str(work.path), log)
            with _timed(timings, "read", vis=request.vis, imagename=request.imagename, psf=request.psf, pb=request.pb):
                cube, template = images.read_cube(imagename, request.psf, request.pb, log)
            ny, nx = cube.shape
            log(f"{cube.nchan} channels of {nx} x {ny} pixels, beam {cube.beam_pixels():.1f} pixels")
            space.require(str(work.path), space.products(template.shape, cube.shape), "the products")
            options = pipeline.Options(mode=request.mode, minsnr=request.minsnr, false_alarms=request.falsealarms)
            with _progress() as progress, _timed(timings, "find", vis=request.vis, imagename=request.imagename):
                result = pipeline.run(cube, networks, options, log=log, progress=progress)
            with _timed(timings, "write", outfile=request.outfile):
                written = _write(work, request, result, cube, template, imagename, _history(parameters))
    timings |= {f"find: {name}": seconds for name, seconds in result.timings.items()}
    timings["total"] = time.perf_counter() - started
    lines = products.summary(result.catalogue)
    lines.append(f"{len(result.catalogue)} sources in {timings['total']:.1f} s; picture: {written['png']}")
    lines.append(f"report: {written['html']}")
    for line in lines:
        log(line)
    if sys.stdout.isatty():
        # Without CASA's logger window nobody would see the log.
        sys.stdout.write("\n".join(lines) + "\n")
    return {
        "outfile": request.outfile,
        "counts": dict(result.counts) | {"sources": len(result.catalogue)},
        "products": written,
        "timings": timings,
        "sources": [{name: row[name].item() if hasattr(row[name], "item") else row[name] for name in row.colnames}
                    for row in result.catalogue],
    }  # fmt: skip


def log(message: str, priority: str = "INFO") -> None:
    """Post a message to the CASA log."""
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


def _history(parameters: dict[str, Any]) -> tuple[str, ...]:
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
