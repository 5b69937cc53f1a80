"""The server for applications outside, as it runs: MLServer, models, connections, and every kind of token."""

from __future__ import annotations

import contextlib
import hashlib
import json
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from serving_bench import TOKEN, Bench, Make, Receiver, body, credit, free_ports, stop_all, tensor
from serving_malformed import good

from support.matcha import until

pytestmark = pytest.mark.stack

HOST = "models.example.com"
EVERY = f"matcha_{'a' * 12}_{'1' * 64}"
CREDIT = f"matcha_{'b' * 12}_{'2' * 64}"
RATE = 20.0
UNAUTHORIZED = (401, {"error": "Unauthorized"})


def record(token: str, models: tuple[str, ...] = (), expires: float = 0) -> dict[str, Any]:
    """As `matcha.component.Token` is written."""
    identity, digest = token.split("_")[1], hashlib.sha256(token.encode()).hexdigest()
    return {
        "id": identity,
        "name": identity,
        "digest": digest,
        "models": models,
        "created": 0,
        "expires": expires,
    }


class Exposed(Bench):
    """With the server for applications outside; `tokens` is the file it follows."""

    def __init__(self, python: Path, root: Path, **env: str) -> None:
        super().__init__(python, root, **env)
        [self.port] = free_ports(1)
        self.tokens = root / "tokens.json"
        self.env |= {
            "MATCHA_APPLICATIONS_HOSTS": HOST,
            "MATCHA_APPLICATIONS_FILE": str(self.tokens),
            "MATCHA_APPLICATIONS_RATE": f"{RATE:g}",
        }
        self.serial = 0

    def _ports(self) -> list[str]:
        return [*super()._ports(), f"--applications-port={self.port}"]

    def listed(self, *records: dict[str, Any]) -> str:
        self.serial += 1
        return json.dumps({"serial": self.serial, "tokens": records})

    def tell(self, *records: dict[str, Any], token: str = TOKEN) -> httpx.Response:
        headers = {"Authorization": f"Bearer {token}"}
        return httpx.put(f"{self.url}/matcha/tokens", content=self.listed(*records), headers=headers)

    def ask(
        self, authorization: str = "", model: str = "credit", content: Any = None, **how: Any
    ) -> tuple[int, Any]:
        """Status and JSON."""
        answer = self.request(authorization, f"/v2/models/{model}/infer", content, **how)
        return answer.status_code, answer.json()

    def request(
        self,
        authorization: str,
        path: str,
        content: Any = None,
        *,
        method: str = "POST",
        host: str = HOST,
        **headers: str,
    ) -> httpx.Response:
        said = {"Authorization": authorization} if authorization else {}
        return httpx.request(
            method,
            f"http://127.0.0.1:{self.port}{path}",
            content=(content if isinstance(content, bytes) else json.dumps(content or ASKED))
            if method == "POST"
            else None,
            headers={"Host": host, "Content-Type": "application/json", **said, **headers},
            timeout=30,
        )


ASKED = body(*good())


@pytest.fixture(scope="module")
def receiver() -> Iterator[Receiver]:
    made = Receiver()
    yield made
    made.close()


@pytest.fixture(scope="module")
def running(
    serving_python: Path,
    serving_models: Path,
    tmp_path_factory: pytest.TempPathFactory,
    receiver: Receiver,
) -> Iterator[Exposed]:
    made = Exposed(
        serving_python,
        tmp_path_factory.mktemp("applications"),
        MLFLOW_TRACKING_URI=f"sqlite:///{serving_models / 'registry.db'}",
        MATCHA_MAX_BODY_MB="1",
        MATCHA_CAPTURE_URL=receiver.url,
    )
    made.start()
    errors = made.put(credit(1), {"name": "texts", "uri": str(serving_models / "texts")})
    assert not any(errors.values()), errors
    yield made
    stop_all([made])


@pytest.fixture
def server(running: Exposed) -> Exposed:
    told = running.tell(record(EVERY), record(CREDIT, ("credit",)))
    assert told.json() == {"serial": running.serial}
    return running


def test_a_model_answers_the_holder_of_a_token(server: Exposed) -> None:
    for token in (EVERY, CREDIT):
        status, said = server.ask(f"Bearer {token}")
        assert status == 200 and said["outputs"][0]["shape"] == [1, 1]
    inside = server.infer("credit", ASKED).json()["outputs"]
    assert said["outputs"] == inside
    described = server.request(f"Bearer {CREDIT}", "/v2/models/credit", method="GET").json()
    assert described["name"] == "credit" and described["inputs"]
    assert server.request(f"Bearer {CREDIT}", "/v2/models/credit/ready", method="GET").status_code == 200


@pytest.mark.parametrize(
    "authorization",
    [
        "",
        EVERY,
        f"Basic {EVERY}",
        f"Bearer {EVERY[:-1]}0",
        f"Bearer matcha_{'d' * 12}_{'1' * 64}",
        "Bearer " + "x" * 8000,
    ],
    ids=["none", "no scheme", "another scheme", "wrong", "unknown", "oversized"],
)
def test_nobody_else_is_answered(server: Exposed, authorization: str) -> None:
    answer = server.request(authorization, "/v2/models/credit/infer")
    assert (answer.status_code, answer.json()) == UNAUTHORIZED
    assert answer.headers["www-authenticate"] == "Bearer"
    assert "server" not in answer.headers


def test_the_token_of_the_stack_is_none_of_an_application(server: Exposed) -> None:
    assert server.ask(f"Bearer {TOKEN}") == UNAUTHORIZED


def test_a_revoked_token_is_refused_at_once(server: Exposed) -> None:
    assert server.ask(f"Bearer {CREDIT}")[0] == 200
    server.tell(record(EVERY))
    assert server.ask(f"Bearer {CREDIT}") == UNAUTHORIZED
    assert server.ask(f"Bearer {EVERY}")[0] == 200


def test_an_expired_token_is_refused(server: Exposed) -> None:
    server.tell(record(EVERY, expires=time.time() + 1.0))
    assert server.ask(f"Bearer {EVERY}")[0] == 200
    until(lambda: server.ask(f"Bearer {EVERY}") == UNAUTHORIZED, 10)


def test_a_token_in_the_address_is_refused_and_not_written_down(server: Exposed) -> None:
    for query in (f"?token={EVERY}", f"?access_token={EVERY}"):
        assert server.request("", f"/v2/models/credit/infer{query}").status_code == 401
        both = server.request(f"Bearer {EVERY}", f"/v2/models/credit/infer{query}")
        assert both.status_code == 400 and EVERY not in both.text
    assert server.request(f"Bearer {EVERY}", f"/{EVERY}", method="GET").status_code == 404
    log = server.log.read_text()
    assert EVERY not in log and EVERY.rpartition("_")[2] not in log


def test_other_models_are_forbidden_whether_they_exist_or_not(server: Exposed) -> None:
    content = body(tensor("x", [1.0]))
    for model in ("texts", "none-such"):
        assert server.ask(f"Bearer {CREDIT}", model, content) == (403, {"error": "Forbidden"})
        assert server.request(f"Bearer {CREDIT}", f"/v2/models/{model}", method="GET").status_code == 403
    assert server.ask(f"Bearer {EVERY}", "texts", content)[0] == 200
    assert server.ask(f"Bearer {EVERY}", "none-such", content)[0] == 404


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/v2"),
        ("GET", "/v2/health/ready"),
        ("GET", "/metrics"),
        ("GET", "/docs"),
        ("GET", "/v2/docs"),
        ("GET", "/v2/models/credit/docs"),
        ("POST", "/v2/repository/index"),
        ("POST", "/v2/repository/models/credit/unload"),
        ("PUT", "/matcha/deployments"),
        ("PUT", "/matcha/tokens"),
        ("POST", "/matcha/flush"),
        ("POST", "/invocations"),
        ("POST", "/v2/models/credit/infer_stream"),
        ("POST", "/v2/models/..%2F..%2Fmatcha%2Fflush/infer"),
    ],
)
def test_nothing_but_models_is_there(server: Exposed, method: str, path: str) -> None:
    answer = server.request(f"Bearer {EVERY}", path, method=method)
    assert (answer.status_code, answer.json()) == (404, {"error": "Not Found"})


def test_it_answers_to_the_exposed_host_alone_and_the_other_server_does_not(server: Exposed) -> None:
    assert server.ask(f"Bearer {EVERY}", host="mlserver")[0] == 403
    assert server.infer("credit", ASKED, Host=HOST).status_code == 403


def test_what_is_too_large_is_refused(server: Exposed) -> None:
    assert server.ask(f"Bearer {EVERY}", content=b" " * (2**20 + 1))[0] == 413
    many = {f"X-{number}": "x" * 1000 for number in range(20)}
    assert server.request(f"Bearer {EVERY}", "/v2/models/credit/infer", **many).status_code == 431
    assert spoken(server, b"GET /v2/models/credit HTTP/1.1\r\nHost: a\r\nX: " + b"x" * 200_000).startswith(
        b"HTTP/1.1 4"
    )
    assert server.ask(f"Bearer {EVERY}")[0] == 200


def spoken(server: Exposed, raw: bytes) -> bytes:
    """What comes back on a connection of its own, until the server closes it."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=15) as connection:
        for start in range(0, len(raw), 4096):
            with contextlib.suppress(OSError):
                connection.sendall(raw[start : start + 4096])
            time.sleep(0.001)
        parts = []
        with contextlib.suppress(OSError):
            while part := connection.recv(65536):
                parts.append(part)
    return b"".join(parts)


def test_a_large_body_of_nobody_is_not_read(server: Exposed) -> None:
    """The answer comes before the body does, and ends the connection."""
    head = (
        f"POST /v2/models/credit/infer HTTP/1.1\r\nHost: {HOST}\r\nContent-Length: 30000000\r\n\r\n".encode()
    )
    said = spoken(server, head + b"x" * 100_000)
    assert said.startswith(b"HTTP/1.1 401 ") and b"connection: close" in said.lower()


def test_each_token_is_held_to_its_rate(server: Exposed) -> None:
    """Others are answered meanwhile."""
    path = "/v2/models/none-such/infer"

    headers = {"Host": HOST, "Authorization": f"Bearer {CREDIT}"}
    with httpx.Client(base_url=f"http://127.0.0.1:{server.port}", headers=headers) as client:
        answers = [client.post(path, content=b"{}") for _ in range(int(RATE * 10))]
    said = [a.status_code for a in answers]
    assert set(said) == {403, 429}
    assert said[: int(RATE)] == [403] * int(RATE)  # it may ask twice its rate at once
    assert int(answers[said.index(429)].headers["retry-after"]) >= 1
    assert server.ask(f"Bearer {EVERY}")[0] == 200
    until(lambda: server.ask(f"Bearer {CREDIT}")[0] == 200, 10)


def test_failures_are_limited_for_each_client_and_lock_nobody_out(server: Exposed) -> None:
    said = [server.ask("Bearer no", **{"X-Forwarded-For": "1.1.1.1, 203.0.113.5"})[0] for _ in range(60)]
    assert said[0] == 401 and said[-1] == 429
    assert server.ask(f"Bearer {EVERY}", **{"X-Forwarded-For": "203.0.113.5"})[0] == 200
    assert server.ask("Bearer no", **{"X-Forwarded-For": "203.0.113.6"}) == UNAUTHORIZED


def test_only_the_stack_changes_tokens(running: Exposed) -> None:
    assert running.tell(record(EVERY), token="no").status_code == 401
    assert running.tell(record(EVERY), token=EVERY).status_code == 401
    answer = httpx.put(
        f"{running.url}/matcha/tokens", content="{}", headers={"Authorization": f"Bearer {TOKEN}"}
    )
    assert answer.status_code == 400


def test_a_gateway_may_keep_its_connection(server: Exposed) -> None:
    """Longer than the server inside, whose clients send on a broken connection again."""
    content = json.dumps(ASKED)
    request = (
        f"POST /v2/models/credit/infer HTTP/1.1\r\nHost: {HOST}\r\nAuthorization: Bearer {EVERY}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(content)}\r\n\r\n{content}"
    )
    with socket.create_connection(("127.0.0.1", server.port), timeout=30) as kept:
        for pause in (0.0, 8.0):
            time.sleep(pause)
            kept.sendall(request.encode())
            assert kept.recv(65536).startswith(b"HTTP/1.1 200 OK")


def test_the_file_is_followed(server: Exposed) -> None:
    """As it is where nobody could tell the server."""
    server.tokens.write_text(server.listed(record(CREDIT, ("credit",))))
    until(lambda: server.ask(f"Bearer {EVERY}") == UNAUTHORIZED, 30)
    assert server.ask(f"Bearer {CREDIT}")[0] == 200
    server.tokens.unlink()
    until(lambda: server.ask(f"Bearer {CREDIT}") == UNAUTHORIZED, 30)


def test_what_is_captured_knows_no_token(server: Exposed, receiver: Receiver) -> None:
    before = len(receiver.lines)
    for _ in range(3):
        assert server.ask(f"Bearer {EVERY}", Cookie="session=1")[0] == 200
    flushed = httpx.post(f"{server.url}/matcha/flush", headers={"Authorization": f"Bearer {TOKEN}"})
    assert flushed.json() == {"flushed": True}
    lines = receiver.wait(before + 3)
    text = json.dumps(lines)
    assert EVERY not in text and "uthorization" not in text and "session=1" not in text
    assert {line["d"] for line in lines[-3:]} == {"credit"}


def test_without_tokens_nobody_gets_in(running: Exposed) -> None:
    running.tell()
    assert running.ask(f"Bearer {EVERY}") == UNAUTHORIZED


def test_it_is_not_there_where_nothing_is_exposed(make_server: Make) -> None:
    made = make_server().start()
    answer = httpx.put(
        f"{made.url}/matcha/tokens", content="{}", headers={"Authorization": f"Bearer {TOKEN}"}
    )
    assert answer.status_code == 404
