"""The engine: order, independence, failure, and the journal under a lock that was lost."""

import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest

from matcha import planning
from matcha.access import Access
from matcha.component import Component
from matcha.engine import Journal, Work, locked, run
from matcha.errors import ComponentFailed, Locked, NotServed
from matcha.events import Event, silent
from matcha.planning import Plan, Step
from matcha.service import Environment, Service
from matcha.state import Record, State
from matcha.targets.fake import FakeTarget
from matcha.targets.fake.store import FakeStore
from support.plain import web


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


# -- what has to be set up in a running service --------------------------------------------------------------


class Wired(Component):
    """A service that is set up once it runs; `broken` says why that does not work now."""

    role, flavor, title = "role-of-web", "plain", "Wired"
    Options = msgspec.Struct

    def __init__(self, folder: Path) -> None:
        super().__init__(msgspec.Struct())
        (folder / "plain.lock").touch()
        self.lock = folder / "plain.lock"
        self.broken = ""
        self.version = "1"
        self.done: list[str] = []

    def environments(self) -> tuple[Environment, ...]:
        return (Environment(name="plain", lock=self.lock),)

    def services(self, deployments: Sequence[Any]) -> tuple[Service, ...]:
        return (msgspec.structs.replace(web("web"), env={"VERSION": self.version}),)

    def setup_digest(self) -> str:
        return "1"

    def setup(self, access: Access) -> None:
        if self.broken:
            raise ComponentFailed(self.broken)
        self.done.append(self.version)


class Bench:
    """Provisions one `Wired` on the fake target, as often as asked."""

    def __init__(self, folder: Path) -> None:
        self.component, self.target = Wired(folder), FakeTarget(folder)
        self.state = State(stack_id="s", stack="default", target="fake")

    def plan(self) -> Plan:
        self.wanted = planning.want([self.component], ())
        seen = self.target.observe(self.state, self.wanted.services)
        return planning.make("default", "fake", self.wanted, seen, self.state)

    def provision(self) -> None:
        plan = self.plan()
        with locked(self.target.store(), "provision", wait=1, emit=silent) as token:
            state = self.target.begin(self.state, self.wanted.services)
            journal = Journal(self.target.store(), state, token)
            journal.change(lambda s: s.next())
            try:
                run(plan, Work(self.target, [self.component], self.wanted, journal, silent).do, silent)
            finally:
                self.state = journal.state


def test_a_setup_that_failed_is_not_taken_for_done(tmp_path: Path) -> None:
    """Also where an earlier one of the same description had been: the service that it was in is another."""
    bench = Bench(tmp_path)
    bench.component.broken = "no answer"
    for _ in range(2):
        with pytest.raises(ComponentFailed, match="no answer"):
            bench.provision()
    bench.component.broken = ""
    bench.provision()
    assert not bench.plan().steps
    bench.component.version, bench.component.broken = "2", "no answer"
    with pytest.raises(ComponentFailed, match="no answer"):
        bench.provision()
    assert [(s.key, s.reason) for s in bench.plan().steps] == [
        ("setup/role-of-web", "the last change was not finished")
    ]
    bench.component.broken = ""
    bench.provision()
    assert bench.component.done == ["1", "2"]
    assert not bench.plan().steps
