# mypy: disable-error-code="import-not-found"
"""What may reach the HTTP server: the right Host, no other web page, a body of bounded size.

Bodies are gathered here, so that the bound holds for chunked and for compressed ones too.
"""

from __future__ import annotations

import json
import zlib
from typing import Any

from matcha_web import App, Guard, Message, Receive, Scope, Send

from .leaving import Leaving

DRAIN = 64 * 2**20  # read on after a refusal, so that the client gets to see it
WITH_BODY = ("POST", "PUT", "PATCH", "DELETE")
BINARY = b"inference-header-content-length"


class Refused(Exception):
    """An answer that the server gives without asking the application."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status


class Gate:
    """ASGI application around `app`; refusals are JSON with an `error`. `leaving` has every request pass."""

    def __init__(
        self, app: App, hosts: tuple[str, ...], max_body: int, leaving: Leaving | None = None
    ) -> None:
        self._app = app
        self._leaving = leaving or Leaving()
        self._guard = Guard(app, hosts)
        self._max = max_body

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
        elif scope["type"] == "http":
            await self._leaving.track(self._answer, scope, receive, send)
        else:
            await self._answer(scope, receive, send)

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            inner = await self._admit(scope, receive)
        except Refused as refused:
            await answer(scope, receive, send, refused)
            return
        await self._app(scope, inner, send)

    async def _admit(self, scope: Scope, receive: Receive) -> Receive:
        if refusal := self._guard.refusal(scope):
            raise Refused(*refusal)
        if scope["type"] != "http" or scope["method"] not in WITH_BODY:
            return receive
        headers = {key.lower(): value for key, value in scope["headers"]}
        if BINARY in headers:
            raise Refused(
                400, "Binary tensors over HTTP are not supported: send JSON (binary_data=False) or use gRPC."
            )
        body = await _gather(receive, headers, self._max)
        if encoding := headers.get(b"content-encoding", b"").strip().lower():
            body = unpack(body, encoding, self._max)
            scope["headers"] = _unpacked(scope["headers"], len(body))
        return _replay(body, receive)


def too_large(limit: int) -> Refused:
    return Refused(413, f"The request is larger than {limit // 2**20} MiB: send fewer rows at a time.")


async def _gather(receive: Receive, headers: dict[bytes, bytes], limit: int) -> bytes:
    declared = headers.get(b"content-length", b"0")
    if declared.isdigit() and int(declared) > limit:
        await _drain(receive)
        raise too_large(limit)
    parts, size = [], 0
    async for chunk in _chunks(receive):
        size += len(chunk)
        if size > limit:
            await _drain(receive)
            raise too_large(limit)
        parts.append(chunk)
    return b"".join(parts)


async def _chunks(receive: Receive) -> Any:
    """Raises Refused where the client hangs up midway."""
    more = True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise Refused(400, "The request ended early.")
        more = message.get("more_body", False)
        yield message.get("body", b"")


async def _drain(receive: Receive) -> None:
    """A client that still sends when the connection closes sees a reset instead of the answer."""
    size = 0
    try:
        async for chunk in _chunks(receive):
            size += len(chunk)
            if size > DRAIN:
                return
    except Refused:
        return


def unpack(body: bytes, encoding: bytes, limit: int) -> bytes:
    """Raises Refused for what is not gzip, and for what grows beyond `limit`."""
    if encoding == b"identity":
        return body
    if encoding != b"gzip":
        raise Refused(415, "Content-Encoding must be gzip or none.")
    stream = zlib.decompressobj(wbits=31)
    try:
        plain = stream.decompress(body, limit + 1)
    except zlib.error as error:
        raise Refused(400, "The request says that it is gzip, and is not.") from error
    if len(plain) > limit:
        raise too_large(limit)
    if not stream.eof:
        raise Refused(400, "The gzip stream of the request ends early.")
    return plain


def _unpacked(headers: list[tuple[bytes, bytes]], size: int) -> list[tuple[bytes, bytes]]:
    kept = [(k, v) for k, v in headers if k.lower() not in (b"content-encoding", b"content-length")]
    return [*kept, (b"content-length", str(size).encode())]


def _replay(body: bytes, receive: Receive) -> Receive:
    """The gathered body as one message; after it the connection's own, which tell of a client that left."""
    waiting: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def replay() -> Message:
        return waiting.pop() if waiting else await receive()

    return replay


async def answer(scope: Scope, receive: Receive, send: Send, refused: Refused) -> None:
    if scope["type"] == "websocket":
        await receive()
        await send({"type": "websocket.close", "code": 1008})
        return
    text = json.dumps({"error": str(refused)}).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(text)).encode())]
    if refused.status == 413:
        headers.append((b"connection", b"close"))
    await send({"type": "http.response.start", "status": refused.status, "headers": headers})
    await send({"type": "http.response.body", "body": text})
