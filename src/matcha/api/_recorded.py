"""What is known of a stack beside its stack file: by its record, and by what is on its target.

The file says what should be. What a stack holds, and how it is stopped and removed, does not depend on it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import msgspec

from matcha import registry, spec
from matcha.api import _whereabouts
from matcha.api._project import Folder, Project, open_project
from matcha.api._whereabouts import Whereabouts
from matcha.component import Component, Holding
from matcha.errors import MatchaError, NotProvisioned, StackFileError, StateUnreadable
from matcha.events import Emit, Event
from matcha.stackfile import StackFile
from matcha.state import State
from matcha.target import Elsewhere


def open_recorded(project: Folder, target: str | None, emit: Emit) -> Project:
    """As `open_project`; but a stack file that is not understood is only said where a stack is there.

    For what needs no file: looking at a stack, stopping it, removing it, breaking its lock. Where its target
    cannot be asked, the StackFileError says that, too.
    """
    try:
        return open_project(project, target)
    except StackFileError as error:
        try:
            found = _by_record(Path(project).resolve(), target)
        except MatchaError as problem:
            why = f"What is recorded of the stack could not be asked for: {problem.message}"
            error.details = "\n".join(filter(None, [error.details, why, problem.details]))
            raise error from problem
        if found is None:
            raise
        opened, place = found
        emit(Event("stack", "note", f"{error.message}. Going by what is recorded of the stack{place}."))
        return opened


def _by_record(root: Path, asked: str | None) -> tuple[Project, str] | None:
    """The stack that is there, and where, unless that goes without saying. None where there is none, or where
    the file would have to say which one.
    """
    file, note = _File(root), _whereabouts.read(root)
    name = asked or file.target or _one_there(root, note)
    if name not in registry.target_names(third_party=True):
        return None
    found = _from_file(root, name, file.section(name))
    place = ""
    if found is None:
        if note is None or (found := _from_note(root, name, file.section(name), note)) is None:
            return None
        place = f" ({note.told(found.leads)})"
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
    return Project(root, stack, found, by_record=True), place


def _one_there(root: Path, note: Whereabouts | None) -> str:
    """The target where nobody says it. Empty where a note leads elsewhere and a stack is in the folder."""
    if note is None:
        return "local"
    local = _from_file(root, "local", None)
    return "" if _is_here(local, "local", _state(local)) else note.target


def _from_file(root: Path, name: str, section: dict[str, Any] | None) -> Any:
    """The target with the options of the file. None where they are not understood, and matter."""
    cls = registry.target_class(name)
    try:
        if section is not None:
            return cls(root, spec.target_options(root, name, section, cls.Options))
    except StackFileError:
        pass
    found = cls(root, cls.Options())
    return None if isinstance(found, Elsewhere) else found


def _from_note(root: Path, name: str, section: dict[str, Any] | None, note: Whereabouts) -> Any:
    """The target as it was when the stack was provisioned from this folder.

    None where the file says that another one is meant, or there is another stack now.
    """
    cls = registry.target_class(name)
    if note.target != name or (section is not None and not note.agrees(section, cls.leads)):
        return None
    try:
        found = cls(root, msgspec.convert(note.whole(), cls.Options))
    except msgspec.ValidationError:  # of another version of Matcha
        return None
    state = _state(found)
    return found if state and state.stack_id == note.stack_id else None


class _File:
    """As much of a stack file as can be read. `target`: empty where it may be said where nobody looks."""

    def __init__(self, root: Path) -> None:
        try:
            data = StackFile(root / spec.FILE).data or {}
        except StackFileError:
            data = None
        self._data: dict[str, Any] = data if isinstance(data, dict) else {"": None}
        self._is_plain = {*self._data} <= {*spec.KEYS}
        self.target = str(self._data.get("target", "local" if self._is_plain else ""))

    def section(self, name: str) -> dict[str, Any] | None:
        """Options of the target; None where they may stand where nobody looks."""
        targets = self._data.get("targets") or {}
        if not isinstance(targets, dict):
            return None
        is_plain = self._is_plain and {*targets} <= {*registry.target_names(third_party=True)}
        section = (targets.get(name) or {}) if name in targets or is_plain else None
        return section if isinstance(section, dict) else None


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
