"""Run the finders on the fields, score them, say what is not there."""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, astuple, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from astropy.table import Table
from tqdm import tqdm

from benchmarks.peers.field import write_field
from benchmarks.peers.finders import FINDERS, Finder, Places, finder_named
from benchmarks.peers.process import Cost, PeerError
from benchmarks.peers.rates import AtRate, cut_at_rate, ideal_at_rate
from casa_deepfocus.errors import DataError, ParameterError, ProductError
from training.evaluate import FIRST_EMPTY, label, simulate_field
from training.score import Score, plain, score_tables
from training.store import FieldResult, Store, collect

FORMATS = {"seconds": ".1f", "MiB": ".0f", "alarms_at_rate": ".0f", "FP_at_rate": ".0f"}

Simulate = Callable[[str, int, int, bool], tuple[Any, Table]]


@dataclass(frozen=True)
class Peer:
    """What one finder did.

    Attributes
    ----------
    name : str
    settings : dict
    catalogue : astropy Table, of all fields, with a column `field`
    score : Score
    cost : Cost, seconds of one field and the largest memory
    at_rate : AtRate, what is left at a given rate of false alarms
    ideal : AtRate, the ideal filter at that rate, on the same fields
    failed : dict, field -> why
    """

    name: str
    settings: dict[str, Any]
    catalogue: Table
    score: Score
    cost: Cost
    at_rate: AtRate
    ideal: AtRate
    failed: dict[int, str]

    def as_dict(self) -> dict[str, Any]:
        """Plain numbers."""
        head = {"settings": self.settings, "seconds_per_field": self.cost.seconds, "memory_mib": self.cost.memory}
        rates = {"at_rate": asdict(self.at_rate), "ideal": asdict(self.ideal)}
        return plain({**head, **self.score.as_dict(), **rates, "failed": self.failed})


def compare(
    preset: str,
    n: int,
    seed: int,
    finders: Sequence[Finder],
    places: Places,
    *,
    empty: int = 0,
    rate: float = 0.05,
    simulate: Simulate = simulate_field,
    scratch: Path | None = None,
    stores: Mapping[str, Store] | None = None,
    progress: Callable[[str, int], None] = lambda name, index: None,
) -> tuple[list[Peer], dict[str, str]]:
    """Run finders on simulated fields.

    Parameters
    ----------
    preset, n, seed, empty : the fields, those of `training evaluate`
    finders : sequence of Finder, those that can run; a field on which one fails is in none of its scores
    places : Places
    rate : float, false alarms a field at which finders are compared beside their own settings
    simulate : callable
    scratch : Path, where the fields' files go and from where they are removed; the system's when None
    stores : for each finder's name where its fields are kept; fields that are there are not searched again
    progress : callable (finder, field)

    Returns
    -------
    peers : list of Peer
    lost : dict, finders that failed on every field -> why
    """
    stores = stores or {finder.name: Store(None, {}) for finder in finders}
    done = {name: store.done() for name, store in stores.items()}
    wanted = (*range(n), *range(FIRST_EMPTY, FIRST_EMPTY + empty))
    for index in wanted:
        waiting = [finder for finder in finders if index not in done[finder.name]]
        if not waiting:
            continue
        barren = index >= FIRST_EMPTY
        cube, truth = simulate(preset, seed, index, barren)
        # The programs run in folders of their own: a relative path would mean nothing to them.
        with tempfile.TemporaryDirectory(dir=scratch and scratch.resolve(), prefix="peers-") as folder:
            field = write_field(Path(folder) / "field", cube)
            searched: dict[tuple[Any, str], tuple[Table, Cost]] = {}
            for finder in waiting:
                progress(finder.name, index)
                # Candidates that only cut the same catalogue share its search.
                key = (finder.search, json.dumps(finder.searched))
                own = Path(folder) / finder.name
                own.mkdir()
                try:
                    if key not in searched:
                        searched[key] = finder.search(field, finder.searched, places, own)
                except PeerError as error:
                    stores[finder.name].add(FieldResult(index, barren, None, None, 0.0, str(error)))
                    continue
                found, cost = searched[key]
                labelled = label(index, truth, found)
                stores[finder.name].add(FieldResult(index, barren, *labelled, cost.seconds, memory=cost.memory))
    peers, lost = [], {}
    for finder in finders:
        try:
            peers.append(judge(finder, stores[finder.name], wanted, rate))
        except PeerError as error:
            lost[finder.name] = str(error)
    return peers, lost


def judge(finder: Finder, store: Store, wanted: Sequence[int], rate: float) -> Peer:
    """Score one finder on the fields where it did not fail: at its own `cut`, and at a rate of false alarms.

    Raises
    ------
    PeerError
        When it failed on all of them.
    """
    try:
        got = collect(store, wanted)
    except DataError as error:
        raise PeerError(str(error)) from error
    found = finder.keep(got.catalogue)
    score = score_tables(got.truth, found, empty_fields=got.n_empty)
    at_rate, ideal = cut_at_rate(got, rate), ideal_at_rate(got.truth, score, rate)
    cost = Cost(got.seconds, got.memory)
    return Peer(finder.name, finder.settings, found, score, cost, at_rate, ideal, got.failed)


def figure_of_merit(peer: Peer) -> float:
    """F1 of the sources above an SNR of 5: what the settings are tuned for."""
    p = peer.score.physical
    bright = [row for row in p["completeness"] if row["low"] >= 5.0]
    hit, whole = (sum(row[key] for row in bright) for key in ("found", "n"))
    wrong = p["false_positives"] + peer.score.empty["false_alarms"]
    return 2.0 * hit / (2.0 * hit + wrong + whole - hit) if whole else float("nan")


def tune(preset: str, n: int, seed: int, finders: Sequence[Finder], places: Places, **options: Any) -> list[str]:
    """Lines: every candidate of each finder's grid on training fields with its F1, the best one marked."""
    tried: dict[str, tuple[Finder, dict[str, Any], Finder]] = {}
    for finder in finders:
        for i, change in enumerate(finder.grid):
            name = f"{finder.name}.{i}"
            tried[name] = (finder, change, replace(finder, name=name, settings=finder.settings | change))
    peers, lost = compare(preset, n, seed, [candidate for _, _, candidate in tried.values()], places, **options)
    lines, merit = [f"{name} failed: {why}" for name, why in lost.items()], {p.name: figure_of_merit(p) for p in peers}
    for peer in peers:
        finder, change, _ = tried[peer.name]
        best = max(merit.get(name, -np.inf) for name, (other, _, _) in tried.items() if other is finder)
        p = peer.score.physical
        mark = "  <- best" if merit[peer.name] == best else ""
        text = f"recall at SNR >= 5 {p['recall_snr5']:.3f}   false positives {p['false_positives']:3d}"
        text += f"   {peer.cost.seconds:.1f} s"
        lines.append(f"{finder.name:<14s} {change!s:<32s} F1 {merit[peer.name]:.3f}   {text}{mark}")
    return lines


def scoreboard(peers: Sequence[Peer]) -> Table:
    """One row a finder, the last that of the ideal filter, on all fields."""
    rows: list[tuple[Any, ...]] = []
    for peer in peers:
        p, d, r = peer.score.physical, peer.score.deepfocus, peer.score.residuals
        rows.append(
            (
                peer.name, len(np.unique(peer.score.truth.field)), p["n_truth"], p["recall"], p["recall_snr5"],
                p["precision"], p["false_positives"], p["duplicates"], peer.score.empty["false_alarms"], p["snr50"],
                p["snr50_line_only"], *astuple(peer.at_rate), d["recall"], d["mean_iou"], r["x"]["std"],
                r["line_flux"]["bias"], r["line_flux"]["std"], peer.cost.seconds, peer.cost.memory,
            )
        )  # fmt: skip
    if peers:
        widest = max(peers, key=lambda peer: peer.score.physical["n_truth"])
        nothing = float("nan")
        rows.append(
            (
                "(ideal filter)", len(np.unique(widest.score.truth.field)), widest.score.physical["n_truth"],
                nothing, nothing, nothing, 0, 0, 0, nothing, nothing, *astuple(widest.ideal), *[nothing] * 7,
            )
        )  # fmt: skip
    names = (
        "finder", "fields", "sources", "recall", "recall_snr5", "precision", "FP", "duplicates", "alarms", "snr50",
        "line50", "level_at_rate", "alarms_at_rate", "FP_at_rate", "snr5_at_rate", "snr50_at_rate", "snr50_err",
        "line50_at_rate", "line50_err", "iou_recall", "mean_iou", "x_std", "flux_bias", "flux_std", "seconds", "MiB",
    )  # fmt: skip
    table = Table(rows=rows, names=names) if rows else Table(names=names)
    for name in table.colnames:
        if table[name].dtype.kind == "f":
            table[name].info.format = FORMATS.get(name, ".3f")
    return table


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of ``python -m benchmarks peers``."""
    parser.add_argument("--preset", default="paper", help="preset of the simulator, or the file of one")
    parser.add_argument("--n", type=int, default=5, help="fields with sources")
    parser.add_argument("--empty", type=int, default=0, help="fields without sources")
    parser.add_argument("--seed", type=int, default=20221121)
    parser.add_argument(
        "--finders", nargs="+", default=sorted(FINDERS), metavar="NAME",
        help=f"any of {', '.join(FINDERS)}, or clean+NAME (Hogbom CLEAN by CASA's deconvolve first); default all",
    )  # fmt: skip
    parser.add_argument("--rate", type=float, default=0.05, help="false alarms a field for the columns _at_rate")
    parser.add_argument("--tune", action="store_true", help="try every finder's candidate settings instead")
    given = Places.from_environment()
    parser.add_argument("--python", default=given.python, help="a Python that has bdsf and AegeanTools")
    for name, what in (("sofia2", "program"), ("lineseeker", "folder"), ("mf3d", "folder"), ("blobcat", "blobcat.py")):
        parser.add_argument(f"--{name}", default=getattr(given, name), metavar="PATH", help=what)
    parser.add_argument("--scratch", type=Path, help="folder for the fields' files")
    parser.add_argument("--out", default="", help="folder for the table and the catalogues")
    parser.add_argument("--resume", action="store_true", help="go on with the fields that --out holds")
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def run(args: argparse.Namespace) -> int:
    """Run what is there, print the table and what is missing; 1 when a finder failed on a field."""
    if args.n < 1:
        raise ParameterError("--n", args.n, "at least one field is needed")
    if args.resume and not args.out:
        raise ParameterError("--resume", True, "there is no folder to go on in", "Give --out")
    given = (args.sofia2, args.lineseeker, args.mf3d, args.blobcat)
    places = Places(args.python, *(value and str(Path(value).resolve()) for value in given))
    finders, missing = [], {}
    for name in dict.fromkeys(args.finders):
        try:
            finder = finder_named(name)
        except KeyError as error:
            raise ParameterError(
                "--finders", name, "no such finder", f"Use {', '.join(FINDERS)}, clean+NAME"
            ) from error
        if "false_alarms" in finder.settings:
            finder = replace(finder, settings=finder.settings | {"false_alarms": args.rate})
        reason = finder.missing(places)
        if reason:
            missing[name] = reason
        else:
            finders.append(finder)
    bar = tqdm(total=(args.n + args.empty) * len(finders), file=sys.stderr, disable=not sys.stderr.isatty())

    def progress(name: str, index: int) -> None:
        bar.set_description(f"field {index} {name}")
        bar.update()

    options = {"empty": args.empty, "rate": args.rate, "scratch": args.scratch, "progress": progress}
    if args.tune:
        lines = tune(args.preset, args.n, args.seed, finders, places, **options)
        bar.close()
        sys.stdout.write("\n".join(lines) + "\n")
        return 0
    folder = Path(args.out) if args.out else None
    recipe = {"preset": args.preset, "seed": args.seed}
    stores = {
        finder.name: Store(
            folder and folder / finder.name,
            {**recipe, "settings": finder.searched},
            resume=args.resume and _begun(folder, finder),
        )
        for finder in finders
    }
    peers, lost = compare(args.preset, args.n, args.seed, finders, places, stores=stores, **options)
    bar.close()
    table = scoreboard(peers)
    if folder:
        _write(folder, table, peers, missing)
    failures = [f"{p.name} failed on field {index}: {why}" for p in peers for index, why in p.failed.items()]
    failures += [f"{name} failed: {why}" for name, why in lost.items()]
    if args.json:
        sys.stdout.write(json.dumps({**{p.name: p.as_dict() for p in peers}, "missing": missing}) + "\n")
    else:
        sys.stdout.write("\n".join(table.pformat(max_lines=-1, max_width=-1)) + "\n")
        for name, reason in missing.items():
            sys.stdout.write(f"not run: {name}: {reason}\n")
    for line in failures:
        sys.stderr.write(line + "\n")
    return 1 if failures else 0


def _begun(folder: Path | None, finder: Finder) -> bool:
    # A finder may join a run that others have begun.
    return folder is not None and (folder / finder.name / "fields.jsonl").exists()


def _write(folder: Path, table: Table, peers: Sequence[Peer], missing: dict[str, str]) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        table.meta["missing"] = missing
        table.write(folder / "peers.ecsv", overwrite=True)
        for peer in peers:
            peer.catalogue.write(folder / peer.name / "catalogue.ecsv", overwrite=True)
        text = json.dumps({peer.name: peer.as_dict() for peer in peers}, indent=1)
        (folder / "peers.json").write_text(text + "\n", encoding="utf-8")
    except OSError as error:
        raise ProductError(f"--out={str(folder)!r}: cannot be written ({error})") from error
