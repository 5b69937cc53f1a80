"""The pod of the database server dies while it makes its data folder: the next one makes that anew."""

from __future__ import annotations

import secrets
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.cluster import ClusterMatcha
from support.matcha import until

TRIES, STEP = 30, 0.15  # seconds
ONLY_A_TRACKER = "components:\n  pipeline: null\n  model-deployer: null\n  monitoring: null\n"


@pytest.fixture
def tracker(kubeconfig: Path, tmp_path: Path) -> Iterator[ClusterMatcha]:
    """A stack that is not provisioned yet: MLflow on its database, and nothing that has to be built."""
    namespace = f"matcha-test-{secrets.token_hex(3)}"
    made = ClusterMatcha(tmp_path / "project", tmp_path / "home", kubeconfig, namespace)
    file = made.project / "matcha.yaml"
    file.write_text(file.read_text() + ONLY_A_TRACKER)
    try:
        yield made
    finally:
        made.remove()


def server(stack: ClusterMatcha) -> str:
    """The uid of its pod, once a node has it: a container is seen to run a second after it began."""
    for pod in stack.objects("pods", "--selector=app.kubernetes.io/name=mysql"):
        if "deletionTimestamp" not in pod["metadata"] and "nodeName" in pod["spec"]:
            return str(pod["metadata"]["uid"])
    return ""


def test_a_first_start_that_is_cut_short_is_made_anew(tracker: ClusterMatcha) -> None:
    """Each pod has a little longer than the one before, so that one of them dies in the middle of it."""
    with tracker.popen("provision", "--yes", stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as run:
        try:
            said = ""
            for number in range(TRIES):
                until(lambda: server(tracker), 600, every=0.1)
                time.sleep(STEP * number)
                said = tracker.kubectl("logs", "mysql-0", code=None)
                if "cut short" in said:
                    break
                tracker.kubectl("delete", "pod", "mysql-0", "--grace-period=1", "--wait=true", code=None)
            assert "the first start of this server was cut short" in said
            told = run.communicate(timeout=900)[0]
            assert run.returncode == 0, told
        finally:
            run.kill()
    assert tracker.is_healthy()
    assert tracker.kubectl("exec", "mysql-0", "--", "ls", "/matcha/first-start") == ""
