"""What the user asked for, checked before any work is done."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from casa_deepfocus import params
from casa_deepfocus.casa import images, outfiles, selection, staging
from casa_deepfocus.casa.measurementset import Survey
from casa_deepfocus.errors import ParameterError
from casa_deepfocus.models import runner
from casa_deepfocus.pipeline import state
from casa_deepfocus.products import velocity
from casa_deepfocus.reading import companions
from casa_deepfocus.reading.grid import is_table


@dataclass(frozen=True)
class Request:
    """The checked parameters of one run.

    Attributes
    ----------
    vis : tuple of str
        Measurement sets; empty where an image is given.
    imagename, psf, pb : str
    outfile : str
        Prefix of the products, never empty.
    overwrite, cutouts, keepimages : bool
    mode : str
        'both', 'line' or 'continuum'; 'both' becomes 'continuum' where there is one channel only.
    minsnr, falsealarms : float
    device, models : str
    tclean : dict
        The parameters handed to tclean as they are.
    nchan : int
        Channels of the cube; -1 where it is not known before it is made.
    completeness : int
        Artificial sources to put in.
    surveys : tuple of Survey
        What is selected of each measurement set.
    notes, warnings : tuple of str
        What the log should say about the choices made here.
    """

    vis: tuple[str, ...]
    imagename: str
    psf: str
    pb: str
    outfile: str
    overwrite: bool
    mode: str
    minsnr: float
    falsealarms: float
    device: str
    models: str
    cutouts: bool
    keepimages: bool
    tclean: dict[str, Any] = field(default_factory=dict)
    nchan: int = -1
    completeness: int = 0
    surveys: tuple[Survey, ...] = ()
    notes: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class Asked:
    """The parameters as they are given, with their defaults: what can be judged without opening any data.

    Attributes
    ----------
    values : dict
        All parameters, by name.
    vis, images : tuple of str
        One of the two is empty.
    combine : tuple of str
        Of 'field' and 'spw'.
    """

    values: dict[str, Any]
    vis: tuple[str, ...]
    images: tuple[str, ...]
    combine: tuple[str, ...] = ()

    @property
    def tclean(self) -> dict[str, Any]:
        """The parameters that are handed to tclean."""
        return {name: self.values[name] for name in params.tclean_names()}


def read(parameters: Mapping[str, Any]) -> Asked:
    """Complete the parameters with their defaults, and check those that need no data.

    Parameters
    ----------
    parameters : mapping
        By the names of `xml/sdeepfocus.xml`; missing ones take their default.

    Raises
    ------
    ParameterError
        At the first one that cannot be used.
    """
    unknown = sorted(set(parameters) - set(params.sdeepfocus().names))
    if unknown:
        raise ParameterError(
            unknown[0], parameters[unknown[0]], "is no parameter of sdeepfocus", "See help(sdeepfocus)"
        )
    values = params.sdeepfocus().defaults() | {
        name: params.sdeepfocus().value(name, parameters) for name in params.sdeepfocus().names
    }
    vis, names = _names(values["vis"]), _names(values["imagename"])
    if bool(vis) == bool(names):
        raise ParameterError(
            "vis", values["vis"], f"give either vis or imagename ({values['imagename']!r})",
            "vis is imaged with tclean; imagename is a dirty image that exists already",
        )  # fmt: skip
    _one_of("mode", values["mode"], state.MODES)
    _one_of("device", values["device"], runner.DEVICES)
    for name in params.sdeepfocus().names:
        _within_range(name, values[name])
    velocity.rest_frequency(values["restfreq"])
    runner.find_folder(str(values["models"] or ""))
    for name in ("psf", "pb"):
        if values[name] and len(names) > 1:
            raise ParameterError(
                name, values[name], f"is one image, and imagename names {len(names)}",
                "Leave it out: those beside each image are found by their names",
            )  # fmt: skip
    combine = _one_of("combine", values["combine"] or "", params.sdeepfocus()["combine"].allowed)
    return Asked(values, vis, names, tuple(word for word in combine.split(",") if word))


def check(parameters: Mapping[str, Any], *, visibilities: bool = True) -> Request:
    """Check all parameters of the task for one image; nothing is imaged or written.

    Parameters
    ----------
    parameters : mapping
        By the names of `xml/sdeepfocus.xml`; missing ones take their default.
    visibilities : bool
        Whether to read a sample of the visibilities.

    Raises
    ------
    ParameterError, DataError, ProductError
        At the first one that cannot be used.
    """
    asked = read(parameters)
    values, vis = asked.values, asked.vis
    if len(asked.images) > 1:
        raise ParameterError("imagename", values["imagename"], "are several images", "Give one of them")
    imagename = asked.images[0] if asked.images else ""
    mode, minsnr, falsealarms = str(values["mode"]), float(values["minsnr"]), float(values["falsealarms"])
    models = str(values["models"] or "")
    for name in ("psf", "pb"):
        if values[name] and vis:
            raise ParameterError(
                name, values[name], "belongs to imagename; with vis it is made by tclean", "Leave it out"
            )
        if values[name] and not os.path.exists(values[name]):
            raise ParameterError(name, values[name], "does not exist", f"Leave {name} empty to find it by name")
    for name, given in (("imagename", imagename), ("psf", values["psf"]), ("pb", values["pb"])):
        if os.path.isdir(given or "") and not is_table(given):
            raise ParameterError(
                name, given, "is a folder and no CASA image", "Give an image: a CASA one, or a FITS file"
            )
    tclean = asked.tclean
    warnings: tuple[str, ...] = ()
    surveys: tuple[Survey, ...] = ()
    nchan, remedy = -1, "Use mode='continuum'"
    column_note: tuple[str, ...] = ()
    if vis:
        tclean["datacolumn"], column_note = selection.data_column(vis, str(tclean["datacolumn"]))
        selection.check_sets(vis, tclean)
    else:
        nchan = _check_image(imagename, str(values["psf"] or ""), str(values["pb"] or ""))
    outfile, notes = _check_outfile(
        values["outfile"], outfiles.sources(vis, imagename, str(values["psf"] or ""), str(values["pb"] or "")),
        overwrite=bool(values["overwrite"]), keeps_images=bool(vis) and bool(values["keepimages"]),
        more=outfiles.COMPLETENESS if values["completeness"] else (),
        cutouts=bool(values["cutouts"]),
    )  # fmt: skip
    if vis:
        selected = selection.check(vis, tclean, visibilities=visibilities)
        tclean, surveys, nchan = selected.tclean, selected.surveys, selected.nchan
        notes, warnings = notes + column_note + selected.notes, selected.warnings
        remedy = "Use specmode='cube' and more channels, or mode='continuum'"
    if mode == "line" and 0 <= nchan < state.MIN_LINE_CHANNELS:
        raise ParameterError(
            "mode", mode, f"needs a spectral axis of at least {state.MIN_LINE_CHANNELS} channels; "
            f"this input has {'none' if nchan == 1 else nchan}", remedy,
        )  # fmt: skip
    if nchan == 1 and mode == "both":
        mode, notes = "continuum", (*notes, "one channel only: the search is in mode 'continuum'")
    return Request(
        vis=vis,
        imagename=imagename,
        psf=str(values["psf"] or ""),
        pb=str(values["pb"] or ""),
        outfile=outfile,
        overwrite=bool(values["overwrite"]),
        mode=mode,
        minsnr=minsnr,
        falsealarms=falsealarms,
        device=values["device"],
        models=models,
        cutouts=bool(values["cutouts"]),
        keepimages=bool(values["keepimages"]),
        tclean=tclean,
        nchan=nchan,
        completeness=int(values["completeness"]),
        surveys=surveys,
        notes=notes,
        warnings=warnings,
    )


def default_outfile(name: str) -> str:
    """Prefix of the products when none is given: the input's name without its ending, in the current folder."""
    base = os.path.basename(os.path.normpath(name))
    for ending in (*companions.FITS_ENDINGS, ".ms", ".image"):
        if base.endswith(ending) and len(base) > len(ending):
            base = base[: -len(ending)]
    return base


def _names(vis: Any) -> tuple[str, ...]:
    items: Sequence[Any] = [vis] if isinstance(vis, (str, os.PathLike)) else list(vis if vis is not None else [])
    return tuple(os.path.expanduser(str(item)).rstrip("/") for item in items if str(item))


def _within_range(name: str, value: Any) -> None:
    """See that a number is one, and in the range that the XML gives for it."""
    parameter = params.sdeepfocus()[name]
    low, high = parameter.minimum, parameter.maximum
    if low is None and high is None:
        return
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    least, most = (-math.inf if low is None else low), (math.inf if high is None else high)
    if not number or not (least <= value <= most and math.isfinite(value)):
        limits = " and ".join(
            text for text, limit in ((f"at least {low}", low), (f"at most {high}", high)) if limit is not None
        )
        raise ParameterError(
            name, value, f"must be a positive number, {limits}" if least > 0 else f"must be a number, {limits}",
            f"{parameter.default:g} is the default",
        )  # fmt: skip


def _one_of(name: str, value: Any, allowed: tuple[str, ...]) -> str:
    if value not in allowed:
        raise ParameterError(name, value, "is unknown", f"Use one of {', '.join(map(repr, allowed))}")
    return str(value)


def _check_outfile(
    outfile: Any,
    sources: Sequence[str],
    *,
    overwrite: bool,
    keeps_images: bool,
    cutouts: bool,
    more: Sequence[str] = (),
) -> tuple[str, tuple[str, ...]]:
    """The prefix of the products, and what the log should say: runs that died in its folder are cleared up first."""
    prefix = outfiles.expanded(str(outfile or "") or default_outfile(sources[0]))
    folder = outfiles.check_name(prefix)
    outfiles.check_sources(prefix, sources, keeps_images=keeps_images)
    notes = staging.recover(folder)
    endings = outfiles.endings(prefix, sources, keeps_images=keeps_images, cutouts=cutouts, more=more)
    outfiles.check_free(prefix, [prefix + ending for ending in endings], overwrite=overwrite)
    return prefix, tuple(notes)


def _check_image(imagename: str, psf: str, pb: str) -> int:
    """Number of channels of an image that can be used, with its PSF and primary beam."""
    if not os.path.exists(imagename):
        raise ParameterError("imagename", imagename, "does not exist", "Check the path")
    return images.inspect_inputs(imagename, psf, pb)[0].nchan
