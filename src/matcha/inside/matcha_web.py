"""What Matcha's launchers of web servers share: a guard against other web pages, and a light start.

Runs in a component's own environment, where nothing of Matcha is installed; needs only uvicorn there.
"""

from __future__ import annotations

import argparse
import gc
from collections.abc import Awaitable, Callable, Iterable, Mapping, MutableMapping
from importlib import import_module
from typing import Any, NamedTuple

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

GRACE_SECONDS = 10  # for requests in flight at the end; below every service's stop_seconds


class Where(NamedTuple):
    """Where to listen, and the Host headers to answer to."""

    bind: str
    port: int
    hosts: tuple[str, ...]


def where(arguments: list[str]) -> Where:
    """From `--bind ADDRESS --port NUMBER --hosts A,B`."""
    parser = argparse.ArgumentParser(allow_abbrev=False)
    parser.add_argument("--bind", required=True)
    parser.add_argument("--port", required=True, type=int)
    parser.add_argument("--hosts", required=True, help="comma-separated; without a port: at any port")
    found = parser.parse_args(arguments)
    hosts = (host.strip().lower() for host in found.hosts.split(","))
    return Where(found.bind, found.port, tuple(host for host in hosts if host))


class Guard:
    """Refuses with 403 what a page of another origin could send to a server on this machine.

    A request passes when it names the server by one of `hosts` (which ends DNS rebinding) and comes from no
    page or from a page of the server itself. Clients that are not browsers send no Origin and pass.
    Paths that start with one of `closed` answer 404. `headers` replace those of every answer.
    """

    def __init__(
        self,
        app: App,
        hosts: Iterable[str],
        *,
        closed: tuple[str, ...] = (),
        headers: Mapping[str, str] | None = None,
    ) -> None:
        self.app = app
        self.hosts = frozenset(hosts)
        self.closed = closed
        self.headers = {name.lower().encode(): value.encode() for name, value in (headers or {}).items()}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self.app(scope, receive, send)
            return
        if refusal := self.refusal(scope):
            await _refuse(scope, receive, send, *refusal)
            return
        await self.app(scope, receive, self._dressed(send) if self.headers else send)

    def refusal(self, scope: Scope) -> tuple[int, str] | None:
        """Status and text of the refusal; None for a request that may pass."""
        host = _only(scope, b"host")
        if host not in self.hosts and _without_port(host) not in self.hosts:
            return 403, "Unknown Host header."
        if _from_elsewhere(scope, host):
            return 403, "Requests from other web pages are refused."
        if self.closed and str(scope["path"]).startswith(self.closed):
            return 404, "Switched off by Matcha."
        return None

    def _dressed(self, send: Send) -> Send:
        async def dressed(message: Message) -> None:
            if message["type"] == "http.response.start":
                kept = [pair for pair in message.get("headers", ()) if pair[0].lower() not in self.headers]
                message["headers"] = [*kept, *self.headers.items()]
            await send(message)

        return dressed


def _only(scope: Scope, name: bytes) -> str:
    """The value of a header that must stand exactly once; empty otherwise."""
    found = [value for key, value in scope["headers"] if key.lower() == name]
    return found[0].decode("latin-1").strip().lower() if len(found) == 1 else ""


def _without_port(host: str) -> str:
    name, colon, port = host.rpartition(":")
    return name if colon and port.isdigit() else host


def _from_elsewhere(scope: Scope, host: str) -> bool:
    origins = [value for key, value in scope["headers"] if key.lower() == b"origin"]
    if origins and _only(scope, b"origin").partition("://")[2] != host:
        return True
    if _only(scope, b"sec-fetch-site") not in ("cross-site", "same-site"):
        return False
    followed_a_link = _only(scope, b"sec-fetch-mode") == "navigate" and scope.get("method") == "GET"
    return not followed_a_link


async def _refuse(scope: Scope, receive: Receive, send: Send, status: int, text: str) -> None:
    if scope["type"] == "websocket":
        await receive()
        await send({"type": "websocket.close", "code": 1008})
        return
    headers = [(b"content-type", b"text/plain; charset=utf-8"), (b"content-length", str(len(text)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": text.encode()})


def serve(load: Callable[[], App], at: Where, *, own_logging: bool = False) -> None:
    """Run the app that `load` imports until SIGTERM. `own_logging`: it has set up uvicorn's loggers.

    No garbage is collected while importing, and none of what was imported is looked at later: it starts
    sooner, and its memory stays untouched.
    """
    gc.disable()
    app = load()
    gc.freeze()
    gc.enable()
    uvicorn = import_module("uvicorn")
    logging: dict[str, Any] = {"log_config": None} if own_logging else {}
    config = uvicorn.Config(
        app,
        host=at.bind,
        port=at.port,
        access_log=False,  # every health check would be a line
        server_header=False,
        proxy_headers=False,  # nobody stands in front, so nobody may say who asks
        timeout_graceful_shutdown=GRACE_SECONDS,
        **logging,
    )
    uvicorn.Server(config).run()
