"""``python -m training evaluate``: simulate fields, run the pipeline, score, print the scoreboard.

The fields come from the fast simulator, one seed each, so that any number of workers gives the same
scores. The paper's numbers (arXiv:2211.11462, Tables 4 and 5) stand beside ours.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from astropy.table import Table, vstack

from casa_deepfocus.core.cube import Cube
from casa_deepfocus.errors import DeepFocusError, ParameterError, ProductError
from training.score import Score, plain, score_tables, summary

PAPER = {
    "recall": 0.923,
    "precision": 1.0,
    "mean_iou": 0.74,
    "false_positives": 0,
    "n_sources": 4556,
}
"""The paper's Table 4, row 'Pipeline' (its counting is our lenient one)."""

PAPER_RESIDUALS = {
    "x": (-0.004, 0.73),
    "y": (-0.005, 0.67),
    "fwhm_maj": (-0.04, 0.46),
    "fwhm_min": (-0.12, 0.45),
    "pa": (-0.65, 20.28),
    "chan": (0.0, 0.003),
    "line_fwhm": (0.0, 0.001),
    "line_flux": (0.07, 0.36),
}
"""The paper's Table 5: mean and std of true - predicted [pixel, deg, channel]; of the flux the relative error."""

Simulate = Callable[[str, int, int, bool], tuple[Cube, Table]]
"""(preset, seed, index, empty) -> cube and truth of one field."""

Search = Callable[[Cube], Table]
"""Cube -> catalogue."""

FIELD_META = ("beam_maj", "beam_min", "cell", "nchan", "chan_width_kms")


@dataclass(frozen=True)
class FieldResult:
    """One field: its number, truth, catalogue and the seconds of the search."""

    field: int
    truth: Table
    catalogue: Table
    seconds: float


@dataclass(frozen=True)
class Evaluation:
    """All fields of one evaluation and their score."""

    n_fields: int
    truth: Table
    catalogue: Table
    score: Score
    seconds: float

    def as_dict(self) -> dict[str, Any]:
        """Plain numbers; `n_fields` counts the fields meant to hold sources."""
        return {**self.score.as_dict(), "n_fields": self.n_fields, "seconds_per_field": plain(self.seconds)}


def simulate_field(preset: str, seed: int, index: int, empty: bool) -> tuple[Cube, Table]:
    """One field of the fast simulator; the same (preset, seed, index) gives the same field."""
    from sim.cube import simulate

    return simulate(preset, seed, index, empty)


class PipelineSearch:
    """The pipeline with its networks, loaded once a process.

    Parameters
    ----------
    models : str, '' for the shipped set or a folder with a manifest
    device : {'auto', 'cpu', 'cuda'}
    mode : {'line', 'continuum', 'both'}
    minsnr : float
    """

    def __init__(self, models: str = "", device: str = "auto", mode: str = "both", minsnr: float = 5.0) -> None:
        self.models, self.device, self.mode, self.minsnr = models, device, mode, minsnr
        self._networks: Any = None

    def __call__(self, cube: Cube) -> Table:
        from casa_deepfocus import pipeline

        if self._networks is None:
            from casa_deepfocus.models.runner import load_networks

            self._networks = load_networks(self.models, self.device)
        options = pipeline.Options(mode=self.mode, minsnr=self.minsnr)
        return pipeline.run(cube, self._networks, options).catalogue

    def __getstate__(self) -> dict[str, Any]:
        # Sessions of onnxruntime do not travel to the workers; each loads its own.
        return {**self.__dict__, "_networks": None}


_worker: dict[str, Any] = {}


def _start(simulate: Simulate, search: Search) -> None:
    _worker.update(simulate=simulate, search=search)


def _work(job: tuple[str, int, int, bool]) -> FieldResult:
    return run_field(_worker["simulate"], _worker["search"], *job)


def run_field(simulate: Simulate, search: Search, preset: str, seed: int, index: int, empty: bool) -> FieldResult:
    """Simulate one field and search it; both tables get the column `field`, the truth also the field's beam."""
    cube, truth = simulate(preset, seed, index, empty)
    start = time.perf_counter()
    found = search(cube)
    seconds = time.perf_counter() - start
    truth, found = truth.copy(), found.copy()
    for key in FIELD_META:
        value = truth.meta.get(key, found.meta.get(key))
        if value is not None and key not in truth.colnames:
            truth[key] = np.full(len(truth), value)
    for table in (truth, found):
        table["field"] = np.full(len(table), index, dtype=np.int64)
    return FieldResult(index, truth, found, seconds)


def _results(jobs: list[tuple[str, int, int, bool]], simulate: Simulate, search: Search, workers: int) -> Iterator:
    if workers <= 1:
        for job in jobs:
            yield run_field(simulate, search, *job)
        return
    # Forked workers would share the threads' locks of the networks' runtime.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=context, initializer=_start, initargs=(simulate, search)) as pool:
        yield from pool.map(_work, jobs)


def _joined(tables: Iterable[Table]) -> Table:
    listed = list(tables)
    table = vstack(listed, join_type="outer", metadata_conflicts="silent")
    # One meta for all: what every field agrees on.
    shared = {k: v for k, v in listed[0].meta.items() if all(t.meta.get(k) == v for t in listed)}
    table.meta.clear()
    table.meta.update(shared)
    return table


def evaluate(
    preset: str,
    n: int,
    seed: int,
    *,
    empty: int = 0,
    workers: int = 1,
    simulate: Simulate | None = None,
    search: Search | None = None,
    mode: str = "both",
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Evaluation:
    """Simulate and search `n` fields with sources and `empty` ones without, and score.

    Parameters
    ----------
    preset : str, name of a preset of the simulator
    n, seed, empty : int
    workers : int, processes; simulate and search must then be picklable
    simulate, search : callables; the fast simulator and the pipeline unless given
    mode : {'line', 'continuum', 'both'}
    progress : callable (fields done, all fields)

    Raises
    ------
    ParameterError
        When `n` is not positive or `empty` negative.
    """
    if n < 1:
        raise ParameterError("--n", n, "at least one field is needed")
    if empty < 0:
        raise ParameterError("--empty", empty, "must not be negative")
    if workers < 1:
        raise ParameterError("--workers", workers, "at least one process is needed")
    simulate, search = simulate or simulate_field, search or PipelineSearch(mode=mode)
    jobs = [(preset, seed, index, index >= n) for index in range(n + empty)]
    results = []
    for result in _results(jobs, simulate, search, min(workers, len(jobs))):
        results.append(result)
        progress(len(results), len(jobs))
    truth = _joined(r.truth for r in results)
    found = _joined(r.catalogue for r in results)
    barren = sum(len(r.truth) == 0 for r in results)
    truth.meta["empty_fields"] = barren
    score = score_tables(truth, found, mode=mode, empty_fields=barren)
    return Evaluation(n, truth, found, score, float(np.mean([r.seconds for r in results])))


def _cell(value: float) -> str:
    return f"{value:<12.3f}" if np.isfinite(value) else f"{'-':<12s}"


def scoreboard(result: Evaluation) -> list[str]:
    """Lines: our numbers beside the paper's, then all of ours."""
    strict, rest = result.score.deepfocus, result.score.residuals
    rows = [
        "                          ours        ours        paper",
        "                          one to one  lenient     Table 4 (its own simulated test set)",
        *(
            f"{label:<26s}{_cell(strict[key])}{_cell(strict.get(key + '_lenient', np.nan))}{PAPER[key]:.3f}"
            for label, key in (("recall", "recall"), ("precision", "precision"), ("mean 2D IoU", "mean_iou"))
        ),
        (
            f"false positives           {strict['false_positives']:<12d}{strict['false_positives_lenient']:<12d}"
            f"{PAPER['false_positives']} (of {PAPER['n_sources']} sources; ours {len(result.score.truth)})"
        ),
        "",
        "residual                  our bias    our std     paper mean, std (Table 5; true - predicted)",
    ]
    for name, (mean, std) in PAPER_RESIDUALS.items():
        ours = rest[name]
        rows.append(f"{name:<26s}{_cell(ours['bias'])}{_cell(ours['std'])}{-mean + 0.0:.3f}, {std:.3f} (sign as ours)")
    rows += ["", *summary(result.score), "", f"seconds a field: {result.seconds:.2f}"]
    return rows


def write_tables(result: Evaluation, folder: str) -> None:
    """Write truth.ecsv and catalogue.ecsv, with a `field` column, for ``python -m training score``."""
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
        for name, table in (("truth", result.truth), ("catalogue", result.catalogue)):
            table.write(Path(folder) / f"{name}.ecsv", overwrite=True)
        text = json.dumps(result.as_dict(), indent=1)
        (Path(folder) / "scores.json").write_text(text + "\n", encoding="utf-8")
    except OSError as error:
        raise ProductError(f"--out={folder!r}: cannot be written ({error})") from error


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of ``python -m training evaluate``."""
    parser.add_argument("--preset", default="paper", help="preset of the simulator")
    parser.add_argument("--n", type=int, default=100, help="fields with sources")
    parser.add_argument("--empty", type=int, help="fields without sources, to count false alarms (n / 10)")
    parser.add_argument("--seed", type=int, default=20221121, help="of the fields; not one that was trained on")
    parser.add_argument("--models", default="", help="folder of networks; the shipped set when empty")
    parser.add_argument("--device", default="auto", choices=("auto", "cpu", "cuda"))
    parser.add_argument("--mode", default="both", choices=("line", "continuum", "both"))
    parser.add_argument("--minsnr", type=float, default=5.0)
    parser.add_argument("--workers", type=int, default=2, help="processes")
    parser.add_argument("--out", default="", help="folder for truth, catalogue and scores")
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def _progress(done: int, total: int) -> None:
    if done == total or done % 10 == 0:
        sys.stderr.write(f"{done} of {total} fields\n")


def run(args: argparse.Namespace) -> int:
    """Print the scoreboard; 1 when something cannot be used."""
    try:
        search = PipelineSearch(args.models, args.device, args.mode, args.minsnr)
        empty = max(1, args.n // 10) if args.empty is None else args.empty
        result = evaluate(
            args.preset, args.n, args.seed, empty=empty, workers=args.workers, search=search, mode=args.mode,
            progress=_progress,
        )  # fmt: skip
        if args.out:
            write_tables(result, args.out)
    except DeepFocusError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    text = json.dumps(result.as_dict()) if args.json else "\n".join(scoreboard(result))
    sys.stdout.write(text + "\n")
    return 0
