"""Bringing one service up: its files, its databases, its process, and the wait until it is well."""

from __future__ import annotations

import errno
import os
import re
import shutil
import sqlite3
import time
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path

from matcha.errors import COMPONENT, AddressTaken, ComponentFailed, MatchaError
from matcha.events import Emit, Event
from matcha.host.files import private_folder, unwritable, write_changed
from matcha.host.listening import listener, listening
from matcha.host.logs import last_lines
from matcha.host.ports import is_free
from matcha.host.probe import ask, port_of
from matcha.host.programs import ProgramStatus
from matcha.service import Database, Service
from matcha.targets.local.describe import Made
from matcha.targets.local.home import Stack

_FRESH_UUID = re.compile(r"\{fresh-uuid\}")
_OF_THE_DISK = {"database or disk is full": errno.ENOSPC, "disk I/O error": errno.EIO}  # SQLite's words
_LOG_LINES = 20
_DEATHS = 2  # of a process that cannot start, before its crash loop is called a failure


def lay_out(stack: Stack, service: Service, made: Made) -> None:
    """Folders, databases and files of the service, written before its process starts."""
    for volume in (*service.volumes, *service.caches):
        private_folder(stack.layout.volume(service.name, volume))
    for area in service.stores:
        private_folder(stack.layout.area(area))
    for database in service.databases:
        _seed(database, stack.layout.database(service.name, database.name))
    write_files(stack.layout.files(service.name), made.files)
    write_files(stack.layout.live(service.name), made.live)


def write_files(folder: Path, texts: Mapping[str, str]) -> None:
    """Makes `folder` hold exactly `texts` (by relative name); each file changes at once or not at all."""
    private_folder(folder)
    for name, text in texts.items():
        path = folder / name
        if not path.resolve().is_relative_to(folder.resolve()):
            raise MatchaError(f"A service's file would lie outside its folder: {name}", resolution=COMPONENT)
        write_changed(path, text.encode())
    wanted = {folder / name for name in texts}
    for path in [p for p in folder.rglob("*") if not p.is_dir()]:
        if path not in wanted:
            path.unlink(missing_ok=True)
    _drop_empty(folder)


def _drop_empty(folder: Path) -> None:
    for path in sorted((p for p in folder.rglob("*") if p.is_dir()), reverse=True):
        if not any(path.iterdir()):
            shutil.rmtree(path)


def _seed(database: Database, path: Path) -> None:
    """Makes the database from its seed, once: one that exists is never touched.

    Raises NoRoom where the disk is full, MatchaError where it may not be written to.
    """
    private_folder(path.parent)
    if database.seed is None or path.exists():
        return
    script = _FRESH_UUID.sub(lambda _: uuid.uuid4().hex, database.seed.read_text("utf-8"))
    half_made = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        half_made.touch(mode=0o600)
        _run_script(half_made, script)
        half_made.replace(path)
    except OSError as error:
        raise unwritable(path, error) from error
    finally:
        half_made.unlink(missing_ok=True)


def _run_script(path: Path, script: str) -> None:
    """Without SQLite's own care for each statement: the file is made safe as a whole, or thrown away."""
    connection = sqlite3.connect(path)
    try:
        connection.executescript("pragma synchronous = off; pragma journal_mode = off;")
        connection.executescript(script)
        connection.commit()
    except sqlite3.OperationalError as error:
        if number := _OF_THE_DISK.get(str(error)):
            raise OSError(number, os.strerror(number)) from error
        raise
    finally:
        connection.close()
    with path.open("rb") as file:
        os.fsync(file.fileno())


def wait_healthy(stack: Stack, service: Service, made: Made, emit: Emit) -> None:
    """Until the service's own process answers its health check. Raises ComponentFailed with its log's end."""
    Wait(stack, service, made, emit).run()


class Wait:
    """One service on its way to health. `clock` is in seconds, `pause` sleeps."""

    def __init__(
        self,
        stack: Stack,
        service: Service,
        made: Made,
        emit: Emit,
        clock: Callable[[], float] = time.monotonic,
        pause: Callable[[float], None] = time.sleep,
    ) -> None:
        self._stack = stack
        self._service = service
        self._url = made.health
        self._emit = emit
        self._clock = clock
        self._pause = pause
        self._began = clock()
        self._looked = self._told = self._began
        self._deaths = self._program().restarts

    def run(self) -> None:
        nap = 0.05
        while True:
            answer = ask(self._url, self._service.health.timeout)
            if not answer and self._is_own():
                return
            self._check(answer)
            self._pause(nap)
            nap = min(0.25, nap * 1.3)

    def _elapsed(self) -> float:
        return self._clock() - self._began

    def _check(self, answer: str) -> None:
        now = self._clock()
        if now - self._looked >= 0.5:
            self._looked = now
            self._check_process()
        if now - self._told >= 1:
            self._told = now
            waiting = f"waiting for {self._service.health.path} ({self._elapsed():.0f} s)"
            self._emit(Event(f"service/{self._service.name}", "progress", waiting, self._elapsed()))
        if self._elapsed() > self._service.health.start_timeout:
            limit = self._service.health.start_timeout
            raise self._failed(
                f"did not become healthy in {limit:g} s ({answer or 'its port is not its own'})"
            )

    def _check_process(self) -> None:
        status = self._program()
        dying = status.restarts - self._deaths >= _DEATHS
        if status.condition in ("failed", "absent", "stopped") or dying:
            refuse_taken_ports(self._stack, self._service.name, {"": port_of(self._url)})
            raise self._failed(f"does not start ({status.detail or 'its process ended'})")

    def _program(self) -> ProgramStatus:
        absent = ProgramStatus(name=self._service.name, condition="absent")
        return self._stack.supervisor.programs().get(self._service.name, absent)

    def _is_own(self) -> bool:
        """Another program may have taken the port and answer in the service's place."""
        pid = self._program().pid
        return bool(pid) and port_of(self._url) in listening([pid])

    def _failed(self, what: str) -> ComponentFailed:
        name = self._service.name
        lines = self._stack.secrets.redact(last_lines(self._stack.layout.log(name), _LOG_LINES))
        return ComponentFailed(
            f"{name} {what}.",
            details="\n".join(lines) or "It wrote nothing to its log.",
            resolution=f"matcha logs {name}",
        )


def refuse_taken_ports(stack: Stack, name: str, ports: Mapping[str, int]) -> None:
    """Before a start. Raises ComponentFailed where somebody else listens on a port of the service."""
    busy = [port for port in ports.values() if not is_free(port)]
    if not busy:
        return
    program = stack.supervisor.programs().get(name)
    own = listening([program.pid]) if program and program.pid else set()
    if taken := sorted(set(busy) - own):
        raise AddressTaken(
            f"{name} cannot listen on port {taken[0]}: {listener(taken[0]) or 'another program'} does.",
            details="Once more, and the service gets another port.",
            resolution="matcha provision",
        )
