"""The demonstration: a small ALMA measurement set with a known truth, and its truth table."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
from astropy.table import Table

from casa_deepfocus.core.cube import Cube
from casa_deepfocus.core.geometry import covariance_to_shape
from casa_deepfocus.errors import ProductError
from sim import arrays, casa_backend
from sim.casa_backend import Observation
from sim.cube import celestial_wcs
from sim.response import Grid, compute_response
from sim.sky import Source
from sim.truth import truth_table, write_truth

LAYOUT: tuple[tuple[str, float, float, dict[str, float]], ...] = (
    (
        "bright",
        1.6,
        -1.0,
        {
            "fwhm_maj": 0.60,
            "fwhm_min": 0.35,
            "continuum": 8.0e-3,
            "alpha": -0.7,
            "line": 26.0e-3,
            "chan": 26.0,
            "line_fwhm": 7.0,
        },
    ),
    ("line", 5.0, 3.2, {"fwhm_maj": 0.45, "fwhm_min": 0.30, "line": 10.0e-3, "chan": 44.0, "line_fwhm": 6.0}),
    ("continuum", -5.4, 2.6, {"fwhm_maj": 0.50, "fwhm_min": 0.40, "continuum": 2.6e-3, "alpha": 2.5}),
    ("pair_a", -2.2, -5.2, {"fwhm_maj": 0.40, "fwhm_min": 0.30, "line": 9.5e-3, "chan": 16.0, "line_fwhm": 6.0}),
    ("pair_b", -1.7, -4.75, {"fwhm_maj": 0.35, "fwhm_min": 0.30, "line": 9.5e-3, "chan": 36.0, "line_fwhm": 7.0}),
)
"""Name, offset west and north [arcsec] before the seed turns the field, and the source (sizes in arcsec).

A bright source with continuum and line, one of lines only, one of continuum only, and a pair 0.8
beams apart whose lines stand 20 channels apart.
"""


def demo_sources(observation: Observation) -> dict[str, Source]:
    """The demonstration's sources; the seed turns the field and moves the lines by up to two channels."""
    rng = np.random.default_rng([observation.seed, 1])
    turn = rng.uniform(0.0, 2.0 * np.pi)
    middle = observation.npix // 2
    sources = {}
    for name, west, north, values in LAYOUT:
        dx, dy = np.cos(turn) * west - np.sin(turn) * north, np.sin(turn) * west + np.cos(turn) * north
        source = Source(
            x=middle + dx / observation.cell, y=middle + dy / observation.cell, pa=rng.uniform(0.0, 180.0), **values
        )
        sources[name] = replace(
            source,
            fwhm_maj=source.fwhm_maj / observation.cell,
            fwhm_min=source.fwhm_min / observation.cell,
            chan=source.chan + rng.uniform(-2.0, 2.0),
        )
    return sources


def write_demo(out: Path, seed: int = 1) -> Table:
    """Write ``demo.ms`` and ``truth.ecsv``.

    Parameters
    ----------
    out : Path, a folder, made when missing
    seed : int, of the noise and of the field's layout

    Returns
    -------
    astropy Table, the truth; its pixels are those of the sky model (256 x 256 at 0.1 arcsec about the phase centre)

    Raises
    ------
    ProductError
        When one of the two products exists.
    """
    vis, path = out / "demo.ms", out / "truth.ecsv"
    if path.exists():
        raise ProductError(f"{path} exists; remove it or choose another folder")
    observation = Observation(seed=seed)
    sources = demo_sources(observation)
    sigma = casa_backend.observe(list(sources.values()), observation, vis)
    table = observed_truth(sources, observation, vis, sigma)
    write_truth(table, path)
    return table


def observed_truth(
    sources: dict[str, Source], observation: Observation, vis: Path, sigma: np.ndarray
) -> Table:
    """The truth table of an observed sky.

    Parameters
    ----------
    sources : dict of name to Source, on the pixels of the model image
    observation : Observation
    vis : Path, the measurement set
    sigma : (nchan,) [Jy], rms of one correlation of one visibility (`casa_backend.observe`)
    """
    uvw = casa_backend.read_uvw(vis)
    grid = Grid(observation.npix, observation.cell, observation.nchan, observation.freq0, observation.chan_width)
    resp = compute_response(uvw, arrays.read_array(observation.array).diameter, grid)
    maj, minor, pa = covariance_to_shape(resp.channels(resp.beam))
    cube = Cube(
        data=np.zeros((grid.nchan, grid.npix, grid.npix), np.float32),
        psf=resp.psf[:1],
        pb=resp.pb[:1],
        freq=grid.freq(),
        beams=np.stack([maj * grid.cell, minor * grid.cell, pa], axis=1),
        cell=grid.cell,
        wcs=celestial_wcs(grid, observation.ra, observation.dec, radesys="FK5"),
        frame="LSRK",
        restfreq=observation.freq0,
        meta={"radesys": "FK5"},
    )
    # Two correlations make Stokes I, and all visibilities weigh the same.
    table = truth_table(list(sources.values()), resp, cube, sigma / np.sqrt(2.0 * len(uvw)))
    table["name"] = np.array(list(sources), dtype="U16")
    table.meta |= {"vis": vis.name, "noise": float(np.median(sigma) / np.sqrt(2.0 * len(uvw)))}
    return table
