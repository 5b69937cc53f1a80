"""What environments will take, of the network and of the disk. Estimates that ask nobody."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import platformdirs

from matcha import lockfiles, uvtool
from matcha.uvtool import NoDiskSpace

if TYPE_CHECKING:
    from packaging.tags import Tag

# Measured on the locks: a download unpacks to 3.2-3.4 times its size; all bytecode is 1-1.5 times.
UNPACKED = 3.5
BYTECODE = 1.5
_NAMED = re.compile(r"-([^-]+-[^-]+-[^-]+)$")
_SAID = re.compile(r"^Tag: ([^-\s]+-[^-\s]+-[^-\s]+)\s*$", re.M)
LEAST = 200_000_000  # bytes, for a lock that does not state its sizes


def uv_cache() -> Path:
    return Path(uvtool.ask(["cache", "dir"]) or platformdirs.user_cache_path("uv"))


def to_fetch(wanted: Iterable[tuple[Path, str]]) -> int | None:
    """Bytes to download for all (lock, python) of `wanted`; None where a lock does not state its sizes.

    The sizes are those that the index gave for Linux x86-64 and Python 3.11 when the locks were made, less
    the packages that uv's cache holds for that Python, each counted once for it.
    """
    known = [(lockfiles.sizes(lock), python) for lock, python in wanted]
    if not all(sizes for sizes, _ in known):
        return None
    by_python: dict[str, dict[str, int]] = {}
    for sizes, python in known:
        by_python.setdefault(python, {}).update(sizes)
    cache = uv_cache() if by_python else Path()
    return sum(_missing(sizes, cache, python) for python, sizes in by_python.items())


def _missing(wanted: Mapping[str, int], cache: Path, python: str) -> int:
    held = _packages_in(cache, python)
    return sum(size for package, size in wanted.items() if package not in held)


def _packages_in(cache: Path, python: str) -> frozenset[str]:
    """`name==version` of unpacked wheels that `python` takes.

    The layout is uv's own: where it is another, nothing is found.
    """
    fitting = _tags(python)
    found = (*cache.glob("wheels-v*/pypi/*/*-*"), *cache.glob("wheels-v*/index/*/*/*-*"))
    return frozenset(
        f"{wheel.parent.name}=={wheel.name.split('-')[0]}"
        for wheel in found
        if wheel.suffix not in (".http", ".lock", ".msgpack", ".rev")
        and not fitting.isdisjoint(_tags_of(wheel))
    )


def _tags(python: str) -> frozenset[Tag]:
    from packaging import tags  # noqa: PLC0415 - 13 ms

    version, name = tuple(map(int, python.split(".")[:2])), f"cp{''.join(python.split('.')[:2])}"
    return frozenset((*tags.cpython_tags(version, [name]), *tags.compatible_tags(version, name)))


def _tags_of(wheel: Path) -> Iterator[Tag]:
    """Of `1.0-cp311-cp311-manylinux_2_17_x86_64.linux_x86_64`; of `1.0-516d0c2242d49034`, as uv shortens what
    is long, those that stand in the wheel itself.
    """
    from packaging.tags import parse_tag  # noqa: PLC0415

    named = _NAMED.search(wheel.name)
    said = [] if named else [file.read_text("utf-8", "replace") for file in wheel.glob("*.dist-info/WHEEL")]
    for tag in [named[1]] if named else [tag for text in said for tag in _SAID.findall(text)]:
        yield from parse_tag(tag)


def check_space(lock: Path, python: str, place: Path) -> None:
    """Raises NoDiskSpace where the packages of `lock` cannot fit on the disk of `place` or of uv's cache."""
    cache = uv_cache()
    for folder, needed in _needs(lock, python, place, cache).items():
        free = shutil.disk_usage(folder).free
        if free < needed:
            raise NoDiskSpace(
                f"Not enough disk space: about {needed / 1e9:.1f} GB needed, {free / 1e9:.1f} GB free.",
                details=f"The packages are unpacked into {folder}.",
                resolution="free some space, or set MATCHA_CACHE_DIR and UV_CACHE_DIR to a larger disk",
            )


def _needs(lock: Path, python: str, place: Path, cache: Path) -> dict[Path, int]:
    """Bytes by folder. On one disk uv links or clones what its cache holds, between disks it copies."""
    wanted = lockfiles.sizes(lock)
    if not wanted:
        return {place: LEAST}
    total, fetched = sum(wanted.values()), int(UNPACKED * _missing(wanted, cache, python))
    bytecode = int(BYTECODE * total)
    exists = next(folder for folder in (cache, *cache.parents) if folder.exists())
    if exists.stat().st_dev == place.stat().st_dev:
        return {place: fetched + bytecode}
    return {place: int(UNPACKED * total) + bytecode, exists: fetched}
