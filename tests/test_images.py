"""CASA and FITS images become the same Cube, and images written come back as they were."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits
from casa_fixtures import CHAN_WIDTH, FREQ0, NCHAN, TRUTH

from casa_deepfocus.core.psf import gaussian_psf
from casa_deepfocus.errors import DataError, ParameterError

pytest.importorskip("casatools")
from casa_deepfocus.casa import images  # noqa: E402
from casa_deepfocus.reading import companions  # noqa: E402

pytestmark = pytest.mark.casa
pytest_plugins = ["casa_fixtures"]


class Log(list):
    """A log that keeps what it is told."""

    def __call__(self, message: str, priority: str = "INFO") -> None:
        self.append((priority, message))

    def warned(self, text: str) -> bool:
        return any(priority == "WARN" and text in message for priority, message in self)


def to_fits(name: str, target: Path, **options) -> Path:
    with images.opened(name) as ia:
        ia.tofits(str(target), overwrite=True, **options)
    return target


def rewrite(source: Path, target: Path, change) -> Path:
    """Copy a FITS file through `change(data, header)`, which returns what is written."""
    with fits.open(source) as hdus:
        data, header = change(hdus[0].data.copy(), hdus[0].header.copy())
        fits.HDUList([fits.PrimaryHDU(data, header), *(h.copy() for h in hdus[1:])]).writeto(target)
    return target


@pytest.fixture(scope="session")
def tiny_fits(tiny_images: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """FITS of the tiny cube with Stokes before frequency, as CASA writes it by default (and its psf and pb)."""
    folder = tmp_path_factory.mktemp("fits")
    for kind in ("psf", "pb"):
        to_fits(f"{tiny_images}.{kind}", folder / f"tiny.{kind}.fits")
    return to_fits(f"{tiny_images}.image", folder / "tiny.image.fits")


def test_the_axes_are_chan_y_x_and_the_sources_stand_where_they_were_planted(tiny_images):
    cube, template = images.read_cube(f"{tiny_images}.image")
    assert cube.data.shape == (NCHAN, 48, 64) and cube.data.dtype == np.float32
    assert template.shape == (64, 48, 1, NCHAN)
    np.testing.assert_allclose(cube.freq, FREQ0 + CHAN_WIDTH * np.arange(NCHAN), rtol=0, atol=1.0)
    assert (cube.frame, cube.meta["telescope"], cube.meta["radesys"]) == ("LSRK", "ALMA", "FK5")
    assert cube.cell == pytest.approx(0.5) and cube.psf_is_measured and cube.spectral
    for source in TRUTH:
        x, y = (round(float(v)) for v in cube.wcs.wcs_world2pix([source.radec], 0)[0])
        assert (x, y) == (32 - 2 * source.east, 24 + 2 * source.north)
        np.testing.assert_allclose(cube.data[:, y, x], source.spectrum(), atol=0.004)
    assert np.ptp([cube.data[c].max() for c in range(NCHAN)]) > 0.03, "the truth must change with the channel"


def test_the_world_coordinates_agree_with_casa(tiny_images):
    cube, _ = images.read_cube(f"{tiny_images}.image")
    with images.opened(f"{tiny_images}.image") as ia:
        world = ia.toworld([7, 41, 0, 5])["numeric"]
    ra, dec = cube.wcs.wcs_pix2world([[7, 41]], 0)[0]
    assert np.degrees(world[:2]) == pytest.approx([ra, dec], abs=1e-9)
    assert world[3] == pytest.approx(cube.freq[5])


def test_casa_and_fits_give_the_same_cube(tiny_images, tiny_fits):
    casa, _ = images.read_cube(f"{tiny_images}.image")
    other, _ = images.read_cube(str(tiny_fits))
    for name in ("data", "psf", "pb"):
        np.testing.assert_array_equal(getattr(casa, name), getattr(other, name))
    np.testing.assert_allclose(casa.freq, other.freq, rtol=0, atol=1e-3)
    np.testing.assert_allclose(casa.beams, other.beams, rtol=1e-6)
    np.testing.assert_allclose(casa.wcs.wcs_pix2world([[3, 4]], 0), other.wcs.wcs_pix2world([[3, 4]], 0), atol=1e-9)
    assert (casa.frame, casa.restfreq, casa.psf_is_measured) == (other.frame, other.restfreq, True)


def test_the_axis_order_and_missing_axes_of_a_file_do_not_matter(tiny_images, tiny_fits, tmp_path):
    casa, _ = images.read_cube(f"{tiny_images}.image")
    last = to_fits(f"{tiny_images}.image", tmp_path / "last.fits", stokeslast=False)
    assert fits.getheader(last)["CTYPE3"] == "STOKES"
    three = to_fits(f"{tiny_images}.image", tmp_path / "three.fits", dropstokes=True)
    assert fits.getheader(three)["NAXIS"] == 3
    for name in (last, three):
        cube, _ = images.read_cube(str(name), psf=f"{tiny_images}.psf", pb=f"{tiny_images}.pb")
        np.testing.assert_array_equal(cube.data, casa.data)


def test_a_falling_frequency_axis_keeps_its_order(tiny_fits, tmp_path):
    def flip(data, header):
        axis = 3 if header["CTYPE3"] == "FREQ" else 4
        header[f"CRVAL{axis}"] += header[f"CDELT{axis}"] * (NCHAN - 1)
        header[f"CDELT{axis}"] *= -1
        return np.flip(data, axis=4 - axis), header

    cube, _ = images.read_cube(str(tiny_fits))
    falling, _ = images.read_cube(str(rewrite(tiny_fits, tmp_path / "falling.fits", flip)))
    assert falling.chan_width == pytest.approx(-CHAN_WIDTH)
    np.testing.assert_allclose(falling.freq, cube.freq[::-1], rtol=0, atol=1.0)
    np.testing.assert_array_equal(falling.data, cube.data[::-1])


def test_masked_pixels_and_blanks_are_nan(tiny_copy, tiny_fits, tmp_path):
    with images.opened(f"{tiny_copy}.image") as ia:
        ia.calcmask(f"'{tiny_copy}.image' < 0.03", name="own")
    masked, _ = images.read_cube(f"{tiny_copy}.image")
    whole, _ = images.read_cube(str(tiny_fits))
    np.testing.assert_array_equal(np.isnan(masked.data), whole.data >= 0.03)
    assert 0 < np.isnan(masked.data).sum() < masked.data.size / 2

    def blank(data, header):
        data[..., :10, :] = np.nan
        return data, header

    blanked, _ = images.read_cube(str(rewrite(tiny_fits, tmp_path / "blank.fits", blank)))
    assert np.isnan(blanked.data[:, :10]).all() and np.isfinite(blanked.data[:, 10:]).all()


def test_channels_without_data_are_nan_and_borrow_their_neighbours_psf(tiny_copy):
    for kind in ("image", "psf"):
        with images.opened(f"{tiny_copy}.{kind}") as ia:
            ia.putchunk(np.zeros((64, 48, 1, 1)), blc=[0, 0, 0, 2])
    cube, _ = images.read_cube(f"{tiny_copy}.image")
    assert np.isnan(cube.data[2]).all() and np.isfinite(cube.data[[1, 3]]).all()
    np.testing.assert_allclose(cube.psf.max(axis=(1, 2)), 1.0)


def test_units_are_scaled_or_refused(tiny_fits, tmp_path):
    def unit(name, factor):
        def change(data, header):
            header["BUNIT"] = name
            return data * np.float32(factor), header

        return rewrite(tiny_fits, tmp_path / f"{name.replace('/', '_')}.fits", change)

    cube, _ = images.read_cube(str(tiny_fits))
    milli, _ = images.read_cube(str(unit("mJy/beam", 1e3)))
    np.testing.assert_allclose(milli.data, cube.data, rtol=1e-6, atol=1e-9)
    with pytest.raises(DataError, match="Jy/beam"):
        images.read_cube(str(unit("K", 1.0)))


@pytest.mark.parametrize("dtype", [">f8", ">i2"])
def test_double_and_integer_files_are_read(tiny_fits, tmp_path, dtype):
    def convert(data, header):
        if dtype == ">f8":
            return data.astype(dtype), header
        header["BSCALE"], header["BZERO"] = 1e-5, 0.0
        return np.round(data / 1e-5).astype(dtype), header

    cube, _ = images.read_cube(str(tiny_fits))
    with fits.open(tiny_fits) as hdus:
        data, header = convert(hdus[0].data.copy(), hdus[0].header.copy())
        hdu = fits.PrimaryHDU()
        hdu.data = data
        for key in ("CTYPE", "CRVAL", "CRPIX", "CDELT", "CUNIT"):
            for axis in range(1, 5):
                hdu.header[f"{key}{axis}"] = header[f"{key}{axis}"]
        for key in ("BUNIT", "RADESYS", "EQUINOX", "SPECSYS", "RESTFRQ", "BTYPE", "BSCALE", "BZERO"):
            if key in header:
                hdu.header[key] = header[key]
        hdu.header["BMAJ"], hdu.header["BMIN"], hdu.header["BPA"] = 5.1 / 3600, 3.6 / 3600, 150.0
        hdu.writeto(tmp_path / "other.fits")
    other, _ = images.read_cube(str(tmp_path / "other.fits"))
    np.testing.assert_allclose(other.data, cube.data, atol=6e-6)


def test_images_that_cannot_be_used_say_why(tiny_copy, tiny_fits, tmp_path):
    def stretched(data, header):
        header["CDELT1"] *= 2
        return data, header

    with pytest.raises(DataError, match="square"):
        images.read_cube(str(rewrite(tiny_fits, tmp_path / "stretched.fits", stretched)))
    (tmp_path / "text.fits").write_text("no image")
    with pytest.raises(DataError, match="cannot be read"):
        images.read_cube(str(tmp_path / "text.fits"))
    with images.opened(f"{tiny_copy}.image") as ia:
        ia.set(pixels="0.0")
    with pytest.raises(DataError, match="no valid pixel"):
        images.read_cube(f"{tiny_copy}.image")


def test_stokes_i_is_taken_from_several_planes(tiny_images, tmp_path):
    from casatools import image

    cube, template = images.read_cube(f"{tiny_images}.image")
    cs_tool = image()
    cs_tool.open(f"{tiny_images}.image")
    cs = cs_tool.coordsys()
    cs_tool.done()
    for stokes, expected in (("Q I", 1), ("Q U", None)):
        cs.setstokes(stokes)
        ia = image()
        name = str(tmp_path / stokes.replace(" ", ""))
        ia.fromshape(name, [64, 48, 2, NCHAN], csys=cs.torecord(), overwrite=True)
        ia.setbrightnessunit("Jy/beam")
        ia.setrestoringbeam("5arcsec", "4arcsec", "0deg")
        pixels = np.zeros((64, 48, 2, NCHAN))
        pixels[:, :, 1] = cube.data.transpose(2, 1, 0)
        ia.putchunk(pixels)
        ia.done()
        if expected is None:
            with pytest.raises(DataError, match="imsubimage"):
                images.read_cube(name)
        else:
            np.testing.assert_array_equal(images.read_cube(name)[0].data, cube.data)
    cs.done()


def test_without_a_psf_the_header_beam_stands_in(tiny_images, tmp_path):
    log = Log()
    name = to_fits(f"{tiny_images}.image", tmp_path / "alone.fits")
    cube, _ = images.read_cube(str(name), log=log)
    assert not cube.psf_is_measured and log.warned("Gaussian beam")
    assert cube.psf.shape[1:] == (96, 128) and (cube.pb == 1).all()
    np.testing.assert_allclose(images.fit_beam(cube.psf[0], cube.cell), cube.beams[0], rtol=1e-3)


def test_without_a_beam_it_is_fitted_to_the_psf(tiny_images):
    header, _ = images.read_cube(f"{tiny_images}.image")
    log = Log()
    cube, _ = images.read_cube(f"{tiny_images}.residual", log=log)
    np.testing.assert_allclose(cube.beams, header.beams, rtol=0.02)
    assert any("fitted to the PSF" in message for _, message in log)


def test_the_fitted_beam_is_the_planted_one():
    beams = np.array([[5.0, 3.0, 20.0], [4.0, 4.0, 0.0], [6.0, 2.5, 170.0]])
    psf = gaussian_psf(beams, 0.5, (128, 128))
    for plane, beam in zip(psf, beams, strict=True):
        fitted = images.fit_beam(plane, 0.5)
        np.testing.assert_allclose(fitted[:2], beam[:2], rtol=1e-4)
        if beam[0] > beam[1]:
            assert fitted[2] == pytest.approx(beam[2], abs=0.01)
    with pytest.raises(DataError, match="smaller cell"):
        images.fit_beam(gaussian_psf(beams[1:2], 4.0, (128, 128))[0], 4.0)


def test_a_psf_centred_by_another_convention_is_moved(tiny_images, tiny_fits, tmp_path):
    def shift(data, header):
        return np.roll(data, (-1, -1), axis=(-2, -1)), header

    cube, _ = images.read_cube(str(tiny_fits))
    moved = rewrite(tiny_fits.parent / "tiny.psf.fits", tmp_path / "moved.fits", shift)
    other, _ = images.read_cube(str(tiny_fits), psf=str(moved))
    np.testing.assert_allclose(other.psf[:, 4:-4, 4:-4], cube.psf[:, 4:-4, 4:-4], rtol=1e-6, atol=1e-7)


def test_companions_are_found_by_name_and_must_fit(tiny_images, tiny_fits, tmp_path):
    for name in ("a.b.image", "a.b.dirty.fits", "a.b.residual", "a.b"):
        (tmp_path / "a.b.psf.fits").touch()
        assert companions.find_companion(str(tmp_path / name), "psf") == str(tmp_path / "a.b.psf.fits")
    assert companions.find_companion(str(tmp_path / "other.image"), "psf") == ""
    with pytest.raises(DataError, match="channels"):
        images.read_cube(str(tiny_fits), psf=_one_channel(tiny_images, tmp_path, "psf", 3))
    with pytest.raises(ParameterError, match="pb="):
        images.read_cube(str(tiny_fits), pb=_one_channel(tiny_images, tmp_path, "pb", 3))


def _one_channel(prefix: Path, folder: Path, kind: str, nchan: int) -> str:
    from casatasks import imsubimage

    name = str(folder / f"cut.{kind}")
    imsubimage(imagename=f"{prefix}.{kind}", outfile=name, chans=f"0~{nchan - 1}", overwrite=True)
    return name


def test_a_primary_beam_corrected_image_is_noticed(tiny_images, tmp_path):
    log = Log()
    cube, _ = images.read_cube(str(to_fits(f"{tiny_images}.image", tmp_path / "x.image.pbcor.fits")), log=log)
    assert log.warned("corrected for the primary beam") and cube.corrected
    assert not images.read_cube(f"{tiny_images}.image")[0].corrected


@pytest.mark.parametrize("slab", [1, 2**24])
def test_what_is_written_comes_back(tiny_images, tiny_fits, tmp_path, monkeypatch, slab):
    monkeypatch.setattr(images, "SLAB", slab)
    for source in (f"{tiny_images}.image", str(tiny_fits)):
        cube, template = images.read_cube(source)
        images.write_planes("copy.image", cube.data, template, unit="Jy/beam", history=("planted",))
        back, again = images.read_cube("copy.image", psf=f"{tiny_images}.psf", pb=f"{tiny_images}.pb")
        np.testing.assert_array_equal(back.data, cube.data)
        np.testing.assert_allclose(back.freq, cube.freq)
        assert again.shape == template.shape
        images.write_sky("sky.image", cube.data[3], template)
        with images.opened("sky.image") as ia:
            np.testing.assert_array_equal(ia.getchunk().T.astype(np.float32), cube.data[3])
            world = np.degrees(ia.toworld([7, 41])["numeric"])
        assert world == pytest.approx(cube.wcs.wcs_pix2world([[7, 41]], 0)[0], abs=1e-9)
