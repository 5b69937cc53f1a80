"""Traffic of a deployed model against its training data."""

from __future__ import annotations

import contextlib
import csv
import json
import random
from collections.abc import Callable, Iterator
from pathlib import Path
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


@contextlib.contextmanager
def given(stack: Matcha, reference: str) -> Iterator[None]:
    file = stack.project / "matcha.yaml"
    before = file.read_text()
    file.write_text(f"models:\n  watched:\n    reference: {json.dumps(reference)}\n")
    try:
        yield
    finally:
        file.write_text(before)


def deployed(stack: Matcha) -> dict[str, Any]:
    models = {m["name"]: m for m in stack.json("models")}
    return dict(models["watched"]["deployments"][0])


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


def test_a_reference_that_does_not_do_is_refused_and_changes_nothing(stack: Matcha, watched: str) -> None:
    before = deployed(stack)
    (stack.project / "lacking.csv").write_text("age,other\n31,1\n")
    (stack.project / "torn.parquet").write_bytes(b"PAR1 and no more")
    cases = {
        "nowhere.csv": ("nowhere.csv cannot be read", "There is no such file."),
        "torn.parquet": ("torn.parquet cannot be read",),
        "lacking.csv": (f"lacking.csv lacks income, {COLUMN}", "It has: age, other."),
        "runs:/0123456789/file.csv": ("could not be fetched",),
    }
    for source, said in cases.items():
        with given(stack, source):
            refused = " ".join(stack("deploy", "models:/watched/1", code=2).stderr.split())
        assert "matcha.yaml:3: " in refused
        assert "matcha deploy models:/watched/1 --name watched" in refused
        assert all(part in refused for part in said), refused
        assert deployed(stack) == before
    stack("predict", "watched", "--json", json.dumps([{"income": 50.0, COLUMN: 30}]))


def test_a_given_reference_turns_quiet_traffic_into_drift(stack: Matcha, watched: str) -> None:
    """Traffic like the training data, compared with richer people."""
    traffic(stack, lambda income, age: (income, age), rows=603)
    quiet = report(stack, "--check")
    assert (quiet["status"], quiet["reference"]["source"]) == ("ok", "")
    assert "compared with the training data" in stack("monitor", "watched").stdout
    file = stack.project / "richer.csv"
    people(file, income=80)
    with given(stack, "richer.csv"):
        _is_taken_by_a_deploy(stack)
        traffic(stack, lambda income, age: (income, age), rows=603)
        found = report(stack, "--check", code=1)
        assert (found["status"], found["drifted"]) == ("drift", ["income"])
        assert found["reference"] == {"source": "richer.csv", "artifact": deployed(stack)["reference"]}
        assert "compared with richer.csv" in stack("monitor", "watched").stdout
        page = httpx.get(stack.url("monitoring", "dashboard-url"), timeout=30).text
        assert "<dt>Compared with</dt><dd>richer.csv</dd>" in page
        people(file, income=50)
        assert "watched: richer.csv changed since it was deployed" in stack("provision", "--yes").stdout
        assert report(stack, "--check", code=1)["drifted"] == ["income"]
    stack("deploy", "models:/watched/1")
    assert report(stack, "--check")["status"] == "ok", "the verdict by the training data stands again"


def people(file: Path, income: float) -> None:
    chance = random.Random(9)
    rows = [(chance.gauss(income, 10), chance.randrange(18, 80), 1) for _ in range(2000)]
    with file.open("w", newline="") as handle:
        csv.writer(handle).writerows([["income", COLUMN, "unused"], *rows])


def _is_taken_by_a_deploy(stack: Matcha) -> None:
    waits = "watched: drift is still measured against the training data. To take"
    assert waits in " ".join(stack("plan").stdout.split())
    said = " ".join(stack("deploy", "models:/watched/1").stdout.split())
    assert "Drift is measured against richer.csv (2,000 rows), as matcha.yaml says." in said
    assert "still measured" not in stack("plan").stdout
    assert report(stack, "--check")["status"] == "no-data"
