"""Taking a local stack away, and the proof that it is gone."""

from __future__ import annotations

import time
from collections.abc import Sequence

from matcha.events import Emit, Event
from matcha.host.files import remove_empty, remove_tree, size_of
from matcha.host.listening import listening
from matcha.targets.local.home import Stack
from matcha.targets.local.layout import Layout


def belongings(stack: Stack) -> list[str]:
    """Lines for a person: processes, then folders with their sizes."""
    lines = [*_running(stack), *_jobs(stack)]
    for path, what in (
        (stack.layout.databases, "databases"),
        (stack.layout.area(""), "stored files"),
        (stack.layout.stack, "everything the services wrote"),
        (stack.secrets.path, "passwords and keys"),
    ):
        if path.exists():
            size = f" ({_readable(size_of(path))})" if path.is_dir() else ""
            lines.append(f"{what}{size}: {path}")
    return lines


def _running(stack: Stack) -> list[str]:
    names = sorted(n for n, s in stack.supervisor.programs().items() if s.pid)
    if names:
        return [f"running services: {', '.join(names)}"]
    pids = stack.supervisor.survivors()
    return [f"running processes: {', '.join(map(str, pids))}"] if pids else []


def _jobs(stack: Stack) -> list[str]:
    from matcha.targets.local import jobs  # noqa: PLC0415 - psutil: `status` must not pay for it

    return [f"a running job: {title}" for title in jobs.titles(stack.id, stack.layout.project)]


def _end_jobs(stack: Stack) -> None:
    from matcha.targets.local import jobs  # noqa: PLC0415 - as above

    jobs.end(stack.id, stack.layout.project)


def _readable(size: int) -> str:
    return f"{size / 1e6:.1f} MB" if size < 1e9 else f"{size / 1e9:.1f} GB"


def destroy(stack: Stack, emit: Emit) -> None:
    """The index that names the stack goes last, so that the next run can finish what a killed one left."""
    began = time.monotonic()

    def say(what: str) -> None:
        emit(Event("stack", "progress", what, time.monotonic() - began))

    say("stopping every process")
    _end_jobs(stack)
    stack.supervisor.shutdown()
    say("removing files")
    remove_tree(stack.layout.stack)
    remove_tree(stack.runtime)
    stack.ports.drop(stack.claimant)
    remove_tree(stack.user.stack(stack.id))
    remove_empty(stack.runtime.parent, stack.user.stacks, stack.user.data)


def remove_files(layout: Layout) -> None:
    """Of a project whose stack nobody knows any more."""
    remove_tree(layout.stack)


def remove_service(stack: Stack, name: str) -> None:
    """The files of a service that has stopped, and its ports; its volumes and databases stay."""
    note = stack.notes.service(name)
    stack.ports.drop(stack.claimant, note.ports.values() if note else ())
    for folder in (stack.layout.files(name), stack.layout.live(name), stack.layout.work(name)):
        remove_tree(folder)
    for log in stack.layout.logs.glob(f"{name}.log*"):
        log.unlink(missing_ok=True)
    stack.notes.drop_service(name)


def leftovers(stack: Stack) -> Sequence[str]:
    """What is still there of the stack, as lines; empty when it is proved gone."""
    pids = stack.supervisor.survivors()
    lines = [f"process {pid}" for pid in pids]
    lines += _jobs(stack)
    lines += [f"port {port}, held by a process of the stack" for port in sorted(listening(pids))]
    folders = (stack.layout.stack, stack.runtime, stack.user.stack(stack.id))
    lines += [str(path) for path in folders if path.exists()]
    lines += [f"port {port}, claimed" for port in stack.ports.held(stack.claimant)]
    return lines
