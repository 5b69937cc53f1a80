"""What a local stack shows of itself. Reads only."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec

from matcha.errors import MatchaError
from matcha.host.listening import listening
from matcha.host.memory import tree_memory
from matcha.host.ports import is_free
from matcha.host.probe import ask_all, port_of
from matcha.host.programs import ProgramStatus
from matcha.service import Service
from matcha.state import State
from matcha.target import Condition, Seen, ServiceStatus, Snapshot
from matcha.targets.local.describe import describe, places, ports_of
from matcha.targets.local.home import Stack
from matcha.targets.local.notes import ServiceNote
from matcha.targets.local.resolve import base_url, main_port

PROBE_SECONDS = 1.5
YOUNG = 20.0  # seconds: an older process has its port, or it would have ended
NOT_ITS_OWN = "another program has its port"
ROLE = "role/"  # prefix of the facts of a State that say which service plays a role


def roles_of(state: State) -> dict[str, str]:
    """Role -> service, as recorded when the run began."""
    return {k.removeprefix(ROLE): v for k, v in state.facts.items() if k.startswith(ROLE)}


def observe(
    stack: Stack, state: State | None, services: Sequence[Service], moves: Mapping[str, int]
) -> Snapshot:
    """`moves` are ports, by `service/port`, that are to become others than recorded."""
    programs = stack.supervisor.programs()
    notes = stack.notes.services()
    found = {
        **_environments(stack),
        **{f"secret/{name}": Seen("present") for name in stack.secrets.read()},
        **{f"store/{path.name}": Seen("present") for path in _areas(stack)},
    }
    wells = _wells(programs, notes)
    for name, (condition, detail) in wells.items():
        found[f"service/{name}"] = Seen(condition, _digest(programs[name], notes.get(name)), detail)
    if state:
        found |= _outdated(stack, services, notes, {**_ports(state, found), **moves}, found)
    return Snapshot(found)


def _digest(program: ProgramStatus, note: ServiceNote | None) -> str:
    """Of the description that what runs was made from; a note of what was never run does not count."""
    return note.description if note and note.made == program.digest else ""


def _environments(stack: Stack) -> dict[str, Seen]:
    notes = stack.notes.environments().values()
    return {f"environment/{n.name}": Seen("present", n.digest) for n in notes if n.python.exists()}


def _areas(stack: Stack) -> list[Path]:
    folder = stack.layout.area("")
    return [p for p in folder.iterdir() if p.is_dir()] if folder.is_dir() else []


def _wells(
    programs: Mapping[str, ProgramStatus], notes: Mapping[str, ServiceNote]
) -> dict[str, tuple[Condition, str]]:
    """Condition and detail of each program; those that run are asked, side by side."""
    urls = {n: notes[n].health for n, s in programs.items() if s.pid and n in notes}
    answers = ask_all(urls, PROBE_SECONDS)
    for name, url in urls.items():
        if not answers[name] and programs[name].uptime < YOUNG and _is_strange(programs[name].pid, url):
            answers[name] = NOT_ITS_OWN
    return {n: _well(s, answers.get(n, "its description is lost")) for n, s in programs.items()}


def _is_strange(pid: int, url: str) -> bool:
    """Whether somebody else answers at `url`, as when a service dies again and again for its port."""
    return port_of(url) not in listening([pid])


def _well(status: ProgramStatus, answer: str) -> tuple[Condition, str]:
    if status.condition != "running":
        return status.condition, status.detail
    return ("unhealthy", answer) if answer else ("running", "")


def _outdated(
    stack: Stack,
    services: Sequence[Service],
    notes: Mapping[str, ServiceNote],
    ports: Mapping[str, int],
    found: Mapping[str, Seen],
) -> dict[str, Seen]:
    """Services of an unchanged description that would be made differently now, beside these `services` and
    no others: some may have gone from the stack, and some have no ports yet.
    """
    remade = {}
    roles = {s.role: s.name for s in services}
    unclaimed = {f"{s.name}/{p.name}": 0 for s in services for p in s.ports}
    for service in services:
        note, seen = notes.get(service.name), found.get(f"service/{service.name}")
        if note and seen and made_of(stack, service, {**unclaimed, **ports}, roles) != note.made:
            why = (
                "the project's folder moved"
                if stack.moved_from
                else "its code or an address it uses has changed"
            )
            remade[f"service/{service.name}"] = msgspec.structs.replace(seen, digest="", detail=why)
    return remade


def _ports(state: State, found: Mapping[str, Seen]) -> dict[str, int]:
    """The recorded ports; 0 for one that somebody else took while its service was down."""
    return {key: port if _is_usable(key, port, found) else 0 for key, port in state.ports.items()}


def _is_usable(key: str, port: int, found: Mapping[str, Seen]) -> bool:
    seen = found.get(f"service/{key.rpartition('/')[0]}", Seen("absent"))
    return (seen.condition in ("running", "unhealthy") and seen.detail != NOT_ITS_OWN) or is_free(port)


def made_of(stack: Stack, service: Service, ports: Mapping[str, int], roles: Mapping[str, str]) -> str:
    """Digest of the program that the description means now; empty where that cannot be told."""
    environment = stack.notes.environment(service.environment)
    if environment is None:
        return ""
    where = places(service, stack.layout, ports, roles)
    try:
        return describe(service, environment.python, where, stack.layout, stack.secrets.path).program.digest
    except MatchaError:
        return ""


def status(stack: Stack, state: State) -> list[ServiceStatus]:
    programs = stack.supervisor.programs()
    memory: dict[str, int] = {}
    pids = {n: s.pid for n, s in programs.items() if s.pid}
    meanwhile = threading.Thread(target=lambda: memory.update(tree_memory(pids)))
    meanwhile.start()  # both are mostly waiting: for servers, and for the kernel
    wells = _wells(programs, stack.notes.services())
    meanwhile.join()
    recorded = (k.removeprefix("service/") for k in state.resources if k.startswith("service/"))
    names = dict.fromkeys((*recorded, *programs))
    return [_status(n, state, programs.get(n), wells.get(n), memory.get(n, -1), stack) for n in names]


def _status(
    name: str,
    state: State,
    program: ProgramStatus | None,
    well: tuple[Condition, str] | None,
    memory: int,
    stack: Stack,
) -> ServiceStatus:
    condition, detail = well or ("absent", "")
    ports = ports_of(name, state.ports)
    if stack.moved_from and condition != "absent":
        detail = f"the project's folder moved from {stack.moved_from}: run matcha provision"
        condition = "unhealthy" if condition == "running" else condition
    return ServiceStatus(
        name=name,
        condition=condition,
        address=base_url(main_port(ports)) if ports else "",
        detail=detail,
        memory=memory,
        restarts=program.restarts if program else 0,
        uptime=program.uptime if program else 0.0,
    )


class Listening:
    """Whether the stack's own processes listen on a port; they are looked for once, when first asked."""

    def __init__(self, stack: Stack) -> None:
        self._stack = stack
        self._ports: set[int] | None = None

    def __call__(self, port: int) -> bool:
        if self._ports is None:
            pids = [s.pid for s in self._stack.supervisor.programs().values() if s.pid]
            self._ports = listening(pids or self._stack.supervisor.survivors())
        return port in self._ports
