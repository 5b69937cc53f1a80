"""A stack whose model server has replicas, on a real node."""

from __future__ import annotations

import json
import re
import subprocess
import time
from typing import Any

import httpx

from matcha.components.mlserver import MLServer
from support.cluster import ClusterMatcha
from support.matcha import until
from support.serving import interpreter
from support.steady import application_of

PATIENCE = 240.0  # seconds for a replica to come up on a busy machine
NAME = "movie"

STACK = """components:
  pipeline: null
  data-version-control: null
  model-deployer:
    flavor: mlserver
    min-replicas: {least}
    max-replicas: {most}
    cpu: 0.1
    target-cpu: {target}
    load-seconds: {load}
"""

# y = factor * (a - b): which version answered shows in the answer.
LOG = """
import mlflow, pandas as pd
from mlflow.models import infer_signature
from sklearn.linear_model import LinearRegression

data = pd.DataFrame({"a": [1.0, 2.0, 3.0, 5.0], "b": [2.0, 1.0, 0.0, 7.0]})
for factor in (1, 2, 3):
    target = factor * (data["a"] - data["b"])
    model = LinearRegression().fit(data, target)
    with mlflow.start_run():
        mlflow.sklearn.log_model(
            model, name="model", signature=infer_signature(data, target), registered_model_name="movie"
        )
"""


class Scaled:
    def __init__(self, matcha: ClusterMatcha) -> None:
        self.matcha = matcha
        self._file = (matcha.project / "matcha.yaml").read_text()
        self._file += f"    allow-from: [{application_of(matcha)}]\n"
        self.options = {"least": 2, "most": 2, "target": 70, "load": 600}

    def of_target(self, line: str) -> None:
        """More of `targets.kubernetes`, from the next `provision` on."""
        self._file += f"    {line}\n"

    def write(self, **options: int) -> None:
        self.options |= options
        (self.matcha.project / "matcha.yaml").write_text(self._file + STACK.format(**self.options))

    def provision(self, **options: int) -> None:
        self.write(**options)
        self.matcha("provision", "--yes")

    def deploy(self, version: int, *more: str) -> None:
        self.matcha("deploy", f"models:/movie/{version}", "--name", NAME, *more)

    def log_models(self) -> None:
        env = {**self.matcha.env, **self.matcha.json("env", "--show-sensitive")}
        done = subprocess.run(
            [str(interpreter(MLServer(MLServer.Options()).serving_lock())), "-c", LOG],
            env=env,
            cwd=self.matcha.project,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr

    def pods(self, service: str = "mlserver") -> list[dict[str, Any]]:
        """Those that are not on their way out."""
        found = self.matcha.objects("pods", f"--selector=app.kubernetes.io/name={service}")
        return [pod for pod in found if "deletionTimestamp" not in pod["metadata"]]

    def ready(self, service: str = "mlserver") -> list[str]:
        return [
            pod["metadata"]["name"]
            for pod in self.pods(service)
            for condition in pod["status"].get("conditions", ())
            if condition["type"] == "Ready" and condition["status"] == "True"
        ]

    def whole(self, number: int, service: str = "mlserver") -> None:
        until(lambda: len(self.ready(service)) == len(self.pods(service)) == number, PATIENCE, every=1)

    def shown(self) -> dict[str, Any]:
        found = self.matcha.json("status", code=None)
        return next(c for c in found["components"] if c["role"] == "model-deployer")

    def rows(self) -> int:
        """Captured of every version, as monitoring has received them since it started."""
        base = self.matcha.url("monitoring", "dashboard-url")
        found = httpx.get(f"{base}/metrics", timeout=60, trust_env=False).raise_for_status().text
        return sum(map(int, re.findall(rf'rows_received_total{{deployment="{NAME}",.*}} (\d+)', found)))

    def captured(self, wanted: int, lost: int = 0) -> int:
        """How many more rows there are once all that is under way has come."""
        until(lambda: self.rows() >= wanted, 90, every=2)
        time.sleep(5)
        return self.rows()

    def evict(self, pod: str) -> None:
        """As a drain of its node does: it goes in its own time, if the budget allows."""
        body = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": pod}}
        path = f"/api/v1/namespaces/{self.matcha.namespace}/pods/{pod}/eviction"
        self.matcha.kubectl("create", f"--raw={path}", "--filename=-", stdin=json.dumps(body))

    def kill(self, pod: str) -> float:
        """Without a word: its processes get SIGKILL. When."""
        at = time.time()
        self.matcha.kubectl("delete", "pod", pod, "--grace-period=0", "--force", "--wait=false")
        return at
