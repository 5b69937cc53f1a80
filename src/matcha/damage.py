"""What is missing of an installed environment, by the list of files that each of its packages brought."""

from __future__ import annotations

import csv
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

MARKER = "matcha-installed.json"  # written last: an environment without it does not count as installed


class Damage(NamedTuple):
    """The first file of a package that is not as it was installed; `gone`: it is not there at all."""

    package: str
    file: str
    gone: bool = True

    def __str__(self) -> str:
        return f"{self.file} of {self.package} is {'missing' if self.gone else 'not what was installed'}"


def find(env: Path, seconds: float = 60.0) -> list[Damage]:
    """One for each package that is not whole. Tells by names and sizes, at most for so many seconds.

    Tens of thousands of files take some tenths of a second where the disk's cache has them.
    """
    deadline = time.monotonic() + seconds
    lists = {path.parent.name: path for path in env.glob("lib/python*/site-packages/*.dist-info/RECORD")}
    found = [Damage(_package(name), name) for name in sorted(set(_installed(env)) - set(lists))]
    for name, record in sorted(lists.items()):
        if time.monotonic() > deadline:
            break
        found += _first(_package(name), record)
    return found


def packages_in(env: Path) -> list[str]:
    """Names of the folders that describe its packages."""
    return sorted(path.name for path in env.glob("lib/python*/site-packages/*.dist-info"))


def _installed(env: Path) -> list[str]:
    """What was there when the install ended, as far as that was written down."""
    try:
        return list(json.loads((env / MARKER).read_text()).get("packages", ()))
    except (OSError, ValueError):
        return []


def _package(described_by: str) -> str:
    return described_by.partition("-")[0]


def _first(package: str, record: Path) -> list[Damage]:
    site = record.parents[1]
    for file, size in _files(record):
        try:
            now = (site / file).stat().st_size
        except OSError:
            return [Damage(package, file)]
        if size and now != int(size):
            return [Damage(package, file, gone=False)]
    return []


def _files(record: Path) -> Iterator[tuple[str, str]]:
    """Path relative to the packages' folder, and size as far as it is known."""
    with record.open(newline="", encoding="utf-8") as lines:
        for row in csv.reader(lines):
            if row:
                yield row[0], row[2] if len(row) > 2 and row[2].isdigit() else ""
