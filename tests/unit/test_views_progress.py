"""Progress: the board that events change, its frames, and the plain lines without a terminal."""

from __future__ import annotations

import io
import threading
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from matcha.events import Event
from matcha.planning import Plan, Step
from matcha.views.board import Board, frame
from matcha.views.live import Live, Plain, display
from matcha.views.names import noun, step_name
from matcha.views.text import Paper, cells, render

TITLES = {"mlflow": "MLflow", "zenml": "ZenML", "pipeline": "ZenML"}
STEPS = (
    Step(key="secrets", action="create", reason="not there yet"),
    Step(key="environment/mlflow", action="create", reason="not there yet"),
    Step(key="environment/zenml", action="create", reason="not there yet"),
    Step(key="service/mlflow", action="update", reason="changed", needs=("environment/mlflow",)),
    Step(
        key="service/zenml", action="create", reason="not there yet", needs=("secrets", "environment/zenml")
    ),
    Step(
        key="setup/pipeline",
        action="create",
        reason="not done yet",
        needs=("service/zenml", "service/mlflow"),
    ),
)
PLAN = Plan(stack="default", target="local", steps=STEPS)


CASES = {
    case["name"]: case
    for case in YAML(typ="safe").load((Path(__file__).parent / "cases/progress.yaml").read_text())
}


class Clock:
    def __init__(self, now: float = 100.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


def events(case: dict[str, Any]) -> list[tuple[float, Event]]:
    """With the times at which they came."""
    before = events(CASES[case["after"]]) if "after" in case else []
    return before + [(at, Event(subject, *rest)) for at, subject, *rest in case.get("events", ())]


def is_planned(case: dict[str, Any]) -> bool:
    return is_planned(CASES[case["after"]]) if "after" in case else case.get("planned", False)


def board(case: dict[str, Any]) -> Board:
    made = Board(heading="Provisioning", titles=TITLES)
    made = made.planned(PLAN) if is_planned(case) else made
    for now, event in events(case):
        made = made.after(event, now)
    return made.ended() if case.get("ended") else made


def plain(case: dict[str, Any]) -> str:
    stream, clock = io.StringIO(), Clock(0.0)
    lines = Plain(stream, TITLES, clock)
    if is_planned(case):
        lines.plan(PLAN)
    for now, event in events(case):
        clock.now = now
        lines.emit(event)
    lines.close()
    return stream.getvalue()


HALFWAY = board(CASES["half-way through"])


def shown(made: Board, now: float = 4.0, height: int | None = None, **paper: object) -> str:
    on = Paper(**{"width": 80, **paper})  # type: ignore[arg-type]
    return render(frame(made, now, on, height), on)


def test_a_narrow_frame_leaves_out_the_bar() -> None:
    assert shown(HALFWAY, width=46) == (
        "Provisioning  2 of 6 steps  4.0s\n"
        "✓ Secrets  generate                       0.5s\n"
        "✓ MLflow   install                        1.0s\n"
        "⠋ ZenML    install   60 of 120 MB         4.0s\n"
        "⠋ MLflow   restart   waiting for /hea…    3.0s\n"
        "· ZenML    start     after ZenML inst…\n"
        "· ZenML    set up    after MLflow res…\n"
    )


LONG = "its image cannot be had: no such host (registry.invalid/mirror/python:3.12.13-slim-bookworm) (12 s)"


def test_what_a_row_says_goes_on_below_where_there_is_room() -> None:
    made = HALFWAY.after(Event("service/mlflow", "progress", LONG), 4.0)
    told = [
        "⠋ MLflow   restart   its image cannot be had: no such host (registry.inv    3.0s",
        "                     alid/mirror/python:3.12.13-slim-bookworm) (12 s)",
        "· ZenML    start     after ZenML install",
    ]
    assert shown(made).splitlines()[4:7] == shown(made, height=8).splitlines()[4:7] == told
    assert shown(made, height=7).splitlines()[4:6] == [told[0].replace("inv ", "in… "), told[2]]
    failed = made.after(Event("service/mlflow", "failed", LONG), 5.0)
    assert "no such host" in shown(failed) and "bookworm) (12 s)" in shown(failed)
    longest = made.after(Event("service/mlflow", "progress", LONG * 4), 4.0)
    assert len(shown(longest).splitlines()) == 9 and "…\n· ZenML" in shown(longest)


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_transition(case: dict[str, Any]) -> None:
    assert shown(board(case), case["now"]) == case["frame"]
    before = plain(CASES[case["after"]]) if "after" in case else ""
    assert plain(case) == before + case.get("plain", "")


def test_the_plan_ends_the_wait_for_the_lock() -> None:
    waiting = board(CASES["waiting for the lock is no step"])
    assert "waiting for ann" not in shown(waiting.planned(PLAN))


@pytest.mark.parametrize("width", [40, 60, 79, 80, 120])
def test_no_line_is_wider_than_the_terminal(width: int) -> None:
    assert max(cells(each) for each in shown(HALFWAY, width=width).splitlines()) <= width


def test_a_low_terminal_keeps_what_runs_and_counts_the_rest() -> None:
    assert shown(HALFWAY, height=6) == (
        "Provisioning  2 of 6 steps  4.0s\n"
        "✓ 2 done\n"
        "⠋ ZenML    install   ━━━━━━        50%  60 of 120 MB                        4.0s\n"
        "⠋ MLflow   restart   waiting for /health                                    3.0s\n"
        "· ZenML    start     after ZenML install\n"
        "· 1 to come\n"
    )


@pytest.mark.parametrize("height", [4, 5, 6, 7, 8, 24])
def test_no_frame_is_higher_than_the_terminal(height: int) -> None:
    assert len(shown(HALFWAY, height=height).splitlines()) <= height


def test_without_unicode_the_marks_are_letters() -> None:
    assert shown(HALFWAY, now=4.1, unicode=False).splitlines()[2:5] == [
        "+ MLflow   install                                                          1.0s",
        "| ZenML    install   ======        50%  60 of 120 MB                        4.1s",
        "| MLflow   restart   waiting for /health                                    3.1s",
    ]


@pytest.mark.parametrize(
    ("key", "action", "name"),
    [
        ("environment/mlflow", "create", ("MLflow", "install")),
        ("environment/mlflow", "repair", ("MLflow", "reinstall")),
        ("service/zenml", "start", ("ZenML", "start")),
        ("service/zenml", "update", ("ZenML", "restart")),
        ("service/serving-1a2b", "remove", ("Serving 1a2b", "remove")),
        ("setup/pipeline", "create", ("ZenML", "set up")),
        ("setup/vector-database", "create", ("Vector database", "set up")),
        ("deployments", "update", ("Models", "load")),
        ("volume/data", "create", ("Data", "volume")),
        ("deployment", "create", ("Deployment", "")),
    ],
)
def test_names_come_from_the_key(key: str, action: str, name: tuple[str, str]) -> None:
    assert step_name(key, TITLES, action) == name  # type: ignore[arg-type]


def test_nouns_for_plans() -> None:
    keys = ("environment/mlflow", "service/mlflow", "setup/pipeline", "secrets", "role/x-y")
    assert [noun(key, TITLES) for key in keys] == [
        "MLflow environment",
        "MLflow",
        "ZenML set-up",
        "Secrets",
        "X y",
    ]


def test_a_download_is_told_every_ten_seconds_whatever_it_downloads() -> None:
    stream, clock = io.StringIO(), Clock()
    plain = Plain(stream, TITLES, clock)
    for second in range(31):
        said = f"downloading {second} of 31 MB (package{second})"
        plain.emit(Event("environment/zenml", "progress", said, second, second / 31))
        clock.now += 1
    plain.emit(Event("environment/zenml", "progress", "installing 1 of 9 packages (alembic)", 31, 0.1))
    assert [each.partition(" (")[0] for each in stream.getvalue().splitlines()] == [
        "[  0.0s] ZenML: downloading 0 of 31 MB",
        "[ 10.0s] ZenML: downloading 10 of 31 MB",
        "[ 20.0s] ZenML: downloading 20 of 31 MB",
        "[ 30.0s] ZenML: downloading 30 of 31 MB",
        "[ 31.0s] ZenML: installing 1 of 9 packages",
    ]


class Terminal(io.StringIO):
    encoding = "utf-8"

    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("stream", "environ", "kind"),
    [
        (Terminal(), {"TERM": "xterm"}, Live),
        (Terminal(), {"TERM": "xterm", "CI": "false"}, Live),
        (Terminal(), {"TERM": "xterm", "CI": "true"}, Plain),
        (Terminal(), {"TERM": "dumb"}, Plain),
        (Terminal(), {}, Plain),
        (io.StringIO(), {"TERM": "xterm"}, Plain),
    ],
)
def test_only_a_capable_terminal_gets_the_table(
    stream: io.StringIO, environ: dict[str, str], kind: type[object]
) -> None:
    assert type(display(stream, environ, TITLES)) is kind


def test_the_table_stays_when_it_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "60")
    monkeypatch.setenv("LINES", "6")
    stream = Terminal()
    live = Live(stream, TITLES, Clock(), heading="Provisioning")
    live.plan(PLAN)
    live.emit(Event("secrets", "done", "", 0.5))
    live.pause()
    live.emit(Event("environment/mlflow", "done", "", 1.0))
    live.close()
    last = stream.getvalue().rpartition("Provisioning")[2].replace("\r", "").splitlines()
    assert last[0] == "  2 of 6 steps  0.0s"
    assert [each.split() for each in last[1:4]] == [
        ["✓", "Secrets", "generate", "0.5s"],
        ["✓", "MLflow", "install", "1.0s"],
        ["·", "ZenML", "install"],
    ]
    assert len(last[1:7]) == 6


HIDE_CURSOR = "\x1b[?25l"  # what a table begins with


def test_events_that_come_at_once_make_one_table(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "60")
    monkeypatch.setenv("LINES", "30")
    stream = Terminal()
    live = Live(stream, TITLES, heading="Starting")
    gate = threading.Barrier(8)

    def start(number: int) -> None:
        gate.wait()
        live.emit(Event(f"service/s{number}", "started"))

    threads = [threading.Thread(target=start, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    live.close()
    assert stream.getvalue().count(HIDE_CURSOR) == 1
