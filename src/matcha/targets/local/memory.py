"""Memory of process trees, and the ports they listen on."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping
from pathlib import Path


def tree_memory(roots: Mapping[str, int]) -> dict[str, int]:
    """Name -> bytes that the process tree below its pid takes, -1 where the system does not say.

    Proportional set size on Linux, so that shared pages count once; elsewhere what is the tree's alone.
    """
    if not roots:
        return {}
    measure = _linux_pss if sys.platform == "linux" else _portable_uss
    children = _linux_children() if sys.platform == "linux" else _portable_children()
    return {name: _sum(measure(p) for p in _below(pid, children)) for name, pid in roots.items()}


def _sum(sizes: Iterable[int]) -> int:
    known = [size for size in sizes if size >= 0]
    return sum(known) if known else -1


def _below(root: int, children: Mapping[int, list[int]]) -> list[int]:
    found = [root]
    for pid in found:
        found.extend(children.get(pid, ()))
    return found


def _linux_children() -> dict[int, list[int]]:
    """Parent -> children of all processes that can be seen."""
    found: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                parent = int((entry / "stat").read_bytes().rpartition(b")")[2].split()[1])
            except OSError:
                continue
            found.setdefault(parent, []).append(int(entry.name))
    return found


def _linux_pss(pid: int) -> int:
    try:
        with Path(f"/proc/{pid}/smaps_rollup").open("rb") as lines:
            return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(b"Pss:"))
    except (OSError, StopIteration):
        return -1


def _portable_children() -> dict[int, list[int]]:
    import psutil  # noqa: PLC0415 - costs tens of milliseconds

    found: dict[int, list[int]] = {}
    for process in psutil.process_iter(["ppid"]):
        found.setdefault(process.info["ppid"], []).append(process.pid)
    return found


def _portable_uss(pid: int) -> int:
    import psutil  # noqa: PLC0415

    try:
        return int(psutil.Process(pid).memory_full_info().uss)
    except psutil.Error:
        return -1


def listening(roots: Iterable[int]) -> set[int]:
    """TCP ports that the process trees below these pids listen on."""
    import psutil  # noqa: PLC0415

    ports: set[int] = set()
    for root in roots:
        try:
            top = psutil.Process(root)
            tree = [top, *top.children(recursive=True)]
        except psutil.Error:
            continue
        for process in tree:
            ports |= _listening(process)
    return ports


def _listening(process: object) -> set[int]:
    import psutil  # noqa: PLC0415

    assert isinstance(process, psutil.Process)
    try:
        found = process.net_connections(kind="tcp")
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
