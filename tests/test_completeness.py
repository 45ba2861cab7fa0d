"""Artificial sources in the user's own cube: what is put in is what is said, and what is found is counted right."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from astropy.table import Table

from benchmarks import speed
from casa_deepfocus import pipeline
from casa_deepfocus.core.component import Component
from casa_deepfocus.errors import ParameterError
from casa_deepfocus.pipeline import completeness
from casa_deepfocus.pipeline.completeness import Completeness, Injected
from casa_deepfocus.products import completeness as told

NAMES = ("x", "y", "chan", "freq", "line_fwhm", "fwhm_maj")


@pytest.fixture(scope="module")
def cube():
    return speed.simulate(96, 12, seed=3)


def empty() -> Table:
    return Table({name: np.array([], float) for name in NAMES})


def result_of(cube, table=None):
    noise = np.full(cube.nchan, 1e-3)
    return SimpleNamespace(noise=noise, noise_map=None, catalogue=empty() if table is None else table)


def work(cube, mode="both"):
    return completeness._Work(cube, pipeline.Options(mode=mode), result_of(cube))


def test_a_source_has_the_snr_that_is_said(cube):
    """Of the likelihood: m (PSF * m) / sigma^2, with the cube that was put in."""
    here = work(cube)
    for index in range(4):
        item = here.draw(index)
        at = replace(item.component, x=48.0, y=48.0)
        plain = replace(here.cube, data=np.zeros_like(cube.data))
        here.cube = plain
        dirty = here.with_sources([replace(item, component=at)]).data
        here.cube = cube
        model = np.zeros(here.imager.grid, np.complex64)
        from casa_deepfocus.core.psf import gaussian_transform

        model = np.fft.irfft2(gaussian_transform(here.imager.grid, at.x, at.y, at.covariance), s=here.imager.grid)
        spectrum = at.spectrum(cube.nchan)
        product = (dirty * model[: cube.shape[0], : cube.shape[1]]).sum(axis=(1, 2)) * spectrum / 1e-6
        assert np.sqrt(product.sum()) == pytest.approx(item.snr, rel=0.02)
        assert 2.0 <= item.snr <= 20.0


def test_the_same_sources_come_first_whatever_their_number(cube):
    one, other = work(cube), work(cube)
    other.draw(7)
    assert one.draw(2).component.vector() == pytest.approx(other.draw(2).component.vector())
    assert {one.draw(i).kind for i in range(4)} == {"line", "continuum"}
    assert {work(cube, "line").draw(i).kind for i in range(3)} == {"line"}
    assert {work(cube, "continuum").draw(i).kind for i in range(3)} == {"continuum"}


def test_sources_of_one_run_are_apart_and_the_flux_is_that_on_the_sky(cube):
    here = work(cube)
    sources = [here.draw(index) for index in range(30)]
    runs = here.apart(sources)
    assert sum(map(len, runs)) == 30 and max(map(len, runs)) <= completeness.MOST_AT_ONCE
    for run in runs:
        x, y = (np.array([getattr(item.component, name) for item in run]) for name in "xy")
        distance = np.hypot(x[:, None] - x, y[:, None] - y) + 1e9 * np.eye(len(run))
        assert distance.min() > completeness.APART * here.beam
    item = next(item for item in sources if item.kind == "continuum")
    pb = cube.pb[len(cube.pb) // 2, round(item.component.y), round(item.component.x)]
    assert item.flux == pytest.approx(item.component.cont / pb)


def perfect(here, batch, noise=0.1):
    """A catalogue of a batch, moved by a tenth of the beam."""
    rows = [(c.x + noise * here.beam, c.y, c.chan, 1e11, 1.0, 1.0) for c in (item.component for item in batch)]
    return Table(rows=rows, names=NAMES) if rows else empty()


def test_what_is_found_is_told_from_what_was_there(cube):
    here = work(cube)
    batch = [here.draw(index) for index in range(2)]
    assert [item.found for item in here.judged(batch, perfect(here, batch))] == [True, True]
    assert [item.found for item in here.judged(batch, perfect(here, batch, 0.7))] == [False, False]
    assert [item.found for item in here.judged(batch, empty())] == [False, False]
    # A row that was there before, at the same place, does not count twice.
    here.result.catalogue = perfect(here, batch[1:], 0.0)
    assert [item.found for item in here.judged(batch[1:], here.result.catalogue)].count(True) <= 1
    far = perfect(here, batch)
    far["chan"] = far["chan"] + 10.0
    assert [item.found for item in here.judged(batch, far)] == [item.kind == "continuum" for item in batch]


def drawn(number: int, half: float, kind: str = "line") -> list[Injected]:
    rng = np.random.default_rng(1)
    component = Component(0.0, 0.0, np.zeros(3))
    snr = np.exp(rng.uniform(np.log(2.0), np.log(20.0), number))
    found = rng.random(number) < 1.0 / (1.0 + (half / snr) ** 8)
    return [Injected(component, kind, float(s), float(s) * 1e-3, bool(f)) for s, f in zip(snr, found, strict=True)]


def test_curve_and_half_come_from_the_sources(tmp_path):
    measured = Completeness((*drawn(400, 5.0), *drawn(100, 8.0, "continuum")), "Jy km/s")
    assert measured.half("line").snr == pytest.approx(5.0, rel=0.06)
    assert measured.half("continuum").flux == pytest.approx(8e-3, rel=0.15)
    rows = measured.curve("line", "snr")
    assert sum(row["injected"] for row in rows) == 400
    assert rows[0]["completeness"] < 0.1 and rows[-1]["completeness"] == 1.0
    assert all(row["lower"] <= row["completeness"] <= row["upper"] for row in rows)
    assert "half of the lines of 4.98 mJy km/s" in told.sentence(measured)
    told.write(tmp_path / "out", measured)
    back = Table.read(tmp_path / "out.complete.ecsv", format="ascii.ecsv")
    assert set(back["kind"]) == {"line", "continuum"} and set(back["against"]) == {"snr", "flux"}
    assert back.meta["half_snr_line"] == pytest.approx(measured.half("line").snr)
    told.figure(measured)
    assert np.isnan(completeness.half_point(np.array([1.0, 2.0]), np.array([True, True])))


def test_every_run_is_searched_and_nothing_of_the_cube_is_changed(cube, monkeypatch):
    before, cubes = cube.data.copy(), []

    def search(given, networks, options):
        cubes.append(given)
        return SimpleNamespace(catalogue=empty())

    monkeypatch.setattr(pipeline, "run", search)
    measured = completeness.measure(cube, None, pipeline.Options(), result_of(cube), 6)
    assert len(measured.sources) == 6 and not any(item.found for item in measured.sources)
    assert all(not np.array_equal(given.data, before) for given in cubes)
    np.testing.assert_array_equal(cube.data, before)
    nowhere = replace(cube, pb=np.zeros_like(cube.pb))
    assert completeness.measure(nowhere, None, pipeline.Options(), result_of(cube), 6) is None


@pytest.mark.parametrize("bad", [-1, 1.5, "3", True])
def test_a_number_that_is_none_is_refused(bad):
    with pytest.raises(ParameterError, match="completeness"):
        completeness.check_number(bad)
