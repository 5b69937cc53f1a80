"""The sample of the training data that a run keeps, made by the script in MLflow's own environment."""

from __future__ import annotations

import contextlib
import functools
import json
import os
import re
import subprocess
import threading
from collections.abc import Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from matcha.components.mlflow import MLflow
from support.serving import free_port, interpreter

pytestmark = pytest.mark.stack

HERE = Path(__file__).parent
EVERYTHING = ["a", "b", "n", "other", "target"]


@contextlib.contextmanager
def _served(folder: Path, port: int) -> Iterator[None]:
    handler = functools.partial(SimpleHTTPRequestHandler, directory=str(folder))
    with ThreadingHTTPServer(("127.0.0.1", port), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield
        server.shutdown()


READ = """
import json, sys, mlflow, pyarrow.parquet as pq
artifact, *runs = sys.argv[1:]
for run in runs:
    file = mlflow.artifacts.download_artifacts(run_id=run, artifact_path=artifact)
    table = pq.read_table(file)
    about = json.loads(table.schema.metadata[b"matcha"])
    rows, first = table.num_rows, table.to_pylist()[:3]
    found = {"columns": table.column_names, "rows": rows, "first": first, "about": about}
    print("kept", json.dumps(found))
"""


class World:
    """A tracking store in a folder, runs in it that logged their data, and what the script made of all."""

    def __init__(self, folder: Path) -> None:
        port = free_port()
        environment, self.code = MLflow(MLflow.Options()).toolbox()
        self.python = interpreter(environment)
        self.folder = folder
        kept = {k: v for k, v in os.environ.items() if k in ("PATH", "HOME", "LANG")}
        store = {"MLFLOW_TRACKING_URI": f"sqlite:///{folder}/mlflow.db", "MLFLOW_DISABLE_TELEMETRY": "true"}
        self.env = {**kept, **store, "PYTHONPATH": str(self.code)}
        made = self.run(str(HERE / "monitoring_runs.py"), str(folder), "references", str(port))
        self.runs: dict[str, str] = json.loads(made[-1])
        self._change_files()
        with _served(folder, port):
            self.found = {r.pop("run_id"): r for r in self.since(0)}
        self._kept: dict[str, Any] = {}

    def _change_files(self) -> None:
        (self.folder / "gone.csv").unlink()
        for name in ("edited", "forced"):
            file = self.folder / f"{name}.csv"
            file.write_text(file.read_text().replace("x", "y"))

    def run(self, *arguments: str, told: str = "") -> list[str]:
        done = subprocess.run(
            [str(self.python), *arguments],
            cwd=self.folder,
            env=self.env,
            input=told,
            capture_output=True,
            text=True,
            timeout=280,
            check=False,
        )
        assert done.returncode == 0, done.stderr[-3000:] + done.stdout[-500:]
        return done.stdout.strip().splitlines()

    def keep(self, run: str, *more: str) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.run("-m", "matcha_reference", "--run", run, *more)[-1])
        assert found.pop("run_id") == run
        return found

    def give(self, run: str, source: str, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        command = ("-m", "matcha_given", "--run", run, "--source", source)
        return dict(json.loads(self.run(*command, told=json.dumps(inputs))[-1]))

    def since(self, moment: int) -> list[dict[str, Any]]:
        answer = json.loads(self.run("-m", "matcha_reference", "--experiment-since", str(moment))[-1])
        assert answer["status"] == "done"
        runs: list[dict[str, Any]] = answer["runs"]
        return runs

    def of(self, name: str) -> dict[str, Any]:
        return self.found[self.runs[name]]

    def kept(self, name: str) -> dict[str, Any]:
        """Columns, rows and facts of the artifact, as all were at first."""
        if not self._kept:
            self._kept = self.read(*(r for r, result in self.found.items() if result["status"] == "logged"))
        found: dict[str, Any] = self._kept[self.runs[name]]
        return found

    def read(self, *runs: str, artifact: str = "matcha/reference.parquet") -> dict[str, Any]:
        printed = self.run("-c", READ, artifact, *runs)
        lines = [x.removeprefix("kept ") for x in printed if x.startswith("kept ")]
        return dict(zip(runs, map(json.loads, lines), strict=True))


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return World(tmp_path_factory.mktemp("tracking"))


@pytest.mark.parametrize("ending", ["csv", "csv.gz", "tsv", "parquet", "jsonl"])
def test_a_sample_of_any_known_file_is_kept(world: World, ending: str) -> None:
    assert world.of(ending) == {"status": "logged", "rows": 10_000, "message": ""}
    kept = world.kept(ending)
    assert kept["columns"] == EVERYTHING
    assert kept["rows"] == 10_000
    assert kept["about"]["of"] == 12_000


def test_an_earlier_reference_is_kept_and_a_forced_one_draws_the_same_rows(world: World) -> None:
    run = world.runs["relative"]
    before = world.kept("relative")
    assert world.keep(run, "--max-rows", "100")["status"] == "exists"
    assert world.keep(run, "--force")["status"] == "logged"
    assert world.read(run)[run] == before


def test_only_inputs_and_target_of_the_model_are_kept(world: World) -> None:
    """`other` is no input, and of two such columns neither is known to be the target."""
    kept = world.kept("signature")
    assert kept["columns"] == ["a", "b", "n"]
    assert kept["about"]["inputs"] == ["a", "b", "n"]


def test_the_training_dataset_goes_before_any_other(world: World) -> None:
    about = world.kept("both")["about"]
    assert (about["dataset"], about["context"], about["of"]) == ("both-1", "training", 12_000)


@pytest.mark.parametrize(
    ("name", "status", "said"),
    [
        ("memory", "unreachable", 'source="data.csv"'),
        ("gone", "unreachable", "not there"),
        ("dead", "unreachable", "refused"),
        ("http", "logged", ""),
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
    found = world.of(name)
    assert found["status"] == status
    assert said in found["message"]
    assert (found["rows"] > 0) == (status == "logged")


def test_a_run_without_data_is_told_how_to_log_it(world: World) -> None:
    assert world.runs["nothing"] not in world.found
    found = world.keep(world.runs["nothing"])
    assert found["status"] == "no-dataset"
    assert "mlflow.log_input" in found["message"]


GIVEN = [{"name": "a", "type": "double"}, {"name": "n", "type": "long", "required": False}]


def test_a_given_file_is_kept_once_under_the_digest_of_its_content(world: World) -> None:
    run = world.runs["nothing"]
    first = world.give(run, "data.csv", GIVEN)
    assert (first["status"], first["rows"]) == ("kept", 10_000)
    assert re.fullmatch(r"matcha/references/[0-9a-f]{16}\.parquet", first["artifact"])
    assert world.give(run, str(world.folder / "data.csv"), GIVEN) == first
    kept = world.read(run, artifact=first["artifact"])[run]
    assert (kept["columns"], kept["about"]["inputs"]) == (["a", "n"], ["a", "n"])
    assert world.keep(run)["status"] == "no-dataset", "it is no reference of the run's own"
    again = world.give(world.runs["memory"], f"runs:/{run}/{first['artifact']}", GIVEN)
    assert (again["status"], again["digest"]) == ("kept", first["artifact"][-24:-8])


@pytest.mark.parametrize(
    ("name", "inputs", "answer"),
    [
        ("nowhere.csv", GIVEN, {"status": "unreadable", "message": "There is no such file."}),
        ("empty.csv", GIVEN, {"status": "unreadable", "message": "It has no rows."}),
        ("data.csv", [{"name": "zz"}], {"status": "columns", "missing": ["zz"], "has": EVERYTHING}),
        (
            "data.csv",
            [{"name": "zz", "required": False}],
            {"status": "columns", "missing": ["zz"], "has": EVERYTHING},
        ),
    ],
)
def test_a_given_file_that_does_not_do_is_not_kept(
    world: World, name: str, inputs: list[dict[str, Any]], answer: dict[str, Any]
) -> None:
    (world.folder / "empty.csv").write_text("a,n\n")
    assert world.give(world.runs["nothing"], name, inputs) == answer


def test_changed_data_is_kept_only_when_forced(world: World) -> None:
    assert world.of("forced")["status"] == "changed"
    found = world.keep(world.runs["forced"], "--force")
    assert (found["status"], found["rows"]) == ("logged", 10_000)
    assert "no longer" in found["message"]


def test_an_unknown_run_is_said(world: World) -> None:
    assert world.keep("0" * 32)["status"] == "no-dataset"


def test_only_runs_since_the_moment_are_gone_through(world: World) -> None:
    assert world.since(10**14) == []


def test_a_tracking_server_that_is_down_is_a_failure(world: World) -> None:
    down = {"MLFLOW_TRACKING_URI": "http://127.0.0.1:9", "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0"}
    done = subprocess.run(
        [str(world.python), "-m", "matcha_reference", "--run", "0" * 32],
        env={**world.env, **down},
        cwd=world.folder,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 1
    assert json.loads(done.stdout)["status"] == "failed"
