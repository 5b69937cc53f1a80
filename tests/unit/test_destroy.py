"""What destroy finds that a stack holds, and what can be done with a stack whose file is broken."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from matcha import api
from matcha.api.types import Destroyed
from matcha.component import Deployment
from matcha.components import mlflow
from matcha.errors import NotProvisioned, StackFileError, WouldLoseData
from matcha.events import Event, silent
from matcha.host.files import private_folder
from matcha.state import Record, State
from matcha.targets.local import LocalTarget

SEED = Path(mlflow.__file__).parent / "seed.sql"
ALONE = "components: {pipeline: null, model-deployer: null, monitoring: null, experiment-tracker: null}\n"
EVER = ("experiment-tracker/mlflow", "data-version-control/dvc")


@pytest.fixture
def project(tmp_path: Path, user_folders: Path) -> Path:
    folder = tmp_path / "project"
    folder.mkdir()
    return folder


def record(project: Path, **changes: object) -> None:
    """A stack that was provisioned here and is stopped."""
    target = LocalTarget(project)
    token = target.store().acquire("test", wait=5, emit=silent).token
    state = State(stack_id="test", stack="default", target="local", phase="stopped", components=EVER)
    target.begin(state, ())
    target.store().write(state.next(**changes), token)
    target.store().release(token)


def trained(project: Path, models: int = 3) -> None:
    """MLflow's database as its server leaves it, with registered models."""
    folder = private_folder(project / ".matcha" / "stack" / "databases" / "mlflow")
    with closing(sqlite3.connect(folder / "mlflow.db")) as database:
        database.executescript(SEED.read_text())
        for number in range(models):
            database.execute("INSERT INTO registered_models (name) VALUES (?)", [f"model {number}"])
        database.commit()


def pushed(project: Path) -> None:
    area = private_folder(project / ".matcha" / "stack" / "store" / "datasets" / "files" / "md5" / "00")
    (area / "data").write_text("1,2")


def destroy(project: Path, *, delete_data: bool = False) -> Destroyed:
    return api.destroy(project, delete_data=delete_data)


@pytest.mark.parametrize("text", ["", ALONE], ids=["in the file", "taken out of it"])
def test_models_are_found_whatever_the_file_says(project: Path, text: str) -> None:
    record(project)
    trained(project)
    pushed(project)
    (project / "matcha.yaml").write_text(text)
    with pytest.raises(WouldLoseData, match=r"only copy of .*3 registered models.*"):
        destroy(project)
    assert (project / ".matcha" / "stack" / "databases" / "mlflow" / "mlflow.db").exists()
    assert destroy(project, delete_data=True).removed
    assert not (project / ".matcha").exists()


def test_datasets_of_a_component_that_was_taken_out_are_found(project: Path) -> None:
    record(project)
    pushed(project)
    (project / "matcha.yaml").write_text("components: {data-version-control: null}\n")
    with pytest.raises(WouldLoseData, match="only copy of 1 dataset object"):
        destroy(project)


def test_models_are_found_where_the_record_is_lost(project: Path) -> None:
    record(project)
    trained(project)
    (project / ".matcha" / "state.json").unlink()
    with pytest.raises(WouldLoseData, match="3 registered models"):
        destroy(project)


def test_what_nobody_can_ask_any_more_is_not_taken_for_nothing(project: Path) -> None:
    record(project, components=(*EVER, "key-value-store/shelf"))
    with pytest.raises(WouldLoseData, match=r"only copy of what shelf kept \(could not be counted\)"):
        destroy(project)


def test_an_empty_stack_is_removed_without_a_question(project: Path) -> None:
    record(project)
    trained(project, models=0)
    assert destroy(project).removed


BROKEN = (
    "nonsense: 1\n",
    "components: [\n",
    "components: {pipeline: {flavor: x}}\n",
    "targets: {local: 3}\n",
    "targets: {local: {port: {}}}\n",
)


@pytest.mark.parametrize("text", BROKEN)
def test_a_broken_file_is_in_the_way_of_neither_stop_nor_destroy(project: Path, text: str) -> None:
    services = {"service/mlflow": Record(digest="", role="experiment-tracker")}
    record(project, phase="ready", resources=services)
    (project / "matcha.yaml").write_text(text)
    said: list[Event] = []
    api.stop(project, emit=said.append)
    assert said[0].message.startswith("matcha.yaml:")
    assert said[0].message.endswith(". Going by what is recorded of the stack.")
    found = api.status(project)
    assert (found.phase, found.stack, found.notes) == ("stopped", "default", (said[0].message,))
    assert [c.flavor for c in found.components] == ["mlflow", "dvc"]
    trained(project)
    with pytest.raises(WouldLoseData, match="3 registered models"):
        destroy(project)
    assert destroy(project, delete_data=True).removed
    assert not (project / ".matcha").exists()


def test_what_was_taken_out_is_not_missed_in_the_status_of_a_broken_file(project: Path) -> None:
    record(project)
    (project / "matcha.yaml").write_text(BROKEN[0])
    assert [c.flavor for c in api.status(project).components] == ["dvc"]


def test_a_lock_is_broken_whatever_the_file_says(project: Path) -> None:
    (project / "matcha.yaml").write_text(BROKEN[0])
    LocalTarget(project).store().acquire("provision", wait=5, emit=silent)
    said: list[Event] = []
    broken = api.force_unlock(project, emit=said.append)
    assert broken is not None
    assert broken.operation == "provision"
    assert "unknown key" in said[0].message


def test_without_a_stack_a_broken_file_is_what_is_wrong(project: Path) -> None:
    (project / "matcha.yaml").write_text(BROKEN[0])
    for act in (api.stop, api.status, api.destroy, api.force_unlock):
        with pytest.raises(StackFileError, match="unknown key"):
            act(project)
    assert [p.name for p in project.iterdir()] == ["matcha.yaml"]


@pytest.mark.parametrize("target", ["fake", "nowhere"])
def test_a_record_of_another_target_is_not_gone_by(project: Path, target: str) -> None:
    record(project)
    (project / "matcha.yaml").write_text(f"target: {target}\n{BROKEN[0]}")
    with pytest.raises(StackFileError):
        api.stop(project)
    with pytest.raises(StackFileError):
        api.destroy(project, delete_data=True)
    assert (project / ".matcha" / "state.json").exists()


def test_what_needs_the_file_is_refused(project: Path) -> None:
    record(project)
    (project / "matcha.yaml").write_text(BROKEN[0])
    for act in (api.plan, api.provision, api.env, api.start):
        with pytest.raises(StackFileError):
            act(project)


def test_deployments_of_a_broken_file_count_as_recorded(project: Path) -> None:
    movie = Deployment(name="movie", asked="models:/m/1", uri="models:/m/1", environment="0123")
    record(project, components=("model-deployer/mlserver",), deployments={"movie": movie})
    (project / "matcha.yaml").write_text(BROKEN[0])
    assert api.status(project).components == ()
    with pytest.raises(NotProvisioned):
        api.status(project.parent)
