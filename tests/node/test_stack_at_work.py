"""Windows of monitoring are made in a pod of their own, which may be missing or be ended for its memory."""

from __future__ import annotations

import json
import random

import httpx
import pytest

from support.clients import client
from support.cluster import ClusterMatcha
from support.matcha import until
from support.scaled import Scaled

WORK = "monitoring-work"
NAME = "watched"
COMES_UP = 900.0  # seconds on a busy machine
COLUMNS = "abcde"
TRAIN = """
import mlflow, numpy, pandas
from mlflow.models import infer_signature
from sklearn.linear_model import LinearRegression

drawn = numpy.random.default_rng(0).normal(size=(2000, 5))
data = pandas.DataFrame(drawn, columns=list("abcde"))
target = data.sum(axis=1)
with mlflow.start_run():
    data.to_parquet("reference.parquet")
    mlflow.log_artifact("reference.parquet", "matcha")
    mlflow.sklearn.log_model(
        LinearRegression().fit(data, target),
        name="model",
        signature=infer_signature(data, target),
        registered_model_name="watched",
    )
"""
LIMIT = "/spec/template/spec/containers/0/resources/limits/memory"


@pytest.fixture(scope="module")
def served(scaled: Scaled) -> ClusterMatcha:
    """A stack that serves a model whose run keeps a reference."""
    client(scaled.matcha, TRAIN)
    scaled.matcha("deploy", "models:/watched/1", "--name", NAME, timeout=COMES_UP)
    return scaled.matcha


def ask(stack: ClusterMatcha, rows: int, *, moved: float = 0.0) -> None:
    """Of the model; `moved` is added to column a."""
    drawn = random.Random(rows)
    asked = [{name: drawn.gauss(moved if name == "a" else 0.0, 1) for name in COLUMNS} for _ in range(rows)]
    path = stack.project / "rows.json"
    path.write_text(json.dumps(asked))
    stack.json("predict", NAME, "--input", str(path))
    until(lambda: waiting(stack) == rows, 60, every=1)


def waiting(stack: ClusterMatcha) -> int:
    """Rows that monitoring has and no window holds."""
    url = f"{stack.url('monitoring', 'dashboard-url')}/v1/deployments"
    found = httpx.get(url, timeout=30, trust_env=False).raise_for_status().json()
    return next(int(known["waiting"]) for known in found if known["name"] == NAME)


def test_a_window_is_made_and_its_pod_has_no_right_and_reserves_little(served: ClusterMatcha) -> None:
    ask(served, 300, moved=2.0)
    [found] = served.json("monitor", NAME)
    assert (found["status"], found["drifted"], found["window"]["rows"]) == ("drift", ["a"], 300)
    [pod] = served.objects("pods", f"--selector=app.kubernetes.io/name={WORK}")
    assert pod["spec"]["automountServiceAccountToken"] is False
    [container] = pod["spec"]["containers"]
    assert container["resources"]["requests"]["memory"] == "128Mi"
    assert container["resources"]["limits"]["memory"] == "4Gi"
    assert served.objects("roles,rolebindings") == []


def test_without_its_pod_nothing_is_lost_and_it_is_said(served: ClusterMatcha) -> None:
    served.kubectl("scale", "deployment", WORK, "--replicas=0")
    gone = ("--for=delete", "pod", f"--selector=app.kubernetes.io/name={WORK}")
    served.kubectl("wait", *gone, "--timeout=170s")
    ask(served, 200)
    refused = served("monitor", NAME, code=1)
    assert f"does not answer at http://{WORK}:8091" in refused.stderr
    assert not served.is_healthy()
    served("provision", "--yes")
    assert served.is_healthy()
    [found] = served.json("monitor", NAME)
    assert (found["status"], found["window"]["rows"]) == ("ok", 200)


def test_a_window_that_needs_more_memory_than_there_is_ends_that_pod_alone(served: ClusterMatcha) -> None:
    before = restarts(served, "monitoring")
    little = [{"op": "replace", "path": LIMIT, "value": "150Mi"}]
    served.kubectl("patch", "deployment", WORK, "--type=json", f"--patch={json.dumps(little)}")
    served.kubectl("rollout", "status", f"deployment/{WORK}", "--timeout=170s")
    ask(served, 250)
    refused = served("monitor", NAME, code=1, timeout=300)
    assert "was ended 2 times in the middle of this one" in refused.stderr
    assert "work-memory-mb of monitoring in matcha.yaml" in refused.stderr
    assert restarts(served, "monitoring") == before
    served("provision", "--yes")  # what somebody changed is as it was
    [found] = served.json("monitor", NAME)
    assert (found["status"], found["window"]["rows"]) == ("ok", 250)


def restarts(stack: ClusterMatcha, name: str) -> list[int]:
    pods = stack.objects("pods", f"--selector=app.kubernetes.io/name={name}")
    return [status["restartCount"] for pod in pods for status in pod["status"]["containerStatuses"]]
