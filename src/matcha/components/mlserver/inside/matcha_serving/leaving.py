"""The end of a process that others replace: who asks on a kept connection is answered, and sent elsewhere.

A client that keeps its connection may send its next request at any moment, and a connection that is closed
by surprise fails it. So every answer says `Connection: close` from now on, and idle connections get the time
that they have anyway.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

LINGER = 6.0  # a little longer than the server keeps an idle connection


class Leaving:
    """`begun` once the process is to end. `track` goes around every HTTP request."""

    def __init__(self) -> None:
        self.begun = False
        self._busy = 0

    async def track(self, app: Any, scope: Any, receive: Any, send: Any) -> None:
        async def telling(message: Any) -> None:
            if self.begun and message["type"] == "http.response.start":
                kept = [(k, v) for k, v in message.get("headers", ()) if k.lower() != b"connection"]
                message = {**message, "headers": [*kept, (b"connection", b"close")]}
            await send(message)

        self._busy += 1
        try:
            await app(scope, receive, telling)
        finally:
            self._busy -= 1

    async def linger(self, connections: Callable[[], int], seconds: float = LINGER) -> None:
        """Until every connection that is left waits for an answer, which the server gives in any case."""
        self.begun = True
        end = time.monotonic() + seconds
        while connections() > self._busy and time.monotonic() < end:
            await asyncio.sleep(0.05)
