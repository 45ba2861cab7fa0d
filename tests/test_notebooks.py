"""The notebooks of the documentation run, cell by cell, and find what they plant."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

FOLDER = Path(__file__).resolve().parents[1] / "docs" / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs(path):
    cells = json.loads(path.read_text("utf-8"))["cells"]
    assert not any(cell.get("outputs") for cell in cells), "kept without what one machine gave"
    names: dict[str, Any] = {}
    for cell in cells:
        if cell["cell_type"] == "code":
            exec(compile("".join(cell["source"]), f"{path.name}:{cell['id']}", "exec"), names)
    if path.stem == "arrays":
        table = names["found"].catalogue
        assert len(table) == 2 and sorted(round(float(x)) for x in table["x"]) == [40, 62]
        assert names["found"].maps["residual"].std() == pytest.approx(1e-3, rel=0.1)


def test_there_is_a_notebook():
    assert NOTEBOOKS
