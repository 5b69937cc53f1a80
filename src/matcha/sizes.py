"""What environments will take, of the network and of the disk. Estimates that ask nobody."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path

import platformdirs

from matcha import lockfiles, uvtool
from matcha.uvtool import NoDiskSpace

# Measured on the locks: a download unpacks to 3.2-3.4 times its size; all bytecode is 1-1.5 times.
UNPACKED = 3.5
BYTECODE = 1.5
LEAST = 200_000_000  # bytes, for a lock that does not state its sizes


def uv_cache() -> Path:
    return Path(uvtool.ask(["cache", "dir"]) or platformdirs.user_cache_path("uv"))


def to_fetch(locks: Iterable[Path]) -> int | None:
    """Bytes to download for all of `locks`; None where one does not state its sizes.

    The sizes are those that the index gave for Linux x86-64 and Python 3.11 when the locks were made, less
    the packages that uv's cache holds, each counted once.
    """
    known = [lockfiles.sizes(lock) for lock in locks]
    if not all(known):
        return None
    wanted = {package: size for sizes in known for package, size in sizes.items()}
    return _missing(wanted, uv_cache()) if wanted else 0


def _missing(wanted: Mapping[str, int], cache: Path) -> int:
    held = _packages_in(cache)
    return sum(size for package, size in wanted.items() if package not in held)


def _packages_in(cache: Path) -> frozenset[str]:
    """`name==version` of unpacked wheels. The layout is uv's own: where it is another, nothing is found."""
    found = (*cache.glob("wheels-v*/pypi/*/*-*"), *cache.glob("wheels-v*/index/*/*/*-*"))
    return frozenset(
        f"{wheel.parent.name}=={wheel.name.split('-')[0]}"
        for wheel in found
        if wheel.suffix not in (".http", ".lock", ".msgpack", ".rev")
    )


def check_space(lock: Path, place: Path) -> None:
    """Raises NoDiskSpace where the packages of `lock` cannot fit on the disk of `place` or of uv's cache."""
    cache = uv_cache()
    for folder, needed in _needs(lock, place, cache).items():
        free = shutil.disk_usage(folder).free
        if free < needed:
            raise NoDiskSpace(
                f"Not enough disk space: about {needed / 1e9:.1f} GB needed, {free / 1e9:.1f} GB free.",
                details=f"The packages are unpacked into {folder}.",
                resolution="free some space, or set MATCHA_CACHE_DIR and UV_CACHE_DIR to a larger disk",
            )


def _needs(lock: Path, place: Path, cache: Path) -> dict[Path, int]:
    """Bytes by folder. On one disk uv links or clones what its cache holds, between disks it copies."""
    wanted = lockfiles.sizes(lock)
    if not wanted:
        return {place: LEAST}
    total, fetched = sum(wanted.values()), int(UNPACKED * _missing(wanted, cache))
    bytecode = int(BYTECODE * total)
    exists = next(folder for folder in (cache, *cache.parents) if folder.exists())
    if exists.stat().st_dev == place.stat().st_dev:
        return {place: fetched + bytecode}
    return {place: int(UNPACKED * total) + bytecode, exists: fetched}
