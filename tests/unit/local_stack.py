"""A small real stack for tests of the local target: servers of the standard library, nothing to install."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from matcha.events import Event
from matcha.service import Environment, Service, service_digest
from matcha.state import Record, State
from matcha.targets.local import LocalOptions, LocalTarget
from support.plain import SERVER, NothingToInstall, web

__all__ = ["SERVER", "Bench", "NothingToInstall", "traces", "web"]


class Bench:
    """A project folder, its target, and the calls that the engine would make."""

    def __init__(self, project: Path, envs: Path, **options: Any) -> None:
        project.mkdir(parents=True, exist_ok=True)
        self.project = project
        self.envs = envs
        envs.mkdir(parents=True, exist_ok=True)
        lock = envs / "plain.lock"
        lock.write_text("")
        self.environment = Environment(name="plain", lock=lock)
        self.installer: Any = NothingToInstall(envs)
        self.events: list[Event] = []
        self.reopen(**options)

    def reopen(self, project: Path | None = None, **options: Any) -> None:
        """A new target object, as another command would have."""
        self.project = project or self.project
        self.target = LocalTarget(self.project, LocalOptions(**options), installer=self.installer)
        self.store = self.target.store()

    def provision(self, *services: Service) -> State:
        token = self.store.acquire("provision", wait=5, emit=self.events.append).token
        try:
            return self._provision(token, services)
        finally:
            self.store.release(token)

    def _provision(self, token: str, services: Sequence[Service]) -> State:
        state = self.store.read() or State(stack_id=uuid.uuid4().hex, stack="default", target="local")
        self.store.write(state, token)
        claimed = self.target.begin(state, services)
        state = state.next(ports=claimed.ports, facts=claimed.facts)
        self.store.write(state, token)
        self.target.install(self.environment, self.events.append)
        self.target.ensure_secrets([n for s in services for n in s.secrets.values()])
        for service in services:
            ports = self.target.start(service, self.environment, self.events.append)
            digest = service_digest(service, self.environment)
            record = Record(digest=digest, ports=ports, role=service.role)
            state = state.with_resource(f"service/{service.name}", record)
            self.store.write(state, token)
        return state

    def destroy(self) -> Sequence[str]:
        """What was left over."""
        token = self.store.acquire("destroy", wait=5, emit=self.events.append).token
        try:
            self.target.destroy(self.events.append)
            self.store.delete(token)
        finally:
            self.store.release(token)
        return self.target.leftovers()

    def ask(self, url: str) -> dict[str, Any]:
        """What a `web` service at `url` tells of itself."""
        import httpx

        return dict(msgspec.json.decode(httpx.get(url, timeout=10, trust_env=False).content))


def traces(user_folders: Path) -> list[Path]:
    """What lies in the user's folders besides the folders that are the user's: data, and the shared cache."""
    kept = (user_folders / "data", user_folders / ".cache", user_folders / ".cache" / "matcha")
    return [p for p in user_folders.rglob("*") if p not in kept]
