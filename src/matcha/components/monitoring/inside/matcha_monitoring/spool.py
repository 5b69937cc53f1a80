"""Captured lines on disk, before they become Parquet.

A line is acknowledged once the operating system has it, so the death of this process loses none (a power
cut may). Sealed files never change: taking one in twice gives the same files again.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import msgspec

from . import layout

_Short = Annotated[str, msgspec.Meta(max_length=200)]


class Line(msgspec.Struct, frozen=True, rename={"inputs": "in"}):
    """One served request: `n` rows at Unix time `t`; tensors as [name, datatype, shape, data]."""

    d: Annotated[str, msgspec.Meta(min_length=1, max_length=200)]
    v: _Short
    t: Annotated[float, msgspec.Meta(ge=0, le=1e11)]
    id: _Short
    n: Annotated[int, msgspec.Meta(ge=1, le=1_000_000)]
    inputs: msgspec.Raw  # skipped over and checked for syntax alone: values cost nothing here
    out: msgspec.Raw


Key = tuple[str, str]
_decoder = msgspec.json.Decoder(Line)


class Full(Exception):
    """The spool has reached its bound; senders keep or drop what they hold."""


class Batch(msgspec.Struct, frozen=True):
    """The readable lines of one request body, and why the first of the others was refused."""

    lines: bytes
    rows: dict[Key, int]
    accepted: int
    refused: int
    why: str


def read(body: bytes) -> Batch:
    good, rows, refused, why = [], Counter[Key](), 0, ""
    for number, raw in enumerate(body.split(b"\n"), 1):
        if not raw.strip():
            continue
        try:
            line = _decoder.decode(raw)
        except (msgspec.MsgspecError, RecursionError, UnicodeError) as error:
            refused += 1
            why = why or f"line {number}: {str(error)[:200]}"
            continue
        good.append(raw.strip())
        rows[(line.d, line.v)] += line.n
    text = b"\n".join(good) + b"\n" if good else b""
    return Batch(text, dict(rows), len(good), refused, why)


class Spool:
    """Single writer: the service's event loop."""

    def __init__(self, data: Path, limit: int) -> None:
        self.data = data
        self.folder = data / "spool"
        self.folder.mkdir(parents=True, exist_ok=True)
        self.limit = limit
        self.active = self.folder / "active.ndjson"
        _cut_to_whole_lines(self.active)
        self._taken_in: int | None = None
        self._waiting: dict[str, Counter[Key]] = {p.name: _count(p) for p in self._files()}

    def _files(self) -> Iterator[Path]:
        yield from layout.sealed(self.data)
        if self.active.exists():
            yield self.active

    def size(self) -> int:
        """Bytes waiting; files vanish under us while they are taken in."""
        return sum(_size(p) for p in self._files())

    def append(self, batch: Batch) -> None:
        """Whole lines or nothing. Raises Full, or OSError where the disk refuses."""
        if not batch.lines:
            return
        if self.size() + len(batch.lines) > self.limit:
            raise Full(f"{self.limit // 2**20} MB of captures wait to be taken in")
        _append(self.active, batch.lines)
        self._waiting.setdefault(self.active.name, Counter()).update(batch.rows)

    def seal(self) -> None:
        """Close the active file for taking in; nothing happens to an empty one."""
        if not _size(self.active):
            return
        name = f"{self._next():012d}.ndjson"
        self.active.rename(self.folder / name)
        self._waiting[name] = self._waiting.pop(self.active.name, Counter())

    def _next(self) -> int:
        """Rises over restarts, retention and the loss of the volume: it is on disk before a file bears it.

        What was taken in is looked at once, by when it was brought back from the object store.
        """
        file = self.data / "sequence"
        last = int(file.read_text()) if file.exists() else 0
        if self._taken_in is None:
            self._taken_in = layout.last_seq(self.data)
        number = max([last, self._taken_in, *(int(p.stem) for p in layout.sealed(self.data))]) + 1
        layout.write_atomic(file, str(number).encode())
        return number

    def waiting(self) -> Counter[Key]:
        """Rows not yet in Parquet, by deployment and version."""
        total: Counter[Key] = Counter()
        for name in list(self._waiting):
            if (self.folder / name).exists():
                total.update(self._waiting[name])
            else:
                del self._waiting[name]
        return total


def _append(path: Path, data: bytes) -> None:
    """A full disk leaves the file as it was."""
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    try:
        start = os.fstat(fd).st_size
        view = memoryview(data)
        try:
            while view:
                view = view[os.write(fd, view) :]
        except OSError:
            os.ftruncate(fd, start)
            raise
    finally:
        os.close(fd)


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def _cut_to_whole_lines(path: Path) -> None:
    """Drop what a killed process left unfinished; it was never acknowledged."""
    if not path.exists():
        return
    with path.open("rb+") as file:
        end = file.seek(0, os.SEEK_END)
        while end:
            start = max(0, end - 65536)
            file.seek(start)
            if (found := file.read(end - start).rfind(b"\n")) >= 0:
                file.truncate(start + found + 1)
                return
            end = start
        file.truncate(0)


def _count(path: Path) -> Counter[Key]:
    rows: Counter[Key] = Counter()
    with path.open("rb") as file:
        for raw in file:
            rows.update(read(raw).rows)
    return rows
