"""Images, PSFs and primary beams that contradict each other are refused or put right, and honest ones never are."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits
from casa_fixtures import NCHAN
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scipy import fft

from casa_deepfocus.core.psf import gaussian_psf, place_psf
from casa_deepfocus.errors import DataError, DeepFocusError, ParameterError

pytest.importorskip("casatools")
from casa_deepfocus.casa import images, inputs  # noqa: E402
from casa_deepfocus.reading import consistency, memory, responses  # noqa: E402
from casa_deepfocus.reading import cube as reading  # noqa: E402

pytestmark = pytest.mark.casa
pytest_plugins = ["casa_fixtures"]

SIDE, CELL, FWHM = 96, 0.5, 3.0
"""Pixels, arcsec and arcsec of the images made here."""


class Log(list):
    """A log that keeps what it is told."""

    def __call__(self, message: str, priority: str = "INFO") -> None:
        self.append((priority, message))

    def warnings(self) -> str:
        return " | ".join(message for priority, message in self if priority == "WARN")

    def text(self) -> str:
        return " | ".join(message for _, message in self)


def write(name: str, data: np.ndarray, *, beam: float | None = FWHM, unit: str = "Jy/beam", **cards) -> str:
    """A FITS image or cube, cell `CELL`, centre at pixel n // 2; `cards` are further keywords or replace some."""
    ny, nx = data.shape[-2:]
    header = {
        "BUNIT": unit, "CTYPE1": "RA---SIN", "CTYPE2": "DEC--SIN", "CRVAL1": 150.0, "CRVAL2": -30.0,
        "CRPIX1": nx // 2 + 1.0, "CRPIX2": ny // 2 + 1.0, "CDELT1": -CELL / 3600.0, "CDELT2": CELL / 3600.0,
        "CUNIT1": "deg", "CUNIT2": "deg", "RADESYS": "ICRS",
    }  # fmt: skip
    if beam is not None:
        header |= {"BMAJ": beam / 3600.0, "BMIN": beam / 3600.0, "BPA": 0.0}
    if data.ndim == 3:
        header |= {"CTYPE3": "FREQ", "CRVAL3": 1e11, "CRPIX3": 1.0, "CDELT3": 1e7, "CUNIT3": "Hz", "SPECSYS": "LSRK"}
    hdu = fits.PrimaryHDU(data.astype(np.float32))
    for key, value in (header | cards).items():
        hdu.header[key] = value
    hdu.writeto(name)
    return name


def beam_noise(nchan: int, fwhm: float = FWHM, side: int = SIDE, seed: int = 1) -> np.ndarray:
    """(nchan, side, side) noise of unit rms with the power of a Gaussian beam's transform."""
    psf = gaussian_psf([[fwhm, fwhm, 0.0]], CELL, (2 * side, 2 * side))[0]
    root = np.sqrt(np.clip(fft.rfft2(place_psf(psf, psf.shape)).real, 0.0, None))
    white = np.random.default_rng(seed).standard_normal((nchan, *psf.shape))
    out = fft.irfft2(root * fft.rfft2(white), s=psf.shape)[:, :side, :side]
    return out / out.std()


def beam_psf(planes: int = 0, fwhm: float = FWHM, side: int = 2 * SIDE) -> np.ndarray:
    plane = gaussian_psf([[fwhm, fwhm, 0.0]], CELL, (side, side))[0]
    return np.tile(plane, (planes, 1, 1)) if planes else plane


def response(side: int = SIDE, fwhm: float = 0.6) -> np.ndarray:
    return gaussian_psf([[fwhm * side, fwhm * side, 0.0]], 1.0, (side, side))[0]


def refused(kind: type[DeepFocusError], *parts: str, **given_names: str) -> None:
    with pytest.raises(kind) as caught:
        images.read_cube(**given_names)
    for part in parts:
        assert part in str(caught.value), str(caught.value)


# Beams ---------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def imaged(tiny_ms, tmp_path_factory):
    """tclean's images of the tiny measurement set, made once for each set of parameters: a function to their prefix."""
    from casatasks import tclean

    folder = tmp_path_factory.mktemp("imaged")
    made: dict[str, Path] = {}

    def make(**options) -> Path:
        key = "_".join(f"{name}-{value}" for name, value in options.items())
        if key not in made:
            made[key] = folder / f"x{len(made)}"
            common = {"imsize": 96, "cell": "0.5arcsec", "weighting": "natural", "specmode": "cube"}
            tclean(
                vis=str(tiny_ms), imagename=str(made[key]), datacolumn="data", outframe="LSRK", niter=0, pblimit=0.1,
                restoration=True, calcpsf=True, calcres=True, **(common | options),
            )  # fmt: skip
        return made[key]

    return make


@pytest.mark.parametrize(
    "options",
    [
        {}, {"weighting": "briggs", "robust": 0.5}, {"weighting": "uniform"}, {"restoringbeam": "common"},
        {"weighting": "uniform", "restoringbeam": "common"}, {"psfcutoff": 0.5}, {"cell": "1.2arcsec"},
        {"cell": "1.2arcsec", "weighting": "uniform"}, {"specmode": "mfs"},
    ],
)  # fmt: skip
def test_what_tclean_writes_is_taken_without_a_warning(imaged, options):
    prefix = imaged(**options)
    log = Log()
    cube, _ = images.read_cube(f"{prefix}.image", log=log)
    assert log.warnings() == "" and cube.psf_is_measured
    beams = consistency.lobes(cube.psf, cube.beams, cube.cell, "x")
    for beam, lobe in zip(cube.beams, beams, strict=True):
        assert lobe == pytest.approx(beam, rel=consistency.BEAM_TOLERANCE)


@pytest.mark.parametrize("weighting", ["natural", "uniform"])
def test_an_image_restored_with_a_larger_beam_is_refused_and_its_residual_is_the_way_out(imaged, weighting):
    prefix = imaged(weighting=weighting, restoringbeam="7arcsec")
    refused(DataError, "7 x 7 arcsec", "residual", "restoringbeam", imagename=f"{prefix}.image")
    right, _ = images.read_cube(f"{imaged(weighting=weighting)}.image")
    cube, _ = images.read_cube(f"{prefix}.residual")
    np.testing.assert_array_equal(cube.data, right.data)
    np.testing.assert_allclose(cube.beams[:, :2], right.beams[:, :2], rtol=0.02)


def test_a_smaller_restoring_beam_changes_the_header_only_and_the_advice_mends_it(imaged):
    prefix = imaged(restoringbeam="1.3arcsec", specmode="mfs")
    refused(DataError, "1.3 x 1.3 arcsec", "ia.setrestoringbeam", imagename=f"{prefix}.image")
    right, _ = images.read_cube(f"{imaged(specmode='mfs')}.image")
    shutil.copytree(f"{prefix}.image", "mended.image")
    major, minor, pa = right.beams[0]
    with images.opened("mended.image") as ia:
        ia.setrestoringbeam(f"{major}arcsec", f"{minor}arcsec", f"{pa}deg")
    cube, _ = images.read_cube("mended.image", psf=f"{prefix}.psf", pb=f"{prefix}.pb")
    np.testing.assert_array_equal(cube.data, right.data)
    np.testing.assert_allclose(cube.beams, right.beams, rtol=1e-5)


def test_a_smoothed_image_is_refused(imaged):
    from casatasks import imsmooth

    prefix = imaged()
    imsmooth(
        imagename=f"{prefix}.image", outfile="smooth.image", targetres=True, major="7arcsec", minor="6arcsec",
        pa="0deg",
    )  # fmt: skip
    refused(DataError, "imsmooth", imagename="smooth.image", psf=f"{prefix}.psf", pb=f"{prefix}.pb")


def test_a_beam_of_another_unit_is_refused(tiny_copy):
    from casatasks import imhead

    for unit, text in (("arcmin", "beams of"), ("mas", "pixels")):
        for axis in ("major", "minor"):
            imhead(f"{tiny_copy}.image", mode="del", hdkey=f"beam{axis}")
        with images.opened(f"{tiny_copy}.image") as ia:
            ia.setrestoringbeam(major=f"5.1{unit}", minor=f"3.6{unit}", pa="10deg")
        refused(DataError, text, imagename=f"{tiny_copy}.image")


# PSFs ----------------------------------------------------------------------------------------------------------------


def test_the_psf_and_the_pb_are_other_files_than_the_image(tiny_copy):
    os.symlink(f"{tiny_copy}.image", "link.image")
    name = f"{tiny_copy}.image"
    refused(ParameterError, "psf=", "same file as imagename", imagename=name, psf="link.image")
    refused(ParameterError, "pb=", "same file as imagename", imagename=name, pb="link.image")
    refused(ParameterError, "pb=", "same file as psf", imagename=name, pb=f"{tiny_copy}.psf")
    shutil.copytree(name, "copy.image")
    refused(ParameterError, "holds the image itself", imagename=name, psf="copy.image")
    with pytest.raises(ParameterError, match="same file"):
        inputs.check({"imagename": name, "psf": "link.image"})


@pytest.mark.parametrize("kind", ["image", "residual"])
def test_a_primary_beam_is_no_psf(imaged, kind):
    prefix = imaged()
    shutil.copytree(f"{prefix}.pb", "copy.pb")
    refused(DataError, "arcsec" if kind == "image" else "beams", imagename=f"{prefix}.{kind}", psf="copy.pb")


@pytest.mark.parametrize(("size", "warned"), [(SIDE, False), (2 * SIDE, False), (SIDE // 2, True)])
@pytest.mark.parametrize("planes", [0, 1, 8])
def test_a_psf_of_any_size_that_holds_the_main_lobe_is_taken(size, warned, planes):
    log = Log()
    name = write("x.image.fits", beam_noise(8))
    write("x.psf.fits", beam_psf(planes, side=size), beam=None, unit="")
    cube, _ = images.read_cube(name, log=log)
    assert cube.psf.shape == (max(planes, 1), size, size)
    assert ("sidelobes further out" in log.warnings()) == warned


def test_a_psf_smaller_than_its_main_lobe_is_refused():
    name = write("x.image.fits", beam_noise(2))
    write("x.psf.fits", beam_psf()[SIDE - 8 : SIDE + 8, SIDE - 8 : SIDE + 8], unit="")
    refused(DataError, "16 x 16 pixels", "main lobe", imagename=name)


@settings(max_examples=25, deadline=None)
@given(side=st.integers(40, 90), dy=st.integers(-4, 4), dx=st.integers(-4, 4), scale=st.floats(0.5, 2.0))
def test_a_peak_is_at_the_centre_and_1(side, dy, dx, scale):
    psf = beam_psf(side=side)[None] * np.float32(scale)
    moved = np.roll(psf, (dy, dx), axis=(1, 2))
    right = max(abs(dy), abs(dx)) <= responses.CENTRE_TOLERANCE and abs(scale - 1.0) <= responses.PEAK_TOLERANCE
    if not right:
        with pytest.raises(DataError, match="peak"):
            responses.usable_psf(moved, None, "x.psf", Log())
        return
    found = responses.usable_psf(moved, None, "x.psf", Log())
    assert found[0, side // 2, side // 2] == 1.0 == found.max()


def test_a_cut_psf_has_its_peak_at_the_reference_pixel():
    name = write("x.image.fits", beam_noise(2))
    cut = beam_psf()[SIDE - 30 : SIDE + 50, SIDE - 45 : SIDE + 35]
    write("x.psf.fits", cut, unit="", CRPIX1=46.0, CRPIX2=31.0)
    cube, _ = images.read_cube(name)
    assert cube.psf[0, 40, 40] == 1.0
    write("other.psf.fits", cut, unit="")
    refused(DataError, "no peak at its centre", imagename=name, psf="other.psf.fits")


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda psf: -psf, "no peak at its centre"),
        (lambda psf: 0.0 * psf, "empty"),
        (lambda psf: np.full_like(psf, np.nan), "empty"),
        (lambda psf: 0.9 * psf, "peak of 0.9"),
        (lambda psf: psf + 3.0 * np.roll(psf, 40, axis=-1), "no peak at its centre"),
    ],
)
def test_what_is_no_psf_is_refused(change, text):
    name = write("x.image.fits", beam_noise(3))
    write("x.psf.fits", change(beam_psf(3)), unit="")
    refused(DataError, text, imagename=name)


def test_the_axes_of_a_psf_are_the_images():
    name = write("x.image.fits", beam_noise(2))
    for number, (cards, text) in enumerate(
        [
            ({"CDELT1": -0.6 / 3600.0, "CDELT2": 0.6 / 3600.0}, "pixels of 0.6"),
            ({"CDELT1": CELL / 3600.0}, "mirrored"),
            ({"CROTA2": 20.0}, "rotated"),
        ]
    ):
        psf = write(f"psf{number}.fits", beam_psf(), unit="", **cards)
        refused(DataError, text, imagename=name, psf=psf)


def channels_of_their_own() -> np.ndarray:
    """(8, 2 SIDE, 2 SIDE) PSFs that tell the channel by their sidelobes."""
    psf = beam_psf(8)
    for chan in range(8):
        psf[chan, 20, 20] = 0.01 * chan
    return psf


@pytest.mark.parametrize("kind", ["psf", "pb"])
def test_planes_go_to_the_channels_of_their_frequency(kind):
    name = write("x.image.fits", beam_noise(8))
    if kind == "psf":
        planes, pick = channels_of_their_own(), lambda cube: cube.psf[:, 20, 20]
    else:
        planes = np.stack([response(fwhm=0.6 - 0.01 * chan) for chan in range(8)])
        pick = lambda cube: cube.pb[:, 20, 20]  # noqa: E731
    if kind == "pb":
        write("x.psf.fits", beam_psf(), unit="")
    right = write(f"right.{kind}.fits", planes, beam=None, unit="")
    cube, _ = images.read_cube(name, **{kind: right})
    falling = write(f"falling.{kind}.fits", planes[::-1], unit="", CRVAL3=1e11 + 7e7, CDELT3=-1e7)
    other, _ = images.read_cube(name, **{kind: falling})
    np.testing.assert_array_equal(pick(other), pick(cube))
    more = write(f"more.{kind}.fits", np.concatenate([planes[:3], planes, planes[:2]]), unit="", CRVAL3=1e11 - 3e7)
    other, _ = images.read_cube(name, **{kind: more})
    np.testing.assert_array_equal(pick(other), pick(cube))
    for number, cards in enumerate(({"CRVAL3": 1e11 + 1e7}, {"CDELT3": 2e7}, {"CRVAL3": 2e11}, {"CRVAL3": 1e11 + 4e6})):
        wrong = write(f"{number}.{kind}.fits", planes, unit="", **cards)
        refused(DataError, "channels", imagename=name, **{kind: wrong})
    # Another frame: the Earth's motion shifts the frequencies, not the baselines.
    frame = write(f"frame.{kind}.fits", planes, unit="", CRVAL3=1e11 * (1 + 8e-5), SPECSYS="BARYCENT")
    other, _ = images.read_cube(name, **{kind: frame})
    np.testing.assert_array_equal(pick(other), pick(cube))
    one = planes[3:4]
    refused(
        DataError, "GHz", imagename=name, **{kind: write(f"far.{kind}.fits", one, unit="", CRVAL3=2e11)}
    )  # fmt: skip


# Primary beams -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda pb: 100.0 * pb, "per cent"),
        (lambda pb: 10.0 * np.log10(np.maximum(pb, 1e-6)), "decibel"),
        (lambda pb: 0.0 * pb, "empty"),
        (lambda pb: np.full_like(pb, np.nan), "empty"),
        (lambda pb: 0.5 * pb, "highest response of 0.5"),
        (lambda pb: np.full_like(pb, 0.5), "highest response of 0.5"),
        (lambda pb: pb - 0.5, "no response"),
        (lambda pb: 3.0 * pb, "no response"),
    ],
)
def test_what_is_no_primary_beam_is_refused(change, text):
    name = write("x.image.fits", beam_noise(2))
    write("x.pb.fits", change(response()), beam=None, unit="")
    refused(DataError, text, imagename=name)


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(y=st.integers(0, 48), x=st.integers(0, 48), limit=st.floats(0.0, 0.4))
def test_a_part_of_a_primary_beam_is_one(y, x, limit):
    pb = response()
    part = np.where(pb > limit, pb, np.nan)[None, y : y + 48, x : x + 48].astype(np.float32)
    if np.isfinite(part).any():
        responses.usable_pb(part, "x.pb")


def test_a_primary_beam_is_at_the_images_place():
    name = write("x.image.fits", beam_noise(2))
    away = write("away.fits", response(), beam=None, unit="", CRPIX1=SIDE // 2 + 11.0)
    refused(DataError, "10 pixels off", "imregrid", imagename=name, pb=away)
    turned = write("turned.fits", response(), beam=None, unit="", CROTA2=30.0)
    refused(DataError, "pixels off", imagename=name, pb=turned)
    # The same place in another frame: FK5 and ICRS are 0.02 arcsec apart.
    alike = write("alike.fits", response(), beam=None, unit="", RADESYS="FK5", EQUINOX=2000.0)
    images.read_cube(name, pb=alike)


def test_the_advice_to_regrid_a_primary_beam_works():
    from casatasks import importfits, imregrid

    name = write("x.image.fits", beam_noise(1)[0])
    wide = np.pad(response(), 20, mode="edge")
    away = write("away.fits", wide[20:116, 30:126], beam=None, unit="", CRPIX1=SIDE // 2 + 1.0 - 10.0)
    refused(DataError, "10 pixels off", f"imregrid(imagename='{away}'", "importfits", imagename=name, pb=away)
    importfits(name, "image.casa")
    imregrid(imagename=away, template="image.casa", output="there.pb")
    cube, _ = images.read_cube(name, pb="there.pb")
    known = np.isfinite(cube.pb[0])
    assert known[:, 12:].all()
    np.testing.assert_allclose(cube.pb[0][known], response()[known], atol=2e-3)


@pytest.mark.parametrize("nchan", [0, 12])
@pytest.mark.parametrize("name", ["x.pbcor.fits", "plain.fits"])
@pytest.mark.parametrize("corrected", [True, False])
def test_a_correction_is_known_by_the_noise_and_undone(nchan, name, corrected):
    flat = beam_noise(max(nchan, 1), side=192) * 1e-3
    pb = response(192)
    source = 0.05 * beam_psf(side=192)
    flat += np.roll(source, 58, axis=1)
    shown = np.where(pb > 0.15, flat / pb if corrected else flat, np.nan)
    image = write(name, shown if nchan else shown[0])
    pbname = write("own.fits", pb, beam=None, unit="")
    log = Log()
    cube, _ = images.read_cube(image, pb=pbname, log=log)
    np.testing.assert_allclose(cube.data, np.where(pb > 0.15, flat, np.nan), rtol=1e-5, atol=1e-8)
    named = "pbcor" in name
    assert ("multiplied by it again" in log.text()) == corrected
    assert ("corrected for the primary beam" in log.warnings()) == (named != corrected)


def test_the_name_decides_where_the_noise_does_not_tell():
    flat, pb = beam_noise(1)[0] * 1e-3, np.clip(response(fwhm=3.0), None, 1.0)
    for name, corrected in (("x.image.pbcor.fits", True), ("x.image.fits", False)):
        log = Log()
        cube, _ = images.read_cube(
            write(name, flat / pb if corrected else flat), pb=write(f"{name}.pb", pb, beam=None, unit=""), log=log
        )
        np.testing.assert_allclose(cube.data[0], flat, rtol=1e-5, atol=1e-8)
        assert log.warnings().count("corrected") == 0


def test_impbcor_leaves_its_trace_in_the_history(imaged):
    from casatasks import impbcor

    prefix = imaged(specmode="mfs")
    impbcor(imagename=f"{prefix}.image", pbimage=f"{prefix}.pb", outfile="other.name", mode="divide")
    from casa_deepfocus.casa.grids import inspect

    assert consistency.looks_corrected(inspect("other.name")) == "history"
    assert consistency.looks_corrected(inspect(f"{prefix}.image")) == ""
    log = Log()
    cube, _ = images.read_cube("other.name", psf=f"{prefix}.psf", pb=f"{prefix}.pb", log=log)
    right, _ = images.read_cube(f"{prefix}.image")
    known = np.isfinite(cube.data)
    np.testing.assert_allclose(cube.data[known], right.data[known], rtol=1e-4, atol=1e-7)
    assert "multiplied by it again" in log.text()


def test_without_a_pb_the_log_says_what_it_means():
    log = Log()
    images.read_cube(write("x.image.fits", beam_noise(1)[0]), log=log)
    assert "half of what is right" in log.warnings()
    log = Log()
    images.read_cube(write("y.pbcor.fits", beam_noise(1)[0]), log=log)
    assert "grows outwards" in log.warnings() and "half of what" not in log.warnings()


# Planes, fields, memory ----------------------------------------------------------------------------------------------


def test_constant_planes_are_left_out_and_constant_images_refused():
    data = beam_noise(6)
    data[2], data[4] = 3.0, 0.0
    log = Log()
    cube, _ = images.read_cube(write("x.image.fits", data), log=log)
    assert np.isnan(cube.data[[2, 4]]).all() and np.isfinite(cube.data[[0, 1, 3, 5]]).all()
    assert "1 channels" in log.warnings() and "channel 2" in log.warnings()
    refused(DataError, "one value", imagename=write("y.image.fits", np.full((3, SIDE, SIDE), 2.0)))
    refused(DataError, "no valid pixel", imagename=write("z.image.fits", np.full((3, SIDE, SIDE), np.nan)))


@pytest.mark.parametrize(
    ("side", "beam", "text"),
    [
        (17, 3.0, "17 x 17 pixels"),
        (96, 0.9, "1.80 pixels"),
        (96, 60.0, "beams"),
        (96, 20.0, "beams"),
        (30, 6.0, "55 pixels"),
    ],  # fmt: skip
)
def test_fields_of_few_beams_and_beams_of_few_pixels_are_refused(side, beam, text):
    refused(DataError, text, imagename=write("x.image.fits", beam_noise(1, side=side)[0], beam=beam))


@settings(max_examples=60, deadline=None)
@given(side=st.integers(8, 200), pixels=st.floats(2.05, 30.0), axis=st.floats(0.4, 1.0))
def test_a_field_is_taken_where_it_holds_enough_beams(side, pixels, axis):
    beams = np.array([[pixels / axis, pixels, 0.0]])
    mean, major = pixels / np.sqrt(axis), pixels / axis
    if side >= max(consistency.LEAST_FIELD * mean, major):
        consistency.check_field((side, side + 5), beams, 1.0, "x")
    else:
        with pytest.raises(DataError, match=f"{side + 5} x {side} pixels"):
            consistency.check_field((side, side + 5), beams, 1.0, "x")


@pytest.mark.parametrize("beam", [[np.nan, 3.0, 0.0], [3.0, -1.0, 0.0], [np.inf, 3.0, 0.0], [3.0, 0.0, 0.0]])
def test_impossible_beams_are_refused(beam):
    with pytest.raises(DataError, match="setrestoringbeam"):
        consistency.check_field((96, 96), np.array([beam]), 0.5, "x")


def test_the_tiny_images_have_all_channels(tiny_images):
    cube, _ = images.read_cube(f"{tiny_images}.image")
    assert cube.nchan == NCHAN and np.isfinite(cube.data).all()


def test_too_little_memory_is_said_before_a_pixel_is_read_and_the_advice_helps(tiny_images, monkeypatch):
    from casatasks import imsubimage

    name = f"{tiny_images}.image"
    whole = memory.needed_memory(NCHAN, 48, 64, (NCHAN, 48, 64))
    fewer = memory.needed_memory(NCHAN - 3, 48, 64, (NCHAN, 48, 64))
    monkeypatch.setattr(memory, "available_memory", lambda: (whole + fewer) // 2)
    with monkeypatch.context() as patch:
        patch.setattr(reading, "_planes", lambda *_, **__: pytest.fail("pixels were read"))
        refused(DataError, "GiB", "imsubimage", "chans='0~", imagename=name)
    with pytest.raises(DataError, match="chans='0~"):
        inputs.check({"imagename": name})
    with pytest.raises(DataError) as caught:
        memory.check_memory(NCHAN, 48, 64, (NCHAN, 48, 64), name)
    chans = str(caught.value).split("chans='")[1].split("'")[0]
    for kind in ("image", "psf"):
        imsubimage(imagename=f"{tiny_images}.{kind}", outfile=f"part.{kind}", chans=chans)
    cube, _ = images.read_cube("part.image", pb=f"{tiny_images}.pb")
    assert 1 < cube.nchan < NCHAN
