"""MLServer as several replicas: how each is told and asked, and what becomes of those that go or fail."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import msgspec
import pytest
from serving_processes import Process, Spread, ending

from matcha.component import Deployment
from matcha.components.mlserver import MLServer, publishing, replicas
from matcha.components.mlserver.component import Options
from matcha.errors import ComponentFailed, Unfit
from matcha.service import Scale

MOVIE = Deployment(name="movie", asked="models:/a/1", uri="models:/a/1", model="a", version="1")
CREDIT = msgspec.structs.replace(MOVIE, name="credit", uri="models:/b/1")
SHOWN = {"name": "movie", "uri": "models:/a/1", "version": "1", "error": "", "refused": ""}
Log = list[tuple[str, dict[str, Any]]]
Start = Callable[..., Process]


@pytest.fixture
def log() -> Log:
    return []


@pytest.fixture
def start(log: Log) -> Iterator[Start]:
    made: list[Process] = []

    def begin(name: str, errors: dict[str, str] | None = None, **how: Any) -> Process:
        made.append(Process(log, name, errors or {}, **how))
        return made[-1]

    yield begin
    for process in made:
        process.close()


@pytest.fixture(name="ending")
def _ending() -> Iterator[str]:
    with ending() as url:
        yield url


def publish(access: Any, *deployments: Deployment) -> dict[str, str]:
    return {r.name: r.error for r in MLServer(Options()).publish(access, deployments)}


def served(access: Any, *deployments: Deployment) -> dict[str, str]:
    return {r.name: r.error for r in MLServer(Options()).served(access, deployments)}


def lists(log: Log) -> list[tuple[str, dict[str, Any]]]:
    return [(name, said) for name, said in log if "deployments" in said]


def spread(*processes: Process) -> Spread:
    return Spread(model_deployer={f"pod-{number}": p.url for number, p in enumerate(processes)})


# Telling


def test_one_replica_is_told_alone_and_then_all_others_at_once(start: Start, log: Log) -> None:
    both = threading.Barrier(2, timeout=30).wait
    access = spread(start("a"), start("b", before=both), start("c", before=both))
    assert publish(access, MOVIE) == {"movie": ""}
    assert lists(log)[0][0] == "a"
    assert sorted(name for name, _ in lists(log)) == ["a", "b", "c"]


def test_the_one_that_is_told_alone_takes_requests(start: Start, log: Log) -> None:
    access = spread(start("starting", ready="no", shown=[]), start("ready", shown=[]))
    publish(access, MOVIE)
    assert [name for name, _ in lists(log)] == ["ready", "starting"]


def test_a_model_that_does_not_load_is_tried_on_one_replica(start: Start, log: Log) -> None:
    access = spread(start("a", {"movie": "no torch"}), start("b"))
    assert publish(access, MOVIE, CREDIT) == {"movie": "no torch", "credit": ""}
    (_, first), (_, second) = lists(log)
    assert "failed" not in first or not first["failed"]
    assert second["failed"] == {"movie": "no torch"}


def test_where_a_model_loads_here_and_not_there_all_go_back(start: Start, log: Log) -> None:
    access = spread(start("a"), start("b", {"movie": "disk full"}), start("c"))
    assert publish(access, MOVIE, CREDIT) == {"movie": "On pod-1: disk full", "credit": ""}
    after = dict(lists(log)[3:])
    assert after["a"]["back"] == after["c"]["back"] == {"movie": "On pod-1: disk full"}
    assert not after["b"].get("back"), "it never changed"


def test_a_replica_that_goes_meanwhile_is_no_failure(start: Start, log: Log, ending: str) -> None:
    other = start("b")
    access = Spread(model_deployer={"gone": ending, "pod-1": other.url})
    first, access.running["model-deployer"] = access.running["model-deployer"], {"pod-1": other.url}
    found = iter([first])
    access.replicas = _listing(access, found)  # type: ignore[method-assign]
    assert publish(access, MOVIE) == {"movie": ""}
    assert [name for name, _ in lists(log)] == ["b"]


def _listing(access: Spread, first: Iterator[dict[str, str]]) -> Any:
    usual = access.replicas

    def listed(role: str) -> Any:
        now = next(first, None)
        return usual(role) if now is None else Spread(model_deployer=now).replicas(role)

    return listed


def test_a_replica_that_is_there_again_was_ended_by_the_model(start: Start, log: Log, ending: str) -> None:
    """The others are not told what ended it."""
    access = Spread(model_deployer={"pod-0": ending, "pod-1": start("b", ready="no", shown=[]).url})
    with pytest.raises(ComponentFailed, match="ended while it loaded"):
        publish(access, MOVIE)
    assert lists(log) == []


def test_a_replica_that_ends_after_another_loaded_the_list_is_no_failure(
    start: Start, log: Log, ending: str
) -> None:
    access = Spread(model_deployer={"pod-0": start("a", shown=[]).url, "pod-1": ending})
    assert publish(access, MOVIE) == {"movie": ""}


def test_a_replica_that_does_not_answer_yet_is_not_waited_for_long(
    start: Start, log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(replicas, "SHORT_SECONDS", 0.5)
    closed = start("closed")
    url = closed.url
    closed.close()
    access = Spread(model_deployer={"pod-0": url, "pod-1": start("b", shown=[]).url})
    assert publish(access, MOVIE) == {"movie": ""}
    assert [name for name, _ in lists(log)] == ["b"]


def test_where_no_replica_answers_that_is_the_failure(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replicas, "START_SECONDS", 0.1)
    urls = []
    for name in ("a", "b"):
        process = start(name)
        urls.append(process.url)
        process.close()
    with pytest.raises(ComponentFailed, match="does not answer"):
        publish(Spread(model_deployer={"pod-0": urls[0], "pod-1": urls[1]}), MOVIE)
    with pytest.raises(ComponentFailed) as raised:
        publish(_without_any(), MOVIE)
    assert "no replica" in raised.value.details


def _without_any() -> Spread:
    access = Spread(model_deployer={"pod-0": "http://nowhere"})
    access.running["model-deployer"] = {}
    return access


# Asking


def test_every_replica_that_takes_requests_is_asked(start: Start) -> None:
    well = start("a", shown=[SHOWN])
    old = start("b", shown=[{**SHOWN, "uri": "models:/a/0", "version": "0"}])
    assert served(spread(well, well), MOVIE) == {"movie": ""}
    assert served(spread(well, old), MOVIE) == {"movie": "On pod-1: models:/a/0 answers in its place."}
    assert served(spread(old, old), MOVIE) == {"movie": "models:/a/0 answers in its place."}


def test_a_replica_that_starts_or_ends_says_nothing_of_a_model(start: Start) -> None:
    well, starting = start("a", shown=[SHOWN]), start("b", shown=[], ready="no")
    gone = start("c")
    gone.close()
    assert served(spread(well, starting, gone), MOVIE) == {"movie": ""}
    assert served(spread(starting, gone), MOVIE) == {"movie": "It is not loaded yet."}
    assert served(spread(gone, gone), MOVIE) == {"movie": "The model server does not answer."}
    assert served(_without_any(), MOVIE) == {"movie": "The model server does not answer."}


def test_asking_takes_as_long_with_many_as_with_one(start: Start) -> None:
    with socket.create_server(("127.0.0.1", 0)) as deaf:
        url = f"http://127.0.0.1:{deaf.getsockname()[1]}"
        access = Spread(model_deployer={f"pod-{n}": url for n in range(4)})
        began = time.monotonic()
        assert "does not answer" in served(access, MOVIE)["movie"]
        assert time.monotonic() - began < 2 * replicas.ASK_SECONDS


def test_every_replica_hands_on_what_it_captured(start: Start, log: Log) -> None:
    access = spread(start("a"), start("b"))
    MLServer(Options()).flush(access)  # type: ignore[arg-type]
    assert sorted((name, said["path"]) for name, said in log) == [
        ("a", "/matcha/flush"),
        ("b", "/matcha/flush"),
    ]
    MLServer(Options()).flush(Spread())  # type: ignore[arg-type]


# How many


def options(**written: Any) -> Options:
    return msgspec.convert({k.replace("_", "-"): v for k, v in written.items()}, Options)


def test_servers_scale_as_the_options_say() -> None:
    (plain,) = MLServer(Options()).services(())
    assert plain.scale == Scale(min=1, max=1)
    chosen = options(min_replicas=2, max_replicas=5, target_cpu=50, cpu=2, memory_mb=3000)
    away = msgspec.structs.replace(MOVIE, environment="0123456789abcdef")
    for service in MLServer(chosen).services((away,)):
        assert service.scale == Scale(min=2, max=5, cpu=50)
        assert (service.resources.cpu, service.resources.memory) == (2, 3000)
        assert service.health.ready == "/matcha/ready"
    (fixed,) = MLServer(options(min_replicas=3)).services(())
    assert fixed.scale == Scale(min=3, max=3)


def test_fewer_at_most_than_at_least_are_refused() -> None:
    with pytest.raises(msgspec.ValidationError) as raised:
        options(min_replicas=3, max_replicas=2)
    assert isinstance(raised.value.__cause__, Unfit)
    assert raised.value.__cause__.key == "max-replicas"


# A process of its own


@pytest.mark.parametrize(
    ("own", "meant"),
    [
        ({}, Scale(min=2, max=5)),
        ({"max_replicas": 1}, Scale(min=1, max=1)),
        ({"max_replicas": 9}, Scale(min=2, max=9)),
        ({"min_replicas": 7}, Scale(min=7, max=7)),
    ],
)
def test_a_number_of_its_own_counts_before_those_of_all(own: dict[str, int], meant: Scale) -> None:
    alone = msgspec.structs.replace(MOVIE, dedicated=True, settings=own)
    _, process = MLServer(options(min_replicas=2, max_replicas=5)).services((alone,))
    assert process.scale == meant


def test_a_dedicated_model_has_a_process_that_serves_no_other() -> None:
    alone = msgspec.structs.replace(
        MOVIE, dedicated=True, settings={"sample": 0.5, "min_replicas": 4, "cpu": 1.5, "memory_mb": 900}
    )
    main, own = MLServer(options(min_replicas=2)).services((alone, CREDIT))
    assert (own.name, own.role, own.environment) == ("dedicated-movie", "dedicated-movie", "mlserver")
    assert own.env["MATCHA_PROCESS"] == "dedicated-movie"
    assert own.scale == Scale(min=4, max=4)
    assert (own.resources.cpu, own.resources.memory) == (1.5, 900)
    assert main.scale == Scale(min=2, max=2)
    movie, credit = msgspec.json.decode(main.live["deployments.json"])["deployments"]
    assert (movie["process"], movie["forward"]) == ("dedicated-movie", "{url:dedicated-movie}")
    assert movie["settings"] == {"sample": 0.5}, "its room is no setting of what it serves"
    assert (credit["process"], credit["forward"]) == ("", "")


def test_names_of_processes_stay_valid_and_change_with_the_environment() -> None:
    """Both run while the main server changes from one to the other."""
    longest = msgspec.structs.replace(MOVIE, name="a" * 52, dedicated=True)
    moved = msgspec.structs.replace(longest, environment="0123456789abcdef")
    again = msgspec.structs.replace(longest, environment="fedcba9876543210")
    names = [publishing.process_of(d) for d in (longest, moved, again)]
    assert len(set(names)) == 3
    assert all(len(name) <= 63 and name[-1] != "-" for name in names)
    (_, own) = MLServer(Options()).services((moved,))
    assert own.environment == "model-0123456789abcdef"
