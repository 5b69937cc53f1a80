"""What a project asks for, and what is said of client libraries that differ."""

from importlib.metadata import version
from pathlib import Path
from typing import ClassVar

import msgspec
import pytest

from matcha.api import training
from matcha.component import Component


class Options(msgspec.Struct):
    pass


class Client(Component):
    """A component whose client library is one that the tests have installed."""

    role, flavor, title = "client", "client", "Client"
    clients = ("msgspec", "not-installed-here")
    Options: ClassVar[type[msgspec.Struct]] = Options


@pytest.fixture
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(training, "WORKSPACE", tmp_path)
    return tmp_path / "requirements.lock"


def test_a_client_library_of_the_same_version_is_not_worth_a_word(workspace: Path) -> None:
    workspace.write_text(f"msgspec=={version('msgspec')} \\\n    --hash=sha256:0\n")
    assert training.client_mismatches([Client(Options())]) == []


def test_a_client_library_of_another_version_is_said(workspace: Path) -> None:
    workspace.write_text("msgspec==0.0.1 ; python_version < '4' \\\n    --hash=sha256:0\n")
    assert training.client_mismatches([Client(Options())]) == [
        f"msgspec {version('msgspec')} is installed here, the stack runs 0.0.1."
    ]


def test_the_workspace_lock_names_the_client_libraries() -> None:
    locked = training.workspace_versions()
    assert {"mlflow", "zenml", "dvc"} <= set(locked)
