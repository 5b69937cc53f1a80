"""ZenML pipelines on a real node: each step a pod of its own size, led by `matcha run --pipeline`."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Any

import httpx
import pytest

from support.cluster import ClusterMatcha
from support.matcha import until

COMES_UP = 900.0  # seconds; the first has the environment built
PIPELINES = """
import os, sys, time
os.environ |= {"ZENML_ENABLE_RICH_TRACEBACK": "false", "ZENML_LOGGING_COLORS_DISABLED": "true"}
import mlflow
from zenml import pipeline, step
from zenml.config import ResourceSettings

@step
def load() -> int:
    print("token", os.path.exists("/var/run/secrets/kubernetes.io"), flush=True)
    return 3

@step(experiment_tracker=True, settings={"resources": ResourceSettings(gpu_count=1, memory="1100MiB")})
def train(x: int) -> int:
    mlflow.log_metric("seen", x)
    print("devices", os.environ["NVIDIA_DRIVER_CAPABILITIES"], flush=True)
    return x * 2

@step
def show(x: int) -> None:
    print("the answer is", x, flush=True)

@pipeline(enable_cache=False)
def sized():
    show(train(load()))

@step(settings={"resources": ResourceSettings(cpu_count=0.2)})
def fails(x: int) -> int:
    raise ValueError("of all things")

@pipeline(enable_cache=False)
def failing():
    show(fails(1))

@step
def waits(x: int) -> int:
    for number in range(600):
        print("tick", number, flush=True)
        time.sleep(0.5)
    return x

@pipeline(enable_cache=False)
def waiting():
    show(waits(1))

if __name__ == "__main__":
    run = globals()[sys.argv[1]]()
    print("STATUS", run.status.value, flush=True)
"""
RUN = ("run", "--pipeline", "--cpu", "0.2", "--memory", "1Gi", "--", "python", "pipelines.py")


@pytest.fixture(scope="module", autouse=True)
def _code(team: ClusterMatcha) -> None:
    (team.project / "pipelines.py").write_text(PIPELINES)


def jobs(team: ClusterMatcha) -> dict[str, dict[str, Any]]:
    """The newest of each step."""
    return {each["step"]: each for each in reversed(team.json("jobs", "list"))}


def newest_run(team: ClusterMatcha) -> str:
    """Its status, as ZenML has it."""
    shown = team.json("get", "pipeline", "--show-sensitive")["pipeline"]
    url, user, password = (shown[f"server-{name}"] for name in ("url", "username", "password"))
    with httpx.Client(base_url=f"{url}/api/v1", trust_env=False, timeout=60) as server:
        token = server.post("/login", data={"username": user, "password": password}).json()["access_token"]
        server.headers["Authorization"] = f"Bearer {token}"
        found = server.get("/runs", params={"size": 1, "sort_by": "desc:created"}).json()["items"]
    return str(found[0]["body"]["status"])


def patched(team: ClusterMatcha, gpus: str) -> None:
    """A GPU that is none: an extended resource on the node's status, as device plugins put it there."""
    node = json.loads(team.kubectl("get", "nodes", "--output=json"))["items"][0]["metadata"]["name"]
    change = {"op": "add" if gpus else "remove", "path": "/status/capacity/nvidia.com~1gpu"}
    patch = json.dumps([{**change, "value": gpus} if gpus else change])
    team.kubectl("patch", "node", node, "--subresource=status", "--type=json", f"--patch={patch}")


def test_a_step_that_no_node_can_take_is_refused_before_any_runs(team: ClusterMatcha) -> None:
    refused = team(*RUN, "sized", code=1, timeout=COMES_UP)
    assert "Step train: No machine of the cluster can ever run this job: 1 GPU asked for" in refused.stderr
    assert team.json("jobs", "list") == []
    assert newest_run(team) == "failed"
    for option in (("--detach",), ("--image", "python:3.11-slim-bookworm")):
        said = team("run", "--pipeline", *option, "--", "python", "pipelines.py", code=2).stderr
        assert "A pipeline is led from this terminal" in said


def test_each_step_is_a_job_of_its_own_size(team: ClusterMatcha) -> None:
    patched(team, "1")
    try:
        done = team(*RUN, "sized", timeout=COMES_UP)
    finally:
        patched(team, "")
    for line in ("[load] token False", "[train] devices compute,utility", "[show] the answer is 6"):
        assert line in done.stdout
    assert "STATUS completed" in done.stdout
    found = jobs(team)
    assert {name: (each["pipeline"], each["condition"]) for name, each in found.items()} == dict.fromkeys(
        ("load", "train", "show"), ("sized", "succeeded")
    )
    assert [found[n]["gpu"] for n in ("load", "train", "show")] == [0, 1, 0]
    assert [found[n]["memory"] for n in ("load", "train")] == ["1Gi", "1100Mi"]
    assert found["load"]["cpu"] == 0.2
    assert found["load"]["name"].startswith("load-")
    assert "step train of sized" in team("jobs", "list").stdout
    assert "the answer is 6" in team("jobs", "logs", found["show"]["name"]).stdout
    tracker = team.url("experiment-tracker", "tracking-url")
    runs = httpx.post(
        f"{tracker}/api/2.0/mlflow/runs/search",
        json={"experiment_ids": ["0", "1"], "filter": "metrics.seen = 3"},
        trust_env=False,
    ).json()
    assert runs["runs"]


@pytest.mark.turn(0)
def test_a_failing_step_is_named_with_its_log(team: ClusterMatcha) -> None:
    failed = team(*RUN, "failing", code=1, timeout=COMES_UP)
    found = jobs(team)["fails"]
    assert f"Its log: matcha jobs logs {found['name']}" in failed.stdout + failed.stderr
    assert "[fails] " in failed.stdout
    assert "of all things" in failed.stdout
    assert "\u256d" not in failed.stdout + failed.stderr  # no frame around dozens of ZenML's own lines
    assert (found["condition"], found["exit_code"]) == ("failed", 1)
    assert newest_run(team) == "failed"


def started(team: ClusterMatcha, step: str) -> str:
    """The name of the step's job, once it runs."""

    def name() -> str:
        found = jobs(team).get(step)
        return found["name"] if found and found["condition"] == "running" else ""

    return str(until(name, COMES_UP, every=1))


@pytest.mark.sweep  # tests/stack ends pipelines in each way
def test_ctrl_c_ends_the_steps_and_stops_the_run(team: ClusterMatcha, tmp_path: Path) -> None:
    with (tmp_path / "out").open("w") as out:
        options: Any = {"stdout": out, "stderr": out, "start_new_session": True}
        with team.popen(*RUN, "waiting", **options) as client:
            try:
                name = started(team, "waits")
                until(lambda: "[waits] tick" in (tmp_path / "out").read_text(), COMES_UP)
                client.send_signal(signal.SIGINT)
                assert client.wait(120) == 130
            finally:
                client.kill()
    assert "the run is stopped" in (tmp_path / "out").read_text()
    found = {each["name"]: each for each in team.json("jobs", "list")}[name]
    assert found["condition"] == "cancelled"
    assert newest_run(team) == "stopped"


@pytest.mark.sweep
def test_a_pod_that_is_evicted_goes_on_as_the_same_step_and_a_cancelled_job_fails_its_step(
    team: ClusterMatcha, tmp_path: Path
) -> None:
    with (tmp_path / "out").open("w") as out:
        options: Any = {"stdout": out, "stderr": out, "start_new_session": True}
        with team.popen(*RUN, "waiting", **options) as client:
            try:
                name = started(team, "waits")
                until(lambda: "[waits] tick" in (tmp_path / "out").read_text(), COMES_UP)
                evicted(team, name)
                until(lambda: (tmp_path / "out").read_text().count("[waits] tick 0\n") > 1, COMES_UP)
                assert newest_run(team) == "running"
                team("jobs", "cancel", name)
                assert client.wait(180) == 1
            finally:
                client.kill()
    assert "Step `waits` failed: cancelled by" in (tmp_path / "out").read_text()
    assert newest_run(team) == "failed"


def evicted(team: ClusterMatcha, job: str) -> None:
    """As a drain does it."""
    [pod] = team.objects("pods", f"--selector=job-name={job}")
    eviction = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": pod["metadata"]["name"]}}
    address = f"/api/v1/namespaces/{team.namespace}/pods/{pod['metadata']['name']}/eviction"
    team.kubectl("create", f"--raw={address}", "--filename=-", stdin=json.dumps(eviction))
