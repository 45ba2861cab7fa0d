"""Cramer-Rao bounds: against dense algebra, against brute-force fits, blends, points, flags and discs."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

pytest.importorskip("casadata")

from benchmarks import __main__ as command
from benchmarks import bounds as check
from sim.bounds import INDEX_SPREAD, Information, cramer_rao
from sim.derivatives import derivatives, disc_derivatives
from sim.discs import Rotation
from sim.response import Response, direct_image, pb_at, response, sampling
from sim.sky import Line, Source, disc

FREQ, NCHAN = check.GRID.freq(), check.GRID.nchan
SOURCE, NOISE = check.SOURCE, check.NOISE


@pytest.fixture(scope="module")
def resp() -> Response:
    return response(check.COVERAGE, check.GRID)


def fisher_of_images(resp: Response, white: float, noise: np.ndarray | None = None) -> np.ndarray:
    """Bounds of `check.NAMES` from the pixels around the source and the dense covariance of their noise."""
    node = len(resp.psf) // 2
    pb = float(resp.channels(pb_at(resp.pb, SOURCE))[check.GRID.nchan // 2])
    fitter = check.Fitter(resp.psf[node], pb, SOURCE, NOISE, white, noise)
    rows = []
    for number, value in enumerate(fitter.start()):
        step = np.zeros(len(check.NAMES))
        step[number] = 1e-4 * abs(value)
        rows.append(
            (fitter.model(fitter.start() + step) - fitter.model(fitter.start() - step)).ravel() / (2 * step.max())
        )
    fisher = np.array(rows) @ np.array(rows).T
    index = check.NAMES.index("alpha")
    fisher[index, index] += INDEX_SPREAD**-2
    return np.sqrt(np.diag(np.linalg.inv(fisher)))


@pytest.mark.parametrize(("white", "tolerance"), [(0.0, 0.003), (1.0, 0.01), (5.0, 0.01)])
def test_bounds_are_those_of_the_pixels(resp: Response, white: float, tolerance: float) -> None:
    dense = dict(zip(check.NAMES, fisher_of_images(resp, white * NOISE), strict=True))
    (bounds,) = cramer_rao([SOURCE], resp, FREQ, NOISE, white=white * NOISE)
    assert set(bounds.errors) == set(check.NAMES) - {"alpha"}
    for name, bound in bounds.errors.items():
        assert bound == pytest.approx(dense[name], rel=tolerance), name
    # White noise makes everything worse, and the source is measured well enough for this to mean something.
    (quiet,) = cramer_rao([SOURCE], resp, FREQ, NOISE)
    assert quiet.snr_line > 30
    assert white == 0.0 or all(bounds.errors[name] > 1.01 * error for name, error in quiet.errors.items())


@pytest.mark.parametrize(("robust", "lost"), [(2.0, 0.01), (0.5, 0.05)])
@pytest.mark.parametrize("white", [0.0, 1.0])
def test_briggs_weights_can_be_undone(robust: float, lost: float, white: float) -> None:
    coverage = replace(check.COVERAGE, robust=robust)
    weighted = response(coverage, check.GRID)
    seen = sampling(coverage.uvw(), check.GRID, robust)
    freq = FREQ[NCHAN // 2]
    weights = seen.weights(freq)
    noise = direct_image(*seen.wavelengths(freq), 2 * check.GRID.npix, check.GRID.cell, weights**2)
    # The weights matter: the noise does not look like the PSF.
    assert robust > 1.0 or np.abs(noise / noise.max() - weighted.psf[NCHAN // 2])[40:88, 40:88].max() > 0.03
    dense = dict(zip(check.NAMES, fisher_of_images(weighted, white * NOISE, noise / noise.max()), strict=True))
    (bounds,) = cramer_rao([SOURCE], weighted, FREQ, NOISE, white=white * NOISE)
    for name, bound in bounds.errors.items():
        # The bound is that of the visibilities; a weighted image of finite size holds a little less.
        assert 0.99 * bound < dense[name] < (1.0 + lost) * bound, name


def test_scatter_of_brute_force_fits_is_the_bound() -> None:
    draws = 300
    result = check.measure(draws, seed=8)
    assert len(result) == 9
    for name, (_, ratio, offset) in result.items():
        assert ratio == pytest.approx(1.0, abs=0.1), name
        assert abs(offset) < 3.5, name


def test_the_benchmark_prints_a_verdict(capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(["bounds", "--draws", "6"]) == 0
    text = capsys.readouterr().out
    assert "line_flux" in text and "standard error 0.316" in text
    assert "more draws are needed" in text


def test_snr_is_the_matched_filters(resp: Response) -> None:
    (bounds,) = cramer_rao([SOURCE], resp, FREQ, NOISE)
    gain = resp.channels(pb_at(resp.pb, SOURCE)) ** 2 * resp.channels(resp.overlap(SOURCE)) / NOISE**2
    assert bounds.snr_line == pytest.approx(np.sqrt((gain * SOURCE.line_spectrum(NCHAN) ** 2).sum()), rel=2e-3)
    assert bounds.snr_continuum == pytest.approx(np.sqrt((gain * SOURCE.continuum_spectrum(FREQ) ** 2).sum()), rel=2e-3)
    twice = cramer_rao([SOURCE.scaled(2.0)], resp, FREQ, NOISE)[0]
    assert twice.snr_line == pytest.approx(2.0 * bounds.snr_line)
    # Twice the flux halves the errors of what is no flux, and leaves those of the fluxes.
    assert twice.errors["x"] == pytest.approx(0.5 * bounds.errors["x"], rel=1e-3)
    assert twice.errors["line_flux"] == pytest.approx(bounds.errors["line_flux"], rel=1e-3)


def test_blends_are_harder(resp: Response) -> None:
    alone = cramer_rao([SOURCE], resp, FREQ, NOISE)[0].errors
    near = cramer_rao([SOURCE, replace(SOURCE, x=SOURCE.x + 4.0, chan=SOURCE.chan + 1.0)], resp, FREQ, NOISE)[0].errors
    assert all(near[name] > 1.05 * error for name, error in alone.items())
    # Lines that do not overlap in frequency do not disturb each other.
    line = replace(SOURCE, continuum=0.0, line_fwhm=2.0, chan=2.5)
    apart = cramer_rao([line, replace(line, x=line.x + 4.0, chan=9.5)], resp, FREQ, NOISE)[0].errors
    for name, error in cramer_rao([line], resp, FREQ, NOISE)[0].errors.items():
        assert apart[name] == pytest.approx(error, rel=1e-6), name
    same = cramer_rao([SOURCE, SOURCE], resp, FREQ, NOISE)[0].errors
    assert all(np.isinf(error) for error in same.values())


def test_parts_that_a_source_does_not_have_have_no_bound(resp: Response) -> None:
    continuum = cramer_rao([replace(SOURCE, line=0.0)], resp, FREQ, NOISE)[0]
    assert set(continuum.errors) == {"x", "y", "fwhm_maj", "fwhm_min", "pa", "continuum"}
    assert continuum.snr_line == 0.0 < continuum.snr_continuum
    line = cramer_rao([replace(SOURCE, continuum=0.0)], resp, FREQ, NOISE)[0]
    assert "continuum" not in line.errors
    assert line.snr_continuum == 0.0 < line.snr_line
    both = cramer_rao([SOURCE], resp, FREQ, NOISE)[0]
    assert both.errors["line_flux"] > line.errors["line_flux"]
    assert cramer_rao([], resp, FREQ, NOISE) == []


def test_absorption_is_as_hard_as_emission(resp: Response) -> None:
    source = replace(SOURCE, continuum=0.0)
    emission, absorption = (cramer_rao([replace(source, line=line)], resp, FREQ, NOISE)[0] for line in (0.06, -0.06))
    assert absorption.snr_line == pytest.approx(emission.snr_line)
    assert absorption.errors == pytest.approx(emission.errors)


def test_points_and_round_sources(resp: Response) -> None:
    point = replace(SOURCE, fwhm_maj=0.0, fwhm_min=0.0)
    errors = cramer_rao([point], resp, FREQ, NOISE)[0].errors
    assert np.isinf(errors["pa"])
    # The size of a point is bounded by what can be told from one: a source of that size has the same bound.
    limit = errors["fwhm_maj"]
    assert 0.2 < limit < 3.0
    small = replace(point, fwhm_maj=0.1 * limit, fwhm_min=0.1 * limit)
    assert cramer_rao([small], resp, FREQ, NOISE)[0].errors["fwhm_maj"] == pytest.approx(limit, rel=0.02)
    # The bound falls without a step from there to resolved sources.
    sizes = np.linspace(0.0, 1.0, 201)
    bounds = [
        cramer_rao([replace(point, fwhm_maj=s, fwhm_min=s)], resp, FREQ, NOISE)[0].errors["fwhm_maj"] for s in sizes
    ]
    assert np.abs(np.diff(bounds)).max() < 0.1 * limit
    assert np.isinf(cramer_rao([replace(SOURCE, fwhm_min=SOURCE.fwhm_maj)], resp, FREQ, NOISE)[0].errors["pa"])


def test_noise_of_every_channel(resp: Response) -> None:
    sigma = np.full(NCHAN, NOISE)
    flat = cramer_rao([SOURCE], resp, FREQ, sigma)[0].errors
    assert flat == pytest.approx(cramer_rao([SOURCE], resp, FREQ, NOISE)[0].errors)
    flagged = sigma.copy()
    flagged[4:7] = np.nan
    huge = sigma.copy()
    huge[4:7] = 1e6 * NOISE
    for white in (0.0, NOISE):
        lost = cramer_rao([SOURCE], resp, FREQ, flagged, white=white)[0].errors
        assert lost["line_flux"] > 1.2 * flat["line_flux"]
        if not white:
            assert lost == pytest.approx(cramer_rao([SOURCE], resp, FREQ, huge)[0].errors, rel=1e-4)
    # With white noise the weights of the uv plane depend on the channel's own noise.
    slope = np.linspace(0.5, 3.0, NCHAN) * NOISE
    alone = np.full((NCHAN, NCHAN), np.nan)
    np.fill_diagonal(alone, slope)
    parts = [cramer_rao([SOURCE], resp, FREQ, sigma, white=NOISE)[0].snr_line for sigma in alone]
    (bounds,) = cramer_rao([SOURCE], resp, FREQ, slope, white=NOISE)
    assert bounds.snr_line == pytest.approx(np.sqrt(np.square(parts).sum()), rel=2e-3)


def test_further_lines(resp: Response) -> None:
    source = replace(SOURCE, extra_lines=(Line(9.0, 2.5, 0.03),))
    errors = cramer_rao([source], resp, FREQ, NOISE)[0].errors
    assert {"line2_chan", "line2_fwhm", "line2_flux"} < set(errors)
    turned = replace(source, line=0.03, chan=9.0, line_fwhm=2.5, extra_lines=(Line(5.3, 4.0, 0.06),))
    other = cramer_rao([turned], resp, FREQ, NOISE)[0].errors
    assert errors["line2_flux"] == pytest.approx(other["line_flux"], rel=1e-6)
    assert errors["x"] < cramer_rao([SOURCE], resp, FREQ, NOISE)[0].errors["x"]


DISC = disc(30.3, 33.8, 9.0, 40.0, Rotation(3.0, 1.5, 2.5, 65.0), continuum=0.01, line=0.05, chan=5.3)


def of_components(source: Source, kx: np.ndarray, ky: np.ndarray) -> np.ndarray:
    """(nchan, ncell) transform of a source from the components that the simulator observes."""
    total = np.zeros((NCHAN, len(kx)), complex)
    for part in source.components(FREQ):
        x, y = part.stamp_axes()
        wave_x, wave_y = np.exp(-2j * np.pi * np.outer(kx, x)), np.exp(-2j * np.pi * np.outer(ky, y))
        total += np.outer(part.spectrum, ((wave_y @ part.stamp) * wave_x).sum(axis=1))
    return total


def moved_disc(name: str, step: float) -> Source:
    """`DISC` with one parameter changed."""
    values = {"x": DISC.x, "y": DISC.y, "fwhm_maj": DISC.fwhm_maj, "pa": DISC.pa}
    fluxes = {"continuum": DISC.continuum, "line": DISC.line * DISC.line_fwhm, "chan": DISC.chan}
    spin = {n: getattr(DISC.rotation, n) for n in ("velocity", "turnover", "dispersion", "inclination")}
    for group in (values, fluxes, spin):
        if name in group:
            group[name] += step
    new = disc(**values, rotation=Rotation(**spin), **{k: v for k, v in fluxes.items() if k != "line"})
    return replace(new, line=fluxes["line"] / new.line_fwhm)


def test_a_disc_against_finite_differences_of_its_components(resp: Response) -> None:
    information = Information(resp, NOISE)
    kx, ky = information.kx, information.ky
    steps = {
        "x": 0.05, "y": 0.05, "fwhm_maj": 0.2, "pa": 2.0, "inclination": 1.0, "continuum": 1e-3, "velocity": 0.1,
        "turnover": 0.1, "dispersion": 0.1, "line": 1e-3, "chan": 0.05,
    }  # fmt: skip
    cells = [
        (of_components(moved_disc(name, step), kx, ky) - of_components(moved_disc(name, -step), kx, ky)) / (2 * step)
        for name, step in steps.items()
    ]
    beam = information.beams(DISC)[:, None] / NOISE
    weights = information.mixing @ information.weights
    seen = np.array(cells) * beam
    fisher = np.einsum("pck,qck->pq", seen * weights, seen.conj()).real
    dense = dict(zip(steps, np.sqrt(np.diag(np.linalg.inv(fisher))), strict=True))
    (bounds,) = cramer_rao([DISC], resp, FREQ, NOISE)
    assert bounds.snr_line > 20
    renamed = {"line": "line_flux", "chan": "line_chan"}
    for name, error in dense.items():
        key = f"rotation_{name}" if hasattr(DISC.rotation, name) else renamed.get(name, name)
        factor = 1.0645 if name == "line" else 1.0
        assert bounds.errors[key] == pytest.approx(factor * error, rel=0.015), name
    line = np.sqrt((np.abs(of_components(replace(DISC, continuum=0.0), kx, ky) * beam) ** 2 * weights).sum())
    assert bounds.snr_line == pytest.approx(line, rel=0.01)


def test_what_a_disc_hides(resp: Response) -> None:
    model = derivatives(DISC, FREQ)
    assert model.spectra.shape[1] < 80
    face_on = disc(30.3, 33.8, 9.0, 40.0, Rotation(3.0, 1.5, 2.5, 0.0), line=0.05, chan=5.3)
    errors = cramer_rao([face_on], resp, FREQ, NOISE)[0].errors
    # Only velocity sin(inclination) is seen, and it is 0.
    assert np.isinf([errors["rotation_velocity"], errors["rotation_turnover"]]).all()
    assert errors["rotation_dispersion"] < 1.0
    still = cramer_rao([replace(DISC, line=0.0)], resp, FREQ, NOISE)[0].errors
    assert set(still) == {"x", "y", "fwhm_maj", "fwhm_min", "pa", "rotation_inclination", "continuum"}
    two = replace(DISC, extra_lines=(Line(8.0, DISC.line_fwhm, 0.02),))
    errors = cramer_rao([two], resp, FREQ, NOISE)[0].errors
    assert errors["line2_fwhm"] == errors["line_fwhm"]
    assert errors["line2_flux"] > 0
    with pytest.raises(TypeError, match="rotation"):
        disc_derivatives(SOURCE, FREQ)
