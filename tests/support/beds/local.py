"""The local target with a service of the standard library; real components are tested where they install."""

from __future__ import annotations

import os
import signal
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from matcha.planning import Wanted
from matcha.service import Environment, Service
from matcha.state import State
from matcha.target import Target
from matcha.targets.local import LocalTarget
from support.matcha import Matcha, processes_of
from support.plain import NothingToInstall, stored, web

CONTRACT = "tests/contract/test_targets.py"
COMPONENTS = "tests/e2e/test_components_live.py"


class LocalBed:
    answers = True

    def __init__(self, folder: Path, home: Path) -> None:
        self.project = folder / "a project"
        self.project.mkdir()
        self.home = home
        environments = folder / "environments"
        environments.mkdir()
        lock = environments / "plain.lock"
        lock.write_text("")
        self.environment = Environment(name="plain", lock=lock)
        self._installer = NothingToInstall(environments)

    def target(self) -> Target:
        return LocalTarget(self.project, installer=self._installer)

    def service(self, name: str = "web", **changes: Any) -> Service:
        return stored(web(name, **changes))

    def tell(self, state: State, name: str) -> dict[str, Any]:
        url = f"http://127.0.0.1:{state.ports[f'{name}/http']}/"
        return dict(httpx.get(url, timeout=30, trust_env=False).json())

    def spoil(self, raw: bytes) -> None:
        (self.project / ".matcha" / "state.json").write_bytes(raw)

    def left(self) -> Sequence[str]:
        files = [*self.project.rglob("*"), *self.home.rglob("*")]
        return [*map(str, processes_of(self.project)), *map(str, files)]


class LocalPlace:
    """A folder with an odd name, and a home of its own for the user's data; environments are shared."""

    target = "local"
    settings = ""
    answers = True

    def __init__(self, folder: Path) -> None:
        self._matcha = Matcha(folder / "a project 50%", folder / "home")
        self.project = self._matcha.project

    def mark(self, wanted: Wanted) -> None:
        for folder in self._folders(wanted):
            (folder / "mark").touch(exist_ok=False)
        for path in self._databases(wanted):
            with closing(sqlite3.connect(path, timeout=60)) as database:
                database.execute("create table mark (x)")

    def unmarked(self, wanted: Wanted) -> Sequence[str]:
        folders = [str(f) for f in self._folders(wanted) if not (f / "mark").exists()]
        return [*folders, *(str(path) for path in self._databases(wanted) if not _is_marked(path))]

    def _folders(self, wanted: Wanted) -> list[Path]:
        stack = self._matcha.stack
        volumes = [stack / "volumes" / s.name / volume for s in wanted.services for volume in s.volumes]
        return [*volumes, *(stack / "store" / area for area in wanted.stores)]

    def _databases(self, wanted: Wanted) -> list[Path]:
        folder = self._matcha.stack / "databases"
        return [folder / s.name / f"{database.name}.db" for s in wanted.services for database in s.databases]

    def kill(self, service: str) -> None:
        os.kill(self._matcha.services()[service], signal.SIGKILL)

    def left(self) -> Sequence[str]:
        return self._matcha.left()

    def clean_up(self) -> None:
        self._matcha("destroy", "--yes", "--delete-data", code=None)
        for process in self._matcha.processes():
            process.kill()


def _is_marked(path: Path) -> bool:
    with closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True, timeout=60)) as database:
        return bool(database.execute("select 1 from sqlite_master where name = 'mark'").fetchone())


@contextmanager
def place(folder: Path) -> Iterator[LocalPlace]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_DATA_HOME", str(folder / "home"))
        made = LocalPlace(folder)
        try:
            yield made
        finally:
            made.clean_up()


@contextmanager
def bed(folder: Path) -> Iterator[LocalBed]:
    """With a home of its own for the user's data."""
    home = folder / "home"
    home.mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_DATA_HOME", str(home))
        made = LocalBed(folder, home)
        try:
            yield made
        finally:
            made.target().destroy(lambda _: None)
