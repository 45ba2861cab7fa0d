"""The tables of an evaluation, beside the paper's: printed and written as ECSV, with the figures as PNG."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from astropy.table import Table

from casa_deepfocus.core.residuals import CLEAR_SNR, PARAMETERS, residuals
from casa_deepfocus.errors import ProductError
from training import paper
from training.evaluate import Evaluation
from training.score import summary

WHO = {"default": "ours", "paper": "the paper's, retrained", "decoras": "decoras, retrained"}
"""What searched, in the tables."""


def table4(result: Evaluation) -> Table:
    """Detection: the paper's Table 4, and ours by its counting, one to one, and by the physical protocol."""
    d, p, e = result.score.deepfocus, result.score.physical, result.errors
    strict, lenient = e["deepfocus"], {k.removesuffix("_lenient"): v for k, v in e["deepfocus"].items()}
    iou, who = (d["mean_iou"], strict["mean_iou"]), WHO[result.method]
    rows: list[tuple[Any, ...]] = [
        (f"paper: {name}", tp, fp, fn, precision, np.nan, recall, np.nan, mean_iou, np.nan)
        for name, tp, fp, fn, precision, recall, mean_iou in paper.TABLE4
    ]
    for label, tp, fp, errors, precision, recall, overlap in (
        (
            f"{who}, the paper's counting", d["true_positives_lenient"], d["false_positives_lenient"], lenient,
            d["precision_lenient"], d["recall_lenient"], iou,
        ),
        (
            f"{who}, one to one", d["true_positives"], d["false_positives"], strict, d["precision"], d["recall"], iou,
        ),
        (
            f"{who}, physical", p["true_positives"], p["false_positives"], e["physical"], p["precision"], p["recall"],
            (np.nan, np.nan),
        ),
        (
            f"{who}, physical, SNR >= 5", _bright(p)[0], p["false_positives"], e["physical"] | {"precision": np.nan},
            np.nan, p["recall_snr5"], (np.nan, np.nan),
        ),
    ):  # fmt: skip
        whole = _bright(p)[1] if "SNR" in label else p["n_truth"] if "physical" in label else d["n_truth"]
        error = errors["recall_snr5" if "SNR" in label else "recall"]
        rows.append((label, tp, fp, whole - tp, precision, errors["precision"], recall, error, *overlap))
    names = ("algorithm", "TP", "FP", "FN", "precision", "precision_err", "recall", "recall_err", "mean_iou", "iou_err")
    return _format(Table(rows=rows, names=names), ".3f")


def _bright(physical: dict[str, Any]) -> tuple[int, int]:
    # Found and all of the bins of SNR 5 and more.
    rows = [row for row in physical["completeness"] if row["low"] >= 5.0]
    return sum(row["found"] for row in rows), sum(row["n"] for row in rows)


def table5(result: Evaluation) -> Table:
    """Residuals: the paper's Table 5 and ours, found - true, of every matched source and of the clear isolated ones."""
    score, rows = result.score, []
    for name, (unit, mean, std) in paper.TABLE5.items():
        values = everything(result, name)
        clear = score.residuals.get(name)
        error = result.errors["residuals"].get(name, {})
        ours = [np.nan] * 7
        if clear is not None:
            ours = [clear["n"], clear["bias"], error["bias"], clear["std"], error["std"]]
            ours += [clear["over_crlb"], clear["over_crlb_robust"]]
        # The paper's are true - predicted.
        rows.append((name, unit, -mean + 0.0, std, len(values), *_mean_std(values), *ours))
    names = (
        "parameter", "unit", "paper_mean", "paper_std", "n_all", "mean_all", "std_all", "n", "bias", "bias_err", "std",
        "std_err", "over_crlb", "over_crlb_robust",
    )  # fmt: skip
    return _format(Table(rows=rows, names=names), ".3f", n=".0f")


def everything(result: Evaluation, name: str) -> np.ndarray:
    """Residuals of one parameter of Table 5 for every matched source; `peak` in mJy/beam."""
    score = result.score
    pairs = score.matching.main_pairs
    if name == "peak":
        values = 1e3 * (score.found.peak[pairs[:, 1]] - score.truth.peak[pairs[:, 0]])
        return values[np.isfinite(values)]
    return residuals(score.truth, score.found, pairs, name).value


def _mean_std(values: np.ndarray) -> tuple[float, float]:
    return (float(values.mean()), float(values.std())) if values.size else (np.nan, np.nan)


def fractions(result: Evaluation) -> Table:
    """Fractions of sources within a relative error (paper section 5.2), of every matched source."""
    rows = []
    for name, limit, share in paper.FRACTIONS:
        rest = residuals(result.score.truth, result.score.found, result.score.matching.main_pairs, name)
        value = np.abs(rest.value)
        if name == "pa":
            with np.errstate(divide="ignore", invalid="ignore"):
                value = value / result.score.truth.pa[rest.pairs[:, 0]]
        rows.append((name, limit, share, len(value), float((value <= limit).mean()) if value.size else np.nan))
    return _format(Table(rows=rows, names=("parameter", "within", "paper", "n", "ours")), ".3f", within=".2f")


def bounds(result: Evaluation) -> Table:
    """Bias, scatter, coverage and scatter over the Cramer-Rao bound of every parameter, with bootstrap errors."""
    rows = []
    for name in PARAMETERS:
        value, error = result.score.residuals[name], result.errors["residuals"][name]
        row = [name, value["n"]]
        for key in ("bias", "std", "over_crlb", "coverage68"):
            row += [value[key], error[key]]
        rows.append((*row, value["over_crlb_robust"], value["pull_std"]))
    names = ["parameter", "n"]
    for key in ("bias", "std", "over_crlb", "coverage68"):
        names += [key, f"{key}_err"]
    return _format(Table(rows=rows, names=[*names, "over_crlb_robust", "pull_std"]), ".3f")


def completeness(result: Evaluation) -> Table:
    """Completeness in bins of matched-filter SNR, and what the ideal filter would find of the same sources."""
    truth, rows = result.score.truth, []
    errors, chance = result.errors["physical"]["completeness"], result.ideal.probability(truth.snr)
    for row, error in zip(result.score.physical["completeness"], errors, strict=True):
        inside = (truth.snr >= row["low"]) & (truth.snr < row["high"])
        best = float(np.nanmean(chance[inside])) if np.isfinite(chance[inside]).any() else np.nan
        share = row["found"] / row["n"] if row["n"] else np.nan
        rows.append((row["low"], row["high"], row["n"], row["found"], share, error, best))
    names = ("snr_low", "snr_high", "n", "found", "completeness", "completeness_err", "ideal")
    return _format(Table(rows=rows, names=names), ".3f", snr_low=".0f", snr_high=".0f")


def line_flux(result: Evaluation) -> Table:
    """Line fluxes within 10 % of the truth, and the fraction that the Cramer-Rao bound allows."""
    return _format(Table(rows=result.score.line_flux), ".3f", low=".0f", high=".0f")


def blends(result: Evaluation) -> Table:
    """Pairs of sources, both of SNR 5 and more, by separation in beams."""
    return _format(Table(rows=result.score.physical["blends"]), ".2f")


TABLES: dict[str, tuple[str, Callable[[Evaluation], Table]]] = {
    "table4": ("Table 4: detection", table4),
    "table5": ("Table 5: residuals, found - true (paper's sign turned)", table5),
    "fractions": ("section 5.2: within a relative error, all matched sources", fractions),
    "bounds": (f"parameters of isolated sources above SNR {CLEAR_SNR:.0f}, and the Cramer-Rao bound", bounds),
    "completeness": ("completeness against matched-filter SNR, and the ideal filter's", completeness),
    "line_flux": ("line flux within 10 % of isolated sources, and what the Cramer-Rao bound allows", line_flux),
    "blends": ("pairs by separation [beam]; `_apart`: lines that do not overlap in frequency", blends),
}
"""File name -> title and maker."""


def _format(table: Table, default: str, **formats: str) -> Table:
    for name in table.colnames:
        if name in formats or table[name].dtype.kind == "f":
            table[name].info.format = formats.get(name, default)
    return table


def scoreboard(result: Evaluation) -> list[str]:
    """Lines: ours beside the paper's, the tables, then the scorer's summary."""
    lines = [f"preset {result.preset}, seed {result.seed}: {result.n_fields} fields, {len(result.truth)} sources", ""]
    for title, make in TABLES.values():
        lines += [title, *make(result).pformat(max_lines=-1, max_width=-1, show_unit=False), ""]
    p, e, numbers = result.score.physical, result.errors["physical"], result.as_dict()
    lines += [*headlines(p, e), ""]
    empty = numbers["empty"]
    if empty["n_fields"]:
        limit = f"{empty['rate']:.4f} a cube, below {empty['rate_upper95']:.4f} at 95 %"
        lines.append(f"false alarms: {empty['false_alarms']} in {empty['n_fields']} empty cubes ({limit})")
    for name, label in (("snr50", "all sources"), ("snr50_line_only", "sources without continuum")):
        best = "ideal filter " + ", ".join(
            f"{numbers[which][name] or np.nan:.2f} at {numbers[which]['rate']:.3g} false alarms a cube {why}"
            for which, why in (("ideal", "(found)"), ("ideal_asked", "(asked)"))
        )
        lines.append(f"SNR at 50 % completeness, {label}: {p[name]:.2f} +- {e[name]:.2f}; {best}")
    lines += [
        f"seconds a field: {result.seconds:.2f}",
        "",
        *summary(result.score),
    ]
    return lines


def headlines(physical: dict[str, Any], errors: dict[str, Any]) -> list[str]:
    """Lines with the numbers that matter most, with their errors."""
    rows = [
        ("recall at SNR >= 5", physical["recall_snr5"], errors["recall_snr5"]),
        ("pairs of 1 to 3 beams, both found", physical["blends_beam"]["recall"], errors["blends_beam"]),
        ("pairs of half a beam apart in frequency", physical["blends_half"]["recall"], errors["blends_half"]),
        ("false positives", physical["false_positives"], errors["false_positives"]),
        ("duplicates among them", physical["duplicates"], errors["duplicates"]),
    ]
    return [f"{name:<42s}{value:9.3f} +- {error:.3f}" for name, value, error in rows]


def write(result: Evaluation, folder: Path) -> None:
    """Write truth.ecsv, catalogue.ecsv (for ``python -m training score``), scores.json, the tables and the figures.

    Raises
    ------
    ProductError
        When the folder cannot be written.
    """
    from training import figures

    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, table in (("truth", result.truth), ("catalogue", result.catalogue)):
            table.write(folder / f"{name}.ecsv", overwrite=True)
        for name, (title, make) in TABLES.items():
            table = make(result)
            table.meta |= {"title": title, "preset": result.preset, "seed": result.seed, "n_fields": result.n_fields}
            table.write(folder / f"{name}.ecsv", overwrite=True)
        figures.write(result, folder)
        text = json.dumps(result.as_dict(), indent=1)
        (folder / "scores.json").write_text(text + "\n", encoding="utf-8")
    except OSError as error:
        raise ProductError(f"--out={str(folder)!r}: cannot be written ({error})") from error
