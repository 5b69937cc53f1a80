"""From one list of deployments to the next, so that the record never names a model that did not load.

A new deployment is tried first: what it needs is made, and the servers are asked to serve it beside all
others. Only once it answers is it recorded and written to the live files that servers read when they start.
Whatever ends a try, `provision` (or the try itself, where it can) serves what is recorded again.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator, Mapping

import msgspec

from matcha import engine, planning
from matcha.api import _served
from matcha.api._project import Project
from matcha.component import Deployment
from matcha.errors import ComponentFailed, MatchaError, NotServed
from matcha.events import Emit, Event
from matcha.planning import Plan, Wanted
from matcha.state import State

TELL_EVERY = 10.0


def switch(opened: Project, journal: engine.Journal, deployment: Deployment, emit: Emit) -> Mapping[str, str]:
    """Serve `deployment` under its name from now on; what `converge` returns, of others.

    Raises NotServed where it does not load, and what making its environment and process raises; what was
    served before is served again then.
    """
    previous = journal.state.deployments.get(deployment.name)
    try:
        wanted = _prepare(opened, journal, deployment, emit)
    except Exception:
        _tidy(opened, journal, emit)
        raise
    try:
        with telling(deployment, emit):
            _try(opened, journal, deployment, wanted)
        journal.change(lambda s: s.with_deployment(deployment))
        unserved = converge(opened, journal, emit)
        _demand(deployment, unserved)
    except Exception as error:
        _put_back(opened, journal, deployment.name, previous, error, emit)
        raise
    return unserved


def converge(opened: Project, journal: engine.Journal, emit: Emit) -> Mapping[str, str]:
    """Apply what the deployments of the record need, and nothing else.

    Returns why, by name, of those that do not load.
    """
    wanted, plan = _planned(opened, journal, journal.state)
    unserved: Mapping[str, str] = {}
    try:
        _run(opened, journal, planning.only_for(plan, "deployments", wanted), wanted, emit)
    except NotServed as error:
        unserved = error.models
    return unserved


def _prepare(opened: Project, journal: engine.Journal, deployment: Deployment, emit: Emit) -> Wanted:
    """Make environment and process of the deployment. What runs keeps the list of the record, and what is
    new begins with it: a model that ends its process would keep it from starting. What is not needed any
    more stays, and stays reachable, until nobody is sent there.
    """
    before = opened.wanted(journal.state)
    now = {s.name: s for s in before.services}
    recorded = next(s.live for s in now.values() if s.role == "model-deployer")
    wanted, plan = _planned(opened, journal, journal.state.with_deployment(deployment), before)
    services = tuple(now.get(s.name) or msgspec.structs.replace(s, live=recorded) for s in wanted.services)
    steps = planning.before(plan, "deployments", wanted)
    _run(opened, journal, steps, msgspec.structs.replace(wanted, services=services), emit)
    return wanted


def _tidy(opened: Project, journal: engine.Journal, emit: Emit) -> None:
    """Remove the process of a deployment that came to nothing; where that fails, `provision` does."""
    with contextlib.suppress(MatchaError, OSError):
        wanted, plan = _planned(opened, journal, journal.state)
        _run(opened, journal, planning.removals(plan), wanted, emit)


@contextlib.contextmanager
def telling(deployment: Deployment, emit: Emit) -> Iterator[None]:
    """Say now and then that the model is still being loaded."""
    done, began = threading.Event(), time.monotonic()

    def tell() -> None:
        while not done.wait(TELL_EVERY):
            passed = time.monotonic() - began
            message = f"loading {deployment.uri} ({passed:.0f} s)"
            engine.tolerant(emit)(Event("deployment", "progress", message, passed))

    threading.Thread(target=tell, daemon=True).start()
    try:
        yield
    finally:
        done.set()


def _try(opened: Project, journal: engine.Journal, deployment: Deployment, wanted: Wanted) -> None:
    """A server that fails while it is asked to load what is new fails by that."""
    journal.change(engine.unserved)
    try:
        failed = engine.publish(opened.target, opened.components, wanted.deployments, journal.state)
    except ComponentFailed as error:
        raise NotServed({deployment.name: error.message}) from error
    _demand(deployment, failed)


def _demand(deployment: Deployment, failed: Mapping[str, str]) -> None:
    if deployment.name in failed:
        raise NotServed({deployment.name: failed[deployment.name]})


def _put_back(
    opened: Project,
    journal: engine.Journal,
    name: str,
    previous: Deployment | None,
    error: Exception,
    emit: Emit,
) -> None:
    """Serve again what was served before, and add to `error` what came of it."""
    emit(Event("deployment", "progress", "putting back what was served"))
    try:
        journal.change(lambda s: s.with_deployment(previous) if previous else s.without_deployment(name))
        said = _told(name, previous, converge(opened, journal, emit))
    except (MatchaError, OSError) as problem:
        said = f"What was served before could not be put back: {problem}"
    if isinstance(error, MatchaError):
        error.details = "\n".join(filter(None, [error.details, said]))


def _told(name: str, previous: Deployment | None, unserved: Mapping[str, str]) -> str:
    if previous is None:
        return ""
    if name in unserved:
        return f"{previous.uri}, served as {name} before, does not answer either: {unserved[name]}"
    return f"{previous.uri} goes on answering as {name}."


def _planned(
    opened: Project, journal: engine.Journal, state: State, kept: Wanted | None = None
) -> tuple[Wanted, Plan]:
    """What `state` asks for, beside the services of `kept`, and the steps to it."""
    wanted = opened.wanted(state, kept)
    claimed = opened.target.begin(journal.state, wanted.services, wanted.environments)
    journal.change(lambda s: s.next(ports=claimed.ports, facts=claimed.facts))
    snapshot = _served.observe(opened, journal.state, wanted)
    return wanted, planning.make(opened.stack.name, opened.target.name, wanted, snapshot, journal.state)


def _run(opened: Project, journal: engine.Journal, plan: Plan, wanted: Wanted, emit: Emit) -> None:
    engine.run(plan, engine.Work(opened.target, opened.components, wanted, journal, emit).do, emit)
