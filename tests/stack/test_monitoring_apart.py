"""Windows that a service of its own makes, as in a cluster: the same windows, and nothing lost with it."""

from __future__ import annotations

import os
import signal
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import pytest
from monitoring_bench import TOKEN, Apart, Bench, traffic
from monitoring_fixtures import (
    Make,
    Tracking,
    make_fixture,
    meddler_fixture,
    python_fixture,
    store_fixture,
    tracking_fixture,
)
from monitoring_stored import Stored

from support.matcha import until
from support.objectstore import Meddler

pytestmark = pytest.mark.stack
FIXTURES = (make_fixture, meddler_fixture, python_fixture, store_fixture, tracking_fixture)
TOLD_BY_TIME = ("made", "made_at", "window", "report")


class Pair:
    """The service, and what makes its windows, which reaches the store through a proxy."""

    def __init__(self, make: Make, tracking: Tracking, meddler: Meddler, **rules: Any) -> None:
        self.work = make(tracking.url, store=meddler.url, kind=Apart)
        deployments = (tracking.deployment("wide"), tracking.deployment("wide", "other"))
        self.bench = make(
            tracking.url, *deployments, store=meddler.url, apart=self.work.url, work_memory_mb=700, **rules
        )


@pytest.fixture(name="pair")
def pair_fixture(make: Make, tracking: Tracking, meddler: Meddler) -> Pair:
    return Pair(make, tracking, meddler)


def asking(bench: Bench) -> tuple[threading.Thread, list[httpx.Response]]:
    """For a window, in the background."""
    said: list[httpx.Response] = []

    def ask() -> None:
        client = httpx.Client(base_url=bench.url, timeout=300, trust_env=False)
        with client, suppress(httpx.HTTPError):  # a service that is killed does not answer
            said.append(client.post("/v1/deployments/movie/windows", json={}))

    thread = threading.Thread(target=ask)
    thread.start()
    return thread, said


def test_the_window_is_the_one_that_the_service_itself_would_make(
    make: Make, tracking: Tracking, pair: Pair, tmp_path: Path
) -> None:
    alone = make(tracking.url, tracking.deployment("wide"))
    for number, shift in enumerate(({}, {7: 0.8}, {})):
        lines = traffic(400, seed=number, shift=shift)
        for bench in (alone, pair.bench):
            bench.feed(lines)
        one, other = alone.window(), pair.bench.window()
        assert {**one, **dict.fromkeys(TOLD_BY_TIME)} == {**other, **dict.fromkeys(TOLD_BY_TIME)}
        assert (one["window"]["rows"], other["new"]) == (400, True)
    history = pair.bench.get("/v1/deployments/movie/windows?last=9").json()
    assert [each["drifted"] for each in history] == [[], ["x7"], []]
    assert pair.bench.get(history[0]["report"]).status_code == 200
    assert not (pair.bench.data / "references").exists()  # who compares keeps them
    assert sorted(p.name for p in pair.work.data.iterdir()) == ["work.lock"]


def test_few_rows_and_none_have_no_verdict_and_wait(pair: Pair) -> None:
    assert pair.bench.window()["status"] == "no-data"
    pair.bench.feed(traffic(5, seed=1))
    found = pair.bench.window()
    assert (found["status"], found["waiting"], found["new"]) == ("too-few", 5, False)
    pair.bench.feed(traffic(300, seed=2))
    assert pair.bench.window()["window"]["rows"] == 305


def test_the_reference_is_compared_with_while_mlflow_is_away(
    make: Make, tracking: Tracking, pair: Pair, meddler: Meddler
) -> None:
    pair.bench.feed(traffic(300, seed=1))
    assert pair.bench.window()["status"] == "ok"
    (reference,) = Stored(meddler.url).names("monitoring/references/")
    pair.work.end()
    pair.work.mlflow = "http://127.0.0.1:9"
    pair.work.start()
    pair.bench.feed(traffic(300, seed=2))
    found = pair.bench.window()
    assert found["status"] == "ok"
    assert "the copy of" in found["messages"][0]
    assert Stored(meddler.url).names("monitoring/references/") == [reference]


def test_what_is_killed_in_the_middle_is_asked_again(pair: Pair, meddler: Meddler) -> None:
    pair.bench.feed(traffic(300, seed=1))
    trouble = meddler.add("hold", "PUT", "/windows/")
    thread, said = asking(pair.bench)
    assert trouble.came.wait(120)
    end_whole(pair.work)
    trouble.let_go.set()
    pair.work.start()
    thread.join(200)
    assert said[0].json()["window"]["rows"] == 300
    assert len(pair.bench.get("/v1/deployments/movie/windows").json()) == 1
    assert pair.bench.about()["waiting"] == 0


def end_whole(bench: Bench) -> None:
    """As a container ends: no process of it goes on and makes the window after all."""
    workers = bench.workers()
    bench.end(signal.SIGKILL)
    for worker in workers:
        with suppress(ProcessLookupError):
            os.kill(worker, signal.SIGKILL)


@pytest.mark.sweep(sample=["its service"])
@pytest.mark.parametrize("whole", [True, False], ids=["its service", "its process alone"])
def test_what_is_killed_each_time_is_told_and_loses_nothing(
    pair: Pair, meddler: Meddler, whole: bool
) -> None:
    """As the system does where memory is short: with all of the container, or the largest process."""
    pair.bench.feed(traffic(300, seed=1))
    troubles = [meddler.add("hold", "PUT", "/windows/") for _ in range(2)]
    thread, said = asking(pair.bench)
    for trouble in troubles:
        assert trouble.came.wait(120)
        if whole:
            end_whole(pair.work)
            pair.work.start()
        else:
            pair.work.kill("worker")
    thread.join(200)
    for trouble in troubles:  # before, the store would get what the ended ones had sent: a whole window
        trouble.let_go.set()
    answer = said[0]
    assert answer.status_code == 500
    why = answer.json()["error"]
    assert why.startswith("What makes windows was ended 2 times in the middle of this one")
    assert "700 MiB: work-memory-mb" in why
    assert pair.bench.about()["failure"]["message"] == why
    assert pair.bench.window()["window"]["rows"] == 300
    assert pair.bench.about()["failure"] is None


@pytest.mark.sweep(sample=())
def test_where_nobody_makes_windows_captures_are_kept_and_it_is_said(
    make: Make, tracking: Tracking, meddler: Meddler
) -> None:
    pair = Pair(make, tracking, meddler, tick_seconds=1, away_seconds=1)
    pair.work.end()
    pair.bench.feed(traffic(300, seed=1))
    thread, said = asking(pair.bench)
    thread.join(200)
    assert said[0].status_code == 503
    assert f"does not answer at {pair.work.url}" in said[0].json()["error"]
    assert pair.bench.about()["waiting"] == 300
    assert "does not answer" in pair.bench.get("/healthz").text
    pair.work.start()
    until(lambda: pair.bench.about()["window"] is not None, 120)
    assert pair.bench.about()["window"]["window"]["rows"] == 300
    until(lambda: pair.bench.get("/healthz").text == "ok\n", 60)


def test_work_ends_with_whoever_asked_for_it(pair: Pair, meddler: Meddler) -> None:
    pair.bench.feed(traffic(300, seed=1))
    trouble = meddler.add("hold", "PUT", "/windows/")
    thread, _ = asking(pair.bench)
    assert trouble.came.wait(120)
    assert len(pair.work.workers()) == 1
    pair.bench.kill("service")
    until(lambda: not pair.work.workers(), 30)
    trouble.let_go.set()
    thread.join(200)
    assert pair.bench.window()["window"]["rows"] == 300


def test_only_the_stack_may_ask_and_only_for_files_of_monitoring(pair: Pair) -> None:
    order = {"deployed": {"name": "movie"}, "rules": {}, "dropped": 0, "patient": False}
    with httpx.Client(base_url=pair.work.url, timeout=60, trust_env=False) as client:
        assert client.post("/v1/windows", json=order).status_code == 401
        client.headers["Authorization"] = f"Bearer {TOKEN}"
        for name in ("../../../etc/passwd", "/etc/passwd", "captures/../../x", "sequence"):
            refused = client.post("/v1/windows", json={**order, "files": [name]})
            assert (refused.status_code, refused.json()["error"]) == (
                500,
                f"ValueError: {name} is no file of monitoring's.",
            )
        assert client.post("/v1/windows", content=b"[]").status_code == 400
        assert client.post("/v1/windows", json=order, headers={"Host": "elsewhere"}).status_code == 403
        assert client.get("/").status_code == 404


def test_it_waits_in_little_memory(pair: Pair) -> None:
    """What its pod asks for is 128 MiB."""
    pair.bench.feed(traffic(300, seed=1))
    pair.bench.window()
    time.sleep(1)
    status = Path(f"/proc/{pair.work.pid}/status").read_text()
    (resident,) = (int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS"))
    assert resident < 80 * 1024, f"{resident} KiB"
