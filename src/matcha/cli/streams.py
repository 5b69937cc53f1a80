"""The standard streams, whatever they were given: closed, on a full disk, or with nobody at the other end."""

from __future__ import annotations

import errno
import io
import os
import sys
from typing import Any


class Lost(Exception):
    """stdout takes nothing more. Not an OSError, so that it is never taken for one of the command's own."""

    def __init__(self, cause: OSError) -> None:
        super().__init__(cause.strerror or str(cause))
        self.hung_up = cause.errno == errno.EPIPE


class _Results(io.TextIOWrapper):
    """stdout: raises Lost."""

    def write(self, text: str) -> int:
        try:
            return super().write(text)
        except OSError as error:
            raise Lost(error) from error

    def flush(self) -> None:
        try:
            super().flush()
        except OSError as error:
            raise Lost(error) from error


class _Remarks(io.TextIOWrapper):
    """stderr: what cannot be said is left unsaid, and the command goes on."""

    def write(self, text: str) -> int:
        try:
            return super().write(text)
        except OSError:
            return len(text)

    def flush(self) -> None:
        try:
            super().flush()
        except OSError:
            return


def settle() -> None:
    """Make the three streams usable. For the `matcha` process alone, before anything else is opened.

    A closed one would give its number to the next file that is opened, and what a program writes to stdout
    would land in that file. So it is opened again: stdin at its end, stdout so that writing fails as it
    would on the closed one, stderr so that what is written is lost.
    """
    for number, mode in ((0, os.O_RDONLY), (1, os.O_RDONLY), (2, os.O_WRONLY)):
        _open_closed(number, mode)
    if sys.stdin is None:
        sys.stdin = open(0, encoding="utf-8", closefd=False)  # noqa: SIM115 - for as long as the process lives
    sys.stdout = _wrapped(_Results, sys.stdout, 1)
    sys.stderr = _wrapped(_Remarks, sys.stderr, 2)


def _open_closed(number: int, mode: int) -> None:
    try:
        os.fstat(number)
    except OSError:
        opened = os.open(os.devnull, mode)
        if opened != number:
            os.dup2(opened, number)
            os.close(opened)


def _wrapped(kind: type[io.TextIOWrapper], stream: Any, number: int) -> io.TextIOWrapper:
    """`kind` over what `stream` writes to; a closed one has no stream."""
    if stream is None:
        return kind(io.FileIO(number, "w", closefd=False), encoding="utf-8", write_through=True)
    return kind(
        stream.buffer,
        encoding=stream.encoding,
        errors=stream.errors,
        line_buffering=stream.line_buffering,
        write_through=stream.write_through,
    )


def drop_stdout() -> None:
    """What is still to be written goes nowhere, so that the end of the process does not try again."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)
