"""Where the parts of a local stack lie. Pure: nothing here touches the disk.

PROJECT/.matcha/            0700, with a .gitignore of its own
  state.json  lock          the record and who is changing it
  stack/                    volumes, store, databases, files, live, work, logs, folders, notes, supervisor
DATA/                       the user's data folder ($XDG_DATA_HOME/matcha)
  ports.json                ports that the user's stacks have claimed
  stacks/ID/                secrets.json, and stack.json that says which project the stack is of
  run/ID8/                  the supervisor's socket, where the path is short enough
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import msgspec

from matcha.host.runtime import SOCKET_FOLDER_BYTES, runtime_folders

__all__ = ["SOCKET_FOLDER_BYTES", "Layout", "UserLayout"]


class Layout(msgspec.Struct, frozen=True):
    """Paths in a project's folder."""

    project: Path

    @property
    def root(self) -> Path:
        return self.project / ".matcha"

    @property
    def stack(self) -> Path:
        return self.root / "stack"

    @property
    def supervisor(self) -> Path:
        return self.stack / "supervisor"

    @property
    def notes(self) -> Path:
        return self.stack / "notes"

    @property
    def databases(self) -> Path:
        return self.stack / "databases"

    @property
    def logs(self) -> Path:
        return self.stack / "logs"

    def volume(self, service: str, name: str) -> Path:
        return self.stack / "volumes" / service / name

    def work(self, service: str) -> Path:
        """The working directory of the service's process."""
        return self.stack / "work" / service

    def area(self, name: str) -> Path:
        return self.stack / "store" / name

    def database(self, service: str, name: str) -> Path:
        return self.databases / service / f"{name}.db"

    def files(self, service: str) -> Path:
        return self.stack / "files" / service

    def live(self, service: str) -> Path:
        return self.stack / "live" / service

    def log(self, service: str) -> Path:
        return self.logs / f"{service}.log"

    def folder(self, name: str) -> Path:
        return self.stack / "folders" / name

    def note(self, kind: str, name: str) -> Path:
        return self.notes / kind / f"{name}.json"


class UserLayout(msgspec.Struct, frozen=True):
    """Paths outside the project. `data` is the user's data folder of Matcha."""

    data: Path
    cache: Path

    @property
    def stacks(self) -> Path:
        return self.data / "stacks"

    @property
    def ports(self) -> Path:
        """In the shared cache: stacks of this user under any data folder must not take each other's."""
        return self.cache / "ports.json"

    def stack(self, stack_id: str) -> Path:
        return self.stacks / stack_id

    def secrets(self, stack_id: str) -> Path:
        return self.stack(stack_id) / "secrets.json"

    def index(self, stack_id: str) -> Path:
        return self.stack(stack_id) / "stack.json"

    def runtimes(self, stack_id: str, user: int, environ: Mapping[str, str]) -> tuple[Path, ...]:
        """Folders for the supervisor's socket, best first."""
        return runtime_folders(self.data, stack_id, user, environ)
