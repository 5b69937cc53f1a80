"""Facts about processes that outlive a look at their pid."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path


@cache
def has_proc() -> bool:
    """Whether processes can be looked at through files, which is many times faster than psutil."""
    return Path("/proc/self/smaps_rollup").exists()


@cache
def where() -> str:
    """Names the set of processes that a pid of this process belongs to: host, boot and namespace."""
    return f"{socket.gethostname()} {_namespace()}"


def _namespace() -> str:
    try:
        return Path("/proc/self/ns/pid").readlink().name
    except OSError:
        return ""


def birth(pid: int) -> str:
    """When the process started, comparable with itself only; empty when nothing can be seen of that pid."""
    return _linux_birth(pid) if has_proc() else _portable_birth(pid)


def _linux_birth(pid: int) -> str:
    """Ticks since boot: unlike a time of day they do not move when the clock is set."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""
    return "ended" if fields[0] in "ZX" else f"{fields[19]} {boot}"


def _portable_birth(pid: int) -> str:
    import psutil  # noqa: PLC0415 - costs tens of milliseconds

    try:
        return f"{psutil.Process(pid).create_time():.2f}"
    except psutil.Error:
        return ""


def is_gone(pid: int, born: str) -> bool:
    """Whether the process of that pid and birth has ended."""
    now = birth(pid)
    return now != born and (bool(now) or not _exists(pid))


def _exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # another user's, which this system does not show
        return True
    return True


def below(root: int, children: Mapping[int, list[int]]) -> list[int]:
    """`root` and its descendants."""
    found = [root]
    for pid in found:
        found.extend(children.get(pid, ()))
    return found


def children_by_parent() -> dict[int, list[int]]:
    """Parent -> children of all processes that can be seen."""
    found: dict[int, list[int]] = {}
    for pid, parent in _linux_parents() if has_proc() else _portable_parents():
        found.setdefault(parent, []).append(pid)
    return found


def _linux_parents() -> Iterator[tuple[int, int]]:
    for entry in os.listdir("/proc"):  # noqa: PTH208 - twice as fast, and `status` waits for it
        if entry.isdigit():
            try:
                stat = Path(f"/proc/{entry}/stat").read_bytes()
            except OSError:
                continue
            yield int(entry), int(stat.rpartition(b")")[2].split()[1])


def _portable_parents() -> Iterator[tuple[int, int]]:
    import psutil  # noqa: PLC0415 - costs tens of milliseconds

    for process in psutil.process_iter(["ppid"]):
        yield process.pid, process.info["ppid"]
