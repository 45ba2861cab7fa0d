"""Derivatives of sources by their parameters, as sums of shape x spectrum; what `sim.bounds` multiplies.

A Gaussian source needs six shapes: the Gaussian and its derivatives by position and covariance. A rotating
disc is sampled with all its derivatives on one stamp, and the few images from which all of these planes can
be composed are found by a randomised range finder (Halko, Martinsson & Tropp 2011, 10.1137/090771806).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from casa_deepfocus.core.geometry import FWHM_PER_SIGMA, GAUSSIAN_LINE
from sim.discs import FWHM_PER_SCALE, MAX_INCLINATION, Rotation, disc_fields, profile_width
from sim.response import gaussian_transform
from sim.sky import Line, Source

SHAPES = ("1", "x", "y", "sxx", "syy", "sxy")
"""A Gaussian and its derivatives: the shapes of which a Gaussian source's derivatives are made."""

DISC_RADIUS = 8.0
"""Scale lengths to which a disc's derivatives are sampled; 0.3 % of its flux lies beyond."""

RANGE_ERROR = 1e-2
"""What the images of a disc may leave out of any of its derivatives, relative."""

Shapes = Callable[[NDArray, NDArray], NDArray]
"""(kx, ky) (ncell,) [1/pixel] -> (nshape, ncell) complex128."""


@dataclass(frozen=True, eq=False)
class Derivatives:
    """A source's derivatives as sums of shape x spectrum.

    Attributes
    ----------
    source : Source
    names : tuple of str, the parameters
    shapes : Shapes
    spectra : (nparameter, nshape, nchan) float64
    line, continuum : (nshape, nchan) float64 [Jy], the source's own two parts
    reported : dict, what a catalogue reports as linear forms of the parameters: name -> {parameter: weight}
    """

    source: Source
    names: tuple[str, ...]
    shapes: Shapes
    spectra: NDArray[np.float64]
    line: NDArray[np.float64]
    continuum: NDArray[np.float64]
    reported: dict[str, dict[str, float]]


def derivatives(source: Source, freq: NDArray[np.float64]) -> Derivatives:
    """Derivatives of a source of any kind; `freq` (nchan,) [Hz]."""
    return gaussian_derivatives(source, freq) if source.rotation is None else disc_derivatives(source, freq)


def line_name(name: str, number: int) -> str:
    """The name of a parameter of the first, second, ... line of a source: line_flux, line2_flux, ..."""
    return name if number == 1 else name.replace("line", f"line{number}", 1)


def gaussian_derivatives(source: Source, freq: NDArray[np.float64]) -> Derivatives:
    """Derivatives of a Gaussian (or point) source with a power-law continuum and Gaussian lines."""
    nchan = len(freq)
    continuum, line = source.continuum_spectrum(freq), source.line_spectrum(nchan)
    total = continuum + line
    rows: list[tuple[str, int, NDArray[np.float64]]] = [(name, place, total) for place, name in enumerate(SHAPES)][1:]
    rows += [(name, 0, spectrum) for name, spectrum in _continuum_derivatives(source, freq)]
    for number, each in enumerate(source.lines, start=1):
        rows.append((line_name("line_flux", number), 0, each.spectrum(nchan) / each.flux))
        step = 1e-4 * each.fwhm
        for name in ("chan", "fwhm"):
            high, low = (_moved(each, name, sign * step).spectrum(nchan) for sign in (1, -1))
            rows.append((line_name("line_" + name, number), 0, (high - low) / (2.0 * step)))
    spectra = np.zeros((len(rows), len(SHAPES), nchan))
    for number, (_, place, spectrum) in enumerate(rows):
        spectra[number, place] = spectrum
    parts = np.zeros((2, len(SHAPES), nchan))
    parts[:, 0] = line, continuum
    names = tuple(row[0] for row in rows)
    # Variances along the axes, and the cross term that turns them, as linear forms of the covariance.
    sin, cos = np.sin(np.deg2rad(source.pa)), np.cos(np.deg2rad(source.pa))
    forms = {"along": (sin**2, cos**2, -2 * sin * cos), "across": (cos**2, sin**2, 2 * sin * cos)}
    forms["turn"] = (sin * cos, -sin * cos, sin**2 - cos**2)
    reported = {name: dict(zip(SHAPES[3:], map(float, form), strict=True)) for name, form in forms.items()}
    reported |= {name: {name: 1.0} for name in names if name not in (*SHAPES[3:], "alpha")}
    return Derivatives(source, names, _gaussian_shapes(source), spectra, parts[0], parts[1], reported)


def _moved(line: Line, name: str, step: float) -> Line:
    """The same flux elsewhere, or over another width."""
    if name == "chan":
        return replace(line, chan=line.chan + step)
    return replace(line, fwhm=line.fwhm + step, peak=line.peak * line.fwhm / (line.fwhm + step))


def _continuum_derivatives(source: Source, freq: NDArray[np.float64]) -> list[tuple[str, NDArray[np.float64]]]:
    """(name, spectrum (nchan,)) of the continuum's parameters; none without a continuum."""
    if not source.continuum:
        return []
    spectrum = source.continuum_spectrum(freq)
    slope = spectrum * np.log(freq / (0.5 * (freq[0] + freq[-1])))
    return [("continuum", spectrum / source.continuum), ("alpha", slope)]


def _gaussian_shapes(source: Source) -> Shapes:
    """A source's Gaussian of unit flux and its derivatives (`SHAPES`), in the uv plane."""

    def shapes(kx: NDArray, ky: NDArray) -> NDArray[np.complex128]:
        base = gaussian_transform(source.covariance(), kx, ky) * np.exp(-2j * np.pi * (kx * source.x + ky * source.y))
        along_x, along_y = -2j * np.pi * kx * base, -2j * np.pi * ky * base
        quadratic = -2.0 * np.pi**2 * base
        return np.stack([base, along_x, along_y, kx * kx * quadratic, ky * ky * quadratic, 2 * kx * ky * quadratic])

    return shapes


class _Disc:
    """A disc and its derivatives on one stamp: brightness (sum 1) and shift of the line [chan].

    Attributes
    ----------
    x, y : (npoint,) [pixel], offsets of the sampled points from the centre
    brightness, shift : (npoint,)
    slopes : dict, parameter -> derivatives of brightness and shift
    inside : (side, side) bool, the pixels of the stamp that are sampled; pitch : float [pixel], their size
    """

    def __init__(self, source: Source, rotation: Rotation) -> None:
        scale, ratio = source.fwhm_maj / FWHM_PER_SCALE, rotation.axis_ratio()
        self.pitch = float(np.clip(source.fwhm_maj * ratio / 6.0, 0.2, 1.0))
        half = int(np.ceil(DISC_RADIUS * scale / self.pitch))
        axis = np.arange(-half, half + 1) * self.pitch
        x, y = (part.ravel() for part in np.meshgrid(axis, axis))
        inside = disc_fields(x, y, source.fwhm_maj, source.pa, rotation)[0] > np.exp(-DISC_RADIUS)
        self.x, self.y, self.inside = x[inside], y[inside], inside.reshape(len(axis), len(axis))

        base = {"x": 0.0, "y": 0.0, "fwhm_maj": source.fwhm_maj, "pa": source.pa}

        def fields(changed: dict[str, float], spin: Rotation = rotation) -> NDArray[np.float64]:
            now = base | changed
            dx, dy = self.x - now["x"], self.y - now["y"]
            bright, shift = disc_fields(dx, dy, now["fwhm_maj"], now["pa"], spin)
            return np.stack([bright * self.pitch**2 / _disc_area(now["fwhm_maj"], spin), shift])

        self.brightness, self.shift = fields({})
        self.slopes: dict[str, NDArray[np.float64]] = {}
        for name, step in {
            "x": 1e-3 * scale,
            "y": 1e-3 * scale,
            "fwhm_maj": 1e-3 * source.fwhm_maj,
            "pa": 0.05,
        }.items():
            high, low = (fields({name: base[name] + sign * step}) for sign in (1, -1))
            self.slopes[name] = (high - low) / (2.0 * step)
        for name, step in _rotation_steps(rotation).items():
            ends = _ends(rotation, name, step)
            low, high = (fields({}, replace(rotation, **{name: end})) for end in ends)
            self.slopes[f"rotation_{name}"] = (high - low) / (ends[1] - ends[0])

    def stamps(self, values: NDArray) -> NDArray[np.float64]:
        """Images (n, npoint) of the sampled points as stamps (n, side, side), 0 outside."""
        out = np.zeros((len(values), *self.inside.shape))
        out[:, self.inside] = values
        return out


def _disc_area(fwhm_maj: float, rotation: Rotation) -> float:
    """Integral [pixel^2] of an exponential disc of central brightness 1."""
    return 2.0 * np.pi * (fwhm_maj / FWHM_PER_SCALE) ** 2 * rotation.axis_ratio()


def _ends(rotation: Rotation, name: str, step: float) -> tuple[float, float]:
    """A parameter of the rotation a step lower and a step higher, as far as it may go."""
    value = float(getattr(rotation, name))
    if name == "inclination":
        return max(0.0, value - step), min(MAX_INCLINATION, value + step)
    return value - step, value + step


def _rotation_steps(rotation: Rotation) -> dict[str, float]:
    """Steps of the finite differences in the parameters of the rotation."""
    return {
        "velocity": 1e-3 * max(abs(rotation.velocity), 1.0),
        "turnover": 1e-3 * rotation.turnover,
        "inclination": 0.05,
    }


def disc_derivatives(source: Source, freq: NDArray[np.float64]) -> Derivatives:
    """Derivatives of a rotating exponential disc; all its lines share one dispersion."""
    if source.rotation is None:
        raise TypeError("a disc has a rotation")
    nchan, rotation = len(freq), source.rotation
    disc = _Disc(source, rotation)
    continuum_rows = dict(_continuum_derivatives(source, freq))
    names = ["x", "y", "fwhm_maj", "pa", "rotation_inclination", *continuum_rows]
    if source.lines:
        names += ["rotation_velocity", "rotation_turnover", "rotation_dispersion"]
    for number in range(1, len(source.lines) + 1):
        names += [line_name("line_flux", number), line_name("line_chan", number)]
    place = {name: 2 + number for number, name in enumerate(names)}
    reach = np.abs(disc.shift).max() + 5.0 * rotation.dispersion / FWHM_PER_SIGMA
    channels = np.arange(nchan)
    near = np.unique(
        np.concatenate([channels[:0], *(channels[np.abs(channels - e.chan) <= reach] for e in source.lines)])
    )
    # Planes of the line, of the continuum, and of every derivative: the channels of the lines, and last the
    # image that is multiplied with the continuum's spectrum or its derivative.
    planes = np.zeros((2 + len(names), len(near) + 1, len(disc.x)), np.float32)
    rows = np.zeros((2 + len(names), nchan))
    for number, line in enumerate(source.lines, start=1):
        _add_line(planes[:, :-1], place, disc, rotation, line, number, near)
    if source.continuum:
        spectrum = source.continuum_spectrum(freq)
        products = {1: (disc.brightness, spectrum)}
        products |= {place[name]: (part[0], spectrum) for name, part in disc.slopes.items() if name in place}
        products |= {place[name]: (disc.brightness, row) for name, row in continuum_rows.items()}
        for number, (image, row) in products.items():
            size = float(np.sqrt(np.square(row).sum()))
            if size > 0:
                planes[number, -1] = image * size
                rows[number] = row / size
    parts, images = _compress(planes)
    spectra = parts[:, :, -1:] * rows[:, None, :]
    spectra[:, :, near] += parts[:, :, :-1]

    ratio = rotation.axis_ratio()
    thinner = -source.fwhm_maj * np.sqrt(1.0 - ratio**2) * np.deg2rad(1.0)
    reported = {name: {name: 1.0} for name in names if name != "alpha"}
    reported["fwhm_min"] = {"fwhm_maj": ratio, "rotation_inclination": float(thinner)}
    if source.lines:
        reported["line_fwhm"] = _width_slopes(source, rotation)
        for number in range(2, len(source.lines) + 1):
            reported[line_name("line_fwhm", number)] = reported["line_fwhm"]
    shapes = _image_shapes(disc.stamps(images), source, disc.pitch)
    return Derivatives(source, tuple(names), shapes, spectra[2:], spectra[0], spectra[1], reported)


def _add_line(
    planes: NDArray,
    place: dict[str, int],
    disc: _Disc,
    rotation: Rotation,
    line: Line,
    number: int,
    channels: NDArray[np.int64],
) -> None:
    """Add a line of a disc to the planes (n, nchannels, npoint) of the line and of its derivatives."""
    sigma = rotation.dispersion / FWHM_PER_SIGMA
    offset = (channels[:, None] - line.chan - disc.shift) / sigma
    profile = line.flux / (GAUSSIAN_LINE * rotation.dispersion) * np.exp(-0.5 * offset * offset)
    whole = profile * disc.brightness
    moved = whole * offset / sigma
    planes[0] += whole
    for name, (bright, shift) in disc.slopes.items():
        planes[place[name]] += profile * bright + moved * shift
    planes[place["rotation_dispersion"]] += whole * (offset * offset - 1.0) / rotation.dispersion
    planes[place[line_name("line_flux", number)]] += whole / line.flux
    planes[place[line_name("line_chan", number)]] += moved


def _image_shapes(stamps: NDArray[np.float64], source: Source, pitch: float) -> Shapes:
    """Stamps (n, side, side) with pixels of `pitch` about a source, in the uv plane."""
    offset = (np.arange(stamps.shape[1]) - stamps.shape[1] // 2) * pitch

    def shapes(kx: NDArray, ky: NDArray) -> NDArray[np.complex128]:
        (some_x, place_x), (some_y, place_y) = (np.unique(k, return_inverse=True) for k in (kx, ky))
        wave_x = np.exp(-2j * np.pi * np.outer(source.x + offset, some_x))
        wave_y = np.exp(-2j * np.pi * np.outer(some_y, source.y + offset))
        return (wave_y @ (stamps @ wave_x)).astype(complex, copy=False)[:, place_y, place_x]

    return shapes


def _compress(planes: NDArray[np.float32]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Planes (n, nchan, npoint) as spectra (n, nshape, nchan) times images (nshape, npoint)."""
    power = np.sqrt(np.square(planes).sum(axis=(1, 2)))
    scaled = planes / np.where(power > 0, power, 1.0)[:, None, None]
    used = np.asarray(scaled.any(axis=2))
    rows, parts = scaled[used], power > 0
    if not len(rows):
        return np.zeros((*used.shape[:1], 1, used.shape[1])), np.zeros((1, planes.shape[2]))
    rng = np.random.default_rng(0)
    number = 24
    while True:
        number = min(2 * number, *rows.shape)
        images = _orthonormal(rng.standard_normal((number, len(rows))).astype(np.float32) @ rows)
        weights = rows @ images.T
        if number == min(rows.shape) or np.all(1.0 - _power(weights, used)[parts] < RANGE_ERROR**2):
            break
    # The sketch has more images than needed: the strongest of its combinations will do.
    _, turn = np.linalg.eigh(weights.T @ weights)
    weights, images = weights @ turn[:, ::-1], turn[:, ::-1].T @ images
    kept = np.cumsum(np.stack([_power(weights[:, [one]], used) for one in range(len(images))]), axis=0)
    enough = np.all(kept[:, parts] > kept[-1, parts] - RANGE_ERROR**2, axis=1)
    number = 1 + int(enough.argmax())
    spectra = np.zeros((*used.shape, number))
    spectra[used] = weights[:, :number]
    return np.moveaxis(spectra, 2, 1) * power[:, None, None], images[:number].astype(float)


def _orthonormal(images: NDArray[np.float32]) -> NDArray[np.float32]:
    """Orthonormal images that span the given ones (n, npoint), but for what single precision does not tell."""
    plain = images.astype(float)
    # The small matrix of their products is quicker than a QR decomposition.
    values, vectors = np.linalg.eigh(plain @ plain.T)
    good = values > 1e-10 * values[-1]
    return ((vectors[:, good] / np.sqrt(values[good])).T @ plain).astype(np.float32)


def _power(weights: NDArray, used: NDArray[np.bool_]) -> NDArray[np.float64]:
    """(n,) sum of squares of the rows (nrow, nimage) that belong to each plane of `used` (n, nchan)."""
    plane = np.nonzero(used)[0]
    total = np.bincount(plane, weights=np.square(weights, dtype=np.float64).sum(axis=1), minlength=len(used))
    return total.astype(float)


def _width_slopes(source: Source, rotation: Rotation) -> dict[str, float]:
    """How the width of a disc's integrated profile changes with its parameters."""
    out = {}
    for name in ("velocity", "turnover", "dispersion", "inclination"):
        ends = _ends(rotation, name, 1.0 if name == "inclination" else 0.03 * max(abs(getattr(rotation, name)), 0.1))
        low, high = (profile_width(source.fwhm_maj, source.pa, replace(rotation, **{name: end})) for end in ends)
        out[f"rotation_{name}"] = (high - low) / (ends[1] - ends[0])
    step = 0.03 * source.fwhm_maj
    low, high = (profile_width(source.fwhm_maj + sign * step, source.pa, rotation) for sign in (-1, 1))
    return out | {"fwhm_maj": (high - low) / (2.0 * step)}
