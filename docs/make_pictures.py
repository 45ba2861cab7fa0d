"""Draw the pictures of README.md and docs/simulation.md anew: ``python docs/make_pictures.py [NAME ...]``.

From the root of the repository; names are those of the files, all by default.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from functools import partial
from io import BytesIO
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import AsinhNorm
from matplotlib.figure import Figure
from matplotlib.patches import Ellipse
from PIL import Image

from casa_deepfocus import pipeline
from casa_deepfocus.models.runner import load_networks
from casa_deepfocus.products import regions, tables
from sim.coverage import Coverage, Grid
from sim.cube import simulate, simulate_cube
from sim.defects import Defects
from sim.discs import Rotation
from sim.response import response
from sim.show import draw
from sim.sky import Line, Source, disc
from sim.truth import truth_table

FOLDER = Path(__file__).parent / "img"
GRID = Grid(npix=192, cell=0.15, nchan=96, freq0=230.0e9, chan_width=8.0e6)
COVERAGE = Coverage(duration=3600.0)
NOISE = 8e-4

PAIR = (
    disc(86.0, 104.0, 26.0, 35.0, Rotation(14.0, 4.0, 4.0, 62.0), continuum=0.006, alpha=2.0, line=0.08, chan=44.0),
    Source(128.0, 70.0, 6.0, 4.0, 110.0, line=0.03, chan=70.0, line_fwhm=9.0),
    Source(60.0, 50.0, 0.0, 0.0, 0.0, continuum=0.008),
)
ABSORBED = (
    Source(96.0, 96.0, 0.0, 0.0, 0.0, continuum=0.03, alpha=-0.7, line=-0.018, chan=40.0, line_fwhm=8.0,
           extra_lines=(Line(66.0, 5.0, -0.008),)),
    Source(110.0, 104.0, 7.0, 5.0, 20.0, line=0.02, chan=43.0, line_fwhm=10.0),
)  # fmt: skip
SPOILT = Defects(
    flagged_channels=(20, 21, 60), flagged_antennas=(3, 17), nan_edge=6, phase_rms=25.0, amplitude_rms=0.08,
    gain_interval=600.0, ripple_amplitude=0.06, ripple_period=24.0, seed=7,
    outside=Source(215.0, 150.0, 4.0, 4.0, 0.0, continuum=0.3, alpha=-0.7),
)  # fmt: skip


def picture(name: str, sources: Sequence[Source], title: str, defects: Defects | None = None) -> None:
    """Draw a field of chosen sources."""
    defects = defects or Defects()
    cube = simulate_cube(sources, COVERAGE, GRID, NOISE, np.random.default_rng(7), defects=defects)
    resp = response(COVERAGE.without(defects.flagged_antennas), GRID)
    _save(name, draw(cube, truth_table(sources, resp, cube, NOISE), title))


def _save(name: str, figure) -> None:
    FigureCanvasAgg(figure)
    stream = BytesIO()
    figure.savefig(stream, format="png", dpi=80)
    FOLDER.mkdir(exist_ok=True)
    # A palette: noise does not compress, and the page should load.
    Image.open(stream).convert("RGB").quantize(256, Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE).save(
        FOLDER / f"{name}.png", optimize=True
    )


def found() -> None:
    """A dirty cube, what is found in it, and the spectrum of its brightest line: the picture of README.md."""
    cube, truth = simulate("paper", 7, 2)
    result = pipeline.run(cube, load_networks("", "cpu"))
    table = result.catalogue
    figure = Figure(figsize=(11.0, 3.7), layout="constrained")
    dirty, seen, spectrum = figure.subplots(1, 3, width_ratios=[1.0, 1.0, 1.35])
    limits = {
        "origin": "lower",
        "cmap": "Greys",
        "norm": AsinhNorm(3.0, vmin=-4.0, vmax=float(np.nanmax(result.integrated))),
    }
    dirty.imshow(result.integrated, **limits)
    dirty.set_title("dirty cube, summed over its channels", fontsize=10)
    seen.imshow(result.integrated, **limits)
    seen.set_title(f"found: {len(table)} of {len(truth)} planted sources", fontsize=10)
    for number, row in enumerate(table, start=1):
        maj, minor, pa = regions.observed_pixel_shape(row, cube)
        place = (float(row["x"]), float(row["y"]))
        seen.add_patch(Ellipse(place, 2 * minor, 2 * maj, angle=pa, fill=False, color="#b3361a", linewidth=1.4))
        seen.annotate(str(number), place, xytext=(7, 7), textcoords="offset points", color="#b3361a", fontsize=9)
    for axes in (dirty, seen):
        axes.set(xticks=[], yticks=[])
    brightest = int(np.nanargmax(np.asarray(table["snr_line"])))
    row, detail = table[brightest], result.details[brightest]
    spectrum.step(cube.freq / 1e9, detail.spectrum * 1e3, where="mid", color="#777777", linewidth=0.9, label="spectrum")
    spectrum.plot(cube.freq / 1e9, detail.model * 1e3, color="#1b1b1e", linewidth=1.5, label="fit")
    spectrum.legend(frameon=False, fontsize=9)
    spectrum.ticklabel_format(axis="x", useOffset=False)
    spectrum.set(xlabel="frequency [GHz]", ylabel="mJy")
    flux = tables.with_error(float(row["line_flux"]), float(row["line_flux_err"])).replace(
        "+-", " \N{PLUS-MINUS SIGN} "
    )
    spectrum.set_title(f"source {brightest + 1}: {flux} Jy km/s", fontsize=10)
    _save("found", figure)


def paper() -> None:
    cube, truth = simulate("paper", 7, 2)
    _save("paper", draw(cube, truth, "paper, seed 7, cube 2"))


PICTURES = {
    "found": found,
    "paper": paper,
    "disc": partial(picture, "disc", PAIR, "a rotating disc"),
    "absorption": partial(picture, "absorption", ABSORBED, "absorption"),
    "defects": partial(picture, "defects", (PAIR[0], *PAIR[1:]), "the same field with defects", SPOILT),
}

if __name__ == "__main__":
    for name in sys.argv[1:] or PICTURES:
        PICTURES[name]()
