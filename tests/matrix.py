"""The tests on every Python that the package supports: `make matrix`, and at the end of `make test`.

Each Python gets an environment of its own (.venv-3.10 ...), into which pip installs the package as a user would, with
CASA and what the tests need, but without PyTorch: the tests that need it are skipped there. `casa-deepfocus check` is
run, then the short suite (or the whole one), and one table says how many tests passed.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import os
import re
import shutil
import subprocess
import sys
import time
import xml.etree.ElementTree as ElementTree
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / ".matrix"
MINORS = (10, 11, 12)
"""Pythons 3.x that pyproject.toml allows."""

SHORT = ("check", "end_to_end", "failures", "inputs", "models_runner", "packaging", "params", "taskbuilder")
"""tests/test_<name>.py of the short suite: what differs between Pythons and their CASA, numpy and onnxruntime."""

EXTRAS = {"short": "casa,test", "whole": "casa,sim,test"}
SHOWN = ("casatools", "numpy", "scipy", "astropy", "onnxruntime")
COUNTS = ("passed", "failed", "skipped")


@dataclass
class Row:
    """The line of one Python in the table."""

    version: str
    suite: str
    seconds: float = 0.0
    counts: dict[str, int] = field(default_factory=dict)
    packages: dict[str, str] = field(default_factory=dict)
    problem: str = ""

    @property
    def right(self) -> bool:
        """Whether tests ran, and none failed."""
        return not self.problem and self.counts.get("failed", 1) == 0 and self.counts.get("passed", 0) > 0


def find_python(minor: int) -> str | None:
    """A working Python 3.<minor>: of PATH, else of pyenv."""
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"))
    installed = sorted(pyenv.glob(f"versions/3.{minor}.*/bin/python"), key=lambda path: _digits(path.parts[-3]))
    for candidate in (shutil.which(f"python3.{minor}"), *map(str, reversed(installed))):
        if candidate is None:
            continue
        # pyenv's shims are on the PATH for versions that it then does not run.
        code = f"import sys, venv, ensurepip; sys.exit(sys.version_info[:2] != (3, {minor}))"
        if subprocess.run([candidate, "-c", code], capture_output=True).returncode == 0:
            return candidate
    return None


def run_suite(minor: int, python: str, wheel: Path, suite: str) -> Row:
    """Install the wheel for one Python and run a suite with it."""
    started = time.perf_counter()
    row = Row(f"3.{minor}", suite)
    folder = ROOT / f".venv-3.{minor}"
    log = RESULTS / f"3.{minor}.log"
    junit = RESULTS / f"3.{minor}.xml"
    junit.unlink(missing_ok=True)
    own = str(folder / "bin" / "python")
    # Python compiles what is imported; to compile all of what is installed takes as long as the tests.
    pip = [own, "-m", "pip", "--disable-pip-version-check", "install", "-q", "--no-compile"]
    files = [f"tests/test_{name}.py" for name in SHORT] if suite == "short" else ["tests"]
    steps = [
        ("venv", [python, "-m", "venv", str(folder)]),
        ("pip install", [*pip, f"{wheel}[{EXTRAS[suite]}]"]),
        # An environment of an earlier run holds an earlier build of the same version.
        ("pip install", [*pip, "--no-deps", "--force-reinstall", str(wheel)]),
        ("casa-deepfocus check", [str(folder / "bin" / "casa-deepfocus"), "check"]),
        ("pytest", [own, "-m", "pytest", "-q", "-p", "no:cacheprovider", f"--junitxml={junit}", *files]),
    ]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    with log.open("w") as out:
        for name, command in steps:
            # The check looks at what was installed, not at the checkout.
            where = RESULTS if name == "casa-deepfocus check" else ROOT
            run = subprocess.run(command, cwd=where, env=environment, stdout=out, stderr=subprocess.STDOUT)
            if run.returncode:
                row.problem = f"{name} failed, see {log.relative_to(ROOT)}"
                break
    if junit.exists():
        row.counts = count(junit)
    row.packages = versions(own)
    row.seconds = time.perf_counter() - started
    return row


def count(junit: Path) -> dict[str, int]:
    """How many tests passed, failed (errors among them) and were skipped, of pytest's report."""
    suite = next(ElementTree.parse(junit).getroot().iter("testsuite"))
    tests, failures, errors, skipped = (int(suite.get(k, 0)) for k in ("tests", "failures", "errors", "skipped"))
    return {"passed": tests - failures - errors - skipped, "failed": failures + errors, "skipped": skipped}


def versions(python: str) -> dict[str, str]:
    """Versions of the packages whose version matters, in an environment."""
    code = (
        "import importlib.metadata as m, sys\n"
        f"for n in {SHOWN!r}:\n  print(n, next((d.version for d in m.distributions(name=n)), '-'))"
    )
    run = subprocess.run([python, "-c", code], capture_output=True, text=True)
    return dict(line.split() for line in run.stdout.splitlines())


def table(rows: list[Row]) -> str:
    """The rows as aligned text."""
    head = ["Python", "suite", *COUNTS, "seconds", *SHOWN]
    cells = [head]
    for row in rows:
        counts = [str(row.counts.get(name, "-")) for name in COUNTS]
        seconds = f"{row.seconds:.0f}" if row.seconds else "-"
        cells.append([row.version, row.suite, *counts, seconds, *(row.packages.get(name, "-") for name in SHOWN)])
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in cells]
    return "\n".join(lines + [f"{row.version}: {row.problem}" for row in rows if row.problem])


def build_wheel() -> Path:
    """The package as a wheel, built once: builds side by side in one checkout would disturb each other."""
    for old in RESULTS.glob("*.whl"):
        old.unlink()
    shutil.rmtree(ROOT / "build", ignore_errors=True)
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "wheel", "-q", "--no-deps", "-w", RESULTS]
    subprocess.run([*command, "."], cwd=ROOT, check=True)
    return next(RESULTS.glob("*.whl"))


def main() -> int:
    """Run the suites; 1 where a test failed, or nothing could be run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--suite", choices=list(EXTRAS), default="short")
    parser.add_argument("--ran", type=Path, help="pytest's report of this Python, which is not run again")
    args = parser.parse_args()
    RESULTS.mkdir(exist_ok=True)
    rows = []
    if args.ran:
        version = f"{sys.version_info[0]}.{sys.version_info[1]}"
        rows.append(Row(version, "whole", counts=count(args.ran), packages=versions(sys.executable)))
    found = {minor: find_python(minor) for minor in MINORS if not (args.ran and sys.version_info[1] == minor)}
    wheel = build_wheel() if any(found.values()) else Path()
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        jobs = [pool.submit(run_suite, minor, path, wheel, args.suite) for minor, path in found.items() if path]
        rows += [job.result() for job in jobs]
    rows.sort(key=lambda row: _digits(row.version))
    lines = [table(rows)]
    absent = [minor for minor, path in found.items() if path is None]
    lines += [f"3.{minor}: skipped, there is no such Python on PATH or under pyenv" for minor in absent]
    sys.stdout.write("\n".join(lines) + "\n")
    return 0 if rows and all(row.right for row in rows) else 1


def _digits(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", version))


if __name__ == "__main__":
    sys.exit(main())
