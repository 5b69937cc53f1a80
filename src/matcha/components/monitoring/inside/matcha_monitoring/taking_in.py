"""Sealed spool files -> Parquet. Crash-only: every step can be done again with the same result.

A sealed file never changes and its Parquet files are named by it, so a run that was killed is repeated
over what it left, file by file, and nothing is lost or doubled. It goes once the object store, where there is
one, has what was made of it.

Columns: the inputs by their names, the outputs as `out:NAME`, and `_id` (request), `_row` (row within it),
`_time` (Unix seconds). An input whose name could be taken for one of those is `in:NAME`.
"""

from __future__ import annotations

import contextlib
import datetime
import hashlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson
import pyarrow as pa
import pyarrow.parquet as pq

from . import layout
from .kept import FOLDERS, Away, Kept
from .settings import Rules

PART_ROWS = 20_000
PART_BYTES = 32 * 2**20
WIDEST = 512  # tensors with more values a row (images, embeddings) are kept as JSON text
TRIES = 5
ID, ROW, TIME, OUT, IN = "_id", "_row", "_time", "out:", "in:"

Group = tuple[str, str, str]
Columns = dict[str, list[Any]]


class Unreadable(ValueError):
    """A captured line that does not hold what it says."""


def take_in(data: Path, kept: Kept) -> int:
    """Take in every sealed file; the number of lines that could not be read. Raises Away."""
    return sum(_take_in_file(data, path, kept) for path in layout.sealed(data))


def _take_in_file(data: Path, path: Path, kept: Kept) -> int:
    if _tried_too_often(path):
        _set_aside(path)
        return sum(1 for _ in (path.parent / "bad" / path.name).open("rb"))
    unreadable = 0
    for number, lines in enumerate(_chunks(path)):
        parts, bad = _write_chunk(data, int(path.stem), number, lines)
        unreadable += bad
        _put(kept, parts)
    path.unlink()
    _at_work.clear()
    _tries(path).unlink(missing_ok=True)
    return unreadable


def _put(kept: Kept, parts: list[Path]) -> None:
    try:
        kept.put(parts)
    except Away:
        forgive()
        raise


def _tries(path: Path) -> Path:
    return path.with_suffix(".tries")


_at_work: list[Path] = []  # the file being taken in, if any


def _tried_too_often(path: Path) -> bool:
    """A file that ends the process each time must not hold up the others for ever."""
    with _tries(path).open("ab") as file:
        file.write(b".")
        tried = file.tell()
    _at_work[:] = [path]
    return tried > TRIES


def forgive() -> None:
    """Take the try under way back: the process ends for a reason that is not the file's."""
    for path in _at_work:
        with contextlib.suppress(OSError), _tries(path).open("rb+") as file:
            file.truncate(max(0, file.seek(0, os.SEEK_END) - 1))


def _set_aside(path: Path) -> None:
    bad = path.parent / "bad"
    bad.mkdir(exist_ok=True)
    path.replace(bad / path.name)
    _tries(path).unlink(missing_ok=True)


def _chunks(path: Path) -> Iterator[list[bytes]]:
    """Lines in pieces that fit into memory; the same pieces every time."""
    lines: list[bytes] = []
    size = 0
    with path.open("rb") as file:
        for line in file:
            lines.append(line)
            size += len(line)
            if len(lines) >= PART_ROWS or size >= PART_BYTES:
                yield lines
                lines, size = [], 0
    if lines:
        yield lines


def _write_chunk(data: Path, seq: int, chunk: int, lines: list[bytes]) -> tuple[list[Path], int]:
    """The files that were made, and the number of lines that could not be read."""
    tables: dict[Group, _Table] = {}
    seen: set[bytes] = set()
    unreadable = 0
    for line in lines:
        digest = hashlib.blake2b(line, digest_size=16).digest()
        if digest in seen:  # a sender that got no answer sends again
            continue
        seen.add(digest)
        try:
            captured = orjson.loads(line)
            columns = flatten(captured)
        except (
            Unreadable,
            ValueError,
            TypeError,
            LookupError,
            AttributeError,
            OverflowError,
            RecursionError,
        ):
            unreadable += 1
            continue
        tables.setdefault(_group(captured), _Table()).add(columns, int(captured["n"]))
    parts = [
        _write(data, group, f"{seq:012d}-{chunk:06d}{number:06d}-{table.rows}.parquet", table)
        for number, (group, table) in enumerate(tables.items())
    ]
    return parts, unreadable


def _group(line: dict[str, Any]) -> Group:
    day = datetime.datetime.fromtimestamp(float(line["t"]), datetime.timezone.utc)
    return line["d"], line["v"], day.strftime("%Y-%m-%d")


class _Table:
    """Rows of requests that need not have the same columns."""

    def __init__(self) -> None:
        self.rows = 0
        self.columns: Columns = {}

    def add(self, columns: Columns, rows: int) -> None:
        for name in columns:
            if name not in self.columns:
                self.columns[name] = [None] * self.rows
        for name, values in self.columns.items():
            values.extend(columns.get(name) or [None] * rows)
        self.rows += rows


def flatten(line: dict[str, Any]) -> Columns:
    """One request as columns. Raises Unreadable where shapes and data do not agree."""
    rows = int(line["n"])
    columns: Columns = {}
    for prefix, tensors in (("", line["in"]), (OUT, line["out"])):
        for name, datatype, shape, values in tensors:
            columns.update(_tensor(prefix, str(name), str(datatype), shape, values, rows))
    if not columns:
        raise Unreadable("no tensors")
    columns[ID] = [line["id"]] * rows
    columns[ROW] = list(range(rows))
    columns[TIME] = [float(line["t"])] * rows
    return columns


def _tensor(prefix: str, name: str, datatype: str, shape: Any, values: Any, rows: int) -> Columns:
    flat = list(_leaves(values))
    if not flat or len(flat) % rows or (shape and shape[0] != rows):
        raise Unreadable(f"{name}: {len(flat)} values for {rows} rows")
    width = len(flat) // rows
    stem = prefix + name if prefix or not name.startswith(("_", OUT, IN)) else IN + name
    convert = _CONVERT.get(datatype.rstrip("0123456789"), str)
    values = [None if v is None else convert(v) for v in flat]
    if width == 1:
        return {stem: values}
    if width > WIDEST:
        texts = (orjson.dumps(values[i * width : (i + 1) * width]).decode() for i in range(rows))
        return {stem: list(texts)}
    return {f"{stem}[{k}]": values[k::width] for k in range(width)}


def _leaves(values: Any) -> Iterator[Any]:
    for value in values if isinstance(values, list) else [values]:
        if isinstance(value, list):
            yield from _leaves(value)
        else:
            yield value


def _boolean(value: Any) -> bool:
    if value in (0, 1):
        return bool(value)
    raise Unreadable("not a boolean")


def _integer(value: Any) -> int:
    number = int(value)
    if -(2**63) <= number < 2**63:
        return number
    raise Unreadable("a whole number beyond 64 bits")


_CONVERT: dict[str, Any] = {"FP": float, "INT": _integer, "UINT": _integer, "BOOL": _boolean, "BYTES": str}


def _write(data: Path, group: Group, name: str, table: _Table) -> Path:
    deployment, version, day = group
    folder = data / "captures" / layout.safe(deployment) / layout.safe(version) / day
    folder.mkdir(parents=True, exist_ok=True)
    arrays = {column: _array(values) for column, values in table.columns.items()}
    about = {"deployment": deployment, "version": version}
    whole = pa.table(arrays).replace_schema_metadata(about)
    partial = folder / f"{name}.tmp"
    pq.write_table(whole, partial, compression="zstd")
    return partial.replace(folder / name)


def _array(values: list[Any]) -> pa.Array:
    """One type a column: whole numbers give way to fractions, and any mixture becomes text."""
    kinds = {type(v) for v in values if v is not None}
    if len(kinds) > 1:
        common: Any = float if kinds <= {int, float, bool} else str
        values = [None if v is None else common(v) for v in values]
    return pa.array(values)


# what is past its time


def prune(data: Path, rules: Rules, now: float, kept: Kept) -> None:
    """Remove captures beyond the days and rows to keep, old windows, halves of killed runs. Raises Away."""
    for folder in FOLDERS:
        for half in (data / folder).rglob("*.tmp"):
            half.unlink(missing_ok=True)
    past = list(_past(data, rules, now))
    kept.drop(past)
    for path in past:
        path.unlink(missing_ok=True)
    for day in (data / "captures").glob("*/*/*"):
        if day.is_dir() and not any(day.iterdir()):
            day.rmdir()


def _past(data: Path, rules: Rules, now: float) -> Iterator[Path]:
    oldest = datetime.datetime.fromtimestamp(now - rules.retention_days * 86400, datetime.timezone.utc)
    for version in (data / "captures").glob("*/*"):
        yield from _past_of_version(version, oldest.strftime("%Y-%m-%d"), rules.retention_rows)
    yield from _all_but_newest(data / "windows", ".json", rules.keep_windows)
    yield from _all_but_newest(data / "reports", ".html", rules.keep_reports)


def _past_of_version(folder: Path, oldest: str, most: int) -> Iterator[Path]:
    held = 0
    parts = layout.parts_in(folder)
    for part in reversed(parts):
        held += part.rows
        if part.path.parent.name < oldest or (held > most and part is not parts[-1]):
            yield part.path


def _all_but_newest(folder: Path, ending: str, keep: int) -> Iterator[Path]:
    for deployment in folder.glob("*"):
        yield from sorted(deployment.glob(f"*{ending}"))[:-keep]
