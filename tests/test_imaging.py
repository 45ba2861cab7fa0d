"""The dirty cube that we make of a measurement set, against tclean's own and against the planted truth."""

from __future__ import annotations

import shutil
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from casa_fixtures import FREQ0, MOSAIC, NCHAN, TRUTH, Planted, Window, changed, right_of_mosaic, write_ms

from casa_deepfocus.errors import DataError, ParameterError

pytest.importorskip("casatools")
from casa_deepfocus.casa import images, imaging, inputs, visibilities  # noqa: E402

pytestmark = pytest.mark.casa
pytest_plugins = ["casa_fixtures"]


def silent(message: str, priority: str = "INFO") -> None:
    """A log that drops its messages."""


def make(vis, **parameters):
    request = inputs.check({"vis": str(vis), "datacolumn": "data", "pblimit": 0.1, "outfile": "out"} | parameters)
    folder = Path("work")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    name = imaging.make_images(request, str(folder), silent).name
    assert sorted(p.name for p in folder.iterdir()) == ["dirty.image", "dirty.pb", "dirty.psf"]
    return images.read_cube(name)


def wide_sky(cube) -> np.ndarray:
    """(nchan, ny, nx) dirty cube of the planted sources, predicted with the PSF alone."""
    ny, nx = cube.shape
    py, px = cube.psf.shape[1:]
    out = np.zeros(cube.data.shape)
    for source in TRUTH:
        x, y = np.rint(cube.wcs.wcs_world2pix([source.radec], 0)[0]).astype(int)
        # The planted visibilities hold no primary beam: the dirty sources stand at their full flux.
        part = cube.psf[:, py // 2 - y : py // 2 - y + ny, px // 2 - x : px // 2 - x + nx]
        out += source.spectrum()[:, None, None] * part
    return out


@pytest.mark.parametrize("weighting", [{}, {"weighting": "briggs", "robust": 0.0}])
def test_the_dirty_cube_is_the_psf_convolved_with_the_sky(tmp_path, weighting):
    """Without noise the PSF at twice the field explains the dirty image everywhere, whatever the weights."""
    write_ms(Path("clean.ms"), noise=0.0)
    cube, _ = make("clean.ms", imsize=[48, 40], cell="0.5arcsec", **weighting)
    assert cube.data.shape == (NCHAN, 40, 48) and cube.psf.shape == (NCHAN, 80, 96)
    residual = cube.data - wide_sky(cube)
    assert np.nanmax(cube.data) > 0.06
    assert np.nanmax(np.abs(residual)) < 2e-3 * np.nanmax(cube.data)


def test_the_cube_agrees_with_tcleans_own_at_natural_weighting(tiny_ms, tiny_images):
    cube, template = make(tiny_ms, imsize=[64, 48], cell="0.5arcsec")
    reference, own = images.read_cube(f"{tiny_images}.image")
    assert template.shape == own.shape
    np.testing.assert_allclose(cube.wcs.wcs_pix2world([[5, 6]], 0), reference.wcs.wcs_pix2world([[5, 6]], 0), atol=1e-8)
    np.testing.assert_allclose(cube.data, reference.data, atol=2e-3 * reference.data.max())
    np.testing.assert_allclose(cube.beams, reference.beams, rtol=1e-2)
    np.testing.assert_allclose(cube.pb, reference.pb, atol=1e-3)
    inner = cube.psf[:, 24:72, 32:96]
    np.testing.assert_allclose(inner, reference.psf, atol=2e-3)


def test_cell_and_imsize_come_from_the_measurement_set(tiny_ms):
    cube, _ = make(tiny_ms)
    assert 4.0 < cube.beam_pixels() < 8.0
    # 12 m antennas at 100 GHz, out to pb 0.1: 58 arcsec FWHM times 1.82.
    assert 95 < cube.shape[0] * cube.cell < 140
    assert cube.shape[0] == cube.shape[1] and cube.shape[0] % 2 == 0
    assert np.nanmin(cube.pb) < 0.2


def test_the_dirty_image_reaches_beyond_the_primary_beams_limit(tiny_ms, tmp_path):
    """Only the primary beam is blank there; tclean's own mask of a user's image is seen through as well."""
    from casatasks import tclean

    cube, _ = make(tiny_ms, imsize=128, cell="1arcsec", pblimit=0.3)
    assert np.isfinite(cube.data).all()
    assert 0.1 < np.isnan(cube.pb).mean() < 0.9
    tclean(
        vis=str(tiny_ms), imagename="own", datacolumn="data", specmode="cube", imsize=128, cell="1arcsec",
        outframe="LSRK", weighting="natural", niter=0, restoration=True, pblimit=0.3,
    )  # fmt: skip
    with images.opened("own.image") as ia:
        assert not ia.getchunk(getmask=True).all()
    own, _ = images.read_cube("own.image")
    np.testing.assert_allclose(own.data, cube.data, atol=2e-3 * cube.data.max())
    np.testing.assert_array_equal(np.isnan(own.pb), np.isnan(cube.pb))


def test_a_given_cell_or_imsize_is_kept(tiny_ms):
    def plan(**parameters):
        request = inputs.check({"vis": str(tiny_ms), "datacolumn": "data"} | parameters)
        return imaging.plan(request, silent)

    assert plan(imsize=[100, 80]).nx == 100 and plan(imsize=[100, 80]).ny == 80
    for cell in ("0.25arcsec", 0.25, ["0.25arcsec", "0.25arcsec"], "250mas"):
        assert plan(cell=cell).cell == pytest.approx(0.25)
    assert plan(cell=0.25).nx > plan(cell=0.5).nx
    assert plan(spw="0:0").cell == pytest.approx(plan().cell, rel=0.02)
    assert plan(uvrange="<100m").cell > 1.2 * plan().cell
    for bad in ({"cell": "wide"}, {"cell": ["1arcsec", "2arcsec"]}, {"imsize": [3, 3]}, {"imsize": [64, 64, 64]}):
        with pytest.raises(ParameterError):
            plan(**bad)


def test_a_huge_field_is_limited_and_said_so(tiny_ms):
    messages = []
    request = inputs.check({"vis": str(tiny_ms), "datacolumn": "data", "cell": "0.01arcsec"})
    grid = imaging.plan(request, lambda message, priority="INFO": messages.append((priority, message)))
    assert grid.nx <= 1.1 * imaging.LARGEST
    assert any(priority == "WARN" and "imsize" in message for priority, message in messages)


def test_a_selection_of_channels_and_a_frame_reach_tclean(tiny_ms):
    cube, _ = make(tiny_ms, imsize=48, cell="0.5arcsec", start=2, nchan=4, outframe="BARY")
    assert cube.nchan == 4 and cube.frame == "BARY"
    assert cube.freq[0] != pytest.approx(FREQ0, abs=1e5)


def test_continuum_images_have_one_channel(tiny_ms):
    cube, _ = make(tiny_ms, imsize=48, cell="0.5arcsec", specmode="mfs", mode="continuum")
    assert cube.nchan == 1 and not cube.spectral
    middle = np.mean([source.spectrum() for source in TRUTH], axis=1)
    assert np.nanmax(cube.data) == pytest.approx(middle.max(), rel=0.1)


def test_a_flagged_channel_is_blank(tmp_path, tiny_ms):
    from casatools import table

    shutil.copytree(tiny_ms, "flagged.ms")
    tb = table()
    tb.open("flagged.ms", nomodify=False)
    flags = tb.getcol("FLAG")
    flags[:, 5] = True
    tb.putcol("FLAG", flags)
    tb.close()
    cube, _ = make("flagged.ms", imsize=48, cell="0.5arcsec", interpolation="nearest")
    assert np.isnan(cube.data[5]).all() and np.isfinite(cube.data[4, 20, 24])
    assert (cube.beams[:, 1] > 1.0).all()
    np.testing.assert_allclose(cube.psf.max(axis=(1, 2)), 1.0, rtol=1e-5)


def test_data_that_are_all_flagged_are_refused(tmp_path, tiny_ms):
    from casatools import table

    shutil.copytree(tiny_ms, "dead.ms")
    tb = table()
    tb.open("dead.ms", nomodify=False)
    tb.putcol("FLAG_ROW", np.ones(tb.nrows(), bool))
    tb.putcol("FLAG", np.ones(tb.getcol("FLAG").shape, bool))
    tb.close()
    with pytest.raises(DataError, match="flagged"):
        make("dead.ms")
    with pytest.raises(DataError):
        make("dead.ms", imsize=48, cell="0.5arcsec")


def lines(vis, **parameters):
    """The images' cube, and (priority, message) of what was logged."""
    request = inputs.check({"vis": str(vis), "datacolumn": "data", "outfile": "out"} | parameters)
    shutil.rmtree("work", ignore_errors=True)
    Path("work").mkdir()
    said: list[tuple[str, str]] = []
    made = imaging.make_images(request, "work", lambda text, priority="INFO": said.append((priority, text)))
    return images.read_cube(made.name)[0], said


def test_a_mosaic_is_centred_on_all_of_its_pointings(calibrated_ms):
    """The source stands in the middle of the second pointing, where tclean's own centre has a response of 0.33."""
    cube, _ = lines(calibrated_ms, gridder="mosaic", specmode="mfs", mode="continuum", cell="0.9arcsec")
    ny, nx = cube.shape
    ra, dec = (0.5 * (MOSAIC[0].radec[i] + MOSAIC[1].radec[i]) for i in range(2))
    np.testing.assert_allclose(cube.wcs.wcs_world2pix([[ra, dec]], 0)[0], [nx // 2, ny // 2], atol=0.1)
    # Two thirds of an arcminute apart, and a primary beam of 57 arcsec out to 0.2.
    assert 36.0 + 86.0 < nx * cube.cell < 36.0 + 100.0 and 10.0 + 86.0 < ny * cube.cell < 10.0 + 100.0
    y, x = np.unravel_index(np.nanargmax(cube.data[0]), cube.shape)
    source = Planted(*right_of_mosaic()).radec
    np.testing.assert_allclose(cube.wcs.wcs_world2pix([source], 0)[0], [x, y], atol=1.0)
    assert cube.data[0, y, x] / cube.pb[0, y, x] == pytest.approx(0.1, rel=0.05)


def test_a_mosaics_centre_may_be_given(calibrated_ms):
    def plan(**parameters):
        request = inputs.check({"vis": str(calibrated_ms), "datacolumn": "data", "gridder": "mosaic"} | parameters)
        return imaging.plan(request, silent)

    middle = plan(cell="1arcsec")
    assert middle.centre.startswith("J2000 ")
    for corner in (0, "0", "J2000 150.0deg -20.0deg"):
        grid = plan(cell="1arcsec", phasecenter=corner)
        assert grid.centre == "" and grid.nx > middle.nx + 30
    assert plan(imsize=64, cell="1arcsec").centre == middle.centre
    assert plan(field="left").centre == ""
    with pytest.raises(ParameterError, match="phasecenter"):
        plan(phasecenter="J2000 here there")


def test_a_cell_that_the_beam_does_not_fit_is_refused(tiny_ms):
    def plan(**parameters):
        said: list[str] = []
        request = inputs.check({"vis": str(tiny_ms), "datacolumn": "data"} | parameters)
        grid = imaging.plan(request, lambda text, priority="INFO": said.append(text) if priority == "WARN" else None)
        return grid, said

    with pytest.raises(ParameterError, match=r"more than half of the beam, \d\.\d+ arcsec") as caught:
        plan(cell="3arcsec")
    advised = float(str(caught.value).split("at most ")[1].split(" ")[0])
    assert plan(cell=f"{advised}arcsec")[0].cell == advised
    with pytest.raises(ParameterError, match="larger than 0"):
        plan(cell="0arcsec")
    # A taper makes the beam broader.
    for taper in (["10arcsec"], ["15klambda"]):
        grid, said = plan(cell="3arcsec", uvtaper=taper)
        assert grid.cell == 3.0 and any("% of the visibilities" in line for line in said)
    assert not plan(cell="1arcsec")[1]


def test_nan_that_no_sample_saw_is_told_after_imaging(tiny_ms, monkeypatch):
    shutil.copytree(tiny_ms, "nan.ms")
    with changed(Path("nan.ms")) as tb:
        data = tb.getcell("DATA", 1000)
        data[0, 3] = np.nan
        tb.putcell("DATA", 1000, data)
    monkeypatch.setattr(visibilities, "tally", partial(visibilities.tally, sample=64))
    cube, said = lines("nan.ms", imsize=48, cell="0.5arcsec")
    assert np.isnan(cube.data).all(axis=(1, 2)).tolist() == [chan == 3 for chan in range(NCHAN)]
    assert any(priority == "WARN" and "1 of 8 channels" in text and "flagdata" in text for priority, text in said)
    with pytest.raises(DataError, match="nan.ms.*NaN") as caught:
        lines("nan.ms", imsize=48, cell="0.5arcsec", specmode="mfs")
    assert "work" not in str(caught.value)


def test_a_cube_that_turns_out_blank_is_refused(tiny_ms):
    shutil.copytree(tiny_ms, "blank.ms")
    with changed(Path("blank.ms")) as tb:
        flag = tb.getcol("FLAG")
        flag[:, 2:] = True
        tb.putcol("FLAG", flag)
    with pytest.raises(DataError, match=r"blank.ms.*6 of the 8 channels"):
        lines("blank.ms", imsize=48, cell="0.5arcsec", interpolation="nearest")


def test_one_channel_keeps_its_weight(monkeypatch):
    """tclean's cube of a channel narrower than the shift of the frame loses weight; what the task makes does not."""
    window = Window(freq0=345e9, width=4e3, nchan=1, frame="TOPO")
    write_ms(Path("narrow.ms"), windows=(window,))
    weights = {}

    def read(image, sumwt, request, log):
        with images.opened(sumwt) as ia:
            weights[request.tclean["specmode"]] = float(ia.getchunk().sum())

    monkeypatch.setattr(imaging, "_check_channels", read)
    for asked in ({}, {"nchan": 1}):
        lines("narrow.ms", imsize=48, cell="0.15arcsec", **asked)
    assert weights["cube"] < 0.7 * weights["mfs"]


def test_there_is_no_restoring_beam(tiny_ms):
    """It would change the header's beam only, and with it every flux."""
    with pytest.raises(ParameterError, match="restoringbeam"):
        inputs.check({"vis": str(tiny_ms), "datacolumn": "data", "restoringbeam": "common"})
