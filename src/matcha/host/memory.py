"""Memory of process trees."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from matcha.host.processes import below, children_by_parent, has_proc


def tree_memory(roots: Mapping[str, int]) -> dict[str, int]:
    """Name -> bytes that the process tree below its pid takes, -1 where the system does not say.

    Proportional set size on Linux, so that shared pages count once; elsewhere what is the tree's alone.
    """
    if not roots:
        return {}
    measure = _linux_pss if has_proc() else _portable_uss
    children = children_by_parent()
    return {name: _sum(measure(p) for p in below(pid, children)) for name, pid in roots.items()}


def _sum(sizes: Iterable[int]) -> int:
    known = [size for size in sizes if size >= 0]
    return sum(known) if known else -1


def _linux_pss(pid: int) -> int:
    try:
        with Path(f"/proc/{pid}/smaps_rollup").open("rb") as lines:
            return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(b"Pss:"))
    except (OSError, StopIteration):
        return -1


def _portable_uss(pid: int) -> int:
    import psutil  # noqa: PLC0415

    try:
        return int(psutil.Process(pid).memory_full_info().uss)
    except psutil.Error:
        return -1
