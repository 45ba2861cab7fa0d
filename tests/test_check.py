"""What `casa-deepfocus check` finds wrong, and whether the command that it names is the one that mends it."""

from __future__ import annotations

import importlib.metadata
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement

from casa_deepfocus import check, cli
from casa_deepfocus.models import runner

pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")


@pytest.fixture
def wanted(monkeypatch: pytest.MonkeyPatch) -> list[Requirement]:
    """What the package asks for, whatever version of it is installed here."""
    listed = ["casatools<6.7.6,>=6.6", "casatasks<6.7.6,>=6.6", "casashell<6.7.6,>=6.6", "onnxruntime>=1.17"]
    found = [Requirement(text) for text in listed]
    monkeypatch.setattr(check, "requirements", lambda: found)
    return found


def fake_module(folder: Path, name: str, code: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Put a package before the real one of that name, for processes that are started."""
    (folder / name).mkdir(parents=True)
    (folder / name / "__init__.py").write_text(code)
    monkeypatch.setenv("PYTHONPATH", str(folder), prepend=":")


def test_the_command_as_a_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Everything is looked at, and the exit status says whether anything is wrong."""
    pytest.importorskip("casatools")
    command = [sys.executable, "-m", "casa_deepfocus.cli", "check"]
    run = subprocess.run(command, capture_output=True, text=True, timeout=600)
    lines = run.stdout.splitlines()
    assert {line.split()[0] for line in lines[:-1]} <= {"ok", "WRONG", "mend"}
    for name in ("casa_deepfocus", "CASA:", "networks: compact", "CASA shell", "memory", "disk"):
        assert sum(name in line for line in lines) >= 1, run.stdout
    assert "hashes right" in run.stdout and "CPUExecutionProvider" in run.stdout
    wrong = sum(line.startswith("WRONG") for line in lines)
    assert run.returncode == int(wrong > 0), run.stdout
    assert lines[-1] == (f"{wrong} to mend" if wrong else "everything that the task needs is there and works")
    assert list(tmp_path.iterdir()) == []


def test_the_exit_status_is_1_where_something_is_wrong(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(check, "findings", lambda: [check.Finding("a", "good"), check.Finding("b", "bad", "mend b")])
    assert cli.main(["check"]) == 1
    assert capsys.readouterr().out == "ok     a: good\nWRONG  b: bad\n       mend it with: mend b\n1 to mend\n"
    monkeypatch.setattr(check, "findings", lambda: [check.Finding("a", "good")])
    assert cli.main(["check"]) == 0


def test_requirements_are_those_of_the_package(repository: Path) -> None:
    try:
        importlib.metadata.distribution(check.DISTRIBUTION)
    except importlib.metadata.PackageNotFoundError:
        pytest.skip("casa-deepfocus is not installed in this environment")
    names = {requirement.name for requirement in check.requirements()}
    assert {"numpy", "onnxruntime", "dask", "casatools", "casashell", "casadata"} <= names
    assert not {"torch", "pytest", "dask-jobqueue"} & names


def test_everything_that_the_package_asks_for_is_found() -> None:
    wanted = [requirement for requirement in check.requirements() if requirement.name not in check.CASA_PACKAGES]
    wrong = [str(finding) for finding in map(check.package, wanted) if finding.remedy]
    assert not wrong


@pytest.mark.parametrize(
    ("text", "version", "says", "remedy"),
    [
        ("numpy>=1.23", "2.0", "2.0", ""),
        ("numpy>=1.23", "1.20", "1.20 is too old", "pip install -U 'numpy>=1.23'"),
        ("casatools<6.7.6,>=6.6", "6.5.6.22", "is too old", "pip install -U 'casatools<6.7.6,>=6.6'"),
        ("casatools<6.7.6,>=6.6", "6.7.6.14", "newer than tested (<6.7.6,>=6.6)", ""),
        ("not-there-at-all>=1", None, "is not installed", "pip install 'not-there-at-all>=1'"),
        ("broken-package", "1.0", "cannot be imported (ValueError: planted)", "pip install -U 'broken-package'"),
    ],
)
def test_packages(
    text: str, version: str | None, says: str, remedy: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def installed(name: str) -> str:
        if version is None:
            raise importlib.metadata.PackageNotFoundError(name)
        return version

    (tmp_path / "breaks.py").write_text("raise ValueError('planted\\nmore')")
    record = tmp_path / "broken_package-1.0.dist-info"
    record.mkdir()
    (record / "METADATA").write_text("Metadata-Version: 2.1\nName: broken-package\nVersion: 1.0\n")
    (record / "top_level.txt").write_text("_breaks\nbreaks\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(importlib.metadata, "version", installed)
    finding = check.package(Requirement(text))
    assert says in finding.text
    assert finding.remedy.endswith(remedy) and bool(finding.remedy) is bool(remedy)


@pytest.mark.parametrize(
    ("code", "says", "remedy"),
    [
        (
            "raise ModuleNotFoundError(\"No module named 'casatools'\")", "No module named 'casatools'",
            "-m pip install 'casatools<6.7.6,>=6.6'",
        ),
        (
            "raise ImportError('libcrypto.so.3: version `OPENSSL_3.0.1\\' not found')", "OPENSSL_3.0.1",
            "-m pip install -U casaconfig 'casatools<6.7.6,>=6.6' 'casatasks<6.7.6,>=6.6' 'casashell<6.7.6,>=6.6'",
        ),
        ("import os; os.abort()", "status -6", "--force-reinstall casaconfig 'casatools<6.7.6,>=6.6'"),
    ],
)  # fmt: skip
@pytest.mark.usefixtures("wanted")
def test_a_casa_that_does_not_start(
    code: str, says: str, remedy: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_module(tmp_path, "casatools", code, monkeypatch)
    finding = check.casa()
    assert "does not start" in finding.text and says in finding.text and remedy in finding.remedy


@pytest.mark.casa
@pytest.mark.usefixtures("wanted")
def test_casa_without_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("casatools")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delenv("CASASITECONFIG", raising=False)
    fake_module(tmp_path, "casadata", "datapath = 'nowhere'", monkeypatch)
    monkeypatch.setattr(check.casa_data, "wheel_folder", lambda: None)
    finding = check.casa()
    assert "does not start" in finding.text and finding.remedy.endswith("pip install casadata")
    # The wheel is there, but a folder that CASA is told to fill stands before it.
    monkeypatch.setattr(check.casa_data, "wheel_folder", lambda: tmp_path)
    assert "~/.casa/data.old" in check.casa().remedy


@pytest.mark.casa
def test_casa_as_it_is(tmp_path: Path) -> None:
    casatools = pytest.importorskip("casatools")
    finding = check.casa()
    assert finding.remedy == "" and finding.text.startswith(casatools.version_string())
    assert Path(finding.text.split("data in ")[1].split(" (")[0], "geodetic").is_dir()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (lambda folder: (folder / "pa.onnx").write_bytes(b"short"), r"pa.onnx is damaged"),
        (lambda folder: (folder / "manifest.json").write_text("{"), "manifest.json is damaged"),
        (lambda folder: shutil.rmtree(folder), "manifest.json cannot be read"),
    ],
)
def test_damaged_networks(damage: Any, says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = Path(shutil.copytree(runner.find_folder(), tmp_path / "models"))
    damage(folder)
    monkeypatch.setattr(runner, "find_folder", lambda models: folder)
    finding = check.networks()
    assert says in finding.text and "pip install --force-reinstall --no-deps" in finding.remedy


@pytest.mark.usefixtures("wanted")
def test_without_onnxruntime(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    finding = check.networks()
    assert "onnxruntime is needed" in finding.text and finding.remedy.endswith("pip install 'onnxruntime>=1.17'")


def test_the_shells_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    startup = tmp_path / "startup.py"
    monkeypatch.setattr(sys, "prefix", str(tmp_path))
    monkeypatch.setattr(cli, "startup_file", lambda: startup)
    assert check.shell().remedy == "casa-deepfocus install"
    cli.install(startup)
    assert check.shell().text.endswith(str(startup)) and not check.shell().remedy
    placed = tmp_path / "etc" / "ipython" / "startup" / check.STARTUP_NAME
    placed.parent.mkdir(parents=True)
    placed.write_text("# of last year")
    assert "another version" in check.shell().text and "--force-reinstall" in check.shell().remedy
    shutil.copy(Path(check.__file__).with_name(check.STARTUP_NAME), placed)
    assert check.shell() == check.Finding("CASA shell", f"loads the task by {placed}")


def test_memory_and_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(check, "LEAST_MEMORY", 1e9)
    monkeypatch.setattr(check, "LEAST_DISK", 1e9)
    assert [bool(finding.remedy) for finding in check.machine()] == [True, True]
    monkeypatch.setattr(check, "LEAST_MEMORY", 0.0)
    monkeypatch.setattr(check, "LEAST_DISK", 0.0)
    assert [bool(finding.remedy) for finding in check.machine()] == [False, False]


def test_the_package_is_installed_again_from_where_it_came(monkeypatch: pytest.MonkeyPatch) -> None:
    class Distribution:
        def __init__(self, record: dict[str, Any] | None) -> None:
            self.record = record

        def read_text(self, name: str) -> str | None:
            return None if self.record is None else json.dumps(self.record)

    for record, source in (({"url": "file:///src/it"}, "/src/it"), (None, "casa-deepfocus")):
        monkeypatch.setattr(importlib.metadata, "distribution", lambda name, record=record: Distribution(record))
        assert check._reinstall().endswith(f"--no-deps {source}")
