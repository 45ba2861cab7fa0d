"""Sizes from covariances: little bias, small scatter, honest errors."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.sizes import error_matrix
from casa_deepfocus.core.geometry import FWHM_PER_SIGMA, covariance_to_shape, shape_to_covariance
from casa_deepfocus.core.sizes import sizes


def test_well_measured_sizes_are_the_roots_with_linear_errors():
    covariance = shape_to_covariance(6.0, 3.0, 35.0)
    matrix = error_matrix(covariance, 1000.0)
    draws = covariance + np.random.default_rng(3).multivariate_normal(np.zeros(3), matrix, size=20000)
    major, minor, _ = covariance_to_shape(draws)
    found = sizes(covariance, matrix)
    assert found[:2] == pytest.approx((6.0, 3.0), abs=2e-3)
    assert found[2:] == pytest.approx((major.std(), minor.std()), rel=0.03)


def test_bias_and_error_are_smaller_than_those_of_the_eigenvalues():
    rng = np.random.default_rng(5)
    plain, ours, inside = [], [], []
    for _ in range(1000):
        minor, major = np.sort(rng.uniform(2.0, 8.0, 2))
        true = shape_to_covariance(major, minor, rng.uniform(0.0, 180.0))
        snr = 10 ** rng.uniform(1.5, 2.3)
        covariance = rng.multivariate_normal(true, error_matrix(true, snr))
        values, axes = np.linalg.eigh(covariance[[0, 2, 2, 1]].reshape(2, 2))
        bounded = axes @ np.diag(np.maximum(values, -1.5)) @ axes.T  # as the fit does it
        covariance = np.array([bounded[0, 0], bounded[1, 1], bounded[0, 1]])
        found = sizes(covariance, error_matrix(covariance, snr))
        roots = [float(value) for value in covariance_to_shape(covariance)[:2]]
        plain.append([roots[0] - major, roots[1] - minor])
        ours.append([found[0] - major, found[1] - minor])
        inside.append(np.abs(ours[-1]) < found[2:])
    plain, ours = np.array(plain), np.array(ours)
    standard_error = plain.std(axis=0) / np.sqrt(len(plain))
    assert (np.abs(plain.mean(axis=0)) > 4 * standard_error).all(), "the eigenvalues' roots must be biased"
    assert (np.abs(ours.mean(axis=0)) < 0.6 * np.abs(plain.mean(axis=0))).all()
    rms = [np.sqrt(np.square(residuals).mean(axis=0)) for residuals in (plain, ours)]
    assert rms[1][0] < rms[0][0] and rms[1][1] < 0.9 * rms[0][1]
    assert ours[:, 0].std() < 1.01 * plain[:, 0].std() and ours[:, 1].std() < 0.9 * plain[:, 1].std()
    assert np.mean(inside, axis=0) == pytest.approx([0.68, 0.68], abs=0.04)


def biases(truth, rng):
    """Found minus true of (major, minor) for a list of (major, minor, snr): (n, 2) of the roots, and of ours."""
    plain, ours = [], []
    for major, minor, snr in truth:
        true = shape_to_covariance(major, minor, rng.uniform(0.0, 180.0))
        covariance = rng.multivariate_normal(true, error_matrix(true, snr))
        plain.append([float(value) for value in covariance_to_shape(covariance)[:2]])
        ours.append(sizes(covariance, error_matrix(covariance, snr))[:2])
    axes = np.array(truth)[:, :2]
    return np.array(plain) - axes, np.array(ours) - axes


def in_standard_errors(residuals):
    """Mean over its standard error."""
    return residuals.mean(axis=0) / (residuals.std(axis=0) / np.sqrt(len(residuals)))


@pytest.mark.parametrize("thinnest", [0.2, 0.3])
def test_no_bias_on_the_average_over_axis_ratios(thinnest):
    """Discs a fifth as thick as wide, from all sides: their axis ratios are uniform from 0.2 to 1, nearly."""
    rng = np.random.default_rng(9)
    truth = []
    for _ in range(1200):
        major = rng.uniform(2.0, 16.0)
        truth.append((major, major * rng.uniform(thinnest, 1.0), 10 ** rng.uniform(1.3, 2.3)))
    plain, ours = biases(truth, rng)
    assert in_standard_errors(plain)[1] < -4.0, "the smaller eigenvalue's root must be biased"
    assert (np.abs(in_standard_errors(ours)) < 3.0).all()


def test_round_sources_come_out_long_by_less_than_their_error():
    """Of two equal axes the longer one found is the major one: its mean is above both, whatever the estimate."""
    plain, ours = biases([(5.0, 5.0, 60.0)] * 400, np.random.default_rng(2))
    error = error_matrix(shape_to_covariance(5.0, 5.0, 0.0), 60.0)[0, 0] ** 0.5 * FWHM_PER_SIGMA**2 / (2.0 * 5.0)
    assert (in_standard_errors(ours)[0] > 4.0) and (in_standard_errors(ours)[1] < -4.0)
    assert (np.abs(ours.mean(axis=0)) < error).all()
    assert (np.abs(ours.mean(axis=0)) < np.abs(plain.mean(axis=0))).all()
    assert abs(in_standard_errors(ours.mean(axis=1))) < 3.0, "the mean of both is right"


@pytest.mark.parametrize(("major", "minor", "snr"), [(5.0, 3.0, 20.0), (5.0, 5.0, 30.0), (0.0, 0.0, 15.0)])
def test_sum_against_random_numbers(major, minor, snr):
    """The posterior by brute force: covariances drawn about the fit, weighed with the prior."""
    covariance = shape_to_covariance(major, minor, 20.0)
    matrix = error_matrix(covariance, snr)
    draws = np.random.default_rng(8).multivariate_normal(covariance, matrix, size=400000)
    m, d = 0.5 * (draws[:, 0] + draws[:, 1]), np.hypot(0.5 * (draws[:, 1] - draws[:, 0]), draws[:, 2])
    m, d = m[m > d], d[m > d]
    weights = (m + d) ** -0.25 * (m - d) ** 0.75 / d
    weights /= weights.sum()
    big, small = FWHM_PER_SIGMA * np.sqrt(m + d), FWHM_PER_SIGMA * np.sqrt(m - d)
    expected = [float(weights @ big), float(weights @ small)]
    expected += [
        float(np.sqrt(weights @ big**2 - expected[0] ** 2)),
        float(np.sqrt(weights @ small**2 - expected[1] ** 2)),
    ]
    assert sizes(covariance, matrix) == pytest.approx(expected, rel=0.02)


def test_far_from_positive_and_without_errors():
    matrix = error_matrix(np.zeros(3), 10.0)
    deep = -3.0 * np.sqrt(matrix[0, 0])
    major, minor, major_err, minor_err = sizes(np.array([deep, deep, 0.0]), matrix)
    shallow = sizes(np.zeros(3), matrix)
    assert 0 < minor < major < shallow[0] and 0 < minor_err and 0 < major_err
    assert sizes(shape_to_covariance(5.0, 4.0, 10.0), np.zeros((3, 3)))[:2] == pytest.approx((5.0, 4.0))
    assert np.isnan(sizes(np.zeros(3), np.zeros((3, 3)))[2:]).all()
    thin = sizes(shape_to_covariance(60.0, 1.0, 10.0), error_matrix(shape_to_covariance(60.0, 1.0, 10.0), 300.0))
    assert thin[0] == pytest.approx(60.0, rel=0.01) and thin[1] < 3.0
