"""What init containers do: lay out an environment, or other files, from the store."""

from __future__ import annotations

import platform
import sys
import time
import venv
from collections.abc import Mapping
from pathlib import Path

from .archive import clear, lay_out
from .ending import Code, Failed, disk_failure, say
from .s3 import Place, Store

MACHINE = "{machine}"
# What `make` brings: links to Python leave the folder, so no archive holds them.
_MADE = ("bin/python", "bin/activate", "bin/Activate", "pyvenv.cfg", "lib64", ".gitignore", ".lock")


def make(env: Path) -> None:
    """An environment of this Python without packages, in a folder that is emptied first."""
    try:
        env.mkdir(parents=True, exist_ok=True)
        clear(env)
        venv.EnvBuilder(symlinks=True, with_pip=False).create(env)
    except OSError as error:
        raise disk_failure(error, str(env)) from error


def is_made(path: str) -> bool:
    """Whether `make` brings what lies at this path of an environment."""
    return path.startswith(_MADE)


def runs_on() -> dict[str, str]:
    """The metadata of an environment that is made here."""
    return {"python": sys.implementation.cache_tag or "", "machine": platform.machine()}


def for_this_machine(place: Place) -> Place:
    return place._replace(key=place.key.replace(MACHINE, platform.machine()))


def check(metadata: Mapping[str, str]) -> None:
    """Raises Failed for an archive of another Python or machine."""
    for name, here in runs_on().items():
        if metadata.get(name) != here:
            message = f"The archive is for the {name} {metadata.get(name)}, and this container has {here}."
            raise Failed(message, Code.UNSUITABLE)


def unpack(store: Store, source: Place, path: Path) -> None:
    """The environment of an archive, at the path that it was built for. On failure that is empty."""
    started = time.monotonic()
    make(path)
    try:
        lay_out(store, source := for_this_machine(source), path, check)
    except Failed as error:
        if error.code != Code.MISSING:
            raise
        kind = platform.machine()
        message = f"{error} It was not built on a {kind} node yet: `matcha provision` does that"
        message += " where who runs it may list the cluster's nodes."
        raise Failed(message, Code.MISSING, error.status, error.reason) from error
    say(f"unpacked {source} in {time.monotonic() - started:.1f} s")


def extract(store: Store, source: Place, path: Path) -> None:
    """The files of an archive that is no environment. On failure the folder is empty."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise disk_failure(error, str(path)) from error
    clear(path)
    lay_out(store, source, path)
    say(f"extracted {source}")
