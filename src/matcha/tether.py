"""Processes that end with this one, however it ends: a SIGKILL leaves no orphan that works on."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

LAUNCHER = Path(__file__).with_name("tethered.py")
GRACE = 5.0  # seconds between SIGTERM and SIGKILL

_running: set[subprocess.Popen[str]] = set()


@contextlib.contextmanager
def started(
    command: Sequence[str], *, hold: Sequence[int] = (), **options: Any
) -> Iterator[subprocess.Popen[str]]:
    """The command in a process group of its own, which is ended when the block ends or this process does.

    `hold` are descriptors that it keeps open. `options` are those of Popen.
    """
    ours, theirs = os.pipe()[::-1]
    launcher = [sys.executable, "-I", "-S", str(LAUNCHER), str(theirs)]
    try:
        with subprocess.Popen(
            [*launcher, *command],
            text=True,
            errors="replace",
            start_new_session=True,
            pass_fds=(theirs, *hold),
            **options,
        ) as process:
            _running.add(process)
            try:
                yield process
            finally:
                _end(process)
                _running.discard(process)
    finally:
        os.close(theirs)
        os.close(ours)


def end_all() -> None:
    """End what this process started: for one that ends while its threads are still at work."""
    for process in tuple(_running):
        _end(process)


def _end(process: subprocess.Popen[str]) -> None:
    for sign in (signal.SIGTERM, signal.SIGKILL):
        if process.poll() is not None:
            return
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, sign)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=GRACE)
