"""Names that imagers and archives give to image, PSF and primary beam: the right ones are found, and no others."""

from __future__ import annotations

import gzip
import shutil
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from benchmarks.faults import fields
from benchmarks.faults.case import Case, Trial

SCHEMES: tuple[tuple[str, str, str], ...] = (
    ("x.fits", "x.psf.fits", "x.pb.fits"),
    ("x.image.fits", "x.psf.fits", "x.pb.fits"),
    ("x.residual.fits", "x.psf.fits", "x.pb.fits"),
    ("x.dirty.fits", "x.psf.fits", "x.pb.fits"),
    ("x.image.tt0.fits", "x.psf.tt0.fits", "x.pb.tt0.fits"),
    ("x.residual.tt0.fits", "x.psf.tt0.fits", "x.pb.tt0.fits"),
    ("x.cube.I.image.fits", "x.cube.I.psf.fits", "x.cube.I.pb.fits"),
    ("x.cube.I.residual.fits", "x.cube.I.psf.fits", "x.cube.I.pb.fits.gz"),
    ("x_sci.spw16.mfs.I.image.fits", "x_sci.spw16.mfs.I.psf.fits", "x_sci.spw16.mfs.I.pb.fits.gz"),
    ("w-dirty.fits", "w-psf.fits", ""),
    ("w-image.fits", "w-psf.fits", ""),
    ("w-MFS-dirty.fits", "w-MFS-psf.fits", ""),
    ("x.image", "x.psf", "x.pb"),
    ("x.residual", "x.psf", "x.pb"),
    ("x.image.tt0", "x.psf.tt0", "x.pb.tt0"),
    ("x.image", "x.psf.fits", "x.pb.fits.gz"),
    ("x.fits", "x.psf", "x.pb"),
    ("dir.with.dots/x.image.fits", "dir.with.dots/x.psf.fits", "dir.with.dots/x.pb.fits"),
    ("a b/x y.fits", "a b/x y.psf.fits", "a b/x y.pb.fits"),
)
"""Names of the image, its PSF and its primary beam ('' where the imager writes none)."""


def cases() -> Iterator[Case]:
    """The cases of this kind."""
    for number, names in enumerate(SCHEMES):
        yield Case(f"names/{number} {names[0].replace('/', '_')}", partial(_named, names))


def _named(names: tuple[str, str, str], folder: Path, shared: Path) -> Trial:
    field = fields.image()
    header = fields.write_field(folder, field, "plain")
    for name, kind in zip(names, ("fits", "psf.fits", "pb.fits"), strict=True):
        plain = folder / f"plain.{kind}"
        if name:
            (folder / name).parent.mkdir(exist_ok=True)
            _store(plain, folder / name)
        plain.unlink()
    truth = fields.truth(field, header, pb=bool(names[2]))
    warns = () if names[2] else ("primary beam",)
    return Trial({"imagename": names[0]}, truth, beam=field.beam, meta={"psf": "measured"}, warns=warns)


def _store(plain: Path, target: Path) -> None:
    if target.name.endswith(".gz"):
        with gzip.open(target, "wb") as file:
            file.write(plain.read_bytes())
    elif target.name.endswith(".fits"):
        shutil.copy(plain, target)
    else:
        from casatasks import importfits

        importfits(str(plain), str(target), overwrite=True)
