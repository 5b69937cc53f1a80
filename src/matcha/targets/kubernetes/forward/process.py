"""The forwarder: one process for all ports of a stack. SIGTERM ends it, and nothing else does.

Which ports it has may change while it runs: those that stay, and their connections, notice nothing of it.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import resource
import signal
from pathlib import Path

import msgspec

from matcha.host.ports import HOST
from matcha.targets.kubernetes.forward import local
from matcha.targets.kubernetes.forward.api import Api
from matcha.targets.kubernetes.forward.config import Config, Forward, lasting, mark
from matcha.targets.kubernetes.forward.connection import PIECE, Connection
from matcha.targets.kubernetes.forward.log import Log
from matcha.targets.kubernetes.forward.pods import Pods

_RETRY = 2.0  # seconds between two tries to get a port that another program has
_GOODBYE = 3.0  # seconds open connections have to end
_FILES = 16384  # open files wanted; a connection takes two


def main(path: Path) -> int:
    """The exit status: 0 after SIGTERM, 1 where the port of the health answer is taken."""
    _raise_file_limit()
    return asyncio.run(Forwarder(path).run())


def _read(path: Path) -> tuple[Config, str]:
    """And the mark of its content."""
    raw = path.read_bytes()
    return msgspec.json.decode(raw, type=Config), mark(raw)


def _raise_file_limit() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _FILES if hard == resource.RLIM_INFINITY else min(_FILES, hard)
    if soft < wanted:
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


class Forwarder:
    """By the configuration in the file at `path`."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._config, self._mark = _read(path)
        self._log = Log()
        self._unbound = {f.key: f for f in self._config.forwards}
        self._servers: dict[str, asyncio.Server] = {}  # by the forward's key
        self._binding: asyncio.Task[None] | None = None
        self._connections: set[asyncio.Task[None]] = set()

    async def run(self) -> int:
        stop = asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, stop.set)
        self._api = Api(self._config)
        self._pods = Pods(self._api, self._config.namespace, self._services(), self._log)
        await self._bind_all()  # before anybody asks whether it has its ports
        try:
            health = await asyncio.start_server(self._answer, HOST, self._config.health)
        except OSError as error:
            self._log.say(f"cannot listen on port {self._config.health}: {error.strerror}")
            return 1
        self._binding = asyncio.create_task(self._bind_the_rest())
        await stop.wait()
        self._binding.cancel()
        health.close()
        await self._end()
        return 0

    def _services(self) -> list[str]:
        return [f.service for f in self._config.forwards]

    async def _change(self, wanted: str) -> None:
        """To the ports that the file has now, if it is the content that is `wanted` and of the same cluster.
        Connections of ports that go are left to end.
        """
        if wanted in ("", self._mark):
            return
        try:
            config, mark = _read(self._path)
        except (OSError, msgspec.MsgspecError):
            return
        if mark != wanted or lasting(config) != lasting(self._config):
            return
        had, self._config, self._mark = set(self._config.forwards), config, mark
        staying = had.intersection(config.forwards)
        self._unbound = {f.key: f for f in config.forwards if f not in staying or f.key in self._unbound}
        for forward in had - staying:
            if server := self._servers.pop(forward.key, None):
                server.close()
        self._pods.of(self._services())
        await self._bind_all()
        assert self._binding
        self._binding.cancel()
        self._binding = asyncio.create_task(self._bind_the_rest())

    async def _bind_all(self) -> None:
        for forward in list(self._unbound.values()):
            await self._bind(forward)

    async def _bind_the_rest(self) -> None:
        """A port that another program has is tried again and again; the others work meanwhile."""
        while self._unbound:
            await asyncio.sleep(_RETRY)
            await self._bind_all()
        where = ", ".join(f"{f.key} on {f.local}" for f in self._config.forwards)
        self._log.say(f"{self._config.context}, namespace {self._config.namespace}: {where}")

    async def _bind(self, forward: Forward) -> None:
        async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await self._accept(forward, reader, writer)

        try:
            server = await asyncio.start_server(accept, HOST, forward.local, limit=PIECE)
        except OSError as error:
            taken = error.errno == errno.EADDRINUSE
            reason = "another program has it" if taken else str(error.strerror)
            self._log.trouble(f"port {forward.local} for {forward.key}", reason)
            return
        if self._unbound.get(forward.key) != forward:  # the ports were changed meanwhile
            server.close()
            return
        self._servers[forward.key] = server
        del self._unbound[forward.key]

    async def _accept(
        self, forward: Forward, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._connections.add(task)
        task.add_done_callback(self._connections.discard)
        local.prepare(writer.get_extra_info("socket"))
        connection = Connection(forward, reader, writer, self._log)
        with contextlib.suppress(asyncio.CancelledError):  # the process ends
            await connection.run(self._api, self._config.namespace, self._pods)

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """`/`: 200, while the process works. `/MARK`: 200 where it runs by that very configuration and has
        all its ports, otherwise 503.
        """
        with contextlib.suppress(OSError, ValueError, asyncio.TimeoutError, asyncio.LimitOverrunError):
            line = await asyncio.wait_for(reader.readline(), 5.0)
            path = line.split()[1].decode()
            await self._change(path[1:])
            well = path == "/" or (path == f"/{self._mark}" and not self._unbound)
            body = msgspec.json.encode({"connections": len(self._connections), "unbound": [*self._unbound]})
            head = f"HTTP/1.1 {'200 OK' if well else '503 Service Unavailable'}\r\n"
            head += f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n"
            writer.write(f"{head}Connection: close\r\n\r\n".encode() + body)
            await writer.drain()
        writer.close()

    async def _end(self) -> None:
        for server in self._servers.values():
            server.close()
        self._pods.close()
        for task in self._connections:
            task.cancel()
        if self._connections:
            await asyncio.wait(self._connections, timeout=_GOODBYE)
