"""Models on several replicas of real pods, asked without a pause from inside of the cluster.

One stack for all; the tests stand in the order of its life, and each leaves it serving.
"""

from __future__ import annotations

import json
import random
import re
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from matcha.components.mlserver import MLServer
from support.cluster import ClusterMatcha
from support.matcha import until
from support.serving import interpreter
from support.steady import Told, application_of, settled, steady

PATIENCE = 240.0  # seconds for a replica to come up on a busy machine
BATCH = 500  # rows that a replica holds at most before it hands them on
NOTICED = 5.0  # seconds until everybody knows that a pod is gone: its node, the API, the node's own rules
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


@pytest.fixture(scope="module")
def scaled(kubeconfig: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scaled]:
    matcha = ClusterMatcha.of_team(tmp_path_factory.mktemp("a team that serves"), kubeconfig)
    made = Scaled(matcha)
    try:
        made.provision()
        made.log_models()
        made.deploy(1)
        yield made
    finally:
        matcha.kubectl("delete", "namespace", application_of(matcha), "--ignore-not-found", "--wait=false")
        matcha.remove()


def well(told: Told, *factors: int) -> None:
    """Not one failed, and none was wrong."""
    assert told.failed == []
    assert told.wrong == []
    assert set(told.answered) == set(factors)


def test_replicas_run_and_are_told_of(scaled: Scaled) -> None:
    scaled.whole(2)
    shown = scaled.shown()
    assert shown["healthy"] and shown["replicas"] == [2, 2]
    lines = scaled.matcha("logs", "model-deployer", "--lines", "3").stdout
    for pod in scaled.ready():
        assert f"[{pod.rpartition('-')[2]}]" in lines


def test_nothing_fails_while_pods_are_rolled_evicted_and_models_redeployed(scaled: Scaled) -> None:
    before = scaled.rows()
    with steady(scaled.matcha, NAME) as asking:
        settled(asking, 5)
        scaled.provision(load=601)  # which changes every pod
        scaled.whole(2)
        assert asking.told().failed == [], "rolled"
        gone = scaled.ready()[0]
        scaled.evict(gone)
        until(lambda: gone not in [p["metadata"]["name"] for p in scaled.pods()], PATIENCE)
        scaled.whole(2)
        assert asking.told().failed == [], "evicted"
        scaled.deploy(2)
        settled(asking, 3)
        now = asking.told().answered
        settled(asking, 3)
        assert asking.told().answered[1] == now[1], "only the new version answers"
        told = asking.stop()
    well(told, 1, 2)
    assert scaled.captured(before + told.sum) == before + told.sum, "of all replicas, in one place"


def test_a_killed_replica_takes_only_what_was_under_way_on_it(scaled: Scaled) -> None:
    before = scaled.rows()
    with steady(scaled.matcha, NAME) as asking:
        settled(asking, 5)
        killed = scaled.ready()[0]
        at = scaled.kill(killed)
        until(lambda: killed not in scaled.ready(), 60)
        scaled.whole(2)
        settled(asking, 3)
        told = asking.stop()
    assert told.wrong == [] and set(told.answered) == {2}
    assert all(f.is_of(at, NOTICED) for f in told.failed), told.failed
    assert len(told.failed) <= 4 * NOTICED / 0.1
    print("failed on the killed replica:", len(told.failed), [f.why for f in told.failed])
    rows = scaled.captured(before + told.sum - BATCH) - before
    assert told.sum - BATCH <= rows <= told.sum + len(told.failed)


def test_replicas_come_with_the_load_and_go_without(scaled: Scaled) -> None:
    scaled.provision(least=1, most=3, target=60)
    # An administrator may look more often than Matcha asks for; nothing else is changed for the test.
    quick = {"spec": {"behavior": {"scaleDown": {"stabilizationWindowSeconds": 15}}}}
    scaled.matcha.kubectl("patch", "hpa", "mlserver", "--type=merge", f"--patch={json.dumps(quick)}")
    with steady(scaled.matcha, NAME, threads=2, pause=0.2) as asking:
        until(lambda: len(scaled.ready()) == 1, 300, every=2)
        with steady(scaled.matcha, NAME, "busy", threads=8, pause=0.0) as busy:
            until(lambda: len(scaled.ready()) >= 2, PATIENCE, every=2)
            settled(busy, 10)
            loaded = busy.stop()
        until(lambda: len(scaled.ready()) == len(scaled.pods()) == 1, 420, every=2)
        settled(asking, 5)
        told = asking.stop()
    well(told, 2)
    well(loaded, 2)
    assert scaled.matcha.json("plan")["steps"] == [] or "HorizontalPodAutoscaler" in str(
        scaled.matcha.json("plan")
    )
    scaled.provision(least=2, most=2)
    scaled.whole(2)


def test_a_model_gets_a_process_of_its_own_and_back_without_a_failed_request(scaled: Scaled) -> None:
    scaled.deploy(2)
    with steady(scaled.matcha, NAME) as asking:
        settled(asking, 3)
        scaled.deploy(3, "--dedicated")
        service = f"dedicated-{NAME}"
        scaled.whole(2, service)
        settled(asking, 3)
        now = asking.told().answered
        gone = scaled.ready(service)[0]
        scaled.evict(gone)
        until(lambda: gone not in [p["metadata"]["name"] for p in scaled.pods(service)], PATIENCE)
        scaled.whole(2, service)
        assert asking.told().answered[2] == now[2] and asking.told().failed == []
        scaled.deploy(1)
        until(lambda: scaled.pods(service) == [], PATIENCE, every=1)
        settled(asking, 3)
        told = asking.stop()
    well(told, 1, 2, 3)


@pytest.mark.sweep
@pytest.mark.parametrize("seconds", [75, 600])
def test_a_steady_load_through_whatever_happens(scaled: Scaled, seconds: int) -> None:
    """Kills, rolls, drains and redeploys in any order: what fails is what a kill took, and no more."""
    chance = random.Random(seconds)
    before, kills, version, load = scaled.rows(), list[float](), 1, scaled.options["load"]
    scaled.deploy(version)
    with steady(scaled.matcha, NAME) as asking:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            what = chance.choice(["kill", "roll", "evict", "redeploy"])
            if what == "kill":
                kills.append(scaled.kill(chance.choice(scaled.ready())))
            elif what == "evict":
                scaled.evict(chance.choice(scaled.ready()))
            elif what == "roll":
                load += 1
                scaled.provision(load=load)
            else:
                version = version % 3 + 1
                scaled.deploy(version)
            time.sleep(2)
            scaled.whole(2)
        told = asking.stop()
    assert told.wrong == []
    unexplained = [
        f for f in told.failed if not any(at <= f.ended and f.began <= at + NOTICED for at in kills)
    ]
    assert unexplained == [], (unexplained, kills)
    rows = scaled.captured(before + told.sum - BATCH * len(kills)) - before
    assert told.sum - BATCH * len(kills) <= rows <= told.sum + len(told.failed)
    print(
        f"{told.sum} answers, {len(told.failed)} failed at {len(kills)} kills, slowest {told.slowest:.2f} s"
    )
