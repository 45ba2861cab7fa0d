"""Rotated and mirrored images, drawn: place, angle, parity, projection, and how the header writes them."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from hypothesis import strategies as st

from benchmarks.faults import fields
from benchmarks.faults.case import Case, Trial
from benchmarks.faults.corpus.draw import examples

NUMBER = 40
"""Headers that are drawn."""

TURNS = st.fixed_dictionaries(
    {
        "angle": st.one_of(st.sampled_from([0.0, 0.5, 90.0, 180.0, 270.0]), st.floats(-180.0, 180.0)),
        "mirrored": st.booleans(),
        "style": st.sampled_from(["CROTA2", "PC", "CD"]),
        "projection": st.sampled_from(["SIN", "TAN", "ZEA", "ARC"]),
        "dec": st.sampled_from([-35.0, 0.0, 60.0, 88.0, -89.0]),
        "ra": st.sampled_from([0.001, 150.0, 359.999]),
    }
)


def cases(seed: int) -> Iterator[Case]:
    """The cases of this kind."""
    for number, turn in enumerate(examples(TURNS, NUMBER, seed)):
        name = "{style} {angle:.1f} {projection} dec {dec:g}{flip}".format(flip=" mirrored" * turn["mirrored"], **turn)
        yield Case(f"turned/{number} {name}", partial(_turned, turn))


def cards(turn: dict[str, Any]) -> dict[str, Any]:
    """The header's cards of a turned image."""
    cell, angle = fields.CELL / 3600.0, np.radians(turn["angle"])
    step = np.array([cell if turn["mirrored"] else -cell, cell])
    matrix = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    own: dict[str, Any] = {
        "CTYPE1": f"RA---{turn['projection']}", "CTYPE2": f"DEC--{turn['projection']}",
        "CRVAL1": turn["ra"], "CRVAL2": turn["dec"], "CDELT1": step[0], "CDELT2": step[1],
    }  # fmt: skip
    if turn["style"] == "CROTA2":
        return own | {"CROTA2": turn["angle"]}
    if turn["style"] == "PC":
        return own | {f"PC{i + 1}_{j + 1}": matrix[i, j] for i in range(2) for j in range(2)}
    own |= {"CDELT1": None, "CDELT2": None}
    return own | {f"CD{i + 1}_{j + 1}": step[i] * matrix[i, j] for i in range(2) for j in range(2)}


def _turned(turn: dict[str, Any], folder: Path, shared: Path) -> Trial:
    field = fields.image()
    own = cards(turn)
    plain = fields.header(field, **own)
    # The beam of a header is on the sky: the pixels' own one turned.
    own["BPA"] = beam_angle(field, plain)
    header = fields.write_field(folder, field, cards=own)
    return Trial({"imagename": "x.fits"}, fields.truth(field, header), beam=field.beam, words=(("x.fits",),))


def beam_angle(field: fields.Field, header: Any) -> float:
    """Position angle [deg] on the sky of the beam, which is known on the pixels, at the reference pixel."""
    from astropy.wcs import WCS

    from sim.sky import Source

    beam = np.median(field.cube.beams, axis=0)
    middle = Source(header["CRPIX1"] - 1, header["CRPIX2"] - 1, 2.0, 1.0, float(beam[2]))
    return fields.on_sky(WCS(header).celestial, middle)[1]
