"""Jobs whose machine goes without a word, and comes back: soon, or after it was given up.

Only for the node that is made by `tests/e2e/cluster`: its machine is ended by `lose`, and back by `again`.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from support.cluster import ClusterMatcha
from support.matcha import until

SCRIPTS = Path(__file__).resolve().parents[1] / "e2e" / "cluster"
NO_SERVERS = (
    "components:\n  pipeline: null\n  model-deployer: null\n  monitoring: null\n  experiment-tracker: null\n"
)
BARE = ("--image", "python:3.11-slim-bookworm")
BACK = 400.0  # seconds until a machine is missed, its pods are gone, and the job has run to its end
LASTS = """
import signal, sys, time
signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
print('began', flush=True); time.sleep(15); print('ended', flush=True)
"""


@pytest.fixture(scope="module")
def machine(kubeconfig: Path) -> Path:
    """The folder of a cluster that was made here."""
    state = kubeconfig.parent
    if not (state / ".cluster").exists():
        pytest.skip("a machine is lost only where tests/e2e/cluster made it")
    return state


def run(script: str, machine: Path, *options: str) -> None:
    subprocess.run([SCRIPTS / script, machine, *options], check=True, timeout=300, stdin=subprocess.DEVNULL)


@pytest.fixture(scope="module")
def team(kubeconfig: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ClusterMatcha]:
    folder = tmp_path_factory.mktemp("a team on one machine")
    with ClusterMatcha.provisioned(folder, kubeconfig, NO_SERVERS) as made:
        yield made


def job(team: ClusterMatcha, name: str) -> dict[str, Any]:
    [found] = [each for each in team.json("jobs", "list") if each["name"] == name]
    return dict(found)


def begun(team: ClusterMatcha) -> str:
    """The name of a job whose command runs."""
    command = ("python", "-c", LASTS)
    name = team("run", *BARE, "--detach", "--", *command, timeout=BACK).stdout.strip()
    until(lambda: "began" in team("jobs", "logs", name).stdout, BACK, every=1)
    return name


def pods(team: ClusterMatcha, name: str) -> list[dict[str, Any]]:
    return team.objects("pods", f"--selector=job-name={name}")


@pytest.mark.sweep
@pytest.mark.parametrize("how", [(), ("--told",)], ids=["without a word", "told to end"])
def test_it_starts_again_on_a_machine_that_comes_back_at_once(
    team: ClusterMatcha, machine: Path, how: tuple[str, ...]
) -> None:
    """Its pods are there still, and their containers are not: nobody knows how these ended."""
    name = begun(team)
    [first] = pods(team, name)
    run("lose", machine, *how)
    run("again", machine)
    until(lambda: job(team, name)["condition"] == "succeeded", BACK, every=2)
    assert "ended" in team("jobs", "logs", name).stdout
    uids = {pod["metadata"]["uid"] for pod in pods(team, name)}
    assert len(uids | {first["metadata"]["uid"]}) == 2


def test_it_starts_again_when_its_machine_was_given_up(team: ClusterMatcha, machine: Path) -> None:
    name = begun(team)
    [first] = pods(team, name)
    run("lose", machine)
    team.kubectl("delete", "node", first["spec"]["nodeName"])
    until(lambda: _is_given_up(team, name, first), BACK, every=2)
    run("again", machine)
    until(lambda: job(team, name)["condition"] == "succeeded", BACK, every=2)
    [second] = [pod for pod in pods(team, name) if pod["status"]["phase"] == "Succeeded"]
    assert second["metadata"]["uid"] != first["metadata"]["uid"]


def _is_given_up(team: ClusterMatcha, name: str, pod: dict[str, Any]) -> bool:
    """It is no more, or ended by the cluster."""
    uids = {p["metadata"]["uid"]: p["status"]["phase"] for p in pods(team, name)}
    return uids.get(pod["metadata"]["uid"], "Failed") == "Failed"


@pytest.mark.sweep
@pytest.mark.parametrize("code", [255, 137, 1, 0])
def test_what_ends_by_itself_never_starts_again(team: ClusterMatcha, code: int) -> None:
    """Also with the codes that are told of a machine that was lost."""
    done = team(
        "run",
        *BARE,
        "--",
        "python",
        "-c",
        f"import sys; print('ran'); sys.exit({code})",
        code=code,
        timeout=BACK,
    )
    assert done.stdout == "ran\n"
    [found] = team.json("jobs", "list")[:1]
    assert found["exit_code"] == code
    [_] = pods(team, found["name"])
    conditions = json.dumps(team.objects("jobs", f"--field-selector=metadata.name={found['name']}"))
    assert ("PodFailurePolicy" in conditions) is bool(code)
