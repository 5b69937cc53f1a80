"""What the page, the metrics and the component show, from data on disk alone."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import msgspec
import pytest

from matcha.api.types import Report
from matcha.component import Deployment, GivenReference
from matcha.components.monitoring import Monitoring
from matcha.components.monitoring.component import Options
from matcha.components.monitoring.inside.matcha_monitoring import (
    layout,
    metrics,
    page,
    processes,
    remark,
    settings,
    spool,
)
from matcha.components.monitoring.inside.matcha_monitoring.service import Service
from matcha.components.monitoring.inside.matcha_monitoring.settings import Rules, Settings

EVIL = "<script>alert(1)</script>\"'&"


def column(name: str, score: float | None = 0.1, **more: Any) -> dict[str, Any]:
    drifted = score is None or score > 0.2
    plain = {"name": name, "kind": "number", "method": "wasserstein", "score": score, "threshold": 0.2}
    rates = {"reference_missing": 0.0, "current_missing": 0.0, "out_of_range": 0.0, "new_categories": []}
    return {**plain, **rates, "drifted": drifted, **more}


def window(*columns: dict[str, Any], **more: Any) -> dict[str, Any]:
    drifted = [c["name"] for c in columns if c["drifted"]]
    return {
        "deployment": "movie",
        "version": "1",
        "reference": {"source": "", "artifact": "matcha/reference.parquet"},
        "made": "2026-11-05T10:00:00Z",
        "made_at": 1795422561.25,
        "window": {"from": "2026-11-05T09:00:00Z", "to": "2026-11-05T10:00:00Z", "rows": 1000},
        "status": "drift" if drifted else "ok",
        "columns": list(columns),
        "drifted": drifted,
        "dataset_drift": bool(drifted),
        "prediction_drift": None,
        "report": "/reports/movie/000000000001-1.html",
        "messages": [],
        **more,
    }


def service(root: Path, *deployments: Deployment, windows: tuple[dict[str, Any], ...] = ()) -> Service:
    root.mkdir(exist_ok=True)
    live = root / "deployments.json"
    live.write_bytes(msgspec.json.encode(deployments))
    for number, each in enumerate(windows, 1):
        file = root / "data" / "windows" / layout.safe(each["deployment"]) / f"{number:012d}-1.json"
        layout.write_atomic(file, json.dumps(each).encode())
    told = {
        "MATCHA_DATA": str(root / "data"),
        "MATCHA_DEPLOYMENTS": str(live),
        "MATCHA_CAPTURE_TOKEN": "token",
    }
    return Service(Settings.from_env(told))


def movie(name: str = "movie", version: str = "1") -> Deployment:
    return Deployment(name=name, asked="models:/movie/1", uri="models:/movie/1", version=version)


class Seen(HTMLParser):
    """Elements and attributes a browser would make of the page."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data


def test_nothing_deployed_says_what_to_type(tmp_path: Path) -> None:
    assert "matcha deploy" in Seen(page.render(service(tmp_path))).text


def test_every_text_from_outside_is_text_on_the_page(tmp_path: Path) -> None:
    evil = window(
        column(EVIL, 0.5, new_categories=[EVIL], method=EVIL),
        deployment=EVIL,
        version=EVIL,
        messages=[EVIL],
        report=f"/reports/{EVIL}",
    )
    shown = service(tmp_path, movie(EVIL), windows=(evil, evil))
    shown.ledger.failed(EVIL, EVIL)
    shown.ledger.failed("", EVIL)
    (tmp_path / "data" / "links.json").write_text(json.dumps({EVIL: f"http://x/{EVIL}"}))
    html = page.render(shown)
    seen = Seen(html)
    assert "<script" not in html.lower()
    assert seen.text.count("<script>alert(1)</script>") >= 6
    assert not [a for _, attrs in seen.tags for a in attrs if a.startswith("on") or a == "style"]


def test_the_page_loads_nothing_from_elsewhere_and_needs_no_script(tmp_path: Path) -> None:
    html = page.render(service(tmp_path, movie(), windows=(window(column("a")),)))
    assert not re.findall(r"https?://", html)
    assert not {"script", "iframe", "object", "style", "img"} & {tag for tag, _ in Seen(html).tags}


def test_drifted_columns_stand_first_with_their_bar_beyond_the_middle(tmp_path: Path) -> None:
    columns = [column(f"steady{i}") for i in range(20)] + [column("moved", 0.42)]
    html = page.render(service(tmp_path, movie(), windows=(window(*columns),)))
    rows = re.findall(r'<th scope="row">(.*?)</th>.*?class="score" width="(\d+)"', html)
    assert rows[0] == ("moved", "200")
    assert rows[1] == ("steady0", "50")
    assert "9 more columns" in html
    assert 'aria-label="wasserstein 0.420, threshold 0.200"' in html


def captured(shown: Service, rows: int, version: str = "1") -> None:
    """`rows` rows of the model, not yet in any window."""
    line = {"d": "movie", "v": version, "t": 1.5, "id": "a", "n": rows, "in": [], "out": []}
    shown.capture(spool.read(json.dumps(line).encode()), "", "", None)


def test_why_there_is_no_verdict_is_on_the_page(tmp_path: Path) -> None:
    shown = service(tmp_path, movie())
    tried = window(status="no-reference", messages=["The run logged no data."], uri="models:/movie/1")
    shown.ledger.worked("movie", remark.of(tried))
    captured(shown, 200)
    text = Seen(page.render(shown)).text
    assert "Nothing to compare with" in text
    assert "The run logged no data." in text
    captured_of_another = service(tmp_path, msgspec.structs.replace(movie(), version="2"))
    assert "The run logged no data." not in Seen(page.render(captured_of_another)).text


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        (0, "No rows were captured since."),
        (1, "1 row since, too few for a verdict yet (needs 100)."),
        (99, "99 rows since, too few for a verdict yet (needs 100)."),
        (1614, "1,614 rows since wait for the next window."),
    ],
)
def test_a_verdict_stands_until_there_is_another(tmp_path: Path, rows: int, said: str) -> None:
    drifted = window(column("age", 0.9), messages=["zip is not in the reference."])
    shown = service(tmp_path, movie(), windows=(window(column("age")), drifted))
    if rows:
        captured(shown, rows)
    found = shown.report(shown.known("movie"))
    kept = {**drifted, "new": False, "waiting": rows, "messages": [said, *drifted["messages"]]}
    assert found == kept
    html = page.render(shown)
    assert '<span class="verdict bad">Drift</span></div>' in html
    assert (said in html) == bool(rows)
    assert html.count('<tr class="bad">') == 1


@pytest.mark.parametrize(
    ("rows", "status", "said"),
    [
        (0, "no-data", "Version 2 has no verdict yet: no rows yet."),
        (40, "too-few", "Version 2 has no verdict yet: 40 rows so far, too few (needs 100)."),
        (400, "no-data", "Version 2 has no verdict yet: 400 rows wait for the first window."),
    ],
)
def test_a_new_version_has_no_verdict_of_the_one_before(
    tmp_path: Path, rows: int, status: str, said: str
) -> None:
    shown = service(tmp_path, movie(version="2"), windows=(window(column("age", 0.9)),))
    captured(shown, 3, version="1")
    if rows:
        captured(shown, rows, version="2")
    found = shown.report(shown.known("movie"))
    assert msgspec.json.decode(msgspec.json.encode(msgspec.convert(found, Report))) == found
    assert (found["version"], found["status"], found["dataset_drift"]) == ("2", status, False)
    assert (found["waiting"], found["messages"], found["new"]) == (rows, [said], False)
    html = page.render(shown)
    assert said in html
    assert '<tr class="bad">' not in html


def test_models_outside_the_registry_share_no_verdict(tmp_path: Path) -> None:
    """They have no version; what tells one from the next is where they come from."""
    one, other = (
        msgspec.structs.replace(movie(version=""), uri=f"runs:/{run}/model") for run in ("one", "other")
    )
    shown = service(tmp_path, one)
    made = window(column("age", 0.9), version="", uri=one.uri)
    layout.write_atomic(
        shown.data / "windows" / "movie" / f"{1:012d}-{layout.safe('')}.json", json.dumps(made).encode()
    )
    assert shown.report(shown.known("movie"))["status"] == "drift"
    again = service(tmp_path, other)
    found = again.report(again.known("movie"))
    assert (found["status"], found["messages"]) == ("no-data", ["The model has no verdict yet: no rows yet."])


def test_a_verdict_by_another_reference_does_not_stand(tmp_path: Path) -> None:
    """And the page names what traffic is compared with."""
    source = "<b>june</b>.csv"
    given = GivenReference(source=source, digest="d")
    mine = msgspec.structs.replace(movie(), reference="matcha/references/d.parquet", given=given)
    by_training = window(column("age", 0.9))
    compared = {"source": source, "artifact": mine.reference}
    shown = service(tmp_path / "one", mine, windows=(by_training,))
    found = shown.report(shown.known("movie"))
    assert (found["status"], found["reference"]) == ("no-data", compared)
    again = service(tmp_path / "two", mine, windows=(by_training, by_training | {"reference": compared}))
    assert again.report(again.known("movie"))["status"] == "drift"
    assert "<dt>Compared with</dt><dd>&lt;b&gt;june&lt;/b&gt;.csv</dd>" in page.render(again)
    plain = service(tmp_path / "three", movie(), windows=(by_training,))
    assert plain.report(plain.known("movie"))["status"] == "drift"
    assert "<dt>Compared with</dt><dd>the training data</dd>" in page.render(plain)


def test_a_window_is_due_by_the_rows_that_the_model_needs(tmp_path: Path) -> None:
    shown = service(tmp_path, msgspec.structs.replace(movie(), settings={"min_rows": 5}))
    captured(shown, 4)
    assert not shown._due(shown.known("movie"))
    captured(shown, 1)
    assert shown._due(shown.known("movie"))


def test_extreme_scores_are_short_on_the_page(tmp_path: Path) -> None:
    far = window(column("age", 9.9e307), column("near", 3.14159))
    html = page.render(service(tmp_path, movie(), windows=(far,)))
    assert "9.90e+307" in html
    assert "3.142" in html
    assert not re.search(r"\d{20}", html)


def test_metrics_are_escaped_and_of_the_newest_window(tmp_path: Path) -> None:
    old, new = (
        window(column('a"\\\nb', 0.9)),
        window(column('a"\\\nb', 0.1), column("gone", None, threshold=None)),
    )
    text = metrics.render(service(tmp_path, movie(), windows=(old, new)))
    labels = r'deployment="movie",version="1",column="a\"\\\nb"'
    assert f"matcha_monitoring_drift_score{{{labels}}} 0.1\n" in text
    assert 'column="gone"' not in text
    assert 'matcha_monitoring_drifted{deployment="movie",version="1"} 1\n' in text
    assert "matcha_monitoring_captures_dropped_total 0\n" in text
    assert text.rstrip().endswith(" 1795422561.25")
    for line in text.splitlines():
        assert re.fullmatch(r"# (HELP|TYPE) \w+ .+|\w+(\{.*\})? [-+.\de]+", line), line


def test_the_live_file_is_read_again_and_a_torn_one_keeps_what_was_known(tmp_path: Path) -> None:
    shown = service(tmp_path, movie())
    live = tmp_path / "deployments.json"
    live.write_bytes(msgspec.json.encode([movie(), movie("second")]))
    assert sorted(shown.deployments.all()) == ["movie", "second"]
    live.write_text("[{")
    assert sorted(shown.deployments.all()) == ["movie", "second"]
    live.unlink()
    assert sorted(shown.deployments.all()) == ["movie", "second"]


def test_work_processes_do_not_get_the_token(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MATCHA_CAPTURE_TOKEN", "secret")
    monkeypatch.setenv("KEPT", "yes")
    found = settings.child_env()
    assert "secret" not in found.values()
    assert found["KEPT"] == "yes"


def test_an_answer_that_is_none_is_a_failure_with_the_log() -> None:
    with pytest.raises(processes.WorkFailed, match="no answer") as failure:
        processes._answer(0, b"", b"a\nb")
    assert failure.value.details == "a\nb"
    with pytest.raises(processes.WorkFailed, match="ValueError: no"):
        processes._answer(1, b"{}", b"Traceback\nValueError: no\n")


def test_options_reach_the_service_as_its_rules() -> None:
    made = Monitoring(Options(drift_threshold=0.3, min_rows=7)).services((movie(),))[0]
    rules = Rules.of(json.loads(made.files["settings.json"]))
    assert (rules.drift_threshold, rules.min_rows, rules.window_rows) == (0.3, 7, 1000)
    assert Rules.of(json.loads(Monitoring(Options()).services(())[0].files["settings.json"])) == Rules()
    assert json.loads(made.live["deployments.json"])[0]["name"] == "movie"


@pytest.mark.parametrize("wrong", [{"min-rows": 0}, {"drift-threshold": 0}, {"interval-minutes": -1}])
def test_options_that_cannot_work_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(msgspec.ValidationError, match=rf"- at `\$\.{next(iter(wrong))}`"):
        msgspec.convert(wrong, Options)
