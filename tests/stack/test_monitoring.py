"""The monitoring service as it runs: captures in, windows out; the real MLflow holds the references."""

from __future__ import annotations

import json
import os
import random
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import pytest
from monitoring_bench import TOKEN, Bench, line, traffic

from matcha import environments
from matcha.component import Deployment
from matcha.components.mlflow import MLflow
from matcha.components.monitoring import Monitoring
from matcha.components.monitoring.component import Options
from matcha.errors import MatchaError, NotFound
from support.access import FolderAccess
from support.serving import Running, interpreter, running

pytestmark = pytest.mark.stack

HERE = Path(__file__).parent
Make = Callable[..., Bench]


class Tracking:
    """A real MLflow with runs that keep references, and `bare` that does not."""

    def __init__(self, server: Running, folder: Path) -> None:
        self.url = server.url
        self.server = server
        self._python = interpreter(server.environment)
        self._env = {k: v for k, v in os.environ.items() if k in ("PATH", "HOME")} | {
            "MLFLOW_TRACKING_URI": server.url,
            "MLFLOW_DISABLE_TELEMETRY": "true",
            "PYTHONPATH": str(MLflow(MLflow.Options()).toolbox()[1]),
        }
        self.runs: dict[str, str] = self._run(str(HERE / "monitoring_runs.py"), str(folder), "windows")
        kept = self._run("-m", "matcha_reference", "--experiment-since", "0")["runs"]
        assert [r["status"] for r in kept] == ["logged"] * 3

    def _run(self, *arguments: str) -> Any:
        done = subprocess.run(
            [str(self._python), *arguments],
            env=self._env,
            capture_output=True,
            text=True,
            timeout=240,
            check=False,
        )
        assert done.returncode == 0, done.stderr[-3000:]
        return json.loads(done.stdout.strip().splitlines()[-1])

    def deployment(self, run: str, name: str = "movie", **settings: Any) -> Deployment:
        uri = f"models:/{name}/1"
        return Deployment(
            name=name, asked=uri, uri=uri, version="1", run_id=self.runs[run], settings=settings
        )


@pytest.fixture(scope="module")
def tracking(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tracking]:
    access = FolderAccess(tmp_path_factory.mktemp("tracking"))
    with running(MLflow(MLflow.Options()), access) as server:
        yield Tracking(server, access.root)


@pytest.fixture(scope="session")
def python() -> Path:
    """MATCHA_TEST_PYTHON=3.13 tests another than the usual."""
    environment = Monitoring(Options()).environments()[0]
    version = os.environ.get("MATCHA_TEST_PYTHON")
    return (
        environments.install(environment.lock, version) / "bin" / "python"
        if version
        else interpreter(environment)
    )


@pytest.fixture
def make(python: Path, tmp_path: Path) -> Iterator[Make]:
    made: list[Bench] = []

    def make(mlflow: str, *deployments: Deployment, **rules: Any) -> Bench:
        made.append(Bench(python, tmp_path / f"monitoring{len(made)}", mlflow, deployments))
        made[-1].start(**rules)
        return made[-1]

    yield make
    for bench in made:
        bench.end()


@pytest.fixture
def alone(make: Make) -> Bench:
    """Without MLflow: a deployment of a model that no run logged."""
    return make("http://127.0.0.1:9", Deployment(name="movie", asked="", uri="", version="1"))


# captures


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
    assert alone.window()["messages"][0].startswith("10 rows since")


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


@pytest.mark.parametrize("victim", ["service", "worker"])
def test_a_take_in_that_is_killed_loses_and_doubles_nothing(make: Make, victim: str) -> None:
    bench = make(
        "http://127.0.0.1:9", Deployment(name="movie", asked="", uri="", version="1"), min_rows=10**6
    )
    sent = 0
    for seed, delay in enumerate(random.Random(victim).uniform(0.2, 1.5) for _ in range(6)):
        bench.feed(traffic(4000, 3, seed=seed))
        sent += 4000
        asking = threading.Thread(target=_try, args=(bench.window,))
        asking.start()
        time.sleep(delay)
        _kill(bench, victim)
        asking.join(60)
    window = bench.window()
    assert window["window"]["rows"] == sent
    assert bench.about()["rows"] == sent
    assert not list((bench.data / "spool").glob("[0-9]*"))
    assert not list(bench.data.rglob("*.tmp"))


def _try(ask: Callable[[], Any]) -> None:
    with suppress(httpx.HTTPError, AssertionError):
        ask()


def _kill(bench: Bench, victim: str) -> None:
    if victim == "service":
        bench.end(signal.SIGKILL)
        bench.start()
        return
    for child in _children(bench.pid):
        with suppress(ProcessLookupError):
            os.kill(child, signal.SIGKILL)


def _children(pid: int) -> list[int]:
    found = subprocess.run(["ps", "-Ao", "pid=,ppid="], capture_output=True, text=True, check=True).stdout
    pairs = [tuple(map(int, row.split())) for row in found.splitlines()]
    return [child for child, parent in pairs if parent == pid]


def test_nothing_outlives_the_service(alone: Bench) -> None:
    alone.feed(traffic(4000, 20, seed=1))
    asking = threading.Thread(target=_try, args=(alone.window,))
    asking.start()
    end = time.monotonic() + 20
    while not (children := _children(alone.pid)) and time.monotonic() < end:
        time.sleep(0.01)
    alone.end(signal.SIGKILL)
    asking.join(30)
    assert children
    while any(_alive(child) for child in children):
        assert time.monotonic() < end
        time.sleep(0.05)


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


# windows


def test_same_data_gives_no_drift_and_half_a_sigma_in_one_column_is_found(
    make: Make, tracking: Tracking
) -> None:
    bench = make(tracking.url, tracking.deployment("wide"))
    bench.feed(traffic(1000, seed=1))
    same = bench.window()
    assert (same["status"], same["drifted"], same["window"]["rows"]) == ("ok", [], 1000)
    bench.feed(traffic(1000, seed=2, shift={7: 0.5}))
    moved = bench.window()
    assert (moved["status"], moved["drifted"], moved["dataset_drift"]) == ("drift", ["x7"], True)
    scores = {c["name"]: c["score"] for c in moved["columns"]}
    assert scores["x7"] == pytest.approx(0.5, abs=0.1)
    assert max(s for name, s in scores.items() if name != "x7") < 0.15
    _history_is_kept(bench, same, moved)
    _metrics_say(bench, scores["x7"])
    _report_is_served(bench, moved["report"])


def _history_is_kept(bench: Bench, same: dict[str, Any], moved: dict[str, Any]) -> None:
    assert bench.get("/v1/deployments/movie/windows?last=5").json() == [moved, same]
    again = bench.window()
    assert (again["new"], again["drifted"]) == (False, ["x7"])
    assert again["messages"][0].startswith("No rows were captured since")
    assert bench.window(take_in=False) == moved | {"new": False}


def _metrics_say(bench: Bench, score: float) -> None:
    text = bench.get("/metrics").text
    assert f'drift_score{{deployment="movie",version="1",column="x7"}} {score}\n' in text
    assert 'drifted{deployment="movie",version="1"} 1\n' in text
    assert 'rows_received_total{deployment="movie",version="1"} 2000\n' in text


def _report_is_served(bench: Bench, path: str) -> None:
    report = bench.get(path)
    assert report.headers["content-security-policy"].startswith("sandbox allow-scripts; default-src 'none'")
    assert "x7" in report.text
    for wrong in (
        "/reports/movie/nothing.html",
        "/reports/../ledger.json/x",
        "/reports/movie/..%2f..%2fsequence",
    ):
        assert bench.get(wrong).status_code == 404


def test_a_small_window_is_judged_by_raised_thresholds(make: Make, tracking: Tracking) -> None:
    """On 100 rows of 20 columns a fixed 0.2 rings in most windows."""
    bench = make(tracking.url, tracking.deployment("wide"))
    bench.feed(traffic(100, seed=3))
    small = bench.window()
    assert small["status"] == "ok"
    assert max(c["score"] for c in small["columns"]) > 0.2
    assert 0.22 < min(c["threshold"] for c in small["columns"]) < 0.4
    bench.feed(traffic(100, seed=4, shift={0: 0.8}))
    assert bench.window()["drifted"] == ["x0"]


def test_too_few_rows_wait_for_the_next_window(make: Make, tracking: Tracking) -> None:
    bench = make(tracking.url, tracking.deployment("wide", min_rows=60))
    assert bench.window()["status"] == "no-data"
    bench.feed(traffic(40, seed=1))
    few = bench.window()
    assert (few["status"], few["messages"]) == (
        "too-few",
        ["40 rows since the last window; a verdict needs 60."],
    )
    bench.feed(traffic(40, seed=2))
    assert bench.window()["window"]["rows"] == 80


def test_categories_missing_values_and_ranges(make: Make, tracking: Tracking) -> None:
    bench = make(tracking.url, tracking.deployment("mixed", thresholds={"age": 5}))
    rng, lines = random.Random(1), []
    for number in range(600):
        lost = number % 3 == 0
        age = [["age", "FP64", [1], [None if lost else 200.0]]]
        city = [["city", "BYTES", [1], [rng.choice(["Kyoto", "Uji", "Osaka"])]]]
        lines.append(line({}, **{"in": age + city + [["more", "FP64", [1], [1]]]}))
    bench.feed(lines)
    window = bench.window()
    columns = {c["name"]: c for c in window["columns"]}
    assert columns["age"]["threshold"] == 5
    assert columns["age"]["current_missing"] == pytest.approx(1 / 3, abs=0.01)
    assert columns["age"]["out_of_range"] == 1
    assert columns["city"]["new_categories"] == ["Osaka"]
    assert columns["city"]["method"] == "jensenshannon"
    assert set(window["drifted"]) == {"age", "city"}
    assert any(m.startswith("more is not in the reference") for m in window["messages"])


def test_unnamed_tensors_are_taken_in_the_order_of_the_columns(make: Make, tracking: Tracking) -> None:
    bench = make(tracking.url, tracking.deployment("wide"))
    rng = random.Random(1)
    for _ in range(5):
        rows = [[rng.gauss(2.0 if j == 3 else 0.0, 1) for j in range(20)] for _ in range(100)]
        bench.feed([line({}, n=100, **{"in": [["input", "FP64", [100, 20], rows]], "out": []})])
    assert bench.window()["drifted"] == ["x3"]


def test_without_a_reference_the_rows_wait_and_the_reason_is_said(make: Make, tracking: Tracking) -> None:
    bench = make(tracking.url, tracking.deployment("bare"))
    bench.feed(traffic(200, seed=1))
    window = bench.window()
    assert window["status"] == "no-reference"
    assert "mlflow.log_input" in window["messages"][0]
    assert "mlflow.log_input" in bench.get("/").text
    bench.deploy(tracking.deployment("wide"))
    assert (bench.window()["status"], bench.window()["window"]["rows"]) == ("ok", 200)


def test_a_copy_of_the_reference_serves_while_mlflow_is_away(make: Make, tracking: Tracking) -> None:
    bench = make(tracking.url, tracking.deployment("wide"))
    bench.feed(traffic(200, seed=1))
    bench.window()
    bench.end()
    bench.mlflow = "http://127.0.0.1:9"
    bench.start()
    bench.feed(traffic(200, seed=2))
    window = bench.window()
    assert window["status"] == "ok"
    assert "the copy of" in window["messages"][0]


def test_windows_are_made_by_themselves(make: Make, tracking: Tracking) -> None:
    bench = make(
        tracking.url, tracking.deployment("wide"), tick_seconds=0.2, window_rows=300, interval_minutes=999
    )
    bench.feed(traffic(300, seed=1))
    assert _eventually(bench, 1)["window"]["rows"] == 300
    bench.feed(traffic(200, seed=2))
    time.sleep(2)
    assert len(bench.get("/v1/deployments/movie/windows").json()) == 1
    bench.end()
    bench.start(interval_minutes=0.01)
    assert _eventually(bench, 2)["window"]["rows"] == 200


def _eventually(bench: Bench, windows: int) -> dict[str, Any]:
    end = time.monotonic() + 90
    while len(found := bench.get("/v1/deployments/movie/windows").json()) < windows:
        assert time.monotonic() < end, bench.log
        time.sleep(0.2)
    newest: dict[str, Any] = found[0]
    return newest


def test_two_who_ask_at_once_get_the_same_window(make: Make, tracking: Tracking) -> None:
    bench = make(tracking.url, tracking.deployment("wide"))
    bench.feed(traffic(200, seed=1))
    url = f"{bench.url}/v1/deployments/movie/windows"
    with ThreadPoolExecutor(2) as both:
        first, second = both.map(lambda _: httpx.post(url, timeout=120).json(), range(2))
    assert first == second
    assert (first["new"], first["window"]["rows"]) == (True, 200)


def test_a_window_that_fails_is_said_and_the_service_goes_on(make: Make, tracking: Tracking) -> None:
    bench = make(tracking.url, tracking.deployment("wide", thresholds={"x0": "much"}))
    bench.feed(traffic(200, seed=1))
    answer = httpx.post(f"{bench.url}/v1/deployments/movie/windows", timeout=120)
    assert answer.status_code == 500
    assert "could not convert string to float" in answer.json()["error"]
    assert "could not convert string to float" in bench.get("/").text
    bench.deploy(tracking.deployment("wide"))
    assert bench.window()["status"] == "ok"
    assert "could not convert" not in bench.get("/").text


# what people and browsers see


def test_hostile_column_names_stay_text_on_the_page_and_in_the_report(make: Make, tracking: Tracking) -> None:
    bench = make(tracking.url, tracking.deployment("evil"))
    rng = random.Random(1)
    evil = "<script>alert(1)</script>"
    bench.feed([line({evil: rng.gauss(3, 1), "</script><b>": "<i>"}) for _ in range(200)])
    window = bench.window()
    assert evil in window["drifted"]
    page = bench.get("/")
    assert "<script" not in page.text
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page.text
    assert "default-src 'none'" in page.headers["content-security-policy"]
    assert page.headers["x-content-type-options"] == "nosniff"
    report = bench.get(window["report"]).text
    assert "<script>alert(1)" not in report
    assert "</script><b>" not in report
    assert "\N{SINGLE LEFT-POINTING ANGLE QUOTATION MARK}script" in report or "\\u2039script" in report


def test_other_web_pages_are_refused(alone: Bench) -> None:
    assert alone.get("/", Host="evil.example").status_code == 403
    assert alone.get("/", Origin="http://evil.example").status_code == 403
    assert alone.get("/", Origin=alone.url).status_code == 200
    url = f"{alone.url}/v1/deployments/movie/windows"
    assert httpx.post(url, headers={"Origin": "http://127.0.0.1:1"}).status_code == 403
    assert httpx.post(url, headers={"Sec-Fetch-Site": "same-site"}).status_code == 403


def test_the_idle_service_holds_no_heavy_library(alone: Bench) -> None:
    alone.feed(traffic(2000, seed=1))
    alone.window()
    if sys.platform != "linux":
        pytest.skip("reads /proc")
    mapped = Path(f"/proc/{alone.pid}/maps").read_text()
    assert not re.findall(r"/(numpy|pandas|pyarrow|scipy|sklearn)/", mapped)


# the component


def test_the_component_reports_and_shows_the_way_to_the_other_tools(make: Make, tracking: Tracking) -> None:
    bench = make(tracking.url, tracking.deployment("wide"))
    urls = {"monitoring": bench.url, "experiment-tracker": tracking.url}
    access = FolderAccess(bench.root / "access", urls)
    access.keep_secret("capture-token", TOKEN)
    component = Monitoring(Options())
    component.setup(access)
    assert f'<a href="{tracking.url}"' in bench.get("/").text
    bench.feed(traffic(50, seed=1))
    assert component.report(access, "movie", True)["status"] == "too-few"
    assert component.report(access, "movie", False)["status"] == "too-few"
    assert [w["deployment"] for w in component.report(access, None, True)["deployments"]] == ["movie"]
    with pytest.raises(NotFound, match="nope"):
        component.report(access, "nope", True)
    bench.end()
    with pytest.raises(MatchaError, match="does not answer"):
        component.report(access, "movie", True)
