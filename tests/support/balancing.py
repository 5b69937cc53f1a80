"""One address for several servers, as a Service of a cluster is: each new connection goes to one of them."""

from __future__ import annotations

import contextlib
import itertools
import socket
import threading
from collections.abc import Iterator


class Balancer:
    """`ports` are those that get new connections; what runs on a connection stays with its server."""

    def __init__(self, *ports: int) -> None:
        self.ports = list(ports)
        self._turn = itertools.count()
        self._server = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._server.getsockname()[1])
        self.url = f"http://127.0.0.1:{self.port}"
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                peer, _ = self._server.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(peer,), daemon=True).start()

    def _serve(self, peer: socket.socket) -> None:
        ports = list(self.ports)
        port = ports[next(self._turn) % len(ports)]
        with peer:
            try:
                server = socket.create_connection(("127.0.0.1", port), 10)
            except OSError:
                return
            server.settimeout(None)
            with server:
                back = threading.Thread(target=_pump, args=(server, peer), daemon=True)
                back.start()
                _pump(peer, server)
                back.join()

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._server.shutdown(socket.SHUT_RDWR)
        self._server.close()


def _pump(source: socket.socket, to: socket.socket) -> None:
    with contextlib.suppress(OSError):
        to.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        while data := source.recv(65536):
            to.sendall(data)
    with contextlib.suppress(OSError):
        to.shutdown(socket.SHUT_WR)


@contextlib.contextmanager
def balanced(*ports: int) -> Iterator[Balancer]:
    made = Balancer(*ports)
    try:
        yield made
    finally:
        made.close()
