"""A GET without an HTTP library, whose import would cost `status` a tenth of its time."""

from __future__ import annotations

import socket
import time
from collections.abc import Generator, Mapping
from contextlib import closing
from typing import NamedTuple
from urllib.parse import SplitResult, urlsplit

LARGEST = 16 * 2**20  # bytes of an answer


class Answer(NamedTuple):
    """`head` is the status line and the headers as they came."""

    status: int
    body: bytes
    head: bytes = b""


def get(url: str, seconds: float, headers: Mapping[str, str] = {}) -> Answer:
    """The whole answer. Raises OSError (TimeoutError after `seconds`) and ValueError for what is not HTTP."""
    raw = b"".join(_parts(url, seconds, headers))
    head, _, body = raw.partition(b"\r\n\r\n")
    return Answer(_status(head), body, head)


def status(url: str, seconds: float) -> int:
    """The status alone, as soon as it is there; raises what `get` raises."""
    head = b""
    with closing(_parts(url, seconds, {})) as parts:
        for part in parts:
            head += part
            if b"\r\n" in head or len(head) > 4096:
                break
    return _status(head)


def _parts(url: str, seconds: float, headers: Mapping[str, str]) -> Generator[bytes, None, None]:
    deadline = time.monotonic() + seconds
    parts = urlsplit(url)
    with socket.create_connection((parts.hostname or "", parts.port or 80), _left(deadline)) as peer:
        peer.sendall(_request(parts, headers))
        size = 0
        while size <= LARGEST:
            peer.settimeout(_left(deadline))
            part = peer.recv(65536)
            if not part:
                return
            size += len(part)
            yield part
    raise ValueError(f"more than {LARGEST // 2**20} MiB")


def _request(parts: SplitResult, headers: Mapping[str, str]) -> bytes:
    """In HTTP 1.0, so that the answer comes in one piece and ends with the connection."""
    target = f"{parts.path or '/'}{'?' + parts.query if parts.query else ''}"
    said = {"Host": parts.netloc, "Connection": "close", **headers}
    lines = [f"GET {target} HTTP/1.0", *(f"{name}: {value}" for name, value in said.items())]
    return "\r\n".join([*lines, "", ""]).encode()


def _left(deadline: float) -> float:
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError
    return left


def _status(head: bytes) -> int:
    version, _, rest = head.partition(b" ")
    if not version.startswith(b"HTTP/"):
        raise ValueError("the connection was closed" if not head else "another protocol")
    return int(rest[:3])
