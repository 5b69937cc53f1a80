"""Reading a service's log, which the supervisor rotates to `NAME.log.1`, `NAME.log.2` and so on."""

from __future__ import annotations

import contextlib
import os
import re
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import BinaryIO

_ROTATED = re.compile(r"\.(\d+)$")
_POLL = 0.25


def last_lines(log: Path, count: int) -> list[str]:
    """The newest `count` lines over all rotated files, oldest first, without their ends."""
    reader = _Reader(log)
    try:
        return [*reader.first(count), *reader.rest()][-count:] if count > 0 else []
    finally:
        reader.close()


def _rotated(log: Path) -> list[Path]:
    """The files that `log` was rotated to, oldest first."""
    numbered = [(int(m[1]), p) for p in log.parent.glob(f"{log.name}.*") if (m := _ROTATED.search(p.name))]
    return [p for _, p in sorted(numbered, reverse=True)]


def _text(line: bytes) -> str:
    return line.decode("utf-8", "replace").rstrip("\r\n")


def follow(
    log: Path, count: int, goes_on: Callable[[], bool], pause: Callable[[float], None] = time.sleep
) -> Iterator[str]:
    """`last_lines`, then each line as it is written, over rotations, as long as `goes_on`."""
    reader = _Reader(log)
    try:
        yield from reader.first(count)
        while goes_on():
            lines = reader.lines()
            yield from lines
            if not lines:
                pause(_POLL)
    finally:
        reader.close()


class _Reader:
    """A log file and its successors. While it is followed, a line is handed out once it is complete."""

    def __init__(self, log: Path) -> None:
        self._log = log
        self._file: BinaryIO | None = None
        self._half = b""

    def first(self, count: int) -> Iterable[str]:
        """The newest `count` lines so far. The current file is opened first: it may be rotated any moment."""
        kept: deque[str] = deque(maxlen=max(count, 0))
        self._open()
        for path in _rotated(self._log):
            with contextlib.suppress(OSError), path.open("rb") as file:
                if not self._is_open(file):
                    kept.extend(_text(line) for line in file)
        kept.extend(self._read())
        return kept

    def rest(self) -> list[str]:
        """The line that is not complete yet, if there is one."""
        return [_text(self._half)] if self._half else []

    def _is_open(self, file: BinaryIO) -> bool:
        return self._file is not None and os.path.samestat(
            os.fstat(file.fileno()), os.fstat(self._file.fileno())
        )

    def close(self) -> None:
        if self._file:
            self._file.close()
        self._file = None

    def lines(self) -> list[str]:
        """What is new, to the end of the current file; then on to the next where it was rotated."""
        if self._file is None:
            self._open()
        found = self._read()
        if not found and self._was_rotated():
            self.close()
            self._open()
            found = self._read()
        return found

    def _open(self) -> None:
        try:
            self._file = self._log.open("rb")
        except OSError:
            self._file = None

    def _read(self) -> list[str]:
        if self._file is None:
            return []
        self._rewind_if_cut()
        *whole, self._half = (self._half + self._file.read()).split(b"\n")
        return [_text(line) for line in whole]

    def _rewind_if_cut(self) -> None:
        if self._file and os.fstat(self._file.fileno()).st_size < self._file.tell():
            self._file.seek(0)

    def _was_rotated(self) -> bool:
        if self._file is None:
            return False
        try:
            return not os.path.samestat(os.fstat(self._file.fileno()), self._log.stat())
        except OSError:
            return False
