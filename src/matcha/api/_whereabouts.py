"""Where a project's stack is, noted in its folder: for when the stack file cannot say so any more.

Only for stacks that options of the file lead to; others are in the folder themselves.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from matcha.api._project import Project
from matcha.errors import MatchaError
from matcha.host.files import hide_from_git, remove_hidden, write_changed
from matcha.state import State
from matcha.target import Elsewhere

FOLDER = ".matcha"
NOTE = "whereabouts.json"


class Whereabouts(msgspec.Struct, frozen=True, kw_only=True):
    """`options` as the file had them, `pinned` what they left to the user's surroundings."""

    target: str
    stack_id: str
    options: dict[str, Any]
    pinned: dict[str, Any]

    def whole(self) -> dict[str, Any]:
        return {**self.options, **self.pinned}

    def agrees(self, section: Mapping[str, Any], leads: tuple[str, ...]) -> bool:
        """Whether options that stand in the file now lead to the same stack."""
        return all(section.get(key) == self.options.get(key) for key in leads)

    def told(self, leads: tuple[str, ...]) -> str:
        return ", ".join(f"{key} {value}" for key, value in self.whole().items() if key in leads)


def keep(opened: Project, state: State) -> None:
    """A folder that cannot be written to goes without. A stack in the folder itself needs no note, and leaves
    that of another alone.
    """
    if not isinstance(opened.target, Elsewhere):
        return
    note = Whereabouts(
        target=opened.target.name,
        stack_id=state.stack_id,
        options=opened.stack.targets.get(opened.target.name, {}),
        pinned=opened.target.pinned(),
    )
    with contextlib.suppress(MatchaError):
        hide_from_git(opened.root / FOLDER)
        write_changed(opened.root / FOLDER / NOTE, msgspec.json.encode(note))


def read(root: Path) -> Whereabouts | None:
    """None also for a note that is damaged."""
    try:
        return msgspec.json.decode((root / FOLDER / NOTE).read_bytes(), type=Whereabouts)
    except (OSError, msgspec.MsgspecError, UnicodeDecodeError):
        return None


def drop(opened: Project, state: State | None) -> None:
    """Once nothing is left of the stack of `state`; where no record told which one that was, of any there.

    A note that leads to another one stays.
    """
    note = read(opened.root)
    if note and (note.stack_id == state.stack_id if state else _is_there(opened, note)):
        _remove(opened.root / FOLDER / NOTE)


def elsewhere(opened: Project) -> str:
    """Where the note leads, if that is not where `opened` is; empty otherwise."""
    note = read(opened.root)
    if note is None or _is_there(opened, note):
        return ""
    return f"target {note.target}, {note.told((*note.pinned,))}"


def _is_there(opened: Project, note: Whereabouts) -> bool:
    target = opened.target
    return isinstance(target, Elsewhere) and target.name == note.target and target.pinned() == note.pinned


def _remove(note: Path) -> None:
    """With the folder, where nothing else is in it."""
    with contextlib.suppress(OSError):
        note.unlink()
        remove_hidden(note.parent)
