"""Fixtures of the local target's tests: a user's folders, and projects that are always taken down."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from local_stack import Bench


@pytest.fixture
def user_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where this test's user keeps data; the real user's stays untouched."""
    home = tmp_path / "home"
    (home / "data").mkdir(parents=True)
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("XDG_DATA_HOME", str(home / "data"))
    return home


@pytest.fixture
def bench(tmp_path: Path, user_folders: Path) -> Iterator[Callable[..., Bench]]:
    """Makes a project by name, with what its target needs; destroys each at the end."""
    made: list[Bench] = []

    def make(name: str = "a project", **options: Any) -> Bench:
        made.append(Bench(tmp_path / name, tmp_path / "environments", **options))
        return made[-1]

    yield make
    for one in made:
        if one.project.exists():
            one.reopen()
            one.target.destroy(one.events.append)
