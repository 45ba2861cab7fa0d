"""Results of an evaluation, field by field, on disk: a killed run goes on where it stopped.

One line of JSON a field, appended when the field is done; numbers keep all their digits. A last line
that was cut off is dropped.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from astropy.table import Table

from casa_deepfocus.errors import ParameterError, ProductError


@dataclass(frozen=True)
class FieldResult:
    """One field.

    Attributes
    ----------
    field : int
    empty : bool, simulated without sources
    truth, catalogue : astropy Table; None when the field failed
    seconds : float, of the search
    error : str, why the field failed; '' when it did not
    """

    field: int
    empty: bool
    truth: Table | None
    catalogue: Table | None
    seconds: float
    error: str = ""


def encode(result: FieldResult) -> str:
    """One line of JSON."""
    record: dict[str, Any] = {"field": result.field, "empty": result.empty, "seconds": result.seconds}
    if result.error:
        record["error"] = result.error
    for name in ("truth", "catalogue"):
        table = getattr(result, name)
        if table is not None:
            record[name] = _encode_table(table)
    return json.dumps(record)


def _encode_table(table: Table) -> dict[str, Any]:
    columns = {}
    for name in table.colnames:
        column = table[name]
        values = column.filled(np.nan) if hasattr(column, "filled") and column.dtype.kind == "f" else column
        unit = str(column.unit) if column.unit is not None else ""
        columns[name] = {"unit": unit, "dtype": column.dtype.str, "data": np.asarray(values).tolist()}
    meta = {key: value.item() if isinstance(value, np.generic) else value for key, value in table.meta.items()}
    return {"meta": {k: v for k, v in meta.items() if isinstance(v, (str, int, float, bool))}, "columns": columns}


def decode(line: str) -> FieldResult:
    """The result that `encode` wrote."""
    record = json.loads(line)
    tables = [_decode_table(record[name]) if name in record else None for name in ("truth", "catalogue")]
    return FieldResult(record["field"], record["empty"], *tables, record["seconds"], record.get("error", ""))


def _decode_table(record: dict[str, Any]) -> Table:
    table = Table(meta=record["meta"])
    for name, column in record["columns"].items():
        table[name] = np.array(column["data"], dtype=np.dtype(column["dtype"]))
        if column["unit"]:
            table[name].unit = column["unit"]
    return table


class Store:
    """Results in a file, or in memory when there is none.

    Parameters
    ----------
    folder : Path or None
    recipe : dict of plain values, what the results depend on; a run with another recipe does not go on
    resume : bool, go on with what is there
    """

    def __init__(self, folder: Path | None, recipe: dict[str, Any], *, resume: bool = False) -> None:
        self._lines: list[str] = []
        self._path: Path | None = None
        if folder is None:
            if resume:
                raise ParameterError("--resume", True, "there is no folder to go on in", "Give --out")
            return
        self._path = folder / "fields.jsonl"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._begin(folder / "run.json", recipe, resume)
        except OSError as error:
            raise ProductError(f"--out={str(folder)!r}: cannot be written ({error})") from error

    def _begin(self, description: Path, recipe: dict[str, Any], resume: bool) -> None:
        path = self._path
        text = json.dumps(recipe, indent=1, sort_keys=True) + "\n"
        if path is not None and path.exists():
            if not resume:
                raise ProductError(f"{path} exists; go on with --resume, or choose another folder")
            if description.exists() and (old := json.loads(description.read_text("utf-8"))) != json.loads(text):
                differ = sorted(k for k in old.keys() | recipe.keys() if old.get(k) != recipe.get(k))
                raise ParameterError("--resume", True, f"{path} was made with other {', '.join(differ)}")
            whole = path.read_bytes()
            with path.open("r+b") as stream:
                stream.truncate(whole.rfind(b"\n") + 1)
        elif path is not None:
            path.touch()
        description.write_text(text, encoding="utf-8")

    def add(self, result: FieldResult) -> None:
        """Keep one field."""
        line = encode(result)
        if self._path is None:
            self._lines.append(line)
            return
        try:
            with self._path.open("a", encoding="utf-8") as stream:
                stream.write(line + "\n")
        except OSError as error:
            raise ProductError(f"{self._path}: cannot be written ({error})") from error

    def results(self) -> Iterable[FieldResult]:
        """The fields, one by one, in the order of arrival."""
        if self._path is None:
            yield from map(decode, self._lines)
            return
        with self._path.open(encoding="utf-8") as stream:
            for line in stream:
                yield decode(line)

    def done(self) -> set[int]:
        """Fields that need not be searched again."""
        return {result.field for result in self.results() if not result.error}


def join(tables: list[Table]) -> Table:
    """One table of many, columns as in the first with each column (missing values NaN or ''), meta what all share."""
    names = list(dict.fromkeys(name for table in tables for name in table.colnames))
    whole = Table()
    for name in names:
        known = [table[name] for table in tables if name in table.colnames]
        filler = _filler(known)
        parts = [
            np.asarray(table[name]) if name in table.colnames else np.full(len(table), filler)
            for table in tables
            if len(table)
        ]
        whole[name] = np.concatenate(parts) if parts else np.asarray(known[0])
        whole[name].unit = next((c.unit for c in known if c.unit is not None), None)
    first = tables[0].meta if tables else {}
    whole.meta.update({k: v for k, v in first.items() if all(t.meta.get(k) == v for t in tables)})
    return whole


def _filler(columns: list[Any]) -> Any:
    kind = columns[0].dtype.kind
    return "" if kind in "US" else np.nan if kind == "f" else -1
