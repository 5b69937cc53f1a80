"""Who listens on which TCP port."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable
from pathlib import Path

from matcha.host.processes import below, children_by_parent, has_proc

_LISTEN = "0A"  # the state's number in /proc/net/tcp


def listening(roots: Iterable[int]) -> set[int]:
    """TCP ports that the process trees below these pids listen on."""
    children = children_by_parent()
    pids = [pid for root in roots for pid in below(root, children)]
    if has_proc():
        sockets = _linux_sockets()
        return {sockets[inode] for pid in pids for inode in _open_sockets(pid) if inode in sockets}
    return {port for pid in pids for port in _portable(pid)}


def _linux_sockets() -> dict[str, int]:
    """Inode -> port of every listening TCP socket."""
    found: dict[str, int] = {}
    for table in ("tcp", "tcp6"):
        with contextlib.suppress(OSError):
            for line in Path("/proc/net", table).read_text().splitlines()[1:]:
                fields = line.split()
                if fields[3] == _LISTEN:
                    found[fields[9]] = int(fields[1].rpartition(":")[2], 16)
    return found


def _open_sockets(pid: int) -> Iterable[str]:
    folder = f"/proc/{pid}/fd"
    with contextlib.suppress(OSError):
        for name in os.listdir(folder):  # noqa: PTH208 - twice as fast
            with contextlib.suppress(OSError):
                target = os.readlink(f"{folder}/{name}")  # noqa: PTH115
                if target.startswith("socket:["):
                    yield target[8:-1]


def _portable(pid: int) -> set[int]:
    import psutil  # noqa: PLC0415 - costs tens of milliseconds

    try:
        found = psutil.Process(pid).net_connections(kind="tcp")
    except psutil.Error:
        return set()
    return {_port(c) for c in found if c.status == psutil.CONN_LISTEN}


def listener(port: int) -> str:
    """Who listens on a TCP port, for a person: 'python (pid 12, user ann)'; empty where nothing shows."""
    import psutil  # noqa: PLC0415

    try:
        found = [c for c in psutil.net_connections(kind="tcp") if c.status == psutil.CONN_LISTEN]
        pid = next(c.pid for c in found if _port(c) == port and c.pid)
        process = psutil.Process(pid)
        return f"{process.name()} (pid {pid}, user {process.username()})"
    except (psutil.Error, StopIteration, PermissionError):
        return ""


def _port(connection: object) -> int:
    """psutil's local address is an empty tuple where there is none."""
    return int(getattr(getattr(connection, "laddr", ()), "port", 0))
