"""Headers as the field writes them: the sky, the beam and the axes come out right, or the image is refused."""

from __future__ import annotations

import gzip
import shutil
import warnings
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits
from astropy.wcs import WCS
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from casa_deepfocus.errors import DataError

pytest.importorskip("casatools")
from casatools import coordsys  # noqa: E402

from casa_deepfocus.casa import grids, images  # noqa: E402
from casa_deepfocus.reading import grid  # noqa: E402

pytestmark = pytest.mark.casa

PLACES = np.array([[0.0, 0.0], [47.0, 0.0], [10.0, 39.0], [23.0, 20.0]])
SKY = {"CTYPE1": "RA---SIN", "CTYPE2": "DEC--SIN", "CRVAL1": 150.0, "CRVAL2": -30.0, "CRPIX1": 25.0, "CRPIX2": 21.0,
       "CDELT1": -0.5 / 3600, "CDELT2": 0.5 / 3600, "RADESYS": "FK5", "EQUINOX": 2000.0}  # fmt: skip
BEAM = {"BMAJ": 3.0 / 3600, "BMIN": 2.0 / 3600, "BPA": 20.0}
RADIO = {"BUNIT": "Jy/beam", **SKY, **BEAM}
CUBE = {"CTYPE3": "FREQ", "CRVAL3": 1.42e9, "CRPIX3": 1.0, "CDELT3": 1e5, "SPECSYS": "LSRK", "RESTFRQ": 1.4204e9}


def write(name: str | Path, cards: dict, shape=(40, 48), data=None) -> fits.Header:
    """An image with these keywords (None: without), and its header."""
    hdu = fits.PrimaryHDU(np.random.default_rng(1).normal(size=shape).astype("f4") if data is None else data)
    for key, value in cards.items():
        if value is not None:
            hdu.header[key] = value
    hdu.writeto(name, overwrite=True)
    return hdu.header


class Log(list):
    """A log that keeps what it is told."""

    def __call__(self, message: str, priority: str = "INFO") -> None:
        self.append((priority, message))

    def said(self, text: str) -> bool:
        return any(text in message for _, message in self)


def casas_place(template: grids.Template, pixels: np.ndarray) -> np.ndarray:
    """(ra, dec) [deg] of pixels by CASA, from the record that products are written with."""
    cs = coordsys()
    try:
        cs.fromrecord(template.csys)
        pixel = np.asarray(cs.referencepixel()["numeric"], dtype=float)
        found = []
        for place in pixels:
            pixel[[template.x, template.y]] = place
            found.append(np.degrees(np.asarray(cs.toworld(list(pixel))["numeric"])[:2]))
    finally:
        cs.done()
    return np.array(found)


def apart(one: np.ndarray, two: np.ndarray) -> float:
    """Largest distance [arcsec] of places that belong together."""
    east = ((one[:, 0] - two[:, 0] + 180.0) % 360.0 - 180.0) * np.cos(np.deg2rad(two[:, 1]))
    return float(np.hypot(east, one[:, 1] - two[:, 1]).max() * 3600.0)


def raw_places(header: fits.Header, pixels: np.ndarray = PLACES) -> np.ndarray:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return WCS(header).celestial.wcs_pix2world(pixels, 0)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    projection=st.sampled_from(["SIN", "TAN", "ZEA", "ARC", "STG", "NCP", "SFL", "GLS", "CAR"]),
    form=st.sampled_from(["CROTA", "PC", "CD"]), rotation=st.floats(0.0, 360.0), mirrored=st.booleans(),
    ra=st.floats(0.0, 360.0), dec=st.floats(-85.0, 85.0), cell=st.floats(0.01, 5.0),
)  # fmt: skip
def test_positions_are_those_of_the_header_and_of_casa(tmp_path, projection, form, rotation, mirrored, ra, dec, cell):
    """Any projection, rotation and parity, in any of the three forms."""
    assume(projection != "NCP" or abs(dec) > 20.0)
    step = cell / 3600.0
    dx, dy = (step if mirrored else -step), step
    cos, sin = np.cos(np.deg2rad(rotation)), np.sin(np.deg2rad(rotation))
    cards = RADIO | {"CTYPE1": f"RA---{projection}", "CTYPE2": f"DEC--{projection}", "CRVAL1": ra, "CRVAL2": dec,
                     "CDELT1": dx, "CDELT2": dy}  # fmt: skip
    if form == "CROTA":
        cards["CROTA2"] = rotation
    elif form == "PC":
        cards |= {"PC1_1": cos, "PC1_2": -sin, "PC2_1": sin, "PC2_2": cos}
    else:
        cards |= {"CDELT1": None, "CDELT2": None, "CD1_1": dx * cos, "CD1_2": -dx * sin, "CD2_1": dy * sin,
                  "CD2_2": dy * cos}  # fmt: skip
    truth = raw_places(write(tmp_path / "x.fits", cards))
    template = grids.inspect(str(tmp_path / "x.fits"))
    grid.check_usable(template)
    ours = grid.celestial_wcs(template).wcs_pix2world(PLACES, 0)
    assert apart(ours, truth) < 1e-6
    assert apart(casas_place(template, PLACES), truth) < 1e-4 * cell
    assert grid.cell_size(template) == pytest.approx(cell, rel=1e-9)


@pytest.mark.parametrize("rotation", [0.5, 30.0, 200.0])
@pytest.mark.parametrize("mirrored", [False, True])
def test_an_imported_casa_image_lies_as_its_fits_file(rotation, mirrored):
    """CASA's record holds the PC matrix transposed."""
    from casatasks import importfits

    header = write("x.fits", RADIO | {"CROTA2": rotation, "CDELT1": 0.5 / 3600 if mirrored else -0.5 / 3600})
    importfits("x.fits", "x.image")
    casa, file = images.read_cube("x.image")[0], images.read_cube("x.fits")[0]
    for cube in (casa, file):
        assert apart(cube.wcs.wcs_pix2world(PLACES, 0), raw_places(header)) < 1e-6
    np.testing.assert_allclose(casa.beams, file.beams, rtol=1e-6)
    np.testing.assert_array_equal(casa.data, file.data)


@pytest.mark.parametrize("rotation", [0.0, 40.0])
@pytest.mark.parametrize("mirrored", [False, True])
def test_the_header_s_beam_is_on_the_sky(rotation, mirrored):
    write("x.fits", RADIO | {"CROTA2": rotation, "CDELT1": 0.5 / 3600 if mirrored else -0.5 / 3600})
    cube, _ = images.read_cube("x.fits")
    np.testing.assert_allclose(cube.beam_on_sky(), [3.0, 2.0, 20.0], rtol=1e-6)
    # With CROTA2 the axis y points that far west of north.
    pixel = -(20.0 + rotation) if mirrored else 20.0 + rotation
    assert cube.beams[0, 2] == pytest.approx(pixel % 180.0, abs=1e-3)


@pytest.mark.parametrize(
    ("cards", "radesys"),
    [
        ({}, "FK5"), ({"RADESYS": "ICRS", "EQUINOX": None}, "ICRS"), ({"RADESYS": None, "EQUINOX": None}, "ICRS"),
        ({"RADESYS": None, "EQUINOX": None, "EPOCH": 1950.0}, "FK4"), ({"RADESYS": None}, "FK5"),
        ({"RADESYS": None, "RADECSYS": "FK4", "EQUINOX": None}, "FK4"), ({"RADESYS": "FK4", "EQUINOX": 1950.0}, "FK4"),
        ({"RADESYS": "J2000", "EQUINOX": None}, "FK5"), ({"RADESYS": None, "EQUINOX": "J2000.0"}, "FK5"),
        ({"RADESYS": "ICRS", "EQUINOX": 2000.0}, "ICRS"), ({"RADESYS": None, "EQUINOX": None, "EPOCH": 2000.0}, "FK5"),
    ],
)  # fmt: skip
def test_frames_by_their_many_names(cards, radesys):
    write("x.fits", RADIO | cards)
    cube, template = images.read_cube("x.fits")
    assert cube.meta["radesys"] == radesys and str(cube.wcs.wcs.radesys) == radesys
    assert template.csys["direction0"]["system"] == {"FK5": "J2000", "FK4": "B1950"}.get(radesys, radesys)


@pytest.mark.parametrize(
    ("cards", "message"),
    [
        ({"EQUINOX": 1980.0}, "equinox 1980"), ({"RADESYS": "FK4", "EQUINOX": 1900.0}, "equinox 1900"),
        ({"RADESYS": "GAPPT"}, "GAPPT"), ({"CTYPE1": "GLON-SIN", "CTYPE2": "GLAT-SIN"}, "galactic"),
        ({"CTYPE1": "ELON-SIN", "CTYPE2": "ELAT-SIN"}, "ecliptic"), ({"CTYPE1": "RA", "CTYPE2": "DEC"}, "no sky axes"),
        ({"CTYPE2": "FREQ"}, "one sky axis"), ({"CTYPE1": "RA---XYZ", "CTYPE2": "DEC--XYZ"}, "cannot be understood"),
        ({"CDELT1": 0.0}, "cannot be understood"), ({"CDELT1": None}, "no CDELT1"), ({"CUNIT1": "furlong"}, "CUNIT1"),
        ({"CRVAL1": "NaN"}, "CRVAL1 = 'NaN'"), ({"CDELT1": -1.0 / 3600}, "square"), ({"BMAJ": "nan"}, "BMAJ = 'nan'"),
        ({"PC1_1": 1.0, "PC1_2": 0.2, "PC2_1": 0.0, "PC2_2": 1.0}, "square"),
        ({"CTYPE1": "RA---CAR", "CTYPE2": "DEC--CAR", "CRVAL2": 0.0, "CRPIX2": -200000.0}, "far from the reference"),
        ({"BUNIT": "K"}, "immath"), ({"BMAJ": None, "BMIN": None, "BPA": None}, "setval"),
    ],
)  # fmt: skip
def test_headers_that_cannot_be_used_say_why(cards, message):
    write("x.fits", RADIO | cards)
    with pytest.raises(DataError, match=message) as caught:
        images.read_cube("x.fits")
    assert "x.fits" in str(caught.value)


def test_a_value_that_is_none_is_named():
    """Other programs write NaN into headers, which astropy does not."""
    write("x.fits", RADIO)
    raw = Path("x.fits").read_bytes()
    start = raw.index(b"CRVAL1")
    Path("x.fits").write_bytes(raw[:start] + b"CRVAL1  =                  NaN".ljust(80) + raw[start + 80 :])
    with pytest.raises(DataError, match="CRVAL1 = 'NaN'"):
        images.read_cube("x.fits")


def test_sky_axes_that_depend_on_the_channel_are_refused():
    write("x.fits", RADIO | CUBE | {"PC1_1": 1.0, "PC1_3": 0.1}, shape=(4, 40, 48))
    with pytest.raises(DataError, match="axis 3"):
        images.read_cube("x.fits")


def test_an_image_with_its_sky_axes_exchanged_is_turned_upright():
    data = np.random.default_rng(1).normal(size=(40, 48)).astype("f4")
    swapped = {key.translate(str.maketrans("12", "21")): value for key, value in SKY.items()}
    write("plain.fits", RADIO, data=data)
    write("swapped.fits", {"BUNIT": "Jy/beam", **BEAM, **swapped}, data=data.T.copy())
    plain, swapped = images.read_cube("plain.fits")[0], images.read_cube("swapped.fits")[0]
    np.testing.assert_array_equal(plain.data, swapped.data)
    np.testing.assert_allclose(plain.wcs.wcs_pix2world(PLACES, 0), swapped.wcs.wcs_pix2world(PLACES, 0))


def test_the_last_beam_in_history_counts_and_the_log_says_so():
    header = write("x.fits", RADIO | {"BMAJ": None, "BMIN": None, "BPA": None})
    for size, angle in ((10.0, 5.0), (3.0, -12.0)):
        header.add_history(f"AIPS   CLEAN BMAJ= {size / 3600:11.4E} BMIN= {size / 7200:11.4E} BPA= {angle:6.2f}")
    header.add_history("AIPS   CLEAN NITER=     1000 PRODUCT=1")
    write("x.fits", dict(header.items()), data=np.ones((40, 48), "f4") * np.arange(48))
    with fits.open("x.fits", mode="update") as hdus:
        hdus[0].header["HISTORY"] = None
        del hdus[0].header["HISTORY"]
        for line in header["HISTORY"]:
            hdus[0].header.add_history(line)
    log = Log()
    cube, _ = images.read_cube("x.fits", log=log)
    np.testing.assert_allclose(cube.beam_on_sky(), [3.0, 1.5, 168.0], rtol=1e-4)
    assert log.said("HISTORY, the last of 2 beams")
    fits.setval("x.fits", "BMAJ", value=4.0 / 3600)
    fits.setval("x.fits", "BMIN", value=4.0 / 3600)
    log = Log()
    assert images.read_cube("x.fits", log=log)[0].beam_on_sky()[0] == pytest.approx(4.0)
    assert log.said("BMAJ, BMIN and BPA of the header")


def beam_table(sizes, pols=(0,)) -> fits.BinTableHDU:
    """CASA's table of beams, in arcsec; channels in falling order, as a table has none."""
    rows = [(size, 0.5 * size, 10.0, chan, pol) for pol in pols for chan, size in enumerate(sizes)][::-1]
    columns = zip(("BMAJ", "BMIN", "BPA", "CHAN", "POL"), "EEEJJ", ("arcsec", "arcsec", "deg", None, None), strict=True)
    table = fits.BinTableHDU.from_columns(
        [fits.Column(name, f"1{kind}", unit, array=[row[place] for row in rows])
         for place, (name, kind, unit) in enumerate(columns)], name="BEAMS",
    )  # fmt: skip
    table.header["NCHAN"], table.header["NPOL"] = len(sizes), len(pols)
    return table


@pytest.mark.parametrize("empty", [0.0, np.nan])
def test_beams_of_blank_channels_belong_to_no_data(empty):
    data = np.random.default_rng(0).normal(size=(4, 40, 48)).astype("f4")
    data[1] = np.nan
    header = write("x.fits", RADIO | CUBE | {"BMAJ": None, "BMIN": None, "BPA": None, "CASAMBM": True}, data=data)
    fits.HDUList([fits.PrimaryHDU(data, header), beam_table([3.0, empty, 3.2, 3.4])]).writeto("b.fits")
    cube, _ = images.read_cube("b.fits")
    np.testing.assert_allclose(cube.beams[[0, 2, 3], 0], [3.0, 3.2, 3.4], rtol=1e-6)
    assert cube.beams[1, 0] == pytest.approx(3.0) and np.isnan(cube.data[1]).all()


def test_packed_files_are_read_as_plain_ones():
    header = write("x.fits", RADIO | CUBE, shape=(4, 40, 48))
    with open("x.fits", "rb") as plain, gzip.open("x.fits.gz", "wb") as packed:
        shutil.copyfileobj(plain, packed)
    data = fits.getdata("x.fits")
    tiles = fits.CompImageHDU(data, header, compression_type="GZIP_2", quantize_level=0)
    fits.HDUList([fits.PrimaryHDU(), tiles]).writeto("x.fits.fz")
    fits.HDUList([fits.PrimaryHDU(), fits.ImageHDU(data, header)]).writeto("extension.fit")
    plain, _ = images.read_cube("x.fits")
    for name in ("x.fits.gz", "x.fits.fz", "extension.fit"):
        cube, template = images.read_cube(name)
        np.testing.assert_array_equal(cube.data, plain.data)
        np.testing.assert_allclose(cube.freq, plain.freq)
        images.write_planes("copy.image", cube.data, template, unit="Jy/beam")
        with images.opened("copy.image") as ia:
            np.testing.assert_array_equal(ia.getchunk().T.astype("f4"), plain.data)


def test_a_packed_companion_is_used(tmp_path):
    write("x.fits", RADIO, shape=(40, 48))
    response = np.linspace(1.0, 0.5, 48, dtype="f4") * np.ones((40, 1), "f4")
    write("pb.fits", SKY, data=response)
    with open("pb.fits", "rb") as plain, gzip.open("x.pb.fits.gz", "wb") as packed:
        shutil.copyfileobj(plain, packed)
    assert (images.read_cube("x.fits")[0].pb == response).all()


def test_an_axis_that_nobody_knows_is_named_and_the_advice_works():
    write("x.fits", RADIO | CUBE | {"CTYPE3": "CHANNEL"}, shape=(4, 40, 48))
    with pytest.raises(DataError, match="CTYPE3 = 'CHANNEL'"):
        images.read_cube("x.fits")
    fits.setval("x.fits", "CTYPE3", value="FREQ")
    assert images.read_cube("x.fits")[0].nchan == 4


@pytest.mark.parametrize("ending", ["fits", "fits.gz"])
def test_a_file_that_ends_too_early_is_damaged(ending):
    write("x.fits", RADIO | CUBE, shape=(4, 400, 480))
    raw = Path("x.fits").read_bytes()
    packed = gzip.compress(raw) if ending.endswith("gz") else raw
    Path(f"cut.{ending}").write_bytes(packed[: len(packed) // 2])
    with pytest.raises(DataError, match="damaged|cannot be read"):
        images.read_cube(f"cut.{ending}")


def test_several_images_in_a_file_are_said():
    header = write("x.fits", RADIO)
    data = fits.getdata("x.fits")
    fits.HDUList([fits.PrimaryHDU(data, header), fits.ImageHDU(-data, header)]).writeto("two.fits")
    log = Log()
    np.testing.assert_array_equal(images.read_cube("two.fits", log=log)[0].data[0], data)
    assert log.said("holds 2 images")
    fits.HDUList([fits.PrimaryHDU(), beam_table([3.0])]).writeto("none.fits")
    with pytest.raises(DataError, match="without an image"):
        images.read_cube("none.fits")


def test_advice_on_a_rest_frequency_and_a_beam_works():
    write("x.fits", RADIO | CUBE | {"CTYPE3": "VRAD", "CRVAL3": 1e5, "CDELT3": 5e3, "RESTFRQ": None, "BMAJ": None},
          shape=(4, 40, 48))  # fmt: skip
    with pytest.raises(DataError, match="rest frequency"):
        images.read_cube("x.fits")
    fits.setval("x.fits", "RESTFRQ", value=1.420405752e9)
    with pytest.raises(DataError, match="restoring beam"):
        images.read_cube("x.fits")
    fits.setval("x.fits", "BMAJ", value=3 / 3600)
    cube, _ = images.read_cube("x.fits")
    np.testing.assert_allclose(cube.freq, 1.420405752e9 * (1 - (1e5 + 5e3 * np.arange(4)) / 299792458.0))


def test_advice_on_a_casa_image_without_a_beam_works():
    from casatasks import imhead, importfits

    write("x.fits", RADIO | {"BMAJ": None, "BMIN": None, "BPA": None})
    importfits("x.fits", "x.image")
    with pytest.raises(DataError, match="imhead"):
        images.read_cube("x.image")
    for key, value in (("beammajor", "3arcsec"), ("beamminor", "2arcsec"), ("beampa", "20deg")):
        imhead("x.image", mode="put", hdkey=key, hdvalue=value)
    np.testing.assert_allclose(images.read_cube("x.image")[0].beam_on_sky(), [3.0, 2.0, 20.0], rtol=1e-6)


def test_advice_on_other_units_pixels_and_projections_works():
    from casatasks import imhead, immath, importfits, imregrid

    write("good.fits", RADIO)
    importfits("good.fits", "good.image")
    write("kelvin.fits", RADIO | {"BUNIT": "K"})
    immath("kelvin.fits", expr="IM0*2.0", outfile="flux.image")
    imhead("flux.image", mode="put", hdkey="bunit", hdvalue="Jy/beam")
    images.read_cube("flux.image")
    write("long.fits", RADIO | {"CDELT1": -1.0 / 3600})
    imregrid("long.fits", template="good.image", output="square.image")
    images.read_cube("square.image")
    write("far.fits", RADIO | {"CTYPE1": "RA---CAR", "CTYPE2": "DEC--CAR", "CRVAL2": 0.0, "CRPIX2": 216021.0})
    with pytest.raises(DataError, match="imregrid"):
        images.read_cube("far.fits")
    imregrid("far.fits", template="good.image", output="near.image")
    assert np.isfinite(images.read_cube("near.image")[0].data).any()
