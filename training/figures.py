"""The paper's Figs 16, 20, 21 and 22 with our numbers, and completeness, as PNG with their data as ECSV."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import numpy as np
from astropy.table import Table
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from casa_deepfocus.core.matching import Sources, box_iou, draw_boxes
from casa_deepfocus.core.residuals import PARAMETERS, RELATIVE, residuals
from casa_deepfocus.core.scores import outcome
from training import paper, report
from training.evaluate import Evaluation

LABELS = {
    "x": "x offset [pixel]", "y": "y offset [pixel]", "pa": "PA [deg]",
    "fwhm_maj": "major FWHM [pixel]", "fwhm_min": "minor FWHM [pixel]",
    "chan": "line centre [chan]", "line_fwhm": "line FWHM [chan]",
    "line_flux": "line flux [Jy km/s]", "continuum": "continuum [Jy]",
}  # fmt: skip



def blendness(truth: Sources) -> NDArray[np.float64]:
    """(n,) the largest IoU of a source's box with another's of its field (eq. 22); 0 when alone."""
    boxes, score = draw_boxes(truth), np.zeros(len(truth))
    for number in np.unique(truth.field):
        index = np.flatnonzero(truth.field == number)
        overlap = box_iou(boxes[index], boxes[index])
        np.fill_diagonal(overlap, 0.0)
        score[index] = overlap.max(axis=1)
    return score


def figure16(result: Evaluation) -> tuple[Figure, Table]:
    """Flux densities and blendness of all sources and of those found by either protocol."""
    truth, o = result.score.truth, outcome(result.score.truth, result.score.matching)
    groups = {
        "all": np.ones(len(truth), dtype=bool),
        "found": o.hit,
        "found_paper": result.score.boxes.passed,
    }
    peak = 1e3 * truth.peak
    good = np.isfinite(peak) & (peak > 0.0)
    blend = blendness(truth)
    figure = Figure(figsize=(10, 4), layout="constrained")
    left, right = figure.subplots(1, 2)
    edges = np.geomspace(peak[good].min(), peak[good].max() * 1.001, 31) if good.any() else np.array([0.1, 1.0])
    table = Table()
    table["peak_low"], table["peak_high"] = edges[:-1], edges[1:]
    for name, chosen in groups.items():
        table[f"n_{name}"] = np.histogram(peak[good & chosen], edges)[0]
        left.stairs(table[f"n_{name}"], edges, label=name.replace("_paper", ", the paper's rule"))
        values = np.sort(blend[chosen & (blend > 0.0)])
        if values.size:
            right.step(values, np.arange(1, values.size + 1), where="post", label=name)
        table.meta[f"max_blendness_{name}"] = float(values[-1]) if values.size else 0.0
        table.meta[f"min_peak_{name}"] = float(peak[good & chosen].min()) if (good & chosen).any() else None
    table.meta["paper"] = "found down to 1.31 mJy/beam and up to a blendness of 0.66"
    left.set(xscale="log", xlabel="peak [mJy/beam]", ylabel="sources")
    right.set(xlabel="blendness (eq. 22)", ylabel="sources that overlap, cumulative")
    left.legend()
    return figure, table


def figure20(result: Evaluation) -> tuple[Figure, Table]:
    """True against found values and residuals of every matched source."""
    score, pairs = result.score, result.score.matching.main_pairs
    table = Table({"field": score.truth.field[pairs[:, 0]], "snr": score.truth.snr[pairs[:, 0]]})
    figure = Figure(figsize=(16, 9), layout="constrained")
    axes = figure.subplots(3, 6)
    for place, name in enumerate(PARAMETERS):
        true, value = getattr(score.truth, name)[pairs[:, 0]], getattr(score.found, name)[pairs[:, 1]]
        table[f"{name}_true"], table[f"{name}_found"] = true, value
        scatter, histogram = axes[place // 3, 2 * (place % 3)], axes[place // 3, 2 * (place % 3) + 1]
        both = np.isfinite(true) & np.isfinite(value)
        _scatter(scatter, true[both], value[both], name)
        _histogram(histogram, residuals(score.truth, score.found, pairs, name).value, name)
    return figure, table


def _scatter(axes: Axes, true: NDArray, value: NDArray, name: str) -> None:
    axes.plot(true, value, ".", markersize=2, alpha=0.5)
    if true.size:
        span = [float(true.min()), float(true.max())]
        axes.plot(span, span, "r:", linewidth=1)
    if name in RELATIVE and (true > 0.0).all() and (value > 0.0).all() and true.size:
        axes.set(xscale="log", yscale="log")
    axes.set(xlabel=f"true {LABELS[name]}", ylabel="found")


def _histogram(axes: Axes, values: NDArray, name: str) -> None:
    if values.size:
        limit = float(np.quantile(np.abs(values), 0.98)) or 1.0
        axes.hist(np.clip(values, -limit, limit), 41)
        axes.set_title(f"{values.mean():.3g} ± {values.std():.3g}", fontsize="small")
    axes.set(xlabel="found / true - 1" if name in RELATIVE else "found - true")


def figure21(result: Evaluation) -> tuple[Figure, Table]:
    """Relative error of the line flux against SNR, its scatter in the paper's sections, and the bound."""
    rest = residuals(result.score.truth, result.score.found, result.score.matching.main_pairs, "line_flux")
    snr = result.score.truth.snr[rest.pairs[:, 0]]
    table = Table({"snr": snr, "relative_error": rest.value, "bound": rest.bound})
    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.subplots()
    axes.plot(snr, rest.value, ".", markersize=3, alpha=0.5)
    for low, high in pairwise(paper.FIG21_EDGES):
        inside = (snr >= low) & (snr < high)
        spread = float(rest.value[inside].std()) if inside.any() else np.nan
        table.meta[f"std_{low:.0f}_{high:.0f}"] = spread
        axes.axvline(low, color="grey", linewidth=0.5)
        axes.plot([], [], " ", label=f"{low:.0f} - {high:.0f}: {spread:.3f}")
    order = np.argsort(snr)
    if np.isfinite(rest.bound).any():
        for sign in (-1.0, 1.0):
            axes.plot(snr[order], sign * rest.bound[order], "k", linewidth=0.5, alpha=0.5)
    axes.set(xlabel="matched-filter SNR", ylabel="line flux, found / true - 1", xscale="log", ylim=(-1.5, 1.5))
    axes.legend(title="SNR: std", fontsize="small")
    return figure, table


def figure22(result: Evaluation) -> tuple[Figure, Table]:
    """Error of the position angle against the axis ratio; round sources and the faintest quarter stand out."""
    truth, found, pairs = result.score.truth, result.score.found, result.score.matching.main_pairs
    value = np.abs((found.pa[pairs[:, 1]] - truth.pa[pairs[:, 0]] + 90.0) % 180.0 - 90.0)
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = truth.fwhm_maj[pairs[:, 0]] / truth.fwhm_min[pairs[:, 0]]
    peak, snr = truth.peak[pairs[:, 0]], truth.snr[pairs[:, 0]]
    good = np.isfinite(value) & np.isfinite(ratio)
    table = Table({"axis_ratio": ratio[good], "pa_error": value[good], "peak": peak[good], "snr": snr[good]})
    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.subplots()
    faint = snr[good] < np.quantile(snr[good], 0.25) if good.any() else np.zeros(0, dtype=bool)
    round_ = ratio[good] < 1.2
    for label, chosen, colour in (
        ("others", ~faint & ~round_, "tab:blue"),
        ("faintest quarter", faint, "tab:red"),
        ("axis ratio < 1.2", round_, "tab:orange"),
    ):
        axes.plot(value[good][chosen], ratio[good][chosen], ".", markersize=3, color=colour, label=label)
    axes.axvline(18.0, color="k", linewidth=0.5)
    axes.set(xlabel="|PA found - true| [deg]", ylabel="major / minor FWHM", yscale="log")
    axes.legend(fontsize="small")
    large = value[good] > 18.0
    table.meta["share_round_of_large"] = float(round_[large].mean()) if large.any() else None
    table.meta["share_faint_of_large"] = float(faint[large].mean()) if large.any() else None
    return figure, table


def completeness(result: Evaluation) -> tuple[Figure, Table]:
    """Completeness against matched-filter SNR with the ideal filter's curve at the same false-alarm rate."""
    table = report.completeness(result)
    grid = np.linspace(0.0, 15.0, 301)
    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.subplots()
    curve = result.ideal.completeness(grid)
    label = f"ideal filter, {result.ideal.rate:.2g} false alarms a cube: SNR50 {result.ideal.snr50:.2f}"
    axes.plot(grid, curve, "k-", label=label)
    middle = 0.5 * (table["snr_low"] + np.minimum(table["snr_high"], 60.0))
    axes.plot(middle, table["ideal"], "k_", label="ideal filter, these sources")
    axes.errorbar(
        middle, table["completeness"], yerr=table["completeness_err"],
        xerr=[middle - table["snr_low"], np.minimum(table["snr_high"], 60.0) - middle], fmt="o", markersize=4,
        label=f"casa_deepfocus: SNR50 {result.score.physical['snr50']:.2f}",
    )  # fmt: skip
    axes.axhline(0.5, color="grey", linewidth=0.5)
    axes.set(xlabel="matched-filter SNR", ylabel="completeness", xlim=(0.0, 20.0), ylim=(-0.02, 1.05))
    axes.legend(fontsize="small", loc="lower right")
    data = Table({"snr": grid, "ideal": curve})
    data.meta |= {"false_alarms_per_cube": result.ideal.rate, "snr50_ideal": result.ideal.snr50}
    return figure, data


def over_bound(result: Evaluation) -> tuple[Figure, Table]:
    """Scatter over the Cramer-Rao bound of every parameter."""
    table = report.bounds(result)
    figure = Figure(figsize=(7, 3.5), layout="constrained")
    axes = figure.subplots()
    place = np.arange(len(table))
    axes.errorbar(place, table["over_crlb"], yerr=table["over_crlb_err"], fmt="o", label="standard deviation")
    axes.plot(place, table["over_crlb_robust"], "x", label="robust")
    axes.axhline(1.0, color="k", linewidth=0.5)
    axes.set_xticks(place, list(table["parameter"]), rotation=30)
    axes.set_ylabel("scatter / Cramer-Rao bound")
    axes.legend(fontsize="small")
    return figure, table


FIGURES: dict[str, Callable[[Evaluation], tuple[Figure, Table]]] = {
    "fig16": figure16,
    "fig20": figure20,
    "fig21": figure21,
    "fig22": figure22,
    "ideal": completeness,
    "over_crlb": over_bound,
}
"""File name -> maker of the picture and its data."""


def write(result: Evaluation, folder: Path) -> None:
    """Write every figure as <name>.png and <name>.ecsv."""
    for name, make in FIGURES.items():
        figure, table = make(result)
        figure.savefig(folder / f"{name}.png", dpi=120)
        table.write(folder / f"{name}.ecsv", overwrite=True)
