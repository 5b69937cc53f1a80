"""Asking a server on this machine whether it is well, without importing an HTTP library."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Mapping
from urllib.parse import urlsplit


def ask(url: str, timeout: float) -> str:
    """GET `url`; empty when it answers 2xx within `timeout` seconds, otherwise what it did instead."""
    deadline = time.monotonic() + timeout
    try:
        status = _status(url, deadline)
    except ConnectionRefusedError:
        return "nothing listens"
    except TimeoutError:
        return f"no answer in {timeout:g} s"
    except (OSError, ValueError) as error:
        return f"no HTTP answer ({error})"
    return "" if 200 <= status < 300 else f"answers {status}"


def _status(url: str, deadline: float) -> int:
    parts = urlsplit(url)
    target = f"{parts.path or '/'}{'?' + parts.query if parts.query else ''}"
    with socket.create_connection((parts.hostname or "", parts.port or 80), _left(deadline)) as peer:
        peer.sendall(f"GET {target} HTTP/1.1\r\nHost: {parts.netloc}\r\nConnection: close\r\n\r\n".encode())
        head = b""
        while b"\r\n" not in head and len(head) < 4096:
            peer.settimeout(_left(deadline))
            part = peer.recv(1024)
            if not part:
                break
            head += part
    version, _, rest = head.partition(b" ")
    if not version.startswith(b"HTTP/"):
        raise ValueError("the connection was closed" if not head else "another protocol")
    return int(rest[:3])


def _left(deadline: float) -> float:
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError
    return left


def ask_all(urls: Mapping[str, str], timeout: float) -> dict[str, str]:
    """`ask` of each, side by side."""
    answers: dict[str, str] = {}

    def one(name: str, url: str) -> None:
        answers[name] = ask(url, timeout)

    threads = [threading.Thread(target=one, args=item, daemon=True) for item in urls.items()]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout + 1)
    return {name: answers.get(name, f"no answer in {timeout:g} s") for name in urls}


def port_of(url: str) -> int:
    return urlsplit(url).port or 80
