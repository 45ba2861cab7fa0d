"""The one door between CASA or FITS images and the core's `Cube`, and back to CASA images.

What is read becomes (chan, y, x) in `reading.cube`; the axes go back in `write_planes`, and nowhere else.
"""

from __future__ import annotations

import numpy as np
from casatools import image
from numpy.typing import NDArray

from casa_deepfocus.casa.grids import Template, index_of, inspect, opened
from casa_deepfocus.core.cube import Cube
from casa_deepfocus.reading import cube as reading
from casa_deepfocus.reading.cube import SLAB, Log, fit_beam, silent

__all__ = ["fit_beam", "inspect", "inspect_inputs", "opened", "read_cube", "write_planes", "write_sky"]


def read_cube(imagename: str, psf: str = "", pb: str = "", log: Log = silent) -> tuple[Cube, Template]:
    """Read a dirty CASA or FITS image with its PSF and primary beam: `reading.cube.read_cube`."""
    return reading.read_cube(imagename, psf, pb, log, inspect=inspect)


def inspect_inputs(imagename: str, psf: str = "", pb: str = "") -> tuple[Template, Template | None, str]:
    """The grids of CASA or FITS images, seen to be usable: `reading.cube.inspect_inputs`."""
    return reading.inspect_inputs(imagename, psf, pb, inspect=inspect)


def write_planes(
    name: str, planes: NDArray, template: Template, *, unit: str = "", history: tuple[str, ...] = ()
) -> None:
    """Write (nchan, ny, nx) values as a CASA image on the template's grid; every Stokes plane gets the same."""
    ia = image()
    try:
        ia.fromshape(name, list(template.shape), csys=template.csys, overwrite=True, log=False)
        ia.setbrightnessunit(unit)
        ndim, nchan = len(template.shape), template.nchan
        ny, nx = planes.shape[1:]
        step = max(1, SLAB // (ny * nx))
        for start in range(0, nchan, step):
            slab = np.asarray(planes[start : start + step], dtype=np.float32)
            roles = {template.x: 2, template.y: 1}
            casa = slab
            if template.spectral is not None:
                roles[template.spectral] = 0
            else:
                casa = slab[0]
                roles = {template.x: 1, template.y: 0}
            order = sorted(roles)
            casa = casa.transpose([roles[axis] for axis in order])
            for axis in range(ndim):
                if axis not in roles:
                    casa = np.repeat(np.expand_dims(casa, axis), template.shape[axis], axis=axis)
            blc = [0] * ndim
            if template.spectral is not None:
                blc[template.spectral] = start
            ia.putchunk(np.asarray(casa, dtype=float), blc=blc)
        if planes.dtype.kind == "f" and np.isnan(planes).any():
            ia.calcmask(f"!isnan('{name}')", name="mask0")
        if history:
            ia.sethistory(origin="sdeepfocus", history=list(history))
    finally:
        ia.done()


def write_sky(name: str, plane: NDArray, template: Template, *, unit: str = "", history: tuple[str, ...] = ()) -> None:
    """Write an (ny, nx) map as a CASA image that keeps only the sky axes of the template."""
    record = dict(template.csys)
    index = index_of(record, "direction")
    keep = {
        key.rstrip("0123456789") + "0": value
        for key, value in record.items()
        if key in {f"{kind}{index}" for kind in ("direction", "pixelreplace", "worldreplace")}
    }
    others = {key: record[key] for key in ("obsdate", "observer", "telescope", "telescopeposition", "pointingcenter")
              if key in record}  # fmt: skip
    keep |= others | {"pixelmap0": np.array([0, 1]), "worldmap0": np.array([0, 1])}
    flat = Template(
        csys=keep, shape=(plane.shape[1], plane.shape[0]), x=0, y=1, spectral=None, stokes=None, name="", unit=unit
    )
    write_planes(name, plane[None], flat, unit=unit, history=history)
