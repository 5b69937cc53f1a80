"""From nothing to a stack of real pods, through what happens to it, to nothing again.

The tests stand in the order of a stack's life; each leaves it whole.
"""

from __future__ import annotations

import json
import signal
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import httpx
import pytest

from support.clients import LOG_MODELS, PIPELINE, client, v2_client
from support.cluster import ClusterMatcha
from support.killing import Provisioned
from support.matcha import until
from support.pages import marked

BACK = 300.0  # seconds for a pod to come back on a busy machine
SERVICES = {"mlflow", "zenml", "mlserver", "monitoring", "monitoring-work"}

DVC = """
import os, subprocess, sys
os.environ["PATH"] = f"{os.path.dirname(sys.executable)}:{os.environ['PATH']}"
os.chdir("%s")
subprocess.run(["bash", "-ec", '''%s'''], check=True)
"""
PUSH = """
dvc init --no-scm -q; dvc remote add -d stack "%s"
echo a,b > data.csv; dvc add -q data.csv; dvc push -q
"""
PULL = "rm -rf data.csv .dvc/cache; dvc pull -q; cat data.csv"

CAPTURED = """
import os, pandas, s3fs
store = s3fs.S3FileSystem(endpoint_url=os.environ["AWS_ENDPOINT_URL"])
for path in store.find("matcha/monitoring/captures/movie"):
    with store.open(path) as file:
        print(*pandas.read_parquet(file).get("a", ()))
"""

FETCH_DUMP = """
import os, s3fs
store = s3fs.S3FileSystem(endpoint_url=os.environ["AWS_ENDPOINT_URL"])
newest = max(store.glob("matcha/backups/databases-*.sql.gz"))
store.get(newest, os.path.basename(newest))
print(newest)
"""

GRPC = """
import sys
import numpy as np
import tritonclient.grpc as v2

def column(name, values):
    made = v2.InferInput(name, [2, 1], "FP64")
    made.set_data_from_numpy(np.array(values).reshape(2, 1))
    return made

server = v2.InferenceServerClient(sys.argv[1])
found = server.infer("movie", [column("a", [1.0, 2.0]), column("b", [2.0, 1.0])])
print(*found.as_numpy(found.get_response().outputs[0].name).ravel().round(6))
"""

TRACKER = """
from zenml.client import Client
print(Client().active_stack.experiment_tracker.config.tracking_uri)
"""


class Held(NamedTuple):
    """What a stack holds, as each of its servers tells."""

    runs: int  # MLflow's: of the database
    note: str  # an artifact of LOG_MODELS: of the object store, by way of MLflow
    pipelines: tuple[tuple[str, str], ...]  # ZenML's runs and their ends: of the database
    rows: int  # captured: of monitoring's volume


def held(stack: ClusterMatcha) -> Held:
    said = stack.json("get", "--show-sensitive")
    with httpx.Client(timeout=60, trust_env=False) as http:
        return Held(
            *_tracked(http, said["experiment-tracker"]["tracking-url"]),
            _pipelines(http, said["pipeline"]),
            _rows_of_movie(http, said["monitoring"]["dashboard-url"]),
        )


def _tracked(http: httpx.Client, base: str) -> tuple[int, str]:
    asked = {"experiment_ids": ["0"], "max_results": 1000}
    answer = http.post(f"{base}/api/2.0/mlflow/runs/search", json=asked)
    runs = answer.raise_for_status().json().get("runs", ())
    logged = next(run["info"] for run in runs if run["data"].get("metrics"))
    path = logged["artifact_uri"].removeprefix("mlflow-artifacts:/").strip("/")
    note = http.get(f"{base}/api/2.0/mlflow-artifacts/artifacts/{path}/notes/readme.txt")
    return len(runs), note.raise_for_status().text


def _pipelines(http: httpx.Client, server: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
    base = f"{server['server-url']}/api/v1"
    asked = {"username": server["server-username"], "password": server["server-password"]}
    token = http.post(f"{base}/login", data=asked).raise_for_status().json()["access_token"]
    found = http.get(f"{base}/runs", headers={"Authorization": f"Bearer {token}"}).raise_for_status().json()
    return tuple(sorted((run["id"], run["body"]["status"]) for run in found["items"]))


def _rows_of_movie(http: httpx.Client, base: str) -> int:
    found = http.get(f"{base}/v1/deployments").raise_for_status().json()
    return sum(int(known["rows"]) for known in found if known["name"] == "movie")


def dvc(stack: ClusterMatcha, does: str) -> str:
    """In the folder of a data set, which is no part of the project."""
    folder = stack.project.parent / "dataset"
    folder.mkdir(exist_ok=True)
    return client(stack, DVC % (folder, does))


def test_the_first_provision_was_killed_at_every_step(provisioned: Provisioned) -> None:
    """And made the stack that all other tests use."""
    recorded = provisioned.matcha.json("plan")
    assert recorded["steps"] == []
    services = {f"service/{name}" for name in SERVICES}
    killed = provisioned.killed
    # What was done and not recorded may be as wanted already: then the next run has nothing to do there.
    assert services | {"foundation/mysql", "foundation/object-store"} <= {*killed.after, *killed.before}
    assert len(killed.before) >= 3
    assert len(killed.after) >= 8


def test_everything_is_healthy_and_reached_on_loopback(stack: ClusterMatcha) -> None:
    found = stack.json("status")
    assert found["healthy"] and found["target"] == "kubernetes"
    for resource, prop, path in (
        ("experiment-tracker", "tracking-url", "/health"),
        ("pipeline", "server-url", "/health"),
        ("model-deployer", "base-url", "/v2/health/live"),
        ("monitoring", "dashboard-url", "/healthz"),
    ):
        url = stack.url(resource, prop)
        assert url.startswith("http://127.0.0.1:")
        assert httpx.get(f"{url}{path}", timeout=30, trust_env=False).status_code == 200


def test_pods_run_locked_down_and_nothing_is_exposed(stack: ClusterMatcha) -> None:
    [namespace] = stack.objects("namespace", f"--field-selector=metadata.name={stack.namespace}")
    assert namespace["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"
    assert {s["spec"]["type"] for s in stack.objects("services")} == {"ClusterIP"}
    names = {p["metadata"]["labels"]["app.kubernetes.io/name"] for p in stack.objects("pods")}
    assert SERVICES | {"mysql", "object-store"} <= names


def test_status_has_the_memory_of_every_pod(stack: ClusterMatcha) -> None:
    """Which the cluster measures some seconds after a pod's start."""

    def measured() -> set[str]:
        found = stack.json("status")
        parts = {
            **{c["role"]: c for c in found["components"]},
            **{f["name"]: f for f in found["foundations"]},
        }
        return {name for name, part in parts.items() if part["memory"] > 2**20}

    every = {"experiment-tracker", "pipeline", "model-deployer", "monitoring", "mysql", "object-store"}
    until(lambda: measured() == every, 90, every=2)


def test_pages_and_logs_are_found(stack: ClusterMatcha) -> None:
    url = stack.url("pipeline", "server-url")
    assert stack("open", "zenml", "--print").stdout.strip() == url
    for service in sorted(SERVICES | {"mysql", "object-store"}):
        assert stack("logs", service, "--lines", "5").stdout.strip(), service


def test_stock_clients_work_through_the_forwards(stack: ClusterMatcha) -> None:
    assert "RUN" in client(stack, LOG_MODELS)
    found = held(stack)
    assert (found.runs, found.note) == (2, "kept")


def test_a_pipeline_runs_against_the_stack(stack: ClusterMatcha) -> None:
    assert "STATUS completed matcha" in client(stack, PIPELINE)
    assert [end for _, end in held(stack).pipelines] == ["completed"]


def test_a_dvc_client_pushes_to_the_stacks_remote(stack: ClusterMatcha) -> None:
    remote = stack.url("data-version-control", "remote-url")
    assert remote.startswith("s3://")
    dvc(stack, PUSH % remote)
    assert dvc(stack, PULL) == "a,b\n"


def test_a_second_provision_changes_nothing(stack: ClusterMatcha) -> None:
    def versions() -> dict[str, str]:
        kinds = "deployments,statefulsets,services,configmaps,secrets,networkpolicies,persistentvolumeclaims"
        found = {f"{o['kind']}/{o['metadata']['name']}": o for o in stack.objects(kinds)}
        return {
            k: o["metadata"]["resourceVersion"] for k, o in found.items() if not k.endswith("matcha-state")
        }

    before = versions()
    assert "Nothing to do" in stack("provision", "--yes").stdout
    assert versions() == before


def test_a_deployed_model_answers_and_is_captured(stack: ClusterMatcha) -> None:
    stack("deploy", "models:/movie@champion", "--name", "movie")
    answer = stack.json("predict", "movie", "--input", _rows(stack))
    assert answer["predictions"] == pytest.approx([-1.0, 1.0])
    until(lambda: stack.json("monitor", "movie")[0]["window"]["rows"] == 2, 60, every=2)
    assert held(stack).rows == 2
    assert client(stack, CAPTURED).split() == ["1.0", "2.0"]


def test_the_open_inference_protocol_is_spoken_through_the_forwards(
    stack: ClusterMatcha, tmp_path: Path
) -> None:
    columns = {"a": [1.0, 2.0], "b": [2.0, 1.0]}
    asked = [
        {"name": n, "datatype": "FP64", "shape": [2, 1], "data": values} for n, values in columns.items()
    ]
    url = f"{stack.url('model-deployer', 'base-url')}/v2/models/movie/infer"
    answer = httpx.post(url, json={"inputs": asked}, timeout=60, trust_env=False)
    assert answer.raise_for_status().json()["outputs"][0]["data"] == pytest.approx([-1.0, 1.0])
    address = stack.url("model-deployer", "grpc-url")
    assert address.startswith("127.0.0.1:")
    command = [v2_client(tmp_path), "-c", GRPC, address]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, done.stdout.split()) == (0, ["-1.0", "1.0"]), done.stderr


ASK = """
import json, sys, urllib.request
columns = {"a": [1.0, 2.0], "b": [2.0, 1.0]}
inputs = [{"name": n, "datatype": "FP64", "shape": [2, 1], "data": v} for n, v in columns.items()]
content = json.dumps({"inputs": inputs}).encode()
request = urllib.request.Request(sys.argv[1], content, {"Content-Type": "application/json"})
print("data", json.load(urllib.request.urlopen(request, timeout=60))["outputs"][0]["data"])
"""


def test_an_application_of_another_namespace_asks_a_model_by_its_address(stack: ClusterMatcha) -> None:
    """No policy is enforced on this node: what is shown is that the server takes that address."""
    url = f"http://mlserver.{stack.namespace}:8080/v2/models/movie/infer"
    name, other = f"app-{stack.namespace}", "--namespace=default"
    pod = ("--image=python:3.11-slim-bookworm", "--restart=Never", "--command", "--", "python")
    stack.kubectl("run", name, other, *pod, "-c", ASK, url)
    try:  # its log is whole once it ended; what is attached to a pod as short as this one may miss it
        done = "--for=jsonpath={.status.phase}=Succeeded"
        stack.kubectl("wait", f"pod/{name}", other, done, "--timeout=120s")
        answer = json.loads(stack.kubectl("logs", name, other).partition("data ")[2])
    finally:
        stack.kubectl("delete", "pod", name, other, "--wait=false")
    assert answer == pytest.approx([-1.0, 1.0])


def _rows(stack: ClusterMatcha) -> str:
    path = stack.project / "rows.json"
    path.write_text(json.dumps([{"a": 1.0, "b": 2.0}, {"a": 2.0, "b": 1.0}]))
    return str(path)


def assert_kept(stack: ClusterMatcha, before: Held) -> None:
    """Also what is served: by its answers, which are captured too."""
    now = held(stack)
    assert now == before._replace(rows=now.rows)
    assert now.rows >= before.rows > 0
    answer = stack.json("predict", "movie", "--input", _rows(stack))
    assert answer["predictions"] == pytest.approx([-1.0, 1.0])


@pytest.mark.sweep
@pytest.mark.parametrize("name", ["mlflow", "zenml", "mlserver", "monitoring", "object-store"])
def test_a_deleted_pod_comes_back_with_its_data(stack: ClusterMatcha, name: str) -> None:
    before = held(stack)
    stack.kubectl("delete", "pod", f"--selector=app.kubernetes.io/name={name}", "--wait=true")
    until(stack.is_healthy, BACK, every=2)
    stack.kubectl("wait", "--for=condition=ready", "pod", f"--selector=app.kubernetes.io/name={name}")
    assert_kept(stack, before)
    if name == "object-store":
        assert dvc(stack, PULL) == "a,b\n"


def test_the_database_dies_under_writes_and_nothing_acknowledged_is_lost(stack: ClusterMatcha) -> None:
    base = stack.url("experiment-tracker", "tracking-url")
    acknowledged: list[str] = []
    deadline = time.monotonic() + BACK
    deleted = False
    with httpx.Client(base_url=f"{base}/api/2.0/mlflow", timeout=30, trust_env=False) as http:
        while time.monotonic() < deadline and not (deleted and len(acknowledged) > 60):
            try:
                answer = http.post("/runs/create", json={"experiment_id": "0", "run_name": "under fire"})
                if answer.status_code == 200:
                    acknowledged.append(answer.json()["run"]["info"]["run_id"])
            except httpx.HTTPError:
                time.sleep(0.5)
            if len(acknowledged) == 20 and not deleted:
                stack.kubectl("delete", "pod", "mysql-0", "--wait=false", "--grace-period=1")
                deleted = True
        assert deleted and len(acknowledged) > 60
        for run in acknowledged:
            found = http.get("/runs/get", params={"run_id": run})
            assert found.status_code == 200, run
    until(stack.is_healthy, BACK, every=2)


@pytest.mark.turn(1)
def test_a_database_that_is_away_for_long_restarts_nobody(stack: ClusterMatcha) -> None:
    """A server that is ended for it could not start without it either."""

    def restarts() -> dict[str, int]:
        servers = stack.objects("pods", "--selector=!job-name")  # a Job that is done is tidied away
        pods = (p for p in servers if not p["metadata"]["name"].startswith("mysql"))
        return {
            p["metadata"]["name"]: s["restartCount"]
            for p in pods
            for s in p["status"].get("containerStatuses", ())
        }

    before = restarts()
    stack.kubectl("scale", "statefulset", "mysql", "--replicas=0")
    stack.kubectl("wait", "--for=delete", "pod/mysql-0", "--timeout=170s")
    time.sleep(70)
    assert not stack.is_healthy()
    stack("provision", "--yes")
    until(stack.is_healthy, BACK, every=2)
    assert restarts() == before


@pytest.mark.sweep  # the API server's tests delete workloads, and see them planned and repaired
def test_every_deleted_workload_is_planned_and_repaired(stack: ClusterMatcha) -> None:
    before = held(stack)
    stack.kubectl("delete", "deployments,statefulsets", "--all", "--wait=true")
    assert stack("status", code=None).returncode == 1
    planned = {s["key"] for s in stack.json("plan")["steps"]}
    assert {f"service/{name}" for name in SERVICES} <= planned
    assert {"foundation/mysql", "foundation/object-store"} <= planned
    stack("provision", "--yes")
    assert stack.is_healthy()
    assert_kept(stack, before)


def test_an_edit_by_hand_is_shown_and_taken_back(stack: ClusterMatcha) -> None:
    stack.kubectl(
        "set", "env", "deployment/zenml", "ZENML_ANALYTICS_OPT_IN=true", "--field-manager=kubectl-edit"
    )
    [step] = [s for s in stack.json("plan")["steps"] if s["key"] == "service/zenml"]
    assert "kubectl-edit" in step["reason"] and "env" in step["reason"]
    stack("provision", "--yes")
    [zenml] = stack.objects("deployments", "--field-selector=metadata.name=zenml")
    env = {e["name"]: e.get("value") for e in zenml["spec"]["template"]["spec"]["containers"][0]["env"]}
    assert env["ZENML_ANALYTICS_OPT_IN"] == "false"


def test_another_manager_is_asked_about(stack: ClusterMatcha) -> None:
    theirs = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "mlflow"},
        "spec": {"sessionAffinity": "ClientIP", "type": "NodePort"},
    }
    stack.kubectl(
        "apply",
        "--server-side",
        "--force-conflicts",
        "--field-manager=argocd",
        "-f",
        "-",
        stdin=json.dumps(theirs),
    )
    refused = stack("provision", "--yes", code=1)
    assert "argocd" in refused.stderr and "--force" in refused.stderr
    stack("provision", "--yes", "--force")
    [service] = stack.objects("services", "--field-selector=metadata.name=mlflow")
    assert service["spec"]["type"] == "ClusterIP"


@pytest.mark.turn(0)
def test_two_users_share_one_stack(stack: ClusterMatcha, tmp_path: Path) -> None:
    other = ClusterMatcha(tmp_path / "other", tmp_path / "home", stack.kubeconfig, stack.namespace)
    try:
        assert other.is_healthy()
        ours, theirs = (
            stack.url("experiment-tracker", "tracking-url"),
            other.url("experiment-tracker", "tracking-url"),
        )
        assert ours != theirs  # each on a loopback port of its own
        assert httpx.get(f"{theirs}/health", timeout=30, trust_env=False).status_code == 200
        assert [client(user, TRACKER).split()[-1] for user in (stack, other)] == [ours, theirs]
        assert "STATUS completed matcha" in client(other, PIPELINE)
        stack.kubectl("delete", "deployment", "zenml", "--wait=true")
        first = stack.popen("provision", "--yes", stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        second = other.popen("provision", "--yes", stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        said = [p.communicate(timeout=600)[0] for p in (first, second)]
        assert (first.returncode, second.returncode) == (0, 0), said
        assert stack.is_healthy() and other.is_healthy()
    finally:
        other.let_go()


@pytest.mark.sweep  # every step of a first provision was killed already
@pytest.mark.parametrize("after", [2.0, 6.0, 12.0])
def test_a_killed_provision_is_finished_by_the_next(stack: ClusterMatcha, after: float) -> None:
    stack.kubectl("delete", "deployment", "mlflow", "zenml", "--wait=true")
    stack.kubectl("delete", "service", "mlserver", "--wait=true")
    killed = stack.popen("provision", "--yes", stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    time.sleep(after)
    killed.send_signal(signal.SIGKILL)
    killed.wait(30)
    stack("provision", "--yes")
    assert stack.is_healthy()


@pytest.mark.turn(1)
def test_a_drained_node_gives_the_pods_back(stack: ClusterMatcha) -> None:
    before, nodes = held(stack), stack.objects("nodes")
    if len(nodes) == 1:
        _drain(stack, nodes[0]["metadata"]["name"])
    else:  # a stranger's cluster: its nodes are left alone, and the pods are asked to go as a drain does
        _evict(stack)
    until(stack.is_healthy, BACK, every=2)
    assert_kept(stack, before)
    assert before.runs > 60 and before.pipelines


def _drain(stack: ClusterMatcha, node: str) -> None:
    try:
        stack.kubectl("drain", node, "--ignore-daemonsets", "--delete-emptydir-data", "--timeout=170s")
    finally:
        stack.kubectl("uncordon", node)


def _evict(stack: ClusterMatcha) -> None:
    for pod in stack.objects("pods", "--field-selector=status.phase=Running"):
        name = pod["metadata"]["name"]
        eviction = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": name}}
        path = f"/api/v1/namespaces/{stack.namespace}/pods/{name}/eviction"
        stack.kubectl("create", f"--raw={path}", "--filename=-", stdin=json.dumps(eviction))


@pytest.mark.turn(0)
def test_stopped_and_started_it_has_its_data(stack: ClusterMatcha) -> None:
    before = held(stack)
    stack("stop")
    assert [p for p in stack.objects("pods") if p["status"]["phase"] == "Running"] == []
    assert stack("status", code=None).returncode == 1
    stack("start")
    assert stack.is_healthy()
    assert_kept(stack, before)
    assert [c["spec"]["suspend"] for c in stack.objects("cronjobs")] == [False]


def test_a_lost_database_comes_back_from_a_dump(stack: ClusterMatcha) -> None:
    """As docs/kubernetes.md says; the dump is made now instead of at night."""
    before = held(stack)
    stack.kubectl("create", "job", "dump-now", "--from=cronjob/mysql-dump")
    stack.kubectl("wait", "--for=condition=complete", "job/dump-now", "--timeout=170s")
    client(stack, FETCH_DUMP)
    admin = 'exec mysql --host=127.0.0.1 --user=root --password="$MYSQL_ROOT_PASSWORD"'
    drop = ("exec", "--stdin", "mysql-0", "--", "sh", "-c", admin)
    stack.kubectl(*drop, stdin="DROP DATABASE mlflow; DROP DATABASE zenml;")
    [restore] = marked(__file__)
    stack.shell(restore.text.replace("--namespace matcha-docs ", f"--namespace {stack.namespace} "))
    assert_kept(stack, before)
    stack.kubectl("delete", "job", "dump-now")


def test_the_example_runs_as_jobs_unchanged(stack: ClusterMatcha) -> None:
    """Its pipeline deploys, which a job may not: whoever follows it does. What it wrote into its folder went
    with the job; what another asks for comes from MLflow.
    """
    alias = {
        "name": "movie",
        "alias": "champion",
    }  # of a model of other columns
    registry = f"{stack.url('experiment-tracker', 'tracking-url')}/api/2.0/mlflow/registered-models/alias"
    httpx.request("DELETE", registry, json=alias, trust_env=False).raise_for_status()
    stack("example", "get", "recommendation")
    example = stack.project / "recommendation"
    trained = stack("run", "--", "python", "run.py", where=example)
    assert "asks to deploy models:/movie@champion as movie" in trained.stderr
    assert "rmse_of_movie_mean" in trained.stdout
    served = httpx.get(f"{stack.url('model-deployer', 'base-url')}/v2/models/movie", trust_env=False).json()
    assert [each["name"] for each in served["inputs"]] == ["user_id", "movie_id"]
    asked = stack("run", "--", "python", "inference.py", "--user", "42", "--top", "3", where=example)
    assert "For user 42, the best of" in asked.stdout
    until(lambda: stack.json("monitor", "movie")[0]["status"] == "drift", 60, every=3)
    ended = {job["condition"] for job in stack.json("jobs", "list")}
    assert ended == {"succeeded"}


@pytest.mark.sweep  # as jobs it runs always, and so do other pipelines
def test_the_example_runs_as_a_pipeline_of_jobs(stack: ClusterMatcha) -> None:
    """Each step is a pod of its own, and the last one deploys."""
    example = stack.project / "recommendation"
    led = stack("run", "--pipeline", "--", "python", "run.py", where=example)
    assert "asks to deploy models:/movie@champion as movie" in led.stderr
    assert "rmse_of_movie_mean" in led.stdout
    assert "[deploy] Endpoint: " in led.stdout
    newest = {job["step"]: job for job in reversed(stack.json("jobs", "list"))}
    steps = {name: (job["pipeline"], job["condition"]) for name, job in newest.items() if name}
    assert steps == dict.fromkeys(
        ("load", "train", "evaluate", "register", "deploy"), ("recommendation", "succeeded")
    )


def test_destroy_keeps_data_unless_told_and_then_leaves_nothing(stack: ClusterMatcha) -> None:
    before, captured = held(stack), client(stack, CAPTURED)
    said = stack("destroy", "--yes").stdout
    assert "PersistentVolumeClaim mysql" in said
    assert stack.objects("deployments,statefulsets,services,networkpolicies") == []
    stack("provision", "--yes")
    now = held(stack)
    assert now == before._replace(rows=now.rows)
    assert dvc(stack, PULL) == "a,b\n"
    assert len(client(stack, CAPTURED).split()) >= len(captured.split()) > 0
    stack("destroy", "--yes", "--delete-data")
    gone = f"--field-selector=metadata.name={stack.namespace}"
    until(lambda: stack.objects("namespaces", gone) == [], 120, every=2)
    assert stack.processes() == []
    assert [str(p) for p in stack.home.rglob("*") if p.is_file()] == []
    assert "nothing to destroy" in stack("destroy", "--yes").stdout
