"""The matrix of Pythons: what it counts, what it calls right, and that what it names exists."""

from __future__ import annotations

import sys
from pathlib import Path

import matrix
import pytest

REPORT = '<testsuites><testsuite name="pytest" errors="1" failures="2" skipped="3" tests="10" time="1.5"/></testsuites>'


def test_counts_are_those_of_pytest(tmp_path: Path) -> None:
    (tmp_path / "report.xml").write_text(REPORT)
    assert matrix.count(tmp_path / "report.xml") == {"passed": 4, "failed": 3, "skipped": 3}


@pytest.mark.parametrize(
    ("counts", "problem", "right"),
    [
        ({"passed": 5, "failed": 0, "skipped": 1}, "", True),
        ({"passed": 5, "failed": 1, "skipped": 1}, "pytest failed", False),
        ({"passed": 0, "failed": 0, "skipped": 9}, "", False),
        ({}, "pip install failed", False),
    ],
)
def test_a_version_is_right_where_tests_passed_and_none_failed(
    counts: dict[str, int], problem: str, right: bool
) -> None:
    row = matrix.Row("3.10", "short", 12.0, counts, {"numpy": "2.2.6"}, problem)
    assert row.right is right
    head, line, *rest = matrix.table([row]).splitlines()
    assert head.split()[:5] == ["Python", "suite", "passed", "failed", "skipped"]
    assert line.split()[:3] == ["3.10", "short", str(counts.get("passed", "-"))] and "2.2.6" in line
    assert rest == ([f"3.10: {problem}"] if problem else [])


def test_pythons_are_looked_for_and_tried(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.setenv("PYENV_ROOT", str(tmp_path))
    minor = sys.version_info[1]
    assert matrix.find_python(minor) is None
    # A shim of pyenv that runs nothing, and versions that sort as numbers do.
    (tmp_path / "bin").mkdir()
    shim = tmp_path / "bin" / f"python3.{minor}"
    shim.write_text("#!/bin/sh\nexit 127\n")
    shim.chmod(0o755)
    for patch in (9, 10):
        folder = tmp_path / "versions" / f"3.{minor}.{patch}" / "bin"
        folder.mkdir(parents=True)
        (folder / "python").symlink_to(sys.executable)
    assert matrix.find_python(minor) == str(tmp_path / "versions" / f"3.{minor}.10" / "bin" / "python")


def test_the_short_suite_exists(repository: Path) -> None:
    assert all((repository / "tests" / f"test_{name}.py").is_file() for name in matrix.SHORT)
    text = (repository / "pyproject.toml").read_text()
    assert all(f"Python :: 3.{minor}" in text for minor in matrix.MINORS)
