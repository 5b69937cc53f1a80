"""Which stack a project has, and where the parts of it that lie outside the project are."""

from __future__ import annotations

import contextlib
import os
import shlex
from pathlib import Path

import msgspec

from matcha.environments import cache_root
from matcha.errors import BadInput, MatchaError, StateUnreadable
from matcha.host.files import private_folder, remove_tree, write_changed
from matcha.host.ports import PortBook
from matcha.host.runtime import first_usable, user_data
from matcha.host.runtime import unusable as unusable  # noqa: PLC0414 - others import it from here
from matcha.host.supervisor import Supervisor
from matcha.state import State, is_stack_id
from matcha.targets.local.filestore import FileStore
from matcha.targets.local.layout import Layout, UserLayout
from matcha.targets.local.notes import Notes
from matcha.targets.local.secrets import SecretFile

DATA = "data-folder"  # the fact of a State that says with which data folder the stack was made


class Index(msgspec.Struct, frozen=True):
    """What the user's data folder knows of a stack."""

    project: str
    runtime: str


class Stack:
    """The parts of one local stack. Making one reads and writes nothing but the index."""

    def __init__(self, layout: Layout, user: UserLayout, stack_id: str) -> None:
        self.id = stack_id
        self.layout = layout
        self.user = user
        self.index = read_index(user, stack_id)
        self.runtime = Path(self.index.runtime) if self.index else _candidates(user, stack_id)[0]
        self.notes = Notes(layout)
        self.secrets = SecretFile(user.secrets(stack_id))
        self.claimant = str(user.stack(stack_id))
        self.ports = PortBook(user.ports, lambda other: Path(other).is_dir())
        self.supervisor = Supervisor(layout.supervisor, self.runtime, stack_id)

    @property
    def moved_from(self) -> Path | None:
        """Where the project was when the stack was last provisioned, if that is not here."""
        if self.index is None or _is_here(self.index.project, self.layout.project):
            return None
        return Path(self.index.project)


def refuse_link(layout: Layout) -> None:
    """Raises BadInput: `destroy` would remove the link and leave what it points to."""
    if layout.stack.is_symlink():
        raise BadInput(
            f"{layout.stack} is a link; Matcha keeps a stack's files in the project itself.",
            details="To keep them on another disk, put the project, or its whole .matcha folder, there.",
            resolution=f"rm {layout.stack}",
        )


def user_layout() -> UserLayout:
    return UserLayout(user_data(), cache_root())


def read_index(user: UserLayout, stack_id: str) -> Index | None:
    with contextlib.suppress(OSError, msgspec.DecodeError, UnicodeDecodeError):
        return msgspec.json.decode(user.index(stack_id).read_bytes(), type=Index)
    return None


def indexed(user: UserLayout) -> dict[str, Index]:
    """Every stack of the user by id, also those whose project is gone."""
    folders = user.stacks.iterdir() if user.stacks.is_dir() else ()
    found = {f.name: read_index(user, f.name) for f in folders if is_stack_id(f.name)}
    return {name: index for name, index in found.items() if index}


def stacks_of(layout: Layout, user: UserLayout) -> list[str]:
    """Ids of the stacks that were made for this project, also where its record is gone."""
    return [i for i, index in sorted(indexed(user).items()) if _is_here(index.project, layout.project)]


def find_stack(layout: Layout, user: UserLayout, store: FileStore) -> Stack | None:
    """The stack of the project: as recorded, else as indexed.

    Raises MatchaError in a copy of a project, and where the user's data folder is not the stack's.
    """
    state = _readable(store)
    if state:
        _refuse_other_home(state, user)
    stack_id = state.stack_id if state else next(iter(stacks_of(layout, user)), None)
    if stack_id is None:
        return None
    stack = Stack(layout, user, stack_id)
    refuse_copy(stack)
    return stack


def _refuse_other_home(state: State, user: UserLayout) -> None:
    """Without the stack's passwords it cannot run, and what is outside the project would stay behind.

    The folder of the record is only named, never used: it may have been written by anybody.
    """
    was = Path(state.facts.get(DATA, user.data))
    if was == user.data or user.stack(state.stack_id).exists():
        return
    if UserLayout(was, user.cache).stack(state.stack_id).is_dir():
        raise MatchaError(
            "This stack was made with another data folder.",
            details=f"Its passwords are in {was}; here and now the data folder is {user.data}.",
            resolution=f"export XDG_DATA_HOME={shlex.quote(str(was.parent))}",
        )


def _readable(store: FileStore) -> State | None:
    """None also for a record that cannot be read: the index knows the stack as well."""
    try:
        return store.read()
    except StateUnreadable:
        return None


def _recorded(store: FileStore) -> str | None:
    state = _readable(store)
    return state.stack_id if state else None


def refuse_copy(stack: Stack) -> None:
    """Two folders with one stack would stop and remove each other's processes."""
    original = stack.moved_from
    if original is None or _recorded(FileStore(Layout(original).root)) != stack.id:
        return
    raise MatchaError(
        "This folder is a copy of a project whose stack is its own.",
        details=f"The stack belongs to {original}.",
        resolution=f"rm -r {str(stack.layout.root)!r}",
    )


def settle(stack: Stack) -> Stack:
    """Makes the folders of a stack and writes its index.

    Raises BadInput for a project folder that cannot hold one, MatchaError where no runtime folder is safe.
    """
    refuse_odd_path(stack.layout.project)
    private_folder(stack.layout.root)
    stack.layout.root.chmod(0o700)
    private_folder(stack.layout.stack)
    private_folder(stack.user.stack(stack.id)).chmod(0o700)
    runtime = first_usable([stack.runtime, *_candidates(stack.user, stack.id)])
    index = Index(str(stack.layout.project), str(runtime))
    write_changed(stack.user.index(stack.id), msgspec.json.encode(index))
    return Stack(stack.layout, stack.user, stack.id)


def inherit(layout: Layout, user: UserLayout, stack_id: str) -> None:
    """What stacks of this project left when its record was lost: their processes end, and the first one's
    passwords, which open the databases that are still here, go to the new stack.
    """
    for other in (Stack(layout, user, i) for i in stacks_of(layout, user) if i != stack_id):
        other.supervisor.shutdown()
        other.ports.drop(other.claimant)
        remove_tree(other.runtime)
        if layout.stack.exists() and not user.stack(stack_id).exists():
            other.user.stack(other.id).rename(user.stack(stack_id))
        else:
            remove_tree(user.stack(other.id))


def forget_programs(stack: Stack) -> None:
    """What is written down of programs and environments, and would be run as it stands there.

    In a project that was moved it names the folders of before. In one that this user never provisioned here
    it may come from anybody, such as the author of a repository.
    """
    stack.supervisor.shutdown()
    remove_tree(stack.layout.supervisor)
    remove_tree(stack.layout.notes)


def refuse_odd_path(project: Path) -> None:
    """Characters that end a path inside a database URL."""
    if odd := {c for c in str(project) if c in "?#" or not c.isprintable()}:
        raise BadInput(
            f"The project's folder has {' and '.join(sorted(map(repr, odd)))} in its path: {project}",
            details="Databases in it could not be reached.",
            resolution="Rename the folder and run matcha provision in it.",
        )


def _is_here(project: str, here: Path) -> bool:
    if Path(project) == here:
        return True
    try:
        return Path(project).samefile(here)
    except OSError:
        return False


def _candidates(user: UserLayout, stack_id: str) -> tuple[Path, ...]:
    return user.runtimes(stack_id, os.getuid(), os.environ)
