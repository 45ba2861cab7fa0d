"""Noise that is not the beam's, images without a PSF, spikes, blanks, and data of any scale."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import lru_cache, partial
from pathlib import Path

import numpy as np
from hypothesis import strategies as st
from scipy import ndimage

from benchmarks.faults import fields
from benchmarks.faults.case import Case, Trial
from benchmarks.faults.corpus.draw import examples
from casa_deepfocus.core.cube import Cube
from casa_deepfocus.core.geometry import gaussian_image
from casa_deepfocus.core.psf import gaussian_psf
from sim.coverage import Grid
from sim.cube import celestial_wcs
from sim.sky import Source

SCALES = st.floats(-30.0, 30.0).map(lambda power: round(power, 1))
"""Powers of ten by which data are scaled."""


def cases(seed: int) -> Iterator[Case]:
    """The cases of this kind."""
    for kind in ("white", "beam", "half", "mixed"):
        for snr in (30, 100, 300):
            for given in (False, True):
                name = f"noise/{kind} peak over rms {snr}, psf {'given' if given else 'of the header'}"
                yield Case(name, partial(_toy, kind, 0.1 / snr, given))
    for power in [-30.0, 30.0, *examples(SCALES, 10, seed)]:
        for cube in (False, True):
            yield Case(f"noise/scaled by 1e{power:g}, {'cube' if cube else 'image'}", partial(_scaled, power, cube))
    for name, make in _OTHERS.items():
        yield Case(f"noise/{name}", make)


@lru_cache(maxsize=16)
def toy(kind: str, noise: float, seed: int = 1) -> fields.Field:
    """The usual toy image: beam-shaped sources of 100 mJy and noise.

    Parameters
    ----------
    kind : 'white' over the pixels, 'beam' (correlated as by the beam), 'half' (by half the beam), 'mixed' (white and
        beam in equal parts)
    noise : float [Jy/beam], its rms
    """
    npix, beam = 160, 6.0
    places = ((40.0, 50.0), (120.0, 70.0), (80.0, 80.0), (50.0, 120.0))
    rng = np.random.default_rng(seed)

    def correlated(fwhm: float) -> np.ndarray:
        made = ndimage.gaussian_filter(rng.standard_normal((npix, npix)), fwhm / 2.3548 / np.sqrt(2.0), mode="wrap")
        return made / made.std()

    parts = {"white": (0.0,), "beam": (beam,), "half": (beam / 2,), "mixed": (0.0, beam)}[kind]
    made = [correlated(fwhm) if fwhm else rng.standard_normal((npix, npix)) for fwhm in parts]
    data = noise * np.sum(made, axis=0) / np.sqrt(len(made))
    covariance = (beam / 2.3548) ** 2 * np.array([1.0, 1.0, 0.0])
    for x, y in places:
        data += 0.1 * gaussian_image((npix, npix), x, y, covariance)
    grid = Grid(npix=npix, cell=fields.CELL, nchan=1, freq0=fields.FREQ, chan_width=fields.WIDTH)
    beams = np.array([[beam * fields.CELL, beam * fields.CELL, 0.0]])
    cube = Cube(
        data=data.astype(np.float32)[None],
        psf=gaussian_psf(beams, fields.CELL, (2 * npix, 2 * npix)),
        pb=np.ones((1, npix, npix), np.float32),
        freq=grid.freq(),
        beams=beams,
        cell=fields.CELL,
        wcs=celestial_wcs(grid, fields.RA, fields.DEC),
    )
    return fields.Field(cube, tuple(Source(x, y, 0.0, 0.0, 0.0, continuum=0.1) for x, y in places))


def _toy(kind: str, noise: float, given: bool, folder: Path, shared: Path) -> Trial:
    field = toy(kind, noise)
    header = fields.write_field(folder, field, kinds=("data", "psf") if given else ("data",))
    return Trial({"imagename": "x.fits"}, fields.truth(field, header), beam=field.beam)


def _scaled(power: float, cube: bool, folder: Path, shared: Path) -> Trial:
    from dataclasses import replace

    field = fields.cube() if cube else fields.image()
    factor = 10.0**power
    header = fields.write_field(folder, field, change=lambda data: (data.astype(float) * factor).astype(np.float32))
    truth = tuple(
        replace(source, continuum=source.continuum * factor, line_flux=source.line_flux * factor)
        for source in fields.truth(field, header)
    )
    return Trial({"imagename": "x.fits"}, truth, beam=field.beam)


def _changed(
    folder: Path, shared: Path, *, change: Callable[[np.ndarray], np.ndarray], cube: bool = False,
    words: tuple[tuple[str, ...], ...] | None = None, may: bool = False, warns: tuple[str, ...] = (),
) -> Trial:  # fmt: skip
    field = fields.cube() if cube else fields.image()
    header = fields.write_field(folder, field, change=change)
    if words is not None and not may:
        return Trial({"imagename": "x.fits"}, words=(("x.fits",), *words))
    truth = fields.truth(field, header)
    return Trial({"imagename": "x.fits"}, truth, may_refuse=may, words=words or (), beam=field.beam, warns=warns)


def _at(value: float, *index: int | slice) -> Callable[[np.ndarray], np.ndarray]:
    def change(data: np.ndarray) -> np.ndarray:
        data[index] = value
        return data

    return change


def _loud_channel(data: np.ndarray) -> np.ndarray:
    """A channel of nothing but noise, a million times that of the others: continua cancel in the difference."""
    data[21] = 1e6 * (data[20] - data[22])
    return data


def _noise_free(folder: Path, shared: Path) -> Trial:
    field = toy("white", 1e-12)
    header = fields.write_field(folder, field, kinds=("data",))
    return Trial({"imagename": "x.fits"}, fields.truth(field, header), may_refuse=True, beam=field.beam,
                 words=(("noise",),))  # fmt: skip


def _no_sources(folder: Path, shared: Path) -> Trial:
    from dataclasses import replace

    field = fields.image()
    noise = toy("beam", 1e-3)
    empty = fields.Field(replace(noise.cube, data=noise.cube.data - toy("beam", 0.0).cube.data), ())
    header = fields.write_field(folder, empty, kinds=("data", "psf"))
    return Trial({"imagename": "x.fits"}, fields.truth(empty, header), beam=field.beam)


_OTHERS: dict[str, Callable[[Path, Path], Trial]] = {
    "one voxel of 1e6": partial(_changed, change=_at(1e6, 20, 48), warns=("1",)),
    "one voxel of -1e6": partial(_changed, change=_at(-1e6, 20, 48)),
    "one voxel of 1e6 in a cube": partial(_changed, cube=True, change=_at(1e6, 5, 20, 48)),
    "one voxel of inf": partial(_changed, change=_at(np.inf, 20, 48)),
    "one voxel of nan": partial(_changed, change=_at(np.nan, 20, 48)),
    "one channel of nan": partial(_changed, cube=True, change=_at(np.nan, 20)),
    "one channel of zeros": partial(_changed, cube=True, change=_at(0.0, 20)),
    "one channel of noise 1e6": partial(_changed, cube=True, change=_loud_channel),
    "edge channels of nan": partial(_changed, cube=True, change=_at(np.nan, slice(0, 3))),
    "a border of nan": partial(_changed, change=lambda d: np.pad(d[6:-6, 6:-6], 6, constant_values=np.nan)),
    "all nan": partial(_changed, change=lambda d: d * np.nan, words=(("valid", "blank", "data"),)),
    "all zero": partial(_changed, change=lambda d: d * 0, words=(("valid", "blank", "zero", "data"),)),
    "all one value": partial(_changed, change=lambda d: 0 * d + 1, words=(("noise", "constant", "value"),)),
    "no noise": _noise_free,
    "no sources": _no_sources,
}  # fmt: skip
