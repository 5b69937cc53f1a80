"""From nothing to a running stack and back."""

from __future__ import annotations

import shlex
import time
from collections.abc import Callable
from typing import Any

import msgspec

from matcha import engine, planning, spec
from matcha.api import _given, _locks, _recorded, _served, _whereabouts
from matcha.api._project import Folder, Project, open_project
from matcha.api._template import default as default_file
from matcha.api.inspect import outputs_of
from matcha.api.types import Destroyed, Destruction, Provisioned
from matcha.component import Holding
from matcha.errors import (
    AddressTaken,
    BadInput,
    MatchaError,
    NotServed,
    StateUnreadable,
    WouldLoseData,
)
from matcha.events import Emit, Event, silent
from matcha.job import OVER, JobQueue
from matcha.planning import Plan
from matcha.state import State
from matcha.target import Blinkered, Contested, Forgetful, LockInfo, Manifests, Preparing

LOCK_WAIT = 600.0
_ELSEWHERE = "The stack that was last provisioned from this folder is not here, and stays where it is"
ATTEMPTS = 3  # of a provision that other programs take ports from


def init(project: Folder = ".", *, target: str | None = None) -> str:
    """Write a commented matcha.yaml; its path. Raises BadInput where there is one."""
    opened = open_project(project, target)
    path = spec.write_default(opened.root, default_file())
    if target:
        try:
            spec.choose_target(opened.root, target)
        except BaseException:
            path.unlink(missing_ok=True)  # half of what was asked for: the next try would find it in its way
            raise
    return str(path)


def plan(project: Folder = ".", *, target: str | None = None) -> Plan:
    """What `provision` would do. Reads only."""
    opened = open_project(project, target)
    return _plan(opened, opened.store.read())


def manifests(project: Folder = ".", *, target: str | None = None) -> list[dict[str, Any]]:
    """What the stack of matcha.yaml consists of on its target, as documents for the target's own tools.

    Asks nothing but the file: no cluster, no sign-in. Models that are deployed stand in the record, so
    they are not part of it. Raises BadInput for a target that has no such documents.
    """
    opened = open_project(project, target)
    if not isinstance(opened.target, Manifests):
        raise BadInput(
            f"The {opened.target.name} target has no manifests to show as YAML.",
            resolution="matcha plan --output json",
        )
    wanted = opened.wanted(None)
    return list(opened.target.manifests(wanted.services, wanted.environments))


def _plan(opened: Project, state: State | None) -> Plan:
    wanted = opened.wanted(state)
    snapshot = _served.observe(opened, state, wanted)
    made = planning.make(opened.stack.name, opened.target.name, wanted, snapshot, state)
    notes = list(opened.target.preflight(wanted.environments, snapshot)) if made.steps else []
    return msgspec.structs.replace(made, notes=(*snapshot.notes, *notes, *_given.pending(opened, state)))


def provision(
    project: Folder = ".",
    *,
    target: str | None = None,
    emit: Emit = silent,
    confirm: Callable[[Plan], bool] | None = None,
    force: bool = False,
    lock_wait: float = LOCK_WAIT,
) -> Provisioned:
    """Make the target match the stack: the first time, after a change, and as the repair of anything.

    Safe to kill at any moment and to run again. `confirm` is asked with the plan: of a stack that is not
    there yet before anything is made, and again where the plan is another once it has the lock. `force` takes
    over what another tool manages as well; only targets where that can be have it. Raises Locked when
    somebody else is at it for longer than `lock_wait` seconds, ComponentFailed with a service's last log
    lines, and, after all else is done, NotServed for deployed models that do not load.
    """
    opened = open_project(project, target)
    if force:
        _insist(opened)
    return _bring_up(opened, "provision", target=target, emit=emit, confirm=confirm, lock_wait=lock_wait)


def _bring_up(
    opened: Project,
    operation: str,
    *,
    target: str | None,
    emit: Emit,
    confirm: Callable[[Plan], bool] | None = None,
    lock_wait: float,
) -> Provisioned:
    """`operation` is what others are told that holds the lock."""
    began = time.monotonic()
    agreed: Plan | None = None
    if confirm and opened.store.read() is None:  # the lock makes the stack's place, which is a change already
        agreed = _plan(opened, None)
        if agreed.steps and not confirm(agreed):
            return Provisioned(plan=agreed, changed=False, cancelled=True)
    with engine.locked(opened.store, operation, wait=lock_wait, emit=emit) as token:
        known = opened.store.read()
        made = _plan(opened, known)
        asked = made.steps and (agreed is None or made.steps != agreed.steps)
        if asked and confirm and not confirm(made):
            return Provisioned(plan=made, changed=False, cancelled=True)
        _record_choice(opened, target, emit)
        if made.steps or _is_unfinished(known):
            _apply(opened, token, emit)
        elif known:
            _whereabouts.keep(opened, known)
    return Provisioned(
        plan=made,
        outputs=outputs_of(opened),
        changed=bool(made.steps) or known is None,
        serves=len(opened.state().deployments),
        seconds=time.monotonic() - began,
    )


def _insist(opened: Project) -> None:
    if not isinstance(opened.target, Contested):
        raise BadInput(
            f"On the {opened.target.name} target nothing needs --force.", resolution="matcha provision"
        )
    opened.target.insist()


def _is_unfinished(state: State | None) -> bool:
    """A run that was killed after its last step left nothing to do but saying so; so does a lost record."""
    return state is None or state.phase != "ready"


def _record_choice(opened: Project, target: str | None, emit: Emit) -> None:
    if not (opened.root / spec.FILE).exists():
        spec.write_default(opened.root, default_file())
        emit(Event("stack", "note", f"Wrote {spec.FILE} with the defaults."))
    if target and not opened.stack.target_is_written:
        spec.choose_target(opened.root, target)
        emit(Event("stack", "note", f"Recorded target: {target} in {spec.FILE}."))


def _apply(opened: Project, token: str, emit: Emit) -> None:
    state = opened.store.read() or opened.new_state()
    journal = engine.Journal(opened.store, state, token)
    had = tuple(dict.fromkeys((*state.components, *_recorded.names(opened.components))))
    journal.change(lambda s: s.next(phase="changing", stack=opened.stack.name, components=had))
    _whereabouts.keep(opened, journal.state)
    try:
        _run(opened, journal, emit)
    except NotServed as error:
        _finish(opened, journal)
        error.resolution = _ways_out(error)
        raise
    _finish(opened, journal)


def _ways_out(error: NotServed) -> str:
    name = next(iter(error.models))
    return f"matcha deploy MODEL --name {name}, or matcha undeploy {name}"


def _finish(opened: Project, journal: engine.Journal) -> None:
    opened.target.settle()  # first: whoever is killed here is not done, and the next run goes on
    _locks.drop_unused(opened.target, journal.state)
    journal.change(lambda s: s.next(phase="ready"))


def _run(opened: Project, journal: engine.Journal, emit: Emit) -> None:
    for attempt in range(1, ATTEMPTS + 1):
        try:
            _run_once(opened, journal, emit)
            break
        except AddressTaken as error:
            if attempt == ATTEMPTS:
                raise
            emit(Event("stack", "note", f"{error.message} Trying again with another port."))


def _run_once(opened: Project, journal: engine.Journal, emit: Emit) -> None:
    wanted = opened.wanted(journal.state)
    claimed = opened.target.begin(journal.state, wanted.services, wanted.environments)
    journal.change(lambda s: s.next(ports=claimed.ports, facts=claimed.facts))
    made = _plan(opened, journal.state)  # ports may have moved, and with them who refers to them
    work = engine.Work(opened.target, opened.components, wanted, journal, emit)
    engine.run(made, work.do, emit)


def stop(
    project: Folder = ".", *, target: str | None = None, emit: Emit = silent, lock_wait: float = LOCK_WAIT
) -> None:
    """Stop every process; all data stays. Raises NotProvisioned where there is no stack, MatchaError where
    jobs would be ended with it.
    """
    opened = _recorded.open_recorded(project, target, emit)
    opened.state()
    _refuse_jobs(opened)
    with engine.locked(opened.store, "stop", wait=lock_wait, emit=emit) as token:
        opened.target.stop(emit)
        engine.Journal(opened.store, opened.state(), token).change(lambda s: s.next(phase="stopped"))


def _refuse_jobs(opened: Project) -> None:
    if not isinstance(opened.target, JobQueue):
        return
    going = [job.name for job in opened.target.jobs() if job.condition not in OVER]
    if going:
        what = f"{len(going)} jobs are" if len(going) > 1 else "A job is"
        raise MatchaError(
            f"{what} not over yet, and would be ended: {', '.join(going)}",
            details="matcha jobs list shows them.",
            resolution=f"Wait for it, or end it: matcha jobs cancel {going[0]}",
        )


def start(
    project: Folder = ".", *, target: str | None = None, emit: Emit = silent, lock_wait: float = LOCK_WAIT
) -> Provisioned:
    """Bring a stopped (or rebooted) stack back with its data. Raises NotProvisioned where there is none."""
    opened = open_project(project, target)
    opened.state()
    return _bring_up(opened, "start", target=target, emit=emit, lock_wait=lock_wait)


def destroy(
    project: Folder = ".",
    *,
    target: str | None = None,
    delete_data: bool = False,
    confirm: Callable[[Destruction], bool] | None = None,
    emit: Emit = silent,
    lock_wait: float = LOCK_WAIT,
) -> Destroyed:
    """Remove all of the stack and prove it. Works on a half-made one, and on nothing.

    A stack file that is not understood is only said, as for `stop`, `status` and `force_unlock`.

    `confirm` is asked with what would go; where it is None and data would be lost, `delete_data` has to be
    set, otherwise WouldLoseData is raised. Raises MatchaError naming what is left when something is.
    """
    opened = _recorded.open_recorded(project, target, emit)
    state = _readable(opened, delete_data, emit)
    keeps = opened.target.keeps_data and not delete_data
    belongings = tuple(opened.target.belongings(delete_data=not keeps))
    if state is None and not belongings and isinstance(opened.target, Preparing):
        belongings = tuple(opened.target.begun())
    if state is None and not belongings:
        _prove(opened, not keeps, emit)  # an earlier one may have been cut off before it did
        _whereabouts.drop(opened, None)
        if place := _whereabouts.elsewhere(opened):
            emit(Event("stack", "note", f"{_ELSEWHERE} ({place})."))
        gone = tuple(opened.target.forget()) if isinstance(opened.target, Forgetful) else ()
        return Destroyed(removed=gone, nothing=not gone, kept=tuple(opened.target.kept()) if keeps else ())
    held = () if keeps else _recorded.holdings(opened, state)
    going = Destruction(belongings=belongings, holdings=tuple(_counted(holding) for holding in held))
    if going.holdings and not delete_data and confirm is None:
        raise _would_lose(going)
    if confirm and not confirm(going):
        return Destroyed(cancelled=True)
    with engine.locked(opened.store, "destroy", wait=lock_wait, emit=emit) as token:
        opened.target.destroy(emit, delete_data=not keeps)
        opened.store.delete(token)
    _prove(opened, not keeps, emit)
    _whereabouts.drop(opened, state)
    if keeps and state and state.deployments:
        emit(Event("stack", "note", _undeployed(state)))
    unproved = tuple(opened.target.unproved()) if isinstance(opened.target, Blinkered) else ()
    for said in unproved:
        emit(Event("stack", "note", said))
    kept = tuple(opened.target.kept()) if keeps else ()
    return Destroyed(removed=belongings, kept=kept, unproved=unproved)


def _prove(opened: Project, delete_data: bool, emit: Emit) -> None:
    """Raises MatchaError naming what is left, and what holds it."""
    emit(Event("stack", "progress", "looking for what is left"))
    if left := opened.target.leftovers(delete_data=delete_data):
        raise MatchaError(
            "Not everything could be removed.", details="\n".join(left), resolution="matcha destroy"
        )


def _undeployed(state: State) -> str:
    """What is kept is data, and a deployment is none."""
    again = [f"matcha deploy {shlex.quote(d.uri)} --name {d.name}" for d in state.deployments.values()]
    return f"No model is deployed any more. To serve them again, after matcha provision: {'; '.join(again)}"


def _readable(opened: Project, delete_data: bool, emit: Emit) -> State | None:
    """The record; None for one that cannot be read where all data is to go anyway."""
    try:
        return opened.store.read()
    except StateUnreadable as error:
        if not delete_data:
            error.details += "\nWithout it, all of the stack goes by: matcha destroy --yes --delete-data"
            raise
        emit(Event("stack", "note", f"{error.message} Going by what is there."))
        return None


def _would_lose(going: Destruction) -> WouldLoseData:
    return WouldLoseData(
        f"The stack holds the only copy of {', '.join(going.holdings)}.",
        details="Destroying it deletes them for good.",
        resolution="matcha destroy --yes --delete-data",
    )


def _counted(held: Holding) -> str:
    """Holdings are named in the plural."""
    if held.count < 0:
        return f"{held.what} (could not be counted)"
    return f"{held.count} {held.what if held.count > 1 else held.what.removesuffix('s')}"


def force_unlock(project: Folder = ".", *, target: str | None = None, emit: Emit = silent) -> LockInfo | None:
    """Break the lock; what it was, or None where there was none."""
    return _recorded.open_recorded(project, target, emit).store.break_lock()
