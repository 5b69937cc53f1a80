# mypy: disable-error-code="import-not-found"
"""The server for applications outside: predictions and what is known of models, for the holder of a token.

    GET  /v2/models/NAME                  and /versions/VERSION: metadata
    GET  /v2/models/NAME/ready            and /versions/VERSION/ready
    POST /v2/models/NAME/infer            and /versions/VERSION/infer

Everything else is not here, but for `/`, which a cloud's load balancer asks to see whether a pod lives: it
answers 200 to everybody, and says nothing. It listens only where the stack is exposed, behind something that
speaks TLS. Who has no right token learns nothing, and whose token is for some models does not learn which
others there are.
A request is read only once its token is right, and what is behind sees no token.

Tokens come from a file, which is read again when it changes, and at once from whom `admin` lets in: the newer
list counts.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import re
import time
from pathlib import Path

from matcha_web import App, Message, Receive, Scope, Send

from .config import Door
from .gate import Gate, Refused, answer
from .leaving import Leaving
from .tokens import BURST_SECONDS, FAILURES, Buckets, Token, Tokens, Unreadable, listed

LOOK_SECONDS = 5.0  # between two looks at the file
AGAIN_SECONDS = 0.1
HEADERS = 16 * 1024  # bytes of a request's line and headers together
BODY_SECONDS = 60.0  # for a request to arrive
UNREAD = 256 * 1024  # bytes read of what is refused, so that the client sees the answer
UNREAD_SECONDS = 2.0
MOST_CONNECTIONS = 1024
# Longer than what stands in front keeps an idle connection (minutes), or it would send a request on one that
# has just been closed.
KEEP_SECONDS = 620
_ONE = r"/v2/models/(?P<name>[A-Za-z0-9-]+)(?:/versions/[A-Za-z0-9._-]+)?"  # nothing that is escaped
ROUTES = {"GET": re.compile(rf"{_ONE}(?:/ready)?"), "POST": re.compile(rf"{_ONE}/infer")}
UNSEEN = (b"authorization", b"proxy-authorization", b"cookie", b"forwarded")
Headers = tuple[tuple[bytes, bytes], ...]
logger = logging.getLogger("mlserver.matcha")


class Turned(Refused):
    """A refusal with headers of its own."""

    def __init__(self, status: int, text: str, *headers: tuple[bytes, bytes]) -> None:
        super().__init__(status, text)
        self.headers = headers


class Applications:
    """ASGI application around the main server's. `buckets` are for tests."""

    def __init__(
        self,
        app: App,
        door: Door,
        max_body: int,
        *,
        tokens: Tokens | None = None,
        buckets: tuple[Buckets, Buckets] | None = None,
        leaving: Leaving | None = None,
    ) -> None:
        self.tokens = tokens or Tokens()
        self._gate = Gate(app, door.hosts, max_body, leaving)
        self._asked, self._failed = buckets or (
            Buckets(door.rate, max(1.0, door.rate * BURST_SECONDS)),
            Buckets(*FAILURES),
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            if scope["type"] != "http":
                raise Refused(404, "Not Found")
            if _size(scope) > HEADERS:
                raise Refused(431, "Request Header Fields Too Large")
            if _is_health_check(scope):
                await _live(send)
                return
            self._admit(scope)
        except Refused as refused:
            await _turn_away(scope, receive, send, refused)
            return
        await self._gate(_without_credentials(scope), _in_time(receive), send)

    def _admit(self, scope: Scope) -> None:
        """Raises Refused."""
        token = self._token(scope)
        if wait := self._asked.wait(token.id):
            raise _too_many(wait)
        if scope["query_string"]:
            raise Refused(400, "This address takes no query. A token belongs into the Authorization header.")
        route = ROUTES.get(scope["method"])
        found = route.fullmatch(_path(scope)) if route else None
        if found is None:
            raise Refused(404, "Not Found")
        if not token.may(found["name"]):
            raise Refused(403, "Forbidden")

    def _token(self, scope: Scope) -> Token:
        """A right one is let in whatever else came from its address."""
        said = [value for name, value in scope["headers"] if name.lower() == b"authorization"]
        token = self.tokens.right(said[0].decode("latin-1") if len(said) == 1 else "")
        if token is not None:
            return token
        if wait := self._failed.wait(_client(scope)):
            raise _too_many(wait)
        raise Turned(401, "Unauthorized", (b"www-authenticate", b"Bearer"))


def _is_health_check(scope: Scope) -> bool:
    return scope["method"] in ("GET", "HEAD") and _path(scope) == "/"


async def _live(send: Send) -> None:
    headers = [(b"content-type", b"application/json"), (b"content-length", b"2")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": b"{}"})


def _path(scope: Scope) -> str:
    """As it was sent: what is escaped stays so, and is in no route."""
    return str((scope.get("raw_path") or scope["path"].encode()).decode("latin-1"))


def _size(scope: Scope) -> int:
    headers = sum(len(name) + len(value) for name, value in scope["headers"])
    return headers + len(_path(scope)) + len(scope["query_string"])


def _client(scope: Scope) -> str:
    """As the gateway in front says it: only that reaches this port, and it writes the last one itself."""
    said = [value for name, value in scope["headers"] if name.lower() == b"x-forwarded-for"]
    last = said[-1].decode("latin-1").rpartition(",")[2].strip() if said else ""
    return last[:64] or str((scope.get("client") or ("",))[0])


def _too_many(wait: float) -> Turned:
    seconds = str(max(1, math.ceil(wait))).encode()
    return Turned(429, "Too Many Requests", (b"retry-after", seconds))


def _without_credentials(scope: Scope) -> Scope:
    """What is behind, models included, sees no token and no address."""
    kept = [
        (name, value)
        for name, value in scope["headers"]
        if name.lower() not in UNSEEN and not name.lower().startswith(b"x-forwarded-")
    ]
    return {**scope, "headers": kept}


def _in_time(receive: Receive) -> Receive:
    """Who sends a byte now and then is cut off."""
    loop = asyncio.get_running_loop()
    end = loop.time() + BODY_SECONDS
    arrived = False

    async def inner() -> Message:
        nonlocal arrived
        if arrived:  # what comes now is that the client left
            return await receive()
        try:
            message = await asyncio.wait_for(receive(), max(0.0, end - loop.time()))
        except asyncio.TimeoutError:
            raise Refused(408, "The request did not arrive in time.") from None
        arrived = message["type"] != "http.request" or not message.get("more_body", False)
        return message

    return inner


async def _turn_away(scope: Scope, receive: Receive, send: Send, refused: Refused) -> None:
    headers: Headers = getattr(refused, "headers", ())
    if scope["type"] == "http":
        await _drain(receive)

    async def dressed(message: Message) -> None:
        if message["type"] == "http.response.start":
            message["headers"] = [*message["headers"], *headers, (b"connection", b"close")]
        await send(message)

    await answer(scope, receive, dressed, refused)


async def _drain(receive: Receive) -> None:
    """A little: a client that still sends when the connection closes sees a reset instead of the answer."""

    async def read() -> None:
        size = 0
        while size < UNREAD:
            message = await receive()
            size += len(message.get("body", b""))
            if message["type"] != "http.request" or not message.get("more_body", False):
                return

    with contextlib.suppress(asyncio.TimeoutError):
        await asyncio.wait_for(read(), UNREAD_SECONDS)


async def follow(file: Path, tokens: Tokens, every: float = LOOK_SECONDS) -> None:
    """Until it is cancelled. Where the file is taken away, all tokens go with it; where it cannot be read at
    the moment, none does.
    """
    before: bytes | None = None
    while True:
        try:
            found = await asyncio.to_thread(_read, file)
        except OSError as error:
            logger.error("The list of tokens cannot be read (%s); those that were known go on", error)
            found = before
        if found is None and before is not None:
            tokens.drop()
            logger.warning("The list of tokens is gone: none is good any more")
        if found is not None and found != before:
            try:
                if tokens.take(listed(found)):
                    logger.info("Tokens of applications: list %d", tokens.serial)
            except Unreadable:
                logger.error("The list of tokens cannot be read; those that were known go on")
        before = found
        await asyncio.sleep(every)


def _read(file: Path) -> bytes | None:
    """None where there is none, also a moment later: a kubelet puts a folder in another one's place."""
    for _ in range(2):
        with contextlib.suppress(FileNotFoundError):
            return file.read_bytes()
        time.sleep(AGAIN_SECONDS)
    return None
