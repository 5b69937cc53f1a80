"""The local target's pure parts: placeholders, programs and folders."""

from __future__ import annotations

import json
import os
from pathlib import Path

import msgspec
import pytest
from local_stack import web

from matcha.errors import MatchaError
from matcha.service import Database, Port, Probe
from matcha.state import is_stack_id
from matcha.targets.local.describe import describe, peers, places, ports_of
from matcha.targets.local.layout import SOCKET_FOLDER_BYTES, Layout, UserLayout
from matcha.targets.local.resolve import Places, resolve, secret_names

LAYOUT = Layout(Path("/p r o/ject"))
PORTS = {"web/http": 8000, "web/grpc": 8001, "other/http": 9000, "other/metrics": 9001}
ROLES = {"role-of-web": "web", "tracker": "other"}
SERVICE = web(
    ports=(Port("http", 1), Port("grpc", 2)),
    volumes=("data",),
    databases=(Database("main"),),
)
WHERE = places(SERVICE, LAYOUT, PORTS, ROLES)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("plain", "plain"),
        ("{port:http} {port:grpc}", "8000 8001"),
        ("{bind}", "127.0.0.1"),
        ("{url:tracker}/api", "http://127.0.0.1:9000/api"),
        ("{address:tracker.metrics}", "127.0.0.1:9001"),
        ("{hosts}", "127.0.0.1,localhost,127.0.0.1:8000,localhost:8000"),
        ("{volume:data}", "/p r o/ject/.matcha/stack/volumes/web/data"),
        ("{store:datasets}", "/p r o/ject/.matcha/stack/store/datasets"),
        ("{database:main}", "sqlite:////p r o/ject/.matcha/stack/databases/web/main.db"),
        ("{files}:{live}", "/p r o/ject/.matcha/stack/files/web:/p r o/ject/.matcha/stack/live/web"),
        ('{"a": {"b": [{}, {"c": "{port:http}"}]}}', '{"a": {"b": [{}, {"c": "8000"}]}}'),
        ("{{port:http}}", "{8000}"),
        ("${HOME} {Upper} {with space} {1}", None),
    ],
)
def test_placeholders(text: str, expected: str | None) -> None:
    if expected is None:
        assert resolve(text.replace("${HOME} ", ""), WHERE) == "{Upper} {with space} {1}"
    else:
        assert resolve(text, WHERE) == expected


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("{port:htp}", 'Did you mean "http"?'),
        ("{url:traker}", 'Did you mean "tracker"?'),
        ("{address:tracker.metric}", 'Did you mean "metrics"?'),
        ("{address:tracker}", "Known: role-of-web, tracker."),
        ("{volume:x}", "Known: data."),
        ("{database:x}", "Known: main."),
        ("{store:../../etc}", "letters, digits"),
        ("{secret:token}", "Known: {port:NAME}"),
        ("{unknown}", "Known: {port:NAME}"),
        ("{port}", "Known: {port:NAME}"),
        ("{bind:x}", "Known: {port:NAME}"),
    ],
)
def test_placeholders_that_mean_nothing_name_the_service_and_the_text(text: str, hint: str) -> None:
    with pytest.raises(MatchaError) as failed:
        resolve(f"before {text} after", WHERE)
    assert failed.value.message == f'Service "web": {text} cannot be resolved.'
    assert f"in: before {text} after" in failed.value.details
    assert hint in failed.value.details


def test_values_are_escaped_in_json_and_nowhere_else() -> None:
    odd = Places(owner="web", volumes={"v": Path('/a "b"\\c')}, store=Path("/s"))
    assert json.loads(resolve('{"path": "{volume:v}"}', odd, json=True)) == {"path": '/a "b"\\c'}
    assert resolve("{volume:v}", odd) == '/a "b"\\c'


def test_a_value_that_looks_like_a_placeholder_stays_as_it_is() -> None:
    odd = Places(owner="web", volumes={"v": Path("/{bind}/{x}")}, store=Path("/s"))
    assert resolve("{volume:v}", odd) == "/{bind}/{x}"


def test_secrets_are_named_plainly_or_as_a_placeholder() -> None:
    assert secret_names(web(secrets={"A": "one", "B": "{secret:two}"})) == {"A": "one", "B": "two"}
    with pytest.raises(MatchaError, match="does not name a secret"):
        secret_names(web(secrets={"A": "x:{secret:two}"}))


def test_ports_by_role_and_by_service() -> None:
    assert peers(PORTS, ROLES) == {
        "role-of-web": {"http": 8000, "grpc": 8001},
        "tracker": {"http": 9000, "metrics": 9001},
    }
    assert ports_of("other", PORTS) == {"http": 9000, "metrics": 9001}


def test_a_program_is_described_whole() -> None:
    service = web(
        command=("-m", "server", "{port:http}"),
        env={"A": "{volume:v}", "PYTHONPATH": "/own"},
        secrets={"T": "token"},
        volumes=("v",),
        files={"s.json": '{"port": {port:http}}'},
        code=(Path("/code"),),
        health=Probe(path="/ok", timeout=2, failures=7, start_timeout=33),
    )
    where = places(service, LAYOUT, PORTS, ROLES)
    made = describe(service, Path("/env/bin/python"), where, LAYOUT, Path("/secrets.json"))
    assert made.program.argv == ("/env/bin/python", "-m", "server", "8000")
    assert made.program.env == {"A": str(LAYOUT.volume("web", "v")), "PYTHONPATH": f"/code{os.pathsep}/own"}
    assert made.program.secrets == {"T": "token"}
    assert made.files == {"s.json": '{"port": 8000}'}
    assert made.health == "http://127.0.0.1:8000/ok"
    health = made.program.health
    assert health is not None
    assert (health.timeout, health.failures, health.grace) == (2, 7, 33)
    assert health.url == made.health


def test_what_decides_on_a_restart_is_what_answers_for_the_process() -> None:
    service = web(health=Probe(path="/ready", alive="/alive"))
    where = places(service, LAYOUT, PORTS, ROLES)
    made = describe(service, Path("/env/bin/python"), where, LAYOUT, Path("/secrets.json"))
    assert made.health.endswith(":8000/ready")
    assert made.program.health is not None
    assert made.program.health.url.endswith(":8000/alive")


@pytest.mark.parametrize(
    ("change", "restarts"),
    [
        ({}, False),
        ({"live": {"x": "new"}}, False),
        ({"env": {"X": "1"}}, True),
        ({"files": {"server.py": "new"}}, True),
        ({"secrets": {"X": "y"}}, True),
        ({"stop_seconds": 9}, True),
        ({"health": Probe(path="/other")}, True),
    ],
)
def test_what_makes_another_program(change: dict[str, object], restarts: bool) -> None:
    def digest(service: object) -> str:
        assert isinstance(service, type(SERVICE))
        where = places(service, LAYOUT, PORTS, ROLES)
        return describe(service, Path("/python"), where, LAYOUT, Path("/s")).program.digest

    assert (digest(msgspec.structs.replace(SERVICE, **change)) != digest(SERVICE)) is restarts


@pytest.mark.parametrize("text", ["a", "0" * 32, "a-b_c"])
def test_names_that_a_stack_may_have(text: str) -> None:
    assert is_stack_id(text)


@pytest.mark.parametrize("text", ["", ".", "..", "a/b", "-a", "a b", "a" * 65, "a\n"])
def test_names_that_a_stack_may_not_have(text: str) -> None:
    assert not is_stack_id(text)


@pytest.mark.parametrize(
    ("data", "environ", "expected"),
    [
        ("/home/ann/.local/share/matcha", {}, ["/home/ann/.local/share/matcha/run/ID", "/tmp/matcha-7/ID"]),
        ("/" + "x" * 90, {}, ["/tmp/matcha-7/ID"]),
        (
            "/" + "é" * 45,
            {"XDG_RUNTIME_DIR": "/run/user/7", "TMPDIR": "/t"},
            ["/t/matcha-7/ID", "/tmp/matcha-7/ID", "/run/user/7/matcha/ID"],
        ),
        ("/" + "x" * 90, {"TMPDIR": "/" + "y" * 90}, ["/tmp/matcha-7/ID"]),
    ],
)
def test_folders_for_the_socket_are_short(data: str, environ: dict[str, str], expected: list[str]) -> None:
    found = UserLayout(Path(data), Path("cache")).runtimes("some-id", 7, environ)
    name = found[0].name
    assert [str(p) for p in found] == [e.replace("ID", name) for e in expected]
    assert all(len(bytes(p)) <= SOCKET_FOLDER_BYTES for p in found)
