"""Products of one result read by those who use them, and compared with its catalogue; the report's own promises."""

from __future__ import annotations

import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from astropy import units as u
from astropy.io import fits
from astropy.io.votable import parse
from astropy.table import Table
from astropy.wcs import WCS
from scipy import ndimage

from benchmarks.report import HOSTILE, NOISE, planted_on
from casa_deepfocus.core.catalogue import build
from casa_deepfocus.core.component import Component
from casa_deepfocus.core.cube import Cube
from casa_deepfocus.core.geometry import FWHM_PER_SIGMA
from casa_deepfocus.core.psf import gaussian_psf
from casa_deepfocus.pipeline.residual import residual
from casa_deepfocus.products import fitsimages, panels, report, tables, writing
from casa_deepfocus.products.modelparts import parts_of
from casa_deepfocus.products.moments import moments

NPIX, NCHAN, CELL, BEAM = 96, 24, 0.1, 0.5
RUN = report.Run(("in.fits",), call="sdeepfocus(imagename='in.fits')", warnings=(HOSTILE,))


def empty_cube(seed: int = 5) -> Cube:
    """Noise of a Gaussian beam of 5 pixels."""
    rng = np.random.default_rng(seed)
    sigma = BEAM / CELL / FWHM_PER_SIGMA
    # White noise through the root of the beam's transform has the beam as its correlation.
    noise = np.array([ndimage.gaussian_filter(rng.standard_normal((NPIX, NPIX)), sigma / 2**0.5) for _ in range(NCHAN)])
    wcs = WCS(naxis=2)
    wcs.wcs.ctype, wcs.wcs.crval, wcs.wcs.crpix = ["RA---SIN", "DEC--SIN"], [150.0, -20.0], [NPIX / 2, NPIX / 2]
    wcs.wcs.cdelt, wcs.wcs.radesys = [-CELL / 3600, CELL / 3600], "ICRS"
    beams = np.tile([BEAM, BEAM, 0.0], (NCHAN, 1))
    freq = 230.538e9 + 5e6 * (np.arange(NCHAN) - NCHAN / 2)
    return Cube(
        data=(NOISE * noise / noise.std()).astype(np.float32), psf=gaussian_psf(beams[:1], CELL, (2 * NPIX, 2 * NPIX)),
        pb=np.ones((1, NPIX, NPIX), np.float32), freq=freq, beams=beams, cell=CELL, wcs=wcs, restfreq=230.538e9,
        meta={"radesys": "ICRS"},
    )  # fmt: skip


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """(prefix, result, cube, left, lines) of ten sources as FITS products."""
    folder = tmp_path_factory.mktemp("products")
    cube, result = planted_on(empty_cube(), 10, np.random.default_rng(3))
    left, lines = residual(cube, result), moments(cube, result)
    writing.write_texts(folder, "out", result, cube, RUN, left, lines)
    writing.write_fits(folder, "out", result, cube, RUN, left, lines)
    writing.write_cutouts(folder, "out", result, cube, RUN, left)
    return folder / "out", result, cube, left, lines


def test_the_three_catalogues_are_one(written):
    prefix, result, *_ = written
    known = result.catalogue
    parse(f"{prefix}.cat.vot", verify="exception")
    for name, kind in ((".cat.ecsv", "ascii.ecsv"), (".cat.vot", "votable"), (".cat.fits", "fits")):
        table = Table.read(f"{prefix}{name}", format=kind)
        assert table.colnames == known.colnames
        for column in known.colnames:
            if known[column].dtype.kind == "f":
                values = np.ma.filled(table[column].astype(float), np.nan)
                np.testing.assert_allclose(values, np.asarray(known[column]), rtol=1e-12, err_msg=column)
                assert (table[column].unit or "") == (known[column].unit or "")
    with fits.open(f"{prefix}.cat.fits") as hdus:
        hdus.verify("exception")
        assert hdus[0].header["ORIGIN"] == "casa_deepfocus"
        assert hdus[1].header[f"TUCD{known.colnames.index('ra') + 1}"] == "pos.eq.ra;meta.main"


def test_moments_hold_what_the_catalogue_says(written):
    """Of a bright and lonely line, moment 0 sums to its flux, moment 1 is its velocity, and moment 2 its width."""
    _, _, cube, *_ = written
    part = Component(48.0, 47.0, np.array([4.0, 4.0, 0.0]), amp=0.2, chan=11.0, fwhm=5.0)
    cube, result = _with(part)
    lines = moments(cube, result)
    row = result.catalogue[0]
    area = np.pi * (BEAM / CELL) ** 2 / (4 * np.log(2))
    assert np.nansum(lines.total) / area == pytest.approx(row["line_flux"], rel=0.06), "the mask holds 96 %"
    assert lines.unit == "km/s" and lines.centre[47, 48] == pytest.approx(row["velocity"], abs=1.0)
    assert lines.width[47, 48] * FWHM_PER_SIGMA == pytest.approx(row["line_fwhm"], rel=0.15)
    unknown = moments(replace(cube, restfreq=0.0), result)
    assert unknown.unit == "Hz" and unknown.centre[47, 48] == pytest.approx(row["freq"], rel=1e-5)
    assert moments(cube, replace(result, components=[])) is None


def test_moments_are_without_the_continuum(written):
    """A bright and sloping continuum, at the end of a band, leaves the line's moments as they are."""
    part = Component(
        48.0, 47.0, np.array([4.0, 4.0, 0.0]), amp=0.2, chan=17.0, fwhm=4.0, cont=0.3, slope=0.004, has_cont=True,
        has_slope=True, snr_cont=900.0,
    )  # fmt: skip
    cube, result = _with(part)
    row, lines = result.catalogue[0], moments(cube, result)
    area = np.pi * (BEAM / CELL) ** 2 / (4 * np.log(2))
    assert np.nansum(lines.total) / area == pytest.approx(row["line_flux"], rel=0.06)
    assert lines.centre[47, 48] == pytest.approx(row["velocity"], abs=1.0)
    assert np.isnan(lines.without_continuum[0]).all() and np.isfinite(lines.without_continuum[10:]).all()


def _with(part: Component):
    """A cube with one source, and its result."""
    cube, result = planted_on(empty_cube(), 0, np.random.default_rng(3))
    left = residual(
        cube, replace(result, components=[replace(part, amp=-part.amp, cont=-part.cont, slope=-part.slope)])
    )
    table = build([part], [1.0], cube)
    tables.complete(table, cube.frame, cube.restfreq)
    return replace(cube, data=left), replace(result, catalogue=table, components=[part])


def test_moments_are_read_by_spectral_cube_and_astropy(written):
    prefix, _, cube, left, lines = written
    for ending, image, unit in lines.images:
        with fits.open(f"{prefix}.{ending}.fits") as hdus:
            np.testing.assert_array_equal(hdus[0].data, image)
            assert u.Unit(hdus[0].header["BUNIT"], format="fits") == u.Unit(unit)
    spectral_cube = pytest.importorskip("spectral_cube")
    read = spectral_cube.SpectralCube.read(f"{prefix}.residual.fits")
    assert read.shape == cube.data.shape and read.unit == u.Unit("Jy/beam")
    np.testing.assert_array_equal(read.unmasked_data[:].value.astype(np.float32), left)


def test_each_source_is_a_file(written):
    prefix, result, cube, left, _ = written
    files = sorted(Path(f"{prefix}.cutouts").iterdir())
    assert len(files) == len(result.catalogue)
    for row, detail in zip(result.catalogue, result.details, strict=True):
        (path,) = [path for path in files if path.name.startswith(f"{row['id']}_")]
        assert re.fullmatch(r"[A-Za-z0-9+_.-]+", path.name)
        with fits.open(path) as hdus:
            hdus.verify("exception")
            assert [hdu.name for hdu in hdus[1:]] == ["DATA", "MODEL", "RESIDUAL", "SPECTRUM"]
            x, y = WCS(hdus["DATA"].header).celestial.wcs_world2pix([[row["ra"], row["dec"]]], 0)[0]
            here = hdus["DATA"].data[:, round(y), round(x)]
            np.testing.assert_array_equal(here, cube.data[:, round(row["y"]), round(row["x"])])
            both = hdus["MODEL"].data + hdus["RESIDUAL"].data
            np.testing.assert_allclose(both, hdus["DATA"].data, atol=1e-6)
            np.testing.assert_array_equal(hdus["SPECTRUM"].data["flux"], detail.spectrum)
            np.testing.assert_array_equal(hdus["SPECTRUM"].data["freq"], cube.freq)


def test_every_gaussian_of_the_model_is_a_part(written):
    _, result, cube, *_ = written
    parts = parts_of(result, cube)
    discs = np.asarray(result.catalogue["profile"]) == "exponential"
    assert discs.any() and len(parts) == len(result.catalogue) + 3 * discs.sum()
    for row in result.catalogue:
        mine = parts[np.asarray(parts["name"]) == row["name"]]
        assert mine["line_flux"].sum() == pytest.approx(row["line_flux"], rel=1e-4)
        weight = np.asarray(mine["line_flux"] if row["line_flux"] else mine["continuum"])
        moment = np.sum(weight * np.asarray(mine["fwhm_maj"]) ** 2) / weight.sum()
        assert moment == pytest.approx(float(row["fwhm_maj"]) ** 2, rel=1e-2), "second moments stay"


def test_a_continuum_that_is_noise_is_no_component():
    part = Component(48.0, 47.0, np.zeros(3), amp=0.05, chan=11.0, fwhm=5.0, cont=1e-4, has_cont=True, snr_cont=1.2)
    cube, result = _with(part)
    assert np.isnan(parts_of(result, cube)["continuum"][0])
    complex_of = result.catalogue.copy()
    complex_of["profile"], complex_of["name"] = "complex", "whole"
    both = replace(result, catalogue=complex_of, components=[part, replace(part, x=49.0, chan=13.0)])
    assert list(parts_of(both, cube)["name"]) == ["whole", "whole"]


@pytest.mark.casa
def test_components_hold_what_the_parts_say(tmp_path):
    """A line has its flux at its brightest channel, absorption too; a disc is four components."""
    pytest.importorskip("casatools")
    from casatools import componentlist

    from casa_deepfocus.casa import products

    cube, result = planted_on(empty_cube(), 10, np.random.default_rng(3))
    result.components[0].amp *= -1.0
    parts = parts_of(result, cube)
    products.write_components(str(tmp_path / "out.cl"), parts, cube)
    cl = componentlist()
    cl.open(str(tmp_path / "out.cl"))
    fluxes = sorted(float(cl.getfluxvalue(number)[0]) for number in range(cl.length()))
    cl.done()
    expected = [float(value) for value in parts["continuum"] if value > 0]
    for row in parts:
        if np.isfinite(row["chan"]):
            profile = products.line_profile(cube.freq, row)
            expected.append(float(profile[np.argmax(np.abs(profile))]))
    np.testing.assert_allclose(fluxes, sorted(expected), rtol=1e-6)
    assert fluxes[0] < 0


class Reader(HTMLParser):
    """What is open, and the texts of cells."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []
        self.scripts = 0

    def handle_starttag(self, tag, attrs):
        self.names.append(tag)
        self.scripts += tag == "script"


def test_the_report_says_how_well_and_escapes_what_it_is_told(written):
    prefix, result, *_ = written
    page = Path(f"{prefix}.html").read_text(encoding="utf-8")
    reader = Reader()
    reader.feed(page)
    assert reader.scripts == 1, "only the one that sorts"
    assert "<script>alert" not in page and "&lt;script&gt;alert" in page
    assert {"thead", "caption", "main", "figcaption"} <= set(reader.names)
    assert "rms of" in page and "listed from" in page and page.count("Residual: rms") == 2 * (1 + len(result.catalogue))
    assert "Moment 0" in page and "Moment 1" in page and "Cut along the major axis" in page
    keys = re.findall(r'<tr><td data-key="(\d+)">', page)
    assert keys == [str(number) for number in result.catalogue["id"]]


def test_numbers_on_the_map_do_not_overlap():
    cube, result = planted_on(empty_cube(), 60, np.random.default_rng(4))
    figure = report.field_figure(result, cube)
    drawn = figure.axes[0].texts
    assert len(drawn) > 10 and {text.get_text() for text in drawn} <= {str(n) for n in result.catalogue["id"]}
    extents = [text.get_window_extent() for text in drawn]
    assert not any(one.overlaps(other) for at, one in enumerate(extents) for other in extents[:at])


def test_a_crowd_is_a_table_and_the_brightest_have_pictures(tmp_path, monkeypatch):
    monkeypatch.setattr(report, "PICTURES", 3)
    cube, result = planted_on(empty_cube(), 12, np.random.default_rng(4))
    report.write(tmp_path / "many", result, cube, RUN, residual(cube, result))
    page = (tmp_path / "many.html").read_text(encoding="utf-8")
    assert page.count("<section") == 3 and page.count('<tr><td data-key="') == 12 and "9 more are in the table" in page


def test_stretch_and_thinning():
    image = np.array([[-9.0, 0.0], [3.0, 100.0]])
    levels = panels.grey(image, -3.0, 100.0)
    assert levels[0, 0] == 255 and levels[1, 1] == panels.DARKEST and levels[0, 1] > levels[1, 0]
    large = np.zeros((panels.MOST + 10, 20))
    large[300, 7] = -5.0
    assert panels.thinned(large).shape[0] <= panels.MOST and panels.thinned(large).min() == -5.0
    assert fitsimages.plain("a\u202eb\n") == "a\\u202eb?"
