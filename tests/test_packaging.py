"""What pip installs: every data file of the package, and the versions that stand in several places."""

from __future__ import annotations

from pathlib import Path

import pytest

import casa_deepfocus
from casa_deepfocus.models.runner import REBUILT

tomllib = pytest.importorskip("tomllib", reason="part of Python from 3.11 on")


@pytest.fixture
def pyproject(repository: Path) -> dict:
    return tomllib.loads((repository / "pyproject.toml").read_text())


def test_every_data_file_is_installed(repository: Path, pyproject: dict) -> None:
    root = repository / "casa_deepfocus"
    patterns = pyproject["tool"]["setuptools"]["package-data"]
    installed = {
        path
        for package, globs in patterns.items()
        for pattern in globs
        for path in (repository / package.replace(".", "/")).glob(pattern)
    }
    files = {path for path in root.rglob("*") if path.is_file() and path.suffix not in {".py", ".pyc"}}
    assert root / "xml" / "sdeepfocus.xml" in files
    # The paper's networks are too large for a wheel: a checkout has them.
    large = {path for path in files if path.parent.name in REBUILT}
    assert files - large <= installed and not large & installed


def test_every_folder_with_code_is_a_package(repository: Path) -> None:
    folders = {path.parent for path in (repository / "casa_deepfocus").rglob("*.py")}
    assert all((folder / "__init__.py").exists() for folder in folders)


def test_one_version(repository: Path, pyproject: dict) -> None:
    version = pyproject["project"]["version"]
    assert casa_deepfocus.__version__ == version
    assert f"version: {version}" in (repository / "CITATION.cff").read_text()
