"""Which steps of a pipeline start when, what they ask for, and the line on which they are asked for."""

from __future__ import annotations

import socket
import stat
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from matcha.api import _steps
from matcha.components.zenml.orchestrator.inside.matcha_steps import demands, line, order
from matcha.errors import BadInput, MatchaError
from matcha.job import memory_bytes

DIAMOND = {"load": [], "left": ["load"], "right": ["load"], "add": ["left", "right"]}


def states(**known: order.State) -> dict[str, order.State]:
    return {**dict.fromkeys(DIAMOND, "waiting"), **known}


def test_a_step_starts_once_all_that_it_needs_is_done() -> None:
    assert order.startable(DIAMOND, states(), order.CONTINUE) == ["load"]
    assert order.startable(DIAMOND, states(load="running"), order.CONTINUE) == []
    assert order.startable(DIAMOND, states(load="succeeded"), order.CONTINUE) == ["left", "right"]
    half = states(load="succeeded", left="succeeded", right="running")
    assert order.startable(DIAMOND, half, order.CONTINUE) == []
    assert order.startable(DIAMOND, {**half, "right": "succeeded"}, order.CONTINUE) == ["add"]


def test_what_an_earlier_run_did_is_done() -> None:
    """ZenML takes cached steps out of the pipeline, and leaves them in what others need."""
    assert order.startable({"add": ["left", "right"]}, {"add": "waiting"}, order.CONTINUE) == ["add"]


def test_no_more_than_the_limit_run_at_once() -> None:
    many = {f"s{n}": list[str]() for n in range(40)}
    waiting: dict[str, order.State] = dict.fromkeys(many, "waiting")
    assert len(order.startable(many, waiting, order.CONTINUE)) == order.AT_ONCE
    assert order.startable(many, {**waiting, "s0": "running"}, order.CONTINUE, limit=1) == []


@pytest.mark.parametrize(
    ("mode", "starts", "left_out"),
    [
        (order.CONTINUE, ["right"], ["add"]),
        (order.STOP, [], ["right", "add"]),
        (order.FAIL_FAST, [], ["right", "add"]),
    ],
)
def test_a_failure_goes_as_far_as_the_execution_mode_says(
    mode: str, starts: list[str], left_out: list[str]
) -> None:
    now = states(load="succeeded", left="failed")
    assert order.startable(DIAMOND, now, mode) == starts
    assert order.skipped(DIAMOND, now, mode) == left_out


@st.composite
def graphs(draw: st.DrawFn) -> dict[str, list[str]]:
    names = [f"s{n}" for n in range(draw(st.integers(1, 8)))]
    return {
        name: draw(st.lists(st.sampled_from(names[:at]), unique=True)) if at else []
        for at, name in enumerate(names)
    }


@given(graphs(), st.sampled_from(order.MODES), st.data())
def test_every_pipeline_comes_to_an_end(graph: dict[str, list[str]], mode: str, data: st.DataObject) -> None:
    """Whatever fails, no step starts before what it needs, and none is left waiting."""
    now: dict[str, order.State] = dict.fromkeys(graph, "waiting")
    for _ in range(2 * len(graph) + 1):
        now.update(dict.fromkeys(order.skipped(graph, now, mode), "skipped"))
        for step in order.startable(graph, now, mode):
            assert all(now[need] == "succeeded" for need in graph[step])
            now[step] = data.draw(st.sampled_from(["succeeded", "failed"]))
        if order.is_over(now):
            break
    assert order.is_over(now)


def sizes(**settings: Any) -> dict[str, Any]:
    unset = {"gpu_count": None, "cpu_count": None, "memory": None}
    return demands.demand(SimpleNamespace(**{**unset, **settings}))


def test_a_size_is_what_was_set_alone() -> None:
    assert sizes() == {}
    assert sizes(gpu_count=0) == {"gpu": 0}  # none, whatever --gpu says of the others
    assert sizes(gpu_count=2, cpu_count=0.5, memory="16GiB") == {"gpu": 2, "cpu": 0.5, "memory": "16Gi"}


@pytest.mark.parametrize(
    ("zenml", "size"),
    [
        ("512B", 512),
        ("20KB", 20_000),
        ("20KiB", 20_480),
        ("3MB", 3_000_000),
        ("2GiB", 2**31),
        ("1TB", 10**12),
        ("1PB", 10**15),
        ("2PiB", 2**51),
    ],
)
def test_memory_is_the_same_amount_in_both_spellings(zenml: str, size: int) -> None:
    assert memory_bytes(demands.memory(zenml)) == size


# -- the line -----------------------------------------------------------------------------------------------


class Told(_steps.Doing):
    """Jobs that run until they are ended, or at once where their step is named so."""

    def __init__(self) -> None:
        self.ended: list[str] = []
        self.checked: list[_steps.Sized] = []

    def check(self, steps: tuple[_steps.Sized, ...]) -> None:
        self.checked += steps
        if any(step.demand.gpu for step in steps):
            raise BadInput("No GPU.", details="None has any.", resolution="Ask for none.")

    def run(self, step: _steps.Step, queued: Callable[[str], None], ended: _steps.Ended) -> _steps.Over:
        queued(f"{step.step}-x1")
        if step.step == "quick":
            return _steps.Over(job="quick-x1", over="succeeded")
        happened = threading.Event()
        ended.calls(happened.set)
        assert happened.wait(30)
        self.ended.append(step.step)
        return _steps.Over(job=f"{step.step}-x1", over="cancelled")


def test_a_step_is_asked_for_and_answered() -> None:
    with _steps.answering(Told()) as address, line.Line(str(address)) as asked:
        asked.say({"step": "quick", "pipeline": "p", "command": ["true"], "demand": {"cpu": 1}})
        said = list(asked.answers())
    assert said[0] == {"job": "quick-x1"}
    assert said[1]["over"] == "succeeded"


def test_the_line_is_of_this_user_alone() -> None:
    with _steps.answering(Told()) as address:
        assert stat.S_IMODE(address.parent.stat().st_mode) == 0o700
    assert not address.parent.exists()


def test_a_folder_whose_name_is_too_long_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    long = tmp_path / ("x" * 120)
    long.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(long))
    with pytest.raises(MatchaError, match="too long") as told, _steps.answering(Told()):
        pass
    assert told.value.resolution.startswith("TMPDIR=/tmp ")
    assert not list(long.iterdir())


def test_who_hangs_up_has_the_job_ended_and_hears_of_it() -> None:
    told = Told()
    with _steps.answering(told) as address, line.Line(str(address)) as asked:
        asked.say({"step": "long", "pipeline": "p", "command": ["true"]})
        answers = asked.answers()
        assert next(answers) == {"job": "long-x1"}
        asked.hang_up()
        assert next(answers)["over"] == "cancelled"
    assert told.ended == ["long"]


def test_who_dies_has_the_job_ended() -> None:
    told = Told()
    with _steps.answering(told) as address:
        gone = line.Line(str(address))
        gone.say({"step": "long", "pipeline": "p", "command": ["true"]})
        assert next(gone.answers())
        gone.__exit__()
    assert told.ended == ["long"]  # `answering` waits for it


def test_what_is_left_is_ended_with_the_command() -> None:
    told = Told()
    with _steps.answering(told) as address:
        left = line.Line(str(address))
        left.say({"step": "long", "pipeline": "p", "command": ["true"]})
        assert next(left.answers())
    assert told.ended == ["long"]
    left.__exit__()


def test_a_refusal_has_its_reason_and_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    told = Told()
    with _steps.answering(told) as address:
        monkeypatch.setenv(line.ADDRESS, str(address))
        assert line.ask({"check": [{"step": "a", "demand": {"memory": "1Gi"}}]}) == {"over": "checked"}
        with pytest.raises(line.Refused, match=r"No GPU\.\nNone has any\.\nNext: Ask for none\."):
            line.ask({"check": [{"step": "b", "demand": {"gpu": 1}}]})
        with pytest.raises(line.Refused, match="was not understood"):
            line.ask({"step": 3})
    assert [each.step for each in told.checked] == ["a", "b"]


def test_without_a_command_that_leads_it_is_said_how(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(line.ADDRESS, raising=False)
    with pytest.raises(line.Refused, match=r"matcha run --pipeline -- \.\.\."):
        line.dial()


def test_a_command_that_ended_is_told_of(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as nobody:
        nobody.bind(str(tmp_path / "s"))
        nobody.listen()
        with line.Line(str(tmp_path / "s")) as asked:
            nobody.accept()[0].close()
            with pytest.raises(ConnectionError, match="has ended"):
                list(asked.answers())
