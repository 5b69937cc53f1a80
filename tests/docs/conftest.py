"""A clean clone, and the example served from it: what most pages start from."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.pages import ROOT, Reader, python_folder


@pytest.fixture(scope="session")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What git would check out of the working tree, and nothing that was built in it."""
    folder = tmp_path_factory.mktemp("clone") / "matcha"
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
        code, printed = reader.bash("./quickstart")
        assert code == 0, printed
        reader.folder = clone / "recommendation"
        yield reader, printed
    finally:
        destroy(reader, clone / "recommendation")


@pytest.fixture
def reader(tmp_path: Path) -> Iterator[Reader]:
    """A reader in an empty folder; whatever the page made is destroyed."""
    made = Reader(tmp_path / "page", python_folder(), tmp_path / "home")
    try:
        yield made
    finally:
        for file in (tmp_path / "page").rglob("matcha.yaml"):
            destroy(made, file.parent)


def destroy(reader: Reader, folder: Path) -> None:
    if folder.is_dir():
        reader.folder = folder
        code, printed = reader.bash("matcha destroy --yes --delete-data")
        assert code == 0, printed
