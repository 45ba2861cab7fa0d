"""The panels of `sim.show`: images with the truth drawn in, moments, PSF, noise, spectra, a list of sources."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from astropy.table import Table
from matplotlib.axes import Axes
from matplotlib.colors import AsinhNorm, Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Ellipse
from matplotlib.patheffects import withStroke
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter1d

from casa_deepfocus.core.cube import C_KMS, Cube
from casa_deepfocus.core.geometry import gaussian_image
from casa_deepfocus.core.noise import MAD_TO_SIGMA
from sim.inject import cube_response
from sim.response import Response
from sim.sky import Source

LABELS = 12
"""Most sources that get their names."""

STRONG = 15.0
"""Line S/N of a disc whose rotation can be seen."""

TRUE, DATA, WEAK = "#d1495b", "#20639b", "#8d99ae"
OUTLINE = [withStroke(linewidth=2.2, foreground="white")]


@dataclass(eq=False)
class View:
    """What is drawn.

    Attributes
    ----------
    cube : Cube
    truth : astropy Table
    sources : list of Source
    sigma : (nchan,) float64 [Jy/beam]
    lines : (nchan, ny, nx) float32 [Jy/beam], the cube without its continuum; empty without a line
    order : row numbers of the truth, the strongest first
    model : like `cube.data`, the sources' dirty image without noise and defects; None where it is not known
    """

    cube: Cube
    truth: Table
    sources: list[Source]
    sigma: NDArray[np.float64]
    lines: NDArray[np.float32]
    order: list[int]
    model: NDArray[np.float32] | None

    @cached_property
    def response(self) -> Response:
        """What the cube's PSF and primary beam do to the sky."""
        return cube_response(self.cube)

    @property
    def main(self) -> int | None:
        """The row with the strongest line, if one has a line."""
        with_line = [row for row in self.order if self.sources[row].lines]
        return max(with_line, key=lambda row: self.truth["snr_line"][row]) if with_line else None

    @property
    def turning(self) -> int | None:
        """The row whose velocities are drawn: a disc where one is strong, else that of the strongest line."""
        discs = [row for row in self.order if self.sources[row].rotation and self.truth["snr_line"][row] > STRONG]
        return discs[0] if discs else self.main


def milli(value: float) -> str:
    return f"{1e3 * value:.3g}"


def image(
    figure: Figure, axes: Axes, plane: NDArray, label: str, sigma: float, view: View, corner: tuple[int, int] = (0, 0)
) -> None:
    """An image with a stretch that shows noise and sources, beside its colour bar."""
    finite = plane[np.isfinite(plane)]
    high = max(float(finite.max(initial=0.0)), 6.0 * sigma)
    low = min(-4.0 * sigma, float(finite.min(initial=0.0)) if finite.min(initial=0.0) < -8.0 * sigma else 0.0)
    norm = AsinhNorm(4.0 * sigma, vmin=low, vmax=high)
    axes.set_facecolor("#e8e8e8")
    shown = axes.imshow(plane, origin="lower", cmap="Greys", norm=norm, interpolation="nearest")
    bar = figure.colorbar(shown, ax=axes, orientation="horizontal", shrink=0.9, pad=0.02, aspect=30, label=label)
    bar.ax.minorticks_off()
    ticks = _ticks(low, high, sigma)
    bar.set_ticks(ticks, labels=[f"{tick:.3g}" for tick in ticks])
    bar.ax.tick_params(labelsize=8)
    sky(axes, view, plane.shape, corner)


def _ticks(low: float, high: float, sigma: float) -> list[float]:
    """A few round numbers that an asinh scale keeps apart."""
    scale = 4.0 * sigma
    ends = np.arcsinh(np.array([low, high]) / scale)
    ticks: list[float] = []
    for power in range(int(np.floor(np.log10(sigma))) - 1, int(np.ceil(np.log10(max(high, -low)))) + 1):
        ticks += [sign * step * 10.0**power for step in (1.0, 2.0, 5.0) for sign in (1, -1)]
    kept = [0.0]
    for tick in sorted(ticks, key=abs, reverse=True):
        place = np.arcsinh(np.array([*kept, tick]) / scale) / (ends[1] - ends[0])
        if low <= tick <= high and np.abs(place[:-1] - place[-1]).min() > 0.11:
            kept.append(tick)
    return sorted(kept)


def sky(axes: Axes, view: View, shape: tuple[int, ...], corner: tuple[int, int] = (0, 0)) -> None:
    """Ticks in arcsec from the middle of the image, the beam, a scale bar."""
    cube = view.cube
    ny, nx = shape
    step = _round(0.28 * nx * cube.cell)
    for axis, side, place, sense in (
        (axes.xaxis, nx, cube.shape[1] // 2 - corner[0], -1.0),
        (axes.yaxis, ny, cube.shape[0] // 2 - corner[1], 1.0),
    ):
        numbers = np.arange(np.ceil(-place * cube.cell / step), np.floor((side - 1 - place) * cube.cell / step) + 1)
        axis.set_ticks(place + numbers * step / cube.cell, [f"{sense * number * step + 0.0:g}" for number in numbers])
    axes.tick_params(labelsize=8)
    axes.set_xlabel("RA offset [arcsec]", fontsize=9, labelpad=1)
    axes.set_ylabel("Dec offset [arcsec]", fontsize=9, labelpad=0)
    beam = np.median(cube.beams[np.isfinite(cube.beams).all(axis=1)], axis=0)
    size = beam[0] / cube.cell
    place_beam = (0.03 * nx + 0.6 * size, 0.03 * ny + 0.6 * size)
    # Pixels run west with x, so north through east turns from +y towards -x: matplotlib's own sense.
    axes.add_patch(
        Ellipse(place_beam, beam[1] / cube.cell, size, angle=beam[2], facecolor="#2a9d8f", edgecolor="white", zorder=4)
    )
    length = _round(0.2 * nx * cube.cell)
    right = 0.96 * nx
    axes.plot([right - length / cube.cell, right], [0.05 * ny] * 2, color="black", linewidth=2, path_effects=OUTLINE)
    axes.text(
        right - 0.5 * length / cube.cell, 0.065 * ny, f'{length:g}"', ha="center", fontsize=8, path_effects=OUTLINE
    )
    axes.set(xlim=(-0.5, nx - 0.5), ylim=(-0.5, ny - 0.5))


def _round(value: float) -> float:
    """The largest of 1, 2, 5 times a power of ten that is no larger."""
    power = 10.0 ** np.floor(np.log10(value))
    return float(power * max(step for step in (1.0, 2.0, 5.0) if step * power <= value * (1.0 + 1e-9)))


def mark(axes: Axes, view: View, rows: Sequence[int], corner: tuple[int, int] = (0, 0), names: bool = True) -> None:
    """Ellipses of the true FWHM, crosses for what is smaller than a few pixels."""
    ny, nx = view.cube.shape
    for row in rows:
        source = view.sources[row]
        x, y = source.x - corner[0], source.y - corner[1]
        if source.fwhm_maj > 0.012 * nx:
            axes.add_patch(
                Ellipse(
                    (x, y), source.fwhm_min, source.fwhm_maj, angle=source.pa, fill=False, color=TRUE, linewidth=1.3
                )
            )
        else:
            axes.plot(x, y, "+", color=TRUE, markersize=9, markeredgewidth=1.3)
        if names and len(view.order) <= LABELS:
            side = -1 if source.x > 0.85 * nx else 1
            axes.annotate(
                str(view.truth["name"][row]), (x, y), xytext=(7 * side, 6 if source.y < 0.92 * ny else -12),
                textcoords="offset points", ha="left" if side > 0 else "right", color=TRUE, fontsize=8.5,
                path_effects=OUTLINE,
            )  # fmt: skip


def _average(data: NDArray) -> NDArray[np.float64]:
    """Mean over the channels, NaN where none has data."""
    count = np.isfinite(data).sum(axis=0)
    return np.where(count > 0, np.nan_to_num(data).sum(axis=0) / np.maximum(count, 1), np.nan)


def _band_noise(view: View) -> float:
    """Noise [mJy/beam] of the average over the band."""
    good = np.isfinite(view.sigma)
    return 1e3 * float(np.sqrt(np.square(view.sigma[good]).sum()) / good.sum())


def band(figure: Figure, axes: Axes, view: View) -> None:
    """The average over the band, with all sources and the primary beam."""
    image(figure, axes, 1e3 * _average(view.cube.data), "mJy/beam", _band_noise(view), view)
    pb = np.nan_to_num(view.cube.pb[len(view.cube.pb) // 2])
    levels = [level for level in (0.2, 0.5) if pb.min() < level < pb.max()]
    if levels:
        axes.contour(pb, levels=levels, colors="#777777", linewidths=0.8, linestyles="dashed")
    mark(axes, view, range(len(view.sources)))
    axes.set_title("image" if view.cube.nchan == 1 else "average over the band", fontsize=10)


def _near(view: View, rows: Sequence[int]) -> NDArray[np.bool_]:
    """(nchan,) channels within a FWHM of a line of these sources."""
    chan = np.arange(view.cube.nchan)
    near = np.zeros(len(chan), bool)
    for row in rows:
        for line in view.sources[row].lines:
            near |= np.abs(chan - line.chan) <= max(line.fwhm, 1.0)
    return near & np.isfinite(view.sigma)


def moment0(figure: Figure, axes: Axes, view: View) -> None:
    """The lines summed over their channels."""
    near = _near(view, view.order)
    kms = view.cube.chan_width_kms(float(view.cube.freq[view.cube.nchan // 2]))
    plane = np.where(np.isfinite(view.lines[near]).any(axis=0), np.nan_to_num(view.lines[near]).sum(axis=0), np.nan)
    sigma = float(np.sqrt(np.square(view.sigma[near]).sum())) * kms
    image(figure, axes, plane * kms, "Jy/beam km/s", sigma, view)
    mark(axes, view, [row for row in view.order if view.sources[row].lines])
    axes.set_title(f"moment 0 of the lines, {near.sum()} channels", fontsize=10)


def _window(view: View, row: int) -> tuple[slice, slice]:
    """Rows and columns of the image around a source."""
    source, (ny, nx) = view.sources[row], view.cube.shape
    half = int(np.ceil(np.hypot(1.1 * source.fwhm_maj, 1.6 * view.cube.beam_pixels()))) + 2
    x, y = round(source.x), round(source.y)
    return slice(max(0, y - half), min(ny, y + half + 1)), slice(max(0, x - half), min(nx, x + half + 1))


def moment1(figure: Figure, axes: Axes, view: View) -> None:
    """Mean velocity of a disc, or of the strongest line, where it is bright."""
    row = view.turning
    if row is None:
        return
    source, cube = view.sources[row], view.cube
    line, (rows, columns) = source.lines[0], _window(view, row)
    chan = np.flatnonzero((np.abs(np.arange(cube.nchan) - line.chan) <= 1.2 * line.fwhm) & np.isfinite(view.sigma))
    data = np.nan_to_num(view.lines[chan][:, rows, columns]) * np.sign(line.peak)
    smooth = gaussian_filter1d(data, 0.8, axis=0, mode="constant")
    keep = (smooth > 2.2 * view.sigma[chan, None, None]) & (data > 0)
    weight = np.where(keep, data, 0.0)
    bright = weight.sum(axis=0) > 5.0 * float(np.nanmedian(view.sigma)) * np.sqrt(np.maximum(keep.sum(axis=0), 1))
    velocity = C_KMS * (1.0 - cube.freq[chan] / cube.chan_to_freq(line.chan))
    total = np.where(bright, weight.sum(axis=0), np.nan)
    moment = np.tensordot(velocity, weight, axes=1) / total
    reach = 0.6 * line.fwhm * cube.chan_width_kms(cube.chan_to_freq(line.chan))
    axes.set_facecolor("#f3f3f3")
    shown = axes.imshow(moment, origin="lower", cmap="RdBu_r", norm=Normalize(-reach, reach), interpolation="nearest")
    figure.colorbar(
        shown, ax=axes, orientation="horizontal", shrink=0.9, pad=0.02, aspect=30, label="km/s from the true centre"
    ).ax.tick_params(labelsize=8)
    corner = (columns.start, rows.start)
    sky(axes, view, moment.shape, corner)
    mark(axes, view, [row], corner, names=False)
    axes.set_title(f"moment 1 of {view.truth['name'][row]} ({source.kind}), masked", fontsize=10)


def channel(figure: Figure, axes: Axes, view: View, row: int) -> None:
    """The channel in which the strongest line peaks."""
    chan = int(np.nanargmax(_expected(view, row)))
    image(figure, axes, 1e3 * view.cube.data[chan], "mJy/beam", 1e3 * float(view.sigma[chan]), view)
    near = [other for other in view.order if _near(view, [other])[chan] or view.sources[other].continuum]
    mark(axes, view, near)
    axes.set_title(
        f"channel {chan}, {view.cube.freq[chan] / 1e9:.6g} GHz: peak of {view.truth['name'][row]}", fontsize=10
    )


def _expected(view: View, row: int) -> NDArray[np.float64]:
    """(nchan,) |line| of a source, NaN in blank channels."""
    line = np.abs(view.sources[row].line_spectrum(view.cube.nchan))
    return np.where(np.isfinite(view.sigma), line, np.nan)


def zoom(figure: Figure, axes: Axes, view: View) -> None:
    """The strongest source of a field without lines; the middle of an empty one."""
    plane = _average(view.cube.data)
    if view.order:
        rows, columns = _window(view, view.order[0])
        title = f"around {view.truth['name'][view.order[0]]}"
    else:
        (ny, nx), half = view.cube.shape, int(6.0 * view.cube.beam_pixels())
        rows = slice(max(0, ny // 2 - half), min(ny, ny // 2 + half))
        columns = slice(max(0, nx // 2 - half), min(nx, nx // 2 + half))
        title = "the middle"
    corner = (columns.start, rows.start)
    image(figure, axes, 1e3 * plane[rows, columns], "mJy/beam", _band_noise(view), view, corner)
    mark(axes, view, view.order[:1], corner, names=False)
    axes.set_title(title, fontsize=10)


def histogram(axes: Axes, view: View) -> None:
    """How the pixels of all channels are distributed, in units of the noise, beside a normal distribution."""
    values = (view.cube.data / view.sigma[:, None, None])[:, ::2, ::2]
    values = values[np.isfinite(values)]
    edges = np.arange(-6.0, 6.01, 0.25)
    axes.hist(np.clip(values, -5.99, 5.99), bins=edges, density=True, color=WEAK, label="pixels")
    x = np.linspace(-6.0, 6.0, 241)
    axes.plot(x, np.exp(-0.5 * x * x) / np.sqrt(2.0 * np.pi), color=TRUE, label="normal distribution")
    axes.set(yscale="log", xlabel="pixel / noise", ylim=(1e-6, 1.0), box_aspect=1.0)
    axes.legend(fontsize=8)
    axes.set_title("distribution of the pixels", fontsize=10)


def beam_map(figure: Figure, axes: Axes, view: View) -> None:
    """The primary beam in the middle of the band."""
    pb = view.cube.pb[len(view.cube.pb) // 2]
    shown = axes.imshow(pb, origin="lower", cmap="viridis", vmin=0.0, vmax=1.0)
    bar = figure.colorbar(shown, ax=axes, orientation="horizontal", shrink=0.9, pad=0.02, aspect=30, label="response")
    bar.ax.tick_params(labelsize=8)
    levels = [level for level in (0.2, 0.5, 0.8) if np.nanmin(pb) < level < np.nanmax(pb)]
    if levels:
        axes.clabel(axes.contour(pb, levels=levels, colors="white", linewidths=0.8), fontsize=8)
    sky(axes, view, pb.shape)
    axes.set_title("primary beam", fontsize=10)


def psf(figure: Figure, axes: Axes, view: View) -> None:
    """The inner part of the PSF, with its half-power contour."""
    plane = view.cube.psf[len(view.cube.psf) // 2]
    half = int(min(plane.shape[0] // 2, 9.0 * view.cube.beam_pixels()))
    y, x = plane.shape[0] // 2, plane.shape[1] // 2
    plane = plane[y - half : y + half + 1, x - half : x + half + 1]
    shown = axes.imshow(plane, origin="lower", cmap="RdGy_r", norm=AsinhNorm(0.05, vmin=-1.0, vmax=1.0))
    bar = figure.colorbar(shown, ax=axes, orientation="horizontal", shrink=0.9, pad=0.02, aspect=30, label="PSF")
    bar.ax.minorticks_off()
    bar.set_ticks([-0.5, -0.1, 0.0, 0.1, 0.5], labels=["-0.5", "-0.1", "0", "0.1", "0.5"])
    bar.ax.tick_params(labelsize=8)
    axes.contour(plane, levels=[0.5], colors="white", linewidths=1.0)
    away = view.cube.shape[1] // 2 - half, view.cube.shape[0] // 2 - half
    sky(axes, view, plane.shape, away)
    far = np.hypot(*np.ogrid[-half : plane.shape[0] - half, -half : plane.shape[1] - half])
    sidelobe = float(np.abs(plane[far > 1.5 * view.cube.beam_pixels()]).max(initial=0.0))
    kind = "PSF" if view.cube.psf_is_measured else "Gaussian beam"
    axes.set_title(f"{kind}, highest sidelobe {sidelobe:.0%}", fontsize=10)


def noise(axes: Axes, view: View) -> None:
    """Noise of every channel of an empty field."""
    axes.plot(view.cube.freq / 1e9, 1e3 * view.sigma, color=DATA, drawstyle="steps-mid")
    axes.set(xlabel="frequency [GHz]", ylabel="noise [mJy/beam]", ylim=(0.0, None))
    axes.set_title("noise of every channel", fontsize=10)


def listing(axes: Axes, view: View) -> None:
    """The sources of an image of one channel as a table."""
    axes.axis("off")
    columns = ("name", "kind", "x", "y", "continuum", "fwhm_maj", "fwhm_min", "pa", "pb", "snr")
    heads = ("name", "kind", "x", "y", "flux [mJy]", "major [arcsec]", "minor [arcsec]", "PA [deg]", "PB", "S/N")
    cells = []
    for row in view.order[:LABELS]:
        values = {name: view.truth[name][row] for name in columns}
        values["continuum"] *= 1e3
        cells.append([str(v) if isinstance(v, str) else f"{v:.3g}" for v in values.values()])
    if not cells:
        axes.text(0.5, 0.5, "no sources", ha="center", va="center", color=WEAK, fontsize=12)
        return
    table = axes.table(cells, colLabels=heads, loc="upper center", cellLoc="center", edges="horizontal")
    table.auto_set_font_size(False)
    table.set_fontsize(9)
    table.scale(1.0, 1.5)
    axes.set_title("true sources", fontsize=10)


def spectrum(axes: Axes, view: View, row: int) -> None:
    """Flux density of a source in every channel, by the matched filter, and the truth."""
    cube, source = view.cube, view.sources[row]
    gain = filter_gain(view, row)
    measured = filtered(view, row, cube.data) * gain
    # Neighbouring channels differ by noise, and where lines are.
    jumps = np.diff(measured[np.isfinite(measured)])
    scatter = MAD_TO_SIGMA * float(np.median(np.abs(jumps))) / np.sqrt(2.0) if len(jumps) else np.nan
    error = 1e3 * scatter * view.sigma / np.nanmedian(view.sigma)
    freq, true = cube.freq / 1e9, 1e3 * source.spectrum(cube.freq)
    axes.fill_between(freq, -error, error, color=WEAK, alpha=0.3, linewidth=0, step="mid", label="noise, 1 sigma")
    axes.plot(freq, 1e3 * measured, color=DATA, linewidth=1.0, drawstyle="steps-mid", label="matched filter")
    if view.model is not None:
        model = 1e3 * filtered(view, row, view.model) * gain
        axes.plot(freq, model, color=TRUE, linewidth=1.4, label="truth, all sources")
        if np.nanmax(np.abs(model - true)) > max(np.nanmedian(error), 0.03 * np.abs(true).max()):
            axes.plot(freq, true, color=TRUE, linewidth=1.0, linestyle="dashed", label="truth, this source")
    else:
        axes.plot(freq, true, color=TRUE, linewidth=1.4, label="truth")
    for line in source.lines:
        axes.axvline(cube.chan_to_freq(line.chan) / 1e9, color=TRUE, linewidth=0.8, linestyle="dotted")
    axes.set_xlabel("frequency [GHz]", fontsize=9)
    axes.set_ylabel("flux density of the source [mJy]", fontsize=9)
    axes.ticklabel_format(axis="x", useOffset=False)
    axes.locator_params(axis="x", nbins=5)
    axes.tick_params(labelsize=8)
    axes.margins(x=0.0)
    step = cube.chan_width / 1e9
    top = axes.secondary_xaxis("top", functions=(lambda f: (f - freq[0]) / step, lambda c: freq[0] + c * step))
    top.tick_params(labelsize=7, pad=1)
    top.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    top.set_xlabel("channel", fontsize=8, labelpad=2)
    name, snr = view.truth["name"][row], {part: float(view.truth[f"snr_{part}"][row]) for part in ("line", "continuum")}
    parts = ", ".join(f"{part} S/N {value:.3g}" for part, value in snr.items() if value > 0)
    axes.set_title(f"{name} ({source.kind}): {parts}", fontsize=10)
    axes.legend(fontsize=8, loc="best")


def filtered(view: View, row: int, data: NDArray[np.float32]) -> NDArray[np.float64]:
    """(nchan,) sums of a cube [Jy/beam] weighted with the Gaussian of a source, of unit flux."""
    source, (ny, nx) = _sampled(view.sources[row]), view.cube.shape
    half = int(np.ceil(1.7 * source.fwhm_maj)) + 1
    x, y = round(source.x), round(source.y)
    rows, columns = slice(max(0, y - half), min(ny, y + half + 1)), slice(max(0, x - half), min(nx, x + half + 1))
    size = rows.stop - rows.start, columns.stop - columns.start
    shape = gaussian_image(size, source.x - columns.start, source.y - rows.start, source.covariance())
    return np.tensordot(data[:, rows, columns], shape / shape.sum(), axes=2)


def filter_gain(view: View, row: int) -> NDArray[np.float64]:
    """(nchan,) what turns `filtered` into the flux density [Jy] on the sky of a source that is alone in the field."""
    source = view.sources[row]
    beam = np.broadcast_to(np.nan_to_num(view.cube.pb[:, round(source.y), round(source.x)]), (view.cube.nchan,))
    seen = view.response.channels(view.response.overlap(_sampled(source))) * beam
    return 1.0 / np.where(seen > 0, seen, np.nan)


def _sampled(source: Source) -> Source:
    """A source no narrower than a pixel, as the filter on pixels wants it."""
    return Source(source.x, source.y, max(source.fwhm_maj, 1.0), max(source.fwhm_min, 1.0), source.pa)
