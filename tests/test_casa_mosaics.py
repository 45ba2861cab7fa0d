"""Mosaics imaged by tclean, against the model of their dirty images."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from casa_fixtures import changed

from casa_deepfocus.core.mosaic import Pointings
from casa_deepfocus.core.psf import Imager, gaussian_transform

pytest.importorskip("casatools")
from casa_deepfocus.casa import images, imaging, inputs, measurementset, mosaics  # noqa: E402
from sim.casa_mosaic import MosaicPlan, observe_mosaic  # noqa: E402
from sim.skyfile import SkySource  # noqa: E402

pytestmark = pytest.mark.casa
pytest_plugins = ["casa_fixtures"]

STEP = 13.0
PLAN = MosaicPlan(
    offsets=((-STEP / 2, 0.0), (STEP / 2, 0.0), (0.0, 0.9 * STEP)), array="alma.cycle9.1", visits=(1, 3, 2), cycles=2,
    gap=3000.0, nchan=3, chan_width=50e6,
)  # fmt: skip


@pytest.fixture(scope="module")
def mosaic_ms(tmp_path_factory) -> Path:
    """Three pointings and a source of 1 Jy off all of them."""
    path = tmp_path_factory.mktemp("mosaic") / "mosaic.ms"
    ra, dec = PLAN.place(4.0, 3.0)
    observe_mosaic(PLAN, [SkySource(ra=ra, dec=dec, continuum=1.0)], path)
    return path


def made(vis: Path, **parameters):
    request = inputs.check({"vis": str(vis), "datacolumn": "data", "outfile": "out"} | parameters)
    Path("work").mkdir()
    found = imaging.make_images(request, "work", lambda text, priority="INFO": None)
    assert sorted(p.name for p in Path("work").iterdir()) == ["dirty.image", "dirty.pb", "dirty.psf"]
    return replace(images.read_cube(found.name)[0], mosaic=found.mosaic)


def pixel(cube, east: float, north: float) -> tuple[float, float]:
    """The image's frame is ICRS, as the plan's."""
    x, y = cube.wcs.wcs_world2pix([PLAN.place(east, north)], 0)[0]
    return float(x), float(y)


@pytest.mark.parametrize("parameters", [
    {}, {"specmode": "mfs", "mode": "continuum", "weighting": "briggs", "robust": 0.5},
])  # fmt: skip
def test_the_model_is_tcleans_mosaic(mosaic_ms, parameters):
    centre = "ICRS {}deg {}deg".format(*PLAN.place(0.0, 0.45 * STEP))
    cube = made(mosaic_ms, imsize=160, cell="0.4arcsec", pblimit=0.2, phasecenter=centre, **parameters)
    mosaic = cube.mosaic
    assert len(mosaic.weights) == 3
    if not parameters:
        np.testing.assert_allclose(mosaic.weights / mosaic.weights.sum(), np.array([1, 3, 2]) / 6, rtol=0.02)
    x, y = pixel(cube, *PLAN.offsets[0])
    np.testing.assert_allclose(mosaic.centres[0], [x, y], atol=0.05)
    row, column = np.indices(cube.shape)
    seen = np.nan_to_num(cube.pb[0]) >= 0.2
    own = mosaic.primary_beam(column, row, mosaic.freq)
    assert np.abs(own / own.max() - cube.pb[cube.nchan // 2])[seen].max() < 0.02
    x, y = pixel(cube, 4.0, 3.0)
    left = {}
    for name, pointings in (("mosaic", Pointings(mosaic, cube.shape, psf=cube.psf[cube.nchan // 2])), ("plain", None)):
        imager = Imager(cube.psf, cube.shape, pointings=pointings)
        model = np.zeros(cube.data.shape, np.float32)
        imager.subtract(model, gaussian_transform(imager.grid, x, y, (0.0, 0.0, 0.0))[None], -np.ones((1, cube.nchan)),
                        [(x, y)])  # fmt: skip
        data, part = cube.data[:, seen], model[:, seen]
        flux = float((data * part).sum() / (part * part).sum())
        left[name] = (data - flux * part) / data.max()
        if name == "mosaic":
            # CASA's .pb is not quite the beam that its gridder applies.
            assert flux == pytest.approx(np.nanmean(cube.pb[:, round(y), round(x)]), rel=0.03)
    assert np.sqrt((left["mosaic"] ** 2).mean()) < 1e-3 and np.abs(left["mosaic"]).max() < 5e-3
    assert np.sqrt((left["plain"] ** 2).mean()) > 3e-3 and np.abs(left["plain"]).max() > 0.03


def test_pairs_of_dish_sizes_are_terms_of_their_own(mosaic_ms, tmp_path):
    import shutil

    path = tmp_path / "dishes.ms"
    shutil.copytree(mosaic_ms, path)
    with changed(path, "ANTENNA") as tb:
        sizes = tb.getcol("DISH_DIAMETER")
        sizes[:10] = 7.0
        tb.putcol("DISH_DIAMETER", sizes)
    seen = measurementset.survey(str(path), {})
    found = mosaics.terms([seen])
    assert len(found) == 9 and {term.dishes for term in found} == {(7.0, 7.0), (7.0, 12.0), (12.0, 12.0)}
    small = next(term for term in found if term.dishes == (7.0, 7.0))
    assert small.antennas[0] == "0,1,2,3,4,5,6,7,8,9&" and len(small.fields[0]) == 1
    # With antennas selected no second selection of baselines can be joined.
    assert len(mosaics.terms([replace(seen, chosen={"baseline": "0~20"})])) == 3
    same = mosaics.terms([seen, measurementset.survey(str(mosaic_ms), {})])
    assert len(same) == 9 and sum(set(term.fields) == {0, 1} for term in same) == 3
