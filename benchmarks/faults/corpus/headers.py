"""Units, beams, spectral axes, frames, projections, axes and kinds of file: headers as the field writes them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from astropy.io import fits

from benchmarks.faults import fields
from benchmarks.faults.case import Case, Trial
from casa_deepfocus.core.cube import C_KMS

UNITS: tuple[tuple[str, float | None], ...] = (
    ("Jy/beam", 1.0), ("JY/BEAM", 1.0), ("beam-1 Jy", 1.0), ("Jy beam-1", 1.0), ("Jy.beam-1", 1.0), ("Jy beam^-1", 1.0),
    ("Jy/bm", 1.0), ("", 1.0), ("mJy/beam", 1e-3), ("mjy/beam", 1e-3), ("uJy/beam", 1e-6), ("nJy/beam", 1e-9),
    ("kJy/beam", 1e3), ("MJy/beam", 1e6), ("beam-1 mJy", 1e-3), ("Jy/Beam", 1.0), ("  Jy/beam ", 1.0),
    ("K", None), ("Jy/pixel", None), ("Jy/sr", None), ("MJy/sr", None), ("counts", None), ("Jy/beam.km/s", None),
    ("W/m^2", None), ("Jy", None), ("furlong", None),
)  # fmt: skip
"""Unit and what it is in Jy/beam; None where it is no brightness a beam."""

BEAMS: tuple[tuple[str, dict[str, Any], tuple[tuple[str, ...], ...] | None], ...] = (
    ("zero", {"BMAJ": 0.0, "BMIN": 0.0}, (("beam",),)),
    ("negative", {"BMAJ": -1e-4, "BMIN": -1e-4}, (("beam",),)),
    ("in arcsec", {"BMAJ": 0.9, "BMIN": 0.8}, (("beam", "BMAJ"),)),
    ("in rad", {"BMAJ": 4.4e-6, "BMIN": 4e-6}, (("beam", "BMAJ"),)),
    ("huge", {"BMAJ": 40.0, "BMIN": 40.0}, (("beam", "BMAJ"),)),
    ("absent", {"BMAJ": None, "BMIN": None, "BPA": None}, (("beam", "psf"),)),
    ("no angle", {"BPA": None}, None),
)  # fmt: skip
"""Beams of an image without a PSF: what is odd, the cards, and what an error must say; None where it can be used."""


def cases() -> Iterator[Case]:
    """The cases of this kind."""
    for unit, factor in UNITS:
        yield Case(f"header/unit {unit.strip() or 'none'!s} {len(unit)}", partial(_unit, unit, factor))
    for name, cards, words in BEAMS:
        yield Case(f"header/beam {name}", partial(_beam, cards, words))
    for number in (1, 2, 3):
        yield Case(f"header/{number} aips beams", partial(_aips, number))
    for name in ("zero", "nan"):
        yield Case(f"header/beam table with {name}", partial(_beam_table, name))
    for name, make in SPECTRAL.items():
        yield Case(f"header/axis {name}", make)
    for name, make in FRAMES.items():
        yield Case(f"header/frame {name}", make)
    for projection in ("SIN", "TAN", "ARC", "STG", "ZEA", "CAR", "GLS", "SFL", "NCP", "AIT", "MER"):
        yield Case(f"header/projection {projection}", partial(_projection, projection))
    for name, make in LAYOUTS.items():
        yield Case(f"header/layout {name}", make)


def _written(field: fields.Field, folder: Path, **cards: Any) -> tuple[fits.Header, dict[str, Any]]:
    header = fields.write_field(folder, field, cards=cards)
    return header, {"imagename": "x.fits"}


def _trial(field: fields.Field, header: fits.Header, parameters: dict[str, Any], **more: Any) -> Trial:
    return Trial(parameters, fields.truth(field, header), beam=field.beam, **more)


def _unit(unit: str, factor: float | None, folder: Path, shared: Path) -> Trial:
    field = fields.image()
    header = fields.write_field(folder, field, cards={"BUNIT": unit}, change=lambda data: data / (factor or 1.0))
    if factor is None:
        return Trial({"imagename": "x.fits"}, words=(("x.fits",), ("Jy/beam",)))
    return _trial(field, header, {"imagename": "x.fits"})


def _beam(cards: dict[str, Any], words: Any, folder: Path, shared: Path) -> Trial:
    if words is not None:
        fields.write_field(folder, fields.image(), cards=cards, kinds=("data", "pb"))
        return Trial({"imagename": "x.fits"}, words=(("x.fits",), *words))
    # The Gaussian is not this image's PSF: its sidelobes may be found, and are not asked about.
    plain = _plain_gaussian()
    header = fields.write_field(folder, plain, "g", cards=cards, kinds=("data",))
    truth = fields.truth(plain, header, pb=True)
    return Trial({"imagename": "g.fits"}, truth, beam=plain.beam)


def _plain_gaussian() -> fields.Field:
    """A field whose PSF is the Gaussian of a round beam, noise and all."""
    from benchmarks.faults.corpus.noise import toy

    return toy("beam", 1e-3)


def _aips(number: int, folder: Path, shared: Path) -> Trial:
    field = _plain_gaussian()
    header = fields.header(field, BMAJ=None, BMIN=None, BPA=None)
    own = float(np.median(field.cube.beams[:, 0]))
    for beam in (10.0, 7.0)[: number - 1] + (own,):
        header.add_history(f"AIPS   CLEAN BMAJ= {beam / 3600:11.4E} BMIN= {beam / 3600:11.4E} BPA=   0.00")
    fields.write(folder / "x.fits", fields.pixels(field), header)
    return Trial({"imagename": "x.fits"}, fields.truth(field, header), beam=field.beam, meta={"beam_maj": own})


def _beam_table(kind: str, folder: Path, shared: Path) -> Trial:
    field = fields.cube()
    header = fields.header(field, CASAMBM=True)
    data = fields.pixels(field).copy()
    data[0] = np.nan
    beams = np.array(field.cube.beams, dtype="f4")
    beams[0] = 0.0 if kind == "zero" else np.nan
    columns = [
        fits.Column(name, "1E", unit=unit, array=beams[:, index])
        for index, (name, unit) in enumerate((("BMAJ", "arcsec"), ("BMIN", "arcsec"), ("BPA", "deg")))
    ]
    columns += [fits.Column("CHAN", "1J", array=np.arange(len(beams))), fits.Column("POL", "1J", array=0 * beams[:, 0])]
    table = fits.BinTableHDU.from_columns(columns, name="BEAMS")
    table.header["NCHAN"], table.header["NPOL"] = len(beams), 1
    fields.write_field(folder, field, kinds=("psf", "pb"))
    image = fits.PrimaryHDU(data)
    for card in header.cards:
        image.header.append(card)
    fits.HDUList([image, table]).writeto(folder / "x.fits")
    return _trial(field, header, {"imagename": "x.fits"})


def _axis(
    folder: Path, shared: Path, *, refuse: Any = None, may: bool = False, flip: bool = False, **cards: Any
) -> Trial:
    """The cube with other cards of its spectral axis; flipped, so that its frequencies fall."""
    field = fields.cube()
    if flip:
        plain = fields.header(field, **cards)
        for kind, header in (("data", plain), ("psf", _psf_header(field, plain)), ("pb", plain)):
            name = "x.fits" if kind == "data" else f"x.{kind}.fits"
            fields.write(folder / name, fields.pixels(field, kind)[::-1], header)
    else:
        fields.write_field(folder, field, cards=cards)
    parameters = {"imagename": "x.fits"}
    if refuse is not None:
        return Trial(parameters, words=(("x.fits",), *refuse))
    return _trial(field, fields.header(field), parameters, may_refuse=may, words=(("x.fits",),) if may else ())


def _psf_header(field: fields.Field, header: fits.Header) -> fits.Header:
    own = header.copy()
    for axis in (1, 2):
        own[f"CRPIX{axis}"] += field.cube.psf.shape[-axis] // 2 - field.cube.shape[2 - axis] // 2
    return own


def _velocity(kind: str, unit: str = "m/s") -> dict[str, Any]:
    """Cards of a radio velocity axis that has the frequencies of the cube."""
    scale = {"m/s": 1e3, "km/s": 1.0}[unit]
    first, step = 0.0, -fields.WIDTH / fields.FREQ * C_KMS
    return {"CTYPE3": kind, "CUNIT3": unit, "CRVAL3": first * scale, "CDELT3": step * scale, "CRPIX3": 1.0}


_REST = (("rest",),)
SPECTRAL: dict[str, Callable[[Path, Path], Trial]] = {
    "freq lower case": partial(_axis, CTYPE3="freq"),
    "no unit": partial(_axis, CUNIT3=None),
    "GHz": partial(_axis, CUNIT3="GHz", CRVAL3=fields.FREQ / 1e9, CDELT3=fields.WIDTH / 1e9),
    "MHz": partial(_axis, CUNIT3="MHz", CRVAL3=fields.FREQ / 1e6, CDELT3=fields.WIDTH / 1e6),
    "kHz": partial(_axis, CUNIT3="kHz", CRVAL3=fields.FREQ / 1e3, CDELT3=fields.WIDTH / 1e3),
    "falling": partial(
        _axis, flip=True, CRVAL3=fields.FREQ + (fields.NCHAN - 1) * fields.WIDTH, CDELT3=-fields.WIDTH
    ),
    "VRAD": partial(_axis, **_velocity("VRAD")),
    "VRAD km/s": partial(_axis, **_velocity("VRAD", "km/s")),
    "VELO-LSR": partial(_axis, may=True, VELREF=257, SPECSYS=None, **_velocity("VELO-LSR")),
    "VELOCITY": partial(_axis, may=True, VELREF=257, SPECSYS=None, **_velocity("VELOCITY")),
    "VRAD without rest": partial(_axis, refuse=_REST, RESTFRQ=None, **_velocity("VRAD")),
    "VELO-LSR without rest": partial(_axis, refuse=_REST, RESTFRQ=None, VELREF=257, **_velocity("VELO-LSR")),
    "VELOCITY without rest": partial(_axis, refuse=_REST, RESTFRQ=None, VELREF=257, **_velocity("VELOCITY")),
    "VOPT without rest": partial(_axis, refuse=_REST, RESTFRQ=None, **_velocity("VOPT")),
    "FELO-HEL without rest": partial(_axis, refuse=_REST, RESTFRQ=None, **_velocity("FELO-HEL")),
    "rest of zero": partial(_axis, refuse=_REST, **(_velocity("VRAD") | {"RESTFRQ": 0.0})),
    "RESTFREQ": partial(_axis, RESTFRQ=None, RESTFREQ=fields.FREQ, **_velocity("VRAD")),
    "FREQ-LOG": partial(_axis, may=True, CTYPE3="FREQ-LOG"),
    "FREQ-TAB": partial(_axis, refuse=(("spectral", "FREQ-TAB", "axis", "tab"),), CTYPE3="FREQ-TAB"),
    "WAVE": partial(
        _axis, CTYPE3="WAVE", CUNIT3="m", CRVAL3=1e3 * C_KMS / fields.FREQ,
        CDELT3=-1e3 * C_KMS * fields.WIDTH / fields.FREQ**2,
    ),
    "step of zero": partial(_axis, refuse=(("CDELT3", "channel", "spectral", "frequenc"),), CDELT3=0.0),
    "SPECSYS3": partial(_axis, SPECSYS=None, SPECSYS3="LSRK"),
    "no frame": partial(_axis, SPECSYS=None),
    "odd frame": partial(_axis, may=True, SPECSYS="MOON"),
    "further axis": lambda folder, shared: _further(folder),
}  # fmt: skip
"""What is odd about the spectral axis, and the case."""


def _further(folder: Path) -> Trial:
    field = fields.cube()
    header = fields.header(field, CTYPE3="DEPTH", CUNIT3="m")
    fields.write(folder / "x.fits", fields.pixels(field), header)
    return Trial({"imagename": "x.fits"}, words=(("x.fits",), ("axis", "DEPTH")))


def _frame(folder: Path, shared: Path, *, may: bool = False, **cards: Any) -> Trial:
    field = fields.image()
    header, parameters = _written(field, folder, **cards)
    words = (("x.fits",), ("frame", "equinox", "coordinates", "system")) if may else ()
    return _trial(field, header, parameters, may_refuse=may, words=words)


FRAMES: dict[str, Callable[[Path, Path], Trial]] = {
    "FK5": partial(_frame, RADESYS="FK5", EQUINOX=2000.0),
    "FK5 of 1980": partial(_frame, may=True, RADESYS="FK5", EQUINOX=1980.0),
    "FK4": partial(_frame, RADESYS="FK4", EQUINOX=1950.0),
    "FK4 of 1975": partial(_frame, may=True, RADESYS="FK4", EQUINOX=1975.0),
    "EPOCH": partial(_frame, RADESYS=None, EPOCH=2000.0),
    "EPOCH 1950": partial(_frame, RADESYS=None, EPOCH=1950.0),
    "RADECSYS": partial(_frame, RADESYS=None, RADECSYS="FK5", EQUINOX=2000.0),
    "none": partial(_frame, RADESYS=None),
    "galactic": partial(_frame, may=True, RADESYS=None, CTYPE1="GLON-SIN", CTYPE2="GLAT-SIN"),
    "ecliptic": partial(_frame, may=True, CTYPE1="ELON-SIN", CTYPE2="ELAT-SIN"),
    "near the pole": partial(_frame, CRVAL2=89.999),
    "at the south pole": partial(_frame, may=True, CRVAL2=-90.0),
    "across 0 h": partial(_frame, CRVAL1=0.0005),
    "negative ra": partial(_frame, CRVAL1=-20.0),
    "beyond 360": partial(_frame, CRVAL1=370.0),
    "nan": lambda folder, shared: _nan_reference(folder),
}
"""What is odd about the sky's frame, and the case."""


def _nan_reference(folder: Path) -> Trial:
    field = fields.image()
    header = fields.header(field)
    fields.write(folder / "x.fits", fields.pixels(field), header)
    # astropy writes no NaN into a header; other programs do.
    raw = (folder / "x.fits").read_bytes()
    start = raw.index(b"CRVAL1")
    card = b"CRVAL1  =                  NaN"
    (folder / "x.fits").write_bytes(raw[:start] + card.ljust(80) + raw[start + 80 :])
    return Trial({"imagename": "x.fits"}, words=(("x.fits",),))


def _projection(projection: str, folder: Path, shared: Path) -> Trial:
    field = fields.image()
    kinds = {"CTYPE1": f"RA---{projection}", "CTYPE2": f"DEC--{projection}"}
    # The axis of a cylindrical map is its equator.
    place = {"CRVAL2": 0.05} if projection in ("CAR", "MER", "AIT", "GLS", "SFL") else {"CRVAL2": 40.0}
    header, parameters = _written(field, folder, **kinds, **place)
    return _trial(field, header, parameters, may_refuse=True, words=(("x.fits",), ("projection", projection)))


def _layout(folder: Path, shared: Path, *, order: tuple[int, ...], field: str = "cube", stokes: int = 1) -> Trial:
    """Axes in another order: of (x, y, frequency, Stokes) as FITS counts them."""
    this = fields.cube() if field == "cube" else fields.image()
    plain = fields.header(this)
    if this.cube.nchan == 1:
        for key, value in fields.spectral(this).items():
            plain[key] = value if key != "CDELT3" else fields.WIDTH
    plain.update({"CTYPE4": "STOKES", "CRPIX4": 1.0, "CRVAL4": 1.0, "CDELT4": 1.0})
    for kind in ("data", "psf", "pb"):
        own = _psf_header(this, plain) if kind == "psf" else plain
        array = np.asarray(getattr(this.cube, kind), np.float32)[None]
        array = np.concatenate([array, *([0 * array + 1e-6] * (stokes - 1))])
        header = own.copy()
        for place, axis in enumerate(order, 1):
            for key in ("CTYPE", "CUNIT", "CRPIX", "CRVAL", "CDELT"):
                header.pop(f"{key}{place}", None)
            for key in ("CTYPE", "CUNIT", "CRPIX", "CRVAL", "CDELT"):
                if f"{key}{axis}" in own:
                    header[f"{key}{place}"] = own[f"{key}{axis}"]
        numpy_order = [4 - axis for axis in reversed(order)]
        fields.write(folder / ("x.fits" if kind == "data" else f"x.{kind}.fits"), array.transpose(numpy_order), header)
    return _trial(this, fields.header(this), {"imagename": "x.fits"})


def _stored(folder: Path, shared: Path, *, how: str) -> Trial:
    field = fields.image()
    header, parameters = _written(field, folder)
    data, path = fields.pixels(field), folder / "x.fits"
    path.unlink()
    if how in (".gz", ".fit", ".FITS", ".fts"):
        parameters = {"imagename": f"x{how if how != '.gz' else '.fits.gz'}", "psf": "x.psf.fits", "pb": "x.pb.fits"}
        fields.write(folder / parameters["imagename"], data, header)
    elif how == ".fz":
        parameters = {"imagename": "x.fits.fz", "psf": "x.psf.fits", "pb": "x.pb.fits"}
        fits.CompImageHDU(data, header, compression_type="GZIP_2", quantize_level=0).writeto(folder / "x.fits.fz")
    elif how == "extension":
        fits.HDUList([fits.PrimaryHDU(), fits.ImageHDU(data, header)]).writeto(path)
    elif how == "double":
        fields.write(path, data.astype(">f8"), header)
    elif how == "16 bits":
        hdu = fits.PrimaryHDU(data.astype(np.float32), header)
        hdu.scale("int16", bscale=float(np.abs(data).max()) / 3e4, bzero=0.0)
        hdu.writeto(path)
    return _trial(field, header, parameters, may_refuse=how in (".fts", "extension"), words=(("x.f",),))


def _broken(folder: Path, shared: Path, *, how: str) -> Trial:
    field = fields.image()
    header, parameters = _written(field, folder)
    path = folder / "x.fits"
    raw = path.read_bytes()
    path.write_bytes({"empty": b"", "text": b"hello\n", "cut": raw[: len(raw) // 2], "head only": raw[:2880]}[how])
    return Trial(parameters, words=(("x.fits",),))


LAYOUTS: dict[str, Callable[[Path, Path], Trial]] = {
    "frequency then stokes": partial(_layout, order=(1, 2, 3, 4)),
    "stokes then frequency": partial(_layout, order=(1, 2, 4, 3)),
    "frequency first": partial(_layout, order=(3, 1, 2, 4)),
    "image of four axes": partial(_layout, order=(1, 2, 3, 4), field="image"),
    "stokes I and Q": partial(_layout, order=(1, 2, 3, 4), stokes=2),
    **{f"stored {how}": partial(_stored, how=how) for how in (".gz", ".fz", ".fit", "extension", "double", "16 bits")},
    **{f"broken {how}": partial(_broken, how=how) for how in ("empty", "text", "cut", "head only")},
}
"""What is odd about the axes or the file, and the case."""
