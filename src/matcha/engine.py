"""The only loop that changes things: runs a plan's steps, independent ones side by side, recording each.

Crash-only: the journal writes the state after every step, so whatever kills a run, the next one sees what
was done. Worker threads are daemons; Ctrl-C leaves them behind and the process ends at once.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress

import msgspec

from matcha.component import Component, Deployment, ModelServer
from matcha.errors import Locked, MatchaError, NotServed
from matcha.events import Emit, Event
from matcha.planning import UNFINISHED, Plan, Step, Wanted, undone
from matcha.state import Record, State
from matcha.target import StateStore, Target

RENEW_EVERY = 15.0
TIME = "%Y-%m-%dT%H:%M:%SZ"  # as the record writes moments, in UTC


class Journal:
    """The state of a run under its lock: every change is written before the next step relies on it."""

    def __init__(self, store: StateStore, state: State, token: str) -> None:
        self._store = store
        self._token = token
        self._mutex = threading.Lock()
        self.state = state

    def change(self, edit: Callable[[State], State]) -> State:
        """Raises Locked when somebody broke this run's lock meanwhile."""
        with self._mutex:
            changed = edit(self.state)
            self._store.write(changed, self._token)
            self.state = changed
            return changed


def tolerant(emit: Emit) -> Emit:
    """`emit`, but a display that cannot show (a closed pipe, a full disk) stops no work."""

    def say(event: Event) -> None:
        with suppress(OSError, ValueError):
            emit(event)

    return say


@contextmanager
def locked(store: StateStore, operation: str, *, wait: float, emit: Emit) -> Iterator[str]:
    """Holds the stack's lock, renewing it; yields its token."""
    token = store.acquire(operation, wait=wait, emit=tolerant(emit)).token
    done = threading.Event()
    renewer = threading.Thread(target=_renew, args=(store, token, done), daemon=True)
    renewer.start()
    try:
        yield token
    finally:
        done.set()
        store.release(token)


def _renew(store: StateStore, token: str, done: threading.Event) -> None:
    while not done.wait(RENEW_EVERY):
        try:
            store.renew(token)
        except Locked:
            return  # lost: the next fenced write says so where it matters
        except MatchaError:
            continue  # no room to write it, or no answer: it may come back before the lock expires


class Work:
    """What each kind of step does on a target."""

    def __init__(
        self, target: Target, components: Sequence[Component], wanted: Wanted, journal: Journal, emit: Emit
    ) -> None:
        self._target = target
        self._components = {c.role: c for c in components}
        self._wanted = wanted
        self._journal = journal
        self._emit = tolerant(emit)

    def do(self, step: Step) -> None:
        kind, _, name = step.key.partition("/")
        if step.action == "remove":
            self._remove(kind, name, step.key)
        else:
            self._undo(undone(step, self._wanted, self._journal.state))
            getattr(self, f"_{kind}")(name)

    def _remove(self, kind: str, name: str, key: str) -> None:
        if kind in ("service", "foundation"):
            self._target.remove_service(name, self._emit)
        self._journal.change(lambda s: s.without_resource(key))

    def _undo(self, keys: Sequence[str]) -> None:
        """Before the step that these have to follow: whatever ends the run before they did counts."""
        if keys:
            marks = dict.fromkeys(keys, Record(digest=UNFINISHED, at=now()))
            self._journal.change(lambda s: s.next(resources={**s.resources, **marks}))

    def _foundation(self, name: str) -> None:
        self._target.lay(name, self._emit)
        self._record(f"foundation/{name}", self._digest(f"foundation/{name}"))

    def _secrets(self, _: str) -> None:
        self._target.ensure_secrets(self._wanted.secrets)
        self._record("secrets", "")

    def _stores(self, _: str) -> None:
        self._target.ensure_stores(self._wanted.stores)
        self._record("stores", "")

    def _environment(self, name: str) -> None:
        environment = self._wanted.environment(name)
        self._target.install(environment, self._emit)
        self._record(f"environment/{name}", environment.digest)

    def _service(self, name: str) -> None:
        service = self._wanted.service(name)
        environment = self._wanted.environment(service.environment)
        ports = self._target.start(service, environment, self._emit)
        self._record(f"service/{name}", self._digest(f"service/{name}"), ports=ports, role=service.role)

    def _setup(self, role: str) -> None:
        component = self._components[role]
        component.setup(self._target.access(self._journal.state))
        self._record(f"setup/{role}", component.setup_digest())

    def _deployments(self, _: str) -> None:
        """Raises NotServed, after the rest was done, for models that do not load."""
        self._journal.change(unserved)
        for service in self._wanted.services:
            if service.live:
                self._target.refresh(service)
        failed = publish(
            self._target, self._components.values(), self._wanted.deployments, self._journal.state
        )
        self._record("deployments", self._digest("deployments"))
        if failed:
            raise NotServed(failed)

    def _digest(self, key: str) -> str:
        return next(r.digest for r in self._wanted.resources if r.key == key)

    def _record(self, key: str, digest: str, ports: Mapping[str, int] | None = None, role: str = "") -> None:
        record = Record(digest=digest, ports=dict(ports or {}), role=role, at=now())
        self._journal.change(lambda s: s.with_resource(key, record))


def publish(
    target: Target, components: Iterable[Component], deployments: Sequence[Deployment], state: State
) -> dict[str, str]:
    """Have the model server serve exactly `deployments`; why, by name, of those that do not load.

    Raises ComponentFailed where the server does not answer.
    """
    servers = [c for c in components if isinstance(c, ModelServer)]
    results = [r for server in servers for r in server.publish(target.access(state), deployments)]
    return {r.name: r.error for r in results if r.error}


def unserved(state: State) -> State:
    """`state` with a mark that what is served is being changed, so that whatever ends this run, the next
    one serves what is recorded.
    """
    return state.with_resource("deployments", Record(digest=UNFINISHED, at=now()))


def now() -> str:
    return time.strftime(TIME, time.gmtime())


class StepFailed(msgspec.Struct, frozen=True):
    step: Step
    error: Exception

    @property
    def stops(self) -> bool:
        return not isinstance(self.error, MatchaError) or self.error.stops


def run(plan: Plan, do: Callable[[Step], None], emit: Emit, *, workers: int = 6) -> None:
    """Run every step once those it needs are done.

    After a failure nothing new starts, what is under way is awaited, and the first error is raised with the
    others' messages in its details. An error that does not stop the run is raised at its end. Removals come
    last.
    """
    emit = tolerant(emit)
    scheduler = _Scheduler(plan.steps)
    results: queue.Queue[tuple[Step, Exception | None]] = queue.Queue()
    failures: list[StepFailed] = []
    running = 0
    while True:
        while not any(f.stops for f in failures) and running < workers and (step := scheduler.next()):
            threading.Thread(target=_attempt, args=(step, do, emit, results), daemon=True).start()
            running += 1
        if not running:
            break
        step, error = results.get()
        running -= 1
        if error is not None:
            failures.append(StepFailed(step, error))
        if error is None or not failures[-1].stops:
            scheduler.finished(step)
    for step in scheduler.waiting():
        emit(Event(step.key, "skipped", "not started, an earlier step failed"))
    if failures:
        _raise(failures)


class _Scheduler:
    def __init__(self, steps: Sequence[Step]) -> None:
        self._waiting = {s.key: s for s in steps}
        self._open = set(self._waiting)
        self._removals = {s.key for s in steps if s.action == "remove"}

    def next(self) -> Step | None:
        for step in self._waiting.values():
            if self._ready(step):
                return self._waiting.pop(step.key)
        return None

    def _ready(self, step: Step) -> bool:
        if step.action == "remove":
            return self._open <= self._removals
        return not any(need in self._open for need in step.needs)

    def finished(self, step: Step) -> None:
        self._open.discard(step.key)

    def waiting(self) -> Sequence[Step]:
        return tuple(self._waiting.values())


def _attempt(
    step: Step, do: Callable[[Step], None], emit: Emit, results: queue.Queue[tuple[Step, Exception | None]]
) -> None:
    began = time.monotonic()
    try:
        emit(Event(step.key, "started", step.reason))
        do(step)
    except Exception as error:  # noqa: BLE001 - handed to the main thread, which raises it
        emit(Event(step.key, "failed", str(error), time.monotonic() - began))
        results.put((step, error))
    else:
        emit(Event(step.key, "done", "", time.monotonic() - began))
        results.put((step, None))


def _raise(failures: Sequence[StepFailed]) -> None:
    """The first, of those that stopped the run where one did."""
    failures = sorted(failures, key=lambda f: not f.stops)
    first = failures[0].error
    others = [f"{f.step.key}: {f.error}" for f in failures[1:]]
    if isinstance(first, MatchaError):
        first.details = "\n".join([*filter(None, [first.details]), *others])
    raise first
