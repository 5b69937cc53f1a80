"""The contract of a target, as tests: every verb repeats safely, is seen, and is undone without a trace.

For a target of your own, subclass `TargetContract` and give it the fixture `bed`:

    class TestMine(TargetContract):
        @pytest.fixture
        def bed(self, tmp_path):
            with my_bed(tmp_path) as bed:
                yield bed
"""

from __future__ import annotations

import contextlib
import stat
import uuid
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol

import msgspec
import pytest

from matcha.access import Access
from matcha.engine import locked
from matcha.errors import ComponentFailed, NotProvisioned, StateUnreadable
from matcha.events import silent
from matcha.service import Environment, Service, service_digest
from matcha.state import Record, State
from matcha.target import Seen, ServiceStatus, Target
from support.matcha import until
from support.store_runs import TRANSITIONS, Runs

WAIT = 60.0
LIVE_SECONDS = 120.0  # for a change of live files to be seen: a kubelet takes its time
SECRET, AREA = "web-token", "things"


class Bed(Protocol):
    """A project on a target, in which nothing is provisioned yet."""

    answers: bool  # whether what `start` starts is a process that answers
    environment: Environment

    def target(self) -> Target:
        """A new object, as another command would have."""

    def service(self, name: str = "web", **changes: Any) -> Service:
        """A service of `environment` with one port `http`.

        It has the secret `web-token`, the store `things` and a volume, in which it counts its starts.
        """

    def tell(self, state: State, name: str) -> dict[str, Any]:
        """What the running service says of itself, where services answer.

        `pid`, `env`, `starts` (how often it was started on its volume) and `live` (its live files, by name).
        """

    def spoil(self, raw: bytes) -> None:
        """Put this in the place of the state record."""

    def left(self) -> Sequence[str]:
        """What is there of the stack, found without asking the target; empty in an untouched project."""


class Project:
    """The verbs as the engine uses them: each on a new target object, under the lock, recorded when done."""

    def __init__(self, bed: Bed, *services: Service) -> None:
        self.bed = bed
        self.services = services

    @property
    def target(self) -> Target:
        return self.bed.target()

    @property
    def state(self) -> State:
        found = self.target.store().read()
        assert found is not None
        return found

    @property
    def access(self) -> Access:
        return self.target.access(self.state)

    def seen(self) -> dict[str, Seen]:
        target = self.target
        return dict(target.observe(target.store().read(), *self._asked(target)).resources)

    def _asked(self, target: object) -> tuple[Any, ...]:
        """What `observe` and `begin` are told of: targets that lay foundations, of the environments too."""
        environments = ((self.bed.environment,),) if _has_foundations(target) else ()
        return (self.services, *environments)

    def change(self, edit: Callable[[State], State]) -> None:
        store = self.target.store()
        with locked(store, "contract", wait=WAIT, emit=silent) as token:
            state = store.read() or State(stack_id=uuid.uuid4().hex, stack="default", target=self.target.name)
            store.write(edit(state), token)

    @contextlib.contextmanager
    def held(self) -> Iterator[Target]:
        """A new target that holds the stack's lock: whoever writes does."""
        target = self.target
        with locked(target.store(), "contract", wait=WAIT, emit=silent):
            yield target

    # the steps, in the engine's order

    def begin(self) -> None:
        self.change(lambda state: state.next())
        claimed = self.target.begin(self.state, *self._asked(self.target))
        self.change(lambda state: state.next(ports=claimed.ports, facts=claimed.facts))

    def lay(self) -> None:
        """The target's own foundations, where it has such a thing."""
        asked: Any = self.target
        for foundation in asked.foundations(*self._asked(asked)) if _has_foundations(asked) else ():
            with self.held() as target:
                target.lay(foundation.name, silent)  # type: ignore[attr-defined]
            record = Record(digest=foundation.digest)
            self.change(lambda s, n=foundation.name, r=record: s.with_resource(f"foundation/{n}", r))  # type: ignore[misc]

    def install(self) -> None:
        with self.held() as target:
            target.install(self.bed.environment, silent)

    def secrets(self) -> None:
        with self.held() as target:
            target.ensure_secrets([SECRET])

    def stores(self) -> None:
        with self.held() as target:
            target.ensure_stores([AREA])

    def start(self) -> None:
        for service in self.services:
            with self.held() as target:
                ports = target.start(service, self.bed.environment, silent)
            digest = service_digest(service, self.bed.environment)
            record = Record(digest=digest, ports=ports, role=service.role)
            self.change(lambda s, n=service.name, r=record: s.with_resource(f"service/{n}", r))  # type: ignore[misc]

    def provision(self, *services: Service) -> State:
        """All steps; `services` take the place of those before."""
        self.services = services or self.services
        for step in STEPS:
            step(self)
        return self.state

    def destroy(self) -> Sequence[str]:
        """What the target says is left."""
        target = self.target
        with locked(target.store(), "destroy", wait=WAIT, emit=silent) as token:
            target.destroy(silent)
            target.store().delete(token)
        return target.leftovers()

    def stop(self) -> None:
        with self.held() as target:
            target.stop(silent)

    def tell(self, name: str = "web") -> dict[str, Any]:
        return self.bed.tell(self.state, name)

    def pid(self, name: str = "web") -> Any:
        """None where no process runs."""
        return self.tell(name)["pid"] if self.bed.answers else None


STEPS = (Project.begin, Project.lay, Project.install, Project.secrets, Project.stores, Project.start)
MADE = {
    "begin": (),
    "lay": (),
    "install": ("environment/{environment}",),
    "secrets": (f"secret/{SECRET}",),
    "stores": (f"store/{AREA}",),
    "start": ("service/web",),
}


def services_of(project: Project, state: State) -> list[ServiceStatus]:
    """Their status, without that of what the target itself runs for them."""
    return [fact for fact in project.target.status(state) if not fact.foundation]


def _has_foundations(target: object) -> bool:
    return hasattr(target, "foundations")


def _plain(seen: dict[str, Seen]) -> dict[str, tuple[str, str]]:
    return {key: (one.condition, one.digest) for key, one in seen.items()}


class TargetContract:
    """Subclass it and give it `bed`."""

    @pytest.fixture
    def bed(self) -> Any:
        raise NotImplementedError("a subclass says on what target")

    @pytest.fixture
    def project(self, bed: Bed) -> Project:
        return Project(bed, bed.service())

    def test_nothing_is_nothing(self, bed: Bed, project: Project) -> None:
        assert project.seen() == {}
        assert list(project.target.belongings()) == []
        assert list(project.target.leftovers()) == []
        project.stop()
        assert list(project.destroy()) == []
        assert list(bed.left()) == []

    def test_each_step_is_seen_and_changes_nothing_when_repeated(self, project: Project) -> None:
        for step in STEPS:
            step(project)
            seen = project.seen()
            expected = [key.format(environment=project.bed.environment.name) for key in MADE[step.__name__]]
            assert {key: key in seen for key in expected} == dict.fromkeys(expected, True), step.__name__
            ports, pid = project.state.ports, project.pid() if step is Project.start else None
            step(project)
            assert _plain(project.seen()) == _plain(seen), step.__name__
            assert project.state.ports == ports, step.__name__
            assert pid == (project.pid() if step is Project.start else None), step.__name__

    def test_what_was_made_is_shown_with_its_digest(self, project: Project) -> None:
        project.provision()
        seen, environment = project.seen(), project.bed.environment
        assert seen[f"environment/{environment.name}"].digest == environment.digest
        assert seen["service/web"].condition == "running"
        assert seen["service/web"].digest == service_digest(project.services[0], environment)
        assert list(project.target.belongings()) != []

    def test_an_environment_that_is_there_needs_no_notes(self, project: Project) -> None:
        project.provision()
        target = project.target
        snapshot = target.observe(project.state, *project._asked(target))
        assert list(target.preflight([project.bed.environment], snapshot)) == list(
            target.preflight([], snapshot)
        )

    def test_ports_are_claimed_apart_and_kept(self, bed: Bed) -> None:
        project = Project(bed, bed.service("one"), bed.service("two"))
        project.begin()
        ports = project.state.ports
        assert set(ports) >= {"one/http", "two/http"}
        project.provision()
        assert project.state.ports == ports
        assert project.access.url("role-of-one") != project.access.url("role-of-two")

    def test_secrets_are_made_once_and_kept(self, project: Project) -> None:
        project.provision()
        first = project.access.secret(SECRET)
        with project.held() as target:
            target.ensure_secrets([SECRET, "another"])
        assert project.access.secret(SECRET) == first
        assert project.access.secret("another") not in ("", first)
        for value in ("by a setup", "anew"):
            with project.held() as target:
                target.access(project.state).keep_secret("kept", value)
            assert project.access.secret("kept") == value

    def test_the_service_has_its_secret_and_no_description_holds_it(self, project: Project) -> None:
        project.provision()
        value = project.access.secret(SECRET)
        if project.bed.answers:
            assert project.tell()["env"]["TOKEN"] == value
        assert value.encode() not in msgspec.json.encode(project.state)
        assert value not in "\n".join(project.target.logs("web", lines=100, follow=False))

    def test_what_is_not_there_has_no_address(self, project: Project) -> None:
        project.begin()
        project.lay()
        with pytest.raises(NotProvisioned):
            project.access.url("no-such-role")
        with pytest.raises(NotProvisioned):
            project.access.secret("no-such-secret")

    def test_folders_for_clients_are_the_users_alone(self, project: Project) -> None:
        project.provision()
        folder = project.access.folder("client")
        (folder / "config").write_text("kept")
        assert project.access.folder("client") == folder
        assert stat.S_IMODE(folder.stat().st_mode) & 0o077 == 0
        assert (folder / "config").read_text() == "kept"

    def test_status_tells_of_every_service(self, bed: Bed) -> None:
        project = Project(bed, bed.service("one"), bed.service("two"))
        state, url = project.provision(), project.access.url("role-of-one")
        facts = {fact.name: fact for fact in services_of(project, state)}
        assert {name: fact.condition for name, fact in facts.items()} == {"one": "running", "two": "running"}
        assert facts["one"].address == url
        assert all(isinstance(line, str) for line in project.target.logs("one", lines=5, follow=False))

    def test_a_changed_description_replaces_that_service_and_keeps_its_data(self, bed: Bed) -> None:
        project = Project(bed, bed.service("one"), bed.service("two"))
        before = project.provision()
        pids = {name: project.pid(name) for name in ("one", "two")}
        changed = bed.service("one")
        changed = msgspec.structs.replace(changed, env={**changed.env, "NEW": "1"})
        digest = service_digest(changed, bed.environment)
        assert project.seen()["service/one"].digest != digest
        after = project.provision(changed, bed.service("two"))
        assert after.ports == before.ports
        assert project.seen()["service/one"].digest == digest
        if bed.answers:
            told = project.tell("one")
            assert (told["env"]["NEW"], told["starts"]) == ("1", 2)
            assert told["pid"] != pids["one"]
            assert project.pid("two") == pids["two"]

    def test_live_files_change_under_the_running_process(self, bed: Bed) -> None:
        project = Project(bed, bed.service(live={"models.json": "[1]"}))
        project.provision()
        pid = project.pid()
        changed = bed.service(live={"models.json": "[2]"})
        for _ in range(2):
            with project.held() as target:
                target.refresh(changed)
        project.services = (changed,)
        assert project.seen()["service/web"].digest == service_digest(changed, bed.environment)
        if bed.answers:
            until(lambda: project.tell()["live"] == {"models.json": "[2]"}, LIVE_SECONDS)
            assert project.pid() == pid

    def test_stop_keeps_all_and_start_brings_it_back(self, project: Project) -> None:
        before = project.provision()
        secret, url = project.access.secret(SECRET), project.access.url("role-of-web")
        for _ in range(2):
            project.stop()
            assert [fact.condition for fact in services_of(project, before)] == ["stopped"]
            assert project.seen()["service/web"].condition == "stopped"
        assert {f"secret/{SECRET}", f"store/{AREA}"} <= set(project.seen())
        after = project.provision()
        assert after.ports == before.ports
        assert (project.access.secret(SECRET), project.access.url("role-of-web")) == (secret, url)
        assert project.seen()["service/web"].condition == "running"
        if project.bed.answers:
            assert project.tell()["starts"] == 2

    def test_a_removed_service_is_gone_and_the_others_stay(self, bed: Bed) -> None:
        project = Project(bed, bed.service("one"), bed.service("two"))
        project.provision()
        pid = project.pid("two")
        project.services = (bed.service("two"),)
        project.begin()
        for name in ("one", "one", "never-there"):
            with project.held() as target:
                target.remove_service(name, silent)
        project.change(lambda state: state.without_resource("service/one"))
        assert "service/one" not in project.seen()
        assert project.seen()["service/two"].condition == "running"
        assert [fact.name for fact in services_of(project, project.state)] == ["two"]
        assert project.pid("two") == pid

    def test_a_service_that_cannot_start_says_why(self, bed: Bed) -> None:
        if not bed.answers:
            pytest.skip("nothing is started here")
        failing = bed.service()
        failing = msgspec.structs.replace(failing, env={**failing.env, "FAIL": "no money"})
        project = Project(bed, failing)
        with pytest.raises(ComponentFailed) as failed:
            project.provision()
        assert "no money" in failed.value.details
        assert project.access.secret(SECRET) not in failed.value.details
        assert "service/web" in project.provision(bed.service()).resources

    @pytest.mark.parametrize("done", range(len(STEPS) + 1))
    def test_destroy_leaves_nothing_of_a_half_made_stack(self, bed: Bed, project: Project, done: int) -> None:
        for step in STEPS[:done]:
            step(project)
        for _ in range(2):
            assert list(project.destroy()) == []
            assert list(bed.left()) == []
        assert project.seen() == {}
        assert list(project.target.belongings()) == []
        assert project.target.store().read() is None

    def test_a_destroyed_stack_can_be_made_again(self, bed: Bed, project: Project) -> None:
        first = project.provision()
        secret = project.access.secret(SECRET)
        project.destroy()
        second = project.provision()
        assert second.stack_id != first.stack_id
        if bed.answers:
            assert project.access.secret(SECRET) != secret
            assert project.tell()["starts"] == 1

    @pytest.mark.parametrize("transition", TRANSITIONS, ids=lambda case: case["name"])
    def test_the_record_and_its_lock(self, bed: Bed, transition: dict[str, Any]) -> None:
        runs = Runs(bed.target)
        for step in transition["steps"]:
            [(what, outcome)] = step.items()
            assert runs.do(what) == outcome, what

    @pytest.mark.parametrize("raw", [b"", b"{", b"[]", b'{"schema_version": 1}'])
    def test_a_corrupt_record_is_said_and_left_alone(self, project: Project, raw: bytes) -> None:
        project.provision()
        project.bed.spoil(raw)
        with pytest.raises(StateUnreadable):
            project.target.store().read()
        with pytest.raises(StateUnreadable):
            project.target.store().read()
        with project.held() as target:
            target.destroy(silent)
        assert list(project.target.leftovers()) == []

    def test_a_newer_record_is_not_misread(self, project: Project) -> None:
        state = project.provision()
        project.bed.spoil(msgspec.json.encode({**msgspec.to_builtins(state), "schema_version": 99}))
        with pytest.raises(StateUnreadable, match="newer"):
            project.target.store().read()
