"""FITS cubes: the same back after writing, as CASA and astropy read them, and archive images of other shapes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

pytest.importorskip("casadata")

from astropy import units as u
from astropy.io import fits
from astropy.wcs import WCS

from casa_deepfocus.core.cube import C_KMS, Cube
from casa_deepfocus.core.geometry import gaussian_image
from casa_deepfocus.core.psf import gaussian_psf
from casa_deepfocus.errors import DataError, ParameterError, ProductError
from sim.fits import cube_header, read_cube, write_cube

NCHAN, NY, NX, CELL = 5, 24, 32, 0.36
REST = 230.538e9


@pytest.fixture
def cube() -> Cube:
    """A cube that is not square, with a flagged channel, blank edges, falling frequencies and beams that change."""
    rng = np.random.default_rng(7)
    wcs = WCS(naxis=2)
    wcs.wcs.ctype, wcs.wcs.cunit = ["RA---SIN", "DEC--SIN"], ["deg", "deg"]
    wcs.wcs.crval, wcs.wcs.crpix = [59.99983333, -34.99986111], [NX // 2 + 1, NY // 2 + 1]
    wcs.wcs.cdelt, wcs.wcs.radesys = [-CELL / 3600.0, CELL / 3600.0], "ICRS"
    wcs.wcs.set()
    data = rng.standard_normal((NCHAN, NY, NX)).astype(np.float32)
    data[2] = np.nan
    data[:, :3] = np.nan
    sizes = 1.0 + 0.02 * np.arange(NCHAN)
    beams = np.stack([1.5 * sizes, 1.2 * sizes, 170.0 + sizes], axis=1)
    return Cube(
        data=data,
        psf=gaussian_psf(beams, CELL, (2 * NY, 2 * NX)),
        pb=np.stack([gaussian_image((NY, NX), NX // 2, NY // 2, (200.0 / s, 200.0 / s, 0.0)) for s in sizes]).astype(
            np.float32
        ),
        freq=230.6e9 - 10e6 * np.arange(NCHAN),
        beams=beams,
        cell=CELL,
        wcs=wcs,
        frame="LSRK",
        restfreq=REST,
        meta={"telescope": "alma.cycle9.3", "weighting": "natural", "radesys": "ICRS"},
    )


def same(one: Cube, other: Cube) -> None:
    np.testing.assert_array_equal(one.data, other.data)
    np.testing.assert_allclose(one.psf, other.psf, rtol=1e-6)
    np.testing.assert_array_equal(one.pb, other.pb)
    np.testing.assert_allclose(one.freq, other.freq, rtol=1e-14)
    np.testing.assert_allclose(one.beams, other.beams, rtol=1e-6)
    assert one.cell == pytest.approx(other.cell, rel=1e-12)
    assert (one.frame, one.restfreq, one.psf_is_measured) == (other.frame, other.restfreq, other.psf_is_measured)
    places = [[0.0, 0.0], [NX - 1.0, NY - 1.0], [3.3, 7.7]]
    np.testing.assert_allclose(one.wcs.wcs_pix2world(places, 0), other.wcs.wcs_pix2world(places, 0), atol=1e-10)


def test_back_and_forth(cube: Cube, tmp_path: Path) -> None:
    write_cube(cube, tmp_path / "new" / "field")
    back = read_cube(tmp_path / "new" / "field")
    same(back, cube)
    assert back.data.dtype == back.psf.dtype == np.float32 and back.data.dtype.isnative
    assert back.data.flags.c_contiguous and back.data.flags.writeable
    assert back.meta["radesys"] == "ICRS" and back.meta["telescope"] == "ALMA"
    same(read_cube(tmp_path / "new" / "field" / "dirty.fits"), cube)
    with pytest.raises(ProductError, match="exists"):
        write_cube(cube, tmp_path / "new" / "field")


def test_the_same_cube_makes_the_same_bytes(cube: Cube, tmp_path: Path) -> None:
    write_cube(cube, tmp_path / "one")
    write_cube(replace(cube, data=cube.data.copy(), psf=cube.psf.astype(">f4")), tmp_path / "two")
    for name in ("dirty", "psf", "pb"):
        assert (tmp_path / "one" / f"{name}.fits").read_bytes() == (tmp_path / "two" / f"{name}.fits").read_bytes()


@pytest.mark.parametrize("frame", ["LSRK", "BARY", "TOPO"])
def test_what_astropy_reads(cube: Cube, tmp_path: Path, frame: str) -> None:
    write_cube(replace(cube, frame=frame), tmp_path / "field")
    with fits.open(tmp_path / "field" / "dirty.fits") as units:
        units.verify("exception")
        header, beams = units[0].header, units["BEAMS"]
        assert units[0].data.shape == (NCHAN, NY, NX)
        for name, column, unit in (("BMAJ", 0, "arcsec"), ("BMIN", 1, "arcsec"), ("BPA", 2, "deg")):
            np.testing.assert_allclose(beams.data[name], cube.beams[:, column], rtol=1e-6)
            assert beams.columns[name].unit == unit
    assert header["BUNIT"] == "Jy/beam" and u.Unit(header["BUNIT"]) == u.Jy / u.beam
    assert header["CASAMBM"] is True and "DATE" not in header
    wcs = WCS(header)
    assert wcs.wcs.restfrq == REST
    assert wcs.wcs.specsys == {"LSRK": "LSRK", "BARY": "BARYCENT", "TOPO": "TOPOCENT"}[frame]
    world = wcs.wcs_pix2world([[NX // 2, NY // 2, 3]], 0)[0]
    np.testing.assert_allclose(world, [59.99983333, -34.99986111, cube.freq[3]], rtol=1e-12)
    # The PSF is centred where the image is.
    psf = WCS(fits.getheader(tmp_path / "field" / "psf.fits"))
    np.testing.assert_allclose(psf.wcs_pix2world([[NX, NY, 3]], 0)[0], world, rtol=1e-12)
    assert fits.getheader(tmp_path / "field" / "pb.fits")["NAXIS1"] == NX
    assert read_cube(tmp_path / "field").frame == frame


@pytest.mark.casa
def test_what_casa_reads(cube: Cube, tmp_path: Path) -> None:
    casatools = pytest.importorskip("casatools")
    write_cube(cube, tmp_path / "field")
    tool = casatools.image()
    try:
        assert tool.open(str(tmp_path / "field" / "dirty.fits"))
        assert list(tool.shape()) == [NX, NY, NCHAN]
        assert tool.brightnessunit() == "Jy/beam"
        pixels, mask = tool.getchunk().T, tool.getchunk(getmask=True).T
        np.testing.assert_array_equal(mask, np.isfinite(cube.data))
        np.testing.assert_array_equal(pixels[mask], cube.data[mask])
        beams = tool.restoringbeam()
        assert beams["nChannels"] == NCHAN
        for chan in range(NCHAN):
            beam = beams["beams"][f"*{chan}"]["*0"]
            found = [beam[name]["value"] for name in ("major", "minor", "positionangle")]
            np.testing.assert_allclose(found, cube.beams[chan], rtol=1e-5)
            assert (beam["major"]["unit"], beam["positionangle"]["unit"]) == ("arcsec", "deg")
        csys = tool.coordsys()
        try:
            assert csys.referencecode("direction") == ["ICRS"]
            assert csys.referencecode("spectral") == ["LSRK"]
            assert csys.restfrequency()["value"] == pytest.approx(REST)
            assert csys.telescope() == "ALMA"
            world = csys.toworld([NX // 2, NY // 2, 3], "n")["numeric"]
            assert np.degrees(world[:2]) % 360.0 == pytest.approx([59.99983333, 360.0 - 34.99986111])
            assert world[2] == pytest.approx(cube.freq[3], rel=1e-14)
            corner = csys.toworld([0, 0, 0], "n")["numeric"]
        finally:
            csys.done()
        expected = cube.wcs.wcs_pix2world([[0, 0]], 0)[0]
        np.testing.assert_allclose(np.degrees(corner[:2]) % 360.0, expected % 360.0, rtol=1e-10)
    finally:
        tool.done()


@pytest.mark.casa
def test_the_task_takes_a_generated_folder(cube: Cube, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """sdeepfocus reads the cube that was written; the search itself is stood in for."""
    pytest.importorskip("casatools")
    from test_task import _blank

    from casa_deepfocus import pipeline
    from casa_deepfocus.casa import task_sdeepfocus
    from casa_deepfocus.models import runner

    seen: list[Cube] = []

    def run(cube, networks, options, *, log, progress):
        seen.append(cube)
        return _blank(cube)

    monkeypatch.setattr(pipeline, "run", run)
    monkeypatch.setattr(
        runner, "load_networks", lambda *_: SimpleNamespace(info={"preset": "none", "device": "cpu", "threads": 1})
    )
    write_cube(cube, tmp_path / "field")
    names = {name: str(tmp_path / "field" / f"{name}.fits") for name in ("dirty", "psf", "pb")}
    task_sdeepfocus.sdeepfocus(imagename=names["dirty"], psf=names["psf"], pb=names["pb"], outfile="out")
    same(seen[0], cube)
    assert Path("out.cat.ecsv").is_file()


def archive(cube: Cube, path: Path, axes: str, **cards: object) -> Path:
    """An image as archives keep them: extra axes in any order, 3 Stokes planes of which I is the third."""
    header = cube_header(cube, cube.shape, "Jy/beam")
    keys = ("CTYPE", "CRPIX", "CRVAL", "CDELT", "CUNIT")
    own = {axis: {key: header[f"{key}{axis}"] for key in keys} for axis in (1, 2, 3)}
    data = cube.data[None] * np.array([-2.0, -1.0, 1.0], np.float32)[:, None, None, None]
    stokes = {"CTYPE": "STOKES", "CRPIX": 3.0, "CRVAL": 1.0, "CDELT": -1.0, "CUNIT": ""}
    kinds = {"x": (own[1], 3), "y": (own[2], 2), "f": (own[3], 1), "s": (stokes, 0)}
    for number, axis in enumerate(axes, 1):
        for key, value in kinds[axis][0].items():
            header[f"{key}{number}"] = value
    header["WCSAXES"] = 4
    header.update(cards)
    fits.writeto(path, data.transpose([kinds[axis][1] for axis in reversed(axes)]), header)
    return path


@pytest.mark.parametrize("axes", ["xysf", "xyfs", "fxys"])
def test_archive_images(cube: Cube, tmp_path: Path, axes: str) -> None:
    path = archive(cube, tmp_path / "x.image.fits", axes, BUNIT="mJy/beam")
    write_cube(cube, tmp_path / "field")
    (tmp_path / "field" / "psf.fits").rename(tmp_path / "x.psf.fits")
    (tmp_path / "field" / "pb.fits").rename(tmp_path / "x.pb.fits")
    back = read_cube(path)
    np.testing.assert_allclose(back.data, cube.data * np.float32(1e-3), rtol=1e-6)
    # One beam for all channels: that of the header.
    same(replace(back, data=cube.data), replace(cube, beams=np.tile(cube.beams[NCHAN // 2], (NCHAN, 1))))


def test_radio_velocities_and_other_units(cube: Cube, tmp_path: Path) -> None:
    velocities = 1e3 * C_KMS * (1.0 - cube.freq / REST)
    path = archive(
        cube, tmp_path / "x.fits", "xysf", CTYPE4="VRAD", CUNIT4="km/s", CRVAL4=velocities[0] / 1e3,
        CDELT4=(velocities[1] - velocities[0]) / 1e3,
    )  # fmt: skip
    back = read_cube(path)
    np.testing.assert_allclose(back.freq, cube.freq, rtol=1e-12)
    # Neither PSF nor primary beam beside it: what stands in for them says so.
    assert not back.psf_is_measured and back.psf.shape == (1, 2 * NY, 2 * NX)
    assert back.pb.shape == (1, NY, NX) and np.all(back.pb == 1.0)
    path = archive(cube, tmp_path / "y.fits", "xysf", CUNIT4="GHz", CRVAL4=cube.freq[0] / 1e9, CDELT4=-0.01)
    np.testing.assert_allclose(read_cube(path).freq, cube.freq, rtol=1e-12)


def test_a_continuum_image_and_a_beam_from_the_psf(cube: Cube, tmp_path: Path) -> None:
    header = cube.wcs.to_header()
    header["BUNIT"] = "Jy/beam"
    fits.writeto(tmp_path / "dirty.fits", cube.data[0], header)
    with pytest.raises(DataError, match="neither a restoring beam in its header nor a PSF"):
        read_cube(tmp_path / "dirty.fits")
    fits.writeto(tmp_path / "psf.fits", cube.psf[0], cube_header(cube, cube.psf.shape[1:], ""))
    back = read_cube(tmp_path)
    assert not back.spectral and back.data.shape == (1, NY, NX)
    np.testing.assert_allclose(back.beam_covariance(), cube.beam_covariances()[0], rtol=0.02)


def test_channels_without_data(cube: Cube, tmp_path: Path) -> None:
    """tclean leaves zeros, a beam of zero and no PSF in a channel that is flagged."""
    data, beams, psf = cube.data.copy(), cube.beams.copy(), cube.psf.copy()
    data[2], beams[2], psf[2] = 0.0, np.nan, 0.0
    write_cube(replace(cube, data=data, beams=beams, psf=psf), tmp_path / "field")
    assert fits.getdata(tmp_path / "field" / "dirty.fits", "BEAMS")["BMAJ"][2] == 0.0
    back = read_cube(tmp_path / "field")
    assert np.isnan(back.data[2]).all() and np.isfinite(back.data[3]).any()
    assert back.beams[2] == pytest.approx(back.beams[1], rel=1e-6)
    np.testing.assert_array_equal(back.psf[2], back.psf[1])


def edit(path: Path, **cards: object) -> None:
    with fits.open(path, mode="update") as units:
        units[0].header.update(cards)


@pytest.mark.parametrize(
    ("name", "cards", "message"),
    [
        ("dirty", {"BUNIT": "K"}, "in 'K'; an image in Jy/beam"),
        ("dirty", {"CTYPE1": "OFFSET", "CTYPE2": "OTHER"}, "no sky axes"),
        ("dirty", {"CDELT1": -2e-4}, "not square"),
        ("dirty", {"CDELT1": 1e-4, "CDELT2": 1e-4}, "not at the image's place on the sky"),
        ("dirty", {"CTYPE3": "VOPT", "CUNIT3": "m/s"}, "the pb .* has 5 channels, 230.6"),
        ("psf", {"CDELT1": -2e-4, "CDELT2": 2e-4}, "pixels of 0.72 arcsec, the image 0.36"),
    ],
)
def test_images_that_cannot_be_used(cube: Cube, tmp_path: Path, name: str, cards: dict, message: str) -> None:
    write_cube(cube, tmp_path / "field")
    edit(tmp_path / "field" / f"{name}.fits", **cards)
    with pytest.raises(DataError, match=message):
        read_cube(tmp_path / "field")


def test_images_that_do_not_fit(cube: Cube, tmp_path: Path) -> None:
    write_cube(cube, tmp_path / "field")
    short = replace(
        cube, data=cube.data[:3], psf=cube.psf[:3], pb=cube.pb[:3], freq=cube.freq[:3], beams=cube.beams[:3]
    )
    write_cube(short, tmp_path / "short")
    dirty = tmp_path / "field" / "dirty.fits"
    with pytest.raises(DataError, match="psf.fits' has 3 channels, .* the image 5"):
        read_cube(dirty, psf=tmp_path / "short" / "psf.fits")
    with pytest.raises(ParameterError, match=r"has 3 x 24 x 32 pixels \(chan, y, x\), the image 5 x 24 x 32"):
        read_cube(dirty, pb=tmp_path / "short" / "pb.fits")
    with pytest.raises(ParameterError, match="is the same file as imagename"):
        read_cube(dirty, psf=tmp_path / "field" / "dirty.fits")
    (tmp_path / "text.fits").write_text("no FITS")
    for path in (tmp_path / "text.fits", tmp_path / "nothing.fits"):
        with pytest.raises(DataError, match="is no FITS file"):
            read_cube(path)
    dirty.write_bytes(dirty.read_bytes()[:6000])
    with pytest.raises(DataError, match="is damaged or ends too early"):
        read_cube(tmp_path / "field")
    fits.HDUList([fits.PrimaryHDU()]).writeto(tmp_path / "empty.fits")
    with pytest.raises(DataError, match="without an image"):
        read_cube(tmp_path / "empty.fits")
    shifted = archive(cube, tmp_path / "quv.fits", "xysf", CRVAL3=2.0)
    with pytest.raises(DataError, match="and no I"):
        read_cube(shifted)
