"""Which kubeconfig files are meant, and whether they changed. Light: also for who asks no cluster."""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping
from pathlib import Path

DEFAULT = "~/.kube/config"
LARGEST = 4 * 1024**2  # bytes


def kubefiles(named: str, environ: Mapping[str, str] = os.environ) -> tuple[Path, ...]:
    """Absolute paths, the first one having the last word; not all of them need to exist.

    `named`: a file, or several as in KUBECONFIG; empty for what KUBECONFIG or the default says.
    """
    if named and is_file(Path(named).expanduser()):
        return (Path(named).expanduser().absolute(),)
    texts = (named or environ.get("KUBECONFIG", "")).split(os.pathsep)
    return tuple(Path(t).expanduser().absolute() for t in texts if t) or (Path(DEFAULT).expanduser(),)


def joined(paths: tuple[Path, ...]) -> str:
    return os.pathsep.join(map(str, paths))


def stamp(paths: tuple[Path, ...]) -> tuple[int, int]:
    """Times and sizes of those that exist, summed up."""
    found = [path.stat() for path in paths if is_file(path)]
    return sum(f.st_mtime_ns for f in found), sum(f.st_size for f in found)


def is_file(path: Path) -> bool:
    """Also where a folder above it may not be looked into."""
    return os.path.isfile(path)  # noqa: PTH113 - pathlib's raises there


def odd(path: Path) -> str:
    """Why it is not read although it is there: it may have no end. Empty for a file, and for a folder, which
    cannot be read. Raises OSError.
    """
    found = path.stat()
    if stat.S_ISREG(found.st_mode):
        return "" if found.st_size <= LARGEST else f"is larger than {LARGEST // 1024**2} MiB"
    return "" if stat.S_ISDIR(found.st_mode) else "is a pipe or a device, not a file"
