"""A proxy that kills the process which talks through it, at a request of the test's choice."""

from __future__ import annotations

import contextlib
import http.client
import http.server
import os
import signal
import threading
from collections.abc import Iterator
from typing import Any, Literal
from urllib.parse import urlsplit

Moment = Literal["before", "after"]


class Cutter:
    """Forwards to `target`. The `at`th request (from 1) kills `pid`: before it is forwarded or after."""

    def __init__(self, target: str, at: int, moment: Moment) -> None:
        self.at = at
        self.moment = moment
        self.pid = 0
        self.seen = 0
        self._host = urlsplit(target).netloc
        cutter = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                cutter.forward(self)

            do_POST = do_PUT = do_GET

            def log_message(self, *_: Any) -> None:
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"

    def forward(self, handler: http.server.BaseHTTPRequestHandler) -> None:
        self.seen += 1
        cut = self.seen == self.at
        body = handler.rfile.read(int(handler.headers.get("Content-Length") or 0))
        if cut and self.moment == "before":
            os.kill(self.pid, signal.SIGKILL)
            return
        headers = {k: v for k, v in handler.headers.items() if k.lower() not in ("host", "accept-encoding")}
        connection = http.client.HTTPConnection(self._host, timeout=60)
        try:
            connection.request(handler.command, handler.path, body, headers)
            answer = connection.getresponse()
            content = answer.read()
        finally:
            connection.close()
        if cut:
            os.kill(self.pid, signal.SIGKILL)
            return
        handler.send_response(answer.status)
        handler.send_header("Content-Type", answer.headers.get("Content-Type", ""))
        handler.send_header("Content-Length", str(len(content)))
        handler.end_headers()
        handler.wfile.write(content)


@contextlib.contextmanager
def cutting(target: str, at: int, moment: Moment) -> Iterator[Cutter]:
    cutter = Cutter(target, at, moment)
    threading.Thread(target=cutter.server.serve_forever, args=(0.02,), daemon=True).start()
    try:
        yield cutter
    finally:
        cutter.server.shutdown()
        cutter.server.server_close()
