"""Hash-locked requirements files: what they pin, how large it is, and new ones made at run time."""

from __future__ import annotations

import hashlib
import re
import tempfile
from collections.abc import Iterable
from pathlib import Path

from matcha import uvtool

_SOURCE = re.compile(r"(-f|-i|--find-links|--index-url|--extra-index-url|--no-index)(\s|=|$)")


def lock_digest(lock: Path) -> str:
    """Digest of what a lock file pins: comments, indentation and line ends do not count."""
    lines = (line.strip() for line in lock.read_text().splitlines())
    pins = "\n".join(line for line in lines if line and not line.startswith("#"))
    return hashlib.sha256(pins.encode()).hexdigest()[:32]


def sizes(lock: Path) -> dict[str, int]:
    """`name==version` -> bytes to download, as `scripts/lock` wrote them down; empty where it did not."""
    found = re.findall(r"^#   (\S+==\S+) (\d+)$", lock.read_text(), re.M)
    return {package: int(size) for package, size in found}


def warm_modules(file: Path | None) -> tuple[str, ...]:
    """The module names of a warm list, one a line; () without the file."""
    lines = file.read_text().split("\n") if file is not None and file.exists() else []
    return tuple(line for line in lines if line and not line.startswith("#"))


def compile_lock(
    requirements: Iterable[str],
    *,
    constraints: Path | None,
    limits: Iterable[str] = (),
    python: str,
    output: Path,
    universal: bool = False,
) -> None:
    """Resolve requirement lines for this platform and `python` into a hash-locked file, written whole.

    `limits` are lines of constraints besides those of the file. Lines that say where packages are to be had
    stand in the lock as well: who installs it has to look there. `universal`: for every platform, where it is
    installed on other machines.

    Raises EnvironmentUnresolvable with uv's reason, or another EnvironmentFailed.
    """
    with tempfile.TemporaryDirectory(prefix="matcha-") as folder:
        source, made = Path(folder) / "requirements.in", Path(folder) / "requirements.lock"
        lines = tuple(requirements)
        source.write_text("\n".join(lines) + "\n")
        more = Path(folder) / "constraints.txt"
        more.write_text("".join(f"{line}\n" for line in limits))
        flags = ["--generate-hashes", "--no-header", "--python-version", python, "-o", made.name]
        flags += ["--universal"] if universal else []
        for file in (more.name, *([constraints.absolute()] if constraints else [])):
            flags += ["--constraints", str(file)]
        uvtool.run(["pip", "compile", "--quiet", *flags, source.name], cwd=Path(folder))
        output.parent.mkdir(parents=True, exist_ok=True)
        sources = "".join(f"{line}\n" for line in lines if _SOURCE.match(line))
        write_whole(output, sources + made.read_text())


def split(lock: str) -> tuple[str, str]:
    """What has hashes in a compiled lock, and what has none (folders, repositories); both with sources."""
    entries = [entry for entry in re.split(r"^(?=[^\s#])", lock, flags=re.M) if entry[:1] not in ("", "#")]
    sources = "".join(entry for entry in entries if entry.startswith("-"))
    pins = [entry for entry in entries if not entry.startswith("-")]
    locked = "".join(entry for entry in pins if "--hash=" in entry)
    unlocked = "".join(entry for entry in pins if "--hash=" not in entry)
    return sources + locked, sources + unlocked if unlocked else ""


def write_whole(path: Path, text: str) -> None:
    """Atomic: readers see the old content or the new."""
    part = path.with_name(f"{path.name}.part")
    part.write_text(text)
    part.replace(path)
