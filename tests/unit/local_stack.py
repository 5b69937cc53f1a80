"""A small real stack for tests of the local target: servers of the standard library, nothing to install."""

from __future__ import annotations

import sys
import uuid
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import msgspec

from matcha.component import Environment, Port, Probe, Service, service_digest
from matcha.errors import MatchaError
from matcha.events import Event
from matcha.state import Record, State
from matcha.targets.local import LocalOptions, LocalTarget

SERVER = """
import http.server, json, os, sys, threading
print("starting", os.getpid(), flush=True)
print("the secret is", os.environ.get("TOKEN", ""), flush=True)
if os.environ.get("FAIL"):
    print("cannot go on:", os.environ["FAIL"], flush=True)
    sys.exit(3)

class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        if self.path == "/hang":
            threading.Event().wait(30)
        body = json.dumps({
            "pid": os.getpid(), "args": sys.argv[1:], "env": dict(os.environ), "folder": os.getcwd(),
            "path": sys.path, "flags": sys.dont_write_bytecode,
        }).encode()
        self.send_response(int(self.path[1:]) if self.path[1:].isdigit() else 200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format, *args):
        print("asked for", self.path, flush=True)

address = (sys.argv[1], int(sys.argv[2]))
http.server.ThreadingHTTPServer(address, Handler).serve_forever()
"""


class NothingToInstall:
    """An installer whose environments are this Python."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.finished: list[Path] = []
        self.unreachable = ""

    def is_whole(self, environment: Environment, folder: Path) -> bool:
        return (folder / "bin" / "python").exists()

    def damage(self, folder: Path) -> str:
        return ""

    def install(self, environment: Environment, report: Any) -> Path:
        report("installing", 0.5)
        home = self.folder / environment.name
        (home / "bin").mkdir(parents=True, exist_ok=True)
        if not (home / "bin" / "python").exists():
            (home / "bin" / "python").symlink_to(Path(sys.executable).resolve())
        return home

    def notes(self, missing: Sequence[Environment]) -> Sequence[str]:
        return [f"{len(missing)} to install"] if missing else []

    def finish(self, folders: Iterable[Path]) -> None:
        self.finished.extend(folders)

    def sweep(self) -> None:
        """Nothing is ever half-made."""

    def check(self, environment: Environment) -> None:
        if environment.python == "<3":
            raise MatchaError("No Python fits.", resolution="install another")

    def check_index(self) -> None:
        if self.unreachable:
            raise MatchaError(self.unreachable, resolution="check the network")

    def cache(self) -> Path:
        return self.folder / "not made yet"

    def repair(self, environment: Environment, report: Any) -> Path:
        (self.folder / environment.name / "bin" / "python").unlink(missing_ok=True)
        return self.install(environment, report)


def web(name: str = "web", role: str = "", preferred: int = 0, **changes: Any) -> Service:
    """A server whose every answer tells how it was started."""
    settings: dict[str, Any] = {
        "role": role or f"role-of-{name}",
        "environment": "plain",
        "command": ("{files}/server.py", "{bind}", "{port:http}"),
        "ports": (Port("http", preferred),),
        "health": Probe(path="/health", start_timeout=30),
        "files": {"server.py": SERVER},
        "stop_seconds": 5,
    }
    return Service(name=name, **{**settings, **changes})


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
