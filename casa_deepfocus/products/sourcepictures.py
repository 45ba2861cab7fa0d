"""What a page shows of a field and of each source: data, model and residual on one stretch, spectrum, moments."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from astropy.table import Row
from markupsafe import Markup
from numpy.typing import NDArray
from scipy import ndimage, stats

from casa_deepfocus.core.cube import C_KMS, Cube
from casa_deepfocus.core.detection import weighted_mean
from casa_deepfocus.core.geometry import GAUSSIAN_LINE, covariance_to_shape
from casa_deepfocus.core.noise import inverse_variance
from casa_deepfocus.pipeline.state import Result, SourceDetail
from casa_deepfocus.products import panels, regions, tables, velocity
from casa_deepfocus.products.moments import Moments
from casa_deepfocus.products.panels import Outline

REACH = 2.0
"""Half width of a source's panels [observed major FWHM]."""

LEAST_REACH, MOST_REACH = 2.5, 10.0
"""The same at least and at most [beam]."""

LOWEST, LEAST_HIGH = -3.0, 6.0
"""Ends of the stretch [sigma]: the lower one, and the upper one at least."""

RESOLVED = 0.5
"""Deconvolved major FWHM [beam] from which a line has moments and a position-velocity cut."""

RESOLVED_SNR = 8.0
"""SNR of a line from which these show anything."""


@dataclass(frozen=True)
class Shown:
    """A picture with its words.

    Attributes
    ----------
    picture : Markup, SVG
    caption : str
    kind : str, 'sky' or 'spectrum', for the style sheet
    """

    picture: Markup
    caption: str
    kind: str = "sky"


class Material:
    """A result's images in units of their noise.

    Parameters
    ----------
    cube : Cube
    result : Result
    left : (nchan, ny, nx) float32 [Jy/beam]
        The image without what was found.
    moments : Moments or None
    """

    def __init__(self, cube: Cube, result: Result, left: NDArray[np.float32], moments: Moments | None) -> None:
        self.cube, self.result, self.left, self.moments = cube, result, left, moments
        noise = np.asarray(result.noise, dtype=float)
        self.noise = noise if noise.shape == (cube.nchan,) else np.full(cube.nchan, float(np.nanmedian(noise)))
        weights = inverse_variance(self.noise)
        flat = 1.0 if result.noise_map is None else np.asarray(result.noise_map)
        self.data = weighted_mean(cube.data, weights) / flat
        self.residual = weighted_mean(left, weights) / flat

    def of_source(self, detail: SourceDetail, x: float, y: float, half: int) -> tuple[NDArray, NDArray]:
        """Data and residual [sigma] around a place, over the channels of a source; NaN outside of the image."""
        first, last = (int(np.clip(at, 0, self.cube.nchan - 1)) for at in sorted((detail.chan0, detail.chan1)))
        weights = inverse_variance(self.noise)
        outside = np.ones(self.cube.nchan, dtype=bool)
        outside[first : last + 1] = False
        if (weights[~outside] > 0).any():
            weights = np.where(outside, 0.0, weights)
        ny, nx = self.cube.shape
        rows, columns = (slice(max(0, at - half), at + half + 1) for at in (round(y), round(x)))
        flat = 1.0 if self.result.noise_map is None else self.result.noise_map[rows, columns]
        used = np.flatnonzero(weights)
        chans = slice(used[0], used[-1] + 1)
        cuts = [weighted_mean(v[chans, rows, columns], weights[chans]) / flat for v in (self.cube.data, self.left)]
        data, left = (padded(cut, round(x), round(y), half, (ny, nx)) for cut in cuts)
        return data, left


def padded(cut: NDArray, x: int, y: int, half: int, shape: tuple[int, int]) -> NDArray:
    """What was cut around a pixel, at its place in a square of 2 half + 1 pixels, NaN around."""
    out = np.full((2 * half + 1, 2 * half + 1), np.nan)
    top, left = max(0, half - y), max(0, half - x)
    out[top : top + cut.shape[0], left : left + cut.shape[1]] = cut
    return out


def around(image: NDArray, x: int, y: int, half: int) -> NDArray:
    """A square of an image, NaN outside of it."""
    rows, columns = (slice(max(0, at - half), max(0, at + half + 1)) for at in (y, x))
    return padded(image[rows, columns], x, y, half, (image.shape[0], image.shape[1]))


def judged(residual: NDArray) -> tuple[float, float]:
    """rms, and the value that is largest in size, of a residual [sigma]; NaN where there is nothing."""
    good = residual[np.isfinite(residual)]
    if not good.size:
        return float("nan"), float("nan")
    return float(np.sqrt(np.mean(good**2))), float(good[np.argmax(np.abs(good))])


def expected_largest(npixel: int, beam_pixels: float) -> float:
    """What noise alone has as its largest value, of both signs, about [sigma]: of two samples a beam."""
    number = max(4.0 * npixel / max(beam_pixels**2, 1.0), 1.0)
    return float(stats.norm.isf(0.25 / number))


def of_field(material: Material) -> list[Shown]:
    """Data, model and residual of the whole field, and the probability map."""
    cube, result = material.cube, material.result
    data, left = material.data, material.residual
    high = max(float(np.nanmax(data, initial=LEAST_HIGH)), LEAST_HIGH)
    inside = np.isfinite(left) & (np.nan_to_num(cube.pb).max(axis=0) > 0)
    rms, largest = judged(np.where(inside, left, np.nan))
    usual = expected_largest(int(inside.sum()), cube.beam_pixels())
    size, width, angle = (float(v) for v in covariance_to_shape(cube.beam_covariance()))
    ny, nx = cube.shape
    beam = Outline(0.04 * nx + 0.5 * size, 0.04 * ny + 0.5 * size, size, width, angle, filled=True)
    ends = (0.5 * nx * cube.cell, -0.5 * nx * cube.cell, -0.5 * ny * cube.cell, 0.5 * ny * cube.cell)
    band = "the band's mean" if cube.nchan > 1 else "the image"
    model = data - left
    words = (
        (data, f"Data: {band} in sigma, peak {_finite(np.nanmax, data):.1f}"),
        (model, f"Model: what was found as the telescope sees it, peak {_finite(np.nanmax, model):.1f}"),
        (left, f"Residual: rms {rms:.2f} sigma, largest {largest:+.1f} (noise alone: about {usual:.1f})"),
    )
    axes = _axes(regions.turned(cube.sky_frame(0.5 * nx, 0.5 * ny)))
    out = []
    for image, caption in words:
        drawn = panels.grey(panels.thinned(image), LOWEST, high)
        out.append(Shown(panels.image_panel(drawn, cube.shape, ends, caption, axes, (beam,)), caption))
    table = result.catalogue
    marks = list(zip(np.asarray(table["x"], float), np.asarray(table["y"], float), strict=True)) if len(table) else []
    caption = "Probability of a source, 0 (white) to 1, with a cross at each source"
    drawn = np.round(255.0 - 200.0 * np.clip(np.nan_to_num(panels.thinned(result.probability)), 0, 1)).astype(np.uint8)
    out.append(Shown(panels.image_panel(drawn, cube.shape, ends, caption, axes, (), marks), caption))
    return out


def of_source(row: Row, detail: SourceDetail, material: Material) -> list[Shown]:
    """Data, model, residual, spectrum, and what a resolved line has."""
    cube = material.cube
    x, y = float(row["x"]), float(row["y"])
    maj, minor, pa = regions.observed_pixel_shape(row, cube)
    beam = cube.beam_pixels()
    half = int(np.ceil(np.clip(REACH * maj, LEAST_REACH * beam, MOST_REACH * beam)))
    half = min(half, max(cube.shape))
    data, left = material.of_source(detail, x, y, half)
    high = max(_finite(np.nanmax, data), LEAST_HIGH)
    rms, largest = judged(left)
    outline = Outline(half + x - round(x), half + y - round(y), maj, minor, pa)
    name = f"source {row['id']}"
    turned = regions.turned(cube.sky_frame(x, y))
    ends = _offsets(half, x, y, cube.cell)
    where = "line" if tables.has_line(row) else "band"
    words = (
        (data, f"Data, {where}'s mean: peak {_finite(np.nanmax, data):.1f} sigma; ellipse: FWHM as observed"),
        (data - left, f"Model: peak {_finite(np.nanmax, data - left):.1f} sigma"),
        (left, f"Residual: rms {rms:.2f} sigma, largest {largest:+.1f}"),
    )
    out = []
    for image, caption in words:
        drawn = panels.grey(image, LOWEST, high)
        seen = panels.image_panel(drawn, image.shape, ends, f"{name}: {caption}", _axes(turned), (outline,))
        out.append(Shown(seen, caption))
    if cube.nchan > 1:
        out.append(_spectrum(row, detail, cube, name))
    if is_resolved(row, cube) and material.moments is not None:
        out += _of_line(row, detail, material, half, outline, name)
    return out


def is_resolved(row: Row, cube: Cube) -> bool:
    """Whether a line is seen to have a size."""
    if not tables.has_line(row) or "unresolved" in str(row["flags"]).split(","):
        return False
    bright = not np.isfinite(row["snr_line"]) or row["snr_line"] >= RESOLVED_SNR
    return bool(bright and row["fwhm_maj"] >= RESOLVED * cube.beam_pixels() * cube.cell)


def _of_line(row: Row, detail: SourceDetail, material: Material, half: int, outline: Outline, name: str) -> list[Shown]:
    """Moments 0 and 1 and the cut along the major axis of a resolved line."""
    cube, found = material.cube, material.moments
    if found is None:
        return []
    x, y = float(row["x"]), float(row["y"])
    ends, axes = _offsets(half, x, y, cube.cell), _axes(regions.turned(cube.sky_frame(x, y)))
    out = []
    total = around(found.total, round(x), round(y), half)
    if np.isfinite(total).any():
        low, high = 0.0, max(_finite(np.nanmax, total), 1e-30)
        drawn = panels.coloured(total, low, high)
        caption = f"Moment 0: dark 0, bright {high:.3g} Jy/beam {found.unit}"
        out.append(Shown(panels.image_panel(drawn, total.shape, ends, f"{name}: {caption}", axes, (outline,)), caption))
    centre = around(found.centre, round(x), round(y), half)
    if np.isfinite(centre).sum() > 1:
        low, high = (float(v) for v in np.nanpercentile(centre, [2, 98]))
        drawn = panels.coloured(centre, low, high)
        digits = max(0, 1 - int(np.floor(np.log10(high - low)))) if high > low else 3
        caption = f"Moment 1: dark {low:.{digits}f}, bright {high:.{digits}f} {found.unit}"
        out.append(
            Shown(panels.image_panel(drawn, centre.shape, ends, f"{name}: {caption}", axes, (outline,)), caption)
        )
    cut = _cut(row, detail, material, half)
    if cut is not None:
        out.append(cut)
    return out


def _cut(row: Row, detail: SourceDetail, material: Material, half: int) -> Shown | None:
    """Position-velocity cut along the major axis."""
    cube, found = material.cube, material.moments
    if found is None:
        return None
    first, last = sorted((int(detail.chan0), int(detail.chan1)))
    more = max(2, (last - first) // 4)
    first, last = max(0, first - more), min(cube.nchan - 1, last + more)
    if last - first < 2:
        return None
    _, _, pa = regions.observed_pixel_shape(row, cube)
    angle = np.deg2rad(pa)
    steps = np.arange(-half, half + 1)
    columns, rows = float(row["x"]) - steps * np.sin(angle), float(row["y"]) + steps * np.cos(angle)
    planes = np.nan_to_num(found.without_continuum[first : last + 1])
    image = np.array([ndimage.map_coordinates(plane, [rows, columns], order=1) for plane in planes])
    image /= np.nan_to_num(material.noise[first : last + 1, None], nan=np.inf)
    known = found.unit == "km/s"
    convention = velocity.convention_told(row.table.meta.get("velocity"))
    speed = velocity.velocity(cube.freq, cube.restfreq, convention) if known else cube.freq / 1e9
    step = 0.5 * (speed[last] - speed[first]) / (last - first)
    ends = (-(half + 0.5) * cube.cell, (half + 0.5) * cube.cell, speed[first] - step, speed[last] + step)
    high = max(_finite(np.nanmax, image), LEAST_HIGH)
    caption = f"Cut along the major axis (PA {float(row['pa']):.0f} deg): peak {_finite(np.nanmax, image):.1f} sigma"
    drawn = panels.grey(image, LOWEST, high)
    axes = ("offset [arcsec]", "km/s" if known else "GHz")
    seen = panels.image_panel(
        drawn, (image.shape[0], image.shape[1]), ends, f"source {row['id']}: {caption}", axes, square=False
    )
    return Shown(seen, caption)


def _spectrum(row: Row, detail: SourceDetail, cube: Cube, name: str) -> Shown:
    known = bool(np.isfinite(cube.freq).all())
    x = cube.freq / 1e9 if known else np.arange(cube.nchan, dtype=float)
    flux, model = np.asarray(detail.spectrum, float) * 1e3, np.asarray(detail.model, float) * 1e3
    line = tables.has_line(row)
    span = None
    if line:
        first, last = (int(np.clip(at, 0, cube.nchan - 1)) for at in (detail.chan0, detail.chan1))
        half = 0.5 * abs(x[1] - x[0])
        span = (min(x[first], x[last]) - half, max(x[first], x[last]) + half)
    above, above_name = _velocities(cube, str(row.table.meta.get("velocity", ""))) if known else (None, "")
    scatter = flux - model
    noise = 1.4826 * float(np.nanmedian(np.abs(scatter - np.nanmedian(scatter)))) if np.isfinite(scatter).any() else 0.0
    curve = panels.Curve(
        x, flux, model, model_error(row, cube, known) * 1e3, np.asarray(detail.clean, float), noise, span,
        f"frequency [GHz], {cube.frame}".rstrip(", ") if known else "channel", above, above_name,
    )  # fmt: skip
    said = _fit(row)
    parts = [
        f"Spectrum as observed (grey; bar: its noise, \N{PLUS-MINUS SIGN}{noise:.2g} mJy), fit (black) with its error"
    ]
    parts += ["range of the line (dashed)"] if line else []
    parts += ["Deep GRU's output (dotted)"] if detail.clean.any() else []
    caption = ", ".join(parts) + (f". {said}" if said else "")
    return Shown(panels.spectrum_panel(curve, f"{name}: {caption}"), caption, "spectrum")


def model_error(row: Row, cube: Cube, known: bool) -> NDArray[np.float64]:
    """(nchan,) error [Jy] of the fitted line and continuum of a source, as observed; 0 where none is known."""
    out = np.zeros(cube.nchan)
    pb = float(np.nan_to_num(row["pb"], nan=1.0))
    if np.isfinite(row["continuum_err"]):
        out += (float(row["continuum_err"]) * pb) ** 2
    wanted = ("line_flux", "line_flux_err", "line_fwhm", "line_fwhm_err", "freq", "freq_err")
    if known and tables.has_line(row) and all(np.isfinite(row[name]) for name in wanted) and row["line_fwhm"] > 0:
        flux, flux_err, fwhm, fwhm_err, freq, freq_err = (float(row[name]) for name in wanted)
        width = fwhm / C_KMS * freq
        peak = flux * pb / (GAUSSIAN_LINE * fwhm)
        t = (cube.freq - freq) / width
        shape = np.exp(-4.0 * np.log(2.0) * t**2)
        steep = 8.0 * np.log(2.0) * t
        # Of flux and width, as they are given: at one flux a wider line is lower.
        out += (peak * shape * flux_err / flux) ** 2 if flux else 0.0
        out += (peak * shape * (steep * t - 1.0) * fwhm_err / fwhm) ** 2
        out += (peak * shape * steep * freq_err / width) ** 2
    return np.sqrt(out)


def _fit(row: Row) -> str:
    """What the fit says of line and continuum, with errors."""
    said = []
    if tables.has_line(row):
        speed = "velocity" in row.colnames and np.isfinite(row["velocity"])
        name, unit, scale = ("velocity", "km/s", 1.0) if speed else ("freq", "GHz", 1e-9)
        centre = tables.with_error(float(row[name]) * scale, float(row[f"{name}_err"]) * scale, ".6f")
        width = tables.with_error(float(row["line_fwhm"]), float(row["line_fwhm_err"]))
        flux = tables.with_error(float(row["line_flux"]), float(row["line_flux_err"]))
        said.append(f"Line at {centre} {unit}, FWHM {width} km/s, {flux} Jy km/s")
    if np.isfinite(row["continuum"]):
        flux = tables.with_error(float(row["continuum"]) * 1e3, float(row["continuum_err"]) * 1e3)
        said.append(f"continuum {flux} mJy" if said else f"Continuum {flux} mJy")
    return "; ".join(said).replace("+-", " \N{PLUS-MINUS SIGN} ")


def _velocities(cube: Cube, said: str) -> tuple[Callable[[NDArray], NDArray] | None, str]:
    if not cube.restfreq:
        return None, ""
    convention = velocity.convention_told(said)
    return (
        lambda freq: velocity.velocity(np.asarray(freq) * 1e9, cube.restfreq, convention),
        f"{convention} velocity [km/s]",
    )


def _offsets(half: int, x: float, y: float, cell: float) -> tuple[float, float, float, float]:
    """Offsets [arcsec] of the edges of a square around the nearest pixel: east is positive and to the left."""
    left, bottom = (round(x) - half - 0.5 - x) * cell, (round(y) - half - 0.5 - y) * cell
    side = (2 * half + 1) * cell
    return -left, -(left + side), bottom, bottom + side


def _axes(turned: bool) -> tuple[str, str]:
    return ("along \N{MINUS SIGN}x [arcsec]", "along y [arcsec]") if turned else ("east [arcsec]", "north [arcsec]")


def _finite(reduce: Callable[..., float], values: NDArray) -> float:
    good = values[np.isfinite(values)]
    return float(reduce(good)) if good.size else 0.0
