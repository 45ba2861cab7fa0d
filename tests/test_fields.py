"""Images of one target, by their objects' names and fields; labels and folders that can be used."""

from __future__ import annotations

import numpy as np
import pytest
from astropy.coordinates import SkyCoord
from astropy.wcs import WCS
from hypothesis import given, settings
from hypothesis import strategies as st

from casa_deepfocus.core.cube import Cube
from casa_deepfocus.core.fields import ImageField, image_field, labels, safe_name, stem, targets, unique


def field(name="a.image", target="", ra=150.0, dec=-30.0, radius=0.01, low=230e9, high=232e9, nchan=100):
    return ImageField(name, target, SkyCoord(ra, dec, unit="deg"), radius, low, high, nchan)


def together(images):
    return sorted(sorted(images[at].name for at in target.members) for target in targets(images))


def test_a_header_tells_object_centre_and_band():
    wcs = WCS(naxis=2)
    wcs.wcs.ctype, wcs.wcs.crval, wcs.wcs.crpix = ["RA---SIN", "DEC--SIN"], [150.0, -30.0], [1.0, 1.0]
    wcs.wcs.cdelt = [-1.0 / 3600, 1.0 / 3600]
    pixel = np.ones((1, 9, 9), np.float32)
    cube = Cube(np.zeros((3, 40, 60), np.float32), pixel, np.ones((1, 40, 60), np.float32), 1e9 * np.arange(3, 0, -1.0),
                np.ones((3, 3)), 1.0, wcs=wcs, meta={"object": " NGC 1 ", "radesys": "FK5"})  # fmt: skip
    got = image_field("x.fits", cube)
    assert (got.target, got.low, got.high, got.nchan) == ("NGC 1", 1e9, 3e9, 3)
    assert got.radius == pytest.approx(20 / 3600)
    # The centre of the image, not its reference pixel.
    corner = SkyCoord(150.0, -30.0, unit="deg")
    assert got.centre.separation(corner).arcsec == pytest.approx(np.hypot(29.5, 19.5), rel=1e-3)


def test_names_and_fields_make_targets():
    images = [
        field("1", "NGC 1"), field("2", "ngc_1"), field("3", "NGC 1", ra=151.0), field("4", "NGC 2"),
        field("5", "", ra=150.015), field("6", "", ra=151.02), field("7", "", ra=155.0),
        field("8", "unknown", ra=155.01),
    ]  # fmt: skip
    assert together(images) == [["1", "2", "5"], ["3", "6"], ["4"], ["7", "8"]]
    found = targets(images)
    assert [target.name for target in found] == ["NGC 1", "NGC 1", "NGC 2", "J102000.00-300000.0"]
    assert [target.folder for target in found] == ["NGC_1", "NGC_1_2", "NGC_2", "J102000.00-300000.0"]


def test_declinations_tell_objects_apart():
    assert len(targets([field("1", "J1234+5678"), field("2", "J1234-5678")])) == 2


def test_an_image_without_sky_is_a_target_of_its_own():
    blind = ImageField("b.fits", "", None, 0.01, np.nan, np.nan, 1)
    assert together([field("1"), blind, blind]) == [["1"], ["b.fits"], ["b.fits"]]
    assert [target.folder for target in targets([blind, blind])] == ["b", "b_2"]
    assert targets([]) == []


@settings(max_examples=20, deadline=None)
@given(st.permutations(range(7)))
def test_the_order_of_the_list_changes_nothing(order):
    images = [
        field("1", "A"), field("2", "B", ra=150.01), field("3", "", ra=150.003), field("4", "", ra=150.022),
        field("5", "", ra=150.04), field("6", "", ra=350.0), field("7", "A", ra=150.019),
    ]  # fmt: skip
    assert together([images[at] for at in order]) == together(images)


def test_ra_0_does_not_part_a_target():
    assert len(targets([field("1", ra=359.999), field("2", ra=0.001)])) == 1


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["member.X.N1_sci.spw25.cube.I.pbcor.fits", "member.X.N1_sci.spw3.cube.I.pbcor.fits"], ["spw25", "spw3"]),
        (["co21.image", "sub/hcn.image"], ["co21", "hcn"]),
        (["ngc_co21_v2.fits", "ngc_hcn_v2.fits.gz"], ["co21", "hcn"]),
        (["a/x.image", "b/x.image"], ["230.000GHz", "231.000GHz"]),
        (["one.image"], ["one"]),
        (["spw25.image"], ["spw25"]),
    ],
)  # fmt: skip
def test_labels_are_what_tells_files_apart(names, expected):
    images = [field(name, low=(230 + n) * 1e9, high=(230 + n) * 1e9) for n, name in enumerate(names)]
    assert labels(images) == expected


def test_the_continuum_image_and_files_that_nothing_tells_apart():
    assert labels([field("x_cont.fits", nchan=1), field("x_spw1.fits")]) == ["continuum", "spw1"]
    assert labels([field("a/x.fits"), field("b/x.fits")]) == ["x", "x_2"]
    assert labels([field("x.spw1.fits"), field("y.spw1.fits")]) == ["x", "y"]
    assert labels([field("report.fits")]) == ["report_2"], "report.html is the target's"
    assert labels([field("a/continuum.fits"), field("b.fits", nchan=1)]) == ["continuum_2", "continuum"]


@settings(max_examples=25, deadline=None)
@given(st.lists(st.text(max_size=60), min_size=1, max_size=4))
def test_labels_are_unique_names_of_files_whatever_the_headers_say(names):
    found = targets([field(name, target=name) for name in names])
    for texts in ([target.folder for target in found], *(target.labels for target in found)):
        assert len({text.lower() for text in texts}) == len(texts)
        for text in texts:
            assert text and text.isascii() and text[0] not in "._-" and not set(text) & set("/\\,: ;<>&'\"$")


def test_names_of_folders():
    assert safe_name("../../etc/passwd") == "etc_passwd" and safe_name("<b>x</b>") == "b_x_b"
    assert safe_name("") == safe_name("...") == "unnamed" and len(safe_name("x" * 500)) == 40
    assert unique("A", ["a", "a_2"]) == "A_3"
    assert stem("dir/x.I.tt0.pbcor.fits.gz") == "x.I" and stem(".fits") == ".fits"
