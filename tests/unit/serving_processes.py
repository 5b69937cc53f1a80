"""What stands for serving processes, and for the access to them, where what is told is looked at."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from matcha.errors import NotProvisioned
from matcha.service import PLACEHOLDER
from support.listening import Handler, Listening


class Process(Listening):
    """Stands for a serving process: remembers what it was told, answers with `errors` by name, once `before`
    returned, which it adds to those that it is told of, and shows `shown`.
    """

    def __init__(
        self,
        log: list[tuple[str, dict[str, Any]]],
        name: str,
        errors: dict[str, str],
        status: int = 200,
        shown: Any = (),
        port: int = 0,
        ready: str = "yes",
        before: Callable[[], Any] = lambda: None,
    ):
        class Told(Handler):
            def do_PUT(self) -> None:
                told = json.loads(self.body())
                log.append(
                    (name, {**told, "authorization": self.headers["Authorization"], "path": self.path})
                )
                names = [d["name"] for d in told["deployments"] if name != "child" or d["environment"]]
                known = {**errors, **told.get("failed", {}), **told.get("back", {})}
                before()
                self.say([{"name": n, "error": known.get(n, ""), "changed": n not in known} for n in names])

            def do_GET(self) -> None:
                if self.path != "/matcha/ready":
                    log.append((name, {"authorization": self.headers["Authorization"], "path": self.path}))
                self.say(shown)

            def do_POST(self) -> None:
                log.append((name, {"authorization": self.headers["Authorization"], "path": self.path}))
                self.say({"flushed": True})

            def say(self, content: Any) -> None:
                self.answer(status, json.dumps(content).encode(), X_Matcha_Ready=ready)

        super().__init__(Told, port)


class Reach:
    """The part of `Access` that publishing needs."""

    def __init__(self, **urls: str) -> None:
        self.urls = {role.replace("_", "-"): url for role, url in urls.items()}

    def url(self, role: str) -> str:
        if role not in self.urls:
            raise NotProvisioned(f"The {role} is not running yet.")
        return self.urls[role]

    def secret(self, name: str) -> str:
        return f"the {name}"

    def inside(self, template: str) -> str:
        return PLACEHOLDER.sub(lambda found: self.urls.get(found[2], "http://nowhere"), template)


class Spread(Reach):
    """Where a role's service runs as several replicas: a `ReplicatedAccess`. `listed` counts the listings."""

    def __init__(self, **running: Mapping[str, str]) -> None:
        super().__init__(**{role: next(iter(urls.values())) for role, urls in running.items()})
        self.running = {role.replace("_", "-"): dict(urls) for role, urls in running.items()}
        self.listed = 0

    @contextlib.contextmanager
    def replicas(self, role: str) -> Iterator[Mapping[str, str]]:
        if role not in self.running:
            raise NotProvisioned(f"The {role} is not running yet.")
        self.listed += 1
        yield dict(self.running[role])


@contextlib.contextmanager
def ending() -> Iterator[str]:
    """The address of what says that it takes requests, and hangs up on whoever tells it something."""
    over = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.1)

        def serve() -> None:
            while not over.is_set():
                with contextlib.suppress(TimeoutError):
                    peer, _ = server.accept()
                    with peer:
                        if peer.recv(65536).startswith(b"GET"):
                            peer.sendall(b"HTTP/1.0 200 OK\r\nx-matcha-ready: yes\r\n\r\n[]")

        thread = threading.Thread(target=serve)
        thread.start()
        yield f"http://127.0.0.1:{server.getsockname()[1]}"
        over.set()
        thread.join()
