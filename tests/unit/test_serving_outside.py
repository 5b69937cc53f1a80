"""Who is let in by the server for applications outside, spoken to as an ASGI server would."""

from __future__ import annotations

import asyncio
import hashlib
import json
import sys
from pathlib import Path
from typing import Any

import pytest

from matcha import inside

sys.path.append(str(inside.FOLDER))  # as PYTHONPATH has it in the serving environment

from matcha.components.mlserver.inside.matcha_serving import applications
from matcha.components.mlserver.inside.matcha_serving.applications import Applications, follow
from matcha.components.mlserver.inside.matcha_serving.config import Door
from matcha.components.mlserver.inside.matcha_serving.tokens import (
    Buckets,
    Listed,
    Tokens,
    Unreadable,
    listed,
)

HOST = "models.example.com"
LIMIT = 2**20
EVERY = f"matcha_{'a' * 12}_{'1' * 64}"
CREDIT = f"matcha_{'b' * 12}_{'2' * 64}"
OLD = f"matcha_{'c' * 12}_{'3' * 64}"
NOW = 1_800_000_000.0
REFUSED = (401, {"error": "Unauthorized"})


def record(token: str, models: tuple[str, ...] = (), expires: float = 0) -> dict[str, Any]:
    digest = hashlib.sha256(token.encode()).hexdigest()
    return {"id": token.split("_")[1], "digest": digest, "models": models, "expires": expires}


def text(*records: dict[str, Any], serial: int = 1) -> str:
    return json.dumps({"serial": serial, "tokens": records})


def known() -> Tokens:
    made = Tokens(now=lambda: NOW)
    made.take(listed(text(record(EVERY), record(CREDIT, ("credit",)), record(OLD, expires=NOW))))
    return made


class Inner:
    """What is behind: notes what it is asked."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, dict[bytes, bytes], bytes]] = []

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        body = (await receive()).get("body", b"") if scope["method"] == "POST" else b""
        self.asked.append((scope["path"], dict(scope["headers"]), body))
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b'"yes"'})


class Server:
    """`clock` is moved by hand."""

    def __init__(self, tokens: Tokens | None = None, rate: float = 1.0, burst: float = 1000.0) -> None:
        self.inner = Inner()
        self.clock = 0.0
        buckets = Buckets(rate, burst, clock=self.time), Buckets(1.0, 3.0, clock=self.time)
        door = Door(8083, (HOST,), Path("/nowhere"), rate)
        self.app = Applications(self.inner, door, LIMIT, tokens=tokens or known(), buckets=buckets)
        self.headers: dict[str, str] = {}
        self.read = 0

    def time(self) -> float:
        return self.clock

    def ask(
        self,
        authorization: str | list[str] = "",
        path: str = "/v2/models/credit/infer",
        *,
        method: str = "POST",
        query: str = "",
        host: str = HOST,
        body: bytes = b"{}",
        client: str = "10.0.0.1",
        **more: str,
    ) -> tuple[int, Any]:
        sent: list[Any] = []
        said = [authorization] if isinstance(authorization, str) else authorization
        headers = [("host", host), *(("authorization", each) for each in said if each)]
        headers += [("x-forwarded-for", client), *((k.replace("_", "-"), v) for k, v in more.items())]

        async def receive() -> Any:
            self.read += len(body)
            return {"type": "http.request", "body": body, "more_body": False}

        async def send(message: Any) -> None:
            sent.append(message)

        scope = {
            "type": "http",
            "method": method,
            "path": path,
            "raw_path": path.encode(),
            "query_string": query.encode(),
            "headers": [(k.encode(), v.encode()) for k, v in headers],
            "client": ("192.0.2.1", 4000),
        }
        asyncio.run(self.app(scope, receive, send))
        self.headers = {k.decode(): v.decode() for k, v in sent[0]["headers"]}
        return sent[0]["status"], json.loads(sent[1]["body"])


@pytest.fixture
def server() -> Server:
    return Server()


def test_a_right_token_reaches_the_model_and_is_not_seen_there(server: Server) -> None:
    more = {"cookie": "a=b", "x_forwarded_proto": "https", "content_type": "application/json"}
    assert server.ask(f"Bearer {EVERY}", body=b'{"inputs": []}', **more) == (200, "yes")
    [(path, headers, body)] = server.inner.asked
    assert (path, body) == ("/v2/models/credit/infer", b'{"inputs": []}')
    assert set(headers) == {b"host", b"content-type"}


@pytest.mark.parametrize(
    "said",
    [
        "",
        EVERY,
        f"Basic {EVERY}",
        f"Bearer {EVERY[:-1]}2",
        f"Bearer {EVERY[:-1]}",
        f"Bearer {EVERY}1",
        f"Bearer {EVERY} {EVERY}",
        f"Bearer matcha_{'d' * 12}_{'1' * 64}",
        f"Bearer {EVERY.replace('1', 'é', 1)}",
        f"Bearer {OLD}",
        f"Bearer {EVERY}{' ' * 200}",
        "Bearer " + "a" * 5000,
        [f"Bearer {EVERY}", f"Bearer {EVERY}"],
    ],
    ids=[
        "none", "no scheme", "another scheme", "wrong", "short", "long", "two", "unknown", "no ASCII",
        "expired", "padded", "oversized", "twice",
    ],
)  # fmt: skip
def test_without_a_right_token_nothing_is_told(server: Server, said: str | list[str]) -> None:
    assert server.ask(said) == REFUSED
    assert server.headers["www-authenticate"] == "Bearer"
    assert server.headers["connection"] == "close"
    assert not server.inner.asked


def test_a_scheme_is_written_as_one_likes(server: Server) -> None:
    assert server.ask(f"bearer  {EVERY}")[0] == 200


@pytest.mark.parametrize("query", [f"token={EVERY}", f"access_token={EVERY}"])
def test_a_token_in_the_address_lets_nobody_in(server: Server, query: str) -> None:
    assert server.ask(query=query) == REFUSED
    status, said = server.ask(f"Bearer {EVERY}", query=query)
    assert status == 400 and "Authorization header" in said["error"] and EVERY not in str(said)
    assert server.ask(f"Bearer {EVERY}", f"/v2/models/{EVERY}/infer")[0] == 404
    assert not server.inner.asked


def test_a_token_of_some_models_does_not_tell_which_others_there_are(server: Server) -> None:
    for name in ("movie", "none-such"):
        assert server.ask(f"Bearer {CREDIT}", f"/v2/models/{name}/infer") == (403, {"error": "Forbidden"})
        assert server.ask(f"Bearer {CREDIT}", f"/v2/models/{name}", method="GET")[0] == 403
    assert server.ask(f"Bearer {CREDIT}")[0] == 200
    assert server.ask(f"Bearer {EVERY}", "/v2/models/movie/infer")[0] == 200


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/v2/models/credit"),
        ("GET", "/v2/models/credit/ready"),
        ("GET", "/v2/models/credit/versions/1"),
        ("GET", "/v2/models/credit/versions/1/ready"),
        ("POST", "/v2/models/credit/versions/1/infer"),
    ],
)
def test_what_is_here(server: Server, method: str, path: str) -> None:
    assert server.ask(f"Bearer {CREDIT}", path, method=method)[0] == 200


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/"),
        ("GET", "/metrics"),
        ("GET", "/docs"),
        ("GET", "/v2"),
        ("GET", "/v2/health/live"),
        ("POST", "/v2/repository/index"),
        ("POST", "/v2/repository/models/credit/unload"),
        ("PUT", "/matcha/deployments"),
        ("PUT", "/matcha/tokens"),
        ("POST", "/matcha/flush"),
        ("DELETE", "/v2/models/credit/infer"),
        ("GET", "/v2/models/credit/infer"),
        ("POST", "/v2/models/credit"),
        ("POST", "/v2/models/credit/infer/"),
        ("POST", "/v2/models/credit%2Finfer"),
        ("POST", "/v2/models/..%2F..%2Fmatcha%2Fflush/infer"),
        ("POST", "/v2/models/credit/versions/..%2F..%2Fmovie/infer"),
        ("POST", "//v2/models/credit/infer"),
    ],
)
def test_everything_else_is_not(server: Server, method: str, path: str) -> None:
    assert server.ask(f"Bearer {EVERY}", path, method=method) == (404, {"error": "Not Found"})
    assert server.ask("", path, method=method) == REFUSED
    assert not server.inner.asked


@pytest.mark.parametrize("host", [HOST, "10.0.0.9:8083"])
def test_a_load_balancer_sees_that_it_lives_and_nothing_else(server: Server, host: str) -> None:
    for method in ("GET", "HEAD"):
        for _ in range(9):  # more often than failures are allowed
            assert server.ask("", "/", method=method, host=host) == (200, {})
    assert not server.inner.asked and server.ask("", "/v2") == REFUSED


def test_it_answers_to_its_own_name_alone(server: Server) -> None:
    assert server.ask(f"Bearer {EVERY}", host="mlserver")[0] == 403
    assert server.ask(f"Bearer {EVERY}", host=f"{HOST}:443")[0] == 200
    assert server.ask(f"Bearer {EVERY}", origin="https://elsewhere.example.com")[0] == 403


def test_what_is_too_large_is_refused(server: Server) -> None:
    assert server.ask(f"Bearer {EVERY}", body=b"x" * (LIMIT + 1))[0] == 413
    assert server.ask(f"Bearer {EVERY}", x_more="x" * applications.HEADERS)[0] == 431
    assert server.ask(query="x" * applications.HEADERS)[0] == 431
    assert not server.inner.asked


def test_of_a_refused_request_little_is_read(server: Server) -> None:
    assert server.ask(body=b"x" * applications.UNREAD)[0] == 401
    assert server.read == applications.UNREAD


def test_each_token_has_a_rate_of_its_own() -> None:
    server = Server(rate=2.0, burst=3.0)
    assert [server.ask(f"Bearer {EVERY}")[0] for _ in range(4)] == [200, 200, 200, 429]
    assert server.headers["retry-after"] == "1"
    assert server.ask(f"Bearer {CREDIT}")[0] == 200
    server.clock += 1.0
    assert [server.ask(f"Bearer {EVERY}")[0] for _ in range(3)] == [200, 200, 429]


def test_failures_of_an_address_are_limited_and_keep_no_right_token_out(server: Server) -> None:
    said = [server.ask("Bearer no", client="203.0.113.9, 198.51.100.7")[0] for _ in range(5)]
    assert said == [401, 401, 401, 429, 429]
    assert int(server.headers["retry-after"]) >= 1
    assert server.ask(f"Bearer {EVERY}", client="198.51.100.7")[0] == 200
    assert server.ask("Bearer no", client="198.51.100.8") == REFUSED
    server.clock += 1.0
    assert server.ask("Bearer no", client="198.51.100.7") == REFUSED


def test_a_revoked_token_is_one_of_nobody() -> None:
    tokens = known()
    server = Server(tokens)
    assert server.ask(f"Bearer {CREDIT}")[0] == 200
    assert tokens.take(listed(text(record(EVERY), serial=2)))
    assert server.ask(f"Bearer {CREDIT}") == REFUSED


def test_an_older_list_takes_nobodys_place() -> None:
    tokens = known()
    tokens.take(Listed(5, {}))
    assert not tokens.take(listed(text(record(EVERY), serial=4)))
    assert not tokens.take(listed(text(record(EVERY), serial=5)))
    assert tokens.right(f"Bearer {EVERY}") is None


@pytest.mark.parametrize(
    "wrong",
    ["", "[]", '{"tokens": []}', '{"serial": 1, "tokens": [{"id": "a", "digest": "no"}]}', "[" * 10**5],
)
def test_what_is_no_list_is_refused(wrong: str) -> None:
    with pytest.raises(Unreadable):
        listed(wrong)


def test_the_same_work_is_done_for_ids_that_nobody_has(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every token that is asked for is hashed, and compared in constant time."""
    compared: list[tuple[str, str]] = []
    tokens = known()
    module = sys.modules[Tokens.__module__]
    monkeypatch.setattr(module.hmac, "compare_digest", lambda a, b: compared.append((a, b)) or a == b)  # type: ignore[attr-defined]
    for said in (EVERY, EVERY[:-1] + "2", f"matcha_{'d' * 12}_{'1' * 64}", "nonsense", ""):
        tokens.right(f"Bearer {said}")
    assert [(len(a), len(b)) for a, b in compared] == [(64, 64)] * 5


def test_the_file_is_followed(tmp_path: Path) -> None:
    file, tokens = tmp_path / "tokens", Tokens(now=lambda: NOW)

    async def scene() -> None:
        following = asyncio.create_task(follow(file, tokens, every=0.01))
        file.write_text(text(record(EVERY), serial=3))
        await _until(lambda: tokens.right(f"Bearer {EVERY}") is not None)
        file.write_text("half a li")
        await asyncio.sleep(0.1)
        assert tokens.right(f"Bearer {EVERY}") is not None
        file.write_text(text(record(CREDIT), serial=4))
        await _until(lambda: tokens.right(f"Bearer {EVERY}") is None)
        assert tokens.right(f"Bearer {CREDIT}") is not None
        file.unlink()
        await _until(lambda: tokens.right(f"Bearer {CREDIT}") is None)
        file.write_text(text(record(CREDIT), serial=1))  # of a stack that was made anew
        await _until(lambda: tokens.right(f"Bearer {CREDIT}") is not None)
        following.cancel()

    asyncio.run(scene())


def test_a_file_that_is_not_there_yet_takes_nothing_away(tmp_path: Path) -> None:
    """The first token is told before a kubelet has made the file."""
    tokens = known()

    async def scene() -> None:
        following = asyncio.create_task(follow(tmp_path / "none", tokens, every=0.01))
        await asyncio.sleep(0.1)
        following.cancel()

    asyncio.run(scene())
    assert tokens.right(f"Bearer {EVERY}") is not None


async def _until(holds: Any) -> None:
    for _ in range(500):
        if holds():
            return
        await asyncio.sleep(0.01)
    raise AssertionError("never")


def test_who_sends_slowly_is_cut_off(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(applications, "BODY_SECONDS", 0.05)
    sent: list[Any] = []

    async def receive() -> Any:
        await asyncio.sleep(0.02)
        return {"type": "http.request", "body": b"x", "more_body": True}

    async def send(message: Any) -> None:
        sent.append(message)

    headers = [(b"host", HOST.encode()), (b"authorization", f"Bearer {EVERY}".encode())]
    path = "/v2/models/credit/infer"
    scope = {"type": "http", "method": "POST", "path": path, "query_string": b"", "headers": headers}
    asyncio.run(server.app(scope, receive, send))
    assert sent[0]["status"] == 408


def test_buckets_forget_those_that_were_not_heard_of_longest() -> None:
    buckets = Buckets(1.0, 1.0, most=2, clock=lambda: 0.0)
    assert [buckets.wait(name) for name in ("a", "b", "a")] == [0.0, 0.0, 1.0]
    assert buckets.wait("c") == 0.0
    assert buckets.wait("a") == 1.0
    assert buckets.wait("b") == 0.0


def test_a_file_that_cannot_be_read_now_takes_nothing_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No file can be opened, or it is looked for in the moment in which it is replaced."""
    (file := tmp_path / "tokens").write_text(text(record(EVERY), serial=3))
    tokens = Tokens(now=lambda: NOW)
    usual, trouble = Path.read_bytes, iter([None, OSError(24, "Too many open files"), FileNotFoundError()])
    asked: list[object] = []

    def read(path: Path) -> bytes:
        asked.append(error := next(trouble, None))
        if error is not None:
            raise error
        return usual(path)

    monkeypatch.setattr(Path, "read_bytes", read)
    monkeypatch.setattr(Tokens, "drop", lambda _: pytest.fail("all tokens are gone"))

    async def scene() -> None:
        following = asyncio.create_task(follow(file, tokens, every=0.01))
        await _until(lambda: len(asked) >= 5 or following.done())
        assert not following.done()
        following.cancel()

    asyncio.run(scene())
    assert tokens.right(f"Bearer {EVERY}") is not None
