"""Odd inputs, each scored against what is right: ``python -m benchmarks faults``.

A corpus made by code (`corpus`): headers as the field writes them, inputs that contradict each other, files in
the way, damaged measurement sets and networks, wrong parameters, odd noise. Each case is the whole task in a
process and a folder of its own (`runner`), judged by `judge`.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from benchmarks.faults.judge import BAD, Outcome, Verdict

MOST_MISLEADING = 2
"""Misleading errors that are let pass, over the whole corpus."""


def add_arguments(command: argparse.ArgumentParser) -> None:
    """The options of ``python -m benchmarks faults``."""
    command.add_argument("--seed", type=int, default=1, help="of the cases that are drawn (default 1)")
    command.add_argument("--part", type=int, default=1, help="run every PART-th case only (default 1: all)")
    command.add_argument("--only", default="", help="run the cases whose name holds this text")
    command.add_argument("--workers", type=int, default=2, help="cases at a time (default 2)")
    command.add_argument("--limit", type=float, default=120.0, help="seconds after which a case hangs (default 120)")
    command.add_argument("--keep", type=Path, help="folder for the cases' files, kept; a temporary one by default")
    command.add_argument("--list", action="store_true", help="print the cases' names and stop")


def run(args: argparse.Namespace) -> int:
    """Run the corpus; 0 where it is as asked."""
    from benchmarks.faults.corpus import all_cases
    from benchmarks.faults.runner import prepare, run_cases

    cases = [case for case in all_cases(args.seed) if args.only in case.name][:: args.part]
    if args.list:
        print("\n".join(case.name for case in cases))
        return 0
    with tempfile.TemporaryDirectory(prefix="faults-") as scratch:
        folder = args.keep or Path(scratch)
        prepare(folder)
        verdicts = []
        for verdict in run_cases(cases, folder, workers=args.workers, limit=args.limit):
            verdicts.append(verdict)
            if verdict.outcome not in (Outcome.RIGHT, Outcome.CLEAR):
                print(f"{verdict.outcome.value:<15} {verdict.name}: {verdict.why}", flush=True)
            if sys.stderr.isatty():
                sys.stderr.write(f"\r{len(verdicts)}/{len(cases)}")
    print(table(verdicts))
    return 0 if passed(verdicts) else 1


def passed(verdicts: Sequence[Verdict]) -> bool:
    """Whether no case ended badly, and few errors mislead."""
    misleading = sum(verdict.outcome is Outcome.MISLEADING for verdict in verdicts)
    return misleading <= MOST_MISLEADING and not any(verdict.outcome in BAD for verdict in verdicts)


def table(verdicts: Sequence[Verdict]) -> str:
    """Counts of the outcomes, by kind of case and in all."""
    kinds = sorted({verdict.kind for verdict in verdicts})
    head = f"{'kind':<16}{'tried':>7}" + "".join(f"{outcome.value:>15}" for outcome in Outcome)
    lines = [head]
    for kind in [*kinds, "all"]:
        these = [verdict for verdict in verdicts if kind in (verdict.kind, "all")]
        counts = [sum(verdict.outcome is outcome for verdict in these) for outcome in Outcome]
        lines.append(f"{kind:<16}{len(these):>7}" + "".join(f"{count:>15}" for count in counts))
    return "\n".join(lines)
