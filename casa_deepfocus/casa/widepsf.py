"""The PSFs of a field's channels out to twice the field, of tclean's PSFs of a few channels.

Weights other than natural ones depend on the size of the image. A channel's PSF with the weights of the field is
that of an outlier image, at twice the size, of the field's own image: tclean weighs all by the first. Other channels'
PSFs are made of these (`core.psfband`), and each is held against its own, which the field's image brings along.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from casatools import image
from numpy.typing import NDArray

from casa_deepfocus.casa import guarded, mosaics
from casa_deepfocus.casa.grids import inspect, opened
from casa_deepfocus.casa.guarded import Imager
from casa_deepfocus.casa.images import Log
from casa_deepfocus.core import psfband
from casa_deepfocus.errors import DataError
from casa_deepfocus.reading.grid import frequencies

FIRST = 2
"""Channels whose PSF is made at first: both ends of the band."""

MOST = 9
"""Channels whose PSF is made one by one, at most; of a band of many channels one in `EACH`."""

EACH = 16

LEFT = 0.1
"""What the PSFs may leave of the brightest pixel of a channel, in rms over the image [sigma of the channel]."""

EXACT = 5e-5
"""Rms [peak] below which nothing is asked for: two of 64 channels leave 3e-5 at natural weights, by the gridding."""

ACCEPTED = 4e-4
"""Largest rms [peak] that is left where `MOST` channels do not do better: that of robust weights with 6 of 64 channels
over 1 GHz at 230 GHz (``python -m benchmarks imaging``). Channels flagged differently leave more; all are made then."""

OWN = 3e-5
"""Rms [peak] above which a channel's own PSF is put into the inner part."""

PIXELS = 2**18
"""Pixels of a plane that its noise is told from."""


UNREADABLE = re.compile(r"[=#\s]")
"""What tclean's reader of outlier files takes for its own in a name."""


def can_be_asked(folder: str, passed: Mapping[str, Any]) -> bool:
    """Whether tclean can be asked for PSFs in a folder: weights of the field need an outlier file, which names it."""
    return passed["weighting"] == "natural" or not UNREADABLE.search(os.path.abspath(folder))


@dataclass
class Known:
    """What the field's image says of its channels.

    Attributes
    ----------
    freq : (nchan,) [Hz]
    samples : dict of int -> (rows, columns) float32, the PSF at the pixels of `psfband.sampled`, where there are data
    inner : (ny, nx) of the field
    wide : (py, px) of the PSFs to be made
    brightest : float, largest pixel of all channels [sigma of its channel]
    """

    freq: NDArray[np.float64]
    samples: dict[int, NDArray[np.float32]]
    inner: tuple[int, int]
    wide: tuple[int, int]
    brightest: float


@dataclass
class Nodes:
    """PSFs of twice the field: images, and splines of them."""

    names: dict[int, str] = field(default_factory=dict)
    splines: dict[int, NDArray[np.float32]] = field(default_factory=dict)


def make(name: str, vis: Sequence[str], passed: Mapping[str, Any], log: Log, imager: Imager) -> None:
    """Put PSFs of twice the field, `<name>.psf`, in the place of those of the field that tclean made.

    Parameters
    ----------
    name : str
        Of the field's images: .image, .psf, .sumwt; in a folder where other images can be made, and are removed.
    vis : sequence of str
    passed : mapping
        tclean's parameters for the field.
    log : Log
    imager : callable
        As for `imaging.make_images`.

    Raises
    ------
    DataError
        Where tclean makes no PSF.
    """
    folder = os.path.dirname(os.path.abspath(name))
    known = look(name)
    nodes = Nodes()
    choices: dict[int, psfband.Choice] = {}
    allowed = float(np.clip(LEFT / max(known.brightest, 1.0), EXACT, ACCEPTED))
    most = min(max(MOST, len(known.freq) // EACH), len(known.samples))
    wanted, doubtful = psfband.spread(sorted(known.samples), FIRST), dict(known.samples)
    while wanted:
        for chan in wanted:
            _make_node(os.path.join(folder, f"node{chan}"), chan, name, vis, passed, known, nodes, imager)
        choices |= psfband.choose(nodes.splines, known.freq, doubtful, known.inner, EXACT)
        doubtful = {chan: known.samples[chan] for chan in doubtful if choices[chan].rms > allowed}
        wanted = next_nodes(nodes.splines, {chan: choices[chan].rms for chan in doubtful}, most)
    worst = max(choice.rms for choice in choices.values())
    target = f"{name}.wide"
    if worst > ACCEPTED:
        log(f"PSF: channels differ by {worst:.1g} (flags or weights of their own): all are imaged at twice the field")
        _run(os.path.join(folder, "all"), name, vis, passed, known, imager)
        os.rename(os.path.join(folder, "all.psf"), target)
    else:
        log(f"PSF: twice the field, from {len(nodes.names)} of {len(known.freq)} channels, rms {worst:.1g} of the peak")
        guarded.call(write, f"{name}.psf", target, nodes.names, choices, known.freq, folder=folder)
    for prefix in (*(f"node{chan}." for chan in nodes.names), "all.", f"{os.path.basename(name)}.psf"):
        mosaics.remove(folder, prefix)
    os.rename(target, f"{name}.psf")


def look(name: str) -> Known:
    """What the images of a field say of its channels; PSFs are to cover twice the field."""
    freq = frequencies(inspect(f"{name}.image"))[0]
    samples: dict[int, NDArray[np.float32]] = {}
    with opened(f"{name}.sumwt") as ia:
        weights = np.asarray(ia.getchunk())
    weights = weights.reshape(-1, weights.shape[-1]).max(axis=0)
    with opened(f"{name}.psf") as psf, opened(f"{name}.image") as ia:
        nx, ny = (int(n) for n in psf.shape()[:2])
        wide = (2 * ny, 2 * nx)
        rows, columns = psfband.sampled(wide, (ny, nx))[2:]
        step, brightest = max(1, int(np.sqrt(nx * ny / PIXELS))), 0.0
        for chan in np.flatnonzero(weights > 0):
            plane = _plane(psf, int(chan))
            if not np.isfinite(plane).all():
                continue
            samples[int(chan)] = plane[np.ix_(rows, columns)].astype(np.float32)
            data = np.abs(_plane(ia, int(chan)))
            noise = 1.4826 * float(np.median(data[::step, ::step]))
            if noise > 0:
                brightest = max(brightest, float(data.max()) / noise)
    return Known(freq, samples, (ny, nx), wide, brightest)


def next_nodes(made: Mapping[int, Any], wrong: Mapping[int, float], most: int) -> list[int]:
    """The channels whose PSF is to be made next: the worst one between any two that are made, at most `most` in all.

    Parameters
    ----------
    made : mapping, keys are channels
    wrong : mapping of int -> float
        Channels whose PSFs are not exact enough, and by how much.
    most : int
    """
    edges = sorted(made)
    worst: dict[int, int] = {}
    for chan in wrong:
        if chan not in made:
            gap = int(np.searchsorted(edges, chan))
            if gap not in worst or wrong[chan] > wrong[worst[gap]]:
                worst[gap] = chan
    found = sorted(worst.values(), key=lambda chan: -wrong[chan])
    return sorted(found[: max(0, most - len(made))])


def _make_node(
    stem: str, chan: int, name: str, vis: Sequence[str], passed: Mapping[str, Any], known: Known, nodes: Nodes,
    imager: Imager,
) -> None:  # fmt: skip
    width = mosaics.WIDER * float(known.freq[-1] - known.freq[0]) / (len(known.freq) - 1)
    one = {"start": f"{float(known.freq[chan])!r}Hz", "width": f"{width!r}Hz", "nchan": 1}
    _run(stem, name, vis, {**passed, **one}, known, imager)
    with opened(f"{stem}.psf") as ia:
        plane = _plane(ia, 0)
    if plane.shape != known.wide or not np.isfinite(plane).all():
        raise DataError(f"tclean made a PSF of {plane.shape} pixels of channel {chan}, {known.wide} were asked for")
    nodes.names[chan], nodes.splines[chan] = f"{stem}.psf", psfband.spline(plane)


def _run(
    stem: str, name: str, vis: Sequence[str], passed: Mapping[str, Any], known: Known, imager: Imager
) -> None:  # fmt: skip
    """tclean of PSFs alone, of the field's weights and twice its size, <stem>.psf."""
    values = {
        **passed, "vis": list(vis), "imagename": stem, "niter": 0, "deconvolver": "hogbom", "restoration": False,
        "pbcor": False, "calcpsf": True, "calcres": False, "interactive": False, "savemodel": "none",
    }  # fmt: skip
    py, px = known.wide
    if passed["weighting"] == "natural":
        values["imsize"] = [px, py]
    else:
        values["imagename"] = f"{stem}.field"
        values["outlierfile"] = f"{stem}.outlier"
        with open(values["outlierfile"], "w", encoding="utf-8") as file:
            file.write(
                f"imagename={stem}\nimsize=[{px},{py}]\ncell=[{passed['cell'][0]}]\n"
                f"phasecenter={centre_of(f'{name}.image')}\n"
            )
    try:
        imager(**values)
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.remove(f"{stem}.outlier")
    if not os.path.isdir(f"{stem}.psf"):
        raise DataError(f"tclean made no .psf of {', '.join(vis)}; the CASA log says why")


def centre_of(name: str) -> str:
    """The reference direction of an image, as tclean's phasecenter."""
    with opened(name) as ia:
        csys = ia.coordsys()
    try:
        frame = str(np.ravel(csys.referencecode("direction"))[0])
        csys.setunits(["rad", "rad"], type="direction")
        place = [f"{float(value)!r}rad" for value in csys.torecord()["direction0"]["crval"]]
    finally:
        csys.done()
    return " ".join([frame, *place])


def write(
    own: str, target: str, names: Mapping[int, str], choices: Mapping[int, psfband.Choice], freq: NDArray
) -> None:
    """Write PSFs of all channels; called in CASA's own process.

    Parameters
    ----------
    own : str
        The PSFs of the field; channels without data have none.
    target : str
    names : mapping of int -> str
        Images of known PSFs.
    choices : mapping of int -> Choice
    freq : (nchan,) [Hz]
    """
    splines = {}
    for chan, name in names.items():
        with opened(name) as ia:
            splines[chan] = psfband.spline(_plane(ia, 0))
    py, px = next(iter(splines.values())).shape
    with opened(own) as small:
        csys = small.coordsys()
        shape = [int(n) for n in small.shape()]
        place = csys.referencepixel()["numeric"]
        place[:2] = px // 2, py // 2
        csys.setreferencepixel(list(place))
        wide = image()
        try:
            wide.fromshape(target, [px, py, *shape[2:]], csys=csys.torecord(), overwrite=True)
            for chan in range(shape[3]):
                if chan not in choices:
                    continue
                plane = psfband.blended(splines, freq, chan, choices[chan])
                if choices[chan].rms > OWN:
                    psfband.with_own(plane, _plane(small, chan))
                wide.putchunk(plane.T[:, :, None, None].astype(float), blc=[0, 0, 0, chan])
        finally:
            wide.done()
            csys.done()


def _plane(ia: Any, chan: int) -> NDArray[np.float64]:
    """(ny, nx) of the first polarisation of a channel."""
    shape = [int(n) for n in ia.shape()]
    plane = ia.getchunk([0, 0, 0, chan], [shape[0] - 1, shape[1] - 1, 0, chan])
    return np.asarray(plane)[:, :, 0, 0].T
