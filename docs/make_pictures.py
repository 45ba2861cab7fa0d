"""Draw the pictures of docs/simulation.md anew: ``python docs/make_pictures.py`` from the root of the repository."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

from matplotlib.backends.backend_agg import FigureCanvasAgg
from PIL import Image

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


if __name__ == "__main__":
    cube, truth = simulate("paper", 7, 2)
    _save("paper", draw(cube, truth, "paper, seed 7, cube 2"))
    picture("disc", PAIR, "a rotating disc")
    picture("absorption", ABSORBED, "absorption")
    picture("defects", (PAIR[0], *PAIR[1:]), "the same field with defects", SPOILT)
