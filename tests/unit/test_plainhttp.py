"""A GET over a socket, against real servers."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from matcha import plainhttp

LONG = 20.0  # seconds; nothing here takes that long


@pytest.fixture
def server() -> Iterator[str]:
    """Answers with what it was asked; /missing with 404."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            said = f"{self.path} {self.headers['Host']} {self.headers['X-Mine']}".encode()
            self.send_response(404 if self.path == "/missing" else 200)
            self.send_header("Content-Length", str(len(said)))
            self.end_headers()
            self.wfile.write(said)

        def log_message(self, *_: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as found:
        thread = threading.Thread(target=found.serve_forever, args=(0.02,), daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{found.server_port}"
        found.shutdown()
        thread.join(5)


@contextmanager
def saying(*parts: bytes) -> Iterator[str]:
    """A server that says `parts` to whoever comes, and hangs up."""
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def serve() -> None:
            peer, _ = listening.accept()
            with peer, suppress(OSError):  # who does not listen to the end resets the connection
                peer.recv(65536)
                for part in parts:
                    peer.sendall(part)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
        thread.join(5)


def test_the_whole_answer(server: str) -> None:
    status, body, _ = plainhttp.get(f"{server}/a?b=c", LONG, {"X-Mine": "yes"})
    assert (status, body.decode()) == (200, f"/a?b=c {server.removeprefix('http://')} yes")
    assert plainhttp.get(server, LONG).body.startswith(b"/ ")
    assert plainhttp.get(f"{server}/missing", LONG).status == 404
    assert plainhttp.status(f"{server}/missing", LONG) == 404


def test_an_answer_in_pieces() -> None:
    with saying(b"HTTP/1.0 2", b"00 OK\r\nA: b\r\n", b"\r\none", b", two") as url:
        assert plainhttp.get(url, LONG) == (200, b"one, two", b"HTTP/1.0 200 OK\r\nA: b")


def test_the_status_needs_no_end() -> None:
    done = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def serve() -> None:
            peer, _ = listening.accept()
            with peer:
                peer.sendall(b"HTTP/1.1 503 Busy\r\n")
                done.wait(LONG)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        assert plainhttp.status(f"http://127.0.0.1:{listening.getsockname()[1]}", LONG) == 503
        done.set()
        thread.join(5)


@pytest.mark.parametrize(
    ("said", "why"), [((b"SSH-2.0-x\r\n",), "another protocol"), ((), "connection was closed")]
)
def test_what_is_no_answer(said: tuple[bytes, ...], why: str) -> None:
    with saying(*said) as url, pytest.raises(ValueError, match=why):
        plainhttp.get(url, LONG)


def test_an_answer_without_end_is_given_up() -> None:
    endless = (b"HTTP/1.0 200 OK\r\n\r\n", b"x" * plainhttp.LARGEST)
    with saying(*endless) as url, pytest.raises(ValueError, match="more than 16 MiB"):
        plainhttp.get(url, LONG)


def test_silence_ends_in_time() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening, pytest.raises(TimeoutError):
        plainhttp.get(f"http://127.0.0.1:{listening.getsockname()[1]}", 0.2)
