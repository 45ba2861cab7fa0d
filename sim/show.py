"""One picture of a simulated cube: images, moments, PSF and spectra, with the truth drawn in.

Spectra are those of the matched filter: the flux density of the whole source [mJy], corrected for the
primary beam, as the linear filter that knows place and size finds it in each channel by itself. The same
filter on the noise-free image of all sources is drawn beside it, so that blends and discs can be compared.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from astropy.table import Table
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.gridspec import GridSpec
from numpy.typing import NDArray

from casa_deepfocus.core.cube import Cube
from casa_deepfocus.core.noise import channel_noise
from casa_deepfocus.errors import DataError
from sim import panels
from sim.fits import read_cube
from sim.inject import inject_cube
from sim.panels import View, milli
from sim.sky import Source
from sim.truth import sources_of

SPECTRA = 3
"""Most spectra that are drawn."""

DPI = 100


def show(folder: Path, out: Path | None = None) -> Path:
    """Draw a cube that `sim.dataset.generate` or `sim.inject` wrote.

    Parameters
    ----------
    folder : Path, with ``dirty.fits``, ``psf.fits``, ``pb.fits`` and ``truth.ecsv``; without a truth, no sources
    out : Path, the PNG; ``show.png`` in the folder by default

    Returns
    -------
    Path, of the PNG

    Raises
    ------
    DataError
        When the folder holds no cube.
    """
    folder = Path(folder)
    if not (folder / "dirty.fits").is_file():
        raise DataError(f"{folder} holds no dirty.fits: give the folder of one cube, DIR/<index>")
    cube = read_cube(folder)
    path = folder / "truth.ecsv"
    truth = Table.read(path) if path.is_file() else Table({"x": [], "snr": [], "name": []})
    figure = draw(cube, truth, _origin(folder))
    out = Path(out) if out is not None else folder / "show.png"
    out.parent.mkdir(parents=True, exist_ok=True)
    FigureCanvasAgg(figure)
    figure.savefig(out, format="png", dpi=DPI)
    return out


def _origin(folder: Path) -> str:
    """Preset, seed and number of a cube, from the manifest of its dataset."""
    try:
        content = json.loads((folder.resolve().parent / "manifest.json").read_text())
        return f"{Path(content['preset']).stem}, seed {content['seed']}, cube {int(folder.resolve().name)}"
    except (OSError, ValueError, KeyError, TypeError):
        return folder.resolve().name


def draw(cube: Cube, truth: Table, origin: str = "") -> Figure:
    """The picture of a cube and its truth.

    Parameters
    ----------
    cube : Cube
    truth : astropy Table, `sim.truth.truth_table`; may be empty
    origin : str, where the cube comes from, for the title
    """
    view = look(cube, truth)
    figure = Figure(figsize=(16.0, 8.6), layout="constrained")
    grid = GridSpec(2, 4, figure=figure, height_ratios=[1.12, 1.0])
    top = [figure.add_subplot(grid[0, column]) for column in range(4)]
    main = view.main
    panels.band(figure, top[0], view)
    if main is not None:
        panels.moment0(figure, top[1], view)
        panels.moment1(figure, top[2], view)
        panels.channel(figure, top[3], view, main)
    else:
        panels.zoom(figure, top[1], view)
        panels.histogram(top[2], view)
        panels.beam_map(figure, top[3], view)
    panels.psf(figure, figure.add_subplot(grid[1, 0]), view)
    if cube.nchan == 1:
        panels.listing(figure.add_subplot(grid[1, 1:]), view)
    elif not view.order:
        panels.noise(figure.add_subplot(grid[1, 1:]), view)
    else:
        shown = view.order[:SPECTRA]
        inner = grid[1, 1:].subgridspec(1, len(shown))
        for place, row in enumerate(shown):
            panels.spectrum(figure.add_subplot(inner[0, place]), view, row)
    figure.suptitle(_title(view, origin), fontsize=12)
    return figure


def look(cube: Cube, truth: Table) -> View:
    """What is drawn of a cube and its truth."""
    sources = sources_of(truth, cube) if len(truth) else []
    order = [int(row) for row in np.argsort(-np.asarray(truth["snr"], dtype=float))] if len(truth) else []
    lines = np.zeros((0, 0, 0), np.float32)
    if cube.nchan > 1 and any(source.lines for source in sources):
        lines = _without_continuum(cube, sources)
    return View(cube, truth, sources, channel_noise(cube.data), lines, order, _model(cube, sources))


def _model(cube: Cube, sources: Sequence[Source]) -> NDArray[np.float32] | None:
    """The cube as it would be without noise and defects; None where the PSF does not tell."""
    try:
        return inject_cube(cube.with_data(np.zeros_like(cube.data)), sources).data if len(sources) else None
    except DataError:
        return None


def _without_continuum(cube: Cube, sources: Sequence[Source]) -> NDArray[np.float32]:
    """The cube less a straight line in frequency through the channels that hold no line."""
    free = np.isfinite(cube.data[:, ::4, ::4]).any(axis=(1, 2))
    chan = np.arange(cube.nchan, dtype=np.float32)
    for source in sources:
        for line in source.lines:
            free &= np.abs(chan - line.chan) > 1.5 * line.fwhm
    if free.sum() < 4:
        return cube.data
    time = (chan - chan[free].mean()) / cube.nchan
    base = np.stack([np.ones_like(time), time])
    fitted = np.tensordot(np.linalg.pinv(base[:, free].T).astype(np.float32), np.nan_to_num(cube.data[free]), axes=1)
    return cube.data - np.tensordot(base.T, fitted, axes=1)


def _title(view: View, origin: str) -> str:
    cube, middle = view.cube, view.cube.nchan // 2
    beams = cube.beams[np.isfinite(cube.beams).all(axis=1)]
    major, minor, _ = np.median(beams, axis=0)
    facts = [text for text in (origin, cube.meta.get("instrument") or cube.meta.get("telescope", "")) if text]
    facts.append(f"{cube.freq[middle] / 1e9:.4g} GHz, {cube.nchan} channel{'s' if cube.nchan > 1 else ''}")
    if cube.nchan > 1:
        facts[-1] += f" of {cube.chan_width_kms(float(cube.freq[middle])):.3g} km/s"
    facts.append(f'beam {major:.3g}" x {minor:.3g}"')
    facts.append(f"noise {milli(float(np.nanmedian(view.sigma)))} mJy/beam")
    number = len(view.sources)
    if number:
        snr = np.asarray(view.truth["snr"], dtype=float)
        span = f"{snr.max():.3g}" if number == 1 else f"{snr.min():.3g} to {snr.max():.3g}"
        facts.append(f"{number} source{'s' if number > 1 else ''}, S/N {span}")
    else:
        facts.append("no sources")
    return "   |   ".join(facts)
