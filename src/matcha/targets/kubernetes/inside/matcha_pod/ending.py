"""How commands end and what they say on the way."""

from __future__ import annotations

import contextlib
import errno
import signal
import threading
import time
from collections.abc import Iterator
from enum import IntEnum
from pathlib import Path
from typing import NoReturn

TERMINATION_MESSAGE = Path("/dev/termination-log")
SAY_EVERY_SECONDS = 5.0


class Code(IntEnum):
    """Exit codes. From `REFUSED` on, the same command fails again until somebody changes something."""

    FAILED = 1
    USAGE = 2
    UNREACHABLE = 10  # the store does not answer, or with errors of its own
    INDEX = 11  # the package index cannot be reached
    LATE = 12
    MISSING = 13  # the store has no such object
    REFUSED = 20  # by the store: credentials, rights, certificate
    DAMAGED = 21  # the object is not what was uploaded
    NO_SPACE = 22
    UNSUITABLE = 23  # made for another Python or machine
    PACKAGES = 24  # the index refuses, lacks a package, or holds another one than the lock names
    STOPPED = 143


class Failed(Exception):
    """What a command ends with: one sentence for the person who looks at the pod.

    `status` and `reason` are HTTP's and S3's, where the store refused what was asked.
    """

    def __init__(self, message: str, code: Code, status: int = 0, reason: str = "") -> None:
        super().__init__(message)
        self.code = code
        self.status = status
        self.reason = reason


class Deadline:
    """Seconds that a whole command may take."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self._end = time.monotonic() + seconds

    def left(self) -> float:
        """More than 0. Raises Failed past the deadline."""
        left = self._end - time.monotonic()
        if left <= 0:
            raise Failed(f"It took longer than the {self.seconds:.0f} seconds it may take.", Code.LATE)
        return left


class Progress:
    """Says how far something is, every few seconds."""

    def __init__(self, doing: str, total: int) -> None:
        self._doing = doing
        self._total = total
        self._said = time.monotonic()

    def __call__(self, done: int) -> None:
        if time.monotonic() - self._said > SAY_EVERY_SECONDS:
            self._said = time.monotonic()
            total = f" of {megabytes(self._total)}" if self._total else ""
            say(f"{self._doing}: {megabytes(done)}{total}")


def megabytes(size: int) -> str:
    return f"{size / 1e6:.1f} MB" if size < 1e7 else f"{size / 1e6:.0f} MB"


_hushed = threading.local()


def say(line: str) -> None:
    if not getattr(_hushed, "is_on", False):
        print(line, flush=True)


@contextlib.contextmanager
def hushed() -> Iterator[None]:
    """Nothing is said in this thread: where the output is somebody else's."""
    _hushed.is_on = True
    try:
        yield
    finally:
        _hushed.is_on = False


def leave_word(message: str) -> None:
    """Where Kubernetes looks for the reason, when this runs in a container."""
    with contextlib.suppress(OSError):
        if TERMINATION_MESSAGE.exists():
            TERMINATION_MESSAGE.write_text(message + "\n", encoding="utf-8")


def disk_failure(error: OSError, where: str) -> Failed:
    if error.errno in {errno.ENOSPC, errno.EDQUOT}:
        return Failed(f"The disk is full: there is no room left at {where}.", Code.NO_SPACE)
    return Failed(f"{where} cannot be used: {error.strerror or error}.", Code.FAILED)


def on_signals() -> None:
    """Ends by an exception, so that what is half-made is taken away. The first process needs this to end."""

    def stop(number: int, _: object) -> NoReturn:
        signal.signal(number, signal.SIG_IGN)
        raise Failed(f"Stopped by {signal.Signals(number).name} before it was done.", Code.STOPPED)

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, stop)
