"""The two endpoints of an API server that a forwarder uses, as a peer of its protocol: a namespace's pods,
listed and watched, and port-forwards to them, which end at real TCP servers on this machine.

What it says and when it closes is what kube-apiserver 1.34 and containerd were seen to do.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import itertools
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import trustme
import uvicorn

PROTOCOL = "v4.channel.k8s.io"
Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Any]


class Pods:
    """The server, in a thread of its own. `ports` of a pod: number in the pod -> number on this machine."""

    def __init__(self, folder: Path, name: str = "127.0.0.1") -> None:
        """`name`: what the certificate is for."""
        self.token = "first"
        self.calls: list[str] = []
        self.forwards = 0  # port-forwards that are open now
        self.refuse: dict[str, int] = {}  # last part of the path -> status
        self._pods: dict[str, dict[str, Any]] = {}
        self._ports: dict[str, dict[int, int]] = {}
        self._events: list[dict[str, Any]] = []
        self._versions = itertools.count(100)
        self._authority = trustme.CA()
        self._certificate = folder / "server.pem"
        self._authority.issue_cert(name).private_key_and_cert_chain_pem.write_to_path(str(self._certificate))
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self._server: uvicorn.Server | None = None
        self._serving: Future[None] | None = None
        self._backends: list[asyncio.Server] = []
        self.up()

    # -- what a test does to it ------------------------------------------------------------------------

    def kubeconfig(self, path: Path, user: dict[str, Any], **cluster: Any) -> Path:
        authority = base64.b64encode(self._authority.cert_pem.bytes()).decode()
        server = {
            "server": f"https://127.0.0.1:{self.port}",
            "certificate-authority-data": authority,
            **cluster,
        }
        path.write_text(
            json.dumps(
                {
                    "current-context": "here",
                    "clusters": [{"name": "c", "cluster": server}],
                    "users": [{"name": "u", "user": user}],
                    "contexts": [{"name": "here", "context": {"cluster": "c", "user": "u"}}],
                }
            )
        )
        return path

    def listen(self, handler: Handler) -> int:
        """A TCP server of a pod; returns its port on this machine."""

        async def begin() -> int:
            async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
                with contextlib.suppress(ConnectionError):
                    await handler(reader, writer)
                with contextlib.suppress(ConnectionError):
                    writer.close()

            server = await asyncio.start_server(serve, "127.0.0.1", 0)
            self._backends.append(server)
            return int(server.sockets[0].getsockname()[1])

        return self._do(begin())

    def put(
        self, name: str, service: str, ports: dict[int, int], *, ready: bool = True, ending: bool = False
    ) -> None:
        """A pod comes, or changes."""
        known = self._pods.get(name)
        uid = known["metadata"]["uid"] if known else f"{name}-{next(self._versions)}"
        pod = {
            "kind": "Pod",
            "metadata": {
                "name": name,
                "uid": uid,
                "labels": {"app.kubernetes.io/name": service, "app.kubernetes.io/part-of": "matcha"},
                "resourceVersion": str(next(self._versions)),
            },
            "status": {
                "phase": "Running",
                "conditions": [{"type": "Ready", "status": "True" if ready else "False"}],
            },
        }
        if ending:
            pod["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"
        self._pods[name], self._ports[name] = pod, ports
        self._events.append({"type": "MODIFIED" if known else "ADDED", "object": pod})

    def drop(self, name: str) -> None:
        """A pod goes; what is connected to it is not touched."""
        pod = self._pods.pop(name)
        pod["metadata"]["resourceVersion"] = str(next(self._versions))
        self._events.append({"type": "DELETED", "object": pod})

    def up(self) -> None:
        config = uvicorn.Config(
            self._app,
            port=self.port,
            ssl_certfile=str(self._certificate),
            ws="wsproto",
            interface="asgi3",
            ws_ping_interval=None,
            lifespan="off",
            log_level="error",
        )
        self._server = uvicorn.Server(config)
        self._serving = asyncio.run_coroutine_threadsafe(self._server.serve(), self._loop)
        deadline = time.monotonic() + 20
        while not self._server.started:
            assert time.monotonic() < deadline and not self._serving.done()
            time.sleep(0.01)

    def down(self) -> None:
        """It goes away, and every connection with it."""
        assert self._server and self._serving
        self._server.should_exit = self._server.force_exit = True
        deadline = time.monotonic() + 20
        while not self._serving.done():
            assert time.monotonic() < deadline
            self._do(self._cut(self._server))
            time.sleep(0.02)
        self._serving.result()
        self._server = None

    async def _cut(self, server: uvicorn.Server) -> None:
        for connection in list(server.server_state.connections):
            connection.transport.abort()

    def close(self) -> None:
        if self._server:
            self.down()
        self._do(self._end())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(20)
        self._loop.close()

    async def _end(self) -> None:
        for backend in self._backends:
            backend.close()
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)

    def _do(self, what: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(what, self._loop).result(20)

    # -- what it answers -------------------------------------------------------------------------------

    async def _app(self, scope: Any, receive: Any, send: Any) -> None:
        self.calls.append(f"{scope['path']}?{scope['query_string'].decode()}")
        query = {k: v[0] for k, v in parse_qs(scope["query_string"].decode()).items()}
        last = scope["path"].rpartition("/")[2]
        given = dict(scope["headers"]).get(b"authorization", b"").decode()
        status = 401 if given != f"Bearer {self.token}" else self.refuse.get(last, 200)
        if status == 200 and scope["type"] == "websocket":
            name = scope["path"].split("/")[-2]
            if name in self._pods:
                await self._forward(name, int(query["ports"]), receive, send)
                return
            status = 404
        if status != 200:
            await _refuse(scope["type"], status, send)
        elif "watch" in query:
            await self._watch(int(query["resourceVersion"]), receive, send)
        else:
            version = str(next(self._versions))
            items = [p for p in self._pods.values() if _picks(query.get("labelSelector", ""), p)]
            await _answer({"metadata": {"resourceVersion": version}, "items": items}, send)

    async def _watch(self, version: int, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await receive()  # the request's end
        gone = asyncio.ensure_future(receive())
        while not gone.done():
            for event in [
                e for e in self._events if int(e["object"]["metadata"]["resourceVersion"]) > version
            ]:
                version = int(event["object"]["metadata"]["resourceVersion"])
                line = json.dumps(event).encode() + b"\n"
                await send({"type": "http.response.body", "body": line, "more_body": True})
            await asyncio.sleep(0.01)

    async def _forward(self, name: str, port: int, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "websocket.accept", "subprotocol": PROTOCOL})
        self.forwards += 1
        try:
            with contextlib.suppress(ConnectionError):
                for channel in (0, 1):
                    await _say(send, channel, port.to_bytes(2, "little"))
                await self._bridge(name, port, receive, send)
                await send({"type": "websocket.close", "code": 1000})
        finally:
            self.forwards -= 1

    async def _bridge(self, name: str, port: int, receive: Any, send: Any) -> None:
        try:
            reader, writer = await asyncio.open_connection("127.0.0.1", self._ports[name][port])
        except OSError as error:
            await _say(send, 1, f"error forwarding port {port}: connection refused: {error}".encode())
            return
        up = asyncio.ensure_future(_up(receive, writer))
        down = asyncio.ensure_future(_down(reader, send))
        await asyncio.wait([up, down], return_when=asyncio.FIRST_COMPLETED)
        for task in (up, down):
            task.cancel()
        writer.transport.abort() if up.done() else writer.close()
        if down.done() and not down.cancelled() and down.exception():
            await _say(send, 1, f"error forwarding port {port}: {down.exception()}".encode())


async def _up(receive: Any, writer: asyncio.StreamWriter) -> None:
    while (message := await receive())["type"] == "websocket.receive":
        data = message["bytes"]
        if data[:1] == b"\0":
            writer.write(data[1:])
            await writer.drain()


async def _down(reader: asyncio.StreamReader, send: Any) -> None:
    while data := await reader.read(32 * 1024):
        await _say(send, 0, data)


async def _say(send: Any, channel: int, data: bytes) -> None:
    await send({"type": "websocket.send", "bytes": bytes((channel,)) + data})


def _picks(selector: str, pod: dict[str, Any]) -> bool:
    """By what it says with `=`; a set of values picks every pod."""
    wanted = [part.split("=", 1) for part in selector.split(",") if "=" in part]
    return all(pod["metadata"]["labels"].get(key) == value for key, value in wanted)


async def _answer(body: dict[str, Any], send: Any, status: int = 200) -> None:
    headers = [(b"content-type", b"application/json")]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": json.dumps(body).encode()})


async def _refuse(kind: str, status: int, send: Any) -> None:
    body = {"kind": "Status", "status": "Failure", "message": f"refused by the test: {status}"}
    if kind == "http":
        await _answer(body, send, status)
        return
    await send({"type": "websocket.http.response.start", "status": status, "headers": []})
    await send({"type": "websocket.http.response.body", "body": json.dumps(body).encode()})


@contextlib.contextmanager
def serving(folder: Path, name: str = "127.0.0.1") -> Iterator[Pods]:
    pods = Pods(folder, name)
    try:
        yield pods
    finally:
        pods.close()
