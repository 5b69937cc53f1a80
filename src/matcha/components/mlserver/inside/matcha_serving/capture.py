"""Served requests on their way to the monitoring service.

A request costs its caller only the encoding of one line. Lines wait in memory, bounded by number and by
size; a thread hands them on in batches. What does not fit is dropped and counted, and predictions never
wait. A line is JSON:

    {"d": deployment, "v": version, "t": Unix seconds, "id": request, "by": this process, "n": rows,
     "in": [[name, datatype, shape, data], ...], "out": [[name, datatype, shape, data], ...]}
"""

from __future__ import annotations

import http.client
import threading
import time
import urllib.parse
import uuid
from collections import deque
from typing import NamedTuple

MAX_LINES = 20_000
MAX_BYTES = 64 * 2**20
MAX_LINE = 8 * 2**20
BATCH_LINES = 500
BATCH_BYTES = 4 * 2**20
EVERY = 1.0
LONGEST_WAIT = 30.0
TIMEOUT = 5.0
FLUSH_POLL = 0.02
POISON = (400, 413, 415, 422)  # the receiver will never take such a batch


class Batch(NamedTuple):
    """Lines handed on together. A batch sent twice, because its answer was lost, has the same `id`."""

    id: str
    lines: tuple[bytes, ...]


class Capture:
    """`put` from any thread; `dropped` counts lines lost since the start. No other process has this `sender`,
    and no earlier one had it: what several replicas serve and lose is told apart by it.
    """

    def __init__(
        self, url: str, token: str, *, max_lines: int = MAX_LINES, max_bytes: int = MAX_BYTES
    ) -> None:
        self.sender = uuid.uuid4().hex
        self._url = urllib.parse.urlsplit(f"{url.rstrip('/')}/v1/captures")
        self._token = token
        self._max_lines = max_lines
        self._max_bytes = max_bytes
        self._lines: deque[bytes] = deque()
        self._bytes = 0
        self._mutex = threading.Lock()
        self._wake = threading.Event()
        self._closing = threading.Event()
        self._batch: Batch | None = None
        self._connection: http.client.HTTPConnection | None = None
        self._thread: threading.Thread | None = None
        self.dropped = 0

    def put(self, line: bytes) -> None:
        with self._mutex:
            if self._full(line):
                self.dropped += 1
                return
            self._lines.append(line)
            self._bytes += len(line)
            if self._thread is None or not self._thread.is_alive():
                self._thread = threading.Thread(target=self._run, name="capture", daemon=True)
                self._thread.start()
        if len(self._lines) >= BATCH_LINES:
            self._wake.set()

    def drop(self) -> None:
        """A request that was too large to be encoded."""
        with self._mutex:
            self.dropped += 1

    def _full(self, line: bytes) -> bool:
        return (
            len(line) > MAX_LINE
            or len(self._lines) >= self._max_lines
            or self._bytes + len(line) > self._max_bytes
        )

    def flush(self, seconds: float) -> bool:
        """Wait, at most `seconds`, until nothing waits any more; whether that is so."""
        deadline = time.monotonic() + seconds
        while self._waiting():
            self._wake.set()
            if time.monotonic() > deadline:
                return False
            time.sleep(FLUSH_POLL)
        return True

    def _waiting(self) -> bool:
        with self._mutex:
            return bool(self._lines) or self._batch is not None

    def close(self, seconds: float) -> None:
        """Hand on what is left, for at most `seconds`."""
        self._closing.set()
        self._wake.set()
        if self._thread is not None:
            self._thread.join(seconds)

    def _run(self) -> None:
        try:
            self._hand_on()
        finally:
            self._disconnect()

    def _hand_on(self) -> None:
        wait, ending = 0.0, False
        while not ending:
            self._pause(wait)
            ending = self._closing.is_set()  # read before the last flush, so that it has everything
            wait = 0.0 if self._flush() else min(max(EVERY, wait * 2), LONGEST_WAIT)

    def _pause(self, wait: float) -> None:
        """After a failure full batches wake nobody: only the end does."""
        if wait:
            self._closing.wait(wait)
            return
        self._wake.wait(EVERY)
        self._wake.clear()

    def _flush(self) -> bool:
        """Everything waiting, batch by batch; False when the receiver did not take one."""
        while (batch := self._batch or self._take()) is not None:
            status = self._send(batch)
            if status in POISON:
                with self._mutex:
                    self.dropped += len(batch.lines)
            elif not 200 <= status < 300:
                return False
            self._batch = None
        return True

    def _take(self) -> Batch | None:
        lines: list[bytes] = []
        size = 0
        with self._mutex:
            while self._lines and len(lines) < BATCH_LINES and (not lines or size < BATCH_BYTES):
                line = self._lines.popleft()
                size += len(line)
                lines.append(line)
            self._bytes -= size
            self._batch = Batch(uuid.uuid4().hex, tuple(lines)) if lines else None
            return self._batch

    def _send(self, batch: Batch) -> int:
        """The receiver's status; 0 when there was none. A kept connection may have been closed meanwhile."""
        kept = self._connection is not None
        return self._post(batch) or (self._post(batch) if kept else 0)

    def _post(self, batch: Batch) -> int:
        headers = {
            "Authorization": f"Bearer {self._token}",
            "Content-Type": "application/x-ndjson",
            "X-Matcha-Dropped": str(self.dropped),
            "X-Matcha-Sender": self.sender,
            "X-Matcha-Batch": batch.id,
        }
        try:
            connection = self._connected()
            connection.request("POST", self._url.path, b"\n".join(batch.lines) + b"\n", headers)
            answer = connection.getresponse()
            answer.read()
        except (OSError, http.client.HTTPException):
            self._disconnect()
            return 0
        return answer.status

    def _connected(self) -> http.client.HTTPConnection:
        if self._connection is None:
            https = self._url.scheme == "https"
            kind = http.client.HTTPSConnection if https else http.client.HTTPConnection
            self._connection = kind(self._url.netloc, timeout=TIMEOUT)
        return self._connection

    def _disconnect(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None
