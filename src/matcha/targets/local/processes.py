"""Facts about processes that outlive a look at their pid."""

from __future__ import annotations

import os
import socket
from functools import cache
from pathlib import Path


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
    return _linux_birth(pid) if Path("/proc/self/stat").exists() else _portable_birth(pid)


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
