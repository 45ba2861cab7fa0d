"""``python -m training score TRUTH CATALOGUE``: any catalogue beside the truth, by both protocols.

The tables may be in any format that astropy reads; docs/evaluation.md says what is counted.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from astropy.table import Table
from numpy.typing import NDArray

from casa_deepfocus.core.matching import MODES, Matching, Sources, match_physical, separations
from casa_deepfocus.core.residuals import CLEAR_SNR, PARAMETERS, difference, line_flux_accuracy, summarise
from casa_deepfocus.core.scores import Deepfocus, match_deepfocus, score_deepfocus, score_physical
from casa_deepfocus.errors import DeepFocusError, ParameterError
from training.tables import Columns, read_table, to_sources


@dataclass(frozen=True)
class Score:
    """A catalogue scored against the truth.

    Attributes
    ----------
    truth, found : Sources
    matching : Matching
    boxes : Deepfocus, the match by the paper's criteria
    physical, deepfocus, empty : dict of numbers (`score_physical`, `score_deepfocus`)
    residuals : dict of dict (`summarise`), isolated sources above CLEAR_SNR
    residuals_all : the same at any SNR
    line_flux : list of dict (`line_flux_accuracy`)
    """

    truth: Sources
    found: Sources
    matching: Matching
    boxes: Deepfocus
    physical: dict[str, Any]
    deepfocus: dict[str, float]
    residuals: dict[str, dict[str, float]]
    residuals_all: dict[str, dict[str, float]]
    line_flux: list[dict[str, float]]
    empty: dict[str, int]

    def as_dict(self) -> dict[str, Any]:
        """Plain numbers for JSON; NaN and infinity become None."""
        number = {
            "n_fields": len(np.unique(self.truth.field)),
            "n_sources": len(self.truth),
            "n_detections": len(self.found),
        }
        names = ("physical", "deepfocus", "residuals", "residuals_all", "line_flux", "empty")
        return plain({**number, **{name: getattr(self, name) for name in names}})


def plain(value: Any) -> Any:
    """The same with numpy numbers as Python's own, and NaN and infinity as None."""
    if isinstance(value, dict):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(v) for v in value]
    if isinstance(value, np.generic):
        value = value.item()
    return None if isinstance(value, float) and not np.isfinite(value) else value


def score_tables(
    truth: Table,
    found: Table,
    *,
    beam: float | None = None,
    cell: float | None = None,
    mode: str = "both",
    empty_fields: int | None = None,
) -> Score:
    """Score a catalogue against the truth.

    Parameters
    ----------
    truth, found : astropy Table, columns as in docs/architecture.md or under the names of `tables.ALIASES`
    beam, cell : float [arcsec], when the tables do not say
    mode : {'line', 'continuum', 'both'}, what the finder was asked for
    empty_fields : int
        Number of fields without any source; from the truth's meta `empty_fields`, else those that only the
        catalogue has. Their detections are false alarms, counted apart from the fields with sources.

    Raises
    ------
    ParameterError
        When a column or the beam is missing, a unit is wrong, or the mode unknown.
    """
    true, detected = to_sources(truth, found, beam, cell)
    asked = Columns(truth, "TRUTH").get(f"snr_{mode}") if mode in ("line", "continuum") else true.snr
    true = replace(true, snr=np.where(np.isfinite(asked), asked, true.snr))
    alone = ~np.isin(detected.field, true.field)
    if len(true) == 0 and "field" not in found.colnames:
        alone[:] = True
    count = empty_fields if empty_fields is not None else truth.meta.get("empty_fields")
    if count is None:
        count = len(np.unique(detected.field[alone])) if len(true) else 1
    inside = np.flatnonzero(~alone)
    here = detected.take(inside)
    matching = match_physical(true, here, mode)
    boxes = match_deepfocus(true, here, _nchan(truth, found, true))
    return Score(
        truth=true,
        found=here,
        matching=matching,
        boxes=boxes,
        physical=score_physical(true, here, matching),
        deepfocus=score_deepfocus(true, here, boxes),
        residuals=summarise(true, here, matching.main_pairs),
        residuals_all=summarise(true, here, matching.main_pairs, 0.0),
        line_flux=line_flux_accuracy(true, here, matching.main_pairs),
        empty={"n_fields": int(count), "false_alarms": int(alone.sum())},
    )


def _nchan(truth: Table, found: Table, true: Sources) -> int:
    for table, label in ((truth, "TRUTH"), (found, "CATALOGUE")):
        value = np.atleast_1d(Columns(table, label).number("nchan"))
        if value.size and np.isfinite(value).all() and value[0] > 0:
            return int(value.max())
    # Without the number of channels: a band that just holds every line.
    edge = true.chan + true.line_fwhm
    return max(1, int(np.nanmax(edge)) + 1) if np.isfinite(edge).any() else 1


def _text(value: float, form: str = "8.2f") -> str:
    width = int(form.split(".")[0])
    return format(value, form) if np.isfinite(value) else " " * (width - 1) + "-"


def listing(score: Score, true_names: list[str], names: list[str], places: list[str]) -> list[str]:
    """Lines: every true source with its detection beside it, then the unmatched detections.

    Parameters
    ----------
    score : Score
    true_names, names : list of str, of `score.truth` and `score.found`
    places : list of str, positions of `score.found` as the catalogue gives them
    """
    truth, found, partner = score.truth, score.found, dict(score.matching.pairs.tolist())
    half = {int(t): names[f] for t, f in score.matching.halves}
    claimed = {int(t) for t, _ in score.matching.pairs[score.matching.line_claimed]}
    lines = [
        "field  truth             snr   offset    dchan  line flux    sigma  continuum    sigma  maj ratio  catalogue",
        "                             [beam]   [chan]  found/true          found/true          found/true",
    ]
    pairs = np.array([(t, f) for t, f in partner.items()], dtype=np.int64).reshape(-1, 2)
    rest = {name: difference(truth, found, pairs, name) for name in ("line_flux", "continuum")}
    row_of = {int(t): row for row, (t, _) in enumerate(pairs)}
    for index in np.argsort(truth.field, kind="stable"):
        head = f"{truth.field[index]:5d}  {true_names[index]:<16.16s}{_text(truth.snr[index], '5.1f')}"
        if index not in partner:
            text = "not found" if index in score.matching.missed else "not asked for"
            seen = f", only the continuum of {half[index]}" if index in half else ""
            lines.append(f"{head}   {text}{seen}")
            continue
        mate, row = partner[index], row_of[index]
        here, there = truth.take(np.array([index])), found.take(np.array([mate]))
        cells = [_text(separations(here, there)[0, 0], "9.3f"), _text(there.chan[0] - here.chan[0])]
        for name in ("line_flux", "continuum"):
            residual, error = rest[name][0][row], rest[name][1][row]
            cells += [_text(1.0 + residual, "11.3f"), _text(residual / error if error > 0 else np.nan, "8.1f")]
        with np.errstate(divide="ignore", invalid="ignore"):
            cells.append(_text(there.fwhm_maj[0] / here.fwhm_maj[0], "10.2f"))
        note = "  (line claimed)" if index in claimed else ""
        lines.append(f"{head}{' '.join(cells)}  {names[mate]}{note}")
    for index in score.matching.false_positives:
        double = index in score.matching.duplicates
        kind = "duplicate" if double else "misplaced" if index in score.matching.misplaced else "false"
        where = f"{places[index]}  chan {_text(found.chan[index], '6.1f').strip()}"
        lines.append(f"{found.field[index]:5d}  unmatched: {kind:<10s} {where}  {names[index]}")
    return lines


def summary(score: Score) -> list[str]:
    """Lines with both protocols' numbers and the residuals."""
    p, d = score.physical, score.deepfocus
    lines = [
        "physical (one to one, half a beam, half the line's FWHM)",
        (
            f"  sources {p['n_truth']}   detections {p['n_found']}   found {p['true_positives']}"
            f"   false positives {p['false_positives']} (duplicates {p['duplicates']}, misplaced {p['misplaced']})"
            f"   false lines {p['false_lines']}   lines missed {p['lines_missed']}"
        ),
        (
            f"  recall {_text(p['recall'], '6.3f')}   at SNR >= 5 {_text(p['recall_snr5'], '6.3f')}"
            f"   precision {_text(p['precision'], '6.3f')}   SNR at 50 % completeness {_text(p['snr50'], '5.2f')}"
        ),
    ]
    for row in p["completeness"]:
        if row["n"]:
            lines.append(f"    SNR {row['low']:4.0f} - {row['high']:<4.0f}  {row['found']:5d} of {row['n']}")
    for row in p["blends"]:
        if row["n"]:
            span = f"{row['low']:.2f} - {row['high']:.2f} beams"
            apart = f"; apart in frequency: both {row['both_apart']} of {row['n_apart']}"
            lines.append(f"    pairs {span}: both found {row['both']}, one {row['one']}, of {row['n']}{apart}")
    lines += [
        (
            f"  recall in line or continuum {_text(p['recall_sky'], '6.3f')}"
            f"   at total SNR >= 5 {_text(p['recall_sky_snr5'], '6.3f')}"
        ),
        f"  empty fields {score.empty['n_fields']}   false alarms in them {score.empty['false_alarms']}",
        "deepfocus (2D IoU >= 0.6, centres <= 3 pixels, 1D IoU >= 0.6)",
        (
            f"  one to one: recall {_text(d['recall'], '6.3f')}   precision {_text(d['precision'], '6.3f')}"
            f"   mean IoU {_text(d['mean_iou'], '6.3f')}   false positives {d['false_positives']}"
        ),
        (
            f"  lenient:    recall {_text(d['recall_lenient'], '6.3f')}"
            f"   precision {_text(d['precision_lenient'], '6.3f')}"
            f"{'':20s}false positives {d['false_positives_lenient']}"
        ),
        f"residuals of isolated sources (found - true; fluxes relative); those above SNR {CLEAR_SNR:.0f}, then all",
        "                n      bias       std    robust  within 68%  pull std  std/bound  robust/bound",
    ]
    for name in PARAMETERS:
        for label, table in ((name, score.residuals), ("", score.residuals_all)):
            r = table[name]
            if r["n"]:
                numbers = [_text(r[key], "10.3f") for key in ("bias", "std", "robust_std")]
                numbers += [_text(r["coverage68"], "12.2f"), _text(r["pull_std"], "10.2f")]
                numbers += [_text(r["over_crlb"], "11.2f"), _text(r["over_crlb_robust"], "14.2f")]
                lines.append(f"  {label:<10s}{r['n']:7d}{''.join(numbers)}")
    lines.append("line flux of isolated sources: within 10 % of the truth, and what the Cramer-Rao bound allows")
    for row in score.line_flux:
        if row["n"]:
            numbers = [_text(row[key], "8.3f") for key in ("within", "within_bound", "bias", "bias_err", "std")]
            text = "   ".join(f"{a}{b}" for a, b in zip(("", "bound", "bias", "+-", "std"), numbers, strict=True))
            lines.append(f"    SNR {row['low']:4.0f} - {row['high']:<4.0f} n {row['n']:5d} {text}")
    return lines


def _places(columns: Columns) -> list[str]:
    axes = ("x", "y") if columns.has("x") and columns.has("y") else ("ra", "dec")
    first, second = (columns.get(axis) for axis in axes)
    digits = 1 if axes[0] == "x" else 6
    return [f"{axes[0]} {a:.{digits}f}  {axes[1]} {b:.{digits}f}" for a, b in zip(first, second, strict=True)]


def _inside(values: list[str], found: NDArray, truth: NDArray[np.int64]) -> list[str]:
    # What belongs to the detections in fields with sources, in the order of Score.found.
    return [value for value, keep in zip(values, np.isin(found, truth), strict=True) if keep]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of ``python -m training score``."""
    parser.add_argument("truth", metavar="TRUTH", help="table of the true sources (docs/architecture.md)")
    parser.add_argument("catalogue", metavar="CATALOGUE", help="table of the detections: ECSV, VOTable, FITS, CSV")
    parser.add_argument("--beam", type=float, metavar="ARCSEC", help="beam FWHM, when the tables do not say")
    parser.add_argument("--cell", type=float, metavar="ARCSEC", help="pixel size, when the tables do not say")
    parser.add_argument("--mode", choices=MODES, default="both", help="what the finder was asked for")
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def run(args: argparse.Namespace) -> int:
    """Print the score; 1 when a table cannot be used."""
    try:
        for name in ("beam", "cell"):
            value = getattr(args, name)
            if value is not None and not value > 0:
                raise ParameterError(f"--{name}", value, "must be positive", "Give it in arcsec")
        truth, found = read_table(args.truth, "TRUTH"), read_table(args.catalogue, "CATALOGUE")
        score = score_tables(truth, found, beam=args.beam, cell=args.cell, mode=args.mode)
    except DeepFocusError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    if args.json:
        sys.stdout.write(json.dumps(score.as_dict()) + "\n")
        return 0
    columns = Columns(found, "CATALOGUE")
    fields = columns.get("field") if columns.has("field") else np.zeros(len(found))
    names, places = (_inside(v, fields, score.truth.field) for v in (columns.names(), _places(columns)))
    lines = listing(score, Columns(truth, "TRUTH").names(), names, places)
    sys.stdout.write("\n".join([*lines, "", *summary(score)]) + "\n")
    return 0
