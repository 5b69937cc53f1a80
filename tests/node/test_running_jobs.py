"""Training jobs as real pods: what they reach, how they end, that they go on without who started them.

One stack and one environment for all: each test leaves both as they were.
"""

from __future__ import annotations

import json
import signal
import subprocess
from typing import IO, Any

import httpx
import pytest

from support.cluster import ClusterMatcha
from support.matcha import until

COMES_UP = 600.0  # seconds; the first job has its environment built
TRAIN = """
import json, os, sys
import mlflow
import matcha
assert matcha.connect()["MLFLOW_TRACKING_URI"] == os.environ["MLFLOW_TRACKING_URI"]
with mlflow.start_run() as run:
    mlflow.log_metric("loss", 0.5)
    mlflow.log_text("kept", "note.txt")
print("run", run.info.run_id, os.path.relpath(os.getcwd(), os.environ["MATCHA_PROJECT"]), flush=True)
print("token", os.path.exists("/var/run/secrets/kubernetes.io"))
print("passwords", sorted(k for k in os.environ if "MYSQL" in k or "DATABASE" in k))
print("ignored", os.path.exists(os.path.join(os.environ["MATCHA_PROJECT"], "big.bin")))
sys.exit(int(sys.argv[1]))
"""
# What only waits or ends needs no packages; without an environment to lay out it starts at once.
BARE = ("--image", "python:3.11-slim-bookworm")
TICK = """
import signal, sys, time
signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
for number in range(600):
    print("tick", number, flush=True)
    time.sleep(0.5)
"""


@pytest.fixture(scope="module", autouse=True)
def _code(team: ClusterMatcha) -> None:
    for name, text in {"train.py": TRAIN, "tick.py": TICK, "sub/x.py": ""}.items():
        (team.project / name).parent.mkdir(exist_ok=True)
        (team.project / name).write_text(text)
    (team.project / ".gitignore").write_text("*.bin\n")
    (team.project / "big.bin").write_bytes(b"x" * 2**20)


def jobs(team: ClusterMatcha) -> dict[str, dict[str, Any]]:
    return {each["name"]: each for each in team.json("jobs", "list")}


def started(team: ClusterMatcha, *command: str) -> str:
    """The name of a job that runs."""
    name = team("run", "--detach", *command, timeout=COMES_UP).stdout.strip()
    until(lambda: jobs(team)[name]["condition"] == "running", COMES_UP, every=1)
    return name


def test_a_job_reaches_the_stack_and_its_exit_code_comes_back(team: ClusterMatcha) -> None:
    done = team(
        "run", "--", "python", "../train.py", "3", where=team.project / "sub", code=3, timeout=COMES_UP
    )
    lines = dict(line.split(" ", 1) for line in done.stdout.splitlines() if " " in line)
    run, folder = lines["run"].split()
    assert folder == "sub"
    assert (lines["token"], lines["passwords"], lines["ignored"]) == ("False", "[]", "False")
    tracker = team.url("experiment-tracker", "tracking-url")
    assert f"{tracker}/#/experiments/0/runs/{run}" in done.stdout  # which opens for whoever reads it
    found = httpx.get(f"{tracker}/api/2.0/mlflow/runs/get", params={"run_id": run}, trust_env=False).json()
    assert found["run"]["data"]["metrics"][0]["value"] == 0.5
    [job] = [each for each in jobs(team).values() if each["exit_code"] == 3]
    assert (job["condition"], job["command"]) == ("failed", ["python", "../train.py", "3"])
    last = team("jobs", "logs", job["name"], "--lines", "1")
    assert last.stdout.splitlines() == done.stdout.splitlines()[-1:]
    assert "The last 1 lines; more of them by --lines." in last.stderr
    assert "--lines" not in team("jobs", "logs", job["name"]).stderr


def test_the_environment_is_built_once(team: ClusterMatcha) -> None:
    before = {o["metadata"]["name"]: o["metadata"]["uid"] for o in team.objects("jobs")}
    assert team("run", "--", "python", "-c", "print('hello')", timeout=COMES_UP).stdout == "hello\n"
    after = {o["metadata"]["name"]: o["metadata"]["uid"] for o in team.objects("jobs")}
    assert {n: u for n, u in after.items() if n.startswith("build-")} == {
        n: u for n, u in before.items() if n.startswith("build-")
    }


@pytest.mark.parametrize(("server", "expected"), [("mlflow:5001", "open"), ("mysql:3306", "closed")])
def test_a_job_gets_to_the_stack_and_not_to_its_database(
    team: ClusterMatcha, server: str, expected: str
) -> None:
    """By the rules themselves: the network of this node does not enforce policies."""
    host = server.partition(":")[0]
    [policy] = team.objects("networkpolicies", f"--field-selector=metadata.name=matcha-{host}")
    callers = [
        peer["podSelector"]["matchLabels"]["app.kubernetes.io/name"]
        for rule in policy["spec"]["ingress"]
        for peer in rule["from"]
    ]
    assert ("job" in callers) is (expected == "open")


def test_what_can_never_run_is_refused_at_once(team: ClusterMatcha) -> None:
    before = set(jobs(team))
    for options, said in (
        (["--gpu", "1"], "1 GPU asked for, and none has any"),
        (["--memory", "900Gi"], "900Gi of memory needed"),
        (["--cpu", "999"], "999 CPUs asked for"),
    ):
        refused = team("run", *options, "--", "python", "train.py", code=2, timeout=60)
        assert said in refused.stderr
    assert set(jobs(team)) == before


def test_a_gpu_job_runs_on_a_tainted_node_and_waits_for_a_declared_pool(team: ClusterMatcha) -> None:
    """A GPU that is none: an extended resource on the node's status, as device plugins put it there."""
    node = json.loads(team.kubectl("get", "nodes", "--output=json"))["items"][0]["metadata"]["name"]
    file, whole = team.project / "matcha.yaml", (team.project / "matcha.yaml").read_text()
    try:
        file.write_text(
            whole.replace("components:", "    pools: {gpu: {gpu: 2, cpu: 4, memory: 8Gi}}\ncomponents:")
        )
        command = ("python", "-c", "print('on a gpu')")
        queued = team("run", *BARE, "--detach", "--gpu", "1", "--", *command, timeout=COMES_UP)
        name = queued.stdout.strip()
        assert "one of the pool gpu has to be added" in queued.stderr
        waiting = until(
            lambda: "nvidia.com/gpu" in (jobs(team)[name]["detail"]) and jobs(team)[name], 60, every=1
        )
        assert waiting["condition"] == "queued"
        patch = '[{"op": "add", "path": "/status/capacity/nvidia.com~1gpu", "value": "1"}]'
        team.kubectl("patch", "node", node, "--subresource=status", "--type=json", f"--patch={patch}")
        team.kubectl("taint", "node", node, "sku=gpu:NoSchedule")
        assert "on a gpu" in team("jobs", "logs", name, "--follow", timeout=COMES_UP).stdout
        assert jobs(team)[name]["condition"] == "succeeded"
    finally:
        file.write_text(whole)
        team.kubectl("taint", "node", node, "sku-", code=None)
        gone = '[{"op": "remove", "path": "/status/capacity/nvidia.com~1gpu"}]'
        team.kubectl(
            "patch", "node", node, "--subresource=status", "--type=json", f"--patch={gone}", code=None
        )


def test_more_memory_than_its_limit_is_told(team: ClusterMatcha) -> None:
    ate = team(
        "run",
        "--memory",
        "200Mi",
        "--",
        "python",
        "-c",
        "x = bytearray(800 * 2**20)",
        code=137,
        timeout=COMES_UP,
    )
    assert "it needed more memory than 200Mi" in ate.stderr
    assert "matcha run --memory" in ate.stderr


def test_it_goes_on_when_whoever_started_it_dies(team: ClusterMatcha) -> None:
    quiet: Any = {"stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
    with team.popen("run", *BARE, "--", "python", "tick.py", **quiet) as client:
        try:
            until(lambda: "tick" in lines(client).readline(), COMES_UP)
        finally:
            client.kill()
    [name] = [n for n, each in jobs(team).items() if each["condition"] == "running"]
    with team.popen("jobs", "logs", name, "--follow", "--lines", "1", **quiet) as again:
        try:
            first, second = (int(lines(again).readline().split()[1]) for _ in range(2))
            assert second == first + 1
            team("jobs", "cancel", name)
            lines(again).read()
            assert again.wait(120) == 0
        finally:
            again.kill()
    until(lambda: jobs(team)[name]["condition"] == "cancelled", 120, every=1)
    until(lambda: not team.objects("pods", f"--selector=job-name={name}"), 60, every=1)
    assert "is over" in team("jobs", "cancel", name, code=1).stderr


def lines(process: subprocess.Popen[str]) -> IO[str]:
    assert process.stdout
    return process.stdout


def test_ctrl_c_ends_it(team: ClusterMatcha) -> None:
    pipes: Any = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    command = ("run", *BARE, "--", "python", "tick.py")
    with team.popen(*command, start_new_session=True, **pipes) as client:
        try:
            until(lambda: "tick" in lines(client).readline(), COMES_UP)
            client.send_signal(signal.SIGINT)
            _, said = client.communicate(timeout=60)
        finally:
            client.kill()
    assert client.returncode == 130
    assert "Ending tick-" in said
    until(lambda: not any(j["condition"] == "running" for j in jobs(team).values()), 120, every=1)


def test_a_drained_node_starts_it_again_and_a_wrong_command_does_not(team: ClusterMatcha) -> None:
    """An eviction is what a drain does; the command's own failure is its end."""
    name = started(team, *BARE, "--", "python", "tick.py")
    [pod] = team.objects("pods", f"--selector=job-name={name}")
    eviction = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": pod["metadata"]["name"]}}
    address = f"/api/v1/namespaces/{team.namespace}/pods/{pod['metadata']['name']}/eviction"
    team.kubectl("create", f"--raw={address}", "--filename=-", stdin=json.dumps(eviction))

    def others() -> list[Any]:
        pods = team.objects("pods", f"--selector=job-name={name}")
        return [p for p in pods if p["metadata"]["uid"] != pod["metadata"]["uid"]]

    until(others, 180, every=1)
    until(lambda: jobs(team)[name]["condition"] == "running", COMES_UP, every=1)
    assert "would be ended" in team("stop", code=1).stderr
    team("jobs", "cancel", name)
    until(lambda: jobs(team)[name]["condition"] == "cancelled", 120, every=1)
    wrong = team("run", *BARE, "--", "nosuchprogram", code=127, timeout=COMES_UP)
    assert "its command could not be started" in wrong.stderr


def test_jobs_queue_and_starve_no_server(team: ClusterMatcha) -> None:
    """More than the node takes: what does not fit waits. A server that is made anew gets its room, from a job
    if need be, which starts again and has not failed.
    """
    names = [
        team("run", *BARE, "--detach", "--cpu", "0.4", "--", "python", "tick.py").stdout.strip()
        for _ in range(6)
    ]
    waiting = until(lambda: [n for n in names if "Insufficient cpu" in jobs(team)[n]["detail"]], 120, every=1)
    assert len(waiting) < len(names)
    for server in ("mlflow", "object-store"):
        [pod] = team.objects("pods", f"--selector=app.kubernetes.io/name={server}")
        team.kubectl("delete", "pod", pod["metadata"]["name"], "--wait=false")
    until(team.is_healthy, 240, every=2)
    assert {jobs(team)[n]["condition"] for n in names} <= {"queued", "starting", "running"}
    for name in names:
        team("jobs", "cancel", name)
    until(lambda: {jobs(team)[n]["condition"] for n in names} == {"cancelled"}, 120, every=1)
    theirs = f"--selector=job-name in ({','.join(names)})"
    until(lambda: not team.objects("pods", theirs), 120, every=1)


def test_what_a_job_read_goes_with_it_and_destroy_leaves_nothing(team: ClusterMatcha) -> None:
    secrets_of_jobs = team.objects("secrets", "--selector=app.kubernetes.io/name=job")
    assert secrets_of_jobs
    assert all(s["metadata"]["ownerReferences"][0]["kind"] == "Job" for s in secrets_of_jobs)
    assert team.objects("priorityclasses", f"--field-selector=metadata.name=matcha-jobs-{team.namespace}")
    team("destroy", "--yes", "--delete-data")
    assert not team.objects("priorityclasses", f"--field-selector=metadata.name=matcha-jobs-{team.namespace}")
    assert team.kubectl("get", "namespace", team.namespace, "--ignore-not-found") == ""
