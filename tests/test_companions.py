"""The PSF and the primary beam are found by the names that imaging programs give them."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("casatools")
from casa_deepfocus.reading.companions import SCHEMES, find_companion, stem_of  # noqa: E402

pytestmark = pytest.mark.casa

MEMBER = "member.uid___A001_X1_X2.NGC_1_sci.spw25"


@pytest.mark.parametrize(
    ("image", "psf", "pb"),
    [
        ("x.image", "x.psf", "x.pb"),
        ("x.residual", "x.psf", "x.pb"),
        ("x.dirty.fits", "x.psf.fits", "x.pb.fits"),
        ("x", "x.psf", "x.pb"),
        ("x.image.pbcor", "x.psf", "x.pb"),
        ("x.image.pbcor.fits", "x.psf", "x.pb.fits.gz"),
        ("x.image.tt0", "x.psf.tt0", "x.pb.tt0"),
        ("x.residual.tt0", "x.psf.tt0", "x.pb.tt0"),
        ("x.image.tt0.pbcor", "x.psf.tt0", "x.pb.tt0"),
        ("x.image.pbcor.tt0", "x.psf.tt0", "x.pb.tt0"),
        ("x.image.tt0.fits", "x.psf.tt0.fits", "x.pb.tt0.fits"),
        ("x.image.pbcor.tt0.subim.fits", "x.psf.tt0.subim.fits", "x.pb.tt0.subim.fits"),
        (f"{MEMBER}.cube.I.pbcor.fits", f"{MEMBER}.cube.I.psf.fits", f"{MEMBER}.cube.I.pb.fits.gz"),
        (f"{MEMBER}.cont.I.tt0.pbcor.fits", f"{MEMBER}.cont.I.psf.tt0.fits", f"{MEMBER}.cont.I.pb.tt0.fits"),
        (f"{MEMBER}.cont.I.tt0.pbcor.fits", f"{MEMBER}.cont.I.tt0.psf.fits", f"{MEMBER}.cont.I.tt0.pb.fits"),
        ("w-dirty.fits", "w-psf.fits", "w-beam-I.fits"),
        ("w-image.fits", "w-psf.fits", "w-beam-I.fits"),
        ("w-MFS-residual.fits", "w-MFS-psf.fits", "w-MFS-beam-I.fits"),
        ("w-0003-I-dirty.fits", "w-0003-psf.fits", "w-0003-beam-I.fits"),
    ],
)  # fmt: skip
def test_companions_of_every_scheme(tmp_path, image, psf, pb):
    for name in (image, psf, pb):
        (tmp_path / name).touch()
    assert find_companion(str(tmp_path / image), "psf") == str(tmp_path / psf)
    assert find_companion(str(tmp_path / image), "pb") == str(tmp_path / pb)


@pytest.mark.parametrize("image", ["x.image.tt1", "y.image", "w-beam-I.fits", "x.psf", "x.pb"])
def test_nothing_is_taken_that_belongs_to_another_image(tmp_path, image):
    for name in (image, "x.psf", "x.psf.tt0", "x.pb", "x.pb.tt0", "w-psf.fits", "w-beam-I.fits"):
        (tmp_path / name).touch()
    assert find_companion(str(tmp_path / image), "psf") == ""
    assert find_companion(str(tmp_path / image), "pb") == ""


def test_a_casa_image_comes_before_its_export_and_a_slash_does_not_matter(tmp_path):
    for name in ("x.image", "x.psf"):
        (tmp_path / name).mkdir()
    (tmp_path / "x.psf.fits").touch()
    assert find_companion(str(tmp_path / "x.image") + "/", "psf") == str(tmp_path / "x.psf")


@pytest.mark.parametrize("ending", [".fits", ".fit", ".fits.gz", ".fits.fz", ".FITS", ".fts"])
def test_endings_of_fits_files(ending):
    assert stem_of(f"a.b{ending}") == "a.b"


def test_the_document_names_every_scheme(repository: Path):
    page = (repository / "docs" / "products.md").read_text()
    assert all(f"| {scheme.program} |" in page for scheme in SCHEMES if scheme.program != "other")
