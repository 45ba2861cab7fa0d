"""What is said about one image, held against each other: names, grids, beams, noise. Contradictions are refused.

Every number that two inputs both tell is compared here, for an image that is read with the PSF or the primary beam of
another gives wrong fluxes without a word. `reading.cube` calls this while it reads; the arithmetic is in
`core.agreement`.
"""

from __future__ import annotations

import os
from collections.abc import Callable

import numpy as np
from astropy.wcs.utils import pixel_to_skycoord, skycoord_to_pixel
from numpy.typing import NDArray

from casa_deepfocus.core.agreement import Verdict, noise_slope, width_ratios
from casa_deepfocus.core.geometry import covariance_to_shape
from casa_deepfocus.core.psf import fit_beam
from casa_deepfocus.errors import DataError, ParameterError
from casa_deepfocus.reading.grid import Grid, celestial_wcs, cell_size, frequencies

LEAST_FIELD = 4.5
"""Smallest side of a field [beams]. The noise is measured on the field itself, where on few beams a source passes for
it. A source of SNR 20 in the middle was found in all of 8 trials from 2.9 beams on (beams of 2.9 and 8.2 pixels), in 5
at 2.4, in none at 2. With a source of SNR 80 that is 1.8 beams long, 3.1 beams gave nothing: there the noise comes out
26 times too high, 8 times at 3.9 beams, 4.6 times at 4.7, 3 times at 6.2."""

LEAST_PIXELS = 2.0
"""Smallest FWHM of a beam [pixel], its minor axis: with coarser cells the longest baselines are not on the grid."""

BEAM_TOLERANCE = 0.05
"""Largest relative difference of the header's beam and the PSF's main lobe, in any direction. Measured on tclean's own
images, natural, Briggs and uniform: up to 0.015 where the beam has 3 pixels or more, 0.025 with psfcutoff of 0.2 or 0.5
in place of 0.35, 0.021 with restoringbeam='common' over a narrow band, 0.045 at 2 to 3 pixels."""

COARSE_TOLERANCE = 0.2
"""The same below `COARSE` pixels, where tclean's own fit fails in single channels, by up to 0.18."""

COARSE = 3.0
"""FWHM of the minor axis [pixel]."""

NOTED = 0.025
"""A difference above this is said in the log: tclean's own beams, whatever its psfcutoff, stay below it."""

CELL_TOLERANCE = 1e-3
"""Largest relative difference of cells, and angle of axes [rad]: a tenth of a pixel at 100 pixels from the peak."""

PLACE_TOLERANCE = 0.5
"""Largest distance on the sky between the same pixels of an image and its primary beam [pixel]."""

CHANNEL_TOLERANCE = 0.1
"""Largest difference of the frequencies of two images' channels [channel]."""

FRAMES_APART = 1.3e-3
"""Largest relative difference of frequencies in two frames: the Sun's motion through the microwave background."""

BAND_TOLERANCE = 0.05
"""How far a single plane may be from the band [its frequency]: a PSF's width changes by as much, `BEAM_TOLERANCE`."""

Log = Callable[..., None]


def check_names(imagename: str, psf: str, pb: str) -> None:
    """See that image, PSF and primary beam are three files, whatever links lead to them.

    Raises
    ------
    ParameterError
    """
    seen = {os.path.realpath(imagename): "imagename"}
    for parameter, name, what in (("psf", psf, "the PSF"), ("pb", pb, "the primary beam")):
        if not name:
            continue
        path = os.path.realpath(name)
        if path in seen:
            raise ParameterError(
                parameter, name, f"is the same file as {seen[path]}", f"Give {what} of the image, or leave it empty"
            )
        seen[path] = parameter


def check_field(shape: tuple[int, int], beams: NDArray, cell: float, name: str) -> None:
    """See that a field holds a few beams, and a beam a few pixels.

    Parameters
    ----------
    shape : (ny, nx)
    beams : (nchan, 3) [arcsec, arcsec, deg]
    cell : float [arcsec]
    name : str

    Raises
    ------
    DataError
    """
    if not (np.isfinite(beams).all() and (beams[:, :2] > 0).all() and (beams[:, 0] >= beams[:, 1] * (1 - 1e-6)).all()):
        raise DataError(
            f"{name!r} has a beam of {beams[:, 0].max():.4g} x {beams[:, 1].min():.4g} arcsec in its header: set the "
            "right one with ia.setrestoringbeam"
        )
    minor = float(beams[:, 1].min()) / cell
    if minor < LEAST_PIXELS:
        raise DataError(
            f"{name!r} has a beam of {minor:.2f} pixels ({beams[:, 1].min():.4g} arcsec, the pixel {cell:.4g}), and "
            f"{LEAST_PIXELS:g} are needed: image again with a cell of a fifth of the beam, or set the right beam"
        )
    major = float(beams[:, 0].max()) / cell
    side = min(shape)
    mean = float(np.sqrt(beams[:, 0] * beams[:, 1]).max()) / cell
    if side < max(LEAST_FIELD * mean, major):
        raise DataError(
            f"{name!r} has {shape[1]} x {shape[0]} pixels, {side / mean:.1f} beams of {mean:.1f} pixels, and "
            f"{LEAST_FIELD:g} beams ({int(np.ceil(max(LEAST_FIELD * mean, major)))} pixels) are needed: image a larger "
            "field, or set the beam if it is wrong"
        )


def check_pixel(other: Grid, image: Grid, kind: str) -> None:
    """See that two images have the same pixels: side, rotation and sense of their axes.

    Raises
    ------
    DataError
    """
    cells = cell_size(other), cell_size(image)
    if abs(cells[0] - cells[1]) > CELL_TOLERANCE * cells[1]:
        raise DataError(
            f"the {kind} {other.name!r} has pixels of {cells[0]:.4g} arcsec, the image {cells[1]:.4g} arcsec: give the "
            f"{kind} that was made with the image"
        )
    first, second = (np.asarray(celestial_wcs(t).pixel_scale_matrix) * 3600.0 for t in (other, image))
    if np.abs(first - second).max() > CELL_TOLERANCE * cells[1]:
        turned = "mirrored" if np.linalg.det(first) * np.linalg.det(second) < 0 else "rotated"
        raise DataError(
            f"the {kind} {other.name!r} is {turned} against {image.name!r}: give the {kind} that was made with the "
            "image, or regrid both alike with imregrid"
        )


def check_place(other: Grid, image: Grid, kind: str) -> None:
    """See that the pixels of two images of one shape are at the same places on the sky.

    Raises
    ------
    DataError
    """
    ny, nx = image.shape[image.y], image.shape[image.x]
    x = np.array([0.5 * (nx - 1), 0.0, nx - 1.0, 0.0, nx - 1.0])
    y = np.array([0.5 * (ny - 1), 0.0, 0.0, ny - 1.0, ny - 1.0])
    sky = pixel_to_skycoord(x, y, celestial_wcs(image), origin=0)
    there = skycoord_to_pixel(sky, celestial_wcs(other), origin=0)
    apart = float(np.max(np.hypot(there[0] - x, there[1] - y)))
    if not apart <= PLACE_TOLERANCE:
        template = image.name if os.path.isdir(image.name) else "what importfits makes of the image"
        raise DataError(
            f"the {kind} {other.name!r} is not at the image's place on the sky: its pixels are {apart:.3g} pixels off. "
            f"Give the {kind} that was made with the image, or regrid it: imregrid(imagename='{other.name}', "
            f"template={template!r}, output=...)"
        )


def matching_channels(other: Grid, image: Grid, kind: str) -> NDArray[np.intp]:
    """Which planes of a PSF or primary beam belong to the channels of an image, by their frequencies.

    Returns
    -------
    (nchan,) or (1,) planes of `other`; (1,) where it has one only

    Raises
    ------
    DataError
        Where a channel has none, or a single plane is far from the band.
    """
    ours, frame, _ = frequencies(image)
    theirs, other_frame, _ = frequencies(other)
    remedy = f"give the {kind} that was made with the image"
    if other.nchan == 1:
        off = _outside(theirs[0], ours)
        if off > BAND_TOLERANCE:
            raise DataError(
                f"the {kind} {other.name!r} is at {theirs[0] / 1e9:.6g} GHz, the image at {ours.min() / 1e9:.6g} to "
                f"{ours.max() / 1e9:.6g} GHz: {remedy}"
            )
        return np.zeros(1, dtype=np.intp)
    if image.nchan == 1:
        raise DataError(f"the {kind} {other.name!r} has {other.nchan} channels, the image one: {remedy}")
    same_frame = frame == other_frame or not frame or not other_frame
    step, other_step = (float(freq[-1] - freq[0]) / (len(freq) - 1) for freq in (ours, theirs))
    planes = np.round((ours - theirs[0]) / other_step)
    apart = float(np.abs(theirs[0] + planes * other_step - ours).max() / abs(step))
    inside = planes.min() >= 0 and planes.max() < other.nchan
    alike = abs(abs(step) - abs(other_step)) <= CHANNEL_TOLERANCE / max(image.nchan - 1, 1) * abs(step)
    if inside and alike and apart <= CHANNEL_TOLERANCE:
        return planes.astype(np.intp)
    if not same_frame and other.nchan == image.nchan and abs(step / other_step - 1.0) < FRAMES_APART:
        if np.abs(theirs / ours - 1.0).max() < FRAMES_APART:
            return np.arange(image.nchan)
    raise DataError(
        f"the {kind} {other.name!r} has {other.nchan} channels, {theirs[0] / 1e9:.9g} to {theirs[-1] / 1e9:.9g} GHz "
        f"({other_frame or 'no frame'}), the image {image.nchan}, {ours[0] / 1e9:.9g} to {ours[-1] / 1e9:.9g} GHz "
        f"({frame or 'no frame'}): {remedy}"
    )


def check_beam(beams: NDArray, psf: NDArray, image: Grid, psfname: str, data: NDArray, log: Log) -> None:
    """Hold the header's beams against the main lobe of the PSF.

    Where they differ, no number in the image tells what it was multiplied by: imsmooth, and tclean with a larger
    restoring beam, scale by the ratio of the beams' areas; a smaller restoring beam changes the header only.

    Parameters
    ----------
    beams : (nchan, 3) [arcsec, arcsec, deg], of the header
    psf : (nchan or 1, py, px), peak 1 at (py//2, px//2)
    image : Grid
    psfname : str
    data : (nchan, ny, nx); NaN where blank
    log : callable (message, priority)

    Raises
    ------
    DataError
    """
    cell = cell_size(image)
    channels = np.flatnonzero(np.isfinite(data).any(axis=(1, 2)))
    if len(psf) == 1:
        channels = channels[len(channels) // 2 : len(channels) // 2 + 1]
    fitted = lobes(psf[channels] if len(psf) > 1 else psf, beams[channels], cell, psfname)
    ratios = [width_ratios(beams[chan], lobe) for chan, lobe in zip(channels, fitted, strict=True)]
    off = np.abs(np.array(ratios) - 1.0).max(axis=1)
    coarse = beams[channels, 1] < COARSE * cell
    share = off / np.where(coarse, COARSE_TOLERANCE, BEAM_TOLERANCE)
    worst = int(np.argmax(share))
    told = (
        f"the header of {image.name!r} says a beam of {_beam(beams[channels[worst]])}, the main lobe of the PSF "
        f"{psfname!r} has {_beam(fitted[worst])}" + (f" (channel {channels[worst]})" if len(beams) > 1 else "")
    )
    if share[worst] > 1.0:
        raise DataError(
            f"{told}. Either the image was smoothed or rescaled after it was imaged (imsmooth, restoringbeam): give it "
            "as it was before, of tclean's images the .residual in place of the .image. Or the PSF is another image's. "
            "Or the header is wrong: set the PSF's beam there with ia.setrestoringbeam"
        )
    if off[worst] > NOTED and not coarse[worst]:
        log(f"{told}: {100 * off[worst]:.0f} per cent apart, fluxes may be wrong by twice that", "WARN")


def lobes(psf: NDArray, beams: NDArray, cell: float, name: str) -> NDArray[np.float64]:
    """Beams [arcsec, arcsec, deg] of the PSFs' main lobes, (n, 3), cut out at a few times what the header says.

    Raises
    ------
    DataError
    """
    found = []
    for plane, beam in zip(psf, beams, strict=True):
        half = [min(side // 2, max(32, int(np.ceil(4.0 * beam[0] / cell)))) for side in plane.shape]
        middle = [side // 2 for side in plane.shape]
        cut = plane[middle[0] - half[0] : middle[0] + half[0], middle[1] - half[1] : middle[1] + half[1]]
        try:
            maj, minor, pa = covariance_to_shape(fit_beam(cut))
        except DataError as exc:
            raise DataError(f"the PSF {name!r}: {exc}") from exc
        found.append([float(maj) * cell, float(minor) * cell, float(pa)])
    return np.array(found)


def is_corrected(data: NDArray, pb: NDArray, image: Grid, beam_area: float, log: Log) -> bool:
    """Whether an image was divided by its primary beam: as its noise says, or its name where the noise does not tell.

    Parameters
    ----------
    data : (nchan, ny, nx); NaN where blank
    pb : (nchan or 1, ny, nx); NaN or 0 outside
    image : Grid
    beam_area : float [pixel]
    log : callable (message, priority)
    """
    named = looks_corrected(image)
    slope = noise_slope(data, pb, beam_area)
    said = f"its noise goes as the primary beam to the power {slope.value:.2f} +- {slope.error:.2f}"
    if slope.verdict is Verdict.UNSURE:
        if named:
            log(f"{image.name} is taken as corrected for the primary beam by its {named}; its noise does not tell")
        return bool(named)
    corrected = slope.verdict is Verdict.CORRECTED
    if corrected and not named:
        log(f"{image.name} is corrected for the primary beam, though neither name nor history says so: {said}", "WARN")
    elif named and not corrected:
        log(f"{image.name} is not corrected for the primary beam, though its {named} says so: {said}", "WARN")
    return corrected


def looks_corrected(image: Grid) -> str:
    """'name' or 'history' where that says that an image is corrected for the primary beam; '' where neither does."""
    if "pbcor" in os.path.basename(image.name.rstrip("/")).lower():
        return "name"
    divided = [line for line in image.history() if "impbcor" in line and "mode" in line]
    return "history" if divided and "multiply" not in divided[-1] else ""


def _outside(freq: float, band: NDArray[np.float64]) -> float:
    """Distance of a frequency from a band, relative to it; 0 inside, or where one of them is not known."""
    if not (np.isfinite(freq) and freq > 0 and np.isfinite(band).all()):
        return 0.0
    return float(max(band.min() - freq, freq - band.max(), 0.0) / freq)


def _beam(beam: NDArray) -> str:
    return f"{beam[0]:.4g} x {beam[1]:.4g} arcsec"
