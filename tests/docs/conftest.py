"""A clean clone, and the example served from it: what most pages start from."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.pages import ROOT, Reader, marked, python_folder

QUICKSTART, REMOVE = marked(__file__)  # of the README; of the example's, whose other blocks stand between


@pytest.fixture(scope="session")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return cloned(tmp_path_factory.mktemp("clone") / "matcha")


def cloned(folder: Path) -> Path:
    """What git would check out of the working tree, and nothing that was built in it."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    for name in filter(None, listed.split("\0")):
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name)
    return folder


@pytest.fixture(scope="session")
def served(clone: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Reader, str]]:
    """A reader in the folder of the example, after `./quickstart` in a clean clone; and what that printed."""
    reader = Reader(clone, clone / ".venv" / "bin", tmp_path_factory.mktemp("quickstart"))
    try:
        code, printed = reader.bash(QUICKSTART.text)
        assert code == 0, printed
        reader.folder = clone / "recommendation"
        reader.printed["quickstart"] = printed
        yield reader, printed
    finally:
        destroy(reader, clone / "recommendation", REMOVE.text)


@pytest.fixture
def reader(tmp_path: Path) -> Iterator[Reader]:
    """A reader in an empty folder; whatever the page made is destroyed."""
    made = Reader(tmp_path / "page", python_folder(), tmp_path / "home")
    try:
        yield made
    finally:
        destroy_below(tmp_path / "page", made)


@pytest.fixture
def newcomer(tmp_path: Path) -> Iterator[Reader]:
    """A reader in a clean clone, with a plain Python and nothing of Matcha on PATH."""
    folder = cloned(tmp_path / "page")
    made = Reader(folder, Path(sys.base_prefix) / "bin", tmp_path / "home")
    try:
        yield made
    finally:
        destroy_below(folder, made)


def destroy_below(folder: Path, reader: Reader) -> None:
    for made in list(folder.rglob(".matcha")):
        destroy(reader, made.parent)


def destroy(reader: Reader, folder: Path, command: str = "matcha destroy --yes --delete-data") -> None:
    if folder.is_dir():
        reader.folder = folder
        code, printed = reader.bash(command)
        assert code == 0, printed
