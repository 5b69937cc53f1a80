"""One real stack for the tests that only use it; those that break it make their own."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.jobs import JOBS, Trained
from support.matcha import Matcha


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.e2e)
            item.add_marker(pytest.mark.timeout(600))


@pytest.fixture(scope="session")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Matcha]:
    """A provisioned stack in the example's folder, whose path is no identifier."""
    folder = tmp_path_factory.mktemp("a stack 100%")
    matcha = Matcha(folder / "my project", folder / "home")
    try:
        matcha("example", "get", "recommendation", ".")
        with (matcha.project / "requirements.txt").open("a") as file:
            file.write("pytest\nhumanize\n./own\n")
        shutil.copytree(JOBS, matcha.project, dirs_exist_ok=True)
        matcha("provision", "--yes")
        yield matcha
    finally:
        matcha("destroy", "--yes", "--delete-data", code=None)
        assert matcha.left() == []


@pytest.fixture(scope="session")
def trained(stack: Matcha) -> Trained:
    return Trained(stack("run", "--", "python", "credit.py", "--epochs", "3").stdout)


@pytest.fixture(scope="session")
def credit(stack: Matcha, trained: Trained) -> str:
    """The address of version 1, deployed under its own name."""
    stack("deploy", "models:/credit/1")
    return stack.predict_url("credit")


@pytest.fixture(scope="session")
def older(stack: Matcha) -> None:
    """A model that wants other packages than the serving environment's: registered, and in a folder."""
    stack("run", "--", "python", "older.py")


@pytest.fixture
def fresh(tmp_path: Path) -> Iterator[Matcha]:
    """An empty project; whatever a test made of it is destroyed."""
    matcha = Matcha(tmp_path / "project", tmp_path / "home")
    try:
        yield matcha
    finally:
        matcha("destroy", "--yes", "--delete-data", code=None)
        for process in matcha.processes():
            process.kill()
