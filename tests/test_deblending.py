"""The decision graph of Fig. 14: planted blobs, condition by condition."""

import dataclasses
from functools import lru_cache

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from casa_deepfocus.core import deblending
from casa_deepfocus.core.boxes import Box, box_of
from casa_deepfocus.core.deblending import (
    Candidate,
    GraphThresholds,
    are_superposed,
    at_same_position,
    decide,
    join_peaks,
    merge_candidates,
    passes_condition_1,
    passes_condition_2,
    passes_final_cut,
)
from casa_deepfocus.core.focusing import focus, grow_friends, subtract_source
from casa_deepfocus.core.geometry import FWHM_PER_SIGMA, gaussian_image, shape_to_covariance
from casa_deepfocus.core.spectra import Peak, extract_spectrum, find_peaks
from casa_deepfocus.errors import ParameterError

NCHAN, SIDE, BEAM = 96, 96, 6.0
BEAM_COVARIANCE = shape_to_covariance(BEAM, BEAM, 0.0)
SIGMA = np.ones(NCHAN)
BOX = Box(38, 38, 58, 54)


def line(chan, fwhm):
    return np.exp(-4.0 * np.log(2.0) * ((np.arange(NCHAN) - chan) / fwhm) ** 2)


@lru_cache(maxsize=16)
def noise(seed):
    """Noise of rms 1, correlated over the beam, independent between channels; not to be written to."""
    smooth = BEAM / FWHM_PER_SIGMA / np.sqrt(2.0)
    cube = gaussian_filter(np.random.default_rng(seed).normal(size=(NCHAN, SIDE, SIDE)), (0, smooth, smooth))
    return (cube / cube.std()).astype(np.float32)


def planted(*sources, seed=0):
    """Noise and sources (x, y, intrinsic FWHM, chan, line FWHM, peak per channel in sigma)."""
    cube = noise(seed).copy()
    for x, y, fwhm, chan, width, peak in sources:
        shape = BEAM_COVARIANCE + shape_to_covariance(fwhm, fwhm, 0.0)
        image = gaussian_image((SIDE, SIDE), x, y, shape)
        cube += (peak * line(chan, width)[:, None, None] * image).astype(np.float32)
    return cube


def peaks_of(*lines):
    """What an ideal Deep GRU gives: every line of height 1."""
    return find_peaks(np.max([line(chan, fwhm) for chan, fwhm in lines], axis=0))


def reasons(items):
    return [item.reason for item in items]


A = (44.0, 46.0, 3.0, 30.0, 8.0, 5.0)
B = (50.0, 47.0, 3.0, 62.0, 10.0, 3.5)


class TestConditions:
    def test_condition_1(self):
        assert passes_condition_1(7.0, 1.0)
        assert passes_condition_1(2.0, 4.0) and not passes_condition_1(4.0, 2.0)
        assert not passes_condition_1(float("nan"), float("nan")) and passes_condition_1(float("nan"), 4.0)
        strict = GraphThresholds(bright=10.0, increase=1.5)
        assert not passes_condition_1(7.0, 1.0, strict) and not passes_condition_1(2.0, 2.9, strict)

    def test_condition_2(self):
        assert not passes_condition_2(superposed=True, same_position=True)
        assert passes_condition_2(True, False) and passes_condition_2(False, True) and passes_condition_2(False, False)

    def test_superposed(self):
        one = Peak.from_gaussian(30.0, 8.0, 1.0, NCHAN)
        assert are_superposed(one, Peak.from_gaussian(40.0, 6.0, 1.0, NCHAN))
        assert not are_superposed(one, Peak.from_gaussian(42.0, 6.0, 1.0, NCHAN))

    def test_same_position(self):
        assert at_same_position((0, 0), (3, 0), 3.0) and not at_same_position((0, 0), (3, 1), 3.0)

    def test_final_cut(self):
        assert passes_final_cut(2.6) and not passes_final_cut(2.4) and not passes_final_cut(float("nan"))

    def test_thresholds_are_frozen(self):
        with pytest.raises(dataclasses.FrozenInstanceError):
            GraphThresholds().final = 1.0

    def test_join(self):
        joined = join_peaks(Peak(20.0, 4.0, 0.9, 16, 24), Peak(26.0, 6.0, 1.0, 20, 32))
        assert joined == Peak(23.5, 11.0, 1.0, 16, 32)


class TestSingle:
    def test_a_line_is_kept_where_it_is(self):
        (found,), rejected = decide(planted(A), SIGMA, BOX, (45, 45), peaks_of((30, 8)), group=7)
        assert (found.x, found.y) == pytest.approx((44.0, 46.0), abs=0.7)
        assert found.chan == pytest.approx(30.0, abs=0.1) and (found.chan0, found.chan1) == (22, 38)
        assert found.primary and found.group == 7 and rejected == []
        assert found.pixel_snr > 8.0 and found.snr > 4.0

    def test_no_peak(self):
        assert decide(planted(A), SIGMA, BOX, (45, 45), []) == ([], [deblending.Rejected(0, None, "no peak", ANY_NAN)])

    def test_bright_in_the_integrated_image(self):
        (found,), _ = decide(planted(A), SIGMA, BOX, (44, 46), peaks_of((30, 8)), integrated_snr=50.0)
        assert found.reason == "bright"
        (found,), _ = decide(planted(A), SIGMA, BOX, (44, 46), peaks_of((30, 8)))
        assert found.reason == "snr increase"

    def test_a_peak_without_a_source_fails_condition_1(self):
        """Focused on channels off the line the SNR falls: the peak is false (border peaks of the paper)."""
        cube = planted(A)
        candidates, rejected = decide(cube, SIGMA, BOX, (44, 46), peaks_of((90, 4)), integrated_snr=3.0)
        assert candidates == [] and reasons(rejected) == ["condition 1"]

    def test_noise_ends_at_the_final_cut(self):
        outcomes = []
        for seed in range(12):
            candidates, rejected = decide(noise(seed), SIGMA, BOX, (48, 46), peaks_of((50, 8)))
            outcomes += reasons(candidates + rejected)
            assert not candidates
        assert "final cut" in outcomes and set(outcomes) <= {"final cut", "condition 1"}

    def test_the_shoulder_of_a_neighbour_is_marked(self):
        cube = planted((70.0, 46.0, 12.0, 30.0, 8.0, 20.0))
        candidates, _ = decide(cube, SIGMA, Box(58, 43, 63, 49), (60, 46), peaks_of((30, 8)))
        assert reasons(candidates) == ["shoulder"]
        assert (candidates[0].x, candidates[0].y) == (60, 46)

    @pytest.mark.parametrize("corner", [(0.0, 0.0), (95.0, 95.0), (95.0, 2.0)])
    def test_edges(self, corner):
        x, y = corner
        box = Box(int(x) - 4, int(y) - 4, int(x) + 4, int(y) + 4)
        (found,), _ = decide(planted((x, y, 3.0, 30.0, 8.0, 6.0)), SIGMA, box, (int(x), int(y)), peaks_of((30, 8)))
        assert (found.x, found.y) == pytest.approx(corner, abs=1.0)

    def test_nan_channels_and_pixels(self):
        cube, sigma = planted(A), SIGMA.copy()
        cube[28], sigma[28] = np.nan, np.nan
        cube[:, 46, 42] = np.nan
        (found,), _ = decide(cube, sigma, BOX, (44, 46), peaks_of((30, 8)))
        assert (found.x, found.y) == pytest.approx((44.0, 46.0), abs=1.2)
        candidates, rejected = decide(np.full_like(cube, np.nan), sigma, BOX, (44, 46), peaks_of((30, 8)))
        assert candidates == [] and reasons(rejected) == ["condition 1"]

    def test_one_channel_cube(self):
        cube = planted(A)[30:31] + 6.0 * gaussian_image((SIDE, SIDE), 44, 46, BEAM_COVARIANCE).astype(np.float32)
        (found,), _ = decide(cube, SIGMA[:1], BOX, (44, 46), find_peaks(np.array([1.0])), integrated_snr=9.0)
        assert (found.chan0, found.chan1) == (0, 0)
        assert decide(cube, SIGMA[:1], BOX, (44, 46), [])[0] == []

    def test_falling_frequencies_do_not_matter(self):
        cube, peaks = planted(A, B), peaks_of((30, 8), (62, 10))
        there, _ = decide(cube, SIGMA, BOX, (44, 46), peaks)
        mirrored = peaks_of((NCHAN - 1 - 30, 8), (NCHAN - 1 - 62, 10))
        back, _ = decide(np.ascontiguousarray(cube[::-1]), SIGMA, BOX, (44, 46), mirrored)
        assert len(there) == 2
        for one, other in zip(there, back, strict=True):
            assert (one.x, one.y, one.box) == (pytest.approx(other.x), pytest.approx(other.y), other.box)
            assert one.chan == pytest.approx(NCHAN - 1 - other.chan, abs=1e-3)


class _Nan(float):
    def __eq__(self, other):
        return isinstance(other, float) and np.isnan(other)

    __hash__ = None


ANY_NAN = _Nan("nan")


class TestSeveral:
    def test_the_blend_is_a_blend(self):
        """The truth is not trivial: the box's spectrum has both lines, and each source holds the other's pixel."""
        clean = planted(A, B) - noise(0)
        spectrum = extract_spectrum(clean, BOX)
        assert [round(peak.chan) for peak in find_peaks(spectrum / spectrum.max())] == [30, 62]
        assert np.hypot(A[0] - B[0], A[1] - B[1]) < 1.02 * BEAM
        assert clean[62, 46, 44] > 0.1 * clean[62, 47, 50] and clean[30, 47, 50] > 0.1 * clean[30, 46, 44]

    @pytest.mark.parametrize("seed", range(6))
    def test_two_sources_at_different_frequencies(self, seed):
        candidates, rejected = decide(planted(A, B, seed=seed), SIGMA, BOX, (46, 46), peaks_of((30, 8), (62, 10)))
        assert reasons(candidates)[1:] == ["new source"] and rejected == []
        first, second = candidates
        assert first.primary and not second.primary
        assert (first.x, first.y) == pytest.approx(A[:2], abs=1.2)
        assert (second.x, second.y) == pytest.approx(B[:2], abs=1.5)
        assert second.chan == pytest.approx(62.0, abs=0.2)
        for found, truth in ((first, A), (second, B)):
            assert found.box.contains(truth[0], truth[1]) and 4 <= found.box.width <= 16 and found.box != BOX

    def test_the_brighter_line_is_the_primary_whatever_the_order(self):
        """Deep GRU gives every line the height 1, so the height cannot rank them: the SNR does."""
        swapped = ((*A[:3], 62.0, 10.0, 4.0), (*B[:3], 30.0, 8.0, 2.5))
        first, second = decide(planted(*swapped), SIGMA, BOX, (46, 46), peaks_of((30, 8), (62, 10)))[0]
        assert first.chan == pytest.approx(62, abs=0.2) and second.chan == pytest.approx(30, abs=0.2)

    def test_second_line_of_the_same_source(self):
        cube = planted(A, (44.0, 46.0, 3.0, 62.0, 10.0, 2.5))
        candidates, _ = decide(cube, SIGMA, BOX, (44, 46), peaks_of((30, 8), (62, 10)), integrated_snr=4.0)
        assert reasons(candidates) == ["snr increase", "second line"]
        assert at_same_position((candidates[1].x, candidates[1].y), (44, 46), 2.0)

    def test_a_false_secondary_peak_is_not_significant(self):
        for seed in range(8):
            candidates, rejected = decide(planted(A, seed=seed), SIGMA, BOX, (44, 46), peaks_of((30, 8), (70, 8)))
            assert reasons(candidates) == ["snr increase"] and reasons(rejected) == ["not significant"]

    def test_a_split_line_is_joined(self):
        """One wide line that Deep GRU reports as two: the range is extended over both."""
        cube = planted((44.0, 46.0, 3.0, 40.0, 20.0, 4.0))
        split = [Peak.from_gaussian(35.0, 8.0, 1.0, NCHAN), Peak.from_gaussian(45.0, 8.0, 0.9, NCHAN)]
        assert are_superposed(*split)
        (found,), rejected = decide(cube, SIGMA, BOX, (44, 46), split)
        assert rejected == [] and found.chan == pytest.approx(40.0, abs=1.5)
        assert found.chan0 <= 28 and found.chan1 >= 52 and found.fwhm == pytest.approx(18.0, abs=1.0)
        alone, _ = decide(cube, SIGMA, BOX, (44, 46), split[:1])
        assert found.pixel_snr > alone[0].pixel_snr

    def test_a_noise_spike_beside_the_line_fails_condition_2(self):
        cube = planted((44.0, 46.0, 3.0, 40.0, 4.0, 8.0))
        spiky = [Peak.from_gaussian(40.0, 4.0, 1.0, NCHAN), Peak.from_gaussian(45.0, 5.0, 0.5, NCHAN)]
        (found,), rejected = decide(cube, SIGMA, BOX, (44, 46), spiky)
        assert reasons(rejected) == ["condition 2"] and rejected[0].peak == spiky[1]
        assert found.chan == 40.0 and found.fwhm == 4.0

    def test_superposed_in_frequency_but_elsewhere(self):
        """The brighter source outshines the other's own channels; subtracting it reveals the other."""
        bright, faint = (44.0, 46.0, 1.0, 36.0, 14.0, 20.0), (51.0, 47.0, 1.0, 45.0, 8.0, 4.0)
        cube, split = planted(bright, faint), [(36.0, 14.0), (45.0, 8.0)]
        peaks = [Peak.from_gaussian(*item, 1.0, NCHAN) for item in split]
        assert are_superposed(*peaks)
        image, _ = focus(cube, 41, 49, SIGMA)
        assert image[46, 44] > image[47, 51]
        candidates, _ = decide(cube, SIGMA, BOX, (44, 46), peaks)
        assert reasons(candidates) == ["bright", "new source"]
        assert (candidates[1].x, candidates[1].y) == pytest.approx(faint[:2], abs=1.5)

    def test_three_sources(self):
        c = (46.0, 53.0, 2.0, 85.0, 6.0, 4.0)
        peaks = peaks_of((30, 8), (62, 10), (85, 6))
        candidates, _ = decide(planted(A, B, c), SIGMA, Box(38, 38, 58, 58), (46, 46), peaks)
        assert reasons(candidates) == ["bright", "new source", "new source"]
        found = sorted((round(item.chan), item.x, item.y) for item in candidates)
        for (chan, x, y), truth in zip(found, (A, B, c), strict=True):
            assert chan == truth[3] and (x, y) == pytest.approx(truth[:2], abs=1.5)

    def test_a_false_blob_with_two_peaks(self):
        candidates, rejected = decide(noise(3), SIGMA, BOX, (48, 46), peaks_of((30, 8), (70, 8)), integrated_snr=4.9)
        assert candidates == [] and len(rejected) == 2


class TestGrowth:
    def image(self, fwhm=(10.0, 7.0, 40.0), x=30.0, y=28.0, peak=30.0):
        return peak * gaussian_image((64, 64), x, y, shape_to_covariance(*fwhm))

    def test_plateau_is_the_28_percent_contour(self):
        members, snr = grow_friends(self.image(), (30, 28), 1.0)
        expected = self.image() >= 0.285 * 30.0
        assert expected.sum() > 60
        assert np.sum(members ^ expected) < 0.2 * expected.sum()
        assert snr == pytest.approx(self.image()[members].sum() / np.sqrt(members.sum()))
        more = self.image() >= 0.1 * 30.0
        assert snr > self.image()[more].sum() / np.sqrt(more.sum())

    def test_does_not_climb_into_a_brighter_neighbour(self):
        image = self.image(peak=10.0) + self.image(x=42.0, peak=60.0)
        members, _ = grow_friends(image, (30, 28), 1.0)
        assert members[28, 30] and not members[28, 40:].any()

    def test_noise_does_not_make_it_leak(self):
        rng = np.random.default_rng(0)
        for _ in range(10):
            smooth = gaussian_filter(rng.normal(size=(64, 64)), 2.0)
            image = self.image(peak=6.0) + smooth / smooth.std()
            y, x = np.unravel_index(np.argmax(image * (self.image() > 15)), image.shape)
            box = box_of(grow_friends(image, (int(x), int(y)), 1.0)[0])
            assert box.contains(30, 28) and 4 <= box.width <= 28 and 4 <= box.height <= 28

    def test_linking_length_bridges_a_gap(self):
        image = self.image()
        image[:, 33] = np.nan
        assert not grow_friends(image, (30, 28), 1.0, linking=1)[0][:, 34:].any()
        assert grow_friends(image, (30, 28), 1.0, linking=2)[0][:, 34:].any()

    def test_edge_and_single_pixel(self):
        members, _ = grow_friends(self.image(x=0.0, y=0.0), (0, 0), 1.0)
        assert box_of(members).x0 == 0 and members.sum() > 10
        lone = np.full((5, 5), np.nan)
        lone[2, 2] = 4.0
        members, snr = grow_friends(lone, (2, 2), 2.0)
        assert members.sum() == 1 and snr == 2.0

    def test_refusals(self):
        for seed in ((-1, 2), (200, 2)):
            with pytest.raises(ParameterError, match="seed"):
                grow_friends(self.image(), seed, 1.0)
        with pytest.raises(ParameterError, match="seed"):
            grow_friends(-self.image(), (30, 28), 1.0)
        with pytest.raises(ParameterError, match="sigma"):
            grow_friends(self.image(), (30, 28), 0.0)


def test_subtraction_is_exact_and_its_noise_is_right():
    cube, sigma = noise(5), SIGMA
    cube = np.concatenate([cube, noise(6)], axis=2)[:, :, :SIDE]
    one, one_noise = focus(cube, 20, 39, sigma)
    two, two_noise = focus(cube, 30, 49, sigma)
    image = 100.0 * gaussian_image((SIDE, SIDE), 40, 40, BEAM_COVARIANCE)
    residual, rms = subtract_source(two + 0.5 * image, two_noise, one + image, one_noise, (40, 40), shared=10.0)
    assert residual[40, 40] == pytest.approx(0.0, abs=1e-3)
    assert np.std(residual) == pytest.approx(rms, rel=0.05)
    same, rms = subtract_source(two, 2.0, -image, 1.0, (40, 40))
    assert rms == 2.0 and np.array_equal(same, two)


class TestMerge:
    def candidate(self, **changes):
        base = Candidate(40.0, 41.0, Box(36, 37, 44, 45), 30.0, 8.0, 22, 38, 5.0, 7.0, True, 0, "bright")
        return dataclasses.replace(base, **changes)

    def test_one_of_two_blobs_of_one_source_remains(self):
        better = self.candidate(x=41.0, chan=32.0, pixel_snr=9.0, group=1)
        kept, rejected = merge_candidates([self.candidate(), better])
        assert kept == [better] and reasons(rejected) == ["duplicate"] and rejected[0].group == 0

    def test_others_stay(self):
        items = [self.candidate(), self.candidate(x=46.0), self.candidate(chan=60.0)]
        kept, rejected = merge_candidates(items)
        assert len(kept) == 3 and rejected == []
        assert merge_candidates([]) == ([], [])
