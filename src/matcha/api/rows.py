"""Rows from a file: JSON (a list of objects, or one a line), CSV with a header, Parquet."""

from __future__ import annotations

import csv
import io
import json
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from matcha.errors import BadInput

_KINDS = "Name a file of rows: JSON or CSV in UTF-8, or Parquet."
_SHAPE = 'Write rows as [{"column": 1.5}]'
_CELL = 2**31 - 1  # characters of a CSV cell; Python's own limit is 131072
# Values as they are, where pandas would round, and make floats of whole numbers beside missing ones. The
# columns that hold the index of a pandas frame are left out, as pandas does.
_PARQUET = """
import base64, json, sys
import pyarrow.parquet as parquet

def plain(value):
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    return value.isoformat() if hasattr(value, "isoformat") else str(value)

table = parquet.ParquetFile(sys.argv[1]).read()
index = (table.schema.pandas_metadata or {}).get("index_columns", ())
table = table.drop_columns([name for name in table.column_names if name in index])
if len(set(table.column_names)) < len(table.column_names):
    sys.exit("A column is there twice.")
json.dump(table.to_pylist(maps_as_pydicts="strict"), sys.stdout, default=plain)
"""


def from_file(path: Path, python: Callable[[], Path]) -> list[dict[str, Any]]:
    """Raises BadInput for a file that is not there, not readable, or not of a known kind.

    `python` gives an interpreter with pyarrow, asked for only to read Parquet.
    """
    readers = {".json": _json, ".jsonl": _json, ".ndjson": _json, ".csv": _csv}
    if not path.is_file():
        raise BadInput(f"There is no file {path}.", resolution=_KINDS)
    if path.suffix == ".parquet":
        return _parquet(path, python())
    if path.suffix not in readers:
        raise BadInput(f"{path.name}: not a .json, .jsonl, .csv or .parquet file.", resolution=_KINDS)
    try:
        return readers[path.suffix](path.read_bytes().decode("utf-8-sig"), path.name)
    except (OSError, UnicodeDecodeError) as error:
        raise BadInput(f"{path.name} cannot be read: {error}", resolution=_KINDS) from error


def from_json(text: str, where: str = "the input") -> list[dict[str, Any]]:
    """Raises BadInput where `text` is not rows."""
    return _json(text, where)


def _json(text: str, where: str) -> list[dict[str, Any]]:
    try:
        data = json.loads(text, object_pairs_hook=_once)
    except json.JSONDecodeError as error:
        data = _lines(text, where, error)
    if isinstance(data, dict):
        data = [data]
    if isinstance(data, list) and data and all(isinstance(row, list) for row in data):
        data = [{str(n): value for n, value in enumerate(row)} for row in data]  # rows of a tensor
    if not isinstance(data, list) or not all(isinstance(row, dict) for row in data):
        raise BadInput(f"{where}: expected a list of objects, one a row.", resolution=_SHAPE)
    return data


def _lines(text: str, where: str, first: json.JSONDecodeError) -> list[Any]:
    try:
        return [json.loads(line, object_pairs_hook=_once) for line in text.split("\n") if line.strip()]
    except json.JSONDecodeError:
        raise BadInput(f"{where}: not JSON: {first}", resolution=_SHAPE) from first


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object of JSON. Raises BadInput for a name that stands there twice: one value would be lost."""
    found = dict(pairs)
    if len(found) != len(pairs):
        raise _twice([name for name, _ in pairs])
    return found


def _twice(names: Sequence[str]) -> BadInput:
    double = next(name for name in names if list(names).count(name) > 1)
    return BadInput(
        f'The column "{double}" is given twice.', resolution="Give each column one name of its own."
    )


def _csv(text: str, where: str) -> list[dict[str, Any]]:
    reader = csv.DictReader(io.StringIO(text, newline=""), strict=True)
    usual = csv.field_size_limit(_CELL)
    try:
        found, header = list(reader), list(reader.fieldnames or ())
    except csv.Error as error:
        raise BadInput(
            f"{where}: line {reader.line_num}: {error}", resolution=f"Correct that line of {where}."
        ) from error
    finally:
        csv.field_size_limit(usual)
    if len(set(header)) < len(header):
        raise _twice(header)
    for number, row in enumerate(found, 1):
        if None in row or None in row.values():
            raise BadInput(
                f"{where}: row {number} has another number of values than the header.",
                resolution=f"Give that row {len(header)} values.",
            )
    return [dict(row) for row in found]


def _parquet(path: Path, python: Path) -> list[dict[str, Any]]:
    done = subprocess.run(
        [str(python), "-c", _PARQUET, str(path)], capture_output=True, text=True, timeout=300, check=False
    )
    if done.returncode:
        raise BadInput(
            f"{path.name} cannot be read as Parquet.",
            details=done.stderr.strip().rpartition("\n")[2],
            resolution=_KINDS,
        )
    return _json(done.stdout, path.name)
