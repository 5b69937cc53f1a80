"""Kept connections of clients, where others serve the same: who asks is answered, and sent elsewhere.

A client that keeps its connection may send its next request at any moment, and a connection that is closed
by surprise fails it. An answer that says `Connection: close` fails none. So every answer says it once the
process is to end, and idle connections get the time that they have anyway (those of a gateway, which last for
minutes, the same: it has heard by then that this process goes); and one answer in a while says it on a
connection that has been kept for long, or replicas that come later would get no request of its client.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

LINGER = 6.0  # a little longer than the server keeps an idle connection
KEPT = 60.0  # seconds for which a client keeps its connection
MANY = 10_000  # of connections, most of them over


class Leaving:
    """`begun` once the process is to end. Every HTTP request goes through `track`."""

    def __init__(self) -> None:
        self.begun = False
        self._busy = 0
        self._since: dict[Any, float] = {}

    async def track(self, app: Any, scope: Any, receive: Any, send: Any) -> None:
        last = self._is_old(scope.get("client"))

        async def telling(message: Any) -> None:
            if (last or self.begun) and message["type"] == "http.response.start":
                kept = [(k, v) for k, v in message.get("headers", ()) if k.lower() != b"connection"]
                message = {**message, "headers": [*kept, (b"connection", b"close")]}
            await send(message)

        self._busy += 1
        try:
            await app(scope, receive, telling)
        finally:
            self._busy -= 1

    def _is_old(self, client: Any) -> bool:
        """Whether the connection, known by its other end, has been kept long enough."""
        now = time.monotonic()
        if len(self._since) > MANY:
            self._since.clear()
        if now - self._since.setdefault(client, now) < KEPT:
            return False
        self._since.pop(client, None)
        return True

    async def linger(self, connections: Callable[[], int], seconds: float = LINGER) -> None:
        """Until every connection that is left waits for an answer, which the server gives in any case."""
        self.begun = True
        end = time.monotonic() + seconds
        while connections() > self._busy and time.monotonic() < end:
            await asyncio.sleep(0.05)
