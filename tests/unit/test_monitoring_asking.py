"""Windows that are made elsewhere: what is said where that ends in the middle. Against a real HTTP server."""

from __future__ import annotations

import http.server
import threading
from typing import Any

import pytest

from matcha.components.monitoring.inside.matcha_monitoring import asking
from matcha.components.monitoring.inside.matcha_monitoring.kept import Away


class Ends(http.server.BaseHTTPRequestHandler):
    """Ends with the first order, and is not started again: its node waits minutes after some such ends."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()

    def do_POST(self) -> None:
        self.close_connection = True
        self.server.shutdown()
        self.server.server_close()

    def log_message(self, *_: Any) -> None:
        pass


def order(url: str) -> dict[str, Any]:
    return {"apart": url, "token": "t", "rules": {"work_memory_mb": 700}}


def test_what_a_window_has_ended_for_minutes_fails_that_window(monkeypatch: pytest.MonkeyPatch) -> None:
    """Told as absence, it would be tried again at once, before the windows of all other models."""
    monkeypatch.setattr(asking, "COMES_SECONDS", 0.2)
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Ends)
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    url = f"http://127.0.0.1:{server.server_address[1]}"
    with pytest.raises(asking.Failed, match=r"in the middle of this one, and is not back.*700 MiB"):
        asking._answer(order(url), b"{}")
    with pytest.raises(Away, match="does not answer"):
        asking._answer(order(url), b"{}")
