"""Captures on their way to Parquet: no body ends the service, and nothing kept is lost or doubled."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import threading
import time

import httpx
import pytest
from monitoring_bench import TOKEN, Bench, line, traffic
from monitoring_fixtures import Make, alone_fixture, make_fixture, python_fixture

from matcha.component import Deployment
from support.matcha import until

pytestmark = pytest.mark.stack
FIXTURES = (alone_fixture, make_fixture, python_fixture)


def test_captures_need_the_token(alone: Bench) -> None:
    assert httpx.post(f"{alone.url}/v1/captures", content=line({"a": 1})).status_code == 401
    for wrong in ("Bearer", "Bearer x", f"Basic {TOKEN}", f"Bearer {TOKEN}x", "Bearer \xff"):
        assert alone.send(line({"a": 1}), Authorization=wrong.encode("latin-1")).status_code == 401  # type: ignore[arg-type]
    assert alone.about()["rows"] == 0


def test_acknowledged_rows_survive_the_death_of_the_service(alone: Bench) -> None:
    alone.feed(traffic(10, 2, seed=1))
    alone.end(signal.SIGKILL)
    alone.start()
    assert alone.about()["rows"] == 10


def test_a_batch_sent_twice_counts_once(alone: Bench) -> None:
    lines = b"\n".join(traffic(10, 2, seed=1))
    for _ in range(2):
        assert alone.send(lines, X_Matcha_Batch="one").status_code == 202
    assert alone.about()["rows"] == 10
    alone.end(signal.SIGKILL)
    alone.start()  # the id is forgotten; the rows are recognised
    alone.send(lines, X_Matcha_Batch="one")
    assert alone.window()["waiting"] == 10


def test_a_batch_is_known_again_whatever_other_replicas_send_meanwhile(alone: Bench) -> None:
    """It is sent anew when its answer was lost, half a minute later perhaps."""
    lines = b"\n".join(traffic(5, 2, seed=2))
    assert alone.send(lines, X_Matcha_Batch="one", X_Matcha_Sender="a").status_code == 202
    for number in range(300):
        alone.send(line({"a": 1}), X_Matcha_Batch=f"other-{number}", X_Matcha_Sender="b")
    again = alone.send(lines, X_Matcha_Batch="one", X_Matcha_Sender="a")
    assert again.json()["accepted"] == 0
    assert alone.send(lines, X_Matcha_Batch="one", X_Matcha_Sender="c").json()["accepted"] == 5


def test_no_body_ends_the_service(alone: Bench) -> None:
    hostile = [
        b"",
        b"\0" * 1000,
        b"\xff\xfe" * 1000,
        b"[" * 1_000_000,
        b"\n" * 1_000_000,
        line({"a": 1}, n=1_000_000),
        line({"a": 1}, **{"in": "text"}),
        line({"a": 1}, **{"in": [["a"]]}),
        line({"a": 1}, **{"in": [["a", "FP64", None, {"b": [1]}]]}),
        line({"a": 1}, **{"in": [["a", "INT64", [1], [1e300]]]}),
        line({"a": 1}, **{"in": [["a", "BOOL", [1], ["maybe"]]]}),
        line({"a": 1}, **{"in": [], "out": []}),
        line({"_id": 1, "_time": 2, "out:x": 3, "in:y": 4, "": 5, "a/../../b\0": 6}),
        line({"a": 1}, d="../../../etc/passwd", v="../.."),
        line({"a": 1}, d="\u202e<script>", v="\n"),
        line({"a": 1}, **{"in": [["deep", "FP64", [1], json.loads("[" * 500 + "1" + "]" * 500)]]}),
        line({"x" * 100_000: 1}),
        line({"a": 1}, **{"in": [["image", "UINT8", [1, 60, 60], list(range(3600))]]}),
    ]
    for body in hostile:
        assert alone.send(body).status_code in (202, 400), body[:80]
    assert alone.send(b"x" * (17 * 2**20)).status_code == 413
    assert alone.get("/healthz").status_code == 200
    alone.feed(traffic(10, 2, seed=1))
    window = alone.window()
    assert window["status"] == "too-few"
    assert window["window"]["rows"] == 14  # four of the odd lines above can be read
    inside = (alone.data / "captures").resolve()
    assert all(p.resolve().is_relative_to(inside) for p in inside.rglob("*"))
    assert "lines could not be read" in alone.get("/").text


def test_a_sender_hears_when_there_is_no_room(make: Make) -> None:
    bench = make("http://127.0.0.1:9", spool_megabytes=0.01)
    answers = {bench.send(b"\n".join(traffic(10, 2, seed=n))).status_code for n in range(10)}
    assert answers == {202, 507}


@pytest.mark.parametrize(("victim", "times"), [("service", 6), ("worker", 4)])
def test_a_take_in_that_is_killed_loses_and_doubles_nothing(make: Make, victim: str, times: int) -> None:
    """A file that ends the worker itself more than five times is set aside, whoever kills it."""
    bench = make(
        "http://127.0.0.1:9", Deployment(name="movie", asked="", uri="", version="1"), min_rows=10**6
    )
    sent = 0
    for seed, delay in enumerate(random.Random(victim).uniform(0.2, 1.5) for _ in range(times)):
        bench.feed(traffic(4000, 3, seed=seed))
        sent += 4000
        asking = threading.Thread(target=bench.ask_for_window)
        asking.start()
        time.sleep(delay)
        bench.kill(victim)
        asking.join(60)
    window = bench.window()
    assert window["window"]["rows"] == sent
    assert bench.about()["rows"] == sent
    assert not list((bench.data / "spool").glob("[0-9]*"))
    assert not list(bench.data.rglob("*.tmp"))


def test_nothing_outlives_the_service(alone: Bench) -> None:
    alone.feed(traffic(4000, 20, seed=1))
    asking = threading.Thread(target=alone.ask_for_window)
    asking.start()
    children = until(alone.workers, 60, every=0.01)
    alone.end(signal.SIGKILL)
    asking.join(120)
    until(lambda: not any(_alive(child) for child in children), 60)


def _alive(pid: int) -> bool:
    found = subprocess.run(["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True, check=False)
    return bool(found.stdout.strip()) and not found.stdout.startswith("Z")


def test_captures_past_their_time_are_removed(make: Make) -> None:
    bench = make(
        "http://127.0.0.1:9", Deployment(name="movie", asked="", uri="", version="1"), retention_rows=25
    )
    old = time.time() - 40 * 86400
    bench.feed([line({"a": 1}, t=old) for _ in range(5)])
    for _ in range(3):
        bench.feed([line({"a": 1}) for _ in range(10)])
        bench.window()
    assert bench.about()["rows"] == 20
