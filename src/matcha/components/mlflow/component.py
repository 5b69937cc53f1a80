"""MLflow as a component: one server, and what clients need to reach it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar

import msgspec

from matcha import inside, sqlite
from matcha.access import Access, Output
from matcha.component import Component, Deployment, Holding, ModelVersion, RegisteredModel
from matcha.components.mlflow import models
from matcha.components.mlflow.rest import Tracker, Unknown
from matcha.errors import MatchaError, NotProvisioned
from matcha.service import Database, Environment, Port, Probe, Resources, Service

HERE = Path(__file__).resolve().parent
VERSION = "3.17.2"
PATIENCE = 8.0  # seconds for a page of a list, while somebody waits for it
QUIET = {"MLFLOW_DISABLE_TELEMETRY": "true", "DO_NOT_TRACK": "true"}
COUNTED = {
    "runs": "SELECT count(*) FROM runs WHERE lifecycle_stage = 'active'",
    "registered models": "SELECT count(*) FROM registered_models",
    "logged models": "SELECT count(*) FROM logged_models WHERE lifecycle_stage = 'active'",
}


class Options(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """MLflow has none."""


class MLflow(Component):
    """Tracking server and model registry. Serves artifacts itself, so clients need no other access."""

    role = "experiment-tracker"
    flavor = "mlflow"
    clients = ("mlflow",)
    title = "MLflow"
    version = VERSION
    Options: ClassVar[type[msgspec.Struct]] = Options

    def environments(self) -> tuple[Environment, ...]:
        return (
            Environment(
                name="mlflow",
                lock=HERE / "requirements.lock",
                warm=HERE / "warm.txt",
                image=f"ghcr.io/mlflow/mlflow:v{VERSION}-full",
            ),
        )

    def services(self, deployments: Sequence[Deployment]) -> tuple[Service, ...]:
        return (
            Service(
                name="mlflow",
                role=self.role,
                environment="mlflow",
                command=(
                    "-m",
                    "matcha_mlflow",
                    "--bind",
                    "{bind}",
                    "--port",
                    "{port:http}",
                    "--hosts",
                    "{hosts}",
                ),
                # Not MLflow's own 5000: macOS answers there itself (AirPlay).
                ports=(Port("http", 5001),),
                # /health answers before the database does. No experiment is sure to be there.
                health=Probe(path="/api/2.0/mlflow/experiments/search?max_results=1", alive="/health"),
                env={
                    "MLFLOW_BACKEND_STORE_URI": "{database:mlflow}",
                    "MLFLOW_ARTIFACTS_DESTINATION": "{store:artifacts}",
                    "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
                    **QUIET,
                },
                databases=(Database("mlflow", seed=HERE / "seed.sql"),),
                stores=("artifacts",),
                code=(HERE / "inside", inside.FOLDER),
                resources=Resources(memory=400),
            ),
        )

    def outputs(self, access: Access) -> Mapping[str, Output]:
        return {"flavor": Output(self.flavor), "tracking-url": Output(access.url(self.role))}

    def client_env(self, access: Access) -> Mapping[str, Output]:
        return {
            "MLFLOW_TRACKING_URI": Output(access.url(self.role)),
            **{name: Output(value) for name, value in QUIET.items()},
        }

    def holdings(self, access: Access) -> tuple[Holding, ...]:
        database = access.database("mlflow")
        counts = (
            {what: sqlite.count(database, question) for what, question in COUNTED.items()}
            if database
            else _asked(access)
        )
        return tuple(Holding(count, what) for what, count in counts.items() if count)

    def resolve(self, access: Access, uri: str) -> ModelVersion:
        """As `ModelRegistry.resolve`; an unfit `uri` is refused before MLflow is asked."""
        with Tracker(access.url(self.role)) as tracker:
            return models.Resolver(tracker, local=models.is_local(access)).resolve(uri)

    def models(self, access: Access) -> tuple[RegisteredModel, ...]:
        with Tracker(access.url(self.role), timeout=PATIENCE) as tracker:
            return models.registered(tracker)

    def has_runs_since(self, access: Access, unix_ms: int) -> bool:
        try:
            with Tracker(access.url(self.role), timeout=10) as tracker:
                return bool(_runs(tracker, 1, f"attributes.start_time >= {unix_ms}"))
        except (MatchaError, Unknown):
            return False

    def toolbox(self) -> tuple[Environment, Path]:
        return self.environments()[0], HERE / "inside"


def _asked(access: Access) -> dict[str, int]:
    """Where the database is no file here: what the server says, as far as it is worth asking."""
    try:
        with Tracker(access.url(MLflow.role), timeout=10) as tracker:
            return {"runs": _runs(tracker), "registered models": _registered(tracker)}
    except NotProvisioned:
        return {}
    except (MatchaError, Unknown):
        return {"runs": -1}


def _registered(tracker: Tracker) -> int:
    return sum(1 for _ in tracker.pages("/registered-models/search", "registered_models"))


def _runs(tracker: Tracker, most: int = 1000, which: str = "") -> int:
    """Counted up to `most`: that there are any is what matters."""
    experiments = [e["experiment_id"] for e in tracker.pages("/experiments/search", "experiments")]
    asked = {"experiment_ids": experiments, "max_results": most, "filter": which}
    return len(tracker.post("/runs/search", asked).get("runs", ()))
