"""Products read back by those who use them: CASA's tools, tclean, astropy and regions; all or none written."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from astropy import units as u
from astropy.coordinates import SkyCoord
from astropy.io import fits
from astropy.table import Table
from casa_fixtures import CHAN_WIDTH, FREQ0, NCHAN, TRUTH, make_result, with_lines, without_sources
from fake_paper_networks import PaperFilters

from casa_deepfocus import pipeline
from casa_deepfocus.core.cube import C_KMS

pytest.importorskip("casatools")
from casa_deepfocus.casa import images, products  # noqa: E402
from casa_deepfocus.products import fitsimages, report, tables, velocity  # noqa: E402
from casa_deepfocus.products import regions as regions_of  # noqa: E402

pytestmark = pytest.mark.casa

REST = FREQ0 + 3.5 * CHAN_WIDTH
"""Rest frequency [Hz] of the velocities."""
pytest_plugins = ["casa_fixtures"]


@pytest.fixture(scope="module")
def written_once(tiny_images, tmp_path_factory):
    """(folder, result, cube) of products of the tiny cube and a hand-made result."""
    folder = tmp_path_factory.mktemp("products")
    cube, template = images.read_cube(f"{tiny_images}.image")
    result = make_result(cube)
    tables.complete(result.catalogue, cube.frame, REST)
    products.write_all(folder, "out", result, cube, template, report.Run(("tiny.image",), call="sdeepfocus(test)"))
    return folder, result, cube


@pytest.fixture
def written(written_once, tmp_path):
    """(prefix, result, cube) of a copy of these products, in the current folder."""
    folder, result, cube = written_once
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    return tmp_path / "out", result, cube


def names(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir())


def test_both_catalogues_hold_the_same_table(written):
    prefix, result, _ = written
    ecsv = Table.read(f"{prefix}.cat.ecsv", format="ascii.ecsv")
    vot = Table.read(f"{prefix}.cat.vot", format="votable")
    assert ecsv.meta["frame"] == "LSRK" and "LSRK" in str(vot.meta)
    for table in (ecsv, vot):
        assert table.colnames == result.catalogue.colnames
        for name in ("ra", "dec", "freq", "line_flux", "continuum", "snr"):
            np.testing.assert_allclose(
                np.ma.filled(table[name].astype(float), np.nan), np.asarray(result.catalogue[name]), rtol=1e-12
            )  # fmt: skip
        assert list(table["name"]) == ["S1", "S2", "S3"]


def test_regions_are_read_by_casa_and_select_the_line(written, tiny_images):
    from casatasks import imstat
    from casatools import regionmanager

    prefix, result, cube = written
    rg = regionmanager()
    with images.opened(f"{tiny_images}.image") as ia:
        regions = rg.fromtextfile(f"{prefix}.crtf", ia.shape(), ia.coordsys().torecord())
    rg.done()
    assert regions
    lines = [line for line in Path(f"{prefix}.crtf").read_text().splitlines() if not line.startswith("#")]
    for row, line in zip(result.catalogue, lines, strict=True):
        stats = imstat(f"{tiny_images}.image", region=line)
        x, y = (0.5 * (stats["blc"][axis] + stats["trc"][axis]) for axis in (0, 1))
        assert np.hypot(x - row["x"], y - row["y"]) <= 1.0
        assert (stats["blc"][3], stats["trc"][3]) == (row["chan0"], row["chan1"])
        assert np.isfinite(stats["flux"][0])
        box = stats["trc"][:2] - stats["blc"][:2]
        maj, minor, _ = (v[row.index] for v in regions_of.observed_shapes(result.catalogue, cube))
        assert 2 * minor / cube.cell - 2 <= box.min() and box.max() <= 2 * maj / cube.cell + 2


def test_the_whole_region_file_is_one_mask_for_casa(written, tiny_images):
    from casatasks import imsubimage

    prefix, result, _ = written
    imsubimage(f"{tiny_images}.image", outfile="cut.image", region=f"{prefix}.crtf")
    with images.opened("cut.image") as ia:
        good = ia.getchunk(getmask=True)
    assert 0.01 < good.mean() < 0.9


def test_an_ellipse_is_turned_as_the_source_is(written, tiny_images):
    """North through east: the region of an elongated source holds the pixels along its major axis."""
    prefix, result, cube = written
    table = result.catalogue[:1].copy()
    table["fwhm_maj"], table["fwhm_min"], table["pa"] = 12.0, 0.0, 40.0
    Path("one.crtf").write_text(regions_of.crtf(table, cube))
    from casatasks import imsubimage

    imsubimage(f"{tiny_images}.image", outfile="one.image", region="one.crtf")
    with images.opened("one.image") as ia:
        good = ia.getchunk(getmask=True).any(axis=(2, 3))
        corner = ia.coordsys().toworld([0, 0, 0, 0])["numeric"]
        shape = good.shape
        middle = ia.topixel([*np.radians(TRUTH[0].radec), 1.0, FREQ0])["numeric"][:2]
    x, y = np.nonzero(good)
    east, north = -(x - middle[0]), y - middle[1]
    assert corner.size == 4 and min(shape) > 10
    assert np.cov(east, north)[0, 1] > 0.2 * np.sqrt(np.var(east) * np.var(north))


def test_regions_are_read_by_the_regions_package(written):
    regions = pytest.importorskip("regions")
    prefix, result, cube = written
    parsed = regions.Regions.read(f"{prefix}.crtf", format="crtf")
    maj, minor, pa = regions_of.observed_shapes(result.catalogue, cube)
    assert len(parsed) == len(TRUTH)
    for number, (region, source) in enumerate(zip(parsed, TRUTH, strict=True)):
        assert region.center.separation(SkyCoord(*source.radec, unit="deg", frame="fk5")).arcsec < 0.01
        sizes = sorted((region.width.to_value("arcsec"), region.height.to_value("arcsec")))
        assert sizes == pytest.approx([2 * minor[number], 2 * maj[number]], rel=1e-4)


def test_components_are_read_by_casa(written):
    from casatools import componentlist

    prefix, result, _ = written
    cl = componentlist()
    cl.open(f"{prefix}.cl")
    assert cl.length() == 4
    labels = [cl.getlabel(i) for i in range(4)]
    assert labels == ["S1", "S1", "S2", "S3"]
    shapes = [cl.shapetype(i).lower() for i in range(4)]
    assert shapes == ["gaussian", "gaussian", "point", "gaussian"]
    for index, source in ((0, TRUTH[0]), (2, TRUTH[1]), (3, TRUTH[2])):
        direction = cl.getrefdir(index)
        place = SkyCoord(direction["m0"]["value"], direction["m1"]["value"], unit="rad")
        assert place.separation(SkyCoord(*source.radec, unit="deg")).arcsec < 1e-3
    assert cl.getspectrum(0)["type"].lower() == cl.getspectrum(2)["type"].lower() == "tabular spectrum"
    assert cl.getfluxvalue(1)[0] == pytest.approx(TRUTH[0].continuum)
    assert cl.getfluxvalue(3)[0] == pytest.approx(TRUTH[2].continuum)
    shape = cl.getshape(0)
    size, angle = shape["majoraxis"], shape["positionangle"]
    assert u.Quantity(size["value"], size["unit"]).to_value("arcsec") == pytest.approx(1.5)
    assert u.Quantity(angle["value"], angle["unit"]).to_value("deg") == pytest.approx(30.0)
    cl.done()


def test_the_component_list_predicts_the_visibilities(written, tiny_ms):
    """CASA's own `ft` turns the component list back into the planted spectra."""
    from casatasks import ft
    from casatools import table

    prefix, result, cube = written
    shapes = result.catalogue.copy()
    for name in ("fwhm_maj", "fwhm_min"):
        shapes[name] = 0.0
    shutil.copytree(tiny_ms, "model.ms")
    for row, source in zip(shapes, TRUTH, strict=True):
        shutil.rmtree("one.cl", ignore_errors=True)
        products.write_components("one.cl", shapes[row.index : row.index + 1], cube)
        ft("model.ms", complist="one.cl", usescratch=True)
        tb = table()
        tb.open("model.ms")
        amplitude = np.abs(tb.getcol("MODEL_DATA")).mean(axis=(0, 2))
        tb.close()
        np.testing.assert_allclose(amplitude, source.spectrum(), atol=0.01 * source.spectrum().max())


def test_the_line_profile_keeps_its_flux(written):
    _, result, _ = written
    row = result.catalogue[0]
    freq = FREQ0 + CHAN_WIDTH * np.arange(-200, 200) / 10
    kms = CHAN_WIDTH / 10 / row["freq"] * C_KMS
    assert products.line_profile(freq, row).sum() * kms == pytest.approx(row["line_flux"], rel=1e-3)


def test_the_mask_is_one_that_tclean_takes(written, tiny_ms):
    from casatasks import tclean

    prefix, result, cube = written
    with images.opened(f"{prefix}.mask") as ia:
        assert list(ia.shape()) == [64, 48, 1, NCHAN]
        np.testing.assert_array_equal(ia.getchunk()[:, :, 0].transpose(2, 1, 0), result.mask)
        assert any("sdeepfocus(test)" in line for line in ia.history(list=False))
    assert 0.01 < result.mask.mean() < 0.5
    tclean(
        vis=str(tiny_ms), imagename="cleaned", datacolumn="data", specmode="cube", imsize=[64, 48], cell="0.5arcsec",
        outframe="LSRK", weighting="natural", niter=20, gain=0.2, pblimit=0.1, usemask="user", mask=f"{prefix}.mask",
        restoration=False, calcres=True, calcpsf=True,
    )  # fmt: skip
    with images.opened("cleaned.model") as ia:
        model = ia.getchunk()[:, :, 0].transpose(2, 1, 0)
    assert model.sum() > 0.1
    assert not model[~result.mask].any()


def test_the_probability_map_has_the_sky(written):
    prefix, result, cube = written
    with images.opened(f"{prefix}.prob") as ia:
        np.testing.assert_array_equal(ia.getchunk().T, result.probability)
        row = result.catalogue[1]
        pixel = ia.topixel([np.radians(row["ra"]), np.radians(row["dec"])])["numeric"]
    assert pixel == pytest.approx([row["x"], row["y"]], abs=1e-3)


def test_the_report_stands_alone(written):
    prefix, _, _ = written
    page = Path(f"{prefix}.html").read_text()
    # The field four times as a panel, each source three times: data, model and residual on one stretch.
    assert page.count("data:image/png;base64,") == 1 + 4 + 3 * len(TRUTH)
    assert not re.search(r"(src|<image [^>]*href)=\"(?!data:)", page)
    links = re.findall(r"<a [^>]*href=\"([^\"#]+)\"", page)
    assert links and all((prefix.parent / link).exists() for link in links), "the files beside it, and nothing else"
    assert page.count('scope="row"') > len(TRUTH) and 'alt=""' not in page and page.count("alt=") == page.count("<img")
    assert page.count('role="img" aria-label="') == page.count("<svg") == page.count("<figcaption>")
    assert all(f">{name}</a>" in page for name in ("S1", "S2", "S3"))
    assert "3 sources: 2 with a line, 1 in the continuum only" in page
    assert Path(f"{prefix}.png").read_bytes()[:4] == b"\x89PNG"


def test_nothing_found_writes_a_valid_and_empty_set(tiny_images, tmp_path):
    cube, template = images.read_cube(f"{tiny_images}.image")
    result = without_sources(make_result(cube))
    tables.complete(result.catalogue, cube.frame, REST)
    products.write_all(tmp_path, "none", result, cube, template)
    endings = (
        ".cat.ecsv", ".cat.fits", ".cat.vot", ".html", ".json", ".mask", ".model", ".noise", ".png", ".prob",
        ".residual",
    )  # fmt: skip
    assert names(tmp_path) == [f"none{ending}" for ending in endings]
    for suffix, kind in ((".cat.ecsv", "ascii.ecsv"), (".cat.vot", "votable")):
        table = Table.read(f"none{suffix}", format=kind)
        assert len(table) == 0 and table.colnames == result.catalogue.colnames
    with images.opened("none.mask") as ia:
        assert not ia.getchunk().any()
    assert "no source found" in Path("none.html").read_text()


@pytest.mark.parametrize("flow", ["paper", "decoras"])
def test_results_without_errors_are_written_too(tiny_images, tmp_path, flow):
    """The paper's flow gives no errors and no reliability: the same products, no 'nan' in the report's table."""
    cube, template = images.read_cube(f"{tiny_images}.image")
    result = pipeline.run(cube, PaperFilters(flow=flow))
    assert len(result.catalogue) > 0
    tables.complete(result.catalogue, cube.frame, REST)
    products.write_all(tmp_path, "out", result, cube, template)
    assert {"out.crtf", "out.cl", "out.mask", "out.html"} <= set(names(tmp_path))
    table = Table.read("out.cat.ecsv", format="ascii.ecsv")
    assert table.colnames == result.catalogue.colnames and np.isnan(table["x_err"]).all()
    assert ">nan<" not in Path("out.html").read_text()
    assert all("nan" not in line for line in tables.summary(result.catalogue)[:1])


def test_products_of_a_fits_input_are_casa_images_on_its_grid(tiny_images, tmp_path):
    with images.opened(f"{tiny_images}.image") as ia:
        ia.tofits(str(tmp_path / "in.fits"))
    cube, template = images.read_cube("in.fits")
    products.write_all(tmp_path, "fits", make_result(cube), cube, template)
    with images.opened("fits.mask") as ia:
        assert tuple(ia.shape()) == template.shape


def test_the_summary_has_a_line_for_every_source(written):
    _, result, _ = written
    lines = tables.summary(result.catalogue)
    assert len(lines) == 2 + len(TRUTH) and "10:00:00.000" in lines[2] and "unresolved" in lines[3]
    cells = dict(zip(re.split(r" {2,}", lines[0].strip()), re.split(r" {2,}", lines[3].strip()), strict=False))
    assert cells["continuum"] == "-" and cells["size"] == "point", "a source without continuum shows none"
    assert "more in the catalogue" in tables.summary(result.catalogue, limit=1)[-1]
    narrow = tables.summary(result.catalogue, width=80)
    assert max(map(len, narrow)) <= 100 and "line flux" in narrow[0] and "flags" not in narrow[0]


def test_errors_set_the_digits():
    assert tables.with_error(1.23456, 0.0123) == "1.235+-0.012"
    assert tables.with_error(1234.5, 67.0) == "1234+-67" and tables.with_error(1.5, float("nan")) == "1.5"
    assert tables.with_error(float("nan"), 1.0) == "-"


def test_ds9_reads_the_same_ellipses_as_casa(written):
    regions = pytest.importorskip("regions")
    prefix, result, cube = written
    parsed = regions.Regions.read(f"{prefix}.reg", format="ds9")
    maj, minor, pa = regions_of.observed_shapes(result.catalogue, cube)
    assert len(parsed) == len(TRUTH)
    for number, (region, row) in enumerate(zip(parsed, result.catalogue, strict=True)):
        assert region.center.separation(SkyCoord(row["ra"], row["dec"], unit="deg", frame="fk5")).arcsec < 1e-3
        assert region.width.to_value("arcsec") == pytest.approx(2 * maj[number], rel=1e-5)
        assert region.height.to_value("arcsec") == pytest.approx(2 * minor[number], rel=1e-5)
        turn = np.deg2rad(region.angle.to_value("deg") - 90.0 - pa[number])
        assert np.sin(turn) == pytest.approx(0.0, abs=1e-5)
        assert str(row["name"]) in region.meta["text"] and region.meta["text"].startswith(str(number + 1))


def test_velocities_are_those_of_astropy(written):
    _, result, _ = written
    table = result.catalogue
    line = np.isfinite(table["freq"])
    expected = (np.asarray(table["freq"][line]) * u.Hz).to_value(u.km / u.s, u.doppler_radio(REST * u.Hz))
    np.testing.assert_allclose(np.asarray(table["velocity"])[line], expected, rtol=1e-9, atol=1e-9)
    assert np.isnan(np.asarray(table["velocity"])[~line]).all()
    optical = velocity.velocity(table["freq"][line], REST, "optical")
    np.testing.assert_allclose(optical, C_KMS * (REST / np.asarray(table["freq"][line]) - 1.0), rtol=1e-9, atol=1e-6)


def test_every_column_of_the_votable_is_described(written):
    from astropy.io.votable import parse

    prefix, result, _ = written
    fields = parse(f"{prefix}.cat.vot", verify="exception").get_first_table().fields
    assert [field.name for field in fields] == result.catalogue.colnames and len(result.catalogue)
    assert all(field.description for field in fields)
    assert {field.name: field.ucd for field in fields}["ra"] == "pos.eq.ra;meta.main"


def test_model_and_residual_make_up_the_image(written, tiny_images):
    prefix, _, cube = written
    planes = []
    for kind in ("model", "residual"):
        with images.opened(f"{prefix}.{kind}") as ia:
            assert ia.brightnessunit() == "Jy/beam"
            planes.append(np.asarray(ia.getchunk())[:, :, 0].transpose(2, 1, 0))
    good = np.isfinite(cube.data)
    np.testing.assert_allclose((planes[0] + planes[1])[good], cube.data[good], atol=1e-6)


def test_sexagesimal_carries():
    assert tables.sexagesimal(359.9999999999, -0.0000000001) == ("00:00:00.000", "-00:00:00.00")
    assert tables.sexagesimal(231.0 - 1e-9, 59.9999999999) == ("15:24:00.000", "+60:00:00.00")


def test_a_cube_of_unknown_spectral_frame_has_regions_that_casa_reads(written):
    """CASA cannot go from a named frame to an unknown one: the region names none then."""
    from dataclasses import replace

    from casatools import regionmanager

    _, result, cube = written
    text = regions_of.crtf(result.catalogue, replace(cube, frame=""))
    assert "frame=" not in text and "range=" in text
    fits.PrimaryHDU(np.zeros((8, 48, 64), "f4"), fits.Header([
        ("CTYPE1", "RA---SIN"), ("CRVAL1", 150.0), ("CRPIX1", 33.0), ("CDELT1", -0.5 / 3600), ("CTYPE2", "DEC--SIN"),
        ("CRVAL2", -20.0), ("CRPIX2", 25.0), ("CDELT2", 0.5 / 3600), ("CTYPE3", "FREQ"), ("CRVAL3", FREQ0),
        ("CRPIX3", 1.0), ("CDELT3", CHAN_WIDTH), ("RADESYS", "FK5"), ("EQUINOX", 2000.0),
    ])).writeto("unknown.fits")  # fmt: skip
    rg = regionmanager()
    with images.opened("unknown.fits") as ia:
        csys = ia.coordsys()
        region = rg.fromtext(text.splitlines()[2], [64, 48, 8], csys.torecord())
        box = ia.boundingbox(region)
        csys.done()
        rg.done()
    assert box["trc"][2] > box["blc"][2] or box["bbShape"][2] >= 1


def test_moments_are_images_of_casa(tiny_images, tmp_path):
    cube, template = images.read_cube(f"{tiny_images}.image")
    result = with_lines(make_result(cube), cube)
    tables.complete(result.catalogue, cube.frame, cube.restfreq)
    products.write_all(tmp_path, "out", result, cube, template)
    row = result.catalogue[1]
    for ending, unit in (("mom0", "Jy/beam.km/s"), ("mom1", "km/s"), ("mom2", "km/s")):
        with images.opened(f"out.{ending}") as ia:
            assert ia.brightnessunit() == unit and tuple(ia.shape()) == cube.shape[::-1]
            plane, good = ia.getchunk().T, ia.getchunk(getmask=True).T
        assert 0.01 < good.mean() < 0.6
        if ending == "mom1":
            assert plane[round(row["y"]), round(row["x"])] == pytest.approx(
                row["velocity"], abs=cube.chan_width_kms(FREQ0)
            )


def test_the_noise_is_an_image(written):
    from dataclasses import replace

    prefix, result, cube = written
    with images.opened(f"{prefix}.noise") as ia:
        plane, unit = np.asarray(ia.getchunk()).T, ia.brightnessunit()
    assert unit == "Jy/beam" and plane.shape == cube.shape
    np.testing.assert_allclose(plane, np.nanmedian(result.noise), rtol=1e-6)
    ramp = np.tile(np.linspace(0.5, 2.0, cube.shape[1], dtype=np.float32), (cube.shape[0], 1))
    varying = fitsimages.noise_image(replace(result, noise_map=ramp))
    np.testing.assert_allclose(varying, np.nanmedian(result.noise) * ramp, rtol=1e-6)
