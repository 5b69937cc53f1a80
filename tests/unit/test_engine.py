"""The engine: order, independence, failure, and the journal under a lock that was lost."""

import threading
from pathlib import Path

import pytest

from matcha.engine import Journal, locked, run
from matcha.errors import ComponentFailed, Locked, NotServed
from matcha.events import Event, silent
from matcha.planning import Plan, Step
from matcha.state import Record, State
from matcha.targets.fake.store import FakeStore


def plan(*steps: tuple[str, ...]) -> Plan:
    made = tuple(Step(key=key, action="create", reason="", needs=tuple(needs)) for key, *needs in steps)
    return Plan(stack="default", target="fake", steps=made)


def test_each_step_runs_once_and_after_those_it_needs() -> None:
    order: list[str] = []
    run(plan(("c", "b"), ("a",), ("b", "a")), lambda s: order.append(s.key), silent)
    assert order == ["a", "b", "c"]


def test_independent_steps_run_side_by_side() -> None:
    both = threading.Barrier(2, timeout=60)
    run(plan(("a",), ("b",)), lambda _: both.wait(), silent)


def test_a_failure_starts_nothing_new_and_awaits_what_runs() -> None:
    failed, finished = threading.Event(), threading.Event()

    def do(step: Step) -> None:
        if step.key == "bad":
            failed.set()
            raise ComponentFailed("bad broke", details="its log")
        failed.wait(60)
        finished.set()

    events: list[Event] = []
    with pytest.raises(ComponentFailed, match="bad broke"):
        run(plan(("slow",), ("bad",), ("later", "bad")), do, events.append)
    assert finished.is_set()
    assert [(e.subject, e.phase) for e in events if e.subject == "later"] == [("later", "skipped")]


def test_every_failure_is_told() -> None:
    both = threading.Barrier(2, timeout=60)

    def do(step: Step) -> None:
        both.wait()
        raise ComponentFailed(f"{step.key} broke")

    with pytest.raises(ComponentFailed) as caught:
        run(plan(("a",), ("b",)), do, silent)
    assert {caught.value.message, caught.value.details.split(": ")[1]} == {"a broke", "b broke"}


def test_models_that_are_not_served_stop_nothing_and_are_told_at_the_end() -> None:
    order: list[str] = []

    def do(step: Step) -> None:
        order.append(step.key)
        if step.key == "deployments":
            raise NotServed({"movie": "no such file"})

    events: list[Event] = []
    steps = (("deployments",), ("later", "deployments"))
    gone = Step(key="service/old", action="remove", reason="")
    made = plan(*steps)
    with pytest.raises(NotServed, match="movie could not be loaded") as caught:
        run(Plan(stack="s", target="fake", steps=(*made.steps, gone)), do, events.append)
    assert order == ["deployments", "later", "service/old"]
    assert [e.subject for e in events if e.phase == "failed"] == ["deployments"]
    assert caught.value.details == "movie: no such file"


def test_an_error_that_stopped_the_run_comes_first() -> None:
    both = threading.Barrier(2, timeout=5)

    def do(step: Step) -> None:
        both.wait()
        raise NotServed({"movie": "no such file"}) if step.key == "deployments" else ComponentFailed("down")

    with pytest.raises(ComponentFailed, match="down") as caught:
        run(plan(("deployments",), ("service/a",)), do, silent)
    assert caught.value.details == "deployments: movie could not be loaded for serving."


def test_removals_wait_for_everything_else() -> None:
    order: list[str] = []
    steps = (
        Step(key="service/old", action="remove", reason=""),
        Step(key="service/new", action="create", reason=""),
    )
    run(Plan(stack="s", target="fake", steps=steps), lambda s: order.append(s.key), silent)
    assert order == ["service/new", "service/old"]


def test_the_journal_writes_every_change_before_it_returns(tmp_path: Path) -> None:
    store = FakeStore(tmp_path)
    state = State(stack_id="s", stack="default", target="fake")
    with locked(store, "test", wait=1, emit=silent) as token:
        journal = Journal(store, state, token)
        journal.change(lambda s: s.with_resource("service/a", Record(digest="d")))
        assert store.read() == journal.state
        assert journal.state.serial == 1
    assert store.lock() is None


def test_a_run_whose_lock_was_broken_cannot_write(tmp_path: Path) -> None:
    store = FakeStore(tmp_path)
    with locked(store, "test", wait=1, emit=silent) as token:
        journal = Journal(store, State(stack_id="s", stack="default", target="fake"), token)
        journal.change(lambda s: s.next())
        store.break_lock()
        store.acquire("another run", wait=0, emit=silent)
        with pytest.raises(Locked):
            journal.change(lambda s: s.next(phase="ready"))
    kept = store.read()
    assert kept is not None
    assert kept.phase == "changing"
    holder = store.lock()
    assert holder is not None
    assert holder.operation == "another run"


def test_a_held_lock_names_its_owner(tmp_path: Path) -> None:
    store = FakeStore(tmp_path)
    with (
        locked(store, "provision", wait=1, emit=silent),
        pytest.raises(Locked, match=r"pid \d+ \(provision\)"),
    ):
        store.acquire("another", wait=0.1, emit=silent)
