"""MLServer as a component: its services, and how it tells them what to serve."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from serving_processes import Process, Reach, ending

from matcha.component import Deployment
from matcha.components.mlserver import MLServer, publishing, replicas
from matcha.components.mlserver.component import Options
from matcha.errors import ComponentFailed
from matcha.service import PLACEHOLDER

HERE = Deployment(name="here", asked="models:/a@champion", uri="models:/a/1", model="a", version="1")
AWAY = Deployment(
    name="away",
    asked="models:/b/2",
    uri="models:/b/2",
    version="2",
    environment="0123456789abcdef",
    python="3.10",
)


@pytest.fixture
def log() -> list[tuple[str, dict[str, Any]]]:
    return []


@pytest.fixture
def processes(log: list[Any]) -> Iterator[dict[str, Process]]:
    made = {"main": Process(log, "main", {}), "child": Process(log, "child", {"away": "no package torch"})}
    yield made
    for process in made.values():
        process.close()


def component() -> MLServer:
    return MLServer(Options())


def publish(access: Any, *deployments: Deployment) -> dict[str, str]:
    return {r.name: r.error for r in component().publish(access, deployments)}


def test_one_service_more_for_each_environment() -> None:
    again = msgspec.structs.replace(AWAY, name="again")
    main, child = component().services((HERE, AWAY, again))
    assert (main.role, main.environment) == ("model-deployer", "mlserver")
    assert (child.name, child.role) == ("serving-01234567", "serving-01234567")
    assert child.environment == "model-0123456789abcdef"
    assert child.env["MATCHA_PROCESS"] == "serving-01234567"
    assert main.live == child.live
    assert "MATCHA_CAPTURE_TOKEN" not in child.secrets


def test_the_environment_of_a_model_is_made_with_its_python() -> None:
    lock = Path(publishing.__file__).with_name("requirements.lock")
    assert component().model_environment("abc", lock, "3.10.4").python == "==3.10.*"
    assert component().model_environment("abc", lock, "").python == component().serving_lock().python


@pytest.mark.parametrize("value", [0, 2000, "many"])
def test_options_are_checked(value: Any) -> None:
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert({"max-body-mb": value}, Options)


def test_an_option_reaches_the_process() -> None:
    main, _ = MLServer(msgspec.convert({"max-body-mb": 7}, Options)).services((AWAY,))
    assert main.env["MATCHA_MAX_BODY_MB"] == "7"
    main, child = MLServer(msgspec.convert({"load-seconds": 9}, Options)).services((AWAY,))
    assert main.env["MATCHA_LOAD_SECONDS"] == child.env["MATCHA_LOAD_SECONDS"] == "9"


def test_only_addresses_are_placeholders_in_the_list() -> None:
    """A column may be called like a placeholder; targets must leave it alone."""
    odd = msgspec.structs.replace(
        AWAY, signature={"inputs": '[{"name": "{url:evil}"}]'}, settings={"{live}": "{port:a}"}
    )
    text = publishing.body((HERE, odd))
    assert [m[0] for m in PLACEHOLDER.finditer(text)] == ["{url:serving-01234567}"]
    here, away = json.loads(text)["deployments"]
    assert (here["forward"], away["forward"]) == ("", "{url:serving-01234567}")
    assert (away["signature"], away["settings"]) == (odd.signature, odd.settings)


def test_children_load_first_and_let_go_last(processes: dict[str, Process], log: list[Any]) -> None:
    access = Reach(model_deployer=processes["main"].url, serving_01234567=processes["child"].url)
    assert publish(access, HERE, AWAY) == {"here": "", "away": "no package torch"}
    assert [(name, told.get("unload", True)) for name, told in log] == [
        ("child", False),
        ("main", True),
        ("child", True),
    ]
    assert {told["authorization"] for _, told in log} == {"Bearer the serving-token"}
    assert {told["path"] for _, told in log} == {"/matcha/deployments"}
    assert log[1][1]["deployments"][1]["forward"] == processes["child"].url


def test_what_a_child_could_not_load_is_left_alone(processes: dict[str, Process], log: list[Any]) -> None:
    """The main server keeps what answers under that name, and nobody tries a second time."""
    access = Reach(model_deployer=processes["main"].url, serving_01234567=processes["child"].url)
    publish(access, HERE, AWAY)
    failed = {"away": "no package torch"}
    assert [told.get("failed") for _, told in log] == [None, failed, failed]


def test_a_child_that_is_down_fails_its_own_models_only(
    processes: dict[str, Process], log: list[Any]
) -> None:
    access = Reach(model_deployer=processes["main"].url)
    errors = publish(access, HERE, AWAY)
    assert log[0][1]["failed"] == {"away": errors["away"]}
    assert errors["here"] == ""
    assert "serving-01234567 is not running" in errors["away"]


def test_a_main_server_that_is_down_is_a_failure(
    processes: dict[str, Process], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(replicas, "START_SECONDS", 1.0)
    url = processes["main"].url
    processes["main"].close()
    with pytest.raises(ComponentFailed, match="does not answer"):
        publish(Reach(model_deployer=url), HERE)


def test_a_server_that_is_being_started_again_is_awaited(processes: dict[str, Process]) -> None:
    url = processes["main"].url
    processes["main"].close()
    starting = threading.Timer(
        1, lambda: again.append(Process([], "main", {}, port=int(url.rpartition(":")[2])))
    )
    again: list[Process] = []
    starting.start()
    try:
        assert publish(Reach(model_deployer=url), HERE) == {"here": ""}
    finally:
        starting.join()
        again[0].close()


def test_a_server_that_ends_while_it_loads_is_a_failure(log: list[Any]) -> None:
    with ending() as url, pytest.raises(ComponentFailed, match="ended while it loaded"):
        publish(Reach(model_deployer=url), HERE)


def test_a_refusal_is_a_failure(log: list[Any]) -> None:
    refusing = Process(log, "main", {}, status=401)
    try:
        with pytest.raises(ComponentFailed) as raised:
            publish(Reach(model_deployer=refusing.url), HERE)
    finally:
        refusing.close()
    assert "401" in raised.value.details


SHOWN = {"name": "here", "uri": "models:/a/1", "version": "1", "error": "", "refused": ""}


@pytest.mark.parametrize(
    ("shown", "trouble"),
    [
        ([SHOWN], ""),
        ([], "It is not loaded yet."),
        ([{**SHOWN, "uri": "", "version": "", "error": "gone", "refused": "gone"}], "gone"),
        ([{**SHOWN, "refused": "another version did not load"}], ""),
        ([{**SHOWN, "uri": "models:/a/0", "refused": "no torch (version 0 goes on)"}], "no torch (version 0"),
        ([{**SHOWN, "error": "its own process does not answer"}], "its own process"),
        ([{**SHOWN, "uri": "models:/a/2", "version": "2"}], "models:/a/2 answers in its place"),
        ("no list", "does not answer"),
        ([{"name": "here"}], "does not answer"),
    ],
)
def test_the_main_server_says_which_models_answer(log: list[Any], shown: Any, trouble: str) -> None:
    process = Process(log, "main", {}, shown=shown)
    try:
        [found] = component().served(Reach(model_deployer=process.url), (HERE,))  # type: ignore[arg-type]
    finally:
        process.close()
    assert (found.name, found.error) == ("here", trouble) if not trouble else trouble in found.error
    assert log == [("main", {"authorization": "Bearer the serving-token", "path": "/matcha/deployments"})]


def test_where_nobody_can_be_asked_no_model_answers(log: list[Any]) -> None:
    refusing = Process(log, "main", {}, status=401)
    try:
        refused = component().served(Reach(model_deployer=refusing.url), (HERE, AWAY))  # type: ignore[arg-type]
    finally:
        refusing.close()
    assert [r.error for r in refused] == ["The model server does not answer."] * 2
    [closed] = component().served(Reach(model_deployer=refusing.url), (HERE,))  # type: ignore[arg-type]
    assert closed.error == "The model server does not answer."
    [never] = component().served(Reach(), (HERE,))  # type: ignore[arg-type]
    assert never.error == "The model-deployer is not running yet."


def test_the_address_of_a_model() -> None:
    url = component().predict_url(Reach(model_deployer="http://h:1"), "movie")  # type: ignore[arg-type]
    assert url == "http://h:1/v2/models/movie/infer"
