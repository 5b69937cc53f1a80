"""What is known of a stack beside its stack file: by its record, and by what is on its target.

The file says what should be. What a stack holds, and how it is stopped and removed, does not depend on it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from matcha import registry, spec
from matcha.api._project import Folder, Project, open_project
from matcha.component import Component, Holding
from matcha.errors import NotProvisioned, StackFileError, StateUnreadable
from matcha.events import Emit, Event
from matcha.stackfile import StackFile
from matcha.state import State


def open_recorded(project: Folder, target: str | None, emit: Emit) -> Project:
    """As `open_project`; but a stack file that is not understood is only said where a stack is there.

    For what needs no file: looking at a stack, stopping it, removing it, breaking its lock.
    """
    try:
        return open_project(project, target)
    except StackFileError as error:
        opened = _by_record(Path(project).resolve(), target)
        if opened is None:
            raise
        emit(Event("stack", "note", f"{error.message}. Going by what is recorded of the stack."))
        return opened


def _by_record(root: Path, asked: str | None) -> Project | None:
    """The stack that is there; None where there is none, or where the file would have to say which one."""
    written, options = _target_of(root)
    name = asked or written
    if name not in registry.target_names(third_party=True):
        return None
    cls = registry.target_class(name)
    try:
        found = cls(root, spec.target_options(root, name, options.get(name) or {}, cls.Options))
    except StackFileError:
        if not cls.in_project:
            return None
        found = cls(root, cls.Options())
    state = _state(found)
    if not _is_here(found, name, state):
        return None
    stack = spec.Stack(
        name=state.stack if state else "",
        target=name,
        target_is_written=True,
        components=_running(state),
        targets={},
        models={},
    )
    return Project(root, stack, found)


def _target_of(root: Path) -> tuple[str, dict[str, Any]]:
    """The target's name and all targets' options, as far as the file can be read."""
    try:
        data = StackFile(root / spec.FILE).data
    except StackFileError:
        data = None
    read: dict[str, Any] = data if isinstance(data, dict) else {}
    options = read.get("targets")
    return str(read.get("target", "local")), options if isinstance(options, dict) else {}


def _state(target: Any) -> State | None:
    try:
        found: State | None = target.store().read()
    except StateUnreadable:
        return None
    return found


def _is_here(target: Any, name: str, state: State | None) -> bool:
    if state is not None:
        return state.target == name
    return target.store().lock() is not None or bool(target.belongings())


def _running(state: State | None) -> dict[str, Component]:
    """Recorded components by role, less those that were taken out since: their services are gone."""
    if state is None:
        return {}
    known, _ = recorded(state)
    made = {c.role: [s.name for s in c.services(tuple(state.deployments.values()))] for c in known}
    there = {role for role, names in made.items() if not names or _any_recorded(names, state)}
    return {c.role: c for c in known if c.role in there}


def _any_recorded(services: Iterable[str], state: State) -> bool:
    return any(f"service/{name}" in state.resources for name in services)


def recorded(state: State) -> tuple[Sequence[Component], Sequence[str]]:
    """Every component that the stack ever had; those that are no longer installed by name."""
    catalogue = registry.component_catalogue()
    pairs = [name.partition("/")[::2] for name in state.components]
    if any(flavor not in catalogue.get(role, {}) for role, flavor in pairs):
        catalogue = registry.component_catalogue(third_party=True)
    classes = {flavor: catalogue.get(role, {}).get(flavor) for role, flavor in pairs}
    missing = [flavor for flavor, cls in classes.items() if cls is None]
    return [cls(cls.Options()) for cls in classes.values() if cls], missing


def names(components: Iterable[Component]) -> tuple[str, ...]:
    """What `State.components` holds of them."""
    return tuple(f"{c.role}/{c.flavor}" for c in components)


def _built_in() -> Sequence[Component]:
    flavors = registry.component_catalogue().values()
    return [cls(cls.Options()) for each in flavors for cls in each.values()]


def holdings(opened: Project, state: State | None) -> list[Holding]:
    """Of what the stack may hold the only copy, whichever components its file names now.

    Asked are the components of the file, those it ever had, and the built-in ones, which go by what they
    find: so a stack whose record is lost is known as well.
    """
    known, missing = recorded(state) if state else ((), ())
    asked = {(c.role, c.flavor): c for c in (*_built_in(), *known, *opened.components)}
    try:
        access = opened.target.access(state or opened.new_state())
    except NotProvisioned:
        return []
    found = [held for component in asked.values() for held in component.holdings(access) if held.count]
    return [*found, *(Holding(-1, f"what {flavor} kept") for flavor in missing)]
