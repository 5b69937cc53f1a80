"""One installer of an environment at a time, and the removal of what killed ones left half-made."""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import secrets
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

from matcha import uvtool
from matcha.damage import MARKER
from matcha.uvtool import AGAIN, CacheUnusable, EnvironmentBusy, EnvironmentFailed

ASIDE = ".aside-"  # begins the names of folders that are being removed
NAME = re.compile(r"cp\d+-[0-9a-f]{16}")  # of an environment, as `environments.environment_key` makes it
WAIT_SECONDS = 3600.0


def is_whole(env: Path) -> bool:
    """Cheap: it was installed to the end, and the Python that it was made from has not gone."""
    return (env / MARKER).exists() and (env / "bin" / "python").exists()


@contextlib.contextmanager
def exclusive(env: Path, waiting: Callable[[str], None]) -> Iterator[IO[str]]:
    """Hold the lock of one environment; `waiting` is told for whom it waits.

    Raises EnvironmentBusy after an hour, CacheUnusable where nothing can be locked.
    """
    try:
        env.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        file = env.with_suffix(".lock").open("a+")
    except OSError as error:
        raise explain(error, env) from error
    with file:
        _acquire(file, env, waiting)
        file.truncate(0)
        file.write(f"process {os.getpid()} since {time.strftime('%H:%M:%S')}")
        file.flush()
        yield file


def _acquire(file: IO[str], env: Path, waiting: Callable[[str], None]) -> None:
    deadline = time.monotonic() + WAIT_SECONDS
    while not _taken(file, env):
        owner = _owner(file)
        if time.monotonic() > deadline:
            raise EnvironmentBusy(f"{owner} is still installing {env}.", resolution="end it, then " + AGAIN)
        waiting(owner)
        time.sleep(0.2)


def _taken(file: IO[str], env: Path) -> bool:
    """Whether the lock is ours now."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        raise explain(error, env) from error
    return True


def _owner(file: IO[str]) -> str:
    file.seek(0)
    return file.read() or "another process"


def explain(error: OSError, env: Path) -> EnvironmentFailed:
    """The error that a failed system call on the cache amounts to."""
    failed = uvtool.diagnose(f"{error.strerror} (os error {error.errno}): {error.filename or env}")
    if type(failed) is not EnvironmentFailed:
        return failed
    resolution = f"set MATCHA_CACHE_DIR to a folder on a local disk, then {AGAIN}"
    return CacheUnusable("The cache cannot be used.", details=str(error), resolution=resolution)


def wipe(env: Path) -> None:
    """Out of the way at once, whatever a process still writes into it."""
    (env / MARKER).unlink(missing_ok=True)  # first: half a wipe must not look installed
    aside = env.with_name(f"{ASIDE}{secrets.token_hex(8)}")
    with contextlib.suppress(FileNotFoundError):
        env.rename(aside)
    _clear(env.parent)


def _clear(folder: Path) -> None:
    """What anybody moved aside: who did may end before it is removed."""
    for path in folder.glob(f"{ASIDE}*"):
        shutil.rmtree(path, ignore_errors=True)


def sweep(folder: Path, patience: float) -> None:
    """Remove the environments in `folder` that killed installers left half-made; others' work stays.

    What worked for a killed one holds the lock a moment longer than that lived. It is waited for, up to
    `patience` seconds each.
    """
    _clear(folder)
    for path in list(folder.iterdir()) if folder.is_dir() else ():
        if NAME.fullmatch(path.name) and path.is_dir() and not (path / MARKER).exists():
            _sweep(path, time.monotonic() + patience)


def _sweep(env: Path, deadline: float) -> None:
    with env.with_suffix(".lock").open("a+") as file:
        while not _taken(file, env):
            if _lives(_owner(file)) or time.monotonic() > deadline:
                return
            time.sleep(0.05)
        if not (env / MARKER).exists():
            wipe(env)


def _lives(owner: str) -> bool:
    import psutil  # noqa: PLC0415 - costs 20 ms, and an abandoned install is rare

    found = re.match(r"process (\d+)", owner)
    try:
        return found is not None and psutil.Process(int(found[1])).status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False
