"""What the serving processes let through, spoken to as an ASGI server would."""

from __future__ import annotations

import asyncio
import gzip
import json
import sys
import zlib
from typing import Any

import pytest

from matcha import inside

sys.path.append(str(inside.FOLDER))  # as PYTHONPATH has it in the serving environment

from matcha.components.mlserver.inside.matcha_serving import leaving
from matcha.components.mlserver.inside.matcha_serving.gate import Gate, Refused, unpack

LIMIT = 2**20


async def echo(scope: Any, receive: Any, send: Any) -> None:
    """Answers with the size of the body, as the headers and the messages give it."""
    message = await receive()
    said = dict(scope["headers"]).get(b"content-length", b"")
    text = json.dumps([len(message["body"]), said.decode()]).encode()
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": text})


def ask(*chunks: bytes, method: str = "POST", ends: bool = True, **headers: str) -> tuple[int, Any]:
    """Status and JSON of the answer to a body that comes in chunks."""
    sent: list[Any] = []
    messages = [{"type": "http.request", "body": c, "more_body": True} for c in chunks]
    last = {"type": "http.request", "body": b""} if ends else {"type": "http.disconnect"}

    async def receive() -> Any:
        return messages.pop(0) if messages else last

    async def send(message: Any) -> None:
        sent.append(message)

    named = {"host": "127.0.0.1:80", **{k.replace("_", "-"): v for k, v in headers.items()}}
    raw = [(k.encode(), v.encode()) for k, v in named.items()]
    scope = {"type": "http", "method": method, "path": "/", "headers": raw}
    asyncio.run(Gate(echo, ("127.0.0.1",), LIMIT)(scope, receive, send))
    return sent[0]["status"], json.loads(sent[1]["body"])


def test_a_body_arrives_as_one_message() -> None:
    assert ask(b"ab", b"c")[1][0] == 3


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE"])
def test_large_bodies_are_refused(method: str) -> None:
    half = b"x" * (LIMIT // 2)
    assert ask(half, half, method=method)[0] == 200
    status, said = ask(half, half, b"x", method=method)
    assert (status, said["error"]) == (413, "The request is larger than 1 MiB: send fewer rows at a time.")
    assert ask(b"x", method=method, content_length=str(LIMIT + 1))[0] == 413


def test_a_client_that_hangs_up_reaches_nothing() -> None:
    assert ask(b"half", ends=False)[0] == 400


def test_gzip_is_unpacked_within_the_bound() -> None:
    packed = gzip.compress(b"x" * 1000)
    assert ask(packed, content_encoding="gzip", content_length=str(len(packed)))[1] == [1000, "1000"]
    assert ask(gzip.compress(b"x" * (LIMIT + 1)), content_encoding="gzip")[0] == 413


@pytest.mark.parametrize(
    ("body", "encoding", "status"),
    [
        (b"no gzip", b"gzip", 400),
        (gzip.compress(b"abc", mtime=0)[:-4], b"gzip", 400),
        (zlib.compress(b"abc"), b"br", 415),
    ],
)
def test_what_is_not_gzip_is_refused(body: bytes, encoding: bytes, status: int) -> None:
    with pytest.raises(Refused) as raised:
        unpack(body, encoding, LIMIT)
    assert raised.value.status == status


@pytest.mark.parametrize(
    "headers",
    [
        {"host": "evil.example"},
        {"origin": "http://evil.example"},
        {"origin": "null"},
        {"sec_fetch_site": "cross-site"},
        {"sec_fetch_site": "same-site"},
    ],
)
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_other_pages_are_refused(headers: dict[str, str], method: str) -> None:
    status, said = ask(b"{}", method=method, **headers)
    assert status == 403
    assert said["error"]


def test_a_connection_that_was_kept_for_long_ends_with_an_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its client goes to another replica next. Connections are told apart by their other end."""
    now = [1000.0]
    monkeypatch.setattr(leaving.time, "monotonic", lambda: now[0])
    gate = Gate(echo, ("127.0.0.1",), LIMIT, leaving.Leaving())

    def closes(port: int) -> bool:
        sent: list[Any] = []

        async def receive() -> Any:
            return {"type": "http.request", "body": b""}

        async def send(message: Any) -> None:
            sent.append(message)

        headers = [(b"host", b"127.0.0.1:80")]
        scope = {"type": "http", "method": "GET", "path": "/", "headers": headers, "client": ("::1", port)}
        asyncio.run(gate(scope, receive, send))
        return (b"connection", b"close") in sent[0]["headers"]

    assert not closes(1)
    now[0] += leaving.KEPT - 1
    assert not closes(1)
    assert not closes(2)
    now[0] += 2
    assert closes(1)
    assert not closes(2)
    assert not closes(1), "of another connection"


def test_binary_tensors_are_refused() -> None:
    status, said = ask(b"{}", inference_header_content_length="2")
    assert status == 400
    assert "gRPC" in said["error"]
