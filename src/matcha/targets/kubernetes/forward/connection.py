"""One accepted connection, from its client to a pod and back."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Coroutine
from typing import Any

import httpx2

from matcha.targets.kubernetes.forward import local
from matcha.targets.kubernetes.forward.api import Api, Unanswered
from matcha.targets.kubernetes.forward.config import Forward
from matcha.targets.kubernetes.forward.log import Log, told
from matcha.targets.kubernetes.forward.pods import Pod, Pods
from matcha.targets.kubernetes.forward.tunnel import Broken, NotListening, Tunnel, opened

WAIT = 20.0  # seconds a client is kept waiting for a pod that takes its connection
PIECE = 64 * 1024  # bytes read at once; the buffers of a connection are a few times that
_KEPT = 256 * 1024  # bytes sent before the pod said anything, which can be said again to another
_REASON = 2.0  # seconds in which the reason of a broken connection may still come
_FAREWELL = 2.0  # seconds a client has to close after the pod has


class _Over(Exception):
    """The client is gone: nothing is wrong, and nobody is left to tell."""


class Connection:
    """`reader` and `writer` are the client's. `run` and `run_to` always end with both closed."""

    def __init__(
        self, forward: Forward, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, log: Log
    ) -> None:
        self._forward = forward
        self._reader = reader
        self._writer = writer
        self._link = writer.get_extra_info("socket")
        self._log = log
        self._said: bytearray | None = bytearray()  # while the pod said nothing; None: it did, or too much

    async def run(self, api: Api, namespace: str, pods: Pods) -> None:
        async with pods.watched():
            await self._run(self._connect(api, namespace, pods))

    async def run_to(self, api: Api, namespace: str, pod: str) -> None:
        """To this pod alone: what fails is not tried again."""
        await self._run(self._connect_to(api, namespace, pod))

    async def _run(self, connecting: Coroutine[Any, Any, None]) -> None:
        about = self._forward.key
        try:
            await connecting
            await self._part()
        except _Over:
            self._writer.close()
        except Exception as error:  # noqa: BLE001 - one connection never ends the process
            # An open connection that ends must not keep quiet why the next cannot be made.
            self._log.trouble(about if self._said is not None else f"{about}, open", told(error))
        finally:
            self._abort()

    async def _connect(self, api: Api, namespace: str, pods: Pods) -> None:
        """Until a pod took the connection and closed it. What fails before the pod said a word is tried
        again, for a while.
        """
        deadline = time.monotonic() + WAIT
        pause = 0.1
        while True:
            pod = await self._take(pods, deadline)
            try:
                async with opened(api, namespace, pod.name, self._forward.port) as tunnel:
                    return await self._carry(tunnel, pods.gone(pod))
            except (NotListening, Unanswered, httpx2.HTTPError, OSError) as error:
                if self._said is None or time.monotonic() + pause > deadline:
                    raise
                self._log.trouble(self._forward.key, f"{pod.name}: {told(error)}")
            finally:
                pods.leave(pod)
            pods.doubt(pod)
            await asyncio.sleep(pause)
            pause = min(2 * pause, 2.0)

    async def _connect_to(self, api: Api, namespace: str, pod: str) -> None:
        """Once more where a connection to the cluster that was kept open turns out to be closed."""
        try:
            await self._connect_once(api, namespace, pod)
        except httpx2.HTTPError:
            if self._said is None:
                raise
            await self._connect_once(api, namespace, pod)

    async def _connect_once(self, api: Api, namespace: str, pod: str) -> None:
        async with opened(api, namespace, pod, self._forward.port) as tunnel:
            await self._carry(tunnel, _never())

    async def _take(self, pods: Pods, deadline: float) -> Pod:
        service = self._forward.service
        try:
            return await asyncio.wait_for(pods.take(service), max(deadline - time.monotonic(), 0.001))
        except asyncio.TimeoutError:
            raise Unanswered(f"no pod is ready within {WAIT:.0f} s; {pods.why_not(service)}") from None

    async def _carry(self, tunnel: Tunnel, gone: Coroutine[Any, Any, None]) -> None:
        """Until the pod closes the connection. Raises Broken, and _Over when the client is gone before."""
        await _first(self._down(tunnel), self._up(tunnel), tunnel.keep(), _raise_when(gone))

    async def _down(self, tunnel: Tunnel) -> None:
        while data := await tunnel.receive():
            if self._said is not None:
                self._said = None
                self._log.well(self._forward.key)
            self._writer.write(data)
            try:
                await self._writer.drain()
            except ConnectionError:
                raise _Over from None

    async def _up(self, tunnel: Tunnel) -> None:
        try:
            if self._said:
                await tunnel.send(bytes(self._said))
            while data := await self._reader.read(PIECE):
                self._remember(data)
                await tunnel.send(data)
            await local.closed(self._link)
        except ConnectionError:
            raise _Over from None
        except Broken:
            await asyncio.sleep(_REASON)
            raise
        raise _Over

    def _remember(self, data: bytes) -> None:
        if self._said is not None:
            self._said += data
            if len(self._said) > _KEPT:
                self._said = None

    async def _part(self) -> None:
        """The pod has closed: tell the client, and read on until it closes too, since what it still sends
        would reset the connection and could cost it the end of the answer.
        """
        with contextlib.suppress(ConnectionError, asyncio.TimeoutError):
            self._writer.write_eof()
            await asyncio.wait_for(self._rest(), _FAREWELL)
        self._writer.close()

    async def _rest(self) -> None:
        while await self._reader.read(PIECE):
            pass

    def _abort(self) -> None:
        """Resets the connection where it is still open."""
        if not self._writer.is_closing():
            local.reset_on_close(self._link)
            self._writer.transport.abort()


async def _never() -> None:
    await asyncio.Event().wait()


async def _raise_when(gone: Coroutine[Any, Any, None]) -> None:
    await gone
    raise Broken("the pod is gone")


async def _first(*parts: Coroutine[Any, Any, None]) -> None:
    """Runs all until one ends; the others are cancelled. Raises what the first that ended raised."""
    tasks = [asyncio.create_task(part) for part in parts]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    next(task for task in tasks if task in done).result()
