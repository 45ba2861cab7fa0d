"""Results of an evaluation, field by field, on disk: a killed run goes on where it stopped.

One line of JSON a field, appended when the field is done; numbers keep all their digits. A last line
that was cut off is dropped.
"""

from __future__ import annotations

import json
from collections.abc import Container, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from astropy.table import Table
from numpy.typing import NDArray

from casa_deepfocus.errors import DataError, ParameterError, ProductError


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
    memory : float [MiB], peak of the search; NaN when not measured
    """

    field: int
    empty: bool
    truth: Table | None
    catalogue: Table | None
    seconds: float
    error: str = ""
    memory: float = float("nan")


def encode(result: FieldResult) -> str:
    """One line of JSON."""
    record: dict[str, Any] = {"field": result.field, "empty": result.empty, "seconds": result.seconds}
    if result.error:
        record["error"] = result.error
    if result.memory == result.memory:
        record["memory"] = result.memory
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

    def records(self) -> Iterator[dict[str, Any]]:
        """The fields as plain values, one by one, in the order of arrival: what `encode` wrote."""
        if self._path is None:
            yield from map(json.loads, self._lines)
            return
        with self._path.open(encoding="utf-8") as stream:
            yield from map(json.loads, stream)

    def done(self) -> set[int]:
        """Fields that need not be searched again."""
        return {record["field"] for record in self.records() if "error" not in record}


@dataclass(frozen=True)
class Collected:
    """What a store holds of the fields asked for.

    Attributes
    ----------
    truth, catalogue : astropy Table, of all fields, in their order
    fields : (k,) int64, those with sources
    n_fields, n_empty : int, searched, and of those without sources
    seconds : float, mean
    memory : float [MiB], highest; NaN when not measured
    failed : dict, field -> why
    """

    truth: Table
    catalogue: Table
    fields: NDArray[np.int64]
    n_fields: int
    n_empty: int
    seconds: float
    memory: float
    failed: dict[int, str]


def collect(store: Store, wanted: Container[int]) -> Collected:
    """Join the fields `wanted` of a store.

    Raises
    ------
    DataError
        When none of them could be searched.
    """
    # A field that failed may stand there again, from a later run.
    failed: dict[int, str] = {}
    places = {}
    for number, record in enumerate(store.records()):
        if record["field"] in wanted and "error" in record:
            failed[record["field"]] = record["error"]
        elif record["field"] in wanted:
            places[number] = record["field"]
    failed = {field: failed[field] for field in sorted(failed.keys() - set(places.values()))}
    if not places:
        why = f"; field {next(iter(failed))}: {next(iter(failed.values()))}" if failed else ""
        raise DataError(f"no field could be searched{why}")
    truths, catalogues, fields, seconds, memory = Joiner(), Joiner(), [], [], []
    for number, record in enumerate(store.records()):
        if number in places:
            if truths.add(record["truth"]):
                fields.append(record["field"])
            catalogues.add(record["catalogue"])
            seconds.append(record["seconds"])
            memory.append(record.get("memory", np.nan))
    return Collected(
        truth=_sorted(truths.table()),
        catalogue=_sorted(catalogues.table()),
        fields=np.sort(np.array(fields, dtype=np.int64)),
        n_fields=len(places),
        n_empty=len(places) - len(fields),
        seconds=float(np.mean(seconds)),
        memory=float(np.max(memory)),
        failed=failed,
    )


def _sorted(table: Table) -> Table:
    # Fields arrive in the order of their ends.
    return table[np.argsort(table["field"], kind="stable")]


class Joiner:
    """One table of many, column by column, so that 1000 fields take no more memory than their numbers.

    Columns are those of any table (missing values NaN, '' or -1), the meta is what all share.
    """

    def __init__(self) -> None:
        self._columns: dict[str, list[Any]] = {}
        self._kinds: dict[str, np.dtype] = {}
        self._units: dict[str, str] = {}
        self._meta: dict[str, Any] | None = None
        self._rows = 0

    def add(self, record: dict[str, Any]) -> int:
        """Append a table as `encode` writes it; returns the number of its rows."""
        size = len(next(iter(record["columns"].values()))["data"]) if record["columns"] else 0
        for name, column in record["columns"].items():
            values = self._columns.setdefault(name, [])
            kind = np.dtype(column["dtype"])
            self._kinds[name] = np.promote_types(self._kinds[name], kind) if name in self._kinds else kind
            values += [_filler(kind)] * (self._rows - len(values)) + column["data"]
            if column["unit"]:
                self._units.setdefault(name, column["unit"])
        self._rows += size
        kept = record["meta"] if self._meta is None else self._meta.items() & record["meta"].items()
        self._meta = dict(kept)
        return size

    def table(self) -> Table:
        """The whole."""
        whole = Table(meta=self._meta or {})
        for name, values in self._columns.items():
            kind = self._kinds[name]
            whole[name] = np.array(values + [_filler(kind)] * (self._rows - len(values)), dtype=kind)
            if name in self._units:
                whole[name].unit = self._units[name]
        return whole


def _filler(kind: np.dtype) -> Any:
    return "" if kind.kind in "US" else np.nan if kind.kind == "f" else False if kind.kind == "b" else -1
