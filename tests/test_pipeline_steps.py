"""The pipeline's own decisions, one by one, on hand-made states."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy import ndimage

from casa_deepfocus.core import noise
from casa_deepfocus.core.boxes import Box
from casa_deepfocus.core.component import Component
from casa_deepfocus.core.cube import Cube
from casa_deepfocus.core.detection import Blob, DetectionMap, strongest_window, weighted_mean
from casa_deepfocus.core.fit import JointFit
from casa_deepfocus.core.geometry import shape_to_covariance
from casa_deepfocus.core.psf import Imager, gaussian_psf, gaussian_transform
from casa_deepfocus.core.spectra import Peak
from casa_deepfocus.errors import ParameterError
from casa_deepfocus.pipeline import Options, blobs, joint, lines
from casa_deepfocus.pipeline.state import Search
from tests.fake_networks import FilterNetworks

NPIX, NCHAN, BEAM = 64, 32, 6.0


def make_search(**options) -> Search:
    beams = np.tile([0.6, 0.6, 0.0], (NCHAN, 1))
    psf = gaussian_psf(beams, 0.1, (2 * NPIX, 2 * NPIX))
    data = np.random.default_rng(0).standard_normal((NCHAN, NPIX, NPIX)).astype(np.float32)
    pb = np.ones((1, NPIX, NPIX), np.float32)
    pb[0, :5] = np.nan
    cube = Cube(data, psf, pb, 1e11 + 1e7 * np.arange(NCHAN), beams, 0.1)
    imager = Imager(psf, cube.shape)
    sigma = np.ones(NCHAN)
    fit = JointFit(data, sigma, imager, cube.beam_covariance())
    return Search(cube, FilterNetworks(), Options(**options), sigma, fit, imager, np.zeros(cube.shape, np.float32))


def blob(x, y, snr, index=0):
    return Blob(x, y, Box(int(x) - 2, int(y) - 2, int(x) + 2, int(y) + 2), 0.9, snr, index, np.ones((5, 5), np.float32))


def window(chan0, chan1, kind="line"):
    return DetectionMap(np.zeros((NPIX, NPIX), np.float32), chan0, chan1, kind)


def line_at(x, y, chan=10.0, fwhm=4.0, **values):
    out = Component(x, y, shape_to_covariance(3.0, 3.0, 0.0), amp=1.0, chan=chan, fwhm=fwhm, has_cont=True)
    out.snr_line, out.snr_cont = 20.0, 1.0
    out.errors = {"x": 0.1, "y": 0.1}
    for name, value in values.items():
        setattr(out, name, value)
    return out


def continuum_at(x, y, **values):
    return line_at(x, y, **({"has_line": False, "amp": 0.0, "cont": 2.0, "snr_line": 0.0, "snr_cont": 15.0} | values))


def test_shared_channels():
    assert blobs.shared_channels(window(4, 7), window(4, 7)) == 1.0
    assert blobs.shared_channels(window(0, 3), window(4, 7)) == 0.0
    assert blobs.shared_channels(window(0, 15), window(0, 3)) == pytest.approx(0.5)
    assert blobs.shared_channels(window(0, 31, "integrated"), window(0, 3)) == 0.0


def test_sidelobes_of_brighter_blobs_wait():
    psf = np.zeros((1, 128, 128), np.float32)
    psf[0, 64, 64] = 1.0
    psf[0, 64, 84] = psf[0, 64, 44] = 0.2
    imager = Imager(psf, (64, 64), tolerance=0)
    maps = [window(0, 7), window(4, 11), window(20, 27)]
    bright, sidelobe, real = blob(20, 30, 100.0), blob(40, 30, 22.0), blob(40, 30, 40.0)
    assert blobs.without_sidelobes([bright, sidelobe], maps, imager, BEAM, 1.5) == [bright]
    assert blobs.without_sidelobes([bright, real], maps, imager, BEAM, 1.5) == [bright, real]
    elsewhere = blob(40, 30, 22.0, index=2)
    assert blobs.without_sidelobes([bright, elsewhere], maps, imager, BEAM, 1.5) == [bright, elsewhere]
    half = blob(40, 30, 14.0, index=1)
    assert blobs.without_sidelobes([bright, half], maps, imager, BEAM, 1.5) == [bright]


def test_neighbours_of_other_maps_wait_a_blend_does_not():
    maps = [window(4, 9), window(8, 13), window(20, 25)]
    first, blended = blob(30, 30, 20.0), blob(35, 30, 10.0)
    moving, other = blob(34, 32, 15.0, index=1), blob(34, 32, 15.0, index=2)
    assert blobs.without_crowding([first, moving, blended, other], maps, 9.0) == [first, blended, other]


def test_blobs_of_overlapping_maps_are_one():
    maps = [window(4, 9), window(5, 10), window(20, 25)]
    found = [blob(30, 30, 9.0, 1), blob(30.5, 30, 12.0, 0), blob(30, 30, 8.0, 2)]
    kept = blobs.merge_blobs(found, maps, 3.0)
    assert [(b.snr, b.map_index) for b in kept] == [(12.0, 0), (8.0, 2)]


def test_the_peak_of_a_window_is_deep_grus_where_it_sees_it():
    seen = Peak.from_gaussian(11.0, 5.0, 0.8, NCHAN)
    far = Peak.from_gaussian(25.0, 5.0, 0.9, NCHAN)
    assert lines.peaks_of_window([seen, far], window(9, 13), NCHAN) == [seen]
    (window_itself,) = lines.peaks_of_window([far], window(9, 13), NCHAN)
    assert (window_itself.chan, window_itself.fwhm, window_itself.height) == (11.0, 5.0, 0.0)


def test_level_rises_with_the_size_of_the_search():
    search = make_search()
    assert 4.25 <= search.level("integrated") < search.level("line")
    assert make_search(minsnr=9.0).level("line") == pytest.approx(0.85 * 9.0)
    assert not search.inside[:5].any() and search.inside[5:].all()


def test_a_line_joins_the_continuum_that_stands_there():
    search = make_search()
    search.components = [continuum_at(30, 30)]
    joint.add(search, line_at(31, 30))
    (source,) = search.components
    assert source.has_line and source.chan == 10.0 and source.cont == 2.0


def test_a_continuum_joins_the_line_that_stands_there():
    search = make_search()
    search.components = [line_at(30, 30, has_cont=False)]
    joint.add(search, continuum_at(31, 30))
    (source,) = search.components
    assert source.has_line and source.has_cont and source.cont == 2.0


def test_a_new_lines_own_continuum_comes_first():
    search = make_search()
    search.components = [line_at(30, 30, errors={})]
    joint.add(search, continuum_at(33, 30))
    assert len(search.components) == 1
    joint.add(search, continuum_at(36, 30))
    assert len(search.components) == 2


def test_a_second_line_has_no_second_continuum():
    search = make_search()
    search.components = [line_at(30, 30)]
    joint.add(search, line_at(30.5, 30, chan=24.0))
    assert len(search.components) == 2 and not search.components[1].has_cont


def test_unphysical_fits_are_taken_back():
    search = make_search()
    search.components = [line_at(30, 30, cont=-3.0, snr_cont=-5.0), line_at(10, 50, fwhm=20.0), line_at(50, 50)]
    assert joint.make_physical(search)
    negative, wide, good = search.components
    assert not negative.has_cont and negative.cont == 0 and negative.has_line
    assert not wide.has_line and wide.has_cont
    assert good.has_line and good.has_cont
    assert not joint.make_physical(search)


def test_a_line_and_a_continuum_at_one_place_are_one_source():
    search = make_search()
    search.components = [line_at(30, 30), continuum_at(31.5, 30), continuum_at(45, 30)]
    assert joint.join_parts(search)
    assert len(search.components) == 2
    assert search.components[0].has_line and search.components[0].cont == 2.0


def test_prune_drops_what_is_weak_outside_or_a_copy():
    search = make_search()
    strong = line_at(30, 30)
    search.components = [
        strong,
        line_at(30.5, 30.2, snr_line=9.0),
        line_at(50, 50, snr_line=3.0, snr_cont=2.0),
        line_at(50, 2),
        line_at(70, 30),
        line_at(40, 50, snr_line=2.0, snr_cont=12.0),
    ]
    assert joint.prune(search)
    assert search.components[0] is strong and len(search.components) == 2
    assert not search.components[1].has_line and search.components[1].snr_cont == 12.0
    assert len(search.refused) == 4
    assert not joint.prune(search)


def test_a_faint_companion_of_a_bright_source_is_left_by_its_fit():
    search = make_search()
    bright = line_at(30, 30, snr_line=100.0, snr_cont=200.0)
    left = line_at(33, 30, chan=25.0, snr_line=4.5, snr_cont=7.0)
    assert joint.is_left_beside(search, left, bright)
    assert joint.is_left_beside(search, continuum_at(33, 30, snr_cont=15.0), bright)
    assert joint.is_left_beside(search, line_at(33, 30, snr_line=9.0, has_cont=False), bright)
    assert not joint.is_left_beside(search, line_at(33, 30, snr_line=13.0, has_cont=False), bright)
    assert not joint.is_left_beside(search, line_at(33, 30, chan=25.0, snr_line=12.0, snr_cont=7.0), bright), "its line"
    assert not joint.is_left_beside(search, line_at(33, 30, chan=25.0, snr_line=4.5, snr_cont=17.0), bright)
    assert not joint.is_left_beside(search, replace(left, x=37.0), bright), "farther than a beam"
    search.components = [bright, left]
    assert joint.prune(search)
    assert search.components == [bright] and search.refused == [left]


def test_emission_beside_a_deeper_absorption_is_what_its_gaussian_left():
    search = make_search()
    absorption = line_at(30, 30, amp=-1.0, absorption=True, snr_line=30.0, snr_cont=200.0)
    assert joint.is_left_beside(search, line_at(33, 30, chan=11.0, has_cont=False), absorption)
    assert not joint.is_left_beside(search, line_at(33, 30, chan=11.0, snr_line=31.0, has_cont=False), absorption)
    assert not joint.is_left_beside(search, line_at(33, 30, chan=25.0, has_cont=False), absorption)


def test_two_continua_at_one_place_are_one():
    search = make_search()
    bright, other = line_at(30, 30, cont=5.0, snr_cont=60.0), line_at(30.4, 30, chan=24.0, cont=2.0, snr_cont=50.0)
    apart = line_at(32, 30, cont=2.0, snr_cont=40.0)
    search.components = [other, apart, bright]
    assert joint.make_physical(search)
    assert bright.cont == 7.0 and not other.has_cont and other.has_line and other.cont == 0.0
    assert apart.cont == 2.0 and apart.has_cont
    assert not joint.make_physical(search)


def test_a_continuum_goes_to_the_line_that_has_one():
    search = make_search()
    lone, owner = line_at(30, 30, has_cont=False), line_at(30.3, 30, chan=24.0, cont=2.0)
    search.components = [lone, owner, continuum_at(30, 30, cont=1.0)]
    assert joint.join_parts(search)
    assert owner.cont == 3.0 and not lone.has_cont


def test_a_refused_candidate_is_not_tried_again():
    search = make_search()
    search.refused = [line_at(30, 30)]
    assert not lines.is_new(search, line_at(31, 31))
    assert lines.is_new(search, line_at(31, 31, chan=25.0))
    assert lines.is_new(search, line_at(50, 31))
    assert lines.is_new(search, continuum_at(30, 30))


def test_blobs_finder_sees_the_planes_of_its_manifest_with_the_psf_of_the_map():
    search, seen = make_search(), []
    offset = np.arange(2 * NPIX) - NPIX
    radius = np.hypot(offset[:, None], offset[None, :])
    # Sidelobes of 30 % on a ring at 18 pixels, which widens by a pixel over the band.
    ring = np.stack([0.3 * np.exp(-(((radius - 18.0 - 0.03 * c) / 2.0) ** 2)) for c in range(NCHAN)])
    psf = (np.exp(-4 * np.log(2) * (radius / BEAM) ** 2) + ring).astype(np.float32)
    search.imager = Imager(psf, (NPIX, NPIX))
    search.fit.residual[:] = search.fit.data
    search.fit.residual[:, 10:, :] += 40.0 * psf[:, NPIX - 22 : 2 * NPIX - 32, NPIX - 32 : 2 * NPIX - 32]

    class Sees(FilterNetworks):
        info = {**FilterNetworks.info, "planes": ("dirty", "clean")}

        def blobs_finder(self, maps):
            seen.append(np.sinh(3.0 * maps[0]))
            return super().blobs_finder(maps[:, 1:])

    search.networks = Sees()
    blobs.detect(search)
    dirty, cleaned = seen[0]
    scale = 5.0 / BEAM
    y, x = round(32 * scale), round(32 * scale)
    off = np.hypot(*np.ogrid[-y : len(dirty) - y, -x : len(dirty) - x])
    around = (off > 12) & (off < 18) & (np.arange(len(dirty))[:, None] > 12)
    assert dirty[y, x] > 200 and dirty[around].max() > 50, "the sidelobes are there to be removed"
    assert cleaned[y, x] == pytest.approx(dirty[y, x], rel=0.1)
    assert np.abs(cleaned[around]).max() < 0.12 * dirty[around].max()
    assert (cleaned[: round(4 * scale)] == 0).all(), "no data beyond the primary beam"
    # One channel's window has that channel's PSF, the whole band their mean.
    kernel = blobs.WorkingPsf(search.imager, BEAM)
    line, whole = kernel(window(30, 31), 64), kernel(window(0, 31, "integrated"), 64)
    assert line.shape == (64, 64) and line[32, 32] == pytest.approx(1.0, abs=1e-3)
    assert abs(line - whole).max() > 0.01 and np.array_equal(kernel(window(31, 31), 64), line)


def test_candidates_are_many_and_sources_few():
    search = make_search()
    assert search.level("line") < search.limit("line") - 0.5
    assert make_search(false_alarms=1e-6).limit("line") > search.limit("line")
    assert make_search(mode="line").limit("line") < search.limit("line"), "one search may have all false alarms"
    with pytest.raises(ParameterError, match="false_alarms"):
        Options(false_alarms=0.0)


def test_a_line_and_a_continuum_at_one_place_bear_each_other_out():
    search = make_search()
    faint = search.limit("line") - 0.3
    alone, both = line_at(20, 30, snr_line=faint, snr_cont=0.5), line_at(45, 30, snr_line=faint, snr_cont=4.0)
    search.components = [alone, both]
    assert joint.prune(search)
    assert search.components == [alone, both] and both.has_line and both.has_cont
    assert not alone.has_cont, "without its continuum it may have the SNR that it needs"
    assert joint.prune(search)
    assert search.components == [both]
    assert not search.is_sure_of_both(line_at(45, 30, snr_line=4.5, snr_cont=4.5)), "below minsnr"
    assert not search.is_sure_of_both(line_at(45, 30, snr_line=5.1, snr_cont=3.0)), "noise can do both"


def test_a_line_on_a_sure_continuum_is_to_be_sure_by_itself():
    search = make_search()
    sure, doubtful = line_at(20, 30, snr_line=4.6, snr_cont=20.0), line_at(45, 30, snr_line=4.3, snr_cont=20.0)
    search.components = [sure, doubtful]
    assert joint.prune(search) and search.components == [sure, doubtful]
    assert sure.has_line and not doubtful.has_line and doubtful.has_cont


def test_continua_stand_out_of_what_errors_of_the_gains_leave():
    search = make_search()
    limits = {kind: search.limit(kind) for kind in ("integrated", "line")}
    search.measure_floor()
    assert search.floor == pytest.approx(1.0, abs=0.03), "noise alone"
    # A pattern in all channels alike, of twice the noise in the integrated image.
    pattern = np.random.default_rng(3).standard_normal(search.cube.shape).astype(np.float32)
    pattern = ndimage.gaussian_filter(pattern, BEAM / 2.355)
    pattern *= 2.0 / (pattern.std() * np.sqrt((1.0 / search.sigma**2).sum()))
    search.fit.data += pattern
    search.fit.update_residual([])
    search.measure_floor()
    assert 1.5 < search.floor < 2.6, "two and one in squares, less what few beams may pretend"
    assert search.limit("integrated") == pytest.approx(search.floor * limits["integrated"])
    assert search.limit("line") == limits["line"], "a pattern that all channels have is subtracted as a continuum"
    low = 0.5 * (limits["integrated"] + search.limit("integrated"))
    faint = line_at(30, 30, has_line=False, snr_cont=low)
    noise = line_at(10, 10, has_line=False, snr_cont=0.9 * limits["integrated"])
    search.components = [faint, noise]
    assert joint.prune(search) and search.components == []
    assert search.refused == [noise], "what lies below the floor alone may come back once the pattern is explained"
    lines = make_search(mode="line")
    lines.fit.residual += pattern
    lines.measure_floor()
    assert lines.floor == 1.0


def decrement(search, x, y, depth):
    """Put a negative beam of `depth` sigma of the integrated image at (x, y) [pixel] into the residual."""
    rows, columns = np.indices(search.cube.shape)
    beam = np.exp(-4.0 * np.log(2.0) * ((columns - x) ** 2 + (rows - y) ** 2) / BEAM**2)
    search.fit.residual -= np.float32(depth / np.sqrt((1.0 / search.sigma**2).sum())) * beam.astype(np.float32)


def test_the_floor_by_its_rms_and_by_its_negative_peaks():
    search = make_search()
    peaks = search.noise_peaks("integrated")
    sure = 1.0 - np.sqrt(2.0 / peaks.number)
    rms = noise.robust_rms(weighted_mean(search.fit.residual, noise.inverse_variance(search.sigma)))
    start = search.fit.residual.copy()
    search.fit.residual *= np.float32(0.5 * (1.0 + 1.0 / sure) / rms)
    search.measure_floor()
    assert search.floor == 1.0, "so many beams may pretend that much"
    search.fit.residual[:] = start
    decrement(search, 20, 40, 12.0)
    search.measure_floor()
    assert search.floor == 1.0, "a hole in noise, as a cluster makes one, is no pattern all over"
    search.fit.residual[:] = start * np.float32(2.0 / rms)
    search.measure_floor()
    plain = search.floor
    assert plain >= 2.0 * sure - 1e-3
    decrement(search, 20, 40, 30.0)
    search.measure_floor()
    assert search.floor == pytest.approx(30.0 / peaks.level(0.5), rel=0.25) and search.floor > 1.5 * plain
    search.components = [line_at(20, 40, has_line=False, snr_cont=300.0)]
    search.measure_floor()
    assert search.floor < 1.2 * plain, "beside a source it is the source's own"


def test_a_line_bears_out_no_continuum_below_the_floor():
    search = make_search()
    faint = line_at(45, 30, snr_line=search.limit("line") - 0.3, snr_cont=4.0)
    assert search.is_sure_of_both(faint)
    search.floor = 2.0
    assert not search.is_sure_of_both(faint)


def test_a_wide_line_does_not_share_its_channels_with_a_continuum_that_is_not_there():
    search = make_search()
    truth = line_at(30.0, 33.0, chan=16.0, fwhm=14.0, amp=2.0, has_cont=False, cont=0.0)
    search.fit.imager.subtract(
        search.fit.data,
        gaussian_transform(search.imager.grid, truth.x, truth.y, truth.covariance)[None],
        -truth.spectrum(NCHAN)[None],
    )
    search.fit.update_residual([])
    shared = line_at(30.0, 33.0, chan=16.0, fwhm=14.0, amp=2.0, cont=0.0)
    search.fit.fit_alone(shared)
    alone = line_at(30.0, 33.0, chan=16.0, fwhm=14.0, amp=2.0, has_cont=False, cont=0.0)
    search.fit.fit_alone(alone)
    assert abs(shared.snr_cont) < 3.0 and alone.snr_line > 1.2 * shared.snr_line
    limit = 0.5 * (alone.snr_line + shared.snr_line) / joint.NEARLY
    search.limit = lambda kind: limit
    assert joint.promising(search, [shared]) == [shared] and not shared.has_cont
    short = 0.8 * search.limit("line")
    assert joint.gains_without(search, line_at(30.0, 33.0, fwhm=14.0, snr_line=short))
    assert not joint.gains_without(search, line_at(30.0, 33.0, fwhm=2.0, snr_line=short)), "it shares next to nothing"
    bright = line_at(30.0, 33.0, snr_cont=4.0)
    assert not joint.leave_continuum(bright) and bright.has_cont
    assert not joint.leave_continuum(line_at(30.0, 33.0, known=True))


def test_a_sure_source_does_not_get_lost_to_a_new_one(monkeypatch):
    search = make_search()
    sure = line_at(30.0, 33.0, amp=30.0)
    search.fit.imager.subtract(
        search.fit.data,
        gaussian_transform(search.imager.grid, sure.x, sure.y, sure.covariance)[None],
        -sure.spectrum(NCHAN)[None],
    )
    search.fit.update_residual([])
    assert joint.refine(search, [sure]) == 1
    was, residual = sure.vector(), search.fit.residual.copy()
    prune = joint.prune

    def runaway(search):
        search.components = [c for c in search.components if c is not sure]
        return prune(search)

    monkeypatch.setattr(joint, "prune", runaway)
    monkeypatch.setattr(joint, "promising", lambda search, new: list(new))
    thief = line_at(50.0, 20.0, amp=5.0)
    assert joint.refine(search, [thief]) == 0
    assert thief in search.refused and len(search.components) == 1
    np.testing.assert_allclose(search.components[0].vector(), was)
    np.testing.assert_allclose(search.fit.residual, residual, atol=1e-4)


def test_a_line_wider_than_a_fifth_of_the_band_is_no_ripple():
    rng = np.random.default_rng(8)
    chan, good = np.arange(504), np.ones(504, bool)
    line = np.exp(-0.5 * ((chan - 68) / 43.0) ** 2)
    snr, chan0, chan1 = strongest_window(0.75 * line + rng.standard_normal(504), good)
    assert snr > 5.2 and chan0 < 68 < chan1


def test_a_window_stands_above_noise_and_not_above_ripples():
    rng = np.random.default_rng(8)
    chan, good = np.arange(256), np.ones(256, bool)
    noise = rng.standard_normal(256)
    line = noise + 4.0 * np.exp(-4 * np.log(2) * ((chan - 100) / 10.0) ** 2)
    snr, chan0, chan1 = strongest_window(line, good)
    assert chan0 < 100 < chan1 and 6 <= chan1 - chan0 + 1 <= 14
    assert snr > 0.85 * line[chan0 : chan1 + 1].sum() / np.sqrt(chan1 - chan0 + 1) > 6
    rippled = noise + 2.0 * np.sin(2 * np.pi * chan / 24.0)
    widest = max(rippled[c : c + 12].sum() / np.sqrt(12) for c in range(240))
    assert widest > 6, "the ripple must look like a line"
    assert strongest_window(rippled, good)[0] < 5
    good[90:110] = False
    assert strongest_window(line, good)[0] < 5


def test_absorption_against_a_continuum_is_a_line():
    search = make_search()
    true = Component(32.0, 34.0, shape_to_covariance(2.0, 2.0, 0.0), amp=-9.0, chan=12.0, fwhm=5.0, cont=12.0)
    transform = gaussian_transform(search.imager.grid, true.x, true.y, true.covariance)[None]
    search.imager.subtract(search.fit.data, transform, -true.spectrum(NCHAN)[None])
    search.fit.update_residual([])
    assert true.spectrum(NCHAN).min() > 0 and true.spectrum(NCHAN).max() > 11
    start = continuum_at(32, 34, cont=9.0, snr_cont=30.0)
    joint.refine(search, [start])
    (known,) = lines.lines_of_known_sources(search)
    assert known.absorption and abs(known.peak.chan - 12.0) < 1.5
    assert joint.refine_lines(search, [known]) == 1
    (found,) = search.components
    assert found.snr_line > 10 and found.absorption
    assert found.amp == pytest.approx(true.amp, abs=4 * found.errors["amp"])
    assert found.chan == pytest.approx(true.chan, abs=4 * found.errors["chan"])
    assert found.cont == pytest.approx(true.cont, abs=4 * found.errors["cont"])
    assert found.line_flux()[0] < 0
    found.drop_line()
    assert not found.has_line and not found.absorption


def test_an_absorption_takes_the_place_of_the_line_beside_it():
    """A continuum drawn down by a deep absorption leaves emission elsewhere; a line that is sure stays."""
    search = make_search()
    true = Component(32.0, 34.0, shape_to_covariance(2.0, 2.0, 0.0), amp=-20.0, chan=8.0, fwhm=2.5, cont=40.0)
    transform = gaussian_transform(search.imager.grid, true.x, true.y, true.covariance)[None]
    search.imager.subtract(search.fit.data, transform, -true.spectrum(NCHAN)[None])
    search.fit.update_residual([])
    source = continuum_at(32, 34, cont=35.0, has_line=True, amp=2.0, chan=22.0, fwhm=6.0)
    search.components = [source]
    search.fit.fit(search.components)
    assert 3.0 < source.snr_line < lines.DOUBTFUL * source.snr_cont
    (known,) = lines.lines_of_known_sources(search)
    assert known.absorption and abs(known.peak.chan - 8.0) < 1.0
    joint.refine_lines(search, [known])
    assert source.absorption and source.chan == pytest.approx(8.0, abs=0.3)
    assert not lines.lines_of_known_sources(search), "its line is the brightest there"
    source.snr_line = lines.DOUBTFUL * source.snr_cont
    source.chan = 22.0
    assert not lines.lines_of_known_sources(search), "as bright as that it is not doubted"


def test_noise_is_dropped_before_the_joint_fit_and_looked_at_again():
    search = make_search()
    near, far = line_at(20, 40), line_at(24, 40)
    noise = line_at(45, 30, cont=0.0)
    assert joint.promising(search, [near, far, noise]) == [near, far], "neighbours are left to the joint fit"
    assert not search.refused and noise.snr_line < search.limit("line")
