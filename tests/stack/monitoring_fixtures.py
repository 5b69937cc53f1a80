"""What tests of the monitoring service stand on: a real MLflow with references, and services that end."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from monitoring_bench import Bench

from matcha import environments
from matcha.component import Deployment
from matcha.components.mlflow import MLflow
from matcha.components.monitoring import Monitoring
from matcha.components.monitoring.component import Options
from support.access import FolderAccess
from support.objectstore import SECRET_KEY, Meddler, ObjectStore, meddling, object_store
from support.serving import Running, interpreter, running

HERE = Path(__file__).parent
Make = Callable[..., Bench]


class Tracking:
    """A real MLflow with runs that keep references, and `bare` that does not."""

    def __init__(self, server: Running, folder: Path) -> None:
        self.url = server.url
        self.server = server
        self._python = interpreter(server.environment)
        self._env = {k: v for k, v in os.environ.items() if k in ("PATH", "HOME")} | {
            "MLFLOW_TRACKING_URI": server.url,
            "MLFLOW_DISABLE_TELEMETRY": "true",
            "PYTHONPATH": str(MLflow(MLflow.Options()).toolbox()[1]),
        }
        self.runs: dict[str, str] = self._run(str(HERE / "monitoring_runs.py"), str(folder), "windows")
        kept = self._run("-m", "matcha_reference", "--experiment-since", "0")["runs"]
        assert [r["status"] for r in kept] == ["logged"] * 3

    def _run(self, *arguments: str) -> Any:
        done = subprocess.run(
            [str(self._python), *arguments],
            env=self._env,
            capture_output=True,
            text=True,
            timeout=240,
            check=False,
        )
        assert done.returncode == 0, done.stderr[-3000:]
        return json.loads(done.stdout.strip().splitlines()[-1])

    def deployment(self, run: str, name: str = "movie", **settings: Any) -> Deployment:
        uri = f"models:/{name}/1"
        return Deployment(
            name=name, asked=uri, uri=uri, version="1", run_id=self.runs[run], settings=settings
        )


@pytest.fixture(name="tracking", scope="module")
def tracking_fixture(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tracking]:
    access = FolderAccess(tmp_path_factory.mktemp("tracking"))
    with running(MLflow(MLflow.Options()), access) as server:
        yield Tracking(server, access.root)


@pytest.fixture(name="python", scope="session")
def python_fixture() -> Path:
    """MATCHA_TEST_PYTHON=3.13 tests another than the usual."""
    environment = Monitoring(Options()).environments()[0]
    version = os.environ.get("MATCHA_TEST_PYTHON")
    return (
        environments.install(environment.lock, version) / "bin" / "python"
        if version
        else interpreter(environment)
    )


@pytest.fixture(name="make")
def make_fixture(python: Path, tmp_path: Path) -> Iterator[Make]:
    made: list[Bench] = []

    def make(
        mlflow: str,
        *deployments: Deployment,
        store: str = "",
        secret: str = SECRET_KEY,
        trust: str = "",
        apart: str = "",
        kind: type[Bench] = Bench,
        **rules: Any,
    ) -> Bench:
        folder = tmp_path / f"monitoring{len(made)}"
        made.append(kind(python, folder, mlflow, deployments, store, secret, trust, apart))
        made[-1].start(**rules)
        return made[-1]

    yield make
    for bench in made:
        bench.end()


@pytest.fixture(name="store")
def store_fixture(tmp_path: Path) -> Iterator[ObjectStore]:
    with object_store(tmp_path / "objects") as store:
        (store.folder / "matcha").mkdir()
        yield store


@pytest.fixture(name="meddler")
def meddler_fixture(store: ObjectStore) -> Iterator[Meddler]:
    """Between the service and the store."""
    with meddling(store.url) as meddler:
        yield meddler


@pytest.fixture(name="alone")
def alone_fixture(make: Make) -> Bench:
    """Without MLflow: a deployment of a model that no run logged."""
    return make("http://127.0.0.1:9", Deployment(name="movie", asked="", uri="", version="1"))
