"""An HTTP server between a client and what the client asks: the base of those that forward with mishaps."""

from __future__ import annotations

import contextlib
import http.client
import http.server
import threading
from collections.abc import Callable, Iterator
from typing import Any

Serve = Callable[[http.server.BaseHTTPRequestHandler], None]


class Interposed(http.server.ThreadingHTTPServer):
    """At `url` on a free port of the loopback address; every request goes to `serve`."""

    daemon_threads = True

    def __init__(self, serve: Serve) -> None:
        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True  # or every answer of several writes takes 40 ms
            upstream: http.client.HTTPConnection | None = None  # of this client's, for its next request

            def do_GET(self) -> None:
                serve(self)

            def finish(self) -> None:
                super().finish()
                if self.upstream:
                    self.upstream.close()

            do_HEAD = do_POST = do_PUT = do_PATCH = do_DELETE = do_GET

            def log_message(self, *_: Any) -> None:
                pass

        super().__init__(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server_address[1]}"

    def handle_error(self, *_: Any) -> None:
        """A client that went away is nobody's error."""

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        threading.Thread(target=self.serve_forever, args=(0.02,), daemon=True).start()
        try:
            yield
        finally:
            self.shutdown()
            self.server_close()
