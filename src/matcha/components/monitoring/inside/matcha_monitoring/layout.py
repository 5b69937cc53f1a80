"""Where things lie under the data folder, and the counts that their names give without opening them.

All but the spool is in the stack's object store too, where there is one (`kept.py`).

spool/active.ndjson                                    lines as they came in
spool/<seq>.ndjson                                     sealed, waiting to be taken in
captures/<deployment>/<version>/<date>/<seq>-<part>-<rows>.parquet
windows/<deployment>/<until>-<version>.json            `until`: the last seq the window holds
reports/<deployment>/<until>-<version>.html
references/<run>.parquet                               and <run>/<artifact>, of other references
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .deployments import DEFAULT, Deployed

_PLAIN = re.compile(r"[a-z0-9][a-z0-9._-]{0,79}")
_PART = re.compile(r"(\d{12})-(\d{12})-(\d+)\.parquet")
_WINDOW = re.compile(r"(\d{12})-(.+)\.json")


def safe(name: str) -> str:
    """A file name for any text: itself where harmless on every file system, otherwise with a digest.

    Two texts never share a name, also where the file system ignores case ("~" is in no plain name).
    """
    if _PLAIN.fullmatch(name):
        return name
    slug = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")[:40]
    return f"{slug}~{hashlib.sha256(name.encode('utf-8', 'surrogatepass')).hexdigest()[:16]}"


@dataclass(frozen=True)
class Part:
    """One Parquet file of captured rows."""

    path: Path
    seq: int
    rows: int


def parts(data: Path, deployment: str, version: str) -> list[Part]:
    """Captured files of one deployed version, oldest first; none of a spool file that is not done with."""
    waiting = {int(path.stem) for path in sealed(data)}
    found = parts_in(data / "captures" / safe(deployment) / safe(version))
    return [part for part in found if part.seq not in waiting]


def parts_in(folder: Path) -> list[Part]:
    found = (_part(path) for path in folder.glob("*/*.parquet"))
    return sorted((p for p in found if p), key=lambda p: (p.seq, p.path.name))


def _part(path: Path) -> Part | None:
    match = _PART.fullmatch(path.name)
    return Part(path, int(match[1]), int(match[3])) if match else None


def window_files(data: Path, deployment: str) -> list[Path]:
    """Windows of a deployment, oldest first."""
    return sorted(
        p for p in (data / "windows" / safe(deployment)).glob("*.json") if _WINDOW.fullmatch(p.name)
    )


def cursor(data: Path, deployment: str, version: str) -> int:
    """The last sequence number that a window of this version holds; 0 before the first."""
    matches = (_WINDOW.fullmatch(p.name) for p in window_files(data, deployment))
    return max((int(m[1]) for m in matches if m and m[2] == safe(version)), default=0)


def last_windows(data: Path, deployment: str, version: str) -> list[Path]:
    """Files of the newest window, and of the newest of this version: what the next one goes by."""
    files = window_files(data, deployment)
    own = [p for p in files if p.name.endswith(f"-{safe(version)}.json")]
    return sorted({*files[-1:], *own[-1:]})


def last_seq(data: Path) -> int:
    """The highest number that anything taken in bears; 0 where nothing was."""
    names = (p.name for p in (data / "captures").glob("*/*/*/*.parquet"))
    found = [m for name in names if (m := _PART.fullmatch(name))]
    found += [m for p in (data / "windows").glob("*/*.json") if (m := _WINDOW.fullmatch(p.name))]
    return max((int(m[1]) for m in found), default=0)


def windows(data: Path, deployment: str, last: int) -> list[dict[str, Any]]:
    """The newest windows, newest first; a file that cannot be read is left out."""
    return [w for p in reversed(window_files(data, deployment)[-last:]) if (w := read_json(p))]


def newest(data: Path, deployed: Deployed) -> dict[str, Any] | None:
    """The newest window of exactly what is deployed.

    That is the version, its `uri`, as models outside the registry have no version, and its reference.
    """
    ending = f"-{safe(deployed.version)}.json"
    for path in reversed(window_files(data, deployed.name)):
        if path.name.endswith(ending) and (window := read_json(path)) and _is_of(window, deployed):
            return window
    return None


def _is_of(window: dict[str, Any], deployed: Deployed) -> bool:
    artifact = (window.get("reference") or {}).get("artifact", DEFAULT)
    return (window.get("uri", deployed.uri), artifact) == (deployed.uri, deployed.artifact)


def read_json(path: Path) -> dict[str, Any] | None:
    try:
        return json_object(path.read_bytes())
    except OSError:
        return None


def json_object(content: bytes) -> dict[str, Any] | None:
    try:
        value = json.loads(content)
    except ValueError:
        return None
    return value if isinstance(value, dict) else None


def write_atomic(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    partial.write_bytes(content)
    partial.replace(path)


def sealed(data: Path) -> Iterator[Path]:
    """Spool files waiting to be taken in, oldest first."""
    return iter(sorted(p for p in (data / "spool").glob("*.ndjson") if p.stem.isdigit()))
