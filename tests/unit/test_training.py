"""What a project asks for, which project a notebook is of, and client libraries that differ."""

import os
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any, ClassVar

import msgspec
import pytest

import matcha
from matcha.access import Access
from matcha.api import queued, training
from matcha.api._project import open_project
from matcha.component import Component
from matcha.errors import BadInput, MatchaError, NotFound, NotProvisioned
from matcha.events import Emit, silent
from matcha.job import Demand, RemoteJob
from matcha.state import State


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


# Notebooks and other processes


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty folder, which is the current one; the variables of this process are put back at the end."""
    before = dict(os.environ)
    os.environ.pop("MATCHA_PROJECT", None)
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    os.environ.clear()
    os.environ.update(before)


@pytest.fixture
def project(elsewhere: Path) -> Path:
    """With a stack on the target in memory and one file."""
    root = elsewhere / "project"
    (root / "notebooks" / "deep").mkdir(parents=True)
    others = "pipeline: null, model-deployer: null, monitoring: null"
    (root / "matcha.yaml").write_text(f"target: fake\ncomponents: {{{others}}}\n")
    matcha.provision(root)
    return root


def test_a_notebook_in_a_folder_of_the_project_finds_its_stack(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(project / "notebooks" / "deep")
    found = matcha.connect()
    assert found["MATCHA_PROJECT"] == str(project)
    assert os.environ["MLFLOW_TRACKING_URI"] == found["MLFLOW_TRACKING_URI"]


def test_a_project_that_is_named_is_the_one(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MATCHA_PROJECT", str(project))
    assert matcha.connect()["MATCHA_PROJECT"] == str(project)
    with pytest.raises(NotProvisioned) as refused:
        matcha.connect(project / "notebooks")
    assert refused.value.details == f"Looked in {project / 'notebooks'}."


def test_where_a_stack_was_looked_for_is_said(elsewhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    inner = elsewhere / "inner"
    inner.mkdir()
    monkeypatch.chdir(inner)
    with pytest.raises(NotProvisioned) as refused:
        matcha.connect()
    assert refused.value.details == (
        f"Looked in {inner}; neither it nor a folder above it has a matcha.yaml."
    )
    (elsewhere / "matcha.yaml").touch()
    with pytest.raises(NotProvisioned) as refused:
        matcha.connect()
    assert refused.value.details == (
        f"Looked in {elsewhere}, the nearest folder above {inner} that has a matcha.yaml."
    )
    monkeypatch.setenv("MATCHA_PROJECT", str(inner))
    with pytest.raises(NotProvisioned) as refused:
        matcha.connect()
    assert refused.value.details == f"Looked in {inner}, as MATCHA_PROJECT says."


# A job that is ended from here


@pytest.mark.parametrize(
    ("refusal", "raised", "said"),
    [
        (None, KeyboardInterrupt, ""),
        (NotFound("There is no such job."), KeyboardInterrupt, ""),
        (MatchaError("The cluster does not answer."), MatchaError, "t-1 could not be ended, and may go on"),
    ],
)
def test_ctrl_c_ends_the_job_or_says_that_it_goes_on(
    project: Path, refusal: MatchaError | None, raised: type[BaseException], said: str
) -> None:
    opened = open_project(project, None)

    class Interrupted:
        """A queue whose only job is interrupted as soon as it is followed."""

        root = "/there"
        asked: ClassVar[list[str]] = []

        def check_remote(self, demand: Demand, image: str = "") -> list[str]:
            return []

        def check_files(self, project: Path) -> None:
            """All of them go along."""

        def inside(self, state: State) -> Access:
            return opened.target.access(state)

        def submit(self, job: RemoteJob, emit: Emit) -> str:
            return "t-1"

        def follow(self, name: str, emit: Emit, *, lines: int) -> Iterator[str]:
            raise KeyboardInterrupt
            yield

        def cancel(self, name: str) -> None:
            self.asked.append(name)
            if refusal:
                raise refusal

    queue: Any = Interrupted()
    with pytest.raises(raised) as told:
        queued.run_remote(
            opened, queue, ["x"], Demand(), project, image="i", detach=False, emit=silent, say=lambda _: None
        )
    assert queue.asked == ["t-1"]
    assert said in str(getattr(told.value, "message", ""))
    if said:
        assert told.value.resolution == "matcha jobs cancel t-1"  # type: ignore[attr-defined]


def test_a_project_that_cannot_go_along_is_refused_before_anything_is_asked(project: Path) -> None:
    class Careful:
        """A queue that takes no file, and whose stack must not be asked before that is said."""

        root = "/there"

        def check_remote(self, demand: Demand, image: str = "") -> list[str]:
            return []

        def check_files(self, project: Path) -> None:
            raise BadInput("The project's files take 2 GiB.")

    queue: Any = Careful()
    with pytest.raises(BadInput, match="take 2 GiB"):
        queued.run_remote(
            open_project(project, None),
            queue,
            ["x"],
            Demand(),
            project,
            image="",
            detach=False,
            emit=silent,
            say=lambda _: None,
        )
