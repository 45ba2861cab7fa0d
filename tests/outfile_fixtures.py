"""Things that count as products of the task, without the work."""

from __future__ import annotations

import json
from pathlib import Path

from casa_deepfocus.casa import outfiles


def make_product(path: Path, text: str = "old") -> None:
    """A file or folder with a product's mark; its text is the file's end, or that of the table.dat in it."""
    ending = next(ending for ending in outfiles.SUFFIXES + outfiles.IMAGES if path.name.endswith(ending))
    if ending in outfiles.MARKS:
        path.write_bytes(outfiles.MARKS[ending] + text.encode())
        return
    path.mkdir()
    (path / "table.dat").write_text(text)
    (path / outfiles.FOLDER_MARK).write_text(json.dumps({"made_by": outfiles.MAKER, "name": path.name}))
