"""Captures in an object store: kept there, brought back from there, and nothing lost while it is away."""

from __future__ import annotations

import shutil
import signal
import threading
from pathlib import Path
from typing import Any

import pytest
import trustme
from monitoring_bench import Bench, traffic
from monitoring_fixtures import (
    Make,
    Tracking,
    make_fixture,
    meddler_fixture,
    python_fixture,
    store_fixture,
    tracking_fixture,
)
from monitoring_stored import Stored, captured_ids, named_ids

from matcha.component import Deployment
from support.matcha import until
from support.objectstore import Meddler, ObjectStore, object_store

pytestmark = pytest.mark.stack
FIXTURES = (make_fixture, meddler_fixture, python_fixture, store_fixture, tracking_fixture)
NO_MLFLOW = "http://127.0.0.1:9"
MOVIE = Deployment(name="movie", asked="", uri="", version="1")


def lose_volume(bench: Bench) -> None:
    bench.end(signal.SIGKILL)
    shutil.rmtree(bench.data)


def test_what_was_taken_in_outlives_the_volume(make: Make, tracking: Tracking, store: ObjectStore) -> None:
    bench = make(tracking.url, tracking.deployment("wide"), store=store.url)
    bench.feed(traffic(300, 20, seed=1, shift={0: 3.0}))
    before = bench.window()
    assert before["drifted"] == ["x0"]
    bench.send(b"not a line\n" + traffic(1, 20, seed=9)[0])
    bench.feed(traffic(50, 20, seed=2))
    assert bench.window()["waiting"] == 51
    lose_volume(bench)
    bench.start()
    until(lambda: bench.about()["rows"] == 351, 60)
    after = bench.window(take_in=False)
    assert {**after, "new": True, "waiting": 0, "messages": before["messages"]} == before
    assert after["waiting"] == 51
    assert bench.get(before["report"]).status_code == 200
    until(lambda: "1 captured line could not be read" in bench.get("/").text, 60)
    bench.feed(traffic(300, 20, seed=3))
    assert bench.window()["window"]["rows"] == 351
    assert len(captured_ids(bench.python, bench.data)) == 651


def test_a_reference_that_changed_is_sent_anew_and_an_equal_one_is_not(
    make: Make, tracking: Tracking, meddler: Meddler
) -> None:
    bench = make(tracking.url, tracking.deployment("wide"), store=meddler.url)
    for seed in (1, 2):
        bench.feed(traffic(300, 20, seed=seed))
        assert bench.window()["new"]
    sent = [target for method, target, _ in meddler.requests if method == "PUT" and "/references/" in target]
    assert len(sent) == 1
    (reference,) = (bench.data / "references").iterdir()
    stored = Stored(meddler.url)
    key = f"monitoring/references/{reference.name}"
    size = reference.stat().st_size
    stored.put(key, b"x" * size)
    bench.feed(traffic(300, 20, seed=3))
    assert bench.window()["new"]
    assert stored.get(key) == reference.read_bytes()


STEPS = [
    ("hold", "PUT", "/captures/", 0),
    ("hold", "PUT", "/captures/", 1),
    ("lose answer", "PUT", "/captures/", 0),
    ("lose answer", "PUT", "/captures/", 1),
    ("hold", "GET", "list-type", 0),
    ("hold", "PUT", "/windows/", 0),
    ("hold", "PUT", "/reports/", 0),
]


# Before, during and after what is stored last, and an answer that is lost.
SAMPLE = (
    "hold-PUT-/captures/-0-worker",
    "hold-PUT-/captures/-1-service",
    "lose answer-PUT-/captures/-0-service",
    "hold-PUT-/reports/-0-worker",
)


@pytest.mark.sweep(sample=SAMPLE)
@pytest.mark.parametrize("victim", ["service", "worker"])
@pytest.mark.parametrize(("action", "method", "part", "skip"), STEPS)
def test_a_kill_at_any_step_loses_and_doubles_nothing(
    make: Make,
    tracking: Tracking,
    meddler: Meddler,
    store: ObjectStore,
    victim: str,
    action: Any,
    method: str,
    part: str,
    skip: int,
) -> None:
    other = Deployment(name="other", asked="", uri="", version="1")
    bench = make(tracking.url, tracking.deployment("wide"), other, store=meddler.url)
    lines = [*traffic(300, 20, seed=1), *traffic(5, 2, seed=2, d="other")]
    bench.feed(lines)
    until(lambda: _brought(meddler), 60)
    trouble = meddler.add(action, method, part, skip=skip)
    asking = threading.Thread(target=bench.ask_for_window)
    asking.start()
    assert trouble.came.wait(60)
    bench.kill(victim)
    trouble.let_go.set()
    asking.join(60)
    assert bench.about()["rows"] == 300
    verdict = bench.window()
    assert verdict["window"]["rows"] == 300
    assert verdict["status"] == "ok"
    assert bench.about("other")["rows"] == 5
    lose_volume(bench)
    bench.start()
    until(lambda: bench.about()["rows"] == 300, 60)
    assert bench.window()["window"]["rows"] == 300
    assert bench.about("other")["rows"] == 5
    assert sorted(captured_ids(bench.python, bench.data)) == named_ids(lines)
    assert not list((bench.data / "spool").rglob("bad"))


def _brought(meddler: Meddler) -> bool:
    return any("list-type" in target for _, target, _ in meddler.requests)


def test_captures_are_kept_while_the_store_is_away(make: Make, store: ObjectStore) -> None:
    bench = make(NO_MLFLOW, MOVIE, store=store.url, min_rows=10**6)
    bench.feed(traffic(20, 2, seed=1))
    bench.window()
    store.stop()
    for seed in range(7):  # more tries than a file that ends the worker gets
        bench.feed(traffic(10, 2, seed=10 + seed))
        answer = bench.client.post("/v1/deployments/movie/windows")
        assert answer.status_code == 503
        assert "cannot be used: Could not connect to server. Captures are kept" in answer.json()["error"]
    assert bench.about()["rows"] == bench.about()["waiting"] == 90
    health = bench.get("/healthz")
    assert (health.status_code, health.text.splitlines()[0]) == (200, "ok")
    for text in (health.text, bench.get("/").text, bench.window(take_in=False)["messages"][0]):
        assert f"The object store at {store.url} cannot be used" in text
    store.start()
    assert bench.window()["waiting"] == 90
    assert bench.get("/healthz").text == "ok\n"
    assert "cannot be used" not in bench.get("/").text
    assert len(captured_ids(bench.python, bench.data)) == 90
    assert not list((bench.data / "spool").glob("[0-9]*"))


def test_it_is_taken_in_by_itself_once_the_store_is_back(make: Make, store: ObjectStore) -> None:
    bench = make(NO_MLFLOW, MOVIE, store=store.url, min_rows=10**6, tick_seconds=0.2, away_seconds=0.5)
    store.stop()
    bench.feed(traffic(10, 2, seed=1))
    bench.client.post("/v1/deployments/movie/windows")
    assert bench.get("/healthz").text != "ok\n"
    store.start()
    until(lambda: bench.get("/healthz").text == "ok\n", 60)
    until(lambda: Stored(store.url).names("monitoring/captures/"), 60)


def test_a_volume_that_was_lost_while_the_store_is_away_waits_for_it(make: Make, store: ObjectStore) -> None:
    bench = make(NO_MLFLOW, MOVIE, store=store.url, min_rows=10**6)
    first, second = traffic(20, 2, seed=1), traffic(10, 2, seed=2)
    bench.feed(first)
    bench.window()
    lose_volume(bench)
    store.stop()
    bench.start()
    bench.feed(second)
    assert bench.client.post("/v1/deployments/movie/windows").status_code == 503
    assert not list((bench.data / "spool").glob("[0-9]*"))  # a number may be in use already
    store.start()
    assert bench.window()["waiting"] == 30
    assert sorted(captured_ids(bench.python, bench.data)) == named_ids([*first, *second])


def test_a_store_without_the_bucket_or_with_another_key_is_told_of(make: Make, store: ObjectStore) -> None:
    bench = make(NO_MLFLOW, MOVIE, store=store.url, secret="wrong")
    bench.feed(traffic(10, 2, seed=1))
    answer = bench.client.post("/v1/deployments/movie/windows")
    assert answer.status_code == 503
    assert "signature" in answer.text.lower()
    shutil.rmtree(store.folder / "matcha")
    other = make(NO_MLFLOW, MOVIE, store=store.url)
    other.feed(traffic(10, 2, seed=1))
    answer = other.client.post("/v1/deployments/movie/windows")
    assert answer.status_code == 503
    assert "bucket" in answer.text.lower()
    assert other.about()["rows"] == 10


def test_a_certificate_is_checked_against_the_bundle(make: Make, tmp_path: Path) -> None:
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    issued = authority.issue_cert("127.0.0.1")
    issued.private_key_and_cert_chain_pem.write_to_path(str(tmp_path / "both.pem"))
    options = ["--cert", str(tmp_path / "both.pem"), "--key", str(tmp_path / "both.pem")]
    with object_store(tmp_path / "own store", *options, scheme="https") as own:
        (own.folder / "matcha").mkdir()
        for trust, status in ((str(tmp_path / "ca.pem"), 200), ("", 503)):
            bench = make(NO_MLFLOW, MOVIE, store=own.url, trust=trust)
            bench.feed(traffic(10, 2, seed=1))
            answer = bench.client.post("/v1/deployments/movie/windows")
            assert answer.status_code == status
        assert "certificate" in answer.text.lower()


def test_what_is_past_its_time_leaves_the_store(make: Make, store: ObjectStore) -> None:
    bench = make(NO_MLFLOW, MOVIE, store=store.url, min_rows=10**6, retention_days=1, retention_rows=25)
    bench.feed(traffic(10, 2, seed=0, t=1_700_000_000.0))
    for seed in (1, 2, 3):
        bench.feed(traffic(10, 2, seed=seed))
        bench.window()
    stored = Stored(store.url)
    held = stored.names("monitoring/captures/")
    assert held == sorted(f"monitoring/{p.relative_to(bench.data)}" for p in bench.data.rglob("*.parquet"))
    assert len(held) == 2
    lose_volume(bench)
    bench.start()
    until(lambda: bench.about()["rows"] == 20, 60)


def test_a_local_stack_makes_no_second_copy(make: Make, tmp_path: Path) -> None:
    bench = make(NO_MLFLOW, MOVIE, store=str(tmp_path / "area"), min_rows=10**6)
    bench.feed(traffic(10, 2, seed=1))
    assert bench.window()["waiting"] == 10
    assert not (tmp_path / "area").exists()
