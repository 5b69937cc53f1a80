"""Fixtures of the local target's tests: a user's folders, and projects that are always taken down."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from local_stack import Bench

from support.package_index import PackageIndex, serving, wheel


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


@pytest.fixture
def index() -> Iterator[PackageIndex]:
    with serving(PackageIndex(tiny=wheel("tiny"), large=wheel("large", 2_500_000))) as served:
        yield served


@pytest.fixture
def cache(tmp_path: Path, index: PackageIndex, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Matcha's and uv's caches of this test alone; nothing but the test's index is asked."""
    for name in [name for name in os.environ if name.startswith(("UV_", "PIP_", "MATCHA_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("MATCHA_CACHE_DIR", str(tmp_path / "a cache"))
    monkeypatch.setenv("UV_CACHE_DIR", str(tmp_path / "uv"))
    monkeypatch.setenv("UV_DEFAULT_INDEX", index.url)
    monkeypatch.setenv("UV_HTTP_RETRIES", "0")
    monkeypatch.setenv("UV_NO_CONFIG", "1")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    return tmp_path / "a cache"


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A folder with a disk of its own, of 2 MiB."""
    folder = tmp_path / "small"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=2m", "matcha-test", str(folder)]
    if sys.platform != "linux" or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("needs the right to mount a small disk")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)
