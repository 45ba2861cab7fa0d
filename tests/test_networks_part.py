"""The shipped networks in steps iv to vi of the pipeline, on planted sources: their outputs reach the components."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")

from casa_deepfocus.core.geometry import GAUSSIAN_LINE, covariance_to_shape  # noqa: E402
from casa_deepfocus.models import runner  # noqa: E402
from casa_deepfocus.pipeline import Options, _prepare  # noqa: E402
from casa_deepfocus.pipeline.blobs import line_cube  # noqa: E402
from casa_deepfocus.pipeline.intake import take_in  # noqa: E402
from casa_deepfocus.pipeline.lines import start_component  # noqa: E402
from casa_deepfocus.pipeline.measure import line_image, line_image_noise, measure_fluxes, measure_shapes  # noqa: E402
from casa_deepfocus.pipeline.state import Focused, Search, silent  # noqa: E402
from sim.cube import simulate_cube  # noqa: E402
from sim.response import Coverage, Grid  # noqa: E402
from sim.sky import Source  # noqa: E402

GRID = Grid(npix=192, nchan=32)
NOISE = 1e-3
SOURCES = (
    Source(50, 56, 14, 5, 20, line=0.35, chan=8, line_fwhm=5),
    Source(132, 60, 14, 5, 65, line=0.35, chan=15, line_fwhm=5),
    Source(58, 136, 13, 5, 110, line=0.35, chan=22, line_fwhm=4),
    Source(134, 130, 13, 6, 155, line=0.35, chan=12, line_fwhm=6),
)


class Blob:
    """What a candidate carries of Blobs Finder."""

    probability = 0.9


def look(networks, seed: int = 3) -> tuple[Search, list[Focused]]:
    """The search of a field and its candidates, where they were planted, before any network has seen them."""
    from casa_deepfocus.core.deblending import Candidate

    cube = simulate_cube(list(SOURCES), Coverage(), GRID, NOISE, np.random.default_rng(seed))
    taken = take_in(cube, silent, noise_map=False)
    search = _prepare(taken.cube, networks, Options(), taken.sigma, taken)
    line, _ = line_cube(search.fit.residual, search.sigma)
    found = []
    for number, source in enumerate(SOURCES):
        values = {name: 0.0 for name in Candidate.__dataclass_fields__}
        values |= {"x": source.x, "y": source.y, "chan": source.chan, "fwhm": source.line_fwhm, "group": number}
        item = type("Item", (), {"blob": Blob, "clean": np.zeros(GRID.nchan, np.float32)})
        found.append(start_component(search, line, (Candidate(**values), item)))
    return search, found


@pytest.fixture(scope="module")
def networks():
    if not (runner.find_folder("") / "manifest.json").exists():
        pytest.skip("the networks are not there: they are trained and exported first")
    return runner.load_networks("", "cpu")


@pytest.fixture(scope="module")
def measured(networks):
    search, found = look(networks)
    measure_shapes(search, found)
    measure_fluxes(search, found)
    return search, found


def test_shapes_are_the_planted_ones(measured):
    """Nothing is fitted yet: the angle is not turned, and the minor axis is not the major one."""
    _, found = measured
    for source, item in zip(SOURCES, found, strict=True):
        major, minor, pa = (float(value) for value in covariance_to_shape(item.component.covariance))
        assert abs((pa - source.pa + 90.0) % 180.0 - 90.0) < 15.0
        assert major == pytest.approx(source.fwhm_maj, rel=0.25)
        assert minor < 0.75 * major


def test_the_axes_are_each_their_own_networks(networks):
    """The minor axis follows `fwhm_min`, the angle `pa`: each is asked, and no other takes its place."""

    class Turned:
        info, deep_gru, blobs_finder, flux = networks.info, networks.deep_gru, networks.blobs_finder, networks.flux
        fwhm_maj, fwhm_min = networks.fwhm_maj, staticmethod(lambda stamps: 0.5 * networks.fwhm_min(stamps))
        pa = staticmethod(lambda stamps: -networks.pa(stamps))

    shapes = []
    for given in (networks, Turned):
        search, found = look(given)
        measure_shapes(search, found)
        shapes.append(np.array([covariance_to_shape(item.component.covariance) for item in found]))
    np.testing.assert_allclose(shapes[1][:, 0], shapes[0][:, 0], rtol=1e-3)
    np.testing.assert_allclose(shapes[1][:, 1], 0.5 * shapes[0][:, 1], rtol=1e-3)
    np.testing.assert_allclose((shapes[1][:, 2] - shapes[0][:, 2]) % 180.0, 90.0, atol=0.1)


def test_fluxes_are_the_planted_ones(measured, networks):
    search, found = measured
    truth = np.array([source.line for source in SOURCES])
    unit = search.unit
    pb = [float(search.cube.pb[0, round(source.y), round(source.x)]) for source in SOURCES]
    flux = np.array([item.component.amp for item in found]) * unit / pb
    np.testing.assert_allclose(flux, truth, rtol=0.2)

    class Doubled:
        flux = staticmethod(lambda stamps: networks.flux(stamps) + np.float32(np.log10(2.0)))

    before = [item.component.amp for item in found]
    search.networks, kept = Doubled, search.networks
    measure_fluxes(search, found)
    search.networks = kept
    np.testing.assert_allclose([item.component.amp for item in found], 2.0 * np.array(before), rtol=1e-3)


def test_the_flux_network_is_told_the_noise_of_its_image(networks):
    """As in training: `resnet_input` divides the stamp by the noise that it has."""
    search, found = look(networks)
    component = found[0].component
    rng = np.random.default_rng(5)
    images = []
    for _ in range(40):
        noise = (rng.standard_normal(search.cube.data.shape) * search.sigma[:, None, None]).astype(np.float32)
        image, x, y = line_image(noise, search.sigma, search.cube, component)
        images.append(image[round(y) - 1 : round(y) + 2, round(x) - 1 : round(x) + 2])
    told = line_image_noise(search.sigma, search.cube, component)
    assert np.std(images) == pytest.approx(told, rel=0.12)
    # The mean over the line's FWHM, on which the shapes are measured, has less.
    assert told / component.fwhm > 1.3 * found[0].sigma
    assert GAUSSIAN_LINE > 1.0
