"""Our stages in the ALMA pipeline's own chain: `make test-pipeline PIPELINE=<its source>`.

An environment of its own (.venv-pipeline) gets the pipeline from a copy of its source, CASA, and this package. A small
observation is simulated, and `python -m benchmarks.almapipe` runs the chain, the XML procedure and the hook on it.
Skipped, with the reason, where there is no source or no Python 3.12, which the pipeline needs.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
NEEDED = (3, 12)

CASA = ("casatools==6.7.5.18", "casatasks==6.7.5.18")
"""The newest CASA that loads with the OpenSSL of Debian 12; without a version pip would take a newer one."""

PACKAGES = (
    "casaconfig", "casadata", "casaplotms", "casaplotserver", "numpy<2.4", "astropy", "matplotlib", "scipy",
    "cachetools", "docstring-inheritance", "intervaltree", "logutils", "mako", "pypubsub==4.0.3", "ps_mem", "pyyaml",
    "csscompressor", "jsmin", "grpcio", "protobuf", "setuptools>=77", "wheel", "six", "psutil", "packaging",
)  # fmt: skip
"""What the pipeline imports and builds with: its requirements.txt, without what only MPI and self-calibration need."""

SIMULATION = (
    "--targets", "2", "--windows", "2", "--mosaics", "0", "--executions", "1", "--channels", "24", "--antennas", "14",
    "--integrations", "6", "--corrected", "--sources", "3", "--seed", "5",
)  # fmt: skip
"""Two targets, two windows of 24 channels, one execution, 14 antennas."""

SITE = """\
import casadata
datapath = [casadata.datapath]
rundata = measurespath = casadata.datapath
data_auto_update = measures_auto_update = False
nologger = True
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Build what is needed and run; the exit status of the chain."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--source", default="", help="folder of the pipeline's source")
    parser.add_argument("--simulator", default="", help="a Python with the sim extra; that of the chain by default")
    parser.add_argument("--out", type=Path, default=Path(".pipeline"))
    parser.add_argument("--only", nargs="+", default=[], help="parts of benchmarks.almapipe")
    given = parser.parse_args(arguments)
    reason = why_not(given.source)
    if reason:
        sys.stdout.write(f"skipped: {reason}\n")
        return 0
    out = given.out.resolve()
    out.mkdir(exist_ok=True)
    python = environment(Path(given.source).resolve(), ROOT / ".venv-pipeline")
    site = out / "casasiteconfig.py"
    site.write_text(SITE, encoding="utf-8")
    settings = dict(os.environ) | {"CASASITECONFIG": str(site), "MPLBACKEND": "agg", "PYTHONPATH": str(ROOT)}
    data = out / "set"
    if not data.exists():
        simulator = given.simulator or str(python)
        subprocess.run([simulator, "-m", "sim", "archive", str(data), *SIMULATION], check=True, cwd=ROOT, env=settings)
    run = Path(tempfile.mkdtemp(prefix="run-", dir=out))
    only = ["--only", *given.only] if given.only else []
    sys.stdout.write(f"in {run}:\n")
    sys.stdout.flush()
    command = [str(python), "-m", "benchmarks.almapipe", "--set", str(data), "--out", str(run), *only]
    return subprocess.run(command, cwd=ROOT, env=settings).returncode


def why_not(source: str) -> str:
    """Why the chain cannot run here; '' where it can."""
    if sys.version_info[:2] < NEEDED:
        return f"the pipeline needs Python {'.'.join(map(str, NEEDED))}, this is {sys.version.split()[0]}"
    if not source:
        return "no source of the pipeline is given: make test-pipeline PIPELINE=<folder>"
    if not (Path(source) / "pipeline" / "infrastructure").is_dir():
        return f"PIPELINE={source!r} is no source folder of the ALMA pipeline"
    return ""


def environment(source: Path, folder: Path) -> Path:
    """The Python of an environment with the pipeline and this package in it; made once."""
    python = folder / "bin" / "python"
    ready = folder / "ready"
    if not ready.exists():
        shutil.rmtree(folder, ignore_errors=True)
        subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
        pip = [str(python), "-m", "pip", "--disable-pip-version-check", "install", "-q"]
        subprocess.run([*pip, *CASA, *PACKAGES], check=True)
        with tempfile.TemporaryDirectory() as scratch:
            copy = Path(scratch) / "source"
            shutil.copytree(source, copy, symlinks=True, ignore=shutil.ignore_patterns(".git"))
            subprocess.run([*pip, "--no-build-isolation", "--no-deps", "."], check=True, cwd=copy)
        subprocess.run([*pip, *CASA, f"{ROOT}[sim]"], check=True)
        ready.touch()
    return python


if __name__ == "__main__":
    sys.exit(main())
