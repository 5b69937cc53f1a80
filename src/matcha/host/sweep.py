"""Find and end processes by the mark in their environment, whoever their parent is now.

Also loaded by the launcher and the health listener, which run without Matcha.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator

import psutil

TAG = "MATCHA_STACK_TAG"  # every process of a stack
JOB = "MATCHA_STACK_JOB"  # every process of a job: another mark, so that what restarts services ends no job
PROGRAM = "MATCHA_PROGRAM"  # every process of one program of it


def tagged(tag: str, program: str = "", mark: str = TAG) -> list[psutil.Process]:
    """This user's live processes whose `mark` is `tag` (and belong to `program`), and their descendants.

    Descendants count because some servers overwrite their own environment with a process title. Never this
    process or one of its ancestors: a terminal of the stack may be where `destroy` was typed.
    """
    children: dict[int, list[psutil.Process]] = {}
    roots = []
    for process, parent, environ in _own_processes():
        children.setdefault(parent, []).append(process)
        if environ.get(mark) == tag and (not program or environ.get(PROGRAM) == program):
            roots.append(process)
    spared = _self_and_ancestors()
    return [process for process in _with_descendants(roots, children) if process.pid not in spared]


def sweep(tag: str, grace: float, program: str = "", mark: str = TAG) -> list[int]:
    """End them: SIGTERM, up to `grace` seconds, SIGKILL until none is left (at most five seconds more).

    Looks again after every pause, since a process may fork while it is being ended. Returns the pids met.
    """
    met: set[int] = set()
    _until_gone(lambda: tagged(tag, program, mark), psutil.Process.terminate, met, grace)
    _until_gone(lambda: tagged(tag, program, mark), psutil.Process.kill, met, 5.0)
    return sorted(met)


def _until_gone(
    find: Callable[[], list[psutil.Process]],
    signal: Callable[[psutil.Process], None],
    met: set[int],
    seconds: float,
) -> None:
    deadline = time.monotonic() + seconds
    asked: set[psutil.Process] = set()
    while left := find():
        for process in set(left) - asked:
            _send(process, signal)
        asked.update(left)
        met.update(process.pid for process in left)
        remaining = deadline - time.monotonic()
        if remaining <= 0:
            return
        psutil.wait_procs(left, timeout=min(remaining, 0.5))


def _send(process: psutil.Process, signal: Callable[[psutil.Process], None]) -> None:
    try:
        signal(process)
    except psutil.Error:
        return  # gone since, or its pid is somebody else's now


def _own_processes() -> Iterator[tuple[psutil.Process, int, dict[str, str]]]:
    """Those whose environment can be read, which a zombie's cannot."""
    me = os.getuid()
    for process in psutil.process_iter():
        try:
            if process.uids().real == me:
                yield process, process.ppid(), process.environ()
        except (psutil.Error, OSError):
            continue


def _self_and_ancestors() -> set[int]:
    me = psutil.Process()
    return {me.pid, *(process.pid for process in me.parents())}


def _with_descendants(
    roots: list[psutil.Process], children: dict[int, list[psutil.Process]]
) -> list[psutil.Process]:
    found: dict[int, psutil.Process] = {}
    queue = list(roots)
    while queue:
        process = queue.pop()
        if process.pid not in found:
            found[process.pid] = process
            queue.extend(children.get(process.pid, ()))
    return list(found.values())
