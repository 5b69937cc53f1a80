"""What a stack in a cluster has in the project's folder.

PROJECT/.matcha/            with a .gitignore of its own
  kubernetes/ID/            0700, by stack; a folder for each component whose user's code needs one
"""

from __future__ import annotations

from pathlib import Path

from matcha.host.files import hide_from_git, private_folder, remove_empty, remove_hidden, remove_tree
from matcha.state import is_stack_id


class Folders:
    """Of one project. Making this object reads and writes nothing."""

    def __init__(self, project: Path) -> None:
        self._root = project / ".matcha"
        self._stacks = self._root / "kubernetes"

    def stack(self, stack_id: str) -> Path:
        return self._stacks / stack_id

    def make(self, stack_id: str, name: str) -> Path:
        made = private_folder(self.stack(stack_id) / name)
        hide_from_git(self._root)
        return made

    def stacks(self) -> list[str]:
        """Ids of those that have something here."""
        there = sorted(self._stacks.iterdir()) if self._stacks.is_dir() else []
        return [path.name for path in there if is_stack_id(path.name)]

    def left(self, stack_id: str) -> list[str]:
        return [str(path) for path in [self.stack(stack_id)] if path.exists()]

    def remove(self, stack_id: str) -> None:
        """A local stack of the project may be in the same folder: that stays."""
        remove_tree(self.stack(stack_id))
        remove_empty(self._stacks)
        remove_hidden(self._root)
