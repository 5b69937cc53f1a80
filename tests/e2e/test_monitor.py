"""Traffic of a deployed model against its training data."""

from __future__ import annotations

import csv
import json
import random
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from support.jobs import Trained
from support.matcha import Matcha

COLUMN = "<i>age</i>"


@pytest.fixture(scope="module")
def watched(stack: Matcha, trained: Trained) -> str:
    stack("deploy", "models:/watched/1")
    return "watched"


def traffic(stack: Matcha, change: Callable[[float, int], tuple[float, float]], rows: int = 600) -> None:
    """Sends rows like the training data's, each changed by `change(income, age)`."""
    chance = random.Random(rows)
    made = [change(chance.gauss(50, 10), chance.randrange(18, 80)) for _ in range(rows)]
    with (stack.project / "traffic.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["income", COLUMN], *made])
    stack("predict", "watched", "--input", "traffic.csv")


def report(stack: Matcha, *check: str, code: int = 0) -> dict[str, Any]:
    [found] = stack.json("monitor", "watched", *check, code=code)
    return dict(found)


def test_no_traffic_is_no_drift(stack: Matcha, watched: str) -> None:
    assert report(stack, "--check")["status"] == "no-data"
    assert "no traffic" in stack("monitor", "watched").stdout


def test_few_rows_are_no_verdict(stack: Matcha, watched: str) -> None:
    stack("predict", "watched", "--json", json.dumps([{"income": 50.0, COLUMN: 30}]))
    assert report(stack, "--check")["status"] == "too-few"


def test_traffic_like_the_training_data_is_no_drift(stack: Matcha, watched: str) -> None:
    traffic(stack, lambda income, age: (income, age))
    found = report(stack, "--check")
    assert found["status"] == "ok", found
    assert found["drifted"] == []
    assert found["dropped"] == 0
    assert found["window"]["rows"] >= 600
    assert "no drift" in stack("monitor", "watched").stdout


def test_the_column_that_shifted_is_named(stack: Matcha, watched: str) -> None:
    traffic(stack, lambda income, age: (income + 15, age), rows=601)
    found = report(stack, "--check", code=1)
    assert found["drifted"] == ["income"]
    assert [c["name"] for c in found["columns"] if c["drifted"]] == ["income"]
    said = stack("monitor", "watched").stdout
    assert "drift" in next(line for line in said.splitlines() if line.startswith("income"))
    stack("monitor", "--check", code=1)


def test_a_few_rows_more_neither_end_the_alarm_nor_hide_it(stack: Matcha, watched: str) -> None:
    stack("predict", "watched", "--json", json.dumps([{"income": 50.0, COLUMN: 30}] * 2))
    found = report(stack, "--check", code=1)
    assert (found["drifted"], found["waiting"], found["new"]) == (["income"], 2, False)
    assert "2 rows since, too few for a verdict yet (needs 100)." in stack("monitor", "watched").stdout
    page = httpx.get(stack.url("monitoring", "dashboard-url"), timeout=30).text
    assert '<span class="verdict bad">Drift</span></div>' in page
    assert "2 rows since, too few" in page


def test_a_quiet_window_ends_the_alarm(stack: Matcha, watched: str) -> None:
    traffic(stack, lambda income, age: (income, age), rows=602)
    assert report(stack, "--check")["status"] == "ok"


def test_the_page_shows_it_with_every_name_escaped(stack: Matcha, watched: str) -> None:
    page = httpx.get(stack.url("monitoring", "dashboard-url"), timeout=30)
    assert page.status_code == 200
    assert "watched" in page.text
    assert "&lt;i&gt;age&lt;/i&gt;" in page.text
    assert COLUMN not in page.text
    for header in ({"Host": "evil.example"}, {"Origin": "https://evil.example"}):
        assert httpx.get(page.url, headers=header, timeout=30).status_code == 403


def test_a_model_without_training_data_is_told(stack: Matcha, trained: Trained) -> None:
    stack("deploy", "saved credit 0", "--name", "no-reference")
    stack("predict", "no-reference", "--json", json.dumps([{"income": 50.0, "age": 30}] * 200))
    [found] = stack.json("monitor", "no-reference", "--check")
    assert found["status"] == "no-reference"
    assert "nothing to compare with" in stack("monitor", "no-reference").stdout
    stack("undeploy", "no-reference")


def test_other_deployments_are_not_mixed_in(stack: Matcha, watched: str) -> None:
    found = {r["deployment"]: r for r in stack.json("monitor")}
    assert COLUMN in {c["name"] for c in found["watched"]["columns"]}
    assert "no-reference" not in found
