"""The sample of the training data that a run keeps, made by the script in MLflow's own environment."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from matcha.components.mlflow import MLflow
from support.serving import interpreter

pytestmark = pytest.mark.stack

HERE = Path(__file__).parent
EVERYTHING = ["a", "b", "n", "other", "target"]


class World:
    """A tracking store in a folder, and runs in it that logged their data."""

    def __init__(self, folder: Path) -> None:
        mlflow = MLflow(MLflow.Options())
        environment, self.code = mlflow.toolbox()
        self.python = interpreter(environment)
        self.folder = folder
        kept = {k: v for k, v in os.environ.items() if k in ("PATH", "HOME", "LANG")}
        store = {"MLFLOW_TRACKING_URI": f"sqlite:///{folder}/mlflow.db", "MLFLOW_DISABLE_TELEMETRY": "true"}
        self.env = {**kept, **store, "PYTHONPATH": str(self.code)}
        self.runs: Mapping[str, str] = json.loads(
            self.run(str(HERE / "monitoring_runs.py"), str(folder), "references")
        )

    def run(self, *arguments: str, **env: str) -> str:
        done = subprocess.run(
            [str(self.python), *arguments],
            cwd=self.folder,
            env={**self.env, **env},
            capture_output=True,
            text=True,
            timeout=240,
            check=False,
        )
        assert done.returncode == 0, done.stderr[-3000:] + done.stdout[-500:]
        return done.stdout.strip().splitlines()[-1]

    def keep(self, name: str, *more: str) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(
            self.run("-m", "matcha_reference", "--run", self.runs[name], *more)
        )
        assert found.pop("run_id") == self.runs[name]
        return found

    def kept(self, name: str) -> dict[str, Any]:
        """Columns, rows and facts of the artifact."""
        read = (
            "import json,sys,mlflow,pyarrow.parquet as pq;"
            "t=pq.read_table(mlflow.artifacts.download_artifacts(run_id=sys.argv[1],"
            "artifact_path='matcha/reference.parquet'));"
            "print(json.dumps({'columns':t.column_names,'rows':t.num_rows,'first':t.to_pylist()[:3],"
            "'about':json.loads(t.schema.metadata[b'matcha'])}))"
        )
        found: dict[str, Any] = json.loads(self.run("-c", read, self.runs[name]))
        return found


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    world = World(tmp_path_factory.mktemp("tracking"))
    (world.folder / "gone.csv").unlink()
    for name in ("edited", "forced"):
        file = world.folder / f"{name}.csv"
        file.write_text(file.read_text().replace("x", "y"))
    return world


@pytest.mark.parametrize("ending", ["csv", "csv.gz", "tsv", "parquet", "jsonl"])
def test_a_seeded_sample_of_any_known_file_is_kept(world: World, ending: str) -> None:
    assert world.keep(ending) == {"status": "logged", "rows": 10_000, "message": ""}
    kept = world.kept(ending)
    assert kept["columns"] == EVERYTHING
    assert kept["rows"] == 10_000
    assert kept["about"]["of"] == 12_000
    assert world.keep(ending, "--force", "--max-rows", "10000")["status"] == "logged"
    assert world.kept(ending)["first"] == kept["first"]


def test_an_earlier_reference_is_kept(world: World) -> None:
    assert world.keep("relative", "--max-rows", "100")["rows"] == 100
    assert world.keep("relative")["status"] == "exists"
    assert world.kept("relative")["rows"] == 100


def test_only_inputs_and_target_of_the_model_are_kept(world: World) -> None:
    """`other` is no input, and with two such columns neither is known to be the target."""
    assert world.keep("signature")["status"] == "logged"
    kept = world.kept("signature")
    assert kept["columns"] == ["a", "b", "n"]
    assert kept["about"]["inputs"] == ["a", "b", "n"]


def test_the_training_dataset_goes_before_any_other(world: World) -> None:
    assert world.keep("both")["status"] == "logged"
    assert world.kept("both")["about"] | {"digest": ""} == {
        "inputs": [],
        "target": "",
        "prediction": "",
        "dataset": "both-1",
        "digest": "",
        "context": "training",
        "of": 12_000,
    }


@pytest.mark.parametrize(
    ("name", "status", "said"),
    [
        ("nothing", "no-dataset", "mlflow.log_input"),
        ("memory", "unreachable", 'source="data.csv"'),
        ("gone", "unreachable", "not there"),
        ("dead", "unreachable", "Connection refused"),
        ("edited", "changed", "no longer what the run trained on"),
        ("binary", "unsupported", "weights.bin is none of"),
        ("torn", "unsupported", "torn.parquet cannot be read"),
        ("foreign", "unsupported", "none of the model's inputs (zz"),
        ("part", "logged", "a part or a transformation"),
        ("numpy", "logged", "a part or a transformation"),
        ("only-test", "logged", 'logged as "evaluation"'),
    ],
)
def test_what_is_wrong_with_the_data_is_said(world: World, name: str, status: str, said: str) -> None:
    found = world.keep(name)
    assert found["status"] == status
    assert said in found["message"]
    assert (found["rows"] > 0) == (status == "logged")


def test_changed_data_is_kept_only_when_forced(world: World) -> None:
    assert world.keep("forced")["status"] == "changed"
    found = world.keep("forced", "--force")
    assert (found["status"], found["rows"]) == ("logged", 10_000)
    assert "no longer" in found["message"]


def test_an_unknown_run_is_said(world: World) -> None:
    found = json.loads(world.run("-m", "matcha_reference", "--run", "0" * 32))
    assert found["status"] == "no-dataset"


def test_all_runs_since_a_moment_are_gone_through_once(world: World) -> None:
    def since(moment: int) -> list[dict[str, Any]]:
        answer = json.loads(world.run("-m", "matcha_reference", "--experiment-since", str(moment)))
        assert answer["status"] == "done"
        runs: list[dict[str, Any]] = answer["runs"]
        return runs

    since(0)
    assert {r["status"] for r in since(0)} <= {"unreachable", "changed", "unsupported"}
    assert world.runs["nothing"] not in {r["run_id"] for r in since(0)}
    assert since(10**14) == []


def test_a_tracking_server_that_is_down_is_a_failure(world: World) -> None:
    done = subprocess.run(
        [str(world.python), "-m", "matcha_reference", "--run", "0" * 32],
        env={
            **world.env,
            "MLFLOW_TRACKING_URI": "http://127.0.0.1:9",
            "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
        },
        cwd=world.folder,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 1
    assert json.loads(done.stdout)["status"] == "failed"
