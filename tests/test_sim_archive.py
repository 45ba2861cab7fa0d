"""Sets of measurement sets as the archive has them: what is in them, and what an image of them says."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("casatasks")
pytest.importorskip("casadata")

from astropy.table import Table

pytest_plugins = ("casa_fixtures",)

pytestmark = pytest.mark.casa


def test_fixture(archive: Path) -> None:
    assert len(sorted(archive.glob("*.ms"))) == 2
    assert len(Table.read(archive / "truth" / "Ridge_1" / "sources.ecsv")) == 4
