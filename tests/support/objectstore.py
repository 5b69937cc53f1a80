"""The object store of clusters as a process on this machine, and a proxy before it that makes trouble."""

from __future__ import annotations

import contextlib
import http.client
import http.server
import os
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

import pytest

from support.interposed import Interposed

ACCESS_KEY, SECRET_KEY = "matcha-test", "a/secret+with=signs"
PATIENCE = 60.0  # seconds until it listens, on a busy machine
HELD = 300.0  # seconds after which a request that is held goes on, whoever forgot it
STARTS = 5  # another program may take the port between its choice and its use
ANSWERS = {
    "slow": (503, b"<Error><Code>SlowDown</Code><Message>Reduce your request rate.</Message></Error>"),
    "refuse": (403, b"<Error><Code>AccessDenied</Code><Message>Access Denied.</Message></Error>"),
}


def find_versitygw() -> Path:
    """From PATH, or the newest that `tests/e2e/cluster/build` made; without one the test is skipped."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "matcha-tests"
    made = sorted(cache.glob("cluster-*/versitygw"), key=lambda p: p.stat().st_mtime)
    found = shutil.which("versitygw") or (made[-1] if made else None)
    if not found:
        reason = "needs versitygw on PATH (or tests/e2e/cluster/build)"
        (pytest.fail if os.environ.get("MATCHA_REQUIRE_ALL") else pytest.skip)(reason)
    return Path(found)


class ObjectStore:
    """versitygw over `folder`; its buckets are the folders in it."""

    def __init__(self, folder: Path, *options: str, scheme: str = "http") -> None:
        self.folder = folder
        self.port = 0
        self.process: subprocess.Popen[bytes] | None = None
        self._program = find_versitygw()
        self._options = options
        self._scheme = scheme
        folder.mkdir(parents=True, exist_ok=True)

    @property
    def url(self) -> str:
        return f"{self._scheme}://127.0.0.1:{self.port}"

    def start(self) -> None:
        for left in reversed(range(STARTS)):
            self.port = self.port or _free_port()
            self._run()
            if self._listens():
                return
            self.stop()
            self.port = 0
            assert left, "versitygw does not start"

    def _run(self) -> None:
        command = [str(self._program), "--port", f"127.0.0.1:{self.port}", "--health", "/health", "--quiet"]
        self.process = subprocess.Popen(
            [*command, *self._options, "posix", str(self.folder)],
            env={"PATH": os.defpath, "ROOT_ACCESS_KEY": ACCESS_KEY, "ROOT_SECRET_KEY": SECRET_KEY},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )

    def _listens(self) -> bool:
        assert self.process
        end = time.monotonic() + PATIENCE
        while time.monotonic() < end and self.process.poll() is None:
            with contextlib.suppress(OSError):
                socket.create_connection(("127.0.0.1", self.port), timeout=5).close()
                return self.process.poll() is None
            time.sleep(0.05)
        return False

    def stop(self) -> None:
        if self.process:
            self.process.kill()
            self.process.wait()


@contextlib.contextmanager
def object_store(folder: Path, *options: str, scheme: str = "http") -> Iterator[ObjectStore]:
    store = ObjectStore(folder, *options, scheme=scheme)
    store.start()
    try:
        yield store
    finally:
        store.stop()


Action = Literal[
    "slow", "refuse", "cut request", "cut answer", "lose answer", "spoil request", "spoil answer", "hold"
]


@dataclass
class Trouble:
    """What befalls the next `times` requests of this method whose target holds `part`, after `skip` of them.

    `slow`: 503. `refuse`: 403. `cut request`: the connection dies while the body comes. `cut answer`: while
    the answer's body goes. `lose answer`: after the store has done it. `spoil`: one byte becomes another.
    `hold`: the store does not have the request until `let_go`.
    """

    action: Action
    method: str
    part: str = ""
    times: int = 1
    skip: int = 0
    came: threading.Event = field(default_factory=threading.Event)
    let_go: threading.Event = field(default_factory=threading.Event)

    def takes(self, method: str, target: str) -> bool:
        if self.times <= 0 or method != self.method or self.part not in target:
            return False
        if self.skip > 0:
            self.skip -= 1
            return False
        self.times -= 1
        self.came.set()
        return True


class Meddler:
    """Forwards plain HTTP to a store. The Host header stays, since it is signed."""

    def __init__(self, target: str) -> None:
        self.requests: list[tuple[str, str, dict[str, str]]] = []
        self._host = urlsplit(target).netloc
        self._troubles: list[Trouble] = []
        self._mutex = threading.Lock()
        self.server = Interposed(self._serve)
        self.url = self.server.url

    def add(self, action: Action, method: str, part: str = "", **more: Any) -> Trouble:
        trouble = Trouble(action, method, part, **more)
        self._troubles.append(trouble)
        return trouble

    def _serve(self, handler: http.server.BaseHTTPRequestHandler) -> None:
        handler.close_connection = True
        headers = {name.lower(): value for name, value in handler.headers.items()}
        with self._mutex:
            self.requests.append((handler.command, handler.path, headers))
            trouble = next((t for t in self._troubles if t.takes(handler.command, handler.path)), None)
        action = trouble.action if trouble else ""
        length = int(headers.get("content-length") or 0)
        if action == "cut request":
            handler.rfile.read(length // 2)
            return
        body = handler.rfile.read(length)
        if trouble and action == "hold":
            trouble.let_go.wait(HELD)
        if action in ANSWERS:
            status, said = ANSWERS[action]
            _respond(handler, status, {"Content-Type": "application/xml"}, said, len(said))
            return
        self._forward(handler, headers, _spoiled(body) if action == "spoil request" else body, action)

    def _forward(
        self, handler: http.server.BaseHTTPRequestHandler, headers: dict[str, str], body: bytes, action: str
    ) -> None:
        connection = http.client.HTTPConnection(self._host, timeout=PATIENCE)
        with contextlib.closing(connection):
            connection.request(handler.command, handler.path, body, headers)
            answer = connection.getresponse()
            content = answer.read()
        if action == "lose answer":
            return
        length = int(answer.headers.get("content-length") or 0)
        if action == "cut answer":
            content = content[: length // 2]
        if action == "spoil answer":
            content = _spoiled(content)
        _respond(handler, answer.status, dict(answer.headers.items()), content, length)


def _respond(
    handler: http.server.BaseHTTPRequestHandler,
    status: int,
    headers: dict[str, str],
    content: bytes,
    length: int,
) -> None:
    handler.send_response(status)
    for name, value in headers.items():
        if name.lower() not in {"content-length", "connection", "date", "server"}:
            handler.send_header(name, value)
    handler.send_header("Content-Length", str(length))
    handler.send_header("Connection", "close")
    handler.end_headers()
    handler.wfile.write(content)


def _spoiled(content: bytes) -> bytes:
    middle = len(content) // 2
    return content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]


@contextlib.contextmanager
def meddling(target: str) -> Iterator[Meddler]:
    meddler = Meddler(target)
    with meddler.server.running():
        try:
            yield meddler
        finally:
            for trouble in meddler._troubles:
                trouble.let_go.set()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
