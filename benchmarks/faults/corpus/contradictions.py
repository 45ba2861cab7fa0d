"""Image, PSF and primary beam that do not belong together; images that are too small, too coarse or too large."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from astropy.io import fits
from scipy import ndimage

from benchmarks.faults import fields
from benchmarks.faults.case import Case, Trial

Change = Callable[[np.ndarray], np.ndarray]


def cases() -> Iterator[Case]:
    """The cases of this kind."""
    for name, make in {**_PSF, **_PB, **_BEAM, **_SIZE}.items():
        yield Case(f"contradiction/{name}", make)


def _kind(
    folder: Path, shared: Path, *, kind: str, change: Change | None = None, cards: dict[str, Any] | None = None,
    cube: bool = False, words: tuple[tuple[str, ...], ...] | None = None, may: bool = False,
    warns: tuple[str, ...] = (),
) -> Trial:  # fmt: skip
    """A field whose psf or pb was changed; to be refused where `words` are given, unless `may`."""
    field = fields.cube() if cube else fields.image()
    header = fields.write_field(folder, field)
    path = folder / f"x.{kind}.fits"
    with fits.open(path) as hdus:
        data, own = np.array(hdus[0].data), hdus[0].header.copy()
    for key, value in (cards or {}).items():
        own[key] = value
    for key in ("NAXIS1", "NAXIS2", "NAXIS3"):
        own.pop(key, None)
    data = change(data) if change else data
    fits.PrimaryHDU(data.astype(np.float32), own).writeto(path, overwrite=True, output_verify="ignore")
    parameters = {"imagename": "x.fits"}
    if words is not None and not may:
        return Trial(parameters, words=((f"x.{kind}.fits",), *words))
    truth = fields.truth(field, header)
    return Trial(parameters, truth, may_refuse=may, words=((f"x.{kind}.fits",), *(words or ())), beam=field.beam,
                 warns=warns)  # fmt: skip


def _move(dy: int, dx: int) -> Change:
    return lambda data: np.roll(data, (dy, dx), (-2, -1))


def _middle(share: float) -> Change:
    def change(data: np.ndarray) -> np.ndarray:
        side = data.shape[-1]
        keep = int(side * share) // 2
        return data[..., side // 2 - keep : side // 2 + keep, side // 2 - keep : side // 2 + keep]

    return change


def _spike(data: np.ndarray) -> np.ndarray:
    data[..., 20, 30] = 1.7
    return data


def _wide_gaussian(data: np.ndarray) -> np.ndarray:
    y, x = np.indices(data.shape[-2:])
    return 0 * data + np.exp(-((y - data.shape[-2] // 2) ** 2 + (x - data.shape[-1] // 2) ** 2) / 40.0**2)


def _half_pixel(folder: Path, shared: Path) -> Trial:
    """What some imagers write: the peak of an even PSF at (n - 1) // 2."""
    return _kind(folder, shared, kind="psf", change=_move(-1, -1), may=True, words=(("centre", "center", "peak"),))


def _blurred(data: np.ndarray) -> np.ndarray:
    smooth = ndimage.gaussian_filter(data, 2.0)
    return smooth / smooth.max()


_CELL = {"CDELT1": -2 * fields.CELL / 3600, "CDELT2": 2 * fields.CELL / 3600}
_PEAK, _PLACE = ("peak",), ("centre", "center", "peak", "place")
_NOTHING = ("empty", "nan", "peak", "valid", "blank")
_ORDER = ("channel", "frequenc", "spectral")
_PSF: dict[str, Callable[[Path, Path], Trial]] = {
    "psf of peak 0.5": partial(_kind, kind="psf", change=lambda d: 0.5 * d, words=(_PEAK,)),
    "psf of peak 2": partial(_kind, kind="psf", change=lambda d: 2.0 * d, words=(_PEAK,)),
    "psf of peak 1e-3": partial(_kind, kind="psf", change=lambda d: 1e-3 * d, words=(_PEAK,)),
    "psf negative": partial(_kind, kind="psf", change=lambda d: -d, words=(_PEAK,)),
    "psf off its centre": partial(_kind, kind="psf", change=_move(9, -6), words=(_PLACE,)),
    "psf one pixel off": _half_pixel,
    "psf with a spike": partial(_kind, kind="psf", change=_spike, words=(_PEAK,)),
    "psf of zeros": partial(_kind, kind="psf", change=lambda d: 0 * d, words=(("empty", "zero", "peak"),)),
    "psf of nan": partial(_kind, kind="psf", change=lambda d: d * np.nan, words=(_NOTHING,)),
    "psf of ones": partial(_kind, kind="psf", change=lambda d: 0 * d + 1, words=(("lobe", "constant", "beam"),)),
    "psf of another cell": partial(_kind, kind="psf", cards=_CELL, words=(("pixel", "cell"),)),
    "psf of a few pixels": partial(
        _kind, kind="psf", change=_middle(0.03), words=(("pixel", "size", "small", "cover"),)
    ),
    "psf as large as the field": partial(_kind, kind="psf", change=_middle(0.5)),
    "psf of 3 channels": partial(_kind, kind="psf", cube=True, change=lambda d: d[:3], words=(("channel",),)),
    "psf of one plane": partial(_kind, kind="psf", cube=True, change=lambda d: d[12:13]),
    "psf channels reversed": partial(
        _kind, kind="psf", cube=True, may=True, words=(_ORDER,), change=lambda d: d[::-1],
        cards={"CRVAL3": fields.FREQ + (fields.NCHAN - 1) * fields.WIDTH, "CDELT3": -fields.WIDTH},
    ),
    "psf of another band": partial(_kind, kind="psf", cube=True, cards={"CRVAL3": 115e9}, words=(_ORDER,)),
    "psf is a primary beam": partial(_kind, kind="psf", change=_wide_gaussian, words=(("beam", "lobe"),)),
    "psf blurred": partial(_kind, kind="psf", change=_blurred, words=(("beam", "lobe"),)),
    "psf turned": partial(
        _kind, kind="psf", may=True, words=(("turn", "rotat", "orient", "axes"),), cards={"CROTA2": 90.0}
    ),
    "psf is the image": lambda f, s: _own(f, psf="x.fits"),
    "psf is a link to the image": lambda f, s: _own(f, psf="link.fits"),
    "psf is the pb": lambda f, s: _own(f, psf="x.pb.fits"),
}  # fmt: skip


def _own(folder: Path, **given: str) -> Trial:
    field = fields.image()
    fields.write_field(folder, field)
    (folder / "link.fits").symlink_to("x.fits")
    (name,) = given
    return Trial({"imagename": "x.fits", **given}, words=((name,),))


def _holes(data: np.ndarray) -> np.ndarray:
    y, x = np.indices(data.shape[-2:])
    return np.where(np.hypot(y - 48, x - 48) < 44, data, np.nan)


_RANGE = ("range", "peak", "between", "1", "per cent")
_PB: dict[str, Callable[[Path, Path], Trial]] = {
    "pb in percent": partial(_kind, kind="pb", change=lambda d: 100 * d, words=(_RANGE,)),
    "pb in db": partial(_kind, kind="pb", change=lambda d: 10 * np.log10(d), words=(_RANGE,)),
    "pb of peak 0.5": partial(_kind, kind="pb", change=lambda d: 0.5 * d, words=(_RANGE,)),
    "pb negative": partial(_kind, kind="pb", change=lambda d: -d, words=(_RANGE,)),
    "pb of zeros": partial(_kind, kind="pb", change=lambda d: 0 * d, words=(("zero", "peak", "empty", "range"),)),
    "pb of nan": partial(_kind, kind="pb", change=lambda d: d * np.nan, words=(("nan", "empty", "valid", "blank"),)),
    "pb masked outside": partial(_kind, kind="pb", change=_holes),
    "pb of another size": partial(_kind, kind="pb", change=_middle(0.5), words=(("pixel",),)),
    "pb shifted on the sky": partial(
        _kind, kind="pb", cards={"CRVAL2": fields.DEC + 0.002}, words=(("sky", "place", "centre", "position"),)
    ),
    "pb of another cell": partial(_kind, kind="pb", cards=_CELL, words=(("pixel", "cell", "sky"),)),
    "pb of one plane": partial(_kind, kind="pb", cube=True, change=lambda d: d[12:13]),
    "pb of 5 channels": partial(_kind, kind="pb", cube=True, change=lambda d: d[:5], words=(("channel", "pixel"),)),
    "pb is the image": lambda f, s: _own(f, pb="x.fits"),
    "pb is the psf": lambda f, s: _own(f, pb="x.psf.fits"),
    "pb missing": lambda f, s: _without_pb(f),
    "pbcor with its pb": lambda f, s: _pbcor(f, "x.pbcor.fits", given=True),
    "pbcor with its pb, cube": lambda f, s: _pbcor(f, "x.pbcor.fits", given=True, cube=True),
    "pbcor found by name": lambda f, s: _pbcor(f, "x.image.pbcor.fits"),
    "pbcor by no name": lambda f, s: _pbcor(f, "corrected.fits", given=True),
    "flat image called pbcor": lambda f, s: _pbcor(f, "y.pbcor.fits", given=True, flat=True),
}  # fmt: skip


def _without_pb(folder: Path) -> Trial:
    field = fields.image()
    header = fields.write_field(folder, field, kinds=("data", "psf"))
    truth = fields.truth(field, header, pb=False)
    return Trial({"imagename": "x.fits"}, truth, beam=field.beam, warns=("primary beam",))


def _pbcor(folder: Path, name: str, *, given: bool = False, cube: bool = False, flat: bool = False) -> Trial:
    """An image corrected for the primary beam, beside the beam; of a field where the beam falls to 0.13."""
    field = wide(cube)
    data, pb = fields.pixels(field), fields.pixels(field, "pb")
    header = fields.header(field)
    stem = name.removesuffix(".fits").removesuffix(".pbcor").removesuffix(".image")
    fields.write(folder / name, np.where(pb > 0.1, data if flat else data / pb, np.nan), header)
    fields.write(folder / f"{stem}.pb.fits", pb, fields.header(field, BUNIT=""))
    psf_header = fields.header(field, BUNIT="")
    for axis in (1, 2):
        psf_header[f"CRPIX{axis}"] += field.cube.psf.shape[-axis] // 2 - field.cube.shape[2 - axis] // 2
    fields.write(folder / f"{stem}.psf.fits", fields.pixels(field, "psf"), psf_header)
    parameters = {"imagename": name} | ({"pb": f"{stem}.pb.fits", "psf": f"{stem}.psf.fits"} if given else {})
    return Trial(parameters, fields.truth(field, header), beam=field.beam)


def wide(cube: bool) -> fields.Field:
    """A field out to where the primary beam is low, the noise of the image flat."""
    from dataclasses import replace

    from sim.coverage import Grid
    from sim.cube import simulate_cube

    nchan = 12 if cube else 1
    grid = Grid(npix=128, cell=0.3, nchan=nchan, freq0=fields.FREQ, chan_width=fields.WIDTH)
    sources = (
        replace(fields.SOURCES[1], x=64.0, y=64.0, continuum=0.02),
        replace(fields.SOURCES[1], x=100.0, y=60.0, continuum=0.05),
        replace(fields.SOURCES[1], x=50.0, y=96.0, continuum=0.03),
    )
    noise = fields.NOISE * (4.0 if cube else 1.0)
    made = simulate_cube(sources, fields.COVERAGE, grid, noise, np.random.default_rng(8), ra=fields.RA, pblimit=0.0)
    return fields.Field(made, sources)


def _smoothed(folder: Path, shared: Path, *, to_header: bool, with_psf: bool) -> Trial:
    """Smoothed to twice the beam after imaging, the flux unit along with it, as imsmooth does."""
    field = fields.image()
    beam = np.median(field.cube.beams, axis=0)
    sigma = np.sqrt(3.0) * float(np.sqrt(beam[0] * beam[1])) / fields.CELL / 2.3548
    area = 4.0
    cards = {"BMAJ": 2 * beam[0] / 3600, "BMIN": 2 * beam[1] / 3600} if to_header else {}
    kinds = ("data", "psf", "pb") if with_psf else ("data", "pb")
    fields.write_field(
        folder, field, cards=cards, kinds=kinds, change=lambda data: area * ndimage.gaussian_filter(data, sigma)
    )
    words = (("x.fits", "x.psf.fits"), ("beam",), ("psf", "PSF"))
    return Trial({"imagename": "x.fits"}, words=words, warns=() if to_header else ("smoothed",))


def _rescaled(folder: Path, shared: Path, *, factor: float) -> Trial:
    """A dirty image as tclean rescales it to a larger restoring beam."""
    field = fields.image()
    beam = np.median(field.cube.beams, axis=0)
    cards = {"BMAJ": factor * beam[0] / 3600, "BMIN": factor * beam[1] / 3600}
    header = fields.write_field(folder, field, cards=cards, change=lambda data: factor**2 * data)
    return Trial({"imagename": "x.fits"}, fields.truth(field, header), may_refuse=True, beam=field.beam,
                 words=(("x.fits", "x.psf.fits"), ("beam",)))  # fmt: skip


def _header_only(folder: Path, shared: Path, *, factor: float) -> Trial:
    field = fields.image()
    beam = np.median(field.cube.beams, axis=0)
    cards = {"BMAJ": factor * beam[0] / 3600, "BMIN": factor * beam[1] / 3600}
    fields.write_field(folder, field, cards=cards)
    return Trial({"imagename": "x.fits"}, words=(("x.fits", "x.psf.fits"), ("beam",)))


_BEAM: dict[str, Callable[[Path, Path], Trial]] = {
    "smoothed image": partial(_smoothed, to_header=True, with_psf=True),
    "smoothed, header unchanged": partial(_smoothed, to_header=False, with_psf=True),
    "restoring beam 1.5": partial(_rescaled, factor=1.5),
    "restoring beam 0.7": partial(_rescaled, factor=0.7),
    "header beam 3600 times": partial(_header_only, factor=3600.0),
    "header beam 206265 times": partial(_header_only, factor=206265.0),
    "header beam half": partial(_header_only, factor=0.5),
    "header beam double": partial(_header_only, factor=2.0),
    "header beam as fwhm / 2.35": partial(_header_only, factor=1 / 2.3548),
    "header beam as honest": lambda f, s: _kind(f, s, kind="psf"),
    "header beam as honest, cube": lambda f, s: _kind(f, s, kind="psf", cube=True),
}


def _small(folder: Path, shared: Path, *, side: int) -> Trial:
    field = fields.image()
    fields.write_field(folder, field, kinds=("psf",))
    data = fields.pixels(field)[60 - side // 2 : 60 + side - side // 2, 30 - side // 2 : 30 + side - side // 2]
    fields.write(folder / "x.fits", data, fields.header(field, CRPIX1=side // 2 + 1.0, CRPIX2=side // 2 + 1.0))
    return Trial({"imagename": "x.fits"}, words=(("x.fits",), ("pixel",)))


def _coarse(folder: Path, shared: Path, *, beam: float) -> Trial:
    """A Gaussian image whose beam has that many pixels."""
    cards = {"BMAJ": beam * fields.CELL / 3600, "BMIN": beam * fields.CELL / 3600}
    field = fields.image()
    fields.write_field(folder, field, cards=cards, kinds=("data",))
    return Trial({"imagename": "x.fits"}, words=(("x.fits",), ("beam",), ("pixel",)))


def _sparse(folder: Path, shared: Path, *, shape: tuple[int, int, int]) -> Trial:
    """A cube larger than any memory, as a file with a hole."""
    header = fields.header(fields.cube())
    full = fits.Header([("SIMPLE", True), ("BITPIX", -32), ("NAXIS", 3)])
    for axis, number in enumerate(reversed(shape), 1):
        full[f"NAXIS{axis}"] = number
    full.extend(header)
    text = full.tostring().encode()
    with open(folder / "x.fits", "wb") as file:
        file.write(text)
        file.truncate(len(text) + -(-4 * int(np.prod(shape)) // 2880) * 2880)
    return Trial({"imagename": "x.fits"}, words=(("x.fits",), ("memory",), ("GiB", "GB")))


_SIZE: dict[str, Callable[[Path, Path], Trial]] = {
    **{f"field of {side} pixels": partial(_small, side=side) for side in (1, 4, 8, 12, 16, 20)},
    **{f"beam of {beam:g} pixels": partial(_coarse, beam=beam) for beam in (0.3, 0.9, 1.5)},
    "beam larger than the field": partial(_coarse, beam=120.0),
    "cube of 40 GB": partial(_sparse, shape=(1000, 3200, 3200)),
    "cube of 4 TB": partial(_sparse, shape=(10000, 10000, 10000)),
}
