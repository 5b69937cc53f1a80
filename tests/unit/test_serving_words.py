"""What serving processes read and say: the list of deployments, settings, errors without secrets."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from matcha.components.mlserver.inside.matcha_serving import config, deployment, plain
from matcha.components.mlserver.inside.matcha_serving.deployment import Deployment, Malformed, key, parse


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain words", "ValueError: plain words"),
        ("", "ValueError"),
        ("two\n   lines", "ValueError: two lines"),
        ("http://user:pw@host/x failed", "ValueError: http://***@host/x failed"),
        ("sent Bearer abc.def-1 to it", "ValueError: sent Bearer *** to it"),
        ("MLFLOW_TRACKING_TOKEN=abc and more", "ValueError: MLFLOW_TRACKING_TOKEN=*** and more"),
        ("'password': 'hunter2'", "ValueError: 'password': '***'"),
        ("Request(headers={'a': 'b'}, c)", "ValueError: Request(headers left out"),
        ("an unexpected token at 3", "ValueError: an unexpected token at 3"),
    ],
)
def test_errors_are_one_line_without_secrets(text: str, shown: str) -> None:
    assert plain.error(ValueError(text)) == shown


def test_long_errors_are_cut() -> None:
    assert len(plain.error(ValueError("x" * 10_000))) < 500


def test_a_missing_package_is_said_in_words() -> None:
    found = plain.error(ModuleNotFoundError("No module named 'torch'", name="torch"))
    assert found == 'the model needs the package "torch", which its environment does not have'


def test_tracebacks_keep_their_lines_and_lose_secrets() -> None:
    try:
        raise ValueError("sent Bearer abc.def")
    except ValueError as error:
        text = plain.trace(error)
    assert "abc.def" not in text
    assert len(text.splitlines()) >= 3


def test_what_serving_does_not_need_is_left_out() -> None:
    found = parse({"name": "m", "uri": "models:/m/1", "model": "m", "run_id": "r", "version": None, "new": 1})
    assert found == Deployment(name="m", uri="models:/m/1")
    assert (found.sample, found.max_batch_size) == (1.0, 0)


@pytest.mark.parametrize("name", ["", "a/b", "..", ".hidden", "a b", "-x", "x" * 101])
def test_names_are_safe_as_folders(name: str) -> None:
    with pytest.raises(Malformed):
        parse({"name": name, "uri": "models:/m/1"})


@pytest.mark.parametrize(
    "settings", [{"sample": -0.1}, {"sample": None}, {"max_batch_size": -1}, {"max_batch_time": "soon"}, 3]
)
def test_settings_are_checked(settings: Any) -> None:
    with pytest.raises(Malformed):
        parse({"name": "m", "uri": "models:/m/1", "settings": settings})


def test_a_copy_is_named_by_what_it_holds(tmp_path: Path) -> None:
    first = key(Deployment("m", "models:/m/1", "1"))
    assert first == key(Deployment("other", "models:/m/1", "1", settings={"sample": 0}))
    assert first != key(Deployment("m", "models:/m/2", "2"))
    folder = Deployment("m", tmp_path.as_uri())
    before = key(folder)
    (tmp_path / "MLmodel").write_text("model_uuid: abc")
    assert key(folder) != before


@pytest.mark.parametrize(
    ("uri", "path"),
    [
        ("/some/model", "/some/model"),
        ("file:///some/a%20model", "/some/a model"),
        ("models:/m/1", None),
        ("runs:/r/m", None),
        ("mlflow-artifacts:/1/x", None),
    ],
)
def test_folders_are_told_from_what_mlflow_resolves(uri: str, path: str | None) -> None:
    assert deployment.local_path(uri) == (Path(path) if path else None)


def test_secrets_come_apart_from_the_environment(tmp_path: Path) -> None:
    env = {"MATCHA_MODELS_DIR": str(tmp_path), "MATCHA_HOSTS": "Localhost, 127.0.0.1:8080,"}
    secrets = {"MATCHA_SERVING_TOKEN": "a", "MATCHA_CAPTURE_TOKEN": "b"}
    found = config.read(["--bind", "127.0.0.1", "--http-port", "1"], env, secrets)
    assert (found.token, found.capture_token) == ("a", "b")
    assert found.hosts == ("localhost", "127.0.0.1:8080")


def test_nothing_else_configures_the_server() -> None:
    env = {"MLSERVER_DEBUG": "true", "NO_PROXY": "example.org", "HTTP_PROXY": "http://proxy"}
    config.quiet(env)
    assert "MLSERVER_DEBUG" not in env
    assert env["NO_PROXY"] == env["no_proxy"] == "127.0.0.1,example.org,localhost"
    assert env["MLFLOW_DISABLE_TELEMETRY"] == "true"
