"""Runs a component's service as a process of its own environment, as a target would, without supervision."""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import signal
import socket
import sqlite3
import subprocess
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Iterator
from pathlib import Path

from matcha import environments
from matcha.component import Component
from matcha.service import OUTSIDE, PLACEHOLDER, Database, Environment, Service
from support.access import FolderAccess

START_SECONDS = 180


def interpreter(environment: Environment) -> Path:
    """Of the environment, installed now where it was not."""
    python = environments.python_for(environment.python)
    warm = environments.warm_modules(environment.warm)
    return environments.install(environment.lock, python, warm=warm) / "bin" / "python"


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


class Running:
    """One service that answers. `log` is what it printed."""

    def __init__(self, component: Component, access: FolderAccess, *, port: int = 0) -> None:
        self.service: Service = component.services(())[0]
        self.access = access
        self.port = port or free_port()
        self.environment = next(e for e in component.environments() if e.name == self.service.environment)
        self.url = f"http://127.0.0.1:{self.port}"
        self._log = access.root / f"{self.service.name}.log"
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def log(self) -> str:
        return self._log.read_text()

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def start(self, python: Path | None = None, **extra: str) -> None:
        """`python` in place of the locked environment's; `extra` goes into the service's variables."""
        self._prepare()
        command = [str(python or interpreter(self.environment)), *map(self.resolve, self.service.command)]
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                command,
                cwd=self.access.folder(f"{self.service.name}-cwd"),
                env={**self._variables(), **extra},
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self._await()
        self.access.urls[self.service.role] = self.url

    def kill(self) -> None:
        self._end(signal.SIGKILL)

    def stop(self) -> None:
        self._end(signal.SIGTERM)

    def resolve(self, text: str) -> str:
        return PLACEHOLDER.sub(lambda found: self._place(found[1], found[2] or ""), text)

    def _place(self, kind: str, name: str) -> str:
        places = {
            "port": str(self.port),
            "bind": "127.0.0.1",
            "hosts": f"127.0.0.1,localhost,127.0.0.1:{self.port},localhost:{self.port}",
            "volume": str(self.access.root / "volumes" / name),
            "store": self.access.store(name),
            "outside": OUTSIDE.get(name, ""),
            "database": f"sqlite:///{self.access.root}/databases/{name}.db",
        }
        return places[kind]

    def _variables(self) -> dict[str, str]:
        kept = {name: os.environ[name] for name in ("PATH", "HOME", "LANG") if name in os.environ}
        own = {name: self.resolve(value) for name, value in self.service.env.items()}
        hidden = {name: self.access.secret(key) for name, key in self.service.secrets.items()}
        return {**kept, **own, **hidden, "PYTHONPATH": ":".join(map(str, self.service.code))}

    def _prepare(self) -> None:
        for name in (*self.service.volumes, *self.service.caches):
            (self.access.root / "volumes" / name).mkdir(parents=True, exist_ok=True)
        for key in self.service.secrets.values():
            if key not in self.access.secrets():
                self.access.keep_secret(key, secrets.token_urlsafe(32))
        for database in self.service.databases:
            self._seed(database)

    def _seed(self, database: Database) -> None:
        place = self.access.root / "databases" / f"{database.name}.db"
        place.parent.mkdir(exist_ok=True)
        if not place.exists() and database.seed is not None and database.seed.exists():
            with contextlib.closing(sqlite3.connect(place)) as connection:
                seed = re.sub(r"\{fresh-uuid\}", lambda _: uuid.uuid4().hex, database.seed.read_text())
                connection.executescript(seed)

    def _await(self) -> None:
        deadline = time.monotonic() + START_SECONDS
        while not answers(self.url + self.service.health.path):
            assert self._process is not None
            assert self._process.poll() is None, f"{self.service.name} ended:\n{self.log[-4000:]}"
            assert time.monotonic() < deadline, f"{self.service.name} does not answer:\n{self.log[-4000:]}"
            time.sleep(0.1)

    def _end(self, how: signal.Signals) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, how)
        try:
            process.wait(self.service.stop_seconds)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait(10)


@contextlib.contextmanager
def running(component: Component, access: FolderAccess, python: Path | None = None) -> Iterator[Running]:
    service = Running(component, access)
    try:
        service.start(python)
        yield service
    finally:
        service.stop()


def answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=3) as answer:
            return bool(answer.status < 300)
    except OSError:
        return False


def status(url: str, method: str = "GET", **headers: str) -> int:
    """The HTTP status; underscores of header names stand for hyphens."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    request = urllib.request.Request(
        url, method=method, headers=named, data=b"{}" if method == "POST" else None
    )
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        with error:
            return int(error.code)
