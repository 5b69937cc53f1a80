"""A small real service for tests: a server of the standard library, and nothing to install."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import msgspec

from matcha.errors import MatchaError
from matcha.service import Environment, Port, Probe, Service

SERVER = """
import http.server, json, os, sys, threading
print("starting", os.getpid(), flush=True)
print("the secret is", os.environ.get("TOKEN", ""), flush=True)
if os.environ.get("FAIL"):
    print("cannot go on:", os.environ["FAIL"], flush=True)
    sys.exit(3)

# What it keeps in its volume, and what it is told while it runs, where it has the one or the other.
starts = os.path.join(os.environ["DATA"], "starts") if os.environ.get("DATA") else os.devnull
with open(starts, "a") as file:
    file.write("x")

def live():
    folder = os.environ.get("LIVE")
    names = [name for name in os.listdir(folder) if name[0] != "."] if folder else []
    return {name: open(os.path.join(folder, name)).read() for name in names}

class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        if self.path == "/hang":
            threading.Event().wait(30)
        body = json.dumps({
            "pid": os.getpid(), "args": sys.argv[1:], "env": dict(os.environ), "folder": os.getcwd(),
            "path": sys.path, "flags": sys.dont_write_bytecode,
            "starts": len(open(starts).read()), "live": live(),
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


def stored(service: Service) -> Service:
    """With a secret, a store, and a volume in which it counts its starts."""
    return msgspec.structs.replace(
        service,
        env={"DATA": "{volume:data}", "LIVE": "{live}", "STORE": "{store:things}", **service.env},
        secrets={"TOKEN": "web-token", **service.secrets},
        stores=("things", *service.stores),
        volumes=("data", *service.volumes),
    )
