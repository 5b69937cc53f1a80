"""One TCP connection to a port of a pod, over one websocket.

The protocol is `v4.channel.k8s.io`: the first byte of every message names a channel, 0 for data and 1 for
errors, and the first message of each holds the port's number. The container runtime serves it; the API server
and the kubelet hand its bytes on. It knows no half-close: a pod cannot be told that its client has said all
it will say.
"""

from __future__ import annotations

import base64
import contextlib
import os
from collections.abc import AsyncIterator

import anyio
import httpx2
import wsproto.events
from httpx2.websockets import (
    AsyncWebSocketSession,
    HTTPXWSException,
    WebSocketDisconnect,
)
from wsproto.utilities import ProtocolError

from matcha.targets.kubernetes.forward.api import TIMEOUT, Api, refusal

PROTOCOL = "v4.channel.k8s.io"
DATA, ERROR = 0, 1
PING = 25.0  # seconds of silence before the other end is asked; balancers on the way cut silent connections
PONG = 15.0  # seconds it has for its answer
STALL = 300.0  # seconds in which a piece of data must have left
_FAREWELL = 1.0  # seconds
_SLACK = 64 * 1024  # bytes that a pod which takes nothing still has room for
_LONGEST = 1024 * 1024  # bytes of one message; runtimes send 32 KiB
_NORMAL = 1000  # how a runtime closes a connection that the pod has closed


class Broken(Exception):
    """The connection ended in another way than by the pod closing it."""


class NotListening(Broken):
    """The pod took no connection: nothing that was sent has reached it."""


class _Session(AsyncWebSocketSession):
    async def close(self, code: int = _NORMAL, reason: str | None = None) -> None:
        """Where the farewell cannot be sent, without."""
        with anyio.move_on_after(_FAREWELL):
            await super().close(code, reason)
        await self.stream.aclose()


class Tunnel:
    """Made by `opened`. `receive` and `send` are for one task each."""

    def __init__(self, socket: AsyncWebSocketSession) -> None:
        self._socket = socket
        self._begun: set[int] = set()
        self._error = b""
        self._has_data = False
        self._heard = 0  # messages
        self._listening = False
        self._sent = 0  # bytes, in all
        self._taken = 0  # of these, known to have reached the other end

    async def receive(self) -> bytes:
        """The next data; empty when the pod has closed the connection. Raises Broken."""
        while True:
            channel, body = await self._message()
            if channel < 0:
                return b""
            if channel not in self._begun:
                self._begun.add(channel)
            elif channel == ERROR:
                self._error += body[:1000]
            elif channel == DATA and body:
                self._has_data = True
                return body

    async def send(self, data: bytes) -> None:
        """Waits while the way there is full. Raises Broken."""
        self._sent += len(data)
        await self._say(wsproto.events.BytesMessage(data=bytes((DATA,)) + data))

    async def keep(self) -> None:
        """Keeps a silent connection up. Raises Broken when the other end is found gone; never returns.

        It is not judged while its answers are not read here, and has long to answer what comes behind data:
        a runtime reads nothing while the pod takes nothing.
        """
        while True:
            heard = self._heard
            await anyio.sleep(PING)
            if self._is_silent(heard) and not await self._answers() and self._is_silent(heard):
                raise Broken("no sign of the other end")

    def _is_silent(self, heard: int) -> bool:
        return self._heard == heard and self._listening

    async def _answers(self) -> bool:
        sent = self._sent
        # A ping does not count as activity for runtimes, which close after some hours without.
        await self._say(wsproto.events.BytesMessage(data=b""))
        pong = await self._ping()
        with anyio.move_on_after(PONG if sent - self._taken <= _SLACK else STALL):
            await pong.wait()
            self._taken = sent
            return True
        return False

    async def _message(self) -> tuple[int, bytes]:
        """Channel and body; channel -1 for the regular end."""
        self._listening = True
        try:
            event = await self._socket.receive()
        except WebSocketDisconnect as end:
            if end.code == _NORMAL and not self._error:
                return -1, b""
            raise self._broken(f"closed with code {end.code} {end.reason}") from end
        except (HTTPXWSException, anyio.EndOfStream, anyio.ClosedResourceError) as error:
            raise self._broken("the connection to the cluster was lost") from error
        finally:
            self._listening = False
        self._heard += 1
        data = bytes(event.data) if isinstance(event, wsproto.events.BytesMessage) else b""
        return (data[0], data[1:]) if data else (DATA, b"")

    async def _say(self, event: wsproto.events.Event) -> None:
        try:
            with anyio.fail_after(STALL):
                await self._socket.send(event)
        except TimeoutError:
            raise Broken(f"nothing could be sent for {STALL:.0f} s") from None
        except (HTTPXWSException, ProtocolError, anyio.ClosedResourceError) as error:
            raise self._broken("the connection to the cluster was lost") from error

    async def _ping(self) -> anyio.Event:
        try:
            return await self._socket.ping()
        except (HTTPXWSException, ProtocolError, anyio.ClosedResourceError) as error:
            raise self._broken("the connection to the cluster was lost") from error

    def _broken(self, otherwise: str) -> Broken:
        said = self._error.decode(errors="replace")
        if "refused" in said and not self._has_data:
            return NotListening(said)
        return Broken(said or otherwise)


@contextlib.asynccontextmanager
async def opened(api: Api, namespace: str, pod: str, port: int) -> AsyncIterator[Tunnel]:
    """Raises what Api does where the cluster does not make the connection, Broken when it fails later.

    Made, it says nothing yet about the pod: that its port takes no connection shows in `receive`.
    """
    path = f"/api/v1/namespaces/{namespace}/pods/{pod}/portforward?ports={port}"
    async with contextlib.AsyncExitStack() as stack:
        answer = await stack.enter_async_context(_upgrade(api, path))
        if answer.status_code == 401 and api.forget():
            answer = await stack.enter_async_context(_upgrade(api, path))
        if answer.status_code != 101:
            raise refusal(answer.status_code, await answer.aread())
        async with _tunnel(answer) as tunnel:
            yield tunnel


@contextlib.asynccontextmanager
async def _tunnel(answer: httpx2.Response) -> AsyncIterator[Tunnel]:
    """The session wraps whatever passes through it in a group: the caller's own errors go around it."""
    failure: Exception | None = None
    socket = _Session(
        answer.extensions["network_stream"],
        max_message_size_bytes=_LONGEST,
        keepalive_ping_interval_seconds=None,
        response=answer,
    )
    async with socket:
        try:
            yield Tunnel(socket)
        except Exception as error:  # noqa: BLE001 - raised again
            failure = error
    if failure:
        raise failure


def _upgrade(api: Api, path: str) -> contextlib.AbstractAsyncContextManager[httpx2.Response]:
    headers = {
        "Connection": "Upgrade",
        "Upgrade": "websocket",
        "Sec-WebSocket-Key": base64.b64encode(os.urandom(16)).decode(),
        "Sec-WebSocket-Version": "13",
        "Sec-WebSocket-Protocol": PROTOCOL,
    }
    return api.client().stream("GET", path, headers=headers, timeout=TIMEOUT)
