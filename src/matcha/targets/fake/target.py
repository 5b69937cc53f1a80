"""Keeps what it was told in one JSON file; starts nothing, so every step succeeds unless told to fail.

`targets: {fake: {fail: [service/mlflow]}}` in the stack file makes the named steps raise ComponentFailed.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import msgspec

from matcha.access import Output
from matcha.component import Tokens
from matcha.errors import ComponentFailed, NotProvisioned
from matcha.events import Emit, Event
from matcha.service import Environment, Service, service_digest
from matcha.state import State
from matcha.target import Changed, Foundation, Seen, ServiceStatus, Snapshot, StateStore
from matcha.targets.fake.store import FakeStore, replace

Facts = dict[str, dict[str, Any]]


class FakeOptions(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`fail` holds keys of steps that raise; `port` is the first port it pretends to listen on;
    `foundations` names what it pretends to need besides the services; `expose` is the host by which it
    pretends that applications outside reach models.
    """

    fail: tuple[str, ...] = ()
    foundations: tuple[str, ...] = ()
    port: int = 9000
    expose: str = ""


class FakeTarget:
    name: ClassVar[str] = "fake"
    keeps_data: ClassVar[bool] = False
    Options: ClassVar[type[FakeOptions]] = FakeOptions

    def __init__(self, project: Path, options: FakeOptions | None = None) -> None:
        self._folder = project / ".matcha"
        self._options = options or FakeOptions()

    def store(self) -> StateStore:
        return FakeStore(self._folder)

    def observe(
        self,
        state: State | None,
        services: Sequence[Service],
        environments: Sequence[Environment] = (),
    ) -> Snapshot:
        return Snapshot({key: msgspec.convert(fact["seen"], Seen) for key, fact in self._read().items()})

    def foundations(
        self, services: Sequence[Service], environments: Sequence[Environment]
    ) -> Sequence[Foundation]:
        """Those that the options name, each carrying everything."""
        return [
            Foundation(name=name, digest="1", carries=("secrets", "stores", "environments", "databases"))
            for name in self._options.foundations
        ]

    def preflight(self, environments: Sequence[Environment], snapshot: Snapshot) -> Sequence[str]:
        return ()

    def begin(
        self, state: State, services: Sequence[Service], environments: Sequence[Environment] = ()
    ) -> State:
        wanted = [f"{s.name}/{p.name}" for s in services for p in s.ports]
        free = (n for n in range(self._options.port, 65536) if n not in state.ports.values())
        ports = {key: state.ports.get(key) or next(free) for key in wanted}
        return state.next(ports={**state.ports, **ports})

    def lay(self, foundation: str, emit: Emit) -> None:
        key = f"foundation/{foundation}"
        self._may_fail(key)
        self._put(key, Seen("present", "1"))

    def install(self, environment: Environment, emit: Emit) -> None:
        key = f"environment/{environment.name}"
        self._may_fail(key)
        emit(Event(key, "progress", "installing"))
        self._put(key, Seen("present", environment.digest))

    def ensure_secrets(self, names: Sequence[str]) -> None:
        self._may_fail("secrets")
        for name in names:
            if f"secret/{name}" not in self._read():
                self._put(f"secret/{name}", Seen("present"), value=f"secret-{name}")

    def ensure_stores(self, areas: Sequence[str]) -> None:
        for area in areas:
            self._put(f"store/{area}", Seen("present"))

    def start(self, service: Service, environment: Environment, emit: Emit) -> dict[str, int]:
        key = f"service/{service.name}"
        self._may_fail(key)
        emit(Event(key, "progress", f"waiting for {service.health.path}"))
        ports = {p.name: self._port(service.name, p.name) for p in service.ports}
        self._put(key, Seen("running", service_digest(service, environment)), ports=ports, live=service.live)
        return ports

    def _port(self, service: str, port: str) -> int:
        state = self.store().read()
        return state.ports[f"{service}/{port}"] if state else 0

    def refresh(self, service: Service) -> None:
        with FakeStore(self._folder).mutex():
            facts = self._read()
            facts[f"service/{service.name}"]["live"] = service.live
            self._write(facts)

    def remove_service(self, name: str, emit: Emit) -> None:
        with FakeStore(self._folder).mutex():
            facts = self._read()
            facts.pop(f"service/{name}", None)
            self._write(facts)

    def exposed(self) -> str:
        return self._options.expose

    def tokens(self) -> Tokens:
        kept = self._read().get("tokens")
        return msgspec.convert(kept["value"], Tokens) if kept else Tokens()

    def keep_tokens(self, tokens: Tokens, *, before: int, locked: bool = True) -> None:
        self._may_fail("tokens")
        if self.tokens().serial != before:
            raise Changed("Somebody else changed the tokens meanwhile.", resolution="matcha tokens list")
        self._put("tokens", Seen("present"), value=msgspec.to_builtins(tokens))

    def settle(self) -> None:
        """Nothing goes on afterwards."""

    def access(self, state: State) -> FakeAccess:
        return FakeAccess(self._folder, state, self._read, self._options.expose)

    def status(
        self, state: State, services: Sequence[Service] = (), environments: Sequence[Environment] = ()
    ) -> Sequence[ServiceStatus]:
        return [
            ServiceStatus(
                name=key.partition("/")[2],
                condition=fact["seen"]["condition"],
                address=f"http://127.0.0.1:{next(iter(fact['ports'].values()), 0)}",
            )
            for key, fact in self._read().items()
            if key.startswith("service/")
        ]

    def logs(self, service: str, *, lines: int, follow: bool) -> Iterator[str]:
        yield f"{service}: nothing to say, it is a fake"

    def stop(self, emit: Emit) -> None:
        if not self._file.exists():
            return
        facts = self._read()
        for key, fact in facts.items():
            if key.startswith("service/"):
                fact["seen"]["condition"] = "stopped"
        self._write(facts)

    def belongings(self, *, delete_data: bool = True) -> Sequence[str]:
        return sorted(key for key in self._read() if key.startswith(("service/", "store/")))

    def destroy(self, emit: Emit, *, delete_data: bool = True) -> None:
        """Folders are what clients were given; files are the record's and the lock's."""
        self._may_fail("destroy")
        self._file.unlink(missing_ok=True)
        for folder in [path for path in self._folder.glob("*") if path.is_dir()]:
            shutil.rmtree(folder)

    def kept(self) -> Sequence[str]:
        return ()

    def leftovers(self, *, delete_data: bool = True) -> Sequence[str]:
        return sorted(self._read())

    def _may_fail(self, key: str) -> None:
        if key in self._options.fail:
            raise ComponentFailed(
                f"{key} failed, as it was told to.", details="last log line", resolution="matcha logs"
            )

    @property
    def _file(self) -> Path:
        return self._folder / "fake.json"

    def _read(self) -> Facts:
        return dict(json.loads(self._file.read_text())) if self._file.exists() else {}

    def _write(self, facts: Facts) -> None:
        self._folder.mkdir(exist_ok=True)
        replace(self._file, json.dumps(facts).encode())

    def _put(self, key: str, seen: Seen, **more: Any) -> None:
        with FakeStore(self._folder).mutex():
            self._write({**self._read(), key: {"seen": msgspec.to_builtins(seen), **more}})


class FakeAccess:
    """Addresses that nothing answers at, and secrets that are none."""

    def __init__(self, folder: Path, state: State, read: Any, host: str = "") -> None:
        self._folder = folder
        self._host = host
        self._state = state
        self._read = read

    def url(self, role: str) -> str:
        return f"http://{self.address(role, 'http')}"

    def address(self, role: str, port: str) -> str:
        for record in self._state.resources.values():
            if record.role == role and port in record.ports:
                return f"127.0.0.1:{record.ports[port]}"
        raise NotProvisioned(f"{role} has no address yet.")

    def public_url(self, role: str) -> str:
        return f"https://{self._host}" if self._host and role == "model-deployer" else ""

    def secret(self, name: str) -> str:
        fact = self._read().get(f"secret/{name}")
        if fact is None:
            raise NotProvisioned(f"There is no secret {name} yet.")
        return str(fact["value"])

    def keep_secret(self, name: str, value: str) -> None:
        FakeTarget(self._folder.parent)._put(f"secret/{name}", Seen("present"), value=value)

    def store(self, area: str) -> str:
        return str(self._folder / "store" / area)

    def store_env(self) -> Mapping[str, Output]:
        return {}

    def inside(self, template: str) -> str:
        return template

    def database(self, name: str) -> Path | None:
        return None

    def folder(self, name: str) -> Path:
        folder = self._folder / name
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        return folder
