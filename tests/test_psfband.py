"""PSFs of a band from a few channels: against sums over visibilities, and against tclean's own."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from casa_fixtures import Window, write_ms

from casa_deepfocus.core import psfband

NY, NX, NCHAN = 80, 96, 9
FREQ = np.linspace(100e9, 102e9, NCHAN)


def psfs(flagged: int | None = None, number: int = 400) -> np.ndarray:
    """(nchan, py, px) PSFs of random baselines, with a fifth of the highest frequency's cycles in a pixel."""
    rng = np.random.default_rng(5)
    uv = rng.normal(0.0, 0.06, (number, 2))
    y, x = np.arange(NY) - NY // 2, np.arange(NX) - NX // 2
    out = np.empty((NCHAN, NY, NX), np.float32)
    for chan, freq in enumerate(FREQ):
        used = uv[: number // 2] if chan == flagged else uv
        u, v = (used * freq / FREQ[0]).T
        phase = np.exp(2j * np.pi * np.outer(v, y)).T @ np.exp(2j * np.pi * np.outer(u, x))
        out[chan] = phase.real / len(used)
    return out


def chosen(all_psfs: np.ndarray, nodes: list[int]) -> tuple[dict, dict]:
    inner = (NY // 2, NX // 2)
    _, _, rows, columns = psfband.sampled((NY, NX), inner)
    small = all_psfs[:, NY // 2 - NY // 4 :, NX // 2 - NX // 4 :]
    known = {chan: small[chan][np.ix_(rows, columns)] for chan in range(NCHAN)}
    splines = {chan: psfband.spline(all_psfs[chan]) for chan in nodes}
    return splines, psfband.choose(splines, FREQ, known, inner)


@pytest.mark.parametrize("order", [1, -1])
def test_a_band_is_made_of_its_ends(order):
    """Up to the splines: ten times better than by the PSF of an end."""
    truth = psfs()
    splines, choices = chosen(truth, [0, NCHAN - 1][::order])
    assert np.abs(truth[4] - truth[0]).max() > 0.015
    for chan, choice in choices.items():
        made = psfband.blended(splines, FREQ, chan, choice)
        assert made[NY // 2, NX // 2] == pytest.approx(1.0, abs=1e-5)
        # A spline knows less at the edge of what it goes through.
        assert np.abs(made - truth[chan])[2:-2, 2:-2].max() < 2e-3
        assert np.sqrt(np.mean((made - truth[chan])[2:-2, 2:-2] ** 2)) < 3e-4


def test_a_channel_flagged_differently_is_told_and_does_not_spoil_others():
    truth = psfs(flagged=4)
    _, choices = chosen(truth, [0, NCHAN - 1])
    assert choices[4].rms > 1e-2 > 1e-3 > max(choices[chan].rms for chan in range(NCHAN) if chan != 4)
    _, choices = chosen(truth, [0, 4, NCHAN - 1])
    assert choices[4].nodes == (4,)
    assert max(choice.rms for choice in choices.values()) < 1e-3


def test_a_channels_own_psf_is_put_into_the_middle():
    wide, own = np.zeros((40, 48), np.float32), np.ones((20, 24))
    psfband.with_own(wide, own)
    assert (wide[15:25, 18:30] == 1.0).all() and wide[:10].max() == 0.0 and wide[10, 24] == 0.0


def test_the_worst_channel_between_any_two_comes_next():
    pytest.importorskip("casatools")
    from casa_deepfocus.casa.widepsf import next_nodes

    assert next_nodes({0: None, 9: None}, {3: 1.0, 5: 2.0}, 9) == [5]
    assert next_nodes({0: None, 5: None, 9: None}, {3: 1.0, 4: 0.5, 7: 3.0}, 9) == [3, 7]
    assert next_nodes({0: None, 5: None, 9: None}, {3: 1.0, 7: 3.0}, 4) == [7]
    assert next_nodes({0: None, 9: None}, {}, 9) == []


def make(vis: str, **parameters):
    from casa_deepfocus.casa import guarded, images, imaging, inputs

    calls = []

    def imager(**values):
        calls.append(values)
        return guarded.tclean(**values)

    request = inputs.check(
        {"vis": vis, "datacolumn": "data", "pblimit": 0.1, "outfile": "out", "imsize": [64, 48], "cell": "0.5arcsec"}
        | parameters
    )
    folder = Path("work")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    with guarded.session():
        name = imaging.make_images(request, str(folder), lambda text, priority="INFO": None, imager).name
    assert sorted(p.name for p in folder.iterdir()) == ["dirty.image", "dirty.pb", "dirty.psf"]
    return images.read_cube(name)[0], calls


def reference(vis: str, weighting: dict) -> tuple[np.ndarray, np.ndarray]:
    """tclean's image of the field, and its PSFs at twice the field with the field's weights."""
    from casa_deepfocus.casa import guarded, images

    common = {
        "vis": vis, "datacolumn": "data", "specmode": "cube", "outframe": "LSRK", "niter": 0, "pblimit": -0.1,
        "cell": "0.5arcsec", "restoration": True, **weighting,
    }  # fmt: skip
    outlier = Path("outlier.txt")
    outlier.write_text("imagename=wide\nimsize=[128,96]\ncell=[0.5arcsec]\nphasecenter=J2000 150.0deg -20.0deg\n")
    # In a process of its own: tclean leaves the file open.
    guarded.tclean(imagename="own", imsize=[64, 48], outlierfile=str(outlier), **common)
    planes = []
    for name in ("own.image", "wide.psf"):
        with images.opened(name) as ia:
            planes.append(np.asarray(ia.getchunk())[:, :, 0].transpose(2, 1, 0))
    return planes[0], planes[1]


@pytest.fixture
def one_process(tmp_path, monkeypatch):
    """A folder, and one process for all calls of CASA."""
    pytest.importorskip("casatools")
    from casa_deepfocus.casa import guarded

    monkeypatch.chdir(tmp_path)
    with guarded.session():
        yield


@pytest.mark.casa
def test_a_cube_is_tcleans_own_and_its_psfs_those_of_its_weights(one_process):
    from casa_deepfocus.casa import widepsf

    weighting = {"weighting": "briggs", "robust": 0.0}
    write_ms(Path("band.ms"), windows=(Window(nchan=12),))
    image, psf = reference("band.ms", weighting)
    cube, calls = make("band.ms", **weighting)
    np.testing.assert_array_equal(cube.data, image)
    assert cube.psf.shape == (12, 96, 128) and 3 <= len(calls) <= 10
    assert list(calls[0]["imsize"]) == [64, 48]
    error = (cube.psf - psf)[:, 2:-2, 2:-2]
    assert np.sqrt(np.mean(error**2, axis=(1, 2))).max() < 1.5 * widepsf.ACCEPTED
    assert np.abs(error).max() < 5e-3


@pytest.mark.casa
def test_channels_flagged_at_random_have_their_own(one_process):
    from casatools import table

    write_ms(Path("flagged.ms"), windows=(Window(nchan=12),))
    tb = table()
    tb.open("flagged.ms", nomodify=False)
    flag = tb.getcol("FLAG")
    flag[:] |= np.random.default_rng(3).random(flag.shape[1:]) < 0.3
    flag[:, 5] = True
    tb.putcol("FLAG", flag)
    tb.close()
    image, psf = reference("flagged.ms", {"weighting": "natural"})
    cube, calls = make("flagged.ms")
    assert len(calls) > 3 and "nchan" in calls[-1] and calls[-1]["nchan"] != 1
    np.testing.assert_allclose(np.delete(cube.psf, 5, axis=0), np.delete(psf, 5, axis=0), atol=1e-6)
    assert np.isnan(cube.data[5]).all() or not np.any(cube.data[5])


@pytest.mark.parametrize(("folder", "weighting", "can"), [
    ("/data/run", "briggs", True), ("/data/robust=0.5", "briggs", False), ("/data/my run", "uniform", False),
    ("/data/#1", "briggs", False), ("/data/robust=0.5", "natural", True),
])  # fmt: skip
def test_folders_that_an_outlier_file_cannot_name(folder, weighting, can):
    widepsf = pytest.importorskip("casa_deepfocus.casa.widepsf")
    assert widepsf.can_be_asked(folder, {"weighting": weighting}) == can
