"""Pages of targets and of a run: whole with nothing, with much, with failures; nothing of a header gets into them."""

from __future__ import annotations

from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

import numpy as np
import pytest
from astropy.wcs import WCS
from target_fixtures import cube, row, sized

from casa_deepfocus.core.crossmatch import merge, write_tables

pytest.importorskip("casatools")
from casa_deepfocus.casa import sketch, targetreport  # noqa: E402
from casa_deepfocus.casa.sketch import Measured, Spectrum  # noqa: E402
from casa_deepfocus.casa.targetreport import CubeSummary, Picture, TargetPage  # noqa: E402
from casa_deepfocus.products import marks  # noqa: E402

pytestmark = pytest.mark.casa

HOSTILE = "<script>alert(1)</script> & \"'$\\frac{ \u202e\x00"


class Page(HTMLParser):
    """What a browser would see of a page."""

    def __init__(self, path: Path):
        super().__init__()
        self.tags, self.links, self.ids, self.text, self.open = [], [], [], "", []
        self.source = path.read_text(encoding="utf-8")
        self.feed(self.source)
        assert not self.open, "tags that are not closed"

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        values = dict(attrs)
        self.links += [values[name] for name in ("href", "src") if name in values]
        self.ids += [values["id"]] if "id" in values else []
        if tag not in ("meta", "br", "img"):
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)

    def handle_endtag(self, tag):
        assert self.open and self.open.pop() == tag, tag

    def handle_data(self, data):
        self.text += data


def wcs():
    out = WCS(naxis=2)
    out.wcs.ctype, out.wcs.crval, out.wcs.crpix = ["RA---SIN", "DEC--SIN"], [150.0, -30.0], [32.0, 32.0]
    out.wcs.cdelt = [-0.5 / 3600, 0.5 / 3600]
    return out


def target(folder, number=3, name="NGC 1", others=(), **values):
    """A target of sources in two windows, their products beside its page."""
    folder.mkdir()
    cubes, summaries, spectra = [], [], {}
    for label, freq0 in (("spw3", 90e9), ("spw25", 110e9)):
        rows = [row(3.0 * (at % 20) - 9.0, 3.0 * (at // 20), continuum=1e-3 * (freq0 / 1e11), snr=20.0 + at % 7,
                    line=(freq0 + 2e7, 80.0), **sized(1.0, 0.5, 20.0)) for at in range(number)]  # fmt: skip
        made = cube(label, rows, beam=(0.8, 0.6, 10.0), freq0=freq0, nchan=50)
        freq = freq0 + 1e6 * np.arange(50)
        for at in range(number):
            spectra[label, at] = Spectrum(freq, np.sin(freq / 1e7).astype("f4"), np.ones(50, "f4"))
        for ending in (".html", ".cat.ecsv", ".mask"):
            (folder / (label + ending)).touch()
        cubes.append(made)
        stem, band = folder / label, made.band
        summaries.append(CubeSummary(label, "done", "", stem, made.table, 1e-3, made.beam, band, 50, 75.0))
    merged = merge(cubes)
    write_tables(merged, folder)
    image = Picture(np.random.default_rng(1).normal(size=(64, 64)).astype("f4"), wcs(), "the continuum image")
    return TargetPage(name, folder, [*summaries, *others], merged, image, spectra, **values)


FAILED = CubeSummary("spw27", "failed", "all of its data are flagged <b>\nsecond line")
LEFT = CubeSummary("spw99", "left out", "one channel")


def test_a_target_has_its_tables_picture_spectra_and_links(tmp_path):
    page = Page(targetreport.write_target(target(tmp_path / "NGC_1", others=(FAILED, LEFT), notes=("a note",))))
    assert "3 sources, 6 lines; cubes: 2 done, 1 failed, 1 left out" in page.text
    assert "spw27 failed: all of its data are flagged <b>" in page.text
    assert "a note" in page.text and "the continuum image" in page.text
    files = [unquote(link) for link in page.links if not link.startswith(("data:", "#"))]
    products = {label + ending for label in ("spw3", "spw25") for ending in (".html", ".cat.ecsv", ".mask")}
    assert set(files) == products | {"sources.ecsv", "sources.vot", "lines.ecsv", "lines.vot"}
    assert all((tmp_path / "NGC_1" / file).exists() for file in files)
    # Every link within the page has its place.
    assert {unquote(link[1:]) for link in page.links if link.startswith("#")} == set(page.ids) and len(page.ids) == 3
    assert page.tags.count("svg") == 3 * 3 and page.source.count("data:image/png;base64,") == 1
    # 0.9 and 1.1 mJy at 90 and 110 GHz.
    assert "1.00 ± 0.0" in page.text and "2 of 2" in page.text and ">nan<" not in page.source
    assert f'name="generator" content="{marks.SOFTWARE}"' in page.source


def test_windows_are_in_the_order_of_their_numbers(tmp_path):
    page = Page(targetreport.write_target(target(tmp_path / "a")))
    cubes = page.text[page.text.index("Cubes") :]
    assert cubes.index("spw3") < cubes.index("spw25")


def test_nothing_of_a_hostile_header_is_markup(tmp_path):
    hostile = CubeSummary("spw27", "failed", HOSTILE, notes=(HOSTILE,))
    made = target(tmp_path / "x", name=HOSTILE, others=(hostile,), notes=(HOSTILE,))
    overview = targetreport.write_overview(HOSTILE, [made], tmp_path / "index.html", [(HOSTILE, HOSTILE)])
    for path in (targetreport.write_target(made), overview):
        page = Page(path)
        assert "script" not in page.tags and "<script>alert(1)</script> & \"'$\\frac{" in page.text
        assert not set("\u202e\x00") & set(page.source)


def test_a_target_without_sources_and_one_without_cubes_have_pages(tmp_path):
    page = Page(targetreport.write_target(target(tmp_path / "empty", number=0)))
    assert "no source found; cubes: 2 done" in page.text and page.tags.count("img") == 1 and "Sources" not in page.text
    (tmp_path / "dead").mkdir()
    page = Page(targetreport.write_target(TargetPage("dead", tmp_path / "dead", [FAILED])))
    assert "nothing was searched; cubes: 1 failed" in page.text and "flagged" in page.text
    assert Page(targetreport.write_target(TargetPage("bare", tmp_path / "dead", []), tmp_path / "b.html"))


def test_500_sources_have_a_page_that_can_be_read(tmp_path):
    path = targetreport.write_target(target(tmp_path / "many", number=500))
    page = Page(path)
    assert "500 sources, 1000 lines" in page.text and "450 further sources have no spectra here" in page.text
    assert page.tags.count("svg") == 3 * targetreport.SKETCHED and path.stat().st_size < 4e6
    # Sources without spectra are no links to them.
    assert len([link for link in page.links if link.startswith("#")]) == targetreport.SKETCHED


def test_a_picture_that_is_there_already_is_taken(tmp_path):
    made = target(tmp_path / "a")
    png = tmp_path / "spw3.png"
    png.write_bytes(b"\x89PNG")
    for picture, images in ((png, 1), (tmp_path / "gone.png", 0), (None, 0)):
        page = Page(targetreport.write_target(TargetPage("a", made.folder, made.cubes, made.merged, picture)))
        assert page.tags.count("img") == images
        assert page.tags.count("svg") == 3, "continua need no spectra"


def test_sources_are_marked_where_they_are(tmp_path):
    made = target(tmp_path / "a")
    image = np.zeros((64, 64))
    figure = targetreport.target_figure(Picture(image, wcs(), ""), made.merged.sources)
    x, y = wcs().wcs_world2pix(np.stack([made.merged.sources["ra"], made.merged.sources["dec"]], -1), 0).T
    marks = [line.get_xydata() for line in figure.axes[0].lines if len(line.get_xydata())]
    np.testing.assert_allclose(marks[0], np.stack([x, y], -1))
    assert [text.get_text() for text in figure.axes[0].texts] == ["1", "2", "3"]
    # In another frame they are at the same pixels of the sky, not at the same numbers.
    moved = targetreport.target_figure(Picture(image, wcs(), "", "FK4"), made.merged.sources).axes[0]
    assert not any(len(line.get_xydata()) for line in moved.lines), "0.6 degrees away"
    assert targetreport.target_figure(Picture(image, None, ""), made.merged.sources).axes[0].texts[:] == []


def test_the_overview_tells_what_became_of_every_window(tmp_path):
    first = target(tmp_path / "NGC_1", others=(FAILED,))
    second = target(tmp_path / "a b%41", number=1, name="a b%41", others=(LEFT,))
    dead = TargetPage("dead", tmp_path / "dead", [FAILED])
    targetreport.write_target(second)
    path = targetreport.write_overview("run", [first, second, dead], tmp_path / "index.html", [("vis", "x.ms")])
    page = Page(path)
    assert "3 targets; cubes: 4 done, 2 failed, 1 left out; 4 sources, 8 lines" in page.text
    assert page.text.count("all of its data are flagged") == 2 and "one channel" in page.text and "x.ms" in page.text
    assert "3 sources, 3 lines" in page.text and "1 source, 1 line" in page.text and "1.00 mJy, 75.0 s" in page.text
    files = [unquote(link) for link in page.links]
    assert "a b%41/report.html" in files and "NGC_1/report.html" not in files, "only what is there"
    assert all((tmp_path / file).exists() for file in files) and len(files) == 5
    assert Page(targetreport.write_overview("none", [], tmp_path / "none.html"))


def test_long_times_have_hours():
    assert [targetreport._seconds(s) for s in (0.04, 99.0, 3725.0, np.nan)] == ["0.0 s", "99.0 s", "1:02:05 h", "-"]


def test_a_drawn_spectrum_keeps_a_narrow_line_of_many_channels():
    freq = 1e11 + 1e5 * np.arange(4000)
    flux = np.zeros(4000)
    flux[1234] = 1.0
    thin = sketch._thinned(freq, flux)[1]
    assert thin.size == 2 * sketch.COLUMNS and thin.max() == 1.0
    drawn = sketch.spectrum_panel(Spectrum(freq[::-1], flux[::-1], np.zeros(4000)))
    assert len(drawn) < 10000 and "GHz" in drawn and "nan" not in drawn


def test_drawings_of_nothing_are_empty():
    freq, nothing = np.arange(3.0), np.full(3, np.nan)
    assert sketch.spectrum_panel(Spectrum(freq, nothing, nothing)) == ""
    assert sketch.spectrum_panel(Spectrum(np.ones(1), np.ones(1), np.ones(1))) == ""
    assert "GHz" not in sketch.spectrum_panel(Spectrum(nothing, np.ones(3), np.ones(3)))
    law = (1.0, 1e11, np.nan)
    assert sketch.spectral_energy([Measured("a", 1.0, 0.1, 1e11), Measured("b", -1.0, 0.1, 2e11)], law) == ""
    drawn = sketch.spectral_energy([Measured("a", 1.0, 2.0, 1e11), Measured("b", 1.0, np.nan, 1e11)], law)
    assert drawn.count("<circle") == 2 and "nan" not in drawn
