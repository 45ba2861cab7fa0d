"""``python -m training archive TRUTH PRODUCTS``: the merged tables of a whole archive run beside what was planted.

Sources and lines are matched one to one, as in `core.matching`: a source within half a beam; a line within half a beam
of its source and within half its width, at least a channel. What is asked for is what an ideal filter sees at
`ASKED_SNR`; fainter sources are neither missed nor false. docs/evaluation.md says what is counted.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from astropy.table import Table
from numpy.typing import NDArray

from casa_deepfocus.core.cube import C_KMS
from casa_deepfocus.core.matching import MATCH_LINE, MATCH_RADIUS, assign
from casa_deepfocus.errors import DataError, DeepFocusError
from training.tables import read_table

ASKED_SNR = 7.0
"""Matched-filter SNR from which a source, a line or a continuum has to be there."""

WITHIN = 2.0
"""Errors that a flux may be off; of true Gaussian errors 95.4 % are."""

SHARE = 0.95
"""Share of the fluxes that has to be within that."""

CLAIMED = 5.0
"""Errors from which the continuum of a source that has none is a false one."""


@dataclass
class Verdict:
    """What was asked for, found, missed, doubled and false among the rows of one kind.

    Attributes
    ----------
    asked, found : int, true rows above `ASKED_SNR`, and how many of them were found
    missed, doubled, false : list of str, what they are
    """

    asked: int = 0
    found: int = 0
    missed: list[str] = field(default_factory=list)
    doubled: list[str] = field(default_factory=list)
    false: list[str] = field(default_factory=list)

    def __add__(self, other: Verdict) -> Verdict:
        return Verdict(
            self.asked + other.asked, self.found + other.found, self.missed + other.missed,
            self.doubled + other.doubled, self.false + other.false,
        )  # fmt: skip

    @property
    def right(self) -> bool:
        """Whether all that was asked for is there once, and nothing else."""
        return not (self.missed or self.doubled or self.false)


@dataclass
class Judgement:
    """A target's tables, or those of all targets, judged.

    Attributes
    ----------
    sources, lines : Verdict
    pulls : dict of quantity to list of (what, found - true [its error])
    wrong : list of str, lines given to another source or window than theirs, continua of sources without one
    """

    sources: Verdict = field(default_factory=Verdict)
    lines: Verdict = field(default_factory=Verdict)
    pulls: dict[str, list[tuple[str, float]]] = field(
        default_factory=lambda: {"continuum": [], "line flux": [], "spectral index": []}
    )
    wrong: list[str] = field(default_factory=list)

    def __add__(self, other: Judgement) -> Judgement:
        pulls = {name: values + other.pulls[name] for name, values in self.pulls.items()}
        return Judgement(self.sources + other.sources, self.lines + other.lines, pulls, self.wrong + other.wrong)

    @property
    def fluxes(self) -> list[tuple[str, float]]:
        """Pulls of continua and lines."""
        return self.pulls["continuum"] + self.pulls["line flux"]

    @property
    def within(self) -> float:
        """Share of the fluxes within `WITHIN` errors; NaN without any."""
        pulls = np.array([pull for _, pull in self.fluxes])
        return float(np.mean(np.abs(pulls) <= WITHIN)) if pulls.size else np.nan

    @property
    def passed(self) -> bool:
        """Whether everything is there once, nothing else, and the fluxes are right for the share that is asked."""
        return self.sources.right and self.lines.right and not self.wrong and self.within >= SHARE


def judge(truth: tuple[Table, Table], found: tuple[Table, Table], target: str = "") -> Judgement:
    """Judge the tables of one target.

    Parameters
    ----------
    truth : tables of sources and lines as `sim.archive` writes them
    found : tables of sources and lines as `core.crossmatch` makes them
    target : str, its name, for the texts

    Raises
    ------
    DataError
        When a table lacks a column.
    """
    _check(truth[0], "truth/sources.ecsv", ("name", "ra", "dec", "continuum", "alpha", "snr", "snr_continuum"))
    _check(truth[1], "truth/lines.ecsv", ("source", "window", "freq", "line_fwhm", "line_flux", "chan_width", "snr"))
    _check(found[0], "sources.ecsv", ("id", "ra", "dec", "continuum", "continuum_err"))
    _check(found[1], "lines.ecsv", ("source", "window", "ra", "dec", "freq", "line_flux", "line_flux_err"))
    result = Judgement()
    partner = _judge_sources(result, truth[0], found[0], target)
    _judge_lines(result, truth, found[1], target, partner)
    return result


def _check(table: Table, label: str, names: Sequence[str]) -> None:
    lacking = [name for name in names if name not in table.colnames]
    if lacking:
        raise DataError(f"{label} has no column {', '.join(lacking)}; it has {', '.join(table.colnames)}")


def _column(table: Table, name: str) -> NDArray[np.float64]:
    """A column of numbers without unit, NaN where masked."""
    values = table[name] if name in table.colnames else np.full(len(table), np.nan)
    return np.ma.filled(np.ma.asarray(values, dtype=float), np.nan)


def _apart(truth: Table, found: Table) -> NDArray[np.float64]:
    """(n_truth, n_found) separations [largest of a match]."""
    ra, dec = (_column(truth, name)[:, None] - _column(found, name)[None, :] for name in ("ra", "dec"))
    ra = ((ra + 180.0) % 360.0 - 180.0) * np.cos(np.deg2rad(_column(truth, "dec")))[:, None]
    return np.hypot(ra, dec) * 3600.0 / (MATCH_RADIUS * float(truth.meta["beam"]))


def _match(verdict: Verdict, cost: NDArray, snr: NDArray, names: list[str], rows: list[str]) -> dict[int, int]:
    """Match one to one where the cost is finite, and count; the truth's rows of found rows."""
    pairs = assign(cost)
    partner = {int(row): int(true) for true, row in pairs}
    asked = snr >= ASKED_SNR
    seen = np.zeros(len(snr), dtype=bool)
    seen[pairs[:, 0]] = True
    verdict.asked, verdict.found = int(asked.sum()), int((asked & seen).sum())
    verdict.missed = [f"{names[true]} (SNR {snr[true]:.1f})" for true in np.flatnonzero(asked & ~seen)]
    for row, name in enumerate(rows):
        if row not in partner:
            (verdict.doubled if np.isfinite(cost[:, row]).any() else verdict.false).append(name)
    return partner


def _judge_sources(result: Judgement, truth: Table, found: Table, target: str) -> dict[str, str]:
    """Sources, their continua and spectral indices; the names of true sources by those of found ones."""
    apart = _apart(truth, found)
    names = [f"{target} {name}" for name in truth["name"]]
    rows = [f"{target} {row['id']} at {row['ra']:.5f} {row['dec']:.5f}" for row in found]
    snr = _column(truth, "snr")
    partner = _match(result.sources, np.where(apart <= 1.0, apart**2, np.inf), snr, names, rows)
    flux, error, freq = (_column(found, name) for name in ("continuum", "continuum_err", "continuum_freq"))
    index, index_error = (_column(found, name) for name in ("spectral_index", "spectral_index_err"))
    for row, true in partner.items():
        planted, alpha = float(truth["continuum"][true]), float(truth["alpha"][true])
        if not planted:
            if flux[row] > CLAIMED * error[row]:
                result.wrong.append(f"{names[true]}: a continuum of {flux[row] / error[row]:.1f} errors, it has none")
            continue
        if truth["snr_continuum"][true] < ASKED_SNR:
            continue
        at = freq[row] if freq[row] > 0 else truth.meta["freq0"]
        planted *= (at / truth.meta["freq0"]) ** alpha
        # A flux or an error that is not there is as wrong as can be.
        result.pulls["continuum"].append((names[true], _pull(flux[row], planted, error[row])))
        if np.isfinite(index[row]):
            result.pulls["spectral index"].append((names[true], _pull(index[row], alpha, index_error[row])))
    return {str(found["id"][row]): str(truth["name"][true]) for row, true in partner.items()}


def _pull(value: float, true: float, error: float) -> float:
    return float((value - true) / error) if np.isfinite(value) and error > 0 else np.inf


def _judge_lines(
    result: Judgement, truth: tuple[Table, Table], found: Table, target: str, partner: dict[str, str]
) -> None:
    """Lines, their fluxes, and whether they are with the right source and in the right window."""
    sources, lines = truth
    # Lines are where their sources are.
    place = {str(name): row for row, name in enumerate(sources["name"])}
    at = [place[str(name)] for name in lines["source"]]
    apart = _apart(sources, found)[at] if len(lines) else np.empty((0, len(found)))
    freq = _column(lines, "freq")[:, None]
    reach = np.fmax(MATCH_LINE * _column(lines, "line_fwhm"), _column(lines, "chan_width"))[:, None] / C_KMS * freq
    away = np.abs(freq - _column(found, "freq")[None, :]) / reach
    cost = np.where((apart <= 1.0) & (away <= 1.0), apart**2 + away**2, np.inf)
    names = [f"{target} {row['source']} line at {row['freq'] / 1e9:.4f} GHz" for row in lines]
    rows = [f"{target} {row['source']} line at {row['freq'] / 1e9:.4f} GHz in {row['window']}" for row in found]
    mine = _match(result.lines, cost, _column(lines, "snr"), names, rows)
    flux, error = (_column(found, name) for name in ("line_flux", "line_flux_err"))
    for row, true in mine.items():
        if lines["snr"][true] >= ASKED_SNR:
            pull = _pull(flux[row], float(lines["line_flux"][true]), error[row])
            result.pulls["line flux"].append((names[true], pull))
        if partner.get(str(found["source"][row])) != str(lines["source"][true]):
            result.wrong.append(f"{names[true]}: with the source {found['source'][row]}, which is another")
    _judge_windows(result, mine, lines, found, names)


def _judge_windows(result: Judgement, mine: dict[int, int], lines: Table, found: Table, names: list[str]) -> None:
    """Windows may have any label; lines of one window have to share it."""
    labels: dict[str, Counter[str]] = {}
    for row, true in mine.items():
        labels.setdefault(str(lines["window"][true]), Counter())[str(found["window"][row])] += 1
    usual = {window: count.most_common(1)[0][0] for window, count in labels.items()}
    shared = {label for label, number in Counter(usual.values()).items() if number > 1}
    for row, true in mine.items():
        label, wanted = str(found["window"][row]), usual[str(lines["window"][true])]
        if label != wanted or label in shared:
            result.wrong.append(f"{names[true]}: in window {label!r}, which is another")


def judge_folders(truth: Path, products: Path) -> dict[str, Judgement]:
    """Judge a run: every target of the truth, and all others that the products have.

    Parameters
    ----------
    truth : Path, folder with a folder of each target (``truth`` of what `python -m sim archive` made, or its parent)
    products : Path, folder with a folder of each target

    Raises
    ------
    DataError
        When there is no truth in `truth`, or no folder `products`.
    """
    if (truth / "truth").is_dir():
        truth = truth / "truth"
    planted = {path.parent.name: path.parent for path in sorted(truth.glob("*/sources.ecsv"))}
    if not planted:
        raise DataError(f"{truth} has no <target>/sources.ecsv; give what python -m sim archive has written")
    if not products.is_dir():
        raise DataError(f"{products} is no folder; give the folder of the targets' products")
    made = {_plain(path.parent.name): path.parent for path in sorted(products.glob("*/sources.ecsv"))}
    found = {}
    for name, folder in planted.items():
        tables = _tables(folder, "TRUTH")
        mine = made.pop(_plain(name), None)
        target = str(tables[0].meta.get("target", name))
        found[target] = judge(tables, _tables(mine, "PRODUCTS") if mine else _nothing(), target)
    for folder in made.values():
        sources, lines = _tables(folder, "PRODUCTS")
        foreign = Judgement()
        foreign.sources.false = [f"{folder.name} {row['id']}, of a target that is none" for row in sources]
        foreign.lines.false = [f"{folder.name} {row['source']} line, of a target that is none" for row in lines]
        found[folder.name] = foreign
    return found


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())


def _tables(folder: Path, label: str) -> tuple[Table, Table]:
    return read_table(str(folder / "sources.ecsv"), label), read_table(str(folder / "lines.ecsv"), label)


def _nothing() -> tuple[Table, Table]:
    sources = Table(names=("ra", "dec", "continuum", "continuum_err"))
    lines = Table(names=("ra", "dec", "freq", "line_flux", "line_flux_err"))
    for table, names in ((sources, ("id",)), (lines, ("source", "window"))):
        for name in names:
            table[name] = np.array([], dtype="U1")
    return sources, lines


def report(judgements: dict[str, Judgement]) -> list[str]:
    """Lines: a table with a row a target and one of all, then everything that is wrong."""
    total = sum(judgements.values(), Judgement())
    lines = [
        f"{'':24s}{'sources':^30s}  {'lines':^30s}  {'within 2 errors':^28s}",
        "target                  " + 2 * "  found of asked double false  " + "  continuum line flux    index",
    ]
    for name, each in (*judgements.items(), ("all", total)):
        cells = [
            f"{v.found:7d} of {v.asked:5d} {len(v.doubled):6d} {len(v.false):5d}  " for v in (each.sources, each.lines)
        ]
        shares = [_share(each.pulls[quantity]) for quantity in each.pulls]
        lines.append(f"{name:<24.24s}{''.join(cells)}{''.join(f'{share:>11s}' for share in shares)}")
    lines.append("")
    lines.append(
        f"fluxes within {WITHIN:g} errors: {_share(total.fluxes)}"
        + (f" ({100 * total.within:.1f} %)" if total.fluxes else "")
    )
    for text, rows in (
        ("missed", total.sources.missed + total.lines.missed),
        ("twice", total.sources.doubled + total.lines.doubled),
        ("false", total.sources.false + total.lines.false),
        ("wrong", total.wrong),
    ):
        lines += [f"{text}: {row}" for row in rows]
    for quantity, pulls in total.pulls.items():
        lines += [f"{quantity} off by {pull:+.1f} errors: {what}" for what, pull in pulls if not abs(pull) <= WITHIN]
    return lines


def _share(pulls: list[tuple[str, float]]) -> str:
    return f"{sum(abs(pull) <= WITHIN for _, pull in pulls)} of {len(pulls)}"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of ``python -m training archive``."""
    parser.add_argument("truth", metavar="TRUTH", help="folder that python -m sim archive has written")
    parser.add_argument("products", metavar="PRODUCTS", help="folder of the targets' products: <outfile>.targets")
    parser.add_argument(
        "--check", action="store_true",
        help=f"exit status 1 unless everything above SNR {ASKED_SNR:g} is there once, nothing is false, and "
        f"{100 * SHARE:g} %% of the fluxes are within {WITHIN:g} errors",
    )  # fmt: skip


def run(args: argparse.Namespace) -> int:
    """Print the judgement; 1 when `--check` is not passed, 2 when a table cannot be used."""
    try:
        judgements = judge_folders(Path(args.truth), Path(args.products))
    except DeepFocusError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    total = sum(judgements.values(), Judgement())
    lines = report(judgements)
    if args.check:
        lines.append("passed" if total.passed else "not passed")
    sys.stdout.write("\n".join(lines) + "\n")
    return 1 if args.check and not total.passed else 0
