"""A library of PSFs: sparse gridded uv weights of many arrays, declinations and tracks.

Every entry lives on 256 x 256 working pixels, 5 of them per geometric-mean beam FWHM (fitted to
the main lobe); ``psf = irfft2(weights)`` has peak 1 at pixel (0, 0). Reading needs numpy only;
``python -m sim psfs`` builds the file anew from casadata's configurations.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray

from casa_deepfocus.core.geometry import FWHM_PER_SIGMA, covariance_to_shape, shape_to_covariance
from casa_deepfocus.core.preprocessing import PIXELS_PER_BEAM
from casa_deepfocus.errors import DataError, ParameterError
from sim import arrays

GRID = 256
"""Side of the working grid [working pixels]; the usable field is the central half."""

LIBRARY = Path(__file__).with_name("psfs.npz")
SPLITS = ("train", "val", "test")
MIN_ELEVATION = 20.0


@dataclass(frozen=True)
class PsfLibrary:
    """PSFs as sparse weights; entry i has the cells start[i]:start[i + 1].

    Attributes
    ----------
    start : (n + 1,) int64
    cells : (ncell,) int64, flat indices into (GRID, GRID // 2 + 1)
    values : (ncell,) float32, natural gridded weights (arbitrary scale per entry)
    beam : (n, 3) float64, FWHM major and minor [working pixel], position angle [deg]
    robust : (n,) float64, Briggs parameter; NaN means natural weighting
    array : (n,) str; dec : (n,) [deg]; hour_angle : (n,) [hours], middle; duration : (n,) [s]
    band : int, no weight lies at a spatial frequency above band / GRID per pixel
    """

    start: NDArray[np.int64]
    cells: NDArray[np.int64]
    values: NDArray[np.float32]
    beam: NDArray[np.float64]
    robust: NDArray[np.float64]
    array: NDArray[np.str_]
    dec: NDArray[np.float64]
    hour_angle: NDArray[np.float64]
    duration: NDArray[np.float64]
    band: int

    def __len__(self) -> int:
        return len(self.robust)

    def weights(
        self, entries: ArrayLike, *, flip: ArrayLike | None = None, transpose: ArrayLike | None = None
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Dense transforms of PSFs and the amplitudes of their noise.

        Parameters
        ----------
        entries : (b,) int
        flip : (b,) bool, mirror the x axis (a new, equally possible PSF); `beams` takes the same flags
        transpose : (b,) bool, exchange x and y (after the flip)

        Returns
        -------
        weights : (b, GRID, GRID // 2 + 1) float32, real; irfft2 of it is the PSF, peak 1 at (0, 0)
        noise : same shape; irfft2(noise * rfft2(white)) has rms 1. sqrt(weights) at natural weighting.
        """
        entries = np.atleast_1d(np.asarray(entries))
        flips = np.broadcast_to(False if flip is None else flip, entries.shape)
        swaps = np.broadcast_to(False if transpose is None else transpose, entries.shape)
        weights = np.empty((len(entries), GRID, GRID // 2 + 1), np.float32)
        noise = np.empty_like(weights)
        for row, entry in enumerate(entries):
            part = slice(self.start[entry], self.start[entry + 1])
            kx, ky = split_cells(self.cells[part])
            kx = -kx if flips[row] else kx
            kx, ky = (ky, kx) if swaps[row] else (kx, ky)
            weights[row], noise[row] = weigh(half_plane(kx, ky, self.values[part]), self.robust[entry])
        return weights, noise

    def beams(
        self, entries: ArrayLike, *, flip: ArrayLike | None = None, transpose: ArrayLike | None = None
    ) -> NDArray[np.float64]:
        """(b, 3) covariances (sxx, syy, sxy) [working pixel^2] of the fitted beams, after flip and transpose."""
        beam = self.beam[np.atleast_1d(np.asarray(entries))]
        cov = shape_to_covariance(beam[:, 0], beam[:, 1], beam[:, 2])
        if flip is not None:
            cov[:, 2] = np.where(flip, -cov[:, 2], cov[:, 2])
        if transpose is not None:
            cov[:, :2] = np.where(np.asarray(transpose)[..., None], cov[:, 1::-1], cov[:, :2])
        return cov


def split_cells(cells: NDArray) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Signed spatial frequencies (kx, ky) of flat half-plane indices."""
    ky, kx = np.divmod(np.asarray(cells, dtype=np.int64), GRID // 2 + 1)
    return kx, np.where(ky >= GRID // 2, ky - GRID, ky)


def half_plane(kx: NDArray, ky: NDArray, values: NDArray) -> NDArray[np.float64]:
    """Sum weights and their conjugates on the half-plane that irfft2 reads.

    Parameters
    ----------
    kx, ky : (n,) int, signed cells, each visibility once
    values : (n,)

    Returns
    -------
    (GRID, GRID // 2 + 1) float64
    """
    half = GRID // 2 + 1
    plane = np.zeros(GRID * half)
    for sign in (1, -1):
        keep = sign * kx >= 0
        flat = ((sign * ky[keep]) % GRID) * half + sign * kx[keep]
        plane += np.bincount(flat, weights=values[keep], minlength=plane.size)
    return plane.reshape(GRID, half)


def weigh(natural: NDArray, robust: float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Transform of the PSF and amplitude of the noise from summed natural weights.

    Parameters
    ----------
    natural : (GRID, GRID // 2 + 1), `half_plane`
    robust : float, Briggs' parameter, -2 to 2; NaN for natural weighting

    Returns
    -------
    weights, noise : (GRID, GRID // 2 + 1) float64, scaled to PSF peak 1 and noise rms 1
    """
    multiplicity = np.full(natural.shape[1], 2.0)
    multiplicity[[0, -1]] = 1.0
    taper = np.ones_like(natural)
    if not np.isnan(robust):
        mean = (natural**2 * multiplicity).sum() / (natural * multiplicity).sum()
        taper = 1.0 / (1.0 + natural * (5.0 * 10.0 ** (-robust)) ** 2 / mean)
    scaled = [value * (GRID * GRID / (value * multiplicity).sum()) for value in (natural * taper, natural * taper**2)]
    return scaled[0], np.sqrt(scaled[1])


@lru_cache(maxsize=4)
def load_library(split: str = "train", path: Path = LIBRARY) -> PsfLibrary:
    """Read one split of the library.

    Parameters
    ----------
    split : {"train", "val", "test"}
    path : Path

    Raises
    ------
    ParameterError
        When there is no such split.
    DataError
        When the file is missing.
    """
    if split not in SPLITS:
        raise ParameterError("split", split, "no such split", f"choose one of {', '.join(SPLITS)}")
    if not path.is_file():
        raise DataError(f"{path} is missing; build it with: python -m sim psfs")
    with np.load(path) as file:
        keep = np.flatnonzero(file["split"] == split)
        lengths = file["length"].astype(np.int64)
        edges = np.concatenate([[0], np.cumsum(lengths)])
        parts = [slice(edges[i], edges[i + 1]) for i in keep]
        steps, values = file["step"], file["value"]
        return PsfLibrary(
            start=np.concatenate([[0], np.cumsum(lengths[keep])]),
            # Cells are stored as differences, which pack better.
            cells=np.concatenate([np.cumsum(steps[part].astype(np.int64)) for part in parts]),
            values=np.concatenate([values[part].astype(np.float32) for part in parts]),
            band=int(file["band"]),
            **{name: file[name][keep] for name in ("beam", "robust", "array", "dec", "hour_angle", "duration")},
        )


@dataclass(frozen=True)
class Track:
    """What one entry of the library is made from."""

    array: str
    dec: float
    hour_angle: float
    duration: float
    robust: float
    split: str


def is_usable(psf: NDArray, covariance: NDArray, sidelobe: float = 0.5, axis_ratio: float = 3.0) -> bool:
    """Whether a PSF is one that people would image with.

    Parameters
    ----------
    psf : (ny, nx), peak 1 in the centre
    covariance : (3,) of its fitted beam [pixel^2]
    sidelobe, axis_ratio : float, the highest allowed; sidelobes count outside 1.5 FWHM from the centre
    """
    fwhm_maj, fwhm_min, _ = covariance_to_shape(covariance)
    y, x = np.indices(psf.shape)
    sxx, syy, sxy = covariance
    dx, dy = x - psf.shape[1] // 2, y - psf.shape[0] // 2
    form = (syy * dx * dx + sxx * dy * dy - 2.0 * sxy * dx * dy) / (sxx * syy - sxy * sxy)
    outside = form > (1.5 * FWHM_PER_SIGMA) ** 2
    return bool(np.abs(psf[outside]).max() < sidelobe and fwhm_maj < axis_ratio * fwhm_min)


@dataclass(frozen=True)
class Scaled:
    """Visibilities on the working grid: `fit_scale`."""

    kx: NDArray[np.int64]
    ky: NDArray[np.int64]
    scale: float
    """Cells per unit of u: GRID times the pixel, in radian per wavelength unit."""
    plane: NDArray[np.float64]
    covariance: NDArray[np.float64]


def fit_scale(uv: NDArray, robust: float = float("nan")) -> Scaled:
    """Choose the pixel so that the fitted beam has `PIXELS_PER_BEAM` of them.

    Parameters
    ----------
    uv : (nvis, 2) [m or wavelengths]
    robust : float, Briggs' parameter; NaN for natural weighting

    Raises
    ------
    DataError
        When the pixels per beam do not settle.
    """
    # Reading the library needs numpy only, building it scipy as well.
    from casa_deepfocus.core.psf import fit_beam

    scale = 0.12 * GRID / np.sqrt(np.mean(uv**2))
    for attempt in range(25):
        # x runs west: a pixel's phase is -u.
        kx, ky = np.rint(-uv[:, 0] * scale).astype(np.int64), np.rint(uv[:, 1] * scale).astype(np.int64)
        # An imager drops the few baselines that pixels of this size cannot hold; so do we.
        inside = np.maximum(np.abs(kx), np.abs(ky)) < GRID // 2
        kx, ky = kx[inside], ky[inside]
        plane, _ = weigh(half_plane(kx, ky, np.ones(len(kx))), robust)
        covariance = fit_beam(np.fft.fftshift(np.fft.irfft2(plane, s=(GRID, GRID))))
        fwhm = FWHM_PER_SIGMA * (covariance[0] * covariance[1] - covariance[2] ** 2) ** 0.25
        if abs(fwhm / PIXELS_PER_BEAM - 1.0) < (0.004 if attempt < 15 else 0.03):
            return Scaled(kx, ky, float(scale), plane, covariance)
        scale *= fwhm / PIXELS_PER_BEAM
    raise DataError(f"the beam settles at {fwhm:.2f} working pixels instead of {PIXELS_PER_BEAM:g}")


def make_entry(track: Track) -> tuple[NDArray[np.int64], NDArray[np.float32], NDArray[np.float64]]:
    """Grid one track at `PIXELS_PER_BEAM`.

    Returns
    -------
    cells : (n,) int64, flat half-plane indices, rising
    values : (n,) float32, summed weight, largest 1
    beam : (3,) FWHM major, minor [working pixel], position angle [deg]

    Raises
    ------
    DataError
        When the pixels per beam do not settle, or the PSF is not usable.
    """
    array = arrays.read_array(track.array)
    integration = min(60.0, track.duration / 10.0)
    angles = arrays.hour_angles(track.hour_angle, track.duration, integration)
    fit = fit_scale(arrays.uvw_track(array, track.dec, angles)[:, :2], track.robust)
    if not is_usable(np.fft.fftshift(np.fft.irfft2(fit.plane, s=(GRID, GRID))), fit.covariance):
        raise DataError(f"{track.array} at dec {track.dec:.0f}: hardly a beam (too long, or its sidelobes too high)")
    sign = np.where(fit.kx < 0, -1, 1)
    cells, inverse = np.unique((sign * fit.ky % GRID) * (GRID // 2 + 1) + sign * fit.kx, return_inverse=True)
    values = np.bincount(inverse.ravel()).astype(np.float64)
    beam = np.array([float(v) for v in covariance_to_shape(fit.covariance)])
    return cells, (values / values.max()).astype(np.float32), beam
