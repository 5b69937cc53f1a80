"""Windows of the running service, with the real MLflow holding the references; the page; the component."""

from __future__ import annotations

import random
import re
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest
from monitoring_bench import TOKEN, Bench, line, traffic
from monitoring_fixtures import Make, Tracking, alone_fixture, make_fixture, python_fixture, tracking_fixture

from matcha.api.types import Report
from matcha.components.monitoring import Monitoring
from matcha.components.monitoring.component import Options
from matcha.errors import MatchaError, NotFound
from support.access import FarAccess, FolderAccess

pytestmark = pytest.mark.stack
FIXTURES = (alone_fixture, make_fixture, python_fixture, tracking_fixture)


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
    _few_rows_do_not_hide_it(bench, moved)


def _history_is_kept(bench: Bench, same: dict[str, Any], moved: dict[str, Any]) -> None:
    assert bench.get("/v1/deployments/movie/windows?last=5").json() == [moved, same]
    typed = msgspec.convert([same, moved], list[Report])
    assert msgspec.json.decode(msgspec.json.encode(typed)) == [same, moved]
    again = bench.window()
    assert again == moved | {"new": False, "messages": ["No rows were captured since."]}
    assert bench.window(take_in=False) == again


def _few_rows_do_not_hide_it(bench: Bench, moved: dict[str, Any]) -> None:
    bench.feed(traffic(3, seed=3))
    said = "3 rows since, too few for a verdict yet (needs 100)."
    assert bench.window() == moved | {"new": False, "waiting": 3, "messages": [said]}
    assert said in bench.get("/").text
    assert '<span class="verdict bad">Drift</span></div>' in bench.get("/").text


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
    assert (few["status"], few["waiting"], few["messages"]) == (
        "too-few",
        40,
        ["Version 1 has no verdict yet: 40 rows so far, too few (needs 60)."],
    )
    bench.feed(traffic(40, seed=2))
    first = bench.window()
    assert (first["window"]["rows"], first["waiting"]) == (80, 0)
    bench.feed(traffic(40, seed=3))
    assert (bench.window()["window"], bench.window()["waiting"]) == (first["window"], 40)
    bench.feed(traffic(40, seed=4))
    assert bench.window()["window"]["rows"] == 80


def test_one_request_at_the_end_of_the_range_is_drift_and_no_torrent_of_digits(
    make: Make, tracking: Tracking
) -> None:
    bench = make(tracking.url, tracking.deployment("wide"))
    for far in (1e308, -1e308):
        bench.feed([*traffic(100, seed=1), line({f"x{j}": far for j in range(20)})])
    window = bench.window()
    assert len(window["drifted"]) == 20
    assert all(c["score"] > 1e90 for c in window["columns"])
    assert not re.search(r"\d{50}", bench.get("/").text)
    assert bench.get("/metrics").status_code == 200
    assert not re.search(r"\d{50}", bench.get(window["report"]).text)


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
    component.setup(FarAccess(access.root, urls, {}))  # where others have other ports, it holds for nobody
    assert tracking.url not in bench.get("/").text
    bench.feed(traffic(50, seed=1))
    assert component.report(access, "movie", True)["status"] == "too-few"
    assert component.report(access, "movie", False)["status"] == "too-few"
    assert [w["deployment"] for w in component.report(access, None, True)["deployments"]] == ["movie"]
    with pytest.raises(NotFound, match="nope"):
        component.report(access, "nope", True)
    bench.end()
    with pytest.raises(MatchaError, match="does not answer"):
        component.report(access, "movie", True)
