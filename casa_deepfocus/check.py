"""Whether everything that the task needs is there and works: what ``casa-deepfocus check`` tells.

Nothing is changed, and CASA is started in a process of its own: it may crash, and writes logs.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import json
import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from casa_deepfocus import __version__, casa_data
from casa_deepfocus.errors import DeepFocusError

DISTRIBUTION = "casa-deepfocus"
CASA_PACKAGES = ("casaconfig", "casatools", "casatasks", "casashell")
CASA_SECONDS = 300
"""[s] After which a starting CASA hangs: it takes 2 s, a minute from a slow network disk."""

LEAST_MEMORY = 2.0
"""[GiB] A cube of 360 x 360 x 128 takes 1.1 GiB (docs/results.md), CASA 0.4 GiB."""

LEAST_DISK = 1.0
"""[GiB] tclean's images at twice the field and the products of such a cube take 0.7 GiB."""

PIP = f"{sys.executable} -m pip install"
STARTUP_NAME = "50-casa-deepfocus.py"

START_CASA = """
import json, os
from casaconfig import config
config.logfile = os.devnull
from casa_deepfocus import casa_data
wheel = casa_data.provide()
import casatools, casatasks
found = {"version": casatools.version_string(), "data": casatools.ctsys.resolve("geodetic/IERSeop2000"), "wheel": wheel}
print("FOUND " + json.dumps(found))
"""


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at: what was found, and the command that mends it where it is wrong."""

    name: str
    text: str
    remedy: str = ""

    def __str__(self) -> str:
        if not self.remedy:
            return f"ok     {self.name}: {self.text}"
        return f"WRONG  {self.name}: {self.text}\n       mend it with: {self.remedy}"


def findings() -> Iterator[Finding]:
    """Everything that is looked at, in the order in which it should be mended."""
    yield Finding("casa_deepfocus", f"{__version__} in {Path(__file__).parent}, Python {platform.python_version()}")
    for requirement in requirements():
        yield package(requirement)
    yield casa()
    yield networks()
    yield shell()
    yield from machine()


def requirements() -> list[Any]:
    """What the package asks for, CASA included, as `packaging.requirements.Requirement`; from its own metadata."""
    from packaging.requirements import Requirement

    try:
        texts = importlib.metadata.requires(DISTRIBUTION) or []
    except importlib.metadata.PackageNotFoundError:
        return []
    wanted = [Requirement(text) for text in texts]
    return [r for r in wanted if r.marker is None or r.marker.evaluate({"extra": "casa"})]


def module_of(distribution: str) -> str:
    """The module under which a package is imported (pyyaml: yaml), by what its installation says; else its name."""
    try:
        installed = importlib.metadata.distribution(distribution)
    except importlib.metadata.PackageNotFoundError:
        return distribution
    named = (installed.read_text("top_level.txt") or "").split()
    modules = named or [Path(file.parts[0]).stem for file in installed.files or () if file.suffix == ".py"]
    public = [module for module in modules if module.isidentifier() and not module.startswith("_")]
    return distribution if distribution in public or not public else public[0]


def package(requirement: Any) -> Finding:
    """Whether one package is there, old enough and new enough, and can be imported."""
    name = requirement.name
    install, upgrade = (f"{PIP} {how}'{name}{requirement.specifier}'" for how in ("", "-U "))
    module = module_of(name)
    problem = "" if name in CASA_PACKAGES else _import(module)
    try:
        version = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        # onnxruntime-gpu is imported as onnxruntime; a monolithic CASA has no metadata for some of its parts.
        there = importlib.util.find_spec(module) if module not in sys.modules else sys.modules[module]
        if there is None or problem:
            return Finding(name, "is not installed", install)
        return Finding(name, "there, of unknown version")
    if problem:
        return Finding(name, f"{version} cannot be imported ({problem})", upgrade)
    limits = [limit for limit in requirement.specifier if not limit.contains(version, prereleases=True)]
    if any(limit.operator in (">=", ">") for limit in limits):
        return Finding(name, f"{version} is too old", upgrade)
    # Too new is wrong only where it does not work, which is looked at when it is used.
    return Finding(name, version + (f", newer than tested ({requirement.specifier})" if limits else ""))


def casa() -> Finding:
    """Which CASA starts, and with which data."""
    path = os.pathsep.join([str(Path(__file__).parents[1]), *filter(None, [os.environ.get("PYTHONPATH")])])
    command = [sys.executable, "-c", START_CASA]
    try:
        run = subprocess.run(
            command, env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True, timeout=CASA_SECONDS
        )
    except subprocess.TimeoutExpired:
        return Finding("CASA", f"does not start within {CASA_SECONDS} s", f"{sys.executable} -m casashell --log2term")
    answers = [line for line in run.stdout.splitlines() if line.startswith("FOUND ")]
    if run.returncode or not answers:
        lines = [line.strip() for line in run.stderr.splitlines() if line.strip()]
        problem = lines[-1] if lines else f"it ended with status {run.returncode}"
        return Finding("CASA", f"does not start ({problem})", _mend_casa(run.stderr))
    found = json.loads(answers[-1].removeprefix("FOUND "))
    if not Path(found["data"]).exists():
        return Finding("CASA", f"{found['version']} has no Earth orientation data", _mend_casa("data"))
    where = Path(found["data"]).parents[1]
    site = Path(casa_data.__file__).with_name("casasiteconfig.py")
    note = f" (of the wheel casadata; for scripts of your own set CASASITECONFIG={site})" if found["wheel"] else ""
    return Finding("CASA", f"{found['version']}, data in {where}{note}")


def _mend_casa(error: str) -> str:
    """The command for a CASA that does not start, by what it says."""
    bounds = {r.name: f"'{r.name}{r.specifier}'" for r in requirements()}
    parts = " ".join(bounds.get(name, name) for name in CASA_PACKAGES)
    missing = re.search(r"No module named '(\w+)'", error)
    if missing:
        return f"{PIP} {bounds.get(missing[1], parts)}"
    if re.search(r"version `\w+' not found|GLIBC|libssl|libcrypto", error):
        return f"{PIP} -U {parts}"
    if re.search(r"data|measures|Readme|lock", error, re.IGNORECASE):
        if casa_data.wheel_folder() is None:
            return f"{PIP} casadata"
        return (
            "mv ~/.casa/data ~/.casa/data.old (or what measurespath in ~/.casa/config.py names): the wheel's data are "
            "used then. With a network, an empty folder in its place is filled by CASA"
        )
    return f"{PIP} --force-reinstall {parts}"


def networks() -> Finding:
    """Whether the networks that are shipped have their hashes, load, and answer; and what can run them."""
    from casa_deepfocus.models import runner

    try:
        info = runner.load_networks("", "auto").info
        providers = ", ".join(runner.available_providers())
    except ImportError as exc:
        bounds = next((str(r) for r in requirements() if r.name == "onnxruntime"), "onnxruntime")
        return Finding("networks", str(exc), f"{PIP} '{bounds}'")
    except DeepFocusError as exc:
        return Finding("networks", str(exc), _reinstall())
    text = "{preset} in {folder}, hashes right, tried on a stamp, run on {device} with device='auto'".format(**info)
    return Finding("networks", f"{text}; onnxruntime {info['onnxruntime']} has {providers}")


def shell() -> Finding:
    """Whether something brings the task into the CASA shell."""
    from casa_deepfocus import cli, startup_file

    own = Path(__file__).with_name(STARTUP_NAME)
    placed = Path(sys.prefix, "etc", "ipython", "startup", STARTUP_NAME)
    if placed.is_file():
        if placed.read_bytes() == own.read_bytes():
            return Finding("CASA shell", f"loads the task by {placed}")
        return Finding("CASA shell", f"{placed} is of another version", _reinstall())
    try:
        path = cli.startup_file()
    except DeepFocusError as exc:
        return Finding("CASA shell", str(exc), f"{PIP} casashell")
    if startup_file.is_installed(path):
        return Finding("CASA shell", f"loads the task by {path}")
    return Finding("CASA shell", f"nothing loads the task: neither {placed} nor {path}", f"{DISTRIBUTION} install")


def machine() -> Iterator[Finding]:
    """Memory, and the disk of the current folder."""
    import psutil

    memory = psutil.virtual_memory().available / 2**30
    remedy = f"closing other programs, until {LEAST_MEMORY:g} GiB are free"
    yield Finding("memory", f"{memory:.1f} GiB free", remedy if memory < LEAST_MEMORY else "")
    folder = os.getcwd()
    disk = shutil.disk_usage(folder).free / 2**30
    text, remedy = f"{disk:.1f} GiB free in {folder}", ""
    if not os.access(folder, os.W_OK):
        text, remedy = f"nothing can be written in {folder}", "cd to a folder of your own"
    elif disk < LEAST_DISK:
        remedy = f"making {LEAST_DISK:g} GiB free, or cd to a folder on another disk"
    yield Finding("disk", text, remedy)


def _import(module: str) -> str:
    """Import a module; the first line of what went wrong, or ''."""
    try:
        importlib.import_module(module)
    except Exception as exc:  # a broken package may raise anything
        return (f"{type(exc).__name__}: {exc}").splitlines()[0]
    return ""


def _reinstall() -> str:
    """The command that installs this package again, from where pip took it."""
    source = DISTRIBUTION
    try:
        record = importlib.metadata.distribution(DISTRIBUTION).read_text("direct_url.json")
        source = json.loads(record or "{}").get("url", source)
    except importlib.metadata.PackageNotFoundError:
        source = str(Path(__file__).parents[1])
    return f"{PIP} --force-reinstall --no-deps {source.removeprefix('file://')}"
