"""A proxy before a real API server that lets chosen requests fail, as clusters and networks do."""

from __future__ import annotations

import base64
import contextlib
import http.client
import http.server
import json
import ssl
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from lightkube import KubeConfig

from support.interposed import Interposed

HELD = 60.0  # seconds that a held request waits at most
_HOP = {"host", "connection", "transfer-encoding", "accept-encoding", "keep-alive"}


@dataclass
class Fault:
    """What befalls the next `times` requests of this method whose path holds `part`, after `skip` of them;
    with `whole`, whose path it is.

    `status`: answered in the API's manner. `after`: only once the API has done what was asked. Without a
    status the connection dies: the API does not have the request, or the client not its answer. `hold`: the
    request waits here, the API not having it, until `let_go`. `came` is set once there was such a request.
    `body` and `content_type`: of an answer that is not in the API's manner; no header where empty.
    An empty method is any. `strike` is called when the request comes, and may end whoever sent it.
    """

    method: str
    part: str = ""
    times: int = 1
    skip: int = 0
    whole: bool = False
    status: int = 0
    retry_after: int | None = None
    message: str = "a fault of the test"
    after: bool = False
    hold: bool = False
    body: str | None = None
    content_type: str = ""
    strike: Callable[[], None] | None = None
    let_go: threading.Event = field(default_factory=threading.Event)
    came: threading.Event = field(default_factory=threading.Event)

    def takes(self, method: str, path: str) -> bool:
        if self.times <= 0 or self.method not in ("", method) or self.part not in path:
            return False
        if self.whole and self.part != path:
            return False
        if self.skip > 0:
            self.skip -= 1
            return False
        self.times -= 1
        if self.strike:
            self.strike()
        self.came.set()
        return True


class FaultyProxy:
    """Forwards plain HTTP of `127.0.0.1` to the API server of `kubeconfig`, credentials included."""

    def __init__(self, kubeconfig: Path) -> None:
        self.requests: list[tuple[str, str]] = []
        self._faults: list[Fault] = []
        self._mutex = threading.RLock()  # a strike may add a fault
        self._connect = _connector(kubeconfig)
        self.server = Interposed(self._serve)
        self.url = self.server.url

    def add(self, fault: Fault) -> Fault:
        with self._mutex:
            self._faults.append(fault)
        return fault

    def heal(self) -> None:
        """No more faults."""
        with self._mutex:
            self._faults.clear()

    def count(self, method: str, part: str = "") -> int:
        return sum(m == method and part in path for m, path in self.requests)

    def _serve(self, handler: http.server.BaseHTTPRequestHandler) -> None:
        body = handler.rfile.read(int(handler.headers.get("Content-Length") or 0))
        with self._mutex:
            self.requests.append((handler.command, handler.path))
            fault = next((f for f in self._faults if f.takes(handler.command, handler.path)), None)
        if fault is None:
            self._forward(handler, body)
        elif fault.hold:
            fault.let_go.wait(HELD)
            self._forward(handler, body)
        else:
            self._fail(handler, body, fault)

    def _fail(self, handler: http.server.BaseHTTPRequestHandler, body: bytes, fault: Fault) -> None:
        if fault.after:
            self._ask(handler, body)[0].close()
        if fault.status:
            _refuse(handler, fault)
        else:
            handler.close_connection = True

    def _ask(
        self, handler: http.server.BaseHTTPRequestHandler, body: bytes
    ) -> tuple[http.client.HTTPSConnection, http.client.HTTPResponse]:
        headers = {k: v for k, v in handler.headers.items() if k.lower() not in _HOP}
        kept, handler.upstream = handler.upstream, None  # type: ignore[attr-defined]
        connection = kept or self._connect()
        connection.request(handler.command, handler.path, body or None, headers)
        return connection, connection.getresponse()

    def _forward(self, handler: http.server.BaseHTTPRequestHandler, body: bytes) -> None:
        """Chunk by chunk, so that a watch goes through too."""
        connection, answer = self._ask(handler, body)
        with contextlib.ExitStack() as broken:
            broken.callback(connection.close)
            handler.send_response(answer.status)
            for name, value in answer.headers.items():
                if name.lower() not in (*_HOP, "content-length"):
                    handler.send_header(name, value)
            handler.send_header("Transfer-Encoding", "chunked")
            handler.end_headers()
            while part := answer.read1(65536):
                handler.wfile.write(b"%x\r\n%s\r\n" % (len(part), part))
            handler.wfile.write(b"0\r\n\r\n")
            answer.read()  # to its very end, after which there may be another
            broken.pop_all()
            # Another TLS handshake costs more than most requests do.
            handler.upstream = connection  # type: ignore[attr-defined]


def _connector(kubeconfig: Path) -> Any:
    config = KubeConfig.from_file(kubeconfig).get()
    assert config is not None
    authority = config.cluster.certificate_auth_data
    assert authority is not None
    trusted = ssl.create_default_context(cadata=base64.b64decode(authority).decode())
    host = urlsplit(config.cluster.server).netloc
    return lambda: http.client.HTTPSConnection(host, timeout=HELD, context=trusted)


def _refuse(handler: http.server.BaseHTTPRequestHandler, fault: Fault) -> None:
    status = {"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": fault.status}
    content = json.dumps({**status, "message": fault.message}).encode()
    kind = "application/json"
    if fault.body is not None:
        content, kind = fault.body.encode(), fault.content_type
    handler.send_response(fault.status)
    if kind:
        handler.send_header("Content-Type", kind)
    handler.send_header("Content-Length", str(len(content)))
    if fault.retry_after is not None:
        handler.send_header("Retry-After", str(fault.retry_after))
    handler.end_headers()
    handler.wfile.write(content)


@contextlib.contextmanager
def faulty(kubeconfig: Path, folder: Path) -> Iterator[tuple[FaultyProxy, Path]]:
    """A proxy, and in `folder` a kubeconfig that leads the user of `kubeconfig` through it."""
    proxy = FaultyProxy(kubeconfig)
    server = json.dumps(KubeConfig.from_file(kubeconfig).get().cluster.server)  # type: ignore[union-attr]
    through = folder / f"through-{proxy.server.server_address[1]}.kubeconfig"
    through.write_text(kubeconfig.read_text().replace(server, json.dumps(proxy.url)))
    with proxy.server.running():
        yield proxy, through
