"""What a user's own scripts do, with stock clients of the workspace environment."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from matcha import components
from matcha.environments import uv_path
from matcha.service import Environment
from support.cluster import ClusterMatcha
from support.serving import interpreter

WORKSPACE = Environment(
    name="workspace",
    lock=Path(components.__file__).parent / "workspace" / "requirements.lock",
    python=">=3.10,<3.13",
)

LOG_MODELS = """
import mlflow, pandas as pd
from mlflow.models import infer_signature
from sklearn.linear_model import LinearRegression

data = pd.DataFrame({"a": [1.0, 2.0, 3.0], "b": [2.0, 1.0, 0.0]})
target = data["a"] - data["b"]
model = LinearRegression().fit(data, target)
client = mlflow.MlflowClient()
for name in ("movie", "mövie %20 #?&x@y"):
    with mlflow.start_run() as run:
        mlflow.log_metric("rmse", 0.5)
        mlflow.log_text("kept", "notes/readme.txt")
        signature = infer_signature(data, target)
        logged = mlflow.sklearn.log_model(
            model, name="model", signature=signature, registered_model_name=name
        )
mlflow.register_model(logged.model_uri, "movie")
client.set_registered_model_alias("movie", "champion", 1)
client.create_registered_model("empty")
assert client.list_artifacts(run.info.run_id)
text = mlflow.artifacts.load_text(f"{run.info.artifact_uri}/notes/readme.txt")
assert text == "kept", text
loaded = mlflow.pyfunc.load_model("models:/movie@champion")
assert abs(loaded.predict(data)[0] + 1) < 1e-6
mlflow.sklearn.save_model(model, "saved model", signature=signature)
print("RUN", run.info.run_id, logged.model_id)
"""

PIPELINE = """
import mlflow
from zenml import pipeline, step
from zenml.client import Client

@step
def load() -> int:
    return 3

@step(experiment_tracker=True)
def train(x: int) -> float:
    mlflow.log_metric("from_zenml", float(x))
    return x * 2.0

@pipeline(enable_cache=False)
def two_steps():
    train(load())

if __name__ == "__main__":
    run = two_steps()
    print("STATUS", run.status.value, Client().active_stack_model.name)
"""


def workspace() -> Path:
    """The interpreter of a user's environment."""
    return interpreter(WORKSPACE)


def v2_client(folder: Path) -> Path:
    """A Python with the stock V2 client of NVIDIA, from the package index."""
    uv, python = str(uv_path()), folder / "venv" / "bin" / "python"
    wanted = "tritonclient[grpc,http]"
    for command in (
        ["venv", "-q", str(folder / "venv")],
        ["pip", "install", "-q", "--python", str(python), wanted],
    ):
        done = subprocess.run([uv, *command], capture_output=True, text=True, timeout=300, check=False)
        if done.returncode:
            reason = f"tritonclient cannot be installed: {done.stderr[-300:]}"
            (pytest.fail if os.environ.get("MATCHA_REQUIRE_ALL") else pytest.skip)(reason)
    return python


def client(stack: ClusterMatcha, code: str, *, timeout: float = 300) -> str:
    """Stock clients with the variables that `matcha env` gives."""
    variables = stack.json("env", "--show-sensitive")
    (stack.project / "job.py").write_text(code)  # a pipeline has to stand in a file
    done = subprocess.run(
        [workspace(), "job.py"],
        env={**stack.env, **variables},
        cwd=stack.project,
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return done.stdout
