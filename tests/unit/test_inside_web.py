"""The guard that every web server of the stack stands behind, and how its launchers read arguments."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from matcha.inside.matcha_web import Guard, where

HOSTS = ("127.0.0.1", "localhost", "[::1]", "exact.example:8080")


async def app(scope: Any, _: Any, send: Any) -> None:
    headers = [(b"Content-Security-Policy", b"theirs"), (b"x-kept", b"yes")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": scope["path"].encode()})


def ask(guard: Guard, *headers: tuple[str, str], path: str = "/", method: str = "GET") -> list[Any]:
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    async def receive() -> Any:
        return {"type": "http.request"}

    raw = [(name.encode(), value.encode("latin-1")) for name, value in headers]
    scope = {"type": "http", "method": method, "path": path, "headers": raw}
    asyncio.run(guard(scope, receive, send))
    return sent


def status(*headers: tuple[str, str], **where_: str) -> int:
    return int(ask(Guard(app, HOSTS, closed=("/closed",)), *headers, **where_)[0]["status"])


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "127.0.0.1:5001", "LOCALHOST:5001", "[::1]:5001", "[::1]", "exact.example:8080"]
)
def test_known_hosts_pass(host: str) -> None:
    assert status(("host", host)) == 200


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "127.0.0.1.evil.example",
        "localhost:evil",
        "exact.example",
        "exact.example:81",
        "",
        "\xff",
    ],
)
def test_other_hosts_are_refused(host: str) -> None:
    assert status(("host", host)) == 403


def test_a_request_without_or_with_two_hosts_is_refused() -> None:
    assert status() == 403
    assert status(("host", "localhost"), ("host", "evil.example")) == 403


@pytest.mark.parametrize(
    ("origin", "expected"),
    [
        ("http://localhost:5001", 200),
        ("https://localhost:5001", 200),  # behind a proxy that ends TLS
        ("http://localhost:5002", 403),
        ("http://127.0.0.1:5001", 403),
        ("http://evil.example", 403),
        ("null", 403),
        ("", 403),
        ("localhost:5001", 403),
    ],
)
@pytest.mark.parametrize("method", ["GET", "POST", "OPTIONS"])
def test_only_its_own_pages_may_call(origin: str, expected: int, method: str) -> None:
    assert status(("host", "localhost:5001"), ("origin", origin), method=method) == expected


@pytest.mark.parametrize(
    ("site", "mode", "method", "expected"),
    [
        ("same-origin", "cors", "POST", 200),
        ("none", "navigate", "GET", 200),
        ("cross-site", "navigate", "GET", 200),
        ("cross-site", "navigate", "POST", 403),
        ("cross-site", "no-cors", "GET", 403),
        ("same-site", "no-cors", "GET", 403),
    ],
)
def test_other_pages_may_only_link_here(site: str, mode: str, method: str, expected: int) -> None:
    headers = (("host", "localhost"), ("sec-fetch-site", site), ("sec-fetch-mode", mode))
    assert status(*headers, method=method) == expected


def test_closed_paths_are_not_there() -> None:
    assert status(("host", "localhost"), path="/closed/door") == 404
    assert status(("host", "localhost"), path="/open") == 200


def test_headers_replace_those_of_the_app() -> None:
    start, body = ask(Guard(app, HOSTS, headers={"content-security-policy": "ours"}), ("host", "localhost"))
    assert dict(start["headers"]) == {b"x-kept": b"yes", b"content-security-policy": b"ours"}
    assert body["body"] == b"/"


def test_a_websocket_of_another_page_is_closed_before_it_opens() -> None:
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    async def receive() -> Any:
        return {"type": "websocket.connect"}

    headers = [(b"host", b"localhost"), (b"origin", b"http://evil.example")]
    scope = {"type": "websocket", "path": "/", "headers": headers}
    asyncio.run(Guard(app, HOSTS)(scope, receive, send))
    assert sent == [{"type": "websocket.close", "code": 1008}]


def test_arguments_say_where_to_listen() -> None:
    at = where(["--bind", "127.0.0.1", "--port", "5001", "--hosts", "127.0.0.1, LocalHost,,"])
    assert at == ("127.0.0.1", 5001, ("127.0.0.1", "localhost"))


def test_a_missing_argument_ends_the_launcher() -> None:
    with pytest.raises(SystemExit):
        where(["--bind", "127.0.0.1", "--port", "5001"])
