"""``python -m training evaluate``: simulate fields, run the pipeline, score, print the scoreboard.

The fields come from the simulator, each from (preset, seed, index) alone, so that any number of workers,
and a run that was killed and resumed, give the same scores. The paper's numbers stand beside ours.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import sys
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, replace
from multiprocessing import connection
from pathlib import Path
from typing import Any

import numpy as np
from astropy.table import Table
from tqdm import tqdm

from casa_deepfocus.core.cube import Cube
from casa_deepfocus.core.scores import line_only
from casa_deepfocus.errors import DataError, DeepFocusError, ParameterError
from casa_deepfocus.pipeline.state import Options
from training.blinded import KNOWS_NOTHING, Blinded
from training.bootstrap import poisson_upper, score_errors
from training.ideal import Ideal, false_alarms_per_cube, ideal_filter
from training.score import Score, plain, score_tables
from training.store import FieldResult, Store, collect

Simulate = Callable[[str, int, int, bool], tuple[Cube, Table]]
"""(preset, seed, index, empty) -> cube and truth of one field."""

Search = Callable[[Cube], Table]
"""Cube -> catalogue."""

Job = tuple[str, int, int, bool]
"""preset, seed, index, empty"""

FIELD_META = ("beam_maj", "beam_min", "cell", "nchan", "nx", "ny", "chan_width_kms")

FIRST_EMPTY = 1_000_000
"""Number of the first field without sources, so that --n can grow on --resume."""


@dataclass(frozen=True)
class Evaluation:
    """All fields of one evaluation and their score.

    Attributes
    ----------
    preset, seed, n_fields : which fields; `n_fields` counts those meant to hold sources
    truth, catalogue : astropy Table, of all fields, with a column `field`
    score : Score
    errors : dict, standard errors by bootstrap over fields (`score_errors`)
    ideal : Ideal, the ideal filter at the rate of false alarms that was found
    ideal_asked : Ideal, at the rate that was asked for: a few empty fields cannot tell a rate as low as that
    seconds : float, of the search of one field
    failed : dict, field -> why it could not be searched; these fields are in no score
    method : str, what searched: 'default', 'paper' or 'decoras'
    """

    preset: str
    seed: int
    n_fields: int
    truth: Table
    catalogue: Table
    score: Score
    errors: dict[str, Any]
    ideal: Ideal
    ideal_asked: Ideal
    seconds: float
    failed: dict[int, str]
    method: str = "default"

    def as_dict(self) -> dict[str, Any]:
        """Plain numbers."""
        empty = self.score.empty
        rates = {"rate": empty["false_alarms"] / empty["n_fields"] if empty["n_fields"] else None}
        if empty["n_fields"]:
            rates["rate_upper95"] = poisson_upper(empty["false_alarms"]) / empty["n_fields"]
        values = {
            **self.score.as_dict(),
            "preset": self.preset,
            "seed": self.seed,
            "n_fields": self.n_fields,
            "n_failed": len(self.failed),
            "empty": {**empty, **rates},
            "errors": self.errors,
            "ideal": self._ideal(self.ideal),
            "ideal_asked": self._ideal(self.ideal_asked),
            "seconds_per_field": self.seconds,
        }
        return plain(values)

    def _ideal(self, ideal: Ideal) -> dict[str, float | None]:
        return {
            "rate": ideal.rate,
            "threshold": float(np.nanmedian(ideal.blind)) if len(self.score.truth) else None,
            "snr50": ideal.snr50,
            "snr50_line_only": ideal.take(line_only(self.score.truth)).snr50,
        }


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
    minsnr, false_alarms : float, as in `casa_deepfocus.pipeline.Options`
    without : tuple of str, networks that are blinded (`training.blinded`)
    """

    def __init__(
        self,
        models: str = "",
        device: str = "auto",
        mode: str = "both",
        minsnr: float = Options.minsnr,
        false_alarms: float = Options.false_alarms,
        without: tuple[str, ...] = (),
    ) -> None:
        self.models, self.device, self.without = models, device, without
        self.options = Options(mode=mode, minsnr=minsnr, false_alarms=false_alarms)
        self._networks: Any = None

    def __call__(self, cube: Cube) -> Table:
        from casa_deepfocus import pipeline

        if self._networks is None:
            from casa_deepfocus.models.runner import load_networks

            networks = load_networks(self.models, self.device)
            self._networks = Blinded(networks, self.without) if self.without else networks
        return pipeline.run(cube, self._networks, self.options).catalogue

    def __getstate__(self) -> dict[str, Any]:
        # Sessions of onnxruntime do not travel to the workers; each loads its own.
        return {**self.__dict__, "_networks": None}


_worker: dict[str, Any] = {}


def _start(simulate: Simulate, search: Search) -> None:
    _worker.update(simulate=simulate, search=search)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """A worker whose parent was killed would wait for its next field for ever, and hold a gigabyte."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        connection.wait([parent.sentinel])
        os._exit(1)


def _work(job: Job) -> FieldResult:
    return run_field(_worker["simulate"], _worker["search"], job)


def run_field(simulate: Simulate, search: Search, job: Job) -> FieldResult:
    """Simulate one field and search it; both tables get the column `field`, the truth also the field's geometry.

    A field that cannot be simulated or searched is a result with an error, so that one does not end them all.
    """
    index, empty = job[2:]
    try:
        cube, truth = simulate(*job)
        start = time.perf_counter()
        found = search(cube)
        seconds = time.perf_counter() - start
    except Exception as error:
        return FieldResult(index, empty, None, None, 0.0, f"{type(error).__name__}: {error}")
    return FieldResult(index, empty, *label(index, truth, found), seconds)


def label(index: int, truth: Table, found: Table) -> tuple[Table, Table]:
    """Copies with the column `field`; the truth also with its geometry, which differs between fields."""
    truth, found = truth.copy(), found.copy()
    for key in FIELD_META:
        value = truth.meta.get(key, found.meta.get(key))
        if value is not None and key not in truth.colnames:
            truth[key] = np.full(len(truth), value)
    for table in (truth, found):
        table["field"] = np.full(len(table), index, dtype=np.int64)
    return truth, found


def _results(jobs: list[Job], simulate: Simulate, search: Search, workers: int) -> Iterator[FieldResult]:
    if workers <= 1:
        for job in jobs:
            yield run_field(simulate, search, job)
        return
    # Forked workers would share the threads' locks of the networks' runtime.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=context, initializer=_start, initargs=(simulate, search)) as pool:
        waiting = [pool.submit(_work, job) for job in jobs]
        try:
            for future in as_completed(waiting):
                yield future.result()
        except BrokenProcessPool as error:
            raise DataError(
                "a worker process was killed, most often for memory; go on with --resume and fewer --workers"
            ) from error
        finally:
            pool.shutdown(cancel_futures=True)


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
    asked: float = Options.false_alarms,
    store: Store | None = None,
    progress: Callable[[FieldResult, int], None] = lambda result, total: None,
) -> Evaluation:
    """Simulate and search `n` fields with sources and `empty` ones without, and score.

    Parameters
    ----------
    preset : str, a preset of the simulator or its file
    n, seed, empty : int
    workers : int, processes; simulate and search must then be picklable
    simulate, search : callables; the fast simulator and the pipeline unless given
    mode : {'line', 'continuum', 'both'}
    asked : float, false alarms a cube that `search` may make; for the ideal filter's line
    store : Store, where the fields are kept; fields that are there are not searched again
    progress : callable (field that is done, fields to do)

    Raises
    ------
    ParameterError
        When `n` or `workers` is not positive or `empty` negative.
    DataError
        When no field could be searched, or a worker was killed.
    """
    if n < 1:
        raise ParameterError("--n", n, "at least one field is needed")
    if empty < 0:
        raise ParameterError("--empty", empty, "must not be negative")
    if workers < 1:
        raise ParameterError("--workers", workers, "at least one process is needed")
    simulate, search = simulate or simulate_field, search or PipelineSearch(mode=mode)
    store = store or Store(None, {})
    wanted = {index: index >= FIRST_EMPTY for index in (*range(n), *range(FIRST_EMPTY, FIRST_EMPTY + empty))}
    done = store.done()
    jobs = [(preset, seed, index, barren) for index, barren in wanted.items() if index not in done]
    for result in _results(jobs, simulate, search, min(workers, len(jobs))):
        store.add(result)
        progress(result, len(jobs))
    return rate_fields(store, wanted, preset, seed, mode, asked)


def rate_fields(
    store: Store,
    wanted: dict[int, bool],
    preset: str,
    seed: int,
    mode: str,
    asked: float = Options.false_alarms,
) -> Evaluation:
    """Score what a store holds of the fields `wanted` (number -> without sources); `asked` false alarms a cube."""
    got = collect(store, wanted)
    got.truth.meta |= {"empty_fields": got.n_empty, "preset": preset, "seed": seed}
    score = score_tables(got.truth, got.catalogue, mode=mode, empty_fields=got.n_empty)
    alarms = score.empty["false_alarms"] if got.n_empty else len(score.matching.false_positives)
    rate = false_alarms_per_cube(alarms, got.n_empty or got.n_fields)
    return Evaluation(
        preset=preset,
        seed=seed,
        n_fields=sum(not value for value in wanted.values()),
        truth=got.truth,
        catalogue=got.catalogue,
        score=score,
        errors=score_errors(score, got.fields),
        ideal=ideal_filter(score.truth, *_volume(got.truth), rate),
        ideal_asked=ideal_filter(score.truth, *_volume(got.truth), asked),
        seconds=got.seconds,
        failed=got.failed,
    )


def _volume(truth: Table) -> tuple[np.ndarray, np.ndarray]:
    # Pixels of the image and channels of the cube of each source; NaN where the simulator does not say.
    values = [
        np.asarray(truth[name], dtype=float) if name in truth.colnames else np.full(len(truth), np.nan)
        for name in ("nx", "ny", "nchan")
    ]
    return values[0] * values[1], values[2]


def recipe_of(args: argparse.Namespace) -> dict[str, Any]:
    """What the fields' results depend on; a preset's file by its content."""
    values = {name: getattr(args, name) for name in ("preset", "seed", "models", "mode", "minsnr", "false_alarms")}
    if args.without:
        values["without"] = sorted(args.without)
    for name, path in (("preset", Path(args.preset)), ("models", Path(args.models) / "manifest.json")):
        if path.is_file():
            values[f"{name}_crc32"] = zlib.crc32(path.read_bytes())
    return values


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of ``python -m training evaluate``."""
    parser.add_argument("--preset", default="paper", help="preset of the simulator, or the file of one")
    parser.add_argument("--n", type=int, default=100, help="fields with sources")
    parser.add_argument("--empty", type=int, help="fields without sources, to count false alarms (n / 10)")
    parser.add_argument("--seed", type=int, default=20221121, help="of the fields; not one that was trained on")
    parser.add_argument(
        "--method", default="default", choices=("default", "paper", "decoras"),
        help="default: this project's; paper: its networks and its flow alone; decoras: its rival's detector",
    )  # fmt: skip
    parser.add_argument("--models", default="", help="folder of networks; the method's own when empty")
    parser.add_argument("--device", default="auto", choices=("auto", "cpu", "cuda"))
    parser.add_argument("--mode", default="both", choices=("line", "continuum", "both"))
    parser.add_argument("--minsnr", type=float, default=Options.minsnr)
    parser.add_argument(
        "--false-alarms", type=float, default=Options.false_alarms, help="peaks of noise a cube may be wrong about"
    )
    parser.add_argument(
        "--without", nargs="+", default=[], choices=list(KNOWS_NOTHING), metavar="NETWORK",
        help=f"networks that say the same of everything: {', '.join(KNOWS_NOTHING)}",
    )  # fmt: skip
    parser.add_argument("--workers", type=int, default=2, help="processes")
    parser.add_argument("--out", default="", help="folder for fields, tables, figures and scores")
    parser.add_argument("--resume", action="store_true", help="go on with the fields that --out holds")
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def _check_method(method: str, models: str) -> None:
    """Refuse networks that are for another method."""
    from casa_deepfocus.models.manifest import read_manifest
    from casa_deepfocus.models.runner import find_folder

    flow = read_manifest(find_folder(models)).get("flow", "default")
    if flow != method:
        raise ParameterError("--models", models, f"its networks are for the method {flow!r}", f"Give --method {flow}")


class _Progress:
    """A bar on a terminal, nothing else."""

    def __init__(self) -> None:
        self._bar: tqdm | None = None

    def __call__(self, result: FieldResult, total: int) -> None:
        if self._bar is None:
            self._bar = tqdm(total=total, unit="field", file=sys.stderr, disable=not sys.stderr.isatty())
        self._bar.update()
        if result.error:
            self._bar.write(f"field {result.field}: {result.error}", file=sys.stderr)

    def close(self) -> None:
        if self._bar is not None:
            self._bar.close()


def run(args: argparse.Namespace) -> int:
    """Print the scoreboard; 1 when something cannot be used or a field failed."""
    from training import report

    progress = _Progress()
    try:
        if not args.models and args.method != "default":
            args.models = args.method
        _check_method(args.method, args.models)
        if args.without and args.method != "default":
            raise ParameterError("--without", " ".join(args.without), "is for this project's method", "Leave it out")
        if args.method == "decoras":
            # It knows no channels: places and boxes alone are compared, as the paper does.
            args.mode = "continuum"
        search = PipelineSearch(
            args.models, args.device, args.mode, args.minsnr, args.false_alarms, tuple(args.without)
        )  # fmt: skip
        empty = max(1, args.n // 10) if args.empty is None else args.empty
        store = Store(Path(args.out) if args.out else None, recipe_of(args), resume=args.resume)
        result = evaluate(
            args.preset, args.n, args.seed, empty=empty, workers=args.workers, search=search, mode=args.mode,
            asked=args.false_alarms, store=store, progress=progress,
        )  # fmt: skip
        result = replace(result, method=args.method)
        if args.out:
            report.write(result, Path(args.out))
    except DeepFocusError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    finally:
        progress.close()
    text = json.dumps(result.as_dict()) if args.json else "\n".join(report.scoreboard(result))
    sys.stdout.write(text + "\n")
    for field, why in result.failed.items():
        sys.stderr.write(f"field {field} is in no score: {why}\n")
    return 1 if result.failed else 0
